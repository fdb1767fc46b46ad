//! What to say to somebody who knows other tools: words that are no commands here, and what is meant by them.

/// Words of other tools (git, coreutils, rclone, container engines), and what to do instead.
const WORDS: &[(&[&str], &str)] = &[
    (
        &["undo", "revert", "rollback", "reset"],
        "`sailvol reload` takes local changes out of the view (into a stash); `sailvol reload --to -1` goes one record back; \
         to publish an old record's files again, get them from a mount with --at",
    ),
    (
        &["mv", "move", "rename", "ren"],
        "in a mount use the system's mv; without one: `sailvol cp -r VOLUME:/from VOLUME:/to`, then `sailvol rm -r VOLUME:/from` (no \
         bytes are sent)",
    ),
    (
        &["tree", "find"],
        "`sailvol ls --recursive VOLUME:/` lists everything; in a mount use the system's own",
    ),
    (
        &["du", "df", "size"],
        "`sailvol volume info VOLUME` tells the size of a volume, `sailvol ls -l VOLUME:/` that of each directory; du works in a mount",
    ),
    (
        &["gc", "prune", "vacuum", "clean", "compact"],
        "there is nothing to run: the cache stays below --cache-size, stashes below --stash-size; `sailvol stash drop N` deletes one, \
         `sailvol volume delete` a volume",
    ),
    (
        &["sync"],
        "`sailvol commit` publishes what you changed, `sailvol reload` brings what others committed",
    ),
    (
        &["push", "publish", "save", "upload"],
        "`sailvol commit` publishes the changes of a mount; `sailvol put FILE VOLUME:/path` sends files without one",
    ),
    (
        &["pull", "update", "fetch", "refresh", "download"],
        "`sailvol reload` brings what others committed; `sailvol get VOLUME:/path DIR` copies files without a mount",
    ),
    (
        &["clone", "checkout"],
        "`sailvol mount VOLUME DIR` shows all of a volume and fetches what is read; `sailvol mount --read-only --at N` shows record N; \
         `sailvol get VOLUME:/ DIR` copies it",
    ),
    (
        &["tag", "branch", "switch"],
        "records are named by their numbers: `sailvol log` lists them, `sailvol commit -m TEXT` says what one is, \
         `sailvol mount --read-only --at N` shows it",
    ),
    (
        &["add", "stage", "track"],
        "nothing has to be added: `sailvol commit` publishes everything that changed",
    ),
    (
        &["init", "create", "new"],
        "`sailvol volume create VOLUME` makes a volume, `sailvol mount --create VOLUME DIR` makes and mounts it",
    ),
    (
        &["delete", "del", "remove", "unlink", "rmdir", "destroy", "drop"],
        "`sailvol rm VOLUME:/path` removes files, `sailvol volume delete VOLUME` a volume, `sailvol stash drop N` a stash",
    ),
    (
        &["mkdir", "touch", "write", "edit"],
        "in a mount use the system's own; without one `sailvol put` makes the directories of its target",
    ),
    (
        &["show", "history", "records", "blame"],
        "`sailvol log` lists the records, `sailvol diff --from N --to M` what they differ in",
    ),
    (
        &["merge", "rebase"],
        "`sailvol commit` merges with what others have committed, `sailvol reload --keep` puts local changes on top of it",
    ),
    (
        &["restore", "pop"],
        "`sailvol stash restore N` brings back what a reload set aside",
    ),
    (
        &["copy"],
        "`sailvol cp` copies within a volume, `sailvol put` into it, `sailvol get` out of it",
    ),
    (
        &["read", "open", "less", "head", "tail"],
        "`sailvol cat VOLUME:/path` prints a file; in a mount use the system's own",
    ),
    (&["dir", "ll"], "`sailvol ls -l VOLUME:/path` lists files"),
    (
        &["mounts", "ps", "volumes"],
        "`sailvol list` shows the mounts, `sailvol volume list` the volumes of a store",
    ),
    (
        &["info", "stat"],
        "`sailvol status` tells of a mount, `sailvol volume info VOLUME` of a volume",
    ),
    (
        &["unstash", "shelve"],
        "`sailvol stash list` shows what reloads set aside, `sailvol stash restore N` brings it back",
    ),
    (
        &["check", "verify", "repair", "scrub"],
        "`sailvol fsck VOLUME` checks every byte, `sailvol doctor` this machine",
    ),
    (
        &["warm", "hydrate", "preload"],
        "`sailvol prefetch PATH` brings files into the cache",
    ),
    (
        &["login", "config", "configure", "auth"],
        "there is nothing to log in to: credentials come from the AWS default chain, the store from SAILVOL_STORE; `sailvol doctor` shows both",
    ),
    (&["version"], "`sailvol --version`"),
];

/// The same below `sailvol volume` and `sailvol stash`.
const BELOW: &[(&str, &[&str], &str)] = &[
    (
        "volume",
        &["ls", "show"],
        "`sailvol volume list` lists the volumes of a store, `sailvol volume info VOLUME` shows one",
    ),
    (
        "volume",
        &["rm", "remove", "destroy", "del"],
        "`sailvol volume delete VOLUME`",
    ),
    (
        "volume",
        &["new", "init", "add", "mk"],
        "`sailvol volume create VOLUME`",
    ),
    (
        "volume",
        &["stat", "status", "du", "size"],
        "`sailvol volume info VOLUME`",
    ),
    ("volume", &["mount"], "`sailvol mount VOLUME DIR`"),
    (
        "volume",
        &["rename", "mv"],
        "a volume keeps its name; `sailvol get` and `sailvol put` copy its files to another",
    ),
    ("volume", &["check", "fsck"], "`sailvol fsck VOLUME`"),
    ("stash", &["pop", "apply"], "`sailvol stash restore N`"),
    (
        "stash",
        &["rm", "remove", "delete", "clear"],
        "`sailvol stash drop N`",
    ),
    ("stash", &["ls"], "`sailvol stash list`"),
    ("stash", &["diff"], "`sailvol stash show N`"),
    (
        "stash",
        &["push", "save", "create"],
        "`sailvol reload` puts local changes into a stash",
    ),
];

/// What somebody means by a word that is no command; `above` is the command below which it stood, if any.
pub fn about(word: &str, above: Option<&str>) -> Option<&'static str> {
    let word = word.to_ascii_lowercase();
    let is = |words: &[&str]| words.contains(&word.as_str());
    match above {
        Some(above) => BELOW
            .iter()
            .find(|(command, words, _)| *command == above && is(words))
            .map(|found| found.2),
        None => WORDS.iter().find(|(words, _)| is(words)).map(|found| found.1),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_a_command_needs_no_hint_and_what_is_named_is_one() {
        let command = crate::cli::command_line();
        let exists = |name: &str| command.find_subcommand(name).is_some();
        for (words, _) in WORDS {
            for word in *words {
                assert!(!exists(word), "{word} is a command");
            }
        }
        let hints = WORDS
            .iter()
            .map(|found| found.1)
            .chain(BELOW.iter().map(|found| found.2));
        for hint in hints {
            for part in hint.split("`sailvol ").skip(1) {
                let name: String = part
                    .chars()
                    .take_while(|c| c.is_ascii_alphanumeric() || *c == '-')
                    .collect();
                assert!(name.starts_with("--") || exists(&name), "{name} in {hint}");
            }
        }
        for (above, words, _) in BELOW {
            let above = command.find_subcommand(above).unwrap();
            for word in *words {
                assert!(above.find_subcommand(word).is_none(), "{word} is a command");
            }
        }
    }
}
