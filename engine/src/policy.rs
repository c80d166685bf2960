//! Policies: what is kept where, and what an acknowledgement means.
//!
//! Invariant: a [`Dataset`] that exists can be kept. Whatever cannot hold is refused when the
//! configuration is read, with file, line, field and what would be accepted (`parse`).

pub mod change;
mod conflict;
pub mod parse;
pub mod webhook;

pub use conflict::{Conflicts, PREFIXES_MAX, Ruling, UserRule};

use crate::backlog::{Mode, Queue};
use crate::cron::Cron;
use crate::fields::Fields;
use crate::record::{KV_VALUE_BYTES_MAX, KeyError, RecordId, StoreId, VALUE_BYTES_MAX};
use crate::structured::Schema;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

/// The largest value that a D1 row takes whole: its limit less room for key and version.
pub const D1_VALUE_BYTES_MAX: usize = crate::record::D1_ROW_BYTES_MAX - 64 * 1024;

/// What the values of a dataset are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// JSON documents.
    Json,
    /// UTF-8 text.
    Text,
    /// Any bytes.
    Binary,
    /// Rows of a table of the user's own, as JSON objects (see [`Table`]).
    Structured,
}

/// What a projection keeps of a value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Keep {
    /// All of it, where the store's limit allows.
    Full,
    /// Version, hash, size, and where the value is.
    Reference,
    /// These top-level fields of a JSON object.
    Fields(Fields),
}

/// The user's own table of a structured dataset.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Table {
    /// Its name in D1.
    pub name: String,
    /// The column that holds the record's key.
    pub key: String,
    /// Its columns; `None` until D1 was asked for them, and no write is taken before.
    pub schema: Option<Arc<Schema>>,
}

/// A place beside the authority.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Projection {
    /// Before each key.
    pub prefix: String,
    /// What is kept.
    pub keep: Keep,
}

impl Projection {
    /// What a record's copy stands under.
    pub fn key(&self, record: &RecordId) -> String {
        // Every put and every read of a copy makes one: the formatting machinery costs more than they do.
        [self.prefix.as_str(), &record.key].concat()
    }
}

/// Whether an acknowledgement waits for a store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Strategy {
    /// It does.
    WriteThrough,
    /// It does not.
    WriteBehind,
}

/// What happens to a value over the authority's limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Oversize {
    /// R2 keeps it whole, the others refer to it.
    Reference,
    /// It is refused before it is acknowledged.
    Refuse,
}

/// What a read may return when the caller does not say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReadLevel {
    /// The nearest copy.
    Any,
    /// Nothing older than what the caller's session has seen; the authority's for a caller that cannot
    /// carry a session.
    Session,
    /// The authority's.
    Latest,
}

/// What an acknowledged write survives when nothing is write-through.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Durability {
    /// Everything but the loss of the authority.
    Authority,
    /// The loss of this coordinator's disk too: one that shares its stores has journalled it.
    Peer,
    /// Crashes of this coordinator, not the loss of its disk.
    Local,
}

/// The limits of the stores that a coordinator talks to; smaller in tests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// The largest value that the authority takes whole.
    pub authority_value_bytes_max: usize,
    /// The largest value that KV takes whole.
    pub kv_value_bytes_max: usize,
    /// The largest value at all.
    pub value_bytes_max: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            authority_value_bytes_max: D1_VALUE_BYTES_MAX,
            kv_value_bytes_max: KV_VALUE_BYTES_MAX,
            value_bytes_max: VALUE_BYTES_MAX,
        }
    }
}

/// A named data type with one policy. Its authority is D1.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dataset {
    /// Its name.
    pub name: Arc<str>,
    /// What its values are.
    pub kind: Kind,
    /// Where its values stand in D1, where that is a table of the user's own.
    pub table: Option<Table>,
    /// D1 refers to the values and R2 has them, whatever their size.
    pub d1_refers: bool,
    /// Its copy in KV.
    pub kv: Option<Projection>,
    /// Its copy in R2.
    pub r2: Option<Projection>,
    /// For each store that it is kept in.
    pub strategy: BTreeMap<StoreId, Strategy>,
    /// Values over the authority's limit.
    pub oversize: Oversize,
    /// Reads that do not say.
    pub read: ReadLevel,
    /// What becomes of concurrent writes.
    pub conflict: Conflicts,
    /// What an acknowledged write survives.
    pub durability: Durability,
    /// What it does when its stores cannot keep up.
    pub backlog: Mode,
    /// How much of it may wait.
    pub queue: Queue,
    /// For how long a value stands where its write does not say; `None`: until it is deleted.
    pub ttl: Option<Duration>,
    /// Between two looks over everything that the projections hold; `None`: nobody looks.
    pub reconcile_every: Option<Duration>,
    /// Between two looks over some of what has changed since the last one over everything; `None`:
    /// nobody looks in between.
    pub reconcile_recent: Option<Duration>,
    /// When every value is read and hashed, beside those looks; `None`: only when asked for.
    pub reconcile_full: Option<Cron>,
}

/// Between two looks, where the configuration does not say.
pub const RECONCILE_EVERY: Duration = Duration::from_secs(30);

impl Dataset {
    /// Binary values in all three stores, write-through to D1, write-behind to the others.
    pub fn everywhere(name: &str) -> Self {
        let projection = || Projection { prefix: format!("{name}/"), keep: Keep::Full };
        Dataset {
            name: Arc::from(name),
            kind: Kind::Binary,
            table: None,
            d1_refers: false,
            kv: Some(projection()),
            r2: Some(projection()),
            strategy: BTreeMap::from([
                (StoreId::D1, Strategy::WriteThrough),
                (StoreId::Kv, Strategy::WriteBehind),
                (StoreId::R2, Strategy::WriteBehind),
            ]),
            oversize: Oversize::Reference,
            read: ReadLevel::Any,
            conflict: Conflicts::default(),
            durability: Durability::Authority,
            backlog: Mode::Absorb,
            queue: Queue::default(),
            ttl: None,
            reconcile_every: Some(RECONCILE_EVERY),
            reconcile_recent: None,
            reconcile_full: None,
        }
    }

    /// The longest value that the authority's row takes whole.
    pub fn inline_bytes_max(&self, limits: &Limits) -> usize {
        if self.d1_refers { 0 } else { limits.authority_value_bytes_max }
    }

    /// The copy that is kept in a store beside the authority.
    pub fn projection(&self, store: StoreId) -> Option<&Projection> {
        match store {
            StoreId::D1 => None,
            StoreId::Kv => self.kv.as_ref(),
            StoreId::R2 => self.r2.as_ref(),
        }
    }

    /// The stores beside the authority, in order.
    pub fn projections(&self) -> impl Iterator<Item = StoreId> + '_ {
        StoreId::ALL.into_iter().filter(|store| self.projection(*store).is_some())
    }

    /// The stores that an acknowledgement waits for.
    pub fn write_through(&self) -> impl Iterator<Item = StoreId> + '_ {
        let through = |(store, strategy): (&StoreId, &Strategy)| match strategy {
            Strategy::WriteThrough => Some(*store),
            Strategy::WriteBehind => None,
        };
        self.strategy.iter().filter_map(through)
    }

    /// The fields that copies are to keep, where they keep chosen ones.
    pub fn fields(&self) -> impl Iterator<Item = &String> {
        let kept = [self.kv.as_ref(), self.r2.as_ref()].into_iter().flatten();
        let fields = kept.filter_map(|projection| match &projection.keep {
            Keep::Fields(fields) => Some(fields.names()),
            Keep::Full | Keep::Reference => None,
        });
        fields.flatten()
    }

    /// Checks a key against every store that the dataset is kept in.
    pub fn record(&self, key: &str) -> Result<RecordId, KeyError> {
        let longest = self.projections().filter_map(|s| self.projection(s)).map(|p| p.prefix.len());
        RecordId::parse(&self.name, key, longest.max().unwrap_or(0))
    }

    /// What an acknowledged write survives, in one sentence.
    pub fn promise(&self) -> String {
        let mut through: Vec<StoreId> = self.write_through().collect();
        // A row that refers to a value is installed once R2 has that.
        if self.d1_refers && through.contains(&StoreId::D1) && !through.contains(&StoreId::R2) {
            through.push(StoreId::R2);
        }
        let through: Vec<&str> = through.into_iter().map(StoreId::name).collect();
        match (self.durability, through.as_slice()) {
            (Durability::Local, []) => format!(
                "{}: an acknowledged write is in this machine's journal; it survives crashes, \
                 not the loss of this disk",
                self.name
            ),
            (Durability::Peer, stores) => format!(
                "{}: an acknowledged write is in this machine's journal and in that of a peer{}; \
                 while none answers, the write is taken with 202 and survives crashes, not the \
                 loss of this disk",
                self.name,
                stores.iter().map(|store| format!(" and in {store}")).collect::<String>()
            ),
            (Durability::Authority | Durability::Local, stores) => format!(
                "{}: an acknowledged write is in this machine's journal and in {}; while such a \
                 store does not answer, the write is taken with 202 and survives crashes, not the \
                 loss of this disk",
                self.name,
                stores.join(" and ")
            ),
        }
    }
}

/// All datasets of a coordinator.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Policy {
    /// By name.
    pub datasets: BTreeMap<Arc<str>, Dataset>,
    /// Of the stores.
    pub limits: Limits,
}

impl Policy {
    /// Of these datasets, with the services' documented limits.
    pub fn new(datasets: impl IntoIterator<Item = Dataset>) -> Self {
        let datasets = datasets.into_iter().map(|d| (d.name.clone(), d)).collect();
        Policy { datasets, limits: Limits::default() }
    }
}

/// Intents that a coordinator may hold, where nothing else is said.
pub const INTENTS_MAX: usize = 100_000;
/// Bytes of their values.
pub const INTENT_BYTES_MAX: usize = 256 * 1024 * 1024;

/// How a coordinator paces itself. The defaults keep recovery under five seconds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pace {
    /// A write-through write is answered as pending (202) after this.
    pub acknowledge_within: Duration,
    /// Between looks at the authority's change feed and lapsed marks, when no mark is known to
    /// lapse sooner.
    pub poll: Duration,
    /// Between such looks at the least.
    pub poll_min: Duration,
    /// Work on so many records at once at the most, per store.
    pub lane_width: usize,
    /// Operations in one authority batch.
    pub batch_ops_max: usize,
    /// Bytes of values in one authority batch.
    pub batch_bytes_max: usize,
    /// Authority batches under way at once.
    pub batches_max: usize,
    /// An operation that no writer waits for, as the clearing of a mark, waits so long for others
    /// to share its batch.
    pub linger: Duration,
    /// Intents that may wait for the authority; more are refused before acknowledgement.
    pub intents_max: usize,
    /// Bytes of their values.
    pub intent_bytes_max: usize,
    /// Writes of a dataset that a store refuses for good and that wait for a decision; with more,
    /// the dataset takes no new writes.
    pub dead_letters_max: usize,
    /// Between two puts of one key at KV or R2, which take one write a second for each.
    pub same_key: Duration,
    /// Changes in one page of another site's feed. One that is longer is not read from its beginning:
    /// trees are compared first.
    pub feed_page: usize,
    /// Copies of each dataset and store that one look over what is recent reads.
    pub recent_values: usize,
    /// Values of each dataset and store that one turn of the scrub reads.
    pub scrub_values: usize,
    /// Their bytes, with which it ends.
    pub scrub_bytes: u64,
    /// Between two looks for blobs that nothing refers to.
    pub blobs_every: Duration,
    /// A blob that nothing refers to is left for so long: copies that refer to it are still on their
    /// way out, or an old one is still read.
    pub blobs_rest: Duration,
}

impl Default for Pace {
    fn default() -> Self {
        Pace {
            acknowledge_within: Duration::from_secs(2),
            poll: Duration::from_millis(1_000),
            poll_min: Duration::from_millis(250),
            lane_width: 8,
            batch_ops_max: 50,
            batch_bytes_max: 8 * 1024 * 1024,
            batches_max: 2,
            linger: Duration::from_millis(20),
            intents_max: INTENTS_MAX,
            intent_bytes_max: INTENT_BYTES_MAX,
            dead_letters_max: 1_000,
            same_key: Duration::from_millis(1_000),
            feed_page: 500,
            recent_values: 64,
            scrub_values: 64,
            scrub_bytes: 16 * 1024 * 1024,
            blobs_every: Duration::from_secs(10 * 60),
            blobs_rest: Duration::from_secs(10 * 60),
        }
    }
}
