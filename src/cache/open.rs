//! Opening: the directory is ours alone, what is left of an earlier session is taken up.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use parking_lot::Mutex;
use rustix::fs::FlockOperation;
use tokio::runtime::Handle;

use super::contents::Contents;
use super::disk::{Disk, listed, unlink};
use super::index::{Index, Remembered};
use super::lists::LIST_MEMORY_BYTES;
use super::lru::Lru;
use super::packs::{Packs, Window, parse_name};
use super::remote::Remote;
use super::segment::{Segment, SegmentKey};
use super::space::{Space, charge};
use super::{Cache, CacheError, CacheOptions, GROUP_BYTES};
use crate::model::{HOLE_BYTES, ITEM_BYTES_MAX, VolumeId};
use crate::store::ObjectStore;

pub(super) const PACKS: &str = "packs";
pub(super) const CONTENTS: &str = "contents";
pub(super) const INDEX: &str = "index";
pub(super) const LOCK: &str = "lock";
pub(super) const VOLUME: &str = "volume";
/// Nothing is read ahead further than this, bytes. At most 64 MiB of it are on their way at a time, which keeps a link of
/// 10 Gbit/s busy at 50 ms; the rest has arrived, so that the link goes on while the reader takes it.
const AHEAD_BYTES_MAX: u64 = 192 << 20;
/// Memory for headers of chunks, bytes: enough for 100 GB of 64 MiB chunks.
const HEADER_MEMORY_BYTES: u64 = 8 << 20;

impl Cache {
    /// Opens or makes the cache in `options.dir`. Blocks on the disk; must be called inside a tokio runtime, in which
    /// fetches then run.
    ///
    /// # Errors
    /// The directory is in use, not ours alone, or cannot be used. What is in it cannot make this fail: what is not
    /// understood is deleted.
    pub fn open(
        options: CacheOptions,
        store: Arc<dyn ObjectStore>,
        volume: VolumeId,
    ) -> Result<Arc<Cache>, CacheError> {
        let runtime = Handle::try_current().map_err(|_| CacheError::NoRuntime)?;
        let dir = options.dir.clone();
        let opened = own_directory(&dir)?;
        let lock = lock(&dir)?;
        if !is_of_volume(&dir, &volume) {
            wipe(&dir)?;
        }
        for part in [PACKS, CONTENTS, INDEX] {
            make_dir(&dir.join(part))?;
        }
        write_volume(&dir, &volume)?;
        let space = Space::new(options.bytes_max, options.free_floor_bytes, opened);
        let index = Index::open(&dir.join(INDEX));
        let found = Found::read(&dir, &index)?;
        let disk = Disk::new(space, index, found.next_number, found.next_tick);
        let packs = Packs::new(dir.join(PACKS));
        let contents = Contents::new(dir.join(CONTENTS), options.bytes_max);
        found.take_up(&dir, &disk, &packs, &contents);
        let remote = Remote::new(
            store,
            options.remote_timeout,
            options.fetches_max,
            options.memory_bytes_max,
        );
        let ahead_max = AHEAD_BYTES_MAX
            .min(options.memory_bytes_max.saturating_mul(3) / 2)
            .min(options.bytes_max / 4);
        let pieces_max = (options.node_memory_bytes / 4).max(ITEM_BYTES_MAX);
        let cache = Arc::new_cyclic(|me| Cache {
            dir,
            lock,
            volume,
            me: me.clone(),
            runtime,
            remote,
            packs,
            contents,
            nodes: Mutex::new(Lru::new(options.node_memory_bytes)),
            pieces: Mutex::new(Lru::new(pieces_max)),
            headers: Mutex::new(Lru::new(HEADER_MEMORY_BYTES)),
            lists: Mutex::new(Lru::new(LIST_MEMORY_BYTES)),
            evicting: Mutex::new(()),
            remembered_tick: AtomicU64::new(disk.tick()),
            disk,
            ahead_max: if ahead_max < GROUP_BYTES {
                ahead_max / 2
            } else {
                ahead_max
            },
            pinned_bytes: Arc::default(),
        });
        cache.make_room(0);
        Ok(cache)
    }
}

/// What is in the directory.
struct Found {
    remembered: Remembered,
    windows: Vec<(String, PathBuf, u64, u64)>,
    contents: Vec<(String, PathBuf, u64, u64)>,
    next_number: u64,
    next_tick: u64,
}

impl Found {
    fn read(dir: &Path, index: &Index) -> Result<Found, CacheError> {
        let remembered = index.remembered();
        let list = |part: &str| {
            let path = dir.join(part);
            listed(&path).map_err(|source| CacheError::Io { path, source })
        };
        let (windows, contents) = (list(PACKS)?, list(CONTENTS)?);
        let known = remembered.frames.keys().chain(remembered.used.keys()).copied();
        let in_packs = windows
            .iter()
            .filter_map(|(_, path, ..)| parse_name(path))
            .map(|(.., number)| number);
        let in_contents = contents
            .iter()
            .filter_map(|(name, ..)| SegmentKey::parse(name))
            .map(|(_, number)| number);
        let last = known.chain(in_packs).chain(in_contents).max().unwrap_or(0);
        let next_tick = remembered
            .used
            .values()
            .max()
            .map_or(1, |tick| tick.saturating_add(1));
        Ok(Found {
            remembered,
            windows,
            contents,
            next_number: last.saturating_add(1),
            next_tick,
        })
    }

    /// Puts files whose meaning is known into the maps, deletes the others, and forgets what has no file.
    fn take_up(mut self, dir: &Path, disk: &Disk, packs: &Packs, contents: &Contents) {
        let mut live = std::collections::HashSet::new();
        for (_, path, blocks, len) in self.windows {
            let Some((pack, start, number)) = parse_name(&path).filter(|_| len > 0) else {
                unlink(&path);
                continue;
            };
            let room = disk.space.found(charge(len.max(blocks), 1));
            let window = Window::found(pack, start, number, path, len, room);
            self.remembered
                .used
                .get(&number)
                .inspect(|tick| window.used_at(**tick));
            packs.found(window);
            live.insert(number);
        }
        for (name, path, blocks, len) in self.contents {
            let parsed = SegmentKey::parse(&name);
            let marks = parsed.and_then(|(_, number)| self.remembered.frames.remove(&number));
            let (Some((key, number)), Some(marks)) = (parsed, marks) else {
                unlink(&path);
                continue;
            };
            let room = disk.space.found(blocks + u64::from(marks) * HOLE_BYTES);
            let segment = Segment::found(&dir.join(CONTENTS), key, number, len, marks, room);
            self.remembered
                .used
                .get(&number)
                .inspect(|tick| segment.used_at(**tick));
            if contents.insert(segment) {
                live.insert(number);
            } else {
                unlink(&path);
            }
        }
        let stale = self.remembered.frames.keys().chain(self.remembered.used.keys());
        let stale: std::collections::HashSet<u64> =
            stale.copied().filter(|number| !live.contains(number)).collect();
        stale.into_iter().for_each(|number| disk.index.forget(number));
    }
}

/// Makes the directory if need be and sees that it is ours and nobody else's.
fn own_directory(dir: &Path) -> Result<File, CacheError> {
    let io = |source| CacheError::Io {
        path: dir.to_owned(),
        source,
    };
    let not_ours = |reason: String| CacheError::Unsafe {
        path: dir.to_owned(),
        reason,
    };
    if let Err(e) = DirBuilder::new().recursive(true).mode(0o700).create(dir)
        && e.kind() != io::ErrorKind::AlreadyExists
    {
        return Err(io(e));
    }
    let flags = libc::O_DIRECTORY | libc::O_NOFOLLOW;
    let opened = OpenOptions::new()
        .read(true)
        .custom_flags(flags)
        .open(dir)
        .map_err(|e| match e.raw_os_error() {
            Some(libc::ELOOP | libc::ENOTDIR) => {
                not_ours("it is no directory, or a symbolic link to one".to_owned())
            }
            _ => io(e),
        })?;
    let meta = opened.metadata().map_err(io)?;
    let user = rustix::process::geteuid().as_raw();
    if meta.uid() != user {
        return Err(not_ours(format!(
            "it belongs to user {}, we are user {user}",
            meta.uid()
        )));
    }
    let mode = meta.permissions().mode() & 0o7777;
    if mode & 0o077 != 0 {
        return Err(not_ours(format!(
            "others may use it (mode {mode:o}); chmod 700 it"
        )));
    }
    Ok(opened)
}

fn lock(dir: &Path) -> Result<File, CacheError> {
    let path = dir.join(LOCK);
    let mut options = OpenOptions::new();
    options
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .custom_flags(libc::O_NOFOLLOW);
    let file = options.open(&path).map_err(|source| CacheError::Io {
        path: path.clone(),
        source,
    })?;
    match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(file),
        Err(rustix::io::Errno::WOULDBLOCK) => Err(CacheError::Busy { path: dir.to_owned() }),
        Err(e) => Err(CacheError::Io {
            path,
            source: e.into(),
        }),
    }
}

fn is_of_volume(dir: &Path, volume: &VolumeId) -> bool {
    std::fs::read_to_string(dir.join(VOLUME)).is_ok_and(|text| text.trim() == volume.to_string())
}

fn write_volume(dir: &Path, volume: &VolumeId) -> Result<(), CacheError> {
    let path = dir.join(VOLUME);
    let mut options = OpenOptions::new();
    options
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .custom_flags(libc::O_NOFOLLOW);
    let written = options
        .open(&path)
        .and_then(|mut file| io::Write::write_all(&mut file, format!("{volume}\n").as_bytes()));
    written.map_err(|source| CacheError::Io { path, source })
}

/// Deletes what another volume has left.
fn wipe(dir: &Path) -> Result<(), CacheError> {
    for part in [PACKS, CONTENTS, INDEX] {
        let path = dir.join(part);
        match std::fs::remove_dir_all(&path) {
            Err(source) if source.kind() != io::ErrorKind::NotFound => {
                return Err(CacheError::Io { path, source });
            }
            _ => {}
        }
    }
    Ok(())
}

fn make_dir(path: &Path) -> Result<(), CacheError> {
    let io = |source| CacheError::Io {
        path: path.to_owned(),
        source,
    };
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .or_else(|e| match e.kind() {
            io::ErrorKind::AlreadyExists => Ok(()),
            _ => Err(e),
        })
        .map_err(io)?;
    if std::fs::symlink_metadata(path).map_err(io)?.is_dir() {
        return Ok(());
    }
    // A file, or a symbolic link to somewhere else: nothing of ours. The directory is to be ours alone.
    std::fs::remove_file(path).map_err(io)?;
    DirBuilder::new().mode(0o700).create(path).map_err(io)
}
