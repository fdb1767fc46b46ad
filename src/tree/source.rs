//! Where nodes come from.

use async_trait::async_trait;
use bytes::Bytes;
use std::sync::Arc;

use crate::format::{Corrupt, Node};
use crate::model::{BlobRef, Ptr};

/// Why a part of the tree could not be had.
#[derive(Debug, Clone, thiserror::Error)]
pub enum TreeError {
    /// A stored object is missing, cut, altered, or breaks a rule of the format.
    #[error("damaged volume: {object}: {rule}")]
    Damaged {
        /// Key of the object, and offset where that helps.
        object: String,
        /// What is wrong with it.
        rule: String,
    },
    /// The object is gone because its record is not kept by the volume any more: a reload helps.
    #[error("{object} is no longer kept by the volume; reload to move to a newer record")]
    Expired {
        /// Key of the object.
        object: String,
    },
    /// The store did not answer in time.
    #[error("the store does not answer: {reason}")]
    Unreachable {
        /// What the last attempt said.
        reason: String,
    },
    /// The store does not let us.
    #[error("access denied: {reason}")]
    Denied {
        /// What the store said, with what to do.
        reason: String,
    },
    /// Local disk trouble (cache or state directory).
    #[error("{path}: {reason}")]
    Local {
        /// File or directory.
        path: String,
        /// What the system said.
        reason: String,
        /// errno, for the caller of a system call.
        errno: i32,
    },
    /// A limit of the format (SPEC.md 14) would be exceeded.
    #[error("{what} is over the limit of {limit}")]
    Limit {
        /// What was counted.
        what: &'static str,
        /// The most there may be.
        limit: u64,
    },
}

impl From<Corrupt> for TreeError {
    fn from(corrupt: Corrupt) -> TreeError {
        TreeError::Damaged {
            object: format!("{}, byte {}", corrupt.object, corrupt.offset),
            rule: corrupt.rule.to_owned(),
        }
    }
}

/// A node that has to be fetched before a synchronous question can be answered: fetch it, then ask again.
#[derive(Debug, Clone, Copy)]
pub struct Missing(pub Ptr);

/// Where nodes and blobs come from: the cache in front of a store, a store alone, or memory. Everything it gives was
/// verified against the hash in the pointer.
///
/// A source that keeps decoded nodes must know them by pack *and* hash: a node names others in its own pack by "here",
/// so equal bytes in two packs (a node that was uploaded again, or written locally and then published) decode to
/// different pointers, and one of the packs may be gone.
#[async_trait]
pub trait NodeSource: Send + Sync {
    /// The node, if it is in memory now. Never waits.
    fn loaded(&self, ptr: &Ptr) -> Option<Arc<Node>>;

    /// The node, from wherever it is.
    async fn node(&self, ptr: &Ptr) -> Result<Arc<Node>, TreeError>;

    /// A blob's plaintext of `raw_len` bytes.
    async fn blob(&self, blob: &BlobRef, raw_len: u64) -> Result<Bytes, TreeError>;
}
