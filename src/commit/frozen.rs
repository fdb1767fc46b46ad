//! The first half of a commit: what is frozen becomes what is uploaded.

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

/// Changes that do not change any more, and the tree that they were made on.
#[derive(Clone, Debug)]
pub struct Frozen {
    /// B.
    pub(super) base: TreeRoot,
    /// Its reference, with S.
    pub(super) base_ref: BaseRef,
    pub(super) changes: Changes,
}

/// Where changes come from.
#[derive(Clone, Debug)]
pub(super) enum Changes {
    /// A mount's overlay.
    Overlay(Arc<OverlayState>),
    /// Commands without a mount.
    Edits(Arc<Vec<Edit>>),
}

/// Changes of which all bytes are in the store (but for what shares the pack of the nodes), and the tree they make.
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
    /// Entries that are no directories: made, changed or moved.
    pub files: u64,
    /// Directories: made, changed or moved.
    pub dirs: u64,
    /// Files whose bytes were looked at.
    pub contents: u64,
    /// Logical bytes of those.
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

    /// Edits of a record's tree, made one after the other.
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

    /// There is nothing to commit.
    pub fn is_clean(&self) -> bool {
        match &self.changes {
            Changes::Overlay(overlay) => overlay.is_clean(),
            Changes::Edits(edits) => edits.is_empty(),
        }
    }

    /// Files whose bytes have to be looked at.
    async fn dirty_files(&self, src: &dyn NodeSource) -> Result<Vec<DirtyFile>, CommitError> {
        match &self.changes {
            Changes::Overlay(overlay) => {
                let paths = reachable(overlay)?.paths;
                let files = overlay.nodes.iter().filter_map(|(id, node)| {
                    let file = node
                        .body
                        .as_file()
                        .filter(|file| file.dirty && file.body.is_some())?;
                    // An inode of the links tree may have no name that the overlay knows.
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

    /// M, with these contents.
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

    /// Brings the bytes into the store under `epoch`, that of the newest known record, and makes M.
    ///
    /// # Errors
    /// What the store or the local disk says; what arrived is in the ledger.
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
    /// M: the base with the changes.
    pub fn tree(&self) -> &TreeRoot {
        &self.built.tree
    }

    /// What the transaction's id is made over: keeps apart commits that differ.
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
