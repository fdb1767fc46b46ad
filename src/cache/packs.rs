//! Windows of packs: the pieces in which nodes and small contents are fetched and kept.
//!
//! A pack holds what lies side by side in the tree, so whoever needs one item soon needs its neighbours: a miss
//! fetches 256 KiB around the item, more once a pack is missed more often. A window on disk is a plain file and is
//! trusted by nobody: each item is verified against its pointer when it is taken out, so a lost, cut or altered file
//! costs another request and nothing else, and windows need no index.
//!
//! One fetch per window: whoever needs an item that is on its way waits for that. A window ends where one begins that is
//! there already, or on its way, but 32 KiB later: the item that lies across the edge would be a request of its own.
//! Once a pack is missed so often that windows have 8 MiB, all gaps in them are fetched at the same time: files read in
//! random order have left many small windows, and each gap between them would cost a round trip.

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Weak};

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::watch;

use super::disk::{CloseFile, Disk, create, read_at, reopen, unlink};
use super::space::{Room, charge};
use crate::model::PackRef;
use crate::tree::TreeError;

/// Bytes of a window by the misses that its pack has seen (FORMAT.md 4.6). Growing sooner, at 1 and 3, saves some round trips, but no time
/// that shows in reading 10,000 small files at 30 ms: that is the kernel's questions.
const WINDOW_BYTES: [(u32, u64); 3] = [(5, 8 << 20), (2, 1 << 20), (0, 256 << 10)];

/// How far a window goes on into one that is there, bytes: most small files, compressed, are shorter.
const OVERLAP_BYTES: u64 = 32 << 10;
/// Windows that begin before an item and may hold it, however they overlap.
const COVERING_MAX: usize = 4;

/// A window that is on its way.
pub(super) type WindowWait = watch::Receiver<Option<Result<Bytes, TreeError>>>;

/// All windows.
#[derive(Debug)]
pub(super) struct Packs {
    dir: PathBuf,
    packs: Mutex<HashMap<PackRef, Pack>>,
}

#[derive(Debug, Default)]
struct Pack {
    misses: u32,
    /// Length of the object, once an answer has told it.
    object_len: Option<u64>,
    /// By first byte.
    windows: BTreeMap<u64, Arc<Window>>,
    flights: Vec<Flight>,
}

#[derive(Debug)]
struct Flight {
    number: u64,
    range: Range<u64>,
    wait: WindowWait,
}

/// A part of a pack in a file.
#[derive(Debug)]
pub(super) struct Window {
    /// Which part of the pack.
    pub range: Range<u64>,
    pub pack: PackRef,
    /// Its number in the index.
    pub number: u64,
    /// Tick of the last use.
    pub used: AtomicU64,
    path: PathBuf,
    file: Mutex<Option<Arc<File>>>,
    room: Room,
}

/// Where an item is.
pub(super) enum ItemState {
    /// In a window on disk.
    OnDisk(Arc<Window>),
    /// In a window that is on its way and begins there.
    Fetching(WindowWait, u64),
    /// Nowhere: the caller has to fetch this range, others wait for it. The number is the claim's.
    Fetch(Range<u64>, u64, Vec<Gap>),
}

/// A window that is to be fetched although nobody waits for it yet.
pub(super) struct Gap {
    pub range: Range<u64>,
    /// The claim's.
    pub number: u64,
    pub sender: watch::Sender<Option<Result<Bytes, TreeError>>>,
}

impl Packs {
    /// Windows in `dir`.
    pub fn new(dir: PathBuf) -> Packs {
        Packs {
            dir,
            packs: Mutex::default(),
        }
    }

    /// Takes up a window of an earlier session.
    pub fn found(&self, window: Window) {
        let mut packs = self.packs.lock();
        let pack = packs.entry(window.pack).or_default();
        pack.windows.insert(window.range.start, Arc::new(window));
    }

    /// Looks for the item at `item` of a pack; when it is nowhere, the window to fetch, which from now on is awaited
    /// through `wait`.
    pub fn claim(&self, disk: &Disk, pack: PackRef, item: &Range<u64>, wait: &WindowWait) -> ItemState {
        let mut packs = self.packs.lock();
        let pack = packs.entry(pack).or_default();
        if let Some(window) = pack.covering(item) {
            window.used.store(disk.tick(), Relaxed);
            return ItemState::OnDisk(window);
        }
        let covers = |flight: &&Flight| flight.range.start <= item.start && flight.range.end >= item.end;
        if let Some(flight) = pack.flights.iter().find(covers) {
            return ItemState::Fetching(flight.wait.clone(), flight.range.start);
        }
        let range = pack.window_around(item);
        let number = pack.begin(disk, &range, wait);
        let gaps = pack.gaps(item);
        pack.misses = pack.misses.saturating_add(1);
        let gap = |range: Range<u64>| {
            let (sender, wait) = watch::channel(None);
            let number = pack.begin(disk, &range, &wait);
            Gap {
                range,
                number,
                sender,
            }
        };
        ItemState::Fetch(range, number, gaps.into_iter().map(gap).collect())
    }

    /// The window on disk that holds the item, if there is one.
    pub fn on_disk(&self, disk: &Disk, pack: PackRef, item: &Range<u64>) -> Option<Arc<Window>> {
        let window = self.packs.lock().get(&pack)?.covering(item)?;
        window.used.store(disk.tick(), Relaxed);
        Some(window)
    }

    /// The fetch with this claim is over.
    pub fn unclaim(&self, pack: PackRef, claim: u64, object_len: Option<u64>) {
        let mut packs = self.packs.lock();
        if let Some(known) = packs.get_mut(&pack) {
            known.flights.retain(|flight| flight.number != claim);
            known.object_len = object_len.or(known.object_len);
            if known.windows.is_empty() && known.flights.is_empty() {
                packs.remove(&pack);
            }
        }
    }

    /// What was fetched for an item is not what it should be: nobody else shall wait for it, and it is not to be kept.
    pub fn reject(&self, pack: PackRef, item: &Range<u64>) {
        if let Some(pack) = self.packs.lock().get_mut(&pack) {
            pack.flights
                .retain(|flight| flight.range.end <= item.start || flight.range.start >= item.end);
        }
    }

    /// Writes a window to disk, if its claim (where it has one) still stands. Blocks.
    pub fn keep(
        &self,
        disk: &Disk,
        (pack, start, claim): (PackRef, u64, Option<u64>),
        bytes: &[u8],
        mut room: Room,
    ) -> io::Result<()> {
        let range = start..start + bytes.len() as u64;
        let number = disk.number();
        let path = self.dir.join(name(pack, start, number));
        let file = create(&path)?;
        if let Err(e) = file.write_all_at(bytes, 0) {
            drop(file);
            unlink(&path);
            return Err(e);
        }
        let room = room.write(charge(bytes.len() as u64, 1));
        let window = Arc::new(Window {
            range,
            pack,
            number,
            used: AtomicU64::new(disk.tick()),
            path,
            file: Mutex::new(Some(Arc::new(file))),
            room,
        });
        let this: Weak<Window> = Arc::downgrade(&window);
        let replaced = {
            let mut packs = self.packs.lock();
            let known = packs.entry(pack).or_default();
            match claim {
                Some(claim) if known.flights.iter().all(|flight| flight.number != claim) => Some(window),
                _ => known.windows.insert(start, window),
            }
        };
        if let Some(window) = replaced {
            unlink(&window.path);
        }
        disk.open_files.opened(this);
        Ok(())
    }

    /// Forgets and deletes a window. Blocks.
    pub fn discard(&self, disk: &Disk, window: &Window) {
        {
            let mut packs = self.packs.lock();
            if let Some(pack) = packs.get_mut(&window.pack) {
                let start = window.range.start;
                if pack
                    .windows
                    .get(&start)
                    .is_some_and(|known| known.number == window.number)
                {
                    pack.windows.remove(&start);
                }
                if pack.windows.is_empty() && pack.flights.is_empty() {
                    packs.remove(&window.pack);
                }
            }
        }
        unlink(&window.path);
        disk.index.forget(window.number);
        *window.file.lock() = None;
    }

    /// All windows.
    pub fn windows(&self) -> Vec<Arc<Window>> {
        let packs = self.packs.lock();
        packs
            .values()
            .flat_map(|pack| pack.windows.values().cloned())
            .collect()
    }
}

impl Pack {
    /// Notes a fetch; returns its number.
    fn begin(&mut self, disk: &Disk, range: &Range<u64>, wait: &WindowWait) -> u64 {
        let number = disk.number();
        self.flights.push(Flight {
            number,
            range: range.clone(),
            wait: wait.clone(),
        });
        number
    }

    fn covering(&self, item: &Range<u64>) -> Option<Arc<Window>> {
        let mut before = self.windows.range(..=item.start).rev().take(COVERING_MAX);
        before
            .find(|(_, window)| window.range.end >= item.end)
            .map(|(_, window)| window.clone())
    }

    /// Bytes of a window, as often as the pack was missed.
    fn window_bytes(&self) -> u64 {
        let step = WINDOW_BYTES.iter().find(|(misses, _)| self.misses >= *misses);
        step.map_or(0, |(_, bytes)| *bytes)
    }

    /// The aligned window around an item, as far as the object goes.
    fn aligned(&self, item: &Range<u64>) -> Range<u64> {
        let bytes = self.window_bytes();
        let mut range = item.start / bytes * bytes..item.end.next_multiple_of(bytes);
        if let Some(len) = self.object_len {
            range.end = range.end.min(len).max(item.end);
        }
        range
    }

    /// What is on disk or on its way.
    fn known(&self) -> impl Iterator<Item = &Range<u64>> {
        let windows = self.windows.values().map(|window| &window.range);
        windows.chain(self.flights.iter().map(|flight| &flight.range))
    }

    /// What to fetch for an item: the aligned window around it, without what is there already but for the overlap.
    fn window_around(&self, item: &Range<u64>) -> Range<u64> {
        let mut range = self.aligned(item);
        for other in self.known() {
            if other.end <= item.start {
                range.start = range
                    .start
                    .max(other.end.saturating_sub(OVERLAP_BYTES).max(other.start));
            } else if other.start >= item.end {
                range.end = range.end.min((other.start + OVERLAP_BYTES).min(other.end));
            } else if other.start <= item.start {
                range.start = range.start.max(item.start);
            } else {
                range.end = range.end.min(item.end);
            }
        }
        range
    }

    /// What else is missing of the aligned window around an item whose own fetch has begun, once windows are large.
    fn gaps(&self, item: &Range<u64>) -> Vec<Range<u64>> {
        if self.misses < WINDOW_BYTES[0].0 || self.object_len.is_none() {
            return Vec::new();
        }
        let whole = self.aligned(item);
        let mut known: Vec<&Range<u64>> = self.known().collect();
        known.sort_unstable_by_key(|range| range.start);
        let (mut gaps, mut at) = (Vec::new(), whole.start);
        for other in known {
            if other.start.min(whole.end) > at {
                gaps.push(at..other.start.min(whole.end));
            }
            at = at.max(other.end);
        }
        if at < whole.end {
            gaps.push(at..whole.end);
        }
        // The items across their edges come with them.
        let wider = |gap: Range<u64>| {
            let start = gap.start.saturating_sub(OVERLAP_BYTES).max(whole.start);
            start..(gap.end + OVERLAP_BYTES).min(whole.end)
        };
        gaps.into_iter().map(wider).collect()
    }
}

impl Window {
    /// A window whose file was found at the opening of the cache.
    pub fn found(pack: PackRef, start: u64, number: u64, path: PathBuf, len: u64, room: Room) -> Window {
        Window {
            range: start..start + len,
            pack,
            number,
            used: AtomicU64::new(0),
            path,
            file: Mutex::new(None),
            room,
        }
    }

    /// It was last used at that tick of an earlier session.
    pub fn used_at(&self, tick: u64) {
        self.used.store(tick, Relaxed);
    }

    /// Reads an item; it is not verified yet. Blocks, on the local disk only.
    pub fn read(self: &Arc<Self>, disk: &Disk, item: &Range<u64>) -> io::Result<Bytes> {
        let open = self.file.lock().clone();
        let file = match open {
            Some(file) => file,
            None => {
                let file = Arc::new(reopen(&self.path)?);
                *self.file.lock() = Some(file.clone());
                let this: Weak<Self> = Arc::downgrade(self);
                disk.open_files.opened(this);
                file
            }
        };
        let len = usize::try_from(item.end - item.start).map_err(io::Error::other)?;
        Ok(read_at(&file, item.start - self.range.start, len)?.into())
    }

    /// Bytes that evicting it gives back.
    pub fn charged(&self) -> u64 {
        self.room.bytes()
    }
}

impl CloseFile for Window {
    fn close_file(&self) {
        *self.file.lock() = None;
    }
}

/// The file's name.
fn name(pack: PackRef, start: u64, number: u64) -> String {
    format!("{}-{:x}-{start:x}-{number:x}", pack.id, pack.epoch)
}

/// The reverse: pack, first byte, number.
pub(super) fn parse_name(path: &Path) -> Option<(PackRef, u64, u64)> {
    let mut parts = path.file_name()?.to_str()?.split('-');
    let id = parts.next()?.parse().ok()?;
    let epoch = u32::from_str_radix(parts.next()?, 16).ok()?;
    let start = u64::from_str_radix(parts.next()?, 16).ok()?;
    let number = u64::from_str_radix(parts.next()?, 16).ok()?;
    parts
        .next()
        .is_none()
        .then_some((PackRef { epoch, id }, start, number))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Hash;

    #[test]
    fn names_can_be_read_back() {
        let pack = PackRef {
            epoch: 3,
            id: Hash([0xcd; 32]),
        };
        let path = PathBuf::from("/x").join(name(pack, 77, 5));
        assert_eq!(parse_name(&path), Some((pack, 77, 5)));
        assert_eq!(parse_name(Path::new("/x/lost+found")), None);
    }

    #[test]
    fn windows_grow_with_the_misses_and_hold_the_item_without_what_is_there() {
        let mut pack = Pack::default();
        let at = |start: u64, len: u64| start..start + len;
        assert_eq!(pack.window_around(&at(300 << 10, 100)), (256 << 10)..(512 << 10));
        pack.misses = 2;
        assert_eq!(pack.window_around(&at(1 << 20, 100)), (1 << 20)..(2 << 20));
        pack.misses = 5;
        pack.object_len = Some(9_000_000);
        assert_eq!(pack.window_around(&at((8 << 20) - 1, 2)), 0..9_000_000);
        let (_sender, wait) = watch::channel(None);
        let range = 100_000..(1 << 20);
        pack.flights.push(Flight {
            number: 1,
            range,
            wait,
        });
        assert_eq!(pack.window_around(&at(0, 100)), 0..100_000 + OVERLAP_BYTES);
        assert_eq!(
            pack.window_around(&at(2 << 20, 100)),
            (1 << 20) - OVERLAP_BYTES..(8 << 20)
        );
        assert_eq!(
            pack.window_around(&at(99_900, 200)),
            0..100_100,
            "an item across the edge is held whole"
        );
    }

    #[test]
    fn gaps_are_what_is_missing_of_a_large_window_with_their_edges() {
        let mut pack = Pack::default();
        let (_sender, wait) = watch::channel(None);
        let fly = |pack: &mut Pack, range: Range<u64>| {
            let wait = wait.clone();
            pack.flights.push(Flight {
                number: 1,
                range,
                wait,
            });
        };
        let kib = |from: u64, to: u64| from << 10..to << 10;
        let item = kib(3000, 3001);
        fly(&mut pack, kib(256, 512));
        fly(&mut pack, kib(2048, 4096));
        fly(&mut pack, kib(4090, 4100));
        assert!(pack.gaps(&item).is_empty(), "windows are small");
        pack.misses = 5;
        assert!(pack.gaps(&item).is_empty(), "the object may end anywhere");
        pack.object_len = Some(20 << 20);
        assert_eq!(
            pack.gaps(&item),
            [kib(0, 288), kib(480, 2080), kib(4068, 8192)],
            "of these 8 MiB"
        );
        pack.object_len = Some(6000 << 10);
        assert_eq!(pack.gaps(&item).last(), Some(&kib(4068, 6000)));
        pack.object_len = Some(4100 << 10);
        assert_eq!(pack.gaps(&item), [kib(0, 288), kib(480, 2080)]);
    }
}
