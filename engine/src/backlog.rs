//! What waits for the authority, of each dataset, and whether a dataset may take in more.
//!
//! ```text
//! absorb   up to the bounds of its queue, however long that takes to drain
//! promise  the same, and only while every store is predicted to have it within five seconds
//! ```
//!
//! Invariant: what is counted is what was taken in and has not left. A bound is looked at before a write
//! gets its place in the journal, so a refusal always comes before an acknowledgement.

use crate::record::StoreId;
use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

/// What `promise` promises.
pub const PROMISED_WITHIN: Duration = Duration::from_secs(5);

/// What a dataset does when its stores cannot keep up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// It takes in what its queue has room for.
    Absorb,
    /// It refuses what the stores are not predicted to have within [`PROMISED_WITHIN`].
    Promise,
}

/// How much of a dataset may wait; `None`: as much as the coordinator as a whole may hold.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Queue {
    /// Writes that wait for the authority; and records that wait for each projection.
    pub records: Option<usize>,
    /// Bytes of the values that wait for the authority. One value always has room.
    pub bytes: Option<usize>,
}

/// Writes that wait.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Waiting {
    /// How many.
    pub writes: usize,
    /// Bytes of their values.
    pub bytes: usize,
}

/// Why a dataset takes in no more now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Full {
    /// So many of its writes or records wait for a store, which is the bound.
    Records {
        /// Which store.
        store: StoreId,
        /// The bound.
        records_max: usize,
    },
    /// With this write, more bytes would wait for the authority than may.
    Bytes {
        /// That wait already.
        bytes: usize,
        /// The bound.
        bytes_max: usize,
    },
    /// A store would not have it within [`PROMISED_WITHIN`].
    Late {
        /// Which store.
        store: StoreId,
        /// When it will have what it is owed already; `None`: it does not answer.
        drain: Option<Duration>,
    },
}

impl Full {
    /// When the same may have room, in whole seconds: no sooner than the backlog will have shrunk to
    /// what can be promised.
    pub fn retry_after_s(&self) -> u64 {
        match self {
            Full::Late { drain: Some(drain), .. } => {
                drain.saturating_sub(PROMISED_WITHIN).as_secs().saturating_add(1)
            }
            Full::Records { .. } | Full::Bytes { .. } | Full::Late { drain: None, .. } => 1,
        }
    }
}

impl fmt::Display for Full {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Full::Records { store, records_max } => write!(
                f,
                "{records_max} of its records wait for {store}, which is its queue.records"
            ),
            Full::Bytes { bytes, bytes_max } => write!(
                f,
                "{bytes} bytes of its values wait for d1, and its queue.bytes is {bytes_max}"
            ),
            Full::Late { store, drain: None } => write!(
                f,
                "it promises every store within {} s, and {store} does not answer",
                PROMISED_WITHIN.as_secs()
            ),
            Full::Late { store, drain: Some(drain) } => write!(
                f,
                "it promises every store within {} s, and {store} is behind by {} ms",
                PROMISED_WITHIN.as_secs(),
                drain.as_millis()
            ),
        }
    }
}

/// What a store is owed of a dataset, and how it does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Behind {
    /// Which store.
    pub store: StoreId,
    /// Records of the dataset that it is owed.
    pub records: usize,
    /// It answers.
    pub answers: bool,
    /// When it will have all that it is owed, of every dataset; `None`: nobody can tell.
    pub drain: Option<Duration>,
}

/// Why a value of so many bytes cannot be taken in; `None`: it can.
pub fn full(
    mode: Mode,
    queue: Queue,
    waiting: Waiting,
    bytes: usize,
    stores: impl Iterator<Item = Behind>,
) -> Option<Full> {
    if let Some(records_max) = queue.records
        && waiting.writes >= records_max
    {
        return Some(Full::Records { store: StoreId::D1, records_max });
    }
    if let Some(bytes_max) = queue.bytes
        && waiting.writes > 0
        && waiting.bytes.saturating_add(bytes) > bytes_max
    {
        return Some(Full::Bytes { bytes: waiting.bytes, bytes_max });
    }
    for Behind { store, records, answers, drain } in stores {
        let records = match store {
            StoreId::D1 => records,
            // What waits for the authority is owed to the projections as soon as that has it.
            StoreId::Kv | StoreId::R2 => records.saturating_add(waiting.writes),
        };
        if let Some(records_max) = queue.records
            && records >= records_max
        {
            return Some(Full::Records { store, records_max });
        }
        match mode {
            Mode::Absorb => {}
            Mode::Promise if !answers => return Some(Full::Late { store, drain: None }),
            Mode::Promise => {
                // Of a store that nothing was sent to yet nobody can tell that it is slow.
                let late = drain.filter(|drain| *drain > PROMISED_WITHIN);
                if late.is_some() {
                    return Some(Full::Late { store, drain: late });
                }
            }
        }
    }
    None
}

/// What waits for the authority, of all datasets.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Held {
    all: Waiting,
    of: BTreeMap<Arc<str>, Waiting>,
}

impl Held {
    /// A write is taken in.
    pub fn add(&mut self, dataset: &Arc<str>, bytes: usize) {
        let of = match self.of.get_mut(dataset) {
            Some(of) => of,
            None => self.of.entry(dataset.clone()).or_default(),
        };
        for waiting in [of, &mut self.all] {
            waiting.writes += 1;
            waiting.bytes += bytes;
        }
    }

    /// Writes have left, with so many bytes between them.
    pub fn remove(&mut self, dataset: &Arc<str>, writes: usize, bytes: usize) {
        let of = self.of.get_mut(dataset).expect("what leaves was taken in");
        for waiting in [of, &mut self.all] {
            waiting.writes -= writes;
            waiting.bytes -= bytes;
        }
    }

    /// Of all datasets.
    pub fn all(&self) -> Waiting {
        self.all
    }

    /// Of one.
    pub fn of(&self, dataset: &str) -> Waiting {
        self.of.get(dataset).copied().unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn behind(store: StoreId, records: usize, drain_ms: Option<u64>) -> Behind {
        let drain = drain_ms.map(Duration::from_millis);
        Behind { store, records, answers: true, drain }
    }

    #[test]
    fn a_queue_is_bounded_in_writes_bytes_and_copies() {
        let queue = Queue { records: Some(3), bytes: Some(100) };
        let check = |writes: usize, held: usize, bytes: usize, copies: usize| {
            let waiting = Waiting { writes, bytes: held };
            let kv = behind(StoreId::Kv, copies, Some(60_000));
            full(Mode::Absorb, queue, waiting, bytes, [kv].into_iter())
        };
        assert_eq!(check(2, 50, 50, 0), None, "up to the bounds, however long it takes");
        assert_eq!(check(1, 50, 50, 1), None);
        let records = |store| Some(Full::Records { store, records_max: 3 });
        assert_eq!(check(3, 0, 0, 0), records(StoreId::D1));
        assert_eq!(check(0, 0, 0, 3), records(StoreId::Kv));
        assert_eq!(check(1, 0, 0, 2), records(StoreId::Kv), "the next is on its way there");
        assert_eq!(check(1, 50, 51, 0), Some(Full::Bytes { bytes: 50, bytes_max: 100 }));
        assert_eq!(check(0, 0, 1_000, 0), None, "one value always has room");
    }

    #[test]
    fn a_promise_is_kept_or_not_made() {
        let check = |behind: Behind| {
            full(Mode::Promise, Queue::default(), Waiting::default(), 1, [behind].into_iter())
        };
        let store = StoreId::R2;
        for drain_ms in [None, Some(0), Some(5_000)] {
            assert_eq!(check(behind(store, 9, drain_ms)), None, "{drain_ms:?}");
        }
        let late = check(behind(store, 9, Some(7_500))).unwrap();
        assert_eq!(late, Full::Late { store, drain: Some(Duration::from_millis(7_500)) });
        assert_eq!(late.retry_after_s(), 3);
        let away = check(Behind { answers: false, ..behind(store, 0, Some(0)) }).unwrap();
        assert_eq!((away, away.retry_after_s()), (Full::Late { store, drain: None }, 1));
    }

    #[test]
    fn what_waits_is_counted_for_each_dataset() {
        let (a, b): (Arc<str>, Arc<str>) = ("a".into(), "b".into());
        let mut held = Held::default();
        held.add(&a, 10);
        held.add(&a, 5);
        held.add(&b, 1);
        held.remove(&a, 1, 10);
        assert_eq!(held.of("a"), Waiting { writes: 1, bytes: 5 });
        assert_eq!(held.all(), Waiting { writes: 2, bytes: 6 });
        assert_eq!(held.of("c"), Waiting::default());
    }
}
