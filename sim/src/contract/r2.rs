//! R2: strongly consistent, with conditional puts.

use super::{Case, NEXT_WRITE_MS, RefusalKind, World, applied, cases, refused, soon};
use bytes::Bytes;
use tidelock_engine::env::{Listed, Object, ObjectStore, Outcome, PutIf};
use tidelock_engine::record::{R2_KEY_BYTES_MAX, R2_METADATA_BYTES_MAX};
use tidelock_engine::row::StoreTime;

cases![
    r2_gives_what_was_put_until_it_is_deleted,
    r2_changes_the_etag_with_the_content,
    r2_puts_where_nothing_is_when_asked_to,
    r2_refuses_what_is_over_its_limits,
    r2_takes_one_write_a_second_for_each_key,
    r2_refuses_at_the_deadline,
    r2_lists_in_order_and_page_by_page,
];

async fn put<W: World>(world: &W, key: &str, body: &'static str) -> String {
    let body = Bytes::from_static(body.as_bytes());
    let outcome = world.r2().put(key, body, None, PutIf::Always, Some(soon(world))).await;
    applied(outcome)
}

async fn get<W: World>(world: &W, key: &str) -> Option<Object> {
    world.r2().get(key).await.expect("a read is answered")
}

async fn try_put<W: World>(
    world: &W,
    key: &str,
    metadata: Option<String>,
    condition: PutIf,
    deadline: Option<StoreTime>,
) -> Outcome<String> {
    world.r2().put(key, Bytes::from_static(b"tried"), metadata, condition, deadline).await
}

async fn r2_gives_what_was_put_until_it_is_deleted<W: World>(world: &W) {
    let key = "contract/put/ключ";
    assert_eq!(get(world, key).await, None);
    let (body, metadata) = (Bytes::from_static(b"one \x00\xff"), Some("{\"v\":1}".to_owned()));
    let put_at = world.r2().put(key, body.clone(), metadata.clone(), PutIf::Always, None).await;
    let etag = applied(put_at);
    assert_eq!(get(world, key).await, Some(Object { body, metadata, etag }));
    world.advance(NEXT_WRITE_MS).await;
    put(world, key, "").await;
    let found = get(world, key).await.expect("an empty object is one");
    assert_eq!((&found.body[..], &found.metadata), (&b""[..], &None));
    world.advance(NEXT_WRITE_MS).await;
    applied(world.r2().delete(key, soon(world)).await);
    assert_eq!(get(world, key).await, None);
    world.advance(NEXT_WRITE_MS).await;
    applied(world.r2().delete(key, soon(world)).await);
}

async fn r2_changes_the_etag_with_the_content<W: World>(world: &W) {
    let first = put(world, "contract/etag", "first").await;
    assert_eq!(get(world, "contract/etag").await.map(|object| object.etag), Some(first.clone()));
    world.advance(NEXT_WRITE_MS).await;
    let second = put(world, "contract/etag", "second").await;
    assert_ne!(first, second);
    assert_eq!(get(world, "contract/etag").await.map(|object| object.etag), Some(second));
}

async fn r2_puts_where_nothing_is_when_asked_to<W: World>(world: &W) {
    let key = "contract/absent";
    applied(try_put(world, key, None, PutIf::Absent, None).await);
    // At once, and a while later: that something is there comes before the key's rate.
    refused(try_put(world, key, None, PutIf::Absent, None).await, RefusalKind::Precondition);
    world.advance(NEXT_WRITE_MS).await;
    refused(try_put(world, key, None, PutIf::Absent, None).await, RefusalKind::Precondition);
    applied(world.r2().delete(key, soon(world)).await);
    world.advance(NEXT_WRITE_MS).await;
    applied(try_put(world, key, None, PutIf::Absent, None).await);
}

async fn r2_refuses_what_is_over_its_limits<W: World>(world: &W) {
    let longest = format!("contract/limits/{}", "k".repeat(R2_KEY_BYTES_MAX - 16));
    applied(try_put(world, &longest, None, PutIf::Always, None).await);
    let longer = format!("{longest}k");
    refused(try_put(world, &longer, None, PutIf::Always, None).await, RefusalKind::TooLarge);
    refused(world.r2().delete(&longer, soon(world)).await, RefusalKind::TooLarge);
    let metadata = "m".repeat(R2_METADATA_BYTES_MAX);
    let key = "contract/limits/m";
    applied(try_put(world, key, Some(metadata.clone()), PutIf::Always, None).await);
    let (key, over) = ("contract/limits/n", Some(format!("{metadata}m")));
    refused(try_put(world, key, over, PutIf::Always, None).await, RefusalKind::TooLarge);
    assert_eq!(get(world, key).await, None);
}

async fn r2_takes_one_write_a_second_for_each_key<W: World>(world: &W) {
    put(world, "contract/rate", "first").await;
    let again = try_put(world, "contract/rate", None, PutIf::Always, None).await;
    refused(again, RefusalKind::RateLimited);
    put(world, "contract/rate/other", "other").await;
    let found = get(world, "contract/rate").await.expect("the first");
    assert_eq!(&found.body[..], b"first");
    world.advance(NEXT_WRITE_MS).await;
    put(world, "contract/rate", "second").await;
}

async fn r2_refuses_at_the_deadline<W: World>(world: &W) {
    let key = "contract/deadline";
    put(world, key, "kept").await;
    world.advance(NEXT_WRITE_MS).await;
    for deadline in [world.now(), StoreTime(world.now().0 - 1), StoreTime(0)] {
        let late = try_put(world, key, None, PutIf::Always, Some(deadline)).await;
        refused(late, RefusalKind::DeadlinePassed);
        refused(world.r2().delete(key, deadline).await, RefusalKind::DeadlinePassed);
    }
    assert_eq!(&get(world, key).await.expect("kept").body[..], b"kept");
    // A refused write does not count against the key's rate.
    applied(try_put(world, key, None, PutIf::Always, Some(soon(world))).await);
}

async fn r2_lists_in_order_and_page_by_page<W: World>(world: &W) {
    let prefix = "contract/list/";
    let keys = ["A", "a", "a/b", "aa", "b", "ü", "日"].map(|key| format!("{prefix}{key}"));
    for key in keys.iter().rev() {
        applied(try_put(world, key, Some(key.clone()), PutIf::Always, None).await);
    }
    put(world, "contract/list", "before").await;
    put(world, "contract/list0", "after").await;
    let expected: Vec<Listed> =
        keys.iter().map(|key| Listed { key: key.clone(), metadata: Some(key.clone()) }).collect();
    let (mut listed, mut from) = (Vec::new(), None);
    loop {
        let page = world.r2().list(prefix, from.as_deref(), 3).await.expect("answered");
        assert!(page.keys.len() <= 3, "at most the limit");
        listed.extend(page.keys);
        from = page.next;
        if from.is_none() {
            break;
        }
    }
    assert_eq!(listed, expected);
}
