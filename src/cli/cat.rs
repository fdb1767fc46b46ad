//! `sailvol cat`.

use std::ffi::OsString;

use clap_complete::engine::ArgValueCompleter;
use futures::stream::StreamExt;

use super::complete;
use super::context::Context;
use super::remote::Remote;
use crate::answer::{Failure, FailureKind};
use crate::model::EntryBody;

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
        let remote = Remote::open(&place.volume, context).await?;
        let path = remote.path(&place.path).await?;
        let entry = remote.entry(&path).await?;
        let EntryBody::File { size, content } = &entry.body else {
            let text = format!("{}:{path} is not a file", remote.volume.name());
            return Err(Failure::new(FailureKind::Usage, text));
        };
        let mut pieces = std::pin::pin!(remote.pieces(*size, content));
        while let Some(piece) = pieces.next().await {
            context.write(&piece?)?;
        }
    }
    Ok(())
}
