//! The view without a kernel: against a reference model of plain maps, over trees in memory and overlays in a temporary
//! directory.

mod cases;
pub mod harness;
mod listings;
pub mod model;
mod numbers;
mod passthrough;
mod posix;
pub mod programs;
mod published;
pub mod side;
pub mod source;
