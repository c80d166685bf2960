//! Storms of conflicts, for one who follows the log while it grows.
//!
//! Invariant: time is the log's, as far as it has come: that of the last entry and what has passed
//! since it was read, by a clock that is never set. So one who reads what is hours old sees the storms
//! of then, and the last of them ends without another entry.

use crate::audit::{Entry, Event, Storm, Storms, Taken};
use std::time::{Duration, Instant};

/// What is counted of the conflicts that were read.
#[derive(Debug)]
pub struct Counting {
    storms: Storms,
    /// The time of the last entry, and when it was read.
    read: (u64, Instant),
}

impl Counting {
    /// With what was counted in a former life, and not told.
    pub fn resume(counted: Vec<Storm>) -> Self {
        let newest_ms = counted.iter().map(|storm| storm.to_ms).max().unwrap_or(0);
        Counting { storms: Storms::resume(counted), read: (newest_ms, Instant::now()) }
    }

    /// What is counted and was not told.
    pub fn counted(&self) -> impl Iterator<Item = &Storm> {
        self.storms.counted()
    }

    /// The last entry before everything that is counted, of those up to `through_seq`.
    pub fn told_seq(&self, through_seq: u64) -> u64 {
        self.storms
            .first_seq()
            .map_or(through_seq, |first_seq| through_seq.min(first_seq.saturating_sub(1)))
    }

    /// What is to be told before an entry, one at a time.
    pub fn due_before(&mut self, entry: &Entry) -> Option<Storm> {
        self.storms.due(entry.at_ms())
    }

    /// Takes an entry, before which nothing is due: how it is told.
    pub fn take(&mut self, entry: &Entry) -> Taken {
        self.read = (entry.at_ms(), Instant::now());
        match entry.event() {
            Ok(Event::Conflict(conflict)) => self.storms.take(entry, &conflict),
            Ok(_) | Err(_) => Taken::Alone,
        }
    }

    /// What is to be told where no more entries are there, one at a time.
    pub fn due(&mut self) -> Option<Storm> {
        let (at_ms, read) = self.read;
        let since_ms = u64::try_from(read.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.storms.due(at_ms.saturating_add(since_ms))
    }

    /// When something will be due, if no entry comes before.
    pub fn due_at(&self) -> Option<Instant> {
        let (at_ms, read) = self.read;
        let due_ms = self.storms.due_ms()?;
        Some(read + Duration::from_millis(due_ms.saturating_sub(at_ms)))
    }
}
