//! Files that stay open while the view moves on: what they are read from is named by the lease, and gets into no record by
//! itself.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::late::{empty, write};
use super::pod::Pod;
use crate::answer::LocalChanges;
use crate::model::Seq;
use crate::store::MemoryStore;
use crate::view::tests::harness::CALLER;
use crate::view::{CopySide, Fh, Ino, OpenFlags, ROOT_INO};
use crate::volume::testing::ScriptedStore;

const LEN: usize = 3000;

fn sources(pod: &Pod) -> BTreeSet<Seq> {
    pod.mount.sources()
}

async fn open(pod: &Pod, name: &[u8], flags: OpenFlags) -> (Ino, Fh) {
    let view = pod.mount.view();
    let known = view.lookup(&CALLER, ROOT_INO, name).await.unwrap().unwrap();
    let open = view.open(&CALLER, known.ino, flags).await.unwrap();
    (known.ino, open.fh)
}

/// A mount that has a file open which another has removed since, and the record that it came from.
async fn reloaded_with_an_open_file() -> (Pod, Pod, (Ino, Fh), Seq) {
    let store = ScriptedStore::new(Arc::new(MemoryStore::new()));
    let other = Pod::fresh(&store, "b", empty()).await;
    write(&other, b"model", &[b'm'; LEN]).await;
    other.commit().await.unwrap();
    let pod = Pod::fresh(&store, "a", empty()).await;
    let opened = open(&pod, b"model", OpenFlags::READ).await;
    let from = pod.mount.summary().base;
    other
        .mount
        .view()
        .unlink(&CALLER, ROOT_INO, b"model")
        .await
        .unwrap();
    other.commit().await.unwrap();
    pod.reload(LocalChanges::IfClean).await.unwrap();
    assert_eq!(pod.mount.base_ref().sources, [from + 1]);
    (pod, other, opened, from)
}

#[tokio::test]
async fn a_file_that_a_reload_left_open_stays_among_the_sources_until_it_is_closed() {
    let (pod, other, (ino, fh), from) = reloaded_with_an_open_file().await;
    let view = pod.mount.view();
    assert_eq!(sources(&pod), BTreeSet::from([from, from + 1]));
    for round in 0..3 {
        write(&other, b"more", format!("{round}").as_bytes()).await;
        other.commit().await.unwrap();
        pod.reload(LocalChanges::IfClean).await.unwrap();
    }
    let at = pod.mount.summary().base;
    assert_eq!(sources(&pod), BTreeSet::from([from, at]));
    assert_eq!(view.read(ino, fh, 0, LEN).await.unwrap(), vec![b'm'; LEN]);
    view.release(ino, fh);
    assert_eq!(sources(&pod), BTreeSet::from([at]));
    drop(view);
    for pod in [pod, other] {
        pod.close().await;
    }
}

/// After a commit that nobody else came between the view draws from that record alone; a file that the commit deletes does not.
#[tokio::test]
async fn so_does_a_file_that_a_commit_left_open() {
    let (pod, other, (ino, fh), from) = reloaded_with_an_open_file().await;
    write(&pod, b"own", &[b'o'; LEN]).await;
    pod.commit().await.unwrap();
    let view = pod.mount.view();
    view.release(ino, fh);
    let (own, fh) = open(&pod, b"own", OpenFlags::READ_WRITE).await;
    let with = pod.mount.summary().base;
    view.unlink(&CALLER, ROOT_INO, b"own").await.unwrap();
    pod.commit().await.unwrap();
    assert_eq!(pod.mount.base_ref().sources, [with + 1]);
    assert_eq!(sources(&pod), BTreeSet::from([with, with + 1]));
    assert_eq!(view.read(own, fh, 0, LEN).await.unwrap(), vec![b'o'; LEN]);
    view.release(own, fh);
    assert_eq!(sources(&pod), BTreeSet::from([with + 1]));
    assert!(with > from);
    drop(view);
    for pod in [pod, other] {
        pod.close().await;
    }
}

/// Bytes that a file was written with, and that were published while it was open, come from the record that has them.
#[tokio::test]
async fn a_file_that_was_published_while_open_draws_from_the_record_that_has_it() {
    let (pod, other, (ino, fh), _) = reloaded_with_an_open_file().await;
    let view = pod.mount.view();
    view.release(ino, fh);
    write(&pod, b"log", &[b'1'; LEN]).await;
    let (ino, fh) = open(&pod, b"log", OpenFlags::READ).await;
    pod.commit().await.unwrap();
    let with = pod.mount.summary().base;
    other.reload(LocalChanges::IfClean).await.unwrap();
    other
        .mount
        .view()
        .unlink(&CALLER, ROOT_INO, b"log")
        .await
        .unwrap();
    other.commit().await.unwrap();
    pod.reload(LocalChanges::IfClean).await.unwrap();
    assert_eq!(sources(&pod), BTreeSet::from([with, with + 1]));
    view.release(ino, fh);
    drop(view);
    for pod in [pod, other] {
        pod.close().await;
    }
}

#[tokio::test]
async fn a_listing_that_goes_on_after_a_reload_keeps_what_it_is_read_from() {
    let (pod, other, (ino, fh), _) = reloaded_with_an_open_file().await;
    let view = pod.mount.view();
    view.release(ino, fh);
    let at = pod.mount.summary().base;
    let listing = view.opendir(&CALLER, ROOT_INO).await.unwrap().fh;
    view.readdir(ROOT_INO, listing, 0, 1).await.unwrap();
    write(&other, b"more", b"m").await;
    other.commit().await.unwrap();
    pod.reload(LocalChanges::IfClean).await.unwrap();
    assert_eq!(sources(&pod), BTreeSet::from([at, at + 1]));
    view.releasedir(ROOT_INO, listing);
    assert_eq!(sources(&pod), BTreeSet::from([at + 1]));
    drop(view);
    for pod in [pod, other] {
        pod.close().await;
    }
}

/// True if the overlay names bytes of the store by a descriptor alone.
fn shares(pod: &Pod) -> bool {
    let state = pod.mount.overlay.as_ref().unwrap().read();
    let mut files = state.nodes.values().filter_map(|node| node.body.as_file());
    files.any(|file| file.body.is_none() && file.base.is_some())
}

/// What was opened before a reload is no source of the view: a descriptor of it would be published without proof that the object
/// is kept.
#[tokio::test]
async fn a_copy_of_a_file_that_a_reload_left_open_has_bytes_of_its_own() {
    let (pod, other, old, _) = reloaded_with_an_open_file().await;
    let view = pod.mount.view();
    write(&other, b"now", &[b'n'; LEN]).await;
    other.commit().await.unwrap();
    pod.reload(LocalChanges::IfClean).await.unwrap();
    let now = open(&pod, b"now", OpenFlags::READ).await;
    for (name, (ino, fh), shared) in [(&b"old copy"[..], old, false), (b"new copy", now, true)] {
        write(&pod, name, b"").await;
        let to = open(&pod, name, OpenFlags::READ_WRITE).await;
        let from = CopySide { ino, fh, offset: 0 };
        let side = CopySide {
            ino: to.0,
            fh: to.1,
            offset: 0,
        };
        let copied = view.copy_file_range(from, side, LEN as u64).await.unwrap();
        assert_eq!(copied, LEN as u64);
        assert_eq!(shares(&pod), shared, "{name:?}");
        view.release(to.0, to.1);
        view.release(ino, fh);
    }
    pod.commit().await.unwrap();
    for (name, byte) in [(&b"old copy"[..], b'm'), (b"new copy", b'n')] {
        let (ino, fh) = open(&pod, name, OpenFlags::READ).await;
        assert_eq!(view.read(ino, fh, 0, LEN).await.unwrap(), vec![byte; LEN]);
        view.release(ino, fh);
    }
    drop(view);
    for pod in [pod, other] {
        pod.close().await;
    }
}
