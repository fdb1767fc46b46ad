//! What the whole-system tests of sailvol stand on.

pub mod s3d;
