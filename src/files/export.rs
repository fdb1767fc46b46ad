//! From a volume to this machine.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use super::Session;
use super::extract::{Done, Extractor};
use super::local::{local_failure, volume_name};
use super::room::{Size, check_inodes, check_room};
use crate::answer::{Failure, FailureKind, PROGRESS_EVERY, Progress};
use crate::model::{Entry, Name, VolPath};

/// What was brought.
#[derive(Clone, Debug, Default)]
pub struct Exported {
    /// Where it is.
    pub to: PathBuf,
    /// Everything but directories.
    pub files: u64,
    /// Directories.
    pub dirs: u64,
    /// Logical bytes of files.
    pub bytes: u64,
    /// Things that this machine does not take, and how often.
    pub not_kept: Vec<(&'static str, u64)>,
}

/// Copies what is at a path of a volume to this machine: into `local` if that is a directory, or as `local`. Dropped in the
/// middle, it leaves complete files only.
///
/// # Errors
/// Something is in the way, there is no room (then nothing was written); what the store or the local disk says.
pub async fn export(
    session: &Session,
    path: &VolPath,
    entry: Entry,
    local: &Path,
    force: bool,
) -> Result<Exported, Failure> {
    let (dir, name) = target(local, path.0.last())?;
    check_inodes(&dir, &entry)?;
    let size = Size::of(session, path, &entry).await?;
    check_room(session, path, &dir, &entry, size).await?;
    let done = Arc::new(Done::default());
    let show = (session.caller.progress)();
    {
        let extractor = Extractor::new(session, force, done.clone());
        let mut work = std::pin::pin!(extractor.extract(&dir, name.clone(), path, entry));
        let mut ticks = tokio::time::interval(PROGRESS_EVERY);
        loop {
            tokio::select! {
                result = &mut work => break result?,
                _ = ticks.tick() => show(Progress {
                    stage: "fetching".into(),
                    done_files: done.files.load(Relaxed),
                    total_files: size.files,
                    done_bytes: done.bytes.load(Relaxed),
                    total_bytes: size.bytes,
                    sent_bytes: 0,
                }),
            }
        }
    }
    let to = name.map_or(dir.clone(), |name| dir.join(OsStr::from_bytes(name.as_bytes())));
    let not_kept = done
        .not_kept
        .lock()
        .iter()
        .map(|(what, times)| (*what, *times))
        .collect();
    Ok(Exported {
        to,
        files: done.files.load(Relaxed),
        dirs: done.dirs.load(Relaxed),
        bytes: done.bytes.load(Relaxed),
        not_kept,
    })
}

/// The local directory, and the name in it; no name when a volume's root goes into a directory.
fn target(local: &Path, name: Option<&Name>) -> Result<(PathBuf, Option<Name>), Failure> {
    let slash = local.as_os_str().as_bytes().ends_with(b"/");
    match std::fs::metadata(local) {
        Ok(metadata) if metadata.is_dir() => return Ok((local.to_owned(), name.cloned())),
        Ok(_) if slash => {
            let text = format!("{}: is not a directory", local.display());
            return Err(Failure::new(FailureKind::Refused, text));
        }
        Ok(_) => {}
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            if slash {
                std::fs::create_dir(local).map_err(|e| local_failure(local, &e))?;
                return Ok((local.to_owned(), name.cloned()));
            }
        }
        Err(error) => return Err(local_failure(local, &error)),
    }
    let own = local
        .file_name()
        .ok_or_else(|| Failure::new(FailureKind::Usage, format!("{} names no file", local.display())))?;
    let above = match local.parent() {
        Some(above) if !above.as_os_str().is_empty() => above.to_owned(),
        _ => PathBuf::from("."),
    };
    if !above.is_dir() {
        return Err(Failure::new(
            FailureKind::NotFound,
            format!("{}: no such directory", above.display()),
        )
        .hint(format!("mkdir -p {}", above.display())));
    }
    Ok((above, Some(volume_name(own, local)?)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_are_those_of_cp() {
        let dir = tempfile::tempdir().unwrap();
        let name = Name::new(b"n").unwrap();
        let shown = |local: PathBuf, name: Option<&Name>| {
            let (at, name) = target(&local, name).unwrap();
            (at, name.map(|n| n.to_string()))
        };
        let at = |name: &str| dir.path().join(name);
        assert_eq!(shown(at(""), Some(&name)), (at(""), Some("n".into())));
        assert_eq!(shown(at(""), None), (at(""), None));
        assert_eq!(
            shown(at("new"), Some(&name)),
            (dir.path().to_path_buf(), Some("new".into()))
        );
        assert_eq!(shown(at("made/"), Some(&name)), (at("made/"), Some("n".into())));
        assert!(at("made").is_dir());
        assert_eq!(
            target(&at("x/y"), Some(&name)).unwrap_err().kind,
            FailureKind::NotFound
        );
        std::fs::write(at("file"), b"").unwrap();
        assert_eq!(
            target(&at("file/"), Some(&name)).unwrap_err().kind,
            FailureKind::Failed
        );
    }
}
