//! What programs do in a pod: one step each, in the view and in the model.

use std::collections::BTreeSet;

use super::model::{Contents, attrs};
use super::pod::{Held, Pod};
use super::process::{TRUNCATE, WRITE};
use crate::tree::merge_model::{Dir, File, Item, Node, join, under};
use crate::view::ViewError;
use crate::volume::testing::Rng;

/// Any of them may be a file or a directory.
const NAMES: [&str; 5] = ["a", "b", "c", "d", "e"];
const DEPTH_MAX: usize = 3;
/// Files that make a directory of several pages.
const CROWD: usize = 30;
const HELD_MAX: usize = 3;

/// What is needed to do something.
pub struct Doing<'a> {
    pub rng: &'a mut Rng,
    pub contents: &'a mut Contents,
    /// Files beyond the size from which contents have a file of their own in the cache.
    pub large: bool,
    /// Directories get many names now and then.
    pub crowded: bool,
    /// Handles stay open: nothing runs that they would be in the way of.
    pub may_hold: bool,
}

impl Doing<'_> {
    fn pick<'a, T>(&mut self, from: &'a [T]) -> Option<&'a T> {
        let len = u64::try_from(from.len()).unwrap();
        (len > 0).then(|| &from[self.rng.below(len) as usize])
    }

    /// One of a few names, so that pods meet, or one that is there.
    fn name_in(&mut self, view: &Dir, dir: &str) -> String {
        let known = self
            .rng
            .chance(30)
            .then(|| names_in(view, dir).into_iter().collect::<Vec<_>>());
        let there = known.and_then(|known| self.pick(&known).cloned());
        there.unwrap_or_else(|| (*self.pick(&NAMES).expect("a name")).to_owned())
    }

    fn bytes(&mut self) -> Vec<u8> {
        let len = match self.rng.below(100) {
            0..5 => 0,
            5..75 => 1 + self.rng.below(40),
            75..97 => self.rng.below(200_000),
            _ if self.large => (4 << 20) + self.rng.below(1 << 20),
            _ => 70_000,
        };
        let salt = self.rng.below(1 << 30);
        (0..len).map(|at| ((at / 64) * 31 + salt + at) as u8).collect()
    }

    fn mode(&mut self) -> u16 {
        0o600 + self.rng.below(0o177) as u16
    }
}

fn dirs(view: &Dir) -> Vec<String> {
    let below = view.flat().into_iter().filter_map(|(path, item)| {
        let deep = path.matches('/').count() + 1 >= DEPTH_MAX;
        (matches!(item, Item::Dir(_)) && !deep).then_some(path)
    });
    std::iter::once(String::new()).chain(below).collect()
}

fn files(view: &Dir) -> Vec<String> {
    let all = view.flat().into_iter();
    all.filter_map(|(path, item)| item.file().is_some().then_some(path))
        .collect()
}

/// Does something; says what.
pub async fn act(pod: &mut Pod, doing: &mut Doing<'_>) -> Result<String, ViewError> {
    let view = pod.model.view.clone();
    let dirs = dirs(&view);
    let dir = doing.pick(&dirs).expect("the root").clone();
    let path = join(&dir, &doing.name_in(&view, &dir));
    let there = view.get(&path).cloned();
    if doing.crowded && doing.rng.chance(3) {
        return crowd(pod, doing, &dir).await;
    }
    if doing.rng.chance(6) {
        return list(pod, &view, &dir).await;
    }
    match (doing.rng.below(100), there) {
        (0..45, None) => create(pod, doing, &path).await,
        (0..20, Some(Node::File(_))) => overwrite(pod, doing, &path).await,
        (20..35, Some(Node::File(_))) => save(pod, doing, &path).await,
        (45..58, None) => {
            let mode = doing.mode() | 0o100;
            pod.process().mkdir(&path, mode).await?;
            let made = Dir {
                attrs: attrs(mode),
                ..Dir::default()
            };
            pod.model.put_new(&path, Node::Dir(made));
            Ok(format!("mkdir {path}"))
        }
        (35..55, Some(node)) => remove(pod, &path, &node).await,
        (55..65, Some(_)) => {
            let mode = doing.mode() | 0o100;
            pod.process().chmod(&path, mode).await?;
            pod.model.chmod(&path, mode);
            Ok(format!("chmod {path} {mode:o}"))
        }
        (65..85, Some(node)) => {
            let to_dir = doing.pick(&dirs).expect("the root").clone();
            let to = join(&to_dir, doing.pick(&NAMES).expect("a name"));
            rename(pod, &path, &node, &to).await
        }
        (85.., _) => with_handles(pod, doing).await,
        _ => Ok("nothing".to_owned()),
    }
}

fn names_in(view: &Dir, dir: &str) -> BTreeSet<String> {
    let found = if dir.is_empty() {
        Some(view)
    } else {
        view.dir_at(dir)
    };
    found.map_or_else(BTreeSet::new, |dir| dir.names.keys().cloned().collect())
}

/// Many small files.
async fn crowd(pod: &mut Pod, doing: &mut Doing<'_>, dir: &str) -> Result<String, ViewError> {
    let process = pod.process();
    let salt = doing.rng.below(1 << 20);
    for number in 0..CROWD {
        let path = join(dir, &format!("n{number:02}"));
        if pod.model.view.get(&path).is_some() {
            continue;
        }
        let bytes = format!("{salt} {number}").into_bytes();
        let handle = process.create(&path, 0o644).await?;
        process.write(&handle, 0, &bytes).await?;
        drop(process.close(handle).await?);
        let (content, attrs) = (doing.contents.number(&bytes), attrs(0o644));
        pod.model.put_new(&path, Node::File(File { content, attrs }));
    }
    Ok(format!("crowd {dir}"))
}

/// Begins to read a directory, or reads the rest of one, whatever has happened to it meanwhile: it has no name that was not
/// there when it was begun.
async fn list(pod: &mut Pod, view: &Dir, dir: &str) -> Result<String, ViewError> {
    let process = pod.process();
    let Some((listing, known)) = pod.listing.take() else {
        let listing = process.list(dir).await?;
        pod.listing = Some((listing, names_in(view, dir)));
        return Ok(format!("list {dir}"));
    };
    let mut told = BTreeSet::new();
    for name in process.list_rest(listing).await? {
        let dots = name == "." || name == "..";
        assert!(dots || known.contains(&name), "{name} was not in {known:?}");
        assert!(told.insert(name), "twice in a listing");
    }
    Ok(format!("list the rest of {} names", known.len()))
}

async fn create(pod: &mut Pod, doing: &mut Doing<'_>, path: &str) -> Result<String, ViewError> {
    let (bytes, mode) = (doing.bytes(), doing.mode());
    let process = pod.process();
    let handle = process.create(path, mode).await?;
    process.write(&handle, 0, &bytes).await?;
    drop(process.close(handle).await?);
    let content = doing.contents.number(&bytes);
    let attrs = attrs(mode);
    pod.model.put_new(path, Node::File(File { content, attrs }));
    Ok(format!("create {path}, {} bytes", bytes.len()))
}

fn patch(old: &[u8], offset: usize, bytes: &[u8]) -> Vec<u8> {
    let mut new = old.to_vec();
    if new.len() < offset + bytes.len() {
        new.resize(offset + bytes.len(), 0);
    }
    new[offset..offset + bytes.len()].copy_from_slice(bytes);
    new
}

fn content_of(pod: &Pod, path: &str) -> u32 {
    match pod.model.view.get(path) {
        Some(Node::File(file)) => file.content,
        other => panic!("{path} is {other:?}"),
    }
}

/// Everybody who has the file open, or mapped, sees what was written to it.
fn wrote(pod: &mut Pod, path: &str, content: u32) {
    pod.model.write(path, content);
    for held in pod
        .held
        .iter_mut()
        .filter(|held| held.path.as_deref() == Some(path))
    {
        held.content = content;
    }
}

/// In place: cut first, or a part of it.
async fn overwrite(pod: &mut Pod, doing: &mut Doing<'_>, path: &str) -> Result<String, ViewError> {
    let process = pod.process();
    let mut bytes = doing.bytes();
    // A write of nothing does not even make the file a local one.
    bytes.push(1);
    let old = doing.contents.bytes(content_of(pod, path)).to_vec();
    let (flags, offset) = match doing.rng.below(3) {
        0 => (TRUNCATE, 0),
        1 => (WRITE, old.len()),
        _ => (WRITE, doing.rng.below(1 + old.len() as u64) as usize),
    };
    let handle = process.open(path, flags).await?;
    process.write(&handle, offset as u64, &bytes).await?;
    if doing.rng.chance(30) {
        process.fsync(&handle).await?;
    }
    drop(process.close(handle).await?);
    let new = match flags.truncate {
        true => bytes,
        false => patch(&old, offset, &bytes),
    };
    let content = doing.contents.number(&new);
    wrote(pod, path, content);
    Ok(format!("write {path} at {offset}, now {} bytes", new.len()))
}

fn moved(pod: &mut Pod, from: &str, to: Option<&str>) {
    let turn = |path: &str| to.map(|to| format!("{to}{}", &path[from.len()..]));
    for held in &mut pod.held {
        if let Some(path) = held.path.clone().filter(|path| under(path, from)) {
            held.path = turn(&path);
        }
    }
    let mapped = std::mem::take(&mut pod.mapped);
    pod.mapped = mapped
        .into_iter()
        .filter_map(|(path, file)| match under(&path, from) {
            true => Some((turn(&path)?, file)),
            false => Some((path, file)),
        })
        .collect();
}

/// As editors do: a new file takes the place of the old one.
async fn save(pod: &mut Pod, doing: &mut Doing<'_>, path: &str) -> Result<String, ViewError> {
    let temporary = format!("{path}~");
    create(pod, doing, &temporary).await?;
    pod.process().rename(&temporary, path).await?;
    moved(pod, path, None);
    pod.model.rename(&temporary, path);
    Ok(format!("save {path}"))
}

async fn remove(pod: &mut Pod, path: &str, node: &Node) -> Result<String, ViewError> {
    let process = pod.process();
    let mut all = vec![(path.to_owned(), node.is_dir())];
    if let Node::Dir(dir) = node {
        let below = dir.flat().into_iter();
        all.extend(below.map(|(name, item)| (join(path, &name), matches!(item, Item::Dir(_)))));
    }
    for (path, is_dir) in all.into_iter().rev() {
        process.remove(&path, is_dir).await?;
    }
    moved(pod, path, None);
    pod.model.remove(path);
    Ok(format!("remove {path}"))
}

async fn rename(pod: &mut Pod, from: &str, node: &Node, to: &str) -> Result<String, ViewError> {
    let fits = match pod.model.view.get(to) {
        None => true,
        Some(Node::Dir(dir)) => node.is_dir() && dir.names.is_empty(),
        Some(_) => !node.is_dir(),
    };
    let deepest = match node {
        Node::Dir(dir) => dir
            .flat()
            .keys()
            .map(|path| path.matches('/').count() + 1)
            .max()
            .unwrap_or(0),
        _ => 0,
    };
    if !fits || under(to, from) || under(from, to) || to.matches('/').count() + deepest >= DEPTH_MAX {
        return Ok("nothing".to_owned());
    }
    pod.process().rename(from, to).await?;
    moved(pod, to, None);
    moved(pod, from, Some(to));
    pod.model.rename(from, to);
    Ok(format!("rename {from} {to}"))
}

/// Opens a file and keeps it open, writes to an open one, or closes it; what was mapped lives on.
async fn with_handles(pod: &mut Pod, doing: &mut Doing<'_>) -> Result<String, ViewError> {
    let process = pod.process();
    match doing.rng.below(4) {
        0 if doing.may_hold && pod.held.len() < HELD_MAX => {
            let files = files(&pod.model.view);
            let Some(path) = doing.pick(&files).cloned() else {
                return Ok("nothing".to_owned());
            };
            let handle = process.open(&path, WRITE).await?;
            let content = content_of(pod, &path);
            let same = pod.held.iter().find(|held| held.path.as_ref() == Some(&path));
            let file = same.map_or(doing.rng.below(1 << 60) as usize, |held| held.file);
            if handle.direct.is_some() {
                // From now on nobody knows what is written to it.
                pod.model.touch(&path);
            }
            let told = format!("open {path}, by the kernel: {}", handle.direct.is_some());
            pod.held.push(Held {
                handle,
                file,
                path: Some(path),
                content,
            });
            Ok(told)
        }
        0 | 1 if !pod.mapped.is_empty() => {
            let (path, file) = pod.mapped.swap_remove(0);
            drop(file);
            Ok(format!("unmap {path}: {}", pod.live().view().settle_closed()))
        }
        2 if !pod.held.is_empty() => {
            let at = doing.rng.below(pod.held.len() as u64) as usize;
            let held = pod.held.swap_remove(at);
            let left = process.close(held.handle).await?;
            let mapped = left.is_some() && doing.rng.chance(50);
            if mapped && let (Some(path), Some(file)) = (held.path.clone(), left) {
                pod.mapped.push((path, file));
            }
            pod.live().view().settle_closed();
            Ok(format!("close {:?}, mapped: {mapped}", held.path))
        }
        _ if !pod.held.is_empty() => {
            let at = doing.rng.below(pod.held.len() as u64) as usize;
            let old = doing.contents.bytes(pod.held[at].content).to_vec();
            let offset = doing.rng.below(1 + old.len() as u64) as usize;
            let mut bytes = doing.bytes();
            bytes.push(1);
            process.write(&pod.held[at].handle, offset as u64, &bytes).await?;
            let content = doing.contents.number(&patch(&old, offset, &bytes));
            let path = pod.held[at].path.clone();
            match &path {
                Some(path) => wrote(pod, path, content),
                None => {
                    let file = pod.held[at].file;
                    for held in pod.held.iter_mut().filter(|held| held.file == file) {
                        held.content = content;
                    }
                }
            }
            Ok(format!(
                "write to open {path:?} at {offset}, {} bytes",
                bytes.len()
            ))
        }
        _ => Ok("nothing".to_owned()),
    }
}
