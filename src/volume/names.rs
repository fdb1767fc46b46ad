//! The names index: which volumes a store has.

use futures::stream::{StreamExt, TryStreamExt};
use std::sync::Arc;

use super::open::find_name;
use super::{Clock, Head, Volume, VolumeError};
use crate::format::{Key, NAMES_PREFIX, check_volume_name};
use crate::model::VolumeId;
use crate::store::{LIST_LIMIT_MAX, ObjectStore};

/// Volumes looked at at the same time.
const LOOKS_AT_ONCE: usize = 16;

/// One volume of a listing.
#[derive(Debug)]
pub struct VolumeListing {
    /// Its name in the index.
    pub name: String,
    /// Its identity; `None` when the entry of the index is damaged.
    pub id: Option<VolumeId>,
    /// Its newest record, or why that cannot be had (a volume that is damaged, half deleted, or of a later version).
    pub head: Result<Head, VolumeError>,
}

impl Volume {
    /// Names of all volumes, sorted. Costs a LIST for 1,000 names.
    ///
    /// # Errors
    /// What the store says.
    pub async fn names(store: &Arc<dyn ObjectStore>) -> Result<Vec<String>, VolumeError> {
        all_names(&**store).await
    }

    /// All volumes that have a name, by name. Costs a LIST for 1,000 names and three requests for each volume.
    ///
    /// # Errors
    /// What the store says of the index itself.
    pub async fn list(
        store: &Arc<dyn ObjectStore>,
        clock: &Clock,
    ) -> Result<Vec<VolumeListing>, VolumeError> {
        let names = all_names(&**store).await?;
        let looks = names.into_iter().map(|name| async move {
            let entry = match find_name(&**store, &name).await {
                Ok(Some(entry)) => entry,
                Ok(None) => return Ok(None),
                // One that cannot be read hides no other.
                Err(damage @ VolumeError::Damaged { .. }) => {
                    return Ok(Some(VolumeListing {
                        name,
                        id: None,
                        head: Err(damage),
                    }));
                }
                Err(error) => return Err(error),
            };
            let volume = Volume::handle(store.clone(), clock.clone(), entry.volume, name.clone());
            Ok::<_, VolumeError>(Some(VolumeListing {
                head: volume.head().await,
                name,
                id: Some(entry.volume),
            }))
        });
        let found: Vec<_> = futures::stream::iter(looks)
            .buffered(LOOKS_AT_ONCE)
            .try_collect()
            .await?;
        Ok(found.into_iter().flatten().collect())
    }
}

/// Names of all volumes, sorted.
async fn all_names(store: &dyn ObjectStore) -> Result<Vec<String>, VolumeError> {
    let mut names = Vec::new();
    let mut after: Option<String> = None;
    loop {
        let page = store.list(NAMES_PREFIX, after.as_deref(), LIST_LIMIT_MAX).await?;
        names.extend(
            page.objects
                .iter()
                .filter_map(|object| match Key::parse(&object.key) {
                    Some(Key::Name(name)) => Some(name),
                    _ => None,
                }),
        );
        match page.objects.last() {
            Some(last) if page.truncated => after = Some(last.key.clone()),
            _ => return Ok(names),
        }
    }
}

/// The name that is spelt most like `wanted`; none when the index cannot be read.
pub(super) async fn suggest(store: &dyn ObjectStore, wanted: &str) -> Option<String> {
    let names = all_names(store).await.ok()?;
    nearest_name(wanted, &names).map(str::to_owned)
}

/// The name with the fewest letters to change, if that is at most a third of them (and not fewer than one).
pub fn nearest_name<'a>(wanted: &str, names: &'a [String]) -> Option<&'a str> {
    let most = (wanted.chars().count() / 3).max(1);
    names
        .iter()
        .map(|name| (edits(wanted, name), name.as_str()))
        .filter(|(edits, _)| *edits <= most)
        .min()
        .map(|(_, name)| name)
}

/// Letters to insert, delete or replace to make `b` of `a`, whatever their case.
fn edits(a: &str, b: &str) -> usize {
    let a: Vec<char> = a.to_lowercase().chars().collect();
    let mut row: Vec<usize> = (0..=a.len()).collect();
    for (i, y) in b.to_lowercase().chars().enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], i + 1);
        for (j, x) in a.iter().enumerate() {
            let replace = diagonal + usize::from(*x != y);
            diagonal = row[j + 1];
            row[j + 1] = replace.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[a.len()]
}

/// The text can name a volume.
pub(super) fn check_name(name: &str) -> Result<(), VolumeError> {
    check_volume_name(name).map_err(|rule| VolumeError::BadName {
        name: name.to_owned(),
        rule,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_name_is_near() {
        let names: Vec<String> = ["datasets", "data", "models", "x"].map(String::from).into();
        assert_eq!(nearest_name("datasests", &names), Some("datasets"));
        assert_eq!(nearest_name("Models", &names), Some("models"));
        assert_eq!(nearest_name("dta", &names), Some("data"));
        assert_eq!(nearest_name("checkpoints", &names), None);
        assert_eq!(nearest_name("y", &names), Some("x"));
        assert_eq!(nearest_name("", &[]), None);
    }
}
