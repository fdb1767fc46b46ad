//! Dirty names and bytes of one mount. What is here exists nowhere else: it must survive.

mod apply;
mod assemble;
mod body;
mod error;
mod op;
#[allow(clippy::module_inception)]
mod overlay;
mod rebase;
mod state;

pub use apply::ApplyError;
pub use body::{Body, BodyStat};
pub use error::OverlayError;
pub use op::{NewBody, Op, Place, PublishedContent};
pub use overlay::{
    DiskUse, EmptyStateDir, Found, FreedBody, Opened, Overlay, OverlayOptions, Recovery, StashInfo, Stashed,
    StateWriter,
};
pub use rebase::rebase_after_publish;
pub use state::{
    BaseRef, BodyId, Change, DirChanges, FileState, Frozen, NodeBody, NodeId, Origin, OverlayNode,
    OverlayState, Prepared, ROOT_NODE,
};
