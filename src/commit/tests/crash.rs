//! Crashes, lost answers and fences in the middle of a commit.

use std::time::Duration;

use bytes::Bytes;

use super::mount::*;
use crate::commit::*;
use crate::volume::testing::*;
use crate::volume::tests::{publish_fence, trim};

/// What a mount does after a restart with a frozen commit in its journal.
async fn recover(mount: &mut Mount) -> bool {
    let attempts = mount.state.attempts.lock().clone();
    let Some(last) = attempts.last() else { return false };
    match settle(&mount.volume, &mount.nodes, last.txn, last.since)
        .await
        .unwrap()
    {
        Settled::Published { found, head } => {
            let attempt = attempts
                .iter()
                .find(|attempt| attempt.record.hash == found.hash)
                .unwrap();
            let base = attempt.base_at(&attempt.record);
            mount.published(&base, &attempt.contents, head);
            true
        }
        Settled::NotPublished { .. } => false,
    }
}

/// Runs a commit that is dropped at its `stop`th request, then restarts: every change is published once, and what had
/// arrived is not sent again.
#[tokio::test]
async fn a_commit_that_is_interrupted_anywhere_is_taken_up_again() {
    let big = Bytes::from(vec![7u8; 9 << 20]);
    for with_other in [false, true] {
        let mut stop = 0;
        loop {
            let store = scripted();
            let mut mount = Mount::new(new_volume(&store, "v").await);
            mount.write("/small", "one").await;
            mount.write("/blob", vec![b'x'; 5000]).await;
            mount.write("/big", big.clone()).await;
            if with_other {
                let mut other = Mount::new(reopen(&store, "v").await);
                other.by = "other".to_owned();
                other.write("/other", "theirs").await;
                other.commit().await.unwrap();
            }
            let frozen = mount.freeze();
            // Each request gives others a turn before it is sent.
            store.by_chance(stop as u64, 0, 2);
            store.take_calls();
            let context = mount.commit_context();
            let head = mount.head.clone();
            let running = context.run(frozen.clone(), head);
            let finished = tokio::select! {
                biased;
                done = running => { done.unwrap(); true }
                () = until_calls(&store, stop) => false,
            };
            let sent_before = sent_chunks(&store.take_calls());
            if !recover(&mut mount).await {
                // Nothing was published: the same frozen state again.
                let head = mount.volume.refresh(&mount.head).await.unwrap().head;
                store.take_calls();
                let done = mount.commit_context().run(frozen, head).await.unwrap();
                let again = sent_chunks(&store.take_calls());
                assert_eq!(
                    sent_before.len() + again.len(),
                    1,
                    "stop {stop}: {sent_before:?} {again:?}"
                );
                mount.published(&done.base, &done.contents, done.head.clone());
            }
            let shown = mount.view().await;
            assert_eq!(shown["/small"], "f 644 one", "stop {stop}");
            assert!(
                !shown.contains_key("/other"),
                "others' changes come with a reload"
            );
            let fresh = Mount::new(reopen(&store, "v").await);
            let mut want = shown.clone();
            if with_other {
                want.insert("/other".to_owned(), "f 644 theirs".to_owned());
            }
            assert_eq!(fresh.view().await, want, "stop {stop}");
            assert_eq!(fresh.head.seq(), 1 + u64::from(with_other), "stop {stop}: once");
            // The mount goes on.
            mount.write("/small", "two").await;
            mount.commit().await.unwrap();
            want.insert("/small".to_owned(), "f 644 two".to_owned());
            assert_eq!(
                Mount::new(reopen(&store, "v").await).view().await,
                want,
                "stop {stop}"
            );
            if finished {
                break;
            }
            stop += 1;
        }
        assert!(stop >= 3, "{stop}");
    }
}

async fn until_calls(store: &ScriptedStore, count: usize) {
    while store.count_calls() < count {
        tokio::task::yield_now().await;
    }
}

fn sent_chunks(calls: &[(Verb, String, u64)]) -> Vec<String> {
    calls
        .iter()
        .filter(|(verb, key, _)| *verb == Verb::PutIfAbsent && key.contains("/d/"))
        .map(|c| c.1.clone())
        .collect()
}

#[tokio::test]
async fn an_outcome_that_cannot_be_known_is_an_error_of_its_own() {
    let store = scripted();
    let mut mount = Mount::new(new_volume(&store, "v").await);
    mount.write("/a", "1").await;
    store.plan(Verb::PutIfAbsent, "/log/", Fault::AnswerLostThenDark);
    let frozen = mount.freeze();
    let mut commit = mount.commit_context();
    commit.options.deadline = Duration::from_millis(300);
    let uploaded = frozen.upload(&commit, 1).await.unwrap();
    let Err(CommitError::Unknown { txn, since, .. }) = uploaded.publish(&commit, mount.head.clone()).await
    else {
        panic!("an outcome that is not known")
    };
    assert_eq!(since, 0);
    store.light();
    let settled = settle(&mount.volume, &mount.nodes, txn, since).await.unwrap();
    assert!(matches!(settled, Settled::Published { found, .. } if found.seq == 1));
    assert!(recover(&mut mount).await);
    assert!(mount.overlay.is_clean());
}

#[tokio::test]
async fn fences_between_upload_and_publish_make_it_upload_again() {
    let store = scripted();
    let mut mount = Mount::new(new_volume(&store, "v").await);
    mount.write("/base", vec![1u8; 5000]).await;
    mount.write("/large", vec![3u8; 5 << 20]).await;
    mount.commit().await.unwrap();
    // Moves a file of the base, so that R adds old references to the head.
    mount.rename("/base", "/moved").await;
    mount.rename("/large", "/moved-large").await;
    mount.write("/new", vec![2u8; 5 << 20]).await;
    let frozen = mount.freeze();
    let commit = mount.commit_context();
    let uploaded = frozen.upload(&commit, 1).await.unwrap();
    // Three fences, none of which keeps the record that the view came from, while somebody else replaces the file.
    let mut other = Mount::new(reopen(&store, "v").await);
    other.by = "other".to_owned();
    other.remove("/base").await;
    other.remove("/large").await;
    other.commit().await.unwrap();
    for _ in 0..3 {
        store.memory.advance_time(Duration::from_secs(2 * 86400));
        let head = mount.volume.head().await.unwrap();
        publish_fence(&mount.volume, &head, &[head.seq()]).await;
    }
    let done = uploaded.publish(&commit, mount.head.clone()).await.unwrap();
    // The collector deletes what is not reachable from what it keeps: epochs 1 and 2 at least are not in the new record.
    let doomed: Vec<String> = store
        .memory
        .keys()
        .into_iter()
        .filter(|key| {
            key.contains("/d/00000001") || key.contains("/d/00000002") || key.contains("/p/00000001")
        })
        .collect();
    crate::store::ObjectStore::delete(&*store, &doomed).await.unwrap();
    trim(&mount.volume, [0, 1]).await;
    let fresh = Mount::new(reopen(&store, "v").await);
    assert_eq!(fresh.head.seq(), done.record.seq());
    let shown = fresh.view().await;
    assert_eq!(
        shown.keys().collect::<Vec<_>>(),
        ["/", "/moved", "/moved-large", "/new"]
    );
}
