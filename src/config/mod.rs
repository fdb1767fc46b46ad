//! What the user typed and set, resolved: places on this machine, volumes, sizes and durations.
//!
//! Reading the environment happens here and nowhere else; everything below is handed values.

mod metrics;
mod places;
mod volume_name;

pub use crate::model::{
    QuantityError, format_bytes, format_duration, parse_bytes, parse_duration, parse_size, parse_timeout,
    parse_with_unit,
};
pub use metrics::{MetricsAddress, MetricsAddressError};
pub use places::{
    Environment, MOUNT_NAME_BYTES_MAX, PlaceError, PlaceOptions, Places, default_mount_name, escape_mount_dir,
};
pub use volume_name::{VolumeNameError, VolumePath, default_store, parse_volume};
