//! The contract suite over the simulated stores, in virtual time: the world in which the engine
//! is tested does what the services document.
#![cfg(madsim)]

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;
use tidelock_engine::env::Storage;
use tidelock_engine::record::StoreId;
use tidelock_engine::row::StoreTime;
use tidelock_engine::version::NodeId;
use tidelock_faults::{Kind, Place};
use tidelock_sim::contract::{World, check_d1, check_kv, check_r2};
use tidelock_sim::env::{SimEnv, SimR2};
use tidelock_sim::scenario::Scenario;

struct Simulated {
    world: Arc<tidelock_sim::world::World>,
    env: SimEnv,
}

impl World for Simulated {
    type Kv = SimEnv;
    type D1 = SimEnv;
    type R2 = SimR2;

    fn kv(&self) -> &SimEnv {
        self.env.kv()
    }
    fn d1(&self) -> &SimEnv {
        self.env.d1()
    }
    fn r2(&self) -> &SimR2 {
        self.env.r2()
    }
    fn now(&self) -> StoreTime {
        self.world.store_time()
    }
    async fn advance(&self, ms: u64) {
        madsim::time::sleep(Duration::from_millis(ms)).await;
    }
}

/// A world without faults, in which the documented limit of one write a second holds always.
fn in_a_world<F: Future<Output = ()>>(check: impl FnOnce(Simulated) -> F) {
    let always = 0..u64::MAX;
    let scenario = Scenario::still(1)
        .fault(Kind::KvRateLimit, Place::Store(StoreId::Kv), always.clone(), 0)
        .fault(Kind::R2RateLimit, Place::Store(StoreId::R2), always, 0);
    let config = madsim::Config::default();
    let runtime = madsim::runtime::Runtime::with_seed_and_config(0, config);
    runtime.block_on(async move {
        let world = tidelock_sim::world::World::new(scenario, None, false);
        let env = SimEnv::new(world.clone(), NodeId(0), 1);
        check(Simulated { world, env }).await;
    });
}

#[test]
fn kv() {
    in_a_world(|stores| async move { check_kv(&stores).await });
}

#[test]
fn d1() {
    in_a_world(|stores| async move { check_d1(&stores).await });
}

#[test]
fn r2() {
    in_a_world(|stores| async move { check_r2(&stores).await });
}
