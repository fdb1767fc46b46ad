//! From a URL to a store.

use std::sync::Arc;

use super::{DirStore, ObjectStore, StoreError, StoreUrl};

/// Opens the store that a URL names. Sends no request: a wrong address or key shows at the first one.
pub async fn open(url: &StoreUrl) -> Result<Arc<dyn ObjectStore>, StoreError> {
    match url {
        StoreUrl::Dir(root) => {
            let root = root.clone();
            let opened = tokio::task::spawn_blocking(move || DirStore::open(root)).await;
            let store = opened.map_err(|error| StoreError::Unreachable {
                reason: error.to_string(),
            })?;
            Ok(Arc::new(store))
        }
        StoreUrl::S3(_) => Err(StoreError::Misconfigured {
            reason: "S3 is not built in yet".into(),
        }),
    }
}
