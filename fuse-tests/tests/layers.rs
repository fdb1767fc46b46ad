//! The layers of `src/` are those of `src/lib.rs`: a module uses only what stands above it there, some siblings never
//! meet, and some libraries are known in one place only.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

/// Pairs that never meet, although the order alone would let one use the other, and why.
const STRANGERS: [(&str, &str, &str); 3] = [
    (
        "overlay",
        "cache",
        "dirty and clean bytes have different rules; the view joins them",
    ),
    (
        "control",
        "fuse",
        "two drivers of one mount; the daemon joins them",
    ),
    ("volume", "cache", "the cache is handed a store, not a volume"),
];

/// Libraries that one place hides from the rest.
const HIDDEN: [(&str, &str); 6] = [
    ("fuser::", "fuse/"),
    ("aws_", "store/s3"),
    ("rustls::", "store/s3"),
    ("sled::", "cache/"),
    ("clap::", "cli/"),
    ("indicatif::", "cli/"),
];

fn source_dir() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("fuse-tests lies in the repository")
        .join("src")
}

fn rust_files(dir: &Path, out: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            rust_files(&path, out);
        } else if path.extension().is_some_and(|e| e == "rs") {
            out.push(path);
        }
    }
}

/// Files below `src/`, by path relative to it, with comments taken out.
fn sources() -> Vec<(String, String)> {
    let mut files = Vec::new();
    rust_files(&source_dir(), &mut files);
    files
        .into_iter()
        .map(|path| {
            let name = path
                .strip_prefix(source_dir())
                .unwrap()
                .to_string_lossy()
                .into_owned();
            let text = std::fs::read_to_string(&path).unwrap();
            let code: Vec<&str> = text.lines().map(|l| l.split("//").next().unwrap_or("")).collect();
            (name, code.join("\n"))
        })
        .collect()
}

fn module_of(file: &str) -> &str {
    file.split('/').next().unwrap().trim_end_matches(".rs")
}

/// First path segments behind every `crate::`, also in `use crate::{a, b}`.
fn uses(code: &str) -> Vec<String> {
    let mut found = Vec::new();
    for (at, _) in code.match_indices("crate::") {
        let rest = &code[at + "crate::".len()..];
        let segment = |text: &str| -> String {
            text.trim_start()
                .chars()
                .take_while(|c| c.is_alphanumeric() || *c == '_')
                .collect()
        };
        match rest.strip_prefix('{') {
            Some(list) => found.extend(list.split('}').next().unwrap_or("").split(',').map(segment)),
            None => found.push(segment(rest)),
        }
    }
    found
}

#[test]
fn a_module_uses_only_those_above_it() {
    let lib = std::fs::read_to_string(source_dir().join("lib.rs")).unwrap();
    let order: HashMap<String, usize> = lib
        .lines()
        .filter_map(|line| line.strip_prefix("pub mod ")?.strip_suffix(';'))
        .enumerate()
        .map(|(rank, name)| (name.to_owned(), rank))
        .collect();
    assert!(order.len() > 10, "src/lib.rs lists the layers");
    let mut wrong = Vec::new();
    for (file, code) in sources() {
        let module = module_of(&file);
        let Some(rank) = order.get(module) else { continue };
        for used in uses(&code) {
            if used != module && order.get(&used).is_some_and(|other| other > rank) {
                wrong.push(format!(
                    "{file}: {module} must not use {used}, which stands below it"
                ));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn strangers_never_meet() {
    let mut wrong = Vec::new();
    for (file, code) in sources() {
        for used in uses(&code) {
            for (one, other, why) in STRANGERS {
                let pair = (module_of(&file), used.as_str());
                if pair == (one, other) || pair == (other, one) {
                    wrong.push(format!("{file} uses {used}: {why}"));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn each_library_is_known_in_one_place() {
    let mut wrong = Vec::new();
    for (file, code) in sources() {
        for (library, place) in HIDDEN {
            if !file.starts_with(place)
                && code
                    .lines()
                    .any(|l| l.trim_start().starts_with(&format!("use {library}")))
            {
                wrong.push(format!("{file} uses {library} outside {place}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn files_can_be_read_in_one_sitting() {
    const LINES_MAX: usize = 1000;
    let long: Vec<String> = sources()
        .into_iter()
        .filter_map(|(file, code)| {
            let lines = code.lines().count();
            (lines > LINES_MAX).then(|| format!("{file}: {lines} lines, at most {LINES_MAX}"))
        })
        .collect();
    assert!(long.is_empty(), "{}", long.join("\n"));
}
