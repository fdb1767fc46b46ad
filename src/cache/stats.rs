//! What the cache tells about itself.

use parking_lot::Mutex;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// Counters for `status`. Those of transfers and hits count from the opening of the cache.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CacheStats {
    /// Clean bytes on disk, in blocks of 4 KiB, room reserved for running fetches included.
    pub bytes_used: u64,
    /// The cap on that.
    pub bytes_max: u64,
    /// File contents (or segments of large ones) on disk.
    pub contents: u64,
    /// Pack windows on disk.
    pub windows: u64,
    /// Memory that holds decoded nodes and small contents, bytes (estimated).
    pub memory_bytes: u64,
    /// Nodes, blobs and frames that were in memory or on disk.
    pub hits: u64,
    /// Nodes, blobs and frames that had to be waited for.
    pub misses: u64,
    /// Requests sent to the store.
    pub requests: u64,
    /// Bytes that arrived.
    pub fetched_bytes: u64,
    /// Requests without an answer at this moment.
    pub in_flight: u64,
    /// Requests that failed, retried ones included.
    pub errors: u64,
    /// What the last failed request said.
    pub last_error: Option<String>,
    /// Contents and windows that were evicted.
    pub evictions: u64,
    /// Fetches whose bytes were given to the reader but not kept, for want of room on the disk.
    pub unkept: u64,
    /// Local files that did not hold any more what was written to them.
    pub local_damage: u64,
}

/// The live form of the counters.
#[derive(Debug, Default)]
pub(super) struct Counters {
    pub hits: AtomicU64,
    pub misses: AtomicU64,
    pub requests: AtomicU64,
    pub fetched_bytes: AtomicU64,
    pub in_flight: AtomicU64,
    pub errors: AtomicU64,
    pub evictions: AtomicU64,
    pub unkept: AtomicU64,
    pub local_damage: AtomicU64,
    pub last_error: Mutex<Option<String>>,
}

/// Adds one.
pub(super) fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Relaxed);
}

impl Counters {
    /// A request failed.
    pub fn failed(&self, what: String) {
        count(&self.errors);
        *self.last_error.lock() = Some(what);
    }

    /// The counters as they are now; the rest of the fields is the caller's.
    pub fn snapshot(&self) -> CacheStats {
        CacheStats {
            hits: self.hits.load(Relaxed),
            misses: self.misses.load(Relaxed),
            requests: self.requests.load(Relaxed),
            fetched_bytes: self.fetched_bytes.load(Relaxed),
            in_flight: self.in_flight.load(Relaxed),
            errors: self.errors.load(Relaxed),
            evictions: self.evictions.load(Relaxed),
            unkept: self.unkept.load(Relaxed),
            local_damage: self.local_damage.load(Relaxed),
            last_error: self.last_error.lock().clone(),
            ..CacheStats::default()
        }
    }
}
