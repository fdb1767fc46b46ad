//! From local files to edits of a volume.

use std::collections::HashMap;
use std::fs::Metadata;
use std::io;
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::Session;
use super::local::{local_failure, random, volume_name};
use crate::answer::{Failure, FailureKind};
use crate::commit::{Edit, LocalFiles};
use crate::model::{
    Attrs, DirTree, Entry, EntryBody, FileIds, LinkId, MODE_MASK, PATH_DEPTH_MAX, Timestamp, VolPath,
    XATTR_BYTES_MAX, XattrMap, Xattrs,
};
use crate::tree;

/// Builds edits that put local trees into a volume.
///
/// Rules: a directory is merged with one that is there; nothing else that is there is replaced unless `force`, and a
/// directory never is.
pub struct Gatherer<'a> {
    session: &'a Session,
    force: bool,
    now: Timestamp,
    ids: FileIds,
    /// The bytes of the edits.
    pub files: LocalFiles,
    /// What is to be done, in order.
    pub edits: Vec<Edit>,
    /// First name of each local inode with several.
    names: HashMap<(u64, u64), VolPath>,
}

/// A local path that is still to be put, and what is at its place in the volume.
struct Pending {
    local: PathBuf,
    path: VolPath,
    there: Option<Entry>,
}

impl<'a> Gatherer<'a> {
    /// For edits of the newest record.
    ///
    /// # Errors
    /// No randomness.
    pub fn new(session: &'a Session, force: bool) -> Result<Gatherer<'a>, Failure> {
        Ok(Gatherer {
            session,
            force,
            now: session.volume.clock().now(),
            ids: FileIds::new(u64::from_le_bytes(random()?)),
            files: LocalFiles::default(),
            edits: Vec::new(),
            names: HashMap::new(),
        })
    }

    /// Attributes of a directory that has no counterpart on this machine, and of bytes from standard input.
    pub fn made_here(&mut self, mode: u16) -> Attrs {
        Attrs {
            mode,
            uid: rustix::process::geteuid().as_raw(),
            gid: rustix::process::getegid().as_raw(),
            mtime: self.now,
            ctime: self.now,
            file_id: self.ids.draw(),
            xattrs: Xattrs::None,
        }
    }

    /// Makes a directory, with those above it, where there is none.
    pub fn make_dir(&mut self, path: &VolPath) {
        let attrs = self.made_here(0o755);
        let parents = Some(self.made_here(0o755));
        self.edits.push(Edit::Mkdir {
            path: path.clone(),
            attrs,
            parents,
        });
    }

    /// Puts a local file, or a local directory with all that is in it, to a path.
    ///
    /// # Errors
    /// Something is in the way, or cannot be read.
    pub async fn put(&mut self, local: &Path, path: &VolPath) -> Result<(), Failure> {
        let there = self.session.find(path).await?;
        let mut pending = vec![Pending {
            local: local.to_owned(),
            path: path.clone(),
            there,
        }];
        // Attributes of new directories, given when their entries have been made.
        let mut dirs = Vec::new();
        while let Some(next) = pending.pop() {
            let metadata =
                std::fs::symlink_metadata(&next.local).map_err(|e| local_failure(&next.local, &e))?;
            if next.path.0.len() > PATH_DEPTH_MAX {
                return Err(Failure::new(
                    FailureKind::Refused,
                    format!("{}: too deep for a volume", next.local.display()),
                ));
            }
            if metadata.is_dir() {
                let attrs = self.dir(&next, &metadata)?;
                dirs.extend(attrs.map(|attrs| Edit::DirAttrs {
                    path: next.path.clone(),
                    attrs,
                }));
                self.list(next, &mut pending).await?;
            } else {
                self.leaf(&next, &metadata)?;
            }
        }
        self.edits.append(&mut dirs);
        Ok(())
    }

    /// Attributes that a directory gets in the end; `None` for one that is there and stays as it is.
    fn dir(&mut self, next: &Pending, metadata: &Metadata) -> Result<Option<Attrs>, Failure> {
        match &next.there {
            Some(entry) if entry.is_dir() => return Ok(None),
            None if next.path.0.is_empty() => return Ok(None),
            Some(_) if !self.force => return Err(in_the_way(&next.path)),
            Some(_) => self.edits.push(Edit::Remove {
                path: next.path.clone(),
                recursive: false,
                now: self.now,
            }),
            None => {}
        }
        let attrs = self.attrs(&next.local, metadata)?;
        let parents = Some(self.made_here(0o755));
        self.edits.push(Edit::Mkdir {
            path: next.path.clone(),
            attrs: attrs.clone(),
            parents,
        });
        Ok(Some(attrs))
    }

    async fn list(&mut self, dir: Pending, pending: &mut Vec<Pending>) -> Result<(), Failure> {
        let existing = match dir.there {
            Some(Entry {
                body: EntryBody::Dir { tree, .. },
                ..
            }) => tree,
            _ => DirTree::empty(),
        };
        let failed = |e: io::Error| local_failure(&dir.local, &e);
        let mut names = Vec::new();
        for entry in std::fs::read_dir(&dir.local).map_err(failed)? {
            names.push(entry.map_err(failed)?.file_name());
        }
        // The last one comes first.
        names.sort_unstable_by(|a, b| b.cmp(a));
        for text in names {
            let local = dir.local.join(&text);
            let name = volume_name(&text, &local)?;
            let there = tree::lookup(&self.session.nodes, &existing, name.as_bytes()).await?;
            pending.push(Pending {
                local,
                path: dir.path.join(&name),
                there,
            });
        }
        Ok(())
    }

    /// Anything but a directory.
    fn leaf(&mut self, next: &Pending, metadata: &Metadata) -> Result<(), Failure> {
        match &next.there {
            Some(entry) if entry.is_dir() => {
                let text = format!(
                    "{}: is a directory in the volume, {} is not",
                    next.path,
                    next.local.display()
                );
                return Err(Failure::new(FailureKind::Exists, text).hint("`sailvol rm -r` removes it"));
            }
            Some(_) if !self.force => return Err(in_the_way(&next.path)),
            _ => {}
        }
        let path = next.path.clone();
        let inode = (metadata.dev(), metadata.ino());
        if metadata.nlink() > 1 {
            if let Some(first) = self.names.get(&inode) {
                let id = LinkId(random()?);
                self.edits.push(Edit::Link {
                    from: first.clone(),
                    to: path,
                    id,
                    now: self.now,
                });
                return Ok(());
            }
            self.names.insert(inode, path.clone());
        }
        let attrs = self.attrs(&next.local, metadata)?;
        let parents = Some(self.made_here(0o755));
        let kind = metadata.file_type();
        if kind.is_file() {
            let node = self.files.add(next.local.clone(), metadata);
            self.edits.push(Edit::Put {
                path,
                node,
                attrs,
                parents,
            });
            return Ok(());
        }
        if kind.is_symlink() {
            let target = std::fs::read_link(&next.local).map_err(|e| local_failure(&next.local, &e))?;
            let target: Arc<[u8]> = target.into_os_string().into_vec().into();
            self.edits.push(Edit::Symlink {
                path,
                target,
                attrs,
                parents,
            });
            return Ok(());
        }
        let (major, minor) = (
            rustix::fs::major(metadata.rdev()),
            rustix::fs::minor(metadata.rdev()),
        );
        let body = if kind.is_fifo() {
            EntryBody::Fifo
        } else if kind.is_char_device() {
            EntryBody::CharDev { major, minor }
        } else if kind.is_block_device() {
            EntryBody::BlockDev { major, minor }
        } else {
            self.names.remove(&inode);
            (self.session.caller.note)(&format!("left out {}: a socket", next.local.display()));
            return Ok(());
        };
        self.edits.push(Edit::Special {
            path,
            body,
            attrs,
            parents,
        });
        Ok(())
    }

    fn attrs(&mut self, local: &Path, metadata: &Metadata) -> Result<Attrs, Failure> {
        let keep_owner = rustix::process::geteuid().is_root();
        let (uid, gid) = match keep_owner {
            true => (metadata.uid(), metadata.gid()),
            false => (
                rustix::process::geteuid().as_raw(),
                rustix::process::getegid().as_raw(),
            ),
        };
        Ok(Attrs {
            // The mask leaves 12 bits.
            mode: (metadata.mode() & u32::from(MODE_MASK)) as u16,
            uid,
            gid,
            // The system keeps nanoseconds below 10^9.
            mtime: Timestamp {
                secs: metadata.mtime(),
                nanos: u32::try_from(metadata.mtime_nsec()).unwrap_or(0),
            },
            ctime: self.now,
            file_id: self.ids.draw(),
            xattrs: if metadata.is_symlink() {
                Xattrs::None
            } else {
                xattrs(local)?
            },
        })
    }
}

/// A file is there, and nobody said that it may go.
pub fn in_the_way(path: &VolPath) -> Failure {
    Failure::new(
        FailureKind::Exists,
        format!("{path}: is there already; nothing was changed"),
    )
    .hint("--force replaces files (never directories)")
}

/// The extended attributes that volumes keep: those of users.
fn xattrs(local: &Path) -> Result<Xattrs, Failure> {
    let failed = |e: rustix::io::Errno| local_failure(local, &e.into());
    let mut list = vec![0; 64 << 10];
    let len = match rustix::fs::llistxattr(local, &mut list[..]) {
        Ok(len) => len,
        Err(rustix::io::Errno::NOTSUP) => return Ok(Xattrs::None),
        Err(error) => return Err(failed(error)),
    };
    let mut map = XattrMap::new();
    let names = list[..len].split(|byte| *byte == 0);
    for name in names.filter(|name| name.starts_with(b"user.")) {
        let mut value = vec![0; 64 << 10];
        let len = match rustix::fs::lgetxattr(local, name, &mut value[..]) {
            Ok(len) => len,
            // Removed since.
            Err(rustix::io::Errno::NODATA) => continue,
            Err(error) => return Err(failed(error)),
        };
        value.truncate(len);
        map.insert(name.into(), value.into());
    }
    if Xattrs::map_bytes(&map) > XATTR_BYTES_MAX {
        let text = format!(
            "{}: more than {XATTR_BYTES_MAX} bytes of extended attributes",
            local.display()
        );
        return Err(Failure::new(FailureKind::Refused, text));
    }
    Ok(Xattrs::from_map(map))
}
