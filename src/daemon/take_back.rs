//! Directories of this user that somebody has opened to others are closed again before they are used.
//!
//! Kubernetes does that to a pod with `fsGroup`: with `fsGroupChangePolicy: Always`, the default, kubelet gives every file and
//! directory of a volume to the group, adds `g+rwX` and sets set-group-id on directories, each time that the pod starts.
//! The uncommitted work of the pod before must be found again after that. What is closed is only what is certainly ours:
//! directories and files of this user without another name. Anything else (somebody else's file, a symbolic or hard link,
//! a pipe) could have been put there through the open door: then nothing is used and the entry is named.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use rustix::fs::{Dir, FileType, Mode, OFlags, Stat, fchmod, fstat, openat};

/// Mode of a directory of ours.
const DIR_MODE: u32 = 0o700;
/// Mode of a file of ours.
const FILE_MODE: u32 = 0o600;
/// Bits of a mode that say who may do what.
const MODE_BITS: u32 = 0o7777;
/// What mkfs makes on a disk of its own; never ours, and never looked into.
const LOST_AND_FOUND: &[u8] = b"lost+found";
/// Directories in each other; ours are three deep, a cache's index a few more.
const DEPTH_MAX: u32 = 32;

/// Closes `dir` and what is in it if others may use it, or a directory directly in it, by a mode that has a bit of `open`.
/// True: it did, and the owner should be told.
///
/// # Errors
/// `PermissionDenied` with the path of what is not ours, and then nothing about `dir` itself has changed; or what the system
/// says.
pub fn take_back(dir: &Path, open: u32) -> io::Result<bool> {
    let top = open_dir(rustix::fs::CWD, dir.as_os_str().as_bytes())?;
    let before = checked(dir, &fstat(&top)?, FileType::Directory)?;
    if before & open == 0 && !has_open_dir(&top, open)? {
        return Ok(false);
    }
    // First the door, so that nobody can put anything in while it is looked through. (Who has a descriptor of a directory
    // can do no more through it than that directory's mode, which is changed before it is read.)
    fchmod(&top, Mode::from_raw_mode(DIR_MODE))?;
    if let Err(error) = close_all(&top, dir, 0) {
        // As it was: the next start must find it open again, and look again.
        fchmod(&top, Mode::from_raw_mode(before))?;
        return Err(error);
    }
    Ok(true)
}

fn open_dir(at: impl AsFd, name: &[u8]) -> io::Result<OwnedFd> {
    let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::RDONLY | OFlags::CLOEXEC;
    Ok(openat(at, name, flags, Mode::empty())?)
}

/// True if a directory directly in this one is open to others: those of each volume are where work is kept.
fn has_open_dir(top: &OwnedFd, open: u32) -> io::Result<bool> {
    let mut entries = Dir::read_from(top)?;
    while let Some(entry) = entries.read() {
        let entry = entry?;
        let name = entry.file_name().to_bytes();
        if is_not_ours(name) {
            continue;
        }
        let stat = rustix::fs::statat(top, name, rustix::fs::AtFlags::SYMLINK_NOFOLLOW)?;
        let is_dir = FileType::from_raw_mode(stat.st_mode) == FileType::Directory;
        if is_dir && stat.st_mode & open != 0 {
            return Ok(true);
        }
    }
    Ok(false)
}

fn is_not_ours(name: &[u8]) -> bool {
    name == b"." || name == b".." || name == LOST_AND_FOUND
}

/// Everything in a directory gets the mode that ours has; `path` is where it is, for messages.
fn close_all(dir: &OwnedFd, path: &Path, depth: u32) -> io::Result<()> {
    if depth > DEPTH_MAX {
        return Err(refused(path, "is nested deeper than sailvol's own directories"));
    }
    let mut entries = Dir::read_from(dir)?;
    while let Some(entry) = entries.read() {
        let entry = entry?;
        let name = entry.file_name().to_bytes();
        if is_not_ours(name) {
            continue;
        }
        let inside = path.join(std::ffi::OsStr::from_bytes(name));
        let stat = rustix::fs::statat(dir, name, rustix::fs::AtFlags::SYMLINK_NOFOLLOW)?;
        let kind = FileType::from_raw_mode(stat.st_mode);
        checked(&inside, &stat, kind)?;
        if kind == FileType::Directory {
            let below = open_dir(dir, name)?;
            let mode = checked(&inside, &fstat(&below)?, FileType::Directory)?;
            set_mode(&below, mode, DIR_MODE)?;
            close_all(&below, &inside, depth + 1)?;
        } else {
            let flags = OFlags::NOFOLLOW | OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
            let file = openat(dir, name, flags, Mode::empty())?;
            let mode = checked(&inside, &fstat(&file)?, FileType::RegularFile)?;
            set_mode(&file, mode, FILE_MODE)?;
        }
    }
    Ok(())
}

fn set_mode(of: &OwnedFd, is: u32, wanted: u32) -> io::Result<()> {
    if is & 0o7077 != 0 {
        fchmod(of, Mode::from_raw_mode(wanted))?;
    }
    Ok(())
}

/// The mode of what is certainly ours.
fn checked(path: &Path, stat: &Stat, kind: FileType) -> io::Result<u32> {
    let me = rustix::process::geteuid().as_raw();
    if stat.st_uid != me {
        return Err(refused(
            path,
            &format!("belongs to user {}, not to {me}", stat.st_uid),
        ));
    }
    match (FileType::from_raw_mode(stat.st_mode), kind) {
        (FileType::Directory, FileType::Directory) => {}
        (FileType::RegularFile, FileType::RegularFile) if stat.st_nlink == 1 => {}
        (FileType::RegularFile, FileType::RegularFile) => {
            return Err(refused(path, "has a second name (a hard link)"));
        }
        (FileType::Symlink, _) => return Err(refused(path, "is a symbolic link")),
        _ => return Err(refused(path, "is not a file or directory that sailvol creates")),
    }
    Ok(stat.st_mode & MODE_BITS)
}

fn refused(path: &Path, why: &str) -> io::Error {
    let text = format!(
        "{} {why}, in a directory that others may write to: inspect it, and remove it",
        path.display()
    );
    io::Error::new(io::ErrorKind::PermissionDenied, text)
}

#[cfg(test)]
mod tests {
    use std::fs::{create_dir_all, metadata, set_permissions, write};
    use std::os::unix::fs::{MetadataExt, PermissionsExt};
    use std::path::PathBuf;

    use super::*;

    /// A tree as a mount leaves it; gives directories and files.
    fn tree(top: &Path) -> (Vec<PathBuf>, Vec<PathBuf>) {
        let dirs: Vec<PathBuf> = [
            "",
            "volume",
            "volume/bodies",
            "volume/bodies/00",
            "volume/overlay-1",
        ]
        .iter()
        .map(|dir| top.join(dir))
        .collect();
        let files: Vec<PathBuf> = [
            "daemon.log",
            "volume/manifest",
            "volume/bodies/00/0000",
            "volume/overlay-1/journal",
        ]
        .iter()
        .map(|file| top.join(file))
        .collect();
        dirs.iter().for_each(|dir| create_dir_all(dir).unwrap());
        files.iter().for_each(|file| write(file, b"work").unwrap());
        dirs.iter().for_each(|dir| chmod(dir, DIR_MODE));
        files.iter().for_each(|file| chmod(file, FILE_MODE));
        (dirs, files)
    }

    fn chmod(path: &Path, mode: u32) {
        set_permissions(path, PermissionsExt::from_mode(mode)).unwrap();
    }

    fn mode(path: &Path) -> u32 {
        metadata(path).unwrap().mode() & MODE_BITS
    }

    /// Every mode that somebody may have given to any of it, drawn from a seed.
    #[test]
    fn what_is_ours_is_closed_whatever_was_done_to_its_modes() {
        for seed in 0u32..200 {
            let top = tempfile::tempdir().unwrap();
            let (dirs, files) = tree(top.path());
            let mut random = seed.wrapping_mul(2_654_435_761).wrapping_add(1);
            let mut next = || {
                random ^= random << 13;
                random ^= random >> 17;
                random ^= random << 5;
                random
            };
            let mut opened = false;
            for (at, dir) in dirs.iter().enumerate() {
                let added = [0, 0o070, 0o2070, 0o2077, 0o055, 0o2000][next() as usize % 6];
                chmod(dir, DIR_MODE | added);
                opened |= at < 2 && added & 0o077 != 0;
            }
            for file in &files {
                chmod(file, FILE_MODE | [0, 0o060, 0o066, 0o004][next() as usize % 4]);
            }
            assert_eq!(take_back(top.path(), 0o077).unwrap(), opened, "seed {seed}");
            if opened {
                dirs.iter()
                    .for_each(|dir| assert_eq!(mode(dir), DIR_MODE, "seed {seed}"));
                files
                    .iter()
                    .for_each(|file| assert_eq!(mode(file), FILE_MODE, "seed {seed}"));
            }
            assert!(!take_back(top.path(), 0o077).unwrap(), "seed {seed}");
        }
    }

    /// A deed of somebody else in a directory.
    type Plant = fn(&Path);

    #[test]
    fn what_others_may_have_put_there_is_named_and_found_again() {
        let plants: [(&str, Plant); 3] = [
            ("symbolic link", |at| {
                std::os::unix::fs::symlink("/etc/passwd", at.join("volume/link")).unwrap();
            }),
            ("hard link", |at| {
                std::fs::hard_link(at.join("daemon.log"), at.join("volume/bodies/copy")).unwrap();
            }),
            ("not a file", |at| {
                let pipe = at.join("volume/overlay-1/pipe");
                rustix::fs::mknodat(rustix::fs::CWD, pipe, FileType::Fifo, Mode::RUSR, 0).unwrap();
            }),
        ];
        for (what, plant) in plants {
            let top = tempfile::tempdir().unwrap();
            let dir = top.path().join("name");
            create_dir_all(&dir).unwrap();
            tree(&dir);
            chmod(&dir, 0o2770);
            plant(&dir);
            for _ in 0..2 {
                let error = take_back(&dir, 0o077).unwrap_err();
                assert_eq!(error.kind(), io::ErrorKind::PermissionDenied);
                assert!(error.to_string().contains(what), "{what}: {error}");
                assert_eq!(mode(&dir), 0o2770);
            }
        }
    }

    #[test]
    fn a_file_of_somebody_else_is_not_taken_over() {
        if !rustix::process::geteuid().is_root() {
            return;
        }
        let top = tempfile::tempdir().unwrap();
        let (_, files) = tree(top.path());
        chmod(top.path(), 0o770);
        std::os::unix::fs::chown(&files[1], Some(65_534), None).unwrap();
        let error = take_back(top.path(), 0o077).unwrap_err();
        assert!(error.to_string().contains("belongs to user 65534"), "{error}");
        assert_eq!(mode(top.path()), 0o770);
    }
}
