//! Parts of modules that as a whole need far more than their decoders do (the AWS SDK, a kernel, a daemon), under the
//! names that they have in the program.

pub mod store;
pub mod volume;
pub mod answer;
pub mod control;
pub mod config;
pub mod commit;
