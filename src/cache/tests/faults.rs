//! A store that fails, and objects that are not what they should be.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;

use super::fixture::{Place, Plain, Random, check, settled};
use crate::store::StoreError;
use crate::tree::TreeError;

const MIB: u64 = 1 << 20;

fn gone() -> StoreError {
    StoreError::Unreachable {
        reason: "scripted".to_owned(),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn passing_failures_are_not_seen_and_lasting_ones_end_the_wait() {
    let mut place = Place::new(64 * MIB);
    // Long enough for a loaded machine to answer within it.
    place.options.remote_timeout = Duration::from_secs(3);
    let mut random = Random(1);
    let cache = place.open();
    let stored = place.script.store(Plain::noise(&mut random, 6 * MIB)).await;
    place.script.failures.lock().extend([gone(), gone()]);
    check(&cache, &stored, 0..100, "after two failures").await;
    assert_eq!(cache.stats().errors, 2);
    place.script.failures.lock().extend((0..1000).map(|_| gone()));
    let read = cache.read(&stored.content, stored.size(), 5 * MIB, 10).await;
    assert!(matches!(read, Err(TreeError::Unreachable { .. })), "{read:?}");
    check(&cache, &stored, 0..100, "cached bytes need no store").await;
    place.script.failures.lock().clear();
    // A read that joins one from before shares its end; the first success comes within 15 s.
    let back = std::time::Instant::now();
    while let Err(error) = cache.read(&stored.content, stored.size(), 5 * MIB, 10).await {
        assert!(back.elapsed() < Duration::from_secs(15), "{error}");
    }
    check(&cache, &stored, 5 * MIB..6 * MIB, "the store is back").await;
    assert!(cache.stats().last_error.is_some_and(|e| e.contains("scripted")));
}

#[tokio::test(flavor = "multi_thread")]
async fn refusals_are_told_at_once() {
    let place = Place::new(64 * MIB);
    let stored = place.script.store(Plain::noise(&mut Random(2), 100_000)).await;
    let cache = place.open();
    place.script.failures.lock().push_back(StoreError::Denied {
        reason: "scripted".to_owned(),
    });
    let read = cache.read(&stored.content, stored.size(), 0, 10).await;
    assert!(matches!(read, Err(TreeError::Denied { .. })), "{read:?}");
    assert_eq!(place.script.taken().0, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn bytes_damaged_on_the_way_are_fetched_again() {
    let place = Place::new(64 * MIB);
    let mut random = Random(3);
    let cache = place.open();
    for size in [100_000, 3 * MIB, 9 * MIB] {
        let stored = place.script.store(Plain::noise(&mut random, size)).await;
        *place.script.flips.lock() = 1;
        check(&cache, &stored, size / 3..size / 3 + 1000, "flipped once").await;
        settled(&cache).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn objects_damaged_in_the_store_are_errors_that_name_them_and_never_wrong_bytes() {
    let place = Place::new(64 * MIB);
    let mut random = Random(4);
    for (size, damage) in [(100_000, 0.5), (9 * MIB, 0.5), (9 * MIB, 0.00001), (5 * MIB, 0.9)] {
        let before = place.script.keys();
        let stored = place.script.store(Plain::noise(&mut random, size)).await;
        let key = place
            .script
            .keys()
            .into_iter()
            .filter(|key| !before.contains(key))
            .max_by_key(|key| {
                let chunk = key.contains("/d/");
                (chunk, key.clone())
            });
        let key = key.unwrap();
        let mut object = place.script.object(&key).await.to_vec();
        let at = ((object.len() - 1) as f64 * damage) as usize;
        object[at] ^= 1;
        place.script.put_object(&key, object).await;
        let cache = place.open();
        let mut failures = 0;
        for at in (0..size).step_by(300_000) {
            match cache.read(&stored.content, size, at, 300_000).await {
                Ok(bytes) => assert!(bytes == stored.plain.get(at..at + 300_000), "wrong bytes at {at}"),
                Err(TreeError::Damaged { object, .. }) => {
                    assert_eq!(object, key);
                    failures += 1;
                }
                Err(other) => panic!("{other}"),
            }
        }
        assert!(failures > 0, "{size} {damage}");
        place.close(cache).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn one_damaged_frame_leaves_the_others_readable() {
    let place = Place::new(64 * MIB);
    let stored = place.script.store(Plain::noise(&mut Random(5), 8 * MIB)).await;
    let key = place
        .script
        .keys()
        .into_iter()
        .find(|key| key.contains("/d/"))
        .unwrap();
    let mut object = place.script.object(&key).await.to_vec();
    object[(3 * MIB + MIB / 2) as usize] ^= 1;
    place.script.put_object(&key, object).await;
    let cache = place.open();
    assert!(cache.prefetch(&stored.content, 8 * MIB).await.is_err());
    settled(&cache).await;
    for frame in [0, 1, 2, 4, 5, 6, 7] {
        check(&cache, &stored, frame * MIB..(frame + 1) * MIB, "whole frames").await;
    }
    let damaged = cache.read(&stored.content, 8 * MIB, 3 * MIB, 10).await;
    assert!(matches!(damaged, Err(TreeError::Damaged { .. })));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_object_is_damage_unless_its_record_has_expired() {
    let place = Place::new(64 * MIB);
    let stored = place.script.store(Plain::noise(&mut Random(6), 100_000)).await;
    for key in place.script.keys() {
        place.script.delete_object(&key).await;
    }
    let cache = place.open();
    let read = || async { cache.read(&stored.content, stored.size(), 0, 10).await };
    assert!(matches!(read().await, Err(TreeError::Damaged { .. })));
    let kept = Arc::new(AtomicBool::new(true));
    let asked = kept.clone();
    cache.set_kept_check(Arc::new(move || {
        let kept = asked.load(Relaxed);
        Box::pin(async move { kept })
    }));
    assert!(matches!(read().await, Err(TreeError::Damaged { .. })));
    kept.store(false, Relaxed);
    assert!(matches!(read().await, Err(TreeError::Expired { .. })));
}
