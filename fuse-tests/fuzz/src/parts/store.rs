//! Addresses, keys and the port.

#[path = "../../../../src/store/key.rs"]
mod key;
#[path = "../../../../src/store/port.rs"]
mod port;
#[path = "../../../../src/store/url.rs"]
mod url;

pub use key::KEY_BYTES_MAX;
pub use port::{Fetched, Listed, ObjectStore, PutDone, PutMode, StoreError};
pub use url::{StoreUrl, StoreUrlError, VolumeUrl, check_volume_name, split_volume_path};
