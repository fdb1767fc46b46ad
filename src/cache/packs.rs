//! Windows of packs: the pieces in which nodes and small contents are fetched and kept. A *pack* is an object in the store that
//! holds many of them (*items*); a *window* is a part of a pack that was fetched with one request.
//!
//! A pack holds items that are neighbours in the tree, so a program that reads one item will probably read the ones beside it.
//! A miss therefore fetches 256 KiB around the item, and more when the same pack is missed again. A window on disk is a
//! plain file that is never trusted: each item is verified against its pointer when it is read, so that a lost, truncated or
//! altered file costs another request and nothing else. Windows need no index.
//!
//! There is one fetch for each window: readers of an item that is already being fetched wait for that fetch. A window extends
//! 32 KiB (a large one 256 KiB) past its nominal end, even where another window already begins there: otherwise an item that
//! crosses the boundary would cost a request of its own.
//!
//! 1. Sequential readers are recognised by a miss where the last window ended. From then on the next window is fetched as soon
//!    as an item is read from the last one, so that the reader does not wait for a round trip at each boundary. At the end
//!    of the pack the reader is expected at the beginning of another pack, with windows of the size reached so far.
//! 2. After the third miss out of order the pack is expected to be read widely: everything missing in the 8 MiB around the item
//!    is fetched along with it, because each gap between small windows would cost a round trip later.
//! 3. A pack of no more than two small windows is fetched whole, as soon as the first answer has told how long it is.
//! 4. Rules 2 and 3 are guesses, which pay only if the bytes are still cached when they are needed. When the cache is full, a
//!    guess would evict bytes that others need (a data set larger than the cache, read in random order); then a miss out of
//!    order fetches 256 KiB and no more.

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Weak};

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::watch;

use super::disk::{CloseFile, Disk, create, read_at, reopen, unlink};
use super::space::{Room, charge};
use crate::model::PackRef;
use crate::tree::TreeError;

/// Bytes of a window by the misses that its pack has seen (SPEC.md 10).
const WINDOW_BYTES: [(u32, u64); 3] = [(5, 8 << 20), (2, 1 << 20), (0, 256 << 10)];
/// Bytes of a window, and of a guess when the cache is full.
const WINDOW_BYTES_MIN: u64 = WINDOW_BYTES[2].1;
/// Bytes around an item whose gaps are fetched together.
const AROUND_BYTES: u64 = WINDOW_BYTES[0].1;
/// Packs up to this many bytes are fetched whole.
const WHOLE_BYTES_MAX: u64 = 2 * WINDOW_BYTES_MIN;
/// Misses of a pack out of order before its gaps are fetched.
const GAPS_AFTER: u32 = 2;
/// A miss up to this far past the end of the last window, or past the beginning of a pack, still counts as sequential: a reader may
/// skip files, and several readers may go through the pack together.
const SKIP_BYTES: u64 = 1 << 20;
/// The same limit while the cache is full, when a sequential reader must not be assumed too easily.
const SKIP_BYTES_MIN: u64 = 128 << 10;

/// How far a window goes on behind its end, at least, bytes: most small files, compressed, are shorter.
const OVERLAP_BYTES: u64 = 32 << 10;
/// The part of a large window by which it goes on behind its end: 256 KiB of 8 MiB.
const OVERLAP_SHARE: u64 = 32;
/// Windows that begin before an item and may hold it, however they overlap.
const COVERING_MAX: usize = 4;

/// A window that is on its way.
pub(super) type WindowWait = watch::Receiver<Option<Result<Bytes, TreeError>>>;

/// All windows.
#[derive(Debug)]
pub(super) struct Packs {
    dir: PathBuf,
    packs: Mutex<HashMap<PackRef, Pack>>,
    /// Misses of a pack that was read sequentially to its end, for its reader's next pack; 0: none, or already used.
    ended: AtomicU32,
}

#[derive(Debug, Default)]
struct Pack {
    misses: u32,
    /// Length of the object, once an answer has told it.
    object_len: Option<u64>,
    /// By first byte.
    windows: BTreeMap<u64, Arc<Window>>,
    flights: Vec<Flight>,
    /// Where the most recently fetched window ends.
    last_end: Option<u64>,
    /// The window that was most recently fetched for a sequential reader.
    run: Option<Range<u64>>,
    /// A sequential reader has reached its end, and [`Packs::ended`] does not record it yet.
    at_end: bool,
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
    /// Not available: the caller has to fetch this range, and others wait for it. The number identifies the claim.
    Fetch(Range<u64>, u64),
}

/// A window that is fetched ahead: nobody waits for it yet.
pub(super) struct Gap {
    pub range: Range<u64>,
    /// The number of the claim.
    pub number: u64,
    pub sender: watch::Sender<Option<Result<Bytes, TreeError>>>,
}

impl Packs {
    /// Windows in `dir`.
    pub fn new(dir: PathBuf) -> Packs {
        Packs {
            dir,
            packs: Mutex::default(),
            ended: AtomicU32::new(0),
        }
    }

    /// Takes up a window of an earlier session.
    pub fn found(&self, window: Window) {
        let mut packs = self.packs.lock();
        let pack = packs.entry(window.pack).or_default();
        pack.windows.insert(window.range.start, Arc::new(window));
    }

    /// Looks for the item at `item` of a pack. If it is not available, gives the window that the caller has to fetch; others
    /// wait for it through `wait`. Also gives what to fetch ahead.
    pub fn claim(
        &self,
        disk: &Disk,
        pack: PackRef,
        item: &Range<u64>,
        wait: &WindowWait,
    ) -> (ItemState, Vec<Gap>) {
        let mut packs = self.packs.lock();
        let pack = packs.entry(pack).or_default();
        if let Some(window) = pack.covering(item) {
            window.used.store(disk.tick(), Relaxed);
            let ahead = self.go_on(disk, pack, item);
            return (ItemState::OnDisk(window), ahead.into_iter().collect());
        }
        if let Some(flight) = pack.flights.iter().find(|flight| covers(&flight.range, item)) {
            let state = ItemState::Fetching(flight.wait.clone(), flight.range.start);
            let ahead = self.go_on(disk, pack, item);
            return (state, ahead.into_iter().collect());
        }
        if pack.last_end.is_none() && item.start < SKIP_BYTES {
            match self.ended.swap(0, Relaxed) {
                0 => {}
                misses => pack.entered(misses),
            }
        }
        let number = disk.number();
        let room = disk.space.fits(AROUND_BYTES);
        let (range, besides) = pack.missed(item, room, number, wait);
        self.note_end(pack);
        let gaps = besides.into_iter().map(|range| pack.gap(disk, range)).collect();
        (ItemState::Fetch(range, number), gaps)
    }

    /// An item was read from a window on disk: gives what to fetch ahead now.
    pub fn ahead(&self, disk: &Disk, pack: PackRef, item: &Range<u64>) -> Option<Gap> {
        let mut packs = self.packs.lock();
        self.go_on(disk, packs.get_mut(&pack)?, item)
    }

    fn go_on(&self, disk: &Disk, pack: &mut Pack, item: &Range<u64>) -> Option<Gap> {
        let range = pack.ahead(item);
        self.note_end(pack);
        range.map(|range| pack.gap(disk, range))
    }

    /// The first miss in another pack will know.
    fn note_end(&self, pack: &mut Pack) {
        if std::mem::take(&mut pack.at_end) {
            self.ended.store(pack.misses, Relaxed);
        }
    }

    /// The window on disk that holds the item, if there is one.
    pub fn on_disk(&self, disk: &Disk, pack: PackRef, item: &Range<u64>) -> Option<Arc<Window>> {
        let window = self.packs.lock().get(&pack)?.covering(item)?;
        window.used.store(disk.tick(), Relaxed);
        Some(window)
    }

    /// A response has told the length of a pack: gives what to fetch ahead if it is short.
    pub fn learned(&self, disk: &Disk, pack: PackRef, object_len: u64) -> Vec<Gap> {
        let mut packs = self.packs.lock();
        let Some(pack) = packs.get_mut(&pack) else {
            return Vec::new();
        };
        let new = pack.object_len.replace(object_len).is_none();
        if !new || object_len > WHOLE_BYTES_MAX || !disk.space.fits(WHOLE_BYTES_MAX) {
            return Vec::new();
        }
        let rest = pack.gaps(&(0..1));
        rest.into_iter().map(|range| pack.gap(disk, range)).collect()
    }

    /// The fetch with this claim is over.
    pub fn unclaim(&self, pack: PackRef, claim: u64) {
        let mut packs = self.packs.lock();
        if let Some(known) = packs.get_mut(&pack) {
            known.flights.retain(|flight| flight.number != claim);
            if known.windows.is_empty() && known.flights.is_empty() {
                packs.remove(&pack);
            }
        }
    }

    /// The bytes fetched for an item failed verification: nobody else waits for this fetch, and it is not kept.
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

/// True if all of the item lies in the window.
fn covers(window: &Range<u64>, item: &Range<u64>) -> bool {
    window.start <= item.start && window.end >= item.end
}

/// How far a window of so many bytes goes on behind its end.
fn overlap(bytes: u64) -> u64 {
    OVERLAP_BYTES.max(bytes / OVERLAP_SHARE)
}

impl Pack {
    /// Records a fetch that is under way.
    fn begin(&mut self, number: u64, range: &Range<u64>, wait: &WindowWait) {
        self.flights.push(Flight {
            number,
            range: range.clone(),
            wait: wait.clone(),
        });
    }

    /// Records the fetch of a window that nobody waits for yet.
    fn gap(&mut self, disk: &Disk, range: Range<u64>) -> Gap {
        let (sender, wait) = watch::channel(None);
        let number = disk.number();
        self.begin(number, &range, &wait);
        Gap {
            range,
            number,
            sender,
        }
    }

    /// A reader that went through another pack sequentially, with that many misses, continues in this one.
    fn entered(&mut self, misses: u32) {
        self.misses = misses;
        self.last_end = Some(0);
    }

    /// An item is nowhere: the window to fetch for it, noted under `number`, and what to fetch besides. `room`: the cache has
    /// room for guesses.
    fn missed(
        &mut self,
        item: &Range<u64>,
        room: bool,
        number: u64,
        wait: &WindowWait,
    ) -> (Range<u64>, Vec<Range<u64>>) {
        let skip = if room { SKIP_BYTES } else { SKIP_BYTES_MIN };
        let in_order = self
            .last_end
            .is_some_and(|end| item.start <= end.saturating_add(skip) && item.end > end);
        let bytes = if room || in_order {
            self.window_bytes()
        } else {
            WINDOW_BYTES_MIN
        };
        let range = self.window_around(item, bytes);
        self.begin(number, &range, wait);
        if range == *item {
            // The item crosses a boundary and both sides are cached: this says nothing about the order of reading.
            return (range, self.ahead(item).into_iter().collect());
        }
        self.last_end = Some(range.end);
        self.run = in_order.then(|| range.clone());
        let besides = if in_order {
            self.ahead(item).into_iter().collect()
        } else if room && self.misses >= GAPS_AFTER {
            self.gaps(item)
        } else {
            Vec::new()
        };
        self.misses = self.misses.saturating_add(1);
        (range, besides)
    }

    /// An item was found. If it is in the window that was most recently fetched for a sequential reader, gives the next
    /// window, up to the end of the object.
    fn ahead(&mut self, item: &Range<u64>) -> Option<Range<u64>> {
        let run = self.run.as_ref()?;
        if item.end <= run.start || item.start >= run.end {
            return None;
        }
        let next = run.end..run.end + 1;
        if next.end > self.object_len? {
            (self.run, self.at_end) = (None, true);
            return None;
        }
        let there = self.known().find(|range| covers(range, &next)).cloned();
        if there.is_some() {
            self.run = there;
            return None;
        }
        let range = self.window_around(&next, self.window_bytes());
        self.misses = self.misses.saturating_add(1);
        self.last_end = Some(range.end);
        self.run = Some(range.clone());
        Some(range)
    }

    fn covering(&self, item: &Range<u64>) -> Option<Arc<Window>> {
        let mut before = self.windows.range(..=item.start).rev().take(COVERING_MAX);
        before
            .find(|(_, window)| window.range.end >= item.end)
            .map(|(_, window)| window.clone())
    }

    /// Bytes of the next window, which grow with the misses of the pack.
    fn window_bytes(&self) -> u64 {
        let step = WINDOW_BYTES.iter().find(|(misses, _)| self.misses >= *misses);
        step.map_or(0, |(_, bytes)| *bytes)
    }

    /// The aligned window of this many bytes around an item, as far as the object goes.
    fn aligned(&self, item: &Range<u64>, bytes: u64) -> Range<u64> {
        let mut range = item.start / bytes * bytes..item.end.next_multiple_of(bytes) + overlap(bytes);
        if let Some(len) = self.object_len {
            range.end = range.end.min(len).max(item.end);
        }
        range
    }

    /// Ranges that are on disk or being fetched.
    fn known(&self) -> impl Iterator<Item = &Range<u64>> {
        let windows = self.windows.values().map(|window| &window.range);
        windows.chain(self.flights.iter().map(|flight| &flight.range))
    }

    /// What to fetch for an item: the aligned window around it, without ranges that are available (but with the overlap).
    fn window_around(&self, item: &Range<u64>, bytes: u64) -> Range<u64> {
        let (mut range, overlap) = (self.aligned(item, bytes), overlap(bytes));
        for other in self.known() {
            if other.end <= item.start {
                let start = other.end.saturating_sub(overlap).max(other.start);
                range.start = range.start.max(start);
            } else if other.start >= item.end {
                range.end = range.end.min((other.start + overlap).min(other.end));
            } else if other.start <= item.start {
                range.start = range.start.max(item.start);
            } else {
                range.end = range.end.min(item.end);
            }
        }
        range
    }

    /// What else is missing around an item whose own fetch has begun.
    fn gaps(&self, item: &Range<u64>) -> Vec<Range<u64>> {
        if self.object_len.is_none() {
            return Vec::new();
        }
        let whole = self.aligned(item, AROUND_BYTES);
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

    const MIN: u64 = WINDOW_BYTES_MIN;
    const ROOM: bool = true;

    fn kib(from: u64, to: u64) -> Range<u64> {
        from << 10..to << 10
    }

    /// A pack of this many bytes and what was claimed of it.
    struct Claims {
        pack: Pack,
        wait: WindowWait,
    }

    impl Claims {
        fn new(object_len: Option<u64>) -> Claims {
            let (_, wait) = watch::channel(None);
            let pack = Pack {
                object_len,
                ..Pack::default()
            };
            Claims { pack, wait }
        }

        fn fly(&mut self, range: Range<u64>) {
            self.pack.begin(1, &range, &self.wait);
        }

        /// All that is fetched when this item is asked for.
        fn ask(&mut self, item: Range<u64>, room: bool) -> Vec<Range<u64>> {
            let (missed, besides) = if self.here(&item) {
                (None, self.pack.ahead(&item).into_iter().collect())
            } else {
                let (range, besides) = self.pack.missed(&item, room, 1, &self.wait);
                assert!(covers(&range, &item), "{range:?} for {item:?}");
                (Some(range), besides)
            };
            for range in &besides {
                self.fly(range.clone());
            }
            missed.into_iter().chain(besides).collect()
        }

        fn here(&self, item: &Range<u64>) -> bool {
            self.pack.known().any(|known| covers(known, item))
        }
    }

    #[test]
    fn a_window_holds_the_item_without_what_is_there() {
        let mut claims = Claims::new(None);
        let at = |start: u64, len: u64| start..start + len;
        let around = |claims: &Claims, item, bytes| claims.pack.window_around(&item, bytes);
        assert_eq!(around(&claims, at(300 << 10, 100), MIN), kib(256, 512 + 32));
        assert_eq!(around(&claims, at(1 << 20, 100), 1 << 20), kib(1024, 2048 + 32));
        claims.pack.object_len = Some(9_000_000);
        assert_eq!(around(&claims, at((8 << 20) - 1, 2), 8 << 20), 0..9_000_000);
        claims.fly(100_000..(1 << 20));
        assert_eq!(around(&claims, at(0, 100), MIN), 0..100_000 + OVERLAP_BYTES);
        let after = around(&claims, at(2 << 20, 100), 8 << 20);
        assert_eq!(after, kib(1024 - 256, 8192 + 256));
        let across = around(&claims, at(99_900, 200), MIN);
        assert_eq!(across, 0..100_100, "an item across the edge is held whole");
    }

    #[test]
    fn gaps_are_what_is_missing_around_an_item_with_their_edges() {
        let mut claims = Claims::new(None);
        let item = kib(3000, 3001);
        claims.fly(kib(256, 512));
        claims.fly(kib(2048, 4096));
        claims.fly(kib(4090, 4100));
        assert!(claims.pack.gaps(&item).is_empty(), "the object may end anywhere");
        claims.pack.object_len = Some(20 << 20);
        let gaps = claims.pack.gaps(&item);
        assert_eq!(
            gaps,
            [kib(0, 288), kib(480, 2080), kib(4068, 8448)],
            "of these 8 MiB"
        );
        claims.pack.object_len = Some(6000 << 10);
        assert_eq!(claims.pack.gaps(&item).last(), Some(&kib(4068, 6000)));
        claims.pack.object_len = Some(4100 << 10);
        assert_eq!(claims.pack.gaps(&item), [kib(0, 288), kib(480, 2080)]);
    }

    #[test]
    fn who_reads_in_order_never_waits_again_after_the_second_miss() {
        let mut claims = Claims::new(Some(16 << 20));
        let (mut waited, mut fetched) = (0, 0);
        for at in 0..16 << 10 {
            let item = kib(at, at + 1);
            waited += u32::from(!claims.here(&item));
            fetched += claims.ask(item, !ROOM).len();
        }
        assert_eq!(waited, 2, "at the beginning, and where the first window ends");
        assert_eq!(fetched, 2 + 5, "windows grow");
        assert_eq!(claims.pack.ahead(&kib(16383, 16384)), None, "it ends there");
    }

    #[test]
    fn the_third_miss_anywhere_fetches_what_is_around_if_there_is_room() {
        let mut claims = Claims::new(Some(16 << 20));
        let full = |at: u64| {
            let start = (at << 10) / MIN * MIN;
            let window = start..start + MIN + OVERLAP_BYTES;
            [window]
        };
        assert_eq!(claims.ask(kib(1100, 1101), ROOM), full(1100));
        assert_eq!(claims.ask(kib(5000, 5001), ROOM), full(5000));
        for at in [9000, 12000, 14000] {
            assert_eq!(claims.ask(kib(at, at + 1), !ROOM), full(at));
        }
        let all = claims.ask(kib(3000, 3001), ROOM);
        assert!(all.len() > 1, "{all:?}");
        for at in 0..8 << 10 {
            assert_eq!(claims.ask(kib(at, at + 1), ROOM), [], "{at}");
        }
    }
}
