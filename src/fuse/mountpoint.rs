//! Mount points: checked before a mount, cleaned after a dead daemon, unmounted.

use std::ffi::OsString;
use std::io;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::mount::UnmountFlags;

use super::holders::{holders, in_words};

/// File system type that the kernel shows for our mounts when fusermount3 made them. Mounted directly it shows `fuse`,
/// and the source tells.
const FS_TYPE: &str = "fuse.sailvol";
/// What the source of our mounts begins with; the volume's name follows.
pub(super) const SOURCE_PREFIX: &str = "sailvol:";

/// A directory cannot be mounted on, or not be unmounted.
#[derive(Debug, thiserror::Error)]
pub enum MountPointError {
    /// Mounting over everything is never meant.
    #[error("a volume cannot be mounted on /; name a directory such as /shared")]
    Root,
    /// It is not there.
    #[error("{0} does not exist: create it with mkdir -p")]
    Missing(PathBuf),
    /// It is not a directory.
    #[error("{0} is not a directory")]
    NotDir(PathBuf),
    /// Something is mounted there.
    #[error("{dir}: {what} is already mounted there: use it, or `sailvol umount {dir}` first")]
    Busy {
        /// The directory.
        dir: PathBuf,
        /// What `/proc/self/mountinfo` says.
        what: String,
    },
    /// Files would be hidden.
    #[error(
        "{0} is not empty, and a mount would hide what is in it: name an empty directory, or use --nonempty"
    )]
    NotEmpty(PathBuf),
    /// Nothing of ours is mounted there.
    #[error("{0} is not a sailvol mount")]
    NotOurs(PathBuf),
    /// Programs use it.
    #[error("{dir} is in use{by}; end them, or use --force")]
    InUse {
        /// The directory.
        dir: PathBuf,
        /// What follows "is in use": by whom.
        by: String,
    },
    /// The system says no.
    #[error("{dir}: {doing}: {error}")]
    System {
        /// The directory.
        dir: PathBuf,
        /// What was tried.
        doing: &'static str,
        /// What the system said.
        error: io::Error,
    },
}

/// Whether this process may mount by itself, without fusermount3: root, or a service with the capability.
pub fn mounts_by_privilege() -> bool {
    use rustix::thread::{CapabilitySet, capabilities};
    capabilities(None).is_ok_and(|sets| sets.effective.contains(CapabilitySet::SYS_ADMIN))
}

/// One line of `/proc/self/mountinfo`.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Line {
    /// `major:minor`; FUSE has no block device, so the kernel gives it a minor under major 0.
    device: String,
    /// The mount point, in whatever bytes.
    point: PathBuf,
    /// Flags of the mount.
    flags: String,
    /// File system type.
    kind: String,
    source: String,
    /// Flags and options of the file system.
    super_flags: String,
}

impl Line {
    fn is_ours(&self) -> bool {
        self.kind == FS_TYPE || (self.kind == "fuse" && self.source.starts_with(SOURCE_PREFIX))
    }

    /// Volume, or whatever else is the source.
    fn volume(&self) -> &str {
        self.source.trim_start_matches(SOURCE_PREFIX)
    }
}

/// What is mounted, in the order in which it was. As bytes: one mount point of anybody that is no UTF-8 must not hide all.
fn mounts() -> Vec<Line> {
    let bytes = std::fs::read("/proc/self/mountinfo").unwrap_or_else(|error| {
        tracing::warn!(%error, "/proc/self/mountinfo");
        Vec::new()
    });
    bytes
        .split(|byte| *byte == b'\n')
        .filter_map(parse_mountinfo)
        .collect()
}

/// The one on top at exactly this path.
fn mount_at(dir: &Path) -> Option<Line> {
    mounts().into_iter().rev().find(|line| line.point == dir)
}

fn parse_mountinfo(line: &[u8]) -> Option<Line> {
    let words: Vec<&[u8]> = line.split(|byte| *byte == b' ').collect();
    let text = |word: &[u8]| String::from_utf8_lossy(&unescape(word)).into_owned();
    let behind = words.iter().position(|word| *word == b"-")?;
    Some(Line {
        device: text(words.get(2)?),
        point: PathBuf::from(OsString::from_vec(unescape(words.get(4)?))),
        flags: text(words.get(5)?),
        kind: text(words.get(behind + 1)?),
        source: text(words.get(behind + 2)?),
        super_flags: text(words.get(behind + 3)?),
    })
}

/// Where anything is mounted.
pub(super) fn mount_points() -> Vec<PathBuf> {
    mounts().into_iter().map(|line| line.point).collect()
}

/// The words that mountinfo has for the flags of our mount at this path: those of the mount, then those of its file system.
pub(super) fn mount_flags_of(dir: &Path) -> Option<Vec<String>> {
    let line = mount_at(dir).filter(Line::is_ours)?;
    let words = line.flags.split(',').chain(line.super_flags.split(','));
    Some(words.map(str::to_owned).collect())
}

/// The kernel writes space, tab, newline and backslash as three octal digits.
fn unescape(bytes: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let octal = bytes
            .get(at + 1..at + 4)
            .and_then(|d| std::str::from_utf8(d).ok());
        match (bytes[at], octal.and_then(|d| u8::from_str_radix(d, 8).ok())) {
            (b'\\', Some(byte)) => {
                out.push(byte);
                at += 4;
            }
            (byte, _) => {
                out.push(byte);
                at += 1;
            }
        }
    }
    out
}

/// Where the FUSE connection of this number is mounted, if that is in our mount namespace. Never touches the mount.
pub(super) fn mount_of_connection(number: u32) -> Option<PathBuf> {
    // The kernel gives the connection the number of the device.
    let device = format!("0:{number}");
    let is_it =
        |line: &Line| (line.kind == "fuse" || line.kind.starts_with("fuse.")) && line.device == device;
    mounts().into_iter().find(is_it).map(|line| line.point)
}

/// Whether the topmost mount at exactly this path is one of ours. Never touches the mount itself.
pub fn is_sailvol_mount(dir: &Path) -> bool {
    mount_at(dir).is_some_and(|line| line.is_ours())
}

/// Directories on which this machine (or mount namespace) has sailvol mounts, dead ones too, with what is mounted there.
/// Never touches the mounts.
pub fn sailvol_mounts() -> Vec<(PathBuf, String)> {
    let ours = mounts().into_iter().filter(Line::is_ours);
    ours.map(|line| (line.point.clone(), line.volume().to_owned()))
        .collect()
}

/// Makes a directory ready: checks it, and takes away what a killed daemon left mounted there. Returns the path
/// without symlinks.
///
/// # Errors
/// See [`MountPointError`].
pub fn prepare_mount_point(dir: &Path, allow_nonempty: bool) -> Result<PathBuf, MountPointError> {
    let dir = std::path::absolute(dir).unwrap_or_else(|_| dir.to_path_buf());
    clear_stale(&dir)?;
    let system = |doing| {
        let dir = dir.clone();
        move |error| MountPointError::System { dir, doing, error }
    };
    let real = match std::fs::canonicalize(&dir) {
        Ok(real) => real,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(MountPointError::Missing(dir)),
        Err(error) => return Err(system("examining it")(error)),
    };
    if real == Path::new("/") {
        return Err(MountPointError::Root);
    }
    clear_stale(&real)?;
    if !std::fs::metadata(&real).map_err(system("examining it"))?.is_dir() {
        return Err(MountPointError::NotDir(real));
    }
    if let Some(line) = mount_at(&real).filter(Line::is_ours) {
        return Err(MountPointError::Busy {
            dir: real,
            what: format!("the sailvol volume {:?}", line.volume()),
        });
    }
    let mut entries = std::fs::read_dir(&real).map_err(system("reading it"))?;
    if !allow_nonempty && entries.any(|e| e.is_ok_and(|e| e.file_name() != "lost+found")) {
        return Err(MountPointError::NotEmpty(real));
    }
    Ok(real)
}

/// Time for a live mount to answer `statfs`. One that takes longer is taken for alive.
const STATFS_TIME: Duration = Duration::from_secs(3);

/// Unmounts what a dead daemon left at `dir`: a mount that answers "not connected". A live mount is left alone.
///
/// # Errors
/// The system does not let us.
pub fn clear_stale(dir: &Path) -> Result<(), MountPointError> {
    // Bounded: mounts can be stacked, but nobody stacks sixteen dead ones.
    for _ in 0..16 {
        if !is_sailvol_mount(dir) || !is_dead(dir) {
            return Ok(());
        }
        tracing::info!(dir = %dir.display(), "removing a mount whose daemon is gone");
        detach(dir)?;
    }
    Ok(())
}

/// Whether one of our mounts is there whose daemon is gone.
pub fn is_dead_mount(dir: &Path) -> bool {
    is_sailvol_mount(dir) && is_dead(dir)
}

/// Asks with `statfs`, which always reaches the daemon: attributes of the root may still be in the kernel's cache.
fn is_dead(dir: &Path) -> bool {
    let (tell, told) = std::sync::mpsc::channel();
    let dir = dir.to_path_buf();
    // A thread of its own: a daemon that hangs must not take us along.
    std::thread::spawn(move || {
        // Nobody listens any more when the answer comes late.
        let _ = tell.send(rustix::fs::statfs(&dir).err());
    });
    let dead = [rustix::io::Errno::NOTCONN, rustix::io::Errno::CONNABORTED];
    matches!(told.recv_timeout(STATFS_TIME), Ok(Some(error)) if dead.contains(&error))
}

/// How a mount is taken away.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Unmount {
    /// It must not be in use. Who cannot be seen to use it has this long to let go of it: a file that was closed a moment ago
    /// is given back a little later.
    Unused {
        /// Time to wait.
        within: Duration,
    },
    /// The directory is free at once, and whatever still uses the mount gets errors instead of waiting.
    Forced,
}

impl Unmount {
    /// Unused, after the usual patience.
    pub const PATIENT: Unmount = Unmount::Unused {
        within: Duration::from_secs(3),
    };
}

/// Who is seen to use it has this long: a process that is ending may still be seen.
const HOLDER_TIME: Duration = Duration::from_millis(250);
/// Longest time between two tries.
const TRY_AGAIN_MAX: Duration = Duration::from_millis(100);

/// Takes a mount away from its directory.
///
/// # Errors
/// See [`MountPointError`].
pub fn unmount(dir: &Path, how: Unmount) -> Result<(), MountPointError> {
    if !is_sailvol_mount(dir) {
        return Err(MountPointError::NotOurs(dir.to_path_buf()));
    }
    let Unmount::Unused { within } = how else {
        return abort_and_detach(dir);
    };
    let begun = std::time::Instant::now();
    let mut pause = Duration::from_millis(5);
    loop {
        match unmount_now(dir) {
            Err(MountPointError::InUse { .. }) => {}
            done => return done,
        }
        let holders = holders(dir);
        let patience = if holders.is_empty() {
            within
        } else {
            within.min(HOLDER_TIME)
        };
        if begun.elapsed() + pause > patience {
            return Err(MountPointError::InUse {
                dir: dir.to_path_buf(),
                by: in_words(&holders),
            });
        }
        std::thread::sleep(pause);
        pause = (pause * 2).min(TRY_AGAIN_MAX);
    }
}

fn unmount_now(dir: &Path) -> Result<(), MountPointError> {
    match rustix::mount::unmount(dir, UnmountFlags::NOFOLLOW) {
        Ok(()) => Ok(()),
        Err(rustix::io::Errno::BUSY) => Err(in_use(dir)),
        Err(rustix::io::Errno::PERM) => fusermount(dir, false),
        Err(error) => Err(MountPointError::System {
            dir: dir.to_path_buf(),
            doing: "unmounting",
            error: error.into(),
        }),
    }
}

fn in_use(dir: &Path) -> MountPointError {
    MountPointError::InUse {
        dir: dir.to_path_buf(),
        by: String::new(),
    }
}

/// Ends every request that waits on the mount at `dir` by aborting its connection, and detaches it. umount(2) with
/// MNT_FORCE does the first also where /sys/fs/fuse/connections is not mounted, as in most containers; it never asks the
/// mount itself anything.
fn abort_and_detach(dir: &Path) -> Result<(), MountPointError> {
    match rustix::mount::unmount(dir, UnmountFlags::FORCE | UnmountFlags::NOFOLLOW) {
        Ok(()) => Ok(()),
        // Still used, though nobody waits any more; or not permitted, and fusermount3 is tried next.
        Err(error) => {
            tracing::debug!(%error, "umount with MNT_FORCE");
            detach(dir)
        }
    }
}

fn detach(dir: &Path) -> Result<(), MountPointError> {
    match rustix::mount::unmount(dir, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW) {
        Ok(()) => Ok(()),
        Err(rustix::io::Errno::PERM) => fusermount(dir, true),
        Err(error) => Err(MountPointError::System {
            dir: dir.to_path_buf(),
            doing: "unmounting",
            error: error.into(),
        }),
    }
}

/// The way of users without privilege.
fn fusermount(dir: &Path, lazy: bool) -> Result<(), MountPointError> {
    let system = |error| MountPointError::System {
        dir: dir.to_path_buf(),
        doing: "fusermount3 -u",
        error,
    };
    let mut command = std::process::Command::new("fusermount3");
    // Credentials may be in our environment; it needs none of it.
    command
        .env_clear()
        .envs(std::env::var_os("PATH").map(|path| ("PATH", path)));
    command.arg("-u");
    if lazy {
        command.arg("-z");
    }
    let output = command.arg("--").arg(dir).output().map_err(system)?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    if said.contains("busy") {
        return Err(in_use(dir));
    }
    Err(system(io::Error::other(said)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mountinfo_lines_are_read_with_their_escapes_and_any_bytes() {
        let line =
            br"36 35 98:0 /x /mnt/with\040space rw,noatime master:1 - fuse.sailvol data\134sets rw,sync";
        let line = parse_mountinfo(line).unwrap();
        assert_eq!(line.point, PathBuf::from("/mnt/with space"));
        assert_eq!(
            (line.kind.as_str(), line.source.as_str()),
            ("fuse.sailvol", "data\\sets")
        );
        assert_eq!(
            (line.flags.as_str(), line.super_flags.as_str()),
            ("rw,noatime", "rw,sync")
        );
        assert!(line.is_ours());
        let odd = b"37 35 0:44 / /mnt/\xff\xfe rw - fuse sailvol:v rw";
        let point = parse_mountinfo(odd).unwrap().point;
        assert_eq!(
            point,
            PathBuf::from(OsString::from_vec(b"/mnt/\xff\xfe".to_vec()))
        );
        assert_eq!(parse_mountinfo(b""), None);
    }

    #[test]
    fn what_cannot_be_mounted_on_is_named_with_advice() {
        let dir = tempfile::tempdir().unwrap();
        let message = |path: &Path| prepare_mount_point(path, false).unwrap_err().to_string();
        assert!(message(&dir.path().join("no")).contains("mkdir -p"));
        assert!(message(Path::new("/")).contains("/shared"));
        std::fs::write(dir.path().join("file"), "x").unwrap();
        assert!(message(&dir.path().join("file")).contains("not a directory"));
        assert!(message(dir.path()).contains("--nonempty"));
        assert!(prepare_mount_point(dir.path(), true).is_ok());
    }
}
