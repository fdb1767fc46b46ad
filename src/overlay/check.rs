//! Looking at a state directory without changing it.

use std::fs;
use std::path::{Path, PathBuf};

use super::error::{AtPath, OverlayError};
use super::replay::{ReplayError, replay};
use super::salvage::body_path;
use super::state::NodeBody;

/// What a state directory holds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StateCheck {
    /// Overlays and stashes whose journal was read.
    pub journals: u64,
    /// Names and inodes that differ from what they were made on.
    pub changed: u64,
    /// Bodies that are referred to and there.
    pub bodies: u64,
    /// Their bytes on disk.
    pub body_bytes: u64,
    /// Bytes at the end of a journal that were not written whole: nobody was told that they are safe.
    pub cut_bytes: u64,
    /// What is damaged or missing, a line each.
    pub damage: Vec<String>,
}

/// State directories of single mounts at or below a directory: `dir` itself, `*` or `*/*` in it.
///
/// # Errors
/// `dir` cannot be read.
pub fn state_dirs(dir: &Path) -> Result<Vec<PathBuf>, OverlayError> {
    let mut found = Vec::new();
    let mut level = vec![dir.to_owned()];
    for _ in 0..3 {
        let mut below = Vec::new();
        for at in level {
            let entries = match fs::read_dir(&at) {
                Ok(entries) => entries.flatten().collect::<Vec<_>>(),
                Err(error) if at == dir => return Err(error).at(dir),
                Err(_) => continue,
            };
            if entries.iter().any(|entry| is_overlay(&entry.file_name())) {
                found.push(at);
                continue;
            }
            let dirs = entries
                .iter()
                .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
            below.extend(dirs.map(fs::DirEntry::path));
        }
        level = below;
    }
    found.sort();
    Ok(found)
}

fn is_overlay(name: &std::ffi::OsStr) -> bool {
    name.as_encoded_bytes().starts_with(b"overlay-")
}

/// Replays every journal of a mount's state directory and looks for the bodies that it names. A mount that is in use
/// changes while it is looked at.
///
/// # Errors
/// `dir` cannot be read; what is wrong in it is in the result.
pub fn check(dir: &Path) -> Result<StateCheck, OverlayError> {
    let mut checked = StateCheck::default();
    for entry in fs::read_dir(dir).at(dir)? {
        let entry = entry.at(dir)?;
        if is_overlay(&entry.file_name()) {
            one(dir, &entry.path().join("journal"), &mut checked);
        }
    }
    Ok(checked)
}

fn one(dir: &Path, journal: &Path, checked: &mut StateCheck) {
    let shown = journal.display();
    let replayed = match fs::read(journal).map(|bytes| replay(&bytes)) {
        Ok(Ok(replayed)) => replayed,
        Ok(Err(ReplayError::Damaged {
            offset,
            reason,
            before,
        })) => {
            checked
                .damage
                .push(format!("{shown}: damaged at byte {offset}: {reason}"));
            *before
        }
        Ok(Err(error)) => return checked.damage.push(format!("{shown}: {error}")),
        Err(error) => return checked.damage.push(format!("{shown}: {error}")),
    };
    checked.journals += 1;
    checked.cut_bytes += replayed.cut_bytes;
    let state = &replayed.state;
    let differing = state.nodes.iter().filter(|(id, node)| state.differs(**id, node));
    checked.changed += differing.count() as u64;
    for node in state.nodes.values() {
        let NodeBody::File(file) = &node.body else {
            continue;
        };
        let Some(body) = file.body else { continue };
        let path = body_path(dir, body);
        match fs::metadata(&path) {
            Ok(metadata) => {
                checked.bodies += 1;
                checked.body_bytes += std::os::unix::fs::MetadataExt::blocks(&metadata) * 512;
            }
            Err(error) => checked.damage.push(format!("{}: {error}", path.display())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn state_directories_are_found_at_three_depths_and_damage_is_told() {
        let root = tempfile::tempdir().unwrap();
        let mount = root.path().join("name/volume");
        fs::create_dir_all(mount.join("overlay-1")).unwrap();
        for from in [root.path(), &root.path().join("name"), &mount] {
            assert_eq!(state_dirs(from).unwrap(), std::slice::from_ref(&mount));
        }
        assert!(state_dirs(&root.path().join("absent")).is_err());
        let checked = check(&mount).unwrap();
        assert_eq!((checked.journals, checked.damage.len()), (0, 1), "{checked:?}");
        fs::write(mount.join("overlay-1/journal"), b"not a journal").unwrap();
        assert_eq!(check(&mount).unwrap().damage.len(), 1);
    }
}
