//! The process that serves one mount: opens the parts, mounts, answers the control socket, and ends in order.
//!
//! Ending, whatever asks for it (`sailvol umount`, SIGTERM, SIGINT, an unmount from outside such as umount(8) or
//! systemd's at shutdown): commit if configured, take the mount away, close the overlay, remove the socket. `sailvol
//! umount` says itself whether to commit. Uncommitted work stays in the state directory in every case.

mod metrics;
mod serve;
mod service;
mod settings;
mod shutdown;

pub use serve::{Ready, run};
pub use settings::MountSettings;

use std::fs::File;
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::PathBuf;

/// Keys are in this process's memory: no core dumps (also none through a pipe), no attaching by other processes of the
/// same user. Children get the limit, which is right for them too.
pub fn keep_memory_private() {
    use rustix::process::{DumpableBehavior, Resource, Rlimit, set_dumpable_behavior, setrlimit};
    if let Err(error) = set_dumpable_behavior(DumpableBehavior::NotDumpable) {
        tracing::warn!(%error, "core dumps stay possible");
    }
    let none = Rlimit {
        current: Some(0),
        maximum: Some(0),
    };
    if let Err(error) = setrlimit(Resource::Core, none) {
        tracing::warn!(%error, "core dumps stay possible");
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

/// Opens the log for appending, and makes its directory. A log over 8 MiB is put aside once.
///
/// # Errors
/// What the system says.
pub fn open_log(settings: &MountSettings) -> io::Result<File> {
    const LOG_BYTES_MAX: u64 = 8 << 20;
    let path = log_path(settings);
    own_state_dir(settings)?;
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
/// anything into it: its files are written by name.
///
/// # Errors
/// What the system says; `PermissionDenied` with a reason when it is somebody else's or open to others.
pub fn own_state_dir(settings: &MountSettings) -> io::Result<()> {
    let dir = settings.state_root.join(&settings.name);
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(&dir)?;
    let found = std::fs::symlink_metadata(&dir)?;
    let me = rustix::process::geteuid().as_raw();
    let reason = if !found.is_dir() {
        "is a symbolic link; name the directory that it points to".to_owned()
    } else if found.uid() != me {
        format!("belongs to user {}, not to {me}", found.uid())
    } else if found.mode() & 0o022 != 0 {
        "can be written by others; look at what is in it, then chmod 700 it".to_owned()
    } else {
        return Ok(());
    };
    let text = format!("{}: {reason}", dir.display());
    Err(io::Error::new(io::ErrorKind::PermissionDenied, text))
}
