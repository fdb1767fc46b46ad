//! Records that what is open was drawn from (S of LOG.md 3, of open files and listings).
//!
//! A reload or a commit moves the view to another base, and a model that is mapped for days goes on with the bytes that it
//! was opened with. So whoever reads on what the view may leave keeps what the view was drawn from at that moment: a lease has
//! to name it until the last handle is closed.

use std::collections::BTreeSet;
use std::sync::{Arc, Weak};

use parking_lot::Mutex;

use crate::model::Seq;
use crate::overlay::OverlayState;

/// The sources of the view at one moment, for as long as it lives.
#[derive(Clone, Debug)]
pub(super) struct DrawnFrom(Arc<BTreeSet<Seq>>);

impl DrawnFrom {
    /// True if the view still draws from all of them: what refers to them may come into the overlay.
    pub fn is_within(&self, state: &OverlayState) -> bool {
        self.0.iter().all(|seq| state.base.sources.contains(seq))
    }
}

/// All that is kept by somebody.
#[derive(Debug, Default)]
pub(super) struct Drawn(Mutex<Vec<Weak<BTreeSet<Seq>>>>);

impl Drawn {
    /// Those of now.
    pub fn now(&self, state: &OverlayState) -> DrawnFrom {
        let now: BTreeSet<Seq> = state.base.sources.iter().copied().collect();
        let mut all = self.0.lock();
        if let Some(last) = all.last().and_then(Weak::upgrade).filter(|last| **last == now) {
            return DrawnFrom(last);
        }
        all.retain(|kept| kept.strong_count() > 0);
        let now = Arc::new(now);
        all.push(Arc::downgrade(&now));
        DrawnFrom(now)
    }

    /// Every record that somebody keeps.
    pub fn all(&self) -> BTreeSet<Seq> {
        let all = self.0.lock();
        let kept = all.iter().filter_map(Weak::upgrade);
        kept.flat_map(|kept| kept.iter().copied().collect::<Vec<_>>())
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Attrs, Hash};
    use crate::overlay::BaseRef;

    #[test]
    fn sources_are_kept_while_somebody_draws_from_them() {
        let at = |sources: &[Seq]| {
            let base = BaseRef {
                seq: 9,
                record: Hash([0; 32]),
                prepared: None,
                sources: sources.to_vec(),
            };
            OverlayState::new(base, Attrs::default())
        };
        let (before, after) = (at(&[1, 2]), at(&[2, 7]));
        let drawn = Drawn::default();
        let [one, same] = [drawn.now(&before), drawn.now(&before)];
        assert!(Arc::ptr_eq(&one.0, &same.0), "one value for all files");
        let other = drawn.now(&after);
        assert_eq!(drawn.all(), BTreeSet::from([1, 2, 7]));
        assert!(one.is_within(&before) && !one.is_within(&after));
        drop((one, same));
        assert_eq!(drawn.all(), BTreeSet::from([2, 7]));
        drop(other);
        assert!(drawn.all().is_empty());
    }
}
