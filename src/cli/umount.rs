//! `sailvol umount`.

use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::time::Duration;

use clap_complete::engine::ArgValueCompleter;
use tokio::io::unix::AsyncFd;

use super::complete;
use super::context::Context;
use super::table::count;
use crate::answer::{Failure, FailureKind};
use crate::config::parse_timeout;
use crate::control::{Client, Request, UnmountAnswer, UnmountRequest, resolved_path};
use crate::fuse;

/// Unmount a volume; uncommitted work is kept on this machine
///
/// What was not committed stays in the state directory and is there again at the next mount of the same volume under
/// the same name; the answer says how much that is.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The mount's directory
    #[arg(add = ArgValueCompleter::new(complete::mounts))]
    dir: Option<PathBuf>,
    /// Commit first; when that fails the mount stays
    #[arg(long)]
    commit: bool,
    /// Message of that commit
    #[arg(short, long, value_name = "TEXT", requires = "commit", default_value = "")]
    message: String,
    /// Unmount although it is in use, and clear a mount whose daemon is gone or does not answer
    #[arg(short, long)]
    force: bool,
    /// Give up waiting for the daemon after this long (then the mount point is cleared if --force is given)
    #[arg(long, value_name = "TIME", default_value = "30s", value_parser = parse_timeout)]
    timeout: Duration,
}

/// Time beyond the commit's for the daemon to unmount; what comes then, clearing included, ends within two seconds of
/// the time that the user gives.
const UNMOUNT_TIME: Duration = Duration::from_millis(1500);

/// Time for the daemon to end after it has unmounted.
const END_TIME: Duration = Duration::from_secs(2);

/// Runs the command.
pub async fn run(args: Args, context: &Context) -> Result<(), Failure> {
    let record = match (context.find_mount(args.dir.as_deref()), &args.dir) {
        (Ok(record), _) => record,
        // No daemon is known: a mount point that a dead one left can still be cleared.
        (Err(failure), Some(dir)) => return clear_orphan(dir, args.force, context, failure),
        (Err(failure), None) => return Err(failure),
    };
    let asked = tokio::time::timeout(args.timeout + UNMOUNT_TIME, ask(&args, &record.socket, context)).await;
    let failure = match asked {
        Ok(Ok((answer, daemon))) => {
            // It answers when the mount is gone, and holds cache and state a moment longer: who mounts again right after
            // this would find them in use.
            if let Some(daemon) = daemon {
                let _ended = tokio::time::timeout(END_TIME, daemon.readable()).await;
            }
            return context.print(&answer, text);
        }
        Ok(Err(failure)) if failure.kind == FailureKind::Failed && !fuse::is_sailvol_mount(&record.dir) => {
            // What was asked for is done, commit included: when that fails the mount stays.
            context.note(format!("sailvol: {}; the mount is gone", failure.message));
            return context.print(&UnmountAnswer::default(), text);
        }
        Ok(Err(failure)) => failure,
        Err(_) => Failure::new(FailureKind::Failed, "the mount's daemon does not answer")
            .hint("--force clears the mount point; uncommitted work stays in the state directory"),
    };
    let refused = matches!(
        failure.kind,
        FailureKind::Refused | FailureKind::NoAccess | FailureKind::Usage
    );
    if !args.force || refused {
        return Err(failure);
    }
    context.note(format!("sailvol: {}; clearing the mount point", failure.message));
    force(&record.dir)?;
    context.print(&UnmountAnswer::default(), |_| {
        format!("cleared {}\n", record.dir.display())
    })
}

/// The daemon's answer, and what tells its end.
async fn ask(
    args: &Args,
    socket: &std::path::Path,
    context: &Context,
) -> Result<(UnmountAnswer, Option<AsyncFd<OwnedFd>>), Failure> {
    let mut client = Client::connect(socket).await?;
    let request = Request::Unmount(UnmountRequest {
        commit: args.commit,
        message: args.message.clone(),
        force: args.force,
        timeout_secs: Some(args.timeout.as_secs()),
    });
    let view = context.progress_view();
    let daemon = client.daemon();
    let answer = client.call(&request, |p| view.show(&p)).await?;
    Ok((answer, daemon))
}

fn clear_orphan(
    dir: &std::path::Path,
    force_it: bool,
    context: &Context,
    failure: Failure,
) -> Result<(), Failure> {
    let absolute = resolved_path(dir, fuse::is_sailvol_mount);
    if !fuse::is_sailvol_mount(&absolute) {
        return Err(failure);
    }
    if force_it {
        force(&absolute)?;
    } else {
        fuse::clear_stale(&absolute).map_err(|e| Failure::new(FailureKind::Failed, e.to_string()))?;
        if fuse::is_sailvol_mount(&absolute) {
            return Err(Failure::new(
                FailureKind::Failed,
                format!(
                    "{} is mounted, but its daemon's socket cannot be found",
                    absolute.display()
                ),
            )
            .hint("name the daemon's --runtime-dir, or use --force"));
        }
    }
    context.print(&UnmountAnswer::default(), |_| {
        format!(
            "cleared {}, whose daemon was gone; uncommitted work is in its state directory\n",
            absolute.display()
        )
    })
}

/// Ends waiting requests by aborting the connection, then detaches the mount.
fn force(dir: &std::path::Path) -> Result<(), Failure> {
    match fuse::unmount(dir, fuse::Unmount::Forced) {
        // Its daemon was slow, not stuck, and has unmounted meanwhile.
        Ok(()) | Err(fuse::MountPointError::NotOurs(_)) => Ok(()),
        Err(error) => Err(Failure::new(FailureKind::Failed, error.to_string())),
    }
}

fn text(answer: &UnmountAnswer) -> String {
    let mut out = String::new();
    if let Some(seq) = answer.committed {
        out.push_str(&format!("committed record {seq}\n"));
    }
    let dir = if answer.dir.is_empty() {
        String::new()
    } else {
        format!(" {}", answer.dir)
    };
    out.push_str(&format!("unmounted{dir}\n"));
    if answer.dirty > 0 {
        out.push_str(&format!(
            "  {} not committed: kept in {} for the next mount of this volume under the same name\n",
            count(answer.dirty, "change"),
            answer.state_dir
        ));
    }
    out
}
