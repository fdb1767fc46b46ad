//! Values of the format from a seed.

use std::sync::Arc;

use crate::format::*;
use crate::model::*;

/// A generator of values; the same seed gives the same values for ever.
pub struct Gen {
    state: u64,
    /// Whether references may name the pack being written.
    pub open: bool,
    /// Whether references may name packs of the state directory.
    pub local: bool,
}

impl Gen {
    pub fn new(seed: u64) -> Gen {
        Gen {
            state: seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ 0x1234_5678,
            open: false,
            local: false,
        }
    }

    /// splitmix64.
    pub fn next(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub fn below(&mut self, n: u64) -> u64 {
        self.next() % n.max(1)
    }

    pub fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }

    /// Small mostly, of any magnitude sometimes.
    pub fn number(&mut self, bits: u32) -> u64 {
        let shift = 64 - self.below(u64::from(bits)) as u32 - 1;
        self.next() >> shift
    }

    pub fn bytes(&mut self, len: u64) -> Vec<u8> {
        (0..len).map(|_| self.next() as u8).collect()
    }

    pub fn hash(&mut self) -> Hash {
        Hash(self.bytes(32).try_into().unwrap())
    }

    pub fn pack(&mut self) -> PackRef {
        match self.below(8) {
            0 | 1 if self.open => PackRef::open(7),
            2 if self.local => PackRef {
                epoch: LOCAL_EPOCH,
                id: Hash([3; 32]),
            },
            3 => PackRef {
                epoch: self.number(31) as u32,
                id: self.hash(),
            },
            n => PackRef {
                epoch: 7,
                id: Hash([n as u8 + 1; 32]),
            },
        }
    }

    pub fn ptr(&mut self) -> Ptr {
        let raw_len = 100 + self.below(1 << 19) as u32;
        Ptr {
            pack: self.pack(),
            offset: 4 + self.number(25),
            stored_len: 1 + self.below(u64::from(raw_len)) as u32,
            raw_len,
            hash: self.hash(),
        }
    }

    pub fn blob(&mut self, raw_len: u64) -> BlobRef {
        BlobRef {
            pack: self.pack(),
            offset: 4 + self.number(25),
            stored_len: 1 + self.below(raw_len) as u32,
            id: self.hash(),
        }
    }

    pub fn time(&mut self) -> Timestamp {
        let secs = match self.below(20) {
            0 => self.next().cast_signed(),
            1 => 0,
            2 => -(self.number(40).cast_signed()),
            _ => 1_700_000_000 + self.below(100_000_000).cast_signed(),
        };
        let nanos = if self.one_in(4) {
            0
        } else {
            self.below(1_000_000_000) as u32
        };
        Timestamp { secs, nanos }
    }

    pub fn xattr_map(&mut self, bytes_max: usize) -> XattrMap {
        let mut map = XattrMap::new();
        let mut left = bytes_max;
        for n in 0..self.below(5) {
            let name = format!("user.{n}.{}", self.below(100)).into_bytes();
            let len = self.below(bytes_max as u64 / 4);
            if name.len() + len as usize > left {
                break;
            }
            left -= name.len() + len as usize;
            map.insert(name.into(), self.bytes(len).into());
        }
        map
    }

    pub fn attrs(&mut self) -> Attrs {
        let mtime = self.time();
        let ctime = match self.below(4) {
            0 => mtime,
            1 => Timestamp {
                secs: mtime.secs.saturating_add(3),
                nanos: 5,
            },
            _ => self.time(),
        };
        let xattrs = match self.below(8) {
            0 => Xattrs::from_map(self.xattr_map(1024)),
            1 => Xattrs::OutOfLine {
                blob: Box::new(self.blob(60_000)),
                raw_len: 60_000,
            },
            _ => Xattrs::None,
        };
        Attrs {
            mode: self.below(0o10000) as u16 & if self.one_in(9) { 0 } else { 0o7777 },
            uid: if self.one_in(2) { 0 } else { self.number(32) as u32 },
            gid: if self.one_in(2) { 0 } else { self.number(32) as u32 },
            mtime,
            ctime,
            file_id: FileId(if self.one_in(5) {
                self.next()
            } else {
                (77 << 40) + self.below(100_000)
            }),
            xattrs,
        }
    }

    pub fn chunk(&mut self, raw_len: u64) -> ChunkRef {
        match self.below(4) {
            0 => ChunkRef::Hole,
            1 if raw_len <= ITEM_BYTES_MAX => ChunkRef::Packed(self.blob(raw_len)),
            _ => ChunkRef::Object {
                epoch: self.number(31) as u32,
                id: self.hash(),
            },
        }
    }

    pub fn content(&mut self) -> (u64, Content) {
        match self.below(6) {
            0 => (0, Content::empty()),
            1 => {
                let size = self.below(TINY_BYTES_MAX + 1);
                (size, Content::Tiny(self.bytes(size).into()))
            }
            2 | 3 => {
                let size = 1 + self.below(ITEM_BYTES_MAX - 1);
                (size, Content::Blob(self.blob(size)))
            }
            4 => {
                let size = self.below(CHUNKS_INLINE_MAX * (8 << 20)) + 1;
                let chunks: Arc<[ChunkRef]> = (0..chunk_count(size))
                    .map(|i| self.chunk(chunk_len(i, size)))
                    .collect();
                let cid = chunks_cid(size, 0, &chunks);
                (size, Content::Chunks { tier: 0, chunks, cid })
            }
            _ => {
                let size = 1 + self.below(FILE_BYTES_MAX);
                (
                    size,
                    Content::Paged {
                        tier: 0,
                        root: Box::new(self.ptr()),
                        cid: self.hash(),
                    },
                )
            }
        }
    }

    pub fn totals(&mut self) -> Totals {
        Totals {
            files: self.number(47),
            dirs: self.number(47),
            bytes: self.number(59),
            links: self.number(47),
            subdirs: self.number(47),
        }
    }

    pub fn link_id(&mut self) -> LinkId {
        LinkId(self.bytes(16).try_into().unwrap())
    }

    /// An entry; `depth` levels of directories may be inlined in it.
    pub fn entry(&mut self, depth: usize) -> Entry {
        let body = match self.below(12) {
            0 => EntryBody::Symlink {
                target: {
                    let most = if self.one_in(20) { 4095 } else { 40 };
                    let len = 1 + self.below(most);
                    self.bytes(len).into_iter().map(|b| b.max(1)).collect()
                },
            },
            1 => EntryBody::Fifo,
            2 => EntryBody::Socket,
            3 => EntryBody::CharDev {
                major: self.number(32) as u32,
                minor: self.number(32) as u32,
            },
            4 => EntryBody::BlockDev {
                major: self.number(32) as u32,
                minor: self.number(32) as u32,
            },
            5 => {
                return Entry {
                    attrs: Attrs::default(),
                    body: EntryBody::HardLink(self.link_id()),
                };
            }
            6 | 7 => EntryBody::Dir {
                totals: self.totals(),
                tree: self.dir_tree(depth),
            },
            _ => {
                let (size, content) = self.content();
                EntryBody::File { size, content }
            }
        };
        Entry {
            attrs: self.attrs(),
            body,
        }
    }

    pub fn dir_tree(&mut self, depth: usize) -> DirTree {
        if depth > 0 && !self.one_in(3) {
            let entries = self.below(6);
            return DirTree::Inline(Arc::new(self.dir_page(entries, depth - 1)));
        }
        DirTree::stored(self.ptr(), self.one_in(2))
    }

    pub fn name(&mut self) -> Name {
        loop {
            let len = 1 + if self.one_in(30) {
                self.below(255)
            } else {
                self.below(12)
            };
            let bytes = if self.one_in(5) {
                self.bytes(len)
            } else {
                (0..len).map(|_| b'a' + self.below(26) as u8).collect()
            };
            if let Ok(name) = Name::new(&bytes) {
                return name;
            }
        }
    }

    pub fn dir_page(&mut self, entries: u64, depth: usize) -> DirPage {
        let mut all: Vec<(Name, Entry)> = (0..entries).map(|_| (self.name(), self.entry(depth))).collect();
        all.sort_by(|a, b| a.0.cmp(&b.0));
        all.dedup_by(|a, b| a.0 == b.0);
        DirPage { entries: all }
    }

    pub fn index_page(&mut self) -> IndexPage {
        let cids = self.one_in(2);
        let mut keys: Vec<Box<[u8]>> = (0..self.below(40))
            .map(|_| self.name().as_bytes().into())
            .collect();
        keys.push(Box::from(&[][..]));
        keys.sort();
        keys.dedup();
        let slots = keys
            .into_iter()
            .map(|first_key| IndexSlot {
                first_key,
                ptr: self.ptr(),
                count: self.below(100_000),
                page_cid: cids.then(|| self.hash()),
            })
            .collect();
        IndexPage {
            level: 1 + self.below(7) as u8,
            slots,
        }
    }

    pub fn extent_page(&mut self) -> ExtentPage {
        let chunks = (0..1 + self.below(EXTENT_PAGE_CHUNKS))
            .map(|_| self.chunk(1 << 20))
            .collect();
        ExtentPage { chunks }
    }

    pub fn link_inode(&mut self) -> LinkInode {
        loop {
            let entry = self.entry(0);
            if !matches!(entry.body, EntryBody::Dir { .. } | EntryBody::HardLink(_)) {
                return LinkInode {
                    nlink: self.number(64),
                    entry,
                };
            }
        }
    }

    pub fn link_page(&mut self) -> LinkPage {
        let mut inodes: Vec<_> = (0..self.below(30))
            .map(|_| (self.link_id(), self.link_inode()))
            .collect();
        inodes.sort_by_key(|(id, _)| *id);
        LinkPage { inodes }
    }

    pub fn stored_root(&mut self) -> StoredRoot {
        let root = (self.ptr(), self.one_in(2));
        (!self.one_in(3)).then_some(root)
    }

    pub fn super_node(&mut self) -> SuperNode {
        let stored = self.stored_root();
        let count = if stored.is_some() { 1 + self.number(47) } else { 0 };
        SuperNode {
            root: TreeRoot {
                attrs: self.attrs(),
                totals: self.totals(),
                tree: self.dir_tree(4),
                links: LinksTree {
                    stored,
                    edits: Default::default(),
                    count,
                    bytes: self.number(59),
                },
            },
            refs: self.stored_root(),
            history: self.stored_root(),
        }
    }

    pub fn path(&mut self) -> VolPath {
        VolPath((0..self.below(6)).map(|_| self.name()).collect())
    }

    /// Time that JSON can hold.
    fn json_time(&mut self) -> Timestamp {
        Timestamp {
            secs: self.number(37).cast_signed(),
            nanos: self.below(1_000_000_000) as u32,
        }
    }

    pub fn record(&mut self) -> Record {
        let seq = if self.one_in(5) { 0 } else { 1 + self.number(63) };
        let volume = VolumeId(self.bytes(16).try_into().unwrap());
        let created = self.json_time();
        let fence = self.below(seq.saturating_add(1));
        Record {
            descriptor: Descriptor::new(volume, "data", created, "if-none-match"),
            seq,
            parent: (seq > 0).then(|| self.hash()),
            kind: if seq == 0 {
                RecordKind::Init
            } else {
                RecordKind::Commit
            },
            txn: TxnId(self.bytes(16).try_into().unwrap()),
            base: if self.one_in(3) { None } else { Some(self.next()) },
            merged: (0..self.below(4)).map(|n| TxnId([n as u8; 16])).collect(),
            time: self.json_time(),
            server_time: if self.one_in(3) {
                None
            } else {
                Some(self.json_time())
            },
            by: "pod-17".to_owned(),
            message: "a line\nand \"another\" \u{1f980}".to_owned(),
            features: Features::initial(),
            root: self.super_node(),
            usage: Usage {
                files: self.number(47),
                dirs: self.number(47),
                bytes: self.number(59),
                stored: self.number(59),
            },
            gc: GcState {
                epoch: self.number(31) as u32,
                fence,
                retained: (0..self.below(20)).map(|_| self.below(fence.max(1))).collect(),
            },
            config: VolumeConfig {
                quota_bytes: self.number(59),
                ..VolumeConfig::default()
            },
            renames: (0..self.below(4)).map(|_| (self.path(), self.path())).collect(),
        }
    }
}
