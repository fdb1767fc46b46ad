//! A FUSE file system that does nothing: names are in a table, bytes are thrown away. What it takes for new files is what
//! the kernel's questions alone take; no file system in user space can be faster on this machine.

use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result};
use fuser::{
    Config, Errno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags, Generation, INodeNo, InitFlags,
    KernelConfig, LockOwner, MountOption, OpenFlags, ReplyAttr, ReplyCreate, ReplyEmpty, ReplyEntry,
    ReplyWrite, ReplyXattr, Request, SessionACL, WriteFlags,
};

use super::files::fresh_dir;
use super::peers::PeerMount;

/// What the kernel may believe.
const TTL: Duration = Duration::from_secs(3600);
/// Loop threads: as many as sailvol has on two cores.
const THREADS: usize = 2;

#[derive(Default)]
struct Empty {
    names: Mutex<HashMap<(u64, OsString), u64>>,
}

impl Empty {
    fn names(&self) -> std::sync::MutexGuard<'_, HashMap<(u64, OsString), u64>> {
        self.names
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    fn make(&self, parent: INodeNo, name: &OsStr, dir: bool) -> u64 {
        let mut names = self.names();
        let ino = (names.len() as u64 + 1) << 1 | u64::from(dir);
        names.insert((parent.0, name.to_owned()), ino);
        ino
    }
}

/// Directories have odd numbers.
fn attr(ino: u64) -> FileAttr {
    let now = SystemTime::now();
    let dir = ino & 1 == 1;
    FileAttr {
        ino: INodeNo(ino),
        size: 0,
        blocks: 0,
        atime: now,
        mtime: now,
        ctime: now,
        crtime: UNIX_EPOCH,
        kind: if dir {
            FileType::Directory
        } else {
            FileType::RegularFile
        },
        perm: if dir { 0o755 } else { 0o644 },
        nlink: 1,
        uid: 0,
        gid: 0,
        rdev: 0,
        blksize: 4096,
        flags: 0,
    }
}

impl Filesystem for Empty {
    fn init(&mut self, _: &Request, config: &mut KernelConfig) -> std::io::Result<()> {
        // As sailvol wishes it; a kernel without one of them is measured as it is.
        for wanted in [
            InitFlags::FUSE_ATOMIC_O_TRUNC,
            InitFlags::FUSE_PARALLEL_DIROPS,
            InitFlags::FUSE_HANDLE_KILLPRIV_V2,
        ] {
            let _ = config.add_capabilities(wanted);
        }
        Ok(())
    }

    fn lookup(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let known = self.names().get(&(parent.0, name.to_owned())).copied();
        match known {
            Some(ino) => reply.entry(&TTL, &attr(ino), Generation(0)),
            None => reply.error(Errno::ENOENT),
        }
    }

    fn getattr(&self, _: &Request, ino: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        reply.attr(&TTL, &attr(ino.0));
    }

    fn mkdir(&self, _: &Request, parent: INodeNo, name: &OsStr, _: u32, _: u32, reply: ReplyEntry) {
        let ino = self.make(parent, name, true);
        reply.entry(&TTL, &attr(ino), Generation(0));
    }

    fn create(&self, _: &Request, parent: INodeNo, name: &OsStr, _: u32, _: u32, _: i32, reply: ReplyCreate) {
        let ino = self.make(parent, name, false);
        reply.created(
            &TTL,
            &attr(ino),
            Generation(0),
            FileHandle(ino),
            FopenFlags::FOPEN_NOFLUSH | FopenFlags::FOPEN_KEEP_CACHE,
        );
    }

    fn write(
        &self,
        _: &Request,
        _: INodeNo,
        _: FileHandle,
        _: u64,
        data: &[u8],
        _: WriteFlags,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        reply.written(u32::try_from(data.len()).unwrap_or(u32::MAX));
    }

    fn getxattr(&self, _: &Request, _: INodeNo, _: &OsStr, _: u32, reply: ReplyXattr) {
        reply.error(Errno::ENODATA);
    }

    fn release(
        &self,
        _: &Request,
        _: INodeNo,
        _: FileHandle,
        _: OpenFlags,
        _: Option<LockOwner>,
        _: bool,
        reply: ReplyEmpty,
    ) {
        reply.ok();
    }
}

/// Serves it on a directory until it is unmounted.
///
/// # Errors
/// It cannot be mounted.
pub fn serve(dir: &Path) -> Result<()> {
    let mut config = Config::default();
    config.mount_options = vec![
        MountOption::FSName("empty".into()),
        MountOption::DefaultPermissions,
        MountOption::NoSuid,
        MountOption::NoDev,
    ];
    config.acl = SessionACL::Owner;
    config.n_threads = Some(THREADS);
    config.clone_fd = true;
    fuser::mount(Empty::default(), dir, &config).context("the empty file system")
}

/// Mounts it by a process of its own, so that its processor time can be told.
pub(super) fn mount(dir: &Path) -> Result<PeerMount> {
    fresh_dir(dir)?;
    let child = Command::new(std::env::current_exe()?)
        .arg("--serve-empty")
        .arg(dir)
        .stdin(Stdio::null())
        .spawn()?;
    PeerMount::of(child, dir.to_owned()).context("the empty file system")
}
