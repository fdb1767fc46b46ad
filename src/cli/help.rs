//! What `--help` and the manual pages say beyond clap's own parts: groups of commands, examples, exit codes.
//!
//! Every visible command has a [`Page`]; a test checks it, and another compares all of it with the committed
//! `reference.txt`, so that changes of wording are read by somebody.

use std::fmt::Write;

use crate::answer::FailureKind;
use crate::answer::FailureKind::{
    Damaged, Exists, NoAccess, NotFound, OutcomeUnknown, Refused, StoreUnreachable,
};

/// Additions to the help of one command.
pub struct Page {
    pub command: &'static str,
    /// Kinds of failures besides [`FailureKind::Failed`] and [`FailureKind::Usage`], which every command can end with.
    pub exits: &'static [FailureKind],
    /// Command lines, and what they are for.
    pub examples: &'static [(&'static str, &'static str)],
}

const READS_STORE: &[FailureKind] = &[NoAccess, StoreUnreachable, Damaged, NotFound];
const CHANGES_STORE: &[FailureKind] = &[
    Refused,
    NoAccess,
    StoreUnreachable,
    OutcomeUnknown,
    Damaged,
    NotFound,
    Exists,
];
/// As [`CHANGES_STORE`], where no name is made.
const PUBLISHES: &[FailureKind] = &[Refused, NoAccess, StoreUnreachable, OutcomeUnknown, Damaged];
const MAY_REFUSE: &[FailureKind] = &[Refused, NoAccess, StoreUnreachable, Damaged, NotFound];
const WRITES_HERE: &[FailureKind] = &[Refused, NoAccess, StoreUnreachable, Damaged, NotFound, Exists];
const ASKS_DAEMON: &[FailureKind] = &[NoAccess];

/// Commands by what people want to do, in the order of the overview.
pub const GROUPS: &[(&str, &[Page])] = &[
    (
        "Mounts",
        &[
            Page {
                command: "mount",
                exits: MAY_REFUSE,
                examples: &[
                    (
                        "sailvol mount --create datasets /shared",
                        "create the volume if it does not exist",
                    ),
                    (
                        "sailvol mount --read-only --at 41 datasets /mnt/old",
                        "an old record, beside other mounts",
                    ),
                    (
                        "sailvol mount 's3://team/vols/datasets?region=eu-central-1' /shared",
                        "without SAILVOL_STORE",
                    ),
                    (
                        "sailvol mount --foreground --autocommit 60s --commit-on-exit datasets /shared",
                        "as the process of a container whose local state is lost with the pod",
                    ),
                ],
            },
            Page {
                command: "run",
                exits: CHANGES_STORE,
                examples: &[
                    (
                        "sailvol run --create datasets /shared -m 'nightly run' -- python train.py --out /shared/model",
                        "what it wrote is committed, whatever it exits with",
                    ),
                    (
                        "sailvol run --on-failure stash datasets /shared -- make -C /shared",
                        "a command that fails publishes nothing",
                    ),
                    (
                        "sailvol run --cd datasets /shared -- bash",
                        "a shell in the mount; leaving it commits",
                    ),
                ],
            },
            Page {
                command: "umount",
                exits: PUBLISHES,
                examples: &[
                    (
                        "sailvol umount /shared",
                        "uncommitted work is kept on this machine",
                    ),
                    (
                        "sailvol umount --commit -m 'last results' /shared",
                        "publish it first",
                    ),
                    (
                        "sailvol umount --force /shared",
                        "when programs hang, or the daemon is gone",
                    ),
                ],
            },
            Page {
                command: "list",
                exits: &[],
                examples: &[("sailvol list --json", "for scripts")],
            },
            Page {
                command: "status",
                exits: ASKS_DAEMON,
                examples: &[
                    ("sailvol status", "of the mount that you are in"),
                    (
                        "sailvol status --check /shared",
                        "for a probe: 0 when the mount answers, within 5 s",
                    ),
                    ("sailvol status --local /shared", "without asking the store"),
                ],
            },
            Page {
                command: "watch",
                exits: ASKS_DAEMON,
                examples: &[
                    (
                        "sailvol watch --json /shared",
                        "one JSON object for each commit, reload, newer record, failure",
                    ),
                    ("sailvol watch", "the same, for people"),
                ],
            },
        ],
    ),
    (
        "Changes",
        &[
            Page {
                command: "commit",
                exits: PUBLISHES,
                examples: &[
                    (
                        "sailvol commit -m 'cleaned labels'",
                        "in the mount that you are in",
                    ),
                    ("sailvol commit --dry-run /shared", "how much that would be"),
                ],
            },
            Page {
                command: "reload",
                exits: MAY_REFUSE,
                examples: &[
                    (
                        "sailvol reload",
                        "what others committed; local changes go to a stash",
                    ),
                    ("sailvol reload --keep", "with local changes on top"),
                    ("sailvol reload --to 41", "back to an older record"),
                    ("sailvol reload --to -1", "one record back"),
                ],
            },
            Page {
                command: "diff",
                exits: READS_STORE,
                examples: &[
                    ("sailvol diff", "what a commit would publish"),
                    ("sailvol diff /shared/train", "the same of one directory"),
                    ("sailvol diff --from 40 --to 42", "what two records differ in"),
                ],
            },
            Page {
                command: "log",
                exits: READS_STORE,
                examples: &[("sailvol log -n 5", "the newest five records")],
            },
            Page {
                command: "stash",
                exits: MAY_REFUSE,
                examples: &[
                    ("sailvol stash list", "changes that reloads set aside"),
                    (
                        "sailvol stash restore 3",
                        "bring them back, on top of what is there now",
                    ),
                ],
            },
            Page {
                command: "prefetch",
                exits: MAY_REFUSE,
                examples: &[("sailvol prefetch /shared/train", "before the training starts")],
            },
        ],
    ),
    (
        "Volumes and files without a mount",
        &[
            Page {
                command: "volume",
                exits: CHANGES_STORE,
                examples: &[
                    ("sailvol volume create datasets", "an empty volume"),
                    ("sailvol volume list", "all of them"),
                    ("sailvol volume info datasets", "size, age, newest record"),
                ],
            },
            Page {
                command: "ls",
                exits: READS_STORE,
                examples: &[(
                    "sailvol ls -l --recursive datasets:/train",
                    "with modes and sizes",
                )],
            },
            Page {
                command: "cat",
                exits: READS_STORE,
                examples: &[("sailvol cat datasets:/README.md", "print a file")],
            },
            Page {
                command: "get",
                exits: WRITES_HERE,
                examples: &[
                    (
                        "sailvol get datasets:/train .",
                        "a directory with all that is in it",
                    ),
                    (
                        "sailvol get datasets:/model.bin - | sha256sum",
                        "to standard output",
                    ),
                ],
            },
            Page {
                command: "put",
                exits: CHANGES_STORE,
                examples: &[
                    (
                        "sailvol put results datasets:/runs/",
                        "one record with everything in it",
                    ),
                    (
                        "make-report | sailvol put - datasets:/report.txt --force",
                        "from standard input",
                    ),
                ],
            },
            Page {
                command: "cp",
                exits: CHANGES_STORE,
                examples: &[(
                    "sailvol cp -r datasets:/train datasets:/train-v2",
                    "sends no bytes",
                )],
            },
            Page {
                command: "rm",
                exits: CHANGES_STORE,
                examples: &[("sailvol rm -r datasets:/tmp", "older records keep it")],
            },
        ],
    ),
    (
        "When something is wrong",
        &[
            Page {
                command: "doctor",
                exits: &[],
                examples: &[
                    ("sailvol doctor", "this machine and the store"),
                    ("sailvol doctor datasets", "and one volume"),
                ],
            },
            Page {
                command: "debug-bundle",
                exits: &[NotFound],
                examples: &[(
                    "sailvol debug-bundle /shared",
                    "one file for a bug report, without secrets",
                )],
            },
            Page {
                command: "fsck",
                exits: READS_STORE,
                examples: &[
                    ("sailvol fsck datasets", "read and check every byte"),
                    (
                        "sailvol fsck --state /var/lib/sailvol/shared",
                        "check uncommitted work",
                    ),
                    (
                        "sailvol fsck --cache /var/cache/sailvol/shared",
                        "check clean bytes on this machine",
                    ),
                ],
            },
        ],
    ),
    (
        "Setting up",
        &[
            Page {
                command: "completions",
                exits: &[],
                examples: &[(
                    "sailvol completions bash > /etc/bash_completion.d/sailvol",
                    "for everybody on this machine",
                )],
            },
            Page {
                command: "man",
                exits: &[],
                examples: &[
                    ("sailvol man | man -l -", "read it"),
                    ("sailvol man --dir /usr/local/share/man/man1", "install all pages"),
                ],
            },
        ],
    ),
];

/// What a volume is called, how credentials are found, and the environment: part of the main page.
const MAIN_SECTIONS: &[(&str, &[&str])] = &[
    (
        "First steps",
        &[
            "sailvol mount --create demo /shared   make a volume and mount it; it lives on this machine,",
            "                                      unless SAILVOL_STORE names an object store",
            "echo hello > /shared/greeting         work as in any directory: nobody else sees it yet",
            "sailvol commit /shared -m 'first'     now everybody can, in one step",
            "sailvol reload /shared                see what others have committed since",
        ],
    ),
    (
        "Volumes",
        &[
            "VOLUME is a bare name, looked up in SAILVOL_STORE (a URL without the last part) or, when that",
            "is not set, in a directory store under your data directory; or it is a URL:",
            "  s3://bucket/prefix/name?region=eu-central-1",
            "  s3://bucket/prefix/name?endpoint=http://minio:9000&path_style=true",
            "  file:///dir/name",
            "VOLUME:/path names a file in it. Credentials come from the AWS default chain (environment,",
            "~/.aws, web identity, instance profile), never from arguments or URLs.",
        ],
    ),
    (
        "Directories",
        &[
            "A mount is named by its directory, or by any directory in it. Commands that act on a mount take",
            "the one that contains the current directory, or the only one there is, when you name none.",
        ],
    ),
];

const ENVIRONMENT: &[&str] = &[
    "SAILVOL_STORE        store for bare volume names",
    "SAILVOL_STATE_DIR    where uncommitted work is kept    (root: /var/lib/sailvol)",
    "SAILVOL_CACHE_DIR    where clean bytes are kept        (root: /var/cache/sailvol)",
    "SAILVOL_RUNTIME_DIR  where control sockets are         (root: /run/sailvol)",
    "SAILVOL_LOG          log levels, such as info or sailvol=debug",
];

fn indented(lines: &[&str]) -> String {
    let lines: Vec<String> = lines.iter().map(|line| format!("  {line}")).collect();
    lines.join("\n")
}

fn exits_text(kinds: &[FailureKind]) -> String {
    let mut out = "  0  done\n".to_owned();
    for kind in [FailureKind::Failed, FailureKind::Usage].iter().chain(kinds) {
        let _ = writeln!(out, "  {}  {}", kind.exit_code(), kind.meaning());
    }
    out.trim_end().to_owned()
}

fn examples_text(examples: &[(&str, &str)]) -> String {
    let mut out = String::new();
    for (line, purpose) in examples {
        let _ = writeln!(out, "  {line}\n      {purpose}");
    }
    out.trim_end().to_owned()
}

/// Sections of text below a page: title, and lines that begin with two blanks.
pub type Sections = Vec<(&'static str, String)>;

/// What follows the options of a command's page.
pub fn sections_of(page: &Page) -> Sections {
    vec![
        ("Examples", examples_text(page.examples)),
        ("Exit codes", exits_text(page.exits)),
    ]
}

/// What follows the overview of all commands.
pub fn main_sections() -> Sections {
    let every = [
        Refused,
        NoAccess,
        StoreUnreachable,
        OutcomeUnknown,
        Damaged,
        NotFound,
        Exists,
    ];
    let mut sections: Sections = MAIN_SECTIONS
        .iter()
        .map(|(title, lines)| (*title, indented(lines)))
        .collect();
    sections.push(("Exit codes", exits_text(&every)));
    sections.push(("Environment", indented(ENVIRONMENT)));
    sections
}

fn joined(sections: Sections) -> String {
    let texts: Vec<String> = sections
        .into_iter()
        .map(|(title, text)| format!("{title}:\n{text}"))
        .collect();
    texts.join("\n\n")
}

/// The page of a command.
pub fn page(command: &str) -> Option<&'static Page> {
    let mut pages = GROUPS.iter().flat_map(|(_, pages)| pages.iter());
    pages.find(|page| page.command == command)
}

/// Adds groups, examples and exit codes.
pub fn complete(command: clap::Command) -> clap::Command {
    let mut overview = String::new();
    for (title, pages) in GROUPS {
        let _ = writeln!(overview, "{title}:");
        for page in *pages {
            let about = command
                .find_subcommand(page.command)
                .and_then(clap::Command::get_about);
            let about = about.map(ToString::to_string).unwrap_or_default();
            let _ = writeln!(overview, "  {:<12} {about}", page.command);
        }
        overview.push('\n');
    }
    let template = format!(
        "{{about-with-newline}}\n{{usage-heading}} {{usage}}\n\n{}Options:\n{{options}}{{after-help}}",
        // Braces mean something in a template.
        overview.replace(['{', '}'], "")
    );
    let names: Vec<String> = command
        .get_subcommands()
        .map(|sub| sub.get_name().to_owned())
        .collect();
    let mut command = command
        .help_template(template)
        .after_help("`sailvol COMMAND --help` says more about a command, `sailvol --help` about volumes, exit codes and variables.")
        .after_long_help(joined(main_sections()));
    for name in names {
        if let Some(page) = page(&name) {
            command = command.mut_subcommand(&name, |sub| sub.after_long_help(joined(sections_of(page))));
        }
    }
    command
}
