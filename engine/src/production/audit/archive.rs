//! Retention: old segments leave the log, and a checkpoint says so.
//!
//! ```text
//! 1 2 3 4 5          -> a checkpoint behind 5: "all through 3 may be gone" -> 4 5, archive/ 1 2 3
//! ```
//!
//! Invariant: the checkpoint is durable before the first segment moves. Whatever of them has moved when
//! the process dies, what stays verifies, and so does the archive together with it.

use super::AuditError;
use super::backwards::Backwards;
use super::log::Log;
use super::segment::{self, Line, Lines, Segment};
use crate::audit::{Entry, Event, Head, Retention};
use std::fs::File;

/// What has left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Archived {
    /// How many segments.
    pub segments: usize,
    /// How many entries.
    pub entries: u64,
    /// The last of them.
    pub through: Head,
}

impl Log {
    /// Lets whole segments go that are older than the retention says, oldest first; `None`: there are
    /// none. The last segment always stays. `now_ms` is wall time: milliseconds since the epoch.
    pub fn archive(
        &mut self,
        retention: &Retention,
        now_ms: u64,
    ) -> Result<Option<Archived>, AuditError> {
        let keep_ms = u64::try_from(retention.keep.as_millis()).unwrap_or(u64::MAX);
        let since_ms = now_ms.saturating_sub(keep_ms);
        let live = self.folder.live()?;
        let closed = &live[..live.len().saturating_sub(1)];
        let excess = live.len().saturating_sub(retention.segments_max.max(1));
        let (mut through, mut leaving) = (Head::START, 0);
        for (at, segment) in closed.iter().enumerate() {
            let last = last(segment)?;
            if last.at_ms() >= since_ms && at >= excess {
                break;
            }
            (through, leaving) = (last.head(), at + 1);
        }
        let leaving = &closed[..leaving];
        let Some(oldest) = leaving.first() else { return Ok(None) };
        let entries = (through.seq + 1).saturating_sub(first(oldest)?.seq());
        let (through_seq, through_hash) = (through.seq, through.hash);
        self.append(&[(now_ms, Event::Archived { through_seq, through_hash, entries })])?;
        segment::make(&self.folder.archive)?;
        // Oldest first, so that what is there is without a hole at every moment.
        for segment in leaving {
            std::fs::rename(&segment.path, self.folder.archive_path(segment.number))
                .map_err(|error| AuditError::of(&segment.path, &error))?;
        }
        segment::sync(&self.folder.archive)?;
        segment::sync(&self.folder.live)?;
        Ok(Some(Archived { segments: leaving.len(), entries, through }))
    }
}

fn damaged(segment: &Segment, what: impl std::fmt::Display) -> AuditError {
    AuditError::Damaged(format!("{}: {what}", segment.path.display()))
}

fn first(segment: &Segment) -> Result<Entry, AuditError> {
    let failed = |error: std::io::Error| AuditError::of(&segment.path, &error);
    let mut lines = Lines::of(File::open(&segment.path).map_err(failed)?);
    match lines.next().map_err(failed)? {
        Some(Line::Whole(line)) => Entry::parse(line).map_err(|how| damaged(segment, how)),
        Some(Line::Torn(_)) | None => Err(damaged(segment, "it has no entry")),
    }
}

fn last(segment: &Segment) -> Result<Entry, AuditError> {
    let failed = |error: std::io::Error| AuditError::of(&segment.path, &error);
    let file = File::open(&segment.path).map_err(failed)?;
    let end = file.metadata().map_err(failed)?.len();
    let found = Backwards::before(file, end).and_then(|mut lines| lines.next()).map_err(failed)?;
    let line = found.and_then(|found| found.line);
    let line = line.ok_or_else(|| damaged(segment, "it has no entry"))?;
    Entry::parse(&line).map_err(|how| damaged(segment, how))
}

#[cfg(test)]
mod tests {
    use super::super::Outcome;
    use super::super::log::tests::{Place, fill};
    use super::*;
    use std::time::Duration;

    const SECOND: Duration = Duration::from_secs(1);

    fn retention(keep: Duration) -> Retention {
        Retention { keep, segments_max: 1_000 }
    }

    /// Segments of a few entries; entry n was written n seconds after the epoch.
    fn filled() -> (Place, Log) {
        let place = Place::new();
        let mut log = place.open().unwrap().with_small_segments();
        for n in 1..=40 {
            log.append(&[(n * 1_000, super::super::log::tests::operator(n))]).unwrap();
        }
        (place, log)
    }

    #[test]
    fn what_is_old_moves_and_both_parts_verify_alone_and_together() {
        let (place, mut log) = filled();
        let noted = log.head();
        let before = log.folder.live().unwrap().len();
        let archived = log.archive(&retention(20 * SECOND), 40_000).unwrap().unwrap();
        assert!(archived.segments > 1 && archived.through.seq < 20, "{archived:?}");
        assert_eq!(archived.entries, archived.through.seq);
        assert_eq!(log.folder.live().unwrap().len(), before - archived.segments);
        assert_eq!(place.verified(&log), 41, "together");
        assert_eq!(log.archive(&retention(20 * SECOND), 40_000), Ok(None));
        fill(&mut log, 50_000..=50_020);
        let again = log.archive(&retention(10 * SECOND), 45_000).unwrap().unwrap();
        assert!(again.through.seq > archived.through.seq);
        assert_eq!(again.entries, again.through.seq - archived.through.seq);
        assert_eq!(place.verified(&log), 63, "together");
        std::fs::remove_dir_all(&log.folder.archive).unwrap();
        assert_eq!(place.verified(&log), 63 - again.through.seq, "alone");
        let Outcome::Sound(sound) = place.reader().verify(Some(noted.hash)).unwrap() else {
            panic!("the head of before is in it")
        };
        assert_eq!(sound.verified.first_seq, again.through.seq + 1);
        assert_eq!(sound.verified.expected_at, Some(40));
        let head = log.head();
        drop(log);
        assert_eq!(place.open().unwrap().head(), head);
    }

    #[test]
    fn what_left_is_vouched_for_and_nothing_more_is() {
        let (place, mut log) = filled();
        log.archive(&retention(20 * SECOND), 40_000).unwrap().unwrap();
        std::fs::remove_dir_all(&log.folder.archive).unwrap();
        place.verified(&log);
        let oldest = log.folder.live().unwrap()[0].path.clone();
        std::fs::remove_file(oldest).unwrap();
        let Outcome::Broken { broken, .. } = place.reader().verify(None).unwrap() else {
            panic!("one more is gone than the checkpoint says")
        };
        assert_eq!(broken.wrong.name(), "missing");
    }

    #[test]
    fn a_move_that_was_interrupted_verifies_and_is_ended_by_the_next() {
        let (place, mut log) = filled();
        let archived = log.archive(&retention(20 * SECOND), 40_000).unwrap().unwrap();
        let last = log.folder.archived().unwrap().pop().unwrap();
        std::fs::rename(&last.path, log.folder.path(last.number)).unwrap();
        assert_eq!(place.verified(&log), 41);
        std::fs::remove_file(&log.folder.archived().unwrap()[0].path).unwrap();
        place.verified(&log);
        let again = log.archive(&retention(20 * SECOND), 40_000).unwrap().unwrap();
        assert_eq!((again.segments, again.through), (1, archived.through));
        place.verified(&log);
    }

    #[test]
    fn a_log_has_no_more_segments_than_it_may_however_young() {
        let (place, mut log) = filled();
        let most = Retention { segments_max: 2, ..retention(Duration::MAX) };
        log.archive(&most, 40_000).unwrap().unwrap();
        assert_eq!(log.folder.live().unwrap().len(), 2);
        let none = Retention { segments_max: 0, ..retention(Duration::ZERO) };
        log.archive(&none, 90_000).unwrap().unwrap();
        assert_eq!(log.folder.live().unwrap().len(), 1);
        place.verified(&log);
    }

    #[test]
    fn a_damaged_segment_stays_where_it_is() {
        let (_place, mut log) = filled();
        let path = log.folder.path(1);
        let mut text = std::fs::read(&path).unwrap();
        let at = text.len() - 20;
        text[at] ^= 1;
        std::fs::write(&path, text).unwrap();
        let head = log.head();
        let refused = log.archive(&retention(SECOND), 90_000);
        assert!(matches!(refused, Err(AuditError::Damaged(_))), "{refused:?}");
        assert_eq!((path.exists(), log.head()), (true, head));
    }
}
