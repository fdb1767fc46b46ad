//! A process in a view, with the kernel's part played as the driver and the kernel play it: names are looked up step by
//! step and forgotten, a file that was offered is opened by itself and written without the view, ESTALE is answered by
//! one more walk.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use super::model::{Contents, attrs};
use crate::model::Kind;
use crate::tree::merge_model::{Dir, File as ModelFile, Node, join, up};
use crate::view::{Caller, Ino, Offer, OpenFile, OpenFlags, ROOT_INO, RenameMode, SetAttr, View, ViewError};

const READ: OpenFlags = OpenFlags::READ;
pub const WRITE: OpenFlags = OpenFlags::READ_WRITE;
pub const TRUNCATE: OpenFlags = OpenFlags {
    truncate: true,
    ..WRITE
};
const CREATE: OpenFlags = OpenFlags {
    exclusive: true,
    ..WRITE
};

/// Somebody. Who made and who reads differ, or a new file would be taken for a copy.
fn caller(pid: u32) -> Caller {
    Caller {
        uid: 0,
        gid: 0,
        pid,
        umask: 0,
    }
}

/// An open file, with the file that the kernel uses in its place.
pub struct Handle {
    way: Way,
    pub ino: Ino,
    pub fh: u64,
    pub direct: Option<File>,
}

/// What the kernel remembers of a path: an inode, and the directories above it for as long as that is in use.
#[derive(Default)]
pub struct Way(Vec<Ino>);

/// A directory that is being read.
pub struct Listing {
    way: Way,
    fh: u64,
    cookie: u64,
    names: Vec<String>,
}

impl Way {
    fn ino(&self) -> Ino {
        self.0.last().copied().unwrap_or(ROOT_INO)
    }
}

/// A process.
#[derive(Clone)]
pub struct Process {
    view: Arc<View>,
}

type Res<T> = Result<T, ViewError>;

impl Process {
    pub fn new(view: Arc<View>) -> Process {
        Process { view }
    }

    /// The inodes on a path, each with one reference.
    async fn walk(&self, path: &str) -> Res<Way> {
        let mut way = Way::default();
        for name in path.split('/').filter(|name| !name.is_empty()) {
            match self.view.lookup(&caller(1), way.ino(), name.as_bytes()).await {
                Ok(Some(known)) => way.0.push(known.ino),
                Ok(None) => panic!("{name} of {path} is not there"),
                Err(error) => {
                    self.forget(way);
                    return Err(error);
                }
            }
        }
        Ok(way)
    }

    pub fn forget(&self, way: Way) {
        for ino in way.0.into_iter().rev() {
            self.view.forget(ino, 1);
        }
    }

    /// The directory of a path, and the name in it.
    async fn place<'a>(&self, path: &'a str) -> Res<(Way, &'a [u8])> {
        let dir = self.walk(up(path)).await?;
        Ok((dir, path.rsplit('/').next().unwrap_or(path).as_bytes()))
    }

    fn handle(way: Way, open: &OpenFile) -> Handle {
        Handle {
            ino: way.ino(),
            way,
            fh: open.fh,
            direct: open.offer.as_ref().map(Offer::open),
        }
    }

    pub async fn open(&self, path: &str, flags: OpenFlags) -> Res<Handle> {
        let mut tries = 0;
        loop {
            tries += 1;
            let way = self.walk(path).await?;
            match self.view.open(&caller(2), way.ino(), flags).await {
                Ok(open) => return Ok(Process::handle(way, &open)),
                Err(error) => {
                    self.forget(way);
                    if error.errno() != libc::ESTALE || tries > 1 {
                        return Err(error);
                    }
                    // The kernel looks the name up, and opens it by another lookup.
                    let again = self.walk(path).await?;
                    self.forget(again);
                }
            }
        }
    }

    pub async fn create(&self, path: &str, mode: u16) -> Res<Handle> {
        let (mut way, name) = self.place(path).await?;
        let (known, open) = self
            .view
            .create(&caller(3), way.ino(), name, mode, CREATE)
            .await?;
        way.0.push(known.ino);
        Ok(Process::handle(way, &open))
    }

    /// Gives a handle back. What is returned is the mapping that may outlive it.
    pub async fn close(&self, handle: Handle) -> Res<Option<File>> {
        self.view.flush(handle.ino, handle.fh).await?;
        self.view.release(handle.ino, handle.fh);
        self.forget(handle.way);
        Ok(handle.direct)
    }

    pub async fn write(&self, handle: &Handle, offset: u64, bytes: &[u8]) -> Res<()> {
        match &handle.direct {
            Some(file) => file.write_all_at(bytes, offset).expect("a file that was offered"),
            None => {
                let wrote = self
                    .view
                    .write(handle.ino, handle.fh, offset, bytes, false)
                    .await?;
                assert_eq!(wrote, bytes.len());
            }
        }
        Ok(())
    }

    pub async fn read(&self, handle: &Handle) -> Res<Vec<u8>> {
        if let Some(file) = &handle.direct {
            let mut all = vec![0; usize::try_from(file.metadata().expect("a file").len()).unwrap()];
            file.read_exact_at(&mut all, 0).expect("a file that was offered");
            return Ok(all);
        }
        let mut all = Vec::new();
        loop {
            let offset = all.len() as u64;
            let some = self.view.read(handle.ino, handle.fh, offset, 1 << 20).await?;
            if some.is_empty() {
                return Ok(all);
            }
            all.extend_from_slice(&some);
        }
    }

    pub async fn fsync(&self, handle: &Handle) -> Res<()> {
        self.view.fsync(handle.ino, handle.fh, false).await
    }

    pub async fn mkdir(&self, path: &str, mode: u16) -> Res<()> {
        let (dir, name) = self.place(path).await?;
        let made = self.view.mkdir(&caller(3), dir.ino(), name, mode).await?;
        self.view.forget(made.ino, 1);
        self.forget(dir);
        Ok(())
    }

    /// One name: a file, or an empty directory.
    pub async fn remove(&self, path: &str, is_dir: bool) -> Res<()> {
        let (dir, name) = self.place(path).await?;
        let done = match is_dir {
            true => self.view.rmdir(&caller(1), dir.ino(), name).await,
            false => self.view.unlink(&caller(1), dir.ino(), name).await,
        };
        self.forget(dir);
        done
    }

    pub async fn rename(&self, from: &str, to: &str) -> Res<()> {
        let (from_dir, from_name) = self.place(from).await?;
        let (to_dir, to_name) = self.place(to).await?;
        let (from, to) = ((from_dir.ino(), from_name), (to_dir.ino(), to_name));
        let done = self.view.rename(&caller(1), from, to, RenameMode::Replace).await;
        self.forget(from_dir);
        self.forget(to_dir);
        done
    }

    pub async fn chmod(&self, path: &str, mode: u16) -> Res<()> {
        let way = self.walk(path).await?;
        let set = SetAttr {
            mode: Some(mode),
            ..SetAttr::default()
        };
        let done = self.view.setattr(&caller(1), way.ino(), &set).await;
        self.forget(way);
        done.map(drop)
    }

    /// All that can be seen, bytes too.
    pub async fn look(&self, contents: &mut Contents) -> Res<Dir> {
        let (seen, held) = self.look_and_remember(contents).await?;
        self.forget(held);
        Ok(seen)
    }

    /// The same by a kernel that remembers what it has looked up.
    pub async fn look_and_remember(&self, contents: &mut Contents) -> Res<(Dir, Way)> {
        let root = self.view.getattr(&caller(4), ROOT_INO, None).await?;
        let mut seen = Dir {
            attrs: attrs(root.mode),
            ..Dir::default()
        };
        let mut todo = vec![(ROOT_INO, String::new())];
        let mut held = Vec::new();
        while let Some((dir, path)) = todo.pop() {
            let open = self.view.opendir(&caller(4), dir).await?;
            let mut cookie = 0;
            loop {
                let lines = self.view.readdirplus(dir, open.fh, cookie, 4096).await?;
                let Some(last) = lines.last() else { break };
                cookie = last.item.cookie;
                for line in &lines {
                    let Some(known) = line.known else { continue };
                    held.push(known.ino);
                    let path = join(&path, &String::from_utf8_lossy(&line.item.name));
                    let attrs = attrs(known.attr.mode);
                    match line.item.kind {
                        Kind::Dir => {
                            let empty = Dir {
                                attrs,
                                ..Dir::default()
                            };
                            seen.put(&path, Node::Dir(empty));
                            todo.push((known.ino, path));
                        }
                        _ => {
                            let bytes = self.read_all(known.ino).await?;
                            assert_eq!(known.attr.size, bytes.len() as u64, "size of {path}");
                            let content = contents.number(&bytes);
                            seen.put(&path, Node::File(ModelFile { content, attrs }));
                        }
                    }
                }
            }
            self.view.releasedir(dir, open.fh);
        }
        Ok((seen, Way(held)))
    }

    /// Opens a directory and reads its first names.
    pub async fn list(&self, path: &str) -> Res<Listing> {
        let way = self.walk(path).await?;
        let fh = self.view.opendir(&caller(5), way.ino()).await?.fh;
        let mut listing = Listing {
            way,
            fh,
            cookie: 0,
            names: Vec::new(),
        };
        self.list_more(&mut listing).await?;
        Ok(listing)
    }

    /// Reads a few names more; false at the end.
    async fn list_more(&self, listing: &mut Listing) -> Res<bool> {
        let (dir, fh) = (listing.way.ino(), listing.fh);
        let lines = self.view.readdir(dir, fh, listing.cookie, 120).await?;
        for line in &lines {
            listing.cookie = line.cookie;
            listing
                .names
                .push(String::from_utf8_lossy(&line.name).into_owned());
        }
        Ok(!lines.is_empty())
    }

    /// Reads the names that are left, and closes the directory.
    pub async fn list_rest(&self, mut listing: Listing) -> Res<Vec<String>> {
        while self.list_more(&mut listing).await? {}
        self.view.releasedir(listing.way.ino(), listing.fh);
        self.forget(listing.way);
        Ok(listing.names)
    }

    async fn read_all(&self, ino: Ino) -> Res<Vec<u8>> {
        let open = self.view.open(&caller(4), ino, READ).await?;
        let handle = Process::handle(Way(vec![ino]), &open);
        let bytes = self.read(&handle).await;
        self.view.release(ino, open.fh);
        bytes
    }
}
