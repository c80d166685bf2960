//! What is to be brought into the authority: this coordinator's own intents, or a version of another site.
//!
//! Invariant: what goes in over a dead write brings along what that had to keep, and its record, since it was
//! written over it (rule V8); what is under a condition goes alone.

use super::Candidate;
use super::plan::{Plan, written};
use crate::conflict::{By, Decision};
use crate::coordinator::Slot;
use crate::coordinator::exchange::Adoption;
use crate::journal::Intent;
use crate::policy::Ruling;
use crate::record::{Loser, Written};
use crate::resolve::Held;
use crate::row::Expect;
use crate::settle::{self, Rules, Settled, Values};
use crate::version::{Actor, Basis, Dot, NodeId, Version};
use std::collections::BTreeSet;
use std::sync::Arc;

/// What is to be brought into the authority: the coordinator's own intents, or a version of another
/// site.
pub(super) struct Ours {
    pub(super) held: Held,
    pub(super) losers: Vec<Loser>,
    pub(super) by: Decision,
    /// What is new of it, write by write, where such are merged.
    pub(super) writes: Vec<Written>,
    /// It is an intent of a journal, and no version of another site.
    pub(super) from_journal: bool,
    /// The intent, where it has a condition: it happens over this row, or not at all.
    pub(super) only_over: Option<(Arc<Intent>, Expect)>,
}

impl Slot {
    /// True when something is to be brought into the authority that is not dead.
    pub(in crate::coordinator) fn has_living(&self) -> bool {
        let mut intents = self.intents.iter();
        intents.any(|pending| !pending.dead) || self.adoptions.iter().any(|a| !a.dead)
    }

    /// A version of another site; or the newest durable intent that may be installed, with all the
    /// losers up to it. A conditional one is not skipped: it goes alone.
    pub(super) fn ours(&self, own: NodeId, merges: bool) -> Option<Ours> {
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
    pub(super) fn over(self, expect: Expect) -> Plan {
        self.install(expect, None)
    }

    /// Where nothing is, conditionally.
    pub(super) fn over_nothing(self, expect: Expect, own: Actor) -> Plan {
        match &self.only_over {
            Some((intent, _)) if asks_for_nothing(intent, own) => {
                let conditional = Some(intent.clone());
                self.install(expect, conditional)
            }
            _ => self.conditionally(),
        }
    }

    /// Over the row that its own condition names.
    pub(super) fn conditionally(self) -> Plan {
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
    pub(super) fn under(mut self, ruling: &Ruling) -> Self {
        if *ruling == Ruling::Lww && self.held.version.basis() == Basis::Unsettled {
            self.held.version = self.held.version.collapsed();
        }
        self.by = settle::decided(ruling, &self.held.version).into();
        self
    }

    /// What is shown of a set, and what is kept of it. What is passed over is no part of it, and is kept.
    pub(super) fn settle(
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
    pub(super) fn with(mut self, settled: Settled, kept: Vec<Loser>) -> Self {
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
pub(super) fn asks_for_nothing(intent: &Intent, own: Actor) -> bool {
    intent.dot().actor == own && intent.is_over_nothing()
}
