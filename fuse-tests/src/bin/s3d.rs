//! The S3 test server as a program; see `fuse_tests::s3d` and its control requests.

use anyhow::Context;
use clap::Parser;
use fuse_tests::s3d::{S3d, S3dOptions, Settings};
use std::collections::BTreeMap;
use std::io::Write;
use std::path::PathBuf;
use tokio::signal::unix::{SignalKind, signal};

/// An S3 server for tests on loopback. Prints its address, ends on SIGTERM.
#[derive(Debug, Parser)]
struct Args {
    /// Where objects are kept; a temporary directory by default
    #[arg(long)]
    data: Option<PathBuf>,
    /// Port on 127.0.0.1; any free one by default
    #[arg(long, default_value_t = 0)]
    port: u16,
    /// Buckets to create, may be repeated
    #[arg(long, default_value = "bucket")]
    bucket: Vec<String>,
    /// Access key and secret key, as ACCESS:SECRET
    #[arg(long, default_value = "s3d-access:s3d-secret")]
    key: String,
    /// Settings as JSON, e.g. '{"delay_ms":30,"bandwidth":25000000}'
    #[arg(long)]
    settings: Option<String>,
    /// A fault rule as JSON, may be repeated
    #[arg(long)]
    fault: Vec<String>,
    /// Seed of the chances of faults
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    let mut settings: Settings = match &args.settings {
        Some(text) => serde_json::from_str(text).context("--settings")?,
        None => Settings::default(),
    };
    let (access, secret) = args.key.split_once(':').context("--key is ACCESS:SECRET")?;
    settings.keys = BTreeMap::from([(access.to_string(), secret.to_string())]);
    let faults = args
        .fault
        .iter()
        .map(|text| serde_json::from_str(text).context("--fault"));
    let options = S3dOptions {
        data: args.data,
        port: args.port,
        buckets: args.bucket,
        settings,
        faults: faults.collect::<anyhow::Result<_>>()?,
        seed: args.seed,
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        // Before the line is printed: whoever reads it may end us at once.
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        let mut server = S3d::start(options).await.context("cannot start")?;
        println!("listening on {}", server.endpoint());
        std::io::stdout().flush()?;
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        server.stop();
        Ok(())
    })
}
