//! Descriptors of the daemon: as many as it may have, and how many of them clean files may take that the kernel reads by itself.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// What everything else takes at most: connections to the store, cache files, journals, requests under way.
const FOR_THE_REST: u64 = 768;
/// Parts of the limit that bodies have open at a time, for reading and for writing (`overlay::OverlayOptions`), in eighths.
const FOR_BODIES_EIGHTHS: u64 = 3;
/// Where there is no limit, this is taken for one: the kernel's own default for a process (fs.nr_open).
const NO_LIMIT: u64 = 1 << 20;

/// Raises the soft limit to the hard one: that is for programs which use select(2), and this one does not. Gives how many
/// descriptors such files may take.
pub(super) fn raise_limit() -> usize {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: limit.maximum,
        ..limit
    };
    let current = match setrlimit(Resource::Nofile, raised) {
        Ok(()) => limit.maximum,
        Err(error) => {
            tracing::warn!(%error, "cannot raise the limit of descriptors");
            limit.current
        }
    };
    let all = current.unwrap_or(NO_LIMIT);
    usize::try_from(for_files(all)).unwrap_or(usize::MAX)
}

fn for_files(all: u64) -> u64 {
    let for_bodies = all / 8 * FOR_BODIES_EIGHTHS;
    (all - for_bodies).saturating_sub(FOR_THE_REST.min(all / 2))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_get_what_bodies_and_the_rest_leave() {
        assert_eq!(
            [128, 1024, 4096, 1 << 20].map(for_files),
            [16, 128, 1792, (5 << 17) - 768]
        );
    }
}
