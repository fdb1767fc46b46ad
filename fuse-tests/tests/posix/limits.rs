//! The limit that a program has for the length of its files (`ulimit -f`): as on a local file system.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use crate::Site;

/// What each call says under a limit of 100,000 bytes, the lengths that come of it, and the signal that ends a program.
const UNDER_A_LIMIT: &str = r#"
import ctypes, errno, mmap, os, resource, signal, sys
d, limit = sys.argv[1], 100_000
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
libc = ctypes.CDLL(None, use_errno=True)
def bound(bytes): resource.setrlimit(resource.RLIMIT_FSIZE, (bytes, resource.RLIM_INFINITY))
def open_(name, flags=0): return os.open(f"{d}/{name}", os.O_RDWR | os.O_CREAT | flags, 0o644)
def say(what, call, fd=None):
    try: said = call()
    except OSError as e: said = errno.errorcode[e.errno]
    print(what, said, "" if fd is None else os.fstat(fd).st_size)
def allocate(fd, mode, end):
    if libc.fallocate(fd, mode, ctypes.c_long(0), ctypes.c_long(end)): raise OSError(ctypes.get_errno(), "")
def store(fd):
    with mmap.mmap(fd, 200_000) as m: m[150_000:150_004] = b"MMMM"; m.flush()
    return os.pread(fd, 4, 150_000)
large, source = open_("large"), open_("source")
for fd in (large, source): os.pwrite(fd, b"l" * 200_000, 0)
bound(limit)
for turn in ("new", "opened again"):
    f = open_("f")
    say(turn + " below", lambda: os.pwrite(f, b"x" * 60_000, 0), f)
    say(turn + " across", lambda: os.pwrite(f, b"x" * 60_000, 50_000), f)
    say(turn + " at", lambda: os.pwrite(f, b"x", limit), f)
    say(turn + " nothing behind", lambda: os.pwrite(f, b"", limit + 5), f)
    say(turn + " cut to it", lambda: os.ftruncate(f, limit), f)
    say(turn + " cut behind", lambda: os.ftruncate(f, limit + 1), f)
    say(turn + " allocate", lambda: allocate(f, 0, limit + 1), f)
    say(turn + " allocate inside", lambda: allocate(f, 0, limit), f)
    say(turn + " vectors", lambda: os.pwritev(f, [b"y" * 10, b"z" * 100], limit - 50), f)
    os.ftruncate(f, 10)
    os.close(f)
say("by path", lambda: os.truncate(f"{d}/f", limit + 1))
a = open_("a", os.O_APPEND)
for _ in range(3): say("append", lambda: os.write(a, b"a" * 60_000), a)
c = open_("c")
say("copy", lambda: os.copy_file_range(source, c, 200_000, 0, 0), c)
say("copy behind", lambda: os.copy_file_range(source, c, 100, 0, limit), c)
os.lseek(c, 0, os.SEEK_SET)
say("send", lambda: os.sendfile(c, source, 0, 200_000), c)
say("in a larger one, behind", lambda: os.pwrite(large, b"x", 150_000), large)
say("in a larger one", lambda: os.pwrite(large, b"x", 5), large)
say("a mapping", lambda: store(large))
say("cut, still above", lambda: os.ftruncate(large, 150_000), large)
if os.fork() == 0:
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
    os.pwrite(large, b"x", limit + 5)
    os._exit(0)
print("ended by", os.WTERMSIG(os.wait()[1]))
"#;

fn under_a_limit(dir: &Path) -> String {
    fs::create_dir(dir).unwrap();
    let mut python = Command::new("python3");
    python.args(["-c", UNDER_A_LIMIT]).arg(dir).stdin(Stdio::null());
    let output = python.output().unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn files_end_at_the_programs_limit() {
    let Some(site) = Site::new() else { return };
    let local = under_a_limit(&site.work.path().join("local"));
    assert!(
        local.contains("ended by 25") && local.contains("EFBIG"),
        "{local}"
    );
    assert_eq!(under_a_limit(&site.pod.path("auto")), local);
    site.pod.commit("with what the kernel wrote");
    site.pod.umount(&[]);
    site.pod.mount("posix", &["--passthrough=off"]);
    assert_eq!(under_a_limit(&site.pod.path("off")), local);
}
