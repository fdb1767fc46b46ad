//! Who works on the volume: writers, mounts, readers and collectors. Mounts and writers are the product's code but for
//! the daemon around it; collectors are COLLECT.md 2.

use std::collections::BTreeSet;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;

use super::super::mount::{Mount, Nodes, path};
use super::world::*;
use crate::commit::*;
use crate::format::{GcState, Key, Lease, Node, lease_prefix, log_prefix, volume_prefix};
use crate::model::*;
use crate::overlay::{BaseRef, Op, OverlayState};
use crate::tree::{self, NodeSource, TreeError};
use crate::volume::testing::Rng;
use crate::volume::tests::{slot, try_fence};
use crate::volume::{
    Head, LeaseHolder, LoggedRecord, Opened, PublishOutcome, RemoteSource, Volume, VolumeError, VolumeRef,
};

/// Why an actor gives up what it is doing.
#[derive(Debug)]
pub enum Stop {
    /// What it stood on is not kept: it looks again from the head.
    Stale(&'static str),
    Bug(String),
}

impl From<TreeError> for Stop {
    fn from(error: TreeError) -> Stop {
        match error {
            TreeError::Expired { .. } => Stop::Stale("expired"),
            other => Stop::Bug(other.to_string()),
        }
    }
}

impl From<VolumeError> for Stop {
    fn from(error: VolumeError) -> Stop {
        match error {
            VolumeError::Busy { .. } => Stop::Stale("busy"),
            VolumeError::NotKept { .. } => Stop::Stale("not kept"),
            VolumeError::Undecidable { .. } => Stop::Stale("undecidable"),
            other => Stop::Bug(other.to_string()),
        }
    }
}

impl From<CommitError> for Stop {
    fn from(error: CommitError) -> Stop {
        match error {
            CommitError::Gone { .. } => Stop::Stale("gone"),
            CommitError::Contended { .. } => Stop::Stale("contended"),
            CommitError::Tree(error) => error.into(),
            CommitError::Volume(error) => error.into(),
            other => Stop::Bug(other.to_string()),
        }
    }
}

pub struct Actor {
    pub world: Arc<World>,
    pub gate: Gate,
    pub rng: Rng,
    pub no: u64,
    pub store: Arc<Stepped>,
    /// Its fences retain nothing but the head and what G1 and leases ask for; else more, by chance.
    pub strict: bool,
    /// Checkpoints that its fences retain.
    pub checkpoints: Vec<Seq>,
}

/// Changes that were put aside.
pub struct Stash {
    base: TreeRoot,
    overlay: OverlayState,
}

/// Reads trees without turns; nodes that only the mount has from the mount.
struct Spy<'a> {
    remote: RemoteSource,
    mount: &'a Nodes,
}

#[async_trait]
impl NodeSource for Spy<'_> {
    fn loaded(&self, _: &Ptr) -> Option<Arc<Node>> {
        None
    }

    async fn node(&self, ptr: &Ptr) -> Result<Arc<Node>, TreeError> {
        match ptr.pack.is_local() {
            true => self.mount.local.node(ptr).await,
            false => self.remote.node(ptr).await,
        }
    }

    async fn blob(&self, blob: &BlobRef, raw_len: u64) -> Result<Bytes, TreeError> {
        self.remote.blob(blob, raw_len).await
    }
}

fn sources_of(state: &OverlayState) -> BTreeSet<Seq> {
    state.base.sources.iter().copied().collect()
}

fn base_ref(head: &Head) -> BaseRef {
    BaseRef {
        seq: head.seq(),
        record: head.hash(),
        prepared: None,
        sources: vec![head.seq()],
    }
}

fn union(base: &BaseRef, other: impl IntoIterator<Item = Seq>) -> BaseRef {
    let mut joined = base.clone();
    joined.sources.extend(other);
    joined.sources.sort_unstable();
    joined.sources.dedup();
    joined
}

/// Two directories too large to stand in their parents, with the few files that the actors work on.
pub const DIRS: [&str; 2] = ["/d", "/e"];
/// A directory in one of them, also with a node of its own, which moves now and then.
pub const MOVING: &str = "q";

fn a_path(rng: &mut Rng) -> String {
    let dir = DIRS[rng.below(2) as usize];
    match rng.chance(20) {
        true => format!("{dir}/{MOVING}/p{}", rng.below(2)),
        false => format!("{dir}/p{}", rng.below(3)),
    }
}

/// Few contents, so that equal ones are common: blobs, and now and then one of a chunk.
fn a_content(rng: &mut Rng) -> Bytes {
    let name = format!("c{} ", rng.below(7));
    let len = if rng.chance(25) { 4 << 20 } else { 300 };
    Bytes::from(name.repeat(len / name.len() + 1))
}

/// Everything of the base that names are looked up in.
async fn load_all(mount: &Mount) -> Result<(), TreeError> {
    let mut open = vec![mount.base.tree.clone()];
    while let Some(tree) = open.pop() {
        for (_, entry) in tree::entries(&mount.nodes, &tree).await? {
            if let EntryBody::Dir { tree, .. } = entry.body {
                open.push(tree);
            }
        }
    }
    Ok(())
}

async fn edit(mount: &mut Mount, rng: &mut Rng) {
    let (at, to) = (a_path(rng), a_path(rng));
    let is_there = async |mount: &mut Mount, at: &str| mount.node(&path(at)).await.is_some();
    let parent = |at: &str| at.rsplit_once('/').expect("a path").0.to_owned();
    if !is_there(mount, &parent(&at)).await || !is_there(mount, &parent(&to)).await {
        return;
    }
    let there = is_there(mount, &at).await;
    let taken = is_there(mount, &to).await;
    match rng.below(100) {
        0..40 => mount.write(&at, a_content(rng)).await,
        40..70 if there && mount.node(&path(&at)).await != mount.node(&path(&to)).await => {
            mount.rename(&at, &to).await;
        }
        70..80 if there => mount.remove(&at).await,
        80..88 if there && !taken => mount.link(&at, &to).await,
        88..94 => {
            let [from, to] = DIRS.map(|dir| format!("{dir}/{MOVING}"));
            let (from, to) = if is_there(mount, &from).await {
                (from, to)
            } else {
                (to, from)
            };
            if is_there(mount, &from).await && !is_there(mount, &to).await {
                mount.rename(&from, &to).await;
            }
        }
        _ => {}
    }
}

impl Actor {
    pub async fn open(&self) -> Result<Opened, Stop> {
        let name = VolumeRef::Name("v".to_owned());
        Ok(Volume::open(self.store.clone(), self.world.clock(), &name).await?)
    }

    /// Commits what there is; `late` edits come while it runs.
    pub async fn commit(&mut self, mount: &mut Mount, late: bool) -> Result<(), Stop> {
        let frozen = mount.freeze();
        // As the daemon does it.
        let head = mount.head.clone();
        let result = async {
            let commit = mount.commit_context();
            let uploaded = frozen.upload(&commit, head.record().gc.epoch).await?;
            uploaded.publish(&commit, head).await
        };
        let result = result.await;
        if late {
            edit(mount, &mut self.rng).await;
        }
        match result {
            Ok(done) => {
                self.world.count("commits");
                if !done.merged_with.is_empty() {
                    self.world.count("merges");
                }
                self.world.acked.lock().push(done.record.hash);
                mount.published(&done.base, &done.contents, done.head.clone());
                Ok(())
            }
            Err(CommitError::Unknown { txn, since, .. }) => {
                self.world.count("unknown outcomes");
                let attempts = mount.state.attempts.lock().clone();
                let sent: Vec<LoggedRecord> = attempts.iter().map(|attempt| attempt.record.clone()).collect();
                let settled = finish(&mount.volume, &mount.nodes, (txn, since), &sent).await;
                match settled {
                    Ok(Settled::Published { found, head }) => {
                        let attempt = attempts.iter().find(|a| a.record.hash == found.hash);
                        let attempt = attempt.ok_or(Stop::Bug("found what nobody sent".to_owned()))?;
                        let base = attempt.base_at(&attempt.record);
                        self.world.acked.lock().push(found.hash);
                        mount.published(&base, &attempt.contents, head);
                        Ok(())
                    }
                    Ok(Settled::NotPublished { .. }) => {
                        mount.apply(Op::Unfrozen {
                            commit: mount.commits,
                        });
                        Err(Stop::Stale("not published"))
                    }
                    Err(error) => {
                        mount.apply(Op::Unfrozen {
                            commit: mount.commits,
                        });
                        Err(error.into())
                    }
                }
            }
            Err(error) => {
                mount.apply(Op::Unfrozen {
                    commit: mount.commits,
                });
                Err(error.into())
            }
        }
    }

    /// Commands and mounts without a lease.
    pub async fn writer(mut self) {
        for _ in 0..1 + self.rng.below(3) {
            self.end(self.world.clone(), Self::write_once).await;
        }
    }

    pub async fn end(&mut self, world: Arc<World>, job: impl AsyncFnOnce(&mut Actor) -> Result<(), Stop>) {
        match job(self).await {
            Ok(()) => {}
            Err(Stop::Stale(why)) => world.count(why),
            Err(Stop::Bug(what)) => world.violated(format!("actor {}: {what}", self.no)),
        }
    }

    async fn write_once(&mut self) -> Result<(), Stop> {
        let mut mount = Mount::new(self.open().await?);
        mount.by = format!("w{}", self.no);
        mount.tick = self.no as i64 * 1_000_000 + self.rng.below(1000) as i64 * 1000;
        load_all(&mount).await?;
        if self.rng.chance(30) {
            self.restore_old(&mut mount).await?;
        } else {
            edit(&mut mount, &mut self.rng).await;
            edit(&mut mount, &mut self.rng).await;
        }
        if !mount.overlay.is_clean() {
            self.commit(&mut mount, false).await?;
        }
        Ok(())
    }

    /// What the view shows becomes what an older record shows, not that of the empty volume.
    async fn restore_old(&mut self, mount: &mut Mount) -> Result<(), Stop> {
        let gc = mount.head.record().gc.clone();
        let kept: Vec<Seq> = (1..mount.head.seq()).filter(|seq| gc.protects(*seq)).collect();
        if kept.is_empty() {
            return Ok(());
        }
        let target = kept[self.rng.below(kept.len() as u64) as usize];
        let target = mount.volume.record(&mount.head, target).await?;
        mount.overlay = restore(
            &mount.nodes,
            Target {
                head: &mount.base,
                base: union(&mount.overlay.base, [target.seq()]),
                result: &target.record.root.root,
                moves: &[],
                live: &mount.overlay,
                others: &[],
            },
        )
        .await?;
        self.world.count("restores of records");
        Ok(())
    }

    pub async fn mounted(mut self) {
        self.end(self.world.clone(), Self::mount_life).await;
        self.world.mounts.lock().remove(&self.no);
    }

    /// A mount of the head, without a lease.
    pub async fn begin(&mut self) -> Result<Life, Stop> {
        let mut mount = Mount::new(self.open().await?);
        mount.by = format!("m{}", self.no);
        mount.tick = self.no as i64 * 1_000_000;
        load_all(&mount).await?;
        Ok(Life::new(mount, self.no))
    }

    async fn mount_life(&mut self) -> Result<(), Stop> {
        let mut life = self.begin().await?;
        let first = life.mount.head.seq();
        if !self.lease(&mut life, [first]).await? {
            return Err(Stop::Stale("mounted too late"));
        }
        for _ in 0..3 + self.rng.below(10) {
            let done = self.mount_job(&mut life).await;
            match done {
                Ok(()) => {}
                Err(Stop::Stale(why)) => {
                    self.world.count(why);
                    // What cannot be read any more is dropped.
                    self.reload(&mut life, false, false).await?;
                }
                Err(bug) => return Err(bug),
            }
        }
        let lease = life.lease.clone();
        self.world.mounts.lock().remove(&self.no);
        Ok(life.mount.volume.drop_lease(lease).await?)
    }

    async fn mount_job(&mut self, life: &mut Life) -> Result<(), Stop> {
        load_all(&life.mount).await?;
        match self.rng.below(100) {
            0..55 => {
                for _ in 0..1 + self.rng.below(2) {
                    edit(&mut life.mount, &mut self.rng).await;
                }
                self.draw(life).await;
                if self.rng.chance(80) && !life.mount.overlay.is_clean() {
                    let late = self.rng.chance(30);
                    self.commit(&mut life.mount, late).await?;
                    self.forget(life).await?;
                    self.draw(life).await;
                    self.lease(life, []).await?;
                }
                Ok(())
            }
            55..72 => {
                let (keep, stash) = (self.rng.chance(50), self.rng.chance(70));
                self.reload(life, keep, stash).await
            }
            72..80 if !life.stashes.is_empty() => self.restore_stash(life).await,
            80..85 => {
                life.handles.clear();
                self.draw(life).await;
                Ok(())
            }
            85..93 => self.lease(life, []).await.map(|_| ()),
            93.. => self.park(life).await,
            _ => Ok(()),
        }
    }

    /// Gives up sources that are not needed any more, far earlier than mounts do; what is left must be enough.
    pub async fn forget(&mut self, life: &mut Life) -> Result<(), Stop> {
        let before = sources_of(&life.mount.overlay);
        if before.len() > 2 && self.rng.chance(60) {
            let mount = &mut life.mount;
            let needed = match self.world.wrong {
                Some(Wrong::EndsOnly) => {
                    Some(before.first().into_iter().chain(before.last()).copied().collect())
                }
                _ => {
                    needed_sources(
                        &mount.volume,
                        &mount.head,
                        &mount.nodes,
                        &mount.base,
                        &mount.overlay,
                    )
                    .await?
                }
            };
            match needed {
                Some(sources) => {
                    if sources.len() < before.len() {
                        self.world.count("sources given up");
                    }
                    mount.apply(Op::SetSources { sources });
                }
                None => self.world.count("all sources needed"),
            }
        }
        self.is_covered(life).await
    }

    /// Everything that the view refers to is in one of its sources, as far as they are there to be asked.
    async fn is_covered(&self, life: &Life) -> Result<(), Stop> {
        let mount = &life.mount;
        let volume = self.world.raw();
        let id = volume.id();
        let spy = Spy {
            remote: RemoteSource::new(volume.clone()),
            mount: &mount.nodes,
        };
        let head = volume.head().await?;
        let mut covered = BTreeSet::new();
        for seq in sources_of(&mount.overlay) {
            match volume.record(&head, seq).await {
                Ok(record) => covered.extend(tree_keys(&spy, &id, &record.record.root.root).await?),
                Err(VolumeError::NotKept { .. }) => return Ok(()),
                Err(error) => return Err(error.into()),
            }
        }
        let built = build(&spy, &mount.base, &mount.overlay, &mount.local_contents()).await?;
        for root in [&mount.base, &built.tree] {
            if let Some(key) = tree_keys(&spy, &id, root).await?.difference(&covered).next() {
                let sources = sources_of(&mount.overlay);
                return Err(Stop::Bug(format!("{key} is in none of the sources {sources:?}")));
            }
        }
        Ok(())
    }

    /// Names all sources and `extra`; true if `extra` is held then.
    pub async fn lease<const N: usize>(&mut self, life: &mut Life, extra: [Seq; N]) -> Result<bool, Stop> {
        let mut wanted = life.need();
        wanted.extend(extra);
        let named = match self.world.wrong {
            Some(Wrong::LeaseNewestOnly) => wanted.last().copied().into_iter().collect(),
            _ => wanted.clone(),
        };
        let volume = life.mount.volume.clone();
        let head = volume.write_lease(&mut life.lease, named).await?;
        let now = self.world.memory.time();
        life.believed = match self.world.wrong {
            Some(Wrong::LeaseNotConfirmed) => Some((wanted, now)),
            Some(Wrong::LeaseNewestOnly) => {
                let gc = &head.record().gc;
                Some((wanted.into_iter().filter(|seq| gc.protects(*seq)).collect(), now))
            }
            _ => None,
        };
        if head.seq() >= life.mount.head.seq() {
            life.mount.head = head;
        }
        self.draw(life).await;
        let held = match &life.believed {
            Some((believed, _)) => believed.clone(),
            None => life.lease.held(now),
        };
        Ok(extra.iter().all(|seq| held.contains(seq)))
    }

    /// Tells the check what the mount stands on.
    pub async fn draw(&self, life: &Life) {
        let mount = &life.mount;
        let volume = self.world.raw();
        let id = volume.id();
        let spy = Spy {
            remote: RemoteSource::new(volume),
            mount: &mount.nodes,
        };
        let mut parts = Vec::new();
        let mut add = async |what, base: &TreeRoot, state: &OverlayState, contents: &Contents| {
            let mut keys = tree_keys(&spy, &id, base).await;
            if let Ok(all) = &mut keys {
                match build(&spy, base, state, contents).await {
                    Ok(built) => match tree_keys(&spy, &id, &built.tree).await {
                        Ok(more) => all.extend(more),
                        Err(error) => keys = Err(error),
                    },
                    Err(error) => keys = Err(error),
                }
            }
            parts.push(Part {
                what,
                keys: keys.ok(),
                sources: sources_of(state),
            });
        };
        add("view", &mount.base, &mount.overlay, &mount.local_contents()).await;
        for stash in &life.stashes {
            let contents = local_contents(mount, &stash.overlay);
            add("stash", &stash.base, &stash.overlay, &contents).await;
        }
        for (keys, sources) in &life.handles {
            parts.push(Part {
                what: "handle",
                keys: keys.clone(),
                sources: sources.clone(),
            });
        }
        let drawn = Drawn {
            lease: life.lease.clone(),
            believed: life.believed.clone(),
            parts,
        };
        self.world.mounts.lock().insert(self.no, drawn);
        self.world
            .changed
            .store(true, std::sync::atomic::Ordering::Relaxed);
    }

    /// To the head; local changes are kept, put aside, or dropped.
    pub async fn reload(&mut self, life: &mut Life, keep: bool, stash: bool) -> Result<(), Stop> {
        let head = life.mount.volume.head().await?;
        if !self.lease(life, [head.seq()]).await? {
            return Ok(());
        }
        let theirs = head.record().root.root.clone();
        if self.rng.chance(40) {
            let spy = Spy {
                remote: RemoteSource::new(self.world.raw()),
                mount: &life.mount.nodes,
            };
            let keys = tree_keys(&spy, &life.mount.volume.id(), &life.mount.base).await;
            life.handles.push((keys.ok(), sources_of(&life.mount.overlay)));
        }
        let dirty = !life.mount.overlay.is_clean();
        if dirty && keep {
            self.world.count("reloads that keep");
            self.carry(life, &head).await?;
        } else {
            if dirty && stash {
                self.world.count("stashes");
                life.stashes.push(Stash {
                    base: life.mount.base.clone(),
                    overlay: life.mount.overlay.clone(),
                });
            }
            let mount = &mut life.mount;
            mount.overlay = OverlayState::succeeding(&mount.overlay, base_ref(&head), theirs.attrs.clone());
        }
        life.mount.base = theirs;
        self.forget(life).await?;
        self.world.count("reloads");
        self.draw(life).await;
        self.lease(life, []).await.map(|_| ())
    }

    async fn carry(&mut self, life: &mut Life, head: &Head) -> Result<(), Stop> {
        let mount = &mut life.mount;
        let theirs = head.record().root.root.clone();
        let contents = mount.local_contents();
        let carried = carry_over(
            &mount.nodes,
            &mount.base,
            &mount.overlay,
            &contents,
            &theirs,
            base_ref(head),
        )
        .await?;
        mount.overlay = carried.overlay;
        if self.world.wrong == Some(Wrong::KeepForgets) {
            mount.overlay.base.sources = vec![head.seq()];
        }
        Ok(())
    }

    pub async fn restore_stash(&mut self, life: &mut Life) -> Result<(), Stop> {
        let at = self.rng.below(life.stashes.len() as u64) as usize;
        let mount = &mut life.mount;
        let stash = &life.stashes[at];
        let contents = local_contents(mount, &stash.overlay);
        let theirs = build(&mount.nodes, &stash.base, &stash.overlay, &contents).await?;
        let mine = build(&mount.nodes, &mount.base, &mount.overlay, &mount.local_contents()).await?;
        let merged = tree::merge(&mount.nodes, &stash.base, &mine.tree, &theirs.tree, &theirs.moves).await?;
        let moves = match merged.used_hints.is_empty() {
            true => mine.moves.as_slice(),
            false => &[],
        };
        let base = match self.world.wrong {
            Some(Wrong::RestoreForgets) => mount.overlay.base.clone(),
            _ => union(&mount.overlay.base, sources_of(&stash.overlay)),
        };
        let restored = restore(
            &mount.nodes,
            Target {
                head: &mount.base,
                base,
                result: &merged.root,
                moves,
                live: &mount.overlay,
                others: &[&stash.overlay],
            },
        )
        .await?;
        mount.overlay = restored;
        life.stashes.remove(at);
        self.world.count("stashes restored");
        self.forget(life).await?;
        self.draw(life).await;
        Ok(())
    }

    /// The daemon is gone for a while; its lease ends, overlay and stashes stay.
    async fn park(&mut self, life: &mut Life) -> Result<(), Stop> {
        self.world.mounts.lock().remove(&self.no);
        life.handles.clear();
        let (id, by) = (LeaseId([self.no as u8; 16]), format!("m{}", self.no));
        let old = std::mem::replace(&mut life.lease, LeaseHolder::new(id, by));
        life.mount.volume.drop_lease(old).await?;
        for _ in 0..5 + self.rng.below(50) {
            self.gate.turn().await;
        }
        let head = life.mount.volume.head().await?;
        life.mount.head = head.clone();
        let gc = &head.record().gc;
        if !sources_of(&life.mount.overlay)
            .iter()
            .all(|seq| gc.protects(*seq))
        {
            self.world.count("parked overlays carried over");
            self.carry(life, &head).await?;
            life.mount.base = head.record().root.root.clone();
        }
        self.lease(life, []).await.map(|_| ())
    }

    /// A reader with a lease.
    pub async fn reader(mut self) {
        self.end(self.world.clone(), async |me| {
            let mut life = Life::new(Mount::new(me.open().await?), me.no);
            let first = life.mount.head.seq();
            if me.lease(&mut life, [first]).await? {
                for _ in 0..30 {
                    me.gate.turn().await;
                }
            }
            me.world.mounts.lock().remove(&me.no);
            Ok(life.mount.volume.drop_lease(life.lease).await?)
        })
        .await;
    }

    pub async fn collector(mut self) {
        for _ in 0..1 + self.rng.below(4) {
            self.end(self.world.clone(), Self::collect).await;
        }
    }

    async fn read_leases(&self, volume: &Volume) -> Result<BTreeSet<Seq>, Stop> {
        let listed = volume
            .store()
            .list(&lease_prefix(&volume.id()), None, 1000)
            .await
            .unwrap();
        let mut seqs = BTreeSet::new();
        for object in listed.objects {
            let Some(Key::Lease(id, lease)) = Key::parse(&object.key) else {
                return Err(Stop::Bug(object.key));
            };
            let Ok(fetched) = volume.store().get(&object.key, None).await else {
                continue;
            };
            let found = Lease::decode(&fetched.bytes, &id, &lease, &object.key).unwrap();
            if found.counts(fetched.modified.unwrap(), fetched.server_time.unwrap()) {
                seqs.extend(found.seqs);
            }
        }
        Ok(seqs)
    }

    /// G1 and G2: the fence that was published, and the leases read before it.
    async fn fence(&mut self, volume: &Volume) -> Result<(GcState, BTreeSet<Seq>), Stop> {
        loop {
            let head = volume.head().await?;
            let leased = self.read_leases(volume).await?;
            let log = volume
                .store()
                .list(&log_prefix(&volume.id()), None, 1000)
                .await
                .unwrap();
            let now = log.server_time.unwrap();
            let gc = &head.record().gc;
            let mut keep: BTreeSet<Seq> = leased.iter().copied().collect();
            keep.insert(head.seq());
            keep.extend(&self.checkpoints);
            if !self.strict {
                keep.extend(head.seq().saturating_sub(self.rng.below(3))..=head.seq());
                // Checkpoints.
                keep.extend((0..=gc.fence).filter(|seq| gc.retained.contains(*seq) && self.rng.chance(30)));
            }
            for object in &log.objects {
                if let Some(Key::Record(_, seq)) = Key::parse(&object.key)
                    && now.secs - object.modified.unwrap().secs < 86_400
                {
                    keep.insert(seq.saturating_sub(1));
                }
            }
            let keep: Vec<Seq> = keep
                .into_iter()
                .filter(|seq| *seq <= head.seq() && gc.protects(*seq))
                .collect();
            match try_fence(volume, &head, &keep).await? {
                PublishOutcome::Published { record, .. } => {
                    self.world.count("fences");
                    return Ok((record.record.gc.clone(), leased));
                }
                PublishOutcome::Lost => self.world.count("fences lost"),
                // This store answers every request.
                PublishOutcome::Unknown { reason } => {
                    return Err(Stop::Bug(format!(
                        "I6 the outcome of a fence is unknown: {reason}"
                    )));
                }
            }
        }
    }

    /// COLLECT.md 2.
    pub async fn collect(&mut self) -> Result<(), Stop> {
        let Opened { volume, .. } = self.open().await?;
        let (gc, early) = self.fence(&volume).await?;
        let leased = match self.world.wrong {
            Some(Wrong::LeasesBeforeFence) => early,
            _ => self.read_leases(&volume).await?,
        };
        let src = RemoteSource::new(volume.clone());
        let mut live = BTreeSet::new();
        let retained: BTreeSet<Seq> = (0..=gc.fence).filter(|seq| gc.retained.contains(*seq)).collect();
        for seq in retained.union(&leased) {
            let stop = retained.contains(seq) && self.world.wrong != Some(Wrong::NoStopRule);
            let keys = match slot(&volume, *seq).await? {
                None => None,
                Some(logged) => record_keys(&src, &volume.id(), &logged.record).await.ok(),
            };
            match keys {
                Some(keys) => live.extend(keys),
                None if stop => {
                    self.world.count("collectors stopped");
                    return Ok(());
                }
                None => {}
            }
        }
        let shared = self.world.wrong == Some(Wrong::SharedKeys);
        let mut dead = Vec::new();
        for prefix in ["d/", "p/"] {
            let prefix = format!("{}{prefix}", volume_prefix(&volume.id()));
            let listed = volume.store().list(&prefix, None, 1000).await.unwrap();
            for object in listed.objects {
                let epoch = match Key::parse(&object.key) {
                    Some(Key::Chunk(_, epoch, _)) => epoch,
                    Some(Key::Pack(_, pack)) => pack.epoch,
                    _ => return Err(Stop::Bug(object.key)),
                };
                let is_live = match shared {
                    true => live
                        .iter()
                        .any(|key: &String| key[key.len() - 64..] == object.key[object.key.len() - 64..]),
                    false => live.contains(&object.key),
                };
                if (shared || epoch + 2 <= gc.epoch) && !is_live {
                    dead.push(object.key);
                }
            }
        }
        dead.sort_by_key(|key| self.world.age_rank(key));
        let mut rest = dead.as_slice();
        while !rest.is_empty() {
            let (now, later) = rest.split_at(rest.len().min(1 + self.rng.below(4) as usize));
            volume.store().delete(now).await.unwrap();
            rest = later;
        }
        self.world.count("sweeps");
        let log = volume
            .store()
            .list(&log_prefix(&volume.id()), None, 1000)
            .await
            .unwrap();
        for object in log.objects {
            if let Some(Key::Record(_, seq)) = Key::parse(&object.key)
                && seq < gc.fence
                && !gc.retained.contains(seq)
                && !leased.contains(&seq)
            {
                volume.store().delete(&[object.key]).await.unwrap();
            }
        }
        Ok(())
    }
}

/// A mount with all that it draws from.
pub struct Life {
    pub mount: Mount,
    lease: LeaseHolder,
    believed: Option<(BTreeSet<Seq>, Timestamp)>,
    stashes: Vec<Stash>,
    pub handles: Vec<(Option<BTreeSet<String>>, BTreeSet<Seq>)>,
}

impl Life {
    fn new(mount: Mount, no: u64) -> Life {
        Life {
            lease: LeaseHolder::new(LeaseId([no as u8; 16]), mount.by.clone()),
            mount,
            believed: None,
            stashes: Vec::new(),
            handles: Vec::new(),
        }
    }

    fn need(&self) -> BTreeSet<Seq> {
        let mut need = sources_of(&self.mount.overlay);
        for stash in &self.stashes {
            need.extend(sources_of(&stash.overlay));
        }
        for (_, sources) in &self.handles {
            need.extend(sources);
        }
        need
    }
}

/// Contents of an overlay that is not the live one; bodies are never reused.
fn local_contents(mount: &Mount, state: &OverlayState) -> Contents {
    let bodies = mount.bodies.files.lock();
    let dirty = state.nodes.iter().filter(|(_, node)| {
        node.body
            .as_file()
            .is_some_and(|file| file.body.is_some() && file.dirty)
    });
    dirty
        .map(|(id, node)| {
            let local = LocalContent {
                overlay: 2,
                node: *id,
                generation: node.generation,
            };
            (*id, (bodies[id].len() as u64, Content::Local(local)))
        })
        .collect()
}
