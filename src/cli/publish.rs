//! Options of the commands that publish edits of a volume that is not mounted.

use crate::files::Words;

/// Options of every command that publishes.
#[derive(Debug, clap::Args)]
pub struct PublishArgs {
    /// Text for the log
    #[arg(short, long, value_name = "TEXT", default_value = "")]
    message: String,
    /// Who publishes, for the log (default: the host name)
    #[arg(long, value_name = "NAME")]
    by: Option<String>,
}

impl PublishArgs {
    /// What the record says of itself.
    pub fn words(&self) -> Words {
        Words {
            message: self.message.clone(),
            by: self.by.clone(),
        }
    }
}
