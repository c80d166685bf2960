//! What the sessions do: writes to a few hot records and many cold ones, each value unique, so
//! that every byte served traces to one write.

use bytes::Bytes;
use rand::{Rng, RngExt};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::ops::Range;
use tidelock_engine::record::StoreId;

/// What to generate.
#[derive(Clone, Debug)]
pub struct Shape {
    /// Coordinators.
    pub nodes: u16,
    /// Sessions.
    pub sessions: u16,
    /// How many operations.
    pub operations: u32,
    /// None begins after this.
    pub until_ms: u64,
    /// Names to choose from.
    pub datasets: Vec<String>,
    /// Length of a value that the authority cannot take whole.
    pub oversize_bytes: usize,
    /// How many records there are, in each dataset.
    pub records: u32,
    /// Of a thousand operations, how many are on the first three.
    pub hot_permille: u32,
}

/// One operation of a session.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Operation {
    /// Unique in its scenario; the value is made from it.
    pub id: u32,
    /// When it begins; later if the session is still busy.
    pub at_ms: u64,
    /// Whose.
    pub session: u16,
    /// Which coordinator is asked first.
    pub node: u16,
    /// In which dataset.
    pub dataset: String,
    /// Which record.
    pub key: String,
    /// What.
    pub act: Act,
}

/// What an operation does.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Act {
    /// Writes a value of so many bytes over whatever is known.
    Put {
        /// Length.
        bytes: usize,
    },
    /// The same, for a time.
    PutForAWhile {
        /// Length.
        bytes: usize,
        /// How long it stands.
        ttl_ms: u64,
    },
    /// Deletes.
    Delete,
    /// Writes with the context of the session's last read of the record.
    PutWithContext {
        /// Length.
        bytes: usize,
    },
    /// Reads, then writes if nothing has changed since.
    PutIfUnchanged {
        /// Length.
        bytes: usize,
    },
    /// Adds to a counter: reads it, or goes by what was read of it last, and writes the sum with that
    /// read's context.
    Add {
        /// A power of two that nobody else adds to it.
        amount: u64,
        /// Reads it anew.
        fresh: bool,
    },
    /// Has a coordinator add to a counter, whatever it is now.
    Increment {
        /// A power of two that nobody else adds to it.
        amount: u64,
    },
    /// Somebody writes to D1's table past every coordinator.
    Foreign {
        /// Length.
        bytes: usize,
    },
    /// An operator has the bytes of all that the record's site keeps of it erased, but for what stands.
    Erase,
    /// Reads the nearest copy.
    ReadAny,
    /// Reads the authority's.
    ReadLatest,
    /// Reads nothing older than what the session has seen.
    ReadSession,
}

impl Operation {
    /// The bytes that it writes.
    pub fn value(&self) -> Option<Bytes> {
        let bytes = match self.act {
            Act::Put { bytes }
            | Act::PutForAWhile { bytes, .. }
            | Act::PutWithContext { bytes }
            | Act::PutIfUnchanged { bytes }
            | Act::Foreign { bytes } => bytes,
            Act::Delete
            | Act::Add { .. }
            | Act::Increment { .. }
            | Act::Erase
            | Act::ReadAny
            | Act::ReadLatest
            | Act::ReadSession => return None,
        };
        Some(value(self.id, bytes))
    }

    /// True when it may change the record.
    pub fn is_write(&self) -> bool {
        !matches!(self.act, Act::Erase | Act::ReadAny | Act::ReadLatest | Act::ReadSession)
    }
}

/// A value that no other write has.
pub fn value(id: u32, bytes: usize) -> Bytes {
    let mut text = String::with_capacity(bytes.max(16));
    let _ = write!(text, "w{id}.");
    while text.len() < bytes {
        text.push(char::from(b'a' + u8::try_from((text.len() + id as usize) % 26).unwrap_or(0)));
    }
    Bytes::from(text)
}

/// The beginning of values that a store refuses for good.
pub const fn poison_of(store: StoreId) -> &'static str {
    match store {
        StoreId::Kv => "!kv.",
        StoreId::D1 => "!d1.",
        StoreId::R2 => "!r2.",
    }
}

/// A value that one store refuses for good, and no other write has.
pub fn poison(store: StoreId, value: &[u8]) -> Bytes {
    [poison_of(store).as_bytes(), value].concat().into()
}

/// Draws the operations, in time order.
pub fn generate(shape: &Shape, rng: &mut impl Rng) -> Vec<Operation> {
    let mut operations: Vec<Operation> = (0..shape.operations)
        .map(|id| {
            let hot = rng.random_bool(f64::from(shape.hot_permille) / 1_000.0);
            let key = if hot { rng.random_range(0..3) } else { rng.random_range(3..shape.records) };
            let bytes = match rng.random_range(0..100) {
                0..4 => shape.oversize_bytes + rng.random_range(0..200),
                _ => rng.random_range(8..120),
            };
            let act = match rng.random_range(0..100) {
                0..62 => Act::Put { bytes },
                62..72 => Act::Delete,
                72..80 => Act::PutWithContext { bytes },
                80..85 => Act::PutIfUnchanged { bytes },
                85..89 => Act::ReadAny,
                89..97 => Act::ReadSession,
                _ => Act::ReadLatest,
            };
            let dataset = &shape.datasets[rng.random_range(0..shape.datasets.len())];
            Operation {
                id,
                at_ms: rng.random_range(100..shape.until_ms),
                session: rng.random_range(0..shape.sessions),
                node: rng.random_range(0..shape.nodes),
                dataset: dataset.clone(),
                key: format!("k{key}"),
                act,
            }
        })
        .collect();
    operations.sort_by_key(|operation| (operation.at_ms, operation.id));
    operations
}

/// Gives every so many puts to these datasets a time after which their values expire. Drawn from a stream of its own:
/// all else of the run stays what it was.
pub fn let_expire(
    operations: &mut [Operation],
    datasets: &[String],
    permille: u32,
    rng: &mut impl Rng,
) {
    for operation in operations {
        if let Act::Put { bytes } = operation.act
            && datasets.contains(&operation.dataset)
            && rng.random_range(0..1_000) < permille
        {
            operation.act = Act::PutForAWhile { bytes, ttl_ms: rng.random_range(TTL_MS) };
        }
    }
}

/// Makes of each write to these datasets one that adds to a counter, as long as there is something to add
/// that nobody else has.
pub fn count(operations: &mut Vec<Operation>, counters: &[String], rng: &mut impl Rng) {
    let mut added: BTreeMap<(String, String), u32> = BTreeMap::new();
    operations.retain_mut(|operation| {
        if !operation.is_write() || !counters.contains(&operation.dataset) {
            return true;
        }
        let place = (operation.dataset.clone(), operation.key.clone());
        let bit = added.entry(place).or_default();
        let amount = 1 << *bit;
        *bit += 1;
        operation.act = Act::Add { amount, fresh: rng.random_bool(0.5) };
        *bit <= ADDS_MAX
    });
}

/// Has what is past of these datasets' records erased, a while after every so many operations on them.
pub fn erase(
    operations: &mut Vec<Operation>,
    datasets: &[String],
    permille: u32,
    rng: &mut impl Rng,
) {
    let about = operations.iter().filter(|operation| datasets.contains(&operation.dataset));
    let about = about.filter(|_| rng.random_range(0..1_000) < permille).cloned();
    let mut erasures: Vec<Operation> = about.collect();
    for erasure in &mut erasures {
        erasure.id += ERASURE_ID;
        erasure.at_ms += rng.random_range(0..3_000);
        erasure.act = Act::Erase;
    }
    operations.append(&mut erasures);
    operations.sort_by_key(|operation| (operation.at_ms, operation.id));
}

/// Erasures have ids from here on: that of the operation which each follows, and this.
const ERASURE_ID: u32 = 2_000_000;

/// Has half of those who add to a counter say so, instead of reading it and writing the sum.
pub fn increment(operations: &mut [Operation], rng: &mut impl Rng) {
    for operation in operations {
        if let Act::Add { amount, .. } = operation.act
            && rng.random_bool(0.5)
        {
            operation.act = Act::Increment { amount };
        }
    }
}

/// What is added to one counter: its sum stays exact wherever numbers have 53 bits.
const ADDS_MAX: u32 = 50;

/// A counter's document.
pub fn counter(id: u32, n: u64) -> Bytes {
    Bytes::from(format!("{{\"n\":{n},\"by\":\"w{id}.\"}}"))
}

/// How long values stand that expire.
pub const TTL_MS: Range<u64> = 1_000..9_000;
