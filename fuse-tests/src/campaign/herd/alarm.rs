//! The first failure of any thread stops all of them.

use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::Mutex;

/// Raised once.
#[derive(Default)]
pub struct Alarm {
    set: AtomicBool,
    said: Mutex<Option<String>>,
}

impl Alarm {
    /// What is wrong; only the first one is kept.
    pub fn raise(&self, what: String) {
        let mut said = self.said.lock();
        if said.is_none() {
            *said = Some(what);
        }
        self.set.store(true, Ordering::Release);
    }

    /// Everybody ends.
    pub fn is_set(&self) -> bool {
        self.set.load(Ordering::Acquire)
    }

    /// What was wrong first.
    pub fn said(&self) -> Option<String> {
        self.said.lock().clone()
    }

    /// Raises itself when the thread that holds the guard panics.
    pub fn guard<'a>(&'a self, who: &'a str) -> Guard<'a> {
        Guard { alarm: self, who }
    }
}

/// See [`Alarm::guard`].
pub struct Guard<'a> {
    alarm: &'a Alarm,
    who: &'a str,
}

impl Drop for Guard<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.alarm.raise(format!("{}: panicked, see above", self.who));
        }
    }
}
