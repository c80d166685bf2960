//! A coordinator's disk, and what goes wrong with it.
//!
//! Invariant: what a commit answered `Ok` for is there at the next replay, unless a fault takes the
//! disk away; the checker is told of that, since it excuses what was promised to survive crashes
//! alone.

use crate::audit::AuditLog;
use crate::double::Double;
use crate::streams::Purpose;
use crate::world::{State, World};
use rand::{Rng, RngExt};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;
use tidelock_engine::breaker::Forced;
use tidelock_engine::dead_letter::DeadLetter;
use tidelock_engine::journal::{Intent, JournalBatch, JournalError, LetterNote, Replay};
use tidelock_engine::version::{Dot, NodeId};
use tidelock_faults::{Call, End, Fault, Kind, Moment, Place};

/// Between looks at whether a disk can go wrong yet.
const TRY_AGAIN: Duration = Duration::from_millis(50);
/// Until an operator has dealt with a damaged journal.
const OPERATOR_TAKES: Duration = Duration::from_millis(500);

/// A coordinator's disk: what is durable, and what was on its way to it.
#[derive(Debug, Default)]
pub struct Disk {
    durable: BTreeMap<u64, Intent>,
    letters: BTreeMap<String, DeadLetter>,
    forced: Vec<Forced>,
    by_dot: BTreeMap<Dot, u64>,
    written: u64,
    pending: Option<JournalBatch>,
    /// The durable intents, dead letters and forced breakers as they were earlier.
    snapshot: (BTreeMap<u64, Intent>, BTreeMap<String, DeadLetter>, Vec<Forced>),
    /// The audit log, and as it was earlier.
    pub(crate) audit: AuditLog,
    audit_snapshot: AuditLog,
    /// An intent that has rotted.
    rotten: Option<u64>,
    /// Everything that it ever held, in commit order.
    ever: Vec<Intent>,
}

/// What becomes of a commit that is under way when its process ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Landing {
    /// All of it got to the disk, or nothing.
    Whole,
    /// Its beginning did.
    Torn,
}

impl Disk {
    /// What a replay gives: everything in commit order, or word of damage.
    pub fn replay(&self) -> Result<Replay, JournalError> {
        match self.rotten.and_then(|rotten| self.durable.get(&rotten)) {
            None => Ok(Replay {
                intents: self.durable.values().cloned().collect(),
                letters: self.letters.values().cloned().collect(),
                forced: self.forced.clone(),
            }),
            Some(intent) => {
                let detail = format!("an entry of {} fails its checksum", intent.record);
                Err(JournalError::Damaged(detail))
            }
        }
    }

    /// What it holds, in commit order.
    pub(crate) fn intents(&self) -> impl Iterator<Item = &Intent> {
        self.durable.values()
    }

    /// The writes of its intents.
    pub fn dots(&self) -> impl Iterator<Item = Dot> + '_ {
        self.by_dot.keys().copied()
    }

    fn take_snapshot(&mut self) {
        self.snapshot = (self.durable.clone(), self.letters.clone(), self.forced.clone());
        self.audit_snapshot = self.audit.durable();
    }

    /// Becomes another disk; gives the intents that it no longer has.
    fn become_disk(&mut self, durable: BTreeMap<u64, Intent>) -> Vec<Intent> {
        self.by_dot = durable.iter().map(|(at, intent)| (intent.dot(), *at)).collect();
        self.rotten = None;
        let former = std::mem::replace(&mut self.durable, durable);
        former.into_values().filter(|intent| !self.by_dot.contains_key(&intent.dot())).collect()
    }

    fn apply(&mut self, batch: JournalBatch, forgets: bool) {
        for intent in batch.intents {
            self.written += 1;
            if forgets && self.written.is_multiple_of(3) {
                continue;
            }
            self.by_dot.insert(intent.dot(), self.written);
            self.ever.push(intent.clone());
            self.durable.insert(self.written, intent);
        }
        for dot in batch.settled {
            if let Some(at) = self.by_dot.remove(&dot) {
                self.durable.remove(&at);
            }
        }
        if let Some(forced) = batch.forced
            && !forgets
        {
            self.forced = forced;
        }
        for note in batch.letters {
            match note {
                LetterNote::Dead(letter) => drop(self.letters.insert(letter.id.clone(), *letter)),
                LetterNote::Ended(id) => drop(self.letters.remove(&id)),
            }
        }
    }
}

impl World {
    /// Commits to a coordinator's disk.
    pub async fn commit(
        self: &Arc<Self>,
        node: NodeId,
        batch: JournalBatch,
    ) -> Result<(), JournalError> {
        let at = usize::from(node.0);
        let fsync = {
            let mut state = self.state();
            let early = self.is(Double::JournalAnswersEarly);
            if early {
                // The wrong double: what waits is lost in a crash, though it was called durable.
                if let Some(former) = state.disks[at].pending.replace(batch) {
                    self.land_commit(&mut state, node, former);
                }
                return Ok(());
            }
            state.disks[at].pending = Some(batch);
            let fsync = 1_000 + u64::from(state.disk_choices[at].next_u32() % 3_000);
            Duration::from_micros(fsync) + Duration::from_millis(self.slow_ms(&mut state, node))
        };
        // Before the answer, not before the disk: what was on its way to it got there, or not.
        self.crash_point(node, Call::JournalCommit, Moment::Before).await;
        self.sleep(fsync).await;
        let full = {
            let mut state = self.state();
            let full = self.disk_strikes(&mut state, Kind::DiskFull, node).is_some();
            if full {
                state.disks[at].pending = None;
            }
            full
        };
        if full {
            self.crash_point(node, Call::JournalCommit, Moment::After).await;
            return Err(JournalError::Full("no space left on device".to_owned()));
        }
        let failed = {
            let mut state = self.state();
            let failed = self.disk_strikes(&mut state, Kind::DiskFsyncError, node).is_some();
            if let Some(batch) = state.disks[at].pending.take() {
                let landed = !failed || state.disk_choices[at].random_bool(0.5);
                if landed {
                    self.land_commit(&mut state, node, batch);
                }
                if failed {
                    state.sometimes.insert(if landed {
                        "failed-fsync-kept-the-intents"
                    } else {
                        "failed-fsync-lost-the-intents"
                    });
                }
            }
            failed
        };
        self.crash_point(node, Call::JournalCommit, Moment::After).await;
        if failed { Err(JournalError::Io("fsync: input/output error".to_owned())) } else { Ok(()) }
    }

    /// A fault of this kind that holds at a disk, if its dice say so. Notes that it was felt.
    pub(crate) fn disk_strikes(
        &self,
        state: &mut State,
        kind: Kind,
        node: NodeId,
    ) -> Option<&Fault> {
        let here = |fault: &&Fault| fault.place == Place::Disk(node.0);
        let fault = self.faults(kind).filter(here).find(|fault| self.dice(state, fault))?;
        state.felt(kind);
        Some(fault)
    }

    /// What a slow disk adds to a write.
    pub(crate) fn slow_ms(&self, state: &mut State, node: NodeId) -> u64 {
        match self.disk_strikes(state, Kind::DiskSlow, node) {
            Some(fault) => self.choices(state, fault.id).random_range(0..=fault.span_ms),
            None => 0,
        }
    }

    /// The process ends: what was on its way to the disk got there, or not.
    pub(crate) fn end_commit(&self, state: &mut State, node: NodeId, landing: Landing) {
        let at = usize::from(node.0);
        let ended = state.disks[at].audit.end_append(&mut state.audit_choices[at]);
        state.sometimes.extend(ended);
        let Some(mut batch) = state.disks[at].pending.take() else { return };
        match landing {
            Landing::Torn if !batch.intents.is_empty() => {
                let upto = state.disk_choices[at].random_range(0..batch.intents.len());
                batch.intents.truncate(upto);
                batch.settled.clear();
                batch.letters.clear();
                batch.forced = None;
                self.land_commit(state, node, batch);
                state.sometimes.insert("replay-met-torn-tail");
            }
            Landing::Torn | Landing::Whole => {
                let landed = state.disk_choices[at].random_bool(0.5);
                if landed && !self.is(Double::JournalAnswersEarly) {
                    self.land_commit(state, node, batch);
                    state.sometimes.insert("crash-during-fsync-kept-the-intents");
                } else {
                    state.sometimes.insert("crash-during-fsync-lost-the-intents");
                }
            }
        }
    }

    /// Plays the faults that take a disk away, or change it.
    pub(crate) fn begin_disk_faults(self: &Arc<Self>) {
        for fault in self.scenario.faults.iter().filter(|fault| fault.kind.changes_disk()) {
            let Place::Disk(node) = fault.place else { continue };
            let (world, fault) = (self.clone(), fault.clone());
            madsim::task::spawn(async move { world.change_disk(NodeId(node), &fault).await });
        }
    }

    async fn change_disk(self: &Arc<Self>, node: NodeId, fault: &Fault) {
        let at = usize::from(node.0);
        self.sleep(Duration::from_millis(fault.from_ms)).await;
        if fault.kind == Kind::DiskRestored {
            self.state().disks[at].take_snapshot();
            let left_ms = (fault.until_ms - 1).saturating_sub(self.now_ms());
            self.sleep(Duration::from_millis(left_ms)).await;
        }
        // A disk goes wrong under a process that runs; rot must find something.
        loop {
            let (up, held) = {
                let state = self.state();
                (state.processes[at].up, !state.disks[at].durable.is_empty())
            };
            if up && (held || fault.kind != Kind::DiskBitRot) {
                break;
            }
            let left_ms = (fault.until_ms - 1).saturating_sub(self.now_ms());
            if left_ms == 0 {
                return;
            }
            self.sleep(TRY_AGAIN.min(Duration::from_millis(left_ms))).await;
        }
        self.crash(node, Duration::from_millis(fault.span_ms), Landing::Whole);
        let mut state = self.state();
        let now_ms = self.now_ms();
        self.note(&mut state, End::Node(node.0), fault.kind.name(), None, now_ms, String::new);
        match fault.kind {
            Kind::DiskLost => {
                state.disks[at].letters.clear();
                state.disks[at].forced.clear();
                state.disks[at].audit = AuditLog::default();
                self.replace_disk(&mut state, node, BTreeMap::new());
            }
            Kind::DiskRestored => {
                let (snapshot, letters, forced) = std::mem::take(&mut state.disks[at].snapshot);
                state.disks[at].letters = letters;
                state.disks[at].forced = forced;
                state.disks[at].audit = std::mem::take(&mut state.disks[at].audit_snapshot);
                self.replace_disk(&mut state, node, snapshot);
            }
            _ => {
                let held: Vec<u64> = state.disks[at].durable.keys().copied().collect();
                let rotten = held[self.choices(&mut state, fault.id).random_range(0..held.len())];
                state.disks[at].rotten = Some(rotten);
                // It is felt at the replay.
                return;
            }
        }
        state.felt(fault.kind);
    }

    /// Puts back what a disk ever held, from some commit on, except what was lost with it before
    /// the authority had it. Gives how many intents that were.
    pub(crate) fn resurrect_intents(&self, node: NodeId) -> usize {
        let at = usize::from(node.0);
        let mut state = self.state();
        let ever = std::mem::take(&mut state.disks[at].ever);
        let from = match ever.len() {
            0 => 0,
            // The newest one at least.
            all => self.streams.open(Purpose::Replay, u64::from(node.0)).random_range(0..all),
        };
        let back = ever.into_iter().skip(from).filter(|i| !state.checker.is_gone(i.dot()));
        // What is held still is older than all of that, or among it.
        let (dots, back): (BTreeSet<Dot>, Vec<Intent>) = back.map(|i| (i.dot(), i)).unzip();
        let held = std::mem::take(&mut state.disks[at].durable).into_values();
        let held = held.filter(|intent| !dots.contains(&intent.dot()));
        let back: BTreeMap<u64, Intent> = (1..).zip(held.chain(back)).collect();
        let intents = back.len();
        state.disks[at].become_disk(back);
        intents
    }

    fn replace_disk(&self, state: &mut State, node: NodeId, durable: BTreeMap<u64, Intent>) {
        state.breakers.forgets(node);
        let lost = state.disks[usize::from(node.0)].become_disk(durable);
        for intent in &lost {
            state.checker.lost_with_disk(intent);
        }
    }

    /// The journal is damaged: an operator moves it away, as the error says, which takes a moment.
    pub(crate) async fn move_journal_away(self: &Arc<Self>, node: NodeId) {
        let at = usize::from(node.0);
        {
            let mut state = self.state();
            state.felt(Kind::DiskBitRot);
            state.processes[at].up = false;
        }
        self.sleep(OPERATOR_TAKES).await;
        let mut state = self.state();
        self.note(&mut state, End::Node(node.0), "journal-moved-away", None, 0, String::new);
        state.disks[at].letters.clear();
        state.disks[at].forced.clear();
        self.replace_disk(&mut state, node, BTreeMap::new());
        let now_ms = self.now_ms();
        let process = &mut state.processes[at];
        process.up = true;
        process.restarted_ms = now_ms;
    }

    fn land_commit(&self, state: &mut State, node: NodeId, batch: JournalBatch) {
        let now_ms = self.now_ms();
        for intent in &batch.intents {
            state.checker.journalled(now_ms, intent);
            let dot = intent.dot();
            self.note(state, End::Node(node.0), "durable", None, dot.counter, || {
                format!("{} as {dot}", intent.record)
            });
        }
        let forgets = self.is(Double::JournalForgets);
        state.disks[usize::from(node.0)].apply(batch, forgets);
        for kept in &self.scenario.datasets {
            let Some(records_max) = kept.queue_records else { continue };
            let State { checker, disks, .. } = state;
            let held = disks[usize::from(node.0)].durable.values();
            let of = held.filter(|intent| *intent.record.dataset == *kept.name);
            checker.holds(now_ms, node, of, records_max);
        }
        if let Some(intents_max) = self.scenario.intents_max {
            let State { checker, disks, .. } = state;
            let held = disks[usize::from(node.0)].durable.values();
            checker.holds(now_ms, node, held, intents_max);
        }
    }
}
