//! What scripts read: with `--json` every command answers in one JSON value on standard output, and every failure in another
//! as the last line of standard error, with the exit code of its kind.

use std::fs;
use std::process::Output;

use fuse_tests::pod::{Cluster, Pod};
use serde_json::Value;

/// `{mnt}` and `{top}` in words are the pod's mount point and the directory above it.
fn run(pod: &Pod, words: &str) -> Output {
    let mnt = pod.mount_dir().display().to_string();
    let top = pod.mount_dir().parent().unwrap().display().to_string();
    let words = words.split(' ').filter(|word| !word.is_empty());
    let words = words.map(|word| word.replace("{mnt}", &mnt).replace("{top}", &top));
    pod.run(words.chain(["--json".to_owned()]))
}

/// Everything said on standard error beside failures is progress, or a note for people.
fn failure(output: &Output) -> Option<Value> {
    let said = String::from_utf8(output.stderr.clone()).unwrap();
    let last: Value = serde_json::from_str(said.lines().last()?).ok()?;
    last.get("error").cloned()
}

#[test]
fn every_command_answers_in_json() {
    let cluster = Cluster::start();
    let pod = cluster.pod();
    pod.mount("data", &["--create"]);
    fs::write(pod.path("file"), "content").unwrap();
    for (words, member) in [
        ("status {mnt}", "/base"),
        ("status --local {mnt}", "/base"),
        ("status --check {mnt}", "/ok"),
        ("list", "/0/dir"),
        ("diff {mnt}", "/changes/0/path"),
        ("commit --dry-run {mnt}", "/dry_run"),
        ("commit -m first {mnt}", "/seq"),
        ("commit {mnt}", "/changed"),
        ("log {mnt}", "/0/message"),
        ("put {top}/state data:/more/", "/seq"),
        ("reload {mnt}", "/to"),
        ("stash list {mnt}", ""),
        ("prefetch {mnt}", "/files"),
        ("watch -n 1 {mnt}", "/event"),
        ("volume create other", "/created"),
        ("volume list", "/0/name"),
        ("volume info other", "/files"),
        ("volume delete --yes other", ""),
        ("ls data:/", "/entries/0/path"),
        ("get data:/file {top}/got", "/bytes"),
        ("cp data:/file data:/copy", "/seq"),
        ("rm data:/copy", "/removed_files"),
        ("fsck data", ""),
        ("fsck --quick data", ""),
        ("fsck --state {top}/state", ""),
        ("fsck --cache {top}/cache", ""),
        ("doctor", "/0/status"),
        ("doctor --local", "/0/status"),
        ("debug-bundle -o {top}/bundle", "/bundle"),
        ("completions bash", "/script"),
        ("man", "/source"),
        ("man commit", "/source"),
        ("man --dir {top}/man", "/pages/0"),
        ("umount {mnt}", "/dirty"),
    ] {
        let output = run(&pod, words);
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{words}: {said}");
        let answer: Value = serde_json::from_slice(&output.stdout)
            .unwrap_or_else(|e| panic!("{words}: {e}: {:?}", String::from_utf8_lossy(&output.stdout)));
        assert!(
            answer.pointer(member).is_some(),
            "{words}: no {member:?} in {answer}"
        );
    }
    // The bytes of a file are the answer.
    assert_eq!(run(&pod, "cat data:/file").stdout, b"content");
    assert_eq!(run(&pod, "get data:/file -").stdout, b"content");
}

/// Progress is told when it is asked for, and only then.
#[test]
fn progress_is_no_noise() {
    let cluster = Cluster::start();
    let pod = cluster.pod();
    pod.mount("data", &["--create"]);
    let mut told = Vec::new();
    for (content, option) in [("1", ""), ("2", "--progress")] {
        fs::write(pod.path("file"), content.repeat(1 << 20)).unwrap();
        for words in [
            "commit {mnt}",
            "put -f {mnt}/file data:/put",
            "reload {mnt}",
            "prefetch {mnt}",
        ] {
            let output = run(&pod, &format!("{words} {option}"));
            let said = String::from_utf8(output.stderr).unwrap();
            assert!(output.status.success(), "{words}: {said}");
            assert!(!option.is_empty() || said.is_empty(), "{words}: {said}");
            told.extend(
                said.lines()
                    .map(|line| serde_json::from_str::<Value>(line).unwrap()),
            );
        }
    }
    assert!(
        told.iter().any(|line| line["progress"]["stage"].is_string()),
        "{told:?}"
    );
}

#[test]
fn every_failure_is_told_in_json() {
    let cluster = Cluster::start();
    let pod = cluster.pod();
    pod.run(["volume", "create", "data"]);
    for (words, code, kind) in [
        ("", 2, "usage"),
        ("comit", 2, "usage"),
        ("mount", 2, "usage"),
        ("mount data {mnt} --bogus", 2, "usage"),
        ("mount --autocommit 0s data {mnt}", 2, "usage"),
        ("mount data {top}/missing", 8, "not-found"),
        ("mount missing {mnt}", 8, "not-found"),
        ("umount {mnt}", 2, "usage"),
        ("status {mnt}", 2, "usage"),
        ("watch {mnt}", 2, "usage"),
        ("commit {mnt}", 2, "usage"),
        ("reload --keep --if-clean", 2, "usage"),
        ("diff {mnt}", 2, "usage"),
        ("log {mnt}", 2, "usage"),
        ("stash", 2, "usage"),
        ("stash list {mnt}", 2, "usage"),
        ("prefetch {mnt}", 2, "usage"),
        ("volume create data", 9, "exists"),
        ("volume info missing", 8, "not-found"),
        ("volume list ftp://host", 2, "usage"),
        ("volume delete data", 3, "refused"),
        ("ls missing:/", 8, "not-found"),
        ("cat data:/missing", 8, "not-found"),
        ("get data:/missing", 8, "not-found"),
        ("put {top}/missing data:/x", 8, "not-found"),
        ("cp data:/missing data:/x", 8, "not-found"),
        ("rm data:/missing", 8, "not-found"),
        ("rm data:/", 3, "refused"),
        ("fsck missing", 8, "not-found"),
        ("fsck --state {top}/missing", 8, "not-found"),
        ("fsck --cache {top}/missing", 8, "not-found"),
        ("volume delete --yes missing", 8, "not-found"),
        ("get data:/ {top}/no/such/place/", 8, "not-found"),
        ("debug-bundle -o {top}/no/such/place", 8, "not-found"),
        ("completions none", 2, "usage"),
        ("man none", 2, "usage"),
    ] {
        let output = run(&pod, words);
        let said = String::from_utf8_lossy(&output.stderr);
        let failure = failure(&output).unwrap_or_else(|| panic!("{words}: no JSON: {said}"));
        assert_eq!(output.status.code(), Some(code), "{words}: {said}");
        assert_eq!(failure["kind"], kind, "{words}: {said}");
        let message = failure["message"].as_str().unwrap();
        assert!(
            !message.is_empty() && !message.contains("os error"),
            "{words}: {said}"
        );
        assert!(output.stdout.is_empty(), "{words}");
    }
    // What is found missing is the answer; that something is missing, the failure.
    let nowhere = "doctor s3://bucket/x?endpoint=http://127.0.0.1:1&region=us-east-1&path_style=true";
    let output = run(&pod, nowhere);
    assert_eq!(failure(&output).unwrap()["kind"], "failed");
    let checks: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert!(
        checks
            .as_array()
            .unwrap()
            .iter()
            .any(|check| check["status"] == "fail"),
        "{checks}"
    );
}
