//! What sessions ask for, and what they are told.

use super::{Checker, Invariant, Law, Observed, covers, is_reaped};
use tidelock_engine::record::RecordId;
use tidelock_engine::version::{ContentHash, Dot, NodeId, SiteId, VersionVector};

/// What a session was told of a write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Told {
    /// Nothing yet.
    Waiting,
    /// It will not be lost.
    Acknowledged(Dot),
    /// It did not happen.
    Refused,
    /// It may have happened.
    Unknown,
}

/// A write that a session asked for.
#[derive(Clone, Debug)]
pub struct Asked {
    /// When.
    pub at_ms: u64,
    /// By whom.
    pub session: u16,
    /// Of what.
    pub record: RecordId,
    /// Of the value; `None`: a delete.
    pub hash: Option<ContentHash>,
    /// What it was told.
    pub told: Told,
}

/// A read that began so long after a value's time does not give it: a coordinator knows the store
/// side's clock from an answer that took two seconds at the most.
const SERVED_WITHIN_MS: u64 = 2_250;

impl Checker {
    /// A session asks for a write.
    pub fn asks(
        &mut self,
        id: u32,
        at_ms: u64,
        session: u16,
        record: RecordId,
        value: Option<&[u8]>,
    ) {
        let hash = value.map(ContentHash::of);
        if let Some(hash) = hash {
            self.by_hash.insert(hash, id);
        }
        self.asked.insert(id, Asked { at_ms, session, record, hash, told: Told::Waiting });
    }

    /// A session asks for a counter to be increased: what bytes that makes depends on what stands there.
    pub fn asks_to_add(
        &mut self,
        id: u32,
        at_ms: u64,
        session: u16,
        record: RecordId,
        amount: u64,
    ) {
        self.asks(id, at_ms, session, record, None);
        self.adds.insert(id, amount);
    }

    /// A write that was asked for is to stand for so long.
    pub fn asks_for(&mut self, id: u32, ttl_ms: u64) {
        self.lifetimes.insert(id, ttl_ms);
    }

    /// A session is told how its write came out.
    pub fn told(&mut self, id: u32, at_ms: u64, told: Told) {
        let Some(asked) = self.asked.get_mut(&id) else { return };
        asked.told = told;
        let asked = asked.clone();
        match told {
            Told::Acknowledged(dot) => {
                self.seen.entry((asked.session, asked.record.clone())).or_default().include(dot);
                let durable = self.issued.get(&dot).is_some_and(|issued| {
                    let same = match asked.hash {
                        Some(hash) => issued.hash == hash,
                        None if self.adds.contains_key(&id) => {
                            self.writer(&asked.record, issued.hash) == Some(id)
                        }
                        None => issued.hash == ContentHash::of(&[]),
                    };
                    issued.record == asked.record && same
                });
                self.hold(Invariant::ZeroLoss, at_ms, durable, || {
                    format!(
                        "w{id} ({}) was acknowledged as {dot}, and no journal has it",
                        asked.record
                    )
                });
                let awaited = !self.outside.contains(&dot.actor.node) && !self.is_excusable(dot);
                let poison = self.is_poison(asked.hash);
                for site in self.sites().filter(|_| awaited) {
                    let row = self.row(site, &asked.record);
                    if !poison && !row.is_some_and(|row| row.has_seen(dot)) {
                        self.unconfirmed.insert((dot, site), (asked.record.clone(), at_ms));
                    }
                }
            }
            Told::Refused => {
                let present = asked.hash.and_then(|hash| self.where_is(hash)).or_else(|| {
                    let mut seen = self.seen_bytes.iter();
                    let seen = seen.find(|(_, seen)| self.increased.get(*seen) == Some(&id));
                    seen.map(|(dot, _)| format!("the authority's row as {dot}"))
                });
                self.hold(Invariant::NoPhantom, at_ms, present.is_none(), || {
                    format!(
                        "w{id} ({}) was refused, and is in {}",
                        asked.record,
                        present.unwrap_or_default()
                    )
                });
            }
            Told::Unknown | Told::Waiting => {}
        }
    }

    /// An acknowledgement promised that this write survives crashes, and nothing more.
    pub fn survives_crashes_alone(&mut self, dot: Dot) {
        self.local.insert(dot);
    }

    /// A write that was asked for went straight into the authority. What it replaces there of
    /// another foreign write, seen by nobody, is gone by that writer's own doing.
    pub fn wrote_past_us(&mut self, id: u32, at_ms: u64, site: SiteId) {
        let Some(asked) = self.asked.get_mut(&id) else { return };
        asked.told = Told::Unknown;
        asked.at_ms = at_ms;
        self.foreign.insert((site, asked.record.clone()), id);
    }

    pub(super) fn where_is(&self, hash: ContentHash) -> Option<String> {
        let (dot, (record, _)) = self.seen_bytes.iter().find(|(_, seen)| seen.1 == hash)?;
        Some(format!("the authority's row of {record} as {dot}"))
    }

    /// A session that asked at `since_ms` read bytes of a record.
    pub fn served(&mut self, at_ms: u64, since_ms: u64, record: &RecordId, bytes: &[u8]) {
        if self.law(record).is_some_and(Law::counts) {
            return self.counter_served(at_ms, record, bytes);
        }
        let hash = ContentHash::of(bytes);
        let writer = self.by_hash.get(&hash).and_then(|id| self.asked.get(id).map(|a| (*id, a)));
        self.hold(Invariant::NoCorruption, at_ms, writer.is_some(), || {
            format!("a read of {record} gave bytes that nobody wrote")
        });
        let writer = self.by_hash.get(&hash).and_then(|id| self.asked.get(id).map(|a| (*id, a)));
        let problem = match writer {
            None => None,
            Some((id, asked)) if asked.record != *record => {
                Some(format!("w{id} of {}", asked.record))
            }
            Some((id, asked)) if asked.told == Told::Refused => {
                Some(format!("w{id}, which was refused"))
            }
            Some(_) => None,
        };
        self.hold(Invariant::NoPhantom, at_ms, problem.is_none(), || {
            format!("a read of {record} gave {}", problem.unwrap_or_default())
        });
        let long_gone = self.is_gone_since(hash, since_ms, SERVED_WITHIN_MS);
        self.hold(Invariant::NoResurrection, at_ms, !long_gone, || {
            format!("a read of {record} gave bytes whose time had passed long before it began")
        });
    }

    /// A read gave a version with this history, and no value: it has none, or its time has passed.
    pub fn gave_nothing(&mut self, at_ms: u64, record: &RecordId, history: &VersionVector) {
        let stands = |row: &&Observed| {
            let expired = row.current.is_some_and(|dot| self.has_expired(at_ms, dot));
            row.history == *history && row.current.is_some() && !row.deleted && !expired
        };
        let hidden = self.sites().filter_map(|site| self.row(site, record)).find(stands);
        let hidden = hidden.and_then(|row| row.current);
        self.hold(Invariant::ZeroLoss, at_ms, hidden.is_none(), || {
            let dot = hidden.map(|dot| dot.to_string()).unwrap_or_default();
            format!(
                "a read of {record} gave nothing, where {dot} stands and its time has not passed"
            )
        });
    }

    /// A read gave a version with this history: no dot of it that no journal ever had.
    pub fn gave(&mut self, at_ms: u64, record: &RecordId, history: &VersionVector) {
        let unheard_of = history.iter().find_map(|(actor, counter)| {
            let dot = Dot { actor: *actor, counter: *counter };
            let heard_of = actor.node == NodeId::FOREIGN
                || self.issued.get(&dot).is_some_and(|issued| issued.record == *record);
            (!heard_of).then_some(dot)
        });
        self.hold(Invariant::Causality, at_ms, unheard_of.is_none(), || {
            let dot = unheard_of.map(|dot| dot.to_string()).unwrap_or_default();
            format!("a read of {record} gave a version that includes {dot}, which no journal had")
        });
    }

    /// A session read a version with this history, and asked for nothing older than it had seen.
    pub fn saw(&mut self, at_ms: u64, session: u16, record: &RecordId, history: &VersionVector) {
        let mut seen = self.seen.remove(&(session, record.clone())).unwrap_or_default();
        let older: Vec<Dot> = seen
            .iter()
            .map(|(actor, counter)| Dot { actor: *actor, counter: *counter })
            .filter(|dot| !covers(history, *dot))
            .filter(|dot| !self.rows.iter().any(|rows| is_reaped(rows, record, *dot)))
            .collect();
        for (actor, counter) in history.iter() {
            seen.include(Dot { actor: *actor, counter: *counter });
        }
        self.seen.insert((session, record.clone()), seen);
        self.hold(Invariant::Session, at_ms, older.is_empty(), || {
            let older: Vec<String> = older.iter().map(Dot::to_string).collect();
            format!("s{session} read {record} without {}, seen before", older.join(" "))
        });
    }
}
