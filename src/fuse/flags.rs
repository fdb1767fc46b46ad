//! What fstab and mount(8) say to the kernel about a mount, while it is made and afterwards (`remount`).

use std::io;
use std::path::Path;
use std::str::FromStr;

use fuser::MountOption;
use rustix::mount::MountFlags;
use serde::{Deserialize, Serialize};

use super::mountpoint::{MountPointError, mount_flags_of};

/// A flag of mount(2) that a mount may have or not. Mounts are always nosuid and nodev; times of reading are not kept, so
/// that the flags about them mean nothing.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum KernelFlag {
    /// Programs in it cannot be run.
    NoExec,
    /// Symbolic links in it are not followed (Linux 5.10 or later).
    NoSymFollow,
    /// Every write is on disk when it returns.
    Sync,
    /// The same of changes of directories, as far as the kernel sees to it.
    DirSync,
}

impl KernelFlag {
    /// All of them.
    pub const ALL: [KernelFlag; 4] = [
        KernelFlag::NoExec,
        KernelFlag::NoSymFollow,
        KernelFlag::Sync,
        KernelFlag::DirSync,
    ];

    /// As mount(8) calls it.
    pub fn name(self) -> &'static str {
        match self {
            KernelFlag::NoExec => "noexec",
            KernelFlag::NoSymFollow => "nosymfollow",
            KernelFlag::Sync => "sync",
            KernelFlag::DirSync => "dirsync",
        }
    }

    /// As mount(8) calls that it is not set; nothing for what cannot be taken back by a word.
    pub fn opposite(self) -> Option<&'static str> {
        match self {
            KernelFlag::NoExec => Some("exec"),
            KernelFlag::NoSymFollow => Some("symfollow"),
            KernelFlag::Sync => Some("async"),
            KernelFlag::DirSync => None,
        }
    }

    fn bits(self) -> MountFlags {
        match self {
            KernelFlag::NoExec => MountFlags::NOEXEC,
            KernelFlag::NoSymFollow => NOSYMFOLLOW,
            KernelFlag::Sync => MountFlags::SYNCHRONOUS,
            KernelFlag::DirSync => MountFlags::DIRSYNC,
        }
    }

    /// For the mount itself; fusermount3 knows these, too.
    pub(super) fn while_mounting(self) -> Option<MountOption> {
        match self {
            KernelFlag::NoExec => Some(MountOption::NoExec),
            KernelFlag::Sync => Some(MountOption::Sync),
            KernelFlag::DirSync => Some(MountOption::DirSync),
            KernelFlag::NoSymFollow => None,
        }
    }
}

impl FromStr for KernelFlag {
    type Err = String;

    fn from_str(text: &str) -> Result<KernelFlag, String> {
        let found = KernelFlag::ALL.into_iter().find(|flag| flag.name() == text);
        found.ok_or_else(|| format!("{text:?} is no flag of mount(2) that is used here"))
    }
}

/// MS_NOSYMFOLLOW of linux/mount.h.
const NOSYMFOLLOW: MountFlags = MountFlags::from_bits_retain(256);

/// What a mount has, by the words of mountinfo.
fn bits_of(words: &[String]) -> MountFlags {
    let mut bits = MountFlags::empty();
    for word in words {
        bits |= match word.as_str() {
            "ro" => MountFlags::RDONLY,
            "nosuid" => MountFlags::NOSUID,
            "nodev" => MountFlags::NODEV,
            "noatime" => MountFlags::NOATIME,
            "nodiratime" => MountFlags::NODIRATIME,
            "relatime" => MountFlags::RELATIME,
            other => other.parse().map_or(MountFlags::empty(), KernelFlag::bits),
        };
    }
    bits
}

/// Sets flags that neither the mount call of FUSE nor fusermount3 takes.
pub(super) fn set_after_mounting(dir: &Path, flags: &[KernelFlag]) -> io::Result<()> {
    if !flags.contains(&KernelFlag::NoSymFollow) {
        return Ok(());
    }
    // Of the mount alone: those of the file system stay as they are.
    let bits = bits_of(&mount_flags_of(dir).unwrap_or_default()) | NOSYMFOLLOW | MountFlags::BIND;
    Ok(rustix::mount::mount_remount(dir, bits, "")?)
}

/// What a remount changes; the rest stays.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Remount {
    /// Writable or not.
    pub read_only: Option<bool>,
    /// Flags that it is to have from now on.
    pub set: Vec<KernelFlag>,
    /// Flags that it is not to have any more.
    pub clear: Vec<KernelFlag>,
}

/// Changes a live mount, as `mount -o remount` does. Its daemon goes on; what it has is committed as before.
///
/// # Errors
/// Not ours; files are open for writing ([`MountPointError::InUse`]); the system says no.
pub fn remount(dir: &Path, change: &Remount) -> Result<(), MountPointError> {
    let Some(words) = mount_flags_of(dir) else {
        return Err(MountPointError::NotOurs(dir.to_path_buf()));
    };
    let mut bits = bits_of(&words);
    if let Some(read_only) = change.read_only {
        bits.set(MountFlags::RDONLY, read_only);
    }
    change.set.iter().for_each(|flag| bits.insert(flag.bits()));
    change.clear.iter().for_each(|flag| bits.remove(flag.bits()));
    match rustix::mount::mount_remount(dir, bits, "") {
        Ok(()) => Ok(()),
        Err(rustix::io::Errno::BUSY) => Err(MountPointError::InUse {
            dir: dir.to_path_buf(),
            by: " for writing".to_owned(),
        }),
        Err(error) => Err(MountPointError::System {
            dir: dir.to_path_buf(),
            doing: "remounting",
            error: error.into(),
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_flag_has_its_word() {
        for flag in KernelFlag::ALL {
            assert_eq!(flag.name().parse(), Ok(flag));
            assert!(bits_of(&[flag.name().to_owned()]).contains(flag.bits()));
        }
        assert!("suid".parse::<KernelFlag>().is_err());
        let words = ["rw", "nosuid", "nodev", "relatime"].map(str::to_owned);
        let bits = bits_of(&words);
        assert!(bits.contains(MountFlags::NOSUID | MountFlags::NODEV) && !bits.contains(MountFlags::RDONLY));
    }
}
