//! A whole state as frames: what a journal begins with.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use super::codec::*;
use super::frame::Tail;
use super::op::Op;
use super::state::{
    BaseRef, Change, DirChanges, FileState, Frozen, NodeBody, NodeId, OverlayNode, OverlayState, Prepared,
    ROOT_NODE,
};
use super::unsynced::Unsynced;
use crate::format::EncodeError;
use crate::format::wire::{Corrupt, Reader, Writer};
use crate::model::{Kind, LinkId, Name, TxnId};

pub(super) const BEGIN: u8 = 8;
pub(super) const NODE: u8 = 9;
pub(super) const CHANGES: u8 = 10;
pub(super) const COMMIT: u8 = 11;
pub(super) const UNSYNCED: u8 = 12;
pub(super) const END: u8 = 13;

const FROZEN: u8 = 0;
const CURRENT: u8 = 1;
const FORGOTTEN: u8 = 1;
/// Names of a directory in one frame.
const CHANGES_PER_FRAME: usize = 4096;
/// Contents of one `uploaded` frame.
pub(super) const CONTENTS_PER_FRAME: usize = 16384;
/// Frames are handed on when there are about this many bytes.
const BATCH_BYTES: usize = 1 << 20;

/// Writes the frames of a snapshot to `out` in batches; `tail` moves along. The next frame's sequence number is the one
/// after `sequence`.
///
/// # Errors
/// `out`'s, or a value that cannot be encoded (which no state that came from ops has).
pub(super) fn write<E: From<EncodeError>>(
    state: &OverlayState,
    unsynced: &Unsynced,
    sequence: u64,
    tail: &mut Tail,
    out: &mut dyn FnMut(&[u8]) -> Result<(), E>,
) -> Result<(), E> {
    let mut batch = Batch {
        tail,
        out,
        bytes: Vec::new(),
        payload: Writer::new(),
    };
    if let Some(frozen) = &state.frozen {
        batch.state(&frozen.state, FROZEN)?;
        batch.commit(frozen)?;
    }
    batch.state(state, CURRENT)?;
    for (body, fresh, runs) in unsynced.list() {
        batch.frame(|w| {
            w.u8(UNSYNCED);
            w.uv(body);
            put_option(w, fresh.as_ref(), |w, given| w.uv(*given));
            w.uv(runs.len() as u64);
            for (sequence, first, count) in &runs {
                w.uv(*sequence);
                w.uv(*first);
                w.uv(*count);
            }
            Ok(())
        })?;
    }
    let nodes = state.nodes.len() as u64;
    batch.frame(|w| {
        w.u8(END);
        w.uv(nodes);
        w.uv(sequence);
        Ok(())
    })?;
    batch.tail.sequence = sequence;
    batch.flush()
}

struct Batch<'a, E> {
    tail: &'a mut Tail,
    out: &'a mut dyn FnMut(&[u8]) -> Result<(), E>,
    bytes: Vec<u8>,
    payload: Writer,
}

impl<E: From<EncodeError>> Batch<'_, E> {
    fn frame(&mut self, put: impl FnOnce(&mut Writer) -> Result<(), EncodeError>) -> Result<(), E> {
        self.payload.clear();
        put(&mut self.payload)?;
        self.tail.frame(&mut self.bytes, self.payload.as_slice());
        if self.bytes.len() >= BATCH_BYTES {
            self.flush()
        } else {
            Ok(())
        }
    }

    fn flush(&mut self) -> Result<(), E> {
        (self.out)(&self.bytes)?;
        self.bytes.clear();
        Ok(())
    }

    fn state(&mut self, state: &OverlayState, what: u8) -> Result<(), E> {
        self.frame(|w| {
            w.u8(BEGIN);
            w.u8(what);
            put_base(w, &state.base);
            for number in [
                state.next_node,
                state.next_body,
                state.generation,
                state.last_commit,
            ] {
                w.uv(number);
            }
            Ok(())
        })?;
        let mut ids: Vec<NodeId> = state.nodes.keys().copied().collect();
        ids.sort_unstable();
        for id in ids {
            let node = &state.nodes[&id];
            let forgotten = state.forgotten.contains(&id);
            self.frame(|w| {
                w.u8(NODE);
                w.uv(id);
                w.u8(if forgotten { FORGOTTEN } else { 0 });
                put_node(w, node)
            })?;
            if let NodeBody::Dir(dir) = &node.body {
                let changes: Vec<_> = dir.changes.iter().skip(CHANGES_PER_FRAME).collect();
                for piece in changes.chunks(CHANGES_PER_FRAME) {
                    self.frame(|w| {
                        w.u8(CHANGES);
                        w.uv(id);
                        put_changes(w, piece.iter().copied(), piece.len());
                        Ok(())
                    })?;
                }
            }
        }
        Ok(())
    }

    fn commit(&mut self, frozen: &Frozen) -> Result<(), E> {
        self.frame(|w| {
            w.u8(COMMIT);
            w.uv(frozen.commit);
            put_option(w, frozen.prepared.as_ref(), |w, p| {
                put_prepared(w, &p.txn, p.after, p.tree.as_ref())
            });
            Ok(())
        })?;
        let contents: Vec<_> = frozen
            .uploaded
            .iter()
            .map(|(id, (size, content))| (*id, *size, content.clone()))
            .collect();
        for piece in contents.chunks(CONTENTS_PER_FRAME) {
            let op = Op::Uploaded {
                commit: frozen.commit,
                contents: piece.to_vec(),
            };
            self.frame(|w| encode_op(w, &op))?;
        }
        Ok(())
    }
}

fn put_node(w: &mut Writer, node: &OverlayNode) -> Result<(), EncodeError> {
    w.uv(node.generation);
    put_option(w, node.origin.as_ref(), put_origin);
    put_names(w, &node.names);
    w.uv(node.nlink);
    put_option(w, node.link.as_ref(), |w, link| w.raw(&link.0));
    put_attrs(w, &node.attrs)?;
    w.u8(u8::from(node.base_attrs.is_some()));
    if let Some(attrs) = &node.base_attrs {
        put_attrs(w, attrs)?;
    }
    match &node.body {
        NodeBody::Dir(dir) => {
            w.u8(Kind::Dir as u8);
            w.zz(dir.subdirs_delta);
            let first = dir.changes.len().min(CHANGES_PER_FRAME);
            put_changes(w, dir.changes.iter().take(first), first);
        }
        NodeBody::File(file) => {
            w.u8(Kind::File as u8);
            put_base_content(w, file.base.as_ref())?;
            put_option(w, file.body.as_ref(), |w, body| w.uv(*body));
            w.u8(u8::from(file.dirty));
            w.uv(file.bytes_generation);
            put_present(w, file.present.as_deref());
            w.uv(file.base_valid);
        }
        NodeBody::Symlink(target) => {
            w.u8(Kind::Symlink as u8);
            w.bytes(target);
        }
        NodeBody::Fifo => w.u8(Kind::Fifo as u8),
        NodeBody::Socket => w.u8(Kind::Socket as u8),
        NodeBody::CharDev(major, minor) => put_device(w, Kind::CharDev, *major, *minor),
        NodeBody::BlockDev(major, minor) => put_device(w, Kind::BlockDev, *major, *minor),
    }
    Ok(())
}

fn get_node(r: &mut Reader<'_>) -> Result<OverlayNode, Corrupt> {
    Ok(OverlayNode {
        generation: r.uv()?,
        origin: get_option(r, get_origin)?,
        names: get_names(r)?,
        nlink: r.uv()?,
        link: get_option(r, |r| Ok(LinkId(r.array()?)))?,
        attrs: get_attrs(r)?,
        base_attrs: get_option(r, get_attrs)?,
        body: match get_kind(r)? {
            Some(Kind::Dir) => {
                let subdirs_delta = r.zz()?;
                NodeBody::Dir(DirChanges {
                    subdirs_delta,
                    changes: get_changes(r)?.into_iter().collect(),
                })
            }
            Some(Kind::File) => NodeBody::File(FileState {
                base: get_option(r, get_sized_content)?,
                body: get_option(r, Reader::uv)?,
                dirty: get_bool(r)?,
                bytes_generation: r.uv()?,
                present: get_present(r)?,
                base_valid: r.uv()?,
            }),
            Some(Kind::Symlink) => NodeBody::Symlink(get_target(r)?),
            Some(Kind::Fifo) => NodeBody::Fifo,
            Some(Kind::Socket) => NodeBody::Socket,
            Some(Kind::CharDev) => NodeBody::CharDev(r.uv32()?, r.uv32()?),
            Some(Kind::BlockDev) => NodeBody::BlockDev(r.uv32()?, r.uv32()?),
            Some(Kind::HardLink) | None => return Err(r.corrupt("a node of no kind")),
        },
    })
}

fn put_changes<'a>(w: &mut Writer, changes: impl Iterator<Item = (&'a Name, &'a Change)>, count: usize) {
    w.uv(count as u64);
    for (name, change) in changes {
        put_name(w, name);
        match change {
            Change::Whiteout(kind) => {
                w.u8(0);
                put_kind(w, Some(*kind));
            }
            Change::Node { id, hides } => {
                w.u8(1);
                w.uv(*id);
                put_kind(w, *hides);
            }
        }
    }
}

fn get_changes(r: &mut Reader<'_>) -> Result<Vec<(Name, Change)>, Corrupt> {
    let count = r.count(4)?;
    let mut changes = Vec::with_capacity(count);
    for _ in 0..count {
        let name = get_name(r)?;
        let change = match r.u8()? {
            0 => Change::Whiteout(get_kind(r)?.ok_or_else(|| r.corrupt("a whiteout of no kind"))?),
            1 => Change::Node {
                id: r.uv()?,
                hides: get_kind(r)?,
            },
            _ => return Err(r.corrupt("a change of unknown form")),
        };
        changes.push((name, change));
    }
    Ok(changes)
}

/// Puts a snapshot together again, frame by frame.
#[derive(Debug, Default)]
pub(super) struct Builder {
    part: Option<(u8, OverlayState)>,
    frozen: Option<Frozen>,
    unsynced: Unsynced,
}

impl Builder {
    /// Takes the next frame; the last one gives the state, what is not synced, and the sequence number to go on from.
    pub(super) fn step(
        &mut self,
        kind: u8,
        r: &mut Reader<'_>,
    ) -> Result<Option<(OverlayState, Unsynced, u64)>, Corrupt> {
        match kind {
            BEGIN => self.begin(r)?,
            NODE => {
                let id = r.uv()?;
                let flags = r.u8()?;
                r.require(flags & !FORGOTTEN == 0, "unknown flags")?;
                let node = get_node(r)?;
                let state = self.state(r)?;
                if flags & FORGOTTEN != 0 {
                    state.forgotten.insert(id);
                }
                let old = state.nodes.insert(id, Arc::new(node));
                r.require(old.is_none(), "a node stands twice in a snapshot")?;
            }
            CHANGES => {
                let id = r.uv()?;
                let changes = get_changes(r)?;
                let node = self.state(r)?.nodes.get_mut(&id);
                let Some(NodeBody::Dir(dir)) = node.map(|node| &mut Arc::make_mut(node).body) else {
                    return Err(r.corrupt("changes of a directory that is not there"));
                };
                dir.changes.extend(changes);
            }
            COMMIT => self.commit(r)?,
            UNSYNCED => {
                let (body, fresh) = (r.uv()?, get_option(r, Reader::uv)?);
                let count = r.count(3)?;
                let runs = (0..count)
                    .map(|_| Ok((r.uv()?, r.uv()?, r.uv()?)))
                    .collect::<Result<_, Corrupt>>()?;
                self.unsynced.restore(body, fresh, runs);
            }
            END => {
                let (nodes, sequence) = (r.uv()?, r.uv()?);
                r.finish()?;
                let (state, unsynced) = self.end(nodes, r)?;
                return Ok(Some((state, unsynced, sequence)));
            }
            _ => match decode_op(kind, r)? {
                Some(Op::Uploaded { commit, contents }) => {
                    let frozen = self.frozen.as_mut().filter(|frozen| frozen.commit == commit);
                    let frozen = frozen.ok_or_else(|| r.corrupt("contents of no commit in a snapshot"))?;
                    frozen
                        .uploaded
                        .extend(contents.into_iter().map(|(id, size, c)| (id, (size, c))));
                }
                _ => return Err(r.corrupt("a snapshot is not finished")),
            },
        }
        r.finish()?;
        Ok(None)
    }

    fn state(&mut self, r: &Reader<'_>) -> Result<&mut OverlayState, Corrupt> {
        self.part
            .as_mut()
            .map(|(_, state)| state)
            .ok_or_else(|| r.corrupt("a snapshot has no beginning"))
    }

    fn begin(&mut self, r: &mut Reader<'_>) -> Result<(), Corrupt> {
        let what = r.u8()?;
        let expected = if self.frozen.is_some() {
            what == CURRENT
        } else {
            what <= CURRENT
        };
        r.require(
            expected && self.part.is_none(),
            "a part of a snapshot is out of order",
        )?;
        let base: BaseRef = get_base(r)?;
        let state = OverlayState {
            base,
            nodes: HashMap::new(),
            links: HashMap::new(),
            next_node: r.uv()?,
            next_body: r.uv()?,
            generation: r.uv()?,
            last_commit: r.uv()?,
            frozen: None,
            origin_refs: HashMap::new(),
            forgotten: HashSet::new(),
        };
        self.part = Some((what, state));
        Ok(())
    }

    fn commit(&mut self, r: &mut Reader<'_>) -> Result<(), Corrupt> {
        let commit = r.uv()?;
        let prepared = get_option(r, |r| {
            Ok(Prepared {
                txn: TxnId(r.array()?),
                after: r.uv()?,
                tree: get_option(r, Reader::hash)?,
            })
        })?;
        let Some((FROZEN, state)) = self.part.take() else {
            return Err(r.corrupt("a commit without its frozen state"));
        };
        let state = Arc::new(finish(state, r)?);
        self.frozen = Some(Frozen {
            commit,
            state,
            uploaded: BTreeMap::new(),
            prepared,
        });
        Ok(())
    }

    fn end(&mut self, nodes: u64, r: &Reader<'_>) -> Result<(OverlayState, Unsynced), Corrupt> {
        let Some((CURRENT, state)) = self.part.take() else {
            return Err(r.corrupt("a snapshot without a current state"));
        };
        r.require(state.nodes.len() as u64 == nodes, "a snapshot lacks nodes")?;
        let mut state = finish(state, r)?;
        if let Some(mut frozen) = self.frozen.take() {
            share(Arc::get_mut(&mut frozen.state), &state);
            state.frozen = Some(Arc::new(frozen));
        }
        Ok((state, std::mem::take(&mut self.unsynced)))
    }
}

/// Fills in what follows from the nodes, and checks that they hang together.
fn finish(mut state: OverlayState, r: &Reader<'_>) -> Result<OverlayState, Corrupt> {
    r.require(state.nodes.contains_key(&ROOT_NODE), "a snapshot without a root")?;
    for (id, node) in &state.nodes {
        r.require(*id < state.next_node, "a node number is not below the next one")?;
        if let Some(super::Origin::Link(link)) = &node.origin {
            let old = state.links.insert(*link, *id);
            r.require(old.is_none(), "two nodes are one inode of the links tree")?;
        }
        if let Some(super::Origin::Entry { parent, .. }) = &node.origin {
            r.require(
                state.nodes.contains_key(parent),
                "an origin names a node that is not there",
            )?;
        }
        for (parent, name) in &node.names {
            let there = state.change(*parent, name.as_bytes());
            let fits = matches!(there, Some(Change::Node { id: there, .. }) if there == id);
            r.require(fits, "a name of a node is not in its directory")?;
        }
        if let NodeBody::Dir(dir) = &node.body {
            let there = dir.changes.values().all(|change| match change {
                Change::Whiteout(_) => true,
                Change::Node { id, .. } => state.nodes.contains_key(id),
            });
            r.require(there, "a directory names a node that is not there")?;
        }
    }
    state.count_origins();
    Ok(state)
}

/// Equal generations mean equal nodes: one copy is enough.
fn share(frozen: Option<&mut OverlayState>, current: &OverlayState) {
    let Some(frozen) = frozen else { return };
    for (id, node) in &mut frozen.nodes {
        if let Some(now) = current.nodes.get(id)
            && now.generation == node.generation
            && !matches!(node.body, NodeBody::Dir(_) | NodeBody::File(_))
        {
            *node = now.clone();
        }
    }
}
