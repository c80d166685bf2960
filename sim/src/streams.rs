//! Random streams, one for each purpose and number.
//!
//! Invariant: what is drawn for one purpose never depends on what was drawn for another, so that
//! a shrunk scenario meets the same latencies and choices where it is the same.

use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;

/// What a stream is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Purpose {
    /// Datasets and clocks.
    Topology = 1,
    /// The fault plan.
    Plan,
    /// The operations.
    Workload,
    /// Latency on one link.
    Link,
    /// The random choices of one fault.
    Fault,
    /// A coordinator's own random numbers, one stream for each life.
    Engine,
    /// A journal disk.
    Disk,
    /// A store's own choices.
    Store,
    /// The order of a swizzled partition.
    Swizzle,
    /// What is replayed once more at the end.
    Replay,
    /// Which values expire, and when.
    Expiry,
    /// How sites exchange what they have.
    Exchange,
    /// How often is looked over what.
    Looks,
    /// Whose bytes operators have erased, and when.
    Erasures,
    /// Which of those who add to counters say by how much, and no more.
    Increments,
    /// Audit logs: whether there are any, and what their disks do.
    Audit,
}

/// All streams of a seed.
#[derive(Clone, Copy, Debug)]
pub struct Streams {
    seed: u64,
}

impl Streams {
    /// Of this seed.
    pub fn new(seed: u64) -> Self {
        Streams { seed }
    }

    /// Opens one at its beginning.
    pub fn open(&self, purpose: Purpose, number: u64) -> ChaCha8Rng {
        let mut key = [0; 32];
        key[..8].copy_from_slice(&self.seed.to_le_bytes());
        key[8..16].copy_from_slice(&(purpose as u64).to_le_bytes());
        key[16..24].copy_from_slice(&number.to_le_bytes());
        ChaCha8Rng::from_seed(key)
    }
}
