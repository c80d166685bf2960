//! Whether a log is what was written.
//!
//! Invariant: a log that verifies against a head holds, up to that head, exactly the entries that were
//! written behind its first one; and the first one is number 1, or follows what a checkpoint in the log
//! says may be gone. Memory does not grow with the log.
//!
//! What the chain cannot show by itself: entries that are gone from the very end, and a last entry that
//! was replaced together with its hash. Both show against a head that was noted elsewhere.

use super::chain::Head;
use super::entry::{Entry, Unreadable};
use super::event::{Event, Kind};
use crate::version::ContentHash;
use std::fmt;

/// What was found of a log that is whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Verified {
    /// Entries that were read.
    pub entries: u64,
    /// The first one's number; those before it were archived. 0: there is none.
    pub first_seq: u64,
    /// The last one.
    pub head: Head,
    /// The number of the entry whose hash was asked for; entries behind it were written since.
    pub expected_at: Option<u64>,
}

/// Where a log is not what was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Broken {
    /// The first entry that is not as it was written, by the number that it should bear.
    pub seq: u64,
    /// What is wrong with it.
    pub wrong: Wrong,
}

/// What is wrong with an entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Wrong {
    /// Its line was altered.
    Altered(Unreadable),
    /// It was replaced by one with a right hash: the entry behind it was tied to another.
    Replaced,
    /// It is gone, with all up to and including this number.
    Missing {
        /// The last that is gone.
        through: u64,
    },
    /// It stands behind one that was written later.
    Reordered,
    /// It stands there a second time.
    Doubled,
    /// A checkpoint does not fit the log that it stands in.
    Checkpoint,
    /// The log ends in the middle of its line, where more should follow.
    Cut,
    /// The log does not hold the entry with the expected hash: it was cut short or replaced behind
    /// here, or the hash is of another log, or of an entry that was archived.
    Head {
        /// The hash that was asked for.
        expected: ContentHash,
        /// The log's last entry.
        last: Head,
    },
}

impl Wrong {
    /// A stable name for programs.
    pub const fn name(&self) -> &'static str {
        match self {
            Wrong::Altered(_) => "altered",
            Wrong::Replaced => "replaced",
            Wrong::Missing { .. } => "missing",
            Wrong::Reordered => "reordered",
            Wrong::Doubled => "doubled",
            Wrong::Checkpoint => "checkpoint",
            Wrong::Cut => "cut",
            Wrong::Head { .. } => "head",
        }
    }
}

impl fmt::Display for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seq = self.seq;
        match &self.wrong {
            Wrong::Altered(how) => write!(f, "entry {seq} was altered: {how}"),
            Wrong::Replaced => write!(
                f,
                "entry {seq} was replaced: its hash is right, and is not the one that the entry \
                 behind it was tied to"
            ),
            Wrong::Missing { through } if *through == seq => write!(f, "entry {seq} is missing"),
            Wrong::Missing { through } => write!(f, "entries {seq} to {through} are missing"),
            Wrong::Reordered => {
                write!(f, "entry {seq} stands behind one that was written after it")
            }
            Wrong::Doubled => write!(f, "entry {seq} stands there a second time"),
            Wrong::Checkpoint => {
                write!(f, "the checkpoint in entry {seq} does not fit the log that it stands in")
            }
            Wrong::Cut => {
                write!(f, "entry {seq} is cut off in the middle, and this is not the log's end")
            }
            Wrong::Head { expected, last } => write!(
                f,
                "no entry has the expected hash {expected}: the log, whose last entry is {last}, was \
                 cut short or replaced, or the hash is of another log or of an archived entry"
            ),
        }
    }
}

impl std::error::Error for Broken {}

/// Takes a log's lines in order.
#[derive(Clone, Debug)]
pub struct Verifier {
    expected: Option<ContentHash>,
    expected_at: Option<u64>,
    /// What the first entry follows.
    before: Option<Head>,
    last: Option<Head>,
    entries: u64,
    start: Start,
    /// Entries that are gone, until it is known that they do not follow later.
    gap: Option<(u64, u64)>,
}

/// What vouches for the entries before the first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Start {
    /// Nothing has to: there are none, or only a part of a log is looked at.
    Sound,
    /// A checkpoint must; the newest that was found says that all up to here may be gone.
    Owed { vouched: u64 },
}

impl Verifier {
    /// Of a whole log. `expected`: the hash of an entry that must be in it.
    pub fn new(expected: Option<ContentHash>) -> Self {
        let start = Start::Owed { vouched: 0 };
        let (before, last, gap) = (None, None, None);
        Verifier { expected, expected_at: None, before, last, entries: 0, start, gap }
    }

    /// Of a stretch of a log, which may begin anywhere.
    pub fn stretch() -> Self {
        Verifier { start: Start::Sound, ..Verifier::new(None) }
    }

    /// The number that the next entry should bear.
    pub fn next_seq(&self) -> u64 {
        self.last.map_or(1, |last| last.seq + 1)
    }

    /// True from the line on behind which something is known to be gone or moved: what it is tells
    /// the rest of the log.
    pub fn is_suspicious(&self) -> bool {
        self.gap.is_some()
    }

    /// Takes the next line, without its end.
    pub fn take(&mut self, line: &[u8]) -> Result<(), Broken> {
        let entry = match (Entry::parse(line), self.gap) {
            (Ok(entry), _) => entry,
            // What is gone came first.
            (Err(_), Some(_)) => return Ok(()),
            (Err(how), None) => {
                let seq = match (&how, self.last) {
                    (Unreadable::Hash { seq }, None) => *seq,
                    (Unreadable::Hash { .. } | Unreadable::Form { .. }, _) => self.next_seq(),
                };
                return Err(Broken { seq, wrong: Wrong::Altered(how) });
            }
        };
        let seq = entry.seq();
        if let Some((from, through)) = self.gap {
            return if (from..=through).contains(&seq) {
                Err(Broken { seq: from, wrong: Wrong::Reordered })
            } else {
                // The log is broken, and may yet begin where it says.
                if entry.kind() == Some(Kind::Archived)
                    && let Ok(Event::Archived { through_seq, .. }) = entry.event()
                {
                    self.vouch(through_seq);
                }
                Ok(())
            };
        }
        match self.last {
            None => self.begin(&entry)?,
            Some(last) if seq == last.seq + 1 => {
                if entry.prev() != last.hash {
                    return Err(Broken { seq: last.seq, wrong: Wrong::Replaced });
                }
            }
            Some(last) if seq > last.seq + 1 => {
                self.gap = Some((last.seq + 1, seq - 1));
                return Ok(());
            }
            Some(_) => {
                let is_older = self.before.is_some_and(|before| seq <= before.seq);
                let wrong = if is_older { Wrong::Reordered } else { Wrong::Doubled };
                return Err(Broken { seq, wrong });
            }
        }
        self.last = Some(entry.head());
        self.entries += 1;
        self.look_for(entry.head());
        if entry.kind() == Some(Kind::Archived) {
            self.checkpoint(&entry)?;
        }
        Ok(())
    }

    /// A line that ends before its end, where more should follow.
    pub fn cut(&self) -> Broken {
        match self.gap {
            Some((seq, through)) => Broken { seq, wrong: Wrong::Missing { through } },
            None => Broken { seq: self.next_seq(), wrong: Wrong::Cut },
        }
    }

    /// The log ends here.
    pub fn finish(self) -> Result<Verified, Broken> {
        if let (Some(before), Start::Owed { vouched }) = (self.before, self.start)
            && vouched < before.seq
        {
            let wrong = Wrong::Missing { through: before.seq };
            return Err(Broken { seq: vouched + 1, wrong });
        }
        if let Some((seq, through)) = self.gap {
            return Err(Broken { seq, wrong: Wrong::Missing { through } });
        }
        let head = self.last.unwrap_or(Head::START);
        if let (Some(expected), None) = (self.expected, self.expected_at)
            && expected != head.hash
        {
            let wrong = Wrong::Head { expected, last: head };
            return Err(Broken { seq: head.seq + 1, wrong });
        }
        Ok(Verified {
            entries: self.entries,
            first_seq: self.before.map_or(0, |before| before.seq + 1),
            head,
            expected_at: self.expected_at.or(self.expected.map(|_| head.seq)),
        })
    }

    fn begin(&mut self, entry: &Entry) -> Result<(), Broken> {
        let before = Head { seq: entry.seq() - 1, hash: entry.prev() };
        if before.seq == 0 {
            if before != Head::START {
                return Err(Broken { seq: 1, wrong: Wrong::Replaced });
            }
            self.start = Start::Sound;
        }
        self.before = Some(before);
        self.look_for(before);
        Ok(())
    }

    /// A known head may be of any entry, and of one that a checkpoint names.
    fn look_for(&mut self, head: Head) {
        if self.expected == Some(head.hash) {
            self.expected_at = Some(head.seq);
        }
    }

    fn vouch(&mut self, through_seq: u64) {
        if let Start::Owed { vouched } = &mut self.start {
            *vouched = (*vouched).max(through_seq);
        }
    }

    fn checkpoint(&mut self, entry: &Entry) -> Result<(), Broken> {
        let broken = || Broken { seq: entry.seq(), wrong: Wrong::Checkpoint };
        let Ok(Event::Archived { through_seq, through_hash, .. }) = entry.event() else {
            return Err(broken());
        };
        let through = Head { seq: through_seq, hash: through_hash };
        // Those in between are tied to it by the chain that it stands in.
        let fits = |known: Head| known.seq != through.seq || known == through;
        let previous = Head { seq: entry.seq() - 1, hash: entry.prev() };
        if through.seq > previous.seq || !fits(previous) || !self.before.is_none_or(fits) {
            return Err(broken());
        }
        self.vouch(through.seq);
        self.look_for(through);
        Ok(())
    }
}

/// Verifies a log that is given line by line, without the lines' ends. `expected`: the hash of an
/// entry that must be in it.
pub fn verify<L: AsRef<[u8]>>(
    lines: impl IntoIterator<Item = L>,
    expected: Option<ContentHash>,
) -> Result<Verified, Broken> {
    let mut verifier = Verifier::new(expected);
    for line in lines {
        verifier.take(line.as_ref())?;
    }
    verifier.finish()
}

#[cfg(test)]
mod tests {
    use super::super::Chain;
    use super::super::conflict::tests::conflict;
    use super::super::event::tests::events;
    use super::*;
    use proptest::prelude::*;
    use proptest::sample::Index;

    type Lines = Vec<Vec<u8>>;

    fn checkpoint(through: Head) -> Event {
        let Head { seq, hash } = through;
        Event::Archived { through_seq: seq, through_hash: hash, entries: seq }
    }

    /// A log of so many conflicts.
    fn log(entries: u64) -> (Lines, Head) {
        let mut chain = Chain::new();
        let event = |n| Event::Conflict(Box::new(conflict(n)));
        let lines = (1..=entries).map(|n| line(&chain.append(n, &event(n)))).collect();
        (lines, chain.head())
    }

    fn line(entry: &Entry) -> Vec<u8> {
        entry.to_line().into_bytes()
    }

    fn parsed(line: &[u8]) -> Entry {
        Entry::parse(line).expect("it was written so")
    }

    /// The same entry with another event, and the hash that is right for it.
    fn forged(old: &[u8]) -> Vec<u8> {
        let entry = parsed(old);
        let before = Head { seq: entry.seq() - 1, hash: entry.prev() };
        let event = Event::Operator {
            who: "nobody".into(),
            action: "nothing".into(),
            target: "".into(),
            reason: "".into(),
        };
        line(&Chain::resume(before).append(entry.at_ms(), &event))
    }

    #[test]
    fn a_whole_log_verifies_and_says_what_it_is() {
        let (lines, head) = log(9);
        let whole = Verified { entries: 9, first_seq: 1, head, expected_at: None };
        assert_eq!(verify(&lines, None), Ok(whole));
        let at = |hash| verify(&lines, Some(hash)).map(|verified| verified.expected_at);
        assert_eq!(at(head.hash), Ok(Some(9)));
        assert_eq!(at(parsed(&lines[3]).hash()), Ok(Some(4)), "the log has grown since");
        assert_eq!(at(Head::START.hash), Ok(Some(0)), "it was empty then");
        let empty = Verified { entries: 0, first_seq: 0, head: Head::START, expected_at: None };
        assert_eq!(verify(Lines::new(), None), Ok(empty));
        assert!(verify(Lines::new(), Some(head.hash)).is_err());
    }

    #[test]
    fn each_way_of_tampering_is_found_and_told() {
        let (lines, head) = log(9);
        let check = |what: &str, tamper: &dyn Fn(&mut Lines), seq: u64, wrong: &str| {
            let mut lines = lines.clone();
            tamper(&mut lines);
            let broken = verify(&lines, None).expect_err(what);
            assert_eq!((broken.seq, broken.wrong.name()), (seq, wrong), "{what}: {broken}");
            assert!(verify(&lines, Some(head.hash)).is_err(), "{what}");
        };
        check("a bit", &|l| l[4][300] ^= 1, 5, "altered");
        check("a bit of the number", &|l| l[4][7] ^= 1, 5, "altered");
        check("a bit of the first line's", &|l| l[0][300] ^= 1, 1, "altered");
        check("two entries swapped", &|l| l.swap(3, 4), 4, "reordered");
        check("the first two", &|l| l.swap(0, 1), 1, "reordered");
        check("the last two", &|l| l.swap(7, 8), 8, "reordered");
        check("first and last", &|l| l.swap(0, 8), 2, "reordered");
        check("one moved to the end", &|l| l[2..].rotate_left(1), 3, "reordered");
        check("one gone", &|l| drop(l.remove(4)), 5, "missing");
        check("the first gone", &|l| drop(l.remove(0)), 1, "missing");
        check("some gone", &|l| drop(l.drain(2..6)), 3, "missing");
        check("one doubled", &|l| l.insert(4, l[4].clone()), 5, "doubled");
        check("one again later", &|l| l.push(l[4].clone()), 5, "doubled");
        check("one replaced, with its hash", &|l| l[4] = forged(&l[4]), 5, "replaced");
        check("the first replaced so", &|l| l[0] = forged(&l[0]), 1, "replaced");
        check("a line cut", &|l| l[4].truncate(200), 5, "altered");
        check(
            "two lines in one",
            &|l| {
                let next = l.remove(5);
                l[4].extend(next);
            },
            5,
            "altered",
        );
        check("an empty line", &|l| l.insert(4, Vec::new()), 5, "altered");
        check(
            "a line of another log",
            &|l| l[0] = line(&Chain::resume(Head { seq: 0, ..head }).append(1, &events()[1])),
            1,
            "replaced",
        );
    }

    #[test]
    fn what_is_done_to_the_end_shows_against_a_known_head() {
        let (lines, head) = log(9);
        let check = |tamper: &dyn Fn(&mut Lines), seq: u64| {
            let mut lines = lines.clone();
            tamper(&mut lines);
            assert!(verify(&lines, None).is_ok(), "nothing in the log itself shows it");
            let broken = verify(&lines, Some(head.hash)).unwrap_err();
            assert_eq!((broken.seq, broken.wrong.name()), (seq, "head"));
        };
        check(&|l| drop(l.pop()), 9);
        check(&|l| l.truncate(3), 4);
        check(&|l| l.clear(), 1);
        check(&|l| l[8] = forged(&l[8]), 10);
    }

    /// Ten entries, of which the first four were archived; then the checkpoint and three more.
    fn archived() -> (Lines, Head) {
        let (mut lines, head) = log(10);
        let mut chain = Chain::resume(head);
        let through = parsed(&lines[3]).head();
        lines.push(line(&chain.append(11, &checkpoint(through))));
        lines.extend(events()[..3].iter().map(|event| line(&chain.append(12, event))));
        (lines, chain.head())
    }

    #[test]
    fn a_log_goes_on_behind_its_checkpoint() {
        let (lines, head) = archived();
        let check = |from: usize, expected: Result<u64, (u64, &str)>| {
            let verified = verify(&lines[from..], Some(head.hash));
            let found = verified.as_ref().map(|v| v.first_seq);
            let found = found.map_err(|broken| (broken.seq, broken.wrong.name()));
            assert_eq!(found, expected, "from {from}");
        };
        check(0, Ok(1));
        // A move that was interrupted: some of what may be gone is still there.
        check(2, Ok(3));
        check(4, Ok(5));
        check(5, Err((5, "missing")));
        check(10, Err((5, "missing")));
        check(11, Err((1, "missing")));
        let at = verify(&lines[4..], Some(parsed(&lines[3]).hash())).unwrap().expected_at;
        assert_eq!(at, Some(4), "the head of then is what the checkpoint names");
        let mut gap = lines[4..].to_vec();
        gap.remove(2);
        let broken = verify(&gap, None).unwrap_err();
        assert_eq!((broken.seq, broken.wrong.name()), (7, "missing"), "not what was archived");
    }

    #[test]
    fn a_log_may_begin_with_its_checkpoint() {
        let (_, head) = log(4);
        let mut chain = Chain::resume(head);
        let mut lines = vec![line(&chain.append(5, &checkpoint(head)))];
        lines.extend(events().iter().map(|event| line(&chain.append(6, event))));
        // The one among these events names a hash of nothing.
        lines.pop();
        assert_eq!(verify(&lines, None).map(|verified| verified.first_seq), Ok(5));
    }

    #[test]
    fn a_head_that_an_older_checkpoint_names_is_known_still() {
        let (mut lines, head) = log(6);
        let mut chain = Chain::resume(head);
        for through in [4, 6] {
            let head = parsed(&lines[through - 1]).head();
            lines.push(line(&chain.append(7, &checkpoint(head))));
        }
        let noted = parsed(&lines[3]).hash();
        assert_eq!(verify(&lines[6..], Some(noted)).unwrap().expected_at, Some(4));
    }

    #[test]
    fn a_checkpoint_that_does_not_fit_is_found() {
        let (lines, head) = log(4);
        let check = |through: Head, from: usize| {
            let mut lines = lines[from..].to_vec();
            lines.push(line(&Chain::resume(head).append(5, &checkpoint(through))));
            let broken = verify(&lines, None).unwrap_err();
            assert_eq!((broken.seq, broken.wrong.name()), (5, "checkpoint"));
        };
        check(Head { seq: 5, ..head }, 0);
        check(Head { seq: 4, hash: Head::START.hash }, 0);
        check(Head { seq: 2, ..head }, 2);
    }

    #[derive(Clone, Debug)]
    enum Mutation {
        Flip { line: Index, byte: Index, bit: u8 },
        Swap { one: Index, other: Index },
        Delete { line: Index },
        Double { line: Index, at: Index },
        Forge { line: Index },
        Cut { line: Index, to: Index },
        End { at: Index },
        Begin { at: Index },
        Insert { at: Index, bytes: Vec<u8> },
    }

    fn mutation() -> impl Strategy<Value = Mutation> {
        let i = any::<Index>;
        prop_oneof![
            (i(), i(), 0u8..8).prop_map(|(line, byte, bit)| Mutation::Flip { line, byte, bit }),
            (i(), i()).prop_map(|(one, other)| Mutation::Swap { one, other }),
            i().prop_map(|line| Mutation::Delete { line }),
            (i(), i()).prop_map(|(line, at)| Mutation::Double { line, at }),
            i().prop_map(|line| Mutation::Forge { line }),
            (i(), i()).prop_map(|(line, to)| Mutation::Cut { line, to }),
            i().prop_map(|at| Mutation::End { at }),
            i().prop_map(|at| Mutation::Begin { at }),
            (i(), proptest::collection::vec(any::<u8>(), 0..40))
                .prop_map(|(at, bytes)| Mutation::Insert { at, bytes }),
        ]
    }

    fn mutate(lines: &mut Lines, mutation: Mutation) {
        let count = lines.len();
        match mutation {
            Mutation::Flip { line, byte, bit } => {
                let line = &mut lines[line.index(count)];
                let byte = byte.index(line.len());
                line[byte] ^= 1 << bit;
            }
            Mutation::Swap { one, other } => lines.swap(one.index(count), other.index(count)),
            Mutation::Delete { line } => drop(lines.remove(line.index(count))),
            Mutation::Double { line, at } => {
                let line = lines[line.index(count)].clone();
                lines.insert(at.index(count + 1), line);
            }
            Mutation::Forge { line } => {
                let line = &mut lines[line.index(count)];
                *line = forged(line);
            }
            Mutation::Cut { line, to } => {
                let line = &mut lines[line.index(count)];
                let to = to.index(line.len());
                line.truncate(to);
            }
            Mutation::End { at } => lines.truncate(at.index(count)),
            Mutation::Begin { at } => drop(lines.drain(..1 + at.index(count))),
            Mutation::Insert { at, bytes } => lines.insert(at.index(count + 1), bytes),
        }
    }

    proptest! {
        #[test]
        fn no_mutated_log_verifies_with_the_old_head(
            picks in proptest::collection::vec((any::<Index>(), any::<u64>()), 1..20),
            mutation in mutation(),
        ) {
            let mut kinds = events();
            kinds.pop();
            let mut chain = Chain::new();
            let entries = picks.iter().map(|(pick, at)| chain.append(*at, pick.get(&kinds)));
            let lines: Lines = entries.map(|entry| line(&entry)).collect();
            let head = chain.head();
            prop_assert!(verify(&lines, Some(head.hash)).is_ok());
            let mut mutated = lines.clone();
            mutate(&mut mutated, mutation);
            if mutated != lines {
                prop_assert!(verify(&mutated, Some(head.hash)).is_err());
            }
        }
    }
}
