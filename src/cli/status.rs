//! `sailvol status`.

use std::path::PathBuf;

use super::context::Context;
use super::table::{count, table};
use crate::config::{format_bytes, format_duration};
use crate::control::Request;
use crate::mount::{Failure, StatusAnswer};

/// Show the state of a mount
///
/// The volume, the record the mount stands on and how far behind the newest it is, local changes, cache, transfers,
/// and what deserves attention.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// A directory in the mount (default: the current one, or the only mount)
    dir: Option<PathBuf>,
    /// Do not ask the store for the newest record
    #[arg(long)]
    local: bool,
}

/// Runs the command.
pub async fn run(args: Args, context: &Context) -> Result<(), Failure> {
    let (_, mut client) = context.connect(args.dir.as_deref()).await?;
    let answer: StatusAnswer = client
        .call(
            &Request::Status {
                ask_store: !args.local,
            },
            |_| {},
        )
        .await?;
    context.print(&answer, text)
}

fn text(s: &StatusAnswer) -> String {
    let mode = if s.read_only { ", read-only" } else { "" };
    let head = match (s.head, s.head_age_secs) {
        (Some(head), _) if head == s.base => "the newest".to_owned(),
        (Some(head), _) if head > s.base => {
            format!("{} behind the newest, {head}", count(head - s.base, "record"))
        }
        (Some(head), _) => format!("the newest known is {head}"),
        (None, _) => "the newest is not known".to_owned(),
    };
    let age = match (&s.head_error, s.head_age_secs) {
        (Some(error), Some(age)) => format!(" (asked {} ago; now: {error})", format_duration(age)),
        (Some(error), None) => format!(" ({error})"),
        (None, Some(age)) if age > 5 => format!(" (asked {} ago)", format_duration(age)),
        _ => String::new(),
    };
    let dirty = match s.dirty {
        0 => "none".to_owned(),
        n => format!(
            "{}, {} of file data",
            count(n, "change"),
            format_bytes(s.dirty_bytes)
        ),
    };
    let mut rows: Vec<Vec<String>> = Vec::new();
    let mut row = |name: &str, value: String| rows.push(vec![name.to_owned(), value]);
    row("mount", format!("{} ({}{mode})", s.dir, s.name));
    row("volume", format!("{} in {}", s.volume, s.store));
    row(
        "base",
        format!(
            "record {} ({}), {head}{age}",
            s.base,
            &s.base_record.to_string()[..12]
        ),
    );
    row("uncommitted", dirty);
    if s.stashes > 0 {
        row("stashes", s.stashes.to_string());
    }
    row(
        "cache",
        format!(
            "{} of {}",
            format_bytes(s.cache.used_bytes),
            format_bytes(s.cache.max_bytes)
        ),
    );
    row(
        "transfers",
        format!(
            "{} requests, {} received, {} sent, {}",
            s.transfers.requests,
            format_bytes(s.transfers.received_bytes),
            format_bytes(s.transfers.sent_bytes),
            count(s.transfers.errors, "error")
        ),
    );
    row("passthrough", s.passthrough.clone());
    row(
        "daemon",
        format!(
            "pid {}, sailvol {}, up {}",
            s.pid,
            s.version,
            format_duration(s.uptime_secs)
        ),
    );
    if let Some(busy) = &s.busy {
        row("running", busy.clone());
    }
    if let Some(error) = &s.transfers.last_error {
        row("last error", error.clone());
    }
    for warning in &s.warnings {
        row("warning", warning.clone());
    }
    table(&rows)
}
