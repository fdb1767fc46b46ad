//! Threads that write, cut, time, move and look at files, some of them shared, while commits go on: every answer is one that
//! some order of the calls allows.
//!
//! A file's time of last write, its length and each of its words are registers. A call is noted with the moments before and
//! after it. What a look tells must have been set by a call that began before the look ended, and that no other call, wholly
//! between it and the look, has replaced. Of files that one thread alone has, that leaves one answer.
//!
//! `SAILVOL_SEED` and `SAILVOL_STEPS` (of each thread, 300 unless told) choose another run; the seed does not choose how the threads meet.

use std::fs::{self, File};
use std::io::ErrorKind;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use fuse_tests::control::Control;
use fuse_tests::pod::Pod;
use rustix::fs::{AtFlags, CWD, Timespec, Timestamps, futimens, utimensat};
use rustix::time::{ClockId, clock_gettime};

const WAYS: [&[&str]; 2] = [&[], &["--passthrough", "off"]];
const THREADS: usize = 4;
const SHARED: usize = 2;
/// Files that each thread has for itself.
const OWN: usize = 3;
/// Words of eight bytes at the beginning of each file. No file is cut below them.
const WORDS: usize = 4;
const SIZES: [u64; 4] = [32, 100, 5000, 300_000];

/// Nanoseconds since 1970.
type Time = i128;

fn clock(clock: ClockId) -> Time {
    let now = clock_gettime(clock);
    Time::from(now.tv_sec) * 1_000_000_000 + Time::from(now.tv_nsec)
}

/// A call, by what it did to a register or told of it.
#[derive(Clone, Copy, Debug)]
enum Did {
    Wrote {
        word: usize,
        value: u64,
    },
    Cut {
        size: u64,
    },
    /// The time of last write, as it was given, or between which moments it was.
    Timed {
        from: Time,
        to: Time,
    },
    SawTime(Time),
    SawSize(u64),
    Read {
        word: usize,
        value: u64,
    },
}

#[derive(Clone, Copy, Debug)]
struct Call {
    file: usize,
    start: Instant,
    end: Instant,
    did: Did,
}

impl Call {
    /// Which register it sets.
    fn sets(&self) -> Option<usize> {
        match self.did {
            Did::Timed { .. } => Some(0),
            Did::Cut { .. } => Some(1),
            Did::Wrote { word, .. } => Some(2 + word),
            Did::SawTime(_) | Did::SawSize(_) | Did::Read { .. } => None,
        }
    }

    /// Which register it tells of.
    fn tells(&self) -> Option<usize> {
        match self.did {
            Did::SawTime(_) => Some(0),
            Did::SawSize(_) => Some(1),
            Did::Read { word, .. } => Some(2 + word),
            Did::Timed { .. } | Did::Cut { .. } | Did::Wrote { .. } => None,
        }
    }

    fn explains(&self, seen: Did) -> bool {
        match (self.did, seen) {
            (Did::Timed { from, to }, Did::SawTime(time)) => (from..=to).contains(&time),
            (Did::Cut { size }, Did::SawSize(seen)) => size == seen,
            (Did::Wrote { value, .. }, Did::Read { value: seen, .. }) => value == seen,
            _ => false,
        }
    }
}

/// Panics unless every answer about every file can be explained.
fn check(calls: &[Call], when: &str) {
    for look in calls.iter().filter(|call| call.tells().is_some()) {
        let sets: Vec<&Call> = calls
            .iter()
            .filter(|call| call.file == look.file && call.sets() == look.tells())
            .collect();
        let before = sets.iter().filter(|set| set.end < look.start);
        // Whatever ended before this one began has been replaced by it.
        let last = before.map(|set| set.start).max();
        let counts = |set: &&&Call| set.start < look.end && last.is_none_or(|last| set.end >= last);
        let possible: Vec<&&Call> = sets.iter().filter(counts).collect();
        assert!(
            possible.iter().any(|set| set.explains(look.did)),
            "{when}: file {}: {:?}, and it could be what one of these set: {:?}",
            look.file,
            look.did,
            possible.iter().map(|set| set.did).collect::<Vec<_>>()
        );
    }
}

struct Rng(u64);

impl Rng {
    fn below(&mut self, n: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % n as u64) as usize
    }
}

/// A thread of a program.
struct Worker<'a> {
    pod: &'a Pod,
    thread: usize,
    rng: Rng,
    count: u64,
    calls: Vec<Call>,
    /// Number of each of its own files; another one has another number.
    own: [usize; OWN],
}

/// What a call does to a file that has one of two names at any moment.
fn by_name<T>(names: &[PathBuf; 2], call: impl Fn(&PathBuf) -> std::io::Result<T>) -> T {
    loop {
        for name in names {
            match call(name) {
                Err(error) if error.kind() == ErrorKind::NotFound => {}
                other => return other.unwrap(),
            }
        }
    }
}

impl Worker<'_> {
    fn new(pod: &Pod, thread: usize, seed: u64) -> Worker<'_> {
        let mut worker = Worker {
            pod,
            thread,
            rng: Rng((seed << 8 | thread as u64 | 1 << 40).wrapping_mul(0x9e37_79b9_7f4a_7c15)),
            count: 0,
            calls: Vec::new(),
            own: [0; OWN],
        };
        for place in 0..OWN {
            worker.make_own(place);
        }
        worker
    }

    fn names(&self, place: usize) -> [PathBuf; 2] {
        let name = match place {
            0..OWN => format!("own-{}-{place}", self.thread),
            _ => format!("shared-{}", place - OWN),
        };
        [self.pod.path(&name), self.pod.path(format!("{name}.moved"))]
    }

    fn file(&self, place: usize) -> usize {
        match place {
            0..OWN => self.own[place],
            _ => place - OWN,
        }
    }

    /// A value that nobody else has.
    fn new_value(&mut self) -> u64 {
        self.count += 1;
        (self.thread as u64 + 1) << 32 | self.count
    }

    fn note(&mut self, file: usize, start: Instant, dids: &[Did]) {
        let end = Instant::now();
        let noted = dids.iter().map(|did| Call {
            file,
            start,
            end,
            did: *did,
        });
        self.calls.extend(noted);
    }

    /// A new file takes the place, by a rename over the one that was there.
    fn make_own(&mut self, place: usize) {
        self.count += 1;
        let file = SHARED + self.thread + THREADS * self.count as usize;
        let names = self.names(place);
        let path = self.pod.path(format!("new-{}", self.thread));
        make(&path, file, &mut self.calls);
        let to = if names[1].exists() { &names[1] } else { &names[0] };
        fs::rename(&path, to).unwrap();
        self.own[place] = file;
    }

    fn step(&mut self) {
        let place = self.rng.below(OWN + SHARED);
        match self.rng.below(16) {
            0..4 => self.write(place),
            4..6 => self.cut(place),
            // As unpacking and copying programs do.
            6..9 => {
                self.write(place);
                self.time(place);
            }
            9 => self.time(place),
            10 => self.rename(place),
            11 if place < OWN => self.make_own(place),
            12 => self.read(place),
            _ => self.look(place),
        }
    }

    fn write(&mut self, place: usize) {
        let (names, word, value) = (self.names(place), self.rng.below(WORDS), self.new_value());
        let (start, from) = (Instant::now(), clock(ClockId::RealtimeCoarse));
        let file = by_name(&names, |name| File::options().read(true).write(true).open(name));
        file.write_all_at(&value.to_le_bytes(), word as u64 * 8).unwrap();
        drop(file);
        let to = clock(ClockId::Realtime);
        let dids = [Did::Wrote { word, value }, Did::Timed { from, to }];
        self.note(self.file(place), start, &dids);
    }

    fn cut(&mut self, place: usize) {
        let (names, size) = (self.names(place), SIZES[self.rng.below(SIZES.len())]);
        let by_path = self.rng.below(2) == 0;
        let (start, from) = (Instant::now(), clock(ClockId::RealtimeCoarse));
        by_name(&names, |name| match by_path {
            true => truncate(name, size),
            false => File::options().write(true).open(name)?.set_len(size),
        });
        let to = clock(ClockId::Realtime);
        self.note(
            self.file(place),
            start,
            &[Did::Cut { size }, Did::Timed { from, to }],
        );
    }

    fn time(&mut self, place: usize) {
        let names = self.names(place);
        let value = self.new_value();
        let time = Timespec {
            tv_sec: 1_000_000 + i64::try_from(value & 0xffff_ffff).unwrap(),
            tv_nsec: self.thread as i64,
        };
        let times = Timestamps {
            last_access: time,
            last_modification: time,
        };
        let by_path = self.rng.below(3) > 0;
        let start = Instant::now();
        by_name(&names, |name| match by_path {
            true => Ok(utimensat(CWD, name, &times, AtFlags::empty())?),
            false => Ok(futimens(File::open(name)?, &times)?),
        });
        let given = Time::from(time.tv_sec) * 1_000_000_000 + Time::from(time.tv_nsec);
        self.note(
            self.file(place),
            start,
            &[Did::Timed {
                from: given,
                to: given,
            }],
        );
    }

    fn rename(&mut self, place: usize) {
        let names = self.names(place);
        // Whoever else moves it meanwhile has moved it.
        if fs::rename(&names[0], &names[1]).is_err() {
            drop(fs::rename(&names[1], &names[0]));
        }
    }

    fn read(&mut self, place: usize) {
        let (names, word) = (self.names(place), self.rng.below(WORDS));
        let start = Instant::now();
        let file = by_name(&names, |name| File::open(name));
        let mut found = [0; 8];
        file.read_exact_at(&mut found, word as u64 * 8).unwrap();
        let value = u64::from_le_bytes(found);
        self.note(self.file(place), start, &[Did::Read { word, value }]);
    }

    fn look(&mut self, place: usize) {
        let names = self.names(place);
        let by_path = self.rng.below(2) == 0;
        let start = Instant::now();
        let found = by_name(&names, |name| match by_path {
            true => fs::metadata(name),
            false => File::open(name)?.metadata(),
        });
        self.note(self.file(place), start, &seen(&found));
    }
}

fn truncate(name: &Path, size: u64) -> std::io::Result<()> {
    let name = std::ffi::CString::new(name.as_os_str().as_encoded_bytes())?;
    // SAFETY: a path that ends with its zero byte.
    match unsafe { libc::truncate(name.as_ptr(), size as libc::off_t) } {
        0 => Ok(()),
        _ => Err(std::io::Error::last_os_error()),
    }
}

fn seen(found: &fs::Metadata) -> [Did; 2] {
    let time = Time::from(found.mtime()) * 1_000_000_000 + Time::from(found.mtime_nsec());
    [Did::SawTime(time), Did::SawSize(found.size())]
}

/// A file with a length and zeros in its words.
fn make(path: &PathBuf, file: usize, calls: &mut Vec<Call>) {
    let (start, from) = (Instant::now(), clock(ClockId::RealtimeCoarse));
    fs::write(path, [0; WORDS * 8]).unwrap();
    let (end, to) = (Instant::now(), clock(ClockId::Realtime));
    let mut dids = vec![
        Did::Timed { from, to },
        Did::Cut {
            size: WORDS as u64 * 8,
        },
    ];
    dids.extend((0..WORDS).map(|word| Did::Wrote { word, value: 0 }));
    calls.extend(dids.into_iter().map(|did| Call {
        file,
        start,
        end,
        did,
    }));
}

/// A number from the environment.
fn told(name: &str, default: u64) -> u64 {
    let text = std::env::var(name).ok();
    text.map_or(default, |text| text.parse().expect("a number"))
}

#[test]
fn every_answer_is_one_that_some_order_of_the_calls_allows() {
    for way in WAYS {
        let store = tempfile::tempdir().unwrap();
        let store = format!("file://{}/store", store.path().display());
        let pod = Pod::new(&store);
        pod.mount("data", &[&["--create"], way].concat());
        let mut calls = Vec::new();
        for shared in 0..SHARED {
            make(&pod.path(format!("shared-{shared}")), shared, &mut calls);
        }
        let (seed, steps) = (told("SAILVOL_SEED", 1), told("SAILVOL_STEPS", 300));
        let done = AtomicBool::new(false);
        let workers: Vec<Worker<'_>> = std::thread::scope(|scope| {
            let work = |thread| {
                let mut worker = Worker::new(&pod, thread, seed);
                (0..steps).for_each(|_| worker.step());
                worker
            };
            let threads: Vec<_> = (0..THREADS)
                .map(|thread| scope.spawn(move || work(thread)))
                .collect();
            let commits = scope.spawn(|| {
                let mut control = Control::connect(&pod);
                while !done.load(Ordering::Relaxed) {
                    control.commit();
                }
            });
            let joined: Vec<_> = threads.into_iter().map(|thread| thread.join()).collect();
            done.store(true, Ordering::Relaxed);
            commits.join().unwrap();
            joined.into_iter().map(|worker| worker.unwrap()).collect()
        });
        let mut workers = workers;
        for worker in &mut workers {
            (0..OWN + SHARED).for_each(|place| worker.look(place));
        }
        Control::connect(&pod).commit();
        let fresh = Pod::new(&store);
        fresh.mount("data", way);
        for worker in &mut workers {
            worker.pod = &fresh;
            (0..OWN + SHARED).for_each(|place| worker.look(place));
            (0..OWN + SHARED).for_each(|place| worker.read(place));
            calls.append(&mut worker.calls);
        }
        check(&calls, &format!("{way:?}, seed {seed}"));
    }
}
