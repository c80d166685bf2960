//! Row operations on their way to the authority: gathered into batches, each one transaction.
//!
//! No writer waits for a mark to be cleared, and a record's marks are cleared within milliseconds of
//! each other: such operations linger a little, so that one batch carries them.
//!
//! Invariant: an operation gets the outcome of the batch that carried it. A batch that the store
//! refuses because one operation in it can never be applied is taken apart, so that a poison
//! operation harms itself alone.

use super::Coordinator;
use crate::env::{Clock, Doubt, DoubtKind, Env, Outcome, Refusal, RefusalKind, RowStore, Storage};
use crate::record::StoreId;
use crate::row::{BatchAnswer, RowAnswer, RowOp, StoreTime};
use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;
use tokio::sync::{Notify, oneshot};

type Answer = Outcome<(StoreTime, RowAnswer)>;

/// What waits for a batch.
#[derive(Default)]
pub(super) struct Queue {
    held: Mutex<Held>,
    wake: Notify,
}

#[derive(Default)]
struct Held {
    waiting: VecDeque<Waiting>,
    /// A batch loop waits for what lingers here to have company; the others need not.
    lingers: bool,
    /// Batches that are under way.
    under_way: usize,
}

struct Waiting {
    op: RowOp,
    done: oneshot::Sender<Answer>,
    /// When it goes, with or without company; zero: at once.
    due: Duration,
}

/// What a batch loop is to do.
enum Turn {
    /// Nothing waits, or another loop waits for it.
    Idle,
    /// What waits can wait so long for company.
    Linger(Duration),
    Send(Vec<Waiting>),
}

impl Queue {
    fn held(&self) -> MutexGuard<'_, Held> {
        self.held.lock().expect("no code panics while it holds the row queue")
    }

    /// Nothing is sent any more: whoever waits is told `Unknown`.
    pub(super) fn close(&self) {
        self.held().waiting.clear();
        self.wake.notify_waiters();
    }
}

/// Why an operation was not queued.
enum Unsent {
    BreakerOpen(Refusal),
    Stopped,
}

impl Unsent {
    fn answer(self) -> Answer {
        match self {
            Unsent::BreakerOpen(why) => Outcome::Refused(why),
            Unsent::Stopped => stopped(),
        }
    }
}

fn stopped<T>() -> Outcome<T> {
    Outcome::Unknown(Doubt::new(DoubtKind::ConnectionLost, "stopped"))
}

fn lingers(op: &RowOp) -> bool {
    match op {
        RowOp::Clear { .. }
        | RowOp::Release { .. }
        | RowOp::Forgo { .. }
        | RowOp::Settle { .. }
        | RowOp::Reap { .. } => true,
        RowOp::Read { .. } | RowOp::Install(_) | RowOp::Claim { .. } | RowOp::Owe { .. } => false,
    }
}

impl<E: Env> Coordinator<E> {
    /// Applies one operation at the authority.
    pub(super) async fn row(&self, op: RowOp) -> Answer {
        match self.queue(op) {
            Ok(answer) => answer.await.unwrap_or_else(|_| stopped()),
            Err(unsent) => unsent.answer(),
        }
    }

    /// Applies several, in as few transactions as they fit in.
    pub(super) async fn rows(&self, ops: Vec<RowOp>) -> Vec<Answer> {
        let queued: Vec<_> = ops.into_iter().map(|op| self.queue(op)).collect();
        let mut answers = Vec::with_capacity(queued.len());
        for queued in queued {
            answers.push(match queued {
                Ok(answer) => answer.await.unwrap_or_else(|_| stopped()),
                Err(unsent) => unsent.answer(),
            });
        }
        answers
    }

    fn queue(&self, op: RowOp) -> Result<oneshot::Receiver<Answer>, Unsent> {
        if let Some(refusal) = self.breaker_refuses() {
            return Err(Unsent::BreakerOpen(refusal));
        }
        if self.is_stopped() {
            return Err(Unsent::Stopped);
        }
        let (done, answer) = oneshot::channel();
        let due = if lingers(&op) { self.now() + self.pace.linger } else { Duration::ZERO };
        self.rows.held().waiting.push_back(Waiting { op, done, due });
        self.rows.wake.notify_one();
        if self.is_stopped() {
            // The stop came between the look above and the queue.
            self.rows.close();
        }
        Ok(answer)
    }

    /// Why nothing may be sent to D1 now; `None`: it may.
    fn breaker_refuses(&self) -> Option<Refusal> {
        let state = self.state();
        if state.admits(StoreId::D1) {
            return None;
        }
        let unreachable = RefusalKind::Unreachable;
        Some(if state.breakers[StoreId::D1].is_held() {
            Refusal::new(unreachable, state.held_words(StoreId::D1))
        } else {
            Refusal::new(unreachable, "D1 does not answer; its breaker is open")
        })
    }

    pub(super) async fn batch_loop(self: Arc<Self>) {
        loop {
            let news = self.rows.wake.notified();
            if self.is_stopped() {
                break;
            }
            match self.next_batch() {
                Turn::Idle => news.await,
                Turn::Linger(wait) => {
                    tokio::select! {
                        biased;
                        () = news => {}
                        () = self.env.clock().sleep(wait) => {}
                    }
                    self.rows.held().lingers = false;
                }
                Turn::Send(taken) => {
                    self.send_batch(taken).await;
                    // This loop takes the next one itself, with all that came meanwhile.
                    self.rows.held().under_way -= 1;
                }
            }
        }
        self.rows.close();
    }

    fn next_batch(&self) -> Turn {
        let width = self.state().concurrency[StoreId::D1].width();
        let mut held = self.rows.held();
        let Held { waiting, lingers, under_way } = &mut *held;
        if *under_way >= width {
            return Turn::Idle;
        }
        let Some(due) = waiting.iter().map(|waiting| waiting.due).min() else { return Turn::Idle };
        let wait = if due.is_zero() { due } else { due.saturating_sub(self.now()) };
        if !wait.is_zero() && waiting.len() < self.pace.batch_ops_max {
            let another_does = std::mem::replace(lingers, true);
            return if another_does { Turn::Idle } else { Turn::Linger(wait) };
        }
        let mut bytes = 0;
        let fitting = waiting.iter().take(self.pace.batch_ops_max).take_while(|next| {
            bytes += next.op.held_bytes();
            bytes <= self.pace.batch_bytes_max
        });
        // One always goes, however large: values are bounded where they are accepted.
        let count = fitting.count().max(1);
        if count < waiting.len() {
            self.rows.wake.notify_one();
        }
        *under_way += 1;
        Turn::Send(waiting.drain(..count).collect())
    }

    async fn send_batch(&self, taken: Vec<Waiting>) {
        let mut waiters = Vec::with_capacity(taken.len());
        let op = |Waiting { op, done, .. }| {
            waiters.push(done);
            op
        };
        let ops: Arc<[RowOp]> = taken.into_iter().map(op).collect();
        match self.call_batch(ops.clone()).await {
            Outcome::Applied(BatchAnswer { now, answers }) => {
                for (answer, done) in answers.into_iter().zip(waiters) {
                    let _ = done.send(Outcome::Applied((now, answer)));
                }
            }
            Outcome::Refused(Refusal {
                kind: RefusalKind::TooLarge | RefusalKind::Constraint,
                ..
            }) if ops.len() > 1 => {
                for (op, done) in ops.iter().zip(waiters) {
                    let outcome = self.call_batch([op.clone()].into()).await;
                    let _ = done.send(outcome.map(|mut answer| {
                        let first = answer.answers.pop().expect("an answer for each operation");
                        (answer.now, first)
                    }));
                }
            }
            Outcome::Refused(refusal) => {
                for done in waiters {
                    let _ = done.send(Outcome::Refused(refusal.clone()));
                }
            }
            Outcome::Unknown(doubt) => {
                for done in waiters {
                    let _ = done.send(Outcome::Unknown(doubt.clone()));
                }
            }
        }
    }

    async fn call_batch(&self, ops: Arc<[RowOp]>) -> Outcome<BatchAnswer> {
        if let Some(refusal) = self.breaker_refuses() {
            // The breaker opened while these waited.
            return Outcome::Refused(refusal);
        }
        if self.is_stopped() {
            // A batch that is taken apart goes on for a while: whoever comes after this coordinator may
            // have been told to hold the store.
            return stopped();
        }
        let count = ops.len();
        let sent_at = self.now();
        let outcome = self.env.storage().d1().batch(ops).await;
        if let Outcome::Applied(answer) = &outcome {
            self.see_store_clock(answer.now, sent_at);
        }
        let outcome = match outcome {
            Outcome::Applied(answer) if answer.answers.len() != count => {
                let detail = "the answer does not fit the batch";
                Outcome::Unknown(Doubt::new(DoubtKind::ServerError, detail))
            }
            outcome => outcome,
        };
        self.record_outcome(StoreId::D1, sent_at, &outcome);
        if let Outcome::Applied(_) = &outcome {
            self.state().concurrency[StoreId::D1].succeeded();
        }
        outcome
    }
}
