//! Links between documents.

use std::path::{Path, PathBuf};

use super::{pages, read, root};

/// Documents outside of the book.
const OTHERS: [&str; 12] = [
    "README.md",
    "ARCHITECTURE.md",
    "CONTRIBUTING.md",
    "SECURITY.md",
    "CHANGELOG.md",
    "changelog/README.md",
    "fuse-tests/README.md",
    "fuse-tests/bench/README.md",
    "fuse-tests/fuzz/README.md",
    "packaging/README.md",
    "packaging/python/README.md",
    "systemd/README.md",
];

/// Lines of a text that are not in blocks.
fn prose(text: &str) -> Vec<&str> {
    let mut in_block = false;
    let mut found = Vec::new();
    for line in text.lines() {
        if line.trim_start().starts_with("```") {
            in_block = !in_block;
        } else if !in_block {
            found.push(line);
        }
    }
    found
}

/// Targets of links and images in a text.
fn links(text: &str) -> Vec<String> {
    let mut found = Vec::new();
    for line in prose(text) {
        for (at, _) in line.match_indices("](") {
            found.push(line[at + 2..].chars().take_while(|c| *c != ')').collect());
        }
    }
    found
}

/// The anchors of a document's headings, as forges and mdBook make them.
fn anchors(text: &str) -> Vec<String> {
    let headings = prose(text).into_iter().filter(|line| line.starts_with('#'));
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

/// The file that a link of a document leads to, unless it leaves the repository; and the anchor, which may be empty.
fn target(document: &Path, link: &str) -> Option<(PathBuf, String)> {
    if link.contains("://") {
        return None;
    }
    let (path, anchor) = link.split_once('#').unwrap_or((link, ""));
    let file = match path {
        "" => document.to_path_buf(),
        path => document.parent()?.join(path),
    };
    Some((file, anchor.to_owned()))
}

#[test]
fn every_link_between_documents_leads_somewhere() {
    let mut texts = pages();
    texts.extend(OTHERS.map(|name| root().join(name)));
    let (mut dead, mut seen) = (Vec::new(), 0);
    for document in &texts {
        let text = std::fs::read_to_string(document).unwrap();
        for link in links(&text) {
            let Some((file, anchor)) = target(document, &link) else {
                continue;
            };
            seen += 1;
            let is_there = file.exists()
                && (anchor.is_empty()
                    || std::fs::read_to_string(&file).is_ok_and(|text| anchors(&text).contains(&anchor)));
            if !is_there {
                dead.push(format!("{}: {link}", document.display()));
            }
        }
    }
    assert!(dead.is_empty(), "links that lead nowhere:\n{}", dead.join("\n"));
    assert!(seen > 50, "only {seen} links were found: are they read right?");
}

/// A rendered book holds its own pages only.
#[test]
fn pages_of_the_book_link_to_pages_of_the_book() {
    let book = root().join("docs/src").canonicalize().unwrap();
    for page in pages() {
        let text = std::fs::read_to_string(&page).unwrap();
        for link in links(&text) {
            if let Some((file, _)) = target(&page, &link) {
                let file = file.canonicalize().unwrap_or(file);
                assert!(
                    file.starts_with(&book),
                    "{}: {link} leaves the book",
                    page.display()
                );
            }
        }
    }
}

#[test]
fn every_page_is_in_the_summary() {
    let summary = links(&read("docs/src/SUMMARY.md"));
    for page in pages() {
        let name = page.file_name().unwrap().to_string_lossy().into_owned();
        assert!(
            name == "SUMMARY.md" || summary.contains(&name),
            "{name} is not in SUMMARY.md"
        );
    }
}

/// Files that are named in text, as `packaging/README.md`, exist.
#[test]
fn every_file_that_is_named_exists() {
    let mut texts = pages();
    texts.extend(OTHERS.map(|name| root().join(name)));
    let tops = ["src/", "packaging/", "systemd/", "fuse-tests/", "docs/", ".ci/"];
    let (mut missing, mut seen) = (Vec::new(), 0);
    for document in texts {
        let text = std::fs::read_to_string(&document).unwrap();
        for line in prose(&text) {
            for named in line.split('`').skip(1).step_by(2) {
                let is_path = tops.iter().any(|top| named.starts_with(top))
                    && !named.contains([' ', '*', '<', '{'])
                    && !named.contains("::");
                seen += usize::from(is_path);
                if is_path && !root().join(named).exists() {
                    missing.push(format!("{}: {named}", document.display()));
                }
            }
        }
    }
    assert!(
        missing.is_empty(),
        "named, and not there:\n{}",
        missing.join("\n")
    );
    assert!(seen > 30, "only {seen} files are named: are they read right?");
}
