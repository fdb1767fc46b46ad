//! What runs on ext4 runs in a mount: system call by system call, on real mounts, before and after a commit, and in a
//! second pod that has nothing on its machine.
//!
//! Where a local filesystem is meant, it is ext4. As root: some cases take on another user, whose id (65534, "nobody")
//! needs no entry anywhere.

mod attributes;
mod data;
mod limits;
mod locks;
mod names;
mod owners;

use std::ffi::OsStr;
use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};

use fuse_tests::pod::Pod;
use tempfile::TempDir;

/// A user without any privileges.
const NOBODY: u32 = 65_534;

/// A directory store and pods that use it.
struct Site {
    work: TempDir,
    /// The first pod, mounted.
    pod: Pod,
}

impl Site {
    /// A new volume, mounted in one pod. `None`, said aloud: not as root.
    fn new() -> Option<Site> {
        if !rustix::process::geteuid().is_root() {
            eprintln!("not run: it takes on other users' identities, which needs root");
            return None;
        }
        let work = tempfile::tempdir().unwrap();
        let pod = pod(&work);
        pod.mount("posix", &["--create"]);
        Some(Site { work, pod })
    }

    /// Another pod without any local state, mounted: what it sees came through the store.
    fn fresh(&self) -> Pod {
        let pod = pod(&self.work);
        pod.mount("posix", &[]);
        pod
    }

    /// Checks something now, after a commit, and in a fresh pod.
    fn everywhere(&self, check: impl Fn(&Pod, &str)) {
        check(&self.pod, "before the commit");
        self.pod.commit("everywhere");
        check(&self.pod, "after the commit");
        check(&self.fresh(), "in a fresh pod");
    }
}

fn pod(work: &TempDir) -> Pod {
    let pod = Pod::new(&format!("file://{}/store", work.path().display()));
    // Other users have to get to the mount.
    let above = pod.mount_dir().parent().unwrap().to_owned();
    fs::set_permissions(above, Permissions::from_mode(0o755)).unwrap();
    pod
}

/// The errno of what failed.
fn errno<T>(result: std::io::Result<T>) -> Option<i32> {
    result.err().and_then(|error| error.raw_os_error())
}

/// A program as a user without privileges; true if it succeeds.
fn as_nobody<S: AsRef<OsStr>>(program: &str, arguments: impl IntoIterator<Item = S>) -> bool {
    let mut command = Command::new(program);
    command
        .args(arguments)
        .uid(NOBODY)
        .gid(NOBODY)
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    command.status().unwrap().success()
}

/// A shell command as a user without privileges, with a path as `$1`.
fn sh_as_nobody(script: &str, path: impl AsRef<Path>) -> bool {
    let words: [&OsStr; 4] = [
        "-c".as_ref(),
        script.as_ref(),
        "sh".as_ref(),
        path.as_ref().as_ref(),
    ];
    as_nobody("sh", words)
}
