//! Requests to the store: bounded in number and memory, retried while there is hope, counted.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, timeout};

use super::KeptCheck;
use super::stats::{Counters, count};
use crate::store::{Arrived, ObjectStore, StoreError, pause as wait};
use crate::tree::TreeError;

/// Unit of the memory budget, bytes: a semaphore counts 32-bit numbers.
const MEMORY_UNIT_BYTES: u64 = 4096;
/// First and longest pause between two attempts. The adapter has already repeated the request within its own limits.
const PAUSE_MIN: Duration = Duration::from_millis(50);
const PAUSE_MAX: Duration = Duration::from_secs(5);
/// A request may take this much longer than the time-out for every MiB that it asks for: 16 KiB/s count as progress.
const GRACE_PER_MIB: Duration = Duration::from_secs(64);
/// A reader is told that its bytes did not come; the kernel then asks for the page that it wanted by itself, before the
/// program hears of it. The same question this soon after is not waited for again.
const SAME_QUESTION: Duration = Duration::from_secs(1);
/// An answer of the wrong length is asked for again this often before the object counts as damaged.
const SHORT_ANSWERS_MAX: u32 = 2;

/// The store, as the cache uses it.
pub(super) struct Remote {
    store: Arc<dyn ObjectStore>,
    timeout: Duration,
    /// Requests at a time.
    requests: Arc<Semaphore>,
    /// Requests at a time that nobody waits for yet.
    ahead: Arc<Semaphore>,
    /// Bytes in flight, in units of [`MEMORY_UNIT_BYTES`].
    memory: Arc<Semaphore>,
    memory_units: u32,
    /// The part of it that may be used ahead.
    memory_ahead: Arc<Semaphore>,
    /// When anything arrived last.
    progress: Mutex<Instant>,
    kept: Mutex<Option<KeptCheck>>,
    /// What was given up within [`SAME_QUESTION`]: object, start of the range, when.
    given_up: Mutex<Vec<(String, u64, Instant)>>,
    pub counters: Counters,
}

/// Leave to fetch ahead; dropping it gives it back.
#[derive(Debug)]
pub(super) struct AheadPermit {
    _place: OwnedSemaphorePermit,
    _memory: OwnedSemaphorePermit,
}

impl std::fmt::Debug for Remote {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Remote")
            .field("store", &self.store)
            .finish_non_exhaustive()
    }
}

impl Remote {
    /// Requests to `store`, at most `fetches_max` at a time with at most `memory_bytes_max` bytes in flight.
    pub fn new(
        store: Arc<dyn ObjectStore>,
        timeout: Duration,
        fetches_max: usize,
        memory_bytes_max: u64,
    ) -> Remote {
        let fetches = fetches_max.clamp(1, Semaphore::MAX_PERMITS);
        let units = (memory_bytes_max / MEMORY_UNIT_BYTES).clamp(1, 1 << 28);
        let memory_units = u32::try_from(units).unwrap_or(1 << 28);
        Remote {
            store,
            timeout,
            requests: Arc::new(Semaphore::new(fetches)),
            ahead: Arc::new(Semaphore::new((fetches * 3 / 4).max(1))),
            memory: Arc::new(Semaphore::new(memory_units as usize)),
            memory_units,
            memory_ahead: Arc::new(Semaphore::new((memory_units - memory_units / 4) as usize)),
            progress: Mutex::new(Instant::now()),
            kept: Mutex::new(None),
            given_up: Mutex::default(),
            counters: Counters::default(),
        }
    }

    /// Sets who says whether a missing object had to be there.
    pub fn set_kept_check(&self, check: KeptCheck) {
        *self.kept.lock() = Some(check);
    }

    /// Waits for memory for `bytes` bytes in flight; more than the whole budget counts as the whole budget.
    pub async fn memory(&self, bytes: u64) -> OwnedSemaphorePermit {
        let permit = self.memory.clone().acquire_many_owned(self.units(bytes)).await;
        permit.expect("the semaphore is never closed")
    }

    /// Leave to fetch `bytes` ahead, if there is a place and less than three quarters of the memory are on their way
    /// ahead. It is leave only: the fetch takes its memory from the budget like any other, when it knows what it asks
    /// for. (Were the memory held while a chunk's header is awaited from a fetch that waits for memory, neither would
    /// go on.)
    pub fn try_ahead(&self, bytes: u64) -> Option<AheadPermit> {
        Some(AheadPermit {
            _place: self.ahead.clone().try_acquire_owned().ok()?,
            _memory: self
                .memory_ahead
                .clone()
                .try_acquire_many_owned(self.units(bytes))
                .ok()?,
        })
    }

    /// What `bytes` bytes take of the memory budget, in its units.
    pub fn units(&self, bytes: u64) -> u32 {
        let units = bytes.div_ceil(MEMORY_UNIT_BYTES).max(1);
        u32::try_from(units).unwrap_or(u32::MAX).min(self.memory_units)
    }

    /// Reads `range` of an object, less where that ends, and tells the object's length. The caller holds the memory for it, and waits since
    /// `begun`: time in queues, and for what others tried in vain, counts.
    ///
    /// # Errors
    /// `Unreachable` when nothing at all has arrived from the store for the time-out; `Expired` or `Damaged` for a
    /// missing object; `Damaged` for answers that cannot be; `Denied` at once.
    pub async fn get(&self, key: &str, range: Range<u64>, begun: Instant) -> Result<(Bytes, u64), TreeError> {
        let (mut first, mut all) = (None, BytesMut::new());
        let len = usize::try_from(range.end - range.start).unwrap_or(0);
        let mut arrived = |piece: Bytes| {
            if all.is_empty() && first.is_none() {
                first = Some(piece);
            } else {
                all.reserve(len.saturating_sub(all.len()));
                all.extend_from_slice(&first.take().unwrap_or_default());
                all.extend_from_slice(&piece);
            }
        };
        let object_len = self.get_streamed(key, range, begun, &mut arrived).await?;
        let object_len = object_len.ok_or_else(|| TreeError::Unreachable {
            reason: format!("{key}: the answer did not end as it should"),
        })?;
        Ok((first.unwrap_or_else(|| all.freeze()), object_len))
    }

    /// The same, with the bytes given to `arrived` in order, as they come; also those that come before an error. Returns
    /// the length of the object; `None` when all came and the answer then ended badly.
    pub async fn get_streamed(
        &self,
        key: &str,
        range: Range<u64>,
        begun: Instant,
        arrived: Arrived<'_>,
    ) -> Result<Option<u64>, TreeError> {
        if self.was_given_up(key, range.start) {
            let reason = format!("{key}: nothing arrived within {:?}", self.timeout);
            return Err(TreeError::Unreachable { reason });
        }
        let start = range.start;
        let got = self.get_patiently(key, range, begun, arrived).await;
        if matches!(got, Err(TreeError::Unreachable { .. })) {
            self.given_up.lock().push((key.to_owned(), start, Instant::now()));
        }
        got
    }

    /// The same question was given up a moment ago.
    fn was_given_up(&self, key: &str, start: u64) -> bool {
        let mut given_up = self.given_up.lock();
        given_up.retain(|(.., at)| at.elapsed() < SAME_QUESTION);
        given_up.iter().any(|(its, from, _)| its == key && *from == start)
    }

    async fn get_patiently(
        &self,
        key: &str,
        mut range: Range<u64>,
        begun: Instant,
        arrived: Arrived<'_>,
    ) -> Result<Option<u64>, TreeError> {
        let _place = self
            .requests
            .acquire()
            .await
            .expect("the semaphore is never closed");
        let (mut pause, mut short) = (PAUSE_MIN, 0);
        loop {
            let mut got = 0;
            let answer = tokio::select! {
                answer = self.attempt(key, range.clone(), &mut got, arrived) => answer,
                () = self.nothing_arrives(begun) => {
                    let reason = format!("{key}: nothing arrived within {:?}", self.timeout);
                    self.counters.failed(reason.clone());
                    return Err(TreeError::Unreachable { reason });
                }
            };
            let failure = match answer {
                Ok(object_len) => match wrong_length(got, object_len, &range) {
                    None => return Ok(Some(object_len)),
                    Some(rule) if short < SHORT_ANSWERS_MAX => {
                        short += 1;
                        self.counters.failed(format!("{key}: {rule}"));
                        rule
                    }
                    Some(rule) => return Err(damaged(key, rule)),
                },
                Err(StoreError::NotFound { key }) => return Err(self.missing(key).await),
                Err(StoreError::Broken { key, reason }) if short >= SHORT_ANSWERS_MAX => {
                    return Err(damaged(&key, reason));
                }
                Err(StoreError::Broken { reason, .. }) => {
                    short += 1;
                    reason
                }
                Err(StoreError::Denied { reason }) => return Err(TreeError::Denied { reason }),
                Err(StoreError::Misconfigured { reason }) => return Err(TreeError::Unreachable { reason }),
                Err(other) => other.to_string(),
            };
            if self.alive_at(begun).elapsed() + pause > self.timeout {
                return Err(TreeError::Unreachable { reason: failure });
            }
            tracing::debug!(key, failure, "request to the store failed, trying again");
            // What has been given out is not asked for again.
            range.start += got;
            if range.is_empty() {
                return Ok(None);
            }
            if got > 0 {
                pause = PAUSE_MIN;
            }
            wait(pause).await;
            pause = (pause * 2).min(PAUSE_MAX);
        }
    }

    /// When the store gave a sign of life last, not before `begun`.
    fn alive_at(&self, begun: Instant) -> Instant {
        let arrived = self.store.last_moves().and_then(|moves| moves.received);
        begun.max(*self.progress.lock()).max(arrived.unwrap_or(begun))
    }

    /// Ends when nothing has arrived from the store for the time-out; never for one that does not tell when something
    /// does.
    async fn nothing_arrives(&self, begun: Instant) {
        if self.store.last_moves().is_none() {
            return std::future::pending().await;
        }
        loop {
            let end = self.alive_at(begun) + self.timeout;
            if Instant::now() >= end {
                return;
            }
            tokio::time::sleep_until(end).await;
        }
    }

    /// One request: counts in `got` what it gives to `arrived`, and returns the length of the object.
    async fn attempt(
        &self,
        key: &str,
        range: Range<u64>,
        got: &mut u64,
        arrived: Arrived<'_>,
    ) -> Result<u64, StoreError> {
        let len = range.end - range.start;
        let mib = u32::try_from(len >> 20).unwrap_or(u32::MAX);
        let longest = self.timeout + GRACE_PER_MIB.saturating_mul(mib);
        count(&self.counters.requests);
        let flying = Flying::new(&self.counters);
        let mut over = false;
        let mut counted = |piece: Bytes| {
            *self.progress.lock() = Instant::now();
            over |= piece.len() as u64 > len - *got;
            if !over && !piece.is_empty() {
                *got += piece.len() as u64;
                self.counters.fetched_bytes.fetch_add(piece.len() as u64, Relaxed);
                arrived(piece);
            }
        };
        let answer = timeout(longest, self.store.get_streamed(key, range, &mut counted)).await;
        drop(flying);
        let answer = match answer {
            Ok(Ok(_)) if over => Err(StoreError::Broken {
                key: key.to_owned(),
                reason: format!("more than {len} bytes came where so many were asked for"),
            }),
            Ok(answer) => answer,
            Err(_) => {
                let reason = format!("{key}: no answer within {longest:?}");
                Err(StoreError::Unreachable { reason })
            }
        };
        match &answer {
            Ok(_) => *self.progress.lock() = Instant::now(),
            Err(e) => self.counters.failed(e.to_string()),
        }
        answer.map(|fetched| fetched.object_len)
    }

    /// An object is not there: is that damage, or is the record that needs it gone?
    async fn missing(&self, key: String) -> TreeError {
        let check = self.kept.lock().clone();
        let kept = match check {
            Some(check) => check().await,
            None => true,
        };
        if kept {
            damaged(&key, "the object is missing")
        } else {
            TreeError::Expired { object: key }
        }
    }
}

/// Counts a request as being in flight.
struct Flying<'a>(&'a Counters);

impl<'a> Flying<'a> {
    fn new(counters: &'a Counters) -> Flying<'a> {
        count(&counters.in_flight);
        Flying(counters)
    }
}

impl Drop for Flying<'_> {
    fn drop(&mut self) {
        self.0.in_flight.fetch_sub(1, Relaxed);
    }
}

/// What is wrong with the length of an answer.
fn wrong_length(got: u64, object_len: u64, range: &Range<u64>) -> Option<String> {
    let expected = range.end.min(object_len).saturating_sub(range.start);
    (got != expected || expected == 0)
        .then(|| format!("{got} bytes came of {range:?}, the object has {object_len}"))
}

/// "This object is not what the pointer to it says."
pub(super) fn damaged(object: &str, rule: impl Into<String>) -> TreeError {
    TreeError::Damaged {
        object: object.to_owned(),
        rule: rule.into(),
    }
}
