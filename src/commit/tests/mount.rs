//! A mount without a kernel: an overlay changed by path, bodies in memory, and the store behind it.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::io;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use parking_lot::Mutex;

use crate::commit::Frozen;
use crate::commit::build::base_path;
use crate::commit::*;
use crate::format::{FinishedPack, Node};
use crate::model::*;
use crate::overlay::*;
use crate::tree::{self, MemorySource, NodeSource, TreeError};
use crate::volume::{Head, Opened, RemoteSource, Volume};

/// Remote nodes, and those of prepared trees.
pub struct Nodes {
    pub remote: RemoteSource,
    pub local: MemorySource,
}

impl Nodes {
    pub fn new(volume: &Volume) -> Nodes {
        Nodes {
            remote: RemoteSource::new(volume.clone()),
            local: MemorySource::new(),
        }
    }

    pub fn add(&self, packs: impl IntoIterator<Item = FinishedPack>) {
        self.local.add(packs);
    }
}

#[async_trait]
impl NodeSource for Nodes {
    fn loaded(&self, ptr: &Ptr) -> Option<Arc<Node>> {
        if ptr.pack.is_local() {
            self.local.loaded(ptr)
        } else {
            self.remote.loaded(ptr)
        }
    }

    async fn node(&self, ptr: &Ptr) -> Result<Arc<Node>, TreeError> {
        if ptr.pack.is_local() {
            self.local.node(ptr).await
        } else {
            self.remote.node(ptr).await
        }
    }

    async fn blob(&self, blob: &BlobRef, raw_len: u64) -> Result<Bytes, TreeError> {
        self.remote.blob(blob, raw_len).await
    }
}

/// Bodies in memory.
#[derive(Debug, Default)]
pub struct Bodies {
    pub files: Mutex<HashMap<NodeId, Bytes>>,
    pub still_written: Mutex<HashSet<NodeId>>,
    /// Bytes that were read.
    pub read: Mutex<u64>,
}

#[async_trait]
impl FileSource for Bodies {
    async fn size(&self, node: NodeId) -> Result<u64, TreeError> {
        Ok(self.files.lock()[&node].len() as u64)
    }

    async fn is_still_written(&self, node: NodeId) -> Result<bool, TreeError> {
        Ok(self.still_written.lock().contains(&node))
    }

    async fn next_data(&self, node: NodeId, offset: u64) -> Result<Option<u64>, TreeError> {
        let files = self.files.lock();
        let rest = files[&node].get(offset as usize..).unwrap_or_default();
        // As a filesystem tells it: by blocks.
        let block = rest
            .iter()
            .position(|byte| *byte != 0)
            .map(|at| (offset + at as u64) / 4096 * 4096);
        Ok(block.map(|at| at.max(offset)))
    }

    async fn read(&self, node: NodeId, offset: u64, len: u64) -> Result<Bytes, TreeError> {
        *self.read.lock() += len;
        Ok(self.files.lock()[&node].slice(offset as usize..(offset + len) as usize))
    }
}

/// Ledger and journal in memory.
#[derive(Debug, Default)]
pub struct State {
    pub ledger: Mutex<Vec<u8>>,
    pub attempts: Mutex<Vec<Attempt>>,
}

impl UploadLedger for State {
    fn read(&self) -> io::Result<Vec<u8>> {
        Ok(self.ledger.lock().clone())
    }

    fn append(&self, entry: &[u8]) -> io::Result<()> {
        self.ledger.lock().extend_from_slice(entry);
        Ok(())
    }
}

#[async_trait]
impl CommitJournal for State {
    async fn publishing(&self, attempt: &Attempt) -> io::Result<()> {
        self.attempts.lock().push(attempt.clone());
        Ok(())
    }
}

pub struct Mount {
    pub volume: Volume,
    pub nodes: Nodes,
    pub overlay: OverlayState,
    pub base: TreeRoot,
    pub head: Head,
    pub bodies: Bodies,
    pub state: State,
    pub progress: Progress,
    pub tick: i64,
    pub commits: u64,
    pub by: String,
}

pub fn path(text: &str) -> VolPath {
    VolPath::parse(text.as_bytes()).unwrap()
}

impl Mount {
    pub fn new(Opened { volume, head }: Opened) -> Mount {
        let base = head.record().root.root.clone();
        let base_ref = BaseRef {
            seq: head.seq(),
            record: head.hash(),
            prepared: None,
            sources: vec![head.seq()],
        };
        Mount {
            nodes: Nodes::new(&volume),
            overlay: OverlayState::new(base_ref, base.attrs.clone()),
            volume,
            base,
            head,
            bodies: Bodies::default(),
            state: State::default(),
            progress: Progress::default(),
            tick: 0,
            commits: 0,
            by: "mount".to_owned(),
        }
    }

    pub fn now(&mut self) -> Timestamp {
        self.tick += 1;
        Timestamp {
            secs: 1_000_000 + self.tick,
            nanos: 0,
        }
    }

    pub fn apply(&mut self, op: Op) {
        self.overlay.apply(&op).unwrap_or_else(|e| panic!("{op:?}: {e}"));
    }

    /// The base's entry of a name of an adopted directory.
    async fn base_entry(&self, dir: NodeId, name: &Name) -> Option<Entry> {
        let path = base_path(&self.overlay, dir).unwrap()?;
        tree::walk(&self.nodes, &self.base, &path.join(name))
            .await
            .unwrap()
    }

    async fn place(&self, parent: NodeId, name: &Name) -> Place {
        let base = self.base_entry(parent, name).await.map(|entry| entry.kind());
        Place {
            parent,
            name: name.clone(),
            base,
        }
    }

    /// The node of a name, adopted if it is not in the overlay yet.
    pub async fn child(&mut self, dir: NodeId, name: &Name) -> Option<NodeId> {
        match self.overlay.change(dir, name.as_bytes()) {
            Some(Change::Node { id, .. }) => return Some(*id),
            Some(Change::Whiteout(_)) => return None,
            None => {}
        }
        let entry = self.base_entry(dir, name).await?;
        let id = self.overlay.next_node;
        let (origin, nlink, entry) = match &entry.body {
            EntryBody::HardLink(link) => {
                if let Some(id) = self.overlay.links.get(link) {
                    return Some(*id);
                }
                let inode = tree::link(&self.nodes, &self.base.links, link)
                    .await
                    .unwrap()
                    .unwrap();
                (Origin::Link(*link), inode.nlink, inode.entry)
            }
            _ => (
                Origin::Entry {
                    parent: dir,
                    name: name.clone(),
                },
                1,
                entry,
            ),
        };
        let body = match entry.body {
            EntryBody::File { size, content } => NewBody::File(Some((size, content))),
            EntryBody::Dir { .. } => NewBody::Dir,
            EntryBody::Symlink { target } => NewBody::Symlink(target),
            other => panic!("{other:?}"),
        };
        self.apply(Op::Adopt {
            id,
            origin,
            attrs: entry.attrs,
            nlink,
            body,
        });
        Some(id)
    }

    pub async fn node(&mut self, at: &VolPath) -> Option<NodeId> {
        let mut id = ROOT_NODE;
        for name in &at.0 {
            id = self.child(id, name).await?;
        }
        Some(id)
    }

    async fn parent(&mut self, at: &VolPath) -> (NodeId, Place) {
        let (dir, name) = at.split_last().unwrap();
        let parent = self.node(&dir).await.unwrap();
        (parent, self.place(parent, name).await)
    }

    fn attrs(&mut self, mode: u16) -> Attrs {
        let now = self.now();
        Attrs {
            mode,
            mtime: now,
            ctime: now,
            file_id: FileId(1000 + self.tick as u64),
            ..Attrs::default()
        }
    }

    pub async fn mkdir(&mut self, at: &str) {
        let (_, place) = self.parent(&path(at)).await;
        let (id, attrs, time) = (self.overlay.next_node, self.attrs(0o755), self.now());
        self.apply(Op::Create {
            id,
            place,
            attrs,
            body: NewBody::Dir,
            time,
        });
    }

    /// Creates or overwrites a file.
    pub async fn write(&mut self, at: &str, bytes: impl Into<Bytes>) {
        let at = path(at);
        let id = match self.node(&at).await {
            Some(id) => id,
            None => {
                let (_, place) = self.parent(&at).await;
                let (id, attrs, time) = (self.overlay.next_node, self.attrs(0o644), self.now());
                self.apply(Op::Create {
                    id,
                    place,
                    attrs,
                    body: NewBody::File(None),
                    time,
                });
                id
            }
        };
        if self.overlay.nodes[&id].body.as_file().unwrap().body.is_none() {
            let body = self.overlay.next_body;
            self.apply(Op::GiveBody {
                id,
                body,
                present: None,
                base_valid: 0,
                dirty: true,
            });
        }
        self.apply(Op::MarkDirty { id });
        let mut attrs = self.overlay.nodes[&id].attrs.clone();
        attrs.mtime = self.now();
        self.apply(Op::SetAttrs { id, attrs });
        self.bodies.files.lock().insert(id, bytes.into());
    }

    pub async fn chmod(&mut self, at: &str, mode: u16) {
        let id = self.node(&path(at)).await.unwrap();
        let attrs = Attrs {
            mode,
            ..self.overlay.nodes[&id].attrs.clone()
        };
        self.apply(Op::SetAttrs { id, attrs });
    }

    /// Removes one name: a file, or an empty directory.
    pub async fn remove(&mut self, at: &str) {
        let (parent, place) = self.parent(&path(at)).await;
        let node = self.known(parent, &place).await;
        let time = self.now();
        self.apply(Op::Remove { place, node, time });
    }

    /// The node at a place, as far as an op must name it: plain entries of the base need none.
    async fn known(&mut self, parent: NodeId, place: &Place) -> Option<NodeId> {
        match self.overlay.change(parent, place.name.as_bytes()) {
            Some(Change::Node { id, .. }) => Some(*id),
            None if place.base == Some(Kind::HardLink) => self.child(parent, &place.name.clone()).await,
            _ => None,
        }
    }

    /// Renames, over a file too.
    pub async fn rename(&mut self, from: &str, to: &str) {
        let node = self.node(&path(from)).await.unwrap();
        let (_, from) = self.parent(&path(from)).await;
        let (parent, to) = self.parent(&path(to)).await;
        let replaced = self.known(parent, &to).await;
        let time = self.now();
        self.apply(Op::Rename {
            node,
            from,
            to,
            replaced,
            time,
        });
    }

    pub async fn link(&mut self, from: &str, to: &str) {
        let id = self.node(&path(from)).await.unwrap();
        let (_, place) = self.parent(&path(to)).await;
        let time = self.now();
        let mut link = [0; 16];
        link[..8].copy_from_slice(&(self.tick as u64).to_le_bytes());
        link[8..].copy_from_slice(&(self.by.len() as u64 * 1000 + self.commits).to_le_bytes());
        let link = self.overlay.nodes[&id].link.is_none().then_some(LinkId(link));
        self.apply(Op::Link {
            id,
            place,
            link,
            time,
        });
    }

    pub fn commit_context(&self) -> Commit<'_> {
        Commit {
            volume: &self.volume,
            nodes: &self.nodes,
            files: &self.bodies,
            ledger: &self.state,
            hints: &NoHints,
            journal: &self.state,
            progress: &self.progress,
            limits: UploadLimits {
                threads: 2,
                ..UploadLimits::default()
            },
            options: CommitOptions {
                by: self.by.clone(),
                ..CommitOptions::default()
            },
        }
    }

    /// Freezes what there is now.
    pub fn freeze(&mut self) -> Frozen {
        self.commits = self.overlay.last_commit + 1;
        self.apply(Op::Freeze { commit: self.commits });
        let frozen = self.overlay.frozen.as_ref().unwrap().state.clone();
        self.state.attempts.lock().clear();
        Frozen::overlay(frozen, self.base.clone())
    }

    pub async fn commit(&mut self) -> Result<CommitDone, CommitError> {
        let frozen = self.freeze();
        let done = self.commit_context().run(frozen, self.head.clone()).await;
        match done {
            Ok(done) => {
                self.published(&done.base, &done.contents, done.head.clone());
                Ok(done)
            }
            Err(error) => {
                self.apply(Op::Unfrozen { commit: self.commits });
                Err(error)
            }
        }
    }

    /// What the mount does when a commit is known to be in the log.
    pub fn published(&mut self, base: &NewBase, contents: &[PublishedContent], head: Head) {
        if let Some(prepared) = &base.prepared {
            self.nodes.add(prepared.packs.clone());
        }
        let frozen = self.overlay.frozen.as_ref().unwrap().state.clone();
        let written = self.overlay.generation != frozen.generation;
        let base_ref = if written {
            base.dirty.clone()
        } else {
            base.clean.clone()
        };
        let contents = contents.to_vec();
        self.apply(Op::Published {
            commit: self.commits,
            base: base_ref,
            contents,
        });
        self.base = base.tree.clone();
        self.head = head;
        self.state.ledger.lock().clear();
    }

    /// The tree that the view shows, contents of dirty files local.
    pub async fn build(&self) -> Built {
        let contents = self.local_contents();
        build(&self.nodes, &self.base, &self.overlay, &contents)
            .await
            .unwrap()
    }

    pub fn local_contents(&self) -> Contents {
        let bodies = self.bodies.files.lock();
        let dirty = self.overlay.nodes.iter().filter(|(_, node)| {
            node.body
                .as_file()
                .is_some_and(|file| file.body.is_some() && file.dirty)
        });
        dirty
            .map(|(id, node)| {
                let local = LocalContent {
                    overlay: 1,
                    node: *id,
                    generation: node.generation,
                };
                (*id, (bodies[id].len() as u64, Content::Local(local)))
            })
            .collect()
    }

    /// Drops local changes and takes the head.
    pub async fn reload(&mut self) {
        self.head = self.volume.refresh(&self.head).await.unwrap().head;
        let base_ref = BaseRef {
            seq: self.head.seq(),
            record: self.head.hash(),
            prepared: None,
            sources: vec![self.head.seq()],
        };
        self.base = self.head.record().root.root.clone();
        self.overlay = OverlayState::succeeding(&self.overlay, base_ref, self.base.attrs.clone());
    }

    /// Puts local changes on top of the head.
    pub async fn reload_keep(&mut self) -> CarriedOver {
        self.head = self.volume.refresh(&self.head).await.unwrap().head;
        let theirs = self.head.record().root.root.clone();
        let base_ref = BaseRef {
            seq: self.head.seq(),
            record: self.head.hash(),
            prepared: None,
            sources: vec![self.head.seq()],
        };
        let contents = self.local_contents();
        let carried = carry_over(
            &self.nodes,
            &self.base,
            &self.overlay,
            &contents,
            &theirs,
            base_ref,
        )
        .await;
        let carried = carried.unwrap();
        self.overlay = carried.overlay.clone();
        self.base = theirs;
        carried
    }

    pub async fn flat(&self, root: &TreeRoot) -> BTreeMap<String, String> {
        flat(&self.nodes, &self.volume, root, &self.bodies).await
    }

    pub async fn view(&self) -> BTreeMap<String, String> {
        let built = self.build().await;
        self.flat(&built.tree).await
    }
}

/// Every path with what it is: mode, and bytes (long ones by hash). Also checks that totals and link counts are right.
pub async fn flat(
    src: &dyn NodeSource,
    volume: &Volume,
    root: &TreeRoot,
    bodies: &Bodies,
) -> BTreeMap<String, String> {
    let mut all = BTreeMap::new();
    let mut names: HashMap<LinkId, u64> = HashMap::new();
    let mut open = vec![(VolPath::root(), root.as_entry())];
    while let Some((at, entry)) = open.pop() {
        let shown = match &entry.body {
            EntryBody::Dir { totals, tree } => {
                let below = tree::entries(src, tree).await.unwrap();
                assert_eq!(*totals, tree::recount(&below), "totals of {at}");
                open.extend(below.into_iter().map(|(name, entry)| (at.join(&name), entry)));
                format!("d {:o}", entry.attrs.mode)
            }
            EntryBody::HardLink(id) => {
                let inode = tree::link(src, &root.links, id).await.unwrap().expect("an inode");
                *names.entry(*id).or_default() += 1;
                let bytes = bytes_of(src, volume, &inode.entry, bodies).await;
                format!("l {:o} {bytes}", inode.entry.attrs.mode)
            }
            EntryBody::Symlink { target } => format!("s {}", String::from_utf8_lossy(target)),
            _ => format!(
                "f {:o} {}",
                entry.attrs.mode,
                bytes_of(src, volume, &entry, bodies).await
            ),
        };
        all.insert(at.to_string(), shown);
    }
    let inodes = tree::inodes(src, &root.links).await.unwrap();
    assert_eq!(inodes.len() as u64, root.links.count, "inodes");
    let counted: HashMap<LinkId, u64> = inodes.iter().map(|(id, inode)| (*id, inode.nlink)).collect();
    assert_eq!(counted, names, "link counts");
    all
}

async fn bytes_of(src: &dyn NodeSource, volume: &Volume, entry: &Entry, bodies: &Bodies) -> String {
    let EntryBody::File { size, content } = &entry.body else {
        panic!("a file")
    };
    let bytes = match content {
        Content::Local(local) => bodies.files.lock()[&local.node].clone(),
        Content::Tiny(bytes) => Bytes::copy_from_slice(bytes),
        Content::Blob(blob) => src.blob(blob, *size).await.unwrap(),
        Content::Chunks { .. } | Content::Paged { .. } => {
            let mut all = Vec::new();
            for (index, chunk) in (0..).zip(
                tree::chunks(src, content, *size, 0..chunk_count(*size))
                    .await
                    .unwrap(),
            ) {
                let len = chunk_len(index, *size);
                match chunk {
                    ChunkRef::Hole => all.extend(vec![0; len as usize]),
                    ChunkRef::Packed(blob) => all.extend(src.blob(&blob, len).await.unwrap()),
                    ChunkRef::Object { epoch, id } => {
                        all.extend(volume.chunk(epoch, &id, len as u32).await.unwrap());
                    }
                }
            }
            Bytes::from(all)
        }
    };
    assert_eq!(bytes.len() as u64, *size);
    match std::str::from_utf8(&bytes) {
        Ok(text) if text.len() <= 64 => text.to_owned(),
        _ => format!("{}:{}", bytes.len(), crate::format::content_id(&bytes)),
    }
}
