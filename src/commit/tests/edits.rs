//! Changes without a mount.

use std::collections::BTreeMap;
use std::io::Write;

use super::mount::*;
use crate::commit::*;
use crate::model::*;
use crate::volume::testing::*;

fn attrs() -> Attrs {
    Attrs {
        mode: 0o644,
        file_id: FileId(777),
        ..Attrs::default()
    }
}

fn now() -> Timestamp {
    Timestamp { secs: 5, nanos: 0 }
}

async fn run(mount: &Mount, edits: Vec<Edit>) -> Result<BTreeMap<String, String>, CommitError> {
    let head = mount.volume.head().await.unwrap();
    let done = mount
        .commit_context()
        .run(Frozen::edits(&head, edits), head)
        .await?;
    Ok(mount.flat(&done.record.record.root.root).await)
}

fn put(at: &str, node: u64) -> Edit {
    Edit::Put {
        path: path(at),
        node,
        attrs: attrs(),
        parents: Some(Attrs {
            mode: 0o755,
            ..attrs()
        }),
    }
}

fn copy(from: &str, to: &str) -> Edit {
    Edit::Copy {
        from: path(from),
        to: path(to),
        recursive: true,
        file_id: FileId(888),
        now: now(),
    }
}

fn remove(at: &str, recursive: bool) -> Edit {
    Edit::Remove {
        path: path(at),
        recursive,
        now: now(),
    }
}

fn sends_chunks(store: &ScriptedStore) -> bool {
    let calls = store.take_calls();
    calls
        .iter()
        .any(|(verb, key, _)| matches!(verb, Verb::Put | Verb::PutIfAbsent) && key.contains("/d/"))
}

#[tokio::test]
async fn put_copy_and_remove_make_one_record() {
    let store = scripted();
    let mut mount = Mount::new(new_volume(&store, "v").await);
    mount.mkdir("/links").await;
    mount.write("/links/a", "linked").await;
    mount.link("/links/a", "/links/b").await;
    mount.commit().await.unwrap();
    mount.bodies.files.lock().insert(1, vec![9u8; 5 << 20].into());
    mount.bodies.files.lock().insert(2, "two".into());
    let shown = run(
        &mount,
        vec![
            put("/x/y/big", 1),
            put("/x/two", 2),
            copy("/x", "/z"),
            remove("/x/two", false),
        ],
    );
    let shown = shown.await.unwrap();
    let names: Vec<&str> = shown.keys().map(String::as_str).collect();
    assert_eq!(
        names,
        [
            "/", "/links", "/links/a", "/links/b", "/x", "/x/y", "/x/y/big", "/z", "/z/two", "/z/y",
            "/z/y/big"
        ]
    );
    assert_eq!(shown["/z/y/big"], shown["/x/y/big"]);
    // Copies of hard links are files of their own, and removing names counts them.
    store.take_calls();
    let shown = run(&mount, vec![copy("/links", "/copied"), remove("/links/b", false)])
        .await
        .unwrap();
    assert_eq!(shown["/copied/a"], "f 644 linked");
    assert_eq!(shown["/links/a"], "l 644 linked");
    assert!(!sends_chunks(&store), "copies move no bytes");
    let shown = run(&mount, vec![remove("/links", true), remove("/z", true)])
        .await
        .unwrap();
    assert!(!shown.contains_key("/links/a") && !shown.contains_key("/z/two"));
    // Putting what is there already sends no bytes.
    store.take_calls();
    run(&mount, vec![put("/x/y/big", 1)]).await.unwrap();
    assert!(!sends_chunks(&store));
}

#[tokio::test]
async fn edits_that_make_no_sense_publish_nothing() {
    let store = scripted();
    let mut mount = Mount::new(new_volume(&store, "v").await);
    mount.mkdir("/d").await;
    mount.write("/f", "1").await;
    mount.commit().await.unwrap();
    mount.bodies.files.lock().insert(1, "x".into());
    let mkdir = |at: &str| Edit::Mkdir {
        path: path(at),
        attrs: attrs(),
        parents: None,
    };
    for (edit, reason) in [
        (put("/d", 1), "is a directory"),
        (put("/f/x", 1), "is not a directory"),
        (remove("/d", false), "is a directory"),
        (remove("/none", true), "does not exist"),
        (remove("/", true), "is the root"),
        (copy("/none", "/x"), "does not exist"),
        (mkdir("/d"), "exists"),
        (mkdir("/no/dir"), "does not exist"),
    ] {
        match run(&mount, vec![edit.clone()]).await {
            Err(CommitError::Path { reason: said, .. }) => assert_eq!(said, reason, "{edit:?}"),
            other => panic!("{edit:?}: {other:?}"),
        }
    }
    assert_eq!(mount.volume.head().await.unwrap().seq(), 1);
    run(&mount, vec![mkdir("/d/e"), put("/d/e/f", 1), remove("/f", false)])
        .await
        .unwrap();
}

#[tokio::test]
async fn local_files_are_read_as_they_are() {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(b"from disk").unwrap();
    let mut files = LocalFiles::default();
    let node = files.add(file.path().to_owned(), &file.path().metadata().unwrap());
    assert_eq!(files.size(node).await.unwrap(), 9);
    assert_eq!(&files.read(node, 5, 6).await.unwrap()[..], b"disk\0\0");
    let other = tempfile::NamedTempFile::new().unwrap();
    let gone = files.add(other.path().to_owned(), &other.path().metadata().unwrap());
    drop(other);
    assert!(matches!(
        files.size(gone).await,
        Err(crate::tree::TreeError::Local { .. })
    ));
    file.write_all(b", and more").unwrap();
    let changed = files.read(node, 0, 9).await.unwrap_err().to_string();
    assert!(changed.contains("changed while it was read"), "{changed}");
}

#[tokio::test]
async fn a_quota_is_kept_but_never_stops_removals() {
    let store = scripted();
    let mut options = create_options("v");
    options.config.quota_bytes = 1000;
    let volume = crate::volume::Volume::create(store.clone(), clock_of(&store), &options)
        .await
        .unwrap();
    let mut mount = Mount::new(volume.into_opened());
    mount.write("/a", vec![1u8; 900]).await;
    mount.commit().await.unwrap();
    mount.write("/b", vec![1u8; 200]).await;
    assert!(matches!(
        mount.commit().await,
        Err(CommitError::Quota {
            bytes: 1100,
            quota: 1000
        })
    ));
    mount.remove("/a").await;
    mount.commit().await.unwrap();
    assert_eq!(mount.view().await.keys().collect::<Vec<_>>(), ["/", "/b"]);
}
