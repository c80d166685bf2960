//! The values that lost a conflict, in their table of D1 (rule V6).

use super::d1::{Reference, damaged, integer, number, parse, reference_of, text};
use super::database::Failure;
use super::erasures;
use crate::audit::Words;
use crate::conflict::{Conflict, ConflictQuery, Contexts, Decision, Place, Which};
use crate::erasure::Erasure;
use crate::record::{Loser, RecordId, Stored};
use crate::row::{Seq, StoreTime};
use crate::version::Sibling;
use bytes::Bytes;
use rusqlite::types::Value;
use rusqlite::{Connection, params, params_from_iter};

/// The install that keeps a value.
pub(super) struct Kept<'i> {
    pub(super) seq: Seq,
    pub(super) at: StoreTime,
    pub(super) won: &'i Sibling,
    pub(super) by: &'i Decision,
    pub(super) contexts: Option<&'i Contexts>,
}

/// Files from before conflicts had places, or were decided in more than one way, get the columns; what
/// was kept then comes first.
pub(super) fn add_places(connection: &Connection) -> rusqlite::Result<()> {
    if !connection.table_exists(None, "tidelock_losers")? {
        return Ok(());
    }
    let lacks =
        |column: &str| connection.column_exists(None, "tidelock_losers", column).map(|is| !is);
    if lacks("seq")? {
        connection.execute_batch(
            "ALTER TABLE tidelock_losers ADD COLUMN seq INTEGER; \
             ALTER TABLE tidelock_losers ADD COLUMN kept_at INTEGER; \
             ALTER TABLE tidelock_losers ADD COLUMN won TEXT",
        )?;
    }
    if lacks("decided")? {
        connection.execute_batch("ALTER TABLE tidelock_losers ADD COLUMN decided TEXT")?;
    }
    if lacks("why")? {
        connection.execute_batch(
            "ALTER TABLE tidelock_losers ADD COLUMN why TEXT; \
             ALTER TABLE tidelock_losers ADD COLUMN contexts TEXT",
        )?;
    }
    Ok(())
}

/// Keeps a value that lost, unless it is kept already: the same loser may come again, from another
/// coordinator that met the same two versions, or against another winner.
pub(super) fn keep(
    connection: &Connection,
    record: &RecordId,
    loser: &Loser,
    kept: &Kept,
) -> Result<(), Failure> {
    let (value, reference) = match &loser.value {
        _ if erasures::is_erased(connection, record, loser.sibling.dot)? => (None, None),
        Stored::Inline(bytes) => (Some(&bytes[..]), None),
        Stored::Reference { hash, bytes } => {
            (None, Some(text(&Reference { hash: *hash, bytes: *bytes })))
        }
        Stored::Tombstone | Stored::Erased(_) => (None, None),
    };
    let sql = "INSERT INTO tidelock_losers(dataset, key, dot, winner, sibling, reference, value, \
                                           seq, kept_at, won, decided, why, contexts) \
               SELECT ?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13 WHERE NOT EXISTS \
                   (SELECT 1 FROM tidelock_losers WHERE dataset = ?1 AND key = ?2 AND dot = ?3)";
    let kept = connection.prepare_cached(sql)?.execute(params![
        &*record.dataset,
        &*record.key,
        loser.sibling.dot.to_string(),
        loser.winner.to_string(),
        text(&loser.sibling),
        reference,
        value,
        integer(kept.seq.0),
        integer(kept.at.0),
        (kept.won.dot == loser.winner).then(|| text(kept.won)),
        kept.by.by.to_string(),
        kept.by.why.as_deref(),
        kept.contexts.map(text),
    ])?;
    if let (Stored::Erased(erasure), 1) = (&loser.value, kept) {
        erasures::note(connection, record, &loser.sibling, erasure)?;
    }
    Ok(())
}

/// Everything that lost of a record, with its bytes.
pub(super) fn losers(connection: &Connection, record: &RecordId) -> Result<Vec<Loser>, Failure> {
    let sql = "SELECT l.sibling, winner, reference, value, erasure FROM tidelock_losers AS l \
                   LEFT JOIN tidelock_erasures USING (dataset, key, dot) \
               WHERE dataset = ?1 AND key = ?2";
    let mut statement = connection.prepare_cached(sql)?;
    let mut rows = statement.query([&*record.dataset, &*record.key])?;
    let mut losers = Vec::new();
    while let Some(row) = rows.next()? {
        let sibling: crate::version::Sibling = parse(record, row.get(0)?)?;
        let winner: String = row.get(1)?;
        let winner = winner.parse().map_err(|error| damaged(record, &error))?;
        let reference: Option<String> = row.get(2)?;
        let erasure: Option<String> = row.get(4)?;
        let erasure: Option<Erasure> = erasure.map(|text| parse(record, text)).transpose()?;
        let value = match (erasure, row.get::<_, Option<Vec<u8>>>(3)?, reference) {
            (Some(erasure), ..) => Stored::Erased(Box::new(erasure)),
            (None, Some(bytes), _) => Stored::Inline(Bytes::from(bytes)),
            (None, None, Some(text)) => reference_of(record, text)?,
            (None, None, None) => Stored::Tombstone,
        };
        losers.push(Loser { sibling, value, winner });
    }
    Ok(losers)
}

/// Those that are asked for, without their bytes.
pub(super) fn find(
    connection: &Connection,
    query: &ConflictQuery,
) -> Result<Vec<Conflict>, Failure> {
    let mut conditions = Vec::new();
    let mut values: Vec<Value> = Vec::new();
    if let Some(dataset) = &query.dataset {
        conditions.push("dataset = ?");
        values.push(Value::from(dataset.to_string()));
    }
    let mut behind = |place: Option<Place>, condition: &'static str| {
        if let Some(place) = place {
            conditions.push(condition);
            values.push(Value::from(integer(place.seq.0)));
            values.push(Value::from(place.lost.to_string()));
        }
    };
    let order = match query.which {
        Which::After(place) => {
            behind(place, "(ifnull(seq, 0), dot) > (?, ?)");
            "ORDER BY ifnull(seq, 0), dot"
        }
        Which::Before(place) => {
            behind(place, "(ifnull(seq, 0), dot) < (?, ?)");
            "ORDER BY ifnull(seq, 0) DESC, dot DESC"
        }
        Which::Lost(dot) => {
            conditions.push("dot = ?");
            values.push(Value::from(dot.to_string()));
            "ORDER BY ifnull(seq, 0), dot"
        }
    };
    let all = if conditions.is_empty() { "TRUE".to_owned() } else { conditions.join(" AND ") };
    let limit = i64::try_from(query.limit).unwrap_or(i64::MAX);
    let sql = format!(
        "SELECT dataset, key, l.sibling, winner, ifnull(seq, 0), ifnull(kept_at, 0), won, \
                ifnull(decided, 'lww'), erasure, why, contexts \
         FROM tidelock_losers AS l LEFT JOIN tidelock_erasures USING (dataset, key, dot) \
         WHERE {all} {order} LIMIT {limit}"
    );
    let mut statement = connection.prepare_cached(&sql)?;
    let mut rows = statement.query(params_from_iter(values))?;
    let mut found = Vec::new();
    while let Some(row) = rows.next()? {
        let record = super::d1::record(row)?;
        let lost: Sibling = parse(&record, row.get(2)?)?;
        let winner: String = row.get(3)?;
        let winner = winner.parse().map_err(|error| damaged(&record, &error))?;
        let seq = Seq(number(row.get(4)?));
        let at = StoreTime(number(row.get(5)?));
        let won: Option<String> = row.get(6)?;
        let won = won.map(|text| parse(&record, text)).transpose()?;
        let by: String = row.get(7)?;
        let by = by.parse().map_err(|error| damaged(&record, &error))?;
        let erased: Option<String> = row.get(8)?;
        let erased = erased.map(|text| parse(&record, text)).transpose()?;
        let why: Option<String> = row.get(9)?;
        let why = why.map(Words::from);
        let contexts: Option<String> = row.get(10)?;
        let contexts = contexts.map(|text| parse(&record, text)).transpose()?;
        found.push(Conflict { record, seq, at, lost, winner, won, by, why, contexts, erased });
    }
    Ok(found)
}
