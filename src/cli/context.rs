//! What every command needs: output, places, and the way to a mount.

use std::io::Write;
use std::path::Path;
use std::time::Duration;

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::config::{Environment, PlaceOptions, Places};
use crate::control::{Client, MountRecord, Request, find_mount};
use crate::mount::{Failure, FailureKind, STORE_TIME, no_answer};

/// Without the numbers that Rust adds to what the system says, ` (os error 13)`: the words before say the same.
fn without_numbers(message: &str) -> String {
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

/// Output form, environment and places of one run.
#[derive(Debug)]
pub struct Context {
    /// Results as JSON.
    pub json: bool,
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
            environment: Environment::read(),
            options,
            timeout: timeout.unwrap_or(STORE_TIME),
        }
    }

    /// Waits for something that ends soon unless the store is silent.
    ///
    /// # Errors
    /// [`FailureKind::StoreUnreachable`] when time is up.
    pub async fn within<T>(&self, work: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
        let done = tokio::time::timeout(self.timeout, work).await;
        done.map_err(|_| no_answer(self.timeout))?
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
            json + "\n"
        } else {
            text(value)
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
        // Nobody is left to tell when standard error is closed.
        let _ = writeln!(std::io::stderr(), "{}", text.as_ref());
    }

    /// Says what went wrong.
    pub fn report(&self, failure: &Failure) {
        if self.json {
            let mut failure = failure.clone();
            failure.message = without_numbers(&failure.message);
            let value = serde_json::json!({ "error": failure });
            self.note(value.to_string());
            return;
        }
        self.note(format!("sailvol: {}", without_numbers(&failure.message)));
        if let Some(hint) = &failure.hint {
            self.note(format!("  {hint}"));
        }
    }

    /// The mount that `dir` names (or the current directory, or the only one).
    pub fn find_mount(&self, dir: Option<&Path>) -> Result<MountRecord, Failure> {
        let places = self.places()?;
        find_mount(&places.runtime_search(&self.environment), dir)
            .map_err(|e| Failure::new(FailureKind::Usage, e.to_string()))
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
        let (_, mut client) = self.connect(dir).await?;
        self.within(async { Ok(client.call(request, |_| {}).await?) })
            .await
    }

    /// A connection to that mount.
    pub async fn connect(&self, dir: Option<&Path>) -> Result<(MountRecord, Client), Failure> {
        let record = self.find_mount(dir)?;
        let client = Client::connect(&record.socket).await?;
        Ok((record, client))
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
}
