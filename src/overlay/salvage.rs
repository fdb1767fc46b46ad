//! Saving what is readable from a damaged state directory, without changing it.

use std::collections::HashSet;
use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};

use super::dir::make_dir;
use super::error::{AtPath, OverlayError};
use super::replay::{ReplayError, replay};
use super::state::{BodyId, Change, NodeBody, NodeId, OverlayState, ROOT_NODE};
use crate::model::{FRAME_BYTES, Name};

/// What could be saved.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Salvaged {
    /// Files copied to their paths.
    pub files: u64,
    /// Of those, files of which only the locally written frames are here (the others are in the volume); `.partial` is
    /// appended to their names.
    pub partial: u64,
    /// Bodies whose name is not known, copied under their numbers.
    pub unnamed: u64,
    /// What could not be read, a line each.
    pub failures: Vec<String>,
}

/// Copies every readable body below `out` (made if it is not there): `overlay-N/tree/PATH` where its name is known,
/// `bodies/NUMBER` where not. `overlay-N/changes.txt` lists every name that is known to have changed.
///
/// # Errors
/// `out` cannot be written. What cannot be read is listed in the result.
pub fn salvage(dir: &Path, out: &Path) -> Result<Salvaged, OverlayError> {
    fs::create_dir_all(out).at(out)?;
    let mut saved = Salvaged::default();
    let mut named = HashSet::new();
    for entry in fs::read_dir(dir).at(dir)? {
        let entry = entry.at(dir)?;
        if entry.file_name().as_encoded_bytes().starts_with(b"overlay-") {
            let to = out.join(entry.file_name());
            one_overlay(dir, &entry.path(), &to, &mut named, &mut saved)?;
        }
    }
    unnamed(dir, out, &named, &mut saved)?;
    Ok(saved)
}

fn one_overlay(
    dir: &Path,
    from: &Path,
    to: &Path,
    named: &mut HashSet<BodyId>,
    saved: &mut Salvaged,
) -> Result<(), OverlayError> {
    let path = from.join("journal");
    let replayed = match fs::read(&path).map(|bytes| replay(&bytes)) {
        Ok(Ok(replayed)) => replayed,
        Ok(Err(ReplayError::Damaged {
            offset,
            reason,
            before,
        })) => {
            saved
                .failures
                .push(format!("{}: damaged at byte {offset}: {reason}", path.display()));
            *before
        }
        Ok(Err(e)) => {
            saved.failures.push(format!("{}: {e}", path.display()));
            return Ok(());
        }
        Err(e) => {
            saved.failures.push(format!("{}: {e}", path.display()));
            return Ok(());
        }
    };
    let state = &replayed.state;
    make_dir(to)?;
    let tree = to.join("tree");
    let mut lines = String::new();
    let mut ids: Vec<NodeId> = state.nodes.keys().copied().collect();
    ids.sort_unstable();
    for id in ids {
        let node = &state.nodes[&id];
        list_changes(state, id, &mut lines);
        let (NodeBody::File(file), Some(relative)) = (&node.body, path_of(state, id)) else {
            continue;
        };
        let Some(body) = file.body else { continue };
        let partial = file.present.is_some()
            && (0..file.base_valid.div_ceil(FRAME_BYTES)).any(|frame| !file.is_present(frame));
        let mut target = tree.join(relative);
        if partial {
            target.as_mut_os_string().push(".partial");
        }
        if copy(&body_path(dir, body), &target, saved)? {
            named.insert(body);
            saved.files += 1;
            saved.partial += u64::from(partial);
        }
    }
    let list = to.join("changes.txt");
    File::create(&list)
        .and_then(|mut file| file.write_all(lines.as_bytes()))
        .at(&list)
}

fn list_changes(state: &OverlayState, id: NodeId, lines: &mut String) {
    let node = &state.nodes[&id];
    let (Some(dir), Some(path)) = (node.body.as_dir(), path_of(state, id)) else {
        return;
    };
    for (name, change) in &dir.changes {
        let what = match change {
            Change::Whiteout(_) => "removed",
            Change::Node { id, .. } => match state.nodes.get(id) {
                Some(node) if node.origin.is_none() => "new",
                Some(node) if state.differs(*id, node) => "changed",
                _ => continue,
            },
        };
        lines.push_str(&format!("{what} /{}\n", path.join(name.to_string()).display()));
    }
}

/// Path below the root, as far as it is known; for a file with several names, one of them.
fn path_of(state: &OverlayState, id: NodeId) -> Option<PathBuf> {
    let mut names: Vec<&Name> = Vec::new();
    let mut at = id;
    while at != ROOT_NODE {
        let (parent, name) = state.nodes.get(&at)?.names.first()?;
        names.push(name);
        at = *parent;
        if names.len() > crate::model::PATH_DEPTH_MAX {
            return None;
        }
    }
    use std::os::unix::ffi::OsStrExt;
    Some(
        names
            .iter()
            .rev()
            .map(|name| std::ffi::OsStr::from_bytes(name.as_bytes()))
            .collect(),
    )
}

pub(super) fn body_path(dir: &Path, id: BodyId) -> PathBuf {
    dir.join("bodies")
        .join(format!("{:02x}", id & 0xff))
        .join(format!("{id:016x}"))
}

fn unnamed(
    dir: &Path,
    out: &Path,
    named: &HashSet<BodyId>,
    saved: &mut Salvaged,
) -> Result<(), OverlayError> {
    let bodies = dir.join("bodies");
    let Ok(shards) = fs::read_dir(&bodies) else {
        return Ok(());
    };
    for entry in shards
        .flatten()
        .filter_map(|shard| fs::read_dir(shard.path()).ok())
        .flatten()
        .flatten()
    {
        let name = entry.file_name();
        let id = name
            .to_str()
            .and_then(|name| BodyId::from_str_radix(name, 16).ok());
        let empty = entry.metadata().is_ok_and(|meta| meta.len() == 0);
        if id.is_none_or(|id| named.contains(&id)) || empty {
            continue;
        }
        if copy(&entry.path(), &out.join("bodies").join(&name), saved)? {
            saved.unnamed += 1;
        }
    }
    Ok(())
}

/// True if it was copied; what cannot be read is noted.
fn copy(from: &Path, to: &Path, saved: &mut Salvaged) -> Result<bool, OverlayError> {
    let parent = to.parent().unwrap_or(Path::new("."));
    fs::create_dir_all(parent).at(parent)?;
    if !from.is_file() {
        saved.failures.push(format!("{}: not there", from.display()));
        return Ok(false);
    }
    match fs::copy(from, to) {
        Ok(_) => Ok(true),
        Err(e) => {
            saved
                .failures
                .push(format!("{} to {}: {e}", from.display(), to.display()));
            Ok(false)
        }
    }
}
