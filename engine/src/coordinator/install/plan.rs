//! What to install over what: from what is known here, or over a row that was just seen.
//!
//! ```text
//! nothing is left ─> idle      the row is not known ─> look, or gather all that is kept of it
//! superseded ──────> settled   over what is known, or what both sides make ──────────> install
//! ```
//!
//! Invariant: a plan decides and sends nothing. What it installs covers what it expects (rule A2), and each
//! value of a set that it does not show is among its losers (rule V6), but for those that the authority does
//! not take and a letter keeps.

use super::Candidate;
use super::ours::Ours;
use crate::conflict::By;
use crate::coordinator::{Coordinator, Slot, State};
use crate::dead_letter::TRIES_MIN;
use crate::env::Env;
use crate::policy::{Dataset, Kind, Limits, Ruling};
use crate::record::{Loser, RecordId, Stored, Written};
use crate::resolve::{self, Held, Met};
use crate::row::Row;
use crate::settle::Rules;
use crate::version::{Basis, Dot, Sibling, Version};
use std::time::Duration;

/// Foreign writes that were refused and are remembered, so that each is reported once.
const REFUSED_REMEMBERED_MAX: usize = 10_000;

pub(super) enum Plan {
    /// Nothing is left to install.
    Idle,
    /// Nobody has the bytes that are needed, now.
    Lacking,
    /// The authority must be read first.
    Look,
    /// The same, with all that it keeps of the record: several values stand beside each other.
    Gather,
    /// The floor must be looked at first: this version is from a journal that may be old, and
    /// the row has not seen it.
    AskFloor { ours: Version, over: Box<Row>, candidate: Candidate, suspect: Sibling },
    Install {
        candidate: Candidate,
        /// What is refused if it is: what was to be brought in, be it as a loser.
        suspect: Sibling,
    },
}

impl<E: Env> Coordinator<E> {
    /// What to install beside what is dead.
    pub(super) fn plan_beside(&self, record: &RecordId) -> Plan {
        let alive = self
            .state()
            .slots
            .get(record)
            .is_some_and(|s| s.ours(self.actor.node, false).is_some());
        if alive { self.plan(record) } else { Plan::Idle }
    }

    /// What to install, from what is known here.
    pub(super) fn plan(&self, record: &RecordId) -> Plan {
        let mut state = self.state();
        let Some(slot) = state.slots.get(record) else { return Plan::Idle };
        if slot.look {
            return Plan::Look;
        }
        let ruling = state.ruling(record);
        let ours = slot.ours(self.actor.node, ruling.starts_from_base());
        let Some(ours) = ours.map(|ours| ours.under(ruling)) else { return Plan::Idle };
        let Some(known) = state.ledger.known(record) else { return Plan::Look };
        if let Some(version) = &known.version
            && version.includes(&ours.held.version)
        {
            self.settle(&mut state, record, version);
            drop(state);
            return self.plan(record);
        }
        if ours.only_over.is_some() {
            return ours.conditionally();
        }
        let history = resolve::history_of(known.version.as_ref());
        // What has expired here has expired, also in what includes it.
        let ended = known.version.as_ref().is_some_and(|version| {
            version.current().is_expired_form()
                && version.current().dot == ours.held.version.current().dot
        });
        let settled = ours.held.version.basis() > Basis::Unsettled;
        if ours.held.version.history.covers(&history) && settled && !ended {
            ours.over(known.expect())
        } else {
            Plan::Look
        }
    }

    /// What to install over a row that was just seen; `kept`: with all that is kept beside it.
    pub(super) fn plan_over(
        &self,
        dataset: &Dataset,
        record: &RecordId,
        row: Option<Row>,
        kept: Option<(Vec<Loser>, Vec<Written>)>,
    ) -> Plan {
        self.learn_row(record, row.as_ref());
        let mut state = self.state();
        if let Some(slot) = state.slots.get_mut(record) {
            slot.look = false;
        }
        let row = row.unwrap_or_default();
        let expect = row.expect();
        let foreign = row.has_foreign_write();
        let theirs = resolve::held(self.site(), record, &row);
        if let Some(version) = &row.version {
            self.settle(&mut state, record, version);
        }
        let rules = Rules::of(dataset, record);
        let merges = rules.ruling.starts_from_base();
        let ours = state.slots.get(record).and_then(|slot| slot.ours(self.actor.node, merges));
        let ours = ours.map(|ours| ours.under(rules.ruling));
        let refused = match &theirs {
            Some(theirs) if foreign => {
                cannot_hold(dataset, &state.policy.limits, record, &theirs.value)
            }
            Some(_) | None => None,
        };
        match &refused {
            Some(problem) => state.refuse_foreign(record, row.row_seq, problem),
            None if foreign => state.counters.foreign_writes += 1,
            None => {}
        }
        let take_in = |held: Held, losers: Vec<Loser>, suspect: Sibling| {
            let expect = expect.clone();
            let by = By::Lww.into();
            let writes = written(&held).filter(|_| merges).into_iter().collect();
            let candidate = Candidate { expect, held, losers, by, writes, conditional: None };
            Plan::Install { candidate, suspect }
        };
        let (ours, theirs) = match (ours, theirs) {
            // Left where it is.
            (None, Some(_)) if refused.is_some() => return Plan::Idle,
            (None, Some(theirs)) if foreign => {
                let suspect = *theirs.version.current();
                return take_in(theirs, Vec::new(), suspect);
            }
            (None, _) => return Plan::Idle,
            (Some(ours), None) if ours.only_over.is_some() => {
                return ours.over_nothing(expect, self.actor);
            }
            (Some(ours), None) if ours.held.version.basis() == Basis::Unsettled => {
                let Some(kept) = kept else { return Plan::Gather };
                let set = ours.held.version.clone();
                let passed_over = state.passed_over(record, &rules, &ours, &set, None, self.now());
                // Documents are taken apart and merged: nobody waits for the lock meanwhile.
                drop(state);
                let Some(settled) = ours.settle(rules, &set, &passed_over, None, &kept) else {
                    return lacking_bytes(record);
                };
                return ours.with(settled, kept.0).over(expect);
            }
            (Some(ours), None) => return ours.over(expect),
            (Some(ours), Some(theirs)) => (ours, theirs),
        };
        if ours.only_over.is_some() {
            // Sent with its own expectation: the compare-and-set decides the condition.
            return ours.conditionally();
        }
        let suspect = *ours.held.version.current();
        match resolve::meet(rules.ruling, &ours.held, &theirs) {
            Met::Apart(set) => {
                let Some(kept) = kept else { return Plan::Gather };
                let theirs_set = Some(&theirs.version);
                let passed_over =
                    state.passed_over(record, &rules, &ours, &set, theirs_set, self.now());
                drop(state);
                // What the dataset cannot hold is no part of what is shown, and is kept.
                let (set, loser) = match refused {
                    Some(_) => {
                        let winner = ours.held.version.current().dot;
                        let (sibling, value) = (*theirs.version.current(), theirs.value.clone());
                        let set = ours.held.version.including(&theirs.version.history);
                        (set, Some(Loser { sibling, value, winner }))
                    }
                    None => (set, None),
                };
                let held = loser.is_none().then_some(&theirs);
                let Some(settled) = ours.settle(rules, &set, &passed_over, held, &kept) else {
                    return lacking_bytes(record);
                };
                let version = ours.held.version.clone();
                let is_old = ours.from_journal && suspect.dot.actor != self.actor;
                let before = ours.losers.len();
                let ours = ours.with(settled, kept.0);
                let mut losers = ours.losers;
                losers.extend(loser);
                self.state().counters.conflicts += losers.len().saturating_sub(before) as u64;
                let Ours { held, by, mut writes, .. } = ours;
                writes.extend(written(&theirs).filter(|_| foreign && merges));
                let candidate = Candidate { expect, held, losers, by, writes, conditional: None };
                if is_old && !foreign {
                    Plan::AskFloor { ours: version, over: Box::new(row), candidate, suspect }
                } else {
                    Plan::Install { candidate, suspect }
                }
            }
            Met::Ours => ours.over(expect),
            Met::Theirs if foreign && refused.is_none() => take_in(theirs, ours.losers, suspect),
            Met::Theirs => Plan::Idle,
            // What the dataset cannot hold loses, whatever its stamp, and is kept.
            Met::Concurrent { .. } if refused.is_some() => {
                state.counters.conflicts += 1;
                let (merged, loser) = over_refused(ours.held, theirs);
                take_in(merged, ours.losers.into_iter().chain([loser]).collect(), suspect)
            }
            Met::Concurrent { merged, losers } => {
                state.counters.conflicts += losers.len() as u64;
                let losers = ours.losers.into_iter().chain(losers).collect();
                let version = ours.held.version;
                let is_old = ours.from_journal && version.current().dot.actor != self.actor;
                if is_old && !foreign {
                    let by = By::Lww.into();
                    let (held, writes) = (merged, Vec::new());
                    let candidate =
                        Candidate { expect, held, losers, by, writes, conditional: None };
                    Plan::AskFloor { ours: version, over: Box::new(row), candidate, suspect }
                } else {
                    take_in(merged, losers, suspect)
                }
            }
        }
    }
}

impl State {
    /// The authority refused to show a value that its set puts first, beside a write that is not at fault.
    /// True: often enough that it is passed over.
    pub(super) fn note_unshown(&mut self, record: &RecordId, dot: Dot) -> bool {
        let slot = self.slots.entry(record.clone()).or_default();
        slot.look = true;
        match slot.unshown.iter_mut().find(|(known, _)| *known == dot) {
            Some((_, times)) => *times += 1,
            None => slot.unshown.push((dot, 1)),
        }
        slot.is_unshown(dot)
    }

    /// Values of a set that the authority does not take. They lose against the others, whatever the ruling says:
    /// their bytes stand in a letter alone, or were given up, or the authority keeps them as a loser's and does not
    /// show them. Two sites that join what both have may differ in that for a while, under one history: then the
    /// smaller set stands at both ([`Version::includes`]).
    fn passed_over(
        &self,
        record: &RecordId,
        rules: &Rules<'_>,
        ours: &Ours,
        set: &Version,
        theirs: Option<&Version>,
        now: Duration,
    ) -> Vec<Dot> {
        let slot = self.slots.get(record);
        let no_letters = self.letters.is_empty() && self.letters.ended().next().is_none();
        if slot.is_none_or(|slot| slot.unshown.is_empty()) && no_letters {
            return Vec::new();
        }
        // What was to be merged is not what was refused.
        let chooses = !rules.ruling.starts_from_base();
        let has = |dot| theirs.is_some_and(|set| set.siblings().iter().any(|s| s.dot == dot));
        let is_passed_over = |dot: &Dot| {
            let unshown = slot.is_some_and(|slot| slot.is_unshown(*dot));
            // What another site brings it brings to others as well, which have no letters of it.
            let in_letter = ours.from_journal && !has(*dot);
            (chooses && unshown) || (in_letter && self.is_left_to_letter(record, *dot, now))
        };
        set.siblings().iter().map(|sibling| sibling.dot).filter(is_passed_over).collect()
    }

    /// What decides between a record's concurrent values.
    fn ruling(&self, record: &RecordId) -> &Ruling {
        let dataset = self.policy.datasets.get(&record.dataset);
        dataset.map_or(&Ruling::Lww, |dataset| dataset.conflict.ruling(&record.key))
    }

    /// Reports what somebody wrote to the authority and a dataset cannot hold: once for each write,
    /// however often it is looked at.
    fn refuse_foreign(&mut self, record: &RecordId, row_seq: u64, problem: &str) {
        if self.refused.get(record) == Some(&row_seq) {
            return;
        }
        if self.refused.len() < REFUSED_REMEMBERED_MAX {
            self.refused.insert(record.clone(), row_seq);
        }
        self.counters.foreign_refused += 1;
        tracing::error!(
            %record, problem,
            "somebody wrote to D1 what this dataset cannot hold; it is left where it is, and KV and \
             R2 keep what they have until it is mended there or written through Tidelock"
        );
    }
}

impl Slot {
    /// True for a value that the authority has refused to show so often that it is passed over.
    fn is_unshown(&self, dot: Dot) -> bool {
        self.unshown.iter().any(|(known, times)| *known == dot && *times >= TRIES_MIN)
    }
}

/// A version of one value, as the write that it is.
pub(in crate::coordinator) fn written(held: &Held) -> Option<Written> {
    let only = (!held.version.is_apart()).then_some(held)?;
    let (sibling, over) = only.version.sides().next()?;
    Some(Written { sibling: *sibling, over: over.clone(), value: only.value.clone() })
}

/// The value that a ruling shows before what is brought in: if showing is refused, it is that one's doing.
/// What values were merged to is nobody's.
pub(super) fn shown_before(
    dataset: &Dataset,
    record: &RecordId,
    version: &Version,
    write: Dot,
) -> Option<Dot> {
    let shown = version.chosen().filter(|_| version.is_apart())?.dot;
    let chooses = !dataset.conflict.ruling(&record.key).starts_from_base();
    (shown != write && chooses).then_some(shown)
}

/// Why a dataset cannot hold what somebody wrote to the authority itself; `None`: it can.
fn cannot_hold(
    dataset: &Dataset,
    limits: &Limits,
    record: &RecordId,
    value: &Stored,
) -> Option<String> {
    let Stored::Inline(bytes) = value else { return None };
    if let Err(error) = dataset.record(&record.key) {
        return Some(error.to_string());
    }
    // A row of the user's own table is whole where it is, or nowhere.
    let bytes_max = match dataset.kind {
        Kind::Structured => limits.authority_value_bytes_max,
        Kind::Json | Kind::Text | Kind::Binary => limits.value_bytes_max,
    };
    if bytes.len() > bytes_max {
        return Some(format!("it has {} bytes, and {bytes_max} can be kept", bytes.len()));
    }
    match crate::coordinator::write::accepted(dataset, &record.key, bytes) {
        Ok(kept) if kept == *bytes => None,
        Ok(_) => Some("it is not as its columns declare it".to_owned()),
        Err(refusal) => Some(refusal.to_string()),
    }
}

/// A write over bytes that the dataset cannot hold: these lose, and are kept.
fn over_refused(mine: Held, theirs: Held) -> (Held, Loser) {
    let won = *mine.version.current();
    let loser = Loser { sibling: *theirs.version.current(), value: theirs.value, winner: won.dot };
    (Held { version: mine.version.including(&theirs.version.history), value: mine.value }, loser)
}

fn lacking_bytes(record: &RecordId) -> Plan {
    tracing::error!(%record, "none of its concurrent values has its bytes at hand; trying again");
    Plan::Lacking
}
