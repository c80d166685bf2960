//! Which record each operation is of, so that its state can be asked for.
//!
//! Invariant: at most [`REMEMBERED_MAX`] are remembered, and the oldest are forgotten first. This life's
//! operations come in the order of their numbers, so that nothing is sorted when one comes.

use crate::record::RecordId;
use crate::version::{Actor, Dot};
use std::collections::{BTreeMap, VecDeque};

/// Operations that are remembered.
const REMEMBERED_MAX: usize = 100_000;

pub(super) struct Operations {
    /// Whose numbers rise.
    own: Actor,
    of_own: VecDeque<(u64, RecordId)>,
    /// What the journal held at the start.
    of_others: BTreeMap<Dot, RecordId>,
}

impl Operations {
    pub(super) fn new(own: Actor) -> Self {
        Operations { own, of_own: VecDeque::new(), of_others: BTreeMap::new() }
    }

    pub(super) fn remember(&mut self, dot: Dot, record: &RecordId) {
        if self.of_own.len() + self.of_others.len() >= REMEMBERED_MAX
            && self.of_others.pop_first().is_none()
        {
            self.of_own.pop_front();
        }
        if dot.actor == self.own {
            self.of_own.push_back((dot.counter, record.clone()));
        } else {
            self.of_others.insert(dot, record.clone());
        }
    }

    pub(super) fn get(&self, dot: Dot) -> Option<&RecordId> {
        if dot.actor == self.own {
            Some(&self.of_own[self.place(dot.counter)?].1)
        } else {
            self.of_others.get(&dot)
        }
    }

    pub(super) fn forget(&mut self, dot: Dot) {
        if dot.actor != self.own {
            self.of_others.remove(&dot);
        } else if let Some(at) = self.place(dot.counter) {
            self.of_own.remove(at);
        }
    }

    fn place(&self, counter: u64) -> Option<usize> {
        self.of_own.binary_search_by_key(&counter, |(counter, _)| *counter).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::version::NodeId;
    use std::sync::Arc;

    fn record(key: &str) -> RecordId {
        RecordId { dataset: Arc::from("d"), key: key.into() }
    }

    #[test]
    fn each_is_found_until_it_is_forgotten_and_the_oldest_go_first() {
        let actor = |incarnation| Actor { node: NodeId(1), incarnation };
        let dot = |incarnation, counter| Dot { actor: actor(incarnation), counter };
        let mut operations = Operations::new(actor(2));
        operations.remember(dot(3, 9), &record("replayed"));
        for counter in 1..=REMEMBERED_MAX as u64 {
            operations.remember(dot(2, counter), &record(&counter.to_string()));
        }
        assert_eq!(operations.get(dot(3, 9)), None);
        assert_eq!(operations.get(dot(2, 1)), Some(&record("1")));
        operations.forget(dot(2, 7));
        operations.remember(dot(2, 100_001), &record("new"));
        for (counter, expected) in
            [(1, Some("1")), (7, None), (8, Some("8")), (100_001, Some("new"))]
        {
            assert_eq!(operations.get(dot(2, counter)), expected.map(record).as_ref(), "{counter}");
        }
        operations.remember(dot(2, 100_002), &record("newer"));
        assert_eq!(operations.get(dot(2, 1)), None);
    }
}
