//! `sailvol diff`.

use std::path::PathBuf;

use super::context::Context;
use crate::control::Request;
use crate::mount::{ChangeKind, ChangedPath, DiffAnswer, Failure};

/// Most paths that are shown unless more are asked for.
pub const DEFAULT_LIMIT: usize = 10_000;

/// Show what a commit would publish, or what differs between two records
#[derive(Debug, clap::Args)]
pub struct Args {
    /// A directory in the mount (default: the current one, or the only mount)
    dir: Option<PathBuf>,
    /// Compare from this record on instead of showing local changes
    #[arg(long, value_name = "N")]
    from: Option<u64>,
    /// Compare with this record (default: the one the mount stands on)
    #[arg(long, value_name = "N", requires = "from")]
    to: Option<u64>,
    /// Show at most this many paths
    #[arg(long, value_name = "N", default_value_t = DEFAULT_LIMIT)]
    limit: usize,
}

/// Runs the command.
pub async fn run(args: Args, context: &Context) -> Result<(), Failure> {
    let request = Request::Diff {
        limit: args.limit,
        from: args.from,
        to: args.to,
    };
    let answer: DiffAnswer = context.ask(args.dir.as_deref(), &request).await?;
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

fn line(change: &ChangedPath) -> String {
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
