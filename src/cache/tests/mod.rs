//! The cache against plain bytes, over a store that counts, holds and fails on demand.

mod faults;
mod fixture;
mod model;
mod requests;
mod restart;
mod streams;
