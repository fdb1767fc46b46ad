//! Why an operation on the view failed, and the one table of errno values.

use crate::model::NameError;
use crate::overlay::OverlayError;
use crate::tree::TreeError;

/// Why an operation failed; a variant for each answer that a program can tell apart.
#[derive(Debug, Clone, thiserror::Error)]
pub enum ViewError {
    /// No such name.
    #[error("no such file or directory")]
    NotFound,
    /// The name is taken.
    #[error("file exists")]
    Exists,
    /// Something other than a directory stands where one is needed.
    #[error("not a directory")]
    NotDir,
    /// A directory stands where none may be.
    #[error("is a directory")]
    IsDir,
    /// The directory has entries.
    #[error("directory not empty")]
    NotEmpty,
    /// The node number is not known, or what it meant is gone.
    #[error("stale node number {ino}")]
    Stale {
        /// The number.
        ino: u64,
    },
    /// Who reads the inode keeps it as it is; its name leads to another one, which can be written.
    #[error("node number {ino} is left to its readers")]
    LeftBehind {
        /// The number.
        ino: u64,
        /// It has other names, which the kernel knows by the old number.
        others: bool,
    },
    /// The file is being executed.
    #[error("text file busy")]
    TextBusy,
    /// The handle is not open, or not for this.
    #[error("bad handle {fh}")]
    BadHandle {
        /// The handle.
        fh: u64,
    },
    /// Not allowed for this kind of inode, or for anybody.
    #[error("operation not permitted")]
    NotPermitted,
    /// The mode does not allow it.
    #[error("permission denied")]
    AccessDenied,
    /// Mounted read-only.
    #[error("the mount is read-only")]
    ReadOnly,
    /// A name of more than 255 bytes, a symlink target of more than 4,095, or a path of more than 1,024 directories.
    #[error("name too long")]
    NameTooLong,
    /// An argument that makes no sense: an offset below zero, a directory moved into itself.
    #[error("invalid argument")]
    Invalid,
    /// More bytes than a file can have.
    #[error("file too large")]
    FileTooLarge,
    /// The state directory's disk is full.
    #[error("no space left")]
    NoSpace,
    /// The volume's quota is used up.
    #[error("quota exceeded")]
    Quota,
    /// Not offered.
    #[error("operation not supported")]
    NotSupported,
    /// No such extended attribute.
    #[error("no such attribute")]
    NoXattr,
    /// The caller's buffer is too small for the answer, or an attribute's name is empty or too long.
    #[error("result out of range")]
    Range,
    /// An attribute value of more than 64 KiB.
    #[error("value too large")]
    ValueTooLarge,
    /// All attributes of the inode together would be over 64 KiB.
    #[error("no room for attributes")]
    XattrsFull,
    /// Neither data nor hole from there on.
    #[error("no such offset")]
    NoSuchOffset,
    /// More names than can be counted.
    #[error("too many links")]
    TooManyLinks,
    /// Base content could not be had.
    #[error(transparent)]
    Tree(#[from] TreeError),
    /// The state directory refuses to work.
    #[error("{path}: {reason}")]
    Local {
        /// File or directory.
        path: String,
        /// What the system said.
        reason: String,
        /// errno.
        errno: i32,
    },
}

impl ViewError {
    /// Trouble with the disk or the store, as opposed to an answer about the file: a part may have been done.
    pub fn is_trouble(&self) -> bool {
        matches!(
            self,
            ViewError::Local { .. } | ViewError::Tree(_) | ViewError::NoSpace | ViewError::Quota
        )
    }

    /// The number that the calling program sees.
    pub fn errno(&self) -> i32 {
        match self {
            ViewError::NotFound => libc::ENOENT,
            ViewError::Exists => libc::EEXIST,
            ViewError::NotDir => libc::ENOTDIR,
            ViewError::IsDir => libc::EISDIR,
            ViewError::NotEmpty => libc::ENOTEMPTY,
            // The kernel looks the path up again, once and unseen, when it gets this.
            ViewError::Stale { .. } | ViewError::LeftBehind { .. } => libc::ESTALE,
            ViewError::TextBusy => libc::ETXTBSY,
            ViewError::BadHandle { .. } => libc::EBADF,
            ViewError::NotPermitted => libc::EPERM,
            ViewError::AccessDenied => libc::EACCES,
            ViewError::ReadOnly => libc::EROFS,
            // Also for a path that is too deep: there is no number for that, and this one says what to shorten.
            ViewError::NameTooLong => libc::ENAMETOOLONG,
            ViewError::Invalid => libc::EINVAL,
            ViewError::FileTooLarge => libc::EFBIG,
            ViewError::NoSpace => libc::ENOSPC,
            ViewError::Quota => libc::EDQUOT,
            ViewError::NotSupported => libc::EOPNOTSUPP,
            ViewError::NoXattr => libc::ENODATA,
            ViewError::Range => libc::ERANGE,
            ViewError::ValueTooLarge => libc::E2BIG,
            // As ext4 answers when the attribute block is full.
            ViewError::XattrsFull => libc::ENOSPC,
            ViewError::NoSuchOffset => libc::ENXIO,
            ViewError::TooManyLinks => libc::EMLINK,
            ViewError::Tree(error) => tree_errno(error),
            ViewError::Local { errno, .. } => local_errno(*errno),
        }
    }
}

fn tree_errno(error: &TreeError) -> i32 {
    match error {
        TreeError::Damaged { .. } => libc::EIO,
        // The record is no longer kept: "reload", as an NFS client says it of a file that went away on the server.
        TreeError::Expired { .. } => libc::ESTALE,
        // Not ETIMEDOUT or EHOSTUNREACH: programs treat those as socket errors and some retry for ever.
        TreeError::Unreachable { .. } => libc::EIO,
        // Not EACCES: that speaks of the file's mode, and git or tar would skip the file and call it success.
        TreeError::Denied { .. } => libc::EIO,
        TreeError::Local { errno, .. } => cache_errno(*errno),
        // A directory that can take no more entries, say: ext4 answers the same when an index is full.
        TreeError::Limit { .. } => libc::ENOSPC,
    }
}

/// Of the errors of our own files a program is told what is true of its own file too: no room, no quota, no length beyond what
/// the local file system has, no descriptors or memory in this machine. ENOENT, EACCES or EROFS of a body would read as if it
/// were about its own file.
fn local_errno(errno: i32) -> i32 {
    match errno {
        libc::ENOSPC | libc::EDQUOT | libc::EFBIG | libc::ENOMEM | libc::ENFILE => errno,
        // Of the daemon, not of the program.
        libc::EMFILE => libc::ENFILE,
        _ => libc::EIO,
    }
}

/// The same of files of the cache. How long they can be is no matter of the program.
fn cache_errno(errno: i32) -> i32 {
    match local_errno(errno) {
        libc::EFBIG => libc::EIO,
        libc::EDQUOT => libc::ENOSPC,
        errno => errno,
    }
}

impl From<OverlayError> for ViewError {
    fn from(error: OverlayError) -> ViewError {
        let path = match &error {
            OverlayError::Io { path, .. }
            | OverlayError::Refused { path, .. }
            | OverlayError::Damaged { path, .. }
            | OverlayError::TooNew { path, .. }
            | OverlayError::Poisoned { path } => path.display().to_string(),
            OverlayError::Busy { dir, .. } => dir.display().to_string(),
            OverlayError::Apply(_) | OverlayError::Encode(_) | OverlayError::NoStash(_) => {
                "overlay".to_owned()
            }
        };
        ViewError::Local {
            path,
            // Anything but a refusal of the system is our own mistake or damage: EIO, and the log says what.
            errno: error.errno().unwrap_or(libc::EIO),
            reason: error.to_string(),
        }
    }
}

impl From<NameError> for ViewError {
    fn from(error: NameError) -> ViewError {
        match error {
            NameError::TooLong => ViewError::NameTooLong,
            // An empty component names nothing.
            NameError::Empty => ViewError::NotFound,
            // "." and ".." are resolved by the kernel and never come here from a program.
            NameError::Forbidden => ViewError::Invalid,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn trouble_below_never_looks_like_an_answer_about_the_file() {
        for errno in [libc::ENOENT, libc::EACCES, libc::EPERM, libc::EISDIR, libc::EROFS] {
            let error = ViewError::Local {
                path: "b/1".into(),
                reason: String::new(),
                errno,
            };
            assert_eq!(error.errno(), libc::EIO);
        }
        for (below, told) in [
            (libc::EFBIG, libc::EFBIG),
            (libc::ENOSPC, libc::ENOSPC),
            (libc::EDQUOT, libc::EDQUOT),
            (libc::ENOMEM, libc::ENOMEM),
            (libc::EMFILE, libc::ENFILE),
        ] {
            let error = ViewError::Local {
                path: "b/1".into(),
                reason: String::new(),
                errno: below,
            };
            assert_eq!(error.errno(), told);
        }
        let denied = ViewError::Tree(TreeError::Denied { reason: "key".into() });
        assert_eq!(denied.errno(), libc::EIO);
    }
}
