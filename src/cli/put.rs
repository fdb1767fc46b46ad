//! `sailvol put`.

use std::ffi::OsString;
use std::io::{Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use clap_complete::engine::ArgValueCompleter;

use super::complete;
use super::context::Context;
use super::gather::{Gatherer, in_the_way, local_failure, volume_name};
use super::publish::{PublishArgs, publish};
use super::remote::Remote;
use crate::commit::Edit;
use crate::config::VolumePath;
use crate::model::{Name, VolPath, show};
use crate::mount::{Failure, FailureKind};

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
            spooled = Some(put_stdin(&mut gatherer, path)?);
            continue;
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
    fn a_spool_goes_with_its_owner() {
        let spool = Spool::fill(&b"bytes"[..]).unwrap();
        let path = spool.0.clone();
        assert_eq!(std::fs::read(&path).unwrap(), b"bytes");
        drop(spool);
        assert!(!path.exists());
    }
}
