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
use rand::seq::SliceRandom;
use rand::{Rng, RngExt};
use std::future::Future;
use std::ops::Range;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::Duration;
use tidelock_engine::coordinator::Coordinator;
use tidelock_engine::env::{FeedPage, PeerMessage, PeerReply};
use tidelock_engine::record::StoreId;
use tidelock_engine::row::LAND_MS_MAX;
use tidelock_engine::version::{NodeId, SiteId, VersionVector};
use tidelock_faults::{Call, End, Fault, Kind, Moment, Place};
use tokio::sync::{Notify, oneshot};

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
    /// The connection is gone, before any answer came over it.
    Connection,
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

/// What a call ended in, for its caller.
type Ended<T> = Result<T, Lost>;

/// Where the answer to a message is put. A message that its caller carries needs to wake nobody:
/// only its own journey puts the answer there.
struct AnswerTo<T> {
    slot: Arc<Mutex<Option<Ended<T>>>>,
    wake: Option<Arc<Notify>>,
}

impl<T> AnswerTo<T> {
    fn send(self, answer: Ended<T>) {
        *self.slot.lock().expect("no code panics while it holds an answer") = Some(answer);
        if let Some(wake) = self.wake {
            wake.notify_one();
        }
    }
}

/// A message on its way.
struct UnderWay<T> {
    world: Arc<World>,
    journey: Option<Journey>,
    answer: Arc<Mutex<Option<Ended<T>>>>,
}

/// Who carries a message.
enum Journey {
    /// Whoever waits for its answer.
    Carried(Carried),
    /// It goes on outside every process, since its sender may stand still meanwhile.
    Outside(Carried),
}

type Carried = Pin<Box<dyn Future<Output = ()> + Send>>;

impl<T> UnderWay<T> {
    fn new(
        world: &Arc<World>,
        sender: NodeId,
        journey: impl FnOnce(AnswerTo<T>) -> Carried,
    ) -> Self {
        let answer = Arc::new(Mutex::new(None));
        let wake = world.may_pause(sender).then(Arc::<Notify>::default);
        let journey = journey(AnswerTo { slot: answer.clone(), wake: wake.clone() });
        let journey = match wake {
            None => Journey::Carried(journey),
            Some(wake) => {
                world.spawn(journey);
                Journey::Outside(Box::pin(async move { wake.notified().await }))
            }
        };
        UnderWay { world: world.clone(), journey: Some(journey), answer }
    }
}

impl<T> Future for UnderWay<T> {
    type Output = Ended<T>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let arrived = match &mut self.journey {
            Some(Journey::Carried(journey) | Journey::Outside(journey)) => {
                journey.as_mut().poll(context).is_ready()
            }
            None => true,
        };
        if arrived {
            self.journey = None;
        }
        match self.answer.lock().expect("no code panics while it holds an answer").take() {
            Some(answer) => Poll::Ready(answer),
            None if arrived => Poll::Ready(Err(Lost::Timeout)),
            None => Poll::Pending,
        }
    }
}

impl<T> Drop for UnderWay<T> {
    fn drop(&mut self) {
        if let Some(Journey::Carried(journey)) = self.journey.take() {
            self.world.spawn(journey);
        }
    }
}

/// A request at the store side, whatever it asks for: how it travels does not depend on that.
trait Request: Send {
    /// Arrives and is checked. False: that was all, it is refused.
    fn accept(&mut self, world: &World, state: &mut State) -> bool;
    /// Happens.
    fn land(&mut self, world: &World, state: &mut State);
    /// Tells the caller how it ended; the first to tell is heard.
    fn tell(&mut self, ended: Ended<()>);
}

/// A request as its caller made it.
struct Asked<T, L, A, D> {
    accept: Option<A>,
    land: Option<D>,
    landing: Option<L>,
    answer: Option<T>,
    to: Option<AnswerTo<T>>,
}

impl<T, L, A, D> Request for Asked<T, L, A, D>
where
    T: Send,
    L: Send,
    A: FnOnce(&World, &mut State) -> Result<L, T> + Send,
    D: FnOnce(&World, &mut State, L) -> T + Send,
{
    fn accept(&mut self, world: &World, state: &mut State) -> bool {
        let accept = self.accept.take().expect("a request arrives once");
        match accept(world, state) {
            Ok(landing) => self.landing = Some(landing),
            Err(answer) => self.answer = Some(answer),
        }
        self.landing.is_some()
    }

    fn land(&mut self, world: &World, state: &mut State) {
        let land = self.land.take().expect("a request lands once");
        let landing = self.landing.take().expect("it was accepted");
        self.answer = Some(land(world, state, landing));
    }

    fn tell(&mut self, ended: Ended<()>) {
        let Some(to) = self.to.take() else { return };
        to.send(ended.map(|()| self.answer.take().expect("it was refused, or it landed")));
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
        place(from) * (nodes + stores + usize::from(self.scenario.sessions) + 1) + place(to)
    }

    fn transit(&self, state: &mut State, from: End, to: End) -> Transit {
        let jitter = state.links[self.link(from, to)]
            .get_or_insert_with(|| self.streams.open(Purpose::Link, link_number(from, to)))
            .next_u32();
        if let Some(kind) = self.cut_by(from, to) {
            state.felt(kind);
            return Transit::Lost;
        }
        let here = |fault: &&Fault| match &fault.place {
            Place::Everywhere => true,
            place => is_on(place, from, to) || is_on(place, to, from),
        };
        let loss = self.faults(Kind::NetLoss).filter(here).find(|f| self.dice(state, f));
        if loss.is_some() {
            state.felt(Kind::NetLoss);
            return Transit::Lost;
        }
        let (base_us, spread_us) = latency_us(from, to);
        let mut after = Duration::from_micros(base_us + u64::from(jitter) % spread_us);
        let delay = self.faults(Kind::NetDelay).filter(here).find(|f| self.dice(state, f));
        if let Some(fault) = delay {
            state.felt(Kind::NetDelay);
            after += Duration::from_millis(u64::from(jitter >> 8) % (fault.span_ms + 1));
        }
        Transit::Arrives { after }
    }

    /// What cuts a link now.
    fn cut_by(&self, from: End, to: End) -> Option<Kind> {
        let along = |fault: &Fault| is_on(&fault.place, from, to);
        let across = |fault: &Fault| along(fault) || is_on(&fault.place, to, from);
        if self.faults(Kind::NetPartition).any(across) {
            return Some(Kind::NetPartition);
        }
        if self.faults(Kind::NetPartitionOneWay).any(along) {
            return Some(Kind::NetPartitionOneWay);
        }
        let there = |fault: &Fault| {
            let past_ms = self.now_ms() - fault.from_ms;
            (past_ms / fault.span_ms.max(1)).is_multiple_of(2)
        };
        if self.faults(Kind::NetFlapping).any(|fault| across(fault) && there(fault)) {
            return Some(Kind::NetFlapping);
        }
        let swizzled = |cut: &Cut| {
            let cut_off = End::Node(cut.node);
            (from == cut_off || to == cut_off) && cut.during_ms.contains(&self.now_ms())
        };
        self.swizzled.iter().any(swizzled).then_some(Kind::NetSwizzled)
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
        self.breaker_passed(node, store, call);
        let (accept, land) = (Some(accept), Some(land));
        let world = self.clone();
        let answer = UnderWay::new(self, node, |to| {
            let asked = Asked { accept, land, landing: None, answer: None, to: Some(to) };
            Box::pin(world.serve(node, store, call, Box::new(asked)))
        });
        let answer = answer.await;
        self.breaker_heard(node, store);
        self.crash_point(node, call, Moment::After).await;
        answer
    }

    async fn serve(
        self: Arc<Self>,
        node: NodeId,
        store: StoreId,
        call: Call,
        mut request: Box<dyn Request>,
    ) {
        let (here, there) = (End::Node(node.0), End::Store(store));
        let site = self.scenario.site_of(node);
        let limit = Duration::from_millis(CALL_MS_MAX);
        let begun = self.now();
        let sent = {
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
                    let late = self.lateness(&mut state, node, call, Kind::NetLateArrival);
                    let mut late = late.unwrap_or_default();
                    let severed = self.lateness(&mut state, node, call, Kind::NetConnectionLost);
                    if let Some(severed) = severed {
                        late.arrives += severed.arrives;
                        late.lands += severed.lands;
                    }
                    late.arrives += self.stalled_for(&mut state, node, store, after + late.arrives);
                    let severed = severed.is_some().then_some(after);
                    let stray = severed.is_some() || after + late.arrives + late.lands >= limit;
                    state.strays += u32::from(stray);
                    Some((after + late.arrives, late.lands, stray, severed))
                }
            }
        };
        let Some((mut after, landing, stray, severed)) = sent else {
            self.sleep(limit).await;
            request.tell(Err(Lost::Timeout));
            return;
        };
        if let Some(at) = severed {
            self.sleep(at).await;
            request.tell(Err(Lost::Connection));
            after -= at;
        }
        if !after.is_zero() {
            self.sleep_telling(begun, after, limit, &mut *request).await;
        }
        let ended = {
            let mut state = self.state();
            state.delivered += 1;
            match self.fails_before(&mut state, site, store, call) {
                Some(lost) => Some(Err(lost)),
                None if !request.accept(&self, &mut state) => Some(Ok(())),
                None if landing.is_zero() => {
                    Some(self.land(&mut state, site, store, call, &mut *request))
                }
                None => None,
            }
        };
        let ended = match ended {
            Some(ended) => ended,
            None => {
                self.sleep_telling(begun, landing, limit, &mut *request).await;
                self.land(&mut self.state(), site, store, call, &mut *request)
            }
        };
        let left = (begun + limit).saturating_sub(self.now());
        let back = {
            let mut state = self.state();
            if stray {
                state.strays -= 1;
                state.last_stray_ms = self.now_ms();
                state.sometimes.insert("request-landed-after-its-caller-gave-up");
            }
            if left.is_zero() || severed.is_some() {
                return;
            }
            self.transit(&mut state, there, here)
        };
        match back {
            Transit::Arrives { after } if after < left => {
                self.sleep(after).await;
                let mut state = self.state();
                state.delivered += 1;
                let failed = ended.is_err();
                let digest = (call as u64) * 2 + u64::from(failed);
                self.note(&mut state, there, "answer", Some(here), digest, || {
                    format!("{call:?}{}", if failed { " failed" } else { "" })
                });
                drop(state);
                request.tell(ended);
            }
            Transit::Arrives { .. } | Transit::Lost => {
                self.sleep(left).await;
                request.tell(Err(Lost::Timeout));
            }
        }
    }

    fn land(
        &self,
        state: &mut State,
        site: SiteId,
        store: StoreId,
        call: Call,
        request: &mut dyn Request,
    ) -> Ended<()> {
        request.land(self, state);
        self.fails_after(state, site, store, call).map_or(Ok(()), Err)
    }

    /// How much longer a store that has stalled lets a request wait that arrives after `after`.
    fn stalled_for(
        &self,
        state: &mut State,
        node: NodeId,
        store: StoreId,
        after: Duration,
    ) -> Duration {
        if store != StoreId::D1 {
            return Duration::ZERO;
        }
        let site = self.scenario.site_of(node);
        let here = |fault: &&Fault| match fault.place {
            Place::StoreAt { site: at, .. } => at == site.0,
            _ => true,
        };
        let faults = self.all_faults(Kind::D1Stall);
        let arrives_ms = if faults.is_empty() { 0 } else { self.now_ms() + millis(after) };
        let ends_ms = faults.iter().filter(here).filter(|f| f.holds_at(arrives_ms));
        let ends_ms = ends_ms.map(|fault| fault.until_ms).max();
        let Some(ends_ms) = ends_ms else { return Duration::ZERO };
        state.felt(Kind::D1Stall);
        Duration::from_millis(ends_ms - arrives_ms)
    }

    /// How late a call is by faults of this kind; `None`: none strikes.
    fn lateness(
        &self,
        state: &mut State,
        node: NodeId,
        call: Call,
        kind: Kind,
    ) -> Option<Lateness> {
        if self.all_faults(kind).is_empty() {
            return None;
        }
        self.late_call(state, node, call, kind).or_else(|| {
            let by_chance = is_write(call);
            by_chance.then(|| self.late_write(state, self.scenario.site_of(node), kind)).flatten()
        })
    }

    /// Faults that name this call: it arrives, or lands, late by exactly their spans.
    fn late_call(
        &self,
        state: &mut State,
        node: NodeId,
        call: Call,
        kind: Kind,
    ) -> Option<Lateness> {
        let mut late = None;
        for fault in self.faults(kind) {
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
            state.felt(kind);
        }
        late
    }

    /// A write that is late by chance: it arrives late, or lands late, or both.
    fn late_write(&self, state: &mut State, site: SiteId, kind: Kind) -> Option<Lateness> {
        let fault = self.strikes(state, site, kind)?;
        let choices = self.choices(state, fault.id);
        let how = choices.random_range(0..3);
        let mut late = Lateness::default();
        if how != 1 {
            late.arrives = Duration::from_millis(choices.random_range(0..=fault.span_ms));
        }
        if how != 0 {
            late.lands = Duration::from_millis(choices.random_range(0..LAND_MS_MAX));
        }
        Some(late)
    }

    /// Sleeps, and tells the caller at its limit that there is no answer.
    async fn sleep_telling(
        &self,
        begun: Duration,
        sleep: Duration,
        limit: Duration,
        request: &mut dyn Request,
    ) {
        let left = (begun + limit).saturating_sub(self.now());
        if sleep < left {
            self.sleep(sleep).await;
        } else {
            self.sleep(left).await;
            request.tell(Err(Lost::Timeout));
            self.sleep(sleep.saturating_sub(left)).await;
        }
    }

    fn fails_before(
        &self,
        state: &mut State,
        site: SiteId,
        store: StoreId,
        call: Call,
    ) -> Option<Lost> {
        if self.is(Double::SlowToHeal) && self.now_ms() < self.scenario.faults_end_ms() + 10_000 {
            return Some(Lost::ServerError);
        }
        let kind = match store {
            StoreId::Kv => Kind::KvErrorBefore,
            StoreId::D1 => Kind::D1ErrorBefore,
            StoreId::R2 => Kind::R2ErrorBefore,
        };
        if self.strikes(state, site, kind).is_some() {
            return Some(Lost::ServerError);
        }
        if store == StoreId::D1
            && let Some(fault) = self.strikes(state, site, Kind::D1Overloaded)
        {
            // Overload may strike before or after the transaction; "after" is decided on return.
            if call != Call::D1Batch || self.choices(state, fault.id).random_bool(0.5) {
                return Some(Lost::Overloaded);
            }
            state.sometimes.insert("overloaded-d1-applied-all-the-same");
        }
        None
    }

    fn fails_after(
        &self,
        state: &mut State,
        site: SiteId,
        store: StoreId,
        call: Call,
    ) -> Option<Lost> {
        if !is_write(call) {
            return None;
        }
        let kind = match store {
            StoreId::Kv => Kind::KvErrorAfter,
            StoreId::D1 => Kind::D1ErrorAfter,
            StoreId::R2 => Kind::R2ErrorAfter,
        };
        if self.strikes(state, site, kind).is_some() {
            return Some(Lost::ServerError);
        }
        None
    }

    /// True when a store's own documented limit strikes now.
    pub fn strikes_store(&self, state: &mut State, site: SiteId, kind: Kind) -> bool {
        let here = |fault: &&Fault| match fault.place {
            Place::StoreAt { site: at, .. } => at == site.0,
            _ => true,
        };
        self.faults(kind).filter(here).any(|fault| self.dice(state, fault))
    }

    /// A message to another coordinator, and its answer.
    pub async fn peer(
        self: &Arc<Self>,
        from: NodeId,
        to: NodeId,
        message: PeerMessage,
    ) -> Result<PeerReply, Lost> {
        self.crash_point(from, Call::Peer, Moment::Before).await;
        let world = self.clone();
        let answer =
            UnderWay::new(self, from, |answer| Box::pin(world.tell(from, to, message, answer)));
        let answer = answer.await;
        self.crash_point(from, Call::Peer, Moment::After).await;
        answer
    }

    async fn tell(
        self: Arc<Self>,
        from: NodeId,
        to: NodeId,
        message: PeerMessage,
        answer: AnswerTo<PeerReply>,
    ) {
        let (here, there) = (End::Node(from.0), End::Node(to.0));
        let limit = Duration::from_millis(CALL_MS_MAX);
        let (transit, twice) = {
            let mut state = self.state();
            let transit = self.transit(&mut state, here, there);
            let site = self.scenario.site_of(from);
            let twice = self.strikes(&mut state, site, Kind::NetDuplicate).is_some();
            (transit, twice)
        };
        let Transit::Arrives { after } = transit else {
            self.sleep(limit).await;
            answer.send(Err(Lost::Timeout));
            return;
        };
        self.sleep(after).await;
        let mut after = after;
        if let Some(wait) = self.resumes_in(to) {
            // The message waits at the receiver until that goes on.
            let left = limit.saturating_sub(after);
            if wait >= left {
                self.sleep(left).await;
                answer.send(Err(Lost::Timeout));
                self.sleep(wait - left).await;
                let receiver = self.state().processes[usize::from(to.0)].coordinator.clone();
                if let Some(receiver) = receiver {
                    self.spawn_on(to, async move { drop(receiver.receive(message).await) });
                }
                return;
            }
            self.sleep(wait).await;
            after += wait;
        }
        let receiver = {
            let mut state = self.state();
            state.delivered += 1;
            let word = match &message {
                PeerMessage::Installed(_) => "news",
                PeerMessage::Hint(_) => "hint",
                PeerMessage::Changes { .. } => "asks-changes",
                PeerMessage::Fetch(_) => "fetches",
                PeerMessage::Keep(_) => "asks-to-keep",
                PeerMessage::Roots => "asks-roots",
                PeerMessage::Children { .. } => "asks-children",
                PeerMessage::Leaves { .. } => "asks-leaves",
            };
            self.note(&mut state, here, word, Some(there), 0, String::new);
            state.processes[usize::from(to.0)].coordinator.clone()
        };
        let Some(receiver) = receiver else {
            answer.send(Err(Lost::ServerError));
            return;
        };
        if twice {
            let (world, receiver, message) = (self.clone(), receiver.clone(), message.clone());
            self.spawn(async move {
                world.sleep(after * 3).await;
                world.state().delivered += 1;
                world.spawn_on(to, async move { drop(receiver.receive(message).await) });
            });
        }
        let reply = match message {
            // Heard in a moment: no task is needed for it.
            PeerMessage::Installed(_) | PeerMessage::Hint(_) => receiver.receive(message).await,
            PeerMessage::Changes { after, .. } if self.is(Double::FeedHidden) => {
                PeerReply::Changes(FeedPage {
                    changes: Vec::new(),
                    complete: true,
                    head: after,
                    settled: VersionVector::new(),
                })
            }
            // Answered from memory.
            PeerMessage::Roots | PeerMessage::Children { .. } => receiver.receive(message).await,
            PeerMessage::Changes { .. }
            | PeerMessage::Fetch(_)
            | PeerMessage::Leaves { .. }
            | PeerMessage::Keep(_) => {
                let (reply, replied) = oneshot::channel();
                let heard = async move { drop(reply.send(receiver.receive(message).await)) };
                self.spawn_on(to, heard);
                let within = limit.saturating_sub(after);
                let replied = tokio::select! {
                    biased;
                    replied = replied => replied.ok(),
                    () = self.sleep(within) => None,
                };
                let Some(mut reply) = replied else {
                    answer.send(Err(Lost::Timeout));
                    return;
                };
                if self.is(Double::FeedSkips)
                    && let PeerReply::Changes(page) = &mut reply
                {
                    page.changes.retain(|change| !change.seq.0.is_multiple_of(3));
                }
                reply
            }
        };
        if self.travels(there, here).await {
            answer.send(Ok(reply));
        } else {
            self.sleep(limit.saturating_sub(after)).await;
            answer.send(Err(Lost::Timeout));
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
        // Boxed: the runtime moves a task about before it runs, and a write's is large.
        self.spawn_on(
            node,
            Box::pin(async move {
                let _ = answer.send(asked.await);
            }),
        );
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

/// True when a fault's place is the way from one end to another.
fn is_on(place: &Place, from: End, to: End) -> bool {
    matches!(place, Place::Link { from: a, to: b } if (*a, *b) == (from, to))
}

/// A coordinator that is cut off from everything for a while.
pub(crate) struct Cut {
    node: u16,
    during_ms: Range<u64>,
}

/// When each coordinator is cut off by a swizzled partition: one by one, in the window's first
/// half; they are healed one by one, in another order, in its second.
pub(crate) fn swizzle(fault: &Fault, nodes: u16, rng: &mut impl Rng) -> Vec<Cut> {
    let mut cut: Vec<u16> = (0..nodes).collect();
    cut.shuffle(rng);
    let mut healed = cut.clone();
    healed.shuffle(rng);
    let step_ms = (fault.until_ms - fault.from_ms) / 2 / u64::from(nodes);
    let half_ms = step_ms * u64::from(nodes);
    let nth = |order: &[u16], node: u16| order.iter().position(|n| *n == node).unwrap_or(0) as u64;
    (0..nodes)
        .map(|node| {
            let from_ms = fault.from_ms + nth(&cut, node) * step_ms;
            let until_ms = fault.from_ms + half_ms + (nth(&healed, node) + 1) * step_ms;
            Cut { node, during_ms: from_ms..until_ms }
        })
        .collect()
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).expect("runs are short")
}

fn is_write(call: Call) -> bool {
    matches!(call, Call::D1Batch | Call::KvWrite | Call::R2Write)
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
