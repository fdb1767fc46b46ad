//! Exchanging the overlay for another one, with or without keeping the old one as a stash.

use std::collections::HashSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;

use super::disk::sync_data;
use super::error::{AtPath, OverlayError};
use super::journal::sync_dir;
use super::manifest::{Manifest, StashInfo, StashLine};
use super::op::Op;
use super::open::{check_header, create_overlay, read_journal};
use super::overlay::{Overlay, overlay_dir};
use super::replay::Replayed;
use super::reserve::Reserve;
use super::state::{BodyId, Change, FileState, NodeBody, NodeId, Origin, OverlayState};
use crate::format::wire::{Reader, Writer};
use crate::model::Timestamp;

/// Most stashes of a state directory; the manifest must stay small.
const STASHES_MAX: usize = 100;

/// What became of local changes.
#[derive(Clone, Debug, Default)]
pub struct Stashed {
    /// The new stash, unless there was nothing to keep.
    pub stash: Option<StashInfo>,
    /// Stashes that were dropped for age or size, oldest first.
    pub dropped: Vec<StashInfo>,
}

impl Overlay {
    /// Everything local moves to a stash, except the nodes `kept` (files open for writing), whose bodies `state` goes on
    /// using; `state` becomes the overlay, in the same atomic step. Nothing dirty beside `kept`: no stash is made.
    ///
    /// # Errors
    /// Nothing was changed. A commit must not be under way.
    pub fn stash_current(
        &self,
        state: OverlayState,
        kept: &[NodeId],
        now: Timestamp,
    ) -> Result<Stashed, OverlayError> {
        self.exchange(
            state,
            Exchange {
                stash: Some((kept, now)),
                restored: None,
            },
        )
    }

    /// `state` becomes the overlay (reload of a clean overlay, `--keep`, restore); bodies that neither it nor a stash has
    /// go. `restored`: this stash goes in the same step.
    ///
    /// # Errors
    /// Nothing was changed. A commit must not be under way.
    pub fn replace(&self, state: OverlayState, restored: Option<u64>) -> Result<(), OverlayError> {
        self.exchange(
            state,
            Exchange {
                stash: None,
                restored,
            },
        )
        .map(|_| ())
    }

    fn exchange(&self, state: OverlayState, exchange: Exchange<'_>) -> Result<Stashed, OverlayError> {
        // Most of what has to be on disk, while others go on.
        self.sync()?;
        let _syncing = self.syncing.write();
        let _turn = self.flush.lock();
        let mut current = self.state.write();
        let mut journal = self.journal.lock();
        let mut manifest = self.manifest.lock();
        if current.frozen.is_some() || state.frozen.is_some() {
            return Err(super::ApplyError::Rule(super::ROOT_NODE, "a commit is under way").into());
        }
        // What the two states show is on disk before their snapshots take the place of the frames that showed it (J9).
        self.cover_shown(&mut journal)?;
        let dir = &self.options.dir;
        let mut next = manifest.clone();
        let number = next.next_overlay;
        next.next_overlay += 1;
        let sequence = journal.tail().sequence;

        // The stash, complete and on disk before anything names it (J10).
        let mut stashed = Stashed::default();
        let mut stash_bodies = HashSet::new();
        if let Some((kept, now)) = exchange.stash {
            let without = if kept.is_empty() {
                current.clone()
            } else {
                without(&current, kept)
            };
            if worth_keeping(&without) {
                let id = if kept.is_empty() {
                    let file = journal.file();
                    sync_data(file, journal.path())?;
                    self.number()
                } else {
                    let id = next.next_overlay;
                    next.next_overlay += 1;
                    let mut unsynced = journal.unsynced.clone();
                    let has = without.bodies();
                    unsynced.retain(|body| has.contains(&body));
                    create_overlay(&self.options, id, &without, unsynced, sequence)?;
                    id
                };
                stash_bodies = without.bodies();
                write_body_list(dir, id, &stash_bodies)?;
                let info = self.describe(id, &without, &stash_bodies, now);
                next.stashes.push(StashLine::from_info(&info));
                stashed.dropped = self.over_bounds(&mut next, now);
                stashed.stash = Some(info);
            }
        }

        // The new overlay.
        let restored = match exchange.restored {
            Some(id) => Some((id, self.replay_stash(&next, id)?)),
            None => None,
        };
        let mut known = current.bodies();
        let mut unsynced = journal.unsynced.clone();
        if let Some((id, stash)) = &restored {
            unsynced.extend(&stash.unsynced);
            known.extend(stash.state.bodies());
            next.stashes.retain(|line| line.id != *id);
        }
        let bodies = state.bodies();
        unsynced.retain(|body| bodies.contains(&body));
        for body in bodies.difference(&known) {
            if !self.bodies.take_durable(*body) {
                unsynced.insert_fresh(*body, sequence);
            }
        }
        let new = create_overlay(&self.options, number, &state, unsynced, sequence)?;
        next.current = Some(number);
        next.remember(&state, self.bodies.next());
        next.remember(&current, self.bodies.next());

        // The step itself.
        next.write(dir)?;
        *manifest = next;
        *journal = new;
        let old_number = self.number.swap(number, Ordering::AcqRel);
        *current = state;
        let appended = self.appended.load(Ordering::Acquire);
        self.synced.fetch_max(appended, Ordering::AcqRel);
        self.settled.fetch_max(appended, Ordering::AcqRel);
        self.along.lock().retain(|body, _| bodies.contains(body));

        // What nothing names any more.
        let freed = known
            .into_iter()
            .filter(|body| !bodies.contains(body) && !stash_bodies.contains(body));
        self.bodies.doom(freed, 0);
        if stashed.stash.as_ref().is_none_or(|stash| stash.id != old_number) {
            remove_overlay(dir, old_number);
        }
        for gone in &stashed.dropped {
            self.doom_stash(gone.id, &bodies, &stash_bodies);
        }
        if let Some((id, _)) = restored {
            remove_overlay(dir, id);
        }
        Reserve::of(dir).take_back();
        Ok(stashed)
    }

    /// Takes stashes that are too many, too old or too large out of the manifest, oldest first; never the newest.
    fn over_bounds(&self, manifest: &mut Manifest, now: Timestamp) -> Vec<StashInfo> {
        let age_max = i128::try_from(self.options.stash_age_max.as_nanos()).unwrap_or(i128::MAX);
        let mut dropped = Vec::new();
        while manifest.stashes.len() > 1 {
            let bytes = manifest
                .stashes
                .iter()
                .map(|stash| stash.disk_bytes)
                .fold(0, u64::saturating_add);
            let oldest = manifest.stashes[0].info();
            let old = now.as_nanos() - oldest.made.as_nanos() > age_max;
            if !old && bytes <= self.options.stash_bytes_max && manifest.stashes.len() <= STASHES_MAX {
                break;
            }
            manifest.stashes.remove(0);
            dropped.push(oldest);
        }
        dropped
    }

    fn describe(
        &self,
        id: u64,
        state: &OverlayState,
        bodies: &HashSet<BodyId>,
        made: Timestamp,
    ) -> StashInfo {
        let mut info = StashInfo {
            id,
            made,
            base: state.base.clone(),
            changes: state
                .nodes
                .iter()
                .filter(|(id, node)| state.differs(**id, node))
                .count() as u64,
            files: bodies.len() as u64,
            bytes: 0,
            disk_bytes: 0,
        };
        for body in bodies {
            if let Ok(stat) = self.bodies.stat(*body) {
                info.bytes += stat.len;
                info.disk_bytes += stat.allocated;
            }
        }
        info
    }

    /// The stashes, newest first.
    pub fn stashes(&self) -> Vec<StashInfo> {
        self.manifest
            .lock()
            .stashes
            .iter()
            .rev()
            .map(StashLine::info)
            .collect()
    }

    /// What a stash holds; its bodies come from [`Overlay::body`].
    pub fn open_stash(&self, id: u64) -> Result<OverlayState, OverlayError> {
        let manifest = self.manifest.lock();
        Ok(self.replay_stash(&manifest, id)?.state)
    }

    fn replay_stash(&self, manifest: &Manifest, id: u64) -> Result<Replayed, OverlayError> {
        if !manifest.stashes.iter().any(|stash| stash.id == id) {
            return Err(OverlayError::NoStash(id));
        }
        let mut replayed = read_journal(&self.options, id)?;
        check_header(&self.options, id, &replayed)?;
        replayed.open_in(self.options.boot);
        let unlinked = replayed
            .state
            .nodes
            .iter()
            .filter(|(_, node)| node.nlink == 0)
            .map(|(id, _)| *id);
        for id in unlinked.collect::<Vec<_>>() {
            // Nobody has it open any more; it is an error only to forget twice.
            let _ = replayed.state.apply(&Op::Forget { id });
        }
        Ok(replayed)
    }

    /// Deletes a stash.
    pub fn drop_stash(&self, id: u64) -> Result<StashInfo, OverlayError> {
        let mine = self.state.read().bodies();
        let mut manifest = self.manifest.lock();
        let mut next = manifest.clone();
        let at = next
            .stashes
            .iter()
            .position(|stash| stash.id == id)
            .ok_or(OverlayError::NoStash(id))?;
        let info = next.stashes.remove(at).info();
        next.write(&self.options.dir)?;
        *manifest = next;
        self.doom_stash(id, &mine, &HashSet::new());
        Ok(info)
    }

    /// Removes a stash that the manifest does not name any more. What cannot be read now is removed at the next open.
    fn doom_stash(&self, id: u64, keep: &HashSet<BodyId>, keep_too: &HashSet<BodyId>) {
        if let Ok(list) = read_body_list(&self.options.dir, id) {
            let gone = list
                .into_iter()
                .filter(|body| !keep.contains(body) && !keep_too.contains(body));
            self.bodies.doom(gone, 0);
        }
        remove_overlay(&self.options.dir, id);
    }
}

struct Exchange<'a> {
    /// Keep what there is: all but these nodes, made now.
    stash: Option<(&'a [NodeId], Timestamp)>,
    /// This stash is in the new state.
    restored: Option<u64>,
}

/// The manifest does not name it; if it cannot be removed now, the next open does it.
fn remove_overlay(dir: &Path, number: u64) {
    let path = overlay_dir(dir, number);
    if let Err(error) = fs::remove_dir_all(&path) {
        tracing::warn!(%error, path = %path.display(), "left over until the next mount");
    }
}

/// True if something differs besides times of directories, which follow from what is done in them.
fn worth_keeping(state: &OverlayState) -> bool {
    state.nodes.iter().any(|(id, node)| {
        let mut node = (**node).clone();
        if let (NodeBody::Dir(_), Some(base)) = (&node.body, &node.base_attrs) {
            node.attrs.mtime = base.mtime;
            node.attrs.ctime = base.ctime;
        }
        state.differs(*id, &node)
    })
}

/// The state as if the files `kept` had not been touched: those of the base have their old bytes, others are not there.
pub(super) fn without(state: &OverlayState, kept: &[NodeId]) -> OverlayState {
    let mut state = state.clone();
    for id in kept {
        let Some(node) = state.nodes.get(id).cloned() else {
            continue;
        };
        let NodeBody::File(file) = &node.body else {
            continue;
        };
        if node.origin.is_some() && node.nlink > 0 {
            let mut node = (*node).clone();
            node.body = NodeBody::File(FileState::of_base(file.base.clone()));
            node.attrs = node.base_attrs.clone().unwrap_or(node.attrs);
            state.nodes.insert(*id, node.into());
            continue;
        }
        for (parent, name) in &node.names {
            let dir = state.nodes.get_mut(parent).map(std::sync::Arc::make_mut);
            if let Some(NodeBody::Dir(dir)) = dir.map(|dir| &mut dir.body)
                && let Some(Change::Node { hides, .. }) = dir.changes.remove(name)
                && let Some(kind) = hides
            {
                dir.changes.insert(name.clone(), Change::Whiteout(kind));
            }
        }
        if let Some(Origin::Link(link)) = &node.origin {
            state.links.remove(link);
        }
        state.nodes.remove(id);
    }
    state.count_origins();
    state
}

// ---- which bodies a stash has ----

fn body_list_path(dir: &Path, number: u64) -> PathBuf {
    overlay_dir(dir, number).join("bodies")
}

fn write_body_list(dir: &Path, number: u64, bodies: &HashSet<BodyId>) -> Result<(), OverlayError> {
    let path = body_list_path(dir, number);
    let mut sorted: Vec<BodyId> = bodies.iter().copied().collect();
    sorted.sort_unstable();
    let mut w = Writer::new();
    w.u64(sorted.len() as u64);
    sorted.iter().for_each(|body| w.u64(*body));
    w.u32(crc32c::crc32c(w.as_slice()));
    Reserve::of(dir).write_file(&path, w.as_slice())?;
    sync_dir(&overlay_dir(dir, number))
}

pub(super) fn read_body_list(dir: &Path, number: u64) -> Result<Vec<BodyId>, OverlayError> {
    let path = body_list_path(dir, number);
    let bytes = fs::read(&path).at(&path)?;
    let mut r = Reader::new(&bytes, "bodies");
    let read = (|| {
        let count = r.u64()?;
        r.require(
            count == (r.remaining().saturating_sub(4) / 8) as u64,
            "wrong length",
        )?;
        let list = (0..count).map(|_| r.u64()).collect::<Result<Vec<_>, _>>()?;
        let body = r.offset();
        let crc = r.u32()?;
        r.finish()?;
        r.require(crc == crc32c::crc32c(&bytes[..body]), "wrong checksum")?;
        Ok::<_, crate::format::Corrupt>(list)
    })();
    read.map_err(|e| OverlayError::Damaged {
        path,
        offset: e.offset,
        reason: e.rule.to_owned(),
        dir: dir.to_owned(),
    })
}
