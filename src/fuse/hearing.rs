//! Hearing what programs did before now: before a commit or a reload decides by what is dirty and what is open.
//!
//! # Stores through mappings
//! Bytes that a program stores through a mapping of a file that goes through the daemon stay in the kernel's pages, until it
//! writes them back or the mapping goes. An invalidation of the inode writes them back first (`invalidate_inode_pages2`), and
//! returns when that is answered. (The kernel's own sync(2) does not wait for FUSE.)
//!
//! # Closes
//! close(2) does not wait for the daemon: the kernel queues a RELEASE and returns. (A FLUSH would wait, with a round trip for
//! every close of every file, and says nothing: descriptors that were inherited send one each.) The queue is first in, first out,
//! also where RELEASE has to wait for room among reads in the background. So [`Bell`] opens the root of the mount and closes it
//! again: once its own RELEASEDIR is here, every close before it was read by some loop thread. What those threads had in hand then
//! is done once each of them has begun two more requests ([`LoopThreads`]): one that was read and not begun yet, and the next.
//! statfs(2) gives them some.
//!
//! All this asks the mount itself, so it is done on threads that nothing else waits for, holding no lock, and in bounded time: a
//! mount that is going away, or is not seen from here, is not heard, and its files count as open.

use std::cell::OnceCell;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use fuser::Notifier;
use parking_lot::{Condvar, Mutex};
use rustix::fs::{Mode, OFlags};

use super::counts::RequestCounts;
use crate::view::{Fh, Ino, ROOT_INO, View};

/// Time for the kernel to write back what was stored through mappings. Part of it may have to be fetched around what is
/// written.
const WRITE_BACK_TIME: Duration = Duration::from_secs(10);
/// Time for closes to be read and handled.
const CLOSE_TIME: Duration = Duration::from_secs(2);
/// Most questions that are asked for the loop threads' sake.
const NUDGES_MAX: u32 = 1000;
/// Handles of directories from here on are the bell's: the view counts from 1.
const BELLS: Fh = 1 << 63;

// ---- loop threads ----

/// What the threads that read the kernel's requests have begun so far.
#[derive(Debug, Default)]
pub(super) struct LoopThreads(Mutex<Vec<Arc<AtomicU64>>>);

thread_local! {
    /// Requests that this thread has begun. A loop thread serves one session.
    static BEGUN: OnceCell<Arc<AtomicU64>> = const { OnceCell::new() };
}

impl LoopThreads {
    /// This thread begins a request: it is done with the one before.
    pub fn begin(&self) {
        BEGUN.with(|begun| {
            let new = || {
                let begun = Arc::<AtomicU64>::default();
                self.0.lock().push(begun.clone());
                begun
            };
            begun.get_or_init(new).fetch_add(1, Ordering::AcqRel);
        });
    }

    fn begun(&self) -> Vec<u64> {
        let threads = self.0.lock();
        threads
            .iter()
            .map(|begun| begun.load(Ordering::Acquire))
            .collect()
    }

    /// All `count` threads are done with whatever they had read when it was `then`: of that one request may not have begun.
    fn are_done(&self, then: &[u64], count: usize) -> bool {
        let now = self.begun();
        let then = then.iter().chain(std::iter::repeat(&0));
        now.len() >= count && now.iter().zip(then).all(|(now, then)| *now >= then + 2)
    }
}

// ---- the bell ----

/// A directory that the daemon opens and closes in its own mount, to know that closes before were read.
#[derive(Debug, Default)]
pub(super) struct Bell {
    /// Number of the thread that opens it, 0: none.
    puller: AtomicU32,
    /// How often it was opened.
    pulled: AtomicU64,
    /// The last that was closed.
    rang: Mutex<u64>,
    ringing: Condvar,
}

impl Bell {
    /// A handle, if this OPENDIR is the bell's.
    pub fn opened(&self, ino: Ino, thread: u32) -> Option<Fh> {
        let ours = ino == ROOT_INO && thread != 0 && self.puller.load(Ordering::Acquire) == thread;
        ours.then(|| BELLS + self.pulled.fetch_add(1, Ordering::AcqRel) + 1)
    }

    /// True if this RELEASEDIR is the bell's.
    pub fn closed(&self, fh: Fh) -> bool {
        if fh < BELLS {
            return false;
        }
        let mut rang = self.rang.lock();
        *rang = (*rang).max(fh - BELLS);
        self.ringing.notify_all();
        true
    }

    /// Opens and closes the root, and waits until the close is here. False: it did not come, or that is not our mount.
    fn ring(&self, dir: &Path, deadline: Instant) -> bool {
        let before = self.pulled.load(Ordering::Acquire);
        let thread = u32::try_from(rustix::thread::gettid().as_raw_nonzero().get()).unwrap_or(0);
        self.puller.store(thread, Ordering::Release);
        let opened = open_dir(dir);
        self.puller.store(0, Ordering::Release);
        let number = self.pulled.load(Ordering::Acquire);
        match opened {
            Ok(root) => drop(root),
            Err(error) => {
                tracing::debug!(%error, dir = %dir.display(), "the mount cannot be asked");
                return false;
            }
        }
        if number == before {
            tracing::debug!(dir = %dir.display(), "the mount is not seen here");
            return false;
        }
        let mut rang = self.rang.lock();
        while *rang < number {
            if self.ringing.wait_until(&mut rang, deadline).timed_out() {
                return *rang >= number;
            }
        }
        true
    }
}

fn open_dir(dir: &Path) -> rustix::io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    rustix::fs::open(dir, flags, Mode::empty())
}

// ---- both ----

/// Hears a session. Clones are one: at most one of them listens at a time.
#[derive(Clone, Debug)]
pub struct Hearing(Arc<Parts>);

#[derive(Debug)]
struct Parts {
    view: Arc<View>,
    /// Where it is mounted.
    dir: PathBuf,
    notifier: Notifier,
    counts: Arc<RequestCounts>,
    bell: Arc<Bell>,
    /// Threads that read requests.
    threads: usize,
    /// Held by the thread that waits for the kernel to write back, as long as it does.
    writing_back: Mutex<()>,
    /// The same for closes.
    listening: Mutex<()>,
}

impl Hearing {
    pub(super) fn new(
        view: Arc<View>,
        dir: &Path,
        notifier: Notifier,
        counts: Arc<RequestCounts>,
        bell: Arc<Bell>,
        threads: usize,
    ) -> Hearing {
        Hearing(Arc::new(Parts {
            view,
            dir: dir.to_path_buf(),
            notifier,
            counts,
            bell,
            threads,
            writing_back: Mutex::new(()),
            listening: Mutex::new(()),
        }))
    }

    /// Returns when the view knows what programs stored and closed before this was asked, as far as the kernel tells in bounded
    /// time. Called without any lock that a request may wait for.
    pub async fn catch_up(&self) {
        let mapped = self.0.view.written_through_daemon();
        if !mapped.is_empty() {
            let parts = self.0.clone();
            let done = in_time(WRITE_BACK_TIME, move || parts.write_back(&mapped)).await;
            if !done {
                tracing::warn!(
                    "the kernel has not written back all that was stored through mappings: it stays for the next commit"
                );
            }
        }
        if self.0.view.may_have_closed() {
            let parts = self.0.clone();
            let heard = in_time(CLOSE_TIME * 2, move || {
                parts.hear_closes(Instant::now() + CLOSE_TIME)
            })
            .await;
            if !heard {
                tracing::debug!("closes may not have been heard yet");
            }
        }
    }
}

/// Runs it on a thread that may block, and waits so long for it. False: it is not done.
async fn in_time(limit: Duration, work: impl FnOnce() -> bool + Send + 'static) -> bool {
    let work = tokio::task::spawn_blocking(work);
    matches!(tokio::time::timeout(limit, work).await, Ok(Ok(true)))
}

impl Parts {
    /// False: another thread waits already, or the mount is gone.
    fn write_back(&self, inodes: &[Ino]) -> bool {
        let Some(_turn) = self.writing_back.try_lock() else {
            return false;
        };
        let mut all = true;
        for ino in inodes {
            // From the beginning, of any length.
            if let Err(error) = self.notifier.inval_inode(fuser::INodeNo(*ino), 0, 0) {
                tracing::debug!(ino, %error, "writing back what was stored through mappings");
                all = false;
            }
        }
        all
    }

    fn hear_closes(&self, deadline: Instant) -> bool {
        let Some(_turn) = self.listening.try_lock_until(deadline) else {
            return false;
        };
        if !self.bell.ring(&self.dir, deadline) {
            return false;
        }
        let threads = &self.counts.threads;
        let then = threads.begun();
        for _ in 0..NUDGES_MAX {
            if !self.view.may_have_closed() || threads.are_done(&then, self.threads) {
                return true;
            }
            if Instant::now() > deadline || rustix::fs::statfs(&self.dir).is_err() {
                return false;
            }
        }
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bell_is_told_from_other_directories() {
        let bell = Bell::default();
        assert_eq!(bell.opened(ROOT_INO, 7), None, "nobody pulls it");
        bell.puller.store(7, Ordering::Release);
        assert_eq!(bell.opened(ROOT_INO, 8), None);
        assert_eq!(bell.opened(5, 7), None);
        let fh = bell.opened(ROOT_INO, 7).unwrap();
        assert!(!bell.closed(1));
        assert_eq!(*bell.rang.lock(), 0);
        assert!(bell.closed(fh));
        assert_eq!(*bell.rang.lock(), 1);
    }

    #[test]
    fn a_bell_in_another_file_system_does_not_ring() {
        let dir = tempfile::tempdir().unwrap();
        let bell = Bell::default();
        let deadline = Instant::now() + Duration::from_secs(60);
        assert!(!bell.ring(dir.path(), deadline));
        assert!(!bell.ring(&dir.path().join("none"), deadline));
        assert!(Instant::now() < deadline, "nobody waits for it");
    }

    #[test]
    fn a_thread_is_done_when_it_has_begun_two_more() {
        let threads = Arc::new(LoopThreads::default());
        let other = threads.clone();
        threads.begin();
        let then = threads.begun();
        assert!(!threads.are_done(&then, 1));
        threads.begin();
        assert!(!threads.are_done(&then, 1), "that may have been read before");
        threads.begin();
        assert!(threads.are_done(&then, 1));
        assert!(!threads.are_done(&then, 2), "a thread has not been seen yet");
        let begin = move || other.begin();
        std::thread::spawn(begin).join().unwrap();
        assert!(!threads.are_done(&then, 2), "nor is its first request done");
    }
}
