//! `mount.sailvol`: the same binary as mount(8) and fstab call it.

use std::ffi::{OsStr, OsString};
use std::path::Path;

/// Translates `mount.sailvol VOLUME DIR [-sfnv] [-N NS] [-o OPTION,...]` into our own command line; `None` when the
/// program was not called under that name.
///
/// Options of fstab that are for mount(8) itself are left out; `ro`, `create`, `foreground`, and any long option of
/// `sailvol mount` as `name` or `name=value` are passed on.
pub fn translate(words: &[OsString]) -> Option<Result<Vec<OsString>, String>> {
    let called = Path::new(words.first()?).file_name()?;
    if called != OsStr::new("mount.sailvol") && called != OsStr::new("mount.fuse.sailvol") {
        return None;
    }
    Some(translate_arguments(&words[1..]))
}

fn translate_arguments(words: &[OsString]) -> Result<Vec<OsString>, String> {
    let mut places = Vec::new();
    let mut options = Vec::new();
    let mut words = words.iter();
    while let Some(word) = words.next() {
        match word.to_str() {
            Some("-o") => {
                let list = words
                    .next()
                    .and_then(|w| w.to_str())
                    .ok_or("-o needs a list of options")?;
                options.extend(list.split(',').filter_map(translate_option));
            }
            Some("-N" | "-t") => drop(words.next()),
            // Sloppy, fake, no mtab, verbose: nothing to do for any of them but "fake".
            Some("-f") => return Err("-f (fake) is not supported".to_owned()),
            Some(flag) if flag.len() > 1 && flag.starts_with('-') => {}
            _ => places.push(word.clone()),
        }
    }
    if places.len() != 2 {
        return Err("usage: mount.sailvol VOLUME DIR [-o OPTION,...]".to_owned());
    }
    let mut out: Vec<OsString> = vec!["sailvol".into(), "mount".into()];
    out.extend(options.into_iter().map(OsString::from));
    // Behind a `--`, so that no volume or directory is taken for an option.
    out.push("--".into());
    out.extend(places);
    Ok(out)
}

/// Options that mount(8), systemd and the kernel look at themselves, or that every mount of ours has.
const NOT_OURS: [&str; 22] = [
    "defaults",
    "rw",
    "auto",
    "noauto",
    "nofail",
    "_netdev",
    "user",
    "nouser",
    "users",
    "owner",
    "group",
    "nosuid",
    "nodev",
    "exec",
    "relatime",
    "noatime",
    "nodiratime",
    "async",
    "dirsync",
    "allow_other",
    "default_permissions",
    "",
];

fn translate_option(option: &str) -> Option<String> {
    let (name, value) = option
        .split_once('=')
        .map_or((option, None), |(n, v)| (n, Some(v)));
    if NOT_OURS.contains(&name) || name.starts_with("x-") || name.starts_with("comment") {
        return None;
    }
    let name = if name == "ro" {
        "read-only".to_owned()
    } else {
        name.replace('_', "-")
    };
    Some(value.map_or_else(|| format!("--{name}"), |value| format!("--{name}={value}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn translated(words: &[&str]) -> Option<Result<Vec<String>, String>> {
        let words: Vec<OsString> = words.iter().map(OsString::from).collect();
        let text = |words: Vec<OsString>| words.into_iter().map(|w| w.into_string().unwrap()).collect();
        translate(&words).map(|r| r.map(text))
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

    #[test]
    fn under_its_own_name_nothing_is_translated() {
        assert!(translated(&["sailvol", "mount", "a", "/b"]).is_none());
        assert!(translated(&["mount.sailvol", "a"]).unwrap().is_err());
    }
}
