//! Progress of long work on standard error: a bar on a terminal, JSON lines with `--json --progress`, nothing elsewhere.

use std::io::IsTerminal;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::answer::Progress;
use crate::config::format_bytes;

/// Shows [`Progress`] values.
#[derive(Debug)]
pub struct ProgressView {
    bar: Option<ProgressBar>,
    /// The bar counts bytes.
    bytes: AtomicBool,
    json: bool,
}

/// What is done, how fast, and how long the rest takes at that pace; of bytes, and of other things.
const OF_BYTES: &str = "{msg:>10} [{bar:24}] {prefix}  {binary_bytes_per_sec}, {eta} left";
const OF_FILES: &str = "{msg:>10} [{bar:24}] {prefix}  {per_sec}, {eta} left";

fn style(template: &str) -> ProgressStyle {
    let style = ProgressStyle::with_template(template);
    style.expect("a constant template").progress_chars("=> ")
}

impl ProgressView {
    /// Decides how to show it: `json` is the form of results, and `progress` says that lines of it are wanted then.
    pub fn new(json: bool, progress: bool) -> ProgressView {
        let bar = (!json && std::io::stderr().is_terminal()).then(|| {
            let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr());
            bar.set_style(style(OF_FILES));
            bar
        });
        ProgressView {
            bar,
            bytes: AtomicBool::new(false),
            json: json && progress,
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
        let of_bytes = progress.total_bytes > 0;
        if self.bytes.swap(of_bytes, Relaxed) != of_bytes {
            // Another unit: what was measured before says nothing.
            bar.set_style(style(if of_bytes { OF_BYTES } else { OF_FILES }));
            bar.reset();
        }
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
