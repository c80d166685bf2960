//! Reaping: tombstones go once nothing needs them any more (rule A6).
//!
//! ```text
//! this coordinator's writes up to n are decided ──> the authority, which joins what all say
//! a tombstone: no mark, all that it has seen decided, every other site has it
//!      └──> removed; what it had seen goes into the dataset's floor, in one transaction
//! a version at or below the floor turns up ──> dead: never installed, and buried again
//! ```
//!
//! Invariant: what a coordinator calls decided is in the authority, or can never be. Nothing is
//! reaped for its age. What cannot be proved to be decided keeps its tombstone: foreign writes,
//! and the last writes of a coordinator that never came back.

use super::Coordinator;
use super::install::{Candidate, Sent};
use super::reconcile::PAGE_KEYS;
use crate::conflict::By;
use crate::env::{Env, Network, Outcome};
use crate::policy::Dataset;
use crate::record::{Key, RecordId};
use crate::resolve;
use crate::row::{Floor, RowAnswer, RowOp, Seq};
use crate::version::{Actor, Dot, NodeId, SiteId, Version, VersionVector};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Tombstones removed in one turn.
const REAPS_MAX: usize = 500;
/// Pages of the ledger that are looked through for them in one turn.
const PAGES_MAX: usize = 20;
/// Tries to bury what is dead over a row that moves.
const BURY_TRIES: usize = 3;

/// What is known of what may be reaped.
#[derive(Debug, Default)]
pub(super) struct Reaping {
    /// By dataset, as the authority last gave them.
    floors: BTreeMap<Arc<str>, Floor>,
    /// Where the next turn goes on in a dataset.
    after: BTreeMap<Arc<str>, Key>,
    /// How far other sites have followed the feed here.
    reached: BTreeMap<SiteId, Seq>,
    /// The last write of each former life of this coordinator that its journal still owed when this
    /// one began. Earlier ones had been settled.
    former: BTreeMap<Actor, u64>,
}

impl Reaping {
    /// The journal still owes this write.
    pub(super) fn replayed(&mut self, own: NodeId, dot: Dot) {
        if dot.actor.node == own {
            let last = self.former.entry(dot.actor).or_default();
            *last = dot.counter.max(*last);
        }
    }

    /// What other sites have taken from this one, and what is decided here, is to be heard anew.
    pub(super) fn authority_went_back(&mut self) {
        self.floors.clear();
        self.after.clear();
        self.reached.clear();
    }

    /// A site has followed the feed here so far. Gives what is decided here.
    pub(super) fn heard(&mut self, site: SiteId, reached: Seq) -> VersionVector {
        let known = self.reached.entry(site).or_default();
        *known = reached.max(*known);
        let settled = self.floors.values().map(|floor| &floor.settled);
        settled.fold(VersionVector::new(), |all, settled| all.join(settled))
    }

    /// How far a site has followed the feed here, as far as it has told this coordinator.
    pub(super) fn reached(&self, site: SiteId) -> Seq {
        self.reached.get(&site).copied().unwrap_or_default()
    }

    pub(super) fn knows_floor(&self, dataset: &str) -> bool {
        self.floors.contains_key(dataset)
    }

    pub(super) fn note_floor(&mut self, dataset: Arc<str>, floor: Floor) {
        self.floors.insert(dataset, floor);
    }

    /// True when all of a history was deleted, and the tombstones reaped, as far as it is known.
    pub(super) fn is_below_floor(&self, dataset: &str, history: &VersionVector) -> bool {
        self.floors.get(dataset).is_some_and(|floor| floor.history.covers(history))
    }

    /// True when a write was deleted, and the tombstone reaped.
    pub(super) fn is_reaped(&self, dataset: &str, dot: Dot) -> bool {
        self.floors.get(dataset).is_some_and(|floor| floor.history.covers_dot(dot))
    }
}

impl<E: Env> Coordinator<E> {
    /// The floor below a record.
    pub(super) async fn floor(&self, record: &RecordId) -> Option<Floor> {
        let record = RecordId { dataset: record.dataset.clone(), key: Key::from("") };
        match self.row(RowOp::Settle { record, settled: VersionVector::new() }).await {
            Outcome::Applied((_, RowAnswer::Floor(floor))) => Some(floor),
            _ => None,
        }
    }

    /// Removes what may be removed of a dataset's tombstones, some in each turn.
    pub(super) async fn reap(&self, dataset: &Dataset) {
        let record = RecordId { dataset: dataset.name.clone(), key: Key::from("") };
        let settle = RowOp::Settle { record, settled: self.settled() };
        let Outcome::Applied((_, RowAnswer::Floor(floor))) = self.row(settle).await else { return };
        let reapable = self.reapable(&dataset.name, floor);
        let ops = reapable
            .iter()
            .map(|(record, version)| RowOp::Reap { record: record.clone(), version: version.id() });
        let answers = self.rows(ops.collect()).await;
        let mut state = self.state();
        for ((record, _), answer) in reapable.into_iter().zip(answers) {
            if let Outcome::Applied((_, RowAnswer::Reaped(floor))) = answer {
                state.counters.tombstones_reaped += 1;
                self.learn(&mut state, &record, None, floor.row_seq, Seq(0));
                state.reaping.floors.insert(dataset.name.clone(), floor);
            }
        }
    }

    /// Up to where writes are decided here, as far as this coordinator can say: its own, those of
    /// its former lives, and those of other sites.
    pub(super) fn settled(&self) -> VersionVector {
        let state = self.state();
        let own = self.actor.node;
        let mut last = state.reaping.former.clone();
        if state.counter > 0 {
            last.insert(self.actor, state.counter);
        }
        let owed = state.slots.values().flat_map(|slot| &slot.intents);
        for dot in owed.map(|pending| pending.intent.dot()).filter(|dot| dot.actor.node == own) {
            if let Some(last) = last.get_mut(&dot.actor) {
                *last = (*last).min(dot.counter - 1);
            }
        }
        let elsewhere = state.sites.values().map(|followed| followed.settled());
        let mut settled = elsewhere.fold(VersionVector::new(), |all, more| all.join(more));
        for (actor, counter) in last.into_iter().filter(|(_, counter)| *counter > 0) {
            settled.include(Dot { actor, counter });
        }
        settled
    }

    /// Tombstones that the authority would remove, and every other site has.
    fn reapable(&self, dataset: &Arc<str>, floor: Floor) -> Vec<(RecordId, Version)> {
        let here = self.site();
        let peers = self.env.network().peers();
        let mut state = self.state();
        let elsewhere = peers.iter().filter(|peer| peer.site != here);
        let through = elsewhere.map(|peer| state.reaping.reached(peer.site)).min();
        let mut reapable = Vec::new();
        let mut after = state.reaping.after.remove(dataset);
        for _ in 0..PAGES_MAX {
            let (mut looks, mut last) = (0, None);
            for (key, noted) in state.ledger.range(dataset, after.as_deref(), None).take(PAGE_KEYS)
            {
                (looks, last) = (looks + 1, Some(key));
                if noted.is_live() || through.is_some_and(|through| noted.seq() > through) {
                    continue;
                }
                if let Some(version) = noted.version()
                    && version.current().deleted
                    && floor.settled.covers(&version.history)
                {
                    let record = RecordId { dataset: dataset.clone(), key: key.clone() };
                    reapable.push((record, version));
                }
                if reapable.len() == REAPS_MAX {
                    break;
                }
            }
            let full = reapable.len() == REAPS_MAX;
            after = last.filter(|_| full || looks == PAGE_KEYS).cloned();
            if full || after.is_none() {
                break;
            }
            // Others get the lock between two pages.
            drop(state);
            state = self.state();
        }
        if let Some(after) = after {
            state.reaping.after.insert(dataset.clone(), after);
        }
        state.reaping.floors.insert(dataset.clone(), floor);
        reapable
    }

    /// Puts a tombstone where one was reaped, over a version that it had seen and that has turned up
    /// in a projection or at another site. True when one stands there, or something newer.
    pub(super) async fn bury(&self, dataset: &Dataset, record: &RecordId, dead: &Version) -> bool {
        let mut row = match self.row(RowOp::Read { record: record.clone() }).await {
            Outcome::Applied((_, RowAnswer::Read(row))) => row.map(|row| *row),
            _ => return false,
        };
        for _ in 0..BURY_TRIES {
            self.learn_row(record, row.as_ref());
            let found = row.take().unwrap_or_default();
            if !found.is_absent() {
                return true;
            }
            let held = resolve::buried(self.site(), record, dead);
            let (expect, by) = (found.expect(), By::Lww.into());
            let (losers, writes) = (Vec::new(), Vec::new());
            let candidate = Candidate { expect, held, losers, by, writes, conditional: None };
            match self.send_install(dataset, record, candidate).await {
                Sent::Done => {
                    self.state().counters.buried_again += 1;
                    tracing::warn!(
                        %record, version = %dead.etag(),
                        "a deleted version has turned up after its tombstone was reaped; it is \
                         deleted again"
                    );
                    return true;
                }
                Sent::Moved(now) => row = now,
                Sent::Dead
                | Sent::Failed
                | Sent::Away
                | Sent::Condemned(_)
                | Sent::Refused(_)
                | Sent::LoserRefused(..) => {
                    return false;
                }
            }
        }
        false
    }
}
