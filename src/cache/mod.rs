//! Clean bytes on local disk: nodes, small contents and large ones, fetched once and checked before anybody sees them.

mod open;
mod options;
mod stats;

pub use open::{Cache, PinnedFile};
pub use options::{Adoption, CacheError, CacheOptions, KeptCheck, MEMORY_BYTES_DEFAULT};
pub use stats::CacheStats;
