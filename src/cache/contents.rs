//! Large contents on local disk: which segments there are, and who reads what of them.
//!
//! A content up to half the cap is one segment, so that its file can be handed to the kernel whole. A larger one is
//! cut into segments of about a sixteenth of the cap, so that reading through it evicts its own oldest part instead of
//! everything.

use std::collections::HashMap;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;
use parking_lot::{Mutex, RwLock};

use super::GROUP_BYTES;
use super::ahead::{Ahead, Streams};
use super::disk::Disk;
use super::lru::Lru;
use super::segment::{LocalRead, Segment, SegmentKey};
use crate::model::{Content, FRAME_BYTES, Hash};

/// Contents whose reading positions are remembered.
const STREAMS_MAX: u64 = 1024;

/// A content that is stored in chunks.
#[derive(Clone, Debug)]
pub(super) struct Chunked {
    pub content: Content,
    pub cid: Hash,
    pub size: u64,
}

impl Chunked {
    /// The content, if it is of that kind.
    pub fn of(content: &Content, size: u64) -> Option<Chunked> {
        match content {
            Content::Chunks { cid, .. } | Content::Paged { cid, .. } => Some(Chunked {
                content: content.clone(),
                cid: *cid,
                size,
            }),
            _ => None,
        }
    }
}

/// A run of bytes inside one segment.
#[derive(Debug)]
pub(super) struct Part {
    pub key: SegmentKey,
    /// Length of the whole segment, bytes.
    pub segment_len: u64,
    /// Where the segment begins in the content.
    pub segment_start: u64,
    /// The bytes, relative to the segment.
    pub range: Range<u64>,
}

/// All segments.
#[derive(Debug)]
pub(super) struct Contents {
    dir: PathBuf,
    whole_max: u64,
    segment_bytes: u64,
    segments: RwLock<HashMap<SegmentKey, Arc<Segment>>>,
    streams: Mutex<Lru<Hash, Arc<Mutex<Streams>>>>,
}

impl Contents {
    /// Segments in `dir` under a cap of `cap` bytes.
    pub fn new(dir: PathBuf, cap: u64) -> Contents {
        let sixteenth = (cap / 16).max(FRAME_BYTES);
        Contents {
            dir,
            whole_max: cap / 2,
            segment_bytes: (sixteenth / 2 + 1).next_power_of_two().max(FRAME_BYTES),
            segments: RwLock::default(),
            streams: Mutex::new(Lru::new(STREAMS_MAX)),
        }
    }

    /// True when a content of `size` bytes is one segment.
    pub fn is_whole(&self, size: u64) -> bool {
        size <= self.whole_max
    }

    /// The key of a content that is one segment.
    pub fn whole_key(cid: Hash) -> SegmentKey {
        SegmentKey {
            cid,
            bytes: 0,
            index: 0,
        }
    }

    /// Cuts a range of a content at the borders of its segments.
    pub fn parts(&self, cid: Hash, size: u64, range: Range<u64>) -> Vec<Part> {
        if self.is_whole(size) {
            let key = Contents::whole_key(cid);
            return vec![Part {
                key,
                segment_len: size,
                segment_start: 0,
                range,
            }];
        }
        let bytes = self.segment_bytes;
        let mut parts = Vec::new();
        let mut at = range.start;
        while at < range.end {
            let index = at / bytes;
            let start = index * bytes;
            let end = range.end.min(start + bytes);
            parts.push(Part {
                key: SegmentKey { cid, bytes, index },
                segment_len: bytes.min(size - start),
                segment_start: start,
                range: at - start..end - start,
            });
            at = end;
        }
        parts
    }

    /// The segment, if something of it is there. One that was found at the opening has the length of its file: of
    /// another than `len`, that of the content, it is none (a power cut shortens files), until it is replaced.
    pub fn get(&self, key: &SegmentKey, len: u64) -> Option<Arc<Segment>> {
        self.any(key).filter(|segment| segment.len == len)
    }

    /// The segment, whatever its length.
    pub fn any(&self, key: &SegmentKey) -> Option<Arc<Segment>> {
        self.segments.read().get(key).cloned()
    }

    /// The segment, a new one if need be; the second is one that made way, for [`Segment::delete`].
    pub fn get_or_new(&self, disk: &Disk, key: SegmentKey, len: u64) -> (Arc<Segment>, Option<Arc<Segment>>) {
        if let Some(segment) = self.get(&key, len) {
            return (segment, None);
        }
        let mut segments = self.segments.write();
        match segments.get(&key) {
            Some(segment) if segment.len == len => return (segment.clone(), None),
            Some(misfit) => drop(misfit.retire(true)),
            None => {}
        }
        let new = Segment::new(&self.dir, disk, key, len);
        let misfit = segments.insert(key, new.clone());
        (new, misfit)
    }

    /// A segment that is not in the map.
    pub fn new_segment(&self, disk: &Disk, key: SegmentKey, len: u64) -> Arc<Segment> {
        Segment::new(&self.dir, disk, key, len)
    }

    /// Puts in a segment unless there is one of that key.
    pub fn insert(&self, segment: Arc<Segment>) -> bool {
        let mut segments = self.segments.write();
        let free = !segments.contains_key(&segment.key);
        if free {
            segments.insert(segment.key, segment);
        }
        free
    }

    /// Takes a segment out and deletes its file. Blocks.
    pub fn discard(&self, disk: &Disk, segment: &Segment) {
        if self.retire(segment) {
            segment.delete(disk);
        }
    }

    /// Takes a segment out: nobody finds it any more, nothing more is written to it. True for the one who did it, and
    /// who now has to delete the file.
    pub fn retire(&self, segment: &Segment) -> bool {
        let retired = segment.retire(true);
        if retired {
            self.take_out(segment);
        }
        retired
    }

    /// Takes a segment out that has nothing on disk and nobody fetching.
    pub fn drop_if_idle(&self, segment: &Segment) {
        if segment.retire(false) {
            self.take_out(segment);
        }
    }

    /// Takes a segment out of the map.
    pub fn take_out(&self, segment: &Segment) {
        let mut segments = self.segments.write();
        if segments
            .get(&segment.key)
            .is_some_and(|known| known.number == segment.number)
        {
            segments.remove(&segment.key);
        }
    }

    /// All segments.
    pub fn segments(&self) -> Vec<Arc<Segment>> {
        self.segments.read().values().cloned().collect()
    }

    /// Checked bytes of a range, if all of them are there; segments that turn out to be damaged are added to `damaged`.
    pub fn read_checked(
        &self,
        disk: &Disk,
        file: &Chunked,
        range: Range<u64>,
        damaged: &mut Vec<Arc<Segment>>,
    ) -> Option<Bytes> {
        let len = usize::try_from(range.end - range.start).ok()?;
        let mut whole = Vec::new();
        for part in self.parts(file.cid, file.size, range) {
            let segment = self.get(&part.key, part.segment_len)?;
            let part_len = usize::try_from(part.range.end - part.range.start).ok()?;
            match segment.read_checked(part.range.start, part_len) {
                LocalRead::Bytes(bytes) => {
                    segment.touch(disk);
                    if part_len == len {
                        return Some(bytes);
                    }
                    whole.extend_from_slice(&bytes);
                }
                LocalRead::NotHere => return None,
                LocalRead::Damaged => {
                    damaged.push(segment);
                    return None;
                }
            }
        }
        Some(whole.into())
    }

    /// True when the content is one segment, all of it checked: there is nothing to fetch.
    pub fn all_checked(&self, file: &Chunked) -> bool {
        let whole = self
            .is_whole(file.size)
            .then(|| self.get(&Contents::whole_key(file.cid), file.size));
        whole.flatten().is_some_and(|segment| segment.all_checked())
    }

    /// True when every frame of the content is on disk.
    pub fn complete(&self, file: &Chunked) -> bool {
        if file.size > self.whole_max.saturating_mul(2).saturating_add(1) {
            return false;
        }
        let parts = self.parts(file.cid, file.size, 0..file.size);
        parts.iter().all(|part| {
            let segment = self.get(&part.key, part.segment_len);
            segment.is_some_and(|segment| segment.complete())
        })
    }

    /// Notes a read; returns what should be fetched besides.
    pub fn note(&self, file: &Chunked, offset: u64, len: u64, ahead_max: u64) -> Option<Ahead> {
        let streams = self.streams_of(&file.cid);
        streams.lock().note(offset, len, file.size, ahead_max)
    }

    /// A read is a part of a sequential run.
    pub fn in_run(&self, file: &Chunked, read: &Range<u64>) -> bool {
        self.streams_of(&file.cid).lock().in_run(read.start, read.end)
    }

    /// Something of the content that was fetched ahead has arrived; returns what should be fetched ahead now.
    pub fn more_ahead(&self, file: &Chunked) -> Option<Range<u64>> {
        self.streams_of(&file.cid).lock().more(file.size)
    }

    /// What lies behind `offset` could not be fetched ahead.
    pub fn retract(&self, file: &Chunked, offset: u64) {
        self.streams_of(&file.cid).lock().retract(offset);
    }

    fn streams_of(&self, cid: &Hash) -> Arc<Mutex<Streams>> {
        let mut streams = self.streams.lock();
        streams.get(cid).unwrap_or_else(|| {
            let new = Arc::<Mutex<Streams>>::default();
            streams.insert(*cid, new.clone(), 1);
            new
        })
    }
}

/// Cuts a range at the borders of groups, outwards to whole frames.
pub(super) fn groups(range: Range<u64>, end: u64) -> impl Iterator<Item = Range<u64>> {
    let first = range.start / FRAME_BYTES * FRAME_BYTES;
    let last = range.end.next_multiple_of(FRAME_BYTES).min(end);
    let mut at = first;
    std::iter::from_fn(move || {
        let group = at..last.min((at / GROUP_BYTES + 1) * GROUP_BYTES);
        at = group.end;
        (!group.is_empty()).then_some(group)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_tile_a_range_inside_segments() {
        let contents = Contents::new(PathBuf::new(), 64 << 20);
        let size = 100_000_000;
        let mut at = 3_000_001;
        for part in contents.parts(Hash([1; 32]), size, at..size) {
            assert_eq!(part.segment_start + part.range.start, at);
            assert!(part.range.end <= part.segment_len && part.segment_start % FRAME_BYTES == 0);
            at = part.segment_start + part.range.end;
        }
        assert_eq!(at, size);
        assert_eq!(contents.parts(Hash([1; 32]), 32 << 20, 5..10).len(), 1);
    }

    #[test]
    fn groups_tile_outwards() {
        let all: Vec<_> = groups((7 << 20) + 5..(17 << 20) + 5, (17 << 20) + 100).collect();
        let mib = |n: u64| n << 20;
        assert_eq!(all, [mib(7)..mib(8), mib(8)..mib(16), mib(16)..(17 << 20) + 100]);
        assert_eq!(groups(0..0, 0).count(), 0);
    }
}
