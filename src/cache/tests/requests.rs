//! How many requests reads cost.

use super::fixture::{Place, Plain, Random, Stored, check, settled};
use crate::model::Content;

const MIB: u64 = 1 << 20;

#[tokio::test(flavor = "multi_thread")]
async fn a_cold_sequential_read_costs_about_a_request_per_chunk() {
    let place = Place::new(1 << 30);
    let size = 64 * MIB;
    let stored = place.script.store(Plain::noise(&mut Random(1), size)).await;
    let cache = place.open();
    for at in (0..size).step_by(128 << 10) {
        check(&cache, &stored, at..at + (128 << 10), "sequential").await;
    }
    settled(&cache).await;
    let (requests, bytes) = place.script.taken();
    // Nine when the reader never catches up; where it does, it asks for a frame of a group by itself.
    assert!(requests <= 17, "{requests} requests for 8 chunks");
    assert!(bytes < size + 8 * 8192, "{bytes} bytes asked for");
    assert!(cache.contains_fully(&stored.content, size));
    check(&cache, &stored, 0..size, "again").await;
    assert_eq!(place.script.taken().0, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_random_read_costs_one_request_of_a_frame_once_the_header_is_known() {
    let place = Place::new(1 << 30);
    let size = 40 * MIB;
    let stored = place.script.store(Plain::noise(&mut Random(2), size)).await;
    let cache = place.open();
    for chunk in 0..5 {
        check(
            &cache,
            &stored,
            chunk * 8 * MIB + 10..chunk * 8 * MIB + 20,
            "header and first frame",
        )
        .await;
        let (requests, bytes) = place.script.taken();
        assert!(
            (requests, bytes) <= (1, MIB + 8192),
            "{requests} requests, {bytes} bytes"
        );
    }
    let mut random = Random(20);
    for _ in 0..50 {
        let at = random.below(size / 4096) * 4096;
        check(&cache, &stored, at..at + 4096, "random").await;
        settled(&cache).await;
        let (requests, bytes) = place.script.taken();
        assert!(
            requests <= 1 && bytes <= MIB,
            "{requests} requests, {bytes} bytes"
        );
    }
}

/// As a loader and its program touch a shared library.
#[tokio::test(flavor = "multi_thread")]
async fn scattered_reads_of_a_small_content_cost_three_requests_a_chunk() {
    let place = Place::new(1 << 30);
    let size = 20 * MIB + 12345;
    let stored = place.script.store(Plain::noise(&mut Random(11), size)).await;
    let cache = place.open();
    let mut random = Random(12);
    check(&cache, &stored, 0..1000, "the first page").await;
    for _ in 0..300 {
        let at = random.below(size / 4096) * 4096;
        check(&cache, &stored, at..(at + 16384).min(size), "anywhere").await;
    }
    settled(&cache).await;
    let (requests, bytes) = place.script.taken();
    // Of each chunk the header, the first frame that was touched, and the rest on both sides of it.
    assert!(requests <= 3 * 4, "{requests} requests for three chunks");
    assert!(bytes <= size + 3 * 8192, "{bytes} bytes asked for");
    assert!(cache.contains_fully(&stored.content, size));
}

#[tokio::test(flavor = "multi_thread")]
async fn small_files_come_with_their_neighbours() {
    let place = Place::new(1 << 30);
    let mut random = Random(3);
    let plains: Vec<_> = (0..4000u64)
        .map(|i| random.bytes(2000 + (i % 5) as usize * 1000))
        .collect();
    let bytes: usize = plains.iter().map(Vec::len).sum();
    let all = place.script.store_small(plains).await;
    let cache = place.open();
    check(&cache, &all[0], 0..9999, "first").await;
    assert_eq!(place.script.taken(), (1, (256 + 32) << 10));
    for stored in &all {
        check(&cache, stored, 0..9999, "in order").await;
    }
    let (requests, fetched) = place.script.taken();
    assert!(
        requests <= 7,
        "{requests} requests for {} files of {bytes} bytes",
        all.len()
    );
    assert!(
        fetched <= bytes as u64 + 400_000 + 8 * MIB,
        "{fetched} bytes asked for"
    );
    settled(&cache).await;
    cache.pieces.lock().clear();
    let local = all
        .iter()
        .all(|s| cache.read_local(&s.content, s.size(), 0, 9999).is_some());
    assert!(local, "small files in a window need no waiting");
}

#[tokio::test(flavor = "multi_thread")]
async fn small_files_in_any_order_cost_few_requests() {
    let place = Place::new(1 << 30);
    let mut random = Random(13);
    let plains: Vec<_> = (0..5000u64)
        .map(|i| random.bytes(1500 + (i % 7) as usize * 500))
        .collect();
    let bytes: usize = plains.iter().map(Vec::len).sum();
    let mut all = place.script.store_small(plains).await;
    random.shuffle(&mut all);
    let cache = place.open();
    for stored in &all {
        check(&cache, stored, 0..9999, "in any order").await;
    }
    settled(&cache).await;
    let (requests, fetched) = place.script.taken();
    // Three windows until it is known that much is wanted; they leave as many gaps and one in each 8 MiB.
    assert!(
        requests <= 3 + 3 + 2,
        "{requests} requests for {} files of {bytes} bytes",
        all.len()
    );
    let twice = 2 * requests as u64 * (32 << 10);
    assert!(
        fetched <= bytes as u64 + 400_000 + twice,
        "{fetched} bytes asked for"
    );
}

/// Images of a data set: larger than a window's overlap, some hundred to a pack.
#[tokio::test(flavor = "multi_thread")]
async fn who_goes_on_in_another_pack_does_not_begin_anew() {
    let place = Place::new(1 << 30);
    let mut random = Random(16);
    let cache = place.open();
    for pack in 0..4 {
        let plains = (0..150).map(|_| random.bytes(100_000)).collect();
        for stored in place.script.store_small(plains).await {
            check(&cache, &stored, 0..200_000, "in order").await;
        }
        let (requests, _) = place.script.taken();
        // Two windows of 8 MiB, and what lies across their edge; in the first pack windows grow.
        let most = if pack == 0 { 12 } else { 4 };
        assert!(requests <= most, "{requests} requests for pack {pack}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_short_pack_is_here_after_its_first_item() {
    let place = Place::new(1 << 30);
    let mut random = Random(15);
    let plains = (0..150).map(|_| random.bytes(3000)).collect();
    let all = place.script.store_small(plains).await;
    let cache = place.open();
    check(&cache, &all[120], 0..9999, "somewhere").await;
    settled(&cache).await;
    let local = |stored: &&Stored| cache.contains_fully(&stored.content, stored.size());
    assert_eq!(all.iter().filter(local).count(), all.len());
    let (requests, fetched) = place.script.taken();
    assert!(
        requests <= 2 && fetched <= 600_000,
        "{requests} requests, {fetched} bytes"
    );
}

/// A shuffled data set of which a quarter finds room: what nobody asked for would be gone before it is wanted.
#[tokio::test(flavor = "multi_thread")]
async fn a_full_cache_makes_no_guesses() {
    let place = Place::new(16 * MIB);
    let mut random = Random(14);
    let mut all = Vec::new();
    for _ in 0..5 {
        let plains = (0..400).map(|_| random.bytes(32_000)).collect();
        all.extend(place.script.store_small(plains).await);
    }
    random.shuffle(&mut all);
    let cache = place.open();
    let (warm, measured) = all.split_at(600);
    for stored in warm {
        check(&cache, stored, 0..99_999, "until it is full").await;
    }
    settled(&cache).await;
    place.script.taken();
    for stored in measured {
        check(&cache, stored, 0..99_999, "any other").await;
    }
    settled(&cache).await;
    let (requests, fetched) = place.script.taken();
    assert!(requests <= measured.len(), "{requests} requests");
    let each = fetched / measured.len() as u64;
    assert!(each <= (256 + 64) << 10, "{each} bytes for a file of 32,000");
}

#[tokio::test(flavor = "multi_thread")]
async fn one_fetch_serves_all_who_wait() {
    let place = Place::new(1 << 30);
    let mut random = Random(4);
    let large = place.script.store(Plain::noise(&mut random, 8 * MIB)).await;
    let small = place.script.store(Plain::noise(&mut random, 50_000)).await;
    let cache = place.open();
    place.script.hold();
    let readers: Vec<_> = (0..32u64)
        .map(|i| {
            let stored = if i % 2 == 0 { large.clone() } else { small.clone() };
            let cache = cache.clone();
            tokio::spawn(async move { check(&cache, &stored, i * 100..i * 100 + 20, "waiting").await })
        })
        .collect();
    // All readers have looked, and wait for what the first ones have asked for.
    while cache.stats().misses < 32 {
        tokio::task::yield_now().await;
    }
    place.script.release();
    for reader in readers {
        reader.await.unwrap();
    }
    settled(&cache).await;
    assert_eq!(place.script.taken().0, 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fetch_goes_on_when_its_reader_has_left() {
    let place = Place::new(1 << 30);
    let stored = place.script.store(Plain::noise(&mut Random(5), 5 * MIB)).await;
    let cache = place.open();
    place.script.hold();
    let reader = {
        let (cache, stored) = (cache.clone(), stored.clone());
        tokio::spawn(async move { check(&cache, &stored, 0..10, "leaving").await })
    };
    while cache.stats().in_flight == 0 {
        tokio::task::yield_now().await;
    }
    reader.abort();
    assert!(reader.await.unwrap_err().is_cancelled());
    place.script.release();
    settled(&cache).await;
    assert!(cache.read_local(&stored.content, stored.size(), 0, 10).is_some());
}

#[tokio::test(flavor = "multi_thread")]
async fn prefetch_brings_everything_and_uploads_need_no_fetch() {
    let place = Place::new(64 * MIB);
    let mut random = Random(6);
    let stored = place.script.store(Plain::mixed(&mut random, 20 * MIB + 9)).await;
    let huge = place
        .script
        .store(Plain {
            size: 70 * MIB,
            parts: vec![(0, vec![1])],
        })
        .await;
    let cache = place.open();
    assert!(cache.prefetch(&stored.content, stored.size()).await.unwrap());
    place.script.taken();
    check(&cache, &stored, 0..stored.size(), "prefetched").await;
    assert!(
        !cache.prefetch(&huge.content, huge.size()).await.unwrap(),
        "larger than the cache"
    );
    let small = place.script.store(Plain::noise(&mut random, 30_000)).await;
    let Content::Blob(blob) = &small.content else {
        panic!("30 kB are a blob");
    };
    let key = crate::format::Key::Pack(super::fixture::VOLUME, blob.pack).to_string();
    cache
        .insert_pack(&blob.pack, &place.script.object(&key).await)
        .await;
    check(&cache, &small, 0..30_000, "uploaded").await;
    assert_eq!(place.script.taken().0, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_small_memory_budget_slows_but_does_not_stop() {
    let mut place = Place::new(256 * MIB);
    place.options.memory_bytes_max = 2 * MIB;
    place.options.fetches_max = 2;
    let stored = place.script.store(Plain::noise(&mut Random(7), 24 * MIB)).await;
    let cache = place.open();
    let readers: Vec<_> = (0..3u64)
        .map(|reader| {
            let (cache, stored) = (cache.clone(), stored.clone());
            tokio::spawn(async move {
                for at in (reader * 8 * MIB..(reader + 1) * 8 * MIB).step_by(512 << 10) {
                    check(&cache, &stored, at..at + (512 << 10), "tight").await;
                }
            })
        })
        .collect();
    for reader in readers {
        reader.await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn many_contents_need_few_descriptors() {
    let place = Place::new(1 << 30);
    let cache = place.open();
    let mut all = Vec::new();
    for i in 0..300u64 {
        let parts = vec![(i, vec![7]), (4 * MIB + i, vec![9; 5])];
        all.push(place.script.store(Plain { size: 5 * MIB, parts }).await);
    }
    for _ in 0..2 {
        for (i, stored) in all.iter().enumerate() {
            let at = 4 * MIB + i as u64;
            check(&cache, stored, at..at + 5, "many").await;
        }
        settled(&cache).await;
        assert_eq!(
            cache.stats().requests,
            600,
            "a closed file is opened again, not fetched again"
        );
    }
    let own = place.options.dir.join("contents");
    let fds = std::fs::read_dir("/proc/self/fd").unwrap();
    let held = fds.filter_map(|fd| std::fs::read_link(fd.unwrap().path()).ok());
    let held = held.filter(|path| path.starts_with(&own)).count();
    assert!((1..=256).contains(&held), "{held} descriptors");
}
