//! What is made of texts in the repository: the drawing of the whole, and the text of a release.

use std::path::Path;
use std::process::{Command, Output};

use super::{read, root};

fn python(program: &str, arguments: &[&str]) -> Output {
    let output = Command::new("python3")
        .arg(root().join(program))
        .args(arguments)
        .output();
    output.expect("python3 runs")
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

#[test]
fn the_drawing_is_what_its_text_says() {
    let output = python("docs/draw", &["--check"]);
    assert!(output.status.success(), "{}", said(&output));
    let drawing = read("docs/src/overview.svg");
    assert!(drawing.contains("prefers-color-scheme:dark"));
    for page in ["ARCHITECTURE.md", "docs/src/how-it-works.md"] {
        assert!(read(page).contains("overview.svg)"), "{page} shows the drawing");
    }
}

#[test]
fn the_fragments_of_the_changelog_can_be_read() {
    let output = python("packaging/changelog", &["check"]);
    assert!(output.status.success(), "{}", said(&output));
}

/// A checkout with so many fragments.
fn checkout(log: &str, fragments: &[(&str, &str)]) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir(dir.path().join("changelog")).unwrap();
    std::fs::write(dir.path().join("CHANGELOG.md"), log).unwrap();
    for (name, text) in fragments {
        std::fs::write(dir.path().join("changelog").join(name), text).unwrap();
    }
    dir
}

fn changelog(dir: &Path, arguments: &[&str]) -> Output {
    let mut all = vec!["--root", dir.to_str().unwrap()];
    all.extend(arguments);
    python("packaging/changelog", &all)
}

const OLD: &str = "# Changes for users\n\n## 0.1.0 (2026-12-24)\n\nThe first.\n";

#[test]
fn a_release_is_made_of_its_fragments() {
    let fragments = [
        ("README.md", "# not a fragment\n"),
        (
            "b-second.md",
            "fixed: It works.\n\nIt did not, when\nit rained.\n\nNor in snow.\n",
        ),
        ("a-first.md", "added: A thing.\n"),
        ("c-third.md", "fixed: Another fault.\n"),
    ];
    let new = "### Added\n\n- A thing.\n\n### Fixed\n\n- It works.\n\n  It did not, when\n  it rained.\n\n  Nor in snow.\n- Another fault.\n";
    let dir = checkout(OLD, &fragments);
    let preview = changelog(dir.path(), &["preview"]);
    assert_eq!(said(&preview), new);
    let output = changelog(dir.path(), &["assemble", "0.2.0", "2027-01-31"]);
    assert!(output.status.success(), "{}", said(&output));
    let text = || std::fs::read_to_string(dir.path().join("CHANGELOG.md")).unwrap();
    let expected = format!(
        "# Changes for users\n\n## 0.2.0 (2027-01-31)\n\n{new}\n## 0.1.0 (2026-12-24)\n\nThe first.\n"
    );
    assert_eq!(text(), expected);
    let left: Vec<_> = std::fs::read_dir(dir.path().join("changelog"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name())
        .collect();
    assert_eq!(left, ["README.md"], "the others are used up");
    // Neither an empty release nor one of a number that was used.
    for version in ["0.3.0", "0.2.0"] {
        assert!(
            !changelog(dir.path(), &["assemble", version, "2027-02-01"])
                .status
                .success()
        );
    }
    assert_eq!(text(), expected);
}

#[test]
fn what_was_written_before_there_were_fragments_stays_in_front() {
    let open = OLD.replace("(2026-12-24)", "(not released)");
    let dir = checkout(&open, &[("a.md", "faster: Reads.\n")]);
    let output = changelog(dir.path(), &["assemble", "0.1.0", "2026-12-24"]);
    assert!(output.status.success(), "{}", said(&output));
    assert_eq!(
        std::fs::read_to_string(dir.path().join("CHANGELOG.md")).unwrap(),
        format!("{OLD}\n### Faster\n\n- Reads.\n")
    );
}

#[test]
fn fragments_that_say_nothing_to_users_are_refused_by_name() {
    for (name, text, fault) in [
        ("a.md", "It works now.\n", "does not begin with one of"),
        ("a.md", "repaired: It works.\n", "does not begin with one of"),
        ("a.md", "fixed: It works\n", "full stop"),
        ("a.md", "fixed: It works.\nNow.\n", "second line"),
        ("a.md", "fixed: It works.\n\n## More\n", "headings"),
        ("a.md", "fixed: It works, as issue 12 wants.\n", "planning"),
        ("Aa.md", "fixed: It works.\n", "lower-case"),
        ("a.txt", "fixed: It works.\n", "is no fragment"),
    ] {
        let dir = checkout(OLD, &[(name, text)]);
        let output = changelog(dir.path(), &["check"]);
        let told = said(&output);
        assert!(
            !output.status.success() && told.contains(fault) && told.contains(name),
            "{text:?}: {told}"
        );
    }
}
