//! Bodies are open for writing by this process only as long as there are descriptors for it: the one that was opened longest
//! ago is closed for the next, and opened again when it is written.

use std::collections::VecDeque;
use std::fs::File;
use std::io;
use std::sync::{Arc, Weak};
use std::time::Duration;

use parking_lot::Mutex;
use rustix::io::Errno;

/// Most bodies that are open for writing, whatever the limit is: more than programs write at a time.
const OPEN_MAX: u64 = 1024;
/// Part of the process's limit that they may take.
const SHARE: u64 = 8;
/// Part of it for bodies that are created ahead.
const AHEAD_SHARE: u64 = 16;
/// How often an open is tried again while there are none at all ...
const TRIES_MAX: u32 = 100;
/// ... and how long after each other: others give theirs back when a request has ended.
const TRY_AFTER: Duration = Duration::from_millis(10);

/// The descriptor of a body for writing, while it has one.
pub(super) type Writable = Mutex<Option<Arc<File>>>;

/// Descriptors that this process may have (RLIMIT_NOFILE).
fn limit() -> u64 {
    rustix::process::getrlimit(rustix::process::Resource::Nofile)
        .current
        .unwrap_or(u64::MAX)
}

/// Bodies that are open for writing at the same time.
pub(super) fn open_max() -> usize {
    usize::try_from((limit() / SHARE).clamp(1, OPEN_MAX)).unwrap_or(1)
}

/// How many of `wanted` bodies may be created ahead.
pub(super) fn ahead_max(wanted: usize) -> usize {
    wanted.min(usize::try_from(limit() / AHEAD_SHARE).unwrap_or(usize::MAX))
}

/// Those that are open for writing, the oldest first; some may have been closed since.
#[derive(Debug)]
pub(super) struct OpenBodies {
    max: usize,
    queue: Mutex<VecDeque<Weak<Writable>>>,
}

impl OpenBodies {
    pub fn new(max: usize) -> Arc<OpenBodies> {
        Arc::new(OpenBodies {
            max,
            queue: Mutex::default(),
        })
    }

    /// One was opened. The caller holds the lock of none.
    pub fn opened(&self, body: &Arc<Writable>) {
        self.queue.lock().push_back(Arc::downgrade(body));
        self.close_down_to(self.max);
    }

    /// Never waits for a body's lock: one that is being opened or asked at this moment is left as it is.
    fn close_down_to(&self, max: usize) {
        let mut queue = self.queue.lock();
        for _ in 0..queue.len().saturating_sub(max) {
            let Some(oldest) = queue.pop_front() else { return };
            let Some(body) = oldest.upgrade() else { continue };
            match body.try_lock() {
                Some(mut file) => *file = None,
                None => queue.push_back(oldest),
            }
        }
    }

    /// Opens something; while there are no descriptors, those of other bodies are closed for it, and then others waited for: who
    /// writes to an open file must not be told that there are none.
    pub fn make_room<T, E: Into<io::Error>>(&self, open: impl Fn() -> Result<T, E>) -> io::Result<T> {
        for _ in 0..TRIES_MAX {
            match open().map_err(Into::into) {
                Err(error) if is_want(&error) => {
                    self.close_down_to(0);
                    if let Ok(opened) = open() {
                        return Ok(opened);
                    }
                    std::thread::sleep(TRY_AFTER);
                }
                done => return done,
            }
        }
        open().map_err(Into::into)
    }
}

fn is_want(error: &io::Error) -> bool {
    [Errno::MFILE, Errno::NFILE]
        .map(|e| Some(e.raw_os_error()))
        .contains(&error.raw_os_error())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_is_closed_and_one_in_use_is_left() {
        let open = OpenBodies::new(2);
        let body = || Arc::new(Writable::new(Some(Arc::new(tempfile::tempfile().unwrap()))));
        let bodies: Vec<Arc<Writable>> = (0..4).map(|_| body()).collect();
        let in_use = bodies[0].lock();
        bodies.iter().for_each(|body| open.opened(body));
        assert!(in_use.is_some());
        drop(in_use);
        let still: Vec<bool> = bodies.iter().map(|body| body.lock().is_some()).collect();
        assert!(still[0] && !still[1] && still[3], "{still:?}");
        // A closed one makes no difference to the others.
        drop(bodies);
        open.opened(&body());
    }

    #[test]
    fn who_finds_none_takes_those_of_idle_bodies() {
        let open = OpenBodies::new(10);
        let body = Arc::new(Writable::new(Some(Arc::new(tempfile::tempfile().unwrap()))));
        open.opened(&body);
        let idle = body.clone();
        let opened = open.make_room(|| match idle.lock().is_some() {
            true => Err(io::Error::from_raw_os_error(libc::EMFILE)),
            false => Ok(7),
        });
        assert_eq!(opened.unwrap(), 7);
        let other = open.make_room(|| Err::<(), _>(io::Error::from_raw_os_error(libc::EIO)));
        assert_eq!(other.unwrap_err().raw_os_error(), Some(libc::EIO));
    }
}
