//! A store that keeps what it sends: packs go into the cache as well, so that what was just committed is not fetched
//! again.

use std::ops::Range;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;

use crate::cache::Cache;
use crate::format::Key;
use crate::store::{Arrived, Fetched, LastMoves, Listed, ObjectStore, PutDone, PutMode, StoreError};

/// Decorates the store that commits write to.
#[derive(Debug)]
pub struct KeepingStore {
    inner: Arc<dyn ObjectStore>,
    cache: Arc<Cache>,
}

impl KeepingStore {
    /// Puts what goes to `inner` into `cache` too.
    pub fn new(inner: Arc<dyn ObjectStore>, cache: Arc<Cache>) -> KeepingStore {
        KeepingStore { inner, cache }
    }
}

#[async_trait]
impl ObjectStore for KeepingStore {
    async fn get(&self, key: &str, range: Option<Range<u64>>) -> Result<Fetched, StoreError> {
        self.inner.get(key, range).await
    }

    async fn get_streamed(
        &self,
        key: &str,
        range: Range<u64>,
        arrived: Arrived<'_>,
    ) -> Result<Fetched, StoreError> {
        self.inner.get_streamed(key, range, arrived).await
    }

    async fn put(&self, key: &str, body: Bytes, mode: PutMode) -> Result<PutDone, StoreError> {
        let done = self.inner.put(key, body.clone(), mode).await?;
        if let Some(Key::Pack(_, pack)) = Key::parse(key) {
            self.cache.insert_pack(&pack, &body).await;
        }
        Ok(done)
    }

    async fn head(&self, key: &str) -> Result<Option<u64>, StoreError> {
        self.inner.head(key).await
    }

    async fn list(
        &self,
        prefix: &str,
        start_after: Option<&str>,
        limit: usize,
    ) -> Result<Listed, StoreError> {
        self.inner.list(prefix, start_after, limit).await
    }

    async fn delete(&self, keys: &[String]) -> Result<(), StoreError> {
        self.inner.delete(keys).await
    }

    async fn delete_same(&self, key: &str, seen: &Fetched) -> Result<bool, StoreError> {
        self.inner.delete_same(key, seen).await
    }

    async fn establish(&self) -> Result<(), StoreError> {
        self.inner.establish().await
    }

    async fn is_established(&self) -> Result<bool, StoreError> {
        self.inner.is_established().await
    }

    fn last_moves(&self) -> Option<LastMoves> {
        self.inner.last_moves()
    }

    fn describe(&self) -> String {
        self.inner.describe()
    }
}
