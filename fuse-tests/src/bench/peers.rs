//! The controls that are programs: `s5cmd`, `rclone mount`, `s3fs`, `restic`, as their manuals say for this use.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result, bail, ensure};

use super::files::fresh_dir;
use super::place::RESTIC;
use crate::pod::wait_until;

/// Where the server is, and what is installed.
pub(super) struct Peers {
    endpoint: String,
    credentials: PathBuf,
}

/// A program of others that mounts a bucket.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Peer {
    Rclone,
    S3fs,
}

impl Peer {
    pub fn name(self) -> &'static str {
        match self {
            Peer::Rclone => "rclone",
            Peer::S3fs => "s3fs",
        }
    }
}

impl Peers {
    pub fn new(endpoint: &str, credentials: &Path) -> Peers {
        Peers {
            endpoint: endpoint.to_owned(),
            credentials: credentials.to_owned(),
        }
    }

    /// Whether a program can be run.
    pub fn has(&self, program: &str) -> bool {
        // Each of them knows one of these.
        let runs = |argument| {
            let mut command = Command::new(program);
            command.arg(argument).stdout(Stdio::null()).stderr(Stdio::null());
            command.status().is_ok_and(|status| status.success())
        };
        runs("--version") || runs("version")
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command
            .env("AWS_SHARED_CREDENTIALS_FILE", &self.credentials)
            .env("AWS_REGION", "us-east-1")
            .env("AWS_EC2_METADATA_DISABLED", "true")
            .stdin(Stdio::null())
            .stdout(Stdio::null());
        command
    }

    /// `s5cmd`, with 64 workers for many objects.
    pub fn s5cmd<S: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = S>) -> Result<()> {
        let mut command = self.command("s5cmd");
        command.args(["--log", "error", "--numworkers", "64", "--endpoint-url"]);
        command.arg(&self.endpoint).args(arguments);
        run(command)
    }

    /// `restic` on its repository in the bucket, with a cache of its own.
    pub fn restic<S: AsRef<OsStr>>(
        &self,
        cache: &Path,
        arguments: impl IntoIterator<Item = S>,
    ) -> Result<()> {
        let mut command = self.command("restic");
        command
            .env("RESTIC_REPOSITORY", format!("s3:{}/{RESTIC}", self.endpoint))
            .env("RESTIC_PASSWORD", "benchmark")
            .env("RESTIC_CACHE_DIR", cache)
            .arg("--quiet")
            .args(arguments);
        run(command)
    }

    /// Mounts a bucket with nothing cached, below `dir`.
    pub fn mount(&self, peer: Peer, bucket: &str, dir: &Path) -> Result<PeerMount> {
        let (mnt, cache) = (dir.join("mnt"), dir.join("cache"));
        fresh_dir(&mnt)?;
        fresh_dir(&cache)?;
        let mut command = self.command(peer.name());
        match peer {
            Peer::Rclone => {
                command
                    .env("RCLONE_CONFIG", "/dev/null")
                    .env("RCLONE_CONFIG_P_TYPE", "s3")
                    .env("RCLONE_CONFIG_P_PROVIDER", "Other")
                    .env("RCLONE_CONFIG_P_ENV_AUTH", "true")
                    .env("RCLONE_CONFIG_P_REGION", "us-east-1")
                    .env("RCLONE_CONFIG_P_ENDPOINT", &self.endpoint)
                    .args(["mount", &format!("P:{bucket}")])
                    .arg(&mnt)
                    .args([
                        "--vfs-cache-mode",
                        "full",
                        "--use-server-modtime",
                        "--s3-no-check-bucket",
                    ])
                    .arg("--cache-dir")
                    .arg(&cache);
            }
            Peer::S3fs => {
                let passwords = dir.join("passwd");
                std::fs::write(&passwords, "s3d-access:s3d-secret")?;
                use std::os::unix::fs::PermissionsExt;
                std::fs::set_permissions(&passwords, std::fs::Permissions::from_mode(0o600))?;
                command.arg(bucket).arg(&mnt).arg("-f");
                let options = [
                    format!("url={}", self.endpoint),
                    "use_path_request_style".to_owned(),
                    format!("passwd_file={}", passwords.display()),
                    "endpoint=us-east-1".to_owned(),
                    format!("use_cache={}", cache.display()),
                    "listobjectsv2".to_owned(),
                    "parallel_count=16".to_owned(),
                    "multireq_max=32".to_owned(),
                    "max_stat_cache_size=250000".to_owned(),
                ];
                options.iter().for_each(|option| {
                    command.args(["-o", option]);
                });
            }
        }
        let log = std::fs::File::create(dir.join("log"))?;
        let child = command
            .stderr(log.try_clone()?)
            .stdout(log)
            .spawn()
            .with_context(|| peer.name())?;
        let said = || std::fs::read_to_string(dir.join("log")).unwrap_or_default();
        PeerMount::of(child, mnt).with_context(|| format!("{}: {}", peer.name(), said()))
    }
}

/// Runs a command; what it said on standard error is the error.
pub(super) fn run(mut command: Command) -> Result<()> {
    let output = command.stderr(Stdio::piped()).output();
    let output = output.with_context(|| format!("{command:?}"))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        bail!("{command:?}: {}: {said}", output.status);
    }
    Ok(())
}

fn is_mounted(dir: &Path) -> bool {
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let dir = dir.to_string_lossy();
    mounts.lines().any(|line| line.split(' ').nth(4) == Some(&*dir))
}

/// Unmounted when it is dropped.
pub(super) struct PeerMount {
    child: Child,
    mnt: PathBuf,
}

impl PeerMount {
    /// Waits until `child` has mounted on `mnt`.
    ///
    /// # Errors
    /// It ended before that.
    pub fn of(child: Child, mnt: PathBuf) -> Result<PeerMount> {
        let mut mounted = PeerMount { child, mnt };
        let mut ended = false;
        wait_until("the control is mounted", || {
            ended = mounted.child.try_wait().is_ok_and(|status| status.is_some());
            ended || is_mounted(&mounted.mnt)
        });
        ensure!(!ended, "it has ended");
        Ok(mounted)
    }

    pub fn dir(&self) -> &Path {
        &self.mnt
    }

    pub fn daemon(&self) -> u32 {
        self.child.id()
    }
}

impl Drop for PeerMount {
    fn drop(&mut self) {
        if is_mounted(&self.mnt) {
            // Nobody uses it any more, however it ends.
            let _ = rustix::mount::unmount(&self.mnt, rustix::mount::UnmountFlags::DETACH);
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
