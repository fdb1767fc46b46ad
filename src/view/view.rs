//! The view itself: its locks, and how a question is asked until it is answered.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::{Mutex, RwLock};

use super::backing::Passthrough;
use super::descriptors::Descriptors;
use super::dirs::DirHandle;
use super::edit::{Edit, Writer};
use super::file::FileData;
use super::passthrough::Readers;
use super::reload::count_bodies;
use super::space::{Ask, Look, Space};
use super::types::{Fh, Ino, OpenFlags};
use super::{Clock, ContentSource, Room, ViewError, ViewOptions};
use crate::model::{FileId, FileIds, Timestamp, TreeRoot};
use crate::overlay::{BaseRef, Overlay, OverlayState};
use crate::tree::{self, Missing, NodeSource};

/// The tree that a process sees.
///
/// Every operation completes at its first poll when nothing must be fetched, except that `fsync` and `fsyncdir` block on
/// the local disk. One that is dropped while it waits has done nothing that can be seen.
pub struct View {
    pub(super) options: ViewOptions,
    pub(super) source: Arc<dyn ContentSource>,
    pub(super) room: Option<Arc<dyn Room>>,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) dirty: Dirty,
    pub(super) space: RwLock<Space>,
    pub(super) files: RwLock<HashMap<Fh, Arc<FileHandle>>>,
    pub(super) dirs: RwLock<HashMap<Fh, Arc<Mutex<DirHandle>>>>,
    pub(super) passthrough: RwLock<Passthrough>,
    /// Live files whose last handle for writing, or last handle at all, was closed.
    pub(super) closing: Mutex<Vec<Arc<FileData>>>,
    /// Told when one gets there.
    pub(super) closed: tokio::sync::Notify,
    pub(super) readers: Mutex<Readers>,
    next_fh: AtomicU64,
    file_ids: FileIds,
}

impl std::fmt::Debug for View {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("View")
            .field("options", &self.options)
            .finish_non_exhaustive()
    }
}

/// What the view stands on.
pub struct ViewParts {
    /// Clean bytes and nodes.
    pub source: Arc<dyn ContentSource>,
    /// Asked for room when the local disk is full.
    pub room: Option<Arc<dyn Room>>,
    /// Stamps times.
    pub clock: Arc<dyn Clock>,
}

/// Local changes.
pub enum Dirty {
    /// In a state directory.
    Overlay(Arc<Overlay>),
    /// There are none: a read-only mount.
    None(Box<RwLock<OverlayState>>),
}

/// A file opened by somebody.
#[derive(Debug)]
pub(super) struct FileHandle {
    pub ino: Ino,
    pub flags: OpenFlags,
    pub file: Arc<FileData>,
}

impl View {
    /// The view of `base`, which the overlay stands on, with the overlay's changes. Asks the filesystem for the size of
    /// each body.
    pub fn new(options: ViewOptions, overlay: Arc<Overlay>, base: TreeRoot, parts: ViewParts) -> View {
        let space = {
            let state = overlay.read();
            Space::new(base, &state, options.shown_owner)
        };
        let view = View::assemble(options, Dirty::Overlay(overlay), space, parts);
        if let Some(overlay) = view.overlay() {
            view.with_look(|look| count_bodies(&look.space.usage, overlay, look.state));
        }
        view
    }

    /// The view of a record without any changes: every change is refused.
    pub fn read_only(options: ViewOptions, base: TreeRoot, base_ref: BaseRef, parts: ViewParts) -> View {
        let options = ViewOptions {
            read_only: true,
            ..options
        };
        let state = OverlayState::new(base_ref, base.attrs.clone());
        let space = Space::new(base, &state, options.shown_owner);
        View::assemble(options, Dirty::None(Box::new(RwLock::new(state))), space, parts)
    }

    fn assemble(options: ViewOptions, dirty: Dirty, space: Space, parts: ViewParts) -> View {
        View {
            file_ids: FileIds::new(options.first_file_id),
            options,
            source: parts.source,
            room: parts.room,
            clock: parts.clock,
            dirty,
            space: RwLock::new(space),
            files: RwLock::default(),
            dirs: RwLock::default(),
            passthrough: RwLock::default(),
            closing: Mutex::default(),
            closed: tokio::sync::Notify::new(),
            readers: Mutex::default(),
            next_fh: AtomicU64::new(1),
        }
    }

    /// Counts reloads; names and listings that the kernel keeps belong to one generation.
    pub fn generation(&self) -> u64 {
        self.space.read().generation
    }

    /// Inodes in the table, for `status`.
    pub fn inodes(&self) -> usize {
        self.space.read().inodes.len()
    }

    pub(super) fn nodes(&self) -> &dyn NodeSource {
        &*self.source
    }

    pub(super) fn overlay(&self) -> Option<&Overlay> {
        match &self.dirty {
            Dirty::Overlay(overlay) => Some(overlay),
            Dirty::None(_) => None,
        }
    }

    pub(super) fn now(&self) -> Timestamp {
        self.clock.now()
    }

    pub(super) fn new_fh(&self) -> Fh {
        self.next_fh.fetch_add(1, Ordering::Relaxed)
    }

    /// A file id that this session has not given yet.
    pub(super) fn new_file_id(&self) -> FileId {
        self.file_ids.draw()
    }

    /// Clean files that the kernel reads by itself may take so many descriptors from now on; the bytes of more go through the
    /// daemon. No limit by default.
    pub fn set_descriptors_max(&self, max: usize) {
        self.descriptors().set_max(max);
    }

    pub(super) fn descriptors(&self) -> Arc<Descriptors> {
        self.space.read().descriptors.clone()
    }

    /// Every change passes here first.
    pub(super) fn check_writable(&self) -> Result<(), ViewError> {
        if self.options.read_only {
            Err(ViewError::ReadOnly)
        } else {
            Ok(())
        }
    }

    // ---- locks ----

    /// Looks at the namespace under its locks.
    pub(super) fn with_look<T>(&self, question: impl FnOnce(Look<'_>) -> T) -> T {
        let space = self.space.read();
        match &self.dirty {
            Dirty::Overlay(overlay) => {
                let state = overlay.read();
                question(Look {
                    space: &space,
                    state: &state,
                    overlay: Some(overlay),
                })
            }
            Dirty::None(state) => question(Look {
                space: &space,
                state: &state.read(),
                overlay: None,
            }),
        }
    }

    /// Changes the namespace under its locks.
    pub(super) fn with_edit<T>(&self, change: impl FnOnce(&mut Edit<'_>) -> T) -> T {
        let space = self.space.write();
        let (state, overlay) = match &self.dirty {
            Dirty::Overlay(overlay) => (Writer::Journal(overlay.write()), Some(&**overlay)),
            Dirty::None(state) => (Writer::ReadOnly(state.read()), None),
        };
        change(&mut Edit {
            space,
            state,
            overlay,
        })
    }

    /// A question over the namespace, asked again after each fetch that it needs.
    pub(super) async fn look<T>(
        &self,
        question: impl Fn(&dyn NodeSource, Look<'_>) -> Result<T, Ask>,
    ) -> Result<T, ViewError> {
        self.ask(|src| self.with_look(|look| question(src, look))).await
    }

    /// A change of the namespace, tried again after each fetch that it needs: everything that may have to be fetched is
    /// asked before the first effect.
    pub(super) async fn edit<T>(
        &self,
        change: impl Fn(&dyn NodeSource, &mut Edit<'_>) -> Result<T, Ask>,
    ) -> Result<T, ViewError> {
        self.ask(|src| self.with_edit(|edit| change(src, edit))).await
    }

    async fn ask<T>(&self, question: impl Fn(&dyn NodeSource) -> Result<T, Ask>) -> Result<T, ViewError> {
        let mut answer = question(self.nodes());
        loop {
            match answer {
                Ok(answer) => return Ok(answer),
                Err(Ask::Fail(error)) => return Err(error),
                Err(Ask::Old(ino)) => {
                    let refresh = |src: &dyn NodeSource| self.with_edit(|edit| edit.refresh(src, ino));
                    if let Err(ask) = tree::answer(self.nodes(), |src| split(refresh(src))).await? {
                        return Err(failed(ask, ino));
                    }
                    answer = question(self.nodes());
                }
                Err(Ask::Missing(_)) => {
                    answer = tree::answer(self.nodes(), |src| split(question(src))).await?
                }
            }
        }
    }
}

/// What [`tree::answer`] fetches for is told apart from all other answers.
fn split<T>(answer: Result<T, Ask>) -> Result<Result<T, Ask>, Missing> {
    match answer {
        Err(Ask::Missing(missing)) => Err(missing),
        other => Ok(other),
    }
}

fn failed(ask: Ask, ino: Ino) -> ViewError {
    match ask {
        Ask::Fail(error) => error,
        Ask::Old(_) | Ask::Missing(_) => ViewError::Stale { ino },
    }
}
