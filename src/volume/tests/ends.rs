//! What is told of a volume that is being deleted, was brought back, or is gone.

use super::*;
use crate::format::Record;
use crate::store::{ObjectStore, PutMode};

/// A record after `head` as a later version would make it, whatever that is.
async fn put_after(
    store: &Arc<ScriptedStore>,
    volume: &Volume,
    head: &Head,
    kind: RecordKind,
    n: u64,
) -> Head {
    let parent = head.record();
    let record = Record {
        seq: parent.seq + 1,
        parent: Some(head.hash()),
        kind,
        txn: txn(n),
        base: Some(parent.seq),
        server_time: Some(store.memory.time()),
        ..Record::clone(parent)
    };
    let bytes = record.encode().unwrap().bytes;
    let key = Key::Record(volume.id(), record.seq).to_string();
    store.memory.put(&key, bytes, PutMode::IfAbsent).await.unwrap();
    let (newest, _) = volume.fetch_record(record.seq).await.unwrap().unwrap();
    Head {
        newest,
        read_at: Some(store.memory.time()),
        looked_at: volume.clock().steady(),
    }
}

#[tokio::test]
async fn a_look_goes_past_a_deletion_that_was_taken_back() {
    let store = scripted();
    let Opened { volume, head } = new_volume(&store, "data").await;
    let known = publish_ok(&volume, &head, 1).await;
    let end = put_after(&store, &volume, &known, RecordKind::Delete, 2).await;
    assert!(matches!(
        volume.refresh(&known).await,
        Err(VolumeError::Deleted { seq: 2, .. })
    ));
    let back = put_after(&store, &volume, &end, RecordKind::Restore, 3).await;
    let refreshed = volume.refresh(&known).await.unwrap();
    assert_eq!(refreshed.head.hash(), back.hash());
    assert_eq!(refreshed.newer.len(), 2);
    assert!(refreshed.complete);
    // From the deletion itself, and it can be published on.
    let refreshed = volume.refresh(&end).await.unwrap();
    publish_ok(&volume, &refreshed.head, 4).await;
}

#[tokio::test]
async fn what_was_published_before_a_deletion_was_published() {
    let hours = 3600;
    for (after, swept) in [(0, false), (1, false), (1, true), (3, false), (3, true)] {
        let store = scripted();
        let Opened { volume, head } = new_volume(&store, "data").await;
        let mine = volume.prepare(&head, next(&head, 1)).unwrap();
        let src = RemoteSource::new(volume.clone());
        // Its answer is lost, and it is looked for hours later.
        store.plan(Verb::PutIfAbsent, "/log/", Fault::AnswerLost);
        store.hold(Verb::Get, "/log/");
        let publishing = {
            let (volume, mine, src) = (volume.clone(), mine.clone(), RemoteSource::new(volume.clone()));
            tokio::spawn(async move { volume.publish(&src, &mine).await })
        };
        store.until_held().await;
        let mut head = volume.head().await.unwrap();
        for n in 0..after {
            head = publish_ok(&volume, &head, 10 + n).await;
        }
        let end = put_after(&store, &volume, &head, RecordKind::Delete, 20).await;
        if swept {
            trim(&volume, 2..end.seq()).await;
        }
        store.memory.advance_time(Duration::from_secs(hours));
        store.let_go();
        let outcome = publishing.await.unwrap();
        // Where records between are gone nothing can be proved, and nothing be brought back.
        let provable = !swept;
        match outcome {
            Ok(PublishOutcome::Published { record, head }) => {
                assert!(provable, "{after} {swept}");
                assert_eq!(record.hash, mine.logged.hash);
                assert!(head.is_end());
            }
            Err(VolumeError::Deleted { .. }) => assert!(!provable, "{after} {swept}"),
            other => panic!("{after} {swept}: {other:?}"),
        }
        drop(src);
    }
}

/// A writer that sleeps from before the deletion until nothing is left, and then uses a number that is free again.
#[tokio::test]
async fn nobody_commits_into_a_volume_that_is_gone() {
    let store = scripted();
    let Opened { volume, head } = new_volume(&store, "data").await;
    let head = publish_ok(&volume, &head, 1).await;
    let late = volume.prepare(&head, next(&head, 2)).unwrap();
    volume.delete("data", "me").await.unwrap();
    store.memory.advance_time(Duration::from_secs(15 * 86_400));
    let src = RemoteSource::new(volume.clone());
    let outcome = volume.publish(&src, &late).await;
    assert!(matches!(outcome, Err(VolumeError::Purged { .. })), "{outcome:?}");
    assert!(store.memory.keys().is_empty(), "{:?}", store.memory.keys());

    // One that dies there leaves a record, which nobody takes for a volume.
    let key = Key::Record(volume.id(), late.logged.seq()).to_string();
    let bytes = late.logged.bytes.clone();
    store.memory.put(&key, bytes, PutMode::IfAbsent).await.unwrap();
    let by_id = VolumeRef::Id(volume.id());
    let opened = Volume::open(store.clone(), clock_of(&store), &by_id).await;
    assert!(
        matches!(opened, Err(VolumeError::Purged { seq: 2, .. })),
        "{opened:?}"
    );
    let found = Volume::find_to_delete(store.clone(), clock_of(&store), &by_id).await;
    let ToDelete::Begun(left) = found.unwrap() else {
        panic!("nothing to delete")
    };
    left.delete(&volume.id().to_string(), "me").await.unwrap();
    assert!(store.memory.keys().is_empty(), "{:?}", store.memory.keys());
}

#[tokio::test]
async fn only_an_old_head_costs_one_request_more() {
    let store = scripted();
    let Opened { volume, head } = new_volume(&store, "data").await;
    let cost = async || {
        store.take_calls();
        volume.head().await.unwrap();
        store.take_calls().len()
    };
    assert_eq!(cost().await, 2, "record 0 is dated");
    publish_ok(&volume, &head, 1).await;
    store.memory.advance_time(Duration::from_secs(6 * 86_400));
    assert_eq!(cost().await, 2);
    store.memory.advance_time(Duration::from_secs(86_400));
    assert_eq!(cost().await, 3);
}

/// A deletion that sleeps before its last step, while another finishes it and the name is given to a new volume.
#[tokio::test]
async fn a_deletion_that_slept_does_not_take_the_name_from_who_has_it_now() {
    let store = scripted();
    let Opened { volume, head } = new_volume(&store, "data").await;
    publish_ok(&volume, &head, 1).await;
    store.hold(Verb::Delete, "names/");
    let slow = {
        let volume = volume.clone();
        tokio::spawn(async move { volume.delete("data", "slow").await })
    };
    store.until_held().await;
    volume.delete("data", "fast").await.unwrap();
    let new = new_volume(&store, "data").await.volume;
    store.let_go();
    slow.await.unwrap().unwrap();
    let found = reopen(&store, "data").await.volume;
    assert_eq!(found.id(), new.id());
}
