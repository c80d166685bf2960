//! Exchanging: what another site's authority holds is taken in by this one's, and the other way
//! round.
//!
//! ```text
//! here: changes after my place in your feed? ──> there: versions, in feed order
//! here: the values that I lack?              ──> there: values, and what lost against them (V6)
//! here: compare-and-set over what stands here, merged where the two are concurrent
//! ```
//!
//! A site pulls: a peer that was away finds whatever it missed in the feed, which is as durable as
//! the authority itself, so nobody keeps hints for it. News travels as a hint to pull at once.
//!
//! Invariant: a version that comes from another site is in that site's authority, durably, before
//! it enters this one (a version that no authority has accepted is never a merge's parent). The
//! place up to which a feed counts as followed never passes a version that is not in the authority
//! here.

use super::compare::Comparison;
use super::watch::News;
use super::{Coordinator, SiteStatus, State};
use crate::env::{
    Clock, Env, FeedPage, Network, Outcome, Peer, PeerMessage, PeerReply, RowHistory, RowStore,
    Storage, Wanted, Whole,
};
use crate::lane::Priority;
use crate::record::{Loser, RecordId, StoreId, Stored, Written};
use crate::resolve::{self, Held};
use crate::row::{Change, Poll, Seq};
use crate::tree::Leaf;
use crate::version::{NodeId, SiteId, Version, VersionVector};
use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::sync::Arc;
use std::time::Duration;

/// Records in one request for values.
const FETCH_RECORDS: usize = 100;
/// Of these, read from the authority at once.
const READ_RECORDS: usize = 20;
/// An answer ends after this; the rest is asked for again.
const ANSWER_WITHIN: Duration = Duration::from_millis(500);
/// Bytes of values after which an answer ends.
const ANSWER_BYTES_MAX: usize = 8 * 1024 * 1024;
/// Versions of other sites that wait for the authority; no more are fetched until some are in.
const ADOPTIONS_MAX: usize = 1_000;
/// Bytes of their values.
const ADOPTION_BYTES_MAX: usize = 64 * 1024 * 1024;

/// A version of another site, on its way into the authority here.
#[derive(Clone, Debug)]
pub(super) struct Adoption {
    pub(super) held: Held,
    pub(super) losers: Vec<Loser>,
    /// What of it was not here, write by write.
    pub(super) writes: Vec<Written>,
    from: SiteId,
    /// The authority will not take it: it is passed over.
    pub(super) dead: bool,
}

impl Adoption {
    fn bytes(&self) -> usize {
        let writes = self.writes.iter().map(|written| written.value.held_bytes());
        self.held.value.held_bytes() + writes.sum::<usize>()
    }
}

/// Another site's feed, as far as it was followed.
#[derive(Clone, Debug, Default)]
pub(super) struct Followed {
    /// Versions up to here were asked for.
    cursor: Seq,
    /// Versions up to here are in the authority here.
    reached: Seq,
    /// Where the feed ended when it was last followed to its end.
    ended: Seq,
    /// Whatever ever stood there up to here is in the authority here, or what followed it. What has
    /// been reached says less: a record that changes moves to the feed's end, behind what was read.
    seen_through: Seq,
    /// Of its versions that are on their way into the authority here.
    adopting: usize,
    /// What it says is decided there, which holds here too once all that it gave is in.
    vouched: Option<VersionVector>,
    /// What is decided there, and has come here as far as there is anything of it.
    settled: VersionVector,
    /// It said that it has news.
    hinted: bool,
    failures: u32,
    /// How far the trees were compared, before the feed is followed from where that began.
    comparison: Option<Comparison>,
    /// Where the looks over a dataset go on to compare its tree.
    compared: BTreeMap<Arc<str>, Leaf>,
}

enum Pulled {
    /// Everything that the feed had.
    All,
    /// More waits.
    More,
}

/// The other site does not answer, or the authority here does not take in what it gave.
pub(super) struct NotNow;

impl<E: Env> Coordinator<E> {
    /// This coordinator's site.
    pub(super) fn site(&self) -> SiteId {
        self.env.network().site()
    }

    /// The coordinators that share this one's stores, in order.
    pub(super) fn sharing(&self) -> Vec<NodeId> {
        let here = self.site();
        let peers = self.env.network().peers().into_iter();
        peers.filter(|peer| peer.site == here).map(|peer| peer.node).collect()
    }

    /// Begins to talk to members that were not there before. Those who are gone end their tasks
    /// by themselves.
    pub(super) fn meet_members(self: &Arc<Self>) {
        let here = self.site();
        for Peer { node, site } in self.env.network().peers() {
            let mut state = self.state();
            if let Entry::Vacant(vacant) = state.news.entry(node) {
                vacant.insert(if site == here { News::shared() } else { News::Hint(false) });
                self.env.spawn(self.clone().news_loop(Peer { node, site }));
            }
            if site == here {
                continue;
            }
            if let Entry::Vacant(vacant) = state.sites.entry(site) {
                vacant.insert(Followed::default());
                self.env.spawn(self.clone().exchange_loop(site));
            }
        }
    }

    /// How far all that another site's feed ever showed is known to be in the authority here.
    pub(super) fn seen_through(&self, site: SiteId) -> Seq {
        self.state().sites.get(&site).map(|followed| followed.seen_through).unwrap_or_default()
    }

    async fn exchange_loop(self: Arc<Self>, site: SiteId) {
        loop {
            let news = self.wake.exchange.notified();
            if self.is_stopped() {
                return;
            }
            let peers = self.env.network().peers();
            let members: Vec<NodeId> =
                peers.into_iter().filter(|peer| peer.site == site).map(|peer| peer.node).collect();
            if self.is_leaving() {
                // Those that stay follow it; what is taken in here would be owed here.
                return;
            }
            let Some(failures) = self.begin_pull(site) else { return };
            if members.is_empty() {
                self.state().sites.remove(&site);
                return;
            }
            // Another of its members after each failure; each coordinator begins with its own.
            let turn = usize::from(self.actor.node.0) + failures as usize;
            let pulled = self.pull(site, members[turn % members.len()]).await;
            let failures = self.end_pull(site, pulled.is_ok());
            let pause = match pulled {
                Ok(Pulled::More) => continue,
                Ok(Pulled::All) => self.pace.poll,
                Err(NotNow) => {
                    let pause = crate::retry::pause(failures, self.env.random());
                    self.env.clock().sleep(pause.min(self.pace.poll)).await;
                    continue;
                }
            };
            if self.is_hinted(site) {
                continue;
            }
            tokio::select! {
                biased;
                () = news => {}
                () = self.env.clock().sleep(pause) => {}
            }
        }
    }

    fn begin_pull(&self, site: SiteId) -> Option<u32> {
        let mut state = self.state();
        let followed = state.sites.get_mut(&site)?;
        followed.hinted = false;
        Some(followed.failures)
    }

    fn end_pull(&self, site: SiteId, answered: bool) -> u32 {
        let mut state = self.state();
        let Some(followed) = state.sites.get_mut(&site) else { return 0 };
        followed.failures = if answered { 0 } else { followed.failures.saturating_add(1) };
        followed.failures
    }

    fn is_hinted(&self, site: SiteId) -> bool {
        self.state().sites.get(&site).is_some_and(|followed| followed.hinted)
    }

    /// Follows a site's feed by one page.
    async fn pull(&self, site: SiteId, from: NodeId) -> Result<Pulled, NotNow> {
        self.room_for_adoptions().await?;
        let (after, reached) =
            self.state().sites.get(&site).map(|f| (f.cursor, f.reached)).unwrap_or_default();
        if after == Seq(0) && self.is_to_compare_first()? {
            let followed = |state: &mut State| state.sites.get_mut(&site)?.comparison.take();
            let mut comparison = followed(&mut self.state());
            let compared = self.compare_all(site, from, &mut comparison).await;
            let mut state = self.state();
            let Some(followed) = state.sites.get_mut(&site) else { return Err(NotNow) };
            followed.comparison = comparison;
            let at = compared?;
            if at > Seq(0) {
                followed.cursor = at;
                followed.note_reached();
                return Ok(Pulled::More);
            }
        }
        let asked = PeerMessage::Changes { site: self.site(), after, reached };
        let asked = self.env.network().request(from, asked);
        let Outcome::Applied(PeerReply::Changes(page)) = asked.await else { return Err(NotNow) };
        let FeedPage { changes, complete, head, settled } = page;
        if head < after {
            tracing::warn!(%site, "its feed has begun anew; following it from the beginning");
            if let Some(followed) = self.state().sites.get_mut(&site) {
                followed.begin_anew();
            }
            return Ok(Pulled::More);
        }
        let end = changes.last().map_or(after, |change| change.seq);
        let wanted = self.lacking(changes);
        self.fetch_and_adopt(site, from, wanted).await?;
        let mut state = self.state();
        if let Some(followed) = state.sites.get_mut(&site) {
            followed.cursor = end;
            if complete {
                followed.vouched = Some(settled);
                followed.ended = end;
            }
            followed.note_reached();
        }
        Ok(if complete { Pulled::All } else { Pulled::More })
    }

    /// True when a feed that was not followed yet may be long, and most of it is here already. An
    /// error: nobody knows what is here.
    fn is_to_compare_first(&self) -> Result<bool, NotNow> {
        let state = self.state();
        if state.ledger.is_complete() {
            Ok(state.ledger.len() > self.pace.feed_page)
        } else {
            Err(NotNow)
        }
    }

    /// Asks for values, and sends them towards the authority here.
    pub(super) async fn fetch_and_adopt(
        &self,
        site: SiteId,
        from: NodeId,
        mut wanted: Vec<Wanted>,
    ) -> Result<(), NotNow> {
        while !wanted.is_empty() {
            self.room_for_adoptions().await?;
            let asked = wanted.iter().take(FETCH_RECORDS).cloned().collect();
            let fetched = self.env.network().request(from, PeerMessage::Fetch(asked)).await;
            let Outcome::Applied(PeerReply::Values(values)) = fetched else { return Err(NotNow) };
            if values.is_empty() || values.len() > wanted.len() {
                return Err(NotNow);
            }
            let rest = wanted.split_off(values.len());
            self.adopt(site, &wanted, values)?;
            wanted = rest;
        }
        Ok(())
    }

    /// Waits until the authority here has taken enough of what was fetched before.
    async fn room_for_adoptions(&self) -> Result<(), NotNow> {
        loop {
            let settled = self.wake.adopted.notified();
            if self.is_stopped() {
                return Err(NotNow);
            }
            {
                let state = self.state();
                let full =
                    state.adoptions >= ADOPTIONS_MAX || state.adoption_bytes >= ADOPTION_BYTES_MAX;
                if !full {
                    return Ok(());
                }
            }
            settled.await;
        }
    }

    /// Of the changes of another site, those that the authority here is not known to hold.
    fn lacking(&self, changes: Vec<Change>) -> Vec<Wanted> {
        let state = self.state();
        let lacking = |change: Change| {
            let theirs = change.version.filter(|_| !change.foreign)?;
            state.policy.datasets.get(&change.record.dataset)?;
            let known = state.ledger.known(&change.record).and_then(|known| known.version);
            let current = known.as_ref().map(|known| known.current().dot);
            let covered = known.as_ref().is_some_and(|known| known.includes(&theirs));
            let known = resolve::history_of(known.as_ref());
            (!covered).then_some(Wanted { record: change.record, known, current })
        };
        changes.into_iter().filter_map(lacking).collect()
    }

    /// Sends what another site gave towards the authority here.
    fn adopt(&self, from: SiteId, asked: &[Wanted], given: Vec<Whole>) -> Result<(), NotNow> {
        let wall = self.env.clock().wall();
        let mut state = self.state();
        for (wanted, whole) in asked.iter().zip(given) {
            if whole.record != wanted.record {
                tracing::error!(%from, record = %wanted.record, "it gave another record");
                return Err(NotNow);
            }
            let Some(held) = whole.held else { continue };
            if !is_whole(&held) {
                tracing::error!(%from, record = %wanted.record, "its bytes do not match their hash");
                return Err(NotNow);
            }
            state.meet_stamp(wall, &held.version);
            let Whole { losers, writes, .. } = whole;
            let adoption = Adoption { held, losers, writes, from, dead: false };
            state.begin_adoption(&wanted.record, adoption);
            self.push(&mut state, StoreId::D1, &wanted.record, Priority::Repair);
        }
        Ok(())
    }

    /// Sends a version that somebody holds towards the authority, where it meets what stands there.
    pub(super) fn adopt_one(&self, record: &RecordId, held: Held) {
        let mut state = self.state();
        let (from, losers, writes) = (self.site(), Vec::new(), Vec::new());
        let adoption = Adoption { held, losers, writes, from, dead: false };
        state.begin_adoption(record, adoption);
        self.push(&mut state, StoreId::D1, record, Priority::Repair);
    }

    /// Of what other sites gave, a version that is no delete and that this includes.
    pub(super) fn adopted_in(&self, record: &RecordId, version: &Version) -> Option<Version> {
        let state = self.state();
        let adoptions = state.slots.get(record)?.adoptions.iter();
        let versions = adoptions.map(|adoption| &adoption.held.version);
        let mut live = versions.filter(|adopted| !adopted.current().deleted);
        live.find(|adopted| version.history.covers(&adopted.history)).cloned()
    }

    /// The authority here holds everything that these include.
    pub(super) fn settle_adoptions(&self, state: &mut State, record: &RecordId, by: &Version) {
        if state.adoptions > 0 && state.end_adoptions(record, by) {
            self.wake.adopted.notify_waiters();
        }
    }

    /// Takes note of what another coordinator says, or answers what it asks.
    pub async fn receive(&self, message: PeerMessage) -> PeerReply {
        match message {
            PeerMessage::Installed(changes) => {
                for change in &changes {
                    self.learn_change(change);
                }
                PeerReply::Noted
            }
            PeerMessage::Keep(intent) => self.keep(*intent).await,
            PeerMessage::Hint(site) => {
                if let Some(followed) = self.state().sites.get_mut(&site) {
                    followed.hinted = true;
                }
                self.wake.exchange.notify_waiters();
                PeerReply::Noted
            }
            PeerMessage::Changes { site, after, reached } => {
                // Before the feed is read: whatever is decided by now shows in it.
                let settled = self.state().reaping.heard(site, reached);
                let poll = Poll { actor: self.actor, after, limit: self.pace.feed_page };
                if let Err(held) = self.not_held(StoreId::D1) {
                    return PeerReply::Unavailable(held.to_string());
                }
                match self.env.storage().d1().poll(poll).await {
                    Ok(page) => PeerReply::Changes(FeedPage {
                        changes: page.changes,
                        complete: page.complete,
                        head: page.head,
                        settled,
                    }),
                    Err(unavailable) => PeerReply::Unavailable(unavailable.to_string()),
                }
            }
            PeerMessage::Fetch(wanted) => self.give(wanted).await,
            PeerMessage::Roots => self.give_roots(),
            PeerMessage::Children { dataset, nodes } => self.give_children(&dataset, &nodes),
            PeerMessage::Leaves { dataset, leaves, after } => {
                self.give_leaves(&dataset, &leaves, after).await
            }
        }
    }

    /// The values that another site asks for, until the answer is large, or late: what it gives
    /// must arrive while somebody waits for it.
    async fn give(&self, wanted: Vec<Wanted>) -> PeerReply {
        let late = self.now() + ANSWER_WITHIN;
        let mut bytes = 0;
        let mut values = Vec::new();
        for wanted in wanted.chunks(READ_RECORDS) {
            let records = wanted.iter().map(|wanted| wanted.record.clone()).collect();
            let found = match self.not_held(StoreId::D1) {
                Ok(()) => self.env.storage().d1().histories(records).await,
                Err(held) => Err(held),
            };
            let histories = match found {
                Ok(histories) => histories,
                Err(error) if values.is_empty() => {
                    return PeerReply::Unavailable(error.to_string());
                }
                Err(_) => return PeerReply::Values(values),
            };
            for (wanted, history) in wanted.iter().zip(histories) {
                match self.whole_of(wanted, history).await {
                    Ok(whole) => {
                        bytes += bytes_in(&whole);
                        values.push(whole);
                    }
                    Err(detail) if values.is_empty() => return PeerReply::Unavailable(detail),
                    Err(_) => return PeerReply::Values(values),
                }
                if bytes >= ANSWER_BYTES_MAX || self.now() >= late {
                    return PeerReply::Values(values);
                }
            }
        }
        PeerReply::Values(values)
    }

    async fn whole_of(&self, wanted: &Wanted, history: RowHistory) -> Result<Whole, String> {
        let Wanted { record, known, current } = wanted;
        let RowHistory { row, losers: found, mut writes } = history;
        let row = row.unwrap_or_default();
        let record = record.clone();
        let nothing =
            Whole { record: record.clone(), held: None, losers: Vec::new(), writes: Vec::new() };
        // Bytes that are nobody's version yet will have a place of their own in the feed.
        let Some(version) = row.version.clone().filter(|_| !row.has_foreign_write()) else {
            return Ok(nothing);
        };
        let value = self.bytes_of(row.value.unwrap_or(Stored::Tombstone)).await?;
        let mut losers = Vec::new();
        for loser in found {
            // What the asking site has covered it keeps, or has superseded; but for the value that
            // stands there, which may have lost here against a write that it has not seen.
            let dot = loser.sibling.dot;
            if !known.covers_dot(dot) || *current == Some(dot) {
                let value = self.bytes_of(loser.value).await?;
                losers.push(Loser { value, ..loser });
            }
        }
        writes.retain(|written| !known.covers_dot(written.sibling.dot));
        Ok(Whole { record, held: Some(Held { version, value }), losers, writes })
    }

    async fn bytes_of(&self, value: Stored) -> Result<Stored, String> {
        match value {
            Stored::Reference { hash, .. } => match self.blob(hash).await {
                Ok(bytes) => Ok(Stored::Inline(bytes)),
                Err(doubt) => Err(doubt.to_string()),
            },
            // What was erased travels as that: where it is known already, as what is known there.
            Stored::Inline(_) | Stored::Tombstone | Stored::Erased(_) => Ok(value),
        }
    }
}

fn bytes_in(whole: &Whole) -> usize {
    let losers = whole.losers.iter().map(|loser| loser.value.held_bytes());
    let writes = whole.writes.iter().map(|written| written.value.held_bytes());
    losers.chain(writes).sum::<usize>()
        + whole.held.as_ref().map_or(0, |held| held.value.held_bytes())
}

/// True when a value is what its version says.
fn is_whole(held: &Held) -> bool {
    let current = held.version.current();
    match &held.value {
        Stored::Tombstone => current.deleted,
        Stored::Inline(bytes) => {
            !current.deleted && crate::version::ContentHash::of(bytes) == current.hash
        }
        Stored::Reference { .. } | Stored::Erased(_) => false,
    }
}

impl Followed {
    /// Its feed, or what of it is here, is not what it was.
    pub(super) fn begin_anew(&mut self) {
        (self.cursor, self.reached) = (Seq(0), Seq(0));
        (self.ended, self.seen_through) = (Seq(0), Seq(0));
        (self.vouched, self.settled) = (None, VersionVector::new());
        self.comparison = None;
    }

    /// Versions up to here are in the authority here, or on their way; `None`: it is not followed yet.
    pub(super) fn up_to(&self) -> Option<Seq> {
        (self.cursor > Seq(0)).then_some(self.cursor)
    }

    /// Where the next look over a dataset goes on to compare its tree.
    pub(super) fn compared(&self, dataset: &str) -> Option<Leaf> {
        self.compared.get(dataset).copied()
    }

    pub(super) fn note_compared(&mut self, dataset: &Arc<str>, past: Option<Leaf>) {
        match past {
            Some(past) => drop(self.compared.insert(dataset.clone(), past)),
            None => drop(self.compared.remove(dataset)),
        }
    }

    /// What is decided there, and here.
    pub(super) fn settled(&self) -> &VersionVector {
        &self.settled
    }

    pub(super) fn status(&self, site: SiteId) -> SiteStatus {
        let Followed { cursor, reached, adopting, failures, .. } = *self;
        SiteStatus { site, cursor, reached, adopting, failures }
    }

    fn note_reached(&mut self) {
        if self.adopting > 0 {
            return;
        }
        self.reached = self.cursor;
        self.seen_through = self.ended;
        if let Some(settled) = self.vouched.take() {
            self.settled = self.settled.join(&settled);
        }
    }
}

impl State {
    /// Versions of one record wait side by side until they are in; a newer one takes the place of
    /// one that it includes.
    fn begin_adoption(&mut self, record: &RecordId, mut new: Adoption) {
        let slot = self.slots.entry(record.clone()).or_default();
        let mut kept = Vec::with_capacity(slot.adoptions.len() + 1);
        for former in slot.adoptions.drain(..) {
            if new.held.version.includes(&former.held.version) {
                self.adoptions -= 1;
                self.adoption_bytes -= former.bytes();
                if let Some(followed) = self.sites.get_mut(&former.from) {
                    followed.adopting = followed.adopting.saturating_sub(1);
                }
                // What lost against it lost against what includes it, and so does what it was made of.
                new.losers.extend(former.losers);
                new.writes.splice(0..0, former.writes);
            } else {
                kept.push(former);
            }
        }
        self.adoptions += 1;
        self.adoption_bytes += new.bytes();
        if let Some(followed) = self.sites.get_mut(&new.from) {
            followed.adopting += 1;
        }
        kept.push(new);
        slot.adoptions = kept;
    }

    /// True when some have ended.
    fn end_adoptions(&mut self, record: &RecordId, by: &Version) -> bool {
        let Some(slot) = self.slots.get_mut(record) else { return false };
        let mut ended: BTreeMap<SiteId, usize> = BTreeMap::new();
        let mut bytes = 0;
        slot.adoptions.retain(|adoption| {
            let covered = by.includes(&adoption.held.version);
            if covered {
                *ended.entry(adoption.from).or_default() += 1;
                bytes += adoption.bytes();
            }
            !covered
        });
        self.adoption_bytes -= bytes;
        for (site, count) in &ended {
            self.adoptions -= count;
            if let Some(followed) = self.sites.get_mut(site) {
                followed.adopting = followed.adopting.saturating_sub(*count);
                followed.note_reached();
            }
        }
        !ended.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_session_may_rely_on_a_feed_only_as_far_as_its_last_end_is_here() {
        let mut followed = Followed { cursor: Seq(5), ended: Seq(5), ..Followed::default() };
        followed.note_reached();
        assert_eq!((followed.reached, followed.seen_through), (Seq(5), Seq(5)));
        // A page that leaves more: what a session saw at 7 may have moved to 20.
        followed.cursor = Seq(9);
        followed.note_reached();
        assert_eq!((followed.reached, followed.seen_through), (Seq(9), Seq(5)));
        // The rest has come, and a version of it is on its way into the authority.
        (followed.cursor, followed.ended, followed.adopting) = (Seq(20), Seq(20), 1);
        followed.note_reached();
        assert_eq!((followed.reached, followed.seen_through), (Seq(9), Seq(5)));
        followed.adopting = 0;
        followed.note_reached();
        assert_eq!((followed.reached, followed.seen_through), (Seq(20), Seq(20)));
        followed.begin_anew();
        assert_eq!(followed.seen_through, Seq(0));
    }
}
