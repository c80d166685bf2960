//! Conflicts: what a record becomes when two versions of it meet.
//!
//! Invariant: the result is a pure function of the set of values, so the order in which versions
//! meet does not matter. A merge issues no dot: it is the join of the parents' histories, and the
//! value that the policy picks. Every value that it does not pick is a [`Loser`], to be made
//! durable with the winner (rule V6).

use crate::policy::Ruling;
use crate::record::{Loser, RecordId, Stored};
use crate::row::{Row, StoreTime};
use crate::version::{
    Actor, Basis, ContentHash, Dot, NodeId, Sibling, SiteId, Stamp, Version, VersionVector,
};
use serde::{Deserialize, Serialize};
use std::cmp::Ordering;

/// A version together with the bytes of its current value.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Held {
    /// The version.
    pub version: Version,
    /// Its current value.
    pub value: Stored,
}

/// What two versions make.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Met {
    /// `theirs` includes `ours`, or they are the same.
    Theirs,
    /// `ours` includes `theirs`.
    Ours,
    /// They are concurrent: the merge, and the values that lost.
    Concurrent {
        /// The join, with the winner's value.
        merged: Held,
        /// What it does not show.
        losers: Vec<Loser>,
    },
    /// Several values stand beside each other: what is shown of them is made of their bytes (see
    /// [`crate::settle`]).
    Apart(Version),
}

/// Meets two versions.
pub fn meet(ruling: &Ruling, ours: &Held, theirs: &Held) -> Met {
    match ruling {
        Ruling::Lww => meet_lww(ours, theirs),
        Ruling::KeepSiblings
        | Ruling::PreferStore(_)
        | Ruling::DeleteWins
        | Ruling::EditWins
        | Ruling::Merge
        | Ruling::Rule { .. } => meet_sets(ours, theirs),
    }
}

/// Under a ruling that looks at the set: the join, unless one side is all of it and settled.
fn meet_sets(ours: &Held, theirs: &Held) -> Met {
    let either = |theirs_stay: bool| if theirs_stay { Met::Theirs } else { Met::Ours };
    match ours.version.compare(&theirs.version) {
        Some(Ordering::Less) => Met::Theirs,
        Some(Ordering::Greater) if ours.version.basis() > Basis::Unsettled => Met::Ours,
        Some(Ordering::Equal) if ours.version.is_apart() || theirs.version.is_apart() => {
            either(theirs.version.includes(&ours.version))
        }
        Some(Ordering::Equal) => meet_lww(ours, theirs),
        Some(Ordering::Greater) | None => {
            let joined = ours.version.join(&theirs.version);
            if joined.is_apart() {
                return Met::Apart(joined);
            }
            // The same write on both sides, met with different histories, is no conflict.
            let dot = joined.current().dot;
            let of = if ours.version.current().dot == dot { ours } else { theirs };
            let value = if joined.current().deleted { Stored::Tombstone } else { of.value.clone() };
            Met::Concurrent { merged: Held { version: joined, value }, losers: Vec::new() }
        }
    }
}

/// Under `lww` the later stamp wins, then the greater dot. A write that has expired on one side has
/// expired, whatever else the other side includes.
fn meet_lww(ours: &Held, theirs: &Held) -> Met {
    match ours.version.compare(&theirs.version) {
        Some(Ordering::Less) if ours.is_end_of(theirs) => ended(theirs),
        Some(Ordering::Less) => Met::Theirs,
        Some(Ordering::Greater) if theirs.is_end_of(ours) => ended(ours),
        Some(Ordering::Greater) => Met::Ours,
        Some(Ordering::Equal) if ours.is_end_of(theirs) => Met::Ours,
        Some(Ordering::Equal) if theirs.is_end_of(ours) => Met::Theirs,
        // Equal histories with unequal bytes cannot come from `lww`; should they, the greater
        // hash settles it for everyone alike (rule V5).
        Some(Ordering::Equal) => {
            if theirs.version.current().hash >= ours.version.current().hash {
                Met::Theirs
            } else {
                Met::Ours
            }
        }
        None => {
            let rank = |held: &Held| {
                let current = held.version.current();
                (current.stamp, current.dot, current.is_expired_form())
            };
            let (winner, loser) =
                if rank(ours) > rank(theirs) { (ours, theirs) } else { (theirs, ours) };
            let history = ours.version.history.join(&theirs.version.history);
            let won = *winner.version.current();
            let lost = *loser.version.current();
            let version = Version::settled(history, won);
            let merged = Held { version, value: winner.value.clone() };
            // The same write on both sides, met with different histories, is no conflict.
            let losers = if lost.dot == won.dot {
                Vec::new()
            } else {
                vec![Loser { sibling: lost, value: loser.value.clone(), winner: won.dot }]
            };
            Met::Concurrent { merged, losers }
        }
    }
}

impl Held {
    /// True for what is left of the other's value, whose time has passed here and not there.
    pub fn is_end_of(&self, other: &Held) -> bool {
        let (ours, theirs) = (self.version.current(), other.version.current());
        ours.dot == theirs.dot && ours.is_expired_form() && !theirs.is_expired_form()
    }
}

/// A version without its value, whose time has passed elsewhere.
fn ended(held: &Held) -> Met {
    let merged = Held { version: held.version.expired(), value: Stored::Tombstone };
    Met::Concurrent { merged, losers: Vec::new() }
}

/// What a row holds: its version, or the version that a foreign write past every coordinator
/// makes of its bytes (rule A2). Whoever looks at the same row makes the same version. `None`:
/// nothing was ever here.
pub fn held(site: SiteId, record: &RecordId, row: &Row) -> Option<Held> {
    let value = row.value.clone().unwrap_or(Stored::Tombstone);
    if !row.has_foreign_write() {
        return row.version.clone().map(|version| Held { version, value });
    }
    let base = row.history();
    let actor = foreign_actor(site, record);
    let stamp = foreign_stamp(row.foreign_at, row.version.as_ref());
    let sibling = sibling(Dot { actor, counter: base.counter(actor) + 1 }, stamp, &value);
    Some(Held { version: Version::write(&base, sibling), value })
}

/// The version that bytes found in a projection make over what the authority holds (rule A3). Its
/// dot is made from record and bytes: whoever finds them makes the same write of them, and a
/// history that includes it tells that they were taken in before. Its stamp follows what it
/// replaces, since no store tells when it was written (rule V3).
pub fn found(site: SiteId, record: &RecordId, over: Option<&Version>, body: &[u8]) -> Version {
    let actor = fingerprint(site, record, Some(body));
    let stamp = over.map(|version| version.stamp().next()).unwrap_or_default();
    let (hash, bytes) = (ContentHash::of(body), body.len() as u64);
    let dot = Dot { actor, counter: 1 };
    Version::write(
        &history_of(over),
        Sibling { dot, stamp, hash, bytes, deleted: false, expires_at_ms: None },
    )
}

/// The tombstone that stands again for a version which was deleted, and whose tombstone was reaped,
/// when it turns up where it should be gone (rule A6). Whoever meets it makes the same of it.
pub fn buried(site: SiteId, record: &RecordId, dead: &Version) -> Held {
    let named = format!("buries {}", dead.current().dot);
    let dot = Dot { actor: fingerprint(site, record, Some(named.as_bytes())), counter: 1 };
    let sibling = sibling(dot, dead.stamp().next(), &Stored::Tombstone);
    Held { version: Version::write(&dead.history, sibling), value: Stored::Tombstone }
}

/// Describes a value under a dot.
pub fn sibling(dot: Dot, stamp: Stamp, value: &Stored) -> Sibling {
    let (hash, bytes, deleted) = match value {
        // Nobody writes what is erased.
        Stored::Tombstone | Stored::Erased(_) => (ContentHash::of(&[]), 0, true),
        Stored::Inline(bytes) => (ContentHash::of(bytes), bytes.len() as u64, false),
        Stored::Reference { hash, bytes } => (*hash, *bytes, false),
    };
    Sibling { dot, stamp, hash, bytes, deleted, expires_at_ms: None }
}

/// The actor of foreign writes to one record at a site's authority: made from both, so that every
/// finder gives the same write the same dot, and writes at two sites are two.
pub fn foreign_actor(site: SiteId, record: &RecordId) -> Actor {
    fingerprint(site, record, None)
}

fn fingerprint(site: SiteId, record: &RecordId, body: Option<&[u8]>) -> Actor {
    let mut hasher = blake3::Hasher::new();
    hasher.update(&site.0.to_le_bytes());
    hasher.update(record.dataset.as_bytes());
    hasher.update(&[0]);
    hasher.update(record.key.as_bytes());
    if let Some(body) = body {
        hasher.update(&[0]);
        hasher.update(body);
    }
    let mut first = [0; 8];
    first.copy_from_slice(&hasher.finalize().as_bytes()[..8]);
    Actor { node: NodeId::FOREIGN, incarnation: u64::from_le_bytes(first) }
}

/// The store's time, never the finder's, raised above the stamp that the write replaced
/// (rule V3).
fn foreign_stamp(at: StoreTime, replaced: Option<&Version>) -> Stamp {
    let stamp = Stamp { wall_ms: at.0, logical: 0 };
    match replaced {
        Some(version) if version.stamp() >= stamp => version.stamp().next(),
        _ => stamp,
    }
}

/// The base of a write that supersedes everything its coordinator knows.
pub fn history_of(known: Option<&Version>) -> VersionVector {
    known.map(|version| version.history.clone()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;
    use std::sync::Arc;

    fn write(base: &VersionVector, node: u16, counter: u64, wall_ms: u64) -> Held {
        let value = Stored::Inline(Bytes::from(format!("{node}.{counter}")));
        let dot = Dot { actor: Actor { node: NodeId(node), incarnation: 1 }, counter };
        let sibling = sibling(dot, Stamp { wall_ms, logical: 0 }, &value);
        Held { version: Version::write(base, sibling), value }
    }

    #[test]
    fn the_later_stamp_wins_and_the_other_is_kept() {
        let early = write(&VersionVector::new(), 1, 1, 10);
        let late = write(&VersionVector::new(), 2, 1, 20);
        let Met::Concurrent { merged, losers } = meet(&Ruling::Lww, &early, &late) else {
            panic!("concurrent")
        };
        assert_eq!(merged.value, late.value);
        assert!(merged.version.history.covers(&early.version.history));
        assert_eq!(losers.len(), 1);
        assert_eq!(losers[0].value, early.value);
        assert_eq!(losers[0].winner, late.version.current().dot);
        assert_eq!(meet(&Ruling::Lww, &late, &early), Met::Concurrent { merged, losers });
    }

    #[test]
    fn a_value_whose_time_has_passed_stays_gone_and_loses_to_what_would_have_beaten_it() {
        let mut early = write(&VersionVector::new(), 1, 1, 10);
        let mut current = *early.version.current();
        current.expires_at_ms = Some(1_000);
        early.version = Version::write(&VersionVector::new(), current);
        let gone = Held { version: early.version.expired(), value: Stored::Tombstone };
        assert_eq!(meet(&Ruling::Lww, &early, &gone), Met::Theirs);
        assert_eq!(meet(&Ruling::Lww, &gone, &early), Met::Ours);
        assert_ne!(gone.version.id(), early.version.id());
        let winner = |other: &Held| match meet(&Ruling::Lww, &gone, other) {
            Met::Concurrent { merged, .. } => merged.value,
            met => panic!("{met:?}"),
        };
        let later = write(&VersionVector::new(), 2, 1, 20);
        assert_eq!(winner(&later), later.value);
        assert_eq!(winner(&write(&VersionVector::new(), 2, 1, 5)), Stored::Tombstone);
        let over = write(&gone.version.history, 2, 1, 11);
        assert_eq!(meet(&Ruling::Lww, &gone, &over), Met::Theirs);
        // Where it won against another write before anybody ended it, it has expired there too.
        let lost = write(&VersionVector::new(), 2, 1, 5);
        let Met::Concurrent { merged: won, .. } = meet(&Ruling::Lww, &early, &lost) else {
            panic!("concurrent")
        };
        let third = write(&VersionVector::new(), 3, 1, 4);
        let Met::Concurrent { merged: apart, .. } = meet(&Ruling::Lww, &gone, &third) else {
            panic!("concurrent")
        };
        for (ended, stands) in [(&gone, &won), (&apart, &won)] {
            for met in [meet(&Ruling::Lww, ended, stands), meet(&Ruling::Lww, stands, ended)] {
                let Met::Concurrent { merged, losers } = met else { panic!("{met:?}") };
                assert!(merged.version.history.covers(&stands.version.history));
                assert!(merged.version.current().is_expired_form());
                assert_eq!((merged.value, losers), (Stored::Tombstone, vec![]));
            }
        }
    }

    #[test]
    fn order_of_meeting_does_not_matter() {
        let writes: Vec<Held> =
            (1..=3).map(|n| write(&VersionVector::new(), n, 1, u64::from(30 - n))).collect();
        let fold = |order: [usize; 3]| {
            let mut held = writes[order[0]].clone();
            for at in &order[1..] {
                held = match meet(&Ruling::Lww, &held, &writes[*at]) {
                    Met::Theirs => writes[*at].clone(),
                    Met::Ours => held,
                    Met::Concurrent { merged, .. } => merged,
                    Met::Apart(set) => panic!("{set:?}"),
                };
            }
            held
        };
        let first = fold([0, 1, 2]);
        for order in [[0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]] {
            assert_eq!(fold(order), first, "{order:?}");
        }
    }

    #[test]
    fn v3_a_foreign_write_exceeds_what_it_replaced_and_everyone_makes_the_same_of_it() {
        let record = RecordId { dataset: Arc::from("d"), key: "k".into() };
        let before = write(&VersionVector::new(), 1, 1, 5_000);
        let row = Row {
            version: Some(before.version.clone()),
            value: Some(Stored::Inline(Bytes::from_static(b"foreign"))),
            row_seq: 2,
            known_row_seq: 1,
            foreign_at: StoreTime(1_000),
            ..Row::default()
        };
        let here = SiteId(0);
        let found = held(here, &record, &row).expect("bytes are there");
        assert_eq!(found, held(here, &record, &row).expect("the same again"));
        let elsewhere = held(SiteId(1), &record, &row).expect("bytes are there");
        assert_ne!(elsewhere.version.current().dot, found.version.current().dot);
        assert!(found.version.history.covers(&before.version.history));
        assert!(found.version.stamp() > before.version.stamp());
    }
}
