//! The real world behind the engine's door: the machine's clocks, its randomness, the tokio
//! runtime, stores and journal on this disk, and other coordinators over HTTP.

use super::embedded::{BindError, Embedded, EmbeddedD1, EmbeddedKv, EmbeddedR2, OpenError};
use super::journal::DiskJournal;
use super::peers::{HttpPeers, PeerNetwork};
use crate::env::{Clock, Env, Storage};
use crate::policy::Policy;
use crate::row::StoreTime;
use std::future::Future;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use tokio::runtime::Handle;

/// One process in front of embedded stores.
#[derive(Clone, Debug)]
pub struct ProductionEnv(Arc<World>);

#[derive(Debug)]
struct World {
    clock: MachineClock,
    network: PeerNetwork,
    storage: DiskStorage,
    runtime: Handle,
}

impl ProductionEnv {
    /// Opens the stores of a folder beside a journal that is open already. Called on the runtime
    /// that is to run the engine's tasks.
    pub fn open(
        folder: &Path,
        journal: DiskJournal,
        peers: Arc<HttpPeers>,
    ) -> Result<Self, OpenError> {
        let store_clock = Arc::new(|| StoreTime(milliseconds(wall())));
        let stores = Embedded::open(&folder.join("stores"), store_clock)?;
        Ok(ProductionEnv(Arc::new(World {
            clock: MachineClock { started: Instant::now() },
            network: PeerNetwork(peers),
            storage: DiskStorage { stores, journal },
            runtime: Handle::current(),
        })))
    }
}

impl ProductionEnv {
    /// Reads the columns of a policy's structured datasets from D1, and sets their tables under
    /// watch. An error names dataset, table or field, and says what to do.
    pub async fn bind(&self, mut policy: Policy) -> Result<Policy, BindError> {
        let schemas = self.0.storage.stores.d1.bind(&policy).await?;
        for (name, schema) in schemas {
            let dataset = policy.datasets.get_mut(&name).expect("it is the policy's own");
            dataset.table.as_mut().expect("a schema is that of a table").schema = Some(schema);
        }
        Ok(policy)
    }
}

impl Env for ProductionEnv {
    type Clock = MachineClock;
    type Network = PeerNetwork;
    type Storage = DiskStorage;

    fn clock(&self) -> &MachineClock {
        &self.0.clock
    }

    fn network(&self) -> &PeerNetwork {
        &self.0.network
    }

    fn storage(&self) -> &DiskStorage {
        &self.0.storage
    }

    fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        let running = self.0.runtime.spawn(task);
        self.0.runtime.spawn(async move {
            if let Err(ended) = running.await
                && ended.is_panic()
            {
                // A lane that is gone would leave its store behind for ever. What was
                // acknowledged is in the journal, and the next start pays it.
                tracing::error!("a task of the engine ended by a defect; stopping the process");
                std::process::exit(1);
            }
        });
    }

    fn random(&self) -> u64 {
        rand::random()
    }

    fn hash_seed(&self) -> u64 {
        rand::random()
    }
}

/// The machine's clocks.
#[derive(Debug)]
pub struct MachineClock {
    started: Instant,
}

impl Clock for MachineClock {
    fn wall(&self) -> Duration {
        wall()
    }

    fn monotonic(&self) -> Duration {
        self.started.elapsed()
    }

    async fn sleep(&self, duration: Duration) {
        tokio::time::sleep(duration).await;
    }
}

fn wall() -> Duration {
    // A clock before 1970 reads as 1970; stamps are ties' business only.
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

fn milliseconds(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

/// Stores and journal in one folder.
#[derive(Debug)]
pub struct DiskStorage {
    stores: Embedded,
    journal: DiskJournal,
}

impl Storage for DiskStorage {
    type Kv = EmbeddedKv;
    type D1 = EmbeddedD1;
    type R2 = EmbeddedR2;
    type Journal = DiskJournal;

    fn kv(&self) -> &EmbeddedKv {
        &self.stores.kv
    }

    fn d1(&self) -> &EmbeddedD1 {
        &self.stores.d1
    }

    fn r2(&self) -> &EmbeddedR2 {
        &self.stores.r2
    }

    fn journal(&self) -> &DiskJournal {
        &self.journal
    }
}
