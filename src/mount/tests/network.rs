//! The store as the pods reach it: requests wait at a gate until the scheduler lets one go on, and meet the fate that it
//! draws.
//!
//! Reads of packs and chunks are not held up, because what is read there never changes; they fail or come short by
//! chance of their own, so that their number does not move the scheduler's dice.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use futures::FutureExt;
use parking_lot::Mutex;
use tokio::sync::oneshot;

use crate::format::Key;
use crate::store::{Fetched, Listed, MemoryStore, ObjectStore, PutDone, PutMode, StoreError};
use crate::volume::testing::{Rng, Verb};

/// What becomes of a request.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fate {
    /// It is done and answered.
    Done,
    /// It is done; the answer is lost, or says 409, 500 or 503.
    AnswerLost,
    /// It is done, and the answer says that an object was there already: the first of two deliveries was ours.
    DoneTwice,
    /// It is not done; the caller cannot know.
    NeverArrives,
    /// The caller is told that the outcome is not known; it arrives later.
    ArrivesLate,
    /// The store does not answer, after all that the adapter tried.
    Unreachable,
}

/// A request at the gate.
pub struct Waiting {
    pub pod: usize,
    pub verb: Verb,
    pub key: String,
    put: Option<(Bytes, PutMode)>,
    go: oneshot::Sender<Fate>,
}

/// A PUT that is still on its way.
pub struct Late {
    pub pod: usize,
    key: String,
    body: Bytes,
    mode: PutMode,
}

struct Gate {
    waiting: Vec<Waiting>,
    late: Vec<Late>,
    reads: Rng,
    last_was_short: bool,
}

/// What all pods share.
pub struct Network {
    pub memory: Arc<MemoryStore>,
    gate: Mutex<Gate>,
}

impl Network {
    pub fn new(seed: u64) -> Arc<Network> {
        Arc::new(Network {
            memory: Arc::new(MemoryStore::new()),
            gate: Mutex::new(Gate {
                waiting: Vec::new(),
                late: Vec::new(),
                reads: Rng::new(seed ^ 0x7ead),
                last_was_short: false,
            }),
        })
    }

    /// The way of one pod to the store.
    pub fn wire(self: &Arc<Network>, pod: usize) -> Arc<dyn ObjectStore> {
        Arc::new(Wire {
            network: self.clone(),
            pod: Some(pod),
        })
    }

    /// A way without gates and faults.
    pub fn direct(self: &Arc<Network>) -> Arc<dyn ObjectStore> {
        Arc::new(Wire {
            network: self.clone(),
            pod: None,
        })
    }

    /// Requests of whoever still waits for an answer: pod, verb and key.
    pub fn waiting(&self) -> Vec<(usize, Verb, String)> {
        let mut gate = self.gate.lock();
        gate.waiting.retain(|waiting| !waiting.go.is_closed());
        // Which of a pod's parallel requests came first is not the scheduler's to say.
        gate.waiting
            .sort_by_key(|waiting| (waiting.pod, waiting.verb as u8));
        let of = |waiting: &Waiting| (waiting.pod, waiting.verb, waiting.key.clone());
        gate.waiting.iter().map(of).collect()
    }

    /// Lets the request at this place of [`Network::waiting`] go on.
    pub fn release(&self, at: usize, fate: Fate) {
        let mut gate = self.gate.lock();
        let waiting = gate.waiting.remove(at);
        if fate == Fate::ArrivesLate
            && let Some((body, mode)) = waiting.put
        {
            gate.late.push(Late {
                pod: waiting.pod,
                key: waiting.key,
                body,
                mode,
            });
        }
        drop(gate);
        // Whoever is gone needs no answer.
        let _ = waiting.go.send(fate);
    }

    /// The pod is killed: each of its PUTs arrives now, later or never.
    pub fn cut_off(&self, pod: usize, mut fate: impl FnMut() -> Fate) {
        let gone: Vec<Waiting> = {
            let mut gate = self.gate.lock();
            let (gone, others) = std::mem::take(&mut gate.waiting)
                .into_iter()
                .partition(|waiting| waiting.pod == pod);
            gate.waiting = others;
            gone
        };
        for waiting in gone {
            let Some((body, mode)) = waiting.put else { continue };
            let late = Late {
                pod,
                key: waiting.key,
                body,
                mode,
            };
            match fate() {
                Fate::Done | Fate::AnswerLost | Fate::DoneTwice => self.arrive(late),
                Fate::ArrivesLate => self.gate.lock().late.push(late),
                Fate::NeverArrives | Fate::Unreachable => {}
            }
        }
    }

    /// Pods that PUTs are still on their way from.
    pub fn late(&self) -> Vec<usize> {
        self.gate.lock().late.iter().map(|late| late.pod).collect()
    }

    /// The one at this place of [`Network::late`] arrives.
    pub fn arrive_late(&self, at: usize) {
        let late = self.gate.lock().late.remove(at);
        self.arrive(late);
    }

    fn arrive(&self, late: Late) {
        // Nobody hears the answer.
        let _ = self
            .memory
            .put(&late.key, late.body, late.mode)
            .now_or_never()
            .expect("memory does not wait");
    }

    /// Number of records there are.
    pub fn records(&self) -> usize {
        let keys = self.memory.keys();
        keys.iter().filter(|key| key.contains("/log/")).count()
    }
}

struct Wire {
    network: Arc<Network>,
    /// `None`: no gates and faults.
    pod: Option<usize>,
}

impl fmt::Debug for Wire {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Wire")
            .field("pod", &self.pod)
            .finish_non_exhaustive()
    }
}

impl Wire {
    /// Waits for leave; says whether the request is to be done, and the answer to be lost.
    async fn gate(
        &self,
        verb: Verb,
        key: &str,
        put: Option<(Bytes, PutMode)>,
    ) -> Result<Option<StoreError>, StoreError> {
        let Some(pod) = self.pod else { return Ok(None) };
        let (go, leave) = oneshot::channel();
        let once = verb == Verb::PutIfAbsent;
        self.network.gate.lock().waiting.push(Waiting {
            pod,
            verb,
            key: key.to_owned(),
            put,
            go,
        });
        let fate = leave.await.unwrap_or(Fate::NeverArrives);
        let unknown = || match once {
            true => StoreError::Unknown {
                key: key.to_owned(),
                reason: format!("{fate:?}"),
            },
            false => away(),
        };
        match fate {
            Fate::Done => Ok(None),
            Fate::AnswerLost => Ok(Some(unknown())),
            Fate::DoneTwice if verb == Verb::PutIfAbsent => {
                Ok(Some(StoreError::AlreadyExists { key: key.to_owned() }))
            }
            Fate::DoneTwice => Ok(None),
            Fate::NeverArrives | Fate::ArrivesLate => Err(unknown()),
            Fate::Unreachable => Err(away()),
        }
    }

    /// Luck of a read that waits for nobody.
    fn read_luck(&self) -> Result<bool, StoreError> {
        if self.pod.is_none() {
            return Ok(false);
        }
        let mut gate = self.network.gate.lock();
        let dice = gate.reads.below(100);
        let short = dice < 5 && !gate.last_was_short;
        gate.last_was_short = short;
        match dice {
            90.. => Err(away()),
            _ => Ok(short),
        }
    }
}

fn away() -> StoreError {
    StoreError::Unreachable {
        reason: "503, Retry-After".to_owned(),
    }
}

fn is_immutable(key: &str) -> bool {
    matches!(Key::parse(key), Some(Key::Pack(..) | Key::Chunk(..)))
}

#[async_trait]
impl ObjectStore for Wire {
    async fn get(&self, key: &str, range: Option<Range<u64>>) -> Result<Fetched, StoreError> {
        if is_immutable(key) {
            let short = self.read_luck()?;
            let mut fetched = self.network.memory.get(key, range).await?;
            if short {
                fetched.bytes.truncate(fetched.bytes.len() / 2);
            }
            return Ok(fetched);
        }
        let lost = self.gate(Verb::Get, key, None).await?;
        let answer = self.network.memory.get(key, range).await;
        lost.map_or(answer, Err)
    }

    async fn put(&self, key: &str, body: Bytes, mode: PutMode) -> Result<PutDone, StoreError> {
        let verb = match mode {
            PutMode::IfAbsent => Verb::PutIfAbsent,
            PutMode::Overwrite => Verb::Put,
        };
        let lost = self.gate(verb, key, Some((body.clone(), mode))).await?;
        let answer = self.network.memory.put(key, body, mode).await;
        lost.map_or(answer, Err)
    }

    async fn head(&self, key: &str) -> Result<Option<u64>, StoreError> {
        let lost = self.gate(Verb::Head, key, None).await?;
        let answer = self.network.memory.head(key).await;
        lost.map_or(answer, Err)
    }

    async fn list(&self, prefix: &str, after: Option<&str>, limit: usize) -> Result<Listed, StoreError> {
        let lost = self.gate(Verb::List, prefix, None).await?;
        let answer = self.network.memory.list(prefix, after, limit).await;
        lost.map_or(answer, Err)
    }

    async fn delete(&self, keys: &[String]) -> Result<(), StoreError> {
        let key = keys.first().map_or("", |key| key.as_str());
        let lost = self.gate(Verb::Delete, key, None).await?;
        let answer = self.network.memory.delete(keys).await;
        lost.map_or(answer, Err)
    }

    fn describe(&self) -> String {
        "network".to_owned()
    }
}
