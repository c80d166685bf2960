//! The embedded stores: KV, D1 and R2 on this machine's disk, over SQLite.
//!
//! ```text
//! folder/kv.sqlite   folder/d1.sqlite   folder/r2.sqlite     one thread each, group commit
//! ```
//!
//! They keep to the documented limits and error classes of the services, so that what works here
//! works there. What they do not show is staleness: a read sees the last write.

mod blobs;
mod conflicts;
pub mod d1;
mod database;
mod erasures;
pub mod kv;
pub mod r2;
mod table;
mod writes;

pub use d1::{BindError, EmbeddedD1};
pub use database::OpenError;
pub use kv::EmbeddedKv;
pub use r2::EmbeddedR2;

use crate::env::{Outcome, Refusal, RefusalKind};
use crate::row::StoreTime;
use database::Failure;
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

/// The store side's clock.
pub type StoreClock = Arc<dyn Fn() -> StoreTime + Send + Sync>;

/// The three stores of one folder.
#[derive(Debug)]
pub struct Embedded {
    /// Workers KV.
    pub kv: EmbeddedKv,
    /// D1.
    pub d1: EmbeddedD1,
    /// R2.
    pub r2: EmbeddedR2,
}

impl Embedded {
    /// Opens the stores of a folder, and makes those that are missing.
    pub fn open(folder: &Path, clock: StoreClock) -> Result<Self, OpenError> {
        std::fs::create_dir_all(folder).map_err(|error| OpenError::folder(folder, &error))?;
        Ok(Embedded {
            kv: EmbeddedKv::open(&folder.join("kv.sqlite"), clock.clone())?,
            d1: EmbeddedD1::open(&folder.join("d1.sqlite"), clock.clone())?,
            r2: EmbeddedR2::open(&folder.join("r2.sqlite"), clock)?,
        })
    }
}

/// KV and R2 take one write a second for each key.
/// <https://developers.cloudflare.com/kv/platform/limits/>
const SAME_KEY_MS: u64 = 1_000;
// Past this many, keys whose second is over are forgotten.
const PACED_KEYS: usize = 4_096;

/// When each key was written last. Kept in memory: a restart takes longer to notice than a
/// second does to pass.
#[derive(Clone, Default)]
struct KeyRate(Arc<Mutex<BTreeMap<String, StoreTime>>>);

impl KeyRate {
    /// Refuses a write that comes within a second of the key's last one.
    fn admit(&self, key: &str, now: StoreTime) -> Result<(), Refusal> {
        let written = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match written.get(key) {
            // A clock that was set back must not lock a key for longer than the second.
            Some(last) if now.0.abs_diff(last.0) < SAME_KEY_MS => Err(Refusal::new(
                RefusalKind::RateLimited,
                "one write a second for each key; try again later",
            )),
            _ => Ok(()),
        }
    }

    fn note(&self, key: String, now: StoreTime) {
        let mut written = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if written.len() >= PACED_KEYS {
            written.retain(|_, last| now.0.abs_diff(last.0) < SAME_KEY_MS);
        }
        written.insert(key, now);
    }
}

/// Refuses what comes at its deadline or after (rule A5). What is accepted has landed as far as
/// anybody can tell, however long its commit takes: one thread runs the file's requests in order,
/// so nothing accepted later can come before it.
fn before(deadline: StoreTime, now: StoreTime) -> Result<(), Refusal> {
    if now >= deadline {
        let detail = format!("it is {} and the deadline was {}", now.0, deadline.0);
        return Err(Refusal::new(RefusalKind::DeadlinePassed, detail));
    }
    Ok(())
}

fn within(what: &str, bytes: usize, bytes_max: usize) -> Result<(), Refusal> {
    if bytes > bytes_max {
        let detail = format!("the {what} has {bytes} bytes, and {bytes_max} are allowed");
        return Err(Refusal::new(RefusalKind::TooLarge, detail));
    }
    Ok(())
}

/// Changes with the object.
fn content_tag(metadata: Option<&str>, body: &[u8]) -> String {
    let mut hasher = blake3::Hasher::new();
    let metadata = metadata.map(str::as_bytes);
    hasher.update(&metadata.map_or(u64::MAX, |text| text.len() as u64).to_le_bytes());
    hasher.update(metadata.unwrap_or_default());
    hasher.update(body);
    hasher.finalize().to_hex().to_string()
}

fn outcome<T>(result: Result<T, Failure>) -> Outcome<T> {
    match result {
        Ok(value) => Outcome::Applied(value),
        Err(Failure::Refused(refusal)) => Outcome::Refused(refusal),
        Err(Failure::Unknown(doubt)) => Outcome::Unknown(doubt),
        Err(Failure::Sql(error)) => Outcome::Refused(database::refusal(&error)),
    }
}

/// The lines of a listing: keys in byte order after `after`, as long as they begin with `prefix`.
fn list(
    connection: &rusqlite::Connection,
    sql: &str,
    prefix: &str,
    from: Option<&str>,
    limit: usize,
) -> Result<crate::env::KeyPage, Failure> {
    // The last key of the former page. An empty string sorts before every key, and no key is empty.
    let after = from.unwrap_or_default();
    let mut statement = connection.prepare_cached(sql)?;
    let mut rows = statement.query(rusqlite::params![prefix, after])?;
    let mut keys: Vec<crate::env::Listed> = Vec::new();
    while keys.len() < limit {
        let Some(row) = rows.next()? else { break };
        let key: String = row.get(0)?;
        if !key.starts_with(prefix) {
            break;
        }
        keys.push(crate::env::Listed { key, metadata: row.get(1)? });
    }
    let next = (keys.len() == limit).then(|| keys.last().map(|last| last.key.clone())).flatten();
    Ok(crate::env::KeyPage { keys, next })
}

#[cfg(test)]
mod tests;
