//! Tests of the whole folder; what is short stands beside its code.

mod program;
mod store;
