//! `sailvol diff`.

use std::path::PathBuf;

use clap_complete::engine::ArgValueCompleter;

use super::complete;
use super::context::Context;
use crate::answer::{ChangeKind, ChangedPath, DiffAnswer, Failure, RecordAt};
use crate::control::Request;

/// Most paths that are shown unless more are asked for.
pub const DEFAULT_LIMIT: usize = 10_000;

/// Show what a commit would publish, or what differs between two records
#[derive(Debug, clap::Args)]
pub struct Args {
    /// A file or directory in a mount: what changed there (default: all of the mount that you are in, or the only one)
    #[arg(add = ArgValueCompleter::new(complete::mounted_paths))]
    path: Option<PathBuf>,
    /// Compare from this record on instead of showing local changes; -1 is the one before the mount's
    #[arg(long, value_name = "N", allow_negative_numbers = true,
        add = ArgValueCompleter::new(complete::records))]
    from: Option<RecordAt>,
    /// Compare with this record (default: the one the mount stands on)
    #[arg(long, value_name = "N", requires = "from", allow_negative_numbers = true,
        add = ArgValueCompleter::new(complete::records))]
    to: Option<RecordAt>,
    /// Show at most this many paths
    #[arg(long, value_name = "N", default_value_t = DEFAULT_LIMIT)]
    limit: usize,
}

/// Runs the command.
pub async fn run(args: Args, context: &Context) -> Result<(), Failure> {
    let (record, mut client) = context.connect(args.path.as_deref()).await?;
    let request = |path| Request::Diff {
        limit: args.limit,
        from: args.from,
        to: args.to,
        path,
    };
    let asking = async {
        match &args.path {
            Some(path) => {
                let asked = (&record, &mut client);
                context
                    .ask_about(asked, path, |path| request(Some(path)), |_| {})
                    .await
            }
            None => {
                context.name_mount(&record);
                Ok(client.call(&request(None), |_| {}).await?)
            }
        }
    };
    let answer: DiffAnswer = context.within(asking).await?;
    context.print(&answer, text)
}

/// One line for each path: A added, M modified, a attributes only, D removed, R moved.
pub fn text(answer: &DiffAnswer) -> String {
    let mut out: String = answer.changes.iter().map(line).collect();
    if answer.truncated {
        out.push_str("... and more (--limit)\n");
    }
    out
}

pub fn line(change: &ChangedPath) -> String {
    let letter = match change.change {
        ChangeKind::Added => 'A',
        ChangeKind::Modified => 'M',
        ChangeKind::Attributes => 'a',
        ChangeKind::Removed => 'D',
        ChangeKind::Moved => 'R',
    };
    match &change.came_from {
        Some(from) => format!("{letter} {from} -> {}\n", change.path),
        None => format!("{letter} {}\n", change.path),
    }
}
