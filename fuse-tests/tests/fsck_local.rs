//! `sailvol fsck --state` and `--cache`: what a mount leaves on this machine is clean, and whatever is done to it is named.

use std::fs;
use std::io::Write;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use fuse_tests::pod::Pod;
use serde_json::Value;

struct Bench {
    pod: Pod,
    _store: tempfile::TempDir,
}

impl Bench {
    /// A pod that was mounted, has read a large file and has uncommitted work.
    fn new() -> Bench {
        let store = tempfile::tempdir().unwrap();
        let pod = Pod::new(&format!("file://{}", store.path().display()));
        pod.mount("v", &["--create"]);
        fs::write(pod.path("large"), vec![5; 9 << 20]).unwrap();
        pod.commit("large");
        pod.umount(&[]);
        pod.forget_local_state();
        pod.mount("v", &[]);
        assert_eq!(fs::read(pod.path("large")).unwrap().len(), 9 << 20);
        for name in ["one", "two", "three"] {
            let mut file = fs::File::create(pod.path(name)).unwrap();
            file.write_all(&[6; 10_000]).unwrap();
            file.sync_all().unwrap();
        }
        pod.umount(&[]);
        Bench { pod, _store: store }
    }

    /// What `fsck` says about `what` (`state` or `cache`), which must end with `code`.
    fn check(&self, what: &str, code: i32) -> Value {
        let option = format!("--{what}");
        let dir = self.pod.local_dir(what);
        let mut command = self
            .pod
            .command(["fsck", &option, dir.to_str().unwrap(), "--json"]);
        let output = command.output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout);
        let error = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{text}{error}");
        let answer: Value = serde_json::from_str(&text).unwrap();
        answer[0].clone()
    }

    /// The one directory that `fsck` looks at.
    fn dir(&self, what: &str) -> PathBuf {
        let answer = self.check(what, 0);
        PathBuf::from(answer["dir"].as_str().unwrap())
    }

    fn told(&self, what: &str, path: &Path) {
        let answer = self.check(what, 7);
        let damage = answer["damage"].as_array().unwrap();
        let shown = path.to_str().unwrap();
        assert!(
            damage.iter().any(|line| line.as_str().unwrap().contains(shown)),
            "{shown}: {answer}"
        );
    }
}

/// Files below a directory whose path contains `part`, sorted.
fn files(dir: &Path, part: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut open = vec![dir.to_owned()];
    while let Some(dir) = open.pop() {
        for entry in fs::read_dir(dir).unwrap().flatten() {
            match entry.file_type().unwrap().is_dir() {
                true => open.push(entry.path()),
                false => found.push(entry.path()),
            }
        }
    }
    found.retain(|path| path.to_str().unwrap().contains(part));
    found.sort();
    found
}

/// Does something to a file, looks, and puts it back.
fn with_bytes(path: &Path, change: impl FnOnce(&mut Vec<u8>), look: impl FnOnce()) {
    let whole = fs::read(path).unwrap();
    let mut bytes = whole.clone();
    change(&mut bytes);
    fs::write(path, bytes).unwrap();
    look();
    fs::write(path, whole).unwrap();
}

#[test]
fn damage_of_a_state_directory_is_named() {
    let bench = Bench::new();
    let dir = bench.dir("state");
    let clean = bench.check("state", 0);
    assert_eq!(
        (&clean["bodies"], &clean["foreign"]),
        (&3.into(), &Value::Array(Vec::new())),
        "{clean}"
    );

    let journal = files(&dir, "/journal").pop().unwrap();
    // An unfinished end is no damage: nobody was told that it is safe.
    with_bytes(
        &journal,
        |bytes| bytes.extend_from_slice(&[9; 40]),
        || {
            assert_eq!(bench.check("state", 0)["cut_bytes"], 40);
        },
    );
    // Before a marker it is.
    with_bytes(
        &journal,
        |bytes| {
            let middle = bytes.len() / 2;
            bytes[middle] ^= 1;
        },
        || bench.told("state", &journal),
    );
    with_bytes(
        &journal,
        |bytes| bytes.truncate(30),
        || bench.told("state", &journal),
    );

    let bodies = files(&dir, "/bodies/");
    assert!(bodies.len() >= 3, "{bodies:?}");
    let named: Vec<&PathBuf> = bodies
        .iter()
        .filter(|path| fs::metadata(path).unwrap().len() == 10_000)
        .collect();
    let (body, aside) = (named[0], dir.join("aside"));
    fs::rename(body, &aside).unwrap();
    bench.told("state", body);
    symlink("/etc/passwd", body).unwrap();
    bench.told("state", body);
    fs::remove_file(body).unwrap();
    fs::rename(&aside, body).unwrap();

    for kept in files(&dir, "/base/") {
        with_bytes(&kept, |bytes| bytes[0] ^= 1, || bench.told("state", &kept));
    }
    let current = dir.join("CURRENT");
    with_bytes(&current, |bytes| bytes[5] ^= 1, || bench.told("state", &current));

    let foreign = dir.join("notes.txt");
    fs::write(&foreign, b"mine").unwrap();
    assert_eq!(bench.check("state", 0)["foreign"], serde_json::json!([foreign]));
    fs::remove_file(&foreign).unwrap();
    let left = dir.join("overlay-99");
    fs::create_dir(&left).unwrap();
    assert_eq!(bench.check("state", 0)["leftovers"], 1);
    fs::remove_dir(&left).unwrap();
    fs::set_permissions(&dir, fs::Permissions::from_mode(0o755)).unwrap();
    bench.told("state", &dir);
    fs::set_permissions(&dir, fs::Permissions::from_mode(0o700)).unwrap();
    bench.check("state", 0);

    // Looking at it changed nothing: the work is there.
    bench.pod.mount("v", &[]);
    assert_eq!(fs::read(bench.pod.path("two")).unwrap(), [6; 10_000]);
    bench.pod.umount(&[]);
}

#[test]
fn damage_of_a_cache_directory_is_named_and_mended_by_the_next_mount() {
    let bench = Bench::new();
    let dir = bench.dir("cache");
    let clean = bench.check("cache", 0);
    assert!(
        clean["frames"].as_u64() >= Some(9) && clean["volume"].is_string(),
        "{clean}"
    );

    let content = files(&dir, "/contents/").pop().unwrap();
    with_bytes(
        &content,
        |bytes| bytes[3_000_000] ^= 1,
        || bench.told("cache", &content),
    );
    with_bytes(
        &content,
        |bytes| bytes.truncate(100),
        || bench.told("cache", &content),
    );
    let volume = dir.join("volume");
    with_bytes(&volume, |bytes| bytes[0] = b'z', || bench.told("cache", &volume));
    let foreign = dir.join("contents/notes");
    fs::write(&foreign, b"").unwrap();
    assert_eq!(bench.check("cache", 0)["foreign"], serde_json::json!([foreign]));

    // A planted link is named, and the next mount writes nothing through it.
    let (packs, elsewhere) = (dir.join("packs"), tempfile::tempdir().unwrap());
    fs::remove_dir_all(&packs).unwrap();
    symlink(elsewhere.path(), &packs).unwrap();
    bench.told("cache", &packs);
    with_flipped(&content);
    bench.pod.mount("v", &[]);
    assert_eq!(fs::read(bench.pod.path("large")).unwrap(), vec![5; 9 << 20]);
    assert_eq!(fs::read_dir(elsewhere.path()).unwrap().count(), 0);
    assert_eq!(bench.check("cache", 0)["in_use"], true);
    bench.pod.umount(&[]);
    let mended = bench.check("cache", 0);
    assert_eq!(mended["foreign"], Value::Array(Vec::new()), "{mended}");
}

fn with_flipped(path: &Path) {
    let mut bytes = fs::read(path).unwrap();
    bytes[5_000_000] ^= 1;
    fs::write(path, bytes).unwrap();
}

#[test]
fn planted_files_in_place_of_directories_are_refused_and_not_followed() {
    let store = tempfile::tempdir().unwrap();
    let pod = Pod::new(&format!("file://{}", store.path().display()));
    pod.json(["volume", "create", "v"]);
    let elsewhere = tempfile::tempdir().unwrap();
    let dir = pod.mount_dir().to_str().unwrap().to_owned();
    let named = |name: &str| {
        vec![
            "mount".to_owned(),
            "v".into(),
            dir.clone(),
            "--name".into(),
            name.into(),
        ]
    };
    let refused = |name: &str| {
        let said = pod.fails(3, named(name));
        assert!(said.contains(name), "{said}");
    };
    // The directory of the mount's name in the state directory: a link, somebody else's, open to others who have used that.
    symlink(elsewhere.path(), pod.local_dir("state").join("link")).unwrap();
    let open = pod.local_dir("state").join("open");
    fs::create_dir(&open).unwrap();
    fs::set_permissions(&open, fs::Permissions::from_mode(0o777)).unwrap();
    symlink(elsewhere.path(), open.join("planted")).unwrap();
    let foreign = pod.local_dir("state").join("foreign");
    fs::create_dir(&foreign).unwrap();
    let names = if rustix::process::geteuid().is_root() {
        std::os::unix::fs::chown(&foreign, Some(12_345), None).unwrap();
        ["link", "open", "foreign"].as_slice()
    } else {
        ["link", "open"].as_slice()
    };
    names.iter().for_each(|name| refused(name));
    // The log is not written through a link either.
    let victim = elsewhere.path().join("victim");
    fs::write(&victim, b"precious").unwrap();
    let logs = pod.local_dir("state").join("log");
    fs::create_dir(&logs).unwrap();
    fs::set_permissions(&logs, fs::Permissions::from_mode(0o700)).unwrap();
    symlink(&victim, logs.join("daemon.log")).unwrap();
    assert_ne!(pod.run(named("log")).status.code(), Some(0));
    // A file where a directory belongs.
    fs::write(pod.local_dir("state").join("file"), b"").unwrap();
    assert_ne!(pod.run(named("file")).status.code(), Some(0));
    // The cache: a link and somebody's open directory.
    symlink(elsewhere.path(), pod.local_dir("cache").join("c-link")).unwrap();
    assert_ne!(pod.run(named("c-link")).status.code(), Some(0));
    let open = pod.local_dir("cache").join("c-open");
    fs::create_dir(&open).unwrap();
    fs::set_permissions(&open, fs::Permissions::from_mode(0o777)).unwrap();
    symlink(elsewhere.path(), open.join("planted")).unwrap();
    assert_ne!(pod.run(named("c-open")).status.code(), Some(0));
    // The socket's place: a link is replaced, not followed; a directory is refused.
    symlink(&victim, pod.local_dir("run").join("sock.sock")).unwrap();
    symlink(&victim, pod.local_dir("run").join("sock.json")).unwrap();
    assert_eq!(pod.run(named("sock")).status.code(), Some(0));
    pod.umount(&[]);
    fs::create_dir(pod.local_dir("run").join("dir.sock")).unwrap();
    assert_ne!(pod.run(named("dir")).status.code(), Some(0));
    assert_eq!(fs::read(&victim).unwrap(), b"precious");
    assert_eq!(fs::read_dir(elsewhere.path()).unwrap().count(), 1);
}
