//! Files that the kernel may read and write by itself (passthrough). Nothing of the kernel here: the driver takes an offer
//! up or not, and either way everything else holds.
//!
//! 1. One backing per open file: every handle of it gets the same one, or none does, until the last is closed. The
//!    kernel refuses a second one.
//! 2. While a handle has it, the backing's file is where the file's bytes are: a clean content never gives way to a body
//!    elsewhere, a body never to another body.
//! 3. An offer for writing is made of a body that the overlay knows to be dirty ([`WritableBacking`]); a clean file
//!    that somebody reads becomes a body first, or its inode is left behind (`passthrough.rs`).

use std::any::Any;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;

use parking_lot::Mutex;

use crate::cache::PinnedFile;
use crate::overlay::{Body, FreedBody};

/// What the kernel is offered.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Passthrough {
    /// Complete clean contents, for reading.
    pub clean: bool,
    /// Bodies, for reading and writing.
    pub bodies: bool,
}

/// A complete clean content in a file of its own, kept as long as this lives.
pub trait CleanFile: Send + Sync + std::fmt::Debug {
    /// Names the file; may be O_PATH.
    fn handle(&self) -> BorrowedFd<'_>;
}

impl CleanFile for PinnedFile {
    fn handle(&self) -> BorrowedFd<'_> {
        PinnedFile::handle(self)
    }
}

/// What the driver has registered with the kernel. Dropped when the last handle is closed.
pub trait KernelFile: Any + Send + Sync + std::fmt::Debug {
    /// A file that was registered for reading only may be opened for writing from now on.
    ///
    /// # Errors
    /// It may not.
    fn allow_writes(&self) -> io::Result<()>;
}

/// How a file is to be registered.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Access {
    /// The kernel must refuse to open it for writing.
    ReadOnly,
    /// As programs wish.
    ReadWrite,
}

/// A file on local disk that has all bytes of an open file.
#[derive(Debug)]
pub struct Backing {
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    file: Kind,
    kernel: Kernel,
}

#[derive(Debug)]
enum Kernel {
    Unasked,
    Has(Arc<dyn KernelFile>),
    Refused,
}

#[derive(Debug)]
enum Kind {
    Clean(Arc<dyn CleanFile>),
    Body(Arc<Body>),
    /// Was the body until a commit published it; with its name on disk, unless somebody else got that.
    Former(Arc<Body>, Option<FreedBody>),
}

/// A file that the kernel may use instead of asking.
#[derive(Clone, Debug)]
pub enum Offer {
    /// For a handle that only reads.
    Read(Arc<Backing>),
    /// For a handle that writes.
    Write(WritableBacking),
}

/// The proof that a backing is a body.
#[derive(Clone, Debug)]
pub struct WritableBacking(Arc<Backing>);

impl Offer {
    /// Gives the file to the kernel, unless that was done for another handle; `None`: it does not take it, requests come
    /// here.
    pub fn register<K: KernelFile>(
        &self,
        register: impl FnOnce(BorrowedFd<'_>, Access) -> io::Result<K>,
    ) -> Option<Arc<K>> {
        let (Offer::Read(backing) | Offer::Write(WritableBacking(backing))) = self;
        let mut state = backing.state.lock();
        let kernel = match &state.kernel {
            Kernel::Refused => return None,
            Kernel::Has(kernel) => kernel.clone(),
            Kernel::Unasked => {
                let made = match &state.file {
                    Kind::Clean(file) => register(file.handle(), Access::ReadOnly),
                    Kind::Body(body) | Kind::Former(body, _) => body
                        .handle()
                        .map_err(io::Error::other)
                        .and_then(|handle| register(handle.as_fd(), Access::ReadWrite)),
                };
                match made {
                    Ok(made) => {
                        let made: Arc<dyn KernelFile> = Arc::new(made);
                        state.kernel = Kernel::Has(made.clone());
                        made
                    }
                    Err(error) => {
                        tracing::debug!(%error, "the kernel does not take a file for passthrough");
                        state.kernel = Kernel::Refused;
                        return None;
                    }
                }
            }
        };
        let any: Arc<dyn Any + Send + Sync> = kernel;
        any.downcast().ok()
    }

    /// The file, as the kernel would open it: for tests without one.
    #[cfg(test)]
    pub fn open(&self) -> std::fs::File {
        use std::os::fd::AsRawFd;
        let (Offer::Read(backing) | Offer::Write(WritableBacking(backing))) = self;
        let state = backing.state.lock();
        let of_body = match &state.file {
            Kind::Clean(_) => None,
            Kind::Body(body) | Kind::Former(body, _) => Some(body.handle().expect("a body can be opened")),
        };
        let handle = match (&state.file, &of_body) {
            (Kind::Clean(file), _) => file.handle(),
            (_, Some(body)) => body.as_fd(),
            _ => unreachable!("a body has a handle"),
        };
        std::fs::File::options()
            .read(true)
            .write(matches!(self, Offer::Write(_)))
            .open(format!("/proc/self/fd/{}", handle.as_raw_fd()))
            .expect("a file that was offered can be opened")
    }
}

impl Backing {
    pub(super) fn clean(file: Arc<dyn CleanFile>) -> Arc<Backing> {
        Backing::new(Kind::Clean(file))
    }

    pub(super) fn body(body: Arc<Body>) -> Arc<Backing> {
        Backing::new(Kind::Body(body))
    }

    fn new(file: Kind) -> Arc<Backing> {
        let kernel = Kernel::Unasked;
        Arc::new(Backing {
            state: Mutex::new(State { file, kernel }),
        })
    }

    /// The kernel did not take it: nobody uses it.
    pub(super) fn is_refused(&self) -> bool {
        matches!(self.state.lock().kernel, Kernel::Refused)
    }

    /// For a handle that writes; `None`: it is not a body.
    pub(super) fn writable(self: &Arc<Backing>) -> Option<WritableBacking> {
        let body = matches!(self.state.lock().file, Kind::Body(_));
        body.then(|| WritableBacking(self.clone()))
    }

    /// The body has left the overlay. `freed` is its name on disk.
    pub(super) fn published(&self, freed: Option<FreedBody>) {
        let mut state = self.state.lock();
        if let Kind::Body(body) = &state.file {
            state.file = Kind::Former(body.clone(), freed);
        }
    }

    /// Its file moves to `to`, to become a body: what a commit left of a body, or by `surrender`, which gets the file's
    /// handle. False: it stays where it is.
    pub(super) fn move_to(
        &self,
        to: &std::path::Path,
        surrender: impl FnOnce(BorrowedFd<'_>) -> bool,
    ) -> bool {
        let mut state = self.state.lock();
        match &mut state.file {
            Kind::Clean(file) => surrender(file.handle()),
            Kind::Former(body, freed) => match freed.take() {
                Some(freed) => freed.become_body(to),
                None => body.handle().is_ok_and(|handle| surrender(handle.as_fd())),
            },
            Kind::Body(_) => false,
        }
    }

    /// It is this body from now on, which is the same file; the kernel may open it for writing.
    pub(super) fn becomes(&self, body: Arc<Body>) -> io::Result<()> {
        let mut state = self.state.lock();
        if let Kernel::Has(kernel) = &state.kernel {
            kernel.allow_writes()?;
        }
        state.file = Kind::Body(body);
        Ok(())
    }
}
