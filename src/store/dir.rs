//! A local directory as object store: the default on a machine without any service.
//!
//! An object is a file at its key below the root. Layout and rules:
//! 1. A write goes to a file of its own in `<root>/.tmp`, which is synced before it gets its name; so objects appear
//!    whole or not at all, also after a power cut.
//! 2. Put-if-absent gives the name by link(2), which fails when the name is there; on filesystems without hard links
//!    by renameat2 with RENAME_NOREPLACE. An overwriting put renames.
//! 3. A finished write is on disk: the object's directory is synced, and so is the parent of every directory on the way
//!    whose own name this process has not seen synced yet.
//! 4. No key part begins with a dot, so `.tmp` is never listed and never a key. Files in it older than a day are left
//!    over from killed writers and swept when the store is opened.
//! 5. A root that does not exist is an empty store; the first write creates it. Directories that become empty stay.
//! 6. An object is a regular file. Whatever else stands at a key (a fifo, a socket, a device, a directory, a symbolic link)
//!    is refused by name when the key is read, without waiting for it or reading it; listings leave it out, and a create
//!    finds the key taken.
//!
//! One key cannot be an object and also the directory of other keys (`a` and `a/b`); sailvol's keys never are.
//!
//! Concurrency: the filesystem decides races, also between processes; the only shared state is the set of directories
//! known to be durable. All calls block, so they run on the runtime's blocking threads; a dropped future leaves its
//! call to end by itself.

use async_trait::async_trait;
use bytes::Bytes;
use parking_lot::Mutex;
use std::collections::HashSet;
use std::fs::{self, File, Metadata};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::ops::Range;
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rustix::fs::{CWD, Mode, OFlags, RenameFlags};
use rustix::io::Errno;

use super::key::{check_key, check_list, check_range, clip};
use super::{Fetched, Listed, ListedObject, ObjectStore, PutDone, PutMode, StoreError, time};

const TEMP_DIR: &str = ".tmp";
/// A temporary file lives for the time that one body takes to reach the disk; a day is far beyond that.
const TEMP_AGE_MAX: Duration = Duration::from_secs(24 * 3600);
/// Directories remembered as durable; above this all are forgotten, which costs syncs and nothing else.
const DURABLE_DIRS_MAX: usize = 65_536;

/// A directory store; see the module documentation.
#[derive(Clone, Debug)]
pub struct DirStore {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    root: PathBuf,
    /// Directories whose own name was synced, by this process or before it.
    durable: Mutex<HashSet<PathBuf>>,
}

impl DirStore {
    /// A store rooted at an absolute path; nothing is created. Sweeps what killed writers left long ago.
    pub fn open(root: impl Into<PathBuf>) -> DirStore {
        let inner = Inner {
            root: root.into(),
            durable: Mutex::new(HashSet::new()),
        };
        inner.sweep_temp(SystemTime::now());
        DirStore {
            inner: Arc::new(inner),
        }
    }

    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Inner) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let inner = self.inner.clone();
        tokio::task::spawn_blocking(move || work(&inner))
            .await
            .unwrap_or_else(|error| {
                Err(StoreError::Unreachable {
                    reason: format!("the request was not carried out: {error}"),
                })
            })
    }
}

#[async_trait]
impl ObjectStore for DirStore {
    async fn get(&self, key: &str, range: Option<Range<u64>>) -> Result<Fetched, StoreError> {
        check_key(key)?;
        check_range(key, &range)?;
        let key = key.to_string();
        self.blocking(move |inner| inner.get(&key, range)).await
    }

    async fn put(&self, key: &str, body: Bytes, mode: PutMode) -> Result<PutDone, StoreError> {
        check_key(key)?;
        let key = key.to_string();
        self.blocking(move |inner| inner.put(&key, &body, mode)).await
    }

    async fn head(&self, key: &str) -> Result<Option<u64>, StoreError> {
        check_key(key)?;
        let key = key.to_string();
        self.blocking(move |inner| inner.head(&key)).await
    }

    async fn list(
        &self,
        prefix: &str,
        start_after: Option<&str>,
        limit: usize,
    ) -> Result<Listed, StoreError> {
        check_list(prefix, start_after, limit)?;
        let (prefix, start_after) = (prefix.to_string(), start_after.unwrap_or("").to_string());
        self.blocking(move |inner| inner.list(&prefix, &start_after, limit))
            .await
    }

    async fn delete(&self, keys: &[String]) -> Result<(), StoreError> {
        keys.iter().try_for_each(|key| check_key(key))?;
        let keys = keys.to_vec();
        self.blocking(move |inner| inner.delete(&keys)).await
    }

    fn describe(&self) -> String {
        format!("file://{}", self.inner.root.display())
    }
}

impl Inner {
    fn get(&self, key: &str, range: Option<Range<u64>>) -> Result<Fetched, StoreError> {
        let path = self.root.join(key);
        let at = |error| read_error(key, &path, error);
        // A fifo would wait for a writer here, for ever.
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let opened = rustix::fs::open(&path, flags, Mode::empty());
        let mut file = match opened {
            Ok(fd) => File::from(fd),
            // A socket, a device without a driver, a symbolic link.
            Err(Errno::NXIO | Errno::NODEV | Errno::LOOP) => {
                let stat = path.symlink_metadata().map_err(at)?;
                check_regular(key, &path, &stat)?;
                return Err(at(Errno::LOOP.into()));
            }
            Err(error) => return Err(at(error.into())),
        };
        let stat = file.metadata().map_err(at)?;
        check_regular(key, &path, &stat)?;
        let range = clip(key, range, stat.len())?;
        let wanted = usize::try_from(range.end - range.start).map_err(|_| StoreError::Broken {
            key: key.to_string(),
            reason: "too long to read".into(),
        })?;
        let mut bytes = vec![0; wanted];
        file.seek(SeekFrom::Start(range.start)).map_err(at)?;
        // Objects never change in place, so a file shorter than its length was damaged.
        file.read_exact(&mut bytes).map_err(at)?;
        Ok(Fetched {
            bytes: bytes.into(),
            object_len: stat.len(),
            server_time: Some(time::now()),
            modified: stat.modified().ok().map(time::timestamp),
            etag: None,
        })
    }

    fn head(&self, key: &str) -> Result<Option<u64>, StoreError> {
        let path = self.root.join(key);
        match path.symlink_metadata() {
            Ok(stat) => check_regular(key, &path, &stat).map(|()| Some(stat.len())),
            Err(error) => match read_error(key, &path, error) {
                StoreError::NotFound { .. } => Ok(None),
                error => Err(error),
            },
        }
    }

    fn put(&self, key: &str, body: &[u8], mode: PutMode) -> Result<PutDone, StoreError> {
        let path = self.root.join(key);
        // Saves writing the body when the outcome is certain; the link below decides.
        if mode == PutMode::IfAbsent && path.symlink_metadata().is_ok() {
            return Err(StoreError::AlreadyExists { key: key.to_string() });
        }
        let parent = path.parent().unwrap_or(&self.root);
        self.make_durable_dir(parent)
            .map_err(|error| write_error(key, parent, error))?;
        let temp_dir = self.root.join(TEMP_DIR);
        fs::create_dir_all(&temp_dir).map_err(|error| write_error(key, &temp_dir, error))?;
        let temp = TempFile::create(&temp_dir, body).map_err(|error| write_error(key, &temp_dir, error))?;
        match mode {
            PutMode::Overwrite => fs::rename(&temp.path, &path),
            PutMode::IfAbsent => link_new(&temp.path, &path),
        }
        .map_err(|error| match error.kind() {
            io::ErrorKind::AlreadyExists if mode == PutMode::IfAbsent => {
                StoreError::AlreadyExists { key: key.to_string() }
            }
            _ => write_error(key, &path, error),
        })?;
        drop(temp);
        sync_dir(parent).map_err(|error| StoreError::Unknown {
            key: key.to_string(),
            reason: format!("cannot sync {}: {error}", parent.display()),
        })?;
        Ok(PutDone {
            server_time: Some(time::now()),
        })
    }

    fn delete(&self, keys: &[String]) -> Result<(), StoreError> {
        let mut parents = HashSet::new();
        for key in keys {
            let path = self.root.join(key);
            match fs::remove_file(&path) {
                Ok(()) => {
                    parents.extend(path.parent().map(Path::to_path_buf));
                }
                Err(error) => match read_error(key, &path, error) {
                    StoreError::NotFound { .. } => {}
                    error => return Err(error),
                },
            }
        }
        for parent in parents {
            sync_dir(&parent).map_err(|error| StoreError::Unreachable {
                reason: format!("cannot sync {}: {error}", parent.display()),
            })?;
        }
        Ok(())
    }

    fn list(&self, prefix: &str, start_after: &str, limit: usize) -> Result<Listed, StoreError> {
        let mut walk = Walk {
            prefix,
            start_after,
            wanted: limit + 1,
            found: Vec::new(),
        };
        // Everything with this prefix lies in the directory that its complete parts name.
        let dir = prefix.rsplit_once('/').map_or("", |(dir, _)| dir);
        walk.dir(&self.root.join(dir), dir)?;
        let mut objects = walk.found;
        let truncated = objects.len() > limit;
        objects.truncate(limit);
        Ok(Listed {
            objects,
            truncated,
            server_time: Some(time::now()),
        })
    }

    /// Creates a directory and its parents, and syncs the parent of each whose name is not known to be on disk.
    fn make_durable_dir(&self, dir: &Path) -> io::Result<()> {
        if self.durable.lock().contains(dir) && dir.is_dir() {
            return Ok(());
        }
        fs::create_dir_all(dir)?;
        // The names of the root and what is above it are synced too: the root may have just been created.
        for level in dir.ancestors() {
            let Some(parent) = level.parent() else { break };
            if self.durable.lock().contains(level) {
                break;
            }
            match sync_dir(parent) {
                // Above the root there may be directories that we may pass through but not open.
                Err(error)
                    if error.kind() == io::ErrorKind::PermissionDenied && !parent.starts_with(&self.root) =>
                {
                    break;
                }
                result => result?,
            }
        }
        let mut durable = self.durable.lock();
        if durable.len() >= DURABLE_DIRS_MAX {
            durable.clear();
        }
        durable.extend(dir.ancestors().map(Path::to_path_buf));
        Ok(())
    }

    fn sweep_temp(&self, now: SystemTime) {
        let dir = self.root.join(TEMP_DIR);
        let Ok(entries) = fs::read_dir(&dir) else { return };
        for entry in entries.flatten() {
            let age = entry
                .metadata()
                .and_then(|stat| stat.modified())
                .ok()
                .and_then(|modified| now.duration_since(modified).ok());
            if age.is_some_and(|age| age > TEMP_AGE_MAX)
                && let Err(error) = fs::remove_file(entry.path())
            {
                tracing::warn!(path = %entry.path().display(), %error, "cannot remove a stale temporary file");
            }
        }
    }
}

/// A synced file with a body, without a key yet; its temporary name goes when it is dropped.
struct TempFile {
    path: PathBuf,
}

impl TempFile {
    fn create(dir: &Path, body: &[u8]) -> io::Result<TempFile> {
        let mut random = [0u8; 16];
        getrandom::fill(&mut random).map_err(|error| io::Error::other(error.to_string()))?;
        let path = dir.join(hex::encode(random));
        let mut file = File::options()
            .write(true)
            .create_new(true)
            .mode(0o644)
            .open(&path)?;
        // From here on the name is removed on every way out.
        let temp = TempFile { path };
        file.write_all(body)?;
        file.sync_all()?;
        Ok(temp)
    }
}

impl Drop for TempFile {
    fn drop(&mut self) {
        match fs::remove_file(&self.path) {
            // After a rename the temporary name is gone.
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                tracing::warn!(path = %self.path.display(), %error, "cannot remove a temporary file");
            }
            _ => {}
        }
    }
}

/// Gives `temp` the name `path` unless that is taken, atomically.
fn link_new(temp: &Path, path: &Path) -> io::Result<()> {
    match rustix::fs::link(temp, path) {
        // Filesystems without hard links answer one of these.
        Err(Errno::PERM | Errno::OPNOTSUPP | Errno::NOSYS | Errno::MLINK) => Ok(rustix::fs::renameat_with(
            CWD,
            temp,
            CWD,
            path,
            RenameFlags::NOREPLACE,
        )?),
        result => Ok(result?),
    }
}

/// Only regular files are objects.
fn check_regular(key: &str, path: &Path, stat: &Metadata) -> Result<(), StoreError> {
    let kind = stat.file_type();
    if kind.is_file() {
        return Ok(());
    }
    let what = match () {
        () if kind.is_dir() => "a directory",
        () if kind.is_symlink() => "a symbolic link",
        () if kind.is_fifo() => "a fifo",
        () if kind.is_socket() => "a socket",
        () => "a device",
    };
    Err(StoreError::Broken {
        key: key.to_string(),
        reason: format!("{} is {what}, not an object", path.display()),
    })
}

fn sync_dir(dir: &Path) -> io::Result<()> {
    File::open(dir)?.sync_all()
}

fn read_error(key: &str, path: &Path, error: io::Error) -> StoreError {
    use io::ErrorKind::{IsADirectory, NotADirectory, NotFound, UnexpectedEof};
    match error.kind() {
        NotFound | NotADirectory | IsADirectory => StoreError::NotFound { key: key.to_string() },
        UnexpectedEof => StoreError::Broken {
            key: key.to_string(),
            reason: format!("{} is shorter than its length", path.display()),
        },
        _ => other_error(path, error),
    }
}

fn write_error(key: &str, path: &Path, error: io::Error) -> StoreError {
    use io::ErrorKind::{AlreadyExists, IsADirectory, NotADirectory};
    match error.kind() {
        IsADirectory | NotADirectory | AlreadyExists => StoreError::Broken {
            key: key.to_string(),
            reason: format!(
                "{} is in the way: a directory store cannot hold it",
                path.display()
            ),
        },
        _ => other_error(path, error),
    }
}

fn other_error(path: &Path, error: io::Error) -> StoreError {
    use io::ErrorKind::{
        FileTooLarge, PermissionDenied, QuotaExceeded, ReadOnlyFilesystem, StorageFull, Unsupported,
    };
    let reason = format!("{}: {error}", path.display());
    match error.kind() {
        PermissionDenied | ReadOnlyFilesystem => StoreError::Denied { reason },
        StorageFull | QuotaExceeded | FileTooLarge => StoreError::NoSpace { reason },
        Unsupported => StoreError::Misconfigured {
            reason: format!("{reason}: this filesystem cannot create a file only if it is absent"),
        },
        _ => StoreError::Unreachable { reason },
    }
}

/// A walk in the order of key bytes that ends when enough is found. Reads each directory whole, since directories of
/// the filesystem have no order, but looks at the files that it answers only.
struct Walk<'a> {
    prefix: &'a str,
    start_after: &'a str,
    wanted: usize,
    found: Vec<ListedObject>,
}

impl Walk<'_> {
    /// `key` is the directory's, without a slash at the end; empty for the root.
    fn dir(&mut self, path: &Path, key: &str) -> Result<(), StoreError> {
        let at = |error| other_error(path, error);
        let entries = match fs::read_dir(path) {
            Ok(entries) => entries,
            // Not there: nothing has this prefix.
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
                ) =>
            {
                return Ok(());
            }
            Err(error) => return Err(at(error)),
        };
        // A directory sorts as its name with a slash: "a-b", "a.c", "a/d", "a0".
        let mut keys = Vec::new();
        for entry in entries {
            let entry = entry.map_err(at)?;
            let Ok(name) = entry.file_name().into_string() else {
                continue;
            };
            let mut child = if key.is_empty() {
                name
            } else {
                format!("{key}/{name}")
            };
            if check_key(&child).is_err() {
                continue;
            }
            if entry.file_type().map_err(at)?.is_dir() {
                child.push('/');
            }
            if self.may_hold(&child) {
                keys.push(child);
            }
        }
        keys.sort_unstable();
        for child in keys {
            if self.found.len() >= self.wanted {
                break;
            }
            let name = child.strip_prefix(key).unwrap_or(&child).trim_start_matches('/');
            match child.strip_suffix('/') {
                Some(dir) => self.dir(&path.join(name), dir)?,
                None => self.file(&path.join(name), child.clone())?,
            }
        }
        Ok(())
    }

    fn file(&mut self, path: &Path, key: String) -> Result<(), StoreError> {
        match path.symlink_metadata() {
            Ok(stat) if stat.is_file() => {
                let modified = stat.modified().ok().map(time::timestamp);
                self.found.push(ListedObject {
                    key,
                    len: stat.len(),
                    modified,
                });
                Ok(())
            }
            Ok(_) => Ok(()),
            // Deleted since the directory was read.
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(other_error(path, error)),
        }
    }

    /// Whether `child`, a key or a directory with its slash, is asked for or may hold what is.
    fn may_hold(&self, child: &str) -> bool {
        let in_prefix =
            child.starts_with(self.prefix) || (child.ends_with('/') && self.prefix.starts_with(child));
        let after = child > self.start_after || (child.ends_with('/') && self.start_after.starts_with(child));
        in_prefix && after
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn listing_is_by_key_bytes_although_directories_nest() {
        let dir = tempfile::tempdir().unwrap();
        let store = DirStore::open(dir.path().join("root"));
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
        let store = DirStore::open(dir.path());
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
            let store = DirStore::open(dir.path());
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
        let store = DirStore::open(dir.path());
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
        let store = DirStore::open(dir.path());
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
}
