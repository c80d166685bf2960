//! The log as the one process has it that appends.

use super::AuditError;
use super::segment::{self, Folder, LINE_BYTES_MAX, Line, Lines, SEGMENT_BYTES_MAX, Segment};
use super::tail::{Failed, Tail};
use crate::audit::{Chain, Entry, Event, Head, Verifier};
use crate::production::journal::FolderLock;
use std::fs::{File, OpenOptions, Permissions};
use std::io::ErrorKind;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::Path;

const MODE: u32 = 0o600;

/// The audit log of a data folder, open for appending. Its calls block on the disk.
#[derive(Debug)]
pub struct Log {
    pub(super) folder: Folder,
    /// The last segment's.
    number: u64,
    tail: Tail,
    chain: Chain,
    cut_bytes: u64,
    segment_bytes_max: u64,
}

/// What stands in the last segment.
struct End {
    head: Head,
    entries: u64,
    bytes: u64,
    torn_bytes: u64,
}

impl Log {
    /// Opens the log of a data folder, and begins it where there is none. The last segment is verified;
    /// an incomplete last line of it is cut off. The lock is asked for as the proof that the folder is
    /// this process's.
    pub fn open(data: &Path, _lock: &FolderLock) -> Result<Self, AuditError> {
        let folder = Folder::of(data);
        segment::make(&folder.live)?;
        segment::sync(data)?;
        let Some((last, end)) = end_of(&folder)? else {
            return Log::of(folder, 1, begin_file, 0, Chain::new(), 0);
        };
        if end.torn_bytes > 0 {
            tracing::warn!(
                file = %last.path.display(),
                bytes = end.torn_bytes,
                "the audit log ends in an entry that was not written to its end, which nobody was \
                 told of; it is cut off"
            );
        }
        let number = last.number;
        Log::of(folder, number, open_file, end.bytes, Chain::resume(end.head), end.torn_bytes)
    }

    fn of(
        folder: Folder,
        number: u64,
        file: fn(&Folder, u64) -> Result<File, AuditError>,
        bytes: u64,
        chain: Chain,
        cut_bytes: u64,
    ) -> Result<Self, AuditError> {
        let file = file(&folder, number)?;
        if cut_bytes > 0 {
            let cut = file.set_len(bytes).and_then(|()| file.sync_all());
            cut.map_err(|error| AuditError::of(&folder.path(number), &error))?;
        }
        let tail = Tail::of(Box::new(file), bytes);
        let segment_bytes_max = SEGMENT_BYTES_MAX;
        Ok(Log { folder, number, tail, chain, cut_bytes, segment_bytes_max })
    }

    /// The last entry. Worth noting outside of this machine: it shows a log that was cut short.
    pub fn head(&self) -> Head {
        self.chain.head()
    }

    /// How many bytes of an incomplete entry were cut off when this was opened.
    pub fn cut_bytes(&self) -> u64 {
        self.cut_bytes
    }

    /// Appends events, each with its time in milliseconds since the epoch, with one write and one sync,
    /// and gives their entries. All are durable then; after an error none is, except as
    /// [`AuditError::Io`] says.
    pub fn append(&mut self, events: &[(u64, Event)]) -> Result<Vec<Entry>, AuditError> {
        let mut chain = self.chain;
        let mut lines = Vec::new();
        let mut entries = Vec::with_capacity(events.len());
        for (at_ms, event) in events {
            let begin = lines.len();
            let entry = chain.append(*at_ms, event);
            entry.push_line(&mut lines);
            within(lines.len() - begin, LINE_BYTES_MAX)?;
            entries.push(entry);
        }
        if entries.is_empty() {
            return Ok(entries);
        }
        within(lines.len(), SEGMENT_BYTES_MAX as usize)?;
        // Before a segment is begun: what was torn may be cut off the last segment only.
        if self.tail.is_poisoned() {
            self.recover()?;
        }
        let bytes = self.tail.bytes();
        if bytes > 0 && bytes + lines.len() as u64 > self.segment_bytes_max {
            let number = self.number + 1;
            let file = begin_file(&self.folder, number)?;
            self.tail.follow(Box::new(file));
            self.number = number;
        }
        self.tail.append(&lines).map_err(|failed| self.error(failed))?;
        self.chain = chain;
        Ok(entries)
    }

    /// Goes on behind the last entry that was durable, after an append of which nobody knows what the
    /// disk has. What is read of it may be what the kernel remembers and could not write, and calls clean
    /// since then; so all of it is cut off, and what stands before must be read to be as it was appended.
    fn recover(&mut self) -> Result<(), AuditError> {
        let path = self.folder.path(self.number);
        let failed = |error: std::io::Error| AuditError::of(&path, &error);
        let damaged = |what| AuditError::Damaged(format!("{}: {what}", path.display()));
        let file = open_file(&self.folder, self.number)?;
        let bytes = self.tail.bytes();
        let there = file.metadata().map_err(failed)?.len();
        if there < bytes {
            return Err(damaged("entries that were durable are gone from its end"));
        }
        file.set_len(bytes).and_then(|()| file.sync_all()).map_err(failed)?;
        let (last, end) = end_of(&self.folder)?.ok_or_else(|| damaged("it is gone"))?;
        if (last.number, end.head, end.bytes) != (self.number, self.chain.head(), bytes) {
            return Err(damaged("it does not end in the entry that was the last to be durable"));
        }
        tracing::warn!(
            file = %path.display(),
            bytes = there - bytes,
            "what an append that had failed left of itself is cut off the audit log, which goes on"
        );
        self.tail = Tail::of(Box::new(file), bytes);
        Ok(())
    }

    fn error(&self, failed: Failed) -> AuditError {
        let path = self.folder.path(self.number);
        match failed {
            Failed::Undone(error) => AuditError::of(&path, &error),
            Failed::Unknown(error) => AuditError::Io(format!("{}: {error}", path.display())),
            Failed::Poisoned => AuditError::Io(format!(
                "{}: an append failed before, and what became of it is not known",
                path.display()
            )),
        }
    }

    #[cfg(test)]
    pub(super) fn with_small_segments(mut self) -> Self {
        self.segment_bytes_max = 4_000;
        self
    }
}

fn within(bytes: usize, bytes_max: usize) -> Result<(), AuditError> {
    if bytes > bytes_max { Err(AuditError::TooLarge { bytes, bytes_max }) } else { Ok(()) }
}

fn begin_file(folder: &Folder, number: u64) -> Result<File, AuditError> {
    let path = folder.path(number);
    let failed = |error: std::io::Error| AuditError::of(&path, &error);
    // It may be there without a byte: begun before, and its folder could not be synced.
    let file = OpenOptions::new().append(true).create(true).mode(MODE).open(&path);
    let file = file.map_err(failed)?;
    if file.metadata().map_err(failed)?.len() > 0 {
        return Err(failed(ErrorKind::AlreadyExists.into()));
    }
    // A new file is durable only once its folder's entry is.
    segment::sync(&folder.live)?;
    Ok(file)
}

fn open_file(folder: &Folder, number: u64) -> Result<File, AuditError> {
    let path = folder.path(number);
    let failed = |error: std::io::Error| AuditError::of(&path, &error);
    let file = OpenOptions::new().append(true).open(&path).map_err(failed)?;
    if file.metadata().map_err(failed)?.permissions().mode() & 0o077 != 0 {
        tracing::warn!(file = %path.display(), "other users could use the audit log; closing it to them");
        file.set_permissions(Permissions::from_mode(MODE)).map_err(failed)?;
    }
    Ok(file)
}

/// The last segment, and where the log ends by what is read of it; `None`: there is none.
fn end_of(folder: &Folder) -> Result<Option<(Segment, End)>, AuditError> {
    let mut all = folder.all()?;
    let Some(last) = all.last() else { return Ok(None) };
    if last.is_archived {
        return Err(AuditError::Damaged(format!(
            "the newest segment is in the archive, {}: those behind it are gone",
            last.path.display()
        )));
    }
    let mut end = examine(last)?;
    if end.entries == 0 {
        end.head = head_before(&all)?;
    }
    Ok(all.pop().map(|last| (last, end)))
}

/// Reads a segment whole and holds its entries against each other.
fn examine(segment: &Segment) -> Result<End, AuditError> {
    let failed = |error: std::io::Error| AuditError::of(&segment.path, &error);
    let mut lines = Lines::of(File::open(&segment.path).map_err(failed)?);
    let mut verifier = Verifier::stretch();
    let (mut number, mut bytes, mut torn_bytes) = (0, 0, 0);
    let damaged = |number: u64, broken| {
        AuditError::Damaged(format!("{}, line {number}: {broken}", segment.path.display()))
    };
    while let Some(line) = lines.next().map_err(failed)? {
        match line {
            Line::Whole(line) => {
                number += 1;
                verifier.take(line).map_err(|broken| damaged(number, broken))?;
                bytes += line.len() as u64 + 1;
            }
            // To the end of the file, of which the line may be the beginning.
            Line::Torn(_) => {
                let length = std::fs::metadata(&segment.path).map_err(failed)?.len();
                torn_bytes = length - bytes;
            }
        }
    }
    let verified = verifier.finish().map_err(|broken| damaged(number, broken))?;
    Ok(End { head: verified.head, entries: verified.entries, bytes, torn_bytes })
}

/// What a last segment without entries goes on from.
fn head_before(all: &[Segment]) -> Result<Head, AuditError> {
    let gone = |last: &Segment| {
        AuditError::Damaged(format!(
            "{} has no entry, and the segment before it has none either or is gone",
            last.path.display()
        ))
    };
    match all {
        [only] if only.number == 1 => Ok(Head::START),
        [.., before, last] => {
            let end = examine(before)?;
            if end.torn_bytes > 0 {
                return Err(AuditError::Damaged(format!(
                    "{} ends in the middle of an entry, and is not the last segment",
                    before.path.display()
                )));
            }
            let follows = before.number + 1 == last.number && end.entries > 0;
            if follows { Ok(end.head) } else { Err(gone(last)) }
        }
        [only] => Err(gone(only)),
        [] => Ok(Head::START),
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::super::tail::tests::Small;
    use super::super::{Outcome, Reader, Retention};
    use super::*;
    use std::path::PathBuf;
    use tempfile::TempDir;

    pub(in super::super) fn operator(n: u64) -> Event {
        Event::Operator {
            who: "ops".into(),
            action: "store open".into(),
            target: format!("kv {n}").into(),
            reason: "x".repeat(300).into(),
        }
    }

    pub(in super::super) struct Place {
        pub(in super::super) folder: TempDir,
        pub(in super::super) lock: FolderLock,
    }

    impl Place {
        pub(in super::super) fn new() -> Self {
            let folder = tempfile::tempdir().unwrap();
            let lock = FolderLock::take(folder.path()).unwrap();
            Place { folder, lock }
        }

        pub(in super::super) fn open(&self) -> Result<Log, AuditError> {
            Log::open(self.folder.path(), &self.lock)
        }

        pub(in super::super) fn segment(&self, number: u64) -> PathBuf {
            Folder::of(self.folder.path()).path(number)
        }

        pub(in super::super) fn reader(&self) -> Reader {
            Reader::of(self.folder.path())
        }

        /// The number of entries in a log that verifies.
        pub(in super::super) fn verified(&self, log: &Log) -> u64 {
            match self.reader().verify(Some(log.head().hash)).unwrap() {
                Outcome::Sound(sound) => sound.verified.entries,
                Outcome::Broken { broken, place } => panic!("{broken} {place:?}"),
            }
        }
    }

    pub(in super::super) fn fill(log: &mut Log, numbers: std::ops::RangeInclusive<u64>) {
        for n in numbers {
            log.append(&[(n, operator(n))]).unwrap();
        }
    }

    #[test]
    fn a_log_goes_on_where_it_ended_and_is_closed_to_others() {
        let place = Place::new();
        let mut log = place.open().unwrap();
        assert_eq!(log.head(), Head::START);
        let entries = log.append(&[(1, operator(1)), (2, operator(2))]).unwrap();
        assert_eq!(entries.iter().map(Entry::seq).collect::<Vec<_>>(), [1, 2]);
        assert_eq!(log.append(&[]).unwrap(), []);
        let head = log.head();
        assert_eq!(head, entries[1].head());
        drop(log);
        let mut log = place.open().unwrap();
        assert_eq!(log.head(), head);
        fill(&mut log, 3..=3);
        assert_eq!(place.verified(&log), 3);
        let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(&place.segment(1)), 0o600);
        assert_eq!(mode(place.segment(1).parent().unwrap()), 0o700);
        std::fs::set_permissions(place.segment(1), Permissions::from_mode(0o644)).unwrap();
        drop(log);
        place.open().unwrap();
        assert_eq!(mode(&place.segment(1)), 0o600);
    }

    #[test]
    fn segments_follow_each_other() {
        let place = Place::new();
        let mut log = place.open().unwrap().with_small_segments();
        fill(&mut log, 1..=40);
        let segments = log.folder.live().unwrap();
        assert!(segments.len() > 3, "{segments:?}");
        for segment in &segments {
            assert!(std::fs::metadata(&segment.path).unwrap().len() <= 4_000);
        }
        assert_eq!(place.verified(&log), 40);
        let head = log.head();
        drop(log);
        assert_eq!(place.open().unwrap().head(), head);
    }

    /// Whatever of the last append reached the disk, the log opens with the entries that are whole.
    #[test]
    fn a_crash_at_each_byte_of_an_append_leaves_whole_entries() {
        let place = Place::new();
        let mut log = place.open().unwrap();
        fill(&mut log, 1..=2);
        let before = std::fs::read(place.segment(1)).unwrap();
        let entries = log.append(&[(3, operator(3)), (4, operator(4))]).unwrap();
        let after = std::fs::read(place.segment(1)).unwrap();
        drop(log);
        let whole = |end: usize| after[..end].iter().filter(|byte| **byte == b'\n').count() as u64;
        for end in before.len()..=after.len() {
            std::fs::write(place.segment(1), &after[..end]).unwrap();
            let mut log = place.open().unwrap();
            assert_eq!(log.head().seq, whole(end), "cut at {end}");
            assert_eq!(log.cut_bytes() == 0, after[end - 1] == b'\n');
            assert_eq!(place.verified(&log), whole(end));
            fill(&mut log, 5..=5);
            assert_eq!(place.verified(&log), whole(end) + 1);
        }
        assert_eq!(entries[1].seq(), 4);
    }

    #[test]
    fn a_crash_while_a_segment_is_begun_goes_on_from_the_one_before() {
        let place = Place::new();
        let mut log = place.open().unwrap();
        fill(&mut log, 1..=3);
        let head = log.head();
        drop(log);
        for torn in ["", "{\"seq\":4,\"at"] {
            std::fs::write(place.segment(2), torn).unwrap();
            let mut log = place.open().unwrap();
            assert_eq!(log.head(), head);
            fill(&mut log, 4..=4);
            assert_eq!(place.verified(&log), 4);
            std::fs::remove_file(place.segment(2)).unwrap();
        }
    }

    #[test]
    fn anything_else_is_damage_and_is_left_as_it_is() {
        let check = |what: &str, tamper: &dyn Fn(&Place), expected: &str| {
            let place = Place::new();
            let mut log = place.open().unwrap().with_small_segments();
            fill(&mut log, 1..=16);
            assert_eq!(log.number, 3, "the last has a few");
            drop(log);
            tamper(&place);
            let read = || (1..5).map(|n| std::fs::read(place.segment(n)).ok()).collect::<Vec<_>>();
            let there = read();
            let error = place.open().expect_err(what).to_string();
            assert!(error.contains(expected) && error.contains("damaged"), "{what}: {error}");
            assert_eq!(read(), there, "{what}");
        };
        let rewrite = |place: &Place, number: u64, change: &dyn Fn(&mut Vec<u8>)| {
            let mut text = std::fs::read(place.segment(number)).unwrap();
            change(&mut text);
            std::fs::write(place.segment(number), text).unwrap();
        };
        check("a bit", &|p| rewrite(p, 3, &|t| t[200] ^= 1), "line 1");
        check(
            "a line's end",
            &|p| {
                rewrite(p, 3, &|t| {
                    let end = t.iter().position(|byte| *byte == b'\n').unwrap();
                    t[end] = b' ';
                })
            },
            "line 1",
        );
        check("zeros and a line", &|p| rewrite(p, 3, &|t| t.extend(b"\0\0\0\n")), "line ");
        check(
            "the last segments, archived",
            &|p| {
                let folder = Folder::of(p.folder.path());
                segment::make(&folder.archive).unwrap();
                std::fs::rename(folder.path(3), folder.archive_path(3)).unwrap();
            },
            "gone",
        );
        check(
            "the one before an empty one, torn",
            &|p| {
                std::fs::write(p.segment(4), "").unwrap();
                rewrite(p, 3, &|t| t.truncate(t.len() - 1));
            },
            "not the last segment",
        );
        check(
            "the one before an empty one, gone",
            &|p| {
                std::fs::write(p.segment(4), "").unwrap();
                std::fs::remove_file(p.segment(3)).unwrap();
            },
            "is gone",
        );
    }

    #[test]
    fn a_full_disk_takes_all_of_a_batch_or_nothing() {
        let place = Place::new();
        let mut log = place.open().unwrap();
        fill(&mut log, 1..=2);
        let (head, bytes) = (log.head(), log.tail.bytes());
        let batch: Vec<(u64, Event)> = (3..=6).map(|n| (n, operator(n))).collect();
        let line = (bytes / 2) as usize;
        for room in [0, 1, line, line + 7, 4 * line - 1] {
            let medium = open_file(&log.folder, 1).unwrap();
            log.tail.replace(Box::new(Small { medium, room, syncs: true, cuts: true }));
            let error = log.append(&batch).unwrap_err();
            assert!(matches!(error, AuditError::Full(_)), "{error}");
            assert!(error.to_string().contains("00000001.jsonl"), "{error}");
            assert_eq!(std::fs::metadata(place.segment(1)).unwrap().len(), bytes, "room {room}");
            assert_eq!(log.head(), head);
        }
        let medium = open_file(&log.folder, 1).unwrap();
        log.tail.replace(Box::new(medium));
        log.append(&batch).unwrap();
        assert_eq!(place.verified(&log), 6);
    }

    /// A log of two segments whose last append failed so that nobody knows what the disk has of it, on a
    /// disk that is sound again: written whole and not synced, or in part and not taken back.
    fn of_unknown_end(place: &Place, room: usize) -> Log {
        let mut log = place.open().unwrap();
        fill(&mut log, 1..=2);
        log.segment_bytes_max = 1;
        fill(&mut log, 3..=3);
        log.segment_bytes_max = 10_000;
        let head = log.head();
        let medium = open_file(&log.folder, 2).unwrap();
        log.tail.replace(Box::new(Small { medium, room, syncs: false, cuts: false }));
        let error = log.append(&[(4, operator(4))]).unwrap_err();
        assert!(matches!(error, AuditError::Io(_)), "{error}");
        assert_eq!(log.head(), head);
        log
    }

    #[test]
    fn after_an_append_whose_fate_is_unknown_the_log_goes_on_behind_the_last_durable_entry() {
        for room in [9_999, 300, 0] {
            let place = Place::new();
            let mut log = of_unknown_end(&place, room);
            let entries = log.append(&[(5, operator(5))]).unwrap();
            assert_eq!(entries[0].seq(), 4, "room for {room} bytes");
            assert_eq!(place.verified(&log), 4);
            // Also where the next goes to a new segment: what is torn may stand in the last one only.
            let medium = open_file(&log.folder, 2).unwrap();
            log.tail.replace(Box::new(Small { medium, room, syncs: false, cuts: false }));
            log.append(&[(6, operator(6))]).unwrap_err();
            log.segment_bytes_max = 1;
            fill(&mut log, 7..=7);
            assert!(place.segment(3).exists());
            assert_eq!(place.verified(&log), 5);
            let head = log.head();
            drop(log);
            assert_eq!(place.open().unwrap().head(), head);
        }
    }

    #[test]
    fn a_log_of_unknown_end_takes_nothing_until_it_reads_what_was_durable() {
        let rewrite = |path: &Path, change: &dyn Fn(&mut Vec<u8>)| {
            let mut text = std::fs::read(path).unwrap();
            change(&mut text);
            std::fs::write(path, text).unwrap();
        };
        let check = |what: &str, harm: &dyn Fn(&Path), expected: &str| {
            let place = Place::new();
            let mut log = of_unknown_end(&place, 9_999);
            let (path, head) = (place.segment(2), log.head());
            let sound = std::fs::read(&path).unwrap();
            harm(&path);
            for _ in 0..2 {
                let error = log.append(&[(5, operator(5))]).expect_err(what).to_string();
                assert!(error.contains(expected), "{what}: {error}");
                assert_eq!((log.head(), place.segment(3).exists()), (head, false), "{what}");
            }
            std::fs::write(&path, sound).unwrap();
            fill(&mut log, 5..=5);
            assert_eq!(place.verified(&log), 4, "{what}");
        };
        check("the disk does not answer", &|p| std::fs::remove_file(p).unwrap(), "cannot be read");
        check("it dropped what was durable", &|p| rewrite(p, &|t| t.truncate(100)), "are gone");
        check("another byte", &|p| rewrite(p, &|t| t[200] ^= 1), "line 1");
        let place = Place::new();
        let mut log = of_unknown_end(&place, 9_999);
        std::fs::copy(place.segment(2), place.segment(3)).unwrap();
        let error = log.append(&[(5, operator(5))]).unwrap_err().to_string();
        assert!(error.contains("the last to be durable"), "{error}");
    }

    #[test]
    fn a_checkpoint_that_does_not_get_to_the_disk_moves_nothing() {
        let place = Place::new();
        let mut log = place.open().unwrap();
        fill(&mut log, 1..=2);
        log.segment_bytes_max = 1;
        fill(&mut log, 3..=3);
        log.segment_bytes_max = 10_000;
        let medium = open_file(&log.folder, 2).unwrap();
        log.tail.replace(Box::new(Small { medium, room: 0, syncs: true, cuts: true }));
        let retention = Retention { segments_max: 1, ..Retention::default() };
        let error = log.archive(&retention, 9).unwrap_err();
        assert!(matches!(error, AuditError::Full(_)), "{error}");
        assert!(place.segment(1).exists());
        assert_eq!(place.verified(&log), 3);
    }

    #[test]
    fn a_segment_that_was_begun_and_not_made_durable_is_begun_again() {
        let place = Place::new();
        let mut log = place.open().unwrap();
        fill(&mut log, 1..=2);
        std::fs::write(place.segment(2), "").unwrap();
        log.segment_bytes_max = 1;
        fill(&mut log, 3..=3);
        assert_eq!(place.verified(&log), 3);
        std::fs::write(place.segment(3), "somebody else's").unwrap();
        assert!(matches!(log.append(&[(4, operator(4))]), Err(AuditError::Io(_))));
        assert_eq!(std::fs::read(place.segment(3)).unwrap(), b"somebody else's");
    }

    #[test]
    fn what_is_too_large_is_refused_and_the_log_goes_on() {
        let place = Place::new();
        let mut log = place.open().unwrap();
        let batch = vec![(1, operator(1)); 20_000];
        assert!(matches!(log.append(&batch), Err(AuditError::TooLarge { .. })));
        fill(&mut log, 1..=1);
        assert_eq!(place.verified(&log), 1);
    }
}
