//! What outlives a restart, what is refused at opening, and whole files.

use std::fs::File;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, PermissionsExt};

use super::super::{Adoption, Cache, CacheError};
use super::fixture::{Place, Plain, Random, check, settled};
use crate::model::VolumeId;

const MIB: u64 = 1 << 20;

#[tokio::test(flavor = "multi_thread")]
async fn what_was_fetched_is_there_after_a_restart() {
    let place = Place::new(64 * MIB);
    let mut random = Random(1);
    let large = place.script.store(Plain::mixed(&mut random, 11 * MIB + 5)).await;
    let small = place
        .script
        .store_small((0..25).map(|_| random.bytes(9000)).collect())
        .await;
    let cache = place.open();
    check(&cache, &large, 0..large.size(), "first").await;
    check(&cache, &small[3], 0..9000, "first").await;
    place.close(cache).await;
    place.script.taken();
    for _ in 0..2 {
        let cache = place.open();
        assert!(cache.contains_fully(&large.content, large.size()));
        assert!(cache.stats().bytes_used >= place.bytes_on_disk());
        check(&cache, &large, 0..large.size(), "again").await;
        for stored in &small {
            check(&cache, stored, 0..9000, "neighbours").await;
        }
        place.close(cache).await;
    }
    assert_eq!(place.script.taken().0, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_changed_while_nobody_looked_is_found_out_and_fetched_again() {
    let place = Place::new(64 * MIB);
    let mut random = Random(2);
    let large = place.script.store(Plain::noise(&mut random, 6 * MIB)).await;
    let small = place.script.store(Plain::noise(&mut random, 50_000)).await;
    for round in 0..3u64 {
        let cache = place.open();
        check(&cache, &large, 0..large.size(), "fetch").await;
        check(&cache, &small, 0..small.size(), "fetch").await;
        place.close(cache).await;
        for path in place.files() {
            let file = std::fs::OpenOptions::new().write(true).open(path).unwrap();
            let len = file.metadata().unwrap().len();
            match round {
                0 => file.write_all_at(b"not what it was", len / 2).unwrap(),
                1 => file.set_len(len - 1).unwrap(),
                _ => {
                    file.set_len(0).unwrap();
                    file.set_len(len).unwrap();
                }
            }
        }
    }
    let cache = place.open();
    check(&cache, &large, 0..large.size(), "at last").await;
    check(&cache, &small, 0..small.size(), "at last").await;
    assert!(cache.stats().requests > 0);
}

/// A power cut leaves files shorter than what was written to them, often at a frame's border or empty.
#[tokio::test(flavor = "multi_thread")]
async fn a_file_of_another_length_is_never_taken_for_the_content() {
    for len in [0, MIB, 5 * MIB, 7 * MIB] {
        let place = Place::new(64 * MIB);
        let stored = place.script.store(Plain::noise(&mut Random(4), 6 * MIB)).await;
        let cache = place.open();
        check(&cache, &stored, 0..stored.size(), "fetch").await;
        place.close(cache).await;
        for path in place.files() {
            let file = std::fs::OpenOptions::new().write(true).open(path).unwrap();
            if file.metadata().unwrap().len() == stored.size() {
                file.set_len(len).unwrap();
            }
        }
        let cache = place.open();
        assert!(!cache.contains_fully(&stored.content, stored.size()), "{len}");
        let handed = cache.hand_out(&stored.content, stored.size(), 1).await;
        assert!(handed.is_none(), "{len}: {handed:?}");
        check(&cache, &stored, 0..stored.size(), "again").await;
        settled(&cache).await;
        let handed = cache.hand_out(&stored.content, stored.size(), 1).await;
        let handed = handed.expect("a whole file");
        let path = format!("/proc/self/fd/{}", handed.handle().as_raw_fd());
        assert_eq!(File::open(path).unwrap().metadata().unwrap().len(), stored.size());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_index_costs_refetching_and_a_smaller_cap_evicts() {
    let mut place = Place::new(64 * MIB);
    let stored = place.script.store(Plain::noise(&mut Random(3), 20 * MIB)).await;
    let cache = place.open();
    check(&cache, &stored, 0..20 * MIB, "fetch").await;
    place.close(cache).await;
    std::fs::remove_dir_all(place.options.dir.join("index")).unwrap();
    let cache = place.open();
    assert!(!cache.contains_fully(&stored.content, 20 * MIB));
    check(&cache, &stored, 0..20 * MIB, "fetch again").await;
    place.close(cache).await;
    place.options.bytes_max = 10 * MIB;
    let cache = place.open();
    assert!(place.bytes_on_disk() <= 10 * MIB);
    check(&cache, &stored, 0..20 * MIB, "in a smaller cache").await;
    settled(&cache).await;
    assert!(place.bytes_on_disk() <= 10 * MIB);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_directory_is_for_one_process_one_user_and_one_volume() {
    let place = Place::new(64 * MIB);
    let stored = place.script.store(Plain::noise(&mut Random(4), 5 * MIB)).await;
    let cache = place.open();
    assert!(matches!(place.try_open(), Err(CacheError::Busy { .. })));
    check(&cache, &stored, 0..5 * MIB, "fetch").await;
    place.close(cache).await;
    let other = Cache::open(place.options.clone(), place.script.clone(), VolumeId([1; 16])).unwrap();
    assert_eq!((other.stats().contents, place.files().len()), (0, 0));
    place.close(other).await;
    let open_to_all = std::fs::Permissions::from_mode(0o755);
    std::fs::set_permissions(&place.options.dir, open_to_all).unwrap();
    assert!(matches!(place.try_open(), Err(CacheError::Unsafe { .. })));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_committed_body_becomes_the_cache_file() {
    let place = Place::new(64 * MIB);
    let mut random = Random(5);
    let stored = place.script.store(Plain::mixed(&mut random, 9 * MIB + 100)).await;
    let size = stored.size();
    let body = place.dir.path().join("body");
    let cache = place.open();
    std::fs::write(&body, stored.plain.get(0..size)).unwrap();
    assert!(
        cache
            .adopt_file(&stored.content, size, &body, Adoption::Check)
            .await
    );
    assert!(!body.exists());
    settled(&cache).await;
    check(&cache, &stored, 0..size, "adopted").await;
    place.close(cache).await;
    let cache = place.open();
    check(&cache, &stored, 0..size, "after a restart").await;
    assert_eq!(place.script.taken().0, 0);
    let wrong = place.script.store(Plain::mixed(&mut random, 9 * MIB + 100)).await;
    std::fs::write(&body, stored.plain.get(0..size)).unwrap();
    assert!(
        !cache
            .adopt_file(&wrong.content, size, &body, Adoption::Check)
            .await
    );
    assert!(body.exists(), "what is not the content stays where it is");
    let large = place
        .script
        .store(Plain {
            size: 40 * MIB,
            parts: vec![(5, vec![1])],
        })
        .await;
    assert!(
        !cache
            .adopt_file(&large.content, 40 * MIB, &body, Adoption::Checked)
            .await
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pinned_file_stays_and_holds_the_content() {
    let place = Place::new(24 * MIB);
    let mut random = Random(6);
    let pinned = place.script.store(Plain::mixed(&mut random, 7 * MIB)).await;
    let others = [place.script.store(Plain::noise(&mut random, 12 * MIB)).await];
    let cache = place.open();
    assert!(
        cache.hand_out(&pinned.content, pinned.size(), 1).await.is_none(),
        "not complete"
    );
    assert!(cache.prefetch(&pinned.content, pinned.size()).await.unwrap());
    place.close(cache).await;
    let cache = place.open();
    let pin = cache
        .hand_out(&pinned.content, pinned.size(), 1)
        .await
        .expect("complete after a restart, too");
    let reader = File::open(format!("/proc/self/fd/{}", pin.handle().as_raw_fd())).unwrap();
    assert!(
        cache.hand_out(&pinned.content, pinned.size(), 2).await.is_none(),
        "another inode has it"
    );
    for other in &others {
        for _ in 0..3 {
            check(&cache, other, 0..other.size(), "others").await;
        }
    }
    cache.clear();
    assert!(cache.contains_fully(&pinned.content, pinned.size()));
    settled(&cache).await;
    let mut bytes = vec![0; pinned.size() as usize];
    reader.read_exact_at(&mut bytes, 0).unwrap();
    assert!(bytes == pinned.plain.get(0..pinned.size()));
    drop(pin);
    cache.clear();
    assert!(cache.stats().bytes_used > 0, "somebody still has the file open");
    drop(reader);
    cache.clear();
    assert_eq!(cache.stats().bytes_used, 0);
}

#[tokio::test]
async fn a_cache_file_becomes_a_body_only_for_the_one_who_has_it() {
    let place = Place::new(64 * MIB);
    let mut random = Random(7);
    let plain = place.script.store(Plain::mixed(&mut random, 7 * MIB)).await;
    let other = place.script.store(Plain::mixed(&mut random, 6 * MIB)).await;
    let cache = place.open();
    for file in [&plain, &other] {
        assert!(cache.prefetch(&file.content, file.size()).await.unwrap());
    }
    let pin = cache
        .hand_out(&plain.content, plain.size(), 1)
        .await
        .expect("complete");
    let elsewhere = cache
        .hand_out(&other.content, other.size(), 2)
        .await
        .expect("complete");
    let to = tempfile::tempdir_in(place.options.dir.parent().unwrap()).unwrap();
    let body = to.path().join("body");
    assert!(!cache.surrender(&plain.content, plain.size(), elsewhere.handle(), &body));
    let before = cache.stats().bytes_used;
    assert!(cache.surrender(&plain.content, plain.size(), pin.handle(), &body));
    assert!(!cache.contains_fully(&plain.content, plain.size()));
    assert!(cache.stats().bytes_used < before);
    assert!(std::fs::read(&body).unwrap() == plain.plain.get(0..plain.size()));
    assert!(
        !cache.surrender(&plain.content, plain.size(), pin.handle(), &body),
        "gone"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_is_compared_with_a_content_of_each_form() {
    let place = Place::new(64 * MIB);
    let cache = place.open();
    let mut random = Random(6);
    for size in [0, 1, 100, 5000, 3 * MIB, 4 * MIB, 9 * MIB + 100] {
        let stored = place.script.store(Plain::mixed(&mut random, size)).await;
        let body = place.dir.path().join("body");
        std::fs::write(&body, stored.plain.get(0..size)).unwrap();
        let compare = || cache.is_in_file(&stored.content, size, &body);
        assert!(compare().await.unwrap(), "{size} bytes");
        let file = std::fs::OpenOptions::new()
            .read(true)
            .write(true)
            .open(&body)
            .unwrap();
        if size > 0 {
            let at = random.below(size);
            let mut byte = [0];
            file.read_exact_at(&mut byte, at).unwrap();
            file.write_all_at(&[!byte[0]], at).unwrap();
            assert!(!compare().await.unwrap(), "{size} bytes, another at {at}");
            file.write_all_at(&byte, at).unwrap();
            assert!(compare().await.unwrap(), "{size} bytes, as before");
        }
        file.set_len(size + 1).unwrap();
        assert!(!compare().await.unwrap(), "longer than {size} bytes");
        std::fs::remove_file(&body).unwrap();
        assert!(compare().await.is_err(), "no file");
    }
}
