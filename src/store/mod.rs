//! The object-store port and its adapters.

mod port;

pub use port::{Fetched, Listed, ListedObject, ObjectStore, PutDone, PutMode, StoreError};
