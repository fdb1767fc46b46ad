//! What the cache remembers across restarts besides the files themselves: frame hashes and recency, in sled.
//!
//! Everything in it may be lost at any time. A lost hash makes its frame count as never fetched; a wrong or stale one
//! makes the frame fail its check at first use, and be fetched again. A tree that cannot be opened is deleted; one that
//! fails later is left alone until the next opening.
//!
//! Keys: `m` file number (8 bytes, big-endian) frame (4 bytes) → blake3 of the frame's bytes, or the frame's subtree value
//! as its chunk has it and one byte more, its number in the chunk; `u` file number → tick of its last use. File numbers are never used twice as long as the index lives.
//!
//! sled blocks: every function here is called from blocking threads only.

use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use crate::format::FrameSum;
use crate::model::Hash;

/// sled's own memory, bytes. The marks of a content are read once, so there is nothing to gain from more.
const SLED_MEMORY_BYTES: u64 = 1 << 20;
const MARK: u8 = b'm';
const USED: u8 = b'u';

/// Frame hashes and recency.
#[derive(Debug)]
pub(super) struct Index {
    tree: Option<sled::Db>,
    broken: AtomicBool,
}

/// What the index knows about the files of an earlier session.
#[derive(Debug, Default)]
pub(super) struct Remembered {
    /// File number → number of frames with a hash.
    pub frames: HashMap<u64, u32>,
    /// File number → tick of its last use.
    pub used: HashMap<u64, u64>,
}

impl Index {
    /// Opens the index in `dir`, anew when what is there cannot be opened. Without any index the cache works as well,
    /// but forgets large contents at a restart.
    pub fn open(dir: &Path) -> Index {
        let tree = try_open(dir).or_else(|reason| {
            tracing::warn!(dir = %dir.display(), reason, "the cache index is broken; starting an empty one");
            std::fs::remove_dir_all(dir).map_err(|e| e.to_string())?;
            try_open(dir)
        });
        let tree = tree
            .map_err(|reason| tracing::warn!(dir = %dir.display(), reason, "working without a cache index"))
            .ok();
        Index {
            tree,
            broken: AtomicBool::new(false),
        }
    }

    /// Opens what is there; nothing is deleted.
    pub fn open_existing(dir: &Path) -> Result<Index, String> {
        Ok(Index {
            tree: Some(try_open(dir)?),
            broken: AtomicBool::new(false),
        })
    }

    /// All that is known, as numbers of files; what can be read of it when something is broken.
    pub fn remembered(&self) -> Remembered {
        let mut remembered = Remembered::default();
        self.with(|tree| {
            for key in tree.scan_prefix([MARK]).keys() {
                if let Some((number, _)) = mark_of(&key?) {
                    *remembered.frames.entry(number).or_default() += 1;
                }
            }
            for item in tree.scan_prefix([USED]) {
                let (key, value) = item?;
                if let (Some(number), Ok(tick)) = (be64(&key[1..]), <[u8; 8]>::try_from(&value[..])) {
                    remembered.used.insert(number, u64::from_be_bytes(tick));
                }
            }
            Ok(())
        });
        remembered
    }

    /// The frame hashes of a file.
    pub fn marks(&self, number: u64) -> HashMap<u32, FrameSum> {
        let mut marks = HashMap::new();
        self.with(|tree| {
            for item in tree.scan_prefix(prefix(MARK, number)) {
                let (key, value) = item?;
                if let (Some((_, frame)), Some(sum)) = (mark_of(&key), sum_of(&value)) {
                    marks.insert(frame, sum);
                }
            }
            Ok(())
        });
        marks
    }

    /// Remembers the hash of a frame that was written.
    pub fn mark(&self, number: u64, frame: u32, sum: &FrameSum) {
        let mut key = prefix(MARK, number);
        key.extend_from_slice(&frame.to_be_bytes());
        let value = match sum {
            FrameSum::Whole(hash) => hash.0.to_vec(),
            FrameSum::Subtree(in_chunk, hash) => [&hash.0[..], &[*in_chunk]].concat(),
        };
        self.with(|tree| tree.insert(key, value).map(drop));
    }

    /// Remembers when files were used last.
    pub fn used(&self, ticks: &[(u64, u64)]) {
        self.with(|tree| {
            for (number, tick) in ticks {
                tree.insert(prefix(USED, *number), &tick.to_be_bytes())?;
            }
            Ok(())
        });
    }

    /// Forgets a file.
    pub fn forget(&self, number: u64) {
        self.with(|tree| {
            tree.remove(prefix(USED, number))?;
            for key in tree.scan_prefix(prefix(MARK, number)).keys() {
                tree.remove(key?)?;
            }
            Ok(())
        });
    }

    /// Writes everything out; what was not written at a crash is lost.
    pub fn flush(&self) {
        self.with(|tree| tree.flush().map(drop));
    }

    /// Runs an operation; the first error ends the use of the index for this session. sled is known to panic on
    /// damaged files, so a panic counts as an error.
    fn with(&self, run: impl FnOnce(&sled::Db) -> sled::Result<()>) {
        let Some(tree) = self.tree.as_ref().filter(|_| !self.broken.load(Relaxed)) else {
            return;
        };
        let reason = match catch_unwind(AssertUnwindSafe(|| run(tree))) {
            Ok(Ok(())) => return,
            Ok(Err(e)) => e.to_string(),
            Err(_) => "sled gave up".to_owned(),
        };
        self.broken.store(true, Relaxed);
        tracing::warn!(
            reason,
            "the cache index failed; large contents will be fetched again after a restart"
        );
    }
}

fn try_open(dir: &Path) -> Result<sled::Db, String> {
    let config = sled::Config::new().path(dir).cache_capacity(SLED_MEMORY_BYTES);
    match catch_unwind(AssertUnwindSafe(|| config.open())) {
        Ok(opened) => opened.map_err(|e| e.to_string()),
        Err(_) => Err("sled gave up".to_owned()),
    }
}

fn prefix(kind: u8, number: u64) -> Vec<u8> {
    let mut key = Vec::with_capacity(13);
    key.push(kind);
    key.extend_from_slice(&number.to_be_bytes());
    key
}

fn be64(bytes: &[u8]) -> Option<u64> {
    bytes.try_into().ok().map(u64::from_be_bytes)
}

/// File number and frame of a mark's key.
fn mark_of(key: &[u8]) -> Option<(u64, u32)> {
    let (number, frame) = key.get(1..)?.split_at_checked(8)?;
    Some((be64(number)?, u32::from_be_bytes(frame.try_into().ok()?)))
}

/// What a mark's value says.
fn sum_of(value: &[u8]) -> Option<FrameSum> {
    let (hash, rest) = value.split_first_chunk::<32>()?;
    match rest {
        [] => Some(FrameSum::Whole(Hash(*hash))),
        [in_chunk] => Some(FrameSum::Subtree(*in_chunk, Hash(*hash))),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn remembers_across_a_reopening_and_forgets_on_request() {
        let dir = tempfile::tempdir().unwrap();
        let (hash, subtree) = (
            FrameSum::Whole(Hash([7; 32])),
            FrameSum::Subtree(5, Hash([8; 32])),
        );
        {
            let index = Index::open(dir.path());
            index.mark(3, 0, &hash);
            index.mark(3, 9, &subtree);
            index.mark(4, 1, &hash);
            index.used(&[(3, 11), (4, 12)]);
            index.forget(4);
            index.flush();
        }
        let index = Index::open(dir.path());
        let remembered = index.remembered();
        assert_eq!(remembered.frames, HashMap::from([(3, 2)]));
        assert_eq!(remembered.used, HashMap::from([(3, 11)]));
        assert_eq!(index.marks(3), HashMap::from([(0, hash), (9, subtree)]));
    }

    #[test]
    fn garbage_in_place_of_the_index_is_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("index");
        drop(Index::open(&path));
        for file in std::fs::read_dir(&path).unwrap() {
            let file = file.unwrap().path();
            if file.is_file() {
                std::fs::write(&file, [0x5a; 4096]).unwrap();
            }
        }
        let index = Index::open(&path);
        index.mark(1, 1, &FrameSum::of(b"frame"));
        assert_eq!(index.marks(1).len(), 1);
    }
}
