//! `sailvol cp`.

use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt;

use clap_complete::engine::ArgValueCompleter;

use super::complete;
use super::context::Context;
use super::publish::PublishArgs;
use crate::answer::{Failure, FailureKind};
use crate::files::{CopyOptions, GivenTarget, Session, copy};

/// Copy files within a volume without a mount; no bytes are sent
///
/// A target that is a directory, or ends in a slash, is copied into.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// VOLUME:/path of each source
    #[arg(required = true, value_name = "VOLUME:/SOURCE", add = ArgValueCompleter::new(complete::volume_paths))]
    sources: Vec<OsString>,
    /// VOLUME:/path of the target
    #[arg(value_name = "VOLUME:/TARGET", add = ArgValueCompleter::new(complete::volume_paths))]
    target: OsString,
    /// Directories too, with all that is in them
    #[arg(short, long)]
    recursive: bool,
    /// Replace files that are there already
    #[arg(short, long)]
    force: bool,
    #[command(flatten)]
    publish: PublishArgs,
}

/// Runs the command.
pub async fn run(args: Args, context: &Context) -> Result<(), Failure> {
    let parse = |given: &OsString| context.volume_path("cp", given);
    let target = parse(&args.target)?;
    let sources = args.sources.iter().map(parse).collect::<Result<Vec<_>, _>>()?;
    if let Some(other) = sources.iter().find(|source| source.volume != target.volume) {
        let text = format!(
            "{} and {} are two volumes: cp copies within one",
            other.volume, target.volume
        );
        let hint = format!(
            "sailvol get {}:{} DIR && sailvol put DIR/... {}:{}",
            other.volume,
            other.path.meant(),
            target.volume,
            target.path.meant()
        );
        return Err(Failure::new(FailureKind::Usage, text).hint(hint));
    }
    let session = Session::open(&target.volume, context.caller()).await?;
    let into = GivenTarget {
        path: target.path,
        as_dir: args.target.as_bytes().ends_with(b"/"),
    };
    let sources: Vec<_> = sources.into_iter().map(|source| source.path).collect();
    let options = CopyOptions {
        recursive: args.recursive,
        force: args.force,
    };
    let answer = copy(&session, &sources, &into, options, &args.publish.words()).await?;
    context.print(&answer, super::commit::text)
}
