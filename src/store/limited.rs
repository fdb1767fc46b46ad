//! A decorator that gives a request up when nothing has moved for some time: for commands, whose `--timeout` says how long
//! they wait for an answer. Adapters end every call by themselves, but only when they have repeated it in vain, and one
//! that stands on a disk which does not answer never does.

use std::future::Future;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use tokio::time::Instant;

use super::{Arrived, Fetched, LastMoves, Listed, ObjectStore, PutDone, PutMode, StoreError};

/// Bytes per second of the slowest line that counts as living. What the connections have taken may be on its way for that
/// long without a sign ...
const LINE_RATE_MIN: u64 = 128 << 10;
/// ... but not longer than this many limits, whatever was taken.
const SIGNLESS_LIMITS_MAX: u32 = 3;

/// A store whose requests end when it is silent for too long.
#[derive(Debug)]
pub struct LimitedStore {
    inner: Arc<dyn ObjectStore>,
    limit: Duration,
}

impl LimitedStore {
    /// Gives a request up when no byte of any has moved for `limit`, and for what the bodies that wait for an answer take on
    /// the slowest line.
    pub fn new(inner: Arc<dyn ObjectStore>, limit: Duration) -> LimitedStore {
        LimitedStore { inner, limit }
    }

    /// When the wait of a request that was made at `began` is over, if nothing moves until then.
    fn ends(&self, began: Instant) -> Instant {
        let moves = self.inner.last_moves().unwrap_or_default();
        let moved = moves.received.max(moves.sent);
        let on_the_way = Duration::from_secs(moves.unanswered / LINE_RATE_MIN);
        let signless = on_the_way.min(self.limit * SIGNLESS_LIMITS_MAX);
        moved.map_or(began, |moved| moved.max(began)) + self.limit + signless
    }

    async fn within<T>(
        &self,
        work: impl Future<Output = Result<T, StoreError>>,
        given_up: impl FnOnce(String) -> StoreError,
    ) -> Result<T, StoreError> {
        let began = Instant::now();
        let mut work = std::pin::pin!(work);
        let mut ends = self.ends(began);
        loop {
            tokio::select! {
                biased;
                result = &mut work => return result,
                () = tokio::time::sleep_until(ends) => {}
            }
            ends = self.ends(began);
            if ends <= Instant::now() {
                let place = self.inner.describe();
                return Err(given_up(format!(
                    "{place}: nothing arrived within {} s; --timeout waits longer",
                    self.limit.as_secs()
                )));
            }
        }
    }
}

fn unreachable(reason: String) -> StoreError {
    StoreError::Unreachable { reason }
}

#[async_trait]
impl ObjectStore for LimitedStore {
    async fn get(&self, key: &str, range: Option<Range<u64>>) -> Result<Fetched, StoreError> {
        self.within(self.inner.get(key, range), unreachable).await
    }

    async fn get_streamed(
        &self,
        key: &str,
        range: Range<u64>,
        arrived: Arrived<'_>,
    ) -> Result<Fetched, StoreError> {
        let work = self.inner.get_streamed(key, range, arrived);
        self.within(work, unreachable).await
    }

    async fn put(&self, key: &str, body: Bytes, mode: PutMode) -> Result<PutDone, StoreError> {
        let given_up = |reason| match mode {
            PutMode::Overwrite => unreachable(reason),
            PutMode::IfAbsent => StoreError::Unknown {
                key: key.to_owned(),
                reason,
            },
        };
        self.within(self.inner.put(key, body, mode), given_up).await
    }

    async fn head(&self, key: &str) -> Result<Option<u64>, StoreError> {
        self.within(self.inner.head(key), unreachable).await
    }

    async fn list(
        &self,
        prefix: &str,
        start_after: Option<&str>,
        limit: usize,
    ) -> Result<Listed, StoreError> {
        let work = self.inner.list(prefix, start_after, limit);
        self.within(work, unreachable).await
    }

    async fn delete(&self, keys: &[String]) -> Result<(), StoreError> {
        self.within(self.inner.delete(keys), unreachable).await
    }

    async fn delete_same(&self, key: &str, seen: &Fetched) -> Result<bool, StoreError> {
        self.within(self.inner.delete_same(key, seen), unreachable).await
    }

    async fn race_to_create(&self, key: &str, bodies: Vec<Bytes>) -> Vec<Result<PutDone, StoreError>> {
        let work = async { Ok(self.inner.race_to_create(key, bodies).await) };
        let raced = self.within(work, unreachable).await;
        raced.unwrap_or_else(|error| vec![Err(error)])
    }

    async fn establish(&self) -> Result<(), StoreError> {
        self.within(self.inner.establish(), unreachable).await
    }

    async fn is_established(&self) -> Result<bool, StoreError> {
        self.within(self.inner.is_established(), unreachable).await
    }

    fn last_moves(&self) -> Option<LastMoves> {
        self.inner.last_moves()
    }

    fn describe(&self) -> String {
        self.inner.describe()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::MemoryStore;

    /// Answers a get when it is told to, or moves now and then.
    #[derive(Debug)]
    struct Slow {
        memory: MemoryStore,
        /// Until the answer.
        takes: Duration,
        moves: bool,
        unanswered: u64,
    }

    #[async_trait]
    impl ObjectStore for Slow {
        async fn get(&self, key: &str, range: Option<Range<u64>>) -> Result<Fetched, StoreError> {
            tokio::time::sleep(self.takes).await;
            self.memory.get(key, range).await
        }
        async fn put(&self, key: &str, body: Bytes, mode: PutMode) -> Result<PutDone, StoreError> {
            tokio::time::sleep(self.takes).await;
            self.memory.put(key, body, mode).await
        }
        async fn head(&self, key: &str) -> Result<Option<u64>, StoreError> {
            self.memory.head(key).await
        }
        async fn list(&self, prefix: &str, after: Option<&str>, limit: usize) -> Result<Listed, StoreError> {
            self.memory.list(prefix, after, limit).await
        }
        async fn delete(&self, keys: &[String]) -> Result<(), StoreError> {
            self.memory.delete(keys).await
        }
        fn last_moves(&self) -> Option<LastMoves> {
            let received = self.moves.then(Instant::now);
            Some(LastMoves {
                received,
                unanswered: self.unanswered,
                ..LastMoves::default()
            })
        }
        fn describe(&self) -> String {
            "slow".to_owned()
        }
    }

    /// Times are far apart, so that a loaded machine does not mix them up.
    const LIMIT: Duration = Duration::from_millis(200);

    fn slow(takes: Duration, moves: bool) -> LimitedStore {
        let inner = Slow {
            memory: MemoryStore::new(),
            takes,
            moves,
            unanswered: 0,
        };
        LimitedStore::new(Arc::new(inner), LIMIT)
    }

    #[tokio::test]
    async fn a_silent_store_is_given_up_and_a_slow_one_is_not() {
        let never = Duration::from_secs(1 << 20);
        let body = Bytes::from_static(b"x");
        let error = slow(never, false).get("a", None).await.unwrap_err();
        assert!(matches!(error, StoreError::Unreachable { .. }), "{error}");
        let error = slow(never, false)
            .put("a", body.clone(), PutMode::IfAbsent)
            .await
            .unwrap_err();
        assert!(matches!(error, StoreError::Unknown { .. }), "{error}");
        slow(Duration::ZERO, false)
            .put("a", body.clone(), PutMode::IfAbsent)
            .await
            .unwrap();
        let moving = slow(LIMIT * 5, true);
        moving.put("a", body, PutMode::Overwrite).await.unwrap();
    }

    /// On a slow line a body is in this machine's buffers long after the connection took it, and nothing moves that is seen;
    /// a silent store is given up all the same.
    #[test]
    fn what_the_connections_have_taken_has_its_time() {
        let limit = Duration::from_secs(30);
        for (unanswered, secs) in [(0, 30), (100_000, 30), (8 << 20, 94), (1 << 30, 120)] {
            let inner = Slow {
                memory: MemoryStore::new(),
                takes: Duration::ZERO,
                moves: false,
                unanswered,
            };
            let store = LimitedStore::new(Arc::new(inner), limit);
            let began = Instant::now();
            assert_eq!((store.ends(began) - began).as_secs(), secs, "{unanswered} bytes");
        }
    }
}
