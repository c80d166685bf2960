//! A lane: the records that one store is owed work on, in order of arrival.
//!
//! Invariant: a record is in at most one place: waiting, delayed or under way. News of a record
//! that is under way makes it wait again when that work ends, so no news is lost and no two
//! workers meet on one record. Nothing is dropped: the lane holds record names only, one for each
//! record, and the intents behind them are bounded where they are accepted.

use crate::record::RecordId;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    Waiting,
    Delayed(Duration),
    UnderWay { news: bool },
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
}

/// See the module.
#[derive(Debug, Default)]
pub struct Lane {
    places: BTreeMap<RecordId, Place>,
    waiting: VecDeque<RecordId>,
    delayed: BTreeSet<(Duration, RecordId)>,
    paused: bool,
}

impl Lane {
    /// News of a record. One that is delayed stays so: news does not shorten a back-off.
    pub fn push(&mut self, record: &RecordId) {
        match self.places.get_mut(record) {
            None => {
                self.places.insert(record.clone(), Place::Waiting);
                self.waiting.push_back(record.clone());
            }
            Some(Place::UnderWay { news }) => *news = true,
            Some(Place::Waiting | Place::Delayed(_)) => {}
        }
    }

    /// The next record to work on, unless the lane is paused.
    pub fn take(&mut self) -> Option<RecordId> {
        if self.paused {
            return None;
        }
        let record = self.waiting.pop_front()?;
        self.places.insert(record.clone(), Place::UnderWay { news: false });
        Some(record)
    }

    /// True when [`Lane::take`] would give a record.
    pub fn is_ready(&self) -> bool {
        !self.paused && !self.waiting.is_empty()
    }

    /// A worker lets go of a record.
    pub fn finish(&mut self, record: &RecordId, next: Next) {
        let news = match self.places.get(record) {
            Some(Place::UnderWay { news }) => *news,
            Some(Place::Waiting | Place::Delayed(_)) | None => false,
        };
        match next {
            Next::Done if !news => {
                self.places.remove(record);
            }
            Next::Done | Next::Again => {
                self.places.insert(record.clone(), Place::Waiting);
                self.waiting.push_back(record.clone());
            }
            Next::At(at) => {
                self.places.insert(record.clone(), Place::Delayed(at));
                self.delayed.insert((at, record.clone()));
            }
        }
    }

    /// Moves what is due at `now` to the waiting.
    pub fn wake(&mut self, now: Duration) {
        while let Some((at, _)) = self.delayed.first()
            && *at <= now
        {
            let (_, record) = self.delayed.pop_first().expect("looked at above");
            self.places.insert(record.clone(), Place::Waiting);
            self.waiting.push_back(record);
        }
    }

    /// When the next delayed record is due.
    pub fn due(&self) -> Option<Duration> {
        self.delayed.first().map(|(at, _)| *at)
    }

    /// The store does not answer: nothing is taken until [`Lane::resume`].
    pub fn pause(&mut self) {
        self.paused = true;
    }

    /// The store answers again: back-off starts anew, so what is delayed is due at once.
    pub fn resume(&mut self) {
        self.paused = false;
        self.wake(Duration::MAX);
    }

    /// Records that wait, are delayed or under way.
    pub fn len(&self) -> usize {
        self.places.len()
    }

    /// True when there is no work.
    pub fn is_empty(&self) -> bool {
        self.places.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    fn record(key: &str) -> RecordId {
        RecordId { dataset: Arc::from("d"), key: key.into() }
    }

    #[test]
    fn news_during_work_is_not_lost_and_not_doubled() {
        let mut lane = Lane::default();
        lane.push(&record("a"));
        lane.push(&record("a"));
        let taken = lane.take().unwrap();
        assert_eq!(lane.take(), None, "queued once");
        lane.push(&record("a"));
        assert_eq!(lane.take(), None, "nobody else works on it meanwhile");
        lane.finish(&taken, Next::Done);
        assert_eq!(lane.take(), Some(record("a")));
        lane.finish(&record("a"), Next::Done);
        assert!(lane.is_empty());
    }

    #[test]
    fn back_off_holds_until_due_or_resumed() {
        let mut lane = Lane::default();
        lane.push(&record("a"));
        let taken = lane.take().unwrap();
        lane.finish(&taken, Next::At(Duration::from_secs(2)));
        lane.push(&record("a"));
        assert_eq!(lane.take(), None);
        lane.wake(Duration::from_secs(1));
        assert_eq!(lane.take(), None);
        lane.pause();
        lane.resume();
        assert_eq!(lane.take(), Some(record("a")));
    }

    #[test]
    fn a_paused_lane_gives_nothing_and_forgets_nothing() {
        let mut lane = Lane::default();
        lane.pause();
        lane.push(&record("a"));
        assert_eq!(lane.take(), None);
        lane.resume();
        assert_eq!(lane.take(), Some(record("a")));
    }
}
