//! Reports: plain data in, one self-contained HTML file out.
//!
//! ```text
//! Campaign --campaign_page--> index.html          what many seeds showed
//! Failure  --failure_page---> failure-<seed>.html one broken invariant, moment by moment
//! ```
//!
//! Invariant: a page needs nothing but itself. It names no address outside the file, its content
//! security policy forbids it to fetch anything, and every string of the data reaches the reader
//! as text, whatever it holds. Everything that a reader must know stands in the HTML; script adds
//! the time line, the scrubber and the copy buttons.
//!
//! Left to others: gathering the data (the simulator) and deciding what is a violation (its
//! checkers). Nothing here judges a run; it shows what it was given, and says where that is
//! suspicious, such as a fault that nothing felt.

mod campaign;
mod failure;
mod figures;
pub mod html;

use std::fs;
use std::io;
use std::path::Path;

pub use campaign::{
    Bucket, Campaign, FaultCount, InvariantCount, Recovery, Violation, campaign_page,
};
pub use failure::{
    Event, Failure, FaultSpan, Lane, StateChange, WriteFate, failure_file_name, failure_page,
};

/// Writes a page to `path`, creating the folders above it.
///
/// The page appears whole or not at all: it is written beside its place and renamed into it, so
/// that a reader who reloads during a campaign never meets half a page.
///
/// # Errors
///
/// Any error of the file system, and [`io::ErrorKind::InvalidInput`] when `path` names no file.
pub fn write(path: &Path, html: &str) -> io::Result<()> {
    let Some(name) = path.file_name() else {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            format!("{} names no file to write a report to", path.display()),
        ));
    };
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder)?;
    }
    let mut beside = name.to_os_string();
    // The process id keeps two shards that write into one folder out of each other's file.
    beside.push(format!(".{}.partial", std::process::id()));
    let beside = path.with_file_name(beside);
    let written = fs::write(&beside, html).and_then(|()| fs::rename(&beside, path));
    if written.is_err() {
        // The first error is the one worth telling; the leftover may not even exist.
        let _ = fs::remove_file(&beside);
    }
    written
}
