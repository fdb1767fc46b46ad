//! An overlay that was parked for so long that the volume does not keep its base any more: it is taken up as by
//! `reload --keep` (LOG.md 3), so that nothing clean in the view depends on objects that may be gone.
//!
//! What cannot be moved, because nodes of the old base that the move needs are gone, stays on the old base: it can still
//! be read as far as it is here, and salvaged, which beats a mount that refuses.

use std::collections::{BTreeSet, HashSet};
use std::sync::Arc;

use super::compare::Compared;
use super::open::base_of;
use super::reload::snapshot;
use super::source::MountSource;
use crate::answer::{Failure, FailureKind};
use crate::commit::{CarriedOver, carry_over};
use crate::model::{Seq, TreeRoot};
use crate::overlay::{Overlay, OverlayState};
use crate::volume::{Head, rules};

/// Paths that a warning names at most.
const NAMED_MAX: usize = 20;

/// Moves an overlay with changes to `head` if its base is not kept. Gives what the owner should know; `None` when the
/// base is kept. `base` is the tree that the overlay stands on.
///
/// # Errors
/// What the local disk says.
pub(super) async fn take_up(
    overlay: &Arc<Overlay>,
    source: &Arc<MountSource>,
    base: &mut TreeRoot,
    head: &Head,
) -> Result<Option<String>, Failure> {
    let (state, _) = snapshot(overlay);
    // Not the base alone: what is clean in the view may have come from any of the sources (LOG.md 3).
    let sources: BTreeSet<Seq> = state
        .base
        .sources
        .iter()
        .copied()
        .chain([state.base.seq])
        .collect();
    let gone = sources
        .into_iter()
        .find(|seq| !rules::is_protected(&head.record().gc, *seq));
    let Some(gone) = gone.filter(|_| !state.is_clean()) else {
        return Ok(None);
    };
    let carried = match move_to(overlay, source, base, &state, head).await {
        Ok(carried) => carried,
        Err(error) => {
            return Ok(Some(format!(
                "the volume does not keep record {gone} any more, on which local changes build, and they cannot be \
                 put on record {}: {error}; they stay where they are, and files that were not changed may not be readable",
                head.seq()
            )));
        }
    };
    let overwrote: Vec<String> = carried
        .overwritten
        .iter()
        .map(|over| over.path.to_string())
        .collect();
    overlay
        .replace(carried.overlay, None)
        .map_err(|e| Failure::new(FailureKind::Failed, e.to_string()))?;
    *base = head.record().root.root.clone();
    let mut told = format!(
        "the volume does not keep record {gone} any more, on which local changes built: they stand on record {} now",
        head.seq()
    );
    if !overwrote.is_empty() {
        let more = overwrote.len().saturating_sub(NAMED_MAX);
        let named = overwrote[..overwrote.len() - more].join(", ");
        told.push_str(&format!(", over changes by others of {named}"));
        if more > 0 {
            told.push_str(&format!(" and {more} more"));
        }
    }
    Ok(Some(told))
}

async fn move_to(
    overlay: &Overlay,
    source: &MountSource,
    base: &TreeRoot,
    state: &OverlayState,
    head: &Head,
) -> Result<CarriedOver, Failure> {
    let local = (state, overlay.number());
    // Nothing is mounted yet, so nothing is open.
    let compared = Compared::new(source, overlay, base, local, &HashSet::new()).await?;
    let to = &head.record().root.root;
    Ok(carry_over(source, base, state, &compared.contents, to, base_of(&head.newest)).await?)
}
