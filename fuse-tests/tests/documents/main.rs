//! What the documents for users say, held against the program: blocks of shell are run, sessions print what they show, links
//! lead somewhere, and names of options, metrics, files and tests exist. And what is made of texts: a drawing, the changelog.

mod claims;
mod links;
mod made;
mod run;

use std::path::{Path, PathBuf};

/// The repository.
fn root() -> PathBuf {
    let own = Path::new(env!("CARGO_MANIFEST_DIR"));
    own.parent()
        .expect("fuse-tests lies in the repository")
        .to_path_buf()
}

fn read(path: impl AsRef<Path>) -> String {
    let path = root().join(path);
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The pages of the book, by their paths, in order.
fn pages() -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(root().join("docs/src")).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|e| e == "md") {
            found.push(path);
        }
    }
    found.sort();
    assert!(found.len() > 5, "{found:?}");
    found
}

/// A block of a document that is fenced by three backticks.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Block {
    /// What stands behind the opening fence, such as `sh`.
    kind: String,
    text: String,
}

/// The blocks of a text.
fn blocks(text: &str) -> Vec<Block> {
    let mut found = Vec::new();
    let mut lines = text.lines();
    while let Some(line) = lines.next() {
        let Some(kind) = line.trim_start().strip_prefix("```") else {
            continue;
        };
        let inner: Vec<&str> = lines
            .by_ref()
            .take_while(|line| line.trim_start() != "```")
            .collect();
        found.push(Block {
            kind: kind.to_owned(),
            text: inner.join("\n"),
        });
    }
    found
}
