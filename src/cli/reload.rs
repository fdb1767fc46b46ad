//! `sailvol reload`.

use std::path::PathBuf;

use super::commit::overwritten_text;
use super::context::Context;
use super::progress::ProgressView;
use super::table::count;
use crate::config::{format_bytes, parse_duration};
use crate::control::Request;
use crate::mount::{Failure, LocalChanges, ReloadAnswer, ReloadRequest};

/// Move the mount to the newest record of the volume
///
/// Everything changes in one step; open files keep the content they opened. Local changes that were not committed
/// leave the view: they go to a stash (`sailvol stash`), unless you keep them.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// A directory in the mount (default: the current one, or the only mount)
    dir: Option<PathBuf>,
    /// Put local changes on top of the new record
    #[arg(long, conflicts_with = "if_clean")]
    keep: bool,
    /// Refuse when there are local changes
    #[arg(long)]
    if_clean: bool,
    /// Go to this record instead of the newest
    #[arg(long, value_name = "N")]
    to: Option<u64>,
    /// Fail at once when a commit or reload of this mount is running
    #[arg(long)]
    no_wait: bool,
    /// Give up after this long without an answer from the store
    #[arg(long, value_name = "TIME", default_value = "30s", value_parser = parse_duration)]
    timeout: std::time::Duration,
}

/// Runs the command.
pub async fn run(args: Args, context: &Context) -> Result<(), Failure> {
    let (_, mut client) = context.connect(args.dir.as_deref()).await?;
    let local = match (args.keep, args.if_clean) {
        (true, _) => LocalChanges::Keep,
        (_, true) => LocalChanges::IfClean,
        _ => LocalChanges::Stash,
    };
    let request = Request::Reload(ReloadRequest {
        local,
        to: args.to,
        no_wait: args.no_wait,
        timeout_secs: Some(args.timeout.as_secs()),
    });
    let view = ProgressView::new(context);
    let answer: ReloadAnswer = client.call(&request, |p| view.show(&p)).await?;
    drop(view);
    context.print(&answer, text)
}

fn text(answer: &ReloadAnswer) -> String {
    let mut out = if answer.from == answer.to {
        format!("at record {}: nothing new\n", answer.to)
    } else {
        format!(
            "reloaded from record {} to {} ({})\n",
            answer.from,
            answer.to,
            &answer.record.to_string()[..12]
        )
    };
    if let Some(stash) = &answer.stash {
        out.push_str(&format!(
            "  {} not committed ({}): moved to stash {}; `sailvol stash restore {}` brings them back\n",
            count(stash.changed, "local change"),
            format_bytes(stash.bytes),
            stash.id,
            stash.id
        ));
    }
    if !answer.kept.is_empty() {
        out.push_str("  kept as local changes:\n");
        for path in &answer.kept {
            out.push_str(&format!("    {path}\n"));
        }
    }
    out.push_str(&overwritten_text(&answer.overwrote));
    if !answer.dropped_stashes.is_empty() {
        let list: Vec<String> = answer.dropped_stashes.iter().map(u64::to_string).collect();
        out.push_str(&format!(
            "  old stashes deleted to stay within the bounds: {}\n",
            list.join(", ")
        ));
    }
    out
}
