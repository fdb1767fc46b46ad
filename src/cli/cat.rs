//! `sailvol cat`.

use std::ffi::OsString;

use clap_complete::engine::ArgValueCompleter;
use futures::stream::StreamExt;

use super::complete;
use super::context::Context;
use crate::answer::Failure;
use crate::files::Session;

/// Print files of a volume without a mount
#[derive(Debug, clap::Args)]
pub struct Args {
    /// VOLUME:/path of each file
    #[arg(required = true, add = ArgValueCompleter::new(complete::volume_paths))]
    paths: Vec<OsString>,
}

/// Runs the command.
pub async fn run(args: Args, context: &Context) -> Result<(), Failure> {
    for given in &args.paths {
        let place = context.volume_path("cat", given)?;
        let session = Session::open(&place.volume, context.caller()).await?;
        let path = session.path(&place.path).await?;
        let entry = session.entry(&path).await?;
        let mut pieces = std::pin::pin!(session.read(&path, &entry, 0..u64::MAX)?);
        while let Some(piece) = pieces.next().await {
            context.write(&piece?)?;
        }
    }
    Ok(())
}
