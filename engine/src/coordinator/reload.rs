//! Another policy while everything goes on.
//!
//! Invariant: the policy changes in one moment, under the lock of the state, or not at all. Each
//! operation takes the policy once and keeps it to its end; only a write looks again when it gets
//! its dot, since an intent of a dataset that is gone would wait for ever.
//!
//! A projection that is added, or keeps another form, is filled by a look over it. One that is
//! dropped keeps its copies. What was owed to it is forgone: each coordinator lets go of what it was
//! about to put, and whoever meets the mark once its leases have ended takes it away
//! ([`RowOp::Forgo`]).

use super::pass::Filter;
use super::{Coordinator, Settled, State};
use crate::env::{Env, Outcome};
use crate::policy::Policy;
use crate::policy::change::{self, ChangeError, Changes, Holdings, Records};
use crate::record::{RecordId, StoreId};
use crate::row::{RowAnswer, RowOp};
use crate::version::Version;
use std::sync::Arc;

impl<E: Env> Coordinator<E> {
    /// What is kept where, from now on.
    pub fn policy(&self) -> Arc<Policy> {
        self.state().policy.clone()
    }

    /// What [`Coordinator::reload`] would do.
    pub fn compare_policy(&self, policy: &Policy) -> Result<Changes, Vec<ChangeError>> {
        let state = self.state();
        change::compare(&state.policy, policy, |name| state.holdings(name))
    }

    /// Puts another policy in force, whole, or gives every reason why that cannot be.
    pub fn reload(&self, mut policy: Policy) -> Result<Changes, Vec<ChangeError>> {
        let mut state = self.state();
        let changes = change::compare(&state.policy, &policy, |name| state.holdings(name))?;
        change::keep_columns(&state.policy, &mut policy);
        state.policy = Arc::new(policy);
        state.to_fill.retain(|place| !changes.dropped.contains(place));
        state.to_fill.extend(changes.to_fill.iter().cloned());
        // What was approved before was another change.
        let changed = changes.to_fill.iter().map(|place| (place.clone(), Filter::Changed));
        state.filters.extend(changed);
        let State { filters, passes, policy, .. } = &mut *state;
        let kept = |(name, store): &(Arc<str>, StoreId)| {
            let dataset = policy.datasets.get(name);
            dataset.is_some_and(|dataset| dataset.projection(*store).is_some())
        };
        filters.retain(|place, _| kept(place));
        passes.retain(|(dataset, store, _), _| kept(&(dataset.clone(), *store)));
        for (record, slot) in state.slots.iter_mut() {
            slot.owed
                .retain(|store, _| !changes.dropped.contains(&(record.dataset.clone(), *store)));
            // Nobody waits for a store that is no longer kept.
            for mut waiter in std::mem::take(&mut slot.waiters) {
                let dropped = changes.dropped.iter().filter(|(name, _)| *name == record.dataset);
                dropped.for_each(|(_, store)| waiter.missing.remove(*store));
                if waiter.missing.is_empty() {
                    let _ = waiter.done.send(Settled::Held);
                } else {
                    slot.waiters.push(waiter);
                }
            }
        }
        state.counters.reloads += 1;
        drop(state);
        self.wake.reloaded.notify_waiters();
        Ok(changes)
    }

    /// Takes away the mark of a projection that the dataset is not kept in any more. Whatever goes
    /// wrong, the next poll shows the mark again.
    pub(super) async fn forgo(&self, record: &RecordId, store: StoreId) {
        let read = RowOp::Read { record: record.clone() };
        let Outcome::Applied((_, RowAnswer::Read(Some(row)))) = self.row(read).await else {
            return;
        };
        self.learn_row(record, Some(&row));
        let Some(version) = row.version.as_ref().map(Version::id) else { return };
        let op = RowOp::Forgo { record: record.clone(), store, version };
        if let Outcome::Applied((_, RowAnswer::Cleared)) = self.row(op).await {
            self.state().counters.forgone += 1;
        }
    }
}

impl State {
    fn holdings(&self, name: &str) -> Holdings {
        let dataset: Arc<str> = name.into();
        let of = |record: &RecordId| record.dataset == dataset;
        let slots = self.slots.iter().filter(|(record, _)| of(record));
        let owing = |slot: &super::Slot| {
            !slot.intents.is_empty() || !slot.owed.is_empty() || !slot.adoptions.is_empty()
        };
        let kept = self.policy.datasets.get(name);
        let kept = kept.into_iter().flat_map(|dataset| dataset.projections());
        let stores = std::iter::once(StoreId::D1).chain(kept);
        let any = self.ledger.range(&dataset, None, None).next().is_some();
        Holdings {
            records: match (any || slots.clone().next().is_some(), self.ledger.is_complete()) {
                (true, _) => Records::Some,
                (false, true) => Records::None,
                (false, false) => Records::Unknown,
            },
            owed: slots.filter(|(_, slot)| owing(slot)).count(),
            away: stores.filter(|store| !self.admits(*store)).collect(),
        }
    }
}
