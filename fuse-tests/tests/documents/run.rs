//! Blocks of shell, run as they stand.
//!
//! Blocks marked `sh` and `console` of one document are run in order by one shell, in a mount namespace in which `/tmp`, `/shared`,
//! `/mnt` and the program's own directories are empty. In a `console` block lines that begin with `$ ` are commands, and the lines
//! behind each are what it must print, but for what is different each time (see [`steady`]). A block that cannot be run here is
//! marked `sh,no-run`.
//!
//! The namespace follows what is unmounted outside: a private copy of another test's mount would keep it alive.

use std::path::Path;
use std::process::{Command, Output, Stdio};

use fuse_tests::pod::program;

use super::{Block, blocks, pages, root};

/// What is set up before a document is run, and taken away behind it: everything that it mounts ends with its daemons.
const FRAME: &str = r#"
set -euo pipefail
# The program may lie below one of the directories that are hidden.
exec 9< "$PROGRAM"
for dir in /tmp /mnt /var/lib /var/cache /run /root; do mount -t tmpfs none "$dir"; done
mkdir -p /tmp/bin; cat <&9 > /tmp/bin/sailvol; exec 9<&-; chmod 755 /tmp/bin/sailvol; export PATH="/tmp/bin:$PATH" HOME=/root
[ -e /shared ] || made=/shared
cd /tmp
end() {
    code=$?
    cd /
    for dir in $(sailvol list --json 2>/dev/null | python3 -c 'import json,sys; [print(m["dir"]) for m in json.load(sys.stdin)]'); do
        sailvol umount --force "$dir" >/dev/null 2>&1 || true
    done
    [ -z "${made:-}" ] || rmdir "$made" 2>/dev/null || true
    exit $code
}
trap end EXIT
"#;

/// Stands in front of what a command of a session prints.
const MARK: &str = "@@ session ";

/// A command of a session, and what it is said to print.
#[derive(Debug, PartialEq, Eq)]
struct Shown {
    command: String,
    printed: Vec<String>,
}

fn session(block: &str) -> Vec<Shown> {
    let mut found: Vec<Shown> = Vec::new();
    for line in block.lines() {
        match (line.strip_prefix("$ "), found.last_mut()) {
            (Some(command), _) => found.push(Shown {
                command: command.to_owned(),
                printed: Vec::new(),
            }),
            (None, Some(last)) => last.printed.push(line.to_owned()),
            (None, None) => panic!("a session begins with a command, not with {line:?}"),
        }
    }
    found
}

/// A line without what is different each time: identifiers, times, the host's name, bytes sent and seconds.
fn steady(line: &str) -> String {
    let is_id = |word: &str| word.len() == 12 && word.chars().all(|c| c.is_ascii_hexdigit());
    let is_time = |word: &str| {
        let shape: String = word
            .chars()
            .map(|c| if c.is_ascii_digit() { '0' } else { c })
            .collect();
        ["0000-00-00", "00:00:00"].contains(&shape.as_str())
    };
    let mut words: Vec<String> = line.split(' ').map(str::to_owned).collect();
    for at in 0..words.len() {
        let bare = words[at].trim_matches(['(', ')']);
        if is_id(bare) || is_time(bare) {
            words[at] = "X".into();
        }
        let is_last = at + 2 == words.len();
        if words[at] == "by" && (is_last || words.get(at + 1).is_some_and(|next| next.ends_with(':'))) {
            words[at + 1] = "HOST".into();
        }
        if words[at] == "sent" && at >= 2 && words.len() > at + 2 {
            for place in [at - 2, at - 1, at + 2] {
                words[place] = "N".into();
            }
        }
    }
    words.join(" ")
}

/// Compares what sessions printed with what is shown; the difference, if there is one.
fn compare(shown: &[Shown], stdout: &str) -> Result<(), String> {
    // What blocks of the other kind print is nobody's answer.
    let mut answers = stdout
        .split(MARK)
        .filter(|part| part.starts_with(|c: char| c.is_ascii_digit()));
    for expected in shown {
        let answer = answers.next().unwrap_or_default();
        let printed: Vec<String> = answer.lines().skip(1).map(steady).collect();
        let said: Vec<String> = expected.printed.iter().map(|line| steady(line)).collect();
        if printed != said {
            return Err(format!(
                "`{}` printed\n{}\nand the document shows\n{}",
                expected.command,
                printed.join("\n"),
                said.join("\n")
            ));
        }
    }
    Ok(())
}

/// Runs a script in a namespace of its own.
fn in_namespace(script: &str) -> Output {
    Command::new("unshare")
        .args(["--mount", "--propagation", "slave", "bash", "-c", script])
        .env("PROGRAM", program())
        .env_remove("SAILVOL_STORE")
        .stdin(Stdio::null())
        .output()
        .expect("unshare runs")
}

/// Runs a document.
fn run(document: &Path) -> Result<(), String> {
    let text = std::fs::read_to_string(document).unwrap();
    let mut script = FRAME.to_owned();
    let mut shown = Vec::new();
    for Block { kind, text } in blocks(&text) {
        match kind.as_str() {
            "sh" => script.push_str(&format!(
                "echo '{MARK}none'\nset -x\n{text}\n{{ set +x; }} 2>/dev/null\n"
            )),
            "console" => {
                for step in session(&text) {
                    script.push_str(&format!("echo '{MARK}{}'\n{}\n", shown.len(), step.command));
                    shown.push(step);
                }
            }
            _ => {}
        }
    }
    if script == FRAME {
        return Ok(());
    }
    let output = in_namespace(&script);
    let (stdout, stderr) = (
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr),
    );
    if !output.status.success() {
        return Err(format!("{}\n{stdout}\n{stderr}", output.status));
    }
    compare(&shown, &stdout)
}

#[test]
fn every_shell_block_runs_as_it_stands() {
    let mut documents = pages();
    documents.push(root().join("README.md"));
    let only = std::env::var("SAILVOL_DOCUMENT").ok();
    let chosen = |document: &&std::path::PathBuf| only.as_ref().is_none_or(|only| document.ends_with(only));
    let failed: Vec<String> = documents
        .iter()
        .filter(chosen)
        .filter_map(|document| {
            let failure = run(document).err()?;
            Some(format!("{}: {failure}", document.display()))
        })
        .collect();
    assert!(failed.is_empty(), "{}", failed.join("\n\n"));
}

#[test]
fn every_kind_of_block_is_known() {
    let known = ["sh", "sh,no-run", "console", "python", "yaml", "text"];
    let mut documents = pages();
    documents.push(root().join("README.md"));
    for document in documents {
        let text = std::fs::read_to_string(&document).unwrap();
        for block in blocks(&text) {
            assert!(
                known.contains(&block.kind.as_str()),
                "{}: a block of the kind {:?}",
                document.display(),
                block.kind
            );
        }
    }
}

#[test]
fn a_session_that_prints_something_else_is_told() {
    let shown =
        session("$ one\ncommitted record 1 (0123456789ab) of /m\n  1 change, 9 B sent in 0.1 s\n$ two");
    assert_eq!(shown.len(), 2);
    let answer = |record: u32| {
        format!(
            "{MARK}0\ncommitted record {record} (ba9876543210) of /m\n  1 change, 1.5 KiB sent in 2.0 s\n{MARK}1\n"
        )
    };
    assert_eq!(compare(&shown, &answer(1)), Ok(()));
    assert!(compare(&shown, &answer(2)).is_err());
    assert!(compare(&shown, &format!("{}more\n", answer(1))).is_err());
    assert!(compare(&shown, "").is_err());
}
