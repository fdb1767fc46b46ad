//! The table of MERGE.md and what it leaves to be said, row by row. "Earlier" was committed first and is the head.

use std::collections::BTreeMap;

use super::model::{ATTRS, Attrs, Dir, File, Node, Reg, Report, Tree, merge, up};
use super::real::{Sharing, World};
use super::same;

fn content(text: &str) -> u32 {
    assert!(text.len() <= 3);
    text.bytes()
        .rev()
        .fold(0, |token, byte| token << 8 | u32::from(byte))
}

/// `600,o7,t9,x5,y6`: mode, owner, mtime, two xattrs.
fn attrs(text: Option<&str>, mode: u32) -> Attrs {
    let mut attrs: Attrs = [0; ATTRS];
    (attrs[0], attrs[1], attrs[2]) = (mode, 100, 50);
    for part in text.into_iter().flat_map(|text| text.split(',')) {
        let number = |from: usize| part[from..].parse().expect("a number");
        match part.as_bytes()[0] {
            b'o' => attrs[1] = number(1),
            b't' => attrs[2] = number(1),
            b'x' => attrs[3] = number(1),
            b'y' => attrs[4] = number(1),
            _ => attrs[0] = u32::from_str_radix(part, 8).expect("a mode"),
        }
    }
    attrs
}

/// A tree from `a=1 d/x=x:600 e/ e/p=@j @j=c`: files with contents and attributes, directories, names of the inode j.
/// Directories above a path are made.
pub fn tree(text: &str) -> Tree {
    let mut tree = Tree {
        root: Dir {
            attrs: attrs(None, 0o755),
            names: BTreeMap::new(),
        },
        inodes: BTreeMap::new(),
    };
    for word in text.split_whitespace() {
        let (word, suffix) = word
            .split_once(':')
            .map_or((word, None), |(word, suffix)| (word, Some(suffix)));
        let Some((path, value)) = word.split_once('=') else {
            let path = word.trim_end_matches('/');
            make_dirs(&mut tree.root, path);
            let dir = tree.root.dir_mut(path).expect("just made");
            dir.attrs = attrs(suffix, 0o755);
            continue;
        };
        let file = File {
            content: content(value),
            attrs: attrs(suffix, 0o644),
        };
        if let Some(id) = path.strip_prefix('@') {
            tree.inodes.insert(content(id), file);
            continue;
        }
        make_dirs(&mut tree.root, up(path));
        let node = match value.strip_prefix('@') {
            Some(id) => Node::Link(content(id)),
            None => Node::File(file),
        };
        tree.root.put(path, node);
    }
    tree
}

fn make_dirs(root: &mut Dir, path: &str) {
    for end in path.match_indices('/').map(|(at, _)| at).chain([path.len()]) {
        let dir = &path[..end];
        if !dir.is_empty() && root.get(dir).is_none() {
            root.put(
                dir,
                Node::Dir(Dir {
                    attrs: attrs(None, 0o755),
                    names: BTreeMap::new(),
                }),
            );
        }
    }
}

pub struct Row {
    pub name: &'static str,
    pub base: &'static str,
    pub earlier: &'static str,
    pub later: &'static str,
    pub result: &'static str,
    pub moves: &'static [(&'static str, &'static str)],
}

const B: &str = "a=1 d/x=x d/y=y";

macro_rules! rows {
    ($($name:literal: $base:expr, $earlier:expr, $later:expr => $result:expr $(, [$($from:literal > $to:literal),*])?;)*) => {
        [$(Row { name: $name, base: $base, earlier: $earlier, later: $later, result: $result,
            moves: &[$($(($from, $to)),*)?] }),*]
    };
}

const ROWS: [Row; 35] = rows! {
    "different paths merge": B, "a=2 d/x=x d/y=y", "a=1 d/x=X d/y=y" => "a=2 d/x=X d/y=y";
    "same path: later wins": B, "a=2 d/x=x d/y=y", "a=3 d/x=x d/y=y" => "a=3 d/x=x d/y=y";
    "chmod after concurrent edit keeps both": B, "a=2 d/x=x d/y=y", "a=1:600 d/x=x d/y=y" => "a=2:600 d/x=x d/y=y";
    "delete after concurrent modify: deleted": B, "a=2 d/x=x d/y=y", "d/x=x d/y=y" => "d/x=x d/y=y";
    "modify after concurrent delete: recreated": B, "d/x=x d/y=y", "a=3 d/x=x d/y=y" => "a=3 d/x=x d/y=y";
    "rm -rf d after concurrent create inside: only the new file stays":
        B, "a=1 d/x=x d/y=y d/new=n", "a=1" => "a=1 d/new=n";
    "create inside after concurrent rm -rf d: d with only the new file":
        B, "a=1", "a=1 d/x=x d/y=y d/new=n" => "a=1 d/new=n";
    "edit inside after concurrent rm -rf d: d with only the edited file": B, "a=1", "a=1 d/x=X d/y=y" => "a=1 d/x=X";
    "rm -rf d after concurrent replacement of d by a file: the file stays": B, "a=1 d=n", "a=1" => "a=1 d=n";
    "rm -rf d twice": B, "a=1", "a=1" => "a=1";
    "both mkdir e: union": B, "a=1 d/x=x d/y=y e/p=p", "a=1 d/x=x d/y=y e/q=q" => "a=1 d/x=x d/y=y e/p=p e/q=q";
    "file after concurrent dir of same name: file":
        B, "a=1 d/x=x d/y=y e/p=p", "a=1 d/x=x d/y=y e=e" => "a=1 d/x=x d/y=y e=e";
    "dir after concurrent file of same name: dir":
        B, "a=1 d/x=x d/y=y e=e", "a=1 d/x=x d/y=y e/p=p" => "a=1 d/x=x d/y=y e/p=p";
    "rename d->z after concurrent edit inside d: edit moves along":
        B, "a=1 d/x=X d/y=y d/new=n", "a=1 z/x=x z/y=y" => "a=1 z/x=X z/y=y z/new=n", ["d" > "z"];
    "edit inside d after concurrent rename d->z: edit lands at the old path":
        B, "a=1 z/x=x z/y=y", "a=1 d/x=X d/y=y" => "a=1 z/x=x z/y=y d/x=X";
    "two renames of d: both targets exist":
        B, "a=1 z/x=x z/y=y", "a=1 w/x=x w/y=y" => "a=1 z/x=x z/y=y w/x=x w/y=y", ["d" > "w"];
    "rename d->z and edit inside by me, concurrent edit of another file inside":
        B, "a=1 d/x=x d/y=Y", "a=1 z/x=X z/y=y" => "a=1 z/x=X z/y=Y", ["d" > "z"];
    "rename d->z after concurrent rm -rf d: z exists (mine is later)":
        B, "a=1", "a=1 z/x=x z/y=y" => "a=1 z/x=x z/y=y", ["d" > "z"];
    "chmod after concurrent delete: stays deleted": B, "d/x=x d/y=y", "a=1:600 d/x=x d/y=y" => "d/x=x d/y=y";
    "chmod d after concurrent rm -rf d: stays deleted": B, "a=1", "a=1 d/:700 d/x=x d/y=y" => "a=1";
    "chmod inside after concurrent replacement of d by a file: the file stays":
        B, "a=1 d=n", "a=1 d/x=x:600 d/y=y" => "a=1 d=n";
    "rename a->q after concurrent edit: the edit moves along":
        B, "a=2 d/x=x d/y=y", "q=1 d/x=x d/y=y" => "q=2 d/x=x d/y=y", ["a" > "q"];
    "... also when the edit was a save by rename-over (new file id)":
        B, "a=2:600 d/x=x d/y=y", "q=1 d/x=x d/y=y" => "q=2:600 d/x=x d/y=y", ["a" > "q"];
    "edit a after concurrent rename a->q: both exist":
        B, "q=1 d/x=x d/y=y", "a=2 d/x=x d/y=y" => "q=1 a=2 d/x=x d/y=y";
    "two renames of a: both targets exist":
        B, "q=1 d/x=x d/y=y", "w=1 d/x=x d/y=y" => "q=1 w=1 d/x=x d/y=y", ["a" > "w"];
    "rename a->q after concurrent delete: q exists": B, "d/x=x d/y=y", "q=1 d/x=x d/y=y" => "q=1 d/x=x d/y=y", ["a" > "q"];
    "delete a after concurrent rename a->q: q exists": B, "q=1 d/x=x d/y=y", "d/x=x d/y=y" => "q=1 d/x=x d/y=y";
    "rename a over d/x after concurrent edit of d/x: path rule":
        B, "a=1 d/x=X d/y=y", "d/x=1 d/y=y" => "d/x=1 d/y=y", ["a" > "d/x"];
    "rename a->q after concurrent create q: path rule":
        B, "a=2 q=9 d/x=x d/y=y", "q=1 d/x=x d/y=y" => "q=1 d/x=x d/y=y", ["a" > "q"];
    "backup save (a->a~, new a) after concurrent edit of a: path rule":
        B, "a=2 d/x=x d/y=y", "a=3 a~=1 d/x=x d/y=y" => "a=3 a~=1 d/x=x d/y=y", ["a" > "a~"];
    "swap of d/x and d/y after concurrent edit of d/x":
        B, "a=1 d/x=X d/y=y", "a=1 d/x=y d/y=x" => "a=1 d/x=y d/y=X", ["d/x" > "d/y", "d/y" > "d/x"];
    "mkdir n, a->n/a after concurrent edit of a":
        B, "a=2 d/x=x d/y=y", "n/a=1 d/x=x d/y=y" => "n/a=2 d/x=x d/y=y", ["a" > "n/a"];
    "swap of directories after concurrent edit inside":
        "d/x=x e/y=y", "d/x=X e/y=y", "e/x=x d/y=y" => "e/x=X d/y=y", ["d" > "e", "e" > "d"];
    "d->z and z/x back to d/x after concurrent edit of d/x":
        B, "a=1 d/x=X d/y=y", "a=1 d/x=x z/y=y" => "a=1 d/x=X z/y=y", ["d" > "z", "d/x" > "d/x"];
    "d->z, then rm -rf z, new d, after concurrent edit of d/x: path rule":
        B, "a=1 d/x=X d/y=y", "a=1 d/x=n" => "a=1 d/x=n", ["d" > "z"];
};

/// Runs a row through real trees, shared and stored in several ways; gives the report, the same in all.
pub fn run(row: &Row) -> Result<Report, String> {
    let [base, earlier, later, result] = [row.base, row.earlier, row.later, row.result].map(tree);
    let moves: Vec<_> = row
        .moves
        .iter()
        .map(|(from, to)| (from.to_string(), to.to_string()))
        .collect();
    let mut report = None;
    for (seed, sharing) in [(0, 0), (100, 0), (100, 100), (70, 50)].into_iter().enumerate() {
        let (shared, stored) = sharing;
        let mut world = World::new(seed as u64, Sharing { shared, stored });
        let outcome = world.merge([&base, &earlier, &later], &moves)?;
        same(row.name, &outcome.tree, &result)?;
        same(
            row.name,
            &outcome.report,
            report.get_or_insert(outcome.report.clone()),
        )?;
    }
    Ok(report.expect("the row ran"))
}

#[test]
fn every_row_of_the_reference_model_holds() {
    for row in &ROWS {
        let report = run(row).unwrap_or_else(|failure| panic!("{failure}"));
        let [base, earlier, later] = [row.base, row.earlier, row.later].map(|text| tree(text).root);
        let moves: Vec<_> = row
            .moves
            .iter()
            .map(|(from, to)| (from.to_string(), to.to_string()))
            .collect();
        let should = merge(&base, &earlier, &later, &moves);
        same(row.name, &should.root, &tree(row.result).root).unwrap();
        same(row.name, &report, &should.report).unwrap();
    }
}

const LINK_ROWS: [(Row, &str); 26] = {
    let rows = rows! {
        "unlink one name, write through another: name gone, content written":
            "a=@j b=@j @j=1", "b=@j @j=1", "a=@j b=@j @j=2" => "b=@j @j=2";
        "write through another, unlink one name: the same, and nothing is lost":
            "a=@j b=@j @j=1", "a=@j b=@j @j=2", "b=@j @j=1" => "b=@j @j=2";
        "unlink all names, write through one: the names that the later still had come back":
            "a=@j b=@j @j=1", "", "a=@j b=@j @j=2" => "a=@j b=@j @j=2";
        "... also deep in directories that mine did not touch":
            "p/q/a=@j r/b=@j @j=1 k=k", "k=k", "p/q/a=@j r/b=@j @j=2 k=k" => "p/q/a=@j r/b=@j @j=2 k=k";
        "... and not when only attributes were changed": "a=@j b=@j @j=1", "", "a=@j b=@j @j=1:600" => "";
        "write through one, unlink all names: gone, and said":
            "a=@j b=@j @j=1", "a=@j b=@j @j=2", "" => "";
        "write through one, rm -rf of the directory that holds all names: gone, and said":
            "d/a=@j d/b=@j @j=1 k=k", "d/a=@j d/b=@j @j=2 k=k", "k=k" => "k=k";
        "names unlinked in turns, written by the later: its names come back":
            "a=@j b=@j @j=1", "b=@j @j=1", "a=@j @j=2" => "a=@j @j=2";
        "names unlinked in turns, nothing written: gone": "a=@j b=@j @j=1", "b=@j @j=1", "a=@j @j=1" => "";
        "first ln a b, edit a: both show the edit": "a=1", "a=@j b=@j @j=1", "a=2" => "a=@j b=@j @j=2";
        "edit a, first ln a b: both show the edit": "a=1", "a=2", "a=@j b=@j @j=1" => "a=@j b=@j @j=2";
        "first ln a b, chmod a": "a=1", "a=@j b=@j @j=1", "a=1:600" => "a=@j b=@j @j=1:600";
        "first ln a b, first ln a c: a and c the later's inode, b the earlier's":
            "a=1", "a=@j b=@j @j=1", "a=@k c=@k @k=1" => "a=@k c=@k b=@j @j=1 @k=1";
        "first ln a b and edit, first ln a c: a and c show the edit too":
            "a=1", "a=@j b=@j @j=2", "a=@k c=@k @k=1" => "a=@k c=@k b=@j @j=2 @k=2";
        "first ln a b and edit, edit a: a is its own file again, b keeps the earlier's":
            "a=1", "a=@j b=@j @j=2", "a=3" => "a=3 b=@j @j=2";
        "two equal files made one, each edited: neither edit is lost":
            "a=1 b=1", "a=@j b=@j @j=1", "a=2 b=3" => "a=@j b=3 @j=2";
        "delete a, first ln a b: b stays": "a=1", "", "a=@j b=@j @j=1" => "b=@j @j=1";
        "first ln a b, delete a: b stays": "a=1", "a=@j b=@j @j=1", "" => "b=@j @j=1";
        "first ln a b, rename a->q": "a=1", "a=@j b=@j @j=1", "q=1" => "q=@j b=@j @j=1", ["a" > "q"];
        "save by rename-over of one name, write through the other":
            "a=@j b=@j @j=1", "a=2 b=@j @j=1", "a=@j b=@j @j=3" => "a=2 b=@j @j=3";
        "... and that other name removed by the later: it takes its name back, which is said":
            "a=@j b=@j @j=1", "a=2 b=@j @j=1", "a=@j @j=3" => "a=@j @j=3";
        "write, save by rename-over of one name: the other has the write":
            "a=@j b=@j @j=1", "a=@j b=@j @j=2", "a=3 b=@j @j=1" => "a=3 b=@j @j=2";
        "two writes of one inode: the later": "a=@j b=@j @j=1", "a=@j b=@j @j=2", "a=@j b=@j @j=3" => "a=@j b=@j @j=3";
        "third name by both: counted": "a=@j b=@j @j=1", "a=@j b=@j c=@j @j=1", "a=@j b=@j e=@j @j=1"
            => "a=@j b=@j c=@j e=@j @j=1";
        "two renames of one name: both": "a=@j b=@j @j=1", "c=@j b=@j @j=1", "e=@j b=@j @j=1"
            => "c=@j e=@j b=@j @j=1", ["a" > "e"];
        "mkdir over the last name of an inode that was written": "a=@j @j=1", "a=@j @j=2", "a/x=x" => "a/x=x";
    };
    let reports = [
        "",
        "",
        "a b",
        "p/q/a r/b",
        "",
        "a",
        "d/a",
        "a",
        "",
        "",
        "",
        "",
        "",
        "",
        "",
        "",
        "",
        "",
        "",
        "",
        "a",
        "",
        "a",
        "",
        "",
        "a",
    ];
    let mut with = [const {
        (
            Row {
                name: "",
                base: "",
                earlier: "",
                later: "",
                result: "",
                moves: &[],
            },
            "",
        )
    }; 26];
    let mut at = 0;
    while at < with.len() {
        let Row {
            name,
            base,
            earlier,
            later,
            result,
            moves,
        } = rows[at];
        with[at] = (
            Row {
                name,
                base,
                earlier,
                later,
                result,
                moves,
            },
            reports[at],
        );
        at += 1;
    }
    with
};

#[test]
fn hard_links_follow_the_rows_of_the_format_and_lose_nothing_unsaid() {
    for (row, reported) in &LINK_ROWS {
        let report = run(row).unwrap_or_else(|failure| panic!("{failure}"));
        let should: Report = reported
            .split_whitespace()
            .map(|path| (path.to_owned(), Reg::Content))
            .collect();
        same(row.name, &report, &should).unwrap_or_else(|failure| panic!("{failure}"));
    }
}

#[test]
fn attributes_are_registers_of_their_own() {
    let rows = rows! {
        "mode and owner": "a=1", "a=1:600", "a=1:o7" => "a=1:600,o7";
        "owner and mtime": "a=1", "a=1:o7", "a=1:t60" => "a=1:o7,t60";
        "touch back in time": "a=1", "a=1:600", "a=1:t40" => "a=1:600,t40";
        "xattr keys": "a=1", "a=1:x5", "a=1:y6" => "a=1:x5,y6";
        "removed key and new key": "a=1:x5", "a=1", "a=1:x5,y6" => "a=1:y6";
        "xattr and mode of a directory": "d/:x5", "d/:x5,700", "d/:y6" => "d/:y6,700";
        "xattr keys of an inode with two names":
            "a=@j b=@j @j=1", "a=@j b=@j @j=1:x5", "a=@j b=@j @j=1:y6" => "a=@j b=@j @j=1:x5,y6";
        "mtime of a directory: the later of two": "d/", "d/:t70", "d/:t60" => "d/:t70";
        "mtime of a directory: who changed it": "d/", "d/", "d/:t40" => "d/:t40";
    };
    for row in &rows {
        let report = run(row).unwrap_or_else(|failure| panic!("{failure}"));
        same(row.name, &report, &Report::new()).unwrap_or_else(|failure| panic!("{failure}"));
    }
    let conflicts = rows! {
        "mode": "a=1", "a=1:600", "a=1:640" => "a=1:640";
        "owner": "a=1", "a=1:o7", "a=1:o8" => "a=1:o8";
        "mtime": "a=1", "a=1:t60", "a=1:t55" => "a=1:t55";
        "xattr x": "a=1", "a=1:x5", "a=1:x6" => "a=1:x6";
        "xattr y, removed by the later": "a=1:y1", "a=1:y2", "a=1" => "a=1";
    };
    for (register, row) in conflicts.iter().enumerate() {
        let report = run(row).unwrap_or_else(|failure| panic!("{failure}"));
        let should = Report::from([("a".to_owned(), Reg::Attr(register))]);
        same(row.name, &report, &should).unwrap_or_else(|failure| panic!("{failure}"));
    }
}
