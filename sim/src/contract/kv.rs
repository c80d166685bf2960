//! KV: eventual reads, last write wins, metadata that goes with the value.

use super::{Case, NEXT_WRITE_MS, RefusalKind, STALE_MS_MAX, World, applied, cases, refused, soon};
use bytes::Bytes;
use tidelock_engine::env::{KvEntry, KvStore, Listed};
use tidelock_engine::record::{KV_KEY_BYTES_MAX, KV_METADATA_BYTES_MAX, KV_VALUE_BYTES_MAX};
use tidelock_engine::row::StoreTime;

cases![
    kv_gives_what_was_put_until_it_is_deleted,
    kv_a_put_without_metadata_erases_it,
    kv_refuses_what_is_over_its_limits,
    kv_takes_one_write_a_second_for_each_key,
    kv_refuses_at_the_deadline,
    kv_lists_in_order_and_page_by_page,
];

fn entry(value: &str, metadata: Option<&str>) -> KvEntry {
    KvEntry {
        value: Bytes::from(value.to_owned()),
        metadata: metadata.map(str::to_owned),
        expires_at_s: None,
    }
}

/// Waits until a read shows it: another place's, or an older one, may come first.
async fn shows<W: World>(world: &W, key: &str, expected: Option<&KvEntry>) {
    for _ in 0..=STALE_MS_MAX / 1_000 {
        if world.kv().get(key).await.expect("a read is answered").as_ref() == expected {
            return;
        }
        world.advance(1_000).await;
    }
    panic!("{key:?} never became {expected:?}");
}

async fn put<W: World>(world: &W, key: &str, entry: &KvEntry) {
    applied(world.kv().put(key, entry.clone(), soon(world)).await);
}

async fn kv_gives_what_was_put_until_it_is_deleted<W: World>(world: &W) {
    let key = "contract/put/ключ";
    shows(world, key, None).await;
    applied(world.kv().delete(key, soon(world)).await);
    world.advance(NEXT_WRITE_MS).await;
    for value in ["one", "", "three \u{0} \u{ff}"] {
        let entry = entry(value, Some("{\"v\":1}"));
        put(world, key, &entry).await;
        shows(world, key, Some(&entry)).await;
        world.advance(NEXT_WRITE_MS).await;
    }
    applied(world.kv().delete(key, soon(world)).await);
    shows(world, key, None).await;
}

async fn kv_a_put_without_metadata_erases_it<W: World>(world: &W) {
    let key = "contract/metadata";
    put(world, key, &entry("same", Some("{}"))).await;
    world.advance(NEXT_WRITE_MS).await;
    put(world, key, &entry("same", None)).await;
    shows(world, key, Some(&entry("same", None))).await;
}

async fn kv_refuses_what_is_over_its_limits<W: World>(world: &W) {
    let kv = world.kv();
    let small = entry("v", None);
    let longest = format!("contract/limits/{}", "k".repeat(KV_KEY_BYTES_MAX - 16));
    put(world, &longest, &small).await;
    let longer = format!("{longest}k");
    refused(kv.put(&longer, small.clone(), soon(world)).await, RefusalKind::TooLarge);
    refused(kv.delete(&longer, soon(world)).await, RefusalKind::TooLarge);
    for key in ["", ".", ".."] {
        refused(kv.put(key, small.clone(), soon(world)).await, RefusalKind::Constraint);
    }
    let metadata = "m".repeat(KV_METADATA_BYTES_MAX);
    put(world, "contract/limits/m", &entry("v", Some(&metadata))).await;
    let over = entry("v", Some(&format!("{metadata}m")));
    refused(kv.put("contract/limits/n", over, soon(world)).await, RefusalKind::TooLarge);
    let value = Bytes::from(vec![7; KV_VALUE_BYTES_MAX + 1]);
    let whole = KvEntry { value: value.slice(1..), metadata: None, expires_at_s: None };
    applied(kv.put("contract/limits/v", whole, soon(world)).await);
    let over = KvEntry { value, metadata: None, expires_at_s: None };
    refused(kv.put("contract/limits/w", over, soon(world)).await, RefusalKind::TooLarge);
    for key in ["contract/limits/n", "contract/limits/w"] {
        shows(world, key, None).await;
    }
}

async fn kv_takes_one_write_a_second_for_each_key<W: World>(world: &W) {
    let kv = world.kv();
    let (first, second) = (entry("first", None), entry("second", None));
    put(world, "contract/rate", &first).await;
    let again = kv.put("contract/rate", second.clone(), soon(world)).await;
    refused(again, RefusalKind::RateLimited);
    put(world, "contract/rate/other", &second).await;
    shows(world, "contract/rate", Some(&first)).await;
    world.advance(NEXT_WRITE_MS).await;
    put(world, "contract/rate", &second).await;
    shows(world, "contract/rate", Some(&second)).await;
}

async fn kv_refuses_at_the_deadline<W: World>(world: &W) {
    let (kv, key) = (world.kv(), "contract/deadline");
    let kept = entry("kept", None);
    put(world, key, &kept).await;
    world.advance(NEXT_WRITE_MS).await;
    for deadline in [world.now(), StoreTime(world.now().0 - 1), StoreTime(0)] {
        let late = kv.put(key, entry("late", None), deadline).await;
        refused(late, RefusalKind::DeadlinePassed);
        refused(kv.delete(key, deadline).await, RefusalKind::DeadlinePassed);
    }
    shows(world, key, Some(&kept)).await;
    // A refused write does not count against the key's rate.
    put(world, key, &entry("in time", None)).await;
}

async fn kv_lists_in_order_and_page_by_page<W: World>(world: &W) {
    let prefix = "contract/list/";
    // In byte order, which is the order of KV's listings.
    let keys = ["A", "a", "a/b", "aa", "b", "ü", "日"].map(|key| format!("{prefix}{key}"));
    for key in keys.iter().rev() {
        put(world, key, &entry("v", Some(key))).await;
    }
    put(world, "contract/list", &entry("before", None)).await;
    put(world, "contract/list0", &entry("after", None)).await;
    let expected: Vec<Listed> =
        keys.iter().map(|key| Listed { key: key.clone(), metadata: Some(key.clone()) }).collect();
    for _ in 0..=STALE_MS_MAX / 1_000 {
        if world.kv().list(prefix, None, 100).await.expect("answered").keys == expected {
            break;
        }
        world.advance(1_000).await;
    }
    let (mut listed, mut from) = (Vec::new(), None);
    loop {
        let page = world.kv().list(prefix, from.as_deref(), 3).await.expect("answered");
        assert!(page.keys.len() <= 3, "at most the limit");
        listed.extend(page.keys);
        from = page.next;
        if from.is_none() {
            break;
        }
    }
    assert_eq!(listed, expected);
}
