//! Dead letters: what a store will never take as it is.
//!
//! ```text
//! refused on the merits ──> suspect ── TRIES_MIN refusals ──> dead ── applied | superseded |
//!   TooLarge, Constraint                                       │       discarded | elsewhere
//!                                 RETRY_EVERY, or an operator ─┴─> tried once more
//! ```
//!
//! A letter is no copy of what it is about. At the authority that is an intent, which stays in the
//! journal; at a projection it is the mark in the row (rule A5c). The journal keeps the letters
//! themselves for their history, and for this case: a write that is resolved against a dead one has
//! to keep its bytes as a loser's (rule V6), and the authority may refuse those too. Then the letter
//! is where they are kept ([`DeadLetter::unkept`]): the newer write goes its way without them, and
//! the intent stays in the journal until an operator discards it.
//!
//! Invariant: the queue is bounded for each dataset. Whatever finds no place in it goes on being
//! tried, and the dataset takes no new writes.

use crate::env::{Refusal, RefusalKind};
use crate::record::{RecordId, StoreId};
use crate::version::{Actor, Dot, NodeId};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

/// Refusals on the merits that make a letter dead.
pub const TRIES_MIN: u32 = 3;
/// Between two tries of a dead letter that nobody asks for: a schema may have been changed.
pub const RETRY_EVERY: Duration = Duration::from_secs(60);
/// Tries whose words are kept.
const TRIES_KEPT: usize = 8;
/// Bytes of a store's words that are kept.
const WORDS_BYTES_MAX: usize = 1_000;
/// Letters that have ended and are still shown.
const ENDED_KEPT: usize = 100;

/// One refusal.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Try {
    /// When, by the coordinator's wall clock: milliseconds since the epoch.
    pub at_ms: u64,
    /// What kind.
    pub kind: RefusalKind,
    /// The store's words.
    pub reason: String,
}

/// What a store will not take.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeadLetter {
    /// Names it, over restarts too.
    pub id: String,
    /// Which record.
    pub record: RecordId,
    /// Which store refuses it.
    pub store: StoreId,
    /// The write whose bytes are refused.
    pub dot: Dot,
    /// How many.
    pub bytes: u64,
    /// Refusals so far.
    pub tries: u32,
    /// The last of them, oldest first.
    pub history: Vec<Try>,
    /// When the first refusal came, by the coordinator's wall clock.
    pub since_ms: u64,
    /// The authority does not take its bytes as a loser's either: they are kept here alone.
    pub unkept: bool,
    /// The write that stands in the authority over it. It is not tried any more.
    pub lost_to: Option<Dot>,
    /// When it is tried again (monotonic); `None`: it is not dead yet.
    #[serde(skip)]
    pub retry_at: Option<Duration>,
}

impl DeadLetter {
    /// The store's last words.
    pub fn reason(&self) -> &str {
        self.history.last().map_or("", |last| &last.reason)
    }
}

/// How a dead letter ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ending {
    /// The store took it after all.
    Applied,
    /// A version that includes it took its place; or it lost a conflict, and is kept beside the
    /// winner.
    Superseded {
        /// The write that is current now.
        by: Dot,
    },
    /// The value's time has passed, so that nothing of it is to be taken any more.
    Expired,
    /// An operator gave it up.
    Discarded {
        /// Why.
        reason: String,
    },
    /// It was conditional, and its condition did not hold.
    Cancelled,
    /// Another coordinator looks after this copy now, or nobody has to.
    Elsewhere,
}

/// A dead letter that ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EndedLetter {
    /// What it was.
    pub letter: DeadLetter,
    /// How it ended.
    pub ending: Ending,
    /// When, by the coordinator's wall clock.
    pub at_ms: u64,
}

/// What a refusal asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Back off and try again.
    TryAgain,
    /// It is dead, and not tried before this time unless somebody asks.
    Dead(Duration),
}

type Place = (RecordId, StoreId, Dot);

/// The queue.
#[derive(Debug, Default)]
pub struct DeadLetters {
    letters: BTreeMap<Place, DeadLetter>,
    by_dataset: BTreeMap<Arc<str>, usize>,
    dead: usize,
    ended: VecDeque<EndedLetter>,
}

/// What was refused.
#[derive(Clone, Copy, Debug)]
pub struct Refused<'a> {
    /// Which record.
    pub record: &'a RecordId,
    /// By which store.
    pub store: StoreId,
    /// The write whose bytes they are.
    pub dot: Dot,
    /// How many.
    pub bytes: u64,
}

impl DeadLetters {
    /// A store refused something on its merits.
    pub fn refused(
        &mut self,
        what: Refused<'_>,
        refusal: &Refusal,
        letters_max: usize,
        wall: Duration,
        now: Duration,
    ) -> Verdict {
        let Refused { record, store, dot, bytes } = what;
        let place = (record.clone(), store, dot);
        if !self.letters.contains_key(&place) {
            let of_dataset = self.by_dataset.entry(record.dataset.clone()).or_default();
            if *of_dataset >= letters_max {
                return Verdict::TryAgain;
            }
            *of_dataset += 1;
        }
        let at_ms = millis(wall);
        let letter = self.letters.entry(place).or_insert_with(|| DeadLetter {
            id: id(record, store, dot),
            record: record.clone(),
            store,
            dot,
            bytes,
            tries: 0,
            history: Vec::new(),
            since_ms: at_ms,
            unkept: false,
            lost_to: None,
            retry_at: None,
        });
        letter.tries += 1;
        if letter.history.len() == TRIES_KEPT {
            letter.history.remove(0);
        }
        letter.history.push(Try { at_ms, kind: refusal.kind, reason: words(&refusal.detail) });
        if letter.tries < TRIES_MIN {
            return Verdict::TryAgain;
        }
        let retry_at = now + RETRY_EVERY;
        if letter.retry_at.replace(retry_at).is_none() {
            self.dead += 1;
        }
        Verdict::Dead(retry_at)
    }

    /// A letter that a journal kept, to be tried again at `now`.
    pub fn restore(&mut self, letter: DeadLetter, now: Duration) {
        let place = (letter.record.clone(), letter.store, letter.dot);
        let letter = DeadLetter { retry_at: Some(now), ..letter };
        *self.by_dataset.entry(letter.record.dataset.clone()).or_default() += 1;
        self.dead += 1;
        self.letters.insert(place, letter);
    }

    /// One of a record at a store.
    pub fn letter(&self, record: &RecordId, store: StoreId, dot: Dot) -> Option<&DeadLetter> {
        if self.letters.is_empty() {
            return None;
        }
        self.letters.get(&(record.clone(), store, dot))
    }

    /// Changes one that is dead; gives it as it is now.
    pub fn change(
        &mut self,
        record: &RecordId,
        store: StoreId,
        dot: Dot,
        change: impl FnOnce(&mut DeadLetter),
    ) -> Option<DeadLetter> {
        let letter = self.letters.get_mut(&(record.clone(), store, dot))?;
        change(letter);
        letter.retry_at.map(|_| letter.clone())
    }

    /// True when an operator gave up this write not long ago.
    pub fn is_discarded(&self, record: &RecordId, dot: Dot) -> bool {
        let mut ended = self.ended.iter();
        ended.any(|ended| {
            ended.letter.dot == dot
                && ended.letter.record == *record
                && matches!(ended.ending, Ending::Discarded { .. })
        })
    }

    /// True when nothing was refused.
    pub fn is_empty(&self) -> bool {
        self.letters.is_empty()
    }

    /// Letters that are dead.
    pub fn len(&self) -> usize {
        self.dead
    }

    /// True when a dataset may have no more of them.
    pub fn is_full(&self, dataset: &Arc<str>, letters_max: usize) -> bool {
        self.by_dataset.get(dataset).is_some_and(|count| *count >= letters_max)
    }

    /// Until when a write is not to be tried at a store; `None`: it may be.
    pub fn dead_until(&self, record: &RecordId, store: StoreId, dot: Dot) -> Option<Duration> {
        self.letter(record, store, dot)?.retry_at
    }

    /// Dead letters in order.
    pub fn iter(&self) -> impl Iterator<Item = &DeadLetter> {
        self.letters.values().filter(|letter| letter.retry_at.is_some())
    }

    /// Those of one record at one store, not yet dead ones included.
    pub fn at(&self, record: &RecordId, store: StoreId) -> impl Iterator<Item = &DeadLetter> {
        let first = Dot { actor: Actor { node: NodeId(0), incarnation: 0 }, counter: 0 };
        let from = (record.clone(), store, first);
        self.letters
            .range(from..)
            .map(|(_, letter)| letter)
            .take_while(move |letter| letter.record == *record && letter.store == store)
    }

    /// True when something of a record is refused by some store.
    pub fn concerns(&self, record: &RecordId) -> bool {
        !self.is_empty() && StoreId::ALL.into_iter().any(|s| self.at(record, s).next().is_some())
    }

    /// One by its id.
    pub fn find(&self, id: &str) -> Option<&DeadLetter> {
        self.iter().find(|letter| letter.id == id)
    }

    /// The newest that ended, oldest first.
    pub fn ended(&self) -> impl DoubleEndedIterator<Item = &EndedLetter> {
        self.ended.iter()
    }

    /// Lets what is dead of a record at a store be tried at once.
    pub fn retry(&mut self, record: &RecordId, store: StoreId, now: Duration) {
        for letter in self.letters.values_mut() {
            let waits = letter.retry_at.is_some() && letter.lost_to.is_none();
            if letter.store == store && letter.record == *record && waits {
                letter.retry_at = Some(now);
            }
        }
    }

    /// A letter is no more. Gives it, if it was dead; what was only suspect leaves no trace.
    pub fn end(
        &mut self,
        record: &RecordId,
        store: StoreId,
        dot: Dot,
        ending: Ending,
        wall: Duration,
    ) -> Option<DeadLetter> {
        if self.letters.is_empty() {
            return None;
        }
        let letter = self.letters.remove(&(record.clone(), store, dot))?;
        if let Some(count) = self.by_dataset.get_mut(&record.dataset) {
            *count -= 1;
            if *count == 0 {
                self.by_dataset.remove(&record.dataset);
            }
        }
        letter.retry_at?;
        self.dead -= 1;
        if self.ended.len() == ENDED_KEPT {
            self.ended.pop_front();
        }
        self.ended.push_back(EndedLetter { letter: letter.clone(), ending, at_ms: millis(wall) });
        Some(letter)
    }
}

fn millis(wall: Duration) -> u64 {
    u64::try_from(wall.as_millis()).unwrap_or(u64::MAX)
}

/// The same for the same write at the same store, whoever meets it.
fn id(record: &RecordId, store: StoreId, dot: Dot) -> String {
    let named = format!("{}\0{}\0{dot}", record.dataset, record.key);
    format!("{store}-{}", &blake3::hash(named.as_bytes()).to_hex()[..16])
}

fn words(detail: &str) -> String {
    let mut end = detail.len().min(WORDS_BYTES_MAX);
    while !detail.is_char_boundary(end) {
        end -= 1;
    }
    detail[..end].to_owned()
}

impl fmt::Display for Ending {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Ending::Applied => f.write_str("applied after all"),
            Ending::Superseded { by } => write!(f, "superseded by {by}"),
            Ending::Expired => f.write_str("its time has passed"),
            Ending::Discarded { reason } => write!(f, "discarded: {reason}"),
            Ending::Cancelled => f.write_str("its condition did not hold"),
            Ending::Elsewhere => f.write_str("looked after elsewhere"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAX: usize = 2;

    fn record(key: &str) -> RecordId {
        RecordId { dataset: Arc::from("d"), key: key.into() }
    }

    fn dot(counter: u64) -> Dot {
        Dot { actor: Actor { node: NodeId(1), incarnation: 7 }, counter }
    }

    fn refuse(letters: &mut DeadLetters, key: &str, counter: u64, at: Duration) -> Verdict {
        let refusal = Refusal::new(RefusalKind::Constraint, "CHECK constraint failed");
        let record = record(key);
        let what = Refused { record: &record, store: StoreId::D1, dot: dot(counter), bytes: 3 };
        letters.refused(what, &refusal, MAX, at, at)
    }

    #[test]
    fn a_few_refusals_make_a_letter_dead_and_its_history_is_bounded() {
        let mut letters = DeadLetters::default();
        let at = Duration::from_secs;
        assert_eq!(refuse(&mut letters, "a", 1, at(1)), Verdict::TryAgain);
        assert_eq!(refuse(&mut letters, "a", 1, at(2)), Verdict::TryAgain);
        assert_eq!(
            (letters.len(), letters.dead_until(&record("a"), StoreId::D1, dot(1))),
            (0, None)
        );
        assert_eq!(refuse(&mut letters, "a", 1, at(3)), Verdict::Dead(at(3) + RETRY_EVERY));
        for n in 4..50 {
            assert_eq!(refuse(&mut letters, "a", 1, at(n)), Verdict::Dead(at(n) + RETRY_EVERY));
        }
        let letter = letters.iter().next().unwrap();
        assert_eq!((letter.tries, letter.history.len(), letter.since_ms), (49, TRIES_KEPT, 1_000));
        assert_eq!(letter.reason(), "CHECK constraint failed");
        assert_eq!(letters.find(&letter.id.clone()).unwrap().dot, dot(1));
        assert_eq!(letters.len(), 1);
    }

    #[test]
    fn a_full_dataset_keeps_trying_and_a_place_is_given_back() {
        let mut letters = DeadLetters::default();
        let dataset = record("a").dataset;
        for _ in 0..TRIES_MIN {
            refuse(&mut letters, "a", 1, Duration::ZERO);
            assert!(!letters.is_full(&dataset, MAX));
        }
        refuse(&mut letters, "b", 2, Duration::ZERO);
        assert!(letters.is_full(&dataset, MAX));
        for _ in 0..10 {
            assert_eq!(refuse(&mut letters, "c", 3, Duration::ZERO), Verdict::TryAgain);
        }
        let by = dot(4);
        let ended = letters.end(
            &record("a"),
            StoreId::D1,
            dot(1),
            Ending::Superseded { by },
            Duration::ZERO,
        );
        assert!(ended.is_some());
        assert!(!letters.is_full(&dataset, MAX));
        assert_eq!(letters.ended().next().unwrap().ending, Ending::Superseded { by });
        let suspect =
            letters.end(&record("b"), StoreId::D1, dot(2), Ending::Applied, Duration::ZERO);
        assert_eq!((suspect, letters.ended().count()), (None, 1), "it never was dead");
        assert!(letters.is_empty());
    }

    #[test]
    fn letters_of_one_record_at_one_store() {
        let mut letters = DeadLetters::default();
        refuse(&mut letters, "a", 1, Duration::ZERO);
        refuse(&mut letters, "a", 2, Duration::ZERO);
        refuse(&mut letters, "ab", 3, Duration::ZERO);
        let at = |store| letters.at(&record("a"), store).map(|l| l.dot.counter).collect::<Vec<_>>();
        assert_eq!(at(StoreId::D1), [1, 2]);
        assert!(at(StoreId::Kv).is_empty());
    }
}
