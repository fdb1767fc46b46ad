//! The contract of the object-store port, run against every adapter.
//!
//! Each rule is an async function over the port that panics where the rule is broken; [`check_all`] runs them in parts of
//! the store of their own, so that one store serves all.

use bytes::Bytes;
use futures::future::join_all;
use sailvol::store::{LIST_LIMIT_MAX, ObjectStore, PutMode, StoreError, probe};
use std::sync::Arc;

/// Creators in a race.
const RACERS: usize = 32;

/// All rules.
pub async fn check_all(store: Arc<dyn ObjectStore>) {
    let store = store.as_ref();
    reads_what_was_written(store, "read").await;
    reads_ranges(store, "range").await;
    misses_what_is_not_there(store, "missing").await;
    creates_only_once(store, "create").await;
    has_one_winner_of_many(store, "race").await;
    lists_in_order_and_pages(store, "list").await;
    deletes(store, "delete").await;
    deletes_what_was_read(store, "same").await;
    refuses_bad_requests(store).await;
    shows_whole_objects_to_concurrent_readers(store, "whole").await;
    tells_time(store, "time").await;
    passes_the_probe(store).await;
}

async fn put(store: &dyn ObjectStore, key: &str, body: impl Into<Bytes>) {
    store
        .put(key, body.into(), PutMode::Overwrite)
        .await
        .expect("put");
}

async fn deletes_what_was_read(store: &dyn ObjectStore, root: &str) {
    let key = format!("{root}/object");
    put(store, &key, "one").await;
    let one = store.get(&key, None).await.expect("get");
    put(store, &key, "two").await;
    assert!(!store.delete_same(&key, &one).await.expect("another object"));
    let two = store.get(&key, None).await.expect("it stays");
    assert_eq!(two.bytes, "two");
    assert!(store.delete_same(&key, &two).await.expect("the same"));
    assert_eq!(store.head(&key).await.expect("head"), None);
    assert!(!store.delete_same(&key, &two).await.expect("gone"));
}

/// Bytes that differ from offset to offset, also at distances of powers of two.
pub fn pattern(len: usize, seed: u8) -> Bytes {
    const PERIOD: usize = 65_521;
    let period: Vec<u8> = (0..PERIOD.min(len))
        .map(|at| (at as u8).wrapping_mul(31) ^ ((at >> 8) as u8) ^ seed)
        .collect();
    let mut bytes = Vec::with_capacity(len);
    while bytes.len() < len {
        let take = period.len().min(len - bytes.len());
        bytes.extend_from_slice(&period[..take]);
    }
    bytes.into()
}

async fn reads_what_was_written(store: &dyn ObjectStore, root: &str) {
    for (index, len) in [0, 1, 1000, 200_000, 5 << 20].into_iter().enumerate() {
        let key = format!("{root}/{index}");
        let body = pattern(len, 1);
        put(store, &key, body.clone()).await;
        let fetched = store.get(&key, None).await.expect("get");
        assert_eq!(fetched.object_len, len as u64);
        assert!(fetched.bytes == body, "{key} of {len} bytes");
        assert_eq!(store.head(&key).await.expect("head"), Some(len as u64));
        let other = pattern(len / 2 + 1, 2);
        put(store, &key, other.clone()).await;
        assert!(
            store.get(&key, None).await.expect("get").bytes == other,
            "overwritten {key}"
        );
    }
}

async fn reads_ranges(store: &dyn ObjectStore, root: &str) {
    let key = format!("{root}/object");
    let body = pattern(300_000, 3);
    put(store, &key, body.clone()).await;
    for range in [
        0..1,
        0..300_000,
        299_999..300_000,
        100..200_000,
        299_990..400_000,
        0..u64::MAX / 4,
    ] {
        let fetched = store.get(&key, Some(range.clone())).await.expect("get");
        let end = range.end.min(300_000) as usize;
        assert!(fetched.bytes == body[range.start as usize..end], "{range:?}");
        assert_eq!(fetched.object_len, 300_000);
        let mut streamed = Vec::new();
        let fetched = store
            .get_streamed(&key, range.clone(), &mut |piece| {
                streamed.extend_from_slice(&piece)
            })
            .await
            .expect("get");
        assert!(streamed == body[range.start as usize..end], "{range:?}");
        assert_eq!((fetched.object_len, fetched.bytes.len()), (300_000, 0));
    }
    for range in [300_000..300_001, 500_000..600_000] {
        let mut nothing = |piece: Bytes| assert!(piece.is_empty());
        for result in [
            store.get(&key, Some(range.clone())).await,
            store.get_streamed(&key, range, &mut nothing).await,
        ] {
            let error = result.expect_err("range behind the end");
            assert!(matches!(error, StoreError::Broken { .. }), "{error}");
        }
    }
}

async fn misses_what_is_not_there(store: &dyn ObjectStore, root: &str) {
    let key = format!("{root}/nothing");
    for range in [None, Some(0..10)] {
        match store.get(&key, range).await {
            Err(StoreError::NotFound { key: told }) => assert_eq!(told, key),
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(store.head(&key).await.expect("head"), None);
    let page = store.list(&format!("{root}/"), None, 10).await.expect("list");
    assert!(page.objects.is_empty() && !page.truncated);
}

async fn creates_only_once(store: &dyn ObjectStore, root: &str) {
    let key = format!("{root}/slot");
    store
        .put(&key, Bytes::from_static(b"first"), PutMode::IfAbsent)
        .await
        .expect("create");
    match store
        .put(&key, Bytes::from_static(b"second"), PutMode::IfAbsent)
        .await
    {
        Err(StoreError::AlreadyExists { key: told }) => assert_eq!(told, key),
        other => panic!("{other:?}"),
    }
    assert_eq!(store.get(&key, None).await.expect("get").bytes, "first");
    store.delete(std::slice::from_ref(&key)).await.expect("delete");
    store
        .put(&key, Bytes::from_static(b"third"), PutMode::IfAbsent)
        .await
        .expect("create again");
}

async fn has_one_winner_of_many(store: &dyn ObjectStore, root: &str) {
    for (round, len) in [1, 100, 300_000].into_iter().enumerate() {
        let key = format!("{root}/slot{round}");
        let bodies: Vec<Bytes> = (0..RACERS).map(|racer| pattern(len, racer as u8)).collect();
        let results = store.race_to_create(&key, bodies.clone()).await;
        assert_eq!(results.len(), RACERS);
        let winners: Vec<usize> = (0..RACERS).filter(|&racer| results[racer].is_ok()).collect();
        assert_eq!(winners.len(), 1, "winners {winners:?}: {results:?}");
        for (racer, result) in results.iter().enumerate() {
            if racer != winners[0] {
                assert!(
                    matches!(result, Err(StoreError::AlreadyExists { .. })),
                    "{racer}: {result:?}"
                );
            }
        }
        assert!(store.get(&key, None).await.expect("get").bytes == bodies[winners[0]]);
    }
}

async fn lists_in_order_and_pages(store: &dyn ObjectStore, root: &str) {
    let mut keys: Vec<String> = (0..25)
        .map(|number| format!("{root}/log/{:04x}", number * 37 % 251))
        .collect();
    keys.extend(["b", "a-b", "a.c", "a/d", "a/d-", "a0", "B"].map(|key| format!("{root}/mix/{key}")));
    let puts = keys.iter().map(|key| put(store, key, Bytes::from(key.clone())));
    join_all(puts).await;
    keys.sort_unstable();
    for limit in [1, 2, 7, 32, LIST_LIMIT_MAX] {
        assert_eq!(
            list_all(store, &format!("{root}/"), limit).await,
            keys,
            "pages of {limit}"
        );
    }
    let page = store.list(&format!("{root}/log/"), None, 1).await.expect("list");
    assert_eq!(page.objects[0].key, keys[0]);
    assert_eq!(page.objects[0].len, keys[0].len() as u64);
    assert!(page.truncated);
    // A prefix need not end at a slash, and a page that ends with the last object has no more.
    assert_eq!(list_all(store, &format!("{root}/mix/a"), 2).await.len(), 5);
    let page = store.list(&format!("{root}/mix/"), None, 7).await.expect("list");
    assert_eq!((page.objects.len(), page.truncated), (7, false));
    // The start need not be a key, and may lie before or behind the prefix.
    let page = store
        .list(&format!("{root}/mix/"), Some(&format!("{root}/mix/a-zzz")), 2)
        .await
        .expect("list");
    let found: Vec<&str> = page.objects.iter().map(|object| object.key.as_str()).collect();
    assert_eq!(found, [format!("{root}/mix/a.c"), format!("{root}/mix/a/d")]);
    let page = store
        .list(&format!("{root}/mix/"), Some("0"), 1)
        .await
        .expect("list");
    assert_eq!(page.objects[0].key, format!("{root}/mix/B"));
    let page = store
        .list(&format!("{root}/mix/"), Some("zzz"), 1)
        .await
        .expect("list");
    assert!(page.objects.is_empty());
}

/// All keys with a prefix, page by page.
pub async fn list_all(store: &dyn ObjectStore, prefix: &str, limit: usize) -> Vec<String> {
    let mut keys: Vec<String> = Vec::new();
    loop {
        let page = store
            .list(prefix, keys.last().map(String::as_str), limit)
            .await
            .expect("list");
        assert!(page.objects.len() <= limit);
        keys.extend(page.objects.into_iter().map(|object| object.key));
        if !page.truncated {
            return keys;
        }
    }
}

async fn deletes(store: &dyn ObjectStore, root: &str) {
    let keys: Vec<String> = (0..30).map(|number| format!("{root}/{number:02}")).collect();
    let puts = keys.iter().map(|key| put(store, key, Bytes::from_static(b"x")));
    join_all(puts).await;
    store.delete(&[]).await.expect("delete nothing");
    store.delete(&keys[..1]).await.expect("delete one");
    store.delete(&keys[..1]).await.expect("delete again");
    let mut most = keys[..29].to_vec();
    most.extend((0..1500).map(|number| format!("{root}/never/{number}")));
    store.delete(&most).await.expect("delete many");
    assert_eq!(list_all(store, &format!("{root}/"), 10).await, keys[29..]);
    assert_eq!(store.head(&keys[3]).await.expect("head"), None);
}

async fn refuses_bad_requests(store: &dyn ObjectStore) {
    for key in ["", "/a", "a//b", "../a", "a/", ".a", "a b"] {
        let error = store
            .put(key, Bytes::new(), PutMode::Overwrite)
            .await
            .expect_err(key);
        assert!(matches!(error, StoreError::Broken { .. }), "{key}: {error}");
        store.get(key, None).await.expect_err(key);
        store.head(key).await.expect_err(key);
        store.delete(&[key.to_string()]).await.expect_err(key);
    }
    for limit in [0, LIST_LIMIT_MAX + 1] {
        store.list("", None, limit).await.expect_err("limit");
    }
    store.get("a", Some(5..5)).await.expect_err("empty range");
    store
        .get_streamed("a", 5..5, &mut |_| unreachable!("of an empty range"))
        .await
        .expect_err("empty range");
}

/// Readers during overwrites see one version or the other, whole.
async fn shows_whole_objects_to_concurrent_readers(store: &dyn ObjectStore, root: &str) {
    let key = format!("{root}/object");
    let versions: Vec<Bytes> = (0..4).map(|seed| pattern(150_000, seed)).collect();
    put(store, &key, versions[0].clone()).await;
    let write = async {
        for round in 0..12 {
            put(store, &key, versions[round % 4].clone()).await;
        }
    };
    let readers = (0..8).map(|_| async {
        for _ in 0..12 {
            let seen = store.get(&key, None).await.expect("get").bytes;
            assert!(versions.contains(&seen), "a mixture of versions");
        }
    });
    futures::join!(write, join_all(readers));
}

async fn tells_time(store: &dyn ObjectStore, root: &str) {
    let key = format!("{root}/object");
    let done = store
        .put(&key, Bytes::from_static(b"x"), PutMode::Overwrite)
        .await
        .expect("put");
    let fetched = store.get(&key, None).await.expect("get");
    let page = store.list(&key, None, 1).await.expect("list");
    let times = [
        done.server_time,
        fetched.server_time,
        fetched.modified,
        page.server_time,
        page.objects[0].modified,
    ];
    let secs: Vec<i64> = times.iter().map(|time| time.expect("a time").secs).collect();
    let (min, max) = (
        secs.iter().min().expect("times"),
        secs.iter().max().expect("times"),
    );
    assert!(max - min < 60, "{secs:?}");
}

async fn passes_the_probe(store: &dyn ObjectStore) {
    let report = probe(store).await.expect("probe");
    assert!(report.is_fit(), "{report}");
    assert!(list_all(store, "probe/", 10).await.is_empty());
}
