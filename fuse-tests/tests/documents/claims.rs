//! Names that the documents use: of options, metrics, exit codes and tests.

use std::collections::BTreeSet;

use super::{pages, read};

/// The rows of the first table behind a heading: their cells.
fn table(text: &str, heading: &str) -> Vec<Vec<String>> {
    let begin = text
        .find(&format!("\n## {heading}\n"))
        .unwrap_or_else(|| panic!("a heading {heading:?}"));
    let lines = text[begin..].lines().skip_while(|line| !line.starts_with('|'));
    let rows = lines.take_while(|line| line.starts_with('|')).skip(2);
    rows.map(|row| {
        let cells = row.trim_matches('|').split(" | ");
        cells.map(|cell| cell.trim().to_owned()).collect()
    })
    .collect()
}

/// Words of a text that begin with `start`, as far as letters that may stand in them go.
fn words(text: &str, start: &str, may: impl Fn(char) -> bool) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for (at, _) in text.match_indices(start) {
        if text[..at].ends_with(|c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_') {
            continue;
        }
        let tail: String = text[at + start.len()..].chars().take_while(|c| may(*c)).collect();
        if !tail.is_empty() {
            found.insert(format!("{start}{tail}"));
        }
    }
    found
}

#[test]
fn each_promise_has_a_test_of_its_name() {
    let rows = table(&read("docs/src/semantics.md"), "Promises");
    assert!(rows.len() > 15, "{} rows", rows.len());
    let tests = read("fuse-tests/tests/semantics.rs") + &read("fuse-tests/tests/daemon.rs");
    for row in rows {
        let name = row[0].to_lowercase().replace(' ', "_");
        assert!(
            tests.contains(&format!("#[test]\nfn {name}()")),
            "no test `{name}` for the row {:?}",
            row[0]
        );
    }
}

#[test]
fn every_metric_that_is_named_exists_and_every_metric_is_named() {
    let page = read("docs/src/operations.md");
    let source = read("src/daemon/metrics.rs");
    let named = words(&page, "sailvol_", |c| c.is_ascii_lowercase() || c == '_');
    assert!(named.len() > 20, "{named:?}");
    for metric in &named {
        let name = metric.trim_start_matches("sailvol_").trim_end_matches("_total");
        assert!(
            source.contains(&format!("\"{name}\"")),
            "{metric} is not a metric"
        );
    }
    for (at, _) in source.match_indices("w.gauge(\n") {
        let name = source[at..].split('"').nth(1).expect("a gauge has a name");
        assert!(
            named.contains(&format!("sailvol_{name}")),
            "{name} is not described"
        );
    }
}

#[test]
fn every_option_that_is_named_exists() {
    let reference = words(&read("src/cli/reference.txt"), "--", |c| {
        c.is_ascii_lowercase() || c == '-'
    });
    // Of other programs, in recipes.
    let foreign = [
        "--privileged",
        "--device",
        "--cap-add",
        "--delete",
        "--vfs-cache-mode",
        "--python",
        "--compile-bytecode",
        "--release",
        "--input",
        "--output",
        "--out",
        "--bin",
        "--now",
        "--without-pip",
    ];
    for page in pages() {
        let text = std::fs::read_to_string(&page).unwrap();
        for option in words(&text, "--", |c| c.is_ascii_lowercase() || c == '-') {
            let is_known = reference.contains(&option)
                || foreign.contains(&option.as_str())
                || option.chars().all(|c| c == '-');
            assert!(is_known, "{}: {option} is not an option", page.display());
        }
    }
}

#[test]
fn the_readme_can_be_read_in_one_sitting() {
    let lines = read("README.md").lines().count();
    assert!(
        lines <= 130,
        "README.md has {lines} lines; what is more belongs to docs/"
    );
}
