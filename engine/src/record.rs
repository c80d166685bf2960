//! Records: what is kept in step, and the limits that the three services put on it.
//!
//! Invariant: a [`RecordId`] that exists fits every store, so that no store can refuse its key
//! after the write was acknowledged.

use crate::erasure::Erasure;
use crate::version::{ContentHash, Dot, Sibling, VersionVector};
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::Arc;
use std::time::Duration;

/// KV: longest key in bytes. <https://developers.cloudflare.com/kv/platform/limits/>
pub const KV_KEY_BYTES_MAX: usize = 512;
/// KV: largest value in bytes.
pub const KV_VALUE_BYTES_MAX: usize = 25 * 1024 * 1024;
/// KV: largest metadata in bytes, as JSON text.
pub const KV_METADATA_BYTES_MAX: usize = 1024;
/// KV: a read may give what stood there so long ago.
/// <https://developers.cloudflare.com/kv/concepts/how-kv-works/>
pub const KV_CACHED: Duration = Duration::from_secs(60);
/// D1: largest row, string or blob. <https://developers.cloudflare.com/d1/platform/limits/>
pub const D1_ROW_BYTES_MAX: usize = 2_000_000;
/// R2: longest key in bytes. <https://developers.cloudflare.com/r2/platform/limits/>
pub const R2_KEY_BYTES_MAX: usize = 1024;
/// R2: largest custom metadata in bytes.
pub const R2_METADATA_BYTES_MAX: usize = 8192;
/// Ours: largest value in bytes. Values are held whole in memory on their way.
pub const VALUE_BYTES_MAX: usize = 64 * 1024 * 1024;

/// Where a record can be kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum StoreId {
    /// The SQL database; the authority of a dataset that is kept in it.
    D1,
    /// The edge key-value store.
    Kv,
    /// The object store.
    R2,
}

impl StoreId {
    /// All of them, in the order in which they are declared.
    pub const ALL: [StoreId; 3] = [StoreId::D1, StoreId::Kv, StoreId::R2];

    /// The name in configuration, addresses and messages.
    pub const fn name(self) -> &'static str {
        match self {
            StoreId::D1 => "d1",
            StoreId::Kv => "kv",
            StoreId::R2 => "r2",
        }
    }
}

impl fmt::Display for StoreId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl std::str::FromStr for StoreId {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        StoreId::ALL
            .into_iter()
            .find(|store| store.name() == text)
            .ok_or_else(|| format!("{text:?} is no store; the stores are d1, kv and r2"))
    }
}

/// One thing for each store.
#[derive(Clone, Debug, Default)]
pub struct PerStore<T>([T; StoreId::ALL.len()]);

impl<T: Clone> PerStore<T> {
    /// The same for each.
    pub fn of(each: T) -> Self {
        PerStore(std::array::from_fn(|_| each.clone()))
    }
}

impl<T> PerStore<T> {
    /// Each store and what is kept for it, in the stores' order.
    pub fn iter(&self) -> impl Iterator<Item = (StoreId, &T)> {
        StoreId::ALL.into_iter().zip(&self.0)
    }

    /// As [`PerStore::iter`].
    pub fn iter_mut(&mut self) -> impl Iterator<Item = (StoreId, &mut T)> {
        StoreId::ALL.into_iter().zip(&mut self.0)
    }
}

impl<T> std::ops::Index<StoreId> for PerStore<T> {
    type Output = T;

    fn index(&self, store: StoreId) -> &T {
        &self.0[store as usize]
    }
}

impl<T> std::ops::IndexMut<StoreId> for PerStore<T> {
    fn index_mut(&mut self, store: StoreId) -> &mut T {
        &mut self.0[store as usize]
    }
}

/// One thing for each of some stores, in the stores' order. As a map with three keys, and in place: every
/// row and every record with work to do has one.
#[derive(Clone, PartialEq, Eq)]
pub struct StoreMap<T>([Option<T>; StoreId::ALL.len()]);

impl<T> Default for StoreMap<T> {
    fn default() -> Self {
        StoreMap(Default::default())
    }
}

impl<T> StoreMap<T> {
    /// A store's.
    pub fn get(&self, store: &StoreId) -> Option<&T> {
        self.0[*store as usize].as_ref()
    }

    /// As [`StoreMap::get`].
    pub fn get_mut(&mut self, store: &StoreId) -> Option<&mut T> {
        self.0[*store as usize].as_mut()
    }

    /// A store's, made if it has none.
    pub fn get_or_insert_with(&mut self, store: StoreId, make: impl FnOnce() -> T) -> &mut T {
        self.0[store as usize].get_or_insert_with(make)
    }

    /// True when a store has one.
    pub fn contains_key(&self, store: &StoreId) -> bool {
        self.get(store).is_some()
    }

    /// A store has this from now on. Gives what it had.
    pub fn insert(&mut self, store: StoreId, one: T) -> Option<T> {
        self.0[store as usize].replace(one)
    }

    /// A store has none from now on. Gives what it had.
    pub fn remove(&mut self, store: &StoreId) -> Option<T> {
        self.0[*store as usize].take()
    }

    /// No store has one from now on but those for which `keep` says so.
    pub fn retain(&mut self, mut keep: impl FnMut(&StoreId, &mut T) -> bool) {
        for (store, one) in StoreId::ALL.iter().zip(&mut self.0) {
            one.take_if(|one| !keep(store, one));
        }
    }

    /// No store has one from now on.
    pub fn clear(&mut self) {
        *self = StoreMap::default();
    }

    /// How many stores have one.
    pub fn len(&self) -> usize {
        self.values().count()
    }

    /// True when no store has one.
    pub fn is_empty(&self) -> bool {
        self.0.iter().all(Option::is_none)
    }

    /// Each store that has one, with it.
    pub fn iter(&self) -> impl Iterator<Item = (&'static StoreId, &T)> {
        StoreId::ALL.iter().zip(&self.0).filter_map(|(store, one)| Some((store, one.as_ref()?)))
    }

    /// Each store that has one.
    pub fn keys(&self) -> impl Iterator<Item = &'static StoreId> {
        self.iter().map(|(store, _)| store)
    }

    /// What the stores have.
    pub fn values(&self) -> impl Iterator<Item = &T> {
        self.0.iter().flatten()
    }

    /// As [`StoreMap::values`].
    pub fn values_mut(&mut self) -> impl Iterator<Item = &mut T> {
        self.0.iter_mut().flatten()
    }
}

impl<T> std::ops::Index<&StoreId> for StoreMap<T> {
    type Output = T;

    fn index(&self, store: &StoreId) -> &T {
        self.get(store).expect("asked of stores that have one")
    }
}

impl<T: fmt::Debug> fmt::Debug for StoreMap<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.iter()).finish()
    }
}

impl<T: Serialize> Serialize for StoreMap<T> {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        use serde::ser::SerializeMap;
        let mut map = serializer.serialize_map(Some(self.len()))?;
        for (store, one) in self.iter() {
            map.serialize_entry(store, one)?;
        }
        map.end()
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for StoreMap<T> {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let mut map = StoreMap::default();
        for (store, one) in BTreeMap::deserialize(deserializer)? {
            map.insert(store, one);
        }
        Ok(map)
    }
}

/// Some of the stores.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StoreSet(u8);

impl StoreSet {
    /// All of them.
    pub const ALL: StoreSet = StoreSet((1 << StoreId::ALL.len()) - 1);

    const fn bit(store: StoreId) -> u8 {
        1 << store as u8
    }

    /// A store is one of these from now on.
    pub fn insert(&mut self, store: StoreId) {
        self.0 |= StoreSet::bit(store);
    }

    /// It is none of these any more.
    pub fn remove(&mut self, store: StoreId) {
        self.0 &= !StoreSet::bit(store);
    }

    /// True when a store is one of these.
    pub fn contains(self, store: StoreId) -> bool {
        self.0 & StoreSet::bit(store) != 0
    }

    /// True when there is none.
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// Each, in the stores' order.
    pub fn iter(self) -> impl Iterator<Item = StoreId> {
        StoreId::ALL.into_iter().filter(move |store| self.contains(*store))
    }
}

impl FromIterator<StoreId> for StoreSet {
    fn from_iter<I: IntoIterator<Item = StoreId>>(stores: I) -> Self {
        let mut set = StoreSet::default();
        stores.into_iter().for_each(|store| set.insert(store));
        set
    }
}

/// Why a key is no key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KeyError {
    /// It has no bytes.
    Empty,
    /// It is `.` or `..`, which KV and URLs cannot carry.
    Dots,
    /// With the dataset's prefix it is longer than KV allows.
    TooLong {
        /// Its length with prefix.
        bytes: usize,
        /// The longest allowed.
        bytes_max: usize,
    },
    /// It holds a NUL or another control character.
    Control,
}

impl fmt::Display for KeyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            KeyError::Empty => f.write_str("the key is empty; give at least one character"),
            KeyError::Dots => f.write_str("the keys \".\" and \"..\" are not allowed by KV"),
            KeyError::TooLong { bytes, bytes_max } => write!(
                f,
                "the key has {bytes} bytes with its prefix, and KV allows {bytes_max}; shorten it"
            ),
            KeyError::Control => {
                f.write_str("the key holds a control character; use printable characters")
            }
        }
    }
}

impl std::error::Error for KeyError {}

/// A record's key in its dataset. Ordered as its text is; the text's first eight bytes stand beside
/// the pointer to it, since every map of records is searched by key and they nearly always decide.
#[derive(Clone)]
pub struct Key {
    /// As a number, the first byte the highest, padded with zeros.
    head: u64,
    text: Arc<str>,
}

const HEAD_BYTES: usize = size_of::<u64>();

impl From<Arc<str>> for Key {
    fn from(text: Arc<str>) -> Self {
        let mut head = [0; HEAD_BYTES];
        for (head, byte) in head.iter_mut().zip(text.bytes()) {
            *head = byte;
        }
        Key { head: u64::from_be_bytes(head), text }
    }
}

impl Key {
    /// Where the heads are equal.
    fn cmp_texts(&self, other: &Self) -> Ordering {
        let lengths = (self.text.len(), other.text.len());
        if lengths.0 <= HEAD_BYTES && lengths.1 <= HEAD_BYTES {
            // Padded: a key that is the beginning of another, but for zeros, is the lesser one.
            lengths.0.cmp(&lengths.1)
        } else {
            self.text.cmp(&other.text)
        }
    }
}

impl Ord for Key {
    #[inline]
    fn cmp(&self, other: &Self) -> Ordering {
        // Two numbers where they differ, which the searches of every map do in place.
        if self.head != other.head {
            return if self.head < other.head { Ordering::Less } else { Ordering::Greater };
        }
        self.cmp_texts(other)
    }
}

impl PartialOrd for Key {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Key {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for Key {}

impl Hash for Key {
    #[inline]
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_u64(self.head);
        if let Some(rest) = self.text.as_bytes().get(HEAD_BYTES..) {
            state.write(rest);
        }
    }
}

impl From<&str> for Key {
    fn from(text: &str) -> Self {
        Key::from(Arc::<str>::from(text))
    }
}

impl From<String> for Key {
    fn from(text: String) -> Self {
        Key::from(Arc::<str>::from(text))
    }
}

impl std::ops::Deref for Key {
    type Target = str;

    fn deref(&self) -> &str {
        &self.text
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self)
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&**self, f)
    }
}

impl Serialize for Key {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self)
    }
}

impl<'de> Deserialize<'de> for Key {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Arc::<str>::deserialize(deserializer).map(Key::from)
    }
}

/// Names a record: a dataset and a key in it. Ordered by dataset, then key.
#[derive(Clone, Debug, Eq, Serialize, Deserialize)]
pub struct RecordId {
    /// The dataset's name.
    pub dataset: Arc<str>,
    /// The key within it.
    pub key: Key,
}

impl Hash for RecordId {
    #[inline]
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write(self.dataset.as_bytes());
        self.key.hash(state);
    }
}

impl PartialEq for RecordId {
    #[inline]
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Ord for RecordId {
    #[inline]
    fn cmp(&self, other: &Self) -> Ordering {
        // Records of one coordinator share their dataset's name, and every map is keyed by them.
        if Arc::ptr_eq(&self.dataset, &other.dataset) {
            return self.key.cmp(&other.key);
        }
        self.dataset.cmp(&other.dataset).then_with(|| self.key.cmp(&other.key))
    }
}

impl PartialOrd for RecordId {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl RecordId {
    /// Checks a key against what every store can carry. `prefix_bytes` is the longest prefix that
    /// the dataset puts before it in a store.
    pub fn parse(dataset: &Arc<str>, key: &str, prefix_bytes: usize) -> Result<Self, KeyError> {
        if key.is_empty() {
            return Err(KeyError::Empty);
        }
        if key == "." || key == ".." {
            return Err(KeyError::Dots);
        }
        if key.chars().any(char::is_control) {
            return Err(KeyError::Control);
        }
        let bytes = prefix_bytes + key.len();
        if bytes > KV_KEY_BYTES_MAX {
            return Err(KeyError::TooLong { bytes, bytes_max: KV_KEY_BYTES_MAX });
        }
        Ok(RecordId { dataset: dataset.clone(), key: key.into() })
    }
}

impl fmt::Display for RecordId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.dataset, self.key)
    }
}

/// How a store keeps a value.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Stored {
    /// The record is deleted.
    Tombstone,
    /// The whole value.
    Inline(Bytes),
    /// The value is whole in R2 under [`blob::key`](crate::blob::key) of this hash (rule A0).
    Reference {
        /// Of the bytes.
        hash: ContentHash,
        /// Length of the value.
        bytes: u64,
    },
    /// Nothing: the bytes were erased on request. Of values that lost alone; a record's own is none of
    /// these.
    Erased(Box<Erasure>),
}

impl Stored {
    /// The blob that this refers to.
    pub fn blob(&self) -> Option<ContentHash> {
        match self {
            Stored::Reference { hash, .. } => Some(*hash),
            Stored::Tombstone | Stored::Inline(_) | Stored::Erased(_) => None,
        }
    }

    /// Bytes that this takes where it stands.
    pub fn held_bytes(&self) -> usize {
        match self {
            Stored::Inline(bytes) => bytes.len(),
            Stored::Tombstone | Stored::Reference { .. } | Stored::Erased(_) => 0,
        }
    }
}

/// A value that lost a conflict, durable where the winner is (rule V6).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Loser {
    /// The write that lost.
    pub sibling: Sibling,
    /// Its bytes.
    pub value: Stored,
    /// The write that won.
    pub winner: Dot,
}

/// A write as it was made: what a merge starts from is made of these.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Written {
    /// The write.
    pub sibling: Sibling,
    /// What its writer had read.
    pub over: VersionVector,
    /// Its bytes.
    pub value: Stored,
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Rows stand in D1 as text, those of builds before [`StoreMap`] too.
    #[test]
    fn what_stores_have_is_spelled_and_ordered_as_by_a_map() {
        let pairs = [(StoreId::R2, vec![3]), (StoreId::Kv, vec![1, 2])];
        let (mut own, map) = (StoreMap::default(), BTreeMap::from(pairs.clone()));
        pairs.into_iter().for_each(|(store, one)| drop(own.insert(store, one)));
        let text = serde_json::to_string(&map).unwrap();
        assert_eq!(serde_json::to_string(&own).unwrap(), text);
        assert_eq!(serde_json::from_str::<StoreMap<Vec<i32>>>(&text).unwrap(), own);
        assert!(own.keys().eq(map.keys()) && own.values().eq(map.values()));
        assert!(own.len() == 2 && !own.contains_key(&StoreId::D1));
        own.retain(|store, _| *store == StoreId::R2);
        assert_eq!((own.remove(&StoreId::R2), own.is_empty()), (Some(vec![3]), true));
    }

    #[test]
    fn keys_are_ordered_as_their_text_is() {
        let texts = ["", "a", "a\0", "a\0b", "ab", "abcdefgh", "abcdefgha", "abcdefghi", "b", "ü"];
        for (i, a) in texts.iter().enumerate() {
            for (j, b) in texts.iter().enumerate() {
                assert_eq!(Key::from(*a).cmp(&Key::from(*b)), i.cmp(&j), "{a:?} and {b:?}");
            }
        }
    }

    #[test]
    fn sets_of_stores() {
        let mut set: StoreSet = [StoreId::R2, StoreId::D1, StoreId::R2].into_iter().collect();
        assert_eq!(set.iter().collect::<Vec<_>>(), [StoreId::D1, StoreId::R2]);
        set.insert(StoreId::Kv);
        assert_eq!(set, StoreSet::ALL);
        set.remove(StoreId::D1);
        assert!(set.contains(StoreId::Kv) && !set.contains(StoreId::D1));
        [StoreId::Kv, StoreId::R2].into_iter().for_each(|store| set.remove(store));
        assert!(set.is_empty());
    }

    #[test]
    fn keys() {
        let dataset: Arc<str> = Arc::from("notes");
        let check = |key: &str, expected: Result<(), KeyError>| {
            assert_eq!(RecordId::parse(&dataset, key, 6).map(drop), expected, "{key:?}");
        };
        check("a", Ok(()));
        check("../../x", Ok(()));
        check("ключ/ü", Ok(()));
        check("", Err(KeyError::Empty));
        check("..", Err(KeyError::Dots));
        check("a\0b", Err(KeyError::Control));
        check(&"k".repeat(506), Ok(()));
        check(&"k".repeat(507), Err(KeyError::TooLong { bytes: 513, bytes_max: 512 }));
    }
}
