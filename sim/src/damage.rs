//! Damage: what happens to copies and rows behind every coordinator's back.
//!
//! Invariant: it never touches the blobs that rows refer to, and writes to the authority only as
//! its triggers see it. The checker is told of each, since only a look over a projection can find
//! what was done there.

use crate::checker::{Copy, Damage, Law};
use crate::world::{State, World};
use bytes::Bytes;
use rand::RngExt;
use std::sync::Arc;
use std::time::Duration;
use tidelock_engine::env::KvEntry;
use tidelock_engine::record::{RecordId, StoreId, Stored};
use tidelock_engine::row::Row;
use tidelock_engine::version::SiteId;
use tidelock_faults::{End, Fault, Kind, Place};

/// Foreign writes to projections have ids from here on.
const FOREIGN_ID: u32 = 2_000_000;
/// Of a foreign write's value.
const FOREIGN_BYTES: usize = 24;

/// Does each planned damage at its time.
pub fn begin(world: &Arc<World>) {
    for fault in world.scenario.faults.iter().filter(|fault| fault.kind.is_damage()) {
        let (world, fault) = (world.clone(), fault.clone());
        madsim::task::spawn(async move {
            world.sleep(Duration::from_millis(fault.from_ms)).await;
            strike(&world, &fault);
        });
    }
}

fn site_of(fault: &Fault) -> SiteId {
    match fault.place {
        Place::StoreAt { site, .. } => SiteId(site),
        _ => SiteId(0),
    }
}

fn strike(world: &World, fault: &Fault) {
    if matches!(fault.kind, Kind::D1ForeignWrite | Kind::D1ForeignDelete) {
        return strike_row(world, fault);
    }
    let mut state = world.state();
    let site = site_of(fault);
    let (store, key) = match &fault.place {
        Place::Copy { store, key } => (*store, Some(key.clone())),
        Place::Store(store) | Place::StoreAt { store, .. } => {
            (*store, choose(world, &mut state, fault, site, *store))
        }
        Place::Link { .. }
        | Place::Everywhere
        | Place::Disk(_)
        | Place::Node(_)
        | Place::Clock { .. }
        | Place::Call { .. } => return,
    };
    let found = key.and_then(|key| world.record_of(&key).map(|record| (key, record)));
    let Some((key, record)) = found else { return };
    let foreign = match fault.kind {
        Kind::KvForeignWrite
        | Kind::R2ForeignWrite
        | Kind::KvChangedValue
        | Kind::R2ChangedObject => Some(FOREIGN_ID + fault.id),
        _ => None,
    };
    // Changed where they stand: the bytes alone.
    let metadata = match (fault.kind, store) {
        (Kind::KvChangedValue, _) => match state.at(site).kv.central(&key) {
            Some(entry) => entry.metadata.clone(),
            None => return,
        },
        (Kind::R2ChangedObject, _) => match state.at(site).r2.get(&key) {
            Some(object) => object.metadata.clone(),
            None => return,
        },
        _ => None,
    };
    let value = foreign.map(|id| value_for(world, &record, id));
    let now_ms = world.now_ms();
    state.felt(fault.kind);
    let word = if foreign.is_some() { "foreign-write" } else { "lost" };
    world.note(&mut state, End::Store(store), word, None, u64::from(fault.id), || {
        world.place_of(&record, site)
    });
    if let (Some(id), Some(value)) = (foreign, &value) {
        state.checker.asks(id, now_ms, 0, record.clone(), Some(value));
    }
    let copy = value.as_ref().map(|_| Copy::unknown());
    put(world, &mut state, site, store, key, value.map(|value| (value, metadata)));
    let damage = foreign.map_or(Damage::Lost, Damage::Foreign);
    state.checker.damaged(site, &record, store, copy, damage);
}

/// Somebody writes or deletes a row that is there; or, sometimes, writes one that never was.
fn strike_row(world: &World, fault: &Fault) {
    let mut state = world.state();
    let state = &mut *state;
    let site = site_of(fault);
    let live = |row: &Row| matches!(&row.value, Some(value) if *value != Stored::Tombstone);
    let rows = state.at(site).d1.rows().iter().filter(|(_, row)| live(row));
    let records: Vec<RecordId> = rows.map(|(record, _)| record.clone()).collect();
    let choices = world.choices(state, fault.id);
    let write = fault.kind == Kind::D1ForeignWrite;
    let record = if write && choices.random_range(0..4) == 0 {
        let dataset = world.scenario.datasets.last();
        dataset.map(|kept| world.record(&kept.name, &format!("foreign-{}", fault.id)))
    } else {
        (!records.is_empty()).then(|| records[choices.random_range(0..records.len())].clone())
    };
    let Some(record) = record else { return };
    let id = FOREIGN_ID + fault.id;
    let value = write.then(|| value_for(world, &record, id));
    state.felt(fault.kind);
    crate::run::write_foreign(world, state, id, 0, site, record, value);
}

/// Somebody's bytes, of the record's kind.
fn value_for(world: &World, record: &RecordId, id: u32) -> Bytes {
    let kept = world.scenario.datasets.iter().find(|kept| *kept.name == *record.dataset);
    match kept.and_then(|kept| kept.law) {
        Some(Law::Counter | Law::RuledCounter) => crate::workload::counter(id, 0),
        Some(_) | None => crate::workload::value(id, FOREIGN_BYTES),
    }
}

/// A copy that is there; or, for a foreign write, sometimes a key that was never there.
fn choose(
    world: &World,
    state: &mut State,
    fault: &Fault,
    site: SiteId,
    store: StoreId,
) -> Option<String> {
    let keys: Vec<String> = world
        .prefixes()
        .flat_map(|prefix| match store {
            StoreId::Kv => state.at(site).kv.list(prefix, None, usize::MAX).keys,
            StoreId::R2 => state.at(site).r2.list(prefix, None, usize::MAX).keys,
            StoreId::D1 => Vec::new(),
        })
        .map(|listed| listed.key)
        .collect();
    let dataset = world.scenario.datasets.last().map(|kept| kept.name.clone())?;
    let choices = world.choices(state, fault.id);
    let anew = matches!(fault.kind, Kind::KvForeignWrite | Kind::R2ForeignWrite)
        && choices.random_range(0..4) == 0;
    if anew {
        return Some(format!("{dataset}/foreign-{}", fault.id));
    }
    (!keys.is_empty()).then(|| keys[choices.random_range(0..keys.len())].clone())
}

fn put(
    world: &World,
    state: &mut State,
    site: SiteId,
    store: StoreId,
    key: String,
    value: Option<(Bytes, Option<String>)>,
) {
    let now = world.store_time();
    match (store, value) {
        (StoreId::Kv, value) => {
            let entry =
                value.map(|(value, metadata)| KvEntry { value, metadata, expires_at_s: None });
            state.at(site).kv.land(now, key, entry);
        }
        (StoreId::R2, Some((value, metadata))) => {
            drop(state.at(site).r2.land(now, key, value, metadata));
        }
        (StoreId::R2, None) => state.at(site).r2.delete(now, key),
        (StoreId::D1, _) => {}
    }
}
