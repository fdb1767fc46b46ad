//! `sailvol stash`.

use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use clap_complete::engine::ArgValueCompleter;

use super::commit::overwritten_text;
use super::complete;
use super::context::Context;
use super::diff;
use super::style::Tone;
use super::table::{count, local_time, table};
use crate::answer::{DiffAnswer, Failure, ReloadAnswer, StashSummary};
use crate::config::format_bytes;
use crate::control::Request;
use crate::model::show;

/// Show, restore and drop changes that a reload set aside
///
/// Stashes are kept on this machine only, for 14 days and within the bound of --stash-size, the oldest going first.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, clap::Subcommand)]
enum Action {
    /// List the stashes, newest first
    List {
        /// A directory in the mount
        #[arg(add = ArgValueCompleter::new(complete::mounts))]
        dir: Option<PathBuf>,
    },
    /// List the paths in a stash
    Show {
        /// Number of the stash
        #[arg(add = ArgValueCompleter::new(complete::stashes))]
        id: u64,
        /// A directory in the mount
        #[arg(add = ArgValueCompleter::new(complete::mounts))]
        dir: Option<PathBuf>,
    },
    /// Put a stash's changes on top of what the mount shows now, and drop the stash
    Restore {
        /// Number of the stash
        #[arg(add = ArgValueCompleter::new(complete::stashes))]
        id: u64,
        /// A directory in the mount
        #[arg(add = ArgValueCompleter::new(complete::mounts))]
        dir: Option<PathBuf>,
    },
    /// Delete a stash
    Drop {
        /// Number of the stash
        #[arg(add = ArgValueCompleter::new(complete::stashes))]
        id: u64,
        /// A directory in the mount
        #[arg(add = ArgValueCompleter::new(complete::mounts))]
        dir: Option<PathBuf>,
    },
}

/// Runs the command.
pub async fn run(args: Args, context: &Context) -> Result<(), Failure> {
    match args.action {
        Action::List { dir } => {
            let request = Request::StashList {};
            let stashes: Vec<StashSummary> = context.ask(dir.as_deref(), &request).await?;
            context.print(&stashes, |stashes| list_text(stashes))
        }
        Action::Show { id, dir } => {
            let request = Request::StashShow {
                id,
                limit: diff::DEFAULT_LIMIT,
            };
            let answer: DiffAnswer = context.ask(dir.as_deref(), &request).await?;
            context.print(&answer, diff::text)
        }
        Action::Restore { id, dir } => {
            let request = Request::StashRestore { id };
            let answer: ReloadAnswer = context.ask(dir.as_deref(), &request).await?;
            context.print(&answer, |answer| {
                let restored = format!(
                    "restored stash {id} in {}: {}\n",
                    answer.dir,
                    count(answer.kept.len() as u64, "path")
                );
                restored + &overwritten_text(&answer.overwrote, answer.overwrote_more)
            })
        }
        Action::Drop { id, dir } => {
            let request = Request::StashDrop { id };
            let (mount, mut client) = context.connect(dir.as_deref()).await?;
            let dropping = async { Ok(client.call(&request, |_| {}).await?) };
            let _: serde_json::Value = context.within(dropping).await?;
            let mount = show(mount.dir.as_os_str().as_bytes());
            context.print(&serde_json::json!({ "dropped": id, "dir": mount }), |_| {
                format!("dropped stash {id} of {mount}\n")
            })
        }
    }
}

fn list_text(stashes: &[StashSummary]) -> String {
    if stashes.is_empty() {
        return "no stashes\n".to_owned();
    }
    let mut rows = vec![
        ["STASH", "MADE", "ON RECORD", "CHANGES", "SIZE"]
            .map(|title| Tone::Head.paint(title))
            .to_vec(),
    ];
    rows.extend(stashes.iter().map(|s| {
        vec![
            s.id.to_string(),
            local_time(s.made_at),
            s.base.to_string(),
            s.changed.to_string(),
            format_bytes(s.bytes),
        ]
    }));
    table(&rows)
}
