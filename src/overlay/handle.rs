//! The descriptor of a body by which its file is known: closed while others are in want of one, and opened again by name.

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::Mutex;
use rustix::fs::{Mode, OFlags};

use super::descriptors::OpenBodies;
use super::error::{AtPath, OverlayError};
use super::state::BodyId;

/// One for each [`super::Body`]. A body keeps its name on disk as long as there is one of these ([`OpenBodies`]), so that
/// it can be opened again; who moves it elsewhere has it opened before, for good.
#[derive(Debug)]
pub(super) struct Handle {
    id: BodyId,
    path: PathBuf,
    open: Mutex<Option<Arc<OwnedFd>>>,
    /// Its name is another file's, or nobody's: it cannot be opened again.
    stays_open: AtomicBool,
    of: Arc<OpenBodies>,
}

impl Handle {
    /// Of a body that is made with these flags, or is there.
    pub(super) fn open(
        id: BodyId,
        path: PathBuf,
        flags: OFlags,
        of: &Arc<OpenBodies>,
    ) -> Result<Arc<Handle>, OverlayError> {
        let handle = Arc::new(Handle {
            id,
            path,
            open: Mutex::default(),
            stays_open: AtomicBool::new(false),
            of: of.clone(),
        });
        of.register(id, &handle).at(&handle.path)?;
        let opened = handle.open_by_name(flags)?;
        *handle.open.lock() = Some(Arc::new(opened));
        of.handle_opened(&handle);
        Ok(handle)
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// The descriptor, open for reading.
    pub(super) fn get(self: &Arc<Self>) -> Result<Arc<OwnedFd>, OverlayError> {
        let mut open = self.open.lock();
        if let Some(open) = &*open {
            return Ok(open.clone());
        }
        let opened = open
            .insert(Arc::new(self.open_by_name(OFlags::NOFOLLOW)?))
            .clone();
        drop(open);
        self.of.handle_opened(self);
        Ok(opened)
    }

    /// The descriptor, if it is open.
    pub(super) fn get_open(&self) -> Option<Arc<OwnedFd>> {
        self.open.lock().clone()
    }

    fn open_by_name(&self, flags: OFlags) -> Result<OwnedFd, OverlayError> {
        let flags = flags | OFlags::RDONLY | OFlags::CLOEXEC;
        let open = |flags| {
            self.of
                .make_room(|| rustix::fs::open(&self.path, flags, Mode::from_raw_mode(0o600)))
        };
        // Nobody asks when a body was read. Who does not own the file may not say so.
        match open(flags | OFlags::NOATIME) {
            Err(error) if error.raw_os_error() == Some(libc::EPERM) => open(flags),
            other => other,
        }
        .at(&self.path)
    }

    /// Its name is about to lead elsewhere: it is open from now on.
    pub(super) fn stay_open(self: &Arc<Self>) -> Result<(), OverlayError> {
        {
            let _open = self.open.lock();
            self.stays_open.store(true, Ordering::Relaxed);
        }
        self.get().map(drop)
    }

    /// Closes it, unless it is being opened at this moment (false). Whoever uses the descriptor now goes on.
    pub(super) fn close(&self) -> bool {
        let Some(mut open) = self.open.try_lock() else {
            return false;
        };
        if !self.stays_open.load(Ordering::Relaxed) {
            *open = None;
        }
        true
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.of.unregister(self.id);
    }
}
