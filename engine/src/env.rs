//! The door to the world. The engine reaches clock, network and storage through these traits
//! alone, so that the simulator and the production binary run the same code.
//!
//! Invariant: a write to the outside ends in one of three outcomes, and the type says which:
//! [`Outcome::Applied`], [`Outcome::Refused`] (it certainly did not happen) or
//! [`Outcome::Unknown`] (it may have happened, or may yet).
//!
//! Every call answers within a bound that the binding sets; no caller has to race it against a
//! timer.

use crate::blob::Condemned;
use crate::conflict::{Conflict, ConflictQuery};
use crate::erasure::{Erase, EraseAnswer};
use crate::journal::{Intent, JournalBatch, JournalError, Replay};
use crate::record::{Key, Loser, RecordId, Written};
use crate::resolve::Held;
use crate::row::{BatchAnswer, Change, Poll, PollPage, Row, RowOp, Seq, StoreTime};
use crate::tree::{Leaf, Node, Sums};
use crate::version::{ContentHash, Dot, NodeId, SiteId, VersionVector};
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use std::borrow::Cow;
use std::fmt;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

/// Everything that the engine needs of the world.
pub trait Env: Clone + Send + Sync + 'static {
    /// See [`Clock`].
    type Clock: Clock;
    /// See [`Network`].
    type Network: Network;
    /// See [`Storage`].
    type Storage: Storage;

    /// This coordinator's clock.
    fn clock(&self) -> &Self::Clock;
    /// The way to other coordinators.
    fn network(&self) -> &Self::Network;
    /// The stores and this coordinator's journal.
    fn storage(&self) -> &Self::Storage;
    /// Runs a task until it ends or the coordinator's process does.
    fn spawn(&self, task: impl Future<Output = ()> + Send + 'static);
    /// The next number of this coordinator's random stream: from the seed in the simulator, from
    /// the operating system in production.
    fn random(&self) -> u64;
    /// A number that nobody else can guess, for tables that are searched by hashes: it decides nothing
    /// that can be seen, and is no part of the random stream. In the simulator any number.
    fn hash_seed(&self) -> u64;
}

/// Time, as this coordinator sees it.
pub trait Clock: Send + Sync + 'static {
    /// Since the Unix epoch. May jump.
    fn wall(&self) -> Duration;
    /// Since this process started. Never goes back.
    fn monotonic(&self) -> Duration;
    /// Ends after `duration` of monotonic time.
    fn sleep(&self, duration: Duration) -> impl Future<Output = ()> + Send;
}

/// Request and response to another coordinator. A message may be lost, late, doubled or
/// overtaken by a later one.
pub trait Network: Send + Sync + 'static {
    /// Sends `message` and waits for the answer.
    fn request(
        &self,
        to: NodeId,
        message: PeerMessage,
    ) -> impl Future<Output = Outcome<PeerReply>> + Send;
    /// The site whose stores this coordinator has.
    fn site(&self) -> SiteId;
    /// The other coordinators as they are known now, in the order of their numbers. Members come
    /// and go while this one runs.
    fn peers(&self) -> Vec<Peer>;
}

/// Another coordinator.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Peer {
    /// Its number.
    pub node: NodeId,
    /// The site whose stores it has.
    pub site: SiteId,
}

/// What coordinators tell and ask each other.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum PeerMessage {
    /// Between coordinators of one site: these versions are in the authority. News before the next
    /// poll.
    Installed(Vec<Change>),
    /// Between coordinators of one site: keep this write until the authority has it, so that it
    /// survives the loss of the sender's disk.
    Keep(Box<Intent>),
    /// To another site: the sender's authority has taken something in.
    Hint(SiteId),
    /// From another site: what has the receiver's authority taken in after this place of its feed?
    Changes {
        /// Who asks.
        site: SiteId,
        /// The place.
        after: Seq,
        /// Of the feed before it, this much is in the asking site's authority.
        reached: Seq,
    },
    /// From another site: the values of these records.
    Fetch(Vec<Wanted>),
    /// From another site: the roots of the receiver's trees, one for each dataset.
    Roots,
    /// From another site: the sums of the children of these nodes, which have some.
    Children {
        /// Of which dataset's tree.
        dataset: Arc<str>,
        /// In order; a bounded number.
        nodes: Vec<Node>,
    },
    /// From another site: what stands in these leaves.
    Leaves {
        /// Of which dataset's tree.
        dataset: Arc<str>,
        /// In order; a bounded number.
        leaves: Vec<Leaf>,
        /// In the first of them, after this key.
        after: Option<Key>,
    },
}

/// A record that another site asks for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Wanted {
    /// Which.
    pub record: RecordId,
    /// What the asking site's authority holds of it.
    pub known: VersionVector,
    /// The write whose value stands there: it may have lost a conflict here.
    pub current: Option<Dot>,
}

/// The answer to a [`PeerMessage`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum PeerReply {
    /// It was taken note of. What was to be kept is durable.
    Noted,
    /// Of a site's feed.
    Changes(FeedPage),
    /// The values that were asked for, in that order; fewer where the answer would be too large,
    /// but one at the least.
    Values(Vec<Whole>),
    /// The receiver's authority does not answer it. The same again, later or elsewhere.
    Unavailable(String),
    /// The roots.
    Roots {
        /// Everything up to this place of the receiver's feed is in its trees.
        at: Seq,
        /// By dataset.
        roots: Vec<(Arc<str>, Sums)>,
    },
    /// Sixteen sums for each node that was asked for, in order.
    Children {
        /// As of the roots.
        at: Seq,
        /// The sums.
        sums: Vec<Sums>,
    },
    /// What stands in the leaves that were asked for, from the authority.
    Leaves {
        /// Leaf by leaf.
        changes: Vec<Change>,
        /// So many leaves are through.
        through: usize,
        /// The leaf after those is through up to this key; `None`: it has not begun.
        after: Option<Key>,
    },
}

/// A page of a site's feed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FeedPage {
    /// In feed order.
    pub changes: Vec<Change>,
    /// False: more follow.
    pub complete: bool,
    /// Where the feed ends. Before the place that was asked for: it is not the feed that it was,
    /// and is to be read from its beginning.
    pub head: Seq,
    /// Up to where each actor's writes are decided at that site, as far as it knows: such as are in
    /// its authority are in the feed up to `head`, if nothing that is newer includes them.
    pub settled: VersionVector,
}

/// A record as a site's authority holds it, to be taken in by another.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Whole {
    /// Which.
    pub record: RecordId,
    /// Version and bytes, never a reference to bytes elsewhere. `None`: nothing that can be given,
    /// as bytes that the site has yet to take in; the feed will show it.
    pub held: Option<Held>,
    /// What lost against it, unless the asking site is known to keep it as a loser, or to have
    /// superseded it (rule V6).
    pub losers: Vec<Loser>,
    /// What was written that the asking site lacks, write by write, where such values are merged.
    pub writes: Vec<Written>,
}

/// Opens the stores and this coordinator's journal.
pub trait Storage: Send + Sync + 'static {
    /// Workers KV.
    type Kv: KvStore;
    /// D1, as the authority's rows.
    type D1: RowStore;
    /// R2.
    type R2: ObjectStore;
    /// This coordinator's own durable state.
    type Journal: Journal;

    /// Workers KV.
    fn kv(&self) -> &Self::Kv;
    /// D1.
    fn d1(&self) -> &Self::D1;
    /// R2.
    fn r2(&self) -> &Self::R2;
    /// The journal.
    fn journal(&self) -> &Self::Journal;
}

/// What became of a write to the outside.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome<T> {
    /// It happened.
    Applied(T),
    /// It certainly did not happen.
    Refused(Refusal),
    /// It may have happened, or may happen yet.
    Unknown(Doubt),
}

impl<T> Outcome<T> {
    /// Converts what was applied.
    pub fn map<U>(self, convert: impl FnOnce(T) -> U) -> Outcome<U> {
        match self {
            Outcome::Applied(value) => Outcome::Applied(convert(value)),
            Outcome::Refused(refusal) => Outcome::Refused(refusal),
            Outcome::Unknown(doubt) => Outcome::Unknown(doubt),
        }
    }
}

/// Why a store certainly did not apply a write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// What the caller can do about it.
    pub kind: RefusalKind,
    /// The store's own words.
    pub detail: Cow<'static, str>,
}

/// Tells the caller of a refused write what to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum RefusalKind {
    /// 429: the same again, later.
    RateLimited,
    /// 412: the object is not what the condition asks for.
    Precondition,
    /// The put came after its lease had ended (rule A5): claim again.
    DeadlinePassed,
    /// 413, 414 or a key, value or metadata over a limit: never again.
    TooLarge,
    /// Constraint or type error: never again.
    Constraint,
    /// The connection was refused: nothing was sent.
    Unreachable,
}

impl Refusal {
    /// A refusal in the store's words.
    pub fn new(kind: RefusalKind, detail: impl Into<Cow<'static, str>>) -> Self {
        Refusal { kind, detail: detail.into() }
    }

    /// True when the same again is refused again: the store judged what was sent, not when.
    pub fn is_on_the_merits(&self) -> bool {
        match self.kind {
            RefusalKind::TooLarge | RefusalKind::Constraint => true,
            RefusalKind::RateLimited
            | RefusalKind::Precondition
            | RefusalKind::DeadlinePassed
            | RefusalKind::Unreachable => false,
        }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}: {}", self.kind, self.detail)
    }
}

/// Why nobody knows whether a write happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Doubt {
    /// What was seen.
    pub kind: DoubtKind,
    /// The store's own words.
    pub detail: Cow<'static, str>,
}

/// What was seen instead of an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum DoubtKind {
    /// No answer in time.
    Timeout,
    /// The connection ended before the answer.
    ConnectionLost,
    /// A 5xx: the store failed before or after it applied.
    ServerError,
    /// "D1 DB is overloaded" and its like.
    Overloaded,
}

impl Doubt {
    /// A doubt in the store's words.
    pub fn new(kind: DoubtKind, detail: impl Into<Cow<'static, str>>) -> Self {
        Doubt { kind, detail: detail.into() }
    }
}

impl fmt::Display for Doubt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}: {}", self.kind, self.detail)
    }
}

/// A read that gave no answer. Nothing changed; the same again may succeed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unavailable(pub Cow<'static, str>);

impl fmt::Display for Unavailable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Unavailable {}

/// A value in KV.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KvEntry {
    /// The raw bytes.
    pub value: Bytes,
    /// JSON text of at most 1,024 bytes. A plain put erases it.
    pub metadata: Option<String>,
    /// From then on KV holds it no more, in seconds since the Unix epoch; at least a minute from
    /// now. `None`: it holds it for ever.
    pub expires_at_s: Option<u64>,
}

/// Workers KV: eventual, last write wins, no compare-and-set; reads may be 60 s old, "not found"
/// included. <https://developers.cloudflare.com/kv/concepts/how-kv-works/>
pub trait KvStore: Send + Sync + 'static {
    /// How long a read or a listing may show what stood there before.
    fn echoes_for(&self) -> Duration;
    /// The value, as this place sees it.
    fn get(&self, key: &str) -> impl Future<Output = Result<Option<KvEntry>, Unavailable>> + Send;
    /// Puts value and metadata. Refused once the store side's clock has reached `deadline`.
    fn put(
        &self,
        key: &str,
        entry: KvEntry,
        deadline: StoreTime,
    ) -> impl Future<Output = Outcome<()>> + Send;
    /// Deletes. Refused once the store side's clock has reached `deadline`.
    fn delete(&self, key: &str, deadline: StoreTime) -> impl Future<Output = Outcome<()>> + Send;
    /// Keys that begin with `prefix`, in order, with their metadata: at most `limit` of them, after
    /// `from`, which is a former page's `next` or any key.
    fn list(
        &self,
        prefix: &str,
        from: Option<&str>,
        limit: usize,
    ) -> impl Future<Output = Result<KeyPage, Unavailable>> + Send;
}

/// A page of a listing. It may hold fewer keys than were asked for, or none, though more follow
/// (<https://developers.cloudflare.com/kv/api/list-keys/#pagination>, and R2's `truncated`).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KeyPage {
    /// In order.
    pub keys: Vec<Listed>,
    /// The next page begins after this; `None`: this was the last.
    pub next: Option<String>,
}

/// One line of a listing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listed {
    /// The whole key.
    pub key: String,
    /// As it was put.
    pub metadata: Option<String>,
}

/// D1 as the authority's rows: the primary, strongly consistent.
pub trait RowStore: Send + Sync + 'static {
    /// Applies the operations in order, all in one transaction: on `Applied`, each has its
    /// answer; on `Refused`, none happened. An install that refers to a blob to which nothing else
    /// refers is answered with [`RowAnswer::NoBlob`](crate::row::RowAnswer::NoBlob) unless
    /// [`BlobsSeen::let_refer`](crate::blob::BlobsSeen::let_refer) lets it, in the same transaction.
    /// Shared, since who asks may have to ask for each of them alone.
    fn batch(&self, ops: Arc<[RowOp]>) -> impl Future<Output = Outcome<BatchAnswer>> + Send;
    /// Those of these blobs that no row and no loser refers to. A replica may answer.
    fn unreferred(
        &self,
        blobs: Vec<ContentHash>,
    ) -> impl Future<Output = Result<Vec<ContentHash>, Unavailable>> + Send;
    /// Condemns those of these blobs that no row and no loser refers to, all in one transaction;
    /// `None` for the others. What [`blob::forgotten_before`](crate::blob::forgotten_before) lets go
    /// of is forgotten.
    fn condemn(
        &self,
        blobs: Vec<ContentHash>,
    ) -> impl Future<Output = Outcome<Vec<Option<Condemned>>>> + Send;
    /// Erases the bytes of writes to a record, all in one transaction, unless one of them is among the
    /// values of its version ([`erasure::standing`](crate::erasure::standing)). Their losers stay without
    /// bytes ([`Stored::Erased`](crate::record::Stored::Erased)), what a merge starts from forgets them,
    /// and no later install brings their bytes again; a loser that comes erased is kept so. Where the
    /// store's files are ours, nothing of the bytes is left in them once it has answered.
    fn erase(&self, erase: Erase) -> impl Future<Output = Outcome<EraseAnswer>> + Send;
    /// The change feed, and the marks that wait for a holder. A replica may answer, and be behind
    /// the primary; yet a process's first poll is the primary's, and no later one is older than
    /// what the process has been answered before: a D1 session that begins with `first-primary`
    /// (<https://developers.cloudflare.com/d1/best-practices/read-replication/>). The ledger's
    /// completeness rests on that (rule V1).
    fn poll(&self, poll: Poll) -> impl Future<Output = Result<PollPage, Unavailable>> + Send;
    /// Rows, each with the values that lost a conflict there, all in one transaction; in the order
    /// in which they were asked for.
    fn histories(
        &self,
        records: Vec<RecordId>,
    ) -> impl Future<Output = Result<Vec<RowHistory>, Unavailable>> + Send;
    /// Conflicts that were settled, in the order that is asked for. The primary answers.
    fn conflicts(
        &self,
        query: ConflictQuery,
    ) -> impl Future<Output = Result<Vec<Conflict>, Unavailable>> + Send;
    /// The leaves of a dataset's tree that have records, after `after`, in order, `limit` of them;
    /// fewer only at the end. Kept in the transactions that change the rows. A foreign write that
    /// nobody has taken in changes nothing here: its row counts with the version that it had.
    fn leaves(
        &self,
        dataset: &str,
        after: Option<Leaf>,
        limit: usize,
    ) -> impl Future<Output = Result<Vec<(Leaf, Sums)>, Unavailable>> + Send;
    /// The rows of one leaf that have a version, with keys after `after`, in order, `limit` of them;
    /// fewer only at the end.
    fn leaf_rows(
        &self,
        dataset: &str,
        leaf: Leaf,
        after: Option<&str>,
        limit: usize,
    ) -> impl Future<Output = Result<Vec<Change>, Unavailable>> + Send;
}

/// Everything that the authority holds of a record.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RowHistory {
    /// Its row, as an operation would read it; `None`: there was never one.
    pub row: Option<Row>,
    /// The values that lost a conflict, in no order.
    pub losers: Vec<Loser>,
    /// What was written to it lately, where such values are merged; the newest last.
    pub writes: Vec<Written>,
}

/// An object in R2.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Object {
    /// The raw bytes.
    pub body: Bytes,
    /// Custom metadata: JSON text of at most 8,192 bytes.
    pub metadata: Option<String>,
    /// Changes with every put.
    pub etag: String,
}

/// When an object is put.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PutIf {
    /// Whatever is there.
    Always,
    /// Nothing is there (`If-None-Match: *`); else refused as [`RefusalKind::Precondition`].
    Absent,
}

/// R2: strongly consistent, conditional puts. <https://developers.cloudflare.com/r2/>
pub trait ObjectStore: Send + Sync + 'static {
    /// The object.
    fn get(&self, key: &str) -> impl Future<Output = Result<Option<Object>, Unavailable>> + Send;
    /// Puts body and metadata; gives the new ETag. Refused once the store side's clock has
    /// reached `deadline`; a put without one lands whenever it does.
    fn put(
        &self,
        key: &str,
        body: Bytes,
        metadata: Option<String>,
        condition: PutIf,
        deadline: Option<StoreTime>,
    ) -> impl Future<Output = Outcome<String>> + Send;
    /// Deletes. Refused once the store side's clock has reached `deadline`.
    fn delete(&self, key: &str, deadline: StoreTime) -> impl Future<Output = Outcome<()>> + Send;
    /// Keys that begin with `prefix`, in order, with their metadata: at most `limit` of them, after
    /// `from`, which is a former page's `next` or any key.
    fn list(
        &self,
        prefix: &str,
        from: Option<&str>,
        limit: usize,
    ) -> impl Future<Output = Result<KeyPage, Unavailable>> + Send;
}

/// This coordinator's durable memory of what it owes.
pub trait Journal: Send + Sync + 'static {
    /// Everything that was committed and not dropped, in commit order.
    fn replay(&self) -> impl Future<Output = Result<Replay, JournalError>> + Send;
    /// Durable when it returns `Ok`. After [`JournalError::Full`] nothing of it was written, and
    /// the journal goes on. After any other error nobody knows what is on the disk: the journal is
    /// poisoned until it is replayed (rule V2).
    fn commit(&self, batch: JournalBatch) -> impl Future<Output = Result<(), JournalError>> + Send;
}
