//! Dirty names and bytes of one mount. What is here exists nowhere else: it must survive.

mod apply;
mod op;
mod rebase;
mod state;

pub use apply::ApplyError;
pub use op::{NewBody, Op, Place, PublishedContent};
pub use rebase::rebase_after_publish;
pub use state::{
    BaseRef, BodyId, Change, DirChanges, FileState, Frozen, NodeBody, NodeId, Origin, OverlayNode,
    OverlayState, Prepared, ROOT_NODE,
};
