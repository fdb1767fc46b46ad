//! One inode, three ways: the content and each attribute decided on its own.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::Register;
use super::xattrs::load_xattrs;
use crate::model::{Attrs, Entry, EntryBody, Timestamp, XATTR_BYTES_MAX, XattrMap, Xattrs};
use crate::tree::{NodeSource, TreeError, same_body, same_xattrs};

/// What came out for one inode, and which changes of the head's side went under.
#[derive(Debug)]
pub(super) struct Decided<T> {
    pub value: T,
    pub overwritten: Vec<Register>,
}

/// One register: mine where I changed it, else the head's. The flag says that both changed it and differ.
fn pick<T: PartialEq + Clone>(base: Option<&T>, head: &T, mine: &T) -> (T, bool) {
    if base == Some(mine) {
        (head.clone(), false)
    } else {
        (mine.clone(), base != Some(head) && head != mine)
    }
}

/// A time that nobody is told about: mine where only I changed it, the head's where only it did, else the later one.
fn pick_later(base: Option<Timestamp>, head: Timestamp, mine: Timestamp) -> Timestamp {
    if base == Some(mine) {
        head
    } else if base == Some(head) {
        mine
    } else {
        head.max(mine)
    }
}

/// Content and attributes of an inode that is no directory on the head's side and mine. `base` is `None` where there
/// was none, or a directory: then both sides count as changed in everything, and mine stands.
///
/// What is equal on both sides is taken from the head, whose references need no proof that they are still kept.
pub(super) async fn merge_leaf(
    src: &dyn NodeSource,
    base: Option<&Entry>,
    head: &Entry,
    mine: &Entry,
) -> Result<Decided<Entry>, TreeError> {
    let unchanged = base.is_some_and(|base| same_body(&base.body, &mine.body));
    let of_head = unchanged || same_body(&head.body, &mine.body);
    let lost = !of_head && !base.is_some_and(|base| same_body(&base.body, &head.body));
    let winner = if of_head { head } else { mine };
    let Decided {
        value: mut attrs,
        mut overwritten,
    } = merge_attrs(src, base.map(|base| &base.attrs), &head.attrs, &mine.attrs).await?;
    if matches!(winner.body, EntryBody::Symlink { .. }) {
        // A symbolic link has no permissions of its own: a chmod of the file that it replaced is void.
        attrs.mode = winner.attrs.mode;
        overwritten.retain(|register| *register != Register::Mode);
    }
    if lost {
        overwritten.push(Register::Content);
    }
    let value = Entry {
        attrs,
        body: winner.body.clone(),
    };
    Ok(Decided { value, overwritten })
}

async fn merge_attrs(
    src: &dyn NodeSource,
    base: Option<&Attrs>,
    head: &Attrs,
    mine: &Attrs,
) -> Result<Decided<Attrs>, TreeError> {
    let mut decided = merge_all_but_mtime(src, base, head, mine).await?;
    let (mtime, lost) = pick(base.map(|base| &base.mtime), &head.mtime, &mine.mtime);
    decided.value.mtime = mtime;
    if lost {
        decided.overwritten.push(Register::Mtime);
    }
    Ok(decided)
}

/// Attributes of a directory: where both sides changed the mtime the later one stands, which overwrites nothing.
pub(super) async fn merge_dir_attrs(
    src: &dyn NodeSource,
    base: Option<&Attrs>,
    head: &Attrs,
    mine: &Attrs,
) -> Result<Decided<Attrs>, TreeError> {
    let mut decided = merge_all_but_mtime(src, base, head, mine).await?;
    decided.value.mtime = pick_later(base.map(|base| base.mtime), head.mtime, mine.mtime);
    Ok(decided)
}

async fn merge_all_but_mtime(
    src: &dyn NodeSource,
    base: Option<&Attrs>,
    head: &Attrs,
    mine: &Attrs,
) -> Result<Decided<Attrs>, TreeError> {
    let (mode, mode_lost) = pick(base.map(|b| &b.mode), &head.mode, &mine.mode);
    let owner_of = |attrs: &Attrs| (attrs.uid, attrs.gid);
    let (owner, owner_lost) = pick(base.map(owner_of).as_ref(), &owner_of(head), &owner_of(mine));
    let (file_id, _) = pick(base.map(|b| &b.file_id), &head.file_id, &mine.file_id);
    let xattrs = merge_xattrs(src, base.map(|b| &b.xattrs), &head.xattrs, &mine.xattrs).await?;
    let mut overwritten = xattrs.overwritten;
    if mode_lost {
        overwritten.push(Register::Mode);
    }
    if owner_lost {
        overwritten.push(Register::Owner);
    }
    let value = Attrs {
        mode,
        uid: owner.0,
        gid: owner.1,
        mtime: mine.mtime,
        ctime: pick_later(base.map(|b| b.ctime), head.ctime, mine.ctime),
        file_id,
        xattrs: xattrs.value,
    };
    Ok(Decided { value, overwritten })
}

/// Each key on its own. Maps out of line are loaded only when no two of the three are plainly equal.
async fn merge_xattrs(
    src: &dyn NodeSource,
    base: Option<&Xattrs>,
    head: &Xattrs,
    mine: &Xattrs,
) -> Result<Decided<Xattrs>, TreeError> {
    let decided = |value: &Xattrs| Decided {
        value: value.clone(),
        overwritten: Vec::new(),
    };
    if same_xattrs(head, mine) || base.is_some_and(|base| same_xattrs(base, mine)) {
        return Ok(decided(head));
    }
    if base.is_some_and(|base| same_xattrs(base, head)) {
        return Ok(decided(mine));
    }
    let none = Xattrs::None;
    let was = load_xattrs(src, base.unwrap_or(&none)).await?;
    let (theirs, ours) = (load_xattrs(src, head).await?, load_xattrs(src, mine).await?);
    let keys: BTreeSet<&Box<[u8]>> = was.keys().chain(theirs.keys()).chain(ours.keys()).collect();
    let mut map = XattrMap::new();
    let mut overwritten = Vec::new();
    for key in keys {
        // Absence is a value too, also where there was no base: a key that only one side knows is nobody's conflict.
        let (value, lost) = pick(Some(&was.get(key)), &theirs.get(key), &ours.get(key));
        if lost {
            overwritten.push(Register::Xattr(key.clone()));
        }
        if let Some(value) = value {
            map.insert(key.clone(), value.clone());
        }
    }
    if Xattrs::map_bytes(&map) > XATTR_BYTES_MAX {
        // Both sides' keys together are more than an entry may hold: mine alone, and the head's changes are lost.
        let lost = theirs
            .iter()
            .filter(|(key, value)| was.get(*key) != Some(*value) && ours.get(*key) != Some(*value));
        overwritten = lost.map(|(key, _)| Register::Xattr(key.clone())).collect();
        return Ok(Decided {
            value: mine.clone(),
            overwritten,
        });
    }
    let value = if map == *theirs {
        head.clone()
    } else if map == *ours {
        mine.clone()
    } else {
        Xattrs::from_map(map)
    };
    Ok(Decided { value, overwritten })
}

/// Registers that the head changed (relative to `base`, everything where there is none) and that `now` holds
/// otherwise; what `now` is `None` for is all that the head changed. Used where mine replaced or removed the whole
/// inode.
pub(super) async fn changed_and_gone(
    src: &dyn NodeSource,
    base: Option<&Entry>,
    head: &Entry,
    now: Option<&Entry>,
) -> Result<Vec<Register>, TreeError> {
    let mut gone = Vec::new();
    let mut note = |register: Register, is_base: bool, is_now: bool| {
        if !is_base && !is_now {
            gone.push(register);
        }
    };
    let same_content = |other: Option<&Entry>| other.is_some_and(|other| same_body(&other.body, &head.body));
    note(Register::Content, same_content(base), same_content(now));
    if base.is_none() && now.is_none() {
        // The attributes of a lost inode that was new go with its content.
        return Ok(gone);
    }
    let (was, is) = (base.map(|e| &e.attrs), now.map(|e| &e.attrs));
    let head = &head.attrs;
    let mode = |other: Option<&Attrs>| other.is_some_and(|other| other.mode == head.mode);
    note(Register::Mode, mode(was), mode(is));
    let owner = |other: Option<&Attrs>| other.is_some_and(|o| (o.uid, o.gid) == (head.uid, head.gid));
    note(Register::Owner, owner(was), owner(is));
    let mtime = |other: Option<&Attrs>| other.is_some_and(|other| other.mtime == head.mtime);
    note(Register::Mtime, mtime(was), mtime(is));
    let same = |other: Option<&Attrs>| other.is_some_and(|other| same_xattrs(&other.xattrs, &head.xattrs));
    if same(was) || same(is) {
        return Ok(gone);
    }
    let theirs = load_xattrs(src, &head.xattrs).await?;
    let (was, is) = (load_of(src, was).await?, load_of(src, is).await?);
    for key in theirs.keys().chain(was.keys()).collect::<BTreeSet<_>>() {
        let value = theirs.get(key);
        let is_now = now.is_some() && is.get(key) == value;
        note(Register::Xattr(key.clone()), was.get(key) == value, is_now);
    }
    Ok(gone)
}

/// Registers of a directory that the head changed; its mtime is none that can be lost.
pub(super) async fn changed_dir_attrs(
    src: &dyn NodeSource,
    base: &Attrs,
    head: &Attrs,
) -> Result<Vec<Register>, TreeError> {
    let as_entry = |attrs: &Attrs| Entry {
        attrs: Attrs {
            mtime: Timestamp::default(),
            ..attrs.clone()
        },
        body: EntryBody::Fifo,
    };
    changed_and_gone(src, Some(&as_entry(base)), &as_entry(head), None).await
}

async fn load_of(src: &dyn NodeSource, attrs: Option<&Attrs>) -> Result<Arc<XattrMap>, TreeError> {
    match attrs {
        Some(attrs) => load_xattrs(src, &attrs.xattrs).await,
        None => Ok(Arc::default()),
    }
}
