//! `sailvol completions`.

use clap_complete::Shell;

use super::context::Context;
use crate::mount::Failure;

/// Print the completion script of a shell
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
    context.write(&script)
}
