//! What was written to records lately, where concurrent values are merged: in its table of D1.

use super::d1::{damaged, parse, text};
use super::database::Failure;
use super::erasures;
use crate::record::{RecordId, Stored, Written};
use crate::row::{WRITE_BYTES_MAX, WRITES_MAX};
use crate::version::Sibling;
use bytes::Bytes;
use rusqlite::{Connection, params};

/// Keeps what is new, and lets go of what is too old.
pub(super) fn keep(
    connection: &Connection,
    record: &RecordId,
    writes: &[Written],
) -> Result<(), Failure> {
    if writes.is_empty() {
        return Ok(());
    }
    let (dataset, key) = (&*record.dataset, &*record.key);
    let sql = "INSERT OR IGNORE INTO tidelock_writes(dataset, key, dot, sibling, read, value) \
               VALUES (?1, ?2, ?3, ?4, ?5, ?6)";
    let mut statement = connection.prepare_cached(sql)?;
    for Written { sibling, over, value } in writes {
        if erasures::is_erased(connection, record, sibling.dot)? {
            continue;
        }
        let value = match value {
            Stored::Inline(bytes) => Some(&bytes[..]),
            Stored::Tombstone | Stored::Reference { .. } | Stored::Erased(_) => None,
        };
        let (dot, over) = (sibling.dot.to_text(), over.to_text());
        statement.execute(params![dataset, key, dot, text(sibling), over, value])?;
    }
    let sql = "DELETE FROM tidelock_writes WHERE place IN (\
                   SELECT place FROM (\
                       SELECT place, \
                              row_number() OVER newest AS number, \
                              sum(ifnull(length(value), 0)) OVER newest AS held, \
                              first_value(ifnull(length(value), 0)) OVER newest AS first \
                       FROM tidelock_writes WHERE dataset = ?1 AND key = ?2 \
                       WINDOW newest AS (ORDER BY place DESC)) \
                   WHERE number > ?3 OR held - first > ?4)";
    let most = i64::try_from(WRITES_MAX).unwrap_or(i64::MAX);
    let bytes = i64::try_from(WRITE_BYTES_MAX).unwrap_or(i64::MAX);
    connection.prepare_cached(sql)?.execute(params![dataset, key, most, bytes])?;
    Ok(())
}

/// Forgets them: the record's row is gone.
pub(super) fn forget(connection: &Connection, record: &RecordId) -> Result<(), Failure> {
    let sql = "DELETE FROM tidelock_writes WHERE dataset = ?1 AND key = ?2";
    connection.prepare_cached(sql)?.execute([&*record.dataset, &*record.key])?;
    Ok(())
}

/// All that is kept of a record, the newest last.
pub(super) fn of(connection: &Connection, record: &RecordId) -> Result<Vec<Written>, Failure> {
    let sql = "SELECT sibling, read, value FROM tidelock_writes \
               WHERE dataset = ?1 AND key = ?2 ORDER BY place";
    let mut statement = connection.prepare_cached(sql)?;
    let mut rows = statement.query([&*record.dataset, &*record.key])?;
    let mut writes = Vec::new();
    while let Some(row) = rows.next()? {
        let sibling: Sibling = parse(record, row.get(0)?)?;
        let over: String = row.get(1)?;
        let over = over.parse().map_err(|error| damaged(record, &error))?;
        let value = row.get::<_, Option<Vec<u8>>>(2)?.map(Bytes::from);
        let value = value.map_or(Stored::Tombstone, Stored::Inline);
        writes.push(Written { sibling, over, value });
    }
    Ok(writes)
}
