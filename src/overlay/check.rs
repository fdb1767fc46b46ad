//! Looking at a state directory without changing it.

use std::collections::{BTreeSet, HashSet};
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::dir::{DirLock, check_dir};
use super::error::{AtPath, OverlayError};
use super::manifest::{MANIFEST, Manifest};
use super::overlay::overlay_dir;
use super::replay::{ReplayError, Replayed, replay};
use super::salvage::body_path;
use super::stash::read_body_list;
use super::state::{BodyId, NodeBody};
use crate::format::{content_id, node_hash, record_hash};
use crate::model::Hash;

/// What a mount puts into its state directory besides overlays: the lock, the manifest, bodies, kept bytes of the base,
/// and what a commit under way has uploaded.
const KNOWN_NAMES: [&str; 8] = [
    "lock",
    MANIFEST,
    "CURRENT.new",
    "bodies",
    "base",
    "uploads",
    "reserve",
    "leases.json",
];

/// What a state directory holds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StateCheck {
    /// A mount has it open: it changes while it is looked at.
    pub in_use: bool,
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
    /// Overlays and bodies that nothing refers to: what a crash left, which the next mount removes; of a mount that is in use
    /// what it has made ahead, and what it is about to remove.
    pub leftovers: u64,
    /// What is damaged or missing, a line each.
    pub damage: Vec<String>,
    /// Files that are none of a mount's.
    pub foreign: Vec<String>,
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
            let is_state = |entry: &fs::DirEntry| is_overlay(entry) || entry.file_name() == MANIFEST;
            if entries.iter().any(is_state) {
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

fn is_overlay(entry: &fs::DirEntry) -> bool {
    entry.file_name().as_encoded_bytes().starts_with(b"overlay-")
}

/// Looks at a directory that is in use, when something seems to be damaged.
const LOOKS_MAX: usize = 5;

/// Replays every journal of a mount's state directory, looks for the bodies that it names, and reads the kept bytes of
/// bases. A mount that is in use changes while it is looked at: what seems to be damaged there is looked at again, and counts
/// when it is the same several times.
///
/// # Errors
/// `dir` cannot be read; what is wrong in it is in the result.
pub fn check(dir: &Path) -> Result<StateCheck, OverlayError> {
    let mut found = check_once(dir)?;
    for _ in 1..LOOKS_MAX {
        if !found.in_use || found.damage.is_empty() {
            break;
        }
        let again = check_once(dir)?;
        let still: Vec<String> = found
            .damage
            .into_iter()
            .filter(|line| again.damage.contains(line))
            .collect();
        found = StateCheck {
            damage: still,
            ..again
        };
    }
    Ok(found)
}

fn check_once(dir: &Path) -> Result<StateCheck, OverlayError> {
    let mut check = Check {
        dir,
        found: StateCheck {
            in_use: DirLock::is_held(dir),
            ..StateCheck::default()
        },
        bodies: HashSet::new(),
        bases: HashSet::new(),
    };
    if let Err(error) = check_dir(dir) {
        check.damaged(error);
    }
    let there = check.names()?;
    let manifest = match Manifest::read(dir) {
        Ok(manifest) => manifest,
        Err(error) => {
            check.damaged(error);
            None
        }
    };
    match &manifest {
        None => {
            // Nothing says which of them count.
            if !there.is_empty() {
                check.damaged(format!(
                    "{}: is missing or unreadable",
                    dir.join(MANIFEST).display()
                ));
            }
            for number in &there {
                check.journal(*number, None);
            }
        }
        Some(manifest) => {
            let stashes: Vec<u64> = manifest.stashes.iter().map(|stash| stash.id).collect();
            let named: BTreeSet<u64> = stashes.iter().copied().chain(manifest.current).collect();
            for number in &named {
                check.journal(*number, Some(manifest));
            }
            for number in stashes {
                match read_body_list(dir, number) {
                    Ok(bodies) => check.bodies.extend(bodies),
                    Err(error) => check.damaged(error),
                }
            }
            check.found.leftovers += there.difference(&named).count() as u64;
        }
    }
    check.bodies_on_disk(manifest.is_some());
    check.bases();
    Ok(check.found)
}

struct Check<'a> {
    dir: &'a Path,
    found: StateCheck,
    /// Bodies that something refers to.
    bodies: HashSet<BodyId>,
    /// Prepared trees that an overlay stands on.
    bases: HashSet<Hash>,
}

impl Check<'_> {
    fn damaged(&mut self, line: impl std::fmt::Display) {
        self.found.damage.push(line.to_string());
    }

    /// Numbers of the overlays that are there; notes what is none of ours.
    fn names(&mut self) -> Result<BTreeSet<u64>, OverlayError> {
        let mut there = BTreeSet::new();
        for entry in fs::read_dir(self.dir).at(self.dir)? {
            let entry = entry.at(self.dir)?;
            let name = entry.file_name();
            let number = name
                .to_str()
                .and_then(|name| name.strip_prefix("overlay-")?.parse().ok());
            match number {
                Some(number) => {
                    there.insert(number);
                }
                None if KNOWN_NAMES.iter().any(|known| name == *known) => {}
                None => self.found.foreign.push(entry.path().display().to_string()),
            }
        }
        Ok(there)
    }

    /// An overlay's or stash's journal, with the bodies that it names.
    fn journal(&mut self, number: u64, manifest: Option<&Manifest>) {
        let journal = overlay_dir(self.dir, number).join("journal");
        let shown = journal.display();
        let replayed = match fs::read(&journal).map(|bytes| replay(&bytes)) {
            Ok(Ok(replayed)) => replayed,
            Ok(Err(ReplayError::Damaged {
                offset,
                reason,
                before,
            })) => {
                self.damaged(format!("{shown}: damaged at byte {offset}: {reason}"));
                *before
            }
            Ok(Err(error)) => return self.damaged(format!("{shown}: {error}")),
            Err(error) => return self.damaged(format!("{shown}: {error}")),
        };
        let header = &replayed.header;
        if header.overlay != number || manifest.is_some_and(|manifest| manifest.volume != header.volume) {
            self.damaged(format!(
                "{shown}: is of overlay {} of volume {}",
                header.overlay, header.volume
            ));
        }
        self.state(&replayed);
    }

    fn state(&mut self, replayed: &Replayed) {
        self.found.journals += 1;
        self.found.cut_bytes += replayed.cut_bytes;
        let state = &replayed.state;
        self.bases.extend(state.base.prepared);
        let differing = state.nodes.iter().filter(|(id, node)| state.differs(**id, node));
        self.found.changed += differing.count() as u64;
        for node in state.nodes.values() {
            let NodeBody::File(file) = &node.body else {
                continue;
            };
            let Some(body) = file.body else { continue };
            self.bodies.insert(body);
            let path = body_path(self.dir, body);
            match fs::symlink_metadata(&path) {
                Ok(found) if found.is_file() => {
                    self.found.bodies += 1;
                    self.found.body_bytes += found.blocks() * 512;
                }
                Ok(_) => self.damaged(format!("{}: is no file", path.display())),
                Err(error) => self.damaged(format!("{}: {error}", path.display())),
            }
        }
    }

    /// Bodies that nothing refers to, and what is none. `all_known`: everything that refers to bodies was read.
    fn bodies_on_disk(&mut self, all_known: bool) {
        let dir = self.dir.join("bodies");
        for shard in sorted(&dir) {
            if !fs::symlink_metadata(&shard).is_ok_and(|found| found.is_dir()) {
                self.damaged(format!("{}: is no directory of bodies", shard.display()));
                continue;
            }
            for path in sorted(&shard) {
                let name = path.file_name().and_then(|name| name.to_str());
                match name.and_then(|name| BodyId::from_str_radix(name, 16).ok()) {
                    None => self.found.foreign.push(path.display().to_string()),
                    Some(id) => {
                        let is_left = all_known && !self.bodies.contains(&id);
                        self.found.leftovers += u64::from(is_left);
                    }
                }
            }
        }
    }

    /// Kept bytes have the hash that names them: records, prepared trees, or packs of those.
    fn bases(&mut self) {
        let dir = self.dir.join("base");
        for path in sorted(&dir) {
            let name = path
                .file_name()
                .and_then(|name| name.to_str())
                .unwrap_or_default();
            let Ok(hash) = name.parse::<Hash>() else {
                // One that was being written.
                if !name.ends_with(".new") {
                    self.found.foreign.push(path.display().to_string());
                }
                continue;
            };
            self.bases.remove(&hash);
            match fs::read(&path) {
                Ok(bytes) if has_hash(&bytes, &hash) => {}
                Ok(_) => self.damaged(format!("{}: has not the hash that names it", path.display())),
                Err(error) => self.damaged(format!("{}: {error}", path.display())),
            }
        }
        for hash in std::mem::take(&mut self.bases) {
            let path = dir.join(hash.to_string());
            self.damaged(format!(
                "{}: the tree that local changes stand on is missing",
                path.display()
            ));
        }
    }
}

fn has_hash(bytes: &[u8], hash: &Hash) -> bool {
    // A prepared tree has a line in front of it.
    let behind_line = bytes
        .iter()
        .position(|byte| *byte == b'\n')
        .map(|end| &bytes[end + 1..]);
    record_hash(bytes) == *hash
        || content_id(bytes) == *hash
        || behind_line.is_some_and(|stored| node_hash(stored) == *hash)
}

/// What is in a directory, in order; nothing where there is none.
fn sorted(dir: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    let mut paths: Vec<PathBuf> = entries.map(|entry| entry.path()).collect();
    paths.sort();
    paths
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
        fs::set_permissions(&mount, std::os::unix::fs::PermissionsExt::from_mode(0o700)).unwrap();
        // No manifest, no journal.
        let checked = check(&mount).unwrap();
        assert_eq!((checked.journals, checked.damage.len()), (0, 2), "{checked:?}");
        fs::write(mount.join("overlay-1/journal"), b"not a journal").unwrap();
        assert_eq!(check(&mount).unwrap().damage.len(), 2);
        fs::write(mount.join("notes.txt"), b"").unwrap();
        let checked = check(&mount).unwrap();
        assert_eq!(checked.foreign, [mount.join("notes.txt").display().to_string()]);
    }
}
