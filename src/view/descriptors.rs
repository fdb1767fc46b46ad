//! Descriptors that open files of the mount may take for long. Bodies take none (`overlay::Body` closes and opens them by
//! itself), and bytes that come from the cache through the daemon take none; what is left are clean files that the kernel reads by itself.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// What a clean file takes that the kernel reads by itself: the file, and the mount that it is registered through.
pub(super) const FOR_THE_KERNEL: usize = 2;

/// How many there are for open files, and how many of them are taken.
#[derive(Debug)]
pub(super) struct Descriptors {
    max: AtomicUsize,
    taken: AtomicUsize,
}

impl Default for Descriptors {
    /// No limit.
    fn default() -> Descriptors {
        Descriptors {
            max: AtomicUsize::new(usize::MAX),
            taken: AtomicUsize::new(0),
        }
    }
}

impl Descriptors {
    pub fn set_max(&self, max: usize) {
        self.max.store(max, Ordering::Relaxed);
    }

    /// `None`: there are not so many left. Everything works without them, only slower.
    pub fn take(self: &Arc<Self>, number: usize) -> Option<Taken> {
        let max = self.max.load(Ordering::Relaxed);
        let more = |taken: usize| taken.checked_add(number).filter(|taken| *taken <= max);
        let done = self
            .taken
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, more);
        done.ok().map(|_| Taken {
            of: self.clone(),
            number,
        })
    }
}

/// Some that are taken, until this is dropped.
#[derive(Debug)]
pub(super) struct Taken {
    of: Arc<Descriptors>,
    number: usize,
}

impl Drop for Taken {
    fn drop(&mut self) {
        self.of.taken.fetch_sub(self.number, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_taken_comes_back() {
        let all = Arc::new(Descriptors::default());
        all.set_max(5);
        let taken = [all.take(2).unwrap(), all.take(2).unwrap()];
        assert!(all.take(2).is_none());
        assert!(all.take(1).is_some());
        drop(taken);
        assert_eq!(all.taken.load(Ordering::Relaxed), 0);
    }
}
