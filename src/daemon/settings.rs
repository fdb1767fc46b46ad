//! What a daemon is started with: everything resolved, nothing secret.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::fuse::KernelFlag;
use crate::model::Seq;

/// One mount, fully described. Credentials are not part of it: they come from the AWS default chain.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct MountSettings {
    /// URL of the store.
    pub store_url: String,
    /// Name of the volume.
    pub volume: String,
    /// Mount point, absolute, without symlinks.
    #[serde(with = "crate::model::shown_path")]
    pub dir: PathBuf,
    /// Name of the mount.
    pub name: String,
    /// Make the volume when it is not there.
    pub create: bool,
    /// No overlay; several such mounts may share a name.
    pub read_only: bool,
    /// Stay at this record.
    pub at: Option<Seq>,
    /// Roots of the places.
    #[serde(with = "crate::model::shown_path")]
    pub state_root: PathBuf,
    /// See above.
    #[serde(with = "crate::model::shown_path")]
    pub cache_root: PathBuf,
    /// See above.
    #[serde(with = "crate::model::shown_path")]
    pub runtime_root: PathBuf,
    /// Owner of the mount: everything appears to belong to them, and they may use the control socket; they own the root
    /// directory of a volume made now.
    pub uid: Option<u32>,
    /// Group that everything appears to belong to, and of the root directory of a volume made now.
    pub gid: Option<u32>,
    /// Members of this group may use the control socket.
    pub control_gid: Option<u32>,
    /// Other users may use the mount.
    pub allow_other: bool,
    /// Let the kernel read and write local files by itself where it can.
    pub passthrough: bool,
    /// Most clean bytes on disk.
    pub cache_bytes_max: u64,
    /// Free bytes that the cache leaves on its disk.
    pub cache_free_floor_bytes: u64,
    /// A read gives up after this long without progress, seconds.
    pub remote_timeout_secs: u64,
    /// The mount is given up when the store has not told of the volume after this long, seconds.
    pub open_timeout_secs: u64,
    /// Stashes older than this go, seconds.
    pub stash_age_max_secs: u64,
    /// Stashes over this many bytes go, oldest first.
    pub stash_bytes_max: u64,
    /// SIGTERM commits first.
    pub commit_on_exit: bool,
    /// Time for that commit, seconds.
    pub exit_grace_secs: u64,
    /// Who commits, for the log.
    pub by: String,
    /// Commit this often, seconds.
    pub autocommit_secs: Option<u64>,
    /// Look for newer records and reload this often, seconds.
    pub autoreload_secs: Option<u64>,
    /// An automatic commit must not delete a larger share of the files, percent.
    pub deleted_percent_max: u8,
    /// Where Prometheus may ask.
    pub metrics: Option<String>,
    /// Descriptor of /dev/fuse that somebody else has mounted, inherited.
    pub device_fd: Option<i32>,
    /// What the kernel is told besides: fstab's options.
    #[serde(default)]
    pub kernel_flags: Vec<KernelFlag>,
    /// Labels for SELinux, as mount(8) writes them.
    #[serde(default)]
    pub selinux_labels: Vec<String>,
    /// Log lines as JSON.
    pub json_logs: bool,
}
