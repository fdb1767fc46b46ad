//! Which files of an overlay say what their base says: opened for writing by the kernel alone and not written, or written
//! as they were. A merge must not take them for changes, or they would stand over what others wrote since. (A commit sees
//! it when it hashes what it sends.)
//!
//! A file that something can write now counts as changed. One that was closed is compared, byte by byte up to the first
//! chunk that differs; whether it was opened and written since is seen when the view moves ([`Compared::hold`]).

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use super::local::local_contents;
use super::source::MountSource;
use crate::answer::{Failure, FailureKind};
use crate::commit::{Contents, base_files};
use crate::model::{Timestamp, TreeRoot};
use crate::overlay::{Body, BodyStat, NodeBody, NodeId, Overlay, OverlayState};
use crate::volume::Clock;

/// Local filesystems take the time of a write from the timer tick, at most 10 ms (100 Hz): within one tick a second write
/// cannot be told from the first.
const TICK: Duration = Duration::from_millis(20);

/// Contents for a merge.
pub(super) struct Compared {
    /// As [`local_contents`]; the base's where the bytes are those.
    pub contents: Contents,
    same: Vec<Same>,
}

/// A body that has the bytes of the base.
struct Same {
    node: NodeId,
    body: Arc<Body>,
    stat: BodyStat,
}

impl Compared {
    /// Compares the closed files of an overlay or stash; `open` are those that something can write.
    ///
    /// # Errors
    /// What the store or the local disk says.
    pub async fn new(
        source: &MountSource,
        overlay: &Overlay,
        base: &TreeRoot,
        (state, number): (&OverlayState, u64),
        open: &HashSet<NodeId>,
    ) -> Result<Compared, Failure> {
        let local = |e: crate::overlay::OverlayError| Failure::new(FailureKind::Failed, e.to_string());
        let mut contents = local_contents(overlay, state, number)?;
        let unsure = state.nodes.iter().filter(|(id, node)| {
            matches!(&node.body, NodeBody::File(file) if file.dirty && file.body.is_some())
                && !open.contains(id)
        });
        let unsure: Vec<NodeId> = unsure.map(|(id, _)| *id).collect();
        let mut same = Vec::new();
        for (node, (size, content)) in base_files(source, base, state, &unsure).await? {
            let Some(body) = state.node(node).and_then(|node| node.body.as_file()?.body) else {
                continue;
            };
            let body = overlay.body(body).map_err(local)?;
            let mut stat = body.stat().map_err(local)?;
            if stat.len != size {
                continue;
            }
            if is_young(stat.mtime) {
                // Then another write would have another time.
                tokio::time::sleep(TICK).await;
                stat = body.stat().map_err(local)?;
            }
            if source.cache().is_in_file(&content, size, body.path()).await? {
                contents.insert(node, (size, content));
                same.push(Same { node, body, stat });
            }
        }
        Ok(Compared { contents, same })
    }

    /// Nobody has written since to what was found equal, and nobody is about to: `written` are the files that are open
    /// for writing.
    pub fn hold(&self, written: &HashSet<NodeId>) -> bool {
        self.same
            .iter()
            .all(|same| !written.contains(&same.node) && same.body.stat().is_ok_and(|stat| stat == same.stat))
    }
}

/// Less than a tick old.
fn is_young(time: Timestamp) -> bool {
    let nanos = |time: Timestamp| i128::from(time.secs) * 1_000_000_000 + i128::from(time.nanos);
    let age = nanos(Clock::system().now()) - nanos(time);
    (0..TICK.as_nanos() as i128).contains(&age)
}
