//! setuid and setgid, which go with a change by somebody who may not keep them: the rules of Linux (`setattr_should_drop_sgid`).

use super::types::Caller;
use crate::model::Attrs;

const SUID: u16 = 0o4000;
const SGID: u16 = 0o2000;
/// Group execute: without it setgid means something else (mandatory locking, of old).
const GROUP_EXEC: u16 = 0o010;
/// What the kernel says instead of a user or group that it does not tell (id-mapped mounts: all but what makes inodes).
pub(super) const NOBODY_TOLD: u32 = u32::MAX;

/// One of the bits is set.
pub(super) fn has_setid(attrs: &Attrs) -> bool {
    attrs.mode & (SUID | SGID) != 0
}

/// Takes setuid and setgid off; true if there was one. `member`: the caller is of the file's group, or privileged, and so keeps a
/// setgid without group execute.
pub(super) fn drop_setid(attrs: &mut Attrs, member: bool) -> bool {
    let before = attrs.mode;
    attrs.mode &= !SUID;
    if attrs.mode & GROUP_EXEC != 0 || !member {
        attrs.mode &= !SGID;
    }
    attrs.mode != before
}

/// Who changes a file, as far as that counts for these bits.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Credentials {
    uid: u32,
    gid: u32,
    groups: Vec<u32>,
}

impl Credentials {
    /// Of the process that asks, which waits for the answer: `/proc` knows its groups, and its user where the kernel does not
    /// tell. A process that is not seen from here has the one group that the kernel tells.
    pub fn of(caller: &Caller) -> Credentials {
        let told = Credentials {
            uid: caller.uid,
            gid: caller.gid,
            groups: Vec::new(),
        };
        let status = std::fs::read_to_string(format!("/proc/{}/status", caller.pid));
        let found = status.ok().and_then(|text| Credentials::of_status(&text));
        // Another process may have the number by now, or in this namespace.
        found
            .filter(|found| caller.uid == NOBODY_TOLD || (found.uid, found.gid) == (caller.uid, caller.gid))
            .unwrap_or(told)
    }

    /// From the text of `/proc/PID/status`: the ids for file access are the last of four.
    fn of_status(text: &str) -> Option<Credentials> {
        let numbers = |name: &str| -> Option<Vec<u32>> {
            let line = text.lines().find_map(|line| line.strip_prefix(name))?;
            line.split_whitespace().map(|word| word.parse().ok()).collect()
        };
        let last = |name: &str| numbers(name).and_then(|all| all.last().copied());
        Some(Credentials {
            uid: last("Uid:")?,
            gid: last("Gid:")?,
            groups: numbers("Groups:")?,
        })
    }

    /// Keeps both bits whatever it does (CAP_FSETID, which is told by the user alone).
    pub fn is_privileged(&self) -> bool {
        self.uid == 0
    }

    /// Of this group, or privileged.
    pub fn is_member(&self, group: u32) -> bool {
        self.is_privileged() || self.gid == group || self.groups.contains(&group)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credentials_are_those_for_file_access() {
        let text = "Name:\tx\nUid:\t1\t2\t3\t4\nGid:\t5\t6\t7\t8\nFDSize:\t64\nGroups:\t9 10 \n";
        let found = Credentials::of_status(text).unwrap();
        assert_eq!((found.uid, found.gid, &*found.groups), (4, 8, &[9, 10][..]));
        assert!(found.is_member(8) && found.is_member(10) && !found.is_member(5));
        assert!(!found.is_privileged());
        assert_eq!(Credentials::of_status("Name:\tx\n"), None);
    }

    #[test]
    fn a_process_that_is_not_seen_has_what_the_kernel_tells() {
        let caller = Caller {
            uid: 12_345,
            gid: 678,
            pid: 1,
            umask: 0,
        };
        let found = Credentials::of(&caller);
        assert!(found.is_member(678) && !found.is_member(0));
    }

    #[test]
    fn setgid_without_group_execute_goes_with_a_stranger() {
        let left = |mode, member| {
            let mut attrs = Attrs {
                mode,
                ..Attrs::default()
            };
            drop_setid(&mut attrs, member);
            attrs.mode
        };
        assert_eq!(left(0o6766, true), 0o2766);
        assert_eq!(left(0o6766, false), 0o766);
        assert_eq!(left(0o6777, true), 0o777);
    }
}
