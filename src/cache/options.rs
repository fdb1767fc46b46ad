//! What a cache is opened with, and why that can fail.

use futures::future::BoxFuture;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use super::budget::memory_budget;

/// How a cache is opened.
#[derive(Clone, Debug)]
pub struct CacheOptions {
    /// The cache directory of one mount; made with mode 0700 when it is missing.
    pub dir: PathBuf,
    /// Hard cap on clean bytes on disk, bytes.
    pub bytes_max: u64,
    /// Free space that is left on the file system for others, bytes.
    pub free_floor_bytes: u64,
    /// Most memory for bytes that are being fetched, bytes.
    pub memory_bytes_max: u64,
    /// Most memory for decoded nodes; a quarter as much again may hold plaintext of small files, bytes.
    pub node_memory_bytes: u64,
    /// A read waits this long for the store while nothing at all arrives from it.
    pub remote_timeout: Duration,
    /// Most requests to the store at a time.
    pub fetches_max: usize,
}

impl CacheOptions {
    /// Sensible values for a cache of `bytes_max` bytes in `dir`.
    pub fn new(dir: impl Into<PathBuf>, bytes_max: u64) -> CacheOptions {
        CacheOptions {
            dir: dir.into(),
            bytes_max,
            free_floor_bytes: 0,
            memory_bytes_max: memory_budget(),
            node_memory_bytes: 64 << 20,
            remote_timeout: Duration::from_secs(300),
            fetches_max: 32,
        }
    }
}

/// Why a cache cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum CacheError {
    /// Another daemon uses the directory.
    #[error("{path}: the cache is in use by another process")]
    Busy {
        /// The cache directory.
        path: PathBuf,
    },
    /// The directory belongs to somebody else, or others may look into it.
    #[error("{path}: {reason}")]
    Unsafe {
        /// The cache directory.
        path: PathBuf,
        /// Whose it is or what its mode is, and what to do.
        reason: String,
    },
    /// The local disk does not do what it should.
    #[error("{path}: {source}")]
    Io {
        /// File or directory.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// [`super::Cache::open`] was called outside a tokio runtime.
    #[error("the cache needs an asynchronous runtime to fetch in")]
    NoRuntime,
}

/// Asked when an object is missing: is the record that the view stands on still kept by the volume? `false` makes the
/// error [`crate::tree::TreeError::Expired`], `true` makes it `Damaged`.
pub type KeptCheck = Arc<dyn Fn() -> BoxFuture<'static, bool> + Send + Sync>;

/// What the caller of [`super::Cache::adopt_file`] knows about the bytes of the file.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Adoption {
    /// Read and hash everything before it counts as the content.
    Check,
    /// The caller has hashed exactly these bytes to exactly this content, and nobody has been able to write since.
    Checked,
}
