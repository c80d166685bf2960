//! Versions: who wrote what, and which writes a value has seen.
//!
//! ```text
//! Version = history  {actor: n, ..}           every write up to n of that actor is included
//!         + siblings [(dot, stamp, hash), ..]  the values that nobody has superseded
//! ```
//!
//! Invariant: every sibling's dot is covered by the history, and siblings are ordered by dot. Where
//! there are several, each has the history that it was written over beside it (`set`).
//! The structure is a dotted version vector set (Preguiça, Baquero, Almeida, Fonte, Gonçalves:
//! "Dotted Version Vectors", 2010). Which sibling becomes the value is left to `resolve`.

mod set;
mod sibling;

use set::Apart;
pub use set::Basis;
pub use sibling::Sibling;

use serde::{Deserialize, Serialize};
use std::cmp::Ordering;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

/// Names a coordinator; unique among those that share stores.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct NodeId(pub u16);

impl NodeId {
    /// Stands in dots for writes that went past every coordinator, straight to the authority.
    pub const FOREIGN: NodeId = NodeId(u16::MAX);
}

/// Names a set of stores: coordinators of one site share its D1, KV and R2, and every site has its
/// own.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
pub struct SiteId(pub u16);

impl fmt::Display for SiteId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "site {}", self.0)
    }
}

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "n{}", self.0)
    }
}

/// One run of a coordinator. A restart takes a new incarnation, so that no dot is issued twice
/// even from a cloned, restored or lost disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Actor {
    /// The coordinator.
    pub node: NodeId,
    /// Random, 64 bits, drawn at each start.
    pub incarnation: u64,
}

impl fmt::Display for Actor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{:016x}", self.node.0, self.incarnation)
    }
}

/// Text that is not an actor, a dot or a version vector as this crate writes them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Malformed {
    /// What was read.
    pub text: String,
    /// The form that would be accepted.
    pub expected: &'static str,
}

impl fmt::Display for Malformed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} is not of the form {}", self.text, self.expected)
    }
}

impl std::error::Error for Malformed {}

impl FromStr for Actor {
    type Err = Malformed;
    fn from_str(text: &str) -> Result<Self, Malformed> {
        let parse = || {
            let (node, incarnation) = text.split_once('.')?;
            Some(Actor {
                node: NodeId(node.parse().ok()?),
                incarnation: u64::from_str_radix(incarnation, 16).ok()?,
            })
        };
        parse().ok_or_else(|| Malformed { text: text.to_owned(), expected: "NODE.INCARNATION" })
    }
}

impl Serialize for Actor {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Actor {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<str>::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// One write: the `counter`-th of its actor, over all records.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Dot {
    /// Who wrote.
    pub actor: Actor,
    /// From 1 upwards.
    pub counter: u64,
}

impl Dot {
    /// The form in operation ids and copies: `NODE.INCARNATION.COUNTER`.
    pub fn to_text(self) -> String {
        let mut text = Vec::with_capacity(DOT_BYTES_USUAL);
        self.push_text(&mut text);
        String::from_utf8(text).expect("digits and points")
    }

    /// Writes the same behind a text.
    pub fn push_text(self, text: &mut Vec<u8>) {
        push_decimal(text, u64::from(self.actor.node.0));
        text.push(b'.');
        push_hex(text, self.actor.incarnation.to_be_bytes());
        text.push(b'.');
        push_decimal(text, self.counter);
    }
}

impl fmt::Display for Dot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.actor, self.counter)
    }
}

impl FromStr for Dot {
    type Err = Malformed;
    fn from_str(text: &str) -> Result<Self, Malformed> {
        let parse = || {
            let (actor, counter) = text.rsplit_once('.')?;
            Some(Dot { actor: actor.parse().ok()?, counter: counter.parse().ok()? })
        };
        parse().ok_or_else(|| Malformed {
            text: text.to_owned(),
            expected: "NODE.INCARNATION.COUNTER",
        })
    }
}

/// For each actor, the number of its last write that is included. Sorted by actor, and shared
/// between copies: a write's history goes into its intent, its row, the ledger and its peers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct VersionVector(
    /// Never empty: what includes nothing, as all that a new record is written over, takes no memory.
    Option<Arc<[(Actor, u64)]>>,
);

impl VersionVector {
    /// Includes nothing.
    pub fn new() -> Self {
        VersionVector::default()
    }

    fn of(entries: Vec<(Actor, u64)>) -> Self {
        VersionVector((!entries.is_empty()).then(|| entries.into()))
    }

    fn entries(&self) -> &[(Actor, u64)] {
        self.0.as_deref().unwrap_or_default()
    }

    /// True when no write is included.
    pub fn is_empty(&self) -> bool {
        self.0.is_none()
    }

    /// The entries in actor order.
    pub fn iter(&self) -> impl Iterator<Item = &(Actor, u64)> {
        self.entries().iter()
    }

    /// The number of `actor`'s last included write, 0 for none.
    pub fn counter(&self, actor: Actor) -> u64 {
        let entries = self.entries();
        match entries.binary_search_by_key(&actor, |entry| entry.0) {
            Ok(at) => entries[at].1,
            Err(_) => 0,
        }
    }

    /// True when the write is included.
    pub fn covers_dot(&self, dot: Dot) -> bool {
        self.counter(dot.actor) >= dot.counter
    }

    /// Includes the write, and by the chain rule all earlier ones of its actor to the record.
    pub fn include(&mut self, dot: Dot) {
        let entries = self.entries();
        match entries.binary_search_by_key(&dot.actor, |entry| entry.0) {
            Ok(at) if entries[at].1 >= dot.counter => {}
            Ok(at) => {
                let entries = self.0.as_mut().expect("it has the entry that was found");
                Arc::make_mut(entries)[at].1 = dot.counter;
            }
            Err(at) => {
                let (before, after) = entries.split_at(at);
                let new = [(dot.actor, dot.counter)];
                let all = before.iter().copied().chain(new).chain(after.iter().copied());
                self.0 = Some(all.collect());
            }
        }
    }

    /// `Less`: other includes all of this and more. `None`: concurrent.
    pub fn compare(&self, other: &Self) -> Option<Ordering> {
        // One pass over two sorted lists: each entry can only rule a direction out.
        let (mut may_cover, mut may_be_covered) = (true, true);
        let (mut left, mut right) = (self.entries(), other.entries());
        while may_cover || may_be_covered {
            match (left.split_first(), right.split_first()) {
                (None, None) => break,
                (Some(_), None) => {
                    may_be_covered = false;
                    break;
                }
                (None, Some(_)) => {
                    may_cover = false;
                    break;
                }
                (Some((a, rest_a)), Some((b, rest_b))) => match a.0.cmp(&b.0) {
                    Ordering::Less => {
                        may_be_covered = false;
                        left = rest_a;
                    }
                    Ordering::Greater => {
                        may_cover = false;
                        right = rest_b;
                    }
                    Ordering::Equal => {
                        may_cover &= a.1 >= b.1;
                        may_be_covered &= a.1 <= b.1;
                        (left, right) = (rest_a, rest_b);
                    }
                },
            }
        }
        match (may_cover, may_be_covered) {
            (true, true) => Some(Ordering::Equal),
            (true, false) => Some(Ordering::Greater),
            (false, true) => Some(Ordering::Less),
            (false, false) => None,
        }
    }

    /// True when everything in `other` is included here.
    pub fn covers(&self, other: &Self) -> bool {
        matches!(self.compare(other), Some(Ordering::Equal | Ordering::Greater))
    }

    /// A write that `other` includes and this does not.
    pub fn first_missing(&self, other: &Self) -> Option<Dot> {
        let dots = other.iter().map(|&(actor, counter)| Dot { actor, counter });
        dots.into_iter().find(|dot| !self.covers_dot(*dot))
    }

    /// The form that copies carry: `NODE.INCARNATION.COUNTER,..`. Written by hand, since every put
    /// makes one and the formatting machinery costs several times the put's other work.
    pub fn to_text(&self) -> String {
        let mut text = Vec::with_capacity(self.entries().len() * DOT_BYTES_USUAL);
        self.push_text(&mut text);
        String::from_utf8(text).expect("digits and points")
    }

    /// Writes the same behind a text.
    pub fn push_text(&self, text: &mut Vec<u8>) {
        for (at, &(actor, counter)) in self.iter().enumerate() {
            if at > 0 {
                text.push(b',');
            }
            Dot { actor, counter }.push_text(text);
        }
    }

    /// The greatest history that both include.
    pub fn meet(&self, other: &Self) -> Self {
        let common = self.iter().map(|&(actor, n)| (actor, n.min(other.counter(actor))));
        common.filter(|(_, n)| *n > 0).collect()
    }

    /// The least history that includes both.
    pub fn join(&self, other: &Self) -> Self {
        // Nearly always one includes the other, and both are shared.
        match self.compare(other) {
            Some(Ordering::Equal | Ordering::Greater) => return self.clone(),
            Some(Ordering::Less) => return other.clone(),
            None => {}
        }
        let (mut left, mut right) = (self.entries(), other.entries());
        let mut joined = Vec::with_capacity(left.len().max(right.len()));
        loop {
            match (left.split_first(), right.split_first()) {
                (None, _) => {
                    joined.extend_from_slice(right);
                    return VersionVector::of(joined);
                }
                (_, None) => {
                    joined.extend_from_slice(left);
                    return VersionVector::of(joined);
                }
                (Some((a, rest_a)), Some((b, rest_b))) => match a.0.cmp(&b.0) {
                    Ordering::Less => {
                        joined.push(*a);
                        left = rest_a;
                    }
                    Ordering::Greater => {
                        joined.push(*b);
                        right = rest_b;
                    }
                    Ordering::Equal => {
                        joined.push((a.0, a.1.max(b.1)));
                        (left, right) = (rest_a, rest_b);
                    }
                },
            }
        }
    }
}

/// Room for a dot's text, nearly always.
const DOT_BYTES_USUAL: usize = 32;

/// Of each byte.
const HEX: [[u8; 2]; 256] = {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let mut pairs = [[0; 2]; 256];
    let mut byte = 0;
    while byte < pairs.len() {
        pairs[byte] = [DIGITS[byte >> 4], DIGITS[byte & 0xf]];
        byte += 1;
    }
    pairs
};

fn push_hex<const N: usize>(text: &mut Vec<u8>, bytes: [u8; N]) {
    let mut digits = [[0; 2]; N];
    for (digits, byte) in digits.iter_mut().zip(bytes) {
        *digits = HEX[usize::from(byte)];
    }
    text.extend_from_slice(digits.as_flattened());
}

/// Writes a number behind a text.
pub(crate) fn push_decimal(text: &mut Vec<u8>, number: u64) {
    text.extend_from_slice(itoa::Buffer::new().format(number).as_bytes());
}

impl fmt::Display for VersionVector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.to_text())
    }
}

impl Serialize for VersionVector {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.entries().serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for VersionVector {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Vec::deserialize(deserializer).map(VersionVector::of)
    }
}

impl FromStr for VersionVector {
    type Err = Malformed;
    fn from_str(text: &str) -> Result<Self, Malformed> {
        if text.is_empty() {
            return Ok(VersionVector::new());
        }
        let dots: Result<Vec<Dot>, Malformed> = text.split(',').map(str::parse).collect();
        Ok(dots?.into_iter().map(|dot| (dot.actor, dot.counter)).collect())
    }
}

impl FromIterator<(Actor, u64)> for VersionVector {
    fn from_iter<I: IntoIterator<Item = (Actor, u64)>>(entries: I) -> Self {
        let mut entries: Vec<(Actor, u64)> = entries.into_iter().collect();
        if !entries.is_sorted_by(|a, b| a.0 < b.0) {
            // Of two of one actor the later write stays.
            entries.sort_unstable();
            entries.dedup_by(|later, kept| {
                let same = later.0 == kept.0;
                if same {
                    kept.1 = later.1;
                }
                same
            });
        }
        VersionVector::of(entries)
    }
}

/// A hybrid logical clock reading: breaks declared ties, never decides causality.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
pub struct Stamp {
    /// Milliseconds since the Unix epoch.
    pub wall_ms: u64,
    /// Orders stamps within one millisecond.
    pub logical: u32,
}

impl Stamp {
    /// The least stamp that is greater.
    pub fn next(self) -> Self {
        match self.logical.checked_add(1) {
            Some(logical) => Stamp { wall_ms: self.wall_ms, logical },
            None => Stamp { wall_ms: self.wall_ms + 1, logical: 0 },
        }
    }
}

/// BLAKE3 of a value's bytes.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ContentHash(pub [u8; 32]);

impl ContentHash {
    /// Hashes the bytes.
    pub fn of(bytes: &[u8]) -> Self {
        ContentHash(*blake3::hash(bytes).as_bytes())
    }

    /// The form in rows, copies and keys: 64 hexadecimal digits.
    pub fn to_text(self) -> String {
        let mut text = Vec::with_capacity(2 * self.0.len());
        self.push_text(&mut text);
        String::from_utf8(text).expect("digits")
    }

    /// Writes the same behind a text.
    pub fn push_text(self, text: &mut Vec<u8>) {
        push_hex(text, self.0);
    }
}

impl fmt::Display for ContentHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.to_text())
    }
}

impl fmt::Debug for ContentHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.to_text()[..16])
    }
}

impl FromStr for ContentHash {
    type Err = Malformed;
    fn from_str(text: &str) -> Result<Self, Malformed> {
        match blake3::Hash::from_hex(text) {
            Ok(hash) => Ok(ContentHash(*hash.as_bytes())),
            Err(_) => Err(Malformed { text: text.to_owned(), expected: "64 hexadecimal digits" }),
        }
    }
}

impl Serialize for ContentHash {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.to_text())
    }
}

impl<'de> Deserialize<'de> for ContentHash {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<str>::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// A record's version: its history, and the values in it that nobody has superseded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Version {
    /// Every write that this version includes.
    pub history: VersionVector,
    siblings: Arc<[Sibling]>,
    /// Of several values; `None` where there is one.
    apart: Option<Arc<Apart>>,
}

/// Identifies a version: same history and same hash (rule V5).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VersionId {
    /// The version's history.
    pub history: VersionVector,
    /// The hash of its current value.
    pub hash: ContentHash,
}

impl Version {
    /// A write over everything in `base`. Its dot joins the history.
    pub fn write(base: &VersionVector, sibling: Sibling) -> Self {
        let mut history = base.clone();
        history.include(sibling.dot);
        Version { history, siblings: [sibling].into(), apart: None }
    }

    /// A version whose current value alone is kept, as `lww` does: the losers are kept elsewhere
    /// (rule V6).
    pub fn settled(history: VersionVector, winner: Sibling) -> Self {
        debug_assert!(history.covers_dot(winner.dot), "a value's dot is in its history");
        Version { history, siblings: [winner].into(), apart: None }
    }

    /// The values in dot order, at least one.
    pub fn siblings(&self) -> &[Sibling] {
        &self.siblings
    }

    /// What readers and copies get: the only value, or what the policy makes of several.
    pub fn current(&self) -> &Sibling {
        match &self.apart {
            Some(apart) => &apart.shown,
            None => &self.siblings[0],
        }
    }

    /// Equal, covering, covered or concurrent, by history alone.
    pub fn compare(&self, other: &Self) -> Option<Ordering> {
        self.history.compare(&other.history)
    }

    /// The greatest stamp among the siblings: a write over this version must exceed it (rule V3).
    pub fn stamp(&self) -> Stamp {
        self.siblings.iter().map(|sibling| sibling.stamp).max().unwrap_or_default()
    }

    /// What this version becomes when its value's time has passed: the same write, without bytes. That
    /// is no write of its own, so it has no dot: whoever makes it makes the same, and whatever is
    /// concurrent with the write meets its tombstone as it would have met the value.
    pub fn expired(&self) -> Self {
        Version::settled(self.history.clone(), self.current().expired())
    }

    /// What identifies this version wherever two are called the same.
    pub fn id(&self) -> VersionId {
        VersionId { history: self.history.clone(), hash: self.current().hash }
    }

    /// A short name of [`Version::id`], for `ETag` and for people: 32 hexadecimal digits.
    pub fn etag(&self) -> String {
        let mut bytes = Vec::with_capacity(32 + self.history.entries().len() * 18);
        for (actor, counter) in self.history.iter() {
            bytes.extend_from_slice(&actor.node.0.to_le_bytes());
            bytes.extend_from_slice(&actor.incarnation.to_le_bytes());
            bytes.extend_from_slice(&counter.to_le_bytes());
        }
        bytes.extend_from_slice(&self.current().hash.0);
        blake3::hash(&bytes).to_hex()[..32].to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn actor(node: u16) -> Actor {
        Actor { node: NodeId(node), incarnation: 7 }
    }

    fn vector(entries: &[(u16, u64)]) -> VersionVector {
        entries.iter().map(|&(node, counter)| (actor(node), counter)).collect()
    }

    fn sibling(node: u16, counter: u64, wall_ms: u64) -> Sibling {
        Sibling {
            dot: Dot { actor: actor(node), counter },
            stamp: Stamp { wall_ms, logical: 0 },
            hash: ContentHash::of(&[node as u8, counter as u8]),
            bytes: 2,
            deleted: false,
            expires_at_ms: None,
        }
    }

    #[test]
    fn order_of_histories() {
        let check = |a: &[(u16, u64)], b: &[(u16, u64)], expected: Option<Ordering>| {
            assert_eq!(vector(a).compare(&vector(b)), expected, "{a:?} {b:?}");
            assert_eq!(vector(b).compare(&vector(a)), expected.map(Ordering::reverse));
        };
        check(&[], &[], Some(Ordering::Equal));
        check(&[(1, 1)], &[], Some(Ordering::Greater));
        check(&[(1, 2), (2, 1)], &[(1, 1)], Some(Ordering::Greater));
        check(&[(1, 1)], &[(2, 1)], None);
        check(&[(1, 2)], &[(1, 1), (2, 1)], None);
        check(&[(1, 1), (3, 3)], &[(1, 1), (2, 1), (3, 3)], Some(Ordering::Less));
    }

    #[test]
    fn join_keeps_what_nobody_superseded() {
        let first = Version::write(&VersionVector::new(), sibling(1, 1, 10));
        let second = Version::write(&first.history, sibling(2, 1, 20));
        let other = Version::write(&VersionVector::new(), sibling(3, 1, 15));
        assert_eq!(first.join(&second), second, "a superseded value goes");
        let joined = second.join(&other);
        assert_eq!(joined.siblings().len(), 2);
        assert_eq!(joined.current().dot.actor, actor(2), "the later stamp is current");
        assert_eq!(joined, other.join(&second));
    }

    #[test]
    fn text_forms_round_trip() {
        let dot = sibling(3, 9, 1).dot;
        assert_eq!(dot.to_string().parse::<Dot>(), Ok(dot));
        assert!("3.zz.9".parse::<Dot>().is_err());
        let history = vector(&[(1, 4), (2, 9)]);
        assert_eq!(history.to_text(), "1.0000000000000007.4,2.0000000000000007.9");
        assert_eq!(history.to_string().parse::<VersionVector>(), Ok(history));
        assert_eq!("".parse::<VersionVector>(), Ok(VersionVector::new()));
        let version = Version::write(&vector(&[(1, 4)]), sibling(2, 1, 5));
        let text = serde_json::to_string(&version).unwrap();
        assert_eq!(serde_json::from_str::<Version>(&text).unwrap(), version);
    }

    #[test]
    fn what_is_no_version_is_refused_when_read() {
        let version = Version::write(&vector(&[(1, 4)]), sibling(2, 1, 5));
        let json = serde_json::to_value(&version).unwrap();
        for (field, value) in [("siblings", "[]"), ("history", "[]")] {
            let mut broken = json.clone();
            broken[field] = serde_json::from_str(value).unwrap();
            assert!(serde_json::from_value::<Version>(broken).is_err(), "without {field}");
        }
    }

    fn vectors() -> impl Strategy<Value = VersionVector> {
        proptest::collection::btree_map(0u16..5, 1u64..4, 0..5)
            .prop_map(|map| map.into_iter().map(|(n, c)| (actor(n), c)).collect())
    }

    proptest! {
        #[test]
        fn join_is_the_least_upper_bound(a in vectors(), b in vectors(), c in vectors()) {
            let joined = a.join(&b);
            prop_assert!(joined.covers(&a) && joined.covers(&b));
            prop_assert_eq!(&joined, &b.join(&a));
            prop_assert_eq!(a.join(&b).join(&c), a.join(&b.join(&c)));
            if c.covers(&a) && c.covers(&b) {
                prop_assert!(c.covers(&joined));
            }
        }

        #[test]
        fn meet_is_the_greatest_lower_bound(a in vectors(), b in vectors(), c in vectors()) {
            let met = a.meet(&b);
            prop_assert!(a.covers(&met) && b.covers(&met));
            prop_assert_eq!(&met, &b.meet(&a));
            if a.covers(&c) && b.covers(&c) {
                prop_assert!(met.covers(&c));
            }
        }
    }
}
