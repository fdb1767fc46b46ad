//! Logs: one subscriber for the process, text or JSON, on standard error.

use tracing_subscriber::EnvFilter;

/// How log lines look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// For people and journald.
    Text,
    /// One JSON object a line.
    Json,
}

/// Installs the subscriber. `SAILVOL_LOG` sets levels (as `RUST_LOG` does elsewhere: `info`, `sailvol=debug`); without
/// it `default_level` holds for sailvol and `warn` for the libraries it uses. The AWS SDK is never raised above `warn`
/// by a bare level, because its debug output holds request headers.
pub fn install(format: LogFormat, default_level: &str) {
    let directives = std::env::var("SAILVOL_LOG").unwrap_or_else(|_| format!("warn,sailvol={default_level}"));
    let mut filter = EnvFilter::builder().parse_lossy(directives);
    for secretive in [
        "aws_config=warn",
        "aws_credential_types=warn",
        "aws_runtime=warn",
        "aws_sigv4=warn",
        "hyper=warn",
        // It warns about every mount that was taken away by somebody else, which is how ours always end.
        "fuser=error",
    ] {
        filter = filter.add_directive(secretive.parse().expect("a constant directive"));
    }
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr);
    // A second call (tests in one process) keeps the first subscriber.
    let installed = match format {
        LogFormat::Text => builder.with_ansi(false).with_target(false).try_init(),
        LogFormat::Json => builder.json().try_init(),
    };
    if installed.is_err() {
        tracing::debug!("a log subscriber was installed before");
    }
}
