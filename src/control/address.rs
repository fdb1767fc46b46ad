//! Socket paths of any length: the kernel takes 107 bytes.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// Longest path in a socket address, bytes: `sun_path` of unix(7) without the closing zero.
const PATH_BYTES_MAX: usize = 107;

/// A socket's path as bind and connect take it; use it while this lives.
#[derive(Debug)]
pub(super) struct Address {
    path: PathBuf,
    /// What the path goes through, when the whole path is too long.
    _dir: Option<File>,
}

impl Address {
    /// The path itself, or a way to it through a descriptor of its directory.
    ///
    /// # Errors
    /// The directory cannot be opened.
    pub fn of(socket: &Path) -> io::Result<Address> {
        let parts = socket.parent().zip(socket.file_name());
        let Some((dir, name)) = parts.filter(|_| socket.as_os_str().as_bytes().len() > PATH_BYTES_MAX) else {
            return Ok(Address {
                path: socket.to_path_buf(),
                _dir: None,
            });
        };
        let dir = File::options()
            .read(true)
            .custom_flags(libc::O_PATH | libc::O_DIRECTORY)
            .open(dir)?;
        Ok(Address {
            path: Path::new("/proc/self/fd")
                .join(dir.as_raw_fd().to_string())
                .join(name),
            _dir: Some(dir),
        })
    }

    /// For bind and connect.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::{UnixListener, UnixStream};

    #[test]
    fn a_socket_in_a_deep_directory_is_reached() {
        let top = tempfile::tempdir().unwrap();
        let dir = top.path().join("d".repeat(120));
        std::fs::create_dir(&dir).unwrap();
        let socket = dir.join("s.sock");
        let _listener = UnixListener::bind(Address::of(&socket).unwrap().path()).unwrap();
        assert!(socket.exists());
        UnixStream::connect(Address::of(&socket).unwrap().path()).unwrap();
    }
}
