//! Chunk lists of files.

use super::pages::{Page, Repeats};
use super::walk::{Stopped, Walk};
use super::{Item, Place};
use crate::format::{Node, page_cid, paged_cid};
use crate::model::{ChunkRef, Content, EXTENT_PAGE_CHUNKS, Hash, Ptr, chunk_count, chunk_len};
use crate::tree::fetch::{self, FETCHES_MAX};

impl Walk<'_> {
    pub(super) async fn content(
        &mut self,
        place: Place<'_>,
        size: u64,
        content: &Content,
    ) -> Result<(), Stopped> {
        match content {
            Content::Tiny(_) | Content::Local(_) => Ok(()),
            Content::Blob(blob) => self.found(place, Item::Chunk(&ChunkRef::Packed(*blob), size)),
            Content::Chunks { chunks, .. } => self.chunks(place, size, 0, chunks),
            Content::Paged { root, tier, cid } => self.paged(place, size, **root, *tier, cid).await,
        }
    }

    pub(super) fn chunks(
        &mut self,
        place: Place<'_>,
        size: u64,
        first: u64,
        chunks: &[ChunkRef],
    ) -> Result<(), Stopped> {
        for (index, chunk) in (first..).zip(chunks) {
            if !matches!(chunk, ChunkRef::Hole) {
                self.found(place, Item::Chunk(chunk, chunk_len(index, size)))?;
            }
        }
        Ok(())
    }

    pub(super) async fn paged(
        &mut self,
        place: Place<'_>,
        size: u64,
        root: Ptr,
        tier: u8,
        cid: &Hash,
    ) -> Result<(), Stopped> {
        let before = std::mem::replace(&mut self.complete, true);
        let count = chunk_count(size).div_ceil(EXTENT_PAGE_CHUNKS);
        // Pages of nothing but holes are equal, so one stands for several.
        let leaves = self.leaves(place, Page::root(root), Repeats::UpTo(count)).await?;
        let mut cids = Vec::with_capacity(leaves.len());
        let mut first = 0;
        for some in leaves.chunks(FETCHES_MAX) {
            for (page, node) in some
                .iter()
                .zip(self.read(some.iter().map(|page| (place, page))).await?)
            {
                match node.as_deref() {
                    Some(Node::Extent(extents)) => {
                        let cid = page_cid(extents);
                        let known = page.page_cid.is_none_or(|expected| expected == cid);
                        self.require(
                            place,
                            known,
                            "an extent page has not the content id that its index page says",
                        )?;
                        self.chunks(place, size, first, &extents.chunks)?;
                        cids.push(cid);
                    }
                    Some(_) => self.trouble(place, fetch::wrong_kind(&page.ptr))?,
                    None => {}
                }
                first += EXTENT_PAGE_CHUNKS;
            }
        }
        if self.complete {
            self.require(
                place,
                cids.len() as u64 == count,
                "its chunks are not as many as its size needs",
            )?;
            self.require(
                place,
                paged_cid(size, tier, cids) == *cid,
                "its chunks have not its content id",
            )?;
        }
        // A skipped page of chunks says nothing about directories' totals.
        self.complete = before;
        Ok(())
    }
}
