//! The port: what sailvol asks of an object store.

use async_trait::async_trait;
use bytes::Bytes;
use std::ops::Range;
use tokio::time::Instant;

use crate::model::Timestamp;

/// How a PUT treats an object that is already there.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum PutMode {
    /// Replace it. Only for keys whose bytes are the same whoever writes them (packs, chunks) and for leases.
    Overwrite,
    /// Fail with [`StoreError::AlreadyExists`]; the store decides atomically among racing creators. An adapter never
    /// repeats such a request by itself: after a lost answer the caller reads the key and looks whose bytes are there.
    IfAbsent,
}

/// A read object, or a part of one.
#[derive(Clone, Debug)]
pub struct Fetched {
    /// The bytes asked for; shorter than the range only where the object ends.
    pub bytes: Bytes,
    /// Length of the whole object, bytes.
    pub object_len: u64,
    /// The store's clock when it answered, if it told.
    pub server_time: Option<Timestamp>,
    /// When the object was last written, by the store's clock, if it told.
    pub modified: Option<Timestamp>,
    /// What the store calls this state of the object, if it does: another state has another one.
    pub etag: Option<String>,
}

/// Takes the next bytes of a read that is running. It must not wait.
pub type Arrived<'a> = &'a mut (dyn FnMut(Bytes) + Send);

/// A finished PUT.
#[derive(Clone, Debug, Default)]
pub struct PutDone {
    /// The store's clock when it answered, if it told.
    pub server_time: Option<Timestamp>,
}

/// One object of a listing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListedObject {
    /// Its key, relative to the store's root.
    pub key: String,
    /// Its length, bytes.
    pub len: u64,
    /// When it was last written, by the store's clock, if it told.
    pub modified: Option<Timestamp>,
}

/// One page of a listing.
#[derive(Clone, Debug, Default)]
pub struct Listed {
    /// Objects in the order in which the store told them; a conforming one sorts by key bytes.
    pub objects: Vec<ListedObject>,
    /// There is more: list again with `start_after` = the last key.
    pub truncated: bool,
    /// The store's clock when it answered, if it told.
    pub server_time: Option<Timestamp>,
}

/// When bytes moved last between a store and this process.
#[derive(Clone, Copy, Debug, Default)]
pub struct LastMoves {
    /// Bytes of an answer came, or a request was done.
    pub received: Option<Instant>,
    /// Bytes of a request's body were taken by the connection.
    pub sent: Option<Instant>,
    /// Since when somebody waits for an answer; `None`: nothing was asked that is not answered.
    pub awaited: Option<Instant>,
    /// Bytes that the connections have taken of bodies which nobody has answered yet: some of them may still be in the buffers
    /// of this machine, where their moves are not seen.
    pub unanswered: u64,
}

impl LastMoves {
    /// Since when the store is silent although somebody waits; `None` when nobody does.
    pub fn silent_since(&self) -> Option<Instant> {
        let moved = self.received.max(self.sent);
        self.awaited
            .map(|asked| moved.map_or(asked, |moved| moved.max(asked)))
    }
}

/// Why a request failed, by what the caller does about it.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// No object of that key.
    #[error("{key}: no such object")]
    NotFound {
        /// The key.
        key: String,
    },
    /// A put-if-absent found an object (HTTP 412).
    #[error("{key}: an object is already there")]
    AlreadyExists {
        /// The key.
        key: String,
    },
    /// The outcome of a write is not known (lost answer, 409, 5xx, time-out): read the key to find out.
    #[error("{key}: the outcome of the write is not known: {reason}")]
    Unknown {
        /// The key.
        key: String,
        /// What the store or the network said.
        reason: String,
    },
    /// Credentials are missing, wrong, expired, or do not allow this.
    #[error("access denied: {reason}")]
    Denied {
        /// What the store said, with what to do.
        reason: String,
    },
    /// The bucket or root directory does not exist, or the address is no object store.
    #[error("{reason}")]
    Misconfigured {
        /// What is wrong and what to do.
        reason: String,
    },
    /// No answer, or one that may be different next time; the adapter has retried within its limits.
    #[error("the store does not answer: {reason}")]
    Unreachable {
        /// What the last attempt said.
        reason: String,
    },
    /// The local disk or the store has no room.
    #[error("no space left in the store: {reason}")]
    NoSpace {
        /// Where.
        reason: String,
    },
    /// An answer that breaks the contract of the port (wrong length, garbage).
    #[error("{key}: {reason}")]
    Broken {
        /// The key.
        key: String,
        /// Which rule was broken.
        reason: String,
    },
}

impl StoreError {
    /// True when the same request may succeed later without anybody mending anything.
    pub fn is_transient(&self) -> bool {
        matches!(self, StoreError::Unreachable { .. } | StoreError::Unknown { .. })
    }
}

/// An object store, rooted somewhere (bucket and prefix, or a directory). Keys are relative, of `[a-z0-9/._-]` and
/// volume names, never empty, never with `..`.
///
/// Obligations of an adapter:
/// 1. A finished write is seen by every later get and list, from anywhere.
/// 2. Objects appear whole or not at all.
/// 3. `list` sorts by key bytes and is complete up to `limit`.
/// 4. `get`, `list`, `head`, `delete` and overwriting puts may be repeated by the adapter; a put-if-absent is repeated only
///    when it is certain that the store has not applied it (it could not be sent, or its credentials were refused).
/// 5. Every call ends: with progress-based time limits, not a fixed total.
/// 6. Dropping the future gives up the request; a write may then have happened or not.
/// 7. A store that was there and is not any more does not answer ([`StoreError::Unreachable`]): it is not empty, and no write
///    makes it anew.
#[async_trait]
pub trait ObjectStore: Send + Sync + std::fmt::Debug + 'static {
    /// Reads an object or a byte range of it. A range that begins past the end gives [`StoreError::Broken`]; one that
    /// ends past it gives what is there; an empty range cannot be asked for.
    async fn get(&self, key: &str, range: Option<Range<u64>>) -> Result<Fetched, StoreError>;

    /// Reads a range as [`ObjectStore::get`] does and gives its bytes to `arrived` in order, as they come; those of the
    /// result are empty. What was given out before an error is a beginning of the range, and is not given out again.
    async fn get_streamed(
        &self,
        key: &str,
        range: Range<u64>,
        arrived: Arrived<'_>,
    ) -> Result<Fetched, StoreError> {
        let mut fetched = self.get(key, Some(range)).await?;
        arrived(std::mem::take(&mut fetched.bytes));
        Ok(fetched)
    }

    /// Writes an object.
    async fn put(&self, key: &str, body: Bytes, mode: PutMode) -> Result<PutDone, StoreError>;

    /// Length of an object, or `None`.
    async fn head(&self, key: &str) -> Result<Option<u64>, StoreError>;

    /// Objects whose key starts with `prefix`, after `start_after`, at most `limit` (1 to 1,000).
    async fn list(&self, prefix: &str, start_after: Option<&str>, limit: usize)
    -> Result<Listed, StoreError>;

    /// Deletes objects; one that is not there is no error. Any number of keys.
    async fn delete(&self, keys: &[String]) -> Result<(), StoreError>;

    /// Deletes an object if it is still the one that was read (whole) as `seen`; false if it is another, or gone. An adapter
    /// does it in one step where the store can; else it looks directly before.
    async fn delete_same(&self, key: &str, seen: &Fetched) -> Result<bool, StoreError> {
        if !is_same(self, key, seen).await? {
            return Ok(false);
        }
        self.delete(&[key.to_owned()]).await?;
        Ok(true)
    }

    /// Lets each body try to create the same key, overlapping as far as the adapter can make them: over a network the last
    /// byte of each is held back until all others are that far. For the probe of [`PutMode::IfAbsent`]. One answer per
    /// body, in their order; a single error when nothing could be sent.
    async fn race_to_create(&self, key: &str, bodies: Vec<Bytes>) -> Vec<Result<PutDone, StoreError>> {
        let creators = bodies
            .into_iter()
            .map(|body| self.put(key, body, PutMode::IfAbsent));
        futures::future::join_all(creators).await
    }

    /// Makes the place that the store lies in, where that is ours to make (the root of a directory store); for whoever makes
    /// a volume, and nobody else: a place that is missing otherwise is a disk that is not mounted. No error when it is there.
    async fn establish(&self) -> Result<(), StoreError> {
        Ok(())
    }

    /// Whether the place that the store lies in was made; true where only a request to it could tell.
    async fn is_established(&self) -> Result<bool, StoreError> {
        Ok(true)
    }

    /// When bytes moved last, for whoever waits as long as there is progress. `None`: the store does not tell (it is on
    /// this machine, and answers at once or never).
    fn last_moves(&self) -> Option<LastMoves> {
        None
    }

    /// For messages: a URL without secrets.
    fn describe(&self) -> String;
}

/// True if an object is still the one that was read.
pub(super) async fn is_same<S: ObjectStore + ?Sized>(
    store: &S,
    key: &str,
    seen: &Fetched,
) -> Result<bool, StoreError> {
    match store.get(key, None).await {
        Ok(found) => Ok(found.bytes == seen.bytes),
        Err(StoreError::NotFound { .. }) => Ok(false),
        Err(error) => Err(error),
    }
}
