//! Deleting a volume: a last record that says so, then the objects.
//!
//! The record comes first, so that nobody publishes to or mounts what is going; of the volume's objects it is the last to
//! go, and the name goes after it: as long as anything is left, the volume is found by its name, and the deletion goes
//! on where it stopped when it is called again ([`Volume::find_to_delete`]). Whoever calls this has asked the user.

use std::sync::Arc;

use super::open::{find_name, read_name};
use super::{Clock, Head, NextRecord, Opened, PublishOutcome, RemoteSource, Volume, VolumeError, VolumeRef};
use crate::format::{Key, RecordKind, txn_id, volume_prefix};
use crate::store::{Fetched, LIST_LIMIT_MAX, ObjectStore, StoreError};

/// Other commits may win the number of the last record this often.
const TRIES: usize = 32;

/// A volume that can be deleted.
#[derive(Debug)]
pub enum ToDelete {
    /// Nobody has begun.
    Whole(Opened),
    /// A deletion was broken off: its last record says so, or there is none any more.
    Begun(Volume),
    /// Its newest record cannot be read: nothing can be published after it, so its deletion is announced by no record.
    Damaged(Volume, VolumeError),
}

impl Volume {
    /// Finds a volume that is to be deleted, also one of which a deletion was broken off.
    ///
    /// # Errors
    /// [`VolumeError::NotFound`] when nothing of it is left; what the store says.
    pub async fn find_to_delete(
        store: Arc<dyn ObjectStore>,
        clock: Clock,
        wanted: &VolumeRef,
    ) -> Result<ToDelete, VolumeError> {
        let id = match wanted {
            VolumeRef::Id(id) => Some(*id),
            VolumeRef::Name(name) => find_name(&*store, name).await?.map(|entry| entry.volume),
        };
        let Some(id) = id else {
            return Volume::open(store, clock, wanted).await.map(ToDelete::Whole);
        };
        let volume = Volume::handle(store, clock, id, wanted.to_string());
        match volume.head().await {
            Ok(head) => Ok(ToDelete::Whole(Opened { volume, head })),
            Err(VolumeError::Deleted { .. } | VolumeError::Purged { .. }) => Ok(ToDelete::Begun(volume)),
            Err(reason @ VolumeError::Damaged { .. }) => Ok(ToDelete::Damaged(volume, reason)),
            // The name comes last in a creation and in a deletion: without a record it is what is left of one.
            Err(VolumeError::NotFound { .. }) if matches!(wanted, VolumeRef::Name(_)) => {
                Ok(ToDelete::Begun(volume))
            }
            Err(VolumeError::NotFound { .. }) if volume.has_objects().await? => Ok(ToDelete::Begun(volume)),
            Err(error) => Err(error),
        }
    }

    async fn has_objects(&self) -> Result<bool, VolumeError> {
        let listed = self.store.list(&volume_prefix(&self.id), None, 1).await?;
        Ok(!listed.objects.is_empty())
    }

    /// Deletes the volume and its name, or goes on with that; gives the number of objects that were deleted.
    ///
    /// # Errors
    /// What the store says. Once the record is published the volume cannot be used any more, deleted whole or not.
    pub async fn delete(&self, name: &str, by: &str) -> Result<u64, VolumeError> {
        // What is deleted of a name is what was read before the end was seen: a deletion that slept must not take the name from
        // a volume that has it by then.
        let mut names = Vec::new();
        // Asked for by its identity, which is no name, it has one all the same.
        if let VolumeRef::Name(name) = VolumeRef::parse(name) {
            names.extend(self.own_name(&name).await?);
        }
        match self.head().await {
            Ok(head) => self.publish_end(head, by).await?,
            // Somebody began before us, or had come to the end but for the name.
            Err(VolumeError::Deleted { .. } | VolumeError::Purged { .. } | VolumeError::NotFound { .. }) => {}
            // Nothing can be published after it.
            Err(VolumeError::Damaged { .. }) => {}
            Err(error) => return Err(error),
        }
        let (last, _) = self.newest_listed().await?;
        let record = match last {
            Some(seq) => match self.fetch_record(seq).await {
                Err(VolumeError::Damaged { .. }) => None,
                found => found?,
            },
            None => None,
        };
        if let Some((record, _)) = record
            && record.record.descriptor.name != name
        {
            names.extend(self.own_name(&record.record.descriptor.name).await?);
            self.check_ended().await?;
        }
        let last = last.map(|seq| Key::Record(self.id, seq).to_string());
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
        // The name stays until there is nothing left to find by it.
        if let Some(key) = last {
            self.store.delete(&[key]).await?;
            deleted += 1;
        }
        for (key, seen) in names {
            if self.store.delete_same(&key, &seen).await? {
                deleted += 1;
            }
        }
        Ok(deleted)
    }

    /// The entry of a name, if it leads to this volume.
    async fn own_name(&self, name: &str) -> Result<Option<(String, Fetched)>, VolumeError> {
        let found = read_name(&*self.store, name).await?;
        let own = found.filter(|(entry, _)| entry.volume == self.id);
        Ok(own.map(|(_, seen)| (Key::Name(name.to_owned()).to_string(), seen)))
    }

    /// The volume is deleted still, after its names were read.
    async fn check_ended(&self) -> Result<(), VolumeError> {
        match self.head().await {
            Err(VolumeError::Deleted { .. } | VolumeError::Purged { .. } | VolumeError::NotFound { .. }) => {
                Ok(())
            }
            Ok(_) => Err(VolumeError::Busy {
                object: self.id.to_string(),
            }),
            Err(error) => Err(error),
        }
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
                features: None,
                renames: Vec::new(),
            };
            let prepared = self.prepare(&head, next)?;
            match self.publish(&src, &prepared).await {
                // Ours, or somebody else's.
                Ok(PublishOutcome::Published { .. }) | Err(VolumeError::Deleted { .. }) => return Ok(()),
                Ok(PublishOutcome::Lost) => match self.head().await {
                    Ok(next) => head = next,
                    // Somebody else was faster.
                    Err(VolumeError::Deleted { .. }) => return Ok(()),
                    Err(error) => return Err(error),
                },
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
