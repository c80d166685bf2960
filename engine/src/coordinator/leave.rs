//! Leaving: a coordinator that is to be retired ends by owing nobody anything.
//!
//! ```text
//! leave ──> takes no new writes, keeps nothing more for others, takes nothing over
//!       ──> the authority has every write of its journal
//!       ──> last of its site: every other site has followed the feed to its end
//!       ──> tells the authority that all of its writes are decided ──> its journal is empty: left
//! ```
//!
//! Invariant: of a coordinator that has left, nothing is needed any more, its disk included. Every
//! write that it has acknowledged is in the authority; marks that it still holds lapse, and whoever
//! shares the stores takes them over; no tombstone waits for a write of its own. One that is retired
//! without this is one that was lost: what its journal alone held is lost with its disk, as the
//! dataset's promise says.
//!
//! There is no way back but a new start.

use super::Coordinator;
use crate::env::{Env, Network, Outcome, RowStore, Storage};
use crate::record::{Key, RecordId, StoreId};
use crate::row::{Poll, RowAnswer, RowOp};
use crate::version::SiteId;
use serde::Serialize;

/// How far a coordinator has come that leaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "state", rename_all = "kebab-case")]
pub enum Leaving {
    /// Its journal holds writes that the authority does not, or nobody else could bring its site's
    /// copies up to date.
    Owes {
        /// Writes.
        intents: usize,
        /// Those among them, and copies, that a store refuses for good: they wait for an operator.
        dead_letters: usize,
        /// Copies; of no concern while others share the stores.
        copies: usize,
    },
    /// Nobody else answers for its site, and another site has not taken in all of its feed.
    Unheard {
        /// The other site.
        site: SiteId,
    },
    /// The authority has not confirmed that everything is decided.
    Untold,
    /// The journal's disk does not take that it is empty.
    Unforgotten,
    /// It may be stopped for good, and its disk thrown away.
    Left,
}

impl<E: Env> Coordinator<E> {
    /// Begins to leave, or goes on; to be asked again until it says [`Leaving::Left`].
    pub async fn leave(&self) -> Leaving {
        let alone = self.sharing().is_empty();
        let datasets: Vec<_> = {
            let mut state = self.state();
            state.leaving = true;
            let copies =
                if alone { state.slots.values().map(|slot| slot.owed.len()).sum() } else { 0 };
            // From here on this only falls: a write gets its dot under the same lock.
            let intents = state.held.all().writes;
            if intents > 0 || copies > 0 {
                return Leaving::Owes { intents, copies, dead_letters: state.letters.len() };
            }
            state.policy.datasets.keys().cloned().collect()
        };
        self.wake.news.notify_waiters();
        if alone && let Some(not_yet) = self.unheard().await {
            return not_yet;
        }
        let settled = self.settled();
        let last_word = datasets.into_iter().map(|dataset| {
            let record = RecordId { dataset, key: Key::from("") };
            RowOp::Settle { record, settled: settled.clone() }
        });
        let answers = self.rows(last_word.collect()).await;
        let told = |answer: &_| matches!(answer, Outcome::Applied((_, RowAnswer::Floor(_))));
        if !answers.iter().all(told) {
            return Leaving::Untold;
        }
        // Writes that the authority has, or that were called off, are forgotten with a later commit.
        match self.flush().await {
            Ok(Ok(())) => Leaving::Left,
            Ok(Err(_)) | Err(_) => Leaving::Unforgotten,
        }
    }

    /// What other sites lack of this one's feed.
    async fn unheard(&self) -> Option<Leaving> {
        let here = self.site();
        let peers = self.env.network().peers();
        if peers.iter().all(|peer| peer.site == here) {
            return None;
        }
        if self.not_held(StoreId::D1).is_err() {
            return Some(Leaving::Untold);
        }
        let poll = Poll { actor: self.actor, after: self.state().ledger.cursor(), limit: 1 };
        // As far at least as this coordinator's own writes go.
        let Ok(page) = self.env.storage().d1().poll(poll).await else {
            return Some(Leaving::Untold);
        };
        let state = self.state();
        let behind = |site: &SiteId| *site != here && state.reaping.reached(*site) < page.head;
        let site = peers.iter().map(|peer| peer.site).find(behind)?;
        Some(Leaving::Unheard { site })
    }

    /// True once it leaves: it begins nothing that others can do.
    pub(super) fn is_leaving(&self) -> bool {
        self.state().leaving
    }
}
