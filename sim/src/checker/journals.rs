//! What coordinators' journals hold, and what of it their disks lose.

use super::{Checker, Invariant, Observed, PROJECTIONS, Told, at};
use crate::world::EPOCH_MS;
use std::collections::BTreeSet;
use tidelock_engine::journal::Intent;
use tidelock_engine::record::{RecordId, StoreId};
use tidelock_engine::version::{ContentHash, Dot, NodeId, Stamp, VersionVector};

/// What an intent said when it became durable.
#[derive(Clone, Debug)]
pub(super) struct Issued {
    pub(super) record: RecordId,
    pub(super) hash: ContentHash,
    /// What its writer had seen. Without a context that is all that its coordinator knew.
    pub(super) history: VersionVector,
    pub(super) stamp: Stamp,
    pub(super) deleted: bool,
}

impl Checker {
    /// These stand in a coordinator's journal at the end.
    pub fn stands_in_a_journal(&mut self, node: NodeId, dots: impl Iterator<Item = Dot>) {
        let away = self.outside.contains(&node);
        self.in_journals.extend(dots.map(|dot| (dot, away)));
    }

    /// True for what the journal of a coordinator that never comes back holds as it had promised,
    /// or any holds that the authority refuses for good.
    pub(super) fn is_kept_in_a_journal(&self, dot: Dot, hash: Option<ContentHash>) -> bool {
        let kept = |away| self.in_journals.contains(&(dot, away));
        kept(true) || (kept(false) && self.is_poison(hash))
    }

    /// True for what a dead letter keeps at the end, since the authority takes it nowhere. What it was written
    /// over is superseded by it all the same.
    pub(super) fn is_in_a_letter(&self, dot: Dot) -> bool {
        self.in_journals.contains(&(dot, false)) && self.is_refused_for_good(dot)
    }

    /// True for a write whose bytes the authority refuses for good.
    pub(super) fn is_refused_for_good(&self, dot: Dot) -> bool {
        self.issued.get(&dot).is_some_and(|issued| self.is_poison(Some(issued.hash)))
    }

    /// True for a write that may have lost against any other: an authority would not show it.
    pub(super) fn is_passed_over(&self, dot: Dot) -> bool {
        self.unshown.contains(&dot) || self.is_refused_for_good(dot)
    }

    /// A coordinator's disk no longer has an intent that it had.
    pub fn lost_with_disk(&mut self, intent: &Intent) {
        let dot = intent.dot();
        let holds = |row: &Observed| row.has_seen(dot);
        if !self.sites().any(|site| self.row(site, &intent.record).is_some_and(holds)) {
            self.lost_with_disk.insert(dot);
            if self.local.contains(&dot) {
                self.unconfirmed.retain(|(waits, _), _| *waits != dot);
            }
        }
    }

    /// What a journal held that is not to be replayed: a disk lost it before the authority had it.
    pub fn is_gone(&self, dot: Dot) -> bool {
        self.lost_with_disk.contains(&dot)
    }

    pub(super) fn is_excusable(&self, dot: Dot) -> bool {
        self.local.contains(&dot) && self.lost_with_disk.contains(&dot)
    }

    /// Acknowledged writes that were lost and may be: their promise did not cover it.
    pub fn excused(&self) -> u64 {
        self.excused.len() as u64
    }

    /// A coordinator sends a version of its own towards the authority.
    pub fn leaves(&mut self, at_ms: u64, record: &RecordId, dot: Dot) {
        let durable = self.issued.contains_key(&dot);
        self.hold(Invariant::ZeroLoss, at_ms, durable, || {
            format!("{dot} of {record} left its coordinator before any journal had it")
        });
    }

    /// An intent became durable.
    pub fn journalled(&mut self, at_ms: u64, intent: &Intent) {
        let sibling = intent.version.current();
        let dot = sibling.dot;
        if intent.only_over.is_some() {
            self.conditional.insert(dot);
        }
        let issued = Issued {
            record: intent.record.clone(),
            hash: sibling.hash,
            history: match intent.version.sides().find(|(side, _)| side.dot == dot) {
                Some((_, over)) => over.clone(),
                None => intent.version.history.clone(),
            },
            stamp: sibling.stamp,
            deleted: sibling.deleted,
        };
        let before = self.issued.get(&dot);
        let same = before.is_none_or(|b| b.record == issued.record && b.hash == issued.hash);
        self.hold(Invariant::UniqueDots, at_ms, same, || {
            format!(
                "{dot} was issued for {} and again for other bytes or another record",
                issued.record
            )
        });
        self.issued.entry(dot).or_insert(issued);
        self.counter_journalled(at_ms, intent);
        let id = self.by_hash.get(&sibling.hash).copied();
        let asked =
            id.and_then(|id| Some((id, self.asked.get(&id)?.at_ms, self.lifetimes.get(&id))));
        let asked_for = asked.and_then(|(id, at_ms, ttl)| Some((id, at_ms + ttl?)));
        let given = sibling.expires_at_ms;
        let lawful = match (asked_for, given) {
            (None, None) => true,
            (Some((_, least_ms)), Some(given)) => given >= EPOCH_MS + least_ms,
            (None, Some(_)) | (Some(_), None) => false,
        };
        self.hold(Invariant::ZeroLoss, at_ms, lawful, || {
            format!(
                "w{} was asked to stand until {asked_for:?} and got {given:?}",
                id.unwrap_or_default()
            )
        });
        if let Some(given) = given {
            self.expires.insert(dot, given);
            let at_last = self.expire_at_last.entry(sibling.hash).or_default();
            *at_last = given.max(*at_last);
        }
    }

    /// What a coordinator's disk holds, of which the authority may have some already.
    pub fn holds<'i>(
        &mut self,
        at_ms: u64,
        node: NodeId,
        intents: impl Iterator<Item = &'i Intent>,
        intents_max: usize,
    ) {
        let owed = |intent: &&Intent| {
            self.sites().all(|site| {
                let row = self.row(site, &intent.record);
                row.is_none_or(|row| !row.has_seen(intent.dot()))
            })
        };
        let intents = intents.filter(owed).count();
        self.hold(Invariant::BoundedQueue, at_ms, intents <= intents_max, || {
            format!("n{} holds {intents} intents and may hold {intents_max}", node.0)
        });
    }

    /// Every acknowledged write that the authority does not hold, and every copy that its store
    /// does not take, is a dead letter, and still owed.
    pub fn finish_queues(&mut self, at_ms: u64, letters: &BTreeSet<(RecordId, StoreId)>) {
        let mut problems = Vec::new();
        let mut ended = 0;
        for (id, asked) in &self.asked {
            let Told::Acknowledged(dot) = asked.told else { continue };
            let mut rows = self.sites().filter_map(|site| self.row(site, &asked.record));
            let held = rows.any(|row| row.has_seen(dot));
            let dead = letters.contains(&(asked.record.clone(), StoreId::D1));
            let away = self.in_journals.contains(&(dot, true)) || self.is_excusable(dot);
            if held || (dead && self.in_journals.contains(&(dot, false))) {
                ended += 1;
            } else if !away {
                problems.push(format!(
                    "w{id} ({}, {dot}) is neither in the authority nor a dead letter",
                    asked.record
                ));
            }
        }
        for (record, row) in self.rows.iter().flatten() {
            for store in PROJECTIONS {
                if row.projections[at(store)].poisoned
                    && !self.tally.outside.contains(&store)
                    && !letters.contains(&(record.clone(), store))
                {
                    problems.push(format!("{store} refuses {record}, and no dead letter says so"));
                }
            }
        }
        self.checked[Invariant::BoundedQueue as usize] += ended;
        for problem in problems {
            self.report(Invariant::BoundedQueue, at_ms, problem);
        }
    }
}
