//! Mounts by users without privilege: through fusermount3, and on a descriptor that a privileged helper has mounted.

use std::fs;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use fuse_tests::pod::{copy_program, wait_until};
use rustix::fs::{Mode, OFlags};
use rustix::mount::{MountFlags, UnmountFlags};
use serde_json::Value;
use tempfile::TempDir;

/// `nobody`: fusermount3 wants a user whose name it can find.
const USER: u32 = 65_534;

/// Directories of a user, and the program where the user can start it.
struct User {
    directories: TempDir,
}

impl User {
    fn new() -> User {
        assert!(
            rustix::process::geteuid().is_root(),
            "these tests become another user: run them as root"
        );
        let directories = tempfile::Builder::new()
            .prefix("sailvol-user-")
            .tempdir()
            .unwrap();
        chown(directories.path(), Some(USER), Some(USER)).unwrap();
        for name in ["mnt", "home", "state", "cache", "run"] {
            let dir = directories.path().join(name);
            fs::create_dir(&dir).unwrap();
            chown(&dir, Some(USER), Some(USER)).unwrap();
        }
        // The mode that the kernel itself gives it; machines without udev may have another.
        fs::set_permissions("/dev/fuse", fs::Permissions::from_mode(0o666)).unwrap();
        // The checkout may lie where only root can look.
        copy_program(&directories.path().join("sailvol"));
        User { directories }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directories.path().join(name)
    }

    fn mnt(&self) -> PathBuf {
        self.path("mnt")
    }

    fn command(&self, program: &Path) -> Command {
        let mut command = Command::new(program);
        command
            .uid(USER)
            .gid(USER)
            .current_dir(self.directories.path())
            .env_clear()
            .env("PATH", "/usr/bin:/bin")
            .env("HOME", self.path("home"))
            .env("SAILVOL_STATE_DIR", self.path("state"))
            .env("SAILVOL_CACHE_DIR", self.path("cache"))
            .env("SAILVOL_RUNTIME_DIR", self.path("run"))
            .stdin(std::process::Stdio::null());
        command
    }

    fn sailvol<'a>(&self, arguments: impl IntoIterator<Item = &'a str>) -> Value {
        let mut command = self.command(&self.path("sailvol"));
        let output = command.args(arguments).arg("--json").output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{command:?}: {said}");
        serde_json::from_slice(&output.stdout).unwrap()
    }

    fn shell(&self, line: &str) -> String {
        let output = self
            .command(Path::new("/bin/sh"))
            .args(["-c", line])
            .output()
            .unwrap();
        assert!(
            output.status.success(),
            "{line}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        String::from_utf8(output.stdout).unwrap()
    }
}

impl Drop for User {
    fn drop(&mut self) {
        // Whatever a failed test has left mounted; the daemon ends with it.
        let _ = rustix::mount::unmount(self.mnt(), UnmountFlags::DETACH);
    }
}

fn is_mounted(dir: &Path) -> bool {
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
    mounts.contains(&*dir.to_string_lossy())
}

#[test]
fn a_user_mounts_through_fusermount3() {
    let user = User::new();
    let mnt = user.mnt().display().to_string();
    user.sailvol(["mount", "--create", "data", &mnt]);
    user.shell("echo hello > mnt/f && mkdir mnt/d && ln -s f mnt/l && stat -c %u mnt/f");
    assert_eq!(user.shell("cat mnt/l"), "hello\n");
    assert_eq!(user.shell("stat -c %u mnt/f"), format!("{USER}\n"));
    let status = user.sailvol(["status", &mnt]);
    let lacks = status["lacks"].to_string();
    assert!(lacks.contains("read-ahead"), "{status}");
    assert!(
        status["passthrough"].as_str().unwrap().starts_with("off"),
        "{status}"
    );
    let allowed = fs::read_to_string("/etc/fuse.conf")
        .is_ok_and(|text| text.lines().any(|line| line.trim() == "user_allow_other"));
    // Not even root may look in without that line.
    assert_eq!(fs::metadata(user.mnt().join("f")).is_ok(), allowed);
    assert_eq!(lacks.contains("user_allow_other"), !allowed, "{lacks}");
    assert_eq!(user.sailvol(["commit", &mnt])["changed"], 3);
    user.sailvol(["umount", &mnt]);
    assert!(!is_mounted(&user.mnt()));
    user.sailvol(["mount", "data", &mnt]);
    assert_eq!(user.shell("cat mnt/f"), "hello\n");
    user.sailvol(["umount", &mnt]);
}

/// What a privileged helper does: opens the device and mounts it for the user.
fn mounted_device(dir: &Path) -> OwnedFd {
    // Not closed on exec: the program inherits it.
    let device = rustix::fs::open("/dev/fuse", OFlags::RDWR, Mode::empty()).unwrap();
    let data = format!(
        "fd={},rootmode=40000,user_id={USER},group_id={USER},default_permissions,allow_other",
        device.as_raw_fd()
    );
    let data = std::ffi::CString::new(data).unwrap();
    let flags = MountFlags::NOSUID | MountFlags::NODEV;
    rustix::mount::mount("sailvol:data", dir, "fuse", flags, data.as_c_str()).unwrap();
    device
}

#[test]
fn a_user_serves_a_descriptor_that_a_helper_has_mounted() {
    let user = User::new();
    let mnt = user.mnt().display().to_string();
    let device = mounted_device(&user.mnt());
    let number = format!("/dev/fd/{}", device.as_raw_fd());
    let ready = user.sailvol(["mount", "--create", "--name", "given", "data", &number]);
    drop(device);
    user.shell("echo hello > mnt/f");
    // The helper let others in: root, and whom modes allow.
    assert_eq!(fs::read_to_string(user.mnt().join("f")).unwrap(), "hello\n");
    assert_eq!(fs::metadata(user.mnt().join("f")).unwrap().uid(), USER);
    let dir = ready["dir"].as_str().unwrap();
    let status = user.sailvol(["status", dir]);
    assert!(status["lacks"].to_string().contains("helper"), "{status}");
    assert!(
        status["passthrough"].as_str().unwrap().starts_with("off"),
        "{status}"
    );
    assert_eq!(user.sailvol(["commit", dir])["changed"], 1);
    user.sailvol(["umount", dir]);
    let pid = ready["pid"].as_u64().unwrap();
    wait_until("the daemon ends", || !Path::new(&format!("/proc/{pid}")).exists());
    // What is left is the helper's: the kernel says that nobody serves it.
    if is_mounted(&user.mnt()) {
        assert!(fs::read_dir(user.mnt()).is_err());
        rustix::mount::unmount(user.mnt(), UnmountFlags::empty()).unwrap();
    }
    // And the work is there.
    user.sailvol(["mount", "data", &mnt]);
    assert_eq!(user.shell("cat mnt/f"), "hello\n");
    user.sailvol(["umount", &mnt]);
}

#[test]
fn a_descriptor_that_is_no_device_is_refused_with_what_a_helper_has_to_do() {
    let user = User::new();
    let mut command = user.command(&user.path("sailvol"));
    let output = command
        .args(["mount", "--create", "--name", "n", "data", "/dev/fd/77"])
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{said}");
    assert!(said.contains("not open") && said.contains("mount(2)"), "{said}");
}
