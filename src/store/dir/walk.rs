//! Listing a directory store.

use std::fs::File;

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags};
use rustix::io::Errno;

use super::super::key::check_key;
use super::super::{ListedObject, StoreError};
use super::{Root, modified, other_error};

/// A walk in the order of key bytes that ends when enough is found. Reads each directory whole, since directories of
/// the filesystem have no order, but looks at the files that it answers only.
pub(super) struct Walk<'a> {
    pub(super) root: &'a Root,
    pub(super) prefix: &'a str,
    pub(super) start_after: &'a str,
    pub(super) wanted: usize,
    pub(super) found: Vec<ListedObject>,
}

impl Walk<'_> {
    /// Lists what has the prefix.
    pub(super) fn run(&mut self) -> Result<(), StoreError> {
        // Everything with this prefix lies in the directory that its complete parts name.
        let dir = self.prefix.rsplit_once('/').map_or("", |(dir, _)| dir);
        match self.root.open_dir(dir) {
            Ok(opened) => self.dir(&opened, dir),
            // Not there: nothing has this prefix.
            Err(Errno::NOENT | Errno::NOTDIR) => Ok(()),
            Err(error) => Err(other_error(&self.root.shown(dir), error.into())),
        }
    }

    /// `key` is the directory's, without a slash at the end; empty for the root.
    fn dir(&mut self, dir: &File, key: &str) -> Result<(), StoreError> {
        let path = self.root.shown(key);
        let at = |error: Errno| other_error(&path, error.into());
        // A directory sorts as its name with a slash: "a-b", "a.c", "a/d", "a0".
        let mut keys = Vec::new();
        for entry in Dir::read_from(dir).map_err(at)? {
            let entry = entry.map_err(at)?;
            let Ok(name) = entry.file_name().to_str() else {
                continue;
            };
            let mut child = match key {
                "" => name.to_owned(),
                key => format!("{key}/{name}"),
            };
            if check_key(&child).is_err() {
                continue;
            }
            let is_dir = match entry.file_type() {
                FileType::Unknown => match rustix::fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW) {
                    Ok(stat) => FileType::from_raw_mode(stat.st_mode) == FileType::Directory,
                    Err(Errno::NOENT) => continue,
                    Err(error) => return Err(at(error)),
                },
                known => known == FileType::Directory,
            };
            if is_dir {
                child.push('/');
            }
            if self.may_hold(&child) {
                keys.push(child);
            }
        }
        keys.sort_unstable();
        for child in keys {
            if self.found.len() >= self.wanted {
                break;
            }
            let name = child.strip_prefix(key).unwrap_or(&child).trim_matches('/');
            match child.strip_suffix('/') {
                Some(below) => {
                    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                    match rustix::fs::openat(dir, name, flags, Mode::empty()) {
                        Ok(opened) => self.dir(&File::from(opened), below)?,
                        // Gone, or replaced, since the directory was read.
                        Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => {}
                        Err(error) => return Err(other_error(&self.root.shown(below), error.into())),
                    }
                }
                None => self.file(dir, name, &child)?,
            }
        }
        Ok(())
    }

    fn file(&mut self, dir: &File, name: &str, key: &str) -> Result<(), StoreError> {
        match rustix::fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) if FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile => {
                self.found.push(ListedObject {
                    key: key.to_owned(),
                    len: u64::try_from(stat.st_size).unwrap_or(0),
                    modified: Some(modified(&stat)),
                });
                Ok(())
            }
            // No object; or deleted since the directory was read.
            Ok(_) | Err(Errno::NOENT) => Ok(()),
            Err(error) => Err(other_error(&self.root.shown(key), error.into())),
        }
    }

    /// Whether `child`, a key or a directory with its slash, is asked for or may hold what is.
    fn may_hold(&self, child: &str) -> bool {
        let in_prefix =
            child.starts_with(self.prefix) || (child.ends_with('/') && self.prefix.starts_with(child));
        let after = child > self.start_after || (child.ends_with('/') && self.start_after.starts_with(child));
        in_prefix && after
    }
}
