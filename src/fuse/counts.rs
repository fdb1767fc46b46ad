//! How many requests the kernel has made, by operation.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use super::hearing::LoopThreads;

/// Requests of one kind since the mount.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RequestCount {
    /// Name of the operation, as in fuse(4) but in small letters.
    pub operation: &'static str,
    /// How many.
    pub requests: u64,
}

/// Operations that are told apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Operation {
    Lookup,
    Forget,
    Getattr,
    Setattr,
    Readlink,
    /// mknod, mkdir, symlink, link.
    Make,
    /// unlink, rmdir.
    Remove,
    Rename,
    Open,
    Create,
    Read,
    Write,
    Flush,
    Release,
    Fsync,
    Opendir,
    Readdir,
    Releasedir,
    Statfs,
    /// All four requests about extended attributes.
    Xattr,
    Access,
    Fallocate,
    Lseek,
    CopyFileRange,
}

const NAMES: [&str; 24] = [
    "lookup",
    "forget",
    "getattr",
    "setattr",
    "readlink",
    "make",
    "remove",
    "rename",
    "open",
    "create",
    "read",
    "write",
    "flush",
    "release",
    "fsync",
    "opendir",
    "readdir",
    "releasedir",
    "statfs",
    "xattr",
    "access",
    "fallocate",
    "lseek",
    "copy_file_range",
];

/// The counters of one session. Threads share them: a relaxed addition costs less than one hundredth of a request.
#[derive(Debug, Default)]
pub(super) struct RequestCounts {
    counts: [AtomicU64; NAMES.len()],
    /// Those that read the requests.
    pub threads: LoopThreads,
}

impl RequestCounts {
    /// One more, which the thread that has read it begins now.
    pub fn add(&self, operation: Operation) {
        self.threads.begin();
        self.counts[operation as usize].fetch_add(1, Relaxed);
    }

    /// All of them, also those that are 0.
    pub fn snapshot(&self) -> Vec<RequestCount> {
        let counts = NAMES.iter().zip(&self.counts);
        counts
            .map(|(operation, count)| RequestCount {
                operation,
                requests: count.load(Relaxed),
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_operation_has_its_name() {
        let counts = RequestCounts::default();
        counts.add(Operation::CopyFileRange);
        counts.add(Operation::Lookup);
        counts.add(Operation::Lookup);
        let snapshot = counts.snapshot();
        assert_eq!((snapshot[0].operation, snapshot[0].requests), ("lookup", 2));
        let last = snapshot[NAMES.len() - 1];
        assert_eq!((last.operation, last.requests), ("copy_file_range", 1));
    }
}
