//! How far a commit is, for whoever shows it.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// A snapshot.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct ProgressCount {
    /// Dirty files.
    pub files: u64,
    /// Of these, dealt with.
    pub files_done: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Of these, read (or known to be unchanged).
    pub bytes_done: u64,
    /// Bytes that went to the store.
    pub sent: u64,
}

type Listener = Box<dyn Fn(ProgressCount) + Send + Sync>;

/// Counts of one commit; tells a listener, if there is one, at every step. The listener must not block.
#[derive(Default)]
pub struct Progress {
    files: AtomicU64,
    files_done: AtomicU64,
    bytes: AtomicU64,
    bytes_done: AtomicU64,
    sent: AtomicU64,
    listener: Option<Listener>,
}

impl Progress {
    /// Tells `listener`.
    pub fn telling(listener: impl Fn(ProgressCount) + Send + Sync + 'static) -> Progress {
        Progress {
            listener: Some(Box::new(listener)),
            ..Progress::default()
        }
    }

    /// The counts now.
    pub fn count(&self) -> ProgressCount {
        ProgressCount {
            files: self.files.load(Relaxed),
            files_done: self.files_done.load(Relaxed),
            bytes: self.bytes.load(Relaxed),
            bytes_done: self.bytes_done.load(Relaxed),
            sent: self.sent.load(Relaxed),
        }
    }

    pub(super) fn begin(&self, files: u64, bytes: u64) {
        self.files.store(files, Relaxed);
        self.bytes.store(bytes, Relaxed);
        self.files_done.store(0, Relaxed);
        self.bytes_done.store(0, Relaxed);
        self.tell();
    }

    pub(super) fn file_done(&self) {
        self.files_done.fetch_add(1, Relaxed);
        self.tell();
    }

    pub(super) fn read(&self, bytes: u64) {
        self.bytes_done.fetch_add(bytes, Relaxed);
        self.tell();
    }

    pub(super) fn sent_bytes(&self, bytes: u64) {
        self.sent.fetch_add(bytes, Relaxed);
        self.tell();
    }

    fn tell(&self) {
        if let Some(listener) = &self.listener {
            listener(self.count());
        }
    }
}

impl fmt::Debug for Progress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.count().fmt(f)
    }
}
