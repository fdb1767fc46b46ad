//! `sailvol log`.

use std::path::PathBuf;

use clap_complete::engine::ArgValueCompleter;

use super::complete;
use super::context::Context;
use super::table::{count, local_time};
use crate::answer::{Failure, LogEntry};
use crate::config::format_bytes;
use crate::control::Request;

/// List the newest records of the volume
#[derive(Debug, clap::Args)]
pub struct Args {
    /// A directory in the mount (default: the current one, or the only mount)
    #[arg(add = ArgValueCompleter::new(complete::mounts))]
    dir: Option<PathBuf>,
    /// Show at most this many records
    #[arg(short = 'n', long, value_name = "N", default_value_t = 20)]
    limit: usize,
}

/// Runs the command.
pub async fn run(args: Args, context: &Context) -> Result<(), Failure> {
    let request = Request::Log { limit: args.limit };
    let answer: Vec<LogEntry> = context.ask(args.dir.as_deref(), &request).await?;
    context.print(&answer, |entries| entries.iter().map(text).collect())
}

/// A record for people.
pub fn text(entry: &LogEntry) -> String {
    let id = entry.record.to_string();
    let message = if entry.message.is_empty() {
        String::new()
    } else {
        format!("\n    {}", entry.message)
    };
    format!(
        "record {} {}  {}  {}  by {}\n    {}, {}{message}\n",
        entry.seq,
        &id[..12],
        entry.kind,
        local_time(entry.time),
        if entry.by.is_empty() { "?" } else { &entry.by },
        count(entry.files, "file"),
        format_bytes(entry.bytes),
    )
}
