//! Expiry: what becomes of a value whose time has passed.
//!
//! ```text
//! time passes ──> nobody reads it any more ──> its row becomes a tombstone, by compare-and-set over
//!                                              exactly that version ──> the copies are deleted
//! ```
//!
//! Time is the store side's. A coordinator knows it from the authority's answers to within the time
//! that they took: it gives a value at least its time, and ends none before it.
//!
//! Invariant: the tombstone is the same write without its bytes ([`Version::expired`]), so it is the
//! same whoever makes it, no write of anybody is lost to it that would not have lost to the value, and
//! nothing of it needs a journal: as long as it is not made, whoever looks makes it again.

use super::install::{Candidate, Sent};
use super::{Coordinator, State};
use crate::conflict::By;
use crate::env::{Clock, Env, Outcome};
use crate::lane::{Next, Priority};
use crate::policy::{Dataset, Policy};
use crate::record::{Key, RecordId, StoreId, Stored};
use crate::resolve::Held;
use crate::retry::PAUSE_MAX;
use crate::row::{CLOCK_ERROR_MS, RowAnswer, RowOp, Seq, StoreTime};
use crate::version::Version;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

/// Each coordinator waits so much longer than the one before it: one is enough.
const APART: Duration = Duration::from_secs(1);
/// Before the next try of one that found its row moved.
const AGAIN_AFTER: Duration = Duration::from_secs(1);
/// Records that are handed to the authority's lane at once; the others follow.
const AT_ONCE_MAX: usize = 256;
/// Between two such hands.
const PAUSE: Duration = Duration::from_millis(250);
/// Two monotonic clocks part by less than a thousandth.
const DRIFT_ONE_IN: u32 = 1_000;

/// When the store side's clock showed what.
#[derive(Clone, Copy, Debug)]
pub(super) struct Reading {
    shown: StoreTime,
    /// By the monotonic clock here: it was read between these.
    sent_at: Duration,
    received_at: Duration,
}

impl Reading {
    /// The store side's time is no less than this.
    fn least(&self, now: Duration) -> StoreTime {
        StoreTime(self.shown.0 + milliseconds(now.saturating_sub(self.received_at)))
    }

    /// And no more than this.
    fn most(&self, now: Duration) -> StoreTime {
        StoreTime(self.shown.0 + milliseconds(now.saturating_sub(self.sent_at)))
    }

    /// The better one: an answer that was long on its way says less than an earlier one, unless that
    /// is so old that clocks have drifted, or the store side's clock was set since.
    fn or_newer(self, newer: Reading) -> Reading {
        let now = newer.received_at;
        let width = self.received_at.saturating_sub(self.sent_at)
            + now.saturating_sub(self.received_at) / DRIFT_ONE_IN;
        let was_set = self.most(now) < newer.least(now) || newer.most(now) < self.least(now);
        if !was_set && width < newer.received_at.saturating_sub(newer.sent_at) {
            self
        } else {
            newer
        }
    }
}

/// The values whose time will pass: those of each dataset, the next one first.
#[derive(Debug, Default)]
pub(super) struct Expiries {
    by_dataset: BTreeMap<Arc<str>, BTreeSet<(u64, Key)>>,
}

impl Expiries {
    fn insert(&mut self, record: &RecordId, at_ms: u64) {
        let RecordId { dataset, key } = record;
        self.by_dataset.entry(dataset.clone()).or_default().insert((at_ms, key.clone()));
    }

    fn remove(&mut self, record: &RecordId, at_ms: u64) {
        let Some(expiries) = self.by_dataset.get_mut(&record.dataset) else { return };
        expiries.remove(&(at_ms, record.key.clone()));
        if expiries.is_empty() {
            self.by_dataset.remove(&record.dataset);
        }
    }

    pub(super) fn clear(&mut self) {
        self.by_dataset.clear();
    }

    /// The next one's time. Those of a dataset that was taken out of the configuration wait for its
    /// return.
    fn first_ms(&self, policy: &Policy) -> Option<u64> {
        let kept = self.by_dataset.iter().filter(|(name, _)| policy.datasets.contains_key(*name));
        kept.filter_map(|(_, expiries)| Some(expiries.first()?.0)).min()
    }

    /// Takes one whose time has passed.
    fn take_due(&mut self, policy: &Policy, now_ms: u64) -> Option<RecordId> {
        let due = |(name, expiries): (&Arc<str>, &BTreeSet<(u64, Key)>)| {
            let (at_ms, key) = expiries.first()?;
            let due = *at_ms <= now_ms && policy.datasets.contains_key(name);
            due.then(|| (*at_ms, RecordId { dataset: name.clone(), key: key.clone() }))
        };
        let (at_ms, record) = self.by_dataset.iter().filter_map(due).min()?;
        self.remove(&record, at_ms);
        Some(record)
    }
}

impl State {
    /// The store side's time: not before this. Until the authority has answered, nothing has expired.
    pub(super) fn store_time_least(&self, now: Duration) -> StoreTime {
        self.store_clock.map_or(StoreTime(0), |reading| reading.least(now))
    }

    /// The store side's time: not after this. `None`: the authority has not answered yet.
    pub(super) fn store_time_most(&self, now: Duration) -> Option<StoreTime> {
        self.store_clock.map(|reading| reading.most(now))
    }

    /// Whether a value of that time still stands. `None`: the authority has not answered yet, so that
    /// nobody knows.
    pub(super) fn stands_until(&self, at_ms: u64, now: Duration) -> Option<bool> {
        self.store_clock.map(|reading| reading.least(now).0 < at_ms)
    }
}

fn milliseconds(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

impl<E: Env> Coordinator<E> {
    /// The authority's answer to a request of `sent_at` shows its clock.
    pub(super) fn see_store_clock(&self, shown: StoreTime, sent_at: Duration) {
        let newer = Reading { shown, sent_at, received_at: self.now() };
        let former = {
            let mut state = self.state();
            let former = state.store_clock;
            state.store_clock = Some(former.map_or(newer, |former| former.or_newer(newer)));
            former
        };
        if former.is_none() {
            self.wake.expiry.notify_one();
        }
    }

    /// What readers hold an expiry against.
    pub(super) fn store_time(&self) -> StoreTime {
        self.state().store_time_least(self.now())
    }

    /// Takes note of what the authority holds. True when it is newer than what was known.
    pub(super) fn learn(
        &self,
        state: &mut State,
        record: &RecordId,
        version: Option<&Version>,
        row_seq: u64,
        seq: Seq,
    ) -> bool {
        let stands = version.and_then(|version| version.current().stands_until_ms());
        // Nearly no record has had a time, or gets one.
        let before = (!state.expiries.by_dataset.is_empty())
            .then(|| state.ledger.noted(record)?.stands_until_ms())
            .flatten();
        if !state.ledger.learn(record, version, row_seq, seq) {
            return false;
        }
        if let Some(at_ms) = before {
            state.expiries.remove(record, at_ms);
        }
        if let Some(at_ms) = stands {
            self.expire_at(state, record, at_ms);
        }
        true
    }

    /// A record's value is to be looked at then.
    fn expire_at(&self, state: &mut State, record: &RecordId, at_ms: u64) {
        state.expiries.insert(record, at_ms);
        if state.expiries.first_ms(&state.policy) == Some(at_ms) {
            self.wake.expiry.notify_one();
        }
    }

    /// Hands the authority's lane each record whose time has passed.
    pub(super) async fn expiry_loop(self: Arc<Self>) {
        loop {
            let (news, reloaded) = (self.wake.expiry.notified(), self.wake.reloaded.notified());
            if self.is_stopped() {
                return;
            }
            let sleep = async {
                match self.hand_over_expired() {
                    Some(wait) => self.env.clock().sleep(wait).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                () = news => {}
                () = reloaded => {}
                () = sleep => {}
            }
        }
    }

    /// Says when to come back; `None`: when something is new.
    fn hand_over_expired(&self) -> Option<Duration> {
        let mut state = self.state();
        if state.leaving {
            return None;
        }
        // Without the store side's clock nothing has expired.
        let now = state.store_clock?.least(self.now());
        let mut first_ms = state.expiries.first_ms(&state.policy)?;
        let before = self.sharing().iter().filter(|peer| **peer < self.actor.node).count() as u32;
        let apart_ms = CLOCK_ERROR_MS + milliseconds(APART * before);
        for _ in 0..AT_ONCE_MAX {
            if first_ms + apart_ms > now.0 {
                return Some(Duration::from_millis(first_ms + apart_ms - now.0));
            }
            if state.lanes[StoreId::D1].len() >= AT_ONCE_MAX {
                break;
            }
            let State { expiries, policy, .. } = &mut *state;
            let record = expiries.take_due(policy, first_ms)?;
            let next_ms = expiries.first_ms(policy);
            state.slots.entry(record.clone()).or_default().expire = true;
            self.push(&mut state, StoreId::D1, &record, Priority::Repair);
            first_ms = next_ms?;
        }
        Some(PAUSE)
    }

    /// Makes the tombstone of a record's value, if its time has passed and nothing newer is there.
    pub(super) async fn expire(&self, dataset: &Dataset, record: &RecordId) -> Next {
        let candidate = {
            let state = self.state();
            let now = state.store_time_least(self.now());
            let Some(known) = state.ledger.known(record) else { return Next::Done };
            let Some(version) = &known.version else { return Next::Done };
            if !version.current().has_expired(now) {
                return Next::Done;
            }
            // What is about to be installed over it supersedes it anyway; or is cancelled.
            let slot = state.slots.get(record);
            let waits = slot.is_some_and(|slot| slot.look || slot.has_living());
            let held = Held { version: version.expired(), value: Stored::Tombstone };
            let expect = known.expect();
            (!waits).then_some(Candidate {
                expect,
                held,
                losers: Vec::new(),
                by: By::Lww.into(),
                writes: Vec::new(),
                conditional: None,
            })
        };
        let Some(candidate) = candidate else { return self.expire_again(record, AGAIN_AFTER) };
        match self.send_install(dataset, record, candidate).await {
            Sent::Done => {
                self.state().counters.expired += 1;
                Next::Done
            }
            Sent::Moved(row) => {
                self.learn_row(record, row.as_ref());
                self.expire_again(record, AGAIN_AFTER)
            }
            // Somebody else has made it, and it is reaped.
            Sent::Dead => {
                let read = RowOp::Read { record: record.clone() };
                if let Outcome::Applied((_, RowAnswer::Read(row))) = self.row(read).await {
                    self.learn_row(record, row.as_deref());
                }
                self.expire_again(record, PAUSE_MAX)
            }
            Sent::Failed
            | Sent::Away
            | Sent::Condemned(_)
            | Sent::Refused(_)
            | Sent::LoserRefused(..) => self.expire_again(record, PAUSE_MAX),
        }
    }

    /// It may still be there: looks again in a while.
    fn expire_again(&self, record: &RecordId, after: Duration) -> Next {
        let mut state = self.state();
        let now = state.store_time_least(self.now());
        let stands = state.ledger.noted(record).and_then(|noted| noted.stands_until_ms());
        if let Some(at_ms) = stands {
            self.expire_at(&mut state, record, at_ms.max(now.0 + milliseconds(after)));
        }
        Next::Done
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(dataset: &str, key: &str) -> RecordId {
        RecordId { dataset: Arc::from(dataset), key: key.into() }
    }

    #[test]
    fn each_value_is_due_at_its_time_and_those_of_a_dataset_that_is_gone_wait() {
        let policy =
            |names: &[&str]| Policy::new(names.iter().map(|name| Dataset::everywhere(name)));
        let both = policy(&["d", "e"]);
        let mut expiries = Expiries::default();
        expiries.insert(&record("d", "a"), 10);
        expiries.insert(&record("e", "b"), 5);
        expiries.insert(&record("d", "c"), 30);
        expiries.remove(&record("d", "a"), 10);
        expiries.insert(&record("d", "a"), 20);
        let only = policy(&["d"]);
        assert_eq!((expiries.first_ms(&both), expiries.first_ms(&only)), (Some(5), Some(20)));
        assert_eq!(expiries.take_due(&only, 19), None);
        assert_eq!(expiries.take_due(&only, 20), Some(record("d", "a")));
        assert_eq!(expiries.take_due(&both, 29), Some(record("e", "b")));
        assert_eq!(expiries.take_due(&both, 30), Some(record("d", "c")));
        assert!(expiries.by_dataset.is_empty());
    }

    #[test]
    fn a_slow_answer_does_not_take_the_place_of_a_quick_one() {
        let ms = Duration::from_millis;
        let reading = |shown, sent, received| Reading {
            shown: StoreTime(shown),
            sent_at: ms(sent),
            received_at: ms(received),
        };
        let quick = reading(1_000_010, 0, 20);
        let kept = quick.or_newer(reading(1_000_500, 400, 2_400));
        assert_eq!((kept.least(ms(2_400)).0, kept.most(ms(2_400)).0), (1_002_390, 1_002_410));
        let kept = quick.or_newer(reading(1_040_000, 39_980, 40_030));
        assert_eq!(kept.shown.0, 1_040_000, "older by more than clocks may part in");
        let kept = quick.or_newer(reading(500_000, 100, 2_000));
        assert_eq!(kept.shown.0, 500_000, "the clock was set back");
        let kept = quick.or_newer(reading(9_000_000, 100, 2_000));
        assert_eq!(kept.shown.0, 9_000_000, "the clock was set forward");
    }
}
