//! Making a volume as the mount and the command line do it.

use std::sync::Arc;

use crate::answer::Failure;
use crate::format::{NodeSizes, VolumeConfig};
use crate::model::Attrs;
use crate::store::ObjectStore;
use crate::volume::{Clock, CreateOptions, Created, Opened, Volume};

/// Makes a volume unless there is one of that name; true when it was made now.
///
/// # Errors
/// A store that does not keep the promises that commits rest on is refused; what the store says.
pub async fn create_volume(
    (store, clock): (Arc<dyn ObjectStore>, Clock),
    name: &str,
    by: &str,
    root: Attrs,
) -> Result<(Opened, bool), Failure> {
    let options = CreateOptions {
        name: name.to_owned(),
        by: by.to_owned(),
        root,
        config: VolumeConfig::default(),
        conditional: "if-none-match".to_owned(),
        nodes: NodeSizes::default(),
    };
    Ok(match Volume::create(store, clock, &options).await? {
        Created::New(opened) => (opened, true),
        Created::Lost(opened) => (opened, false),
    })
}
