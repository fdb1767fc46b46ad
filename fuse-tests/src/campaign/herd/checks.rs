//! Whether what was seen is what may have been seen. No I/O: every rule can be tried without a mount.

use std::collections::{BTreeMap, BTreeSet};

use rustix::fs::FileType;

use super::content::{Node, Tag};
use super::listing::Line;
use super::story::Seen;
use super::tree::{Dir, Place};

/// Names told in a message.
const TOLD: usize = 6;

/// What a call found at a path.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Found {
    /// ENOENT.
    Absent,
    /// A directory.
    Dir,
    /// A file of this size (stat).
    Sized(u64),
    /// A symbolic link (stat).
    SomeLink,
    /// A file with these bytes.
    File(Tag),
    /// A link with this target.
    Link(Tag),
}

impl Found {
    fn fits(self, node: Option<Node>) -> bool {
        match (self, node) {
            (Found::Absent, None)
            | (Found::Dir, Some(Node::Dir))
            | (Found::SomeLink, Some(Node::Link(_))) => true,
            (Found::Sized(size), Some(Node::File(tag))) => tag.len() as u64 == size,
            (Found::File(found), Some(Node::File(tag))) => found == tag,
            (Found::Link(found), Some(Node::Link(tag))) => found == tag,
            _ => false,
        }
    }
}

/// Half of a change may have been seen at this place: its bytes and size say nothing.
pub fn is_torn(place: &Place, seen: &Seen) -> bool {
    seen.touched().any(|touch| touch.torn && touch.place == *place)
}

/// One path.
///
/// # Errors
/// It cannot have been so.
pub fn at_place(place: &Place, found: Found, seen: &Seen) -> Result<(), String> {
    if matches!(found, Found::Sized(_) | Found::File(_)) && is_torn(place, seen) {
        return Ok(());
    }
    let mut possible: Vec<Option<Node>> = Vec::new();
    for moment in &seen.moments {
        let node = moment.tree.get(place);
        if found.fits(node) {
            return Ok(());
        }
        if possible.last() != Some(&node) {
            possible.push(node);
        }
    }
    Err(format!(
        "{place:?} was {found:?}; on {} it can only have been one of {possible:?}",
        records(seen)
    ))
}

fn records(seen: &Seen) -> String {
    format!("record {:?}", seen.bases())
}

/// A whole listing: it is that of one moment of its first read; names that local calls change until its end may be in it
/// or not. `first` is what its first read may have seen, `all` what was until its end.
///
/// # Errors
/// It is that of no such moment.
pub fn listing(dir: &str, lines: &[Line], first: &Seen, all: &Seen) -> Result<(), String> {
    whole(dir, lines, (first, all), true)
}

/// The names of a copy, made while `seen` was: those of one moment. Each was copied at another one, so that its type says
/// nothing here.
///
/// # Errors
/// They are those of no such moment.
pub fn copied(dir: &str, lines: &[Line], seen: &Seen) -> Result<(), String> {
    whole(dir, lines, (seen, seen), false)
}

fn whole(dir: &str, lines: &[Line], (first, all): (&Seen, &Seen), types: bool) -> Result<(), String> {
    let touched: BTreeSet<&str> = all
        .touched()
        .filter(|touch| &*touch.place.dir == dir)
        .map(|touch| &*touch.place.name)
        .collect();
    let mut named: BTreeMap<&str, &Line> = BTreeMap::new();
    for line in lines {
        if named.insert(&line.name, line).is_some() && !touched.contains(&*line.name) {
            return Err(format!("{dir:?}: {} is listed twice", line.name));
        }
    }
    named.retain(|name, _| !touched.contains(name));
    if let Some(line) = named.values().find(|line| line.ino == 0) {
        return Err(format!("{dir:?}: {} has inode number 0", line.name));
    }
    let mut said = (usize::MAX, format!("{dir:?} is not there on {}", records(first)));
    let mut tried: Vec<&Dir> = Vec::new();
    for moment in &first.moments {
        let Some(known) = moment.tree.dir(dir) else {
            if lines.is_empty() {
                return Ok(());
            }
            continue;
        };
        if tried.last().is_some_and(|last| last.same(known)) {
            continue;
        }
        tried.push(known);
        match compare(known, &named, &touched, types) {
            Ok(()) => return Ok(()),
            // The moment that it is nearest to tells most.
            Err((count, difference)) if count < said.0 => {
                let text = format!(
                    "{dir:?}: {} names were listed on {} (until the end of the listing {}); as of record {} {difference}",
                    lines.len(),
                    records(first),
                    records(all),
                    moment.base
                );
                said = (count, text);
            }
            Err(_) => {}
        }
    }
    Err(said.1)
}

/// How many names differ, and how.
fn compare(
    known: &Dir,
    named: &BTreeMap<&str, &Line>,
    touched: &BTreeSet<&str>,
    types: bool,
) -> Result<(), (usize, String)> {
    let strange = |name: &str, line: &Line| match known.get(name) {
        Some(Node::Dir) => line.kind != FileType::Directory,
        Some(Node::File(_)) => line.kind != FileType::RegularFile,
        Some(Node::Link(_)) => line.kind != FileType::Symlink,
        None => true,
    };
    let strange = |name: &str, line: &Line| match types {
        true => strange(name, line),
        false => known.get(name).is_none(),
    };
    let extra: Vec<&str> = named
        .iter()
        .filter(|(name, line)| strange(name, line))
        .map(|(name, _)| *name)
        .collect();
    let wanted = known.len() - touched.iter().filter(|name| known.get(name).is_some()).count();
    if extra.is_empty() && named.len() == wanted {
        return Ok(());
    }
    let names = known.iter().map(|(name, _)| &**name);
    let missing: Vec<&str> = names
        .filter(|name| !named.contains_key(name) && !touched.contains(name))
        .collect();
    let said = format!(
        "{} are missing of {} ({:?} ...), and {} are too many or of another type ({:?} ...)",
        missing.len(),
        known.len(),
        &missing[..missing.len().min(TOLD)],
        extra.len(),
        &extra[..extra.len().min(TOLD)]
    );
    Err((missing.len() + extra.len(), said))
}

/// Whether local calls or a move of the view changed anything in a directory meanwhile.
pub fn is_quiet(dir: &str, seen: &Seen) -> bool {
    let mut dirs = seen.moments.iter().map(|moment| moment.tree.dir(dir));
    let first = dirs.next().flatten();
    let same = |other: Option<&Dir>| matches!((first, other), (Some(a), Some(b)) if a.same(b));
    !seen.moved() && dirs.all(same) && !seen.touched().any(|touch| &*touch.place.dir == dir)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::super::story::{Cause, Moment, Touch};
    use super::super::tree::Tree;
    use super::*;

    fn tree(names: &[(&str, u64)]) -> Arc<Tree> {
        let mut tree = Tree::empty();
        tree.set(&Place::new("", "d"), Some(Node::Dir));
        for (name, number) in names {
            tree.set(
                &Place::new("d", name),
                Some(Node::File(Tag::new(1, *number, 8 + *number as usize))),
            );
        }
        Arc::new(tree)
    }

    fn seen(moments: Vec<(Arc<Tree>, Cause)>) -> Seen {
        let numbered = moments.into_iter().zip(1..);
        let moment = |((tree, cause), base)| Moment { tree, base, cause };
        Seen {
            moments: numbered.map(moment).collect(),
        }
    }

    fn lines(names: &[&str]) -> Vec<Line> {
        let line = |(name, ino): (&&str, u64)| Line {
            name: (*name).to_owned(),
            ino,
            kind: FileType::RegularFile,
        };
        names.iter().zip(10..).map(line).collect()
    }

    fn touch(name: &str, torn: bool) -> Cause {
        Cause::Local(vec![Touch {
            place: Place::new("d", name),
            torn,
        }])
    }

    #[test]
    fn a_listing_is_that_of_one_moment() {
        let (a, b) = (tree(&[("x", 1), ("y", 2)]), tree(&[("x", 1), ("z", 3)]));
        let moved = || seen(vec![(a.clone(), Cause::Begin), (b.clone(), Cause::Moved)]);
        let only = |tree: &Arc<Tree>| seen(vec![(tree.clone(), Cause::Begin)]);
        assert!(listing("d", &lines(&["x", "y"]), &moved(), &moved()).is_ok());
        assert!(listing("d", &lines(&["x", "z"]), &moved(), &moved()).is_ok());
        // The move came after the first read: the new names are too late, and the old ones must all be there.
        assert!(listing("d", &lines(&["x", "z"]), &only(&a), &moved()).is_err());
        for wrong in [&["x"][..], &[], &["x", "y", "z"], &["y", "z"], &["x", "x", "y"]] {
            assert!(
                listing("d", &lines(wrong), &moved(), &moved()).is_err(),
                "{wrong:?}"
            );
        }
        let mut without_number = lines(&["x", "y"]);
        without_number[1].ino = 0;
        assert!(listing("d", &without_number, &only(&a), &only(&a)).is_err());
        let mut of_another_type = lines(&["x", "y"]);
        of_another_type[1].kind = FileType::Directory;
        assert!(listing("d", &of_another_type, &only(&a), &only(&a)).is_err());
        assert!(copied("d", &of_another_type, &only(&a)).is_ok());
        assert!(copied("d", &lines(&["x"]), &moved()).is_err());
        assert!(listing("gone", &lines(&[]), &only(&a), &only(&a)).is_ok());
        assert!(listing("gone", &lines(&["x"]), &only(&a), &only(&a)).is_err());
    }

    #[test]
    fn names_that_local_calls_change_meanwhile_may_be_there_or_not() {
        let (before, after) = (tree(&[("x", 1), ("y", 2)]), tree(&[("x", 1)]));
        let first = seen(vec![(before.clone(), Cause::Begin)]);
        let all = seen(vec![(before, Cause::Begin), (after, touch("y", false))]);
        assert!(listing("d", &lines(&["x", "y"]), &first, &all).is_ok());
        assert!(listing("d", &lines(&["x"]), &first, &all).is_ok());
        assert!(listing("d", &lines(&["y"]), &first, &all).is_err());
        assert!(!is_quiet("d", &all) && is_quiet("d", &first));
    }

    #[test]
    fn a_place_is_what_it_was_at_some_moment() {
        let (a, b) = (tree(&[("x", 1)]), tree(&[("x", 2)]));
        let tag = |number| Found::File(Tag::new(1, number, 8 + number as usize));
        let place = Place::new("d", "x");
        let moved = seen(vec![(a.clone(), Cause::Begin), (b.clone(), Cause::Moved)]);
        for found in [tag(1), tag(2), Found::Sized(9), Found::Sized(10)] {
            assert!(at_place(&place, found, &moved).is_ok(), "{found:?}");
        }
        for found in [
            tag(3),
            Found::Absent,
            Found::Dir,
            Found::Sized(11),
            Found::SomeLink,
        ] {
            assert!(at_place(&place, found, &moved).is_err(), "{found:?}");
        }
        let torn = seen(vec![(a, Cause::Begin), (b, touch("x", true))]);
        assert!(at_place(&place, Found::Sized(0), &torn).is_ok());
        assert!(at_place(&place, Found::Absent, &torn).is_err());
    }
}
