//! R2: what a commit adds to the head must be kept by the volume (LOG.md 4.2).
//!
//! When the sources of the view are not all protected (a pod that slept for days without a lease), each reference that R
//! adds to H is looked at: what is young, or stands in H at the same path, may stay; everything else is read once more
//! and written under the current epoch. What cannot be read any more fails its path.
//!
//! The base that the view stands on afterwards keeps its old references: its sources are still not protected, so the next
//! commit looks again, until a reload.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use futures::future::BoxFuture;

use super::error::CommitError;
use super::extents::{self, BaseChunks, NewPage};
use super::ledger::NoLedger;
use super::packer::{PackedBlob, Packer, Packs};
use super::surroundings::Commit;
use crate::format::{GcState, PackBuilder, encode_blob, encode_chunk};
use crate::model::{
    Attrs, BlobRef, ChunkRef, Content, DirPage, DirTree, EXTENT_PAGE_CHUNKS, Entry, EntryBody, Epoch, Hash,
    LinksTree, Name, TreeRoot, VolPath, Xattrs, chunk_count, chunk_len,
};
use crate::tree::{self, TreeError};
use crate::volume::{Head, rules};

/// R with every reference that is not known to be kept replaced; extent pages go into `open`.
///
/// # Errors
/// [`CommitError::Gone`] with the paths whose bytes cannot be had any more.
pub(super) async fn rehome(
    commit: &Commit<'_>,
    head: &Head,
    result: &TreeRoot,
    open: &mut PackBuilder,
) -> Result<TreeRoot, CommitError> {
    let gc = &head.record().gc;
    let theirs = &head.record().root.root;
    let mut work = Rehoming {
        commit,
        gc,
        open,
        packer: Packer::new(commit.volume.clone(), gc.epoch),
        blobs: HashMap::new(),
        chunks: HashSet::new(),
        gone: Vec::new(),
    };
    let attrs = work
        .attrs(&result.attrs, Some(&theirs.attrs), &VolPath::root())
        .await?;
    let tree = work
        .dir(Some(&theirs.tree), &result.tree, VolPath::root())
        .await?;
    let links = work.links(&theirs.links, &result.links).await?;
    if !work.gone.is_empty() {
        return Err(CommitError::Gone { paths: work.gone });
    }
    let Rehoming { packer, blobs, .. } = work;
    let packs = packer.finish_all(&NoLedger, commit.progress).await?;
    let named = Named {
        packs: &packs,
        blobs: &blobs,
    };
    let tree = TreeRoot {
        attrs,
        totals: result.totals,
        tree,
        links,
    };
    Ok(named.root(tree))
}

struct Rehoming<'a> {
    commit: &'a Commit<'a>,
    gc: &'a GcState,
    open: &'a mut PackBuilder,
    packer: Packer,
    /// Blobs that were written again, by their old place.
    blobs: HashMap<BlobRef, PackedBlob>,
    /// Chunk objects that are there under the current epoch.
    chunks: HashSet<Hash>,
    gone: Vec<VolPath>,
}

impl Rehoming<'_> {
    fn young(&self, epoch: Epoch) -> bool {
        rules::is_young(self.gc, epoch)
    }

    /// A directory of R beside that of H at the same path. Recursion as deep as paths are.
    fn dir<'a>(
        &'a mut self,
        theirs: Option<&'a DirTree>,
        mine: &'a DirTree,
        path: VolPath,
    ) -> BoxFuture<'a, Result<DirTree, CommitError>> {
        Box::pin(async move {
            if theirs.is_some_and(|theirs| is_same_place(theirs, mine)) {
                return Ok(mine.clone());
            }
            let nodes = self.commit.nodes;
            let theirs: HashMap<Name, Entry> = match theirs {
                Some(theirs) => tree::entries(nodes, theirs).await?.into_iter().collect(),
                None => HashMap::new(),
            };
            let entries = match tree::entries(nodes, mine).await {
                Ok(entries) => entries,
                Err(TreeError::Expired { .. }) => {
                    self.gone.push(path);
                    return Ok(mine.clone());
                }
                Err(error) => return Err(error.into()),
            };
            let mut kept = Vec::with_capacity(entries.len());
            for (name, entry) in entries {
                let below = path.join(&name);
                let entry = self.entry(theirs.get(&name), entry, below).await?;
                kept.push((name, entry));
            }
            Ok(DirTree::Inline(Arc::new(DirPage { entries: kept })))
        })
    }

    async fn entry(
        &mut self,
        theirs: Option<&Entry>,
        entry: Entry,
        path: VolPath,
    ) -> Result<Entry, CommitError> {
        let attrs = self
            .attrs(&entry.attrs, theirs.map(|entry| &entry.attrs), &path)
            .await?;
        let body = match entry.body {
            EntryBody::Dir { totals, tree } => {
                let beside = theirs.and_then(Entry::as_dir).map(|(_, tree)| tree);
                EntryBody::Dir {
                    totals,
                    tree: self.dir(beside, &tree, path).await?,
                }
            }
            EntryBody::File { size, content } => {
                let beside = match theirs.map(|entry| &entry.body) {
                    Some(EntryBody::File { content, .. }) => Some(content),
                    _ => None,
                };
                EntryBody::File {
                    size,
                    content: self.content(size, content, beside, &path).await?,
                }
            }
            other => other,
        };
        Ok(Entry { attrs, body })
    }

    async fn attrs(
        &mut self,
        attrs: &Attrs,
        theirs: Option<&Attrs>,
        path: &VolPath,
    ) -> Result<Attrs, CommitError> {
        if let Xattrs::OutOfLine { blob, raw_len } = &attrs.xattrs
            && theirs.is_none_or(|theirs| theirs.xattrs != attrs.xattrs)
        {
            self.blob(blob, u64::from(*raw_len), path).await?;
        }
        Ok(attrs.clone())
    }

    async fn content(
        &mut self,
        size: u64,
        content: Content,
        theirs: Option<&Content>,
        path: &VolPath,
    ) -> Result<Content, CommitError> {
        match content {
            Content::Tiny(_) | Content::Local(_) => Ok(content),
            Content::Blob(blob) => {
                if !matches!(theirs, Some(Content::Blob(other)) if *other == blob) {
                    self.blob(&blob, size, path).await?;
                }
                Ok(Content::Blob(blob))
            }
            Content::Chunks { tier, chunks, cid } => {
                let beside: &[ChunkRef] = match theirs {
                    Some(Content::Chunks { chunks, .. }) => chunks,
                    _ => &[],
                };
                let mut kept = Vec::with_capacity(chunks.len());
                for (index, chunk) in (0..).zip(chunks.iter()) {
                    kept.push(self.chunk(*chunk, chunk_len(index, size), beside, path).await?);
                }
                Ok(Content::Chunks {
                    tier,
                    chunks: kept.into(),
                    cid,
                })
            }
            Content::Paged { ref root, .. } if matches!(theirs, Some(Content::Paged { root: r, .. }) if *r == *root) => {
                Ok(content)
            }
            Content::Paged { .. } => self.paged(size, content, path).await,
        }
    }

    async fn paged(&mut self, size: u64, content: Content, path: &VolPath) -> Result<Content, CommitError> {
        let nodes = self.commit.nodes;
        let lists = async {
            let base = BaseChunks::load(nodes, &content).await?;
            let mut pages = Vec::new();
            for number in 0..chunk_count(size).div_ceil(EXTENT_PAGE_CHUNKS) {
                pages.push(base.chunks(nodes, number).await?);
            }
            Ok(pages)
        };
        let pages = match lists.await {
            Ok(pages) => pages,
            Err(TreeError::Expired { .. }) => {
                self.gone.push(path.clone());
                return Ok(content);
            }
            Err(error) => return Err(error.into()),
        };
        let mut index = 0;
        let mut kept = Vec::with_capacity(pages.len());
        for page in pages {
            let mut chunks = Vec::with_capacity(page.len());
            for chunk in page {
                // A small last chunk in a pack would have to be known before the page is written: read by its content.
                chunks.push(self.chunk(chunk, chunk_len(index, size), &[], path).await?);
                index += 1;
            }
            kept.push(NewPage::Chunks(chunks));
        }
        let blobs = &self.blobs;
        if kept.iter().any(|page| matches!(page, NewPage::Chunks(chunks) if chunks.iter().any(|chunk| matches!(chunk, ChunkRef::Packed(blob) if blobs.contains_key(blob))))) {
            self.inline_tail(size, &mut kept, path).await?;
        }
        Ok(extents::content_of(size, kept, self.open)?)
    }

    /// Puts the blob of a small last chunk beside its extent page, whose bytes would else name an unknown pack.
    async fn inline_tail(
        &mut self,
        size: u64,
        pages: &mut [NewPage],
        path: &VolPath,
    ) -> Result<(), CommitError> {
        let len = chunk_len(chunk_count(size) - 1, size);
        if let Some(NewPage::Chunks(chunks)) = pages.last_mut()
            && let Some(ChunkRef::Packed(blob)) = chunks.last_mut()
            && let Some(bytes) = self.read_blob(blob, len, path).await?
        {
            *blob = self.open.add_encoded_blob(&encode_blob(&bytes)?)?;
        }
        Ok(())
    }

    async fn chunk(
        &mut self,
        chunk: ChunkRef,
        len: u64,
        theirs: &[ChunkRef],
        path: &VolPath,
    ) -> Result<ChunkRef, CommitError> {
        if theirs.contains(&chunk) {
            return Ok(chunk);
        }
        match chunk {
            ChunkRef::Hole => Ok(chunk),
            ChunkRef::Packed(blob) => {
                self.blob(&blob, len, path).await?;
                Ok(chunk)
            }
            ChunkRef::Object { epoch, .. } if self.young(epoch) => Ok(chunk),
            ChunkRef::Object { epoch, id } => {
                let now = ChunkRef::Object {
                    epoch: self.gc.epoch,
                    id,
                };
                if self.chunks.contains(&id) {
                    return Ok(now);
                }
                // A chunk is at most 64 MiB.
                let raw_len = len as u32;
                match self.commit.volume.chunk(epoch, &id, raw_len).await {
                    Ok(bytes) => {
                        let encoded = encode_chunk(&bytes)?;
                        let sent = self
                            .commit
                            .volume
                            .put_chunk(self.gc.epoch, &encoded, raw_len)
                            .await?;
                        self.commit.progress.sent_bytes(sent);
                        self.chunks.insert(id);
                    }
                    Err(TreeError::Expired { .. }) => self.gone.push(path.clone()),
                    Err(error) => return Err(error.into()),
                }
                Ok(now)
            }
        }
    }

    /// Writes a blob again, unless it is young; its new place is put in at the end.
    async fn blob(&mut self, blob: &BlobRef, len: u64, path: &VolPath) -> Result<(), CommitError> {
        if blob.pack.is_open() || self.young(blob.pack.epoch) || self.blobs.contains_key(blob) {
            return Ok(());
        }
        if let Some(bytes) = self.read_blob(blob, len, path).await? {
            let encoded = encode_blob(&bytes)?;
            let packed = self.packer.add(&encoded, &NoLedger, self.commit.progress).await?;
            self.blobs.insert(*blob, packed);
        }
        Ok(())
    }

    async fn read_blob(
        &mut self,
        blob: &BlobRef,
        len: u64,
        path: &VolPath,
    ) -> Result<Option<bytes::Bytes>, CommitError> {
        match self.commit.nodes.blob(blob, len).await {
            Ok(bytes) => Ok(Some(bytes)),
            Err(TreeError::Expired { .. }) => {
                self.gone.push(path.clone());
                Ok(None)
            }
            Err(error) => Err(error.into()),
        }
    }

    /// The links tree of R as edits of that of H.
    async fn links(&mut self, theirs: &LinksTree, mine: &LinksTree) -> Result<LinksTree, CommitError> {
        let mut edits = Vec::new();
        for (id, beside, inode) in tree::diff_links(self.commit.nodes, theirs, mine).await? {
            let inode = match inode {
                None => None,
                Some(mut inode) => {
                    let beside = beside.map(|inode| inode.entry);
                    let path = VolPath::root();
                    inode.entry = self.entry(beside.as_ref(), inode.entry, path).await?;
                    Some(inode)
                }
            };
            edits.push((id, inode));
        }
        Ok(tree::edit_links(self.commit.nodes, theirs, edits).await?)
    }
}

/// The same stored node in the same pack, or the same memory: nothing below it is added to H.
fn is_same_place(theirs: &DirTree, mine: &DirTree) -> bool {
    match (theirs, mine) {
        (DirTree::Stored { ptr: a, .. }, DirTree::Stored { ptr: b, .. }) => a == b,
        (DirTree::Inline(a), DirTree::Inline(b)) => Arc::ptr_eq(a, b),
        _ => false,
    }
}

/// Puts new places of blobs in, once their packs have names.
struct Named<'a> {
    packs: &'a Packs,
    blobs: &'a HashMap<BlobRef, PackedBlob>,
}

impl Named<'_> {
    fn root(&self, mut root: TreeRoot) -> TreeRoot {
        self.attrs(&mut root.attrs);
        self.dir(&mut root.tree);
        for inode in root.links.edits.values_mut().flatten() {
            self.entry(&mut inode.entry);
        }
        root
    }

    /// What was opened is in memory; what was not has nothing to be replaced in it.
    fn dir(&self, tree: &mut DirTree) {
        if let DirTree::Inline(page) = tree {
            Arc::make_mut(page)
                .entries
                .iter_mut()
                .for_each(|(_, entry)| self.entry(entry));
        }
    }

    fn entry(&self, entry: &mut Entry) {
        self.attrs(&mut entry.attrs);
        match &mut entry.body {
            EntryBody::Dir { tree, .. } => self.dir(tree),
            EntryBody::File {
                content: Content::Blob(blob),
                ..
            } => self.blob(blob),
            EntryBody::File {
                content: Content::Chunks { chunks, .. },
                ..
            } => {
                let mut named = chunks.to_vec();
                for chunk in &mut named {
                    if let ChunkRef::Packed(blob) = chunk {
                        self.blob(blob);
                    }
                }
                *chunks = named.into();
            }
            _ => {}
        }
    }

    fn attrs(&self, attrs: &mut Attrs) {
        if let Xattrs::OutOfLine { blob, .. } = &mut attrs.xattrs {
            self.blob(blob);
        }
    }

    fn blob(&self, blob: &mut BlobRef) {
        if let Some(packed) = self.blobs.get(blob) {
            *blob = self.packs.blob(*packed);
        }
    }
}
