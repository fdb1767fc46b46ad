//! What the user types.

#[path = "../../../../src/config/places.rs"]
mod places;
#[path = "../../../../src/config/volume_name.rs"]
mod volume_name;

pub use places::{Environment, escape_mount_dir};
pub use volume_name::{VolumePath, parse_volume};
