//! `sailvol list`.

use super::context::Context;
use super::table::table;
use crate::control::list_mounts;
use crate::mount::Failure;

/// List the mounts on this machine
#[derive(Debug, clap::Args)]
pub struct Args {}

/// Runs the command.
pub async fn run(_: Args, context: &Context) -> Result<(), Failure> {
    let mounts = list_mounts(&context.places()?.runtime_search(&context.environment));
    context.print(&mounts, |mounts| {
        if mounts.is_empty() {
            return "no mounts\n".to_owned();
        }
        let mut rows = vec![["DIRECTORY", "VOLUME", "STORE", "PID"].map(String::from).to_vec()];
        rows.extend(mounts.iter().map(|m| {
            vec![
                m.dir.display().to_string(),
                m.volume.clone(),
                m.store.clone(),
                m.pid.to_string(),
            ]
        }));
        table(&rows)
    })
}
