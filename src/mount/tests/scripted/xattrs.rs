//! Large extended attributes of a mount that had to merge.

use std::sync::Arc;

use super::late::{empty, write};
use super::pod::Pod;
use super::sweep::sweep;
use crate::store::MemoryStore;
use crate::view::tests::harness::CALLER;
use crate::view::{Ino, ROOT_INO, RenameMode, XattrMode};
use crate::volume::testing::{Rng, ScriptedStore};

/// What the view has in memory of a file would hide what the base says: it is forgotten after each use.
async fn node(pod: &Pod, name: &[u8]) -> Ino {
    let view = pod.mount.view();
    let known = view.lookup(&CALLER, ROOT_INO, name).await.unwrap().unwrap();
    known.ino
}

async fn get(pod: &Pod, name: &[u8], key: &[u8]) -> Option<Vec<u8>> {
    let ino = node(pod, name).await;
    let got = pod.mount.view().getxattr(&CALLER, ino, key).await;
    pod.mount.view().forget(ino, 1);
    got.ok().map(|bytes| bytes.to_vec())
}

async fn set(pod: &Pod, name: &[u8], key: &[u8], value: &[u8]) {
    let ino = node(pod, name).await;
    let view = pod.mount.view();
    view.setxattr(&CALLER, ino, key, value, XattrMode::Any)
        .await
        .unwrap();
    view.forget(ino, 1);
}

/// Bytes that do not compress.
fn noise(len: usize) -> Vec<u8> {
    let mut rng = Rng::new(len as u64);
    (0..len).map(|_| rng.below(256) as u8).collect()
}

/// What others have made of a file while one sets an attribute of it.
#[derive(Clone, Copy, PartialEq, Debug)]
enum Others {
    Removed,
    SetAnother,
}

/// The blob of what one has set is in no record then: neither the view, nor what is published of it later, may refer to it.
#[tokio::test]
async fn attributes_that_a_merge_left_out_depend_on_no_blob_that_no_record_has() {
    for others in [Others::Removed, Others::SetAnother] {
        let store = ScriptedStore::new(Arc::new(MemoryStore::new()));
        let pod = Pod::fresh(&store, "a", empty()).await;
        write(&pod, b"f", b"bytes").await;
        pod.commit().await.unwrap();
        let other = Pod::fresh(&store, "b", empty()).await;
        match others {
            Others::Removed => other.mount.view().unlink(&CALLER, ROOT_INO, b"f").await.unwrap(),
            Others::SetAnother => set(&other, b"f", b"user.theirs", &[b't'; 3000]).await,
        }
        other.commit().await.unwrap();

        let mine = vec![b'm'; 40_000];
        set(&pod, b"f", b"user.mine", &mine).await;
        // A pack of the commit's own, besides that of the nodes.
        for name in [b"one", b"two"] {
            write(&pod, name, &noise(3 << 20)).await;
        }
        let answer = pod.commit().await.unwrap();
        assert_eq!(answer.merged_with.len(), 1);
        assert!(pod.is_clean());
        sweep(&store, &[&pod, &other]).await;
        assert_eq!(
            get(&pod, b"f", b"user.mine").await.as_ref(),
            Some(&mine),
            "{others:?}"
        );

        // Published anew, from what the view shows.
        let view = pod.mount.view();
        let (from, to) = ((ROOT_INO, &b"f"[..]), (ROOT_INO, &b"g"[..]));
        view.rename(&CALLER, from, to, RenameMode::Replace).await.unwrap();
        drop(view);
        pod.commit().await.unwrap();
        sweep(&store, &[&pod, &other]).await;
        let fresh = Pod::fresh(&store, "c", empty()).await;
        assert_eq!(
            get(&fresh, b"g", b"user.mine").await.as_ref(),
            Some(&mine),
            "{others:?}"
        );
        for pod in [fresh, other, pod] {
            pod.close().await;
        }
    }
}
