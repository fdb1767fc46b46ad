//! Who keeps a mount from being taken away, as far as it can be seen from here. Never touches the mount: where files are
//! is read from the links in /proc, which the kernel writes without asking a file system.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;

use super::mountpoint::mount_points;

/// Time for looking at all processes. (Mappings are told under a lock that a process may hold while it waits for the mount.)
const LOOK_TIME: Duration = Duration::from_secs(1);
/// Holders that are named; of more it is said how many there are.
const NAMED_MAX: usize = 6;

/// One process, or another mount, that uses the mount.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Holder {
    /// A process.
    Process {
        pid: u32,
        /// Its program's name.
        program: String,
        /// How, as words around the path: ("works in", "").
        how: (&'static str, &'static str),
        /// File or directory.
        path: PathBuf,
    },
    /// Something is mounted below.
    Mount(PathBuf),
}

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Holder::Process {
                pid,
                program,
                how: (before, after),
                path,
            } => write!(f, "{program} (pid {pid}) {before} {}{after}", path.display()),
            Holder::Mount(point) => write!(f, "what is mounted on {}", point.display()),
        }
    }
}

/// Those who use what is mounted at `dir`; each process once. Empty: nobody that can be seen (processes of other users and
/// containers cannot, nor can the kernel itself: a loop device, an export).
pub(super) fn holders(dir: &Path) -> Vec<Holder> {
    let inner = mount_points().into_iter();
    let mut found: Vec<Holder> = inner
        .filter(|point| point != dir && point.starts_with(dir))
        .map(Holder::Mount)
        .collect();
    let (tell, told) = std::sync::mpsc::channel();
    let seen = Arc::new(Mutex::new(Vec::new()));
    let (looking, dir) = (seen.clone(), dir.to_path_buf());
    // A thread of its own: it may wait for a process that waits for the mount.
    std::thread::spawn(move || {
        look(&dir, &looking);
        drop(tell);
    });
    // It ends by hanging up, or goes on in vain.
    let _ended = told.recv_timeout(LOOK_TIME) as Result<(), _>;
    found.append(&mut seen.lock());
    found
}

fn look(dir: &Path, found: &Mutex<Vec<Holder>>) {
    let me = std::process::id();
    let processes = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    let numbers = processes.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    let others: Vec<u32> = numbers.filter(|pid| *pid != me).collect();
    let mut left = Vec::new();
    for pid in others {
        match by_links(pid, dir) {
            Some(holder) => found.lock().push(holder),
            None => left.push(pid),
        }
    }
    // What may wait comes last.
    let mapped = left.into_iter().filter_map(|pid| by_mapping(pid, dir));
    mapped.for_each(|holder| found.lock().push(holder));
}

/// A process by its working directory, root, program and open files.
fn by_links(pid: u32, dir: &Path) -> Option<Holder> {
    let process = PathBuf::from(format!("/proc/{pid}"));
    let links = [
        ("cwd", ("works in", "")),
        ("root", ("has", " as its root")),
        ("exe", ("runs", "")),
    ];
    for (link, how) in links {
        if let Some(path) = inside(process.join(link), dir) {
            return Some(holder(pid, how, path));
        }
    }
    let open = std::fs::read_dir(process.join("fd"))
        .into_iter()
        .flatten()
        .flatten();
    let mut paths = open.filter_map(|entry| inside(entry.path(), dir));
    paths.next().map(|path| holder(pid, ("has", " open"), path))
}

fn by_mapping(pid: u32, dir: &Path) -> Option<Holder> {
    let maps = std::fs::read_to_string(format!("/proc/{pid}/maps")).ok()?;
    // Address, access, offset, device, inode, then the path behind blanks.
    let paths = maps
        .lines()
        .filter_map(|line| line.split_once('/').map(|(_, path)| format!("/{path}")));
    let mut inside = paths.filter_map(|path| below(Path::new(&path), dir));
    inside.next().map(|path| holder(pid, ("has", " mapped"), path))
}

fn holder(pid: u32, how: (&'static str, &'static str), path: PathBuf) -> Holder {
    let name = std::fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
    Holder::Process {
        pid,
        program: match name.trim() {
            "" => "a process".to_owned(),
            name => name.to_owned(),
        },
        how,
        path,
    }
}

fn inside(link: PathBuf, dir: &Path) -> Option<PathBuf> {
    below(&std::fs::read_link(link).ok()?, dir)
}

/// The path, if it is `dir` or below it, without what the kernel says behind the names of files that have none any more.
fn below(path: &Path, dir: &Path) -> Option<PathBuf> {
    let text = path.to_str();
    let path = text.map_or(path, |text| {
        Path::new(text.strip_suffix(" (deleted)").unwrap_or(text))
    });
    path.starts_with(dir).then(|| path.to_path_buf())
}

/// The end of "is in use": by whom.
pub(super) fn in_words(holders: &[Holder]) -> String {
    if holders.is_empty() {
        return " by nothing that can be seen from here (processes of other users or containers, a loop device, \
                an export)"
            .to_owned();
    }
    let named: Vec<String> = holders.iter().take(NAMED_MAX).map(ToString::to_string).collect();
    let more = match holders.len().saturating_sub(NAMED_MAX) {
        0 => String::new(),
        n => format!(", and {n} more"),
    };
    format!(": {}{more}", named.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_found_by_each_way_that_it_holds_a_directory() {
        let top = tempfile::tempdir().unwrap();
        let dir = top.path().canonicalize().unwrap().join("a dir");
        std::fs::create_dir(&dir).unwrap();
        assert_eq!(holders(&dir), []);
        let mut child = std::process::Command::new("sleep")
            .arg("1000")
            .current_dir(&dir)
            .spawn()
            .unwrap();
        let found = holders(&dir);
        let text = in_words(&found);
        assert_eq!(found.len(), 1, "{text}");
        assert!(
            text.contains(&format!("(pid {}) works in {}", child.id(), dir.display())),
            "{text}"
        );
        child.kill().unwrap();
        child.wait().unwrap();

        let path = dir.join("f");
        let file = std::fs::File::create(&path).unwrap();
        let mut child = std::process::Command::new("sleep")
            .arg("1000")
            .stdin(file)
            .spawn()
            .unwrap();
        std::fs::remove_file(&path).unwrap();
        let text = in_words(&holders(&dir));
        assert!(text.contains(&format!("has {} open", path.display())), "{text}");
        child.kill().unwrap();
        child.wait().unwrap();
        assert_eq!(holders(&dir), []);
    }

    #[test]
    fn of_many_holders_some_are_named() {
        let one = |pid| Holder::Process {
            pid,
            program: "cat".into(),
            how: ("has", " open"),
            path: "/m/f".into(),
        };
        let all: Vec<Holder> = (1..=9).map(one).collect();
        let text = in_words(&all);
        assert!(
            text.starts_with(": cat (pid 1) has /m/f open, ") && text.ends_with(", and 3 more"),
            "{text}"
        );
        assert!(in_words(&[]).contains("nothing that can be seen"));
        assert_eq!(below(Path::new("/m2/f"), Path::new("/m")), None);
    }
}
