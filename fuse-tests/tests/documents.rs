//! Shell blocks of the documents, run as they stand there, and the links between documents.
//!
//! Blocks marked `sh` of one document are run in order by one shell, in a mount namespace in which `/tmp`, `/shared` and the
//! program's own directories are empty. A block that cannot be run here is marked `sh,no-run`.
//!
//! The namespace follows what is unmounted outside: a private copy of another test's mount would keep it alive.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use fuse_tests::pod::program;

fn root() -> PathBuf {
    let own = Path::new(env!("CARGO_MANIFEST_DIR"));
    own.parent()
        .expect("fuse-tests lies in the repository")
        .to_path_buf()
}

/// The documents for users.
fn documents() -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(root().join("docs/src")).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|e| e == "md") {
            found.push(path);
        }
    }
    found.sort();
    found
}

/// The text of the blocks that are to be run.
fn blocks(text: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut lines = text.lines();
    while let Some(line) = lines.next() {
        let Some(kind) = line.trim_start().strip_prefix("```") else {
            continue;
        };
        let block: Vec<&str> = lines
            .by_ref()
            .take_while(|line| line.trim_start() != "```")
            .collect();
        if kind == "sh" {
            found.push(block.join("\n"));
        }
    }
    found
}

/// What is set up before a document is run, and taken away behind it: everything that it mounts ends with its daemons.
const FRAME: &str = r#"
set -euo pipefail
# The program may lie below one of the directories that are hidden.
exec 9< "$PROGRAM"
for dir in /tmp /var/lib /var/cache /run /root; do mount -t tmpfs none "$dir"; done
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

fn run(document: &Path) {
    let text = std::fs::read_to_string(document).unwrap();
    let blocks = blocks(&text);
    if blocks.is_empty() {
        return;
    }
    let mut script = FRAME.to_owned();
    for block in &blocks {
        script.push_str(&format!("set -x\n{block}\n{{ set +x; }} 2>/dev/null\n"));
    }
    let output = Command::new("unshare")
        .args(["--mount", "--propagation", "slave", "bash", "-c", &script])
        .env("PROGRAM", program())
        .stdin(Stdio::null())
        .output()
        .expect("unshare runs");
    assert!(
        output.status.success(),
        "{}: {}\n{}\n{}",
        document.display(),
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
}

#[test]
fn every_shell_block_runs_as_it_stands() {
    let documents = documents();
    assert!(!documents.is_empty());
    for document in documents {
        run(&document);
    }
}

/// Targets of links in a text, those in blocks left out.
fn links(text: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut in_block = false;
    for line in text.lines() {
        if line.trim_start().starts_with("```") {
            in_block = !in_block;
        }
        if in_block {
            continue;
        }
        for (at, _) in line.match_indices("](") {
            let target: String = line[at + 2..].chars().take_while(|c| *c != ')').collect();
            found.push(target);
        }
    }
    found
}

/// The anchors of a document's headings, as forges and mdBook make them.
fn anchors(text: &str) -> Vec<String> {
    let headings = text.lines().filter(|line| line.starts_with('#'));
    headings
        .map(|line| {
            let title = line.trim_start_matches('#').trim();
            let kept = title
                .chars()
                .filter(|c| c.is_alphanumeric() || *c == ' ' || *c == '-' || *c == '_');
            kept.collect::<String>().to_lowercase().replace(' ', "-")
        })
        .collect()
}

#[test]
fn every_link_between_documents_leads_somewhere() {
    let root = root();
    let mut texts = documents();
    for name in [
        "README.md",
        "ARCHITECTURE.md",
        "CONTRIBUTING.md",
        "SECURITY.md",
        "fuse-tests/README.md",
        "packaging/README.md",
    ] {
        texts.push(root.join(name));
    }
    let mut dead = Vec::new();
    for document in &texts {
        let text = std::fs::read_to_string(document).unwrap();
        for link in links(&text) {
            if link.contains("://") {
                continue;
            }
            let (path, anchor) = link.split_once('#').unwrap_or((&link, ""));
            let target = match path {
                "" => document.clone(),
                path => document.parent().expect("a file lies in a directory").join(path),
            };
            let is_there = target.exists()
                && (anchor.is_empty()
                    || std::fs::read_to_string(&target)
                        .is_ok_and(|text| anchors(&text).iter().any(|a| a == anchor)));
            if !is_there {
                dead.push(format!("{}: {link}", document.display()));
            }
        }
    }
    assert!(dead.is_empty(), "links that lead nowhere:\n{}", dead.join("\n"));
}
