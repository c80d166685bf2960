//! A failure: one run of one scenario in which an invariant broke, moment by moment.
//!
//! Times are milliseconds of virtual time since the start of the run. A lane stands for whatever
//! can act or be hit: a coordinator, a store, a client session.
//!
//! Invariant: the data says what happened, in the order it happened, and leaves drawing to the
//! page. A lane named only by an event or a fault is drawn too, so nothing is dropped silently.
//!
//! Left to others: `page` turns it into HTML; the scripts beside it draw the time line.

mod page;

use serde::{Deserialize, Serialize};

pub use page::failure_page;

/// The name of the file that holds a seed's failure page, beside the campaign page.
pub fn failure_file_name(seed: u64) -> String {
    format!("failure-{seed}.html")
}

/// Everything worth showing about one broken invariant.
#[derive(Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
pub struct Failure {
    /// Profile and seed, such as `standard:42`.
    pub scenario: String,
    /// The commit of the code that ran.
    pub commit: String,
    /// The id of the broken invariant, such as `zero-loss`.
    pub invariant: String,
    /// The invariant in words.
    pub words: String,
    /// What was seen, in one sentence.
    pub message: String,
    /// The command that shows it again.
    pub repro: String,
    /// The moment of the violation, in milliseconds.
    pub at_ms: f64,
    /// The end of the run, in milliseconds.
    pub end_ms: f64,
    /// When the last fault on the surviving core ended, in milliseconds; `None` if one never did.
    pub healed_ms: Option<f64>,
    /// When the core was whole again, in milliseconds; `None` if it never was.
    pub recovered_ms: Option<f64>,
    /// The hash of the run's trace; equal code and scenario give an equal hash.
    pub trace_hash: String,
    /// The lanes of the time line, from top to bottom.
    pub lanes: Vec<Lane>,
    /// The faults that were injected.
    pub faults: Vec<FaultSpan>,
    /// What happened.
    pub events: Vec<Event>,
    /// What the stores held, as changes.
    pub states: Vec<StateChange>,
    /// What became of each write that a session tried.
    pub writes: Vec<WriteFate>,
    /// The smallest scenario that still fails, as indented JSON.
    pub scenario_json: String,
}

/// One row of the time line.
#[derive(Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
pub struct Lane {
    /// The id by which events, faults and states name the lane.
    pub id: String,
    /// What the reader sees.
    pub title: String,
    /// `coordinator`, `store` or `session`.
    pub kind: String,
}

/// A fault and the lanes that it hit.
#[derive(Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
pub struct FaultSpan {
    /// The kind from the catalogue, such as `kv.stale-read`.
    pub kind: String,
    /// Ids of the lanes that were hit.
    pub lanes: Vec<String>,
    /// When it began, in milliseconds.
    pub from_ms: f64,
    /// When it ended, in milliseconds.
    pub to_ms: f64,
    /// Strength and other particulars.
    pub detail: String,
    /// How many engine calls came out otherwise because of it.
    pub felt: u64,
}

/// Something that happened in a lane.
#[derive(Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
pub struct Event {
    /// When, in milliseconds.
    pub at_ms: f64,
    /// The id of the lane.
    pub lane: String,
    /// What kind of thing: `write-acked`, `write-refused`, `write-unknown`, `read`, `call`,
    /// `landed`, `crash`, `restart`, `violation`; any other is drawn as a plain dot.
    pub kind: String,
    /// What happened, for the reader.
    pub text: String,
    /// For a message: the id of the lane that it went to.
    pub to: Option<String>,
    /// When it ended, or when the message arrived, in milliseconds.
    pub until_ms: Option<f64>,
}

/// What a store holds for a record from this moment on.
#[derive(Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
pub struct StateChange {
    /// When, in milliseconds.
    pub at_ms: f64,
    /// The id of the store's lane.
    pub store: String,
    /// The record, as `dataset/key`.
    pub record: String,
    /// The value, shortened for a table cell; empty when the store holds nothing.
    pub value: String,
    /// The version, shortened.
    pub version: String,
    /// Anything else worth a line, such as `tombstone` or `stale at the edge`.
    pub note: String,
}

/// What a session was told about a write, and what became of it.
#[derive(Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
pub struct WriteFate {
    /// When the write was tried, in milliseconds.
    pub at_ms: f64,
    /// The id of the session's lane.
    pub session: String,
    /// The record, as `dataset/key`.
    pub record: String,
    /// The operation's id.
    pub id: String,
    /// What the session was told: `acked`, `refused` or `unknown`.
    pub outcome: String,
    /// What became of it: `current`, `superseded`, `loser`, `lost`, `absent` or another word.
    pub fate: String,
    /// The reason, such as the version that superseded it.
    pub detail: String,
}
