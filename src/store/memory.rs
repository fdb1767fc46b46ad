//! A store in memory: the port's executable meaning, and the remote of tests that need no disk or network.

use async_trait::async_trait;
use bytes::Bytes;
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::ops::{Bound, Range};
use std::time::Duration;

use super::key::{check_key, check_list, check_range, clip};
use super::{Fetched, Listed, ListedObject, ObjectStore, PutDone, PutMode, StoreError, time};
use crate::model::Timestamp;

#[derive(Debug)]
struct Object {
    bytes: Bytes,
    modified: Timestamp,
}

#[derive(Debug, Default)]
struct State {
    objects: BTreeMap<String, Object>,
    /// `None`: this machine's clock.
    clock: Option<Timestamp>,
}

/// Objects in a sorted map behind one lock, which makes every request atomic.
#[derive(Debug, Default)]
pub struct MemoryStore {
    state: Mutex<State>,
}

impl MemoryStore {
    /// An empty store whose clock is this machine's.
    pub fn new() -> MemoryStore {
        MemoryStore::default()
    }

    /// From now on the store's clock stands at `time` until it is set or advanced.
    pub fn set_time(&self, time: Timestamp) {
        self.state.lock().clock = Some(time);
    }

    /// Moves the store's clock, which stands still otherwise from now on.
    pub fn advance_time(&self, by: Duration) {
        let mut state = self.state.lock();
        let mut time = state.time();
        let nanos = time.nanos + by.subsec_nanos();
        time.secs = time
            .secs
            .saturating_add_unsigned(by.as_secs())
            .saturating_add(i64::from(nanos / 1_000_000_000));
        time.nanos = nanos % 1_000_000_000;
        state.clock = Some(time);
    }

    /// What the store's clock shows.
    pub fn time(&self) -> Timestamp {
        self.state.lock().time()
    }

    /// All keys, sorted.
    pub fn keys(&self) -> Vec<String> {
        self.state.lock().objects.keys().cloned().collect()
    }
}

impl State {
    fn time(&self) -> Timestamp {
        self.clock.unwrap_or_else(time::now)
    }
}

#[async_trait]
impl ObjectStore for MemoryStore {
    async fn get(&self, key: &str, range: Option<Range<u64>>) -> Result<Fetched, StoreError> {
        check_key(key)?;
        check_range(key, &range)?;
        let state = self.state.lock();
        let object = state
            .objects
            .get(key)
            .ok_or_else(|| StoreError::NotFound { key: key.to_string() })?;
        let object_len = object.bytes.len() as u64;
        let range = clip(key, range, object_len)?;
        Ok(Fetched {
            // Both ends are at most the length of a slice in memory.
            bytes: object.bytes.slice(range.start as usize..range.end as usize),
            object_len,
            server_time: Some(state.time()),
            modified: Some(object.modified),
            etag: None,
        })
    }

    async fn put(&self, key: &str, body: Bytes, mode: PutMode) -> Result<PutDone, StoreError> {
        check_key(key)?;
        let mut state = self.state.lock();
        if mode == PutMode::IfAbsent && state.objects.contains_key(key) {
            return Err(StoreError::AlreadyExists { key: key.to_string() });
        }
        let modified = state.time();
        state.objects.insert(
            key.to_string(),
            Object {
                bytes: body,
                modified,
            },
        );
        Ok(PutDone {
            server_time: Some(modified),
        })
    }

    async fn head(&self, key: &str) -> Result<Option<u64>, StoreError> {
        check_key(key)?;
        Ok(self
            .state
            .lock()
            .objects
            .get(key)
            .map(|object| object.bytes.len() as u64))
    }

    async fn list(
        &self,
        prefix: &str,
        start_after: Option<&str>,
        limit: usize,
    ) -> Result<Listed, StoreError> {
        check_list(prefix, start_after, limit)?;
        let state = self.state.lock();
        let from = match start_after {
            Some(after) if after >= prefix => Bound::Excluded(after),
            _ => Bound::Included(prefix),
        };
        let mut objects: Vec<ListedObject> = state
            .objects
            .range::<str, _>((from, Bound::Unbounded))
            .take_while(|(key, _)| key.starts_with(prefix))
            .take(limit + 1)
            .map(|(key, object)| ListedObject {
                key: key.clone(),
                len: object.bytes.len() as u64,
                modified: Some(object.modified),
            })
            .collect();
        let truncated = objects.len() > limit;
        objects.truncate(limit);
        Ok(Listed {
            objects,
            truncated,
            server_time: Some(state.time()),
        })
    }

    async fn delete(&self, keys: &[String]) -> Result<(), StoreError> {
        keys.iter().try_for_each(|key| check_key(key))?;
        let mut state = self.state.lock();
        for key in keys {
            state.objects.remove(key);
        }
        Ok(())
    }

    async fn delete_same(&self, key: &str, seen: &Fetched) -> Result<bool, StoreError> {
        check_key(key)?;
        let mut state = self.state.lock();
        let same = state
            .objects
            .get(key)
            .is_some_and(|object| object.bytes == seen.bytes);
        if same {
            state.objects.remove(key);
        }
        Ok(same)
    }

    fn describe(&self) -> String {
        "memory".to_string()
    }
}
