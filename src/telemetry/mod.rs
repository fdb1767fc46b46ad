//! Logs: one subscriber for the process, text or JSON, on standard error.
//!
//! What libraries say below `warn` about requests and credentials (headers, signatures, session tokens) is never
//! written, whatever `SAILVOL_LOG` asks for.
//!
//! Under journald (systemd connects standard error to it and says so in `JOURNAL_STREAM`) lines carry their priority in
//! front, `<4>` for a warning, as sd-daemon(3) has it, and neither time nor colour: the journal keeps both itself.

mod file;
mod repeats;

pub use repeats::tell_repeats;

use std::io::Write;
use std::path::PathBuf;

use tracing::{Event, Level, Metadata, Subscriber, level_filters::LevelFilter};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::filter_fn;
use tracing_subscriber::fmt::FmtContext;
use tracing_subscriber::fmt::format::{FormatEvent, FormatFields, Writer, format};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::util::SubscriberInitExt;

/// Crates whose debug output holds requests or credentials, by the beginning of their targets: the AWS SDK with its
/// signer and providers, and what carries its requests.
const SECRETIVE: [&str; 9] = [
    "aws_",
    "h2",
    "http",
    "httparse",
    "hyper",
    "reqwest",
    "rustls",
    "tokio_rustls",
    "tower",
];

/// How log lines look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// For people and journald.
    Text,
    /// One JSON object a line.
    Json,
}

/// Installs the subscriber. `SAILVOL_LOG` sets levels (as `RUST_LOG` does elsewhere: `info`, `sailvol=debug`); without
/// it `default_level` holds for sailvol and `warn` for the libraries it uses. `log_file` is the file that standard error
/// goes to, if it is one of ours: it is kept small, and put aside when it grows.
///
/// Warnings that come again and again are counted instead of written ([`tell_repeats`] writes the counts).
pub fn install(log_format: LogFormat, default_level: &str, log_file: Option<PathBuf>) {
    let directives = std::env::var("SAILVOL_LOG").unwrap_or_else(|_| format!("warn,sailvol={default_level}"));
    let filter = EnvFilter::builder().parse_lossy(directives);
    // It warns about every mount that was taken away by somebody else, which is how ours always end.
    let filter = filter.add_directive("fuser=error".parse().expect("a constant directive"));
    let logs = tracing_subscriber::registry()
        .with(filter)
        .with(filter_fn(may_be_written))
        .with(repeats::Repeats::of_this_process());
    let log = std::sync::Arc::new(file::LogFile::new(log_file));
    let lines = tracing_subscriber::fmt::layer()
        .with_writer(move || Unfailing(file::Lines::of(log.clone())))
        .log_internal_errors(false)
        .with_ansi(false);
    let (text, json) = (format().with_target(false).with_ansi(false), format().json());
    // A second call (tests in one process) keeps the first subscriber.
    let installed = match (log_format, is_journal()) {
        (LogFormat::Text, true) => {
            let plain = text.without_time().with_level(false);
            logs.with(lines.event_format(Prioritized(plain))).try_init()
        }
        (LogFormat::Text, false) => logs.with(lines.event_format(text)).try_init(),
        (LogFormat::Json, true) => logs.with(lines.json().event_format(Prioritized(json))).try_init(),
        (LogFormat::Json, false) => logs.with(lines.json().event_format(json)).try_init(),
    };
    if installed.is_err() {
        tracing::debug!("a log subscriber was installed before");
    }
}

/// Says that everything was written. A log that cannot be (its disk is full, its reader gone) must not end what is logged
/// about: the subscriber reports failures by `eprintln!`, which panics when standard error is what fails.
struct Unfailing<W>(W);

impl<W: Write> Write for Unfailing<W> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        // There is nobody to tell.
        let _ = self.0.write_all(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        let _ = self.0.flush();
        Ok(())
    }
}

/// A filter of its own: a directive for a whole crate would give way to a more precise one in `SAILVOL_LOG`.
fn may_be_written(metadata: &Metadata<'_>) -> bool {
    *metadata.level() <= LevelFilter::WARN
        || !SECRETIVE.iter().any(|name| metadata.target().starts_with(name))
}

/// Standard error goes to the journal: systemd.exec(5) tells device and inode of the stream, and both must be those of
/// the descriptor, because the variable is inherited by processes that write elsewhere.
fn is_journal() -> bool {
    let Some(stream) = std::env::var_os("JOURNAL_STREAM") else {
        return false;
    };
    let found = rustix::fs::fstat(std::io::stderr());
    found.is_ok_and(|found| stream.to_str() == Some(&format!("{}:{}", found.st_dev, found.st_ino)))
}

/// Puts the priority of syslog(3) in front of each line.
struct Prioritized<F>(F);

impl<S, N, F> FormatEvent<S, N> for Prioritized<F>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
    F: FormatEvent<S, N>,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> std::fmt::Result {
        write!(writer, "<{}>", priority(*event.metadata().level()))?;
        self.0.format_event(context, writer, event)
    }
}

fn priority(level: Level) -> u8 {
    match level {
        Level::ERROR => 3,
        Level::WARN => 4,
        Level::INFO => 6,
        _ => 7,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;

    #[derive(Clone, Default)]
    struct Lines(Arc<Mutex<Vec<u8>>>);

    impl Write for Lines {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    /// Seed 1 of the campaign of full disks: the mount ended when its log had no room.
    #[test]
    fn a_log_that_cannot_be_written_ends_nothing() {
        struct Full;
        impl Write for Full {
            fn write(&mut self, _: &[u8]) -> std::io::Result<usize> {
                Err(std::io::ErrorKind::StorageFull.into())
            }
            fn flush(&mut self) -> std::io::Result<()> {
                Err(std::io::ErrorKind::StorageFull.into())
            }
        }
        let mut log = Unfailing(Full);
        assert_eq!(log.write(b"a line").unwrap(), 6);
        log.flush().unwrap();
    }

    #[test]
    fn no_directive_opens_what_libraries_say_about_requests() {
        let lines = Lines::default();
        let writer = lines.clone();
        let logs = tracing_subscriber::registry()
            .with(EnvFilter::new(
                "trace,aws_sigv4::http_request=trace,aws_runtime[invoke]=trace",
            ))
            .with(filter_fn(may_be_written))
            .with(tracing_subscriber::fmt::layer().with_writer(move || writer.clone()));
        tracing::subscriber::with_default(logs, || {
            tracing::trace!(target: "aws_sigv4::http_request", "canonical request of SECRET");
            tracing::debug!(target: "aws_smithy_runtime::client", "headers with SECRET");
            tracing::debug!(target: "hyper_util::client", "SECRET");
            tracing::warn!(target: "aws_config::profile", "a broken file");
            tracing::trace!(target: "sailvol::cache", "a fetch");
        });
        let text = String::from_utf8(lines.0.lock().unwrap().clone()).unwrap();
        assert!(!text.contains("SECRET"), "{text}");
        assert!(
            text.contains("a broken file") && text.contains("a fetch"),
            "{text}"
        );
    }

    #[test]
    fn lines_for_the_journal_begin_with_their_priority() {
        let lines = Lines::default();
        let sink = lines.clone();
        let plain = format()
            .with_target(false)
            .with_ansi(false)
            .without_time()
            .with_level(false);
        let layer = tracing_subscriber::fmt::layer()
            .with_writer(move || sink.clone())
            .with_ansi(false)
            .event_format(Prioritized(plain));
        tracing::subscriber::with_default(tracing_subscriber::registry().with(layer), || {
            tracing::warn!(seq = 7, "held");
            tracing::info!("done");
        });
        let text = String::from_utf8(lines.0.lock().unwrap().clone()).unwrap();
        assert_eq!(text, "<4>held seq=7\n<6>done\n");
    }
}
