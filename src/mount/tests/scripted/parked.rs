//! Local changes whose base the volume does not keep any more.

use std::sync::Arc;
use std::time::Duration;

use super::late::{empty, names, write};
use super::pod::Pod;
use crate::store::MemoryStore;
use crate::view::tests::harness::CALLER;
use crate::view::{ROOT_INO, RenameMode};
use crate::volume::testing::ScriptedStore;
use crate::volume::tests::{publish_fence, trim};

#[tokio::test]
async fn changes_on_a_base_that_is_gone_are_put_on_the_newest_record() {
    let store = ScriptedStore::new(Arc::new(MemoryStore::new()));
    let pod = Pod::fresh(&store, "a", empty()).await;
    for name in [&b"both"[..], b"theirs", b"moved"] {
        write(&pod, name, b"old").await;
    }
    pod.commit().await.unwrap();
    let from = pod.mount.summary().base;
    write(&pod, b"both", b"mine").await;
    write(&pod, b"new", b"mine").await;
    let view = pod.mount.view();
    let (old, new) = ((ROOT_INO, &b"moved"[..]), (ROOT_INO, &b"there"[..]));
    view.rename(&CALLER, old, new, RenameMode::Replace).await.unwrap();
    drop(view);
    let dir = pod.close().await;

    let other = Pod::fresh(&store, "b", empty()).await;
    write(&other, b"both", b"others").await;
    write(&other, b"theirs", b"others").await;
    other.commit().await.unwrap();
    let mut fence = other.mount.volume.head().await.unwrap();
    for _ in 0..3 {
        store.memory.advance_time(Duration::from_secs(2 * 86400));
        let keep = [fence.seq()];
        fence = publish_fence(&other.mount.volume, &fence, &keep).await;
    }
    trim(&other.mount.volume, 0..=from).await;
    other.close().await;

    let pod = Pod::open(&store, dir, "a", empty()).await;
    let warning = pod.warnings.join("\n");
    assert!(
        warning.contains(&format!("does not keep record {from}")),
        "{warning}"
    );
    assert!(
        warning.contains("both") && !warning.contains("theirs"),
        "{warning}"
    );
    assert_eq!(pod.mount.summary().base, fence.seq());
    assert_eq!(names(&pod).await, ["/both", "/new", "/theirs", "/there"]);
    let seen = pod.seen().await;
    pod.commit().await.unwrap();
    let fresh = Pod::fresh(&store, "c", empty()).await;
    assert_eq!(fresh.seen().await, seen);
    assert!(seen["/theirs"].contains(&format!("{} ", b"others".len())));
    assert!(seen["/both"].contains(&format!("{} ", b"mine".len())));
    fresh.close().await;
    pod.close().await;
}

#[tokio::test]
async fn so_are_changes_whose_base_is_kept_but_not_all_that_it_was_drawn_from() {
    let store = ScriptedStore::new(Arc::new(MemoryStore::new()));
    let pod = Pod::fresh(&store, "a", empty()).await;
    write(&pod, b"base", b"old").await;
    pod.commit().await.unwrap();
    let drawn_from = pod.mount.summary().base;
    let other = Pod::fresh(&store, "b", empty()).await;
    write(&other, b"theirs", b"others").await;
    other.commit().await.unwrap();
    // Merged: what is clean in the view still comes from the record before.
    write(&pod, b"mine", b"mine").await;
    pod.commit().await.unwrap();
    let base = pod.mount.summary().base;
    write(&pod, b"new", b"mine").await;
    let dir = pod.close().await;

    let mut fence = other.mount.volume.head().await.unwrap();
    for _ in 0..3 {
        store.memory.advance_time(Duration::from_secs(2 * 86400));
        fence = publish_fence(&other.mount.volume, &fence, &[base]).await;
    }
    trim(&other.mount.volume, 0..=drawn_from).await;
    other.close().await;

    let pod = Pod::open(&store, dir, "a", empty()).await;
    let warning = pod.warnings.join("\n");
    assert!(
        warning.contains(&format!("does not keep record {drawn_from}")),
        "{warning}"
    );
    assert_eq!(pod.mount.summary().base, fence.seq());
    assert_eq!(names(&pod).await, ["/base", "/mine", "/new", "/theirs"]);
    pod.close().await;
}
