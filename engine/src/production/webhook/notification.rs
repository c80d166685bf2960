//! What a receiver is told: an entry of the log, a storm of conflicts, or that somebody tries it.
//!
//! ```text
//! {"type":"conflict","timestamp":"2026-11-28T20:00:00.123Z","node":1,"site":0,"data":<the entry>}
//! ```
//!
//! Invariant: what is told twice has the same id and the same bytes both times, through a restart too:
//! they are made of the log alone.

use crate::audit::{Entry, Kind, Storm};
use crate::cron;
use crate::env::Peer;
use crate::version::ContentHash;
use serde::{Deserialize, Serialize};
use serde_json::json;

/// Digits of a hash in an id: two coordinators number their entries alike.
const HASH_DIGITS: usize = 16;
/// The kind of a summary.
pub const STORM: &str = "conflict-storm";
/// The kind of what `webhook test` sends.
pub const PING: &str = "ping";

/// Something to be told.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Notification {
    /// By which a receiver knows it again.
    pub id: String,
    /// Of an entry, its kind.
    pub kind: String,
    /// The first entry that it tells of; 0: of none.
    pub first_seq: u64,
    /// And the last.
    pub last_seq: u64,
    /// What is sent, to the byte.
    pub body: String,
}

impl Notification {
    /// Of an entry, as the log spells it.
    pub fn entry(from: Peer, entry: &Entry) -> Self {
        // A later build's kinds are passed on as they are.
        let kind = entry.kind().map_or("other", Kind::name);
        let (seq, at_ms) = (entry.seq(), entry.at_ms());
        let id = format!("entry-{seq}-{}", digits(entry.hash()));
        let body = envelope(from, kind, at_ms, &entry.to_line());
        Notification { id, kind: kind.to_owned(), first_seq: seq, last_seq: seq, body }
    }

    /// Of conflicts that were counted.
    pub fn storm(from: Peer, storm: &Storm) -> Self {
        let Storm { first_seq, last_seq, to_ms, last_hash, .. } = storm;
        let id = format!("storm-{first_seq}-{last_seq}-{}", digits(*last_hash));
        let body = envelope(from, STORM, *to_ms, &storm_json(storm));
        let (first_seq, last_seq) = (*first_seq, *last_seq);
        Notification { id, kind: STORM.to_owned(), first_seq, last_seq, body }
    }

    /// Of nothing: to see whether a receiver takes it.
    pub fn ping(from: Peer, webhook: &str, now_ms: u64, random: u64) -> Self {
        let id = format!("ping-{random:016x}");
        let body = envelope(from, PING, now_ms, &json!({ "webhook": webhook }).to_string());
        Notification { id, kind: PING.to_owned(), first_seq: 0, last_seq: 0, body }
    }
}

/// A summary, as everybody is told it.
pub fn storm_json(storm: &Storm) -> String {
    json!({
        "record": storm.record,
        "count": storm.count,
        "first_seq": storm.first_seq,
        "last_seq": storm.last_seq,
        "from_ms": storm.from_ms,
        "to_ms": storm.to_ms,
        "strategies": storm.strategies,
    })
    .to_string()
}

/// `data` is JSON, and stands in it to the byte: an entry's hash is of its event's spelling.
fn envelope(from: Peer, kind: &str, at_ms: u64, data: &str) -> String {
    let timestamp = cron::utc_text(at_ms).replace(' ', "T");
    let (node, site) = (from.node.0, from.site.0);
    format!(
        "{{\"type\":\"{kind}\",\"timestamp\":\"{timestamp}Z\",\"node\":{node},\"site\":{site},\
         \"data\":{data}}}"
    )
}

fn digits(hash: ContentHash) -> String {
    let mut text = hash.to_string();
    text.truncate(HASH_DIGITS);
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::audit::{Chain, Event};
    use crate::record::RecordId;
    use crate::version::{NodeId, SiteId};
    use serde_json::Value;
    use std::collections::BTreeSet;

    const FROM: Peer = Peer { node: NodeId(3), site: SiteId(2) };

    fn entry() -> Entry {
        let (who, action) = ("ops".into(), "store open".into());
        let event = Event::Operator { who, action, target: "kv".into(), reason: "ü \"x\"".into() };
        Chain::new().append(1_790_000_000_123, &event)
    }

    #[test]
    fn an_entry_is_told_as_the_log_spells_it_and_always_alike() {
        let entry = entry();
        let told = Notification::entry(FROM, &entry);
        let line = entry.to_line();
        let expected = "{\"type\":\"operator\",\"timestamp\":\"2026-09-21T14:13:20.123Z\",\"node\":3,\"site\":2,";
        assert_eq!(told.body, format!("{expected}\"data\":{line}}}"));
        let hash = entry.hash().to_string();
        assert_eq!(told.id, format!("entry-1-{}", &hash[..16]));
        assert_eq!(told, Notification::entry(FROM, &entry));
        let data = serde_json::from_str::<Value>(&told.body).unwrap()["data"].to_string();
        assert!(
            serde_json::from_str::<Value>(&line).unwrap()
                == serde_json::from_str::<Value>(&data).unwrap()
        );
    }

    #[test]
    fn a_storm_says_what_was_counted() {
        let storm = Storm {
            record: RecordId { dataset: "notes".into(), key: "a\"b".into() },
            count: 45,
            first_seq: 6,
            last_seq: 52,
            from_ms: 1_000,
            to_ms: 9_000,
            last_hash: ContentHash::of(b"last"),
            strategies: BTreeSet::from(["merge_two_way".into(), "lww".into()]),
        };
        let told = Notification::storm(FROM, &storm);
        let body: Value = serde_json::from_str(&told.body).unwrap();
        assert_eq!(body["type"], STORM);
        assert_eq!(
            body["data"],
            json!({
                "record": { "dataset": "notes", "key": "a\"b" }, "count": 45, "first_seq": 6,
                "last_seq": 52, "from_ms": 1_000, "to_ms": 9_000,
                "strategies": ["lww", "merge_two_way"],
            })
        );
        assert!(told.id.starts_with("storm-6-52-") && !told.id.contains('.'), "{}", told.id);
        assert_eq!((told.first_seq, told.last_seq), (6, 52));
    }
}
