//! The first half of a commit: the frozen changes become an uploaded tree.
//!
//! The letters are those of LOG.md 3: B is the tree that the changes were made on, M the tree that they make, S its sources
//! (the records that B came from).

use std::sync::Arc;

use super::build::reachable;
use super::build::{Built, Contents, build};
use super::edit::{Edit, apply_edits, edited_files};
use super::error::CommitError;
use super::surroundings::Commit;
use super::upload::{DirtyFile, Upload, UploadedFiles};
use crate::model::{Content, Epoch, Hash, Kind, TreeRoot, VolPath};
use crate::overlay::{BaseRef, OverlayState};
use crate::tree::NodeSource;
use crate::volume::Head;

/// Local changes as of one moment (the freeze), and the tree that they were made on.
#[derive(Clone, Debug)]
pub struct Frozen {
    /// B, the tree that the changes were made on.
    pub(super) base: TreeRoot,
    /// The reference to B, with its sources S.
    pub(super) base_ref: BaseRef,
    pub(super) changes: Changes,
}

/// Where the changes come from.
#[derive(Clone, Debug)]
pub(super) enum Changes {
    /// The overlay of a mount.
    Overlay(Arc<OverlayState>),
    /// A list of edits, made by a command without a mount.
    Edits(Arc<Vec<Edit>>),
}

/// Changes whose bytes are all in the store (except those that are stored in one pack with the nodes), and the tree M.
#[derive(Clone, Debug)]
#[must_use = "uploaded changes are not published yet"]
pub struct Uploaded {
    pub(super) frozen: Frozen,
    pub(super) files: UploadedFiles,
    pub(super) built: Built,
    pub(super) still_written: Vec<VolPath>,
    pub(super) counted: Counted,
}

/// What a commit changes, for people.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Counted {
    /// Files and other entries that are not directories: created, changed or moved.
    pub files: u64,
    /// Directories created, changed or moved.
    pub dirs: u64,
    /// Files whose bytes were read.
    pub contents: u64,
    /// Logical size of those files, bytes.
    pub bytes: u64,
}

impl Frozen {
    /// The overlay as it is now; `base` is the tree that it stands on.
    pub fn overlay(overlay: Arc<OverlayState>, base: TreeRoot) -> Frozen {
        Frozen {
            base,
            base_ref: overlay.base.clone(),
            changes: Changes::Overlay(overlay),
        }
    }

    /// A freeze of a list of edits, applied to a record's tree in order.
    pub fn edits(head: &Head, edits: Vec<Edit>) -> Frozen {
        let base_ref = BaseRef {
            seq: head.seq(),
            record: head.hash(),
            prepared: None,
            sources: vec![head.seq()],
        };
        let base = head.record().root.root.clone();
        Frozen {
            base,
            base_ref,
            changes: Changes::Edits(Arc::new(edits)),
        }
    }

    /// True if there is nothing to commit.
    pub fn is_clean(&self) -> bool {
        match &self.changes {
            Changes::Overlay(overlay) => overlay.is_clean(),
            Changes::Edits(edits) => edits.is_empty(),
        }
    }

    /// Files whose bytes have to be read.
    async fn dirty_files(&self, src: &dyn NodeSource) -> Result<Vec<DirtyFile>, CommitError> {
        match &self.changes {
            Changes::Overlay(overlay) => {
                let paths = reachable(overlay)?.paths;
                let files = overlay.nodes.iter().filter_map(|(id, node)| {
                    let file = node
                        .body
                        .as_file()
                        .filter(|file| file.dirty && file.body.is_some())?;
                    // A hard-linked inode may have names only in the base, which the overlay does not know.
                    let nameless = node.link.is_some() && node.nlink > 0;
                    let path = paths.get(id).cloned().or_else(|| nameless.then(VolPath::root))?;
                    Some(DirtyFile {
                        node: *id,
                        path,
                        state: file.clone(),
                    })
                });
                Ok(files.collect())
            }
            Changes::Edits(edits) => Ok(edited_files(src, &self.base, edits).await?),
        }
    }

    /// Builds M, given the contents of its changed files.
    pub(super) async fn build(
        &self,
        src: &dyn NodeSource,
        contents: &Contents,
    ) -> Result<Built, CommitError> {
        match &self.changes {
            Changes::Overlay(overlay) => Ok(build(src, &self.base, overlay, contents).await?),
            Changes::Edits(edits) => apply_edits(src, &self.base, edits, contents).await,
        }
    }

    fn count(&self, files: &UploadedFiles) -> Counted {
        let mut counted = Counted {
            contents: files.contents.len() as u64,
            bytes: files.bytes,
            ..Counted::default()
        };
        match &self.changes {
            Changes::Overlay(overlay) => {
                let differing = overlay
                    .nodes
                    .iter()
                    .filter(|(id, node)| overlay.differs(**id, node));
                for (_, node) in differing {
                    match node.kind() {
                        Kind::Dir => counted.dirs += 1,
                        _ => counted.files += 1,
                    }
                }
            }
            Changes::Edits(edits) => {
                for edit in edits.iter() {
                    match edit {
                        Edit::Mkdir { .. } => counted.dirs += 1,
                        Edit::DirAttrs { .. } => {}
                        _ => counted.files += 1,
                    }
                }
            }
        }
        counted
    }

    /// Uploads the bytes under `epoch`, the epoch of the newest known record, and builds M.
    ///
    /// # Errors
    /// Errors of the store or the local disk. Objects that were uploaded stay in the ledger and are not sent again.
    pub async fn upload(self, commit: &Commit<'_>, epoch: Epoch) -> Result<Uploaded, CommitError> {
        let upload = Upload {
            volume: commit.volume,
            nodes: commit.nodes,
            files: commit.files,
            ledger: commit.ledger,
            hints: commit.hints,
            limits: commit.limits,
            progress: commit.progress,
            epoch,
        };
        let files = upload.run(self.dirty_files(commit.nodes).await?).await?;
        let built = self.build(commit.nodes, &files.contents).await?;
        let path = |node| built.paths.get(node).cloned();
        let mut still_written: Vec<VolPath> = files.still_written.iter().filter_map(path).collect();
        still_written.sort();
        let counted = self.count(&files);
        Ok(Uploaded {
            frozen: self,
            files,
            built,
            still_written,
            counted,
        })
    }
}

impl Uploaded {
    /// Builds M: the base with the changes applied.
    pub fn tree(&self) -> &TreeRoot {
        &self.built.tree
    }

    /// The input of the transaction's id: different for different commits.
    pub(super) fn digest(&self) -> Hash {
        let mut nodes: Vec<_> = self.files.contents.iter().collect();
        nodes.sort_by_key(|(node, _)| **node);
        let mut digest = blake3::Hasher::new();
        for (node, (size, content)) in nodes {
            digest.update(&node.to_le_bytes());
            digest.update(&size.to_le_bytes());
            match content {
                Content::Tiny(bytes) => digest.update(bytes),
                Content::Blob(blob) => digest.update(&blob.id.0),
                Content::Chunks { cid, .. } | Content::Paged { cid, .. } => digest.update(&cid.0),
                Content::Local(_) => &mut digest,
            };
        }
        let mut paths: Vec<&VolPath> = self.built.paths.values().collect();
        paths.sort();
        for name in paths.into_iter().flat_map(|path| &path.0) {
            digest.update(name.as_bytes());
            digest.update(b"/");
        }
        Hash(*digest.finalize().as_bytes())
    }
}
