//! Reads are the plain bytes, whatever happens to the files; never over the cap.

use std::fs::OpenOptions;
use std::os::unix::fs::FileExt;

use super::fixture::{Place, Plain, Random, check, settled};

const MIB: u64 = 1 << 20;

#[tokio::test(flavor = "multi_thread")]
async fn every_form_and_border_reads_as_plain_bytes() {
    let place = Place::new(1 << 30);
    let mut random = Random(1);
    let cache = place.open();
    for size in [
        0,
        1,
        256,
        257,
        4096,
        4 * MIB - 1,
        4 * MIB,
        4 * MIB + 1,
        8 * MIB,
        8 * MIB + 1,
        12 * MIB + 77,
    ] {
        let stored = place.script.store(Plain::mixed(&mut random, size)).await;
        check(&cache, &stored, size / 2..size / 2 + 10, "first").await;
        check(&cache, &stored, size.saturating_sub(5)..size + 5, "tail").await;
        check(&cache, &stored, size..size + 5, "behind").await;
        check(&cache, &stored, 0..size, "all").await;
        for _ in 0..10 {
            let at = random.below(size);
            check(&cache, &stored, at..at + random.below(2 * MIB) + 1, "random").await;
        }
        assert!(cache.contains_fully(&stored.content, size), "{size}");
        settled(&cache).await;
        assert!(cache.read_local(&stored.content, size, 0, 10).is_some(), "{size}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn paged_contents_and_holes_are_found_through_their_pages() {
    let place = Place::new(64 * MIB);
    let mut random = Random(2);
    // 33 chunks in one extent page, and three pages below an index page; nearly all holes.
    for size in [32 * 8 * MIB + 5, 100 << 30] {
        let offsets = [3 * MIB + 5, 200 * MIB, size - 3];
        let parts = offsets.map(|at| (at, random.bytes(3))).to_vec();
        let stored = place.script.store(Plain { size, parts }).await;
        let cache = place.open();
        for at in offsets {
            check(&cache, &stored, at - 70_000..at + 70_000, "around a part").await;
        }
        for _ in 0..5 {
            let at = random.below(size);
            check(&cache, &stored, at..at + 5000, "in a hole").await;
        }
        place.close(cache).await;
    }
}

/// Touches a cache file behind the cache's back.
fn sabotage(place: &Place, random: &mut Random) {
    let files = place.files();
    let Some(path) = files.get(random.below(files.len() as u64) as usize) else {
        return;
    };
    if random.below(3) == 0 {
        let _ = std::fs::remove_file(path);
        return;
    }
    let Ok(file) = OpenOptions::new().read(true).write(true).open(path) else {
        return;
    };
    let len = file.metadata().unwrap().len();
    match random.below(3) {
        0 => file.set_len(random.below(len)).unwrap(),
        1 => {
            file.set_len(0).unwrap();
            file.set_len(len).unwrap();
        }
        _ => {
            let (at, mut byte) = (random.below(len), [0]);
            file.read_exact_at(&mut byte, at).unwrap();
            file.write_all_at(&[byte[0] ^ 1], at).unwrap();
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn under_eviction_pressure_and_sabotage_bytes_are_right_and_the_cap_holds() {
    let seed = 3;
    let mut place = Place::new(24 * MIB);
    place.options.node_memory_bytes = 1 << 20;
    let mut random = Random(seed);
    let mut all = Vec::new();
    for size in [
        300,
        70_000,
        3 * MIB,
        5 * MIB,
        9 * MIB,
        11 * MIB + 3,
        20 * MIB,
        40 * MIB + 11,
    ] {
        all.push(place.script.store(Plain::mixed(&mut random, size)).await);
    }
    all.extend(
        place
            .script
            .store_small((0..40).map(|i| random.bytes(3000 + 1000 * i)).collect())
            .await,
    );
    let mut cache = place.open();
    let (mut evictions, mut damage) = (0, 0);
    for step in 0..400u32 {
        let note = format!("seed {seed} step {step}");
        let stored = &all[random.below(all.len() as u64) as usize];
        let at = random.below(stored.size());
        let len = [10, 5000, 200_000, 3 * MIB][random.below(4) as usize];
        check(&cache, stored, at..at + len, &note).await;
        let on_disk = place.bytes_on_disk();
        assert!(on_disk <= 24 * MIB, "{note}: {on_disk} bytes on disk");
        match random.below(40) {
            0..10 => {
                // Between steps: what is read while somebody writes into our files is nobody's promise.
                settled(&cache).await;
                sabotage(&place, &mut random);
            }
            10 => {
                evictions += cache.stats().evictions;
                damage += cache.stats().local_damage;
                place.close(cache).await;
                sabotage(&place, &mut random);
                cache = place.open();
            }
            11 => cache.clear(),
            _ => {}
        }
    }
    let stats = cache.stats();
    evictions += stats.evictions;
    damage += stats.local_damage;
    assert!(
        evictions > 10 && damage > 10,
        "{evictions} evictions, {damage} damaged files"
    );
    settled(&cache).await;
    cache.clear();
    assert_eq!(
        (cache.stats().bytes_used, place.files().len()),
        (0, 0),
        "nothing is left or counted twice"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn without_room_bytes_come_from_memory() {
    let place = Place::new(0);
    let mut random = Random(4);
    let cache = place.open();
    for size in [5000, 9 * MIB + 7] {
        let stored = place.script.store(Plain::mixed(&mut random, size)).await;
        for at in (0..size).step_by(700_000) {
            check(&cache, &stored, at..at + 700_000, "no room").await;
        }
    }
    settled(&cache).await;
    assert_eq!((place.files().len(), cache.stats().bytes_used), (0, 0));
    assert!(cache.stats().unkept > 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_whole_directory_may_vanish() {
    let place = Place::new(64 * MIB);
    let mut random = Random(5);
    let large = place.script.store(Plain::mixed(&mut random, 10 * MIB)).await;
    let small = place.script.store(Plain::noise(&mut random, 100_000)).await;
    let cache = place.open();
    for round in 0..3 {
        check(&cache, &large, 0..10 * MIB, "large").await;
        check(&cache, &small, 0..100_000, "small").await;
        settled(&cache).await;
        if round < 2 {
            std::fs::remove_dir_all(&place.options.dir).unwrap();
            cache.pieces.lock().clear();
        }
    }
    assert!(
        !place.files().is_empty(),
        "the cache goes on keeping what it fetches"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn concurrent_readers_of_everything_agree() {
    let place = Place::new(16 * MIB);
    let mut random = Random(6);
    let mut all = Vec::new();
    for size in [9 * MIB, 14 * MIB + 5, 7 * MIB, 90_000] {
        all.push(place.script.store(Plain::mixed(&mut random, size)).await);
    }
    let cache = place.open();
    let readers = (0..6u64).map(|reader| {
        let (cache, all) = (cache.clone(), all.clone());
        tokio::spawn(async move {
            let mut random = Random(100 + reader);
            for step in 0..40 {
                let stored = &all[random.below(4) as usize];
                let at = random.below(stored.size());
                check(
                    &cache,
                    stored,
                    at..at + random.below(MIB),
                    &format!("reader {reader} step {step}"),
                )
                .await;
            }
        })
    });
    for reader in readers.collect::<Vec<_>>() {
        reader.await.unwrap();
    }
    settled(&cache).await;
    assert!(place.bytes_on_disk() <= 16 * MIB);
}
