//! The checker: its own model of what was promised, held against what the stores show.
//!
//! Invariant: it never asks the engine. It sees what sessions were told, what reached the journal
//! disks, and every change of every store, and compares versions by their entries alone.

mod authority;
mod copies;
mod erased;
mod fate;
mod invariant;
mod journals;
mod logs;
mod session;
mod sets;
mod wait;

pub use copies::{Copy, Damage};
pub use fate::{Fate, Present, is_readable};
pub use invariant::{Invariant, Violation};
pub use session::{Asked, Told};
pub use sets::{Law, counted};
pub use wait::Awaited;

use crate::world::EPOCH_MS;
use authority::{Observed, is_reaped};
use copies::{Projection, Tally};
use journals::Issued;
use std::collections::{BTreeMap, BTreeSet};
use tidelock_engine::record::{RecordId, StoreId};
use tidelock_engine::version::{ContentHash, Dot, NodeId, SiteId, VersionVector};
use wait::{Wait, note_wait};

const PROJECTIONS: [StoreId; 2] = [StoreId::Kv, StoreId::R2];

fn at(store: StoreId) -> usize {
    match store {
        StoreId::Kv => 0,
        StoreId::R2 => 1,
        StoreId::D1 => unreachable!("the authority is no projection"),
    }
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
    /// Writes that an authority has refused to show, for good or for a while.
    unshown: BTreeSet<Dot>,
    /// The operations of foreign writes to projections.
    in_projections: BTreeSet<u32>,
    /// Of datasets whose concurrent values the last writer does not decide.
    laws: BTreeMap<String, Law>,
    /// What authorities made of several values.
    made: BTreeSet<(ContentHash, RecordId)>,
    /// Whose bytes somebody asked to be erased.
    to_erase: BTreeSet<(RecordId, Dot)>,
    /// Where they are erased.
    erased: BTreeSet<(SiteId, RecordId, Dot)>,
    /// What became of a counter with increments: two of the same count may be of the same bytes.
    increased: BTreeMap<(RecordId, ContentHash), u32>,
    /// Written under a condition that may have failed.
    conditional: BTreeSet<Dot>,
    /// What writes add to counters.
    adds: BTreeMap<u32, u64>,
    /// Acknowledged while no store had confirmed them: promised to survive crashes alone.
    local: BTreeSet<Dot>,
    /// Lost with a coordinator's disk, while the authority did not hold them.
    lost_with_disk: BTreeSet<Dot>,
    /// Both, and nowhere at the end.
    excused: BTreeSet<Dot>,
    /// Coordinators that never come back: nobody waits for what they owe.
    outside: BTreeSet<NodeId>,
    /// Sites whose coordinators have all left: nobody keeps their stores equal any more.
    ended: BTreeSet<SiteId>,
    /// What stands in journals at the end, and whether it is that of one of those.
    in_journals: BTreeSet<(Dot, bool)>,
    violations: Vec<Violation>,
    checked: [u64; Invariant::ALL.len()],
}

/// A value is gone everywhere so long after its time, once nothing is wrong.
const GONE_WITHIN_MS: u64 = 5_000;

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

    /// Those that somebody answers for.
    fn sites(&self) -> impl Iterator<Item = SiteId> + use<> {
        let ended = self.ended.clone();
        let all = 0..u16::try_from(self.rows.len()).expect("a scenario has few sites");
        all.map(SiteId).filter(move |site| !ended.contains(site))
    }

    /// The last coordinator of a site has left it: what the site has, others have as well, and its own copies
    /// are equal. From here on nothing is asked of it.
    pub fn site_ends(&mut self, at_ms: u64, site: SiteId) {
        let unequal = self.rows[usize::from(site.0)].values().flat_map(|row| &row.projections);
        let waits = |of: &&Projection| of.unequal_since_ms.is_some() && !of.poisoned;
        let unequal = unequal.filter(waits).count();
        self.hold(Invariant::Convergence, at_ms, unequal == 0, || {
            format!("everybody left {site} while {unequal} of its copies were not equal")
        });
        self.tally.unequal -= unequal;
        self.ended.insert(site);
        self.unconfirmed.retain(|(_, waiting), _| *waiting != site);
        let records: Vec<RecordId> = self.apart.keys().cloned().collect();
        for record in records {
            self.compare_sites(at_ms, &record);
        }
    }

    /// Somebody answers for a site again, which has what it had.
    pub fn site_begins(&mut self, at_ms: u64, site: SiteId) {
        if self.ended.remove(&site) {
            let records = self.rows.iter().flat_map(|rows| rows.keys().cloned());
            for record in records.collect::<BTreeSet<_>>() {
                self.compare_sites(at_ms, &record);
            }
        }
    }

    /// True for a site that nobody answers for.
    pub fn has_ended(&self, site: SiteId) -> bool {
        self.ended.contains(&site)
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

    /// When the last of the values that were given a time expires, in virtual time.
    pub fn last_expiry_ms(&self) -> u64 {
        self.expires.values().max().map_or(0, |at_ms| at_ms.saturating_sub(EPOCH_MS))
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

    /// The authority refused to show a write.
    pub fn refused_to_show(&mut self, dot: Dot) {
        self.unshown.insert(dot);
    }

    /// The authority refused a value for good, as it always will.
    pub fn refused_by_the_authority(&mut self, value: &[u8]) {
        let hash = ContentHash::of(value);
        self.poison.insert(hash);
        let issued = &self.issued;
        self.unconfirmed.retain(|(dot, _), _| issued.get(dot).is_none_or(|i| i.hash != hash));
    }

    /// True while sites hold different versions of some record.
    pub fn is_apart(&self) -> bool {
        !self.apart.is_empty()
    }

    /// True when every store is equal and every acknowledged write confirmed.
    pub fn is_settled(&self) -> bool {
        self.tally.unequal == 0
            && self.tally.damaged == 0
            && self.unconfirmed.is_empty()
            && self.apart.is_empty()
    }

    /// What stayed unsettled for longest once the faults had ended, and for how long, counted from
    /// then or from when it became owed.
    pub fn longest_wait(&self, healed_ms: u64) -> Option<(u64, &Awaited)> {
        let after = |wait: &Wait| wait.to_ms.saturating_sub(healed_ms.max(wait.from_ms));
        let longest = self.tally.waits.iter().max_by_key(|wait| after(wait))?;
        Some((after(longest), &longest.of)).filter(|(took_ms, _)| *took_ms > 0)
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
}

fn covers(history: &VersionVector, dot: Dot) -> bool {
    history.counter(dot.actor) >= dot.counter
}

/// How many foreign writes a history includes.
fn foreign_writes(history: &VersionVector) -> u64 {
    let foreign = history.iter().filter(|(actor, _)| actor.node == NodeId::FOREIGN);
    foreign.map(|(_, counter)| counter).sum()
}
