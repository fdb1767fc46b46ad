//! What programs take for the same file across reloads: numbers, handles, and an overlayfs on top of the mount.

use std::fs::{self, File};
use std::io::Read;
use std::os::fd::{AsRawFd, FromRawFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::{Command, Stdio};

use fuse_tests::pod::{Pod, wait_until};

struct Volume {
    store: tempfile::TempDir,
    epochs: bool,
}

impl Volume {
    fn pod(&self, options: &[&str]) -> Pod {
        let mut pod = Pod::new(&format!("file://{}", self.store.path().display()));
        if !self.epochs {
            pod = pod.env("SAILVOL_KERNEL_EPOCHS", "off");
        }
        pod.mount("data", options);
        pod
    }
}

fn volume(epochs: bool) -> Volume {
    let store = tempfile::tempdir().unwrap();
    Volume { store, epochs }
}

#[test]
fn who_follows_a_log_by_its_name_sees_what_a_reload_brings() {
    let volume = volume(true);
    let a = volume.pod(&["--create"]);
    fs::write(a.path("log"), "one\n").unwrap();
    a.commit("one");
    let b = volume.pod(&[]);
    let mut tail = Command::new("tail")
        .args(["-F", "-s", "0.1", "-n", "+1"])
        .arg(a.path("log"))
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut lines = tail.stdout.take().unwrap();
    let reader = std::thread::spawn(move || {
        let (mut got, mut some) = (String::new(), [0u8; 100]);
        while !got.contains("three") {
            let count = lines.read(&mut some).unwrap();
            assert!(count > 0, "tail has ended: {got}");
            got.push_str(std::str::from_utf8(&some[..count]).unwrap());
        }
        got
    });
    let mut held = File::open(a.path("log")).unwrap();
    let before = held.metadata().unwrap().ino();
    for (at, text) in ["one\ntwo\n", "one\ntwo\nthree\n"].into_iter().enumerate() {
        fs::write(b.path("log"), text).unwrap();
        b.commit("more");
        a.reload(&[]);
        let now = fs::metadata(a.path("log")).unwrap();
        assert_eq!(now.len(), text.len() as u64);
        // The one that is open keeps its bytes and number and has no name; the name's number is another.
        let kept = held.metadata().unwrap();
        assert_eq!((kept.ino(), kept.len(), kept.nlink()), (before, 4, 0), "{at}");
        assert_ne!(now.ino(), before, "{at}");
    }
    let mut text = String::new();
    held.read_to_string(&mut text).unwrap();
    assert_eq!(text, "one\n");
    wait_until("tail has told the last line", || reader.is_finished());
    tail.kill().unwrap();
    tail.wait().unwrap();
    let got = reader.join().unwrap();
    assert!(got.starts_with("one\n") && got.contains("two\n"), "{got}");
    // For everybody else it is the file that it was.
    assert_eq!(fs::metadata(b.path("log")).unwrap().ino(), before);
}

#[test]
fn a_file_that_nobody_has_open_keeps_its_number_through_a_reload_and_shows_its_new_bytes() {
    for epochs in [true, false] {
        let volume = volume(epochs);
        let a = volume.pod(&["--create"]);
        fs::write(a.path("f"), "short").unwrap();
        a.commit("one");
        let b = volume.pod(&[]);
        let number = fs::metadata(a.path("f")).unwrap().ino();
        for turn in 0..4 {
            assert_eq!(fs::read(a.path("f")).unwrap(), fs::read(b.path("f")).unwrap());
            let bytes = match turn % 2 {
                0 => vec![b'a' + turn; 100_000],
                _ => vec![b'a' + turn; 10],
            };
            fs::write(b.path("f"), &bytes).unwrap();
            b.commit("more");
            a.reload(&[]);
            assert!(fs::read(a.path("f")).unwrap() == bytes, "{epochs} {turn}");
            let now = fs::metadata(a.path("f")).unwrap();
            assert_eq!(
                (now.ino(), now.len()),
                (number, bytes.len() as u64),
                "{epochs} {turn}"
            );
        }
    }
}

#[test]
fn hard_links_and_absent_names_are_not_remembered_across_a_reload() {
    for epochs in [true, false] {
        let volume = volume(epochs);
        let a = volume.pod(&["--create"]);
        fs::create_dir(a.path("d")).unwrap();
        let first = a.commit("nothing")["seq"].as_u64().unwrap().to_string();
        fs::write(a.path("d/one"), "linked").unwrap();
        fs::hard_link(a.path("d/one"), a.path("d/two")).unwrap();
        let second = a.commit("two names")["seq"].as_u64().unwrap().to_string();
        for turn in 0..3 {
            for name in ["d/one", "d/two"] {
                assert_eq!(
                    fs::read_to_string(a.path(name)).unwrap(),
                    "linked",
                    "{epochs} {turn}"
                );
            }
            a.reload(&["--to", &first]);
            for name in ["d/one", "d/two"] {
                assert!(fs::metadata(a.path(name)).is_err(), "{epochs} {turn} {name}");
            }
            a.reload(&["--to", &second]);
        }
    }
}

/// An overlayfs, unmounted at the end.
struct Union {
    dirs: tempfile::TempDir,
}

impl Union {
    fn over(lower: &Path) -> Union {
        let dirs = tempfile::tempdir().unwrap();
        for name in ["upper", "work", "all"] {
            fs::create_dir(dirs.path().join(name)).unwrap();
        }
        let options = format!(
            "lowerdir={},upperdir={},workdir={}",
            lower.display(),
            dirs.path().join("upper").display(),
            dirs.path().join("work").display()
        );
        let mut mount = Command::new("mount");
        mount.args(["-t", "overlay", "overlay", "-o", &options]);
        let output = mount.arg(dirs.path().join("all")).output().unwrap();
        assert!(output.status.success(), "{output:?}");
        Union { dirs }
    }

    fn read(&self, path: &str) -> Result<String, std::io::Error> {
        fs::read_to_string(self.dirs.path().join("all").join(path))
    }
}

impl Drop for Union {
    fn drop(&mut self) {
        let all = self.dirs.path().join("all");
        let _ = rustix::mount::unmount(all, rustix::mount::UnmountFlags::DETACH);
    }
}

#[test]
fn an_overlayfs_on_top_goes_on_after_reloads() {
    for epochs in [true, false] {
        let volume = volume(epochs);
        let a = volume.pod(&["--create"]);
        for dir in ["changed", "same/below"] {
            fs::create_dir_all(a.path(dir)).unwrap();
            for at in 0..20 {
                fs::write(a.path(dir).join(format!("{at}")), format!("first {at}")).unwrap();
            }
        }
        a.commit("first");
        let b = volume.pod(&[]);
        let union = Union::over(&a.mount_dir());
        let look = |text: &dyn Fn(u64) -> String| {
            for at in 0..20 {
                let same = union.read(&format!("same/below/{at}"));
                assert_eq!(same.unwrap(), format!("first {at}"), "{epochs}");
                let changed = union.read(&format!("changed/{at}"));
                assert_eq!(changed.unwrap(), text(at), "{epochs}");
            }
        };
        look(&|at| format!("first {at}"));
        for turn in 0..3 {
            for at in 0..5 {
                fs::write(b.path(format!("changed/{at}")), format!("turn {turn} of {at}")).unwrap();
            }
            fs::write(b.path("changed/new"), format!("{turn}")).unwrap();
            fs::rename(b.path("changed/new"), b.path("changed/7")).unwrap();
            b.commit("more");
            a.reload(&[]);
            look(&|at| match at {
                0..5 => format!("turn {turn} of {at}"),
                7 => format!("{turn}"),
                _ => format!("first {at}"),
            });
        }
    }
}

/// `name_to_handle_at`, then `open_by_handle_at`.
struct Handle {
    bytes: Vec<u8>,
}

impl Handle {
    fn of(path: &Path) -> Option<Handle> {
        let name = std::ffi::CString::new(path.as_os_str().as_bytes()).unwrap();
        let mut bytes = vec![0u8; 8 + 128];
        bytes[..4].copy_from_slice(&128u32.to_ne_bytes());
        let mut mount = 0;
        // SAFETY: the buffer has room for a handle of the 128 bytes that its head names.
        let done = unsafe {
            libc::syscall(
                libc::SYS_name_to_handle_at,
                libc::AT_FDCWD,
                name.as_ptr(),
                bytes.as_mut_ptr(),
                &raw mut mount,
                0,
            )
        };
        (done == 0).then_some(Handle { bytes })
    }

    fn open(&mut self, on: &Path) -> Result<File, std::io::Error> {
        let mount = File::open(on).unwrap();
        // SAFETY: the buffer holds a handle.
        let fd = unsafe {
            libc::syscall(
                libc::SYS_open_by_handle_at,
                mount.as_raw_fd(),
                self.bytes.as_mut_ptr(),
                libc::O_RDONLY,
            )
        };
        match i32::try_from(fd).unwrap() {
            -1 => Err(std::io::Error::last_os_error()),
            // SAFETY: it was just opened, and nobody else has it.
            fd => Ok(unsafe { File::from_raw_fd(fd) }),
        }
    }
}

/// A difference that docs/src/semantics.md names: a file handle holds while the kernel remembers the file. Behind that it says ESTALE, and
/// at no time does it lead to another file.
#[test]
fn a_file_handle_holds_while_the_kernel_remembers_the_file_and_never_leads_to_another() {
    let volume = volume(true);
    let a = volume.pod(&["--create"]);
    for at in 0..20 {
        fs::write(a.path(format!("{at}")), format!("file {at}")).unwrap();
    }
    a.commit("one");
    let mut handles: Vec<Handle> = Vec::new();
    for at in 0..20 {
        handles.push(Handle::of(&a.path(format!("{at}"))).expect("the kernel makes handles"));
    }
    let mut read = |handle: usize| -> Result<String, Option<i32>> {
        let mut file = handles[handle]
            .open(&a.mount_dir())
            .map_err(|error| error.raw_os_error())?;
        let mut text = String::new();
        file.read_to_string(&mut text)
            .map_err(|error| error.raw_os_error())?;
        Ok(text)
    };
    let fresh: Vec<_> = (0..20).map(&mut read).collect();
    assert!(
        fresh
            .iter()
            .enumerate()
            .all(|(at, got)| *got == Ok(format!("file {at}"))),
        "{fresh:?}"
    );
    fs::remove_file(a.path("3")).unwrap();
    a.commit("one less");
    a.umount(&[]);
    a.mount("data", &[]);
    for at in 0..20 {
        let got = read(at);
        assert!(
            got == Err(Some(libc::ESTALE)) || got == Ok(format!("file {at}")),
            "{at}: {got:?}"
        );
    }
}
