//! The command line: one file per command. Results go to standard output, as text or (`--json`) as one JSON value;
//! everything else goes to standard error. Exit codes are those of [`crate::answer::FailureKind`].

mod cat;
mod commit;
mod complete;
mod completions;
mod context;
mod cp;
mod debug_bundle;
mod diff;
mod doctor;
mod fsck;
mod get;
mod help;
mod hints;
mod list;
mod log;
mod ls;
mod man;
mod mount;
mod mount_helper;
mod prefetch;
mod progress;
mod publish;
mod put;
mod reload;
mod rm;
mod run;
mod stash;
mod status;
mod style;
mod table;
mod umount;
mod volume;
mod watch;

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{CommandFactory, FromArgMatches, Parser, Subcommand};

use crate::answer::{Failure, FailureKind};
use crate::config::{PlaceOptions, parse_timeout};
use context::Context;
use mount_helper::Wanted;

/// For how long calls to the system that are under way may take when a command has ended.
const LAST_CALLS: Duration = Duration::from_secs(5);

/// A shared volume for pods, in an object store, mounted as a local directory.
///
/// Files are fetched when they are opened; what you write stays on this machine until `sailvol commit` publishes it
/// in one step; `sailvol reload` brings in what others have committed.
#[derive(Debug, Parser)]
#[command(name = "sailvol", version, max_term_width = 110)]
struct Cli {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    command: Command,
}

/// Options of every command.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Options of every command")]
struct Global {
    /// Print the result as one JSON value, and a failure as another on standard error
    #[arg(long, global = true)]
    json: bool,
    /// With --json: also progress, as JSON objects on standard error
    #[arg(long, global = true, hide_short_help = true)]
    progress: bool,
    /// Where uncommitted work is kept (SAILVOL_STATE_DIR)
    #[arg(long, global = true, value_name = "DIR", hide_short_help = true)]
    state_dir: Option<PathBuf>,
    /// Where clean bytes are kept (SAILVOL_CACHE_DIR)
    #[arg(long, global = true, value_name = "DIR", hide_short_help = true)]
    cache_dir: Option<PathBuf>,
    /// Where control sockets are (SAILVOL_RUNTIME_DIR)
    #[arg(long, global = true, value_name = "DIR", hide_short_help = true)]
    runtime_dir: Option<PathBuf>,
    /// Give up after this long without an answer from the store (default: 30s)
    #[arg(long, global = true, value_name = "TIME", hide_short_help = true, value_parser = parse_timeout)]
    timeout: Option<Duration>,
}

#[derive(Debug, Subcommand)]
enum Command {
    Mount(Box<mount::Args>),
    Run(Box<run::Args>),
    #[command(visible_alias = "unmount")]
    Umount(umount::Args),
    List(list::Args),
    Commit(commit::Args),
    Reload(reload::Args),
    Status(status::Args),
    Watch(watch::Args),
    Diff(diff::Args),
    Log(log::Args),
    Stash(stash::Args),
    Prefetch(prefetch::Args),
    Volume(volume::Args),
    Ls(ls::Args),
    Cat(cat::Args),
    Get(get::Args),
    Put(put::Args),
    Cp(cp::Args),
    Rm(rm::Args),
    Fsck(fsck::Args),
    Doctor(doctor::Args),
    DebugBundle(debug_bundle::Args),
    Completions(completions::Args),
    Man(man::Args),
}

impl Command {
    /// A process whose output is a log of JSON lines speaks JSON altogether.
    fn speaks_json(&self) -> bool {
        matches!(self, Command::Mount(args) if args.logs_json_here())
    }
}

/// Runs the command line of this process.
pub fn main() -> ExitCode {
    crate::daemon::keep_memory_private();
    crate::mount::limit_arenas();
    if complete::answer() {
        return ExitCode::SUCCESS;
    }
    let words: Vec<OsString> = std::env::args_os().collect();
    // Not a command: only `sailvol mount` starts it, and no help or completion shows it.
    if words.get(1).is_some_and(|word| word == mount::DAEMON) {
        let context = Context::new(false, PlaceOptions::default(), None);
        return ended(mount::run_daemon(), &context);
    }
    let cli = match mount_helper::translate(&words) {
        Some(Ok(Wanted::Mount(translated))) => parse(translated),
        Some(Ok(Wanted::Check(translated))) => {
            parse(translated);
            return ExitCode::SUCCESS;
        }
        Some(Ok(Wanted::Remount { dir, change, ignored })) => {
            let context = Context::new(false, PlaceOptions::default(), None);
            let work = mount_helper::remount(&dir, &change, &ignored, &context);
            return ended(in_runtime(work), &context);
        }
        Some(Err(message)) => {
            eprintln!("mount.sailvol: {message}");
            return ExitCode::from(FailureKind::Usage.exit_code());
        }
        None => parse(words),
    };
    let places = PlaceOptions {
        state_dir: cli.global.state_dir,
        cache_dir: cli.global.cache_dir,
        runtime_dir: cli.global.runtime_dir,
    };
    let json = cli.global.json || cli.command.speaks_json();
    let mut context = Context::new(json, places, cli.global.timeout);
    context.progress = cli.global.progress;
    match cli.command {
        // Its exit code is that of another program.
        Command::Run(args) => {
            run::run(&args, &context).unwrap_or_else(|failure| ended(Err(failure), &context))
        }
        command => ended(dispatch(command, &context), &context),
    }
}

fn ended(outcome: Result<(), Failure>, context: &Context) -> ExitCode {
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            context.report(&failure);
            ExitCode::from(failure.kind.exit_code())
        }
    }
}

/// The whole command line, with its help.
fn command_line() -> clap::Command {
    help::complete(Cli::command())
}

/// Ends the process when the words make no sense, or ask for help.
fn parse(words: Vec<OsString>) -> Cli {
    let json = words
        .iter()
        .take_while(|word| *word != "--")
        .any(|word| word == "--json");
    let parsed = command_line()
        .try_get_matches_from(words.clone())
        .and_then(|matches| Cli::from_arg_matches(&matches));
    parsed.unwrap_or_else(|error| {
        if let Some(failure) = word_of_another_tool(&error, &words) {
            Context::new(json, PlaceOptions::default(), None).report(&failure);
            std::process::exit(i32::from(failure.kind.exit_code()))
        }
        if !json || error.exit_code() == 0 {
            error.exit();
        }
        let context = Context::new(json, PlaceOptions::default(), None);
        let failure = usage_failure(&error.to_string());
        context.report(&failure);
        std::process::exit(i32::from(failure.kind.exit_code()))
    })
}

/// A word that is no command here, and what somebody means by it who knows other tools.
fn word_of_another_tool(error: &clap::Error, words: &[OsString]) -> Option<Failure> {
    if error.kind() != ErrorKind::InvalidSubcommand {
        return None;
    }
    let Some(ContextValue::String(word)) = error.get(ContextKind::InvalidSubcommand) else {
        return None;
    };
    let at = words.iter().position(|given| given == word.as_str())?;
    // Below another command, when one stands before it.
    let command = command_line();
    let names = words[1..at].iter().filter_map(|given| given.to_str());
    let above = names
        .filter_map(|name| command.find_subcommand(name))
        .map(|sub| sub.get_name().to_owned())
        .next();
    let hint = hints::about(word, above.as_deref())?;
    let whole = above.map(|above| format!("{above} ")).unwrap_or_default();
    Some(Failure::new(FailureKind::Usage, format!("there is no command `{whole}{word}`")).hint(hint))
}

/// What clap says about a command line, in paragraphs: what is wrong, tips, usage, where there is more.
fn usage_failure(said: &str) -> Failure {
    let one_line = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
    let mut paragraphs: Vec<String> = said.trim().split("\n\n").map(one_line).collect();
    let message = paragraphs.remove(0);
    let failure = Failure::new(
        FailureKind::Usage,
        message.strip_prefix("error: ").unwrap_or(&message),
    );
    match paragraphs.is_empty() {
        true => failure,
        false => failure.hint(paragraphs.join("; ")),
    }
}

fn in_runtime(work: impl Future<Output = Result<(), Failure>>) -> Result<(), Failure> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|e| Failure::new(FailureKind::Failed, format!("cannot start threads: {e}")))?;
    let done = runtime.block_on(work);
    // What a thread waits for (a disk that does not answer) may never come: the command has its answer.
    runtime.shutdown_timeout(LAST_CALLS);
    done
}

fn dispatch(command: Command, context: &Context) -> Result<(), Failure> {
    match command {
        // These decide about the process (children, signals, threads) before a runtime exists.
        Command::Mount(args) => return mount::run(*args, context),
        Command::Completions(args) => return completions::run(&args, context),
        Command::Man(args) => return man::run(&args, command_line(), context),
        _ => {}
    }
    in_runtime(async {
        match command {
            Command::Mount(_) | Command::Run(_) | Command::Completions(_) | Command::Man(_) => {
                unreachable!("handled above")
            }
            Command::Umount(args) => umount::run(args, context).await,
            Command::List(args) => list::run(args, context).await,
            Command::Commit(args) => commit::run(args, context).await,
            Command::Reload(args) => reload::run(args, context).await,
            Command::Status(args) => status::run(args, context).await,
            Command::Watch(args) => watch::run(args, context).await,
            Command::Diff(args) => diff::run(args, context).await,
            Command::Log(args) => log::run(args, context).await,
            Command::Stash(args) => stash::run(args, context).await,
            Command::Prefetch(args) => prefetch::run(args, context).await,
            Command::Volume(args) => volume::run(args, context).await,
            Command::Ls(args) => ls::run(args, context).await,
            Command::Cat(args) => cat::run(args, context).await,
            Command::Get(args) => get::run(args, context).await,
            Command::Put(args) => put::run(args, context).await,
            Command::Cp(args) => cp::run(args, context).await,
            Command::Rm(args) => rm::run(args, context).await,
            Command::Fsck(args) => fsck::run(args, context).await,
            Command::Doctor(args) => doctor::run(args, context).await,
            Command::DebugBundle(args) => debug_bundle::run(args, context).await,
        }
    })
}

#[cfg(test)]
mod tests;
