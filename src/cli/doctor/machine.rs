//! Kernel, /dev/fuse, the right to mount, and the mounts there are.

use std::path::{Path, PathBuf};
use std::time::Duration;

use super::Check;
use crate::cli::context::Context;
use crate::control::list_mounts;
use crate::fuse::sailvol_mounts;

/// From here on one notification makes the kernel ask for all names again.
const EPOCHS_SINCE: (u32, u32) = (6, 16);
/// From here on the kernel can read and write local files without the daemon.
const PASSTHROUGH_SINCE: (u32, u32) = (6, 9);
/// Older ones lack what FUSE mounts in containers need (mounting in user namespaces came with 4.18).
const OLDEST: (u32, u32) = (4, 18);
/// Bit of CAP_SYS_ADMIN in /proc/self/status (capabilities(7)).
const CAP_SYS_ADMIN: u32 = 21;
/// A mount that answers does so at once.
const ANSWER_TIME: Duration = Duration::from_secs(2);

/// The kernel's version.
pub fn kernel() -> Check {
    let name = "kernel";
    let release = rustix::system::uname().release().to_string_lossy().into_owned();
    match version(&release) {
        Some(found) if found >= EPOCHS_SINCE => Check::ok(name, release),
        Some(found) if found >= OLDEST => Check::ok(
            name,
            format!("{release} (from 6.16 on a reload of very large directories is faster)"),
        ),
        Some(_) => Check::warn(
            name,
            format!("{release} is older than any tested version"),
            "use Linux 4.18 or newer",
        ),
        None => Check::warn(
            name,
            format!("{release} is not a known version"),
            "use Linux 4.18 or newer",
        ),
    }
}

fn version(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(str::parse);
    Some((numbers.next()?.ok()?, numbers.next()?.ok()?))
}

/// /dev/fuse can be opened.
pub fn device() -> Check {
    let name = "/dev/fuse";
    let opened = std::fs::File::options().read(true).write(true).open("/dev/fuse");
    match opened.map_err(|error| (error.raw_os_error(), error)) {
        Ok(_) => Check::ok(name, "can be opened"),
        Err((Some(libc::ENOENT), _)) => Check::fail(
            name,
            "is missing",
            "modprobe fuse; in a container: docker run --device /dev/fuse, or a device plugin that offers it",
        ),
        Err((Some(libc::ENODEV | libc::ENXIO), _)) => Check::fail(
            name,
            "exists, but the kernel has no FUSE support",
            "modprobe fuse",
        ),
        Err((Some(libc::EPERM), _)) => Check::fail(
            name,
            "exists, but the container's device rules forbid opening it",
            "docker run --device /dev/fuse, or a device plugin (a hostPath volume is not enough)",
        ),
        Err((Some(libc::EACCES), _)) => Check::fail(
            name,
            "exists, but this user may not open it",
            "chmod 666 /dev/fuse, as root",
        ),
        Err((_, error)) => Check::fail(
            name,
            error.to_string(),
            "check whether other FUSE programs work here",
        ),
    }
}

/// This user may mount, or has a helper that may.
pub fn may_mount() -> Check {
    let name = "right to mount";
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    if has_capability(&status, CAP_SYS_ADMIN) {
        return Check::ok(name, "CAP_SYS_ADMIN");
    }
    let helper = on_path("fusermount3", std::env::var_os("PATH").as_deref());
    if let Some(helper) = helper {
        return Check::ok(name, format!("through {}", helper.display()));
    }
    if rustix::process::geteuid().is_root() {
        return Check::fail(
            name,
            "root without CAP_SYS_ADMIN",
            "docker run --cap-add SYS_ADMIN, or securityContext.capabilities.add: [SYS_ADMIN]",
        );
    }
    Check::fail(
        name,
        "not root, and fusermount3 is not installed",
        "install fuse3 (apt install fuse3), or run as root",
    )
}

/// Whether the kernel may read and write local files by itself: kernel, its configuration, capability.
pub fn passthrough() -> Check {
    let name = "passthrough";
    let release = rustix::system::uname().release().to_string_lossy().into_owned();
    let slower = "file data passes through the daemon: works, slower on large files";
    if version(&release).is_some_and(|found| found < PASSTHROUGH_SINCE) {
        return Check::warn(name, format!("{release}: {slower}"), "use Linux 6.9 or newer");
    }
    if kernel_option(&release, "CONFIG_FUSE_PASSTHROUGH") == Some(false) {
        let text = format!("the kernel was built without FUSE passthrough: {slower}");
        return Check::warn(name, text, "use a kernel with CONFIG_FUSE_PASSTHROUGH=y");
    }
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    if !has_capability(&status, CAP_SYS_ADMIN) {
        return Check::warn(
            name,
            format!("no CAP_SYS_ADMIN: {slower}"),
            "mount as root; in a container: docker run --cap-add SYS_ADMIN, or securityContext.capabilities.add: [SYS_ADMIN]",
        );
    }
    Check::ok(
        name,
        "possible (`sailvol status` says whether a mount has it, and why not)",
    )
}

/// Whether the kernel was built with an option, if its configuration can be read.
fn kernel_option(release: &str, option: &str) -> Option<bool> {
    let text = std::fs::read_to_string(format!("/boot/config-{release}")).ok()?;
    Some(
        text.lines()
            .any(|line| line == format!("{option}=y") || line == format!("{option}=m")),
    )
}

/// For users without privilege: whether others can look into their mounts.
pub fn others_may_look() -> Option<Check> {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    if rustix::process::geteuid().is_root() || has_capability(&status, CAP_SYS_ADMIN) {
        return None;
    }
    let name = "other users";
    let allowed = std::fs::read_to_string("/etc/fuse.conf")
        .is_ok_and(|text| text.lines().any(|line| line.trim() == "user_allow_other"));
    Some(if allowed {
        Check::ok(name, "can access your mounts, as file modes allow")
    } else {
        Check::warn(
            name,
            "cannot access your mounts, not even root",
            "echo user_allow_other >> /etc/fuse.conf, as root, if they should",
        )
    })
}

fn has_capability(status: &str, bit: u32) -> bool {
    let line = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    let set = line.and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok());
    set.is_some_and(|set| set >> bit & 1 == 1)
}

fn on_path(program: &str, path: Option<&std::ffi::OsStr>) -> Option<PathBuf> {
    let mut found = std::env::split_paths(path?).map(|dir| dir.join(program));
    found.find(|file| file.is_file())
}

/// Mounts that run, and what dead daemons have left. A mount is touched by a thread of its own: it may hang.
pub async fn mounts(context: &Context) -> Vec<Check> {
    let name = "mount";
    let Ok(places) = context.places() else {
        return Vec::new();
    };
    let running = list_mounts(&places.runtime_search(&context.environment));
    let mut checks = Vec::new();
    for (dir, source) in sailvol_mounts() {
        let shown = dir.display();
        let owner = running.iter().find(|mount| mount.dir == dir);
        let fix = format!("sailvol umount --force {shown}; local changes stay in the state directory");
        checks.push(match (answers(&dir).await, owner) {
            (Ok(()), Some(mount)) => Check::ok(
                name,
                format!("{shown} shows {}, daemon {}", mount.volume, mount.pid),
            ),
            (Ok(()), None) => Check::warn(
                name,
                format!(
                    "{shown} ({source}) is served by a daemon that is not found in the runtime directory"
                ),
                "use the runtime directory that it was mounted with (--runtime-dir)",
            ),
            (Err(Trouble::Gone), _) => Check::warn(
                name,
                format!("{shown} ({source}) is dead: its daemon has ended"),
                format!("mount it again: that cleans up; or {fix}"),
            ),
            (Err(Trouble::Silent), _) => {
                Check::warn(name, format!("{shown} ({source}) does not answer"), fix)
            }
        });
    }
    for mount in running {
        if !checks
            .iter()
            .any(|check| check.detail.starts_with(&format!("{} ", mount.dir.display())))
        {
            let text = format!(
                "{} is served by daemon {}, but not visible here",
                mount.dir.display(),
                mount.pid
            );
            checks.push(Check::warn(
                name,
                text,
                "look in the container or mount namespace where it was mounted",
            ));
        }
    }
    checks
}

enum Trouble {
    Gone,
    Silent,
}

async fn answers(dir: &Path) -> Result<(), Trouble> {
    let dir = dir.to_owned();
    let (told, answer) = tokio::sync::oneshot::channel();
    // Not a thread of the runtime, which waits for those when it ends.
    std::thread::spawn(move || told.send(std::fs::symlink_metadata(dir).map(drop)));
    match tokio::time::timeout(ANSWER_TIME, answer).await {
        Ok(Ok(Ok(()))) => Ok(()),
        Ok(Ok(Err(error))) if matches!(error.raw_os_error(), Some(libc::ENOTCONN | libc::ECONNABORTED)) => {
            Err(Trouble::Gone)
        }
        // It answers, if not to us.
        Ok(Ok(Err(_))) => Ok(()),
        Ok(Err(_)) | Err(_) => Err(Trouble::Silent),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read_from_releases() {
        for (release, found) in [
            ("6.18.0-generic", Some((6, 18))),
            ("5.4.0", Some((5, 4))),
            ("4.18.0-305.el8.x86_64", Some((4, 18))),
            ("x", None),
        ] {
            assert_eq!(version(release), found, "{release}");
        }
    }

    #[test]
    fn capabilities_are_read_by_bit() {
        assert!(has_capability(
            "Name:\tx\nCapEff:\t000001ffffffffff\n",
            CAP_SYS_ADMIN
        ));
        assert!(!has_capability("CapEff:\t00000000a80425fb\n", CAP_SYS_ADMIN));
        assert!(!has_capability("", CAP_SYS_ADMIN));
    }

    #[test]
    fn helpers_are_found_on_the_path() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("fusermount3"), b"").unwrap();
        let path = std::env::join_paths([Path::new("/nowhere"), dir.path()]).unwrap();
        assert_eq!(
            on_path("fusermount3", Some(&path)),
            Some(dir.path().join("fusermount3"))
        );
        assert_eq!(on_path("other", Some(&path)), None);
    }
}
