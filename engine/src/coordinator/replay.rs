//! Past conflicts under another policy.
//!
//! ```text
//! D1: who met in each install, newest first ──> their bytes, as far as they are kept ──> settled again
//! ```
//!
//! Invariant: nothing is written. What a conflict would have come to is settled by the very function that
//! settles them, from what their values were written over where that is kept; where a value's bytes are
//! not kept any more, that is said, and nothing is guessed.

use super::Coordinator;
use crate::conflict::{By, Conflict, ConflictQuery, Place, Which};
use crate::env::{Env, RowHistory, Unavailable};
use crate::policy::{Dataset, Policy};
use crate::record::{RecordId, Stored};
use crate::row::StoreTime;
use crate::settle::{self, Rules, Settled, Values};
use crate::version::{Actor, Dot, NodeId, Sibling, Version, VersionVector};
use std::collections::BTreeMap;

/// Conflicts that are asked for at once.
const PAGE: usize = 500;

/// One conflict, and what another policy would have made of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Replayed {
    /// As it was settled: the first of those that lost in it.
    pub conflict: Conflict,
    /// As it would be.
    pub again: Again,
}

/// What another policy makes of a conflict.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Again {
    /// It does not have the dataset.
    NoDataset,
    /// It cannot be told: some of what met is not kept any more.
    Unknown(&'static str),
    /// The same value is shown, by this.
    Same(By),
    /// Another one.
    Other {
        /// What decides.
        by: By,
        /// The write that is shown, or what is made of several under the latest one's name.
        shown: Sibling,
        /// Its bytes; `None`: it is a delete.
        value: Option<bytes::Bytes>,
    },
}

impl<E: Env> Coordinator<E> {
    /// The conflicts that were settled since then, the newest first and `limit` at most, each as `policy`
    /// would settle it.
    pub async fn replay_conflicts(
        &self,
        policy: &Policy,
        since: StoreTime,
        limit: usize,
    ) -> Result<Vec<Replayed>, Unavailable> {
        let mut histories: BTreeMap<RecordId, RowHistory> = BTreeMap::new();
        let mut replayed = Vec::new();
        for group in self.settled_since(since, limit).await? {
            let record = group[0].record.clone();
            if !histories.contains_key(&record) {
                histories.insert(record.clone(), self.history(&record).await?);
            }
            let again = match policy.datasets.get(&record.dataset) {
                None => Again::NoDataset,
                Some(dataset) => self.again(dataset, &group, &histories[&record]).await,
            };
            let conflict = group.into_iter().next().expect("a group has one");
            replayed.push(Replayed { conflict, again });
        }
        Ok(replayed)
    }

    /// Those that lost in one install together, the newest install first.
    async fn settled_since(
        &self,
        since: StoreTime,
        limit: usize,
    ) -> Result<Vec<Vec<Conflict>>, Unavailable> {
        let mut groups: Vec<Vec<Conflict>> = Vec::new();
        let mut before: Option<Place> = None;
        loop {
            let which = Which::Before(before);
            let page = self.conflicts(ConflictQuery { dataset: None, which, limit: PAGE }).await?;
            let last = page.len() < PAGE;
            before = page.last().map(Conflict::place);
            for conflict in page {
                // What has no time was settled before times were noted.
                if conflict.at < since || conflict.at.0 == 0 {
                    return Ok(groups);
                }
                let full = groups.len() == limit;
                match groups.last_mut() {
                    Some(group)
                        if group[0].seq == conflict.seq && group[0].record == conflict.record =>
                    {
                        group.push(conflict);
                    }
                    _ if full => return Ok(groups),
                    _ => groups.push(vec![conflict]),
                }
            }
            if last {
                return Ok(groups);
            }
        }
    }

    async fn again(&self, dataset: &Dataset, group: &[Conflict], history: &RowHistory) -> Again {
        let Some(won) = group[0].won else {
            return Again::Unknown("which value won was not noted");
        };
        let record = &group[0].record;
        let mut met: Vec<Sibling> = group.iter().map(|conflict| conflict.lost).collect();
        // Of what was made of several, all originals have lost.
        if !met.iter().any(|lost| lost.dot == won.dot) {
            met.push(won);
        }
        if met.len() < 2 {
            return Again::Unknown("one value was kept beside what was made of several");
        }
        let set = joined(&met, history);
        let mut values = Values::default();
        for sibling in &met {
            let kept = kept(history, sibling).filter(|_| !sibling.deleted);
            let value = match kept {
                Some(Stored::Reference { hash, .. }) => {
                    self.blob(hash).await.ok().map(Stored::Inline)
                }
                kept => kept,
            };
            match value {
                Some(Stored::Erased(_)) => {
                    return Again::Unknown("the bytes of a value were erased on request");
                }
                Some(value) => values.note(&set, sibling, &value),
                None if sibling.deleted => {}
                None => return Again::Unknown("the bytes of a value are not kept any more"),
            }
        }
        // The columns are read at the start of a server alone.
        let mut dataset = dataset.clone();
        let running = self.policy().datasets.get(&record.dataset).and_then(|own| own.table.clone());
        if let (Some(table), Some(running)) = (&mut dataset.table, running)
            && table.name == running.name
        {
            *table = running;
        }
        let rules = Rules::of(&dataset, record);
        let Some(settled) = settle::settle(rules, &set, &values, &history.writes) else {
            return Again::Unknown("the bytes of all values are not kept any more");
        };
        let Settled { held, by, .. } = settled;
        let shown = *held.version.current();
        if (shown.hash, shown.deleted) == (won.hash, won.deleted) {
            return Again::Same(by);
        }
        let value = match held.value {
            Stored::Inline(bytes) => Some(bytes),
            Stored::Tombstone | Stored::Reference { .. } | Stored::Erased(_) => None,
        };
        Again::Other { by, shown, value }
    }
}

/// What met, each over what its writer had read. Where that is not known of all of them they have a
/// history in common that nobody keeps, so that no base is made up.
fn joined(met: &[Sibling], history: &RowHistory) -> Version {
    let writes = &history.writes;
    let over = |sibling: &Sibling| {
        let written = writes.iter().find(|written| written.sibling.dot == sibling.dot);
        written.map(|written| written.over.clone())
    };
    let known: Option<Vec<VersionVector>> = met.iter().map(over).collect();
    let known = known.unwrap_or_else(|| {
        let nobody = Actor { node: NodeId::FOREIGN, incarnation: 0 };
        let mut unknown = VersionVector::new();
        unknown.include(Dot { actor: nobody, counter: 1 });
        vec![unknown; met.len()]
    });
    // They met, so none had read another: also where one coordinator wrote several.
    let mut each = met.iter().zip(&known);
    let (first, over) = each.next().expect("two met");
    each.fold(Version::write(over, *first), |all, (sibling, over)| {
        Version::write_beside(&all, over, *sibling)
    })
}

/// The bytes of a write, wherever D1 has them.
fn kept(history: &RowHistory, sibling: &Sibling) -> Option<Stored> {
    let is = |other: &Sibling| (other.dot, other.hash) == (sibling.dot, sibling.hash);
    let losers = history.losers.iter().map(|loser| (&loser.sibling, &loser.value));
    let writes = history.writes.iter().map(|written| (&written.sibling, &written.value));
    let row = history
        .row
        .as_ref()
        .and_then(|row| Some((row.version.as_ref()?.current(), row.value.as_ref()?)));
    let mut all = losers.chain(writes).chain(row);
    all.find(|(other, _)| is(other)).map(|(_, value)| value.clone())
}
