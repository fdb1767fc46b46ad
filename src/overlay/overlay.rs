//! The owner of a state directory while it is open.

use std::collections::{HashMap, HashSet};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Weak};
use std::thread::JoinHandle;
use std::time::Duration;

use bytes::Bytes;
use parking_lot::{Mutex, RwLock, RwLockReadGuard};

use super::bodies::Bodies;
use super::body::{Body, BodyStat};
use super::dir::{Bases, DirLock, boot_id};
use super::disk::{sync_data, sync_filesystem};
use super::error::OverlayError;
use super::frame::{BootId, CLOSED, Header, JOURNAL_VERSION};
use super::journal::{Journal, sync_dir};
use super::manifest::Manifest;
use super::op::Op;
use super::reserve::{Reserve, large_files};
use super::state::{BodyId, OverlayState};
use super::writer::StateWriter;
use crate::model::{Hash, VolumeId};

/// How long removals wait for company before the journal is synced for them.
const REMOVAL_DELAY: Duration = Duration::from_secs(1);
/// Most bodies that wait for the next sync because an op shows them (J9).
const SHOWN_MAX: usize = 256;

/// How a state directory is opened.
#[derive(Clone, Debug)]
pub struct OverlayOptions {
    /// The state directory of this mount name and volume; made if it is not there, with 0700.
    pub dir: PathBuf,
    /// Whose state it must be.
    pub volume: VolumeId,
    /// Recorded, for people.
    pub mount_name: String,
    /// What the lock file says of us, for the message that another process gets.
    pub holder: String,
    /// Bodies that are created ahead.
    pub bodies_ahead: usize,
    /// Bodies that this process has open for writing at the same time.
    pub bodies_open: usize,
    /// Bodies that this process has open for reading at the same time.
    pub handles_open: usize,
    /// Stashes older than this are dropped when a new one is made.
    pub stash_age_max: Duration,
    /// Oldest stashes are dropped while all of them hold more bytes on disk than this; the newest one always stays.
    pub stash_bytes_max: u64,
    /// The present boot of the machine.
    pub boot: BootId,
}

impl OverlayOptions {
    /// The usual ones: 64 bodies ahead, stashes for 30 days and up to 10 GiB.
    pub fn new(dir: PathBuf, volume: VolumeId, mount_name: &str) -> OverlayOptions {
        OverlayOptions {
            dir,
            volume,
            mount_name: mount_name.to_owned(),
            holder: format!("process {}", std::process::id()),
            bodies_ahead: 64,
            bodies_open: super::descriptors::open_max(),
            handles_open: super::descriptors::handles_max(),
            stash_age_max: Duration::from_secs(30 * 24 * 3600),
            stash_bytes_max: 10 << 30,
            boot: boot_id(),
        }
    }
}

/// The overlay of one mount, and the only owner of its state directory.
///
/// Lock order: `syncing`, `flush`, `state`, `journal`, `manifest`; each may be left out. Bodies are read, written and
/// synced under `syncing` (shared) at most.
pub struct Overlay {
    pub(super) options: OverlayOptions,
    pub(super) bases: Bases,
    pub(super) bodies: Arc<Bodies>,
    pub(super) state: RwLock<OverlayState>,
    pub(super) journal: Mutex<Journal>,
    pub(super) manifest: Mutex<Manifest>,
    /// Shared while bodies are synced for the journal to say so; exclusive while the journal is exchanged.
    pub(super) syncing: RwLock<()>,
    /// One fdatasync of the journal at a time; who waited often finds its work done.
    pub(super) flush: Mutex<()>,
    /// Appends so far, and how many of them are on disk.
    pub(super) appended: AtomicU64,
    pub(super) synced: AtomicU64,
    /// Appends that no power cut takes back: on disk, with the bytes that they show (J8, J9).
    pub(super) settled: AtomicU64,
    /// Bodies that go to disk with every sync, whatever it is for (J9b); true: with the next one for the last time.
    pub(super) along: Mutex<HashMap<BodyId, bool>>,
    pub(super) number: AtomicU64,
    /// How many large files of the reserve were wanted at most.
    reserved: AtomicUsize,
    closed: AtomicBool,
    worker: Mutex<Option<JoinHandle<()>>>,
    lock: Mutex<Option<DirLock>>,
}

impl std::fmt::Debug for Overlay {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Overlay")
            .field("number", &self.number())
            .finish_non_exhaustive()
    }
}

/// What an overlay is put together from.
pub(super) struct Parts {
    pub options: OverlayOptions,
    pub lock: DirLock,
    pub bases: Bases,
    pub bodies: Arc<Bodies>,
    pub manifest: Manifest,
    pub number: u64,
    pub state: OverlayState,
    pub journal: Journal,
}

impl Overlay {
    pub(super) fn start(parts: Parts) -> Result<Arc<Overlay>, OverlayError> {
        let overlay = Arc::new(Overlay {
            options: parts.options,
            bases: parts.bases,
            bodies: parts.bodies,
            state: RwLock::new(parts.state),
            journal: Mutex::new(parts.journal),
            manifest: Mutex::new(parts.manifest),
            syncing: RwLock::new(()),
            flush: Mutex::new(()),
            appended: AtomicU64::new(0),
            synced: AtomicU64::new(0),
            settled: AtomicU64::new(0),
            along: Mutex::default(),
            number: AtomicU64::new(parts.number),
            reserved: AtomicUsize::new(0),
            closed: AtomicBool::new(false),
            worker: Mutex::new(None),
            lock: Mutex::new(Some(parts.lock)),
        });
        let (weak, bodies) = (Arc::downgrade(&overlay), overlay.bodies.clone());
        let worker = std::thread::Builder::new()
            .name("overlay".into())
            .spawn(move || work(&weak, &bodies));
        match worker {
            Ok(worker) => *overlay.worker.lock() = Some(worker),
            Err(source) => {
                return Err(OverlayError::Io {
                    path: overlay.options.dir.clone(),
                    source,
                });
            }
        }
        Ok(overlay)
    }

    /// Number of the overlay in its state directory (`LocalContent::overlay`): another one after every
    /// [`Overlay::replace`] and [`Overlay::stash_current`].
    pub fn number(&self) -> u64 {
        self.number.load(Ordering::Acquire)
    }

    /// Where everything of it is.
    pub fn dir(&self) -> &std::path::Path {
        &self.options.dir
    }

    /// The state, for looking at.
    pub fn read(&self) -> RwLockReadGuard<'_, OverlayState> {
        self.state.read()
    }

    /// The state, for looking at and changing as one step.
    pub fn write(&self) -> StateWriter<'_> {
        StateWriter {
            overlay: self,
            state: self.state.write(),
        }
    }

    /// One change: in the journal (against `kill -9`) and in the state when this returns (J1).
    ///
    /// # Errors
    /// Nothing was changed.
    pub fn apply(&self, op: &Op) -> Result<(), OverlayError> {
        self.write().apply(op)
    }

    /// An empty body with a number of its own. It is part of the overlay once an [`Op::GiveBody`] names it; if none is to
    /// come, give it to [`Overlay::discard_body`].
    pub fn create_body(&self) -> Result<Arc<Body>, OverlayError> {
        self.bodies.create()
    }

    /// A body for a file that is being made, where the disk has so little room left that who writes to it later might find
    /// none: then making it fails, as on any file system. `None`: there is room.
    pub fn create_body_if_scarce(&self) -> Result<Option<Arc<Body>>, OverlayError> {
        match self.bodies.is_scarce() {
            true => self.bodies.create().map(Some),
            false => Ok(None),
        }
    }

    /// A body that no op named after all.
    pub fn discard_body(&self, body: Arc<Body>) {
        self.bodies.take_durable(body.id());
        self.bodies.doom([body.id()], 0);
    }

    /// A body of the overlay or a stash. Each call opens it anew.
    pub fn body(&self, id: BodyId) -> Result<Arc<Body>, OverlayError> {
        self.bodies.open(id)
    }

    /// What the filesystem says of a body, without opening it.
    pub fn body_stat(&self, id: BodyId) -> Result<BodyStat, OverlayError> {
        self.bodies.stat(id)
    }

    /// A body with the bytes that another has now. Not on disk yet.
    pub fn copy_body(&self, body: &Body) -> Result<Arc<Body>, OverlayError> {
        let copy = self.bodies.create()?;
        match copy.copy_from(body) {
            Ok(()) => Ok(copy),
            Err(e) => {
                self.discard_body(copy);
                Err(e)
            }
        }
    }

    /// A copy, on disk when this returns: an op that names it shows nothing that a power cut could take (J9).
    pub fn clone_body(&self, body: &Body) -> Result<Arc<Body>, OverlayError> {
        let copy = self.copy_body(body)?;
        match self.make_durable(&copy) {
            Ok(()) => Ok(copy),
            Err(e) => {
                self.discard_body(copy);
                Err(e)
            }
        }
    }

    /// A body that no op names yet is on disk when this returns, with its bytes and its name. Blocks on the disk.
    fn make_durable(&self, body: &Body) -> Result<(), OverlayError> {
        body.sync()?;
        self.bodies.sync_names(&[body.id()])?;
        self.bodies.set_durable(body.id());
        Ok(())
    }

    /// A body out of a file that is no body yet, or none any more (a cache file, a [`super::FreedBody`]): `take` moves it to the
    /// path that it is given. As with [`Overlay::create_body`], an op has to name it.
    pub fn take_in_body(
        &self,
        take: impl FnOnce(&std::path::Path) -> bool,
    ) -> Result<Option<Arc<Body>>, OverlayError> {
        self.bodies.take_in(take)
    }

    /// The bytes of a body go to disk with every sync of anything from now on, the first of which comes by itself after a few
    /// seconds: they are written in the place of bytes that were on disk (J9b). `closed`: that is done, so the next one is the
    /// last.
    pub fn sync_along(&self, body: BodyId, closed: bool) {
        self.along.lock().insert(body, closed);
        self.bodies.want_sync();
    }

    /// Keeps bytes (a base record, a prepared tree's node pack) by hash, on disk when this returns.
    pub fn put_base(&self, hash: &Hash, bytes: &[u8]) -> Result<(), OverlayError> {
        self.bases.put(hash, bytes)
    }

    /// Bytes kept by [`Overlay::put_base`]; the caller checks them against the hash.
    pub fn get_base(&self, hash: &Hash) -> Result<Option<Bytes>, OverlayError> {
        self.bases.get(hash)
    }

    /// Hashes of all kept bytes.
    pub fn kept_bases(&self) -> Result<Vec<Hash>, OverlayError> {
        self.bases.list()
    }

    /// How many bytes are kept by a hash.
    pub fn base_len(&self, hash: &Hash) -> Result<Option<u64>, OverlayError> {
        self.bases.len(hash)
    }

    /// Removes kept bytes that are not in `needed`; gives what was removed.
    pub fn retain_bases(&self, needed: &HashSet<Hash>) -> Result<HashSet<Hash>, OverlayError> {
        self.bases.retain(needed)
    }

    /// Large files of the reserve for an overlay as it is now.
    fn reserve_wanted(&self) -> usize {
        let nodes = self.state.read().nodes.len();
        let journal = self.journal.lock().bytes();
        large_files(nodes, journal)
    }

    /// The overlay has so many nodes and a journal of so many bytes now.
    pub(super) fn has_grown_to(&self, nodes: usize, journal_bytes: u64) {
        let wanted = large_files(nodes, journal_bytes);
        if wanted > self.reserved.fetch_max(wanted, Ordering::Relaxed) {
            self.bodies.want_reserve();
        }
    }

    /// Numbers for `status`. Asks the filesystem for each body.
    pub fn disk(&self) -> Result<DiskUse, OverlayError> {
        let bodies = self.state.read().bodies();
        let mut found = DiskUse {
            journal_bytes: self.journal.lock().bytes(),
            stash_bytes: self
                .manifest
                .lock()
                .stashes
                .iter()
                .map(|stash| stash.disk_bytes)
                .sum(),
            ..DiskUse::default()
        };
        for id in bodies {
            if let Ok(stat) = self.bodies.stat(id) {
                found.bodies += 1;
                found.body_bytes += stat.allocated;
            }
        }
        let fs = rustix::fs::statvfs(&self.options.dir).map_err(|e| self.io(e.into()))?;
        found.available = fs.f_bavail.saturating_mul(fs.f_frsize);
        Ok(found)
    }

    /// What the background thread does, at once: removes freed bodies, creates some ahead, compacts the journal.
    pub fn maintain(&self) -> Result<(), OverlayError> {
        if self.closed.load(Ordering::Acquire) {
            return Ok(());
        }
        let wanted = self.bodies.wanted_position();
        let behind = wanted.is_some_and(|position| position > self.settled.load(Ordering::Acquire));
        let due = self.bodies.take_sync_due();
        if behind || due || self.journal.lock().unsynced.shown_count() > SHOWN_MAX {
            self.sync().inspect_err(|_| self.bodies.want_sync())?;
        }
        self.bodies.remove_doomed(self.settled.load(Ordering::Acquire))?;
        Reserve::of(&self.options.dir).fill(self.reserve_wanted());
        self.bodies.refill()?;
        self.compact_if_large()
    }

    /// Gives back at once the room of everything that may go (the disk is full).
    pub fn reclaim(&self) -> Result<u64, OverlayError> {
        if self.bodies.wanted_position().is_some() {
            self.sync()?;
        }
        self.bodies.remove_doomed(self.settled.load(Ordering::Acquire))
    }

    /// Ends it: everything is put on disk; an overlay without changes leaves nothing but a small directory. Nothing can be
    /// changed any more, and the directory may be opened again.
    pub fn close(&self) -> Result<(), OverlayError> {
        self.stop();
        self.put_down()?;
        self.lock.lock().take();
        Ok(())
    }

    fn put_down(&self) -> Result<(), OverlayError> {
        let _syncing = self.syncing.write();
        let state = self.state.write();
        let mut journal = self.journal.lock();
        if self.closed.swap(true, Ordering::AcqRel) {
            return Ok(());
        }
        if state.frozen.is_none() && state.is_clean() {
            journal.poison();
            return self.leave_nothing(&state);
        }
        // In this order: the frame says that all bodies are on disk.
        sync_filesystem(journal.file(), &self.options.dir)?;
        let mut tail = journal.tail();
        let mut frames = Vec::new();
        tail.frame(&mut frames, &[CLOSED]);
        journal.append(&frames, tail, false)?;
        journal.poison();
        sync_data(journal.file(), journal.path())?;
        self.bodies.drop_ahead()?;
        self.bodies.remove_doomed(u64::MAX)?;
        Reserve::of(&self.options.dir).take_back();
        Ok(())
    }

    fn leave_nothing(&self, state: &OverlayState) -> Result<(), OverlayError> {
        let mut manifest = self.manifest.lock();
        let number = self.number();
        let mut next = manifest.clone();
        next.current = None;
        next.remember(state, self.bodies.next());
        next.write(&self.options.dir)?;
        *manifest = next;
        let dir = overlay_dir(&self.options.dir, number);
        std::fs::remove_dir_all(&dir).map_err(|source| OverlayError::Io { path: dir, source })?;
        self.bodies.drop_ahead()?;
        self.bodies.remove_doomed(u64::MAX)?;
        if manifest.stashes.is_empty() {
            self.bodies.clear()?;
            self.bases.retain(&HashSet::new())?;
        }
        Reserve::of(&self.options.dir).take_back();
        sync_dir(&self.options.dir)
    }

    /// Ends the background thread.
    pub(super) fn stop(&self) {
        self.bodies.stop();
        if let Some(worker) = self.worker.lock().take()
            && worker.thread().id() != std::thread::current().id()
        {
            // A panic there was reported by the thread itself.
            let _ = worker.join();
        }
    }

    pub(super) fn header(&self, number: u64) -> Header {
        header_of(&self.options, number)
    }

    pub(super) fn io(&self, source: std::io::Error) -> OverlayError {
        OverlayError::Io {
            path: self.options.dir.clone(),
            source,
        }
    }
}

pub(super) fn header_of(options: &OverlayOptions, number: u64) -> Header {
    Header {
        version: JOURNAL_VERSION,
        volume: options.volume,
        overlay: number,
        boot: options.boot,
        mount_name: options.mount_name.clone(),
    }
}

pub(super) fn overlay_dir(state_dir: &std::path::Path, number: u64) -> PathBuf {
    state_dir.join(format!("overlay-{number}"))
}

impl Manifest {
    /// Numbers that must not be used again.
    pub(super) fn remember(&mut self, state: &OverlayState, next_body: BodyId) {
        self.next_node = self.next_node.max(state.next_node);
        self.next_body = self.next_body.max(state.next_body).max(next_body);
        self.last_commit = self.last_commit.max(state.last_commit);
    }
}

impl Drop for Overlay {
    fn drop(&mut self) {
        self.stop();
    }
}

/// The background thread.
fn work(overlay: &Weak<Overlay>, bodies: &Bodies) {
    loop {
        let Some(overlay) = overlay.upgrade() else { return };
        if let Err(error) = overlay.maintain() {
            tracing::warn!(%error, "the state directory could not be tidied up");
            bodies.pause(REMOVAL_DELAY);
        }
        drop(overlay);
        if !bodies.wait_for_work(REMOVAL_DELAY) {
            return;
        }
    }
}

/// Use of the local disk.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DiskUse {
    /// Journal, bytes.
    pub journal_bytes: u64,
    /// Bodies of the overlay.
    pub bodies: u64,
    /// Bytes of them on disk.
    pub body_bytes: u64,
    /// Bytes of the stashes' bodies on disk, as of when they were made.
    pub stash_bytes: u64,
    /// Bytes that the filesystem still has for us.
    pub available: u64,
}
