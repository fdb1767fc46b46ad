//! Descriptors of the daemon: as many as it may have, and how many of them open files of the mount may take.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// What everything else takes at most: connections to the store, cache files, journals, requests under way.
const FOR_THE_REST: u64 = 768;
/// Where there is no limit, this is taken for one: the kernel's own default for a process (fs.nr_open).
const NO_LIMIT: u64 = 1 << 20;

/// Raises the soft limit to the hard one: that is for programs which use select(2), and this one does not. Gives how many
/// descriptors open files of the mount may take.
pub(super) fn raise_limit() -> usize {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: limit.maximum,
        ..limit
    };
    let current = match setrlimit(Resource::Nofile, raised) {
        Ok(()) => limit.maximum,
        Err(error) => {
            tracing::warn!(%error, "the limit of descriptors stays as it is");
            limit.current
        }
    };
    let all = current.unwrap_or(NO_LIMIT);
    usize::try_from(for_files(all)).unwrap_or(usize::MAX)
}

fn for_files(all: u64) -> u64 {
    all - (all / 2).min(FOR_THE_REST)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_get_what_the_rest_leaves_and_half_of_little() {
        assert_eq!(
            [128, 1024, 4096, 1 << 20].map(for_files),
            [64, 512, 3328, (1 << 20) - 768]
        );
    }
}
