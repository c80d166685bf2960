//! The trace of a run: what happened, when, to whom; and one hash of all of it.
//!
//! Invariant: every event goes into the hash, whether or not it is kept for reading, so that two
//! runs with one hash were the same run.

use std::fmt;
use tidelock_faults::End;

/// One thing that happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// Virtual, in microseconds.
    pub at_us: u64,
    /// Where.
    pub lane: End,
    /// What, in one word.
    pub kind: &'static str,
    /// The other end, for messages.
    pub to: Option<End>,
    /// In words.
    pub text: String,
}

impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ms = self.at_us / 1_000;
        let us = self.at_us % 1_000;
        let to = self.to.map(|to| format!(" -> {to}")).unwrap_or_default();
        write!(f, "{ms:>7}.{us:03} {}{to} {} {}", self.lane, self.kind, self.text)
    }
}

/// An event's part of the hash.
const LINE_BYTES: usize = 28;
const WAITING_BYTES_MAX: usize = 16 * 1024;

/// See the module.
#[derive(Debug)]
pub struct Trace {
    hasher: blake3::Hasher,
    /// Not hashed yet: many events at once are hashed several times as fast as one by one.
    waiting: Vec<u8>,
    kept: Option<Vec<Event>>,
    events: u64,
}

impl Trace {
    /// `keep`: for reading, not for the hash alone.
    pub fn new(keep: bool) -> Self {
        let waiting = Vec::with_capacity(WAITING_BYTES_MAX + LINE_BYTES);
        Trace { hasher: blake3::Hasher::new(), waiting, kept: keep.then(Vec::new), events: 0 }
    }

    /// Notes an event. `digest` stands for what the words say where they are not kept.
    pub fn note(
        &mut self,
        at_us: u64,
        lane: End,
        kind: &'static str,
        to: Option<End>,
        digest: u64,
        text: impl FnOnce() -> String,
    ) {
        let mut line = [0; LINE_BYTES];
        line[..8].copy_from_slice(&at_us.to_le_bytes());
        line[8..16].copy_from_slice(&digest.to_le_bytes());
        line[16..20].copy_from_slice(&code(Some(lane)).to_le_bytes());
        line[20..24].copy_from_slice(&code(to).to_le_bytes());
        let tag = kind.bytes().fold(0u32, |tag, byte| tag.rotate_left(5) ^ u32::from(byte));
        line[24..].copy_from_slice(&tag.to_le_bytes());
        self.waiting.extend_from_slice(&line);
        if self.waiting.len() >= WAITING_BYTES_MAX {
            self.hasher.update(&self.waiting);
            self.waiting.clear();
        }
        self.events += 1;
        if let Some(kept) = &mut self.kept {
            kept.push(Event { at_us, lane, kind, to, text: text() });
        }
    }

    /// How many events there were.
    pub fn events(&self) -> u64 {
        self.events
    }

    /// Of every event so far.
    pub fn hash(&self) -> blake3::Hash {
        self.hasher.clone().update(&self.waiting).finalize()
    }

    /// The events, if they were kept.
    pub fn take(&mut self) -> Vec<Event> {
        self.kept.take().unwrap_or_default()
    }
}

fn code(end: Option<End>) -> u32 {
    match end {
        None => 0,
        Some(End::Node(node)) => 0x1_0000 + u32::from(node),
        Some(End::Store(store)) => 0x2_0000 + store as u32,
        Some(End::Session(session)) => 0x3_0000 + u32::from(session),
    }
}
