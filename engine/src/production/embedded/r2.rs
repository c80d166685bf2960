//! R2 on SQLite.

use super::database::{Database, Failure, OpenError};
use super::{KeyRate, StoreClock, before, content_tag, list, outcome, within};
use crate::env::{KeyPage, Object, ObjectStore, Outcome, PutIf, Refusal, RefusalKind, Unavailable};
use crate::record::{R2_KEY_BYTES_MAX, R2_METADATA_BYTES_MAX};
use crate::row::StoreTime;
use bytes::Bytes;
use rusqlite::{Connection, OptionalExtension, params};
use std::fmt;
use std::path::Path;

/// The largest body: what SQLite takes in one row, less room for key and metadata. R2 itself
/// takes more.
pub const BODY_BYTES_MAX: usize = 999_000_000;

// The body comes last, so that a listing reads none of it.
const SCHEMA: &str = "CREATE TABLE IF NOT EXISTS objects(
    key TEXT NOT NULL PRIMARY KEY,
    metadata TEXT,
    etag TEXT NOT NULL,
    body BLOB NOT NULL
)";

/// The embedded R2. An ETag is the BLAKE3 of body and metadata.
pub struct EmbeddedR2 {
    database: Database,
    clock: StoreClock,
    rate: KeyRate,
}

impl fmt::Debug for EmbeddedR2 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EmbeddedR2").field("database", &self.database).finish_non_exhaustive()
    }
}

impl EmbeddedR2 {
    /// Opens or makes the file.
    pub fn open(path: &Path, clock: StoreClock) -> Result<Self, OpenError> {
        let database = Database::open(path, |connection| connection.execute_batch(SCHEMA))?;
        Ok(EmbeddedR2 { database, clock, rate: KeyRate::default() })
    }

    /// How many transactions that wrote were committed since it was opened.
    pub fn commits(&self) -> u64 {
        self.database.commits()
    }

    async fn write<T: Send + 'static>(
        &self,
        key: &str,
        condition: PutIf,
        deadline: Option<StoreTime>,
        bytes: usize,
        change: impl FnOnce(&Connection, &str) -> Result<T, Failure> + Send + 'static,
    ) -> Outcome<T> {
        let (key, clock, rate) = (key.to_owned(), self.clock.clone(), self.rate.clone());
        let write = move |connection: &Connection| {
            let now = clock();
            if let Some(deadline) = deadline {
                before(deadline, now)?;
            }
            // Before the rate: that the object is there stays true however long the caller waits.
            if condition == PutIf::Absent {
                let sql = "SELECT 1 FROM objects WHERE key = ?1";
                if connection.prepare_cached(sql)?.exists([&key])? {
                    let detail = "an object is there already";
                    return Err(Refusal::new(RefusalKind::Precondition, detail).into());
                }
            }
            rate.admit(&key, now)?;
            let changed = change(connection, &key)?;
            rate.note(key, now);
            Ok(changed)
        };
        outcome(self.database.write(bytes, write).await)
    }
}

fn check_key(key: &str) -> Result<(), Refusal> {
    if key.is_empty() {
        return Err(Refusal::new(RefusalKind::Constraint, "the key is empty"));
    }
    within("key", key.len(), R2_KEY_BYTES_MAX)
}

fn check(key: &str, body: &Bytes, metadata: Option<&str>) -> Result<(), Refusal> {
    check_key(key)?;
    within("body", body.len(), BODY_BYTES_MAX)?;
    within("metadata", metadata.map_or(0, str::len), R2_METADATA_BYTES_MAX)
}

impl ObjectStore for EmbeddedR2 {
    async fn get(&self, key: &str) -> Result<Option<Object>, Unavailable> {
        let key = key.to_owned();
        let read = move |connection: &Connection| {
            // As it stands, whoever wrote it: whether it is what was put is for the engine to say.
            // The cast gives text and numbers that somebody wrote by hand their bytes.
            let sql = "SELECT CAST(body AS BLOB), metadata FROM objects WHERE key = ?1";
            let mut statement = connection.prepare_cached(sql)?;
            let found: Option<(Vec<u8>, Option<String>)> =
                statement.query_row([&key], |row| Ok((row.get(0)?, row.get(1)?))).optional()?;
            Ok(found.map(|(body, metadata)| {
                let etag = content_tag(metadata.as_deref(), &body);
                Object { body: Bytes::from(body), metadata, etag }
            }))
        };
        self.database.read(read).await
    }

    async fn put(
        &self,
        key: &str,
        body: Bytes,
        metadata: Option<String>,
        condition: PutIf,
        deadline: Option<StoreTime>,
    ) -> Outcome<String> {
        if let Err(refusal) = check(key, &body, metadata.as_deref()) {
            return Outcome::Refused(refusal);
        }
        let bytes = body.len();
        let put = move |connection: &Connection, key: &str| {
            let etag = content_tag(metadata.as_deref(), &body);
            let sql = "INSERT OR REPLACE INTO objects(key, body, metadata, etag) \
                       VALUES (?1, ?2, ?3, ?4)";
            let mut statement = connection.prepare_cached(sql)?;
            statement.execute(params![key, &body[..], metadata, etag])?;
            Ok(etag)
        };
        self.write(key, condition, deadline, bytes, put).await
    }

    async fn delete(&self, key: &str, deadline: StoreTime) -> Outcome<()> {
        if let Err(refusal) = check_key(key) {
            return Outcome::Refused(refusal);
        }
        let delete = |connection: &Connection, key: &str| {
            connection.prepare_cached("DELETE FROM objects WHERE key = ?1")?.execute([key])?;
            Ok(())
        };
        self.write(key, PutIf::Always, Some(deadline), 0, delete).await
    }

    async fn list(
        &self,
        prefix: &str,
        from: Option<&str>,
        limit: usize,
    ) -> Result<KeyPage, Unavailable> {
        let (prefix, from) = (prefix.to_owned(), from.map(str::to_owned));
        let sql = "SELECT key, metadata FROM objects WHERE key >= ?1 AND key > ?2 ORDER BY key";
        let read =
            move |connection: &Connection| list(connection, sql, &prefix, from.as_deref(), limit);
        self.database.read(read).await
    }
}
