//! Trees of the model as real ones, and back.
//!
//! Equal subtrees are now one node (or piece of memory), now two; parts are stored through the real codec, with
//! parameters so small that there are many nodes. Equal contents lie in different places. So pruning, and all that a
//! merge must not look at, are part of every run.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use futures::executor::block_on;
use parking_lot::Mutex;

use super::super::names::merge_by;
use super::super::{Register, load_xattrs};
use super::model::{ATTRS, Attrs, Dir, FIRST_XATTR, File, Hint, Node as Model, Reg, Report, Tree, join};
use super::random::Random;
use super::{Rules, same};
use crate::format::{Node, Writer, chunks_cid, encode_xattr_map};
use crate::model::{
    self, BlobRef, ChunkRef, Content, DirPage, DirTree, Entry, EntryBody, FileId, Hash, LinkId, LinkInode,
    LinksTree, Name, PackRef, Ptr, Timestamp, Totals, TreeRoot, VolPath, XattrMap, Xattrs, chunk_count,
};
use crate::tree::{
    MemorySource, NodeParams, NodeSource, NodeWriter, TreeError, diff_links, edit_links, entries, recount,
    store,
};

/// Nodes in packs in memory; xattrs out of line beside them.
#[derive(Default)]
pub struct Source {
    pub nodes: MemorySource,
    blobs: Mutex<HashMap<Hash, Bytes>>,
}

#[async_trait]
impl NodeSource for Source {
    fn loaded(&self, ptr: &Ptr) -> Option<Arc<Node>> {
        self.nodes.loaded(ptr)
    }

    async fn node(&self, ptr: &Ptr) -> Result<Arc<Node>, TreeError> {
        self.nodes.node(ptr).await
    }

    async fn blob(&self, blob: &BlobRef, _: u64) -> Result<Bytes, TreeError> {
        Ok(self
            .blobs
            .lock()
            .get(&blob.id)
            .expect("made by this world")
            .clone())
    }
}

/// How often equal things are the same thing, percent.
#[derive(Clone, Copy)]
pub struct Sharing {
    pub shared: usize,
    pub stored: usize,
}

/// Everything that trees of one run are made of.
pub struct World {
    pub src: Source,
    pub random: Random,
    /// Rules to break.
    pub rules: Rules,
    sharing: Sharing,
    dirs: HashMap<Vec<(String, Model)>, DirTree>,
    links: Vec<(Counted, LinksTree)>,
}

fn number(bytes: &[u8]) -> u32 {
    u32::from_le_bytes(bytes[..4].try_into().unwrap())
}

fn hash_of(token: u32) -> Hash {
    let mut hash = [7; 32];
    hash[..4].copy_from_slice(&token.to_le_bytes());
    Hash(hash)
}

pub fn link_id(id: u32) -> LinkId {
    let mut bytes = [9; 16];
    bytes[..4].copy_from_slice(&id.to_le_bytes());
    LinkId(bytes)
}

pub fn vol_path(path: &str) -> VolPath {
    VolPath::parse(path.as_bytes()).unwrap()
}

const XATTRS: [&[u8]; ATTRS - FIRST_XATTR] = [b"user.a", b"user.b"];

impl World {
    pub fn new(seed: u64, sharing: Sharing) -> World {
        World {
            src: Source::default(),
            random: Random::new(seed),
            rules: Rules::default(),
            sharing,
            dirs: HashMap::new(),
            links: Vec::new(),
        }
    }

    // ---- model to real

    pub fn real(&mut self, tree: &Tree) -> TreeRoot {
        let (tree_of, totals) = self.real_dir(&tree.root);
        let root = TreeRoot {
            attrs: self.real_attrs(&tree.root.attrs),
            totals,
            tree: tree_of,
            links: self.real_links(tree),
        };
        if !self.random.chance(self.sharing.stored) {
            return root;
        }
        let params = NodeParams {
            inline_max: 200,
            page_max: 600,
            pack_target: 1 << 20,
        };
        let stored = block_on(store(&self.src, &root, NodeWriter::new(1, params))).expect("storing");
        self.src.nodes.add(stored.packs);
        self.learn(&tree.root, &stored.root.tree);
        self.links.push((counted(tree), stored.root.links.clone()));
        stored.root
    }

    fn real_dir(&mut self, dir: &Dir) -> (DirTree, Totals) {
        let mut page = DirPage::default();
        for (name, node) in &dir.names {
            page.entries
                .push((Name::new(name.as_bytes()).unwrap(), self.real_entry(node)));
        }
        let totals = recount(&page.entries);
        let key: Vec<(String, Model)> = dir.names.clone().into_iter().collect();
        let shared = self.random.chance(self.sharing.shared);
        if let Some(known) = self.dirs.get(&key).filter(|_| shared) {
            return (known.clone(), totals);
        }
        let tree = DirTree::Inline(Arc::new(page));
        self.dirs.insert(key, tree.clone());
        (tree, totals)
    }

    /// Notes the stored forms of what is below a directory.
    fn learn(&mut self, dir: &Dir, tree: &DirTree) {
        for (name, entry) in block_on(entries(&self.src, tree)).expect("stored") {
            let below = dir.names.get(&name.to_string()).and_then(Model::dir);
            if let (Some(below), Some((_, tree))) = (below, entry.as_dir()) {
                self.learn(below, tree);
            }
        }
        self.dirs
            .insert(dir.names.clone().into_iter().collect(), tree.clone());
    }

    fn real_entry(&mut self, node: &Model) -> Entry {
        match node {
            Model::File(file) => self.real_file(file),
            Model::Link(id) => Entry {
                attrs: model::Attrs::default(),
                body: EntryBody::HardLink(link_id(*id)),
            },
            Model::Dir(dir) => {
                let (tree, totals) = self.real_dir(dir);
                Entry {
                    attrs: self.real_attrs(&dir.attrs),
                    body: EntryBody::Dir { totals, tree },
                }
            }
        }
    }

    /// Kinds and forms by the content's number; places at random.
    pub fn real_file(&mut self, file: &File) -> Entry {
        let token = file.content;
        let place = self.random.below(1 << 20) as u64;
        let pack = PackRef {
            epoch: 1 + (place % 5) as u32,
            id: hash_of(place as u32 | 1),
        };
        let body = match token % 4 {
            0 => EntryBody::File {
                size: 4,
                content: Content::Tiny(token.to_le_bytes()[..].into()),
            },
            1 => {
                let blob = BlobRef {
                    pack,
                    offset: place,
                    stored_len: 30,
                    id: hash_of(token),
                };
                EntryBody::File {
                    size: 300 + u64::from(token),
                    content: Content::Blob(blob),
                }
            }
            2 => {
                let size = (5 << 20) + u64::from(token);
                let chunk = ChunkRef::Object {
                    epoch: pack.epoch,
                    id: hash_of(token),
                };
                let chunks: Arc<[ChunkRef]> = vec![chunk; chunk_count(size) as usize].into();
                let cid = chunks_cid(size, 0, &chunks);
                EntryBody::File {
                    size,
                    content: Content::Chunks { tier: 0, chunks, cid },
                }
            }
            _ => EntryBody::CharDev {
                major: token,
                minor: 1,
            },
        };
        Entry {
            attrs: self.real_attrs(&file.attrs),
            body,
        }
    }

    fn real_attrs(&mut self, attrs: &Attrs) -> model::Attrs {
        let mut map = XattrMap::new();
        for (key, token) in XATTRS.iter().zip(&attrs[FIRST_XATTR..]) {
            if *token != 0 {
                map.insert((*key).into(), token.to_le_bytes()[..].into());
            }
        }
        let out_of_line = !map.is_empty() && self.random.chance(30);
        let xattrs = if out_of_line {
            self.out_of_line(&map)
        } else {
            Xattrs::from_map(map)
        };
        // Change times and file ids are noise: no merge may look at them.
        let noise = if self.random.chance(20) {
            self.random.below(1 << 30) as u64
        } else {
            0
        };
        model::Attrs {
            mode: u16::try_from(attrs[0]).unwrap(),
            uid: attrs[1],
            gid: attrs[1] + 1,
            mtime: Timestamp {
                secs: i64::from(attrs[2]),
                nanos: 5,
            },
            ctime: Timestamp {
                secs: noise as i64,
                nanos: 0,
            },
            file_id: FileId(1000 + noise),
            xattrs,
        }
    }

    fn out_of_line(&self, map: &XattrMap) -> Xattrs {
        let mut writer = Writer::new();
        encode_xattr_map(&mut writer, map).unwrap();
        let bytes = writer.into_vec();
        let raw_len = bytes.len() as u32;
        let id = Hash(*blake3::hash(&bytes).as_bytes());
        self.src.blobs.lock().insert(id, bytes.into());
        let pack = PackRef {
            epoch: 1,
            id: hash_of(1),
        };
        Xattrs::OutOfLine {
            blob: Box::new(BlobRef {
                pack,
                offset: 4,
                stored_len: 9,
                id,
            }),
            raw_len,
        }
    }

    /// The links tree, as edits of one that is known.
    fn real_links(&mut self, tree: &Tree) -> LinksTree {
        let should = counted(tree);
        let (was, links) = match self.links.len() {
            0 => Default::default(),
            known => self.links[self.random.below(known)].clone(),
        };
        let mut edits = Vec::new();
        for id in was.keys().filter(|id| !should.contains_key(id)) {
            edits.push((*id, None));
        }
        for (id, (nlink, file)) in &should {
            if was.get(id) != Some(&(*nlink, file.clone())) {
                edits.push((
                    *id,
                    Some(LinkInode {
                        nlink: *nlink,
                        entry: self.real_file(file),
                    }),
                ));
            }
        }
        block_on(edit_links(&self.src, &links, edits)).unwrap()
    }

    // ---- real to model

    /// The tree, after a look at everything that is counted in it.
    pub fn model(&self, root: &TreeRoot) -> Result<Tree, String> {
        let (dir, totals) = self.model_dir(&root.tree)?;
        same("totals of /", &root.totals, &totals)?;
        let mut tree = Tree {
            root: Dir {
                attrs: self.model_attrs(&root.attrs),
                ..dir
            },
            inodes: BTreeMap::new(),
        };
        let mut bytes = 0;
        let inodes = block_on(diff_links(&self.src, &LinksTree::default(), &root.links)).unwrap();
        let mut counts = BTreeMap::new();
        for (id, _, inode) in inodes {
            let inode = inode.expect("only in the second tree");
            if let EntryBody::File { size, .. } = inode.entry.body {
                bytes += size;
            }
            counts.insert(number(&id.0), inode.nlink);
            tree.inodes.insert(number(&id.0), self.model_file(&inode.entry));
        }
        same(
            "inodes of the links tree",
            &root.links.count,
            &(tree.inodes.len() as u64),
        )?;
        same("bytes of the links tree", &root.links.bytes, &bytes)?;
        same("link counts", &counts, &names_of(&tree.root))?;
        Ok(tree)
    }

    fn model_dir(&self, tree: &DirTree) -> Result<(Dir, Totals), String> {
        let all = block_on(entries(&self.src, tree)).map_err(|error| error.to_string())?;
        let mut dir = Dir::default();
        for (name, entry) in &all {
            let node = match &entry.body {
                EntryBody::HardLink(id) => Model::Link(number(&id.0)),
                EntryBody::Dir { totals, tree } => {
                    let (below, recounted) = self.model_dir(tree)?;
                    same(&format!("totals of {name}"), totals, &recounted)?;
                    Model::Dir(Dir {
                        attrs: self.model_attrs(&entry.attrs),
                        ..below
                    })
                }
                _ => Model::File(self.model_file(entry)),
            };
            dir.names.insert(name.to_string(), node);
        }
        if !all.windows(2).all(|pair| pair[0].0 < pair[1].0) {
            return Err("names are not sorted".to_owned());
        }
        Ok((dir, recount(&all)))
    }

    fn model_file(&self, entry: &Entry) -> File {
        let content = match &entry.body {
            EntryBody::File {
                content: Content::Tiny(bytes),
                ..
            } => number(bytes),
            EntryBody::File {
                content: Content::Blob(blob),
                ..
            } => number(&blob.id.0),
            EntryBody::File {
                content: Content::Chunks { chunks, .. },
                ..
            } => number(&chunks[0].id().0),
            EntryBody::CharDev { major, .. } => *major,
            other => panic!("not made by this world: {other:?}"),
        };
        File {
            content,
            attrs: self.model_attrs(&entry.attrs),
        }
    }

    fn model_attrs(&self, attrs: &model::Attrs) -> Attrs {
        let map = block_on(load_xattrs(&self.src, &attrs.xattrs)).unwrap();
        let xattr = |at: usize| map.get(XATTRS[at]).map_or(0, |value| number(value));
        assert_eq!(
            (attrs.gid, attrs.mtime.nanos),
            (attrs.uid + 1, 5),
            "registers are not split"
        );
        [
            u32::from(attrs.mode),
            attrs.uid,
            attrs.mtime.secs as u32,
            xattr(0),
            xattr(1),
        ]
    }

    // ---- the merge

    /// Merges through real trees.
    pub fn merge(&mut self, trees: [&Tree; 3], hints: &[Hint]) -> Result<Outcome, String> {
        let [base, head, mine] = trees.map(|tree| self.real(tree));
        let hints: Vec<_> = hints
            .iter()
            .map(|(from, to)| (vol_path(from), vol_path(to)))
            .collect();
        let merged = block_on(merge_by(&self.src, &base, &head, &mine, &hints, self.rules))
            .map_err(|e| e.to_string())?;
        let text = |path: &VolPath| String::from_utf8(path.to_bytes()).unwrap();
        let used: Vec<Hint> = merged
            .used_hints
            .iter()
            .map(|(from, to)| (text(from), text(to)))
            .collect();
        let mut report = Report::new();
        for found in &merged.overwritten {
            let path = text(&found.path);
            let moved = used
                .iter()
                .filter(|(_, to)| super::model::under(&path, to))
                .max_by_key(|(_, to)| to.len());
            let from = moved
                .map(|(from, to)| format!("{from}{}", &path[to.len()..]))
                .filter(|from| *from != path);
            same("where it came from", &found.came_from.as_ref().map(text), &from)?;
            report.insert((path, reg(&found.register)));
        }
        Ok(Outcome {
            tree: self.model(&merged.root)?,
            report,
            used,
        })
    }
}

/// What a merge gave, in the model's terms.
pub struct Outcome {
    pub tree: Tree,
    pub report: Report,
    pub used: Vec<Hint>,
}

fn reg(register: &Register) -> Reg {
    match register {
        Register::Content => Reg::Content,
        Register::Mode => Reg::Attr(0),
        Register::Owner => Reg::Attr(1),
        Register::Mtime => Reg::Attr(2),
        Register::Xattr(key) => Reg::Attr(
            FIRST_XATTR
                + XATTRS
                    .iter()
                    .position(|known| **known == **key)
                    .expect("a known key"),
        ),
    }
}

/// Names of each link id.
pub fn names_of(dir: &Dir) -> BTreeMap<u32, u64> {
    let mut counts = BTreeMap::new();
    let mut open = vec![dir];
    while let Some(dir) = open.pop() {
        for node in dir.names.values() {
            match node {
                Model::Link(id) => *counts.entry(*id).or_default() += 1,
                Model::Dir(below) => open.push(below),
                Model::File(_) => {}
            }
        }
    }
    counts
}

/// Paths of each link id.
pub fn paths_of(dir: &Dir) -> BTreeMap<u32, Vec<String>> {
    let mut paths: BTreeMap<u32, Vec<String>> = BTreeMap::new();
    let mut open = vec![(String::new(), dir)];
    while let Some((at, dir)) = open.pop() {
        for (name, node) in &dir.names {
            match node {
                Model::Link(id) => paths.entry(*id).or_default().push(join(&at, name)),
                Model::Dir(below) => open.push((join(&at, name), below)),
                Model::File(_) => {}
            }
        }
    }
    paths
}

/// Inodes with their numbers of names.
type Counted = BTreeMap<LinkId, (u64, File)>;

fn counted(tree: &Tree) -> Counted {
    let counts = names_of(&tree.root);
    assert!(
        counts.keys().eq(tree.inodes.keys()),
        "inodes and names of the model belong together"
    );
    tree.inodes
        .iter()
        .map(|(id, file)| (link_id(*id), (counts[id], file.clone())))
        .collect()
}

impl From<Dir> for Tree {
    fn from(root: Dir) -> Tree {
        Tree {
            root,
            inodes: BTreeMap::new(),
        }
    }
}
