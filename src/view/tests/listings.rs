//! Directories that are listed while everything else goes on: a few lines at a time, through changes, commits and reloads.

use std::collections::BTreeSet;

use super::cases::{dir, file, known};
use super::harness::{CALLER, World, errno, run};
use super::model::{Body, Id, ROOT};
use super::programs::Rng;
use super::side::Side;
use crate::model::Kind;
use crate::view::{Clock, Fh, Ino, NodeKind, ROOT_INO};

/// No number of the model.
const GONE: Id = 0;

/// An open directory in both worlds.
#[derive(Debug)]
pub struct Listing {
    pub fh: Fh,
    pub ino: Ino,
    /// `None` once a reload has taken it away.
    id: Option<Id>,
    begun: Option<Begun>,
}

/// A listing from its first line on.
#[derive(Debug)]
struct Begun {
    /// What the directory held at the first read.
    lines: Vec<(Vec<u8>, Kind, Id)>,
    /// Those before this one were given, or left out with reason.
    next: usize,
    cookie: u64,
    /// Names that processes of this mount took away since: these may be left out.
    removed: BTreeSet<Vec<u8>>,
}

impl Side {
    /// Opens a directory, reads some lines, goes back to the start, or closes.
    pub async fn step_listing(&mut self, rng: &mut Rng) {
        match rng.below(10) {
            0..3 if self.listings.len() < 4 => self.begin_listing(rng).await,
            0..8 => self.go_on_listing(rng).await,
            _ if self.listings.is_empty() => {}
            8 => {
                let at = rng.below(self.listings.len());
                self.listings[at].begun = None;
            }
            _ => {
                let listing = self.listings.swap_remove(rng.below(self.listings.len()));
                self.view().releasedir(listing.ino, listing.fh);
            }
        }
    }

    async fn begin_listing(&mut self, rng: &mut Rng) {
        let path = self.path(rng);
        let path = &path[..rng.below(path.len() + 1).max(self.top.len())];
        let (Ok(ino), Ok(id)) = (self.walk(path).await, self.fs.walk(path)) else {
            return;
        };
        if let Ok(open) = errno(self.view().opendir(&CALLER, ino).await) {
            let id = Some(id);
            self.listings.push(Listing {
                fh: open.fh,
                ino,
                id,
                begun: None,
            });
        }
    }

    async fn go_on_listing(&mut self, rng: &mut Rng) {
        if self.listings.is_empty() {
            return;
        }
        let at = rng.below(self.listings.len());
        let mut listing = self.listings.swap_remove(at);
        let mut begun = listing.begun.take().unwrap_or_else(|| Begun {
            lines: listing.id.map_or_else(Vec::new, |id| self.entries_of(id)),
            next: 0,
            cookie: 0,
            removed: BTreeSet::new(),
        });
        self.log(format_args!("list {:?} from {}", listing.id, begun.cookie));
        let view = self.view();
        let bytes = 60 + rng.below(400);
        let mut given: Vec<(u64, Vec<u8>, Kind)> = Vec::new();
        if rng.chance(50) {
            let lines = view
                .readdirplus(listing.ino, listing.fh, begun.cookie, bytes + 130)
                .await;
            for line in lines.unwrap() {
                let dots = matches!(&*line.item.name, b"." | b"..");
                assert_eq!(
                    line.known.is_none(),
                    dots,
                    "{:?} must have an inode",
                    line.item.name
                );
                self.held.extend(line.known.map(|known| known.ino));
                given.push((line.item.cookie, line.item.name.to_vec(), line.item.kind));
            }
        } else {
            let lines = view
                .readdir(listing.ino, listing.fh, begun.cookie, bytes)
                .await
                .unwrap();
            assert!(
                lines.iter().all(|line| line.ino != 0),
                "readers skip lines without a number"
            );
            given.extend(
                lines
                    .into_iter()
                    .map(|line| (line.cookie, line.name.to_vec(), line.kind)),
            );
        }
        begun.take(&given);
        listing.begun = Some(begun);
        self.listings.push(listing);
    }

    fn entries_of(&self, id: Id) -> Vec<(Vec<u8>, Kind, Id)> {
        let lines = self.fs.list(id).into_iter();
        lines
            .map(|(name, kind)| {
                let child = self.fs.lookup(id, &name).unwrap();
                (name, kind, child)
            })
            .collect()
    }

    /// After each step of a process: what it took away may be left out from now on.
    pub fn note_removed(&mut self) {
        for listing in &mut self.listings {
            let (Some(id), Some(begun)) = (listing.id, &mut listing.begun) else {
                continue;
            };
            // What a reload took is never left out: it has no number any more.
            for (name, _, child) in begun.lines.iter().filter(|line| line.2 != GONE) {
                if self.fs.lookup(id, name) != Ok(*child) {
                    begun.removed.insert(name.clone());
                }
            }
        }
    }

    /// The view has moved, and the model with it: open directories are what their path leads to now. Lines that were begun
    /// stay what they are.
    pub async fn listings_moved(&mut self) {
        for listing in &mut self.listings {
            let view = self.view.clone().unwrap();
            let attr = view.getattr(&CALLER, listing.ino, None).await.unwrap();
            listing.id = None;
            if attr.nlink > 0 {
                let path = view.path_of(listing.ino).expect("what has a name has a path");
                let path: Vec<&[u8]> = path.0.iter().map(|name| name.as_bytes()).collect();
                let id = self.fs.walk(&path).expect("the model has it too");
                assert!(matches!(self.fs.at(id).body, Body::Dir(_)));
                listing.id = Some(id);
            }
            if let (Some(begun), Some(_)) = (&mut listing.begun, listing.id) {
                // The model's numbers are new ones.
                for line in &mut begun.lines {
                    line.2 = listing
                        .id
                        .and_then(|id| self.fs.lookup(id, &line.0).ok())
                        .unwrap_or(GONE);
                }
            }
        }
    }
}

impl Begun {
    /// Some more lines; none: that was all.
    fn take(&mut self, given: &[(u64, Vec<u8>, Kind)]) {
        for (cookie, name, kind) in given {
            self.cookie = *cookie;
            if matches!(&name[..], b"." | b"..") {
                continue;
            }
            let left = &self.lines[self.next..];
            let at = left.iter().position(|line| line.0 == *name);
            let at = at.unwrap_or_else(|| {
                panic!(
                    "{} was not there at the first read",
                    String::from_utf8_lossy(name)
                )
            });
            self.left_out(at);
            assert_eq!(left[at].1, *kind, "kind of {}", String::from_utf8_lossy(name));
            self.next += at + 1;
        }
        if given.is_empty() {
            self.left_out(self.lines.len() - self.next);
        }
    }

    fn left_out(&self, lines: usize) {
        for (name, ..) in &self.lines[self.next..self.next + lines] {
            let name_shown = String::from_utf8_lossy(name);
            assert!(
                self.removed.contains(name),
                "{name_shown} is missing in a listing"
            );
        }
    }
}

// ---- single cases ----

#[test]
fn a_listing_is_as_of_its_first_read_and_can_be_taken_up_anywhere() {
    let mut world = World::new(|fs| {
        let d = dir(fs, ROOT, "d");
        for i in 0..3000 {
            file(fs, d, &format!("{i:05}"), Vec::new());
        }
    });
    let view = world.view();
    let d = known(&view, ROOT_INO, "d").ino;
    run(view.mknod(&CALLER, d, b"01000x", NodeKind::Fifo, 0o644)).unwrap();
    let open = run(view.opendir(&CALLER, d)).unwrap();
    // Made between opendir and the first read: it is there.
    run(view.mknod(&CALLER, d, b"00000a", NodeKind::Fifo, 0o644)).unwrap();
    let first = run(view.readdir(d, open.fh, 0, 4096)).unwrap();
    // Its cookies mean nothing in another handle's listing: the kernel's cache is for one of them.
    assert!(open.cached);
    let other = run(view.opendir(&CALLER, d)).unwrap();
    assert!(!other.cached);
    view.releasedir(d, other.fh);
    assert!(!run(view.opendir(&CALLER, d)).unwrap().cached);
    // Changes while it is read.
    for i in 0..3000 {
        if i % 3 == 0 {
            run(view.unlink(&CALLER, d, format!("{i:05}").as_bytes())).unwrap();
        }
    }
    run(view.mknod(&CALLER, d, b"00000new", NodeKind::Fifo, 0o644)).unwrap();
    let mut all = first.clone();
    let mut cookies = vec![0];
    while let Some(last) = all.last() {
        cookies.push(last.cookie);
        let more = run(view.readdir(d, open.fh, last.cookie, 4096)).unwrap();
        if more.is_empty() {
            break;
        }
        all.extend(more);
    }
    assert_eq!(all.len(), 2 + 3002);
    assert!(all[2..].is_sorted_by(|a, b| a.name < b.name));
    assert!(
        all.iter()
            .enumerate()
            .all(|(i, line)| line.cookie == i as u64 + 1)
    );
    // Somewhere in between, backwards.
    for cookie in cookies.iter().rev().skip(1) {
        if *cookie == 0 {
            continue;
        }
        let again = run(view.readdir(d, open.fh, *cookie, 300)).unwrap();
        let at = *cookie as usize;
        assert_eq!(again, all[at..at + again.len()]);
    }
    // From the start it is taken anew.
    let fresh = run(view.readdir(d, open.fh, 0, 200)).unwrap();
    assert_eq!(
        (&*fresh[2].name, &*fresh[3].name),
        (&b"00000a"[..], &b"00000new"[..])
    );
    view.releasedir(d, open.fh);
    world.forget_all();
}

#[test]
fn a_listing_that_was_begun_is_whole_through_a_commit_and_a_reload() {
    for plus in [false, true] {
        let mut world = World::new(|fs| {
            let d = dir(fs, ROOT, "d");
            for i in 0..1500 {
                file(fs, d, &format!("{i:05}-base"), Vec::new());
            }
            let linked = fs.walk(&[b"d", b"01400-base"]).unwrap();
            fs.link(linked, ROOT, b"linked").unwrap();
        });
        let view = world.view();
        let d = known(&view, ROOT_INO, "d").ino;
        world.fs.now = world.clock.now();
        for i in 0..1500 {
            let name = format!("{i:05}-local");
            run(view.mknod(&CALLER, d, name.as_bytes(), NodeKind::Fifo, 0o644)).unwrap();
            let d = world.fs.walk(&[b"d"]).unwrap();
            world.fs.make(d, name.as_bytes(), Body::Fifo, 0o644).unwrap();
        }
        let open = run(view.opendir(&CALLER, d)).unwrap();
        let mut names: Vec<(Vec<u8>, Kind)> = Vec::new();
        let mut cookie = 0;
        let mut ghosts = Vec::new();
        for turn in 0.. {
            let lines = match plus {
                false => run(view.readdir(d, open.fh, cookie, 8000)).unwrap(),
                true => {
                    let lines = run(view.readdirplus(d, open.fh, cookie, 30_000)).unwrap();
                    ghosts.extend(lines.iter().filter_map(|line| line.known));
                    assert!(lines.iter().skip(2).all(|line| line.known.is_some()));
                    lines.into_iter().map(|line| line.item).collect()
                }
            };
            let Some(last) = lines.last() else { break };
            cookie = last.cookie;
            assert!(lines.iter().all(|line| line.ino != 0));
            names.extend(lines.iter().map(|line| (line.name.to_vec(), line.kind)));
            match turn {
                1 => world.freeze(),
                2 => world.publish(),
                // Nothing of all that is in the new record.
                4 => world.reload(|fs| {
                    let d = fs.walk(&[b"d"]).unwrap();
                    for (name, _) in fs.list(d) {
                        fs.unlink(d, &name).unwrap();
                    }
                    fs.unlink(ROOT, b"linked").unwrap();
                    file(fs, d, "new", Vec::new());
                }),
                _ => {}
            }
        }
        let mut expected = vec![(b".".to_vec(), Kind::Dir), (b"..".to_vec(), Kind::Dir)];
        for i in 0..1500 {
            expected.push((format!("{i:05}-base").into_bytes(), Kind::File));
            expected.push((format!("{i:05}-local").into_bytes(), Kind::Fifo));
        }
        assert_eq!(names, expected);
        let fresh = run(view.readdir(d, open.fh, 0, 8000)).unwrap();
        assert_eq!(fresh.len(), 3);
        assert_eq!(&*fresh[2].name, b"new");
        view.releasedir(d, open.fh);
        // What has no name any more is asked about again at once.
        assert_eq!(
            plus,
            ghosts.iter().any(|known| !known.settled && known.attr.nlink == 0)
        );
    }
}
