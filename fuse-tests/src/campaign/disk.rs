//! A disk that can lose power at any moment: a block device whose writes are only certain once they were flushed.
//!
//! It is a file system of two files, served by this process, on which loop devices stand: what the kernel writes to the
//! device comes here as a write, what it flushes as an fsync. A cut takes what was flushed, and of what was written
//! since, sector by sector, what the dice leave: so unflushed writes are dropped, torn and reordered as a real disk's
//! cache may do it, while the machine itself goes on.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::fs;
use std::io;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use fuser::{
    BackgroundSession, Config, Errno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags, Generation,
    INodeNo, LockOwner, MountOption, OpenFlags, ReplyAttr, ReplyData, ReplyEmpty, ReplyEntry, ReplyOpen,
    ReplyWrite, Request, WriteFlags,
};
use parking_lot::Mutex;
use rustix::mount::UnmountFlags;

use super::random::Random;

/// Bytes that a disk writes whole or not at all.
const SECTOR_BYTES: usize = 512;
/// Unit of what is kept in memory, bytes.
const BLOCK_BYTES: usize = 4096;
/// Attributes may be remembered: sizes never change.
const TTL: Duration = Duration::from_secs(3600);

/// What the kernel has open without a process having it (passthrough) is closed within this.
const RELEASE_TIME: Duration = Duration::from_secs(10);

type Block = Arc<[u8; BLOCK_BYTES]>;
type Blocks = HashMap<u64, Block>;

/// A disk's bytes: as they are read, and as they are certain.
#[derive(Debug, Default)]
struct Disk {
    live: Blocks,
    flushed: Blocks,
    /// Written since the last flush.
    unflushed: Vec<(u64, Vec<u8>)>,
}

fn write(blocks: &mut Blocks, offset: u64, mut bytes: &[u8]) {
    let mut at = offset;
    while !bytes.is_empty() {
        let start = (at % BLOCK_BYTES as u64) as usize;
        let len = bytes.len().min(BLOCK_BYTES - start);
        let block = blocks
            .entry(at / BLOCK_BYTES as u64)
            .or_insert_with(|| Arc::new([0; BLOCK_BYTES]));
        Arc::make_mut(block)[start..start + len].copy_from_slice(&bytes[..len]);
        bytes = &bytes[len..];
        at += len as u64;
    }
}

impl Disk {
    fn of(blocks: Blocks) -> Disk {
        Disk {
            live: blocks.clone(),
            flushed: blocks,
            unflushed: Vec::new(),
        }
    }

    fn read(&self, offset: u64, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        let mut done = 0;
        while done < len {
            let at = offset + done as u64;
            let start = (at % BLOCK_BYTES as u64) as usize;
            let part = (len - done).min(BLOCK_BYTES - start);
            if let Some(block) = self.live.get(&(at / BLOCK_BYTES as u64)) {
                bytes[done..done + part].copy_from_slice(&block[start..start + part]);
            }
            done += part;
        }
        bytes
    }

    fn write(&mut self, offset: u64, bytes: &[u8]) {
        write(&mut self.live, offset, bytes);
        self.unflushed.push((offset, bytes.to_vec()));
    }

    fn flush(&mut self) {
        self.unflushed.clear();
        self.flushed.clone_from(&self.live);
    }

    /// What is left when the power goes now.
    fn cut(&self, random: &mut Random) -> Blocks {
        let mut left = self.flushed.clone();
        // All, none, or any part: disks differ.
        let percent = *random.pick(&[0, 20, 50, 80, 100]).unwrap_or(&50);
        for (offset, bytes) in &self.unflushed {
            let whole = random.chance(90);
            let kept = random.chance(percent);
            for (n, sector) in bytes.chunks(SECTOR_BYTES).enumerate() {
                if if whole { kept } else { random.chance(percent) } {
                    write(&mut left, offset + (n * SECTOR_BYTES) as u64, sector);
                }
            }
        }
        left
    }
}

/// Inode of a disk: the root is 1.
fn ino(index: usize) -> INodeNo {
    INodeNo(index as u64 + 2)
}

/// The file system: each disk is a file.
struct Files {
    disks: Arc<[Mutex<Disk>; 2]>,
    disk_bytes: u64,
}

impl Files {
    fn disk(&self, node: INodeNo) -> Option<&Mutex<Disk>> {
        (0..2)
            .find(|index| ino(*index) == node)
            .map(|index| &self.disks[index])
    }

    fn attr(&self, node: INodeNo) -> FileAttr {
        let is_root = node == INodeNo::ROOT;
        let time = SystemTime::UNIX_EPOCH;
        FileAttr {
            ino: node,
            size: if is_root { 0 } else { self.disk_bytes },
            blocks: 0,
            atime: time,
            mtime: time,
            ctime: time,
            crtime: time,
            kind: if is_root {
                FileType::Directory
            } else {
                FileType::RegularFile
            },
            perm: if is_root { 0o700 } else { 0o600 },
            nlink: 1,
            uid: 0,
            gid: 0,
            rdev: 0,
            blksize: BLOCK_BYTES as u32,
            flags: 0,
        }
    }
}

impl Filesystem for Files {
    fn lookup(&self, _: &Request, _: INodeNo, name: &OsStr, reply: ReplyEntry) {
        match (0..2).find(|index| OsStr::new(&index.to_string()) == name) {
            Some(index) => reply.entry(&TTL, &self.attr(ino(index)), Generation(0)),
            None => reply.error(Errno::ENOENT),
        }
    }

    fn getattr(&self, _: &Request, node: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        reply.attr(&TTL, &self.attr(node));
    }

    fn open(&self, _: &Request, _: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        reply.opened(FileHandle(0), FopenFlags::empty());
    }

    fn read(
        &self,
        _: &Request,
        node: INodeNo,
        _: FileHandle,
        offset: u64,
        size: u32,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyData,
    ) {
        match self.disk(node) {
            Some(disk) => {
                let len = u64::from(size).min(self.disk_bytes.saturating_sub(offset)) as usize;
                reply.data(&disk.lock().read(offset, len));
            }
            None => reply.error(Errno::EISDIR),
        }
    }

    fn write(
        &self,
        _: &Request,
        node: INodeNo,
        _: FileHandle,
        offset: u64,
        data: &[u8],
        _: WriteFlags,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        match self.disk(node) {
            Some(disk) => {
                disk.lock().write(offset, data);
                reply.written(data.len() as u32);
            }
            None => reply.error(Errno::EISDIR),
        }
    }

    fn fsync(&self, _: &Request, node: INodeNo, _: FileHandle, _: bool, reply: ReplyEmpty) {
        if let Some(disk) = self.disk(node) {
            disk.lock().flush();
        }
        reply.ok();
    }

    fn flush(&self, _: &Request, _: INodeNo, _: FileHandle, _: LockOwner, reply: ReplyEmpty) {
        reply.ok();
    }
}

/// A machine's disk, with an ext4 on it, that can be cut off and put into the next machine.
#[derive(Debug)]
pub struct PowerCut {
    disks: Arc<[Mutex<Disk>; 2]>,
    current: usize,
    dir: PathBuf,
    mounted_at: Option<PathBuf>,
    session: Option<BackgroundSession>,
}

impl PowerCut {
    /// A fresh disk; `dir` is an empty directory for its files. Needs root and loop devices.
    ///
    /// # Errors
    /// What the system or mkfs says.
    pub fn new(dir: &Path, disk_bytes: u64) -> io::Result<PowerCut> {
        let files = dir.join("files");
        fs::create_dir(&files)?;
        let first = Disk::of(formatted(&dir.join("image"), disk_bytes)?);
        let disks = Arc::new([Mutex::new(first), Mutex::default()]);
        let mut config = Config::default();
        config.mount_options = vec![MountOption::FSName("power-cut".into())];
        let served = Files {
            disks: disks.clone(),
            disk_bytes,
        };
        let session = fuser::spawn_mount(served, &files, &config)?;
        Ok(PowerCut {
            disks,
            current: 0,
            dir: dir.to_path_buf(),
            mounted_at: None,
            session: Some(session),
        })
    }

    /// Mounts what is on the disk; ext4 replays its own journal.
    ///
    /// # Errors
    /// What mount(8) says.
    pub fn mount(&mut self, at: &Path) -> io::Result<()> {
        let file = self.dir.join("files").join(self.current.to_string());
        let mut command = Command::new("mount");
        command
            .args(["-t", "ext4", "-o", "loop,errors=remount-ro"])
            .arg(file)
            .arg(at);
        succeed(&mut command)?;
        self.mounted_at = Some(at.to_path_buf());
        Ok(())
    }

    /// The power goes now. What is mounted stays so for as long as its users need to end; [`Self::replace`] then.
    pub fn cut(&self, random: &mut Random) {
        let left = self.disks[self.current].lock().cut(random);
        *self.disks[1 - self.current].lock() = Disk::of(left);
    }

    /// Unmounts the disk that was cut off; the next mount is of what was left.
    ///
    /// # Errors
    /// Something still uses it.
    pub fn replace(&mut self) -> io::Result<()> {
        self.unmount()?;
        *self.disks[self.current].lock() = Disk::default();
        self.current = 1 - self.current;
        Ok(())
    }

    /// First the file system is stopped: it writes no more, so that its end never waits for this process, which
    /// serves the disk and may be ending itself. What the kernel still has open in it for a moment is waited for.
    fn unmount(&mut self) -> io::Result<()> {
        let Some(at) = self.mounted_at.take() else {
            return Ok(());
        };
        stop_file_system(&at)?;
        let deadline = Instant::now() + RELEASE_TIME;
        loop {
            match rustix::mount::unmount(&at, UnmountFlags::empty()) {
                Err(rustix::io::Errno::BUSY) if Instant::now() < deadline => {
                    std::thread::sleep(Duration::from_millis(5));
                }
                Err(error) => {
                    rustix::mount::unmount(&at, UnmountFlags::DETACH)?;
                    return Err(error.into());
                }
                Ok(()) => return Ok(()),
            }
        }
    }
}

/// `FS_IOC_SHUTDOWN` of linux/fs.h without a last flush: everything from here on fails.
fn stop_file_system(at: &Path) -> io::Result<()> {
    const SHUTDOWN: libc::c_ulong = 0x8004_587d;
    let no_log_flush: u32 = 2;
    let dir = fs::File::open(at)?;
    // SAFETY: the ioctl reads one u32.
    match unsafe { libc::ioctl(dir.as_raw_fd(), SHUTDOWN, &raw const no_log_flush) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

impl Drop for PowerCut {
    fn drop(&mut self) {
        if let Err(error) = self.unmount() {
            eprintln!("a disk stays mounted: {error}");
        }
        if let Some(Err(error)) = self.session.take().map(BackgroundSession::umount_and_join) {
            eprintln!("files of a disk stay mounted: {error}");
        }
    }
}

/// The blocks of an empty ext4.
fn formatted(image: &Path, disk_bytes: u64) -> io::Result<Blocks> {
    fs::File::create(image)?.set_len(disk_bytes)?;
    let features = "lazy_itable_init=0,lazy_journal_init=0";
    let mut command = Command::new("mkfs.ext4");
    // A short commit interval is the mount's; a small journal makes it wrap.
    command
        .args(["-q", "-F", "-E", features, "-J", "size=4"])
        .arg(image);
    succeed(&mut command)?;
    let bytes = fs::read(image)?;
    fs::remove_file(image)?;
    let mut blocks = Blocks::new();
    for (n, block) in bytes.chunks(BLOCK_BYTES).enumerate() {
        if block.iter().any(|byte| *byte != 0) {
            write(&mut blocks, (n * BLOCK_BYTES) as u64, block);
        }
    }
    Ok(blocks)
}

/// Runs a command that must succeed.
pub(super) fn succeed(command: &mut Command) -> io::Result<()> {
    let output = command.output()?;
    match output.status.success() {
        true => Ok(()),
        false => Err(io::Error::other(format!(
            "{command:?}: {}",
            String::from_utf8_lossy(&output.stderr).trim()
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cut_keeps_what_was_flushed_and_any_part_of_the_rest() {
        let mut disk = Disk::default();
        disk.write(0, &[1; 8192]);
        disk.flush();
        disk.write(512, &[2; 1024]);
        let (mut some_dropped, mut some_kept) = (false, false);
        for seed in 0..50 {
            let left = Disk::of(disk.cut(&mut Random::new(seed))).read(0, 8192);
            for (n, sector) in left.chunks(SECTOR_BYTES).enumerate() {
                let may_be_new = (1..3).contains(&n);
                assert!(sector == [1; SECTOR_BYTES] || (may_be_new && sector == [2; SECTOR_BYTES]));
                some_kept |= sector[0] == 2;
                some_dropped |= may_be_new && sector[0] == 1;
            }
        }
        assert!(some_kept && some_dropped);
    }
}
