//! Descriptors that open files of the mount may take. At their end who opens a file is told ENFILE; who has one open goes on.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// What one file takes that can be written: its body, and the copy of it that a commit under way may need.
pub(super) const FOR_WRITING: usize = 2;
/// What one file takes whose bytes are in a body and that is only read.
pub(super) const FOR_READING_A_BODY: usize = 1;
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

    /// `None`: there are not so many left.
    pub fn take(self: &Arc<Self>, number: usize) -> Option<Taken> {
        self.take_below(number, self.max.load(Ordering::Relaxed))
    }

    /// For what works without them, only slower: the last half is for what does not.
    pub fn take_spare(self: &Arc<Self>, number: usize) -> Option<Taken> {
        self.take_below(number, self.max.load(Ordering::Relaxed) / 2)
    }

    fn take_below(self: &Arc<Self>, number: usize, max: usize) -> Option<Taken> {
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
    pub number: usize,
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
    fn what_is_taken_comes_back_and_spare_ones_leave_half() {
        let all = Arc::new(Descriptors::default());
        all.set_max(6);
        let spare = all.take_spare(2).unwrap();
        assert!(all.take_spare(2).is_none());
        let rest = [all.take(2).unwrap(), all.take(2).unwrap()];
        assert!(all.take(1).is_none());
        drop(spare);
        assert!(all.take(2).is_some());
        drop(rest);
        assert_eq!(all.taken.load(Ordering::Relaxed), 0);
    }
}
