//! One value of a record: its write, and whether and until when it stands.
//!
//! Invariant: a value whose time has passed is no other write. What is left of it keeps its dot, its
//! stamp and its time, so that it is the same whoever ends it, and is told from a delete by that time.

use super::{ContentHash, Dot, Stamp};
use crate::row::StoreTime;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// One value nobody has superseded: its write, and what identifies its bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sibling {
    /// The write that made it.
    pub dot: Dot,
    /// When, for ties.
    pub stamp: Stamp,
    /// Hash of the bytes; of no bytes for a delete; see [`Sibling::expired`] for what has expired.
    pub hash: ContentHash,
    /// Length of the bytes.
    pub bytes: u64,
    /// A tombstone: the write deleted the record, or its time has passed.
    pub deleted: bool,
    /// From then on the value counts as deleted, by the store side's clock; `None`: never.
    pub expires_at_ms: Option<u64>,
}

impl Sibling {
    /// When its time will pass, or has passed and nobody has taken its bytes away yet.
    pub fn stands_until_ms(&self) -> Option<u64> {
        self.expires_at_ms.filter(|_| !self.deleted)
    }

    /// True when its time has passed and nobody has taken its bytes away yet.
    pub fn has_expired(&self, now: StoreTime) -> bool {
        self.stands_until_ms().is_some_and(|at_ms| at_ms <= now.0)
    }

    /// True for what is left of a value whose time has passed.
    pub fn is_expired_form(&self) -> bool {
        self.deleted && self.expires_at_ms.is_some()
    }

    /// What is left of it when its time has passed. Its hash is made from the value's, since the two
    /// have one history: what vouches for a copy of the value must not vouch for its absence, not even
    /// where the value has no bytes (rule V5).
    pub fn expired(&self) -> Self {
        let mut hasher = blake3::Hasher::new();
        hasher.update(b"expired").update(&self.hash.0);
        let hash = ContentHash(*hasher.finalize().as_bytes());
        Sibling { hash, bytes: 0, deleted: true, ..*self }
    }
}

/// As text: rows in D1 and metadata, which people and other programs read.
#[derive(Serialize, Deserialize)]
struct Text {
    dot: Dot,
    stamp: Stamp,
    hash: ContentHash,
    bytes: u64,
    deleted: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    expires_at_ms: Option<u64>,
}

/// As bytes: the journal and what peers say. The first two fates are what `deleted` was before values
/// could expire, so journals of that time are read as they are, and an older build that meets one of
/// the others cannot mistake it.
#[derive(Serialize, Deserialize)]
struct Compact {
    dot: Dot,
    stamp: Stamp,
    hash: ContentHash,
    bytes: u64,
    fate: Fate,
}

#[derive(Serialize, Deserialize)]
enum Fate {
    Stands,
    Deleted,
    Until(u64),
    Expired(u64),
}

impl Serialize for Sibling {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Sibling { dot, stamp, hash, bytes, deleted, expires_at_ms } = *self;
        if serializer.is_human_readable() {
            return Text { dot, stamp, hash, bytes, deleted, expires_at_ms }.serialize(serializer);
        }
        let fate = match (deleted, expires_at_ms) {
            (false, None) => Fate::Stands,
            (true, None) => Fate::Deleted,
            (false, Some(at_ms)) => Fate::Until(at_ms),
            (true, Some(at_ms)) => Fate::Expired(at_ms),
        };
        Compact { dot, stamp, hash, bytes, fate }.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Sibling {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        if deserializer.is_human_readable() {
            let Text { dot, stamp, hash, bytes, deleted, expires_at_ms } =
                Text::deserialize(deserializer)?;
            return Ok(Sibling { dot, stamp, hash, bytes, deleted, expires_at_ms });
        }
        let Compact { dot, stamp, hash, bytes, fate } = Compact::deserialize(deserializer)?;
        let (deleted, expires_at_ms) = match fate {
            Fate::Stands => (false, None),
            Fate::Deleted => (true, None),
            Fate::Until(at_ms) => (false, Some(at_ms)),
            Fate::Expired(at_ms) => (true, Some(at_ms)),
        };
        Ok(Sibling { dot, stamp, hash, bytes, deleted, expires_at_ms })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::version::{Actor, NodeId};

    fn sibling(expires_at_ms: Option<u64>) -> Sibling {
        let dot = Dot { actor: Actor { node: NodeId(1), incarnation: 7 }, counter: 3 };
        let (stamp, hash) = (Stamp { wall_ms: 5, logical: 1 }, ContentHash::of(b""));
        Sibling { dot, stamp, hash, bytes: 0, deleted: false, expires_at_ms }
    }

    #[test]
    fn every_fate_survives_both_encodings() {
        let (plain, brief) = (sibling(None), sibling(Some(1_790_000_000_000)));
        let deleted = Sibling { deleted: true, ..plain };
        for sibling in [plain, deleted, brief, brief.expired()] {
            let text = serde_json::to_string(&sibling).unwrap();
            assert_eq!(text.contains("expires_at_ms"), sibling.expires_at_ms.is_some());
            assert_eq!(serde_json::from_str::<Sibling>(&text).unwrap(), sibling);
            let bytes = postcard::to_allocvec(&sibling).unwrap();
            assert_eq!(postcard::from_bytes::<Sibling>(&bytes).unwrap(), sibling);
        }
    }

    #[test]
    fn without_a_time_the_bytes_are_those_of_before_values_could_expire() {
        for deleted in [false, true] {
            let sibling = Sibling { deleted, ..sibling(None) };
            let Sibling { dot, stamp, hash, bytes, .. } = sibling;
            let before = postcard::to_allocvec(&(dot, stamp, hash, bytes, deleted)).unwrap();
            assert_eq!(postcard::to_allocvec(&sibling).unwrap(), before);
        }
    }

    #[test]
    fn what_is_left_of_no_bytes_is_not_taken_for_them() {
        let empty = sibling(Some(10));
        assert_ne!(empty.expired().hash, empty.hash);
        assert!(empty.expired().is_expired_form() && !empty.is_expired_form());
        assert!(!empty.has_expired(StoreTime(9)) && empty.has_expired(StoreTime(10)));
        assert!(!empty.expired().has_expired(StoreTime(10)), "it is gone already");
    }
}
