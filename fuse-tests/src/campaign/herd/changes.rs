//! Local changes: the system calls of a driver, each with what the model says of it.
//!
//! What is chosen keeps to paths on which a merge is the later writer's word and nothing else: files that are there before
//! a commit never move, unless their name and content are used once only; then following the move and keeping to the path
//! come to the same.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::symlink;
use std::path::Path;

use super::content::{Node, Tag};
use super::driver::Driver;
use super::mapped::Mapped;
use super::story::{Cause, Touch};
use super::tree::{Changes, Place};

/// Names in a mount's own directory, about.
const OWN_MAX: usize = 60;

fn touch(place: &Place, torn: bool) -> Touch {
    Touch {
        place: place.clone(),
        torn,
    }
}

fn write_to(options: &mut OpenOptions, path: &Path, tag: Tag) -> io::Result<()> {
    options.write(true).open(path)?.write_all(&tag.bytes())
}

impl Driver<'_> {
    /// A few changes.
    pub(super) fn change(&mut self) -> Result<(), String> {
        for _ in 0..self.random.range(1..10) {
            if self.herd.alarm.is_set() {
                return Ok(());
            }
            let place = match self.random.range(0..100) {
                0..60 => self.herd.hot_place(&mut self.random),
                60..75 => self.any_place(),
                _ => {
                    self.change_own()?;
                    continue;
                }
            };
            self.change_at(&place)?;
            self.tally.add("local changes", 1);
        }
        Ok(())
    }

    /// A call that is made and noted; `sets` is what it does.
    fn local(
        &mut self,
        what: &str,
        touches: Vec<Touch>,
        sets: Changes,
        act: impl FnOnce() -> io::Result<()>,
    ) -> Result<(), String> {
        self.member.story().begin();
        act().map_err(|error| {
            let places: Vec<&Place> = sets.keys().collect();
            format!("{what} {places:?}, on record {}: {error}", self.shown.base_seq)
        })?;
        let places: Vec<&Place> = sets.keys().collect();
        self.note(format!("{what} {places:?}"));
        self.shown.apply(&sets);
        self.over(Cause::Local(touches));
        Ok(())
    }

    /// Any name of a shared directory.
    fn any_place(&mut self) -> Place {
        let dir = self.herd.shared_dir(&mut self.random);
        let known = self.shown.tree.dir(&dir);
        match known.and_then(|known| known.pick(&mut self.random)) {
            Some((name, _)) => Place {
                dir: dir.as_str().into(),
                name,
            },
            None => self.herd.hot_place(&mut self.random),
        }
    }

    fn next_tag(&mut self, len: usize) -> Tag {
        self.writes += 1;
        Tag::new(self.member.number as u64, self.writes, len)
    }

    fn any_tag(&mut self) -> Tag {
        let large = self.herd.size.large_bytes as u64;
        let len = match self.random.range(0..100) {
            0..70 => self.random.range(8..3000),
            70..97 => self.random.range(3000..100_000),
            _ => self.random.range(large / 2..large),
        };
        self.next_tag(len as usize)
    }

    fn change_at(&mut self, place: &Place) -> Result<(), String> {
        let now = self.shown.tree.get(place);
        match (now, self.random.range(0..100)) {
            (Some(Node::Dir), _) => Ok(()),
            (None, 0..30) => self.write_in_place(place),
            (None | Some(_), 0..50) => self.replace(place),
            (Some(Node::File(tag)), 50..65) => self.store_mapped(place, tag),
            (Some(Node::File(_)), 65..75) => self.write_in_place(place),
            (_, 50..85) => self.replace_by_link(place),
            (None, _) => self.replace(place),
            (Some(_), _) => self.unlink(place),
        }
    }

    /// A new file, or another length and content in the old one.
    fn write_in_place(&mut self, place: &Place) -> Result<(), String> {
        let (tag, path) = (self.any_tag(), self.member.path(&place.path()));
        let sets = [(place.clone(), Some(Node::File(tag)))].into();
        self.local("write", vec![touch(place, true)], sets, || {
            write_to(OpenOptions::new().create(true).truncate(true), &path, tag)
        })
    }

    /// Write another file and rename it: readers see the old or the new one, whole.
    fn replace(&mut self, place: &Place) -> Result<(), String> {
        let tag = self.any_tag();
        let beside = Place::new(
            &place.dir,
            &format!(".new-{}-{}", self.member.number, self.writes),
        );
        let (from, to) = (self.member.path(&beside.path()), self.member.path(&place.path()));
        let made = [(beside.clone(), Some(Node::File(tag)))].into();
        let fsync = self.random.chance(20);
        self.local("create", vec![touch(&beside, true)], made, || {
            write_to(OpenOptions::new().create_new(true), &from, tag)?;
            if fsync {
                File::open(&from)?.sync_all()?;
            }
            Ok(())
        })?;
        let moved = [(beside.clone(), None), (place.clone(), Some(Node::File(tag)))].into();
        self.local(
            "rename",
            vec![touch(&beside, false), touch(place, false)],
            moved,
            || fs::rename(&from, &to),
        )
    }

    fn replace_by_link(&mut self, place: &Place) -> Result<(), String> {
        let tag = self.next_tag(8);
        let beside = Place::new(
            &place.dir,
            &format!(".link-{}-{}", self.member.number, self.writes),
        );
        let (from, to) = (self.member.path(&beside.path()), self.member.path(&place.path()));
        let made = [(beside.clone(), Some(Node::Link(tag)))].into();
        self.local("symlink", vec![touch(&beside, false)], made, || {
            symlink(tag.link_text(), &from)
        })?;
        let moved = [(beside.clone(), None), (place.clone(), Some(Node::Link(tag)))].into();
        self.local(
            "rename",
            vec![touch(&beside, false), touch(place, false)],
            moved,
            || fs::rename(&from, &to),
        )
    }

    fn unlink(&mut self, place: &Place) -> Result<(), String> {
        let path = self.member.path(&place.path());
        let sets = [(place.clone(), None)].into();
        self.local("unlink", vec![touch(place, false)], sets, || {
            fs::remove_file(&path)
        })
    }

    /// Other bytes through a shared mapping.
    fn store_mapped(&mut self, place: &Place, old: Tag) -> Result<(), String> {
        let (tag, path) = (self.next_tag(old.len()), self.member.path(&place.path()));
        let sync = self.random.chance(50);
        let sets = [(place.clone(), Some(Node::File(tag)))].into();
        self.local("store through a mapping", vec![touch(place, true)], sets, || {
            let file = OpenOptions::new().read(true).write(true).open(&path)?;
            let mapped = Mapped::new(&file, tag.len(), true)?;
            drop(file);
            mapped.store(&tag.bytes())?;
            if sync { mapped.sync() } else { Ok(()) }
        })
    }

    /// In the directory that no other mount changes: names and contents that are used once, in directories that stay.
    fn change_own(&mut self) -> Result<(), String> {
        let own = self.member.own_dir();
        let dirs: Vec<String> = self
            .shown
            .tree
            .dirs()
            .filter(|(path, _)| ***path == *own || path.starts_with(&format!("{own}/")))
            .map(|(path, _)| path.to_string())
            .collect();
        let dir = self.random.pick(&dirs).cloned().unwrap_or(own);
        self.writes += 1;
        let fresh = Place::new(&dir, &format!("u{}", self.writes));
        let held = self.shown.tree.dir(&dir);
        let old = held
            .and_then(|held| held.pick(&mut self.random))
            .filter(|(_, node)| *node != Node::Dir);
        let full = held.is_some_and(|held| held.len() > OWN_MAX);
        let path = self.member.path(&fresh.path());
        match (old, self.random.range(0..100)) {
            (Some((name, _)), 0..30) if full => self.unlink(&Place::new(&dir, &name)),
            (Some((name, node)), 0..25) => {
                let from = Place::new(&dir, &name);
                let moved = [(from.clone(), None), (fresh.clone(), Some(node))].into();
                let touches = vec![touch(&from, false), touch(&fresh, false)];
                let old = self.member.path(&from.path());
                self.local("rename", touches, moved, || fs::rename(&old, &path))
            }
            (_, 25..35) if dirs.len() < 6 => {
                let made = Place::new(&dir, &format!("s{}", self.writes));
                let path = self.member.path(&made.path());
                let sets = [(made.clone(), Some(Node::Dir))].into();
                self.local("mkdir", vec![touch(&made, false)], sets, || fs::create_dir(&path))
            }
            _ => self.write_in_place(&fresh),
        }
    }
}
