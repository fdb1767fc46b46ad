//! Logs: one subscriber for the process, text or JSON, on standard error.
//!
//! What libraries say below `warn` about requests and credentials (headers, signatures, session tokens) is never
//! written, whatever `SAILVOL_LOG` asks for.

use std::io::Write;

use tracing::{Metadata, level_filters::LevelFilter};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::filter_fn;
use tracing_subscriber::layer::SubscriberExt;
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
/// it `default_level` holds for sailvol and `warn` for the libraries it uses.
pub fn install(format: LogFormat, default_level: &str) {
    let directives = std::env::var("SAILVOL_LOG").unwrap_or_else(|_| format!("warn,sailvol={default_level}"));
    let filter = EnvFilter::builder().parse_lossy(directives);
    // It warns about every mount that was taken away by somebody else, which is how ours always end.
    let filter = filter.add_directive("fuser=error".parse().expect("a constant directive"));
    let logs = tracing_subscriber::registry()
        .with(filter)
        .with(filter_fn(may_be_written));
    let lines = tracing_subscriber::fmt::layer()
        .with_writer(|| Unfailing(std::io::stderr()))
        .log_internal_errors(false);
    // A second call (tests in one process) keeps the first subscriber.
    let installed = match format {
        LogFormat::Text => logs.with(lines.with_ansi(false).with_target(false)).try_init(),
        LogFormat::Json => logs.with(lines.json()).try_init(),
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
}
