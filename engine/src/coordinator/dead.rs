//! Dead letters in the coordinator: how work becomes one, ends being one, and what an operator can
//! do about it. What a letter is stands in `dead_letter.rs`.
//!
//! Invariant: a dead write takes no turns from others. At the authority it is passed over, and its
//! record takes later writes, whose histories cover it; at a projection nobody holds its lease. An
//! acknowledged write leaves the journal undone only by an operator's word, with a reason, and
//! only after the journal has made that durable. A later write that must keep a dead one's bytes,
//! and whose authority does not take them, goes without them only after the journal knows that the
//! letter is all that keeps them.

use super::{Coordinator, Settled, State};
use crate::dead_letter::{DeadLetter, EndedLetter, Ending, RETRY_EVERY, Refused, Verdict};
use crate::env::{Clock, Env, Refusal};
use crate::journal::{Intent, LetterNote};
use crate::lane::{Next, Priority};
use crate::record::{Loser, RecordId, StoreId, Stored};
use crate::retry::PAUSE_MAX;
use crate::version::{Dot, NodeId, Sibling, Version};
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

/// Why nothing was done about a letter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DeadLetterError {
    /// There is no such letter, or not any more.
    Unknown,
    /// It is being tried at this moment. The same again, later.
    UnderWay,
    /// A copy is owed by the mark in its row, and cannot be given up alone.
    Owed,
    /// A newer write stands in the authority over it: it is kept to be read, and not tried again.
    Lost {
        /// That write.
        to: Dot,
    },
    /// A newer write of this coordinator's waits over it, without knowing whether its condition held: it is
    /// not tried again, and ends with that one.
    Overtaken {
        /// That write.
        by: Dot,
    },
    /// The journal did not make it durable.
    Journal(String),
}

impl fmt::Display for DeadLetterError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            DeadLetterError::Unknown => {
                f.write_str("there is no such dead letter; it may have ended by itself")
            }
            DeadLetterError::UnderWay => f.write_str("it is being tried just now; ask again"),
            DeadLetterError::Owed => f.write_str(
                "the write stands in D1, and this copy of it is owed until the store takes it; \
                 write a value that it takes, or delete the record",
            ),
            DeadLetterError::Lost { to } => write!(
                f,
                "the write {to} stands over it, so it is not tried again; read its value, and write \
                 it anew or discard it"
            ),
            DeadLetterError::Overtaken { by } => write!(
                f,
                "it has a condition that was never decided, and the write {by} waits over it, so it is \
                 not tried again and ends when D1 has that one; discard it, or retry that one"
            ),
            DeadLetterError::Journal(detail) => write!(
                f,
                "the journal has not made it durable yet ({detail}); after a crash it may be there \
                 again"
            ),
        }
    }
}

impl std::error::Error for DeadLetterError {}

impl<E: Env> Coordinator<E> {
    /// A store refused something on its merits.
    pub(super) fn note_refused(&self, what: Refused<'_>, refusal: &Refusal) -> Verdict {
        let (wall, now) = (self.env.clock().wall(), self.now());
        let mut state = self.state();
        let known = state.letters.dead_until(what.record, what.store, what.dot).is_some();
        let letters_max = self.pace.dead_letters_max;
        let verdict = state.letters.refused(what, refusal, letters_max, wall, now);
        if let Verdict::Dead(_) = verdict {
            let Refused { record, store, dot, .. } = what;
            if let Some(letter) = state.letters.letter(record, store, dot) {
                self.note_letter(LetterNote::Dead(Box::new(letter.clone())));
            }
            if !known {
                tracing::error!(
                    %record, %store, %dot, %refusal,
                    "the store will never take this as it is: it is a dead letter now; see \
                     `tidelock dlq list`"
                );
            }
            state.bury(record, store, dot);
        }
        verdict
    }

    /// The authority refused the bytes of a value that a newer one has to keep as its loser.
    pub(super) fn note_loser_refused(
        &self,
        record: &RecordId,
        loser: &Loser,
        refusal: &Refusal,
    ) -> Verdict {
        let (dot, bytes) = (loser.sibling.dot, loser.sibling.bytes);
        let what = Refused { record, store: StoreId::D1, dot, bytes };
        let verdict = self.note_refused(what, refusal);
        if let Verdict::Dead(_) = verdict {
            let unkept = |letter: &mut DeadLetter| letter.unkept = true;
            self.state().letters.change(record, StoreId::D1, dot, unkept);
        }
        verdict
    }

    /// Takes those losers out whose bytes stand in a dead letter, once the journal knows that they
    /// stand there alone. False: not now.
    pub(super) async fn leave_to_letters(
        &self,
        record: &RecordId,
        losers: &mut Vec<Loser>,
    ) -> bool {
        let (left, notes) = {
            let state = self.state();
            if state.letters.is_empty() && state.letters.ended().next().is_none() {
                return true;
            }
            let now = self.now();
            let mut notes = Vec::new();
            let left = losers.extract_if(.., |loser| {
                let dot = loser.sibling.dot;
                let left = state.is_left_to_letter(record, dot, now);
                if left && !state.letters.is_discarded(record, dot) {
                    notes.extend(state.letters.letter(record, StoreId::D1, dot).cloned());
                }
                left
            });
            (left.count(), notes)
        };
        for letter in notes {
            let noted = self.note_letter_durably(LetterNote::Dead(Box::new(letter)), None);
            if !matches!(noted.await, Ok(Ok(()))) {
                return false;
            }
        }
        if left > 0 {
            self.state().counters.losers_in_letters += left as u64;
        }
        true
    }

    /// The authority holds the bytes of these as a loser's.
    pub(super) fn kept_by_the_authority(&self, record: &RecordId, losers: &[Dot]) {
        let mut state = self.state();
        if state.letters.is_empty() {
            return;
        }
        for dot in losers {
            state.letters.change(record, StoreId::D1, *dot, |letter| letter.unkept = false);
        }
    }

    /// Dead writes whose time has come are tried again. Not one under a condition that others were written
    /// over since: its condition was not decided, so they do not include it, and their numbers cover its own.
    /// It ends with them.
    pub(super) fn exhume(&self, record: &RecordId) {
        let mut state = self.state();
        if state.letters.is_empty() {
            return;
        }
        let now = self.now();
        let State { slots, letters, .. } = &mut *state;
        let Some(slot) = slots.get_mut(record) else { return };
        let last = slot.newest_own(self.actor.node);
        for (at, pending) in slot.intents.iter_mut().enumerate() {
            let until = letters.dead_until(record, StoreId::D1, pending.intent.dot());
            let overtaken = pending.intent.only_over.is_some() && Some(at) < last;
            pending.dead = overtaken || until.is_some_and(|until| until > now);
        }
        for adoption in &mut slot.adoptions {
            let dot = adoption.held.version.current().dot;
            let until = letters.dead_until(record, StoreId::D1, dot);
            adoption.dead = until.is_some_and(|until| until > now);
        }
    }

    /// A record has no work at the authority that can be done now.
    pub(super) fn rest(&self, record: &RecordId) -> Next {
        let state = self.state();
        if state.letters.is_empty() {
            return Next::Done;
        }
        let dead = state.letters.at(record, StoreId::D1).filter(|l| l.lost_to.is_none());
        let dead = dead.filter_map(|letter| letter.retry_at);
        // One whose time has come was tried, and waits for news.
        let soon = self.now() + PAUSE_MAX;
        dead.min().map_or(Next::Done, |at| Next::Park(at.max(soon)))
    }

    /// A store holds `version`: what that covers is dead no more.
    pub(super) fn end_letters(
        &self,
        state: &mut State,
        record: &RecordId,
        store: StoreId,
        version: &Version,
    ) {
        if state.letters.is_empty() {
            return;
        }
        let by = version.current().dot;
        let covered = state.letters.at(record, store).filter(|letter| letter.lost_to.is_none());
        let covered = covered.map(|letter| letter.dot);
        let covered: Vec<Dot> = covered.filter(|dot| version.history.covers_dot(*dot)).collect();
        for dot in covered {
            let ending = match dot == by {
                true if version.current().is_expired_form() => Ending::Expired,
                true => Ending::Applied,
                false => Ending::Superseded { by },
            };
            self.end_letter(state, record, store, dot, ending);
        }
    }

    pub(super) fn end_letter(
        &self,
        state: &mut State,
        record: &RecordId,
        store: StoreId,
        dot: Dot,
        ending: Ending,
    ) -> Option<DeadLetter> {
        let words = ending.to_string();
        let wall = self.env.clock().wall();
        let letter = state.letters.end(record, store, dot, ending, wall)?;
        self.note_letter(LetterNote::Ended(letter.id.clone()));
        tracing::warn!(%record, %store, %dot, id = letter.id, "a dead letter ended: {words}");
        Some(letter)
    }

    /// Nobody has to bring this copy up to date from here any more.
    pub(super) fn end_letters_elsewhere(
        &self,
        state: &mut State,
        record: &RecordId,
        store: StoreId,
    ) {
        if state.letters.is_empty() {
            return;
        }
        let dots: Vec<Dot> = state.letters.at(record, store).map(|letter| letter.dot).collect();
        for dot in dots {
            self.end_letter(state, record, store, dot, Ending::Elsewhere);
        }
    }

    /// Somebody else is at a copy that its store refused from us for good: whether that one succeeds
    /// shows when it is tried here again. `None`: it is no dead letter.
    pub(super) fn leave_dead_copy(&self, record: &RecordId, store: StoreId) -> Option<Next> {
        let mut state = self.state();
        let until = self.now() + RETRY_EVERY;
        let dead = state.letters.at(record, store).filter(|letter| letter.retry_at.is_some());
        let dots: Vec<Dot> = dead.map(|letter| letter.dot).collect();
        for dot in &dots {
            state.letters.change(record, store, *dot, |letter| letter.retry_at = Some(until));
        }
        (!dots.is_empty()).then_some(Next::Park(until))
    }

    /// The row of a record with dead letters has changed: over the new version they may be taken,
    /// be superseded, or lose.
    pub(super) fn row_of_letters_changed(&self, state: &mut State, record: &RecordId) {
        if state.letters.is_empty() {
            return;
        }
        for store in StoreId::ALL {
            if state.letters.at(record, store).next().is_some() {
                state.letters.retry(record, store, self.now());
                self.push(state, store, record, Priority::Repair);
            }
        }
    }

    /// The dead letters, and the last ones that ended.
    pub fn dead_letters(&self) -> (Vec<DeadLetter>, Vec<EndedLetter>) {
        let state = self.state();
        let ended = state.letters.ended().rev().cloned().collect();
        (state.letters.iter().cloned().collect(), ended)
    }

    /// The bytes of the write that a dead letter is about, where this coordinator has them: those of
    /// a write that the authority refuses. `None` of them: it deletes.
    pub fn dead_letter_value(&self, id: &str) -> Result<Stored, DeadLetterError> {
        let state = self.state();
        let letter = state.letters.find(id).ok_or(DeadLetterError::Unknown)?;
        let slot = state.slots.get(&letter.record);
        let mut waiting = slot.into_iter().flat_map(|slot| &slot.intents).map(|p| &p.intent);
        let waits = || waiting.find(|intent| intent.dot() == letter.dot);
        let intent = state.lost.get(&letter.dot).or_else(waits);
        intent.map(|intent| intent.value.clone()).ok_or(DeadLetterError::Unknown)
    }

    /// Tries a dead letter once more, now.
    pub fn retry_dead_letter(&self, id: &str) -> Result<DeadLetter, DeadLetterError> {
        let mut state = self.state();
        let letter = state.letters.find(id).cloned().ok_or(DeadLetterError::Unknown)?;
        if let Some(to) = letter.lost_to {
            return Err(DeadLetterError::Lost { to });
        }
        if letter.store == StoreId::D1
            && let Some(by) = state.overtaken_by(&letter, self.actor.node)
        {
            return Err(DeadLetterError::Overtaken { by });
        }
        state.letters.retry(&letter.record, letter.store, self.now());
        if letter.store != StoreId::D1 {
            // Its mark may have been left to whoever finds it.
            let slot = state.slots.entry(letter.record.clone()).or_default();
            slot.owed.get_or_insert_with(letter.store, Box::default);
        }
        self.push(&mut state, letter.store, &letter.record, Priority::Foreground);
        Ok(letter)
    }

    /// Gives up an acknowledged write that the authority does not take. It is durably gone from the
    /// journal when this returns. A try of it that had no answer may still land.
    pub async fn discard_dead_letter(
        &self,
        id: &str,
        reason: &str,
    ) -> Result<DeadLetter, DeadLetterError> {
        let (letter, durable) = {
            let mut state = self.state();
            let letter = state.letters.find(id).cloned().ok_or(DeadLetterError::Unknown)?;
            if letter.store != StoreId::D1 {
                return Err(DeadLetterError::Owed);
            }
            let intent = match state.lost.remove(&letter.dot) {
                Some(intent) => intent,
                None => state.take_dead(&letter)?,
            };
            state.held.remove(&intent.record.dataset, 1, intent.value.held_bytes());
            tracing::warn!(
                record = %letter.record, dot = %letter.dot, bytes = letter.bytes, reason,
                hash = %intent.version.current().hash, tries = letter.tries,
                refused = letter.reason(),
                "an operator discards an acknowledged write"
            );
            let ending = Ending::Discarded { reason: reason.to_owned() };
            self.end_letter(&mut state, &letter.record, StoreId::D1, letter.dot, ending);
            state.drop_idle_slot(&letter.record);
            self.wake.settled.notify_waiters();
            let ended = LetterNote::Ended(letter.id.clone());
            (letter, self.note_letter_durably(ended, Some(intent.dot())))
        };
        match durable.await {
            Ok(Ok(())) => Ok(letter),
            Ok(Err(error)) => Err(DeadLetterError::Journal(error.to_string())),
            Err(_) => Err(DeadLetterError::Journal("the coordinator stopped".to_owned())),
        }
    }
}

impl State {
    /// Letters that the journal kept. What they are about is tried once more.
    pub(super) fn restore_letters(
        &mut self,
        letters: Vec<DeadLetter>,
        now: Duration,
    ) -> Vec<String> {
        let mut gone = Vec::new();
        for letter in letters {
            let (record, store) = (letter.record.clone(), letter.store);
            match store {
                // Its intent was settled, and the word of that was lost; or it was another site's.
                StoreId::D1 if !self.is_journalled(&record, letter.dot) => gone.push(letter.id),
                StoreId::D1 => self.letters.restore(letter, now),
                StoreId::Kv | StoreId::R2 => {
                    // A claim tells whether it is owed still.
                    let slot = self.slots.entry(record.clone()).or_default();
                    slot.owed.get_or_insert_with(store, Box::default);
                    self.lanes[store].push(&record, Priority::Repair, now);
                    self.letters.restore(letter, now);
                }
            }
        }
        gone
    }

    /// True when this coordinator's journal holds a write.
    fn is_journalled(&self, record: &RecordId, dot: Dot) -> bool {
        let slot = self.slots.get(record);
        self.lost.contains_key(&dot)
            || slot.is_some_and(|slot| {
                slot.intents.iter().any(|pending| pending.durable && pending.intent.dot() == dot)
            })
    }

    /// A dead write that the authority's version covers now: true when its letter is all that keeps
    /// its bytes, so that the journal must not forget it.
    pub(super) fn stays_as_letter(&mut self, intent: &Arc<Intent>, to: Dot) -> Option<DeadLetter> {
        let dot = intent.dot();
        let letter = self.letters.letter(&intent.record, StoreId::D1, dot)?;
        if !letter.unkept || dot == to {
            return None;
        }
        self.lost.insert(dot, intent.clone());
        let lost = |letter: &mut DeadLetter| letter.lost_to = Some(to);
        self.letters.change(&intent.record, StoreId::D1, dot, lost)
    }

    /// The newest write that waits over a dead one whose condition was not decided.
    fn overtaken_by(&self, letter: &DeadLetter, own: NodeId) -> Option<Dot> {
        let slot = self.slots.get(&letter.record)?;
        let dead = slot.intents.iter().position(|pending| pending.intent.dot() == letter.dot)?;
        slot.intents[dead].intent.only_over.as_ref()?;
        let last = slot.newest_own(own).filter(|last| *last > dead)?;
        Some(slot.intents[last].intent.dot())
    }

    /// True for a value whose bytes the authority does not even keep as a loser's.
    pub(super) fn is_left_to_letter(&self, record: &RecordId, dot: Dot, now: Duration) -> bool {
        let letter = self.letters.letter(record, StoreId::D1, dot);
        let waits = |letter: &&DeadLetter| letter.retry_at.is_some_and(|at| at > now);
        let unkept = letter.filter(waits).is_some_and(|letter| letter.unkept);
        (unkept && self.is_journalled(record, dot)) || self.letters.is_discarded(record, dot)
    }

    /// Takes a dead write out of its record's queue.
    fn take_dead(&mut self, letter: &DeadLetter) -> Result<Arc<Intent>, DeadLetterError> {
        let slot = self.slots.get_mut(&letter.record).ok_or(DeadLetterError::Unknown)?;
        let at = slot.intents.iter().position(|pending| pending.intent.dot() == letter.dot);
        let at = at.ok_or(DeadLetterError::Unknown)?;
        if !slot.intents[at].dead {
            return Err(DeadLetterError::UnderWay);
        }
        Ok(slot.intents.remove(at).expect("found above").intent)
    }

    /// A write is dead: whoever waits for it is answered as it stands.
    fn bury(&mut self, record: &RecordId, store: StoreId, dot: Dot) {
        let Some(slot) = self.slots.get_mut(record) else { return };
        if store == StoreId::D1 {
            for pending in &mut slot.intents {
                pending.dead |= pending.intent.dot() == dot;
            }
            for adoption in &mut slot.adoptions {
                adoption.dead |= adoption.held.version.current().dot == dot;
            }
            slot.failures = 0;
            slot.look = true;
        }
        for waiter in slot.waiters.extract_if(.., |w| w.dot == dot && w.missing.contains(store)) {
            let _ = waiter.done.send(Settled::Pending(waiter.missing));
        }
    }

    /// Until when nobody is at the copy of a value, since its store does not take it. What has
    /// expired is deleted under the value's own dot, and a delete is taken.
    pub(super) fn copy_dead_until(
        &self,
        record: &RecordId,
        store: StoreId,
        value: &Sibling,
        now: Duration,
    ) -> Option<Duration> {
        let until = self.letters.dead_until(record, store, value.dot)?;
        (!value.deleted && until > now).then_some(until)
    }

    /// True when a record's copy is owed and dead: nobody is at it.
    pub(super) fn is_copy_dead(&self, record: &RecordId, store: StoreId, now: Duration) -> bool {
        if self.letters.is_empty() {
            return false;
        }
        let known = self.ledger.known(record).and_then(|known| known.version);
        known.is_some_and(|version| {
            self.copy_dead_until(record, store, version.current(), now).is_some()
        })
    }
}
