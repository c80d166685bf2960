//! An audit log has what D1 has settled, also where D1 becomes another than the one it followed.

use bytes::Bytes;
use std::convert::Infallible;
use std::sync::Arc;
use tidelock_benches::Memory;
use tidelock_engine::audit::{Event, Settled};
use tidelock_engine::blob::BlobsSeen;
use tidelock_engine::conflict::By;
use tidelock_engine::coordinator::{Coordinator, Logged, Trail};
use tidelock_engine::env::Outcome;
use tidelock_engine::policy::{Dataset, Pace, Policy};
use tidelock_engine::record::{Loser, RecordId, Stored};
use tidelock_engine::resolve::sibling;
use tidelock_engine::row::{Install, Row, RowAnswer, RowOp, StoreTime};
use tidelock_engine::version::{Actor, Dot, NodeId, Stamp, Version};
use tidelock_sim::stores::D1;

/// Conflicts in one append.
const PAGE: usize = 3;

/// A log in memory, which shows its conflicts two at a time.
#[derive(Default)]
struct Log(Vec<Event>);

impl Trail for Log {
    type Error = Infallible;
    type Cursor = usize;

    async fn append(&mut self, events: Vec<(u64, Event)>) -> Result<(), Infallible> {
        assert!(events.len() <= PAGE, "{events:?}");
        self.0.extend(events.into_iter().map(|(_, event)| event));
        Ok(())
    }

    async fn settled(
        &mut self,
        from: Option<usize>,
    ) -> Result<(Vec<Settled>, Option<usize>), Infallible> {
        let before = from.unwrap_or(self.0.len());
        let from = before.saturating_sub(2);
        let conflicts = self.0[from..before].iter().rev();
        let conflicts = conflicts.filter(|event| matches!(event, Event::Conflict(_)));
        let conflicts = conflicts.filter_map(|event| event.followed_through()).collect();
        Ok((conflicts, (from > 0).then_some(from)))
    }
}

impl Log {
    /// Each conflict by its record's key, and where D1 was set back: `<` and behind which it goes on.
    fn told(&self) -> String {
        let key = |settled: &Settled| {
            let conflict = self.0.iter().find_map(|event| match event {
                Event::Conflict(conflict) if conflict.settled() == Some(*settled) => Some(conflict),
                _ => None,
            });
            conflict.expect("it is in the log").facts().record.key.to_string()
        };
        let told = self.0.iter().map(|event| match event {
            Event::Conflict(conflict) => conflict.facts().record.key.to_string(),
            Event::SetBack { last, behind } => {
                let key = |settled: &Option<Settled>| settled.as_ref().map(key).unwrap_or_default();
                format!("{}<{}", key(last), key(behind))
            }
            other => panic!("{other:?}"),
        });
        told.collect::<Vec<_>>().join(" ")
    }

    /// Brings it what there is, as after a start.
    async fn follow(&mut self, coordinator: &Arc<Coordinator<Memory>>) {
        let ending = self.0.iter().rev().find(|event| event.kind().is_followed());
        let mut logged = Logged::behind(ending, PAGE);
        for _ in 0..50 {
            let Ok(more) = logged.follow(coordinator, self).await;
            if !more {
                return;
            }
        }
        panic!("it does not end: {}", self.told());
    }
}

async fn started() -> (Memory, Arc<Coordinator<Memory>>) {
    let memory = Memory::default();
    let dataset = Dataset { reconcile_every: None, ..Dataset::everywhere("bench") };
    let policy = Policy::new([dataset]);
    let started = Coordinator::start(memory.clone(), NodeId(0), policy, Pace::default()).await;
    (memory, started.expect("an empty journal replays"))
}

/// Settles one conflict for each key, at this time, in a D1.
fn settle(d1: &mut D1, keys: &str, at_ms: u64) {
    for key in keys.split_whitespace() {
        let record = RecordId { dataset: Arc::from("bench"), key: key.into() };
        let holder = Actor { node: NodeId(7), incarnation: 7 };
        let write = |counter: u64, text: &'static str| {
            let value = Stored::Inline(Bytes::from_static(text.as_bytes()));
            let stamp = Stamp { wall_ms: 9, logical: 0 };
            (sibling(Dot { actor: holder, counter }, stamp, &value), value)
        };
        // Names that other keys have too: only where D1 has them are they told apart.
        let ((lost, lost_value), (won, value)) = (write(1, "lost"), write(2, "won"));
        let over = d1.rows().get(&record).map(Row::history).unwrap_or_default();
        let install = Install {
            expect: d1.rows().get(&record).map(Row::expect).unwrap_or_default(),
            version: Version::write(&over, won),
            record,
            value,
            losers: vec![Loser { sibling: lost, value: lost_value, winner: won.dot }],
            owe: Vec::new(),
            holder,
            blobs_seen: BlobsSeen::default(),
            by: By::Lww.into(),
            writes: Vec::new(),
        };
        let (outcome, _) = d1.batch(StoreTime(at_ms), &[RowOp::Install(Box::new(install))]);
        let Outcome::Applied(answer) = outcome else { panic!("{outcome:?}") };
        assert!(matches!(answer.answers[..], [RowAnswer::Installed { .. }]), "{answer:?}");
    }
}

/// What D1 was at each look, and what the log has of it at last.
#[track_caller]
fn check(looks: &[&D1], expected: &str) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let told = runtime.expect("a runtime starts").block_on(async {
        let (memory, coordinator) = started().await;
        let mut log = Log::default();
        for look in looks {
            memory.with_d1(|d1| *d1 = (*look).clone());
            log.follow(&coordinator).await;
            log.follow(&coordinator).await;
        }
        log.told()
    });
    assert_eq!(told, expected);
}

/// One D1 after another, each with these conflicts beyond the one before.
fn grown(from: &D1, keys: &str, at_ms: u64) -> D1 {
    let mut d1 = from.clone();
    settle(&mut d1, keys, at_ms);
    d1
}

#[test]
fn what_is_settled_is_logged_once_and_in_order() {
    let few = grown(&D1::default(), "a b", 1);
    let many = grown(&few, "c d e f g h", 2);
    check(&[&D1::default(), &few, &many, &many], "a b c d e f g h");
}

#[test]
fn a_d1_that_was_set_back_and_has_grown_is_followed_from_where_it_parted() {
    let early = grown(&D1::default(), "a b", 1);
    let late = grown(&early, "c d e", 2);
    // Not as far as the log, just as far, and past it.
    check(&[&late, &early], "a b c d e e<b");
    check(&[&late, &grown(&early, "u", 3)], "a b c d e e<b u");
    check(&[&late, &grown(&early, "u v w", 3)], "a b c d e e<b u v w");
    check(&[&late, &grown(&early, "u v w x y z", 3)], "a b c d e e<b u v w x y z");
    // It stays so at the next look, and when it grows.
    let other = grown(&early, "u v w x", 3);
    check(&[&late, &other, &grown(&other, "y z", 4)], "a b c d e e<b u v w x y z");
    // The same conflict, settled again: another place, and another time at the same place.
    check(&[&late, &grown(&early, "e c", 3)], "a b c d e e<b e c");
    check(&[&late, &grown(&early, "c d e f", 3)], "a b c d e e<b c d e f");
}

#[test]
fn a_d1_that_was_set_back_to_before_the_log_or_begun_anew_is_told_whole() {
    let followed = grown(&D1::default(), "a b c", 1);
    let other = grown(&D1::default(), "u v w x y", 2);
    check(&[&followed, &D1::default()], "a b c c<");
    check(&[&followed, &D1::default(), &other], "a b c c< u v w x y");
    check(&[&followed, &other], "a b c c< u v w x y");
}

#[test]
fn a_d1_that_is_set_back_twice_or_forward_again_doubles_nothing() {
    let early = grown(&D1::default(), "a b", 1);
    let late = grown(&early, "c d e", 2);
    let other = grown(&early, "u v w x", 3);
    let beyond = grown(&late, "f g h i j", 4);
    check(&[&late, &other, &late], "a b c d e e<b u v w x x<e");
    check(&[&late, &other, &beyond], "a b c d e e<b u v w x x<e f g h i j");
    check(&[&late, &other, &early, &other], "a b c d e e<b u v w x x<b b<x");
    let third = grown(&D1::default(), "a", 1);
    check(&[&late, &other, &third, &beyond], "a b c d e e<b u v w x x<a a<e f g h i j");
}
