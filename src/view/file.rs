//! The bytes of one open file. What is here is what readers and writers use; the overlay's state has the same for the
//! next start.
//!
//! While a file is open its content is its own: a reload or a publish tells it by a [`Turn`] what it has become, and it
//! takes notice before its next change.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};

use parking_lot::{Mutex, MutexGuard, RwLock};

use super::ViewError;
use super::backing::Backing;
use super::clock::saw_written;
use super::descriptors::Taken;
use super::drawn::DrawnFrom;
use super::inodes::LocalSize;
use super::passthrough::Live;
use super::space::content_blocks;
use super::types::Ino;
use crate::model::{Content, FRAME_BYTES, Timestamp};
use crate::overlay::{Body, FileState, FreedBody, NodeId};

/// An open file.
#[derive(Debug)]
pub(super) struct FileData {
    pub ino: Ino,
    /// The file's lock. Taken before the locks of space and overlay, never while one of them is held.
    pub bytes: RwLock<FileBytes>,
    size: AtomicU64,
    /// Blocks of a clean content; those of a body are asked of the filesystem.
    clean_blocks: AtomicU64,
    body: Mutex<Option<(Arc<Body>, bool)>>,
    /// When it was written, until that is in the overlay too.
    stamp: Mutex<Option<Timestamp>>,
    /// Handles open, those for writing included. Changed only under the space's lock, as the next.
    pub opens: AtomicU32,
    /// Handles open for writing.
    pub writers: AtomicU32,
    /// It has a name: its bytes count for df.
    pub counted: AtomicBool,
    /// A commit reads the body: it is copied before the next write.
    pub frozen: AtomicBool,
    /// Handles of running programs.
    pub executing: AtomicU32,
    /// Its size as it is counted for df.
    pub accounted: AtomicU64,
    /// It is kept, with a pin of its own, although all handles are closed, because it is live.
    pub retained: AtomicBool,
    /// It was cut to nothing, of bytes that a power cut had to leave, and not closed since: what is written goes to disk soon
    /// after the close.
    pub replacing: AtomicBool,
    /// It waits to be looked at after a close.
    pub queued: AtomicBool,
    /// Not to be read from a clean content's own file: a writer is on his way.
    pub shy: AtomicBool,
    /// Descriptors that it takes, as long as any of its handles is open.
    taken: Mutex<Vec<Taken>>,
    route: Mutex<Route>,
    live: Mutex<Option<Live>>,
    turn: Mutex<Option<Turn>>,
    /// What its bytes in the store were drawn from; the last one is of a turn that waits, if one does.
    drawn: Mutex<Vec<DrawnFrom>>,
}

/// The way that the bytes of an open file go: one for all its handles, until the last is closed.
#[derive(Clone, Debug)]
pub(super) enum Route {
    /// Not decided yet.
    Open,
    /// Requests come here.
    Daemon,
    /// The kernel uses this by itself.
    Backed(Arc<Backing>),
}

/// What became of an open file.
#[derive(Debug)]
pub(super) enum Turn {
    /// Its bytes were published, and its node left the overlay.
    Published {
        size: u64,
        content: Content,
        /// What the kernel may still read, with its name on disk.
        freed: Option<FreedBody>,
    },
    /// No overlay knows it any more: what is written to it ends with its last handle. `shared`: its body is a stash's
    /// now, and must stay as it is.
    Private { shared: bool },
}

/// Where the bytes are.
#[derive(Debug)]
pub(super) enum FileBytes {
    /// In the base, or nowhere (an empty file).
    Clean { size: u64, content: Content },
    /// In a body, as far as they are there.
    Local(Local),
}

#[derive(Debug)]
pub(super) struct Local {
    /// `None`: see [`Turn::Private`].
    pub node: Option<NodeId>,
    pub body: Arc<Body>,
    /// Frames of 1 MiB that are in the body; `None`: all.
    pub present: Option<Vec<u64>>,
    pub base: Option<(u64, Content)>,
    /// Bytes of `base` that count.
    pub base_valid: u64,
    /// The op that gave the body is the last that was said of it: it need not be called dirty again.
    pub fresh: bool,
}

impl FileData {
    /// Of a file that is not in the overlay, or has no body there.
    pub fn clean(ino: Ino, size: u64, content: Content) -> FileData {
        let blocks = content_blocks(size, &content);
        FileData::new(ino, FileBytes::Clean { size, content }, size, blocks, None)
    }

    /// Of a file with a body.
    pub fn local(ino: Ino, node: NodeId, state: &FileState, body: Arc<Body>) -> Result<FileData, ViewError> {
        let size = body.len()?;
        let local = Local {
            node: Some(node),
            present: state.present.as_deref().cloned(),
            base: state.base.clone(),
            // A truncation reaches the body before the overlay: what stopped in between is finished here.
            base_valid: state.base_valid.min(size),
            fresh: false,
            body: body.clone(),
        };
        let partial = local.present.is_some();
        Ok(FileData::new(
            ino,
            FileBytes::Local(local),
            size,
            0,
            Some((body, partial)),
        ))
    }

    /// Of a new file, which got its body in the step that made it.
    pub fn new_local(ino: Ino, node: NodeId, body: Arc<Body>) -> FileData {
        let local = Local {
            node: Some(node),
            body: body.clone(),
            present: None,
            base: None,
            base_valid: 0,
            fresh: true,
        };
        FileData::new(ino, FileBytes::Local(local), 0, 0, Some((body, false)))
    }

    fn new(ino: Ino, bytes: FileBytes, size: u64, blocks: u64, body: Option<(Arc<Body>, bool)>) -> FileData {
        FileData {
            ino,
            bytes: RwLock::new(bytes),
            size: AtomicU64::new(size),
            clean_blocks: AtomicU64::new(blocks),
            body: Mutex::new(body),
            stamp: Mutex::new(None),
            opens: AtomicU32::new(0),
            writers: AtomicU32::new(0),
            counted: AtomicBool::new(true),
            frozen: AtomicBool::new(false),
            executing: AtomicU32::new(0),
            accounted: AtomicU64::new(size),
            retained: AtomicBool::new(false),
            replacing: AtomicBool::new(false),
            queued: AtomicBool::new(false),
            shy: AtomicBool::new(false),
            taken: Mutex::default(),
            route: Mutex::new(Route::Open),
            live: Mutex::new(None),
            turn: Mutex::new(None),
            drawn: Mutex::default(),
        }
    }

    /// Bytes. Of a live file: as many as its body has now.
    pub fn size(&self) -> u64 {
        if self.live().is_some()
            && let Some(len) = self.current_body().and_then(|body| body.len().ok())
        {
            self.size.store(len, Ordering::Release);
        }
        self.size.load(Ordering::Acquire)
    }

    /// Descriptors that it takes from now on, until its last handle is closed.
    pub fn takes(&self, taken: Taken) {
        self.taken.lock().push(taken);
    }

    /// The way that its bytes go.
    pub fn route(&self) -> Route {
        self.route.lock().clone()
    }

    /// Said with the file's lock held.
    pub fn set_route(&self, route: Route) {
        *self.route.lock() = route;
    }

    /// The file that the kernel uses by itself.
    pub fn backing(&self) -> Option<Arc<Backing>> {
        match &*self.route.lock() {
            Route::Backed(backing) if !backing.is_refused() => Some(backing.clone()),
            _ => None,
        }
    }

    /// Set while the kernel may write to the body by itself.
    pub fn live(&self) -> Option<Live> {
        *self.live.lock()
    }

    /// Said with the file's lock held, or with the space's while nobody has a handle to write it.
    pub fn set_live(&self, live: Option<Live>) {
        *self.live.lock() = live;
    }

    /// A clean content that could be handed out for reading.
    pub fn readable_clean(&self) -> Option<(u64, Content)> {
        if !matches!(*self.route.lock(), Route::Open) || self.shy.load(Ordering::Relaxed) {
            return None;
        }
        match &*self.bytes.read() {
            FileBytes::Clean { size, content } if *size > 0 => Some((*size, content.clone())),
            _ => None,
        }
    }

    /// Said with the file's lock held.
    pub fn set_size(&self, size: u64) {
        self.size.store(size, Ordering::Release);
    }

    /// Size and blocks as stat tells them.
    pub fn local_size(&self) -> LocalSize {
        let size = self.size();
        let body = self.body.lock().clone();
        let blocks = match body {
            None => self.clean_blocks.load(Ordering::Relaxed),
            Some((body, partial)) => match body.stat() {
                Ok(stat) if partial => (stat.allocated / 512).max(size.div_ceil(512)),
                Ok(stat) => stat.allocated / 512,
                Err(_) => size.div_ceil(512),
            },
        };
        LocalSize { size, blocks }
    }

    /// The bytes are in this body from now on. Said with the file's lock held.
    pub fn uses(&self, body: Option<(Arc<Body>, bool)>) {
        *self.body.lock() = body;
    }

    /// The bytes are those of this content from now on. Said with the file's lock held.
    pub fn uses_content(&self, size: u64, content: &Content) {
        self.clean_blocks
            .store(content_blocks(size, content), Ordering::Relaxed);
        self.uses(None);
    }

    /// The body, if there is one.
    pub fn current_body(&self) -> Option<Arc<Body>> {
        self.body.lock().as_ref().map(|(body, _)| body.clone())
    }

    /// We wrote to it just now. With a body it was then that the local filesystem says, so that programs see what is found
    /// after a crash. The body of a live file tells that by itself.
    pub fn stamp(&self, now: Timestamp) {
        if self.live().is_some() {
            return;
        }
        let by_disk = self.current_body().and_then(|body| body.stat().ok());
        let written = by_disk.map_or(now, |stat| stat.mtime.max(now));
        saw_written(written);
        *self.stamp.lock() = Some(written);
    }

    /// When it was written last, if the overlay does not know yet.
    pub fn unsettled(&self) -> Option<Timestamp> {
        let Some(live) = self.live() else {
            return *self.stamp.lock();
        };
        let written = self.current_body()?.stat().ok()?.mtime;
        if written == live.seen {
            return None;
        }
        saw_written(written);
        Some(written)
    }

    /// The overlay knows that it was written then. What was written since, which takes no lock of the space, stays to be told.
    pub fn settled(&self, written: Timestamp) {
        match &mut *self.live.lock() {
            Some(live) => live.seen = written,
            None => {
                let mut stamp = self.stamp.lock();
                if *stamp == Some(written) {
                    *stamp = None;
                }
            }
        }
    }

    /// Its time of last write was set to something else, and the overlay knows.
    pub fn retimed(&self, mtime: Timestamp) {
        *self.stamp.lock() = None;
        let Some(body) = self.current_body() else { return };
        // The next write is told by another time than this one, also after a crash. A body that keeps its time must not tell that
        // as the time of a later write.
        if let Err(error) = body.set_mtime(mtime) {
            tracing::warn!(ino = self.ino, %error, "the time of a body");
        }
        match (body.stat(), &mut *self.live.lock()) {
            (Ok(seen), Some(live)) => live.seen = seen.mtime,
            (Err(error), _) => tracing::warn!(ino = self.ino, %error, "the time of a body"),
            _ => {}
        }
    }

    /// Its bytes in the store come from there, and from nowhere else.
    pub fn draws_from(&self, drawn: DrawnFrom) {
        *self.drawn.lock() = vec![drawn];
    }

    /// So do those that it has from its next turn on.
    pub fn will_draw_from(&self, drawn: DrawnFrom) {
        let mut all = self.drawn.lock();
        // Of a turn that nobody has taken nothing will be read.
        all.truncate(1);
        all.push(drawn);
    }

    /// What its bytes in the store were drawn from.
    pub fn drawn_from(&self) -> Vec<DrawnFrom> {
        self.drawn.lock().clone()
    }

    /// Tells the file what it has become. The last word counts, but that it became private is not taken back.
    pub fn turn(&self, turn: Turn) {
        *self.turn.lock() = Some(turn);
    }

    /// True if a turn waits to be taken.
    pub fn has_turn(&self) -> bool {
        self.turn.lock().is_some()
    }

    /// The turn that waits.
    pub fn peek_turn(&self) -> MutexGuard<'_, Option<Turn>> {
        self.turn.lock()
    }

    /// Takes notice of a turn. With the file's lock held.
    pub fn take_turn(&self, bytes: &mut FileBytes) {
        let Some(turn) = self.turn.lock().take() else {
            return;
        };
        match turn {
            Turn::Published { size, content, freed } => {
                if let Route::Backed(backing) = self.route() {
                    backing.published(freed);
                }
                self.frozen.store(false, Ordering::Relaxed);
                let mut drawn = self.drawn.lock();
                *drawn = drawn.pop().into_iter().collect();
                drop(drawn);
                self.set_size(size);
                self.uses_content(size, &content);
                *bytes = FileBytes::Clean { size, content };
            }
            Turn::Private { shared } => {
                if let FileBytes::Local(local) = bytes {
                    local.node = None;
                    self.frozen.store(shared, Ordering::Relaxed);
                }
            }
        }
    }
}

impl FileData {
    /// Every handle's requests come here from now on.
    pub fn through_daemon<T>(&self) -> Option<T> {
        self.set_route(Route::Daemon);
        None
    }
}

impl Local {
    /// True if bytes of this frame need not be read from the base.
    pub fn has_frame(&self, frame: u64) -> bool {
        match &self.present {
            None => true,
            Some(bits) => {
                frame.saturating_mul(FRAME_BYTES) >= self.base_valid
                    || usize::try_from(frame / 64)
                        .ok()
                        .and_then(|word| bits.get(word))
                        .is_some_and(|word| word >> (frame % 64) & 1 == 1)
            }
        }
    }

    pub fn mark_frame(&mut self, frame: u64) {
        if let (Some(bits), Ok(word)) = (&mut self.present, usize::try_from(frame / 64)) {
            if bits.len() <= word {
                bits.resize(word + 1, 0);
            }
            bits[word] |= 1 << (frame % 64);
        }
    }
}
