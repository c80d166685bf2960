//! Group commit: one fsync carries every intent that waits.
//!
//! Invariant: nobody is told that an intent is durable, and no lane sees it, before the commit
//! that carries it returned (rule V2). After a failed commit the coordinator stops. A disk without
//! room is no failure: nothing was written, so every write that waits is refused and its intent
//! withdrawn, and the next write finds out whether there is room again.

use super::{Coordinator, State};
use crate::breaker::Forced;
use crate::dead_letter::TRIES_MIN;
use crate::env::{Clock, Env, Journal, Storage};
use crate::journal::{Intent, JournalBatch, JournalError, LetterNote};
use crate::lane::Priority;
use crate::record::StoreId;
use crate::version::Dot;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;
use tokio::sync::{Notify, oneshot};

/// Bytes of values in one commit.
const COMMIT_BYTES_MAX: usize = 32 * 1024 * 1024;
/// Settled dots wait for the next intent to share its fsync, but no more than this many.
const SETTLED_WAITING_MAX: usize = 64;
/// Writers that were just answered often write again at once: the next commit waits this share of
/// the last one's duration for them, so that they share one fsync instead of taking turns.
const LINGER_SHARE: u32 = 16;
/// And never longer than this.
const LINGER_MAX: Duration = Duration::from_millis(2);

/// A disk without room is not asked again before this; until then writes are refused at once.
const FULL_PAUSE: Duration = Duration::from_millis(250);

/// What waits for the next commit.
#[derive(Default)]
pub(super) struct Queue {
    waiting: Mutex<Waiting>,
    wake: Notify,
}

type Committed = Result<(), JournalError>;

#[derive(Default)]
struct Waiting {
    intents: Vec<(Arc<Intent>, oneshot::Sender<Committed>)>,
    settled: Vec<Dot>,
    letters: Vec<LetterNote>,
    /// All that is forced now; `None`: no change of it waits.
    forced: Option<Vec<Forced>>,
    /// Some of what waits is not to wait for an intent.
    urgent: bool,
    /// These wait for what is settled, for the letters and for what is forced to be durable.
    flush: Vec<oneshot::Sender<Committed>>,
}

impl Queue {
    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().expect("no code panics while it holds the journal's queue")
    }

    /// Nothing is committed any more: whoever waits is told that nobody knows.
    pub(super) fn close(&self) {
        let mut waiting = self.waiting();
        waiting.intents.clear();
        waiting.flush.clear();
        self.wake.notify_waiters();
    }

    /// Takes what the next commit carries, if there is reason for one.
    fn take(&self) -> Option<Waiting> {
        let mut waiting = self.waiting();
        let many = waiting.settled.len() >= SETTLED_WAITING_MAX
            || waiting.letters.len() >= SETTLED_WAITING_MAX;
        if waiting.intents.is_empty() && !many && !waiting.urgent {
            return None;
        }
        let mut bytes = 0;
        let fitting = waiting.intents.iter().take_while(|(intent, _)| {
            bytes += intent.value.held_bytes();
            bytes <= COMMIT_BYTES_MAX
        });
        // One intent always goes, however large: values are bounded where they are accepted.
        let count = fitting.count().max(1).min(waiting.intents.len());
        let rest = waiting.intents.split_off(count);
        let intents = std::mem::replace(&mut waiting.intents, rest);
        let settled = std::mem::take(&mut waiting.settled);
        let letters = std::mem::take(&mut waiting.letters);
        let forced = waiting.forced.take();
        let urgent = std::mem::take(&mut waiting.urgent);
        let flush = std::mem::take(&mut waiting.flush);
        Some(Waiting { intents, settled, letters, forced, urgent, flush })
    }
}

impl<E: Env> Coordinator<E> {
    /// Queues an intent; the answer comes when it is durable. Called under the state's lock, so
    /// that commits follow the order of dots.
    pub(super) fn commit(
        &self,
        _order: &mut State,
        intent: Arc<Intent>,
    ) -> oneshot::Receiver<Committed> {
        let (done, durable) = oneshot::channel();
        self.journal.waiting().intents.push((intent, done));
        self.journal.wake.notify_one();
        durable
    }

    /// The authority holds these with their marks: the journal may forget them (rule A5c).
    pub(super) fn forget(&self, dots: impl IntoIterator<Item = Dot>) {
        let mut waiting = self.journal.waiting();
        waiting.settled.extend(dots);
        if waiting.settled.len() >= SETTLED_WAITING_MAX {
            self.journal.wake.notify_one();
        }
    }

    /// Takes note of what became of a dead letter, with the next commit.
    pub(super) fn note_letter(&self, note: LetterNote) {
        let mut waiting = self.journal.waiting();
        let urgent = matches!(&note, LetterNote::Dead(letter) if letter.tries == TRIES_MIN);
        waiting.letters.push(note);
        waiting.urgent |= urgent;
        if urgent || waiting.letters.len() >= SETTLED_WAITING_MAX {
            self.journal.wake.notify_one();
        }
    }

    /// The same with a commit of its own; the answer comes when it is durable. `settled`: an intent
    /// that is given up.
    pub(super) fn note_letter_durably(
        &self,
        note: LetterNote,
        settled: Option<Dot>,
    ) -> oneshot::Receiver<Committed> {
        self.commit_now(|waiting| {
            waiting.letters.push(note);
            waiting.settled.extend(settled);
        })
    }

    /// Keeps all that is forced, with a commit of its own; the answer comes when it is durable.
    pub(super) fn note_forced(&self, forced: Vec<Forced>) -> oneshot::Receiver<Committed> {
        self.commit_now(|waiting| waiting.forced = Some(forced))
    }

    /// The answer comes when all that is to be forgotten and noted by now is durable.
    pub(super) fn flush(&self) -> oneshot::Receiver<Committed> {
        self.commit_now(|_| {})
    }

    fn commit_now(&self, note: impl FnOnce(&mut Waiting)) -> oneshot::Receiver<Committed> {
        let (done, durable) = oneshot::channel();
        let mut waiting = self.journal.waiting();
        if !self.is_stopped() {
            note(&mut waiting);
            waiting.flush.push(done);
            waiting.urgent = true;
            self.journal.wake.notify_one();
        }
        durable
    }

    /// Has the journal commit once, so that it is known whether its disk has room again.
    pub fn try_journal(&self) {
        let mut waiting = self.journal.waiting();
        waiting.urgent = true;
        self.journal.wake.notify_one();
    }

    pub(super) async fn commit_loop(self: Arc<Self>) {
        loop {
            let news = self.journal.wake.notified();
            if self.is_stopped() {
                return;
            }
            let Some(taken) = self.journal.take() else {
                news.await;
                continue;
            };
            let begun = self.now();
            self.state().commit_since = Some(begun);
            let batch = JournalBatch {
                intents: taken.intents.iter().map(|(intent, _)| (**intent).clone()).collect(),
                settled: taken.settled.clone(),
                letters: taken.letters.clone(),
                forced: taken.forced.clone(),
            };
            let committed = self.env.storage().journal().commit(batch).await;
            self.state().commit_since = None;
            match committed {
                Ok(()) => self.durable(&taken.intents),
                Err(JournalError::Full(detail)) => {
                    self.withdraw(taken, &detail);
                    self.env.clock().sleep(FULL_PAUSE).await;
                    continue;
                }
                Err(error) => {
                    self.poison(error.clone());
                    let waiting = taken.intents.into_iter().map(|(_, done)| done);
                    for done in waiting.chain(taken.flush) {
                        let _ = done.send(Err(error.clone()));
                    }
                    return;
                }
            }
            let several = taken.intents.len() > 1;
            for done in taken.flush {
                let _ = done.send(Ok(()));
            }
            for (_, done) in taken.intents {
                // A caller that went away does not need the answer; the intent stays.
                let _ = done.send(Ok(()));
            }
            let linger = (self.now().saturating_sub(begun) / LINGER_SHARE).min(LINGER_MAX);
            if several && linger > Duration::ZERO {
                self.env.clock().sleep(linger).await;
            }
        }
    }

    fn durable<T>(&self, committed: &[(Arc<Intent>, T)]) {
        let now = self.now();
        let mut state = self.state();
        state.counters.commits += 1;
        state.journal_full = false;
        state.counters.committed_intents += committed.len() as u64;
        for (intent, _) in committed {
            if let Some(slot) = state.slots.get_mut(&intent.record) {
                for pending in &mut slot.intents {
                    pending.durable |= pending.intent.dot() == intent.dot();
                }
            }
            self.push_at(&mut state, StoreId::D1, &intent.record, Priority::Foreground, now);
        }
    }

    /// The disk has no room. What waits behind the refused intents may be built on them, so all of
    /// it is withdrawn; nothing durable is, since nothing durable is built on what is not.
    fn withdraw(&self, taken: Waiting, detail: &str) {
        tracing::warn!(detail, "the journal's disk is full; writes are refused until it has room");
        let mut state = self.state();
        let mut waiting = self.journal.waiting();
        let refused: Vec<_> = taken.intents.into_iter().chain(waiting.intents.drain(..)).collect();
        waiting.settled.extend(taken.settled);
        waiting.letters.splice(0..0, taken.letters);
        waiting.forced = waiting.forced.take().or(taken.forced);
        waiting.urgent |= taken.urgent;
        drop(waiting);
        state.counters.journal_full += 1;
        state.journal_full_until = self.now() + FULL_PAUSE;
        state.journal_full = true;
        for (intent, _) in &refused {
            state.withdraw(intent);
        }
        drop(state);
        self.wake.settled.notify_waiters();
        let refused = refused.into_iter().map(|(_, done)| done);
        for done in refused.chain(taken.flush) {
            let _ = done.send(Err(JournalError::Full(detail.to_owned())));
        }
    }

    fn poison(&self, error: JournalError) {
        tracing::error!(%error, "the journal failed; starting again from what is durable");
        self.state().failure = Some(error.clone());
        for (_, done) in std::mem::take(&mut self.journal.waiting().intents) {
            let _ = done.send(Err(error.clone()));
        }
        self.stop();
    }
}

impl State {
    /// An intent that no disk has is as if it had never been; its dot stays unused.
    fn withdraw(&mut self, intent: &Arc<Intent>) {
        let dot = intent.dot();
        self.operations.forget(dot);
        let Some(slot) = self.slots.get_mut(&intent.record) else { return };
        let before = slot.intents.len();
        slot.intents.retain(|pending| pending.intent.dot() != dot);
        // One that was kept for another may have been settled by that other meanwhile.
        let removed = before - slot.intents.len();
        slot.waiters.retain(|waiter| waiter.dot != dot);
        let bytes = removed * intent.value.held_bytes();
        self.held.remove(&intent.record.dataset, removed, bytes);
        self.drop_idle_slot(&intent.record);
    }
}
