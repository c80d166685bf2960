//! Several values of one record that nobody has superseded: what is needed to settle them, and what a
//! reader gets of them.
//!
//! Invariant: a reader who is given the context of several values is given all of them, or what was
//! made of all of them. Only so may its next write supersede them.

use super::Coordinator;
use super::read::{Own, ReadError};
use crate::conflict::By;
use crate::env::{Env, RowHistory, RowStore, Storage};
use crate::policy::Dataset;
use crate::record::{Loser, RecordId, StoreId, Stored};
use crate::resolve::Held;
use crate::settle::{self, Rules, Values};
use crate::version::{Sibling, Version};
use bytes::Bytes;

/// One of several values.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Beside {
    /// The write.
    pub sibling: Sibling,
    /// Its bytes; `None`: it deletes.
    pub value: Option<Bytes>,
}

impl<E: Env> Coordinator<E> {
    /// Everything that the authority keeps of a record; where its values are merged, with their bytes.
    /// `None`: not now.
    pub(super) async fn gather(&self, dataset: &Dataset, record: &RecordId) -> Option<RowHistory> {
        self.not_held(StoreId::D1).ok()?;
        let asked = self.env.storage().d1().histories(vec![record.clone()]);
        let mut history = self.read_from(StoreId::D1, asked).await?.pop()?;
        self.learn_row(record, history.row.as_ref());
        if dataset.conflict.ruling(&record.key).starts_from_base() {
            let row = history.row.as_mut();
            let version = row.as_ref().and_then(|row| row.version.clone());
            let in_set = |sibling: &Sibling| {
                version.as_ref().is_some_and(|version| version.siblings().contains(sibling))
            };
            let losers = history.losers.iter_mut().filter(|loser| in_set(&loser.sibling));
            let values = losers.map(|loser| &mut loser.value);
            for value in values.chain(row.and_then(|row| row.value.as_mut())) {
                if let Stored::Reference { hash, .. } = *value {
                    *value = Stored::Inline(self.blob(hash).await.ok()?);
                }
            }
        }
        Some(history)
    }

    /// What a reader gets where several values may stand beside each other: `ours` are this coordinator's
    /// own writes that the authority may lack, with what lost against them.
    pub(super) async fn read_apart(
        &self,
        dataset: &Dataset,
        record: &RecordId,
        set: &Version,
        ours: Option<Own>,
        theirs: Option<Held>,
    ) -> Result<(Held, Vec<Beside>), ReadError> {
        let away = || ReadError::Unavailable("D1 does not answer; try again".to_owned());
        let RowHistory { losers, mut writes, .. } =
            self.gather(dataset, record).await.ok_or_else(away)?;
        let rules = Rules::of(dataset, record);
        let mut values = Values::default();
        let mut all: Vec<Loser> = Vec::new();
        for held in ours.iter().map(|own| &own.held).chain(&theirs) {
            values.note_shown(set, held);
            let (sibling, value) = (*held.version.current(), held.value.clone());
            all.push(Loser { winner: sibling.dot, sibling, value });
        }
        if let Some(Own { losers, writes: mine, .. }) = ours {
            all.extend(losers);
            writes.extend(mine);
        }
        all.extend(losers);
        all.iter().for_each(|loser| values.note(set, &loser.sibling, &loser.value));
        let settled = settle::settle(rules, set, &values, &writes).ok_or_else(away)?;
        let mut beside = Vec::new();
        let undecided = match settled.by {
            By::KeepSiblings => true,
            By::RuleFellBack(_) => rules.ruling.may_show_siblings(),
            By::Lww
            | By::PreferStore
            | By::DeleteWins
            | By::EditWins
            | By::MergeThreeWay
            | By::MergeTwoWay
            | By::MergeFellBack
            | By::Rule(_) => false,
        };
        if undecided && set.is_apart() {
            for sibling in set.siblings() {
                let found = all.iter().find(|loser| loser.sibling == *sibling);
                // A delete has no bytes, and where its tombstone was reaped nothing keeps it.
                let found = found.map(|loser| &loser.value);
                let found = found.or(sibling.deleted.then_some(&Stored::Tombstone));
                let value = match found.ok_or_else(away)? {
                    // What stands is not erased.
                    Stored::Erased(_) => return Err(away()),
                    Stored::Tombstone => None,
                    Stored::Inline(bytes) => Some(bytes.clone()),
                    Stored::Reference { hash, .. } => {
                        Some(self.blob(*hash).await.map_err(|_| away())?)
                    }
                };
                beside.push(Beside { sibling: *sibling, value });
            }
        }
        Ok((settled.held, beside))
    }
}
