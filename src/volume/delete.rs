//! Deleting a volume: a last record that says so, then the objects.
//!
//! The record comes first, so that nobody publishes to or mounts what is going; it is the last object to go. Whoever
//! calls this has asked the user. An interrupted deletion goes on where it stopped when it is called again.

use super::open::find_name;
use super::{Head, NextRecord, PublishOutcome, RemoteSource, Volume, VolumeError};
use crate::format::{Key, RecordKind, txn_id, volume_prefix};
use crate::store::{LIST_LIMIT_MAX, StoreError};

/// Other commits may win the number of the last record this often.
const TRIES: usize = 32;

impl Volume {
    /// Deletes the volume and its name; gives the number of objects that were deleted.
    ///
    /// # Errors
    /// What the store says. Once the record is published the volume cannot be used any more, deleted whole or not.
    pub async fn delete(&self, name: &str, by: &str) -> Result<u64, VolumeError> {
        match self.head().await {
            Ok(head) => self.publish_end(head, by).await?,
            // Somebody began before us.
            Err(VolumeError::Deleted { .. }) => {}
            Err(error) => return Err(error),
        }
        let last = self.newest_key().await?;
        let mut deleted = 0;
        let mut after: Option<String> = None;
        loop {
            let page = self
                .store
                .list(&volume_prefix(&self.id), after.as_deref(), LIST_LIMIT_MAX)
                .await?;
            let keys: Vec<String> = page
                .objects
                .iter()
                .map(|object| object.key.clone())
                .filter(|key| Some(key) != last.as_ref())
                .collect();
            self.store.delete(&keys).await?;
            deleted += keys.len() as u64;
            match page.objects.last() {
                Some(object) if page.truncated => after = Some(object.key.clone()),
                _ => break,
            }
        }
        // The name stays until there is nothing left to find by it but the record that says "deleted".
        let named = find_name(&*self.store, name)
            .await?
            .is_some_and(|entry| entry.volume == self.id);
        let name = named.then(|| Key::Name(name.to_owned()).to_string());
        for key in name.into_iter().chain(last) {
            self.store.delete(&[key]).await?;
            deleted += 1;
        }
        Ok(deleted)
    }

    async fn newest_key(&self) -> Result<Option<String>, VolumeError> {
        let listed = self
            .store
            .list(&crate::format::log_prefix(&self.id), None, 1)
            .await?;
        Ok(listed.objects.into_iter().next().map(|object| object.key))
    }

    /// Publishes the record after which there is none.
    async fn publish_end(&self, mut head: Head, by: &str) -> Result<(), VolumeError> {
        let txn = txn_id(&super::create::random()?, by, &head.hash(), &head.hash());
        let src = RemoteSource::new(self.clone());
        for _ in 0..TRIES {
            let parent = head.record();
            let next = NextRecord {
                kind: RecordKind::Delete,
                txn,
                base: parent.seq,
                by: by.to_owned(),
                message: String::new(),
                root: parent.root.clone(),
                usage: parent.usage,
                gc: None,
                config: None,
                renames: Vec::new(),
            };
            let prepared = self.prepare(&head, next)?;
            match self.publish(&src, &prepared).await {
                // Confirming reads the head, which is ours by then.
                Ok(PublishOutcome::Published { .. }) | Err(VolumeError::Deleted { .. }) => return Ok(()),
                Ok(PublishOutcome::Lost) => head = self.head().await?,
                Ok(PublishOutcome::Unknown { reason }) => {
                    let key = Key::Record(self.id, head.seq() + 1).to_string();
                    return Err(StoreError::Unknown { key, reason }.into());
                }
                Err(error) => return Err(error),
            }
        }
        Err(VolumeError::Busy {
            object: self.id.to_string(),
        })
    }
}
