//! Audit logs at the end, held against what authorities have settled.

use super::{Checker, Invariant};
use crate::audit::LOGGED_WITHIN_MS;
use crate::world::EPOCH_MS;
use tidelock_engine::audit::{ConflictFacts, Event, Kind, Original, verify};
use tidelock_engine::conflict::Conflict;
use tidelock_engine::version::{NodeId, Sibling, SiteId};

impl Checker {
    /// A coordinator's audit log, line by line, and the conflicts that its site's authority has settled,
    /// in the order of its feed. The last of these may be too young to be in it.
    pub fn finish_log<'a>(
        &mut self,
        at_ms: u64,
        node: NodeId,
        site: SiteId,
        lines: impl Iterator<Item = &'a [u8]> + Clone,
        settled: impl Iterator<Item = &'a Conflict>,
    ) {
        let broken = verify(lines.clone(), None).err();
        self.hold(Invariant::AuditComplete, at_ms, broken.is_none(), || {
            format!("the log of n{}: {}", node.0, broken.map(|b| b.to_string()).unwrap_or_default())
        });
        let is_set_back = |line: &[u8]| event_of(line, Kind::SetBack).is_some();
        let set_back = lines.clone().filter(|line| is_set_back(line)).count();
        self.hold(Invariant::AuditComplete, at_ms, set_back == 0, || {
            format!(
                "the log of n{} says {set_back} times that D1 was set back, and none was",
                node.0
            )
        });
        let mut logged = lines.filter_map(conflict_of);
        let mut problem = None;
        let mut conflicts = 0;
        for conflict in settled {
            let named =
                || format!("the conflict that {} of {} lost", conflict.lost.dot, conflict.record);
            let is_young = conflict.at.0 + LOGGED_WITHIN_MS > EPOCH_MS + at_ms;
            problem = match logged.next() {
                Some(facts) if is_of(&facts, site, conflict) => {
                    conflicts += 1;
                    continue;
                }
                Some(facts) => {
                    let lost = facts.losers.first().map(|lost| lost.dot.to_string());
                    let (lost, record) = (lost.unwrap_or_default(), &facts.record);
                    Some(format!(
                        "{} should come next, and {lost} of {record} at {} does",
                        named(),
                        facts.seq.0
                    ))
                }
                None if is_young => None,
                None => Some(format!("{} is missing", named())),
            };
            break;
        }
        if problem.is_none()
            && let Some(facts) = logged.next()
        {
            problem = Some(format!("one about {} is one too many", facts.record));
        }
        self.hold(Invariant::AuditComplete, at_ms, problem.is_none(), || {
            format!("the log of n{}: {}", node.0, problem.unwrap_or_default())
        });
        self.checked[Invariant::AuditComplete as usize] += conflicts;
    }
}

/// What a line tells, if it tells of a conflict. Its hash has been held against its content.
fn conflict_of(line: &[u8]) -> Option<ConflictFacts> {
    match serde_json::from_str(event_of(line, Kind::Conflict)?) {
        Ok(Event::Conflict(conflict)) => Some(conflict.facts().clone()),
        Ok(_) | Err(_) => None,
    }
}

/// What a line tells, if it is of a kind.
fn event_of(line: &[u8], kind: Kind) -> Option<&str> {
    let (_, event) = std::str::from_utf8(line).ok()?.split_once("\"event\":")?;
    let is_of = |event: &&str| event.starts_with(&format!("{{\"kind\":\"{}\"", kind.name()));
    event.strip_suffix('}').filter(is_of)
}

/// Everything that the log says of a conflict is so.
fn is_of(facts: &ConflictFacts, site: SiteId, conflict: &Conflict) -> bool {
    let Conflict { record, seq, at, lost, winner, won, by, why, contexts, erased: _ } = conflict;
    let [loser] = &facts.losers[..] else { return false };
    (facts.site, &facts.record, facts.seq, facts.settled_ms) == (site, record, *seq, at.0)
        && facts.winner == *winner
        && match (&facts.won, won) {
            (Some(logged), Some(won)) => names(logged, won),
            (None, None) => true,
            (Some(_), None) | (None, Some(_)) => false,
        }
        && names(loser, lost)
        && *facts.strategy == *by.to_string()
        && (&facts.why, &facts.contexts) == (why, contexts)
}

fn names(logged: &Original, value: &Sibling) -> bool {
    let Sibling { dot, stamp, hash, bytes, deleted, expires_at_ms } = *value;
    *logged == Original { dot, stamp, hash, bytes, deleted, expires_at_ms }
}
