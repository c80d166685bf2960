//! When each key of a store was last put to: KV and R2 take one write a second for each.
//!
//! Invariant: what is older than that second is forgotten as newer puts are noted, so this holds
//! no more than was put in the last second and the keys of one more.

use crate::record::RecordId;
use crate::record_map::RecordMap;
use std::collections::VecDeque;
use std::time::Duration;

/// The last puts of one store.
#[derive(Clone, Debug)]
pub struct LastPuts {
    at: RecordMap<Duration>,
    order: VecDeque<(Duration, RecordId)>,
}

impl LastPuts {
    /// None yet; `seed`: see [`Env::hash_seed`](crate::env::Env::hash_seed).
    pub fn new(seed: u64) -> Self {
        LastPuts { at: RecordMap::new(seed), order: VecDeque::new() }
    }

    /// A put to a record's key ended now.
    pub fn note(&mut self, record: &RecordId, now: Duration, apart: Duration) {
        while let Some((at, _)) = self.order.front()
            && *at + apart <= now
        {
            let (at, record) = self.order.pop_front().expect("looked at above");
            if self.at.get(&record) == Some(&at) {
                self.at.remove(&record);
            }
        }
        self.at.insert(record.clone(), now);
        self.order.push_back((now, record.clone()));
    }

    /// When the key may be put to again; `None`: at once.
    pub fn next(&self, record: &RecordId, now: Duration, apart: Duration) -> Option<Duration> {
        let next = *self.at.get(record)? + apart;
        (next > now).then_some(next)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    #[test]
    fn a_key_waits_for_its_second_and_is_forgotten_after_it() {
        let record = |key: &str| RecordId { dataset: Arc::from("d"), key: key.into() };
        let ms = Duration::from_millis;
        let apart = ms(1_000);
        let mut puts = LastPuts::new(7);
        puts.note(&record("a"), ms(0), apart);
        puts.note(&record("a"), ms(700), apart);
        assert_eq!(puts.next(&record("a"), ms(1_200), apart), Some(ms(1_700)));
        assert_eq!(puts.next(&record("b"), ms(1_200), apart), None);
        puts.note(&record("b"), ms(1_200), apart);
        assert_eq!(puts.next(&record("a"), ms(1_200), apart), Some(ms(1_700)), "the newer counts");
        puts.note(&record("b"), ms(1_700), apart);
        assert_eq!((puts.at.len(), puts.order.len()), (1, 2));
    }
}
