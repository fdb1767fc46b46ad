//! Files that the kernel reads and writes by itself: registered here, and whether that can be done at all.
//!
//! The kernel opens a registered file with the flags of the program. What programs may only read is therefore registered
//! through a mount of that one file, attached nowhere and read-only, until the file becomes a body
//! ([`KernelFile::allow_writes`]): a mistake of ours ends in EIO, not in a changed cache file.
//!
//! Ways that such a mount costs, measured on Linux 6.18 (two cores): made in 4 us, closed in 150 us, because the kernel
//! waits for readers of its mount tables. So it is closed on a thread of its own.

use std::ffi::{c_int, c_uint};
use std::fs::File;
use std::io::{self, Seek, SeekFrom, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::mpsc;

use fuser::BackingId;
use rustix::mount::{OpenTreeFlags, open_tree};

use crate::cache::{Unused, is_unused};
use crate::view::{Access, KernelFile, Passthrough};

/// Directories whose files are to be handed to the kernel.
#[derive(Clone, Debug)]
pub struct LocalPlaces {
    /// Where bodies are; none for a read-only mount.
    pub state: Option<PathBuf>,
    /// Where clean contents are.
    pub cache: PathBuf,
}

/// File system type of overlayfs (linux/magic.h).
const OVERLAYFS_MAGIC: u64 = 0x794c_7630;

impl LocalPlaces {
    /// How high file systems are stacked with the mount on top: 2 when a place lies on overlayfs. (Then overlayfs cannot
    /// lie on the mount in turn, so it is not 2 for all.)
    pub fn stack_depth(&self) -> u32 {
        let stacked = |dir: &Path| {
            rustix::fs::statfs(dir).is_ok_and(|found| u64::try_from(found.f_type) == Ok(OVERLAYFS_MAGIC))
        };
        let all = self.state.iter().chain([&self.cache]);
        if all.into_iter().any(|dir| stacked(dir)) {
            2
        } else {
            1
        }
    }
}

/// What the kernel can do, and why not more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// To be offered.
    pub offered: Passthrough,
    /// For people: `on`, or why not, or what is missing.
    pub explained: String,
}

impl Found {
    /// Nothing, for this reason.
    pub fn off(why: impl std::fmt::Display) -> Found {
        Found {
            offered: Passthrough::default(),
            explained: format!("off ({why}; file data passes through the daemon)"),
        }
    }
}

/// Asks the kernel by trying it with files of the real directories. `device` is the session's, after INIT; `offered` is
/// what that said.
pub fn probe(device: BorrowedFd<'_>, offered: bool, places: &LocalPlaces) -> Found {
    if !offered {
        return Found::off("the kernel does not offer it: that needs Linux 6.9 or later");
    }
    let cache = try_register(device, &places.cache);
    let state = places.state.as_deref().map(|dir| {
        try_register(device, dir)?;
        tells_writers(dir)
    });
    match (cache, state) {
        (Ok(()), Some(Ok(()))) => Found {
            offered: Passthrough {
                clean: true,
                bodies: true,
            },
            explained: "on".to_owned(),
        },
        (Ok(()), None) => Found {
            offered: Passthrough {
                clean: true,
                bodies: false,
            },
            explained: "on (for reading; the mount is read-only)".to_owned(),
        },
        (Ok(()), Some(Err(why))) => Found {
            offered: Passthrough {
                clean: true,
                bodies: false,
            },
            explained: format!("on for reading committed files only ({why})"),
        },
        (Err(why), Some(Ok(()))) => Found {
            offered: Passthrough {
                clean: false,
                bodies: true,
            },
            explained: format!("on for changed files only ({why})"),
        },
        (Err(why), _) => Found::off(why),
    }
}

/// Registers a file of a directory, through a mount of its own as the cache's are.
fn try_register(device: BorrowedFd<'_>, dir: &Path) -> Result<(), String> {
    let at = |what: &str, error: io::Error| format!("{what} {}: {error}", dir.display());
    let (path, file) = probe_file(dir).map_err(|e| at("a file in", e))?;
    let gate = ReadOnlyGate::new(&file);
    let removed = std::fs::remove_file(&path);
    let gate = gate.map_err(|e| match e.raw_os_error() {
        Some(libc::EPERM | libc::EACCES) => "it needs CAP_SYS_ADMIN".to_owned(),
        _ => at("a mount of a file in", e),
    })?;
    removed.map_err(|e| at("a file in", e))?;
    let id = BackingId::create_raw(device, gate.tree.as_fd()).map_err(|e| match e.raw_os_error() {
        Some(libc::EPERM | libc::EACCES) => "it needs CAP_SYS_ADMIN".to_owned(),
        Some(libc::EOPNOTSUPP | libc::ENOTTY) => "the kernel does not support it here".to_owned(),
        Some(libc::ELOOP) => format!(
            "{} lies on a file system that is stacked too high (overlayfs on overlayfs)",
            dir.display()
        ),
        _ => at("the kernel refuses files of", e),
    })?;
    close_backing(device, id).map_err(|e| at("the kernel keeps a file of", e))
}

fn probe_file(dir: &Path) -> io::Result<(PathBuf, File)> {
    let path = dir.join(format!(".passthrough-{}", std::process::id()));
    let mut options = File::options();
    options
        .read(true)
        .write(true)
        .create_new(true)
        .mode(0o600)
        .custom_flags(libc::O_NOFOLLOW);
    let file = match options.open(&path) {
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {
            std::fs::remove_file(&path)?;
            options.open(&path)?
        }
        other => other?,
    };
    Ok((path, file))
}

/// Whether the file system knows of a mapping that can still store after its file was closed: overlayfs does not.
fn tells_writers(dir: &Path) -> Result<(), String> {
    let at = |error: io::Error| format!("{}: {error}", dir.display());
    let (path, mut file) = probe_file(dir).map_err(at)?;
    let told = (|| {
        file.write_all(&[0; 4096])?;
        file.seek(SeekFrom::Start(0))?;
        let handle = File::options()
            .read(true)
            .custom_flags(libc::O_PATH)
            .open(&path)?;
        let mapping = Mapping::of(&file)?;
        drop(file);
        let mapped = is_unused(&handle, Unused::ForWriting);
        drop(mapping);
        Ok((mapped, is_unused(&handle, Unused::ForWriting)))
    })();
    let removed = std::fs::remove_file(&path);
    let told = told.map_err(at)?;
    removed.map_err(at)?;
    match told {
        (false, true) => Ok(()),
        (true, _) => Err(format!(
            "the file system of {} does not tell whether a file is still mapped for writing, as overlayfs; \
             --state-dir on another one brings more",
            dir.display()
        )),
        (false, false) => Err(format!("the file system of {} grants no leases", dir.display())),
    }
}

/// One page of a file, shared and writable.
struct Mapping(std::ptr::NonNull<std::ffi::c_void>);

const PAGE_BYTES: usize = 4096;

impl Mapping {
    fn of(file: &File) -> io::Result<Mapping> {
        let (protection, flags) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_SHARED);
        // SAFETY: a new mapping at an address that the kernel chooses; nobody reads or writes through it.
        let at = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                PAGE_BYTES,
                protection,
                flags,
                file.as_raw_fd(),
                0,
            )
        };
        match std::ptr::NonNull::new(at) {
            Some(at) if at.as_ptr() != libc::MAP_FAILED => Ok(Mapping(at)),
            _ => Err(io::Error::last_os_error()),
        }
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: mapped by `of` with this length, and not used by anybody.
        if unsafe { libc::munmap(self.0.as_ptr(), PAGE_BYTES) } != 0 {
            tracing::debug!(error = %io::Error::last_os_error(), "munmap");
        }
    }
}

/// A mount of one file, attached nowhere; read-only until it is opened.
#[derive(Debug)]
struct ReadOnlyGate {
    tree: OwnedFd,
}

/// `struct mount_attr` of linux/mount.h.
#[repr(C)]
#[derive(Default)]
struct MountAttr {
    set: u64,
    clear: u64,
    propagation: u64,
    user_ns: u64,
}

const MOUNT_ATTR_RDONLY: u64 = 1;

impl ReadOnlyGate {
    fn new(file: impl AsFd) -> io::Result<ReadOnlyGate> {
        let flags =
            OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::AT_EMPTY_PATH;
        let gate = ReadOnlyGate {
            tree: open_tree(file, "", flags)?,
        };
        gate.set(MountAttr {
            set: MOUNT_ATTR_RDONLY,
            ..MountAttr::default()
        })?;
        Ok(gate)
    }

    fn open(&self) -> io::Result<()> {
        self.set(MountAttr {
            clear: MOUNT_ATTR_RDONLY,
            ..MountAttr::default()
        })
    }

    fn set(&self, attr: MountAttr) -> io::Result<()> {
        let empty = c"";
        let flags = c_uint::try_from(libc::AT_EMPTY_PATH).unwrap_or(0);
        // SAFETY: mount_setattr(2) with a path and a structure of the size that is told, both alive during the call.
        let done = unsafe {
            libc::syscall(
                libc::SYS_mount_setattr,
                self.tree.as_raw_fd(),
                empty.as_ptr(),
                flags,
                &raw const attr,
                size_of::<MountAttr>(),
            )
        };
        if done == 0 {
            Ok(())
        } else {
            Err(io::Error::last_os_error())
        }
    }
}

/// A file that the kernel has.
#[derive(Debug)]
pub struct Registered {
    id: BackingId,
    gate: Option<ReadOnlyGate>,
    closer: Closer,
}

impl Registered {
    /// Registers a file by `register`, which gets what to register.
    pub fn new(
        file: BorrowedFd<'_>,
        access: Access,
        closer: &Closer,
        register: impl FnOnce(BorrowedFd<'_>) -> io::Result<BackingId>,
    ) -> io::Result<Registered> {
        let gate = match access {
            Access::ReadOnly => Some(ReadOnlyGate::new(file)?),
            Access::ReadWrite => None,
        };
        let id = register(gate.as_ref().map_or(file, |gate| gate.tree.as_fd()))?;
        Ok(Registered {
            id,
            gate,
            closer: closer.clone(),
        })
    }

    /// Its number in the kernel.
    pub fn id(&self) -> &BackingId {
        &self.id
    }
}

impl KernelFile for Registered {
    fn allow_writes(&self) -> io::Result<()> {
        self.gate.as_ref().map_or(Ok(()), ReadOnlyGate::open)
    }
}

impl Drop for Registered {
    fn drop(&mut self) {
        if let Some(gate) = self.gate.take() {
            self.closer.close(gate.tree);
        }
    }
}

/// A thread that closes what takes long to close.
#[derive(Clone, Debug)]
pub struct Closer(mpsc::Sender<OwnedFd>);

impl Closer {
    /// Starts the thread, which ends with the last of these.
    ///
    /// # Errors
    /// No more threads.
    pub fn start() -> io::Result<Closer> {
        let (send, queue) = mpsc::channel::<OwnedFd>();
        std::thread::Builder::new()
            .name("fuse-close".into())
            .spawn(move || queue.into_iter().for_each(drop))?;
        Ok(Closer(send))
    }

    fn close(&self, fd: OwnedFd) {
        // Without the thread it is closed here, with the error that gives it back.
        drop(self.0.send(fd));
    }
}

/// `FUSE_DEV_IOC_BACKING_CLOSE` of linux/fuse.h.
const BACKING_CLOSE: libc::c_ulong = 0x4004_e502;

/// For ids that were made without a reply to send them with.
fn close_backing(device: BorrowedFd<'_>, id: u32) -> io::Result<()> {
    // SAFETY: the ioctl reads one u32.
    let done: c_int = unsafe { libc::ioctl(device.as_raw_fd(), BACKING_CLOSE, &raw const id) };
    if done == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::FileExt;

    use super::*;

    #[test]
    fn a_file_system_that_tells_of_mappings_is_recognised() {
        let dir = tempfile::tempdir().unwrap();
        tells_writers(dir.path()).unwrap();
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
    }

    #[test]
    fn a_gate_refuses_writers_until_it_is_opened() {
        let dir = tempfile::tempdir().unwrap();
        let file = File::create(dir.path().join("f")).unwrap();
        let gate = ReadOnlyGate::new(&file).unwrap();
        let path = format!("/proc/self/fd/{}", gate.tree.as_raw_fd());
        let refused = File::options().write(true).open(&path).unwrap_err();
        assert_eq!(refused.raw_os_error(), Some(libc::EROFS));
        gate.open().unwrap();
        let writer = File::options().write(true).open(&path).unwrap();
        writer.write_all_at(b"now", 0).unwrap();
        assert_eq!(std::fs::read(dir.path().join("f")).unwrap(), b"now");
    }
}
