//! A descriptor of /dev/fuse that a privileged helper has opened and mounted: `sailvol mount VOLUME /dev/fd/N`.
//!
//! As libfuse has it: the helper opens /dev/fuse, calls mount(2) with `fd=N`, and starts us with the descriptor inherited.
//! We need no privilege then, and no /dev/fuse. Unmounting is the helper's business.

use std::os::fd::{BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::path::{Path, PathBuf};

use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl, fstat};

use super::mountpoint::mount_of_connection;

/// Device number of /dev/fuse (Documentation/admin-guide/devices.txt of the kernel).
const FUSE_DEVICE: (u32, u32) = (10, 229);

/// The descriptor that a directory argument of the form `/dev/fd/N` names.
pub fn device_number(dir: &Path) -> Option<RawFd> {
    dir.to_str()?.strip_prefix("/dev/fd/")?.parse().ok()
}

/// Where an inherited descriptor is mounted, if that can be seen from here: newer kernels tell the connection's number, and
/// the mount must be in this process's mount namespace.
pub fn device_mount_point(number: RawFd) -> Option<PathBuf> {
    let text = std::fs::read_to_string(format!("/proc/self/fdinfo/{number}")).ok()?;
    let connection = text
        .lines()
        .find_map(|line| line.strip_prefix("fuse_connection:"))?;
    mount_of_connection(connection.trim().parse().ok()?)
}

/// An inherited descriptor, not used yet.
#[derive(Debug)]
pub struct FuseDevice(OwnedFd);

impl FuseDevice {
    /// Takes over an inherited descriptor.
    ///
    /// # Errors
    /// It is not open, or no /dev/fuse.
    pub fn take(number: RawFd) -> Result<FuseDevice, String> {
        let wrong = |why: String| {
            format!(
                "/dev/fd/{number} {why}: a helper has to open /dev/fuse, mount(2) it with fd={number}, and start sailvol \
                 with this descriptor inherited"
            )
        };
        // Standard input and output are spoken for.
        if number < 3 {
            return Err(wrong("is a standard stream".to_owned()));
        }
        // SAFETY: fcntl(2) on a number that is no descriptor answers EBADF.
        if unsafe { libc::fcntl(number, libc::F_GETFD) } < 0 {
            return Err(wrong("is not open".to_owned()));
        }
        // SAFETY: it is open now; it is only looked at, before anything is done with it.
        let stat = fstat(unsafe { BorrowedFd::borrow_raw(number) });
        let stat = stat.map_err(|e| wrong(format!("cannot be looked at ({e})")))?;
        let (major, minor) = (rustix::fs::major(stat.st_rdev), rustix::fs::minor(stat.st_rdev));
        if (major, minor) != FUSE_DEVICE {
            return Err(wrong("is not /dev/fuse".to_owned()));
        }
        // SAFETY: an open /dev/fuse that this process has not opened: inherited, and taken over once.
        let device = unsafe { OwnedFd::from_raw_fd(number) };
        // The session reads until something comes.
        let flags = fcntl_getfl(&device).map_err(|e| wrong(e.to_string()))?;
        fcntl_setfl(&device, flags - OFlags::NONBLOCK).map_err(|e| wrong(e.to_string()))?;
        rustix::io::fcntl_setfd(&device, rustix::io::FdFlags::CLOEXEC).map_err(|e| wrong(e.to_string()))?;
        Ok(FuseDevice(device))
    }

    pub(super) fn into_fd(self) -> OwnedFd {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_descriptors_of_the_device_are_taken() {
        assert_eq!(device_number(Path::new("/dev/fd/7")), Some(7));
        assert_eq!(device_number(Path::new("/dev/fd/x")), None);
        assert_eq!(device_number(Path::new("/shared")), None);
        assert!(FuseDevice::take(0).unwrap_err().contains("standard stream"));
        assert!(FuseDevice::take(100_000).unwrap_err().contains("not open"));
        let file = tempfile::tempfile().unwrap();
        let number = std::os::fd::IntoRawFd::into_raw_fd(file);
        assert!(FuseDevice::take(number).unwrap_err().contains("not /dev/fuse"));
    }
}
