//! Which marks of presence a power cut would make untrue (J4, J6), and which ops show bytes that it could take (J9).

use std::collections::HashMap;
use std::sync::Arc;

use super::op::Op;
use super::state::{BodyId, FileState, NodeBody, NodeId, OverlayState};

/// Frames that one op marked: its sequence number, first frame, count.
pub(super) type Run = (u64, u64, u64);
/// A body with what is not synced of it: the op that gave it, unless it was synced since, and marks.
pub(super) type Listed = (BodyId, Option<u64>, Vec<Run>);

/// Stands for all bodies, in the frame that says which are on disk: no body has this number.
pub(super) const EVERYTHING: BodyId = 0;

/// What is not known to be on disk.
#[derive(Clone, Debug, Default)]
pub(super) struct Unsynced {
    bodies: HashMap<BodyId, Marks>,
    /// Bodies that ops show, until they are on disk with all that was written before the op (J9).
    shown: HashMap<BodyId, Shown>,
    /// A journal of a version that did not keep J9.
    blind: bool,
}

/// Ops that show one body, or [`EVERYTHING`].
#[derive(Clone, Copy, Debug)]
struct Shown {
    /// Sequence numbers: none of these ops is earlier, none later.
    first: u64,
    last: u64,
    /// Appends of this process before the first of them (0: an earlier one's).
    position: u64,
}

#[derive(Clone, Debug, Default)]
struct Marks {
    /// Set until the body is synced for the first time: sequence number of the op that gave it to a file.
    fresh: Option<u64>,
    /// Marks since the last sync.
    runs: Vec<Run>,
}

/// What a power cut took.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Voided {
    pub incomplete: Vec<NodeId>,
    pub reverted: Vec<NodeId>,
}

impl Unsynced {
    /// Takes note of an op that is about to be applied, after `position` appends. True: it shows bytes that may not be on
    /// disk.
    pub(super) fn note(&mut self, state: &OverlayState, op: &Op, sequence: u64, position: u64) -> bool {
        let shown = if self.blind {
            [None, None]
        } else {
            self.shown_by(state, op)
        };
        for body in shown.into_iter().flatten() {
            let new = Shown {
                first: sequence,
                last: sequence,
                position,
            };
            self.shown.entry(body).or_insert(new).last = sequence;
        }
        self.note_marks(state, op, sequence);
        shown != [None, None]
    }

    fn note_marks(&mut self, state: &OverlayState, op: &Op, sequence: u64) {
        match op {
            Op::GiveBody { body, .. } => {
                self.bodies.insert(
                    *body,
                    Marks {
                        fresh: Some(sequence),
                        runs: Vec::new(),
                    },
                );
            }
            Op::Present { id, body, frames } => {
                let file = state.nodes.get(id).and_then(|node| node.body.as_file());
                let Some(bits) = file
                    .filter(|f| f.body == Some(*body))
                    .and_then(|f| f.present.as_ref())
                else {
                    return;
                };
                // A frame that was present before is no news: it may be on disk, and must not become void.
                let runs = frames
                    .iter()
                    .flat_map(|(first, count)| absent_runs(bits, *first, *count));
                let runs: Vec<_> = runs.map(|(first, count)| (sequence, first, count)).collect();
                if !runs.is_empty() {
                    self.bodies.entry(*body).or_default().runs.extend(runs);
                }
            }
            _ => {}
        }
    }

    /// Bodies whose bytes an op shows at a name that had others, or to whoever takes a name for the sign that a file is whole.
    fn shown_by(&self, state: &OverlayState, op: &Op) -> [Option<BodyId>; 2] {
        match op {
            // A name of the base that was removed before counts as replaced, too.
            Op::Rename {
                node, replaced, to, ..
            } => [
                self.shown_at_name(state, *node, replaced.is_some() || to.base.is_some()),
                None,
            ],
            Op::Exchange { a, b, .. } => [a.0, b.0].map(|node| self.shown_at_name(state, node, true)),
            Op::Link { id, place, .. } => [self.shown_at_name(state, *id, place.base.is_some()), None],
            Op::GiveBody { id, body, .. } => {
                let file = state.nodes.get(id).and_then(|node| node.body.as_file());
                let old = file.filter(|file| file.dirty).and_then(|file| file.body);
                // Also where no sync has covered the old one: the system writes it by itself after a while.
                [old.filter(|old| old != body).map(|_| *body), None]
            }
            _ => [None, None],
        }
    }

    /// `over`: there was something else at that name. What was never synced is shown at a new name, too; what was counts as
    /// whole there.
    fn shown_at_name(&self, state: &OverlayState, node: NodeId, over: bool) -> Option<BodyId> {
        let everything = || (!self.bodies.is_empty()).then_some(EVERYTHING);
        match &state.nodes.get(&node)?.body {
            NodeBody::File(file) if file.dirty => file.body.filter(|body| over || self.is_fresh(*body)),
            // Whatever can be reached through it.
            NodeBody::Dir(_) => everything(),
            NodeBody::Symlink(_) if over => everything(),
            _ => None,
        }
    }

    /// The body's bytes are on disk, with its marks up to `sequence`; or all bodies' ([`EVERYTHING`]), as far as ops show
    /// them.
    pub(super) fn synced(&mut self, body: BodyId, sequence: u64) {
        if body == EVERYTHING {
            self.shown.retain(|_, shown| shown.reach_behind(sequence));
            return;
        }
        if let Some(shown) = self.shown.get_mut(&body)
            && !shown.reach_behind(sequence)
        {
            self.shown.remove(&body);
        }
        if let Some(marks) = self.bodies.get_mut(&body) {
            marks.fresh = marks.fresh.filter(|given| *given > sequence);
            marks.runs.retain(|(marked, ..)| *marked > sequence);
            if marks.fresh.is_none() && marks.runs.is_empty() {
                self.bodies.remove(&body);
            }
        }
    }

    /// True if the body was never synced.
    pub(super) fn is_fresh(&self, body: BodyId) -> bool {
        self.bodies.get(&body).is_some_and(|marks| marks.fresh.is_some())
    }

    /// True if it is news that the body is on disk.
    pub(super) fn is_known(&self, body: BodyId) -> bool {
        let shown = || !self.shown.is_empty() && (body == EVERYTHING || self.shown.contains_key(&body));
        self.bodies.contains_key(&body) || shown()
    }

    /// Bodies that ops show and that are not known to be on disk; [`EVERYTHING`] may be among them.
    pub(super) fn shown(&self) -> Vec<BodyId> {
        self.shown.keys().copied().collect()
    }

    /// How many.
    pub(super) fn shown_count(&self) -> usize {
        self.shown.len()
    }

    /// Sequence number of the first op that shows bytes that are not known to be on disk.
    pub(super) fn first_shown(&self) -> Option<u64> {
        self.shown.values().map(|shown| shown.first).min()
    }

    /// Appends of this process before that op.
    pub(super) fn position_shown(&self) -> Option<u64> {
        self.shown.values().map(|shown| shown.position).min()
    }

    /// It is of a journal that keeps J9, or not.
    pub(super) fn with_shown(self, kept: bool) -> Unsynced {
        Unsynced { blind: !kept, ..self }
    }

    /// Everything is on disk.
    pub(super) fn all_synced(&mut self) {
        self.bodies.clear();
        self.shown.clear();
    }

    /// Forgets bodies that are in no state any more.
    pub(super) fn retain(&mut self, keep: impl Fn(BodyId) -> bool) {
        self.bodies.retain(|body, _| keep(*body));
    }

    /// Forgets these bodies' marks.
    pub(super) fn forget(&mut self, bodies: &[BodyId]) {
        for body in bodies {
            self.bodies.remove(body);
        }
    }

    /// Takes over what another journal knew of bodies.
    pub(super) fn extend(&mut self, other: &Unsynced) {
        self.bodies
            .extend(other.bodies.iter().map(|(body, marks)| (*body, marks.clone())));
    }

    /// A body that no journal knew: not on disk.
    pub(super) fn insert_fresh(&mut self, body: BodyId, sequence: u64) {
        self.bodies.insert(
            body,
            Marks {
                fresh: Some(sequence),
                runs: Vec::new(),
            },
        );
    }

    /// Bodies of which something is not on disk.
    pub(super) fn bodies(&self) -> Vec<BodyId> {
        self.bodies.keys().copied().collect()
    }

    /// True if nothing waits for a sync.
    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        self.bodies.is_empty()
    }

    /// For a snapshot, sorted.
    pub(super) fn list(&self) -> Vec<Listed> {
        let listed = |(body, marks): (&BodyId, &Marks)| (*body, marks.fresh, marks.runs.clone());
        let mut list: Vec<_> = self.bodies.iter().map(listed).collect();
        list.sort_unstable();
        list
    }

    /// Back from a snapshot.
    pub(super) fn restore(&mut self, body: BodyId, fresh: Option<u64>, runs: Vec<Run>) {
        self.bodies.insert(body, Marks { fresh, runs });
    }

    /// The machine was started anew: what is not on disk for certain does not count (J6).
    pub(super) fn void(&mut self, state: &mut OverlayState) -> Voided {
        let mut voided = Voided::default();
        if let Some(frozen) = &mut state.frozen {
            let frozen = Arc::make_mut(&mut Arc::make_mut(frozen).state);
            self.void_nodes(frozen, &mut Voided::default());
        }
        self.void_nodes(state, &mut voided);
        self.all_synced();
        voided.incomplete.sort_unstable();
        voided.reverted.sort_unstable();
        voided
    }

    fn void_nodes(&self, state: &mut OverlayState, voided: &mut Voided) {
        for (id, node) in &mut state.nodes {
            let Some(file) = node.body.as_file() else { continue };
            let Some(marks) = file.body.and_then(|body| self.bodies.get(&body)) else {
                continue;
            };
            if marks.fresh.is_some() && file.base.is_none() {
                voided.incomplete.push(*id);
                continue;
            }
            let NodeBody::File(file) = &mut Arc::make_mut(node).body else {
                continue;
            };
            if marks.fresh.is_some() {
                voided.reverted.push(*id);
                let back = FileState::of_base(file.base.take());
                *file = FileState {
                    bytes_generation: file.bytes_generation,
                    ..back
                };
            } else if let Some(bits) = &mut file.present {
                let bits = Arc::make_mut(bits);
                for (_, first, count) in &marks.runs {
                    let known = (bits.len() as u64).saturating_mul(64);
                    for frame in *first..first.saturating_add(*count).min(known) {
                        if let Some(word) = usize::try_from(frame / 64).ok().and_then(|w| bits.get_mut(w)) {
                            *word &= !(1 << (frame % 64));
                        }
                    }
                }
            }
        }
    }
}

impl Shown {
    /// The body is on disk with all that was there at `sequence`. False: so no later op shows it.
    fn reach_behind(&mut self, sequence: u64) -> bool {
        self.first = self.first.max(sequence.saturating_add(1));
        self.last > sequence
    }
}

/// The parts of a run of frames that are not in the map. As long as the map at most, however long the run says it is: a run
/// beyond the largest file is refused only when it is applied.
fn absent_runs(bits: &[u64], first: u64, count: u64) -> Vec<(u64, u64)> {
    let end = first.saturating_add(count);
    let mut runs: Vec<(u64, u64)> = Vec::new();
    let mut add = |at: u64, count: u64| match runs.last_mut() {
        Some((start, len)) if *start + *len == at => *len += count,
        _ => runs.push((at, count)),
    };
    let mut at = first;
    while at < end {
        let word = usize::try_from(at / 64).ok().and_then(|word| bits.get(word));
        let in_word = (64 - at % 64).min(end - at);
        match word {
            None => {
                add(at, end - at);
                break;
            }
            Some(&u64::MAX) => {}
            Some(0) => add(at, in_word),
            Some(word) => (at..at + in_word)
                .filter(|frame| word >> (frame % 64) & 1 == 0)
                .for_each(|frame| add(frame, 1)),
        }
        at += in_word;
    }
    runs
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::model::Attrs;
    use crate::overlay::{BaseRef, NewBody, Place, ROOT_NODE};

    #[test]
    fn j4_a_sync_covers_the_marks_that_were_said_before_it_began() {
        let base = BaseRef {
            seq: 1,
            record: Default::default(),
            prepared: None,
            sources: vec![1],
        };
        let mut state = OverlayState::new(base, Attrs::default());
        let place = Place {
            parent: ROOT_NODE,
            name: crate::model::Name::new(b"f").expect("a name"),
            base: None,
        };
        let attrs = Attrs::default();
        let time = attrs.mtime;
        state
            .apply(&Op::Create {
                id: 2,
                place,
                attrs,
                body: NewBody::File(None),
                time,
            })
            .unwrap();
        let mut unsynced = Unsynced::default();
        let ops = [
            Op::GiveBody {
                id: 2,
                body: 7,
                present: Some(Arc::new(vec![0])),
                base_valid: 0,
                dirty: true,
            },
            Op::Present {
                id: 2,
                body: 7,
                frames: vec![(0, 3)],
            },
            Op::Present {
                id: 2,
                body: 7,
                frames: vec![(2, 2)],
            },
        ];
        for (op, sequence) in ops.iter().zip(10..) {
            unsynced.note(&state, op, sequence, 0);
            state.apply(op).unwrap();
        }
        assert_eq!(unsynced.list(), [(7, Some(10), vec![(11, 0, 3), (12, 3, 1)])]);
        unsynced.synced(7, 9);
        assert!(unsynced.is_fresh(7));
        unsynced.synced(7, 11);
        assert_eq!(unsynced.list(), [(7, None, vec![(12, 3, 1)])]);
        unsynced.synced(7, 12);
        assert!(unsynced.is_empty());
    }

    proptest! {
        /// Frame by frame.
        #[test]
        fn absent_runs_are_the_frames_that_the_map_lacks(
            bits in proptest::collection::vec(prop_oneof![Just(0), Just(u64::MAX), any::<u64>()], 0..4),
            first in 0..300u64,
            count in 0..300u64,
        ) {
            let runs = absent_runs(&bits, first, count);
            let frames: Vec<u64> = runs.iter().flat_map(|(first, count)| *first..first + count).collect();
            let absent = (first..first + count).filter(|frame| !super::super::state::bit(&bits, *frame));
            prop_assert_eq!(frames, absent.collect::<Vec<_>>());
            prop_assert!(runs.windows(2).all(|two| two[0].0 + two[0].1 < two[1].0), "adjacent runs are one");
        }
    }

    /// Found by the fuzz target `journal`: a run of 2^63 frames in a journal was looked at frame by frame.
    #[test]
    fn runs_without_an_end_take_no_time() {
        let runs = absent_runs(&[0b1001], 1, u64::MAX);
        assert_eq!(runs, [(1, 2), (4, u64::MAX - 4)]);
        assert_eq!(absent_runs(&[], u64::MAX - 1, 5), [(u64::MAX - 1, 1)]);
    }
}
