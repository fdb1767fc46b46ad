//! `sailvol put`.

use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use clap_complete::engine::ArgValueCompleter;

use super::complete;
use super::context::Context;
use super::publish::PublishArgs;
use crate::answer::{Failure, FailureKind};
use crate::config::VolumePath;
use crate::files::{GivenTarget, ImportOptions, Session, Source, import};
use crate::model::show;

/// Numbers of `/dev/null` on Linux.
const NULL_DEVICE: (u32, u32) = (1, 3);

/// Copy local files and directories into a volume without a mount
///
/// Directories are copied with all that is in them; symbolic links stay links. A target that is a directory, or ends
/// in a slash, is copied into; `DIR/.` copies what is in DIR. All files appear for others in one step.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Local files and directories, or - for standard input
    #[arg(required = true, value_name = "LOCAL", add = ArgValueCompleter::new(complete::local_paths))]
    sources: Vec<PathBuf>,
    /// VOLUME:/path
    #[arg(value_name = "VOLUME:/PATH", add = ArgValueCompleter::new(complete::volume_paths))]
    target: OsString,
    /// Replace files that are there already
    #[arg(short, long)]
    force: bool,
    /// Put a fifo or a device that is named as such, instead of refusing it
    #[arg(long)]
    special: bool,
    #[command(flatten)]
    publish: PublishArgs,
}

/// Runs the command.
pub async fn run(args: Args, context: &Context) -> Result<(), Failure> {
    if !VolumePath::looks_like(&args.target) {
        let shown = show(args.target.as_bytes());
        let text = format!("{shown} does not name a place in a volume");
        let failure = Failure::new(FailureKind::Usage, text);
        let told = context.about_local("put", &args.target);
        return Err(failure.hint(told.unwrap_or_else(|| "the last argument is VOLUME:/path".to_owned())));
    }
    for source in &args.sources {
        context.refuse_volume_path("put", "a file or directory of this machine", source.as_os_str())?;
    }
    let place = context.volume_path("put", &args.target)?;
    let sources = sources(args.sources)?;
    let session = Session::open(&place.volume, context.caller()).await?;
    let target = GivenTarget {
        path: place.path,
        as_dir: args.target.as_bytes().ends_with(b"/"),
    };
    let options = ImportOptions {
        force: args.force,
        special: args.special,
    };
    let answer = import(&session, sources, &target, options, &args.publish.words()).await?;
    context.print(&answer, super::commit::text)
}

/// What is to be put; `-` is standard input.
fn sources(given: Vec<PathBuf>) -> Result<Vec<Source>, Failure> {
    if !given.iter().any(|source| source.as_os_str() == "-") {
        return Ok(given.into_iter().map(Source::Path).collect());
    }
    if given.len() > 1 {
        return Err(Failure::new(
            FailureKind::Usage,
            "- goes alone: standard input becomes one file",
        ));
    }
    check_open(std::io::stdin())?;
    Ok(vec![Source::Bytes(Box::new(std::io::stdin()))])
}

/// A standard input that is closed reads as an empty file: the runtime opens the null device in its place, for reading and
/// writing, as do programs that start others without an input. A redirection from it is for reading only, and meant.
fn check_open(input: impl std::os::fd::AsFd) -> Result<(), Failure> {
    let failed = |e: rustix::io::Errno| Failure::new(FailureKind::Failed, format!("standard input: {e}"));
    let stat = rustix::fs::fstat(&input).map_err(failed)?;
    let flags = rustix::fs::fcntl_getfl(&input).map_err(failed)?;
    let is_null = rustix::fs::FileType::from_raw_mode(stat.st_mode) == rustix::fs::FileType::CharacterDevice
        && (rustix::fs::major(stat.st_rdev), rustix::fs::minor(stat.st_rdev)) == NULL_DEVICE;
    if !is_null || !flags.contains(rustix::fs::OFlags::RDWR) {
        return Ok(());
    }
    let text = "standard input is closed; nothing was published";
    Err(Failure::new(FailureKind::Refused, text).hint("`< /dev/null` makes an empty file"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_closed_input_is_refused_and_an_empty_one_is_not() {
        let null = |write| {
            let mut options = std::fs::File::options();
            options.read(true).write(write).open("/dev/null").unwrap()
        };
        assert_eq!(check_open(null(true)).unwrap_err().kind, FailureKind::Refused);
        check_open(null(false)).unwrap();
        check_open(tempfile::tempfile().unwrap()).unwrap();
    }
}
