//! What stays in the audit log, before it goes to the log's archive.

use std::fmt;
use std::time::Duration;

const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// What stays in the log. What leaves it goes to the folder `audit/archive`, for somebody to carry
/// elsewhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Retention {
    /// Segments whose last entry is older than this leave.
    pub keep: Duration,
    /// No more segments than this stay, however young; at least one does.
    pub segments_max: usize,
}

impl Default for Retention {
    /// Ninety days, and a gigabyte: some million entries.
    fn default() -> Self {
        Retention { keep: 90 * DAY, segments_max: 128 }
    }
}

impl fmt::Display for Retention {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.keep {
            Duration::MAX => f.write_str("entries of any age")?,
            keep => write!(f, "entries of {} days", keep.as_secs() / DAY.as_secs())?,
        }
        write!(f, ", in {} segments at most", self.segments_max)
    }
}
