//! `sailvol commit`.

use std::path::PathBuf;

use clap_complete::engine::ArgValueCompleter;

use super::complete;
use super::context::Context;
use super::table::count;
use crate::answer::{CommitAnswer, CommitRequest, Failure, OverwrittenPath};
use crate::config::{format_bytes, parse_timeout};
use crate::control::Request;

/// Publish local changes as one new record of the volume
///
/// All files, names and attributes that changed since the last commit appear for others in one step, or not at all.
/// When others have committed meanwhile, both sides are merged; on the same path yours wins, and the answer lists it.
/// An interrupted commit is taken up by the next one without sending again what arrived.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// A directory in the mount (default: the current one, or the only mount)
    #[arg(add = ArgValueCompleter::new(complete::mounts))]
    dir: Option<PathBuf>,
    /// Text for the log
    #[arg(short, long, value_name = "TEXT", default_value = "")]
    message: String,
    /// Say what would be published, publish nothing
    #[arg(long)]
    dry_run: bool,
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
    let request = Request::Commit(CommitRequest {
        message: args.message,
        dry_run: args.dry_run,
        no_wait: args.no_wait,
        timeout_secs: Some(args.timeout.as_secs()),
    });
    let view = context.progress_view();
    let answer: CommitAnswer = client.call(&request, |p| view.show(&p)).await?;
    drop(view);
    context.print(&answer, text)
}

/// A commit for people.
pub fn text(answer: &CommitAnswer) -> String {
    let of = |word: &str| match answer.dir.is_empty() {
        true => String::new(),
        false => format!(" {word} {}", answer.dir),
    };
    let mut out = match (answer.seq, answer.record) {
        (Some(seq), Some(record)) => {
            format!(
                "committed record {seq} ({}){}\n",
                &record.to_string()[..12],
                of("of")
            )
        }
        _ if answer.dry_run => format!("would commit{}\n", of("of")),
        _ => return format!("nothing to commit{}\n", of("in")),
    };
    if let Some(settled) = answer.settled {
        if answer.seq == Some(settled) {
            out.push_str("  finished an interrupted commit; nothing else to commit\n");
            return out;
        }
        out.push_str(&format!(
            "  first finished an interrupted commit: record {settled}\n"
        ));
    }
    out.push_str(&format!(
        "  {}, {} changed ({})",
        count(answer.changed, "change"),
        count(answer.files, "file"),
        format_bytes(answer.bytes_changed)
    ));
    if !answer.dry_run {
        out.push_str(&format!(
            ", {} sent in {:.1} s",
            format_bytes(answer.bytes_sent),
            answer.seconds
        ));
    }
    out.push('\n');
    if !answer.merged_with.is_empty() {
        let list: Vec<String> = answer.merged_with.iter().map(u64::to_string).collect();
        out.push_str(&format!(
            "  merged with {} by others: {} (published, not shown here yet: `sailvol reload`)\n",
            count(answer.merged_with.len() as u64, "record"),
            list.join(", ")
        ));
    }
    out.push_str(&overwritten_text(&answer.overwrote, answer.overwrote_more));
    if !answer.still_written.is_empty() {
        out.push_str("  still being written (the next commit brings the rest):\n");
        for path in &answer.still_written {
            out.push_str(&format!("    {path}\n"));
        }
    }
    out
}

/// The paths where local changes were put over unseen ones.
pub fn overwritten_text(overwrote: &[OverwrittenPath], more: u64) -> String {
    let mut out = String::new();
    if !overwrote.is_empty() {
        out.push_str(
            "  overwrote changes by others that this mount had not seen (they stay in the history):\n",
        );
    }
    for item in overwrote {
        let moved = item
            .came_from
            .as_ref()
            .map(|from| format!(" (was {from})"))
            .unwrap_or_default();
        out.push_str(&format!("    {}{moved}: {}\n", item.path, item.register));
    }
    if more > 0 {
        out.push_str(&format!("    ... and {}\n", count(more, "more path")));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Hash;

    #[test]
    fn the_answer_names_record_merge_overwrites_and_open_files() {
        let answer = CommitAnswer {
            seq: Some(7),
            record: Some(Hash([0xab; 32])),
            changed: 3,
            files: 1,
            bytes_changed: 2048,
            merged_with: vec![5, 6],
            overwrote: vec![OverwrittenPath {
                path: "/a".into(),
                came_from: None,
                register: "content".into(),
            }],
            still_written: vec!["/log".into()],
            ..CommitAnswer::default()
        };
        let text = text(&answer);
        for part in [
            "record 7 (abababababab)",
            "3 changes, 1 file changed (2.0 KiB)",
            "5, 6",
            "/a: content",
            "/log",
        ] {
            assert!(text.contains(part), "{part} in {text}");
        }
        assert_eq!(super::text(&CommitAnswer::default()), "nothing to commit\n");
        let interrupted = CommitAnswer {
            settled: Some(6),
            ..answer
        };
        assert!(super::text(&interrupted).contains("first finished an interrupted commit: record 6"));
        let alone = CommitAnswer {
            seq: Some(6),
            ..interrupted
        };
        assert!(super::text(&alone).ends_with("nothing else to commit\n"));
    }
}
