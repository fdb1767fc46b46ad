//! The process that serves one mount: opens the parts, mounts, answers the control socket, and ends in order.
//!
//! Ending, whatever asks for it (`sailvol umount`, SIGTERM, SIGINT, an unmount from outside such as umount(8) or
//! systemd's at shutdown): commit if configured, take the mount away, close the overlay, remove the socket. `sailvol
//! umount` says itself whether to commit. Uncommitted work stays in the state directory in every case.

mod descriptors;
mod metrics;
mod predecessor;
mod serve;
mod service;
mod settings;
mod shutdown;
mod take_back;

pub use predecessor::waits_at_most;
pub use serve::{Ready, run};
pub use settings::MountSettings;
pub use shutdown::CLOSE_TIME;

use std::fs::File;
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Soft limit for core dumps that this process was started with.
static CORE_LIMIT: OnceLock<Option<u64>> = OnceLock::new();

/// Keys are in this process's memory: no core dumps (also none through a pipe), no attaching by other processes of the
/// same user. Children get the limit, which is right for all but the command of `sailvol run`: the hard limit stays.
pub fn keep_memory_private() {
    use rustix::process::{DumpableBehavior, set_dumpable_behavior};
    if let Err(error) = set_dumpable_behavior(DumpableBehavior::NotDumpable) {
        tracing::warn!(%error, "cannot disable core dumps");
    }
    let before = getrlimit(Resource::Core);
    CORE_LIMIT.get_or_init(|| before.current);
    let none = Rlimit {
        current: Some(0),
        ..before
    };
    if let Err(error) = setrlimit(Resource::Core, none) {
        tracing::warn!(%error, "cannot disable core dumps");
    }
}

/// As [`keep_memory_private`], for a process that runs nobody's command: the hard limit goes as well.
pub(crate) fn keep_memory_private_for_good() {
    keep_memory_private();
    let none = Rlimit {
        current: Some(0),
        maximum: Some(0),
    };
    if let Err(error) = setrlimit(Resource::Core, none) {
        tracing::warn!(%error, "cannot disable core dumps");
    }
}

/// Gives a child the soft limit for core dumps that this process was started with; to be called between fork and exec.
pub fn core_limit_restorer() -> impl FnMut() -> io::Result<()> + Send + Sync + 'static {
    let limit = getrlimit(Resource::Core);
    let current = CORE_LIMIT.get().copied().unwrap_or(limit.current);
    move || Ok(setrlimit(Resource::Core, Rlimit { current, ..limit })?)
}

/// Files may be as long as they may be at all: the limit of the shell that mounts is not meant for the volume's.
pub(crate) fn raise_file_limit() {
    let maximum = getrlimit(Resource::Fsize).maximum;
    let limit = Rlimit {
        current: maximum,
        maximum,
    };
    if let Err(error) = setrlimit(Resource::Fsize, limit) {
        tracing::warn!(%error, "cannot raise the limit of file sizes: files are at most as long as the shell's limit allows");
    }
}

/// Where a background daemon logs.
pub fn log_path(settings: &MountSettings) -> PathBuf {
    settings.state_root.join(&settings.name).join("daemon.log")
}

/// File beside the log with the settings of the last start, for `debug-bundle`.
pub const SETTINGS_FILE: &str = "settings.json";

/// Writes down what the daemon was started with; nothing in it is secret.
pub(crate) fn write_settings(settings: &MountSettings) -> io::Result<()> {
    let path = settings.state_root.join(&settings.name).join(SETTINGS_FILE);
    let mut file = std::fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .custom_flags(libc::O_NOFOLLOW)
        .open(path)?;
    io::Write::write_all(&mut file, &serde_json::to_vec_pretty(settings)?)
}

/// Opens the log for appending, in a directory that [`own_dirs`] has seen to. A log over 8 MiB is put aside once.
///
/// # Errors
/// What the system says.
pub fn open_log(settings: &MountSettings) -> io::Result<File> {
    const LOG_BYTES_MAX: u64 = 8 << 20;
    let path = log_path(settings);
    if std::fs::metadata(&path).is_ok_and(|m| m.len() > LOG_BYTES_MAX) {
        std::fs::rename(&path, path.with_extension("log.old"))?;
    }
    std::fs::OpenOptions::new()
        .append(true)
        .create(true)
        .mode(0o600)
        .custom_flags(libc::O_NOFOLLOW)
        .open(&path)
}

/// Makes the directory of the mount's name below the state root, if need be, and sees that nobody else could have put
/// anything into it: its files are written by name. What somebody has opened to others there, or in the mount's cache
/// directory, is closed again (`take_back.rs` says when); what was done is told, for the owner.
///
/// # Errors
/// What the system says; `PermissionDenied` with a reason when it is somebody else's, or something in an open directory is.
pub fn own_dirs(settings: &MountSettings) -> io::Result<Vec<String>> {
    let dir = settings.state_root.join(&settings.name);
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(&dir)?;
    let found = std::fs::symlink_metadata(&dir)?;
    let me = rustix::process::geteuid().as_raw();
    let reason = if !found.is_dir() {
        Some("is a symbolic link; name the directory that it points to".to_owned())
    } else if found.uid() != me {
        Some(format!("belongs to user {}, not to {me}", found.uid()))
    } else {
        None
    };
    if let Some(reason) = reason {
        let text = format!("{}: {reason}", dir.display());
        return Err(io::Error::new(io::ErrorKind::PermissionDenied, text));
    }
    let mut told = Vec::new();
    close_again(&dir, &mut told)?;
    let cache = settings.cache_root.join(&settings.name);
    // What is no directory of ours is for the cache to refuse.
    if std::fs::symlink_metadata(&cache).is_ok_and(|found| found.is_dir() && found.uid() == me) {
        close_again(&cache, &mut told)?;
    }
    Ok(told)
}

fn close_again(dir: &Path, told: &mut Vec<String>) -> io::Result<()> {
    if take_back::take_back(dir, 0o077)? {
        told.push(format!(
            "{} was open to others: closed again, with everything in it (in Kubernetes, \
             fsGroupChangePolicy: OnRootMismatch keeps fsGroup from opening it)",
            dir.display()
        ));
    }
    Ok(())
}
