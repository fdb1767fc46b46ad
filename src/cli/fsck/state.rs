//! `sailvol fsck --state`: local changes instead of a volume.

use std::path::{Path, PathBuf};

use serde::Serialize;

use crate::answer::{Failure, FailureKind};
use crate::cli::context::Context;
use crate::cli::table::count;
use crate::config::format_bytes;
use crate::files::local_failure;
use crate::overlay::{self, OverlayError};

/// One mount's state directory.
#[derive(Debug, Serialize)]
struct Answer {
    dir: PathBuf,
    in_use: bool,
    journals: u64,
    changed: u64,
    bodies: u64,
    body_bytes: u64,
    cut_bytes: u64,
    leftovers: u64,
    damage: Vec<String>,
    foreign: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    salvaged: Option<Salvaged>,
}

#[derive(Debug, Serialize)]
struct Salvaged {
    to: PathBuf,
    files: u64,
    partial: u64,
    unnamed: u64,
    failures: Vec<String>,
}

/// Checks the state directories at or below `dir`; copies what is readable below `out` if that is given.
pub fn run(dir: &Path, out: Option<&Path>, context: &Context) -> Result<(), Failure> {
    std::fs::metadata(dir).map_err(|e| local_failure(dir, &e))?;
    let dirs = overlay::state_dirs(dir).map_err(failure)?;
    if dirs.is_empty() {
        let text = format!("{}: there are no local changes", dir.display());
        return Err(
            Failure::new(FailureKind::NotFound, text).hint("`sailvol doctor` shows where they are kept")
        );
    }
    let mut answers = Vec::new();
    for (number, dir) in dirs.iter().enumerate() {
        let found = overlay::check(dir).map_err(failure)?;
        let to = out.map(|out| {
            if dirs.len() == 1 {
                out.to_owned()
            } else {
                out.join(format!("{}", number + 1))
            }
        });
        answers.push(Answer {
            dir: dir.clone(),
            in_use: found.in_use,
            journals: found.journals,
            changed: found.changed,
            bodies: found.bodies,
            body_bytes: found.body_bytes,
            cut_bytes: found.cut_bytes,
            leftovers: found.leftovers,
            damage: found.damage,
            foreign: found.foreign,
            salvaged: to.map(|to| save(dir, to)).transpose()?,
        });
    }
    context.print(&answers, |answers| answers.iter().map(text).collect())?;
    match answers.iter().map(|answer| answer.damage.len() as u64).sum() {
        0 => Ok(()),
        n => Err(Failure::new(
            FailureKind::Damaged,
            format!("{}: {} damaged", dir.display(), count(n, "thing")),
        )
        .hint("--salvage OUT copies what is readable")),
    }
}

fn save(dir: &Path, to: PathBuf) -> Result<Salvaged, Failure> {
    let saved = overlay::salvage(dir, &to).map_err(failure)?;
    let overlay::Salvaged {
        files,
        partial,
        unnamed,
        failures,
    } = saved;
    Ok(Salvaged {
        to,
        files,
        partial,
        unnamed,
        failures,
    })
}

fn failure(error: OverlayError) -> Failure {
    Failure::new(FailureKind::Failed, error.to_string())
}

fn text(a: &Answer) -> String {
    let mut out: String = a.damage.iter().map(|line| format!("DAMAGED {line}\n")).collect();
    out.extend(
        a.foreign
            .iter()
            .map(|path| format!("not part of a mount: {path}\n")),
    );
    out.push_str(&format!(
        "{}\n  {} in {}, {} with {} on disk\n",
        a.dir.display(),
        count(a.changed, "change"),
        count(a.journals, "journal"),
        match a.bodies {
            1 => "1 body".to_owned(),
            n => format!("{n} bodies"),
        },
        format_bytes(a.body_bytes),
    ));
    if a.in_use {
        out.push_str("  in use by a mount, which keeps changing it\n");
        return out + &saved_text(a);
    }
    if a.cut_bytes > 0 {
        out.push_str(&format!(
            "  {} at the end were written only in part; no sync had confirmed them\n",
            format_bytes(a.cut_bytes)
        ));
    }
    if a.leftovers > 0 {
        out.push_str(&format!(
            "  {} left by a crash, which the next mount removes\n",
            count(a.leftovers, "leftover")
        ));
    }
    out + &saved_text(a)
}

fn saved_text(a: &Answer) -> String {
    let mut out = String::new();
    if let Some(saved) = &a.salvaged {
        out.push_str(&format!(
            "  saved {} ({} in part) and {} without a name to {}\n",
            count(saved.files, "file"),
            saved.partial,
            count(saved.unnamed, "file"),
            saved.to.display()
        ));
        out.extend(
            saved
                .failures
                .iter()
                .map(|line| format!("    not saved: {line}\n")),
        );
    }
    out
}
