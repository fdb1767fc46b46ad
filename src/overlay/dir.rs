//! The state directory: who may use it, the lock, kept bytes, and what other mount names left.

use std::collections::HashSet;
use std::fs::{self, DirBuilder, File};
use std::io::{Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use bytes::Bytes;
use rustix::fs::FlockOperation;

use super::error::{AtPath, OverlayError};
use super::frame::BootId;
use super::journal::sync_dir;
use super::manifest::Manifest;
use super::reserve::Reserve;
use crate::model::{Hash, VolumeId};

/// Makes a directory with 0700, if it is not there. What is there must be a directory and ours.
pub(super) fn make_dir(dir: &Path) -> Result<(), OverlayError> {
    match DirBuilder::new().mode(0o700).create(dir) {
        Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => check_own(dir).map(drop),
        other => other.at(dir),
    }
}

/// Refuses a directory that somebody else could have put there or can change.
pub(super) fn check_dir(dir: &Path) -> Result<(), OverlayError> {
    let mode = check_own(dir)?.permissions().mode() & 0o7777;
    if mode & 0o077 != 0 {
        return Err(OverlayError::Refused {
            path: dir.to_owned(),
            reason: format!(
                "is open to others (mode {mode:04o}); look at what is in it, then set its mode to 0700"
            ),
        });
    }
    Ok(())
}

/// Refuses what is no directory of ours.
fn check_own(dir: &Path) -> Result<fs::Metadata, OverlayError> {
    let meta = fs::symlink_metadata(dir).at(dir)?;
    let me = rustix::process::geteuid().as_raw();
    let refuse = |reason: String| OverlayError::Refused {
        path: dir.to_owned(),
        reason,
    };
    if !meta.is_dir() {
        return Err(refuse(
            "is not a directory of its own (symbolic links are not followed here)".into(),
        ));
    }
    if meta.uid() != me {
        return Err(refuse(format!("belongs to uid {}, not to {me}", meta.uid())));
    }
    Ok(meta)
}

/// The lock on a state directory, held while this lives.
#[derive(Debug)]
pub(super) struct DirLock {
    _file: File,
}

impl DirLock {
    /// Locks it, without waiting.
    pub(super) fn take(dir: &Path, holder: &str) -> Result<DirLock, OverlayError> {
        let path = dir.join("lock");
        let mut file = File::options()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .custom_flags(libc::O_NOFOLLOW)
            .open(&path)
            .at(&path)?;
        match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(rustix::io::Errno::WOULDBLOCK) => {
                let mut text = String::new();
                // Who it is matters for the message only.
                let _ = file.take(4096).read_to_string(&mut text);
                let holder = if text.trim().is_empty() {
                    "another process"
                } else {
                    text.trim()
                };
                return Err(OverlayError::Busy {
                    dir: dir.to_owned(),
                    holder: holder.to_owned(),
                });
            }
            Err(e) => return Err(e).at(&path),
        }
        // For people only: without room for it the lock is as good.
        let told = file
            .set_len(0)
            .and_then(|()| file.write_all(format!("{holder}\n").as_bytes()));
        if let Err(error) = told {
            tracing::info!(%error, path = %path.display(), "the lock does not say who has it");
        }
        Ok(DirLock { _file: file })
    }

    /// True if someone has it. Looks without taking it.
    pub(super) fn is_held(dir: &Path) -> bool {
        let Ok(file) = File::open(dir.join("lock")) else {
            return false;
        };
        rustix::fs::flock(&file, FlockOperation::NonBlockingLockShared).is_err()
    }
}

/// This boot of the machine. Where the system does not tell: a number drawn at random, so that everything counts as
/// another boot.
pub fn boot_id() -> BootId {
    let told = fs::read_to_string("/proc/sys/kernel/random/boot_id")
        .ok()
        .and_then(|text| {
            let digits: String = text.chars().filter(char::is_ascii_hexdigit).collect();
            let mut id = BootId::default();
            hex::decode_to_slice(digits, &mut id).ok().map(|()| id)
        });
    told.unwrap_or_else(|| {
        let mut id = BootId::default();
        // Without randomness either, zeros: then only this process's own crashes can be told from power cuts.
        let _ = getrandom::fill(&mut id);
        id
    })
}

/// Bytes kept by hash.
pub(super) struct Bases {
    dir: PathBuf,
}

impl Bases {
    pub(super) fn new(state_dir: &Path) -> Result<Bases, OverlayError> {
        let dir = state_dir.join("base");
        Reserve::of(state_dir).make_room_for(|| make_dir(&dir))?;
        Ok(Bases { dir })
    }

    pub(super) fn put(&self, hash: &Hash, bytes: &[u8]) -> Result<(), OverlayError> {
        let path = self.dir.join(hash.to_string());
        if fs::read(&path).is_ok_and(|there| there == bytes) {
            // Nothing of it has to be written; a power cut may have come before its name was on disk.
            return sync_dir(&self.dir);
        }
        let new = self.dir.join(format!("{hash}.new"));
        let reserve = Reserve::of(self.dir.parent().unwrap_or(&self.dir));
        reserve.write_file(&new, bytes)?;
        reserve.make_room_for(|| fs::rename(&new, &path).at(&path))?;
        sync_dir(&self.dir)
    }

    pub(super) fn get(&self, hash: &Hash) -> Result<Option<Bytes>, OverlayError> {
        let path = self.dir.join(hash.to_string());
        match fs::read(&path) {
            Ok(bytes) => Ok(Some(bytes.into())),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(e).at(&path),
        }
    }

    pub(super) fn list(&self) -> Result<Vec<Hash>, OverlayError> {
        let mut all = Vec::new();
        for entry in fs::read_dir(&self.dir).at(&self.dir)? {
            all.extend(hash_of(&entry.at(&self.dir)?));
        }
        Ok(all)
    }

    pub(super) fn len(&self, hash: &Hash) -> Result<Option<u64>, OverlayError> {
        let path = self.dir.join(hash.to_string());
        match fs::symlink_metadata(&path) {
            Ok(found) => Ok(Some(found.len())),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(e).at(&path),
        }
    }

    pub(super) fn retain(&self, needed: &HashSet<Hash>) -> Result<HashSet<Hash>, OverlayError> {
        let mut removed = HashSet::new();
        for entry in fs::read_dir(&self.dir).at(&self.dir)? {
            let entry = entry.at(&self.dir)?;
            let hash = hash_of(&entry);
            if hash.is_none_or(|hash| !needed.contains(&hash)) {
                super::bodies::remove_file(&entry.path())?;
                removed.extend(hash);
            }
        }
        Ok(removed)
    }
}

/// Names of files that were not written to the end are no hashes.
fn hash_of(entry: &fs::DirEntry) -> Option<Hash> {
    entry.file_name().to_str()?.parse().ok()
}

/// Local work of a volume that another mount name left.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Parked {
    /// The mount name.
    pub mount_name: String,
    /// Its state directory.
    pub dir: PathBuf,
    /// A process has it open.
    pub in_use: bool,
    /// There is an overlay (a clean unmount without changes leaves none).
    pub overlay: bool,
    /// Stashes.
    pub stashes: usize,
}

/// Local work of this volume under any mount name below `state_root` (directories `<mount name>/<volume id>`). What
/// cannot be read is left out.
pub fn list_parked(state_root: &Path, volume: VolumeId) -> Vec<Parked> {
    let Ok(names) = fs::read_dir(state_root) else {
        return Vec::new();
    };
    let mut parked: Vec<Parked> = names
        .flatten()
        .filter_map(|entry| {
            let dir = entry.path().join(volume.to_string());
            let manifest = Manifest::read(&dir).ok()??;
            let found = Parked {
                mount_name: manifest.mount_name.clone(),
                in_use: DirLock::is_held(&dir),
                overlay: manifest.current.is_some(),
                stashes: manifest.stashes.len(),
                dir,
            };
            (found.overlay || found.stashes > 0).then_some(found)
        })
        .collect();
    parked.sort_by(|a, b| a.mount_name.cmp(&b.mount_name));
    parked
}
