//! What surrounds a mount on its machine: who else has changed its directories, how it is named, mounted, changed, listed and
//! taken away, and how many files its daemon may have open.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use fuse_tests::pod::{Pod, program, wait_until};
use rustix::mount::UnmountFlags;
use tempfile::TempDir;

/// A pod whose volumes are a directory, and that directory.
fn pod() -> (Pod, TempDir) {
    let store = tempfile::tempdir().expect("a temporary directory");
    (Pod::new(&format!("file://{}", store.path().display())), store)
}

fn said(output: &Output) -> String {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    format!(
        "{:?} {}{}",
        output.status,
        text(&output.stdout),
        text(&output.stderr)
    )
}

/// Everything at and below a directory.
fn tree(dir: &Path, found: &mut Vec<PathBuf>) {
    found.push(dir.to_path_buf());
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            tree(&path, found);
        } else {
            found.push(path);
        }
    }
}

/// What kubelet does to a volume when a pod with fsGroup starts (`fsGroupChangePolicy: Always`).
fn as_kubelet(dir: &Path) {
    let mut all = Vec::new();
    tree(dir, &mut all);
    for path in all {
        let mode = fs::metadata(&path).unwrap().mode();
        let added = if path.is_dir() { 0o2070 } else { 0o060 };
        if rustix::process::geteuid().is_root() {
            std::os::unix::fs::chown(&path, None, Some(2000)).unwrap();
        }
        fs::set_permissions(&path, PermissionsExt::from_mode(mode | added)).unwrap();
    }
}

#[test]
fn work_is_found_again_when_its_directories_were_given_to_a_group() {
    let (pod, _store) = pod();
    pod.mount("v", &["--create", "--name", "n"]);
    for round in 0..3 {
        let path = pod.path(format!("work-{round}"));
        fs::write(path, [round; 100_000]).unwrap();
        if round == 1 {
            // Killed, and with work in every form: journal, bodies, stash.
            pod.kill_daemon();
        } else {
            pod.umount(&[]);
        }
        as_kubelet(&pod.local_dir("state"));
        as_kubelet(&pod.local_dir("cache"));
        let dir = pod.mount_dir();
        let output = pod.run([
            "mount".as_ref(),
            "--name".as_ref(),
            "n".as_ref(),
            "v".as_ref(),
            dir.as_os_str(),
        ]);
        let text = said(&output);
        assert!(output.status.success(), "{text}");
        assert_eq!(text.matches("was open to others").count(), 2, "{text}");
        for earlier in 0..=round {
            let bytes = fs::read(pod.path(format!("work-{earlier}"))).unwrap();
            assert_eq!(bytes, [earlier; 100_000]);
        }
        for place in ["state", "cache"] {
            let mut all = Vec::new();
            tree(&pod.local_dir(place).join("n"), &mut all);
            for path in all {
                let mode = fs::symlink_metadata(&path).unwrap().mode();
                let open = if path.is_dir() { mode & 0o077 } else { mode & 0o022 };
                assert_eq!(open, 0, "{} {mode:o}", path.display());
            }
        }
    }
    pod.umount(&[]);
}

#[test]
fn a_mount_is_found_through_links_to_its_directory() {
    let (pod, _store) = pod();
    let top = pod.mount_dir().parent().unwrap().to_path_buf();
    symlink(pod.mount_dir(), top.join("link")).unwrap();
    symlink(&top, top.join("above")).unwrap();
    symlink("link", top.join("second")).unwrap();
    for name in ["link", "above/mnt", "above/second", "second"] {
        let dir = top.join(name);
        pod.json([
            "mount".as_ref(),
            "--create".as_ref(),
            "v".as_ref(),
            dir.as_os_str(),
        ]);
        fs::write(dir.join("file"), name).unwrap();
        fs::create_dir_all(dir.join("sub")).unwrap();
        for words in [
            vec!["status", "--local"],
            vec!["diff"],
            vec!["commit"],
            vec!["log"],
            vec!["reload"],
            vec!["stash", "list"],
            vec!["prefetch"],
        ] {
            for named in [dir.clone(), dir.join("sub")] {
                if words[0] == "prefetch" && named != dir {
                    continue;
                }
                let all = words.iter().map(OsString::from).chain([named.into()]);
                pod.json(all);
            }
        }
        pod.json(["umount".as_ref(), dir.as_os_str()]);
        wait_until("the mount is gone", || pod.daemon().is_none());
    }
}

/// The program under the name by which mount(8) calls it.
struct Helper {
    _dir: TempDir,
    path: PathBuf,
}

impl Helper {
    fn new() -> Helper {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("mount.sailvol");
        symlink(program(), &path).unwrap();
        Helper { _dir: dir, path }
    }

    fn run(&self, pod: &Pod, options: &str) -> Output {
        let environment = pod.command(["x"]);
        let mut command = Command::new(&self.path);
        command.arg("v").arg(pod.mount_dir()).args(["-o", options]);
        for (name, value) in environment.get_envs() {
            command.env(name, value.unwrap_or(OsStr::new("")));
        }
        command.output().unwrap()
    }
}

/// The kernel's words for a mount.
fn flags(dir: &Path) -> Vec<String> {
    let text = String::from_utf8_lossy(&fs::read("/proc/self/mountinfo").unwrap()).into_owned();
    let line = text
        .lines()
        .rev()
        .find(|line| line.contains(&format!(" {} ", dir.display())));
    let line = line.expect("it is mounted");
    let words = [line.split(' ').nth(5).unwrap(), line.rsplit(' ').next().unwrap()];
    words
        .iter()
        .flat_map(|words| words.split(','))
        .map(str::to_owned)
        .collect()
}

#[test]
fn options_of_fstab_take_effect() {
    let (pod, _store) = pod();
    let helper = Helper::new();
    for (options, word) in [
        ("create,rw,noexec,nosuid,nodev,user", "noexec"),
        ("sync,lazytime,_netdev,nofail", "sync"),
        ("nosymfollow,users,exec", "nosymfollow"),
        ("ro,strictatime,x-systemd.automount", "ro"),
    ] {
        let output = helper.run(&pod, options);
        assert!(output.status.success(), "{options}: {}", said(&output));
        let found = flags(&pod.mount_dir());
        assert!(found.iter().any(|flag| flag == word), "{options}: {found:?}");
        assert!(found.iter().any(|flag| flag == "nosuid"), "{options}: {found:?}");
        pod.umount(&[]);
    }
    let output = helper.run(&pod, "no_such_option");
    assert_eq!(output.status.code(), Some(2), "{}", said(&output));
}

#[test]
fn a_remount_makes_it_read_only_and_writable_again() {
    let (pod, _store) = pod();
    let helper = Helper::new();
    assert!(helper.run(&pod, "create,noexec").status.success());
    fs::write(pod.path("a"), "1").unwrap();
    // As ext4 has it: not while a file is open for writing.
    let open = fs::File::options().append(true).open(pod.path("a")).unwrap();
    let output = helper.run(&pod, "remount,ro");
    assert_eq!(output.status.code(), Some(3), "{}", said(&output));
    drop(open);
    wait_until("it is read-only", || {
        helper.run(&pod, "remount,ro").status.success()
    });
    let refused = fs::write(pod.path("b"), "2").unwrap_err();
    assert_eq!(refused.raw_os_error(), Some(libc::EROFS));
    let found = flags(&pod.mount_dir());
    for flag in ["ro", "noexec", "nosuid", "nodev"] {
        assert!(found.iter().any(|found| found == flag), "{flag}: {found:?}");
    }
    // What was written is still the mount's to commit.
    assert!(pod.commit("while read-only")["seq"].is_number());
    let output = helper.run(&pod, "remount,rw,exec,cache_size=1G");
    assert!(
        output.status.success() && said(&output).contains("cache-size"),
        "{}",
        said(&output)
    );
    fs::write(pod.path("b"), "2").unwrap();
    assert!(
        !flags(&pod.mount_dir())
            .iter()
            .any(|flag| flag == "noexec" || flag == "ro")
    );
    pod.umount(&[]);
    // One that keeps no changes cannot become writable.
    assert!(helper.run(&pod, "ro").status.success());
    let output = helper.run(&pod, "remount,rw");
    assert_eq!(output.status.code(), Some(3), "{}", said(&output));
    pod.umount(&[]);
}

/// The log of a daemon that runs is put aside when it is long, and goes on in a new file.
#[test]
fn the_log_is_bounded_while_the_daemon_runs() {
    /// What the README says of one file of the log, bytes.
    const LOG_BYTES_MAX: u64 = 8 << 20;
    let (pod, _store) = pod();
    let pod = pod.env("SAILVOL_LOG", "debug");
    pod.mount("v", &["--create", "--name", "n"]);
    pod.umount(&[]);
    let log = pod.local_dir("state").join("n/daemon.log");
    let old = log.with_extension("log.old");
    let len = |path: &Path| path.metadata().map_or(0, |found| found.len());
    assert!(len(&log) > 0 && !old.exists());
    // As good as full: holes count like lines.
    let file = fs::File::options().write(true).open(&log).unwrap();
    file.set_len(LOG_BYTES_MAX - 1).unwrap();
    drop(file);
    pod.mount("v", &["--name", "n"]);
    fs::write(pod.path("file"), "x").unwrap();
    pod.commit("x");
    wait_until("the log is put aside", || old.exists());
    assert!(len(&old) <= LOG_BYTES_MAX, "{}", len(&old));
    let before = len(&log);
    assert!(before < LOG_BYTES_MAX / 2, "{before}");
    fs::write(pod.path("file"), "y").unwrap();
    pod.commit("y");
    wait_until("lines come in the new file", || len(&log) > before);
    assert!(len(&log) <= LOG_BYTES_MAX);
    pod.umount(&[]);
}

/// An address of loopback on which nobody listens.
fn free_address() -> String {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap().to_string()
}

#[test]
fn mounting_again_waits_for_the_mount_before() {
    let (pod, _store) = pod();
    let metrics = free_address();
    let again = ["--commit-on-exit", "--metrics", &metrics];
    pod.mount("v", &[&again[..], &["--create"]].concat());
    for round in 0..6 {
        fs::write(pod.path("file"), format!("{round}")).unwrap();
        // umount(8) knows nothing of daemons; this one commits first.
        wait_until("it can be taken away", || {
            rustix::mount::unmount(pod.mount_dir(), UnmountFlags::empty()).is_ok()
        });
        let ready = pod.mount("v", &again);
        assert_eq!(ready["dirty"], 0, "{ready}");
        assert_eq!(fs::read_to_string(pod.path("file")).unwrap(), format!("{round}"));
    }
    for round in 0..6 {
        fs::write(pod.path("file"), format!("killed {round}")).unwrap();
        let raw = i32::try_from(pod.daemon().unwrap()).unwrap();
        let daemon = rustix::process::Pid::from_raw(raw).unwrap();
        rustix::process::kill_process(daemon, rustix::process::Signal::KILL).unwrap();
        // At once: its last thread may not have ended.
        pod.mount("v", &again);
        assert_eq!(
            fs::read_to_string(pod.path("file")).unwrap(),
            format!("killed {round}")
        );
    }
    // Who lives is not waited for.
    let elsewhere = tempfile::tempdir().unwrap();
    let name = pod.status()["name"].as_str().unwrap().to_owned();
    let begun = std::time::Instant::now();
    let text = pod.fails(
        3,
        [
            "mount".as_ref(),
            "--name".as_ref(),
            name.as_ref(),
            "v".as_ref(),
            elsewhere.path().as_os_str(),
        ],
    );
    assert!(text.contains("sailvol list"), "{text}");
    assert!(begun.elapsed().as_secs() < 15, "{:?}", begun.elapsed());
    pod.umount(&[]);
}

#[test]
fn who_keeps_a_mount_from_going_is_named() {
    let (pod, _store) = pod();
    pod.mount("v", &["--create"]);
    fs::create_dir(pod.path("sub")).unwrap();
    let file = fs::File::create(pod.path("file")).unwrap();
    let sleeper = |command: &mut Command| command.arg("1000").spawn().unwrap();
    let mut inside = sleeper(Command::new("sleep").current_dir(pod.path("sub")));
    let mut reader = sleeper(Command::new("sleep").stdin(file));
    let dir = pod.mount_dir();
    let text = pod.fails(3, [OsStr::new("umount"), dir.as_os_str()]);
    for part in [
        format!(
            "sleep (pid {}) works in {}",
            inside.id(),
            pod.path("sub").display()
        ),
        format!(
            "sleep (pid {}) has {} open",
            reader.id(),
            pod.path("file").display()
        ),
    ] {
        assert!(text.contains(&part), "{part} in {text}");
    }
    for child in [&mut inside, &mut reader] {
        child.kill().unwrap();
        child.wait().unwrap();
    }
    pod.umount(&[]);
}

#[test]
fn each_mount_is_listed_with_how_it_stands() {
    let (pod, _store) = pod();
    pod.mount("v", &["--create"]);
    fs::write(pod.path("file"), "x").unwrap();
    let live = &pod.json(["list"])[0];
    assert_eq!(
        (&live["state"], &live["dirty"], &live["base"]),
        (&"live".into(), &1.into(), &0.into()),
        "{live}"
    );
    // People see what a process is for.
    let title = fs::read(format!("/proc/{}/cmdline", pod.daemon().unwrap())).unwrap();
    let title = String::from_utf8_lossy(&title).replace('\0', " ");
    assert!(
        title.contains(" v ") && title.contains(pod.mount_dir().to_str().unwrap()),
        "{title}"
    );
    // What others publish, once it is known.
    pod.run(["put", "/etc/hostname", "v:/other"]);
    pod.status();
    assert_eq!(pod.json(["list"])[0]["behind"], 1);
    // Looking at its state finds nothing of a crash.
    let checked = pod.run([
        "fsck".as_ref(),
        "--state".as_ref(),
        pod.local_dir("state").as_os_str(),
    ]);
    let text = said(&checked);
    assert!(
        checked.status.success() && text.contains("in use") && !text.contains("crash"),
        "{text}"
    );
    pod.kill_daemon();
    let dead = &pod.json(["list"])[0];
    assert_eq!(
        (&dead["state"], &dead["pid"]),
        (&"dead".into(), &serde_json::Value::Null),
        "{dead}"
    );
    let text = said(&pod.run(["list"]));
    assert!(text.contains("mounting it again repairs it"), "{text}");
    pod.mount("v", &[]);
    assert_eq!(pod.json(["list"])[0]["state"], "live");
    pod.umount(&[]);
    assert_eq!(pod.json(["list"]), serde_json::json!([]));
}

/// A mount point of somebody else that is no UTF-8 hid all mounts from every command.
#[test]
fn a_mount_point_of_any_bytes_hides_no_other() {
    use std::os::unix::ffi::OsStrExt;
    if !rustix::process::geteuid().is_root() {
        return;
    }
    let (pod, _store) = pod();
    let odd = pod.local_dir("run").join(OsStr::from_bytes(b"odd-\xff\xfe"));
    fs::create_dir(&odd).unwrap();
    rustix::mount::mount("none", &odd, c"tmpfs", rustix::mount::MountFlags::empty(), None).unwrap();
    pod.mount("v", &["--create"]);
    pod.umount(&[]);
    rustix::mount::unmount(&odd, UnmountFlags::DETACH).unwrap();
}

/// Opens as many files of a directory as are asked for, does something with each, and says how often each error came while
/// opening and while using them.
const OPEN_MANY: &str = r#"
import collections, os, resource, sys
d, how, n = sys.argv[1], sys.argv[2], int(sys.argv[3])
resource.setrlimit(resource.RLIMIT_NOFILE, (n + 100, n + 100))
fds, opening, using = [], collections.Counter(), collections.Counter()
for i in range(n):
    flags = {"read": os.O_RDONLY, "update": os.O_RDWR, "create": os.O_RDWR | os.O_CREAT}[how]
    try: fds.append((i, os.open(f"{d}/{'new' if how == 'create' else 'f'}{i}", flags)))
    except OSError as e: opening[e.errno] += 1
for turn in range(2):
    for i, fd in fds:
        try:
            if how == "read": assert os.pread(fd, 100, 0) == b"old", i
            else: os.pwrite(fd, b"%d-%d" % (turn, i), 0)
        except OSError as e: using[e.errno] += 1
if how != "read":
    for i, fd in fds:
        try: assert os.pread(fd, 100, 0).startswith(b"1-%d" % i), i
        except OSError as e: using[e.errno] += 1
print(len(fds), dict(opening), dict(using))
"#;

/// A row of the table of promises (docs/src/semantics.md): open files have nothing to do with the daemon's limit. Without bodies that are closed while
/// they are idle (`overlay::OpenBodies`) about 30 and 250 of the
/// files can be opened for writing, the others are told ENFILE.
#[test]
fn descriptors() {
    let (pod, _store) = pod();
    pod.mount("v", &["--create"]);
    for number in 0..1200 {
        fs::write(pod.path(format!("f{number}")), "old").unwrap();
    }
    pod.commit("many");
    pod.umount(&[]);
    for (limit, count) in [(128, 400), (1024, 1200)] {
        for passthrough in ["auto", "off"] {
            let dir = pod.mount_dir();
            let mut mount = Command::new("sh");
            mount.args([
                "-c",
                "ulimit -Sn 100 && ulimit -Hn \"$0\" && exec \"$@\"",
                &limit.to_string(),
            ]);
            let words = ["mount", "--passthrough", passthrough, "v"].map(OsString::from);
            let inner = pod.command(words.into_iter().chain([dir.clone().into()]));
            mount.arg(inner.get_program()).args(inner.get_args());
            mount.envs(inner.get_envs().filter_map(|(name, value)| Some((name, value?))));
            let output = mount.stdin(Stdio::null()).output().unwrap();
            assert!(output.status.success(), "{}", said(&output));
            for how in ["read", "update", "create"] {
                let output = Command::new("python3")
                    .args(["-c", OPEN_MANY])
                    .arg(&dir)
                    .args([how, &count.to_string()])
                    .output()
                    .unwrap();
                let text = said(&output);
                assert!(output.status.success(), "{limit} {passthrough} {how}: {text}");
                let printed = String::from_utf8_lossy(&output.stdout).into_owned();
                assert_eq!(
                    printed.trim_end(),
                    format!("{count} {{}} {{}}"),
                    "{limit} {passthrough} {how}: {text}"
                );
            }
            // The daemon goes on, and what was written is whole.
            assert!(pod.commit("after all that")["seq"].is_number());
            for number in 0..100 {
                let text = fs::read_to_string(pod.path(format!("f{number}"))).unwrap();
                assert!(text.starts_with(&format!("1-{number}")), "{text}");
            }
            for number in 0..count {
                fs::remove_file(pod.path(format!("new{number}"))).unwrap();
                fs::write(pod.path(format!("f{number}")), "old").unwrap();
            }
            pod.commit("as before");
            pod.umount(&[]);
        }
    }
}
