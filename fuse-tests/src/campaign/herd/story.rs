//! What one mount has shown, moment by moment, and which of these moments a call may have seen.
//!
//! The mount's own driver says when it begins something that changes the view and, once it is over, what the view is then.
//! Whoever looks at the mount meanwhile opens a [`Window`] before its call and closes it after: every moment from the last
//! one that was over when the call began to the one that was under way when it ended may be what the call saw. What came of
//! that last one is waited for.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

use super::alarm::Alarm;
use super::tree::{Place, Tree};

/// How long one change of the view may take: a commit or reload with a store that fails now and then, on a busy machine.
const CHANGE_TIME: Duration = Duration::from_secs(300);

/// Why the view changed.
#[derive(Clone, Debug)]
pub enum Cause {
    /// The beginning.
    Begin,
    /// A call of the mount's own driver at these places.
    Local(Vec<Touch>),
    /// A reload, or a stash that was restored.
    Moved,
    /// The mount was away meanwhile.
    Away,
}

/// A place that a local call changes.
#[derive(Clone, Debug)]
pub struct Touch {
    /// Where.
    pub place: Place,
    /// Half of it may be seen: the bytes are changed where they are.
    pub torn: bool,
}

/// One moment.
#[derive(Clone)]
pub struct Moment {
    /// What is shown.
    pub tree: Arc<Tree>,
    /// The record that it stands on.
    pub base: u64,
    /// What led to it.
    pub cause: Cause,
}

#[derive(Default)]
struct Inner {
    moments: VecDeque<Moment>,
    /// Number of the first of them.
    first: u64,
    /// Changes begun, and over; a moment each.
    begun: u64,
    ended: u64,
    /// Windows by the moment that they begin with.
    windows: BTreeMap<u64, usize>,
    moves: u64,
    aways: u64,
}

/// The moments of one mount.
pub struct Story {
    inner: Mutex<Inner>,
    changed: Condvar,
}

/// What a call may have seen.
pub struct Seen {
    /// Oldest first.
    pub moments: Vec<Moment>,
}

impl Seen {
    /// The mount was away: what the call said means nothing.
    pub fn away(&self) -> bool {
        self.after_first().any(|m| matches!(m.cause, Cause::Away))
    }

    /// The view moved to another record.
    pub fn moved(&self) -> bool {
        self.after_first().any(|m| matches!(m.cause, Cause::Moved))
    }

    /// Places that local calls changed meanwhile.
    pub fn touched(&self) -> impl Iterator<Item = &Touch> {
        self.after_first().flat_map(|moment| match &moment.cause {
            Cause::Local(touches) => touches.as_slice(),
            _ => &[],
        })
    }

    /// The records stood on, for messages.
    pub fn bases(&self) -> Vec<u64> {
        let mut bases: Vec<u64> = self.moments.iter().map(|m| m.base).collect();
        bases.dedup();
        bases
    }

    fn after_first(&self) -> impl Iterator<Item = &Moment> {
        self.moments.iter().skip(1)
    }
}

/// An observation that has begun. [`Story::close`] it.
#[derive(Clone, Copy, Debug)]
pub struct Window {
    from: u64,
}

impl Story {
    /// Begins with what is shown.
    pub fn new(tree: Arc<Tree>, base: u64) -> Story {
        let inner = Inner {
            moments: [Moment {
                tree,
                base,
                cause: Cause::Begin,
            }]
            .into(),
            ..Inner::default()
        };
        Story {
            inner: Mutex::new(inner),
            changed: Condvar::new(),
        }
    }

    /// The view may change from now on. One at a time.
    pub fn begin(&self) {
        self.inner.lock().begun += 1;
        self.changed.notify_all();
    }

    /// The change is over, and this is shown.
    pub fn end(&self, moment: Moment) {
        let mut inner = self.inner.lock();
        inner.ended += 1;
        inner.moves += u64::from(!matches!(moment.cause, Cause::Local(_)));
        inner.aways += u64::from(matches!(moment.cause, Cause::Away));
        inner.moments.push_back(moment);
        inner.forget();
        self.changed.notify_all();
    }

    /// The newest moment.
    pub fn now(&self) -> Moment {
        let inner = self.inner.lock();
        inner.moments.back().expect("there is always one").clone()
    }

    /// Before a call.
    pub fn open(&self) -> Window {
        let mut inner = self.inner.lock();
        let from = inner.first + inner.moments.len() as u64 - 1;
        *inner.windows.entry(from).or_default() += 1;
        Window { from }
    }

    /// How often the mount has been away: a handle of before is of no use.
    pub fn aways(&self) -> u64 {
        self.inner.lock().aways
    }

    /// How far the driver has begun: after a call, the end of what it may have seen.
    pub fn mark(&self) -> u64 {
        self.inner.lock().begun
    }

    /// What may have been seen from the opening of the window to a mark; the window stays open.
    ///
    /// # Errors
    /// The campaign has failed meanwhile, or the change that was under way does not end.
    pub fn seen(&self, window: Window, mark: u64, alarm: &Alarm) -> Result<Seen, String> {
        let mut inner = self.inner.lock();
        let deadline = Instant::now() + CHANGE_TIME;
        while inner.ended < mark {
            if alarm.is_set() {
                return Err("ended".to_owned());
            }
            if Instant::now() > deadline {
                return Err(format!("what the driver does takes over {CHANGE_TIME:?}"));
            }
            self.changed.wait_for(&mut inner, Duration::from_millis(200));
        }
        let begin = (window.from - inner.first) as usize;
        // Moment n came of change n.
        let end = (mark.max(window.from) + 1 - inner.first) as usize;
        Ok(Seen {
            moments: inner.moments.range(begin..end).cloned().collect(),
        })
    }

    /// Nobody asks about this window any more.
    pub fn close(&self, window: Window) {
        let mut inner = self.inner.lock();
        if let Some(count) = inner.windows.get_mut(&window.from) {
            *count -= 1;
            if *count == 0 {
                inner.windows.remove(&window.from);
            }
        }
        inner.forget();
    }

    /// Waits a while for a move of the view, so that what is open is open across it. Gives whether one came.
    pub fn wait_for_move(&self, at_most: Duration) -> bool {
        let mut inner = self.inner.lock();
        let (moves, deadline) = (inner.moves, Instant::now() + at_most);
        while inner.moves == moves {
            if self.changed.wait_until(&mut inner, deadline).timed_out() {
                return false;
            }
        }
        true
    }
}

impl Inner {
    /// Drops moments that no window can ask for.
    fn forget(&mut self) {
        let newest = self.first + self.moments.len() as u64 - 1;
        let needed = self.windows.keys().next().copied().unwrap_or(newest).min(newest);
        while self.first < needed {
            self.moments.pop_front();
            self.first += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn moment(base: u64, cause: Cause) -> Moment {
        Moment {
            tree: Arc::new(Tree::empty()),
            base,
            cause,
        }
    }

    #[test]
    fn a_window_holds_what_was_under_way_at_its_ends_and_nothing_else() {
        let (story, alarm) = (Story::new(Arc::new(Tree::empty()), 1), Alarm::default());
        story.begin();
        story.end(moment(2, Cause::Moved));
        story.begin();
        // Record 3 is on its way: both may be seen.
        let window = story.open();
        story.end(moment(3, Cause::Moved));
        story.begin();
        let mark = story.mark();
        story.end(moment(4, Cause::Away));
        story.begin();
        story.end(moment(5, Cause::Moved));
        let seen = story.seen(window, mark, &alarm).unwrap();
        assert_eq!(seen.bases(), [2, 3, 4]);
        assert!(seen.away() && seen.moved());
        story.close(window);
        assert_eq!(story.inner.lock().moments.len(), 1);
        let quiet = story.open();
        let seen = story.seen(quiet, story.mark(), &alarm).unwrap();
        assert_eq!(seen.bases(), [5]);
        assert!(!seen.away() && !seen.moved());
    }
}
