//! The checker: its own model of what was promised, held against what the stores show.
//!
//! Invariant: it never asks the engine. It sees what sessions were told, what reached the journal
//! disks, and every change of every store, and compares versions by their entries alone.

use crate::world::EPOCH_MS;
use bytes::Bytes;
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use tidelock_engine::journal::Intent;
use tidelock_engine::record::{Loser, RecordId, StoreId, Stored};
use tidelock_engine::row::Row;
use tidelock_engine::version::{ContentHash, Dot, NodeId, Sibling, SiteId, Version, VersionVector};

/// What must hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Invariant {
    /// See [`Invariant::words`], as for all of them.
    ZeroLoss,
    /// -
    NoPhantom,
    /// -
    Convergence,
    /// -
    UniqueDots,
    /// -
    MonotonicRepair,
    /// -
    Session,
    /// -
    Causality,
    /// -
    NoResurrection,
    /// -
    NoCorruption,
    /// -
    IdempotentReplay,
    /// -
    BoundedQueue,
    /// -
    BreakerLive,
    /// -
    #[serde(rename = "recovery-5s")]
    Recovery,
}

impl Invariant {
    /// All of them.
    pub const ALL: [Invariant; 13] = [
        Invariant::ZeroLoss,
        Invariant::NoPhantom,
        Invariant::Convergence,
        Invariant::UniqueDots,
        Invariant::MonotonicRepair,
        Invariant::Session,
        Invariant::Causality,
        Invariant::NoResurrection,
        Invariant::NoCorruption,
        Invariant::IdempotentReplay,
        Invariant::BoundedQueue,
        Invariant::BreakerLive,
        Invariant::Recovery,
    ];

    /// The name in reports.
    pub const fn name(self) -> &'static str {
        match self {
            Invariant::ZeroLoss => "zero-loss",
            Invariant::NoPhantom => "no-phantom",
            Invariant::Convergence => "convergence",
            Invariant::UniqueDots => "unique-dots",
            Invariant::MonotonicRepair => "monotonic-repair",
            Invariant::Session => "session",
            Invariant::Causality => "causality",
            Invariant::NoResurrection => "no-resurrection",
            Invariant::NoCorruption => "no-corruption",
            Invariant::IdempotentReplay => "idempotent-replay",
            Invariant::BoundedQueue => "bounded-queue",
            Invariant::BreakerLive => "breaker-live",
            Invariant::Recovery => "recovery-5s",
        }
    }

    /// What it says.
    pub const fn words(self) -> &'static str {
        match self {
            Invariant::ZeroLoss => {
                "Each acknowledged write is current, or causally superseded by a present version, \
                 or kept as a loser with its bytes beside the winner."
            }
            Invariant::NoPhantom => {
                "A refused write never appears; an unknown one appears at most once, and stays \
                 decided."
            }
            Invariant::Convergence => {
                "A projection without a mark equals the authority, and at quiescence none has a \
                 mark and all sites are equal."
            }
            Invariant::UniqueDots => "No dot is issued twice.",
            Invariant::MonotonicRepair => "No store's version of a record ever goes back.",
            Invariant::Session => {
                "A session reads its own writes, and nothing older than what it has read before."
            }
            Invariant::Causality => {
                "Concurrent versions are never put in an order without keeping the one that lost, \
                 and no version is shown without all that its writer had seen."
            }
            Invariant::NoResurrection => "What a delete had seen is never current again.",
            Invariant::NoCorruption => {
                "Every byte that is served or stands in a store traces to a write."
            }
            Invariant::IdempotentReplay => {
                "Replaying what a journal once held changes nothing at the authority."
            }
            Invariant::BoundedQueue => {
                "Queues stay within their bounds, refusal comes before acknowledgement, and each \
                 entry ends applied, superseded or dead-lettered."
            }
            Invariant::BreakerLive => {
                "While a breaker is not closed no work passes it, probes follow each other within \
                 one cool-down, one at a time, and it closes once its store answers."
            }
            Invariant::Recovery => {
                "Within five seconds of the last fault's end everything is equal, confirmed and \
                 writable again, and stays so."
            }
        }
    }
}

/// A broken invariant.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Violation {
    /// Which.
    pub invariant: Invariant,
    /// What was seen.
    pub message: String,
    /// When, virtual.
    pub at_ms: u64,
}

/// What a session was told of a write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Told {
    /// Nothing yet.
    Waiting,
    /// It will not be lost.
    Acknowledged(Dot),
    /// It did not happen.
    Refused,
    /// It may have happened.
    Unknown,
}

/// A write that a session asked for.
#[derive(Clone, Debug)]
pub struct Asked {
    /// When.
    pub at_ms: u64,
    /// By whom.
    pub session: u16,
    /// Of what.
    pub record: RecordId,
    /// Of the value; `None`: a delete.
    pub hash: Option<ContentHash>,
    /// What it was told.
    pub told: Told,
}

/// A copy in a projection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Copy {
    body: ContentHash,
    /// What the copy says of itself; `None`: nothing that can be read.
    says: Option<Arc<Says>>,
}

/// A copy's metadata.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Says {
    version: Names,
    hash: ContentHash,
    reference: bool,
}

/// How a copy names its version.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Names {
    History(String),
    /// The history is too large for the store.
    Tag(String),
}

impl Copy {
    /// Bytes that are nobody's version: they equal none.
    pub fn unknown() -> Copy {
        Copy { body: ContentHash::of(b"bytes without metadata"), says: None }
    }

    /// What stands in a store; `None`: bytes without our metadata.
    fn read(body: &[u8], metadata: Option<&str>) -> Option<Copy> {
        let read: Metadata = serde_json::from_str(metadata?).ok()?;
        let version = match (read.history, read.etag) {
            (Some(history), _) => Names::History(history.to_owned()),
            (None, etag) => Names::Tag(etag?.to_owned()),
        };
        let says = Says { version, hash: read.hash.parse().ok()?, reference: read.reference };
        Some(Copy { body: ContentHash::of(body), says: Some(Arc::new(says)) })
    }
}

/// The metadata of a copy, by the checker's own reading.
#[derive(serde::Deserialize)]
struct Metadata<'a> {
    history: Option<&'a str>,
    etag: Option<&'a str>,
    hash: &'a str,
    #[serde(default)]
    reference: bool,
}

/// What an intent said when it became durable.
#[derive(Clone, Debug)]
struct Issued {
    record: RecordId,
    hash: ContentHash,
    history: VersionVector,
}

#[derive(Debug, Default)]
struct Observed {
    history: VersionVector,
    history_text: String,
    version: Option<Version>,
    current: Option<Dot>,
    hash: Option<ContentHash>,
    deleted: bool,
    /// Dots that were current and are no more.
    left: BTreeSet<Dot>,
    /// What the deletes that were current had seen.
    buried: VersionVector,
    /// What tombstones had seen that were reaped.
    reaped: VersionVector,
    /// Whose writes they were.
    graves: Vec<Dot>,
    projections: [Projection; 2],
    /// The last copy that was read, with what it was read from.
    read: Option<(Bytes, String, Copy)>,
}

impl Observed {
    /// Reads what stands in a projection. Both get the same, nearly always.
    fn read(&mut self, body: &Bytes, metadata: Option<&str>) -> Copy {
        if let (Some((bytes, text, copy)), Some(metadata)) = (&self.read, metadata)
            && text == metadata
            && bytes == body
        {
            return copy.clone();
        }
        // Bytes without metadata of ours count as a copy that differs.
        let copy = Copy::read(body, metadata).unwrap_or_else(Copy::unknown);
        self.read = metadata.map(|metadata| (body.clone(), metadata.to_owned(), copy.clone()));
        copy
    }
}

#[derive(Debug, Default)]
struct Projection {
    /// It has a mark.
    owed: bool,
    copy: Option<Copy>,
    /// It differs from the authority, since the version that it lacks was installed, or since the
    /// copy changed.
    unequal_since_ms: Option<u64>,
    /// It differs because somebody changed it behind every coordinator's back: nobody can know
    /// before a look over the store, so no stopwatch runs.
    damaged: Option<Damaged>,
    /// The store has refused the authority's version for good: no clock runs.
    poisoned: bool,
}

/// What was done to a copy behind every coordinator's back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Damage {
    /// It is gone.
    Lost,
    /// Somebody wrote over it; the operation says what.
    Foreign(u32),
}

#[derive(Clone, Debug)]
struct Damaged {
    what: Damage,
    /// The authority's history at that time.
    history: VersionVector,
    /// A put was lawfully on its way, or another damage was being mended.
    unseen: bool,
}

impl Observed {
    /// The authority's version includes a write, or a tombstone did that was reaped.
    fn has_seen(&self, dot: Dot) -> bool {
        covers(&self.history, dot) || covers(&self.reaped, dot)
    }
}

fn is_reaped(rows: &BTreeMap<RecordId, Observed>, record: &RecordId, dot: Dot) -> bool {
    rows.get(record).is_some_and(|row| covers(&row.reaped, dot))
}

const PROJECTIONS: [StoreId; 2] = [StoreId::Kv, StoreId::R2];

fn at(store: StoreId) -> usize {
    match store {
        StoreId::Kv => 0,
        StoreId::R2 => 1,
        StoreId::D1 => unreachable!("the authority is no projection"),
    }
}

/// What is equal and what is not, over all records.
#[derive(Debug, Default)]
struct Tally {
    /// How many projections differ from the authority.
    unequal: usize,
    /// How many differ because they were damaged.
    damaged: usize,
    /// What was unsettled for long: from when to when.
    waits: Vec<(u64, u64)>,
    /// Datasets of which a store keeps references only.
    references: BTreeMap<StoreId, BTreeSet<String>>,
    /// A store that never answers again: nothing is expected of it.
    outside: BTreeSet<StoreId>,
    /// The coordinators are told of other forms meanwhile: until the end both are as good.
    forms_change: bool,
    /// What each has been told since: datasets of which KV keeps references.
    told_forms: BTreeMap<NodeId, BTreeSet<String>>,
}

/// See the module.
#[derive(Debug, Default)]
pub struct Checker {
    asked: BTreeMap<u32, Asked>,
    by_hash: BTreeMap<ContentHash, u32>,
    issued: BTreeMap<Dot, Issued>,
    seen_bytes: BTreeMap<Dot, (RecordId, ContentHash)>,
    /// By site: what its authority holds.
    rows: Vec<BTreeMap<RecordId, Observed>>,
    tally: Tally,
    /// Acknowledged, and not seen in a site's authority yet, since when.
    unconfirmed: BTreeMap<(Dot, SiteId), (RecordId, u64)>,
    /// Records of which sites hold different versions, since when.
    apart: BTreeMap<RecordId, u64>,
    /// Foreign bytes in an authority that no version has taken in yet.
    foreign: BTreeMap<(SiteId, RecordId), u32>,
    /// Foreign writes that were found in a projection and are versions now. They replace nothing
    /// that their writers had not seen: what the authority held is kept beside them.
    found: BTreeSet<Dot>,
    /// For how long writes asked their values to stand.
    lifetimes: BTreeMap<u32, u64>,
    /// When the values of writes that were given a time expire, by the store side's clock.
    expires: BTreeMap<Dot, u64>,
    /// The same by their bytes: the latest, where a write was tried again elsewhere.
    expire_at_last: BTreeMap<ContentHash, u64>,
    /// What each session has written of a record, and read of it as a session.
    seen: BTreeMap<(u16, RecordId), VersionVector>,
    /// Values that the authority has refused for good.
    poison: BTreeSet<ContentHash>,
    /// The operations of foreign writes to projections.
    in_projections: BTreeSet<u32>,
    /// Acknowledged while no store had confirmed them: promised to survive crashes alone.
    local: BTreeSet<Dot>,
    /// Lost with a coordinator's disk, while the authority did not hold them.
    lost_with_disk: BTreeSet<Dot>,
    /// Both, and nowhere at the end.
    excused: BTreeSet<Dot>,
    /// Coordinators that never come back: nobody waits for what they owe.
    outside: BTreeSet<NodeId>,
    /// What stands in journals at the end, and whether it is that of one of those.
    in_journals: BTreeSet<(Dot, bool)>,
    violations: Vec<Violation>,
    checked: [u64; Invariant::ALL.len()],
}

/// A value is gone everywhere so long after its time, once nothing is wrong.
const GONE_WITHIN_MS: u64 = 5_000;
/// A read that began so long after a value's time does not give it: a coordinator knows the store
/// side's clock from an answer that took two seconds at the most.
const SERVED_WITHIN_MS: u64 = 2_250;

/// Violations kept for one run; one is enough to fail it.
const VIOLATIONS_MAX: usize = 10;

impl Checker {
    /// `references`: datasets of which a store keeps references only; with `forms_change`, at the
    /// end.
    pub fn new(
        sites: u16,
        references: BTreeMap<StoreId, BTreeSet<String>>,
        forms_change: bool,
    ) -> Self {
        Checker {
            rows: (0..sites).map(|_| BTreeMap::new()).collect(),
            tally: Tally { references, forms_change, ..Tally::default() },
            ..Checker::default()
        }
    }

    fn sites(&self) -> impl Iterator<Item = SiteId> + use<> {
        (0..u16::try_from(self.rows.len()).expect("a scenario has few sites")).map(SiteId)
    }

    fn row(&self, site: SiteId, record: &RecordId) -> Option<&Observed> {
        self.rows[usize::from(site.0)].get(record)
    }

    fn row_entry(&mut self, site: SiteId, record: &RecordId) -> &mut Observed {
        self.rows[usize::from(site.0)].entry(record.clone()).or_default()
    }

    /// Leaves out what never heals.
    pub fn leave_out(&mut self, nodes: BTreeSet<NodeId>, stores: BTreeSet<StoreId>) {
        self.outside = nodes;
        self.tally.outside = stores;
    }

    /// These stand in a coordinator's journal at the end.
    pub fn stands_in_a_journal(&mut self, node: NodeId, dots: impl Iterator<Item = Dot>) {
        let away = self.outside.contains(&node);
        self.in_journals.extend(dots.map(|dot| (dot, away)));
    }

    /// True for what the journal of a coordinator that never comes back holds as it had promised,
    /// or any holds that the authority refuses for good.
    fn is_kept_in_a_journal(&self, dot: Dot, hash: Option<ContentHash>) -> bool {
        let kept = |away| self.in_journals.contains(&(dot, away));
        kept(true) || (kept(false) && self.is_poison(hash))
    }

    /// Holds a condition.
    fn hold(
        &mut self,
        invariant: Invariant,
        at_ms: u64,
        holds: bool,
        message: impl FnOnce() -> String,
    ) {
        self.checked[invariant as usize] += 1;
        if !holds && self.violations.len() < VIOLATIONS_MAX {
            self.violations.push(Violation { invariant, message: message(), at_ms });
        }
    }

    /// Reports a violation that the run itself found.
    pub fn report(&mut self, invariant: Invariant, at_ms: u64, message: String) {
        self.hold(invariant, at_ms, false, || message);
    }

    /// The run itself checked something, and it held.
    pub fn passed(&mut self, invariant: Invariant) {
        self.checked[invariant as usize] += 1;
    }

    /// What was found so far.
    pub fn violations(&self) -> &[Violation] {
        &self.violations
    }

    /// How often each invariant was held against something.
    pub fn checked(&self) -> BTreeMap<Invariant, u64> {
        let counts = Invariant::ALL.into_iter().zip(self.checked);
        counts.filter(|(_, times)| *times > 0).collect()
    }

    /// The writes that were asked for.
    pub fn asked(&self) -> &BTreeMap<u32, Asked> {
        &self.asked
    }

    /// A session asks for a write.
    pub fn asks(
        &mut self,
        id: u32,
        at_ms: u64,
        session: u16,
        record: RecordId,
        value: Option<&[u8]>,
    ) {
        let hash = value.map(ContentHash::of);
        if let Some(hash) = hash {
            self.by_hash.insert(hash, id);
        }
        self.asked.insert(id, Asked { at_ms, session, record, hash, told: Told::Waiting });
    }

    /// A write that was asked for is to stand for so long.
    pub fn asks_for(&mut self, id: u32, ttl_ms: u64) {
        self.lifetimes.insert(id, ttl_ms);
    }

    /// When the last of the values that were given a time expires, in virtual time.
    pub fn last_expiry_ms(&self) -> u64 {
        self.expires.values().max().map_or(0, |at_ms| at_ms.saturating_sub(EPOCH_MS))
    }

    /// A session is told how its write came out.
    pub fn told(&mut self, id: u32, at_ms: u64, told: Told) {
        let Some(asked) = self.asked.get_mut(&id) else { return };
        asked.told = told;
        let asked = asked.clone();
        match told {
            Told::Acknowledged(dot) => {
                self.seen.entry((asked.session, asked.record.clone())).or_default().include(dot);
                let durable = self.issued.get(&dot).is_some_and(|issued| {
                    issued.record == asked.record
                        && issued.hash == asked.hash.unwrap_or(ContentHash::of(&[]))
                });
                self.hold(Invariant::ZeroLoss, at_ms, durable, || {
                    format!(
                        "w{id} ({}) was acknowledged as {dot}, and no journal has it",
                        asked.record
                    )
                });
                let awaited = !self.outside.contains(&dot.actor.node) && !self.is_excusable(dot);
                let poison = self.is_poison(asked.hash);
                for site in self.sites().filter(|_| awaited) {
                    let row = self.row(site, &asked.record);
                    if !poison && !row.is_some_and(|row| row.has_seen(dot)) {
                        self.unconfirmed.insert((dot, site), (asked.record.clone(), at_ms));
                    }
                }
            }
            Told::Refused => {
                let present = asked.hash.and_then(|hash| self.where_is(hash));
                self.hold(Invariant::NoPhantom, at_ms, present.is_none(), || {
                    format!(
                        "w{id} ({}) was refused, and is in {}",
                        asked.record,
                        present.unwrap_or_default()
                    )
                });
            }
            Told::Unknown | Told::Waiting => {}
        }
    }

    /// An acknowledgement promised that this write survives crashes, and nothing more.
    pub fn survives_crashes_alone(&mut self, dot: Dot) {
        self.local.insert(dot);
    }

    /// A coordinator's disk no longer has an intent that it had.
    pub fn lost_with_disk(&mut self, intent: &Intent) {
        let dot = intent.dot();
        let holds = |row: &Observed| row.has_seen(dot);
        if !self.sites().any(|site| self.row(site, &intent.record).is_some_and(holds)) {
            self.lost_with_disk.insert(dot);
            if self.local.contains(&dot) {
                self.unconfirmed.retain(|(waits, _), _| *waits != dot);
            }
        }
    }

    fn is_excusable(&self, dot: Dot) -> bool {
        self.local.contains(&dot) && self.lost_with_disk.contains(&dot)
    }

    /// Acknowledged writes that were lost and may be: their promise did not cover it.
    pub fn excused(&self) -> u64 {
        self.excused.len() as u64
    }

    /// A write that was asked for went straight into the authority. What it replaces there of
    /// another foreign write, seen by nobody, is gone by that writer's own doing.
    pub fn wrote_past_us(&mut self, id: u32, at_ms: u64, site: SiteId) {
        let Some(asked) = self.asked.get_mut(&id) else { return };
        asked.told = Told::Unknown;
        asked.at_ms = at_ms;
        self.foreign.insert((site, asked.record.clone()), id);
    }

    /// A coordinator sends a version of its own towards the authority.
    pub fn leaves(&mut self, at_ms: u64, record: &RecordId, dot: Dot) {
        let durable = self.issued.contains_key(&dot);
        self.hold(Invariant::ZeroLoss, at_ms, durable, || {
            format!("{dot} of {record} left its coordinator before any journal had it")
        });
    }

    fn where_is(&self, hash: ContentHash) -> Option<String> {
        let (dot, (record, _)) = self.seen_bytes.iter().find(|(_, seen)| seen.1 == hash)?;
        Some(format!("the authority's row of {record} as {dot}"))
    }

    /// A session that asked at `since_ms` read bytes of a record.
    pub fn served(&mut self, at_ms: u64, since_ms: u64, record: &RecordId, bytes: &[u8]) {
        let hash = ContentHash::of(bytes);
        let writer = self.by_hash.get(&hash).and_then(|id| self.asked.get(id).map(|a| (*id, a)));
        self.hold(Invariant::NoCorruption, at_ms, writer.is_some(), || {
            format!("a read of {record} gave bytes that nobody wrote")
        });
        let writer = self.by_hash.get(&hash).and_then(|id| self.asked.get(id).map(|a| (*id, a)));
        let problem = match writer {
            None => None,
            Some((id, asked)) if asked.record != *record => {
                Some(format!("w{id} of {}", asked.record))
            }
            Some((id, asked)) if asked.told == Told::Refused => {
                Some(format!("w{id}, which was refused"))
            }
            Some(_) => None,
        };
        self.hold(Invariant::NoPhantom, at_ms, problem.is_none(), || {
            format!("a read of {record} gave {}", problem.unwrap_or_default())
        });
        let long_gone = self.is_gone_since(hash, since_ms, SERVED_WITHIN_MS);
        self.hold(Invariant::NoResurrection, at_ms, !long_gone, || {
            format!("a read of {record} gave bytes whose time had passed long before it began")
        });
    }

    /// A read gave a version with this history, and no value: it has none, or its time has passed.
    pub fn gave_nothing(&mut self, at_ms: u64, record: &RecordId, history: &VersionVector) {
        let stands = |row: &&Observed| {
            let expired = row.current.is_some_and(|dot| self.has_expired(at_ms, dot));
            row.history == *history && row.current.is_some() && !row.deleted && !expired
        };
        let hidden = self.sites().filter_map(|site| self.row(site, record)).find(stands);
        let hidden = hidden.and_then(|row| row.current);
        self.hold(Invariant::ZeroLoss, at_ms, hidden.is_none(), || {
            let dot = hidden.map(|dot| dot.to_string()).unwrap_or_default();
            format!(
                "a read of {record} gave nothing, where {dot} stands and its time has not passed"
            )
        });
    }

    /// A read gave a version with this history: no dot of it that no journal ever had.
    pub fn gave(&mut self, at_ms: u64, record: &RecordId, history: &VersionVector) {
        let unheard_of = history.iter().find_map(|(actor, counter)| {
            let dot = Dot { actor: *actor, counter: *counter };
            let heard_of = actor.node == NodeId::FOREIGN
                || self.issued.get(&dot).is_some_and(|issued| issued.record == *record);
            (!heard_of).then_some(dot)
        });
        self.hold(Invariant::Causality, at_ms, unheard_of.is_none(), || {
            let dot = unheard_of.map(|dot| dot.to_string()).unwrap_or_default();
            format!("a read of {record} gave a version that includes {dot}, which no journal had")
        });
    }

    /// A session read a version with this history, and asked for nothing older than it had seen.
    pub fn saw(&mut self, at_ms: u64, session: u16, record: &RecordId, history: &VersionVector) {
        let mut seen = self.seen.remove(&(session, record.clone())).unwrap_or_default();
        let older: Vec<Dot> = seen
            .iter()
            .map(|(actor, counter)| Dot { actor: *actor, counter: *counter })
            .filter(|dot| !covers(history, *dot))
            .filter(|dot| !self.rows.iter().any(|rows| is_reaped(rows, record, *dot)))
            .collect();
        for (actor, counter) in history.iter() {
            seen.include(Dot { actor: *actor, counter: *counter });
        }
        self.seen.insert((session, record.clone()), seen);
        self.hold(Invariant::Session, at_ms, older.is_empty(), || {
            let older: Vec<String> = older.iter().map(Dot::to_string).collect();
            format!("s{session} read {record} without {}, seen before", older.join(" "))
        });
    }

    /// An intent became durable.
    pub fn journalled(&mut self, at_ms: u64, intent: &Intent) {
        let sibling = intent.version.current();
        let dot = sibling.dot;
        let issued = Issued {
            record: intent.record.clone(),
            hash: sibling.hash,
            history: intent.version.history.clone(),
        };
        let before = self.issued.get(&dot);
        let same = before.is_none_or(|b| b.record == issued.record && b.hash == issued.hash);
        self.hold(Invariant::UniqueDots, at_ms, same, || {
            format!(
                "{dot} was issued for {} and again for other bytes or another record",
                issued.record
            )
        });
        self.issued.entry(dot).or_insert(issued);
        let id = self.by_hash.get(&sibling.hash).copied();
        let asked =
            id.and_then(|id| Some((id, self.asked.get(&id)?.at_ms, self.lifetimes.get(&id))));
        let asked_for = asked.and_then(|(id, at_ms, ttl)| Some((id, at_ms + ttl?)));
        let given = sibling.expires_at_ms;
        let lawful = match (asked_for, given) {
            (None, None) => true,
            (Some((_, least_ms)), Some(given)) => given >= EPOCH_MS + least_ms,
            (None, Some(_)) | (Some(_), None) => false,
        };
        self.hold(Invariant::ZeroLoss, at_ms, lawful, || {
            format!(
                "w{} was asked to stand until {asked_for:?} and got {given:?}",
                id.unwrap_or_default()
            )
        });
        if let Some(given) = given {
            self.expires.insert(dot, given);
            let at_last = self.expire_at_last.entry(sibling.hash).or_default();
            *at_last = given.max(*at_last);
        }
    }

    /// True when the time of the value that a write gave has passed.
    fn has_expired(&self, at_ms: u64, dot: Dot) -> bool {
        self.expires.get(&dot).is_some_and(|expires_ms| *expires_ms <= EPOCH_MS + at_ms)
    }

    /// True when the time of these bytes has passed more than so long before.
    fn is_gone_since(&self, hash: ContentHash, at_ms: u64, within_ms: u64) -> bool {
        let expires_ms = self.expire_at_last.get(&hash);
        expires_ms.is_some_and(|expires_ms| expires_ms + within_ms < EPOCH_MS + at_ms)
    }

    fn is_poison(&self, hash: Option<ContentHash>) -> bool {
        hash.is_some_and(|hash| self.poison.contains(&hash))
    }

    /// The authority refused a value for good, as it always will.
    pub fn refused_by_the_authority(&mut self, value: &[u8]) {
        let hash = ContentHash::of(value);
        self.poison.insert(hash);
        let issued = &self.issued;
        self.unconfirmed.retain(|(dot, _), _| issued.get(dot).is_none_or(|i| i.hash != hash));
    }

    /// A projection refused a value for good, as it always will.
    pub fn refused_for_good(
        &mut self,
        site: SiteId,
        store: StoreId,
        record: &RecordId,
        value: &[u8],
    ) {
        // A copy in a former form is as good as equal meanwhile, and is refused in the other one.
        let hash = ContentHash::of(value);
        if let Some(observed) = self.rows[usize::from(site.0)].get_mut(record)
            && observed.hash == Some(hash)
        {
            let projection = &mut observed.projections[at(store)];
            let newly = !std::mem::replace(&mut projection.poisoned, true);
            self.tally.unequal -= usize::from(newly && projection.unequal_since_ms.is_some());
        }
    }

    /// True when a store refuses what the authority holds of a record.
    pub fn is_refused(&self, site: SiteId, record: &RecordId, store: StoreId) -> bool {
        self.row(site, record).is_some_and(|row| row.projections[at(store)].poisoned)
    }

    /// What a coordinator's disk holds, of which the authority may have some already.
    pub fn holds<'i>(
        &mut self,
        at_ms: u64,
        node: NodeId,
        intents: impl Iterator<Item = &'i Intent>,
        intents_max: usize,
    ) {
        let owed = |intent: &&Intent| {
            self.sites().all(|site| {
                let row = self.row(site, &intent.record);
                row.is_none_or(|row| !row.has_seen(intent.dot()))
            })
        };
        let intents = intents.filter(owed).count();
        self.hold(Invariant::BoundedQueue, at_ms, intents <= intents_max, || {
            format!("n{} holds {intents} intents and may hold {intents_max}", node.0)
        });
    }

    /// Every acknowledged write that the authority does not hold, and every copy that its store
    /// does not take, is a dead letter, and still owed.
    pub fn finish_queues(&mut self, at_ms: u64, letters: &BTreeSet<(RecordId, StoreId)>) {
        let mut problems = Vec::new();
        let mut ended = 0;
        for (id, asked) in &self.asked {
            let Told::Acknowledged(dot) = asked.told else { continue };
            let mut rows = self.sites().filter_map(|site| self.row(site, &asked.record));
            let held = rows.any(|row| row.has_seen(dot));
            let dead = letters.contains(&(asked.record.clone(), StoreId::D1));
            let away = self.in_journals.contains(&(dot, true)) || self.is_excusable(dot);
            if held || (dead && self.in_journals.contains(&(dot, false))) {
                ended += 1;
            } else if !away {
                problems.push(format!(
                    "w{id} ({}, {dot}) is neither in the authority nor a dead letter",
                    asked.record
                ));
            }
        }
        for (record, row) in self.rows.iter().flatten() {
            for store in PROJECTIONS {
                if row.projections[at(store)].poisoned
                    && !self.tally.outside.contains(&store)
                    && !letters.contains(&(record.clone(), store))
                {
                    problems.push(format!("{store} refuses {record}, and no dead letter says so"));
                }
            }
        }
        self.checked[Invariant::BoundedQueue as usize] += ended;
        for problem in problems {
            self.report(Invariant::BoundedQueue, at_ms, problem);
        }
    }

    /// The authority's row of a record changed.
    pub fn row_changed(
        &mut self,
        at_ms: u64,
        site: SiteId,
        record: &RecordId,
        row: &Row,
        losers: &[Loser],
    ) {
        let Some(version) = &row.version else { return };
        if !row.has_foreign_write()
            && !self.foreign.is_empty()
            && let Some(id) = self.foreign.remove(&(site, record.clone()))
        {
            let before = self.row(site, record).map_or(0, |row| foreign_writes(&row.history));
            let taken_in = foreign_writes(&version.history) > before;
            self.hold(Invariant::ZeroLoss, at_ms, taken_in, || {
                format!("w{id} of {record}, written past us, was overwritten by one that had not seen it")
            });
        }
        let observed = self.row_entry(site, record);
        let cleared = PROJECTIONS.map(|store| {
            let owed = row.owed.contains_key(&store);
            std::mem::replace(&mut observed.projections[at(store)].owed, owed) && !owed
        });
        if observed.current.is_none() || observed.history != version.history {
            let reaped = observed.reaped.clone();
            let before = (observed.history.clone(), observed.current, reaped);
            self.causality_holds(at_ms, record, before, version, losers);
            self.version_changed(at_ms, site, record, version);
        } else if observed.hash != Some(version.current().hash) {
            self.expired(at_ms, site, record, version);
        }
        for store in PROJECTIONS.into_iter().filter(|store| cleared[at(*store)]) {
            let row = self.row(site, record).expect("entered above");
            let differs = row.projections[at(store)].unequal_since_ms.is_some();
            self.hold(Invariant::Convergence, at_ms, !differs, || {
                format!("the mark of {record} at {store} was cleared while the copy differs")
            });
        }
    }

    /// The authority's row of a record is gone: a tombstone, long done with. Nothing of it may come
    /// back, nobody may owe it to anything, and no acknowledged write may wait for it.
    pub fn row_reaped(&mut self, at_ms: u64, site: SiteId, record: &RecordId) {
        let observed = self.row_entry(site, record);
        let done =
            observed.deleted && observed.projections.iter().all(|projection| !projection.owed);
        let history = std::mem::take(&mut observed.history);
        observed.reaped = observed.reaped.join(&history);
        observed.history_text.clear();
        observed.graves.extend(observed.current.take());
        (observed.version, observed.hash, observed.deleted) = (None, None, false);
        self.hold(Invariant::NoResurrection, at_ms, done, || {
            format!("the row of {record} was reaped while it was needed")
        });
        // Whoever has not got the delete by now never will.
        let lost = self.sites().find(|other| {
            !self
                .row(*other, record)
                .is_some_and(|row| row.history.covers(&history) || row.reaped.covers(&history))
        });
        self.hold(Invariant::NoResurrection, at_ms, lost.is_none(), || {
            format!("the row of {record} was reaped at {site} before every site had its delete")
        });
        let rows = &mut self.rows[usize::from(site.0)];
        let observed = rows.get_mut(record).expect("entered above");
        for store in PROJECTIONS {
            self.tally.compare(at_ms, record, observed, store);
        }
        if self.rows.len() > 1 {
            self.compare_sites(at_ms, record);
        }
    }

    /// The authority's version becomes another one: whatever it newly includes was known to the
    /// writer of what is shown, or to that of a loser that is kept.
    fn causality_holds(
        &mut self,
        at_ms: u64,
        record: &RecordId,
        before: (VersionVector, Option<Dot>, VersionVector),
        version: &Version,
        losers: &[Loser],
    ) {
        let (before, former, reaped) = before;
        let current = version.current().dot;
        let shown = self.issued.get(&current).map(|issued| &issued.history);
        let unseen = shown.and_then(|seen| {
            let dots = seen.iter().map(|(actor, counter)| Dot { actor: *actor, counter: *counter });
            dots.into_iter().find(|dot| !covers(&version.history, *dot))
        });
        let kept: Vec<(Dot, Option<&VersionVector>)> = losers
            .iter()
            .map(|loser| loser.sibling.dot)
            .map(|dot| (dot, self.issued.get(&dot).map(|issued| &issued.history)))
            .chain([(current, shown)])
            .collect();
        // A foreign write to the authority replaced whatever stood there, though it may have lost.
        let mut shown_or_kept =
            losers.iter().map(|loser| loser.sibling).chain([*version.current()]);
        let replaces_all = shown_or_kept.any(|sibling| {
            sibling.dot.actor.node == NodeId::FOREIGN && !self.is_found(sibling.hash)
        });
        let accounted = |dot: Dot| {
            let knew = |history: &Option<&VersionVector>| history.is_some_and(|h| covers(h, dot));
            replaces_all
                || kept.iter().any(|(kept, history)| *kept == dot || knew(history))
                // A delete had superseded it, and was forgotten since.
                || covers(&reaped, dot)
        };
        let newly = version.history.iter().flat_map(|(actor, counter)| {
            let from = before.counter(*actor).min(*counter);
            let dot = |counter| Dot { actor: *actor, counter };
            let issued = self.issued.range(dot(from + 1)..=dot((*counter).max(from + 1)));
            issued.filter(|(_, issued)| issued.record == *record).map(|(dot, _)| *dot)
        });
        let newly = newly.filter(|dot| covers(&version.history, *dot));
        let dropped = newly.chain(former).find(|dot| !accounted(*dot));
        self.hold(Invariant::Causality, at_ms, unseen.is_none(), || {
            let dot = unseen.map(|dot| dot.to_string()).unwrap_or_default();
            format!("{record} shows {current} without {dot}, which its writer had seen")
        });
        self.hold(Invariant::Causality, at_ms, dropped.is_none(), || {
            let dot = dropped.map(|dot| dot.to_string()).unwrap_or_default();
            format!("{record} became {current} over {dot}, which it had not seen and nobody keeps")
        });
    }

    /// True when bytes are those of a foreign write to a projection.
    fn is_found(&self, hash: ContentHash) -> bool {
        let id = self.by_hash.get(&hash);
        id.is_some_and(|id| self.in_projections.contains(id))
    }

    fn version_changed(&mut self, at_ms: u64, site: SiteId, record: &RecordId, version: &Version) {
        let sibling = *version.current();
        let dot = sibling.dot;
        let saw = || self.issued.get(&dot).map_or(&version.history, |issued| &issued.history);
        let buries = sibling.deleted.then(|| saw().clone());
        let observed = self.row_entry(site, record);
        let before = std::mem::replace(&mut observed.history, version.history.clone());
        observed.history_text = version.history.to_text();
        observed.version = Some(version.clone());
        observed.hash = Some(sibling.hash);
        observed.deleted = sibling.deleted;
        let former = observed.current.replace(dot);
        if let Some(former) = former
            && former != dot
        {
            observed.left.insert(former);
        }
        let again = observed.left.contains(&dot);
        let risen = !sibling.deleted && covers(&observed.buried, dot);
        if let Some(saw) = buries {
            observed.buried = observed.buried.join(&saw);
        }
        let grew =
            before.iter().all(|(actor, counter)| version.history.counter(*actor) >= *counter);
        self.hold(Invariant::MonotonicRepair, at_ms, grew, || {
            format!("the authority's {record} went from {before} to {}", version.history)
        });
        self.hold(Invariant::NoResurrection, at_ms, !risen, || {
            format!("{dot} of {record} was deleted, and is current again")
        });
        self.ends_lawfully(at_ms, record, &sibling);
        let traced = sibling.deleted || self.wrote(record, sibling.hash);
        self.hold(Invariant::NoCorruption, at_ms, traced, || {
            format!("the authority's {record} is {dot}, of bytes that nobody wrote to it")
        });
        self.hold(Invariant::NoPhantom, at_ms, !again, || {
            format!("{dot} of {record} was decided against, and is current again")
        });
        let seen = self.seen_bytes.entry(dot).or_insert_with(|| (record.clone(), sibling.hash));
        // What is left of a value whose time has passed is the same write.
        let same = seen.0 == *record && (seen.1 == sibling.hash || sibling.is_expired_form());
        self.hold(Invariant::UniqueDots, at_ms, same, || {
            format!("{dot} names two different writes")
        });
        if dot.actor.node == NodeId::FOREIGN {
            if self.by_hash.get(&sibling.hash).is_some_and(|id| self.in_projections.contains(id)) {
                self.found.insert(dot);
            }
        } else {
            let durable = self.issued.contains_key(&dot);
            self.hold(Invariant::ZeroLoss, at_ms, durable, || {
                format!("{dot} of {record} reached the authority before any journal")
            });
        }
        let refused =
            self.by_hash.get(&sibling.hash).filter(|id| self.asked[id].told == Told::Refused);
        let refused = refused.copied();
        self.hold(Invariant::NoPhantom, at_ms, refused.is_none(), || {
            format!(
                "w{} of {record} was refused, and is installed now",
                refused.unwrap_or_default()
            )
        });
        let waits = &mut self.tally.waits;
        self.unconfirmed.retain(|(dot, there), (at, since_ms)| {
            let waiting = *there != site || at != record || !covers(&version.history, *dot);
            if !waiting {
                note_wait(waits, *since_ms, at_ms);
            }
            waiting
        });
        let rows = &mut self.rows[usize::from(site.0)];
        let observed = rows.get_mut(record).expect("entered by the caller");
        for store in PROJECTIONS {
            // A newer version starts the clock anew: what was owed before is owed no more.
            let projection = &mut observed.projections[at(store)];
            self.tally.mended(projection);
            self.tally.set(at_ms, projection, true);
            projection.poisoned = false;
            self.tally.compare(at_ms, record, observed, store);
        }
        if self.rows.len() > 1 {
            self.compare_sites(at_ms, record);
        }
    }

    /// A value that is gone because its time has passed was given one, and it has passed.
    fn ends_lawfully(&mut self, at_ms: u64, record: &RecordId, sibling: &Sibling) {
        let lawful = !sibling.is_expired_form() || self.has_expired(at_ms, sibling.dot);
        let until_ms = self.expires.get(&sibling.dot).copied();
        self.hold(Invariant::ZeroLoss, at_ms, lawful, || {
            format!("{} of {record} is gone, and was to stand until {until_ms:?}", sibling.dot)
        });
    }

    /// A row holds the same version in other words: its value is gone, because its time has passed.
    fn expired(&mut self, at_ms: u64, site: SiteId, record: &RecordId, version: &Version) {
        let observed = self.row_entry(site, record);
        let before = observed.hash.expect("the row had this version");
        let sibling = *version.current();
        let same = observed.current == Some(sibling.dot) && sibling.is_expired_form();
        self.hold(Invariant::ZeroLoss, at_ms, same, || {
            format!("{record} has other bytes than {before:?} under the same history")
        });
        self.ends_lawfully(at_ms, record, &sibling);
        let rows = &mut self.rows[usize::from(site.0)];
        let observed = rows.get_mut(record).expect("entered above");
        observed.version = Some(version.clone());
        observed.hash = Some(sibling.hash);
        observed.deleted = sibling.deleted;
        if let Some(issued) = self.issued.get(&sibling.dot) {
            observed.buried = observed.buried.join(&issued.history);
        }
        for store in PROJECTIONS {
            let projection = &mut observed.projections[self::at(store)];
            self.tally.mended(projection);
            self.tally.set(at_ms, projection, true);
            self.tally.compare(at_ms, record, observed, store);
        }
        if self.rows.len() > 1 {
            self.compare_sites(at_ms, record);
        }
    }

    /// A site's version changed: are all sites equal? A newer version starts the clock anew; that
    /// each write reaches each site is timed by itself.
    fn compare_sites(&mut self, at_ms: u64, record: &RecordId) {
        if let Some(since_ms) = self.apart.remove(record) {
            note_wait(&mut self.tally.waits, since_ms, at_ms);
        }
        let held = |rows: &BTreeMap<RecordId, Observed>| {
            rows.get(record).map(|row| (row.history.clone(), row.hash, row.deleted))
        };
        let first = held(&self.rows[0]);
        // A site may keep a tombstone for longer than another.
        let gone = |rows: &BTreeMap<RecordId, Observed>| {
            rows.get(record).is_none_or(|row| row.current.is_none() || row.deleted)
        };
        let reaped = |rows: &BTreeMap<RecordId, Observed>| {
            rows.get(record).is_some_and(|row| row.current.is_none() && !row.reaped.is_empty())
        };
        let all_gone = self.rows.iter().any(reaped) && self.rows.iter().all(gone);
        if !all_gone && self.rows.iter().any(|rows| held(rows) != first) {
            self.apart.insert(record.clone(), at_ms);
        }
    }

    /// A projection's copy of a record changed: its bytes and metadata; `None`: it is gone.
    pub fn copy_changed(
        &mut self,
        at_ms: u64,
        site: SiteId,
        record: &RecordId,
        store: StoreId,
        stands: Option<(&Bytes, Option<&str>)>,
    ) {
        let rows = &mut self.rows[usize::from(site.0)];
        let observed = rows.entry(record.clone()).or_default();
        let copy = stands.map(|(body, metadata)| observed.read(body, metadata));
        let whole = copy.as_ref().filter(|copy| copy.says.as_ref().is_some_and(|s| !s.reference));
        let traced = whole.is_none_or(|copy| self.wrote(record, copy.body));
        self.hold(Invariant::NoCorruption, at_ms, traced, || {
            format!("bytes that nobody wrote to {record} were put to {store}")
        });
        let rows = &mut self.rows[usize::from(site.0)];
        let observed = rows.get_mut(record).expect("entered above");
        let projection = &mut observed.projections[at(store)];
        projection.copy = copy;
        let marked = projection.owed;
        let damaged = self.tally.mended(projection);
        let equal = self.tally.compare(at_ms, record, observed, store);
        // What was refused in one form may be taken in another.
        observed.projections[at(store)].poisoned &= !equal;
        let overwritten = match damaged {
            Some(Damaged { what: Damage::Foreign(id), unseen: false, history, .. })
                if history == observed.history =>
            {
                Some(id)
            }
            _ => None,
        };
        self.hold(Invariant::MonotonicRepair, at_ms, marked || equal, || {
            format!("a put of {record} landed at {store} after its mark was cleared, and differs")
        });
        self.hold(Invariant::ZeroLoss, at_ms, overwritten.is_none(), || {
            format!(
                "w{} of {record}, written to {store} past us, was put over by the version that \
                 it had replaced",
                overwritten.unwrap_or_default()
            )
        });
    }

    /// True when somebody wrote bytes of this hash to a record.
    fn wrote(&self, record: &RecordId, hash: ContentHash) -> bool {
        let asked = self.by_hash.get(&hash).and_then(|id| self.asked.get(id));
        asked.is_some_and(|asked| asked.record == *record)
    }

    /// What a journal held that is not to be replayed: a disk lost it before the authority had it.
    pub fn is_gone(&self, dot: Dot) -> bool {
        self.lost_with_disk.contains(&dot)
    }

    /// A copy was changed behind every coordinator's back.
    pub fn damaged(
        &mut self,
        site: SiteId,
        record: &RecordId,
        store: StoreId,
        copy: Option<Copy>,
        what: Damage,
    ) {
        if let Damage::Foreign(id) = what
            && let Some(asked) = self.asked.get_mut(&id)
        {
            // Nobody promised its writer anything.
            asked.told = Told::Unknown;
            self.in_projections.insert(id);
        }
        let rows = &mut self.rows[usize::from(site.0)];
        let observed = rows.entry(record.clone()).or_default();
        let history = observed.history.clone();
        let former = self.tally.is_to_be_reformed(record, observed, store);
        let projection = &mut observed.projections[at(store)];
        projection.copy = copy;
        // What was to be mended anyway may be put over: its last look was before this.
        let again = self.tally.mended(projection).is_some() || former;
        if projection.unequal_since_ms.is_some() {
            // A put is owed anyway, lawfully lands over this, and its clock runs.
            return;
        }
        let unseen = again || projection.owed;
        if self.tally.equal(record, observed, store) {
            // It undid a damage that nobody has seen.
            return;
        }
        let projection = &mut observed.projections[at(store)];
        projection.damaged = Some(Damaged { what, history, unseen });
        self.tally.damaged += 1;
    }

    /// True while some copy is damaged.
    pub fn is_damaged(&self) -> bool {
        self.tally.damaged > 0
    }

    /// True while sites hold different versions of some record.
    pub fn is_apart(&self) -> bool {
        !self.apart.is_empty()
    }

    /// A coordinator was told of which datasets KV keeps references from now on.
    pub fn told_forms(&mut self, node: NodeId, references: BTreeSet<String>) {
        self.tally.told_forms.insert(node, references);
    }

    /// True while some copy has a form that its store is not to keep it in any more.
    pub fn is_in_former_form(&self) -> bool {
        self.in_former_form().next().is_some()
    }

    fn in_former_form(&self) -> impl Iterator<Item = String> {
        self.rows.iter().flatten().flat_map(|(record, row)| {
            let stores = PROJECTIONS.into_iter();
            let former = stores.filter(|s| self.tally.is_in_former_form(record, row, *s));
            former.map(move |store| format!("{record} at {store}"))
        })
    }

    /// True when every store is equal and every acknowledged write confirmed.
    pub fn is_settled(&self) -> bool {
        self.tally.unequal == 0
            && self.tally.damaged == 0
            && self.unconfirmed.is_empty()
            && self.apart.is_empty()
    }

    /// The longest that anything stayed unsettled once the faults had ended, counted from then or
    /// from when it became owed.
    pub fn longest_wait_ms(&self, healed_ms: u64) -> u64 {
        let after = |(from, to): &(u64, u64)| to.saturating_sub(healed_ms.max(*from));
        self.tally.waits.iter().map(after).max().unwrap_or(0)
    }

    /// What is not settled, in words.
    pub fn unsettled(&self) -> String {
        let unequal: Vec<String> = self
            .sites()
            .flat_map(|site| {
                self.rows[usize::from(site.0)].iter().map(move |(record, row)| (site, record, row))
            })
            .flat_map(|(site, record, row)| PROJECTIONS.map(|store| (site, record, row, store)))
            .filter(|(_, _, row, store)| {
                let projection = &row.projections[at(*store)];
                let unequal = projection.unequal_since_ms.is_some() && !projection.poisoned;
                unequal || projection.damaged.is_some()
            })
            .take(5)
            .map(|(site, record, _, store)| format!("{record} at {store} of {site}"))
            .collect();
        let apart: Vec<String> = self.apart.keys().take(5).map(RecordId::to_string).collect();
        let unconfirmed: Vec<String> = self
            .unconfirmed
            .iter()
            .take(5)
            .map(|((dot, site), (record, _))| format!("{dot} of {record} at {site}"))
            .collect();
        format!(
            "differ: [{}]; not in the authority: [{}]; sites differ: [{}]",
            unequal.join(", "),
            unconfirmed.join(", "),
            apart.join(", ")
        )
    }

    /// At the end: nothing is on its way any more.
    pub fn finish(&mut self, at_ms: u64) {
        let settled = self.is_settled();
        let words = if settled { String::new() } else { self.unsettled() };
        self.hold(Invariant::Convergence, at_ms, settled, || words);
        let former: Vec<String> = self.in_former_form().take(5).collect();
        self.hold(Invariant::Convergence, at_ms, former.is_empty(), || {
            format!("kept in a form that the policy does not say: {}", former.join(", "))
        });
        let gone: Vec<String> = self
            .rows
            .iter()
            .flatten()
            .filter(|(_, row)| {
                row.hash.is_some_and(|hash| self.is_gone_since(hash, at_ms, GONE_WITHIN_MS))
            })
            .map(|(record, _)| record.to_string())
            .take(5)
            .collect();
        self.hold(Invariant::Convergence, at_ms, gone.is_empty(), || {
            format!("still there though its time has passed: {}", gone.join(", "))
        });
        let foreign: Vec<String> = self
            .foreign
            .iter()
            .map(|((site, record), id)| format!("w{id} of {record} at {site}"))
            .take(5)
            .collect();
        self.hold(Invariant::Convergence, at_ms, foreign.is_empty(), || {
            format!("written past us, and never taken in: {}", foreign.join(", "))
        });
    }

    /// At the end: what a site's authority holds against everything that was promised. `blob` tells
    /// whether its R2 holds bytes of a hash under their own name.
    pub fn finish_site(
        &mut self,
        at_ms: u64,
        site: SiteId,
        rows: &BTreeMap<RecordId, Row>,
        losers: &BTreeMap<RecordId, Vec<Loser>>,
        blob: impl Fn(ContentHash) -> bool,
    ) {
        let marked: Vec<String> = rows
            .iter()
            .flat_map(|(record, row)| {
                let owed = row.owed.keys().filter(|store| !self.is_refused(site, record, **store));
                owed.map(move |store| (record, *store))
            })
            .filter(|(_, store)| !self.tally.outside.contains(store))
            .map(|(record, store)| format!("{record} at {store}"))
            .take(5)
            .collect();
        self.hold(Invariant::Convergence, at_ms, marked.is_empty(), || {
            format!("still marked as owed: {}", marked.join(", "))
        });
        let wrong = rows.iter().find(|(_, row)| match (&row.version, &row.value) {
            (Some(version), Some(Stored::Inline(bytes))) if !row.has_foreign_write() => {
                ContentHash::of(bytes) != version.current().hash
            }
            _ => false,
        });
        self.hold(Invariant::NoCorruption, at_ms, wrong.is_none(), || {
            let record = wrong.map(|(record, _)| record.to_string()).unwrap_or_default();
            format!("the authority's {record} holds other bytes than its version names")
        });
        let readable = |value: &Stored, hash: ContentHash| match value {
            Stored::Tombstone => hash == ContentHash::of(&[]),
            Stored::Inline(bytes) => ContentHash::of(bytes) == hash,
            Stored::Reference { hash: referred, .. } => *referred == hash && blob(hash),
        };
        let present = self.present(site, rows, losers, &readable);
        let mut lost = Vec::new();
        let mut kept = 0;
        for (id, asked) in &self.asked {
            let Told::Acknowledged(dot) = asked.told else { continue };
            match present.get(&asked.record).map_or(Fate::Lost, |present| present.fate(dot)) {
                Fate::Lost if self.is_kept_in_a_journal(dot, asked.hash) => kept += 1,
                Fate::Lost if self.is_excusable(dot) => drop(self.excused.insert(dot)),
                Fate::Lost => lost.push((*id, asked.record.clone(), dot)),
                Fate::Current | Fate::Superseded { .. } | Fate::Loser => kept += 1,
            }
        }
        self.checked[Invariant::ZeroLoss as usize] += kept;
        for (id, record, dot) in lost {
            let message =
                format!("w{id} ({record}, {dot}) was acknowledged, and is nowhere at {site}");
            self.report(Invariant::ZeroLoss, at_ms, message);
        }
    }

    /// What every record shows at the end, and what that supersedes.
    pub fn present(
        &self,
        site: SiteId,
        rows: &BTreeMap<RecordId, Row>,
        losers: &BTreeMap<RecordId, Vec<Loser>>,
        readable: &impl Fn(&Stored, ContentHash) -> bool,
    ) -> BTreeMap<RecordId, Present> {
        let mut issued: BTreeMap<&RecordId, Vec<(Dot, &VersionVector)>> = BTreeMap::new();
        for (dot, write) in &self.issued {
            issued.entry(&write.record).or_default().push((*dot, &write.history));
        }
        let observed = &self.rows[usize::from(site.0)];
        // Nothing is left to be read of a value whose time has passed; see `ends_lawfully`.
        let ended = |sibling: &Sibling| {
            sibling.is_expired_form() && self.expires.contains_key(&sibling.dot)
        };
        let of = |record: &RecordId, row: Option<&Row>| {
            let current = row.and_then(|row| row.version.as_ref().zip(row.value.as_ref()));
            let current = current.and_then(|(version, value)| {
                let sibling = *version.current();
                (readable(value, sibling.hash) || ended(&sibling)).then_some(sibling.dot)
            });
            let kept = losers.get(record).into_iter().flatten();
            let kept = kept
                .filter(|l| readable(&l.value, l.sibling.hash) || ended(&l.sibling))
                .map(|loser| loser.sibling.dot)
                .collect();
            let issued = issued.get(record).map_or(&[][..], Vec::as_slice);
            let graves = observed.get(record).map_or(&[][..], |row| &row.graves);
            let superseding = superseding(current, &kept, graves, issued, &self.found);
            Present { superseding, current, kept, graves: graves.to_vec() }
        };
        let records: BTreeSet<&RecordId> = rows.keys().chain(observed.keys()).collect();
        records.into_iter().map(|record| (record.clone(), of(record, rows.get(record)))).collect()
    }
}

/// The writes of a record that are present, or superseded by one that is; each with what it knew
/// when it got its dot. What a merge added to a history later does not count.
fn superseding(
    current: Option<Dot>,
    kept: &BTreeSet<Dot>,
    graves: &[Dot],
    issued: &[(Dot, &VersionVector)],
    found: &BTreeSet<Dot>,
) -> Vec<(Dot, Option<VersionVector>)> {
    let mut waiting: Vec<Dot> =
        current.into_iter().chain(kept.iter().chain(graves).copied()).collect();
    let mut reached: BTreeSet<Dot> = waiting.iter().copied().collect();
    let mut superseding = Vec::new();
    while let Some(by) = waiting.pop() {
        let Ok(found) = issued.binary_search_by_key(&by, |(dot, _)| *dot) else {
            // A foreign write to the authority replaced whatever it held.
            if by.actor.node == NodeId::FOREIGN && !found.contains(&by) {
                superseding.push((by, None));
            }
            continue;
        };
        let history = issued[found].1;
        let covered = issued.iter().map(|(dot, _)| *dot).filter(|dot| covers(history, *dot));
        waiting.extend(covered.filter(|dot| reached.insert(*dot)));
        superseding.push((by, Some(history.clone())));
    }
    superseding
}

/// The writes whose bytes a record shows at the end.
#[derive(Clone, Debug)]
pub struct Present {
    current: Option<Dot>,
    kept: BTreeSet<Dot>,
    /// Deletes whose tombstones were reaped.
    graves: Vec<Dot>,
    /// `None`: everything.
    superseding: Vec<(Dot, Option<VersionVector>)>,
}

impl Present {
    /// Where a write to the record is.
    pub fn fate(&self, dot: Dot) -> Fate {
        if self.current == Some(dot) {
            return Fate::Current;
        }
        if self.kept.contains(&dot) {
            return Fate::Loser;
        }
        let knew = |history: &Option<VersionVector>| {
            history.as_ref().is_none_or(|history| covers(history, dot))
        };
        if self.graves.contains(&dot) {
            return Fate::Superseded { by: dot };
        }
        let by = self.superseding.iter().find(|(by, history)| *by != dot && knew(history));
        by.map_or(Fate::Lost, |(by, _)| Fate::Superseded { by: *by })
    }
}

/// What became of a write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It is the record's value.
    Current,
    /// A present write knew of it.
    Superseded {
        /// Which.
        by: Dot,
    },
    /// It lost a conflict, and is kept.
    Loser,
    /// It is nowhere.
    Lost,
}

impl Tally {
    /// Holds a projection's copy against the authority's version; tells whether they are equal.
    fn compare(
        &mut self,
        at_ms: u64,
        record: &RecordId,
        observed: &mut Observed,
        store: StoreId,
    ) -> bool {
        let equal = self.equal(record, observed, store);
        self.set(at_ms, &mut observed.projections[at(store)], equal);
        equal
    }

    fn equal(&self, record: &RecordId, observed: &Observed, store: StoreId) -> bool {
        if self.outside.contains(&store) {
            return true;
        }
        let copy = observed.projections[at(store)].copy.as_ref();
        match (observed.current, observed.deleted, copy) {
            (None, _, None) | (Some(_), true, None) => true,
            (None, _, Some(_)) | (Some(_), true, Some(_)) | (Some(_), false, None) => false,
            (Some(_), false, Some(Copy { says: None, .. })) => false,
            (Some(_), false, Some(Copy { body, says: Some(says) })) => {
                let hash = observed.hash.expect("set together with the current dot");
                let referred =
                    if self.forms_change { says.reference } else { self.refers(record, store) };
                let same_version = match &says.version {
                    Names::History(history) => *history == observed.history_text,
                    Names::Tag(tag) => observed.version.as_ref().is_some_and(|v| v.etag() == *tag),
                };
                let whole = !says.reference && *body == hash;
                same_version
                    && says.hash == hash
                    && (says.reference == referred)
                    && (referred || whole)
            }
        }
    }

    /// True when a store is to keep references to a dataset's values.
    fn refers(&self, record: &RecordId, store: StoreId) -> bool {
        let datasets = self.references.get(&store);
        datasets.is_some_and(|names| names.contains(&*record.dataset))
    }

    /// True when some coordinator has been told of another form than a copy has.
    fn is_to_be_reformed(&self, record: &RecordId, observed: &Observed, store: StoreId) -> bool {
        let copy = observed.projections[at(store)].copy.as_ref();
        let Some(says) = copy.and_then(|copy| copy.says.as_ref()) else { return false };
        let differs = |names: &BTreeSet<String>| names.contains(&*record.dataset) != says.reference;
        store == StoreId::Kv && self.told_forms.values().any(differs)
    }

    /// True when a copy has not the form that its store is to keep it in at the end.
    fn is_in_former_form(&self, record: &RecordId, observed: &Observed, store: StoreId) -> bool {
        let copy = observed.projections[at(store)].copy.as_ref();
        let says = copy.and_then(|copy| copy.says.as_ref());
        self.forms_change
            && !self.outside.contains(&store)
            && !observed.projections[at(store)].poisoned
            && says.is_some_and(|says| says.reference != self.refers(record, store))
    }

    /// A copy is no longer what the damage made of it.
    fn mended(&mut self, projection: &mut Projection) -> Option<Damaged> {
        let damaged = projection.damaged.take();
        self.damaged -= usize::from(damaged.is_some());
        damaged
    }

    /// A projection equals the authority from now on, or differs from it.
    fn set(&mut self, at_ms: u64, projection: &mut Projection, equal: bool) {
        match (equal, projection.unequal_since_ms) {
            (true, None) | (false, Some(_)) => {}
            (false, None) => {
                projection.unequal_since_ms = Some(at_ms);
                self.unequal += usize::from(!projection.poisoned);
            }
            (true, Some(_)) if projection.poisoned => {
                projection.unequal_since_ms = None;
                projection.poisoned = false;
            }
            (true, Some(since_ms)) => {
                projection.unequal_since_ms = None;
                self.unequal -= 1;
                note_wait(&mut self.waits, since_ms, at_ms);
            }
        }
    }
}

/// Waits shorter than this are no news.
const WAIT_NOTED_MS: u64 = 500;

fn note_wait(waits: &mut Vec<(u64, u64)>, from_ms: u64, to_ms: u64) {
    if to_ms >= from_ms + WAIT_NOTED_MS {
        waits.push((from_ms, to_ms));
    }
}

fn covers(history: &VersionVector, dot: Dot) -> bool {
    history.counter(dot.actor) >= dot.counter
}

/// How many foreign writes a history includes.
fn foreign_writes(history: &VersionVector) -> u64 {
    let foreign = history.iter().filter(|(actor, _)| actor.node == NodeId::FOREIGN);
    foreign.map(|(_, counter)| counter).sum()
}
