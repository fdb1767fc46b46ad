//! `sailvol rm`.

use std::ffi::OsString;

use clap_complete::engine::ArgValueCompleter;
use serde::Serialize;

use super::commit::overwritten_text;
use super::complete;
use super::context::Context;
use super::publish::PublishArgs;
use super::table::count;
use crate::answer::{CommitAnswer, Failure, FailureKind};
use crate::files::{Removal, RemoveOptions, Session};

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
    let options = RemoveOptions {
        recursive: args.recursive,
        force: args.force,
    };
    let paths = places.into_iter().map(|place| place.path).collect();
    let removal = Removal::new(&volume.name, paths, options)?;
    let session = Session::open(&volume, context.caller()).await?;
    let done = removal.run(&session, &args.publish.words()).await?;
    let removed = Removed {
        removed_files: done.files,
        removed_dirs: done.dirs,
        commit: done.commit,
    };
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
