//! Conflicts of one record that come in a storm: counted, and told of together.
//!
//! ```text
//! calm ──more than 5 within 10 s──> storm ──10 s without one──> told, and calm
//!                                     └────every 60 s─────────> told, and counted anew
//! ```
//!
//! Invariant: every conflict that is taken is either to be told by itself or counted in one
//! [`Storm`], which [`Storms::due`] gives once. Time is that of the entries, so that one who reads the
//! log hours later sees the same storms; a clock that was set back ends them.
//!
//! What is held is bounded: where more records are in a storm than are counted, the conflicts of the
//! others are told one by one.

use super::conflict::Conflict;
use super::entry::Entry;
use super::event::Words;
use crate::record::RecordId;
use crate::version::ContentHash;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet, VecDeque};

/// So many conflicts of a record within [`WITHIN_MS`] are told one by one.
pub const ALONE_MAX: usize = 5;
/// And after so long without one, a storm is over.
pub const WITHIN_MS: u64 = 10_000;
/// A storm that lasts is told of so often.
pub const TOLD_EVERY_MS: u64 = 60_000;
/// Records in a storm at once.
pub const STORMS_MAX: usize = 128;
/// Records whose last conflicts are remembered.
pub const CALM_MAX: usize = 1_024;
/// Names of strategies in one summary; there are fewer.
const STRATEGIES_MAX: usize = 16;

/// Conflicts of one record, counted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Storm {
    /// The record.
    pub record: RecordId,
    /// How many.
    pub count: u64,
    /// The number of the first one's entry.
    pub first_seq: u64,
    /// And of the last one's. Not all entries between are this record's.
    pub last_seq: u64,
    /// When the first one was logged, in milliseconds since the epoch.
    pub from_ms: u64,
    /// And the last one.
    pub to_ms: u64,
    /// The last one's hash, which names what is counted beyond this log.
    pub last_hash: ContentHash,
    /// How they were settled.
    pub strategies: BTreeSet<Words>,
}

impl Storm {
    fn begin(entry: &Entry, conflict: &Conflict) -> Self {
        let facts = conflict.facts();
        Storm {
            record: facts.record.clone(),
            count: 1,
            first_seq: entry.seq(),
            last_seq: entry.seq(),
            from_ms: entry.at_ms(),
            to_ms: entry.at_ms(),
            last_hash: entry.hash(),
            strategies: BTreeSet::from([facts.strategy.clone()]),
        }
    }

    fn add(&mut self, entry: &Entry, conflict: &Conflict) {
        self.count += 1;
        (self.last_seq, self.to_ms, self.last_hash) = (entry.seq(), entry.at_ms(), entry.hash());
        if self.strategies.len() < STRATEGIES_MAX {
            self.strategies.insert(conflict.facts().strategy.clone());
        }
    }
}

/// How a conflict is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Taken {
    /// By itself, now.
    Alone,
    /// In a [`Storm`], later.
    Counted,
}

/// A record in a storm.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Raging {
    last_ms: u64,
    /// What nobody was told of. `None`: all was told, and it may go on.
    counted: Option<Storm>,
}

impl Raging {
    fn due_ms(&self) -> u64 {
        let quiet_ms = self.last_ms.saturating_add(WITHIN_MS);
        let told = self.counted.as_ref().map(|storm| storm.from_ms.saturating_add(TOLD_EVERY_MS));
        told.map_or(quiet_ms, |told_ms| told_ms.min(quiet_ms))
    }

    fn is_over(&self, now_ms: u64) -> bool {
        // Either way: before the last one it can only be after a clock was set back.
        now_ms.abs_diff(self.last_ms) >= WITHIN_MS
    }
}

/// Which records are in a storm.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Storms {
    /// When the last conflicts of the others were.
    calm: BTreeMap<RecordId, VecDeque<u64>>,
    raging: BTreeMap<RecordId, Raging>,
}

impl Storms {
    /// With what was counted in a former life, and not told.
    pub fn resume(counted: Vec<Storm>) -> Self {
        let raging = counted.into_iter().map(|storm| {
            let raging = Raging { last_ms: storm.to_ms, counted: Some(storm.clone()) };
            (storm.record, raging)
        });
        Storms { calm: BTreeMap::new(), raging: raging.collect() }
    }

    /// What is counted and was not told.
    pub fn counted(&self) -> impl Iterator<Item = &Storm> {
        self.raging.values().filter_map(|raging| raging.counted.as_ref())
    }

    /// The first entry that is counted and was not told.
    pub fn first_seq(&self) -> Option<u64> {
        self.counted().map(|storm| storm.first_seq).min()
    }

    /// What is to be told at a time, the oldest first, one at a time.
    pub fn due(&mut self, now_ms: u64) -> Option<Storm> {
        self.raging.retain(|_, raging| raging.counted.is_some() || !raging.is_over(now_ms));
        let lasts = |storm: &Storm| now_ms.saturating_sub(storm.from_ms) >= TOLD_EVERY_MS;
        let due = self.raging.iter().filter_map(|(record, raging)| {
            let storm = raging.counted.as_ref()?;
            let is_due = raging.is_over(now_ms) || lasts(storm);
            is_due.then(|| (storm.first_seq, record.clone()))
        });
        let (_, record) = due.min()?;
        let raging = self.raging.get_mut(&record).expect("it was found there");
        let told = raging.counted.take();
        if raging.is_over(now_ms) {
            self.raging.remove(&record);
        }
        told
    }

    /// When something will be due, if nothing comes before.
    pub fn due_ms(&self) -> Option<u64> {
        let counted = self.raging.values().filter(|raging| raging.counted.is_some());
        counted.map(Raging::due_ms).min()
    }

    /// Takes the entry of a conflict. What is due at its time must have been told.
    pub fn take(&mut self, entry: &Entry, conflict: &Conflict) -> Taken {
        let (record, at_ms) = (&conflict.facts().record, entry.at_ms());
        if let Some(raging) = self.raging.get_mut(record) {
            raging.last_ms = at_ms;
            match &mut raging.counted {
                Some(storm) => storm.add(entry, conflict),
                None => raging.counted = Some(Storm::begin(entry, conflict)),
            }
            return Taken::Counted;
        }
        let recent = self.calm.entry(record.clone()).or_default();
        recent.retain(|before_ms| at_ms.abs_diff(*before_ms) < WITHIN_MS);
        if recent.len() >= ALONE_MAX {
            if self.raging.len() < STORMS_MAX {
                self.calm.remove(record);
                let counted = Some(Storm::begin(entry, conflict));
                self.raging.insert(record.clone(), Raging { last_ms: at_ms, counted });
                return Taken::Counted;
            }
            recent.pop_front();
        }
        recent.push_back(at_ms);
        self.forget(at_ms);
        Taken::Alone
    }

    /// Keeps what is remembered within its bound.
    fn forget(&mut self, now_ms: u64) {
        if self.calm.len() <= CALM_MAX {
            return;
        }
        let is_recent = |at_ms: &u64| now_ms.abs_diff(*at_ms) < WITHIN_MS;
        self.calm.retain(|_, recent| recent.back().is_some_and(is_recent));
        if self.calm.len() > CALM_MAX {
            let oldest = self.calm.iter().min_by_key(|(_, recent)| recent.back().copied());
            let oldest = oldest.map(|(record, _)| record.clone()).expect("there are many");
            self.calm.remove(&oldest);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::conflict::tests::conflict;
    use super::super::{Chain, ConflictFacts, Event};
    use super::*;
    use std::sync::Arc;

    /// What somebody was told: (key, count, first, last), one by one or together.
    type Told = (String, u64, u64, u64);

    #[derive(Default)]
    struct Follower {
        chain: Chain,
        storms: Storms,
        told: Vec<Told>,
    }

    impl Follower {
        fn wait(&mut self, now_ms: u64) {
            while let Some(storm) = self.storms.due(now_ms) {
                let Storm { record, count, first_seq, last_seq, .. } = storm;
                self.told.push((record.key.to_string(), count, first_seq, last_seq));
            }
        }

        fn conflict(&mut self, key: &str, at_ms: u64) {
            let mut facts: ConflictFacts = conflict(3).facts().clone();
            facts.record = RecordId { dataset: Arc::from("notes"), key: key.into() };
            let conflict = Conflict::new(facts);
            let entry = self.chain.append(at_ms, &Event::Conflict(Box::new(conflict.clone())));
            self.wait(at_ms);
            if self.storms.take(&entry, &conflict) == Taken::Alone {
                self.told.push((key.to_owned(), 1, entry.seq(), entry.seq()));
            }
        }
    }

    /// Conflicts of records at times, and what is told by the end of it.
    #[track_caller]
    fn check(conflicts: &[(&str, u64)], end_ms: u64, expected: &[(&str, u64, u64, u64)]) {
        let mut follower = Follower::default();
        for (key, at_ms) in conflicts {
            follower.conflict(key, *at_ms);
        }
        follower.wait(end_ms);
        let expected: Vec<Told> = expected
            .iter()
            .map(|(key, count, first, last)| ((*key).to_owned(), *count, *first, *last))
            .collect();
        assert_eq!(follower.told, expected);
    }

    fn alone(key: &str, seqs: std::ops::RangeInclusive<u64>) -> Vec<(&str, u64, u64, u64)> {
        seqs.map(|seq| (key, 1, seq, seq)).collect()
    }

    fn at(key: &str, times: impl IntoIterator<Item = u64>) -> Vec<(&str, u64)> {
        times.into_iter().map(|at_ms| (key, at_ms)).collect()
    }

    #[test]
    fn few_conflicts_and_slow_ones_are_told_one_by_one() {
        check(&at("a", (0..5).map(|n| n * 100)), 100_000, &alone("a", 1..=5));
        check(&at("a", (0..40).map(|n| n * 2_000)), 100_000, &alone("a", 1..=40));
        let many: Vec<String> = (0..40).map(|n| format!("k{n}")).collect();
        let each: Vec<(&str, u64)> = many.iter().map(|key| (key.as_str(), 5)).collect();
        let mut follower = Follower::default();
        each.iter().for_each(|(key, at_ms)| follower.conflict(key, *at_ms));
        assert_eq!(follower.told.len(), 40);
    }

    #[test]
    fn a_storm_is_told_of_once_it_is_over_and_not_before() {
        let storm = at("a", (0..50).map(|n| n * 100));
        check(&storm, 4_900 + WITHIN_MS - 1, &alone("a", 1..=5));
        let mut told = alone("a", 1..=5);
        told.push(("a", 45, 6, 50));
        check(&storm, 4_900 + WITHIN_MS, &told);
    }

    #[test]
    fn a_storm_that_lasts_is_told_of_every_minute() {
        let mut told = alone("a", 1..=5);
        // One a second: the sixth comes at 5 s, and what is counted from then on is due at 65 s.
        told.extend([("a", 60, 6, 65), ("a", 60, 66, 125), ("a", 15, 126, 140)]);
        check(&at("a", (0..140).map(|n| n * 1_000)), 149_000, &told);
    }

    #[test]
    fn after_a_storm_its_record_is_calm_again() {
        let mut both = at("a", (0..7).map(|n| n * 100));
        both.extend(at("a", (0..6).map(|n| 20_000 + n * 100)));
        let mut told = alone("a", 1..=5);
        told.push(("a", 2, 6, 7));
        told.extend(alone("a", 8..=12));
        told.push(("a", 1, 13, 13));
        check(&both, 40_000, &told);
    }

    #[test]
    fn a_storm_of_one_record_does_not_touch_another() {
        let mut mixed = at("a", (0..6).map(|n| n * 100));
        mixed.extend([("b", 600), ("a", 700)]);
        let mut told = alone("a", 1..=5);
        told.extend([("b", 1, 7, 7), ("a", 2, 6, 8)]);
        check(&mixed, 20_000, &told);
    }

    #[test]
    fn a_clock_that_was_set_back_ends_a_storm_and_holds_nothing_back() {
        let mut set_back = at("a", (0..8).map(|n| 3_600_000 + n));
        set_back.push(("a", 0));
        let mut told = alone("a", 1..=5);
        told.extend([("a", 3, 6, 8), ("a", 1, 9, 9)]);
        check(&set_back, 0, &told);
    }

    #[test]
    fn what_was_counted_goes_on_being_counted_in_the_next_life() {
        let mut follower = Follower::default();
        (0..9).for_each(|n| follower.conflict("a", n));
        let text = serde_json::to_string(&follower.storms.counted().collect::<Vec<_>>()).unwrap();
        assert_eq!(
            (follower.storms.first_seq(), follower.storms.due_ms()),
            (Some(6), Some(10_008))
        );
        follower.storms = Storms::resume(serde_json::from_str(&text).unwrap());
        follower.conflict("a", 9);
        follower.wait(30_000);
        assert_eq!(follower.told.last(), Some(&("a".to_owned(), 5, 6, 10)));
        assert_eq!(follower.storms, Storms::default());
    }

    #[test]
    fn what_is_held_is_bounded_and_what_does_not_fit_is_told_one_by_one() {
        let mut follower = Follower::default();
        for n in 0..STORMS_MAX + 3 {
            (0..8).for_each(|_| follower.conflict(&format!("k{n}"), 1));
        }
        assert_eq!(follower.storms.counted().count(), STORMS_MAX);
        assert_eq!(follower.told.len(), STORMS_MAX * 5 + 3 * 8);
        for n in 0..2 * CALM_MAX {
            follower.conflict(&format!("other{n}"), 2);
        }
        assert!(follower.storms.calm.len() <= CALM_MAX);
    }
}
