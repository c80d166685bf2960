//! The marks of a row: which projections are owed its version, and who may put it there.
//!
//! A mark is a list of leases. The newest says who holds it (rule A4); the older ones bound what may
//! still land (rules A5 to A5c).

use super::{Row, RowAnswer, StoreTime, moved};
use crate::record::{StoreId, StoreMap};
use crate::version::{Actor, VersionId};
use serde::{Deserialize, Serialize};

/// How long a lease lasts. Longer than [`REPUT_MS`], else two coordinators take over from each
/// other for ever.
pub const LEASE_MS: u64 = 2_200;
/// A holder that may not clear yet puts the newest version again this often.
pub const REPUT_MS: u64 = 1_500;
/// The longest that a request which the store side has accepted may take to land.
pub const LAND_MS_MAX: u64 = 750;
/// How far the clocks of the store side may stand apart.
pub const CLOCK_ERROR_MS: u64 = 250;

/// Numbers the leases of one row.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
pub struct Epoch(pub u64);

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

/// A lease as its holder sees it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Grant {
    /// Which lease.
    pub epoch: Epoch,
    /// When it ends.
    pub ends: StoreTime,
    /// Until when puts of others (or of this coordinator's former life) can land, per projection
    /// where that is still to come. A projection that is absent here: the holder is alone.
    pub others_until: StoreMap<StoreTime>,
}

impl Row {
    /// When the last put of anybody but `own` can land at `store`; `None`: nobody else has a
    /// live lease.
    pub(super) fn others_until(
        &self,
        store: StoreId,
        own: Epoch,
        now: StoreTime,
    ) -> Option<StoreTime> {
        let leases = self.owed.get(&store)?;
        leases.iter().filter(|l| l.epoch != own && l.until > now).map(|l| l.until).max()
    }
}

/// When the first of a row's marks has no holder any more; `None`: nothing is owed.
pub fn first_end(owed: &StoreMap<Vec<Lease>>) -> Option<StoreTime> {
    let held =
        |leases: &Vec<Lease>| leases.iter().map(|lease| lease.ends).max().unwrap_or_default();
    owed.values().map(held).min()
}

/// True when `actor` may take the mark over (see [`PollPage::lapsed`](super::PollPage::lapsed)).
pub fn lapsed(leases: &[Lease], actor: Actor, now: StoreTime) -> bool {
    newest(leases).is_none_or(|lease| {
        lease.ends <= now || (lease.holder.node == actor.node && lease.holder != actor)
    })
}

fn newest(leases: &[Lease]) -> Option<&Lease> {
    leases.iter().max_by_key(|lease| lease.epoch)
}

pub(super) fn lease(epoch: Epoch, holder: Actor, now: StoreTime) -> Lease {
    let ends = StoreTime(now.0 + LEASE_MS);
    Lease { epoch, holder, ends, until: StoreTime(ends.0 + LAND_MS_MAX + CLOCK_ERROR_MS) }
}

fn owed(row: Option<&Row>, store: StoreId) -> Option<(&Row, &Vec<Lease>)> {
    let row = row?;
    Some((row, row.owed.get(&store)?))
}

fn cleared(row: &Row, store: StoreId) -> Row {
    let mut row = row.clone();
    row.owed.remove(&store);
    row
}

fn is_of(row: &Row, version: &VersionId) -> bool {
    row.version
        .as_ref()
        .is_some_and(|held| held.history == version.history && held.current().hash == version.hash)
}

pub(super) fn apply_claim(
    row: Option<&Row>,
    store: StoreId,
    holder: Actor,
    renew: Option<Epoch>,
    quiet: &[Epoch],
    now: StoreTime,
) -> (Option<Row>, RowAnswer) {
    let Some((row, leases)) = owed(row, store) else {
        return (None, RowAnswer::NotOwed);
    };
    let (mut row, mut leases) = (row.clone(), leases.clone());
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
            row.epoch = row.next_epoch();
            let fresh = lease(row.epoch, holder, now);
            leases.push(fresh);
            fresh
        }
    };
    row.owed.insert(store, leases);
    let mut others_until = StoreMap::default();
    if let Some(until) = row.others_until(store, mine.epoch, now) {
        others_until.insert(store, until);
    }
    let grant = Grant { epoch: mine.epoch, ends: mine.ends, others_until };
    (Some(row.clone()), RowAnswer::Claimed { row: Box::new(row), grant })
}

pub(super) fn apply_owe(
    row: Option<&Row>,
    store: StoreId,
    version: &VersionId,
    holder: Actor,
    now: StoreTime,
) -> (Option<Row>, RowAnswer) {
    let Some(row) = row.filter(|row| is_of(row, version)) else {
        return (None, moved(row));
    };
    if row.has_foreign_write() {
        return (None, moved(Some(row)));
    }
    if let Some(leases) = row.owed.get(&store) {
        // Marked already: whoever holds the mark puts this version, or lets it lapse.
        let ends = newest(leases).map_or(now, |lease| lease.ends);
        return (None, RowAnswer::Held { ends });
    }
    let mut row = row.clone();
    row.epoch = row.next_epoch();
    let lease = lease(row.epoch, holder, now);
    row.owed.insert(store, vec![lease]);
    // No mark means that no other put can be in flight.
    let grant = Grant { epoch: lease.epoch, ends: lease.ends, others_until: StoreMap::default() };
    (Some(row.clone()), RowAnswer::Claimed { row: Box::new(row), grant })
}

pub(super) fn apply_clear(
    row: Option<&Row>,
    store: StoreId,
    version: &VersionId,
    epoch: Epoch,
    quiet: &[Epoch],
    now: StoreTime,
) -> (Option<Row>, RowAnswer) {
    let Some((row, leases)) = owed(row, store) else {
        return (None, RowAnswer::NotOwed);
    };
    if !is_of(row, version) || !leases.iter().any(|lease| lease.epoch == epoch) {
        return (None, moved(Some(row)));
    }
    let others = leases
        .iter()
        .filter(|lease| lease.epoch != epoch && lease.until > now && !quiet.contains(&lease.epoch));
    if let Some(until) = others.map(|lease| lease.until).max() {
        return (None, RowAnswer::NotAlone { until });
    }
    (Some(cleared(row, store)), RowAnswer::Cleared)
}

pub(super) fn apply_release(
    row: Option<&Row>,
    store: StoreId,
    quiet: &[Epoch],
) -> (Option<Row>, RowAnswer) {
    let Some((row, _)) = owed(row, store) else {
        return (None, RowAnswer::NotOwed);
    };
    let mut row = row.clone();
    let leases = row.owed.get_mut(&store).expect("it has the mark");
    leases.retain(|lease| !quiet.contains(&lease.epoch));
    (Some(row), RowAnswer::Released)
}

pub(super) fn apply_forgo(
    row: Option<&Row>,
    store: StoreId,
    version: &VersionId,
    now: StoreTime,
) -> (Option<Row>, RowAnswer) {
    let Some((row, leases)) = owed(row, store) else {
        return (None, RowAnswer::NotOwed);
    };
    if !is_of(row, version) {
        return (None, moved(Some(row)));
    }
    if let Some(until) = leases.iter().map(|lease| lease.until).max().filter(|until| *until > now) {
        return (None, RowAnswer::NotAlone { until });
    }
    (Some(cleared(row, store)), RowAnswer::Cleared)
}
