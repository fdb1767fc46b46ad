//! Mistakes that everybody makes once: each gets an exit code that scripts can use and a message that says what to do.

use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use fuse_tests::pod::{Cluster, Pod};
use fuse_tests::s3d::{Action, FaultRule, Verb};

/// Runs the program; `{mnt}` and `{top}` in words are the pod's mount point and the directory above it.
fn run(pod: &Pod, words: &[&str]) -> (Option<i32>, String) {
    let output = command(pod, words).output().unwrap();
    (
        output.status.code(),
        String::from_utf8_lossy(&output.stderr).into_owned(),
    )
}

fn command(pod: &Pod, words: &[&str]) -> Command {
    let mnt = pod.mount_dir();
    let top = mnt.parent().unwrap().display().to_string();
    let word = |word: &&str| {
        word.replace("{mnt}", &mnt.display().to_string())
            .replace("{top}", &top)
    };
    pod.command(words.iter().map(word).map(OsString::from))
}

/// What a command says when another program starts it, and it has no access.
fn refused(mut by: Command, command: &Command) -> String {
    by.arg(command.get_program()).args(command.get_args());
    by.envs(
        command
            .get_envs()
            .filter_map(|(name, value)| Some((name, value?))),
    );
    let output = by.output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(4), "{said}");
    said
}

/// One mistake: what is typed, the exit code, and what the message has to say.
type Mistake<'a> = (&'a [&'a str], i32, &'a [&'a str]);

fn check(pod: &Pod, mistakes: &[Mistake]) {
    for (words, code, parts) in mistakes {
        let (found, said) = run(pod, words);
        assert_eq!(found, Some(*code), "{words:?}: {said}");
        for part in *parts {
            assert!(said.contains(part), "{words:?}: {part:?} is missing in: {said}");
        }
        // For people: a sentence or two, not a dump.
        assert!(
            said.lines().count() <= 12 && !said.contains("os error") && !said.contains("Error {"),
            "{words:?}: {said}"
        );
    }
}

#[test]
fn directories_and_names() {
    let cluster = Cluster::start();
    let pod = cluster.pod();
    let top = pod.mount_dir().parent().unwrap().to_owned();
    fs::create_dir(top.join("full")).unwrap();
    fs::write(top.join("full/file"), "x").unwrap();
    fs::write(top.join("plain"), "x").unwrap();
    fs::create_dir(top.join("other")).unwrap();
    pod.run(["volume", "create", "datasets"]);
    check(
        &pod,
        &[
            (
                &["mount", "datasets", "{top}/full"],
                3,
                &["full", "not empty", "--nonempty"],
            ),
            (
                &["mount", "datasets", "{top}/missing"],
                8,
                &["missing", "mkdir -p"],
            ),
            (
                &["mount", "datasets", "{top}/plain"],
                3,
                &["plain", "not a directory"],
            ),
            (&["mount", "datasets", "/"], 3, &["/shared"]),
            (
                &["mount", "datasts", "{mnt}"],
                8,
                &["datasts", "is \"datasets\" meant?", "--create", "volume list"],
            ),
            (&["mount", "no/name", "{mnt}"], 2, &["no/name"]),
            (
                &["mount", "--at", "99", "datasets", "{mnt}"],
                8,
                &["record 99", "newest", "sailvol log"],
            ),
            (
                &["mount", "--state-dir", "{mnt}/s", "datasets", "{mnt}"],
                2,
                &["inside the mount", "--state-dir"],
            ),
            (
                &["mount", "--autocommit", "0s", "datasets", "{mnt}"],
                2,
                &["at least 1s"],
            ),
            (&["status"], 2, &["nothing is mounted", "sailvol mount"]),
            (
                &["status", "{mnt}"],
                2,
                &["not in a sailvol mount", "nothing is mounted"],
            ),
            (&["umount", "{mnt}"], 2, &["not in a sailvol mount"]),
            (
                &["cat", "datasets:/nothing"],
                8,
                &["datasets:/nothing", "no such file"],
            ),
            (&["ls", "datset:/"], 8, &["is \"datasets\" meant?"]),
            (&["volume", "create", "datasets"], 9, &["already", "--if-missing"]),
            (&["get", "datasets:/nothing", "{top}"], 8, &["no such file"]),
            (&["put", "{top}/nothing", "datasets:/x"], 8, &["nothing"]),
            (&["put", "{top}/plain", "{top}/x"], 2, &["VOLUME:/path"]),
            (&["fsck", "datasts"], 8, &["is \"datasets\" meant?"]),
            (&["comit"], 2, &["commit"]),
        ],
    );
    pod.mount("datasets", &[]);
    check(
        &pod,
        &[
            (
                &["mount", "datasets", "{mnt}"],
                3,
                &["already mounted there", "sailvol umount"],
            ),
            (
                &["mount", "--name", "taken", "datasets", "{top}/other/missing"],
                8,
                &["mkdir -p"],
            ),
            (&["status", "{top}/other"], 2, &["not in a sailvol mount", "mnt"]),
            (
                &["reload", "--to", "99", "{mnt}"],
                8,
                &["record 99", "sailvol log"],
            ),
            (
                &["diff", "--from", "99", "{mnt}"],
                8,
                &["record 99", "sailvol log"],
            ),
            (
                &["stash", "restore", "7", "{mnt}"],
                8,
                &["no stash 7", "stash list"],
            ),
            (&["prefetch", "{mnt}/nothing"], 8, &["nothing"]),
        ],
    );
    // The state of a mount serves one daemon.
    let name = pod.status()["name"].as_str().unwrap().to_owned();
    check(
        &pod,
        &[(
            &["mount", "--name", &name, "datasets", "{top}/other"],
            3,
            &["in use", "sailvol list", "--name"],
        )],
    );
}

#[test]
fn a_store_that_is_not_there_or_says_no() {
    let cluster = Cluster::start();
    let pod = cluster.pod();
    pod.run(["volume", "create", "datasets"]);
    let endpoint = cluster.server.endpoint();
    let no_bucket = format!("s3://nobody/datasets?endpoint={endpoint}&region=us-east-1&path_style=true");
    // Port 1 is never served on a test machine.
    let nowhere = "s3://bucket/volumes/datasets?endpoint=http://127.0.0.1:1&region=us-east-1&path_style=true";
    check(
        &pod,
        &[
            (&["mount", &no_bucket, "{mnt}"], 1, &["bucket", "nobody"]),
            (&["mount", nowhere, "{mnt}"], 5, &["127.0.0.1:1"]),
            (&["ls", nowhere], 5, &["127.0.0.1:1"]),
            (&["mount", "ftp://host/x", "{mnt}"], 2, &["s3://", "file://"]),
            (
                &["mount", "s3://key:secret@bucket/x", "{mnt}"],
                2,
                &["credentials"],
            ),
        ],
    );
    cluster.server.fault(FaultRule::new(Action::Reject {
        status: 403,
        code: Some("AccessDenied".into()),
        retry_after_s: None,
    }));
    check(&pod, &[(&["mount", "datasets", "{mnt}"], 4, &["denied"])]);
    cluster.server.clear_faults();
    // Reading is allowed, writing is not.
    cluster.server.fault(
        FaultRule::new(Action::Reject {
            status: 403,
            code: Some("AccessDenied".into()),
            retry_after_s: None,
        })
        .verb(Verb::PutIf),
    );
    pod.mount("datasets", &[]);
    fs::write(pod.path("f"), "x").unwrap();
    check(&pod, &[(&["commit", "{mnt}"], 4, &["denied"])]);
    cluster.server.clear_faults();
    assert_eq!(pod.commit("the change is still there")["changed"], 1);
}

#[test]
fn wrong_and_missing_keys() {
    let cluster = Cluster::start();
    let good = cluster.pod();
    good.run(["volume", "create", "datasets"]);
    let url = cluster.server.url("bucket/volumes");
    let wrong = Pod::new(&url)
        .env("AWS_EC2_METADATA_DISABLED", "true")
        .env("AWS_ACCESS_KEY_ID", "AKIDWRONG")
        .env("AWS_SECRET_ACCESS_KEY", "wrong-secret");
    let (code, said) = run(&wrong, &["mount", "datasets", "{mnt}"]);
    assert_eq!(code, Some(4), "{said}");
    assert!(said.contains("AWS_") && !said.contains("wrong-secret"), "{said}");
    let none = Pod::new(&url)
        .env("AWS_EC2_METADATA_DISABLED", "true")
        .env("AWS_SHARED_CREDENTIALS_FILE", "/nowhere")
        .env("AWS_CONFIG_FILE", "/nowhere")
        .env("HOME", "/nowhere");
    check(
        &none,
        &[(
            &["mount", "datasets", "{mnt}"],
            4,
            &["no credentials", "AWS_ACCESS_KEY_ID"],
        )],
    );
}

#[test]
fn a_machine_without_fuse_or_with_directories_that_belong_to_others() {
    let cluster = Cluster::start();
    let pod = cluster.pod();
    pod.run(["volume", "create", "datasets"]);
    // A private /dev without the device, as containers have it.
    let inner = command(&pod, &["mount", "datasets", "{mnt}"]);
    let mut outer = Command::new("unshare");
    outer.args([
        "--mount",
        "sh",
        "-c",
        "mount -t tmpfs none /dev && exec \"$@\"",
        "sh",
    ]);
    let said = refused(outer, &inner);
    for part in ["/dev/fuse does not exist", "--device /dev/fuse", "modprobe fuse"] {
        assert!(said.contains(part), "{part} in {said}");
    }
    // A state directory that somebody else may not write.
    let state = pod.local_dir("state");
    fs::set_permissions(&state, fs::Permissions::from_mode(0o700)).unwrap();
    let top = pod.mount_dir().parent().unwrap().to_owned();
    fs::set_permissions(&top, fs::Permissions::from_mode(0o755)).unwrap();
    let program = top.join("sailvol");
    fuse_tests::pod::copy_program(&program);
    let inner = command(&pod, &["mount", "file:///tmp/nothing", "{mnt}"]);
    let mut other = Command::new(&program);
    other.args(inner.get_args());
    other.envs(inner.get_envs().filter_map(|(name, value)| Some((name, value?))));
    std::os::unix::process::CommandExt::uid(&mut other, 23_456);
    let output = other.output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success(), "{said}");
    for part in ["Permission denied", "--state-dir"] {
        assert!(said.contains(part), "{part} in {said}");
    }
    assert!(
        Path::new("/dev/fuse").exists(),
        "only the inner namespace lost it"
    );
}

#[test]
fn root_without_the_right_to_mount() {
    let cluster = Cluster::start();
    let pod = cluster.pod();
    pod.run(["volume", "create", "datasets"]);
    let inner = command(&pod, &["mount", "datasets", "{mnt}"]);
    // As in a container that was given the device and no capability.
    let mut outer = Command::new("setpriv");
    outer.args(["--bounding-set=-sys_admin", "--inh-caps=-sys_admin"]);
    let said = refused(outer, &inner);
    for part in [
        "root has no CAP_SYS_ADMIN",
        "--cap-add SYS_ADMIN",
        "capabilities.add",
    ] {
        assert!(said.contains(part), "{part} in {said}");
    }
    assert_eq!(said.trim().lines().count(), 1, "{said}");
}

#[test]
fn a_store_that_says_nothing() {
    let cluster = Cluster::start();
    let pod = cluster.pod();
    pod.run(["volume", "create", "datasets"]);
    cluster.server.fault(FaultRule::new(Action::Stall));
    // Told by the command that gave up, or by the request that did.
    let silent: &[&str] = &["answer", "2 s", "sailvol doctor", "--timeout"];
    check(
        &pod,
        &[
            (&["mount", "--timeout", "2s", "datasets", "{mnt}"], 5, silent),
            (&["ls", "--timeout", "2s", "datasets:/"], 5, silent),
            (&["volume", "list", "--timeout", "2s"], 5, silent),
            (&["fsck", "--timeout", "2s", "datasets"], 5, silent),
            (&["doctor", "--timeout", "2s"], 1, &["has to be fixed"]),
        ],
    );
    // Who gives up waiting is not waited for.
    fuse_tests::pod::wait_until("the others are gone", || cluster.server.held() == 0);
    let mut mounting = command(&pod, &["mount", "--foreground", "datasets", "{mnt}"])
        .stderr(std::process::Stdio::null())
        .spawn()
        .unwrap();
    fuse_tests::pod::wait_until("it asks the store", || cluster.server.held() > 0);
    let pid = rustix::process::Pid::from_child(&mounting);
    rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
    let began = std::time::Instant::now();
    assert!(mounting.wait().unwrap().success());
    assert!(began.elapsed() < std::time::Duration::from_secs(10));
}

#[test]
fn what_does_not_fit_is_said_with_sizes_before_anything_is_fetched() {
    let cluster = Cluster::start();
    let (a, b) = (cluster.pod(), cluster.pod());
    a.mount("data", &["--create"]);
    fs::write(a.path("large"), vec![7; 12 << 20]).unwrap();
    a.commit("large");
    b.mount("data", &["--cache-size", "4M"]);
    check(
        &b,
        &[(
            &["prefetch", "{mnt}/large"],
            3,
            &[
                "12.0 MiB",
                "4.0 MiB",
                "--cache-size",
                "--force",
                "nothing was fetched",
            ],
        )],
    );
    // A disk of 8 MiB.
    let small = b.local_dir("small");
    fs::create_dir(&small).unwrap();
    let data = std::ffi::CString::new("size=8m").unwrap();
    rustix::mount::mount(
        "none",
        &small,
        "tmpfs",
        rustix::mount::MountFlags::empty(),
        data.as_c_str(),
    )
    .unwrap();
    let (code, said) = run(&b, &["get", "data:/large", "{top}/small"]);
    rustix::mount::unmount(&small, rustix::mount::UnmountFlags::empty()).unwrap();
    assert_eq!(code, Some(3), "{said}");
    for part in ["12.0 MiB", "8.0 MiB free", "nothing was written"] {
        assert!(said.contains(part), "{part} in {said}");
    }
}
