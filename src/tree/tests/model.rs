//! A tree of plain maps, random changes of it, and the comparison with a stored tree.

use std::collections::BTreeMap;
use std::sync::Arc;

use futures::future::BoxFuture;

use crate::format::{Node, SuperNode, content_id, dir_body_len, encode_super, nesting};
use crate::model::*;
use crate::tree::*;

/// xorshift64*: enough for tests, and a failing seed replays anywhere.
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Random {
        Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub fn below(&mut self, end: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) % end
    }

    pub fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }
}

/// A directory of the model. Entries of directories have an empty tree; what they hold is in `dirs`.
#[derive(Clone, Debug, Default)]
pub struct ModelDir {
    pub entries: BTreeMap<Name, Entry>,
    pub dirs: BTreeMap<Name, ModelDir>,
}

impl ModelDir {
    pub fn at(&self, path: &VolPath) -> &ModelDir {
        path.0.iter().fold(self, |dir, name| &dir.dirs[name])
    }

    pub fn at_mut(&mut self, path: &VolPath) -> &mut ModelDir {
        path.0
            .iter()
            .fold(self, |dir, name| dir.dirs.get_mut(name).unwrap())
    }

    pub fn set(&mut self, name: Name, entry: Option<Entry>, below: Option<ModelDir>) {
        self.dirs.remove(&name);
        match entry {
            None => {
                self.entries.remove(&name);
            }
            Some(entry) => {
                if entry.is_dir() {
                    self.dirs.insert(name.clone(), below.unwrap_or_default());
                }
                self.entries.insert(name, entry);
            }
        }
    }

    /// The tree with all of it in memory, its totals counted.
    pub fn tree(&self) -> (DirTree, Totals) {
        let mut entries = Vec::new();
        for (name, entry) in &self.entries {
            let mut entry = entry.clone();
            if let EntryBody::Dir { totals, tree } = &mut entry.body {
                (*tree, *totals) = self.dirs[name].tree();
            }
            entries.push((name.clone(), entry));
        }
        let totals = recount(&entries);
        (DirTree::Inline(Arc::new(DirPage { entries })), totals)
    }

    pub fn random_dir(&self, random: &mut Random) -> VolPath {
        let mut path = VolPath::root();
        let mut dir = self;
        while !dir.dirs.is_empty() && !random.one_in(3) {
            let at = random.below(dir.dirs.len() as u64) as usize;
            let (name, below) = dir.dirs.iter().nth(at).unwrap();
            path = path.join(name);
            dir = below;
        }
        path
    }
}

pub fn name(text: &str) -> Name {
    Name::new(text.as_bytes()).unwrap()
}

pub fn attrs(random: &mut Random) -> Attrs {
    let mut map = XattrMap::new();
    if random.one_in(10) {
        map.insert(
            Box::from(&b"user.k"[..]),
            vec![b'v'; random.below(40) as usize].into(),
        );
    }
    if random.one_in(200) {
        map.insert(
            Box::from(&b"user.large"[..]),
            vec![random.below(250) as u8; 1500].into(),
        );
    }
    let mtime = Timestamp {
        secs: 1_700_000_000 + random.below(10_000_000) as i64,
        nanos: random.below(1000) as u32,
    };
    Attrs {
        mode: 0o644,
        uid: 1000,
        gid: random.below(3) as u32,
        mtime,
        ctime: mtime,
        file_id: FileId(1 << 40 | random.below(1 << 30)),
        xattrs: Xattrs::from_map(map),
    }
}

/// A file whose bytes are in some pack that nobody reads here.
pub fn blob_file(random: &mut Random) -> Entry {
    let id = content_id(&random.below(u64::MAX).to_le_bytes());
    let pack = PackRef {
        epoch: 1,
        id: content_id(b"data"),
    };
    let blob = BlobRef {
        pack,
        offset: random.below(1 << 20),
        stored_len: 300,
        id,
    };
    Entry {
        attrs: attrs(random),
        body: EntryBody::File {
            size: 300 + random.below(1000),
            content: Content::Blob(blob),
        },
    }
}

pub fn random_entry(random: &mut Random) -> Entry {
    let body = match random.below(20) {
        0 => EntryBody::Symlink {
            target: Arc::from(&b"../some/target"[..]),
        },
        1 => EntryBody::Fifo,
        2 => EntryBody::CharDev {
            major: 1,
            minor: random.below(1000) as u32,
        },
        3 => EntryBody::HardLink(LinkId([random.below(200) as u8; 16])),
        4..=7 => {
            let bytes: Arc<[u8]> = vec![b't'; random.below(60) as usize].into();
            EntryBody::File {
                size: bytes.len() as u64,
                content: Content::Tiny(bytes),
            }
        }
        8..=10 => EntryBody::Dir {
            totals: Totals::default(),
            tree: DirTree::empty(),
        },
        _ => return blob_file(random),
    };
    Entry {
        attrs: attrs(random),
        body,
    }
}

/// Replaces entries of the directory at `path`, and the directories above it.
pub async fn change(
    src: &dyn NodeSource,
    root: &TreeRoot,
    path: &VolPath,
    changes: Vec<(Name, Option<Entry>)>,
) -> TreeRoot {
    let mut above = vec![root.as_entry()];
    for name in &path.0 {
        let (_, tree) = above.last().unwrap().as_dir().unwrap();
        above.push(lookup(src, tree, name.as_bytes()).await.unwrap().unwrap());
    }
    let mut changes = changes;
    for depth in (0..above.len()).rev() {
        let mut entry = above[depth].clone();
        let EntryBody::Dir { totals, tree } = &mut entry.body else {
            panic!("not a directory")
        };
        (*tree, *totals) = edit_dir_entry(src, tree, totals, changes).await.unwrap();
        if depth == 0 {
            let (totals, tree) = entry.as_dir().unwrap();
            return TreeRoot {
                totals: *totals,
                tree: tree.clone(),
                ..root.clone()
            };
        }
        changes = vec![(path.0[depth - 1].clone(), Some(entry))];
    }
    unreachable!()
}

pub fn empty_root() -> TreeRoot {
    TreeRoot {
        attrs: Attrs {
            mode: 0o755,
            ..Attrs::default()
        },
        totals: Totals::default(),
        tree: DirTree::empty(),
        links: LinksTree::default(),
    }
}

/// Stores a tree and makes its packs readable.
pub async fn stored(src: &MemorySource, root: &TreeRoot, writer: NodeWriter) -> (TreeRoot, WriterStats) {
    let stored = store(src, root, writer).await.unwrap();
    src.add(stored.packs);
    (stored.root, stored.stats)
}

/// The stored tree is the model's, its totals are right, and every node is within its bounds.
pub async fn assert_equal(src: &dyn NodeSource, root: &TreeRoot, model: &ModelDir, params: &NodeParams) {
    let totals = check_dir(src, &VolPath::root(), &root.tree, model, params, true).await;
    assert_eq!(root.totals, totals, "totals of /");
    let node = SuperNode {
        root: root.clone(),
        refs: None,
        history: None,
    };
    let encoded = encode_super(&node, true).unwrap();
    assert!(
        encoded.raw_len as usize <= 2 * params.page_max + 4096,
        "super node of {} bytes",
        encoded.raw_len
    );
}

fn check_dir<'a>(
    src: &'a dyn NodeSource,
    path: &'a VolPath,
    tree: &'a DirTree,
    model: &'a ModelDir,
    params: &'a NodeParams,
    is_root: bool,
) -> BoxFuture<'a, Totals> {
    Box::pin(async move {
        match tree {
            DirTree::Inline(page) => {
                let max = if is_root {
                    params.page_max
                } else {
                    params.inline_max
                };
                assert!(
                    dir_body_len(page) <= max,
                    "{path}: inlined with {} bytes",
                    dir_body_len(page)
                );
                assert!(nesting(page) <= 33, "{path}: nesting {}", nesting(page));
            }
            DirTree::Stored { ptr, .. } => check_node(src, path, ptr, tree, params).await,
            DirTree::Pages(_) => panic!("{path}: not stored"),
        }
        let got = entries(src, tree).await.unwrap();
        assert_eq!(got.len() as u64, count(src, tree).await.unwrap(), "{path}: count");
        let names: Vec<&Name> = got.iter().map(|(name, _)| name).collect();
        assert_eq!(names, model.entries.keys().collect::<Vec<_>>(), "{path}: names");
        for (name, entry) in &got {
            let want = &model.entries[name];
            let here = path.join(name);
            assert_eq!(entry.kind(), want.kind(), "{here}: kind");
            match &entry.body {
                EntryBody::Dir { totals, tree } => {
                    assert!(same_attrs(&entry.attrs, &want.attrs), "{here}: attributes");
                    let counted = check_dir(src, &here, tree, &model.dirs[name], params, false).await;
                    assert_eq!(*totals, counted, "{here}: totals");
                }
                _ => assert!(same_entry(entry, want), "{here}: {entry:?} is not {want:?}"),
            }
            let found = lookup(src, tree, name.as_bytes()).await.unwrap();
            assert!(
                found.is_some_and(|found| same_entry(&found, entry)),
                "{here}: lookup"
            );
        }
        recount(&got)
    })
}

async fn check_node(src: &dyn NodeSource, path: &VolPath, ptr: &Ptr, tree: &DirTree, params: &NodeParams) {
    let mut level = vec![(*ptr, u8::MAX)];
    let mut leaves = 0;
    let mut smallest = usize::MAX;
    while let Some((ptr, below)) = level.pop() {
        // Tables of a page with contents in many packs come on top of the measured bytes.
        assert!(
            ptr.raw_len as usize <= 2 * params.page_max,
            "{path}: a node of {} bytes",
            ptr.raw_len
        );
        match &*src.node(&ptr).await.unwrap() {
            Node::Dir(page) => {
                leaves += 1;
                smallest = smallest.min(dir_body_len(page));
                assert!(
                    dir_body_len(page) <= params.page_max,
                    "{path}: a page of {} bytes",
                    dir_body_len(page)
                );
                assert!(!page.entries.is_empty(), "{path}: an empty page");
                assert!(nesting(page) <= 33);
            }
            Node::Index(index) => {
                assert!(index.level < below);
                level.extend(index.slots.iter().map(|slot| (slot.ptr, index.level)));
            }
            other => panic!("{path}: {other:?}"),
        }
    }
    assert!(
        leaves == 1 || smallest >= params.page_max / 8,
        "{path}: a page of {smallest} bytes"
    );
    assert_eq!(
        leaves > 1,
        matches!(tree, DirTree::Stored { index: true, .. }),
        "{path}: {leaves} leaves"
    );
}

/// What a visit shows.
#[derive(Debug, Default)]
pub struct Found {
    pub nodes: u64,
    pub entries: u64,
    pub chunks: u64,
    pub trouble: Vec<String>,
}

impl Found {
    pub async fn of(src: &dyn NodeSource, root: &TreeRoot) -> Found {
        let mut found = Found::default();
        assert!(visit(src, root, &mut found).await);
        found
    }
}

impl Visitor for Found {
    fn item(&mut self, _: Place<'_>, item: Item<'_>) -> Visit {
        match item {
            Item::Node(_) => self.nodes += 1,
            Item::Entry(_) => self.entries += 1,
            Item::Chunk(..) => self.chunks += 1,
            Item::Xattrs(..) => {}
        }
        Visit::Enter
    }

    fn trouble(&mut self, place: Place<'_>, error: TreeError) -> Visit {
        self.trouble.push(format!("{place}: {error}"));
        Visit::Enter
    }
}
