//! Trees are compared with a model of plain maps, and what they cost is counted.

mod cost;
mod extents;
mod hostile;
mod model;
mod properties;
