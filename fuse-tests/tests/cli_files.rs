//! Files of a volume without a mount: put, get, ls, cat, cp, rm; fsck and doctor. The real program against a directory
//! store and against an S3 server.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Stdio;

use fuse_tests::pod::Pod;
use fuse_tests::s3d::{Action, Conditions, FaultRule, S3d, S3dOptions, Verb};
use serde_json::Value;
use tempfile::TempDir;

/// A pod with a store of its own and a directory for files.
struct Bench {
    pod: Pod,
    work: TempDir,
    server: Option<S3d>,
}

impl Bench {
    fn on_dir() -> Bench {
        let work = tempfile::tempdir().unwrap();
        let pod = Pod::new(&format!("file://{}/store", work.path().display()));
        Bench {
            pod,
            work,
            server: None,
        }
    }

    fn on_s3() -> Bench {
        let server = S3d::start_blocking(S3dOptions::default()).unwrap();
        let credentials = server.credentials_file().unwrap();
        let pod = Pod::new(&server.url("bucket/prefix"))
            .env("AWS_SHARED_CREDENTIALS_FILE", credentials.to_str().unwrap())
            .env("AWS_EC2_METADATA_DISABLED", "true");
        Bench {
            pod,
            work: tempfile::tempdir().unwrap(),
            server: Some(server),
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.work.path().join(name)
    }

    fn text(&self, name: &str) -> String {
        self.path(name).to_str().unwrap().to_owned()
    }

    fn write(&self, name: &str, bytes: &[u8]) -> String {
        let path = self.path(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, bytes).unwrap();
        path.to_str().unwrap().to_owned()
    }

    /// Standard output of a command that must succeed.
    fn out(&self, arguments: &[&str]) -> String {
        let output = self.pod.run(arguments);
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{arguments:?}: {error}");
        String::from_utf8(output.stdout).unwrap()
    }

    /// The JSON of a command, whatever its exit code, which is given too.
    fn json_any(&self, arguments: &[&str]) -> (i32, Value) {
        let output = self.pod.command(arguments).arg("--json").output().unwrap();
        let value = serde_json::from_slice(&output.stdout).unwrap_or(Value::Null);
        (output.status.code().unwrap(), value)
    }
}

/// What must come back of a local tree: by path, everything but inode numbers. Names of one inode are told by the first.
fn picture(root: &Path) -> BTreeMap<PathBuf, String> {
    let mut found = BTreeMap::new();
    let mut first: BTreeMap<u64, PathBuf> = BTreeMap::new();
    let mut open = vec![PathBuf::new()];
    while let Some(relative) = open.pop() {
        let path = root.join(&relative);
        let metadata = fs::symlink_metadata(&path).unwrap();
        let kind = metadata.file_type();
        let mut text = format!(
            "{:o} {}:{} {}.{:09}",
            metadata.mode(),
            metadata.uid(),
            metadata.gid(),
            metadata.mtime(),
            metadata.mtime_nsec()
        );
        if kind.is_dir() {
            let mut names: Vec<_> = fs::read_dir(&path)
                .unwrap()
                .map(|e| e.unwrap().file_name())
                .collect();
            // So that the first name of an inode is the same in two pictures.
            names.sort_by(|a, b| b.cmp(a));
            open.extend(names.into_iter().map(|name| relative.join(name)));
        } else {
            if metadata.nlink() > 1 {
                let name = first.entry(metadata.ino()).or_insert_with(|| relative.clone());
                text.push_str(&format!(
                    " same as {}, {} names",
                    name.display(),
                    metadata.nlink()
                ));
            }
            if kind.is_symlink() {
                text.push_str(&format!(" -> {}", fs::read_link(&path).unwrap().display()));
            } else if kind.is_file() {
                let bytes = fs::read(&path).unwrap();
                let hash = sum(&bytes);
                text.push_str(&format!(" {} bytes {hash:x}", bytes.len()));
            } else {
                assert!(kind.is_fifo());
            }
        }
        found.insert(relative, text);
    }
    found
}

fn sum(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

/// A small generator: a run repeats with its seed.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % limit
    }

    fn bytes(&mut self, len: u64) -> Vec<u8> {
        (0..len).map(|_| self.below(256) as u8).collect()
    }
}

/// Directories, files of every form of content, links, holes, odd names, modes and times.
fn random_tree(root: &Path, seed: u64) {
    let mut random = Random(seed | 1);
    fs::create_dir(root).unwrap();
    let mut dirs = vec![root.to_owned()];
    let mut files: Vec<PathBuf> = Vec::new();
    for number in 0..60 {
        let dir = dirs[random.below(dirs.len() as u64) as usize].clone();
        let odd = ["", " with space", "\u{e4}\u{1f600}", "-n", ".hidden", "\\back"][random.below(6) as usize];
        let path = dir.join(format!("{number}{odd}"));
        match random.below(12) {
            0..=3 => {
                fs::create_dir(&path).unwrap();
                dirs.push(path);
                continue;
            }
            4 if !files.is_empty() => {
                let from = &files[random.below(files.len() as u64) as usize];
                fs::hard_link(from, &path).unwrap();
                continue;
            }
            5 => symlink(["../x", "/absolute", "0"][random.below(3) as usize], &path).unwrap(),
            6 => {
                let file = fs::File::create(&path).unwrap();
                file.set_len(20 << 20).unwrap();
                file.write_all_at(b"in the middle of a hole", 9 << 20).unwrap();
                files.push(path.clone());
            }
            _ => {
                let len = [0, 1, 256, 257, 5000, 70_000][random.below(6) as usize];
                fs::write(&path, random.bytes(len)).unwrap();
                files.push(path.clone());
            }
        }
        if !path.is_symlink() {
            let mode = [0o644, 0o600, 0o755, 0o4711, 0o444][random.below(5) as usize];
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            let time = std::time::UNIX_EPOCH
                + std::time::Duration::new(random.below(2_000_000_000), random.below(999_999_999) as u32);
            fs::File::options()
                .read(true)
                .open(&path)
                .unwrap()
                .set_modified(time)
                .unwrap();
        }
    }
    fs::write(root.join("large"), random.bytes(9 << 20)).unwrap();
    rustix::fs::mknodat(
        rustix::fs::CWD,
        root.join("fifo"),
        rustix::fs::FileType::Fifo,
        rustix::fs::Mode::from_raw_mode(0o640),
        0,
    )
    .unwrap();
    for (number, dir) in dirs.iter().enumerate() {
        let time = std::time::UNIX_EPOCH + std::time::Duration::new(1_000_000 + number as u64, 5);
        fs::File::open(dir).unwrap().set_modified(time).unwrap();
    }
}

fn roundtrip(bench: &Bench, seed: u64) {
    let original = bench.path("tree");
    random_tree(&original, seed);
    let before = picture(&original);
    bench.pod.json(["volume", "create", "v"]);
    let put = bench
        .pod
        .json(["put", &bench.text("tree"), "v:/a/b/", "-m", "seed"]);
    assert_eq!(put["seq"], 1, "missing directories are made, all in one record");
    let got = bench.pod.json(["get", "v:/a/b/tree", &bench.text("got/")]);
    assert_eq!(picture(&bench.path("got/tree")), before, "seed {seed}");
    assert_eq!(
        got["files"].as_u64().unwrap() + got["dirs"].as_u64().unwrap(),
        before.len() as u64
    );
    let sparse = |tree: &str| -> u64 {
        let walk = picture(&bench.path(tree)).into_keys();
        walk.map(|p| fs::symlink_metadata(bench.path(tree).join(p)).unwrap().blocks())
            .sum()
    };
    assert!(sparse("got/tree") <= sparse("tree") + 64, "holes stay holes");

    // A copy sends no contents, and is the same but for what hard links become: files of their own.
    let copied = bench.pod.json(["cp", "-r", "v:/a/b/tree", "v:/copy"]);
    assert!(copied["bytes_sent"].as_u64().unwrap() < 1 << 20, "{copied}");
    bench.pod.json(["get", "v:/copy", &bench.text("copied")]);
    let plain = |tree: BTreeMap<PathBuf, String>| -> Vec<(PathBuf, String)> {
        let strip = |text: &String| {
            let cut = text.find(" same as ");
            let end = text.find(" names").map(|at| at + 6);
            cut.zip(end).map_or(text.clone(), |(cut, end)| {
                format!("{}{}", &text[..cut], &text[end..])
            })
        };
        tree.iter()
            .filter(|(path, _)| path.as_os_str() != "")
            .map(|(path, text)| (path.clone(), strip(text)))
            .collect()
    };
    assert_eq!(plain(picture(&bench.path("copied"))), plain(before.clone()));

    let large = fs::read(original.join("large")).unwrap();
    assert!(bench.pod.run(["cat", "v:/copy/large"]).stdout == large);
    assert!(bench.pod.run(["get", "v:/a/b/tree/large", "-"]).stdout == large);
    let listed = bench.pod.json(["ls", "-r", "v:/a/b/tree"]);
    assert_eq!(listed["entries"].as_array().unwrap().len(), before.len() - 1);

    let checked = bench.pod.json(["fsck", "v", "--all-records"]);
    assert_eq!(
        (&checked["damaged"], &checked["unreferenced"]),
        (&0.into(), &0.into()),
        "{checked}"
    );
    assert_eq!(checked["records"], 3);
    let quick = bench.pod.json(["fsck", "v", "--quick"]);
    assert_eq!(
        (&quick["damaged"], &quick["bytes_read"]),
        (&0.into(), &0.into()),
        "{quick}"
    );

    let removed = bench.pod.json(["rm", "-r", "v:/a", "v:/copy"]);
    let entries = before.len() as u64;
    let counted = removed["removed_files"].as_u64().unwrap() + removed["removed_dirs"].as_u64().unwrap();
    assert_eq!(counted, 2 * entries + 2, "{removed}");
    assert_eq!(bench.out(&["ls", "v:/"]), "");
    assert_eq!(bench.pod.json(["volume", "info", "v"])["bytes"], 0);
}

#[test]
fn trees_come_back_as_they_were_from_a_directory_store() {
    roundtrip(&Bench::on_dir(), 4711);
}

#[test]
fn trees_come_back_as_they_were_from_s3() {
    roundtrip(&Bench::on_s3(), 815);
}

#[test]
fn nothing_is_replaced_unless_it_is_said() {
    let bench = Bench::on_dir();
    bench.pod.json(["volume", "create", "v"]);
    let (one, two) = (bench.write("one", b"1"), bench.write("two", b"22"));
    bench.out(&["put", &one, "v:/f"]);
    assert_eq!(bench.out(&["cat", "v:/f"]), "1");
    let said = bench.pod.fails(9, ["put", &two, "v:/f"]);
    assert!(said.contains("/f") && said.contains("--force"), "{said}");
    bench.out(&["put", "-f", &two, "v:/f"]);
    assert_eq!(bench.out(&["cat", "v:/f"]), "22");
    // One that is in the way stops all.
    bench.pod.fails(3, ["put", &one, &two, "v:/f"]);
    bench.out(&["put", &one, &two, "v:/d"]);
    bench
        .pod
        .fails(9, ["put", &one, &bench.write("new", b""), "v:/d/"]);
    assert_eq!(bench.out(&["ls", "v:/d"]), "/d/one\n/d/two\n");
    // A directory is never replaced by a file, and a file by a directory only if that is said.
    fs::create_dir(bench.path("x")).unwrap();
    fs::create_dir(bench.path("x/d")).unwrap();
    bench.write("x/f/in", b"deep");
    bench.pod.fails(2, ["put", "-f", &one, "v:/d/../d"]);
    let file_named_d = bench.write("y/d", b"");
    let said = bench.pod.fails(9, ["put", "-f", &file_named_d, "v:/"]);
    assert!(said.contains("directory"), "{said}");
    bench.pod.fails(9, ["put", &bench.text("x/."), "v:/"]);
    bench.out(&["put", "-f", &bench.text("x/."), "v:/"]);
    assert_eq!(bench.out(&["cat", "v:/f/in"]), "deep");
    assert_eq!(
        bench.out(&["ls", "v:/d"]),
        "/d/one\n/d/two\n",
        "directories are merged"
    );

    // The same on this side.
    bench.out(&["get", "v:/d", &bench.text("got")]);
    bench.write("got/one", b"mine");
    let said = bench.pod.fails(9, ["get", "v:/d/one", &bench.text("got")]);
    assert!(said.contains("got/one"), "{said}");
    assert_eq!(fs::read(bench.path("got/one")).unwrap(), b"mine");
    bench.out(&["get", "-f", "v:/d/one", &bench.text("got")]);
    assert_eq!(fs::read(bench.path("got/one")).unwrap(), b"1");
    fs::remove_file(bench.path("got/one")).unwrap();
    fs::create_dir(bench.path("got/one")).unwrap();
    bench.pod.fails(9, ["get", "-f", "v:/d/one", &bench.text("got")]);
    let left: Vec<_> = fs::read_dir(bench.path("got"))
        .unwrap()
        .map(|e| e.unwrap().file_name())
        .collect();
    assert_eq!(left.len(), 2, "no temporary files stay: {left:?}");

    // cp, by the same rules.
    bench.out(&["cp", "v:/d/one", "v:/d/three"]);
    bench.pod.fails(9, ["cp", "v:/d/two", "v:/d/three"]);
    bench.out(&["cp", "-f", "v:/d/two", "v:/d/three"]);
    assert_eq!(bench.out(&["cat", "v:/d/three"]), "22");
    bench.pod.fails(3, ["cp", "v:/d", "v:/e"]);
    bench.pod.fails(3, ["cp", "-r", "v:/d", "v:/d/in"]);
    bench.pod.json(["volume", "create", "w"]);
    let said = bench.pod.fails(2, ["cp", "v:/d/one", "w:/"]);
    assert!(
        said.contains("two volumes") && said.contains("sailvol get"),
        "{said}"
    );
}

#[test]
fn links_planted_in_the_target_are_not_followed() {
    let bench = Bench::on_dir();
    bench.pod.json(["volume", "create", "v"]);
    bench.write("t/d/f", b"bytes");
    bench.out(&["put", &bench.text("t"), "v:/"]);
    fs::create_dir_all(bench.path("outside")).unwrap();
    fs::create_dir_all(bench.path("out/t")).unwrap();
    symlink(bench.path("outside"), bench.path("out/t/d")).unwrap();
    for force in [&["get", "v:/t"][..], &["get", "-f", "v:/t"]] {
        let out = bench.text("out");
        let arguments: Vec<&str> = force.iter().copied().chain([out.as_str()]).collect();
        bench.pod.fails(9, arguments);
    }
    assert_eq!(fs::read_dir(bench.path("outside")).unwrap().count(), 0);
    fs::remove_file(bench.path("out/t/d")).unwrap();
    fs::create_dir(bench.path("out/t/d")).unwrap();
    bench.write("outside/kept", b"kept");
    symlink(bench.path("outside/kept"), bench.path("out/t/d/f")).unwrap();
    bench.pod.fails(9, ["get", "v:/t", &bench.text("out")]);
    bench.out(&["get", "-f", "v:/t", &bench.text("out")]);
    assert_eq!(fs::read(bench.path("outside/kept")).unwrap(), b"kept");
    assert_eq!(fs::read(bench.path("out/t/d/f")).unwrap(), b"bytes");
}

#[test]
fn wrong_requests_have_their_exit_codes() {
    let bench = Bench::on_dir();
    bench.pod.json(["volume", "create", "v"]);
    let file = bench.write("f", b"1");
    bench.pod.fails(8, ["get", "v:/absent", "-"]);
    bench.pod.fails(8, ["get", "absent:/x"]);
    bench.pod.fails(2, ["get", "v:/", "-"]);
    bench.pod.fails(2, ["put", &file, "./local"]);
    bench.pod.fails(8, ["put", &bench.text("absent"), "v:/"]);
    bench.pod.fails(8, ["rm", "v:/absent"]);
    bench.pod.fails(3, ["rm", "-r", "v:/"]);
    assert_eq!(bench.out(&["rm", "-f", "v:/absent"]), "nothing to remove\n");
    bench.out(&["put", &file, "v:/d/f"]);
    bench.pod.fails(3, ["rm", "v:/d"]);
    assert_eq!(bench.out(&["ls", "v:/d"]), "/d/f\n");
    assert!(
        bench
            .out(&["rm", "-r", "v:/d", "v:/d/f"])
            .starts_with("removed 1 file and 1 directory")
    );
    let said = bench.pod.fails(8, ["get", "v:/x", "/absent/y"]);
    assert!(said.contains("no such file"), "{said}");
}

#[test]
fn standard_input_becomes_one_file() {
    let bench = Bench::on_dir();
    bench.pod.json(["volume", "create", "v"]);
    let mut child = bench
        .pod
        .command(["put", "-", "v:/logs/today"])
        .stdin(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(b"from a pipe").unwrap();
    assert!(child.wait().unwrap().success());
    assert_eq!(bench.out(&["cat", "v:/logs/today"]), "from a pipe");
    bench.pod.fails(2, ["put", "-", "v:/logs"]);
    bench.pod.fails(9, ["put", "-", "v:/logs/today"]);
}

#[test]
fn a_put_that_is_interrupted_publishes_nothing() {
    let bench = Bench::on_s3();
    bench.pod.json(["volume", "create", "v"]);
    let server = bench.server.as_ref().unwrap();
    let file = bench.write("f", &Random(9).bytes(5 << 20));
    server.fault(FaultRule::new(Action::Stall).key("/d/"));
    let child = bench
        .pod
        .command(["put", &file, "v:/f"])
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    fuse_tests::pod::wait_until("the chunk is on its way", || {
        server.counters().verbs.values().any(|verb| verb.faults > 0)
    });
    let pid = rustix::process::Pid::from_raw(child.id() as i32).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("nothing was published"));
    server.clear_faults();
    server.release();
    assert_eq!(bench.pod.json(["volume", "info", "v"])["head"], 0);
}

/// All objects of a kind (`d`, `p`, `log`) below a directory store, newest record first.
fn objects(bench: &Bench, kind: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut open = vec![bench.path("store")];
    while let Some(dir) = open.pop() {
        for entry in fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            match path.is_dir() {
                true => open.push(path),
                false => found.push(path),
            }
        }
    }
    let part = format!("/{kind}/");
    found.retain(|path| path.to_str().unwrap().contains(&part));
    found.sort();
    found
}

#[test]
fn fsck_finds_every_kind_of_damage_and_names_the_paths() {
    let bench = Bench::on_dir();
    bench.pod.json(["volume", "create", "v"]);
    bench.write("t/chunked", &Random(1).bytes(5 << 20));
    bench.write("t/sub/small", &Random(2).bytes(50_000));
    fs::hard_link(bench.path("t/sub/small"), bench.path("t/other name")).unwrap();
    bench.out(&["put", &bench.text("t"), "v:/"]);
    // Nodes of a pack of their own.
    bench.write("many/x", b"");
    for number in 0..600 {
        bench.write(&format!("many/{number:03} {}", "name".repeat(20)), b"tiny");
    }
    bench.out(&["put", &bench.text("many"), "v:/"]);

    let flip = |path: &Path, at: usize| {
        let mut bytes = fs::read(path).unwrap();
        bytes[at] ^= 1;
        fs::write(path, bytes).unwrap();
    };
    let damaged = |paths: &[&str], quick_sees: bool| {
        let (code, found) = bench.json_any(&["fsck", "v"]);
        assert_eq!(code, 7, "{found}");
        let named: Vec<&str> = found["damage"]
            .as_array()
            .unwrap()
            .iter()
            .flat_map(|damage| damage["paths"].as_array().unwrap())
            .map(|path| path.as_str().unwrap())
            .collect();
        for path in paths {
            assert!(named.contains(path), "{path} in {found}");
        }
        let (code, found) = bench.json_any(&["fsck", "v", "--quick"]);
        assert_eq!(code, if quick_sees { 7 } else { 0 }, "{found}");
    };
    let restore = |path: &Path, bytes: &[u8]| fs::write(path, bytes).unwrap();

    let chunk = objects(&bench, "d").pop().unwrap();
    let whole = fs::read(&chunk).unwrap();
    flip(&chunk, whole.len() / 2);
    damaged(&["/t/chunked"], false);
    fs::write(&chunk, &whole[..whole.len() - 1]).unwrap();
    damaged(&["/t/chunked"], false);
    fs::write(&chunk, b"").unwrap();
    damaged(&["/t/chunked"], true);
    fs::remove_file(&chunk).unwrap();
    damaged(&["/t/chunked"], true);
    let text = bench.pod.run(["fsck", "v"]);
    assert!(String::from_utf8_lossy(&text.stdout).contains("DAMAGED"));
    restore(&chunk, &whole);

    let packs = objects(&bench, "p");
    let small = fs::read(bench.path("t/sub/small")).unwrap();
    // Random bytes are stored as they are.
    let holds = |path: &&PathBuf| {
        fs::read(path)
            .unwrap()
            .windows(64)
            .any(|window| window == &small[..64])
    };
    let with_blob = packs.iter().find(holds).unwrap().clone();
    let whole = fs::read(&with_blob).unwrap();
    let at = whole
        .windows(64)
        .position(|window| window == &small[..64])
        .unwrap();
    flip(&with_blob, at + 1000);
    damaged(&["/t/sub/small", "/t/other name"], false);
    fs::write(&with_blob, &whole[..at + 1000]).unwrap();
    damaged(&["/t/sub/small", "/t/other name"], true);
    fs::remove_file(&with_blob).unwrap();
    damaged(&["/t/sub/small", "/t/other name"], true);
    restore(&with_blob, &whole);

    let with_nodes = packs
        .iter()
        .find(|path| **path != with_blob && fs::metadata(path).unwrap().len() > 2000)
        .unwrap();
    let whole = fs::read(with_nodes).unwrap();
    flip(with_nodes, 500);
    damaged(&["/many"], true);
    fs::write(with_nodes, &whole[..500]).unwrap();
    damaged(&["/many"], true);
    fs::remove_file(with_nodes).unwrap();
    damaged(&["/many"], true);
    restore(with_nodes, &whole);
    // Bytes that nothing refers to, in a footer, are not right either.
    flip(with_nodes, whole.len() - 30);
    damaged(&[], false);
    restore(with_nodes, &whole);

    let log = objects(&bench, "log");
    assert_eq!(log.len(), 3);
    let whole = fs::read(&log[1]).unwrap();
    flip(&log[1], whole.len() - 1);
    damaged(&[], false);
    fs::remove_file(&log[1]).unwrap();
    damaged(&[], true);
    restore(&log[1], &whole);
    let newest = fs::read(&log[0]).unwrap();
    flip(&log[0], newest.len() - 1);
    bench.pod.fails(7, ["fsck", "v"]);
    restore(&log[0], &newest);

    let stray = with_blob.with_file_name(format!(
        "{}{}",
        &with_blob.file_name().unwrap().to_str().unwrap()[..2],
        "ab".repeat(31)
    ));
    fs::write(&stray, b"left behind").unwrap();
    let checked = bench.pod.json(["fsck", "v", "--all-records"]);
    assert_eq!(
        (&checked["damaged"], &checked["unreferenced"]),
        (&0.into(), &1.into()),
        "{checked}"
    );
    assert!(stray.exists(), "fsck deletes nothing");
}

/// Status by name of the checks of `doctor`.
fn doctor(bench: &Bench, arguments: &[&str]) -> (i32, BTreeMap<String, (String, String)>) {
    let all: Vec<&str> = ["doctor"].iter().chain(arguments).copied().collect();
    let (code, checks) = bench.json_any(&all);
    let text = |check: &Value, field: &str| check[field].as_str().unwrap_or_default().to_owned();
    let checks = checks.as_array().unwrap_or_else(|| panic!("{checks}"));
    let found = checks
        .iter()
        .map(|c| (text(c, "name"), (text(c, "status"), format!("{c}"))))
        .collect();
    (code, found)
}

#[test]
fn doctor_tells_a_good_store_from_bad_ones() {
    let bench = Bench::on_s3();
    let server = bench.server.as_ref().unwrap();
    bench.pod.json(["volume", "create", "v"]);
    let (code, found) = doctor(&bench, &["v"]);
    for name in [
        "store",
        "store's promises",
        "credentials",
        "volume",
        "clock",
        "kernel",
        "state directory",
    ] {
        assert_ne!(
            found.get(name).map(|(status, _)| status.as_str()),
            Some("fail"),
            "{name} in {found:?}"
        );
        assert!(found.contains_key(name), "{name} in {found:?}");
    }
    assert_eq!(code, 0, "{found:?}");
    assert!(!format!("{found:?}").contains("s3d-secret"));
    let (code, found) = doctor(&bench, &["absent"]);
    assert_eq!((code, found["volume"].0.as_str()), (0, "warn"), "{found:?}");
    // The URL of the store itself.
    let (code, found) = doctor(&bench, &[&server.url("bucket/prefix")]);
    assert_eq!((code, found["store"].0.as_str()), (0, "ok"), "{found:?}");

    server.set(|settings| settings.conditions = Conditions::Ignored);
    let (code, found) = doctor(&bench, &[]);
    assert_eq!(
        (code, found["store's promises"].0.as_str()),
        (1, "fail"),
        "{found:?}"
    );
    server.set(|settings| settings.conditions = Conditions::Atomic);

    server.set(|settings| settings.clock_offset_s = 200);
    let (code, found) = doctor(&bench, &[]);
    assert_eq!((code, found["clock"].0.as_str()), (0, "warn"), "{found:?}");
    server.set(|settings| settings.clock_offset_s = 0);

    let (code, found) = doctor(&bench, &[&server.url("no-such-bucket")]);
    assert_eq!(code, 1, "{found:?}");

    let keys = bench.write(
        "wrong",
        b"[default]\naws_access_key_id = s3d-access\naws_secret_access_key = wrong\n",
    );
    let wrong = Bench {
        pod: Pod::new(&server.url("bucket/prefix")).env("AWS_SHARED_CREDENTIALS_FILE", &keys),
        work: tempfile::tempdir().unwrap(),
        server: None,
    };
    let (code, found) = doctor(&wrong, &[]);
    assert_eq!((code, found["store"].0.as_str()), (1, "fail"), "{found:?}");
    wrong.pod.fails(4, ["ls", "v:/"]);
    server.fault(
        FaultRule::new(Action::Reject {
            status: 403,
            code: None,
            retry_after_s: None,
        })
        .verb(Verb::Put),
    );
    let (code, found) = doctor(&bench, &[]);
    assert_eq!((code, found["store"].0.as_str()), (1, "fail"), "{found:?}");
}

#[test]
fn doctor_needs_no_network_for_this_machine() {
    let bench = Bench::on_dir();
    let (code, found) = doctor(&bench, &["--local"]);
    assert_eq!((code, found.contains_key("store")), (0, false), "{found:?}");
    let (code, _) = doctor(&bench, &[]);
    assert_eq!(code, 0);
}
