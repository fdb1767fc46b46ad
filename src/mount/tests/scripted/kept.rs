//! A mount that stands on prepared trees, one made from the other: all of each stays readable, and nothing piles up.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::late::{empty, write};
use super::pod::Pod;
use super::shown::Shown;
use crate::mount::tests::new_volume_of_small_nodes;
use crate::store::MemoryStore;
use crate::view::tests::harness::CALLER;
use crate::view::{Ino, OpenFlags, ROOT_INO, XattrMode};
use crate::volume::testing::ScriptedStore;

const DIRS: [&[u8]; 3] = [b"one", b"two", b"three"];
/// Names in each: with small nodes several pages.
const FILES: usize = 40;

async fn dir_of(pod: &Pod, name: &[u8]) -> Ino {
    let known = pod.mount.view().lookup(&CALLER, ROOT_INO, name).await;
    known.unwrap().unwrap().ino
}

async fn write_in(pod: &Pod, dir: &[u8], name: &str, bytes: &[u8]) {
    let view = pod.mount.view();
    let dir = dir_of(pod, dir).await;
    let flags = OpenFlags {
        truncate: true,
        ..OpenFlags::READ_WRITE
    };
    let (known, fh) = match view.lookup(&CALLER, dir, name.as_bytes()).await.unwrap() {
        Some(known) => (known, view.open(&CALLER, known.ino, flags).await.unwrap().fh),
        None => {
            let (known, open) = view
                .create(&CALLER, dir, name.as_bytes(), 0o644, flags)
                .await
                .unwrap();
            (known, open.fh)
        }
    };
    view.write(known.ino, fh, 0, bytes, false).await.unwrap();
    view.flush(known.ino, fh).await.unwrap();
    view.release(known.ino, fh);
    view.forget(known.ino, 1);
    view.forget(dir, 1);
}

/// Two mounts of a volume with the directories; both have looked at everything.
async fn two_pods() -> (Arc<ScriptedStore>, [Pod; 2]) {
    let store = ScriptedStore::new(Arc::new(MemoryStore::new()));
    new_volume_of_small_nodes(store.clone()).await;
    let a = Pod::fresh(&store, "a", empty()).await;
    for dir in DIRS {
        let view = a.mount.view();
        let made = view.mkdir(&CALLER, ROOT_INO, dir, 0o755).await.unwrap();
        view.forget(made.ino, 1);
        for number in 0..FILES {
            write_in(
                &a,
                dir,
                &format!("f{number}"),
                format!("first {number}").as_bytes(),
            )
            .await;
        }
    }
    a.commit().await.unwrap();
    let b = Pod::fresh(&store, "b", empty()).await;
    for pod in [&a, &b] {
        pod.seen().await;
    }
    (store, [a, b])
}

/// The other commits something, then this one, which has to merge.
async fn commit_after(pod: &Pod, other: &Pod, round: usize) {
    write(other, format!("other {round}").as_bytes(), b"o").await;
    other.commit().await.unwrap();
    let answer = pod.commit().await.unwrap();
    assert!(!answer.merged_with.is_empty());
    assert!(pod.mount.base_ref().prepared.is_some());
}

fn kept(pod: &Pod) -> usize {
    pod.mount.overlay.as_ref().unwrap().kept_bases().unwrap().len()
}

#[derive(Clone, Copy, PartialEq, Debug)]
enum End {
    AtOnce,
    Killed,
    Unmounted,
}

#[tokio::test]
async fn what_a_merged_commit_left_alone_stays_readable_after_the_next() {
    for end in [End::AtOnce, End::Killed, End::Unmounted] {
        for second in [Some(DIRS[1]), None] {
            let (store, [a, b]) = two_pods().await;
            // The kernel has directories in memory, whatever is committed.
            for dir in DIRS {
                dir_of(&a, dir).await;
            }
            write_in(&a, DIRS[0], "f7", b"changed").await;
            commit_after(&a, &b, 0).await;
            match second {
                Some(dir) => write_in(&a, dir, "f8", b"changed too").await,
                None => write(&a, b"small", b"s").await,
            }
            commit_after(&a, &b, 1).await;
            // Something local, so that the next mount stands where this one stood.
            write(&a, b"dirty", b"d").await;
            let before: Shown = a.seen().await;
            assert!(before.len() > DIRS.len() * FILES);
            a.mount.source.forget_all_local();
            let a = match end {
                End::AtOnce => a,
                End::Killed => {
                    let dir = a.copy_state().0;
                    a.close().await;
                    Pod::open(&store, dir, "a", empty()).await
                }
                End::Unmounted => {
                    let dir = a.close().await;
                    Pod::open(&store, dir, "a", empty()).await
                }
            };
            assert!(a.mount.base_ref().prepared.is_some());
            assert_eq!(a.seen().await, before, "{end:?}, {second:?}");
            // And it can be committed on.
            commit_after(&a, &b, 2).await;
            assert_eq!(a.seen().await, before, "{end:?}, {second:?}, committed");
            for pod in [a, b] {
                pod.close().await;
            }
        }
    }
}

#[tokio::test]
async fn many_merged_commits_in_a_row_keep_what_they_need_and_little_more() {
    let (_store, [a, b]) = two_pods().await;
    let mut wanted: BTreeMap<String, String> = BTreeMap::new();
    let mut most = 0;
    for round in 0..70 {
        let dir = DIRS[round % 2];
        let (name, text) = (format!("f{}", round * 7 % FILES), format!("round {round}"));
        write_in(&a, dir, &name, text.as_bytes()).await;
        wanted.insert(format!("/{}/{name}", String::from_utf8_lossy(dir)), text);
        commit_after(&a, &b, round).await;
        most = most.max(kept(&a));
    }
    // A record, a tree, and packs: gathered again and again.
    assert!(most < 30, "{most} files are kept");
    a.mount.source.forget_all_local();
    let seen = a.seen().await;
    for (path, text) in wanted {
        let id = crate::format::content_id(text.as_bytes());
        assert!(seen[&path].contains(&id.to_string()), "{path} is {}", seen[&path]);
    }
    a.reload(crate::answer::LocalChanges::IfClean).await.unwrap();
    assert_eq!(kept(&a), 1, "the record that it stands on");
    for pod in [a, b] {
        pod.close().await;
    }
}

#[tokio::test]
async fn an_open_listing_keeps_the_base_that_it_was_begun_on() {
    let (_store, [a, b]) = two_pods().await;
    write_in(&a, DIRS[0], "f0", b"changed").await;
    commit_after(&a, &b, 0).await;
    let view = a.mount.view();
    let dir = dir_of(&a, DIRS[0]).await;
    let fh = view.opendir(&CALLER, dir).await.unwrap().fh;
    let first = view.readdir(dir, fh, 0, 200).await.unwrap();
    let mut names = first.len();
    let mut cookie = first.last().unwrap().cookie;
    let mut most = 0;
    for round in 1..40 {
        write_in(&a, DIRS[0], &format!("f{round}"), b"changed").await;
        commit_after(&a, &b, round).await;
        most = most.max(kept(&a));
    }
    a.mount.source.forget_all_local();
    loop {
        let more = view.readdir(dir, fh, cookie, 200).await.unwrap();
        let Some(last) = more.last() else { break };
        cookie = last.cookie;
        names += more.len();
    }
    assert_eq!(names, FILES + 2);
    assert!(most < 30, "{most} files are kept");
    let held = kept(&a);
    view.releasedir(dir, fh);
    a.mount.drop_unneeded().unwrap();
    assert!(kept(&a) < held, "nothing was left of the listing's base: {held}");
    view.forget(dir, 1);
    drop(view);
    for pod in [a, b] {
        pod.close().await;
    }
}

#[tokio::test]
async fn large_extended_attributes_survive_a_merged_commit() {
    let (store, [a, b]) = two_pods().await;
    let view = a.mount.view();
    let value = [7; 3000];
    let dir = dir_of(&a, DIRS[0]).await;
    let file = view.lookup(&CALLER, dir, b"f1").await.unwrap().unwrap().ino;
    view.setxattr(&CALLER, file, b"user.large", &value, XattrMode::Any)
        .await
        .unwrap();
    commit_after(&a, &b, 0).await;
    let got = view.getxattr(&CALLER, file, b"user.large").await.unwrap();
    assert_eq!(got, &value[..]);
    // Changed again: the attribute goes along through the journal, a reload and a commit.
    write_in(&a, DIRS[0], "f1", b"changed").await;
    a.reload(crate::answer::LocalChanges::Keep).await.unwrap();
    commit_after(&a, &b, 1).await;
    view.forget(file, 1);
    view.forget(dir, 1);
    drop(view);
    let seen = a.seen().await;
    let fresh = Pod::fresh(&store, "c", empty()).await;
    let path = "/one/f1";
    assert!(seen[path].len() > value.len(), "{}", seen[path]);
    assert_eq!(fresh.seen().await[path], seen[path]);
    for pod in [a, b, fresh] {
        pod.close().await;
    }
}
