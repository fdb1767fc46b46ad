//! Progress of long work on standard error: a bar on a terminal, nothing elsewhere, JSON lines with `--json`.

use std::io::IsTerminal;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::context::Context;
use crate::config::format_bytes;
use crate::mount::Progress;

/// Shows [`Progress`] values.
#[derive(Debug)]
pub struct ProgressView {
    bar: Option<ProgressBar>,
    json: bool,
}

impl ProgressView {
    /// Decides how to show it.
    pub fn new(context: &Context) -> ProgressView {
        let bar = (!context.json && std::io::stderr().is_terminal()).then(|| {
            let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr());
            let style = ProgressStyle::with_template("{msg:>10} [{bar:30}] {prefix}  {elapsed_precise}");
            bar.set_style(style.expect("a constant template").progress_chars("=> "));
            bar
        });
        ProgressView {
            bar,
            json: context.json,
        }
    }

    /// Shows one state.
    pub fn show(&self, progress: &Progress) {
        if self.json {
            if let Ok(line) = serde_json::to_string(&serde_json::json!({ "progress": progress })) {
                eprintln!("{line}");
            }
            return;
        }
        let Some(bar) = &self.bar else { return };
        let (done, total) = match progress.total_bytes {
            0 => (progress.done_files, progress.total_files),
            bytes => (progress.done_bytes, bytes),
        };
        bar.set_length(total.max(1));
        bar.set_position(done);
        bar.set_message(progress.stage.clone());
        let mut prefix = format!("{}", progress.done_files);
        if progress.total_files > 0 {
            prefix.push_str(&format!("/{}", progress.total_files));
        }
        if progress.done_bytes > 0 || progress.total_bytes > 0 {
            prefix.push_str(&format!(", {}", format_bytes(progress.done_bytes)));
        }
        if progress.total_bytes > 0 {
            prefix.push_str(&format!(" of {}", format_bytes(progress.total_bytes)));
        }
        if progress.sent_bytes > 0 {
            prefix.push_str(&format!(", {} sent", format_bytes(progress.sent_bytes)));
        }
        bar.set_prefix(prefix);
    }
}

impl Drop for ProgressView {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}
