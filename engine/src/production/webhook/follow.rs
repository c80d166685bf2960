//! The task that tells one webhook what the log tells.
//!
//! ```text
//! log ──> wanted? ──> conflict? ──> Storms ──alone───> told ──> place
//!           │no          │no          └─counted─> summary, when it is due ──> place ──> told ──> place
//!           └─> passed   └──────────────────────> told ──> place
//! ```
//!
//! Invariant: one notification is on its way at a time, in the log's order; the place moves on once its
//! fate is settled: taken, or a dead letter that is on disk. Nothing waits for this task but itself.

use super::attempt::{Attempts, Then};
use super::hook::{Hook, Stage};
use super::notification::Notification;
use super::place::{self, Place};
use crate::audit::{Entry, Storm, Taken};
use crate::policy::webhook::StormsTold;
use crate::production::audit::{AuditError, Counting, Forward, Gone, Reader, Told};
use crate::production::folder::FileError;
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::watch;
use tokio::time::{sleep_until, timeout_at};

/// After the log or the place could not be read or written: that is an operator's to mend.
const PAUSE_STALLED: Duration = Duration::from_secs(5);
/// Entries that may be passed over, or counted, before that is written down. Seen again they come to
/// the same.
const UNSAVED_MAX: u32 = 256;

/// The server ends: nothing is told any further.
struct Ending;

/// What is to be told next.
enum Next {
    Entry(Entry),
    Storm(Storm),
}

struct Follower {
    hook: Arc<Hook>,
    reader: Reader,
    told: watch::Receiver<Told>,
    place: Place,
    storms: Counting,
    /// `None`: it has to be found anew.
    forward: Option<Forward>,
    read: VecDeque<Entry>,
    /// Entries that were seen to since the place was written.
    unsaved: u32,
}

/// Tells a webhook, from its place on; from the log's end if it has none. Ends with the server.
pub(super) async fn follow(
    hook: Arc<Hook>,
    place: Option<Place>,
    reader: Reader,
    told: watch::Receiver<Told>,
) {
    let is_new = place.is_none();
    let head_seq = told.borrow().head_seq;
    let place = place.unwrap_or(Place { through_seq: head_seq, ..Place::default() });
    let storms = Counting::resume(place.storms.clone());
    let mut follower = Follower {
        hook,
        reader,
        told,
        place,
        storms,
        forward: None,
        read: VecDeque::new(),
        unsaved: 0,
    };
    let Err(Ending) = follower.run(is_new).await;
}

impl Follower {
    async fn run(&mut self, is_new: bool) -> Result<std::convert::Infallible, Ending> {
        self.hook.show(&self.place, self.place.storms.len());
        if is_new {
            // Before anything is told: a webhook that is new twice would leave out what came between.
            self.save().await?;
        }
        if let Some(sending) = self.place.sending.clone() {
            self.tell(&sending).await?;
            self.place.sending = None;
            self.save().await?;
        }
        loop {
            match self.next().await? {
                Next::Entry(entry) => {
                    self.tell(&Notification::entry(self.hook.own, &entry)).await?;
                    self.place.through_seq = entry.seq();
                }
                Next::Storm(storm) => {
                    let notification = Notification::storm(self.hook.own, &storm);
                    self.place.sending = Some(notification.clone());
                    self.save().await?;
                    self.tell(&notification).await?;
                    self.place.sending = None;
                }
            }
            self.save().await?;
        }
    }

    /// What is to be told next, once there is something.
    async fn next(&mut self) -> Result<Next, Ending> {
        loop {
            let told = *self.told.borrow_and_update();
            if told.ending {
                return Err(Ending);
            }
            if let Some(entry) = self.read.front() {
                if let Some(storm) = self.storms.due_before(entry) {
                    return Ok(Next::Storm(storm));
                }
                let entry = self.read.pop_front().expect("it was looked at");
                if self.is_told_alone(&entry) {
                    return Ok(Next::Entry(entry));
                }
                self.place.through_seq = entry.seq();
                self.unsaved += 1;
                if self.unsaved >= UNSAVED_MAX {
                    self.save().await?;
                }
                continue;
            }
            if self.place.through_seq != told.head_seq {
                self.read(told.head_seq).await?;
                continue;
            }
            self.hook.show(&self.place, self.storms.counted().count());
            if let Some(storm) = self.storms.due() {
                return Ok(Next::Storm(storm));
            }
            self.wait_for_news().await?;
        }
    }

    /// False: it is not wanted, or counted.
    fn is_told_alone(&mut self, entry: &Entry) -> bool {
        if !self.hook.webhook.takes(entry) {
            return false;
        }
        match self.hook.webhook.storms {
            StormsTold::Every => true,
            StormsTold::Summarised => self.storms.take(entry) == Taken::Alone,
        }
    }

    /// Reads on, or finds out from where.
    async fn read(&mut self, head_seq: u64) -> Result<(), Ending> {
        let Some(mut forward) = self.forward.take() else { return self.find(head_seq).await };
        let read = tokio::task::spawn_blocking(move || {
            let entries = forward.read(head_seq);
            (forward, entries)
        });
        match read.await {
            Ok((forward, Ok(entries))) => {
                self.read.extend(entries);
                self.forward = Some(forward);
                Ok(())
            }
            Ok((_, Err(error))) => self.stalled(error).await,
            Err(error) => self.stalled(AuditError::Io(error.to_string())).await,
        }
    }

    async fn find(&mut self, head_seq: u64) -> Result<(), Ending> {
        let webhook = self.hook.webhook.name.clone();
        if self.place.through_seq > head_seq {
            tracing::warn!(
                webhook,
                told_seq = self.place.through_seq,
                head_seq,
                "the audit log was begun anew, and is told from its beginning"
            );
            self.place.through_seq = 0;
        }
        let (reader, after) = (self.reader.clone(), self.place.through_seq);
        let found = tokio::task::spawn_blocking(move || reader.forward(after)).await;
        match found.unwrap_or_else(|error| Err(AuditError::Io(error.to_string()))) {
            Ok(Ok(forward)) => {
                self.forward = Some(forward);
                self.hook.enter(Stage::Following);
                Ok(())
            }
            Ok(Err(Gone { first_seq })) => {
                let missed = first_seq - 1 - self.place.through_seq;
                tracing::error!(
                    webhook,
                    missed,
                    from_seq = self.place.through_seq + 1,
                    first_seq,
                    "entries were carried away with the audit log's archive before the webhook was \
                     told of them; it goes on from the first there is"
                );
                self.place.missed = self.place.missed.saturating_add(missed);
                self.place.through_seq = first_seq - 1;
                self.save().await
            }
            Err(error) => self.stalled(error).await,
        }
    }

    async fn stalled(&mut self, error: impl ToString) -> Result<(), Ending> {
        let why = error.to_string();
        let webhook = &self.hook.webhook.name;
        tracing::error!(webhook, why, "what the audit log tells waits to be told");
        self.hook.enter(Stage::Stalled { why });
        self.pause(PAUSE_STALLED).await
    }

    /// Until the receiver has it, or it is a dead letter.
    async fn tell(&mut self, notification: &Notification) -> Result<(), Ending> {
        let mut attempts = Attempts::new(self.hook.webhook.attempts);
        loop {
            let Some(answered) = self.blocking(notification, Hook::post).await else {
                // Its thread has panicked, which another may not.
                self.pause(PAUSE_STALLED).await?;
                continue;
            };
            match attempts.record(&answered.answer, rand::random()) {
                Then::Delivered => {
                    self.hook.enter(Stage::Following);
                    return Ok(());
                }
                Then::Again(pause) => {
                    let (id, next) = (notification.id.clone(), Instant::now() + pause);
                    self.hook.enter(Stage::Retrying { id, next });
                    self.pause(pause).await?;
                }
                Then::Dead => {
                    let made = attempts.made();
                    return self
                        .written(notification, move |hook, it| hook.bury(it.clone(), made))
                        .await;
                }
                Then::Gone => {
                    self.disabled(notification).await?;
                    attempts = Attempts::new(self.hook.webhook.attempts);
                }
            }
        }
    }

    /// Waits until somebody has seen that the receiver is there again.
    async fn disabled(&mut self, notification: &Notification) -> Result<(), Ending> {
        let (webhook, id) = (&self.hook.webhook.name, notification.id.clone());
        tracing::error!(
            webhook,
            id,
            "the receiver answered 410 (Gone): the webhook is disabled. Take it out of the \
             configuration; or, once the receiver is there again, `tidelock webhook test {webhook}` \
             or a restart has it told from where it was"
        );
        self.hook.enter(Stage::Disabled { id });
        let hook = self.hook.clone();
        // A word of before this moment is not about it.
        let _ = timeout_at(Instant::now().into(), hook.woken.notified()).await;
        tokio::select! {
            biased;
            ending = self.ending() => Err(ending),
            () = hook.woken.notified() => Ok(()),
        }
    }

    /// Writes the place down.
    async fn save(&mut self) -> Result<(), Ending> {
        self.place.storms = self.storms.counted().cloned().collect();
        let place = self.place.clone();
        self.written(&place, |hook, place| place::write(&hook.files.place, place)).await?;
        self.unsaved = 0;
        self.hook.show(&self.place, self.place.storms.len());
        Ok(())
    }

    /// Writes something, as often as it takes.
    async fn written<T: Clone + Send + 'static>(
        &mut self,
        what: &T,
        write: impl Fn(&Hook, &T) -> Result<(), FileError> + Clone + Send + 'static,
    ) -> Result<(), Ending> {
        loop {
            match self.blocking(what, write.clone()).await {
                Some(Ok(())) => break,
                Some(Err(error)) => self.stalled(error).await?,
                None => self.pause(PAUSE_STALLED).await?,
            }
        }
        self.hook.enter(Stage::Following);
        Ok(())
    }

    /// Runs what blocks on a thread that may. `None`: it panicked.
    async fn blocking<T: Clone + Send + 'static, R: Send + 'static>(
        &self,
        what: &T,
        call: impl FnOnce(&Hook, &T) -> R + Send + 'static,
    ) -> Option<R> {
        let (hook, what) = (self.hook.clone(), what.clone());
        tokio::task::spawn_blocking(move || call(&hook, &what)).await.ok()
    }

    /// Until the log has grown, a storm is due, or the server ends.
    async fn wait_for_news(&mut self) -> Result<(), Ending> {
        let changed = self.told.changed();
        let changed = match self.storms.due_at() {
            None => changed.await,
            // That it is due shows when it is looked at.
            Some(due) => timeout_at(due.into(), changed).await.unwrap_or(Ok(())),
        };
        // Gone with the server, if with anything.
        changed.map_err(|_| Ending)
    }

    /// Waits, unless the server ends or an operator has found that the receiver answers.
    async fn pause(&mut self, pause: Duration) -> Result<(), Ending> {
        let (hook, until) = (self.hook.clone(), Instant::now() + pause);
        tokio::select! {
            biased;
            ending = self.ending() => Err(ending),
            () = hook.woken.notified() => Ok(()),
            () = sleep_until(until.into()) => Ok(()),
        }
    }

    /// Until the server ends.
    async fn ending(&mut self) -> Ending {
        // Gone with the server, if with anything.
        let _ = self.told.wait_for(|told| told.ending).await;
        Ending
    }
}
