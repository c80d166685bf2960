//! Watching: what others wrote, what they left undone, and whether stores answer again.
//!
//! Invariant: whatever is owed at the authority is found by every coordinator within one poll of
//! its lease's end; a store whose breaker is not closed is probed on a timer, whether or not
//! there is traffic.

use super::Coordinator;
use crate::breaker::{COOL_DOWN, Seen};
use crate::env::{Clock, Env, KvStore, Network, ObjectStore, Peer, PeerMessage, RowStore, Storage};
use crate::lane::Priority;
use crate::policy::Pace;
use crate::record::StoreId;
use crate::row::{Change, Poll, PollPage};
use crate::version::SiteId;
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

/// Entries of the change feed, and marks, in one poll.
const POLL_LIMIT: usize = 500;
/// News that waits for a peer; older news is dropped, since the peer's own poll brings it too.
const NEWS_WAITING_MAX: usize = 256;
/// A key that nothing is stored under: reading it asks whether the store answers.
pub const PROBE_KEY: &str = "_tidelock/probe";

impl<E: Env> Coordinator<E> {
    /// Follows the authority's change feed and takes lapsed marks over, while the authority's breaker
    /// admits traffic.
    pub(super) async fn watch_loop(self: Arc<Self>) {
        while !self.is_stopped() {
            self.meet_members();
            let answers_again = self.wake.polls.notified();
            let looks = {
                let state = self.state();
                let admits = state.admits(StoreId::D1);
                admits.then(|| (state.ledger.cursor(), state.letters.len()))
            };
            let Some((after, dead)) = looks else {
                answers_again.await;
                continue;
            };
            // Marks of copies that no store takes stay lapsed: they must not hide the others.
            let poll = Poll { actor: self.actor, after, limit: POLL_LIMIT + dead };
            let sent_at = self.now();
            let polled = tokio::select! {
                biased;
                polled = self.env.storage().d1().poll(poll) => polled,
                // This one was lost before the breaker opened.
                () = answers_again => continue,
            };
            let pause = match polled {
                Ok(page) => {
                    self.see_store_clock(page.now, sent_at);
                    // A database that can be read and not written must not look healthy: while
                    // the breaker is closed only batches speak for it.
                    let pause = if page.complete { self.poll_pause(&page) } else { Duration::ZERO };
                    self.take_page(page);
                    pause
                }
                Err(_) => {
                    self.record_seen(StoreId::D1, sent_at, Seen::Failure);
                    COOL_DOWN
                }
            };
            if !pause.is_zero() {
                self.env.clock().sleep(pause).await;
            }
        }
    }

    /// Until the next poll: a mark that lapses is to be found at once, but not by every
    /// coordinator in the same moment.
    fn poll_pause(&self, page: &PollPage) -> Duration {
        let Pace { poll, poll_min, .. } = self.pace;
        let Some(at) = page.next_lapse else { return poll };
        // Several answers of the authority fit in between: whoever comes second finds it taken.
        let apart_ms = u64::try_from((poll_min / 2).as_millis()).expect("less than a second");
        let apart_ms = self.env.random() % apart_ms.max(1);
        let wait = Duration::from_millis(at.0.saturating_sub(page.now.0) + apart_ms);
        wait.clamp(poll_min, poll.max(poll_min))
    }

    fn take_page(&self, page: PollPage) {
        if page.head < self.state().ledger.cursor() {
            self.forget_ledger("its change feed ends before what was read of it");
            return;
        }
        for change in &page.changes {
            self.learn_change(change);
        }
        let (mut state, now) = (self.state(), self.now());
        for (dataset, latest) in &page.reaped {
            state.ledger.reaped(dataset, *latest);
        }
        if let Some(last) = page.changes.last() {
            state.ledger.followed(last.seq, page.complete);
        } else {
            let cursor = state.ledger.cursor();
            state.ledger.followed(cursor, page.complete);
        }
        if state.complete_from.is_none() && page.complete {
            state.complete_from = Some(state.ledger.cursor());
        }
        for (record, store) in page.lapsed {
            // The marks of a dataset that is gone wait for its return.
            let Some(dataset) = state.policy.datasets.get(&record.dataset) else { continue };
            if dataset.projection(store).is_none() {
                state.slots.entry(record.clone()).or_default().unkept.insert(store);
                self.push(&mut state, StoreId::D1, &record, Priority::Repair);
                continue;
            }
            // While the store does not answer us, somebody whom it does answer may take it.
            if !state.admits(store) || state.is_copy_dead(&record, store, now) {
                continue;
            }
            let slot = state.slots.get(&record);
            if state.leaving && slot.is_none_or(|slot| !slot.owed.contains_key(&store)) {
                continue;
            }
            let slot = state.slots.entry(record.clone()).or_default();
            if !slot.owed.contains_key(&store) {
                slot.owed.insert(store, Box::default());
                state.counters.taken_over += 1;
            }
            self.push(&mut state, store, &record, Priority::Repair);
        }
    }

    /// Asks a store on a timer whether it answers, while its breaker is not closed.
    pub(super) async fn probe_loop(self: Arc<Self>, store: StoreId) {
        loop {
            let news = self.wake.probes[store].notified();
            if self.is_stopped() {
                return;
            }
            let now = self.now();
            let due = self.state().breakers[store].probe_at();
            match due {
                None => news.await,
                Some(at) if at > now => tokio::select! {
                    biased;
                    () = news => {}
                    () = self.env.clock().sleep(at - now) => {}
                },
                Some(_) => {
                    self.state().breakers[store].probe_sent(now);
                    self.env.spawn(self.clone().probe(store));
                }
            }
        }
    }

    async fn probe(self: Arc<Self>, store: StoreId) {
        let began = self.now();
        let answered = if self.is_stopped() || self.not_held(store).is_err() {
            None
        } else {
            Some(self.answers(store, began).await)
        };
        {
            let mut state = self.state();
            state.breakers[store].probe_ended();
            state.counters.probes += u64::from(answered.is_some());
        }
        if let Some(answered) = answered {
            self.record_seen(store, began, if answered { Seen::Answer } else { Seen::Failure });
        }
        // The next may be due at once, or allowed again.
        self.wake.probes[store].notify_one();
    }

    async fn answers(&self, store: StoreId, began: Duration) -> bool {
        let storage = self.env.storage();
        match store {
            StoreId::Kv => storage.kv().get(PROBE_KEY).await.is_ok(),
            StoreId::R2 => storage.r2().get(PROBE_KEY).await.is_ok(),
            StoreId::D1 => {
                let after = self.state().ledger.cursor();
                let page = storage.d1().poll(Poll { actor: self.actor, after, limit: 1 }).await;
                if let Ok(page) = &page {
                    self.see_store_clock(page.now, began);
                }
                page.is_ok()
            }
        }
    }

    /// Tells a peer what is new in the authority, so that it need not wait for its poll.
    pub(super) async fn news_loop(self: Arc<Self>, peer: Peer) {
        loop {
            let news = self.wake.news.notified();
            if self.is_stopped() {
                return;
            }
            let message = match self.state().news.get_mut(&peer.node) {
                Some(waiting) => waiting.take(self.site()),
                None => return,
            };
            let Some(message) = message else {
                news.await;
                continue;
            };
            if !self.env.network().peers().contains(&peer) {
                self.state().news.remove(&peer.node);
                return;
            }
            // Lost news is no loss: the peer polls.
            let _ = self.env.network().request(peer.node, message).await;
        }
    }
}

/// News that waits for a peer.
pub(super) enum News {
    /// It shares the stores: these versions are in the authority.
    Changes(VecDeque<Change>),
    /// It has stores of its own: whether there is something to pull.
    Hint(bool),
}

impl News {
    pub(super) fn shared() -> Self {
        News::Changes(VecDeque::new())
    }

    pub(super) fn push(&mut self, change: &Change) {
        match self {
            News::Changes(queue) => {
                if queue.len() >= NEWS_WAITING_MAX {
                    queue.pop_front();
                }
                queue.push_back(change.clone());
            }
            News::Hint(hint) => *hint = true,
        }
    }

    fn take(&mut self, here: SiteId) -> Option<PeerMessage> {
        match self {
            News::Changes(queue) if queue.is_empty() => None,
            News::Changes(queue) => Some(PeerMessage::Installed(queue.drain(..).collect())),
            News::Hint(hint) => std::mem::take(hint).then_some(PeerMessage::Hint(here)),
        }
    }
}
