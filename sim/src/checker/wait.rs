//! What recovery waits for, and how long each of it took.

use std::fmt;
use tidelock_engine::record::{RecordId, StoreId};
use tidelock_engine::version::{Dot, SiteId};

/// Waits shorter than this are no news.
const WAIT_NOTED_MS: u64 = 500;

/// What was unsettled for long, and from when to when.
#[derive(Debug)]
pub(super) struct Wait {
    pub(super) from_ms: u64,
    pub(super) to_ms: u64,
    pub(super) of: Awaited,
}

/// What recovery waits for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Awaited {
    /// That a copy equals the authority of its site.
    Copy(SiteId, StoreId, RecordId),
    /// That a site's authority has an acknowledged write.
    Write(SiteId, Dot, RecordId),
    /// That sites hold the same.
    Sites(RecordId),
    /// That a fresh write at each coordinator is readable at every other, and breakers admit traffic.
    Service,
}

impl fmt::Display for Awaited {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Awaited::Copy(site, store, record) => write!(f, "{record} at {store} of {site}"),
            Awaited::Write(site, dot, record) => write!(f, "{dot} of {record} at {site}"),
            Awaited::Sites(record) => write!(f, "sites that differ in {record}"),
            Awaited::Service => f.write_str("coordinators that take writes and show them"),
        }
    }
}

pub(super) fn note_wait(
    waits: &mut Vec<Wait>,
    from_ms: u64,
    to_ms: u64,
    of: impl FnOnce() -> Awaited,
) {
    if to_ms >= from_ms + WAIT_NOTED_MS {
        waits.push(Wait { from_ms, to_ms, of: of() });
    }
}
