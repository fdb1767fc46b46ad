//! `sailvol mount`.

use std::io::{BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::Receiver;
use std::time::Duration;

use clap_complete::engine::ArgValueCompleter;
use rustix::process::Pid;

use super::complete;
use super::context::Context;
use crate::answer::{Failure, FailureKind, check_publisher};
use crate::config::{
    Environment, MOUNT_NAME_BYTES_MAX, MetricsAddress, Places, default_mount_name, parse_duration,
    parse_size, parse_timeout, parse_volume, parse_with_unit,
};
use crate::daemon::{self, MountSettings, Ready};
use crate::fuse::{self, KernelFlag};
use crate::mount::DELETED_PERCENT;

/// Mount a volume on a directory
///
/// Returns when the mount answers; a daemon serves it from then on. Mounting costs three requests whatever the size of
/// the volume. Uncommitted work of an earlier mount under the same name is there again.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The volume: a name or URL
    #[arg(add = ArgValueCompleter::new(complete::volumes))]
    volume: String,
    /// An empty directory, or /dev/fd/N: a descriptor of /dev/fuse that a privileged helper has mounted
    dir: PathBuf,
    /// Do not go into the background (for units and containers)
    #[arg(long)]
    foreground: bool,
    #[command(flatten)]
    options: Options,
}

/// How a volume is mounted.
#[derive(Debug, clap::Args)]
pub struct Options {
    /// Create the volume if it does not exist
    #[arg(long)]
    create: bool,
    /// Accept no writes
    #[arg(long)]
    read_only: bool,
    /// Show this record and stay there until `reload --to`
    #[arg(long, value_name = "N", add = ArgValueCompleter::new(complete::records_of_volume))]
    at: Option<u64>,
    /// Name of the mount: its local state is found again by it (default: from the directory)
    #[arg(long, value_name = "NAME")]
    name: Option<String>,
    /// Mount over a directory that is not empty
    #[arg(long)]
    nonempty: bool,
    /// Create the directory if it does not exist
    #[arg(long)]
    mkdir: bool,
    /// Limit of clean bytes on local disk (default: a quarter of the free space, at most 50G)
    #[arg(long, value_name = "SIZE", value_parser = parse_size)]
    cache_size: Option<u64>,
    /// Disk space that the cache leaves free
    #[arg(long, value_name = "SIZE", default_value = "1G", value_parser = parse_size)]
    cache_floor: u64,
    /// Let the kernel read and write local files without the daemon, where it can (status says whether)
    #[arg(long, value_enum, value_name = "WHEN", default_value = "auto")]
    passthrough: Passthrough,
    /// A read gives up after this long without an answer from the store
    #[arg(long, value_name = "TIME", default_value = "5m", value_parser = parse_duration)]
    remote_timeout: Duration,
    /// Owner: all files appear to be theirs, whatever is stored; may use the control socket
    #[arg(long, value_name = "UID")]
    uid: Option<u32>,
    /// Group: all files appear to be theirs, whatever is stored
    #[arg(long, value_name = "GID")]
    gid: Option<u32>,
    /// Members of this group may use the control socket
    #[arg(long, value_name = "GID")]
    control_group: Option<u32>,
    /// Commit this often when there are changes (off by default)
    ///
    /// A file that is being written is published as it is at that moment, and again when more was written. Nothing is
    /// published while another command of the mount runs, or when more would be deleted than --max-deleted allows; when
    /// the store does not answer, tries become rarer. `sailvol status` says how it stands.
    #[arg(long, value_name = "TIME", value_parser = parse_interval)]
    autocommit: Option<Duration>,
    /// Look for newer records this often, and reload when there are no local changes (off by default)
    #[arg(long, value_name = "TIME", value_parser = parse_interval)]
    autoreload: Option<Duration>,
    /// Do not publish by itself what deletes more than this share of the volume's files (10 files may always go)
    #[arg(long, value_name = "PERCENT", default_value_t = DELETED_PERCENT, value_parser = clap::value_parser!(u8).range(0..=100))]
    max_deleted: u8,
    /// Serve Prometheus metrics on 127.0.0.1:PORT or unix:/path
    #[arg(long, value_name = "ADDRESS")]
    metrics: Option<MetricsAddress>,
    /// Commit on SIGTERM before unmounting
    #[arg(long)]
    commit_on_exit: bool,
    /// Time for that commit
    #[arg(long, value_name = "TIME", default_value = "25s", value_parser = parse_duration)]
    exit_grace: Duration,
    /// Delete stashes that are older
    #[arg(long, value_name = "TIME", default_value = "14d", value_parser = parse_age)]
    stash_age: Duration,
    /// Delete the oldest stashes when all together are larger
    #[arg(long, value_name = "SIZE", default_value = "20G", value_parser = parse_size)]
    stash_size: u64,
    /// Who commits, for the log (default: the host's name)
    #[arg(long, value_name = "TEXT")]
    by: Option<String>,
    /// Log as JSON
    #[arg(long)]
    log_json: bool,
    /// What the kernel is told besides, from the options of mount(8)
    #[arg(long = "kernel-flag", hide = true)]
    kernel_flags: Vec<KernelFlag>,
    /// Label for SELinux, from the options of mount(8)
    #[arg(long = "selinux-label", hide = true)]
    selinux_labels: Vec<String>,
    /// Give up when the store has not told of the volume after this long
    #[arg(long, value_name = "TIME", default_value = "60s", value_parser = parse_timeout)]
    timeout: Duration,
}

impl Args {
    /// Standard error of this process is a log of JSON lines, which a container's log mixes with standard output.
    pub fn logs_json_here(&self) -> bool {
        self.foreground && self.options.log_json
    }
}

/// First argument of the process that serves a mount in the background.
pub const DAEMON: &str = "__daemon";

/// When to use passthrough.
#[derive(Clone, Copy, PartialEq, Eq, Debug, clap::ValueEnum)]
enum Passthrough {
    /// Where the kernel can
    Auto,
    /// Never: all file data goes through the daemon
    Off,
}

/// An interval of at least a second.
fn parse_interval(text: &str) -> Result<Duration, String> {
    let interval = parse_with_unit(text, 10, 'm')?;
    if interval < Duration::from_secs(1) {
        return Err("at least 1s".to_owned());
    }
    Ok(interval)
}

/// An age; nobody means a few seconds.
fn parse_age(text: &str) -> Result<Duration, String> {
    parse_with_unit(text, 3600, 'd')
}

/// Cache size by default: this part of the free space ...
const CACHE_SHARE: u64 = 4;
/// ... and at most this, bytes: a pod's node is evicted when its disk fills.
const CACHE_DEFAULT_MAX: u64 = 50 << 30;
/// Time for a daemon to say that it is ready, besides what it waits for the store: many local changes may have to be read.
const READY_TIME: Duration = Duration::from_secs(60);

/// Runs the command.
pub fn run(args: Args, context: &Context) -> Result<(), Failure> {
    let settings = resolve(&args.volume, &args.dir, &args.options, context)?;
    if args.foreground {
        crate::telemetry::install(log_format(&settings), "info", None);
        return daemon::run(settings, |ready| {
            for warning in &ready.warnings {
                tracing::warn!("{warning}");
            }
            announce(ready, context)
        });
    }
    let ready = start_in_background(&settings)?.wait()?;
    for warning in &ready.warnings {
        context.note(format!("sailvol: warning: {warning}"));
    }
    announce(&ready, context)
}

/// The background process: settings come on standard input, the answer goes out as one line.
pub fn run_daemon() -> Result<(), Failure> {
    hear_all_signals();
    let mut text = String::new();
    let usage = |e: String| {
        Failure::new(
            FailureKind::Usage,
            format!("{DAEMON} is started by `sailvol mount`: {e}"),
        )
    };
    std::io::stdin()
        .lock()
        .read_to_string(&mut text)
        .map_err(|e| usage(e.to_string()))?;
    let settings: MountSettings = serde_json::from_str(&text).map_err(|e| usage(e.to_string()))?;
    let log = Some(daemon::log_path(&settings));
    crate::telemetry::install(log_format(&settings), "info", log);
    // Away from the terminal and the caller's process group.
    if let Err(error) = rustix::process::setsid() {
        tracing::debug!(%error, "setsid");
    }
    let outcome = daemon::run(settings, |ready| {
        answer_parent(&serde_json::json!({ "ready": ready }));
        Ok(())
    });
    if let Err(failure) = &outcome {
        answer_parent(&serde_json::json!({ "failure": failure }));
    }
    // The parent has been told, or is long gone and the log has it.
    outcome
}

/// Whoever started it may hold signals back (`sailvol run` does), which is inherited; this one has to hear them.
fn hear_all_signals() {
    // SAFETY: an empty set on the stack, for this thread, before there are others.
    let set = unsafe {
        let mut none: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&raw mut none);
        libc::pthread_sigmask(libc::SIG_SETMASK, &raw const none, std::ptr::null_mut())
    };
    if set != 0 {
        tracing::warn!(error = %std::io::Error::from_raw_os_error(set), "signals are held back");
    }
}

fn answer_parent(value: &serde_json::Value) {
    let mut stdout = std::io::stdout().lock();
    // A parent that gave up cannot be told anything.
    let _ = writeln!(stdout, "{value}").and_then(|()| stdout.flush());
}

fn log_format(settings: &MountSettings) -> crate::telemetry::LogFormat {
    if settings.json_logs {
        crate::telemetry::LogFormat::Json
    } else {
        crate::telemetry::LogFormat::Text
    }
}

fn announce(ready: &Ready, context: &Context) -> Result<(), Failure> {
    context.print(ready, |r| {
        let made = if r.created {
            "created and mounted"
        } else {
            "mounted"
        };
        let dirty = match r.dirty {
            0 => String::new(),
            1 => "\n  restored 1 uncommitted change of an earlier mount".to_owned(),
            n => format!("\n  restored {n} uncommitted changes of an earlier mount"),
        };
        format!(
            "{made} {} on {} at record {}{dirty}\n",
            r.volume,
            r.dir.display(),
            r.base
        )
    })
}

/// Everything that a mount needs to know, out of what was said and what is set.
///
/// # Errors
/// What makes no sense, and a directory that cannot be mounted on.
pub fn resolve(
    volume: &str,
    named_dir: &Path,
    args: &Options,
    context: &Context,
) -> Result<MountSettings, Failure> {
    let usage = |text: String| Failure::new(FailureKind::Usage, text);
    let volume = parse_volume(volume, &context.environment).map_err(|e| usage(e.to_string()))?;
    let device_fd = fuse::device_number(named_dir);
    if args.mkdir && device_fd.is_none() {
        make_dir(named_dir).map_err(|e| {
            Failure::new(
                FailureKind::of_io(&e),
                format!("cannot make {}: {e}", named_dir.display()),
            )
        })?;
    }
    let dir = mount_dir(named_dir, args.nonempty, device_fd)?;
    let places = context.places()?;
    check_outside(&dir, &places)?;
    let name = match &args.name {
        Some(name) => name.clone(),
        None if dir == named_dir && device_fd.is_some() => {
            return Err(
                usage("cannot tell from here where this descriptor is mounted".into())
                    .hint("--name NAME says under which name local state is kept"),
            );
        }
        None => default_mount_name(&dir),
    };
    if name.is_empty()
        || name.len() > MOUNT_NAME_BYTES_MAX
        || name.starts_with('.')
        || name.contains(['/', '\0'])
    {
        return Err(usage(format!(
            "{name:?} cannot be a mount's name: no slash, no dot in front, up to {MOUNT_NAME_BYTES_MAX} bytes"
        )));
    }
    check_publisher(args.by.as_deref().unwrap_or_default())?;
    let read_only = args.read_only || args.at.is_some();
    for (option, given) in [
        ("--commit-on-exit", args.commit_on_exit),
        ("--autocommit", args.autocommit.is_some()),
    ] {
        if read_only && given {
            return Err(usage(format!("{option} cannot be used with --read-only or --at")));
        }
    }
    if args.at.is_some() && args.autoreload.is_some() {
        return Err(usage(
            "--at stays at one record, and --autoreload moves: use one of them".into(),
        ));
    }
    Ok(MountSettings {
        store_url: volume.store.to_string(),
        volume: volume.name,
        allow_other: allow_other(&context.environment),
        passthrough: args.passthrough == Passthrough::Auto,
        name,
        create: args.create,
        read_only,
        at: args.at,
        uid: args.uid,
        gid: args.gid,
        control_gid: args.control_group,
        cache_bytes_max: args
            .cache_size
            .unwrap_or_else(|| default_cache_size(&places.cache)),
        cache_free_floor_bytes: args.cache_floor,
        remote_timeout_secs: args.remote_timeout.as_secs().max(1),
        open_timeout_secs: args.timeout.as_secs().max(1),
        stash_age_max_secs: args.stash_age.as_secs(),
        stash_bytes_max: args.stash_size,
        commit_on_exit: args.commit_on_exit,
        exit_grace_secs: args.exit_grace.as_secs(),
        by: args.by.clone().unwrap_or_else(host_name),
        autocommit_secs: args.autocommit.map(|every| every.as_secs()),
        autoreload_secs: args.autoreload.map(|every| every.as_secs()),
        deleted_percent_max: args.max_deleted,
        metrics: args.metrics.as_ref().map(ToString::to_string),
        device_fd,
        kernel_flags: args.kernel_flags.clone(),
        selinux_labels: args.selinux_labels.clone(),
        json_logs: args.log_json,
        state_root: places.state,
        cache_root: places.cache,
        runtime_root: places.runtime,
        dir,
    })
}

/// Makes a directory and what is above it. Whatever is there already is not looked into: it may be a mount whose daemon
/// is gone.
fn make_dir(dir: &Path) -> std::io::Result<()> {
    if let Some(above) = dir.parent() {
        std::fs::create_dir_all(above)?;
    }
    match std::fs::create_dir(dir) {
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => Ok(()),
        made => made,
    }
}

/// The directory, ready to be mounted on; of a descriptor the directory where a helper has mounted it, or what was typed.
fn mount_dir(named: &Path, nonempty: bool, device_fd: Option<i32>) -> Result<PathBuf, Failure> {
    if let Some(number) = device_fd {
        return Ok(fuse::device_mount_point(number).unwrap_or_else(|| named.to_path_buf()));
    }
    fuse::prepare_mount_point(named, nonempty).map_err(|e| {
        let kind = match e {
            fuse::MountPointError::System { ref error, .. } => FailureKind::of_io(error),
            fuse::MountPointError::Missing(_) => FailureKind::NotFound,
            _ => FailureKind::Refused,
        };
        Failure::new(kind, e.to_string())
    })
}

/// A mount must not contain its own state or cache: it would wait for itself.
fn check_outside(dir: &Path, places: &Places) -> Result<(), Failure> {
    for (what, place) in [
        ("state", &places.state),
        ("cache", &places.cache),
        ("runtime", &places.runtime),
    ] {
        if place.starts_with(dir) {
            return Err(Failure::new(
                FailureKind::Usage,
                format!(
                    "the {what} directory {} would be inside the mount {}",
                    place.display(),
                    dir.display()
                ),
            )
            .hint(format!("choose another with --{what}-dir")));
        }
    }
    Ok(())
}

fn default_cache_size(cache: &Path) -> u64 {
    // The directory may not be there yet: its nearest parent tells about the same disk.
    let existing = cache.ancestors().find_map(|dir| rustix::fs::statvfs(dir).ok());
    let free = existing.map_or(0, |s| s.f_bavail.saturating_mul(s.f_frsize));
    (free / CACHE_SHARE).clamp(64 << 20, CACHE_DEFAULT_MAX)
}

/// Who mounts by privilege may always let others in (modes decide then); others need a line in fuse.conf.
fn allow_other(environment: &Environment) -> bool {
    environment.is_root
        || fuse::mounts_by_privilege()
        || std::fs::read_to_string("/etc/fuse.conf")
            .is_ok_and(|text| text.lines().any(|line| line.trim() == "user_allow_other"))
}

/// What records say about who published them, unless somebody says otherwise.
pub fn host_name() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}

/// What to do when the state directory cannot be used.
const STATE_ELSEWHERE: &str = "--state-dir names another place for uncommitted work and logs";

/// A daemon that was started and has not said yet whether it serves its mount.
pub struct Started {
    child: Child,
    pid: Pid,
    /// The one line that it says.
    told: Receiver<String>,
    log_path: PathBuf,
    patience: Duration,
    /// What was done before it was started, for the owner.
    warnings: Vec<String>,
}

/// Starts the process that serves a mount.
///
/// # Errors
/// Its directories cannot be used; it cannot be started.
pub fn start_in_background(settings: &MountSettings) -> Result<Started, Failure> {
    let failed = |what: &str, e: std::io::Error| Failure::new(FailureKind::Failed, format!("{what}: {e}"));
    let log_path = daemon::log_path(settings);
    let warnings = daemon::own_dirs(settings).map_err(|e| {
        let root = settings.state_root.display();
        Failure::new(FailureKind::Refused, format!("state directory below {root}: {e}")).hint(STATE_ELSEWHERE)
    })?;
    let log = daemon::open_log(settings)
        .map_err(|e| failed(&log_path.display().to_string(), e).hint(STATE_ELSEWHERE))?;
    let program = std::env::current_exe().map_err(|e| failed("cannot find this program", e))?;
    let mut child = Command::new(program)
        .arg(DAEMON)
        // For people who look at the list of processes.
        .arg(&settings.volume)
        .arg(&settings.dir)
        .current_dir("/")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(log)
        .spawn()
        .map_err(|e| failed("cannot start the daemon", e))?;
    let json = serde_json::to_vec(settings)
        .map_err(|e| Failure::new(FailureKind::Failed, format!("cannot describe the mount: {e}")))?;
    // Closing the pipe tells the daemon that this is all.
    if let Some(mut stdin) = child.stdin.take() {
        stdin
            .write_all(&json)
            .map_err(|e| failed("the daemon does not listen", e))?;
    }
    let stdout = child.stdout.take();
    let (tell, told) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let mut line = String::new();
        if let Some(stdout) = stdout {
            // A daemon that dies says nothing: the empty line tells.
            let _ = BufReader::new(stdout).read_line(&mut line);
        }
        drop(tell.send(line));
    });
    let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
    Ok(Started {
        pid: pid.ok_or_else(|| Failure::new(FailureKind::Failed, "the daemon has no process id"))?,
        child,
        told,
        log_path,
        patience: daemon::waits_at_most(settings) + READY_TIME,
        warnings,
    })
}

impl Started {
    /// The daemon.
    pub fn pid(&self) -> Pid {
        self.pid
    }

    /// Waits until it serves the mount.
    ///
    /// # Errors
    /// What it says keeps it from that; or it says nothing.
    pub fn wait(mut self) -> Result<Ready, Failure> {
        let log = self.log_path.display();
        let line = self.told.recv_timeout(self.patience).map_err(|_| {
            Failure::new(
                FailureKind::Failed,
                format!("the daemon was not ready after {} s", self.patience.as_secs()),
            )
            .hint(format!(
                "it is still starting, and `sailvol list` shows the mount once it answers; its log is {log}"
            ))
        })?;
        #[derive(serde::Deserialize)]
        #[serde(rename_all = "lowercase")]
        enum Answer {
            Ready(Ready),
            Failure(Failure),
        }
        match serde_json::from_str::<Answer>(&line) {
            Ok(Answer::Ready(mut ready)) => {
                ready.warnings.splice(0..0, self.warnings);
                Ok(ready)
            }
            Ok(Answer::Failure(failure)) => Err(failure),
            Err(_) => {
                let status = self
                    .child
                    .wait()
                    .map_or_else(|e| e.to_string(), |s| s.to_string());
                Err(Failure::new(
                    FailureKind::Failed,
                    format!("the daemon ended before it was ready ({status})"),
                )
                .hint(format!("its log is {log}")))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::format_bytes;

    #[test]
    fn a_mount_point_is_made_with_what_is_above_it() {
        let top = tempfile::tempdir().unwrap();
        let dir = top.path().join("a/b");
        make_dir(&dir).unwrap();
        make_dir(&dir).unwrap();
        assert!(dir.is_dir());
        std::fs::write(top.path().join("file"), "").unwrap();
        assert!(make_dir(&top.path().join("file/x")).is_err());
    }

    #[test]
    fn a_mount_never_contains_its_own_state() {
        let places = Places {
            state: "/m/state".into(),
            cache: "/c".into(),
            runtime: "/r".into(),
        };
        let failure = check_outside(Path::new("/m"), &places).unwrap_err();
        assert!(failure.hint.unwrap().contains("--state-dir"));
        assert!(check_outside(Path::new("/other"), &places).is_ok());
    }

    #[test]
    fn the_default_cache_size_fits_the_disk() {
        let size = default_cache_size(Path::new("/no-such-dir/cache"));
        assert!(
            (64 << 20..=CACHE_DEFAULT_MAX).contains(&size),
            "{}",
            format_bytes(size)
        );
    }
}
