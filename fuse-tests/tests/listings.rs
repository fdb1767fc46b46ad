//! What the kernel keeps of names, listings, attributes and bytes, across reloads: on a real mount, with readers that are in
//! the middle of something. Each test runs with what the kernel has and without epochs (as Linux before 6.16), and with
//! and without passthrough.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::Read;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use fuse_tests::campaign::random::Random;
use fuse_tests::pod::{Pod, http_get, metric};

/// How a pod is run: options of `mount`, and whether the kernel's epochs are used.
#[derive(Clone, Copy, Debug)]
struct Way {
    options: &'static [&'static str],
    epochs: bool,
}

const WAYS: [Way; 4] = [
    Way {
        options: &[],
        epochs: true,
    },
    Way {
        options: &[],
        epochs: false,
    },
    Way {
        options: &["--passthrough=off"],
        epochs: true,
    },
    Way {
        options: &["--passthrough=off"],
        epochs: false,
    },
];

struct Volume {
    _store: tempfile::TempDir,
    pod: Pod,
}

fn mounted(way: Way) -> Volume {
    let store = tempfile::tempdir().unwrap();
    let mut pod = Pod::new(&format!("file://{}", store.path().display()));
    if !way.epochs {
        pod = pod.env("SAILVOL_KERNEL_EPOCHS", "off");
    }
    let mut options = vec!["--create"];
    options.extend(way.options);
    pod.mount("data", &options);
    Volume { _store: store, pod }
}

/// A directory that is read by getdents64 with a buffer of our size.
struct Lister {
    file: File,
}

impl Lister {
    fn open(path: &Path) -> Lister {
        Lister {
            file: File::open(path).unwrap(),
        }
    }

    /// Names of one call, `.` and `..` left out; `None` at the end. Lines without a number are skipped, as readers do.
    fn some(&self, bytes: usize) -> Option<Vec<String>> {
        let mut buffer = vec![0u8; bytes];
        // SAFETY: the buffer is that long.
        let got = unsafe {
            libc::syscall(
                libc::SYS_getdents64,
                self.file.as_raw_fd(),
                buffer.as_mut_ptr(),
                bytes,
            )
        };
        let got = usize::try_from(got).unwrap_or_else(|_| panic!("{}", std::io::Error::last_os_error()));
        let mut names = Vec::new();
        let mut at = 0;
        while at < got {
            let number = u64::from_ne_bytes(buffer[at..at + 8].try_into().unwrap());
            let length = usize::from(u16::from_ne_bytes(buffer[at + 16..at + 18].try_into().unwrap()));
            let name = &buffer[at + 19..at + length];
            let name = &name[..name.iter().position(|byte| *byte == 0).unwrap()];
            at += length;
            if number != 0 && name != b"." && name != b".." {
                names.push(String::from_utf8(name.to_vec()).unwrap());
            }
        }
        (got > 0).then_some(names)
    }

    fn rewind(&self) {
        // SAFETY: no memory is involved.
        assert_eq!(
            unsafe { libc::lseek(self.file.as_raw_fd(), 0, libc::SEEK_SET) },
            0
        );
    }
}

fn names_in(dir: &Path) -> Vec<String> {
    let mut names: Vec<String> = fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

// ---- one process, many open directories, at random ----

/// What a directory holds: names, and the bytes of the files.
type Names = BTreeMap<String, String>;

/// A listing that was begun.
struct Begun {
    at_first_read: BTreeSet<String>,
    got: Vec<String>,
    /// Taken away by us since: these may be missing.
    removed: BTreeSet<String>,
}

struct Model {
    dir: PathBuf,
    versions: Vec<(u64, Names)>,
    now: Names,
    open: Vec<(Lister, Option<Begun>)>,
    /// Files that are held open, with what they held then.
    held: Vec<(File, String)>,
    log: Vec<String>,
    made: u64,
}

/// Some directories are small, some need many calls.
fn version(random: &mut Random, number: u64) -> Names {
    let own = *random.pick(&[0, 3, 40, 700, 2500]).unwrap();
    let mut names = Names::new();
    for at in 0..own {
        names.insert(format!("own-{number}-{at:04}"), format!("{number}"));
    }
    for at in 0..12 {
        if random.chance(80) {
            names.insert(format!("common-{at}"), format!("common {number} {}", at % 3));
        }
    }
    for at in 0..5 {
        names.insert(format!("same-{at}"), format!("same {at}"));
    }
    names
}

impl Model {
    fn publish(&mut self, pod: &Pod, names: Names) {
        for name in names_in(&self.dir) {
            if names.get(&name) != self.now.get(&name) {
                fs::remove_file(self.dir.join(&name)).unwrap();
            }
        }
        for (name, bytes) in &names {
            if self.now.get(name) != Some(bytes) {
                fs::write(self.dir.join(name), bytes).unwrap();
            }
        }
        let seq = pod.commit("a version")["seq"].as_u64().unwrap();
        self.now = names.clone();
        self.versions.push((seq, names));
    }

    fn step(&mut self, pod: &Pod, random: &mut Random) {
        match random.range(0..100) {
            0..14 if self.open.len() < 6 => self.open.push((Lister::open(&self.dir), None)),
            0..48 => self.read_on(random),
            48..56 => self.rewind(random),
            56..62 => self.close(random),
            62..70 => self.make(random),
            70..78 => self.remove(random),
            78..84 => self.look_at(random),
            84..90 => self.hold(random),
            90..94 => self.check(),
            _ => self.reload(pod, random),
        }
    }

    fn read_on(&mut self, random: &mut Random) {
        if self.open.is_empty() {
            return;
        }
        let at = usize::try_from(random.range(0..self.open.len() as u64)).unwrap();
        let (lister, begun) = &mut self.open[at];
        let begun = begun.get_or_insert_with(|| Begun {
            at_first_read: self.now.keys().cloned().collect(),
            got: Vec::new(),
            removed: BTreeSet::new(),
        });
        let bytes = *random.pick(&[300, 1000, 5000, 40_000, 1 << 20]).unwrap();
        self.log.push(format!("read {bytes} of {at}"));
        match lister.some(bytes) {
            Some(names) => begun.got.extend(names),
            None => {
                let got: BTreeSet<String> = begun.got.iter().cloned().collect();
                assert_eq!(got.len(), begun.got.len(), "a name came twice");
                let strange: Vec<&String> = got.difference(&begun.at_first_read).collect();
                assert!(strange.is_empty(), "not there at the first read: {strange:?}");
                let missing = begun.at_first_read.difference(&got);
                let missing: Vec<&String> = missing.filter(|name| !begun.removed.contains(*name)).collect();
                assert!(
                    missing.is_empty(),
                    "{} missing: {:?}",
                    missing.len(),
                    missing.first()
                );
                self.open[at].1 = None;
                self.open[at].0.rewind();
            }
        }
    }

    fn rewind(&mut self, random: &mut Random) {
        let len = self.open.len() as u64;
        if len > 0 {
            let (lister, begun) = &mut self.open[usize::try_from(random.range(0..len)).unwrap()];
            lister.rewind();
            *begun = None;
        }
    }

    fn close(&mut self, random: &mut Random) {
        let len = self.open.len() as u64;
        if len > 0 {
            self.open
                .swap_remove(usize::try_from(random.range(0..len)).unwrap());
        }
    }

    fn make(&mut self, random: &mut Random) {
        self.made += 1;
        let names = self.some_names(random);
        let name = match random.pick(&names) {
            // In place of another, by writing to it or by a rename.
            Some(name) if random.chance(40) && !name.starts_with("same") => name.clone(),
            _ => format!("made-{}", self.made),
        };
        let bytes = format!("made {}", self.made);
        self.log.push(format!("make {name}"));
        if random.chance(50) {
            fs::write(self.dir.join(&name), &bytes).unwrap();
        } else {
            fs::write(self.dir.join("temporary"), &bytes).unwrap();
            fs::rename(self.dir.join("temporary"), self.dir.join(&name)).unwrap();
            // A listing that was begun since may have met either.
            self.gone(&name.clone());
        }
        self.now.insert(name, bytes);
    }

    fn remove(&mut self, random: &mut Random) {
        let names = self.some_names(random);
        if let Some(name) = random.pick(&names).cloned() {
            self.log.push(format!("remove {name}"));
            fs::remove_file(self.dir.join(&name)).unwrap();
            self.now.remove(&name);
            self.gone(&name);
        }
    }

    fn gone(&mut self, name: &str) {
        for begun in self.open.iter_mut().filter_map(|(_, begun)| begun.as_mut()) {
            begun.removed.insert(name.to_owned());
        }
    }

    fn some_names(&self, random: &mut Random) -> Vec<String> {
        let skip = random.range(0..self.now.len() as u64 + 1);
        let names = self.now.keys().skip(usize::try_from(skip).unwrap());
        names.take(8).cloned().collect()
    }

    /// Names of all versions, each there or not as it should be, with its bytes and size.
    fn look_at(&self, random: &mut Random) {
        for (_, names) in &self.versions {
            let skip = usize::try_from(random.range(0..names.len() as u64 + 1)).unwrap();
            for name in names.keys().skip(skip).take(4) {
                let path = self.dir.join(name);
                match self.now.get(name) {
                    Some(bytes) => {
                        assert_eq!(fs::metadata(&path).unwrap().len(), bytes.len() as u64, "{name}");
                        assert_eq!(fs::read_to_string(&path).unwrap(), *bytes, "{name}");
                    }
                    None => {
                        let error = fs::metadata(&path).expect_err("it is not in this record");
                        assert_eq!(error.raw_os_error(), Some(libc::ENOENT), "{name}");
                    }
                }
            }
        }
    }

    /// Open files keep what they were opened with.
    fn hold(&mut self, random: &mut Random) {
        for (file, bytes) in &mut self.held {
            let mut read = String::new();
            std::io::Seek::rewind(file).unwrap();
            file.read_to_string(&mut read).unwrap();
            assert_eq!(read, *bytes);
        }
        if self.held.len() > 5 {
            self.held.remove(0);
        }
        // What is written in place is seen by who has it open: only files that this process never writes.
        let names: Vec<String> = self.some_names(random);
        if let Some(name) = names.iter().find(|name| name.starts_with("same")) {
            self.held
                .push((File::open(self.dir.join(name)).unwrap(), self.now[name].clone()));
        }
    }

    fn check(&self) {
        let names: Vec<String> = self.now.keys().cloned().collect();
        assert_eq!(names_in(&self.dir), names, "a fresh listing");
    }

    fn reload(&mut self, pod: &Pod, random: &mut Random) {
        let (seq, names) = random.pick(&self.versions).unwrap().clone();
        self.log.push(format!("reload {seq}"));
        pod.reload(&["--to", &seq.to_string()]);
        self.now = names;
        // By somebody who opens it now, mostly.
        if random.chance(70) {
            self.check();
        }
    }
}

fn at_random(way: Way, seed: u64, steps: u64) {
    let volume = mounted(way);
    let mut random = Random::new(seed);
    let mut model = Model {
        dir: volume.pod.path("d"),
        versions: Vec::new(),
        now: Names::new(),
        open: Vec::new(),
        held: Vec::new(),
        log: Vec::new(),
        made: 0,
    };
    fs::create_dir(&model.dir).unwrap();
    for number in 0..4 {
        let names = version(&mut random, number);
        model.publish(&volume.pod, names);
    }
    for _ in 0..steps {
        let step = std::panic::AssertUnwindSafe(|| model.step(&volume.pod, &mut random));
        if let Err(panic) = std::panic::catch_unwind(step) {
            let last: Vec<&String> = model.log.iter().rev().take(30).rev().collect();
            eprintln!("seed {seed}, {way:?}; the last of what was done: {last:#?}");
            std::panic::resume_unwind(panic);
        }
    }
    model.check();
}

#[test]
fn listings_are_whole_and_of_their_first_read_whatever_happens_meanwhile() {
    let number = |name: &str, otherwise: u64| {
        let said = std::env::var(name).ok();
        said.map_or(otherwise, |text| text.parse().unwrap())
    };
    let first = number("SAILVOL_LISTING_SEED", 1);
    for seed in first..first + number("SAILVOL_LISTING_SEEDS", 4) {
        let way = WAYS[usize::try_from(seed).unwrap() % WAYS.len()];
        at_random(way, seed, number("SAILVOL_LISTING_STEPS", 150));
    }
}

// ---- a few cases by name ----

#[test]
fn lines_of_before_a_reload_never_get_into_the_listing_of_others() {
    for way in WAYS {
        let volume = mounted(way);
        let pod = &volume.pod;
        let dir = pod.path("d");
        fs::create_dir(&dir).unwrap();
        let mut seqs = Vec::new();
        for letter in ["A", "B"] {
            for name in names_in(&dir) {
                fs::remove_file(dir.join(name)).unwrap();
            }
            for at in 0..400 {
                fs::write(dir.join(format!("{letter}{at:03}")), letter).unwrap();
            }
            seqs.push(pod.commit(letter)["seq"].as_u64().unwrap());
        }
        let all = |letter: &str| -> Vec<String> { (0..400).map(|at| format!("{letter}{at:03}")).collect() };
        // The part of the listing that is read before the move, in calls of 1,000 bytes.
        for before in [0, 1, 5] {
            pod.reload(&["--to", &seqs[0].to_string()]);
            let old = Lister::open(&dir);
            let mut got: Vec<String> = (0..before).flat_map(|_| old.some(1000).unwrap()).collect();
            pod.reload(&["--to", &seqs[1].to_string()]);
            let new = Lister::open(&dir);
            got.extend(std::iter::from_fn(|| old.some(1000)).flatten());
            assert_eq!(got, all(if before == 0 { "B" } else { "A" }), "{way:?} {before}");
            old.rewind();
            let again: Vec<String> = std::iter::from_fn(|| old.some(1000)).flatten().collect();
            assert_eq!(again, all("B"), "{way:?} {before}: rewound");
            drop(old);
            let got: Vec<String> = std::iter::from_fn(|| new.some(4000)).flatten().collect();
            assert_eq!(got, all("B"), "{way:?} {before}: opened after");
            drop(new);
            for _ in 0..3 {
                assert_eq!(names_in(&dir), all("B"), "{way:?} {before}: everybody else");
            }
        }
    }
}

#[test]
fn a_warm_listing_is_the_kernels() {
    let way = Way {
        options: &["--metrics", "127.0.0.1:0"],
        epochs: true,
    };
    let volume = mounted(way);
    let dir = volume.pod.path("d");
    let address = volume.pod.status()["metrics"].as_str().unwrap().to_owned();
    fs::create_dir(&dir).unwrap();
    for at in 0..300 {
        fs::write(dir.join(format!("{at}")), "").unwrap();
    }
    let asked = || {
        let text = http_get(&address, "/metrics");
        metric(&text, "sailvol_fuse_requests_total", "operation=\"readdir\"")
    };
    names_in(&dir);
    names_in(&dir);
    let before = asked();
    for _ in 0..20 {
        assert_eq!(names_in(&dir).len(), 300);
    }
    assert_eq!(asked(), before, "the kernel had it already");
    // Names made between opendir and rewinddir are there behind it.
    let lister = Lister::open(&dir);
    lister.some(400).unwrap();
    fs::write(dir.join("new"), "").unwrap();
    lister.rewind();
    assert!(
        std::iter::from_fn(|| lister.some(4000))
            .flatten()
            .any(|name| name == "new")
    );
}

// ---- many processes ----

/// Readers list, look at names and read bytes while the mount is moved to and fro; each listing is of one record and whole,
/// and what is looked at after a reload was acknowledged is of no older one.
fn readers_and_reloads(way: Way, entries: u64, reloads: u64) {
    let volume = mounted(way);
    let pod = &volume.pod;
    let dir = pod.path("d");
    fs::create_dir(&dir).unwrap();
    let mut seqs = Vec::new();
    for number in 0..2u64 {
        for name in names_in(&dir).iter().filter(|name| name.starts_with("own")) {
            fs::remove_file(dir.join(name)).unwrap();
        }
        for at in 0..entries {
            fs::write(dir.join(format!("own.{number}.{at:05}")), format!("{number}")).unwrap();
        }
        for at in 0..10 {
            fs::write(dir.join(format!("common{at}")), format!("version {number}")).unwrap();
        }
        std::os::unix::fs::symlink(format!("target {number}"), dir.join("link.new")).unwrap();
        fs::rename(dir.join("link.new"), dir.join("link")).unwrap();
        seqs.push(pod.commit("a version")["seq"].as_u64().unwrap());
    }
    let (end, listings) = (AtomicBool::new(false), AtomicU64::new(0));
    let number_of = |name: &str| -> Option<u64> { name.split('.').nth(1)?.parse().ok() };
    std::thread::scope(|scope| {
        for reader in 0..3 {
            let (dir, end, listings) = (&dir, &end, &listings);
            scope.spawn(move || {
                let mut random = Random::new(reader);
                while !end.load(Ordering::Relaxed) {
                    let lister = Lister::open(dir);
                    let bytes = *random.pick(&[2000, 40_000]).unwrap();
                    let mut names: Vec<String> = Vec::new();
                    while let Some(some) = lister.some(bytes) {
                        // What is looked up by a listing's lines comes of the kernel's names.
                        if let Some(name) = some.first().filter(|_| random.chance(20)) {
                            drop(fs::metadata(dir.join(name)));
                        }
                        names.extend(some);
                    }
                    let versions: BTreeSet<Option<u64>> = names
                        .iter()
                        .filter(|name| name.starts_with("own"))
                        .map(|name| number_of(name))
                        .collect();
                    let different: BTreeSet<&String> = names.iter().collect();
                    let whole = usize::try_from(entries).unwrap() + 11;
                    assert_eq!(
                        (names.len(), different.len(), versions.len()),
                        (whole, whole, 1),
                        "{versions:?}"
                    );
                    listings.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        let mut random = Random::new(99);
        let moved = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            for turn in 0..reloads {
                let number = turn % 2;
                pod.reload(&["--to", &seqs[usize::try_from(number).unwrap()].to_string()]);
                // From here on everything is of this record, for as long as nobody moves it.
                for _ in 0..20 {
                    let at = random.range(0..entries);
                    let there = fs::read_to_string(dir.join(format!("own.{number}.{at:05}"))).unwrap();
                    assert_eq!(there, format!("{number}"));
                    let other = dir.join(format!("own.{}.{at:05}", 1 - number));
                    assert!(
                        fs::metadata(&other).is_err(),
                        "{turn}: a name of the former record"
                    );
                    let common = dir.join(format!("common{}", at % 10));
                    assert_eq!(
                        fs::read_to_string(common).unwrap(),
                        format!("version {number}"),
                        "{turn}"
                    );
                    let target = fs::read_link(dir.join("link")).unwrap();
                    assert_eq!(target.to_str().unwrap(), format!("target {number}"), "{turn}");
                }
                let names = names_in(&dir);
                let old = names
                    .iter()
                    .find(|name| number_of(name).is_some_and(|it| it != number));
                assert_eq!((names.len() as u64, old), (entries + 11, None), "{turn}");
            }
        }));
        end.store(true, Ordering::Relaxed);
        if let Err(panic) = moved {
            std::panic::resume_unwind(panic);
        }
    });
    assert!(listings.into_inner() > 0);
}

#[test]
fn readers_meet_one_record_at_a_time() {
    for way in [WAYS[0], WAYS[3]] {
        readers_and_reloads(way, 800, 10);
    }
}

/// A stash is restored beside local changes in a directory that somebody has open, and all is committed before anybody asks
/// for the directory again: it is still that directory.
#[test]
fn an_open_directory_is_the_same_after_a_restored_stash_and_a_commit() {
    for way in WAYS {
        let volume = mounted(way);
        let pod = &volume.pod;
        fs::create_dir(pod.path("open")).unwrap();
        fs::create_dir(pod.path("other")).unwrap();
        fs::write(pod.path("open/first"), "first").unwrap();
        pod.commit("first");
        let open = File::open(pod.path("open")).unwrap();
        fs::write(pod.path("other/stashed"), "stashed").unwrap();
        let stash = pod.reload(&[])["stash"]["id"].to_string();
        fs::write(pod.path("open/local"), "local").unwrap();
        let dir = pod.mount_dir();
        pod.json([
            "stash".as_ref(),
            "restore".as_ref(),
            stash.as_ref(),
            dir.as_os_str(),
        ]);
        pod.commit("both");
        let names = |path: &Path| -> BTreeSet<_> {
            let lines = fs::read_dir(path).unwrap();
            lines.map(|line| line.unwrap().file_name()).collect()
        };
        let wanted = names(&pod.path("open"));
        assert_eq!(wanted.len(), 2, "{way:?}");
        let held = PathBuf::from(format!("/proc/self/fd/{}/.", open.as_raw_fd()));
        assert_eq!(names(&held), wanted, "{way:?}");
    }
}
