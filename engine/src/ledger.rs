//! The ledger: what the authority was last known to hold, per record.
//!
//! Invariant: an entry is never newer than the authority. The ledger is complete, and then a
//! record without an entry does not exist; or it says that it is not, and then the authority must
//! be asked before a write gets its dot (rule V1). It lives in memory and is filled from the
//! authority's change feed after each start.

use crate::record::RecordId;
use crate::row::{Expect, Seq};
use crate::version::Version;
use std::collections::BTreeMap;
use std::sync::Arc;

/// The authority's row as last seen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Known {
    /// Its version; none when the record was looked for and is not there.
    pub version: Option<Version>,
    /// Its row sequence; orders what is learned.
    pub row_seq: u64,
    /// The place of its last change in the authority's feed.
    pub seq: Seq,
}

impl Known {
    /// What a compare-and-set over it expects.
    pub fn expect(&self) -> Expect {
        let history = self.version.as_ref().map(|v| v.history.clone()).unwrap_or_default();
        Expect { history, row_seq: self.row_seq }
    }
}

/// What is known of the authority.
#[derive(Debug, Default)]
pub struct Ledger {
    entries: BTreeMap<RecordId, Known>,
    cursor: Seq,
    complete: bool,
}

impl Ledger {
    /// How far the change feed was followed.
    pub fn cursor(&self) -> Seq {
        self.cursor
    }

    /// The feed was followed to `seq`; `end`: to its end.
    pub fn followed(&mut self, seq: Seq, end: bool) {
        self.cursor = self.cursor.max(seq);
        self.complete |= end;
    }

    /// True once the feed was followed to its end.
    pub fn is_complete(&self) -> bool {
        self.complete
    }

    /// What is known of a record; `None`: it must be asked for.
    pub fn known(&self, record: &RecordId) -> Option<Known> {
        match self.entries.get(record) {
            Some(known) => Some(known.clone()),
            None if self.complete => Some(Known { version: None, row_seq: 0, seq: Seq(0) }),
            None => None,
        }
    }

    /// Learns of a row. Older news changes nothing. True when it was news.
    pub fn learn(
        &mut self,
        record: &RecordId,
        version: Option<Version>,
        row_seq: u64,
        seq: Seq,
    ) -> bool {
        match self.entries.get_mut(record) {
            Some(known) if known.row_seq >= row_seq => false,
            Some(known) => {
                *known = Known { version, row_seq, seq };
                true
            }
            None => {
                self.entries.insert(record.clone(), Known { version, row_seq, seq });
                true
            }
        }
    }

    /// The records that exist, after `after`, in order.
    pub fn records(&self, after: Option<&RecordId>) -> impl Iterator<Item = (&RecordId, &Version)> {
        use std::ops::Bound;
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        self.entries.range::<RecordId, _>((from, Bound::Unbounded)).filter_map(|(record, known)| {
            let version = known.version.as_ref()?;
            (!version.current().deleted).then_some((record, version))
        })
    }

    /// A dataset's records, tombstones included, with keys after `after`, up to `through`.
    pub fn range(
        &self,
        dataset: &Arc<str>,
        after: Option<&str>,
        through: Option<&str>,
    ) -> impl Iterator<Item = (&RecordId, &Known)> {
        use std::ops::Bound;
        let first = RecordId { dataset: dataset.clone(), key: after.unwrap_or("").into() };
        let from = if after.is_some() { Bound::Excluded(&first) } else { Bound::Included(&first) };
        let entries = self.entries.range::<RecordId, _>((from, Bound::Unbounded));
        entries.take_while(move |(record, _)| {
            record.dataset == *dataset && through.is_none_or(|through| *record.key <= *through)
        })
    }

    /// How many records it knows of, tombstones included.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// True when it knows of none.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn v1_an_unknown_record_is_absent_only_once_the_ledger_is_complete() {
        let record = RecordId { dataset: Arc::from("d"), key: "k".into() };
        let mut ledger = Ledger::default();
        ledger.followed(Seq(3), false);
        assert_eq!(ledger.known(&record), None);
        ledger.followed(Seq(5), true);
        assert_eq!(ledger.known(&record), Some(Known { version: None, row_seq: 0, seq: Seq(0) }));
    }

    #[test]
    fn older_news_changes_nothing() {
        let record = RecordId { dataset: Arc::from("d"), key: "k".into() };
        let mut ledger = Ledger::default();
        assert!(ledger.learn(&record, None, 2, Seq(2)));
        assert!(!ledger.learn(&record, None, 2, Seq(2)));
        assert!(!ledger.learn(&record, None, 1, Seq(1)));
        assert!(ledger.learn(&record, None, 3, Seq(3)));
    }
}
