//! From a volume to local files.
//!
//! 1. Nothing is written outside the directory that is given: everything is made relative to an open directory, and no
//!    symbolic link below it is followed.
//! 2. A file has its name only when it is complete: it is written under a temporary name beside it. What has the name
//!    already is replaced only with `force`; a directory, a device, a fifo or a socket never, but by its like.
//! 3. A temporary file is locked for as long as it is written: what is not locked was left by a process that was killed, and
//!    goes when its directory is written to again.
//! 4. Memory: bytes on their way hold permits, [`BUDGET_MIB`] in all; open directories are those between the target and
//!    where the walk is, and those of files on their way.
//!
//! A directory gets its attributes when the last thing in it is done, which is when its last owner is dropped.

use std::collections::HashMap;
use std::ffi::{CStr, OsStr};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use bytes::Bytes;
use futures::future::BoxFuture;
use futures::stream::{FuturesUnordered, StreamExt};
use parking_lot::Mutex;
use rustix::fs::{
    AtFlags, CWD, FileType, FlockOperation, Gid, Mode, OFlags, RenameFlags, Timespec, Timestamps, Uid,
    XattrFlags,
};
use rustix::io::Errno;
use tokio::sync::Semaphore;

use super::Session;
use super::local::{local_failure, random};
use super::read::pieces_of;
use crate::answer::{Failure, FailureKind};
use crate::model::{
    Content, Entry, EntryBody, LinkId, Name, Timestamp, VolPath, XattrMap, chunk_start, data_runs,
};
use crate::tree;

/// Bytes on their way, MiB.
const BUDGET_MIB: u32 = 192;
/// Files on their way.
const FILES_AT_ONCE: usize = 16;
/// Chunks of one file on their way.
const CHUNKS_AT_ONCE: usize = 8;
/// Between these stands a random number in the name of what is not complete yet.
const TEMPORARY: &str = ".sailvol-get-";
const TEMPORARY_END: &str = ".tmp";
/// What has a temporary name, is no file, and was made so many seconds ago, was left behind.
const MOMENT_SECS: i64 = 600;

/// What has been done; may be looked at while it goes on.
#[derive(Debug, Default)]
pub struct Done {
    /// Everything but directories.
    pub files: AtomicU64,
    /// Directories.
    pub dirs: AtomicU64,
    /// Logical bytes of files.
    pub bytes: AtomicU64,
    /// Things that this machine does not take, and how often.
    pub not_kept: Mutex<HashMap<&'static str, u64>>,
}

/// Writes parts of one volume to local directories.
pub struct Extractor<'a> {
    session: &'a Session,
    shared: Arc<Shared>,
    budget: Semaphore,
}

#[derive(Debug)]
struct Shared {
    force: bool,
    root_user: bool,
    done: Arc<Done>,
    /// The first trouble with a directory's attributes.
    trouble: Mutex<Option<Failure>>,
}

/// A local directory that is being filled.
#[derive(Debug)]
struct OutDir {
    fd: OwnedFd,
    shown: PathBuf,
    /// Given when all in it is done.
    attrs: Option<LocalAttrs>,
    shared: Arc<Shared>,
    /// Dropped, so finished, after this one.
    above: Option<Arc<OutDir>>,
}

/// Attributes as this machine takes them.
#[derive(Clone, Debug)]
struct LocalAttrs {
    mode: u16,
    uid: u32,
    gid: u32,
    mtime: Timestamp,
    xattrs: Arc<XattrMap>,
}

/// Something that is still to be made.
struct Pending {
    dir: Arc<OutDir>,
    name: Name,
    path: VolPath,
    entry: Entry,
}

/// Files on their way.
type Running<'r> = FuturesUnordered<BoxFuture<'r, Result<(), Failure>>>;

impl<'a> Extractor<'a> {
    /// From this volume.
    pub fn new(session: &'a Session, force: bool, done: Arc<Done>) -> Extractor<'a> {
        let root_user = rustix::process::geteuid().is_root();
        let shared = Shared {
            force,
            root_user,
            done,
            trouble: Mutex::default(),
        };
        Extractor {
            session,
            shared: Arc::new(shared),
            budget: Semaphore::new(BUDGET_MIB as usize),
        }
    }

    /// Makes `entry`, which is at `path` of the volume, as `name` in the local directory `target`; without a name, what
    /// is in the directory `entry`.
    ///
    /// # Errors
    /// Something is in the way; what the store or the local disk says. Files that are complete by then stay.
    pub async fn extract(
        &self,
        target: &Path,
        name: Option<Name>,
        path: &VolPath,
        entry: Entry,
    ) -> Result<(), Failure> {
        let flags = OFlags::DIRECTORY | OFlags::RDONLY | OFlags::CLOEXEC;
        let fd = rustix::fs::openat(CWD, target, flags, Mode::empty())
            .map_err(|e| local_failure(target, &e.into()))?;
        let top = OutDir {
            fd,
            shown: target.to_owned(),
            attrs: None,
            shared: self.shared.clone(),
            above: None,
        };
        let top = Arc::new(top);
        top.clear_rests();
        let mut pending = Vec::new();
        let below = path.0.len();
        let local = |path: &VolPath| -> Vec<Name> { name.iter().chain(&path.0[below..]).cloned().collect() };
        match name.clone() {
            Some(name) => pending.push(Pending {
                dir: top.clone(),
                name,
                path: path.clone(),
                entry,
            }),
            None => self.list(&top, path, &entry, &mut pending).await?,
        }
        let mut running = Running::new();
        // The first name of each inode with several, in the volume.
        let mut names: HashMap<LinkId, VolPath> = HashMap::new();
        while let Some(next) = pending.pop() {
            while running.len() >= FILES_AT_ONCE {
                running.next().await.transpose()?;
            }
            match &next.entry.body {
                EntryBody::Dir { .. } => {
                    let below = Arc::new(self.dir(&next).await?);
                    self.list(&below, &next.path, &next.entry, &mut pending).await?;
                }
                EntryBody::HardLink(id) => {
                    if let Some(first) = names.get(id) {
                        let first = local(first);
                        next.place(|dir, temporary| link_below(&top.fd, &first, dir, temporary))?;
                        self.shared.done.files.fetch_add(1, Relaxed);
                        continue;
                    }
                    let inode = self.session.inode(next.entry.clone()).await?;
                    names.insert(*id, next.path.clone());
                    // Complete before its other names are made.
                    self.leaf(Pending { entry: inode, ..next }).await?;
                }
                _ => running.push(Box::pin(self.leaf(next))),
            }
        }
        while let Some(done) = running.next().await {
            done?;
        }
        match self.shared.trouble.lock().take() {
            Some(failure) => Err(failure),
            None => Ok(()),
        }
    }

    /// Notes what is in a directory; the first name is on top.
    async fn list(
        &self,
        dir: &Arc<OutDir>,
        path: &VolPath,
        entry: &Entry,
        pending: &mut Vec<Pending>,
    ) -> Result<(), Failure> {
        let Some((totals, tree)) = entry.as_dir() else {
            return Ok(());
        };
        let mut entries = self.session.listed(path, totals, tree).await?;
        entries.reverse();
        pending.extend(entries.into_iter().map(|(name, entry)| {
            let path = path.join(&name);
            Pending {
                dir: dir.clone(),
                name,
                path,
                entry,
            }
        }));
        Ok(())
    }

    async fn attrs(&self, entry: &Entry) -> Result<LocalAttrs, Failure> {
        let attrs = &entry.attrs;
        Ok(LocalAttrs {
            mode: attrs.mode,
            uid: attrs.uid,
            gid: attrs.gid,
            mtime: attrs.mtime,
            xattrs: tree::load_xattrs(&self.session.nodes, &attrs.xattrs).await?,
        })
    }

    /// Makes a directory, or opens the one that is there.
    async fn dir(&self, next: &Pending) -> Result<OutDir, Failure> {
        let shown = next.shown();
        let failed = |e: Errno| local_failure(&shown, &e.into());
        let attrs = self.attrs(&next.entry).await?;
        let made = match rustix::fs::mkdirat(&next.dir.fd, os(&next.name), Mode::RWXU) {
            Ok(()) => true,
            Err(Errno::EXIST) => false,
            Err(error) => return Err(failed(error)),
        };
        let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::RDONLY | OFlags::CLOEXEC;
        let fd = match rustix::fs::openat(&next.dir.fd, os(&next.name), flags, Mode::empty()) {
            Ok(fd) => fd,
            Err(Errno::NOTDIR | Errno::LOOP) => return Err(in_the_way(&shown, "and is not a directory")),
            Err(error) => return Err(failed(error)),
        };
        self.shared.done.dirs.fetch_add(1, Relaxed);
        let dir = OutDir {
            fd,
            attrs: (made || self.shared.force).then_some(attrs),
            shown,
            shared: self.shared.clone(),
            above: Some(next.dir.clone()),
        };
        if !made {
            dir.clear_rests();
        }
        Ok(dir)
    }

    /// Makes anything but a directory.
    async fn leaf(&self, next: Pending) -> Result<(), Failure> {
        next.check_free()?;
        let attrs = self.attrs(&next.entry).await?;
        let node = match &next.entry.body {
            EntryBody::File { size, content } => {
                self.file(&next, attrs, *size, content).await?;
                self.shared.done.files.fetch_add(1, Relaxed);
                return Ok(());
            }
            EntryBody::Symlink { target } => {
                next.place(|dir, temporary| {
                    rustix::fs::symlinkat(OsStr::from_bytes(target), dir, temporary)?;
                    attrs.apply_to_name(dir, temporary, false)
                })?;
                self.shared.done.files.fetch_add(1, Relaxed);
                return Ok(());
            }
            EntryBody::Fifo => (FileType::Fifo, 0),
            EntryBody::Socket => (FileType::Socket, 0),
            EntryBody::CharDev { major, minor } => {
                (FileType::CharacterDevice, rustix::fs::makedev(*major, *minor))
            }
            EntryBody::BlockDev { major, minor } => {
                (FileType::BlockDevice, rustix::fs::makedev(*major, *minor))
            }
            EntryBody::Dir { .. } | EntryBody::HardLink(_) => return Ok(()),
        };
        let (kind, device) = node;
        if device != 0 && !self.shared.root_user {
            self.shared.not_kept("device nodes (only root makes them)");
            return Ok(());
        }
        next.place(|dir, temporary| {
            rustix::fs::mknodat(dir, temporary, kind, Mode::RUSR | Mode::WUSR, device)?;
            attrs.apply_to_name(dir, temporary, true)
        })?;
        self.shared.done.files.fetch_add(1, Relaxed);
        Ok(())
    }

    async fn file(
        &self,
        next: &Pending,
        attrs: LocalAttrs,
        size: u64,
        content: &Content,
    ) -> Result<(), Failure> {
        let shown = next.shown();
        let (temporary, file) = Temporary::file(&next.dir, &shown)?;
        let file = Arc::new(file);
        file.set_len(size).map_err(|e| local_failure(&shown, &e))?;
        let pieces = if size == 0 { 0 } else { pieces_of(size, content) };
        let mut writes = futures::stream::iter(0..pieces)
            .map(|index| self.piece(&file, &shown, size, content, index))
            .buffer_unordered(CHUNKS_AT_ONCE);
        while let Some(written) = writes.next().await {
            written?;
        }
        drop(writes);
        let shared = self.shared.clone();
        let (name, force) = (next.name.clone(), shared.force);
        let finished = tokio::task::spawn_blocking(move || {
            let failed = |e: io::Error| local_failure(&shown, &e);
            attrs.apply(&*file, &shared).map_err(|e| failed(e.into()))?;
            temporary
                .become_name(&name, force)
                .map_err(|e| place_failure(&shown, e))
        });
        finished
            .await
            .map_err(|e| Failure::new(FailureKind::Failed, e.to_string()))?
    }

    /// Brings one chunk of a file.
    async fn piece(
        &self,
        file: &Arc<File>,
        shown: &Path,
        size: u64,
        content: &Content,
        index: u64,
    ) -> Result<(), Failure> {
        let chunked = matches!(content, Content::Chunks { .. } | Content::Paged { .. });
        let (start, len) = match chunked {
            true => (chunk_start(index), crate::model::chunk_len(index, size)),
            false => (0, size),
        };
        let mib = u32::try_from(len.div_ceil(1 << 20))
            .unwrap_or(BUDGET_MIB)
            .clamp(1, BUDGET_MIB);
        let stopped = |_| Failure::new(FailureKind::Failed, "interrupted");
        let permit = self.budget.acquire_many(mib).await.map_err(stopped)?;
        if let Some(bytes) = self.session.chunk(size, content, index).await? {
            let file = file.clone();
            let written = tokio::task::spawn_blocking(move || write_sparse(&file, &bytes, start)).await;
            let written = written.map_err(io::Error::other).flatten();
            written.map_err(|e| local_failure(shown, &e))?;
        }
        drop(permit);
        self.shared.done.bytes.fetch_add(len, Relaxed);
        Ok(())
    }
}

/// Makes another name for what is at a path below `top`, following no symbolic link.
fn link_below(top: &OwnedFd, first: &[Name], dir: &OwnedFd, name: &str) -> rustix::io::Result<()> {
    let (last, above) = first.split_last().ok_or(Errno::NOENT)?;
    let mut at = rustix::io::dup(top)?;
    for step in above {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        at = rustix::fs::openat(&at, os(step), flags, Mode::empty())?;
    }
    rustix::fs::linkat(&at, os(last), dir, name, AtFlags::empty())
}

/// Writes bytes to a file that is empty there, leaving holes where blocks are zero.
fn write_sparse(file: &File, bytes: &Bytes, start: u64) -> io::Result<()> {
    let mut runs = data_runs(bytes);
    runs.try_for_each(|run| file.write_all_at(&bytes[run.clone()], start + run.start as u64))
}

impl Shared {
    fn not_kept(&self, what: &'static str) {
        *self.done.not_kept.lock().entry(what).or_default() += 1;
    }
}

impl LocalAttrs {
    /// Owner before mode: a change of owner takes setuid away. Without the owner there is none.
    fn apply(&self, file: impl AsFd, shared: &Shared) -> rustix::io::Result<()> {
        for (name, value) in &*self.xattrs {
            match rustix::fs::fsetxattr(&file, &**name, value, XattrFlags::empty()) {
                Err(Errno::NOTSUP | Errno::PERM | Errno::ACCESS | Errno::NOSPC | Errno::TOOBIG) => {
                    shared.not_kept("extended attributes");
                }
                result => result?,
            }
        }
        let mut mode = self.mode;
        if shared.root_user {
            rustix::fs::fchown(
                &file,
                Some(Uid::from_raw(self.uid)),
                Some(Gid::from_raw(self.gid)),
            )?;
        } else {
            mode &= !0o6000;
        }
        rustix::fs::fchmod(&file, Mode::from_raw_mode(mode.into()))?;
        rustix::fs::futimens(&file, &times(self.mtime))
    }

    /// For what cannot be opened.
    fn apply_to_name(&self, dir: &OwnedFd, name: &str, has_mode: bool) -> rustix::io::Result<()> {
        let root_user = rustix::process::geteuid().is_root();
        if root_user {
            let (uid, gid) = (Uid::from_raw(self.uid), Gid::from_raw(self.gid));
            rustix::fs::chownat(dir, name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)?;
        }
        if has_mode {
            // The name is a random one that was made just now.
            let mode = if root_user { self.mode } else { self.mode & !0o6000 };
            rustix::fs::chmodat(dir, name, Mode::from_raw_mode(mode.into()), AtFlags::empty())?;
        }
        rustix::fs::utimensat(dir, name, &times(self.mtime), AtFlags::SYMLINK_NOFOLLOW)
    }
}

fn times(mtime: Timestamp) -> Timestamps {
    let time = Timespec {
        tv_sec: mtime.secs,
        tv_nsec: mtime.nanos.into(),
    };
    Timestamps {
        last_access: time,
        last_modification: time,
    }
}

impl OutDir {
    /// Removes what a killed process left here half written. It is no failure of this one when it cannot.
    fn clear_rests(&self) {
        let Ok(names) = rustix::fs::Dir::read_from(&self.fd) else {
            return;
        };
        let rests = names
            .flatten()
            .filter(|entry| is_temporary(entry.file_name().to_bytes()));
        for rest in rests {
            if self.is_left(rest.file_name()) {
                let _ = rustix::fs::unlinkat(&self.fd, rest.file_name(), AtFlags::empty());
            }
        }
    }

    /// Nobody works on it any more.
    fn is_left(&self, name: &CStr) -> bool {
        let Ok(stat) = rustix::fs::statat(&self.fd, name, AtFlags::SYMLINK_NOFOLLOW) else {
            return false;
        };
        if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
            // It gets its name in the moment in which it was made.
            let now = rustix::time::clock_gettime(rustix::time::ClockId::Realtime).tv_sec;
            return now.saturating_sub(stat.st_ctime) > MOMENT_SECS;
        }
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let opened = rustix::fs::openat(&self.fd, name, flags, Mode::empty());
        opened.is_ok_and(|fd| rustix::fs::flock(&fd, FlockOperation::NonBlockingLockExclusive).is_ok())
    }
}

impl Drop for OutDir {
    fn drop(&mut self) {
        if let Some(attrs) = self.attrs.take()
            && let Err(error) = attrs.apply(&self.fd, &self.shared)
        {
            self.shared
                .trouble
                .lock()
                .get_or_insert_with(|| local_failure(&self.shown, &error.into()));
        }
        // From here on the one above may be finished: its owner is dropped next.
        drop(self.above.take());
    }
}

impl Pending {
    fn shown(&self) -> PathBuf {
        self.dir.shown.join(os(&self.name))
    }

    /// Looks before much is fetched; what counts is [`Temporary::become_name`].
    fn check_free(&self) -> Result<(), Failure> {
        let look = |flags| rustix::fs::statat(&self.dir.fd, os(&self.name), flags);
        let Ok(stat) = look(AtFlags::SYMLINK_NOFOLLOW) else {
            return Ok(());
        };
        let kind = FileType::from_raw_mode(stat.st_mode);
        if kind == FileType::Directory {
            return Err(in_the_way(&self.shown(), "as a directory"));
        }
        if !self.dir.shared.force {
            return Err(in_the_way(&self.shown(), "already"));
        }
        // Whoever names /dev/null, or a link to a terminal, means what is behind it: replacing it helps nobody.
        let behind = match kind {
            FileType::Symlink => look(AtFlags::empty()).map(|stat| FileType::from_raw_mode(stat.st_mode)),
            kind => Ok(kind),
        };
        match behind {
            Ok(special) if is_special(special) && !self.is_like(kind, stat.st_rdev) => {
                let what = match special {
                    FileType::Fifo => "a fifo",
                    FileType::Socket => "a socket",
                    _ => "a device",
                };
                let link = if kind == FileType::Symlink {
                    "a link to "
                } else {
                    ""
                };
                Err(in_the_way(&self.shown(), &format!("as {link}{what}")))
            }
            _ => Ok(()),
        }
    }

    /// What is to be made is what is there: a device, fifo or socket that was brought before.
    fn is_like(&self, kind: FileType, device: u64) -> bool {
        match &self.entry.body {
            EntryBody::Fifo => kind == FileType::Fifo,
            EntryBody::Socket => kind == FileType::Socket,
            EntryBody::CharDev { major, minor } => {
                kind == FileType::CharacterDevice && rustix::fs::makedev(*major, *minor) == device
            }
            EntryBody::BlockDev { major, minor } => {
                kind == FileType::BlockDevice && rustix::fs::makedev(*major, *minor) == device
            }
            _ => false,
        }
    }

    /// Makes something under a temporary name, and gives it its own.
    fn place(&self, make: impl FnOnce(&OwnedFd, &str) -> rustix::io::Result<()>) -> Result<(), Failure> {
        self.check_free()?;
        let temporary = Temporary::new(self.dir.clone())?;
        let made = make(&self.dir.fd, &temporary.name);
        made.map_err(|e| local_failure(&self.shown(), &e.into()))?;
        temporary
            .become_name(&self.name, self.dir.shared.force)
            .map_err(|e| place_failure(&self.shown(), e))
    }
}

/// A temporary name; what is there goes when this is dropped.
struct Temporary {
    dir: Arc<OutDir>,
    name: String,
}

impl Temporary {
    fn new(dir: Arc<OutDir>) -> Result<Temporary, Failure> {
        let name = format!("{TEMPORARY}{:016x}{TEMPORARY_END}", u64::from_le_bytes(random()?));
        Ok(Temporary { dir, name })
    }

    /// A new file under a temporary name, locked.
    fn file(dir: &Arc<OutDir>, shown: &Path) -> Result<(Temporary, File), Failure> {
        let failed = |e: Errno| local_failure(shown, &e.into());
        let flags = OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::WRONLY | OFlags::CLOEXEC;
        loop {
            let temporary = Temporary::new(dir.clone())?;
            let fd = rustix::fs::openat(&dir.fd, &temporary.name, flags, Mode::RUSR | Mode::WUSR);
            let fd = fd.map_err(failed)?;
            match rustix::fs::flock(&fd, FlockOperation::NonBlockingLockExclusive) {
                // Somebody looks for rests, and was faster.
                Err(Errno::WOULDBLOCK) => continue,
                // Where nothing can be locked, nobody removes anything either.
                _ if rustix::fs::fstat(&fd).map_err(failed)?.st_nlink == 0 => continue,
                _ => return Ok((temporary, File::from(fd))),
            }
        }
    }

    fn become_name(self, name: &Name, force: bool) -> rustix::io::Result<()> {
        let (dir, name) = (&self.dir.fd, os(name));
        if force {
            return rustix::fs::renameat(dir, &self.name, dir, name);
        }
        match rustix::fs::renameat_with(dir, &self.name, dir, name, RenameFlags::NOREPLACE) {
            // Some filesystems cannot: a link does not replace either, and the temporary name goes on drop.
            Err(Errno::INVAL | Errno::NOSYS | Errno::NOTSUP) => {
                rustix::fs::linkat(dir, &self.name, dir, name, AtFlags::empty())
            }
            result => result,
        }
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        // After a rename nothing is there. After a failure it is what could not be used.
        let _ = rustix::fs::unlinkat(&self.dir.fd, &self.name, AtFlags::empty());
    }
}

fn is_temporary(name: &[u8]) -> bool {
    let number = name
        .strip_prefix(TEMPORARY.as_bytes())
        .and_then(|rest| rest.strip_suffix(TEMPORARY_END.as_bytes()));
    number.is_some_and(|number| number.len() == 16 && number.iter().all(u8::is_ascii_hexdigit))
}

fn is_special(kind: FileType) -> bool {
    matches!(
        kind,
        FileType::CharacterDevice | FileType::BlockDevice | FileType::Fifo | FileType::Socket
    )
}

fn os(name: &Name) -> &OsStr {
    OsStr::from_bytes(name.as_bytes())
}

fn in_the_way(shown: &Path, how: &str) -> Failure {
    let failure = Failure::new(
        FailureKind::Exists,
        format!("{}: is there {how}", shown.display()),
    );
    failure.hint("--force replaces files and symbolic links, and nothing else; - is standard output")
}

fn place_failure(shown: &Path, error: Errno) -> Failure {
    match error {
        Errno::EXIST => in_the_way(shown, "already"),
        Errno::ISDIR | Errno::NOTEMPTY => in_the_way(shown, "as a directory"),
        other => local_failure(shown, &other.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::MetadataExt;

    fn out_dir(path: &Path) -> Arc<OutDir> {
        let shared = Shared {
            force: true,
            root_user: false,
            done: Arc::default(),
            trouble: Mutex::default(),
        };
        Arc::new(OutDir {
            fd: File::open(path).unwrap().into(),
            shown: path.to_owned(),
            attrs: None,
            shared: Arc::new(shared),
            above: None,
        })
    }

    #[test]
    fn rests_of_the_killed_go_and_work_under_way_stays() {
        let dir = tempfile::tempdir().unwrap();
        let out = out_dir(dir.path());
        let (temporary, file) = Temporary::file(&out, dir.path()).unwrap();
        let names = |wanted: &[&str]| {
            let mut found: Vec<_> = std::fs::read_dir(dir.path())
                .unwrap()
                .map(|entry| entry.unwrap().file_name().into_string().unwrap())
                .collect();
            found.sort_unstable();
            let mut wanted: Vec<_> = wanted.iter().map(|name| (*name).to_owned()).collect();
            wanted.push(temporary.name.clone());
            wanted.sort_unstable();
            assert_eq!(found, wanted);
        };
        let left = format!("{TEMPORARY}0123456789abcdef{TEMPORARY_END}");
        let others = [
            ".sailvol-get-notes.tmp",
            ".sailvol-get-0123456789abcdef",
            "file.tmp",
        ];
        for name in others.into_iter().chain([left.as_str()]) {
            std::fs::write(dir.path().join(name), b"x").unwrap();
        }
        // Made this moment: by somebody who lives.
        let link = format!("{TEMPORARY}aaaaaaaaaaaaaaaa{TEMPORARY_END}");
        std::os::unix::fs::symlink("nowhere", dir.path().join(&link)).unwrap();
        out.clear_rests();
        names(&[others[0], others[1], others[2], &link]);
        drop(file);
        out.clear_rests();
        assert!(!dir.path().join(&temporary.name).exists());
    }

    #[test]
    fn zero_blocks_are_not_written() {
        let dir = tempfile::tempdir().unwrap();
        let file = File::create_new(dir.path().join("f")).unwrap();
        let mut bytes = vec![0u8; 64 << 10];
        bytes[20_000] = 1;
        bytes.extend([2; 10]);
        file.set_len(bytes.len() as u64 + 4096).unwrap();
        write_sparse(&file, &bytes.clone().into(), 4096).unwrap();
        let read = std::fs::read(dir.path().join("f")).unwrap();
        assert_eq!(&read[4096..], &bytes[..]);
        assert!(file.metadata().unwrap().blocks() * 512 <= 16 << 10);
    }
}
