//! Every rule that a comment cites by document and number stands in that document, and the document in this repository; and nothing
//! refers to plans, which a reader cannot look up.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

fn root() -> PathBuf {
    let own = Path::new(env!("CARGO_MANIFEST_DIR"));
    own.parent()
        .expect("fuse-tests lies in the repository")
        .to_path_buf()
}

fn files(dir: &Path, endings: &[&str], out: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        let name = path
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned();
        if name.starts_with('.') || name == "target" {
            continue;
        }
        if path.is_dir() {
            files(&path, endings, out);
        } else if path
            .extension()
            .is_some_and(|e| endings.iter().any(|ending| e == *ending))
        {
            out.push(path);
        }
    }
}

/// Numbers that a document can be cited by: of headings (`## 2. Title`, `### 2.1 Title`), of the items of a numbered list
/// below a heading (2.1 is item 1 of section 2, unless a heading has that number), and of invariants (`**J4**`).
fn numbers(text: &str) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    let mut section = String::new();
    for line in text.lines() {
        let number = |text: &str| -> String {
            let end = text
                .find(|c: char| !c.is_ascii_digit() && c != '.')
                .unwrap_or(text.len());
            text[..end].trim_end_matches('.').to_owned()
        };
        if line.starts_with('#') {
            section = number(line.trim_start_matches('#').trim_start());
            found.insert(section.clone());
        } else if let Some((item, _)) = line.split_once(". ")
            && item.parse::<u32>().is_ok()
        {
            found.insert(format!("{section}.{item}"));
        }
        for part in line.split("**").skip(1).step_by(2) {
            if part.starts_with(|c: char| c.is_ascii_uppercase())
                && part.ends_with(|c: char| c.is_alphanumeric())
            {
                found.insert(part.to_owned());
            }
        }
    }
    found
}

/// Documents that are named in a text, and the number behind each, if there is one.
fn cited(text: &str) -> Vec<(String, Option<String>)> {
    let mut found = Vec::new();
    for (at, _) in text.match_indices(".md") {
        let head = &text[..at];
        let start = head
            .rfind(|c: char| !c.is_ascii_uppercase() && c != '_' && c != '-')
            .map_or(0, |i| i + 1);
        let name = &head[start..];
        if name.len() < 3 {
            continue;
        }
        let tail = &text[at + ".md".len()..];
        let behind = tail.trim_start_matches([' ', '`']);
        let is_number = tail.len() != behind.len() && behind.starts_with(|c: char| c.is_ascii_digit());
        let number = is_number.then(|| {
            let end = behind
                .find(|c: char| !c.is_ascii_digit() && c != '.')
                .unwrap_or(behind.len());
            behind[..end].trim_end_matches('.').to_owned()
        });
        found.push((format!("{name}.md"), number));
    }
    found
}

#[test]
fn every_cited_rule_exists() {
    let root = root();
    let mut documents: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    let mut texts = Vec::new();
    files(&root, &["md"], &mut texts);
    for path in &texts {
        let name = path
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned();
        let text = std::fs::read_to_string(path).unwrap();
        documents.entry(name).or_default().extend(numbers(&text));
    }
    files(&root, &["rs", "toml", "sh", "py", "yaml"], &mut texts);
    let own = root.join("fuse-tests/tests/citations.rs");
    let mut wrong = Vec::new();
    let mut counted = 0;
    for path in texts.iter().filter(|path| **path != own) {
        let text = std::fs::read_to_string(path).unwrap_or_default();
        for (document, number) in cited(&text) {
            counted += 1;
            let known = match (documents.get(&document), &number) {
                (None, _) => false,
                (Some(_), None) => true,
                (Some(numbers), Some(number)) => numbers.contains(number),
            };
            if !known {
                wrong.push(format!(
                    "{}: {document} {}",
                    path.display(),
                    number.unwrap_or_default()
                ));
            }
        }
    }
    assert!(wrong.is_empty(), "cited, and not there:\n{}", wrong.join("\n"));
    assert!(
        counted > 50,
        "only {counted} citations were found: are they read right?"
    );
}

/// What planning calls things ("issue 12", "phase 2"), as a reader of the repository cannot look it up.
fn planning(text: &str) -> Vec<String> {
    let mut found = Vec::new();
    for line in text.lines() {
        let words: Vec<&str> = line
            .split(|c: char| !c.is_alphanumeric() && c != '#')
            .filter(|w| !w.is_empty())
            .collect();
        for pair in words.windows(2) {
            let named = pair[0].to_lowercase();
            let number = pair[1].trim_start_matches('#');
            let of_planning = ["issue", "issues", "phase", "milestone", "sprint"].contains(&named.as_str());
            if of_planning && number.parse::<u32>().is_ok() {
                found.push(line.trim().to_owned());
            }
        }
    }
    found
}

#[test]
fn nothing_speaks_of_planning() {
    assert_eq!(
        planning("rows of issue 4's table, phase #2\nan issue; phase two").len(),
        2
    );
    let root = root();
    let mut texts = Vec::new();
    files(
        &root,
        &["md", "rs", "toml", "sh", "py", "yaml", "txt"],
        &mut texts,
    );
    assert!(texts.len() > 300, "{} files", texts.len());
    // These hold such words to find them.
    let finders = ["citations.rs", "made.rs"];
    let mut told = Vec::new();
    for path in texts {
        let text = std::fs::read_to_string(&path).unwrap_or_default();
        if !finders.iter().any(|finder| path.ends_with(finder)) {
            told.extend(
                planning(&text)
                    .into_iter()
                    .map(|line| format!("{}: {line}", path.display())),
            );
        }
    }
    assert!(told.is_empty(), "words of planning:\n{}", told.join("\n"));
}

#[test]
fn what_counts_as_a_citation_and_as_a_number() {
    let told = numbers("# T\n## 2. Reading\n1. One\n2. Two\n### 2.7 More\n- **J11a** Who\n");
    for number in ["2", "2.1", "2.2", "2.7", "J11a"] {
        assert!(told.contains(number), "{number} of {told:?}");
    }
    assert!(!told.contains("2.3"));
    let found =
        cited("as LOG.md 2.1, step 3 (SPEC.md 7). See `MERGE.md`; readme.md 4 is no document of rules");
    let shown: Vec<(&str, Option<&str>)> = found.iter().map(|(d, n)| (d.as_str(), n.as_deref())).collect();
    assert_eq!(
        shown,
        [
            ("LOG.md", Some("2.1")),
            ("SPEC.md", Some("7")),
            ("MERGE.md", None)
        ]
    );
}
