//! What the authority has settled, on its way to an audit log.
//!
//! ```text
//! D1: conflicts in the order of the feed ── a page ──> events ──> append, until it is durable ──┐
//!      ▲                                                                                        │
//!      └──── behind the last that the log has, while that stands there ◀────────────────────────┤
//!      ▲                                                                                        │
//!      └──── behind the newest of the log's that stands there, once the log says so ◀───────────┘
//! ```
//!
//! Invariant: every conflict that the site's authority has is in the log once and in its order, whichever
//! coordinator settled it. The log alone says where to go on, by its own last conflict or by what it says
//! of a D1 that was set back: a crash between the answer and the append loses nothing, and one behind the
//! append doubles nothing, though it may have kept a part of a page.
//!
//! D1 may be another than the one that was followed, set back to an earlier time and grown past the place
//! at which the log ends. So a page counts only if the log's last still stands there afterwards, settled at
//! that time: then so does everything that was before it. Where it does not, the log's other conflicts are
//! asked for, the newest first. What stands before the first of them that D1 has was logged, since it was
//! when that one came.
//!
//! When to look again, and what to do about an append that failed, are left to whoever keeps the log.

use super::Coordinator;
use crate::audit::{self, ConflictFacts, Event, Original, Settled};
use crate::conflict::{Conflict, ConflictQuery, Place, Which};
use crate::env::{Clock, Env, Unavailable};
use crate::version::SiteId;
use std::future::Future;

/// Some of a log's conflicts, the newest first, and where the next begin; `None`: there are no more.
pub type Backwards<C> = (Vec<Settled>, Option<C>);

/// An audit log, as it is followed into.
pub trait Trail {
    /// Why it did not do what it was asked.
    type Error;
    /// A place among its entries.
    type Cursor;

    /// Appends events with their times, in milliseconds since the epoch; they are durable when it
    /// returns. After an error the same come again.
    fn append(
        &mut self,
        events: Vec<(u64, Event)>,
    ) -> impl Future<Output = Result<(), Self::Error>> + Send;

    /// Its conflicts from a place on, or from its end.
    fn settled(
        &mut self,
        from: Option<Self::Cursor>,
    ) -> impl Future<Output = Result<Backwards<Self::Cursor>, Self::Error>> + Send;
}

/// How far an audit log has the conflicts of its site's authority.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Logged {
    /// The last that it has of those that D1 has; `None`: none, so that it is given all there are.
    last: Option<Settled>,
    /// It has others behind that one, which D1 had at another time, and may have again.
    is_parted: bool,
    /// Conflicts in one append.
    page: usize,
}

impl Logged {
    /// A log that ends so, which is given `page` conflicts at once. `ending`: its last entry that is a
    /// conflict or says that D1 was set back; `None`: it has neither.
    pub fn behind(ending: Option<&Event>, page: usize) -> Self {
        let is_parted = matches!(ending, Some(Event::SetBack { .. }));
        Logged { last: ending.and_then(Event::followed_through), is_parted, page }
    }

    /// Appends the next page, or that D1 was set back. True when more may be waiting; what waits while
    /// D1 does not answer waits there.
    pub async fn follow<E: Env, T: Trail>(
        &mut self,
        coordinator: &Coordinator<E>,
        trail: &mut T,
    ) -> Result<bool, T::Error> {
        let after = Which::After(self.last.map(place));
        let Ok(found) = ask(coordinator, after, self.page).await else { return Ok(false) };
        // Afterwards: what D1 gave was behind it then.
        let is_there = match &self.last {
            None => true,
            Some(last) => match stands(coordinator, last).await {
                Ok(is_there) => is_there,
                Err(Unavailable(_)) => return Ok(false),
            },
        };
        if !is_there || (self.is_parted && !found.is_empty()) {
            let Some(behind) = newest(coordinator, trail).await? else { return Ok(false) };
            if behind != self.last {
                tracing::error!(
                    followed = self.last.map_or(0, |last| last.seq.0),
                    behind = behind.map_or(0, |behind| behind.seq.0),
                    "D1 was set to another time. The audit log says so, and goes on behind the last \
                     conflict that both have"
                );
                let event = Event::SetBack { last: self.last, behind };
                trail.append(vec![(now_ms(coordinator), event)]).await?;
                (self.last, self.is_parted) = (behind, true);
                return Ok(true);
            }
        }
        let Some(newest) = found.last() else { return Ok(false) };
        let (newest, more) = (settled(newest), found.len() == self.page);
        let (site, now_ms) = (coordinator.site(), now_ms(coordinator));
        trail.append(found.iter().map(|settled| (now_ms, event(site, settled))).collect()).await?;
        (self.last, self.is_parted) = (Some(newest), false);
        Ok(more)
    }
}

/// The newest of the log's conflicts that D1 has; within, `None`: it has none. Without an answer of D1:
/// `None`.
async fn newest<E: Env, T: Trail>(
    coordinator: &Coordinator<E>,
    trail: &mut T,
) -> Result<Option<Option<Settled>>, T::Error> {
    let Ok(ends) = ask(coordinator, Which::Before(None), 1).await else { return Ok(None) };
    let end = ends.first().map(|end| end.seq);
    let mut from = None;
    loop {
        let (logged, next) = trail.settled(from).await?;
        // What would stand behind D1's end is not worth a question.
        for logged in logged.iter().filter(|logged| Some(logged.seq) <= end) {
            match stands(coordinator, logged).await {
                Ok(true) => return Ok(Some(Some(*logged))),
                Ok(false) => {}
                Err(Unavailable(_)) => return Ok(None),
            }
        }
        match next {
            Some(next) => from = Some(next),
            None => return Ok(Some(None)),
        }
    }
}

async fn ask<E: Env>(
    coordinator: &Coordinator<E>,
    which: Which,
    limit: usize,
) -> Result<Vec<Conflict>, Unavailable> {
    coordinator.conflicts(ConflictQuery { dataset: None, which, limit }).await
}

/// D1 has this one, as it was when it was logged.
async fn stands<E: Env>(
    coordinator: &Coordinator<E>,
    logged: &Settled,
) -> Result<bool, Unavailable> {
    let found = ask(coordinator, Which::Lost(logged.lost), SAME_NAME_MAX).await?;
    Ok(found.iter().any(|conflict| settled(conflict) == *logged))
}

/// Records, at most, in which a write of one name has lost; it is one, but for damage.
const SAME_NAME_MAX: usize = 64;

fn place(settled: Settled) -> Place {
    Place { seq: settled.seq, lost: settled.lost }
}

fn settled(conflict: &Conflict) -> Settled {
    let Conflict { seq, at, lost, winner, .. } = conflict;
    Settled { seq: *seq, lost: lost.dot, winner: *winner, settled_ms: at.0 }
}

fn now_ms<E: Env>(coordinator: &Coordinator<E>) -> u64 {
    u64::try_from(coordinator.env.clock().wall().as_millis()).unwrap_or(u64::MAX)
}

fn event(site: SiteId, settled: &Conflict) -> Event {
    Event::Conflict(Box::new(audit::Conflict::new(ConflictFacts {
        site,
        record: settled.record.clone(),
        seq: settled.seq,
        settled_ms: settled.at.0,
        winner: settled.winner,
        won: settled.won.as_ref().map(Original::from),
        losers: vec![Original::from(&settled.lost)],
        strategy: settled.by.to_string().into(),
        why: settled.why.clone(),
        contexts: settled.contexts.clone(),
    })))
}
