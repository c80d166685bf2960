//! Installing: an intent's version goes into the authority by compare-and-set.
//!
//! Invariant: what is sent covers what it expects to replace (rule A2), and carries every value
//! that it does not show as a loser (rule V6). An intent leaves the journal only when the
//! authority was seen to hold a version that covers its dot (rule A5c).

mod ours;
mod plan;

pub(super) use plan::written;

use ours::asks_for_nothing;
use plan::{Plan, shown_before};

use super::project::Target;
use super::{Coordinator, State};
use crate::blob::BlobsSeen;
use crate::breaker::COOL_DOWN;
use crate::conflict::Decision;
use crate::dead_letter::{Ending, Refused, Verdict};
use crate::env::{Env, Outcome, Refusal, RowHistory};
use crate::journal::{Intent, LetterNote};
use crate::lane::{Next, Priority};
use crate::policy::Dataset;
use crate::record::{Loser, RecordId, StoreId, Stored, Written};
use crate::resolve::Held;
use crate::row::{Change, Expect, Grant, Install, Row, RowAnswer, RowOp, Seq};
use crate::version::{Dot, Sibling, Version};
use std::sync::Arc;
use std::time::Duration;

/// Compare-and-sets in a row that may find the row moved before the record goes to the back of
/// the lane.
const MOVED_MAX: usize = 4;
/// A blob that is put again must be seen to stand there later than its condemnation ends, as far as
/// answers of the store side's clock show that: a few round trips.
const BEYOND_CONDEMNATION: Duration = Duration::from_millis(100);

/// What to install over what.
pub(super) struct Candidate {
    pub(super) expect: Expect,
    pub(super) held: Held,
    pub(super) losers: Vec<Loser>,
    /// What decided against these.
    pub(super) by: Decision,
    /// What is new of it, write by write, where such are merged.
    pub(super) writes: Vec<Written>,
    /// An intent with a condition: it happens over `expect`, or not at all.
    pub(super) conditional: Option<Arc<Intent>>,
}

impl<E: Env> Coordinator<E> {
    /// One turn of the authority's lane on one record.
    pub(super) async fn install(&self, record: &RecordId) -> Next {
        let (policy, unkept, expire) = {
            let mut state = self.state();
            let asked = state
                .slots
                .get_mut(record)
                .map(|slot| (std::mem::take(&mut slot.unkept), std::mem::take(&mut slot.expire)));
            let (unkept, expire) = asked.unwrap_or_default();
            (state.policy.clone(), unkept, expire)
        };
        for store in unkept.iter() {
            self.forgo(record, store).await;
        }
        let Some(dataset) = policy.datasets.get(&record.dataset) else {
            // The dataset was taken out of the configuration: its intents wait for its return.
            if expire && let Some(slot) = self.state().slots.get_mut(record) {
                slot.expire = true;
            }
            return Next::At(self.now() + crate::retry::PAUSE_MAX);
        };
        self.exhume(record);
        let mut plan = self.plan(record);
        for _ in 0..MOVED_MAX {
            let (candidate, suspect) = match plan {
                Plan::Idle if expire => {
                    return match self.expire(dataset, record).await {
                        Next::Done => self.rest(record),
                        next => next,
                    };
                }
                Plan::Idle => return self.rest(record),
                Plan::Lacking => return self.install_failed(record, expire),
                Plan::Look => match self.row(RowOp::Read { record: record.clone() }).await {
                    Outcome::Applied((_, RowAnswer::Read(row))) => {
                        plan = self.plan_over(dataset, record, row.map(|row| *row), None);
                        continue;
                    }
                    _ => return self.install_failed(record, expire),
                },
                Plan::Gather => match self.gather(dataset, record).await {
                    Some(RowHistory { row, losers, writes }) => {
                        plan = self.plan_over(dataset, record, row, Some((losers, writes)));
                        continue;
                    }
                    None => return self.install_failed(record, expire),
                },
                Plan::AskFloor { ours, over, candidate, suspect } => {
                    match self.floor(record).await {
                        Some(floor) if floor.buries(&ours, Some(&*over)) => {
                            let mut state = self.state();
                            self.settle(&mut state, record, &ours);
                            drop(state);
                            plan = self.plan(record);
                            continue;
                        }
                        Some(_) => (candidate, suspect),
                        None => return self.install_failed(record, expire),
                    }
                }
                Plan::Install { candidate, suspect } => (candidate, suspect),
            };
            let conditional = candidate.conditional.clone();
            let version = candidate.held.version.clone();
            let known = self.known_row_seq(record);
            let Sibling { dot, bytes, .. } = suspect;
            let beside = shown_before(dataset, record, &version, dot);
            match self.send_install(dataset, record, candidate).await {
                Sent::Done => plan = self.plan(record),
                Sent::Dead => {
                    if let Some(dead) = self.adopted_in(record, &version)
                        && !self.bury(dataset, record, &dead).await
                    {
                        return self.install_failed(record, expire);
                    }
                    let mut state = self.state();
                    self.settle(&mut state, record, &version);
                    drop(state);
                    plan = self.plan(record);
                }
                Sent::Moved(row) => {
                    self.state().counters.installs_moved += 1;
                    if let Some(intent) = conditional
                        && !covers(row.as_ref(), intent.dot())
                        && !(asks_for_nothing(&intent, self.actor)
                            && row.as_ref().is_none_or(Row::is_absent))
                    {
                        self.learn_row(record, row.as_ref());
                        self.cancel(&intent);
                    }
                    plan = self.plan_over(dataset, record, row, None);
                }
                Sent::Failed => return self.install_failed(record, expire),
                Sent::Away => return self.install_waits(record, expire, COOL_DOWN),
                Sent::Condemned(left) => {
                    return self.install_waits(record, expire, left + BEYOND_CONDEMNATION);
                }
                Sent::LoserRefused(loser, refusal) if self.holds(record, loser.sibling.dot) => {
                    // Once it is dead, the letter keeps it and the winner goes its way.
                    match self.note_loser_refused(record, &loser, &refusal) {
                        Verdict::TryAgain => return self.install_failed(record, expire),
                        Verdict::Dead(_) => {
                            self.refused_while_known(record, known);
                            plan = self.plan(record);
                        }
                    }
                }
                Sent::Refused(refusal) if let Some(shown) = beside => {
                    if !self.state().note_unshown(record, shown) {
                        return self.install_failed(record, expire);
                    }
                    tracing::warn!(
                        %record, %shown, %refusal,
                        "D1 does not take the value that would be shown: it loses, and is kept"
                    );
                    plan = self.plan(record);
                }
                Sent::Refused(refusal) | Sent::LoserRefused(_, refusal) => {
                    let what = Refused { record, store: StoreId::D1, dot, bytes };
                    match self.note_refused(what, &refusal) {
                        Verdict::TryAgain => return self.install_failed(record, expire),
                        Verdict::Dead(_) => {
                            self.refused_while_known(record, known);
                            plan = self.plan_beside(record);
                        }
                    }
                }
            }
        }
        if expire && let Some(slot) = self.state().slots.get_mut(record) {
            slot.expire = true;
        }
        Next::Again
    }

    fn known_row_seq(&self, record: &RecordId) -> Option<u64> {
        self.state().ledger.row_seq(record)
    }

    /// Something was refused, and the row changed while that was under way: over the new one it may be
    /// taken or lose, and the news of that came too early to say so.
    fn refused_while_known(&self, record: &RecordId, row_seq: Option<u64>) {
        if self.known_row_seq(record) > row_seq {
            let mut state = self.state();
            self.row_of_letters_changed(&mut state, record);
        }
    }

    /// True when a write waits here.
    fn holds(&self, record: &RecordId, dot: Dot) -> bool {
        let state = self.state();
        let slot = state.slots.get(record);
        slot.is_some_and(|slot| slot.intents.iter().any(|p| p.durable && p.intent.dot() == dot))
    }

    fn install_failed(&self, record: &RecordId, expire: bool) -> Next {
        let failures = {
            let mut state = self.state();
            let Some(slot) = state.slots.get_mut(record) else { return Next::Done };
            // The row must be read before the next try: the last one may have happened.
            slot.look = true;
            slot.expire |= expire;
            slot.failures += 1;
            slot.failures
        };
        self.back_off(failures)
    }

    /// Until probes have shown that R2 answers, or what R2 is to hold is certain to stay. No back-off
    /// grows, which would outlast that.
    fn install_waits(&self, record: &RecordId, expire: bool, pause: Duration) -> Next {
        let mut state = self.state();
        let slot = state.slots.entry(record.clone()).or_default();
        slot.expire |= expire;
        // Bytes that somebody wrote to the row wait in no journal: nothing but the row tells of them.
        slot.look |= !slot.has_living();
        drop(state);
        Next::At(self.now() + pause)
    }

    pub(super) async fn send_install(
        &self,
        dataset: &Dataset,
        record: &RecordId,
        candidate: Candidate,
    ) -> Sent {
        let Candidate { expect, held, mut losers, by, mut writes, .. } = candidate;
        let bytes_max = dataset.inline_bytes_max(&self.policy().limits);
        writes.retain(|written| written.value.held_bytes() <= bytes_max);
        let mut blobs_seen = BlobsSeen::default();
        let value = match self.fit(dataset, &held.value, &mut blobs_seen).await {
            Ok(value) => value,
            Err(not) => return not,
        };
        if !losers.is_empty() && !self.leave_to_letters(record, &mut losers).await {
            return Sent::Failed;
        }
        if !self.look_at_blobs(record, &mut losers, &mut blobs_seen).await {
            return Sent::Failed;
        }
        let mut fitting = Vec::with_capacity(losers.len());
        for loser in losers {
            match self.fit(dataset, &loser.value, &mut blobs_seen).await {
                Ok(value) => fitting.push(Loser { value, ..loser }),
                Err(Sent::Refused(refusal)) => return Sent::LoserRefused(Box::new(loser), refusal),
                Err(not) => return not,
            }
        }
        let kept: Vec<Dot> = fitting.iter().map(|loser| loser.sibling.dot).collect();
        let owe: Vec<StoreId> = dataset.projections().collect();
        let sent_at = self.now();
        let op = RowOp::Install(Box::new(Install {
            record: record.clone(),
            expect,
            version: held.version.clone(),
            value: value.clone(),
            losers: fitting,
            owe: owe.clone(),
            holder: self.actor,
            blobs_seen,
            by,
            writes,
        }));
        match self.row(op).await {
            Outcome::Applied((now, RowAnswer::Installed { row_seq, seq, grant })) => {
                self.kept_by_the_authority(record, &kept);
                let installed = Installed { row_seq, seq, grant, sent_at, now };
                self.installed(record, owe, held, value, installed);
                Sent::Done
            }
            Outcome::Applied((_, RowAnswer::Moved(row))) => Sent::Moved(row.map(|row| *row)),
            Outcome::Applied((_, RowAnswer::Dead)) => Sent::Dead,
            Outcome::Applied((now, RowAnswer::NoBlob { until })) => {
                self.doubt_blobs(record);
                match until.filter(|until| *until >= now) {
                    Some(until) => Sent::Condemned(Duration::from_millis(until.0 - now.0)),
                    None => Sent::Failed,
                }
            }
            Outcome::Applied((_, answer)) => {
                tracing::error!(%record, ?answer, "the authority refused an install");
                Sent::Failed
            }
            Outcome::Refused(refusal) => {
                if refusal.is_on_the_merits() {
                    self.state().counters.installs_poisoned += 1;
                    return Sent::Refused(refusal);
                }
                Sent::Failed
            }
            Outcome::Unknown(_) => Sent::Failed,
        }
    }

    /// The authority holds the version, and this coordinator the right to project it.
    fn installed(
        &self,
        record: &RecordId,
        owe: Vec<StoreId>,
        held: Held,
        value: Stored,
        installed: Installed,
    ) {
        let Installed { row_seq, seq, grant, sent_at, now } = installed;
        let whole = match held.value {
            Stored::Inline(bytes) => Some(bytes),
            Stored::Tombstone | Stored::Reference { .. } | Stored::Erased(_) => None,
        };
        let target = Arc::new(Target::new(held.version, value, whole));
        let version = &target.version;
        let mut state = self.state();
        state.counters.installs += 1;
        let news = self.learn(&mut state, record, Some(version), row_seq, seq);
        state.refused.remove(record);
        let slot = state.slots.entry(record.clone()).or_default();
        slot.failures = 0;
        slot.unshown.clear();
        for store in &owe {
            let owed = slot.owed.get_or_insert_with(*store, Box::default);
            owed.granted(&grant, *store, sent_at, now);
            owed.installed(target.clone());
        }
        let here = self.now();
        for store in owe {
            self.push_at(&mut state, store, record, Priority::Foreground, here);
        }
        self.settle(&mut state, record, version);
        if news {
            self.row_of_letters_changed(&mut state, record);
        }
        if !state.news.is_empty() {
            let (record, version) = (record.clone(), Some(version.clone()));
            self.announce(&mut state, Change { record, version, row_seq, foreign: false, seq });
        }
    }

    /// The authority holds `version`: what it covers is no longer owed by the journal.
    fn settle(&self, state: &mut State, record: &RecordId, version: &Version) {
        self.settle_adoptions(state, record, version);
        let Some(slot) = state.slots.get_mut(record) else { return };
        let mut settled: Vec<Dot> = Vec::new();
        let concerned = !state.letters.is_empty();
        let mut letters: Vec<Arc<Intent>> = Vec::new();
        let mut bytes = 0;
        slot.intents.retain(|pending| {
            let covered = version.history.covers_dot(pending.intent.dot());
            if covered && concerned {
                letters.push(pending.intent.clone());
            } else if covered {
                settled.push(pending.intent.dot());
                bytes += pending.intent.value.held_bytes();
            }
            !covered
        });
        for intent in letters {
            if let Some(letter) = state.stays_as_letter(&intent, version.current().dot) {
                self.note_letter(LetterNote::Dead(Box::new(letter)));
            } else {
                settled.push(intent.dot());
                bytes += intent.value.held_bytes();
            }
        }
        if !settled.is_empty() {
            state.held.remove(&record.dataset, settled.len(), bytes);
            self.forget(settled);
            self.wake.settled.notify_waiters();
        }
        self.end_letters(state, record, StoreId::D1, version);
        state.confirm(record, StoreId::D1, version);
    }

    /// A conditional write whose condition did not hold: it did not and cannot happen any more,
    /// since the row sequence that it expects never comes back.
    fn cancel(&self, intent: &Arc<Intent>) {
        let mut state = self.state();
        let Some(slot) = state.slots.get_mut(&intent.record) else { return };
        let before = slot.intents.len();
        slot.intents.retain(|pending| pending.intent.dot() != intent.dot());
        let removed = before - slot.intents.len();
        let (ended, rest) =
            std::mem::take(&mut slot.waiters).into_iter().partition(|w| w.dot == intent.dot());
        slot.waiters = rest;
        let ended: Vec<super::Waiter> = ended;
        for waiter in ended {
            let _ = waiter.done.send(super::Settled::Cancelled);
        }
        let bytes = removed * intent.value.held_bytes();
        state.held.remove(&intent.record.dataset, removed, bytes);
        state.counters.writes_cancelled += 1;
        let (record, dot) = (&intent.record, intent.dot());
        self.end_letter(&mut state, record, StoreId::D1, dot, Ending::Cancelled);
        self.forget([intent.dot()]);
        self.wake.settled.notify_waiters();
    }

    fn announce(&self, state: &mut State, change: Change) {
        for news in state.news.values_mut() {
            news.push(&change);
        }
        self.wake.news.notify_waiters();
    }
}

struct Installed {
    row_seq: u64,
    seq: Seq,
    grant: Grant,
    sent_at: Duration,
    now: crate::row::StoreTime,
}

pub(super) enum Sent {
    Done,
    Moved(Option<Row>),
    /// It was deleted, and the tombstone reaped.
    Dead,
    Failed,
    /// Nothing was sent: R2, which is to have the bytes first, does not answer.
    Away,
    /// The bytes in R2 are condemned, and may be deleted for so long.
    Condemned(Duration),
    /// On its merits: the same again is refused again.
    Refused(Refusal),
    /// The bytes of a loser were, on their merits.
    LoserRefused(Box<Loser>, Refusal),
}

fn covers(row: Option<&Row>, dot: Dot) -> bool {
    row.and_then(|row| row.version.as_ref()).is_some_and(|v| v.history.covers_dot(dot))
}
