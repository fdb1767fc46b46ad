//! A store for tests: memory, with faults and pauses by script or by chance.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use async_trait::async_trait;
use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::Notify;

use super::{Clock, CreateOptions, Opened, Volume, VolumeRef};
use crate::format::{NodeSizes, VolumeConfig};
use crate::model::{Attrs, Timestamp};
use crate::store::{Fetched, Listed, MemoryStore, ObjectStore, PutDone, PutMode, StoreError};

/// What a request asks for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Verb {
    Get,
    Put,
    PutIfAbsent,
    Head,
    List,
    Delete,
}

/// What happens to a request.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fault {
    /// It does not arrive; the caller is told that the outcome is not known.
    NeverArrives,
    /// It is done; the answer is lost.
    AnswerLost,
    /// It is done, and takes this long by the store's clock, seconds, before it is answered.
    Slow(u64),
    /// The store does not answer.
    Unreachable,
    /// It is done; the answer is lost, and so is every one after it.
    AnswerLostThenDark,
    /// A PUT that is on its way for long: the caller is told that the outcome is not known, nothing is answered from then
    /// on, and it arrives when the test says ([`ScriptedStore::deliver`]).
    LateThenDark,
}

struct Planned {
    verb: Verb,
    key_part: String,
    fault: Fault,
}

/// Small generator for schedules: xorshift64*.
#[derive(Clone, Debug)]
pub struct Rng(pub u64);

impl Rng {
    pub fn new(seed: u64) -> Rng {
        Rng(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub fn below(&mut self, n: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) % n
    }

    pub fn chance(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }
}

/// Seeds `from ..`, `count` of them or as many as SAILVOL_TEST_SEEDS says.
pub fn seeds(from: u64, count: u64) -> std::ops::Range<u64> {
    let said = std::env::var("SAILVOL_TEST_SEEDS")
        .ok()
        .and_then(|text| text.parse().ok());
    from..from + said.unwrap_or(count)
}

struct Chance {
    rng: Rng,
    lost_percent: u64,
    yields_max: u64,
}

/// The store.
pub struct ScriptedStore {
    pub memory: Arc<MemoryStore>,
    planned: Mutex<Vec<Planned>>,
    calls: Mutex<Vec<(Verb, String, u64)>>,
    chance: Mutex<Option<Chance>>,
    dark: AtomicBool,
    /// Requests that are still answered before it gets dark, and whether the one after them is done.
    ends: Mutex<Option<(usize, bool)>>,
    late: Mutex<Vec<(String, Bytes, PutMode)>>,
    held: Mutex<Option<(Verb, String)>>,
    arrived: Notify,
    goes_on: Notify,
}

impl ScriptedStore {
    pub fn new(memory: Arc<MemoryStore>) -> Arc<ScriptedStore> {
        Arc::new(ScriptedStore {
            memory,
            planned: Mutex::default(),
            calls: Mutex::default(),
            chance: Mutex::default(),
            dark: AtomicBool::new(false),
            ends: Mutex::default(),
            late: Mutex::default(),
            held: Mutex::default(),
            arrived: Notify::new(),
            goes_on: Notify::new(),
        })
    }

    /// The next request of that verb whose key contains `key_part` meets this fault. Planned ones happen in order.
    pub fn plan(&self, verb: Verb, key_part: &str, fault: Fault) {
        self.planned.lock().push(Planned {
            verb,
            key_part: key_part.to_owned(),
            fault,
        });
    }

    /// The next request of that verb whose key contains `key_part` waits for [`ScriptedStore::let_go`].
    pub fn hold(&self, verb: Verb, key_part: &str) {
        *self.held.lock() = Some((verb, key_part.to_owned()));
    }

    /// Until the request that is to be held is there.
    pub async fn until_held(&self) {
        self.arrived.notified().await;
    }

    /// The request that is held goes on.
    pub fn let_go(&self) {
        self.goes_on.notify_one();
    }

    /// Nothing is planned any more.
    pub fn unplan(&self) {
        self.planned.lock().clear();
    }

    /// The store answers again after [`Fault::AnswerLostThenDark`] and [`ScriptedStore::dark_after`].
    pub fn light(&self) {
        self.dark.store(false, Relaxed);
        *self.ends.lock() = None;
    }

    /// Whoever asks is killed after that many requests, in the middle of the next one, which is done or not: nothing is
    /// answered from there on.
    pub fn dark_after(&self, requests: usize, done: bool) {
        *self.ends.lock() = Some((requests, done));
    }

    /// No request is answered.
    pub fn is_dark(&self) -> bool {
        self.dark.load(Relaxed)
    }

    /// What was on its way arrives; true for each that was done.
    pub async fn deliver(&self) -> Vec<bool> {
        let late = std::mem::take(&mut *self.late.lock());
        let mut done = Vec::new();
        for (key, body, mode) in late {
            done.push(self.memory.put(&key, body, mode).await.is_ok());
        }
        done
    }

    /// The same objects in a store of their own.
    pub async fn fork(&self) -> Arc<ScriptedStore> {
        let memory = Arc::new(MemoryStore::new());
        for key in self.memory.keys() {
            let object = self.memory.get(&key, None).await.unwrap();
            memory.put(&key, object.bytes, PutMode::IfAbsent).await.unwrap();
        }
        ScriptedStore::new(memory)
    }

    /// Requests since the calls were taken last.
    pub fn count_calls(&self) -> usize {
        self.calls.lock().len()
    }

    /// From now on each request waits for up to `yields_max` turns of others, and writes meet faults by chance.
    pub fn by_chance(&self, seed: u64, lost_percent: u64, yields_max: u64) {
        *self.chance.lock() = Some(Chance {
            rng: Rng::new(seed),
            lost_percent,
            yields_max,
        });
    }

    /// Requests since the last call of this: verb, key, body bytes sent or received.
    pub fn take_calls(&self) -> Vec<(Verb, String, u64)> {
        std::mem::take(&mut self.calls.lock())
    }

    async fn before(&self, verb: Verb, key: &str) -> Result<Option<Fault>, StoreError> {
        let is_held = self
            .held
            .lock()
            .take_if(|(held, part)| *held == verb && key.contains(part.as_str()))
            .is_some();
        if is_held {
            self.arrived.notify_one();
            self.goes_on.notified().await;
        }
        let (turns, mut fault) = match &mut *self.chance.lock() {
            None => (0, None),
            Some(Chance {
                rng,
                lost_percent,
                yields_max,
            }) => {
                let turns = rng.below(*yields_max + 1);
                let lost = verb == Verb::PutIfAbsent && rng.chance(*lost_percent);
                let fault = match rng.below(2) {
                    0 => Fault::NeverArrives,
                    _ => Fault::AnswerLost,
                };
                (turns + 1, lost.then_some(fault))
            }
        };
        for _ in 0..turns {
            tokio::task::yield_now().await;
        }
        if self.dark.load(Relaxed) {
            return Err(StoreError::Unreachable {
                reason: "dark".to_owned(),
            });
        }
        if let Some((left, done)) = &mut *self.ends.lock() {
            match (left.checked_sub(1), *done) {
                (Some(fewer), _) => *left = fewer,
                (None, true) => return Ok(Some(Fault::AnswerLostThenDark)),
                (None, false) => {
                    self.dark.store(true, Relaxed);
                    return Err(unknown(key));
                }
            }
        }
        let mut planned = self.planned.lock();
        if let Some(at) = planned
            .iter()
            .position(|p| p.verb == verb && key.contains(&p.key_part))
        {
            fault = Some(planned.remove(at).fault);
        }
        match fault {
            Some(Fault::NeverArrives) => Err(unknown(key)),
            Some(Fault::Unreachable) => Err(StoreError::Unreachable {
                reason: "scripted".to_owned(),
            }),
            other => Ok(other),
        }
    }

    fn after<T>(
        &self,
        fault: Option<Fault>,
        key: &str,
        answer: Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        match fault {
            Some(Fault::AnswerLost) => Err(unknown(key)),
            Some(Fault::AnswerLostThenDark) => {
                self.dark.store(true, Relaxed);
                Err(unknown(key))
            }
            Some(Fault::Slow(secs)) => {
                self.memory.advance_time(std::time::Duration::from_secs(secs));
                answer
            }
            _ => answer,
        }
    }

    fn note(&self, verb: Verb, key: &str, bytes: u64) {
        self.calls.lock().push((verb, key.to_owned(), bytes));
    }
}

fn unknown(key: &str) -> StoreError {
    StoreError::Unknown {
        key: key.to_owned(),
        reason: "scripted".to_owned(),
    }
}

impl fmt::Debug for ScriptedStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ScriptedStore")
    }
}

#[async_trait]
impl ObjectStore for ScriptedStore {
    async fn get(&self, key: &str, range: Option<Range<u64>>) -> Result<Fetched, StoreError> {
        let fault = self.before(Verb::Get, key).await?;
        let answer = self.memory.get(key, range).await;
        self.note(
            Verb::Get,
            key,
            answer.as_ref().map_or(0, |got| got.bytes.len() as u64),
        );
        // Time passes before the answer is dated.
        match fault {
            Some(Fault::Slow(secs)) => {
                self.memory.advance_time(std::time::Duration::from_secs(secs));
                self.memory.get(key, None).await
            }
            other => self.after(other, key, answer),
        }
    }

    async fn put(&self, key: &str, body: Bytes, mode: PutMode) -> Result<PutDone, StoreError> {
        let verb = if mode == PutMode::IfAbsent {
            Verb::PutIfAbsent
        } else {
            Verb::Put
        };
        let fault = self.before(verb, key).await?;
        self.note(verb, key, body.len() as u64);
        if fault == Some(Fault::LateThenDark) {
            self.late.lock().push((key.to_owned(), body, mode));
            self.dark.store(true, Relaxed);
            return Err(unknown(key));
        }
        let answer = self.memory.put(key, body, mode).await;
        self.after(fault, key, answer)
    }

    async fn head(&self, key: &str) -> Result<Option<u64>, StoreError> {
        let fault = self.before(Verb::Head, key).await?;
        self.note(Verb::Head, key, 0);
        self.after(fault, key, self.memory.head(key).await)
    }

    async fn list(&self, prefix: &str, after: Option<&str>, limit: usize) -> Result<Listed, StoreError> {
        let fault = self.before(Verb::List, prefix).await?;
        self.note(Verb::List, prefix, 0);
        let answer = self.memory.list(prefix, after, limit).await;
        self.after(fault, prefix, answer)
    }

    async fn delete(&self, keys: &[String]) -> Result<(), StoreError> {
        let key = keys.first().map_or("", |key| key.as_str());
        let fault = self.before(Verb::Delete, key).await?;
        self.note(Verb::Delete, key, 0);
        self.after(fault, key, self.memory.delete(keys).await)
    }

    async fn delete_same(&self, key: &str, seen: &Fetched) -> Result<bool, StoreError> {
        let fault = self.before(Verb::Delete, key).await?;
        self.note(Verb::Delete, key, 0);
        self.after(fault, key, self.memory.delete_same(key, seen).await)
    }

    fn describe(&self) -> String {
        "scripted".to_owned()
    }
}

/// A store in memory, scripted, with its clock set.
pub fn scripted() -> Arc<ScriptedStore> {
    let memory = Arc::new(MemoryStore::new());
    memory.set_time(Timestamp {
        secs: 1_800_000_000,
        nanos: 0,
    });
    ScriptedStore::new(memory)
}

/// A clock that stands where the store's stands.
pub fn clock_of(store: &Arc<ScriptedStore>) -> Clock {
    let memory = Arc::downgrade(&store.memory);
    Clock::new(move || match memory.upgrade() {
        Some(memory) => memory.time(),
        None => Timestamp::default(),
    })
}

pub fn create_options(name: &str) -> CreateOptions {
    CreateOptions {
        name: name.to_owned(),
        by: "test".to_owned(),
        root: Attrs {
            mode: 0o755,
            ..Attrs::default()
        },
        config: VolumeConfig::default(),
        conditional: "if-none-match".to_owned(),
        nodes: NodeSizes::default(),
    }
}

/// A new volume of that name.
pub async fn new_volume(store: &Arc<ScriptedStore>, name: &str) -> Opened {
    let created = Volume::create(store.clone(), clock_of(store), &create_options(name)).await;
    created.unwrap().into_opened()
}

/// The volume of that name, opened again.
pub async fn reopen(store: &Arc<ScriptedStore>, name: &str) -> Opened {
    Volume::open(store.clone(), clock_of(store), &VolumeRef::Name(name.to_owned()))
        .await
        .unwrap()
}
