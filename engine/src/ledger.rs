//! The ledger: what the authority was last known to hold, per record.
//!
//! ```text
//! dataset ── key ── entry   one small block a record: a version of one value, its actors by number
//!         └─ tree           the same records in sums, to be held against the authority's and peers'
//! ```
//!
//! Invariant: an entry is never newer than the authority. The ledger is complete, and then a
//! record without an entry does not exist; or it says that it is not, and then the authority must
//! be asked before a write gets its dot (rule V1). It lives in memory and is filled from the
//! authority's change feed after each start. Each dataset's tree is that of its entries.

use crate::record::{Key, RecordId};
use crate::row::{Expect, Seq};
use crate::tree::{Digest, Leaf, Tree};
use crate::version::{
    Actor, ContentHash, Dot, NodeId, Sibling, Stamp, Version, VersionId, VersionVector,
};
use std::collections::{BTreeMap, BTreeSet, btree_map as map};
use std::ops::Bound;
use std::sync::Arc;

/// The authority's row as last seen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Known {
    /// Its version; none when the record was looked for and is not there.
    pub version: Option<Version>,
    /// Its row sequence; orders what is learned.
    pub row_seq: u64,
    /// The place of its last change in the authority's feed.
    pub seq: Seq,
}

impl Known {
    /// What a compare-and-set over it expects.
    pub fn expect(&self) -> Expect {
        let history = self.version.as_ref().map(|v| v.history.clone()).unwrap_or_default();
        Expect { history, row_seq: self.row_seq }
    }
}

/// What is known of the authority.
#[derive(Debug, Default)]
pub struct Ledger {
    datasets: BTreeMap<Arc<str>, Records>,
    actors: Actors,
    cursor: Seq,
    seen_through: Seq,
    complete: bool,
}

#[derive(Debug, Default)]
struct Records {
    // Boxed: a map's nodes are half empty when keys come in order.
    entries: BTreeMap<Key, Box<Entry>>,
    tree: Tree,
    /// Entries that are tombstones.
    tombstones: usize,
    /// Entries of which several values stand beside each other: there are few, and they are listed.
    apart: BTreeSet<Key>,
    /// The sequence of what is not there: it rises when tombstones are reaped.
    absent_row_seq: u64,
    /// The latest stamp of a delete, reaped or not: what begins anew exceeds it (rule V3).
    deleted_stamp: Stamp,
}

/// The incarnations that histories name, each by a number. There are few: one a start of a
/// coordinator. Foreign writes have an actor each and stay out of here.
#[derive(Debug, Default)]
struct Actors {
    by_number: Vec<Actor>,
    numbers: BTreeMap<Actor, u32>,
}

impl Actors {
    fn number(&mut self, actor: Actor) -> u32 {
        if let Some(number) = self.numbers.get(&actor) {
            return *number;
        }
        let number = u32::try_from(self.by_number.len()).expect("fewer starts than that");
        self.by_number.push(actor);
        self.numbers.insert(actor, number);
        number
    }
}

/// A version of one value by a coordinator's own write, nearly always; else `extra` says more.
#[derive(Debug)]
struct Entry {
    hash: ContentHash,
    seq: Seq,
    wall_ms: u64,
    extra: Option<Box<Extra>>,
    // As wide as they are for any value that is taken in, and for any but the longest of lives.
    counter: u32,
    bytes: u32,
    logical: u32,
    row_seq: u32,
    actor: u32,
    leaf: Leaf,
    deleted: bool,
}

#[derive(Debug)]
enum Extra {
    /// Other actors in the history, and when the value's time passes.
    More { others: Box<[(u32, u64)]>, expires_at_ms: Option<u64> },
    /// What the short form cannot say; the entry's other fields say nothing then.
    Whole(Known),
}

impl Entry {
    fn new(
        actors: &mut Actors,
        leaf: Leaf,
        version: Option<&Version>,
        row_seq: u64,
        seq: Seq,
    ) -> Entry {
        let whole = || Known { version: version.cloned(), row_seq, seq };
        match Entry::short(actors, leaf, version, row_seq, seq) {
            Some(short) => short,
            None => Entry {
                hash: ContentHash([0; 32]),
                seq,
                counter: 0,
                wall_ms: 0,
                bytes: 0,
                extra: Some(Box::new(Extra::Whole(whole()))),
                logical: 0,
                row_seq: 0,
                actor: 0,
                leaf,
                deleted: false,
            },
        }
    }

    fn short(
        actors: &mut Actors,
        leaf: Leaf,
        version: Option<&Version>,
        row_seq: u64,
        seq: Seq,
    ) -> Option<Entry> {
        let version = version?;
        let [sibling] = version.siblings() else { return None };
        let Sibling { dot, stamp, hash, bytes, deleted, expires_at_ms } = sibling;
        let foreign = |(actor, _): &(Actor, u64)| actor.node == NodeId::FOREIGN;
        if version.history.counter(dot.actor) != dot.counter || version.history.iter().any(foreign)
        {
            return None;
        }
        let row_seq = u32::try_from(row_seq).ok()?;
        let (counter, bytes) = (u32::try_from(dot.counter).ok()?, u32::try_from(*bytes).ok()?);
        let others = version.history.iter().filter(|(actor, _)| *actor != dot.actor);
        let others: Box<[(u32, u64)]> =
            others.map(|(actor, counter)| (actors.number(*actor), *counter)).collect();
        let more = !others.is_empty() || expires_at_ms.is_some();
        Some(Entry {
            hash: *hash,
            seq,
            counter,
            wall_ms: stamp.wall_ms,
            bytes,
            extra: more.then(|| Box::new(Extra::More { others, expires_at_ms: *expires_at_ms })),
            logical: stamp.logical,
            row_seq,
            actor: actors.number(dot.actor),
            leaf,
            deleted: *deleted,
        })
    }
}

/// A record in the ledger.
#[derive(Clone, Copy, Debug)]
pub struct Noted<'l> {
    entry: &'l Entry,
    actors: &'l Actors,
}

impl Noted<'_> {
    fn whole(&self) -> Option<&Known> {
        match self.entry.extra.as_deref() {
            Some(Extra::Whole(known)) => Some(known),
            Some(Extra::More { .. }) | None => None,
        }
    }

    fn dot(&self) -> Dot {
        let actor = self.actors.by_number[self.entry.actor as usize];
        Dot { actor, counter: u64::from(self.entry.counter) }
    }

    /// Its row sequence.
    pub fn row_seq(&self) -> u64 {
        self.whole().map_or(u64::from(self.entry.row_seq), |known| known.row_seq)
    }

    /// The place of its last change in the authority's feed.
    pub fn seq(&self) -> Seq {
        self.entry.seq
    }

    /// True when it has a value.
    pub fn is_live(&self) -> bool {
        match self.whole() {
            Some(known) => known.version.as_ref().is_some_and(|v| !v.current().deleted),
            None => !self.entry.deleted,
        }
    }

    fn is_tombstone(&self) -> bool {
        match self.whole() {
            Some(known) => known.version.as_ref().is_some_and(|v| v.current().deleted),
            None => self.entry.deleted,
        }
    }

    fn expires_at_ms(&self) -> Option<u64> {
        match self.entry.extra.as_deref() {
            Some(Extra::Whole(known)) => known.version.as_ref()?.current().expires_at_ms,
            Some(Extra::More { expires_at_ms, .. }) => *expires_at_ms,
            None => None,
        }
    }

    /// See [`Sibling::stands_until_ms`].
    pub fn stands_until_ms(&self) -> Option<u64> {
        self.expires_at_ms().filter(|_| self.is_live())
    }

    /// The history of its version.
    pub fn history(&self) -> VersionVector {
        match self.entry.extra.as_deref() {
            Some(Extra::Whole(known)) => {
                known.version.as_ref().map(|v| v.history.clone()).unwrap_or_default()
            }
            Some(Extra::More { others, .. }) => {
                let named = |(actor, n): &(u32, u64)| (self.actors.by_number[*actor as usize], *n);
                let own = self.dot();
                others.iter().map(named).chain([(own.actor, own.counter)]).collect()
            }
            None => [(self.dot().actor, self.dot().counter)].into_iter().collect(),
        }
    }

    /// Its version; none when the record was looked for and is not there.
    pub fn version(&self) -> Option<Version> {
        if let Some(known) = self.whole() {
            return known.version.clone();
        }
        let Entry { hash, wall_ms, logical, bytes, deleted, .. } = *self.entry;
        let (stamp, bytes) = (Stamp { wall_ms, logical }, u64::from(bytes));
        let expires_at_ms = self.expires_at_ms();
        let sibling = Sibling { dot: self.dot(), stamp, hash, bytes, deleted, expires_at_ms };
        Some(Version::settled(self.history(), sibling))
    }

    /// What identifies its version.
    pub fn id(&self) -> Option<VersionId> {
        match self.whole() {
            Some(known) => known.version.as_ref().map(Version::id),
            None => Some(VersionId { history: self.history(), hash: self.entry.hash }),
        }
    }

    /// All of it.
    pub fn known(&self) -> Known {
        match self.whole() {
            Some(known) => known.clone(),
            None => Known { version: self.version(), row_seq: self.row_seq(), seq: self.seq() },
        }
    }

    fn digest(&self, key: &str) -> Option<Digest> {
        let Entry { hash, extra: None, .. } = self.entry else {
            return self.id().map(|id| Digest::of(key, &id.history, id.hash));
        };
        let dot = self.dot();
        Some(Digest::over(key, [(dot.actor, dot.counter)].into_iter(), *hash))
    }
}

impl Ledger {
    /// How far the change feed was followed.
    pub fn cursor(&self) -> Seq {
        self.cursor
    }

    /// Whatever stood at this place of the feed or before it is known, or what followed it. The cursor
    /// says less: a record that changes moves to the feed's end, so in the midst of it nobody has seen
    /// what stood before and has moved behind.
    pub fn seen_through(&self) -> Seq {
        self.seen_through
    }

    /// The feed was followed to `seq`; `end`: to its end.
    pub fn followed(&mut self, seq: Seq, end: bool) {
        self.cursor = self.cursor.max(seq);
        if end {
            self.complete = true;
            self.seen_through = self.cursor;
        }
    }

    /// True once the feed was followed to its end.
    pub fn is_complete(&self) -> bool {
        self.complete
    }

    /// Forgets everything: the authority is not what it was, so all of it is to be read again.
    pub fn forget(&mut self) {
        *self = Ledger::default();
    }

    /// A record's entry, if it has one.
    pub fn noted(&self, record: &RecordId) -> Option<Noted<'_>> {
        let entry = self.datasets.get(&record.dataset)?.entries.get(&record.key)?;
        Some(Noted { entry, actors: &self.actors })
    }

    /// What is known of a record; `None`: it must be asked for.
    pub fn known(&self, record: &RecordId) -> Option<Known> {
        match self.noted(record) {
            Some(noted) => Some(noted.known()),
            None => {
                let row_seq = self.absent_row_seq(record)?;
                Some(Known { version: None, row_seq, seq: Seq(0) })
            }
        }
    }

    /// The row sequence of what is known of a record; `None`: it must be asked for.
    pub fn row_seq(&self, record: &RecordId) -> Option<u64> {
        match self.noted(record) {
            Some(noted) => Some(noted.row_seq()),
            None => self.absent_row_seq(record),
        }
    }

    /// That of a record without an entry.
    fn absent_row_seq(&self, record: &RecordId) -> Option<u64> {
        let of = |records: &Records| records.absent_row_seq;
        self.complete.then(|| self.datasets.get(&record.dataset).map_or(0, of))
    }

    /// The latest stamp of a dataset's deletes, as far as they were seen.
    pub fn deleted_stamp(&self, dataset: &str) -> Stamp {
        self.datasets.get(dataset).map(|records| records.deleted_stamp).unwrap_or_default()
    }

    /// Tombstones were reaped that may never have been seen here.
    pub fn reaped(&mut self, dataset: &Arc<str>, latest: Stamp) {
        if !self.datasets.contains_key(dataset) {
            self.datasets.insert(dataset.clone(), Records::default());
        }
        let records = self.datasets.get_mut(dataset).expect("inserted above");
        records.deleted_stamp = records.deleted_stamp.max(latest);
    }

    /// Where a write's change stands in the authority's feed, if it is known to be there.
    pub fn holds(&self, record: &RecordId, dot: Dot) -> Option<Seq> {
        let noted = self.noted(record)?;
        // The write that made the value, nearly always: no history has to be put together then.
        let own = noted.whole().is_none() && noted.dot().actor == dot.actor;
        let held =
            if own { noted.dot().counter >= dot.counter } else { noted.history().covers_dot(dot) };
        held.then(|| noted.seq())
    }

    /// Learns of a row. Older news changes nothing. True when it was news.
    pub fn learn(
        &mut self,
        record: &RecordId,
        version: Option<&Version>,
        row_seq: u64,
        seq: Seq,
    ) -> bool {
        if !self.datasets.contains_key(&record.dataset) {
            self.datasets.insert(record.dataset.clone(), Records::default());
        }
        let Records { entries, tree, tombstones, apart, absent_row_seq, deleted_stamp } =
            self.datasets.get_mut(&record.dataset).expect("inserted above");
        let deleted = version.is_some_and(|version| version.current().deleted);
        if let Some(version) = version.filter(|_| deleted) {
            *deleted_stamp = version.stamp().max(*deleted_stamp);
        }
        if version.is_none() {
            *absent_row_seq = row_seq.max(*absent_row_seq);
        }
        let is_apart = version.is_some_and(Version::is_apart);
        let actors = &mut self.actors;
        let digest = || {
            let version = version?;
            Some(Digest::of(&record.key, &version.history, version.current().hash))
        };
        match entries.entry(record.key.clone()) {
            map::Entry::Occupied(mut known) => {
                let entry = known.get_mut();
                let noted = Noted { entry, actors };
                // Most news is heard twice, so nothing is hashed before this.
                if noted.row_seq() >= row_seq {
                    return false;
                }
                let (leaf, before) = (entry.leaf, noted.digest(&record.key));
                *tombstones -= usize::from(noted.is_tombstone());
                *tombstones += usize::from(deleted);
                if !is_apart {
                    apart.remove(&record.key);
                }
                tree.update(leaf, before, digest());
                if version.is_none() && self.complete {
                    known.remove();
                    return true;
                }
                **entry = Entry::new(actors, leaf, version, row_seq, seq);
            }
            // Once everything is known, what does not exist needs no entry to say so.
            map::Entry::Vacant(_) if version.is_none() && self.complete => return false,
            map::Entry::Vacant(new) => {
                let leaf = Leaf::of(&record.key);
                *tombstones += usize::from(deleted);
                tree.update(leaf, None, digest());
                new.insert(Box::new(Entry::new(actors, leaf, version, row_seq, seq)));
            }
        }
        if is_apart {
            apart.insert(record.key.clone());
        }
        true
    }

    /// A dataset's records, tombstones included, with keys after `after`, up to `through`.
    pub fn range<'l>(
        &'l self,
        dataset: &str,
        after: Option<&str>,
        through: Option<&'l str>,
    ) -> impl Iterator<Item = (&'l Key, Noted<'l>)> {
        let from = after.map_or(Bound::Unbounded, |after| Bound::Excluded(Key::from(after)));
        let actors = &self.actors;
        let records = self.datasets.get(dataset).into_iter();
        records
            .flat_map(move |records| records.entries.range((from.clone(), Bound::Unbounded)))
            .take_while(move |(key, _)| through.is_none_or(|through| ***key <= *through))
            .map(move |(key, entry)| (key, Noted { entry, actors }))
    }

    /// A dataset's records of which several values stand beside each other, with keys after `after`, in
    /// their order.
    pub fn apart<'l>(
        &'l self,
        dataset: &str,
        after: Option<&str>,
    ) -> impl Iterator<Item = (&'l Key, Version)> {
        let from = after.map_or(Bound::Unbounded, |after| Bound::Excluded(Key::from(after)));
        let actors = &self.actors;
        let records = self.datasets.get(dataset).into_iter();
        records.flat_map(move |records| {
            let keys = records.apart.range((from.clone(), Bound::Unbounded));
            keys.filter_map(move |key| {
                let entry = records.entries.get(key)?;
                Some((key, Noted { entry, actors }.version()?))
            })
        })
    }

    /// A dataset's tree.
    pub fn tree(&self, dataset: &str) -> Option<&Tree> {
        self.datasets.get(dataset).map(|records| &records.tree)
    }

    /// The members of some leaves of a dataset's tree, among the `looks` records after `after`; and
    /// the last key that was looked at, `None` at the end. A scan, in steps that a lock may take.
    pub fn members(
        &self,
        dataset: &str,
        leaves: &BTreeSet<Leaf>,
        after: Option<&str>,
        looks: usize,
    ) -> (Vec<(Key, Known)>, Option<Key>) {
        let (mut members, mut looked, mut last) = (Vec::new(), 0, None);
        for (key, noted) in self.range(dataset, after, None).take(looks) {
            (looked, last) = (looked + 1, Some(key));
            if leaves.contains(&noted.entry.leaf) {
                members.push((key.clone(), noted.known()));
            }
        }
        (members, last.filter(|_| looked == looks).cloned())
    }

    /// How many records it knows of, tombstones included.
    pub fn len(&self) -> usize {
        self.datasets.values().map(|records| records.entries.len()).sum()
    }

    /// How many of them are tombstones.
    pub fn tombstones(&self) -> usize {
        self.datasets.values().map(|records| records.tombstones).sum()
    }

    /// True when it knows of none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn v1_an_unknown_record_is_absent_only_once_the_ledger_is_complete() {
        let record = RecordId { dataset: Arc::from("d"), key: "k".into() };
        let mut ledger = Ledger::default();
        ledger.followed(Seq(3), false);
        assert_eq!(ledger.known(&record), None);
        ledger.followed(Seq(5), true);
        assert_eq!(ledger.known(&record), Some(Known { version: None, row_seq: 0, seq: Seq(0) }));
    }

    #[test]
    fn what_moved_behind_the_cursor_counts_as_seen_only_at_the_end_of_the_feed() {
        let mut ledger = Ledger::default();
        ledger.followed(Seq(5), true);
        assert_eq!((ledger.cursor(), ledger.seen_through()), (Seq(5), Seq(5)));
        // A page that leaves more: what stood at 7 may have moved to 20.
        ledger.followed(Seq(9), false);
        assert_eq!((ledger.cursor(), ledger.seen_through()), (Seq(9), Seq(5)));
        ledger.followed(Seq(20), true);
        assert_eq!((ledger.cursor(), ledger.seen_through()), (Seq(20), Seq(20)));
    }

    #[test]
    fn older_news_changes_nothing() {
        let record = RecordId { dataset: Arc::from("d"), key: "k".into() };
        let mut ledger = Ledger::default();
        assert!(ledger.learn(&record, None, 2, Seq(2)));
        assert!(!ledger.learn(&record, None, 2, Seq(2)));
        assert!(!ledger.learn(&record, None, 1, Seq(1)));
        assert!(ledger.learn(&record, None, 3, Seq(3)));
    }

    fn record(key: &str) -> RecordId {
        RecordId { dataset: Arc::from("d"), key: key.into() }
    }

    #[test]
    fn records_of_several_values_are_listed_until_one_is_left() {
        let mut ledger = Ledger::default();
        let write = |over: &VersionVector, node: u16| {
            let value = crate::record::Stored::Inline(bytes::Bytes::from(format!("{node}")));
            let dot = Dot { actor: actor(node), counter: 1 };
            Version::write(over, crate::resolve::sibling(dot, Stamp::default(), &value))
        };
        let (one, two) = (write(&VersionVector::new(), 1), write(&VersionVector::new(), 2));
        let set = one.join(&two);
        for key in ["a", "b", "c"] {
            ledger.learn(&record(key), Some(&one), 1, Seq(1));
        }
        let apart = |ledger: &Ledger, after: Option<&str>| -> Vec<String> {
            let all = ledger.apart("d", after);
            all.inspect(|(_, version)| assert_eq!(*version, set))
                .map(|(key, _)| key.to_string())
                .collect()
        };
        assert!(apart(&ledger, None).is_empty());
        for key in ["c", "a"] {
            ledger.learn(&record(key), Some(&set), 2, Seq(2));
        }
        assert_eq!(apart(&ledger, None), ["a", "c"]);
        assert_eq!(apart(&ledger, Some("a")), ["c"]);
        ledger.learn(&record("c"), Some(&write(&set.history, 3)), 3, Seq(3));
        ledger.learn(&record("c"), Some(&set), 2, Seq(2));
        assert_eq!(apart(&ledger, None), ["a"]);
        ledger.followed(Seq(3), true);
        ledger.learn(&record("a"), None, 4, Seq(4));
        assert!(apart(&ledger, None).is_empty());
    }

    fn actor(node: u16) -> Actor {
        Actor { node: NodeId(node), incarnation: 7 }
    }

    fn version(key: &str, history: &[(Actor, u64)], dot: Dot, deleted: bool) -> Version {
        let stamp = Stamp { wall_ms: 1_790_000_000_000, logical: 3 };
        let hash = ContentHash::of(key.as_bytes());
        Version::settled(
            history.iter().copied().collect(),
            Sibling { dot, stamp, hash, bytes: 9, deleted, expires_at_ms: None },
        )
    }

    #[test]
    fn tombstones_are_counted_until_they_are_reaped() {
        let mut ledger = Ledger::default();
        let of = |deleted| {
            let dot = Dot { actor: actor(1), counter: 1 };
            Some(version("k", &[(actor(1), 1)], dot, deleted))
        };
        let mut check = |key: &str, version: Option<Version>, row_seq: u64, expected: usize| {
            ledger.learn(&record(key), version.as_ref(), row_seq, Seq(row_seq));
            assert_eq!(ledger.tombstones(), expected, "{key} {row_seq}");
            ledger.followed(Seq(row_seq), true);
        };
        check("a", of(true), 1, 1);
        check("b", of(false), 1, 1);
        check("b", of(true), 2, 2);
        check("b", of(true), 2, 2);
        check("a", of(false), 3, 1);
        check("b", None, 4, 0);
    }

    fn expiring(version: &Version) -> Version {
        let current = Sibling { expires_at_ms: Some(1_790_000_100_000), ..*version.current() };
        Version::settled(version.history.clone(), current)
    }

    fn of_bytes(version: &Version, bytes: u64) -> Version {
        Version::settled(version.history.clone(), Sibling { bytes, ..*version.current() })
    }

    #[test]
    fn whatever_is_learned_comes_back_and_stands_in_the_tree() {
        let dot = |node, counter| Dot { actor: actor(node), counter };
        let foreign = Actor { node: NodeId::FOREIGN, incarnation: 9 };
        let wide = u64::from(u32::MAX) + 7;
        let two = Version::write(
            &VersionVector::new(),
            *version("b", &[(actor(1), 1)], dot(1, 1), false).current(),
        )
        .join(&version("c", &[(actor(2), 4)], dot(2, 4), false));
        assert_eq!(two.siblings().len(), 2);
        let versions = [
            version("k", &[(actor(1), 5)], dot(1, 5), false),
            version("k", &[(actor(1), 6)], dot(1, 6), true),
            version("k", &[(actor(0), 2), (actor(1), 6), (actor(3), 1)], dot(1, 6), false),
            // The value is older than its actor's last write, which lost.
            version("k", &[(actor(1), 9)], dot(1, 6), false),
            version("k", &[(actor(1), 9), (foreign, 1)], Dot { actor: foreign, counter: 1 }, false),
            two,
            expiring(&version("k", &[(actor(1), 10)], dot(1, 10), false)),
            expiring(&version("k", &[(actor(0), 2), (actor(1), 11)], dot(1, 11), false)),
            expiring(&version("k", &[(actor(1), 12)], dot(1, 12), false)).expired(),
            version("k", &[(actor(1), wide)], dot(1, wide), false),
            of_bytes(&version("k", &[(actor(1), 14)], dot(1, 14), false), wide),
            expiring(&version("k", &[(actor(1), 13)], dot(1, 12), false)),
        ];
        let mut ledger = Ledger::default();
        for (n, row_seq) in versions.iter().zip([1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, wide]) {
            let known = Known { version: Some(n.clone()), row_seq, seq: Seq(row_seq + 1) };
            assert!(ledger.learn(&record("k"), known.version.as_ref(), row_seq, known.seq));
            let noted = ledger.noted(&record("k")).unwrap();
            assert_eq!((noted.known(), noted.id()), (known.clone(), Some(n.id())));
            assert_eq!((noted.row_seq(), noted.seq()), (row_seq, known.seq));
            assert_eq!(noted.is_live(), !n.current().deleted);
            assert_eq!(noted.stands_until_ms(), n.current().stands_until_ms());
            assert_eq!(ledger.known(&record("k")), Some(known));
            for dot in [dot(1, 5), dot(1, 6), dot(1, 9), dot(0, 2), dot(2, 4)] {
                let held = n.history.covers_dot(dot).then_some(Seq(row_seq + 1));
                assert_eq!(ledger.holds(&record("k"), dot), held);
            }
            let mut anew = Tree::default();
            let digest = Digest::of("k", &n.history, n.current().hash);
            anew.update(Leaf::of("k"), None, Some(digest));
            assert_eq!(ledger.tree("d"), Some(&anew));
        }
    }

    #[test]
    fn what_does_not_exist_takes_no_room_once_everything_is_known() {
        let mut ledger = Ledger::default();
        ledger.followed(Seq(0), true);
        ledger.learn(&record("k"), None, 0, Seq(0));
        assert!(ledger.is_empty());
    }

    #[test]
    fn ranges_and_leaves() {
        let mut ledger = Ledger::default();
        for n in 0..100u64 {
            let key = format!("k{n:02}");
            let dot = Dot { actor: actor(1), counter: n + 1 };
            let version = version(&key, &[(dot.actor, dot.counter)], dot, false);
            ledger.learn(&record(&key), Some(&version), 1, Seq(n + 1));
        }
        let keys: Vec<_> =
            ledger.range("d", Some("k09"), Some("k12")).map(|(key, _)| key.to_string()).collect();
        assert_eq!(keys, ["k10", "k11", "k12"]);
        assert_eq!(ledger.range("d", None, None).count(), 100);
        assert_eq!(ledger.range("none", None, None).count(), 0);
        let leaves = BTreeSet::from([Leaf::of("k07"), Leaf::of("k93")]);
        let (mut found, mut after) = (Vec::new(), None::<Key>);
        loop {
            let (members, last) = ledger.members("d", &leaves, after.as_deref(), 33);
            found.extend(members.into_iter().map(|(key, _)| key.to_string()));
            after = last;
            if after.is_none() {
                break;
            }
        }
        assert_eq!(found, ["k07", "k93"]);
    }
}
