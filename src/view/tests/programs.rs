//! Random programs, run on the view and on the model.

use super::harness::{CALLER, Handle, World, errno};
use super::model::{Body, Res};
use super::side::Side;
use crate::view::{Allocate, CopySide, NodeKind, OpenFlags, RenameMode, SetAttr, SetTime, XattrMode};

/// A small random generator, so that a seed is a program for ever.
pub struct Rng(pub u64);

impl Rng {
    pub fn next(&mut self) -> u64 {
        // splitmix64
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub fn below(&mut self, n: usize) -> usize {
        (self.next() % n as u64) as usize
    }

    pub fn chance(&mut self, percent: usize) -> bool {
        self.below(100) < percent
    }
}

pub const NAMES: [&[u8]; 5] = [b"a", b"b", b"c", b"d", b"long-name-of-an-entry"];

fn path(rng: &mut Rng) -> Vec<&'static [u8]> {
    let len = 1 + rng.below(3);
    (0..len).map(|_| NAMES[rng.below(NAMES.len())]).collect()
}

fn same<T, U>(view: Res<T>, model: Res<U>, what: &str) -> Option<(T, U)> {
    match (view, model) {
        (Ok(view), Ok(model)) => Some((view, model)),
        (Err(view), Err(model)) if view == model => None,
        (view, model) => panic!(
            "{what}: view {:?}, model {:?}",
            view.map(|_| ()),
            model.map(|_| ())
        ),
    }
}

/// Bytes of which every position tells.
fn pattern(rng: &mut Rng, len: usize) -> Vec<u8> {
    let seed = rng.next() as u8;
    (0..len).map(|i| seed.wrapping_add((i / 7) as u8)).collect()
}

/// Paths of a line of the log.
struct Shown<'a>(&'a [&'static [u8]]);

impl std::fmt::Display for Shown<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0
            .iter()
            .try_for_each(|name| write!(f, "/{}", String::from_utf8_lossy(name)))
    }
}

impl Side {
    /// Told when a program fails, if SAILVOL_LOG is set.
    pub fn log(&self, what: std::fmt::Arguments<'_>) {
        if self.logging {
            eprintln!("{what}");
        }
    }

    /// One random step of a process; `dice` below 92.
    pub async fn step(&mut self, rng: &mut Rng, dice: usize) {
        self.log(format_args!("step {dice}"));
        match dice {
            0..10 => self.step_make(rng).await,
            10..20 => self.step_open(rng).await,
            20..38 => self.step_data(rng).await,
            38..44 => self.step_close(rng),
            44..52 => self.step_remove(rng).await,
            52..64 => self.step_rename(rng).await,
            64..70 => self.step_link(rng).await,
            70..80 => self.step_attrs(rng).await,
            80..84 => self.step_truncate_path(rng).await,
            84..89 => self.step_copy(rng).await,
            _ => self.forget_all(),
        }
        self.note_removed();
        if rng.chance(30) {
            self.step_listing(rng).await;
        }
    }

    async fn step_make(&mut self, rng: &mut Rng) {
        let path = self.path(rng);
        let (Ok(dir), Ok(dir_id), name) = self.dir_of(&path).await else {
            return;
        };
        let view = self.view();
        let mode = [0o644, 0o755, 0o600][rng.below(3)];
        self.log(format_args!("make {}", Shown(&path)));
        let (made, body, mode) = match rng.below(4) {
            0 | 1 => (
                view.mkdir(&CALLER, dir, name, mode).await,
                Body::Dir(Default::default()),
                mode,
            ),
            2 => (
                view.symlink(&CALLER, dir, name, b"x/y").await,
                Body::Symlink(b"x/y".to_vec()),
                0o777,
            ),
            _ => (
                view.mknod(&CALLER, dir, name, NodeKind::Fifo, mode).await,
                Body::Fifo,
                mode,
            ),
        };
        let model = self.fs.make(dir_id, name, body, mode);
        if let Some((known, _)) = same(errno(made), model, "make") {
            self.held.push(known.ino);
        }
    }

    async fn step_open(&mut self, rng: &mut Rng) {
        let path = self.path(rng);
        let (Ok(dir), Ok(dir_id), name) = self.dir_of(&path).await else {
            return;
        };
        let view = self.view();
        let flags = OpenFlags {
            read: true,
            write: rng.chance(60),
            append: rng.chance(20),
            truncate: false,
            exclusive: false,
            execute: false,
        };
        self.log(format_args!("open {} {flags:?}", Shown(&path)));
        if rng.chance(50) {
            let made = errno(view.create(&CALLER, dir, name, 0o644, flags).await);
            let there = self.fs.lookup(dir_id, name);
            let model = match there {
                Ok(id) if matches!(self.fs.at(id).body, Body::File(_)) => Ok(id),
                Ok(_) => Err(libc::EEXIST),
                Err(_) => self.fs.make(dir_id, name, Body::File(Vec::new()), 0o644),
            };
            if let Some(((known, open), id)) = same(made, model, "create") {
                self.held.push(known.ino);
                self.handles.push(Handle {
                    fh: open.fh,
                    ino: known.ino,
                    id,
                    flags,
                });
            }
            return;
        }
        let truncate = flags.write && rng.chance(25);
        let flags = OpenFlags { truncate, ..flags };
        let (Ok(ino), Ok(id)) = (self.walk(&path).await, self.fs.walk(&path)) else {
            return;
        };
        let model = match &self.fs.at(id).body {
            Body::File(_) => Ok(id),
            Body::Dir(_) => Err(libc::EISDIR),
            _ => Err(libc::EINVAL),
        };
        if let Some((open, id)) = same(errno(view.open(&CALLER, ino, flags).await), model, "open") {
            if truncate {
                self.fs.truncate(id, 0);
            }
            self.handles.push(Handle {
                fh: open.fh,
                ino,
                id,
                flags,
            });
        }
    }

    fn step_close(&mut self, rng: &mut Rng) {
        if self.handles.is_empty() {
            return;
        }
        let handle = self.handles.swap_remove(rng.below(self.handles.len()));
        self.view().release(handle.ino, handle.fh);
    }

    fn any_handle(&self, rng: &mut Rng) -> Option<Handle> {
        (!self.handles.is_empty()).then(|| self.handles[rng.below(self.handles.len())].clone())
    }

    /// Mostly small places, sometimes around the edges of frames.
    fn place(&self, rng: &mut Rng, size: usize) -> usize {
        match rng.below(8) {
            2 | 3 if !self.large => rng.below(9000),
            0 => size,
            1 => size + rng.below(5000),
            2 => (rng.below(6) << 20).saturating_sub(rng.below(3)),
            3 => rng.below(6 << 20),
            _ => rng.below(size + 1),
        }
    }

    async fn step_data(&mut self, rng: &mut Rng) {
        let Some(handle) = self.any_handle(rng) else {
            return;
        };
        let view = self.view();
        let size = self.fs.data(handle.id).len();
        let offset = self.place(rng, size);
        self.log(format_args!("data of {}", handle.id));
        let len = match rng.below(6) {
            0 | 1 if !self.large => rng.below(6000),
            0 => rng.below(3 << 20),
            1 => 1 << 20,
            _ => 1 + rng.below(3000),
        };
        match rng.below(6) {
            0 | 1 => {
                let read = errno(view.read(handle.ino, handle.fh, offset as u64, len).await);
                let data = self.fs.data(handle.id);
                let from = offset.min(data.len());
                let model = &data[from..(from + len).min(data.len())];
                assert!(read.unwrap() == model, "read {len} at {offset} of {}", handle.id);
            }
            2 | 3 => {
                let bytes = pattern(rng, len);
                let wrote = errno(
                    view.write(handle.ino, handle.fh, offset as u64, &bytes, false)
                        .await,
                );
                let model = if handle.flags.write {
                    Ok(())
                } else {
                    Err(libc::EBADF)
                };
                if same(wrote, model, "write").is_some() {
                    let offset = if handle.flags.append { size } else { offset };
                    if len > 0 {
                        self.fs.write(handle.id, offset, &bytes);
                    }
                }
            }
            4 if handle.flags.write => {
                let set = SetAttr {
                    size: Some(offset as u64),
                    fh: Some(handle.fh),
                    ..SetAttr::default()
                };
                view.setattr(&CALLER, handle.ino, &set).await.unwrap();
                self.fs.truncate(handle.id, offset);
            }
            5 if handle.flags.write => {
                let len = len.max(1);
                let what = [
                    Allocate::Extend,
                    Allocate::KeepSize,
                    Allocate::PunchHole,
                    Allocate::ZeroRange { keep_size: false },
                    Allocate::ZeroRange { keep_size: true },
                ][rng.below(5)];
                view.fallocate(handle.ino, handle.fh, offset as u64, len as u64, what)
                    .await
                    .unwrap();
                let end = offset + len;
                let grows = matches!(what, Allocate::Extend | Allocate::ZeroRange { keep_size: false });
                if matches!(what, Allocate::PunchHole | Allocate::ZeroRange { .. }) {
                    self.fs.zero(handle.id, offset, len);
                }
                if grows && end > size {
                    self.fs.truncate(handle.id, end);
                }
            }
            _ => {}
        }
    }

    async fn step_truncate_path(&mut self, rng: &mut Rng) {
        let path = self.path(rng);
        let (Ok(ino), Ok(id)) = (self.walk(&path).await, self.fs.walk(&path)) else {
            return;
        };
        let Body::File(data) = &self.fs.at(id).body else {
            return;
        };
        self.log(format_args!("truncate {}", Shown(&path)));
        let size = if rng.chance(40) {
            0
        } else {
            self.place(rng, data.len())
        };
        let set = SetAttr {
            size: Some(size as u64),
            ..SetAttr::default()
        };
        self.view().setattr(&CALLER, ino, &set).await.unwrap();
        self.fs.truncate(id, size);
    }

    async fn step_copy(&mut self, rng: &mut Rng) {
        let (Some(from), Some(to)) = (self.any_handle(rng), self.any_handle(rng)) else {
            return;
        };
        if from.id == to.id || !to.flags.write || to.flags.append {
            return;
        }
        let size = self.fs.data(from.id).len();
        let (from_offset, to_offset) = if rng.chance(60) {
            let at = [0, self.fs.data(to.id).len()][rng.below(2)];
            (at, at)
        } else {
            (rng.below(size + 1), rng.below(size + 1))
        };
        let len = if rng.chance(50) {
            usize::MAX / 2
        } else {
            rng.below(4 << 20)
        };
        let side = |handle: &Handle, offset: usize| CopySide {
            ino: handle.ino,
            fh: handle.fh,
            offset: offset as u64,
        };
        let copy = self.view();
        let copied = copy
            .copy_file_range(side(&from, from_offset), side(&to, to_offset), len as u64)
            .await;
        let copied = errno(copied).unwrap() as usize;
        let there = size.saturating_sub(from_offset).min(len);
        assert!(
            copied <= there && (copied > 0) == (there > 0),
            "copied {copied} of {there}"
        );
        if copied > 0 {
            let bytes = self.fs.data(from.id)[from_offset..from_offset + copied].to_vec();
            self.fs.write(to.id, to_offset, &bytes);
        }
    }

    async fn step_remove(&mut self, rng: &mut Rng) {
        let path = self.path(rng);
        let (Ok(dir), Ok(dir_id), name) = self.dir_of(&path).await else {
            return;
        };
        let view = self.view();
        self.log(format_args!("remove {}", Shown(&path)));
        if rng.chance(60) {
            same(
                errno(view.unlink(&CALLER, dir, name).await),
                self.fs.unlink(dir_id, name),
                "unlink",
            );
        } else {
            same(
                errno(view.rmdir(&CALLER, dir, name).await),
                self.fs.rmdir(dir_id, name),
                "rmdir",
            );
        }
    }

    async fn step_rename(&mut self, rng: &mut Rng) {
        let (from, to) = (self.path(rng), self.path(rng));
        let mode = match rng.below(5) {
            0 => RenameMode::NoReplace,
            1 => RenameMode::Exchange,
            _ => RenameMode::Replace,
        };
        let (Ok(from_dir), Ok(from_id), from_name) = self.dir_of(&from).await else {
            return;
        };
        let (Ok(to_dir), Ok(to_id), to_name) = self.dir_of(&to).await else {
            return;
        };
        self.log(format_args!("rename {} {} {mode:?}", Shown(&from), Shown(&to)));
        let view = errno(
            self.view()
                .rename(&CALLER, (from_dir, from_name), (to_dir, to_name), mode)
                .await,
        );
        let model = self.fs.rename((from_id, from_name), (to_id, to_name), mode);
        same(view, model, "rename");
    }

    async fn step_link(&mut self, rng: &mut Rng) {
        let (from, to) = (self.path(rng), self.path(rng));
        let (Ok(ino), Ok(id)) = (self.walk(&from).await, self.fs.walk(&from)) else {
            return;
        };
        let (Ok(dir), Ok(dir_id), name) = self.dir_of(&to).await else {
            return;
        };
        self.log(format_args!("link {} {}", Shown(&from), Shown(&to)));
        let view = errno(self.view().link(&CALLER, ino, dir, name).await);
        if let Some((known, ())) = same(view, self.fs.link(id, dir_id, name), "link") {
            self.held.push(known.ino);
        }
    }

    async fn step_attrs(&mut self, rng: &mut Rng) {
        let path = self.path(rng);
        let (Ok(ino), Ok(id)) = (self.walk(&path).await, self.fs.walk(&path)) else {
            return;
        };
        let view = self.view();
        let now = self.fs.now;
        self.log(format_args!("attributes of {}", Shown(&path)));
        match rng.below(4) {
            0 => {
                let mode = [0o600, 0o640, 0o777][rng.below(3)];
                let set = SetAttr {
                    mode: Some(mode),
                    ..SetAttr::default()
                };
                let done = view.setattr(&CALLER, ino, &set).await;
                let inode = self.fs.at_mut(id);
                if matches!(inode.body, Body::Symlink(_)) {
                    assert_eq!(errno(done).unwrap_err(), libc::EOPNOTSUPP);
                    return;
                }
                done.unwrap();
                (inode.mode, inode.ctime) = (mode, now);
            }
            1 => {
                let time = crate::model::Timestamp {
                    secs: 1_000_000 + rng.below(1000) as i64,
                    nanos: 5,
                };
                let set = SetAttr {
                    mtime: Some(SetTime::At(time)),
                    ..SetAttr::default()
                };
                view.setattr(&CALLER, ino, &set).await.unwrap();
                let inode = self.fs.at_mut(id);
                (inode.mtime, inode.ctime) = (time, now);
            }
            _ if !matches!(self.fs.at(id).body, Body::File(_) | Body::Dir(_)) => {}
            2 => {
                let name = [&b"user.a"[..], b"user.b"][rng.below(2)];
                let mut value = pattern(rng, 10);
                if value[0].is_multiple_of(6) {
                    // Too large to stand in the entry.
                    value = value.repeat(250);
                }
                let mode = [XattrMode::Any, XattrMode::Create, XattrMode::Replace][rng.below(3)];
                let view = errno(view.setxattr(&CALLER, ino, name, &value, mode).await);
                let model = match (mode, self.fs.at(id).xattrs.contains_key(name)) {
                    (XattrMode::Create, true) => Err(libc::EEXIST),
                    (XattrMode::Replace, false) => Err(libc::ENODATA),
                    _ => Ok(()),
                };
                if same(view, model, "setxattr").is_some() {
                    let inode = self.fs.at_mut(id);
                    inode.xattrs.insert(name.to_vec(), value);
                    inode.ctime = now;
                }
            }
            _ => {
                let view = errno(view.removexattr(&CALLER, ino, b"user.a").await);
                let model = match self.fs.at(id).xattrs.contains_key(&b"user.a"[..]) {
                    true => Ok(()),
                    false => Err(libc::ENODATA),
                };
                if same(view, model, "removexattr").is_some() {
                    let inode = self.fs.at_mut(id);
                    inode.xattrs.remove(&b"user.a"[..]);
                    inode.ctime = now;
                }
            }
        }
    }
}

impl World {
    pub(super) fn step_remount(&mut self, rng: &mut Rng) {
        self.stop(rng.chance(50));
        self.mount();
        if self.overlay.as_ref().unwrap().read().frozen.is_some() {
            let commit = self.overlay.as_ref().unwrap().read().last_commit;
            drop(self.view().unfreeze(commit).unwrap());
        }
    }

    pub(super) fn step_reload(&mut self, rng: &mut Rng) {
        // Files open for writing are kept by the mount; here they are closed first.
        let writers: Vec<Handle> = self
            .handles
            .iter()
            .filter(|handle| handle.flags.write)
            .cloned()
            .collect();
        for handle in writers {
            self.view().release(handle.ino, handle.fh);
        }
        self.handles.retain(|handle| !handle.flags.write);
        self.reload(|fs| {
            for _ in 0..rng.below(6) {
                let (one, other) = (path(rng), path(rng));
                let Ok(dir) = fs.walk(&one[..one.len() - 1]) else {
                    continue;
                };
                let name = one[one.len() - 1];
                let _ = match rng.below(5) {
                    0 => fs
                        .make(dir, name, Body::Dir(Default::default()), 0o755)
                        .map(|_| ()),
                    1 => {
                        let len = [10, 3000, 5 << 20][rng.below(3)];
                        let data = pattern(rng, len);
                        fs.make(dir, name, Body::File(data), 0o644).map(|_| ())
                    }
                    2 => fs.unlink(dir, name),
                    3 => match (fs.walk(&other[..other.len() - 1]), other[other.len() - 1]) {
                        (Ok(to), to_name) => fs.rename((dir, name), (to, to_name), RenameMode::Replace),
                        _ => Ok(()),
                    },
                    _ => match fs.lookup(dir, name) {
                        Ok(id) if matches!(fs.at(id).body, Body::File(_)) => {
                            fs.write(id, 0, &pattern(rng, 2000));
                            Ok(())
                        }
                        _ => Ok(()),
                    },
                };
            }
        });
    }
}

/// A volume to begin with.
pub fn seeded_world(rng: &mut Rng) -> World {
    let mut contents: Vec<Vec<u8>> = Vec::new();
    for len in [0, 5, 300, 5000, (5 << 20) + 17] {
        contents.push(pattern(rng, len));
    }
    World::new(|fs| {
        for dir in [&b"a"[..], b"b"] {
            let id = fs.make(1, dir, Body::Dir(Default::default()), 0o755).unwrap();
            let below = fs.make(id, b"a", Body::Dir(Default::default()), 0o755).unwrap();
            for (i, data) in contents.iter().enumerate() {
                let name = format!("f{i}");
                fs.make(below, name.as_bytes(), Body::File(data.clone()), 0o644)
                    .unwrap();
            }
            fs.make(id, b"b", Body::File(contents[3].clone()), 0o644).unwrap();
            let large = fs.make(id, b"c", Body::File(contents[4].clone()), 0o644).unwrap();
            if dir == b"a" {
                fs.link(large, 1, b"d").unwrap();
            }
        }
        fs.make(1, b"c", Body::Symlink(b"a/b".to_vec()), 0o777).unwrap();
    })
}

fn program(seed: u64, steps: usize) {
    let mut rng = Rng(seed);
    let mut world = seeded_world(&mut rng);
    world.check();
    // A check changes what is loaded and known: often is for finding, seldom for trying.
    let often = std::env::var("SAILVOL_CHECK").is_ok();
    for step in 0..steps {
        world.step(&mut rng);
        if often || step % 20 == 19 {
            world.check();
        }
    }
    world.check();
}

#[test]
fn the_view_does_what_a_local_filesystem_does() {
    // To replay one: SAILVOL_SEED=n cargo test --lib view::tests::programs
    if let Ok(seed) = std::env::var("SAILVOL_SEED") {
        let steps = std::env::var("SAILVOL_STEPS")
            .ok()
            .and_then(|steps| steps.parse().ok());
        program(seed.parse().unwrap(), steps.unwrap_or(300));
        return;
    }
    let programs = std::env::var("SAILVOL_PROGRAMS")
        .ok()
        .and_then(|n| n.parse().ok())
        .unwrap_or(8);
    for seed in 1..=programs {
        let run = std::panic::AssertUnwindSafe(|| program(seed, 150));
        if let Err(panic) = std::panic::catch_unwind(run) {
            eprintln!("failing seed: {seed}");
            std::panic::resume_unwind(panic);
        }
    }
}
