//! The benchmarks as a program; see `fuse_tests::bench`.

use clap::Parser;
use std::process::ExitCode;

fn main() -> ExitCode {
    match fuse_tests::bench::run(&fuse_tests::bench::Args::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}
