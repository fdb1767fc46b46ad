//! Locks between processes of one mount.

use std::fs::File;
use std::path::Path;
use std::process::Command;

use rustix::fs::{FlockOperation, fcntl_lock, flock};

use crate::Site;

/// Another process tries for a lock, `flock` or `lockf` (fcntl), of the whole file; true if it gets it.
fn others_get(call: &str, path: &Path) -> bool {
    let script =
        format!("import fcntl,sys; fcntl.{call}(open(sys.argv[1],'r+'), fcntl.LOCK_EX|fcntl.LOCK_NB)");
    let output = Command::new("python3")
        .arg("-c")
        .arg(script)
        .arg(path)
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success() || said.contains("BlockingIOError"),
        "{said}"
    );
    output.status.success()
}

#[test]
fn flock_and_fcntl_locks_hold_between_processes() {
    let Some(site) = Site::new() else { return };
    let path = site.pod.path("locked");
    std::fs::write(&path, "x").unwrap();
    for when in ["dirty", "committed"] {
        let file = File::options().read(true).write(true).open(&path).unwrap();
        flock(&file, FlockOperation::LockExclusive).unwrap();
        assert!(!others_get("flock", &path), "{when}");
        flock(&file, FlockOperation::Unlock).unwrap();
        assert!(others_get("flock", &path), "{when}");
        fcntl_lock(&file, FlockOperation::LockExclusive).unwrap();
        assert!(!others_get("lockf", &path), "{when}");
        // A lock outlives the commit that goes on beside it, and ends with its process or file.
        site.pod.commit(when);
        assert!(!others_get("lockf", &path), "{when}");
        drop(file);
        assert!(others_get("lockf", &path), "{when}");
    }
    // None across mounts: they have nothing in common until a commit.
    let fresh = site.fresh();
    let file = File::options().read(true).write(true).open(&path).unwrap();
    flock(&file, FlockOperation::LockExclusive).unwrap();
    assert!(others_get("flock", &fresh.path("locked")));
}
