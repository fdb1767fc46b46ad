//! `sailvol fsck --cache`: clean bytes on this machine instead of a volume.

use std::path::{Path, PathBuf};

use serde::Serialize;

use crate::answer::{Failure, FailureKind};
use crate::cache::{CacheError, cache_dirs, check_cache};
use crate::cli::context::Context;
use crate::cli::table::count;
use crate::config::format_bytes;
use crate::files::local_failure;
use crate::model::VolumeId;

/// One mount's cache directory.
#[derive(Debug, Serialize)]
struct Answer {
    dir: PathBuf,
    volume: Option<VolumeId>,
    in_use: bool,
    windows: u64,
    contents: u64,
    frames: u64,
    disk_bytes: u64,
    damage: Vec<String>,
    foreign: Vec<String>,
    #[serde(skip)]
    quick: bool,
}

/// Checks the cache directories at or below `dir`.
pub fn run(dir: &Path, quick: bool, context: &Context) -> Result<(), Failure> {
    std::fs::metadata(dir).map_err(|e| local_failure(dir, &e))?;
    let dirs = cache_dirs(dir).map_err(failure)?;
    if dirs.is_empty() {
        let text = format!("{}: there is no cache", dir.display());
        return Err(
            Failure::new(FailureKind::NotFound, text).hint("`sailvol doctor` shows where caches are kept")
        );
    }
    let mut answers = Vec::new();
    for dir in dirs {
        let found = check_cache(&dir, quick).map_err(failure)?;
        answers.push(Answer {
            dir,
            volume: found.volume,
            in_use: found.in_use,
            windows: found.windows,
            contents: found.contents,
            frames: found.frames,
            disk_bytes: found.disk_bytes,
            damage: found.damage,
            foreign: found.foreign,
            quick,
        });
    }
    context.print(&answers, |answers| answers.iter().map(text).collect())?;
    match answers.iter().map(|answer| answer.damage.len() as u64).sum() {
        0 => Ok(()),
        n => Err(Failure::new(
            FailureKind::Damaged,
            format!("{}: {} damaged", dir.display(), count(n, "thing")),
        )
        .hint("a mount fetches damaged bytes again; the directory may be deleted while nothing uses it")),
    }
}

fn failure(error: CacheError) -> Failure {
    Failure::new(FailureKind::Failed, error.to_string())
}

fn text(a: &Answer) -> String {
    let mut out: String = a.damage.iter().map(|line| format!("DAMAGED {line}\n")).collect();
    out.extend(
        a.foreign
            .iter()
            .map(|path| format!("not part of a cache: {path}\n")),
    );
    out.push_str(&format!(
        "{}\n  {} and {}, {}; {}\n",
        a.dir.display(),
        count(a.windows, "pack window"),
        count(a.contents, "content file"),
        format_bytes(a.disk_bytes),
        match (a.in_use, a.quick) {
            (true, _) => "in use by a mount, so not compared".to_owned(),
            (false, true) => "not compared".to_owned(),
            (false, false) => format!("{} compared", count(a.frames, "frame")),
        }
    ));
    out
}
