//! Standard error as a log file that stays small.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::Mutex;

/// A log that is longer is put aside, as `daemon.log.old`; so both together take twice this, bytes.
pub(super) const LOG_BYTES_MAX: u64 = 8 << 20;

/// Where lines go: standard error, which may be a file of ours.
pub(super) struct LogFile {
    path: Option<PathBuf>,
    /// Bytes in the file.
    written: Mutex<u64>,
    bytes_max: u64,
}

impl LogFile {
    pub fn new(path: Option<PathBuf>) -> LogFile {
        let found = rustix::fs::fstat(std::io::stderr());
        let written = found.map_or(0, |found| u64::try_from(found.st_size).unwrap_or(0));
        LogFile {
            path,
            written: Mutex::new(written),
            bytes_max: LOG_BYTES_MAX,
        }
    }

    fn write(&self, bytes: &[u8], to: &mut dyn Write) -> io::Result<()> {
        let Some(path) = &self.path else {
            return to.write_all(bytes);
        };
        let mut written = self.written.lock();
        if *written + bytes.len() as u64 > self.bytes_max {
            *written = begin_anew(path)?;
        }
        to.write_all(bytes)?;
        *written += bytes.len() as u64;
        Ok(())
    }
}

/// Puts the log aside and begins another one, which is standard error from then on: also what the runtime of the language
/// writes there. Where that cannot be (no room, no descriptors) the old one is cut: a log must not fill the disk that
/// uncommitted work needs. Gives the length of the log now.
fn begin_anew(path: &Path) -> io::Result<u64> {
    let begun = put_aside(path).and_then(|file| Ok(rustix::stdio::dup2_stderr(&file)?));
    if begun.is_err() {
        rustix::fs::ftruncate(std::io::stderr(), 0)?;
    }
    Ok(0)
}

fn put_aside(path: &Path) -> io::Result<File> {
    std::fs::rename(path, path.with_extension("log.old"))?;
    OpenOptions::new()
        .append(true)
        .create_new(true)
        .mode(0o600)
        .custom_flags(libc::O_NOFOLLOW)
        .open(path)
}

/// Writes lines to it; the subscriber hands each over whole.
pub(super) struct Lines(Arc<LogFile>);

impl Lines {
    pub fn of(file: Arc<LogFile>) -> Lines {
        Lines(file)
    }
}

impl Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.write(bytes, &mut std::io::stderr())?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        std::io::stderr().flush()
    }
}
