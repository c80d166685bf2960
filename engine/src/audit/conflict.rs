//! A conflict as the log keeps it: who met whom, what stands now, and by which rule.
//!
//! Invariant: a conflict's id is made from its site, its record and the dots of its values, so it is
//! the same whoever logs it, and an entry that carries another id for the same values is no conflict.

use super::event::Words;
use super::text;
use crate::record::{RecordId, StoreId};
use crate::resolve::Held;
use crate::version::{ContentHash, Dot, Malformed, NodeId, Sibling, SiteId, Stamp, VersionVector};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::fmt;
use std::str::FromStr;

/// Fields that a conflict names as not merged; more are counted.
pub const FIELDS_MAX: usize = 64;

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

/// Where the versions met.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "at", rename_all = "kebab-case")]
pub enum MetAt {
    /// Here: a write came with the context of an old read (the chain rule).
    Write,
    /// At the authority's compare-and-set.
    Authority,
    /// On a read.
    Read,
    /// In a look over a store.
    Reconcile {
        /// The store.
        store: StoreId,
    },
    /// One of them came from another coordinator.
    Peer {
        /// Which.
        node: NodeId,
    },
    /// One of them was written past every coordinator.
    Foreign {
        /// Into which store.
        store: StoreId,
    },
}

/// How what stands now was made of the originals.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "form", rename_all = "kebab-case")]
pub enum Merge {
    /// One of them stands as it was, or all do side by side.
    Picked,
    /// Merged without a base: the version whose history is the meet of both sides was not at hand.
    TwoWay,
    /// Merged over a base.
    ThreeWay {
        /// The base's history.
        #[serde(with = "text")]
        base: VersionVector,
    },
}

/// The policy that decided.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ruling {
    /// The strategy by its name in the configuration: `lww`, `merge`, `rule`.
    pub strategy: Words,
    /// The user's rule, where there was one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rule: Option<Words>,
    /// The policy's revision.
    pub revision: u64,
    /// Of the policy's text: two coordinators may count revisions differently.
    pub fingerprint: ContentHash,
}

/// A field whose edits could not be merged.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unmerged {
    /// Its JSON Pointer, or its column.
    pub field: Words,
    /// Why, and what stands there instead.
    pub reason: Words,
}

/// The histories of a conflict.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Contexts {
    /// Of the version that was here.
    #[serde(with = "text")]
    pub ours: VersionVector,
    /// Of the one that it met.
    #[serde(with = "text")]
    pub theirs: VersionVector,
    /// Of what stands now.
    #[serde(with = "text")]
    pub after: VersionVector,
}

/// What stands now. It may be none of the originals.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stands {
    /// Of its bytes.
    pub hash: ContentHash,
    /// Their length.
    pub bytes: u64,
    /// The record is deleted.
    pub deleted: bool,
}

impl From<&Held> for Stands {
    fn from(held: &Held) -> Self {
        let Sibling { hash, bytes, deleted, .. } = *held.version.current();
        Stands { hash, bytes, deleted }
    }
}

/// What is known of a conflict.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConflictFacts {
    /// Whose stores.
    pub site: SiteId,
    /// The record.
    pub record: RecordId,
    /// The coordinator that resolved it.
    pub node: NodeId,
    /// Where the versions met.
    pub met: MetAt,
    /// The write whose dot the result carries; of siblings that stay, the one that is shown.
    pub winner: Original,
    /// The others.
    pub losers: Vec<Original>,
    /// What stands now.
    pub stands: Stands,
    /// How it was made.
    pub merge: Merge,
    /// By which policy.
    pub ruling: Ruling,
    /// What could not be merged.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub unmerged: Vec<Unmerged>,
    /// How many more there were than [`FIELDS_MAX`].
    #[serde(default, skip_serializing_if = "is_zero")]
    pub unmerged_more: u64,
    /// The histories before and after.
    pub contexts: Contexts,
}

fn is_zero(count: &u64) -> bool {
    *count == 0
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
    /// Names the conflict, and brings its lists into their bounds.
    pub fn new(mut facts: ConflictFacts) -> Self {
        let more = facts.unmerged.len().saturating_sub(FIELDS_MAX);
        facts.unmerged.truncate(FIELDS_MAX);
        facts.unmerged_more += more as u64;
        Conflict { id: id(&facts), facts }
    }

    /// Its name.
    pub fn id(&self) -> ConflictId {
        self.id
    }

    /// What is known of it.
    pub fn facts(&self) -> &ConflictFacts {
        &self.facts
    }
}

fn id(facts: &ConflictFacts) -> ConflictId {
    let losers = facts.losers.iter().map(|loser| loser.dot);
    ConflictId::of(facts.site, &facts.record, facts.winner.dot, losers)
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
        let vector = |dots: &[Dot]| -> VersionVector {
            dots.iter().map(|dot| (dot.actor, dot.counter)).collect()
        };
        Conflict::new(ConflictFacts {
            site: SiteId(0),
            record: record(),
            node: NodeId(2),
            met: MetAt::Peer { node: NodeId(1) },
            winner,
            losers: vec![loser],
            stands: Stands { hash: winner.hash, bytes: 8, deleted: false },
            merge: Merge::ThreeWay { base: vector(&[dot(1, 1)]) },
            ruling: Ruling {
                strategy: "merge".into(),
                rule: None,
                revision: 4,
                fingerprint: ContentHash::of(b"policy"),
            },
            unmerged: vec![Unmerged {
                field: "/stock".into(),
                reason: "both set it; the later stamp stands".into(),
            }],
            unmerged_more: 0,
            contexts: Contexts {
                ours: vector(&[loser.dot]),
                theirs: vector(&[winner.dot]),
                after: vector(&[loser.dot, winner.dot]),
            },
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
    fn who_met_it_and_when_does_not_name_it() {
        let one = conflict(3);
        let mut facts = one.facts().clone();
        facts.node = NodeId(7);
        facts.met = MetAt::Authority;
        facts.contexts = Contexts::default();
        assert_eq!(Conflict::new(facts).id(), one.id());
    }

    #[test]
    fn a_borrowed_id_is_refused_when_read() {
        let mut json = serde_json::to_value(conflict(3)).unwrap();
        json["id"] = serde_json::to_value(conflict(4).id()).unwrap();
        let error = serde_json::from_value::<Conflict>(json).unwrap_err().to_string();
        assert!(error.contains(&conflict(3).id().to_string()), "{error}");
    }

    #[test]
    fn what_was_not_merged_is_named_up_to_a_bound_and_counted_beyond() {
        let mut facts = conflict(3).facts().clone();
        facts.unmerged = vec![facts.unmerged[0].clone(); FIELDS_MAX + 5];
        let conflict = Conflict::new(facts);
        assert_eq!(conflict.facts().unmerged.len(), FIELDS_MAX);
        assert_eq!(conflict.facts().unmerged_more, 5);
    }
}
