//! From this machine into a volume: files, directories with all that is in them, and bytes that come as a stream.

use std::io::{Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};

use super::gather::{Gatherer, in_the_way};
use super::local::{local_failure, random, volume_name};
use super::{GivenTarget, Session, Target, Words, publish};
use crate::answer::{CommitAnswer, Failure, FailureKind};
use crate::commit::Edit;
use crate::model::{Name, VolPath};

/// What is brought into a volume.
pub enum Source {
    /// A file or directory of this machine.
    Path(PathBuf),
    /// Bytes that become one file.
    Bytes(Box<dyn Read + Send>),
}

/// How it is brought.
#[derive(Clone, Copy, Debug, Default)]
pub struct ImportOptions {
    /// Files that are there are replaced.
    pub force: bool,
    /// A fifo or device that is named as such is put as what it is, instead of being refused.
    pub special: bool,
}

/// Puts sources to a target, all in one record. A directory is merged with one that is there.
///
/// # Errors
/// Something is in the way, cannot be read, or is none that a volume can hold; as [`publish`]. Nothing was published then,
/// but for [`FailureKind::OutcomeUnknown`].
pub async fn import(
    session: &Session,
    sources: Vec<Source>,
    target: &GivenTarget,
    options: ImportOptions,
    words: &Words,
) -> Result<CommitAnswer, Failure> {
    let mut gatherer = Gatherer::new(session, options.force)?;
    let target = Target::look(session, target, sources.len()).await?;
    if target.make {
        gatherer.make_dir(&target.path);
    }
    // They live until their bytes have been read.
    let mut spooled = Vec::new();
    for source in sources {
        match source {
            Source::Bytes(bytes) => {
                let path = target.path_of_bytes()?;
                if session.find(&path).await?.is_some() && !options.force {
                    return Err(in_the_way(&path));
                }
                spooled.push(put_bytes(&mut gatherer, bytes, path)?);
            }
            Source::Path(source) => {
                if !options.special {
                    check_means_itself(&source)?;
                }
                let path = target.path_of(source_name(&source)?);
                gatherer.put(&source, &path).await?;
            }
        }
    }
    let Gatherer { files, edits, .. } = gatherer;
    let answer = publish(session, edits, &files, words).await;
    drop(spooled);
    answer
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

/// Bytes as a file; they go through a temporary one, because their length must be known.
fn put_bytes(gatherer: &mut Gatherer<'_>, bytes: impl Read, path: VolPath) -> Result<Spool, Failure> {
    let spool = Spool::fill(bytes)?;
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
        let number = u64::from_le_bytes(random()?);
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
