//! The object-store port and its adapters: S3, a local directory, memory.
//!
//! Everything above speaks to an [`ObjectStore`], which [`open`] makes from a [`StoreUrl`]. The obligations of an
//! adapter are listed at the port; `fuse-tests/src/store_contract.rs` runs them against every adapter, and
//! [`MemoryStore`] is their shortest executable form.
//!
//! Retries live in the adapters (S3: in its SDK), never above them: a caller that gets [`StoreError::Unreachable`] may
//! wait and ask again, but must not multiply the attempts of one request.

mod counting;
mod dir;
mod key;
mod limited;
mod memory;
mod open;
mod pause;
mod port;
mod probe;
mod s3;
mod time;
mod url;

pub use counting::{CountingStore, StoreCounters, VerbCount};
pub use dir::DirStore;
pub use key::{KEY_BYTES_MAX, LIST_LIMIT_MAX};
pub use limited::LimitedStore;
pub use memory::MemoryStore;
pub use open::{StoreOptions, credentials_source, open, open_with};
#[cfg(test)]
pub use pause::IMPATIENT;
pub use pause::pause;
pub use port::{
    Arrived, Fetched, LastMoves, Listed, ListedObject, ObjectStore, PutDone, PutMode, StoreError,
};
pub use probe::{CreateVerdict, ListVerdict, ProbeReport, probe};
pub use s3::S3Store;
pub use url::{
    S3Url, StoreUrl, StoreUrlError, VOLUME_NAME_BYTES_MAX, VolumeUrl, check_volume_name, split_volume_path,
};
