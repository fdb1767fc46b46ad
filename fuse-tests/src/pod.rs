//! A pod for tests: the real program, a real mount, directories of its own.

use std::ffi::OsStr;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use serde_json::Value;
use tempfile::TempDir;

/// The `sailvol` program of this workspace, built once for each test process with the profile that the tests have; or the
/// one that `SAILVOL_PROGRAM` names.
pub fn program() -> &'static Path {
    static PROGRAM: OnceLock<PathBuf> = OnceLock::new();
    PROGRAM.get_or_init(|| {
        if let Some(installed) = std::env::var_os("SAILVOL_PROGRAM") {
            return installed.into();
        }
        // target/<profile>/deps/<test>-<hash>, or target/<profile>/campaign
        let test = std::env::current_exe().expect("a test has a path");
        let beside = test.parent().expect("a program lies in a directory");
        let profile_dir = match beside.ends_with("deps") {
            true => beside.parent().expect("tests lie in target/<profile>/deps"),
            false => beside,
        };
        let profile_dir = profile_dir.to_path_buf();
        let root = Path::new(env!("CARGO_MANIFEST_DIR"))
            .parent()
            .expect("fuse-tests lies in the repository");
        let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
        cargo
            .current_dir(root)
            .args(["build", "--quiet", "--workspace", "--bins"]);
        if profile_dir.ends_with("release") {
            cargo.arg("--release");
        }
        let status = cargo.status().expect("cargo runs");
        assert!(status.success(), "sailvol cannot be built");
        profile_dir.join("sailvol")
    })
}

/// Puts a copy of the program there, by a process of its own: one that another thread starts meanwhile would inherit a file
/// that is open for writing here, and until it ends nobody could run the copy.
///
/// # Panics
/// When it cannot be copied.
pub fn copy_program(to: &Path) {
    let copied = Command::new("cp").arg(program()).arg(to).status();
    assert!(copied.expect("cp runs").success(), "{}", to.display());
}

/// One pod: local directories, a mount point, and the program with an environment that points there.
pub struct Pod {
    directories: TempDir,
    /// Where `state` and `cache` are.
    local: PathBuf,
    store: String,
    environment: Vec<(String, String)>,
    /// `cgroup.procs` of the control group that its processes begin in.
    group: Option<PathBuf>,
}

impl Pod {
    /// A pod that finds bare volume names in `store` (a URL).
    ///
    /// # Panics
    /// Without /dev/fuse: these tests are about real mounts.
    pub fn new(store: &str) -> Pod {
        Pod::new_in(&std::env::temp_dir(), store)
    }

    /// The same, with its directories below `parent`.
    ///
    /// # Panics
    /// As [`Pod::new`].
    pub fn new_in(parent: &Path, store: &str) -> Pod {
        assert!(
            Path::new("/dev/fuse").exists(),
            "these tests need /dev/fuse (and root, or fusermount3)"
        );
        let directories = tempfile::Builder::new()
            .prefix("sailvol-pod-")
            .tempdir_in(parent)
            .expect("a temporary directory");
        for name in ["mnt", "state", "cache", "run"] {
            std::fs::create_dir(directories.path().join(name)).expect("a fresh directory");
        }
        Pod {
            local: directories.path().to_path_buf(),
            directories,
            store: store.to_owned(),
            environment: Vec::new(),
            group: None,
        }
    }

    /// Adds a variable to the environment of everything this pod runs.
    pub fn env(mut self, name: &str, value: &str) -> Pod {
        self.environment.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Everything that this pod runs, its daemon included, begins in this control group.
    pub fn in_group(mut self, group: &Path) -> Pod {
        self.group = Some(group.join("cgroup.procs"));
        self
    }

    /// Keeps state and cache below this directory instead, which may be a disk of its own.
    pub fn with_local_dir(mut self, dir: &Path) -> Pod {
        for name in ["state", "cache"] {
            std::fs::create_dir_all(dir.join(name)).expect("the directory is ours");
        }
        self.local = dir.to_path_buf();
        self
    }

    /// Where the volume is mounted.
    pub fn mount_dir(&self) -> PathBuf {
        self.directories.path().join("mnt")
    }

    /// A path in the mount.
    pub fn path(&self, relative: impl AsRef<Path>) -> PathBuf {
        self.mount_dir().join(relative)
    }

    /// `state`, `cache` or `run`.
    pub fn local_dir(&self, name: &str) -> PathBuf {
        match name {
            "run" => self.directories.path().join(name),
            _ => self.local.join(name),
        }
    }

    /// The program with arguments, not yet started.
    pub fn command<S: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = S>) -> Command {
        let mut command = match &self.group {
            None => Command::new(program()),
            Some(procs) => {
                let mut shell = Command::new("sh");
                shell
                    .args(["-c", "echo $$ > \"$0\" && exec \"$@\""])
                    .arg(procs)
                    .arg(program());
                shell
            }
        };
        command
            .args(arguments)
            .env("SAILVOL_STORE", &self.store)
            .env("SAILVOL_STATE_DIR", self.local_dir("state"))
            .env("SAILVOL_CACHE_DIR", self.local_dir("cache"))
            .env("SAILVOL_RUNTIME_DIR", self.local_dir("run"))
            .envs(self.environment.iter().map(|(n, v)| (n, v)))
            .stdin(Stdio::null());
        command
    }

    /// Runs the program and gives what came of it.
    pub fn run<S: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = S>) -> Output {
        self.command(arguments).output().expect("the program runs")
    }

    /// Runs the program with `--json`; it must succeed.
    pub fn json<S: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = S>) -> Value {
        let mut command = self.command(arguments);
        let output = command.arg("--json").output().expect("the program runs");
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(
            output.status.success(),
            "{command:?}: {}\n{}",
            output.status,
            self.explain(&output)
        );
        serde_json::from_str(&text).unwrap_or_else(|e| panic!("{command:?}: {e}: {text:?}"))
    }

    /// Runs the program, which must fail with this exit code; gives what it said.
    pub fn fails<S: AsRef<OsStr>>(&self, code: i32, arguments: impl IntoIterator<Item = S>) -> String {
        let output = self.run(arguments);
        assert_eq!(output.status.code(), Some(code), "{}", self.explain(&output));
        String::from_utf8_lossy(&output.stderr).into_owned()
    }

    /// Mounts a volume on this pod's mount point.
    pub fn mount(&self, volume: &str, options: &[&str]) -> Value {
        let dir = self.mount_dir();
        let mut arguments: Vec<&OsStr> = vec![OsStr::new("mount")];
        arguments.extend(options.iter().map(OsStr::new));
        arguments.extend([OsStr::new(volume), dir.as_os_str()]);
        self.json(arguments)
    }

    /// Commits with a message.
    pub fn commit(&self, message: &str) -> Value {
        let dir = self.mount_dir();
        self.json([
            OsStr::new("commit"),
            dir.as_os_str(),
            OsStr::new("-m"),
            OsStr::new(message),
        ])
    }

    /// Reloads.
    pub fn reload(&self, options: &[&str]) -> Value {
        let dir = self.mount_dir();
        let mut arguments = vec![OsStr::new("reload"), dir.as_os_str()];
        arguments.extend(options.iter().map(OsStr::new));
        self.json(arguments)
    }

    /// Status.
    pub fn status(&self) -> Value {
        let dir = self.mount_dir();
        self.json([OsStr::new("status"), dir.as_os_str()])
    }

    /// Unmounts, waiting for the daemon to be gone.
    pub fn umount(&self, options: &[&str]) -> Value {
        let daemon = self.daemon();
        let dir = self.mount_dir();
        let mut arguments = vec![OsStr::new("umount"), dir.as_os_str()];
        arguments.extend(options.iter().map(OsStr::new));
        let answer = self.json(arguments);
        if let Some(pid) = daemon {
            wait_until("the daemon ends", || !alive(pid));
        }
        answer
    }

    /// The daemon's process, if one is registered and alive.
    pub fn daemon(&self) -> Option<u32> {
        let entries = std::fs::read_dir(self.local_dir("run")).ok()?;
        for path in entries
            .flatten()
            .map(|e| e.path())
            .filter(|p| p.extension().is_some_and(|e| e == "json"))
        {
            let text = std::fs::read_to_string(path).ok()?;
            let value: Value = serde_json::from_str(&text).ok()?;
            let pid = u32::try_from(value["pid"].as_u64()?).ok()?;
            if alive(pid) {
                return Some(pid);
            }
        }
        None
    }

    /// The control socket of the one mount.
    ///
    /// # Panics
    /// When there is none.
    pub fn socket(&self) -> PathBuf {
        let entries = std::fs::read_dir(self.local_dir("run")).expect("a directory of our own");
        let mut paths = entries.flatten().map(|entry| entry.path());
        let socket = paths.find(|path| path.extension().is_some_and(|e| e == "sock"));
        socket.expect("a mount has a socket")
    }

    /// `kill -9` for the daemon; returns when it is gone.
    pub fn kill_daemon(&self) {
        self.signal_daemon(rustix::process::Signal::KILL);
    }

    /// Sends the daemon a signal and waits for its end.
    pub fn signal_daemon(&self, signal: rustix::process::Signal) {
        let pid = self.daemon().expect("a daemon runs");
        let raw = i32::try_from(pid)
            .ok()
            .and_then(rustix::process::Pid::from_raw)
            .expect("a process number");
        rustix::process::kill_process(raw, signal).expect("the daemon is ours");
        wait_until("the daemon ends", || !alive(pid));
    }

    /// Gives up all local state, as a new pod would have none; the pod must not be mounted.
    pub fn forget_local_state(&self) {
        for name in ["state", "cache"] {
            let dir = self.local_dir(name);
            std::fs::remove_dir_all(&dir).expect("the directory is ours");
            std::fs::create_dir(&dir).expect("a fresh directory");
        }
    }

    fn explain(&self, output: &Output) -> String {
        let mut text = format!(
            "exit {:?}\nstdout: {}\nstderr: {}",
            output.status.code(),
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        );
        text.push_str(&self.log_tail(20));
        text
    }

    /// The last lines of the logs of its daemons, for messages.
    pub fn log_tail(&self, lines: usize) -> String {
        let mut text = String::new();
        let logs = std::fs::read_dir(self.local_dir("state"))
            .into_iter()
            .flatten()
            .flatten();
        for path in logs.map(|e| e.path().join("daemon.log")).filter(|p| p.exists()) {
            let log = std::fs::read_to_string(&path).unwrap_or_default();
            let tail: Vec<&str> = log.lines().rev().take(lines).collect();
            text.push_str(&format!(
                "\nend of the daemon's log:\n{}",
                tail.into_iter().rev().collect::<Vec<_>>().join("\n")
            ));
        }
        text
    }
}

impl Drop for Pod {
    /// Leaves no process and no mount behind, also when the test failed.
    fn drop(&mut self) {
        let dir = self.mount_dir();
        // Others may have mounts whose names are no text.
        let mounts = std::fs::read("/proc/thread-self/mountinfo").unwrap_or_default();
        if String::from_utf8_lossy(&mounts).contains(&*dir.to_string_lossy()) {
            let ended = self
                .command([OsStr::new("umount"), dir.as_os_str(), OsStr::new("--force")])
                .output();
            if !ended.is_ok_and(|o| o.status.success()) {
                // The last resort for a test that broke the program.
                let _ = rustix::mount::unmount(&dir, rustix::mount::UnmountFlags::DETACH);
            }
        }
        if let Some(pid) = self.daemon()
            && let Some(raw) = i32::try_from(pid).ok().and_then(rustix::process::Pid::from_raw)
        {
            let _ = rustix::process::kill_process(raw, rustix::process::Signal::TERM);
            let deadline = Instant::now() + Duration::from_secs(10);
            while alive(pid) && Instant::now() < deadline {
                std::thread::sleep(Duration::from_millis(10));
            }
            let _ = rustix::process::kill_process(raw, rustix::process::Signal::KILL);
        }
    }
}

/// A process that runs (a zombie does not).
/// A killed process whose first thread has ended holds its files and locks until the last one has.
pub(crate) fn alive(pid: u32) -> bool {
    let threads = || std::fs::read_dir(format!("/proc/{pid}/task")).map_or(0, Iterator::count);
    std::fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| {
        stat.rsplit(") ")
            .next()
            .is_some_and(|rest| !rest.starts_with('Z') || threads() > 1)
    })
}

/// Waits for a condition that must come true; looks often, gives up after a minute.
///
/// # Panics
/// When it does not.
pub fn wait_until(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(60);
    while !condition() {
        assert!(Instant::now() < deadline, "{what}: not within a minute");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// The whole answer of an HTTP server on loopback, as that of `mount --metrics`.
///
/// # Panics
/// When there is none.
pub fn http_get(address: &str, path: &str) -> String {
    let mut stream = std::net::TcpStream::connect(address).expect("a server");
    write!(
        stream,
        "GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    )
    .expect("a request that is taken");
    let mut text = String::new();
    stream.read_to_string(&mut text).expect("an answer");
    text
}

/// A value out of Prometheus' text: of the first line of that name with `label` in it.
///
/// # Panics
/// When there is none.
pub fn metric(text: &str, name: &str, label: &str) -> f64 {
    let mut lines = text.lines();
    let line = lines.find(|line| line.starts_with(name) && line.contains(label));
    let line = line.unwrap_or_else(|| panic!("{name} {label} in {text}"));
    let value = line.rsplit(' ').next().expect("a value");
    value.parse().expect("a number")
}

/// An S3 server in this process and pods that use it.
pub struct Cluster {
    /// The server, with its faults and counters.
    pub server: crate::s3d::S3d,
    credentials: PathBuf,
}

impl Cluster {
    /// Starts a server.
    pub fn start() -> Cluster {
        Cluster::start_with(crate::s3d::S3dOptions::default())
    }

    /// Starts a server with other options.
    ///
    /// # Panics
    /// As [`Cluster::start`].
    pub fn start_with(options: crate::s3d::S3dOptions) -> Cluster {
        let server = crate::s3d::S3d::start_blocking(options).expect("a server on loopback");
        let credentials = server.credentials_file().expect("a file for the keys");
        Cluster { server, credentials }
    }

    /// What the pods find as their keys from now on, whatever the server thinks of them.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn write_keys(&self, access: &str, secret: &str) -> std::io::Result<()> {
        crate::s3d::write_credentials(&self.credentials, access, secret)
    }

    /// The server knows these keys only, and the pods find them.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn rotate_keys(&self, access: &str, secret: &str) -> std::io::Result<()> {
        self.write_keys(access, secret)?;
        self.server.set(|settings| {
            settings.keys = [(access.to_owned(), secret.to_owned())].into();
        });
        Ok(())
    }

    /// A pod whose volumes live on the server.
    pub fn pod(&self) -> Pod {
        Pod::new(&self.server.url("bucket/volumes"))
            .env("AWS_SHARED_CREDENTIALS_FILE", &self.credentials.to_string_lossy())
            .env("AWS_EC2_METADATA_DISABLED", "true")
            .env("AWS_REGION", "us-east-1")
    }
}
