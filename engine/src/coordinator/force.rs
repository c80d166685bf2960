//! Breakers that an operator forces open or closed, or has automatic again.
//!
//! Invariant: an operator's word holds from the moment of its answer, whatever the journal says; the
//! answer tells whether it will outlive a restart. While a store is held (forced open) nothing is
//! sent to it by this coordinator, be it work, reads or probes; what it is owed waits in the journal
//! and in its rows. Another coordinator in front of the same store has a breaker of its own, and
//! takes over the marks whose leases lapse meanwhile.

use super::{Coordinator, State};
use crate::breaker::{Force, Forced};
use crate::env::{Clock, Env, Unavailable};
use crate::journal::JournalError;
use crate::record::StoreId;
use std::fmt;
use std::time::Duration;

/// For how long an operator's word holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kept {
    /// Until another one, over restarts too.
    OverRestarts,
    /// The journal's disk has no room: until the process ends, unless there is room before.
    WhileItRuns,
}

/// Why a breaker was not forced.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ForceError {
    /// The journal failed, and the coordinator starts again with what is on the disk: nobody knows
    /// whether that includes this.
    Journal(JournalError),
    /// The coordinator is stopping.
    Stopping,
}

impl fmt::Display for ForceError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ForceError::Journal(error) => write!(
                f,
                "{error}; look at the store's breaker once the journal has been replayed, and ask \
                 again if it is not as it should be"
            ),
            ForceError::Stopping => f.write_str("this coordinator is stopping; try again"),
        }
    }
}

impl std::error::Error for ForceError {}

impl<E: Env> Coordinator<E> {
    /// Forces a store's breaker, or has it automatic again (`None`). The reason is kept and shown
    /// while it holds.
    pub async fn force_breaker(
        &self,
        store: StoreId,
        to: Option<Force>,
        reason: &str,
    ) -> Result<Kept, ForceError> {
        let wall_ms = self.env.clock().wall().as_millis();
        let since_ms = u64::try_from(wall_ms).unwrap_or(u64::MAX);
        let durable = {
            let mut state = self.state();
            if self.is_stopped() {
                return Err(ForceError::Stopping);
            }
            let forced = to.map(|to| Forced { store, to, reason: reason.to_owned(), since_ms });
            let former = match forced {
                Some(forced) => state.forced.insert(store, forced),
                None => state.forced.remove(&store),
            };
            if former.is_none() && to.is_none() {
                return Ok(Kept::OverRestarts);
            }
            let transition = state.breakers[store].force(self.now(), to);
            self.follow_breaker(&mut state, store, transition);
            // It may be to be probed again.
            self.wake.probes[store].notify_one();
            // Under the state's lock, so that the journal has them in this order.
            self.note_forced(state.forced.values().cloned().collect())
        };
        tracing::warn!(%store, to = ?to, reason, "an operator has set the store's breaker");
        match durable.await {
            Ok(Ok(())) => Ok(Kept::OverRestarts),
            Ok(Err(JournalError::Full(_))) => Ok(Kept::WhileItRuns),
            Ok(Err(error)) => Err(ForceError::Journal(error)),
            Err(_) => Err(ForceError::Stopping),
        }
    }

    /// What an operator has forced a store's breaker to be; `None`: it is automatic.
    pub fn forced(&self, store: StoreId) -> Option<Force> {
        self.state().forced.get(&store).map(|forced| forced.to)
    }

    /// Nothing may be sent to a store that an operator holds.
    pub(super) fn not_held(&self, store: StoreId) -> Result<(), Unavailable> {
        let state = self.state();
        if !state.breakers[store].is_held() {
            return Ok(());
        }
        Err(Unavailable(state.held_words(store).into()))
    }
}

impl State {
    /// What was forced before the start holds still.
    pub(super) fn restore_forced(&mut self, forced: Vec<Forced>, now: Duration) {
        for forced in forced {
            self.breakers[forced.store].force(now, Some(forced.to));
            if !self.breakers[forced.store].admits() {
                self.lanes[forced.store].pause();
                self.recoveries[forced.store].opened();
            }
            self.forced.insert(forced.store, forced);
        }
    }

    /// Why nothing is sent to a store that is held.
    pub(super) fn held_words(&self, store: StoreId) -> String {
        let reason = self.forced.get(&store).map_or("", |forced| forced.reason.as_str());
        format!(
            "{store} is held by an operator ({reason}); `tidelock store auto {store}` ends that"
        )
    }
}
