//! Keeping: a write of another coordinator is journalled here too, until the authority has it.
//!
//! ```text
//! there: durable ──> keep this ──> here: journalled ──> there: acknowledged
//!                                  here: installed like an own write, unless it is there already
//! ```
//!
//! Invariant: what is kept here is a backup. No write here is built on it and no reader gets it
//! before the authority holds it, since the authority may refuse it. It is the same version under
//! the same dot, so that whoever installs it first has installed it for both.

use super::{Coordinator, Pending, State};
use crate::env::{Clock, Env, Network, Outcome, PeerMessage, PeerReply};
use crate::journal::Intent;
use crate::record::RecordId;
use crate::version::NodeId;
use std::sync::Arc;
use std::time::Duration;

impl<E: Env> Coordinator<E> {
    /// Has a coordinator that shares the stores journal a write. False: none did, within this
    /// time.
    pub(super) async fn keep_at_a_peer(&self, intent: &Arc<Intent>, within: Duration) -> bool {
        let late = self.now() + within;
        for peer in self.sharing() {
            if self.now() >= late {
                return false;
            }
            let keep = PeerMessage::Keep(Box::new((**intent).clone()));
            let asked = self.env.network().request(peer, keep);
            let reply = tokio::select! {
                biased;
                reply = asked => reply,
                () = self.env.clock().sleep(late.saturating_sub(self.now())) => return false,
            };
            if reply == Outcome::Applied(PeerReply::Noted) {
                return true;
            }
        }
        false
    }

    /// Journals a write of another coordinator.
    pub(super) async fn keep(&self, intent: Intent) -> PeerReply {
        let refused = |why: &str| PeerReply::Unavailable(why.to_owned());
        let durable = {
            let mut state = self.state();
            if self.is_stopped() || state.leaving {
                return refused("it is stopping");
            }
            let bytes = intent.value.held_bytes();
            let full = state.full(&intent.record.dataset, bytes, &self.pace).is_some();
            if full || intent.only_over.is_some() {
                return refused("it cannot keep this");
            }
            if state.holds(&intent) {
                // Asked twice: the first may still be on its way to the disk.
                return refused("it is being kept already");
            }
            let intent = Arc::new(intent);
            state.hold(intent.clone(), false, self.now());
            self.commit(&mut state, intent)
        };
        match durable.await {
            Ok(Ok(())) => PeerReply::Noted,
            Ok(Err(error)) => PeerReply::Unavailable(error.to_string()),
            Err(_) => refused("it stopped"),
        }
    }
}

impl State {
    fn holds(&self, intent: &Intent) -> bool {
        let slot = self.slots.get(&intent.record);
        slot.is_some_and(|slot| slot.intents.iter().any(|p| p.intent.dot() == intent.dot()))
    }

    /// The newest write of this coordinator's own to a record, that the authority may lack.
    pub(super) fn newest_own(&self, record: &RecordId, own: NodeId) -> Option<&Pending> {
        let slot = self.slots.get(record)?;
        slot.newest_own(own).map(|at| &slot.intents[at])
    }

    /// The same without what is under a condition that the authority has not decided.
    pub(super) fn newest_unconditional(&self, record: &RecordId, own: NodeId) -> Option<&Pending> {
        let slot = self.slots.get(record)?;
        let is_own = |pending: &&Pending| pending.is_kept_for(own).is_none();
        slot.intents.iter().filter(is_own).rfind(|pending| pending.intent.only_over.is_none())
    }
}

impl super::Slot {
    /// Where the newest write of the coordinator's own stands among the intents.
    pub(super) fn newest_own(&self, own: NodeId) -> Option<usize> {
        self.intents.iter().rposition(|pending| pending.is_kept_for(own).is_none())
    }
}
