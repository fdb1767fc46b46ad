//! How far long work is, and what came of the work that answers with nothing else.

use serde::{Deserialize, Serialize};

/// How far a long operation is.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Progress {
    /// `scanning`, `uploading`, `publishing`, `fetching`, ...
    pub stage: String,
    /// Units done.
    pub done_files: u64,
    /// Units in all, if known.
    pub total_files: u64,
    /// Bytes done.
    pub done_bytes: u64,
    /// Bytes in all, if known.
    pub total_bytes: u64,
    /// Bytes that went over the network.
    pub sent_bytes: u64,
}

/// What a `prefetch` did.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct PrefetchAnswer {
    /// Files below the path.
    pub files: u64,
    /// Their logical bytes.
    pub bytes: u64,
}
