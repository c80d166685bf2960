//! A world without faults, latency or disks: what is measured in it is the engine's own cost.
//!
//! Invariant: every call answers at once. The stores are the simulator's models, so that they do
//! what stores do; only time is real.

use bytes::Bytes;
use std::future::Future;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};
use tidelock_engine::blob::{BlobsSeen, Condemned};
use tidelock_engine::conflict::{By, Conflict, ConflictQuery};
use tidelock_engine::coordinator::Coordinator;
use tidelock_engine::env::{
    Clock, Env, Journal, KeyPage, KvEntry, KvStore, Network, Object, ObjectStore, Outcome, Peer,
    PeerMessage, PeerReply, PutIf, RowHistory, RowStore, Storage, Unavailable,
};
use tidelock_engine::erasure::{Erase, EraseAnswer};
use tidelock_engine::journal::{JournalBatch, JournalError, Replay};
use tidelock_engine::record::{RecordId, Stored};
use tidelock_engine::row::{
    BatchAnswer, Change, Install, Poll, PollPage, RowAnswer, RowOp, StoreTime,
};
use tidelock_engine::tree::{Leaf, Sums};
use tidelock_engine::version::{ContentHash, NodeId, SiteId, Version};
use tidelock_sim::stores::{D1, Kv, R2};

#[derive(Default)]
struct Stores {
    kv: Kv,
    d1: D1,
    r2: R2,
}

struct Inner {
    stores: Mutex<Stores>,
    begun: Instant,
    drawn: AtomicU64,
    feed_stands_still: AtomicBool,
    site: SiteId,
    other: Mutex<Option<(Peer, Arc<Coordinator<Memory>>)>>,
    messages: AtomicU64,
    rows_read: AtomicU64,
}

/// See the module.
#[derive(Clone)]
pub struct Memory {
    inner: Arc<Inner>,
    r2: MemoryR2,
}

/// R2 in it.
#[derive(Clone)]
pub struct MemoryR2(Arc<Inner>);

impl Default for Memory {
    fn default() -> Self {
        Memory::at(SiteId(0))
    }
}

impl Memory {
    /// The stores of a site.
    pub fn at(site: SiteId) -> Self {
        let inner = Arc::new(Inner {
            stores: Mutex::default(),
            begun: Instant::now(),
            drawn: AtomicU64::new(1),
            feed_stands_still: AtomicBool::new(false),
            site,
            other: Mutex::default(),
            messages: AtomicU64::new(0),
            rows_read: AtomicU64::new(0),
        });
        Memory { r2: MemoryR2(inner.clone()), inner }
    }
}

impl Inner {
    fn stores(&self) -> MutexGuard<'_, Stores> {
        self.stores.lock().expect("no store panics")
    }

    fn now(&self) -> StoreTime {
        StoreTime(self.begun.elapsed().as_millis() as u64 + 1_790_000_000_000)
    }
}

impl Memory {
    /// From now on whoever runs here has another coordinator on its list; nothing is lost on the way.
    pub fn meet(&self, peer: Peer, coordinator: Arc<Coordinator<Memory>>) {
        *self.inner.other.lock().expect("nobody panics with it") = Some((peer, coordinator));
    }

    /// Nobody is on its list any more.
    pub fn part(&self) {
        drop(self.inner.other.lock().expect("nobody panics with it").take());
    }

    /// Messages that went out from here.
    pub fn messages(&self) -> u64 {
        self.inner.messages.load(Ordering::Relaxed)
    }

    /// Rows of D1 that its feed or its leaves have given.
    pub fn rows_read(&self) -> u64 {
        self.inner.rows_read.load(Ordering::Relaxed)
    }

    fn gave(&self, rows: usize) {
        self.inner.rows_read.fetch_add(rows as u64, Ordering::Relaxed);
    }

    /// From now on D1's change feed shows nothing new, as one that misses what it should show.
    pub fn stop_feed(&self) {
        self.inner.feed_stands_still.store(true, Ordering::Relaxed);
    }

    /// Works on D1 past every coordinator.
    pub fn with_d1<T>(&self, work: impl FnOnce(&mut D1) -> T) -> T {
        work(&mut self.inner.stores().d1)
    }

    /// Has the authority hold a version over whatever it holds of the record, as another coordinator
    /// would, which owes nothing for it.
    pub fn install(&self, record: RecordId, version: Version, value: Stored) {
        self.with_d1(|d1| {
            let expect = d1.rows().get(&record).map(|row| row.expect()).unwrap_or_default();
            let holder = version.current().dot.actor;
            let (losers, owe, blobs_seen) = (Vec::new(), Vec::new(), BlobsSeen::default());
            let (by, writes) = (By::Lww.into(), Vec::new());
            let op = Install {
                record,
                expect,
                version,
                value,
                losers,
                owe,
                holder,
                blobs_seen,
                by,
                writes,
            };
            let (outcome, _) = d1.batch(StoreTime(1), &[RowOp::Install(Box::new(op))]);
            let Outcome::Applied(answer) = outcome else { panic!("{outcome:?}") };
            let installed = matches!(answer.answers[..], [RowAnswer::Installed { .. }]);
            assert!(installed, "{:?}", answer.answers);
        });
    }

    /// Has D1 sum the leaves of a dataset, which it does when they are asked for, and in no measurement then.
    pub fn sum(&self, dataset: &str) {
        self.with_d1(|d1| drop(d1.leaves(dataset, None, 1)));
    }

    /// Works on KV past every coordinator.
    pub fn with_kv<T>(&self, work: impl FnOnce(&mut Kv) -> T) -> T {
        work(&mut self.inner.stores().kv)
    }

    /// Records that all three stores hold whole.
    pub fn complete_records(&self) -> usize {
        let stores = self.inner.stores();
        let rows = stores.d1.rows().iter().filter(|(_, row)| row.owed.is_empty());
        let keys = rows.map(|(record, _)| format!("bench/{}", record.key));
        keys.filter(|key| stores.kv.central(key).is_some() && stores.r2.get(key).is_some()).count()
    }
}

impl Env for Memory {
    type Clock = Self;
    type Network = Self;
    type Storage = Self;

    fn clock(&self) -> &Self {
        self
    }

    fn network(&self) -> &Self {
        self
    }

    fn storage(&self) -> &Self {
        self
    }

    fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        tokio::spawn(task);
    }

    fn random(&self) -> u64 {
        // Distinct is all that this world needs.
        self.inner.drawn.fetch_add(0x9e37_79b9_7f4a_7c15, Ordering::Relaxed)
    }

    fn hash_seed(&self) -> u64 {
        7
    }
}

impl Clock for Memory {
    fn wall(&self) -> Duration {
        Duration::from_millis(self.inner.now().0)
    }

    fn monotonic(&self) -> Duration {
        self.inner.begun.elapsed()
    }

    async fn sleep(&self, duration: Duration) {
        tokio::time::sleep(duration).await;
    }
}

impl Network for Memory {
    async fn request(&self, to: NodeId, message: PeerMessage) -> Outcome<PeerReply> {
        self.inner.messages.fetch_add(1, Ordering::Relaxed);
        let other = self.inner.other.lock().expect("nobody panics with it").clone();
        match other.filter(|(peer, _)| peer.node == to) {
            // Boxed: an answer may ask in its turn.
            Some((_, coordinator)) => {
                Outcome::Applied(Box::pin(coordinator.receive(message)).await)
            }
            None => Outcome::Applied(PeerReply::Noted),
        }
    }

    fn site(&self) -> SiteId {
        self.inner.site
    }

    fn peers(&self) -> Vec<Peer> {
        let other = self.inner.other.lock().expect("nobody panics with it");
        other.iter().map(|(peer, _)| *peer).collect()
    }
}

impl Storage for Memory {
    type Kv = Self;
    type D1 = Self;
    type R2 = MemoryR2;
    type Journal = Self;

    fn kv(&self) -> &Self {
        self
    }

    fn d1(&self) -> &Self {
        self
    }

    fn r2(&self) -> &MemoryR2 {
        &self.r2
    }

    fn journal(&self) -> &Self {
        self
    }
}

impl KvStore for Memory {
    fn echoes_for(&self) -> Duration {
        // One database: it shows what stands there.
        Duration::ZERO
    }

    async fn get(&self, key: &str) -> Result<Option<KvEntry>, Unavailable> {
        Ok(self.inner.stores().kv.central(key).cloned())
    }

    async fn put(&self, key: &str, entry: KvEntry, _deadline: StoreTime) -> Outcome<()> {
        self.inner.stores().kv.land(self.inner.now(), key.to_owned(), Some(entry));
        Outcome::Applied(())
    }

    async fn delete(&self, key: &str, _deadline: StoreTime) -> Outcome<()> {
        self.inner.stores().kv.land(self.inner.now(), key.to_owned(), None);
        Outcome::Applied(())
    }

    async fn list(
        &self,
        prefix: &str,
        from: Option<&str>,
        limit: usize,
    ) -> Result<KeyPage, Unavailable> {
        Ok(self.inner.stores().kv.list(prefix, from, limit))
    }
}

impl RowStore for Memory {
    async fn batch(&self, ops: Arc<[RowOp]>) -> Outcome<BatchAnswer> {
        self.inner.stores().d1.batch(self.inner.now(), &ops).0
    }

    async fn unreferred(&self, blobs: Vec<ContentHash>) -> Result<Vec<ContentHash>, Unavailable> {
        Ok(self.inner.stores().d1.unreferred(&blobs))
    }

    async fn condemn(&self, blobs: Vec<ContentHash>) -> Outcome<Vec<Option<Condemned>>> {
        Outcome::Applied(self.inner.stores().d1.condemn(self.inner.now(), &blobs))
    }

    async fn erase(&self, erase: Erase) -> Outcome<EraseAnswer> {
        Outcome::Applied(self.inner.stores().d1.erase(self.inner.now(), &erase))
    }

    async fn poll(&self, poll: Poll) -> Result<PollPage, Unavailable> {
        if self.inner.feed_stands_still.load(Ordering::Relaxed) {
            return Ok(PollPage { complete: true, head: poll.after, ..PollPage::default() });
        }
        let page = self.inner.stores().d1.poll(self.inner.now(), poll);
        self.gave(page.changes.len());
        Ok(page)
    }

    async fn histories(&self, records: Vec<RecordId>) -> Result<Vec<RowHistory>, Unavailable> {
        let stores = self.inner.stores();
        Ok(records.iter().map(|record| stores.d1.history(record)).collect())
    }

    async fn conflicts(&self, query: ConflictQuery) -> Result<Vec<Conflict>, Unavailable> {
        Ok(self.inner.stores().d1.conflicts(&query))
    }

    async fn leaves(
        &self,
        dataset: &str,
        after: Option<Leaf>,
        limit: usize,
    ) -> Result<Vec<(Leaf, Sums)>, Unavailable> {
        Ok(self.inner.stores().d1.leaves(dataset, after, limit))
    }

    async fn leaf_rows(
        &self,
        dataset: &str,
        leaf: Leaf,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Vec<Change>, Unavailable> {
        let rows = self.inner.stores().d1.leaf_rows(dataset, leaf, after, limit);
        self.gave(rows.len());
        Ok(rows)
    }
}

impl ObjectStore for MemoryR2 {
    async fn get(&self, key: &str) -> Result<Option<Object>, Unavailable> {
        Ok(self.0.stores().r2.get(key).cloned())
    }

    async fn put(
        &self,
        key: &str,
        body: Bytes,
        metadata: Option<String>,
        _condition: PutIf,
        _deadline: Option<StoreTime>,
    ) -> Outcome<String> {
        Outcome::Applied(self.0.stores().r2.land(self.0.now(), key.to_owned(), body, metadata))
    }

    async fn delete(&self, key: &str, _deadline: StoreTime) -> Outcome<()> {
        self.0.stores().r2.delete(self.0.now(), key.to_owned());
        Outcome::Applied(())
    }

    async fn list(
        &self,
        prefix: &str,
        from: Option<&str>,
        limit: usize,
    ) -> Result<KeyPage, Unavailable> {
        Ok(self.0.stores().r2.list(prefix, from, limit))
    }
}

impl Journal for Memory {
    async fn replay(&self) -> Result<Replay, JournalError> {
        Ok(Replay::default())
    }

    async fn commit(&self, _batch: JournalBatch) -> Result<(), JournalError> {
        Ok(())
    }
}
