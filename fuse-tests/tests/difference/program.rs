//! Random programs.

use serde::{Deserialize, Serialize};

/// One step of a program. Paths are relative to the program's directory; slots are open files.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Step {
    /// Opens (makes) a file, writes, closes.
    Write {
        path: String,
        at: u64,
        len: usize,
        byte: u8,
        cut: bool,
    },
    Append {
        path: String,
        len: usize,
        byte: u8,
    },
    Read {
        path: String,
    },
    Truncate {
        path: String,
        len: u64,
    },
    Create {
        path: String,
        mode: u32,
    },
    Mkdir {
        path: String,
        mode: u32,
    },
    Rmdir {
        path: String,
    },
    Unlink {
        path: String,
    },
    /// `how`: 0 plain, 1 not replacing, 2 exchanging.
    Rename {
        from: String,
        to: String,
        how: u8,
    },
    Link {
        from: String,
        to: String,
    },
    Symlink {
        path: String,
        target: String,
    },
    Fifo {
        path: String,
    },
    Chmod {
        path: String,
        mode: u32,
    },
    Chown {
        path: String,
        uid: Option<u32>,
        gid: Option<u32>,
    },
    Touch {
        path: String,
        secs: i64,
        nanos: u32,
    },
    SetXattr {
        path: String,
        key: String,
        len: usize,
    },
    RemoveXattr {
        path: String,
        key: String,
    },
    Stat {
        path: String,
    },
    List {
        path: String,
    },
    Punch {
        path: String,
        at: u64,
        len: u64,
    },
    Zero {
        path: String,
        at: u64,
        len: u64,
        grow: bool,
    },
    Allocate {
        path: String,
        at: u64,
        len: u64,
    },
    Copy {
        from: String,
        to: String,
        from_at: u64,
        to_at: u64,
        len: usize,
    },
    /// Stores through a shared mapping.
    Map {
        path: String,
        at: u64,
        len: usize,
        byte: u8,
    },
    Open {
        slot: u8,
        path: String,
        append: bool,
    },
    WriteOpen {
        slot: u8,
        at: u64,
        len: usize,
        byte: u8,
    },
    ReadOpen {
        slot: u8,
    },
    TruncateOpen {
        slot: u8,
        len: u64,
    },
    Sync {
        slot: u8,
    },
    Close {
        slot: u8,
    },
    /// Makes a directory tree of some size, or takes everything below a path away.
    Grow {
        path: String,
        entries: u32,
    },
    Clear {
        path: String,
    },
    Event(Event),
}

/// What happens to the volume. No program may notice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Event {
    Commit,
    /// Another pod publishes something elsewhere, then `reload --keep`.
    ReloadKeep,
    /// A commit, then a plain reload of what another pod published elsewhere.
    CommitReload,
    Remount,
    Kill,
    /// A commit, then a pod without local state looks at everything.
    Fresh,
}

/// splitmix64.
pub struct Rng(u64);

impl Rng {
    pub fn new(seed: u64) -> Rng {
        // From a number that looks random: the state moves by a constant, and seeds that lie apart by it, or by a multiple,
        // would be the same program, a few steps later.
        let start = Rng(seed).next();
        Rng(start)
    }

    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }

    pub fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }

    pub fn of<T: Clone>(&mut self, items: &[T]) -> T {
        items[usize::try_from(self.below(items.len() as u64)).unwrap()].clone()
    }
}

const NAMES: [&str; 7] = ["a", "b", "c", "d", "e.txt", "A", "\u{fc}"];
const RARE_NAMES: [&str; 5] = [" ", "-n", "new\nline", "u\u{308}", "..."];

fn name(rng: &mut Rng) -> String {
    if rng.one_in(60) {
        return "x".repeat(255);
    }
    if rng.one_in(12) {
        return rng.of(&RARE_NAMES).to_owned();
    }
    rng.of(&NAMES).to_owned()
}

fn path(rng: &mut Rng) -> String {
    let depth = rng.of(&[1, 1, 1, 2, 2, 3]);
    let names: Vec<String> = (0..depth).map(|_| name(rng)).collect();
    names.join("/")
}

/// Where the borders are: of pages, of tiny contents, of blobs, frames and chunks.
fn offset(rng: &mut Rng) -> u64 {
    const MIB: u64 = 1 << 20;
    let base = rng.of(&[0, 0, 0, 255, 256, 4096, 65_536, MIB, 4 * MIB, 8 * MIB]);
    match rng.below(4) {
        0 => base,
        1 => base + 1,
        2 => base + rng.below(5000),
        _ => rng.below(300_000),
    }
}

fn length(rng: &mut Rng) -> usize {
    rng.of(&[0, 1, 10, 200, 257, 4096, 5000, 70_000, 300_000])
}

fn byte(rng: &mut Rng) -> u8 {
    if rng.one_in(6) {
        0
    } else {
        (rng.below(255) + 1) as u8
    }
}

/// A program of so many steps.
pub fn program(rng: &mut Rng, steps: usize) -> Vec<Step> {
    (0..steps).map(|_| step(rng)).collect()
}

fn step(rng: &mut Rng) -> Step {
    let path = path(rng);
    let slot = rng.below(6) as u8;
    match rng.below(100) {
        0..=13 => Step::Write {
            path,
            at: offset(rng),
            len: length(rng),
            byte: byte(rng),
            cut: rng.one_in(5),
        },
        14..=18 => Step::Append {
            path,
            len: length(rng),
            byte: byte(rng),
        },
        19..=25 => Step::Read { path },
        26..=29 => Step::Truncate {
            path,
            len: offset(rng),
        },
        30..=31 => Step::Create {
            path,
            mode: rng.of(&[0o600, 0o644, 0o400]),
        },
        32..=38 => Step::Mkdir {
            path,
            mode: rng.of(&[0o755, 0o700, 0o1777, 0o2775]),
        },
        39..=40 => Step::Rmdir { path },
        41..=44 => Step::Unlink { path },
        45..=52 => Step::Rename {
            from: path,
            to: self::path(rng),
            how: rng.of(&[0, 0, 0, 0, 1, 2]),
        },
        53..=55 => Step::Link {
            from: path,
            to: self::path(rng),
        },
        56..=57 => Step::Symlink {
            path,
            target: rng.of(&["a", "b/c", "nowhere", "../d", "."]).to_owned(),
        },
        58 => Step::Fifo { path },
        59..=61 => Step::Chmod {
            path,
            mode: rng.of(&[0, 0o644, 0o755, 0o4755, 0o2755, 0o1777, 0o6711]),
        },
        62..=63 => Step::Chown {
            path,
            uid: rng.of(&[None, Some(0), Some(7)]),
            gid: rng.of(&[None, Some(8)]),
        },
        64..=65 => Step::Touch {
            path,
            secs: rng.of(&[0, -1, 1_700_000_000, 4_102_444_800]),
            nanos: rng.of(&[0, 1, 999_999_999]),
        },
        66..=67 => Step::SetXattr {
            path,
            key: rng.of(&["user.a", "user.b"]).to_owned(),
            len: rng.of(&[0, 5, 300, 1500]),
        },
        68 => Step::RemoveXattr {
            path,
            key: "user.a".into(),
        },
        69..=71 => Step::Stat { path },
        72..=73 => Step::List { path },
        74 => Step::Punch {
            path,
            at: offset(rng),
            len: rng.of(&[1, 4096, 100_000, 9 << 20]),
        },
        75 => Step::Zero {
            path,
            at: offset(rng),
            len: rng.of(&[1, 4096, 100_000]),
            grow: rng.one_in(2),
        },
        76 => Step::Allocate {
            path,
            at: offset(rng),
            len: rng.of(&[1, 4096, 100_000]),
        },
        77..=78 => Step::Copy {
            from: path,
            to: self::path(rng),
            from_at: rng.of(&[0, 0, 4096, 10_000]),
            to_at: rng.of(&[0, 0, 4096, 77]),
            len: rng.of(&[1, 5000, 300_000, 32 << 20]),
        },
        79..=80 => Step::Map {
            path,
            at: offset(rng),
            len: length(rng),
            byte: byte(rng),
        },
        81..=83 => Step::Open {
            slot,
            path,
            append: rng.one_in(4),
        },
        84..=86 => Step::WriteOpen {
            slot,
            at: offset(rng),
            len: length(rng),
            byte: byte(rng),
        },
        87..=88 => Step::ReadOpen { slot },
        89 => Step::TruncateOpen {
            slot,
            len: offset(rng),
        },
        90 => Step::Sync { slot },
        91..=92 => Step::Close { slot },
        93 => Step::Grow {
            path,
            entries: rng.of(&[3, 30, 200]),
        },
        94 => Step::Clear { path },
        95 => Step::Event(Event::Commit),
        96 => Step::Event(Event::ReloadKeep),
        97 => Step::Event(Event::CommitReload),
        98 => Step::Event(rng.of(&[Event::Remount, Event::Remount, Event::Kill])),
        _ => Step::Event(Event::Fresh),
    }
}
