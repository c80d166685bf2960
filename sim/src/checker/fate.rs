//! What became of every write, at the end.

use super::{Checker, Invariant, Told, covers};
use std::collections::{BTreeMap, BTreeSet};
use tidelock_engine::record::{Loser, RecordId, Stored};
use tidelock_engine::row::Row;
use tidelock_engine::version::{ContentHash, Dot, NodeId, Sibling, SiteId, VersionVector};

/// What became of a write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It is the record's value.
    Current,
    /// A present write knew of it.
    Superseded {
        /// Which.
        by: Dot,
    },
    /// It lost a conflict, and is kept.
    Loser,
    /// It is nowhere.
    Lost,
}

/// The writes whose bytes a record shows at the end.
#[derive(Clone, Debug)]
pub struct Present {
    current: Option<Dot>,
    kept: BTreeSet<Dot>,
    /// Deletes whose tombstones were reaped.
    graves: Vec<Dot>,
    /// `None`: everything.
    superseding: Vec<(Dot, Option<VersionVector>)>,
}

impl Present {
    /// Where a write to the record is.
    pub fn fate(&self, dot: Dot) -> Fate {
        if self.current == Some(dot) {
            return Fate::Current;
        }
        if self.kept.contains(&dot) {
            return Fate::Loser;
        }
        let knew = |history: &Option<VersionVector>| {
            history.as_ref().is_none_or(|history| covers(history, dot))
        };
        if self.graves.contains(&dot) {
            return Fate::Superseded { by: dot };
        }
        let by = self.superseding.iter().find(|(by, history)| *by != dot && knew(history));
        by.map_or(Fate::Lost, |(by, _)| Fate::Superseded { by: *by })
    }
}

/// True when what is kept of a value is what its writer gave; `blob`: its site's R2 holds bytes of this hash
/// under their own name.
pub fn is_readable(value: &Stored, hash: ContentHash, blob: impl Fn(ContentHash) -> bool) -> bool {
    match value {
        Stored::Tombstone => hash == ContentHash::of(&[]),
        // That somebody asked for it is `stays-erased`.
        Stored::Erased(_) => true,
        Stored::Inline(bytes) => ContentHash::of(bytes) == hash,
        Stored::Reference { hash: referred, .. } => *referred == hash && blob(hash),
    }
}

impl Checker {
    /// At the end: what a site's authority holds against everything that was promised. `blob` tells
    /// whether its R2 holds bytes of a hash under their own name.
    pub fn finish_site(
        &mut self,
        at_ms: u64,
        site: SiteId,
        rows: &BTreeMap<RecordId, Row>,
        losers: &BTreeMap<RecordId, Vec<Loser>>,
        blob: impl Fn(ContentHash) -> bool,
    ) {
        let marked: Vec<String> = rows
            .iter()
            .flat_map(|(record, row)| {
                let owed = row.owed.keys().filter(|store| !self.is_refused(site, record, **store));
                owed.map(move |store| (record, *store))
            })
            .filter(|(_, store)| !self.tally.outside.contains(store))
            .map(|(record, store)| format!("{record} at {store}"))
            .take(5)
            .collect();
        self.hold(Invariant::Convergence, at_ms, marked.is_empty(), || {
            format!("still marked as owed: {}", marked.join(", "))
        });
        let wrong = rows.iter().find(|(_, row)| match (&row.version, &row.value) {
            (Some(version), Some(Stored::Inline(bytes))) if !row.has_foreign_write() => {
                ContentHash::of(bytes) != version.current().hash
            }
            _ => false,
        });
        self.hold(Invariant::NoCorruption, at_ms, wrong.is_none(), || {
            let record = wrong.map(|(record, _)| record.to_string()).unwrap_or_default();
            format!("the authority's {record} holds other bytes than its version names")
        });
        let readable = |value: &Stored, hash| is_readable(value, hash, &blob);
        let present = self.present(site, rows, losers, &readable);
        let mut lost = Vec::new();
        let mut kept = 0;
        for (id, asked) in &self.asked {
            let Told::Acknowledged(dot) = asked.told else { continue };
            match present.get(&asked.record).map_or(Fate::Lost, |present| present.fate(dot)) {
                Fate::Lost if self.is_kept_in_a_journal(dot, asked.hash) => kept += 1,
                Fate::Lost if self.is_excusable(dot) => drop(self.excused.insert(dot)),
                Fate::Lost => lost.push((*id, asked.record.clone(), dot)),
                Fate::Current | Fate::Superseded { .. } | Fate::Loser => kept += 1,
            }
        }
        self.checked[Invariant::ZeroLoss as usize] += kept;
        for (id, record, dot) in lost {
            let message =
                format!("w{id} ({record}, {dot}) was acknowledged, and is nowhere at {site}");
            self.report(Invariant::ZeroLoss, at_ms, message);
        }
    }

    /// What every record shows at the end, and what that supersedes.
    pub fn present(
        &self,
        site: SiteId,
        rows: &BTreeMap<RecordId, Row>,
        losers: &BTreeMap<RecordId, Vec<Loser>>,
        readable: &impl Fn(&Stored, ContentHash) -> bool,
    ) -> BTreeMap<RecordId, Present> {
        let mut issued: BTreeMap<&RecordId, Vec<(Dot, &VersionVector)>> = BTreeMap::new();
        for (dot, write) in &self.issued {
            issued.entry(&write.record).or_default().push((*dot, &write.history));
        }
        let observed = &self.rows[usize::from(site.0)];
        // Nothing is left to be read of a value whose time has passed; see `ends_lawfully`.
        let ended = |sibling: &Sibling| {
            sibling.is_expired_form() && self.expires.contains_key(&sibling.dot)
        };
        let of = |record: &RecordId, row: Option<&Row>| {
            let current = row.and_then(|row| row.version.as_ref().zip(row.value.as_ref()));
            let current = current.and_then(|(version, value)| {
                let sibling = *version.current();
                (readable(value, sibling.hash) || ended(&sibling)).then_some(sibling.dot)
            });
            let kept = losers.get(record).into_iter().flatten();
            let kept: BTreeSet<Dot> = kept
                .filter(|l| readable(&l.value, l.sibling.hash) || ended(&l.sibling))
                .map(|loser| loser.sibling.dot)
                .collect();
            let issued = issued.get(record).map_or(&[][..], Vec::as_slice);
            let mut graves = observed.get(record).map_or(&[][..], |row| &row.graves).to_vec();
            graves.extend(self.graves(record));
            let letters =
                issued.iter().map(|(dot, _)| *dot).filter(|dot| self.is_in_a_letter(*dot));
            let present = current.into_iter().chain(kept.iter().copied());
            let present: BTreeSet<Dot> =
                present.chain(graves.iter().copied()).chain(letters).collect();
            let superseding = superseding(present, issued, &self.found);
            Present { superseding, current, kept, graves }
        };
        let records: BTreeSet<&RecordId> = rows.keys().chain(observed.keys()).collect();
        records.into_iter().map(|record| (record.clone(), of(record, rows.get(record)))).collect()
    }
}

/// The writes of a record that are present, or superseded by one that is; each with what it knew
/// when it got its dot. What a merge added to a history later does not count.
fn superseding(
    present: BTreeSet<Dot>,
    issued: &[(Dot, &VersionVector)],
    found: &BTreeSet<Dot>,
) -> Vec<(Dot, Option<VersionVector>)> {
    let mut waiting: Vec<Dot> = present.iter().copied().collect();
    let mut reached = present;
    let mut superseding = Vec::new();
    while let Some(by) = waiting.pop() {
        let Ok(found) = issued.binary_search_by_key(&by, |(dot, _)| *dot) else {
            // A foreign write to the authority replaced whatever it held.
            if by.actor.node == NodeId::FOREIGN && !found.contains(&by) {
                superseding.push((by, None));
            }
            continue;
        };
        let history = issued[found].1;
        let covered = issued.iter().map(|(dot, _)| *dot).filter(|dot| covers(history, *dot));
        waiting.extend(covered.filter(|dot| reached.insert(*dot)));
        superseding.push((by, Some(history.clone())));
    }
    superseding
}
