//! `sailvol reload`.

use std::path::PathBuf;

use super::commit::overwritten_text;
use clap_complete::engine::ArgValueCompleter;

use super::complete;
use super::context::Context;
use super::table::count;
use crate::answer::{Brought, Failure, LocalChanges, RecordAt, ReloadAnswer, ReloadRequest};
use crate::config::{format_bytes, parse_timeout};
use crate::control::Request;

/// Paths that are shown of those that a reload changed.
const PATHS_SHOWN: usize = 10;

/// Move the mount to the newest record of the volume
///
/// Everything changes in one step; open files keep the content they opened. Local changes that were not committed
/// leave the view: they go to a stash (`sailvol stash`), unless you keep them.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// A directory in the mount (default: the current one, or the only mount)
    #[arg(add = ArgValueCompleter::new(complete::mounts))]
    dir: Option<PathBuf>,
    /// Put local changes on top of the new record
    #[arg(long, conflicts_with = "if_clean")]
    keep: bool,
    /// Refuse when there are local changes
    #[arg(long)]
    if_clean: bool,
    /// Go to this record instead of the newest; -1 is the one before the mount's, -2 the one before that
    #[arg(long, value_name = "N", allow_negative_numbers = true,
        add = ArgValueCompleter::new(complete::records))]
    to: Option<RecordAt>,
    /// Fail at once when a commit or reload of this mount is running
    #[arg(long)]
    no_wait: bool,
    /// Give up after this long without an answer from the store
    #[arg(long, value_name = "TIME", default_value = "30s", value_parser = parse_timeout)]
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
    let view = context.progress_view();
    let answer: ReloadAnswer = client.call(&request, |p| view.show(&p)).await?;
    drop(view);
    context.print(&answer, text)
}

fn text(answer: &ReloadAnswer) -> String {
    let brought_some = !(answer.brought.records.is_empty() && answer.brought.changes.is_empty());
    let id = &answer.record.to_string()[..12];
    let mut out = match answer.from == answer.to {
        true if brought_some => format!("reloaded {} at record {} ({id})\n", answer.dir, answer.to),
        true => format!("{} at record {}: nothing new\n", answer.dir, answer.to),
        false => format!(
            "reloaded {} from record {} to {} ({id})\n",
            answer.dir, answer.from, answer.to
        ),
    };
    out.push_str(&brought_text(&answer.brought));
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
    out.push_str(&overwritten_text(&answer.overwrote, answer.overwrote_more));
    if !answer.dropped_stashes.is_empty() {
        let list: Vec<String> = answer.dropped_stashes.iter().map(u64::to_string).collect();
        out.push_str(&format!(
            "  old stashes deleted to stay within the bounds: {}\n",
            list.join(", ")
        ));
    }
    out
}

/// Records by others, and the first of the paths that look different now.
fn brought_text(brought: &Brought) -> String {
    let mut out = String::new();
    for record in &brought.records {
        let by = if record.by.is_empty() { "?" } else { &record.by };
        let title = record.message.lines().next().unwrap_or_default();
        let title = match title.is_empty() {
            true => String::new(),
            false => format!(": {title}"),
        };
        out.push_str(&format!("  brought record {} by {by}{title}\n", record.seq));
    }
    if brought.records_more > 0 {
        out.push_str(&format!(
            "  and {}\n",
            count(brought.records_more, "older record")
        ));
    }
    for change in brought.changes.iter().take(PATHS_SHOWN) {
        out.push_str(&format!("    {}", super::diff::line(change)));
    }
    let more = brought.changes.len().saturating_sub(PATHS_SHOWN);
    if brought.truncated {
        out.push_str("    ... and more (`sailvol diff --from` lists them)\n");
    } else if more > 0 {
        out.push_str(&format!("    ... and {}\n", count(more as u64, "more path")));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::answer::{ChangeKind, ChangedPath, LogEntry};

    #[test]
    fn what_a_reload_brought_is_named() {
        let record = LogEntry {
            seq: 11,
            record: crate::model::Hash([1; 32]),
            kind: "commit".into(),
            time: 0,
            by: "pod-b".into(),
            message: "labels\nin full".into(),
            files: 1,
            bytes: 1,
        };
        let change = ChangedPath {
            path: "/labels".into(),
            change: ChangeKind::Added,
            came_from: None,
            size: Some(1),
        };
        let mut answer = ReloadAnswer {
            from: 12,
            to: 12,
            dir: "/shared".into(),
            ..ReloadAnswer::default()
        };
        assert!(text(&answer).starts_with("/shared at record 12: nothing new\n"));
        answer.brought.records = vec![record];
        answer.brought.changes = vec![change; PATHS_SHOWN + 1];
        let text = text(&answer);
        for part in [
            "reloaded /shared at record 12",
            "brought record 11 by pod-b: labels\n",
            "    A /labels\n",
            "... and 1 more path\n",
        ] {
            assert!(text.contains(part), "{part} in\n{text}");
        }
    }
}
