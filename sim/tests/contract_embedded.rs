//! The contract suite over the embedded stores: real files, a clock that the test moves.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use tempfile::TempDir;
use tidelock_engine::production::embedded::{Embedded, EmbeddedD1, EmbeddedKv, EmbeddedR2};
use tidelock_engine::row::StoreTime;
use tidelock_sim::contract::{World, check_d1, check_kv, check_r2};

struct Files {
    stores: Embedded,
    time: Arc<AtomicU64>,
    _folder: TempDir,
}

impl Files {
    fn new() -> Self {
        let folder = tempfile::tempdir().expect("a folder for the test");
        let time = Arc::new(AtomicU64::new(1_700_000_000_000));
        let clock = time.clone();
        let clock = Arc::new(move || StoreTime(clock.load(Ordering::Relaxed)));
        let stores = Embedded::open(folder.path(), clock).expect("new stores");
        Files { stores, time, _folder: folder }
    }
}

impl World for Files {
    type Kv = EmbeddedKv;
    type D1 = EmbeddedD1;
    type R2 = EmbeddedR2;

    fn kv(&self) -> &EmbeddedKv {
        &self.stores.kv
    }
    fn d1(&self) -> &EmbeddedD1 {
        &self.stores.d1
    }
    fn r2(&self) -> &EmbeddedR2 {
        &self.stores.r2
    }
    fn now(&self) -> StoreTime {
        StoreTime(self.time.load(Ordering::Relaxed))
    }
    async fn advance(&self, ms: u64) {
        self.time.fetch_add(ms, Ordering::Relaxed);
    }
}

#[tokio::test]
async fn kv() {
    check_kv(&Files::new()).await;
}

#[tokio::test]
async fn d1() {
    check_d1(&Files::new()).await;
}

#[tokio::test]
async fn r2() {
    check_r2(&Files::new()).await;
}
