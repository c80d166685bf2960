//! Which blobs of R2 the rows and the losers of D1 refer to (rule A0).

use super::d1::{integer, number};
use super::database::Failure;
use crate::blob::{self, Condemned};
use crate::row::{Install, RowAnswer, StoreTime};
use crate::version::ContentHash;
use rusqlite::{Connection, OptionalExtension, params};

/// Why an install may not refer to its blobs; `None`: each is there, and stays. In the transaction that
/// applies it.
pub(super) fn refuse(
    connection: &Connection,
    install: &Install,
    now: StoreTime,
) -> Result<Option<RowAnswer>, Failure> {
    for blob in install.blobs() {
        if is_referred_to(connection, blob)? {
            continue;
        }
        let sql = "SELECT until FROM tidelock_condemned WHERE hash = ?1";
        let condemned: Option<i64> = connection
            .prepare_cached(sql)?
            .query_row([blob.to_string()], |row| row.get(0))
            .optional()?;
        let until = condemned.map(|until| StoreTime(number(until)));
        if !install.blobs_seen.let_refer(blob, until, now) {
            return Ok(Some(RowAnswer::NoBlob { until }));
        }
    }
    Ok(None)
}

/// Those that nothing refers to.
pub(super) fn unreferred(
    connection: &Connection,
    blobs: Vec<ContentHash>,
) -> Result<Vec<ContentHash>, Failure> {
    let mut unreferred = Vec::new();
    for blob in blobs {
        if !is_referred_to(connection, blob)? {
            unreferred.push(blob);
        }
    }
    Ok(unreferred)
}

/// Condemns those that nothing refers to, and forgets what no install can miss any more.
pub(super) fn condemn(
    connection: &Connection,
    blobs: &[ContentHash],
    now: StoreTime,
) -> Result<Vec<Option<Condemned>>, Failure> {
    let forgotten = integer(blob::forgotten_before(now).0);
    connection
        .prepare_cached("DELETE FROM tidelock_condemned WHERE until < ?1")?
        .execute([forgotten])?;
    let sql = "INSERT INTO tidelock_condemned(hash, until) VALUES (?1, ?2) \
               ON CONFLICT (hash) DO UPDATE SET until = max(until, excluded.until)";
    let mut condemned = Vec::with_capacity(blobs.len());
    for blob in blobs {
        condemned.push(if is_referred_to(connection, *blob)? {
            None
        } else {
            let until = Condemned::at(now);
            let row = params![blob.to_string(), integer(until.until.0)];
            connection.prepare_cached(sql)?.execute(row)?;
            Some(until)
        });
    }
    Ok(condemned)
}

fn is_referred_to(connection: &Connection, blob: ContentHash) -> Result<bool, Failure> {
    // As the indexes say it.
    let sql = "SELECT EXISTS (SELECT 1 FROM tidelock_rows WHERE reference IS NOT NULL \
                              AND json_extract(reference, '$.hash') = ?1) \
                   OR EXISTS (SELECT 1 FROM tidelock_losers WHERE reference IS NOT NULL \
                              AND json_extract(reference, '$.hash') = ?1)";
    Ok(connection.prepare_cached(sql)?.query_row([blob.to_string()], |row| row.get(0))?)
}
