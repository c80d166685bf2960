//! One run: a scenario from its first operation to the verdict.
//!
//! ```text
//! sessions ──────────────────┐
//! faults  ────────────┐      │
//! 0 s                 healed │ ── recovery ── quiescence ── verdict
//! ```
//!
//! Invariant: a run is decided by its scenario. Nothing of a former run on the same thread, and
//! nothing of the process, reaches it.

use crate::checker::{Awaited, Fate, Invariant, Told, Violation, counted};
use crate::disk::Landing;
use crate::double::Double;
use crate::env::SimEnv;
use crate::scenario::{Profile, Scenario};
use crate::trace::Event;
use crate::workload::{self, Act, Operation};
use crate::world::{Felt, State, Stores, World};
use bytes::Bytes;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;
use tidelock_engine::blob;
use tidelock_engine::coordinator::{
    Condition, Coordinator, Counters, Lifetime, Read, Receipt, Session, Write, WriteOutcome,
};
use tidelock_engine::journal::JournalError;
use tidelock_engine::policy::{Pace, ReadLevel};
use tidelock_engine::record::{RecordId, StoreId, Stored};
use tidelock_engine::version::{ContentHash, Dot, NodeId, SiteId, VersionVector};
use tidelock_faults::{End, Kind, Place};

/// Between two looks for blobs that nothing refers to; a run is short.
const BLOBS_EVERY: Duration = Duration::from_secs(10);
/// They are left for so long.
const BLOBS_REST: Duration = Duration::from_secs(5);
/// Recovery must be over within this.
pub const RECOVERY_MS_MAX: u64 = 5_000;
/// A run that has not recovered by then never does.
const RECOVERY_GIVEN_UP_MS: u64 = 20_000;
/// After recovery the run goes on so long, to see that it stays recovered.
const QUIET_MS: u64 = 6_000;
/// After the last expiry the run goes on so long, to see that everything of it is gone.
const EXPIRED_WITHIN_MS: u64 = 6_000;
/// Tries of a session at other coordinators after a refusal.
const TRIES: u16 = 3;
/// Copies that one look over what is recent reads: less than there are, so that it takes several.
const RECENT_VALUES: usize = 24;
/// Operations of the run itself have ids from here on.
const FRESH_ID: u32 = 1_000_000;

/// What a run showed.
#[derive(Clone, Debug, Default)]
pub struct Outcome {
    /// What was broken, in order.
    pub violations: Vec<Violation>,
    /// How often each invariant was held against something.
    pub checked: BTreeMap<Invariant, u64>,
    /// Of every event.
    pub trace_hash: String,
    /// The events, if they were asked for.
    pub events: Vec<Event>,
    /// How many there were.
    pub event_count: u64,
    /// Virtual length.
    pub virtual_ms: u64,
    /// When the last fault ended.
    pub healed_ms: Option<u64>,
    /// From then to recovery.
    pub recovery_ms: Option<u64>,
    /// What that waited for.
    pub recovery_waited_for: Option<Awaited>,
    /// Writes that sessions asked for.
    pub attempted: u64,
    /// Told that they will not be lost.
    pub acknowledged: u64,
    /// Told that they did not happen.
    pub refused: u64,
    /// Told that nobody knows.
    pub unknown: u64,
    /// Acknowledged, and nowhere.
    pub lost: u64,
    /// Acknowledged without a promise to survive a disk's loss, and lost with a disk.
    pub excused: u64,
    /// Values kept as losers.
    pub conflicts: u64,
    /// Messages that arrived.
    pub delivered: u64,
    /// By kind.
    pub faults: BTreeMap<Kind, Felt>,
    /// Situations that were reached.
    pub sometimes: BTreeSet<&'static str>,
    /// Each write's fate, for the failure page.
    pub fates: Vec<WriteFate>,
}

/// What became of one write.
#[derive(Clone, Debug)]
pub struct WriteFate {
    /// Its operation.
    pub id: u32,
    /// When it was asked for.
    pub at_ms: u64,
    /// By whom.
    pub session: u16,
    /// Of what.
    pub record: RecordId,
    /// What its session was told.
    pub told: Told,
    /// Where it is, if it was acknowledged.
    pub fate: Option<Fate>,
}

/// Runs a scenario on this thread. `keep` asks for the events and fates as well.
pub fn run(scenario: &Scenario, double: Option<Double>, keep: bool) -> Outcome {
    let config = madsim::Config::default();
    let runtime = madsim::runtime::Runtime::with_seed_and_config(scenario.seed, config);
    let scenario = scenario.clone();
    runtime.block_on(async move {
        let world = World::new(scenario, double, keep);
        let mut outcome = drive(&world, keep).await;
        if scenario_replays(&world, &outcome) {
            replay_again(&world, &mut outcome).await;
        }
        take_apart(&world).await;
        outcome
    })
}

/// Every fourth run that broke nothing ends with one more start of a coordinator.
fn scenario_replays(world: &World, outcome: &Outcome) -> bool {
    outcome.violations.is_empty() && world.scenario.seed.is_multiple_of(4)
}

/// A coordinator starts once more, from a journal that holds a part of all that it ever held, up to
/// the end: at the authority that must change nothing.
async fn replay_again(world: &Arc<World>, outcome: &mut Outcome) {
    let nodes = u64::from(world.scenario.nodes);
    let number = (world.scenario.seed / 4 % nodes) as u16;
    let node = NodeId(number);
    if world.is_gone(node) {
        return;
    }
    let held = |world: &World| {
        let state = world.state();
        let rows = state.sites.iter().enumerate().flat_map(|(site, stores)| {
            stores.d1.rows().iter().map(move |(record, row)| {
                let held = (row.version.clone(), row.value.clone(), row.row_seq);
                ((site, record.clone()), held)
            })
        });
        rows.collect::<BTreeMap<_, _>>()
    };
    let before = held(world);
    world.crash(node, Duration::from_millis(50), Landing::Whole);
    let replayed = world.resurrect_intents(node);
    let give_up_ms = world.now_ms() + RECOVERY_GIVEN_UP_MS;
    loop {
        madsim::time::sleep(Duration::from_millis(250)).await;
        let state = world.state();
        let coordinator = state.processes[usize::from(number)].coordinator.clone();
        drop(state);
        let status = coordinator.map(|coordinator| coordinator.status());
        let done = status.is_some_and(|status| status.ledger_complete && status.intents == 0);
        if done || world.now_ms() > give_up_ms {
            break;
        }
    }
    // Whatever was sent has landed.
    madsim::time::sleep(Duration::from_millis(500)).await;
    let after = held(world);
    let mut records = before.keys().chain(after.keys());
    let changed = records.find(|record| match (before.get(record), after.get(record)) {
        // Coordinators reap meanwhile.
        (Some((Some(version), ..)), None) => !version.current().deleted,
        (before, after) => before != after,
    });
    let now_ms = world.now_ms();
    let mut state = world.state();
    match changed {
        None => state.checker.passed(Invariant::IdempotentReplay),
        Some((_, record)) => {
            let message = format!(
                "coordinator {number} replayed {replayed} intents that were settled, and the \
                 authority's {record} changed"
            );
            state.checker.report(Invariant::IdempotentReplay, now_ms, message);
        }
    }
    outcome.violations = state.checker.violations().to_vec();
    outcome.checked = state.checker.checked();
}

/// A stopped coordinator's tasks hold it, and it holds what wakes them: they end only if told to.
async fn take_apart(world: &Arc<World>) {
    let running: Vec<_> = {
        let mut state = world.state();
        let mut all = std::mem::take(&mut state.former);
        all.extend(state.processes.iter_mut().filter_map(|process| process.coordinator.take()));
        all
    };
    for coordinator in &running {
        coordinator.stop();
    }
    drop(running);
    // Requests under way hold the world, and the world's clock holds them: they land first.
    madsim::time::sleep(Duration::from_secs(10)).await;
    world.end();
}

/// Starts a coordinator, and again whenever its journal fails.
pub async fn process(world: Arc<World>, node: NodeId) {
    loop {
        let life = {
            let mut state = world.state();
            let process = &mut state.processes[usize::from(node.0)];
            process.lives += 1;
            process.lives
        };
        let env = SimEnv::new(world.clone(), node, life);
        let lane_width = if world.scenario.profile == Profile::Scale { 16 } else { 3 };
        let mut pace = Pace {
            lane_width,
            blobs_every: BLOBS_EVERY,
            blobs_rest: BLOBS_REST,
            ..Pace::default()
        };
        let bounded = world.scenario.intents_max.filter(|_| !world.is(Double::QueuesUnbounded));
        pace.intents_max = bounded.unwrap_or(pace.intents_max);
        pace.recent_values = RECENT_VALUES;
        pace.feed_page = world.scenario.feed_page.unwrap_or(pace.feed_page);
        let policy = crate::reload::policy_of(&world, node);
        let coordinator = match Coordinator::start(env, node, policy, pace).await {
            Ok(coordinator) => coordinator,
            Err(error) => {
                assert!(matches!(error, JournalError::Damaged(_)), "{error}: no fault does that");
                world.move_journal_away(node).await;
                continue;
            }
        };
        world.state().processes[usize::from(node.0)].coordinator = Some(coordinator.clone());
        // The configuration may have changed during the replay.
        crate::reload::tell(&world, node);
        crate::operator::tell_all(&world, node).await;
        let Some(failure) = coordinator.failed().await else { return };
        let mut state = world.state();
        world
            .note(&mut state, End::Node(node.0), "journal-failed", None, 0, || failure.to_string());
        state.processes[usize::from(node.0)].coordinator = None;
        state.breakers.ended(node);
        state.former.push(coordinator);
    }
}

async fn drive(world: &Arc<World>, keep: bool) -> Outcome {
    let there = |node: &NodeId| !world.state().members.is_away(*node);
    for node in (0..world.scenario.nodes).map(NodeId).filter(there) {
        world.create_process(node, move |world| process(world, node));
    }
    crate::damage::begin(world);
    crate::lives::begin(world);
    crate::members::begin(world);
    crate::load::begin(world);
    world.begin_disk_faults();
    crate::reload::begin(world);
    crate::operator::begin(world);
    let sessions: Vec<_> = (0..world.scenario.sessions)
        .map(|session| madsim::task::spawn(session_loop(world.clone(), session)))
        .collect();
    let stopwatch = {
        let world = world.clone();
        madsim::task::spawn(async move { recover(&world).await })
    };
    for session in sessions {
        session.await.expect("sessions do not panic");
    }
    let recovery = stopwatch.await.expect("the stopwatch does not panic");
    let left = world.scenario.length_ms.saturating_sub(world.now_ms());
    madsim::time::sleep(Duration::from_millis(QUIET_MS.max(left))).await;
    // What was given a time is gone by the end.
    let last_ms = world.state().checker.last_expiry_ms() + EXPIRED_WITHIN_MS;
    madsim::time::sleep(Duration::from_millis(last_ms.saturating_sub(world.now_ms()))).await;
    if let Some(recovery) = &recovery {
        let until_ms = recovery.healed_ms + world.scenario.mended_within_ms();
        while is_mending(world) && world.now_ms() < until_ms {
            madsim::time::sleep(Duration::from_millis(500)).await;
        }
    }
    verdict(world, recovery, keep)
}

/// Some copy is damaged, or has a mark because it was, or other sites have not heard of what was
/// taken in from it.
fn is_mending(world: &World) -> bool {
    let state = world.state();
    let letters = dead_letters(&state);
    let owes = |(site, stores): (usize, &Stores)| {
        let site = SiteId(u16::try_from(site).expect("a scenario has few sites"));
        stores.d1.rows().iter().any(|(record, row)| {
            let dead = |store: StoreId| {
                state.checker.is_refused(site, record, store)
                    && letters.contains(&(record.clone(), store))
            };
            let inside = |store: StoreId| !world.scenario.is_outside(End::Store(store));
            row.owed.keys().any(|store| inside(*store) && !dead(*store))
        })
    };
    state.checker.is_damaged()
        || state.checker.is_apart()
        || state.checker.is_in_former_form()
        || state.sites.iter().enumerate().any(owes)
}

/// What some coordinator says is refused for good.
fn dead_letters(state: &State) -> BTreeSet<(RecordId, StoreId)> {
    let coordinators = state.processes.iter().filter_map(|process| process.coordinator.as_ref());
    let letters = coordinators.flat_map(|coordinator| coordinator.dead_letters().0);
    letters.map(|letter| (letter.record, letter.store)).collect()
}

/// What a session remembers from one operation to the next.
#[derive(Default)]
struct Memory {
    /// Of its last read of each record.
    contexts: BTreeMap<RecordId, VersionVector>,
    /// What it gave.
    values: BTreeMap<RecordId, Option<Bytes>>,
    /// What it has seen of all records.
    token: Session,
}

async fn session_loop(world: Arc<World>, session: u16) {
    let mut memory = Memory::default();
    let operations: Vec<Operation> = world
        .scenario
        .operations
        .iter()
        .filter(|operation| operation.session == session)
        .cloned()
        .collect();
    for operation in operations {
        let wait = operation.at_ms.saturating_sub(world.now_ms());
        if wait > 0 {
            madsim::time::sleep(Duration::from_millis(wait)).await;
        }
        perform(&world, &operation, &mut memory).await;
    }
}

async fn perform(world: &Arc<World>, operation: &Operation, memory: &mut Memory) {
    let record = world.record(&operation.dataset, &operation.key);
    let (session, node) = (operation.session, NodeId(operation.node));
    let condition = match operation.act {
        Act::ReadAny | Act::ReadLatest => {
            let level =
                if operation.act == Act::ReadAny { ReadLevel::Any } else { ReadLevel::Latest };
            if let Some(read) = read(world, session, node, &record, level).await
                && let Some(context) = read.context
            {
                memory.contexts.insert(record.clone(), context);
                memory.values.insert(record, read.value);
            }
            return;
        }
        Act::ReadSession => {
            read_in_session(world, session, node, &record, memory).await;
            return;
        }
        Act::Foreign { .. } => {
            let value = operation.value();
            let site = world.scenario.site_of(node);
            let mut state = world.state();
            write_foreign(world, &mut state, operation.id, session, site, record, value);
            return;
        }
        Act::Put { .. } | Act::PutForAWhile { .. } | Act::Delete => Condition::None,
        Act::Add { amount, fresh } => {
            return add(world, operation, &record, amount, fresh, memory).await;
        }
        Act::PutWithContext { .. } => {
            Condition::Context(memory.contexts.get(&record).cloned().unwrap_or_default())
        }
        Act::PutIfUnchanged { .. } => {
            match read(world, session, node, &record, ReadLevel::Latest).await {
                Some(Read { value: Some(_), etag: Some(etag), .. }) => Condition::Match(etag),
                Some(_) => Condition::Absent,
                None => return,
            }
        }
    };
    let value = operation.value().map(|value| poisoned(world, value));
    let lifetime = match operation.act {
        Act::PutForAWhile { ttl_ms, .. } => Lifetime::For(Duration::from_millis(ttl_ms)),
        _ => Lifetime::Usual,
    };
    let told = write(world, operation.id, session, node, &record, value, condition, lifetime).await;
    if let Some(receipt) = told {
        memory.token.wrote(&receipt);
    }
}

/// Adds to a counter what was read of it.
async fn add(
    world: &Arc<World>,
    operation: &Operation,
    record: &RecordId,
    amount: u64,
    fresh: bool,
    memory: &mut Memory,
) {
    let Operation { id, session, node, .. } = *operation;
    if fresh || !memory.contexts.contains_key(record) {
        let read = read(world, session, NodeId(node), record, ReadLevel::Latest).await;
        let Some(Read { value, context: Some(context), .. }) = read else { return };
        memory.contexts.insert(record.clone(), context);
        memory.values.insert(record.clone(), value);
    }
    let stood = memory.values.get(record).cloned().flatten();
    // What somebody wrote past us may be no counter.
    let n = stood.as_deref().map_or(Some(0), counted).unwrap_or_default();
    let value = Some(workload::counter(id, n + amount));
    let condition = Condition::Context(memory.contexts[record].clone());
    world.state().checker.adds(id, amount);
    let lifetime = Lifetime::Usual;
    if let Some(receipt) =
        write(world, id, session, NodeId(node), record, value, condition, lifetime).await
    {
        memory.token.wrote(&receipt);
    }
}

/// A session's value, or one in its place that some store will never take.
fn poisoned(world: &World, value: Bytes) -> Bytes {
    let mut state = world.state();
    let fault = world.faults(Kind::LoadPoisonRecord).find(|fault| world.dice(&mut state, fault));
    match fault.map(|fault| &fault.place) {
        Some(Place::Store(store)) => crate::workload::poison(*store, &value),
        _ => value,
    }
}

/// The operator: once the faults have ended, has every dead letter tried again, for what a store
/// refused then it may take now.
async fn try_dead_letters_again(world: Arc<World>) {
    for wait_ms in [0, 700, 1_300] {
        madsim::time::sleep(Duration::from_millis(wait_ms)).await;
        let processes =
            world.state().processes.iter().filter_map(|p| p.coordinator.clone()).collect();
        let processes: Vec<Arc<Coordinator<SimEnv>>> = processes;
        for coordinator in processes {
            for letter in coordinator.dead_letters().0 {
                // It may have ended by itself meanwhile.
                let _ = coordinator.retry_dead_letter(&letter.id);
            }
        }
    }
}

/// Somebody writes to a site's D1 past every coordinator; without a value, deletes.
pub(crate) fn write_foreign(
    world: &World,
    state: &mut State,
    id: u32,
    session: u16,
    site: SiteId,
    record: RecordId,
    value: Option<Bytes>,
) {
    let now_ms = world.now_ms();
    state.checker.asks(id, now_ms, session, record.clone(), value.as_deref());
    state.checker.wrote_past_us(id, now_ms, site);
    let (here, there) = (End::Session(session), End::Store(StoreId::D1));
    world.note(state, here, "foreign-write", Some(there), id.into(), || {
        format!("w{id}: {} {record}", if value.is_some() { "put" } else { "delete" })
    });
    let value = value.map_or(Stored::Tombstone, Stored::Inline);
    state.at(site).d1.write_foreign(world.store_time(), &record, value);
    world.row_changed(state, site, &record);
}

/// Writes, at other coordinators too if the first refuses; tells the checker what it was told.
#[expect(clippy::too_many_arguments, reason = "who writes what, where and how")]
pub(crate) async fn write(
    world: &Arc<World>,
    id: u32,
    session: u16,
    node: NodeId,
    record: &RecordId,
    value: Option<Bytes>,
    condition: Condition,
    lifetime: Lifetime,
) -> Option<Receipt> {
    let now_ms = world.now_ms();
    {
        let mut state = world.state();
        state.checker.asks(id, now_ms, session, record.clone(), value.as_deref());
        world.note(
            &mut state,
            End::Session(session),
            "asks",
            Some(End::Node(node.0)),
            id.into(),
            || {
                let what = if value.is_some() { "put" } else { "delete" };
                format!("w{id}: {what} {record}")
            },
        );
    }
    let ttl = match lifetime {
        Lifetime::Usual => world.policy().datasets[&record.dataset].ttl,
        Lifetime::Endless => None,
        Lifetime::For(ttl) => Some(ttl),
        Lifetime::Until(_) => unreachable!("no session asks for that"),
    };
    if let Some(ttl) = ttl.filter(|_| value.is_some()) {
        let ttl_ms = u64::try_from(ttl.as_millis()).expect("runs are short");
        world.state().checker.asks_for(id, ttl_ms);
    }
    let mut told = Told::Refused;
    let mut receipt = None;
    for attempt in 0..TRIES {
        let node = NodeId((node.0 + attempt) % world.scenario.nodes);
        let write = Write {
            dataset: record.dataset.to_string(),
            key: record.key.to_string(),
            value: value.clone(),
            condition: condition.clone(),
            lifetime,
        };
        let dataset = record.dataset.clone();
        let asked = world.ask(session, node, move |coordinator| async move {
            // What the write goes by: it takes its policy at once.
            let policy = coordinator.policy();
            let through: Vec<StoreId> = policy.datasets[&dataset].write_through().collect();
            (through, coordinator.write(write).await)
        });
        let (through, outcome) = match asked.await {
            Ok((through, outcome)) => (through, Ok(outcome)),
            Err(sent) => (Vec::new(), Err(sent)),
        };
        told = match outcome {
            Ok(WriteOutcome::Applied(given)) => {
                let given = receipt.insert(given);
                if survives_crashes_alone(&through, &condition, given) {
                    world.state().checker.survives_crashes_alone(given.dot);
                }
                Told::Acknowledged(given.dot)
            }
            Ok(WriteOutcome::Refused(refusal)) if refusal.is_retryable() => Told::Refused,
            Ok(WriteOutcome::Refused(_)) => {
                told = Told::Refused;
                break;
            }
            Ok(WriteOutcome::Unknown(_)) | Err(true) => Told::Unknown,
            Err(false) => Told::Refused,
        };
        if told != Told::Refused {
            break;
        }
        madsim::time::sleep(Duration::from_millis(100)).await;
    }
    let now_ms = world.now_ms();
    let mut state = world.state();
    state.checker.told(id, now_ms, told);
    let (kind, digest) = match told {
        Told::Acknowledged(dot) => ("write-acked", dot.counter),
        Told::Refused => ("write-refused", 0),
        Told::Unknown | Told::Waiting => ("write-unknown", 0),
    };
    world.note(&mut state, End::Session(session), kind, None, digest, || match told {
        Told::Acknowledged(dot) => format!("w{id} of {record} is {dot}"),
        Told::Refused | Told::Unknown | Told::Waiting => format!("w{id} of {record}"),
    });
    receipt
}

/// True when an acknowledgement promised that the write survives crashes, and not the loss of its
/// coordinator's disk: no store had confirmed it.
fn survives_crashes_alone(through: &[StoreId], condition: &Condition, receipt: &Receipt) -> bool {
    let decided = match condition {
        // The authority has answered.
        Condition::Match(_) | Condition::Absent | Condition::Over(_) => true,
        Condition::None | Condition::Context(_) => false,
    };
    !decided && through.iter().all(|store| receipt.pending.contains(store))
}

/// Reads with the session's token, at other coordinators too if the first cannot answer.
async fn read_in_session(
    world: &Arc<World>,
    session: u16,
    node: NodeId,
    record: &RecordId,
    memory: &mut Memory,
) {
    for attempt in 0..TRIES {
        let since_ms = world.now_ms();
        let node = NodeId((node.0 + attempt) % world.scenario.nodes);
        let (dataset, key) = (record.dataset.to_string(), record.key.to_string());
        let forgets = world.is(Double::TokensForgotten);
        let mut token = if forgets { Session::default() } else { memory.token.clone() };
        let asked = world.ask(session, node, move |coordinator| async move {
            let read = coordinator.read_in_session(&dataset, &key, &mut token).await;
            read.map(|read| (read, token))
        });
        let Ok(Ok((read, token))) = asked.await else { continue };
        memory.token = token;
        let now_ms = world.now_ms();
        let mut state = world.state();
        world.note(&mut state, End::Session(session), "session-read", None, now_ms, || {
            record.to_string()
        });
        let context = read.context.unwrap_or_default();
        match &read.value {
            Some(value) => state.checker.served(now_ms, since_ms, record, value),
            None => state.checker.gave_nothing(now_ms, record, &context),
        }
        if read.from.is_some_and(|store| store != StoreId::D1) {
            state.sometimes.insert("a-copy-answered-a-session");
        }
        state.checker.gave(now_ms, record, &context);
        state.checker.saw(now_ms, session, record, &context);
        if attempt > 0 {
            state.sometimes.insert("another-coordinator-answered-a-session");
        }
        return;
    }
}

async fn read(
    world: &Arc<World>,
    session: u16,
    node: NodeId,
    record: &RecordId,
    level: ReadLevel,
) -> Option<Read> {
    let since_ms = world.now_ms();
    let (dataset, key) = (record.dataset.to_string(), record.key.to_string());
    let asked = world.ask(session, node, move |coordinator| async move {
        coordinator.read(&dataset, &key, Some(level)).await
    });
    let mut read = asked.await.ok()?.ok()?;
    let now_ms = world.now_ms();
    let mut state = world.state();
    spoil_read(world, &mut read);
    if let Some(context) = &read.context {
        state.checker.gave(now_ms, record, context);
    }
    world.note(&mut state, End::Session(session), "read", None, now_ms, || record.to_string());
    match (&read.value, &read.context) {
        (Some(value), _) => state.checker.served(now_ms, since_ms, record, value),
        (None, Some(context)) => state.checker.gave_nothing(now_ms, record, context),
        (None, None) => {}
    }
    Some(read)
}

/// What a wrong way from a coordinator to its client makes of a read.
fn spoil_read(world: &World, read: &mut Read) {
    if world.is(Double::ReadsClaimMore)
        && let Some(context) = &mut read.context
    {
        let first = context.iter().next().map(|(actor, counter)| (*actor, *counter));
        if let Some((actor, counter)) = first {
            context.include(Dot { actor, counter: counter + 1_000 });
        }
    }
    if world.is(Double::ReadsDamaged)
        && let Some(value) = &mut read.value
    {
        *value = Bytes::from(value.iter().rev().copied().collect::<Vec<u8>>());
    }
}

/// What the stopwatch showed.
struct Recovered {
    healed_ms: u64,
    /// From then until a fresh write at each coordinator was readable from every other, and every
    /// breaker admitted traffic; `None`: never.
    usable_ms: Option<u64>,
}

/// The stopwatch. It starts when the last fault has ended. What was owed then, and whatever is
/// owed after, is timed by the checker one by one, so that sessions that go on writing neither
/// hide a slow recovery nor look like one.
async fn recover(world: &Arc<World>) -> Option<Recovered> {
    let planned_ms = world.scenario.faults_end_ms();
    madsim::time::sleep(Duration::from_millis(planned_ms)).await;
    let until_ms = planned_ms + 60_000;
    let healed_ms = loop {
        if let Some(healed_ms) = world.healed_ms() {
            break healed_ms;
        }
        if world.now_ms() > until_ms {
            return None;
        }
        madsim::time::sleep(Duration::from_millis(20)).await;
    };
    {
        let mut state = world.state();
        world.note(&mut state, End::Session(0), "healed", None, healed_ms, String::new);
    }
    if world.has(Kind::D1Constraint) || world.has(Kind::LoadPoisonRecord) {
        world.spawn(try_dead_letters_again(world.clone()));
    }
    let give_up_ms = world.now_ms() + RECOVERY_GIVEN_UP_MS;
    let fresh: Vec<_> = (0..world.scenario.nodes)
        .filter(|node| !world.is_gone(NodeId(*node)))
        .map(|node| madsim::task::spawn(fresh_write(world.clone(), NodeId(node), give_up_ms)))
        .collect();
    let mut usable_ms = healed_ms;
    for task in fresh {
        match task.await.expect("it does not panic") {
            Some(at_ms) => usable_ms = usable_ms.max(at_ms),
            None => return Some(Recovered { healed_ms, usable_ms: None }),
        }
    }
    loop {
        let store_is_gone = StoreId::ALL.iter().any(|s| world.scenario.is_outside(End::Store(*s)));
        let admits = {
            let state = world.state();
            state.processes.iter().enumerate().all(|(node, process)| {
                let open = |coordinator: &Arc<Coordinator<SimEnv>>| coordinator.admits_all();
                let node = NodeId(node as u16);
                world.scenario.is_outside(End::Node(node.0))
                    || state.members.is_away(node)
                    || process.coordinator.as_ref().is_some_and(|c| store_is_gone || open(c))
            })
        };
        if admits {
            return Some(Recovered { healed_ms, usable_ms: Some(usable_ms - healed_ms) });
        }
        usable_ms = world.now_ms();
        world.check_probes();
        if world.now_ms() > give_up_ms {
            let message = format!("still open: {}", world.open_breakers().join(", "));
            world.state().checker.report(Invariant::BreakerLive, usable_ms, message);
            return Some(Recovered { healed_ms, usable_ms: None });
        }
        madsim::time::sleep(Duration::from_millis(20)).await;
    }
}

/// A fresh write at one coordinator, read from every other. Gives the time when all had it.
async fn fresh_write(world: Arc<World>, node: NodeId, give_up_ms: u64) -> Option<u64> {
    let record = world.record("notes", &format!("fresh-{}", node.0));
    let session = node.0 % world.scenario.sessions;
    let mut written = false;
    let mut tries = 0;
    while !written {
        if world.now_ms() > give_up_ms {
            return None;
        }
        let id = FRESH_ID + u32::from(node.0) * 1_000 + tries;
        tries += 1;
        let value = Some(crate::workload::value(id, 24));
        let write = Write {
            dataset: record.dataset.to_string(),
            key: record.key.to_string(),
            value: value.clone(),
            condition: Condition::None,
            lifetime: Lifetime::Usual,
        };
        let now_ms = world.now_ms();
        world.state().checker.asks(id, now_ms, session, record.clone(), value.as_deref());
        let asked = world
            .ask(session, node, move |coordinator| async move { coordinator.write(write).await });
        let (told, done) = match asked.await {
            Ok(WriteOutcome::Applied(receipt)) => {
                (Told::Acknowledged(receipt.dot), receipt.pending.is_empty())
            }
            Ok(WriteOutcome::Refused(_)) | Err(false) => (Told::Refused, false),
            Ok(WriteOutcome::Unknown(_)) | Err(true) => (Told::Unknown, false),
        };
        let now_ms = world.now_ms();
        world.state().checker.told(id, now_ms, told);
        written = done;
        if !written {
            madsim::time::sleep(Duration::from_millis(50)).await;
        }
    }
    let inside = |other: &NodeId| !world.is_gone(*other);
    let others = (0..world.scenario.nodes).map(NodeId).filter(|other| *other != node);
    for other in others.filter(inside) {
        loop {
            let found = read(&world, session, other, &record, ReadLevel::Latest).await;
            if found.is_some_and(|read| read.value.is_some()) {
                break;
            }
            if world.now_ms() > give_up_ms {
                return None;
            }
            madsim::time::sleep(Duration::from_millis(50)).await;
        }
    }
    Some(world.now_ms())
}

fn verdict(world: &Arc<World>, recovery: Option<Recovered>, keep: bool) -> Outcome {
    let now_ms = world.now_ms();
    let mut state = world.state();
    let state = &mut *state;
    let healed_ms = recovery.as_ref().map(|recovery| recovery.healed_ms);
    let recovered = recovery.and_then(|recovery| {
        let usable_ms = recovery.usable_ms.filter(|_| state.checker.is_settled())?;
        let longest = state.checker.longest_wait(recovery.healed_ms);
        let slower = longest.filter(|(took_ms, _)| *took_ms > usable_ms);
        Some(slower.map_or((usable_ms, Awaited::Service), |(took_ms, of)| (took_ms, of.clone())))
    });
    let (recovery_ms, recovery_waited_for) = recovered.unzip();
    match recovery_ms {
        Some(took_ms) if took_ms <= RECOVERY_MS_MAX => state.checker.passed(Invariant::Recovery),
        Some(took_ms) => {
            let message = format!("recovery took {took_ms} ms");
            state.checker.report(Invariant::Recovery, now_ms, message);
        }
        None => {
            let message = format!("never recovered; {}", state.checker.unsettled());
            state.checker.report(Invariant::Recovery, now_ms, message);
        }
    }
    for (node, disk) in state.disks.iter().enumerate() {
        let node = NodeId(u16::try_from(node).expect("a run has few coordinators"));
        state.checker.stands_in_a_journal(node, disk.dots());
    }
    state.checker.finish(now_ms);
    for (number, stores) in state.sites.iter().enumerate() {
        let site = SiteId(u16::try_from(number).expect("a scenario has few sites"));
        let (rows, losers) = (stores.d1.rows(), stores.d1.losers());
        let blob = |hash| holds_blob(stores, hash);
        state.checker.finish_site(now_ms, site, rows, losers, blob);
    }
    let mut letters = dead_letters(state);
    if world.is(Double::DeadLettersHidden) {
        letters.clear();
    }
    state.checker.finish_queues(now_ms, &letters);
    let stores = &state.sites[0];
    let mut outcome = Outcome {
        violations: state.checker.violations().to_vec(),
        checked: state.checker.checked(),
        trace_hash: state.trace.hash().to_hex()[..32].to_owned(),
        event_count: state.trace.events(),
        virtual_ms: now_ms,
        healed_ms,
        recovery_ms,
        recovery_waited_for,
        excused: state.checker.excused(),
        conflicts: stores.d1.losers().values().map(|losers| losers.len() as u64).sum(),
        delivered: state.delivered,
        faults: state.faults.clone(),
        sometimes: state.sometimes.clone(),
        ..Outcome::default()
    };
    for process in &state.processes {
        if let Some(coordinator) = &process.coordinator {
            note_counters(&mut outcome.sometimes, &coordinator.status().counters);
        }
    }
    let readable = |value: &Stored, hash: ContentHash| match value {
        Stored::Tombstone => hash == ContentHash::of(&[]),
        Stored::Inline(bytes) => ContentHash::of(bytes) == hash,
        Stored::Reference { hash: referred, .. } => *referred == hash && holds_blob(stores, hash),
    };
    let present = if keep {
        state.checker.present(SiteId(0), stores.d1.rows(), stores.d1.losers(), &readable)
    } else {
        BTreeMap::new()
    };
    for (id, asked) in state.checker.asked() {
        outcome.attempted += 1;
        match asked.told {
            Told::Acknowledged(_) => outcome.acknowledged += 1,
            Told::Refused => outcome.refused += 1,
            Told::Unknown | Told::Waiting => outcome.unknown += 1,
        }
        let fate = match asked.told {
            Told::Acknowledged(dot) if keep => {
                let present = present.get(&asked.record);
                Some(present.map_or(Fate::Lost, |present| present.fate(dot)))
            }
            _ => None,
        };
        if keep {
            outcome.fates.push(WriteFate {
                id: *id,
                at_ms: asked.at_ms,
                session: asked.session,
                record: asked.record.clone(),
                told: asked.told,
                fate,
            });
        }
    }
    outcome.lost =
        outcome.violations.iter().filter(|v| v.invariant == Invariant::ZeroLoss).count() as u64;
    outcome.events = state.trace.take();
    outcome
}

/// True when a site's R2 holds the bytes of a hash under their own name.
fn holds_blob(stores: &Stores, hash: ContentHash) -> bool {
    let object = stores.r2.get(&blob::key(hash));
    object.is_some_and(|object| ContentHash::of(&object.body) == hash)
}

fn note_counters(sometimes: &mut BTreeSet<&'static str>, counters: &Counters) {
    let reached = [
        (counters.breaker_opened, "breaker-opened"),
        (counters.puts_unknown, "put-without-an-answer"),
        (counters.writes_cancelled, "condition-failed-at-the-authority"),
        (counters.writes_pending, "acknowledged-as-pending"),
        (counters.rate_limited, "store-said-429"),
        (counters.copies_put_again, "a-copy-was-put-again"),
        (counters.losers_in_letters, "a-dead-letter-kept-a-loser"),
        (counters.read_repairs, "a-read-repaired-a-copy"),
        (counters.copies_damaged, "a-damaged-copy-was-noticed"),
        (counters.foreign_writes, "a-foreign-write-was-taken-in"),
        (counters.tombstones_reaped, "a-tombstone-was-reaped"),
        (counters.blobs_collected, "a-blob-was-collected"),
        (counters.clock_drift_ms_max, "clock-drift-noticed"),
        (counters.expired, "a-value-expired"),
        (counters.recent_passes, "what-is-recent-was-looked-over"),
        (counters.trees_compared, "sites-compared-trees"),
        (counters.site_leaves_read, "leaves-of-another-site-were-read"),
        (counters.missed_by_feeds, "a-look-found-what-a-feed-had-missed"),
    ];
    sometimes.extend(reached.into_iter().filter(|(count, _)| *count > 0).map(|(_, name)| name));
}

/// Which stores a scenario has, for reports.
pub const STORES: [StoreId; 3] = StoreId::ALL;
