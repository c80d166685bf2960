//! The node: one coordinator after another on the same journal.
//!
//! ```text
//! Running --journal failed--> Recovering --replayed--> Running
//!    `-- begin_drain: no new writes; what is owed is paid, or waits in the journal
//! ```
//!
//! Invariant: at most one coordinator takes requests, and it was started from replay. While there
//! is none, callers are told to come back.

use crate::coordinator::{Coordinator, Leaving};
use crate::env::{Clock, Env};
use crate::journal::JournalError;
use crate::policy::change::{ChangeError, Changes};
use crate::policy::{Pace, Policy};
use crate::retry;
use crate::version::NodeId;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// Between two looks at what is still owed.
const DRAIN_LOOK: Duration = Duration::from_millis(20);

/// Keeps a coordinator running.
pub struct Node<E: Env> {
    env: E,
    id: NodeId,
    /// What the next coordinator starts with; changed only under the stage's lock.
    policy: Mutex<Arc<Policy>>,
    pace: Pace,
    stage: Mutex<Stage<E>>,
    /// When the coordinator began to take requests (monotonic).
    since: Mutex<Duration>,
    recovering_since: Mutex<Option<Duration>>,
    last_failure: Mutex<Option<Failure>>,
    draining: AtomicBool,
    restarts: AtomicU64,
}

/// A failure of the journal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// When it was noticed (monotonic).
    pub at: Duration,
    /// The journal's words.
    pub why: String,
}

enum Stage<E: Env> {
    Running(Arc<Coordinator<E>>),
    Recovering { why: String },
}

/// Why there is no coordinator to ask.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Away {
    /// The journal failed; a new coordinator is being started from replay.
    Recovering {
        /// The journal's words.
        why: String,
    },
    /// The node is stopping and takes no new writes.
    Draining,
}

/// Why another policy is not in force.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ReloadRefusal {
    /// There is no coordinator to put it in force at.
    Away(Away),
    /// It cannot follow on the one that is in force; every reason.
    Change(Vec<ChangeError>),
}

/// What was still owed when the time to drain was over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Drained {
    /// Nothing.
    Clean,
    /// The journal or the authority's marks keep it for the next start.
    Owing {
        /// Intents that the authority does not hold yet.
        intents: usize,
    },
}

impl<E: Env> Node<E> {
    /// Starts the first coordinator. Its journal's failure is the caller's to report; a later one
    /// is recovered from here.
    pub async fn start(
        env: E,
        id: NodeId,
        policy: Policy,
        pace: Pace,
    ) -> Result<Arc<Self>, JournalError> {
        let first = Coordinator::start(env.clone(), id, policy.clone(), pace.clone()).await?;
        let node = Arc::new(Node {
            env: env.clone(),
            id,
            policy: Mutex::new(Arc::new(policy)),
            pace,
            stage: Mutex::new(Stage::Running(first.clone())),
            since: Mutex::new(env.clock().monotonic()),
            recovering_since: Mutex::new(None),
            last_failure: Mutex::new(None),
            draining: AtomicBool::new(false),
            restarts: AtomicU64::new(0),
        });
        env.spawn(node.clone().supervise(first));
        Ok(node)
    }

    /// The world that it runs in.
    pub fn env(&self) -> &E {
        &self.env
    }

    /// What is kept where.
    pub fn policy(&self) -> Arc<Policy> {
        self.policy.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Puts another policy in force, here and in every coordinator that is started after this one.
    pub fn reload(&self, policy: Policy) -> Result<Changes, ReloadRefusal> {
        // Under this lock no coordinator ends and none begins.
        let stage = self.stage.lock().unwrap_or_else(PoisonError::into_inner);
        let coordinator = match &*stage {
            Stage::Running(coordinator) => coordinator,
            Stage::Recovering { why } => {
                return Err(ReloadRefusal::Away(Away::Recovering { why: why.clone() }));
            }
        };
        let changes = coordinator.reload(policy.clone()).map_err(ReloadRefusal::Change)?;
        *self.policy.lock().unwrap_or_else(PoisonError::into_inner) = Arc::new(policy);
        Ok(changes)
    }

    /// Coordinators started after the first.
    pub fn restarts(&self) -> u64 {
        self.restarts.load(Ordering::Relaxed)
    }

    /// For how long the coordinator has taken requests.
    pub fn age(&self) -> Duration {
        let since = *self.since.lock().unwrap_or_else(PoisonError::into_inner);
        self.env.clock().monotonic().saturating_sub(since)
    }

    /// For how long the journal has been replayed after a failure; `None`: it is not.
    pub fn recovering(&self) -> Option<Duration> {
        let since = *self.recovering_since.lock().unwrap_or_else(PoisonError::into_inner);
        since.map(|since| self.env.clock().monotonic().saturating_sub(since))
    }

    /// The journal's last failure.
    pub fn last_failure(&self) -> Option<Failure> {
        self.last_failure.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// True once it takes no new writes.
    pub fn is_draining(&self) -> bool {
        self.draining.load(Ordering::Relaxed)
    }

    /// The coordinator, for what changes nothing.
    pub fn reader(&self) -> Result<Arc<Coordinator<E>>, Away> {
        match &*self.stage.lock().unwrap_or_else(PoisonError::into_inner) {
            Stage::Running(coordinator) => Ok(coordinator.clone()),
            Stage::Recovering { why } => Err(Away::Recovering { why: why.clone() }),
        }
    }

    /// The coordinator, for a write.
    pub fn writer(&self) -> Result<Arc<Coordinator<E>>, Away> {
        if self.is_draining() { Err(Away::Draining) } else { self.reader() }
    }

    /// Takes no new writes from here on.
    pub fn begin_drain(&self) {
        self.draining.store(true, Ordering::Relaxed);
    }

    /// Takes no new writes from here on, and says how far the coordinator has come with what it
    /// owes. A coordinator that replays the journal meanwhile is as far as it says then.
    pub async fn leave(&self) -> Result<Leaving, Away> {
        self.begin_drain();
        Ok(self.reader()?.leave().await)
    }

    /// Waits until nothing is owed, at most `within`, and stops the coordinator.
    pub async fn drain(&self, within: Duration) -> Drained {
        self.begin_drain();
        let give_up = self.env.clock().monotonic() + within;
        loop {
            let reader = self.reader();
            let idle = reader.as_ref().is_ok_and(|coordinator| coordinator.is_idle());
            if idle || self.env.clock().monotonic() >= give_up {
                let Ok(coordinator) = reader else { return Drained::Owing { intents: 0 } };
                coordinator.stop();
                let intents = coordinator.status().intents;
                return if idle { Drained::Clean } else { Drained::Owing { intents } };
            }
            self.env.clock().sleep(DRAIN_LOOK).await;
        }
    }

    fn enter(&self, stage: Stage<E>) {
        let now = self.env.clock().monotonic();
        let mut recovering = self.recovering_since.lock().unwrap_or_else(PoisonError::into_inner);
        *recovering = match &stage {
            Stage::Running(_) => None,
            // Of all tries.
            Stage::Recovering { .. } => recovering.or(Some(now)),
        };
        drop(recovering);
        match &stage {
            Stage::Running(_) => {
                *self.since.lock().unwrap_or_else(PoisonError::into_inner) = now;
            }
            Stage::Recovering { why } => {
                let failure = Failure { at: now, why: why.clone() };
                let mut last = self.last_failure.lock().unwrap_or_else(PoisonError::into_inner);
                *last = Some(failure);
            }
        }
        *self.stage.lock().unwrap_or_else(PoisonError::into_inner) = stage;
    }

    async fn supervise(self: Arc<Self>, mut running: Arc<Coordinator<E>>) {
        loop {
            let Some(failure) = running.failed().await else { return };
            self.enter(Stage::Recovering { why: failure.to_string() });
            running = self.recover().await;
            self.restarts.fetch_add(1, Ordering::Relaxed);
            tracing::info!(actor = %running.actor(), "replayed the journal; taking requests again");
            self.enter(Stage::Running(running.clone()));
        }
    }

    async fn recover(&self) -> Arc<Coordinator<E>> {
        let mut failures = 1;
        loop {
            let pause = retry::pause(failures, self.env.random()).max(retry::PAUSE_FIRST);
            self.env.clock().sleep(pause).await;
            let (policy, pace) = ((*self.policy()).clone(), self.pace.clone());
            match Coordinator::start(self.env.clone(), self.id, policy, pace).await {
                Ok(coordinator) => return coordinator,
                Err(error) => {
                    tracing::error!(%error, failures, "the journal cannot be replayed yet");
                    self.enter(Stage::Recovering { why: error.to_string() });
                    failures += 1;
                }
            }
        }
    }
}
