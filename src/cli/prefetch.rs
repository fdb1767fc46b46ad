//! `sailvol prefetch`.

use std::path::PathBuf;

use super::context::Context;
use super::progress::ProgressView;
use super::table::count;
use crate::config::format_bytes;
use crate::control::Request;
use crate::mount::{Failure, FailureKind, PrefetchAnswer};

/// Bring the bytes below a path of a mount into the cache
#[derive(Debug, clap::Args)]
pub struct Args {
    /// A file or directory in a mount
    path: PathBuf,
    /// Go on even if the cache cannot hold it all
    #[arg(long)]
    force: bool,
}

/// Runs the command.
pub async fn run(args: Args, context: &Context) -> Result<(), Failure> {
    let absolute = std::path::absolute(&args.path)
        .map_err(|e| Failure::new(FailureKind::Usage, format!("{}: {e}", args.path.display())))?;
    let (record, mut client) = context.connect(Some(&absolute)).await?;
    let inside = absolute.strip_prefix(&record.dir).unwrap_or(&absolute);
    let path = inside.to_str().ok_or_else(|| {
        Failure::new(
            FailureKind::Usage,
            format!("{}: prefetch takes paths in UTF-8 only", inside.display()),
        )
        .hint("name its directory instead")
    })?;
    let request = Request::Prefetch {
        path: path.to_owned(),
        force: args.force,
    };
    let view = ProgressView::new(context);
    let answer: PrefetchAnswer = client.call(&request, |p| view.show(&p)).await?;
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
