//! `sailvol cp`.

use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt;

use clap_complete::engine::ArgValueCompleter;

use super::complete;
use super::context::Context;
use super::gather::{in_the_way, random};
use super::publish::{PublishArgs, publish};
use super::put::Target;
use super::remote::Remote;
use crate::answer::{Failure, FailureKind};
use crate::commit::{Edit, LocalFiles};
use crate::model::FileIds;

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
    let remote = Remote::open(&target.volume, context).await?;
    let into = remote.path(&target.path).await?;
    let slash = args.target.as_bytes().ends_with(b"/");
    let place = Target::look(&remote, &into, slash, sources.len()).await?;
    let now = remote.volume.clock().now();
    let ids = FileIds::new(u64::from_le_bytes(random()?));
    let mut edits = Vec::new();
    if place.make {
        let mut attrs = remote.root().attrs.clone();
        attrs.file_id = ids.draw();
        (attrs.mtime, attrs.ctime) = (now, now);
        edits.push(Edit::Mkdir {
            path: into.clone(),
            attrs: attrs.clone(),
            parents: Some(attrs),
        });
    }
    for source in sources {
        let from = remote.path(&source.path).await?;
        let entry = remote.entry(&from).await?;
        if entry.is_dir() && !args.recursive {
            return Err(
                Failure::new(FailureKind::Refused, format!("{from}: is a directory"))
                    .hint("-r copies it with all that is in it"),
            );
        }
        let Some(name) = from.0.last().cloned() else {
            return Err(Failure::new(
                FailureKind::Refused,
                "the whole volume cannot be copied into itself",
            ));
        };
        let to = place.path_of(Some(name), std::path::Path::new(""))?;
        if to.is_under(&from) {
            return Err(Failure::new(
                FailureKind::Refused,
                format!("{from} cannot be copied to {to}, which is in it"),
            ));
        }
        match remote.find(&to).await? {
            Some(there) if there.is_dir() => {
                return Err(
                    Failure::new(FailureKind::Exists, format!("{to}: is there as a directory"))
                        .hint("`sailvol rm -r` removes it"),
                );
            }
            Some(_) if !args.force => return Err(in_the_way(&to)),
            Some(_) if entry.is_dir() => {
                edits.push(Edit::Remove {
                    path: to.clone(),
                    recursive: false,
                    now,
                });
            }
            _ => {}
        }
        let file_id = ids.draw();
        edits.push(Edit::Copy {
            from,
            to,
            recursive: args.recursive,
            file_id,
            now,
        });
    }
    let answer = publish(&remote, edits, &LocalFiles::default(), &args.publish, context).await?;
    context.print(&answer, super::commit::text)
}
