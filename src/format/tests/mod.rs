//! Tests of the whole codec: arbitrary values, golden files, limits. Primitives are tested beside their code.

mod arbitrary;
mod golden;
mod limits;
mod properties;
