//! Workers KV on SQLite.

use super::database::{Database, Failure, OpenError};
use super::{KeyRate, StoreClock, before, list, outcome, within};
use crate::env::{KeyPage, KvEntry, KvStore, Outcome, Refusal, RefusalKind, Unavailable};
use crate::record::{KV_KEY_BYTES_MAX, KV_METADATA_BYTES_MAX, KV_VALUE_BYTES_MAX};
use crate::row::StoreTime;
use bytes::Bytes;
use rusqlite::{Connection, OptionalExtension, params};
use std::fmt;
use std::path::Path;
use std::time::Duration;

// The value comes last, so that a listing reads none of it.
const SCHEMA: &str = "CREATE TABLE IF NOT EXISTS kv(
    key TEXT NOT NULL PRIMARY KEY,
    metadata TEXT,
    expires_at_s INTEGER,
    value BLOB NOT NULL
);
CREATE INDEX IF NOT EXISTS kv_expiry ON kv(expires_at_s) WHERE expires_at_s IS NOT NULL";

/// KV: an expiration nearer than this is refused.
/// <https://developers.cloudflare.com/kv/api/write-key-value-pairs/#expiring-keys>
const EXPIRATION_S_MIN: u64 = 60;

/// The embedded KV.
pub struct EmbeddedKv {
    database: Database,
    clock: StoreClock,
    rate: KeyRate,
}

impl fmt::Debug for EmbeddedKv {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EmbeddedKv").field("database", &self.database).finish_non_exhaustive()
    }
}

impl EmbeddedKv {
    /// Opens or makes the file.
    pub fn open(path: &Path, clock: StoreClock) -> Result<Self, OpenError> {
        let database = Database::open(path, |connection| {
            // A file of an earlier build has no expirations yet, and a column that nobody reads.
            let made = connection.table_exists(None, "kv")?;
            if made && !connection.column_exists(None, "kv", "expires_at_s")? {
                connection.execute_batch("ALTER TABLE kv ADD COLUMN expires_at_s INTEGER")?;
            }
            if made && connection.column_exists(None, "kv", "tag")? {
                connection.execute_batch("ALTER TABLE kv DROP COLUMN tag")?;
            }
            connection.execute_batch(SCHEMA)
        })?;
        Ok(EmbeddedKv { database, clock, rate: KeyRate::default() })
    }

    /// How many transactions that wrote were committed since it was opened.
    pub fn commits(&self) -> u64 {
        self.database.commits()
    }

    async fn write(
        &self,
        key: &str,
        deadline: StoreTime,
        bytes: usize,
        change: impl FnOnce(&Connection, &str) -> Result<(), Failure> + Send + 'static,
    ) -> Outcome<()> {
        let (key, clock, rate) = (key.to_owned(), self.clock.clone(), self.rate.clone());
        let write = move |connection: &Connection| {
            let now = clock();
            before(deadline, now)?;
            rate.admit(&key, now)?;
            let gone = "DELETE FROM kv WHERE expires_at_s <= ?1";
            connection.prepare_cached(gone)?.execute([seconds(now)])?;
            change(connection, &key)?;
            rate.note(key, now);
            Ok(())
        };
        outcome(self.database.write(bytes, write).await)
    }
}

fn seconds(now: StoreTime) -> i64 {
    i64::try_from(now.0 / 1_000).unwrap_or(i64::MAX)
}

/// Keys that KV does not take. <https://developers.cloudflare.com/kv/platform/limits/>
fn check_key(key: &str) -> Result<(), Refusal> {
    if matches!(key, "" | "." | "..") {
        let detail = format!("{key:?} is no key for KV");
        return Err(Refusal::new(RefusalKind::Constraint, detail));
    }
    within("key", key.len(), KV_KEY_BYTES_MAX)
}

fn check(key: &str, entry: &KvEntry, now: StoreTime) -> Result<(), Refusal> {
    check_key(key)?;
    if let Some(at) = entry.expires_at_s
        && at < now.0 / 1_000 + EXPIRATION_S_MIN
    {
        let detail = format!("the expiration {at} is less than {EXPIRATION_S_MIN} seconds away");
        return Err(Refusal::new(RefusalKind::Constraint, detail));
    }
    within("value", entry.value.len(), KV_VALUE_BYTES_MAX)?;
    within("metadata", entry.metadata.as_ref().map_or(0, String::len), KV_METADATA_BYTES_MAX)
}

impl KvStore for EmbeddedKv {
    fn echoes_for(&self) -> Duration {
        // One database: it shows what stands there.
        Duration::ZERO
    }

    async fn get(&self, key: &str) -> Result<Option<KvEntry>, Unavailable> {
        let (key, clock) = (key.to_owned(), self.clock.clone());
        let read = move |connection: &Connection| {
            // As it stands, whoever wrote it: whether it is what was put is for the engine to say.
            // The cast gives text and numbers that somebody wrote by hand their bytes.
            let sql = "SELECT CAST(value AS BLOB), metadata, expires_at_s FROM kv \
                       WHERE key = ?1 AND (expires_at_s IS NULL OR expires_at_s > ?2)";
            let mut statement = connection.prepare_cached(sql)?;
            let found: Option<(Vec<u8>, Option<String>, Option<i64>)> = statement
                .query_row(params![&key, seconds(clock())], |row| {
                    Ok((row.get(0)?, row.get(1)?, row.get(2)?))
                })
                .optional()?;
            Ok(found.map(|(value, metadata, expires)| {
                let expires_at_s = expires.and_then(|at| u64::try_from(at).ok());
                KvEntry { value: Bytes::from(value), metadata, expires_at_s }
            }))
        };
        self.database.read(read).await
    }

    async fn put(&self, key: &str, entry: KvEntry, deadline: StoreTime) -> Outcome<()> {
        if let Err(refusal) = check(key, &entry, (self.clock)()) {
            return Outcome::Refused(refusal);
        }
        let bytes = entry.value.len();
        let put = move |connection: &Connection, key: &str| {
            let sql = "INSERT OR REPLACE INTO kv(key, value, metadata, expires_at_s) \
                       VALUES (?1, ?2, ?3, ?4)";
            let expires = entry.expires_at_s.and_then(|at| i64::try_from(at).ok());
            let mut statement = connection.prepare_cached(sql)?;
            statement.execute(params![key, &entry.value[..], entry.metadata, expires])?;
            Ok(())
        };
        self.write(key, deadline, bytes, put).await
    }

    async fn delete(&self, key: &str, deadline: StoreTime) -> Outcome<()> {
        if let Err(refusal) = check_key(key) {
            return Outcome::Refused(refusal);
        }
        let delete = |connection: &Connection, key: &str| {
            connection.prepare_cached("DELETE FROM kv WHERE key = ?1")?.execute([key])?;
            Ok(())
        };
        self.write(key, deadline, 0, delete).await
    }

    async fn list(
        &self,
        prefix: &str,
        from: Option<&str>,
        limit: usize,
    ) -> Result<KeyPage, Unavailable> {
        let (prefix, from) = (prefix.to_owned(), from.map(str::to_owned));
        let clock = self.clock.clone();
        let read = move |connection: &Connection| {
            let now = seconds(clock());
            let sql = format!(
                "SELECT key, metadata FROM kv WHERE key >= ?1 AND key > ?2 \
                 AND (expires_at_s IS NULL OR expires_at_s > {now}) ORDER BY key"
            );
            list(connection, &sql, &prefix, from.as_deref(), limit)
        };
        self.database.read(read).await
    }
}
