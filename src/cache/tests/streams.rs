//! Frames out of answers that come piece by piece, and break off.

use super::fixture::{Place, Plain, Random, check, settled};

const MIB: u64 = 1 << 20;

#[tokio::test(flavor = "multi_thread")]
async fn a_frame_is_given_out_before_the_rest_of_its_range_has_come() {
    let place = Place::new(64 * MIB);
    let stored = place.script.store(Plain::noise(&mut Random(1), 16 * MIB)).await;
    let cache = place.open();
    // What is known of a chunk makes no difference: the second has its header from before.
    check(&cache, &stored, 9 * MIB..9 * MIB + 10, "the second header").await;
    settled(&cache).await;
    place.script.taken();
    place.script.pass.send_replace(5 * MIB / 2);
    let bringing = {
        let (cache, stored) = (cache.clone(), stored.clone());
        tokio::spawn(async move { cache.prefetch(&stored.content, stored.size()).await })
    };
    while place.script.gets.lock().len() < 3 {
        tokio::task::yield_now().await;
    }
    for frame in [0, 1, 8, 10, 11] {
        check(
            &cache,
            &stored,
            frame * MIB..(frame + 1) * MIB,
            "while the rest is held",
        )
        .await;
    }
    assert!(
        cache
            .read_local(&stored.content, stored.size(), 3 * MIB, 10)
            .is_none()
    );
    assert!(!bringing.is_finished());
    place.script.pass.send_replace(u64::MAX);
    bringing.await.unwrap().unwrap();
    settled(&cache).await;
    assert_eq!(
        place.script.taken().0,
        3,
        "one chunk, and one without its second frame"
    );
    check(&cache, &stored, 0..stored.size(), "all of it").await;
    assert_eq!(place.script.taken().0, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_range_that_breaks_off_goes_on_where_it_broke() {
    let place = Place::new(64 * MIB);
    let stored = place.script.store(Plain::noise(&mut Random(2), 8 * MIB)).await;
    let cache = place.open();
    let breaks = [10, 400, MIB, 3 * MIB - 7, 1];
    place.script.breaks.lock().extend(breaks.map(Some));
    cache.prefetch(&stored.content, stored.size()).await.unwrap();
    settled(&cache).await;
    let starts: Vec<u64> = place
        .script
        .gets
        .lock()
        .iter()
        .map(|(_, range)| range.start)
        .collect();
    let mut at = 0;
    let expected = std::iter::once(0).chain(breaks.map(|came| {
        at += came;
        at
    }));
    assert_eq!(starts, expected.collect::<Vec<_>>());
    check(&cache, &stored, 0..stored.size(), "all of it").await;
}

/// Frames of all kinds, breaks anywhere, a damaged byte now and then, files of one and of many segments.
#[tokio::test(flavor = "multi_thread")]
async fn whatever_breaks_off_every_byte_is_right() {
    for seed in 0..24 {
        let mut random = Random(seed);
        // Under half of the first cap a content is in one file; over half of the second it is in several.
        let place = Place::new(if seed % 2 == 0 { 128 } else { 40 } * MIB);
        let size = random.below(24 * MIB) + 5 * MIB;
        let stored = place.script.store(Plain::mixed(&mut random, size)).await;
        let cache = place.open();
        let breaks = (0..random.below(8)).map(|_| {
            let (whole, bits) = (random.below(3) == 0, random.below(24));
            (!whole).then(|| random.below(1 << bits))
        });
        place.script.breaks.lock().extend(breaks.collect::<Vec<_>>());
        *place.script.flips.lock() = u32::from(seed % 3 == 0);
        if seed % 2 == 0 {
            cache.prefetch(&stored.content, size).await.unwrap();
        }
        for _ in 0..40 {
            let at = random.below(size);
            let len = random.below(3 * MIB).min(size - at) + 1;
            check(&cache, &stored, at..(at + len).min(size), &format!("seed {seed}")).await;
        }
        place.close(cache).await;
    }
}
