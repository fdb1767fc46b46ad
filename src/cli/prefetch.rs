//! `sailvol prefetch`.

use std::path::PathBuf;

use clap_complete::engine::ArgValueCompleter;

use super::complete;
use super::context::Context;
use super::table::count;
use crate::answer::{Failure, PrefetchAnswer};
use crate::config::format_bytes;
use crate::control::Request;

/// Bring the bytes below a path of a mount into the cache
#[derive(Debug, clap::Args)]
pub struct Args {
    /// A file or directory in a mount
    #[arg(add = ArgValueCompleter::new(complete::mounted_paths))]
    path: PathBuf,
    /// Go on even if the cache cannot hold it all
    #[arg(long)]
    force: bool,
}

/// Runs the command.
pub async fn run(args: Args, context: &Context) -> Result<(), Failure> {
    let (record, mut client) = context.connect(Some(&args.path)).await?;
    let force = args.force;
    let request = |path| Request::Prefetch { path, force };
    let view = context.progress_view();
    let asked = (&record, &mut client);
    let answer: PrefetchAnswer = context
        .ask_about(asked, &args.path, request, |p| view.show(&p))
        .await?;
    drop(view);
    context.print(&answer, |a| {
        format!(
            "{} ({}) below {} are in the cache\n",
            count(a.files, "file"),
            format_bytes(a.bytes),
            args.path.display()
        )
    })
}
