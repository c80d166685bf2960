//! Installing: an intent's version goes into the authority by compare-and-set.
//!
//! Invariant: what is sent covers what it expects to replace (rule A2), and carries every value
//! that it does not show as a loser (rule V6). An intent leaves the journal only when the
//! authority was seen to hold a version that covers its dot (rule A5c).

use super::exchange::Adoption;
use super::project::Target;
use super::{Coordinator, State};
use crate::blob::BlobsSeen;
use crate::breaker::COOL_DOWN;
use crate::conflict::{By, Decision};
use crate::dead_letter::{Ending, Refused, TRIES_MIN, Verdict};
use crate::env::{Env, Outcome, Refusal, RowHistory};
use crate::journal::{Intent, LetterNote};
use crate::lane::{Next, Priority};
use crate::policy::{Dataset, Kind, Limits, Ruling};
use crate::record::{Loser, RecordId, StoreId, Stored, Written};
use crate::resolve::{self, Held, Met};
use crate::row::{Change, Expect, Grant, Install, Row, RowAnswer, RowOp, Seq};
use crate::settle::{self, Rules, Settled, Values};
use crate::version::{Actor, Basis, Dot, NodeId, Sibling, Version};
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

/// Compare-and-sets in a row that may find the row moved before the record goes to the back of
/// the lane.
const MOVED_MAX: usize = 4;
/// A blob that is put again must be seen to stand there later than its condemnation ends, as far as
/// answers of the store side's clock show that: a few round trips.
const BEYOND_CONDEMNATION: Duration = Duration::from_millis(100);
/// Foreign writes that were refused and are remembered, so that each is reported once.
const REFUSED_REMEMBERED_MAX: usize = 10_000;

/// What to install over what.
pub(super) struct Candidate {
    pub(super) expect: Expect,
    pub(super) held: Held,
    pub(super) losers: Vec<Loser>,
    /// What decided against these.
    pub(super) by: Decision,
    /// What is new of it, write by write, where such are merged.
    pub(super) writes: Vec<Written>,
    /// An intent with a condition: it happens over `expect`, or not at all.
    pub(super) conditional: Option<Arc<Intent>>,
}

/// What is to be brought into the authority: the coordinator's own intents, or a version of another
/// site.
struct Ours {
    held: Held,
    losers: Vec<Loser>,
    by: Decision,
    /// What is new of it, write by write, where such are merged.
    writes: Vec<Written>,
    /// It is an intent of a journal, and no version of another site.
    from_journal: bool,
    /// The intent, where it has a condition: it happens over this row, or not at all.
    only_over: Option<(Arc<Intent>, Expect)>,
}

enum Plan {
    /// Nothing is left to install.
    Idle,
    /// Nobody has the bytes that are needed, now.
    Lacking,
    /// The authority must be read first.
    Look,
    /// The same, with all that it keeps of the record: several values stand beside each other.
    Gather,
    /// The floor must be looked at first: this version is from a journal that may be old, and
    /// the row has not seen it.
    AskFloor { ours: Version, over: Box<Row>, candidate: Candidate, suspect: Sibling },
    Install {
        candidate: Candidate,
        /// What is refused if it is: what was to be brought in, be it as a loser.
        suspect: Sibling,
    },
}

impl<E: Env> Coordinator<E> {
    /// One turn of the authority's lane on one record.
    pub(super) async fn install(&self, record: &RecordId) -> Next {
        let (policy, unkept, expire) = {
            let mut state = self.state();
            let asked = state
                .slots
                .get_mut(record)
                .map(|slot| (std::mem::take(&mut slot.unkept), std::mem::take(&mut slot.expire)));
            let (unkept, expire) = asked.unwrap_or_default();
            (state.policy.clone(), unkept, expire)
        };
        for store in unkept.iter() {
            self.forgo(record, store).await;
        }
        let Some(dataset) = policy.datasets.get(&record.dataset) else {
            // The dataset was taken out of the configuration: its intents wait for its return.
            if expire && let Some(slot) = self.state().slots.get_mut(record) {
                slot.expire = true;
            }
            return Next::At(self.now() + crate::retry::PAUSE_MAX);
        };
        self.exhume(record);
        let mut plan = self.plan(record);
        for _ in 0..MOVED_MAX {
            let (candidate, suspect) = match plan {
                Plan::Idle if expire => {
                    return match self.expire(dataset, record).await {
                        Next::Done => self.rest(record),
                        next => next,
                    };
                }
                Plan::Idle => return self.rest(record),
                Plan::Lacking => return self.install_failed(record, expire),
                Plan::Look => match self.row(RowOp::Read { record: record.clone() }).await {
                    Outcome::Applied((_, RowAnswer::Read(row))) => {
                        plan = self.plan_over(dataset, record, row.map(|row| *row), None);
                        continue;
                    }
                    _ => return self.install_failed(record, expire),
                },
                Plan::Gather => match self.gather(dataset, record).await {
                    Some(RowHistory { row, losers, writes }) => {
                        plan = self.plan_over(dataset, record, row, Some((losers, writes)));
                        continue;
                    }
                    None => return self.install_failed(record, expire),
                },
                Plan::AskFloor { ours, over, candidate, suspect } => {
                    match self.floor(record).await {
                        Some(floor) if floor.buries(&ours, Some(&*over)) => {
                            let mut state = self.state();
                            self.settle(&mut state, record, &ours);
                            drop(state);
                            plan = self.plan(record);
                            continue;
                        }
                        Some(_) => (candidate, suspect),
                        None => return self.install_failed(record, expire),
                    }
                }
                Plan::Install { candidate, suspect } => (candidate, suspect),
            };
            let conditional = candidate.conditional.clone();
            let version = candidate.held.version.clone();
            let known = self.known_row_seq(record);
            let Sibling { dot, bytes, .. } = suspect;
            let beside = shown_before(dataset, record, &version, dot);
            match self.send_install(dataset, record, candidate).await {
                Sent::Done => plan = self.plan(record),
                Sent::Dead => {
                    if let Some(dead) = self.adopted_in(record, &version)
                        && !self.bury(dataset, record, &dead).await
                    {
                        return self.install_failed(record, expire);
                    }
                    let mut state = self.state();
                    self.settle(&mut state, record, &version);
                    drop(state);
                    plan = self.plan(record);
                }
                Sent::Moved(row) => {
                    self.state().counters.installs_moved += 1;
                    if let Some(intent) = conditional
                        && !covers(row.as_ref(), intent.dot())
                        && !(asks_for_nothing(&intent, self.actor)
                            && row.as_ref().is_none_or(Row::is_absent))
                    {
                        self.learn_row(record, row.as_ref());
                        self.cancel(&intent);
                    }
                    plan = self.plan_over(dataset, record, row, None);
                }
                Sent::Failed => return self.install_failed(record, expire),
                Sent::Away => return self.install_waits(record, expire, COOL_DOWN),
                Sent::Condemned(left) => {
                    return self.install_waits(record, expire, left + BEYOND_CONDEMNATION);
                }
                Sent::LoserRefused(loser, refusal) if self.holds(record, loser.sibling.dot) => {
                    // Once it is dead, the letter keeps it and the winner goes its way.
                    match self.note_loser_refused(record, &loser, &refusal) {
                        Verdict::TryAgain => return self.install_failed(record, expire),
                        Verdict::Dead(_) => {
                            self.refused_while_known(record, known);
                            plan = self.plan(record);
                        }
                    }
                }
                Sent::Refused(refusal) if let Some(shown) = beside => {
                    if !self.state().note_unshown(record, shown) {
                        return self.install_failed(record, expire);
                    }
                    tracing::warn!(
                        %record, %shown, %refusal,
                        "D1 does not take the value that would be shown: it loses, and is kept"
                    );
                    plan = self.plan(record);
                }
                Sent::Refused(refusal) | Sent::LoserRefused(_, refusal) => {
                    let what = Refused { record, store: StoreId::D1, dot, bytes };
                    match self.note_refused(what, &refusal) {
                        Verdict::TryAgain => return self.install_failed(record, expire),
                        Verdict::Dead(_) => {
                            self.refused_while_known(record, known);
                            plan = self.plan_beside(record);
                        }
                    }
                }
            }
        }
        if expire && let Some(slot) = self.state().slots.get_mut(record) {
            slot.expire = true;
        }
        Next::Again
    }

    fn known_row_seq(&self, record: &RecordId) -> Option<u64> {
        self.state().ledger.row_seq(record)
    }

    /// Something was refused, and the row changed while that was under way: over the new one it may be
    /// taken or lose, and the news of that came too early to say so.
    fn refused_while_known(&self, record: &RecordId, row_seq: Option<u64>) {
        if self.known_row_seq(record) > row_seq {
            let mut state = self.state();
            self.row_of_letters_changed(&mut state, record);
        }
    }

    /// True when a write waits here.
    fn holds(&self, record: &RecordId, dot: Dot) -> bool {
        let state = self.state();
        let slot = state.slots.get(record);
        slot.is_some_and(|slot| slot.intents.iter().any(|p| p.durable && p.intent.dot() == dot))
    }

    /// What to install beside what is dead.
    fn plan_beside(&self, record: &RecordId) -> Plan {
        let alive = self
            .state()
            .slots
            .get(record)
            .is_some_and(|s| s.ours(self.actor.node, false).is_some());
        if alive { self.plan(record) } else { Plan::Idle }
    }

    fn install_failed(&self, record: &RecordId, expire: bool) -> Next {
        let failures = {
            let mut state = self.state();
            let Some(slot) = state.slots.get_mut(record) else { return Next::Done };
            // The row must be read before the next try: the last one may have happened.
            slot.look = true;
            slot.expire |= expire;
            slot.failures += 1;
            slot.failures
        };
        self.back_off(failures)
    }

    /// Until probes have shown that R2 answers, or what R2 is to hold is certain to stay. No back-off
    /// grows, which would outlast that.
    fn install_waits(&self, record: &RecordId, expire: bool, pause: Duration) -> Next {
        let mut state = self.state();
        let slot = state.slots.entry(record.clone()).or_default();
        slot.expire |= expire;
        // Bytes that somebody wrote to the row wait in no journal: nothing but the row tells of them.
        slot.look |= !slot.has_living();
        drop(state);
        Next::At(self.now() + pause)
    }

    /// What to install, from what is known here.
    fn plan(&self, record: &RecordId) -> Plan {
        let mut state = self.state();
        let Some(slot) = state.slots.get(record) else { return Plan::Idle };
        if slot.look {
            return Plan::Look;
        }
        let ruling = state.ruling(record);
        let ours = slot.ours(self.actor.node, ruling.starts_from_base());
        let Some(ours) = ours.map(|ours| ours.under(ruling)) else { return Plan::Idle };
        let Some(known) = state.ledger.known(record) else { return Plan::Look };
        if let Some(version) = &known.version
            && version.includes(&ours.held.version)
        {
            self.settle(&mut state, record, version);
            drop(state);
            return self.plan(record);
        }
        if ours.only_over.is_some() {
            return ours.conditionally();
        }
        let history = resolve::history_of(known.version.as_ref());
        // What has expired here has expired, also in what includes it.
        let ended = known.version.as_ref().is_some_and(|version| {
            version.current().is_expired_form()
                && version.current().dot == ours.held.version.current().dot
        });
        let settled = ours.held.version.basis() > Basis::Unsettled;
        if ours.held.version.history.covers(&history) && settled && !ended {
            ours.over(known.expect())
        } else {
            Plan::Look
        }
    }

    /// What to install over a row that was just seen; `kept`: with all that is kept beside it.
    fn plan_over(
        &self,
        dataset: &Dataset,
        record: &RecordId,
        row: Option<Row>,
        kept: Option<(Vec<Loser>, Vec<Written>)>,
    ) -> Plan {
        self.learn_row(record, row.as_ref());
        let mut state = self.state();
        if let Some(slot) = state.slots.get_mut(record) {
            slot.look = false;
        }
        let row = row.unwrap_or_default();
        let expect = row.expect();
        let foreign = row.has_foreign_write();
        let theirs = resolve::held(self.site(), record, &row);
        if let Some(version) = &row.version {
            self.settle(&mut state, record, version);
        }
        let rules = Rules::of(dataset, record);
        let merges = rules.ruling.starts_from_base();
        let ours = state.slots.get(record).and_then(|slot| slot.ours(self.actor.node, merges));
        let ours = ours.map(|ours| ours.under(rules.ruling));
        let refused = match &theirs {
            Some(theirs) if foreign => {
                cannot_hold(dataset, &state.policy.limits, record, &theirs.value)
            }
            Some(_) | None => None,
        };
        match &refused {
            Some(problem) => state.refuse_foreign(record, row.row_seq, problem),
            None if foreign => state.counters.foreign_writes += 1,
            None => {}
        }
        let take_in = |held: Held, losers: Vec<Loser>, suspect: Sibling| {
            let expect = expect.clone();
            let by = By::Lww.into();
            let writes = written(&held).filter(|_| merges).into_iter().collect();
            let candidate = Candidate { expect, held, losers, by, writes, conditional: None };
            Plan::Install { candidate, suspect }
        };
        let (ours, theirs) = match (ours, theirs) {
            // Left where it is.
            (None, Some(_)) if refused.is_some() => return Plan::Idle,
            (None, Some(theirs)) if foreign => {
                let suspect = *theirs.version.current();
                return take_in(theirs, Vec::new(), suspect);
            }
            (None, _) => return Plan::Idle,
            (Some(ours), None) if ours.only_over.is_some() => {
                return ours.over_nothing(expect, self.actor);
            }
            (Some(ours), None) if ours.held.version.basis() == Basis::Unsettled => {
                let Some(kept) = kept else { return Plan::Gather };
                let set = ours.held.version.clone();
                let passed_over = state.passed_over(record, &rules, &ours, &set, None, self.now());
                // Documents are taken apart and merged: nobody waits for the lock meanwhile.
                drop(state);
                let Some(settled) = ours.settle(rules, &set, &passed_over, None, &kept) else {
                    return lacking_bytes(record);
                };
                return ours.with(settled, kept.0).over(expect);
            }
            (Some(ours), None) => return ours.over(expect),
            (Some(ours), Some(theirs)) => (ours, theirs),
        };
        if ours.only_over.is_some() {
            // Sent with its own expectation: the compare-and-set decides the condition.
            return ours.conditionally();
        }
        let suspect = *ours.held.version.current();
        match resolve::meet(rules.ruling, &ours.held, &theirs) {
            Met::Apart(set) => {
                let Some(kept) = kept else { return Plan::Gather };
                let theirs_set = Some(&theirs.version);
                let passed_over =
                    state.passed_over(record, &rules, &ours, &set, theirs_set, self.now());
                drop(state);
                // What the dataset cannot hold is no part of what is shown, and is kept.
                let (set, loser) = match refused {
                    Some(_) => {
                        let winner = ours.held.version.current().dot;
                        let (sibling, value) = (*theirs.version.current(), theirs.value.clone());
                        let set = ours.held.version.including(&theirs.version.history);
                        (set, Some(Loser { sibling, value, winner }))
                    }
                    None => (set, None),
                };
                let held = loser.is_none().then_some(&theirs);
                let Some(settled) = ours.settle(rules, &set, &passed_over, held, &kept) else {
                    return lacking_bytes(record);
                };
                let version = ours.held.version.clone();
                let is_old = ours.from_journal && suspect.dot.actor != self.actor;
                let before = ours.losers.len();
                let ours = ours.with(settled, kept.0);
                let mut losers = ours.losers;
                losers.extend(loser);
                self.state().counters.conflicts += losers.len().saturating_sub(before) as u64;
                let Ours { held, by, mut writes, .. } = ours;
                writes.extend(written(&theirs).filter(|_| foreign && merges));
                let candidate = Candidate { expect, held, losers, by, writes, conditional: None };
                if is_old && !foreign {
                    Plan::AskFloor { ours: version, over: Box::new(row), candidate, suspect }
                } else {
                    Plan::Install { candidate, suspect }
                }
            }
            Met::Ours => ours.over(expect),
            Met::Theirs if foreign && refused.is_none() => take_in(theirs, ours.losers, suspect),
            Met::Theirs => Plan::Idle,
            // What the dataset cannot hold loses, whatever its stamp, and is kept.
            Met::Concurrent { .. } if refused.is_some() => {
                state.counters.conflicts += 1;
                let (merged, loser) = over_refused(ours.held, theirs);
                take_in(merged, ours.losers.into_iter().chain([loser]).collect(), suspect)
            }
            Met::Concurrent { merged, losers } => {
                state.counters.conflicts += losers.len() as u64;
                let losers = ours.losers.into_iter().chain(losers).collect();
                let version = ours.held.version;
                let is_old = ours.from_journal && version.current().dot.actor != self.actor;
                if is_old && !foreign {
                    let by = By::Lww.into();
                    let (held, writes) = (merged, Vec::new());
                    let candidate =
                        Candidate { expect, held, losers, by, writes, conditional: None };
                    Plan::AskFloor { ours: version, over: Box::new(row), candidate, suspect }
                } else {
                    take_in(merged, losers, suspect)
                }
            }
        }
    }

    pub(super) async fn send_install(
        &self,
        dataset: &Dataset,
        record: &RecordId,
        candidate: Candidate,
    ) -> Sent {
        let Candidate { expect, held, mut losers, by, mut writes, .. } = candidate;
        let bytes_max = dataset.inline_bytes_max(&self.policy().limits);
        writes.retain(|written| written.value.held_bytes() <= bytes_max);
        let mut blobs_seen = BlobsSeen::default();
        let value = match self.fit(dataset, &held.value, &mut blobs_seen).await {
            Ok(value) => value,
            Err(not) => return not,
        };
        if !losers.is_empty() && !self.leave_to_letters(record, &mut losers).await {
            return Sent::Failed;
        }
        if !self.look_at_blobs(record, &mut losers, &mut blobs_seen).await {
            return Sent::Failed;
        }
        let mut fitting = Vec::with_capacity(losers.len());
        for loser in losers {
            match self.fit(dataset, &loser.value, &mut blobs_seen).await {
                Ok(value) => fitting.push(Loser { value, ..loser }),
                Err(Sent::Refused(refusal)) => return Sent::LoserRefused(Box::new(loser), refusal),
                Err(not) => return not,
            }
        }
        let kept: Vec<Dot> = fitting.iter().map(|loser| loser.sibling.dot).collect();
        let owe: Vec<StoreId> = dataset.projections().collect();
        let sent_at = self.now();
        let op = RowOp::Install(Box::new(Install {
            record: record.clone(),
            expect,
            version: held.version.clone(),
            value: value.clone(),
            losers: fitting,
            owe: owe.clone(),
            holder: self.actor,
            blobs_seen,
            by,
            writes,
        }));
        match self.row(op).await {
            Outcome::Applied((now, RowAnswer::Installed { row_seq, seq, grant })) => {
                self.kept_by_the_authority(record, &kept);
                let installed = Installed { row_seq, seq, grant, sent_at, now };
                self.installed(record, owe, held, value, installed);
                Sent::Done
            }
            Outcome::Applied((_, RowAnswer::Moved(row))) => Sent::Moved(row.map(|row| *row)),
            Outcome::Applied((_, RowAnswer::Dead)) => Sent::Dead,
            Outcome::Applied((now, RowAnswer::NoBlob { until })) => {
                self.doubt_blobs(record);
                match until.filter(|until| *until >= now) {
                    Some(until) => Sent::Condemned(Duration::from_millis(until.0 - now.0)),
                    None => Sent::Failed,
                }
            }
            Outcome::Applied((_, answer)) => {
                tracing::error!(%record, ?answer, "the authority refused an install");
                Sent::Failed
            }
            Outcome::Refused(refusal) => {
                if refusal.is_on_the_merits() {
                    self.state().counters.installs_poisoned += 1;
                    return Sent::Refused(refusal);
                }
                Sent::Failed
            }
            Outcome::Unknown(_) => Sent::Failed,
        }
    }

    /// The authority holds the version, and this coordinator the right to project it.
    fn installed(
        &self,
        record: &RecordId,
        owe: Vec<StoreId>,
        held: Held,
        value: Stored,
        installed: Installed,
    ) {
        let Installed { row_seq, seq, grant, sent_at, now } = installed;
        let whole = match held.value {
            Stored::Inline(bytes) => Some(bytes),
            Stored::Tombstone | Stored::Reference { .. } | Stored::Erased(_) => None,
        };
        let target = Arc::new(Target::new(held.version, value, whole));
        let version = &target.version;
        let mut state = self.state();
        state.counters.installs += 1;
        let news = self.learn(&mut state, record, Some(version), row_seq, seq);
        state.refused.remove(record);
        let slot = state.slots.entry(record.clone()).or_default();
        slot.failures = 0;
        slot.unshown.clear();
        for store in &owe {
            let owed = slot.owed.get_or_insert_with(*store, Box::default);
            owed.granted(&grant, *store, sent_at, now);
            owed.installed(target.clone());
        }
        let here = self.now();
        for store in owe {
            self.push_at(&mut state, store, record, Priority::Foreground, here);
        }
        self.settle(&mut state, record, version);
        if news {
            self.row_of_letters_changed(&mut state, record);
        }
        if !state.news.is_empty() {
            let (record, version) = (record.clone(), Some(version.clone()));
            self.announce(&mut state, Change { record, version, row_seq, foreign: false, seq });
        }
    }

    /// The authority holds `version`: what it covers is no longer owed by the journal.
    fn settle(&self, state: &mut State, record: &RecordId, version: &Version) {
        self.settle_adoptions(state, record, version);
        let Some(slot) = state.slots.get_mut(record) else { return };
        let mut settled: Vec<Dot> = Vec::new();
        let concerned = !state.letters.is_empty();
        let mut letters: Vec<Arc<Intent>> = Vec::new();
        let mut bytes = 0;
        slot.intents.retain(|pending| {
            let covered = version.history.covers_dot(pending.intent.dot());
            if covered && concerned {
                letters.push(pending.intent.clone());
            } else if covered {
                settled.push(pending.intent.dot());
                bytes += pending.intent.value.held_bytes();
            }
            !covered
        });
        for intent in letters {
            if let Some(letter) = state.stays_as_letter(&intent, version.current().dot) {
                self.note_letter(LetterNote::Dead(Box::new(letter)));
            } else {
                settled.push(intent.dot());
                bytes += intent.value.held_bytes();
            }
        }
        if !settled.is_empty() {
            state.held.remove(&record.dataset, settled.len(), bytes);
            self.forget(settled);
            self.wake.settled.notify_waiters();
        }
        self.end_letters(state, record, StoreId::D1, version);
        state.confirm(record, StoreId::D1, version);
    }

    /// A conditional write whose condition did not hold: it did not and cannot happen any more,
    /// since the row sequence that it expects never comes back.
    fn cancel(&self, intent: &Arc<Intent>) {
        let mut state = self.state();
        let Some(slot) = state.slots.get_mut(&intent.record) else { return };
        let before = slot.intents.len();
        slot.intents.retain(|pending| pending.intent.dot() != intent.dot());
        let removed = before - slot.intents.len();
        let (ended, rest) =
            std::mem::take(&mut slot.waiters).into_iter().partition(|w| w.dot == intent.dot());
        slot.waiters = rest;
        let ended: Vec<super::Waiter> = ended;
        for waiter in ended {
            let _ = waiter.done.send(super::Settled::Cancelled);
        }
        let bytes = removed * intent.value.held_bytes();
        state.held.remove(&intent.record.dataset, removed, bytes);
        state.counters.writes_cancelled += 1;
        let (record, dot) = (&intent.record, intent.dot());
        self.end_letter(&mut state, record, StoreId::D1, dot, Ending::Cancelled);
        self.forget([intent.dot()]);
        self.wake.settled.notify_waiters();
    }

    fn announce(&self, state: &mut State, change: Change) {
        for news in state.news.values_mut() {
            news.push(&change);
        }
        self.wake.news.notify_waiters();
    }
}

impl State {
    /// Values of a set that the authority does not take. They lose against the others, whatever the ruling says:
    /// their bytes stand in a letter alone, or were given up, or the authority keeps them as a loser's and does not
    /// show them. Two sites that join what both have may differ in that for a while, under one history: then the
    /// smaller set stands at both ([`Version::includes`]).
    fn passed_over(
        &self,
        record: &RecordId,
        rules: &Rules<'_>,
        ours: &Ours,
        set: &Version,
        theirs: Option<&Version>,
        now: Duration,
    ) -> Vec<Dot> {
        let unshown = self.slots.get(record).map_or(&[][..], |slot| &slot.unshown);
        let no_letters = self.letters.is_empty() && self.letters.ended().next().is_none();
        if unshown.is_empty() && no_letters {
            return Vec::new();
        }
        // What was to be merged is not what was refused.
        let chooses = !rules.ruling.starts_from_base();
        let has = |dot| theirs.is_some_and(|set| set.siblings().iter().any(|s| s.dot == dot));
        let is_passed_over = |dot: &Dot| {
            let refused = |(known, tries): &(Dot, u32)| known == dot && *tries >= TRIES_MIN;
            // What another site brings it brings to others as well, which have no letters of it.
            let in_letter = ours.from_journal && !has(*dot);
            (chooses && unshown.iter().any(refused))
                || (in_letter && self.is_left_to_letter(record, *dot, now))
        };
        set.siblings().iter().map(|sibling| sibling.dot).filter(is_passed_over).collect()
    }

    /// What decides between a record's concurrent values.
    fn ruling(&self, record: &RecordId) -> &Ruling {
        let dataset = self.policy.datasets.get(&record.dataset);
        dataset.map_or(&Ruling::Lww, |dataset| dataset.conflict.ruling(&record.key))
    }

    /// Reports what somebody wrote to the authority and a dataset cannot hold: once for each write,
    /// however often it is looked at.
    fn refuse_foreign(&mut self, record: &RecordId, row_seq: u64, problem: &str) {
        if self.refused.get(record) == Some(&row_seq) {
            return;
        }
        if self.refused.len() < REFUSED_REMEMBERED_MAX {
            self.refused.insert(record.clone(), row_seq);
        }
        self.counters.foreign_refused += 1;
        tracing::error!(
            %record, problem,
            "somebody wrote to D1 what this dataset cannot hold; it is left where it is, and KV and \
             R2 keep what they have until it is mended there or written through Tidelock"
        );
    }
}

/// A version of one value, as the write that it is.
pub(super) fn written(held: &Held) -> Option<Written> {
    let only = (!held.version.is_apart()).then_some(held)?;
    let (sibling, over) = only.version.sides().next()?;
    Some(Written { sibling: *sibling, over: over.clone(), value: only.value.clone() })
}

/// The value that a ruling shows before what is brought in: if showing is refused, it is that one's doing.
/// What values were merged to is nobody's.
fn shown_before(
    dataset: &Dataset,
    record: &RecordId,
    version: &Version,
    write: Dot,
) -> Option<Dot> {
    let shown = version.chosen().filter(|_| version.is_apart())?.dot;
    let chooses = !dataset.conflict.ruling(&record.key).starts_from_base();
    (shown != write && chooses).then_some(shown)
}

/// Why a dataset cannot hold what somebody wrote to the authority itself; `None`: it can.
fn cannot_hold(
    dataset: &Dataset,
    limits: &Limits,
    record: &RecordId,
    value: &Stored,
) -> Option<String> {
    let Stored::Inline(bytes) = value else { return None };
    if let Err(error) = dataset.record(&record.key) {
        return Some(error.to_string());
    }
    // A row of the user's own table is whole where it is, or nowhere.
    let bytes_max = match dataset.kind {
        Kind::Structured => limits.authority_value_bytes_max,
        Kind::Json | Kind::Text | Kind::Binary => limits.value_bytes_max,
    };
    if bytes.len() > bytes_max {
        return Some(format!("it has {} bytes, and {bytes_max} can be kept", bytes.len()));
    }
    match super::write::accepted(dataset, &record.key, bytes) {
        Ok(kept) if kept == *bytes => None,
        Ok(_) => Some("it is not as its columns declare it".to_owned()),
        Err(refusal) => Some(refusal.to_string()),
    }
}

/// A write over bytes that the dataset cannot hold: these lose, and are kept.
fn over_refused(mine: Held, theirs: Held) -> (Held, Loser) {
    let won = *mine.version.current();
    let loser = Loser { sibling: *theirs.version.current(), value: theirs.value, winner: won.dot };
    (Held { version: mine.version.including(&theirs.version.history), value: mine.value }, loser)
}

fn lacking_bytes(record: &RecordId) -> Plan {
    tracing::error!(%record, "none of its concurrent values has its bytes at hand; trying again");
    Plan::Lacking
}

struct Installed {
    row_seq: u64,
    seq: Seq,
    grant: Grant,
    sent_at: Duration,
    now: crate::row::StoreTime,
}

pub(super) enum Sent {
    Done,
    Moved(Option<Row>),
    /// It was deleted, and the tombstone reaped.
    Dead,
    Failed,
    /// Nothing was sent: R2, which is to have the bytes first, does not answer.
    Away,
    /// The bytes in R2 are condemned, and may be deleted for so long.
    Condemned(Duration),
    /// On its merits: the same again is refused again.
    Refused(Refusal),
    /// The bytes of a loser were, on their merits.
    LoserRefused(Box<Loser>, Refusal),
}

impl super::Slot {
    /// True when something is to be brought into the authority that is not dead.
    pub(super) fn has_living(&self) -> bool {
        let mut intents = self.intents.iter();
        intents.any(|pending| !pending.dead) || self.adoptions.iter().any(|a| !a.dead)
    }

    /// A version of another site; or the newest durable intent that may be installed, with all the
    /// losers up to it. A conditional one is not skipped: it goes alone.
    fn ours(&self, own: NodeId, merges: bool) -> Option<Ours> {
        if let Some(adoption) = self.adoptions.iter().find(|adoption| !adoption.dead) {
            let Adoption { held, losers, writes, .. } = adoption.clone();
            let by = By::Lww.into();
            return Some(Ours { held, losers, by, writes, from_journal: false, only_over: None });
        }
        let mut losers = Vec::new();
        let mut writes = Vec::new();
        let mut newest = None;
        for pending in self.intents.iter().take_while(|pending| pending.durable) {
            // What is kept for another is in nobody's chain here: it goes alone.
            if pending.is_kept_for(own).is_some() {
                if newest.is_none() && !pending.dead {
                    losers.clone_from(&pending.intent.losers);
                    writes.extend(pending.intent.written().filter(|_| merges));
                    newest = Some((pending.intent.clone(), losers.len(), writes.len()));
                    break;
                }
                continue;
            }
            let conditional = pending.intent.only_over.is_some();
            if conditional && newest.is_some() && !pending.dead {
                break;
            }
            // Whatever covers a dead write keeps what that had to keep, and was written over it. What is dead
            // under a condition nobody has written over.
            losers.extend(pending.intent.losers.iter().cloned());
            let is_over = !pending.dead || !conditional;
            writes.extend(pending.intent.written().filter(|_| merges && is_over));
            if pending.dead {
                continue;
            }
            newest = Some((pending.intent.clone(), losers.len(), writes.len()));
            if conditional {
                break;
            }
        }
        let (intent, losers_kept, writes_kept) = newest?;
        losers.truncate(losers_kept);
        writes.truncate(writes_kept);
        let held = Held { version: intent.version.clone(), value: intent.value.clone() };
        let only_over = intent.only_over.clone().map(|expect| (intent, expect));
        let by = By::Lww.into();
        Some(Ours { held, losers, by, writes, from_journal: true, only_over })
    }
}

impl Ours {
    fn over(self, expect: Expect) -> Plan {
        self.install(expect, None)
    }

    /// Where nothing is, conditionally.
    fn over_nothing(self, expect: Expect, own: Actor) -> Plan {
        match &self.only_over {
            Some((intent, _)) if asks_for_nothing(intent, own) => {
                let conditional = Some(intent.clone());
                self.install(expect, conditional)
            }
            _ => self.conditionally(),
        }
    }

    /// Over the row that its own condition names.
    fn conditionally(self) -> Plan {
        let (intent, expect) = self.only_over.clone().expect("asked of conditional ones only");
        self.install(expect, Some(intent))
    }

    fn install(self, expect: Expect, conditional: Option<Arc<Intent>>) -> Plan {
        let Ours { held, losers, by, writes, .. } = self;
        let suspect = *held.version.current();
        let candidate = Candidate { expect, held, losers, by, writes, conditional };
        Plan::Install { candidate, suspect }
    }

    /// A set that was written under another ruling is what this one makes of it.
    fn under(mut self, ruling: &Ruling) -> Self {
        if *ruling == Ruling::Lww && self.held.version.basis() == Basis::Unsettled {
            self.held.version = self.held.version.collapsed();
        }
        self.by = settle::decided(ruling, &self.held.version).into();
        self
    }

    /// What is shown of a set, and what is kept of it. What is passed over is no part of it, and is kept.
    fn settle(
        &self,
        rules: Rules<'_>,
        set: &Version,
        passed_over: &[Dot],
        theirs: Option<&Held>,
        (losers, writes): &(Vec<Loser>, Vec<Written>),
    ) -> Option<Settled> {
        let mut values = Values::default();
        values.note_shown(set, &self.held);
        theirs.into_iter().for_each(|theirs| values.note_shown(set, theirs));
        for Loser { sibling, value, .. } in self.losers.iter().chain(losers) {
            values.note(set, sibling, value);
        }
        let theirs = theirs.and_then(written);
        let writes = writes.iter().chain(&self.writes).chain(&theirs).cloned();
        settle::settle_without(rules, set, passed_over, &values, &writes.collect::<Vec<_>>())
    }

    /// The same as it was settled; `kept`: what the authority keeps already.
    fn with(mut self, settled: Settled, kept: Vec<Loser>) -> Self {
        let Settled { held, losers, by, why } = settled;
        // What was to lose when it was written, and is shown after all, stands in the row.
        self.losers.retain(|loser| loser.sibling != *held.version.current());
        let is_kept = |dot: Dot| kept.iter().any(|loser| loser.sibling.dot == dot);
        let mut noted: BTreeSet<Dot> = self.losers.iter().map(|loser| loser.sibling.dot).collect();
        let new =
            losers.into_iter().filter(|l| !is_kept(l.sibling.dot) && noted.insert(l.sibling.dot));
        self.losers.extend(new);
        Ours { held, by: Decision { by, why }, ..self }
    }
}

/// True when a condition holds wherever nothing is. What tombstones leave when they are reaped changes
/// the sequence of what is not there, and with it what an intent expects to find absent. Of a former
/// life nobody knows whether its caller was told that the condition had failed: that stays failed.
fn asks_for_nothing(intent: &Intent, own: Actor) -> bool {
    intent.dot().actor == own && intent.is_over_nothing()
}

fn covers(row: Option<&Row>, dot: Dot) -> bool {
    row.and_then(|row| row.version.as_ref()).is_some_and(|v| v.history.covers_dot(dot))
}
