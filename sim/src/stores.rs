//! The stores as their documentation describes them.
//!
//! KV: <https://developers.cloudflare.com/kv/concepts/how-kv-works/> (a read may be served from
//! an edge cache for 60 seconds, "not found" too; one write a second for each key).
//! D1: <https://developers.cloudflare.com/d1/worker-api/d1-database/#batch> (a batch is one
//! transaction at the primary). R2: <https://developers.cloudflare.com/r2/reference/consistency/>
//! (strong; conditional puts).

use bytes::Bytes;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::ops::Bound;
use std::sync::Arc;
use tidelock_engine::blob::{self, Condemned};
use tidelock_engine::conflict::{Conflict, ConflictQuery, Contexts, Place, Which};
use tidelock_engine::env::{
    KeyPage, KvEntry, Listed, Object, Outcome, PutIf, Refusal, RefusalKind, RowHistory,
};
use tidelock_engine::erasure::{self, Erase, EraseAnswer, Erasure};
use tidelock_engine::record::{
    D1_ROW_BYTES_MAX, KV_KEY_BYTES_MAX, KV_METADATA_BYTES_MAX, KV_VALUE_BYTES_MAX, Key, Loser,
    R2_KEY_BYTES_MAX, R2_METADATA_BYTES_MAX, RecordId, Stored, Written,
};
use tidelock_engine::row::{
    self, BatchAnswer, Change, Changed, Floor, Install, Poll, PollPage, Row, RowAnswer, RowOp, Seq,
    StoreTime,
};
use tidelock_engine::tree::{Digest, Leaf, Sums, Tree};
use tidelock_engine::version::{ContentHash, Dot, NodeId, Sibling};

/// A read may be served from an edge cache for so long.
pub const KV_CACHED_MS: u64 = 60_000;
/// KV and R2 take one write to a key in this time.
pub const SAME_KEY_MS: u64 = 1_000;

#[derive(Debug)]
struct Cached {
    entry: Option<KvEntry>,
    at: StoreTime,
}

/// What is under a key, and when it was last written.
#[derive(Debug)]
struct Slot<T> {
    held: Option<T>,
    written: StoreTime,
}

/// Workers KV: the central store, and one edge cache for each place that reads.
#[derive(Debug, Default)]
pub struct Kv {
    entries: BTreeMap<String, Slot<KvEntry>>,
    caches: BTreeMap<(NodeId, String), Cached>,
    /// What each write replaced, oldest first, where a listing may lag.
    replaced: Option<VecDeque<(StoreTime, String, Option<KvEntry>)>>,
}

/// A write that was refused on its merits, or may go on.
type Checked = Result<(), Refusal>;

fn check_deadline(now: StoreTime, deadline: Option<StoreTime>) -> Checked {
    match deadline {
        Some(deadline) if now >= deadline => {
            Err(Refusal::new(RefusalKind::DeadlinePassed, "the lease has ended"))
        }
        _ => Ok(()),
    }
}

fn check_size(what: &'static str, bytes: usize, bytes_max: usize) -> Checked {
    if bytes <= bytes_max {
        return Ok(());
    }
    let detail = format!("the {what} has {bytes} bytes and the limit is {bytes_max}");
    Err(Refusal::new(RefusalKind::TooLarge, detail))
}

impl Kv {
    /// What the gateway checks when a write arrives: nothing has happened yet.
    pub fn check(
        &self,
        now: StoreTime,
        key: &str,
        entry: Option<&KvEntry>,
        deadline: StoreTime,
        rate_limited: bool,
    ) -> Checked {
        check_deadline(now, Some(deadline))?;
        if key.is_empty() || key == "." || key == ".." {
            return Err(Refusal::new(RefusalKind::Constraint, "keys cannot be empty, . or .."));
        }
        check_size("key", key.len(), KV_KEY_BYTES_MAX)?;
        if let Some(entry) = entry {
            check_size("value", entry.value.len(), KV_VALUE_BYTES_MAX)?;
            let metadata = entry.metadata.as_ref().map_or(0, String::len);
            check_size("metadata", metadata, KV_METADATA_BYTES_MAX)?;
        }
        check_rate(&self.entries, now, key, rate_limited)
    }

    /// Remembers for a minute what writes replace, so that a listing can lag.
    pub fn remember(&mut self) {
        self.replaced = Some(VecDeque::new());
    }

    /// A write lands.
    pub fn land(&mut self, now: StoreTime, key: String, entry: Option<KvEntry>) {
        if let Some(replaced) = &mut self.replaced {
            let former = self.entries.get(&key).and_then(|slot| slot.held.clone());
            replaced.push_back((now, key.clone(), former));
            while replaced.front().is_some_and(|(at, ..)| at.0 + KV_CACHED_MS < now.0) {
                replaced.pop_front();
            }
        }
        self.entries.insert(key, Slot { held: entry, written: now });
    }

    /// A read at a place. `cached`: the edge may answer. The flag tells whether the answer is
    /// older than the central store's.
    pub fn get(
        &mut self,
        now: StoreTime,
        place: NodeId,
        key: &str,
        cached: bool,
    ) -> (Option<KvEntry>, bool) {
        let central = self.central(key).cloned();
        let slot = (place, key.to_owned());
        if cached
            && let Some(held) = self.caches.get(&slot)
            && now.0 < held.at.0 + KV_CACHED_MS
        {
            return (held.entry.clone(), held.entry != central);
        }
        self.caches.insert(slot, Cached { entry: central.clone(), at: now });
        (central, false)
    }

    /// A page of the central store's keys.
    pub fn list(&self, prefix: &str, after: Option<&str>, limit: usize) -> KeyPage {
        page(&self.entries, prefix, after, limit, |entry| entry.metadata.clone())
    }

    /// A page as it would have been earlier, at most a minute ago.
    pub fn list_as_of(
        &self,
        then: StoreTime,
        prefix: &str,
        after: Option<&str>,
        limit: usize,
    ) -> KeyPage {
        let mut entries: BTreeMap<String, Slot<KvEntry>> = BTreeMap::new();
        for (key, slot) in &self.entries {
            entries.insert(key.clone(), Slot { held: slot.held.clone(), written: slot.written });
        }
        let replaced = self.replaced.iter().flatten().rev();
        for (_, key, former) in replaced.take_while(|(at, ..)| *at > then) {
            let slot = Slot { held: former.clone(), written: then };
            entries.insert(key.clone(), slot);
        }
        page(&entries, prefix, after, limit, |entry| entry.metadata.clone())
    }

    /// What the central store holds.
    pub fn central(&self, key: &str) -> Option<&KvEntry> {
        self.entries.get(key)?.held.as_ref()
    }
}

/// Bytes of the largest value that an operation writes into one row.
fn largest_value(op: &RowOp) -> usize {
    match op {
        RowOp::Install(install) => install.values().map(Stored::held_bytes).max().unwrap_or(0),
        RowOp::Read { .. }
        | RowOp::Claim { .. }
        | RowOp::Owe { .. }
        | RowOp::Clear { .. }
        | RowOp::Release { .. }
        | RowOp::Forgo { .. }
        | RowOp::Settle { .. }
        | RowOp::Reap { .. } => 0,
    }
}

fn check_rate<T>(
    entries: &BTreeMap<String, Slot<T>>,
    now: StoreTime,
    key: &str,
    rate_limited: bool,
) -> Checked {
    let recent = |slot: &Slot<T>| now.0 < slot.written.0 + SAME_KEY_MS;
    if rate_limited && entries.get(key).is_some_and(recent) {
        return Err(Refusal::new(RefusalKind::RateLimited, "429 Too Many Requests"));
    }
    Ok(())
}

fn page<T>(
    entries: &BTreeMap<String, Slot<T>>,
    prefix: &str,
    after: Option<&str>,
    limit: usize,
    metadata: impl Fn(&T) -> Option<String>,
) -> KeyPage {
    use std::ops::Bound;
    let from = match after {
        Some(after) if after >= prefix => Bound::Excluded(after),
        _ => Bound::Included(prefix),
    };
    let keys: Vec<Listed> = entries
        .range::<str, _>((from, Bound::Unbounded))
        .take_while(|(key, _)| key.starts_with(prefix))
        .filter_map(|(key, slot)| Some((key, slot.held.as_ref()?)))
        .take(limit)
        .map(|(key, value)| Listed { key: key.clone(), metadata: metadata(value) })
        .collect();
    let next = (keys.len() == limit).then(|| keys.last().map(|last| last.key.clone())).flatten();
    KeyPage { keys, next }
}

/// R2.
#[derive(Debug, Default)]
pub struct R2 {
    objects: BTreeMap<String, Slot<Object>>,
    puts: u64,
}

impl R2 {
    /// What is checked when a write arrives.
    pub fn check(
        &self,
        now: StoreTime,
        key: &str,
        metadata: Option<&str>,
        condition: &PutIf,
        deadline: Option<StoreTime>,
        rate_limited: bool,
    ) -> Checked {
        check_deadline(now, deadline)?;
        if key.is_empty() {
            return Err(Refusal::new(RefusalKind::Constraint, "keys cannot be empty"));
        }
        check_size("key", key.len(), R2_KEY_BYTES_MAX)?;
        check_size("metadata", metadata.map_or(0, str::len), R2_METADATA_BYTES_MAX)?;
        if *condition == PutIf::Absent && self.get(key).is_some() {
            let detail =
                "412 At least one of the pre-conditions you specified did not hold (10031)";
            return Err(Refusal::new(RefusalKind::Precondition, detail));
        }
        check_rate(&self.objects, now, key, rate_limited)
    }

    /// A put lands; gives the ETag.
    pub fn land(
        &mut self,
        now: StoreTime,
        key: String,
        body: Bytes,
        metadata: Option<String>,
    ) -> String {
        self.puts += 1;
        let etag = format!("{:08x}", self.puts);
        let held = Some(Object { body, metadata, etag: etag.clone() });
        self.objects.insert(key, Slot { held, written: now });
        etag
    }

    /// A delete lands.
    pub fn delete(&mut self, now: StoreTime, key: String) {
        self.objects.insert(key, Slot { held: None, written: now });
    }

    /// The object.
    pub fn get(&self, key: &str) -> Option<&Object> {
        self.objects.get(key)?.held.as_ref()
    }

    /// A page of keys.
    pub fn list(&self, prefix: &str, after: Option<&str>, limit: usize) -> KeyPage {
        page(&self.objects, prefix, after, limit, |object| object.metadata.clone())
    }
}

fn change(record: &RecordId, row: &Row) -> Change {
    Change {
        record: record.clone(),
        version: row.version.clone(),
        row_seq: row.row_seq,
        foreign: row.has_foreign_write(),
        seq: row.seq,
    }
}

/// A record whose row changed, with the row that was removed, if it was.
pub type Touched = (RecordId, Option<Box<Row>>);

/// A dataset's leaves: their sums, and what each record that a coordinator has written adds to them.
#[derive(Clone, Debug, Default)]
struct Leaves {
    tree: Tree,
    members: BTreeMap<(Leaf, Key), Digest>,
}

/// D1's primary, holding rows.
#[derive(Clone, Debug, Default)]
pub struct D1 {
    rows: BTreeMap<RecordId, Row>,
    losers: BTreeMap<RecordId, Vec<Loser>>,
    /// What was written to records, oldest first, where such values are merged.
    writes: BTreeMap<RecordId, VecDeque<Written>>,
    /// The same in the order in which they were kept: by place in the feed, then as the text of
    /// their dots is ordered.
    conflicts: BTreeMap<(Seq, String), Conflict>,
    /// Writes whose bytes were erased on request.
    erasures: BTreeMap<(RecordId, Dot), (Sibling, Erasure)>,
    leaves: BTreeMap<Arc<str>, Leaves>,
    /// Records whose versions changed since leaves were asked for: few of those that are written are.
    unsummed: BTreeSet<RecordId>,
    feed: BTreeMap<Seq, RecordId>,
    /// Rows with a mark.
    owed: BTreeSet<RecordId>,
    seq: Seq,
    /// Until when deletes of blobs may land that nothing referred to.
    condemned: BTreeMap<ContentHash, StoreTime>,
    /// What is left of reaped tombstones, by dataset.
    floors: BTreeMap<Arc<str>, Floor>,
    no_floor: Floor,
    /// The row that each change replaced, oldest first, where a replica may lag.
    replaced: Option<Vec<(StoreTime, RecordId, Option<Row>)>>,
}

impl D1 {
    /// Remembers the rows that changes replace, so that a replica can lag.
    pub fn remember(&mut self) {
        self.replaced = Some(Vec::new());
    }

    /// Applies a batch, all of it in one transaction. Gives the records whose rows changed.
    pub fn batch(&mut self, now: StoreTime, ops: &[RowOp]) -> (Outcome<BatchAnswer>, Vec<Touched>) {
        // One statement over the limit fails, and the transaction with it.
        let largest = ops.iter().map(largest_value).max().unwrap_or(0);
        if let Err(refusal) = check_size("row", largest, D1_ROW_BYTES_MAX) {
            return (Outcome::Refused(refusal), Vec::new());
        }
        let mut changed = Vec::with_capacity(ops.len());
        let mut answers = Vec::with_capacity(ops.len());
        for op in ops {
            if let RowOp::Install(install) = op
                && let Some(no_blob) = self.blobs_refuse(install, now)
            {
                answers.push(no_blob);
                continue;
            }
            let record = op.record();
            let next_seq = Seq(self.seq.0 + 1);
            let row = self.rows.get_mut(record);
            let floor = self.floors.get(&record.dataset).unwrap_or(&self.no_floor);
            let contexts = match op {
                RowOp::Install(install) if !install.losers.is_empty() => {
                    let before = row.as_deref().and_then(|row| row.version.as_ref());
                    Contexts::noted(before, &install.version)
                }
                _ => None,
            };
            let (after, answer) = row::apply(row.as_deref(), floor, op, now, next_seq);
            let after = match after {
                Changed::Nothing => None,
                Changed::Row(after) => Some(after),
                Changed::Floor(floor) => {
                    self.floors.insert(record.dataset.clone(), floor);
                    None
                }
                Changed::Gone(floor) => {
                    self.floors.insert(record.dataset.clone(), floor);
                    changed.push((record.clone(), Some(Box::new(self.remove(now, record)))));
                    answers.push(answer);
                    continue;
                }
            };
            if let Some(after) = after {
                if after.seq == next_seq {
                    self.seq = next_seq;
                    if let Some(former) = &row {
                        self.feed.remove(&former.seq);
                    }
                    self.feed.insert(next_seq, record.clone());
                }
                let was_owed = row.as_ref().is_some_and(|row| !row.owed.is_empty());
                match (was_owed, !after.owed.is_empty()) {
                    (true, false) => drop(self.owed.remove(record)),
                    (false, true) => drop(self.owed.insert(record.clone())),
                    (false, false) | (true, true) => {}
                }
                if let RowOp::Install(_) = op {
                    self.unsummed.insert(record.clone());
                }
                if let Some(replaced) = &mut self.replaced {
                    replaced.push((now, record.clone(), row.as_deref().cloned()));
                }
                match row {
                    Some(row) => *row = after,
                    None => drop(self.rows.insert(record.clone(), after)),
                }
                changed.push((record.clone(), None));
            }
            if let (RowOp::Install(install), RowAnswer::Installed { .. }) = (op, &answer)
                && !install.writes.is_empty()
            {
                self.keep_writes(record, &install.writes);
            }
            if let (RowOp::Install(install), RowAnswer::Installed { .. }) = (op, &answer)
                && !install.losers.is_empty()
            {
                let kept = self.losers.entry(record.clone()).or_default();
                for loser in &install.losers {
                    if kept.iter().any(|k| k.sibling.dot == loser.sibling.dot) {
                        continue;
                    }
                    let at = (record.clone(), loser.sibling.dot);
                    if let Stored::Erased(erasure) = &loser.value {
                        let erased = || (loser.sibling, (**erasure).clone());
                        self.erasures.entry(at.clone()).or_insert_with(erased);
                        if let Some(writes) = self.writes.get_mut(record) {
                            writes.retain(|written| written.sibling.dot != loser.sibling.dot);
                        }
                    }
                    let erased = self.erasures.get(&at).map(|(_, erasure)| erasure.clone());
                    let mut loser = loser.clone();
                    if let Some(erasure) = &erased {
                        loser.value = Stored::Erased(Box::new(erasure.clone()));
                    }
                    kept.push(loser.clone());
                    let won = *install.version.current();
                    let conflict = Conflict {
                        record: record.clone(),
                        seq: next_seq,
                        at: now,
                        lost: loser.sibling,
                        winner: loser.winner,
                        won: (won.dot == loser.winner).then_some(won),
                        by: install.by.by.clone(),
                        why: install.by.why.clone(),
                        contexts: contexts.clone(),
                        erased,
                    };
                    self.conflicts.insert((next_seq, loser.sibling.dot.to_text()), conflict);
                }
            }
            answers.push(answer);
        }
        (Outcome::Applied(BatchAnswer { now, answers }), changed)
    }

    /// Every blob is there, and stays, to which an install refers.
    /// Why an install may not refer to its blobs; `None`: it may.
    fn blobs_refuse(&self, install: &Install, now: StoreTime) -> Option<RowAnswer> {
        install.blobs().find_map(|blob| {
            let until = self.condemned.get(&blob).copied();
            let may = self.is_referred_to(blob) || install.blobs_seen.let_refer(blob, until, now);
            (!may).then_some(RowAnswer::NoBlob { until })
        })
    }

    fn is_referred_to(&self, blob: ContentHash) -> bool {
        let in_rows = self.rows.values().filter_map(|row| row.value.as_ref());
        let kept = self.losers.values().flatten().map(|loser| &loser.value);
        in_rows.chain(kept).any(|value| value.blob() == Some(blob))
    }

    /// Those that nothing refers to.
    pub fn unreferred(&self, blobs: &[ContentHash]) -> Vec<ContentHash> {
        blobs.iter().copied().filter(|blob| !self.is_referred_to(*blob)).collect()
    }

    /// Condemns those of them.
    pub fn condemn(&mut self, now: StoreTime, blobs: &[ContentHash]) -> Vec<Option<Condemned>> {
        self.condemned.retain(|_, until| *until >= blob::forgotten_before(now));
        let each = blobs.iter().map(|blob| {
            let condemned = (!self.is_referred_to(*blob)).then(|| Condemned::at(now));
            if let Some(Condemned { until, .. }) = condemned {
                self.condemned.insert(*blob, until);
            }
            condemned
        });
        each.collect()
    }

    /// Erases the bytes of writes to a record: all of it, or nothing.
    pub fn erase(&mut self, now: StoreTime, erase: &Erase) -> EraseAnswer {
        let Erase { record, writes, by, reason } = erase;
        let version = self.rows.get(record).and_then(|row| row.version.as_ref());
        let standing = erasure::standing(version, writes);
        if !standing.is_empty() {
            return EraseAnswer::Stand(standing);
        }
        let new = Erasure { at: now, by: by.clone(), reason: reason.clone() };
        let mut erased: Vec<Sibling> = Vec::new();
        for dot in writes {
            let at = (record.clone(), *dot);
            let kept = self.writes.entry(record.clone()).or_default();
            let written = kept.iter().map(|written| written.sibling);
            let before = self.erasures.get(&at).map(|(sibling, _)| *sibling);
            let losers = self.losers.get_mut(record).map_or(&mut [][..], Vec::as_mut_slice);
            let lost = losers.iter().map(|loser| loser.sibling);
            let mut known: Vec<Sibling> =
                written.chain(before).chain(lost).filter(|known| known.dot == *dot).collect();
            known.dedup();
            let Some(first) = known.first() else { continue };
            let (_, erasure) = self.erasures.entry(at).or_insert((*first, new.clone()));
            kept.retain(|written| written.sibling.dot != *dot);
            for loser in losers.iter_mut().filter(|loser| loser.sibling.dot == *dot) {
                loser.value = Stored::Erased(Box::new(erasure.clone()));
            }
            let conflicts = self.conflicts.values_mut();
            for conflict in conflicts.filter(|c| c.record == *record && c.lost.dot == *dot) {
                conflict.erased = Some(erasure.clone());
            }
            erased.extend(known);
        }
        EraseAnswer::Erased(erased)
    }

    fn keep_writes(&mut self, record: &RecordId, new: &[Written]) {
        let writes = self.writes.entry(record.clone()).or_default();
        for written in new {
            let at = (record.clone(), written.sibling.dot);
            if !self.erasures.contains_key(&at)
                && !writes.iter().any(|kept| kept.sibling.dot == written.sibling.dot)
            {
                writes.push_back(written.clone());
            }
        }
        let older = |writes: &VecDeque<Written>| {
            let older = writes.iter().rev().skip(1);
            older.map(|written| written.value.held_bytes()).sum::<usize>()
        };
        while writes.len() > row::WRITES_MAX || older(writes) > row::WRITE_BYTES_MAX {
            writes.pop_front();
        }
    }

    /// A tombstone is reaped.
    fn remove(&mut self, now: StoreTime, record: &RecordId) -> Row {
        self.writes.remove(record);
        let row = self.rows.remove(record).expect("it was there a moment ago");
        self.feed.remove(&row.seq);
        self.unsummed.insert(record.clone());
        if let Some(replaced) = &mut self.replaced {
            replaced.push((now, record.clone(), Some(row.clone())));
        }
        row
    }

    /// The change feed and the lapsed marks as a replica shows them that is behind the primary.
    pub fn poll_as_of(&self, then: StoreTime, now: StoreTime, poll: Poll) -> PollPage {
        let (rows, floors) = (self.rows.clone(), self.floors.clone());
        let mut replica = D1 { rows, floors, seq: self.seq, ..D1::default() };
        let replaced = self.replaced.iter().flatten().rev();
        for (_, record, former) in replaced.take_while(|(at, ..)| *at > then) {
            match former {
                Some(row) => drop(replica.rows.insert(record.clone(), row.clone())),
                None => drop(replica.rows.remove(record)),
            }
        }
        for (record, row) in &replica.rows {
            replica.feed.insert(row.seq, record.clone());
            if !row.owed.is_empty() {
                replica.owed.insert(record.clone());
            }
        }
        replica.poll(now, poll)
    }

    /// The change feed and the lapsed marks.
    pub fn poll(&self, now: StoreTime, poll: Poll) -> PollPage {
        use std::ops::Bound;
        let mut later = self.feed.range((Bound::Excluded(poll.after), Bound::Unbounded));
        let changes: Vec<Change> = later
            .by_ref()
            .take(poll.limit)
            .map(|(_, record)| change(record, &self.rows[record]))
            .collect();
        let complete = later.next().is_none();
        let (mut lapsed, mut next_lapse) = (Vec::new(), None);
        for record in &self.owed {
            let owed = &self.rows[record].owed;
            let left = poll.limit - lapsed.len();
            let here = owed.iter().filter(|(_, leases)| row::lapsed(leases, poll.actor, now));
            lapsed.extend(here.take(left).map(|(store, _)| (record.clone(), *store)));
            let end = row::first_end(owed).filter(|at| *at > now);
            next_lapse = [next_lapse, end].into_iter().flatten().min();
        }
        let reaped = self.floors.iter().filter(|(_, floor)| floor.row_seq > 0);
        let reaped = reaped.map(|(dataset, floor)| (dataset.clone(), floor.stamp)).collect();
        PollPage { now, changes, complete, head: self.seq, reaped, lapsed, next_lapse }
    }

    /// Somebody writes to a row past every coordinator, as D1's triggers see it.
    pub fn write_foreign(&mut self, now: StoreTime, record: &RecordId, value: Stored) {
        self.seq = Seq(self.seq.0 + 1);
        if let Some(replaced) = &mut self.replaced {
            replaced.push((now, record.clone(), self.rows.get(record).cloned()));
        }
        let begins_at = self.floors.get(&record.dataset).map_or(0, |floor| floor.row_seq);
        let anew = || Row { row_seq: begins_at, ..Row::default() };
        let row = self.rows.entry(record.clone()).or_insert_with(anew);
        self.feed.remove(&row.seq);
        row.value = Some(value);
        row.row_seq += 1;
        row.foreign_at = now;
        row.seq = self.seq;
        self.feed.insert(self.seq, record.clone());
    }

    /// Brings the leaves up to date.
    fn sum(&mut self) {
        for record in std::mem::take(&mut self.unsummed) {
            let RecordId { dataset, key } = &record;
            let place = (Leaf::of(key), key.clone());
            let after = self.rows.get(&record).and_then(|row| row.digest(key));
            let Leaves { tree, members } = self.leaves.entry(dataset.clone()).or_default();
            let leaf = place.0;
            let before = match after {
                Some(after) => members.insert(place, after),
                None => members.remove(&place),
            };
            tree.update(leaf, before, after);
        }
    }

    /// A page of a dataset's leaves.
    pub fn leaves(
        &mut self,
        dataset: &str,
        after: Option<Leaf>,
        limit: usize,
    ) -> Vec<(Leaf, Sums)> {
        self.sum();
        let leaves = self.leaves.get(dataset).into_iter().flat_map(|leaves| leaves.tree.leaves());
        leaves.filter(|(leaf, _)| after.is_none_or(|after| *leaf > after)).take(limit).collect()
    }

    /// A page of a leaf's rows.
    pub fn leaf_rows(
        &mut self,
        dataset: &str,
        leaf: Leaf,
        after: Option<&str>,
        limit: usize,
    ) -> Vec<Change> {
        self.sum();
        let Some((dataset, leaves)) = self.leaves.get_key_value(dataset) else { return Vec::new() };
        let from = match after {
            Some(after) => Bound::Excluded((leaf, Key::from(after))),
            None => Bound::Included((leaf, Key::from(""))),
        };
        let later = leaves.members.range((from, Bound::Unbounded));
        let of_leaf = later.take_while(|((of, _), _)| *of == leaf).take(limit);
        let changes = of_leaf.map(|((_, key), _)| {
            let record = RecordId { dataset: dataset.clone(), key: key.clone() };
            change(&record, &self.rows[&record])
        });
        changes.collect()
    }

    /// Everything that is held of a record.
    pub fn history(&self, record: &RecordId) -> RowHistory {
        let losers = self.losers.get(record).cloned().unwrap_or_default();
        let writes = self.writes.get(record).into_iter().flatten().cloned().collect();
        let floor = self.floors.get(&record.dataset).unwrap_or(&self.no_floor);
        let row = self.rows.get(record).cloned().or_else(|| Row::absent(floor));
        RowHistory { row, losers, writes }
    }

    /// Conflicts in the order that is asked for.
    pub fn conflicts(&self, query: &ConflictQuery) -> Vec<Conflict> {
        let placed = |place: &Place| Bound::Excluded((place.seq, place.lost.to_text()));
        let edge = |place: &Option<Place>| place.as_ref().map_or(Bound::Unbounded, placed);
        let all = &self.conflicts;
        let asked: Box<dyn Iterator<Item = &Conflict>> = match &query.which {
            Which::After(place) => {
                Box::new(all.range((edge(place), Bound::Unbounded)).map(|(_, conflict)| conflict))
            }
            Which::Before(place) => {
                let before = all.range((Bound::Unbounded, edge(place)));
                Box::new(before.rev().map(|(_, conflict)| conflict))
            }
            Which::Lost(dot) => Box::new(all.values().filter(|c| c.lost.dot == *dot)),
        };
        let of = |conflict: &&Conflict| {
            query.dataset.as_ref().is_none_or(|dataset| conflict.record.dataset == *dataset)
        };
        asked.filter(of).take(query.limit).cloned().collect()
    }

    /// Every conflict that was settled, in the order of the feed.
    pub fn settled(&self) -> impl DoubleEndedIterator<Item = &Conflict> {
        self.conflicts.values()
    }

    /// All rows.
    pub fn rows(&self) -> &BTreeMap<RecordId, Row> {
        &self.rows
    }

    /// All rows, for deliberately wrong doubles.
    pub fn rows_mut(&mut self) -> &mut BTreeMap<RecordId, Row> {
        &mut self.rows
    }

    /// The values that lost.
    pub fn losers(&self) -> &BTreeMap<RecordId, Vec<Loser>> {
        &self.losers
    }

    /// What merges start from.
    pub fn writes(&self) -> &BTreeMap<RecordId, VecDeque<Written>> {
        &self.writes
    }

    /// The values that lost, for deliberately wrong doubles.
    pub fn losers_mut(&mut self) -> &mut BTreeMap<RecordId, Vec<Loser>> {
        &mut self.losers
    }
}
