//! Looking at a cache directory that no mount uses, without deleting anything.

use std::fs::{self, File};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};

use super::CacheError;
use super::index::Index;
use super::open::{CONTENTS, INDEX, LOCK, PACKS, VOLUME};
use super::packs::parse_name;
use super::segment::SegmentKey;
use crate::format::{FrameSum, PACK_TRAILER_BYTES, content_id, pack_footer_range, parse_pack_footer};
use crate::model::{FRAME_BYTES, VolumeId};

/// What a cache directory holds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CacheCheck {
    /// Whose bytes they are.
    pub volume: Option<VolumeId>,
    /// A mount uses it: what is in it was not compared.
    pub in_use: bool,
    /// Windows of packs.
    pub windows: u64,
    /// Files of large contents.
    pub contents: u64,
    /// Frames in them that were compared with the hash noted when they came.
    pub frames: u64,
    /// Bytes on disk of both.
    pub disk_bytes: u64,
    /// What is damaged, a line each. A mount finds the same at its next use, and fetches it again.
    pub damage: Vec<String>,
    /// Files that are none of a cache; the next mount deletes those below `packs` and `contents`.
    pub foreign: Vec<String>,
}

/// Cache directories at or below a directory: `dir` itself or `*` in it.
///
/// # Errors
/// `dir` cannot be read.
pub fn cache_dirs(dir: &Path) -> Result<Vec<PathBuf>, CacheError> {
    let is_cache = |dir: &Path| dir.join(VOLUME).is_file() || dir.join(CONTENTS).is_dir();
    if is_cache(dir) {
        return Ok(vec![dir.to_owned()]);
    }
    let io = |source| CacheError::Io {
        path: dir.to_owned(),
        source,
    };
    let mut found: Vec<PathBuf> = fs::read_dir(dir)
        .map_err(io)?
        .flatten()
        .map(|entry| entry.path())
        .filter(|path| is_cache(path))
        .collect();
    found.sort();
    Ok(found)
}

/// Checks the cache directory `dir`: that it is ours alone, that its files are files of a cache, and, unless `quick`,
/// that every frame of a large content has the hash noted when it came, and every whole pack that of its name.
/// Windows of packs are otherwise compared item by item when they are used: only the volume tells their hashes.
///
/// # Errors
/// `dir` cannot be read; what is wrong in it is in the result.
pub fn check_cache(dir: &Path, quick: bool) -> Result<CacheCheck, CacheError> {
    let mut check = CacheCheck::default();
    let io = |path: &Path| {
        let path = path.to_owned();
        move |source| CacheError::Io { path, source }
    };
    check.owned(dir);
    let text = fs::read_to_string(dir.join(VOLUME));
    match text.map(|text| text.trim().parse()) {
        Ok(Ok(volume)) => check.volume = Some(volume),
        Ok(Err(_)) => check
            .damage
            .push(format!("{}: names no volume", dir.join(VOLUME).display())),
        Err(error) => check
            .damage
            .push(format!("{}: {error}", dir.join(VOLUME).display())),
    }
    for entry in fs::read_dir(dir).map_err(io(dir))? {
        let path = entry.map_err(io(dir))?.path();
        let known = [PACKS, CONTENTS, INDEX, LOCK, VOLUME];
        let is_known = path
            .file_name()
            .is_some_and(|name| known.iter().any(|known| name == *known));
        match is_known {
            true => check.owned(&path),
            false => check.foreign.push(path.display().to_string()),
        }
    }
    let lock = match is_locked(dir) {
        Some(lock) => Some(lock),
        None => {
            check.in_use = true;
            None
        }
    };
    // sled opens for one process only, and writes when it does.
    let index = (!check.in_use && !quick && is_real_dir(&dir.join(INDEX)))
        .then(|| Index::open_existing(&dir.join(INDEX)))
        .and_then(|opened| {
            opened
                .map_err(|reason| {
                    check
                        .damage
                        .push(format!("{}: {reason}", dir.join(INDEX).display()))
                })
                .ok()
        });
    for path in files_of(&dir.join(PACKS)) {
        check.window(&path, quick);
    }
    for path in files_of(&dir.join(CONTENTS)) {
        check.content(&path, index.as_ref());
    }
    drop(lock);
    Ok(check)
}

/// The lock, held shared, so that no mount begins to use the directory meanwhile; `None` when one uses it.
fn is_locked(dir: &Path) -> Option<Option<File>> {
    // Without the file no mount ever used it.
    let Ok(file) = File::open(dir.join(LOCK)) else {
        return Some(None);
    };
    match rustix::fs::flock(&file, rustix::fs::FlockOperation::NonBlockingLockShared) {
        Err(rustix::io::Errno::WOULDBLOCK) => None,
        _ => Some(Some(file)),
    }
}

fn is_real_dir(path: &Path) -> bool {
    fs::symlink_metadata(path).is_ok_and(|found| found.is_dir())
}

/// What is directly in a directory, sorted; nothing where there is none.
fn files_of(dir: &Path) -> Vec<PathBuf> {
    if !is_real_dir(dir) {
        return Vec::new();
    }
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    let mut paths: Vec<PathBuf> = entries.map(|entry| entry.path()).collect();
    paths.sort();
    paths
}

impl CacheCheck {
    /// Notes what is a symbolic link, somebody else's, or (a directory) open to others.
    fn owned(&mut self, path: &Path) {
        let me = rustix::process::geteuid().as_raw();
        let reason = match fs::symlink_metadata(path) {
            Err(error) => error.to_string(),
            Ok(found) if found.is_symlink() => "is a symbolic link".to_owned(),
            Ok(found) if found.uid() != me => format!("belongs to user {}, we are user {me}", found.uid()),
            Ok(found) if found.is_dir() && found.mode() & 0o077 != 0 => "is open to others".to_owned(),
            Ok(_) => return,
        };
        self.damage.push(format!("{}: {reason}", path.display()));
    }

    /// A window of a pack.
    fn window(&mut self, path: &Path, quick: bool) {
        let Some((pack, start, _)) = parse_name(path).filter(|_| is_plain(path)) else {
            self.foreign.push(path.display().to_string());
            return;
        };
        self.windows += 1;
        self.disk_bytes += fs::metadata(path).map_or(0, |found| found.blocks() * 512);
        if quick || start != 0 {
            return;
        }
        match fs::read(path) {
            Err(error) => self.damage.push(format!("{}: {error}", path.display())),
            Ok(bytes) if is_whole_pack(&bytes) && content_id(&bytes) != pack.id => {
                self.damage
                    .push(format!("{}: has not the hash that names it", path.display()));
            }
            Ok(bytes) if bytes.is_empty() => self.damage.push(format!("{}: is empty", path.display())),
            Ok(_) => {}
        }
    }

    /// A file of a large content; its frames only where the index is there.
    fn content(&mut self, path: &Path, index: Option<&Index>) {
        let name = path
            .file_name()
            .and_then(|name| name.to_str())
            .unwrap_or_default();
        let Some((_, number)) = SegmentKey::parse(name).filter(|_| is_plain(path)) else {
            self.foreign.push(path.display().to_string());
            return;
        };
        self.contents += 1;
        self.disk_bytes += fs::metadata(path).map_or(0, |found| found.blocks() * 512);
        let Some(index) = index else { return };
        let mut marks: Vec<(u32, FrameSum)> = index.marks(number).into_iter().collect();
        marks.sort_unstable_by_key(|(frame, _)| *frame);
        let file = match File::open(path) {
            Ok(file) => file,
            Err(error) => return self.damage.push(format!("{}: {error}", path.display())),
        };
        for (frame, sum) in marks {
            self.frames += 1;
            match read_frame(&file, frame) {
                Ok(bytes) if sum.matches(&bytes) => {}
                Ok(_) => self.damage.push(format!(
                    "{}: frame {frame} is not what it was when it came",
                    path.display()
                )),
                Err(error) => self
                    .damage
                    .push(format!("{}: frame {frame}: {error}", path.display())),
            }
        }
    }
}

fn is_plain(path: &Path) -> bool {
    fs::symlink_metadata(path).is_ok_and(|found| found.is_file())
}

/// From its first byte to a footer that fits.
fn is_whole_pack(bytes: &[u8]) -> bool {
    let len = bytes.len() as u64;
    let Some(trailer) = len
        .checked_sub(PACK_TRAILER_BYTES)
        .and_then(|at| usize::try_from(at).ok())
    else {
        return false;
    };
    let footer = pack_footer_range(&bytes[trailer..], len, "window")
        .ok()
        .and_then(|range| {
            let range = usize::try_from(range.start).ok()?..usize::try_from(range.end).ok()?;
            bytes.get(range)
        });
    footer.is_some_and(|footer| parse_pack_footer(footer, len, "window").is_ok())
}

/// A frame, less where the file ends.
fn read_frame(file: &File, frame: u32) -> std::io::Result<Vec<u8>> {
    let mut bytes = vec![0; FRAME_BYTES as usize];
    let start = u64::from(frame) * FRAME_BYTES;
    let mut len = 0;
    while len < bytes.len() {
        match file.read_at(&mut bytes[len..], start + len as u64) {
            Ok(0) => break,
            Ok(n) => len += n,
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    bytes.truncate(len);
    Ok(bytes)
}
