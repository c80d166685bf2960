//! What an entry tells.
//!
//! Invariant: an event's JSON begins with its kind, names the record that it is about as `record`, and
//! has its members in one order. Members may be added; none changes its meaning.

use super::conflict::{Conflict, ConflictId, Original, Settled};
use super::text;
use crate::record::RecordId;
use crate::version::{ContentHash, Dot};
use serde::{Deserialize, Serialize};
use std::fmt;

/// Bytes that somebody's words may take in an entry.
const WORDS_BYTES_MAX: usize = 1_000;

/// Words of a person, a rule or a store, cut to 1,000 bytes: an entry's length has a bound.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(from = "String")]
pub struct Words(Box<str>);

impl From<&str> for Words {
    fn from(text: &str) -> Self {
        let mut end = text.len().min(WORDS_BYTES_MAX);
        while !text.is_char_boundary(end) {
            end -= 1;
        }
        Words(text[..end].into())
    }
}

impl From<String> for Words {
    fn from(text: String) -> Self {
        Words::from(text.as_str())
    }
}

impl std::ops::Deref for Words {
    type Target = str;

    fn deref(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Words {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self)
    }
}

/// Something that the log keeps.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum Event {
    /// Two versions of a record met, and neither had seen the other.
    Conflict(Box<Conflict>),
    /// Somebody did something to the system.
    Operator {
        /// Who, as the door knows them: a token's name, or `cli`.
        who: Words,
        /// What, as a verb: `store open`, `dlq discard`.
        action: Words,
        /// To what.
        target: Words,
        /// Why, in their words.
        reason: Words,
    },
    /// A value that had lost was written back as a new version.
    Restored {
        /// The conflict that it had lost.
        conflict: ConflictId,
        /// The record.
        record: RecordId,
        /// The write that had lost.
        #[serde(with = "text")]
        lost: Dot,
        /// The write that brings it back.
        #[serde(with = "text")]
        dot: Dot,
        /// Who.
        by: Words,
        /// Why.
        reason: Words,
    },
    /// One value was put in the place of several, by somebody who had seen them.
    Resolved {
        /// The record.
        record: RecordId,
        /// The values that stood beside each other.
        superseded: Vec<Original>,
        /// The write that stands in their place; where it has the bytes of one of them, that was taken.
        wrote: Original,
        /// Who.
        by: Words,
        /// Why.
        reason: Words,
    },
    /// Bytes were erased on request.
    Redacted {
        /// The record.
        record: RecordId,
        /// Whose bytes. What is known of them stays, here and in the entries before this one.
        erased: Vec<Original>,
        /// Who.
        by: Words,
        /// Why.
        reason: Words,
    },
    /// A checkpoint: everything up to an entry may have left the log. A log that begins behind that
    /// entry and holds this checkpoint is whole.
    Archived {
        /// The last entry that may be gone.
        through_seq: u64,
        /// Its hash.
        through_hash: ContentHash,
        /// How many entries went with it.
        entries: u64,
    },
    /// D1 is not the one that was followed: it was set back to an earlier time, or forward again. Of the
    /// conflicts that the log tells before this, D1 has those up to the one behind which the log goes on.
    SetBack {
        /// The one behind which it was followed until then; `None`: from the first on.
        last: Option<Settled>,
        /// The newest in the log that D1 has; `None`: it has none of them, and all of its own are told.
        behind: Option<Settled>,
    },
}

/// What an event is, without the rest of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// See [`Event::Conflict`].
    Conflict,
    /// See [`Event::Operator`].
    Operator,
    /// See [`Event::Restored`].
    Restored,
    /// See [`Event::Resolved`].
    Resolved,
    /// See [`Event::Redacted`].
    Redacted,
    /// See [`Event::Archived`].
    Archived,
    /// See [`Event::SetBack`].
    SetBack,
}

impl Kind {
    /// All of them.
    pub const ALL: [Kind; 7] = [
        Kind::Conflict,
        Kind::Operator,
        Kind::Restored,
        Kind::Resolved,
        Kind::Redacted,
        Kind::SetBack,
        Kind::Archived,
    ];

    /// An event of this kind says how far the log has the authority's conflicts.
    pub fn is_followed(self) -> bool {
        match self {
            Kind::Conflict | Kind::SetBack => true,
            Kind::Operator | Kind::Restored | Kind::Resolved | Kind::Redacted | Kind::Archived => {
                false
            }
        }
    }

    /// The name in entries and on the command line.
    pub const fn name(self) -> &'static str {
        match self {
            Kind::Conflict => "conflict",
            Kind::Operator => "operator",
            Kind::Restored => "restored",
            Kind::Resolved => "resolved",
            Kind::Redacted => "redacted",
            Kind::Archived => "archived",
            Kind::SetBack => "set-back",
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl std::str::FromStr for Kind {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        Kind::ALL.into_iter().find(|kind| kind.name() == text).ok_or_else(|| {
            let names: Vec<&str> = Kind::ALL.iter().map(|kind| kind.name()).collect();
            format!("{text:?} is no kind of event; the kinds are {}", names.join(", "))
        })
    }
}

impl Event {
    /// What it is.
    pub fn kind(&self) -> Kind {
        match self {
            Event::Conflict(_) => Kind::Conflict,
            Event::Operator { .. } => Kind::Operator,
            Event::Restored { .. } => Kind::Restored,
            Event::Resolved { .. } => Kind::Resolved,
            Event::Redacted { .. } => Kind::Redacted,
            Event::Archived { .. } => Kind::Archived,
            Event::SetBack { .. } => Kind::SetBack,
        }
    }

    /// The authority's last conflict that a log has which ends so, where this is what says it.
    pub fn followed_through(&self) -> Option<Settled> {
        match self {
            Event::Conflict(conflict) => conflict.settled(),
            Event::SetBack { behind, .. } => *behind,
            Event::Operator { .. }
            | Event::Restored { .. }
            | Event::Resolved { .. }
            | Event::Redacted { .. }
            | Event::Archived { .. } => None,
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::super::conflict::tests::conflict;
    use super::*;
    use crate::version::{Actor, NodeId};
    use std::sync::Arc;

    pub(in super::super) fn dot(node: u16, counter: u64) -> Dot {
        Dot { actor: Actor { node: NodeId(node), incarnation: 7 }, counter }
    }

    pub(in super::super) fn record() -> RecordId {
        RecordId { dataset: Arc::from("notes"), key: "tide/\u{2028}\"ü\\".into() }
    }

    /// One of each kind.
    pub(in super::super) fn events() -> Vec<Event> {
        let (record, hash) = (record(), ContentHash::of(b"value"));
        let id = conflict(3).id();
        let words = Words::from;
        vec![
            Event::Conflict(Box::new(conflict(3))),
            Event::Operator {
                who: words("ops"),
                action: words("store open"),
                target: words("kv"),
                reason: words("line one\nline two"),
            },
            Event::Restored {
                conflict: id,
                record: record.clone(),
                lost: dot(1, 3),
                dot: dot(2, 10),
                by: words("ops"),
                reason: words("wrong one won"),
            },
            Event::Resolved {
                record: record.clone(),
                superseded: conflict(3).facts().losers.clone(),
                wrote: conflict(3).facts().won.expect("it is noted"),
                by: words("ops"),
                reason: words("the newer price list"),
            },
            Event::Redacted {
                record,
                erased: conflict(3).facts().losers.clone(),
                by: words("ops"),
                reason: words("asked for by whom it is about"),
            },
            Event::SetBack { last: conflict(3).settled(), behind: None },
            Event::Archived { through_seq: 4, through_hash: hash, entries: 4 },
        ]
    }

    #[test]
    fn every_event_is_one_line_that_begins_with_its_kind_and_comes_back() {
        let mut seen: Vec<Kind> = Vec::new();
        for event in events() {
            let json = serde_json::to_string(&event).unwrap();
            assert!(json.starts_with(&format!("{{\"kind\":\"{}\"", event.kind())), "{json}");
            assert!(!json.contains('\n'), "{json}");
            assert_eq!(serde_json::from_str::<Event>(&json).unwrap(), event, "{json}");
            assert_eq!(event.kind().name().parse(), Ok(event.kind()));
            seen.push(event.kind());
        }
        seen.dedup();
        assert_eq!(seen, Kind::ALL, "one of each");
        assert!("conflicts".parse::<Kind>().is_err());
    }

    #[test]
    fn words_are_cut_between_characters() {
        let words = Words::from("ü".repeat(700));
        assert_eq!(words.len(), WORDS_BYTES_MAX);
        let words = Words::from(format!("a{}", "ü".repeat(700)));
        assert_eq!(words.len(), WORDS_BYTES_MAX - 1);
    }

    /// The log outlives the build that wrote it: what is written is held to the byte.
    #[test]
    fn the_spelling_of_an_event_is_fixed() {
        let event = &events()[2];
        let id = conflict(3).id();
        assert_eq!(
            serde_json::to_string(event).unwrap(),
            format!(
                "{{\"kind\":\"restored\",\"conflict\":\"{id}\",\"record\":{{\"dataset\":\"notes\",\"key\":\
                 \"tide/\u{2028}\\\"ü\\\\\"}},\"lost\":\"1.0000000000000007.3\",\
                 \"dot\":\"2.0000000000000007.10\",\"by\":\"ops\",\"reason\":\"wrong one won\"}}"
            )
        );
    }
}
