//! A record that arrives long after its commit ended with an unknown outcome.

use std::sync::Arc;

use super::pod::{Pod, quiet};
use crate::answer::{CommitRequest, FailureKind, LocalChanges};
use crate::store::MemoryStore;
use crate::view::tests::harness::CALLER;
use crate::view::tests::model::Fs;
use crate::view::{OpenFlags, ROOT_INO};
use crate::volume::testing::{Fault, ScriptedStore, Verb};

pub async fn write(pod: &Pod, name: &[u8], bytes: &[u8]) {
    let view = pod.mount.view();
    let (known, open) = view
        .create(&CALLER, ROOT_INO, name, 0o644, OpenFlags::READ_WRITE)
        .await
        .unwrap();
    view.write(known.ino, open.fh, 0, bytes, false).await.unwrap();
    view.release(known.ino, open.fh);
    view.forget(known.ino, 1);
}

pub async fn names(pod: &Pod) -> Vec<String> {
    let shown = pod.seen().await;
    shown.into_keys().filter(|path| !path.is_empty()).collect()
}

pub fn empty() -> Fs {
    Fs::new(Default::default())
}

/// What happens between the commit of unknown outcome and the next.
#[derive(Clone, Copy, Debug)]
enum Between {
    Nothing,
    Remount,
    Killed,
    /// Another pod takes the number.
    Other,
    /// The changes are wanted no more.
    Reload,
}

async fn run(between: Between) {
    let store = ScriptedStore::new(Arc::new(MemoryStore::new()));
    let mut pod = Pod::fresh(&store, "a", empty()).await;
    write(&pod, b"kept", b"1").await;
    pod.commit().await.unwrap();
    write(&pod, b"gone", b"2").await;
    store.plan(Verb::PutIfAbsent, "/log/", Fault::LateThenDark);
    let request = CommitRequest {
        timeout_secs: Some(0),
        ..CommitRequest::default()
    };
    let failure = pod.mount.commit(request, quiet()).await.unwrap_err();
    assert_eq!(failure.kind, FailureKind::OutcomeUnknown, "{failure}");
    store.light();
    let mut want = vec!["/kept"];
    match between {
        Between::Nothing => {}
        Between::Remount => {
            let dir = pod.close().await;
            pod = Pod::open(&store, dir, "a", empty()).await;
        }
        Between::Killed => {
            let (dir, _) = pod.copy_state();
            pod.close().await;
            pod = Pod::open(&store, dir, "a", empty()).await;
        }
        Between::Other => {
            let other = Pod::fresh(&store, "b", empty()).await;
            write(&other, b"other", b"3").await;
            other.commit().await.unwrap();
            want.push("/other");
        }
        Between::Reload => drop(pod.reload(LocalChanges::Stash).await.unwrap()),
    }
    // The commit was asked for: when its number is still free it is published, and only then is the file deleted.
    assert_eq!(names(&pod).await, ["/gone", "/kept"], "{between:?}");
    let settled = matches!(between, Between::Remount | Between::Killed | Between::Reload);
    let mut delivered = Vec::new();
    if settled {
        delivered = store.deliver().await;
    }
    pod.mount.view().unlink(&CALLER, ROOT_INO, b"gone").await.unwrap();
    let committed = pod.commit().await.unwrap();
    // Its number is taken by the time that it counts as settled, whatever was published there.
    delivered.extend(store.deliver().await);
    assert_eq!(delivered, [false], "{between:?}");
    let fresh = Pod::fresh(&store, "c", empty()).await;
    assert_eq!(names(&fresh).await, want, "{between:?}");
    if matches!(between, Between::Other) {
        assert!(!committed.merged_with.is_empty());
    }
    fresh.close().await;
    pod.close().await;
}

#[tokio::test]
async fn a_late_record_brings_nothing_back() {
    for between in [
        Between::Nothing,
        Between::Remount,
        Between::Killed,
        Between::Other,
        Between::Reload,
    ] {
        run(between).await;
    }
}
