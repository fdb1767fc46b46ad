//! What must be true in the end: of every mount, of every record, through empty caches.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use super::Herd;
use super::checks::Found;
use super::content::{Node, Tag};
use super::ledger::{Published, unseen};
use super::listing;
use super::mount::Member;
use super::tree::{Changes, Place, Tree};
use crate::campaign::Tally;
use crate::campaign::random::Random;
use crate::pod::Pod;

/// Of a large directory so many files are read besides those that were changed.
const SAMPLE: usize = 40;
/// Records that are looked at by themselves.
const RECORDS: usize = 4;
/// Names told in a message.
const TOLD: usize = 8;

/// Compares everything below a directory with a tree: all names, and the bytes of what the herd has changed and of some
/// others. Nothing changes meanwhile.
///
/// # Errors
/// How it differs.
pub fn compare_whole(root: &Path, tree: &Tree, random: &mut Random, tally: &mut Tally) -> Result<(), String> {
    for (path, known) in tree.dirs() {
        let handle = listing::open(&root.join(&**path)).map_err(|e| format!("{path:?}: {e}"))?;
        let lines = listing::read(&handle, 1 << 15, |_| {}).map_err(|e| format!("{path:?}: {e}"))?;
        let names: BTreeSet<&str> = lines.iter().map(|line| &*line.name).collect();
        let missing: Vec<_> = known
            .iter()
            .map(|(name, _)| &**name)
            .filter(|n| !names.contains(n))
            .collect();
        let extra: Vec<_> = names.iter().filter(|name| known.get(name).is_none()).collect();
        if !missing.is_empty() || !extra.is_empty() || lines.len() != names.len() {
            return Err(format!(
                "{path:?}: {} lines for {} names; {} are missing ({:?} ...), {} too many ({:?} ...)",
                lines.len(),
                known.len(),
                missing.len(),
                &missing[..missing.len().min(TOLD)],
                extra.len(),
                &extra[..extra.len().min(TOLD)]
            ));
        }
        tally.add("names compared", lines.len() as u64);
        let changed = known.iter().filter(|(name, _)| !name.starts_with('f'));
        let mut read: BTreeSet<_> = changed.map(|(name, _)| name.clone()).collect();
        read.extend((0..SAMPLE).filter_map(|_| known.pick(random).map(|(name, _)| name)));
        for name in read {
            let (place, dir) = (
                Place {
                    dir: path.clone(),
                    name,
                },
                root,
            );
            compare_place(dir, &place, tree.get(&place))?;
            tally.add("files compared", 1);
        }
    }
    Ok(())
}

fn compare_place(root: &Path, place: &Place, wanted: Option<Node>) -> Result<(), String> {
    let path = root.join(place.path());
    let error = |e: std::io::Error| format!("{place:?}: {e}, not {wanted:?}");
    let found = match fs::symlink_metadata(&path) {
        Err(e) if e.raw_os_error() == Some(libc::ENOENT) => Found::Absent,
        Err(e) => return Err(error(e)),
        Ok(meta) if meta.is_dir() => Found::Dir,
        Ok(meta) if meta.is_symlink() => {
            let text = fs::read_link(&path).map_err(error)?;
            let tag = Tag::of_link(&text.to_string_lossy());
            Found::Link(tag.ok_or_else(|| format!("{place:?} leads to {text:?}"))?)
        }
        Ok(_) => {
            let tag = Tag::of(&fs::read(&path).map_err(error)?);
            Found::File(tag.map_err(|e| format!("{place:?}, not {wanted:?}: {e}"))?)
        }
    };
    match (found, wanted) {
        (Found::Absent, None) | (Found::Dir, Some(Node::Dir)) => Ok(()),
        (Found::Link(found), Some(Node::Link(tag))) if found == tag => Ok(()),
        (Found::File(found), Some(Node::File(tag))) if found == tag => Ok(()),
        _ => Err(format!("{place:?} is {found:?}, not {wanted:?}")),
    }
}

fn compare_changes(root: &Path, changes: &Changes, tree: &Tree) -> Result<(), String> {
    changes
        .keys()
        .try_for_each(|place| compare_place(root, place, tree.get(place)))
}

impl Herd<'_> {
    /// After all drivers have published what they had.
    ///
    /// # Errors
    /// What is lost or wrong.
    pub fn audit(&self, members: &[Member], random: &mut Random, tally: &mut Tally) -> Result<(), String> {
        let commits = self.ledger.all();
        let (first, newest) = self.ledger.span();
        if let Some((last, _)) = commits.last_key_value()
            && *last != newest
        {
            return Err(format!("record {} is of no commit", newest + 1));
        }
        for (seq, commit) in &commits {
            self.check_overwritten(*seq, commit)?;
        }
        let reader = self.cluster.pod();
        self.check_log(&reader, first, newest)?;
        let tree = self.ledger.tree(newest, &self.alarm)?;
        compare_whole(&reader.mount_dir(), &tree, random, tally)
            .map_err(|e| format!("record {newest}, through an empty cache: {e}"))?;
        let seqs: Vec<u64> = commits.keys().copied().collect();
        for _ in 0..RECORDS.min(seqs.len()) {
            let Some(seq) = random.pick(&seqs).copied() else {
                continue;
            };
            reader.reload(&["--to", &seq.to_string()]);
            compare_changes(
                &reader.mount_dir(),
                &commits[&seq].changes,
                &*self.ledger.tree(seq, &self.alarm)?,
            )
            .map_err(|e| format!("record {seq} ({}): {e}", commits[&seq].message))?;
            tally.add("records compared", 1);
        }
        reader.umount(&[]);
        let report = reader.json(["fsck", "data"]);
        if report["damaged"] != 0 {
            return Err(format!("fsck: {report}"));
        }
        tally.add("fsck", 1);
        for member in members {
            member.alone(|| member.umount())?;
            let state = member.pod.local_dir("state");
            let state = state.to_string_lossy();
            member
                .call(&["fsck", "--state", &state])
                .done("fsck --state")
                .map_err(|e| format!("{e}\n{}", member.explain()))?;
        }
        Ok(())
    }

    /// Whoever overwrote a change that its mount had not seen was told.
    fn check_overwritten(&self, seq: u64, commit: &Published) -> Result<(), String> {
        let Some(told) = &commit.overwrote else {
            return Ok(());
        };
        let before = self.ledger.tree(seq - 1, &self.alarm)?;
        match unseen(commit, &before).iter().find(|path| !told.contains(path)) {
            None => Ok(()),
            Some(path) => Err(format!(
                "record {seq} ({}) overwrote {path}, and was told of {told:?} only",
                commit.message
            )),
        }
    }

    /// The log has every commit once, and no other.
    fn check_log(&self, reader: &Pod, first: u64, newest: u64) -> Result<(), String> {
        reader.mount("data", &[]);
        let dir = reader.mount_dir();
        let log = reader.json([
            "log".as_ref(),
            dir.as_os_str(),
            "--limit".as_ref(),
            "100000".as_ref(),
        ]);
        let entries = log.as_array().map_or(&[][..], Vec::as_slice);
        let head = entries
            .iter()
            .filter_map(|entry| entry["seq"].as_u64())
            .max()
            .unwrap_or_default();
        if head != newest {
            return Err(format!(
                "the newest record is {head}, that of the last commit {newest}"
            ));
        }
        let commits = self.ledger.all();
        for entry in entries {
            let (Some(seq), message) = (entry["seq"].as_u64(), &entry["message"]) else {
                return Err(format!("log: {entry}"));
            };
            let known = commits.get(&seq);
            if seq > first && known.is_none_or(|known| *message != known.message) {
                return Err(format!(
                    "record {seq} is {message}, not {:?}",
                    known.map(|k| &k.message)
                ));
            }
        }
        Ok(())
    }
}
