//! Whole files: bodies that became clean by a commit come in, complete contents are handed out.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use super::contents::{Chunked, Contents};
use super::disk::Identity;
use super::segment::Segment;
use super::space::Room;
use super::{Adoption, Cache};
use crate::format::content_id;
use crate::model::{Content, FRAME_BYTES, HOLE_BYTES, Hash, chunk_count, chunk_range, is_zero};
use crate::tree::TreeError;

/// Contents of which so much is still to be checked are handed out at the next opening, not at this one, bytes: some 50 ms.
const CHECK_BYTES_MAX: u64 = 64 << 20;

/// A complete content in a file of its own, every frame checked. It is not evicted as long as this value lives; hold it
/// until the kernel has closed the file. (Mappings that outlive that are noticed at the eviction.)
#[derive(Debug)]
pub struct PinnedFile {
    segment: Arc<Segment>,
    handle: OwnedFd,
    pinned_bytes: Arc<AtomicU64>,
}

impl PinnedFile {
    /// Names the file (O_PATH). Nobody may write to it.
    pub fn handle(&self) -> BorrowedFd<'_> {
        self.handle.as_fd()
    }
}

/// Who got a cache file into his hands. Mappings outlive handles, so what was handed out once may be in use until the
/// kernel says that it is not.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Holder {
    /// Nobody yet.
    Nobody,
    /// It was a body before: whoever had it open then.
    Former,
    /// This inode.
    Inode(u64),
}

impl Drop for PinnedFile {
    fn drop(&mut self) {
        self.segment.pins.fetch_sub(1, Relaxed);
        self.pinned_bytes.fetch_sub(self.segment.len, Relaxed);
    }
}

impl Cache {
    /// The file of a complete content, for passthrough, handed to one inode (`holder`, a number that means one inode as long
    /// as that has handles or mappings). `None` when it is not complete, has no file of its own (small, or over half the
    /// cap), when another inode has it, or when more than half of the cap would be pinned. Frames of an earlier session
    /// are checked first; of a large file that is done in the background, and this answer is `None`.
    pub async fn hand_out(&self, content: &Content, size: u64, holder: u64) -> Option<PinnedFile> {
        let file = Chunked::of(content, size)?;
        if !self.contents.is_whole(size) {
            return None;
        }
        let key = Contents::whole_key(file.cid);
        let segment = self.contents.get(&key, size)?;
        if segment.all_checked() {
            return self.pin_segment(segment, holder);
        }
        if !segment.complete() {
            return None;
        }
        let this = self.shared();
        if size > CHECK_BYTES_MAX {
            self.runtime.spawn(async move {
                if let Err(error) = this.prefetch_chunked(&file).await {
                    tracing::debug!(%error, "a cached file could not be checked");
                }
            });
            return None;
        }
        this.prefetch_chunked(&file).await.ok()?;
        this.pin_segment(self.contents.get(&key, size)?, holder)
    }

    fn pin_segment(&self, segment: Arc<Segment>, holder: u64) -> Option<PinnedFile> {
        segment.open_file(&self.disk).ok()?;
        let handle = File::options()
            .read(true)
            .custom_flags(libc::O_PATH | libc::O_NOFOLLOW)
            .open(&segment.path)
            .ok()?;
        let pinned = self.pinned_bytes.fetch_add(segment.len, Relaxed) + segment.len;
        segment.pins.fetch_add(1, Relaxed);
        // From here on the value undoes the counting; eviction looks at the pins under its own lock, so a segment that
        // is still in the map afterwards stays there.
        let pin = PinnedFile {
            segment: segment.clone(),
            handle: handle.into(),
            pinned_bytes: self.pinned_bytes.clone(),
        };
        // Whoever evicts may take long: then not this time.
        let _not_now = self.evicting.try_lock()?;
        let fits = pinned <= self.disk.space.cap() / 2;
        let known = self
            .contents
            .any(&segment.key)
            .is_some_and(|s| s.number == segment.number);
        let usable = fits && known && segment.all_checked() && segment.is_untouched_at(&pin.handle);
        (usable && segment.hand_to(holder, &pin.handle)).then_some(pin)
    }

    /// Gives up the file of a content, which becomes a body: it is moved to `to`. Only if it is the very file that `handle`
    /// names and nobody else got it. False: nothing was changed (another file system, evicted, handed to others).
    pub fn surrender(&self, content: &Content, size: u64, handle: BorrowedFd<'_>, to: &Path) -> bool {
        let Some(file) = Chunked::of(content, size).filter(|_| self.contents.is_whole(size)) else {
            return false;
        };
        let _not_now = self.evicting.lock();
        let Some(segment) = self.contents.get(&Contents::whole_key(file.cid), size) else {
            return false;
        };
        let given = segment.pins.load(Relaxed) <= 1
            && segment.all_checked()
            && segment.is_untouched_at(handle)
            && segment.give_away(&self.disk, to);
        if given {
            self.contents.take_out(&segment);
        }
        given
    }

    /// Makes a committed large body the cache file of its content, by rename; the body's path is gone then. `false`:
    /// nothing was changed (another file system, too large, no room, not these bytes), keep the body where it is.
    pub async fn adopt_file(&self, content: &Content, size: u64, path: &Path, adoption: Adoption) -> bool {
        let Some(file) = Chunked::of(content, size).filter(|_| self.contents.is_whole(size)) else {
            return false;
        };
        let this = self.shared();
        let mut ids = Vec::new();
        if adoption == Adoption::Check {
            match this.chunk_ids(&file).await {
                Ok(all) => ids = all,
                Err(_) => return false,
            }
        }
        let bytes = std::fs::metadata(path).map_or(0, |meta| meta.blocks() * 512);
        let frames = size.div_ceil(FRAME_BYTES);
        let Some(room) = this.reserve(bytes + frames * HOLE_BYTES).await else {
            return false;
        };
        let path = path.to_owned();
        let adopting = tokio::task::spawn_blocking(move || {
            let checked = match adoption {
                Adoption::Checked => true,
                Adoption::Check => holds(&path, size, &ids).unwrap_or(false),
            };
            let adopted = if checked {
                this.take_in(&file, &path, room)
            } else {
                None
            };
            let done = adopted.is_some();
            if let Some(segment) = adopted {
                this.runtime
                    .clone()
                    .spawn_blocking(move || segment.mark_all(&this.disk));
            }
            done
        });
        adopting.await.unwrap_or(false)
    }

    /// True if a local file has exactly the bytes of a content. Of a large one that differs it is read to the end of the
    /// first chunk that does.
    ///
    /// # Errors
    /// What the source of chunk lists says; [`TreeError::Local`] when the file cannot be read.
    pub async fn is_in_file(&self, content: &Content, size: u64, path: &Path) -> Result<bool, TreeError> {
        let ids = match content {
            _ if size == 0 => Vec::new(),
            Content::Tiny(bytes) => vec![content_id(bytes)],
            Content::Blob(blob) => vec![blob.id],
            Content::Chunks { .. } | Content::Paged { .. } => match Chunked::of(content, size) {
                Some(file) => self.shared().chunk_ids(&file).await?,
                None => return Ok(false),
            },
            Content::Local(_) => return Ok(false),
        };
        let file = path.to_owned();
        let compared = tokio::task::spawn_blocking(move || holds(&file, size, &ids)).await;
        compared
            .map_err(io::Error::other)
            .and_then(|compared| compared)
            .map_err(|e| TreeError::Local {
                path: path.display().to_string(),
                reason: e.to_string(),
                errno: e.raw_os_error().unwrap_or(libc::EIO),
            })
    }

    async fn chunk_ids(self: &Arc<Self>, file: &Chunked) -> Result<Vec<Hash>, TreeError> {
        let mut ids = Vec::new();
        for index in 0..chunk_count(file.size) {
            ids.push(self.chunk_ref(file, index).await?.id());
        }
        Ok(ids)
    }

    /// Renames a file into the cache.
    fn take_in(self: &Arc<Self>, file: &Chunked, path: &Path, mut room: Room) -> Option<Arc<Segment>> {
        let meta = std::fs::symlink_metadata(path).ok()?;
        if !meta.is_file() || meta.len() != file.size || meta.nlink() != 1 {
            return None;
        }
        let key = Contents::whole_key(file.cid);
        let segment = self.contents.new_segment(&self.disk, key, file.size);
        if let Err(e) = std::fs::rename(path, &segment.path) {
            tracing::debug!(path = %path.display(), error = %e, "a body is not adopted");
            return None;
        }
        let held = room.bytes();
        if let Err(e) = segment.adopt(&self.disk, room.write(held)) {
            // It can only be given back under its old name.
            tracing::warn!(path = %path.display(), error = %e, "an adopted body cannot be used");
            if let Err(e) = std::fs::rename(&segment.path, path) {
                tracing::error!(path = %path.display(), error = %e, "cannot put a body back");
            }
            return None;
        }
        segment.was_body();
        // What there was of the content makes way.
        while !self.contents.insert(segment.clone()) {
            if let Some(old) = self.contents.any(&key) {
                self.contents.discard(&self.disk, &old);
            }
        }
        Some(segment)
    }
}

/// True when a file consists of chunks with these ids (zeros for a hole), and did not change while we looked.
fn holds(path: &Path, size: u64, ids: &[Hash]) -> io::Result<bool> {
    let file = File::open(path)?;
    let before = Identity::of(&file)?;
    let mut offset = 0;
    let mut frame = vec![0; usize::try_from(FRAME_BYTES).map_err(io::Error::other)?];
    for id in ids {
        let (_, start, len) = chunk_range(offset, size);
        let (mut hasher, mut zeros) = (blake3::Hasher::new(), true);
        while offset < start + len {
            let part = usize::try_from(FRAME_BYTES.min(start + len - offset)).map_err(io::Error::other)?;
            file.read_exact_at(&mut frame[..part], offset)?;
            hasher.update(&frame[..part]);
            zeros = zeros && is_zero(&frame[..part]);
            offset += part as u64;
        }
        let hole = *id == Hash([0; 32]);
        if (hole && !zeros) || (!hole && hasher.finalize().as_bytes() != id.as_bytes()) {
            return Ok(false);
        }
    }
    Ok(before.size == size && offset == size && Identity::of(&file)? == before)
}
