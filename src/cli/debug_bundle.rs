//! `sailvol debug-bundle`: facts for whoever is to find out what is wrong.
//!
//! 1. No secrets, by construction: nothing is read that may hold one. Of the environment only names are taken; no
//!    credential file, no journal of an overlay, no file of a user is opened.
//! 2. No mount is touched, whatever its state: paths are compared, the kernel's tables and the daemon's socket are
//!    asked, the socket within a time limit.
//! 3. What cannot be found out is said in its place; the bundle is made in any case.

use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap_complete::engine::ArgValueCompleter;
use serde::Serialize;

use super::complete;
use super::context::Context;
use super::doctor;
use crate::answer::{Failure, FailureKind, StatusAnswer};
use crate::config::Places;
use crate::control::{Client, MountRecord, Request, recorded_mounts};
use crate::daemon;
use crate::fuse::sailvol_mounts;

/// Time for a daemon to say how it is.
const STATUS_TIME: Duration = Duration::from_secs(5);
/// End of each log that is taken, bytes.
const LOG_TAIL: u64 = 2 << 20;
/// Lines that are taken of what the system's journal has of a unit, and the time for it.
const JOURNAL_LINES: &str = "10000";
const JOURNAL_TIME: Duration = Duration::from_secs(10);
/// Names of a state directory that are listed.
const NAMES_MAX: usize = 5_000;

/// Collect facts about this machine's mounts for a bug report, without secrets
///
/// Status, settings, the end of the logs (of a unit: its journal), statistics, facts about the kernel, mounts and daemons. It holds names of
/// volumes, buckets and local directories, and no file contents, keys or values of the environment. Mounts are never
/// touched, and it works when a daemon is dead or hangs.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Only the mount on this directory (default: all that are known)
    #[arg(add = ArgValueCompleter::new(complete::mounts))]
    dir: Option<PathBuf>,
    /// Write here: a file ending in .tar.gz, or a directory that is not there yet (default: a file in /tmp)
    #[arg(short, long, value_name = "PATH")]
    output: Option<PathBuf>,
}

/// What was collected.
#[derive(Debug, Default)]
struct Bundle {
    files: Vec<(String, Vec<u8>)>,
}

impl Bundle {
    fn add(&mut self, name: impl Into<String>, bytes: impl Into<Vec<u8>>) {
        self.files.push((name.into(), bytes.into()));
    }

    fn add_json(&mut self, name: impl Into<String>, value: &impl Serialize) {
        match serde_json::to_vec_pretty(value) {
            Ok(bytes) => self.add(name, bytes),
            Err(error) => self.add(name, format!("cannot be written as JSON: {error}\n")),
        }
    }

    /// A file of the kernel or of ours, or why it cannot be read.
    fn add_file(&mut self, name: impl Into<String>, path: &Path) {
        match std::fs::read(path) {
            Ok(bytes) => self.add(name, bytes),
            Err(error) => self.add(name, format!("{}: {error}\n", path.display())),
        }
    }
}

/// Runs the command.
pub async fn run(args: Args, context: &Context) -> Result<(), Failure> {
    let output = output_path(args.output.as_deref())?;
    let mut bundle = Bundle::default();
    machine(&mut bundle, context);
    let places = context.places()?;
    let wanted = |dir: &Path| {
        args.dir
            .as_ref()
            .is_none_or(|named| absolute(named).starts_with(dir))
    };
    let records = recorded_mounts(&places.runtime_search(&context.environment));
    let mut names: Vec<String> = Vec::new();
    for record in records.iter().filter(|record| wanted(&record.dir)) {
        names.push(record.name.clone());
        mount(&mut bundle, record, &places).await;
    }
    // Mounts of which nothing but the state is left.
    if args.dir.is_none() {
        for name in state_names(&places.state)
            .into_iter()
            .filter(|name| !names.contains(name))
        {
            local_files(&mut bundle, &format!("state/{name}"), &name, &places).await;
        }
    }
    let count = bundle.files.len();
    write(&bundle, &output).map_err(|e| failed(&output, &e))?;
    let answer = serde_json::json!({ "bundle": output, "files": count });
    context.print(&answer, |_| {
        format!(
            "{}\n  {}; it names volumes, buckets and directories, and holds no keys and no file contents\n",
            output.display(),
            super::table::count(count as u64, "file")
        )
    })
}

fn failed(path: &Path, error: &std::io::Error) -> Failure {
    Failure::new(FailureKind::of_io(error), format!("{}: {error}", path.display()))
}

fn absolute(path: &Path) -> PathBuf {
    std::path::absolute(path).unwrap_or_else(|_| path.to_owned())
}

/// Never in a mount of ours: writing there would touch it.
fn output_path(named: Option<&Path>) -> Result<PathBuf, Failure> {
    let path = match named {
        Some(path) => absolute(path),
        None => {
            let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
            let secs = now.map_or(0, |since| since.as_secs());
            std::env::temp_dir().join(format!("sailvol-debug-{secs}-{}.tar.gz", std::process::id()))
        }
    };
    if let Some((dir, _)) = sailvol_mounts().iter().find(|(dir, _)| path.starts_with(dir)) {
        let text = format!("{} is inside the mount {}", path.display(), dir.display());
        return Err(
            Failure::new(FailureKind::Usage, text).hint("choose a place outside the mount with --output")
        );
    }
    Ok(path)
}

/// Kernel, limits, the mount table as far as it concerns us, and what doctor says without a look at mounts.
fn machine(bundle: &mut Bundle, context: &Context) {
    bundle.add("version.txt", format!("sailvol {}\n", env!("CARGO_PKG_VERSION")));
    bundle.add_json("doctor.json", &doctor::local_checks(context));
    for (name, path) in [
        ("kernel/version.txt", "/proc/version"),
        ("kernel/meminfo.txt", "/proc/meminfo"),
        ("kernel/loadavg.txt", "/proc/loadavg"),
        ("kernel/pressure-io.txt", "/proc/pressure/io"),
        ("kernel/pressure-memory.txt", "/proc/pressure/memory"),
        ("kernel/cgroup.txt", "/proc/self/cgroup"),
        ("kernel/cgroup-memory-max.txt", "/sys/fs/cgroup/memory.max"),
        ("kernel/fuse.conf", "/etc/fuse.conf"),
    ] {
        bundle.add_file(name, Path::new(path));
    }
    let names: Vec<String> = std::env::vars_os()
        .filter_map(|(name, _)| name.into_string().ok())
        .filter(|name| name.starts_with("SAILVOL_") || name.starts_with("AWS_") || name.ends_with("_PROXY"))
        .collect();
    bundle.add(
        "environment-names.txt",
        format!("set (values are left out): {}\n", names.join(" ")),
    );
    let mounts: Vec<String> = sailvol_mounts()
        .iter()
        .map(|(dir, volume)| format!("{} shows {volume}\n", dir.display()))
        .collect();
    bundle.add("kernel/sailvol-mounts.txt", mounts.concat());
    bundle.add("kernel/fuse-connections.txt", connections());
}

/// Requests that wait, by connection: whether a daemon hangs.
fn connections() -> String {
    let Ok(entries) = std::fs::read_dir("/sys/fs/fuse/connections") else {
        return "not mounted: mount -t fusectl none /sys/fs/fuse/connections\n".to_owned();
    };
    let mut out = String::new();
    for entry in entries.flatten() {
        let value = |name: &str| {
            std::fs::read_to_string(entry.path().join(name)).map_or("?".into(), |text| text.trim().to_owned())
        };
        out.push_str(&format!(
            "connection {}: waiting {}, max_background {}\n",
            entry.file_name().display(),
            value("waiting"),
            value("max_background")
        ));
    }
    out
}

/// One mount that has, or had, a daemon.
async fn mount(bundle: &mut Bundle, record: &MountRecord, places: &Places) {
    let folder = format!("mounts/{}", record.name);
    bundle.add_json(format!("{folder}/record.json"), record);
    match tokio::time::timeout(STATUS_TIME, status(record)).await {
        Ok(Ok(status)) => bundle.add_json(format!("{folder}/status.json"), &status),
        Ok(Err(failure)) => bundle.add_json(format!("{folder}/status-error.json"), &failure),
        Err(_) => bundle.add(
            format!("{folder}/status-error.txt"),
            format!("no answer within {} s\n", STATUS_TIME.as_secs()),
        ),
    }
    bundle.add(format!("{folder}/process.txt"), process(record.pid));
    local_files(bundle, &folder, &record.name, places).await;
}

async fn status(record: &MountRecord) -> Result<StatusAnswer, Failure> {
    let mut client = Client::connect(&record.socket).await?;
    let request = Request::Status { ask_store: false };
    Ok(client.call(&request, |_| {}).await?)
}

/// The daemon as the kernel sees it: what its threads wait for.
fn process(pid: u32) -> String {
    let proc = PathBuf::from(format!("/proc/{pid}"));
    let mut out = String::new();
    let mut take = |path: &Path| {
        let text = std::fs::read_to_string(path).unwrap_or_else(|e| format!("{e}\n"));
        out.push_str(&format!("== {}\n{}\n", path.display(), text.trim_end()));
    };
    for name in ["status", "limits", "io", "wchan"] {
        take(&proc.join(name));
    }
    let threads = std::fs::read_dir(proc.join("task"))
        .into_iter()
        .flatten()
        .flatten();
    for thread in threads {
        for name in ["comm", "wchan", "stack"] {
            take(&thread.path().join(name));
        }
    }
    let open = std::fs::read_dir(proc.join("fd")).map_or(0, Iterator::count);
    out.push_str(&format!("== open descriptors: {open}\n"));
    out
}

/// Settings, logs, and what lies in the state directory: names and sizes.
async fn local_files(bundle: &mut Bundle, folder: &str, name: &str, places: &Places) {
    let state = places.state.join(name);
    bundle.add_file(
        format!("{folder}/settings.json"),
        &state.join(daemon::SETTINGS_FILE),
    );
    let mut has_log = false;
    for log in ["daemon.log", "daemon.log.old"] {
        let path = state.join(log);
        match tail(&path) {
            Ok(bytes) => {
                has_log = true;
                bundle.add(format!("{folder}/{log}"), bytes);
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => bundle.add(format!("{folder}/{log}"), format!("{error}\n")),
        }
    }
    // A unit has no log of its own.
    if !has_log && Path::new("/run/systemd/system").exists() {
        bundle.add(format!("{folder}/journal.txt"), journal(name).await);
    }
    bundle.add(format!("{folder}/state-files.txt"), listing(&state));
    let room = |dir: &Path| {
        rustix::fs::statvfs(dir).map_or_else(
            |error| error.to_string(),
            |s| {
                format!(
                    "{} of {} bytes free",
                    s.f_bavail * s.f_frsize,
                    s.f_blocks * s.f_frsize
                )
            },
        )
    };
    let cache = places.cache.join(name);
    bundle.add(
        format!("{folder}/room.txt"),
        format!(
            "state {}: {}\ncache {}: {}\n",
            state.display(),
            room(&state),
            cache.display(),
            room(&cache)
        ),
    );
}

/// What `sailvol@NAME.service` logged.
async fn journal(name: &str) -> Vec<u8> {
    let asked = tokio::process::Command::new("journalctl")
        .args([
            "--no-pager",
            "--quiet",
            "--output=short-iso",
            "--lines",
            JOURNAL_LINES,
        ])
        .arg(format!("--unit=sailvol@{name}.service"))
        .stdin(std::process::Stdio::null())
        .kill_on_drop(true)
        .output();
    match tokio::time::timeout(JOURNAL_TIME, asked).await {
        Ok(Ok(output)) => [output.stdout, output.stderr].concat(),
        Ok(Err(error)) => format!("journalctl: {error}\n").into_bytes(),
        Err(_) => format!("journalctl: no answer within {} s\n", JOURNAL_TIME.as_secs()).into_bytes(),
    }
}

fn tail(path: &Path) -> std::io::Result<Vec<u8>> {
    let mut file = std::fs::File::open(path)?;
    let len = file.metadata()?.len();
    file.seek(SeekFrom::Start(len.saturating_sub(LOG_TAIL)))?;
    let mut out = Vec::new();
    file.take(LOG_TAIL).read_to_end(&mut out)?;
    Ok(out)
}

fn listing(root: &Path) -> String {
    let mut out = String::new();
    let mut open = vec![root.to_owned()];
    let mut listed = 0;
    while let Some(dir) = open.pop() {
        let entries = match std::fs::read_dir(&dir) {
            Ok(entries) => entries,
            Err(error) => {
                out.push_str(&format!("{}: {error}\n", dir.display()));
                continue;
            }
        };
        for entry in entries.flatten() {
            let Ok(metadata) = entry.metadata() else { continue };
            if metadata.is_dir() {
                open.push(entry.path());
            }
            out.push_str(&format!("{:>14}  {}\n", metadata.len(), entry.path().display()));
            listed += 1;
            if listed == NAMES_MAX {
                out.push_str("... and more\n");
                return out;
            }
        }
    }
    out
}

/// Names of mounts below the state root.
fn state_names(root: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(root).into_iter().flatten().flatten();
    let of_mounts = entries.filter(|entry| entry.path().join(daemon::SETTINGS_FILE).exists());
    of_mounts
        .filter_map(|entry| entry.file_name().into_string().ok())
        .collect()
}

fn write(bundle: &Bundle, output: &Path) -> std::io::Result<()> {
    let is_archive = output.to_string_lossy().ends_with(".tar.gz");
    if !is_archive {
        std::fs::create_dir(output)?;
        for (name, bytes) in &bundle.files {
            let path = output.join(name);
            if let Some(parent) = path.parent() {
                std::fs::create_dir_all(parent)?;
            }
            std::fs::write(path, bytes)?;
        }
        return Ok(());
    }
    let mut options = std::fs::File::options();
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    let file = options.write(true).create_new(true).open(output)?;
    let gzip = flate2::write::GzEncoder::new(file, flate2::Compression::default());
    let mut archive = tar::Builder::new(gzip);
    for (name, bytes) in &bundle.files {
        let mut header = tar::Header::new_gnu();
        header.set_size(bytes.len() as u64);
        header.set_mode(0o600);
        archive.append_data(
            &mut header,
            Path::new("sailvol-debug").join(name),
            bytes.as_slice(),
        )?;
    }
    archive.into_inner()?.finish()?.flush()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bundle_is_an_archive_or_a_directory_and_replaces_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let mut bundle = Bundle::default();
        bundle.add("a/b.txt", "text");
        let file = dir.path().join("x.tar.gz");
        write(&bundle, &file).unwrap();
        let mut archive =
            tar::Archive::new(flate2::read::GzDecoder::new(std::fs::File::open(&file).unwrap()));
        let mut entry = archive.entries().unwrap().next().unwrap().unwrap();
        assert_eq!(entry.path().unwrap(), Path::new("sailvol-debug/a/b.txt"));
        let mut text = String::new();
        entry.read_to_string(&mut text).unwrap();
        assert_eq!(text, "text");
        assert!(write(&bundle, &file).is_err());
        let folder = dir.path().join("folder");
        write(&bundle, &folder).unwrap();
        assert_eq!(std::fs::read_to_string(folder.join("a/b.txt")).unwrap(), "text");
        assert!(write(&bundle, &folder).is_err());
    }

    #[test]
    fn the_end_of_a_long_log_is_taken() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        let mut bytes = vec![b'a'; LOG_TAIL as usize];
        bytes.extend_from_slice(b"end");
        std::fs::write(&path, &bytes).unwrap();
        let taken = tail(&path).unwrap();
        assert_eq!(taken.len() as u64, LOG_TAIL);
        assert!(taken.ends_with(b"end"));
    }
}
