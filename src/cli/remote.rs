//! A volume without a mount, for the commands that read and edit it directly.

use std::sync::Arc;

use bytes::Bytes;
use futures::stream::{Stream, StreamExt};

use super::context::Context;
use crate::answer::{Failure, FailureKind};
use crate::model::{
    ChunkRef, Content, DirTree, Entry, GivenPath, Name, Totals, TreeRoot, VolPath, chunk_count, chunk_len,
};
use crate::store::{self, LimitedStore, ObjectStore, StoreUrl, VolumeUrl};
use crate::tree::{self, NodeSource};
use crate::volume::{Clock, Head, RemoteSource, Volume, VolumeRef};

/// Chunks that are fetched at the same time.
const CHUNKS_AT_ONCE: usize = 8;

/// A volume at its newest record.
#[derive(Debug)]
pub struct Remote {
    /// The volume.
    pub volume: Volume,
    /// Its newest record.
    pub head: Head,
    /// Its nodes.
    pub nodes: RemoteSource,
}

/// Opens a store.
pub async fn open_store(url: &StoreUrl) -> Result<Arc<dyn ObjectStore>, Failure> {
    store::open(url).await.map_err(Failure::from)
}

/// Opens a store whose requests end when nothing of any has moved for the time limit of the command.
pub async fn open_limited(url: &StoreUrl, context: &Context) -> Result<Arc<dyn ObjectStore>, Failure> {
    let store = open_store(url).await?;
    Ok(Arc::new(LimitedStore::new(store, context.timeout)))
}

impl Remote {
    /// Opens a volume; gives up when the time limit is over.
    pub async fn open(url: &VolumeUrl, context: &Context) -> Result<Remote, Failure> {
        let opening = async {
            let store = open_limited(&url.store, context).await?;
            Ok(Volume::open(store, Clock::system(), &VolumeRef::parse(&url.name)).await?)
        };
        let opened = context.within(opening).await?;
        let nodes = RemoteSource::new(opened.volume.clone());
        Ok(Remote {
            volume: opened.volume,
            head: opened.head,
            nodes,
        })
    }

    /// The tree of the newest record.
    pub fn root(&self) -> &TreeRoot {
        &self.head.record().root.root
    }

    /// The path that somebody means.
    pub async fn path(&self, given: &GivenPath) -> Result<VolPath, Failure> {
        Ok(tree::path_given(&self.nodes, self.root(), given).await?)
    }

    /// What is in a directory, held against what the directory says of itself: whoever walks a tree this way comes to an
    /// end, after as many names as its top claims to have.
    ///
    /// # Errors
    /// [`FailureKind::Damaged`] when the directory lies.
    pub async fn listed(
        &self,
        path: &VolPath,
        totals: &Totals,
        dir: &DirTree,
    ) -> Result<Vec<(Name, Entry)>, Failure> {
        let entries = tree::entries(&self.nodes, dir).await?;
        if tree::recount(&entries) != *totals {
            let text = format!(
                "damaged volume: {}:{path}: the directory does not hold what its totals say ({} files, {} directories)",
                self.volume.name(),
                totals.files,
                totals.dirs
            );
            return Err(Failure::new(FailureKind::Damaged, text));
        }
        Ok(entries)
    }

    /// What is at a path; a hard link comes as its inode.
    pub async fn entry(&self, path: &VolPath) -> Result<Entry, Failure> {
        let found = self.find(path).await?;
        self.inode(found.ok_or_else(|| self.missing(path))?).await
    }

    /// Nothing has that path.
    pub fn missing(&self, path: &VolPath) -> Failure {
        let text = format!("{}:{path}: no such file or directory", self.volume.name());
        Failure::new(FailureKind::NotFound, text)
    }

    /// What a path names, if anything; a hard link comes as such.
    pub async fn find(&self, path: &VolPath) -> Result<Option<Entry>, Failure> {
        Ok(tree::walk(&self.nodes, self.root(), path).await?)
    }

    /// The inode of a name.
    pub async fn inode(&self, entry: Entry) -> Result<Entry, Failure> {
        Ok(tree::inode_of(&self.nodes, &self.root().links, entry).await?)
    }

    /// The bytes of a file in order, piece by piece; holes come as zeros of at most a chunk.
    pub fn pieces<'a>(
        &'a self,
        size: u64,
        content: &'a Content,
    ) -> impl Stream<Item = Result<Bytes, Failure>> + 'a {
        futures::stream::iter(0..pieces_of(size, content))
            .map(move |index| async move {
                let chunk = self.chunk(size, content, index).await?;
                // At most 64 MiB.
                Ok(chunk.unwrap_or_else(|| Bytes::from(vec![0; chunk_len(index, size) as usize])))
            })
            .buffered(CHUNKS_AT_ONCE)
    }

    /// One chunk of a file, or all of a small one; `None` where a whole chunk is a hole.
    pub async fn chunk(&self, size: u64, content: &Content, index: u64) -> Result<Option<Bytes>, Failure> {
        match content {
            Content::Tiny(bytes) => Ok(Some(Bytes::copy_from_slice(bytes))),
            Content::Blob(blob) => Ok(Some(self.nodes.blob(blob, size).await?)),
            Content::Chunks { .. } | Content::Paged { .. } => {
                let len = chunk_len(index, size);
                let small =
                    || Failure::new(FailureKind::Damaged, "damaged volume: a chunk of more than 4 GiB");
                let raw_len = u32::try_from(len).map_err(|_| small())?;
                match tree::chunk_at(&self.nodes, content, size, index).await? {
                    None => Err(Failure::new(
                        FailureKind::Damaged,
                        format!("damaged volume: a file of {size} bytes has no chunk {index}"),
                    )),
                    Some(ChunkRef::Hole) => Ok(None),
                    Some(ChunkRef::Object { epoch, id }) => {
                        Ok(Some(self.volume.chunk(epoch, &id, raw_len).await?))
                    }
                    Some(ChunkRef::Packed(blob)) => Ok(Some(self.nodes.blob(&blob, len).await?)),
                }
            }
            Content::Local(_) => Err(Failure::new(
                FailureKind::Damaged,
                "damaged volume: content of another machine",
            )),
        }
    }
}

/// How many pieces a file is read in: its chunks, or 1.
pub fn pieces_of(size: u64, content: &Content) -> u64 {
    match content {
        Content::Chunks { .. } | Content::Paged { .. } => chunk_count(size),
        _ => 1,
    }
}
