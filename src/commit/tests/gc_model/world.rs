//! The store of the model, request by request, and what must hold in it.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::future::poll_fn;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::task::{Poll, Waker};

use async_trait::async_trait;
use bytes::Bytes;
use parking_lot::Mutex;

use crate::format::{GcState, Key, LEASE_TTL_SECS, Record, SuperNode, UnverifiedRecord};
use crate::model::*;
use crate::store::*;
use crate::tree::{Item, NodeSource, Place, TreeError, Visit, Visitor, visit};
use crate::volume::testing::Verb;
use crate::volume::{Clock, LeaseHolder, RemoteSource, Volume};

/// Rules of the collector and of mounts that the model itself can leave out; those of the product are
/// [`crate::volume::rules::Mutant`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Wrong {
    SharedKeys,
    LeaseNotConfirmed,
    LeaseNewestOnly,
    LeasesBeforeFence,
    NoStopRule,
    KeepForgets,
    RestoreForgets,
    /// Of the sources only the newest and the oldest are named.
    EndsOnly,
}

/// Lets an actor go one request at a time.
#[derive(Clone, Default)]
pub struct Gate(Arc<Mutex<Turns>>);

#[derive(Default)]
struct Turns {
    step: u64,
    waiting: Vec<Waker>,
    /// The request that waits, if the actor does not just let time pass.
    request: Option<(Verb, String)>,
    /// The scheduler, which waits for the actor: a task that the actor spawned may be the one that comes to a request.
    scheduler: Option<Waker>,
}

impl Gate {
    /// Waits for the actor's next step.
    pub async fn turn(&self) {
        self.turn_for(None).await;
    }

    /// As [`Gate::turn`], before a request.
    async fn turn_for(&self, request: Option<(Verb, String)>) {
        let ticket = {
            let mut turns = self.0.lock();
            turns.request = request;
            turns.step
        };
        poll_fn(|cx| {
            let mut turns = self.0.lock();
            if turns.step > ticket {
                return Poll::Ready(());
            }
            turns.waiting.push(cx.waker().clone());
            if let Some(scheduler) = &turns.scheduler {
                scheduler.wake_by_ref();
            }
            Poll::Pending
        })
        .await
    }

    /// Allows the next step.
    pub fn open(&self) {
        let waiting = {
            let mut turns = self.0.lock();
            turns.step += 1;
            turns.request = None;
            std::mem::take(&mut turns.waiting)
        };
        waiting.into_iter().for_each(Waker::wake);
    }

    /// The request before which the actor stands.
    pub fn request(&self) -> Option<(Verb, String)> {
        self.0.lock().request.clone()
    }

    /// The actor stands before a request; else `scheduler` is told when it does.
    pub fn is_waiting(&self, scheduler: &Waker) -> bool {
        let mut turns = self.0.lock();
        let waiting = !turns.waiting.is_empty();
        turns.scheduler = (!waiting).then(|| scheduler.clone());
        waiting
    }
}

/// What was ever in the log.
struct Seen {
    seq: Seq,
    parent: Option<Hash>,
    txns: Vec<TxnId>,
    gc: GcState,
    /// Objects that it needs; `None`: some were gone when it was created.
    keys: Option<BTreeSet<String>>,
}

/// Something that a mount must be able to read while its sources are held.
pub struct Part {
    pub what: &'static str,
    pub keys: Option<BTreeSet<String>>,
    pub sources: BTreeSet<Seq>,
}

/// What a mount draws from.
pub struct Drawn {
    pub lease: LeaseHolder,
    /// Instead of what the lease says is held.
    pub believed: Option<(BTreeSet<Seq>, Timestamp)>,
    pub parts: Vec<Part>,
}

pub struct World {
    pub memory: Arc<MemoryStore>,
    pub wrong: Option<Wrong>,
    pub volume: Mutex<Option<Volume>>,
    seen: Mutex<HashMap<Hash, Seen>>,
    log: Mutex<BTreeMap<Seq, Hash>>,
    objects: Mutex<HashMap<String, u64>>,
    pub acked: Mutex<Vec<Hash>>,
    pub mounts: Mutex<BTreeMap<u64, Drawn>>,
    pub changed: AtomicBool,
    pub found: Mutex<Option<String>>,
    pub counts: Mutex<BTreeMap<String, u64>>,
    order: AtomicU64,
}

impl World {
    pub fn new(wrong: Option<Wrong>) -> Arc<World> {
        let memory = Arc::new(MemoryStore::new());
        memory.set_time(Timestamp {
            secs: 1_800_000_000,
            nanos: 0,
        });
        Arc::new(World {
            memory,
            wrong,
            volume: Mutex::default(),
            seen: Mutex::default(),
            log: Mutex::default(),
            objects: Mutex::default(),
            acked: Mutex::default(),
            mounts: Mutex::default(),
            changed: AtomicBool::new(true),
            found: Mutex::default(),
            counts: Mutex::default(),
            order: AtomicU64::new(0),
        })
    }

    pub fn clock(&self) -> Clock {
        let memory = Arc::downgrade(&self.memory);
        Clock::new(move || {
            memory
                .upgrade()
                .map_or(Timestamp::default(), |memory| memory.time())
        })
    }

    pub fn count(&self, what: &str) {
        *self.counts.lock().entry(what.to_owned()).or_default() += 1;
    }

    /// How often something was counted.
    pub fn counted(&self, what: &str) -> u64 {
        self.counts.lock().get(what).copied().unwrap_or(0)
    }

    pub fn violated(&self, what: String) {
        self.found.lock().get_or_insert(what);
    }

    /// The volume by a store without turns.
    pub fn raw(&self) -> Volume {
        self.volume.lock().clone().expect("made first")
    }

    /// When an object came, counted in objects.
    pub fn age_rank(&self, key: &str) -> u64 {
        self.objects.lock().get(key).copied().unwrap_or(0)
    }

    async fn put_done(&self, key: &str, body: &Bytes) {
        match Key::parse(key) {
            Some(Key::Record(id, seq)) => {
                let unverified = UnverifiedRecord::parse(body, key).unwrap();
                let hash = unverified.hash();
                let record = unverified.verify(&id, seq).unwrap();
                let source = |volume: &Volume| RemoteSource::new(volume.clone());
                let keys = self.volume.lock().as_ref().map(source);
                let keys = match keys {
                    Some(src) => record_keys(&src, &id, &record).await.ok(),
                    None => Some(BTreeSet::new()),
                };
                let seen = Seen {
                    seq,
                    parent: record.parent,
                    txns: [&[record.txn], &record.merged[..]].concat(),
                    gc: record.gc,
                    keys,
                };
                self.seen.lock().insert(hash, seen);
                self.log.lock().insert(seq, hash);
                self.changed.store(true, Relaxed);
            }
            Some(Key::Chunk(..) | Key::Pack(..)) => {
                let order = self.order.fetch_add(1, Relaxed);
                self.objects.lock().entry(key.to_owned()).or_insert(order);
            }
            _ => {}
        }
    }

    fn deleted(&self, key: &str) {
        if let Some(Key::Record(_, seq)) = Key::parse(key) {
            self.log.lock().remove(&seq);
        }
        self.objects.lock().remove(key);
        self.changed.store(true, Relaxed);
    }

    /// Invariants I1 to I5.
    pub fn check(&self) {
        if !self.changed.swap(false, Relaxed) {
            return;
        }
        let (seen, log, objects) = (self.seen.lock(), self.log.lock(), self.objects.lock());
        let Some((head_seq, head)) = log.last_key_value() else {
            return;
        };
        let gc = &seen[head].gc;
        let shared = self.wrong == Some(Wrong::SharedKeys);
        let missing = |keys: &BTreeSet<String>| {
            let there = |key: &&String| match shared {
                true => objects.contains_key(&one_epoch(key)),
                false => objects.contains_key(*key),
            };
            keys.iter().find(|key| !there(key)).cloned()
        };
        let mut chain: HashSet<Hash> = HashSet::new();
        let mut txns: HashSet<TxnId> = HashSet::new();
        let mut at = Some(*head);
        while let Some(hash) = at {
            let one = &seen[&hash];
            chain.insert(hash);
            for txn in &one.txns {
                if !txns.insert(*txn) {
                    self.violated(format!("I4 transaction {txn} twice, again in record {}", one.seq));
                }
            }
            if gc.protects(one.seq) {
                if log.get(&one.seq) != Some(&hash) {
                    self.violated(format!(
                        "I5 protected record {} is not in the log of head {head_seq}",
                        one.seq
                    ));
                }
                let lost = match &one.keys {
                    None => Some("something from the start".to_owned()),
                    Some(keys) => missing(keys),
                };
                if let Some(key) = lost {
                    self.violated(format!("I1 record {} of head {head_seq} misses {key}", one.seq));
                }
            }
            at = one.parent;
        }
        for hash in &*self.acked.lock() {
            if !chain.contains(hash) {
                self.violated(format!(
                    "I3 acknowledged record {} is not in the chain of {head_seq}",
                    seen[hash].seq
                ));
            }
        }
        let now = self.memory.time();
        for (no, mount) in &*self.mounts.lock() {
            let held = match &mount.believed {
                None => mount.lease.held(now),
                Some((_, at)) if now.secs - at.secs >= LEASE_TTL_SECS as i64 => BTreeSet::new(),
                Some((believed, _)) => believed.clone(),
            };
            for part in mount.parts.iter().filter(|part| part.sources.is_subset(&held)) {
                let lost = match &part.keys {
                    None => Some("something".to_owned()),
                    Some(keys) => missing(keys),
                };
                if let Some(key) = lost {
                    let (what, sources) = (part.what, &part.sources);
                    self.violated(format!(
                        "I2 {what} of mount {no} lost {key}, sources {sources:?}, head {head_seq}"
                    ));
                }
            }
        }
    }
}

struct Keys<'a> {
    volume: &'a VolumeId,
    keys: BTreeSet<String>,
    gone: Option<TreeError>,
}

impl Visitor for Keys<'_> {
    fn item(&mut self, _: Place<'_>, item: Item<'_>) -> Visit {
        let key = match item {
            Item::Node(ptr) if ptr.pack.is_local() => return Visit::Enter,
            Item::Node(ptr) => Key::Pack(*self.volume, ptr.pack),
            Item::Entry(Entry {
                body:
                    EntryBody::File {
                        content: Content::Local(_),
                        ..
                    },
                ..
            }) => return Visit::Skip,
            Item::Entry(_) => return Visit::Enter,
            Item::Chunk(ChunkRef::Hole, _) => return Visit::Enter,
            Item::Chunk(ChunkRef::Packed(blob), _) | Item::Xattrs(blob, _) => {
                Key::Pack(*self.volume, blob.pack)
            }
            Item::Chunk(ChunkRef::Object { epoch, id }, _) => Key::Chunk(*self.volume, *epoch, *id),
        };
        self.keys.insert(key.to_string());
        Visit::Enter
    }

    fn trouble(&mut self, _: Place<'_>, error: TreeError) -> Visit {
        // Totals of trees that are no volumes' roots.
        if !matches!(error, TreeError::Damaged { .. }) {
            self.gone.get_or_insert(error);
        }
        Visit::Enter
    }
}

/// Every object that a tree refers to.
pub async fn tree_keys(
    src: &dyn NodeSource,
    volume: &VolumeId,
    root: &TreeRoot,
) -> Result<BTreeSet<String>, TreeError> {
    let mut keys = Keys {
        volume,
        keys: BTreeSet::new(),
        gone: None,
    };
    visit(src, root, &mut keys).await;
    match keys.gone {
        None => Ok(keys.keys),
        Some(error) => Err(error),
    }
}

/// Every object that a record refers to, its history included.
pub async fn record_keys(
    src: &dyn NodeSource,
    volume: &VolumeId,
    record: &Record,
) -> Result<BTreeSet<String>, TreeError> {
    let SuperNode { root, history, .. } = &record.root;
    let mut keys = tree_keys(src, volume, root).await?;
    if let Some((ptr, index)) = history {
        let history = TreeRoot {
            attrs: Attrs::default(),
            totals: Totals::default(),
            tree: DirTree::stored(*ptr, *index),
            links: LinksTree::default(),
        };
        keys.extend(tree_keys(src, volume, &history).await?);
    }
    Ok(keys)
}

/// One actor's way to the store: each request is a step.
pub struct Stepped {
    pub world: Arc<World>,
    pub gate: Gate,
    pub free: bool,
}

impl std::fmt::Debug for Stepped {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Stepped")
    }
}

impl Stepped {
    async fn turn(&self, verb: Verb, key: &str) {
        if !self.free {
            self.gate.turn_for(Some((verb, key.to_owned()))).await;
        }
    }

    /// Without the rule that keys tell epochs apart.
    fn key(&self, key: &str) -> String {
        match self.world.wrong {
            Some(Wrong::SharedKeys) => one_epoch(key),
            _ => key.to_owned(),
        }
    }
}

fn one_epoch(key: &str) -> String {
    match Key::parse(key) {
        Some(Key::Chunk(id, _, hash)) => Key::Chunk(id, 1, hash).to_string(),
        Some(Key::Pack(id, pack)) => Key::Pack(id, PackRef { epoch: 1, ..pack }).to_string(),
        _ => key.to_owned(),
    }
}

#[async_trait]
impl ObjectStore for Stepped {
    async fn get(&self, key: &str, range: Option<Range<u64>>) -> Result<Fetched, StoreError> {
        self.turn(Verb::Get, key).await;
        self.world.memory.get(&self.key(key), range).await
    }

    async fn put(&self, key: &str, body: Bytes, mode: PutMode) -> Result<PutDone, StoreError> {
        self.turn(Verb::Put, key).await;
        let key = self.key(key);
        let done = self.world.memory.put(&key, body.clone(), mode).await?;
        self.world.put_done(&key, &body).await;
        Ok(done)
    }

    async fn head(&self, key: &str) -> Result<Option<u64>, StoreError> {
        self.turn(Verb::Head, key).await;
        self.world.memory.head(&self.key(key)).await
    }

    async fn list(&self, prefix: &str, after: Option<&str>, limit: usize) -> Result<Listed, StoreError> {
        self.turn(Verb::List, prefix).await;
        self.world.memory.list(prefix, after, limit).await
    }

    async fn delete(&self, keys: &[String]) -> Result<(), StoreError> {
        self.turn(Verb::Delete, keys.first().map_or("", String::as_str))
            .await;
        let keys: Vec<String> = keys.iter().map(|key| self.key(key)).collect();
        self.world.memory.delete(&keys).await?;
        keys.iter().for_each(|key| self.world.deleted(key));
        Ok(())
    }

    fn describe(&self) -> String {
        "stepped".to_owned()
    }
}
