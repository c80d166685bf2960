//! The audit log: what became of records, and who did what, readable long after the stores have
//! moved on.
//!
//! ```text
//! Event ──> Chain::append ──> Entry ──> one line of JSON ──> Verifier, line after line
//!             │    ▲           seq, at_ms, prev, hash, event
//!             └────┘ the head: number and hash of the last entry
//! ```
//!
//! Invariant: an entry's hash covers its number, its time, the hash of the entry before and every
//! byte of its event. So nothing is altered, taken out, put in, doubled or moved without an entry
//! behind it showing that; what is done to the very last entries shows against a head that was noted
//! elsewhere. Source: Schneier, Kelsey: "Secure Audit Logs to Support Computer Forensics", 1999.
//!
//! Values are named by their write's dot, their hash and their length. Their bytes stay where rule V6
//! has put them, beside the winner: they can be erased there, and the chain still holds.
//!
//! Everything here is a pure function of events, times and lines. Where the lines are kept is left to
//! `production::audit`, and what is worth an entry to the coordinator.

mod chain;
mod conflict;
mod entry;
mod event;
mod retention;
mod storm;
mod verify;

pub use chain::{Chain, Head};
pub use conflict::{Conflict, ConflictFacts, ConflictId, Original, Settled};
pub use entry::{Entry, Unreadable};
pub use event::{Event, Kind, Words};
pub use retention::Retention;
pub use storm::{Storm, Storms, Taken};
pub use verify::{Broken, Verified, Verifier, Wrong, verify};

/// The spelling of what has a short text of its own: dots, histories and ids are written as they
/// stand in operation ids and copies, so that one search finds them everywhere.
mod text {
    use serde::{Deserialize, Deserializer, Serializer, de::Error};
    use std::fmt::Display;
    use std::str::FromStr;

    pub(super) fn serialize<T: Display, S: Serializer>(
        value: &T,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        serializer.collect_str(value)
    }

    pub(super) fn deserialize<'de, T: FromStr<Err: Display>, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<T, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(D::Error::custom)
    }
}
