//! `mount.sailvol`: the same binary as mount(8) and fstab call it.

use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};

use super::context::Context;
use crate::answer::{Failure, FailureKind, StatusAnswer};
use crate::control::{Client, Request};
use crate::fuse::{self, KernelFlag, MountPointError, Remount};

/// What mount(8) wants.
#[derive(Debug, PartialEq, Eq)]
pub enum Wanted {
    /// A mount, by this command line of our own.
    Mount(Vec<OsString>),
    /// Only that the command line is looked at (`mount -f`).
    Check(Vec<OsString>),
    /// A live mount is to be changed.
    Remount {
        /// Where it is.
        dir: PathBuf,
        /// What is to be changed.
        change: Remount,
        /// Options that hold for a new mount only.
        ignored: Vec<String>,
    },
}

/// Translates `mount.sailvol VOLUME DIR [-sfnv] [-N NS] [-o OPTION,...]`; `None` when the program was not called under that
/// name. `ro`, `create`, `foreground`, and any long option of `sailvol mount` as `name` or `name=value` are passed on; of
/// those that libmount knows each takes effect or means nothing here ([`NOT_OURS`]).
pub fn translate(words: &[OsString]) -> Option<Result<Wanted, String>> {
    let called = Path::new(words.first()?).file_name()?;
    if called != OsStr::new("mount.sailvol") && called != OsStr::new("mount.fuse.sailvol") {
        return None;
    }
    Some(translate_arguments(&words[1..]))
}

const USAGE: &str = "usage: mount.sailvol VOLUME DIR [-o OPTION,...]";

fn translate_arguments(words: &[OsString]) -> Result<Wanted, String> {
    let mut places = Vec::new();
    let mut options = Options::default();
    let mut only_checked = false;
    let mut words = words.iter();
    while let Some(word) = words.next() {
        let Some(flag) = word
            .to_str()
            .filter(|text| text.len() > 1 && text.starts_with('-'))
        else {
            places.push(word.clone());
            continue;
        };
        match (flag, flag.strip_prefix("-o")) {
            ("-o", _) => {
                let list = words.next().and_then(|w| w.to_str());
                options.read(list.ok_or("-o needs a list of options, in UTF-8")?);
            }
            (_, Some(list)) => options.read(list),
            ("-N" | "-t", _) => drop(words.next()),
            // Sloppy, no mtab, verbose, fake; several in one word.
            _ => only_checked |= !flag.starts_with("--") && flag.contains('f'),
        }
    }
    let [volume, dir] = places.as_slice() else {
        return Err(USAGE.to_owned());
    };
    if options.remount {
        let (change, ignored) = options.changes();
        return Ok(Wanted::Remount {
            dir: dir.into(),
            change,
            ignored,
        });
    }
    let mut out: Vec<OsString> = vec!["sailvol".into(), "mount".into()];
    out.extend(options.arguments().into_iter().map(OsString::from));
    // Behind a `--`, so that no volume or directory is taken for an option.
    out.extend(["--".into(), volume.clone(), dir.clone()]);
    Ok(if only_checked {
        Wanted::Check(out)
    } else {
        Wanted::Mount(out)
    })
}

/// Options that mean nothing here: what mount(8), systemd and udev look at themselves; what every mount of ours is (nosuid,
/// nodev, who may look in); what is about times of reading, which are not kept, about locks of old kernels and about
/// versions of inodes.
const NOT_OURS: [&str; 56] = [
    "",
    "defaults",
    // When and by whom it may be mounted.
    "auto",
    "noauto",
    "nofail",
    "_netdev",
    "_rnetdev",
    "user",
    "nouser",
    "users",
    "nousers",
    "owner",
    "noowner",
    "group",
    "nogroup",
    "comment",
    "helper",
    "uhelper",
    // What it always is.
    "suid",
    "nosuid",
    "dev",
    "nodev",
    "allow_other",
    "allow_root",
    "default_permissions",
    "fsname",
    "subtype",
    "auto_unmount",
    // How it lies among other mounts: mount(8) sees to that afterwards.
    "private",
    "rprivate",
    "shared",
    "rshared",
    "slave",
    "rslave",
    "unbindable",
    "runbindable",
    // Times of reading.
    "atime",
    "noatime",
    "diratime",
    "nodiratime",
    "relatime",
    "norelatime",
    "strictatime",
    "nostrictatime",
    "lazytime",
    "nolazytime",
    // Of no meaning to a file system without a disk.
    "mand",
    "nomand",
    "iversion",
    "noiversion",
    "silent",
    "loud",
    "quota",
    "noquota",
    "usrquota",
    "grpquota",
];

/// Labels of SELinux, whose values are for the kernel.
const SELINUX: [&str; 5] = ["context", "fscontext", "defcontext", "rootcontext", "seclabel"];

/// A list of options. Of those that contradict each other the last one counts.
#[derive(Default)]
struct Options {
    remount: bool,
    read_only: Option<bool>,
    set: Vec<KernelFlag>,
    clear: Vec<KernelFlag>,
    labels: Vec<String>,
    /// For `sailvol mount`.
    ours: Vec<String>,
}

impl Options {
    fn read(&mut self, list: &str) {
        split_list(list).into_iter().for_each(|option| self.take(option));
    }

    fn take(&mut self, option: &str) {
        let (name, value) = option
            .split_once('=')
            .map_or((option, None), |(n, v)| (n, Some(v)));
        let flag =
            |is: fn(&KernelFlag, &str) -> bool| KernelFlag::ALL.into_iter().find(|flag| is(flag, name));
        if let Some(flag) = flag(|flag, name| flag.name() == name) {
            self.clear.retain(|other| *other != flag);
            self.set.push(flag);
        } else if let Some(flag) = flag(|flag, name| flag.opposite() == Some(name)) {
            self.set.retain(|other| *other != flag);
            self.clear.push(flag);
        } else if name.starts_with("x-") || name.starts_with("X-") || NOT_OURS.contains(&name) {
        } else if SELINUX.contains(&name) {
            self.labels.push(option.to_owned());
        } else {
            match name {
                "remount" => self.remount = true,
                "ro" | "read-only" | "read_only" => self.read_only = Some(true),
                "rw" => self.read_only = Some(false),
                _ => {
                    let name = name.replace('_', "-");
                    self.ours
                        .push(value.map_or_else(|| name.clone(), |value| format!("{name}={value}")));
                }
            }
        }
    }

    /// For a new mount.
    fn arguments(self) -> Vec<String> {
        let mut out = Vec::new();
        out.extend((self.read_only == Some(true)).then(|| "--read-only".to_owned()));
        out.extend(
            self.set
                .iter()
                .map(|flag| format!("--kernel-flag={}", flag.name())),
        );
        out.extend(self.labels.iter().map(|label| format!("--selinux-label={label}")));
        out.extend(self.ours.iter().map(|option| format!("--{option}")));
        out
    }

    /// For a live mount.
    fn changes(self) -> (Remount, Vec<String>) {
        let change = Remount {
            read_only: self.read_only,
            set: self.set,
            clear: self.clear,
        };
        (change, self.ours)
    }
}

/// The options of a list; a comma between quotation marks belongs to a value, as in labels of SELinux.
fn split_list(list: &str) -> Vec<&str> {
    let mut quoted = false;
    let at_comma = |c: char| {
        quoted ^= c == '"';
        c == ',' && !quoted
    };
    list.split(at_comma).collect()
}

/// Changes a live mount.
///
/// # Errors
/// It is none; files are open for writing; it has no place for what is written, so that it cannot become writable.
pub async fn remount(
    dir: &Path,
    change: &Remount,
    ignored: &[String],
    context: &Context,
) -> Result<(), Failure> {
    let record = context.find_mount(Some(dir))?;
    if change.read_only == Some(false) {
        let mut client = Client::connect(&record.socket).await?;
        let asked = client.call(&Request::Status { ask_store: false }, |_| {});
        let status: StatusAnswer = context.within(async { Ok(asked.await?) }).await?;
        if status.read_only {
            let text = format!(
                "{} was mounted read-only and keeps no changes",
                record.dir.display()
            );
            return Err(
                Failure::new(FailureKind::Refused, text).hint("unmount it, and mount it again without ro")
            );
        }
    }
    if !ignored.is_empty() {
        context.note(format!(
            "mount.sailvol: {} as the mount was made with: unmount and mount again to change that",
            ignored.join(", ")
        ));
    }
    fuse::remount(&record.dir, change).map_err(|error| {
        let kind = match error {
            MountPointError::InUse { .. } => FailureKind::Refused,
            MountPointError::System { .. } => FailureKind::NoAccess,
            _ => FailureKind::Failed,
        };
        Failure::new(kind, error.to_string())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn translated(words: &[&str]) -> Option<Result<Vec<String>, String>> {
        let words: Vec<OsString> = words.iter().map(OsString::from).collect();
        let text = |wanted: Wanted| match wanted {
            Wanted::Mount(words) => words.into_iter().map(|w| w.into_string().unwrap()).collect(),
            other => panic!("{other:?}"),
        };
        translate(&words).map(|r| r.map(text))
    }

    fn with_options(list: &str) -> Vec<String> {
        let words = translated(&["mount.sailvol", "data", "/shared", "-o", list])
            .unwrap()
            .unwrap();
        words[2..words.len() - 3].to_vec()
    }

    #[test]
    fn an_fstab_line_becomes_our_command_line() {
        let words = [
            "/sbin/mount.sailvol",
            "data",
            "/shared",
            "-v",
            "-o",
            "rw,ro,_netdev,x-systemd.automount,cache_size=5G",
        ];
        assert_eq!(
            translated(&words).unwrap().unwrap(),
            [
                "sailvol",
                "mount",
                "--read-only",
                "--cache-size=5G",
                "--",
                "data",
                "/shared"
            ]
        );
    }

    /// Words of util-linux' libmount (its manual, mount(8)), each alone, in any order and with what undoes it.
    #[test]
    fn every_option_of_libmount_takes_effect_or_means_nothing() {
        let effect = ["ro", "noexec", "nosymfollow", "sync", "dirsync", "context=a:b"];
        for option in NOT_OURS
            .iter()
            .chain(&["exec", "symfollow", "async", "rw", "user=joe", "comment=x y"])
        {
            assert_eq!(with_options(option), [""; 0], "{option}");
        }
        for option in effect {
            assert_eq!(with_options(option).len(), 1, "{option}");
        }
        assert_eq!(with_options("user,exec"), [""; 0]);
        assert_eq!(with_options("noexec,exec"), [""; 0]);
        assert_eq!(with_options("exec,user,noexec"), ["--kernel-flag=noexec"]);
        assert_eq!(with_options("ro,rw"), [""; 0]);
        assert_eq!(with_options("X-mount.idmap=b:0:1:2,x-gvfs-show"), [""; 0]);
        let label = "context=\"system_u:object_r:tmp_t:s0:c127,c456\"";
        assert_eq!(
            with_options(&format!("{label},uid=5")),
            [format!("--selinux-label={label}"), "--uid=5".to_owned()]
        );
        assert_eq!(with_options("no_such_option"), ["--no-such-option"]);
    }

    #[test]
    fn a_remount_tells_what_changes_and_what_does_not() {
        let words = [
            "mount.sailvol",
            "v",
            "/m",
            "-n",
            "-oremount,ro,exec,cache_size=5G,noatime",
        ];
        let words: Vec<OsString> = words.iter().map(OsString::from).collect();
        let Some(Ok(Wanted::Remount { dir, change, ignored })) = translate(&words) else {
            panic!("a remount");
        };
        assert_eq!(dir, Path::new("/m"));
        assert_eq!((change.read_only, change.set), (Some(true), vec![]));
        assert_eq!(change.clear, [KernelFlag::NoExec]);
        assert_eq!(ignored, ["cache-size=5G"]);
    }

    #[test]
    fn under_its_own_name_nothing_is_translated() {
        assert!(translated(&["sailvol", "mount", "a", "/b"]).is_none());
        assert!(translated(&["mount.sailvol", "a"]).unwrap().is_err());
        let words: Vec<OsString> = ["mount.sailvol", "a", "/b", "-fn"]
            .iter()
            .map(OsString::from)
            .collect();
        assert!(matches!(translate(&words), Some(Ok(Wanted::Check(_)))));
    }
}
