//! Reading the log forwards while it grows.
//!
//! Invariant: entries come in their order, each once, and none is left out: where one is missing or is
//! not as it was written, that is an error, and nothing behind it is given.

use super::AuditError;
use super::read::Reader;
use super::segment::{Folder, Line, Lines, Segment};
use crate::audit::{Entry, Unreadable};
use std::fs::File;
use std::io::{Seek, SeekFrom};

/// Bytes of lines that are read at once.
const READ_BYTES_MAX: u64 = 1024 * 1024;

/// A place in the log, from which it is read on as it grows.
#[derive(Debug)]
pub struct Forward {
    folder: Folder,
    /// The entry that was read last; what follows it comes next.
    after: u64,
    /// The segment that it stands in, or should, and where the next line begins. `None`: not found yet.
    at: Option<(u64, u64)>,
}

/// The first entry that was asked for is not in the log any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gone {
    /// The first one that is.
    pub first_seq: u64,
}

impl Reader {
    /// Reads on behind an entry; 0: from the beginning. The outer error: it cannot be read.
    pub fn forward(&self, after: u64) -> Result<Result<Forward, Gone>, AuditError> {
        let folder = self.segments().clone();
        let mut first_seq = None;
        let mut at = None;
        for segment in folder.all()?.into_iter().rev() {
            let Some(seq) = first_of(&folder, &segment)? else { continue };
            (first_seq, at) = (Some(seq), Some((segment.number, 0)));
            if seq <= after.saturating_add(1) {
                break;
            }
        }
        Ok(match first_seq {
            Some(first_seq) if first_seq > after.saturating_add(1) => Err(Gone { first_seq }),
            Some(_) | None => Ok(Forward { folder, after, at }),
        })
    }
}

/// The number of a segment's first entry; `None`: it has none yet.
fn first_of(folder: &Folder, segment: &Segment) -> Result<Option<u64>, AuditError> {
    let mut lines = Lines::of(folder.open(segment)?);
    match lines.next().map_err(|error| AuditError::of(&segment.path, &error))? {
        Some(Line::Whole(line)) => Ok(Some(parsed(segment, line)?.seq())),
        Some(Line::Torn(_)) | None => Ok(None),
    }
}

fn parsed(segment: &Segment, line: &[u8]) -> Result<Entry, AuditError> {
    Entry::parse(line).map_err(|error: Unreadable| {
        AuditError::Damaged(format!("{}: {error}", segment.path.display()))
    })
}

impl Forward {
    /// The entry that was read last.
    pub fn after(&self) -> u64 {
        self.after
    }

    /// The next entries, none behind `through`; that one must be in the log. Some, if there are any.
    pub fn read(&mut self, through: u64) -> Result<Vec<Entry>, AuditError> {
        let mut entries = Vec::new();
        let segments = self.folder.all()?;
        let from = self.at.map_or(0, |(number, _)| number);
        let mut following = segments.iter().filter(|segment| segment.number >= from);
        let mut bytes = 0;
        while self.after < through && bytes < READ_BYTES_MAX {
            let Some(segment) = following.next() else {
                if entries.is_empty() {
                    let missing = self.after + 1;
                    return Err(AuditError::Damaged(format!("entry {missing} is missing")));
                }
                break;
            };
            let start = self.at.filter(|(number, _)| *number == segment.number);
            let mut offset = start.map_or(0, |(_, offset)| offset);
            let failed = |error: std::io::Error| AuditError::of(&segment.path, &error);
            let mut file: File = self.folder.open(segment)?;
            file.seek(SeekFrom::Start(offset)).map_err(failed)?;
            let mut lines = Lines::of(file);
            while self.after < through
                && bytes < READ_BYTES_MAX
                && let Some(Line::Whole(line)) = lines.next().map_err(failed)?
            {
                let entry = parsed(segment, line)?;
                let length = line.len() as u64 + 1;
                (offset, bytes) = (offset + length, bytes + length);
                if entry.seq() == self.after + 1 {
                    self.after += 1;
                    entries.push(entry);
                } else if entry.seq() > self.after {
                    return Err(AuditError::Damaged(format!(
                        "{}: entry {} follows entry {}",
                        segment.path.display(),
                        entry.seq(),
                        self.after
                    )));
                }
            }
            self.at = Some((segment.number, offset));
        }
        Ok(entries)
    }
}

#[cfg(test)]
mod tests {
    use super::super::Retention;
    use super::super::log::tests::{Place as Data, fill};
    use super::*;
    use std::time::Duration;

    fn read(forward: &mut Forward, through: u64) -> Vec<u64> {
        let mut all = Vec::new();
        while forward.after() < through {
            let entries = forward.read(through).unwrap();
            assert!(!entries.is_empty());
            all.extend(entries.iter().map(Entry::seq));
        }
        all
    }

    #[test]
    fn entries_come_in_order_from_anywhere_while_the_log_grows() {
        let data = Data::new();
        let mut log = data.open().unwrap().with_small_segments();
        let reader = data.reader();
        let mut early = reader.forward(0).unwrap().unwrap();
        assert_eq!(early.read(0).unwrap(), Vec::new());
        fill(&mut log, 1..=40);
        let head = log.head().seq;
        assert_eq!(read(&mut early, head), (1..=head).collect::<Vec<_>>());
        for after in [0, 1, 17, head - 1, head] {
            let mut forward = reader.forward(after).unwrap().unwrap();
            assert_eq!(read(&mut forward, head), (after + 1..=head).collect::<Vec<_>>());
        }
        // Not beyond what is asked for, though it is there.
        let mut some = reader.forward(10).unwrap().unwrap();
        assert_eq!(read(&mut some, 20), (11..=20).collect::<Vec<_>>());
        fill(&mut log, 41..=60);
        let grown = log.head().seq;
        assert_eq!(read(&mut early, grown), (head + 1..=grown).collect::<Vec<_>>());
        assert_eq!(read(&mut some, grown), (21..=grown).collect::<Vec<_>>());
    }

    #[test]
    fn what_was_archived_is_read_and_what_was_carried_away_is_said_to_be_gone() {
        let data = Data::new();
        let mut log = data.open().unwrap().with_small_segments();
        fill(&mut log, 1..=40);
        let reader = data.reader();
        let mut halfway = reader.forward(0).unwrap().unwrap();
        halfway.read(1).unwrap();
        let retention = Retention { keep: Duration::from_secs(1_000_000), segments_max: 1 };
        log.archive(&retention, 0).unwrap().expect("some went");
        let head = log.head().seq;
        assert_eq!(read(&mut halfway, head), (2..=head).collect::<Vec<_>>());
        std::fs::remove_dir_all(reader.folder().join("archive")).unwrap();
        let Gone { first_seq } = reader.forward(0).unwrap().unwrap_err();
        assert!(first_seq > 1 && first_seq <= head, "{first_seq}");
        assert!(reader.forward(first_seq - 1).unwrap().is_ok());
        assert!(reader.forward(first_seq - 2).unwrap().is_err());
    }

    #[test]
    fn damage_and_a_missing_entry_are_errors_and_nothing_behind_them_is_given() {
        let data = Data::new();
        let mut log = data.open().unwrap();
        fill(&mut log, 1..=3);
        let reader = data.reader();
        let file = data.segment(1);
        let text = std::fs::read_to_string(&file).unwrap();
        let lines: Vec<&str> = text.lines().collect();
        std::fs::write(&file, format!("{}\n{}\n", lines[0], lines[2])).unwrap();
        let mut forward = reader.forward(0).unwrap().unwrap();
        let error = forward.read(3).unwrap_err().to_string();
        assert!(error.contains("entry 3 follows entry 1"), "{error}");
        std::fs::write(&file, text.replace("\"seq\":2", "\"seq\":9")).unwrap();
        let error = reader.forward(0).unwrap().unwrap().read(3).unwrap_err().to_string();
        assert!(error.contains("damaged"), "{error}");
        std::fs::write(&file, format!("{}\n", lines[0])).unwrap();
        let mut short = reader.forward(0).unwrap().unwrap();
        assert_eq!(short.read(3).unwrap().len(), 1);
        let error = short.read(3).unwrap_err().to_string();
        assert!(error.contains("entry 2 is missing"), "{error}");
    }
}
