//! Many small files with nothing cached: read, imported, looked at by git.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Result;

use crate::bench::files::*;
use crate::bench::measure::{Pairs, Sample, measure};
use crate::bench::peers::{Peer, run};
use crate::bench::place::{Bench, Mounted, PLAIN};
use crate::bench::report::Row;
use crate::bench::settings::{DELAY, Net};

/// Data that stands for source code: it compresses to about a third.
fn source_text(seed: u64, len: usize) -> Vec<u8> {
    const WORDS: [&str; 16] = [
        "return ", "value", "self.", "(index", ") ", "\n    ", "for ", "in ", "range", " = ", "None",
        "import ", "os", "def ", "class ", ", ",
    ];
    let mut text = Vec::with_capacity(len + 16);
    let mut n = seed;
    while text.len() < len {
        n = mix(n);
        for at in 0..8 {
            let word = WORDS[usize::try_from(n >> (8 * at) & 15).unwrap_or(0)];
            text.extend_from_slice(word.as_bytes());
        }
        text.extend_from_slice(format!("{:x}", n >> 40).as_bytes());
    }
    text.truncate(len);
    text
}

/// A tree as a repository has it: `count` files of 200 bytes to 12 KB, in directories of 20.
fn repository(dir: &Path, count: u64) -> Result<()> {
    for n in 0..count {
        let parent = dir.join(format!("pkg{:02}/mod{:03}", n / 20 % 25, n / 20));
        if n % 20 == 0 {
            std::fs::create_dir_all(&parent)?;
        }
        let len = 200 + mix(n) % 6000 * (1 + mix(n * 3) % 2);
        std::fs::write(
            parent.join(format!("file{n:05}.py")),
            source_text(n, usize::try_from(len)?),
        )?;
    }
    Ok(())
}

fn copy_tree(from: &Path, to: &Path) -> Result<()> {
    let mut command = Command::new("cp");
    command.arg("-a").arg(format!("{}/.", from.display())).arg(to);
    run(command)
}

/// The tree in a volume, as objects of a bucket, and as one compressed tar in it.
fn stored(bench: &Bench, tree: &Path) -> Result<Mounted> {
    let mounted = bench.volume()?;
    copy_tree(tree, &mounted.dir())?;
    mounted.commit();
    if bench.peers.has("s5cmd") {
        bench.peers.s5cmd([
            "cp",
            "--no-follow-symlinks",
            &format!("{}/", tree.display()),
            &format!("s3://{PLAIN}/tree/"),
        ])?;
        let tar = bench.scratch("tree.tar.gz");
        let mut command = Command::new("tar");
        command.arg("-czf").arg(&tar).arg("-C").arg(tree).arg(".");
        run(command)?;
        bench
            .peers
            .s5cmd(["cp", &tar.to_string_lossy(), &format!("s3://{PLAIN}/tree.tar.gz")])?;
        std::fs::remove_file(tar)?;
        if bench.peers.has(Peer::S3fs.name()) {
            // Directories that are in no object have a time of -1 in s3fs, which Python takes for "not looked at yet" and
            // finds no module in them.
            let mount = bench.peers.mount(Peer::S3fs, PLAIN, &bench.scratch("s3fs"))?;
            for dir in dirs_below(&mount.dir().join("tree"))? {
                let now = std::time::SystemTime::now();
                let times = std::fs::FileTimes::new().set_accessed(now).set_modified(now);
                std::fs::File::open(dir)?.set_times(times)?;
            }
        }
    }
    Ok(mounted)
}

fn clean(bench: &Bench) -> Result<()> {
    bench.set_net(None);
    if bench.peers.has("s5cmd") {
        bench.peers.s5cmd(["rm", &format!("s3://{PLAIN}/*")])?;
    }
    Ok(())
}

/// Fetches the tar and unpacks it.
fn untar(bench: &Bench, net: Net) -> Result<Sample> {
    let to = bench.fresh("untarred")?;
    bench.set_net(Some(net));
    let sample = bench.control(|| {
        let tar = to.join("tree.tar.gz");
        bench
            .peers
            .s5cmd(["cp", &format!("s3://{PLAIN}/tree.tar.gz"), &tar.to_string_lossy()])?;
        let mut command = Command::new("tar");
        command.arg("-xzf").arg(&tar).arg("-C").arg(&to);
        run(command)
    });
    bench.set_net(None);
    sample
}

/// Work that is done on a tree, and for the rows about it.
struct Reading<'a> {
    name: &'a str,
    bytes: u64,
    files: u64,
    work: &'a dyn Fn(&Path) -> Result<()>,
}

fn rows(bench: &Bench, mounted: &Mounted, reading: &Reading) -> Result<()> {
    for net in bench.nets.clone() {
        let ours = || {
            bench.set_net(None);
            mounted.remount_cold(&[])?;
            bench.set_net(Some(net));
            let sample = bench.ours(mounted, || (reading.work)(&mounted.dir()));
            bench.set_net(None);
            sample
        };
        if bench.peers.has("s5cmd") {
            let pairs = Pairs::run(bench.pairs, ours, || untar(bench, net))?;
            let gets = pairs.ours.iter().map(|s| s.gets()).max().unwrap_or(0);
            let most = reading.bytes.div_ceil(8 << 20) + reading.files.div_ceil(200);
            let mut row = Row::of(reading.name, net.name, "tar by s5cmd", &pairs);
            if net == DELAY {
                row = row.at_least(1.0 / 3.0);
            }
            bench.report.row(row.at_most("GETs", most as f64, gets as f64));
        } else {
            bench.report.skipped(reading.name, "s5cmd is not installed");
        }
        for peer in [Peer::S3fs, Peer::Rclone] {
            if !bench.peers.has(peer.name()) || !bench.peers.has("s5cmd") {
                let why = format!("{} or s5cmd is not installed", peer.name());
                bench.report.skipped(reading.name, &why);
                continue;
            }
            let theirs = || {
                bench.set_net(None);
                let mount = bench.peers.mount(peer, PLAIN, &bench.scratch(peer.name()))?;
                bench.set_net(Some(net));
                let sample = measure(bench, &[mount.daemon()], || {
                    (reading.work)(&mount.dir().join("tree")).map(|()| None)
                });
                bench.set_net(None);
                sample
            };
            // They take minutes at 30 ms.
            let pairs = Pairs::run(1, ours, theirs)?;
            let mut row = Row::of(reading.name, net.name, peer.name(), &pairs);
            if net == DELAY {
                row = row.at_least(10.0);
            }
            bench.report.row(row);
        }
    }
    Ok(())
}

pub(super) fn read(bench: &Bench) -> Result<()> {
    let count = bench.sizes.files;
    let tree = bench.fresh("tree")?;
    repository(&tree, count)?;
    let names: Vec<PathBuf> = files_below(&tree)?
        .iter()
        .filter_map(|path| path.strip_prefix(&tree).ok().map(Path::to_path_buf))
        .collect();
    let bytes = read_all(&files_below(&tree)?)?;
    let mounted = stored(bench, &tree)?;
    let orders = [
        ("name order", names.clone()),
        ("random order", shuffled(names, 5)),
    ];
    for (order, names) in orders {
        let work = |dir: &Path| {
            let paths: Vec<PathBuf> = names.iter().map(|name| dir.join(name)).collect();
            read_all(&paths).map(drop)
        };
        let name = format!("{count} small files cold, {order}");
        let reading = Reading {
            name: &name,
            bytes,
            files: count,
            work: &work,
        };
        rows(bench, &mounted, &reading)?;
    }
    clean(bench)
}

pub(super) fn import(bench: &Bench) -> Result<()> {
    let tree = bench.fresh("tree")?;
    let mut install = Command::new(&bench.python);
    install
        .args([
            "-m",
            "pip",
            "install",
            "--quiet",
            "--only-binary",
            ":all:",
            "--target",
        ])
        .arg(tree.join("site"))
        .arg("numpy");
    if let Err(error) = run(install) {
        bench
            .report
            .skipped("small-import", &format!("pip cannot install numpy: {error:#}"));
        return Ok(());
    }
    let files = files_below(&tree)?;
    let (count, bytes) = (files.len() as u64, read_all(&files)?);
    let mounted = stored(bench, &tree)?;
    let python = bench.python.clone();
    let work = |dir: &Path| {
        let mut command = Command::new(&python);
        command
            .args(["-c", "import numpy; assert '/site/' in numpy.__file__"])
            .env("PYTHONPATH", dir.join("site"))
            .env("PYTHONDONTWRITEBYTECODE", "1");
        run(command)
    };
    let reading = Reading {
        name: "import numpy, cold",
        bytes,
        files: count,
        work: &work,
    };
    rows(bench, &mounted, &reading)?;
    clean(bench)
}

pub(super) fn git_status(bench: &Bench) -> Result<()> {
    let count = bench.sizes.files;
    let mounted = bench.volume()?;
    let repo = mounted.path("repo");
    repository(&repo, count)?;
    let git = |arguments: &[&str]| {
        let mut command = Command::new("git");
        command
            .arg("-C")
            .arg(&repo)
            .args([
                "-c",
                "user.name=bench",
                "-c",
                "user.email=bench@example.org",
                "-c",
                "gc.auto=0",
            ])
            .args(["-c", "safe.directory=*"])
            .args(arguments)
            .stdout(std::process::Stdio::null());
        run(command)
    };
    git(&["init", "--quiet"])?;
    git(&["add", "."])?;
    git(&["commit", "--quiet", "-m", "all"])?;
    // Files younger than the index are read again by the next status, which then notes that.
    std::thread::sleep(std::time::Duration::from_millis(1100));
    git(&["status", "--porcelain"])?;
    mounted.commit();
    let content_bytes = read_all(&files_below(&repo)?)?;
    for net in bench.nets.clone() {
        bench.set_net(None);
        mounted.remount_cold(&[])?;
        bench.set_net(Some(net));
        let run = bench.ours(&mounted, || git(&["status", "--porcelain"]));
        bench.set_net(None);
        let run = run?;
        let share = run.down as f64 / content_bytes as f64;
        let row = Row::alone(
            format!("git status, {count} files, fresh mount"),
            net.name,
            &[run],
        );
        bench
            .report
            .row(row.holds("fetched, as part of all contents", true, format!("{share:.2}")));
    }
    Ok(())
}
