//! Damage: objects in the store and files of the cache that are flipped, cut, swapped, emptied or gone.
//!
//! 1. Whatever object is damaged, every reader (mount, listing, read, `cat`, reload, commit) gets the right bytes or an
//!    error, never others; a read's EIO is told with the path and the object; `fsck` names what the newest record needs.
//! 2. Whatever cache file is damaged, between two opens or while nothing is mounted, everything reads right: it is fetched
//!    again.
//! 3. A log that goes back is noticed, by a mount, a reload and a commit, and there is a way on.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use sailvol::store::{ObjectStore, PutMode, StoreOptions, StoreUrl, open_with};

use super::random::Random;
use super::{Plan, Tally};
use crate::pod::{Cluster, Pod};

/// What happens to an object or a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Harm {
    Flip,
    Cut,
    Swap,
    Empty,
    Longer,
    Missing,
}

const HARMS: [Harm; 6] = [
    Harm::Flip,
    Harm::Cut,
    Harm::Swap,
    Harm::Empty,
    Harm::Longer,
    Harm::Missing,
];

impl Harm {
    /// The bytes afterwards; `None`: none. `other`: those of another object.
    fn apply(self, bytes: &[u8], other: &[u8], random: &mut Random) -> Option<Vec<u8>> {
        let mut bytes = bytes.to_vec();
        let at = random.range(0..bytes.len().max(1) as u64) as usize;
        match self {
            Harm::Flip => {
                if let Some(byte) = bytes.get_mut(at) {
                    *byte ^= 1 << random.range(0..8);
                }
            }
            Harm::Cut => bytes.truncate(at),
            Harm::Swap => return Some(other.to_vec()),
            Harm::Empty => bytes.clear(),
            Harm::Longer => bytes.extend_from_slice(&random.bytes(100)),
            Harm::Missing => return None,
        }
        Some(bytes)
    }
}

/// The server's objects, behind the backs of those who use them.
struct Objects {
    store: Arc<dyn ObjectStore>,
    runtime: tokio::runtime::Runtime,
}

impl Objects {
    fn of(cluster: &Cluster) -> Objects {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .expect("a runtime");
        let url = StoreUrl::parse(&cluster.server.url("bucket/volumes")).expect("a URL");
        let options = StoreOptions {
            credentials_file: Some(cluster.server.credentials_file().expect("a file for the keys")),
            ..StoreOptions::default()
        };
        let store = runtime.block_on(open_with(&url, &options)).expect("a store");
        Objects { store, runtime }
    }

    fn keys(&self) -> Vec<String> {
        let listed = self
            .runtime
            .block_on(self.store.list("", None, 1000))
            .expect("a listing");
        assert!(!listed.truncated);
        listed.objects.into_iter().map(|object| object.key).collect()
    }

    fn get(&self, key: &str) -> Vec<u8> {
        self.runtime
            .block_on(self.store.get(key, None))
            .expect("the object is there")
            .bytes
            .to_vec()
    }

    fn put(&self, key: &str, bytes: Option<Vec<u8>>) {
        let done = self.runtime.block_on(async {
            match bytes {
                Some(bytes) => {
                    let put = self.store.put(key, Bytes::from(bytes), PutMode::Overwrite);
                    put.await.map(drop)
                }
                None => self.store.delete(&[key.to_owned()]).await,
            }
        });
        done.expect("the store does what it is told");
    }
}

type Model = BTreeMap<PathBuf, Vec<u8>>;

/// Runs the campaign: `plan.rounds` damaged objects, as many rounds of damaged cache files, and a log that goes back.
///
/// # Panics
/// Where a promise is broken, with the seed of the round.
pub fn run(plan: &Plan) -> Tally {
    let cluster = Cluster::start();
    let writer = cluster.pod();
    let model = fill(plan.seed, &writer);
    let objects = Objects::of(&cluster);
    let mut tally = Tally::default();
    for seed in plan.seed..plan.seed + plan.rounds {
        damaged_object(plan, seed, &cluster, &objects, &model, &mut tally);
        damaged_cache(plan, seed, &cluster, &model, &mut tally);
    }
    log_that_goes_back(&cluster, &objects, &writer);
    tally.add("logs gone back", 1);
    tally
}

/// Two records; files of every way in which contents are stored, and directories of both.
fn fill(seed: u64, pod: &Pod) -> Model {
    let mut random = Random::new(seed);
    let mut model = Model::new();
    pod.mount("data", &["--create"]);
    let mut add = |pod: &Pod, path: String, bytes: Vec<u8>| {
        let path = PathBuf::from(path);
        fs::create_dir_all(pod.path(path.parent().unwrap_or(Path::new("")))).expect("the mount writes");
        fs::write(pod.path(&path), &bytes).expect("the mount writes");
        model.insert(path, bytes);
    };
    for n in 0..30 {
        let len = [0, 10, 500, 5000, 70_000][n % 5];
        add(pod, format!("d{}/small{n}", n % 3), random.bytes(len));
    }
    add(pod, "large".into(), random.bytes(17 << 20));
    pod.commit("first");
    add(pod, "d0/later".into(), random.bytes(3000));
    add(pod, "middle".into(), random.bytes(5 << 20));
    for n in 0..300 {
        add(
            pod,
            format!("many/name-that-is-long-enough-for-pages-{n:04}"),
            random.bytes(20),
        );
    }
    pod.commit("second");
    model
}

/// Reads everything that can be had; panics at anything wrong. Gives the errors.
fn read_all(pod: &Pod, model: &Model, context: &str) -> Vec<(PathBuf, io::Error)> {
    let mut errors = Vec::new();
    let mut pending = vec![PathBuf::new()];
    while let Some(dir) = pending.pop() {
        let listed: io::Result<Vec<_>> = fs::read_dir(pod.path(&dir)).and_then(Iterator::collect);
        let listed = match listed {
            Ok(listed) => listed,
            Err(error) => {
                errors.push((dir, error));
                continue;
            }
        };
        let mut names: Vec<PathBuf> = listed.iter().map(|entry| dir.join(entry.file_name())).collect();
        names.sort();
        let mut wanted: Vec<PathBuf> = model
            .keys()
            .filter_map(|path| {
                let below = path.strip_prefix(&dir).ok()?;
                Some(dir.join(below.components().next()?))
            })
            .collect();
        wanted.sort();
        wanted.dedup();
        assert_eq!(names, wanted, "{context}: names in {}", dir.display());
        for path in names {
            match model.get(&path) {
                None => pending.push(path),
                Some(wanted) => match fs::read(pod.path(&path)) {
                    Ok(found) => {
                        let at = found.iter().zip(wanted).position(|(a, b)| a != b);
                        assert!(
                            found == *wanted,
                            "{context}: wrong bytes in {}: {} of {}, differing from {at:?} on",
                            path.display(),
                            found.len(),
                            wanted.len()
                        );
                    }
                    Err(error) => errors.push((path, error)),
                },
            }
        }
    }
    for (path, error) in &errors {
        assert_eq!(
            error.raw_os_error(),
            Some(libc::EIO),
            "{context}: {}: {error}",
            path.display()
        );
    }
    errors
}

fn damaged_object(
    plan: &Plan,
    seed: u64,
    cluster: &Cluster,
    objects: &Objects,
    model: &Model,
    tally: &mut Tally,
) {
    let mut random = Random::new(seed);
    let keys = objects.keys();
    let key = random.pick(&keys).expect("there are objects").clone();
    let mut harm = *random.pick(&HARMS).expect("there are harms");
    // Without its newest record a volume is what it was before; only who has seen that record can know (see below).
    let newest = keys.iter().filter(|key| key.contains("/log/")).min();
    if harm == Harm::Missing && Some(&key) == newest {
        harm = Harm::Empty;
    }
    // One of the same kind, which its own check would find right.
    let kind = |key: &str| key.split('/').nth(1).map(str::to_owned);
    let alike: Vec<&String> = keys
        .iter()
        .filter(|other| **other != key && kind(other) == kind(&key))
        .collect();
    let other = random
        .pick(&alike)
        .map_or_else(Vec::new, |other| objects.get(other));
    let was = objects.get(&key);
    let harmed = harm.apply(&was, &other, &mut random);
    let changed = harmed.as_ref() != Some(&was);
    let context = format!("seed {seed}: {harm:?} of {key}");
    objects.put(&key, harmed);

    let pod = cluster.pod();
    let mut command = pod.command(["mount", "--remote-timeout", "3s", "data"]);
    let mounted = command.arg(pod.mount_dir()).args(&plan.mount_options).output();
    let mounted = mounted.expect("the program runs");
    let mut noticed = !mounted.status.success();
    if mounted.status.success() {
        let errors = read_all(&pod, model, &context);
        noticed |= !errors.is_empty();
        let log = daemon_log(&pod);
        for (path, _) in &errors {
            // Of a name that cannot be looked up, the directory.
            let names = |path: &Path| log.contains(&format!("path=\"/{}\"", path.display()));
            let named = names(path) || path.parent().is_some_and(names);
            assert!(
                named,
                "{context}: the log does not name {}:\n{log}",
                path.display()
            );
        }
        // Local work is not held up, and commits are right or refused.
        fs::write(pod.path("new"), b"new").unwrap_or_else(|e| panic!("{context}: {e}"));
        let reload = pod.run([
            OsStr::new("reload"),
            OsStr::new("--keep"),
            pod.mount_dir().as_os_str(),
        ]);
        noticed |= !reload.status.success();
        read_new(&pod, &context);
    } else {
        let said = String::from_utf8_lossy(&mounted.stderr);
        let part = key.rsplit('/').next().unwrap_or(&key);
        let named = said.contains(part) || said.contains("data");
        assert!(named, "{context}: the message names nothing: {said}");
    }
    let cat = pod.run(["cat", "data:/large"]);
    if cat.status.success() {
        assert!(
            cat.stdout == model[Path::new("large")],
            "{context}: cat gave wrong bytes"
        );
    } else {
        noticed = true;
    }
    let fsck = pod.run(["fsck", "data"]);
    if noticed && changed {
        assert!(!fsck.status.success(), "{context}: fsck says that all is well");
    }
    plan.say(format_args!(
        "{context}: {}",
        if noticed { "an error" } else { "no effect" }
    ));
    tally.add("damaged objects", 1);
    tally.add("of these noticed by readers", u64::from(noticed));
    objects.put(&key, Some(was));
    if mounted.status.success() {
        // Mended: the same mount reads it all, whatever it remembers.
        let errors = read_all_but_new(&pod, model, &context);
        assert!(errors.is_empty(), "{context}: after mending: {errors:?}");
    }
}

fn read_new(pod: &Pod, context: &str) {
    let new = fs::read(pod.path("new")).unwrap_or_else(|e| panic!("{context}: local file: {e}"));
    assert_eq!(new, b"new", "{context}");
}

fn read_all_but_new(pod: &Pod, model: &Model, context: &str) -> Vec<(PathBuf, io::Error)> {
    fs::remove_file(pod.path("new")).unwrap_or_else(|e| panic!("{context}: {e}"));
    read_all(pod, model, context)
}

fn daemon_log(pod: &Pod) -> String {
    let mut text = String::new();
    for name in fs::read_dir(pod.local_dir("state"))
        .into_iter()
        .flatten()
        .flatten()
    {
        text += &fs::read_to_string(name.path().join("daemon.log")).unwrap_or_default();
    }
    text
}

fn damaged_cache(plan: &Plan, seed: u64, cluster: &Cluster, model: &Model, tally: &mut Tally) {
    let mut random = Random::new(seed);
    let pod = cluster.pod();
    let options = plan.options();
    pod.mount("data", &options);
    let mut harms = Vec::new();
    let context = |when: &str, harms: &[String]| format!("seed {seed}, cache damaged {when}: {harms:?}");
    let look = |when: &str, harms: &[String]| {
        let context = context(when, harms);
        let errors = read_all(&pod, model, &context);
        assert!(errors.is_empty(), "{context}: {errors:?}");
    };
    look("not yet", &harms);
    for when in ["while mounted", "while not mounted", "after a kill"] {
        match when {
            "while mounted" => {}
            "while not mounted" => drop(pod.umount(&[])),
            _ => pod.kill_daemon(),
        }
        let files = files_below(&pod.local_dir("cache"));
        for _ in 0..random.range(1..4) {
            let Some(path) = random.pick(&files) else { break };
            let harm = *random.pick(&HARMS).expect("there are harms");
            let other = random.pick(&files).map(|path| fs::read(path).unwrap_or_default());
            harm_file(path, harm, &other.unwrap_or_default(), &mut random);
            let name = path.strip_prefix(pod.local_dir("cache")).unwrap_or(path);
            harms.push(format!("{when}: {harm:?} of {}", name.display()));
            tally.add("damaged cache files", 1);
        }
        if when != "while mounted" {
            pod.mount("data", &options);
        }
        forget_pages(&pod, model);
        look(when, &harms);
    }
}

fn files_below(dir: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    let mut pending = vec![dir.to_path_buf()];
    while let Some(dir) = pending.pop() {
        for entry in fs::read_dir(&dir).into_iter().flatten().flatten() {
            match entry.file_type() {
                Ok(kind) if kind.is_dir() => pending.push(entry.path()),
                _ => files.push(entry.path()),
            }
        }
    }
    files.sort();
    files
}

/// In place, as a bad disk would, where that is possible.
fn harm_file(path: &Path, harm: Harm, other: &[u8], random: &mut Random) {
    let Ok(was) = fs::read(path) else { return };
    match (harm, harm.apply(&was, other, random)) {
        (_, None) => drop(fs::remove_file(path)),
        (Harm::Flip, Some(now)) => {
            let changed = was.iter().zip(&now).position(|(a, b)| a != b);
            if let (Some(at), Ok(file)) = (changed, fs::OpenOptions::new().write(true).open(path)) {
                file.write_all_at(&now[at..=at], at as u64)
                    .expect("the file is ours");
            }
        }
        (_, Some(now)) => fs::write(path, now).expect("the file is ours"),
    }
}

/// The kernel's pages of the mount's files would hide the cache.
fn forget_pages(pod: &Pod, model: &Model) {
    for path in model.keys() {
        if let Ok(file) = fs::File::open(pod.path(path)) {
            let advised = rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed);
            advised.expect("pages can be dropped");
        }
    }
}

fn log_that_goes_back(cluster: &Cluster, objects: &Objects, writer: &Pod) {
    let pod = cluster.pod();
    writer.reload(&[]);
    fs::write(writer.path("third"), b"third").expect("the mount writes");
    writer.commit("third");
    pod.mount("data", &[]);
    fs::write(pod.path("local"), b"local").expect("the mount writes");
    pod.umount(&[]);
    let keys = objects.keys();
    // The log lists its newest record first.
    let newest = keys
        .iter()
        .find(|key| key.contains("/log/"))
        .expect("there are records");
    let was = objects.get(newest);
    objects.put(newest, None);
    let dir = pod.mount_dir();
    let said = pod.fails(7, [OsStr::new("mount"), OsStr::new("data"), dir.as_os_str()]);
    assert!(said.contains("gone back"), "{said}");
    // The record is back: everything goes on.
    objects.put(newest, Some(was));
    pod.mount("data", &[]);
    assert_eq!(fs::read(pod.path("third")).expect("it was committed"), b"third");
    assert_eq!(fs::read(pod.path("local")).expect("it is local"), b"local");
    pod.umount(&[]);
    // It is not, and that is accepted: the way that the message names.
    objects.put(newest, None);
    let said = pod.fails(7, [OsStr::new("mount"), OsStr::new("data"), dir.as_os_str()]);
    let file = said.split("remove ").nth(1).and_then(|rest| rest.lines().next());
    fs::remove_file(file.expect("the message names a file").trim()).expect("it is there");
    pod.mount("data", &[]);
    assert_eq!(fs::read(pod.path("local")).expect("it is local"), b"local");
    pod.commit("on the log as it is");
    let reader = cluster.pod();
    reader.mount("data", &["--read-only"]);
    assert_eq!(
        fs::read(reader.path("local")).expect("it was committed"),
        b"local"
    );
}
