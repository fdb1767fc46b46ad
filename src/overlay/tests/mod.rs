//! Tests of the whole folder; what is short stands beside its code.

mod crash;
mod golden;
mod power;
mod program;
mod stash;
mod store;
