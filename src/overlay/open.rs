//! Opening a state directory: lock, recover, tidy up.

use std::collections::HashSet;
use std::fs;
use std::path::Path;
use std::sync::Arc;

use super::bodies::{Bodies, remove_file};
use super::descriptors::OpenBodies;
use super::dir::{Bases, DirLock, check_dir, make_dir};
use super::disk::sync_filesystem;
use super::error::{AtPath, OverlayError};
use super::frame::{JOURNAL_VERSION, OPENED};
use super::journal::{Journal, sync_dir};
use super::manifest::Manifest;
use super::op::Op;
use super::overlay::{Overlay, OverlayOptions, Parts, header_of, overlay_dir};
use super::replay::{ReplayError, Replayed, replay_in};
use super::reserve::Reserve;
use super::stash::read_body_list;
use super::state::{BaseRef, BodyId, NodeId, OverlayNode, OverlayState};
use super::unsynced::Unsynced;
use crate::model::Attrs;

/// What a state directory holds.
pub enum Found {
    /// An overlay, taken up. It may be clean.
    Overlay(Opened),
    /// None; there may be stashes.
    Empty(EmptyStateDir),
}

/// An overlay with what had to be done to open it.
pub struct Opened {
    /// The overlay.
    pub overlay: Arc<Overlay>,
    /// What was found.
    pub recovery: Recovery,
}

/// What recovery found and did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Recovery {
    /// The last stop was a clean one.
    pub clean_stop: bool,
    /// The machine was started anew since.
    pub rebooted: bool,
    /// Ops replayed.
    pub ops: u64,
    /// Bytes of an unfinished or unsynced end of the journal that were cut off.
    pub cut_bytes: u64,
    /// Changes in them that could be read: the first of them had put bytes in the place of others, and the power cut had
    /// taken those bytes.
    pub taken_back: u64,
    /// Files whose last writes may be missing: never synced before the machine stopped.
    pub incomplete: Vec<NodeId>,
    /// Files that went back to the bytes of the base, since nothing written to them had been synced.
    pub reverted: Vec<NodeId>,
    /// Files whose body is gone from the disk: they have the bytes of their base now, or none.
    pub missing: Vec<NodeId>,
    /// Bodies that nothing refers to and that were removed.
    pub bodies_removed: u64,
}

/// A locked state directory without an overlay.
pub struct EmptyStateDir {
    options: OverlayOptions,
    lock: DirLock,
    manifest: Manifest,
    bases: Bases,
    bodies: Arc<Bodies>,
}

impl EmptyStateDir {
    /// Makes an empty overlay on `base`, whose root directory has these attributes.
    pub fn begin(self, base: BaseRef, root_attrs: Attrs) -> Result<Arc<Overlay>, OverlayError> {
        let EmptyStateDir {
            options,
            lock,
            mut manifest,
            bases,
            bodies,
        } = self;
        let state = OverlayState {
            next_node: manifest.next_node,
            next_body: manifest.next_body,
            last_commit: manifest.last_commit,
            ..OverlayState::new(base, root_attrs)
        };
        let number = manifest.next_overlay;
        let journal = create_overlay(&options, number, &state, Unsynced::default(), 0)?;
        manifest.next_overlay = number + 1;
        manifest.current = Some(number);
        manifest.write(&options.dir)?;
        Overlay::start(Parts {
            options,
            lock,
            bases,
            bodies,
            manifest,
            number,
            state,
            journal,
        })
    }
}

/// Makes the directory of a new overlay with its journal; on disk, but not current yet (J10).
pub(super) fn create_overlay(
    options: &OverlayOptions,
    number: u64,
    state: &OverlayState,
    unsynced: Unsynced,
    sequence: u64,
) -> Result<Journal, OverlayError> {
    let dir = overlay_dir(&options.dir, number);
    let header = header_of(options, number);
    let journal = Reserve::of(&options.dir).make_room_for(|| {
        make_dir(&dir)?;
        Journal::create(&dir.join("journal"), &header, state, unsynced.clone(), sequence)
    })?;
    sync_dir(&options.dir)?;
    Ok(journal)
}

impl Overlay {
    /// Opens and locks a state directory, and recovers the overlay in it.
    pub fn open(options: OverlayOptions) -> Result<Found, OverlayError> {
        if !options.dir.exists() {
            if let Some(parent) = options.dir.parent() {
                let mut builder = fs::DirBuilder::new();
                std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
                builder.recursive(true).create(parent).at(parent)?;
            }
            make_dir(&options.dir)?;
        }
        check_dir(&options.dir)?;
        let lock =
            Reserve::of(&options.dir).make_room_for(|| DirLock::take(&options.dir, &options.holder))?;
        let manifest = match Manifest::read(&options.dir)? {
            Some(manifest) => manifest,
            None => Manifest::new(options.volume, &options.mount_name),
        };
        if manifest.volume != options.volume {
            return Err(OverlayError::Refused {
                path: options.dir.clone(),
                reason: format!("holds the state of volume {}", manifest.volume),
            });
        }
        let bases = Bases::new(&options.dir)?;
        let bodies = Arc::new(Bodies::new(
            &options.dir,
            options.bodies_ahead,
            OpenBodies::new(options.bodies_open, options.handles_open),
        )?);
        remove_unnamed(&options.dir, &manifest)?;
        let Some(number) = manifest.current else {
            remove_unreferenced(&options.dir, &manifest, &bodies, bodies.list()?, HashSet::new())?;
            bodies.raise_next(manifest.next_body);
            return Ok(Found::Empty(EmptyStateDir {
                options,
                lock,
                manifest,
                bases,
                bodies,
            }));
        };
        let replayed = read_journal(&options, number)?;
        check_header(&options, number, &replayed)?;
        take_up(
            Locked {
                options,
                lock,
                manifest,
                bases,
                bodies,
                number,
            },
            replayed,
        )
        .map(Found::Overlay)
    }

    /// Bodies of files that are not dirty go: what they hold is in the base. A power cut can have taken bytes of them, if
    /// what they held was published in spite of it; so nothing is read from a clean body after a restart. For an overlay
    /// in which no file is open.
    pub fn drop_clean_bodies(&self) -> Result<(), OverlayError> {
        let mut writer = self.write();
        let clean = |(id, node): (&NodeId, &Arc<OverlayNode>)| {
            let file = node.body.as_file()?;
            file.has_clean_body().then_some(Op::DropBody { id: *id })
        };
        let ops: Vec<Op> = writer.nodes.iter().filter_map(clean).collect();
        writer.apply_all(&ops)
    }
}

struct Locked {
    options: OverlayOptions,
    lock: DirLock,
    manifest: Manifest,
    bases: Bases,
    bodies: Arc<Bodies>,
    number: u64,
}

/// Replays the journal of an overlay or stash.
pub(super) fn read_journal(options: &OverlayOptions, number: u64) -> Result<Replayed, OverlayError> {
    let path = overlay_dir(&options.dir, number).join("journal");
    let bytes = fs::read(&path).at(&path)?;
    replay_in(&bytes, options.boot).map_err(|e| {
        let (offset, reason) = match e {
            ReplayError::TooNew(version) => {
                return OverlayError::TooNew {
                    path,
                    version,
                    known: JOURNAL_VERSION,
                };
            }
            ReplayError::NoState { offset, reason } | ReplayError::Damaged { offset, reason, .. } => {
                (offset, reason)
            }
        };
        OverlayError::Damaged {
            path,
            offset,
            reason,
            dir: options.dir.clone(),
        }
    })
}

pub(super) fn check_header(
    options: &OverlayOptions,
    number: u64,
    replayed: &Replayed,
) -> Result<(), OverlayError> {
    let header = &replayed.header;
    if header.volume != options.volume || header.overlay != number {
        return Err(OverlayError::Refused {
            path: overlay_dir(&options.dir, number),
            reason: format!("holds overlay {} of volume {}", header.overlay, header.volume),
        });
    }
    Ok(())
}

fn take_up(parts: Locked, mut replayed: Replayed) -> Result<Opened, OverlayError> {
    let Locked {
        options,
        lock,
        manifest,
        bases,
        bodies,
        number,
    } = parts;
    let rebooted = replayed.boot != options.boot;
    let mut recovery = Recovery {
        clean_stop: replayed.closed,
        rebooted,
        ops: replayed.ops,
        cut_bytes: replayed.cut_bytes,
        taken_back: replayed.taken_back,
        ..Recovery::default()
    };
    let tail = replayed.tail;
    let old_version = replayed.header.version < JOURNAL_VERSION;
    let voided = replayed.open_in(options.boot);
    recovery.incomplete = voided.incomplete;
    recovery.reverted = voided.reverted;
    let Replayed { state, unsynced, .. } = replayed;

    let path = overlay_dir(&options.dir, number).join("journal");
    remove_file(&path.with_extension("new"))?;
    let mut journal = if recovery.taken_back > 0 || old_version {
        // In one step: were the end cut off first, frames in it that tell what is on disk could be lost to the next power
        // cut. And all that is shown from now on is on disk (J9).
        sync_filesystem(fs::File::open(&options.dir).at(&options.dir)?, &options.dir)?;
        let header = header_of(&options, number);
        let new = path.with_extension("new");
        let unsynced = unsynced.with_shown(true);
        let mut journal = Reserve::of(&options.dir)
            .make_room_for(|| Journal::create(&new, &header, &state, unsynced.clone(), tail.sequence))?;
        journal.rename_over(&path)?;
        journal
    } else {
        Journal::open(&path, tail, unsynced)?
    };
    let mut tail = journal.tail();
    let mut frames = Vec::new();
    let mut payload = vec![OPENED];
    payload.extend_from_slice(&options.boot);
    tail.frame(&mut frames, &payload);
    journal.append(&frames, tail, false)?;

    let on_disk = bodies.list()?;
    let highest = on_disk.iter().max().map_or(0, |id| id + 1);
    bodies.raise_next(manifest.next_body.max(state.next_body).max(highest));
    let referenced = state.bodies();
    let mend = mend(&state, &bodies, &mut recovery)?;
    let dir = options.dir.clone();
    let kept = manifest.clone();
    let all = bodies.clone();
    let overlay = Overlay::start(Parts {
        options,
        lock,
        bases,
        bodies,
        manifest,
        number,
        state,
        journal,
    })?;
    overlay.write().apply_all(&mend)?;
    // J8: what the replay says is on disk, and what it shows, before anything that it does not name goes.
    overlay.force_sync()?;
    // Of those that were there before: by now there are some that were created ahead.
    recovery.bodies_removed = remove_unreferenced(&dir, &kept, &all, on_disk, referenced)?;
    Reserve::of(&dir).take_back();
    Ok(Opened { overlay, recovery })
}

/// What the bodies on disk have to say, and inodes that were open when the last daemon died, as ops.
fn mend(state: &OverlayState, bodies: &Bodies, recovery: &mut Recovery) -> Result<Vec<Op>, OverlayError> {
    let mut ops = Vec::new();
    let mut ids: Vec<NodeId> = state.nodes.keys().copied().collect();
    ids.sort_unstable();
    for id in ids {
        let node = &state.nodes[&id];
        if node.nlink == 0 {
            if !state.forgotten.contains(&id) {
                ops.push(Op::Forget { id });
            }
            continue;
        }
        let Some(file) = node.body.as_file() else { continue };
        let Some(body) = file.body else { continue };
        if file.has_clean_body() {
            ops.push(Op::DropBody { id });
            continue;
        }
        let Ok(stat) = bodies.stat(body) else {
            recovery.missing.push(id);
            match &file.base {
                // Its last known bytes: better than an empty file, which a commit would publish.
                Some((size, content)) => {
                    ops.push(Op::ReplaceContent {
                        id,
                        size: *size,
                        content: content.clone(),
                    });
                }
                None => bodies.recreate(body)?,
            }
            continue;
        };
        if stat.len < file.base_valid {
            ops.push(Op::SetSize { id, size: stat.len });
        }
        // Every change of attributes stamps ctime by the clock of the local filesystem: a body that was written later, or at
        // the same tick, has the last word. (A time that was set stands in body and attributes alike.)
        if file.dirty && stat.mtime >= node.attrs.ctime && stat.mtime != node.attrs.mtime {
            let attrs = Attrs {
                mtime: stat.mtime,
                ctime: stat.mtime,
                ..node.attrs.clone()
            };
            ops.push(Op::SetAttrs { id, attrs });
        }
    }
    Ok(ops)
}

/// Overlay directories that the manifest does not name.
fn remove_unnamed(dir: &Path, manifest: &Manifest) -> Result<(), OverlayError> {
    for entry in fs::read_dir(dir).at(dir)? {
        let entry = entry.at(dir)?;
        let name = entry.file_name();
        let Some(number) = name.to_str().and_then(|name| name.strip_prefix("overlay-")) else {
            continue;
        };
        let named = number.parse::<u64>().is_ok_and(|number| {
            manifest.current == Some(number) || manifest.stashes.iter().any(|stash| stash.id == number)
        });
        if !named {
            let path = entry.path();
            fs::remove_dir_all(&path).at(&path)?;
        }
    }
    Ok(())
}

/// Removes those of the bodies found that neither the overlay nor a stash has.
fn remove_unreferenced(
    dir: &Path,
    manifest: &Manifest,
    bodies: &Bodies,
    found: Vec<BodyId>,
    mut keep: HashSet<BodyId>,
) -> Result<u64, OverlayError> {
    for stash in &manifest.stashes {
        match read_body_list(dir, stash.id) {
            Ok(list) => keep.extend(list),
            Err(error) => {
                tracing::warn!(%error, "bodies are not tidied up: it is not known which of them a stash has");
                return Ok(0);
            }
        }
    }
    let mut removed = 0;
    for id in found.into_iter().filter(|id| !keep.contains(id)) {
        remove_file(&bodies.path(id))?;
        removed += 1;
    }
    Ok(removed)
}
