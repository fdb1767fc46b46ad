//! The command line as a whole: consistent, described, and as it was last reviewed.

use super::{command_line, help};

/// Everything that `--help` prints, command after command.
const REFERENCE: &str = "src/cli/reference.txt";

#[test]
fn the_command_line_is_consistent() {
    command_line().debug_assert();
}

#[test]
fn every_visible_command_is_in_the_overview_with_examples() {
    let command = command_line();
    let mut names: Vec<&str> = command.get_subcommands().map(clap::Command::get_name).collect();
    let pages = help::GROUPS.iter().flat_map(|(_, pages)| pages.iter());
    let mut described: Vec<&str> = pages.map(|page| page.command).collect();
    names.sort_unstable();
    described.sort_unstable();
    assert_eq!(names, described);
}

#[test]
fn every_example_is_a_command_line_that_parses() {
    let pages = help::GROUPS.iter().flat_map(|(_, pages)| pages.iter());
    for (line, _) in pages.flat_map(|page| page.examples) {
        // Only sailvol's own part of a pipeline.
        let part = line.split(['|', '>']).find(|part| part.contains("sailvol "));
        let words = words(
            part.unwrap_or_else(|| panic!("{line}: no example of ours"))
                .trim(),
        );
        if let Err(error) = command_line().try_get_matches_from(words) {
            panic!("{line}: {error}");
        }
    }
}

/// Words as a shell splits them: blanks, and single quotes around what has some.
fn words(line: &str) -> Vec<String> {
    let mut words = vec![String::new()];
    let mut quoted = false;
    for letter in line.chars() {
        match letter {
            '\'' => quoted = !quoted,
            ' ' if !quoted => words.push(String::new()),
            _ => words.last_mut().expect("never empty").push(letter),
        }
    }
    words
}

fn reference() -> String {
    let mut out = String::new();
    let mut command = command_line().term_width(110);
    command.build();
    let mut pending = vec![command];
    while let Some(mut command) = pending.pop() {
        let name = command.get_bin_name().unwrap_or("sailvol").to_owned();
        let help = command.render_long_help().to_string();
        out.push_str(&format!("=== {name}\n{}\n\n", help.trim_end()));
        let subs = command.get_subcommands().filter(|sub| sub.get_name() != "help");
        let subs: Vec<clap::Command> = subs.map(|sub| sub.clone().term_width(110)).collect();
        pending.extend(subs.into_iter().rev());
    }
    out
}

/// Changes of wording are changes of what users read: they are looked at in the diff of the reference.
#[test]
fn the_help_is_as_it_was_reviewed() {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join(REFERENCE);
    let now = reference();
    if std::env::var_os("SAILVOL_WRITE_REFERENCE").is_some() {
        std::fs::write(&path, &now).unwrap();
    }
    let reviewed = std::fs::read_to_string(&path).unwrap();
    let differing = now.lines().zip(reviewed.lines()).find(|(now, then)| now != then);
    assert!(
        now == reviewed,
        "the help has changed, first at {differing:?}: run the tests with SAILVOL_WRITE_REFERENCE=1 and read the diff of {REFERENCE}"
    );
}

#[test]
fn every_command_has_a_manual_page() {
    let dir = tempfile::tempdir().unwrap();
    let context = super::Context::new(true, crate::config::PlaceOptions::default(), None);
    super::man::run(&super::man::Args::into(dir.path()), command_line(), &context).unwrap();
    for (_, pages) in help::GROUPS {
        for page in *pages {
            let path = dir.path().join(format!("sailvol-{}.1", page.command));
            let text = std::fs::read_to_string(path).unwrap();
            assert!(
                text.contains(".SH \"EXIT CODES\"") && text.contains(".SH EXAMPLES"),
                "{text}"
            );
        }
    }
    assert!(dir.path().join("sailvol.1").exists() && dir.path().join("mount.sailvol.8").exists());
}
