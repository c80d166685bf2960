//! The files of the log, and their lines from first to last.

use super::AuditError;
use std::fs::{DirBuilder, File};
use std::io::{BufRead, BufReader, ErrorKind, Read};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

/// A segment is closed before it would grow beyond this.
pub const SEGMENT_BYTES_MAX: u64 = 8 * 1024 * 1024;
/// Longest line, its end included. A conflict takes one or two thousand bytes.
pub const LINE_BYTES_MAX: usize = 1024 * 1024;

const AUDIT_FOLDER: &str = "audit";
const ARCHIVE_FOLDER: &str = "archive";
const ENDING: &str = ".jsonl";
const DIGITS_MIN: usize = 8;

/// Where the log of a data folder is.
#[derive(Clone, Debug)]
pub(super) struct Folder {
    pub(super) live: PathBuf,
    pub(super) archive: PathBuf,
}

/// One file.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Segment {
    /// From 1 upwards, in the order of their entries.
    pub(super) number: u64,
    /// It stands in the archive.
    pub(super) is_archived: bool,
    pub(super) path: PathBuf,
}

impl Folder {
    pub(super) fn of(data: &Path) -> Self {
        let live = data.join(AUDIT_FOLDER);
        Folder { archive: live.join(ARCHIVE_FOLDER), live }
    }

    /// The live segments in order. A log that was never begun has none.
    pub(super) fn live(&self) -> Result<Vec<Segment>, AuditError> {
        listed(&self.live, false)
    }

    /// The archived segments in order.
    pub(super) fn archived(&self) -> Result<Vec<Segment>, AuditError> {
        listed(&self.archive, true)
    }

    /// All of them in order.
    pub(super) fn all(&self) -> Result<Vec<Segment>, AuditError> {
        // The archive last: a segment that is moved meanwhile is seen twice and not missed.
        let mut all = self.live()?;
        all.extend(self.archived()?);
        all.sort();
        all.dedup_by_key(|segment| segment.number);
        Ok(all)
    }

    pub(super) fn path(&self, number: u64) -> PathBuf {
        self.live.join(name(number))
    }

    pub(super) fn archive_path(&self, number: u64) -> PathBuf {
        self.archive.join(name(number))
    }

    /// Opens a segment, wherever it has been moved to meanwhile.
    pub(super) fn open(&self, segment: &Segment) -> Result<File, AuditError> {
        let failed = |error| AuditError::of(&segment.path, &error);
        match File::open(&segment.path) {
            Err(error) if error.kind() == ErrorKind::NotFound && !segment.is_archived => {
                File::open(self.archive_path(segment.number)).map_err(failed)
            }
            opened => opened.map_err(failed),
        }
    }
}

fn name(number: u64) -> String {
    format!("{number:0DIGITS_MIN$}{ENDING}")
}

fn number(name: &str) -> Option<u64> {
    let digits = name.strip_suffix(ENDING)?;
    let number = digits.parse().ok().filter(|number| *number > 0)?;
    // One spelling: no sign, no more zeros.
    (self::name(number) == name).then_some(number)
}

fn listed(folder: &Path, is_archived: bool) -> Result<Vec<Segment>, AuditError> {
    let failed = |error: std::io::Error| AuditError::of(folder, &error);
    let entries = match std::fs::read_dir(folder) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.map_err(failed)?,
    };
    let mut segments = Vec::new();
    for entry in entries {
        let path = entry.map_err(failed)?.path();
        let named = path.file_name().and_then(|name| name.to_str()).and_then(number);
        if let Some(number) = named {
            segments.push(Segment { number, is_archived, path });
        }
    }
    segments.sort();
    Ok(segments)
}

/// Makes a folder that is closed to other users, where there is none.
pub(super) fn make(folder: &Path) -> Result<(), AuditError> {
    let made = DirBuilder::new().recursive(true).mode(0o700).create(folder);
    made.map_err(|error| AuditError::of(folder, &error))
}

/// Makes what was created, renamed or removed in a folder durable.
pub(super) fn sync(folder: &Path) -> Result<(), AuditError> {
    let synced = File::open(folder).and_then(|folder| folder.sync_all());
    synced.map_err(|error| AuditError::of(folder, &error))
}

/// A segment's lines from the first on, each in a bounded buffer.
pub(super) struct Lines<R> {
    reader: BufReader<R>,
    line: Vec<u8>,
    /// What follows is the rest of a line whose beginning was torn when it was read.
    is_over: bool,
}

/// One of them, without its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Line<'a> {
    /// A whole line. Of one that is longer than [`LINE_BYTES_MAX`], its beginning: no entry either way.
    Whole(&'a [u8]),
    /// What stands behind the last line's end.
    Torn(&'a [u8]),
}

impl<R: Read> Lines<R> {
    pub(super) fn of(reader: R) -> Self {
        Lines {
            reader: BufReader::with_capacity(64 * 1024, reader),
            line: Vec::new(),
            is_over: false,
        }
    }

    pub(super) fn next(&mut self) -> std::io::Result<Option<Line<'_>>> {
        self.line.clear();
        if self.is_over {
            return Ok(None);
        }
        let mut bounded = self.reader.by_ref().take(LINE_BYTES_MAX as u64);
        bounded.read_until(b'\n', &mut self.line)?;
        Ok(match self.line.last().copied() {
            None => None,
            Some(b'\n') => {
                self.line.pop();
                Some(Line::Whole(&self.line))
            }
            Some(_) if self.line.len() == LINE_BYTES_MAX && self.skip()? => {
                Some(Line::Whole(&self.line))
            }
            Some(_) => {
                self.is_over = true;
                Some(Line::Torn(&self.line))
            }
        })
    }

    /// Goes to the line's end; false: it has none.
    fn skip(&mut self) -> std::io::Result<bool> {
        loop {
            let buffer = self.reader.fill_buf()?;
            if buffer.is_empty() {
                return Ok(false);
            }
            match buffer.iter().position(|byte| *byte == b'\n') {
                Some(at) => {
                    self.reader.consume(at + 1);
                    return Ok(true);
                }
                None => {
                    let all = buffer.len();
                    self.reader.consume(all);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        let check =
            |name: &str, expected: Option<u64>| assert_eq!(number(name), expected, "{name}");
        check("00000001.jsonl", Some(1));
        check("12345678.jsonl", Some(12_345_678));
        check("123456789.jsonl", Some(123_456_789));
        check("00000000.jsonl", None);
        check("000000001.jsonl", None);
        check("+0000001.jsonl", None);
        check("00000001.jsonl.bak", None);
        check("00000001.new", None);
        assert_eq!(name(7), "00000007.jsonl");
    }

    #[test]
    fn lines_and_what_is_left_behind_them() {
        let check = |text: &[u8], expected: &[Line<'_>]| {
            let mut lines = Lines::of(text);
            for line in expected {
                assert_eq!(lines.next().unwrap(), Some(*line));
            }
            assert_eq!(lines.next().unwrap(), None);
        };
        check(b"", &[]);
        check(b"a\n\nb", &[Line::Whole(b"a"), Line::Whole(b""), Line::Torn(b"b")]);
        check(b"a\nb\n", &[Line::Whole(b"a"), Line::Whole(b"b")]);
        let long = vec![b'x'; LINE_BYTES_MAX + 70_000];
        let beginning = &long[..LINE_BYTES_MAX];
        check(&[&long[..], b"\nb\n"].concat(), &[Line::Whole(beginning), Line::Whole(b"b")]);
        check(&long, &[Line::Torn(beginning)]);
    }
}
