//! The root of a directory store, held open for one request, and which store it is.
//!
//! A root can vanish under a process that works with it: its disk is unmounted, its file server is gone, somebody moves it
//! away. What its path leads to then is nothing, or the empty directory on which the disk was mounted, or another store;
//! bytes that were written there would be acknowledged and never seen again. So:
//! 1. A root comes into being only where a store is founded ([`Inner::establish`]), which writes a marker into it: a file
//!    with a random identity.
//! 2. A request opens the root once and works below that descriptor alone, so that it is about one directory from its
//!    beginning to its end, whatever happens to the path meanwhile. Nothing keeps the root open between requests: its
//!    disk can be unmounted at any time.
//! 3. A handle remembers the identity that it met first. Whatever else is at the path later is an absent store
//!    ([`StoreError::Unreachable`]): the request may be repeated, and goes through when the store is back.
//! 4. Roots of before there were markers hold objects and no marker; the first write gives them one. A directory with
//!    neither holds no store.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, Dir, FileType, Mode, OFlags, Stat};
use rustix::io::Errno;

use super::super::StoreError;
use super::{Inner, TEMP_DIR, TempFile, link_new, make_temp_dir, other_error, write_error};

/// The file that says which store a root is: 32 hexadecimal digits and a line end.
pub(super) const MARKER: &str = ".sailvol-store";
/// Longest marker that is looked at, bytes.
const MARKER_BYTES_MAX: u64 = 64;

/// Which store lies in a root.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Identity {
    /// One of before there were markers.
    Unmarked,
    /// That of the marker.
    Marked([u8; 16]),
}

/// The directory that the store's path led to when a request began.
#[derive(Debug)]
pub(super) struct Root {
    dir: File,
    path: PathBuf,
}

/// Flags with which directories are opened to be read or synced.
const DIRECTORY: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC);

impl Root {
    fn open(path: &Path) -> io::Result<Root> {
        let dir = File::from(rustix::fs::openat(CWD, path, DIRECTORY, Mode::empty())?);
        Ok(Root {
            dir,
            path: path.to_path_buf(),
        })
    }

    /// Where a file or directory of the store is, for messages.
    pub(super) fn shown(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// Opens a file or directory below the root.
    pub(super) fn open_at(&self, name: &str, flags: OFlags, mode: Mode) -> Result<File, Errno> {
        let fd = rustix::fs::openat(&self.dir, name, flags | OFlags::CLOEXEC, mode)?;
        Ok(File::from(fd))
    }

    /// Opens a directory below the root, or the root itself for the empty name.
    pub(super) fn open_dir(&self, name: &str) -> Result<File, Errno> {
        let name = if name.is_empty() { "." } else { name };
        self.open_at(name, DIRECTORY, Mode::empty())
    }

    /// What is at a name itself, be it a link.
    pub(super) fn stat(&self, name: &str) -> Result<Stat, Errno> {
        rustix::fs::statat(&self.dir, name, AtFlags::SYMLINK_NOFOLLOW)
    }

    /// A name leads to a directory.
    pub(super) fn is_dir(&self, name: &str) -> bool {
        let found = rustix::fs::statat(&self.dir, name, AtFlags::empty());
        found.is_ok_and(|stat| FileType::from_raw_mode(stat.st_mode) == FileType::Directory)
    }

    /// Makes a directory; true when it was not there.
    pub(super) fn make_dir(&self, name: &str) -> io::Result<bool> {
        match rustix::fs::mkdirat(&self.dir, name, Mode::RWXU | Mode::RWXG | Mode::RWXO) {
            Ok(()) => Ok(true),
            Err(Errno::EXIST) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    /// Brings the names of a directory onto the disk.
    pub(super) fn sync_dir(&self, name: &str) -> io::Result<()> {
        self.open_dir(name)?.sync_all()
    }

    /// The descriptor, for calls about two names.
    pub(super) fn fd(&self) -> &File {
        &self.dir
    }

    fn marker(&self) -> Result<Option<[u8; 16]>, StoreError> {
        let path = self.shown(MARKER);
        let file = match self.open_at(MARKER, OFlags::RDONLY | OFlags::NONBLOCK, Mode::empty()) {
            Ok(file) => file,
            Err(Errno::NOENT) => return Ok(None),
            Err(error) => return Err(other_error(&path, error.into())),
        };
        let mut text = String::new();
        let read = file.take(MARKER_BYTES_MAX).read_to_string(&mut text);
        let mut identity = [0; 16];
        match read {
            Ok(_) if hex::decode_to_slice(text.trim_end(), &mut identity).is_ok() => Ok(Some(identity)),
            Err(error) if error.kind() != io::ErrorKind::InvalidData => Err(other_error(&path, error)),
            _ => Err(StoreError::Misconfigured {
                reason: format!(
                    "{} is damaged: it holds 32 hexadecimal digits that tell this store from others; when the store is the \
                     right one, delete that file, and the next write makes a new one",
                    path.display()
                ),
            }),
        }
    }

    /// Something lies in it that may be an object or a directory of objects.
    fn holds_objects(&self) -> io::Result<bool> {
        for entry in Dir::read_from(&self.dir)? {
            let entry = entry?;
            let name = entry.file_name().to_bytes();
            // A file system that was just made has a directory for what its repair finds.
            if !name.starts_with(b".") && name != b"lost+found" {
                return Ok(true);
            }
        }
        Ok(false)
    }

    fn identity(&self) -> Result<Option<Identity>, StoreError> {
        if let Some(marker) = self.marker()? {
            return Ok(Some(Identity::Marked(marker)));
        }
        let holds = self.holds_objects().map_err(|e| other_error(&self.path, e))?;
        Ok(holds.then_some(Identity::Unmarked))
    }

    /// Writes a marker, unless somebody else is faster.
    fn mark(&self) -> Result<(), StoreError> {
        let failed = |error| write_error(MARKER, &self.shown(MARKER), error);
        let mut identity = [0u8; 16];
        getrandom::fill(&mut identity).map_err(|error| failed(io::Error::other(error.to_string())))?;
        make_temp_dir(self).map_err(failed)?;
        let text = format!("{}\n", hex::encode(identity));
        let temp = TempFile::create(self, text.as_bytes()).map_err(failed)?;
        match link_new(self, &temp.name, MARKER) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(failed(error)),
            _ => {}
        }
        drop(temp);
        self.sync_dir("").map_err(failed)
    }
}

impl Inner {
    /// The root, to read below it: `None` when there is none and this handle never met one. Which store it is has to be
    /// looked at with [`Inner::check`] wherever something is missing in it.
    pub(super) fn root(&self) -> Result<Option<Root>, StoreError> {
        let error = match Root::open(&self.root) {
            Ok(root) => {
                if self.known.lock().is_none() {
                    self.check(&root)?;
                }
                return Ok(Some(root));
            }
            Err(error) => error,
        };
        let is_absent = matches!(
            error.kind(),
            io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
        );
        let is_known = self.known.lock().is_some();
        match (is_absent, is_known) {
            (true, false) => Ok(None),
            (true, true) => Err(self.gone("is not there")),
            // Whoever keeps bytes from an unmounted disk's place closes the directory below it.
            (false, true) if error.kind() == io::ErrorKind::PermissionDenied => {
                Err(self.gone("may not be opened any more"))
            }
            (false, _) => Err(other_error(&self.root, error)),
        }
    }

    /// The root is that of the store which this handle works with; `None` when no store lies in it, and none was met before.
    pub(super) fn check(&self, root: &Root) -> Result<Option<Identity>, StoreError> {
        let found = root.identity()?;
        let mut known = self.known.lock();
        match (&*known, found) {
            (None, None) => Ok(None),
            (Some(_), None) => Err(self.gone("is an empty directory, and not the store that was there")),
            (Some(Identity::Marked(was)), Some(is)) if is != Identity::Marked(*was) => {
                Err(self.gone("is another directory, and not the store that was there"))
            }
            // Another process may have marked it meanwhile.
            (_, Some(is)) => {
                *known = Some(is.clone());
                Ok(Some(is))
            }
        }
    }

    /// The root, to write below it.
    pub(super) fn root_to_write(&self) -> Result<Root, StoreError> {
        let found = match self.root()? {
            Some(root) => self.check(&root)?.map(|identity| (root, identity)),
            None => None,
        };
        let Some((root, identity)) = found else {
            return Err(StoreError::Misconfigured {
                reason: format!(
                    "there is no store in {}: is its disk mounted? `sailvol volume create` makes a store where there is none",
                    self.root.display()
                ),
            });
        };
        if identity == Identity::Unmarked {
            root.mark()?;
            self.check(&root)?;
        }
        Ok(root)
    }

    /// Makes the root and marks it, unless a store lies there.
    pub(super) fn establish(&self) -> Result<(), StoreError> {
        let root = match self.root()? {
            Some(root) => root,
            None => {
                let failed = |error| write_error("", &self.root, error);
                std::fs::create_dir_all(&self.root).map_err(failed)?;
                self.sync_above().map_err(failed)?;
                Root::open(&self.root).map_err(failed)?
            }
        };
        if self.check(&root)?.is_none() {
            root.mark()?;
            self.check(&root)?;
        }
        Ok(())
    }

    /// Brings the names of the root and of what is above it onto the disk: some may have just been made.
    fn sync_above(&self) -> io::Result<()> {
        for above in self.root.ancestors().skip(1) {
            match File::open(above).and_then(|dir| dir.sync_all()) {
                // One may pass through directories that one may not open.
                Err(error) if error.kind() == io::ErrorKind::PermissionDenied => break,
                result => result?,
            }
        }
        Ok(())
    }

    pub(super) fn is_established(&self) -> Result<bool, StoreError> {
        match self.root()? {
            Some(root) => Ok(self.check(&root)?.is_some()),
            None => Ok(false),
        }
    }

    fn gone(&self, how: &str) -> StoreError {
        StoreError::Unreachable {
            reason: format!("{} {how}: is its disk mounted?", self.root.display()),
        }
    }

    /// Files of killed writers that are older than a day go; where there is no root, nothing does.
    pub(super) fn sweep_temp(&self, now: std::time::SystemTime) {
        let dir = self.root.join(TEMP_DIR);
        let Ok(entries) = std::fs::read_dir(&dir) else {
            return;
        };
        for entry in entries.flatten() {
            let age = entry
                .metadata()
                .and_then(|stat| stat.modified())
                .ok()
                .and_then(|modified| now.duration_since(modified).ok());
            if age.is_some_and(|age| age > super::TEMP_AGE_MAX)
                && let Err(error) = std::fs::remove_file(entry.path())
            {
                tracing::warn!(path = %entry.path().display(), %error, "cannot remove a stale temporary file");
            }
        }
    }
}
