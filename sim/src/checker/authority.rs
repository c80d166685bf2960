//! What each site's authority holds, and how that changes.

use super::{
    Awaited, Checker, Copy, Invariant, Law, PROJECTIONS, Projection, Told, at, covers,
    foreign_writes, note_wait,
};
use bytes::Bytes;
use std::collections::{BTreeMap, BTreeSet};
use tidelock_engine::record::{Loser, RecordId};
use tidelock_engine::row::Row;
use tidelock_engine::version::{ContentHash, Dot, NodeId, Sibling, SiteId, Version, VersionVector};

#[derive(Debug, Default)]
pub(super) struct Observed {
    pub(super) history: VersionVector,
    pub(super) history_text: String,
    pub(super) version: Option<Version>,
    pub(super) current: Option<Dot>,
    pub(super) hash: Option<ContentHash>,
    pub(super) deleted: bool,
    /// Dots that were current and are no more.
    pub(super) left: BTreeSet<Dot>,
    /// What the deletes that were current had seen.
    pub(super) buried: VersionVector,
    /// What tombstones had seen that were reaped.
    pub(super) reaped: VersionVector,
    /// Whose writes they were.
    pub(super) graves: Vec<Dot>,
    pub(super) projections: [Projection; 2],
    /// The last copy that was read, with what it was read from.
    pub(super) read: Option<(Bytes, String, Copy)>,
}

impl Observed {
    /// Reads what stands in a projection. Both get the same, nearly always.
    pub(super) fn read(&mut self, body: &Bytes, metadata: Option<&str>) -> Copy {
        if let (Some((bytes, text, copy)), Some(metadata)) = (&self.read, metadata)
            && text == metadata
            && bytes == body
        {
            return copy.clone();
        }
        // Bytes without metadata of ours count as a copy that differs.
        let copy = Copy::read(body, metadata).unwrap_or_else(Copy::unknown);
        self.read = metadata.map(|metadata| (body.clone(), metadata.to_owned(), copy.clone()));
        copy
    }

    /// The authority's version includes a write, or a tombstone did that was reaped.
    pub(super) fn has_seen(&self, dot: Dot) -> bool {
        covers(&self.history, dot) || covers(&self.reaped, dot)
    }
}

pub(super) fn is_reaped(rows: &BTreeMap<RecordId, Observed>, record: &RecordId, dot: Dot) -> bool {
    rows.get(record).is_some_and(|row| covers(&row.reaped, dot))
}

impl Checker {
    /// The authority's row of a record changed.
    pub fn row_changed(
        &mut self,
        at_ms: u64,
        site: SiteId,
        record: &RecordId,
        row: &Row,
        losers: &[Loser],
    ) {
        let Some(version) = &row.version else { return };
        if !row.has_foreign_write()
            && !self.foreign.is_empty()
            && let Some(id) = self.foreign.remove(&(site, record.clone()))
        {
            let before = self.row(site, record).map_or(0, |row| foreign_writes(&row.history));
            let taken_in = foreign_writes(&version.history) > before;
            self.hold(Invariant::ZeroLoss, at_ms, taken_in, || {
                format!("w{id} of {record}, written past us, was overwritten by one that had not seen it")
            });
        }
        let observed = self.row_entry(site, record);
        let cleared = PROJECTIONS.map(|store| {
            let owed = row.owed.contains_key(&store);
            std::mem::replace(&mut observed.projections[at(store)].owed, owed) && !owed
        });
        if observed.current.is_none() || observed.history != version.history {
            let reaped = observed.reaped.clone();
            let before = (observed.history.clone(), observed.current, reaped);
            self.causality_holds(at_ms, record, before, version, losers);
            self.version_changed(at_ms, site, record, version);
            self.set_of_row_holds(at_ms, record, row, version);
        } else if observed.hash != Some(version.current().hash) {
            let before = self.row(site, record).and_then(|row| row.version.as_ref());
            if self.is_settled_again(before, version) {
                self.settled_again(at_ms, site, record, version);
                self.set_of_row_holds(at_ms, record, row, version);
            } else {
                self.expired(at_ms, site, record, version);
            }
        }
        for store in PROJECTIONS.into_iter().filter(|store| cleared[at(*store)]) {
            let row = self.row(site, record).expect("entered above");
            let differs = row.projections[at(store)].unequal_since_ms.is_some();
            self.hold(Invariant::Convergence, at_ms, !differs, || {
                format!("the mark of {record} at {store} was cleared while the copy differs")
            });
        }
    }

    fn set_of_row_holds(&mut self, at_ms: u64, record: &RecordId, row: &Row, version: &Version) {
        if let Some(law) = self.law(record)
            && !row.has_foreign_write()
        {
            let reaped = self.sites().filter_map(|site| self.row(site, record));
            let reaped = reaped.fold(VersionVector::new(), |all, row| all.join(&row.reaped));
            self.set_holds(at_ms, record, law, version, &reaped, row.value.as_ref());
        }
    }

    /// True for a set that was settled before, with less at hand, or with values that an authority does not take.
    fn is_settled_again(&self, before: Option<&Version>, version: &Version) -> bool {
        let Some(before) = before.filter(|before| before.is_apart()) else { return false };
        let stays = |dot: &Dot| version.siblings().iter().any(|sibling| sibling.dot == *dot);
        let values = before.siblings().iter().map(|sibling| sibling.dot);
        let left_out: Vec<Dot> = values.filter(|dot| !stays(dot)).collect();
        match left_out[..] {
            [] => version.is_apart(),
            _ => left_out.iter().all(|dot| self.is_passed_over(*dot)),
        }
    }

    /// A site had settled a set with less at hand than another, and takes over what that made of it.
    fn settled_again(&mut self, at_ms: u64, site: SiteId, record: &RecordId, version: &Version) {
        if version.chosen().is_none() {
            self.made.insert((version.current().hash, record.clone()));
        }
        let observed = self.row_entry(site, record);
        observed.version = Some(version.clone());
        observed.hash = Some(version.current().hash);
        observed.deleted = version.current().deleted;
        observed.current = Some(version.current().dot);
        self.start_anew(at_ms, site, record);
    }

    /// The authority's row of a record is gone: a tombstone, long done with. Nothing of it may come
    /// back, nobody may owe it to anything, and no acknowledged write may wait for it.
    pub fn row_reaped(&mut self, at_ms: u64, site: SiteId, record: &RecordId) {
        let observed = self.row_entry(site, record);
        let done =
            observed.deleted && observed.projections.iter().all(|projection| !projection.owed);
        let history = std::mem::take(&mut observed.history);
        observed.reaped = observed.reaped.join(&history);
        observed.history_text.clear();
        observed.graves.extend(observed.current.take());
        (observed.version, observed.hash, observed.deleted) = (None, None, false);
        self.hold(Invariant::NoResurrection, at_ms, done, || {
            format!("the row of {record} was reaped while it was needed")
        });
        // Whoever has not got the delete by now never will.
        let lost = self.sites().find(|other| {
            !self
                .row(*other, record)
                .is_some_and(|row| row.history.covers(&history) || row.reaped.covers(&history))
        });
        self.hold(Invariant::NoResurrection, at_ms, lost.is_none(), || {
            format!("the row of {record} was reaped at {site} before every site had its delete")
        });
        self.compare(at_ms, site, record);
    }

    /// The authority's version becomes another one: whatever it newly includes was known to the
    /// writer of what is shown, or to that of a loser that is kept.
    pub(super) fn causality_holds(
        &mut self,
        at_ms: u64,
        record: &RecordId,
        before: (VersionVector, Option<Dot>, VersionVector),
        version: &Version,
        losers: &[Loser],
    ) {
        let (before, former, reaped) = before;
        let current = version.current().dot;
        let shown = self.issued.get(&current).map(|issued| &issued.history);
        let unseen = shown.and_then(|seen| {
            let dots = seen.iter().map(|(actor, counter)| Dot { actor: *actor, counter: *counter });
            dots.into_iter().find(|dot| !covers(&version.history, *dot))
        });
        let newly = version.history.iter().flat_map(|(actor, counter)| {
            let from = before.counter(*actor).min(*counter);
            let dot = |counter| Dot { actor: *actor, counter };
            let issued = self.issued.range(dot(from + 1)..=dot((*counter).max(from + 1)));
            issued.filter(|(_, issued)| issued.record == *record).map(|(dot, _)| *dot)
        });
        let newly: Vec<Dot> =
            newly.filter(|dot| covers(&version.history, *dot) && self.took_effect(*dot)).collect();
        // Whether a letter has them is asked at the end.
        let in_letters = newly.iter().copied().filter(|dot| self.is_refused_for_good(*dot));
        let kept: Vec<(Dot, Option<&VersionVector>)> = losers
            .iter()
            .map(|loser| loser.sibling.dot)
            .chain(in_letters)
            .map(|dot| (dot, self.issued.get(&dot).map(|issued| &issued.history)))
            .chain([(current, shown)])
            .collect();
        // A foreign write to the authority replaced whatever stood there, though it may have lost.
        let mut shown_or_kept =
            losers.iter().map(|loser| loser.sibling).chain([*version.current()]);
        let replaces_all = shown_or_kept.any(|sibling| {
            sibling.dot.actor.node == NodeId::FOREIGN && !self.is_found(sibling.hash)
        });
        let graves = self.graves(record);
        let accounted = |dot: Dot| {
            let knew = |history: &Option<&VersionVector>| history.is_some_and(|h| covers(h, dot));
            replaces_all
                || kept.iter().any(|(kept, history)| *kept == dot || knew(history))
                // A delete had superseded it, and was forgotten since.
                || covers(&reaped, dot)
                || graves.contains(&dot)
        };
        let dropped = newly.iter().copied().chain(former).find(|dot| !accounted(*dot));
        self.hold(Invariant::Causality, at_ms, unseen.is_none(), || {
            let dot = unseen.map(|dot| dot.to_string()).unwrap_or_default();
            format!("{record} shows {current} without {dot}, which its writer had seen")
        });
        self.hold(Invariant::Causality, at_ms, dropped.is_none(), || {
            let dot = dropped.map(|dot| dot.to_string()).unwrap_or_default();
            format!("{record} became {current} over {dot}, which it had not seen and nobody keeps")
        });
    }

    /// The deletes of a record that were reaped at some site, where a later write may stand beside what it
    /// had not seen: every site had had them, and one that includes a later write of the same actor forgets
    /// them with it.
    pub(super) fn graves(&self, record: &RecordId) -> Vec<Dot> {
        if self.law(record).is_none() {
            return Vec::new();
        }
        let rows = self.sites().filter_map(|site| self.row(site, record));
        rows.flat_map(|row| row.graves.iter().copied()).collect()
    }

    /// True when bytes are those of a foreign write to a projection.
    pub(super) fn is_found(&self, hash: ContentHash) -> bool {
        let id = self.by_hash.get(&hash);
        id.is_some_and(|id| self.in_projections.contains(id))
    }

    /// True when somebody wrote bytes of this hash to a record.
    pub(super) fn wrote(&self, record: &RecordId, hash: ContentHash) -> bool {
        self.writer(record, hash).is_some() || self.is_made(record, hash)
    }

    /// Whoever wrote bytes of this hash to a record.
    pub(super) fn writer(&self, record: &RecordId, hash: ContentHash) -> Option<u32> {
        let own = self.increased.get(&(record.clone(), hash)).copied();
        own.or_else(|| self.by_hash.get(&hash).copied().filter(|id| self.asked_of(*id, record)))
    }

    /// True when somebody asked for this write, and to this record.
    pub(super) fn asked_of(&self, id: u32, record: &RecordId) -> bool {
        self.asked.get(&id).is_some_and(|asked| asked.record == *record)
    }

    /// True when an authority merged bytes of this hash for a record: what they are to be is held against
    /// the increments that they include.
    fn is_made(&self, record: &RecordId, hash: ContentHash) -> bool {
        self.made.contains(&(hash, record.clone()))
    }

    pub(super) fn version_changed(
        &mut self,
        at_ms: u64,
        site: SiteId,
        record: &RecordId,
        version: &Version,
    ) {
        let sibling = *version.current();
        let dot = sibling.dot;
        // Of a foreign write among several values, what it was found over.
        let over = version.sides().find(|(side, _)| side.dot == dot).map(|(_, over)| over);
        let over = over.unwrap_or(&version.history);
        let saw = || self.issued.get(&dot).map_or(over, |issued| &issued.history);
        let buries = sibling.deleted.then(|| saw().clone());
        let law = self.law(record);
        let observed = self.row_entry(site, record);
        let before = std::mem::replace(&mut observed.history, version.history.clone());
        observed.history_text = version.history.to_text();
        observed.version = Some(version.clone());
        observed.hash = Some(sibling.hash);
        observed.deleted = sibling.deleted;
        let former = observed.current.replace(dot);
        if let Some(former) = former
            && former != dot
        {
            observed.left.insert(former);
        }
        let lww = law.is_none();
        // Of several values another may be shown for a while.
        let again = lww && observed.left.contains(&dot);
        let risen = !sibling.deleted && covers(&observed.buried, dot);
        if let Some(saw) = buries {
            observed.buried = observed.buried.join(&saw);
        }
        let grew =
            before.iter().all(|(actor, counter)| version.history.counter(*actor) >= *counter);
        self.hold(Invariant::MonotonicRepair, at_ms, grew, || {
            format!("the authority's {record} went from {before} to {}", version.history)
        });
        self.hold(Invariant::NoResurrection, at_ms, !risen, || {
            format!("{dot} of {record} was deleted, and is current again")
        });
        self.ends_lawfully(at_ms, record, &sibling);
        let made = law.is_some_and(Law::counts) && version.chosen().is_none();
        if made {
            self.made.insert((sibling.hash, record.clone()));
        }
        let traced = sibling.deleted || self.wrote(record, sibling.hash);
        self.hold(Invariant::NoCorruption, at_ms, traced, || {
            format!("the authority's {record} is {dot}, of bytes that nobody wrote to it")
        });
        self.hold(Invariant::NoPhantom, at_ms, !again, || {
            format!("{dot} of {record} was decided against, and is current again")
        });
        let written = if made { self.issued.get(&dot).map(|issued| issued.hash) } else { None };
        let written = written.unwrap_or(sibling.hash);
        let seen = self.seen_bytes.entry(dot).or_insert_with(|| (record.clone(), written));
        // What is left of a value whose time has passed is the same write.
        let same =
            seen.0 == *record && (seen.1 == sibling.hash || made || sibling.is_expired_form());
        self.hold(Invariant::UniqueDots, at_ms, same, || {
            format!("{dot} names two different writes")
        });
        if dot.actor.node == NodeId::FOREIGN {
            if self.by_hash.get(&sibling.hash).is_some_and(|id| self.in_projections.contains(id)) {
                self.found.insert(dot);
            }
        } else {
            let durable = self.issued.contains_key(&dot);
            self.hold(Invariant::ZeroLoss, at_ms, durable, || {
                format!("{dot} of {record} reached the authority before any journal")
            });
        }
        let refused = self.writer(record, sibling.hash);
        let refused = refused.filter(|id| self.asked[id].told == Told::Refused);
        self.hold(Invariant::NoPhantom, at_ms, refused.is_none(), || {
            format!(
                "w{} of {record} was refused, and is installed now",
                refused.unwrap_or_default()
            )
        });
        let waits = &mut self.tally.waits;
        self.unconfirmed.retain(|(dot, there), (at, since_ms)| {
            let waiting = *there != site || at != record || !covers(&version.history, *dot);
            if !waiting {
                note_wait(waits, *since_ms, at_ms, || Awaited::Write(*there, *dot, at.clone()));
            }
            waiting
        });
        self.start_anew(at_ms, site, record);
    }

    /// A newer version starts the clock anew: what was owed before is owed no more.
    fn start_anew(&mut self, at_ms: u64, site: SiteId, record: &RecordId) {
        let rows = &mut self.rows[usize::from(site.0)];
        let observed = rows.get_mut(record).expect("the caller has seen its row");
        for store in PROJECTIONS {
            let projection = &mut observed.projections[at(store)];
            self.tally.mended(projection);
            self.tally.set(at_ms, projection, true, || Awaited::Copy(site, store, record.clone()));
            projection.poisoned = false;
        }
        self.compare(at_ms, site, record);
    }

    /// Holds every copy of a record against the authority, and the sites against each other.
    fn compare(&mut self, at_ms: u64, site: SiteId, record: &RecordId) {
        let rows = &mut self.rows[usize::from(site.0)];
        let observed = rows.get_mut(record).expect("the caller has seen its row");
        for store in PROJECTIONS {
            self.tally.compare(at_ms, site, record, observed, store);
        }
        if self.rows.len() > 1 {
            self.compare_sites(at_ms, record);
        }
    }

    /// A value that is gone because its time has passed was given one, and it has passed.
    pub(super) fn ends_lawfully(&mut self, at_ms: u64, record: &RecordId, sibling: &Sibling) {
        let lawful = !sibling.is_expired_form() || self.has_expired(at_ms, sibling.dot);
        let until_ms = self.expires.get(&sibling.dot).copied();
        self.hold(Invariant::ZeroLoss, at_ms, lawful, || {
            format!("{} of {record} is gone, and was to stand until {until_ms:?}", sibling.dot)
        });
    }

    /// A row holds the same version in other words: its value is gone, because its time has passed.
    pub(super) fn expired(
        &mut self,
        at_ms: u64,
        site: SiteId,
        record: &RecordId,
        version: &Version,
    ) {
        let observed = self.row_entry(site, record);
        let before = observed.hash.expect("the row had this version");
        let sibling = *version.current();
        let same = observed.current == Some(sibling.dot) && sibling.is_expired_form();
        self.hold(Invariant::ZeroLoss, at_ms, same, || {
            format!("{record} has other bytes than {before:?} under the same history")
        });
        self.ends_lawfully(at_ms, record, &sibling);
        let rows = &mut self.rows[usize::from(site.0)];
        let observed = rows.get_mut(record).expect("entered above");
        observed.version = Some(version.clone());
        observed.hash = Some(sibling.hash);
        observed.deleted = sibling.deleted;
        if let Some(issued) = self.issued.get(&sibling.dot) {
            observed.buried = observed.buried.join(&issued.history);
        }
        self.start_anew(at_ms, site, record);
    }

    /// A site's version changed: are all sites equal? A newer version starts the clock anew; that
    /// each write reaches each site is timed by itself.
    pub(super) fn compare_sites(&mut self, at_ms: u64, record: &RecordId) {
        if let Some(since_ms) = self.apart.remove(record) {
            note_wait(&mut self.tally.waits, since_ms, at_ms, || Awaited::Sites(record.clone()));
        }
        let held = |rows: &BTreeMap<RecordId, Observed>| {
            rows.get(record).map(|row| (row.history.clone(), row.hash, row.deleted))
        };
        let rows: Vec<&BTreeMap<RecordId, Observed>> =
            self.sites().map(|site| &self.rows[usize::from(site.0)]).collect();
        let first = rows.first().copied().map(held);
        // A site may keep a tombstone for longer than another.
        let gone = |rows: &BTreeMap<RecordId, Observed>| {
            rows.get(record).is_none_or(|row| row.current.is_none() || row.deleted)
        };
        let reaped = |rows: &BTreeMap<RecordId, Observed>| {
            rows.get(record).is_some_and(|row| row.current.is_none() && !row.reaped.is_empty())
        };
        let all_gone = rows.iter().copied().any(reaped) && rows.iter().copied().all(gone);
        if !all_gone && rows.iter().any(|rows| Some(held(rows)) != first) {
            self.apart.insert(record.clone(), at_ms);
        }
    }
}
