//! What the whole-system tests of sailvol stand on.

pub mod bench;
pub mod campaign;
pub mod control;
pub mod hostile;
pub mod mapping;
pub mod pod;
pub mod s3d;
pub mod store_contract;
