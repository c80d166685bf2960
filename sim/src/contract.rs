//! What the engine relies on in a store, as one suite that runs unchanged over every binding:
//! the simulated stores, the embedded ones and the real ones.
//!
//! ```text
//! World (kv, d1, r2, store-side clock)  ->  check_kv, check_d1, check_r2  ->  panic or silence
//! ```
//!
//! Invariant: a case asserts only what the services document, or what the engine's rules need of
//! them, and leaves nothing that a later case trips over: each has keys of its own. Where a
//! service may be stale, the case waits through [`World::advance`]. The world is without faults.

mod d1;
mod kv;
mod r2;

use std::future::Future;
use std::pin::Pin;
use tidelock_engine::env::{KvStore, ObjectStore, Outcome, RefusalKind, RowStore};
use tidelock_engine::row::StoreTime;

/// The stores under test, with their clock.
pub trait World: Sync {
    /// Workers KV.
    type Kv: KvStore;
    /// D1.
    type D1: RowStore;
    /// R2.
    type R2: ObjectStore;

    /// Workers KV.
    fn kv(&self) -> &Self::Kv;
    /// D1.
    fn d1(&self) -> &Self::D1;
    /// R2.
    fn r2(&self) -> &Self::R2;
    /// The store side's clock.
    fn now(&self) -> StoreTime;
    /// Ends when at least so much time of the store side has passed.
    fn advance(&self, ms: u64) -> impl Future<Output = ()> + Send;
}

/// A case while it runs.
pub type Running<'a> = Pin<Box<dyn Future<Output = ()> + Send + 'a>>;

/// One thing that a store must do. It panics where the store does otherwise.
pub struct Case<W> {
    /// What is checked, as an identifier.
    pub name: &'static str,
    /// Runs it.
    pub run: for<'a> fn(&'a W) -> Running<'a>,
}

/// The cases for KV.
pub fn kv_cases<W: World>() -> Vec<Case<W>> {
    kv::cases()
}

/// The cases for D1.
pub fn d1_cases<W: World>() -> Vec<Case<W>> {
    d1::cases()
}

/// The cases for R2.
pub fn r2_cases<W: World>() -> Vec<Case<W>> {
    r2::cases()
}

/// Runs every case for KV.
pub async fn check_kv<W: World>(world: &W) {
    check(world, kv_cases()).await;
}

/// Runs every case for D1.
pub async fn check_d1<W: World>(world: &W) {
    check(world, d1_cases()).await;
}

/// Runs every case for R2.
pub async fn check_r2<W: World>(world: &W) {
    check(world, r2_cases()).await;
}

async fn check<W: World>(world: &W, cases: Vec<Case<W>>) {
    for case in cases {
        // A test shows this for the case that panicked last.
        println!("contract: {}", case.name);
        (case.run)(world).await;
    }
}

/// Turns async functions over `&W` into cases named like them.
macro_rules! cases {
    ($($name:ident),+ $(,)?) => {
        pub(super) fn cases<W: World>() -> Vec<Case<W>> {
            vec![$(Case { name: stringify!($name), run: |world| Box::pin($name(world)) }),+]
        }
    };
}
use cases;

/// A write to one key is taken once a second; this is past it.
const NEXT_WRITE_MS: u64 = 1_100;
/// A KV read may be so old. <https://developers.cloudflare.com/kv/concepts/how-kv-works/>
const STALE_MS_MAX: u64 = 60_000;

fn soon<W: World>(world: &W) -> StoreTime {
    StoreTime(world.now().0 + 30_000)
}

#[track_caller]
fn applied<T: std::fmt::Debug>(outcome: Outcome<T>) -> T {
    match outcome {
        Outcome::Applied(value) => value,
        other => panic!("this is applied: {other:?}"),
    }
}

#[track_caller]
fn refused<T: std::fmt::Debug>(outcome: Outcome<T>, kind: RefusalKind) {
    match outcome {
        Outcome::Refused(refusal) if refusal.kind == kind => {
            assert!(!refusal.detail.is_empty(), "a refusal says why");
        }
        other => panic!("this is refused as {kind:?}: {other:?}"),
    }
}
