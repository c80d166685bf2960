//! A table of the user's own, whose rows are records.
//!
//! ```text
//! products(sku, price, ..)        the user's: read and written by anybody
//!    | triggers tidelock_table_<dataset>_*
//! tidelock_rows(dataset, key, ..) what Tidelock knows of each row, as for every other record
//! tidelock_tables(dataset, ..)    which table a dataset is, and how its values were shaped
//! ```
//!
//! Invariant: a row of the table is changed in the transaction that writes its companion, and only
//! in the columns that differ. What somebody else changes is counted by a trigger in his own
//! transaction; what a trigger cannot have seen (it was dropped, or the columns are others now) is
//! found by holding every row against its companion.

use super::database::Failure;
use crate::env::{Refusal, RefusalKind};
use crate::record::RecordId;
use crate::structured::{Cell, Column, ColumnType, Missing, Schema};
use crate::version::{ContentHash, Version};
use bytes::Bytes;
use rusqlite::types::{ToSqlOutput, Value, ValueRef};
use rusqlite::{Connection, OptionalExtension, ToSql, params, params_from_iter};
use std::collections::BTreeSet;
use std::sync::Arc;

/// What a trigger does to a companion, and what is done for a write that none has seen.
const BUMP: &str = "UPDATE tidelock_rows SET row_seq = row_seq + 1, \
    foreign_at = CAST((julianday('now') - 2440587.5) * 86400000 AS INTEGER), \
    seq = (SELECT max(seq) + 1 FROM tidelock_rows)";

/// A dataset's table, ready to be read and written.
#[derive(Clone, Debug)]
pub(super) struct UserTable {
    dataset: Arc<str>,
    schema: Arc<Schema>,
    select: String,
    insert: String,
    delete: String,
    /// Why it cannot be used any more.
    broken: Option<String>,
}

impl UserTable {
    fn new(dataset: Arc<str>, schema: Arc<Schema>) -> Self {
        let table = quoted(schema.table());
        let columns: Vec<String> = schema.columns().iter().map(|c| quoted(&c.name)).collect();
        let columns = columns.join(", ");
        let places: Vec<String> = (1..=schema.columns().len()).map(|n| format!("?{n}")).collect();
        let with_key = with_key(&schema);
        UserTable {
            select: format!("SELECT {columns} FROM {table} WHERE {with_key}"),
            insert: format!("INSERT INTO {table}({columns}) VALUES ({})", places.join(", ")),
            delete: format!("DELETE FROM {table} WHERE {with_key}"),
            dataset,
            schema,
            broken: None,
        }
    }

    /// Takes a table for a dataset: reads its columns, and makes sure that no write to it goes
    /// unseen. `Err`: why it cannot be had, and what to do.
    pub(super) fn bind(
        connection: &Connection,
        dataset: &Arc<str>,
        name: &str,
        key: &str,
    ) -> Result<Self, BindProblem> {
        let found = Found::inspect(connection, name, key)?;
        let table = UserTable::new(dataset.clone(), Arc::new(found.schema));
        let before: Option<(String, String, String)> = connection
            .prepare("SELECT name, key, shape FROM tidelock_tables WHERE dataset = ?1")?
            .query_row([&**dataset], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))
            .optional()?;
        if let Some((was_name, was_key, _)) = &before
            && (was_name != name || was_key != key)
        {
            return Err(BindProblem::Refused(format!(
                "the dataset was table {was_name:?} with the key {was_key:?} before, and its \
                 versions describe those rows; name that table and key, or choose another name \
                 for the dataset"
            )));
        }
        let other = "SELECT count(*) FROM tidelock_records WHERE dataset = ?1";
        let others: i64 = connection.query_row(other, [&**dataset], |row| row.get(0))?;
        if others > 0 {
            return Err(BindProblem::Refused(format!(
                "the dataset holds {others} records of another kind; choose another name for it"
            )));
        }
        let shape = table.shape();
        let seen_all = table.watch(connection, &found.others)?;
        table.take_in_rows(connection)?;
        let same = before.as_ref().is_none_or(|(.., was)| *was == shape);
        if before.is_some() && !(seen_all && same) {
            table.hold_against_companions(connection)?;
        }
        table.report_rows_without_key(connection)?;
        connection.execute(
            "INSERT OR REPLACE INTO tidelock_tables(dataset, name, key, shape) \
             VALUES (?1, ?2, ?3, ?4)",
            params![&**dataset, name, key, shape],
        )?;
        Ok(table)
    }

    /// The schema of the database changed: is the table still what it was, and watched?
    pub(super) fn look_again(&mut self, connection: &Connection) -> Result<(), Failure> {
        let (name, key) = (self.schema.table().to_owned(), self.schema.key().name.clone());
        let found = match Found::inspect(connection, &name, &key) {
            Ok(found) => found,
            Err(BindProblem::Sql(error)) => return Err(error.into()),
            Err(BindProblem::Refused(problem)) => {
                self.break_off(problem);
                return Ok(());
            }
        };
        let now = found.schema.columns();
        let lost = self.schema.columns().iter().find(|column| !now.contains(column));
        if let Some(lost) = lost {
            let problem = format!("column {:?} of table {name:?} is gone or another", lost.name);
            self.break_off(problem);
            return Ok(());
        }
        if self.broken.take().is_some() {
            tracing::info!(dataset = %self.dataset, table = name, "the table can be used again");
        }
        if now.len() > self.schema.columns().len() {
            tracing::warn!(
                dataset = %self.dataset, table = name,
                "the table has new columns; restart the server to keep them in KV and R2 too"
            );
        }
        if !self.watch(connection, &found.others)? {
            tracing::warn!(
                dataset = %self.dataset, table = name,
                "triggers of the table were gone; what was written meanwhile is looked for"
            );
            self.take_in_rows(connection)?;
            self.hold_against_companions(connection)?;
        }
        Ok(())
    }

    fn break_off(&mut self, problem: String) {
        tracing::error!(
            dataset = %self.dataset, problem,
            "the dataset's table cannot be used; put it right, or restart with another policy"
        );
        self.broken = Some(problem);
    }

    /// The columns.
    pub(super) fn schema(&self) -> &Arc<Schema> {
        &self.schema
    }

    /// The value of a record as it stands in the table; `None`: there is no such row.
    pub(super) fn value(
        &self,
        connection: &Connection,
        record: &RecordId,
    ) -> Result<Option<Bytes>, Failure> {
        let Some(key) = self.usable()?.key_cell(&record.key) else { return Ok(None) };
        Ok(self.cells(connection, &key)?.map(|cells| Bytes::from(self.schema.encode(&cells))))
    }

    /// Makes a record's row this value, touching only the columns that differ. True when the row is
    /// that afterwards; false when it is something else: a trigger of the user's own changed it, or
    /// the value is from before a column was added.
    pub(super) fn put(
        &self,
        connection: &Connection,
        record: &RecordId,
        value: &[u8],
    ) -> Result<bool, Failure> {
        let before = match self.usable()?.key_cell(&record.key) {
            Some(key) => self.cells(connection, &key)?,
            None => None,
        };
        let decoded = self.schema.decode_over(&record.key, value, before.as_deref());
        let cells = decoded.map_err(|violation| constraint(violation.0))?;
        let key = &cells[self.schema.key_at()];
        match before {
            Some(before) if before == cells => {}
            Some(before) => self.update(connection, key, &before, &cells)?,
            None => {
                let mut insert = connection.prepare_cached(&self.insert)?;
                insert.execute(params_from_iter(cells.iter().map(Bound)))?;
            }
        }
        let after = self.cells(connection, key)?;
        Ok(after.is_some_and(|after| self.schema.encode(&after) == value))
    }

    fn update(
        &self,
        connection: &Connection,
        key: &Cell,
        before: &[Cell],
        cells: &[Cell],
    ) -> Result<(), Failure> {
        let mut set = Vec::new();
        let mut bound = vec![Bound(key)];
        for ((column, before), cell) in self.schema.columns().iter().zip(before).zip(cells) {
            if before != cell {
                bound.push(Bound(cell));
                set.push(format!("{} = ?{}", quoted(&column.name), bound.len()));
            }
        }
        let table = quoted(self.schema.table());
        let sql = format!("UPDATE {table} SET {} WHERE {}", set.join(", "), with_key(&self.schema));
        connection.prepare_cached(&sql)?.execute(params_from_iter(bound))?;
        Ok(())
    }

    /// Deletes a record's row. True when it is gone afterwards.
    pub(super) fn delete(
        &self,
        connection: &Connection,
        record: &RecordId,
    ) -> Result<bool, Failure> {
        let Some(key) = self.usable()?.key_cell(&record.key) else { return Ok(true) };
        connection.prepare_cached(&self.delete)?.execute([Bound(&key)])?;
        Ok(self.cells(connection, &key)?.is_none())
    }

    /// Counts a write that Tidelock did not make and no trigger will count.
    pub(super) fn bump(connection: &Connection, record: &RecordId) -> Result<(), Failure> {
        let sql = format!("{BUMP} WHERE dataset = ?1 AND key = ?2");
        connection.prepare_cached(&sql)?.execute([&*record.dataset, &*record.key])?;
        Ok(())
    }

    fn usable(&self) -> Result<&Schema, Failure> {
        match &self.broken {
            None => Ok(&self.schema),
            Some(problem) => Err(constraint(format!(
                "dataset {:?} cannot be read or written: {problem}. Put the table right, or \
                 restart the server with a policy that fits it",
                self.dataset
            ))),
        }
    }

    fn cells(&self, connection: &Connection, key: &Cell) -> Result<Option<Vec<Cell>>, Failure> {
        let mut select = connection.prepare_cached(&self.select)?;
        let mut rows = select.query([Bound(key)])?;
        let Some(row) = rows.next()? else { return Ok(None) };
        Ok(Some(cells_of(row, self.schema.columns().len())?))
    }

    fn shape(&self) -> String {
        let columns = self.schema.columns().iter();
        let columns: Vec<_> = columns.map(|c| (&c.name, format!("{:?}", c.takes))).collect();
        serde_json::to_string(&columns).expect("text always serializes")
    }

    /// Makes sure that the triggers stand. True when they did.
    fn watch(&self, connection: &Connection, others: &[Unique]) -> rusqlite::Result<bool> {
        let mut stood = true;
        for (name, sql) in self.triggers(others) {
            let found: Option<String> = connection
                .prepare("SELECT sql FROM sqlite_schema WHERE type = 'trigger' AND name = ?1")?
                .query_row([&name], |row| row.get(0))
                .optional()?;
            if found.as_deref() == Some(&sql) {
                continue;
            }
            stood = false;
            connection.execute_batch(&format!("DROP TRIGGER IF EXISTS {};", quoted(&name)))?;
            connection.execute_batch(&sql)?;
        }
        Ok(stood)
    }

    /// The names and statements of the triggers. Two statements and no upsert, as for
    /// `tidelock_records`. A REPLACE deletes rows that stand in the way of one of the `others`
    /// without any trigger of a delete: they are counted before it.
    fn triggers(&self, others: &[Unique]) -> Vec<(String, String)> {
        let (table, dataset) = (quoted(self.schema.table()), literal(&self.dataset));
        let key = quoted(&self.schema.key().name);
        let class = self.key_class();
        let text = |row: &str| self.key_text(row);
        let bump = |key: &str| format!("{BUMP} WHERE dataset = {dataset} AND key = {key}");
        let count = |row: &str| {
            let text = text(row);
            format!(
                "INSERT INTO tidelock_rows(dataset, key, row_seq, known_row_seq, foreign_at, seq, \
                 epoch) SELECT {dataset}, {text}, \
                 coalesce((SELECT row_seq FROM tidelock_floors WHERE dataset = {dataset}), 0), 0, 0, \
                 (SELECT coalesce(max(seq), 0) + 1 FROM tidelock_rows), 0 WHERE NOT EXISTS \
                 (SELECT 1 FROM tidelock_rows WHERE dataset = {dataset} AND key = {text}); {}",
                bump(&text)
            )
        };
        let displaced = |row: &str| {
            let each = others.iter().map(|unique| {
                let same: Vec<String> = unique
                    .0
                    .iter()
                    .map(|(column, collation)| {
                        let column = quoted(column);
                        format!("v.{column} = NEW.{column} COLLATE {}", quoted(collation))
                    })
                    .collect();
                let found = format!(
                    "(SELECT {} FROM {table} AS v WHERE {} AND v.{key} COLLATE BINARY IS NOT \
                     {row}.{key} AND typeof(v.{key}) = '{class}')",
                    text("v"),
                    same.join(" AND ")
                );
                format!("{};", bump(&found))
            });
            each.collect::<Vec<_>>().join(" ")
        };
        let keyed = |row: &str| format!("typeof({row}.{key}) = '{class}'");
        let renamed = format!("OLD.{key} COLLATE BINARY IS NOT NEW.{key} AND {}", keyed("OLD"));
        let mut triggers = vec![
            ("insert", format!("AFTER INSERT ON {table} WHEN {}", keyed("NEW")), {
                format!("{};", count("NEW"))
            }),
            ("update", format!("AFTER UPDATE ON {table} WHEN {}", keyed("NEW")), {
                format!("{};", count("NEW"))
            }),
            ("rename", format!("AFTER UPDATE ON {table} WHEN {renamed}"), {
                format!("{};", bump(&text("OLD")))
            }),
            ("delete", format!("AFTER DELETE ON {table} WHEN {}", keyed("OLD")), {
                format!("{};", bump(&text("OLD")))
            }),
        ];
        if !others.is_empty() {
            let insert = format!("BEFORE INSERT ON {table}");
            let update = format!("BEFORE UPDATE ON {table}");
            triggers.push(("replace_by_insert", insert, displaced("NEW")));
            triggers.push(("replace_by_update", update, displaced("OLD")));
        }
        let named = triggers.into_iter().map(|(event, when, body)| {
            let name = format!("tidelock_table_{}_{event}", self.dataset);
            let sql = format!("CREATE TRIGGER {} {when} BEGIN {body} END", quoted(&name));
            (name, sql)
        });
        named.collect()
    }

    /// The storage class of keys that name records.
    fn key_class(&self) -> &'static str {
        match self.schema.key().takes {
            ColumnType::Integer => "integer",
            _ => "text",
        }
    }

    /// A row's key as the record's, in SQL.
    fn key_text(&self, row: &str) -> String {
        let key = quoted(&self.schema.key().name);
        match self.schema.key().takes {
            ColumnType::Integer => format!("CAST({row}.{key} AS TEXT)"),
            _ => format!("{row}.{key}"),
        }
    }

    /// Rows that were here before the triggers are foreign writes.
    fn take_in_rows(&self, connection: &Connection) -> rusqlite::Result<()> {
        let (table, text) = (quoted(self.schema.table()), self.key_text("r"));
        let (key, class) = (quoted(&self.schema.key().name), self.key_class());
        let sql = format!(
            "INSERT INTO tidelock_rows(dataset, key, row_seq, known_row_seq, foreign_at, seq, epoch)
             SELECT ?1, {text},
                 1 + coalesce((SELECT row_seq FROM tidelock_floors WHERE dataset = ?1), 0), 0,
                 CAST((julianday('now') - 2440587.5) * 86400000 AS INTEGER),
                 (SELECT coalesce(max(seq), 0) FROM tidelock_rows)
                     + row_number() OVER (ORDER BY r.{key}), 0
             FROM {table} AS r
             WHERE typeof(r.{key}) = '{class}' AND NOT EXISTS (
                 SELECT 1 FROM tidelock_rows AS t WHERE t.dataset = ?1 AND t.key = {text})"
        );
        connection.execute(&sql, [&*self.dataset]).map(drop)
    }

    /// Finds the rows that differ from what their companions say, though no trigger counted it.
    fn hold_against_companions(&self, connection: &Connection) -> rusqlite::Result<()> {
        let (table, class) = (quoted(self.schema.table()), self.key_class());
        let named = match self.schema.key().takes {
            ColumnType::Integer => "CAST(t.key AS INTEGER)",
            _ => "t.key",
        };
        let columns: Vec<String> =
            self.schema.columns().iter().map(|c| format!("r.{}", quoted(&c.name))).collect();
        let sql = format!(
            "SELECT {}, t.key, t.version, r.{key} IS NOT NULL FROM tidelock_rows AS t \
             LEFT JOIN {table} AS r ON r.{key} COLLATE BINARY = {named} \
                 AND typeof(r.{key}) = '{class}' \
             WHERE t.dataset = ?1 AND t.row_seq = t.known_row_seq",
            columns.join(", "),
            key = quoted(&self.schema.key().name),
        );
        let count = columns.len();
        let (mut changed, mut gone) = (Vec::new(), 0);
        let mut select = connection.prepare(&sql)?;
        let mut rows = select.query([&*self.dataset])?;
        while let Some(row) = rows.next()? {
            let version: Option<String> = row.get(count + 1)?;
            // A companion that cannot be read is reported when its record is.
            let version = version.and_then(|text| serde_json::from_str::<Version>(&text).ok());
            let current = version
                .filter(|version| !version.siblings().is_empty())
                .map(|version| *version.current());
            let present: bool = row.get(count + 2)?;
            let live = current.is_some_and(|current| !current.deleted);
            if !present {
                gone += usize::from(live);
                continue;
            }
            let hash = ContentHash::of(&self.schema.encode(&cells_of(row, count)?));
            if current.is_none_or(|current| current.deleted || current.hash != hash) {
                changed.push(row.get::<_, Value>(count)?);
            }
        }
        if gone > 0 {
            // Nobody saw them go, and absence alone is no delete.
            tracing::error!(
                dataset = %self.dataset, rows = gone,
                "rows are missing from the table and nothing shows that they were deleted; KV and \
                 R2 still hold them: write them again, or delete them through Tidelock"
            );
        }
        let sql = format!("{BUMP} WHERE dataset = ?1 AND key = ?2");
        let mut bump = connection.prepare(&sql)?;
        for key in changed {
            bump.execute(params![&*self.dataset, key])?;
        }
        Ok(())
    }

    fn report_rows_without_key(&self, connection: &Connection) -> rusqlite::Result<()> {
        let (table, key) = (quoted(self.schema.table()), quoted(&self.schema.key().name));
        let class = self.key_class();
        let sql = format!("SELECT count(*) FROM {table} WHERE typeof({key}) <> '{class}'");
        let count: i64 = connection.query_row(&sql, [], |row| row.get(0))?;
        if count > 0 {
            tracing::error!(
                dataset = %self.dataset, rows = count,
                "rows whose key is NULL or no {class} are no records; they are left where they are"
            );
        }
        Ok(())
    }
}

/// Why a table is not taken.
#[derive(Debug)]
pub(super) enum BindProblem {
    Refused(String),
    Sql(rusqlite::Error),
}

impl From<rusqlite::Error> for BindProblem {
    fn from(error: rusqlite::Error) -> Self {
        BindProblem::Sql(error)
    }
}

/// Columns, each with its collation, that are unique together.
struct Unique(Vec<(String, String)>);

/// A table as the database describes it.
struct Found {
    schema: Schema,
    /// What is unique beside the key.
    others: Vec<Unique>,
}

impl Found {
    fn inspect(connection: &Connection, name: &str, key: &str) -> Result<Self, BindProblem> {
        let refuse = |problem: String| Err(BindProblem::Refused(problem));
        let encoding: String = connection.query_row("PRAGMA encoding", [], |row| row.get(0))?;
        if encoding != "UTF-8" {
            return refuse(format!("the database keeps text as {encoding}; D1 keeps UTF-8"));
        }
        let listed: Option<(String, bool, bool)> = connection
            .prepare(
                "SELECT type, wr, strict FROM pragma_table_list \
                 WHERE schema = 'main' AND name = ?1",
            )?
            .query_row([name], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))
            .optional()?;
        let Some((kind, without_rowid, strict)) = listed else {
            let tables = own_tables(connection)?;
            let tables = if tables.is_empty() { "there is none".to_owned() } else { tables };
            return refuse(format!("D1 has no table {name:?}; create it first ({tables})"));
        };
        if kind != "table" {
            return refuse(format!(
                "{name:?} is a {kind}, which no trigger can watch; name a table"
            ));
        }
        let raw = columns_of(connection, name)?;
        let uniques = uniques_of(connection, name)?;
        let primary: Vec<&RawColumn> = raw.iter().filter(|column| column.pk > 0).collect();
        let rowid = match primary.as_slice() {
            // Without an index of its own it is another name of the row id.
            [one] if !without_rowid && !uniques.iter().any(|unique| unique.primary) => {
                Some(one.name.clone())
            }
            _ => None,
        };
        let mut columns = Vec::new();
        let mut generated = Vec::new();
        for column in &raw {
            if column.hidden > 0 {
                generated.push(column.name.clone());
                continue;
            }
            let takes = ColumnType::of(&column.declared, strict);
            let is_rowid = rowid.as_ref() == Some(&column.name);
            let missing = match &column.default {
                _ if is_rowid => Missing::Computed("(the next row id)".to_owned()),
                None => Missing::Is(Cell::Null),
                Some(sql) => default(connection, takes, sql)?,
            };
            columns.push(Column {
                name: column.name.clone(),
                takes,
                not_null: column.not_null || is_rowid || (without_rowid && column.pk > 0),
                missing,
            });
        }
        let schema = match Schema::new(name, columns, key, generated) {
            Ok(schema) => schema,
            Err(violation) => return refuse(violation.0),
        };
        let is_key = |unique: &&UniqueIndex| {
            matches!(unique.columns.as_slice(), [(column, collation)]
                if column == key && collation == "BINARY")
                && !unique.partial
        };
        let by_index = uniques.iter().find(is_key);
        let is_primary =
            rowid.as_deref() == Some(key) || by_index.is_some_and(|index| index.primary);
        let names_rows = is_primary || (by_index.is_some() && schema.key().not_null);
        if !names_rows {
            return refuse(not_unique(name, key, &primary, by_index.is_some()));
        }
        if let Some(child) = deferred(connection, name)? {
            return refuse(format!(
                "table {child:?} has a foreign key that is DEFERRABLE INITIALLY DEFERRED: a row \
                 that breaks it would only be refused together with every other write of the \
                 moment; declare it without"
            ));
        }
        let mut others = Vec::new();
        for unique in &uniques {
            if unique.columns.len() == 1 && unique.columns[0].0 == key {
                continue;
            }
            if unique.expression {
                tracing::warn!(
                    table = name,
                    index = unique.name,
                    "a row that REPLACE deletes because of this index goes unseen, since the index \
                     is over an expression"
                );
                continue;
            }
            others.push(Unique(unique.columns.clone()));
        }
        if let Some(rowid) = rowid.filter(|rowid| rowid != key) {
            others.push(Unique(vec![(rowid, "BINARY".to_owned())]));
        }
        Ok(Found { schema, others })
    }
}

fn not_unique(name: &str, key: &str, primary: &[&RawColumn], nullable: bool) -> String {
    let primary = match primary {
        [] => "it has no primary key".to_owned(),
        columns => {
            let names: Vec<&str> = columns.iter().map(|column| column.name.as_str()).collect();
            format!("its primary key is ({})", names.join(", "))
        }
    };
    let why = if nullable { "may be NULL" } else { "need not be unique" };
    format!(
        "the key column {key:?} of table {name:?} {why} ({primary}); a record needs a key of one \
         column: its PRIMARY KEY, or one that is UNIQUE and NOT NULL, compared byte by byte"
    )
}

struct RawColumn {
    name: String,
    declared: String,
    not_null: bool,
    default: Option<String>,
    pk: i64,
    hidden: i64,
}

fn columns_of(connection: &Connection, table: &str) -> rusqlite::Result<Vec<RawColumn>> {
    let mut select = connection.prepare(
        "SELECT name, type, \"notnull\", dflt_value, pk, hidden FROM pragma_table_xinfo(?1)",
    )?;
    let columns = select.query_map([table], |row| {
        Ok(RawColumn {
            name: row.get(0)?,
            declared: row.get(1)?,
            not_null: row.get(2)?,
            default: row.get(3)?,
            pk: row.get(4)?,
            hidden: row.get(5)?,
        })
    })?;
    columns.collect()
}

struct UniqueIndex {
    name: String,
    primary: bool,
    partial: bool,
    expression: bool,
    columns: Vec<(String, String)>,
}

fn uniques_of(connection: &Connection, table: &str) -> rusqlite::Result<Vec<UniqueIndex>> {
    let mut select = connection
        .prepare("SELECT name, origin, partial FROM pragma_index_list(?1) WHERE \"unique\"")?;
    let indexes: Vec<(String, String, bool)> = select
        .query_map([table], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))?
        .collect::<Result<_, _>>()?;
    let mut uniques = Vec::new();
    for (name, origin, partial) in indexes {
        let mut select =
            connection.prepare("SELECT name, coll FROM pragma_index_xinfo(?1) WHERE key")?;
        let columns: Vec<(Option<String>, String)> = select
            .query_map([&name], |row| Ok((row.get(0)?, row.get(1)?)))?
            .collect::<Result<_, _>>()?;
        let expression = columns.iter().any(|(column, _)| column.is_none());
        let columns =
            columns.into_iter().filter_map(|(column, coll)| Some((column?, coll))).collect();
        uniques.push(UniqueIndex { name, primary: origin == "pk", partial, expression, columns });
    }
    Ok(uniques)
}

/// A table with a deferred foreign key that this one has a part in. Neither pragma nor schema table
/// tells of it, so the statements are searched; a comment that says the same is taken for it.
fn deferred(connection: &Connection, table: &str) -> rusqlite::Result<Option<String>> {
    let mut select = connection.prepare(
        "SELECT name, sql FROM sqlite_schema AS s WHERE type = 'table' AND sql IS NOT NULL AND ( \
             name = ?1 OR EXISTS (SELECT 1 FROM pragma_foreign_key_list(s.name) AS f \
                                  WHERE f.\"table\" = ?1 COLLATE NOCASE))",
    )?;
    let mut rows = select.query([table])?;
    while let Some(row) = rows.next()? {
        let sql: String = row.get(1)?;
        let words: Vec<String> = sql
            .split(|c: char| !c.is_ascii_alphanumeric())
            .filter(|word| !word.is_empty())
            .map(str::to_ascii_uppercase)
            .collect();
        if words.windows(2).any(|pair| pair[0] == "INITIALLY" && pair[1] == "DEFERRED") {
            return row.get(0).map(Some);
        }
    }
    Ok(None)
}

fn own_tables(connection: &Connection) -> rusqlite::Result<String> {
    let mut select = connection.prepare(
        "SELECT name FROM pragma_table_list WHERE schema = 'main' AND type = 'table' \
         AND name NOT LIKE 'sqlite\\_%' ESCAPE '\\' AND name NOT LIKE 'tidelock\\_%' ESCAPE '\\' \
         ORDER BY name LIMIT 20",
    )?;
    let names = select.query_map([], |row| row.get::<_, String>(0))?;
    Ok(names.collect::<Result<BTreeSet<_>, _>>()?.into_iter().collect::<Vec<_>>().join(", "))
}

/// What a column's declared default is, where that is a literal.
fn default(connection: &Connection, takes: ColumnType, sql: &str) -> rusqlite::Result<Missing> {
    let computed = || Missing::Computed(sql.to_owned());
    if !is_literal(sql) {
        return Ok(computed());
    }
    let cell = connection.query_row(&format!("SELECT {sql}"), [], |row| cell_of(row.get_ref(0)?));
    Ok(cell.ok().and_then(|cell| takes.keep(cell).ok()).map_or_else(computed, Missing::Is))
}

fn is_literal(sql: &str) -> bool {
    let sql = sql.trim();
    let number = sql.trim_start_matches(['+', '-']).trim_start();
    let is_number = number.starts_with(|c: char| c.is_ascii_digit() || c == '.')
        && number.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '+' | '-'));
    let quoted = sql.strip_prefix(['x', 'X']).unwrap_or(sql);
    let inner = quoted.strip_prefix('\'').and_then(|text| text.strip_suffix('\''));
    // A quote within the text is doubled: without those, none is left.
    let is_text = inner.is_some_and(|inner| !inner.replace("''", "").contains('\''));
    let word = ["NULL", "TRUE", "FALSE"].iter().any(|word| word.eq_ignore_ascii_case(sql));
    is_number || is_text || word
}

fn with_key(schema: &Schema) -> String {
    format!("{} COLLATE BINARY = ?1", quoted(&schema.key().name))
}

fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

fn literal(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}

fn constraint(detail: String) -> Failure {
    Failure::Refused(Refusal::new(RefusalKind::Constraint, detail))
}

fn cells_of(row: &rusqlite::Row<'_>, count: usize) -> rusqlite::Result<Vec<Cell>> {
    (0..count).map(|at| cell_of(row.get_ref(at)?)).collect()
}

fn cell_of(value: ValueRef<'_>) -> rusqlite::Result<Cell> {
    Ok(match value {
        ValueRef::Null => Cell::Null,
        ValueRef::Integer(n) => Cell::Integer(n),
        ValueRef::Real(real) => Cell::Real(real),
        ValueRef::Text(text) => Cell::Text(text.to_vec()),
        ValueRef::Blob(bytes) => Cell::Blob(bytes.to_vec()),
    })
}

/// A cell as a parameter: text is bound byte by byte, UTF-8 or not.
struct Bound<'a>(&'a Cell);

impl ToSql for Bound<'_> {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        Ok(ToSqlOutput::Borrowed(match self.0 {
            Cell::Null => ValueRef::Null,
            Cell::Integer(n) => ValueRef::Integer(*n),
            Cell::Real(real) => ValueRef::Real(*real),
            Cell::Text(text) => ValueRef::Text(text),
            Cell::Blob(bytes) => ValueRef::Blob(bytes),
        }))
    }
}

#[cfg(test)]
mod tests;
