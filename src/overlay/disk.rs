//! What puts bytes on disk: all of it goes through here, so that tests can tell what a power cut would leave.

use std::os::fd::AsFd;
use std::path::Path;

use super::error::{AtPath, OverlayError};

/// fdatasync. `path`: of the file, for messages.
pub(super) fn sync_data(file: impl AsFd, path: &Path) -> Result<(), OverlayError> {
    #[cfg(test)]
    if watch::saw(Some(file.as_fd())) {
        return Ok(());
    }
    rustix::fs::fdatasync(&file).at(path)
}

/// syncfs of the filesystem of an open file. `path`: for messages.
pub(super) fn sync_filesystem(file: impl AsFd, path: &Path) -> Result<(), OverlayError> {
    #[cfg(test)]
    if watch::saw(None) {
        return Ok(());
    }
    rustix::fs::syncfs(&file).at(path)
}

#[cfg(test)]
pub(super) mod watch {
    use std::cell::RefCell;
    use std::os::fd::BorrowedFd;
    use std::rc::Rc;

    type Watcher = Rc<dyn Fn(Option<BorrowedFd<'_>>)>;

    thread_local! {
        static WATCHER: RefCell<Option<Watcher>> = const { RefCell::new(None) };
    }

    /// Calls `watcher` in the place of each sync of this thread: of a file, or of everything (`None`). It may sync, too.
    pub fn set(watcher: Option<Watcher>) {
        WATCHER.with(|held| *held.borrow_mut() = watcher);
    }

    /// False: nobody watches.
    pub(super) fn saw(file: Option<BorrowedFd<'_>>) -> bool {
        let watcher = WATCHER.with(|held| held.borrow().clone());
        watcher.map(|watcher| watcher(file)).is_some()
    }
}
