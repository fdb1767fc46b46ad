//! Checking a volume: that everything its records refer to is there, and is what it was.
//!
//! 1. Nodes are read and verified in any case: the tree cannot be walked without them, and the rules of `tree::visit`
//!    (totals, counts, link counts, chunk lists) come with the walk.
//! 2. Contents are read and verified whole, object by object, unless a look at the listing has to do. The bytes of a pack
//!    must also have the hash that names it.
//! 3. What was damaged is looked for once more in the trees, to name the paths. So memory grows with the number of
//!    different contents (some 60 bytes each), not with paths.
//! 4. Nothing is written. Objects that nothing refers to are counted: an upload that goes on now has some, too.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use futures::stream::{StreamExt, TryStreamExt};
use tokio::sync::Semaphore;

use super::{Head, LoggedRecord, RemoteSource, Volume, VolumeError, fetch_error, rules};
use crate::format::{
    Key, PACK_TRAILER_BYTES, chunk_header_len, content_id, decode_blob, decode_chunk, pack_footer_range,
    parse_pack_footer, volume_prefix,
};
use crate::model::{
    BlobRef, ChunkRef, DirTree, Entry, EntryBody, Epoch, Hash, LinkId, PackRef, Ptr, Seq, TreeRoot,
};
use crate::store::LIST_LIMIT_MAX;
use crate::tree::{self, Item, Place, TreeError, Visit, Visitor};

/// Bytes of objects in memory, MiB; the plain bytes of as many come on top.
const BUDGET_MIB: u64 = 192;
/// Objects that are checked at the same time.
const OBJECTS_AT_ONCE: usize = 16;
/// Records that are read at the same time.
const RECORDS_AT_ONCE: usize = 16;
/// Pieces of damage that are described; all are counted.
const DAMAGE_MAX: usize = 10_000;
/// Paths that are named for one piece of damage.
const PATHS_MAX: usize = 20;

/// What is checked.
#[derive(Clone, Copy, Debug, Default)]
pub struct FsckOptions {
    /// Contents by a look at the listing only: there, and long enough.
    pub quick: bool,
    /// The trees of all records that are kept, not of the newest only.
    pub all_records: bool,
}

/// How far it is.
#[derive(Clone, Copy, Debug, Default)]
pub struct FsckProgress {
    /// `records`, `names`, `listing`, `contents`, `paths`.
    pub stage: &'static str,
    /// Things done in this stage, and in all if known.
    pub done: u64,
    /// See `done`.
    pub total: u64,
    /// Bytes read of contents.
    pub bytes: u64,
}

/// Something that is not as it must be.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Damage {
    /// Key of the object, or what else is wrong.
    pub object: String,
    /// What is wrong with it.
    pub rule: String,
    /// Paths that are concerned, the first of them; of a directory, everything below it.
    pub paths: Vec<String>,
    /// Further paths.
    pub more_paths: u64,
}

/// What was found.
#[derive(Clone, Debug, Default)]
pub struct FsckReport {
    /// Records whose place in the chain was checked.
    pub records: u64,
    /// Records whose tree was checked.
    pub trees: u64,
    /// Entries that are no directories; each tree counts.
    pub files: u64,
    /// Directories.
    pub dirs: u64,
    /// Nodes that were read.
    pub nodes: u64,
    /// Packs that are referred to.
    pub packs: u64,
    /// Different contents in packs.
    pub blobs: u64,
    /// Chunk objects.
    pub chunks: u64,
    /// Bytes of objects that were read whole.
    pub bytes_read: u64,
    /// Chunks and packs that no checked record refers to.
    pub unreferenced: u64,
    /// Their bytes.
    pub unreferenced_bytes: u64,
    /// What is wrong; at most [`DAMAGE_MAX`] of `damaged`.
    pub damage: Vec<Damage>,
    /// How much is wrong.
    pub damaged: u64,
}

impl FsckReport {
    /// Notes damage; gives its place in the list, if there is still room.
    fn add(&mut self, object: String, rule: String, path: Option<String>) -> Option<usize> {
        // What is met again is met soon: the same node under another name.
        let is_known = |d: &Damage| d.object == object && d.rule == rule;
        let first = self.damage.len().saturating_sub(64);
        if let Some(path) = &path
            && let Some(at) = self.damage[first..].iter().position(is_known)
        {
            self.damage[first + at].name(path.clone());
            return Some(first + at);
        }
        self.damaged += 1;
        if self.damage.len() >= DAMAGE_MAX {
            return None;
        }
        self.damage.push(Damage {
            object,
            rule,
            paths: path.into_iter().collect(),
            more_paths: 0,
        });
        Some(self.damage.len() - 1)
    }
}

impl Damage {
    fn name(&mut self, path: String) {
        if self.paths.contains(&path) {
            return;
        }
        if self.paths.len() < PATHS_MAX {
            self.paths.push(path);
        } else {
            self.more_paths += 1;
        }
    }
}

/// What the trees refer to.
#[derive(Debug, Default)]
struct Referred {
    packs: HashMap<PackRef, Pack>,
    chunks: HashMap<(Epoch, Hash), Chunk>,
    nodes: HashSet<(PackRef, Hash)>,
}

#[derive(Debug, Default)]
struct Pack {
    /// Contents, by offset: length as stored, plain length, id.
    blobs: BTreeMap<u64, (u32, u64, Hash)>,
    /// The last byte that is referred to, and 1.
    end: u64,
    /// Its length in the listing.
    listed: Option<u64>,
}

#[derive(Debug)]
struct Chunk {
    raw_len: u32,
    listed: Option<u64>,
}

/// A content that is damaged, as trees name it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
enum Content {
    Chunk(Epoch, Hash),
    Blob(PackRef, u64),
}

impl Referred {
    fn pack(&mut self, pack: PackRef, offset: u64, len: u32) -> &mut Pack {
        let known = self.packs.entry(pack).or_default();
        known.end = known.end.max(offset.saturating_add(len.into()));
        known
    }

    fn node(&mut self, ptr: &Ptr) -> bool {
        self.pack(ptr.pack, ptr.offset, ptr.stored_len);
        self.nodes.insert((ptr.pack, ptr.hash))
    }

    fn blob(&mut self, blob: &BlobRef, raw_len: u64) {
        let what = (blob.stored_len, raw_len, blob.id);
        self.pack(blob.pack, blob.offset, blob.stored_len)
            .blobs
            .insert(blob.offset, what);
    }

    fn chunk(&mut self, chunk: &ChunkRef, raw_len: u64) {
        match chunk {
            ChunkRef::Hole => {}
            ChunkRef::Packed(blob) => self.blob(blob, raw_len),
            ChunkRef::Object { epoch, id } => {
                // A chunk is at most 64 MiB.
                let raw_len = u32::try_from(raw_len).unwrap_or(u32::MAX);
                self.chunks.entry((*epoch, *id)).or_insert(Chunk {
                    raw_len,
                    listed: None,
                });
            }
        }
    }
}

/// Notes everything that one tree refers to.
struct Collector<'a> {
    referred: &'a mut Referred,
    report: &'a mut FsckReport,
    progress: &'a (dyn Fn(FsckProgress) + Sync),
    /// Nodes of other trees are not gone through again.
    again: bool,
    stopped: Option<TreeError>,
}

impl Visitor for Collector<'_> {
    fn item(&mut self, place: Place<'_>, item: Item<'_>) -> Visit {
        match item {
            Item::Node(ptr) => {
                let new = self.referred.node(ptr);
                self.report.nodes += u64::from(new);
                if !new && !self.again {
                    return Visit::Skip;
                }
            }
            // An inode was counted by its names.
            Item::Entry(_) if matches!(place, Place::Inode(_)) => {}
            Item::Entry(entry) => {
                match entry.is_dir() {
                    true => self.report.dirs += 1,
                    false => self.report.files += 1,
                }
                let done = self.report.dirs + self.report.files;
                if done.is_multiple_of(1024) {
                    (self.progress)(FsckProgress {
                        stage: "names",
                        done,
                        ..FsckProgress::default()
                    });
                }
            }
            Item::Chunk(chunk, len) => self.referred.chunk(chunk, len),
            Item::Xattrs(blob, len) => self.referred.blob(blob, len),
        }
        Visit::Enter
    }

    fn trouble(&mut self, place: Place<'_>, error: TreeError) -> Visit {
        let (object, rule) = match error {
            TreeError::Damaged { object, rule } => (object, rule),
            TreeError::Expired { object } => (object, "is missing".to_owned()),
            TreeError::Limit { what, limit } => (place.to_string(), format!("{what}: over {limit}")),
            error @ (TreeError::Unreachable { .. } | TreeError::Denied { .. } | TreeError::Local { .. }) => {
                self.stopped = Some(error);
                return Visit::Stop;
            }
        };
        self.report.add(object, rule, Some(place.to_string()));
        Visit::Skip
    }
}

/// Finds the paths of damaged contents.
struct Namer<'a> {
    wanted: &'a HashMap<Content, usize>,
    damage: &'a mut Vec<Damage>,
    /// Inodes with several names that are concerned, and by which piece of damage.
    inodes: HashMap<LinkId, HashSet<usize>>,
    /// The names of inodes are looked for, not contents.
    second: bool,
}

impl Namer<'_> {
    fn found(&mut self, place: Place<'_>, content: Content) {
        let Some(index) = self.wanted.get(&content).copied() else {
            return;
        };
        match place {
            Place::Inode(id) => {
                self.inodes.entry(*id).or_default().insert(index);
            }
            place => self.name(index, place),
        }
    }

    fn name(&mut self, index: usize, place: Place<'_>) {
        if let Some(damage) = self.damage.get_mut(index) {
            damage.name(place.to_string());
        }
    }
}

impl Visitor for Namer<'_> {
    fn item(&mut self, place: Place<'_>, item: Item<'_>) -> Visit {
        match item {
            Item::Entry(Entry {
                body: EntryBody::HardLink(id),
                ..
            }) if self.second => {
                for index in self.inodes.get(id).cloned().unwrap_or_default() {
                    self.name(index, place);
                }
            }
            Item::Chunk(ChunkRef::Object { epoch, id }, _) if !self.second => {
                self.found(place, Content::Chunk(*epoch, *id));
            }
            Item::Chunk(ChunkRef::Packed(blob), _) | Item::Xattrs(blob, _) if !self.second => {
                self.found(place, Content::Blob(blob.pack, blob.offset));
            }
            _ => {}
        }
        Visit::Enter
    }

    fn trouble(&mut self, _place: Place<'_>, _error: TreeError) -> Visit {
        // Told by the first walk.
        Visit::Skip
    }
}

impl Volume {
    /// Checks the volume. `head` is the newest record.
    ///
    /// # Errors
    /// The store does not answer, or does not let us; damage is no error but the result.
    pub async fn fsck(
        &self,
        head: &Head,
        options: FsckOptions,
        progress: &(dyn Fn(FsckProgress) + Sync),
    ) -> Result<FsckReport, VolumeError> {
        let mut report = FsckReport::default();
        let seqs = self.check_log(head, options, &mut report, progress).await?;
        let nodes = RemoteSource::new(self.clone());
        let mut referred = Referred::default();
        for seq in &seqs {
            let Some(record) = self.tree_record(head, *seq).await? else {
                continue;
            };
            report.trees += 1;
            self.check_trees(&nodes, &record, &mut referred, &mut report, progress)
                .await?;
        }
        self.check_listing(&mut referred, &mut report, progress).await?;
        report.packs = referred.packs.len() as u64;
        report.chunks = referred.chunks.len() as u64;
        report.blobs = referred.packs.values().map(|pack| pack.blobs.len() as u64).sum();
        let mut damaged = HashMap::new();
        self.check_contents(referred, options, &mut report, &mut damaged, progress)
            .await?;
        let links = Place::Links.to_string();
        let lost_links = report.damage.iter().any(|damage| damage.paths.contains(&links));
        if !damaged.is_empty() || lost_links {
            progress(FsckProgress {
                stage: "paths",
                ..FsckProgress::default()
            });
            for seq in &seqs {
                let Some(record) = self.tree_record(head, *seq).await? else {
                    continue;
                };
                let root = &record.record.root.root;
                self.name_paths(&nodes, root, &damaged, &mut report).await;
                if lost_links {
                    name_lost(&nodes, root, &links, &mut report).await;
                }
            }
        }
        Ok(report)
    }

    async fn tree_record(&self, head: &Head, seq: Seq) -> Result<Option<LoggedRecord>, VolumeError> {
        if seq == head.seq() {
            return Ok(Some(head.newest.clone()));
        }
        match self.fetch_record(seq).await {
            Ok(found) => Ok(found.map(|(record, _)| record)),
            // Told when the log was checked.
            Err(VolumeError::Damaged { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// The chain of records by their hashes, or for a quick look that they are there; says which trees to check.
    async fn check_log(
        &self,
        head: &Head,
        options: FsckOptions,
        report: &mut FsckReport,
        progress: &(dyn Fn(FsckProgress) + Sync),
    ) -> Result<Vec<Seq>, VolumeError> {
        let gc = &head.record().gc;
        let kept = (0..head.seq()).rev().filter(|seq| rules::is_protected(gc, *seq));
        let mut trees = vec![head.seq()];
        report.records = 1;
        let total = head.seq() + 1;
        let mut newer: Option<(Seq, Option<Hash>)> = Some((head.seq(), head.record().parent));
        let reads = kept.map(|seq| async move {
            let key = Key::Record(self.id(), seq).to_string();
            let found = match options.quick && !options.all_records {
                true => Ok(self.store().head(&key).await?.map(|_| None)),
                false => self
                    .fetch_record(seq)
                    .await
                    .map(|found| found.map(|(record, _)| Some(record))),
            };
            Ok::<_, VolumeError>((seq, key, found))
        });
        let mut reads = futures::stream::iter(reads).buffered(RECORDS_AT_ONCE);
        while let Some((seq, key, found)) = reads.try_next().await? {
            report.records += 1;
            progress(FsckProgress {
                stage: "records",
                done: report.records,
                total,
                bytes: 0,
            });
            let parent_wanted = newer
                .take()
                .filter(|(after, _)| *after == seq + 1)
                .and_then(|(_, parent)| parent);
            match found {
                Ok(Some(Some(record))) => {
                    if parent_wanted.is_some_and(|wanted| wanted != record.hash) {
                        let rule = format!("is not the record that record {} follows", seq + 1);
                        report.add(key, rule, None);
                        continue;
                    }
                    newer = Some((seq, record.record.parent));
                    if options.all_records {
                        trees.push(seq);
                    }
                }
                Ok(Some(None)) => {}
                Ok(None) => {
                    report.add(key, "a record that is to be kept is missing".to_owned(), None);
                }
                Err(VolumeError::Damaged { rule, .. }) => {
                    report.add(key, rule, None);
                }
                Err(error) => return Err(error),
            }
        }
        Ok(trees)
    }

    async fn check_trees(
        &self,
        nodes: &RemoteSource,
        record: &LoggedRecord,
        referred: &mut Referred,
        report: &mut FsckReport,
        progress: &(dyn Fn(FsckProgress) + Sync),
    ) -> Result<(), VolumeError> {
        let root = &record.record.root;
        let again = report.trees == 1;
        let mut collector = Collector {
            referred,
            report,
            progress,
            again,
            stopped: None,
        };
        if !tree::visit(nodes, &root.root, &mut collector).await
            && let Some(error) = collector.stopped
        {
            return Err(stopped(error));
        }
        for (what, stored) in [("checkpoints", root.refs), ("history", root.history)] {
            let Some((ptr, index)) = stored else { continue };
            if !referred.node(&ptr) {
                continue;
            }
            // Small trees of symlinks; what they name is not theirs.
            match tree::count(nodes, &DirTree::Stored { ptr, index }).await {
                Ok(_) => {}
                Err(TreeError::Damaged { object, rule }) => {
                    report.add(object, rule, Some(what.to_owned()));
                }
                Err(TreeError::Expired { object }) => {
                    report.add(object, "is missing".to_owned(), Some(what.to_owned()));
                }
                Err(error) => return Err(stopped(error)),
            }
        }
        Ok(())
    }

    /// Which objects there are.
    async fn check_listing(
        &self,
        referred: &mut Referred,
        report: &mut FsckReport,
        progress: &(dyn Fn(FsckProgress) + Sync),
    ) -> Result<(), VolumeError> {
        let mut done = 0;
        for part in ["d/", "p/"] {
            let prefix = format!("{}{part}", volume_prefix(&self.id()));
            let mut after: Option<String> = None;
            loop {
                let page = self
                    .store()
                    .list(&prefix, after.as_deref(), LIST_LIMIT_MAX)
                    .await?;
                for object in &page.objects {
                    let known = match Key::parse(&object.key) {
                        Some(Key::Pack(_, pack)) => {
                            referred.packs.get_mut(&pack).map(|pack| &mut pack.listed)
                        }
                        Some(Key::Chunk(_, epoch, id)) => referred
                            .chunks
                            .get_mut(&(epoch, id))
                            .map(|chunk| &mut chunk.listed),
                        _ => None,
                    };
                    match known {
                        Some(listed) => *listed = Some(object.len),
                        None => {
                            report.unreferenced += 1;
                            report.unreferenced_bytes += object.len;
                        }
                    }
                }
                done += page.objects.len() as u64;
                progress(FsckProgress {
                    stage: "listing",
                    done,
                    ..FsckProgress::default()
                });
                after = page.objects.last().map(|object| object.key.clone());
                if !page.truncated || after.is_none() {
                    break;
                }
            }
        }
        Ok(())
    }

    async fn check_contents(
        &self,
        referred: Referred,
        options: FsckOptions,
        report: &mut FsckReport,
        damaged: &mut HashMap<Content, usize>,
        progress: &(dyn Fn(FsckProgress) + Sync),
    ) -> Result<(), VolumeError> {
        let budget = Arc::new(Semaphore::new(BUDGET_MIB as usize));
        let Referred { packs, chunks, .. } = referred;
        let total = (packs.len() + chunks.len()) as u64;
        let packs = packs.into_iter().map(|(pack, what)| Object::Pack(pack, what));
        let chunks = chunks
            .into_iter()
            .map(|((epoch, id), what)| Object::Chunk(epoch, id, what));
        let mut checks = futures::stream::iter(packs.chain(chunks))
            .map(|object| self.check_object(object, options.quick, &budget))
            .buffer_unordered(OBJECTS_AT_ONCE);
        let mut done = 0;
        while let Some(Checked { key, read, faults }) = checks.try_next().await? {
            done += 1;
            report.bytes_read += read;
            progress(FsckProgress {
                stage: "contents",
                done,
                total,
                bytes: report.bytes_read,
            });
            for (rule, contents) in faults {
                if let Some(at) = report.add(key.clone(), rule, None) {
                    damaged.extend(contents.into_iter().map(|content| (content, at)));
                }
            }
        }
        Ok(())
    }

    async fn check_object(
        &self,
        object: Object,
        quick: bool,
        budget: &Semaphore,
    ) -> Result<Checked, VolumeError> {
        let (key, listed) = match &object {
            Object::Pack(pack, what) => (Key::Pack(self.id(), *pack), what.listed),
            Object::Chunk(epoch, id, what) => (Key::Chunk(self.id(), *epoch, *id), what.listed),
        };
        let key = key.to_string();
        let all = |rule: String| Checked {
            key: key.clone(),
            read: 0,
            faults: vec![(rule, object.contents())],
        };
        let Some(len) = listed else {
            return Ok(all("is missing".to_owned()));
        };
        if let Some(rule) = object.wrong_len(len) {
            return Ok(all(rule));
        }
        if quick {
            return Ok(Checked {
                key,
                read: 0,
                faults: Vec::new(),
            });
        }
        let mib = u32::try_from(len.div_ceil(1 << 20).clamp(1, BUDGET_MIB)).unwrap_or(1);
        let permit = budget.acquire_many(mib).await;
        let bytes = match self.store().get(&key, None).await.map_err(fetch_error) {
            Ok(fetched) => fetched.bytes,
            Err(TreeError::Expired { .. }) => return Ok(all("is missing".to_owned())),
            Err(TreeError::Damaged { rule, .. }) => return Ok(all(rule)),
            Err(error) => return Err(stopped(error)),
        };
        let read = bytes.len() as u64;
        let told = key.clone();
        let checked = tokio::task::spawn_blocking(move || object.faults(&bytes, &told)).await;
        drop(permit);
        let failed = |e: tokio::task::JoinError| {
            stopped(TreeError::Unreachable {
                reason: e.to_string(),
            })
        };
        Ok(Checked {
            key,
            read,
            faults: checked.map_err(failed)?,
        })
    }

    async fn name_paths(
        &self,
        nodes: &RemoteSource,
        root: &TreeRoot,
        damaged: &HashMap<Content, usize>,
        report: &mut FsckReport,
    ) {
        let damage = &mut report.damage;
        let mut namer = Namer {
            wanted: damaged,
            damage,
            inodes: HashMap::new(),
            second: false,
        };
        tree::visit(nodes, root, &mut namer).await;
        if !namer.inodes.is_empty() {
            namer.second = true;
            tree::visit(nodes, root, &mut namer).await;
        }
    }
}

/// Names the files whose inodes cannot be read, for damage that was met in the links tree.
async fn name_lost(nodes: &RemoteSource, root: &TreeRoot, links: &String, report: &mut FsckReport) {
    let mut names = LinkNames::default();
    tree::visit(nodes, root, &mut names).await;
    let mut lost = Vec::new();
    for (id, paths) in names.found {
        if let Err(TreeError::Damaged { .. } | TreeError::Expired { .. }) =
            tree::link(nodes, &root.links, &id).await
        {
            lost.extend(paths);
        }
    }
    lost.sort_unstable();
    let concerned = report
        .damage
        .iter_mut()
        .filter(|damage| damage.paths.contains(links));
    for damage in concerned {
        lost.iter().for_each(|path| damage.name(path.clone()));
    }
}

/// Collects the names of inodes with several, [`DAMAGE_MAX`] at most.
#[derive(Default)]
struct LinkNames {
    found: BTreeMap<LinkId, Vec<String>>,
    count: usize,
}

impl Visitor for LinkNames {
    fn item(&mut self, place: Place<'_>, item: Item<'_>) -> Visit {
        if let Item::Entry(entry) = item
            && let EntryBody::HardLink(id) = &entry.body
        {
            if self.count >= DAMAGE_MAX {
                return Visit::Stop;
            }
            self.count += 1;
            self.found.entry(*id).or_default().push(place.to_string());
        }
        Visit::Enter
    }

    fn trouble(&mut self, _place: Place<'_>, _error: TreeError) -> Visit {
        // Told by the first walk.
        Visit::Skip
    }
}

/// An object, and what is expected of it.
enum Object {
    Pack(PackRef, Pack),
    Chunk(Epoch, Hash, Chunk),
}

/// What is wrong, and which contents are concerned.
type Fault = (String, Vec<Content>);

struct Checked {
    key: String,
    read: u64,
    faults: Vec<Fault>,
}

impl Object {
    fn contents(&self) -> Vec<Content> {
        match self {
            Object::Pack(pack, what) => what
                .blobs
                .keys()
                .map(|offset| Content::Blob(*pack, *offset))
                .collect(),
            Object::Chunk(epoch, id, _) => vec![Content::Chunk(*epoch, *id)],
        }
    }

    /// A length that cannot be right.
    fn wrong_len(&self, len: u64) -> Option<String> {
        match self {
            Object::Pack(_, what) if len < what.end.saturating_add(PACK_TRAILER_BYTES) => {
                Some(format!("has {len} bytes, but byte {} is referred to", what.end))
            }
            Object::Chunk(_, _, what) if len <= chunk_header_len(what.raw_len).into() => {
                Some(format!("has only {len} bytes"))
            }
            _ => None,
        }
    }

    fn faults(&self, bytes: &[u8], key: &str) -> Vec<Fault> {
        match self {
            Object::Chunk(_, id, what) => match decode_chunk(bytes, what.raw_len, id, key) {
                Ok(_) => Vec::new(),
                Err(corrupt) => vec![(corrupt.rule.to_string(), self.contents())],
            },
            Object::Pack(pack, what) => {
                let mut faults = Vec::new();
                for (offset, (stored_len, raw_len, id)) in &what.blobs {
                    let start = usize::try_from(*offset).unwrap_or(usize::MAX);
                    let stored = start
                        .checked_add(*stored_len as usize)
                        .and_then(|end| bytes.get(start..end));
                    let rule = match stored.map(|stored| decode_blob(stored, *raw_len, id, key)) {
                        Some(Ok(_)) => continue,
                        Some(Err(corrupt)) => corrupt.rule.to_string(),
                        None => "the pack ends before it".to_owned(),
                    };
                    faults.push((
                        format!("content at byte {offset}: {rule}"),
                        vec![Content::Blob(*pack, *offset)],
                    ));
                }
                if content_id(bytes) != pack.id {
                    let rule = "its bytes do not have the hash that names it".to_owned();
                    faults.push((rule, Vec::new()));
                } else if let Err(rule) = check_footer(bytes, key) {
                    faults.push((rule, Vec::new()));
                }
                faults
            }
        }
    }
}

fn check_footer(bytes: &[u8], key: &str) -> Result<(), String> {
    let len = bytes.len() as u64;
    let trailer = bytes
        .len()
        .saturating_sub(usize::try_from(PACK_TRAILER_BYTES).unwrap_or(0));
    let range = pack_footer_range(&bytes[trailer..], len, key).map_err(|e| e.rule.to_string())?;
    let (start, end) = (usize::try_from(range.start), usize::try_from(range.end));
    let footer = start
        .ok()
        .zip(end.ok())
        .and_then(|(start, end)| bytes.get(start..end));
    let footer = footer.ok_or("its footer is not in it")?;
    parse_pack_footer(footer, len, key)
        .map(drop)
        .map_err(|e| e.rule.to_string())
}

/// An error that ends the check.
fn stopped(error: TreeError) -> VolumeError {
    use crate::store::StoreError;
    match error {
        TreeError::Denied { reason } => StoreError::Denied { reason }.into(),
        TreeError::Damaged { object, rule } => VolumeError::Damaged { object, rule },
        other => StoreError::Unreachable {
            reason: other.to_string(),
        }
        .into(),
    }
}
