//! What every command needs: output, places, and the way to a mount.

use std::ffi::OsStr;
use std::io::Write;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::progress::ProgressView;
use super::style::{Tone, finish, wanted};
use crate::answer::{Failure, FailureKind, Progress, STORE_TIME};
use crate::config::{Environment, PlaceOptions, Places, VolumePath};
use crate::control::{Client, MountRecord, Request, find_mount, list_mounts, resolved_path};
use crate::files::{Caller, within};
use crate::model::{show, unshow};
use crate::store::{StoreUrl, split_volume_path};

/// Without the numbers that Rust adds to what the system says, ` (os error 13)`: the words before say the same.
pub(super) fn without_numbers(message: &str) -> String {
    let mut out = String::new();
    let mut rest = message;
    while let Some((before, after)) = rest.split_once(" (os error ") {
        out.push_str(before);
        rest = after
            .split_once(')')
            .filter(|(number, _)| number.chars().all(|c| c.is_ascii_digit()))
            .map_or(after, |(_, behind)| behind);
    }
    out + rest
}

/// JSON has control characters in texts only, where they can be written as numbers: those of the upper half too.
fn for_terminals(json: String) -> String {
    if !json.chars().any(char::is_control) {
        return json;
    }
    let mut out = String::with_capacity(json.len() + 8);
    for letter in json.chars() {
        match letter.is_control() {
            true => out.push_str(&format!("\\u{:04x}", u32::from(letter))),
            false => out.push(letter),
        }
    }
    out
}

/// Output form, environment and places of one run.
#[derive(Debug)]
pub struct Context {
    /// Results as JSON.
    pub json: bool,
    /// Progress as JSON too.
    pub progress: bool,
    /// The environment, read once.
    pub environment: Environment,
    /// What the command line says about places.
    pub options: PlaceOptions,
    /// For how long a store, or a daemon that waits for one, may be silent.
    pub timeout: Duration,
}

impl Context {
    /// Reads the environment.
    pub fn new(json: bool, options: PlaceOptions, timeout: Option<Duration>) -> Context {
        Context {
            json,
            progress: false,
            environment: Environment::read(),
            options,
            timeout: timeout.unwrap_or(STORE_TIME),
        }
    }

    /// What shows the progress of long work.
    pub fn progress_view(&self) -> ProgressView {
        ProgressView::new(self.json, self.progress)
    }

    /// Somebody who works with volumes, for whom this one prints and listens to Ctrl-C.
    pub fn caller(&self) -> Caller {
        let (json, progress) = (self.json, self.progress);
        Caller {
            deadline: self.timeout,
            host: super::mount::host_name(),
            note: Arc::new(note),
            progress: Arc::new(move || {
                let view = ProgressView::new(json, progress);
                Arc::new(move |now| view.show(&now))
            }),
            stopped: Arc::new(|| {
                Box::pin(async {
                    // Where signals cannot be watched, they end the process.
                    if tokio::signal::ctrl_c().await.is_err() {
                        std::future::pending::<()>().await;
                    }
                })
            }),
        }
    }

    /// Waits for something that ends soon unless the store is silent.
    ///
    /// # Errors
    /// [`FailureKind::StoreUnreachable`] when time is up.
    pub async fn within<T>(&self, work: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
        within(self.timeout, work).await
    }

    /// The three directories.
    pub fn places(&self) -> Result<Places, Failure> {
        Places::resolve(&self.options, &self.environment)
            .map_err(|e| Failure::new(FailureKind::Usage, e.to_string()))
    }

    /// Prints a result: JSON, or what `text` makes of it (which ends each line itself).
    pub fn print<T: Serialize>(&self, value: &T, text: impl FnOnce(&T) -> String) -> Result<(), Failure> {
        let out = if self.json {
            let json = serde_json::to_string(value)
                .map_err(|e| Failure::new(FailureKind::Failed, format!("cannot write JSON: {e}")))?;
            for_terminals(json) + "\n"
        } else {
            finish(&text(value), wanted(&std::io::stdout()))
        };
        self.write(out.as_bytes())
    }

    /// Writes bytes to standard output. A reader that has gone (`| head`) is no failure.
    pub fn write(&self, bytes: &[u8]) -> Result<(), Failure> {
        let mut stdout = std::io::stdout().lock();
        match stdout.write_all(bytes).and_then(|()| stdout.flush()) {
            Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => Err(Failure::new(
                FailureKind::Failed,
                format!("cannot write the result: {error}"),
            )),
            _ => Ok(()),
        }
    }

    /// Says something that is no result.
    pub fn note(&self, text: impl AsRef<str>) {
        note(text.as_ref());
    }

    /// Says what went wrong.
    pub fn report(&self, failure: &Failure) {
        if self.json {
            let mut failure = failure.clone();
            failure.message = without_numbers(&failure.message);
            let value = serde_json::json!({ "error": failure });
            // JSON as it is.
            let _ = writeln!(std::io::stderr(), "{}", for_terminals(value.to_string()));
            return;
        }
        let who = Tone::Bad.paint("sailvol:");
        self.note(format!("{who} {}", without_numbers(&failure.message)));
        if let Some(hint) = &failure.hint {
            self.note(format!("  {hint}"));
        }
    }

    /// `VOLUME:/path` as it was typed for a command.
    ///
    /// # Errors
    /// [`FailureKind::Usage`], which says so when a path of this machine was typed instead.
    pub fn volume_path(&self, command: &str, given: &OsStr) -> Result<VolumePath, Failure> {
        VolumePath::parse(given, &self.environment).map_err(|error| match self.about_local(command, given) {
            Some(told) => Failure::new(
                FailureKind::Usage,
                format!("{} is a local path", show(given.as_bytes())),
            )
            .hint(told),
            None => Failure::new(FailureKind::Usage, error.to_string()),
        })
    }

    /// What to do with a path of this machine where one in a volume was wanted; `None` when it is none.
    pub fn about_local(&self, command: &str, given: &OsStr) -> Option<String> {
        let path = Path::new(given);
        let begins = [&b"/"[..], b"./", b"../", b"~"]
            .iter()
            .any(|start| given.as_bytes().starts_with(start));
        // Where a path leads is not looked at: it may be a mount that does not answer.
        if StoreUrl::is_url(&given.to_string_lossy())
            || !(begins || given.as_bytes().contains(&b'/') || given == "." || given == "..")
        {
            return None;
        }
        let absolute = std::path::absolute(path).ok()?;
        let wants = format!("`sailvol {command}` takes VOLUME:/path");
        let places = self.places().ok()?;
        let mounts = list_mounts(&places.runtime_search(&self.environment));
        let mount = mounts.iter().filter(|mount| absolute.starts_with(&mount.dir));
        Some(match mount.max_by_key(|mount| mount.dir.as_os_str().len()) {
            Some(mount) => {
                let inside = absolute.strip_prefix(&mount.dir).unwrap_or(&absolute);
                let inside = show(inside.as_os_str().as_bytes());
                format!(
                    "{wants}: {}:/{inside} is that of the newest record; in the mount itself use the system's own commands",
                    mount.volume
                )
            }
            None => wants,
        })
    }

    /// Refuses `VOLUME:/path` where a path of this machine is wanted.
    ///
    /// # Errors
    /// [`FailureKind::Usage`].
    pub fn refuse_volume_path(&self, command: &str, wanted: &str, given: &OsStr) -> Result<(), Failure> {
        // A file of that very name is meant.
        if !VolumePath::looks_like(given) || Path::new(given).symlink_metadata().is_ok() {
            return Ok(());
        }
        let shown = show(given.as_bytes());
        let text = format!("{shown} is a path in a volume, but `sailvol {command}` takes {wanted} here");
        let hint = match command {
            "put" | "get" => {
                format!("`sailvol cp` copies within a volume; a local file of that name is written ./{shown}")
            }
            _ => "name the mount's directory, or a path below it; `sailvol list` shows the mounts".to_owned(),
        };
        Err(Failure::new(FailureKind::Usage, text).hint(hint))
    }

    /// The mount that `dir` names (or the current directory, or the only one).
    pub fn find_mount(&self, dir: Option<&Path>) -> Result<MountRecord, Failure> {
        let places = self.places()?;
        let search = places.runtime_search(&self.environment);
        find_mount(&search, dir).map_err(|error| {
            let failure = Failure::new(FailureKind::Usage, error.to_string());
            match dir.and_then(|dir| about_volume(dir, &list_mounts(&search))) {
                Some(told) => failure.hint(told),
                None => failure,
            }
        })
    }

    /// Says which mount is meant when nobody named one; for commands whose result does not.
    pub fn name_mount(&self, mount: &MountRecord) {
        if !self.json {
            self.note(format!("sailvol: the mount on {}", mount.dir.display()));
        }
    }

    /// Asks that mount's daemon something that needs no progress, and gives up after the time limit.
    ///
    /// # Errors
    /// [`FailureKind::StoreUnreachable`] when time is up: that is what daemons wait for.
    pub async fn ask<T: DeserializeOwned>(
        &self,
        dir: Option<&Path>,
        request: &Request,
    ) -> Result<T, Failure> {
        let (record, mut client) = self.connect(dir).await?;
        if dir.is_none() {
            self.name_mount(&record);
        }
        self.within(async { Ok(client.call(request, |_| {}).await?) })
            .await
    }

    /// Asks for something about a path in that mount, which may have been typed as it is shown.
    ///
    /// # Errors
    /// [`FailureKind::NotFound`] when there is neither.
    pub async fn ask_about<T: DeserializeOwned>(
        &self,
        (mount, client): (&MountRecord, &mut Client),
        path: &Path,
        request: impl Fn(String) -> Request,
        mut on_progress: impl FnMut(Progress),
    ) -> Result<T, Failure> {
        let (as_bytes, as_shown) = path_in(mount, path);
        let first = client
            .call(&request(as_bytes), &mut on_progress)
            .await
            .map_err(Failure::from);
        match (first, as_shown) {
            (Err(failure), Some(shown)) if failure.kind == FailureKind::NotFound => {
                let second = client.call(&request(shown), &mut on_progress).await;
                second.map_err(Failure::from).map_err(|second| match second.kind {
                    FailureKind::NotFound => failure,
                    _ => second,
                })
            }
            (first, _) => first,
        }
    }

    /// A connection to that mount.
    pub async fn connect(&self, dir: Option<&Path>) -> Result<(MountRecord, Client), Failure> {
        let record = self.find_mount(dir)?;
        let client = Client::connect(&record.socket).await?;
        Ok((record, client))
    }
}

/// Says something that is no result.
fn note(text: &str) {
    let text = finish(text, wanted(&std::io::stderr()));
    // Nobody is left to tell when standard error is closed.
    let _ = writeln!(std::io::stderr(), "{text}");
}

/// A path of this machine as the volume of the mount that it lies in knows it; taken as bytes, and, where that is something
/// else, as what is shown.
pub fn path_in(mount: &MountRecord, path: &Path) -> (String, Option<String>) {
    let below = |path: PathBuf| path.strip_prefix(&mount.dir).map(Path::to_path_buf).ok();
    // A link that leads to the mount, or into it, is followed only when the path does not lead there as it is.
    let inside =
        below(resolved_path(path, |at| at == mount.dir)).or_else(|| below(std::fs::canonicalize(path).ok()?));
    let inside = inside.unwrap_or_default();
    let bytes = inside.as_os_str().as_bytes();
    let as_bytes = show(bytes);
    let as_shown = show(&unshow(bytes));
    let differs = (as_shown != as_bytes).then_some(as_shown);
    (as_bytes, differs)
}

/// What to say when somebody named a volume, or a path in one, where a directory is wanted.
fn about_volume(given: &Path, mounts: &[MountRecord]) -> Option<String> {
    let text = given.to_str()?;
    let (volume, _) = split_volume_path(text);
    let is_path = VolumePath::looks_like(given.as_os_str());
    let volume = volume.trim_end_matches(':');
    let name = volume.rsplit('/').next().unwrap_or(volume);
    let mounted: Vec<String> = mounts
        .iter()
        .filter(|mount| mount.volume == name)
        .map(|mount| mount.dir.display().to_string())
        .collect();
    let what = if is_path { "a path in a volume" } else { "a volume" };
    match mounted.is_empty() {
        false => Some(format!(
            "{text} names {what}, but this command takes a directory: it is mounted on {}",
            mounted.join(", ")
        )),
        true if is_path || StoreUrl::is_url(text) => Some(format!(
            "{text} names {what}, but this command takes the directory of a mount"
        )),
        true => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn people_are_not_told_error_numbers() {
        assert_eq!(
            without_numbers("/x: Permission denied (os error 13): no (os error 2)"),
            "/x: Permission denied: no"
        );
        assert_eq!(without_numbers("plain (text)"), "plain (text)");
    }

    #[test]
    fn no_json_holds_what_a_terminal_obeys() {
        let said = for_terminals(serde_json::json!({ "by": "a\u{9b}1m\u{7f}\u{1b}[1m" }).to_string());
        assert_eq!(said, r#"{"by":"a\u009b1m\u007f\u001b[1m"}"#);
        let back: serde_json::Value = serde_json::from_str(&said).unwrap();
        assert_eq!(back["by"], "a\u{9b}1m\u{7f}\u{1b}[1m");
    }
}
