//! The engine's door to the simulated world.

use crate::double::Double;
use crate::misread;
use crate::network::Lost;
use crate::stores::Touched;
use crate::streams::Purpose;
use crate::workload::poison_of;
use crate::world::{EPOCH_MS, State, World};
use bytes::Bytes;
use rand::Rng;
use rand_chacha::ChaCha8Rng;
use std::future::Future;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tidelock_engine::blob::Condemned;
use tidelock_engine::conflict::{Conflict, ConflictQuery};
use tidelock_engine::coordinator::PROBE_KEY;
use tidelock_engine::env::{
    Clock, Doubt, DoubtKind, Env, Journal, KeyPage, KvEntry, KvStore, Network, Object, ObjectStore,
    Outcome, Peer, PeerMessage, PeerReply, PutIf, Refusal, RefusalKind, RowHistory, RowStore,
    Storage, Unavailable,
};
use tidelock_engine::erasure::{Erase, EraseAnswer};
use tidelock_engine::journal::{Intent, JournalBatch, JournalError, Replay};
use tidelock_engine::record::{KV_CACHED, RecordId, StoreId, Stored};
use tidelock_engine::row::{BatchAnswer, Change, Poll, PollPage, RowAnswer, RowOp, StoreTime};
use tidelock_engine::tree::{Leaf, Sums};
use tidelock_engine::version::{ContentHash, NodeId, SiteId, Version, VersionVector};
use tidelock_faults::{Call, Kind, Moment};

/// One life of one coordinator.
#[derive(Clone)]
pub struct SimEnv {
    world: Arc<World>,
    node: NodeId,
    site: SiteId,
    random: Arc<Mutex<ChaCha8Rng>>,
    /// How far this process's session with D1 is; `None`: it begins at the primary.
    answered: Arc<Mutex<Option<StoreTime>>>,
    r2: SimR2,
}

/// R2 as a coordinator sees it: apart, since KV's methods have the same names.
#[derive(Clone)]
pub struct SimR2 {
    world: Arc<World>,
    node: NodeId,
    site: SiteId,
}

impl SimEnv {
    /// The `life`-th start of a coordinator.
    pub fn new(world: Arc<World>, node: NodeId, life: u64) -> Self {
        let life = if world.is(Double::SameIncarnation) { 0 } else { life };
        let random = world.streams.open(Purpose::Engine, u64::from(node.0) << 32 | life);
        let site = world.scenario.site_of(node);
        let r2 = SimR2 { world: world.clone(), node, site };
        let (random, answered) = (Arc::new(Mutex::new(random)), Arc::default());
        SimEnv { world, node, site, random, answered, r2 }
    }
}

impl Env for SimEnv {
    type Clock = Self;
    type Network = Self;
    type Storage = Self;

    fn clock(&self) -> &Self {
        self
    }

    fn network(&self) -> &Self {
        self
    }

    fn storage(&self) -> &Self {
        self
    }

    fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        madsim::task::spawn(task);
    }

    fn random(&self) -> u64 {
        self.random.lock().expect("drawing does not panic").next_u64()
    }

    fn hash_seed(&self) -> u64 {
        u64::from(self.node.0)
    }
}

impl Clock for SimEnv {
    fn wall(&self) -> Duration {
        let now_ms = EPOCH_MS + self.world.now_ms();
        Duration::from_millis(now_ms.saturating_add_signed(self.world.clock_error_ms(self.node)))
    }

    fn monotonic(&self) -> Duration {
        self.world.now()
    }

    async fn sleep(&self, duration: Duration) {
        self.world.sleep(duration).await;
    }
}

impl Network for SimEnv {
    async fn request(&self, to: NodeId, message: PeerMessage) -> Outcome<PeerReply> {
        match self.world.peer(self.node, to, message).await {
            Ok(reply) => Outcome::Applied(reply),
            Err(lost) => Outcome::Unknown(doubt(lost)),
        }
    }

    fn site(&self) -> SiteId {
        self.site
    }

    fn peers(&self) -> Vec<Peer> {
        self.world.listed(self.node)
    }
}

impl Storage for SimEnv {
    type Kv = Self;
    type D1 = Self;
    type R2 = SimR2;
    type Journal = Self;

    fn kv(&self) -> &Self {
        self
    }

    fn d1(&self) -> &Self {
        self
    }

    fn r2(&self) -> &SimR2 {
        &self.r2
    }

    fn journal(&self) -> &Self {
        self
    }
}

fn doubt(lost: Lost) -> Doubt {
    match lost {
        Lost::Timeout => Doubt::new(DoubtKind::Timeout, "no answer within two seconds"),
        Lost::ServerError => Doubt::new(DoubtKind::ServerError, "503 Service Unavailable"),
        Lost::Overloaded => Doubt::new(DoubtKind::Overloaded, "D1 DB is overloaded"),
        Lost::Connection => Doubt::new(DoubtKind::ConnectionLost, "connection reset by peer"),
    }
}

fn unavailable(lost: Lost) -> Unavailable {
    Unavailable(doubt(lost).detail)
}

fn settle<T>(answer: Result<Outcome<T>, Lost>) -> Outcome<T> {
    answer.unwrap_or_else(|lost| Outcome::Unknown(doubt(lost)))
}

/// A put's deadline, as this world's store side sees it.
fn deadline(world: &World, deadline: StoreTime) -> StoreTime {
    if world.is(Double::DeadlinesIgnored) { StoreTime(u64::MAX) } else { deadline }
}

impl SimEnv {
    async fn kv_write(&self, key: &str, entry: Option<KvEntry>, until: StoreTime) -> Outcome<()> {
        let (key, site) = (key.to_owned(), self.site);
        let answer = self.world.call(
            self.node,
            StoreId::Kv,
            Call::KvWrite,
            move |world, state| {
                let limited = world.strikes_store(state, site, Kind::KvRateLimit);
                let until = deadline(world, until);
                let now = world.store_time();
                let checked = state.at(site).kv.check(now, &key, entry.as_ref(), until, limited);
                note_refusal(state, &checked, Kind::KvRateLimit);
                let value = entry.as_ref().map(|entry| &entry.value[..]);
                let checked = checked
                    .and_then(|()| refuse_poison(world, state, site, StoreId::Kv, &key, value));
                checked.map(|()| (key, entry)).map_err(Outcome::Refused)
            },
            move |world, state, (key, mut entry)| {
                if world.is(Double::KvDamagesBytes)
                    && let Some(entry) = &mut entry
                {
                    entry.value =
                        Bytes::from(entry.value.iter().rev().copied().collect::<Vec<_>>());
                }
                if !world.is(Double::KvDropsPuts) {
                    let stands = entry.as_ref().map(|e| (&e.value, e.metadata.as_deref()));
                    world.copy_changed(state, site, StoreId::Kv, &key, stands);
                    state.at(site).kv.land(world.store_time(), key, entry);
                }
                Outcome::Applied(())
            },
        );
        settle(answer.await)
    }
}

impl SimEnv {
    /// D1 has answered with what it held then: this process's session with it is as far.
    fn was_answered(&self, as_of: StoreTime) {
        let mut answered = self.answered.lock().expect("no code panics while it holds this");
        *answered = (*answered).max(Some(as_of));
    }

    /// Tells the checker which of this coordinator's own writes go out (rule V2).
    fn note_leaving(&self, ops: &[RowOp]) {
        let now_ms = self.world.now_ms();
        let mut state = self.world.state();
        for op in ops {
            if let RowOp::Install(install) = op
                && let dot = install.version.current().dot
                && dot.actor.node == self.node
            {
                state.checker.leaves(now_ms, &install.record, dot);
            }
        }
    }
}

/// Refuses what this store will never take.
fn refuse_poison(
    world: &World,
    state: &mut State,
    site: SiteId,
    store: StoreId,
    key: &str,
    value: Option<&[u8]>,
) -> Result<(), Refusal> {
    let poison = poison_of(store).as_bytes();
    match value {
        Some(value) if world.has(Kind::LoadPoisonRecord) && value.starts_with(poison) => {
            state.felt(Kind::LoadPoisonRecord);
            match world.record_of(key) {
                Some(record) => {
                    state.checker.refused_for_good(world.now_ms(), site, store, &record, value)
                }
                // The authority's own bytes of a large value: it cannot have that version.
                None => state.checker.refused_by_the_authority(value),
            }
            Err(Refusal::new(RefusalKind::Constraint, "this store does not take such a value"))
        }
        _ => Ok(()),
    }
}

/// Refuses a batch that installs what D1 does not take, or not now.
fn refuse_install(
    world: &World,
    state: &mut State,
    site: SiteId,
    ops: &[RowOp],
) -> Result<(), Refusal> {
    if !world.has(Kind::LoadPoisonRecord) && !world.has(Kind::D1Constraint) {
        return Ok(());
    }
    for op in ops {
        let RowOp::Install(install) = op else { continue };
        if let Stored::Inline(value) = &install.value
            && value.starts_with(poison_of(StoreId::D1).as_bytes())
        {
            state.felt(Kind::LoadPoisonRecord);
            state.checker.refused_by_the_authority(value);
            state.checker.refused_to_show(install.version.current().dot);
            return Err(Refusal::new(RefusalKind::Constraint, "CHECK constraint failed: value"));
        }
        if world.strikes(state, site, Kind::D1Constraint).is_some() {
            state.checker.refused_to_show(install.version.current().dot);
            return Err(Refusal::new(RefusalKind::Constraint, "UNIQUE constraint failed"));
        }
    }
    Ok(())
}

fn note_refusal(state: &mut State, checked: &Result<(), Refusal>, rate_limit: Kind) {
    match checked {
        Err(refusal) if refusal.kind == RefusalKind::RateLimited => state.felt(rate_limit),
        Err(refusal) if refusal.kind == RefusalKind::DeadlinePassed => {
            state.sometimes.insert("put-refused-after-its-lease");
        }
        Err(_) | Ok(()) => {}
    }
}

impl KvStore for SimEnv {
    fn echoes_for(&self) -> Duration {
        KV_CACHED
    }

    async fn get(&self, key: &str) -> Result<Option<KvEntry>, Unavailable> {
        let _probe = self.world.probe(self.node, StoreId::Kv, key);
        if key == PROBE_KEY && self.world.is(Double::ProbesUnanswered) {
            self.world.sleep(Duration::from_millis(10)).await;
            return Err(unavailable(Lost::ServerError));
        }
        let (key, node, site) = (key.to_owned(), self.node, self.site);
        let answer = self.world.call(
            node,
            StoreId::Kv,
            Call::KvGet,
            |_, _| Ok(()),
            move |world, state, ()| {
                let cached = world.strikes_store(state, site, Kind::KvStaleRead);
                let (entry, stale) = state.at(site).kv.get(world.store_time(), node, &key, cached);
                if stale {
                    state.felt(Kind::KvStaleRead);
                }
                if entry.is_some() && world.strikes(state, site, Kind::KvMissingValue).is_some() {
                    return Ok(None);
                }
                Ok(entry)
            },
        );
        answer.await.unwrap_or_else(|lost| Err(unavailable(lost)))
    }

    async fn put(&self, key: &str, entry: KvEntry, deadline: StoreTime) -> Outcome<()> {
        self.kv_write(key, Some(entry), deadline).await
    }

    async fn delete(&self, key: &str, deadline: StoreTime) -> Outcome<()> {
        self.kv_write(key, None, deadline).await
    }

    async fn list(
        &self,
        prefix: &str,
        from: Option<&str>,
        limit: usize,
    ) -> Result<KeyPage, Unavailable> {
        let (prefix, from, site) = (prefix.to_owned(), from.map(str::to_owned), self.site);
        let answer = self.world.call(
            self.node,
            StoreId::Kv,
            Call::KvGet,
            |_, _| Ok(()),
            move |world, state, ()| {
                Ok(misread::list_kv(world, state, site, &prefix, from.as_deref(), limit))
            },
        );
        answer.await.unwrap_or_else(|lost| Err(unavailable(lost)))
    }
}

impl RowStore for SimEnv {
    async fn batch(&self, ops: Arc<[RowOp]>) -> Outcome<BatchAnswer> {
        self.note_leaving(&ops);
        let site = self.site;
        let outcome = self.d1_write(move |world, state| land_batch(world, state, site, ops)).await;
        if let Outcome::Applied(answer) = &outcome {
            self.was_answered(answer.now);
        }
        outcome
    }

    async fn unreferred(&self, blobs: Vec<ContentHash>) -> Result<Vec<ContentHash>, Unavailable> {
        self.d1_read(move |d1| d1.unreferred(&blobs)).await
    }

    async fn condemn(&self, blobs: Vec<ContentHash>) -> Outcome<Vec<Option<Condemned>>> {
        let site = self.site;
        self.d1_write(move |world, state| {
            Outcome::Applied(state.at(site).d1.condemn(world.store_time(), &blobs))
        })
        .await
    }

    async fn erase(&self, erase: Erase) -> Outcome<EraseAnswer> {
        let site = self.site;
        self.d1_write(move |world, state| {
            let d1 = &mut state.at(site).d1;
            if world.is(Double::D1KeepsErased) {
                return Outcome::Applied(d1.clone().erase(world.store_time(), &erase));
            }
            Outcome::Applied(d1.erase(world.store_time(), &erase))
        })
        .await
    }

    async fn poll(&self, poll: Poll) -> Result<PollPage, Unavailable> {
        let site = self.site;
        let answered = *self.answered.lock().expect("no code panics while it holds this");
        let answer = self.world.call(
            self.node,
            StoreId::D1,
            Call::D1Poll,
            |_, _| Ok(()),
            move |world, state, ()| {
                let (as_of, mut page) = misread::poll_d1(world, state, site, answered, poll);
                if world.is(Double::D1ClockStands) {
                    page.now = StoreTime(EPOCH_MS);
                }
                Ok((as_of, page))
            },
        );
        let (as_of, page) = answer.await.unwrap_or_else(|lost| Err(unavailable(lost)))?;
        self.was_answered(as_of);
        Ok(page)
    }

    async fn histories(&self, records: Vec<RecordId>) -> Result<Vec<RowHistory>, Unavailable> {
        let histories = move |d1: &mut crate::stores::D1| {
            records.iter().map(|record| d1.history(record)).collect()
        };
        self.d1_read(histories).await
    }

    async fn conflicts(&self, query: ConflictQuery) -> Result<Vec<Conflict>, Unavailable> {
        self.d1_read(move |d1| d1.conflicts(&query)).await
    }

    async fn leaves(
        &self,
        dataset: &str,
        after: Option<Leaf>,
        limit: usize,
    ) -> Result<Vec<(Leaf, Sums)>, Unavailable> {
        let dataset = dataset.to_owned();
        self.d1_read(move |d1| d1.leaves(&dataset, after, limit)).await
    }

    async fn leaf_rows(
        &self,
        dataset: &str,
        leaf: Leaf,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Vec<Change>, Unavailable> {
        let (dataset, after) = (dataset.to_owned(), after.map(str::to_owned));
        self.d1_read(move |d1| d1.leaf_rows(&dataset, leaf, after.as_deref(), limit)).await
    }
}

impl SimEnv {
    /// A transaction at D1's primary.
    async fn d1_write<T: Send + 'static>(
        &self,
        land: impl FnOnce(&World, &mut State) -> Outcome<T> + Send + 'static,
    ) -> Outcome<T> {
        let answer = self.world.call(
            self.node,
            StoreId::D1,
            Call::D1Batch,
            |_, _| Ok(()),
            move |world, state, ()| land(world, state),
        );
        settle(answer.await)
    }

    /// A read from D1's primary.
    async fn d1_read<T: Send + 'static>(
        &self,
        read: impl FnOnce(&mut crate::stores::D1) -> T + Send + 'static,
    ) -> Result<T, Unavailable> {
        let site = self.site;
        let answer = self.world.call(
            self.node,
            StoreId::D1,
            Call::D1Read,
            |_, _| Ok(()),
            move |_, state, ()| Ok(read(&mut state.at(site).d1)),
        );
        answer.await.unwrap_or_else(|lost| Err(unavailable(lost)))
    }
}

fn land_batch(
    world: &World,
    state: &mut State,
    site: SiteId,
    mut ops: Arc<[RowOp]>,
) -> Outcome<BatchAnswer> {
    if world.double.is_some() {
        spoil_ops(world, state, site, Arc::make_mut(&mut ops));
    }
    if let Err(refusal) = refuse_install(world, state, site, &ops) {
        return Outcome::Refused(refusal);
    }
    let (mut outcome, changed) = state.at(site).d1.batch(world.store_time(), &ops);
    if world.double.is_some() {
        spoil_rows(world, state, site, &changed, &mut outcome);
    }
    for (record, removed) in changed {
        match removed {
            Some(row) => world.row_reaped(state, site, &record, &row),
            None => world.row_changed(state, site, &record),
        }
    }
    if let Outcome::Applied(answer) = &outcome {
        for (op, answer) in ops.iter().zip(&answer.answers) {
            match (op, answer) {
                (RowOp::Install(_), RowAnswer::Moved(_)) => {
                    state.sometimes.insert("install-found-the-row-moved");
                }
                (RowOp::Install(install), RowAnswer::Installed { .. })
                    if !install.losers.is_empty() =>
                {
                    state.sometimes.insert("install-kept-a-loser");
                }
                (RowOp::Install(install), RowAnswer::Installed { .. })
                    if matches!(install.value, Stored::Reference { .. }) =>
                {
                    state.sometimes.insert("row-refers-to-a-blob");
                }
                (RowOp::Install(_), RowAnswer::NoBlob { .. }) => {
                    state.sometimes.insert("install-met-a-condemned-blob");
                }
                (RowOp::Clear { .. }, RowAnswer::NotAlone { .. }) => {
                    state.sometimes.insert("clear-was-not-alone");
                }
                (RowOp::Claim { renew: None, .. }, RowAnswer::Claimed { .. }) => {
                    state.sometimes.insert("mark-taken-over");
                }
                (RowOp::Claim { .. }, RowAnswer::Held { .. }) => {
                    state.sometimes.insert("claim-found-a-holder");
                }
                _ => {}
            }
        }
    }
    if world.is(Double::D1ClockStands)
        && let Outcome::Applied(answer) = &mut outcome
    {
        answer.now = StoreTime(EPOCH_MS);
    }
    if world.is(Double::D1RefusesAndApplies)
        && let Outcome::Applied(answer) = &mut outcome
    {
        for (op, answer) in ops.iter().zip(&mut answer.answers) {
            if let (RowOp::Install(install), RowAnswer::Installed { .. }) = (op, &answer)
                && install.expect.row_seq > 0
            {
                *answer = RowAnswer::Moved(None);
            }
        }
    }
    outcome
}

/// What a wrong D1 makes of its operations.
fn spoil_ops(world: &World, state: &mut State, site: SiteId, ops: &mut [RowOp]) {
    for op in ops {
        let record = op.record().clone();
        match op {
            RowOp::Install(install) => {
                let row = state.at(site).d1.rows().get(&record);
                if world.is(Double::D1InstallsBlindly) {
                    install.expect = row.map(|row| row.expect()).unwrap_or_default();
                    if let Some(row) = state.at(site).d1.rows_mut().get_mut(&record) {
                        row.version = None;
                        install.expect = row.expect();
                    }
                } else if world.is(Double::D1IgnoresRowSeq)
                    && let Some(row) = row
                {
                    install.expect.row_seq = row.row_seq;
                }
                if world.is(Double::D1ForgetsOlderLeases)
                    && let Some(row) = state.at(site).d1.rows_mut().get_mut(&record)
                {
                    row.owed.values_mut().for_each(Vec::clear);
                }
                if world.is(Double::D1MarksNothing) {
                    install.owe.clear();
                }
                if world.is(Double::D1KeepsNoWrites) {
                    install.writes.clear();
                }
                if world.is(Double::D1DropsSiblings) {
                    install.version = install.version.collapsed();
                }
            }
            RowOp::Clear { store, epoch, .. } if world.is(Double::D1ClearsAlways) => {
                let (store, epoch) = (*store, *epoch);
                if let Some(row) = state.at(site).d1.rows_mut().get_mut(&record)
                    && let Some(leases) = row.owed.get_mut(&store)
                {
                    leases.retain(|l| l.epoch == epoch);
                }
            }
            _ => {}
        }
    }
}

/// What a wrong D1 makes of its rows.
fn spoil_rows(
    world: &World,
    state: &mut State,
    site: SiteId,
    changed: &[Touched],
    outcome: &mut Outcome<BatchAnswer>,
) {
    for (record, _) in changed {
        if world.is(Double::D1DropsLosers) {
            state.at(site).d1.losers_mut().remove(record);
        }
        if world.is(Double::D1ForgetsHistory)
            && let Some(row) = state.at(site).d1.rows_mut().get_mut(record)
            && let Some(version) = &mut row.version
        {
            *version = Version::write(&VersionVector::new(), *version.current());
        }
    }
    if world.is(Double::D1ClearsAlways)
        && let Outcome::Applied(answer) = outcome
    {
        for answer in &mut answer.answers {
            if let RowAnswer::Installed { grant, .. } | RowAnswer::Claimed { grant, .. } = answer {
                grant.others_until.clear();
            }
        }
    }
}

/// What a wrong journal makes of an intent: another write, over the same one.
fn renamed(mut intent: Intent) -> Intent {
    let mut sibling = *intent.version.current();
    sibling.dot.actor.incarnation ^= 1;
    intent.version = Version::write(&intent.version.history, sibling);
    intent
}

impl Journal for SimEnv {
    async fn replay(&self) -> Result<Replay, JournalError> {
        self.world.crash_point(self.node, Call::JournalReplay, Moment::Before).await;
        let replay = self.world.state().disks[usize::from(self.node.0)].replay()?;
        self.world.crash_point(self.node, Call::JournalReplay, Moment::After).await;
        if !replay.intents.is_empty() {
            self.world.state().sometimes.insert("replay-found-intents");
        }
        if self.world.is(Double::ReplayRenames) {
            let renamed = replay.intents.into_iter().map(renamed);
            return Ok(Replay { intents: renamed.collect(), ..replay });
        }
        Ok(replay)
    }

    async fn commit(&self, batch: JournalBatch) -> Result<(), JournalError> {
        self.world.commit(self.node, batch).await
    }
}

impl ObjectStore for SimR2 {
    async fn get(&self, key: &str) -> Result<Option<Object>, Unavailable> {
        let _probe = self.world.probe(self.node, StoreId::R2, key);
        let (key, site) = (key.to_owned(), self.site);
        let answer = self.world.call(
            self.node,
            StoreId::R2,
            Call::R2Get,
            |_, _| Ok(()),
            move |world, state, ()| misread::get_r2(world, state, site, &key),
        );
        answer.await.unwrap_or_else(|lost| Err(unavailable(lost)))
    }

    async fn put(
        &self,
        key: &str,
        body: Bytes,
        metadata: Option<String>,
        condition: PutIf,
        until: Option<StoreTime>,
    ) -> Outcome<String> {
        let (key, site) = (key.to_owned(), self.site);
        let answer = self.world.call(
            self.node,
            StoreId::R2,
            Call::R2Write,
            move |world, state| {
                if condition == PutIf::Absent
                    && world.strikes_store(state, site, Kind::R2Precondition)
                    && state.at(site).r2.get(&key).is_none()
                {
                    state.felt(Kind::R2Precondition);
                    let detail = "412 precondition failed (10031)";
                    return Err(Outcome::Refused(Refusal::new(RefusalKind::Precondition, detail)));
                }
                let limited = world.strikes_store(state, site, Kind::R2RateLimit);
                let until = until.map(|until| deadline(world, until));
                let now = world.store_time();
                let metadata_text = metadata.as_deref();
                let checked =
                    state.at(site).r2.check(now, &key, metadata_text, &condition, until, limited);
                note_refusal(state, &checked, Kind::R2RateLimit);
                let checked = checked.and_then(|()| {
                    refuse_poison(world, state, site, StoreId::R2, &key, Some(&body))
                });
                checked.map(|()| (key, condition, body, metadata)).map_err(Outcome::Refused)
            },
            move |world, state, (key, condition, body, metadata)| {
                // The condition holds where the put lands, not only where it was accepted.
                if condition == PutIf::Absent && state.at(site).r2.get(&key).is_some() {
                    let detail = "412 precondition failed (10031)";
                    return Outcome::Refused(Refusal::new(RefusalKind::Precondition, detail));
                }
                if world.is(Double::R2DropsBlobs) && key.starts_with("_tidelock/") {
                    return Outcome::Applied("dropped".to_owned());
                }
                let stands = Some((&body, metadata.as_deref()));
                world.copy_changed(state, site, StoreId::R2, &key, stands);
                Outcome::Applied(state.at(site).r2.land(world.store_time(), key, body, metadata))
            },
        );
        settle(answer.await)
    }

    async fn delete(&self, key: &str, until: StoreTime) -> Outcome<()> {
        let (key, site) = (key.to_owned(), self.site);
        let answer = self.world.call(
            self.node,
            StoreId::R2,
            Call::R2Write,
            move |world, state| {
                let limited = world.strikes_store(state, site, Kind::R2RateLimit);
                let until = Some(deadline(world, until));
                let now = world.store_time();
                let checked =
                    state.at(site).r2.check(now, &key, None, &PutIf::Always, until, limited);
                note_refusal(state, &checked, Kind::R2RateLimit);
                checked.map(|()| key).map_err(Outcome::Refused)
            },
            move |world, state, key| {
                world.copy_changed(state, site, StoreId::R2, &key, None);
                state.at(site).r2.delete(world.store_time(), key);
                Outcome::Applied(())
            },
        );
        settle(answer.await)
    }

    async fn list(
        &self,
        prefix: &str,
        from: Option<&str>,
        limit: usize,
    ) -> Result<KeyPage, Unavailable> {
        let (prefix, from, site) = (prefix.to_owned(), from.map(str::to_owned), self.site);
        let answer = self.world.call(
            self.node,
            StoreId::R2,
            Call::R2Get,
            |_, _| Ok(()),
            move |_, state, ()| Ok(state.at(site).r2.list(&prefix, from.as_deref(), limit)),
        );
        answer.await.unwrap_or_else(|lost| Err(unavailable(lost)))
    }
}
