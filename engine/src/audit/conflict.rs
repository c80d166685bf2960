//! A conflict as the log keeps it: who lost to whom, when, and by which rule.
//!
//! Invariant: a conflict's id is made from its site, its record and the dots of its values, so it is
//! the same whoever logs it, and an entry that carries another id for the same values is no conflict.

use super::event::Words;
use super::text;
use crate::conflict::Contexts;
use crate::record::RecordId;
use crate::row::Seq;
use crate::version::{ContentHash, Dot, Malformed, Sibling, SiteId, Stamp};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::fmt;
use std::str::FromStr;

const ID_CONTEXT: &str = "tidelock 2026-11 audit conflict id";

/// Names a conflict: 16 hexadecimal digits of a BLAKE3 over site, record, winner's dot and losers'
/// dots.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ConflictId([u8; 8]);

impl ConflictId {
    /// Of the conflict between these writes to a record. The losers' order does not matter.
    pub fn of(
        site: SiteId,
        record: &RecordId,
        winner: Dot,
        losers: impl IntoIterator<Item = Dot>,
    ) -> Self {
        let mut losers: Vec<Dot> = losers.into_iter().collect();
        losers.sort_unstable();
        losers.dedup();
        let mut hasher = blake3::Hasher::new_derive_key(ID_CONTEXT);
        hasher.update(&site.0.to_le_bytes());
        // Texts with their lengths: (`a`, `bc`) and (`ab`, `c`) are two records.
        for text in [&*record.dataset, &*record.key] {
            hasher.update(&(text.len() as u64).to_le_bytes());
            hasher.update(text.as_bytes());
        }
        for dot in std::iter::once(&winner).chain(&losers) {
            hasher.update(&dot.actor.node.0.to_le_bytes());
            hasher.update(&dot.actor.incarnation.to_le_bytes());
            hasher.update(&dot.counter.to_le_bytes());
        }
        let mut id = [0; 8];
        id.copy_from_slice(&hasher.finalize().as_bytes()[..8]);
        ConflictId(id)
    }
}

impl fmt::Display for ConflictId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", u64::from_be_bytes(self.0))
    }
}

impl FromStr for ConflictId {
    type Err = Malformed;
    fn from_str(text: &str) -> Result<Self, Malformed> {
        let is_ours = text.len() == 16
            && text.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
        match u64::from_str_radix(text, 16) {
            Ok(id) if is_ours => Ok(ConflictId(id.to_be_bytes())),
            _ => Err(Malformed { text: text.to_owned(), expected: "16 hexadecimal digits" }),
        }
    }
}

impl Serialize for ConflictId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        text::serialize(self, serializer)
    }
}

impl<'de> Deserialize<'de> for ConflictId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        text::deserialize(deserializer)
    }
}

/// One of the values that met, by name: its bytes are not in the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Original {
    /// The write that made it.
    #[serde(with = "text")]
    pub dot: Dot,
    /// Its stamp, which breaks declared ties.
    pub stamp: Stamp,
    /// Of the bytes; of none for a delete.
    pub hash: ContentHash,
    /// Their length.
    pub bytes: u64,
    /// It is a delete, or has expired.
    pub deleted: bool,
    /// From then on it counts as deleted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_at_ms: Option<u64>,
}

impl From<&Sibling> for Original {
    fn from(sibling: &Sibling) -> Self {
        let Sibling { dot, stamp, hash, bytes, deleted, expires_at_ms } = *sibling;
        Original { dot, stamp, hash, bytes, deleted, expires_at_ms }
    }
}

/// What is known of a conflict.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConflictFacts {
    /// Whose stores.
    pub site: SiteId,
    /// The record.
    pub record: RecordId,
    /// The place in the site's change feed of the install that kept the losers: whoever follows the
    /// conflicts goes on from the last entry's.
    pub seq: Seq,
    /// When that was, by the store side's clock, in milliseconds since the epoch; 0: not noted.
    pub settled_ms: u64,
    /// The write that won.
    #[serde(with = "text")]
    pub winner: Dot,
    /// What that was, where it was noted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub won: Option<Original>,
    /// The others.
    pub losers: Vec<Original>,
    /// The strategy that decided, by its name: `lww`.
    pub strategy: Words,
    /// What there is to say of that: why a rule fell back, which fields no rule settles.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub why: Option<Words>,
    /// What the record's version included before and after, where it was noted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub contexts: Option<Contexts>,
}

/// Which conflict of an authority, and which settling of it: an authority that was set back may settle
/// the same one again, and another at the same place.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Settled {
    /// The place in the site's change feed of the install that kept what lost.
    pub seq: Seq,
    /// The write that lost.
    #[serde(with = "text")]
    pub lost: Dot,
    /// The write that won.
    #[serde(with = "text")]
    pub winner: Dot,
    /// When that was, by the store side's clock, in milliseconds since the epoch; 0: not noted.
    pub settled_ms: u64,
}

/// A conflict and its id.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Unchecked")]
pub struct Conflict {
    id: ConflictId,
    #[serde(flatten)]
    facts: ConflictFacts,
}

impl Conflict {
    /// Names the conflict.
    pub fn new(facts: ConflictFacts) -> Self {
        Conflict { id: id(&facts), facts }
    }

    /// Its name.
    pub fn id(&self) -> ConflictId {
        self.id
    }

    /// Which it is for its authority; `None`: nothing lost in it, as none that is logged.
    pub fn settled(&self) -> Option<Settled> {
        let ConflictFacts { seq, settled_ms, winner, ref losers, .. } = self.facts;
        losers.first().map(|lost| Settled { seq, lost: lost.dot, winner, settled_ms })
    }

    /// What is known of it.
    pub fn facts(&self) -> &ConflictFacts {
        &self.facts
    }
}

fn id(facts: &ConflictFacts) -> ConflictId {
    let losers = facts.losers.iter().map(|loser| loser.dot);
    ConflictId::of(facts.site, &facts.record, facts.winner, losers)
}

/// As it was read, before its id is known to be its own.
#[derive(Deserialize)]
struct Unchecked {
    id: ConflictId,
    #[serde(flatten)]
    facts: ConflictFacts,
}

impl TryFrom<Unchecked> for Conflict {
    type Error = String;
    fn try_from(Unchecked { id: read, facts }: Unchecked) -> Result<Self, String> {
        let own = id(&facts);
        if own != read {
            return Err(format!("a conflict between these writes has the id {own}, not {read}"));
        }
        Ok(Conflict { id: own, facts })
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::super::event::tests::{dot, record};
    use super::*;
    use std::sync::Arc;

    fn original(node: u16, counter: u64) -> Original {
        let stamp = Stamp { wall_ms: 1_790_000_000_000 + counter, logical: 0 };
        let hash = ContentHash::of(&counter.to_le_bytes());
        let dot = dot(node, counter);
        Original { dot, stamp, hash, bytes: 8, deleted: false, expires_at_ms: None }
    }

    pub(in super::super) fn conflict(counter: u64) -> Conflict {
        let (winner, loser) = (original(2, counter), original(1, counter));
        Conflict::new(ConflictFacts {
            site: SiteId(0),
            record: record(),
            seq: Seq(40 + counter),
            settled_ms: winner.stamp.wall_ms + 20,
            winner: winner.dot,
            won: Some(winner),
            losers: vec![loser],
            strategy: "lww".into(),
            why: None,
            contexts: None,
        })
    }

    #[test]
    fn an_id_is_of_the_writes_whatever_their_order() {
        let (site, record) = (SiteId(0), record());
        let id = |losers: &[Dot]| ConflictId::of(site, &record, dot(9, 1), losers.iter().copied());
        let (a, b) = (dot(1, 1), dot(1, 2));
        assert_eq!(id(&[a, b]), id(&[b, a]));
        assert_eq!(id(&[a, b]), id(&[b, a, a]));
        assert_ne!(id(&[a, b]), id(&[a]));
        assert_ne!(id(&[a]), ConflictId::of(site, &record, a, [dot(9, 1)]), "who won counts");
        assert_ne!(id(&[a]), ConflictId::of(SiteId(1), &record, dot(9, 1), [a]));
        let named = |dataset: &str, key: &str| {
            let record = RecordId { dataset: Arc::from(dataset), key: key.into() };
            ConflictId::of(site, &record, dot(9, 1), [a])
        };
        assert_ne!(named("a", "bc"), named("ab", "c"));
        let text = id(&[a]).to_string();
        assert_eq!((text.len(), text.parse()), (16, Ok(id(&[a]))));
        assert!(text.to_uppercase().parse::<ConflictId>().is_err() || !text.contains(|c| c >= 'a'));
        assert!("+123456789abcdef".parse::<ConflictId>().is_err());
    }

    #[test]
    fn when_it_was_settled_does_not_name_it() {
        let one = conflict(3);
        let mut facts = one.facts().clone();
        (facts.seq, facts.settled_ms, facts.won) = (Seq(9), 0, None);
        assert_eq!(Conflict::new(facts).id(), one.id());
    }

    #[test]
    fn a_borrowed_id_is_refused_when_read() {
        let mut json = serde_json::to_value(conflict(3)).unwrap();
        json["id"] = serde_json::to_value(conflict(4).id()).unwrap();
        let error = serde_json::from_value::<Conflict>(json).unwrap_err().to_string();
        assert!(error.contains(&conflict(3).id().to_string()), "{error}");
    }
}
