//! One webhook, as the task that tells it and the operators who look after it share it.
//!
//! Invariant: the lists that are held here are those of the files: a letter that is shown outlives the
//! process. Calls named so block on disk or network, and belong on a thread that may.

use super::attempt::Answer;
use super::notification::Notification;
use super::place::{self, Files, Letter, Letters, Place};
use super::receiver::Receiver;
use crate::env::Peer;
use crate::policy::webhook::Webhook;
use crate::production::folder::FileError;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use tokio::sync::Notify;

/// One webhook.
#[derive(Debug)]
pub struct Hook {
    /// As it is configured.
    pub webhook: Webhook,
    /// This coordinator.
    pub(super) own: Peer,
    pub(super) files: Files,
    receiver: Receiver,
    standing: Mutex<Standing>,
    letters: Mutex<Letters>,
    /// Whoever waits for another try, or to be told anything again, waits no longer.
    pub(super) woken: Notify,
}

/// What the task does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Stage {
    /// It tells what the log tells.
    Following,
    /// A notification was not taken, and is tried again.
    Retrying {
        /// Which.
        id: String,
        /// When the next try comes.
        next: Instant,
    },
    /// The receiver answered that it is gone for good. Nothing is told until it takes a test.
    Disabled {
        /// What it was told last.
        id: String,
    },
    /// The log or the place cannot be read or written.
    Stalled {
        /// What is in the way.
        why: String,
    },
}

impl Stage {
    /// In one word.
    pub fn name(&self) -> &'static str {
        match self {
            Stage::Following => "following",
            Stage::Retrying { .. } => "retrying",
            Stage::Disabled { .. } => "disabled",
            Stage::Stalled { .. } => "stalled",
        }
    }
}

/// What a receiver answered last.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answered {
    /// To what.
    pub id: String,
    /// What.
    pub answer: Answer,
    /// When, in milliseconds since the epoch.
    pub at_ms: u64,
    /// How long that took.
    pub took: Duration,
}

/// How a webhook does. Counts are since the start.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Standing {
    /// What its task does.
    pub stage: Stage,
    /// Everything up to this entry was told.
    pub told_seq: u64,
    /// Storms that are being counted.
    pub storms: usize,
    /// Entries that had left the log before they were told, ever.
    pub missed: u64,
    /// The last answer.
    pub answered: Option<Answered>,
    /// Tries that failed since the last one that did not.
    pub failures: u32,
    /// Notifications that the receiver took.
    pub delivered: u64,
    /// Tries that it did not.
    pub failed: u64,
    /// Notifications that became dead letters.
    pub dead: u64,
    /// Dead letters that were dropped, since there were too many.
    pub dropped: u64,
}

/// Why a dead letter was not seen to.
#[derive(Debug)]
pub enum LetterError {
    /// There is none with this id.
    Unknown,
    /// The list of them cannot be written.
    File(FileError),
}

/// What came of trying a dead letter once more.
#[derive(Debug)]
pub struct Retried {
    /// As it is now; gone from the list if it was delivered.
    pub letter: Letter,
    /// What the receiver said.
    pub answered: Answered,
}

impl Hook {
    pub(super) fn new(
        webhook: Webhook,
        own: Peer,
        files: Files,
        receiver: Receiver,
        letters: Letters,
    ) -> Self {
        let standing = Standing {
            stage: Stage::Following,
            told_seq: 0,
            storms: 0,
            missed: 0,
            answered: None,
            failures: 0,
            delivered: 0,
            failed: 0,
            dead: 0,
            dropped: 0,
        };
        let (standing, letters) = (Mutex::new(standing), Mutex::new(letters));
        Hook { webhook, own, files, receiver, standing, letters, woken: Notify::new() }
    }

    /// How it does.
    pub fn standing(&self) -> Standing {
        self.lock().clone()
    }

    /// Its dead letters, the oldest first.
    pub fn letters(&self) -> Vec<Letter> {
        self.lock_letters().iter().cloned().collect()
    }

    /// Sends a signed ping, once. One that is taken has a disabled webhook told again, and one that
    /// waits for its next try wait no longer. Blocks.
    pub fn test(&self, random: u64) -> Answered {
        let ping = Notification::ping(self.own, &self.webhook.name, wall_ms(), random);
        let answered = self.post(&ping);
        if answered.answer.is_delivered() {
            self.woken.notify_one();
        }
        answered
    }

    /// Tries a dead letter once more. Blocks.
    pub fn retry(&self, id: &str) -> Result<Retried, LetterError> {
        let mut letter = self.lock_letters().find(id).cloned().ok_or(LetterError::Unknown)?;
        let answered = self.post(&letter.notification);
        letter.attempts += 1;
        letter.answer = answered.answer.to_string();
        let is_delivered = answered.answer.is_delivered();
        self.change_letters(|letters| {
            if is_delivered {
                letters.remove(id);
            } else if letters.find(id).is_some() {
                letters.add(letter.clone());
            }
        })
        .map_err(LetterError::File)?;
        Ok(Retried { letter, answered })
    }

    /// Gives a dead letter up. Blocks.
    pub fn discard(&self, id: &str) -> Result<Letter, LetterError> {
        let removed = self.change_letters(|letters| letters.remove(id));
        removed.map_err(LetterError::File)?.ok_or(LetterError::Unknown)
    }

    /// Keeps what could not be told. Blocks.
    pub(super) fn bury(&self, notification: Notification, attempts: u32) -> Result<(), FileError> {
        let answer = self.lock().answered.as_ref().map(|answered| answered.answer.to_string());
        let (id, since_ms, answer) =
            (notification.id.clone(), wall_ms(), answer.unwrap_or_default());
        let letter = Letter { notification, since_ms, attempts, answer };
        let dropped = self.change_letters(|letters| letters.add(letter))?;
        let webhook = &self.webhook.name;
        tracing::warn!(
            webhook,
            id,
            attempts,
            "a notification was not taken and is a dead letter now"
        );
        for letter in &dropped {
            tracing::warn!(
                webhook,
                id = letter.notification.id,
                first_seq = letter.notification.first_seq,
                "there are too many dead letters, and the oldest is dropped; the audit log has its entry"
            );
        }
        let mut standing = self.lock();
        standing.dead += 1;
        standing.dropped += dropped.len() as u64;
        Ok(())
    }

    /// Tells the receiver, once. Blocks.
    pub(super) fn post(&self, notification: &Notification) -> Answered {
        let (begun, at_ms) = (Instant::now(), wall_ms());
        let answer = self.receiver.post(notification, at_ms / 1_000);
        let (id, took) = (notification.id.clone(), begun.elapsed());
        let answered = Answered { id, answer, at_ms, took };
        let mut standing = self.lock();
        if answered.answer.is_delivered() {
            standing.delivered += 1;
            standing.failures = 0;
        } else {
            standing.failed += 1;
            standing.failures = standing.failures.saturating_add(1);
            let (webhook, answer) = (&self.webhook.name, &answered.answer);
            tracing::debug!(webhook, id = answered.id, %answer, "not taken");
        }
        standing.answered = Some(answered.clone());
        answered
    }

    pub(super) fn enter(&self, stage: Stage) {
        self.lock().stage = stage;
    }

    pub(super) fn show(&self, place: &Place, storms: usize) {
        let mut standing = self.lock();
        (standing.told_seq, standing.missed) = (place.told_seq(), place.missed);
        standing.storms = storms;
    }

    /// Changes the list and its file, or neither.
    fn change_letters<T>(&self, change: impl FnOnce(&mut Letters) -> T) -> Result<T, FileError> {
        let mut letters = self.lock_letters();
        let mut changed = letters.clone();
        let came = change(&mut changed);
        if changed != *letters {
            place::write(&self.files.dead, &changed)?;
            *letters = changed;
        }
        Ok(came)
    }

    fn lock(&self) -> MutexGuard<'_, Standing> {
        self.standing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lock_letters(&self) -> MutexGuard<'_, Letters> {
        self.letters.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Wall time in milliseconds since the epoch; a receiver holds a signature's time against its own.
fn wall_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}
