//! Clean bytes on local disk: nodes, small contents and large ones, fetched once and checked before anybody sees them.
//!
//! # Invariants
//! 1. No byte is given out that was not verified in this session against a hash that came from a verified parent: nodes
//!    by their pointer, blobs and chunks by their id, frames of an earlier session by the hash that was noted when they
//!    were verified.
//! 2. Everything here may be deleted at any time, the whole directory or single files, mounted or not: it costs fetching.
//!    What was altered, cut or emptied is found out and fetched again; nobody reads zeros in its place.
//! 3. Clean bytes on disk never exceed the cap: room is taken before a fetch, and given back when an evicted file is
//!    closed by its last reader. Bytes are counted in blocks of 4 KiB, with one block more per frame or window for
//!    the file system. The index (some 100 bytes per MiB) is not counted.
//! 4. Eviction unlinks whole files, oldest first; nothing is cut or punched that somebody may have open.
//! 5. Without room (cap, floor of free space, full disk) bytes are given out from memory; reading goes on.
//! 6. One fetch serves all who wait for the same bytes, and goes on when they leave.
//!
//! # State
//! | in the cache directory | |
//! |---|---|
//! | `lock` | locked by the one process that uses the directory |
//! | `volume` | whose bytes these are; those of another volume are deleted |
//! | `packs/<pack>-<epoch>-<first byte>-<number>` | a window of a pack, as stored; verified item by item at every use |
//! | `contents/<cid>-<segment bytes>-<segment>-<number>` | frames of a large content, plain, in a sparse file |
//! | `index/` | sled: hashes of frames, recency |
//!
//! A content up to half the cap is one file (segment bytes 0), a larger one several. After a restart a frame counts as
//! present when the index has its hash, and is read in full and compared at its first use; the identity of a file is
//! compared at every opening and every read within a session. (It is not noted across restarts: comparing the bytes is
//! the stronger test, and needs no order between two files after a crash.)
//!
//! # Concurrency
//! Questions that must not wait (`loaded`, `read_local`) take short locks and do at most a pread of a cached file.
//! Everything else is async: one task per fetch, files and sled on blocking threads. Locks, none held across an await:
//! `evicting` before a segment's `write` before its `state`; the maps of packs and segments are held alone.
//!
//! # Failure
//! A request is repeated while anything arrives from the store, and at most for the time-out when nothing does. Bytes
//! that fail their check are fetched once more, then the object is named as damaged. An error ends the wait of all who
//! share the fetch; the next reader tries again. A demanded frame is asked for alone, what is read ahead comes in ranges of
//! 8 MiB; their frames are given out and kept one by one as they arrive.

mod access;
mod adopt;
mod ahead;
mod arriving;
mod budget;
mod check;
mod chunks;
mod contents;
mod disk;
mod evict;
mod frames;
mod index;
mod items;
mod lease;
mod lists;
mod lru;
mod open;
mod options;
mod packs;
mod remote;
mod segment;
mod space;
mod stats;
#[cfg(test)]
mod tests;

pub use access::Cache;
pub use adopt::PinnedFile;
pub use check::{CacheCheck, cache_dirs, check_cache};
pub use lease::{Unused, has_no_writer, is_unused};
pub use options::{Adoption, CacheError, CacheOptions, KeptCheck};
pub use stats::CacheStats;

use crate::model::{FRAME_BYTES, Hash};

/// Largest range of one request for frames, bytes: the smallest chunk size. Frames are grouped at multiples of it.
const GROUP_BYTES: u64 = 8 * FRAME_BYTES;
/// How often a read looks again after what it needs was evicted, deleted or damaged under its hands.
const ATTEMPTS_MAX: u32 = 8;

/// Plaintext that is kept in memory.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
enum PieceKey {
    /// A blob, by its id.
    Blob(Hash),
    /// A frame of a content for which there was no room on disk.
    Frame(Hash, u64),
}
