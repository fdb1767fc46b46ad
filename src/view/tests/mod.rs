//! The view without a kernel: against a reference model of plain maps, over trees in memory and overlays in a temporary
//! directory.

mod cases;
mod harness;
mod model;
mod passthrough;
mod posix;
mod programs;
mod side;
mod source;
