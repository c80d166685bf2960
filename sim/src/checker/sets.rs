//! Concurrent values as their owner declared, by the checker's own reckoning.
//!
//! ```text
//! journals: each write, what it was written over ──> which of those that a version includes nobody has
//!                                                    superseded, and which of these is to be shown
//! sessions: each increment, a power of two       ──> what a counter is, whatever it was merged from
//! ```
//!
//! Invariant: this asks neither how versions join nor how values are merged. Records that somebody wrote
//! to past every coordinator are left out: what such a write had seen nobody knows.

use super::journals::Issued;
use super::{Checker, Invariant, covers};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use tidelock_engine::journal::Intent;
use tidelock_engine::record::{RecordId, Stored};
use tidelock_engine::version::{Dot, NodeId, Stamp, Version, VersionVector};

/// How a dataset's concurrent values are decided.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Law {
    /// All stay; the latest that is no delete is shown.
    KeepSiblings,
    /// The latest delete is shown, else the latest value.
    DeleteWins,
    /// The latest value is shown, else the latest delete.
    EditWins,
    /// What was written to D1 past every coordinator is shown, else the latest.
    PreferForeign,
    /// All of them are one counter, merged by field.
    Counter,
    /// All of them are one counter, and a user's rule says what it is.
    RuledCounter,
}

impl Law {
    /// True where values are numbers whose bits are increments.
    pub fn counts(self) -> bool {
        matches!(self, Law::Counter | Law::RuledCounter)
    }
}

impl Checker {
    /// How a record's concurrent values are decided; `None`: the last writer's stands.
    pub(super) fn law(&self, record: &RecordId) -> Option<Law> {
        self.laws.get(&*record.dataset).copied()
    }

    /// The datasets whose concurrent values are decided otherwise than by the last writer.
    pub fn obey(&mut self, laws: BTreeMap<String, Law>) {
        self.laws = laws;
    }

    /// A write that was asked for adds to a counter.
    pub fn adds(&mut self, id: u32, amount: u64) {
        self.adds.insert(id, amount);
    }

    /// The authority's version of a record is another one: what it includes, and what it shows of that.
    pub(super) fn set_holds(
        &mut self,
        at_ms: u64,
        record: &RecordId,
        law: Law,
        version: &Version,
        reaped: &VersionVector,
        value: Option<&Stored>,
    ) {
        if includes_foreign(&version.history) {
            return;
        }
        // One that is alone is being installed; beside others it was built on before it was decided.
        let stands = |dot: Dot| !version.is_apart() && version.current().dot == dot;
        let included: Vec<(Dot, &Issued)> = self
            .issued_in(record, &version.history)
            .filter(|(dot, _)| self.took_effect(*dot) || stands(*dot))
            .collect();
        let superseded = |dot: Dot| {
            included.iter().any(|(by, issued)| *by != dot && covers(&issued.history, dot))
        };
        let mut found: Vec<Dot> = version.siblings().iter().map(|sibling| sibling.dot).collect();
        found.sort_unstable();
        // A delete that was reaped at some site may come back from another beside what had not seen it,
        // or not: a later write of its actor includes it.
        let forgotten = |dot: Dot| covers(reaped, dot) && !found.contains(&dot);
        // What the authority would not show, or not keep, may have lost; what became of it is asked at the end.
        let passed_over =
            |dot: Dot| !law.counts() && self.is_passed_over(dot) && !found.contains(&dot);
        let newest = included.iter().filter(|(dot, _)| !superseded(*dot) && !forgotten(*dot));
        let newest = newest.filter(|(dot, _)| !passed_over(*dot));
        let newest: Vec<_> = newest.collect();
        let expected: Vec<Dot> = newest.iter().map(|(dot, _)| *dot).collect();
        let rank = |deleted: bool, stamp: Stamp, dot: Dot| {
            let first = match law {
                Law::KeepSiblings | Law::EditWins => !deleted,
                Law::DeleteWins => deleted,
                Law::PreferForeign | Law::Counter | Law::RuledCounter => false,
            };
            (first, stamp, dot)
        };
        let shown = newest.iter().map(|(dot, issued)| rank(issued.deleted, issued.stamp, *dot));
        let shown = shown.max().map(|(_, _, dot)| dot);
        let sum = included.iter().try_fold(0_u64, |sum, (_, issued)| {
            Some(sum + self.adds.get(&self.writer(record, issued.hash)?)?)
        });
        let words = |dots: &[Dot]| {
            let words: Vec<String> = dots.iter().map(Dot::to_string).collect();
            words.join(" ")
        };
        let (same, current) = (found == expected, version.current().dot);
        let message = (!same).then(|| {
            format!(
                "{record} has the values [{}], and of what it includes nobody has superseded [{}]",
                words(&found),
                words(&expected)
            )
        });
        self.hold(Invariant::Causality, at_ms, same, || message.unwrap_or_default());
        let ranked = law.counts() || shown == Some(current);
        self.hold(Invariant::Causality, at_ms, ranked, || {
            let shown = shown.map(|dot| dot.to_string()).unwrap_or_default();
            format!("{record} shows {current}, and {law:?} says {shown}")
        });
        if law.counts() {
            let counted = match value {
                Some(Stored::Inline(bytes)) => counted(bytes),
                Some(Stored::Tombstone | Stored::Reference { .. } | Stored::Erased(_)) | None => {
                    None
                }
            };
            self.hold(Invariant::ExactlyOnce, at_ms, counted.is_some() && counted == sum, || {
                format!(
                    "{record} counts {counted:?}, and the increments that it includes make {sum:?} \
                     ({:?})",
                    version.basis()
                )
            });
        }
    }

    /// A coordinator has made a write to a counter durable. If it was asked to add to it, what it wrote is the
    /// sum of what that was written over, and of what one operation adds.
    pub(super) fn counter_journalled(&mut self, at_ms: u64, intent: &Intent) {
        let (record, sibling) = (&intent.record, intent.version.current());
        let counts = self.law(record).is_some_and(Law::counts);
        let Stored::Inline(bytes) = &intent.value else { return };
        if !counts || self.by_hash.get(&sibling.hash).is_some_and(|id| self.asked_of(*id, record)) {
            return;
        }
        let over = &self.issued[&sibling.dot].history;
        // What was written past every coordinator began anew; and what a condition does not hold of is in no
        // version, whatever its coordinator knew: of the others the authority's version tells.
        let is_whole = !includes_foreign(over) && intent.only_over.is_none();
        let before: Vec<u32> = self
            .issued_in(record, over)
            .filter(|(dot, _)| *dot != sibling.dot && self.took_effect(*dot))
            .filter_map(|(_, issued)| self.writer(record, issued.hash))
            .collect();
        let sum: u64 = before.iter().filter_map(|id| self.adds.get(id)).sum();
        let n = counted(bytes).unwrap_or_default();
        let by = self.adds.iter().find(|(id, amount)| {
            let asked = self.asked.get(*id);
            let is_asked =
                asked.is_some_and(|asked| asked.record == *record && asked.hash.is_none());
            let added = if is_whole { n == sum + **amount } else { n & **amount != 0 };
            is_asked && added && !before.contains(id)
        });
        let by = by.map(|(id, _)| *id);
        self.hold(Invariant::ExactlyOnce, at_ms, by.is_some(), || {
            format!(
                "{} of {record} counts {n} over writes that make {sum}, and nobody asked for that",
                sibling.dot
            )
        });
        if let Some(id) = by {
            self.increased.insert((record.clone(), sibling.hash), id);
        }
    }

    /// The writes to a record that a history includes.
    fn issued_in<'c>(
        &'c self,
        record: &'c RecordId,
        history: &'c VersionVector,
    ) -> impl Iterator<Item = (Dot, &'c Issued)> {
        let included = history.iter().flat_map(|(actor, counter)| {
            let dot = |counter| Dot { actor: *actor, counter };
            self.issued.range(dot(1)..=dot(*counter))
        });
        let included = included.filter(|(_, issued)| issued.record == *record);
        included.map(|(dot, issued)| (*dot, issued))
    }

    /// False for what was written under a condition that did not hold: it is in no version, though its number
    /// is covered.
    pub(super) fn took_effect(&self, dot: Dot) -> bool {
        !self.conditional.contains(&dot) || self.seen_bytes.contains_key(&dot)
    }

    /// A read gave a counter: no more than was asked for, and nothing that was refused.
    pub(super) fn counter_served(&mut self, at_ms: u64, record: &RecordId, bytes: &[u8]) {
        let tainted = self.asked.iter().any(|(id, asked)| {
            asked.record == *record && !self.adds.contains_key(id) && asked.hash.is_some()
        });
        if tainted {
            return;
        }
        let may = self
            .asked
            .iter()
            .filter(|(_, asked)| asked.record == *record && asked.told != super::Told::Refused);
        let may = may.filter_map(|(id, _)| self.adds.get(id)).fold(0, |all, amount| all | amount);
        let counted = counted(bytes);
        let holds = counted.is_some_and(|counted| counted & !may == 0);
        self.hold(Invariant::ExactlyOnce, at_ms, holds, || {
            format!("a read of {record} counts {counted:?}, of {may:b} that may have been counted")
        });
    }
}

fn includes_foreign(history: &VersionVector) -> bool {
    history.iter().any(|(actor, _)| actor.node == NodeId::FOREIGN)
}

/// What a counter's bytes say.
pub fn counted(bytes: &[u8]) -> Option<u64> {
    #[derive(Deserialize)]
    struct Counter {
        n: u64,
    }
    serde_json::from_slice::<Counter>(bytes).ok().map(|counter| counter.n)
}
