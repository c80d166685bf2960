//! A map of records that nobody reads in their order: what is under way, by record.
//!
//! Invariant: what is read of all of them comes in an order that the calls alone have made, the same
//! whatever the seed. The seed is secret: who may choose keys could otherwise choose such as meet in one
//! place of the table. A map that was large and is empty gives its memory back.

use crate::record::RecordId;
use ahash::RandomState;
use indexmap::IndexMap;
use indexmap::map::Entry;

/// Entries that an empty map keeps room for.
const ROOM_KEPT: usize = 1_024;

/// See the module.
#[derive(Clone, Debug)]
pub struct RecordMap<V>(IndexMap<RecordId, V, RandomState>);

impl<V> RecordMap<V> {
    /// An empty one; `seed`: see [`Env::hash_seed`](crate::env::Env::hash_seed).
    pub fn new(seed: u64) -> Self {
        // Four numbers that differ, of one: as many as the hash takes.
        let of = |n: u64| seed.rotate_left(16 * n as u32) ^ n;
        RecordMap(IndexMap::with_hasher(RandomState::with_seeds(of(0), of(1), of(2), of(3))))
    }

    /// A record's.
    #[inline]
    pub fn get(&self, record: &RecordId) -> Option<&V> {
        self.0.get(record)
    }

    /// As [`RecordMap::get`].
    #[inline]
    pub fn get_mut(&mut self, record: &RecordId) -> Option<&mut V> {
        self.0.get_mut(record)
    }

    /// A record's, whether there is one or not.
    #[inline]
    pub fn entry(&mut self, record: RecordId) -> Entry<'_, RecordId, V> {
        self.0.entry(record)
    }

    /// Puts a record's in the place of what was there.
    pub fn insert(&mut self, record: RecordId, value: V) -> Option<V> {
        self.0.insert(record, value)
    }

    /// Takes a record's out.
    pub fn remove(&mut self, record: &RecordId) -> Option<V> {
        let removed = self.0.swap_remove(record);
        if self.0.is_empty() && self.0.capacity() > ROOM_KEPT {
            self.0.shrink_to(ROOM_KEPT / 2);
        }
        removed
    }

    /// How many records there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// True when there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = (&RecordId, &V)> + Clone {
        self.0.iter()
    }

    /// As [`RecordMap::iter`].
    pub fn iter_mut(&mut self) -> impl Iterator<Item = (&RecordId, &mut V)> {
        self.0.iter_mut()
    }

    /// What is kept for each.
    pub fn values(&self) -> impl Iterator<Item = &V> {
        self.0.values()
    }

    /// As [`RecordMap::values`].
    pub fn values_mut(&mut self) -> impl Iterator<Item = &mut V> {
        self.0.values_mut()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;
    use std::sync::Arc;

    fn record(n: u16) -> RecordId {
        RecordId { dataset: Arc::from("d"), key: n.to_string().as_str().into() }
    }

    proptest! {
        #[test]
        fn it_holds_what_an_ordered_map_does_in_an_order_that_no_seed_changes(
            steps in proptest::collection::vec((any::<bool>(), 0..40u16), 1..300)
        ) {
            let (mut one, mut other) = (RecordMap::new(1), RecordMap::new(0xdead_beef));
            let mut ordered = BTreeMap::new();
            for (n, (comes, key)) in steps.into_iter().enumerate() {
                let record = record(key);
                let before = if comes {
                    prop_assert_eq!(one.insert(record.clone(), n), other.insert(record.clone(), n));
                    ordered.insert(record.clone(), n)
                } else {
                    prop_assert_eq!(one.remove(&record), other.remove(&record));
                    ordered.remove(&record)
                };
                prop_assert_eq!(one.get(&record), ordered.get(&record), "before: {:?}", before);
                prop_assert!(one.iter().eq(other.iter()));
                prop_assert_eq!(one.len(), ordered.len());
            }
            let sorted: BTreeMap<_, _> = one.iter().map(|(key, n)| (key.clone(), *n)).collect();
            prop_assert_eq!(sorted, ordered);
        }
    }

    #[test]
    fn datasets_share_no_records_and_equal_names_are_one_whoever_made_them() {
        let of = |dataset: &str| RecordId { dataset: Arc::from(dataset), key: "k".into() };
        let mut map = RecordMap::new(7);
        map.insert(of("a"), 1);
        assert_eq!((map.get(&of("a")), map.get(&of("b"))), (Some(&1), None));
    }

    /// Every name by its whole length, and no two processes by the same numbers: nobody can choose records
    /// that all stand in one place.
    #[test]
    fn records_are_told_apart_by_all_of_their_names_and_by_the_seed() {
        let hash = |seed: u64, dataset: &str, key: &str| {
            let map: RecordMap<()> = RecordMap::new(seed);
            map.0.hasher().hash_one(RecordId { dataset: Arc::from(dataset), key: key.into() })
        };
        let one = hash(7, "notes", "12345678-a");
        assert_eq!(one, hash(7, "notes", "12345678-a"));
        for other in [
            hash(7, "notes", "12345678-b"),
            hash(7, "notes", "02345678-a"),
            hash(7, "files", "12345678-a"),
            hash(8, "notes", "12345678-a"),
        ] {
            assert_ne!(other, one);
        }
    }

    #[test]
    fn a_backlog_that_has_drained_takes_no_memory() {
        let mut map = RecordMap::new(7);
        for n in 0..10_000 {
            map.insert(record(n), n);
        }
        for n in 0..10_000 {
            assert_eq!(map.remove(&record(n)), Some(n));
        }
        assert!(map.0.capacity() <= ROOM_KEPT, "{}", map.0.capacity());
    }
}
