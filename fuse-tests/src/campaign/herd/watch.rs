//! Those who look: they list, read, map, walk and copy what a mount shows while its driver changes it, and hold every
//! answer against the model.

use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::Herd;
use super::checks::{self, Found};
use super::content::{Node, Tag};
use super::listing;
use super::mapped::Mapped;
use super::mount::Member;
use super::story::{Seen, Window};
use super::tree::{Dir, Place, join};
use crate::campaign::Tally;
use crate::campaign::random::Random;

/// Handles and mappings that one watcher keeps open.
const HELD_MAX: usize = 4;
/// Longest wait of a slow reader for a move of the view.
const SLOW: Duration = Duration::from_millis(40);
/// Names below a directory that a walk looks at, at most.
const WALKED_MAX: usize = 400;
/// Names of a directory that is copied, at most.
const COPIED_MAX: usize = 1500;

/// A directory that is open.
struct OpenDir {
    path: String,
    handle: File,
    /// How often the mount had been away before.
    aways: u64,
    /// For messages.
    how: &'static str,
}

/// A file that stays open, and perhaps mapped.
struct HeldFile {
    place: Place,
    tag: Tag,
    handle: File,
    mapped: Option<Mapped>,
    window: Window,
}

/// Looks at one mount.
pub struct Watcher<'a> {
    herd: &'a Herd<'a>,
    member: &'a Member,
    random: Random,
    /// What it has done.
    pub tally: Tally,
    dirs: Vec<OpenDir>,
    files: Vec<HeldFile>,
}

impl<'a> Watcher<'a> {
    /// With choices of its own.
    pub fn new(herd: &'a Herd<'a>, member: &'a Member, seed: u64) -> Watcher<'a> {
        Watcher {
            herd,
            member,
            random: Random::new(seed),
            tally: Tally::default(),
            dirs: Vec::new(),
            files: Vec::new(),
        }
    }

    /// Looks until the drivers are done.
    ///
    /// # Errors
    /// What cannot be.
    pub fn run(&mut self) -> Result<(), String> {
        while !self.is_over() {
            let member = self.member;
            let _gate = member.gate.read();
            while !self.is_over() && !self.member.leave.load(Ordering::Acquire) {
                self.look()?;
            }
            self.let_go();
        }
        Ok(())
    }

    fn is_over(&self) -> bool {
        self.herd.alarm.is_set() || self.herd.done.load(Ordering::Acquire)
    }

    fn look(&mut self) -> Result<(), String> {
        match self.random.range(0..100) {
            0..30 => self.list_anew(),
            30..42 => self.list_held(),
            42..72 => self.read_some(),
            72..82 => self.read_held(),
            82..92 => self.hold_file(),
            92..96 => self.walk(),
            _ => self.copy(),
        }
    }

    fn let_go(&mut self) {
        self.dirs.clear();
        for file in std::mem::take(&mut self.files) {
            self.member.story().close(file.window);
        }
    }

    /// Does something, and gives what it may have seen. Nothing when the mount was away.
    fn during<T>(&self, act: impl FnOnce() -> T) -> Result<Option<(T, Seen)>, String> {
        let story = self.member.story();
        let window = story.open();
        let done = act();
        let seen = story.seen(window, story.mark(), &self.herd.alarm);
        story.close(window);
        let seen = seen?;
        Ok((!seen.away()).then_some((done, seen)))
    }

    fn any_dir(&mut self) -> String {
        let tree = self.member.story().now().tree;
        let paths: Vec<(&Arc<str>, &Dir)> = tree.dirs().collect();
        loop {
            let Some((path, dir)) = self.random.pick(&paths) else {
                return String::new();
            };
            // Large ones cost the time of many small ones.
            if dir.len() < 3000 || self.random.chance(20) {
                return path.to_string();
            }
        }
    }

    fn any_place(&mut self) -> Place {
        let choice = self.random.range(0..100);
        if choice < 55 {
            return self.herd.hot_place(&mut self.random);
        }
        let dir = self.any_dir();
        let tree = self.member.story().now().tree;
        match tree.dir(&dir).and_then(|known| known.pick(&mut self.random)) {
            Some((name, _)) if choice < 92 => Place {
                dir: dir.as_str().into(),
                name,
            },
            _ => Place::new(&dir, &format!("none{}", self.random.range(0..20))),
        }
    }

    // Listings.

    fn step_bytes(&mut self) -> usize {
        let steps = [400, 1 << 10, 4 << 10, 32 << 10, 32 << 10, 1 << 20];
        self.random.pick(&steps).copied().unwrap_or(1 << 15)
    }

    fn list_anew(&mut self) -> Result<(), String> {
        let path = self.any_dir();
        self.list_path(path)
    }

    fn list_path(&mut self, path: String) -> Result<(), String> {
        let story = self.member.story();
        let (opened, aways) = (story.open(), story.aways());
        let listed = match listing::open(&self.member.path(&path)) {
            Ok(handle) => {
                let waits = self.random.chance(30);
                if waits {
                    // What was opened before a move is read after it.
                    story.wait_for_move(SLOW);
                }
                let how = if waits {
                    "opened a while before"
                } else {
                    "just opened"
                };
                let mut dir = OpenDir {
                    path,
                    handle,
                    aways,
                    how,
                };
                self.list(&dir, opened).map(|useful| {
                    dir.how = "held, and rewound";
                    if useful && is_lasting(&dir.path) && self.dirs.len() < HELD_MAX && self.random.chance(30)
                    {
                        self.dirs.push(dir);
                    }
                })
            }
            Err(error) => self.failed(&path, opened, &error, "opendir"),
        };
        story.close(opened);
        listed
    }

    fn list_held(&mut self) -> Result<(), String> {
        let count = self.dirs.len() as u64;
        if count == 0 {
            return self.list_anew();
        }
        let at = self.random.range(0..count) as usize;
        let dir = self.dirs.swap_remove(at);
        let opened = self.member.story().open();
        let listed = match listing::rewind(&dir.handle) {
            Ok(()) => self.list(&dir, opened),
            Err(error) => Err(format!("rewinddir {:?}: {error}", dir.path)),
        };
        self.member.story().close(opened);
        self.tally.add("listings by held handles", 1);
        if listed? && self.random.chance(80) {
            self.dirs.push(dir);
        }
        Ok(())
    }

    /// Reads a directory whose handle stands at its beginning, quickly or slowly. Gives whether the handle is still of use.
    fn list(&mut self, dir: &OpenDir, opened: Window) -> Result<bool, String> {
        let (step, slow) = (self.step_bytes(), self.random.chance(35));
        let story = self.member.story();
        let known = story.now().tree;
        let large = known.dir(&dir.path).is_some_and(|known| known.len() > 3000);
        let step = if large { step.max(4 << 10) } else { step };
        let (window, mut first) = (story.open(), None);
        let read = listing::read(&dir.handle, step, |calls| {
            first.get_or_insert_with(|| story.mark());
            if slow && calls < 4 {
                story.wait_for_move(SLOW);
            }
        });
        let end = story.mark();
        let all = story.seen(window, end, &self.herd.alarm);
        let first = story.seen(window, first.unwrap_or(end), &self.herd.alarm);
        let since = story.seen(opened, end, &self.herd.alarm);
        story.close(window);
        let (all, first, since) = (all?, first?, since?);
        if all.away() || story.aways() != dir.aways {
            self.passed_over()?;
            return Ok(false);
        }
        if since.moments.iter().any(|m| m.tree.dir(&dir.path).is_none()) {
            // It has vanished since, or was made anew: what is open is as removed.
            return match read {
                Err(error) if error.raw_os_error() != Some(libc::ENOENT) => {
                    Err(format!("readdir of {:?}, which is gone: {error}", dir.path))
                }
                _ => Ok(false),
            };
        }
        let lines =
            read.map_err(|error| format!("readdir {:?} on record {:?}: {error}", dir.path, all.bases()))?;
        self.tally.add("listings", 1);
        self.tally.add("names listed", lines.len() as u64);
        self.tally.add("listings across a move", u64::from(all.moved()));
        checks::listing(&dir.path, &lines, &first, &all)
            .map_err(|e| format!("listing by a handle {}, {step} bytes a call: {e}", dir.how))?;
        Ok(true)
    }

    /// A directory may be gone; nothing else may fail.
    fn failed(&mut self, path: &str, window: Window, error: &io::Error, what: &str) -> Result<(), String> {
        let story = self.member.story();
        let seen = story.seen(window, story.mark(), &self.herd.alarm)?;
        if seen.away() {
            return self.passed_over();
        }
        let may_be_gone = seen.moments.iter().any(|m| m.tree.dir(path).is_none());
        if may_be_gone && error.raw_os_error() == Some(libc::ENOENT) {
            return Ok(());
        }
        Err(format!("{what} {path:?} on record {:?}: {error}", seen.bases()))
    }

    fn passed_over(&mut self) -> Result<(), String> {
        self.tally.add("looks passed over, mount away", 1);
        // What was open is of a mount that is gone.
        self.let_go();
        Ok(())
    }

    // Files.

    fn read_some(&mut self) -> Result<(), String> {
        for _ in 0..self.random.range(1..8) {
            let place = self.any_place();
            self.read_one(&place)?;
        }
        Ok(())
    }

    fn read_one(&mut self, place: &Place) -> Result<(), String> {
        let path = self.member.path(&place.path());
        let Some((stat, seen)) = self.during(|| fs::symlink_metadata(&path))? else {
            return self.passed_over();
        };
        self.tally.add("stats", 1);
        let found = match stat {
            Ok(meta) if meta.is_dir() => Found::Dir,
            Ok(meta) if meta.is_symlink() => Found::SomeLink,
            Ok(meta) => Found::Sized(meta.len()),
            Err(error) => absent(place, "stat", &error, &seen)?,
        };
        checks::at_place(place, found, &seen).map_err(|e| format!("stat: {e}"))?;
        match found {
            Found::SomeLink => self.read_link(place),
            Found::Sized(_) => self.read_file(place),
            _ => Ok(()),
        }
    }

    fn read_link(&mut self, place: &Place) -> Result<(), String> {
        let path = self.member.path(&place.path());
        let Some((target, seen)) = self.during(|| fs::read_link(&path))? else {
            return self.passed_over();
        };
        self.tally.add("links read", 1);
        let found = match target {
            Ok(target) => {
                let text = target.to_string_lossy().into_owned();
                let tag = Tag::of_link(&text).ok_or_else(|| format!("readlink {place:?}: {text:?}"))?;
                Found::Link(tag)
            }
            // A file by now.
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => return not_of(place, &seen, is_link),
            Err(error) => absent(place, "readlink", &error, &seen)?,
        };
        checks::at_place(place, found, &seen).map_err(|e| format!("readlink: {e}"))
    }

    fn read_file(&mut self, place: &Place) -> Result<(), String> {
        let path = self.member.path(&place.path());
        let Some((read, seen)) = self.during(|| open_plain(&path).and_then(|file| read_all(&file)))? else {
            return self.passed_over();
        };
        self.tally.add("files read", 1);
        let bytes = match read {
            Ok(bytes) => bytes,
            // A link by now.
            Err(error) if error.raw_os_error() == Some(libc::ELOOP) => return not_of(place, &seen, is_file),
            Err(error) => {
                let found = absent(place, "open and read", &error, &seen)?;
                return checks::at_place(place, found, &seen).map_err(|e| format!("open: {e}"));
            }
        };
        if checks::is_torn(place, &seen) {
            return Ok(());
        }
        self.tally.add("bytes read", bytes.len() as u64);
        let tag = Tag::of(&bytes).map_err(|e| format!("read {place:?} on record {:?}: {e}", seen.bases()))?;
        checks::at_place(place, Found::File(tag), &seen).map_err(|e| format!("read: {e}"))
    }

    /// Opens a file, reads it, perhaps maps it, and keeps it: whatever moves, it holds what it held.
    fn hold_file(&mut self) -> Result<(), String> {
        if self.files.len() >= HELD_MAX {
            let first = self.files.remove(0);
            self.member.story().close(first.window);
        }
        let place = self.any_place();
        let tree = self.member.story().now().tree;
        if !matches!(tree.get(&place), Some(Node::File(_))) {
            return self.read_one(&place);
        }
        let (path, map) = (self.member.path(&place.path()), self.random.chance(60));
        let story = self.member.story();
        let window = story.open();
        let opened = open_plain(&path).and_then(|handle| {
            let bytes = read_all(&handle)?;
            let mapped = match map && !bytes.is_empty() {
                true => Some(Mapped::new(&handle, bytes.len(), false)?),
                false => None,
            };
            Ok((handle, bytes, mapped))
        });
        let seen = story.seen(window, story.mark(), &self.herd.alarm)?;
        let gone = |error: &io::Error| matches!(error.raw_os_error(), Some(libc::ENOENT | libc::ELOOP));
        let held = match opened {
            _ if seen.away() => None,
            _ if checks::is_torn(&place, &seen) => None,
            Err(error) if gone(&error) && seen.moments.len() > 1 => None,
            Err(error) => {
                return Err(format!(
                    "open and map {place:?} on record {:?}: {error}",
                    seen.bases()
                ));
            }
            Ok((handle, bytes, mapped)) => {
                let tag = Tag::of(&bytes).map_err(|e| format!("read {place:?}: {e}"))?;
                checks::at_place(&place, Found::File(tag), &seen)?;
                Some((handle, tag, mapped))
            }
        };
        match held {
            None => story.close(window),
            Some((handle, tag, mapped)) => self.files.push(HeldFile {
                place,
                tag,
                handle,
                mapped,
                window,
            }),
        }
        Ok(())
    }

    fn read_held(&mut self) -> Result<(), String> {
        let count = self.files.len() as u64;
        if count == 0 {
            return self.hold_file();
        }
        let at = self.random.range(0..count) as usize;
        let file = &self.files[at];
        let size = file.handle.metadata().map(|meta| meta.len());
        let read = read_all(&file.handle);
        let mapped = file.mapped.as_ref().map(Mapped::read);
        let story = self.member.story();
        let seen = story.seen(file.window, story.mark(), &self.herd.alarm)?;
        if seen.away() {
            return self.passed_over();
        }
        if checks::is_torn(&file.place, &seen) {
            let file = self.files.remove(at);
            story.close(file.window);
            return Ok(());
        }
        self.tally.add("held files read", 1);
        self.tally.add("mappings read", u64::from(mapped.is_some()));
        let what = format!(
            "{:?}, held open as {:?} over records {:?}",
            file.place,
            file.tag,
            seen.bases()
        );
        if size.as_ref().ok() != Some(&(file.tag.len() as u64)) {
            return Err(format!("{what}: fstat says {size:?} bytes"));
        }
        for (bytes, how) in [(Some(read), "read"), (mapped, "its mapping")] {
            let Some(bytes) = bytes else { continue };
            let bytes = bytes.map_err(|e| format!("{what}: {how}: {e}"))?;
            let tag = Tag::of(&bytes).map_err(|e| format!("{what}: {how}: {e}"))?;
            if tag != file.tag {
                return Err(format!("{what}: {how}: {tag:?}"));
            }
        }
        Ok(())
    }

    // Many files.

    /// As find and du do: every directory is listed, its names are looked at.
    fn walk(&mut self) -> Result<(), String> {
        let mut open = vec![String::new()];
        while let Some(path) = open.pop() {
            if self.is_over() || self.member.leave.load(Ordering::Acquire) {
                return Ok(());
            }
            let tree = self.member.story().now().tree;
            let Some(dir) = tree.dir(&path) else { continue };
            if dir.len() > WALKED_MAX && self.random.chance(70) {
                continue;
            }
            self.list_path(path.clone())?;
            let names: Vec<(Arc<str>, Node)> = dir
                .iter()
                .map(|(name, node)| (name.clone(), node))
                .take(WALKED_MAX)
                .collect();
            for (name, node) in names {
                if node == Node::Dir {
                    open.push(join(&path, &name));
                }
                let dir = path.as_str().into();
                self.read_stat(&Place { dir, name })?;
            }
        }
        self.tally.add("walks", 1);
        Ok(())
    }

    fn read_stat(&mut self, place: &Place) -> Result<(), String> {
        let path = self.member.path(&place.path());
        let Some((stat, seen)) = self.during(|| fs::symlink_metadata(&path))? else {
            return self.passed_over();
        };
        let found = match stat {
            Ok(meta) if meta.is_dir() => Found::Dir,
            Ok(meta) if meta.is_symlink() => Found::SomeLink,
            Ok(meta) => Found::Sized(meta.len()),
            Err(error) => absent(place, "stat", &error, &seen)?,
        };
        self.tally.add("stats", 1);
        checks::at_place(place, found, &seen).map_err(|e| format!("stat in a walk: {e}"))
    }

    /// `cp -r` of a directory: when it says that it is done, all is there.
    fn copy(&mut self) -> Result<(), String> {
        let path = self.any_dir();
        let tree = self.member.story().now().tree;
        let names = tree.dir(&path).map_or(usize::MAX, Dir::len);
        if path.is_empty()
            || names > COPIED_MAX
            || tree.dirs().any(|(p, _)| p.starts_with(&format!("{path}/")))
        {
            return self.list_anew();
        }
        let target = tempfile::Builder::new().prefix("sailvol-herd-").tempdir();
        let target = target.map_err(|e| format!("a temporary directory: {e}"))?;
        let copy = target.path().join("copy");
        let mut command = Command::new("cp");
        command.arg("-r").arg(self.member.path(&path)).arg(&copy);
        command.env("LC_ALL", "C").stdin(Stdio::null());
        let Some((done, seen)) = self.during(|| command.output())? else {
            return self.passed_over();
        };
        let done = done.map_err(|e| format!("cp: {e}"))?;
        self.tally.add("copies", 1);
        let told = String::from_utf8_lossy(&done.stderr).into_owned();
        let on = format!("cp -r {path:?} on record {:?}", seen.bases());
        if !done.status.success() {
            // What a local directory gives too, when names go or are replaced meanwhile.
            let usual = ["No such file or directory", "replaced while being copied"];
            let lines = told.lines();
            let strange: Vec<&str> = lines
                .filter(|line| !usual.iter().any(|end| line.ends_with(end)))
                .collect();
            return match checks::is_quiet(&path, &seen) || !strange.is_empty() {
                true => Err(format!("{on}: {:?}: {told}", done.status)),
                false => Ok(()),
            };
        }
        let handle = listing::open(&copy).map_err(|e| format!("{on}: exit 0, and no copy: {e}"))?;
        let lines = listing::read(&handle, 1 << 16, |_| {}).map_err(|e| format!("the copy: {e}"))?;
        self.tally.add("files copied", lines.len() as u64);
        checks::copied(&path, &lines, &seen).map_err(|e| format!("{on}: exit 0: {e}"))?;
        for line in lines {
            let place = Place::new(&path, &line.name);
            let from = copy.join(&line.name);
            let found = copied(&from).map_err(|e| format!("{on}: {place:?}: {e}"));
            if !checks::is_torn(&place, &seen) {
                checks::at_place(&place, found?, &seen).map_err(|e| format!("{on}: {e}"))?;
            }
        }
        Ok(())
    }
}

/// It is there in every record.
fn is_lasting(path: &str) -> bool {
    !(path.starts_with("own") && path.contains('/'))
}

fn copied(path: &std::path::Path) -> Result<Found, String> {
    let meta = fs::symlink_metadata(path).map_err(|e| e.to_string())?;
    if meta.is_dir() {
        return Ok(Found::Dir);
    }
    if meta.is_symlink() {
        let target = fs::read_link(path).map_err(|e| e.to_string())?;
        let text = target.to_string_lossy().into_owned();
        return Tag::of_link(&text).map(Found::Link).ok_or(text);
    }
    Tag::of(&fs::read(path).map_err(|e| e.to_string())?).map(Found::File)
}

/// ENOENT is an answer like others; any other error is none.
fn absent(place: &Place, what: &str, error: &io::Error, seen: &Seen) -> Result<Found, String> {
    match error.raw_os_error() {
        Some(libc::ENOENT) => Ok(Found::Absent),
        _ => Err(format!("{what} {place:?} on record {:?}: {error}", seen.bases())),
    }
}

fn is_link(node: Node) -> bool {
    matches!(node, Node::Link(_))
}

fn is_file(node: Node) -> bool {
    matches!(node, Node::File(_))
}

/// The call was answered as if something else were at the place: at some moment that must have been so.
fn not_of(place: &Place, seen: &Seen, kind: fn(Node) -> bool) -> Result<(), String> {
    let other = |node: Option<Node>| node.is_some_and(|node| !kind(node));
    match seen.moments.iter().any(|m| other(m.tree.get(place))) {
        true => Ok(()),
        false => Err(format!(
            "{place:?} was of another kind on record {:?}",
            seen.bases()
        )),
    }
}

/// Never through a link.
fn open_plain(path: &std::path::Path) -> io::Result<File> {
    let flags = rustix::fs::OFlags::RDONLY | rustix::fs::OFlags::NOFOLLOW | rustix::fs::OFlags::CLOEXEC;
    Ok(rustix::fs::open(path, flags, rustix::fs::Mode::empty())?.into())
}

/// To the end, wherever that is by now.
fn read_all(file: &File) -> io::Result<Vec<u8>> {
    struct At<'a>(&'a File, u64);
    impl Read for At<'_> {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            let count = self.0.read_at(buffer, self.1)?;
            self.1 += count as u64;
            Ok(count)
        }
    }
    let mut bytes = Vec::new();
    At(file, 0).read_to_end(&mut bytes)?;
    Ok(bytes)
}
