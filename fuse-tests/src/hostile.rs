//! Volumes that lie: objects with the right hashes, made with the real encoders, whose content breaks the rules.
//!
//! Only what the encoders refuse is put together by hand: [`raw_dir`] writes the bytes of a directory page entry by entry.

use std::fs;
use std::path::{Path, PathBuf};

use sailvol::format::{
    EncodedNode, ItemKind, Key, Node, PackBuilder, Record, SuperNode, UnverifiedRecord, Writer, encode_chunk,
    encode_dir_page, encode_extent_page, encode_index_page, encode_link_page, node_hash,
};
use sailvol::model::{
    Attrs, BlobRef, ChunkRef, Content, DirPage, DirTree, Entry, EntryBody, FileId, LinksTree, Name, PackRef,
    Ptr, Totals, TreeRoot, VolumeId,
};
use sailvol::tree::recount;

/// A volume in a directory store, to which records of any content can be added.
pub struct Hostile {
    store: PathBuf,
    volume: VolumeId,
    /// The newest record.
    pub head: Record,
    head_hash: sailvol::model::Hash,
}

impl Hostile {
    /// The only volume in a directory store.
    ///
    /// # Panics
    /// When there is none.
    pub fn open(store: &Path) -> Hostile {
        let mut newest: Vec<PathBuf> = walk(store)
            .into_iter()
            .filter(|path| path.to_string_lossy().contains("/log/"))
            .collect();
        newest.sort();
        let path = newest.first().expect("a volume has a record");
        let key = path
            .strip_prefix(store)
            .expect("below the store")
            .to_string_lossy();
        let Some(Key::Record(volume, seq)) = Key::parse(&key) else {
            panic!("{key} is no record")
        };
        let bytes = fs::read(path).expect("a record").into();
        let unverified = UnverifiedRecord::parse(&bytes, &key).expect("a record");
        let head_hash = unverified.hash();
        Hostile {
            store: store.to_owned(),
            volume,
            head: unverified.verify(&volume, seq).expect("a true record"),
            head_hash,
        }
    }

    /// Writes an object.
    pub fn put(&self, key: &str, bytes: &[u8]) {
        let path = self.store.join(key);
        fs::create_dir_all(path.parent().expect("keys have parts")).expect("the store is ours");
        fs::write(path, bytes).expect("the store is ours");
    }

    /// Where an object lies.
    pub fn path(&self, key: &Key) -> PathBuf {
        self.store.join(key.to_string())
    }

    /// The volume's id.
    pub fn volume(&self) -> VolumeId {
        self.volume
    }

    /// Stores a node in a pack of its own.
    pub fn node(&self, node: &EncodedNode) -> Ptr {
        let mut builder = PackBuilder::new(1);
        let ptr = builder.add_node(node).expect("a small node");
        let pack = builder.finish();
        self.put(&Key::Pack(self.volume, pack.pack).to_string(), &pack.bytes);
        Ptr {
            pack: pack.pack,
            ..ptr
        }
    }

    /// Stores a node of the model.
    pub fn encoded(&self, node: &Node) -> Ptr {
        let encoded = match node {
            Node::Dir(page) => encode_dir_page(page, false),
            Node::Index(page) => encode_index_page(page, false),
            Node::Extent(page) => encode_extent_page(page, false),
            Node::Links(page) => encode_link_page(page, false),
        };
        self.node(&encoded.expect("an encoder that takes it"))
    }

    /// Stores a blob in a pack of its own.
    pub fn blob(&self, bytes: &[u8]) -> BlobRef {
        let mut builder = PackBuilder::new(1);
        let blob = builder.add_blob(bytes).expect("a small blob");
        let pack = builder.finish();
        assert_eq!(pack.items[0].kind, ItemKind::Blob);
        self.put(&Key::Pack(self.volume, pack.pack).to_string(), &pack.bytes);
        BlobRef {
            pack: pack.pack,
            ..blob
        }
    }

    /// Stores a chunk.
    pub fn chunk(&self, bytes: &[u8]) -> ChunkRef {
        let chunk = encode_chunk(bytes).expect("a chunk of at most 64 MiB");
        self.put(&Key::Chunk(self.volume, 1, chunk.id).to_string(), &chunk.object);
        ChunkRef::Object {
            epoch: 1,
            id: chunk.id,
        }
    }

    /// Adds a record with this tree; `usage` and parent are right.
    pub fn publish(&mut self, root: TreeRoot) {
        let mut next = self.head.clone();
        next.usage.files = root.totals.files;
        next.usage.dirs = root.totals.dirs;
        next.usage.bytes = root.bytes();
        next.root = SuperNode {
            root,
            ..next.root.clone()
        };
        self.publish_record(next);
    }

    /// Adds a record after the head.
    pub fn publish_record(&mut self, mut next: Record) {
        next.kind = sailvol::format::RecordKind::Commit;
        next.seq = self.head.seq + 1;
        next.parent = Some(self.head_hash);
        next.txn.0[0] ^= 0x5a;
        let encoded = next.encode().expect("an encoder that takes it");
        self.put(&Key::Record(self.volume, next.seq).to_string(), &encoded.bytes);
        self.head_hash = encoded.hash;
        self.head = next;
    }
}

fn walk(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut open = vec![dir.to_owned()];
    while let Some(dir) = open.pop() {
        for entry in fs::read_dir(dir).expect("a directory").flatten() {
            match entry.path().is_dir() {
                true => open.push(entry.path()),
                false => found.push(entry.path()),
            }
        }
    }
    found
}

/// A name.
pub fn name(text: &str) -> Name {
    Name::new(text.as_bytes()).expect("a legal name")
}

/// Attributes of a file or directory.
pub fn attrs(mode: u16, id: u64) -> Attrs {
    Attrs {
        mode,
        file_id: FileId(id),
        ..Attrs::default()
    }
}

/// A file.
pub fn file(size: u64, content: Content) -> Entry {
    Entry {
        attrs: attrs(0o644, 7),
        body: EntryBody::File { size, content },
    }
}

/// A small file that says the truth.
pub fn tiny(bytes: &[u8]) -> Entry {
    file(bytes.len() as u64, Content::Tiny(bytes.into()))
}

/// A directory that is said to hold `totals`.
pub fn dir_with(totals: Totals, tree: DirTree) -> Entry {
    Entry {
        attrs: attrs(0o755, 9),
        body: EntryBody::Dir { totals, tree },
    }
}

/// A stored directory that is said to hold so many files, and nothing else.
pub fn dir_of_files(files: u64, ptr: Ptr, index: bool) -> Entry {
    let totals = Totals {
        files,
        ..Totals::default()
    };
    dir_with(totals, DirTree::stored(ptr, index))
}

/// A page with these entries, sorted by name.
pub fn page(entries: impl IntoIterator<Item = (Name, Entry)>) -> DirPage {
    let mut entries: Vec<_> = entries.into_iter().collect();
    entries.sort_by(|(a, _), (b, _)| a.cmp(b));
    DirPage { entries }
}

/// A directory in its parent's page that says the truth about itself.
pub fn inline(entries: impl IntoIterator<Item = (Name, Entry)>) -> Entry {
    let page = page(entries);
    dir_with(recount(&page.entries), DirTree::Inline(page.into()))
}

/// A root over these entries, without hard links.
pub fn root(entries: impl IntoIterator<Item = (Name, Entry)>) -> TreeRoot {
    let page = page(entries);
    TreeRoot {
        attrs: attrs(0o755, 1),
        totals: recount(&page.entries),
        tree: DirTree::Inline(page.into()),
        links: LinksTree::default(),
    }
}

/// Puts raw bytes behind "stored as they are".
pub fn seal(raw: &[u8]) -> EncodedNode {
    let stored = [&[0], raw].concat();
    EncodedNode {
        raw_len: u32::try_from(raw.len()).expect("a small node"),
        hash: node_hash(&stored),
        stored,
    }
}

/// Puts bytes behind "compressed", whatever they are.
pub fn seal_compressed(payload: &[u8], raw_len: u32) -> EncodedNode {
    let stored = [&[1], payload].concat();
    EncodedNode {
        raw_len,
        hash: node_hash(&stored),
        stored,
    }
}

/// One entry as bytes: a tiny file with any bytes as its name, and any number as its size.
pub fn raw_file(name: &[u8], size: u64, bytes: &[u8]) -> Vec<u8> {
    let mut w = Writer::new();
    w.bytes(name);
    w.u8(1);
    w.uv(0);
    w.zz(0);
    w.uv(size);
    w.u8(0);
    w.bytes(bytes);
    w.into_vec()
}

/// A directory page of raw entries in the order given.
pub fn raw_dir(entries: &[Vec<u8>]) -> EncodedNode {
    let mut w = Writer::new();
    w.raw(b"SVN1\x01\x00");
    w.uv(0);
    w.uv(0);
    w.zz(0);
    w.uv(0);
    w.uv(entries.len() as u64);
    entries.iter().for_each(|entry| w.bytes(entry));
    seal(w.as_slice())
}

/// A pack that is in no store.
pub fn nowhere() -> PackRef {
    PackRef {
        epoch: 1,
        id: sailvol::model::Hash([0xab; 32]),
    }
}
