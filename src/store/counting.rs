//! A decorator that counts requests and bytes by verb, for `status` and for tests of what an operation costs.

use async_trait::async_trait;
use bytes::Bytes;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::{Arrived, Fetched, LastMoves, Listed, ObjectStore, PutDone, PutMode, StoreError};

/// One verb's counters since the store was opened.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct VerbCount {
    /// Calls begun; retries inside the adapter are not seen here.
    pub calls: u64,
    /// Calls that gave an error other than "no such object" and "already there", or were given up.
    pub failed: u64,
    /// Body bytes of finished calls: received for get, sent for put, 0 else.
    pub bytes: u64,
}

/// A snapshot of all counters.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct StoreCounters {
    /// Reads of objects and ranges.
    pub get: VerbCount,
    /// Overwriting writes.
    pub put: VerbCount,
    /// Writes that must create.
    pub put_if_absent: VerbCount,
    /// Questions for a length.
    pub head: VerbCount,
    /// Pages of listings.
    pub list: VerbCount,
    /// Deletions, one per call whatever the number of keys.
    pub delete: VerbCount,
    /// Calls running now.
    pub in_flight: u64,
}

impl StoreCounters {
    /// Calls of all verbs.
    pub fn calls(&self) -> u64 {
        self.verbs().iter().map(|verb| verb.calls).sum()
    }

    /// Failed calls of all verbs.
    pub fn failed(&self) -> u64 {
        self.verbs().iter().map(|verb| verb.failed).sum()
    }

    /// Body bytes sent.
    pub fn bytes_sent(&self) -> u64 {
        self.put.bytes + self.put_if_absent.bytes
    }

    /// Body bytes received.
    pub fn bytes_received(&self) -> u64 {
        self.get.bytes
    }

    fn verbs(&self) -> [VerbCount; 6] {
        [
            self.get,
            self.put,
            self.put_if_absent,
            self.head,
            self.list,
            self.delete,
        ]
    }
}

#[derive(Debug, Default)]
struct Verb {
    calls: AtomicU64,
    done: AtomicU64,
    failed: AtomicU64,
    bytes: AtomicU64,
}

impl Verb {
    fn count(&self) -> VerbCount {
        VerbCount {
            calls: self.calls.load(Relaxed),
            failed: self.failed.load(Relaxed),
            bytes: self.bytes.load(Relaxed),
        }
    }

    fn in_flight(&self) -> u64 {
        let ended = self.done.load(Relaxed) + self.failed.load(Relaxed);
        self.calls.load(Relaxed).saturating_sub(ended)
    }
}

/// One running call; dropped without [`Call::end`] it counts as failed.
struct Call<'a> {
    verb: &'a Verb,
    store: &'a CountingStore,
    ended: bool,
}

/// Who waits for answers.
#[derive(Debug)]
struct Waiting {
    calls: u64,
    /// Since there are any; calls that had no answer and are made again are one wait.
    since: tokio::time::Instant,
}

impl<'a> Call<'a> {
    fn begin(verb: &'a Verb, store: &'a CountingStore) -> Call<'a> {
        verb.calls.fetch_add(1, Relaxed);
        let offline = store.offline.lock().is_some();
        let mut waiting = store.waiting.lock();
        if waiting.calls == 0 && !offline {
            waiting.since = tokio::time::Instant::now();
        }
        waiting.calls += 1;
        Call {
            verb,
            store,
            ended: false,
        }
    }

    fn end<T>(mut self, result: &Result<T, StoreError>, bytes: u64) {
        self.ended = true;
        let silent = matches!(
            result,
            Err(StoreError::Unreachable { .. } | StoreError::Unknown { .. })
        );
        let mut offline = self.store.offline.lock();
        match (silent, offline.is_some()) {
            (true, false) => *offline = Some(Instant::now()),
            // Whatever it said, it said something.
            (false, true) => *offline = None,
            _ => {}
        }
        drop(offline);
        match result {
            Ok(_) => {
                self.verb.bytes.fetch_add(bytes, Relaxed);
                self.verb.done.fetch_add(1, Relaxed);
            }
            Err(StoreError::NotFound { .. } | StoreError::AlreadyExists { .. }) => {
                self.verb.done.fetch_add(1, Relaxed);
            }
            Err(_) => {
                self.verb.failed.fetch_add(1, Relaxed);
            }
        }
    }
}

impl Drop for Call<'_> {
    fn drop(&mut self) {
        let mut waiting = self.store.waiting.lock();
        waiting.calls = waiting.calls.saturating_sub(1);
        drop(waiting);
        if !self.ended {
            self.verb.failed.fetch_add(1, Relaxed);
        }
    }
}

/// A store that counts what passes through it.
#[derive(Debug)]
pub struct CountingStore {
    inner: Arc<dyn ObjectStore>,
    get: Verb,
    put: Verb,
    put_if_absent: Verb,
    head: Verb,
    list: Verb,
    delete: Verb,
    /// Since when there was no answer to any call.
    offline: Mutex<Option<Instant>>,
    waiting: Mutex<Waiting>,
}

impl CountingStore {
    /// Counts from zero what passes to `inner`.
    pub fn new(inner: Arc<dyn ObjectStore>) -> CountingStore {
        CountingStore {
            inner,
            get: Verb::default(),
            put: Verb::default(),
            put_if_absent: Verb::default(),
            head: Verb::default(),
            list: Verb::default(),
            delete: Verb::default(),
            offline: Mutex::new(None),
            waiting: Mutex::new(Waiting {
                calls: 0,
                since: tokio::time::Instant::now(),
            }),
        }
    }

    /// For how long calls have failed for want of an answer, the last one among them; `None` when the last was answered.
    pub fn offline(&self) -> Option<Duration> {
        self.offline.lock().map(|since| since.elapsed())
    }

    /// All counters now. Two of them may disagree by calls that end in this moment.
    pub fn counters(&self) -> StoreCounters {
        let all = [
            &self.get,
            &self.put,
            &self.put_if_absent,
            &self.head,
            &self.list,
            &self.delete,
        ];
        StoreCounters {
            get: self.get.count(),
            put: self.put.count(),
            put_if_absent: self.put_if_absent.count(),
            head: self.head.count(),
            list: self.list.count(),
            delete: self.delete.count(),
            in_flight: all.iter().map(|verb| verb.in_flight()).sum(),
        }
    }
}

#[async_trait]
impl ObjectStore for CountingStore {
    async fn get(&self, key: &str, range: Option<Range<u64>>) -> Result<Fetched, StoreError> {
        let call = Call::begin(&self.get, self);
        let result = self.inner.get(key, range).await;
        call.end(
            &result,
            result.as_ref().map_or(0, |fetched| fetched.bytes.len() as u64),
        );
        result
    }

    async fn get_streamed(
        &self,
        key: &str,
        range: Range<u64>,
        arrived: Arrived<'_>,
    ) -> Result<Fetched, StoreError> {
        let call = Call::begin(&self.get, self);
        let mut bytes = 0;
        let mut counted = |piece: Bytes| {
            bytes += piece.len() as u64;
            arrived(piece);
        };
        let result = self.inner.get_streamed(key, range, &mut counted).await;
        call.end(&result, bytes);
        result
    }

    async fn put(&self, key: &str, body: Bytes, mode: PutMode) -> Result<PutDone, StoreError> {
        let verb = match mode {
            PutMode::Overwrite => &self.put,
            PutMode::IfAbsent => &self.put_if_absent,
        };
        let call = Call::begin(verb, self);
        let bytes = body.len() as u64;
        let result = self.inner.put(key, body, mode).await;
        call.end(&result, bytes);
        result
    }

    async fn head(&self, key: &str) -> Result<Option<u64>, StoreError> {
        let call = Call::begin(&self.head, self);
        let result = self.inner.head(key).await;
        call.end(&result, 0);
        result
    }

    async fn list(
        &self,
        prefix: &str,
        start_after: Option<&str>,
        limit: usize,
    ) -> Result<Listed, StoreError> {
        let call = Call::begin(&self.list, self);
        let result = self.inner.list(prefix, start_after, limit).await;
        call.end(&result, 0);
        result
    }

    async fn delete(&self, keys: &[String]) -> Result<(), StoreError> {
        let call = Call::begin(&self.delete, self);
        let result = self.inner.delete(keys).await;
        call.end(&result, 0);
        result
    }

    async fn delete_same(&self, key: &str, seen: &Fetched) -> Result<bool, StoreError> {
        let call = Call::begin(&self.delete, self);
        let result = self.inner.delete_same(key, seen).await;
        call.end(&result, 0);
        result
    }

    async fn race_to_create(&self, key: &str, bodies: Vec<Bytes>) -> Vec<Result<PutDone, StoreError>> {
        let sizes: Vec<u64> = bodies.iter().map(|body| body.len() as u64).collect();
        let calls: Vec<Call<'_>> = sizes
            .iter()
            .map(|_| Call::begin(&self.put_if_absent, self))
            .collect();
        let results = self.inner.race_to_create(key, bodies).await;
        for ((call, result), bytes) in calls.into_iter().zip(&results).zip(sizes) {
            call.end(result, bytes);
        }
        results
    }

    async fn establish(&self) -> Result<(), StoreError> {
        self.inner.establish().await
    }

    async fn is_established(&self) -> Result<bool, StoreError> {
        self.inner.is_established().await
    }

    fn last_moves(&self) -> Option<LastMoves> {
        let moves = self.inner.last_moves()?;
        let offline = self.offline.lock().is_some();
        let waiting = self.waiting.lock();
        Some(LastMoves {
            awaited: (offline || waiting.calls > 0).then_some(waiting.since),
            ..moves
        })
    }

    fn describe(&self) -> String {
        self.inner.describe()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::MemoryStore;

    /// A store that tells of moves, and answers when it is let.
    #[derive(Debug)]
    struct Slow {
        answer: tokio::sync::Semaphore,
        silent: std::sync::atomic::AtomicBool,
    }

    #[async_trait]
    impl ObjectStore for Slow {
        async fn get(&self, _: &str, _: Option<Range<u64>>) -> Result<Fetched, StoreError> {
            unreachable!()
        }

        async fn put(&self, _: &str, _: Bytes, _: PutMode) -> Result<PutDone, StoreError> {
            unreachable!()
        }

        async fn head(&self, key: &str) -> Result<Option<u64>, StoreError> {
            self.answer.acquire().await.unwrap().forget();
            match self.silent.load(Relaxed) {
                true => Err(StoreError::Unreachable {
                    reason: key.to_owned(),
                }),
                false => Ok(None),
            }
        }

        async fn list(&self, _: &str, _: Option<&str>, _: usize) -> Result<Listed, StoreError> {
            unreachable!()
        }

        async fn delete(&self, _: &[String]) -> Result<(), StoreError> {
            unreachable!()
        }

        fn last_moves(&self) -> Option<LastMoves> {
            Some(LastMoves::default())
        }

        fn describe(&self) -> String {
            String::new()
        }
    }

    /// What the owner of the store does by itself is no silence of the store.
    #[tokio::test]
    async fn a_store_is_waited_for_only_while_it_is_asked() {
        let slow = Arc::new(Slow {
            answer: tokio::sync::Semaphore::new(0),
            silent: false.into(),
        });
        let store = Arc::new(CountingStore::new(slow.clone()));
        let awaited = || store.last_moves().unwrap().awaited;
        assert_eq!(awaited(), None);
        let ask = || {
            let asking = store.clone();
            tokio::spawn(async move { asking.head("k").await })
        };
        let asked = async |calls| {
            while store.counters().in_flight < calls {
                tokio::task::yield_now().await;
            }
        };
        let begun = tokio::time::Instant::now();
        let first = ask();
        asked(1).await;
        let since = awaited().unwrap();
        assert!(since >= begun);
        let second = ask();
        asked(2).await;
        assert_eq!(awaited(), Some(since), "one wait");
        slow.answer.add_permits(2);
        for call in [first, second] {
            call.await.unwrap().unwrap();
        }
        assert_eq!(awaited(), None);
        // So are calls that have no answer, and the pauses between them.
        slow.silent.store(true, Relaxed);
        let mut since = None;
        for _ in 0..2 {
            let call = ask();
            asked(1).await;
            assert!(since.is_none() || since == awaited());
            since = awaited();
            slow.answer.add_permits(1);
            call.await.unwrap().unwrap_err();
            assert_eq!(awaited(), since);
        }
        slow.silent.store(false, Relaxed);
        let call = ask();
        asked(1).await;
        slow.answer.add_permits(1);
        call.await.unwrap().unwrap();
        assert_eq!(awaited(), None);
    }

    #[tokio::test]
    async fn counts_calls_bytes_and_failures_by_verb() {
        let store = CountingStore::new(Arc::new(MemoryStore::new()));
        store
            .put("a", Bytes::from_static(b"12345"), PutMode::Overwrite)
            .await
            .unwrap();
        store
            .put("a", Bytes::from_static(b"1"), PutMode::IfAbsent)
            .await
            .unwrap_err();
        let mut streamed = Vec::new();
        store
            .get_streamed("a", 1..3, &mut |piece| streamed.extend_from_slice(&piece))
            .await
            .unwrap();
        assert_eq!(streamed, b"23");
        store.get("b", None).await.unwrap_err();
        store.get("a", Some(9..10)).await.unwrap_err();
        let counters = store.counters();
        assert_eq!(
            counters.put,
            VerbCount {
                calls: 1,
                failed: 0,
                bytes: 5
            }
        );
        assert_eq!(
            counters.put_if_absent,
            VerbCount {
                calls: 1,
                failed: 0,
                bytes: 0
            }
        );
        assert_eq!(
            counters.get,
            VerbCount {
                calls: 3,
                failed: 1,
                bytes: 2
            }
        );
        assert_eq!(
            (counters.calls(), counters.failed(), counters.in_flight),
            (5, 1, 0)
        );
        assert_eq!((counters.bytes_sent(), counters.bytes_received()), (5, 2));
    }

    #[test]
    fn a_call_that_was_given_up_is_not_in_flight() {
        let store = CountingStore::new(Arc::new(MemoryStore::new()));
        drop(Call::begin(&store.get, &store));
        let counters = store.counters();
        assert_eq!((counters.get.failed, counters.in_flight), (1, 0));
    }
}
