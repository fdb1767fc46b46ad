//! `sailvol get`.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Instant;

use clap_complete::engine::ArgValueCompleter;
use futures::stream::StreamExt;
use serde::Serialize;
use tokio::signal::unix::SignalKind;

use super::complete;
use super::context::Context;
use super::table::count;
use crate::answer::{Failure, FailureKind};
use crate::config::format_bytes;
use crate::files::{Session, export};
use crate::model::{Entry, VolPath, show};

/// Copy files and directories of a volume to this machine without a mount
///
/// A directory comes with all that is in it. A local directory is copied into; a missing one is made when the target
/// ends in a slash. Modes, times, links, holes and user attributes are kept, owners only as root.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// VOLUME:/path
    #[arg(value_name = "VOLUME:/PATH", add = ArgValueCompleter::new(complete::volume_paths))]
    source: OsString,
    /// Where to, or - for standard output
    #[arg(default_value = ".")]
    local: PathBuf,
    /// Replace files that are there already (never directories, devices, fifos and sockets)
    #[arg(short, long)]
    force: bool,
}

/// What was brought.
#[derive(Debug, Serialize)]
struct Answer {
    to: String,
    files: u64,
    dirs: u64,
    bytes: u64,
    seconds: f64,
    /// What this machine did not take.
    not_kept: Vec<String>,
}

/// Runs the command.
pub async fn run(args: Args, context: &Context) -> Result<(), Failure> {
    let place = context.volume_path("get", &args.source)?;
    context.refuse_volume_path("get", "a place on this machine", args.local.as_os_str())?;
    let session = Session::open(&place.volume, context.caller()).await?;
    let path = session.path(&place.path).await?;
    // A hard link stays one: its other names may be among what is copied.
    let entry = session.find(&path).await?.ok_or_else(|| session.missing(&path))?;
    if args.local.as_os_str() == "-" {
        return to_stdout(&session, &path, entry, context).await;
    }
    let started = Instant::now();
    let ended = told_to_end()?;
    let done = tokio::select! {
        done = export(&session, &path, entry, &args.local, args.force) => done?,
        () = ended => {
            return Err(Failure::new(FailureKind::Failed, "interrupted: files that are there are complete"));
        }
    };
    let not_kept = done.not_kept.iter();
    let answer = Answer {
        to: show(done.to.as_os_str().as_encoded_bytes()),
        files: done.files,
        dirs: done.dirs,
        bytes: done.bytes,
        seconds: started.elapsed().as_secs_f64(),
        not_kept: not_kept
            .map(|(what, times)| format!("{what} ({})", count(*times, "time")))
            .collect(),
    };
    for what in &answer.not_kept {
        context.note(format!("not kept here: {what}"));
    }
    context.print(&answer, |a| {
        let files = count(a.files, "file");
        format!(
            "{files}, {} in {:.1} s: {}\n",
            format_bytes(a.bytes),
            a.seconds,
            a.to
        )
    })
}

/// Ends when this process is told to end: what it has under way is taken back then.
fn told_to_end() -> Result<impl Future<Output = ()>, Failure> {
    let signal = |kind| {
        tokio::signal::unix::signal(kind)
            .map_err(|e| Failure::new(FailureKind::Failed, format!("cannot watch for signals: {e}")))
    };
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut hangup = signal(SignalKind::hangup())?;
    Ok(async move {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
            _ = hangup.recv() => {}
        }
    })
}

async fn to_stdout(
    session: &Session,
    path: &VolPath,
    entry: Entry,
    context: &Context,
) -> Result<(), Failure> {
    let inode = session.inode(entry).await?;
    let pieces = session.read(path, &inode, 0..u64::MAX);
    let pieces = pieces.map_err(|failure| failure.hint("only a file goes to standard output"))?;
    let mut pieces = std::pin::pin!(pieces);
    while let Some(piece) = pieces.next().await {
        context.write(&piece?)?;
    }
    Ok(())
}
