//! `sailvol put`.

use std::ffi::OsString;
use std::io::{Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};

use clap_complete::engine::ArgValueCompleter;

use super::complete;
use super::context::Context;
use super::gather::{Gatherer, in_the_way, local_failure, volume_name};
use super::publish::{PublishArgs, publish};
use super::remote::Remote;
use crate::answer::{Failure, FailureKind};
use crate::commit::Edit;
use crate::config::VolumePath;
use crate::model::{Name, VolPath, show};

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
    let remote = Remote::open(&place.volume, context).await?;
    let into = remote.path(&place.path).await?;
    let mut gatherer = Gatherer::new(&remote, args.force)?;
    let target = Target::look(
        &remote,
        &into,
        args.target.as_bytes().ends_with(b"/"),
        args.sources.len(),
    )
    .await?;
    if target.make {
        gatherer.make_dir(&into);
    }
    // Lives until the bytes have been read.
    let mut spooled = None;
    for source in &args.sources {
        if source.as_os_str() == "-" {
            if args.sources.len() > 1 {
                return Err(Failure::new(
                    FailureKind::Usage,
                    "- goes alone: standard input becomes one file",
                ));
            }
            let path = target.path_of(None, source)?;
            if remote.find(&path).await?.is_some() && !args.force {
                return Err(in_the_way(&path));
            }
            check_open(std::io::stdin())?;
            spooled = Some(put_stdin(&mut gatherer, path)?);
            continue;
        }
        if !args.special {
            check_means_itself(source)?;
        }
        let path = target.path_of(source_name(source)?, source)?;
        gatherer.put(source, &path).await?;
    }
    for line in &gatherer.left_out {
        context.note(format!("left out {line}"));
    }
    let Gatherer { files, edits, .. } = gatherer;
    let answer = publish(&remote, edits, &files, &args.publish, context).await?;
    drop(spooled);
    context.print(&answer, super::commit::text)
}

/// Where things go.
#[derive(Debug)]
pub struct Target {
    path: VolPath,
    /// Things go into it under their own names.
    into: bool,
    /// It is to be a directory and is not there.
    pub make: bool,
}

impl Target {
    /// As `cp` decides it; but missing directories are made.
    ///
    /// # Errors
    /// Several things cannot go to one file.
    pub async fn look(
        remote: &Remote,
        path: &VolPath,
        slash: bool,
        sources: usize,
    ) -> Result<Target, Failure> {
        let there = remote.find(path).await?;
        let is_dir = there.as_ref().is_some_and(|entry| entry.is_dir());
        let wants_dir = slash || sources > 1;
        if wants_dir && there.is_some() && !is_dir {
            return Err(Failure::new(
                FailureKind::Refused,
                format!("{path}: is not a directory"),
            ));
        }
        Ok(Target {
            path: path.clone(),
            into: is_dir || wants_dir,
            make: wants_dir && there.is_none(),
        })
    }

    /// Where a source of that name goes; one without a name goes where the target itself is.
    ///
    /// # Errors
    /// Standard input into a directory.
    pub fn path_of(&self, name: Option<Name>, source: &Path) -> Result<VolPath, Failure> {
        match name {
            Some(name) if self.into => Ok(self.path.join(&name)),
            None if self.into && source.as_os_str() == "-" => Err(Failure::new(
                FailureKind::Usage,
                format!("{}: is a directory", self.path),
            )
            .hint("name the file that standard input is to become")),
            _ => Ok(self.path.clone()),
        }
    }
}

/// The name that a source keeps; `None` when its content is meant (`.`, `dir/.`, `/`).
fn source_name(source: &Path) -> Result<Option<Name>, Failure> {
    let bytes = source.as_os_str().as_bytes();
    let contents = bytes.ends_with(b"/.") || bytes == b".";
    match source.file_name() {
        Some(name) if !contents => volume_name(name, source).map(Some),
        _ => Ok(None),
    }
}

/// Whoever names a fifo, a device or a link to one (`/dev/stdin`, what a shell makes of `<(...)`) means the bytes that come
/// out of it, and those are not what would be stored. What lies in a directory is stored as what it is.
fn check_means_itself(source: &Path) -> Result<(), Failure> {
    // What is not there, or leads nowhere, is told elsewhere.
    let Ok(kind) = std::fs::metadata(source).map(|metadata| metadata.file_type()) else {
        return Ok(());
    };
    let what = match () {
        () if kind.is_fifo() => "a fifo",
        () if kind.is_char_device() || kind.is_block_device() => "a device",
        () => return Ok(()),
    };
    let text = format!("{}: is {what}; nothing was published", source.display());
    Err(Failure::new(FailureKind::Refused, text).hint(format!(
        "its bytes become a file with `sailvol put - VOLUME:/path < {}`; --special stores {what} as such",
        source.display()
    )))
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

/// Standard input as a file; it goes through a temporary one, because its length must be known.
fn put_stdin(gatherer: &mut Gatherer<'_>, path: VolPath) -> Result<Spool, Failure> {
    let spool = Spool::fill(std::io::stdin().lock())?;
    let metadata = std::fs::symlink_metadata(&spool.0).map_err(|e| local_failure(&spool.0, &e))?;
    let node = gatherer.files.add(spool.0.clone(), &metadata);
    let (attrs, parents) = (gatherer.made_here(0o644), gatherer.made_here(0o755));
    gatherer.edits.push(Edit::Put {
        path,
        node,
        attrs,
        parents: Some(parents),
    });
    Ok(spool)
}

/// A temporary file; removed when it is dropped.
struct Spool(PathBuf);

impl Spool {
    fn fill(mut input: impl Read) -> Result<Spool, Failure> {
        let number = u64::from_le_bytes(super::gather::random()?);
        let path = std::env::temp_dir().join(format!("sailvol-put-{number:016x}"));
        let failed = |e: std::io::Error| local_failure(&path, &e);
        let mut options = std::fs::File::options();
        std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
        let mut file = options.write(true).create_new(true).open(&path).map_err(failed)?;
        let spool = Spool(path.clone());
        std::io::copy(&mut input, &mut file).map_err(failed)?;
        file.flush().map_err(failed)?;
        Ok(spool)
    }
}

impl Drop for Spool {
    fn drop(&mut self) {
        // Left behind at worst, in the directory for temporary files.
        let _ = std::fs::remove_file(&self.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sources_keep_their_names_unless_their_content_is_meant() {
        for (source, name) in [
            ("a/b", Some("b")),
            ("a/b/", Some("b")),
            ("a/b/.", None),
            (".", None),
            ("..", None),
            ("/", None),
        ] {
            let found = source_name(Path::new(source)).unwrap().map(|n| n.to_string());
            assert_eq!(found.as_deref(), name, "{source}");
        }
    }

    #[test]
    fn names_are_added_to_directories_only() {
        let path = VolPath::parse(b"t").unwrap();
        let dir = Target {
            path: path.clone(),
            into: true,
            make: false,
        };
        let file = Target {
            path,
            into: false,
            make: false,
        };
        let name = || Some(Name::new(b"x").unwrap());
        assert_eq!(dir.path_of(name(), Path::new("x")).unwrap().to_string(), "/t/x");
        assert_eq!(file.path_of(name(), Path::new("x")).unwrap().to_string(), "/t");
        assert_eq!(dir.path_of(None, Path::new(".")).unwrap().to_string(), "/t");
        assert_eq!(
            dir.path_of(None, Path::new("-")).unwrap_err().kind,
            FailureKind::Usage
        );
    }

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

    #[test]
    fn what_bytes_come_out_of_is_refused_by_name() {
        let dir = tempfile::tempdir().unwrap();
        let (fifo, file) = (dir.path().join("fifo"), dir.path().join("file"));
        rustix::fs::mknodat(
            rustix::fs::CWD,
            &fifo,
            rustix::fs::FileType::Fifo,
            rustix::fs::Mode::RWXU,
            0,
        )
        .unwrap();
        std::fs::write(&file, b"x").unwrap();
        for refused in [fifo.as_path(), Path::new("/dev/null"), Path::new("/dev/zero")] {
            let error = check_means_itself(refused).unwrap_err();
            assert_eq!(error.kind, FailureKind::Refused, "{error}");
        }
        for taken in [file.as_path(), dir.path(), Path::new("/not/there")] {
            check_means_itself(taken).unwrap();
        }
    }

    #[test]
    fn a_spool_goes_with_its_owner() {
        let spool = Spool::fill(&b"bytes"[..]).unwrap();
        let path = spool.0.clone();
        assert_eq!(std::fs::read(&path).unwrap(), b"bytes");
        drop(spool);
        assert!(!path.exists());
    }
}
