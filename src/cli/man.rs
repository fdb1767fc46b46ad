//! `sailvol man`: the manual pages, made from the same definitions as `--help`.

use std::io::Write;
use std::path::PathBuf;

use clap_mangen::Man;
use clap_mangen::roff::{Roff, roman};

use super::context::Context;
use super::help::{self, Sections};
use crate::answer::{Failure, FailureKind};

/// Print the manual page, or write all pages to a directory
///
/// There is one page for sailvol, one for each command, and mount.sailvol(8) for fstab. With --json: an object with the
/// page's name and its source, or the names of the pages that were written.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Write sailvol.1, one page for each command, and mount.sailvol.8 into this directory
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
    /// Page to print
    #[arg(value_name = "COMMAND", conflicts_with = "dir")]
    command: Option<String>,
}

#[cfg(test)]
impl Args {
    /// All pages into a directory.
    pub fn into(dir: &std::path::Path) -> Args {
        Args {
            dir: Some(dir.to_owned()),
            command: None,
        }
    }
}

/// The helper's own page: mount(8) calls it, nobody else.
const MOUNT_HELPER: &str = r#".TH mount.sailvol 8 "" "sailvol" ""
.SH NAME
mount.sailvol - mount a sailvol volume from fstab or by mount(8)
.SH SYNOPSIS
\fBmount \-t sailvol\fR [\fB\-o\fR \fIoptions\fR] \fIVOLUME\fR \fIDIR\fR
.SH DESCRIPTION
The same program as \fBsailvol mount\fR, under the name by which mount(8) looks for it. Every long option of
\fBsailvol\-mount\fR(1) can be given in \fIoptions\fR without its dashes, as \fBname\fR or \fBname=value\fR;
underscores stand for dashes. \fBro\fR means \fB\-\-read\-only\fR. What is meant for mount(8) and systemd itself
(\fB_netdev\fR, \fBnofail\fR, \fBx\-systemd.*\fR and others) is left out.
.SH EXAMPLES
A line of /etc/fstab:
.PP
.nf
    datasets  /shared  sailvol  _netdev,nofail,create,cache_size=20G  0  0
.fi
.PP
Credentials and SAILVOL_STORE must be in the environment of whoever mounts; for a mount at boot name the volume by a URL
and use an instance profile or root's ~/.aws, or the unit sailvol@.service.
.SH SEE ALSO
\fBsailvol\fR(1), \fBsailvol\-mount\fR(1), \fBfstab\fR(5), \fBmount\fR(8)
"#;

/// Runs the command.
pub fn run(args: &Args, mut command: clap::Command, context: &Context) -> Result<(), Failure> {
    command = command.disable_help_subcommand(true);
    command.build();
    if let Some(dir) = &args.dir {
        return write_all(&command, dir, context);
    }
    let Some(name) = &args.command else {
        return print("sailvol.1", &page(&command, help::main_sections())?, context);
    };
    let Some(sub) = command.find_subcommand(name) else {
        return Err(
            Failure::new(FailureKind::Usage, format!("there is no command {name:?}"))
                .hint("`sailvol --help` lists them"),
        );
    };
    let text = page(sub, sections(sub.get_name()))?;
    print(&format!("sailvol-{}.1", sub.get_name()), &text, context)
}

fn print(name: &str, text: &[u8], context: &Context) -> Result<(), Failure> {
    let text = String::from_utf8_lossy(text);
    let answer = serde_json::json!({ "page": name, "source": text });
    context.print(&answer, |_| text.into_owned())
}

fn sections(command: &str) -> Sections {
    help::page(command).map(help::sections_of).unwrap_or_default()
}

fn write_all(command: &clap::Command, dir: &std::path::Path, context: &Context) -> Result<(), Failure> {
    let mut pages = vec![
        ("sailvol.1".to_owned(), page(command, help::main_sections())?),
        ("mount.sailvol.8".to_owned(), MOUNT_HELPER.into()),
    ];
    for sub in command.get_subcommands() {
        let name = sub.get_name();
        pages.push((format!("sailvol-{name}.1"), page(sub, sections(name))?));
        for action in sub.get_subcommands() {
            let file = format!("sailvol-{name}-{}.1", action.get_name());
            pages.push((file, page(action, Sections::new())?));
        }
    }
    std::fs::create_dir_all(dir).map_err(|e| failed(dir, &e))?;
    for (name, text) in &pages {
        let path = dir.join(name);
        std::fs::write(&path, text).map_err(|e| failed(&path, &e))?;
    }
    let names: Vec<&String> = pages.iter().map(|(name, _)| name).collect();
    let answer = serde_json::json!({ "dir": dir, "pages": names });
    context.print(&answer, |_| {
        format!("{} pages in {}\n", names.len(), dir.display())
    })
}

fn failed(path: &std::path::Path, error: &std::io::Error) -> Failure {
    Failure::new(FailureKind::of_io(error), format!("{}: {error}", path.display()))
}

/// A page with our own sections behind those that clap knows.
fn page(command: &clap::Command, sections: Sections) -> Result<Vec<u8>, Failure> {
    render(command, sections)
        .map_err(|e| Failure::new(FailureKind::Failed, format!("cannot make the manual page: {e}")))
}

fn render(command: &clap::Command, sections: Sections) -> std::io::Result<Vec<u8>> {
    // A page shows every option with all that is said of it.
    let man = Man::new(command.clone().mut_args(|arg| arg.hide_short_help(false)));
    let mut out = Vec::new();
    // Not by clap_mangen: without a date, which would be another with every build, it moves the other fields up.
    let name = command.get_display_name().unwrap_or("sailvol");
    writeln!(
        out,
        ".TH {name} 1 \"\" \"sailvol {}\" \"\"",
        env!("CARGO_PKG_VERSION")
    )?;
    man.render_name_section(&mut out)?;
    man.render_synopsis_section(&mut out)?;
    man.render_description_section(&mut out)?;
    if command.has_subcommands() {
        man.render_subcommands_section(&mut out)?;
    }
    man.render_options_section(&mut out)?;
    let mut rest = Roff::new();
    for (title, text) in sections {
        rest.control("SH", [title.to_uppercase().as_str()]);
        // Lines as they are: the text is laid out already.
        rest.control("nf", []);
        for line in text.lines() {
            rest.text([roman(line)]);
        }
        rest.control("fi", []);
    }
    rest.control("SH", ["SEE ALSO"]);
    rest.text([roman("sailvol(1), mount.sailvol(8)")]);
    rest.to_writer(&mut out)?;
    Ok(out)
}
