//! Copying within a volume: no bytes are sent.

use super::gather::in_the_way;
use super::local::random;
use super::{GivenTarget, Session, Target, Words, publish};
use crate::answer::{CommitAnswer, Failure, FailureKind};
use crate::commit::{Edit, LocalFiles};
use crate::model::{FileIds, GivenPath};

/// How it is copied.
#[derive(Clone, Copy, Debug, Default)]
pub struct CopyOptions {
    /// Directories too, with all that is in them.
    pub recursive: bool,
    /// Files that are there are replaced.
    pub force: bool,
}

/// Copies sources to a target, all in one record.
///
/// # Errors
/// A source is not there, or a directory and not to be copied; something is in the way; as [`publish`].
pub async fn copy(
    session: &Session,
    sources: &[GivenPath],
    target: &GivenTarget,
    options: CopyOptions,
    words: &Words,
) -> Result<CommitAnswer, Failure> {
    let place = Target::look(session, target, sources.len()).await?;
    let now = session.volume.clock().now();
    let ids = FileIds::new(u64::from_le_bytes(random()?));
    let mut edits = Vec::new();
    if place.make {
        let mut attrs = session.root().attrs.clone();
        attrs.file_id = ids.draw();
        (attrs.mtime, attrs.ctime) = (now, now);
        edits.push(Edit::Mkdir {
            path: place.path.clone(),
            attrs: attrs.clone(),
            parents: Some(attrs),
        });
    }
    for source in sources {
        let from = session.path(source).await?;
        let entry = session.entry(&from).await?;
        if entry.is_dir() && !options.recursive {
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
        let to = place.path_of(Some(name));
        if to.is_under(&from) {
            return Err(Failure::new(
                FailureKind::Refused,
                format!("{from} cannot be copied to {to}, which is in it"),
            ));
        }
        match session.find(&to).await? {
            Some(there) if there.is_dir() => {
                return Err(
                    Failure::new(FailureKind::Exists, format!("{to}: is there as a directory"))
                        .hint("`sailvol rm -r` removes it"),
                );
            }
            Some(_) if !options.force => return Err(in_the_way(&to)),
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
            recursive: options.recursive,
            file_id,
            now,
        });
    }
    publish(session, edits, &LocalFiles::default(), words).await
}
