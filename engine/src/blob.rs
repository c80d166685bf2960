//! Blobs: values too large for the authority's row, whole in R2 under their own hash (rule A0).
//!
//! ```text
//! stands in R2 at t ──> an install that refers to it, and says t
//! nobody refers to it, for long ──> condemned by the authority ──> deleted before its deadline
//! ```
//!
//! Invariant: what a row or a loser refers to stands in R2. The authority condemns in a transaction
//! that sees no reference, and takes no new one for which the blob may have been looked at before
//! the delete landed. So a blob need not be known to be new, and a put that arrives late does no
//! harm: it is collected like any other.
//!
//! Times are of the store side's clock.

use crate::row::{CLOCK_ERROR_MS, LAND_MS_MAX, LEASE_MS, StoreTime};
use crate::version::ContentHash;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// R2 keys of blobs begin so.
pub const PREFIX: &str = "_tidelock/blobs/";

/// An install is refused when its blobs were looked at longer ago. A condemnation is remembered for
/// as long after its delete can have landed.
pub const SEEN_MS_MAX: u64 = 120_000;

/// The R2 key of a value under its own hash.
pub fn key(hash: ContentHash) -> String {
    format!("{PREFIX}{hash}")
}

/// The hash of which this is the R2 key; `None`: it is no blob's.
pub fn hash_of(key: &str) -> Option<ContentHash> {
    key.strip_prefix(PREFIX)?.parse().ok()
}

/// Nobody referred to a blob, and nobody will to what stands there before `until`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Condemned {
    /// No delete is accepted from here on.
    pub deadline: StoreTime,
    /// No accepted delete can land from here on.
    pub until: StoreTime,
}

impl Condemned {
    /// By a transaction of this time.
    pub fn at(now: StoreTime) -> Condemned {
        let deadline = StoreTime(now.0 + LEASE_MS);
        Condemned { deadline, until: StoreTime(deadline.0 + LAND_MS_MAX + CLOCK_ERROR_MS) }
    }
}

/// Blobs, each of which stood in R2 at its time or later.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct BlobsSeen(BTreeMap<ContentHash, StoreTime>);

impl BlobsSeen {
    /// It stood there then, or later.
    pub fn insert(&mut self, blob: ContentHash, at: StoreTime) {
        self.0.insert(blob, at);
    }

    /// Whether a row may refer to a blob that nobody refers to yet. `condemned_until`: of its last
    /// condemnation that is remembered.
    pub fn let_refer(
        &self,
        blob: ContentHash,
        condemned_until: Option<StoreTime>,
        now: StoreTime,
    ) -> bool {
        let Some(seen_at) = self.0.get(&blob) else { return false };
        let fresh = now.0.saturating_sub(seen_at.0) <= SEEN_MS_MAX;
        fresh && condemned_until.is_none_or(|until| *seen_at > until)
    }
}

/// Condemnations that end before this are to be forgotten: an install that could have missed one has
/// looked too long ago to be taken.
pub fn forgotten_before(now: StoreTime) -> StoreTime {
    StoreTime(now.0.saturating_sub(SEEN_MS_MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn let_refer(seen_at: Option<StoreTime>, until: Option<StoreTime>, now: StoreTime) -> bool {
        let blob = ContentHash::of(b"large");
        let mut seen = BlobsSeen::default();
        seen.insert(ContentHash::of(b"another"), now);
        seen_at.into_iter().for_each(|at| seen.insert(blob, at));
        seen.let_refer(blob, until, now)
    }

    #[test]
    fn a_key_names_its_hash_and_no_other_key_does() {
        let hash = ContentHash::of(b"large");
        assert_eq!(hash_of(&key(hash)), Some(hash));
        assert_eq!(hash_of(&format!("{PREFIX}of mine")), None);
        assert_eq!(hash_of(&hash.to_string()), None);
    }

    #[test]
    fn what_was_seen_before_a_delete_can_have_landed_does_not_count() {
        let now = StoreTime(1_000_000);
        let Condemned { deadline, until } = Condemned::at(StoreTime(990_000));
        assert!(deadline < until && until < now);
        let seen = |ms: u64| Some(StoreTime(ms));
        assert!(!let_refer(seen(until.0), Some(until), now));
        assert!(let_refer(seen(until.0 + 1), Some(until), now));
        assert!(let_refer(seen(980_000), None, now));
        assert!(!let_refer(None, None, now));
    }

    #[test]
    fn a_condemnation_is_forgotten_once_nothing_can_miss_it_and_not_before() {
        let until = Condemned::at(StoreTime(0)).until;
        let last = until.0 + SEEN_MS_MAX;
        for now in [until.0, last - 1, last, last + 1, 2 * last].map(StoreTime) {
            let could_miss_it = let_refer(Some(until), None, now);
            let forgotten = until < forgotten_before(now);
            assert_eq!(forgotten, !could_miss_it, "at {now:?}");
        }
    }
}
