//! D1 as the authority: compare-and-set, the change feed, and the marks with their leases.

use super::{Case, RefusalKind, World, applied, cases, refused};
use bytes::Bytes;
use std::sync::Arc;
use tidelock_engine::blob::BlobsSeen;
use tidelock_engine::conflict::{By, Conflict, ConflictQuery, Contexts, Decision, Which};
use tidelock_engine::env::{RowHistory, RowStore};
use tidelock_engine::erasure::{Erase, EraseAnswer, Erasure};
use tidelock_engine::record::{D1_ROW_BYTES_MAX, Loser, RecordId, StoreId, Stored, Written};
use tidelock_engine::resolve::sibling;
use tidelock_engine::row::{
    Change, Epoch, Grant, Install, LEASE_MS, Poll, PollPage, Row, RowAnswer, RowOp, Seq, StoreTime,
    WRITE_BYTES_MAX, WRITES_MAX,
};
use tidelock_engine::tree::{Leaf, Tree};
use tidelock_engine::version::{
    Actor, ContentHash, Dot, NodeId, Sibling, Stamp, Version, VersionId, VersionVector,
};

cases![
    d1_gives_back_what_was_installed,
    d1_installs_over_what_is_expected_alone,
    d1_refuses_an_install_that_does_not_cover,
    d1_answers_a_batch_in_order,
    d1_applies_all_of_a_batch_or_nothing,
    d1_feeds_changes_in_order_and_page_by_page,
    d1_gives_lapsed_marks_to_others,
    d1_tells_when_the_next_mark_lapses,
    d1_holds_renews_and_clears_a_mark,
    d1_clears_when_nobody_else_can_be_putting,
    d1_marks_a_settled_projection_again,
    d1_gives_a_former_life_its_marks_at_once,
    d1_keeps_the_losers_of_the_batch,
    d1_keeps_what_a_merge_starts_from,
    d1_lists_conflicts_in_the_order_in_which_they_were_settled,
    d1_erases_bytes_and_keeps_what_is_known_of_them,
    d1_does_not_erase_what_stands,
    d1_does_not_take_again_what_was_erased,
    d1_keeps_the_sums_of_its_leaves,
    d1_gives_the_rows_of_a_leaf,
    d1_reaps_a_tombstone_and_remembers_what_it_had_seen,
    d1_condemns_what_nothing_refers_to,
    d1_takes_no_reference_to_what_may_be_deleted,
];

fn actor(node: u16) -> Actor {
    Actor { node: NodeId(node), incarnation: 1 }
}

fn named(key: &str) -> RecordId {
    RecordId { dataset: Arc::from("contract"), key: key.into() }
}

fn inline(text: &str) -> Stored {
    Stored::Inline(Bytes::from(text.to_owned()))
}

fn install(key: &str, over: Option<&Row>, node: u16, counter: u64, value: Stored) -> Install {
    let expect = over.map(Row::expect).unwrap_or_default();
    let stamp = Stamp { wall_ms: counter, logical: 0 };
    let own = sibling(Dot { actor: actor(node), counter }, stamp, &value);
    Install {
        record: named(key),
        version: Version::write(&expect.history, own),
        expect,
        value,
        losers: vec![],
        owe: vec![StoreId::Kv],
        holder: actor(node),
        blobs_seen: BlobsSeen::default(),
        by: Default::default(),
        writes: vec![],
    }
}

async fn batch<W: World>(world: &W, ops: Vec<RowOp>) -> Vec<RowAnswer> {
    let count = ops.len();
    let answer = applied(world.d1().batch(ops.into()).await);
    assert_eq!(answer.answers.len(), count, "one answer for each operation");
    answer.answers
}

async fn one<W: World>(world: &W, op: RowOp) -> RowAnswer {
    batch(world, vec![op]).await.remove(0)
}

async fn read<W: World>(world: &W, key: &str) -> Option<Row> {
    match one(world, RowOp::Read { record: named(key) }).await {
        RowAnswer::Read(row) => row.map(|row| *row),
        other => panic!("a read is answered with a row: {other:?}"),
    }
}

async fn installed<W: World>(world: &W, op: Install) -> (Row, Grant) {
    let key = op.record.key.clone();
    let RowAnswer::Installed { row_seq, seq, grant } =
        one(world, RowOp::Install(Box::new(op))).await
    else {
        panic!("{key} is installed")
    };
    let row = read(world, &key).await.expect("it was installed");
    assert_eq!((row.row_seq, row.known_row_seq, row.seq), (row_seq, row_seq, seq));
    (row, grant)
}

async fn first<W: World>(world: &W, key: &str) -> (Row, Grant) {
    installed(world, install(key, None, 1, 1, inline("first"))).await
}

fn id(row: &Row) -> VersionId {
    row.version.as_ref().expect("it was installed").id()
}

fn claim(key: &str, node: u16, renew: Option<Epoch>) -> RowOp {
    let (record, holder) = (named(key), actor(node));
    RowOp::Claim { record, store: StoreId::Kv, holder, renew, quiet: vec![] }
}

fn clear(key: &str, version: VersionId, epoch: Epoch) -> RowOp {
    RowOp::Clear { record: named(key), store: StoreId::Kv, version, epoch, quiet: vec![] }
}

async fn claimed<W: World>(world: &W, op: RowOp) -> (Row, Grant) {
    match one(world, op).await {
        RowAnswer::Claimed { row, grant } => (*row, grant),
        other => panic!("the mark is claimed: {other:?}"),
    }
}

/// All changes after `after`, in pages of `limit`.
async fn feed<W: World>(world: &W, after: Seq, limit: usize) -> Vec<Change> {
    let (mut after, mut changes) = (after, Vec::new());
    loop {
        let poll = Poll { actor: actor(9), after, limit };
        let page = world.d1().poll(poll).await.expect("a poll is answered");
        assert!(page.changes.len() <= limit, "at most the limit");
        after = page.changes.last().map_or(after, |change| change.seq);
        changes.extend(page.changes);
        if page.complete {
            return changes;
        }
    }
}

async fn polled<W: World>(world: &W, actor: Actor) -> PollPage {
    let poll = Poll { actor, after: Seq(0), limit: 1_000 };
    world.d1().poll(poll).await.expect("a poll is answered")
}

/// Whether the record's mark waits for this actor.
async fn waits<W: World>(world: &W, key: &str, actor: Actor) -> bool {
    polled(world, actor).await.lapsed.contains(&(named(key), StoreId::Kv))
}

/// As if its blobs had just been put.
async fn see_blobs<W: World>(world: &W, op: &mut Install) {
    let now = polled(world, actor(1)).await.now;
    for blob in op.blobs().collect::<Vec<_>>() {
        op.blobs_seen.insert(blob, now);
    }
}

async fn d1_gives_back_what_was_installed<W: World>(world: &W) {
    assert_eq!(read(world, "back").await, None);
    let (reference, _) = large("large");
    let values = [inline("one \u{0}"), Stored::Tombstone, reference, inline("")];
    let mut over: Option<Row> = None;
    for (counter, value) in (1..).zip(values) {
        let mut op = install("back", over.as_ref(), 1, counter, value);
        see_blobs(world, &mut op).await;
        let (row, grant) = installed(world, op.clone()).await;
        assert_eq!(
            (row.version.as_ref(), row.value.as_ref()),
            (Some(&op.version), Some(&op.value))
        );
        assert!(!row.has_foreign_write() && row.epoch == grant.epoch);
        assert_eq!(row.owed.keys().collect::<Vec<_>>(), [&StoreId::Kv]);
        over = Some(row);
    }
}

async fn d1_installs_over_what_is_expected_alone<W: World>(world: &W) {
    let (before, _) = first(world, "expected").await;
    let (now, _) =
        installed(world, install("expected", Some(&before), 1, 2, inline("second"))).await;
    let mut other_seq = now.clone();
    other_seq.row_seq += 1;
    for stale in [None, Some(&before), Some(&other_seq)] {
        let op = install("expected", stale, 2, 1, inline("stale"));
        let answer = one(world, RowOp::Install(Box::new(op))).await;
        assert_eq!(answer, RowAnswer::Moved(Some(Box::new(now.clone()))));
    }
    let nothing = install("expected/nothing", Some(&now), 2, 1, inline("stale"));
    let answer = one(world, RowOp::Install(Box::new(nothing))).await;
    assert_eq!(answer, RowAnswer::Moved(None));
    assert_eq!(read(world, "expected").await, Some(now));
}

async fn d1_refuses_an_install_that_does_not_cover<W: World>(world: &W) {
    let (before, _) = first(world, "covering").await;
    let mut op = install("covering", Some(&before), 2, 1, inline("other"));
    op.version = Version::write(&VersionVector::new(), *op.version.current());
    let answer = one(world, RowOp::Install(Box::new(op))).await;
    assert_eq!(answer, RowAnswer::NotCovering);
    assert_eq!(read(world, "covering").await, Some(before));
}

async fn d1_answers_a_batch_in_order<W: World>(world: &W) {
    let read_op = |key: &str| RowOp::Read { record: named(key) };
    let write = |key: &str| RowOp::Install(Box::new(install(key, None, 1, 1, inline("v"))));
    let ops = vec![
        read_op("order/a"),
        write("order/a"),
        read_op("order/a"),
        write("order/a"),
        write("order/b"),
        RowOp::Release { record: named("order/c"), store: StoreId::Kv, quiet: vec![] },
    ];
    let answers = batch(world, ops).await;
    let [a, b, c, d, e, f] = &answers[..] else { panic!("{answers:?}") };
    assert_eq!(a, &RowAnswer::Read(None));
    let RowAnswer::Installed { seq: seq_a, .. } = b else { panic!("{b:?}") };
    assert!(matches!(c, RowAnswer::Read(Some(row)) if row.seq == *seq_a), "{c:?}");
    // One that moved takes nothing back.
    assert!(matches!(d, RowAnswer::Moved(Some(_))), "{d:?}");
    let RowAnswer::Installed { seq: seq_b, .. } = e else { panic!("{e:?}") };
    assert!(seq_b > seq_a);
    assert_eq!(f, &RowAnswer::NotOwed);
    assert!(read(world, "order/b").await.is_some());
    assert_eq!(batch(world, vec![]).await, []);
}

async fn d1_applies_all_of_a_batch_or_nothing<W: World>(world: &W) {
    let fits = Stored::Inline(Bytes::from(vec![7; D1_ROW_BYTES_MAX - 64 * 1024]));
    let over = Stored::Inline(Bytes::from(vec![7; D1_ROW_BYTES_MAX + 1]));
    installed(world, install("whole/fits", None, 1, 1, fits)).await;
    let ops = vec![
        RowOp::Install(Box::new(install("whole/a", None, 1, 1, inline("v")))),
        RowOp::Install(Box::new(install("whole/b", None, 1, 1, over))),
    ];
    refused(world.d1().batch(ops.into()).await, RefusalKind::TooLarge);
    assert_eq!(read(world, "whole/a").await, None);
    assert_eq!(read(world, "whole/b").await, None);
}

async fn d1_feeds_changes_in_order_and_page_by_page<W: World>(world: &W) {
    let start = feed(world, Seq(0), 100).await.last().map_or(Seq(0), |change| change.seq);
    let keys = ["feed/c", "feed/a", "feed/d", "feed/b", "feed/e"];
    let mut rows = Vec::new();
    for key in keys {
        rows.push(first(world, key).await.0);
    }
    // A record stands in the feed once, at its latest place.
    let (row, _) = installed(world, install("feed/a", Some(&rows[1]), 1, 2, inline("v"))).await;
    rows.remove(1);
    rows.push(row);
    let expected = ["feed/c", "feed/d", "feed/b", "feed/e", "feed/a"];
    for limit in [1, 2, 5, 100] {
        let changes = feed(world, start, limit).await;
        let found: Vec<&str> = changes.iter().map(|change| &*change.record.key).collect();
        assert_eq!(found, expected, "in pages of {limit}");
        for (change, row) in changes.iter().zip(&rows) {
            assert_eq!((&change.version, change.row_seq), (&row.version, row.row_seq));
            assert_eq!((change.seq, change.foreign), (row.seq, false));
        }
    }
    // Claims and clears change no version, and are no news.
    let last = feed(world, start, 100).await.last().map_or(start, |change| change.seq);
    claimed(world, claim("feed/b", 1, None)).await;
    assert_eq!(feed(world, last, 100).await, []);
}

async fn d1_gives_lapsed_marks_to_others<W: World>(world: &W) {
    let (_, grant) = first(world, "lapse").await;
    assert!(!waits(world, "lapse", actor(2)).await && !waits(world, "lapse", actor(1)).await);
    assert_eq!(
        one(world, claim("lapse", 2, None)).await,
        RowAnswer::Held { ends: grant.ends },
        "while its lease runs, the mark is the installer's"
    );
    world.advance(LEASE_MS).await;
    assert!(waits(world, "lapse", actor(2)).await);
    let (row, taken) = claimed(world, claim("lapse", 2, None)).await;
    assert_eq!(row.value, Some(inline("first")));
    assert!(taken.epoch > grant.epoch && taken.others_until.contains_key(&StoreId::Kv));
    assert!(!waits(world, "lapse", actor(3)).await);
    // Given back, it waits for anybody at once.
    let quiet = vec![taken.epoch, grant.epoch];
    let release = RowOp::Release { record: named("lapse"), store: StoreId::Kv, quiet };
    assert_eq!(one(world, release).await, RowAnswer::Released);
    assert!(waits(world, "lapse", actor(3)).await);
}

async fn d1_tells_when_the_next_mark_lapses<W: World>(world: &W) {
    // Other tests' marks lapse first; theirs can only be told to lapse sooner.
    let (_, grant) = first(world, "next").await;
    let next = polled(world, actor(2)).await.next_lapse;
    assert!(next.is_some_and(|at| world.now() < at && at <= grant.ends), "{next:?}");
    world.advance(LEASE_MS).await;
    assert_eq!(polled(world, actor(2)).await.next_lapse, None, "nothing is held any more");
}

async fn d1_holds_renews_and_clears_a_mark<W: World>(world: &W) {
    let (row, grant) = first(world, "renew").await;
    world.advance(LEASE_MS / 2).await;
    let (renewed_row, renewed) = claimed(world, claim("renew", 1, Some(grant.epoch))).await;
    assert!(renewed.epoch == grant.epoch && renewed.ends > grant.ends);
    assert!(renewed.others_until.is_empty() && renewed_row.owed[&StoreId::Kv].len() == 1);
    assert!(matches!(one(world, claim("renew", 2, None)).await, RowAnswer::Held { .. }));
    let mut other = id(&row);
    other.hash = ContentHash::of(b"another version");
    let moved = one(world, clear("renew", other, grant.epoch)).await;
    assert_eq!(moved, RowAnswer::Moved(Some(Box::new(renewed_row))));
    let cleared = one(world, clear("renew", id(&row), grant.epoch)).await;
    assert_eq!(cleared, RowAnswer::Cleared);
    assert_eq!(one(world, claim("renew", 2, None)).await, RowAnswer::NotOwed);
    world.advance(LEASE_MS).await;
    assert!(!waits(world, "renew", actor(2)).await);
    assert!(read(world, "renew").await.expect("the row stays").owed.is_empty());
}

async fn d1_clears_when_nobody_else_can_be_putting<W: World>(world: &W) {
    first(world, "alone").await;
    world.advance(LEASE_MS).await;
    let (row, grant) = claimed(world, claim("alone", 2, None)).await;
    let until = grant.others_until[&StoreId::Kv];
    let early = one(world, clear("alone", id(&row), grant.epoch)).await;
    assert_eq!(early, RowAnswer::NotAlone { until });
    let StoreTime(now) = world.now();
    world.advance(until.0.saturating_sub(now)).await;
    let cleared = one(world, clear("alone", id(&row), grant.epoch)).await;
    assert_eq!(cleared, RowAnswer::Cleared);
}

async fn d1_marks_a_settled_projection_again<W: World>(world: &W) {
    let (row, grant) = first(world, "again").await;
    let owe = |version| {
        let record = named("again");
        RowOp::Owe { record, store: StoreId::Kv, version, holder: actor(2) }
    };
    assert_eq!(one(world, owe(id(&row))).await, RowAnswer::Held { ends: grant.ends });
    assert_eq!(one(world, clear("again", id(&row), grant.epoch)).await, RowAnswer::Cleared);
    let mut other = id(&row);
    other.hash = ContentHash::of(b"another version");
    assert!(matches!(one(world, owe(other)).await, RowAnswer::Moved(Some(_))));
    assert!(read(world, "again").await.expect("it is there").owed.is_empty());
    let (marked, again) = claimed(world, owe(id(&row))).await;
    assert!(again.epoch > grant.epoch && again.others_until.is_empty());
    assert_eq!((marked.row_seq, marked.seq), (row.row_seq, row.seq), "no version changed");
    assert!(matches!(one(world, claim("again", 1, None)).await, RowAnswer::Held { .. }));
    assert_eq!(one(world, clear("again", id(&row), again.epoch)).await, RowAnswer::Cleared);
    let nothing = RowOp::Owe {
        record: named("never"),
        store: StoreId::Kv,
        version: id(&row),
        holder: actor(2),
    };
    assert_eq!(one(world, nothing).await, RowAnswer::Moved(None));
}

async fn d1_gives_a_former_life_its_marks_at_once<W: World>(world: &W) {
    first(world, "reborn").await;
    let reborn = Actor { incarnation: 2, ..actor(1) };
    assert!(waits(world, "reborn", reborn).await);
    let record = named("reborn");
    let op =
        RowOp::Claim { record, store: StoreId::Kv, holder: reborn, renew: None, quiet: vec![] };
    let (_, grant) = claimed(world, op).await;
    // What the former life sent may still land.
    assert!(grant.others_until.contains_key(&StoreId::Kv));
}

async fn d1_keeps_the_losers_of_the_batch<W: World>(world: &W) {
    let (before, _) = first(world, "losers").await;
    let mut op = install("losers", Some(&before), 2, 1, inline("winner"));
    let winner = op.version.current().dot;
    let (reference, _) = large("large");
    let values = [inline("lost"), Stored::Tombstone, reference];
    op.losers = (1..)
        .zip(values)
        .map(|(counter, value)| {
            let dot = Dot { actor: actor(3), counter };
            let sibling = sibling(dot, Stamp { wall_ms: counter, logical: 0 }, &value);
            Loser { sibling, value, winner }
        })
        .collect();
    see_blobs(world, &mut op).await;
    let mut stale = op.clone();
    stale.expect.row_seq += 1;
    let moved = one(world, RowOp::Install(Box::new(stale))).await;
    assert!(matches!(moved, RowAnswer::Moved(_)));
    let kept = async || {
        let histories = world.d1().histories(vec![named("losers"), named("nobody's")]).await;
        let histories: Result<[RowHistory; 2], _> = histories.expect("D1 answers").try_into();
        let [history, nothing] = histories.expect("one for each, in order");
        assert_eq!(nothing, RowHistory::default());
        history
    };
    assert_eq!(kept().await.losers, [], "what was not installed has no losers");
    let expected = op.losers.clone();
    installed(world, op).await;
    let RowHistory { row, losers: mut found, writes } = kept().await;
    assert_eq!(writes, [], "nothing of it is merged");
    assert_eq!(row.and_then(|row| row.version).map(|v| v.current().dot), Some(winner));
    found.sort_by_key(|loser| loser.sibling.dot);
    assert_eq!(found, expected);
}

async fn d1_keeps_what_a_merge_starts_from<W: World>(world: &W) {
    let kept = async || {
        let histories = world.d1().histories(vec![named("merged")]).await.expect("D1 answers");
        histories.into_iter().next().expect("one for each").writes
    };
    let written = |counter: u64, value: Stored| {
        let dot = Dot { actor: actor(4), counter };
        let sibling = sibling(dot, Stamp { wall_ms: counter, logical: 0 }, &value);
        let over: VersionVector = [(actor(5), counter)].into_iter().collect();
        Written { sibling, over, value }
    };
    let mut row: Option<Row> = None;
    let mut counter = 0;
    let mut keep = async |writes: Vec<Written>| {
        counter += 1;
        let mut op = install("merged", row.as_ref(), 1, counter, inline("what stands"));
        op.writes = writes;
        row = Some(installed(world, op).await.0);
    };
    let most = WRITES_MAX as u64;
    let all: Vec<Written> = (1..=most + 3)
        .map(|n| written(n, if n % 5 == 0 { Stored::Tombstone } else { inline("what it was") }))
        .collect();
    for two in all.chunks(2) {
        keep(two.to_vec()).await;
    }
    assert_eq!(kept().await, all[3..], "the newest, the newest of them last");
    // One that comes again is the one that is there.
    keep(all[6..8].to_vec()).await;
    assert_eq!(kept().await, all[3..]);
    // A large one stays as long as it is the newest.
    let large = written(most + 4, inline(&"l".repeat(WRITE_BYTES_MAX + 1)));
    keep(vec![large.clone()]).await;
    assert_eq!(kept().await, [&all[4..], &[large]].concat());
    let small = written(most + 5, inline("small"));
    keep(vec![small.clone()]).await;
    assert_eq!(kept().await, [small], "with the large one they would be too many bytes");
}

async fn d1_lists_conflicts_in_the_order_in_which_they_were_settled<W: World>(world: &W) {
    let dataset: Arc<str> = Arc::from("disputed");
    let ask = async |which: Which, limit: usize| {
        let query = ConflictQuery { dataset: Some(dataset.clone()), which, limit };
        world.d1().conflicts(query).await.expect("D1 answers")
    };
    let loser = |counter: u64, value: Stored, winner: Dot| {
        let dot = Dot { actor: actor(3), counter };
        let sibling = sibling(dot, Stamp { wall_ms: counter, logical: 0 }, &value);
        Loser { sibling, value, winner }
    };
    let mut row: Option<Row> = None;
    let (mut seqs, mut contexts) = (Vec::new(), Vec::new());
    for (counter, lost) in [(1, vec![12]), (2, vec![11, 13]), (3, vec![12, 14])] {
        let mut op = elsewhere("disputed", "a", row.as_ref(), counter, inline("won"));
        let winner = op.version.current().dot;
        op.losers = lost.into_iter().map(|n| loser(n, inline("lost"), winner)).collect();
        op.by = Decision { by: By::MergeFellBack, why: Some(format!("{counter}th").into()) };
        let before = row.as_ref().and_then(|row| row.version.as_ref());
        contexts.push(Contexts::noted(before, &op.version));
        let after = row_of(world, op).await;
        seqs.push(after.seq);
        row = Some(after);
    }
    let all = ask(Which::After(None), 9).await;
    let told: Vec<(u64, Seq)> = all.iter().map(|c| (c.lost.dot.counter, c.seq)).collect();
    // What had lost before is the conflict that is known.
    assert_eq!(told, [(12, seqs[0]), (11, seqs[1]), (13, seqs[1]), (14, seqs[2])]);
    for conflict in &all {
        assert_eq!(conflict.won.map(|won| won.dot), Some(conflict.winner));
        assert!(conflict.at > StoreTime(0) && *conflict.record.key == *"a");
        let nth = seqs.iter().position(|seq| *seq == conflict.seq).expect("it is of one of them");
        assert_eq!((&conflict.by, &conflict.contexts), (&By::MergeFellBack, &contexts[nth]));
        assert_eq!(conflict.why, Some(format!("{}th", nth + 1).into()));
    }
    for at in 0..all.len() {
        let place = Some(all[at].place());
        assert_eq!(
            ask(Which::After(place), 1).await,
            all[at + 1..].iter().take(1).cloned().collect::<Vec<_>>()
        );
        let before: Vec<Conflict> = all[..at].iter().rev().cloned().collect();
        assert_eq!(ask(Which::Before(place), 9).await, before);
        assert_eq!(ask(Which::Lost(all[at].lost.dot), 9).await, [all[at].clone()]);
    }
    assert_eq!(ask(Which::Before(None), 2).await, [all[3].clone(), all[2].clone()]);
    let elsewhere =
        ConflictQuery { dataset: Some(Arc::from("quiet")), which: Which::After(None), limit: 9 };
    assert_eq!(world.d1().conflicts(elsewhere).await, Ok(vec![]));
}

/// A write of nobody who installs here.
fn write_of(counter: u64, value: &Stored) -> Sibling {
    let dot = Dot { actor: actor(3), counter };
    sibling(dot, Stamp { wall_ms: counter, logical: 0 }, value)
}

/// Erases, for a reason of its own.
async fn erase<W: World>(world: &W, key: &str, writes: &[Dot], reason: &str) -> EraseAnswer {
    let (record, writes) = (named(key), writes.to_vec());
    let erase = Erase { record, writes, by: "ops".into(), reason: reason.into() };
    applied(world.d1().erase(erase).await)
}

async fn history_of<W: World>(world: &W, key: &str) -> RowHistory {
    let histories = world.d1().histories(vec![named(key)]).await.expect("D1 answers");
    histories.into_iter().next().expect("one for each")
}

/// A record with two losers, one of them large, and the writes of all three, with what they had read.
async fn with_a_past<W: World>(world: &W, key: &str) -> (Install, Row, ContentHash) {
    let (reference, blob) = large(&format!("large, of {key}"));
    let mut op = install(key, None, 1, 1, inline("what stands"));
    let winner = op.version.current().dot;
    let lost = [(1, inline("lost")), (2, reference)];
    op.losers = lost
        .into_iter()
        .map(|(n, value)| Loser { sibling: write_of(n, &value), value, winner })
        .collect();
    let own = *op.version.current();
    let over = VersionVector::new();
    op.writes = [(write_of(1, &inline("lost")), inline("lost")), (own, op.value.clone())]
        .into_iter()
        .chain([(write_of(7, &inline("superseded")), inline("superseded"))])
        .map(|(sibling, value)| Written { sibling, over: over.clone(), value })
        .collect();
    for n in [1, 2, 7] {
        op.version.history.include(Dot { actor: actor(3), counter: n });
    }
    see_blobs(world, &mut op).await;
    let (row, _) = installed(world, op.clone()).await;
    (op, row, blob)
}

async fn d1_erases_bytes_and_keeps_what_is_known_of_them<W: World>(world: &W) {
    let (op, row, blob) = with_a_past(world, "erased").await;
    let dot = |n: u64| Dot { actor: actor(3), counter: n };
    let listed = async || {
        let which = Which::Lost(dot(1));
        let query = ConflictQuery { dataset: Some(named("").dataset), which, limit: 9 };
        let found = world.d1().conflicts(query).await.expect("D1 answers");
        found.into_iter().find(|conflict| *conflict.record.key == *"erased").expect("it is known")
    };
    let before = listed().await;
    assert_eq!(before.erased, None);
    assert_eq!(world.d1().unreferred(vec![blob]).await, Ok(vec![]));
    let at = world.now();
    let all = [dot(1), dot(2), dot(7), dot(9)];
    let answer = erase(world, "erased", &all, "asked for").await;
    let known = [op.losers[0].sibling, op.losers[1].sibling, op.writes[2].sibling];
    assert_eq!(answer, EraseAnswer::Erased(known.to_vec()), "nobody knows of the last one");
    // Asked for again, they are what they were erased as.
    world.advance(5).await;
    let again = erase(world, "erased", &[dot(1), dot(7)], "again").await;
    assert_eq!(again, EraseAnswer::Erased(vec![known[0], known[2]]));

    let erasure = Erasure { at, by: "ops".into(), reason: "asked for".into() };
    let after = history_of(world, "erased").await;
    assert_eq!(after.row, Some(row), "the record is untouched, and its place in the feed");
    let expected: Vec<Loser> = op
        .losers
        .iter()
        .map(|loser| Loser { value: Stored::Erased(Box::new(erasure.clone())), ..loser.clone() })
        .collect();
    let mut losers = after.losers;
    losers.sort_by_key(|loser| loser.sibling.dot);
    assert!(losers.iter().zip(&expected).all(|(found, wanted)| match &found.value {
        // Its clock may have gone on.
        Stored::Erased(found) => found.at >= at && found.reason == erasure.reason,
        _ => panic!("{found:?} instead of {wanted:?}"),
    }));
    let siblings =
        |losers: &[Loser]| losers.iter().map(|l| (l.sibling, l.winner)).collect::<Vec<_>>();
    assert_eq!(siblings(&losers), siblings(&expected));
    assert_eq!(after.writes, [op.writes[1].clone()], "a merge starts from none of it");
    let now = listed().await;
    assert_eq!(now.erased.as_ref().map(|erasure| &*erasure.reason), Some("asked for"));
    assert_eq!(Conflict { erased: None, ..now }, before);
    assert_eq!(world.d1().unreferred(vec![blob]).await, Ok(vec![blob]), "it is collected");
}

async fn d1_does_not_erase_what_stands<W: World>(world: &W) {
    let (op, row, blob) = with_a_past(world, "stands").await;
    let before = history_of(world, "stands").await;
    let own = op.version.current().dot;
    let both = [op.losers[0].sibling.dot, own];
    assert_eq!(erase(world, "stands", &both, "no").await, EraseAnswer::Stand(vec![own]));
    assert_eq!(history_of(world, "stands").await, before, "all or nothing");
    // Of several values beside each other each stands, whichever is shown.
    let beside = inline("beside");
    let apart = Version::write_beside(
        row.version.as_ref().expect("it was installed"),
        &VersionVector::new(),
        write_of(8, &beside),
    );
    let mut over = install("stands", Some(&row), 1, 2, beside);
    over.version = apart;
    let winner = over.version.current().dot;
    over.losers = vec![Loser { sibling: *op.version.current(), value: op.value.clone(), winner }];
    let (row, _) = installed(world, over).await;
    for dot in [own, write_of(8, &inline("")).dot] {
        assert_eq!(erase(world, "stands", &[dot], "no").await, EraseAnswer::Stand(vec![dot]));
    }
    installed(world, install("stands", Some(&row), 1, 3, inline("over both"))).await;
    let answer = erase(world, "stands", &[own], "now").await;
    assert!(matches!(answer, EraseAnswer::Erased(erased) if erased[0].dot == own));
    assert_eq!(world.d1().unreferred(vec![blob]).await, Ok(vec![]), "another's bytes stay");
    assert_eq!(erase(world, "nobody's", &[own], "no").await, EraseAnswer::Erased(vec![]));
}

async fn d1_does_not_take_again_what_was_erased<W: World>(world: &W) {
    let (op, row, _) = with_a_past(world, "erased twice").await;
    let of = |n: u64| Dot { actor: actor(3), counter: n };
    erase(world, "erased/elsewhere", &[of(1)], "of another record").await;
    erase(world, "erased twice", &[of(1), of(7)], "asked for").await;
    // Somebody brings all of it once more, and a loser that was erased where it comes from.
    let mut next = install("erased twice", Some(&row), 1, 2, inline("what stands now"));
    let winner = next.version.current().dot;
    let erasure = Erasure { at: StoreTime(7), by: "them".into(), reason: "elsewhere".into() };
    let elsewhere = write_of(4, &inline("never seen here"));
    // What is in R2 alone shows whether a binding keeps what it does not give.
    let (late, blob) = large("superseded, and large");
    next.losers = vec![
        op.losers[0].clone(),
        Loser { sibling: write_of(7, &late), value: late, winner },
        Loser { sibling: elsewhere, value: Stored::Erased(Box::new(erasure.clone())), winner },
    ];
    next.writes = op.writes.clone();
    let written = Written {
        sibling: elsewhere,
        over: VersionVector::new(),
        value: inline("never seen here"),
    };
    next.writes.push(written.clone());
    see_blobs(world, &mut next).await;
    let (row, _) = installed(world, next).await;
    let after = history_of(world, "erased twice").await;
    let why = |n: u64| {
        let mut of_it = after.losers.iter().filter(|loser| loser.sibling.dot == of(n));
        match of_it.next().map(|loser| &loser.value) {
            Some(Stored::Erased(erasure)) => erasure.reason.to_string(),
            other => panic!("{n}: {other:?}"),
        }
    };
    assert_eq!([why(1), why(7), why(4)], ["asked for", "asked for", "elsewhere"]);
    assert_eq!(world.d1().unreferred(vec![blob]).await, Ok(vec![blob]));
    assert_eq!(after.writes, [op.writes[1].clone()]);
    // What is erased elsewhere does not erase what is kept here.
    let mut last = install("erased twice", Some(&row), 1, 3, inline("the last"));
    let erased = Stored::Erased(Box::new(erasure));
    last.losers = vec![Loser { value: erased, ..op.losers[1].clone() }];
    last.writes = vec![written];
    installed(world, last).await;
    let after = history_of(world, "erased twice").await;
    let kept = after.losers.iter().find(|loser| loser.sibling.dot == of(2)).expect("it is kept");
    assert_eq!(kept.value, op.losers[1].value);
    assert_eq!(after.writes, [op.writes[1].clone()]);
}

/// Of another dataset than the other cases': its tree is all their own.
fn elsewhere(dataset: &str, key: &str, over: Option<&Row>, counter: u64, value: Stored) -> Install {
    let record = RecordId { dataset: Arc::from(dataset), key: key.into() };
    Install { record, ..install(key, over, 1, counter, value) }
}

async fn row_of<W: World>(world: &W, op: Install) -> Row {
    let record = op.record.clone();
    let answer = one(world, RowOp::Install(Box::new(op))).await;
    assert!(matches!(answer, RowAnswer::Installed { .. }), "{answer:?}");
    match one(world, RowOp::Read { record }).await {
        RowAnswer::Read(Some(row)) => *row,
        other => panic!("it was installed: {other:?}"),
    }
}

async fn d1_keeps_the_sums_of_its_leaves<W: World>(world: &W) {
    let mut expected = Tree::default();
    for n in 0..40 {
        let key = format!("k{n}");
        let row = row_of(world, elsewhere("leaves", &key, None, 1, inline("v"))).await;
        expected.update(Leaf::of(&key), None, row.digest(&key));
        let again = match n % 4 {
            0 => Stored::Tombstone,
            1 => inline("w"),
            _ => continue,
        };
        let newer = row_of(world, elsewhere("leaves", &key, Some(&row), 2, again)).await;
        assert_ne!(newer.digest(&key), row.digest(&key));
        expected.update(Leaf::of(&key), row.digest(&key), newer.digest(&key));
    }
    // A compare-and-set that finds the row moved changes no sum.
    let moved = elsewhere("leaves", "k0", None, 9, inline("late"));
    assert!(matches!(one(world, RowOp::Install(Box::new(moved))).await, RowAnswer::Moved(_)));
    let (mut after, mut leaves) = (None, Vec::new());
    loop {
        let page = world.d1().leaves("leaves", after, 7).await.expect("leaves are given");
        assert!(page.len() <= 7, "at most the limit");
        leaves.extend(page.iter().copied());
        let Some((last, _)) = page.get(6) else { break };
        after = Some(*last);
    }
    assert_eq!(leaves, expected.leaves().collect::<Vec<_>>());
    assert_eq!(world.d1().leaves("nothing", None, 7).await, Ok(vec![]));
}

async fn d1_gives_the_rows_of_a_leaf<W: World>(world: &W) {
    // The first three keys that share a leaf.
    let mut by_leaf: std::collections::BTreeMap<Leaf, Vec<String>> = Default::default();
    let keys = (0..).map(|n: u32| format!("n{n}"));
    let (leaf, mut keys) = keys
        .into_iter()
        .find_map(|key| {
            let leaf = Leaf::of(&key);
            let same = by_leaf.entry(leaf).or_default();
            same.push(key);
            (same.len() == 3).then(|| (leaf, same.clone()))
        })
        .expect("there is no end of keys");
    keys.sort();
    let mut expected = Vec::new();
    for key in &keys {
        let row = row_of(world, elsewhere("rows", key, None, 1, inline("v"))).await;
        expected.push((key.clone(), row.version.clone(), row.row_seq, row.seq));
    }
    row_of(world, elsewhere("rows", "elsewhere", None, 1, inline("v"))).await;
    let (mut after, mut found) = (None::<String>, Vec::new());
    loop {
        let page = world.d1().leaf_rows("rows", leaf, after.as_deref(), 2).await;
        let page = page.expect("rows are given");
        after = page.get(1).map(|change| change.record.key.to_string());
        assert!(page.iter().all(|change| !change.foreign));
        found.extend(
            page.into_iter().map(|c| (c.record.key.to_string(), c.version, c.row_seq, c.seq)),
        );
        if after.is_none() {
            break;
        }
    }
    assert_eq!(found, expected);
}

async fn d1_reaps_a_tombstone_and_remembers_what_it_had_seen<W: World>(world: &W) {
    let of = |key: &str, over: Option<&Row>, counter, value| Install {
        owe: vec![],
        ..elsewhere("reap", key, over, counter, value)
    };
    let record = |key: &str| RecordId { dataset: Arc::from("reap"), key: key.into() };
    let reap = |row: &Row| RowOp::Reap { record: record("k"), version: id(row) };
    let live = row_of(world, of("k", None, 1, inline("v"))).await;
    let tombstone = row_of(world, of("k", Some(&live), 2, Stored::Tombstone)).await;
    let other = row_of(world, of("other", None, 3, inline("v"))).await;
    assert_eq!(
        one(world, reap(&tombstone)).await,
        RowAnswer::Kept,
        "nothing is said to be decided"
    );
    let mut settled = VersionVector::new();
    settled.include(Dot { actor: actor(1), counter: 3 });
    let settle = RowOp::Settle { record: record(""), settled: settled.clone() };
    let RowAnswer::Floor(floor) = one(world, settle).await else { panic!("the floor is given") };
    assert_eq!(floor.settled, settled);
    assert_eq!(one(world, reap(&live)).await, RowAnswer::Kept, "the row has moved on");
    let RowAnswer::Reaped(floor) = one(world, reap(&tombstone)).await else { panic!("reaped") };
    assert_eq!(floor.history, tombstone.history());
    assert!(floor.row_seq > tombstone.row_seq);

    // Of the row nothing is left: not in the feed, not in the sums, not in its leaf.
    let mut expected = Tree::default();
    expected.update(Leaf::of("other"), None, other.digest("other"));
    let leaves = world.d1().leaves("reap", None, 9).await.expect("leaves are given");
    assert_eq!(leaves, expected.leaves().collect::<Vec<_>>());
    let rows = world.d1().leaf_rows("reap", Leaf::of("k"), None, 9).await.expect("rows are given");
    assert!(rows.iter().all(|change| change.record != record("k")));
    let fed = feed(world, Seq(0), 100).await;
    assert!(fed.iter().all(|change| change.record != record("k")));
    let poll = Poll { actor: actor(9), after: Seq(0), limit: 1 };
    let page = world.d1().poll(poll).await.expect("a poll is answered");
    assert!(page.reaped.contains(&(Arc::from("reap"), tombstone.version.unwrap().stamp())));

    // What was deleted is not installed again, and what is new begins above.
    let late = RowOp::Install(Box::new(of("k", None, 1, inline("v"))));
    assert_eq!(one(world, late).await, RowAnswer::Dead);
    let unaware = RowOp::Install(Box::new(of("k", None, 4, inline("w"))));
    let RowAnswer::Moved(Some(absent)) = one(world, unaware).await else { panic!("moved") };
    assert_eq!((absent.version.as_ref(), absent.row_seq), (None, floor.row_seq));
    assert_eq!(absent.floor_stamp, floor.stamp);
    let anew = row_of(world, of("k", Some(&absent), 4, inline("w"))).await;
    assert!(anew.row_seq > floor.row_seq && !anew.has_foreign_write());
}

fn large(text: &str) -> (Stored, ContentHash) {
    let hash = ContentHash::of(text.as_bytes());
    (Stored::Reference { hash, bytes: text.len() as u64 }, hash)
}

async fn d1_condemns_what_nothing_refers_to<W: World>(world: &W) {
    let ((first, in_row), (_, nobodys)) = (large("in a row"), large("nobody's"));
    let both = || vec![in_row, nobodys];
    let mut op = install("condemned", None, 1, 1, first);
    see_blobs(world, &mut op).await;
    let (row, _) = installed(world, op).await;
    assert_eq!(world.d1().unreferred(both()).await, Ok(vec![nobodys]));
    let condemned = applied(world.d1().condemn(both()).await);
    assert!(matches!(condemned[..], [None, Some(_)]), "{condemned:?}");

    // A loser keeps what the row has let go of.
    let mut over = install("condemned", Some(&row), 2, 1, inline("small"));
    let (value, winner) = (row.value.clone().unwrap(), over.version.current().dot);
    over.losers = vec![Loser { sibling: *row.version.as_ref().unwrap().current(), value, winner }];
    let (row, _) = installed(world, over).await;
    assert_eq!(world.d1().unreferred(both()).await, Ok(vec![nobodys]));

    let (second, in_next_row) = large("in the next row");
    let mut op = install("condemned", Some(&row), 1, 2, second);
    see_blobs(world, &mut op).await;
    let (row, _) = installed(world, op).await;
    installed(world, install("condemned", Some(&row), 1, 3, inline("small"))).await;
    assert_eq!(world.d1().unreferred(vec![in_row, in_next_row]).await, Ok(vec![in_next_row]));
}

async fn d1_takes_no_reference_to_what_may_be_deleted<W: World>(world: &W) {
    let (value, blob) = large("looked at too early");
    let op = install("uncertain", None, 1, 1, value);
    let try_it = async |seen_at: Option<StoreTime>| {
        let mut op = op.clone();
        seen_at.into_iter().for_each(|at| op.blobs_seen.insert(blob, at));
        one(world, RowOp::Install(Box::new(op))).await
    };
    let now = polled(world, actor(1)).await.now;
    let condemned = applied(world.d1().condemn(vec![blob]).await)[0].expect("nothing refers to it");
    assert!(condemned.deadline > now && condemned.until > condemned.deadline);
    let refused = RowAnswer::NoBlob { until: Some(condemned.until) };
    assert_eq!(try_it(None).await, refused, "nobody has looked");
    assert_eq!(try_it(Some(now)).await, refused, "it was looked at before the delete");
    assert_eq!(try_it(Some(condemned.until)).await, refused, "the delete may land yet");
    assert_eq!(read(world, "uncertain").await, None);
    let later = StoreTime(condemned.until.0 + 1);
    assert!(matches!(try_it(Some(later)).await, RowAnswer::Installed { .. }));
}
