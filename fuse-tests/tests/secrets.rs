//! Keys stay in memory: whatever is asked for, they are in no argument, no log at any level, no answer, no file, no store.

use std::fs;
use std::path::{Path, PathBuf};

use fuse_tests::pod::Pod;
use fuse_tests::s3d::{S3d, S3dOptions};

const KEY: &str = "AKIAMARKEROFTHETESTS";
const SECRET: &str = "SecretMarkerOfTheTests/abcdefghijklmnop";
const TOKEN: &str = "TokenMarkerOfTheTestsWhichIsLongEnoughToBeFound";

fn files_below(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut open = vec![dir.to_owned()];
    while let Some(dir) = open.pop() {
        for entry in fs::read_dir(&dir).unwrap().flatten() {
            let kind = entry.file_type().unwrap();
            match (kind.is_dir(), kind.is_file()) {
                (true, _) => open.push(entry.path()),
                (_, true) => found.push(entry.path()),
                _ => {}
            }
        }
    }
    found
}

fn holds_secret(bytes: &[u8]) -> bool {
    [SECRET, TOKEN].iter().any(|marker| {
        bytes
            .windows(marker.len())
            .any(|window| window == marker.as_bytes())
    })
}

/// Makes a debug bundle; all that is in it.
fn bundles_hold_no_secret(pod: &Pod, place: &Path, name: &str) -> String {
    let out = place.join(name);
    pod.json(["debug-bundle".as_ref(), "--output".as_ref(), out.as_os_str()]);
    let mut all = String::new();
    for path in files_below(&out) {
        let bytes = fs::read(&path).unwrap();
        assert!(!holds_secret(&bytes), "{}", path.display());
        all.push_str(&String::from_utf8_lossy(&bytes));
    }
    all
}

#[test]
fn keys_are_in_no_argument_log_answer_file_or_object() {
    let objects = tempfile::tempdir().unwrap();
    let server = S3d::start_blocking(S3dOptions {
        data: Some(objects.path().to_owned()),
        ..S3dOptions::default()
    })
    .unwrap();
    server.set(|settings| {
        settings.keys.clear();
        settings.keys.insert(KEY.into(), SECRET.into());
    });
    let pod = Pod::new(&server.url("bucket/volumes"))
        .env("AWS_ACCESS_KEY_ID", KEY)
        .env("AWS_SECRET_ACCESS_KEY", SECRET)
        .env("AWS_SESSION_TOKEN", TOKEN)
        .env("AWS_EC2_METADATA_DISABLED", "true")
        .env("AWS_REGION", "us-east-1")
        // Also what asks for a part of a library by name.
        .env(
            "SAILVOL_LOG",
            "trace,aws_sigv4::http_request=trace,aws_runtime::auth=trace,aws_smithy_runtime::client=trace",
        );
    let dir = pod.mount_dir().to_str().unwrap().to_owned();
    let scratch = tempfile::tempdir().unwrap();
    let local = scratch.path().join("f");
    fs::write(&local, b"bytes").unwrap();
    let (local, out) = (local.to_str().unwrap(), scratch.path().join("out"));
    let out = out.to_str().unwrap();

    let mut logged = 0;
    let mut run = |arguments: &[&str], code: i32| {
        for json in [&[][..], &["--json"]] {
            let output = pod.run(arguments.iter().chain(json));
            let all = [output.stdout, output.stderr].concat();
            let text = String::from_utf8_lossy(&all);
            assert!(!holds_secret(&all), "{arguments:?}: {text}");
            assert!(
                output.status.code() == Some(code) || !json.is_empty(),
                "{arguments:?}: {text}"
            );
            logged += all.len();
        }
    };
    run(&["mount", "--create", "v", &dir], 0);
    let daemon = pod.daemon().unwrap();
    fs::write(pod.path("file"), vec![7; 100_000]).unwrap();
    run(&["status", &dir], 0);
    run(&["diff", &dir], 0);
    run(&["commit", &dir, "-m", "first"], 0);
    run(&["reload", &dir], 0);
    run(&["log", &dir], 0);
    run(&["prefetch", &dir], 0);
    run(&["stash", "list", &dir], 0);
    run(&["list"], 0);
    run(&["put", local, "v:/f"], 0);
    run(&["ls", "v:/"], 0);
    run(&["cat", "v:/f"], 0);
    run(&["get", "v:/f", out], 0);
    run(&["cp", "v:/f", "v:/g"], 0);
    run(&["rm", "v:/g"], 0);
    run(&["fsck", "v"], 0);
    run(&["doctor", "v"], 0);
    run(&["volume", "list"], 0);
    run(&["volume", "info", "v"], 0);
    let bundles = bundles_hold_no_secret(&pod, scratch.path(), "alive");
    assert!(
        bundles.contains("AWS_SECRET_ACCESS_KEY") && bundles.contains("\"base\""),
        "{bundles}"
    );

    // The process: what others see of it, what a crash would leave, how it is mounted.
    let proc = |name: &str| fs::read(format!("/proc/{daemon}/{name}")).unwrap();
    assert!(!holds_secret(&proc("cmdline")));
    let limits = String::from_utf8(proc("limits")).unwrap();
    let core = limits
        .lines()
        .find(|line| line.starts_with("Max core file size"))
        .unwrap();
    assert_eq!(
        core.split_whitespace().skip(4).take(2).collect::<Vec<_>>(),
        ["0", "0"]
    );
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
    let ours = mounts.lines().find(|line| line.contains(&dir)).unwrap();
    let options: Vec<&str> = ours.split(' ').nth(5).unwrap().split(',').collect();
    assert!(
        options.contains(&"nosuid") && options.contains(&"nodev"),
        "{ours}"
    );

    // Wrong keys: the message names the key's id at most.
    server.set(|settings| settings.keys.clear());
    run(&["ls", "v:/"], 4);
    fs::write(pod.path("more"), vec![8; 100_000]).unwrap();
    run(&["commit", &dir], 4);
    // With the failures in its log and its status.
    let bundles = bundles_hold_no_secret(&pod, scratch.path(), "refused");
    assert!(bundles.contains("access denied"), "{bundles}");
    server.set(|settings| {
        settings.keys.insert(KEY.into(), SECRET.into());
    });
    run(&["umount", &dir, "--commit"], 0);
    fuse_tests::pod::wait_until("the daemon ends", || pod.daemon().is_none());

    let mut looked = 0;
    for dir in [
        pod.local_dir("state"),
        pod.local_dir("cache"),
        pod.local_dir("run"),
        objects.path().to_owned(),
    ] {
        for path in files_below(&dir) {
            let bytes = fs::read(&path).unwrap();
            assert!(!holds_secret(&bytes), "{}", path.display());
            looked += bytes.len();
        }
    }
    // The logs were as chatty as they were asked to be.
    assert!(logged > 5_000 && looked > 10_000, "{logged}, {looked}");
}
