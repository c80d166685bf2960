//! Holding the ledger against the authority, leaf by leaf.
//!
//! ```text
//! D1's leaf sums ── as the ledger's tree says? ──> nothing is read
//!                └─ rows of the leaves that differ ──> news is learned
//!                                                 └──> rows older than what was known: all anew
//! ```
//!
//! The ledger is filled from the change feed. A feed may have missed something, and an authority
//! may be set back to an earlier state, sequences and all; no feed shows that.
//!
//! Invariant: an entry is never newer than the authority (see `ledger`). Where one is, the
//! authority is not the one that the ledger was filled from: the ledger is thrown away and filled
//! anew, and until then every write asks first (rule V1).

use super::Coordinator;
use super::reconcile::PAGE_KEYS;
use crate::env::{Env, Outcome, RowStore, Storage, Unavailable};
use crate::ledger::Known;
use crate::record::{Key, RecordId, StoreId};
use crate::row::{Change, RowAnswer, RowOp};
use crate::tree::Leaf;
use crate::version::Version;
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet};

/// Leaves in one page.
const PAGE_LEAVES: usize = 4_096;
/// Leaves whose rows are read in one go; the next one finds the rest.
const DIFFERING_MAX: usize = 256;
/// Rows in one page.
const PAGE_ROWS: usize = 500;

/// What holding the ledger against the authority took and showed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct LedgerCheck {
    /// Leaf sums that were read.
    pub leaves: usize,
    /// Of these, such as differ.
    pub differing: usize,
    /// Rows that were read for them.
    pub rows: usize,
    /// Of these, news.
    pub news: usize,
    /// The authority has gone back: everything is read anew.
    pub forgotten: bool,
}

impl<E: Env> Coordinator<E> {
    /// Holds what is known of a dataset against the authority's leaf sums.
    pub async fn check_ledger(&self, dataset: &str) -> Result<LedgerCheck, Unavailable> {
        let mut check = LedgerCheck::default();
        let differing = self.differing_leaves(dataset, &mut check).await?;
        if differing.is_empty() {
            return Ok(check);
        }
        // Before the rows are read: whatever they show is no older than this then.
        let mut known = self.members(dataset, &differing);
        let mut gone_back = None;
        for leaf in differing {
            let mut after: Option<Key> = None;
            loop {
                self.not_held(StoreId::D1)?;
                let d1 = self.env.storage().d1();
                let page = d1.leaf_rows(dataset, leaf, after.as_deref(), PAGE_ROWS).await?;
                after = (page.len() == PAGE_ROWS).then(|| page[PAGE_ROWS - 1].record.key.clone());
                check.rows += page.len();
                for change in &page {
                    match compare(known.remove(&change.record.key).as_ref(), change) {
                        Compared::Same => {}
                        Compared::News => {
                            check.news += 1;
                            self.learn_change(change);
                        }
                        Compared::GoneBack => gone_back = Some(change.record.key.clone()),
                    }
                }
                if after.is_none() {
                    break;
                }
            }
        }
        let missing = self.missing(dataset, known, &mut check).await?;
        if let Some(key) = gone_back.or(missing) {
            check.forgotten = true;
            self.forget_ledger(&format!("{dataset}/{key} is older there than it was"));
        }
        self.state().counters.ledger_news += check.news as u64;
        Ok(check)
    }

    /// Rows that were known and are not there. What was reaped says so, by a sequence above the one
    /// that it had; `Some`: the key of one that the authority has never had.
    async fn missing(
        &self,
        dataset: &str,
        known: BTreeMap<Key, Known>,
        check: &mut LedgerCheck,
    ) -> Result<Option<Key>, Unavailable> {
        let missing: Vec<(Key, Known)> =
            known.into_iter().filter(|(_, known)| known.version.is_some()).collect();
        let record = |key: &Key| RecordId { dataset: dataset.into(), key: key.clone() };
        let reads = missing.iter().map(|(key, _)| RowOp::Read { record: record(key) }).collect();
        let answers = self.rows(reads).await;
        for ((key, known), answer) in missing.into_iter().zip(answers) {
            let Outcome::Applied((_, RowAnswer::Read(row))) = answer else {
                return Err(Unavailable(
                    format!("D1 did not give the row of {dataset}/{key}").into(),
                ));
            };
            if row.as_ref().is_none_or(|row| row.row_seq <= known.row_seq) {
                return Ok(Some(key));
            }
            check.news += 1;
            self.learn_row(&record(&key), row.as_deref());
        }
        Ok(None)
    }

    /// The authority is not the one that the ledger was filled from.
    pub(super) fn forget_ledger(&self, found: &str) {
        tracing::error!(
            found,
            "D1 has gone back, as after a restore; what is known of it is read anew. Copies in KV \
             and R2 that are newer are taken in again by the next look over them"
        );
        let mut state = self.state();
        state.ledger.forget();
        state.expiries.clear();
        state.looks.clear();
        state.recents.clear();
        state.complete_from = None;
        state.reaping.authority_went_back();
        for followed in state.sites.values_mut() {
            followed.begin_anew();
        }
        state.counters.ledgers_forgotten += 1;
    }

    async fn differing_leaves(
        &self,
        dataset: &str,
        check: &mut LedgerCheck,
    ) -> Result<BTreeSet<Leaf>, Unavailable> {
        let mut differing = BTreeSet::new();
        let mut after = None;
        loop {
            self.not_held(StoreId::D1)?;
            let page = self.env.storage().d1().leaves(dataset, after, PAGE_LEAVES).await?;
            let through = (page.len() == PAGE_LEAVES).then(|| page[PAGE_LEAVES - 1].0);
            check.leaves += page.len();
            {
                let mut state = self.state();
                state.counters.leaves_compared += page.len() as u64;
                let differ = match state.ledger.tree(dataset) {
                    Some(tree) => tree.differing_within(after, through, page),
                    None => page.into_iter().map(|(leaf, _)| leaf).collect(),
                };
                state.counters.leaves_differing += differ.len() as u64;
                check.differing += differ.len();
                differing.extend(differ.into_iter().take(DIFFERING_MAX - differing.len()));
            }
            if through.is_none() || differing.len() == DIFFERING_MAX {
                return Ok(differing);
            }
            after = through;
        }
    }

    /// What is known of the records of some leaves.
    fn members(&self, dataset: &str, leaves: &BTreeSet<Leaf>) -> BTreeMap<Key, Known> {
        let mut members = BTreeMap::new();
        let mut after: Option<Key> = None;
        loop {
            let state = self.state();
            let (some, last) = state.ledger.members(dataset, leaves, after.as_deref(), PAGE_KEYS);
            drop(state);
            members.extend(some);
            match last {
                Some(last) => after = Some(last),
                None => return members,
            }
        }
    }
}

enum Compared {
    Same,
    News,
    GoneBack,
}

fn compare(known: Option<&Known>, row: &Change) -> Compared {
    let Some(known) = known else { return Compared::News };
    let id = |version: &Option<Version>| version.as_ref().map(Version::id);
    match known.row_seq.cmp(&row.row_seq) {
        std::cmp::Ordering::Less => Compared::News,
        std::cmp::Ordering::Equal if id(&known.version) == id(&row.version) => Compared::Same,
        std::cmp::Ordering::Equal | std::cmp::Ordering::Greater => Compared::GoneBack,
    }
}
