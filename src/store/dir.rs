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
//! 5. A root that does not exist is an empty store until a store is founded there ([`ObjectStore::establish`]); no other
//!    request makes it. A root that vanishes later, or is covered by something else, is a store that does not answer: see
//!    `root.rs`. Directories that become empty stay.
//! 6. An object is a regular file. Whatever else stands at a key (a fifo, a socket, a device, a directory, a symbolic link)
//!    is refused by name when the key is read, without waiting for it or reading it; listings leave it out, and a create
//!    finds the key taken.
//!
//! One key cannot be an object and also the directory of other keys (`a` and `a/b`); sailvol's keys never are.
//!
//! Concurrency: the filesystem decides races, also between processes; the only shared state is the set of directories
//! known to be durable, and which store the handle met. All calls block, so they run on the runtime's blocking threads; a dropped future leaves its
//! call to end by itself.

use async_trait::async_trait;
use bytes::Bytes;
use parking_lot::Mutex;
use std::collections::HashSet;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rustix::fs::{AtFlags, FileType, Mode, OFlags, RenameFlags, Stat};
use rustix::io::Errno;

use self::root::{Identity, Root};
use self::walk::Walk;
use super::key::{check_key, check_list, check_range, clip};
use super::{Fetched, Listed, ObjectStore, PutDone, PutMode, StoreError, time};
use crate::model::Timestamp;

mod root;
#[cfg(test)]
mod tests;
mod walk;

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
    /// The store that this handle met first.
    known: Mutex<Option<Identity>>,
    /// Directories below the root whose own name was synced, by this process or before it.
    durable: Mutex<HashSet<String>>,
}

impl DirStore {
    /// A store rooted at an absolute path; nothing is created. Sweeps what killed writers left long ago.
    pub fn open(root: impl Into<PathBuf>) -> DirStore {
        let inner = Inner {
            root: root.into(),
            known: Mutex::new(None),
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

    async fn establish(&self) -> Result<(), StoreError> {
        self.blocking(Inner::establish).await
    }

    async fn is_established(&self) -> Result<bool, StoreError> {
        self.blocking(Inner::is_established).await
    }

    fn describe(&self) -> String {
        format!("file://{}", self.inner.root.display())
    }
}

impl Inner {
    fn get(&self, key: &str, range: Option<Range<u64>>) -> Result<Fetched, StoreError> {
        let Some(root) = self.root()? else {
            return Err(StoreError::NotFound { key: key.to_string() });
        };
        let path = root.shown(key);
        // A fifo would wait for a writer here, for ever.
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOFOLLOW;
        let mut file = match root.open_at(key, flags, Mode::empty()) {
            Ok(file) => file,
            // A socket, a device without a driver, a symbolic link.
            Err(error @ (Errno::NXIO | Errno::NODEV | Errno::LOOP)) => {
                let stat = root.stat(key).map_err(|e| self.read_error(&root, key, e))?;
                check_regular(key, &path, &stat)?;
                return Err(self.read_error(&root, key, error));
            }
            Err(error) => return Err(self.read_error(&root, key, error)),
        };
        let stat = rustix::fs::fstat(&file).map_err(|e| self.read_error(&root, key, e))?;
        check_regular(key, &path, &stat)?;
        let object_len = length(&stat);
        let range = clip(key, range, object_len)?;
        let wanted = usize::try_from(range.end - range.start).map_err(|_| StoreError::Broken {
            key: key.to_string(),
            reason: "too long to read".into(),
        })?;
        let mut bytes = vec![0; wanted];
        let read = file
            .seek(SeekFrom::Start(range.start))
            .and_then(|_| file.read_exact(&mut bytes));
        read.map_err(|error| match error.kind() {
            // Objects never change in place, so a file shorter than its length was damaged.
            io::ErrorKind::UnexpectedEof => StoreError::Broken {
                key: key.to_string(),
                reason: format!("{} is shorter than its length", path.display()),
            },
            _ => other_error(&path, error),
        })?;
        Ok(Fetched {
            bytes: bytes.into(),
            object_len,
            server_time: Some(time::now()),
            modified: Some(modified(&stat)),
            etag: None,
        })
    }

    fn head(&self, key: &str) -> Result<Option<u64>, StoreError> {
        let Some(root) = self.root()? else { return Ok(None) };
        match root.stat(key) {
            Ok(stat) => check_regular(key, &root.shown(key), &stat).map(|()| Some(length(&stat))),
            Err(error) => match self.read_error(&root, key, error) {
                StoreError::NotFound { .. } => Ok(None),
                error => Err(error),
            },
        }
    }

    fn put(&self, key: &str, body: &[u8], mode: PutMode) -> Result<PutDone, StoreError> {
        let root = self.root_to_write()?;
        let path = root.shown(key);
        // Saves writing the body when the outcome is certain; the link below decides.
        if mode == PutMode::IfAbsent && root.stat(key).is_ok() {
            return Err(StoreError::AlreadyExists { key: key.to_string() });
        }
        let parent = key.rsplit_once('/').map_or("", |(parent, _)| parent);
        let made = self.make_durable_dir(&root, parent);
        made.map_err(|error| write_error(key, &root.shown(parent), error))?;
        let written = make_temp_dir(&root).and_then(|()| TempFile::create(&root, body));
        let temp = written.map_err(|error| write_error(key, &root.shown(TEMP_DIR), error))?;
        match mode {
            PutMode::Overwrite => rename(&root, &temp.name, key),
            PutMode::IfAbsent => link_new(&root, &temp.name, key),
        }
        .map_err(|error| match error.kind() {
            io::ErrorKind::AlreadyExists if mode == PutMode::IfAbsent => {
                StoreError::AlreadyExists { key: key.to_string() }
            }
            _ => write_error(key, &path, error),
        })?;
        drop(temp);
        root.sync_dir(parent).map_err(|error| StoreError::Unknown {
            key: key.to_string(),
            reason: format!("cannot sync {}: {error}", root.shown(parent).display()),
        })?;
        Ok(PutDone {
            server_time: Some(time::now()),
        })
    }

    fn delete(&self, keys: &[String]) -> Result<(), StoreError> {
        let Some(root) = self.root()? else { return Ok(()) };
        // In a root that is not ours every object is gone already.
        self.check(&root)?;
        let mut parents = HashSet::new();
        for key in keys {
            match rustix::fs::unlinkat(root.fd(), key, AtFlags::empty()) {
                Ok(()) => {
                    parents.insert(key.rsplit_once('/').map_or("", |(parent, _)| parent));
                }
                Err(error) => match self.read_error(&root, key, error) {
                    StoreError::NotFound { .. } => {}
                    error => return Err(error),
                },
            }
        }
        for parent in parents {
            root.sync_dir(parent).map_err(|error| StoreError::Unreachable {
                reason: format!("cannot sync {}: {error}", root.shown(parent).display()),
            })?;
        }
        Ok(())
    }

    fn list(&self, prefix: &str, start_after: &str, limit: usize) -> Result<Listed, StoreError> {
        let mut objects = Vec::new();
        if let Some(root) = self.root()? {
            // What is not listed counts as not there.
            self.check(&root)?;
            let mut walk = Walk {
                root: &root,
                prefix,
                start_after,
                wanted: limit + 1,
                found: Vec::new(),
            };
            walk.run()?;
            objects = walk.found;
        }
        let truncated = objects.len() > limit;
        objects.truncate(limit);
        Ok(Listed {
            objects,
            truncated,
            server_time: Some(time::now()),
        })
    }

    /// Creates a directory and its parents, and syncs the parent of each whose name is not known to be on disk.
    fn make_durable_dir(&self, root: &Root, dir: &str) -> io::Result<()> {
        if dir.is_empty() || (self.durable.lock().contains(dir) && root.is_dir(dir)) {
            return Ok(());
        }
        let ends = dir.match_indices('/').map(|(at, _)| at);
        for end in ends.chain([dir.len()]) {
            let level = &dir[..end];
            let made = root.make_dir(level)?;
            if made || !self.durable.lock().contains(level) {
                root.sync_dir(level.rsplit_once('/').map_or("", |(parent, _)| parent))?;
            }
            let mut durable = self.durable.lock();
            if durable.len() >= DURABLE_DIRS_MAX {
                durable.clear();
            }
            durable.insert(level.to_owned());
        }
        Ok(())
    }

    /// Why a name of the root could not be read: what is missing in a root that is not ours says nothing.
    fn read_error(&self, root: &Root, key: &str, error: Errno) -> StoreError {
        match error {
            Errno::NOENT | Errno::NOTDIR | Errno::ISDIR => match self.check(root) {
                Ok(_) => StoreError::NotFound { key: key.to_string() },
                Err(error) => error,
            },
            error => other_error(&root.shown(key), error.into()),
        }
    }
}

fn make_temp_dir(root: &Root) -> io::Result<()> {
    root.make_dir(TEMP_DIR).map(drop)
}

/// A synced file with a body, without a key yet; its temporary name goes when it is dropped.
struct TempFile<'a> {
    root: &'a Root,
    /// Below the root.
    name: String,
}

impl TempFile<'_> {
    fn create<'a>(root: &'a Root, body: &[u8]) -> io::Result<TempFile<'a>> {
        let mut random = [0u8; 16];
        getrandom::fill(&mut random).map_err(|error| io::Error::other(error.to_string()))?;
        let name = format!("{TEMP_DIR}/{}", hex::encode(random));
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL;
        let mode = Mode::RUSR | Mode::WUSR | Mode::RGRP | Mode::ROTH;
        let mut file = root.open_at(&name, flags, mode)?;
        // From here on the name is removed on every way out.
        let temp = TempFile { root, name };
        file.write_all(body)?;
        file.sync_all()?;
        Ok(temp)
    }
}

impl Drop for TempFile<'_> {
    fn drop(&mut self) {
        match rustix::fs::unlinkat(self.root.fd(), &self.name, AtFlags::empty()) {
            // After a rename the temporary name is gone.
            Ok(()) | Err(Errno::NOENT) => {}
            Err(error) => {
                let path = self.root.shown(&self.name);
                tracing::warn!(path = %path.display(), %error, "cannot remove a temporary file");
            }
        }
    }
}

/// Gives `temp` the name `key` unless that is taken, atomically.
fn link_new(root: &Root, temp: &str, key: &str) -> io::Result<()> {
    match rustix::fs::linkat(root.fd(), temp, root.fd(), key, AtFlags::empty()) {
        // Filesystems without hard links answer one of these.
        Err(Errno::PERM | Errno::OPNOTSUPP | Errno::NOSYS | Errno::MLINK) => Ok(rustix::fs::renameat_with(
            root.fd(),
            temp,
            root.fd(),
            key,
            RenameFlags::NOREPLACE,
        )?),
        result => Ok(result?),
    }
}

fn rename(root: &Root, temp: &str, key: &str) -> io::Result<()> {
    Ok(rustix::fs::renameat(root.fd(), temp, root.fd(), key)?)
}

fn length(stat: &Stat) -> u64 {
    u64::try_from(stat.st_size).unwrap_or(0)
}

fn modified(stat: &Stat) -> Timestamp {
    Timestamp {
        secs: stat.st_mtime,
        nanos: u32::try_from(stat.st_mtime_nsec).unwrap_or(0),
    }
}

/// Only regular files are objects.
fn check_regular(key: &str, path: &Path, stat: &Stat) -> Result<(), StoreError> {
    let what = match FileType::from_raw_mode(stat.st_mode) {
        FileType::RegularFile => return Ok(()),
        FileType::Directory => "a directory",
        FileType::Symlink => "a symbolic link",
        FileType::Fifo => "a fifo",
        FileType::Socket => "a socket",
        _ => "a device",
    };
    Err(StoreError::Broken {
        key: key.to_string(),
        reason: format!("{} is {what}, not an object", path.display()),
    })
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
