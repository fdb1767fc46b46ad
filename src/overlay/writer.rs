//! Changing the state: journal first, then memory (J1).

use std::collections::HashMap;
use std::ops::Deref;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use parking_lot::RwLockWriteGuard;

use super::bodies::Bodies;
use super::body::Body;
use super::codec::{PAYLOAD_BYTES_MAX, encode_op, put_runs};
use super::error::{AtPath, OverlayError};
use super::frame::{SYNCED, Tail};
use super::journal::sync_dir;
use super::op::Op;
use super::overlay::Overlay;
use super::snapshot::CONTENTS_PER_FRAME;
use super::state::{BodyId, NodeId, OverlayState};
use crate::format::wire::Writer;

/// The state under its lock.
pub struct StateWriter<'a> {
    pub(super) overlay: &'a Overlay,
    pub(super) state: RwLockWriteGuard<'a, OverlayState>,
}

impl Deref for StateWriter<'_> {
    type Target = OverlayState;
    fn deref(&self) -> &OverlayState {
        &self.state
    }
}

impl StateWriter<'_> {
    /// As [`Overlay::apply`].
    pub fn apply(&mut self, op: &Op) -> Result<(), OverlayError> {
        self.apply_all(std::slice::from_ref(op))
    }

    /// Several changes with one write to the journal, in order. When one contradicts the state, those before it hold; when
    /// the journal cannot be written, none does.
    pub fn apply_all(&mut self, ops: &[Op]) -> Result<(), OverlayError> {
        let mut freed = Vec::new();
        let done = self.apply_collecting(ops, &mut freed);
        let journal_bytes = self.overlay.journal.lock().bytes();
        self.overlay.has_grown_to(self.state.nodes.len(), journal_bytes);
        let position = self.overlay.appended.load(Ordering::Acquire);
        self.overlay
            .bodies
            .doom(freed.into_iter().map(|(body, _)| body), position);
        done
    }

    /// `freed`: bodies that nothing has any more, with the nodes that they were of.
    fn apply_collecting(
        &mut self,
        ops: &[Op],
        freed: &mut Vec<(BodyId, NodeId)>,
    ) -> Result<(), OverlayError> {
        let mut journal = self.overlay.journal.lock();
        let mut tail = journal.tail();
        let mut frames = Vec::with_capacity(128 * ops.len());
        // Where the journal ends before each op.
        let mut before: Vec<Tail> = Vec::with_capacity(ops.len());
        let mut payload = Writer::new();
        for op in ops {
            before.push(tail);
            payload.clear();
            encode_op(&mut payload, op)?;
            if payload.len() > PAYLOAD_BYTES_MAX {
                return Err(OverlayError::Encode("one change of more than 64 MiB".into()));
            }
            tail.frame(&mut frames, payload.as_slice());
            if let Op::GiveBody { body, .. } = op
                && self.overlay.bodies.is_durable(*body)
            {
                payload.clear();
                payload.u8(SYNCED);
                put_runs(&mut payload, &[(*body, tail.sequence)]);
                tail.frame(&mut frames, payload.as_slice());
            }
        }
        journal.append(&frames, tail, ops.iter().any(Op::grows))?;
        let position = self.overlay.appended.fetch_add(1, Ordering::AcqRel);
        for (op, before) in ops.iter().zip(before) {
            let had = candidates(&self.state, op);
            let sequence = before.sequence + 1;
            if journal.unsynced.note(&self.state, op, sequence, position) {
                self.overlay.bodies.want_sync();
            }
            if let Err(e) = self.state.apply(op) {
                journal.cut(before)?;
                return Err(e.into());
            }
            if let Op::GiveBody { body, .. } = op
                && self.overlay.bodies.take_durable(*body)
            {
                journal.unsynced.synced(*body, sequence);
            }
            collect_freed(&self.state, op, had, freed);
        }
        Ok(())
    }
}

impl Op {
    /// It makes things: refused when the disk is nearly full, so that there is room left for the journal of what removes.
    fn grows(&self) -> bool {
        matches!(self, Op::Create { .. } | Op::Link { .. } | Op::GiveBody { .. })
    }
}

/// Bodies that may have no owner after the op.
fn candidates(state: &OverlayState, op: &Op) -> HashMap<BodyId, NodeId> {
    let body_of =
        |state: &OverlayState, id: &NodeId| state.nodes.get(id).and_then(|node| node.body.as_file()?.body);
    match op {
        Op::Forget { id } | Op::GiveBody { id, .. } | Op::ReplaceContent { id, .. } | Op::DropBody { id } => {
            body_of(state, id).map(|body| (body, *id)).into_iter().collect()
        }
        Op::Published { .. } | Op::Unfrozen { .. } => {
            let frozen = state.frozen.iter().map(|frozen| &*frozen.state);
            let states = frozen.chain([state]);
            states
                .flat_map(|s| s.nodes.keys().filter_map(move |id| Some((body_of(s, id)?, *id))))
                .collect()
        }
        _ => HashMap::new(),
    }
}

fn collect_freed(
    state: &OverlayState,
    op: &Op,
    had: HashMap<BodyId, NodeId>,
    freed: &mut Vec<(BodyId, NodeId)>,
) {
    if matches!(op, Op::Published { .. } | Op::Unfrozen { .. }) {
        let used = state.bodies();
        freed.extend(had.into_iter().filter(|(body, _)| !used.contains(body)));
        return;
    }
    let has = |state: &OverlayState, id: &NodeId, body: BodyId| {
        state.nodes.get(id).and_then(|node| node.body.as_file()?.body) == Some(body)
    };
    for (body, id) in had {
        let frozen = state
            .frozen
            .as_ref()
            .is_some_and(|frozen| has(&frozen.state, &id, body));
        if !frozen && !has(state, &id, body) {
            freed.push((body, id));
        }
    }
}

impl Overlay {
    /// Applies [`Op::Published`] or [`Op::Unfrozen`] and gives the bodies that nothing needs any more, once the record of
    /// that is on disk (J8). Each is deleted when dropped, unless it was moved.
    pub fn apply_freeing(&self, op: &Op) -> Result<Vec<FreedBody>, OverlayError> {
        let mut freed = Vec::new();
        {
            let mut writer = self.write();
            match op {
                Op::Published {
                    commit,
                    base,
                    contents,
                } if contents.len() > CONTENTS_PER_FRAME => {
                    let mut ops: Vec<Op> = contents
                        .chunks(CONTENTS_PER_FRAME)
                        .map(|piece| Op::Uploaded {
                            commit: *commit,
                            contents: piece.to_vec(),
                        })
                        .collect();
                    ops.push(Op::Published {
                        commit: *commit,
                        base: base.clone(),
                        contents: Vec::new(),
                    });
                    writer.apply_collecting(&ops, &mut freed)?
                }
                op => writer.apply_collecting(std::slice::from_ref(op), &mut freed)?,
            }
        }
        self.sync()?;
        let freed = freed.into_iter();
        Ok(freed
            .map(|(body, node)| FreedBody {
                body,
                node,
                bodies: self.bodies.clone(),
                moved: false,
            })
            .collect())
    }
}

/// A body that left the overlay. Deleted when dropped.
pub struct FreedBody {
    body: BodyId,
    node: NodeId,
    bodies: Arc<Bodies>,
    moved: bool,
}

impl FreedBody {
    /// The node that it was of.
    pub fn node(&self) -> NodeId {
        self.node
    }

    /// Its number.
    pub fn id(&self) -> BodyId {
        self.body
    }

    /// The bytes.
    pub fn open(&self) -> Result<Arc<Body>, OverlayError> {
        self.bodies.open(self.body)
    }

    /// Where it lies.
    pub fn path(&self) -> std::path::PathBuf {
        self.bodies.path(self.body)
    }

    /// Renames it to the path of another body (see [`Overlay::take_in_body`]); false, and it is deleted, if that fails.
    pub fn become_body(mut self, path: &Path) -> bool {
        let open = self.bodies.keep_open(self.body);
        self.moved = open.is_ok() && std::fs::rename(self.path(), path).is_ok();
        self.moved
    }

    /// Renames it out of the state directory, into the cache say. Fails across filesystems; then it is deleted.
    pub fn move_to(mut self, path: &Path) -> Result<(), OverlayError> {
        self.bodies.keep_open(self.body)?;
        std::fs::rename(self.path(), path).at(path)?;
        self.moved = true;
        sync_dir(path.parent().unwrap_or(Path::new(".")))
    }
}

impl std::fmt::Debug for FreedBody {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("FreedBody")
            .field("body", &self.body)
            .finish_non_exhaustive()
    }
}

impl Drop for FreedBody {
    fn drop(&mut self) {
        if !self.moved {
            self.bodies.doom([self.body], 0);
        }
    }
}
