//! The simulated network: how messages travel, and how a store serves a call.
//!
//! ```text
//! caller ── request ──> store: accept ──> land ── answer ──> caller
//!            lost?        errors, 429     late?     lost?
//!            late?
//! ```
//!
//! Invariant: a message goes its way whether or not its sender lives to hear of it. While the
//! caller waits, its own task carries the message; when the caller is gone, or has given up, the
//! message goes on outside every process.

use crate::double::Double;
use crate::env::SimEnv;
use crate::streams::Purpose;
use crate::world::{State, World};
use rand::{Rng, RngExt};
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;
use tidelock_engine::coordinator::Coordinator;
use tidelock_engine::env::{PeerMessage, PeerReply};
use tidelock_engine::record::StoreId;
use tidelock_engine::row::LAND_MS_MAX;
use tidelock_engine::version::NodeId;
use tidelock_faults::{Call, End, Fault, Kind, Moment, Place};
use tokio::sync::oneshot;

/// A store call or peer message without an answer after this is given up.
pub const CALL_MS_MAX: u64 = 2_000;

/// What a call to a store ended in, other than its answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lost {
    /// No answer in time.
    Timeout,
    /// 5xx.
    ServerError,
    /// "D1 DB is overloaded".
    Overloaded,
}

/// How a message travels.
enum Transit {
    Lost,
    Arrives { after: Duration },
}

/// How late a request is: it may arrive late, and land late once it was accepted.
#[derive(Clone, Copy, Default)]
struct Lateness {
    arrives: Duration,
    lands: Duration,
}

/// A message on its way.
struct UnderWay<F: Future<Output = ()> + Send + 'static> {
    world: Arc<World>,
    journey: Option<Pin<Box<F>>>,
}

impl<F: Future<Output = ()> + Send + 'static> Future for UnderWay<F> {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        let Some(journey) = &mut self.journey else { return Poll::Ready(()) };
        let polled = journey.as_mut().poll(context);
        if polled.is_ready() {
            self.journey = None;
        }
        polled
    }
}

impl<F: Future<Output = ()> + Send + 'static> Drop for UnderWay<F> {
    fn drop(&mut self) {
        if let Some(journey) = self.journey.take() {
            self.world.spawn(journey);
        }
    }
}

impl World {
    /// Where the stream of a link stands.
    fn link(&self, from: End, to: End) -> usize {
        let nodes = usize::from(self.scenario.nodes);
        let stores = StoreId::ALL.len();
        let place = |end| match end {
            End::Node(node) => usize::from(node),
            End::Store(store) => nodes + store as usize,
            End::Session(session) => nodes + stores + usize::from(session),
        };
        place(from) * (nodes + stores + usize::from(self.scenario.sessions)) + place(to)
    }

    fn transit(&self, state: &mut State, from: End, to: End) -> Transit {
        let now_ms = self.now_ms();
        let jitter = state.links[self.link(from, to)]
            .get_or_insert_with(|| self.streams.open(Purpose::Link, link_number(from, to)))
            .next_u32();
        for kind in [Kind::NetPartition, Kind::NetPartitionOneWay] {
            let cut = self.faults_at(now_ms, kind).any(|fault| match &fault.place {
                Place::Link { from: a, to: b } => {
                    (*a, *b) == (from, to) || (kind == Kind::NetPartition && (*a, *b) == (to, from))
                }
                Place::Everywhere | Place::Store(_) | Place::Disk(_) | Place::Call { .. } => false,
            });
            if cut {
                state.felt(kind);
                return Transit::Lost;
            }
        }
        let here = |fault: &&Fault| match &fault.place {
            Place::Link { from: a, to: b } => (*a, *b) == (from, to) || (*a, *b) == (to, from),
            Place::Everywhere => true,
            Place::Store(_) | Place::Disk(_) | Place::Call { .. } => false,
        };
        let loss = self.faults_at(now_ms, Kind::NetLoss).filter(here).find(|f| self.dice(state, f));
        if loss.is_some() {
            state.felt(Kind::NetLoss);
            return Transit::Lost;
        }
        let (base_us, spread_us) = latency_us(from, to);
        let mut after = Duration::from_micros(base_us + u64::from(jitter) % spread_us);
        let delay =
            self.faults_at(now_ms, Kind::NetDelay).filter(here).find(|f| self.dice(state, f));
        if let Some(fault) = delay {
            state.felt(Kind::NetDelay);
            after += Duration::from_millis(u64::from(jitter >> 8) % (fault.span_ms + 1));
        }
        Transit::Arrives { after }
    }

    /// A message travels; false: it is lost on its way, at once.
    async fn travels(&self, from: End, to: End) -> bool {
        let transit = {
            let mut state = self.state();
            self.transit(&mut state, from, to)
        };
        let Transit::Arrives { after } = transit else { return false };
        self.sleep(after).await;
        self.state().delivered += 1;
        true
    }

    /// A coordinator calls a store. `serve` runs at the store side in two steps: on acceptance it
    /// checks and gives what to do when the request lands.
    pub async fn call<T, L>(
        self: &Arc<Self>,
        node: NodeId,
        store: StoreId,
        call: Call,
        accept: impl FnOnce(&World, &mut State) -> Result<L, T> + Send + 'static,
        land: impl FnOnce(&World, &mut State, L) -> T + Send + 'static,
    ) -> Result<T, Lost>
    where
        T: Send + 'static,
        L: Send + 'static,
    {
        self.crash_point(node, call, Moment::Before).await;
        let (answer, answered) = oneshot::channel();
        let journey = self.clone().serve(node, store, call, accept, land, answer);
        let answer = self.answer_to(journey, answered).await;
        self.crash_point(node, call, Moment::After).await;
        answer
    }

    /// Waits for a message's answer, and carries the message meanwhile.
    async fn answer_to<T>(
        self: &Arc<Self>,
        journey: impl Future<Output = ()> + Send + 'static,
        mut answered: oneshot::Receiver<Result<T, Lost>>,
    ) -> Result<T, Lost> {
        let journey = UnderWay { world: self.clone(), journey: Some(Box::pin(journey)) };
        tokio::pin!(journey);
        let answer = tokio::select! {
            biased;
            answer = &mut answered => answer,
            () = &mut journey => answered.await,
        };
        answer.unwrap_or(Err(Lost::Timeout))
    }

    async fn serve<T, L>(
        self: Arc<Self>,
        node: NodeId,
        store: StoreId,
        call: Call,
        accept: impl FnOnce(&World, &mut State) -> Result<L, T>,
        land: impl FnOnce(&World, &mut State, L) -> T,
        answer: oneshot::Sender<Result<T, Lost>>,
    ) {
        let (here, there) = (End::Node(node.0), End::Store(store));
        let limit = Duration::from_millis(CALL_MS_MAX);
        let begun = self.now();
        let is_write = matches!(call, Call::D1Batch | Call::KvWrite | Call::R2Write);
        let request = {
            let mut state = self.state();
            let transit = self.transit(&mut state, here, there);
            match transit {
                Transit::Lost => {
                    self.note(&mut state, here, "request-lost", Some(there), call as u64, || {
                        format!("{call:?}")
                    });
                    None
                }
                Transit::Arrives { after } => {
                    let late = match self.late_call(&mut state, node, call) {
                        Some(lateness) => lateness,
                        None if is_write => self.late_write(&mut state),
                        None => Lateness::default(),
                    };
                    Some((after, late))
                }
            }
        };
        let Some((after, late)) = request else {
            self.sleep(limit).await;
            let _ = answer.send(Err(Lost::Timeout));
            return;
        };
        let (after, landing) = (after + late.arrives, late.lands);
        let lands_after = after + landing;
        let mut answer = Some(answer);
        let stray = lands_after >= limit;
        if stray {
            self.state().strays += 1;
        }
        if after >= limit {
            self.sleep(limit).await;
            give_up(&mut answer);
            self.sleep(after.saturating_sub(limit)).await;
        } else {
            self.sleep(after).await;
        }
        let accepted = {
            let mut state = self.state();
            state.delivered += 1;
            match self.fails_before(&mut state, store, call) {
                Some(lost) => Err(Err(lost)),
                None => accept(&self, &mut state).map_err(Ok),
            }
        };
        let reply = match accepted {
            Err(reply) => reply,
            Ok(landing_state) => {
                if !landing.is_zero() {
                    self.sleep_answering(begun, landing, limit, &mut answer).await;
                }
                let mut state = self.state();
                let value = land(&self, &mut state, landing_state);
                match self.fails_after(&mut state, store, call) {
                    Some(lost) => Err(lost),
                    None => Ok(value),
                }
            }
        };
        if stray {
            let mut state = self.state();
            state.strays -= 1;
            state.last_stray_ms = self.now_ms();
            state.sometimes.insert("request-landed-after-its-caller-gave-up");
        }
        let Some(answer) = answer else { return };
        let back = {
            let mut state = self.state();
            self.transit(&mut state, there, here)
        };
        let left = (begun + limit).saturating_sub(self.now());
        match back {
            Transit::Arrives { after } if after < left => {
                self.sleep(after).await;
                {
                    let mut state = self.state();
                    state.delivered += 1;
                    let failed = reply.is_err();
                    let digest = (call as u64) * 2 + u64::from(failed);
                    self.note(&mut state, there, "answer", Some(here), digest, || {
                        format!("{call:?}{}", if failed { " failed" } else { "" })
                    });
                }
                let _ = answer.send(reply);
            }
            Transit::Arrives { .. } | Transit::Lost => {
                self.sleep(left).await;
                let _ = answer.send(Err(Lost::Timeout));
            }
        }
    }

    /// Late arrivals that name this call: it arrives, or lands, late by exactly their spans.
    fn late_call(&self, state: &mut State, node: NodeId, call: Call) -> Option<Lateness> {
        let now_ms = self.now_ms();
        let mut late = None;
        for fault in self.faults_at(now_ms, Kind::NetLateArrival) {
            let Place::Call { node: at, call: of, ordinal, moment } = &fault.place else {
                continue;
            };
            if (*at, *of) != (node.0, call) {
                continue;
            }
            let count = state.call_counts.entry(fault.id).or_default();
            *count += 1;
            if *count == *ordinal {
                let late: &mut Lateness = late.get_or_insert_default();
                match moment {
                    Moment::Before => late.arrives += Duration::from_millis(fault.span_ms),
                    Moment::After => late.lands += Duration::from_millis(fault.span_ms),
                }
            }
        }
        if late.is_some() {
            state.felt(Kind::NetLateArrival);
        }
        late
    }

    /// A write that is late by chance: it arrives late, or lands late, or both.
    fn late_write(&self, state: &mut State) -> Lateness {
        let strikes = self.strikes(state, self.now_ms(), Kind::NetLateArrival);
        let Some(fault) = strikes else { return Lateness::default() };
        let choices = self.choices(state, fault.id);
        let how = choices.random_range(0..3);
        let mut late = Lateness::default();
        if how != 1 {
            late.arrives = Duration::from_millis(choices.random_range(0..=fault.span_ms));
        }
        if how != 0 {
            late.lands = Duration::from_millis(choices.random_range(0..LAND_MS_MAX));
        }
        late
    }

    /// Sleeps, and tells the caller at its limit that there is no answer.
    async fn sleep_answering<T>(
        &self,
        begun: Duration,
        sleep: Duration,
        limit: Duration,
        answer: &mut Option<oneshot::Sender<Result<T, Lost>>>,
    ) {
        let left = (begun + limit).saturating_sub(self.now());
        if sleep < left {
            self.sleep(sleep).await;
        } else {
            self.sleep(left).await;
            give_up(answer);
            self.sleep(sleep.saturating_sub(left)).await;
        }
    }

    fn fails_before(&self, state: &mut State, store: StoreId, call: Call) -> Option<Lost> {
        let now_ms = self.now_ms();
        if self.is(Double::SlowToHeal) && now_ms < self.scenario.faults_end_ms() + 10_000 {
            return Some(Lost::ServerError);
        }
        let kind = match store {
            StoreId::Kv => Kind::KvErrorBefore,
            StoreId::D1 => Kind::D1ErrorBefore,
            StoreId::R2 => Kind::R2ErrorBefore,
        };
        if self.strikes(state, now_ms, kind).is_some() {
            return Some(Lost::ServerError);
        }
        if store == StoreId::D1
            && let Some(fault) = self.strikes(state, now_ms, Kind::D1Overloaded)
        {
            // Overload may strike before or after the transaction; "after" is decided on return.
            if call != Call::D1Batch || self.choices(state, fault.id).random_bool(0.5) {
                return Some(Lost::Overloaded);
            }
            state.sometimes.insert("overloaded-d1-applied-all-the-same");
        }
        None
    }

    fn fails_after(&self, state: &mut State, store: StoreId, call: Call) -> Option<Lost> {
        let now_ms = self.now_ms();
        if !matches!(call, Call::D1Batch | Call::KvWrite | Call::R2Write) {
            return None;
        }
        let kind = match store {
            StoreId::Kv => Kind::KvErrorAfter,
            StoreId::D1 => Kind::D1ErrorAfter,
            StoreId::R2 => Kind::R2ErrorAfter,
        };
        if self.strikes(state, now_ms, kind).is_some() {
            return Some(Lost::ServerError);
        }
        None
    }

    /// True when a store's own documented limit strikes now.
    pub fn strikes_store(&self, state: &mut State, kind: Kind) -> bool {
        let now_ms = self.now_ms();
        self.faults_at(now_ms, kind).any(|fault| self.dice(state, fault))
    }

    /// A message to another coordinator, and its answer.
    pub async fn peer(
        self: &Arc<Self>,
        from: NodeId,
        to: NodeId,
        message: PeerMessage,
    ) -> Result<PeerReply, Lost> {
        self.crash_point(from, Call::Peer, Moment::Before).await;
        let (answer, answered) = oneshot::channel();
        let journey = self.clone().tell(from, to, message, answer);
        let answer = self.answer_to(journey, answered).await;
        self.crash_point(from, Call::Peer, Moment::After).await;
        answer
    }

    async fn tell(
        self: Arc<Self>,
        from: NodeId,
        to: NodeId,
        message: PeerMessage,
        answer: oneshot::Sender<Result<PeerReply, Lost>>,
    ) {
        let (here, there) = (End::Node(from.0), End::Node(to.0));
        let limit = Duration::from_millis(CALL_MS_MAX);
        let (transit, twice) = {
            let mut state = self.state();
            let transit = self.transit(&mut state, here, there);
            let twice = self.strikes(&mut state, self.now_ms(), Kind::NetDuplicate).is_some();
            (transit, twice)
        };
        let Transit::Arrives { after } = transit else {
            self.sleep(limit).await;
            let _ = answer.send(Err(Lost::Timeout));
            return;
        };
        self.sleep(after).await;
        let receiver = {
            let mut state = self.state();
            state.delivered += 1;
            self.note(&mut state, here, "news", Some(there), 0, String::new);
            state.processes[usize::from(to.0)].coordinator.clone()
        };
        let Some(receiver) = receiver else {
            let _ = answer.send(Err(Lost::ServerError));
            return;
        };
        let reply = if twice {
            let reply = receiver.receive(message.clone());
            let world = self.clone();
            self.spawn(async move {
                world.sleep(after * 3).await;
                world.state().delivered += 1;
                receiver.receive(message);
            });
            reply
        } else {
            receiver.receive(message)
        };
        if self.travels(there, here).await {
            let _ = answer.send(Ok(reply));
        } else {
            self.sleep(limit.saturating_sub(after)).await;
            let _ = answer.send(Err(Lost::Timeout));
        }
    }

    /// A session asks a coordinator; `ask` runs in its process. `Err(false)`: it was never
    /// reached; `Err(true)`: nobody knows.
    pub async fn ask<T, F>(
        self: &Arc<Self>,
        session: u16,
        node: NodeId,
        ask: impl FnOnce(Arc<Coordinator<SimEnv>>) -> F + Send + 'static,
    ) -> Result<T, bool>
    where
        T: Send + 'static,
        F: Future<Output = T> + Send + 'static,
    {
        let (here, there) = (End::Session(session), End::Node(node.0));
        let limit = Duration::from_millis(2 * CALL_MS_MAX);
        if !self.travels(here, there).await {
            self.sleep(limit).await;
            return Err(true);
        }
        let coordinator = self.state().processes[usize::from(node.0)].coordinator.clone();
        // Nobody listens: the connection is refused.
        let Some(coordinator) = coordinator else { return Err(false) };
        let (answer, answered) = oneshot::channel();
        let asked = ask(coordinator);
        self.spawn_on(node, async move {
            let _ = answer.send(asked.await);
        });
        let answer = tokio::select! {
            biased;
            answer = answered => answer.map_err(|_| true)?,
            () = self.sleep(limit) => return Err(true),
        };
        if self.travels(there, here).await {
            Ok(answer)
        } else {
            self.sleep(Duration::from_millis(CALL_MS_MAX)).await;
            Err(true)
        }
    }
}

fn give_up<T>(answer: &mut Option<oneshot::Sender<Result<T, Lost>>>) {
    if let Some(answer) = answer.take() {
        let _ = answer.send(Err(Lost::Timeout));
    }
}

fn link_number(from: End, to: End) -> u64 {
    let code = |end: End| match end {
        End::Node(node) => u64::from(node),
        End::Store(store) => 0x1_0000 + store as u64,
        End::Session(session) => 0x2_0000 + u64::from(session),
    };
    code(from) << 32 | code(to)
}

/// Base and spread of a one-way trip.
fn latency_us(from: End, to: End) -> (u64, u64) {
    match (from, to) {
        (End::Node(_), End::Node(_)) => (8_000, 40_000),
        (End::Session(_), _) | (_, End::Session(_)) => (1_000, 10_000),
        (End::Store(StoreId::D1), _) | (_, End::Store(StoreId::D1)) => (4_000, 20_000),
        (End::Store(_), _) | (_, End::Store(_)) => (3_000, 25_000),
    }
}
