//! `sailvol completions`.

use clap_complete::Shell;

use super::context::Context;
use crate::mount::{Failure, FailureKind};

/// Print the completion script of a shell
///
/// With --json: an object with the shell and the script.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The shell
    shell: Shell,
}

/// Runs the command.
pub fn run(args: &Args, mut command: clap::Command, context: &Context) -> Result<(), Failure> {
    let mut script = Vec::new();
    let name = command.get_name().to_owned();
    clap_complete::generate(args.shell, &mut command, name, &mut script);
    let script = String::from_utf8(script)
        .map_err(|e| Failure::new(FailureKind::Failed, format!("the script is no text: {e}")))?;
    let answer = serde_json::json!({ "shell": args.shell.to_string(), "script": script });
    context.print(&answer, |_| script)
}
