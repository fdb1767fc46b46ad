//! What every command needs: output, places, and the way to a mount.

use std::io::Write;
use std::path::Path;

use serde::Serialize;

use crate::config::{Environment, PlaceOptions, Places};
use crate::control::{Client, MountRecord, find_mount};
use crate::mount::{Failure, FailureKind};

/// Output form, environment and places of one run.
#[derive(Debug)]
pub struct Context {
    /// Results as JSON.
    pub json: bool,
    /// The environment, read once.
    pub environment: Environment,
    /// What the command line says about places.
    pub options: PlaceOptions,
}

impl Context {
    /// Reads the environment.
    pub fn new(json: bool, options: PlaceOptions) -> Context {
        Context {
            json,
            environment: Environment::read(),
            options,
        }
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
            let value = serde_json::json!({ "error": failure });
            self.note(value.to_string());
            return;
        }
        self.note(format!("sailvol: {}", failure.message));
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

    /// A connection to that mount.
    pub async fn connect(&self, dir: Option<&Path>) -> Result<(MountRecord, Client), Failure> {
        let record = self.find_mount(dir)?;
        let client = Client::connect(&record.socket).await?;
        Ok((record, client))
    }
}
