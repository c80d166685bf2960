//! D1 on SQLite: the authority's rows.
//!
//! ```text
//! tidelock_records   dataset, key, value          readable and writable with the sqlite3 tool
//! tidelock_rows      version, sequences, marks    triggers on the first keep the sequence
//! tidelock_losers    what lost against a value    written in the winner's transaction (rule V6)
//! ```
//!
//! Invariant: what an operation does to a row is decided by [`row::apply`] alone, inside the
//! transaction that loads and stores it. The triggers fire for Tidelock's own writes too, and
//! the sequences are set to what `apply` says afterwards in the same transaction; only a write
//! that went past it leaves them apart.

use super::database::{Database, Failure, OpenError};
use super::{StoreClock, outcome};
use crate::env::{Outcome, Refusal, RefusalKind, RowHistory, RowStore, Unavailable};
use crate::record::{D1_ROW_BYTES_MAX, Loser, RecordId, StoreId, Stored};
use crate::row::{self, BatchAnswer, Change, Epoch, Lease, Poll, PollPage, Row, RowAnswer};
use crate::row::{RowOp, Seq, StoreTime};
use crate::version::{ContentHash, Version};
use bytes::Bytes;
use rusqlite::{Connection, params};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;

/// The embedded D1.
pub struct EmbeddedD1 {
    database: Database,
    clock: StoreClock,
}

impl fmt::Debug for EmbeddedD1 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EmbeddedD1").field("database", &self.database).finish_non_exhaustive()
    }
}

impl EmbeddedD1 {
    /// Opens or makes the file.
    pub fn open(path: &Path, clock: StoreClock) -> Result<Self, OpenError> {
        let schema = include_str!("d1.sql");
        let database = Database::open(path, |connection| connection.execute_batch(schema))?;
        Ok(EmbeddedD1 { database, clock })
    }

    /// How many transactions that wrote were committed since it was opened.
    pub fn commits(&self) -> u64 {
        self.database.commits()
    }
}

impl RowStore for EmbeddedD1 {
    async fn batch(&self, ops: Vec<RowOp>) -> Outcome<BatchAnswer> {
        if let Err(refusal) = ops.iter().try_for_each(check) {
            return Outcome::Refused(refusal);
        }
        let clock = self.clock.clone();
        let bytes = ops.iter().map(RowOp::held_bytes).sum();
        let all = move |connection: &Connection| {
            let now = clock();
            let answers =
                ops.iter().map(|op| one(connection, op, now)).collect::<Result<_, Failure>>()?;
            Ok(BatchAnswer { now, answers })
        };
        outcome(self.database.write(bytes, all).await)
    }

    async fn poll(&self, poll: Poll) -> Result<PollPage, Unavailable> {
        let clock = self.clock.clone();
        self.database.read(move |connection: &Connection| page(connection, poll, clock())).await
    }

    async fn histories(&self, records: Vec<RecordId>) -> Result<Vec<RowHistory>, Unavailable> {
        let read = move |connection: &Connection| {
            let history = |record: &RecordId| {
                let (row, losers) = (load(connection, record)?, losers(connection, record)?);
                Ok(RowHistory { row, losers })
            };
            records.iter().map(history).collect()
        };
        self.database.read(read).await
    }
}

fn check(op: &RowOp) -> Result<(), Refusal> {
    let RowOp::Install(install) = op else { return Ok(()) };
    let values = std::iter::once(&install.value).chain(install.losers.iter().map(|l| &l.value));
    for value in values {
        super::within("value", value.held_bytes(), D1_ROW_BYTES_MAX)?;
    }
    Ok(())
}

fn one(connection: &Connection, op: &RowOp, now: StoreTime) -> Result<RowAnswer, Failure> {
    let record = op.record();
    let before = load(connection, record)?;
    let next: i64 = connection
        .prepare_cached("SELECT coalesce(max(seq), 0) + 1 FROM tidelock_rows")?
        .query_row([], |row| row.get(0))?;
    let (changed, answer) = row::apply(before.as_ref(), op, now, Seq(number(next)));
    let Some(after) = changed else { return Ok(answer) };
    let own_bytes = match op {
        RowOp::Install(install) => {
            for loser in &install.losers {
                store_loser(connection, record, loser)?;
            }
            true
        }
        RowOp::Read { .. }
        | RowOp::Claim { .. }
        | RowOp::Owe { .. }
        | RowOp::Clear { .. }
        | RowOp::Release { .. }
        | RowOp::Forgo { .. } => false,
    };
    store(connection, record, &after, own_bytes)?;
    Ok(answer)
}

fn load(connection: &Connection, record: &RecordId) -> Result<Option<Row>, Failure> {
    // The cast gives text and numbers that somebody wrote by hand their bytes.
    let sql = "SELECT t.version, t.reference, t.row_seq, t.known_row_seq, t.foreign_at, t.seq, \
                      t.epoch, t.owed, r.dataset IS NOT NULL, CAST(r.value AS BLOB) \
               FROM tidelock_rows AS t LEFT JOIN tidelock_records AS r USING (dataset, key) \
               WHERE t.dataset = ?1 AND t.key = ?2";
    let mut statement = connection.prepare_cached(sql)?;
    let mut rows = statement.query([&*record.dataset, &*record.key])?;
    let Some(found) = rows.next()? else { return Ok(None) };
    let version: Option<String> = found.get(0)?;
    let reference: Option<String> = found.get(1)?;
    let owed: Option<String> = found.get(7)?;
    let present: bool = found.get(8)?;
    let value = match (present, found.get::<_, Option<Vec<u8>>>(9)?, reference) {
        (false, _, _) => Stored::Tombstone,
        (true, Some(bytes), _) => Stored::Inline(Bytes::from(bytes)),
        (true, None, Some(text)) => reference_of(record, text)?,
        (true, None, None) => Stored::Inline(Bytes::new()),
    };
    Ok(Some(Row {
        version: version.map(|text| parse_version(record, text)).transpose()?,
        value: Some(value),
        row_seq: number(found.get(2)?),
        known_row_seq: number(found.get(3)?),
        foreign_at: StoreTime(number(found.get(4)?)),
        seq: Seq(number(found.get(5)?)),
        epoch: Epoch(number(found.get(6)?)),
        owed: owed.map(|text| parse(record, text)).transpose()?.unwrap_or_default(),
    }))
}

fn store(
    connection: &Connection,
    record: &RecordId,
    row: &Row,
    bytes_too: bool,
) -> Result<(), Failure> {
    let (dataset, key) = (&*record.dataset, &*record.key);
    let mut reference = None;
    if let Some(Stored::Reference { hash, bytes }) = &row.value {
        reference = Some(text(&Reference { hash: *hash, bytes: *bytes }));
    }
    if bytes_too {
        let value = match &row.value {
            Some(Stored::Inline(bytes)) => Some(&bytes[..]),
            Some(Stored::Reference { .. } | Stored::Tombstone) | None => None,
        };
        match &row.value {
            Some(Stored::Inline(_) | Stored::Reference { .. }) => {
                let sql = "INSERT INTO tidelock_records(dataset, key, value) VALUES (?1, ?2, ?3) \
                           ON CONFLICT (dataset, key) DO UPDATE SET value = excluded.value";
                connection.prepare_cached(sql)?.execute(params![dataset, key, value])?;
            }
            Some(Stored::Tombstone) | None => {
                let sql = "DELETE FROM tidelock_records WHERE dataset = ?1 AND key = ?2";
                connection.prepare_cached(sql)?.execute([dataset, key])?;
            }
        }
    }
    // After the bytes: this overwrites what the triggers made of them.
    let sql = "INSERT INTO tidelock_rows(dataset, key, version, reference, row_seq, \
                   known_row_seq, foreign_at, seq, epoch, owed, owed_ends) \
               VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11) \
               ON CONFLICT (dataset, key) DO UPDATE SET version = excluded.version, \
                   reference = excluded.reference, row_seq = excluded.row_seq, \
                   known_row_seq = excluded.known_row_seq, foreign_at = excluded.foreign_at, \
                   seq = excluded.seq, epoch = excluded.epoch, owed = excluded.owed, \
                   owed_ends = excluded.owed_ends";
    connection.prepare_cached(sql)?.execute(params![
        dataset,
        key,
        row.version.as_ref().map(text),
        reference,
        integer(row.row_seq),
        integer(row.known_row_seq),
        integer(row.foreign_at.0),
        integer(row.seq.0),
        integer(row.epoch.0),
        (!row.owed.is_empty()).then(|| text(&row.owed)),
        row::first_end(&row.owed).map(|ends| integer(ends.0)),
    ])?;
    Ok(())
}

fn store_loser(connection: &Connection, record: &RecordId, loser: &Loser) -> Result<(), Failure> {
    let (value, reference) = match &loser.value {
        Stored::Inline(bytes) => (Some(&bytes[..]), None),
        Stored::Reference { hash, bytes } => {
            (None, Some(text(&Reference { hash: *hash, bytes: *bytes })))
        }
        Stored::Tombstone => (None, None),
    };
    // The same loser may come again, from another coordinator that met the same two versions.
    let sql = "INSERT INTO tidelock_losers(dataset, key, dot, winner, sibling, reference, value) \
               VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7) ON CONFLICT DO NOTHING";
    connection.prepare_cached(sql)?.execute(params![
        &*record.dataset,
        &*record.key,
        loser.sibling.dot.to_string(),
        loser.winner.to_string(),
        text(&loser.sibling),
        reference,
        value,
    ])?;
    Ok(())
}

fn losers(connection: &Connection, record: &RecordId) -> Result<Vec<Loser>, Failure> {
    let sql = "SELECT sibling, winner, reference, value FROM tidelock_losers \
               WHERE dataset = ?1 AND key = ?2";
    let mut statement = connection.prepare_cached(sql)?;
    let mut rows = statement.query([&*record.dataset, &*record.key])?;
    let mut losers = Vec::new();
    while let Some(row) = rows.next()? {
        let sibling: crate::version::Sibling = parse(record, row.get(0)?)?;
        let winner: String = row.get(1)?;
        let winner = winner.parse().map_err(|error| damaged(record, &error))?;
        let reference: Option<String> = row.get(2)?;
        let value = match (row.get::<_, Option<Vec<u8>>>(3)?, reference) {
            (Some(bytes), _) => Stored::Inline(Bytes::from(bytes)),
            (None, Some(text)) => reference_of(record, text)?,
            (None, None) => Stored::Tombstone,
        };
        losers.push(Loser { sibling, value, winner });
    }
    Ok(losers)
}

fn page(connection: &Connection, poll: Poll, now: StoreTime) -> Result<PollPage, Failure> {
    let limit = i64::try_from(poll.limit).unwrap_or(i64::MAX - 1);
    let mut page = PollPage { now, complete: true, ..PollPage::default() };
    let sql = "SELECT dataset, key, version, row_seq, known_row_seq, seq FROM tidelock_rows \
               WHERE seq > ?1 ORDER BY seq LIMIT ?2";
    let mut statement = connection.prepare_cached(sql)?;
    let mut rows = statement.query(params![integer(poll.after.0), limit + 1])?;
    while let Some(row) = rows.next()? {
        if page.changes.len() == poll.limit {
            page.complete = false;
            break;
        }
        let record = record(row)?;
        let version: Option<String> = row.get(2)?;
        let (row_seq, known): (i64, i64) = (row.get(3)?, row.get(4)?);
        page.changes.push(Change {
            version: version.map(|text| parse_version(&record, text)).transpose()?,
            record,
            row_seq: number(row_seq),
            foreign: row_seq != known,
            seq: Seq(number(row.get(5)?)),
        });
    }
    let head = "SELECT coalesce(max(seq), 0) FROM tidelock_rows";
    let head: i64 = connection.prepare_cached(head)?.query_row([], |row| row.get(0))?;
    page.head = Seq(number(head));
    let ended = "SELECT dataset, key, owed FROM tidelock_rows \
                 WHERE owed IS NOT NULL AND owed_ends <= ?1 ORDER BY owed_ends LIMIT ?2";
    lapsed(connection, ended, params![integer(now.0), limit], poll, &mut page)?;
    // Marks that a former life of the asking coordinator holds: its own text taken out, its node
    // is still named.
    let node = format!("\"{}.", poll.actor.node.0);
    let own = format!("\"{}\"", poll.actor);
    let former = "SELECT dataset, key, owed FROM tidelock_rows \
                  WHERE owed IS NOT NULL AND owed_ends > ?1 \
                    AND instr(replace(owed, ?2, ''), ?3) > 0 ORDER BY owed_ends LIMIT ?4";
    lapsed(connection, former, params![integer(now.0), own, node, limit], poll, &mut page)?;
    let next = "SELECT min(owed_ends) FROM tidelock_rows WHERE owed IS NOT NULL AND owed_ends > ?1";
    let next: Option<i64> =
        connection.prepare_cached(next)?.query_row([integer(now.0)], |row| row.get(0))?;
    page.next_lapse = next.map(|at| StoreTime(number(at)));
    Ok(page)
}

fn lapsed(
    connection: &Connection,
    sql: &str,
    params: impl rusqlite::Params,
    poll: Poll,
    page: &mut PollPage,
) -> Result<(), Failure> {
    let mut statement = connection.prepare_cached(sql)?;
    let mut rows = statement.query(params)?;
    while let Some(row) = rows.next()? {
        let record = record(row)?;
        let owed: BTreeMap<StoreId, Vec<Lease>> = parse(&record, row.get(2)?)?;
        for (store, leases) in owed {
            if page.lapsed.len() == poll.limit {
                return Ok(());
            }
            if row::lapsed(&leases, poll.actor, page.now) {
                page.lapsed.push((record.clone(), store));
            }
        }
    }
    Ok(())
}

fn record(row: &rusqlite::Row<'_>) -> rusqlite::Result<RecordId> {
    let (dataset, key): (String, String) = (row.get(0)?, row.get(1)?);
    Ok(RecordId { dataset: dataset.into(), key: key.into() })
}

#[derive(Serialize, Deserialize)]
struct Reference {
    hash: ContentHash,
    bytes: u64,
}

fn reference_of(record: &RecordId, text: String) -> Result<Stored, Failure> {
    let Reference { hash, bytes } = parse(record, text)?;
    Ok(Stored::Reference { hash, bytes })
}

fn parse_version(record: &RecordId, text: String) -> Result<Version, Failure> {
    let version: Version = parse(record, text)?;
    if version.siblings().is_empty() {
        return Err(damaged(record, &"its version has no value"));
    }
    Ok(version)
}

fn parse<T: for<'de> Deserialize<'de>>(record: &RecordId, text: String) -> Result<T, Failure> {
    serde_json::from_str(&text).map_err(|error| damaged(record, &error))
}

fn damaged(record: &RecordId, problem: &dyn fmt::Display) -> Failure {
    let detail = format!(
        "D1's companion row of {record} cannot be read ({problem}); restore it, or delete it and \
         write the record again"
    );
    Failure::Refused(Refusal::new(RefusalKind::Constraint, detail))
}

fn text(value: &impl Serialize) -> String {
    serde_json::to_string(value).expect("maps here have text keys, which is all that JSON asks")
}

// SQLite's integers are signed. Sequences and times stay far below the sign; a negative one was
// written by hand.
fn number(value: i64) -> u64 {
    u64::try_from(value).unwrap_or(0)
}

fn integer(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}
