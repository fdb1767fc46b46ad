//! Histories of a few mounts: commits without reload, writes after the freeze, reload, `reload --keep`, stashes and
//! their restore.
//!
//! Where nobody moves anything and no name changes its kind, every published tree is the replay of what each user
//! changed, and the report exact. Elsewhere nothing is lost without being reported. In all of them the real merge is
//! the model's.

use std::collections::{BTreeMap, BTreeSet};

use super::model::{
    ATTRS, Dir, Flat, Hint, Origin, Reg, Report, Tree, apply_in_turn, merge, net_moves, origin_on, replay,
    under, untouched, usable_hints,
};
use super::random::{Habits, Random, change};
use super::real::{Sharing, World};
use super::{for_seeds, same};

/// A rule done wrong, to see that it is noticed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Mutant {
    /// After a commit the base is the published record, also when others' changes are in that.
    PublishedBase,
    /// ... is the live view, instead of the frozen one.
    LiveBase,
    /// A stash is restored against the current base.
    StashHead,
    /// `reload --keep` leaves the base as it was.
    KeepOldBase,
    /// Hints are a log of moves, applied in turn, without a look at what mine has.
    ChronoHints,
    /// Attributes alone bring deleted files back.
    Resurrect,
}

struct Mount {
    base: Dir,
    view: Dir,
    stash: Vec<Stash>,
    /// Publish that the view was last loaded from.
    loaded: u64,
    /// Number of this mount's publish that last set a register.
    own: BTreeMap<(String, Reg), u64>,
    /// What the user last saw as unchanged.
    snap: Flat,
    origin: Origin,
}

struct Stash {
    base: Dir,
    view: Dir,
    snap: Flat,
    hints: Vec<Hint>,
}

impl Mount {
    fn new(head: &Dir) -> Mount {
        Mount {
            base: head.clone(),
            view: head.clone(),
            stash: Vec::new(),
            loaded: 0,
            own: BTreeMap::new(),
            snap: head.flat(),
            origin: untouched(head),
        }
    }
}

struct History {
    random: Random,
    world: World,
    habits: Habits,
    mutant: Option<Mutant>,
    head: Dir,
    /// Number of the publish that last set a register.
    last: BTreeMap<(String, Reg), u64>,
    published: u64,
}

struct Result3 {
    tree: Dir,
    report: Report,
    used: Vec<Hint>,
}

/// One history; fails with what is wrong.
pub fn history(seed: u64, habits: Habits, mutant: Option<Mutant>) -> Result<(), String> {
    let mut random = Random::new(seed);
    let head = random.dir(0);
    let mut mounts: Vec<Mount> = (0..2 + random.below(2)).map(|_| Mount::new(&head)).collect();
    let (shared, stored) = *random.pick(&[(0, 0), (90, 0), (90, 20)]);
    let world = World::new(seed, Sharing { shared, stored });
    let mut history = History {
        random,
        world,
        habits,
        mutant,
        head,
        last: BTreeMap::new(),
        published: 0,
    };
    for _ in 0..6 + history.random.below(19) {
        let at = history.random.below(mounts.len());
        let mount = &mut mounts[at];
        match history.random.below(100) {
            0..40 => change(&mut history.random, &mut mount.view, &mut mount.origin, habits),
            40..70 => history.commit(mount)?,
            70..80 => history.reload(mount),
            80..90 => history.reload_keep(mount)?,
            _ => history.restore(mount)?,
        }
    }
    Ok(())
}

impl History {
    fn strict(&self) -> bool {
        !self.habits.moves && !self.habits.mixed
    }

    fn hints(&self, origin: &Origin) -> Vec<Hint> {
        if self.habits.moves {
            net_moves(origin)
        } else {
            Vec::new()
        }
    }

    /// Merges, and looks at the result. `snap` is what the user of `mine` saw as unchanged.
    fn merge(
        &mut self,
        what: &str,
        [base, head, mine]: [&Dir; 3],
        hints: &[Hint],
        snap: &Flat,
    ) -> Result<Result3, String> {
        let result = match self.mutant {
            None => {
                let trees = [base, head, mine].map(|dir| Tree::from(dir.clone()));
                let outcome = self.world.merge([&trees[0], &trees[1], &trees[2]], hints)?;
                let should = merge(base, head, mine, hints);
                same(what, &outcome.tree.root, &should.root)?;
                same(what, &outcome.report, &should.report)?;
                same(what, &outcome.used, &should.used)?;
                Result3 {
                    tree: outcome.tree.root,
                    report: outcome.report,
                    used: outcome.used,
                }
            }
            Some(mutant) => self.merge_wrongly(mutant, [base, head, mine], hints)?,
        };
        if self.strict() {
            let (flat, over) = replay(&head.flat(), snap, &mine.flat());
            same(
                &format!("{what}: tree by the flat rule"),
                &result.tree.flat(),
                &flat,
            )?;
            same(&format!("{what}: report by the flat rule"), &result.report, &over)?;
        } else {
            lost_nothing(what, [base, head, mine], &result)?;
        }
        Ok(result)
    }

    fn merge_wrongly(&mut self, mutant: Mutant, trees: [&Dir; 3], hints: &[Hint]) -> Result<Result3, String> {
        let used = usable_hints(trees[0], trees[1], trees[2], hints);
        let [base, head, mine] = trees.map(|dir| Tree::from(dir.clone()));
        self.world.rules.resurrect = mutant == Mutant::Resurrect;
        let outcome = if mutant == Mutant::ChronoHints {
            let (base, head) = apply_in_turn(&base.root, &head.root, hints);
            self.world.merge([&base.into(), &head.into(), &mine], &[])?
        } else {
            self.world.merge([&base, &head, &mine], hints)?
        };
        Ok(Result3 {
            tree: outcome.tree.root,
            report: outcome.report,
            used,
        })
    }

    fn commit(&mut self, mount: &mut Mount) -> Result<(), String> {
        let frozen = mount.view.clone();
        let hints = self.hints(&mount.origin);
        mount.origin = untouched(&frozen);
        if self.random.chance(30) {
            // Writes go on while it is published.
            change(&mut self.random, &mut mount.view, &mut mount.origin, self.habits);
        }
        let what = format!("publish {}", self.published + 1);
        let (base, head, snap) = (mount.base.clone(), self.head.clone(), mount.snap.clone());
        let result = self.merge(&what, [&base, &head, &frozen], &hints, &snap)?;
        if self.strict() {
            self.only_unseen(&what, mount, &result.report)?;
        }
        self.published += 1;
        let (was, is, mine) = (head.flat(), result.tree.flat(), frozen.flat());
        for path in was.keys().chain(is.keys()) {
            for reg in std::iter::once(Reg::Content).chain((0..ATTRS).map(Reg::Attr)) {
                if register(&was, path, reg) != register(&is, path, reg) {
                    self.last.insert((path.clone(), reg), self.published);
                    mount.own.insert((path.clone(), reg), self.published);
                }
            }
        }
        for path in mount
            .snap
            .keys()
            .filter(|path| !mine.contains_key(*path) && is.contains_key(*path))
        {
            // My directory outlived its removal, in entries that I never saw: that is unseen.
            for reg in (0..ATTRS).map(Reg::Attr) {
                self.last.insert((path.clone(), reg), self.published);
                mount.own.remove(&(path.clone(), reg));
            }
        }
        self.head = result.tree;
        mount.snap = mine;
        mount.base = match self.mutant {
            Some(Mutant::PublishedBase) => self.head.clone(),
            Some(Mutant::LiveBase) => mount.view.clone(),
            _ => frozen,
        };
        Ok(())
    }

    /// What is reported was set by another, after all that this mount knows.
    fn only_unseen(&self, what: &str, mount: &Mount, report: &Report) -> Result<(), String> {
        for (path, reg) in report {
            let all = std::iter::once(Reg::Content).chain((0..ATTRS).map(Reg::Attr));
            let last = all
                .filter_map(|reg| self.last.get(&(path.clone(), reg)))
                .max()
                .copied()
                .unwrap_or(0);
            let known = mount
                .own
                .get(&(path.clone(), *reg))
                .copied()
                .unwrap_or(0)
                .max(mount.loaded);
            if last <= known {
                return Err(format!("{what}: {path} {reg:?} reported, but seen"));
            }
        }
        Ok(())
    }

    /// Local changes go to a stash.
    fn reload(&mut self, mount: &mut Mount) {
        if mount.view.flat() != mount.snap {
            let hints = self.hints(&mount.origin);
            let (base, view, snap) = (mount.base.clone(), mount.view.clone(), mount.snap.clone());
            mount.stash.push(Stash {
                base,
                view,
                snap,
                hints,
            });
        }
        mount.base = self.head.clone();
        mount.view = self.head.clone();
        self.stands_on_head(mount);
        mount.origin = untouched(&mount.view);
    }

    fn stands_on_head(&self, mount: &mut Mount) {
        mount.snap = self.head.flat();
        mount.loaded = self.published;
    }

    /// Also: a parked overlay taken up on a newer head.
    fn reload_keep(&mut self, mount: &mut Mount) -> Result<(), String> {
        let hints = self.hints(&mount.origin);
        let (base, head, view) = (mount.base.clone(), self.head.clone(), mount.view.clone());
        let result = self.merge(
            "reload --keep",
            [&base, &head, &view],
            &hints,
            &mount.snap.clone(),
        )?;
        mount.view = result.tree;
        self.stands_on_head(mount);
        mount.origin = origin_on(&mount.view, &mount.snap, &result.used);
        if self.mutant != Some(Mutant::KeepOldBase) {
            mount.base = head;
        }
        Ok(())
    }

    /// Onto whatever the view is now.
    fn restore(&mut self, mount: &mut Mount) -> Result<(), String> {
        if mount.stash.is_empty() {
            return Ok(());
        }
        let stash = mount.stash.remove(self.random.below(mount.stash.len()));
        let base = if self.mutant == Some(Mutant::StashHead) {
            mount.base.clone()
        } else {
            stash.base
        };
        let old = mount.view.clone();
        let result = self.merge("restore", [&base, &old, &stash.view], &stash.hints, &stash.snap)?;
        mount.view = result.tree;
        let flat = mount.view.flat();
        mount.origin.retain(|path, _| flat.contains_key(path));
        Ok(())
    }
}

fn register(flat: &Flat, path: &str, reg: Reg) -> Option<u32> {
    let item = flat.get(path)?;
    match reg {
        // Of a directory: that there is one.
        Reg::Content => Some(item.file().map_or(0, |file| file.content)),
        Reg::Attr(at) => Some(item.attrs()[at]),
    }
}

/// All contents and attributes that one side made are in the result, or reported at or around their path; what moved
/// along is reported at its new place.
fn lost_nothing(what: &str, [base, head, mine]: [&Dir; 3], result: &Result3) -> Result<(), String> {
    let [base, head, mine, after] = [base, head, mine, &result.tree].map(Dir::flat);
    let mut reported: BTreeSet<String> = result.report.iter().map(|(path, _)| path.clone()).collect();
    for (path, _) in &result.report {
        let moved = result.used.iter().filter(|(_, to)| under(path, to));
        reported.extend(moved.map(|(from, to)| format!("{from}{}", &path[to.len()..])));
    }
    let around = |path: &str| {
        reported
            .iter()
            .any(|other| under(other, path) || under(path, other))
    };
    for reg in std::iter::once(Reg::Content).chain((0..ATTRS).map(Reg::Attr)) {
        let values = |flat: &Flat| -> BTreeSet<u32> {
            let files = flat
                .iter()
                .filter(|(_, item)| item.file().is_some() || reg != Reg::Content);
            files.filter_map(|(path, _)| register(flat, path, reg)).collect()
        };
        let (known, there) = (values(&base), values(&after));
        for (path, item) in head.iter().filter(|(_, item)| item.file().is_some()) {
            let value = register(&head, path, reg).expect("just listed");
            let gone = value != 0 && !known.contains(&value) && !there.contains(&value) && !around(path);
            // The attributes of a lost new file go with it.
            if gone && (reg == Reg::Content || base.contains_key(path)) {
                return Err(format!(
                    "{what}: {path} {reg:?} of the head, {item:?}, is lost and not reported"
                ));
            }
        }
    }
    let known: BTreeSet<u32> = base
        .values()
        .filter_map(|item| Some(item.file()?.content))
        .collect();
    for (path, item) in &mine {
        let Some(file) = item.file().filter(|file| !known.contains(&file.content)) else {
            continue;
        };
        if after
            .get(path)
            .and_then(|item| item.file())
            .is_none_or(|after| after.content != file.content)
        {
            return Err(format!("{what}: own {path}, {file:?}, is not in the result"));
        }
    }
    Ok(())
}

pub const PLAIN: Habits = Habits {
    moves: false,
    mixed: false,
};
pub const MIXED: Habits = Habits {
    moves: false,
    mixed: true,
};
pub const MOVING: Habits = Habits {
    moves: true,
    mixed: false,
};

#[test]
fn histories_are_replays_of_what_each_user_changed() {
    for_seeds(80, |seed| history(seed, PLAIN, None));
}

#[test]
fn histories_with_kind_clashes_lose_nothing_unreported() {
    for_seeds(80, |seed| history(seed, MIXED, None));
}

#[test]
fn histories_with_moves_lose_nothing_unreported() {
    for_seeds(80, |seed| history(seed, MOVING, None));
}
