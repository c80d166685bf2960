//! What a coordinator says of itself.

use super::{Coordinator, Pass};
use crate::breaker::Forced;
use crate::dead_letter::Ending;
use crate::env::{Env, Outcome};
use crate::health::HealthReport;
use crate::ledger::Noted;
use crate::policy::{Dataset, Pace};
use crate::record::{RecordId, StoreId};
use crate::recovery::RecoveryReport;
use crate::row::{RowAnswer, RowOp, Seq};
use crate::version::{Actor, Dot, SiteId, Version};
use serde::Serialize;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

/// Counts since the start.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Counters {
    /// Writes acknowledged, pending ones included.
    pub writes_acknowledged: u64,
    /// Of these, acknowledged before every write-through store had confirmed.
    pub writes_pending: u64,
    /// Writes that did not happen.
    pub writes_refused: u64,
    /// Conditional writes whose condition did not hold at the authority.
    pub writes_cancelled: u64,
    /// Writes that may have happened.
    pub writes_unknown: u64,
    /// Reads.
    pub reads: u64,
    /// Journal commits, each one fsync.
    pub commits: u64,
    /// Intents that these carried.
    pub committed_intents: u64,
    /// Commits refused because the journal's disk had no room.
    pub journal_full: u64,
    /// Intents found in the journal at the start.
    pub replayed_intents: u64,
    /// Versions installed at the authority.
    pub installs: u64,
    /// Compare-and-sets that found the row moved.
    pub installs_moved: u64,
    /// Versions that the authority can never keep.
    pub installs_poisoned: u64,
    /// Values that lost a conflict, kept beside the winner.
    pub conflicts: u64,
    /// Foreign writes taken in.
    pub foreign_writes: u64,
    /// Puts and deletes sent to projections.
    pub puts: u64,
    /// Of these, without an answer.
    pub puts_unknown: u64,
    /// Of these, copies that the store can never keep.
    pub puts_poisoned: u64,
    /// Marks cleared.
    pub clears: u64,
    /// Marks taken over from others or from a former life.
    pub taken_over: u64,
    /// Answers of 429.
    pub rate_limited: u64,
    /// Copies whose bytes did not match their hash, not served.
    pub copies_damaged: u64,
    /// Values that were read and hashed to see whether their bytes were changed.
    pub values_scrubbed: u64,
    /// Looks over everything that a store holds of a dataset.
    pub passes: u64,
    /// Of these, such as changed nothing because their plan looked wrong.
    pub passes_held: u64,
    /// Copies and records that were held against each other.
    pub copies_compared: u64,
    /// Copies that differed from the authority, and did so twice.
    pub copies_differing: u64,
    /// Copies that were put again for it.
    pub copies_put_again: u64,
    /// Tombstones that nothing needed any more.
    pub tombstones_reaped: u64,
    /// Blobs that nothing referred to any more, deleted.
    pub blobs_collected: u64,
    /// Installs that were refused because a blob of theirs may have been about to go.
    pub blobs_doubted: u64,
    /// Deleted versions that turned up after that, and were deleted again.
    pub buried_again: u64,
    /// Leaf sums of D1 that were held against the ledger.
    pub leaves_compared: u64,
    /// Of these, such as differed; their rows were read.
    pub leaves_differing: u64,
    /// Rows of D1 that the change feed had not shown.
    pub ledger_news: u64,
    /// Looks over some of what has changed since the last look over everything.
    pub recent_passes: u64,
    /// Trees that were compared with another site's.
    pub trees_compared: u64,
    /// Leaves of other sites whose versions were read because they differed.
    pub site_leaves_read: u64,
    /// Records of another site that its feed had not shown.
    pub missed_by_feeds: u64,
    /// Times that D1 was found to have gone back, and everything was read anew.
    pub ledgers_forgotten: u64,
    /// Reads that found a copy missing or old, and had it put again.
    pub read_repairs: u64,
    /// Foreign writes that their dataset cannot hold, left where they are.
    pub foreign_refused: u64,
    /// Values whose time has passed, and whose tombstone this coordinator made.
    pub expired: u64,
    /// Losers whose bytes the authority does not take either: dead letters keep them.
    pub losers_in_letters: u64,
    /// Policies that were put in force after the first.
    pub reloads: u64,
    /// Marks that were taken away because the dataset is not kept there any more.
    pub forgone: u64,
    /// Breakers opened.
    pub breaker_opened: u64,
    /// Probes sent while a breaker was not closed.
    pub probes: u64,
    /// The furthest that a stamp was ahead of this clock, in milliseconds, when over the bound.
    pub clock_drift_ms_max: u64,
}

/// A store as this coordinator sees it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct StoreStatus {
    /// Which.
    pub store: StoreId,
    /// `closed`, `open`, `half-open`, `forced-open` or `forced-closed`.
    pub breaker: &'static str,
    /// What an operator has forced the breaker to be, and why; `None`: it is automatic.
    pub forced: Option<Forced>,
    /// So many batches (D1), or puts (KV, R2), may be under way at once: fewer while the store has too
    /// much to do, or has only just come back.
    pub width: usize,
    /// How long it took, each time that it answered again, until it had what it was owed.
    pub recovery: RecoveryReport,
    /// Retries since the start.
    pub retries: u64,
    /// How many more the store may be asked for now, beside what time and first tries bring.
    pub retries_left: u64,
    /// Records that this coordinator owes it work on, but for what it will not take.
    pub backlog: usize,
    /// For how long the oldest of that has been owed; `None`: nothing is.
    pub oldest_ms: Option<u64>,
    /// How long it will take to work that off. `None`: the store does not answer, or nothing was
    /// measured yet.
    pub drain_ms: Option<u64>,
    /// How it does.
    pub health: HealthReport,
}

/// What waits of one dataset.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct DatasetBacklog {
    /// Which.
    pub dataset: Arc<str>,
    /// Writes that the authority may lack.
    pub writes: usize,
    /// Bytes of their values.
    pub bytes: usize,
    /// Records that each store is owed.
    pub behind: BTreeMap<StoreId, usize>,
    /// When all of its stores will have what they are owed. `None`: one does not answer, or nothing
    /// was measured yet.
    pub drain_ms: Option<u64>,
}

/// Another site as this coordinator sees it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct SiteStatus {
    /// Which.
    pub site: SiteId,
    /// Its feed was followed up to here.
    pub cursor: Seq,
    /// Everything up to here is in the authority here.
    pub reached: Seq,
    /// Its versions that wait for the authority here.
    pub adopting: usize,
    /// Requests in a row that it did not answer.
    pub failures: u32,
}

/// A coordinator's state.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Status {
    /// Who.
    pub actor: Actor,
    /// The ledger knows every record.
    pub ledger_complete: bool,
    /// Records in the ledger, tombstones included.
    pub records: usize,
    /// Of these, tombstones.
    pub tombstones: usize,
    /// Intents that the authority does not hold yet.
    pub intents: usize,
    /// Bytes of their values.
    pub intent_bytes: usize,
    /// What waits of each dataset.
    pub backlogs: Vec<DatasetBacklog>,
    /// Per store.
    pub stores: Vec<StoreStatus>,
    /// The feeds of other sites.
    pub sites: Vec<SiteStatus>,
    /// The last look over each projection: what differed, what mending it is billed, and whether an
    /// operator has to approve that.
    pub passes: Vec<Pass>,
    /// Writes and copies that a store refuses for good.
    pub dead_letters: usize,
    /// Since the start.
    pub counters: Counters,
}

/// Whether a coordinator makes progress, and takes writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pulse {
    /// The ledger knows every record.
    pub ledger_complete: bool,
    /// The journal's last commit found no room on its disk.
    pub journal_full: bool,
    /// For how long a commit has been under way; `None`: none is.
    pub commit_for: Option<Duration>,
    /// As much waits for the authority as the coordinator may hold.
    pub queue_full: bool,
}

/// How far an operation has come.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "state", rename_all = "kebab-case")]
pub enum OperationState {
    /// Durable here; the authority does not hold it yet.
    Pending,
    /// The authority holds it, or a version that includes it.
    Applied {
        /// Projections that this coordinator is still bringing up to date.
        pending: Vec<StoreId>,
    },
    /// The authority refuses it for good; it waits for an operator's decision, or for a later write
    /// that includes it.
    Dead {
        /// The dead letter.
        letter: String,
        /// The authority's words.
        reason: String,
    },
    /// An operator gave it up.
    Discarded {
        /// Why.
        reason: String,
    },
    /// It was conditional, and its condition did not hold.
    Cancelled,
}

impl<E: Env> Coordinator<E> {
    /// The state at this moment.
    pub fn status(&self) -> Status {
        let (state, now) = (self.state(), self.now());
        let stores = StoreId::ALL.into_iter().map(|store| StoreStatus {
            store,
            breaker: state.breakers[store].state().name(),
            forced: state.forced.get(&store).cloned(),
            width: state.concurrency[store].width(),
            recovery: state.recoveries[store].report().clone(),
            retries: state.lanes[store].retries().0,
            retries_left: state.lanes[store].retries().1,
            backlog: state.backlog(store),
            oldest_ms: state.lanes[store].oldest().map(|since| millis(now.saturating_sub(since))),
            drain_ms: state.predicted_drain(store, &self.pace).map(millis),
            health: state.health[store].report(now),
        });
        Status {
            actor: self.actor,
            ledger_complete: state.ledger.is_complete(),
            records: state.ledger.len(),
            tombstones: state.ledger.tombstones(),
            // What a dead letter alone keeps waits for nobody.
            intents: state.held.all().writes - state.lost.len(),
            intent_bytes: state.held.all().bytes,
            backlogs: state
                .policy
                .datasets
                .values()
                .map(|of| state.backlog_of(of, &self.pace))
                .collect(),
            stores: stores.collect(),
            sites: state.sites.iter().map(|(site, followed)| followed.status(*site)).collect(),
            passes: state.passes.values().cloned().collect(),
            dead_letters: state.letters.len(),
            counters: state.counters.clone(),
        }
    }

    /// Whether it makes progress, and takes writes.
    pub fn pulse(&self) -> Pulse {
        let (state, now) = (self.state(), self.now());
        Pulse {
            ledger_complete: state.ledger.is_complete(),
            journal_full: state.journal_full,
            commit_for: state.commit_since.map(|since| now.saturating_sub(since)),
            queue_full: state.is_queue_full(&self.pace),
        }
    }

    /// True when nothing is owed by this coordinator, but for dead letters.
    pub fn is_idle(&self) -> bool {
        let (state, now) = (self.state(), self.now());
        state.slots.iter().all(|(record, slot)| {
            slot.intents.iter().all(|pending| pending.dead)
                && slot.owed.keys().all(|store| state.is_copy_dead(record, *store, now))
        })
    }

    /// True when a store's breaker lets work through.
    pub fn admits(&self, store: StoreId) -> bool {
        self.state().admits(store)
    }

    /// True when every breaker lets work through.
    pub fn admits_all(&self) -> bool {
        let state = self.state();
        StoreId::ALL.into_iter().all(|store| state.admits(store))
    }

    /// How far an operation has come; `None`: not one that this coordinator remembers.
    pub async fn operation(&self, dot: Dot) -> Option<OperationState> {
        let record = {
            let state = self.state();
            let record = state.operations.get(dot)?.clone();
            let slot = state.slots.get(&record);
            let waits = slot.is_some_and(|s| s.intents.iter().any(|p| p.intent.dot() == dot));
            if waits || state.lost.contains_key(&dot) {
                let letter = state.letters.at(&record, StoreId::D1).find(|l| l.dot == dot);
                let dead = letter.filter(|letter| letter.retry_at.is_some());
                return Some(dead.map_or(OperationState::Pending, |letter| OperationState::Dead {
                    letter: letter.id.clone(),
                    reason: letter.reason().to_owned(),
                }));
            }
            let ended = state.letters.ended().find(|ended| ended.letter.dot == dot);
            if let Some(Ending::Discarded { reason }) = ended.map(|ended| &ended.ending) {
                return Some(OperationState::Discarded { reason: reason.clone() });
            }
            record
        };
        if self.ledger_covers(&record, dot) {
            return Some(OperationState::Applied { pending: self.pending_projections(&record) });
        }
        match self.row(RowOp::Read { record: record.clone() }).await {
            Outcome::Applied((_, RowAnswer::Read(row))) => {
                self.learn_row(&record, row.as_deref());
                let version = row.and_then(|row| row.version);
                if version.is_some_and(|version| version.history.covers_dot(dot)) {
                    Some(OperationState::Applied { pending: self.pending_projections(&record) })
                } else if self.state().reaping.is_reaped(&record.dataset, dot) {
                    // It was deleted since, and the tombstone is gone.
                    Some(OperationState::Applied { pending: Vec::new() })
                } else {
                    Some(OperationState::Cancelled)
                }
            }
            _ => Some(OperationState::Pending),
        }
    }

    fn ledger_covers(&self, record: &RecordId, dot: Dot) -> bool {
        self.state().ledger.holds(record, dot).is_some()
    }

    fn pending_projections(&self, record: &RecordId) -> Vec<StoreId> {
        let state = self.state();
        state.slots.get(record).map(|slot| slot.owed.keys().copied().collect()).unwrap_or_default()
    }

    /// Records that exist, of one dataset, in key order, after `after`, at most `limit`. Complete
    /// once [`Status::ledger_complete`].
    pub fn list(&self, dataset: &str, after: Option<&str>, limit: usize) -> Vec<(String, Version)> {
        let state = self.state();
        let now = state.store_time_least(self.now());
        let live = |noted: &Noted<'_>| {
            noted.is_live() && noted.stands_until_ms().is_none_or(|at_ms| at_ms > now.0)
        };
        state
            .ledger
            .range(dataset, after, None)
            .filter(|(_, noted)| live(noted))
            .filter_map(|(key, noted)| Some((key.to_string(), noted.version()?)))
            .take(limit)
            .collect()
    }
}

impl super::State {
    fn backlog_of(&self, dataset: &Dataset, pace: &Pace) -> DatasetBacklog {
        let stores = || std::iter::once(StoreId::D1).chain(dataset.projections());
        let waiting = self.held.of(&dataset.name);
        let drains: Option<Vec<_>> =
            stores().map(|store| self.predicted_drain(store, pace)).collect();
        DatasetBacklog {
            dataset: dataset.name.clone(),
            writes: waiting.writes,
            bytes: waiting.bytes,
            behind: stores()
                .map(|store| (store, self.lanes[store].len_of(&dataset.name)))
                .collect(),
            drain_ms: drains.and_then(|drains| drains.into_iter().max()).map(millis),
        }
    }

    /// What a store is owed; what is parked is not worked off.
    pub(super) fn backlog(&self, store: StoreId) -> usize {
        let lane = &self.lanes[store];
        lane.len() - lane.parked()
    }

    /// How long a store will take for what it is owed. `None`: it does not answer, or nothing was
    /// measured yet.
    pub(super) fn predicted_drain(&self, store: StoreId, pace: &Pace) -> Option<Duration> {
        let width = self.width(store, pace);
        let backlog = self.backlog(store);
        if backlog > 0 && !self.admits(store) {
            return None;
        }
        self.health[store].predicted_drain(backlog, width)
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
