//! The log as anybody reads it, while it is appended to or not.
//!
//! Invariant: nothing is written and no lock is taken, memory does not grow with the log, and a line
//! that is not as it was written is counted and not shown as an entry.

use super::AuditError;
use super::backwards::Backwards;
use super::segment::{Folder, Line, Lines, Segment};
use crate::audit::{Broken, ConflictId, Entry, Kind, Verified, Verifier};
use crate::version::{ContentHash, Malformed};
use std::fmt;
use std::fs::File;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::str::FromStr;

/// Most entries of a page.
pub const PAGE_ENTRIES_MAX: usize = 1_000;
/// Most entries that name one conflict and are found.
pub const FIND_MAX: usize = 100;
/// Bytes of lines that a page holds; it ends behind the line that goes beyond.
const PAGE_BYTES_MAX: usize = 4 * 1024 * 1024;
/// Bytes that a page looks through; a filter that passes little gives short pages.
const SCAN_BYTES_MAX: usize = 64 * 1024 * 1024;

/// Reads the log of a data folder, archive included.
#[derive(Clone, Debug)]
pub struct Reader {
    folder: Folder,
}

/// Which entries are wanted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filter {
    /// Those about a record of this dataset.
    pub dataset: Option<String>,
    /// Those of this kind.
    pub kind: Option<Kind>,
    /// Those written since, in milliseconds since the epoch.
    pub since_ms: Option<u64>,
}

impl Filter {
    /// True for an entry that is wanted.
    pub fn takes(&self, entry: &Entry) -> bool {
        let is_of =
            |dataset: &str| entry.record().is_some_and(|record| &*record.dataset == dataset);
        self.since_ms.is_none_or(|since_ms| entry.at_ms() >= since_ms)
            && self.kind.is_none_or(|kind| entry.kind() == Some(kind))
            && self.dataset.as_deref().is_none_or(is_of)
    }
}

/// Where the next page begins. It stays good while the log grows and its segments are archived.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cursor {
    segment: u64,
    /// What stands before it in the segment comes next.
    before: u64,
}

impl fmt::Display for Cursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}{:016x}", self.segment, self.before)
    }
}

impl FromStr for Cursor {
    type Err = Malformed;
    fn from_str(text: &str) -> Result<Self, Malformed> {
        let parse = || {
            let is_ours = text.len() == 32 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
            let (segment, before) = is_ours.then(|| text.split_at(16))?;
            let number = |digits| u64::from_str_radix(digits, 16).ok();
            Some(Cursor { segment: number(segment)?, before: number(before)? })
        };
        parse().ok_or_else(|| Malformed { text: text.to_owned(), expected: "a page's cursor" })
    }
}

/// Some entries, the newest first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Page {
    /// They.
    pub entries: Vec<Entry>,
    /// Where the next page begins; `None`: there are no more. A page may be short, or empty, and not
    /// the last.
    pub next: Option<Cursor>,
    /// Lines that were passed over since they are not as they were written.
    pub damaged: u64,
}

/// What can be looked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wanted {
    /// All entries that name a conflict.
    Conflict(ConflictId),
    /// The entry with this number.
    Entry(u64),
}

impl FromStr for Wanted {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let by_number = || {
            let is_number = text.bytes().all(|byte| byte.is_ascii_digit());
            text.parse().ok().filter(|_| is_number).map(Wanted::Entry)
        };
        text.parse().map(Wanted::Conflict).ok().or_else(by_number).ok_or_else(|| {
            format!(
                "{text:?} is neither a conflict's id, of 16 hexadecimal digits in lower case, nor \
                 an entry's number"
            )
        })
    }
}

/// What was found of the whole log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It is as it was written.
    Sound(Sound),
    /// It is not.
    Broken {
        /// What is wrong.
        broken: Broken,
        /// Where that shows; `None`: at the log's end.
        place: Option<Place>,
    },
}

/// A log that is as it was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sound {
    /// What the chain says.
    pub verified: Verified,
    /// How many segments there are.
    pub segments: usize,
    /// How many of them are in the archive.
    pub archived: usize,
    /// Bytes of an entry at the end that is being written, or was not written to its end.
    pub torn_bytes: u64,
}

/// A line of the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// The file.
    pub file: PathBuf,
    /// From 1 upwards.
    pub line: u64,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}, line {}", self.file.display(), self.line)
    }
}

impl Reader {
    /// Of a data folder.
    pub fn of(data: &Path) -> Self {
        Reader { folder: Folder::of(data) }
    }

    /// Its files.
    pub(super) fn segments(&self) -> &Folder {
        &self.folder
    }

    /// Where the log is, or would be.
    pub fn folder(&self) -> &Path {
        &self.folder.live
    }

    /// A page of the entries that the filter takes, the newest first, from a cursor on.
    pub fn page(
        &self,
        filter: &Filter,
        from: Option<Cursor>,
        entries_max: usize,
    ) -> Result<Page, AuditError> {
        let entries_max = entries_max.clamp(1, PAGE_ENTRIES_MAX);
        let mut page = Page { entries: Vec::new(), next: None, damaged: 0 };
        let (mut scanned_bytes, mut held_bytes) = (0, 0);
        let mut segments = self.folder.all()?;
        segments.retain(|segment| from.is_none_or(|from| segment.number <= from.segment));
        while let Some(segment) = segments.pop() {
            let (file, length) = self.open(&segment)?;
            let here = from.filter(|from| from.segment == segment.number);
            let end = here.map_or(length, |from| from.before.min(length));
            let failed = |error: std::io::Error| AuditError::of(&segment.path, &error);
            let mut lines = Backwards::before(file, end).map_err(failed)?;
            while let Some(found) = lines.next().map_err(failed)? {
                let line = found.line.unwrap_or_default();
                scanned_bytes += line.len();
                match Entry::parse(&line) {
                    Ok(entry) if filter.takes(&entry) => {
                        held_bytes += line.len();
                        page.entries.push(entry);
                    }
                    Ok(_) => {}
                    Err(_) => page.damaged += 1,
                }
                let is_full = page.entries.len() >= entries_max
                    || held_bytes >= PAGE_BYTES_MAX
                    || scanned_bytes >= SCAN_BYTES_MAX;
                if is_full {
                    let more = found.at > 0 || !segments.is_empty();
                    let next = Cursor { segment: segment.number, before: found.at };
                    page.next = more.then_some(next);
                    return Ok(page);
                }
            }
        }
        Ok(page)
    }

    /// The entries that are looked for, the oldest first, and at most [`FIND_MAX`].
    pub fn find(&self, wanted: Wanted) -> Result<Vec<Entry>, AuditError> {
        let mut found = Vec::new();
        let named = match wanted {
            Wanted::Conflict(id) => format!("\"{id}\""),
            Wanted::Entry(_) => String::new(),
        };
        self.each_line(|line| {
            let Ok(entry) = Entry::parse(line) else { return ControlFlow::Continue(()) };
            let (is_it, most) = match wanted {
                Wanted::Conflict(_) => (entry.event_json().contains(&named), FIND_MAX),
                Wanted::Entry(seq) => (entry.seq() == seq, 1),
            };
            if is_it {
                found.push(entry);
            }
            if found.len() < most { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
        })?;
        Ok(found)
    }

    /// Gives every whole line as it stands, without its end, the oldest first, until told to stop.
    pub fn each_line(
        &self,
        mut each: impl FnMut(&[u8]) -> ControlFlow<()>,
    ) -> Result<(), AuditError> {
        for segment in self.folder.all()? {
            let (file, _) = self.open(&segment)?;
            let mut lines = Lines::of(file);
            while let Some(line) =
                lines.next().map_err(|error| AuditError::of(&segment.path, &error))?
            {
                if let Line::Whole(line) = line
                    && each(line).is_break()
                {
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    /// Whether the archive and the log together are as they were written. `expected`: the hash of an
    /// entry that must be in them.
    pub fn verify(&self, expected: Option<ContentHash>) -> Result<Outcome, AuditError> {
        let segments = self.folder.all()?;
        let mut verifier = Verifier::new(expected);
        let mut suspicious: Option<Place> = None;
        let mut torn_bytes = 0;
        for (at, segment) in segments.iter().enumerate() {
            let (file, _) = self.open(segment)?;
            let mut lines = Lines::of(file);
            let mut number = 0;
            while let Some(line) =
                lines.next().map_err(|error| AuditError::of(&segment.path, &error))?
            {
                number += 1;
                let taken = match line {
                    Line::Whole(line) => verifier.take(line),
                    Line::Torn(line) if at + 1 == segments.len() => {
                        torn_bytes += line.len() as u64;
                        Ok(())
                    }
                    Line::Torn(_) => Err(verifier.cut()),
                };
                let here = || Place { file: segment.path.clone(), line: number };
                if let Err(broken) = taken {
                    let place = Some(suspicious.unwrap_or_else(here));
                    return Ok(Outcome::Broken { broken, place });
                }
                if verifier.is_suspicious() && suspicious.is_none() {
                    suspicious = Some(here());
                }
            }
        }
        Ok(match verifier.finish() {
            Ok(verified) => Outcome::Sound(Sound {
                verified,
                segments: segments.len(),
                archived: segments.iter().filter(|segment| segment.is_archived).count(),
                torn_bytes,
            }),
            Err(broken) => Outcome::Broken { broken, place: suspicious },
        })
    }

    fn open(&self, segment: &Segment) -> Result<(File, u64), AuditError> {
        let file = self.folder.open(segment)?;
        let length = file.metadata().map_err(|error| AuditError::of(&segment.path, &error))?.len();
        Ok((file, length))
    }
}

#[cfg(test)]
mod tests {
    use super::super::log::tests::{Place as Data, fill, operator};
    use super::super::{Log, Retention};
    use super::*;
    use crate::audit::Event;
    use crate::record::RecordId;
    use crate::version::{Actor, Dot, NodeId};
    use std::sync::Arc;
    use std::time::Duration;

    fn restored(dataset: &str, n: u64) -> Event {
        let dot = |node| Dot { actor: Actor { node: NodeId(node), incarnation: 7 }, counter: n };
        Event::Restored {
            conflict: "00000000000000bb".parse().unwrap(),
            record: RecordId { dataset: Arc::from(dataset), key: format!("k{n}").into() },
            lost: dot(1),
            dot: dot(2),
            by: "ops".into(),
            reason: "".into(),
        }
    }

    /// Forty entries in some segments, written a millisecond apart: operators, and what was restored in two
    /// datasets.
    fn filled() -> (Data, Log) {
        let data = Data::new();
        let mut log = data.open().unwrap().with_small_segments();
        for n in 1..=40 {
            let event = match n % 4 {
                0 => restored("notes", n),
                1 => restored("files", n),
                _ => operator(n),
            };
            log.append(&[(n, event)]).unwrap();
        }
        (data, log)
    }

    fn all(reader: &Reader, filter: &Filter, entries_max: usize) -> Vec<u64> {
        let (mut found, mut from) = (Vec::new(), None);
        loop {
            let page = reader.page(filter, from, entries_max).unwrap();
            assert!(page.entries.len() <= entries_max && page.damaged == 0);
            found.extend(page.entries.iter().map(Entry::seq));
            let Some(next) = page.next else { return found };
            from = Some(next.to_string().parse().unwrap());
        }
    }

    #[test]
    fn pages_go_from_the_newest_to_the_oldest_whatever_their_size() {
        let (data, _log) = filled();
        let expected: Vec<u64> = (1..=40).rev().collect();
        for entries_max in [1, 3, 7, 40, 1_000] {
            assert_eq!(all(&data.reader(), &Filter::default(), entries_max), expected);
        }
    }

    #[test]
    fn filters() {
        let (data, _log) = filled();
        let check = |filter: Filter, expected: &dyn Fn(u64) -> bool| {
            let expected: Vec<u64> = (1..=40).rev().filter(|n| expected(*n)).collect();
            assert!(!expected.is_empty());
            for entries_max in [3, 100] {
                assert_eq!(all(&data.reader(), &filter, entries_max), expected, "{filter:?}");
            }
        };
        let notes = || Some("notes".to_owned());
        check(Filter { dataset: notes(), ..Filter::default() }, &|n| n % 4 == 0);
        check(Filter { kind: Some(Kind::Operator), ..Filter::default() }, &|n| n % 4 > 1);
        check(Filter { since_ms: Some(33), ..Filter::default() }, &|n| n >= 33);
        let kind = Some(Kind::Restored);
        check(Filter { dataset: notes(), kind, since_ms: Some(9) }, &|n| n % 4 == 0 && n >= 9);
        let none = Filter { dataset: Some("note".to_owned()), ..Filter::default() };
        assert!(all(&data.reader(), &none, 3).is_empty());
    }

    #[test]
    fn a_cursor_stays_good_while_the_log_grows_and_is_archived() {
        let (data, mut log) = filled();
        let reader = data.reader();
        let page = reader.page(&Filter::default(), None, 30).unwrap();
        fill(&mut log, 41..=60);
        let keep = Duration::from_millis(0);
        let retention = Retention { keep, segments_max: 100 };
        log.archive(&retention, 100_000).unwrap().unwrap();
        let rest = reader.page(&Filter::default(), page.next, 100).unwrap();
        let found: Vec<u64> = rest.entries.iter().map(Entry::seq).collect();
        assert_eq!(found, (1..=10).rev().collect::<Vec<_>>());
        assert_eq!(rest.next, None);
        let far = Cursor { segment: 1, before: u64::MAX };
        assert!(!reader.page(&Filter::default(), Some(far), 5).unwrap().entries.is_empty());
        for text in ["", "7", &"g".repeat(32), &"ü".repeat(16)] {
            assert!(text.parse::<Cursor>().is_err(), "{text}");
        }
    }

    #[test]
    fn an_altered_line_is_counted_and_never_shown() {
        let (data, _log) = filled();
        let path = data.segment(2);
        let mut text = std::fs::read(&path).unwrap();
        text[300] ^= 1;
        std::fs::write(&path, text).unwrap();
        let page = data.reader().page(&Filter::default(), None, 100).unwrap();
        assert_eq!((page.entries.len(), page.damaged), (39, 1));
    }

    #[test]
    fn what_is_being_written_is_not_read() {
        let (data, log) = filled();
        let last = std::fs::read_dir(data.reader().folder()).unwrap().count() as u64;
        let path = data.segment(last);
        let mut text = std::fs::read(&path).unwrap();
        text.extend(b"{\"seq\":41,\"at_ms\":");
        std::fs::write(&path, text).unwrap();
        assert_eq!(all(&data.reader(), &Filter::default(), 100).len(), 40);
        let Outcome::Sound(sound) = data.reader().verify(Some(log.head().hash)).unwrap() else {
            panic!("it is sound")
        };
        assert_eq!((sound.verified.entries, sound.torn_bytes), (40, 18));
    }

    #[test]
    fn what_is_looked_for_is_found_by_number_and_by_conflict() {
        let (data, mut log) = filled();
        let find = |text: &str| -> Vec<u64> {
            let found = data.reader().find(text.parse().unwrap()).unwrap();
            found.iter().map(Entry::seq).collect()
        };
        assert_eq!(find("17"), [17]);
        assert!(find("170").is_empty());
        let id: ConflictId = "00000000000000aa".parse().unwrap();
        assert!(find(&id.to_string()).is_empty());
        let mut event = restored("notes", 1);
        if let Event::Restored { conflict, .. } = &mut event {
            *conflict = id;
        }
        log.append(&[(50, event)]).unwrap();
        assert_eq!(find(&id.to_string()), [41]);
        for text in ["", "x", "-1", "00000000000000AA", "1_0"] {
            assert!(text.parse::<Wanted>().is_err(), "{text}");
        }
    }

    /// What is done to the files, and where it shows.
    #[test]
    fn tampering_with_files_is_found_where_it_is() {
        let check = |what: &str, tamper: &dyn Fn(&Data), kind: &str, file: &str| {
            let (data, log) = filled();
            tamper(&data);
            let Outcome::Broken { broken, place } = data.reader().verify(None).unwrap() else {
                panic!("{what}")
            };
            let place = place.map(|place| place.to_string()).unwrap_or_default();
            assert_eq!(broken.wrong.name(), kind, "{what}: {broken}");
            assert!(place.contains(file), "{what}: {place}");
            let known = data.reader().verify(Some(log.head().hash)).unwrap();
            assert!(matches!(known, Outcome::Broken { .. }), "{what}");
        };
        let rewrite = |data: &Data, number: u64, change: &dyn Fn(&mut Vec<u8>)| {
            let mut text = std::fs::read(data.segment(number)).unwrap();
            change(&mut text);
            std::fs::write(data.segment(number), text).unwrap();
        };
        check("a bit", &|d| rewrite(d, 2, &|t| t[300] ^= 4), "altered", "00000002.jsonl, line 1");
        check("a segment gone", &|d| std::fs::remove_file(d.segment(2)).unwrap(), "missing", "03");
        check("the first gone", &|d| std::fs::remove_file(d.segment(1)).unwrap(), "missing", "");
        check("cut in a line", &|d| rewrite(d, 2, &|t| t.truncate(t.len() - 9)), "cut", "02");
        check("a line's end gone", &|d| rewrite(d, 2, &|t| t.truncate(t.len() - 1)), "cut", "02");
        check(
            "cut between lines",
            &|d| {
                rewrite(d, 2, &|t| {
                    let ends = t.iter().enumerate().filter(|(_, byte)| **byte == b'\n');
                    let end = ends.map(|(at, _)| at + 1).next().unwrap();
                    t.truncate(end);
                })
            },
            "missing",
            "03",
        );
        check("emptied", &|d| rewrite(d, 2, &|t| t.clear()), "missing", "03");
        check(
            "two segments swapped",
            &|d| {
                std::fs::rename(d.segment(1), d.segment(99)).unwrap();
                std::fs::rename(d.segment(2), d.segment(1)).unwrap();
                std::fs::rename(d.segment(99), d.segment(2)).unwrap();
            },
            "reordered",
            "02",
        );
        check(
            "one copied behind",
            &|d| assert!(std::fs::copy(d.segment(1), d.segment(99)).is_ok()),
            "doubled",
            "99",
        );
    }

    #[test]
    fn the_last_segments_gone_show_against_a_known_head_only() {
        let (data, log) = filled();
        let last = std::fs::read_dir(data.reader().folder()).unwrap().count() as u64;
        std::fs::remove_file(data.segment(last)).unwrap();
        assert!(matches!(data.reader().verify(None).unwrap(), Outcome::Sound(_)));
        let Outcome::Broken { broken, place } =
            data.reader().verify(Some(log.head().hash)).unwrap()
        else {
            panic!("the head is gone")
        };
        assert_eq!((broken.wrong.name(), place), ("head", None));
    }
}
