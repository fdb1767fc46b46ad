//! What the view makes good when it takes up an overlay that was found.

use super::{View, ViewError};
use crate::overlay::{NodeBody, Op};

impl View {
    /// Times of last writes come from the bodies where the overlay did not hear of them any more, sizes are counted, and
    /// unlinked files that nobody has open now go.
    pub(super) fn recover(&self) -> Result<(), ViewError> {
        let Some(overlay) = self.overlay() else {
            return Ok(());
        };
        self.with_edit(|edit| {
            let mut written = Vec::new();
            let mut unlinked = Vec::new();
            for (id, node) in &edit.state.nodes {
                if node.nlink == 0 {
                    unlinked.push(*id);
                    continue;
                }
                let NodeBody::File(file) = &node.body else {
                    continue;
                };
                let Some(body) = file.body else { continue };
                let stat = overlay.body(body)?.stat()?;
                edit.space.usage.resized(0, stat.len);
                // A time that a program set went to the body too, so the later of the two is right.
                if file.dirty && stat.mtime > node.attrs.mtime {
                    let mut attrs = node.attrs.clone();
                    attrs.mtime = stat.mtime;
                    attrs.ctime = attrs.ctime.max(stat.mtime);
                    written.push(Op::SetAttrs { id: *id, attrs });
                }
            }
            edit.apply_all(&written)?;
            for id in unlinked {
                edit.forget_node(id);
            }
            Ok(())
        })
    }
}
