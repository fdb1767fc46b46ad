//! Directories as getdents gives them: in steps of any size, with inode numbers and types as they come.

use std::fs::File;
use std::io;
use std::mem::MaybeUninit;
use std::path::Path;

use rustix::fs::{FileType, RawDir, SeekFrom};

/// One line.
#[derive(Clone, Debug)]
pub struct Line {
    /// The name.
    pub name: String,
    /// `d_ino`.
    pub ino: u64,
    /// `d_type`.
    pub kind: FileType,
}

/// Opens a directory.
///
/// # Errors
/// What the mount says.
pub fn open(path: &Path) -> io::Result<File> {
    let flags = rustix::fs::OFlags::DIRECTORY | rustix::fs::OFlags::CLOEXEC;
    Ok(rustix::fs::open(path, flags, rustix::fs::Mode::empty())?.into())
}

/// rewinddir.
///
/// # Errors
/// What the mount says.
pub fn rewind(dir: &File) -> io::Result<()> {
    rustix::fs::seek(dir, SeekFrom::Start(0))?;
    Ok(())
}

/// Reads from where the handle stands to the end, `step` bytes a call. `between` is called after each call that gave lines,
/// with how many calls that were.
///
/// # Errors
/// What the mount says.
pub fn read(dir: &File, step: usize, mut between: impl FnMut(u64)) -> io::Result<Vec<Line>> {
    let mut buffer = vec![MaybeUninit::uninit(); step];
    let (mut raw, mut lines, mut calls) = (RawDir::new(dir, &mut buffer), Vec::new(), 0);
    loop {
        let asks = raw.is_buffer_empty();
        let Some(line) = raw.next() else {
            // A directory without lines was asked all the same.
            if calls == 0 {
                between(1);
            }
            return Ok(lines);
        };
        let line = line?;
        let name = line.file_name().to_string_lossy().into_owned();
        if name != "." && name != ".." {
            let (ino, kind) = (line.ino(), line.file_type());
            lines.push(Line { name, ino, kind });
        }
        if asks {
            calls += 1;
            between(calls);
        }
    }
}
