//! What the authority has settled, on its way to an audit log.
//!
//! ```text
//! D1: conflicts in the order of the feed ── a page ──> events ──> append, until it is durable ──┐
//!      ▲                                                                                        │
//!      └──────────────────────── behind the last that the log has ◀─────────────────────────────┘
//! ```
//!
//! Invariant: every conflict of the site's authority is in the log once and in its order, whichever
//! coordinator settled it. The log's own last conflict says where to go on, and nothing else does: a
//! crash between the answer and the append loses nothing, and one behind the append doubles nothing,
//! though it may have kept a part of a page.
//!
//! The log itself, when to look again, and what to do about an append that failed are left to whoever
//! keeps the log.

use super::Coordinator;
use crate::audit::{self, ConflictFacts, Event, Original};
use crate::conflict::{Conflict, ConflictQuery, Place, Which};
use crate::env::{Clock, Env};
use crate::version::SiteId;
use std::future::Future;

/// How far an audit log has the conflicts of its site's authority.
#[derive(Clone, Debug)]
pub struct Logged {
    /// The last that the log has; `None`: none, so that it is given all there are.
    last: Option<Place>,
    /// Conflicts in one append.
    page: usize,
}

impl Logged {
    /// A log with this as its last conflict, which is given `page` of them at once.
    pub fn behind(last: Option<&audit::Conflict>, page: usize) -> Self {
        let place = |conflict: &audit::Conflict| {
            let facts = conflict.facts();
            facts.losers.first().map(|lost| Place { seq: facts.seq, lost: lost.dot })
        };
        Logged { last: last.and_then(place), page }
    }

    /// Appends the next page: events with their times, in milliseconds since the epoch. `append` returns
    /// once they are durable; after its error the same page comes again. True when more may be waiting;
    /// what waits while D1 does not answer waits there.
    pub async fn follow<E: Env, A, F>(
        &mut self,
        coordinator: &Coordinator<E>,
        append: impl FnOnce(Vec<(u64, Event)>) -> A,
    ) -> Result<bool, F>
    where
        A: Future<Output = Result<(), F>>,
    {
        let ask =
            |which, limit| coordinator.conflicts(ConflictQuery { dataset: None, which, limit });
        let Ok(found) = ask(Which::After(self.last), self.page).await else { return Ok(false) };
        let Some(newest) = found.last() else {
            // A database that was set back counts its feed anew from where it stands.
            if let Some(place) = self.last
                && let Ok(all) = ask(Which::Before(None), 1).await
                && all.first().is_none_or(|end| end.seq < place.seq)
            {
                tracing::warn!("D1 was set back: conflicts are followed from where it stands now");
                self.last = all.first().map(Conflict::place);
            }
            return Ok(false);
        };
        let (place, more) = (newest.place(), found.len() == self.page);
        let site = coordinator.site();
        let now_ms = u64::try_from(coordinator.env.clock().wall().as_millis()).unwrap_or(u64::MAX);
        append(found.iter().map(|settled| (now_ms, event(site, settled))).collect()).await?;
        self.last = Some(place);
        Ok(more)
    }
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
