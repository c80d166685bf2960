use super::*;
use crate::blob::BlobsSeen;
use crate::conflict::{ConflictQuery, Which};
use crate::env::{KvEntry, KvStore as _, ObjectStore as _, PutIf, RowStore as _};
use crate::record::{Loser, RecordId, StoreId, Stored};
use crate::resolve::{held, sibling};
use crate::row::{Install, Poll, Row, RowAnswer, RowOp, Seq};
use crate::version::{Actor, Dot, NodeId, SiteId, Stamp, Version};
use bytes::Bytes;
use rusqlite::Connection;
use std::sync::atomic::{AtomicU64, Ordering};
use tempfile::TempDir;

const NEVER: StoreTime = StoreTime(u64::MAX);
const BEGUN: StoreTime = StoreTime(1_000_000);

fn open() -> (TempDir, Arc<AtomicU64>, Embedded) {
    let folder = tempfile::tempdir().unwrap();
    let time = Arc::new(AtomicU64::new(BEGUN.0));
    let embedded = Embedded::open(folder.path(), clock(&time)).unwrap();
    (folder, time, embedded)
}

fn clock(time: &Arc<AtomicU64>) -> StoreClock {
    let time = time.clone();
    Arc::new(move || StoreTime(time.load(Ordering::Relaxed)))
}

fn named(key: &str) -> RecordId {
    RecordId { dataset: Arc::from("files"), key: key.into() }
}

async fn row(d1: &EmbeddedD1, key: &str) -> Option<Row> {
    let Outcome::Applied(batch) = d1.batch([RowOp::Read { record: named(key) }].into()).await
    else {
        panic!("a read is applied")
    };
    let [RowAnswer::Read(row)] = &batch.answers[..] else { panic!("{batch:?}") };
    row.as_deref().cloned()
}

fn install(key: &str, over: Option<&Row>, counter: u64, value: Stored) -> RowOp {
    let actor = Actor { node: NodeId(1), incarnation: 1 };
    let expect = over.map(Row::expect).unwrap_or_default();
    let own = sibling(Dot { actor, counter }, Stamp { wall_ms: counter, logical: 0 }, &value);
    let mut install = Install {
        record: named(key),
        version: Version::write(&expect.history, own),
        expect,
        value,
        losers: vec![],
        owe: vec![StoreId::Kv],
        holder: actor,
        blobs_seen: BlobsSeen::default(),
        by: Default::default(),
        writes: vec![],
    };
    // As if they had just been put.
    for blob in install.blobs().collect::<Vec<_>>() {
        install.blobs_seen.insert(blob, BEGUN);
    }
    RowOp::Install(Box::new(install))
}

async fn installed(d1: &EmbeddedD1, key: &str, over: Option<&Row>, value: Stored) -> Row {
    let counter = over.map_or(1, |row| row.row_seq + 10);
    let Outcome::Applied(batch) = d1.batch([install(key, over, counter, value)].into()).await
    else {
        panic!("applied")
    };
    assert!(matches!(batch.answers[..], [RowAnswer::Installed { .. }]), "{batch:?}");
    row(d1, key).await.unwrap()
}

fn inline(text: &'static str) -> Stored {
    Stored::Inline(Bytes::from_static(text.as_bytes()))
}

#[tokio::test]
async fn sixty_four_puts_share_a_few_commits() {
    let (_folder, _, stores) = open();
    let stores = Arc::new(stores);
    let before = (stores.kv.commits(), stores.d1.commits(), stores.r2.commits());
    let mut tasks = tokio::task::JoinSet::new();
    for n in 0..64 {
        let stores = stores.clone();
        tasks.spawn(async move {
            let key = format!("k{n}");
            let entry =
                KvEntry { value: Bytes::from_static(b"v"), metadata: None, expires_at_s: None };
            let body = Bytes::from_static(b"v");
            let (kv, r2, d1) = tokio::join!(
                stores.kv.put(&key, entry, NEVER),
                stores.r2.put(&key, body, None, PutIf::Always, None),
                stores.d1.batch([install(&key, None, 1, inline("v"))].into()),
            );
            assert!(matches!(kv, Outcome::Applied(())), "{kv:?}");
            assert!(matches!(r2, Outcome::Applied(_)), "{r2:?}");
            assert!(matches!(d1, Outcome::Applied(_)), "{d1:?}");
        });
    }
    while let Some(done) = tasks.join_next().await {
        done.unwrap();
    }
    assert!(stores.kv.commits() - before.0 <= 16, "{}", stores.kv.commits());
    assert!(stores.d1.commits() - before.1 <= 16, "{}", stores.d1.commits());
    assert!(stores.r2.commits() - before.2 <= 16, "{}", stores.r2.commits());
}

#[tokio::test]
async fn a_row_comes_back_as_apply_left_it() {
    let (folder, time, stores) = open();
    let first = installed(&stores.d1, "k", None, inline("one")).await;
    assert_eq!((first.row_seq, first.known_row_seq), (1, 1));
    let hash = crate::version::ContentHash::of(b"large");
    let large = Stored::Reference { hash, bytes: 5 };
    let second = installed(&stores.d1, "k", Some(&first), large.clone()).await;
    assert_eq!(second.value, Some(large));
    assert!(second.seq > first.seq && second.owed[&StoreId::Kv].len() == 2);
    let third = installed(&stores.d1, "k", Some(&second), Stored::Tombstone).await;
    assert_eq!((third.row_seq, &third.value), (3, &Some(Stored::Tombstone)));
    drop(stores);
    let stores = Embedded::open(folder.path(), clock(&time)).unwrap();
    assert_eq!(row(&stores.d1, "k").await, Some(third));
}

#[tokio::test]
async fn foreign_writes_are_seen_and_acknowledged() {
    let (folder, _, stores) = open();
    let own = installed(&stores.d1, "k", None, inline("own")).await;
    // As the sqlite3 tool would, while the store is open.
    let tool = Connection::open(folder.path().join("d1.sqlite")).unwrap();
    let mut last = own;
    let statements = [
        ("UPDATE tidelock_records SET value = 'by hand'", inline("by hand")),
        ("INSERT OR REPLACE INTO tidelock_records VALUES ('files','k','again')", inline("again")),
        ("UPDATE tidelock_records SET value = 42", inline("42")),
        ("DELETE FROM tidelock_records", Stored::Tombstone),
        ("INSERT INTO tidelock_records VALUES ('files','k',x'00ff')", {
            Stored::Inline(Bytes::from_static(b"\x00\xff"))
        }),
    ];
    for (sql, value) in statements {
        tool.execute(sql, []).unwrap();
        let found = row(&stores.d1, "k").await.unwrap();
        assert!(found.has_foreign_write() && found.row_seq > last.row_seq, "{sql}: {found:?}");
        assert_eq!(found.value, Some(value), "{sql}");
        assert!(found.seq > last.seq && found.foreign_at > StoreTime(1_600_000_000_000), "{sql}");
        assert_eq!(found.version, last.version, "{sql}");
        last = found;
    }
    let actor = Actor { node: NodeId(1), incarnation: 1 };
    let page = stores.d1.poll(Poll { actor, after: Seq(0), limit: 10 }).await.unwrap();
    assert!(page.changes.len() == 1 && page.changes[0].foreign, "{page:?}");
    // Taken in over exactly that row, it is foreign no more.
    let taken = held(SiteId(0), &named("k"), &last).unwrap();
    let op = RowOp::Install(Box::new(Install {
        record: named("k"),
        expect: last.expect(),
        version: taken.version,
        value: taken.value,
        losers: vec![],
        owe: vec![],
        holder: actor,
        blobs_seen: BlobsSeen::default(),
        by: Default::default(),
        writes: vec![],
    }));
    assert!(matches!(stores.d1.batch([op].into()).await, Outcome::Applied(_)));
    let taken = row(&stores.d1, "k").await.unwrap();
    assert!(!taken.has_foreign_write() && taken.row_seq == last.row_seq + 1);
}

#[tokio::test]
async fn a_foreign_record_without_a_row_and_a_renamed_one_are_seen() {
    let (folder, _, stores) = open();
    let path = folder.path().join("d1.sqlite");
    let tool = Connection::open(&path).unwrap();
    tool.execute("INSERT INTO tidelock_records VALUES ('files','new','v')", []).unwrap();
    let new = row(&stores.d1, "new").await.unwrap();
    assert!(new.version.is_none() && new.has_foreign_write());
    tool.execute("UPDATE tidelock_records SET key = 'renamed'", []).unwrap();
    let old = row(&stores.d1, "new").await.unwrap();
    assert_eq!((old.value, old.row_seq), (Some(Stored::Tombstone), new.row_seq + 1));
    assert_eq!(row(&stores.d1, "renamed").await.unwrap().value, Some(inline("v")));
    // Written while the triggers were gone: found at the next start.
    tool.execute_batch(
        "DROP TRIGGER tidelock_after_insert;
         INSERT INTO tidelock_records VALUES ('files','missed','v'), ('files','too','v')",
    )
    .unwrap();
    drop((tool, stores));
    let d1 = EmbeddedD1::open(&path, Arc::new(|| StoreTime(1))).unwrap();
    for key in ["missed", "too"] {
        assert!(row(&d1, key).await.unwrap().has_foreign_write());
    }
}

#[tokio::test]
async fn an_unreadable_companion_row_is_named_and_harms_no_other() {
    let (folder, _, stores) = open();
    installed(&stores.d1, "bad", None, inline("v")).await;
    let tool = Connection::open(folder.path().join("d1.sqlite")).unwrap();
    for version in ["{", r#"{"history":[],"siblings":[]}"#] {
        tool.execute("UPDATE tidelock_rows SET version = ?1", [version]).unwrap();
        let read = stores.d1.batch([RowOp::Read { record: named("bad") }].into()).await;
        let Outcome::Refused(refusal) = read else { panic!("{read:?}") };
        assert!(refusal.detail.contains("files/bad"), "{refusal}");
    }
    installed(&stores.d1, "good", None, inline("v")).await;
}

#[tokio::test]
async fn kv_forgets_an_entry_at_its_expiration_and_no_sooner() {
    let (_folder, clock, stores) = open();
    let at_s = clock.load(Ordering::Relaxed) / 1_000 + 100;
    let entry = |at_s| KvEntry {
        value: Bytes::from_static(b"v"),
        metadata: None,
        expires_at_s: Some(at_s),
    };
    assert_eq!(stores.kv.put("k", entry(at_s), NEVER).await, Outcome::Applied(()));
    let near = stores.kv.put("near", entry(at_s - 60), NEVER).await;
    assert!(matches!(near, Outcome::Refused(_)), "less than a minute away: {near:?}");
    clock.store(at_s * 1_000 - 1, Ordering::Relaxed);
    assert_eq!(stores.kv.get("k").await, Ok(Some(entry(at_s))));
    assert_eq!(stores.kv.list("", None, 10).await.map(|page| page.keys.len()), Ok(1));
    clock.store(at_s * 1_000, Ordering::Relaxed);
    assert_eq!(stores.kv.get("k").await, Ok(None));
    assert_eq!(stores.kv.list("", None, 10).await.map(|page| page.keys.len()), Ok(0));
}

#[tokio::test]
async fn bytes_that_were_changed_by_hand_are_given_as_they_stand() {
    let (folder, _, stores) = open();
    let entry = KvEntry { value: Bytes::from_static(b"v"), metadata: None, expires_at_s: None };
    assert_eq!(stores.kv.put("k", entry, NEVER).await, Outcome::Applied(()));
    let body = Bytes::from_static(b"v");
    let put = stores.r2.put("k", body, None, PutIf::Always, None).await;
    for (file, sql) in
        [("kv", "UPDATE kv SET value = x'00'"), ("r2", "UPDATE objects SET body = x'00'")]
    {
        let tool = Connection::open(folder.path().join(format!("{file}.sqlite"))).unwrap();
        tool.execute(sql, []).unwrap();
    }
    let zero = Bytes::from_static(&[0]);
    let entry = stores.kv.get("k").await.unwrap().unwrap();
    assert_eq!((entry.value, entry.metadata), (zero.clone(), None));
    let object = stores.r2.get("k").await.unwrap().unwrap();
    assert_eq!(object.body, zero);
    let Outcome::Applied(put) = put else { panic!("{put:?}") };
    assert_ne!(object.etag, put, "it is another object now");
}

/// A file from before conflicts had places: what lost then is known still, and comes first.
#[tokio::test]
async fn what_lost_before_conflicts_had_places_comes_first() {
    let (folder, time, embedded) = open();
    let row = installed(&embedded.d1, "a", None, inline("first")).await;
    let lost = |counter: u64| {
        let dot = Dot { actor: Actor { node: NodeId(3), incarnation: 3 }, counter };
        let value = inline("lost");
        let sibling = sibling(dot, Stamp::default(), &value);
        Loser { sibling, value, winner: row.version.as_ref().unwrap().current().dot }
    };
    let keep = async |embedded: &Embedded, counter: u64| {
        let over = super::tests::row(&embedded.d1, "a").await;
        let RowOp::Install(mut op) = install("a", over.as_ref(), 10 + counter, inline("won"))
        else {
            unreachable!("it is one")
        };
        op.losers = vec![lost(counter)];
        let answer = embedded.d1.batch([RowOp::Install(op)].into()).await;
        assert!(matches!(answer, Outcome::Applied(_)), "{answer:?}");
    };
    keep(&embedded, 1).await;
    drop(embedded);
    let file = folder.path().join("d1.sqlite");
    let former = "DROP INDEX tidelock_losers_by_place;
                  ALTER TABLE tidelock_losers DROP COLUMN seq;
                  ALTER TABLE tidelock_losers DROP COLUMN kept_at;
                  ALTER TABLE tidelock_losers DROP COLUMN won;
                  ALTER TABLE tidelock_losers DROP COLUMN decided;
                  ALTER TABLE tidelock_losers DROP COLUMN why;
                  ALTER TABLE tidelock_losers DROP COLUMN contexts;
                  DROP TABLE tidelock_erasures";
    Connection::open(&file).unwrap().execute_batch(former).unwrap();
    let embedded = Embedded::open(folder.path(), clock(&time)).unwrap();
    keep(&embedded, 2).await;
    let query = ConflictQuery { dataset: None, which: Which::After(None), limit: 9 };
    let found = embedded.d1.conflicts(query).await.unwrap();
    let told: Vec<_> =
        found.iter().map(|c| (c.lost.dot.counter, c.at.0, c.won.is_some())).collect();
    assert_eq!(told[0], (1, 0, false));
    assert_eq!((told.len(), told[1].0), (2, 2), "{found:?}");
    assert!(found[1].seq > found[0].seq && found[1].at >= BEGUN);
    assert_eq!(found[0].contexts, None);
    assert!(found[1].contexts.is_some(), "{found:?}");
}

#[test]
fn a_file_that_is_no_database_is_named_with_the_way_out() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("r2.sqlite"), [7; 8_192]).unwrap();
    let clock: StoreClock = Arc::new(|| StoreTime(0));
    let text = Embedded::open(folder.path(), clock.clone()).unwrap_err().to_string();
    assert!(text.contains("r2.sqlite") && text.contains("backup"), "{text}");
    let file = folder.path().join("file");
    std::fs::write(&file, b"").unwrap();
    let text = Embedded::open(&file, clock).unwrap_err().to_string();
    assert!(text.contains("file") && text.contains("may read and write"), "{text}");
}
