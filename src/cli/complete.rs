//! Completion of names on the command line: volumes, mounts, records, stashes, and paths in volumes.
//!
//! The shell runs the program for each press of the key (`sailvol completions SHELL` says how). So it is quick and quiet:
//! what is not known after [`TIME`], or not to be had, is no candidate, and nothing is said.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::builder::StyledStr;
use clap_complete::CompleteEnv;
use clap_complete::engine::{CompletionCandidate, PathCompleter, ValueCompleter};
use clap_complete::env::Shells;

use super::context::Context;
use crate::answer::{Failure, LogEntry, StashSummary};
use crate::config::{PlaceOptions, VolumePath, default_store, parse_volume};
use crate::control::Request;
use crate::files::{Session, open_store};
use crate::model::show;
use crate::tree;
use crate::volume::Volume;

/// The variable by which a shell's script asks for candidates; its value is the shell.
pub const VARIABLE: &str = "COMPLETE";
/// Time for everything that has to be asked for: somebody waits with a finger on a key.
const TIME: Duration = Duration::from_millis(1200);
/// Most names that are offered.
const NAMES_MAX: usize = 500;

/// Answers a shell that asks, and is true then.
pub fn answer() -> bool {
    let asked = std::env::var_os(VARIABLE).unwrap_or_default();
    // A variable of that name may be somebody else's.
    let is_shell = asked
        .to_str()
        .is_some_and(|name| Shells::builtins().completer(name).is_some());
    if !is_shell {
        return false;
    }
    let here = std::env::current_dir().ok();
    let completing = CompleteEnv::with_factory(super::command_line).var(VARIABLE);
    // A line that no candidate can be found for has none.
    completing
        .try_complete(std::env::args_os(), here.as_deref())
        .unwrap_or(true)
}

/// Words of the command line that is being completed.
fn words() -> Vec<OsString> {
    let words = std::env::args_os().skip_while(|word| word != "--").skip(2);
    words.collect()
}

/// A context that says nothing and does not wait.
fn context() -> Context {
    let mut options = PlaceOptions::default();
    let words = words();
    for (at, word) in words.iter().enumerate() {
        if word == "--runtime-dir" {
            options.runtime_dir = words.get(at + 1).map(PathBuf::from);
        } else if let Some(dir) = word.to_str().and_then(|word| word.strip_prefix("--runtime-dir=")) {
            options.runtime_dir = Some(dir.into());
        }
    }
    Context::new(true, options, Some(TIME))
}

/// What can be found out in time.
fn in_time<T>(asking: impl Future<Output = Result<Vec<T>, Failure>>) -> Vec<T> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let Ok(runtime) = runtime else { return Vec::new() };
    let found = runtime.block_on(async { tokio::time::timeout(TIME, asking).await });
    // Not waiting for a name service that does not answer.
    runtime.shutdown_background();
    match found {
        Ok(Ok(found)) => found,
        _ => Vec::new(),
    }
}

fn candidate(value: impl Into<OsString>, help: impl Into<String>) -> CompletionCandidate {
    let help: String = help.into();
    let help = (!help.is_empty()).then(|| StyledStr::from(show(help.as_bytes())));
    CompletionCandidate::new(value).help(help)
}

fn matching(current: &OsStr, mut candidates: Vec<CompletionCandidate>) -> Vec<CompletionCandidate> {
    candidates.retain(|found| found.get_value().as_bytes().starts_with(current.as_bytes()));
    candidates
}

/// Volumes of the store that names are looked up in.
pub fn volumes(current: &OsStr) -> Vec<CompletionCandidate> {
    let names = volume_names().into_iter().map(|name| candidate(name, ""));
    matching(current, names.collect())
}

fn volume_names() -> Vec<String> {
    let context = context();
    in_time(async {
        let Ok(url) = default_store(&context.environment) else {
            return Ok(Vec::new());
        };
        let store = open_store(&url).await?;
        Ok(Volume::names(&store).await?)
    })
}

/// Directories of mounts, and others.
pub fn mounts(current: &OsStr) -> Vec<CompletionCandidate> {
    let mut found = matching(current, mounted());
    let dirs = PathCompleter::dir().complete(current);
    found.extend(dirs.into_iter().filter(|dir| !is_among(dir, &mounted())));
    found
}

/// The same, and files.
pub fn mounted_paths(current: &OsStr) -> Vec<CompletionCandidate> {
    let mut found = matching(current, mounted());
    let paths = PathCompleter::any().complete(current);
    found.extend(paths.into_iter().filter(|path| !is_among(path, &mounted())));
    found
}

fn is_among(path: &CompletionCandidate, mounts: &[CompletionCandidate]) -> bool {
    let plain = |value: &OsStr| {
        value
            .as_bytes()
            .strip_suffix(b"/")
            .unwrap_or(value.as_bytes())
            .to_vec()
    };
    mounts
        .iter()
        .any(|mount| plain(mount.get_value()) == plain(path.get_value()))
}

fn mounted() -> Vec<CompletionCandidate> {
    let context = context();
    let Ok(places) = context.places() else {
        return Vec::new();
    };
    let mounts = crate::control::list_mounts(&places.runtime_search(&context.environment));
    let told = mounts
        .into_iter()
        .map(|mount| candidate(mount.dir.into_os_string(), mount.volume));
    told.collect()
}

/// Asks the daemon of the mount that the command line names, if it names one.
fn ask<T: serde::de::DeserializeOwned>(request: &Request) -> Vec<T> {
    let context = context();
    let named = words().into_iter().map(PathBuf::from).find(|word| {
        let looks = word.components().count() > 1 || word.is_absolute();
        looks && context.find_mount(Some(word)).is_ok()
    });
    in_time(async {
        let (_, mut client) = context.connect(named.as_deref()).await?;
        Ok(client.call(request, |_| {}).await?)
    })
}

/// Numbers of records, the newest first.
pub fn records(current: &OsStr) -> Vec<CompletionCandidate> {
    let log: Vec<LogEntry> = ask(&Request::Log { limit: 50 });
    let told = log.into_iter().enumerate().map(|(order, entry)| {
        let title = entry.message.lines().next().unwrap_or_default();
        let help = format!("{} {title}", super::table::local_time(entry.time));
        candidate(entry.seq.to_string(), help).display_order(Some(order))
    });
    matching(current, told.collect())
}

/// Numbers of stashes.
pub fn stashes(current: &OsStr) -> Vec<CompletionCandidate> {
    let stashes: Vec<StashSummary> = ask(&Request::StashList {});
    let told = stashes.into_iter().map(|stash| {
        let made = super::table::local_time(stash.made_at);
        let changes = super::table::count(stash.changed, "change");
        candidate(stash.id.to_string(), format!("{made}, {changes}"))
    });
    matching(current, told.collect())
}

/// `VOLUME:/path`.
pub fn volume_paths(current: &OsStr) -> Vec<CompletionCandidate> {
    if current.as_bytes().contains(&b':') {
        return in_volume(current);
    }
    let names = volume_names()
        .into_iter()
        .map(|name| candidate(format!("{name}:/"), "a volume"));
    matching(current, names.collect())
}

/// Paths of this machine, and in volumes where that is being typed.
pub fn local_paths(current: &OsStr) -> Vec<CompletionCandidate> {
    PathCompleter::any().stdio().complete(current)
}

/// What is in the directory of a volume that is being typed.
fn in_volume(current: &OsStr) -> Vec<CompletionCandidate> {
    let bytes = current.as_bytes();
    let cut = bytes
        .iter()
        .rposition(|byte| *byte == b'/')
        .map_or(bytes.len(), |at| at + 1);
    let typed = OsStr::from_bytes(&bytes[..cut]);
    let context = context();
    let Ok(place) = VolumePath::parse(typed, &context.environment) else {
        return Vec::new();
    };
    // `v:` and `v:/` begin the same way.
    let start = match bytes.ends_with(b":") {
        true => [bytes, b"/"].concat(),
        false => bytes[..cut].to_vec(),
    };
    let names = in_time(async {
        let session = Session::open(&place.volume, context.caller()).await?;
        let path = session.path(&place.path).await?;
        let entry = session.entry(&path).await?;
        let mut found = Vec::new();
        let Some((_, dir)) = entry.as_dir() else {
            return Ok(found);
        };
        for leaf in tree::leaves(&session.nodes, dir).await? {
            for (name, entry) in &tree::leaf_entries(&session.nodes, &leaf).await?.entries {
                let slash = if entry.is_dir() { "/" } else { "" };
                found.push(format!("{name}{slash}"));
                if found.len() >= NAMES_MAX {
                    return Ok(found);
                }
            }
        }
        Ok(found)
    });
    let whole = names.into_iter().map(|name| {
        let value = [start.as_slice(), name.as_bytes()].concat();
        candidate(OsStr::from_bytes(&value), "")
    });
    matching(current, whole.collect())
}

/// Numbers of records of the volume that `mount` is about.
pub fn records_of_volume(current: &OsStr) -> Vec<CompletionCandidate> {
    let context = context();
    let url = words()
        .iter()
        .skip(1)
        .filter(|word| !word.as_bytes().starts_with(b"-") && !Path::new(word).is_absolute())
        .filter(|word| word.to_str().is_none_or(|text| text.parse::<u64>().is_err()))
        .find_map(|word| parse_volume(word.to_str()?, &context.environment).ok());
    let Some(url) = url else { return Vec::new() };
    let records = in_time(async {
        let session = Session::open(&url, context.caller()).await?;
        let head = session.head.clone();
        let log = session.volume.log(&head, 50).await?;
        Ok(log
            .into_iter()
            .map(|logged| (logged.seq(), logged.record.message.clone()))
            .collect())
    });
    let told = records.into_iter().enumerate().map(|(order, (seq, message))| {
        let title = message.lines().next().unwrap_or_default().to_owned();
        candidate(seq.to_string(), title).display_order(Some(order))
    });
    matching(current, told.collect())
}
