//! `sailvol cat`.

use futures::stream::StreamExt;

use super::context::Context;
use super::remote::Remote;
use crate::config::VolumePath;
use crate::model::EntryBody;
use crate::mount::{Failure, FailureKind};

/// Print files of a volume without a mount
#[derive(Debug, clap::Args)]
pub struct Args {
    /// VOLUME:/path of each file
    #[arg(required = true)]
    paths: Vec<String>,
}

/// Runs the command.
pub async fn run(args: Args, context: &Context) -> Result<(), Failure> {
    for text in &args.paths {
        let place = VolumePath::parse(text, &context.environment)
            .map_err(|e| Failure::new(FailureKind::Usage, e.to_string()))?;
        let remote = Remote::open(&place.volume, context).await?;
        let entry = remote.entry(&place.path).await?;
        let EntryBody::File { size, content } = &entry.body else {
            return Err(Failure::new(FailureKind::Usage, format!("{text} is not a file")));
        };
        let mut pieces = std::pin::pin!(remote.pieces(*size, content));
        while let Some(piece) = pieces.next().await {
            context.write(&piece?)?;
        }
    }
    Ok(())
}
