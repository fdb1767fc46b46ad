//! What can be seen of a tree, as text: of a view, and of the model. Times are left out: a live mount has the machine's
//! clock, and the programs of the view (`src/view/tests`) compare them.

use std::collections::BTreeMap;

use crate::format::content_id;
use crate::view::tests::harness::CALLER;
use crate::view::tests::model::{Body, Fs, Id, ROOT};
use crate::view::tests::side::Side;
use crate::view::{Attr, ROOT_INO};

/// By path.
pub type Shown = BTreeMap<String, String>;

fn bytes(data: &[u8]) -> String {
    format!("{} {}", data.len(), content_id(data))
}

/// What the model says.
pub fn model(fs: &Fs) -> Shown {
    let mut all = Shown::new();
    let mut todo = vec![(ROOT, String::new())];
    while let Some((id, path)) = todo.pop() {
        let inode = fs.at(id);
        let body = match &inode.body {
            Body::Dir(entries) => {
                let below = |(name, id): (&Vec<u8>, &Id)| (*id, join(&path, name));
                todo.extend(entries.iter().map(below));
                "dir".to_owned()
            }
            Body::File(data) => bytes(data),
            Body::Symlink(target) => format!("-> {}", String::from_utf8_lossy(target)),
            Body::Fifo => "fifo".to_owned(),
        };
        let xattrs: Vec<(&Vec<u8>, &Vec<u8>)> = inode.xattrs.iter().collect();
        let line = format!("{:o} {} {body} {xattrs:?}", inode.mode, fs.nlink(id));
        all.insert(path, line);
    }
    all
}

fn join(path: &str, name: &[u8]) -> String {
    format!("{path}/{}", String::from_utf8_lossy(name))
}

/// What a process sees.
pub async fn view(side: &Side) -> Shown {
    let view = side.view();
    let mut all = Shown::new();
    let mut held = Vec::new();
    let root = view.getattr(&CALLER, ROOT_INO, None).await.unwrap();
    let mut todo = vec![(ROOT_INO, root, String::new())];
    while let Some((ino, attr, path)) = todo.pop() {
        let body = match attr.kind {
            crate::model::Kind::Dir => {
                let open = view.opendir(&CALLER, ino).await.unwrap();
                let mut cookie = 0;
                loop {
                    let some = view.readdirplus(ino, open.fh, cookie, 700).await.unwrap();
                    let Some(last) = some.last() else { break };
                    cookie = last.item.cookie;
                    for line in some {
                        if matches!(&*line.item.name, b"." | b"..") {
                            continue;
                        }
                        let known = line.known.expect("attributes in the listing");
                        held.push(known.ino);
                        todo.push((known.ino, known.attr, join(&path, &line.item.name)));
                    }
                }
                view.releasedir(ino, open.fh);
                "dir".to_owned()
            }
            crate::model::Kind::File => bytes(&side.read_all(ino).await),
            crate::model::Kind::Symlink => {
                let target = view.readlink(&CALLER, ino).await.unwrap();
                format!("-> {}", String::from_utf8_lossy(&target))
            }
            _ => "fifo".to_owned(),
        };
        let mut xattrs: Vec<(Vec<u8>, Vec<u8>)> = Vec::new();
        let names = view.listxattr(&CALLER, ino).await.unwrap();
        for name in names.split(|byte| *byte == 0).filter(|name| !name.is_empty()) {
            let value = view.getxattr(&CALLER, ino, name).await.unwrap();
            xattrs.push((name.to_vec(), value.to_vec()));
        }
        all.insert(path, line(&attr, &body, &xattrs));
    }
    for ino in held.into_iter().rev() {
        view.forget(ino, 1);
    }
    all
}

fn line(attr: &Attr, body: &str, xattrs: &[(Vec<u8>, Vec<u8>)]) -> String {
    format!("{:o} {} {body} {xattrs:?}", attr.mode, attr.nlink)
}

/// Fails with the first difference.
#[track_caller]
pub fn same(seen: &Shown, want: &Shown, what: &str) {
    if seen == want {
        return;
    }
    let paths: std::collections::BTreeSet<&String> = seen.keys().chain(want.keys()).collect();
    for path in paths {
        let (seen, want) = (seen.get(path), want.get(path));
        assert_eq!(seen, want, "{what}: {path:?} (left: seen)");
    }
}

/// Puts what `from` has below `top` in the place of what `fs` has there. Numbers of everything else stay.
pub fn graft(fs: &mut Fs, from: &Fs, top: &[u8]) {
    if let Ok(old) = fs.lookup(ROOT, top) {
        let mut todo = vec![old];
        while let Some(id) = todo.pop() {
            if let Some(inode) = fs.inodes.remove(&id)
                && let Body::Dir(entries) = inode.body
            {
                todo.extend(entries.into_values());
            }
        }
    }
    let mut copied: BTreeMap<Id, Id> = BTreeMap::new();
    let top_id = copy(fs, from, from.lookup(ROOT, top).unwrap(), &mut copied);
    let Body::Dir(entries) = &mut fs.at_mut(ROOT).body else {
        panic!("the root is a directory")
    };
    entries.insert(top.to_vec(), top_id);
}

fn copy(fs: &mut Fs, from: &Fs, id: Id, copied: &mut BTreeMap<Id, Id>) -> Id {
    if let Some(there) = copied.get(&id) {
        return *there;
    }
    let mut inode = from.at(id).clone();
    if let Body::Dir(entries) = &mut inode.body {
        for child in entries.values_mut() {
            *child = copy(fs, from, *child, copied);
        }
    }
    let new = fs.next;
    fs.next += 1;
    fs.inodes.insert(new, inode);
    copied.insert(id, new);
    new
}
