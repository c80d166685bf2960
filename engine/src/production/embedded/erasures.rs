//! What was erased on request, in its table of D1: no table keeps such bytes, or takes them again.

use super::d1::{parse, text};
use super::database::Failure;
use crate::erasure::{self, Erase, EraseAnswer, Erasure};
use crate::record::RecordId;
use crate::row::StoreTime;
use crate::version::{Dot, Sibling, Version};
use rusqlite::{Connection, OptionalExtension, params};

/// Erases all of it, or nothing.
pub(super) fn erase(
    connection: &Connection,
    erase: &Erase,
    now: StoreTime,
) -> Result<EraseAnswer, Failure> {
    let Erase { record, writes, by, reason } = erase;
    let sql = "SELECT version FROM tidelock_rows WHERE dataset = ?1 AND key = ?2";
    let mut statement = connection.prepare_cached(sql)?;
    let version: Option<Option<String>> =
        statement.query_row([&*record.dataset, &*record.key], |row| row.get(0)).optional()?;
    let version: Option<Version> = version.flatten().map(|text| parse(record, text)).transpose()?;
    let standing = erasure::standing(version.as_ref(), writes);
    if !standing.is_empty() {
        return Ok(EraseAnswer::Stand(standing));
    }
    let erasure = Erasure { at: now, by: by.clone(), reason: reason.clone() };
    let mut erased: Vec<Sibling> = Vec::new();
    for dot in writes {
        let siblings = known(connection, record, *dot)?;
        let Some(first) = siblings.first() else { continue };
        note(connection, record, first, &erasure)?;
        let of = params![&*record.dataset, &*record.key, dot.to_text()];
        let sql = "UPDATE tidelock_losers SET value = NULL, reference = NULL \
                   WHERE dataset = ?1 AND key = ?2 AND dot = ?3";
        connection.prepare_cached(sql)?.execute(of)?;
        erased.extend(siblings);
    }
    Ok(EraseAnswer::Erased(erased))
}

/// What is known of a write, what it wrote before what was made of that.
fn known(connection: &Connection, record: &RecordId, dot: Dot) -> Result<Vec<Sibling>, Failure> {
    let mut known: Vec<Sibling> = Vec::new();
    for table in ["tidelock_writes", "tidelock_erasures", "tidelock_losers"] {
        let sql =
            format!("SELECT sibling FROM {table} WHERE dataset = ?1 AND key = ?2 AND dot = ?3");
        let mut statement = connection.prepare_cached(&sql)?;
        let mut rows = statement.query([&*record.dataset, &*record.key, &dot.to_text()])?;
        while let Some(row) = rows.next()? {
            let sibling: Sibling = parse(record, row.get(0)?)?;
            if !known.contains(&sibling) {
                known.push(sibling);
            }
        }
    }
    Ok(known)
}

/// Takes note that a write's bytes are erased, here or where it came from; what a merge would start from
/// is forgotten.
pub(super) fn note(
    connection: &Connection,
    record: &RecordId,
    sibling: &Sibling,
    erasure: &Erasure,
) -> Result<(), Failure> {
    let (dataset, key, dot) = (&*record.dataset, &*record.key, sibling.dot.to_text());
    let sql = "INSERT OR IGNORE INTO tidelock_erasures(dataset, key, dot, sibling, erasure) \
               VALUES (?1, ?2, ?3, ?4, ?5)";
    let row = params![dataset, key, dot, text(sibling), text(erasure)];
    connection.prepare_cached(sql)?.execute(row)?;
    let sql = "DELETE FROM tidelock_writes WHERE dataset = ?1 AND key = ?2 AND dot = ?3";
    connection.prepare_cached(sql)?.execute(params![dataset, key, dot])?;
    Ok(())
}

/// True when a write's bytes are not to be kept.
pub(super) fn is_erased(
    connection: &Connection,
    record: &RecordId,
    dot: Dot,
) -> Result<bool, Failure> {
    let sql = "SELECT EXISTS (SELECT 1 FROM tidelock_erasures \
                              WHERE dataset = ?1 AND key = ?2 AND dot = ?3)";
    let of = params![&*record.dataset, &*record.key, dot.to_text()];
    Ok(connection.prepare_cached(sql)?.query_row(of, |row| row.get(0))?)
}
