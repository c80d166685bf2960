//! What sessions do, and what they are told.
//!
//! ```text
//! operation ──> a coordinator ──> refused, or no answer ──> another one ──> told ──> checker
//! ```
//!
//! Invariant: the checker hears what was asked before anybody is asked, and what was told as the session
//! heard it.

use crate::checker::{Told, counted};
use crate::double::Double;
use crate::workload::{self, Act, Operation};
use crate::world::{State, World};
use bytes::Bytes;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;
use tidelock_engine::coordinator::{
    Condition, Lifetime, Patching, Read, Receipt, Redact, Redaction, Session, Unpatched, Write,
    WriteOutcome,
};
use tidelock_engine::patch::{INCREMENT, Patch};
use tidelock_engine::policy::ReadLevel;
use tidelock_engine::record::{RecordId, StoreId, Stored};
use tidelock_engine::version::{Dot, NodeId, SiteId, VersionVector};
use tidelock_faults::{End, Kind, Place};

/// Tries of a session at other coordinators after a refusal.
const TRIES: u16 = 3;

/// What a session remembers from one operation to the next.
#[derive(Default)]
struct Memory {
    /// Of its last read of each record.
    contexts: BTreeMap<RecordId, VersionVector>,
    /// What it gave.
    values: BTreeMap<RecordId, Option<Bytes>>,
    /// What it has seen of all records.
    token: Session,
}

pub(super) async fn session_loop(world: Arc<World>, session: u16) {
    let mut memory = Memory::default();
    let operations: Vec<Operation> = world
        .scenario
        .operations
        .iter()
        .filter(|operation| operation.session == session)
        .cloned()
        .collect();
    for operation in operations {
        let wait = operation.at_ms.saturating_sub(world.now_ms());
        if wait > 0 {
            madsim::time::sleep(Duration::from_millis(wait)).await;
        }
        perform(&world, &operation, &mut memory).await;
    }
}

async fn perform(world: &Arc<World>, operation: &Operation, memory: &mut Memory) {
    let record = world.record(&operation.dataset, &operation.key);
    let (session, node) = (operation.session, NodeId(operation.node));
    let condition = match operation.act {
        Act::ReadAny | Act::ReadLatest => {
            let level =
                if operation.act == Act::ReadAny { ReadLevel::Any } else { ReadLevel::Latest };
            if let Some(read) = read(world, session, node, &record, level).await
                && let Some(context) = read.context
            {
                memory.contexts.insert(record.clone(), context);
                memory.values.insert(record, read.value);
            }
            return;
        }
        Act::ReadSession => {
            read_in_session(world, session, node, &record, memory).await;
            return;
        }
        Act::Increment { amount } => {
            return increment(world, operation, &record, amount, memory).await;
        }
        Act::Erase => return erase(world, session, node, &record).await,
        Act::Foreign { .. } => {
            let value = operation.value();
            let site = world.scenario.site_of(node);
            let mut state = world.state();
            write_foreign(world, &mut state, operation.id, session, site, record, value);
            return;
        }
        Act::Put { .. } | Act::PutForAWhile { .. } | Act::Delete => Condition::None,
        Act::Add { amount, fresh } => {
            return add(world, operation, &record, amount, fresh, memory).await;
        }
        Act::PutWithContext { .. } => {
            Condition::Context(memory.contexts.get(&record).cloned().unwrap_or_default())
        }
        Act::PutIfUnchanged { .. } => {
            match read(world, session, node, &record, ReadLevel::Latest).await {
                Some(Read { value: Some(_), etag: Some(etag), .. }) => Condition::Match(etag),
                Some(_) => Condition::Absent,
                None => return,
            }
        }
    };
    let value = operation.value().map(|value| poisoned(world, value));
    let lifetime = match operation.act {
        Act::PutForAWhile { ttl_ms, .. } => Lifetime::For(Duration::from_millis(ttl_ms)),
        _ => Lifetime::Usual,
    };
    let told = write(world, operation.id, session, node, &record, value, condition, lifetime).await;
    if let Some(receipt) = told {
        memory.token.wrote(&receipt);
    }
}

/// Adds to a counter what was read of it.
async fn add(
    world: &Arc<World>,
    operation: &Operation,
    record: &RecordId,
    amount: u64,
    fresh: bool,
    memory: &mut Memory,
) {
    let Operation { id, session, node, .. } = *operation;
    if fresh || !memory.contexts.contains_key(record) {
        let read = read(world, session, NodeId(node), record, ReadLevel::Latest).await;
        let Some(Read { value, context: Some(context), .. }) = read else { return };
        memory.contexts.insert(record.clone(), context);
        memory.values.insert(record.clone(), value);
    }
    let stood = memory.values.get(record).cloned().flatten();
    // What somebody wrote past us may be no counter.
    let n = stood.as_deref().map_or(Some(0), counted).unwrap_or_default();
    let value = Some(workload::counter(id, n + amount));
    let condition = Condition::Context(memory.contexts[record].clone());
    world.state().checker.adds(id, amount);
    let lifetime = Lifetime::Usual;
    if let Some(receipt) =
        write(world, id, session, NodeId(node), record, value, condition, lifetime).await
    {
        memory.token.wrote(&receipt);
    }
}

/// An operator looks at what is past of a record, and has it erased.
async fn erase(world: &Arc<World>, session: u16, node: NodeId, record: &RecordId) {
    let (dataset, key) = (record.dataset.to_string(), record.key.to_string());
    let of = Redact::Record { dataset: dataset.clone(), key: key.clone() };
    let seen = world.ask(session, node, async move |coordinator| coordinator.redaction(of).await);
    let Ok(Ok(Redaction { values, .. })) = seen.await else { return };
    let writes: BTreeSet<Dot> = values.iter().map(|value| value.dot).collect();
    if writes.is_empty() {
        return;
    }
    world.state().checker.asks_to_erase(record, &writes);
    let asked = world.ask(session, node, async move |coordinator| {
        let writes = writes.into_iter().collect();
        coordinator.redact(&dataset, &key, writes, "operator", "asked for").await
    });
    let Ok(Ok((_, erased))) = asked.await else { return };
    let site = world.scenario.site_of(node);
    let mut state = world.state();
    state.sometimes.insert("bytes-were-erased");
    state.checker.erased(site, record, &erased);
    let here = End::Session(session);
    world.note(&mut state, here, "erased", Some(End::Node(node.0)), erased.len() as u64, || {
        record.to_string()
    });
}

/// Has a coordinator add to a counter.
async fn increment(
    world: &Arc<World>,
    operation: &Operation,
    record: &RecordId,
    amount: u64,
    memory: &mut Memory,
) {
    let Operation { id, session, node, .. } = *operation;
    let now_ms = world.now_ms();
    world.state().checker.asks_to_add(id, now_ms, session, record.clone(), amount);
    let patch = format!("{{\"pointer\":\"/n\",\"by\":{amount}}}");
    let patch = Patch::parse(INCREMENT, patch.as_bytes()).expect("it is an increment");
    let mut told = Told::Refused;
    for attempt in 0..TRIES {
        let node = NodeId((node + attempt) % world.scenario.nodes);
        let patching = Patching {
            dataset: record.dataset.to_string(),
            key: record.key.to_string(),
            patch: patch.clone(),
            over: None,
        };
        let asked = world.ask(session, node, async move |coordinator| {
            let policy = coordinator.policy();
            let through: Vec<StoreId> =
                policy.datasets[&*patching.dataset].write_through().collect();
            (through, coordinator.patch(patching, None).await)
        });
        told = match asked.await {
            Ok((through, Ok(WriteOutcome::Applied(receipt)))) => {
                let mut state = world.state();
                if survives_crashes_alone(&through, &Condition::None, &receipt) {
                    state.checker.survives_crashes_alone(receipt.dot);
                }
                if receipt.pending.contains(&StoreId::D1) {
                    state.sometimes.insert("an-increment-went-ahead-of-d1");
                }
                memory.token.wrote(&receipt);
                Told::Acknowledged(receipt.dot)
            }
            Ok((_, Ok(WriteOutcome::Refused(_)) | Err(Unpatched::Read(_)))) | Err(false) => {
                Told::Refused
            }
            // There is no such counter, or no number in it.
            Ok((_, Err(_))) => break,
            Ok((_, Ok(WriteOutcome::Unknown(_)))) | Err(true) => Told::Unknown,
        };
        if told != Told::Refused {
            break;
        }
        madsim::time::sleep(Duration::from_millis(100)).await;
    }
    let now_ms = world.now_ms();
    let mut state = world.state();
    state.checker.told(id, now_ms, told);
    let digest = if let Told::Acknowledged(dot) = told { dot.counter } else { 0 };
    world.note(&mut state, End::Session(session), "incremented", None, digest, || {
        format!("w{id} of {record}: {told:?}")
    });
}

/// A session's value, or one in its place that some store will never take.
fn poisoned(world: &World, value: Bytes) -> Bytes {
    let mut state = world.state();
    let fault = world.faults(Kind::LoadPoisonRecord).find(|fault| world.dice(&mut state, fault));
    match fault.map(|fault| &fault.place) {
        Some(Place::Store(store)) => crate::workload::poison(*store, &value),
        _ => value,
    }
}

/// Somebody writes to a site's D1 past every coordinator; without a value, deletes.
pub(crate) fn write_foreign(
    world: &World,
    state: &mut State,
    id: u32,
    session: u16,
    site: SiteId,
    record: RecordId,
    value: Option<Bytes>,
) {
    let now_ms = world.now_ms();
    state.checker.asks(id, now_ms, session, record.clone(), value.as_deref());
    state.checker.wrote_past_us(id, now_ms, site);
    let (here, there) = (End::Session(session), End::Store(StoreId::D1));
    world.note(state, here, "foreign-write", Some(there), id.into(), || {
        format!("w{id}: {} {record}", if value.is_some() { "put" } else { "delete" })
    });
    let value = value.map_or(Stored::Tombstone, Stored::Inline);
    state.at(site).d1.write_foreign(world.store_time(), &record, value);
    world.row_changed(state, site, &record);
}

/// Writes, at other coordinators too if the first refuses; tells the checker what it was told.
#[expect(clippy::too_many_arguments, reason = "who writes what, where and how")]
pub(crate) async fn write(
    world: &Arc<World>,
    id: u32,
    session: u16,
    node: NodeId,
    record: &RecordId,
    value: Option<Bytes>,
    condition: Condition,
    lifetime: Lifetime,
) -> Option<Receipt> {
    let now_ms = world.now_ms();
    {
        let mut state = world.state();
        state.checker.asks(id, now_ms, session, record.clone(), value.as_deref());
        world.note(
            &mut state,
            End::Session(session),
            "asks",
            Some(End::Node(node.0)),
            id.into(),
            || {
                let what = if value.is_some() { "put" } else { "delete" };
                format!("w{id}: {what} {record}")
            },
        );
    }
    let ttl = match lifetime {
        Lifetime::Usual => world.policy().datasets[&record.dataset].ttl,
        Lifetime::Endless => None,
        Lifetime::For(ttl) => Some(ttl),
        Lifetime::Until(_) => unreachable!("no session asks for that"),
    };
    if let Some(ttl) = ttl.filter(|_| value.is_some()) {
        let ttl_ms = u64::try_from(ttl.as_millis()).expect("runs are short");
        world.state().checker.asks_for(id, ttl_ms);
    }
    let mut told = Told::Refused;
    let mut receipt = None;
    for attempt in 0..TRIES {
        let node = NodeId((node.0 + attempt) % world.scenario.nodes);
        let write = Write {
            dataset: record.dataset.to_string(),
            key: record.key.to_string(),
            value: value.clone(),
            condition: condition.clone(),
            lifetime,
        };
        let dataset = record.dataset.clone();
        let asked = world.ask(session, node, move |coordinator| async move {
            // What the write goes by: it takes its policy at once.
            let policy = coordinator.policy();
            let through: Vec<StoreId> = policy.datasets[&dataset].write_through().collect();
            (through, coordinator.write(write).await)
        });
        let (through, outcome) = match asked.await {
            Ok((through, outcome)) => (through, Ok(outcome)),
            Err(sent) => (Vec::new(), Err(sent)),
        };
        told = match outcome {
            Ok(WriteOutcome::Applied(given)) => {
                let given = receipt.insert(given);
                if survives_crashes_alone(&through, &condition, given) {
                    world.state().checker.survives_crashes_alone(given.dot);
                }
                Told::Acknowledged(given.dot)
            }
            Ok(WriteOutcome::Refused(refusal)) if refusal.is_retryable() => Told::Refused,
            Ok(WriteOutcome::Refused(_)) => {
                told = Told::Refused;
                break;
            }
            Ok(WriteOutcome::Unknown(_)) | Err(true) => Told::Unknown,
            Err(false) => Told::Refused,
        };
        if told != Told::Refused {
            break;
        }
        madsim::time::sleep(Duration::from_millis(100)).await;
    }
    let now_ms = world.now_ms();
    let mut state = world.state();
    state.checker.told(id, now_ms, told);
    let (kind, digest) = match told {
        Told::Acknowledged(dot) => ("write-acked", dot.counter),
        Told::Refused => ("write-refused", 0),
        Told::Unknown | Told::Waiting => ("write-unknown", 0),
    };
    world.note(&mut state, End::Session(session), kind, None, digest, || match told {
        Told::Acknowledged(dot) => format!("w{id} of {record} is {dot}"),
        Told::Refused | Told::Unknown | Told::Waiting => format!("w{id} of {record}"),
    });
    receipt
}

/// True when an acknowledgement promised that the write survives crashes, and not the loss of its
/// coordinator's disk: no store had confirmed it.
fn survives_crashes_alone(through: &[StoreId], condition: &Condition, receipt: &Receipt) -> bool {
    let decided = match condition {
        // The authority has answered.
        Condition::Match(_) | Condition::Absent | Condition::Over(_) => true,
        Condition::None | Condition::Context(_) => false,
    };
    !decided && through.iter().all(|store| receipt.pending.contains(store))
}

/// Reads with the session's token, at other coordinators too if the first cannot answer.
async fn read_in_session(
    world: &Arc<World>,
    session: u16,
    node: NodeId,
    record: &RecordId,
    memory: &mut Memory,
) {
    for attempt in 0..TRIES {
        let since_ms = world.now_ms();
        let node = NodeId((node.0 + attempt) % world.scenario.nodes);
        let (dataset, key) = (record.dataset.to_string(), record.key.to_string());
        let forgets = world.is(Double::TokensForgotten);
        let mut token = if forgets { Session::default() } else { memory.token.clone() };
        let asked = world.ask(session, node, move |coordinator| async move {
            let read = coordinator.read_in_session(&dataset, &key, &mut token).await;
            read.map(|read| (read, token))
        });
        let Ok(Ok((read, token))) = asked.await else { continue };
        memory.token = token;
        let now_ms = world.now_ms();
        let mut state = world.state();
        world.note(&mut state, End::Session(session), "session-read", None, now_ms, || {
            record.to_string()
        });
        let context = read.context.unwrap_or_default();
        match &read.value {
            Some(value) => state.checker.served(now_ms, since_ms, record, value),
            None => state.checker.gave_nothing(now_ms, record, &context),
        }
        if read.from.is_some_and(|store| store != StoreId::D1) {
            state.sometimes.insert("a-copy-answered-a-session");
        }
        state.checker.gave(now_ms, record, &context);
        state.checker.saw(now_ms, session, record, &context);
        if attempt > 0 {
            state.sometimes.insert("another-coordinator-answered-a-session");
        }
        return;
    }
}

pub(super) async fn read(
    world: &Arc<World>,
    session: u16,
    node: NodeId,
    record: &RecordId,
    level: ReadLevel,
) -> Option<Read> {
    let since_ms = world.now_ms();
    let (dataset, key) = (record.dataset.to_string(), record.key.to_string());
    let asked = world.ask(session, node, move |coordinator| async move {
        coordinator.read(&dataset, &key, Some(level)).await
    });
    let mut read = asked.await.ok()?.ok()?;
    let now_ms = world.now_ms();
    let mut state = world.state();
    spoil_read(world, &mut read);
    if let Some(context) = &read.context {
        state.checker.gave(now_ms, record, context);
    }
    world.note(&mut state, End::Session(session), "read", None, now_ms, || record.to_string());
    match (&read.value, &read.context) {
        (Some(value), _) => state.checker.served(now_ms, since_ms, record, value),
        (None, Some(context)) => state.checker.gave_nothing(now_ms, record, context),
        (None, None) => {}
    }
    Some(read)
}

/// What a wrong way from a coordinator to its client makes of a read.
fn spoil_read(world: &World, read: &mut Read) {
    if world.is(Double::ReadsClaimMore)
        && let Some(context) = &mut read.context
    {
        let first = context.iter().next().map(|(actor, counter)| (*actor, *counter));
        if let Some((actor, counter)) = first {
            context.include(Dot { actor, counter: counter + 1_000 });
        }
    }
    if world.is(Double::ReadsDamaged)
        && let Some(value) = &mut read.value
    {
        *value = Bytes::from(value.iter().rev().copied().collect::<Vec<u8>>());
    }
}
