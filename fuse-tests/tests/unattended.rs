//! What a mount does by itself, and what it tells operators: autocommit, autoreload, watch, metrics, debug-bundle.

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, Stdio};

use fuse_tests::pod::{Cluster, Pod, http_get, metric, wait_until};
use fuse_tests::s3d::{Action, FaultRule};
use serde_json::Value;

fn base(pod: &Pod) -> u64 {
    pod.status()["base"].as_u64().unwrap()
}

fn autocommit(pod: &Pod, field: &str) -> Value {
    pod.status()["autocommit"][field].clone()
}

/// Waits until autocommit has looked twice more: what it had to do is done.
fn wait_for_looks(pod: &Pod) {
    let looks = || autocommit(pod, "looks").as_u64().unwrap();
    let enough = looks() + 2;
    wait_until("autocommit looks", || looks() >= enough);
}

/// Waits until everything is published, and autocommit has noted it; gives the base then. A look may come between the steps of
/// one write (a name, then its bytes), and publish each: how many records it takes is up to the machine.
fn wait_until_published(pod: &Pod, after: u64) -> u64 {
    wait_until("published, and noted", || {
        let status = pod.status();
        let base = status["base"].as_u64().unwrap();
        base > after && status["dirty"] == 0 && status["autocommit"]["last_seq"] == base
    });
    base(pod)
}

/// A program that runs beside the test and ends with it.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn autocommit_publishes_changes_and_makes_no_empty_records() {
    let cluster = Cluster::start();
    let (a, b) = (cluster.pod(), cluster.pod());
    a.mount("data", &["--create", "--autocommit", "1s"]);
    let first = base(&a);
    fs::write(a.path("f"), "one").unwrap();
    let published = wait_until_published(&a, first);
    wait_for_looks(&a);
    assert_eq!(base(&a), published, "nothing is new");
    // A file that stays open for writing is published as it is, and not again until there is more.
    let mut open = File::create(a.path("log")).unwrap();
    open.write_all(b"line\n").unwrap();
    wait_until("published", || base(&a) > published);
    // Of two looks the second one began after the line was written.
    wait_for_looks(&a);
    let then = base(&a);
    wait_for_looks(&a);
    assert_eq!(base(&a), then, "an open file alone makes no record");
    open.write_all(b"more\n").unwrap();
    drop(open);
    wait_until_published(&a, then);
    b.mount("data", &[]);
    assert_eq!(fs::read(b.path("log")).unwrap(), b"line\nmore\n");
    assert_eq!(fs::read(b.path("f")).unwrap(), b"one");
}

/// A reload puts another overlay in place, and what comes then must not look like what was published before it.
#[test]
fn autocommit_publishes_the_first_change_after_a_reload() {
    let cluster = Cluster::start();
    let (a, b) = (cluster.pod(), cluster.pod());
    a.mount("data", &["--create", "--autocommit", "1s"]);
    b.mount("data", &[]);
    fs::write(a.path("f"), "one").unwrap();
    wait_until_published(&a, 0);
    wait_for_looks(&a);
    fs::write(b.path("g"), "two").unwrap();
    let seq = b.commit("g")["seq"].as_u64().unwrap();
    a.reload(&[]);
    // As many steps as the first file took.
    fs::write(a.path("h"), "one").unwrap();
    wait_until_published(&a, seq);
}

#[test]
fn autocommit_leaves_large_deletions_to_a_person() {
    let cluster = Cluster::start();
    let a = cluster.pod();
    a.mount("data", &["--create", "--autocommit", "1s", "--commit-on-exit"]);
    fs::create_dir(a.path("d")).unwrap();
    for n in 0..30 {
        fs::write(a.path(format!("d/{n}")), "x").unwrap();
    }
    wait_until("published", || a.status()["dirty"] == 0);
    let before = base(&a);
    // What is moved is not deleted.
    fs::rename(a.path("d"), a.path("e")).unwrap();
    wait_until("published", || base(&a) > before && a.status()["dirty"] == 0);
    let before = base(&a);
    for n in 0..20 {
        fs::remove_file(a.path(format!("e/{n}"))).unwrap();
    }
    wait_until("held", || autocommit(&a, "held").is_string());
    wait_for_looks(&a);
    let held = autocommit(&a, "held").as_str().unwrap().to_owned();
    for part in [
        "20 of the volume's 30 files",
        "50 %",
        "`sailvol commit`",
        "`sailvol reload`",
    ] {
        assert!(held.contains(part), "{part} in {held}");
    }
    assert_eq!(base(&a), before);
    assert_eq!(a.status()["last_failure"]["kind"], "refused");
    // Nor is it published at the end.
    a.signal_daemon(rustix::process::Signal::TERM);
    let answer = a.mount("data", &["--autocommit", "1s"]);
    assert_eq!((&answer["base"], &answer["dirty"]), (&before.into(), &20.into()));
    wait_until("held again", || autocommit(&a, "held").is_string());
    // A person may.
    assert_eq!(a.commit("really")["seq"], before + 1);
    wait_until("not held", || autocommit(&a, "held").is_null());
}

#[test]
fn autocommit_waits_for_a_store_that_is_down() {
    let cluster = Cluster::start();
    let a = cluster.pod();
    a.mount("data", &["--create", "--autocommit", "1s"]);
    let first = base(&a);
    cluster.server.fault(FaultRule::new(Action::DropBefore));
    fs::write(a.path("f"), "kept").unwrap();
    let local = || -> Value { a.json(["status".as_ref(), "--local".as_ref(), a.mount_dir().as_os_str()]) };
    wait_until("it has failed", || {
        local()["autocommit"]["failures"].as_u64() >= Some(1)
    });
    let status = local();
    assert!(status["offline_secs"].is_u64(), "{status}");
    assert_eq!(status["last_failure"]["during"], "commit");
    let text = a.run(["status".as_ref(), "--local".as_ref(), a.mount_dir().as_os_str()]);
    let text = String::from_utf8(text.stdout).unwrap();
    assert!(
        text.contains("OFFLINE") && text.contains("AUTOCOMMIT HELD"),
        "{text}"
    );
    // A probe does not ask for a restart because of that.
    assert!(
        a.run(["status".as_ref(), "--check".as_ref(), a.mount_dir().as_os_str()])
            .status
            .success()
    );
    cluster.server.clear_faults();
    wait_until("published", || base(&a) > first);
    let status = a.status();
    assert_eq!(
        (&status["offline_secs"], &status["last_failure"]),
        (&Value::Null, &Value::Null)
    );
}

#[test]
fn autoreload_moves_when_nothing_is_local() {
    let cluster = Cluster::start();
    let (a, b) = (cluster.pod(), cluster.pod());
    a.mount("data", &["--create"]);
    b.mount("data", &["--autoreload", "1s"]);
    fs::write(a.path("f"), "one").unwrap();
    a.commit("f");
    wait_until("it is there", || b.path("f").exists());
    fs::write(b.path("mine"), "local").unwrap();
    fs::write(a.path("g"), "two").unwrap();
    let seq = a.commit("g")["seq"].as_u64().unwrap();
    wait_until("it waits", || b.status()["autoreload"]["held"].is_string());
    assert!(b.path("mine").exists() && !b.path("g").exists());
    b.commit("mine");
    wait_until("it moves on", || b.path("g").exists());
    assert!(b.path("mine").exists());
    assert!(base(&b) > seq);
}

/// Reads events until one of this name comes.
fn next(lines: &mut impl Iterator<Item = std::io::Result<String>>, name: &str) -> Value {
    for line in lines {
        let event: Value = serde_json::from_str(&line.unwrap()).unwrap();
        if event["event"] == name {
            return event;
        }
    }
    panic!("the events end before {name:?}");
}

#[test]
fn watchers_are_told_what_happens_until_the_end() {
    let cluster = Cluster::start();
    let (a, b) = (cluster.pod(), cluster.pod());
    a.mount("data", &["--create"]);
    b.mount("data", &[]);
    let dir = a.mount_dir();
    let mut command = a.command(["watch".as_ref(), "--json".as_ref(), dir.as_os_str()]);
    let mut watcher = Running(command.stdout(Stdio::piped()).spawn().unwrap());
    // A second one that reads nothing holds nobody up.
    let _idle = Running(command.stdout(Stdio::piped()).spawn().unwrap());
    let mut lines = BufReader::new(watcher.0.stdout.take().unwrap()).lines();
    let watching = next(&mut lines, "watching");
    fs::write(a.path("f"), "one").unwrap();
    assert_eq!(next(&mut lines, "dirty")["changes"], 1);
    let seq = a.commit("f")["seq"].clone();
    let committed = next(&mut lines, "committed");
    assert_eq!(
        (&committed["seq"], &committed["automatic"]),
        (&seq, &false.into())
    );
    assert!(committed["seq"].as_u64() > watching["base"].as_u64());
    assert_eq!(next(&mut lines, "dirty")["changes"], 0);
    // As many changes as before the commit are other changes, and told.
    fs::write(a.path("f"), "again").unwrap();
    assert_eq!(next(&mut lines, "dirty")["changes"], 1);
    let seq = a.commit("f")["seq"].clone();
    assert_eq!(next(&mut lines, "committed")["seq"], seq);
    b.reload(&[]);
    fs::write(b.path("g"), "two").unwrap();
    let theirs = b.commit("g")["seq"].clone();
    a.status();
    assert_eq!(next(&mut lines, "head-moved")["to"], theirs);
    a.reload(&[]);
    assert_eq!(next(&mut lines, "reloaded")["to"], theirs);
    a.fails(
        8,
        [
            "reload".as_ref(),
            dir.as_os_str(),
            "--to".as_ref(),
            "999".as_ref(),
        ],
    );
    let error = next(&mut lines, "error");
    assert_eq!(
        (&error["during"], &error["kind"]),
        (&"reload".into(), &"not-found".into())
    );
    a.umount(&[]);
    next(&mut lines, "ended");
    assert!(lines.next().is_none());
    assert!(watcher.0.wait().unwrap().success());
}

#[test]
fn metrics_count_what_was_done() {
    let cluster = Cluster::start();
    let a = cluster.pod();
    a.mount("data", &["--create", "--metrics", "127.0.0.1:0"]);
    let address = a.status()["metrics"].as_str().unwrap().to_owned();
    fs::write(a.path("f"), "one").unwrap();
    a.commit("f");
    fs::write(a.path("g"), "two").unwrap();
    let text = http_get(&address, "/metrics");
    assert!(text.starts_with("HTTP/1.1 200"), "{text}");
    let value = |name: &str, label: &str| metric(&text, name, label);
    assert!((value("sailvol_commits_total", "automatic=\"no\"") - 1.0).abs() < f64::EPSILON);
    assert!((value("sailvol_dirty_changes", "volume=\"data\"") - 1.0).abs() < f64::EPSILON);
    assert!(value("sailvol_fuse_requests_total", "operation=\"create\"") >= 2.0);
    assert!(value("sailvol_store_requests_total", "kind=\"put-if-absent\"") >= 1.0);
    assert!(
        value("sailvol_base_record", "")
            .total_cmp(&value("sailvol_head_record", ""))
            .is_eq()
    );
    assert!(http_get(&address, "/").starts_with("HTTP/1.1 404"));
    // Others on the network are no business of ours.
    let message = a.fails(2, ["mount", "--metrics", "0.0.0.0:9187", "data", "/nowhere"]);
    assert!(message.contains("loopback"), "{message}");
}

/// The words of a command in a manifest: a block of `- word` lines behind `key`, or `[word, word]`.
fn words_of(manifest: &str, key: &str) -> Vec<String> {
    let (_, behind) = manifest
        .split_once(&format!("{key}:"))
        .unwrap_or_else(|| panic!("no {key} in the manifest"));
    let first = behind.lines().next().unwrap().trim();
    if let Some(list) = first.strip_prefix('[').and_then(|list| list.strip_suffix(']')) {
        return list.split(", ").map(str::to_owned).collect();
    }
    let lines = behind.lines().skip(1).map(str::trim);
    let words = lines.map_while(|line| match line.strip_prefix("- ") {
        Some(word) => Some(Some(word.to_owned())),
        None => line.starts_with('#').then_some(None),
    });
    words.flatten().collect()
}

/// The sidecar as its manifest has it, only with shorter intervals: its command, its probe, its preStop, its end.
#[test]
fn the_sidecar_of_the_manifest_publishes_and_follows_by_itself() {
    let manifest = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../packaging/kubernetes/sidecar.yaml"
    );
    let manifest = fs::read_to_string(manifest).unwrap();
    let cluster = Cluster::start();
    let (a, other) = (cluster.pod(), cluster.pod());
    let dir = a.mount_dir().join("shared");
    let here = |word: String| {
        let word = word.replace("/volumes/shared", &dir.display().to_string());
        match word.as_str() {
            "--autocommit=60s" | "--autoreload=60s" => word.replace("60s", "1s"),
            _ => word,
        }
    };
    let words: Vec<String> = words_of(&manifest, "args").into_iter().map(here).collect();
    assert!(
        words.iter().filter(|word| word.ends_with("=1s")).count() == 2,
        "{words:?}"
    );
    let (_, probes) = manifest.split_once("startupProbe:").unwrap();
    let probe: Vec<String> = words_of(probes, "command").into_iter().map(here).collect();
    let (_, hook) = manifest.split_once("preStop:").unwrap();
    let hook: Vec<String> = words_of(hook, "command").into_iter().map(here).collect();
    assert_eq!((&*probe[1], &*hook[1]), ("status", "commit"));
    let log = a.local_dir("run").join("log");
    let logged = File::create(&log).unwrap();
    let mut command = a.command(&words);
    command.stdout(logged.try_clone().unwrap()).stderr(logged);
    let mut sidecar = Running(command.spawn().unwrap());
    wait_until("the probe succeeds", || a.run(&probe[1..]).status.success());
    let status = || a.json(["status".as_ref(), dir.as_os_str()]);
    fs::write(dir.join("f"), "one").unwrap();
    wait_until("published", || status()["autocommit"]["last_seq"] == 1);
    other.mount("datasets", &[]);
    assert_eq!(fs::read(other.path("f")).unwrap(), b"one");
    fs::write(other.path("g"), "two").unwrap();
    other.commit("from elsewhere");
    wait_until("it follows", || dir.join("g").exists());
    fs::write(dir.join("h"), "three").unwrap();
    let hooked = a.run(&hook[1..]);
    assert!(
        hooked.status.success(),
        "{}",
        String::from_utf8_lossy(&hooked.stderr)
    );
    wait_until("nothing is left to commit", || status()["dirty"] == 0);
    fs::write(dir.join("last"), "four").unwrap();
    rustix::process::kill_process(
        rustix::process::Pid::from_child(&sidecar.0),
        rustix::process::Signal::TERM,
    )
    .unwrap();
    assert!(sidecar.0.wait().unwrap().success());
    assert_eq!(fs::read_dir(&dir).unwrap().count(), 0);
    other.reload(&[]);
    for name in ["f", "g", "h", "last"] {
        assert!(other.path(name).exists(), "{name}");
    }
    // --log-json: whoever reads the container's log reads nothing else.
    for line in fs::read_to_string(&log).unwrap().lines() {
        let parsed: Result<Value, _> = serde_json::from_str(line);
        assert!(parsed.is_ok(), "{line}");
    }
}

/// Every file of a bundle, by its path.
fn bundle(pod: &Pod, name: &str) -> Vec<(String, String)> {
    let out = pod.local_dir(name);
    pod.json(["debug-bundle".as_ref(), "--output".as_ref(), out.as_os_str()]);
    let mut files = Vec::new();
    let mut open = vec![out.clone()];
    while let Some(dir) = open.pop() {
        for entry in fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                open.push(path);
            } else {
                let name = path.strip_prefix(&out).unwrap().display().to_string();
                files.push((
                    name,
                    String::from_utf8_lossy(&fs::read(path).unwrap()).into_owned(),
                ));
            }
        }
    }
    files
}

fn text_of<'a>(files: &'a [(String, String)], end: &str) -> &'a str {
    let found = files.iter().find(|(name, _)| name.ends_with(end));
    &found
        .unwrap_or_else(|| panic!("{end} in {:?}", files.iter().map(|f| &f.0).collect::<Vec<_>>()))
        .1
}

#[test]
fn a_debug_bundle_is_made_from_a_live_a_stuck_and_a_dead_daemon() {
    let cluster = Cluster::start();
    let a = cluster
        .pod()
        .env("SAILVOL_EXAMPLE_TOKEN", "hunter2-in-the-environment");
    a.mount("data", &["--create"]);
    fs::write(a.path("secret.txt"), "hunter2-in-a-file").unwrap();
    a.commit("first");
    let secrets = fs::read_to_string(cluster.server.credentials_file().unwrap()).unwrap();
    let secret = secrets
        .lines()
        .find_map(|l| l.split_once("aws_secret_access_key"))
        .unwrap()
        .1;
    let secret = secret.trim_start_matches([' ', '=']);
    let check = |files: &[(String, String)]| {
        for (name, text) in files {
            for word in ["hunter2", secret] {
                assert!(!text.contains(word), "{word} in {name}");
            }
        }
        assert!(text_of(files, "daemon.log").contains("committed"));
        assert!(text_of(files, "settings.json").contains("\"volume\": \"data\""));
        assert!(text_of(files, "environment-names.txt").contains("SAILVOL_EXAMPLE_TOKEN"));
    };
    let live = bundle(&a, "live");
    check(&live);
    assert!(text_of(&live, "status.json").contains("\"base\""));
    // A daemon that hangs: whoever touched the mount would hang with it.
    let pid = rustix::process::Pid::from_raw(a.daemon().unwrap().try_into().unwrap()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::STOP).unwrap();
    let stuck = bundle(&a, "stuck");
    check(&stuck);
    assert!(
        text_of(&stuck, "status-error.txt").contains("no answer")
            || text_of(&stuck, "status-error.json").contains("not")
    );
    assert!(text_of(&stuck, "process.txt").contains("fuse"));
    rustix::process::kill_process(pid, rustix::process::Signal::CONT).unwrap();
    a.kill_daemon();
    let dead = bundle(&a, "dead");
    check(&dead);
    assert!(Path::new(&a.local_dir("dead")).exists());
}
