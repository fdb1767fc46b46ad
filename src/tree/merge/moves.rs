//! Moves as hints (MERGE.md): which of them hold in base and head, and both trees with them applied.
//!
//! A hint is a *net* move of a file or directory: its path in the base and its path in mine, outermost only. Applying
//! the used ones to base and head lets the merge go on name by name, as if everybody had worked in the moved places.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, HashMap};

use crate::model::{DirTree, Entry, EntryBody, Name, Totals, TreeRoot, VolPath};
use crate::tree::{NodeSource, TreeError, edit_dir_entry, walk};

/// A net move: path in the base, path in mine.
pub type Hint = (VolPath, VolPath);

/// Base and head with the usable hints applied, and those hints.
#[derive(Debug)]
pub(super) struct Moved {
    pub base: TreeRoot,
    pub head: TreeRoot,
    pub used: Vec<Hint>,
}

/// The hints that a merge of these trees uses, in the order given. The others fall back to the rule of the path.
pub async fn usable_hints(
    src: &dyn NodeSource,
    base: &TreeRoot,
    head: &TreeRoot,
    mine: &TreeRoot,
    hints: &[Hint],
) -> Result<Vec<Hint>, TreeError> {
    Ok(apply_usable(src, base, head, mine, hints).await?.used)
}

/// Finds the usable hints and applies them to base and head: in one step, and again without those whose place is
/// taken, until none is.
pub(super) async fn apply_usable(
    src: &dyn NodeSource,
    base: &TreeRoot,
    head: &TreeRoot,
    mine: &TreeRoot,
    hints: &[Hint],
) -> Result<Moved, TreeError> {
    let mut used = plausible(src, base, head, mine, hints).await?;
    loop {
        let in_base = apply(src, base, mine, &used).await?;
        let in_head = match &in_base {
            Ok(_) => apply(src, head, mine, &used).await?,
            Err(_) => Ok(head.clone()),
        };
        match (in_base, in_head) {
            (Ok(base), Ok(head)) => return Ok(Moved { base, head, used }),
            (Err(taken), _) | (_, Err(taken)) => used.retain(|(_, to)| !taken.contains(to)),
        }
    }
}

/// Hints whose two ends are of one kind everywhere, and that are moves rather than copies.
async fn plausible(
    src: &dyn NodeSource,
    base: &TreeRoot,
    head: &TreeRoot,
    mine: &TreeRoot,
    hints: &[Hint],
) -> Result<Vec<Hint>, TreeError> {
    let targets: BTreeSet<&VolPath> = hints.iter().map(|(_, to)| to).collect();
    let mut seen = BTreeSet::new();
    let mut plausible = Vec::new();
    for (from, to) in hints {
        if from.0.is_empty() || to.0.is_empty() || !seen.insert((from, to)) {
            continue;
        }
        let Some(moved) = walk(src, mine, to).await? else {
            continue;
        };
        let Some(was) = walk(src, base, from).await? else {
            continue;
        };
        let Some(theirs) = walk(src, head, from).await? else {
            continue;
        };
        if was.is_dir() != theirs.is_dir() || was.is_dir() != moved.is_dir() {
            continue;
        }
        // A file that is still there (or there again) was copied: what a backup made by an editor looks like.
        let copied = !was.is_dir() && !targets.contains(from) && walk(src, mine, from).await?.is_some();
        if !copied {
            plausible.push((from.clone(), to.clone()));
        }
    }
    Ok(plausible)
}

/// `tree` with all sources taken out, deepest first, and put in at their targets, shallowest first, in directories
/// that are made as mine has them. Fails with the targets whose place is taken.
async fn apply(
    src: &dyn NodeSource,
    tree: &TreeRoot,
    mine: &TreeRoot,
    hints: &[Hint],
) -> Result<Result<TreeRoot, BTreeSet<VolPath>>, TreeError> {
    if hints.is_empty() {
        return Ok(Ok(tree.clone()));
    }
    let mut tree = tree.clone();
    let mut taken = BTreeSet::new();
    let mut carried: HashMap<&VolPath, Entry> = HashMap::new();
    for hints in by_nesting(hints, |(from, _)| from).into_iter().rev() {
        let mut out = Vec::new();
        for (from, to) in hints {
            match walk(src, &tree, from).await? {
                Some(entry) => drop(carried.insert(to, entry)),
                None => drop(taken.insert(to.clone())),
            }
            out.push((from.clone(), None));
        }
        tree = edit_paths(src, &tree, out).await?;
    }
    for hints in by_nesting(hints, |(_, to)| to) {
        let mut put = Put::default();
        for (_, to) in hints {
            // What lies below a target that cannot be used may fit once that is left out.
            let waits = (1..to.0.len()).any(|depth| taken.contains(&VolPath(to.0[..depth].to_vec())));
            let Some(entry) = carried.remove(to) else { continue };
            if !waits && !put.place(src, &tree, mine, to, entry).await? {
                taken.insert(to.clone());
            }
        }
        let edits = put.made.into_iter().map(|(path, entry)| (path, Some(entry)));
        tree = edit_paths(src, &tree, edits.chain(put.placed).collect()).await?;
    }
    Ok(if taken.is_empty() { Ok(tree) } else { Err(taken) })
}

/// Entries that go into a tree together.
#[derive(Default)]
struct Put {
    /// Directories that only mine has, empty.
    made: BTreeMap<VolPath, Entry>,
    /// Moved entries.
    placed: Vec<(VolPath, Option<Entry>)>,
    /// Directories that were looked at: usable or not.
    parents: HashMap<VolPath, bool>,
}

impl Put {
    /// Says whether the place is free.
    async fn place(
        &mut self,
        src: &dyn NodeSource,
        tree: &TreeRoot,
        mine: &TreeRoot,
        to: &VolPath,
        entry: Entry,
    ) -> Result<bool, TreeError> {
        let Some((parent, _)) = to.split_last() else {
            return Ok(false);
        };
        let usable = match self.parents.get(&parent) {
            Some(usable) => *usable,
            None => {
                let usable = self.open_parent(src, tree, mine, &parent).await?;
                self.parents.insert(parent, usable);
                usable
            }
        };
        let free = usable && walk(src, tree, to).await?.is_none();
        if free {
            self.placed.push((to.clone(), Some(entry)));
        }
        Ok(free)
    }

    /// Makes the directories down to `dir` that are missing. False when a name on the way is no directory.
    async fn open_parent(
        &mut self,
        src: &dyn NodeSource,
        tree: &TreeRoot,
        mine: &TreeRoot,
        dir: &VolPath,
    ) -> Result<bool, TreeError> {
        let mut missing = Vec::new();
        for depth in 1..=dir.0.len() {
            let path = VolPath(dir.0[..depth].to_vec());
            match walk(src, tree, &path).await? {
                Some(entry) if entry.is_dir() => continue,
                Some(_) => return Ok(false),
                None => {}
            }
            match walk(src, mine, &path).await? {
                Some(entry) if entry.is_dir() => missing.push((path, empty_like(entry))),
                _ => return Ok(false),
            }
        }
        self.made.extend(missing);
        Ok(true)
    }
}

fn empty_like(dir: Entry) -> Entry {
    Entry {
        attrs: dir.attrs,
        body: EntryBody::Dir {
            totals: Totals::default(),
            tree: DirTree::empty(),
        },
    }
}

/// Groups of hints by how many of the other hints' paths lie above theirs: 0 first.
fn by_nesting(hints: &[Hint], end: impl Fn(&Hint) -> &VolPath) -> Vec<Vec<&Hint>> {
    let paths: BTreeSet<&VolPath> = hints.iter().map(&end).collect();
    let mut groups: BTreeMap<usize, Vec<&Hint>> = BTreeMap::new();
    for hint in hints {
        let path = end(hint);
        let above = (1..path.0.len()).filter(|depth| paths.contains(&VolPath(path.0[..*depth].to_vec())));
        groups.entry(above.count()).or_default().push(hint);
    }
    groups.into_values().collect()
}

/// Replaces (`Some`) and removes (`None`) entries anywhere in a tree, each directory once. A directory that an edit
/// lies in must exist, or be among the edits.
async fn edit_paths(
    src: &dyn NodeSource,
    root: &TreeRoot,
    edits: Vec<(VolPath, Option<Entry>)>,
) -> Result<TreeRoot, TreeError> {
    // Deepest directories first; each is put back as one more edit of the one above it.
    let mut pending: BTreeMap<(Reverse<usize>, VolPath), BTreeMap<Name, Option<Entry>>> = BTreeMap::new();
    for (path, entry) in edits {
        if let Some((dir, name)) = path.split_last() {
            let at = (Reverse(dir.0.len()), dir);
            pending.entry(at).or_default().insert(name.clone(), entry);
        }
    }
    let mut edited = root.clone();
    while let Some(((_, path), changes)) = pending.pop_first() {
        let changes = changes.into_iter().collect();
        let Some((above, name)) = path.split_last() else {
            (edited.tree, edited.totals) = edit_dir_entry(src, &root.tree, &root.totals, changes).await?;
            continue;
        };
        let above = pending.entry((Reverse(above.0.len()), above)).or_default();
        let dir = match above.get(name) {
            Some(entry) => entry.clone(),
            None => walk(src, root, &path).await?,
        };
        let Some(Entry {
            attrs,
            body: EntryBody::Dir { totals, tree },
        }) = dir
        else {
            continue;
        };
        let (tree, totals) = edit_dir_entry(src, &tree, &totals, changes).await?;
        let body = EntryBody::Dir { totals, tree };
        above.insert(name.clone(), Some(Entry { attrs, body }));
    }
    Ok(edited)
}
