//! A volume in memory, worked with as any caller would: no process, no mount, no terminal.

use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::sync::Arc;

use futures::stream::TryStreamExt;
use parking_lot::Mutex;

use super::*;
use crate::answer::{Failure, FailureKind};
use crate::model::{Attrs, Entry, GivenPath, Timestamp, VolPath, Xattrs};
use crate::store::{MemoryStore, ObjectStore};
use crate::volume::{Clock, VolumeRef};

const VOLUME: &str = "v";

/// A store with one empty volume, and what its callers were told.
struct World {
    store: Arc<dyn ObjectStore>,
    notes: Arc<Mutex<Vec<String>>>,
}

impl World {
    async fn new() -> World {
        let store: Arc<dyn ObjectStore> = Arc::new(MemoryStore::new());
        let root = Attrs {
            mode: 0o755,
            uid: 0,
            gid: 0,
            mtime: Timestamp { secs: 1, nanos: 0 },
            ctime: Timestamp { secs: 1, nanos: 0 },
            file_id: crate::model::FileIds::new(1).draw(),
            xattrs: Xattrs::None,
        };
        let (_, made) = create_volume((store.clone(), Clock::system()), VOLUME, "test", root)
            .await
            .unwrap();
        assert!(made);
        World {
            store,
            notes: Arc::default(),
        }
    }

    /// At the newest record.
    async fn session(&self) -> Session {
        let notes = self.notes.clone();
        let caller = Caller {
            note: Arc::new(move |text| notes.lock().push(text.to_owned())),
            ..Caller::silent("here")
        };
        Session::of(self.store.clone(), &VolumeRef::parse(VOLUME), caller)
            .await
            .unwrap()
    }

    async fn put(&self, sources: Vec<Source>, to: &str, options: ImportOptions) -> Result<(), Failure> {
        let session = self.session().await;
        import(&session, sources, &target(to), options, &words("put"))
            .await
            .map(drop)
    }

    async fn put_bytes(&self, bytes: &[u8], to: &str) {
        let source = Source::Bytes(Box::new(std::io::Cursor::new(bytes.to_vec())));
        self.put(vec![source], to, ImportOptions::default())
            .await
            .unwrap();
    }

    async fn paths(&self) -> Vec<String> {
        let options = ListOptions {
            recursive: true,
            limit: 1000,
        };
        let listing = list(&self.session().await, VolPath::default(), options)
            .await
            .unwrap();
        assert!(!listing.truncated);
        listing.entries.iter().map(|(path, _)| path.to_string()).collect()
    }

    async fn find(&self, path: &str) -> Option<Entry> {
        self.session().await.find(&at(path)).await.unwrap()
    }

    async fn read(&self, path: &str, range: std::ops::Range<u64>) -> Vec<u8> {
        let session = self.session().await;
        let entry = session.entry(&at(path)).await.unwrap();
        let pieces = session.read(&at(path), &entry, range).unwrap();
        let pieces: Vec<_> = pieces.try_collect().await.unwrap();
        pieces.concat()
    }

    async fn seq(&self) -> u64 {
        self.session().await.head.seq()
    }
}

fn at(path: &str) -> VolPath {
    VolPath::parse(path.as_bytes()).unwrap()
}

fn given(path: &str) -> GivenPath {
    GivenPath::parse(path.as_bytes()).unwrap()
}

fn target(path: &str) -> GivenTarget {
    GivenTarget {
        path: given(path),
        as_dir: path.ends_with('/'),
    }
}

fn words(message: &str) -> Words {
    Words {
        message: message.to_owned(),
        by: None,
    }
}

fn local(path: &Path) -> Vec<Source> {
    vec![Source::Path(path.to_owned())]
}

const FORCE: ImportOptions = ImportOptions {
    force: true,
    special: false,
};

/// `d` with two files, one of them in a directory, the other with two names, and a link.
fn tree_here(top: &Path) -> std::path::PathBuf {
    let dir = top.join("d");
    std::fs::create_dir_all(dir.join("sub")).unwrap();
    std::fs::write(dir.join("a"), b"aaa").unwrap();
    std::fs::hard_link(dir.join("a"), dir.join("b")).unwrap();
    std::fs::write(dir.join("sub/c"), b"ccc").unwrap();
    std::fs::set_permissions(dir.join("sub/c"), PermissionsExt::from_mode(0o640)).unwrap();
    std::os::unix::fs::symlink("a", dir.join("l")).unwrap();
    dir
}

#[tokio::test]
async fn a_directory_goes_in_and_comes_out_as_it_was() {
    let world = World::new().await;
    let here = tempfile::tempdir().unwrap();
    let dir = tree_here(here.path());
    world
        .put(local(&dir), "/", ImportOptions::default())
        .await
        .unwrap();
    let all = ["/d", "/d/a", "/d/b", "/d/l", "/d/sub", "/d/sub/c"];
    assert_eq!(world.paths().await, all);

    let session = world.session().await;
    assert_eq!(session.head.record().by, "here");
    let out = here.path().join("out");
    let entry = session.find(&at("/d")).await.unwrap().unwrap();
    let done = export(&session, &at("/d"), entry.clone(), &out, false)
        .await
        .unwrap();
    assert_eq!((done.files, done.dirs, done.to), (4, 2, out.clone()));
    assert_eq!(std::fs::read(out.join("sub/c")).unwrap(), b"ccc");
    let ino = |name| std::fs::metadata(out.join(name)).unwrap().ino();
    assert_eq!(ino("a"), ino("b"), "two names of one file");
    assert_eq!(std::fs::read_link(out.join("l")).unwrap(), Path::new("a"));
    assert_eq!(
        std::fs::metadata(out.join("sub/c")).unwrap().mode() & 0o777,
        0o640
    );

    // Once more: what is there stays, unless it may be replaced.
    std::fs::write(out.join("sub/c"), b"mine").unwrap();
    let below = out.join("d");
    std::fs::rename(out.join("sub"), here.path().join("sub")).unwrap();
    let again = export(
        &session,
        &at("/d/sub/c"),
        session.entry(&at("/d/sub/c")).await.unwrap(),
        &here.path().join("sub"),
        false,
    )
    .await;
    assert_eq!(again.unwrap_err().kind, FailureKind::Exists);
    assert_eq!(std::fs::read(here.path().join("sub/c")).unwrap(), b"mine");
    assert!(!below.exists());
    let entry = session.entry(&at("/d/sub/c")).await.unwrap();
    export(&session, &at("/d/sub/c"), entry, &here.path().join("sub"), true)
        .await
        .unwrap();
    assert_eq!(std::fs::read(here.path().join("sub/c")).unwrap(), b"ccc");
}

#[tokio::test]
async fn ranges_are_read_across_chunks_and_no_further_than_the_end() {
    let world = World::new().await;
    // More than one chunk; no two neighbouring bytes of a period that a chunk is a multiple of.
    let bytes: Vec<u8> = (0..3_000_000u32).map(|i| (i % 251) as u8).collect();
    world.put_bytes(&bytes, "/big").await;
    world.put_bytes(b"tiny", "/tiny").await;
    world.put_bytes(b"", "/empty").await;
    for range in [
        0..0,
        0..1,
        1_048_570..1_048_590,
        2_999_999..3_000_000,
        17..2_500_001,
    ] {
        let wanted = &bytes[range.start as usize..range.end as usize];
        assert!(world.read("/big", range.clone()).await == wanted, "{range:?}");
    }
    assert!(world.read("/big", 0..u64::MAX).await == bytes);
    assert!(world.read("/big", 3_000_000..3_000_001).await.is_empty());
    assert_eq!(world.read("/tiny", 1..3).await, b"in");
    assert_eq!(world.read("/tiny", 0..u64::MAX).await, b"tiny");
    assert!(world.read("/empty", 0..u64::MAX).await.is_empty());

    let session = world.session().await;
    let root = session.entry(&VolPath::default()).await.unwrap();
    let refused = session.read(&VolPath::default(), &root, 0..1).err().unwrap();
    assert_eq!(refused.kind, FailureKind::Usage);
}

#[tokio::test]
async fn what_is_there_is_replaced_only_when_asked_and_never_a_directory() {
    let world = World::new().await;
    let here = tempfile::tempdir().unwrap();
    let file = here.path().join("f");
    std::fs::write(&file, b"new").unwrap();
    world.put_bytes(b"old", "/f").await;
    world.put_bytes(b"x", "/dir/x").await;
    let before = world.seq().await;
    let put = |to, options| world.put(local(&file), to, options);
    assert_eq!(
        put("/", ImportOptions::default()).await.unwrap_err().kind,
        FailureKind::Exists
    );
    assert_eq!(put("/f/", FORCE).await.unwrap_err().kind, FailureKind::Refused);
    assert_eq!(world.seq().await, before, "nothing was published");
    put("/", FORCE).await.unwrap();
    assert_eq!(world.read("/f", 0..9).await, b"new");

    // A file where a directory is: not even then.
    let dir = here.path().join("dir");
    std::fs::write(&dir, b"a file").unwrap();
    let refused = world.put(local(&dir), "/", FORCE).await.unwrap_err();
    assert_eq!(refused.kind, FailureKind::Exists);
    assert_eq!(world.read("/dir/x", 0..9).await, b"x");
}

#[tokio::test]
async fn what_a_volume_does_not_hold_is_left_out_and_said() {
    let world = World::new().await;
    let here = tempfile::tempdir().unwrap();
    let dir = here.path().join("d");
    std::fs::create_dir(&dir).unwrap();
    let _socket = std::os::unix::net::UnixListener::bind(dir.join("s")).unwrap();
    world
        .put(local(&dir), "/", ImportOptions::default())
        .await
        .unwrap();
    assert_eq!(world.paths().await, ["/d"]);
    let notes = world.notes.lock();
    assert!(
        notes.len() == 1 && notes[0].starts_with("left out ") && notes[0].ends_with("/s: a socket"),
        "{notes:?}"
    );
}

#[tokio::test]
async fn copies_share_their_bytes_and_heed_what_is_there() {
    let world = World::new().await;
    world.put_bytes(b"one", "/a/x").await;
    world.put_bytes(b"two", "/y").await;
    let copied = async |from: &str, to: &str, options| {
        let session = world.session().await;
        copy(&session, &[given(from)], &target(to), options, &words("cp")).await
    };
    let plain = CopyOptions::default();
    let deep = CopyOptions {
        recursive: true,
        force: false,
    };
    let force = CopyOptions {
        recursive: false,
        force: true,
    };
    let before = world.seq().await;
    for (from, to, options, kind) in [
        ("/a", "/b", plain, FailureKind::Refused),
        ("/a", "/a/below", deep, FailureKind::Refused),
        ("/", "/b", deep, FailureKind::Refused),
        ("/y", "/a/x", plain, FailureKind::Exists),
        ("/none", "/b", plain, FailureKind::NotFound),
    ] {
        assert_eq!(
            copied(from, to, options).await.unwrap_err().kind,
            kind,
            "{from} {to}"
        );
    }
    assert_eq!(world.seq().await, before, "nothing was published");
    assert_eq!(copied("/a", "/b", deep).await.unwrap().bytes_changed, 0);
    copied("/y", "/a/x", force).await.unwrap();
    copied("/y", "/new/", plain).await.unwrap();
    assert_eq!(world.read("/b/x", 0..9).await, b"one");
    assert_eq!(world.read("/a/x", 0..9).await, b"two");
    assert_eq!(world.read("/new/y", 0..9).await, b"two");
}

#[tokio::test]
async fn what_is_removed_is_all_of_it_or_nothing() {
    let world = World::new().await;
    for path in ["/d/a", "/d/e/b", "/f"] {
        world.put_bytes(b"x", path).await;
    }
    let removed = async |paths: &[&str], recursive, force| {
        let paths = paths.iter().map(|path| given(path)).collect();
        let removal = Removal::new(VOLUME, paths, RemoveOptions { recursive, force })?;
        removal.run(&world.session().await, &words("rm")).await
    };
    let before = world.seq().await;
    let kind = |done: Result<Removed, Failure>| done.unwrap_err().kind;
    assert_eq!(
        kind(removed(&["/f", "/"], true, true).await),
        FailureKind::Refused
    );
    assert_eq!(
        kind(removed(&["/f", "/d"], false, false).await),
        FailureKind::Refused
    );
    assert_eq!(
        kind(removed(&["/f", "/none"], false, false).await),
        FailureKind::NotFound
    );
    assert_eq!(removed(&["/none"], false, true).await.unwrap().commit.seq, None);
    assert_eq!(world.seq().await, before, "nothing was published");
    // What lies below another goes with it, and is counted once.
    let done = removed(&["/d", "/d/e/b"], true, false).await.unwrap();
    assert_eq!((done.files, done.dirs), (2, 2));
    assert_eq!(
        (world.seq().await, world.paths().await),
        (before + 1, vec!["/f".to_owned()])
    );
    assert!(world.find("/d").await.is_none());
}

#[tokio::test]
async fn lists_end_where_they_were_asked_to() {
    let world = World::new().await;
    for path in ["/a/x", "/b"] {
        world.put_bytes(b"x", path).await;
    }
    let session = world.session().await;
    let listed = async |path: &str, recursive, limit| {
        let found = list(&session, at(path), ListOptions { recursive, limit }).await?;
        let paths: Vec<_> = found.entries.iter().map(|(path, _)| path.to_string()).collect();
        Ok::<_, Failure>((paths.join(" "), found.truncated))
    };
    assert_eq!(listed("/", false, 9).await.unwrap(), ("/a /b".into(), false));
    assert_eq!(listed("/", true, 2).await.unwrap(), ("/a /b".into(), true));
    assert_eq!(listed("/b", false, 9).await.unwrap(), ("/b".into(), false));
    assert_eq!(
        listed("/none", false, 9).await.unwrap_err().kind,
        FailureKind::NotFound
    );
}

#[tokio::test]
async fn a_caller_who_stops_in_time_has_published_nothing() {
    let world = World::new().await;
    let mut session = world.session().await;
    session.caller.stopped = Arc::new(|| Box::pin(std::future::ready(())));
    let before = world.seq().await;
    let here = tempfile::tempdir().unwrap();
    let dir = tree_here(here.path());
    let refused = import(&session, local(&dir), &target("/"), FORCE, &words("put")).await;
    assert_eq!(refused.unwrap_err().message, "interrupted: nothing was published");
    assert_eq!(world.seq().await, before);
}
