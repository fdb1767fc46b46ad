//! All bodies of a state directory: created ahead, removed in the background.

use std::collections::HashSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

use super::body::{Body, BodyStat};
use super::descriptors::{OpenBodies, ahead_max};
use super::error::{AtPath, OverlayError};
use super::journal::sync_dir;
use super::reserve::{Reserve, is_full};
use super::state::BodyId;

/// Bodies that are made one after the other in one directory.
const BODIES_PER_SHARD: u64 = 4096;
/// So long an op that shows bytes may wait for them to be on disk: what came after it would be lost with it (J9). As long as
/// ext4 keeps a transaction open.
const SHOWN_DELAY: Duration = Duration::from_secs(5);

pub(super) struct Bodies {
    dir: PathBuf,
    reserve: Reserve,
    ahead_max: usize,
    /// The last time that bodies were to be made ahead the file system had little room left.
    scarce: AtomicBool,
    next: AtomicU64,
    work: Mutex<Work>,
    wake: Condvar,
    open: Arc<OpenBodies>,
    /// Held while files are removed: who asks for room waits for what is on its way out.
    removing: Mutex<()>,
}

#[derive(Default)]
struct Work {
    /// Empty bodies that no op named yet.
    ahead: Vec<Arc<Body>>,
    /// Bodies to remove once the journal is on disk up to the position.
    doomed: Vec<(BodyId, u64)>,
    /// Bodies on disk that no op named yet.
    durable: HashSet<BodyId>,
    /// When a sync is due that nobody asked for.
    sync_by: Option<Instant>,
    /// More room is to be set aside.
    more_reserve: bool,
    stop: bool,
}

impl Bodies {
    /// `open`: bodies that are open at the same time.
    pub(super) fn new(state_dir: &Path, ahead: usize, open: Arc<OpenBodies>) -> Result<Bodies, OverlayError> {
        let dir = state_dir.join("bodies");
        let reserve = Reserve::of(state_dir);
        reserve.make_room_for(|| super::dir::make_dir(&dir))?;
        Ok(Bodies {
            dir,
            reserve,
            ahead_max: ahead_max(ahead),
            scarce: AtomicBool::new(false),
            open,
            next: AtomicU64::new(1),
            work: Mutex::default(),
            wake: Condvar::new(),
            removing: Mutex::new(()),
        })
    }

    pub(super) fn path(&self, id: BodyId) -> PathBuf {
        self.shard(id).join(format!("{id:016x}"))
    }

    fn shard(&self, id: BodyId) -> PathBuf {
        self.dir.join(format!("{:02x}", id & 0xff))
    }

    /// Numbers below this one are never given again.
    pub(super) fn next(&self) -> BodyId {
        self.next.load(Ordering::Relaxed)
    }

    pub(super) fn raise_next(&self, next: BodyId) {
        self.next.fetch_max(next, Ordering::Relaxed);
    }

    /// An empty body; one that was created ahead, if there is one.
    pub(super) fn create(&self) -> Result<Arc<Body>, OverlayError> {
        let mut work = self.work.lock();
        let body = work.ahead.pop();
        if work.ahead.len() < self.ahead_max / 2 && !self.is_scarce() {
            self.wake.notify_one();
        }
        drop(work);
        match body {
            Some(body) => Ok(body),
            None => self.create_now(),
        }
    }

    /// True while none are made ahead, because there is little room: what is there is for who needs it now.
    pub(super) fn is_scarce(&self) -> bool {
        self.scarce.load(Ordering::Relaxed)
    }

    /// A number for a new body. Numbers go up in steps of 256, so that bodies made one after the other lie in one directory: a
    /// small file must not cost an inode for a directory too. Every 4,096 numbers, and at each start, another directory has
    /// its turn.
    fn next_id(&self) -> BodyId {
        let step = |id: BodyId| {
            id + if (id >> 8) % BODIES_PER_SHARD == BODIES_PER_SHARD - 1 {
                257
            } else {
                256
            }
        };
        let taken = self
            .next
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |id| Some(step(id)));
        taken.unwrap_or_else(|id| id)
    }

    fn create_now(&self) -> Result<Arc<Body>, OverlayError> {
        let id = self.next_id();
        match Body::create(id, self.path(id), &self.open) {
            Err(OverlayError::Io { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => {
                super::dir::make_dir(&self.shard(id))?;
                Body::create(id, self.path(id), &self.open).map(Arc::new)
            }
            other => other.map(Arc::new),
        }
    }

    /// A body out of a file that `take` moves to the path that it is given; `None` when it does not.
    pub(super) fn take_in(
        &self,
        take: impl FnOnce(&Path) -> bool,
    ) -> Result<Option<Arc<Body>>, OverlayError> {
        let id = self.next_id();
        super::dir::make_dir(&self.shard(id))?;
        if !take(&self.path(id)) {
            return Ok(None);
        }
        self.open(id).map(Some)
    }

    pub(super) fn open(&self, id: BodyId) -> Result<Arc<Body>, OverlayError> {
        Body::open(id, self.path(id), &self.open).map(Arc::new)
    }

    /// What the filesystem says of a body, without opening it.
    pub(super) fn stat(&self, id: BodyId) -> Result<BodyStat, OverlayError> {
        let path = self.path(id);
        let meta = fs::symlink_metadata(&path);
        meta.map(|meta| BodyStat::of(&meta)).at(&path)
    }

    /// The names of new bodies on disk (J4).
    pub(super) fn sync_names(&self, ids: &[BodyId]) -> Result<(), OverlayError> {
        let shards: HashSet<PathBuf> = ids.iter().map(|id| self.shard(*id)).collect();
        if shards.is_empty() {
            return Ok(());
        }
        shards.iter().try_for_each(|shard| sync_dir(shard))?;
        sync_dir(&self.dir)
    }

    /// Everything that is said by now is to be on disk a few seconds from now.
    pub(super) fn want_sync(&self) {
        let mut work = self.work.lock();
        if work.sync_by.is_none() {
            work.sync_by = Some(Instant::now() + SHOWN_DELAY);
            self.wake.notify_one();
        }
    }

    /// True, once, when that time has come.
    pub(super) fn take_sync_due(&self) -> bool {
        let mut work = self.work.lock();
        let due = work.sync_by.is_some_and(|by| by <= Instant::now());
        if due {
            work.sync_by = None;
        }
        due
    }

    pub(super) fn set_durable(&self, id: BodyId) {
        self.work.lock().durable.insert(id);
    }

    pub(super) fn is_durable(&self, id: BodyId) -> bool {
        self.work.lock().durable.contains(&id)
    }

    pub(super) fn take_durable(&self, id: BodyId) -> bool {
        let mut work = self.work.lock();
        !work.durable.is_empty() && work.durable.remove(&id)
    }

    /// To be removed once the journal is on disk up to `position` (J8).
    pub(super) fn doom(&self, ids: impl IntoIterator<Item = BodyId>, position: u64) {
        let mut work = self.work.lock();
        let before = work.doomed.len();
        work.doomed.extend(ids.into_iter().map(|id| (id, position)));
        if work.doomed.len() > before {
            self.wake.notify_one();
        }
    }

    /// The latest position that a removal waits for.
    pub(super) fn wanted_position(&self) -> Option<u64> {
        self.work
            .lock()
            .doomed
            .iter()
            .map(|(_, position)| *position)
            .max()
    }

    /// Removes what may go now. What somebody still knows waits: it may be opened again by its name.
    pub(super) fn remove_doomed(&self, synced: u64) -> Result<u64, OverlayError> {
        let _turn = self.removing.lock();
        let mut work = self.work.lock();
        let (now, later) = work
            .doomed
            .drain(..)
            .partition::<Vec<_>, _>(|(_, position)| *position <= synced);
        work.doomed = later;
        drop(work);
        let mut removed = 0;
        let mut known = Vec::new();
        for (id, position) in now {
            match self.open.remove_name(id, || remove_file(&self.path(id))) {
                Some(done) => {
                    done?;
                    removed += 1;
                }
                None => known.push((id, position)),
            }
        }
        self.work.lock().doomed.extend(known);
        Ok(removed)
    }

    /// The body's file is about to be moved to another name.
    pub(super) fn keep_open(&self, id: BodyId) -> Result<(), OverlayError> {
        self.open.keep_open(id)
    }

    /// Creates bodies ahead, up to the number wished, while there is plenty of room: the last of it is not for what may never
    /// be needed.
    pub(super) fn refill(&self) -> Result<(), OverlayError> {
        loop {
            if self.work.lock().ahead.len() >= self.ahead_max {
                self.scarce.store(false, Ordering::Relaxed);
                return Ok(());
            }
            let made = match self.reserve.is_plenty() {
                true => self.create_now(),
                false => {
                    self.scarce.store(true, Ordering::Relaxed);
                    return Ok(());
                }
            };
            match made {
                Ok(body) => self.work.lock().ahead.push(body),
                // A quota, of which the file system does not tell.
                Err(error) if is_full(&error) => {
                    self.scarce.store(true, Ordering::Relaxed);
                    return Ok(());
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// Waits until there is something to do; false when it is time to stop.
    pub(super) fn wait_for_work(&self, at_most: Duration) -> bool {
        let mut work = self.work.lock();
        let wants_more = work.ahead.len() < self.ahead_max / 2;
        if std::mem::take(&mut work.more_reserve) {
            return !work.stop;
        }
        if !work.stop && wants_more && self.is_scarce() {
            self.wake.wait_for(&mut work, at_most);
        } else if !work.stop && !wants_more {
            match (work.doomed.is_empty(), work.sync_by) {
                (true, None) => self.wake.wait(&mut work),
                (true, Some(by)) => {
                    self.wake.wait_until(&mut work, by);
                }
                // A little later there is more to remove after the same sync.
                (false, _) => {
                    self.wake.wait_for(&mut work, at_most);
                }
            }
        }
        !work.stop
    }

    /// The overlay has become so large that more room is to be set aside for it.
    pub(super) fn want_reserve(&self) {
        self.work.lock().more_reserve = true;
        self.wake.notify_one();
    }

    /// Waits after an error, so that it is not met again at once.
    pub(super) fn pause(&self, time: Duration) {
        let mut work = self.work.lock();
        if !work.stop {
            self.wake.wait_for(&mut work, time);
        }
    }

    pub(super) fn stop(&self) {
        self.work.lock().stop = true;
        self.wake.notify_all();
    }

    /// An empty body in the place of one that is gone.
    pub(super) fn recreate(&self, id: BodyId) -> Result<(), OverlayError> {
        super::dir::make_dir(&self.shard(id))?;
        Body::create(id, self.path(id), &self.open).map(|_| ())
    }

    /// Every body on disk.
    pub(super) fn list(&self) -> Result<Vec<BodyId>, OverlayError> {
        let mut found = Vec::new();
        for shard in fs::read_dir(&self.dir).at(&self.dir)? {
            let shard = shard.at(&self.dir)?.path();
            for entry in fs::read_dir(&shard).at(&shard)? {
                let name = entry.at(&shard)?.file_name();
                let id = name
                    .to_str()
                    .and_then(|name| BodyId::from_str_radix(name, 16).ok());
                found.extend(id);
            }
        }
        Ok(found)
    }

    /// Removes everything: nothing is referred to any more.
    pub(super) fn clear(&self) -> Result<(), OverlayError> {
        let mut work = self.work.lock();
        work.ahead.clear();
        work.doomed.clear();
        work.durable.clear();
        for shard in fs::read_dir(&self.dir).at(&self.dir)? {
            let shard = shard.at(&self.dir)?.path();
            fs::remove_dir_all(&shard).at(&shard)?;
        }
        Ok(())
    }

    /// Removes the bodies that were created ahead.
    pub(super) fn drop_ahead(&self) -> Result<(), OverlayError> {
        let ahead = std::mem::take(&mut self.work.lock().ahead);
        for body in ahead {
            remove_file(body.path())?;
        }
        Ok(())
    }
}

pub(super) fn remove_file(path: &Path) -> Result<(), OverlayError> {
    match fs::remove_file(path) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(()),
        other => other.at(path),
    }
}
