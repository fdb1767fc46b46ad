//! rename(2), with the checks and their order as the local filesystems have them.

use super::edit::Edit;
use super::space::{Ask, Child, Look};
use super::types::{Caller, Ino, RenameMode};
use super::{View, ViewError};
use crate::model::{DirTree, Kind, Name, PATH_DEPTH_MAX, Timestamp};
use crate::overlay::{Change, NodeBody, NodeId, Op, Place};
use crate::tree::{ListFrom, NodeSource, run_loaded};

/// One of the two names.
struct Side<'a> {
    dir: Ino,
    name: &'a Name,
}

impl View {
    /// Moves a name.
    pub async fn rename(
        &self,
        _caller: &Caller,
        from: (Ino, &[u8]),
        to: (Ino, &[u8]),
        mode: RenameMode,
    ) -> Result<(), ViewError> {
        self.check_writable()?;
        let (from_name, to_name) = (Name::new(from.1)?, Name::new(to.1)?);
        let from = Side {
            dir: from.0,
            name: &from_name,
        };
        let to = Side {
            dir: to.0,
            name: &to_name,
        };
        self.edit(|src, edit| edit.rename(src, &from, &to, mode, self.now()))
            .await
    }
}

impl Edit<'_> {
    fn rename(
        &mut self,
        src: &dyn NodeSource,
        from: &Side<'_>,
        to: &Side<'_>,
        mode: RenameMode,
        now: Timestamp,
    ) -> Result<(), Ask> {
        let look = self.look();
        look.check_dir(from.dir)?;
        look.check_dir(to.dir)?;
        let moved = look.at(src, from)?.ok_or(ViewError::NotFound)?;
        let target = look.at(src, to)?;
        match (mode, &target) {
            (RenameMode::NoReplace, Some(_)) => return Err(ViewError::Exists.into()),
            (RenameMode::Exchange, None) => return Err(ViewError::NotFound.into()),
            _ => {}
        }
        if let Some(target) = &target
            && look.same_inode(from, &moved, to, target)
        {
            // Two names of one inode: nothing happens, says POSIX.
            return Ok(());
        }
        look.check_move(src, from, &moved, to)?;
        if let Some(target) = &target {
            match mode {
                RenameMode::Exchange => look.check_move(src, to, target, from)?,
                RenameMode::Replace | RenameMode::NoReplace => look.check_replace(src, &moved, target)?,
            }
        }
        let from_base = look.base_kind(src, from.dir, from.name.as_bytes())?;
        let to_base = look.base_kind(src, to.dir, to.name.as_bytes())?;

        if target.is_none() {
            self.vanished(to.dir, to.name.as_bytes());
        }
        let node = self.adopt_child(from.dir, from.name.as_bytes(), moved)?;
        let from_place = Place {
            parent: self.adopt(from.dir)?,
            name: from.name.clone(),
            base: from_base,
        };
        let to_place = Place {
            parent: self.adopt(to.dir)?,
            name: to.name.clone(),
            base: to_base,
        };
        match (mode, target) {
            (RenameMode::Exchange, Some(target)) => {
                let other = self.adopt_child(to.dir, to.name.as_bytes(), target)?;
                self.apply(&Op::Exchange {
                    a: (node, from_place),
                    b: (other, to_place),
                    time: now,
                })?;
            }
            (_, Some(target)) => {
                let doomed = self.doom(to.dir, to.name.as_bytes(), target)?;
                self.apply(&Op::Rename {
                    node,
                    from: from_place,
                    to: to_place,
                    replaced: doomed.node,
                    time: now,
                })?;
                self.bury(doomed);
            }
            (_, None) => self.apply(&Op::Rename {
                node,
                from: from_place,
                to: to_place,
                replaced: None,
                time: now,
            })?,
        }
        Ok(())
    }
}

impl Look<'_> {
    fn at(&self, src: &dyn NodeSource, side: &Side<'_>) -> Result<Option<Child>, Ask> {
        self.child(src, side.dir, side.name.as_bytes())
    }

    fn same_inode(&self, from: &Side<'_>, moved: &Child, to: &Side<'_>, target: &Child) -> bool {
        match (moved, target) {
            (Child::Node(a), Child::Node(b)) => a == b,
            (Child::Link(a, _), Child::Link(b, _)) => a == b,
            (Child::Clean(_), Child::Clean(_)) => from.dir == to.dir && from.name == to.name,
            _ => false,
        }
    }

    /// A directory must not move into itself, nor so deep that a path gets too long.
    fn check_move(
        &self,
        src: &dyn NodeSource,
        from: &Side<'_>,
        moved: &Child,
        to: &Side<'_>,
    ) -> Result<(), Ask> {
        if self.child_kind(moved)? != Kind::Dir {
            return Ok(());
        }
        let ino = self.known_child(from.dir, from.name.as_bytes(), moved);
        if self.is_below(to.dir, moved, ino)? {
            return Err(ViewError::Invalid.into());
        }
        let (before, after) = (self.depth(from.dir)?, self.depth(to.dir)?);
        // Directories that may lie below it at its new place.
        let room = PATH_DEPTH_MAX.checked_sub(after + 1);
        let fits = match room {
            _ if after <= before => true,
            None => false,
            Some(room) => match moved {
                Child::Node(id) => self.node_fits(src, *id, room)?,
                Child::Clean(entry) => match entry.as_dir() {
                    Some((totals, tree)) => base_fits(src, tree, totals.dirs, room, &|_| false)?,
                    None => true,
                },
                Child::Link(..) => true,
            },
        };
        if fits {
            Ok(())
        } else {
            Err(ViewError::NameTooLong.into())
        }
    }

    /// True if at most `room` directories lie on any way down from an overlay directory, itself not counted.
    fn node_fits(&self, src: &dyn NodeSource, top: NodeId, room: usize) -> Result<bool, Ask> {
        let mut todo = vec![(top, room)];
        while let Some((id, room)) = todo.pop() {
            let NodeBody::Dir(dir) = &self.node(id)?.body else {
                continue;
            };
            if let Some(base) = self.base_dir(src, id)?
                && !base_fits(src, &base.tree, base.dirs, room, &|name| {
                    dir.changes.contains_key(name)
                })?
            {
                return Ok(false);
            }
            for change in dir.changes.values() {
                if let Change::Node { id, .. } = change
                    && self.node(*id)?.kind() == Kind::Dir
                {
                    match room.checked_sub(1) {
                        Some(room) => todo.push((*id, room)),
                        None => return Ok(false),
                    }
                }
            }
        }
        Ok(true)
    }

    fn check_replace(&self, src: &dyn NodeSource, moved: &Child, target: &Child) -> Result<(), Ask> {
        let moved_dir = self.child_kind(moved)? == Kind::Dir;
        let target_dir = self.child_kind(target)? == Kind::Dir;
        match (moved_dir, target_dir) {
            (true, false) => Err(ViewError::NotDir.into()),
            (false, true) => Err(ViewError::IsDir.into()),
            (true, true) if !self.is_empty(src, target)? => Err(ViewError::NotEmpty.into()),
            _ => Ok(()),
        }
    }
}

/// The same for a directory of the base with `dirs` directories in its subtree. Only what has more of them than there is
/// room for must be looked into, and of a real tree that is next to nothing.
fn base_fits(
    src: &dyn NodeSource,
    tree: &DirTree,
    dirs: u64,
    room: usize,
    hidden: &dyn Fn(&[u8]) -> bool,
) -> Result<bool, Ask> {
    if dirs <= room as u64 {
        return Ok(true);
    }
    let mut from = ListFrom::Start;
    while let Some(run) = run_loaded(src, tree, from)? {
        for (name, entry) in run.entries() {
            let Some((totals, tree)) = entry.as_dir() else {
                continue;
            };
            if hidden(name.as_bytes()) {
                continue;
            }
            let Some(room) = room.checked_sub(1) else {
                return Ok(false);
            };
            if !base_fits(src, tree, totals.dirs, room, &|_| false)? {
                return Ok(false);
            }
        }
        from = ListFrom::Ordinal(run.first_ordinal() + run.entries().len() as u64);
    }
    Ok(true)
}
