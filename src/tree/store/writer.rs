//! Putting nodes and blobs into packs.

use std::collections::HashMap;

use async_trait::async_trait;

use super::placeholder::{PackIds, placeholder, resolve_page};
use crate::format::{
    EncodeError, EncodedNode, ExtentPage, FinishedPack, LinkPage, Node, PackBuilder, Writer, content_id,
    encode_dir_page, encode_extent_page, encode_index_page, encode_link_page, encode_xattr_map,
};
use crate::model::{BlobRef, Epoch, Hash, LOCAL_EPOCH, PackRef, Ptr, XattrMap};
use crate::tree::TreeError;

/// Parameters of a volume that say how trees are cut (SPEC.md 5). Readers accept any cut.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct NodeParams {
    /// A directory up to this many measured bytes stands inside its parent's node.
    pub inline_max: usize,
    /// A page has at most this many measured bytes.
    pub page_max: usize,
    /// A pack is finished when it has this many bytes.
    pub pack_target: u64,
}

impl Default for NodeParams {
    /// Those of version 1: 8 KiB, 64 KiB, 16 MiB.
    fn default() -> NodeParams {
        NodeParams {
            inline_max: 8 << 10,
            page_max: 64 << 10,
            pack_target: 16 << 20,
        }
    }
}

/// Takes packs as they are finished, so that a large tree is not held in memory as a whole.
#[async_trait]
pub trait PackSink: Send + Sync {
    /// Takes one; an error ends the storing.
    async fn take(&mut self, pack: FinishedPack) -> Result<(), TreeError>;
}

/// What was written.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct WriterStats {
    /// Nodes.
    pub nodes: u64,
    /// Their bytes before compression.
    pub raw_bytes: u64,
    /// Their stored bytes.
    pub stored_bytes: u64,
    /// Packs with all that is in them, blobs too.
    pub packs: u64,
}

/// Writes nodes and blobs into packs. References into its packs name stand-ins until [`NodeWriter::finish`].
pub struct NodeWriter {
    epoch: Epoch,
    /// Its nodes may point to nodes and blobs that exist on this machine only.
    names_local: bool,
    params: NodeParams,
    open: PackBuilder,
    ids: PackIds,
    finished: Vec<FinishedPack>,
    sink: Option<Box<dyn PackSink>>,
    stats: WriterStats,
    /// Blobs of extended attributes that are stored, by their content.
    xattrs: XattrBlobs,
}

/// Blobs of extended attributes by the id of their content.
pub type XattrBlobs = HashMap<Hash, BlobRef>;

/// The packs of a writer.
#[derive(Debug)]
pub struct Written {
    /// Finished packs that no sink took, in order.
    pub packs: Vec<FinishedPack>,
    /// What the stand-ins mean.
    pub ids: PackIds,
    /// Counts.
    pub stats: WriterStats,
    /// Blobs of extended attributes that the writer has stored, or was told of.
    pub xattrs: XattrBlobs,
}

impl NodeWriter {
    /// Writes for the remote volume under `epoch`.
    pub fn new(epoch: Epoch, params: NodeParams) -> NodeWriter {
        NodeWriter::with_open_pack(PackBuilder::new(epoch), epoch, params)
    }

    /// Goes on with a pack that already holds blobs: references to them by `PackRef::open` are understood.
    pub fn with_open_pack(open: PackBuilder, epoch: Epoch, params: NodeParams) -> NodeWriter {
        NodeWriter {
            epoch,
            names_local: epoch == LOCAL_EPOCH,
            params,
            open,
            ids: PackIds::default(),
            finished: Vec::new(),
            sink: None,
            stats: WriterStats::default(),
            xattrs: XattrBlobs::new(),
        }
    }

    /// Writes for the state directory: the nodes may name packs there.
    pub fn local(params: NodeParams) -> NodeWriter {
        NodeWriter::new(LOCAL_EPOCH, params)
    }

    /// Writes for the state directory all of the tree that is on this machine only, so that it needs no pack there but the
    /// writer's own.
    pub fn local_gathering(params: NodeParams) -> NodeWriter {
        NodeWriter {
            names_local: false,
            ..NodeWriter::local(params)
        }
    }

    /// True for [`NodeWriter::local_gathering`].
    pub fn gathers(&self) -> bool {
        self.is_local() && !self.names_local
    }

    /// Blobs of extended attributes that are stored already: they are named, not written again. A writer for the state directory
    /// names no others: what is not among them stays in the entries.
    pub fn with_xattrs(mut self, xattrs: XattrBlobs) -> NodeWriter {
        self.xattrs = xattrs;
        self
    }

    /// Hands finished packs on instead of keeping them.
    pub fn with_sink(mut self, sink: Box<dyn PackSink>) -> NodeWriter {
        self.sink = Some(sink);
        self
    }

    /// How it cuts.
    pub fn params(&self) -> &NodeParams {
        &self.params
    }

    /// True for a writer for the state directory.
    pub fn is_local(&self) -> bool {
        self.epoch == LOCAL_EPOCH
    }

    /// True when its nodes may point to this one, which it has not written: a node that exists on this machine only is not
    /// for the remote volume.
    pub fn may_name(&self, ptr: &Ptr) -> bool {
        self.may_name_pack(&ptr.pack)
    }

    /// The same for blobs and nodes in a pack.
    pub(super) fn may_name_pack(&self, pack: &PackRef) -> bool {
        self.names_local || !pack.is_local()
    }

    /// Adds the plaintext of a blob.
    pub async fn add_blob(&mut self, plain: &[u8]) -> Result<BlobRef, TreeError> {
        self.make_room().await?;
        let blob = self.open.add_blob(plain).map_err(refused)?;
        Ok(BlobRef {
            pack: self.current(),
            ..blob
        })
    }

    /// The blob of extended attributes over what an entry holds; stored once, however many entries have the same.
    pub async fn add_xattrs(&mut self, map: &XattrMap) -> Result<(BlobRef, u32), TreeError> {
        let mut encoded = Writer::new();
        encode_xattr_map(&mut encoded, map).map_err(refused)?;
        let encoded = encoded.into_vec();
        // XATTR_BLOB_BYTES_MAX is far below 32 bits.
        let raw_len = encoded.len() as u32;
        let id = content_id(&encoded);
        if let Some(known) = self.xattrs.get(&id) {
            return Ok((*known, raw_len));
        }
        let blob = self.add_blob(&encoded).await?;
        self.xattrs.insert(id, blob);
        Ok((blob, raw_len))
    }

    /// True if large extended attributes leave the entry.
    pub fn moves_xattrs(&self, map: &XattrMap) -> Result<bool, TreeError> {
        if !self.is_local() {
            return Ok(true);
        }
        let mut encoded = Writer::new();
        encode_xattr_map(&mut encoded, map).map_err(refused)?;
        Ok(self.xattrs.contains_key(&content_id(encoded.as_slice())))
    }

    /// Adds a node. All that it points to must be stored.
    pub async fn add_node(&mut self, node: &Node) -> Result<Ptr, TreeError> {
        self.make_room().await?;
        let encoded = self.encode(node).map_err(refused)?;
        let ptr = self.open.add_node(&encoded).map_err(refused)?;
        self.stats.nodes += 1;
        self.stats.raw_bytes += u64::from(ptr.raw_len);
        self.stats.stored_bytes += u64::from(ptr.stored_len);
        Ok(Ptr {
            pack: self.current(),
            ..ptr
        })
    }

    /// Finishes the last pack.
    pub async fn finish(mut self) -> Result<Written, TreeError> {
        if !self.open.is_empty() {
            self.turn_over().await?;
        }
        let ids = self.ids;
        let xattrs = self.xattrs.into_iter();
        Ok(Written {
            packs: self.finished,
            xattrs: xattrs.map(|(id, blob)| (id, ids.blob(blob))).collect(),
            ids,
            stats: self.stats,
        })
    }

    fn current(&self) -> PackRef {
        placeholder(self.epoch, self.stats.packs)
    }

    async fn make_room(&mut self) -> Result<(), TreeError> {
        if self.open.len() >= self.params.pack_target {
            self.turn_over().await?;
        }
        Ok(())
    }

    async fn turn_over(&mut self) -> Result<(), TreeError> {
        let open = std::mem::replace(&mut self.open, PackBuilder::new(self.epoch));
        let pack = open.finish();
        self.ids.finished.push(pack.pack);
        self.stats.packs += 1;
        match &mut self.sink {
            Some(sink) => sink.take(pack).await?,
            None => self.finished.push(pack),
        }
        Ok(())
    }

    fn encode(&self, node: &Node) -> Result<EncodedNode, EncodeError> {
        let local = self.is_local();
        match node {
            // Until the first pack is full its stand-in is the format's own: nothing has to be renamed.
            Node::Dir(page) if self.ids.is_first() => encode_dir_page(page, local),
            Node::Dir(page) => encode_dir_page(&resolve_page(page, &self.ids), local),
            Node::Index(page) => {
                let mut page = page.as_ref().clone();
                page.slots
                    .iter_mut()
                    .for_each(|slot| slot.ptr = self.ids.ptr(slot.ptr));
                encode_index_page(&page, local)
            }
            Node::Extent(page) => {
                let chunks = page.chunks.iter().map(|chunk| self.ids.chunk(chunk)).collect();
                encode_extent_page(&ExtentPage { chunks }, local)
            }
            Node::Links(page) => {
                let mut inodes = page.inodes.clone();
                inodes
                    .iter_mut()
                    .for_each(|(_, inode)| inode.entry = self.ids.entry(inode.entry.clone()));
                encode_link_page(&LinkPage { inodes }, local)
            }
        }
    }
}

/// An encoder's refusal. Limits are the user's business, all else would be a fault of whoever made the tree.
pub(crate) fn refused(error: EncodeError) -> TreeError {
    match error {
        EncodeError::Limit { what, limit } => TreeError::Limit { what, limit },
        other => TreeError::Damaged {
            object: "the tree to be stored".to_owned(),
            rule: other.to_string(),
        },
    }
}

impl std::fmt::Debug for NodeWriter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("NodeWriter")
            .field("epoch", &self.epoch)
            .field("stats", &self.stats)
            .finish_non_exhaustive()
    }
}
