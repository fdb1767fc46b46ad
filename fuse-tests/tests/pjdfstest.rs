//! pjdfstest, a suite of POSIX cases that we did not write, on a mount. It takes on other users' identities, so it needs
//! root; and the program `pjdfstest` (crates.io, version 0.2.2), which `.ci/run` installs below `target/suites`.
//!
//! ext4 passes 383 of its 398 cases and skips 15. Nothing is excluded here; `link::link_count_max` is skipped by the suite
//! itself, because the C library knows no limit of links for a FUSE filesystem.

use std::fs::{self, Permissions};
use std::io::ErrorKind;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use fuse_tests::pod::Pod;

/// Cases that have to pass: all that do not need a second filesystem or what Linux lacks.
const PASSING: usize = 382;

/// Users that every Debian has.
const CONFIGURATION: &str = r#"
[features]
posix_fallocate = {}
rename_ctime = {}
utimensat = {}
utime_now = {}
[settings]
naptime = 0.01
allow_remount = false
[dummy_auth]
entries = [["nobody", "nogroup"], ["daemon", "daemon"]]
"#;

/// The suite, if it is installed: in `target/suites`, else in `PATH`.
fn suite() -> Option<PathBuf> {
    let own = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/suites/bin/pjdfstest");
    let program = if own.exists() { own } else { "pjdfstest".into() };
    let mut asked = Command::new(&program);
    asked.arg("--help").stdout(Stdio::null()).stderr(Stdio::null());
    match asked.status() {
        Err(error) if error.kind() == ErrorKind::NotFound => None,
        answer => {
            assert!(answer.expect("pjdfstest starts").success());
            Some(program)
        }
    }
}

#[test]
fn posix_cases_pass() {
    let Some(suite) = suite().filter(|_| rustix::process::geteuid().is_root()) else {
        eprintln!("not run: needs root and pjdfstest 0.2.2 (see .ci/run)");
        return;
    };
    let work = tempfile::tempdir().unwrap();
    let configuration = work.path().join("pjdfstest.toml");
    fs::write(&configuration, CONFIGURATION).unwrap();
    let pod = Pod::new(&format!("file://{}/store", work.path().display()));
    // Other users have to get to the mount.
    let above = pod.mount_dir().parent().unwrap().to_owned();
    fs::set_permissions(above, Permissions::from_mode(0o755)).unwrap();
    pod.mount("posix", &["--create"]);
    let dir = pod.path("cases");
    fs::create_dir(&dir).unwrap();
    fs::set_permissions(&dir, Permissions::from_mode(0o755)).unwrap();
    let output = Command::new(suite)
        .arg("-c")
        .arg(&configuration)
        .arg("-p")
        .arg(&dir)
        .env("RUST_BACKTRACE", "0")
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    pod.umount(&[]);
    let failed: Vec<&str> = said.lines().filter(|line| line.contains("FAILED")).collect();
    assert!(
        failed.is_empty() && output.status.success(),
        "{}",
        failed.join("\n")
    );
    let passed = said
        .lines()
        .filter(|line| line.trim_end().ends_with(" ok"))
        .count();
    assert!(passed >= PASSING, "only {passed} cases ran:\n{said}");
}
