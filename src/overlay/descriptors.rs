//! Bodies are open by this process only as long as there are descriptors for it: the one that was opened longest ago is
//! closed for the next, and opened again when it is used. So the number of open files of the mount has nothing to do with the
//! limit of descriptors, and who writes to an open file never has to be told that there are none.
//!
//! 1. A body that is known to somebody ([`Handle`]) keeps its name on disk, also when the overlay has given it up, for it is opened again by it.
//! 2. What is moved to another name is opened before, and stays open.
//! 3. A few descriptors are held for nothing else but to be given to who finds none, when all idle bodies are closed.

use std::collections::{HashMap, HashSet, VecDeque};
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

use super::error::OverlayError;
use super::handle::Handle;
use super::state::BodyId;

/// Most bodies that are open for writing, whatever the limit is: more than programs write at a time.
const OPEN_MAX: u64 = 1024;
/// Part of the process's limit that they may take ...
const SHARE: u64 = 8;
/// ... those that are open for reading, to be known ...
const HANDLES_SHARE: u64 = 4;
/// ... and those that are held for who finds none.
const SPARE_SHARE: u64 = 64;
/// Most of these: as many as there are threads that look for one at the same time, about.
const SPARE_MAX: u64 = 64;
/// Part of the limit for bodies that are created ahead.
const AHEAD_SHARE: u64 = 16;
/// How long an open is tried again while there are none at all ...
const TRY_FOR: Duration = Duration::from_secs(30);
/// ... and how long after each other: others give theirs back when a request has ended.
const TRY_AFTER: Duration = Duration::from_millis(10);
/// Entries of bodies that are gone are looked for when a queue has so many, and twice as many as were left the last time.
const PRUNE_FROM: usize = 1024;

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

/// Bodies that are open for reading at the same time.
pub(super) fn handles_max() -> usize {
    usize::try_from((limit() / HANDLES_SHARE).max(1)).unwrap_or(usize::MAX)
}

/// How many of `wanted` bodies may be created ahead.
pub(super) fn ahead_max(wanted: usize) -> usize {
    wanted.min(usize::try_from(limit() / AHEAD_SHARE).unwrap_or(usize::MAX))
}

/// Those of one kind that are open, the oldest first; some may have been closed since, or be gone.
#[derive(Debug)]
struct Queue<T> {
    entries: VecDeque<Weak<T>>,
    prune_at: usize,
}

impl<T> Default for Queue<T> {
    fn default() -> Queue<T> {
        Queue {
            entries: VecDeque::new(),
            prune_at: PRUNE_FROM,
        }
    }
}

impl<T> Queue<T> {
    fn push(&mut self, one: &Arc<T>) {
        self.entries.push_back(Arc::downgrade(one));
        if self.entries.len() >= self.prune_at {
            self.entries.retain(|entry| entry.strong_count() > 0);
            self.prune_at = PRUNE_FROM.max(2 * self.entries.len());
        }
    }
}

/// Closes the oldest until `max` are left. `close` says false of one that is in use at this moment: it is left as it is.
fn close_down<T>(queue: &Mutex<Queue<T>>, max: usize, close: impl Fn(&T) -> bool) {
    let too_many = queue.lock().entries.len().saturating_sub(max);
    for _ in 0..too_many {
        // Never held while something is dropped.
        let Some(oldest) = queue.lock().entries.pop_front() else {
            return;
        };
        if oldest.upgrade().is_some_and(|one| !close(&one)) {
            queue.lock().entries.push_back(oldest);
        }
    }
}

/// Names of bodies on disk that must stay, because somebody may open them again.
#[derive(Debug, Default)]
struct Names {
    known: HashMap<BodyId, Vec<Weak<Handle>>>,
    /// Being removed: nobody opens them any more.
    going: HashSet<BodyId>,
}

/// The bodies of a state directory that are open.
#[derive(Debug)]
pub(super) struct OpenBodies {
    max: usize,
    handles_max: usize,
    writing: Mutex<Queue<Writable>>,
    handles: Mutex<Queue<Handle>>,
    names: Mutex<Names>,
    spare: Mutex<Vec<OwnedFd>>,
    spare_max: usize,
}

impl OpenBodies {
    /// `max`: open for writing at the same time; `handles_max`: for reading.
    pub fn new(max: usize, handles_max: usize) -> Arc<OpenBodies> {
        let spare = (limit() / SPARE_SHARE).clamp(4, SPARE_MAX);
        let open = OpenBodies {
            max,
            handles_max,
            writing: Mutex::default(),
            handles: Mutex::default(),
            names: Mutex::default(),
            spare: Mutex::default(),
            spare_max: usize::try_from(spare).unwrap_or(0),
        };
        open.refill_spare();
        Arc::new(open)
    }

    /// One was opened for writing. The caller holds the lock of none.
    pub fn opened(&self, body: &Arc<Writable>) {
        self.writing.lock().push(body);
        close_down(&self.writing, self.max, close_writable);
        self.refill_spare();
    }

    /// One was opened for reading. The caller holds the lock of none.
    pub fn handle_opened(&self, handle: &Arc<Handle>) {
        self.handles.lock().push(handle);
        close_down(&self.handles, self.handles_max, Handle::close);
    }

    fn close_idle(&self) {
        close_down(&self.writing, 0, close_writable);
        close_down(&self.handles, 0, Handle::close);
    }

    /// Opens something; while there are no descriptors, those of bodies are closed for it, then one is given that was held for
    /// that, and then others are waited for: who writes to an open file must not be told that there are none.
    pub fn make_room<T, E: Into<io::Error>>(&self, open: impl Fn() -> Result<T, E>) -> io::Result<T> {
        let mut since = None;
        loop {
            let error = match open().map_err(Into::into) {
                Err(error) if is_want(&error) => error,
                done => return done,
            };
            self.close_idle();
            match open().map_err(Into::into) {
                Err(again) if is_want(&again) => {}
                done => return done,
            }
            let one = self.spare.lock().pop();
            if one.is_some() {
                // Another thread may be faster, so it is tried again all the same.
                continue;
            }
            if since.get_or_insert_with(Instant::now).elapsed() >= TRY_FOR {
                return Err(error);
            }
            std::thread::sleep(TRY_AFTER);
        }
    }

    /// Takes descriptors to be held for who finds none, as far as there are any.
    fn refill_spare(&self) {
        let mut spare = self.spare.lock();
        while spare.len() < self.spare_max {
            match rustix::fs::open("/", OFlags::PATH | OFlags::CLOEXEC, Mode::empty()) {
                Ok(one) => spare.push(one),
                Err(_) => return,
            }
        }
    }

    // ---- names ----

    /// Somebody knows the body from now on: its name stays.
    ///
    /// # Errors
    /// ENOENT: it is being removed.
    pub fn register(&self, id: BodyId, handle: &Arc<Handle>) -> io::Result<()> {
        let mut names = self.names.lock();
        if names.going.contains(&id) {
            return Err(Errno::NOENT.into());
        }
        names.known.entry(id).or_default().push(Arc::downgrade(handle));
        Ok(())
    }

    /// One who knew the body is gone.
    pub fn unregister(&self, id: BodyId) {
        let mut names = self.names.lock();
        if let Some(known) = names.known.get_mut(&id) {
            known.retain(|handle| handle.strong_count() > 0);
            if known.is_empty() {
                names.known.remove(&id);
            }
        }
    }

    /// Removes the name of a body by `remove`, unless somebody knows the body (`None`).
    pub fn remove_name<T>(&self, id: BodyId, remove: impl FnOnce() -> T) -> Option<T> {
        {
            let mut names = self.names.lock();
            let known = names.known.get(&id);
            if known.is_some_and(|known| known.iter().any(|handle| handle.strong_count() > 0)) {
                return None;
            }
            names.going.insert(id);
        }
        let removed = remove();
        self.names.lock().going.remove(&id);
        Some(removed)
    }

    /// The body's name is about to lead elsewhere: who knows it keeps it open from now on.
    pub fn keep_open(&self, id: BodyId) -> Result<(), OverlayError> {
        let known: Vec<Arc<Handle>> = {
            let names = self.names.lock();
            let known = names.known.get(&id).into_iter().flatten();
            known.filter_map(Weak::upgrade).collect()
        };
        known.iter().try_for_each(Handle::stay_open)
    }
}

fn close_writable(body: &Writable) -> bool {
    match body.try_lock() {
        Some(mut file) => {
            *file = None;
            true
        }
        None => false,
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
        let open = OpenBodies::new(2, 2);
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
        let open = OpenBodies::new(10, 10);
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

    #[test]
    fn a_body_is_known_by_its_name_while_its_descriptor_is_closed() {
        let dir = tempfile::tempdir().unwrap();
        let open = OpenBodies::new(1, 1);
        let path = |id: u64| dir.path().join(id.to_string());
        let make = |id: u64| {
            std::fs::write(path(id), id.to_string()).unwrap();
            Handle::open(id, path(id), OFlags::NOFOLLOW, &open).unwrap()
        };
        let handles: Vec<Arc<Handle>> = (1..4).map(make).collect();
        let is_open = |handle: &Handle| handle.get_open().is_some();
        assert_eq!(
            handles.iter().map(|h| is_open(h)).collect::<Vec<_>>(),
            [false, false, true]
        );
        // Its name stays as long as it is known.
        assert!(open.remove_name(1, || std::fs::remove_file(path(1))).is_none());
        let mut text = [0; 1];
        rustix::io::pread(handles[0].get().unwrap(), &mut text, 0).unwrap();
        assert_eq!(&text, b"1");
        assert!(!is_open(&handles[2]));
        // What is moved elsewhere stays open.
        open.keep_open(2).unwrap();
        std::fs::rename(path(2), path(20)).unwrap();
        handles[2].get().unwrap();
        open.close_idle();
        rustix::io::pread(handles[1].get().unwrap(), &mut text, 0).unwrap();
        assert_eq!(&text, b"2");
        drop(handles);
        open.remove_name(1, || std::fs::remove_file(path(1)))
            .unwrap()
            .unwrap();
        assert!(open.names.lock().known.is_empty());
    }

    #[test]
    fn what_is_held_is_given_to_who_finds_none() {
        let open = OpenBodies::new(1, 1);
        let held = open.spare.lock().len();
        assert!(held > 0);
        let opened = open.make_room(|| match open.spare.lock().len() < held {
            true => Ok(()),
            false => Err(io::Error::from_raw_os_error(libc::EMFILE)),
        });
        opened.unwrap();
        open.opened(&Arc::new(Writable::new(None)));
        assert_eq!(open.spare.lock().len(), held);
    }
}
