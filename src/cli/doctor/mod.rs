//! `sailvol doctor`.

mod machine;
mod places;
mod remote;

use clap_complete::engine::ArgValueCompleter;
use serde::Serialize;

use super::context::Context;
use crate::answer::{Failure, FailureKind};
use crate::cli::complete;

/// Find out what this machine, its directories and the store lack
///
/// Tries the store by writing, racing and removing small objects below probe/. Exit code 1 when something that is
/// needed is missing; the answer says what mends it.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// A volume or a store: name, URL, or the directory of a mount (default: SAILVOL_STORE)
    #[arg(add = ArgValueCompleter::new(complete::volumes))]
    volume: Option<String>,
    /// Do not look at the store
    #[arg(long)]
    local: bool,
}

/// How much something matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
enum Status {
    /// As it should be.
    Ok,
    /// Works, with a disadvantage.
    Warn,
    /// Has to be mended.
    Fail,
}

/// One thing that was looked at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
struct Check {
    name: &'static str,
    status: Status,
    detail: String,
    /// What mends it.
    #[serde(skip_serializing_if = "Option::is_none")]
    fix: Option<String>,
}

impl Check {
    fn ok(name: &'static str, detail: impl Into<String>) -> Check {
        Check {
            name,
            status: Status::Ok,
            detail: detail.into(),
            fix: None,
        }
    }

    fn warn(name: &'static str, detail: impl Into<String>, fix: impl Into<String>) -> Check {
        Check {
            name,
            status: Status::Warn,
            detail: detail.into(),
            fix: Some(fix.into()),
        }
    }

    fn fail(name: &'static str, detail: impl Into<String>, fix: impl Into<String>) -> Check {
        Check {
            name,
            status: Status::Fail,
            detail: detail.into(),
            fix: Some(fix.into()),
        }
    }
}

/// What can be told without touching a mount or a store.
pub fn local_checks(context: &Context) -> impl Serialize + use<> {
    let mut checks = machine_checks();
    checks.extend(places::checks(context));
    checks
}

fn machine_checks() -> Vec<Check> {
    let mut checks = vec![machine::kernel(), machine::device(), machine::may_mount()];
    checks.extend(machine::others_may_look());
    checks.push(machine::passthrough());
    checks
}

/// Runs the command.
pub async fn run(args: Args, context: &Context) -> Result<(), Failure> {
    let mut checks = machine_checks();
    checks.extend(places::checks(context));
    checks.extend(machine::mounts(context).await);
    if !args.local {
        checks.extend(remote::checks(args.volume.as_deref(), context).await);
    }
    context.print(&checks, |checks| text(checks))?;
    let failed = checks.iter().filter(|check| check.status == Status::Fail).count();
    match failed {
        0 => Ok(()),
        1 => Err(Failure::new(FailureKind::Failed, "one problem has to be fixed")),
        n => Err(Failure::new(
            FailureKind::Failed,
            format!("{n} problems have to be fixed"),
        )),
    }
}

fn text(checks: &[Check]) -> String {
    let width = checks.iter().map(|check| check.name.len()).max().unwrap_or(0);
    let mut out = String::new();
    for check in checks {
        let status = match check.status {
            Status::Ok => "OK  ",
            Status::Warn => "WARN",
            Status::Fail => "FAIL",
        };
        out.push_str(&format!("{status}  {:width$}  {}\n", check.name, check.detail));
        if let Some(fix) = &check.fix {
            out.push_str(&format!("      {:width$}  -> {fix}\n", ""));
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_line_up_and_say_what_mends() {
        let checks = [
            Check::ok("kernel", "6.18"),
            Check::fail("/dev/fuse", "is missing", "modprobe fuse"),
        ];
        assert_eq!(
            text(&checks),
            "OK    kernel     6.18\nFAIL  /dev/fuse  is missing\n                 -> modprobe fuse\n"
        );
    }
}
