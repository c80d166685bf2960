//! One run: a scenario from its first operation to the verdict.
//!
//! ```text
//! sessions ──────────────────┐
//! faults  ────────────┐      │
//! 0 s                 healed │ ── recovery ── quiescence ── verdict
//! ```
//!
//! Invariant: a run is decided by its scenario. Nothing of a former run on the same thread, and
//! nothing of the process, reaches it.

mod session;
mod stopwatch;

pub(crate) use session::{write, write_foreign};

use crate::checker::{Awaited, Fate, Invariant, Told, Violation, is_readable};
use crate::disk::Landing;
use crate::double::Double;
use crate::env::SimEnv;
use crate::scenario::{Profile, Scenario};
use crate::trace::Event;
use crate::world::{Felt, State, Stores, World};
use session::session_loop;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;
use stopwatch::{RECOVERY_GIVEN_UP_MS, Recovered, recover};
use tidelock_engine::blob;
use tidelock_engine::coordinator::{Coordinator, Counters};
use tidelock_engine::journal::JournalError;
use tidelock_engine::policy::Pace;
use tidelock_engine::record::{RecordId, StoreId, Stored};
use tidelock_engine::version::{ContentHash, NodeId, SiteId};
use tidelock_faults::{End, Kind};

/// Between two looks for blobs that nothing refers to; a run is short.
const BLOBS_EVERY: Duration = Duration::from_secs(10);
/// They are left for so long.
const BLOBS_REST: Duration = Duration::from_secs(5);
/// Recovery must be over within this.
pub const RECOVERY_MS_MAX: u64 = 5_000;
/// After recovery the run goes on so long, to see that it stays recovered.
const QUIET_MS: u64 = 6_000;
/// After the last expiry the run goes on so long, to see that everything of it is gone.
const EXPIRED_WITHIN_MS: u64 = 6_000;
/// Copies that one look over what is recent reads: less than there are, so that it takes several.
const RECENT_VALUES: usize = 24;

/// What a run showed.
#[derive(Clone, Debug, Default)]
pub struct Outcome {
    /// What was broken, in order.
    pub violations: Vec<Violation>,
    /// How often each invariant was held against something.
    pub checked: BTreeMap<Invariant, u64>,
    /// Of every event.
    pub trace_hash: String,
    /// The events, if they were asked for.
    pub events: Vec<Event>,
    /// How many there were.
    pub event_count: u64,
    /// Virtual length.
    pub virtual_ms: u64,
    /// When the last fault ended.
    pub healed_ms: Option<u64>,
    /// From then to recovery.
    pub recovery_ms: Option<u64>,
    /// What that waited for.
    pub recovery_waited_for: Option<Awaited>,
    /// Writes that sessions asked for.
    pub attempted: u64,
    /// Told that they will not be lost.
    pub acknowledged: u64,
    /// Told that they did not happen.
    pub refused: u64,
    /// Told that nobody knows.
    pub unknown: u64,
    /// Acknowledged, and nowhere.
    pub lost: u64,
    /// Acknowledged without a promise to survive a disk's loss, and lost with a disk.
    pub excused: u64,
    /// Values kept as losers.
    pub conflicts: u64,
    /// Messages that arrived.
    pub delivered: u64,
    /// By kind.
    pub faults: BTreeMap<Kind, Felt>,
    /// Situations that were reached.
    pub sometimes: BTreeSet<&'static str>,
    /// Each write's fate, for the failure page.
    pub fates: Vec<WriteFate>,
}

/// What became of one write.
#[derive(Clone, Debug)]
pub struct WriteFate {
    /// Its operation.
    pub id: u32,
    /// When it was asked for.
    pub at_ms: u64,
    /// By whom.
    pub session: u16,
    /// Of what.
    pub record: RecordId,
    /// What its session was told.
    pub told: Told,
    /// Where it is, if it was acknowledged.
    pub fate: Option<Fate>,
}

/// Runs a scenario on this thread. `keep` asks for the events and fates as well.
pub fn run(scenario: &Scenario, double: Option<Double>, keep: bool) -> Outcome {
    let config = madsim::Config::default();
    let runtime = madsim::runtime::Runtime::with_seed_and_config(scenario.seed, config);
    let scenario = scenario.clone();
    runtime.block_on(async move {
        let world = World::new(scenario, double, keep);
        let mut outcome = drive(&world, keep).await;
        if scenario_replays(&world, &outcome) {
            replay_again(&world, &mut outcome).await;
        }
        take_apart(&world).await;
        outcome
    })
}

/// Every fourth run that broke nothing ends with one more start of a coordinator.
fn scenario_replays(world: &World, outcome: &Outcome) -> bool {
    outcome.violations.is_empty() && world.scenario.seed.is_multiple_of(4)
}

/// A coordinator starts once more, from a journal that holds a part of all that it ever held, up to
/// the end: at the authority that must change nothing.
async fn replay_again(world: &Arc<World>, outcome: &mut Outcome) {
    let nodes = u64::from(world.scenario.nodes);
    let number = (world.scenario.seed / 4 % nodes) as u16;
    let node = NodeId(number);
    if world.is_gone(node) {
        return;
    }
    let held = |world: &World| {
        let state = world.state();
        let rows = state.sites.iter().enumerate().flat_map(|(site, stores)| {
            stores.d1.rows().iter().map(move |(record, row)| {
                let held = (row.version.clone(), row.value.clone(), row.row_seq);
                ((site, record.clone()), held)
            })
        });
        rows.collect::<BTreeMap<_, _>>()
    };
    let before = held(world);
    world.crash(node, Duration::from_millis(50), Landing::Whole);
    let replayed = world.resurrect_intents(node);
    let give_up_ms = world.now_ms() + RECOVERY_GIVEN_UP_MS;
    loop {
        madsim::time::sleep(Duration::from_millis(250)).await;
        let state = world.state();
        let coordinator = state.processes[usize::from(number)].coordinator.clone();
        drop(state);
        let status = coordinator.map(|coordinator| coordinator.status());
        let done = status.is_some_and(|status| status.ledger_complete && status.intents == 0);
        if done || world.now_ms() > give_up_ms {
            break;
        }
    }
    // Whatever was sent has landed.
    madsim::time::sleep(Duration::from_millis(500)).await;
    crate::audit::wait_until_logged(world).await;
    let after = held(world);
    let mut records = before.keys().chain(after.keys());
    let changed = records.find(|record| match (before.get(record), after.get(record)) {
        // Coordinators reap meanwhile.
        (Some((Some(version), ..)), None) => !version.current().deleted,
        (before, after) => before != after,
    });
    let now_ms = world.now_ms();
    let mut state = world.state();
    crate::audit::check(world, &mut state);
    match changed {
        None => state.checker.passed(Invariant::IdempotentReplay),
        Some((_, record)) => {
            let message = format!(
                "coordinator {number} replayed {replayed} intents that were settled, and the \
                 authority's {record} changed"
            );
            state.checker.report(Invariant::IdempotentReplay, now_ms, message);
        }
    }
    outcome.violations = state.checker.violations().to_vec();
    outcome.checked = state.checker.checked();
}

/// A stopped coordinator's tasks hold it, and it holds what wakes them: they end only if told to.
async fn take_apart(world: &Arc<World>) {
    let running: Vec<_> = {
        let mut state = world.state();
        let mut all = std::mem::take(&mut state.former);
        all.extend(state.processes.iter_mut().filter_map(|process| process.coordinator.take()));
        all
    };
    for coordinator in &running {
        coordinator.stop();
    }
    drop(running);
    // Requests under way hold the world, and the world's clock holds them: they land first.
    madsim::time::sleep(Duration::from_secs(10)).await;
    world.end();
}

/// Starts a coordinator, and again whenever its journal fails.
pub async fn process(world: Arc<World>, node: NodeId) {
    if world.scenario.audited {
        madsim::task::spawn(crate::audit::follow(Arc::downgrade(&world), node));
    }
    loop {
        let life = {
            let mut state = world.state();
            let process = &mut state.processes[usize::from(node.0)];
            process.lives += 1;
            process.lives
        };
        let env = SimEnv::new(world.clone(), node, life);
        let lane_width = if world.scenario.profile == Profile::Scale { 16 } else { 3 };
        let mut pace = Pace {
            lane_width,
            blobs_every: BLOBS_EVERY,
            blobs_rest: BLOBS_REST,
            ..Pace::default()
        };
        let bounded = world.scenario.intents_max.filter(|_| !world.is(Double::QueuesUnbounded));
        pace.intents_max = bounded.unwrap_or(pace.intents_max);
        pace.recent_values = RECENT_VALUES;
        pace.feed_page = world.scenario.feed_page.unwrap_or(pace.feed_page);
        let policy = crate::reload::policy_of(&world, node);
        let coordinator = match Coordinator::start(env, node, policy, pace).await {
            Ok(coordinator) => coordinator,
            Err(error) => {
                assert!(matches!(error, JournalError::Damaged(_)), "{error}: no fault does that");
                world.move_journal_away(node).await;
                continue;
            }
        };
        world.state().processes[usize::from(node.0)].coordinator = Some(coordinator.clone());
        // The configuration may have changed during the replay.
        crate::reload::tell(&world, node);
        crate::operator::tell_all(&world, node).await;
        let Some(failure) = coordinator.failed().await else { return };
        let mut state = world.state();
        world
            .note(&mut state, End::Node(node.0), "journal-failed", None, 0, || failure.to_string());
        state.processes[usize::from(node.0)].coordinator = None;
        state.breakers.ended(node);
        state.former.push(coordinator);
    }
}

async fn drive(world: &Arc<World>, keep: bool) -> Outcome {
    let there = |node: &NodeId| !world.state().members.is_away(*node);
    for node in (0..world.scenario.nodes).map(NodeId).filter(there) {
        world.create_process(node, move |world| process(world, node));
    }
    crate::damage::begin(world);
    crate::lives::begin(world);
    crate::members::begin(world);
    crate::load::begin(world);
    world.begin_disk_faults();
    crate::reload::begin(world);
    crate::operator::begin(world);
    let sessions: Vec<_> = (0..world.scenario.sessions)
        .map(|session| madsim::task::spawn(session_loop(world.clone(), session)))
        .collect();
    let stopwatch = {
        let world = world.clone();
        madsim::task::spawn(async move { recover(&world).await })
    };
    for session in sessions {
        session.await.expect("sessions do not panic");
    }
    let recovery = stopwatch.await.expect("the stopwatch does not panic");
    let left = world.scenario.length_ms.saturating_sub(world.now_ms());
    madsim::time::sleep(Duration::from_millis(QUIET_MS.max(left))).await;
    // What was given a time is gone by the end.
    let last_ms = world.state().checker.last_expiry_ms() + EXPIRED_WITHIN_MS;
    madsim::time::sleep(Duration::from_millis(last_ms.saturating_sub(world.now_ms()))).await;
    if let Some(recovery) = &recovery {
        let until_ms = recovery.healed_ms + world.scenario.mended_within_ms();
        while is_mending(world) && world.now_ms() < until_ms {
            madsim::time::sleep(Duration::from_millis(500)).await;
        }
    }
    crate::audit::wait_until_logged(world).await;
    verdict(world, recovery, keep)
}

/// Some copy is damaged, or has a mark because it was, or other sites have not heard of what was
/// taken in from it.
fn is_mending(world: &World) -> bool {
    let state = world.state();
    let letters = dead_letters(&state);
    let owes = |(site, stores): (usize, &Stores)| {
        let site = SiteId(u16::try_from(site).expect("a scenario has few sites"));
        !state.checker.has_ended(site)
            && stores.d1.rows().iter().any(|(record, row)| {
                let dead = |store: StoreId| {
                    state.checker.is_refused(site, record, store)
                        && letters.contains(&(record.clone(), store))
                };
                let inside = |store: StoreId| !world.scenario.is_outside(End::Store(store));
                row.owed.keys().any(|store| inside(*store) && !dead(*store))
            })
    };
    state.checker.is_damaged()
        || state.checker.is_apart()
        || state.checker.is_in_former_form()
        || state.sites.iter().enumerate().any(owes)
}

/// What some coordinator says is refused for good.
fn dead_letters(state: &State) -> BTreeSet<(RecordId, StoreId)> {
    let coordinators = state.processes.iter().filter_map(|process| process.coordinator.as_ref());
    let letters = coordinators.flat_map(|coordinator| coordinator.dead_letters().0);
    letters.map(|letter| (letter.record, letter.store)).collect()
}

fn verdict(world: &Arc<World>, recovery: Option<Recovered>, keep: bool) -> Outcome {
    let now_ms = world.now_ms();
    let mut state = world.state();
    let state = &mut *state;
    let healed_ms = recovery.as_ref().map(|recovery| recovery.healed_ms);
    let recovered = recovery.and_then(|recovery| {
        let usable_ms = recovery.usable_ms.filter(|_| state.checker.is_settled())?;
        let longest = state.checker.longest_wait(recovery.healed_ms);
        let slower = longest.filter(|(took_ms, _)| *took_ms > usable_ms);
        Some(slower.map_or((usable_ms, Awaited::Service), |(took_ms, of)| (took_ms, of.clone())))
    });
    let (recovery_ms, recovery_waited_for) = recovered.unzip();
    match recovery_ms {
        Some(took_ms) if took_ms <= RECOVERY_MS_MAX => state.checker.passed(Invariant::Recovery),
        Some(took_ms) => {
            let message = format!("recovery took {took_ms} ms");
            state.checker.report(Invariant::Recovery, now_ms, message);
        }
        None => {
            let message = format!("never recovered; {}", state.checker.unsettled());
            state.checker.report(Invariant::Recovery, now_ms, message);
        }
    }
    for (node, disk) in state.disks.iter().enumerate() {
        let node = NodeId(u16::try_from(node).expect("a run has few coordinators"));
        state.checker.stands_in_a_journal(node, disk.dots());
    }
    state.checker.finish(now_ms);
    for (number, stores) in state.sites.iter().enumerate() {
        let site = SiteId(u16::try_from(number).expect("a scenario has few sites"));
        if state.checker.has_ended(site) {
            continue;
        }
        let (rows, losers) = (stores.d1.rows(), stores.d1.losers());
        let blob = |hash| holds_blob(stores, hash);
        state.checker.finish_site(now_ms, site, rows, losers, blob);
        state.checker.stays_erased(now_ms, site, rows, losers, stores.d1.writes());
    }
    crate::audit::check(world, state);
    let mut letters = dead_letters(state);
    if world.is(Double::DeadLettersHidden) {
        letters.clear();
    }
    state.checker.finish_queues(now_ms, &letters);
    let stores = &state.sites[0];
    let mut outcome = Outcome {
        violations: state.checker.violations().to_vec(),
        checked: state.checker.checked(),
        trace_hash: state.trace.hash().to_hex()[..32].to_owned(),
        event_count: state.trace.events(),
        virtual_ms: now_ms,
        healed_ms,
        recovery_ms,
        recovery_waited_for,
        excused: state.checker.excused(),
        conflicts: stores.d1.losers().values().map(|losers| losers.len() as u64).sum(),
        delivered: state.delivered,
        faults: state.faults.clone(),
        sometimes: state.sometimes.clone(),
        ..Outcome::default()
    };
    for process in &state.processes {
        if let Some(coordinator) = &process.coordinator {
            note_counters(&mut outcome.sometimes, &coordinator.status().counters);
        }
    }
    let blob = |hash| holds_blob(stores, hash);
    let readable = |value: &Stored, hash| is_readable(value, hash, blob);
    let present = if keep {
        state.checker.present(SiteId(0), stores.d1.rows(), stores.d1.losers(), &readable)
    } else {
        BTreeMap::new()
    };
    for (id, asked) in state.checker.asked() {
        outcome.attempted += 1;
        match asked.told {
            Told::Acknowledged(_) => outcome.acknowledged += 1,
            Told::Refused => outcome.refused += 1,
            Told::Unknown | Told::Waiting => outcome.unknown += 1,
        }
        let fate = match asked.told {
            Told::Acknowledged(dot) if keep => {
                let present = present.get(&asked.record);
                Some(present.map_or(Fate::Lost, |present| present.fate(dot)))
            }
            _ => None,
        };
        if keep {
            outcome.fates.push(WriteFate {
                id: *id,
                at_ms: asked.at_ms,
                session: asked.session,
                record: asked.record.clone(),
                told: asked.told,
                fate,
            });
        }
    }
    outcome.lost =
        outcome.violations.iter().filter(|v| v.invariant == Invariant::ZeroLoss).count() as u64;
    outcome.events = state.trace.take();
    outcome
}

/// True when a site's R2 holds the bytes of a hash under their own name.
fn holds_blob(stores: &Stores, hash: ContentHash) -> bool {
    let object = stores.r2.get(&blob::key(hash));
    object.is_some_and(|object| ContentHash::of(&object.body) == hash)
}

fn note_counters(sometimes: &mut BTreeSet<&'static str>, counters: &Counters) {
    let reached = [
        (counters.breaker_opened, "breaker-opened"),
        (counters.puts_unknown, "put-without-an-answer"),
        (counters.writes_cancelled, "condition-failed-at-the-authority"),
        (counters.writes_pending, "acknowledged-as-pending"),
        (counters.rate_limited, "store-said-429"),
        (counters.copies_put_again, "a-copy-was-put-again"),
        (counters.losers_in_letters, "a-dead-letter-kept-a-loser"),
        (counters.read_repairs, "a-read-repaired-a-copy"),
        (counters.copies_damaged, "a-damaged-copy-was-noticed"),
        (counters.foreign_writes, "a-foreign-write-was-taken-in"),
        (counters.tombstones_reaped, "a-tombstone-was-reaped"),
        (counters.blobs_collected, "a-blob-was-collected"),
        (counters.clock_drift_ms_max, "clock-drift-noticed"),
        (counters.expired, "a-value-expired"),
        (counters.recent_passes, "what-is-recent-was-looked-over"),
        (counters.trees_compared, "sites-compared-trees"),
        (counters.site_leaves_read, "leaves-of-another-site-were-read"),
        (counters.missed_by_feeds, "a-look-found-what-a-feed-had-missed"),
    ];
    sometimes.extend(reached.into_iter().filter(|(count, _)| *count > 0).map(|(_, name)| name));
}

/// Which stores a scenario has, for reports.
pub const STORES: [StoreId; 3] = StoreId::ALL;
