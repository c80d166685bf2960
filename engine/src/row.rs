//! The authority's row, and everything that can be done to it.
//!
//! ```text
//! apply(row, op, now) -> (row', answer)        one row, one transaction, one store-side clock
//!
//! Install   compare-and-set of a version; marks each projection as owed; registers a lease
//! Claim     takes a mark over, renews its lease, or starts a new epoch after an Unknown put
//! Clear     removes a mark after an Applied put that was sent while nobody else could be putting
//! Release   takes back leases whose puts have all had definite answers
//! Forgo     removes the mark of a projection that is not kept any more
//! Settle    tells up to where a coordinator's writes are decided
//! Reap      removes a tombstone, and leaves its history in the dataset's floor (rule A6)
//! ```
//!
//! A row is the only place where coordinators meet, so every rule that orders them (A2, A4, A5a,
//! A5b) is one branch of [`apply`]. Bindings call it inside a transaction; the Cloudflare gateway
//! repeats it in SQL, and the contract suite holds all of them to the same answers.
//!
//! Times here are of the store side's clock alone. A coordinator's own clock never decides
//! whether a lease has ended.

use crate::record::{Loser, RecordId, StoreId, Stored};
use crate::tree::Digest;
use crate::version::{Actor, Stamp, Version, VersionId, VersionVector};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::sync::Arc;

/// How long a lease lasts. Longer than [`REPUT_MS`], else two coordinators take over from each
/// other for ever.
pub const LEASE_MS: u64 = 2_200;
/// A holder that may not clear yet puts the newest version again this often.
pub const REPUT_MS: u64 = 1_500;
/// The longest that a request which the store side has accepted may take to land.
pub const LAND_MS_MAX: u64 = 750;
/// How far the clocks of the store side may stand apart.
pub const CLOCK_ERROR_MS: u64 = 250;

/// Milliseconds since the Unix epoch by the store side's clock.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
pub struct StoreTime(pub u64);

/// Numbers the leases of one row.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
pub struct Epoch(pub u64);

/// A place in the authority's change feed.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
pub struct Seq(pub u64);

/// The right to put a row's version at a projection until the lease ends (rule A4).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lease {
    /// Which of the row's leases.
    pub epoch: Epoch,
    /// Who puts.
    pub holder: Actor,
    /// No put is accepted from here on (rule A5).
    pub ends: StoreTime,
    /// No accepted put can land from here on.
    pub until: StoreTime,
}

/// What the authority holds for a record.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Row {
    /// The version that a coordinator installed last; none when only foreign bytes are here.
    pub version: Option<Version>,
    /// The bytes as they stand in the table, foreign ones included.
    pub value: Option<Stored>,
    /// Bumped by triggers for foreign writes and by every install; survives the row's deletion.
    pub row_seq: u64,
    /// The `row_seq` that `version` describes. Different: a foreign write came after it.
    pub known_row_seq: u64,
    /// When the foreign write came.
    pub foreign_at: StoreTime,
    /// Place in the change feed.
    pub seq: Seq,
    /// The highest epoch given out.
    pub epoch: Epoch,
    /// The projections that may not hold `version` yet: the mark, with its leases (rule A5c).
    pub owed: BTreeMap<StoreId, Vec<Lease>>,
    /// Where there is no row: the latest stamp of the tombstones that were reaped in its dataset,
    /// which a new record's is to exceed (rule V3).
    #[serde(default)]
    pub floor_stamp: Stamp,
}

impl Row {
    /// The bytes were changed past every coordinator since `version` was installed.
    pub fn has_foreign_write(&self) -> bool {
        self.row_seq != self.known_row_seq
    }

    /// What the record of this key adds to its leaf; `None`: no coordinator has installed anything.
    pub fn digest(&self, key: &str) -> Option<Digest> {
        let version = self.version.as_ref()?;
        Some(Digest::of(key, &version.history, version.current().hash))
    }

    /// The history that an install must cover.
    pub fn history(&self) -> VersionVector {
        self.version.as_ref().map(|version| version.history.clone()).unwrap_or_default()
    }

    /// What stands for a row that is not there. Its sequence goes on where rows that were reaped
    /// ended, so that nothing that was meant for one of them fits what comes after it.
    pub fn absent(floor: &Floor) -> Option<Row> {
        let at = floor.row_seq;
        let stamp = floor.stamp;
        (at > 0).then(|| Row {
            row_seq: at,
            known_row_seq: at,
            floor_stamp: stamp,
            ..Row::default()
        })
    }

    /// True when there is nothing here that could be removed or replaced.
    pub fn is_absent(&self) -> bool {
        self.version.is_none() && !self.has_foreign_write()
    }

    /// What a compare-and-set over this row expects.
    pub fn expect(&self) -> Expect {
        Expect { history: self.history(), row_seq: self.row_seq }
    }

    /// When the last put of anybody but `own` can land at `store`; `None`: nobody else has a
    /// live lease.
    fn others_until(&self, store: StoreId, own: Epoch, now: StoreTime) -> Option<StoreTime> {
        let leases = self.owed.get(&store)?;
        leases.iter().filter(|l| l.epoch != own && l.until > now).map(|l| l.until).max()
    }
}

/// What is left of a dataset's tombstones once they are reaped (rule A6).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Floor {
    /// What they had seen, joined. A version at or below it that no row here includes is dead: it
    /// was deleted, and the delete is forgotten.
    pub history: VersionVector,
    /// The highest sequence that a reaped row could have had next; rows that begin anew begin above.
    pub row_seq: u64,
    /// The latest stamp among them.
    pub stamp: Stamp,
    /// Up to where each actor's writes are decided here: in the authority, or certainly never. The
    /// floor stays at or below it, since a write that is still on its way must not look dead.
    pub settled: VersionVector,
}

impl Floor {
    /// True when all that a version would bring to a row was deleted, and the tombstone reaped.
    pub fn buries(&self, version: &Version, over: Option<&Row>) -> bool {
        let stands = over.map(Row::history).unwrap_or_default();
        !stands.covers(&version.history) && self.history.join(&stands).covers(&version.history)
    }

    fn reap(&self, row: &Row) -> Floor {
        Floor {
            history: self.history.join(&row.history()),
            row_seq: self.row_seq.max(row.row_seq) + 1,
            stamp: row.version.as_ref().map_or(self.stamp, |v| v.stamp().max(self.stamp)),
            settled: self.settled.clone(),
        }
    }
}

/// What the row must look like for an install to happen (rule A2).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Expect {
    /// The version's history; empty when there is none.
    pub history: VersionVector,
    /// The row sequence; 0 when there is no row.
    pub row_seq: u64,
}

/// One thing to do to one row.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum RowOp {
    /// Gives the row.
    Read {
        /// Which.
        record: RecordId,
    },
    /// Compare-and-set of a version.
    Install(Box<Install>),
    /// Takes the mark of a projection.
    Claim {
        /// Whose mark.
        record: RecordId,
        /// At which projection.
        store: StoreId,
        /// Who claims.
        holder: Actor,
        /// Extend this lease; `None`: begin a new epoch.
        renew: Option<Epoch>,
        /// Own leases whose puts all had definite answers, to be forgotten.
        quiet: Vec<Epoch>,
    },
    /// Marks a projection whose copy was found to differ from the version that it should hold, and
    /// takes the mark.
    Owe {
        /// Whose copy.
        record: RecordId,
        /// At which projection.
        store: StoreId,
        /// The version that the copy was held against; the row must still hold it.
        version: VersionId,
        /// Who projects it again.
        holder: Actor,
    },
    /// Removes the mark.
    Clear {
        /// Whose mark.
        record: RecordId,
        /// At which projection.
        store: StoreId,
        /// The version that was put.
        version: VersionId,
        /// The lease under which it was put.
        epoch: Epoch,
        /// Other own leases whose puts all had definite answers.
        quiet: Vec<Epoch>,
    },
    /// Forgets own leases whose puts all had definite answers. The mark stays.
    Release {
        /// Whose mark.
        record: RecordId,
        /// At which projection.
        store: StoreId,
        /// The leases.
        quiet: Vec<Epoch>,
    },
    /// Removes the mark of a projection that the dataset is not kept in any more, once nothing that
    /// was sent there can land. No mark still means that no put is in flight; that the copy equals
    /// the authority is no longer promised there, and where the store is put in again, a look over
    /// it finds what differs.
    Forgo {
        /// Whose mark.
        record: RecordId,
        /// At which projection.
        store: StoreId,
        /// The version that the row must still hold: a later one may be of a later policy.
        version: VersionId,
    },
    /// Tells the authority up to where actors' writes are decided: each of them is in it, or can
    /// never be. Gives the dataset's floor.
    Settle {
        /// The dataset, and no key.
        record: RecordId,
        /// By actor.
        settled: VersionVector,
    },
    /// Removes a tombstone that nothing needs any more.
    Reap {
        /// Whose.
        record: RecordId,
        /// The tombstone; the row must still hold it.
        version: VersionId,
    },
}

/// A compare-and-set of a version at the authority.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Install {
    /// Which record.
    pub record: RecordId,
    /// What it replaces.
    pub expect: Expect,
    /// The new version; its history covers the expected one.
    pub version: Version,
    /// The bytes of its current value.
    pub value: Stored,
    /// The values that lost against it, made durable in the same transaction (rule V6).
    pub losers: Vec<Loser>,
    /// The projections that must receive it.
    pub owe: Vec<StoreId>,
    /// Who installs, and so projects.
    pub holder: Actor,
}

impl RowOp {
    /// The record that this is about.
    pub fn record(&self) -> &RecordId {
        match self {
            RowOp::Read { record }
            | RowOp::Claim { record, .. }
            | RowOp::Owe { record, .. }
            | RowOp::Clear { record, .. }
            | RowOp::Release { record, .. }
            | RowOp::Forgo { record, .. }
            | RowOp::Settle { record, .. }
            | RowOp::Reap { record, .. } => record,
            RowOp::Install(install) => &install.record,
        }
    }

    /// Bytes of values that travel with this.
    pub fn held_bytes(&self) -> usize {
        match self {
            RowOp::Install(install) => {
                let losers: usize = install.losers.iter().map(|l| l.value.held_bytes()).sum();
                install.value.held_bytes() + losers
            }
            RowOp::Read { .. }
            | RowOp::Claim { .. }
            | RowOp::Owe { .. }
            | RowOp::Clear { .. }
            | RowOp::Release { .. }
            | RowOp::Forgo { .. }
            | RowOp::Settle { .. }
            | RowOp::Reap { .. } => 0,
        }
    }
}

/// A lease as its holder sees it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Grant {
    /// Which lease.
    pub epoch: Epoch,
    /// When it ends.
    pub ends: StoreTime,
    /// Until when puts of others (or of this coordinator's former life) can land, per projection
    /// where that is still to come. A projection that is absent here: the holder is alone.
    pub others_until: BTreeMap<StoreId, StoreTime>,
}

/// What became of a [`RowOp`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum RowAnswer {
    /// The row, if there is one.
    Read(Option<Row>),
    /// The version is in; its projections are owed under this lease.
    Installed {
        /// The row sequence now.
        row_seq: u64,
        /// The place in the change feed.
        seq: Seq,
        /// The right to project.
        grant: Grant,
    },
    /// The row is not what was expected: this is what it is.
    Moved(Option<Row>),
    /// The mark is the claimer's; this is the row to project.
    Claimed {
        /// As it stands.
        row: Row,
        /// The right to project.
        grant: Grant,
    },
    /// Somebody else holds the mark.
    Held {
        /// Until then at the least.
        ends: StoreTime,
    },
    /// There is no mark: nothing is owed.
    NotOwed,
    /// The mark is gone.
    Cleared,
    /// The version was put, but another put may still land: not cleared.
    NotAlone {
        /// No such put can land from here on.
        until: StoreTime,
    },
    /// The leases are forgotten.
    Released,
    /// The install does not cover what it expects: a defect of the caller, refused.
    NotCovering,
    /// The version was deleted and its tombstone reaped: it is not installed again.
    Dead,
    /// What stands below the dataset's records.
    Floor(Floor),
    /// The tombstone is gone.
    Reaped(Floor),
    /// The tombstone is not to be removed, or not yet.
    Kept,
}

/// What an operation changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Changed {
    /// Nothing.
    Nothing,
    /// The row is this now.
    Row(Row),
    /// The row is gone, and the floor is this now.
    Gone(Floor),
    /// The floor is this now.
    Floor(Floor),
}

/// Applies one operation to one row and its dataset's floor. `next_seq` is the change feed's next
/// place.
pub fn apply(
    row: Option<&Row>,
    floor: &Floor,
    op: &RowOp,
    now: StoreTime,
    next_seq: Seq,
) -> (Changed, RowAnswer) {
    match op {
        RowOp::Settle { settled, .. } => {
            let floor = Floor { settled: floor.settled.join(settled), ..floor.clone() };
            return (Changed::Floor(floor.clone()), RowAnswer::Floor(floor));
        }
        RowOp::Reap { version, .. } => {
            return match row.filter(|row| is_reapable(row, floor, version, next_seq)) {
                Some(row) => {
                    let floor = floor.reap(row);
                    (Changed::Gone(floor.clone()), RowAnswer::Reaped(floor))
                }
                None => (Changed::Nothing, RowAnswer::Kept),
            };
        }
        RowOp::Install(install)
            if row.is_none_or(Row::is_absent) && floor.buries(&install.version, None) =>
        {
            return (Changed::Nothing, RowAnswer::Dead);
        }
        _ => {}
    }
    let absent = if row.is_none() { Row::absent(floor) } else { None };
    let (changed, answer) = apply_to_row(row.or(absent.as_ref()), op, now, next_seq);
    (changed.map_or(Changed::Nothing, Changed::Row), answer)
}

/// A tombstone may go when nothing is owed for it (rule A5c), every write that it has seen is decided
/// here, and it is not the feed's last entry, which says where the feed has come to.
fn is_reapable(row: &Row, floor: &Floor, version: &VersionId, next_seq: Seq) -> bool {
    let deleted = row.version.as_ref().is_some_and(|v| v.current().deleted && v.id() == *version);
    deleted
        && row.owed.is_empty()
        && !row.has_foreign_write()
        && floor.settled.covers(&row.history())
        && row.seq.0 + 1 < next_seq.0
}

fn apply_to_row(
    row: Option<&Row>,
    op: &RowOp,
    now: StoreTime,
    next_seq: Seq,
) -> (Option<Row>, RowAnswer) {
    match op {
        RowOp::Read { .. } => (None, RowAnswer::Read(row.cloned())),
        RowOp::Install(install) => apply_install(row, install, now, next_seq),
        RowOp::Claim { store, holder, renew, quiet, .. } => {
            apply_claim(row, *store, *holder, *renew, quiet, now)
        }
        RowOp::Owe { store, version, holder, .. } => apply_owe(row, *store, version, *holder, now),
        RowOp::Clear { store, version, epoch, quiet, .. } => {
            apply_clear(row, *store, version, *epoch, quiet, now)
        }
        RowOp::Release { store, quiet, .. } => {
            let Some((mut row, mut leases)) = owed(row, *store) else {
                return (None, RowAnswer::NotOwed);
            };
            leases.retain(|lease| !quiet.contains(&lease.epoch));
            row.owed.insert(*store, leases);
            (Some(row), RowAnswer::Released)
        }
        RowOp::Forgo { store, version, .. } => apply_forgo(row, *store, version, now),
        RowOp::Settle { .. } | RowOp::Reap { .. } => unreachable!("these are of the floor, above"),
    }
}

fn owed(row: Option<&Row>, store: StoreId) -> Option<(Row, Vec<Lease>)> {
    let row = row?;
    let leases = row.owed.get(&store)?;
    Some((row.clone(), leases.clone()))
}

fn apply_install(
    row: Option<&Row>,
    install: &Install,
    now: StoreTime,
    next_seq: Seq,
) -> (Option<Row>, RowAnswer) {
    let found = row.map(Row::expect).unwrap_or_default();
    if found != install.expect {
        return (None, RowAnswer::Moved(row.cloned()));
    }
    if !install.version.history.covers(&install.expect.history) {
        return (None, RowAnswer::NotCovering);
    }
    if ends_early(install, now) {
        return (None, RowAnswer::Moved(row.cloned()));
    }
    let before = row.cloned().unwrap_or_default();
    let epoch = Epoch(before.epoch.0 + 1);
    let row_seq = before.row_seq + 1;
    let lease = lease(epoch, install.holder, now);
    let mut others_until = BTreeMap::new();
    let mut owed = before.owed.clone();
    for leases in owed.values_mut() {
        leases.retain(|lease| lease.until > now);
    }
    for store in &install.owe {
        if let Some(until) = before.others_until(*store, epoch, now) {
            others_until.insert(*store, until);
        }
        owed.entry(*store).or_default().push(lease);
    }
    let after = Row {
        version: Some(install.version.clone()),
        value: Some(install.value.clone()),
        row_seq,
        known_row_seq: row_seq,
        foreign_at: before.foreign_at,
        seq: next_seq,
        epoch,
        owed,
        floor_stamp: Stamp::default(),
    };
    let grant = Grant { epoch, ends: lease.ends, others_until };
    (Some(after), RowAnswer::Installed { row_seq, seq: next_seq, grant })
}

/// True when the row's value is to be ended before its time has come by this clock, whatever the
/// coordinator that asks takes it for. A merge, which includes more, has been decided elsewhere.
fn ends_early(install: &Install, now: StoreTime) -> bool {
    let current = install.version.current();
    current.is_expired_form()
        && install.version.history == install.expect.history
        && current.expires_at_ms.is_some_and(|at_ms| at_ms > now.0)
}

fn apply_claim(
    row: Option<&Row>,
    store: StoreId,
    holder: Actor,
    renew: Option<Epoch>,
    quiet: &[Epoch],
    now: StoreTime,
) -> (Option<Row>, RowAnswer) {
    let Some((mut row, mut leases)) = owed(row, store) else {
        return (None, RowAnswer::NotOwed);
    };
    // The newest lease says who holds the mark; older ones only bound what may still land. A
    // coordinator may take over from its own former life at once.
    let holding = newest(&leases).copied();
    if let Some(holding) = holding
        && holding.holder.node != holder.node
        && holding.ends > now
    {
        return (None, RowAnswer::Held { ends: holding.ends });
    }
    let renew = renew.filter(|epoch| holding.is_some_and(|holding| holding.epoch == *epoch));
    leases.retain(|l| Some(l.epoch) == renew || (l.until > now && !quiet.contains(&l.epoch)));
    let renewed = renew.and_then(|epoch| leases.iter_mut().find(|lease| lease.epoch == epoch));
    let mine = match renewed {
        Some(renewed) => {
            *renewed = lease(renewed.epoch, holder, now);
            *renewed
        }
        None => {
            row.epoch = Epoch(row.epoch.0 + 1);
            let fresh = lease(row.epoch, holder, now);
            leases.push(fresh);
            fresh
        }
    };
    row.owed.insert(store, leases);
    let mut others_until = BTreeMap::new();
    if let Some(until) = row.others_until(store, mine.epoch, now) {
        others_until.insert(store, until);
    }
    let grant = Grant { epoch: mine.epoch, ends: mine.ends, others_until };
    (Some(row.clone()), RowAnswer::Claimed { row, grant })
}

fn apply_owe(
    row: Option<&Row>,
    store: StoreId,
    version: &VersionId,
    holder: Actor,
    now: StoreTime,
) -> (Option<Row>, RowAnswer) {
    let current = row.and_then(|row| row.version.as_ref()).map(Version::id);
    let (Some(row), true) = (row, current.as_ref() == Some(version)) else {
        return (None, RowAnswer::Moved(row.cloned()));
    };
    if row.has_foreign_write() {
        return (None, RowAnswer::Moved(Some(row.clone())));
    }
    if let Some(leases) = row.owed.get(&store) {
        // Marked already: whoever holds the mark puts this version, or lets it lapse.
        let ends = newest(leases).map_or(now, |lease| lease.ends);
        return (None, RowAnswer::Held { ends });
    }
    let mut row = row.clone();
    row.epoch = Epoch(row.epoch.0 + 1);
    let lease = lease(row.epoch, holder, now);
    row.owed.insert(store, vec![lease]);
    // No mark means that no other put can be in flight.
    let grant = Grant { epoch: lease.epoch, ends: lease.ends, others_until: BTreeMap::new() };
    (Some(row.clone()), RowAnswer::Claimed { row, grant })
}

fn apply_clear(
    row: Option<&Row>,
    store: StoreId,
    version: &VersionId,
    epoch: Epoch,
    quiet: &[Epoch],
    now: StoreTime,
) -> (Option<Row>, RowAnswer) {
    let Some((mut row, mut leases)) = owed(row, store) else {
        return (None, RowAnswer::NotOwed);
    };
    let current = row.version.as_ref().map(Version::id);
    if current.as_ref() != Some(version) || !leases.iter().any(|lease| lease.epoch == epoch) {
        return (None, RowAnswer::Moved(Some(row)));
    }
    leases.retain(|lease| lease.until > now && !quiet.contains(&lease.epoch));
    let others = leases.iter().filter(|lease| lease.epoch != epoch).map(|lease| lease.until).max();
    if let Some(until) = others {
        return (None, RowAnswer::NotAlone { until });
    }
    row.owed.remove(&store);
    (Some(row), RowAnswer::Cleared)
}

fn apply_forgo(
    row: Option<&Row>,
    store: StoreId,
    version: &VersionId,
    now: StoreTime,
) -> (Option<Row>, RowAnswer) {
    let Some((mut row, leases)) = owed(row, store) else {
        return (None, RowAnswer::NotOwed);
    };
    if row.version.as_ref().map(Version::id).as_ref() != Some(version) {
        return (None, RowAnswer::Moved(Some(row)));
    }
    if let Some(until) = leases.iter().map(|lease| lease.until).max().filter(|until| *until > now) {
        return (None, RowAnswer::NotAlone { until });
    }
    row.owed.remove(&store);
    (Some(row), RowAnswer::Cleared)
}

fn lease(epoch: Epoch, holder: Actor, now: StoreTime) -> Lease {
    let ends = StoreTime(now.0 + LEASE_MS);
    Lease { epoch, holder, ends, until: StoreTime(ends.0 + LAND_MS_MAX + CLOCK_ERROR_MS) }
}

/// One entry of the authority's change feed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Change {
    /// Which record.
    pub record: RecordId,
    /// The version that was installed; none when only foreign bytes are there.
    pub version: Option<Version>,
    /// The row sequence.
    pub row_seq: u64,
    /// A foreign write came after the version.
    pub foreign: bool,
    /// The place in the feed.
    pub seq: Seq,
}

/// What a coordinator asks of the authority again and again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Poll {
    /// Who asks: its own lapsed incarnations' marks are given at once.
    pub actor: Actor,
    /// Changes after this place.
    pub after: Seq,
    /// At most so many changes, and so many marks.
    pub limit: usize,
}

/// The answer to a [`Poll`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PollPage {
    /// The store side's clock.
    pub now: StoreTime,
    /// In feed order.
    pub changes: Vec<Change>,
    /// False: more changes wait after the last of these.
    pub complete: bool,
    /// The feed's last place.
    pub head: Seq,
    /// The datasets in which tombstones were reaped, and the latest stamp of these: whoever knows a
    /// dataset by its feed alone has not seen them.
    pub reaped: Vec<(Arc<str>, Stamp)>,
    /// Marks that nobody holds, or that the asking coordinator's former life held.
    pub lapsed: Vec<(RecordId, StoreId)>,
    /// When the first of the rows whose marks are all held has one that is not; `None`: no row
    /// has marks that are all held.
    pub next_lapse: Option<StoreTime>,
}

/// When the first of a row's marks has no holder any more; `None`: nothing is owed.
pub fn first_end(owed: &BTreeMap<StoreId, Vec<Lease>>) -> Option<StoreTime> {
    let held =
        |leases: &Vec<Lease>| leases.iter().map(|lease| lease.ends).max().unwrap_or_default();
    owed.values().map(held).min()
}

/// True when `actor` may take the mark over (see [`PollPage::lapsed`]).
pub fn lapsed(leases: &[Lease], actor: Actor, now: StoreTime) -> bool {
    newest(leases).is_none_or(|lease| {
        lease.ends <= now || (lease.holder.node == actor.node && lease.holder != actor)
    })
}

fn newest(leases: &[Lease]) -> Option<&Lease> {
    leases.iter().max_by_key(|lease| lease.epoch)
}

/// The answers to a batch.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BatchAnswer {
    /// The store side's clock when the batch was applied.
    pub now: StoreTime,
    /// One for each operation, in order.
    pub answers: Vec<RowAnswer>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::version::{ContentHash, Dot, NodeId, Sibling};
    use bytes::Bytes;

    fn actor(node: u16) -> Actor {
        Actor { node: NodeId(node), incarnation: 1 }
    }

    fn record() -> RecordId {
        RecordId { dataset: Arc::from("d"), key: "k".into() }
    }

    fn version(node: u16, counter: u64, over: &VersionVector) -> Version {
        let sibling = Sibling {
            dot: Dot { actor: actor(node), counter },
            stamp: Stamp { wall_ms: counter, logical: 0 },
            hash: ContentHash::of(&[node as u8, counter as u8]),
            bytes: 2,
            deleted: false,
            expires_at_ms: None,
        };
        Version::write(over, sibling)
    }

    fn install(row: Option<&Row>, node: u16, counter: u64, now: u64) -> (Row, Grant) {
        let expect = row.map(Row::expect).unwrap_or_default();
        let version = version(node, counter, &expect.history);
        let op = RowOp::Install(Box::new(Install {
            record: record(),
            expect,
            version,
            value: Stored::Inline(Bytes::from_static(b"v")),
            losers: vec![],
            owe: vec![StoreId::Kv],
            holder: actor(node),
        }));
        match apply_to_row(row, &op, StoreTime(now), Seq(1)) {
            (Some(row), RowAnswer::Installed { grant, .. }) => (row, grant),
            other => panic!("not installed: {other:?}"),
        }
    }

    fn claim(row: &Row, node: u16, renew: Option<Epoch>, quiet: Vec<Epoch>, now: u64) -> RowAnswer {
        let op = RowOp::Claim {
            record: record(),
            store: StoreId::Kv,
            holder: actor(node),
            renew,
            quiet,
        };
        apply_to_row(Some(row), &op, StoreTime(now), Seq(2)).1
    }

    fn clear(row: &Row, epoch: Epoch, quiet: Vec<Epoch>, now: u64) -> RowAnswer {
        let version = row.version.as_ref().unwrap().id();
        let op = RowOp::Clear { record: record(), store: StoreId::Kv, version, epoch, quiet };
        apply_to_row(Some(row), &op, StoreTime(now), Seq(2)).1
    }

    #[test]
    fn a2_an_install_tests_history_and_row_sequence() {
        let (mut row, _) = install(None, 1, 1, 0);
        let expect = row.expect();
        let op = |expect: Expect| {
            RowOp::Install(Box::new(Install {
                record: record(),
                version: version(1, 2, &expect.history),
                expect,
                value: Stored::Tombstone,
                losers: vec![],
                owe: vec![],
                holder: actor(1),
            }))
        };
        row.row_seq += 1; // what the trigger does for a foreign write
        let (changed, answer) = apply_to_row(Some(&row), &op(expect), StoreTime(1), Seq(2));
        assert_eq!(changed, None);
        assert_eq!(answer, RowAnswer::Moved(Some(row.clone())));
        let (changed, _) = apply_to_row(Some(&row), &op(row.expect()), StoreTime(1), Seq(2));
        assert!(changed.is_some_and(|row| !row.has_foreign_write()));
    }

    #[test]
    fn an_install_must_cover_what_it_replaces() {
        let (row, _) = install(None, 1, 1, 0);
        let op = RowOp::Install(Box::new(Install {
            record: record(),
            expect: row.expect(),
            version: version(2, 1, &VersionVector::new()),
            value: Stored::Tombstone,
            losers: vec![],
            owe: vec![],
            holder: actor(2),
        }));
        assert_eq!(
            apply_to_row(Some(&row), &op, StoreTime(1), Seq(2)),
            (None, RowAnswer::NotCovering)
        );
    }

    #[test]
    fn a_value_is_not_ended_before_its_time_by_the_authoritys_clock() {
        let first = version(1, 1, &VersionVector::new());
        let brief = Sibling { expires_at_ms: Some(500), ..*first.current() };
        let op = |version: &Version, row: &Row| {
            RowOp::Install(Box::new(Install {
                record: record(),
                expect: row.expect(),
                version: version.clone(),
                value: Stored::Tombstone,
                losers: vec![],
                owe: vec![StoreId::Kv],
                holder: actor(2),
            }))
        };
        let brief = Version::settled(first.history, brief);
        let (row, _) = apply_to_row(None, &op(&brief, &Row::default()), StoreTime(0), Seq(1));
        let row = row.expect("nothing was there");
        let end = op(&brief.expired(), &row);
        let early = apply_to_row(Some(&row), &end, StoreTime(499), Seq(2));
        assert_eq!(early, (None, RowAnswer::Moved(Some(row.clone()))));
        let (ended, _) = apply_to_row(Some(&row), &end, StoreTime(500), Seq(2));
        let ended = ended.expect("its time has come");
        assert!(ended.version.as_ref().is_some_and(|v| v.current().is_expired_form()));
        // Another coordinator's finds the row moved.
        let again = apply_to_row(Some(&ended), &end, StoreTime(501), Seq(3));
        assert_eq!(again, (None, RowAnswer::Moved(Some(ended.clone()))));
        // What vouched for the value's copy does not vouch for its absence.
        let op = RowOp::Clear {
            record: record(),
            store: StoreId::Kv,
            version: brief.id(),
            epoch: row.epoch,
            quiet: vec![],
        };
        assert_ne!(apply_to_row(Some(&ended), &op, StoreTime(501), Seq(3)).1, RowAnswer::Cleared);
    }

    #[test]
    fn a4_nobody_takes_over_before_the_lease_ends_and_old_entries_stay() {
        let (row, first) = install(None, 1, 1, 0);
        assert_eq!(
            claim(&row, 2, None, vec![], LEASE_MS - 1),
            RowAnswer::Held { ends: StoreTime(LEASE_MS) }
        );
        let RowAnswer::Claimed { row, grant } = claim(&row, 2, None, vec![], LEASE_MS) else {
            panic!("the lease has ended")
        };
        assert!(grant.epoch > first.epoch);
        let until = StoreTime(LEASE_MS + LAND_MS_MAX + CLOCK_ERROR_MS);
        assert_eq!(grant.others_until.get(&StoreId::Kv), Some(&until));
        assert_eq!(clear(&row, grant.epoch, vec![], until.0 - 1), RowAnswer::NotAlone { until });
        assert_eq!(clear(&row, grant.epoch, vec![], until.0), RowAnswer::Cleared);
    }

    #[test]
    fn a4_an_install_keeps_older_unexpired_entries() {
        let (row, _) = install(None, 1, 1, 0);
        let (row, grant) = install(Some(&row), 2, 1, 1_000);
        assert_eq!(row.owed[&StoreId::Kv].len(), 2);
        assert_eq!(
            grant.others_until.get(&StoreId::Kv),
            Some(&StoreTime(LEASE_MS + LAND_MS_MAX + CLOCK_ERROR_MS))
        );
    }

    #[test]
    fn a4_the_newest_install_holds_the_mark() {
        let (row, first) = install(None, 1, 1, 0);
        let (row, second) = install(Some(&row), 2, 1, 1_000);
        let held = RowAnswer::Held { ends: StoreTime(1_000 + LEASE_MS) };
        assert_eq!(claim(&row, 1, Some(first.epoch), vec![], 1_500), held);
        let RowAnswer::Claimed { grant, .. } = claim(&row, 2, Some(second.epoch), vec![], 1_500)
        else {
            panic!("the older lease is no obstacle to the newest holder")
        };
        assert_eq!(grant.epoch, second.epoch);
    }

    #[test]
    fn a5a_a_new_epoch_after_unknown_leaves_the_old_entry() {
        let (row, first) = install(None, 1, 1, 0);
        let RowAnswer::Claimed { row, grant } = claim(&row, 1, None, vec![], 100) else {
            panic!("an own lease is no obstacle")
        };
        assert_eq!(
            clear(&row, grant.epoch, vec![], 200),
            RowAnswer::NotAlone { until: StoreTime(LEASE_MS + LAND_MS_MAX + CLOCK_ERROR_MS) }
        );
        // Had the first lease's puts all been answered, its owner could take it back.
        assert_eq!(clear(&row, grant.epoch, vec![first.epoch], 200), RowAnswer::Cleared);
    }

    #[test]
    fn a5b_a_mark_is_cleared_for_its_own_version_only() {
        let (old, first) = install(None, 1, 1, 0);
        let (row, _) = install(Some(&old), 1, 2, 10);
        let version = old.version.as_ref().unwrap().id();
        let op = RowOp::Clear {
            record: record(),
            store: StoreId::Kv,
            version,
            epoch: first.epoch,
            quiet: vec![],
        };
        let (changed, answer) = apply_to_row(Some(&row), &op, StoreTime(20), Seq(3));
        assert_eq!((changed, answer), (None, RowAnswer::Moved(Some(row))));
    }

    #[test]
    fn a_mark_is_forgone_once_nothing_can_land_and_for_its_own_version_only() {
        let (row, _) = install(None, 1, 1, 0);
        let until = StoreTime(LEASE_MS + LAND_MS_MAX + CLOCK_ERROR_MS);
        let forgo = |row: &Row, of: &Row, now: u64| {
            let version = of.version.as_ref().unwrap().id();
            let op = RowOp::Forgo { record: record(), store: StoreId::Kv, version };
            apply_to_row(Some(row), &op, StoreTime(now), Seq(2))
        };
        assert_eq!(forgo(&row, &row, until.0 - 1), (None, RowAnswer::NotAlone { until }));
        let (after, answer) = forgo(&row, &row, until.0);
        assert_eq!(answer, RowAnswer::Cleared);
        let after = after.unwrap();
        assert!(after.owed.is_empty() && after.version == row.version);
        assert_eq!(forgo(&after, &row, until.0), (None, RowAnswer::NotOwed));
        // A write that came since owes the store again: a late message must not take that away.
        let (newer, _) = install(Some(&row), 1, 2, 10);
        assert_eq!(forgo(&newer, &row, 60_000), (None, RowAnswer::Moved(Some(newer.clone()))));
    }

    #[test]
    fn a_renewed_lease_keeps_its_epoch() {
        let (row, first) = install(None, 1, 1, 0);
        let RowAnswer::Claimed { row, grant } = claim(&row, 1, Some(first.epoch), vec![], 2_000)
        else {
            panic!("renewed")
        };
        assert_eq!((grant.epoch, grant.ends), (first.epoch, StoreTime(2_000 + LEASE_MS)));
        assert_eq!(row.owed[&StoreId::Kv].len(), 1);
        assert!(grant.others_until.is_empty());
    }

    #[test]
    fn a_former_life_is_lapsed_to_its_own_coordinator_alone() {
        let (row, _) = install(None, 1, 1, 0);
        let leases = &row.owed[&StoreId::Kv];
        let reborn = Actor { node: NodeId(1), incarnation: 2 };
        assert!(lapsed(leases, reborn, StoreTime(1)));
        assert!(!lapsed(leases, actor(1), StoreTime(1)));
        assert!(!lapsed(leases, actor(2), StoreTime(1)));
        assert!(lapsed(leases, actor(2), StoreTime(LEASE_MS)));
    }

    fn deleted(row: &Row, counter: u64) -> Row {
        let base = row.history();
        let dot = Dot { actor: actor(1), counter };
        let stamp = Stamp { wall_ms: counter, logical: 0 };
        let sibling = crate::resolve::sibling(dot, stamp, &Stored::Tombstone);
        let op = RowOp::Install(Box::new(Install {
            record: record(),
            expect: row.expect(),
            version: Version::write(&base, sibling),
            value: Stored::Tombstone,
            losers: vec![],
            owe: vec![],
            holder: actor(1),
        }));
        let (changed, _) = apply_to_row(Some(row), &op, StoreTime(1), Seq(2));
        Row { owed: BTreeMap::new(), ..changed.expect("installed") }
    }

    fn reap(row: &Row, floor: &Floor, next_seq: u64) -> (Changed, RowAnswer) {
        let version = row.version.as_ref().unwrap().id();
        let op = RowOp::Reap { record: record(), version };
        apply(Some(row), floor, &op, StoreTime(9), Seq(next_seq))
    }

    fn settled(counter: u64) -> Floor {
        let mut settled = VersionVector::new();
        settled.include(Dot { actor: actor(1), counter });
        Floor { settled, ..Floor::default() }
    }

    #[test]
    fn a6_a_tombstone_goes_when_nothing_needs_it_any_more() {
        let (live, _) = install(None, 1, 1, 0);
        let tombstone = deleted(&live, 2);
        let kept = (Changed::Nothing, RowAnswer::Kept);
        assert_eq!(reap(&live, &settled(9), 9), kept, "it is no tombstone");
        assert_eq!(reap(&tombstone, &settled(1), 9), kept, "its writer may still owe the delete");
        assert_eq!(reap(&tombstone, &settled(2), 3), kept, "it is where the feed ends");
        let owed = Row { owed: live.owed.clone(), ..tombstone.clone() };
        assert_eq!(reap(&owed, &settled(2), 9), kept, "a copy may still stand");
        let foreign = Row { row_seq: 9, ..tombstone.clone() };
        assert_eq!(reap(&foreign, &settled(2), 9), kept, "somebody has written since");
        let (changed, answer) = reap(&tombstone, &settled(2), 9);
        let Changed::Gone(floor) = changed else { panic!("{changed:?}") };
        assert_eq!(answer, RowAnswer::Reaped(floor.clone()));
        assert_eq!(floor.history, tombstone.history());
        assert!(floor.row_seq > tombstone.row_seq);
    }

    /// CAS(nothing -> w0) times out; delete; reap; the CAS lands where nothing is.
    #[test]
    fn a6_what_was_deleted_is_not_installed_where_its_tombstone_was_reaped() {
        let (live, _) = install(None, 1, 1, 0);
        let (Changed::Gone(floor), _) = reap(&deleted(&live, 2), &settled(2), 9) else {
            panic!("reaped")
        };
        let of = |version: Version, expect: Expect| {
            let op = RowOp::Install(Box::new(Install {
                record: record(),
                expect,
                version,
                value: Stored::Tombstone,
                losers: vec![],
                owe: vec![],
                holder: actor(1),
            }));
            apply(None, &floor, &op, StoreTime(9), Seq(10))
        };
        let first = live.version.clone().unwrap();
        let late = of(first.clone(), Expect::default());
        assert_eq!(late, (Changed::Nothing, RowAnswer::Dead));
        // From a snapshot, or another site: whatever it expects.
        let absent = Row::absent(&floor).unwrap();
        assert_eq!(of(first.clone(), absent.expect()).1, RowAnswer::Dead);
        // A conditional write that was cancelled: what it expected does not come back.
        let another = version(2, 7, &VersionVector::new());
        assert_eq!(
            of(another.clone(), Expect::default()).1,
            RowAnswer::Moved(Some(absent.clone()))
        );
        let (Changed::Row(row), _) = of(another, absent.expect()) else { panic!("a new record") };
        assert!(row.row_seq > floor.row_seq && !row.has_foreign_write());
        // Nor is there anything in it that what was written there since would have to be told of.
        assert!(floor.buries(&first, Some(&row)));
        assert!(!floor.buries(row.version.as_ref().unwrap(), Some(&row)));
    }
}
