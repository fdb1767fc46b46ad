//! Journals that were written once must be readable for ever.

use super::crash::bytes_of;
use crate::overlay::replay;

/// Written by version 1. Never changes.
const JOURNAL_V1: &[u8] = include_bytes!("../testdata/journal-v1.bin");
/// Written by version 2. Never changes.
const JOURNAL_V2: &[u8] = include_bytes!("../testdata/journal-v2.bin");

#[test]
fn a_journal_of_version_1_decodes_for_ever() {
    assert_eq!(
        describe(JOURNAL_V1),
        include_str!("../testdata/journal-v1.txt").trim_end()
    );
}

#[test]
fn a_journal_of_version_2_decodes_for_ever() {
    assert_eq!(
        describe(JOURNAL_V2),
        include_str!("../testdata/journal-v2.txt").trim_end()
    );
}

fn describe(journal: &[u8]) -> String {
    let replayed = replay(journal).unwrap();
    assert_eq!(replayed.cut_bytes, 0);
    let hash = blake3::hash(&bytes_of(&replayed.state));
    format!(
        "{} {} ops, {} nodes, base {}, frozen {}, state {hash}",
        replayed.header.mount_name,
        replayed.ops,
        replayed.state.nodes.len(),
        replayed.state.base.seq,
        replayed.state.frozen.is_some(),
    )
}

/// Makes the golden files; run by hand when a new version of the journal is introduced, into new files.
#[test]
#[ignore = "writes the golden files"]
fn write_golden_files() {
    let (start, mut program) = super::crash::program_with_commits(42, 6);
    program.freeze();
    program.step();
    let (bytes, _) = super::crash::journal_of(&start, &program.ops);
    let dir = std::path::Path::new("src/overlay/testdata");
    std::fs::write(dir.join("journal-v2.bin"), &bytes).unwrap();
    std::fs::write(dir.join("journal-v2.txt"), describe(&bytes) + "\n").unwrap();
}
