//! What the commands that act on a mount say, and what they take: the state "published, not shown yet", what a reload
//! brought, records counted backwards, parts of a difference, words of other tools, completion.

use std::ffi::OsString;
use std::fs;
use std::process::Output;
use std::time::{Duration, Instant};

use fuse_tests::pod::{Cluster, Pod};
use serde_json::Value;

fn mnt(pod: &Pod) -> String {
    pod.mount_dir().display().to_string()
}

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

/// Without naming a directory, from inside the mount.
fn inside(pod: &Pod, words: &[&str]) -> String {
    let output = pod.command(words).current_dir(pod.mount_dir()).output().unwrap();
    assert!(output.status.success(), "{words:?}: {}", text(&output));
    text(&output)
}

fn listed(value: &Value, member: &str) -> Vec<String> {
    let items = value.as_array().unwrap().iter();
    items
        .map(|item| item[member].as_str().unwrap().to_owned())
        .collect()
}

#[test]
fn what_is_published_and_not_shown_yet_is_told_until_a_reload_brings_it() {
    let cluster = Cluster::start();
    let (a, b) = (cluster.pod(), cluster.pod());
    a.mount("data", &["--create"]);
    b.mount("data", &[]);
    assert_eq!(b.status()["unshown"], Value::Null);
    fs::write(a.path("theirs"), "1").unwrap();
    a.commit("the others' change");
    fs::write(b.path("mine"), "1").unwrap();
    assert_eq!(b.commit("mine")["merged_with"], serde_json::json!([1]));
    let unshown = serde_json::json!({"shows": 0, "record": 2, "others": [1]});
    assert_eq!(b.status()["unshown"], unshown);
    let said = inside(&b, &["status"]);
    for part in [
        "behind",
        "shows record 0",
        "record 2, yours, holds changes by others (record 1): `sailvol reload`",
    ] {
        assert!(said.contains(part), "{part} in {said}");
    }
    // Twice, and over a restart, after which the last merge at least is known.
    fs::write(a.path("theirs too"), "1").unwrap();
    a.commit("another");
    fs::write(b.path("mine"), "2").unwrap();
    b.commit("mine again");
    assert_eq!(b.status()["unshown"]["others"], serde_json::json!([1, 3]));
    // Without it the mount would begin at the newest record.
    fs::write(b.path("draft"), "1").unwrap();
    b.umount(&[]);
    b.mount("data", &[]);
    let after = b.status()["unshown"].clone();
    assert_eq!(after["record"], 4, "{after}");
    assert!(after["others"].as_array().unwrap().contains(&3.into()), "{after}");
    assert!(!b.path("theirs").exists());

    let answer = b.reload(&["--keep"]);
    assert!(b.path("theirs").exists() && b.path("theirs too").exists());
    assert_eq!((&answer["from"], &answer["to"]), (&4.into(), &4.into()));
    let brought = &answer["brought"];
    assert!(
        listed(&brought["records"], "message").contains(&"another".to_owned()),
        "{answer}"
    );
    assert_eq!(listed(&brought["changes"], "path"), ["/theirs", "/theirs too"]);
    assert_eq!(b.status()["unshown"], Value::Null);
    b.reload(&["--keep"]);
    assert!(inside(&b, &["reload", "--keep"]).contains("nothing new"));
    fs::remove_file(b.path("draft")).unwrap();

    // A reload in the ordinary case.
    fs::write(a.path("third"), "1").unwrap();
    a.reload(&["--keep"]);
    a.commit("the third\nin full");
    let said = inside(&b, &["reload"]);
    for part in [
        "from record 4 to 5",
        "brought record 5 by ",
        ": the third\n",
        "A /third",
    ] {
        assert!(said.contains(part), "{part} in {said}");
    }
}

#[test]
fn verbs_name_the_mount_that_they_acted_on() {
    let cluster = Cluster::start();
    let pod = cluster.pod();
    pod.mount("data", &["--create"]);
    fs::write(pod.path("f"), "1").unwrap();
    let dir = mnt(&pod);
    for words in [
        &["commit", "--dry-run"][..],
        &["diff"],
        &["commit"],
        &["commit"],
        &["log"],
        &["reload"],
        &["stash", "list"],
        &["status"],
    ] {
        let said = inside(&pod, words);
        assert!(said.contains(&dir), "{words:?}: {said}");
    }
    let there = [OsString::from("umount")];
    // Not from inside: that would keep it in use.
    let mut command = pod.command(there);
    command.current_dir("/").arg(&dir);
    let said = text(&command.output().unwrap());
    assert!(said.contains(&format!("unmounted {dir}")), "{said}");
}

#[test]
fn records_are_counted_backwards() {
    let cluster = Cluster::start();
    let pod = cluster.pod();
    pod.mount("data", &["--create"]);
    for n in 1..=3 {
        fs::write(pod.path("f"), n.to_string()).unwrap();
        pod.commit("next");
    }
    let dir = mnt(&pod);
    let changed = pod.json(["diff", "--from", "-1", &dir]);
    assert_eq!(listed(&changed["changes"], "path"), ["/f"]);
    for (to, content) in [("--to=-1", "2"), ("--to=-1", "1")] {
        pod.reload(&[to]);
        assert_eq!(fs::read_to_string(pod.path("f")).unwrap(), content);
    }
    let back = pod.json(["reload", "--to", "3", &dir]);
    assert_eq!(back["to"], 3);
    assert_eq!(pod.json(["reload", &dir, "--to", "-2"])["to"], 1);
    let said = pod.fails(8, ["reload", "--to", "-9", &dir]);
    assert!(
        said.contains("record 1") && said.contains("sailvol log"),
        "{said}"
    );
}

#[test]
fn a_difference_is_told_of_the_path_that_was_named() {
    let cluster = Cluster::start();
    let pod = cluster.pod();
    pod.mount("data", &["--create"]);
    fs::create_dir_all(pod.path("old/deep")).unwrap();
    fs::write(pod.path("old/deep/gone"), "1").unwrap();
    fs::write(pod.path("moved"), "1").unwrap();
    pod.commit("first");
    fs::create_dir_all(pod.path("new/deep")).unwrap();
    fs::write(pod.path("new/deep/f"), "1").unwrap();
    fs::write(pod.path("new/g"), "1").unwrap();
    fs::rename(pod.path("moved"), pod.path("new/moved")).unwrap();
    fs::remove_dir_all(pod.path("old")).unwrap();
    let below = |path: &str| {
        let there = pod.path(path).display().to_string();
        listed(&pod.json(["diff", &there])["changes"], "path")
    };
    assert_eq!(below("new/deep"), ["/new/deep/", "/new/deep/f"]);
    assert_eq!(below("new/deep/f"), ["/new/deep/f"]);
    assert_eq!(
        below("new"),
        ["/new/", "/new/deep/", "/new/deep/f", "/new/g", "/new/moved"]
    );
    assert_eq!(below("moved"), ["/new/moved"], "where it went");
    assert_eq!(below("old/deep"), ["/old/deep"], "what went with its directory");
    assert_eq!(below("").len(), 6);
    pod.commit("second");
    let there = pod.path("new/deep").display().to_string();
    let between = pod.json(["diff", "--from", "1", "--to", "2", &there]);
    assert_eq!(listed(&between["changes"], "path"), ["/new/deep/", "/new/deep/f"]);
    let missing = pod.path("new/nothing").display().to_string();
    assert!(pod.fails(8, ["diff", &missing]).contains("/new/nothing"));
}

#[test]
fn words_of_other_tools_and_wrong_kinds_of_paths_are_understood() {
    let cluster = Cluster::start();
    let pod = cluster.pod();
    pod.mount("data", &["--create"]);
    let dir = mnt(&pod);
    let inner = format!("{dir}/x");
    for (words, parts) in [
        (&["push"][..], &["sailvol commit"][..]),
        (&["pull"], &["sailvol reload"]),
        (&["undo"], &["--to -1"]),
        (&["mv", "a", "b"], &["sailvol cp"]),
        (&["tree"], &["--recursive"]),
        (&["du"], &["volume info"]),
        (&["gc"], &["nothing to run"]),
        (&["sync"], &["sailvol commit", "sailvol reload"]),
        (&["clone"], &["sailvol mount", "sailvol get"]),
        (&["tag"], &["sailvol log"]),
        (&["volume", "ls"], &["volume list"]),
        (&["stash", "pop"], &["stash restore"]),
        (&["ls", &inner], &["is a local path", "data:/x", "VOLUME:/path"]),
        (&["rm", "./x"], &["is a local path", "VOLUME:/path"]),
        (
            &["put", "data:/a", "data:/b"],
            &["path in a volume", "sailvol cp"],
        ),
        (
            &["get", "data:/a", "data:/b"],
            &["path in a volume", "sailvol cp"],
        ),
        (&["put", "x", &inner], &["data:/x"]),
        (&["commit", "data"], &["names a volume", &dir]),
        (&["prefetch", "data:/x"], &["a path in a volume", &dir]),
        (
            &["mount", "--cache-size", "50", "data", "/nowhere"],
            &["50 bytes", "50G"],
        ),
        (
            &["mount", "--stash-size", "20", "data", "/nowhere"],
            &["20 bytes", "20G"],
        ),
        (
            &["mount", "--autocommit", "5", "data", "/nowhere"],
            &["5 seconds", "5m"],
        ),
        (
            &["mount", "--stash-age", "14", "data", "/nowhere"],
            &["14 seconds", "14d"],
        ),
        (&["commit", "--timeout", "0", &dir], &["at least 1s"]),
    ] {
        let said = pod.fails(2, words);
        for part in parts {
            assert!(said.contains(part), "{words:?}: {part:?} is missing in: {said}");
        }
        assert!(!said.contains("similar"), "{words:?}: {said}");
    }
}

#[test]
fn answers_name_as_many_paths_as_there_are() {
    let cluster = Cluster::start();
    let (a, b) = (cluster.pod(), cluster.pod());
    a.mount("data", &["--create"]);
    b.mount("data", &[]);
    let (files, name) = (5000, "n".repeat(240));
    for pod in [&a, &b] {
        for n in 0..files {
            fs::write(pod.path(format!("{name}{n}")), mnt(pod)).unwrap();
        }
    }
    a.commit("first");
    let dir = mnt(&b);
    // More than a mebibyte, which no answer of a commit could have.
    let changed = b.json(["diff", "--limit", "1000000", &dir]);
    assert_eq!(changed["changes"].as_array().unwrap().len(), files);
    let answer = b.commit("over it");
    let overwrote: Vec<_> = answer["overwrote"].as_array().unwrap().iter().collect();
    assert_eq!(
        overwrote
            .iter()
            .filter(|item| item["register"] == "content")
            .count(),
        files
    );
}

#[test]
fn messages_that_no_record_can_hold_are_wrong_usage() {
    let cluster = Cluster::start();
    let pod = cluster.pod();
    pod.mount("data", &["--create"]);
    let dir = mnt(&pod);
    for n in [(64 << 10) - 1, 64 << 10, (64 << 10) + 1, 100_000] {
        fs::write(pod.path("f"), n.to_string()).unwrap();
        let message = "m".repeat(n);
        let words = ["commit", "-m", &message, &dir];
        if n <= 64 << 10 {
            pod.json(words);
            let log = pod.json(["log", "-n", "1", &dir]);
            assert_eq!(log[0]["message"].as_str().unwrap().len(), n);
        } else {
            let said = pod.fails(2, words);
            assert!(said.contains("65536") && said.len() < 1000, "{said}");
            let from = pod.path("f").display().to_string();
            assert!(
                pod.fails(2, ["put", "-m", &message, &from, "data:/g"])
                    .contains("65536")
            );
        }
    }
    assert_eq!(pod.commit("short")["changed"], 1, "nothing was lost");
}

/// What the program offers for a line whose last word is being typed.
fn offered(pod: &Pod, line: &str) -> Vec<String> {
    let words: Vec<&str> = line.split(' ').collect();
    let arguments = ["--", "sailvol"].iter().copied().chain(words.iter().copied());
    let output = pod.command(arguments).env("COMPLETE", "fish").output().unwrap();
    assert!(
        output.status.success() && output.stderr.is_empty(),
        "{line}: {}",
        text(&output)
    );
    let said = String::from_utf8(output.stdout).unwrap();
    let names = said
        .lines()
        .map(|line| line.split('\t').next().unwrap().to_owned());
    // Options can stand anywhere.
    names.filter(|name| !name.starts_with("--")).collect()
}

#[test]
fn names_are_completed_quickly_and_quietly() {
    let cluster = Cluster::start();
    let pod = cluster.pod();
    pod.mount("datasets", &["--create"]);
    pod.run(["volume", "create", "demo"]);
    fs::create_dir(pod.path("train")).unwrap();
    fs::write(pod.path("train/a"), "x").unwrap();
    pod.commit("first");
    fs::write(pod.path("draft"), "x").unwrap();
    pod.reload(&[]);
    let dir = mnt(&pod);
    assert_eq!(offered(&pod, "volume info d"), ["datasets", "demo"]);
    assert_eq!(offered(&pod, "ls dat"), ["datasets:/"]);
    assert_eq!(offered(&pod, "ls datasets:/t"), ["datasets:/train/"]);
    assert_eq!(offered(&pod, "cat datasets:/train/"), ["datasets:/train/a"]);
    assert!(offered(&pod, &format!("commit {dir}")).contains(&dir));
    assert_eq!(offered(&pod, &format!("reload {dir} --to ")), ["1", "0"]);
    assert_eq!(
        offered(
            &pod,
            &format!("stash restore --runtime-dir {} ", pod.local_dir("run").display())
        ),
        ["1"]
    );
    assert!(offered(&pod, "comm").contains(&"commit".to_owned()));
    // A store that says nothing: no candidates, no words, no waiting.
    cluster
        .server
        .fault(fuse_tests::s3d::FaultRule::new(fuse_tests::s3d::Action::Stall));
    let began = Instant::now();
    assert_eq!(offered(&pod, "volume info d"), Vec::<String>::new());
    assert_eq!(offered(&pod, "ls datasets:/t"), Vec::<String>::new());
    assert!(began.elapsed() < Duration::from_secs(20), "{:?}", began.elapsed());
}
