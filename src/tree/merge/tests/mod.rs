//! The real merge against the reference model ([`super::model`]).
//!
//! Every run is a function of its seed. `SAILVOL_MODEL_RUNS=N` makes N times as many runs; `SAILVOL_MODEL_SEED=S` runs
//! that seed alone, as a failure prints it.

mod histories;
mod links;
mod mutants;
mod random;
mod real;
mod registers;
mod scenarios;
mod shape;
mod single;

use super::model;
use super::names::Rules;

/// Runs `check` for as many seeds as asked for; a failure names its seed.
fn for_seeds(runs: u64, check: impl Fn(u64) -> Result<(), String>) {
    let number = |name: &str| {
        std::env::var(name)
            .ok()
            .map(|value| value.parse::<u64>().expect("a number"))
    };
    if let Some(seed) = number("SAILVOL_MODEL_SEED") {
        check(seed).unwrap_or_else(|failure| panic!("seed {seed}: {failure}"));
        return;
    }
    for seed in 0..runs * number("SAILVOL_MODEL_RUNS").unwrap_or(1) {
        check(seed).unwrap_or_else(|failure| panic!("SAILVOL_MODEL_SEED={seed}: {failure}"));
    }
}

/// Fails with what was expected of two values that should be equal.
fn same<T: PartialEq + std::fmt::Debug>(what: &str, is: &T, should: &T) -> Result<(), String> {
    if is == should {
        Ok(())
    } else {
        Err(format!("{what}:\n  is     {is:?}\n  should {should:?}"))
    }
}
