//! What is asked, how far it is, and what was found.

/// Pieces of damage that are described; all are counted.
pub(super) const DAMAGE_MAX: usize = 10_000;
/// Warnings that are told.
pub(super) const WARNINGS_MAX: usize = 100;
/// Paths that are named for one piece of damage.
pub(super) const PATHS_MAX: usize = 20;

/// What is checked.
#[derive(Clone, Copy, Debug, Default)]
pub struct FsckOptions {
    /// Contents by a look at the listing only: there, and long enough.
    pub quick: bool,
    /// The trees of all records that are kept, not of the newest only.
    pub all_records: bool,
}

/// How far it is.
#[derive(Clone, Copy, Debug, Default)]
pub struct FsckProgress {
    /// `records`, `names`, `listing`, `contents`, `paths`.
    pub stage: &'static str,
    /// Things done in this stage, and in all if known.
    pub done: u64,
    /// See `done`.
    pub total: u64,
    /// Bytes read of contents.
    pub bytes: u64,
}

/// Something that is not as it must be.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Damage {
    /// Key of the object, or what else is wrong.
    pub object: String,
    /// What is wrong with it.
    pub rule: String,
    /// Paths that are concerned, the first of them; of a directory, everything below it.
    pub paths: Vec<String>,
    /// Further paths.
    pub more_paths: u64,
}

/// What was found.
#[derive(Clone, Debug, Default)]
pub struct FsckReport {
    /// Records whose place in the chain was checked.
    pub records: u64,
    /// Records whose tree was checked.
    pub trees: u64,
    /// Entries that are no directories; each tree counts, a directory that is stored once for several names once.
    pub files: u64,
    /// Directories.
    pub dirs: u64,
    /// Nodes that were read.
    pub nodes: u64,
    /// Packs that are referred to.
    pub packs: u64,
    /// Different contents in packs.
    pub blobs: u64,
    /// Chunk objects.
    pub chunks: u64,
    /// Bytes of objects that were read whole.
    pub bytes_read: u64,
    /// Chunks and packs that no checked record refers to.
    pub unreferenced: u64,
    /// Their bytes.
    pub unreferenced_bytes: u64,
    /// What does no harm and should not be there; at most [`WARNINGS_MAX`].
    pub warnings: Vec<String>,
    /// What is wrong; at most [`DAMAGE_MAX`] of `damaged`.
    pub damage: Vec<Damage>,
    /// How much is wrong.
    pub damaged: u64,
}

impl FsckReport {
    /// Notes what does no harm, as long as there is room.
    pub(super) fn warn(&mut self, warning: impl FnOnce() -> String) {
        if self.warnings.len() < WARNINGS_MAX {
            self.warnings.push(warning());
        }
    }

    /// Notes damage; gives its place in the list, if there is still room.
    pub(super) fn add(&mut self, object: String, rule: String, path: Option<String>) -> Option<usize> {
        // What is met again is met soon: the same node under another name.
        let is_known = |d: &Damage| d.object == object && d.rule == rule;
        let first = self.damage.len().saturating_sub(64);
        if let Some(path) = &path
            && let Some(at) = self.damage[first..].iter().position(is_known)
        {
            self.damage[first + at].name(path.clone());
            return Some(first + at);
        }
        self.damaged += 1;
        if self.damage.len() >= DAMAGE_MAX {
            return None;
        }
        self.damage.push(Damage {
            object,
            rule,
            paths: path.into_iter().collect(),
            more_paths: 0,
        });
        Some(self.damage.len() - 1)
    }
}

impl Damage {
    pub(super) fn name(&mut self, path: String) {
        if self.paths.contains(&path) {
            return;
        }
        if self.paths.len() < PATHS_MAX {
            self.paths.push(path);
        } else {
            self.more_paths += 1;
        }
    }
}
