use std::fs::{self, File};

use rustix::fs::CWD;

use super::root::MARKER;
use super::*;

/// A store that was founded in a directory.
async fn founded(root: impl Into<PathBuf>) -> DirStore {
    let store = DirStore::open(root);
    store.establish().await.unwrap();
    store
}

#[tokio::test]
async fn listing_is_by_key_bytes_although_directories_nest() {
    let dir = tempfile::tempdir().unwrap();
    let store = founded(dir.path().join("root")).await;
    let keys = ["a-b", "a.c", "a/d", "a/e/f", "a/e-", "a0", "b"];
    for key in keys {
        store
            .put(key, Bytes::from_static(b"x"), PutMode::IfAbsent)
            .await
            .unwrap();
    }
    let mut sorted: Vec<&str> = keys.to_vec();
    sorted.sort_unstable();
    let mut paged = Vec::new();
    let mut after: Option<String> = None;
    loop {
        let page = store.list("", after.as_deref(), 2).await.unwrap();
        paged.extend(page.objects.iter().map(|object| object.key.clone()));
        after = paged.last().cloned();
        if !page.truncated {
            break;
        }
    }
    assert_eq!(paged, sorted);
    let page = store.list("a/e", Some("a/e-"), 10).await.unwrap();
    assert_eq!(page.objects.len(), 1);
    assert_eq!(page.objects[0].key, "a/e/f");
}

#[tokio::test]
async fn nothing_temporary_stays_and_only_stale_files_are_swept() {
    let dir = tempfile::tempdir().unwrap();
    let store = founded(dir.path()).await;
    store
        .put("a/b", Bytes::from_static(b"x"), PutMode::IfAbsent)
        .await
        .unwrap();
    store
        .put("a/b", Bytes::from_static(b"y"), PutMode::Overwrite)
        .await
        .unwrap();
    store
        .put("a/b", Bytes::from_static(b"z"), PutMode::IfAbsent)
        .await
        .unwrap_err();
    let temp = dir.path().join(TEMP_DIR);
    assert_eq!(fs::read_dir(&temp).unwrap().count(), 0);
    fs::write(temp.join("left"), b"x").unwrap();
    let now = SystemTime::now();
    store.inner.sweep_temp(now);
    assert!(temp.join("left").exists());
    store
        .inner
        .sweep_temp(now + TEMP_AGE_MAX + Duration::from_secs(60));
    assert!(!temp.join("left").exists());
    assert_eq!(store.list("", None, 10).await.unwrap().objects.len(), 1);
}

#[tokio::test]
async fn a_root_that_is_not_there_is_an_empty_store() {
    let dir = tempfile::tempdir().unwrap();
    let store = DirStore::open(dir.path().join("not/there"));
    assert!(store.list("", None, 10).await.unwrap().objects.is_empty());
    assert!(matches!(
        store.get("a", None).await,
        Err(StoreError::NotFound { .. })
    ));
    store.delete(&["a".to_string()]).await.unwrap();
    assert!(!dir.path().join("not").exists());
}

/// What makes something that is no regular file at a path.
type Make = fn(&Path);

fn things() -> [(&'static str, Make); 7] {
    [
        ("fifo", |at| {
            rustix::fs::mknodat(CWD, at, rustix::fs::FileType::Fifo, Mode::RWXU, 0).unwrap();
        }),
        ("socket", |at| {
            drop(std::os::unix::net::UnixListener::bind(at).unwrap());
        }),
        ("directory", |at| fs::create_dir(at).unwrap()),
        ("directory with an object", |at| {
            fs::create_dir(at).unwrap();
            fs::write(at.join("x"), b"x").unwrap();
        }),
        ("link to itself", |at| std::os::unix::fs::symlink(at, at).unwrap()),
        ("link to an object", |at| {
            fs::write(at.with_extension("target"), b"x").unwrap();
            std::os::unix::fs::symlink(at.with_extension("target"), at).unwrap();
        }),
        ("link to a device that never ends", |at| {
            std::os::unix::fs::symlink("/dev/zero", at).unwrap();
        }),
    ]
}

#[tokio::test]
async fn what_is_no_file_is_no_object_and_nobody_waits_for_it() {
    for (what, make) in things() {
        let dir = tempfile::tempdir().unwrap();
        let store = founded(dir.path()).await;
        make(&dir.path().join("slot"));
        for range in [None, Some(0..10)] {
            let error = store.get("slot", range).await.unwrap_err();
            assert!(matches!(error, StoreError::Broken { .. }), "{what}: {error}");
            assert!(error.to_string().contains("not an object"), "{what}: {error}");
        }
        let error = store.head("slot").await.unwrap_err();
        assert!(matches!(error, StoreError::Broken { .. }), "{what}: {error}");
        let listed = store.list("slot", None, 10).await.unwrap().objects;
        assert!(
            listed.iter().all(|object| object.key != "slot"),
            "{what}: {listed:?}"
        );
        let body = Bytes::from_static(b"body");
        let error = store
            .put("slot", body.clone(), PutMode::IfAbsent)
            .await
            .unwrap_err();
        assert!(
            matches!(error, StoreError::AlreadyExists { .. }),
            "{what}: {error}"
        );
        match store.put("slot", body, PutMode::Overwrite).await {
            // Replaced as a whole: what a link leads to stays.
            Ok(_) => assert_eq!(store.get("slot", None).await.unwrap().bytes, "body", "{what}"),
            Err(error) => {
                assert!(matches!(error, StoreError::Broken { .. }), "{what}: {error}");
                assert!(what.starts_with("directory"), "{what}: {error}");
            }
        }
        store.delete(&["slot".to_owned()]).await.unwrap();
    }
}

#[tokio::test]
async fn an_object_of_a_terabyte_costs_no_memory() {
    let dir = tempfile::tempdir().unwrap();
    let store = founded(dir.path()).await;
    File::create(dir.path().join("huge"))
        .unwrap()
        .set_len(1 << 40)
        .unwrap();
    for range in [None, Some(0..u64::MAX / 4), Some(5..1 << 39)] {
        let error = store.get("huge", range).await.unwrap_err();
        assert!(matches!(error, StoreError::Broken { .. }), "{error}");
    }
    let part = store.get("huge", Some((1 << 40) - 5..u64::MAX)).await.unwrap();
    assert_eq!((part.bytes.len(), part.object_len), (5, 1 << 40));
    assert_eq!(store.head("huge").await.unwrap(), Some(1 << 40));
}

#[tokio::test]
async fn a_key_under_an_object_is_refused_not_lost() {
    let dir = tempfile::tempdir().unwrap();
    let store = founded(dir.path()).await;
    store
        .put("a", Bytes::from_static(b"x"), PutMode::IfAbsent)
        .await
        .unwrap();
    let error = store
        .put("a/b", Bytes::from_static(b"x"), PutMode::Overwrite)
        .await
        .unwrap_err();
    assert!(matches!(error, StoreError::Broken { .. }), "{error}");
}

const BODY: Bytes = Bytes::from_static(b"body");

/// A store with an object, and the means to take its directory away and put it back.
struct Disk {
    _dir: tempfile::TempDir,
    root: PathBuf,
    elsewhere: PathBuf,
    store: DirStore,
}

impl Disk {
    async fn new() -> Disk {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("disk/store");
        let store = founded(&root).await;
        store.put("a/b", BODY, PutMode::IfAbsent).await.unwrap();
        Disk {
            elsewhere: dir.path().join("elsewhere"),
            _dir: dir,
            root,
            store,
        }
    }

    fn unplug(&self) {
        fs::rename(&self.root, &self.elsewhere).unwrap();
    }

    fn plug_in(&self) {
        if self.root.is_dir() {
            fs::remove_dir_all(&self.root).unwrap();
        } else {
            let _ = fs::remove_file(&self.root);
        }
        fs::rename(&self.elsewhere, &self.root).unwrap();
    }

    /// Every request says that the store does not answer.
    async fn assert_away(&self, how: &str) {
        let store = &self.store;
        let keys = ["a/b".to_owned()];
        let errors = [
            store.get("a/b", None).await.map(drop),
            store.get("nothing", None).await.map(drop),
            store.head("a/b").await.map(drop),
            store.list("a/", None, 10).await.map(drop),
            store.list("", None, 10).await.map(drop),
            store.delete(&keys).await,
            store.put("a/c", BODY, PutMode::IfAbsent).await.map(drop),
            store.put("a/b", BODY, PutMode::Overwrite).await.map(drop),
            store.establish().await,
        ];
        for (index, answer) in errors.into_iter().enumerate() {
            let error = answer.expect_err(how);
            assert!(
                matches!(error, StoreError::Unreachable { .. }),
                "{how}, request {index}: {error}"
            );
            let text = error.to_string();
            assert!(
                text.contains("is its disk mounted?"),
                "{how}, request {index}: {text}"
            );
            assert!(text.contains(&self.root.display().to_string()), "{text}");
        }
    }
}

#[tokio::test]
async fn a_root_that_vanishes_is_away_and_never_made_anew() {
    /// What is at the root's path once its disk is gone.
    type Leave = fn(&Path);
    let left: [(&str, Leave); 5] = [
        ("nothing", |_| ()),
        ("an empty directory", |root| fs::create_dir(root).unwrap()),
        ("a new file system", |root| {
            fs::create_dir_all(root.join("lost+found")).unwrap();
        }),
        ("a directory of something else", |root| {
            fs::create_dir_all(root.join("a")).unwrap();
            fs::write(root.join("a/b"), b"other").unwrap();
        }),
        ("a file", |root| fs::write(root, b"").unwrap()),
    ];
    for (how, leave) in left {
        let disk = Disk::new().await;
        disk.unplug();
        leave(&disk.root);
        // An object that is there, and right, needs no other look.
        if how != "a directory of something else" {
            disk.assert_away(how).await;
        } else {
            for (key, mode) in [("a/c", PutMode::IfAbsent), ("a/b", PutMode::Overwrite)] {
                let error = disk.store.put(key, BODY, mode).await.unwrap_err();
                assert!(matches!(error, StoreError::Unreachable { .. }), "{error}");
            }
            assert_eq!(fs::read(disk.root.join("a/b")).unwrap(), b"other");
        }
        assert!(!disk.root.join("a/c").exists(), "{how}");
        disk.plug_in();
        assert_eq!(disk.store.get("a/b", None).await.unwrap().bytes, BODY, "{how}");
        disk.store.put("a/c", BODY, PutMode::IfAbsent).await.unwrap();
    }
}

#[tokio::test]
async fn another_store_at_the_same_place_is_not_ours() {
    let disk = Disk::new().await;
    disk.unplug();
    // Founded by another process, with other objects.
    let other = founded(&disk.root).await;
    other.put("c", BODY, PutMode::IfAbsent).await.unwrap();
    disk.assert_away("another store").await;
    assert!(!other.is_established().await.unwrap_or(false) || other.head("a/c").await.unwrap().is_none());
    disk.plug_in();
    disk.store.put("a/c", BODY, PutMode::IfAbsent).await.unwrap();
}

#[tokio::test]
async fn a_store_of_before_there_were_markers_gets_one_with_its_first_write() {
    let disk = Disk::new().await;
    let marker = disk.root.join(MARKER);
    fs::remove_file(&marker).unwrap();
    let reader = DirStore::open(&disk.root);
    assert_eq!(reader.get("a/b", None).await.unwrap().bytes, BODY);
    assert!(reader.is_established().await.unwrap());
    assert!(!marker.exists(), "reading writes nothing");
    let writer = DirStore::open(&disk.root);
    writer.put("a/c", BODY, PutMode::IfAbsent).await.unwrap();
    let first = fs::read(&marker).unwrap();
    reader.put("a/d", BODY, PutMode::IfAbsent).await.unwrap();
    assert_eq!(fs::read(&marker).unwrap(), first);
    // One that met it without a marker knows as well when it is gone.
    fs::remove_file(&marker).unwrap();
    let reader = DirStore::open(&disk.root);
    reader.get("a/b", None).await.unwrap();
    disk.unplug();
    fs::create_dir(&disk.root).unwrap();
    for answer in [
        reader.put("a/e", BODY, PutMode::IfAbsent).await.map(drop),
        reader.list("a/", None, 10).await.map(drop),
    ] {
        let error = answer.unwrap_err();
        assert!(matches!(error, StoreError::Unreachable { .. }), "{error}");
    }
}

#[tokio::test]
async fn a_write_founds_no_store() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("disk/store");
    let store = DirStore::open(&root);
    assert!(!store.is_established().await.unwrap());
    let error = store.put("a", BODY, PutMode::IfAbsent).await.unwrap_err();
    assert!(matches!(error, StoreError::Misconfigured { .. }), "{error}");
    assert!(error.to_string().contains("is its disk mounted?"), "{error}");
    assert!(!dir.path().join("disk").exists());
    fs::create_dir_all(&root).unwrap();
    store.put("a", BODY, PutMode::IfAbsent).await.unwrap_err();
    assert_eq!(fs::read_dir(&root).unwrap().count(), 0);
    store.establish().await.unwrap();
    store.put("a", BODY, PutMode::IfAbsent).await.unwrap();
    // Founded twice, it stays the same.
    founded(&root)
        .await
        .put("b", BODY, PutMode::IfAbsent)
        .await
        .unwrap();
    store.put("c", BODY, PutMode::IfAbsent).await.unwrap();
}

#[tokio::test]
async fn a_damaged_marker_is_named() {
    let disk = Disk::new().await;
    fs::write(disk.root.join(MARKER), b"\xff\xfe").unwrap();
    let error = disk.store.put("a/c", BODY, PutMode::IfAbsent).await.unwrap_err();
    assert!(matches!(error, StoreError::Misconfigured { .. }), "{error}");
    assert!(error.to_string().contains(MARKER), "{error}");
}

#[tokio::test]
async fn racing_founders_make_one_store() {
    let dir = tempfile::tempdir().unwrap();
    let stores: Vec<DirStore> = (0..8)
        .map(|_| DirStore::open(dir.path().join("new/root")))
        .collect();
    let all = stores.iter().map(|store| store.establish());
    for founded in futures::future::join_all(all).await {
        founded.unwrap();
    }
    for (index, store) in stores.iter().enumerate() {
        store
            .put(&format!("k{index}"), BODY, PutMode::IfAbsent)
            .await
            .unwrap();
    }
}
