//! Changes of a tree without a mount: what `put`, `rm`, `cp` and `mkdir` do, as one change set on the head.
//!
//! Edits are made in order on a sketch of the directories they touch; each directory is written once, however many of
//! its names change. Copies share content: no bytes move.

use std::collections::{BTreeMap, HashMap};
use std::fs::{File, Metadata};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::PathBuf;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use futures::future::BoxFuture;

use super::build::{Built, Contents};
use super::error::CommitError;
use super::upload::{DirtyFile, FileSource};
use crate::model::{
    Attrs, DirTree, Entry, EntryBody, FileId, LinkId, LinkInode, Name, PATH_DEPTH_MAX, Timestamp, Totals,
    TreeRoot, VolPath,
};
use crate::overlay::{FileState, NodeId};
use crate::tree::{self, NodeSource, TreeError};

/// One change. Directories above the path must exist, unless it says otherwise.
#[derive(Clone, Debug)]
pub enum Edit {
    /// A file with the bytes of `node` of the file source, in place of what is there (not of a directory). Makes
    /// missing directories when `parents` has attributes for them.
    Put {
        /// Where.
        path: VolPath,
        /// Which bytes.
        node: NodeId,
        /// Mode, owner, times, file id.
        attrs: Attrs,
        /// For missing directories above.
        parents: Option<Attrs>,
    },
    /// A symbolic link, in place of what is there (not of a directory).
    Symlink {
        /// Where.
        path: VolPath,
        /// Target, 1 to 4,095 bytes.
        target: Arc<[u8]>,
        /// Owner, times, file id.
        attrs: Attrs,
        /// For missing directories above.
        parents: Option<Attrs>,
    },
    /// A fifo, socket or device, in place of what is there (not of a directory).
    Special {
        /// Where.
        path: VolPath,
        /// What; neither a file, a directory nor a name of an inode.
        body: EntryBody,
        /// Mode, owner, times, file id.
        attrs: Attrs,
        /// For missing directories above.
        parents: Option<Attrs>,
    },
    /// Another name of the inode at `from`, in place of what is there (not of a directory).
    Link {
        /// A name that exists by now; not of a directory.
        from: VolPath,
        /// The new name.
        to: VolPath,
        /// Of the inode, if this makes it one with several names.
        id: LinkId,
        /// For the directory above.
        now: Timestamp,
    },
    /// Attributes of a directory, after what edits of its entries did to its times. Its file id stays.
    DirAttrs {
        /// Which.
        path: VolPath,
        /// Mode, owner, times, xattrs.
        attrs: Attrs,
    },
    /// A directory; one that is there already stays as it is when `parents` is given.
    Mkdir {
        /// Where.
        path: VolPath,
        /// Mode, owner, times, file id.
        attrs: Attrs,
        /// For missing directories above.
        parents: Option<Attrs>,
    },
    /// Removes a name; a directory with all that is in it only if `recursive`.
    Remove {
        /// Which.
        path: VolPath,
        /// Directories too.
        recursive: bool,
        /// For the directory above.
        now: Timestamp,
    },
    /// Another name with the same content, in place of what is there (not of a directory). Copies of names of one
    /// inode are files of their own.
    Copy {
        /// What.
        from: VolPath,
        /// Its new path.
        to: VolPath,
        /// Directories too.
        recursive: bool,
        /// Of the copy.
        file_id: FileId,
        /// For the directory above.
        now: Timestamp,
    },
}

/// Local files as the bytes of edits. A file that is not the one that was added any more, or has changed since, is an
/// error: what a record says about it would be true of no moment.
#[derive(Debug, Default)]
pub struct LocalFiles {
    files: HashMap<NodeId, LocalFile>,
}

#[derive(Clone, Debug)]
struct LocalFile {
    path: PathBuf,
    stamp: Stamp,
}

/// What changes with a file: device, inode, size, mtime and ctime.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Stamp([i128; 5]);

impl Stamp {
    fn of(metadata: &Metadata) -> Stamp {
        let nanos = |secs: i64, nanos: i64| i128::from(secs) * 1_000_000_000 + i128::from(nanos);
        Stamp([
            metadata.dev().into(),
            metadata.ino().into(),
            metadata.size().into(),
            nanos(metadata.mtime(), metadata.mtime_nsec()),
            nanos(metadata.ctime(), metadata.ctime_nsec()),
        ])
    }
}

impl LocalFiles {
    /// Adds a file as it is described by `metadata`; its number is for [`Edit::Put`].
    pub fn add(&mut self, path: PathBuf, metadata: &Metadata) -> NodeId {
        let node = self.files.len() as NodeId + 1;
        let stamp = Stamp::of(metadata);
        self.files.insert(node, LocalFile { path, stamp });
        node
    }

    /// Does something with the file, and looks afterwards whether it is still what was added.
    async fn on_file<T: Send + 'static>(
        &self,
        node: NodeId,
        work: impl FnOnce(&File) -> io::Result<T> + Send + 'static,
    ) -> Result<T, TreeError> {
        let known = self.files.get(&node).cloned();
        let shown = known
            .as_ref()
            .map(|file| file.path.display().to_string())
            .unwrap_or_default();
        let job = tokio::task::spawn_blocking(move || {
            let LocalFile { path, stamp } = known.ok_or(io::ErrorKind::NotFound)?;
            // Whatever took the file's place meanwhile must neither be followed nor waited for.
            let flags = libc::O_NOFOLLOW | libc::O_NONBLOCK;
            let file = File::options().read(true).custom_flags(flags).open(path)?;
            let result = work(&file)?;
            if Stamp::of(&file.metadata()?) != stamp {
                return Err(io::Error::other("the file changed while it was read"));
            }
            Ok(result)
        });
        let done = job.await.map_err(io::Error::other).flatten();
        done.map_err(|error| TreeError::Local {
            path: shown,
            reason: error.to_string(),
            errno: error.raw_os_error().unwrap_or(libc::EIO),
        })
    }
}

#[async_trait]
impl FileSource for LocalFiles {
    async fn size(&self, node: NodeId) -> Result<u64, TreeError> {
        self.on_file(node, |file| Ok(file.metadata()?.len())).await
    }

    async fn is_still_written(&self, node: NodeId) -> Result<bool, TreeError> {
        self.on_file(node, |_| Ok(false)).await
    }

    async fn next_data(&self, node: NodeId, offset: u64) -> Result<Option<u64>, TreeError> {
        let next = move |file: &File| match rustix::fs::seek(file, rustix::fs::SeekFrom::Data(offset)) {
            Ok(at) => Ok(Some(at)),
            Err(rustix::io::Errno::NXIO) => Ok(None),
            // A filesystem that does not know: what is there is read.
            Err(_) => Ok(Some(offset)),
        };
        self.on_file(node, next).await
    }

    async fn read(&self, node: NodeId, offset: u64, len: u64) -> Result<Bytes, TreeError> {
        self.on_file(node, move |file| {
            // At most one chunk.
            let mut bytes = vec![0; len as usize];
            let mut done = 0;
            while done < bytes.len() {
                match file.read_at(&mut bytes[done..], offset + done as u64) {
                    Ok(0) => break,
                    Ok(more) => done += more,
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                    Err(error) => return Err(error),
                }
            }
            Ok(Bytes::from(bytes))
        })
        .await
    }
}

/// The files that edits bring, each with what is at its path now: equal bytes are not sent again.
pub(super) async fn edited_files(
    src: &dyn NodeSource,
    base: &TreeRoot,
    edits: &[Edit],
) -> Result<Vec<DirtyFile>, TreeError> {
    let mut files = Vec::new();
    for edit in edits {
        let Edit::Put { path, node, .. } = edit else {
            continue;
        };
        let old = match tree::walk(src, base, path).await?.map(|entry| entry.body) {
            Some(EntryBody::File { size, content }) => Some((size, content)),
            _ => None,
        };
        let state = FileState {
            base: old,
            body: Some(*node),
            dirty: true,
            bytes_generation: 0,
            present: None,
            base_valid: 0,
        };
        files.push(DirtyFile {
            node: *node,
            path: path.clone(),
            state,
        });
    }
    Ok(files)
}

/// M: the base with the edits made.
pub(super) async fn apply_edits(
    src: &dyn NodeSource,
    base: &TreeRoot,
    edits: &[Edit],
    contents: &Contents,
) -> Result<Built, CommitError> {
    let mut sketch = Sketch {
        src,
        base,
        contents,
        root: Dir::of(base.attrs.clone(), base.totals, base.tree.clone()),
        names: BTreeMap::new(),
        new_inodes: BTreeMap::new(),
    };
    for edit in edits {
        sketch.apply(edit).await?;
    }
    let Sketch {
        root,
        names,
        new_inodes,
        ..
    } = sketch;
    let (attrs, totals, tree) = root.finish(src).await?;
    let new_inodes = new_inodes.into_iter().map(|(id, inode)| (id, Some(inode)));
    let links = tree::edit_links(src, &base.links, new_inodes).await?;
    let links = tree::add_names(src, &links, &names).await?;
    let paths = edits.iter().filter_map(|edit| match edit {
        Edit::Put { path, node, .. } => Some((*node, path.clone())),
        _ => None,
    });
    Ok(Built {
        tree: TreeRoot {
            attrs,
            totals,
            tree,
            links,
        },
        moves: Vec::new(),
        paths: paths.collect(),
    })
}

/// Directories that edits touch.
struct Sketch<'a> {
    src: &'a dyn NodeSource,
    base: &'a TreeRoot,
    contents: &'a Contents,
    root: Dir,
    /// Names that inodes with several of them have got or, negative, lost; not the first one of a new inode.
    names: BTreeMap<LinkId, i64>,
    /// Inodes that are not in the links tree of the base, with one name.
    new_inodes: BTreeMap<LinkId, LinkInode>,
}

struct Dir {
    attrs: Attrs,
    totals: Totals,
    tree: DirTree,
    changes: BTreeMap<Name, Slot>,
}

enum Slot {
    Gone,
    Entry(Box<Entry>),
    Dir(Box<Dir>),
}

impl Dir {
    fn of(attrs: Attrs, totals: Totals, tree: DirTree) -> Dir {
        Dir {
            attrs,
            totals,
            tree,
            changes: BTreeMap::new(),
        }
    }

    /// The directory with its changes. Recursion as deep as the sketch, at most [`PATH_DEPTH_MAX`].
    fn finish<'a>(
        self,
        src: &'a dyn NodeSource,
    ) -> BoxFuture<'a, Result<(Attrs, Totals, DirTree), TreeError>> {
        Box::pin(async move {
            let mut changes = Vec::with_capacity(self.changes.len());
            for (name, slot) in self.changes {
                let entry = match slot {
                    Slot::Gone => None,
                    Slot::Entry(entry) => Some(*entry),
                    Slot::Dir(dir) => {
                        let (attrs, totals, tree) = dir.finish(src).await?;
                        Some(Entry {
                            attrs,
                            body: EntryBody::Dir { totals, tree },
                        })
                    }
                };
                changes.push((name, entry));
            }
            let (tree, totals) = tree::edit_dir_entry(src, &self.tree, &self.totals, changes).await?;
            Ok((self.attrs, totals, tree))
        })
    }
}

impl Sketch<'_> {
    async fn apply(&mut self, edit: &Edit) -> Result<(), CommitError> {
        match edit {
            Edit::Put {
                path,
                node,
                attrs,
                parents,
            } => {
                let (size, content) = self.contents.get(node).cloned().ok_or(CommitError::Path {
                    path: path.clone(),
                    reason: "has no bytes",
                })?;
                let entry = Entry {
                    attrs: attrs.clone(),
                    body: EntryBody::File { size, content },
                };
                self.place(path, entry, attrs.ctime, parents.as_ref()).await
            }
            Edit::Symlink {
                path,
                target,
                attrs,
                parents,
            } => {
                let body = EntryBody::Symlink {
                    target: target.clone(),
                };
                self.place(
                    path,
                    Entry {
                        attrs: attrs.clone(),
                        body,
                    },
                    attrs.ctime,
                    parents.as_ref(),
                )
                .await
            }
            Edit::Special {
                path,
                body,
                attrs,
                parents,
            } => {
                let (attrs, body) = (attrs.clone(), body.clone());
                let now = attrs.ctime;
                self.place(path, Entry { attrs, body }, now, parents.as_ref())
                    .await
            }
            Edit::Link { from, to, id, now } => {
                let id = self.linked(from, *id).await?;
                let name = Entry {
                    attrs: Attrs::default(),
                    body: EntryBody::HardLink(id),
                };
                self.place(to, name, *now, None).await?;
                *self.names.entry(id).or_default() += 1;
                Ok(())
            }
            Edit::DirAttrs { path, attrs } => {
                let dir = self.dir(&path.0, None).await?;
                let file_id = dir.attrs.file_id;
                dir.attrs = Attrs {
                    file_id,
                    ..attrs.clone()
                };
                Ok(())
            }
            Edit::Mkdir { path, attrs, parents } => self.mkdir(path, attrs, parents.as_ref()).await,
            Edit::Remove { path, recursive, now } => self.remove(path, *recursive, *now).await,
            Edit::Copy {
                from,
                to,
                recursive,
                file_id,
                now,
            } => {
                let entry = self.copy_of(from, *recursive, *file_id, *now).await?;
                self.place(to, entry, *now, None).await
            }
        }
    }

    /// Opens the directory at `path`, making what is missing if there are attributes for it.
    async fn dir(&mut self, path: &[Name], parents: Option<&Attrs>) -> Result<&mut Dir, CommitError> {
        if path.len() >= PATH_DEPTH_MAX {
            return Err(refused(path, "is too deep"));
        }
        let src = self.src;
        let mut dir = &mut self.root;
        for (depth, name) in path.iter().enumerate() {
            if !matches!(dir.changes.get(name), Some(Slot::Dir(_))) {
                let entry = match dir.changes.get(name) {
                    Some(Slot::Entry(entry)) => Some(entry.as_ref().clone()),
                    Some(_) => None,
                    None => tree::lookup(src, &dir.tree, name.as_bytes()).await?,
                };
                let below = match (entry, parents) {
                    (
                        Some(Entry {
                            attrs,
                            body: EntryBody::Dir { totals, tree },
                        }),
                        _,
                    ) => Dir::of(attrs, totals, tree),
                    (Some(_), _) => return Err(refused(&path[..=depth], "is not a directory")),
                    (None, Some(attrs)) => Dir::of(attrs.clone(), Totals::default(), DirTree::empty()),
                    (None, None) => return Err(refused(&path[..=depth], "does not exist")),
                };
                dir.changes.insert(name.clone(), Slot::Dir(Box::new(below)));
            }
            dir = match dir.changes.get_mut(name) {
                Some(Slot::Dir(below)) => below,
                _ => return Err(refused(&path[..=depth], "is not a directory")),
            };
        }
        Ok(dir)
    }

    /// What is at a path now.
    async fn entry(&mut self, path: &VolPath) -> Result<Option<Entry>, CommitError> {
        let Some((above, name)) = path.split_last() else {
            return Err(refused(&[], "is the root"));
        };
        let name = name.clone();
        let src = self.src;
        let dir = self.dir(&above.0, None).await?;
        match dir.changes.get_mut(&name) {
            None => Ok(tree::lookup(src, &dir.tree, name.as_bytes()).await?),
            Some(Slot::Gone) => Ok(None),
            Some(Slot::Entry(entry)) => Ok(Some(entry.as_ref().clone())),
            Some(slot @ Slot::Dir(_)) => {
                // Taken for what it is by now.
                let Slot::Dir(below) = std::mem::replace(slot, Slot::Gone) else {
                    return Ok(None);
                };
                let (attrs, totals, tree) = below.finish(src).await?;
                let entry = Entry {
                    attrs,
                    body: EntryBody::Dir { totals, tree },
                };
                *slot = Slot::Entry(Box::new(entry.clone()));
                Ok(Some(entry))
            }
        }
    }

    async fn place(
        &mut self,
        path: &VolPath,
        entry: Entry,
        now: Timestamp,
        parents: Option<&Attrs>,
    ) -> Result<(), CommitError> {
        let Some((above, name)) = path.split_last() else {
            return Err(refused(&[], "is the root"));
        };
        let name = name.clone();
        self.dir(&above.0, parents).await?;
        let old = self.entry(path).await?;
        if old.as_ref().is_some_and(Entry::is_dir) {
            return Err(refused(&path.0, "is a directory"));
        }
        self.forget(old).await?;
        let dir = self.dir(&above.0, parents).await?;
        dir.changes.insert(name, Slot::Entry(Box::new(entry)));
        touch(dir, now);
        Ok(())
    }

    /// The id of the inode at a name; a file with one name becomes an inode of the links tree.
    async fn linked(&mut self, path: &VolPath, id: LinkId) -> Result<LinkId, CommitError> {
        let entry = match self.entry(path).await? {
            None => return Err(refused(&path.0, "does not exist")),
            Some(Entry {
                body: EntryBody::HardLink(known),
                ..
            }) => return Ok(known),
            Some(entry) if entry.is_dir() => return Err(refused(&path.0, "is a directory")),
            Some(entry) => entry,
        };
        let Some((above, name)) = path.split_last() else {
            return Err(refused(&[], "is the root"));
        };
        let name = name.clone();
        self.new_inodes.insert(id, LinkInode { nlink: 1, entry });
        let link = Entry {
            attrs: Attrs::default(),
            body: EntryBody::HardLink(id),
        };
        let dir = self.dir(&above.0, None).await?;
        dir.changes.insert(name, Slot::Entry(Box::new(link)));
        Ok(id)
    }

    async fn mkdir(
        &mut self,
        path: &VolPath,
        attrs: &Attrs,
        parents: Option<&Attrs>,
    ) -> Result<(), CommitError> {
        let Some((above, name)) = path.split_last() else {
            return if parents.is_some() {
                Ok(())
            } else {
                Err(refused(&[], "exists"))
            };
        };
        let name = name.clone();
        self.dir(&above.0, parents).await?;
        match self.entry(path).await? {
            Some(entry) if entry.is_dir() && parents.is_some() => return Ok(()),
            Some(_) => return Err(refused(&path.0, "exists")),
            None => {}
        }
        let dir = self.dir(&above.0, parents).await?;
        let made = Dir::of(attrs.clone(), Totals::default(), DirTree::empty());
        dir.changes.insert(name, Slot::Dir(Box::new(made)));
        touch(dir, attrs.ctime);
        Ok(())
    }

    async fn remove(&mut self, path: &VolPath, recursive: bool, now: Timestamp) -> Result<(), CommitError> {
        let Some((above, name)) = path.split_last() else {
            return Err(refused(&[], "is the root"));
        };
        let name = name.clone();
        let Some(old) = self.entry(path).await? else {
            return Err(refused(&path.0, "does not exist"));
        };
        if old.is_dir() && !recursive {
            return Err(refused(&path.0, "is a directory"));
        }
        self.forget(Some(old)).await?;
        let dir = self.dir(&above.0, None).await?;
        dir.changes.insert(name, Slot::Gone);
        touch(dir, now);
        Ok(())
    }

    /// Counts the names of inodes that go with an entry. Directories without such names are not opened.
    async fn forget(&mut self, entry: Option<Entry>) -> Result<(), CommitError> {
        let mut open: Vec<Entry> = entry.into_iter().collect();
        while let Some(entry) = open.pop() {
            match entry.body {
                EntryBody::HardLink(id) => *self.names.entry(id).or_default() -= 1,
                EntryBody::Dir { totals, tree } if totals.links > 0 => {
                    let below = checked(&totals, tree::entries(self.src, &tree).await?)?;
                    open.extend(below.into_iter().map(|(_, entry)| entry));
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// What a copy of `from` is.
    async fn copy_of(
        &mut self,
        from: &VolPath,
        recursive: bool,
        file_id: FileId,
        now: Timestamp,
    ) -> Result<Entry, CommitError> {
        let Some(entry) = self.entry(from).await? else {
            return Err(refused(&from.0, "does not exist"));
        };
        if entry.is_dir() && !recursive {
            return Err(refused(&from.0, "is a directory"));
        }
        let mut copy = self.unlinked(entry).await?;
        copy.attrs.file_id = file_id;
        copy.attrs.ctime = now;
        Ok(copy)
    }

    /// The entry without names of the links tree: each becomes a file of its own.
    fn unlinked(&self, entry: Entry) -> BoxFuture<'_, Result<Entry, CommitError>> {
        Box::pin(async move {
            match entry.body {
                EntryBody::HardLink(id) => {
                    let inode = match self.new_inodes.get(&id) {
                        Some(inode) => Some(inode.clone()),
                        None => tree::link(self.src, &self.base.links, &id).await?,
                    };
                    inode
                        .map(|inode| inode.entry)
                        .ok_or_else(|| refused(&[], "a hard link without its inode"))
                }
                EntryBody::Dir { totals, tree } if totals.links > 0 => {
                    let mut dir = Dir::of(entry.attrs, totals, tree);
                    for (name, below) in checked(&totals, tree::entries(self.src, &dir.tree).await?)? {
                        let linked = match &below.body {
                            EntryBody::HardLink(_) => true,
                            EntryBody::Dir { totals, .. } => totals.links > 0,
                            _ => false,
                        };
                        if linked {
                            dir.changes
                                .insert(name, Slot::Entry(Box::new(self.unlinked(below).await?)));
                        }
                    }
                    let (attrs, totals, tree) = dir.finish(self.src).await?;
                    Ok(Entry {
                        attrs,
                        body: EntryBody::Dir { totals, tree },
                    })
                }
                body => Ok(Entry {
                    attrs: entry.attrs,
                    body,
                }),
            }
        })
    }
}

/// What is in a directory, held against what it says of itself: walks that count names end, also in a volume that lies.
fn checked(totals: &Totals, entries: Vec<(Name, Entry)>) -> Result<Vec<(Name, Entry)>, TreeError> {
    if tree::recount(&entries) == *totals {
        return Ok(entries);
    }
    Err(TreeError::Damaged {
        object: "a directory".to_owned(),
        rule: "it does not hold what its totals say".to_owned(),
    })
}

fn touch(dir: &mut Dir, now: Timestamp) {
    dir.attrs.mtime = now;
    dir.attrs.ctime = now;
}

fn refused(path: &[Name], reason: &'static str) -> CommitError {
    CommitError::Path {
        path: VolPath(path.to_vec()),
        reason,
    }
}
