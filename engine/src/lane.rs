//! A lane: the records that one store is owed work on.
//!
//! ```text
//! push ──> waiting ── take ──> under way ── finish ──> done
//!   by priority, then arrival      │ `Again`, or news came meanwhile: waiting
//!                                  │ `At`: delayed, until then; news does not shorten it
//!                                  │ `Retry`: as `At`, and until the budget of retries has one
//!                                  └ `Park`: parked, until then or until there is news
//! ```
//!
//! Each priority has turns in proportion to its weight, so that no flood of one starves another.
//! A record has the best priority of its reasons.
//!
//! Invariant: a record is in at most one place. News of a record that is under way makes it wait
//! again when that work ends, so no news is lost and no two workers meet on one record. Nothing is
//! dropped: the lane holds record names only, one for each record, and what stands behind them is
//! bounded where it is accepted.

use crate::record::RecordId;
use crate::record_map::RecordMap;
use crate::retry::Budget;
use indexmap::map;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

/// Why a record is in a lane, the most urgent first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Priority {
    /// Somebody has just written it.
    Foreground,
    /// What somebody left undone, or a reader found wrong.
    Repair,
    /// A periodic look found it wrong.
    Reconciliation,
    /// An operator's request over many records.
    Bulk,
}

impl Priority {
    /// All of them, the most urgent first.
    pub const ALL: [Priority; 4] =
        [Priority::Foreground, Priority::Repair, Priority::Reconciliation, Priority::Bulk];

    /// Turns of each round, when every priority has work.
    pub const fn weight(self) -> u32 {
        match self {
            Priority::Foreground => 8,
            Priority::Repair => 4,
            Priority::Reconciliation => 2,
            Priority::Bulk => 1,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    /// In its priority's queue, under this ticket; an entry with another one is out of date.
    Waiting(u64),
    Delayed(Duration),
    Retrying(Duration),
    Parked(Duration),
    UnderWay {
        news: Option<(Priority, Duration)>,
    },
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    place: Place,
    priority: Priority,
    /// When the work that is owed came.
    since: Duration,
    /// It failed before.
    again: bool,
}

/// What becomes of a record when a worker lets go of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// Nothing more to do, but for news that came meanwhile.
    Done,
    /// Again, after the others that wait.
    Again,
    /// Again at this monotonic time.
    At(Duration),
    /// It failed: again at this monotonic time, or when there is a retry left for it.
    Retry(Duration),
    /// Again at this monotonic time, or as soon as there is news: the store will not take it as it
    /// is.
    Park(Duration),
}

/// Who waits, by priority.
#[derive(Clone, Debug, Default)]
struct Queues {
    each: [VecDeque<(u64, RecordId)>; 4],
    tickets: u64,
    waiting: usize,
}

impl Queues {
    /// The record waits, last of its priority.
    fn push(&mut self, record: &RecordId, priority: Priority) -> Place {
        self.tickets += 1;
        self.waiting += 1;
        self.each[priority as usize].push_back((self.tickets, record.clone()));
        Place::Waiting(self.tickets)
    }
}

/// See the module.
#[derive(Clone, Debug)]
pub struct Lane {
    entries: RecordMap<Entry>,
    /// How many entries each dataset has.
    of: BTreeMap<Arc<str>, usize>,
    queues: Queues,
    /// Turns that each priority has left in this round.
    turns: [u32; 4],
    under_way: usize,
    delayed: BTreeSet<(Duration, RecordId)>,
    retrying: BTreeSet<(Duration, RecordId)>,
    budget: Budget,
    retries: u64,
    parked: BTreeSet<(Duration, RecordId)>,
    paused: bool,
}

impl Lane {
    /// An empty one; `seed`: see [`Env::hash_seed`](crate::env::Env::hash_seed).
    pub fn new(seed: u64) -> Self {
        Lane {
            entries: RecordMap::new(seed),
            of: BTreeMap::new(),
            queues: Queues::default(),
            turns: [0; 4],
            under_way: 0,
            delayed: BTreeSet::new(),
            retrying: BTreeSet::new(),
            budget: Budget::default(),
            retries: 0,
            parked: BTreeSet::new(),
            paused: false,
        }
    }

    /// News of a record. One that is delayed stays so: news does not shorten a back-off. True when
    /// it is work that was not owed before.
    pub fn push(&mut self, record: &RecordId, priority: Priority, now: Duration) -> bool {
        let entry = match self.entries.entry(record.clone()) {
            map::Entry::Occupied(known) => known.into_mut(),
            map::Entry::Vacant(new) => {
                match self.of.get_mut(&record.dataset) {
                    Some(of) => *of += 1,
                    None => drop(self.of.insert(record.dataset.clone(), 1)),
                }
                let place = self.queues.push(record, priority);
                new.insert(Entry { place, priority, since: now, again: false });
                return true;
            }
        };
        let better = priority < entry.priority;
        match &mut entry.place {
            Place::UnderWay { news: Some((best, _)) } => *best = priority.min(*best),
            Place::UnderWay { news } => {
                *news = Some((priority, now));
                return true;
            }
            Place::Delayed(_) | Place::Retrying(_) => {
                entry.priority = priority.min(entry.priority);
            }
            Place::Waiting(_) if better => {
                self.queues.waiting -= 1;
                entry.place = self.queues.push(record, priority);
                entry.priority = priority;
            }
            Place::Waiting(_) => {}
            Place::Parked(at) => {
                self.parked.remove(&(*at, record.clone()));
                let place = self.queues.push(record, priority);
                *entry = Entry { place, priority, since: now, again: false };
                return true;
            }
        }
        false
    }

    /// A record that was delayed or parked waits, last of its priority.
    fn wait(&mut self, record: &RecordId) {
        let entry = self.entries.get_mut(record).expect("what is delayed or parked has an entry");
        entry.place = self.queues.push(record, entry.priority);
    }

    /// The next record to work on, unless the lane is paused or `width` records are under way.
    pub fn take(&mut self, width: usize) -> Option<RecordId> {
        if !self.is_ready(width) {
            return None;
        }
        loop {
            for priority in Priority::ALL {
                let at = priority as usize;
                if self.turns[at] == 0 {
                    continue;
                }
                if let Some(record) = self.pop(priority) {
                    self.turns[at] -= 1;
                    return Some(record);
                }
            }
            // Whoever has work had its turns: the next round begins.
            self.turns = Priority::ALL.map(Priority::weight);
        }
    }

    fn pop(&mut self, priority: Priority) -> Option<RecordId> {
        while let Some((ticket, record)) = self.queues.each[priority as usize].pop_front() {
            if let Some(entry) = self.entries.get_mut(&record)
                && entry.place == Place::Waiting(ticket)
            {
                entry.place = Place::UnderWay { news: None };
                if !entry.again {
                    self.budget.first_try();
                }
                self.queues.waiting -= 1;
                self.under_way += 1;
                return Some(record);
            }
        }
        None
    }

    /// True when [`Lane::take`] would give a record.
    pub fn is_ready(&self, width: usize) -> bool {
        !self.paused && self.queues.waiting > 0 && self.under_way < width
    }

    /// A worker lets go of a record.
    pub fn finish(&mut self, record: &RecordId, next: Next) {
        let Some(entry) = self.entries.get_mut(record) else { return };
        let Place::UnderWay { news } = entry.place else { return };
        self.under_way -= 1;
        let (priority, since, again) = (entry.priority, entry.since, entry.again);
        if again && next == Next::Done {
            self.budget.give_back();
        }
        let best = news.map_or(priority, |(news, _)| news.min(priority));
        match (next, news) {
            (Next::Done, None) => {
                self.entries.remove(record);
                *self.of.get_mut(&record.dataset).expect("it was pushed") -= 1;
            }
            // What was owed before is paid: what came since has its own urgency and age.
            (Next::Done | Next::Park(_), Some((priority, since))) => {
                let place = self.queues.push(record, priority);
                *entry = Entry { place, priority, since, again: false };
            }
            (Next::Again, _) => {
                let place = self.queues.push(record, best);
                *entry = Entry { place, priority: best, since, again };
            }
            (Next::At(at), _) => {
                *entry = Entry { place: Place::Delayed(at), priority: best, since, again };
                self.delayed.insert((at, record.clone()));
            }
            (Next::Retry(at), _) => {
                *entry = Entry { place: Place::Retrying(at), priority: best, since, again: true };
                self.retrying.insert((at, record.clone()));
            }
            (Next::Park(at), None) => {
                entry.place = Place::Parked(at);
                self.parked.insert((at, record.clone()));
            }
        }
    }

    /// Moves what is due at `now` to the waiting.
    pub fn wake(&mut self, now: Duration) {
        for parked in [false, true] {
            let set = if parked { &mut self.parked } else { &mut self.delayed };
            let mut due = Vec::new();
            while let Some((at, _)) = set.first()
                && *at <= now
            {
                due.extend(set.pop_first());
            }
            for (_, record) in due {
                self.wait(&record);
            }
        }
        while let Some((at, _)) = self.retrying.first()
            && *at <= now
            && self.budget.spend(now)
        {
            let (_, record) = self.retrying.pop_first().expect("looked at above");
            self.retries += 1;
            self.wait(&record);
        }
    }

    /// When [`Lane::wake`] is to be called next.
    pub fn due(&self) -> Option<Duration> {
        let first = |set: &BTreeSet<(Duration, RecordId)>| set.first().map(|(at, _)| *at);
        let retry = first(&self.retrying).map(|at| at.max(self.budget.next()));
        first(&self.delayed).into_iter().chain(first(&self.parked)).chain(retry).min()
    }

    /// True when a retry is due and was waiting for the budget, which has one by now.
    pub fn has_retry_due(&self, now: Duration) -> bool {
        self.budget.left() > 0 && self.retrying.first().is_some_and(|(at, _)| *at <= now)
    }

    /// The store does not answer: nothing is taken until [`Lane::resume`].
    pub fn pause(&mut self) {
        self.paused = true;
    }

    /// The store answers again: back-off and budget start anew, so what is delayed is due at once. What is
    /// parked is not: that the store answers says nothing of it.
    pub fn resume(&mut self) {
        self.paused = false;
        self.budget.restart();
        let retrying = std::mem::take(&mut self.retrying);
        for (_, record) in std::mem::take(&mut self.delayed).into_iter().chain(retrying) {
            self.wait(&record);
        }
    }

    /// Records that wait, are delayed, parked or under way.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Of these, such as are of a dataset.
    pub fn len_of(&self, dataset: &str) -> usize {
        self.of.get(dataset).copied().unwrap_or(0)
    }

    /// Records that are parked.
    pub fn parked(&self) -> usize {
        self.parked.len()
    }

    /// Retries since the start, and how many more the budget has now.
    pub fn retries(&self) -> (u64, u64) {
        (self.retries, self.budget.left())
    }

    /// Records that are under way.
    pub fn under_way(&self) -> usize {
        self.under_way
    }

    /// True when there is no work.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Since when the oldest work is owed that is not parked.
    pub fn oldest(&self) -> Option<Duration> {
        let owed = self.entries.values().filter(|e| !matches!(e.place, Place::Parked(_)));
        owed.map(|entry| entry.since).min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use Priority::{Bulk, Foreground, Reconciliation, Repair};
    use proptest::prelude::*;

    const NOW: Duration = Duration::ZERO;
    const WIDTH: usize = 100;

    fn record(key: &str) -> RecordId {
        RecordId { dataset: Arc::from("d"), key: key.into() }
    }

    fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn news_during_work_is_not_lost_and_not_doubled() {
        let mut lane = Lane::new(7);
        assert!(lane.push(&record("a"), Foreground, NOW));
        assert!(!lane.push(&record("a"), Foreground, NOW));
        let taken = lane.take(WIDTH).unwrap();
        assert_eq!(lane.take(WIDTH), None, "queued once");
        lane.push(&record("a"), Foreground, NOW);
        assert_eq!(lane.take(WIDTH), None, "nobody else works on it meanwhile");
        lane.finish(&taken, Next::Done);
        assert_eq!(lane.take(WIDTH), Some(record("a")));
        lane.finish(&record("a"), Next::Done);
        assert!(lane.is_empty());
    }

    #[test]
    fn back_off_holds_until_due_or_resumed() {
        let mut lane = Lane::new(7);
        lane.push(&record("a"), Foreground, NOW);
        let taken = lane.take(WIDTH).unwrap();
        lane.finish(&taken, Next::At(seconds(2)));
        lane.push(&record("a"), Foreground, NOW);
        assert_eq!(lane.take(WIDTH), None);
        lane.wake(seconds(1));
        assert_eq!(lane.take(WIDTH), None);
        lane.pause();
        lane.resume();
        assert_eq!(lane.take(WIDTH), Some(record("a")));
    }

    /// A store fails everything that many records ask of it, and its breaker is forced closed: each
    /// retry has its turn, and they are no more than the budget allows.
    #[test]
    fn a_storm_of_retries_is_bounded_and_starves_nobody() {
        use crate::retry::{FLOOR_PER_SECOND, SAVED_MAX, SHARE_PERMILLE};
        const RECORDS: u64 = 300;
        const SECONDS: u64 = 60;
        let mut lane = Lane::new(7);
        for n in 0..RECORDS {
            lane.push(&record(&n.to_string()), Foreground, NOW);
        }
        let mut tries: BTreeMap<RecordId, u64> = BTreeMap::new();
        for ms in 0..SECONDS * 1_000 {
            let now = Duration::from_millis(ms);
            lane.wake(now);
            while let Some(taken) = lane.take(WIDTH) {
                *tries.entry(taken.clone()).or_default() += 1;
                lane.finish(&taken, Next::Retry(now + Duration::from_millis(100)));
            }
        }
        let retries = tries.values().sum::<u64>() - RECORDS;
        let share = RECORDS * SHARE_PERMILLE / 1_000;
        assert!(retries <= SAVED_MAX + share + SECONDS * FLOOR_PER_SECOND, "{retries}");
        assert_eq!(lane.retries().0, retries);
        let (least, most) = (tries.values().min().unwrap(), tries.values().max().unwrap());
        assert!(*least > 1 && most - least <= 1, "from {least} to {most} tries");
    }

    /// The store is well again and the budget is spent: everything that waits is there in time.
    #[test]
    fn what_waits_for_the_budget_goes_within_moments_once_the_store_is_well() {
        let mut lane = Lane::new(7);
        for n in 0..500 {
            lane.push(&record(&n.to_string()), Foreground, NOW);
            let taken = lane.take(WIDTH).unwrap();
            lane.finish(&taken, Next::Retry(seconds(1)));
        }
        while lane.budget.spend(seconds(1)) {}
        // Eight at once, each of which takes 50 ms.
        let mut now = seconds(1);
        while !lane.is_empty() {
            lane.wake(now);
            let taken: Vec<_> = (0..8).map_while(|_| lane.take(8)).collect();
            now += Duration::from_millis(50);
            for record in taken {
                lane.finish(&record, Next::Done);
            }
            assert!(now < seconds(6), "{} are left", lane.len());
        }
    }

    #[test]
    fn a_paused_lane_gives_nothing_and_forgets_nothing() {
        let mut lane = Lane::new(7);
        lane.pause();
        lane.push(&record("a"), Foreground, NOW);
        assert_eq!(lane.take(WIDTH), None);
        lane.resume();
        assert_eq!(lane.take(WIDTH), Some(record("a")));
    }

    #[test]
    fn what_is_parked_waits_for_news_or_its_time_and_not_for_the_store() {
        let mut lane = Lane::new(7);
        for wakes in ["news", "time"] {
            lane.push(&record("a"), Foreground, NOW);
            let taken = lane.take(WIDTH).unwrap();
            lane.finish(&taken, Next::Park(seconds(60)));
            lane.pause();
            lane.resume();
            assert_eq!(lane.take(WIDTH), None);
            assert_eq!(lane.due(), Some(seconds(60)));
            match wakes {
                "news" => assert!(lane.push(&record("a"), Foreground, NOW)),
                _ => lane.wake(seconds(60)),
            }
            assert_eq!(lane.take(WIDTH), Some(record("a")));
            lane.finish(&record("a"), Next::Done);
        }
    }

    #[test]
    fn a_record_that_is_parked_while_there_is_news_is_not_parked() {
        let mut lane = Lane::new(7);
        lane.push(&record("a"), Foreground, NOW);
        let taken = lane.take(WIDTH).unwrap();
        lane.push(&record("a"), Foreground, NOW);
        lane.finish(&taken, Next::Park(seconds(60)));
        assert_eq!(lane.take(WIDTH), Some(record("a")));
    }

    #[test]
    fn a_record_has_the_best_priority_of_its_reasons() {
        let mut lane = Lane::new(7);
        lane.push(&record("bulk"), Bulk, NOW);
        lane.push(&record("repair"), Repair, NOW);
        lane.push(&record("bulk"), Foreground, NOW);
        assert_eq!(lane.take(WIDTH), Some(record("bulk")));
        assert_eq!(lane.take(WIDTH), Some(record("repair")));
        assert_eq!(lane.take(WIDTH), None, "the former reason stands no more");
    }

    #[test]
    fn no_more_than_the_width_is_under_way() {
        let mut lane = Lane::new(7);
        for key in ["a", "b", "c"] {
            lane.push(&record(key), Foreground, NOW);
        }
        assert_eq!(lane.take(2), Some(record("a")));
        assert_eq!(lane.take(2), Some(record("b")));
        assert_eq!(lane.take(2), None);
        lane.finish(&record("a"), Next::Done);
        assert_eq!(lane.take(2), Some(record("c")));
    }

    #[test]
    fn the_oldest_work_counts_from_when_it_came() {
        let mut lane = Lane::new(7);
        lane.push(&record("a"), Foreground, seconds(1));
        lane.push(&record("a"), Foreground, seconds(2));
        assert_eq!(lane.oldest(), Some(seconds(1)));
        let taken = lane.take(WIDTH).unwrap();
        lane.push(&record("a"), Foreground, seconds(3));
        lane.finish(&taken, Next::Done);
        assert_eq!(lane.oldest(), Some(seconds(3)), "what came before is done");
        let taken = lane.take(WIDTH).unwrap();
        lane.finish(&taken, Next::Park(seconds(60)));
        assert_eq!(lane.oldest(), None, "what the store will not take is no backlog");
    }

    #[test]
    fn every_priority_has_its_share_of_turns() {
        let mut lane = Lane::new(7);
        for n in 0..100 {
            for priority in Priority::ALL {
                lane.push(&record(&format!("{priority:?}{n}")), priority, NOW);
            }
        }
        for _ in 0..5 {
            let round: Vec<_> = (0..15).map(|_| lane.take(WIDTH * 10).unwrap().key).collect();
            let of =
                |p: Priority| round.iter().filter(|k| k.starts_with(&format!("{p:?}"))).count();
            assert_eq!([8, 4, 2, 1], Priority::ALL.map(of));
        }
        let mut idle = Lane::new(7);
        idle.push(&record("x"), Reconciliation, NOW);
        assert_eq!(idle.take(WIDTH), Some(record("x")), "turns that nobody needs are given on");
    }

    #[derive(Clone, Debug)]
    enum Do {
        Push(u8, usize),
        Take,
        Finish(usize, u8),
        Wake,
        Resume,
    }

    fn anything() -> impl Strategy<Value = Do> {
        prop_oneof![
            4 => (0..6u8, 0..4usize).prop_map(|(key, priority)| Do::Push(key, priority)),
            4 => Just(Do::Take),
            4 => (0..4usize, 0..5u8).prop_map(|(which, next)| Do::Finish(which, next)),
            1 => Just(Do::Wake),
            1 => Just(Do::Resume),
        ]
    }

    proptest! {
        /// Whatever happens in whatever order: nobody meets on a record, the width holds, and news
        /// is followed by a turn that began after it.
        #[test]
        fn no_news_is_lost_and_no_record_is_worked_on_twice(
            steps in proptest::collection::vec(anything(), 1..200)
        ) {
            let mut lane = Lane::new(7);
            let mut under_way: Vec<RecordId> = Vec::new();
            let mut owed: BTreeSet<RecordId> = BTreeSet::new();
            for step in steps {
                match step {
                    Do::Push(key, priority) => {
                        let record = record(&key.to_string());
                        lane.push(&record, Priority::ALL[priority], NOW);
                        owed.insert(record);
                    }
                    Do::Take => {
                        let taken = lane.take(3);
                        prop_assert!(taken.is_none() || under_way.len() < 3);
                        if let Some(record) = taken {
                            prop_assert!(!under_way.contains(&record));
                            owed.remove(&record);
                            under_way.push(record);
                        }
                    }
                    Do::Finish(which, next) if !under_way.is_empty() => {
                        let record = under_way.swap_remove(which % under_way.len());
                        let next = match next {
                            0 => Next::Done,
                            1 => Next::Again,
                            2 => Next::At(seconds(1)),
                            3 => Next::Retry(seconds(1)),
                            _ => Next::Park(seconds(1)),
                        };
                        if next != Next::Done {
                            owed.insert(record.clone());
                        }
                        lane.finish(&record, next);
                    }
                    Do::Finish(..) => {}
                    Do::Wake => lane.wake(seconds(1)),
                    Do::Resume => lane.resume(),
                }
                prop_assert_eq!(lane.under_way(), under_way.len());
                prop_assert_eq!(lane.len_of("d"), lane.len());
            }
            for record in under_way {
                lane.finish(&record, Next::Done);
            }
            lane.wake(Duration::MAX);
            while let Some(record) = lane.take(1) {
                owed.remove(&record);
                lane.finish(&record, Next::Done);
            }
            prop_assert!(owed.is_empty() && lane.is_empty(), "left: {:?}", owed);
        }
    }
}
