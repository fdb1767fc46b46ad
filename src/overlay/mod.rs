//! Dirty names and bytes of one mount. What is here exists nowhere else: it must survive.

mod state;

pub use state::{
    BaseRef, BodyId, Change, DirChanges, FileState, NodeBody, NodeId, Origin, OverlayNode, OverlayState,
    ROOT_NODE,
};
