//! One of the two directories: runs steps, tells what came of them, and how everything looks.

use std::collections::BTreeMap;
use std::ffi::CString;
use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{
    AtFlags, CWD, FallocateFlags, FileType, Mode, RenameFlags, Timespec, Timestamps, XattrFlags,
};

use super::program::Step;

/// What a step says: the same on both sides, or there is a difference.
pub type Answer = Result<String, i32>;

/// One side.
pub struct Side {
    root: PathBuf,
    open: BTreeMap<u8, File>,
}

impl Side {
    /// In a directory, which is there.
    pub fn new(root: PathBuf) -> Side {
        Side {
            root,
            open: BTreeMap::new(),
        }
    }

    /// Closes all files.
    pub fn close_all(&mut self) {
        self.open.clear();
    }

    /// Runs a step; `Err` holds the errno.
    pub fn run(&mut self, step: &Step) -> Answer {
        self.answer(step).map_err(|error| {
            let errno = error.raw_os_error();
            errno.unwrap_or_else(|| panic!("{step:?}: {error}"))
        })
    }

    fn at(&self, path: &str) -> PathBuf {
        self.root.join(path)
    }

    fn answer(&mut self, step: &Step) -> io::Result<String> {
        let done = Ok(String::new());
        match step {
            Step::Write {
                path,
                at,
                len,
                byte,
                cut,
            } => {
                let mut options = writing();
                let file = options.create(true).truncate(*cut).open(self.at(path))?;
                file.write_all_at(&vec![*byte; *len], *at)?;
                Ok(file.metadata()?.len().to_string())
            }
            Step::Append { path, len, byte } => {
                let mut options = OpenOptions::new();
                options.append(true).create(true).custom_flags(libc::O_NONBLOCK);
                let mut file = options.open(self.at(path))?;
                file.write_all(&vec![*byte; *len])?;
                Ok(file.metadata()?.len().to_string())
            }
            Step::Read { path } => {
                let mut options = OpenOptions::new();
                let file = options
                    .read(true)
                    .custom_flags(libc::O_NONBLOCK)
                    .open(self.at(path))?;
                digest(&file)
            }
            Step::Truncate { path, len } => {
                let file = writing().open(self.at(path))?;
                file.set_len(*len)?;
                done
            }
            Step::Create { path, mode } => {
                let mut options = OpenOptions::new();
                options
                    .write(true)
                    .create_new(true)
                    .mode(*mode)
                    .open(self.at(path))?;
                done
            }
            Step::Mkdir { path, mode } => {
                rustix::fs::mkdir(self.at(path), Mode::from_raw_mode(*mode))?;
                done
            }
            Step::Rmdir { path } => fs::remove_dir(self.at(path)).and(done),
            Step::Unlink { path } => fs::remove_file(self.at(path)).and(done),
            Step::Rename { from, to, how } => {
                let flags = match how {
                    0 => RenameFlags::empty(),
                    1 => RenameFlags::NOREPLACE,
                    _ => RenameFlags::EXCHANGE,
                };
                rustix::fs::renameat_with(CWD, self.at(from), CWD, self.at(to), flags)?;
                done
            }
            Step::Link { from, to } => fs::hard_link(self.at(from), self.at(to)).and(done),
            Step::Symlink { path, target } => std::os::unix::fs::symlink(target, self.at(path)).and(done),
            Step::Fifo { path } => {
                rustix::fs::mknodat(CWD, self.at(path), FileType::Fifo, Mode::from_raw_mode(0o640), 0)?;
                done
            }
            Step::Chmod { path, mode } => {
                fs::set_permissions(self.at(path), Permissions::from_mode(*mode)).and(done)
            }
            Step::Chown { path, uid, gid } => std::os::unix::fs::lchown(self.at(path), *uid, *gid).and(done),
            Step::Touch { path, secs, nanos } => {
                let time = Timespec {
                    tv_sec: *secs,
                    tv_nsec: i64::from(*nanos),
                };
                let times = Timestamps {
                    last_access: time,
                    last_modification: time,
                };
                rustix::fs::utimensat(CWD, self.at(path), &times, AtFlags::SYMLINK_NOFOLLOW)?;
                let found = fs::symlink_metadata(self.at(path))?;
                Ok(format!("{}.{:09}", found.mtime(), found.mtime_nsec()))
            }
            Step::SetXattr { path, key, len } => {
                rustix::fs::setxattr(
                    self.at(path),
                    key.as_str(),
                    &vec![b'v'; *len],
                    XattrFlags::empty(),
                )?;
                done
            }
            Step::RemoveXattr { path, key } => {
                rustix::fs::removexattr(self.at(path), key.as_str())?;
                done
            }
            Step::Stat { path } => looks(&self.at(path)),
            Step::List { path } => {
                let mut names = Vec::new();
                for entry in fs::read_dir(self.at(path))? {
                    let entry = entry?;
                    names.push(format!("{:?} {:?}", entry.file_name(), entry.file_type()?));
                }
                names.sort();
                Ok(names.join(", "))
            }
            Step::Punch { path, at, len } => {
                let file = writing().open(self.at(path))?;
                let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
                rustix::fs::fallocate(&file, flags, *at, *len)?;
                done
            }
            Step::Zero { path, at, len, grow } => {
                let file = writing().open(self.at(path))?;
                let keep = if *grow {
                    FallocateFlags::empty()
                } else {
                    FallocateFlags::KEEP_SIZE
                };
                rustix::fs::fallocate(&file, FallocateFlags::ZERO_RANGE | keep, *at, *len)?;
                Ok(file.metadata()?.len().to_string())
            }
            Step::Allocate { path, at, len } => {
                let file = writing().open(self.at(path))?;
                rustix::fs::fallocate(&file, FallocateFlags::empty(), *at, *len)?;
                Ok(file.metadata()?.len().to_string())
            }
            Step::Copy {
                from,
                to,
                from_at,
                to_at,
                len,
            } => {
                let source = File::options()
                    .read(true)
                    .custom_flags(libc::O_NONBLOCK)
                    .open(self.at(from))?;
                let target = writing().create(true).truncate(false).open(self.at(to))?;
                copy(&source, &target, *from_at, *to_at, *len)
            }
            Step::Map { path, at, len, byte } => {
                let file = OpenOptions::new()
                    .read(true)
                    .write(true)
                    .custom_flags(libc::O_NONBLOCK)
                    .open(self.at(path))?;
                store_mapped(&file, *at, *len, *byte)?;
                digest(&file)
            }
            Step::Open { slot, path, append } => {
                let mut options = OpenOptions::new();
                options
                    .read(true)
                    .append(*append)
                    .write(true)
                    .custom_flags(libc::O_NONBLOCK);
                let file = options.open(self.at(path))?;
                // A fifo would make reading and writing wait for each other.
                if file.metadata()?.is_file() {
                    self.open.insert(*slot, file);
                }
                done
            }
            Step::WriteOpen { slot, at, len, byte } => self.with(*slot, |file| {
                file.write_all_at(&vec![*byte; *len], *at)?;
                Ok(format!("{} {}", file.metadata()?.len(), file.metadata()?.nlink()))
            }),
            Step::ReadOpen { slot } => self.with(*slot, digest),
            Step::TruncateOpen { slot, len } => {
                self.with(*slot, |file| file.set_len(*len).and(Ok(String::new())))
            }
            Step::Sync { slot } => self.with(*slot, |file| file.sync_all().and(Ok(String::new()))),
            Step::Close { slot } => Ok(self.open.remove(slot).is_some().to_string()),
            Step::Grow { path, entries } => {
                let dir = self.at(path);
                fs::create_dir(&dir)?;
                for number in 0..*entries {
                    fs::write(
                        dir.join(format!("entry-{number}")),
                        vec![b'g'; number as usize * 3],
                    )?;
                }
                done
            }
            Step::Clear { path } => {
                let path = self.at(path);
                if fs::symlink_metadata(&path)?.is_dir() {
                    fs::remove_dir_all(path)?;
                }
                done
            }
            Step::Event(event) => panic!("{event:?} is not for a side"),
        }
    }

    fn with(&self, slot: u8, run: impl FnOnce(&File) -> io::Result<String>) -> io::Result<String> {
        match self.open.get(&slot) {
            Some(file) => run(file),
            None => Ok("closed".into()),
        }
    }

    /// Everything below the directory, as both sides must have it.
    pub fn tree(&self) -> BTreeMap<PathBuf, String> {
        tree(&self.root, &|path| {
            let what = looks(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
            format!("{what} {}", contents(path))
        })
    }
}

/// Everything below a directory as one mount must show it always: times and numbers too.
pub fn exact_tree(root: &Path) -> BTreeMap<PathBuf, String> {
    tree(root, &|path| {
        let meta = fs::symlink_metadata(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        format!(
            "{} {} ino {} mtime {}.{:09} ctime {}.{:09}",
            looks(path).unwrap(),
            contents(path),
            meta.ino(),
            meta.mtime(),
            meta.mtime_nsec(),
            meta.ctime(),
            meta.ctime_nsec()
        )
    })
}

fn tree(root: &Path, look: &impl Fn(&Path) -> String) -> BTreeMap<PathBuf, String> {
    let mut all = BTreeMap::new();
    let mut dirs = vec![root.to_owned()];
    while let Some(dir) = dirs.pop() {
        for entry in fs::read_dir(&dir).unwrap_or_else(|error| panic!("{}: {error}", dir.display())) {
            let path = entry.unwrap().path();
            if fs::symlink_metadata(&path).unwrap().is_dir() {
                dirs.push(path.clone());
            }
            let below = path.strip_prefix(root).unwrap().to_owned();
            all.insert(below, look(&path));
        }
    }
    all
}

/// Kind, mode, owner, links, size, target and extended attributes.
fn looks(path: &Path) -> io::Result<String> {
    let meta = fs::symlink_metadata(path)?;
    // A directory's size is the filesystem's own business.
    let size = if meta.is_dir() { 0 } else { meta.len() };
    let mut text = format!(
        "{:o} {}:{} links {} size {size}",
        meta.mode(),
        meta.uid(),
        meta.gid(),
        meta.nlink()
    );
    if meta.is_symlink() {
        text += &format!(" -> {:?}", fs::read_link(path)?);
    }
    if meta.is_file() || meta.is_dir() {
        let mut list = vec![0u8; 4096];
        let len = rustix::fs::listxattr(path, &mut list[..])?;
        let mut keys: Vec<&[u8]> = list[..len]
            .split(|byte| *byte == 0)
            .filter(|key| !key.is_empty())
            .collect();
        keys.sort();
        for key in keys {
            let mut value = vec![0u8; 4096];
            let name = CString::new(key)?;
            let len = rustix::fs::getxattr(path, name.as_c_str(), &mut value[..])?;
            text += &format!(" {}={len}", String::from_utf8_lossy(key));
        }
    }
    Ok(text)
}

fn contents(path: &Path) -> String {
    match fs::symlink_metadata(path) {
        Ok(meta) if meta.is_file() => File::open(path).and_then(|file| digest(&file)).unwrap(),
        _ => String::new(),
    }
}

/// Length and checksum of all bytes.
fn digest(file: &File) -> io::Result<String> {
    let mut sum = 0xcbf2_9ce4_8422_2325_u64;
    let mut buffer = vec![0; 1 << 18];
    let mut at = 0;
    loop {
        let len = file.read_at(&mut buffer, at)?;
        if len == 0 {
            return Ok(format!("{at} bytes {sum:016x}"));
        }
        for word in buffer[..len].chunks(8) {
            let mut bytes = [0; 8];
            bytes[..word.len()].copy_from_slice(word);
            sum = (sum ^ u64::from_le_bytes(bytes))
                .wrapping_mul(0x0100_0000_01b3)
                .rotate_left(23);
        }
        at += len as u64;
    }
}

fn writing() -> OpenOptions {
    let mut options = OpenOptions::new();
    // A fifo without a reader is an error then, not a wait.
    options.write(true).custom_flags(libc::O_NONBLOCK);
    options
}

/// Copies until nothing is left; one call may copy less.
fn copy(source: &File, target: &File, from: u64, to: u64, len: usize) -> io::Result<String> {
    let (mut from, mut to, mut left) = (from, to, len);
    while left > 0 {
        let copied = rustix::fs::copy_file_range(source, Some(&mut from), target, Some(&mut to), left)?;
        if copied == 0 {
            break;
        }
        left -= copied;
    }
    Ok((len - left).to_string())
}

/// Fills a range within the file through a shared mapping.
fn store_mapped(file: &File, at: u64, len: usize, byte: u8) -> io::Result<()> {
    let size = usize::try_from(file.metadata()?.len()).unwrap();
    let start = usize::try_from(at).unwrap().min(size);
    let end = start.saturating_add(len).min(size);
    if size == 0 || start == end {
        return Ok(());
    }
    // SAFETY: a new mapping of the whole file, at a place that the system chooses; nothing else knows of it.
    let map = unsafe {
        libc::mmap(
            std::ptr::null_mut(),
            size,
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_SHARED,
            file.as_raw_fd(),
            0,
        )
    };
    if map == libc::MAP_FAILED {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the range lies within the mapping, nobody else has a reference into it, and nobody cuts the file meanwhile.
    unsafe {
        std::slice::from_raw_parts_mut(map.cast::<u8>(), size)[start..end].fill(byte);
        let synced = libc::msync(map, size, libc::MS_SYNC);
        let error = io::Error::last_os_error();
        libc::munmap(map, size);
        if synced != 0 {
            return Err(error);
        }
    }
    Ok(())
}
