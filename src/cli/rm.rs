//! `sailvol rm`.

use std::ffi::OsString;

use clap_complete::engine::ArgValueCompleter;
use serde::Serialize;

use super::commit::overwritten_text;
use super::complete;
use super::context::Context;
use super::publish::{PublishArgs, publish};
use super::remote::Remote;
use super::table::count;
use crate::answer::{CommitAnswer, Failure, FailureKind};
use crate::commit::{Edit, LocalFiles};

/// Remove files of a volume without a mount
///
/// They stay in the history: older records keep them as long as the volume keeps those.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// VOLUME:/path of each, all of one volume
    #[arg(required = true, value_name = "VOLUME:/PATH", add = ArgValueCompleter::new(complete::volume_paths))]
    paths: Vec<OsString>,
    /// Directories too, with all that is in them
    #[arg(short, long)]
    recursive: bool,
    /// No error when a path is not there
    #[arg(short, long)]
    force: bool,
    #[command(flatten)]
    publish: PublishArgs,
}

/// Runs the command.
pub async fn run(args: Args, context: &Context) -> Result<(), Failure> {
    let usage = |text: String| Failure::new(FailureKind::Usage, text);
    let mut places = Vec::new();
    for given in &args.paths {
        places.push(context.volume_path("rm", given)?);
    }
    let volume = places[0].volume.clone();
    if let Some(other) = places.iter().find(|place| place.volume != volume) {
        return Err(usage(format!(
            "{} and {volume} are two volumes: one rm for each",
            other.volume
        )));
    }
    if places.iter().any(|place| place.path.meant().0.is_empty()) {
        return Err(Failure::new(
            FailureKind::Refused,
            format!("{}:/ is the whole volume; nothing was removed", volume.name),
        )
        .hint("name what is in it, or delete the volume: `sailvol volume delete`"));
    }
    let remote = Remote::open(&volume, context).await?;
    let mut paths = Vec::new();
    for place in &places {
        paths.push(remote.path(&place.path).await?);
    }
    // What lies below another path of the list goes with it.
    paths.sort();
    paths.dedup_by(|next, kept| next.is_under(kept));
    let now = remote.volume.clock().now();
    let mut edits = Vec::new();
    let mut removed = Removed::default();
    for path in paths {
        match remote.find(&path).await? {
            None if args.force => {}
            None => {
                return Err(remote.missing(&path).hint("nothing was removed"));
            }
            Some(entry) if entry.is_dir() && !args.recursive => {
                return Err(Failure::new(
                    FailureKind::Refused,
                    format!("{}:{path}: is a directory", volume.name),
                )
                .hint("-r removes it with all that is in it; nothing was removed"));
            }
            Some(entry) => {
                match entry.as_dir() {
                    Some((totals, _)) => {
                        removed.removed_files += totals.files;
                        removed.removed_dirs += totals.dirs + 1;
                    }
                    None => removed.removed_files += 1,
                }
                edits.push(Edit::Remove {
                    path,
                    recursive: args.recursive,
                    now,
                });
            }
        }
    }
    removed.commit = publish(&remote, edits, &LocalFiles::default(), &args.publish, context).await?;
    context.print(&removed, text)
}

/// What was removed, and the record.
#[derive(Debug, Default, Serialize)]
struct Removed {
    removed_files: u64,
    removed_dirs: u64,
    #[serde(flatten)]
    commit: CommitAnswer,
}

fn text(removed: &Removed) -> String {
    let Some(seq) = removed.commit.seq else {
        return "nothing to remove\n".to_owned();
    };
    let dirs = match removed.removed_dirs {
        0 => String::new(),
        1 => " and 1 directory".to_owned(),
        more => format!(" and {more} directories"),
    };
    let files = count(removed.removed_files, "file");
    let overwrote = overwritten_text(&removed.commit.overwrote, 0);
    format!("removed {files}{dirs}: record {seq}\n{overwrote}")
}
