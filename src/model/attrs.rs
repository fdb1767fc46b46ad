//! Attributes of an inode as they are stored: no atime, no allocation map.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::{BlobRef, FileId};

/// The permission bits that are stored: rwx for three classes, setuid, setgid, sticky.
pub const MODE_MASK: u16 = 0o7777;
/// Most bytes of names and values of all xattrs of one entry (SPEC.md 14).
pub const XATTR_BYTES_MAX: usize = 64 * 1024;
/// Above this many bytes, names and values counted, xattrs are stored out of line as a blob (SPEC.md 7.1).
pub const XATTR_INLINE_BYTES_MAX: usize = 1024;

/// Seconds and nanoseconds since 1970-01-01 UTC; `nanos` is below 10^9, also for negative seconds.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Default)]
pub struct Timestamp {
    /// Whole seconds, rounded down.
    pub secs: i64,
    /// Nanoseconds after `secs`.
    pub nanos: u32,
}

impl Timestamp {
    /// As one number. Saturates some 10^20 years away from 1970.
    pub fn as_nanos(&self) -> i128 {
        i128::from(self.secs) * 1_000_000_000 + i128::from(self.nanos)
    }
}

/// Names and values of extended attributes, sorted by name.
pub type XattrMap = BTreeMap<Box<[u8]>, Box<[u8]>>;

/// Extended attributes of an entry.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub enum Xattrs {
    /// There are none.
    #[default]
    None,
    /// Up to [`XATTR_INLINE_BYTES_MAX`] bytes when stored; any number in memory. Never empty.
    Inline(Arc<XattrMap>),
    /// In a blob of their own: `raw_len` bytes of encoded map.
    OutOfLine {
        /// Where the blob is. Boxed as it is rare, and there are entries by the million in memory.
        blob: Box<BlobRef>,
        /// Length of the encoded map, bytes.
        raw_len: u32,
    },
}

impl Xattrs {
    /// The in-memory form of a map.
    pub fn from_map(map: XattrMap) -> Xattrs {
        if map.is_empty() {
            Xattrs::None
        } else {
            Xattrs::Inline(Arc::new(map))
        }
    }

    /// Bytes of names and values of a map, as the limits count them.
    pub fn map_bytes(map: &XattrMap) -> usize {
        map.iter().map(|(name, value)| name.len() + value.len()).sum()
    }
}

/// What `stat` shows of an inode besides size, kind and link count.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Attrs {
    /// Permission bits, within [`MODE_MASK`].
    pub mode: u16,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Last change of the content.
    pub mtime: Timestamp,
    /// Last change of content or attributes.
    pub ctime: Timestamp,
    /// `st_ino`; merges do not look at it.
    pub file_id: FileId,
    /// Extended attributes.
    pub xattrs: Xattrs,
}
