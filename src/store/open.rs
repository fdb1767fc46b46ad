//! From a URL to a store.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use super::{DirStore, ObjectStore, S3Store, StoreError, StoreUrl};

/// Limits and places for stores over a network.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct StoreOptions {
    /// Longest time in which a request may make no progress.
    pub stall_timeout: Duration,
    /// Attempts of one request until it counts as failed; transfers that get on do not count.
    pub attempts_max: u32,
    /// Requests in flight at one time.
    pub requests_max: usize,
    /// Credentials in the format of `~/.aws/credentials`, instead of the AWS default chain.
    pub credentials_file: Option<PathBuf>,
}

impl Default for StoreOptions {
    fn default() -> StoreOptions {
        StoreOptions {
            stall_timeout: Duration::from_secs(30),
            attempts_max: 6,
            requests_max: 64,
            credentials_file: None,
        }
    }
}

/// Opens the store that a URL names, with the default options. Sends no request: a wrong address or key shows at the
/// first one.
///
/// # Errors
/// [`StoreError::Misconfigured`] when a file of certificates that is to be trusted cannot be used.
pub async fn open(url: &StoreUrl) -> Result<Arc<dyn ObjectStore>, StoreError> {
    open_with(url, &StoreOptions::default()).await
}

/// Where the credentials for a store come from, in words; `None` for a store that needs none. Never tells any of them.
///
/// # Errors
/// [`StoreError::Denied`] when there are none; as [`open`].
pub async fn credentials_source(url: &StoreUrl) -> Result<Option<String>, StoreError> {
    match url {
        StoreUrl::Dir(_) => Ok(None),
        StoreUrl::S3(s3) => S3Store::open(s3, &StoreOptions::default())
            .await?
            .credentials_source()
            .await
            .map(Some),
    }
}

/// Opens the store that a URL names.
///
/// # Errors
/// As [`open`].
pub async fn open_with(url: &StoreUrl, options: &StoreOptions) -> Result<Arc<dyn ObjectStore>, StoreError> {
    match url {
        StoreUrl::Dir(root) => {
            let root = root.clone();
            let opened = tokio::task::spawn_blocking(move || DirStore::open(root)).await;
            let store = opened.map_err(|error| StoreError::Unreachable {
                reason: error.to_string(),
            })?;
            Ok(Arc::new(store))
        }
        StoreUrl::S3(s3) => Ok(Arc::new(S3Store::open(s3, options).await?)),
    }
}
