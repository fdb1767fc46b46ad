//! Names of all kinds of bytes through every command: as bytes, as they are shown, and back.

use std::collections::BTreeSet;
use std::ffi::{OsStr, OsString};
use std::fs;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::Path;
use std::process::Output;

use fuse_tests::pod::Pod;
use sailvol::model::{show, unshow};
use serde_json::Value;

/// What terminals, shells, JSON, other encodings and the form in which names are shown stumble over.
const ODD: &[&[u8]] = &[
    b"caf\xe9",
    b"new\nline",
    b"esc\x1b[31mred\x1b]0;title\x07",
    b"-rf",
    b"\"quoted\"",
    b"it's",
    b" lead and trail ",
    &[b'x'; 255],
    b"\xff\xfe",
    "\u{fc}\u{1f600}".as_bytes(),
    "turned \u{202e}txt.exe".as_bytes(),
    b"tab\there",
    b"back\\slash",
    b"looks\\xe9shown",
    b"\\x5cxe9",
    b"\\\xe9",
    b"..dots",
    b"*glob?[a]",
    b"a:b",
    b"\xed\xa0\x80",
];

/// Every byte that a name may have, in a name of its own; pieces of escapes in random order.
fn generated() -> Vec<Vec<u8>> {
    let mut names: Vec<Vec<u8>> = (1..=255u8)
        .filter(|byte| *byte != b'/')
        .map(|byte| vec![b'n', byte])
        .collect();
    let mut seed = std::process::id().wrapping_mul(2_654_435_761);
    println!("seed {seed}");
    let pieces: [&[u8]; 8] = [
        b"\\",
        b"\\x",
        b"x",
        b"5c",
        b"ff",
        b"\xff",
        b"\n",
        "\u{e9}".as_bytes(),
    ];
    for _ in 0..100 {
        let mut name = b"r".to_vec();
        for _ in 0..6 {
            seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            name.extend_from_slice(pieces[(seed >> 24) as usize % pieces.len()]);
        }
        names.push(name);
    }
    names
}

fn os(bytes: &[u8]) -> &OsStr {
    OsStr::from_bytes(bytes)
}

fn words<'a>(words: impl IntoIterator<Item = &'a [u8]>) -> Vec<OsString> {
    words.into_iter().map(|word| os(word).to_owned()).collect()
}

fn run(pod: &Pod, line: &[&[u8]]) -> Output {
    // Another locale than the names are written in.
    let output = pod
        .command(words(line.iter().copied()))
        .env("LC_ALL", "C")
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{line:?}: {said}");
    let raw = |bytes: &[u8]| bytes.contains(&0x1b);
    let is_content = line[0] == b"cat";
    assert!(
        is_content || !raw(&output.stdout) && !raw(&output.stderr),
        "{line:?} prints ESC"
    );
    output
}

fn json(pod: &Pod, line: &[&[u8]]) -> Value {
    let line: Vec<&[u8]> = line.iter().copied().chain([&b"--json"[..]]).collect();
    serde_json::from_slice(&run(pod, &line).stdout).unwrap()
}

fn paths(items: &Value) -> BTreeSet<Vec<u8>> {
    let shown = items
        .as_array()
        .unwrap()
        .iter()
        .map(|item| item["path"].as_str().unwrap());
    shown
        .map(|path| {
            unshow(path.as_bytes())
                .trim_ascii_start()
                .strip_prefix(b"/")
                .unwrap()
                .to_vec()
        })
        .collect()
}

#[test]
fn all_names_go_through_all_commands_and_come_back() {
    let work = tempfile::tempdir().unwrap();
    let pod = Pod::new(&format!("file://{}/store", work.path().display()));
    pod.mount("v", &["--create"]);
    let mut names: BTreeSet<Vec<u8>> = generated().into_iter().collect();
    names.extend(ODD.iter().map(|name| name.to_vec()));
    for name in &names {
        fs::write(pod.path(os(name)), name).unwrap();
    }
    let mnt = pod.mount_dir();
    let mnt = mnt.as_os_str().as_bytes();
    assert_eq!(paths(&json(&pod, &[b"diff", mnt])["changes"]), names);
    run(&pod, &[b"diff", mnt]);
    run(&pod, &[b"commit", mnt, b"-m", "odd \u{1b}[31mnames".as_bytes()]);
    run(&pod, &[b"log", mnt]);
    assert_eq!(paths(&json(&pod, &[b"ls", b"v:/"])["entries"]), names);
    let listed = run(&pod, &[b"ls", b"v:/"]).stdout;
    assert_eq!(
        listed.iter().filter(|byte| **byte == b'\n').count(),
        names.len(),
        "a line for each"
    );

    let copy = work.path().join("copy");
    fs::create_dir(&copy).unwrap();
    run(&pod, &[b"get", b"v:/", copy.as_os_str().as_bytes()]);
    let got: BTreeSet<Vec<u8>> = fs::read_dir(&copy)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_vec())
        .collect();
    assert_eq!(got, names);

    for name in ODD {
        let shown = show(name).into_bytes();
        let (raw, shown) = ([b"v:/", *name].concat(), [b"v:/", &shown[..]].concat());
        for given in [&raw, &shown] {
            // Where bytes are what is shown of another name, that one is meant.
            let meant = unshow(&given[3..]);
            let content = if names.contains(&meant) {
                meant
            } else {
                name.to_vec()
            };
            assert_eq!(run(&pod, &[b"cat", given]).stdout, content, "{}", show(given));
        }
        assert_eq!(
            paths(&json(&pod, &[b"ls", &shown])["entries"]),
            BTreeSet::from([name.to_vec()])
        );
        let local = [mnt, b"/", *name].concat();
        json(&pod, &[b"prefetch", &local]);
        json(&pod, &[b"cp", &shown, b"v:/made/"]);
        let out = work.path().join("out");
        fs::create_dir(&out).unwrap();
        run(&pod, &[b"get", &shown, out.as_os_str().as_bytes()]);
        assert_eq!(&fs::read(out.join(os(name))).unwrap(), name);
        // And from here.
        let from = out.join(os(name));
        run(&pod, &[b"put", from.as_os_str().as_bytes(), b"v:/put/"]);
        let made = [b"v:/put/", show(name).as_bytes()].concat();
        assert_eq!(&run(&pod, &[b"cat", &made]).stdout, name);
        assert_eq!(json(&pod, &[b"rm", &made])["removed_files"], 1);
        fs::remove_dir_all(&out).unwrap();
    }
    assert_eq!(
        json(&pod, &[b"ls", b"v:/made"])["entries"]
            .as_array()
            .unwrap()
            .len(),
        ODD.len()
    );
    // A change to one of them is told where it is looked for, by either form.
    run(&pod, &[b"reload", mnt]);
    fs::write(pod.path(os(b"caf\xe9")), "more").unwrap();
    fs::write(pod.path("other"), "more").unwrap();
    for name in [&b"caf\xe9"[..], b"caf\\xe9"] {
        let there = [mnt, b"/", name].concat();
        assert_eq!(
            paths(&json(&pod, &[b"diff", &there])["changes"]),
            BTreeSet::from([b"caf\xe9".to_vec()])
        );
    }
}

#[test]
fn a_mount_directory_may_have_such_a_name() {
    let work = tempfile::tempdir().unwrap();
    let pod = Pod::new(&format!("file://{}/store", work.path().display()));
    let dir = work.path().join(os(b"caf\xe9 \n"));
    fs::create_dir(&dir).unwrap();
    let there = dir.as_os_str().as_bytes();
    let mounted = json(&pod, &[b"mount", b"--create", b"v", there]);
    assert_eq!(unshow(mounted["dir"].as_str().unwrap().as_bytes()), there);
    fs::write(dir.join("f"), "x").unwrap();
    assert_eq!(json(&pod, &[b"commit", there])["seq"], 1);
    let listed = json(&pod, &[b"list"]);
    assert_eq!(unshow(listed[0]["dir"].as_str().unwrap().as_bytes()), there);
    assert_eq!(
        unshow(
            json(&pod, &[b"status", there])["dir"]
                .as_str()
                .unwrap()
                .as_bytes()
        ),
        there
    );
    run(&pod, &[b"umount", there]);
    assert!(!Path::new(&dir).join("f").exists());
}
