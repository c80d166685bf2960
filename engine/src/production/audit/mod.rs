//! The audit log on this machine's disk.
//!
//! ```text
//! audit/00000003.jsonl   the last segment: entries are appended here
//! audit/00000002.jsonl   full
//! audit/archive/00000001.jsonl   older than the retention; a checkpoint in the log vouches for it
//! ```
//!
//! Invariant: a segment is appended to and moved whole, and nothing else is ever done to it, but for
//! one thing: what a crash left of an append, an incomplete last line of the last segment, is cut off
//! when the log is opened, and what a failed one left, before the next. Everything else that is not as it
//! was written is damage: it is reported, and left as it is.
//!
//! [`Audit`] is what the server has: a thread that appends, and [`follow`], which brings it the
//! conflicts of this site's authority in their order, each once.
//!
//! One process appends ([`Log`], under the folder's lock); any may read meanwhile ([`Reader`]). An
//! append is all of a batch or nothing of it, as long as the process lives; a crash may leave the first
//! entries of a batch, which nobody was told of.

mod archive;
mod backwards;
mod counting;
mod follow;
mod forward;
mod log;
mod read;
mod segment;
mod tail;

pub use crate::audit::Retention;
pub use archive::Archived;
pub use counting::Counting;
pub use follow::{Audit, Told, follow, wall_ms};
pub use forward::{Forward, Gone};
pub use log::Log;
pub use read::{
    Cursor, FIND_MAX, Filter, Outcome, PAGE_ENTRIES_MAX, Page, Place, Reader, Sound, Wanted,
};
pub use segment::{LINE_BYTES_MAX, SEGMENT_BYTES_MAX};

use std::fmt;
use std::io::ErrorKind;
use std::path::Path;

/// Why the log did not do what was asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AuditError {
    /// The disk has no room. Of an append: nothing of it was written, and the same may succeed later.
    Full(String),
    /// Reading or writing failed. Of an append: what became of it is not known, and it is undone before
    /// the log takes another; after a crash before that, it shows when the log is opened.
    Io(String),
    /// What was read is not what was written.
    Damaged(String),
    /// One entry, or one batch, is larger than the log takes.
    TooLarge {
        /// Its size.
        bytes: usize,
        /// The largest that is taken.
        bytes_max: usize,
    },
}

impl fmt::Display for AuditError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            AuditError::Full(detail) => {
                write!(f, "the audit log's disk is full ({detail}); free space, then try again")
            }
            AuditError::Io(detail) => {
                write!(f, "the audit log cannot be read or written ({detail}); check the disk")
            }
            AuditError::Damaged(detail) => write!(
                f,
                "the audit log is damaged ({detail}); nothing of it was changed. `tidelock audit \
                 verify` tells more. Restore it from a backup, or move the folder `audit` away and \
                 keep it, to begin a new log"
            ),
            AuditError::TooLarge { bytes, bytes_max } => write!(
                f,
                "{bytes} bytes are more than the audit log takes at once ({bytes_max}); append less \
                 at a time"
            ),
        }
    }
}

impl std::error::Error for AuditError {}

impl AuditError {
    /// What an error of the operating system comes to.
    fn of(path: &Path, error: &std::io::Error) -> Self {
        let detail = format!("{}: {error}", path.display());
        match error.kind() {
            ErrorKind::StorageFull | ErrorKind::QuotaExceeded | ErrorKind::FileTooLarge => {
                AuditError::Full(detail)
            }
            _ => AuditError::Io(detail),
        }
    }
}
