//! What the trees refer to, and the walk that notes it.

use std::collections::{BTreeSet, HashMap, HashSet};

use super::report::{FsckProgress, FsckReport};
use crate::model::{self, BlobRef, ChunkRef, Entry, EntryBody, Epoch, Hash, PackRef, Ptr, Xattrs};
use crate::tree::{Item, Place, TreeError, Visit, Visitor};

/// What the trees refer to.
#[derive(Debug, Default)]
pub(super) struct Referred {
    pub packs: HashMap<PackRef, Pack>,
    pub chunks: HashMap<(Epoch, Hash), Chunk>,
    nodes: HashSet<(PackRef, Hash)>,
    /// Contents whose chunks are listed in nodes of their own: by their root, with the sizes and ids that files give them.
    paged: HashMap<(PackRef, Hash), HashSet<(u64, Hash)>>,
}

/// Sizes and ids that are checked of one list of chunks. Equal lists with other sizes come from files that end in holes of
/// other lengths; there are few of those.
const PAGED_MAX: usize = 1000;

#[derive(Debug, Default)]
pub(super) struct Pack {
    /// Contents in it, as the trees describe them; of two descriptions of one place at most one is right.
    pub blobs: BTreeSet<BlobAt>,
    /// The last byte that is referred to, and 1.
    pub end: u64,
    /// Its length in the listing.
    pub listed: Option<u64>,
}

/// A content in a pack.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub(super) struct BlobAt {
    pub offset: u64,
    pub stored_len: u32,
    pub raw_len: u64,
    pub id: Hash,
}

#[derive(Debug, Default)]
pub(super) struct Chunk {
    /// The plain lengths that files give it; at most one is right.
    pub raw_lens: BTreeSet<u32>,
    /// Its length in the listing.
    pub listed: Option<u64>,
}

/// A content that is damaged, as trees name it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(super) enum Content {
    Chunk(Epoch, Hash, u32),
    Blob(PackRef, BlobAt),
}

impl Content {
    /// What a tree names here; `None` for holes.
    pub fn of(chunk: &ChunkRef, raw_len: u64) -> Option<Content> {
        match chunk {
            ChunkRef::Hole => None,
            ChunkRef::Packed(blob) => Some(Content::of_blob(blob, raw_len)),
            // A chunk is at most 64 MiB.
            ChunkRef::Object { epoch, id } => Some(Content::Chunk(
                *epoch,
                *id,
                u32::try_from(raw_len).unwrap_or(u32::MAX),
            )),
        }
    }

    /// A blob.
    pub fn of_blob(blob: &BlobRef, raw_len: u64) -> Content {
        let at = BlobAt {
            offset: blob.offset,
            stored_len: blob.stored_len,
            raw_len,
            id: blob.id,
        };
        Content::Blob(blob.pack, at)
    }
}

impl Referred {
    fn pack(&mut self, pack: PackRef, offset: u64, len: u32) -> &mut Pack {
        let known = self.packs.entry(pack).or_default();
        known.end = known.end.max(offset.saturating_add(len.into()));
        known
    }

    /// False when it was noted before.
    fn node(&mut self, ptr: &Ptr) -> bool {
        self.pack(ptr.pack, ptr.offset, ptr.stored_len);
        self.nodes.insert((ptr.pack, ptr.hash))
    }

    fn content(&mut self, content: Content) {
        match content {
            Content::Chunk(epoch, id, raw_len) => {
                self.chunks
                    .entry((epoch, id))
                    .or_default()
                    .raw_lens
                    .insert(raw_len);
            }
            Content::Blob(pack, at) => {
                self.pack(pack, at.offset, at.stored_len).blobs.insert(at);
            }
        }
    }

    /// Notes a content; false when its list of chunks was gone through already, for a file of the same size.
    fn is_new_list(&mut self, size: u64, content: &model::Content) -> Result<bool, TreeError> {
        let model::Content::Paged { root, cid, .. } = content else {
            return Ok(true);
        };
        let known = self.paged.entry((root.pack, root.hash)).or_default();
        if known.len() >= PAGED_MAX && !known.contains(&(size, *cid)) {
            return Err(TreeError::Limit {
                what: "files of different size with one list of chunks",
                limit: PAGED_MAX as u64,
            });
        }
        Ok(known.insert((size, *cid)))
    }
}

/// Notes everything that one tree refers to.
pub(super) struct Collector<'a> {
    pub referred: &'a mut Referred,
    pub report: &'a mut FsckReport,
    pub progress: &'a (dyn Fn(FsckProgress) + Sync),
    /// What the tree is, where it is not that of the files.
    pub aside: Option<&'static str>,
    /// Why the walk was stopped.
    pub stopped: Option<TreeError>,
}

impl Collector<'_> {
    fn entry(&mut self, place: Place<'_>, entry: &Entry) -> Visit {
        // An inode was counted by its names.
        if !matches!(place, Place::Inode(_)) && self.aside.is_none() {
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
        let EntryBody::File { size, content } = &entry.body else {
            return Visit::Enter;
        };
        match self.referred.is_new_list(*size, content) {
            Ok(true) => Visit::Enter,
            Ok(false) => {
                // What is left out with the list.
                if let Xattrs::OutOfLine { blob, raw_len } = &entry.attrs.xattrs {
                    let content = Content::of_blob(blob, u64::from(*raw_len));
                    self.referred.content(content);
                }
                Visit::Skip
            }
            Err(error) => self.trouble(place, error),
        }
    }

    fn shown(&self, place: Place<'_>) -> String {
        match self.aside {
            Some(what) => format!("{what}: {place}"),
            None => place.to_string(),
        }
    }
}

impl Visitor for Collector<'_> {
    fn item(&mut self, place: Place<'_>, item: Item<'_>) -> Visit {
        match item {
            Item::Node(ptr) => {
                let is_new = self.referred.node(ptr);
                self.report.nodes += u64::from(is_new);
                // Lists of chunks are held against each file that has them, as far as `entry` lets it come to that.
                if !is_new && !matches!(place, Place::Entry(..) | Place::Inode(_)) {
                    return Visit::Skip;
                }
            }
            Item::Entry(entry) => return self.entry(place, entry),
            Item::Chunk(chunk, len) => {
                if let Some(content) = Content::of(chunk, len) {
                    self.referred.content(content);
                }
            }
            Item::Xattrs(blob, len) => self.referred.content(Content::of_blob(blob, len)),
        }
        Visit::Enter
    }

    fn trouble(&mut self, place: Place<'_>, error: TreeError) -> Visit {
        let shown = self.shown(place);
        let (object, rule) = match error {
            TreeError::Damaged { object, rule } => (object, rule),
            TreeError::Expired { object } => (object, "is missing".to_owned()),
            TreeError::Limit { what, limit } => (shown.clone(), format!("{what}: over {limit}")),
            error @ (TreeError::Unreachable { .. } | TreeError::Denied { .. } | TreeError::Local { .. }) => {
                self.stopped = Some(error);
                return Visit::Stop;
            }
        };
        self.report.add(object, rule, Some(shown));
        Visit::Skip
    }
}
