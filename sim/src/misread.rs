//! Reads that show something else than what stands in the store: late, short, or damaged.
//!
//! Sources: KV's listings are as eventual as its reads, and a page may be short though more
//! follows (<https://developers.cloudflare.com/kv/api/list-keys/>); a D1 session may read from a
//! replica, never one older than what the session has seen
//! (<https://developers.cloudflare.com/d1/best-practices/read-replication/>).

use crate::world::{State, World};
use bytes::{Bytes, BytesMut};
use rand::RngExt;
use tidelock_engine::env::{KeyPage, Object, Unavailable};
use tidelock_engine::row::{Poll, PollPage, StoreTime};
use tidelock_engine::version::SiteId;
use tidelock_faults::{Fault, Kind, Place};

/// Bytes of a damaged body that are not those that are stored.
const DAMAGED_BYTES: usize = 4;

impl World {
    /// A fault of this kind that holds and whose dice say so. Whether it is felt is for the caller
    /// to tell.
    fn may_strike(&self, state: &mut State, site: SiteId, kind: Kind) -> Option<&Fault> {
        let here = |fault: &&Fault| match fault.place {
            Place::StoreAt { site: at, .. } => at == site.0,
            _ => true,
        };
        self.faults(kind).filter(here).find(|fault| self.dice(state, fault))
    }
}

/// A page of KV's keys.
pub(crate) fn list_kv(
    world: &World,
    state: &mut State,
    site: SiteId,
    prefix: &str,
    from: Option<&str>,
    limit: usize,
) -> KeyPage {
    let mut page = state.at(site).kv.list(prefix, from, limit);
    if let Some(fault) = world.may_strike(state, site, Kind::KvListLag) {
        let lag_ms = world.choices(state, fault.id).random_range(0..=fault.span_ms);
        let then = StoreTime(world.store_time().0 - lag_ms);
        let lagging = state.at(site).kv.list_as_of(then, prefix, from, limit);
        if lagging != page {
            state.felt(Kind::KvListLag);
            page = lagging;
        }
    }
    if let Some(fault) = world.may_strike(state, site, Kind::KvListTruncated)
        && !page.keys.is_empty()
    {
        state.felt(Kind::KvListTruncated);
        let upto = world.choices(state, fault.id).random_range(0..page.keys.len());
        page.keys.truncate(upto);
        // Without a key the page's place stays where it was.
        let here = || from.unwrap_or(prefix).to_owned();
        page.next = Some(page.keys.last().map_or_else(here, |last| last.key.clone()));
    }
    page
}

/// A page of D1's change feed, and of when it is. `answered`: how far the asking process's session
/// has seen D1; `None`: it begins at the primary.
pub(crate) fn poll_d1(
    world: &World,
    state: &mut State,
    site: SiteId,
    answered: Option<StoreTime>,
    poll: Poll,
) -> (StoreTime, PollPage) {
    let now = world.store_time();
    if let Some(answered) = answered
        && let Some(fault) = world.may_strike(state, site, Kind::D1ReplicaLag)
    {
        let lag_ms = world.choices(state, fault.id).random_range(0..=fault.span_ms);
        let then = StoreTime(now.0 - lag_ms).max(answered);
        let lagging = state.at(site).d1.poll_as_of(then, now, poll);
        if lagging != state.at(site).d1.poll(now, poll) {
            state.felt(Kind::D1ReplicaLag);
        }
        return (then, lagging);
    }
    (now, state.at(site).d1.poll(now, poll))
}

/// An object of R2.
pub(crate) fn get_r2(
    world: &World,
    state: &mut State,
    site: SiteId,
    key: &str,
) -> Result<Option<Object>, Unavailable> {
    let Some(mut object) = state.at(site).r2.get(key).cloned() else { return Ok(None) };
    let length = object.body.len();
    if length == 0 {
        return Ok(Some(object));
    }
    if let Some(fault) = world.strikes(state, site, Kind::R2TruncatedBody) {
        let upto = world.choices(state, fault.id).random_range(0..length);
        // The length was announced, so that the binding notices.
        let detail = format!("the body ended after {upto} of {length} bytes");
        return Err(Unavailable(detail.into()));
    }
    if let Some(fault) = world.strikes(state, site, Kind::R2DamagedBody) {
        let choices = world.choices(state, fault.id);
        object.body = damaged(&object.body, choices);
    }
    Ok(Some(object))
}

fn damaged(body: &Bytes, rng: &mut impl rand::Rng) -> Bytes {
    let mut bytes = BytesMut::from(&body[..]);
    for _ in 0..DAMAGED_BYTES {
        let at = rng.random_range(0..bytes.len());
        bytes[at] ^= rng.random_range(1..=255u8);
    }
    // Struck twice in one place, a byte may be itself again.
    if bytes == body[..] {
        bytes[0] ^= 1;
    }
    bytes.freeze()
}
