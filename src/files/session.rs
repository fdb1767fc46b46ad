//! A volume without a mount, as one session works with it: at the record that was the newest when it was opened.

use std::sync::Arc;

use super::{Caller, within};
use crate::answer::{Failure, FailureKind};
use crate::model::{DirTree, Entry, GivenPath, Name, Totals, TreeRoot, VolPath};
use crate::store::{self, LimitedStore, ObjectStore, StoreUrl, VolumeUrl};
use crate::tree;
use crate::volume::{Clock, Head, RemoteSource, Volume, VolumeRef};

/// A volume at its newest record.
#[derive(Debug)]
pub struct Session {
    /// The volume.
    pub volume: Volume,
    /// Its newest record.
    pub head: Head,
    /// Its nodes.
    pub nodes: RemoteSource,
    /// For whom it works.
    pub caller: Caller,
}

/// Opens a store.
///
/// # Errors
/// What is wrong with the URL, the credentials or the store.
pub async fn open_store(url: &StoreUrl) -> Result<Arc<dyn ObjectStore>, Failure> {
    store::open(url).await.map_err(Failure::from)
}

/// Opens a store whose requests end when nothing of any has moved for the caller's deadline. What asks it needs no limit of
/// its own: a slow line may take for all requests together, or for one, as long as it needs.
///
/// # Errors
/// As [`open_store`].
pub async fn open_limited(url: &StoreUrl, caller: &Caller) -> Result<Arc<dyn ObjectStore>, Failure> {
    let store = within(caller.deadline, open_store(url)).await?;
    Ok(Arc::new(LimitedStore::new(store, caller.deadline)))
}

impl Session {
    /// Opens a volume; gives up when the store is silent for the caller's deadline.
    ///
    /// # Errors
    /// No such volume; what the store says, or that it says nothing.
    pub async fn open(url: &VolumeUrl, caller: Caller) -> Result<Session, Failure> {
        let store = open_limited(&url.store, &caller).await?;
        Session::of(store, &VolumeRef::parse(&url.name), caller).await
    }

    /// Opens a volume of a store that is open.
    ///
    /// # Errors
    /// No such volume; what the store says.
    pub async fn of(
        store: Arc<dyn ObjectStore>,
        volume: &VolumeRef,
        caller: Caller,
    ) -> Result<Session, Failure> {
        let opened = Volume::open(store, Clock::system(), volume).await?;
        let nodes = RemoteSource::new(opened.volume.clone());
        Ok(Session {
            volume: opened.volume,
            head: opened.head,
            nodes,
            caller,
        })
    }

    /// The tree of the newest record.
    pub fn root(&self) -> &TreeRoot {
        &self.head.record().root.root
    }

    /// The path that somebody means.
    pub async fn path(&self, given: &GivenPath) -> Result<VolPath, Failure> {
        Ok(tree::path_given(&self.nodes, self.root(), given).await?)
    }

    /// What is in a directory, held against what the directory says of itself: whoever walks a tree this way comes to an
    /// end, after as many names as its top claims to have.
    ///
    /// # Errors
    /// [`FailureKind::Damaged`] when the directory lies.
    pub async fn listed(
        &self,
        path: &VolPath,
        totals: &Totals,
        dir: &DirTree,
    ) -> Result<Vec<(Name, Entry)>, Failure> {
        let entries = tree::entries(&self.nodes, dir).await?;
        if tree::recount(&entries) != *totals {
            let text = format!(
                "damaged volume: {}:{path}: the directory does not hold what its totals say ({} files, {} directories)",
                self.volume.name(),
                totals.files,
                totals.dirs
            );
            return Err(Failure::new(FailureKind::Damaged, text));
        }
        Ok(entries)
    }

    /// What is at a path; a hard link comes as its inode.
    pub async fn entry(&self, path: &VolPath) -> Result<Entry, Failure> {
        let found = self.find(path).await?;
        self.inode(found.ok_or_else(|| self.missing(path))?).await
    }

    /// Nothing has that path.
    pub fn missing(&self, path: &VolPath) -> Failure {
        let text = format!("{}:{path}: no such file or directory", self.volume.name());
        Failure::new(FailureKind::NotFound, text)
    }

    /// What a path names, if anything; a hard link comes as such.
    pub async fn find(&self, path: &VolPath) -> Result<Option<Entry>, Failure> {
        Ok(tree::walk(&self.nodes, self.root(), path).await?)
    }

    /// The inode of a name.
    pub async fn inode(&self, entry: Entry) -> Result<Entry, Failure> {
        Ok(tree::inode_of(&self.nodes, &self.root().links, entry).await?)
    }
}
