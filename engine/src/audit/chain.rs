//! The chain's end, which the next entry is tied to.

use super::entry::Entry;
use super::event::Event;
use crate::version::ContentHash;
use std::fmt;

/// Number and hash of the last entry. Noted elsewhere, it shows a log that was cut short.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Head {
    /// The entry's number; 0 where there is none.
    pub seq: u64,
    /// Its hash; zeros where there is none.
    pub hash: ContentHash,
}

impl Head {
    /// Of a log without entries.
    pub const START: Head = Head { seq: 0, hash: ContentHash([0; 32]) };
}

impl fmt::Display for Head {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.seq, self.hash)
    }
}

/// Makes entries, each tied to the one before. Small, and copied: an entry that could not be written
/// is undone by going back to the chain of before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Chain {
    head: Head,
}

impl Chain {
    /// Of a log without entries.
    pub fn new() -> Self {
        Chain::resume(Head::START)
    }

    /// Goes on behind the last entry of a log.
    pub fn resume(head: Head) -> Self {
        Chain { head }
    }

    /// The last entry.
    pub fn head(&self) -> Head {
        self.head
    }

    /// Makes the next entry. `at_ms` is wall time: milliseconds since the epoch.
    pub fn append(&mut self, at_ms: u64, event: &Event) -> Entry {
        let entry = Entry::follow(self.head, at_ms, event);
        self.head = entry.head();
        entry
    }
}

impl Default for Chain {
    fn default() -> Self {
        Chain::new()
    }
}
