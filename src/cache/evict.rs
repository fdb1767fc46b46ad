//! Room before a fetch: what was used longest ago goes first, whole files only.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use super::Cache;
use super::packs::Window;
use super::segment::Segment;
use super::space::{Room, Shortage};
use super::stats::count;

/// One that has to evict frees this part of the cap more than it needs, so that looking for the oldest pays.
const SLACK_DIVISOR: u64 = 64;
/// How often it is looked for victims before somebody who needs room is turned away: what was evicted may still be read
/// by somebody, and then takes its space until that read is over.
const ROUNDS_MAX: usize = 8;

/// What can be evicted.
enum Victim {
    Segment(Arc<Segment>),
    Window(Arc<Window>),
}

impl Cache {
    /// Promises room for `bytes` that are about to be fetched; `None`: nothing more can be evicted, the bytes are to be
    /// given out without being kept.
    pub(super) async fn reserve(self: &Arc<Self>, bytes: u64) -> Option<Room> {
        if bytes > self.disk.space.cap() {
            return None;
        }
        if let Ok(room) = self.disk.space.take(bytes) {
            return Some(room);
        }
        let this = self.clone();
        let evicting = tokio::task::spawn_blocking(move || this.evict_for(bytes));
        evicting.await.ok().flatten()
    }

    fn evict_for(&self, bytes: u64) -> Option<Room> {
        let _one_at_a_time = self.evicting.lock();
        self.disk.sweep();
        for _ in 0..ROUNDS_MAX {
            let Shortage(short) = match self.disk.space.take(bytes) {
                Ok(room) => return Some(room),
                Err(short) => short,
            };
            if self.evict(short, self.disk.space.cap() / SLACK_DIVISOR) == 0 {
                return None;
            }
        }
        self.disk.space.take(bytes).ok()
    }

    /// Evicts until `bytes` more are free on the file system than the floor asks for, and the cap holds; returns the
    /// bytes given back. For a writer who needs the disk, and for a watcher ahead of one. Blocks.
    pub fn make_room(&self, bytes: u64) -> u64 {
        let _one_at_a_time = self.evicting.lock();
        self.disk.sweep();
        let mut freed = 0;
        for _ in 0..ROUNDS_MAX {
            let short = self.disk.space.shortage(bytes);
            if short == 0 {
                break;
            }
            match self.evict(short, 0) {
                0 => break,
                now => freed += now,
            }
        }
        freed
    }

    /// Evicts everything that is not pinned, and forgets what is in memory. Blocks.
    pub fn clear(&self) {
        let _one_at_a_time = self.evicting.lock();
        self.evict(u64::MAX, 0);
        self.disk.sweep();
        self.nodes.lock().clear();
        self.pieces.lock().clear();
    }

    /// Evicts at least `bytes`, oldest first, and `slack` more if it comes to that. Returns what was evicted.
    fn evict(&self, bytes: u64, slack: u64) -> u64 {
        self.remember_uses();
        let mut victims = self.victims();
        victims.sort_unstable_by_key(|(used, _)| *used);
        let mut freed = 0u64;
        for (_, victim) in victims {
            if freed >= bytes.saturating_add(slack) {
                break;
            }
            freed += match &victim {
                Victim::Segment(segment) => {
                    let charged = segment.charged();
                    self.contents.discard(&self.disk, segment);
                    charged
                }
                Victim::Window(window) => {
                    self.packs.discard(&self.disk, window);
                    window.charged()
                }
            };
            count(&self.remote.counters.evictions);
        }
        freed
    }

    fn victims(&self) -> Vec<(u64, Victim)> {
        let segments = self.contents.segments().into_iter();
        let evictable = segments.filter(|s| s.pins.load(Relaxed) == 0 && s.on_disk());
        let segments = evictable.map(|s| (s.used.load(Relaxed), Victim::Segment(s)));
        let windows = self.packs.windows().into_iter();
        segments
            .chain(windows.map(|w| (w.used.load(Relaxed), Victim::Window(w))))
            .collect()
    }

    /// Writes down when files were used last. Blocks.
    pub(super) fn remember_uses(&self) {
        let since = self.remembered_tick.swap(self.disk.tick(), Relaxed);
        let segments = self
            .contents
            .segments()
            .into_iter()
            .map(|s| (s.number, s.used.load(Relaxed)));
        let windows = self
            .packs
            .windows()
            .into_iter()
            .map(|w| (w.number, w.used.load(Relaxed)));
        let ticks: Vec<_> = segments
            .chain(windows)
            .filter(|(_, used)| *used >= since)
            .collect();
        self.disk.index.used(&ticks);
    }
}
