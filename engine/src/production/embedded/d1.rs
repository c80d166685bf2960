//! D1 on SQLite: the authority's rows.
//!
//! ```text
//! tidelock_records   dataset, key, value          readable and writable with the sqlite3 tool
//! (a table of the user's own, for a structured dataset: see `table.rs`)
//! tidelock_rows      version, sequences, marks    triggers on the tables above keep the sequence
//! tidelock_leaves    sums over the rows           what a ledger is held against, leaf by leaf
//! tidelock_writes    what was written lately      where such values are merged
//! tidelock_losers    what lost against a value    written in the winner's transaction (rule V6)
//! tidelock_erasures  whose bytes are gone for good    and are not taken again
//! tidelock_floors    what reaped tombstones had seen (rule A6)
//! tidelock_condemned blobs of R2 that are being deleted (rule A0, see `blobs.rs`)
//! ```
//!
//! Invariant: what an operation does to a row is decided by [`row::apply`] alone, inside the
//! transaction that loads and stores it. The triggers fire for Tidelock's own writes too, and
//! the sequences are set to what `apply` says afterwards in the same transaction; only a write
//! that went past it leaves them apart.

use super::database::{Database, Failure, OpenError};
use super::table::{BindProblem, UserTable};
use super::{StoreClock, blobs, conflicts, erasures, outcome, writes};
use crate::blob::Condemned;
use crate::conflict::{Conflict, ConflictQuery, Contexts};
use crate::env::{Outcome, Refusal, RefusalKind, RowHistory, RowStore, Unavailable};
use crate::erasure::{Erase, EraseAnswer};
use crate::policy::{Policy, Table};
use crate::record::{D1_ROW_BYTES_MAX, RecordId, StoreId, Stored};
use crate::row::{
    self, BatchAnswer, Change, Changed, Epoch, Floor, Lease, Poll, PollPage, Row, RowAnswer,
};
use crate::row::{RowOp, Seq, StoreTime};
use crate::structured::Schema;
use crate::tree::{Digest, Leaf, Sums};
use crate::version::{ContentHash, Stamp, Version};
use bytes::Bytes;
use rusqlite::{Connection, OptionalExtension, params};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Looks at the users' tables in one poll, while somebody goes on changing them.
const LOOKS_MAX: usize = 8;

/// The embedded D1.
pub struct EmbeddedD1 {
    database: Database,
    clock: StoreClock,
    /// Locked by the database's own thread, and by who binds.
    tables: Arc<Mutex<Tables>>,
}

/// Why a dataset's table cannot be had.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BindError(pub String);

impl fmt::Display for BindError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for BindError {}

/// The users' own tables.
#[derive(Debug, Default)]
struct Tables {
    by_dataset: BTreeMap<Arc<str>, UserTable>,
    /// The database's schema cookie when they were looked at.
    seen: Option<i64>,
}

impl Tables {
    fn are_as_seen(&self, connection: &Connection) -> rusqlite::Result<bool> {
        Ok(self.by_dataset.is_empty() || self.seen == Some(schema_version(connection)?))
    }

    /// Looks at the tables again when anybody has changed the database's schema.
    fn refresh(&mut self, connection: &Connection) -> Result<(), Failure> {
        if self.are_as_seen(connection)? {
            return Ok(());
        }
        let before = schema_version(connection)?;
        for table in self.by_dataset.values_mut() {
            table.look_again(connection)?;
        }
        // What was put right in this transaction may be rolled back: then it is looked at again.
        self.seen = (schema_version(connection)? == before).then_some(before);
        Ok(())
    }
}

fn schema_version(connection: &Connection) -> rusqlite::Result<i64> {
    connection.prepare_cached("PRAGMA schema_version")?.query_row([], |row| row.get(0))
}

fn locked(tables: &Mutex<Tables>) -> MutexGuard<'_, Tables> {
    tables.lock().unwrap_or_else(PoisonError::into_inner)
}

impl fmt::Debug for EmbeddedD1 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EmbeddedD1").field("database", &self.database).finish_non_exhaustive()
    }
}

impl EmbeddedD1 {
    /// Opens or makes the file.
    pub fn open(path: &Path, clock: StoreClock) -> Result<Self, OpenError> {
        let database = Database::open(path, |connection| {
            add_leaves(connection)?;
            conflicts::add_places(connection)?;
            connection.execute_batch(include_str!("d1.sql"))
        })?;
        Ok(EmbeddedD1 { database, clock, tables: Arc::default() })
    }

    /// Takes the tables of a policy's structured datasets, and gives their columns. All of them or
    /// none: an error names the dataset, the table and what to do.
    pub async fn bind(
        &self,
        policy: &Policy,
    ) -> Result<BTreeMap<Arc<str>, Arc<Schema>>, BindError> {
        let wanted: Vec<_> = policy
            .datasets
            .values()
            .map(|dataset| {
                let fields: Vec<String> = dataset.fields().cloned().collect();
                (dataset.name.clone(), dataset.table.clone().map(|table| (table, fields)))
            })
            .collect();
        let bind = move |connection: &Connection| {
            let mut tables = Vec::new();
            for (dataset, table) in &wanted {
                let bound = match table {
                    Some((table, fields)) => take_table(connection, dataset, table, fields)
                        .map(|table| tables.push((dataset.clone(), table))),
                    None => no_table(connection, dataset),
                };
                bound.map_err(|problem| match problem {
                    BindProblem::Sql(error) => Failure::Sql(error),
                    BindProblem::Refused(problem) => {
                        let detail = format!("dataset {:?}: {problem}", &**dataset);
                        Failure::Refused(Refusal::new(RefusalKind::Constraint, detail))
                    }
                })?;
            }
            Ok(tables)
        };
        let bound = self.database.write(0, bind).await;
        let bound =
            bound.map_err(|failure| BindError(Unavailable::from(failure).0.into_owned()))?;
        let mut tables = locked(&self.tables);
        tables.by_dataset = bound.into_iter().collect();
        tables.seen = None;
        let schema =
            |(name, table): (&Arc<str>, &UserTable)| (name.clone(), table.schema().clone());
        Ok(tables.by_dataset.iter().map(schema).collect())
    }

    #[cfg(test)]
    pub(super) fn tables_for_tests(&self) -> BTreeMap<Arc<str>, Arc<Schema>> {
        let tables = locked(&self.tables);
        tables.by_dataset.iter().map(|(name, t)| (name.clone(), t.schema().clone())).collect()
    }

    /// How many transactions that wrote were committed since it was opened.
    pub fn commits(&self) -> u64 {
        self.database.commits()
    }
}

impl RowStore for EmbeddedD1 {
    async fn batch(&self, ops: Arc<[RowOp]>) -> Outcome<BatchAnswer> {
        if let Err(refusal) = ops.iter().try_for_each(check) {
            return Outcome::Refused(refusal);
        }
        let (clock, tables) = (self.clock.clone(), self.tables.clone());
        let bytes = ops.iter().map(RowOp::held_bytes).sum();
        let all = move |connection: &Connection| {
            let now = clock();
            let mut tables = locked(&tables);
            tables.refresh(connection)?;
            let each = |op| one(connection, &tables, op, now);
            let answers = ops.iter().map(each).collect::<Result<_, Failure>>()?;
            Ok(BatchAnswer { now, answers })
        };
        outcome(self.database.write(bytes, all).await)
    }

    async fn unreferred(&self, blobs: Vec<ContentHash>) -> Result<Vec<ContentHash>, Unavailable> {
        self.database.read(move |connection| blobs::unreferred(connection, blobs)).await
    }

    async fn condemn(&self, blobs: Vec<ContentHash>) -> Outcome<Vec<Option<Condemned>>> {
        let clock = self.clock.clone();
        let all = move |connection: &Connection| blobs::condemn(connection, &blobs, clock());
        outcome(self.database.write(0, all).await)
    }

    async fn erase(&self, erase: Erase) -> Outcome<EraseAnswer> {
        let clock = self.clock.clone();
        let all = move |connection: &Connection| erasures::erase(connection, &erase, clock());
        outcome(self.database.write_and_scrub(all).await)
    }

    async fn poll(&self, poll: Poll) -> Result<PollPage, Unavailable> {
        for _ in 0..LOOKS_MAX {
            let (clock, tables) = (self.clock.clone(), self.tables.clone());
            let read = move |connection: &Connection| {
                // Without its triggers a table shows no foreign writes.
                if !locked(&tables).are_as_seen(connection)? {
                    return Ok(None);
                }
                page(connection, poll, clock()).map(Some)
            };
            if let Some(page) = self.database.read(read).await? {
                return Ok(page);
            }
            let tables = self.tables.clone();
            let refresh = move |connection: &Connection| locked(&tables).refresh(connection);
            self.database.write(0, refresh).await?;
        }
        Err(Unavailable("the database's schema does not stand still; try again".into()))
    }

    async fn histories(&self, records: Vec<RecordId>) -> Result<Vec<RowHistory>, Unavailable> {
        let tables = self.tables.clone();
        let read = move |connection: &Connection| {
            let tables = locked(&tables);
            let history = |record: &RecordId| {
                let table = tables.by_dataset.get(&record.dataset);
                let losers = conflicts::losers(connection, record)?;
                let row = match load(connection, table, record)? {
                    None => Row::absent(&floor(connection, &record.dataset)?),
                    row => row,
                };
                Ok(RowHistory { row, losers, writes: writes::of(connection, record)? })
            };
            records.iter().map(history).collect()
        };
        self.database.read(read).await
    }

    async fn conflicts(&self, query: ConflictQuery) -> Result<Vec<Conflict>, Unavailable> {
        self.database.read(move |connection| conflicts::find(connection, &query)).await
    }

    async fn leaves(
        &self,
        dataset: &str,
        after: Option<Leaf>,
        limit: usize,
    ) -> Result<Vec<(Leaf, Sums)>, Unavailable> {
        let dataset = dataset.to_owned();
        let read = move |connection: &Connection| {
            let sql = "SELECT leaf, count, lane0, lane1, lane2, lane3 FROM tidelock_leaves \
                       WHERE dataset = ?1 AND leaf > ?2 AND count > 0 ORDER BY leaf LIMIT ?3";
            let after = after.map_or(-1, |leaf| i64::from(leaf.0));
            let limit = i64::try_from(limit).unwrap_or(i64::MAX);
            let mut statement = connection.prepare_cached(sql)?;
            let sums = |row: &rusqlite::Row<'_>| {
                let lanes = [row.get(2)?, row.get(3)?, row.get(4)?, row.get(5)?];
                Ok((Leaf(row.get(0)?), Sums { count: row.get(1)?, lanes }))
            };
            let leaves = statement.query_map(params![dataset, after, limit], sums)?;
            Ok(leaves.collect::<rusqlite::Result<_>>()?)
        };
        self.database.read(read).await
    }

    async fn leaf_rows(
        &self,
        dataset: &str,
        leaf: Leaf,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Vec<Change>, Unavailable> {
        let (dataset, after) = (dataset.to_owned(), after.unwrap_or_default().to_owned());
        let read = move |connection: &Connection| {
            let sql = "SELECT dataset, key, version, row_seq, known_row_seq, seq \
                       FROM tidelock_rows WHERE dataset = ?1 AND leaf = ?2 AND key > ?3 \
                           AND version IS NOT NULL ORDER BY key LIMIT ?4";
            let limit = i64::try_from(limit).unwrap_or(i64::MAX);
            let mut statement = connection.prepare_cached(sql)?;
            let mut rows = statement.query(params![dataset, leaf.0, after, limit])?;
            let mut changes = Vec::new();
            while let Some(row) = rows.next()? {
                changes.push(change(row)?);
            }
            Ok(changes)
        };
        self.database.read(read).await
    }
}

fn check(op: &RowOp) -> Result<(), Refusal> {
    let RowOp::Install(install) = op else { return Ok(()) };
    if matches!(install.value, Stored::Erased(_)) {
        let detail = "a record's own value is not erased; write one, or delete the record";
        return Err(Refusal::new(RefusalKind::Constraint, detail));
    }
    for value in install.values() {
        super::within("value", value.held_bytes(), D1_ROW_BYTES_MAX)?;
    }
    Ok(())
}

fn take_table(
    connection: &Connection,
    dataset: &Arc<str>,
    table: &Table,
    fields: &[String],
) -> Result<UserTable, BindProblem> {
    let bound = UserTable::bind(connection, dataset, &table.name, &table.key)?;
    for field in fields {
        bound.schema().check_field(field).map_err(|violation| {
            BindProblem::Refused(format!(
                "a copy is to keep a field that is not there: {violation}"
            ))
        })?;
    }
    Ok(bound)
}

/// A dataset that is no table now must not have been one: its rows would be left behind unseen.
fn no_table(connection: &Connection, dataset: &str) -> Result<(), BindProblem> {
    let sql = "SELECT name FROM tidelock_tables WHERE dataset = ?1";
    let was: Option<String> =
        connection.prepare_cached(sql)?.query_row([dataset], |row| row.get(0)).optional()?;
    match was {
        None => Ok(()),
        Some(table) => Err(BindProblem::Refused(format!(
            "it was structured over table {table:?} before, and its versions describe those rows; \
             keep kind = \"structured\", or choose another name for the dataset"
        ))),
    }
}

fn one(
    connection: &Connection,
    tables: &Tables,
    op: &RowOp,
    now: StoreTime,
) -> Result<RowAnswer, Failure> {
    if let RowOp::Install(install) = op
        && let Some(no_blob) = blobs::refuse(connection, install, now)?
    {
        return Ok(no_blob);
    }
    let record = op.record();
    let table = tables.by_dataset.get(&record.dataset);
    let before = load(connection, table, record)?;
    let next: i64 = connection
        .prepare_cached("SELECT coalesce(max(seq), 0) + 1 FROM tidelock_rows")?
        .query_row([], |row| row.get(0))?;
    // What stands below a record matters where there is none, and to what is about that alone.
    let floor = match op {
        RowOp::Settle { .. } | RowOp::Reap { .. } => floor(connection, &record.dataset)?,
        _ if before.is_none() => floor(connection, &record.dataset)?,
        _ => Floor::default(),
    };
    let (changed, answer) = row::apply(before.as_ref(), &floor, op, now, Seq(number(next)));
    let after = match changed {
        Changed::Nothing => return Ok(answer),
        Changed::Row(after) => after,
        Changed::Floor(floor) => {
            store_floor(connection, &record.dataset, &floor)?;
            return Ok(answer);
        }
        Changed::Gone(floor) => {
            store_floor(connection, &record.dataset, &floor)?;
            count(connection, record, before.and_then(|row| row.digest(&record.key)), None)?;
            let sql = "DELETE FROM tidelock_rows WHERE dataset = ?1 AND key = ?2";
            connection.prepare_cached(sql)?.execute([&*record.dataset, &*record.key])?;
            writes::forget(connection, record)?;
            return Ok(answer);
        }
    };
    let own_bytes = match op {
        RowOp::Install(install) => {
            let contexts = || {
                let before = before.as_ref().and_then(|row| row.version.as_ref());
                Contexts::noted(before, &install.version)
            };
            let contexts = (!install.losers.is_empty()).then(contexts).flatten();
            for loser in &install.losers {
                let (seq, won, by) = (after.seq, install.version.current(), &install.by);
                let kept = conflicts::Kept { seq, at: now, won, by, contexts: contexts.as_ref() };
                conflicts::keep(connection, record, loser, &kept)?;
            }
            writes::keep(connection, record, &install.writes)?;
            true
        }
        RowOp::Read { .. }
        | RowOp::Claim { .. }
        | RowOp::Owe { .. }
        | RowOp::Clear { .. }
        | RowOp::Release { .. }
        | RowOp::Forgo { .. }
        | RowOp::Settle { .. }
        | RowOp::Reap { .. } => false,
    };
    store(connection, table, record, &after, own_bytes)?;
    let (before, now) = (before.and_then(|row| row.digest(&record.key)), after.digest(&record.key));
    if before != now {
        count(connection, record, before, now)?;
    }
    Ok(answer)
}

fn floor(connection: &Connection, dataset: &str) -> Result<Floor, Failure> {
    let sql = "SELECT floor FROM tidelock_floors WHERE dataset = ?1";
    let found =
        connection.prepare_cached(sql)?.query_row([dataset], |row| row.get(0)).optional()?;
    found.map_or_else(|| Ok(Floor::default()), |text: String| parse_floor(dataset, &text))
}

fn parse_floor(dataset: &str, text: &str) -> Result<Floor, Failure> {
    serde_json::from_str(text).map_err(|error| {
        let detail = format!(
            "D1's floor of dataset {dataset:?} cannot be read ({error}); restore table \
             tidelock_floors, else what was deleted may come back"
        );
        Refusal::new(RefusalKind::Constraint, detail).into()
    })
}

fn store_floor(connection: &Connection, dataset: &str, floor: &Floor) -> Result<(), Failure> {
    // The sequence stands by itself too, for the triggers.
    let sql = "INSERT INTO tidelock_floors(dataset, row_seq, floor) VALUES (?1, ?2, ?3) \
               ON CONFLICT (dataset) DO UPDATE SET row_seq = excluded.row_seq, \
                   floor = excluded.floor";
    let row_seq = integer(floor.row_seq);
    connection.prepare_cached(sql)?.execute(params![dataset, row_seq, text(floor)])?;
    Ok(())
}

fn load(
    connection: &Connection,
    table: Option<&UserTable>,
    record: &RecordId,
) -> Result<Option<Row>, Failure> {
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
        _ if table.is_some() => Stored::Tombstone,
        (false, _, _) => Stored::Tombstone,
        (true, Some(bytes), _) => Stored::Inline(Bytes::from(bytes)),
        (true, None, Some(text)) => reference_of(record, text)?,
        (true, None, None) => Stored::Inline(Bytes::new()),
    };
    let value = match table {
        Some(table) => table.value(connection, record)?.map_or(Stored::Tombstone, Stored::Inline),
        None => value,
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
        floor_stamp: Stamp::default(),
    }))
}

fn store(
    connection: &Connection,
    table: Option<&UserTable>,
    record: &RecordId,
    row: &Row,
    bytes_too: bool,
) -> Result<(), Failure> {
    let (dataset, key) = (&*record.dataset, &*record.key);
    let mut reference = None;
    if let Some(Stored::Reference { hash, bytes }) = &row.value {
        reference = Some(text(&Reference { hash: *hash, bytes: *bytes }));
    }
    let mut as_written = true;
    if let (Some(table), true) = (table, bytes_too) {
        as_written = match &row.value {
            Some(Stored::Inline(bytes)) => table.put(connection, record, bytes)?,
            Some(Stored::Tombstone | Stored::Erased(_)) | None => {
                table.delete(connection, record)?
            }
            Some(Stored::Reference { .. }) => {
                let detail = "a row stands whole in its table, or not at all";
                return Err(Refusal::new(RefusalKind::TooLarge, detail).into());
            }
        };
    } else if bytes_too {
        let value = match &row.value {
            Some(Stored::Inline(bytes)) => Some(&bytes[..]),
            Some(Stored::Reference { .. } | Stored::Tombstone | Stored::Erased(_)) | None => None,
        };
        match &row.value {
            Some(Stored::Inline(_) | Stored::Reference { .. }) => {
                let sql = "INSERT INTO tidelock_records(dataset, key, value) VALUES (?1, ?2, ?3) \
                           ON CONFLICT (dataset, key) DO UPDATE SET value = excluded.value";
                connection.prepare_cached(sql)?.execute(params![dataset, key, value])?;
            }
            Some(Stored::Tombstone | Stored::Erased(_)) | None => {
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
    if !as_written {
        // The row became something else by our write: a foreign write, over ours.
        UserTable::bump(connection, record)?;
    }
    Ok(())
}

/// Files from before there were leaves get the columns; the schema counts them, since it finds no
/// sums yet.
fn add_leaves(connection: &Connection) -> rusqlite::Result<()> {
    let rows_exist = connection.table_exists(None, "tidelock_rows")?;
    if !rows_exist || connection.column_exists(None, "tidelock_rows", "leaf")? {
        return Ok(());
    }
    for column in ["leaf", "lane0", "lane1", "lane2", "lane3"] {
        connection
            .execute_batch(&format!("ALTER TABLE tidelock_rows ADD COLUMN {column} INTEGER"))?;
    }
    let mut statement = connection
        .prepare("SELECT dataset, key, version FROM tidelock_rows WHERE version IS NOT NULL")?;
    let mut rows = statement.query([])?;
    let sql = "UPDATE tidelock_rows SET leaf = ?3, lane0 = ?4, lane1 = ?5, lane2 = ?6, lane3 = ?7 \
               WHERE dataset = ?1 AND key = ?2";
    while let Some(row) = rows.next()? {
        let (record, text): (_, String) = (record(row)?, row.get(2)?);
        // What cannot be read is named when it is used.
        let Ok(version) = serde_json::from_str::<Version>(&text) else { continue };
        let Digest([a, b, c, d]) =
            Digest::of(&record.key, &version.history, version.current().hash);
        let leaf = Leaf::of(&record.key).0;
        connection.prepare_cached(sql)?.execute(params![
            &*record.dataset,
            &*record.key,
            leaf,
            a,
            b,
            c,
            d
        ])?;
    }
    Ok(())
}

/// What a row adds to its leaf has changed.
fn count(
    connection: &Connection,
    record: &RecordId,
    before: Option<Digest>,
    after: Option<Digest>,
) -> Result<(), Failure> {
    let mut change = Sums::default();
    before.into_iter().for_each(|digest| change.take(digest));
    after.into_iter().for_each(|digest| change.add(digest));
    let leaf = Leaf::of(&record.key).0;
    let [a, b, c, d] = change.lanes;
    // Wrapping at 32 bits, as in the tree; the count is taken so that it may fall.
    let sql = "INSERT INTO tidelock_leaves(dataset, leaf, count, lane0, lane1, lane2, lane3) \
               VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7) \
               ON CONFLICT (dataset, leaf) DO UPDATE SET count = count + excluded.count, \
                   lane0 = (lane0 + excluded.lane0) & 4294967295, \
                   lane1 = (lane1 + excluded.lane1) & 4294967295, \
                   lane2 = (lane2 + excluded.lane2) & 4294967295, \
                   lane3 = (lane3 + excluded.lane3) & 4294967295";
    let more = i64::from(after.is_some()) - i64::from(before.is_some());
    connection.prepare_cached(sql)?.execute(params![&*record.dataset, leaf, more, a, b, c, d])?;
    let sql = "UPDATE tidelock_rows SET leaf = ?3, lane0 = ?4, lane1 = ?5, lane2 = ?6, lane3 = ?7 \
               WHERE dataset = ?1 AND key = ?2";
    let lanes = after.map(|digest| digest.0);
    let lane = |n: usize| lanes.map(|lanes| lanes[n]);
    connection.prepare_cached(sql)?.execute(params![
        &*record.dataset,
        &*record.key,
        leaf,
        lane(0),
        lane(1),
        lane(2),
        lane(3)
    ])?;
    Ok(())
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
        page.changes.push(change(row)?);
    }
    let head = "SELECT coalesce(max(seq), 0) FROM tidelock_rows";
    let head: i64 = connection.prepare_cached(head)?.query_row([], |row| row.get(0))?;
    page.head = Seq(number(head));
    let floors = "SELECT dataset, floor FROM tidelock_floors WHERE row_seq > 0";
    let mut statement = connection.prepare_cached(floors)?;
    let mut floors = statement.query([])?;
    while let Some(row) = floors.next()? {
        let (dataset, text): (String, String) = (row.get(0)?, row.get(1)?);
        let stamp = parse_floor(&dataset, &text)?.stamp;
        page.reaped.push((dataset.into(), stamp));
    }
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

/// Of dataset, key, version, row_seq, known_row_seq and seq.
fn change(row: &rusqlite::Row<'_>) -> Result<Change, Failure> {
    let record = record(row)?;
    let version: Option<String> = row.get(2)?;
    let (row_seq, known): (i64, i64) = (row.get(3)?, row.get(4)?);
    Ok(Change {
        version: version.map(|text| parse_version(&record, text)).transpose()?,
        record,
        row_seq: number(row_seq),
        foreign: row_seq != known,
        seq: Seq(number(row.get(5)?)),
    })
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

pub(super) fn record(row: &rusqlite::Row<'_>) -> rusqlite::Result<RecordId> {
    // SQLite does not check its text: what is no UTF-8 here is the key of no record.
    let text = |at| Ok::<_, rusqlite::Error>(String::from_utf8_lossy(row.get_ref(at)?.as_bytes()?));
    let (dataset, key) = (text(0)?, text(1)?);
    Ok(RecordId { dataset: dataset.into(), key: key.into_owned().into() })
}

#[derive(Serialize, Deserialize)]
pub(super) struct Reference {
    pub(super) hash: ContentHash,
    pub(super) bytes: u64,
}

pub(super) fn reference_of(record: &RecordId, text: String) -> Result<Stored, Failure> {
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

pub(super) fn parse<T: for<'de> Deserialize<'de>>(
    record: &RecordId,
    text: String,
) -> Result<T, Failure> {
    serde_json::from_str(&text).map_err(|error| damaged(record, &error))
}

pub(super) fn damaged(record: &RecordId, problem: &dyn fmt::Display) -> Failure {
    let detail = format!(
        "D1's companion row of {record} cannot be read ({problem}); restore it, or delete it and \
         write the record again"
    );
    Failure::Refused(Refusal::new(RefusalKind::Constraint, detail))
}

pub(super) fn text(value: &impl Serialize) -> String {
    serde_json::to_string(value).expect("maps here have text keys, which is all that JSON asks")
}

// SQLite's integers are signed. Sequences and times stay far below the sign; a negative one was
// written by hand.
pub(super) fn number(value: i64) -> u64 {
    u64::try_from(value).unwrap_or(0)
}

pub(super) fn integer(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}
