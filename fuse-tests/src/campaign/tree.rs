//! What a directory must hold: a plain map, changed by the same steps as the real one, and compared with it.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Identity of a file, whatever its names.
pub type FileId = u64;

/// One name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Node {
    /// A directory.
    Dir,
    /// A name of a file.
    File(FileId),
    /// A symbolic link.
    Link(String),
}

/// One file.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct File {
    /// Its bytes.
    pub bytes: Arc<Vec<u8>>,
    /// Permission bits.
    pub mode: u32,
}

/// Names and files below one directory. Paths are relative to it.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Tree {
    /// Names in path order, so that a directory comes before what is in it.
    pub names: BTreeMap<PathBuf, Node>,
    /// Files by identity; those without a name may still be open.
    pub files: BTreeMap<FileId, File>,
}

/// One system call that changes the tree.
#[derive(Clone, Debug)]
pub enum Step {
    /// A new, empty file.
    Create { path: PathBuf, file: FileId },
    /// Bytes at an offset, through an open handle.
    Write {
        file: FileId,
        offset: usize,
        bytes: Arc<Vec<u8>>,
    },
    /// A file is opened with O_TRUNC, written whole and closed.
    Rewrite { file: FileId, bytes: Arc<Vec<u8>> },
    /// A new length, through an open handle.
    Truncate { file: FileId, len: usize },
    /// A directory.
    Mkdir { path: PathBuf },
    /// An empty directory goes.
    Rmdir { path: PathBuf },
    /// A name goes.
    Unlink { path: PathBuf },
    /// A name moves, perhaps over a file.
    Rename { from: PathBuf, to: PathBuf },
    /// Another name of a file.
    Link { from: PathBuf, to: PathBuf },
    /// A symbolic link.
    Symlink { path: PathBuf, target: String },
    /// Permission bits.
    Chmod { path: PathBuf, mode: u32 },
}

impl Step {
    /// Without the bytes.
    pub fn told(&self) -> String {
        match self {
            Step::Write { file, offset, bytes } => {
                format!("write {} bytes of file {file} at {offset}", bytes.len())
            }
            Step::Rewrite { file, bytes } => format!("rewrite file {file} with {} bytes", bytes.len()),
            other => format!("{other:?}"),
        }
    }

    /// Whether it may be seen half done: other steps are done or not.
    fn file_torn(&self) -> Option<FileId> {
        match self {
            Step::Write { file, .. } | Step::Rewrite { file, .. } => Some(*file),
            _ => None,
        }
    }
}

impl Tree {
    /// What the step does.
    pub fn apply(&mut self, step: &Step) {
        match step {
            Step::Create { path, file } => {
                self.names.insert(path.clone(), Node::File(*file));
                let mode = 0o644;
                let bytes = Arc::default();
                self.files.insert(*file, File { bytes, mode });
            }
            Step::Write { file, offset, bytes } => {
                let held = Arc::make_mut(&mut self.files.entry(*file).or_default().bytes);
                let end = offset + bytes.len();
                if held.len() < end {
                    held.resize(end, 0);
                }
                held[*offset..end].copy_from_slice(bytes);
            }
            Step::Rewrite { file, bytes } => {
                self.files.entry(*file).or_default().bytes = bytes.clone();
            }
            Step::Truncate { file, len } => {
                let held = &mut self.files.entry(*file).or_default().bytes;
                Arc::make_mut(held).resize(*len, 0);
            }
            Step::Mkdir { path } => {
                self.names.insert(path.clone(), Node::Dir);
            }
            Step::Rmdir { path } | Step::Unlink { path } => {
                self.names.remove(path);
            }
            Step::Rename { from, to } => self.rename(from, to),
            Step::Link { from, to } => {
                if let Some(node) = self.names.get(from).cloned() {
                    self.names.insert(to.clone(), node);
                }
            }
            Step::Symlink { path, target } => {
                self.names.insert(path.clone(), Node::Link(target.clone()));
            }
            Step::Chmod { path, mode } => {
                if let Some(Node::File(file)) = self.names.get(path) {
                    self.files.entry(*file).or_default().mode = *mode;
                }
            }
        }
    }

    fn rename(&mut self, from: &Path, to: &Path) {
        // Two names of one file: POSIX leaves both.
        if self.names.get(from) == self.names.get(to) && matches!(self.names.get(from), Some(Node::File(_))) {
            return;
        }
        let moved: Vec<PathBuf> = self
            .names
            .keys()
            .filter(|path| path.starts_with(from))
            .cloned()
            .collect();
        for path in moved {
            let Some(node) = self.names.remove(&path) else {
                continue;
            };
            let below = path.strip_prefix(from).unwrap_or(&path);
            let target = match below.as_os_str().is_empty() {
                true => to.to_path_buf(),
                false => to.join(below),
            };
            self.names.insert(target, node);
        }
    }

    /// What is really there. Files get identities by inode number.
    ///
    /// # Errors
    /// Anything that cannot be read, with its path.
    pub fn read(root: &Path) -> io::Result<Tree> {
        let mut tree = Tree::default();
        let mut pending = vec![PathBuf::new()];
        while let Some(dir) = pending.pop() {
            for entry in fs::read_dir(root.join(&dir)).map_err(at(&dir))? {
                let relative = dir.join(entry.map_err(at(&dir))?.file_name());
                let path = root.join(&relative);
                let meta = fs::symlink_metadata(&path).map_err(at(&relative))?;
                let node = if meta.is_dir() {
                    pending.push(relative.clone());
                    Node::Dir
                } else if meta.is_symlink() {
                    let target = fs::read_link(&path).map_err(at(&relative))?;
                    Node::Link(target.to_string_lossy().into_owned())
                } else {
                    let bytes = Arc::new(fs::read(&path).map_err(at(&relative))?);
                    if bytes.len() as u64 != meta.len() {
                        let text = format!("{} bytes came of {}", bytes.len(), meta.len());
                        return Err(at(&relative)(io::Error::other(text)));
                    }
                    let mode = meta.permissions().mode() & 0o7777;
                    tree.files.insert(meta.ino(), File { bytes, mode });
                    Node::File(meta.ino())
                };
                tree.names.insert(relative, node);
            }
        }
        Ok(tree)
    }

    /// How `found`, as it was read, differs from what must be there; `None` if it does not. Identities are matched by
    /// names. `except`: files whose bytes do not count.
    pub fn difference(&self, found: &Tree, except: &dyn Fn(&Path) -> bool) -> Option<String> {
        if let Some(path) = self.names.keys().find(|path| !found.names.contains_key(*path)) {
            return Some(format!("{} is missing", path.display()));
        }
        if let Some(path) = found.names.keys().find(|path| !self.names.contains_key(*path)) {
            return Some(format!("{} should not be there", path.display()));
        }
        let mut ids: BTreeMap<FileId, FileId> = BTreeMap::new();
        for (path, node) in &self.names {
            let shown = path.display();
            match (node, &found.names[path]) {
                (Node::Dir, Node::Dir) => {}
                (Node::Link(a), Node::Link(b)) if a == b => {}
                (Node::File(mine), Node::File(theirs)) => {
                    if *ids.entry(*mine).or_insert(*theirs) != *theirs {
                        return Some(format!("{shown} is no longer the same file as its other names"));
                    }
                    let (mine, theirs) = (&self.files[mine], &found.files[theirs]);
                    if mine.mode != theirs.mode {
                        return Some(format!("{shown}: mode {:o}, not {:o}", theirs.mode, mine.mode));
                    }
                    if mine.bytes != theirs.bytes && !except(path) {
                        return Some(format!(
                            "{shown}: {}",
                            bytes_difference(&mine.bytes, &theirs.bytes)
                        ));
                    }
                }
                (a, b) => return Some(format!("{shown}: {b:?}, not {a:?}")),
            }
        }
        None
    }

    /// The model after a crash: what was completed is there; the step under way is done, or not, or (a write) done in
    /// part. Gives the tree that the model goes on with.
    ///
    /// # Errors
    /// What is lost or wrong.
    pub fn after_crash(&self, under_way: Option<&Step>, found: &Tree) -> Result<Tree, String> {
        let Some(before) = self.difference(found, &|_| false) else {
            return Ok(self.clone());
        };
        let Some(step) = under_way else {
            return Err(before);
        };
        let mut done = self.clone();
        done.apply(step);
        let Some(after) = done.difference(found, &|_| false) else {
            return Ok(done);
        };
        let failed = format!("{before}; were the last call done ({step:?}): {after}");
        let Some(file) = step.file_torn() else {
            return Err(failed);
        };
        let name = self.names.iter().find(|(_, node)| **node == Node::File(file));
        let Some((name, _)) = name else {
            return Err(failed);
        };
        let Some(Node::File(id)) = found.names.get(name) else {
            return Err(failed);
        };
        let is_torn = |path: &Path| self.names.get(path) == Some(&Node::File(file));
        let real = &found.files[id].bytes;
        let (old, new) = (&self.files[&file].bytes, &done.files[&file].bytes);
        if let Step::Rewrite { bytes, .. } = step
            && bytes.starts_with(real)
            && self.difference(found, &is_torn).is_none()
        {
            let mut torn = self.clone();
            torn.files.entry(file).or_default().bytes = real.clone();
            return Ok(torn);
        }
        let size_fits = (old.len().min(new.len())..=old.len().max(new.len())).contains(&real.len());
        let bytes_fit = real.iter().enumerate().all(|(at, byte)| {
            // Beyond the old end a gap before the write reads as zeros.
            let was = old.get(at).unwrap_or(&0);
            byte == was || Some(byte) == new.get(at)
        });
        if !size_fits || !bytes_fit || self.difference(found, &is_torn).is_some() {
            return Err(failed);
        }
        let mut torn = self.clone();
        torn.files.entry(file).or_default().bytes = real.clone();
        Ok(torn)
    }

    /// Forgets files that have no name, when nothing holds them open any more.
    pub fn forget_nameless(&mut self) {
        let named: Vec<FileId> = self
            .names
            .values()
            .filter_map(|node| match node {
                Node::File(id) => Some(*id),
                Node::Dir | Node::Link(_) => None,
            })
            .collect();
        self.files.retain(|id, _| named.contains(id));
    }
}

/// Where bytes differ first, and whether it looks like a hole.
pub fn bytes_difference(wanted: &[u8], found: &[u8]) -> String {
    let same = wanted.iter().zip(found).take_while(|(a, b)| a == b).count();
    let zeros = found[same..].iter().take(4096).all(|byte| *byte == 0);
    format!(
        "{} bytes, not {}; the first difference is at {same}{}",
        found.len(),
        wanted.len(),
        if zeros { ", zeros from there" } else { "" }
    )
}

/// Adds the path to an error.
fn at(path: &Path) -> impl FnOnce(io::Error) -> io::Error {
    let path = path.to_path_buf();
    move |error| io::Error::new(error.kind(), format!("{}: {error}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tree(steps: &[Step]) -> Tree {
        let mut tree = Tree::default();
        steps.iter().for_each(|step| tree.apply(step));
        tree
    }

    fn write(offset: usize, bytes: &[u8]) -> Step {
        let bytes = Arc::new(bytes.to_vec());
        Step::Write {
            file: 1,
            offset,
            bytes,
        }
    }

    #[test]
    fn what_was_completed_must_be_there_and_a_write_under_way_may_be_half_done() {
        let path = PathBuf::from("f");
        let create = Step::Create { path, file: 1 };
        let before = tree(&[create.clone(), write(0, b"aaaa")]);
        let under_way = write(2, b"bbbb");
        let found = |bytes: &[u8]| tree(&[create.clone(), write(0, bytes)]);
        for allowed in [&b"aaaa"[..], b"aabbbb", b"aaab", b"aabab"] {
            assert!(
                before.after_crash(Some(&under_way), &found(allowed)).is_ok(),
                "{allowed:?}"
            );
        }
        for lost in [&b"aaa"[..], b"baaa", b"aabbbbb", b"aacc"] {
            assert!(
                before.after_crash(Some(&under_way), &found(lost)).is_err(),
                "{lost:?}"
            );
        }
        assert!(before.after_crash(None, &found(b"aabbbb")).is_err());
        assert!(before.after_crash(None, &Tree::default()).is_err());
    }
}
