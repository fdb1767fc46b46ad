//! Why the state directory could not do something.

use std::io;
use std::path::{Path, PathBuf};

use super::apply::ApplyError;

/// An error of the state directory.
#[derive(Debug, thiserror::Error)]
pub enum OverlayError {
    /// The system refused; for system calls of the mount its errno is the answer (ENOSPC above all).
    #[error("{}: {source}", path.display())]
    Io {
        /// File or directory.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A daemon, or another command, has this state directory open.
    #[error("the state directory {} is in use by {holder}", dir.display())]
    Busy {
        /// The directory.
        dir: PathBuf,
        /// What the holder wrote into the lock file.
        holder: String,
    },
    /// The directory cannot be trusted with data: wrong owner, symbolic link, another volume.
    #[error("{}: {reason}", path.display())]
    Refused {
        /// File or directory.
        path: PathBuf,
        /// What is wrong and what to do.
        reason: String,
    },
    /// What was known to be on disk is damaged.
    #[error("{} is damaged at byte {offset}: {reason}; what is readable can be saved with `sailvol doctor --salvage OUT {}`", path.display(), dir.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// Where in it.
        offset: u64,
        /// What is wrong.
        reason: String,
        /// The state directory.
        dir: PathBuf,
    },
    /// A program that is newer than this one wrote it.
    #[error("{} has version {version}; this program knows up to {known}", path.display())]
    TooNew {
        /// The file.
        path: PathBuf,
        /// Its version.
        version: u32,
        /// Ours.
        known: u32,
    },
    /// The change contradicts the state: a bug of the caller. Nothing was changed.
    #[error(transparent)]
    Apply(#[from] ApplyError),
    /// A value that cannot be written down: a bug of the caller, or a limit.
    #[error("the change cannot be recorded: {0}")]
    Encode(String),
    /// The journal could not be put on disk, so that it is unknown what of it is there; nothing more is accepted until the
    /// state directory is opened again.
    #[error("the journal {} is not usable after an earlier error; mount again", path.display())]
    Poisoned {
        /// The journal.
        path: PathBuf,
    },
    /// There is no such stash.
    #[error("there is no stash {0}")]
    NoStash(u64),
}

impl OverlayError {
    /// errno, where the system gave one.
    pub fn errno(&self) -> Option<i32> {
        match self {
            OverlayError::Io { source, .. } => source.raw_os_error(),
            _ => None,
        }
    }
}

/// Adds the path to an error of the system.
pub(super) trait AtPath<T> {
    fn at(self, path: &Path) -> Result<T, OverlayError>;
}

impl<T, E: Into<io::Error>> AtPath<T> for Result<T, E> {
    fn at(self, path: &Path) -> Result<T, OverlayError> {
        self.map_err(|source| OverlayError::Io {
            path: path.to_owned(),
            source: source.into(),
        })
    }
}
