//! What operators had erased, and what is kept of it all the same.

use super::{Checker, Invariant};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use tidelock_engine::record::{Loser, RecordId, Stored, Written};
use tidelock_engine::row::Row;
use tidelock_engine::version::{Dot, Sibling, SiteId};

impl Checker {
    /// Somebody is about to have these bytes erased.
    pub fn asks_to_erase(&mut self, record: &RecordId, writes: &BTreeSet<Dot>) {
        self.to_erase.extend(writes.iter().map(|dot| (record.clone(), *dot)));
    }

    /// He was answered that a site has done so.
    pub fn erased(&mut self, site: SiteId, record: &RecordId, erased: &[Sibling]) {
        self.erased.extend(erased.iter().map(|sibling| (site, record.clone(), sibling.dot)));
    }

    /// At the end: what a site's authority keeps of that.
    pub fn stays_erased(
        &mut self,
        at_ms: u64,
        site: SiteId,
        rows: &BTreeMap<RecordId, Row>,
        losers: &BTreeMap<RecordId, Vec<Loser>>,
        writes: &BTreeMap<RecordId, VecDeque<Written>>,
    ) {
        let shown = rows.iter().filter_map(|(record, row)| {
            let (version, value) = (row.version.as_ref()?, row.value.as_ref()?);
            Some((record, version.current().dot, value))
        });
        let lost = losers.iter().flat_map(|(record, losers)| {
            losers.iter().map(move |loser| (record, loser.sibling.dot, &loser.value))
        });
        let written = writes.iter().flat_map(|(record, writes)| {
            writes.iter().map(move |written| (record, written.sibling.dot, &written.value))
        });
        let kept: Vec<(&RecordId, Dot, &Stored)> = shown.chain(lost).chain(written).collect();
        for (record, dot, value) in kept {
            let (holds, what) = match value {
                Stored::Erased(_) => (
                    self.to_erase.contains(&(record.clone(), dot)),
                    "erased, and nobody asked for it",
                ),
                Stored::Inline(_) | Stored::Reference { .. } => {
                    let erased = self.erased.contains(&(site, record.clone(), dot));
                    (!erased, "kept, and was erased")
                }
                Stored::Tombstone => continue,
            };
            self.hold(Invariant::StaysErased, at_ms, holds, || {
                format!("the bytes of {dot} of {record} are {what}, at {site}")
            });
        }
        let standing = rows.values().any(|row| matches!(row.value, Some(Stored::Erased(_))));
        self.hold(Invariant::StaysErased, at_ms, !standing, || {
            format!("a record stands at {site} whose own bytes are erased")
        });
    }
}
