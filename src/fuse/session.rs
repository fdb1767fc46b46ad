//! One mounted session: made, watched, ended.

use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use fuser::{Config, MountOption, Session, SessionACL};
use tokio::runtime::Handle;

use super::counts::{RequestCount, RequestCounts};
use super::device::FuseDevice;
use super::driver::Driver;
use super::flags::{KernelFlag, set_after_mounting};
use super::hearing::{Bell, Hearing};
use super::mountpoint::{SOURCE_PREFIX, mounts_by_privilege};
use super::notify::Notifications;
use super::passthrough::{Closer, Found, LocalPlaces, probe};
use crate::view::View;

/// Read-ahead of the mount's page cache, KiB. The protocol caps it at 128 KiB; through the mount's backing-device
/// info it can be more, so that sequential readers ask for whole MiB, several at once.
const READ_AHEAD_KIB: u32 = 4096;
/// Most loop threads: beyond this they only contend for the view.
const THREADS_MAX: usize = 8;

/// How a volume is mounted.
#[derive(Clone, Debug)]
pub struct FuseOptions {
    /// Name of the volume: `mount` and `df` show it in the source.
    pub volume: String,
    /// Other users than the mounting one may use it; modes decide.
    pub allow_other: bool,
    /// The kernel refuses writes.
    pub read_only: bool,
    /// What the kernel is told besides.
    pub kernel_flags: Vec<KernelFlag>,
    /// Labels for SELinux, `context=...` and the like; left out where there is no SELinux, which alone understands them.
    pub selinux_labels: Vec<String>,
    /// Where files are that the kernel shall read and write by itself, if it can; `None`: it shall not.
    pub passthrough: Option<LocalPlaces>,
}

/// A mount could not be made.
#[derive(Debug, thiserror::Error)]
pub enum SessionError {
    /// There is no FUSE here.
    #[error(
        "/dev/fuse {0}: load the kernel's fuse module (modprobe fuse), or give the container the device \
         (docker: --device /dev/fuse --cap-add SYS_ADMIN; Kubernetes: a device plugin)"
    )]
    NoDevice(String),
    /// This user may not use it.
    #[error(
        "/dev/fuse may not be opened by this user: `chmod 666 /dev/fuse` as root, which is its usual mode, or mount as root"
    )]
    ClosedDevice,
    /// The system does not let us mount.
    #[error("cannot mount on {dir}: {error}{advice}")]
    Mount {
        /// The directory.
        dir: PathBuf,
        /// What the system said.
        error: String,
        /// What to do.
        advice: &'static str,
    },
}

/// A live mount. Dropping it does not unmount: [`super::unmount`] does, and the session then ends by itself.
#[derive(Debug)]
pub struct FuseSession {
    counts: Arc<RequestCounts>,
    lacks: Vec<String>,
    ended: tokio::sync::watch::Receiver<Option<String>>,
    notifications: Notifications,
    hearing: Hearing,
    passthrough: String,
}

impl FuseSession {
    /// Mounts and serves. Requests are answered from when this returns. With `device` somebody else has mounted already;
    /// `dir` is where, as far as that is known.
    ///
    /// # Errors
    /// See [`SessionError`].
    pub fn mount(
        view: Arc<View>,
        dir: &Path,
        options: &FuseOptions,
        device: Option<FuseDevice>,
        runtime: &Handle,
    ) -> Result<FuseSession, SessionError> {
        if device.is_none() {
            check_device()?;
        }
        let failed = |error: std::io::Error| SessionError::Mount {
            dir: dir.to_path_buf(),
            advice: advice(
                &error,
                mounts_by_privilege(),
                rustix::process::geteuid().is_root(),
            ),
            // What fusermount3 said ends its line.
            error: error.to_string().trim_end().to_owned(),
        };
        let counts = Arc::new(RequestCounts::default());
        let closer = Closer::start().map_err(failed)?;
        let (bell, threads) = (Arc::new(Bell::default()), loop_threads());
        let driver = Driver::new(
            view.clone(),
            runtime.clone(),
            options.passthrough.as_ref(),
            closer,
            bell.clone(),
            counts.clone(),
        );
        let link = driver.link();
        let mut lacks = Vec::new();
        let given = device.is_some();
        let session = match device {
            None => Session::new(driver, dir, &config(options, threads)),
            Some(device) => {
                let mut config = config(options, threads);
                // Each thread's own queue needs the device to be opened again.
                config.clone_fd = check_device().is_ok();
                if !config.clone_fd {
                    lacks.push(
                        "threads share one queue of requests: /dev/fuse cannot be opened here".to_owned(),
                    );
                }
                // Whom the kernel lets in was decided by the helper that mounted.
                Session::from_fd(driver, device.into_fd(), SessionACL::All, config)
            }
        }
        .map_err(failed)?;
        let device = session.as_fd().try_clone_to_owned().map_err(failed)?;
        let device_of_probe = device.try_clone().map_err(failed)?;
        let notifications = Notifications::start(session.notifier(), device).map_err(failed)?;
        let hearing = Hearing::new(
            view.clone(),
            dir,
            session.notifier(),
            counts.clone(),
            bell,
            threads,
        );
        let (tell, ended) = tokio::sync::watch::channel(None);
        std::thread::Builder::new()
            .name("fuse-session".into())
            .spawn(move || {
                let outcome = session.run();
                let text = outcome.err().map(|e| e.to_string()).unwrap_or_default();
                // Nobody waits for the end any more when the process is ending.
                drop(tell.send(Some(text)));
            })
            .map_err(failed)?;
        link.attach(notifications.clone());
        // Asks the mount itself, so not before it is served; and not what somebody else has mounted we do not know where.
        if given {
            lacks
                .push("the helper that mounted it has to unmount it; read-ahead stays at 128 KiB".to_owned());
        } else if let Err(error) = raise_read_ahead(dir) {
            lacks.push(format!(
                "read-ahead stays at 128 KiB: raising it needs root on the host ({})",
                error.kind()
            ));
        }
        if !given && let Err(error) = set_after_mounting(dir, &options.kernel_flags) {
            lacks.push(format!("nosymfollow is not set: {error}"));
        }
        if !given && !options.allow_other {
            lacks.push(
                "only this user can look in: `user_allow_other` in /etc/fuse.conf would let others"
                    .to_owned(),
            );
        }
        let found = match &options.passthrough {
            None => Found::off("--passthrough off"),
            Some(places) => probe(device_of_probe.as_fd(), link.kernel_has_passthrough(), places),
        };
        view.set_passthrough(found.offered);
        Ok(FuseSession {
            counts,
            lacks,
            ended,
            notifications,
            hearing,
            passthrough: found.explained,
        })
    }

    /// Whether file data passes the daemon, and why: for people.
    pub fn passthrough(&self) -> &str {
        &self.passthrough
    }

    /// Requests of the kernel so far.
    pub fn requests(&self) -> Vec<RequestCount> {
        self.counts.snapshot()
    }

    /// What this session cannot have because of how it was mounted, for people.
    pub fn lacks(&self) -> &[String] {
        &self.lacks
    }

    /// The way to tell the kernel what changed.
    pub fn notifications(&self) -> Notifications {
        self.notifications.clone()
    }

    /// The way to hear what programs did before now.
    pub fn hearing(&self) -> Hearing {
        self.hearing.clone()
    }

    /// Waits until the mount is gone; the text is empty, or what ended it.
    pub async fn ended(&self) -> String {
        let mut ended = self.ended.clone();
        match ended.wait_for(Option::is_some).await {
            Ok(text) => text.clone().unwrap_or_default(),
            Err(_) => "the session's thread is gone".to_owned(),
        }
    }
}

/// Threads that read requests.
fn loop_threads() -> usize {
    std::thread::available_parallelism()
        .map_or(2, usize::from)
        .clamp(2, THREADS_MAX)
}

fn config(options: &FuseOptions, threads: usize) -> Config {
    let mut config = Config::default();
    config.mount_options = vec![
        MountOption::FSName(format!("{SOURCE_PREFIX}{}", options.volume)),
        MountOption::Subtype("sailvol".into()),
        MountOption::DefaultPermissions,
        // Devices and setuid programs of a shared volume must mean nothing on the machines that mount it.
        MountOption::NoSuid,
        MountOption::NoDev,
        if options.read_only {
            MountOption::RO
        } else {
            MountOption::RW
        },
    ];
    for flag in &options.kernel_flags {
        config.mount_options.extend(flag.while_mounting());
    }
    if Path::new("/sys/fs/selinux/enforce").exists() {
        let labels = options.selinux_labels.iter().cloned();
        config.mount_options.extend(labels.map(MountOption::CUSTOM));
    }
    config.acl = if options.allow_other {
        SessionACL::All
    } else {
        SessionACL::Owner
    };
    config.n_threads = Some(threads);
    config.clone_fd = true;
    config
}

/// What to do when a mount fails, by who we are: what the system says is the same few words whatever is missing.
fn advice(error: &std::io::Error, by_privilege: bool, root: bool) -> &'static str {
    let denied = matches!(error.raw_os_error(), Some(libc::EPERM | libc::EACCES));
    match (by_privilege, root) {
        (true, _) if denied => {
            "; something forbids it in spite of CAP_SYS_ADMIN: AppArmor, SELinux or seccomp \
             (docker: --security-opt apparmor=unconfined; Kubernetes: appArmorProfile: {type: Unconfined})"
        }
        (false, true) => {
            "; root has no CAP_SYS_ADMIN here (docker: --cap-add SYS_ADMIN; Kubernetes: capabilities.add: [SYS_ADMIN])"
        }
        (false, false) if denied || error.kind() == std::io::ErrorKind::NotFound => {
            "; without CAP_SYS_ADMIN fusermount3 is needed (Debian package fuse3)"
        }
        // fusermount3 has said why.
        _ => "",
    }
}

fn check_device() -> Result<(), SessionError> {
    match std::fs::OpenOptions::new()
        .read(true)
        .write(true)
        .open("/dev/fuse")
    {
        Ok(_) => Ok(()),
        Err(error) => match error.raw_os_error() {
            Some(libc::ENOENT) => Err(SessionError::NoDevice("does not exist".into())),
            Some(libc::EACCES) => Err(SessionError::ClosedDevice),
            _ => Err(SessionError::NoDevice(format!("cannot be opened ({error})"))),
        },
    }
}

/// Where that is permitted (root on the host or in a privileged pod); elsewhere reads stay at 128 KiB each.
fn raise_read_ahead(dir: &Path) -> std::io::Result<()> {
    rustix::fs::stat(dir)
        .map_err(std::io::Error::from)
        .and_then(|stat| {
            let (major, minor) = (rustix::fs::major(stat.st_dev), rustix::fs::minor(stat.st_dev));
            std::fs::write(
                format!("/sys/class/bdi/{major}:{minor}/read_ahead_kb"),
                READ_AHEAD_KIB.to_string(),
            )
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mount_that_is_denied_says_what_is_missing() {
        let denied = std::io::Error::from_raw_os_error(libc::EPERM);
        let no_helper = std::io::Error::from_raw_os_error(libc::ENOENT);
        let helper_said = std::io::Error::other("user has no write access to mountpoint");
        for (error, by_privilege, root, part) in [
            (&denied, true, true, "apparmor=unconfined"),
            (&denied, false, true, "--cap-add SYS_ADMIN"),
            (&no_helper, false, true, "--cap-add SYS_ADMIN"),
            (&no_helper, false, false, "fuse3"),
            (&denied, false, false, "fuse3"),
        ] {
            let said = advice(error, by_privilege, root);
            assert!(said.contains(part), "{part} in {said:?}");
        }
        assert_eq!(advice(&helper_said, false, false), "");
    }
}
