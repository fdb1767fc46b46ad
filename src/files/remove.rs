//! Removing from a volume: older records keep what is removed.

use super::{Session, Words, publish};
use crate::answer::{CommitAnswer, Failure, FailureKind};
use crate::commit::{Edit, LocalFiles};
use crate::model::GivenPath;

/// What is to be removed, all of one volume.
#[derive(Clone, Debug)]
pub struct Removal {
    paths: Vec<GivenPath>,
    options: RemoveOptions,
}

/// How it is removed.
#[derive(Clone, Copy, Debug, Default)]
pub struct RemoveOptions {
    /// Directories too, with all that is in them.
    pub recursive: bool,
    /// A path that is not there is no error.
    pub force: bool,
}

/// What was removed, and the record.
#[derive(Clone, Debug, Default)]
pub struct Removed {
    /// Everything but directories.
    pub files: u64,
    /// Directories.
    pub dirs: u64,
    /// The record, if one was made.
    pub commit: CommitAnswer,
}

impl Removal {
    /// Looks at what can be seen without the volume, which is called `volume`.
    ///
    /// # Errors
    /// [`FailureKind::Refused`] for the root of a volume.
    pub fn new(volume: &str, paths: Vec<GivenPath>, options: RemoveOptions) -> Result<Removal, Failure> {
        if paths.iter().any(|path| path.meant().0.is_empty()) {
            let text = format!("{volume}:/ is the whole volume; nothing was removed");
            return Err(Failure::new(FailureKind::Refused, text)
                .hint("name what is in it, or delete the volume: `sailvol volume delete`"));
        }
        Ok(Removal { paths, options })
    }

    /// Removes it, all in one record.
    ///
    /// # Errors
    /// A path is not there, or a directory and not to be removed; as [`publish`].
    pub async fn run(&self, session: &Session, words: &Words) -> Result<Removed, Failure> {
        let options = self.options;
        let volume = session.volume.name();
        let mut paths = Vec::new();
        for given in &self.paths {
            paths.push(session.path(given).await?);
        }
        // What lies below another path of the list goes with it.
        paths.sort();
        paths.dedup_by(|next, kept| next.is_under(kept));
        let now = session.volume.clock().now();
        let mut edits = Vec::new();
        let mut removed = Removed::default();
        for path in paths {
            match session.find(&path).await? {
                None if options.force => {}
                None => {
                    return Err(session.missing(&path).hint("nothing was removed"));
                }
                Some(entry) if entry.is_dir() && !options.recursive => {
                    return Err(Failure::new(
                        FailureKind::Refused,
                        format!("{volume}:{path}: is a directory"),
                    )
                    .hint("-r removes it with all that is in it; nothing was removed"));
                }
                Some(entry) => {
                    match entry.as_dir() {
                        Some((totals, _)) => {
                            removed.files += totals.files;
                            removed.dirs += totals.dirs + 1;
                        }
                        None => removed.files += 1,
                    }
                    edits.push(Edit::Remove {
                        path,
                        recursive: options.recursive,
                        now,
                    });
                }
            }
        }
        removed.commit = publish(session, edits, &LocalFiles::default(), words).await?;
        Ok(removed)
    }
}
