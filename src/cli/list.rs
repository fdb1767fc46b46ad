//! `sailvol list`.

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Serialize;

use super::context::Context;
use super::table::{count, table};
use crate::answer::{Failure, StatusAnswer};
use crate::control::{Client, MountRecord, Request, list_mounts, recorded_mounts};
use crate::fuse::{is_dead_mount, sailvol_mounts};

/// List the mounts on this machine, and how each of them stands
///
/// A mount is `live`; `ending`; `silent`, when its daemon does not answer; or `dead`, when its daemon was killed: mounting it
/// again mends that. Mounts of another runtime directory are not known here; `sailvol doctor` names them.
#[derive(Debug, clap::Args)]
pub struct Args {}

/// Time for a daemon to say how its mount stands.
const ANSWER_TIME: Duration = Duration::from_secs(2);

/// How a mount stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "lowercase")]
enum State {
    Live,
    Ending,
    Silent,
    Dead,
}

impl State {
    fn word(self) -> &'static str {
        match self {
            State::Live => "live",
            State::Ending => "ending",
            State::Silent => "silent",
            State::Dead => "dead",
        }
    }
}

/// One mount.
#[derive(Debug, Serialize)]
struct Listed {
    name: String,
    #[serde(with = "crate::model::shown_path")]
    dir: PathBuf,
    volume: String,
    store: String,
    pid: Option<u32>,
    #[serde(with = "crate::model::shown_path")]
    socket: PathBuf,
    state: State,
    read_only: Option<bool>,
    /// The record that it shows.
    base: Option<u64>,
    /// Names and inodes that are not committed.
    dirty: Option<u64>,
    /// Records that it knows to be newer than the one it shows.
    behind: Option<u64>,
}

impl Listed {
    fn of(record: MountRecord, state: State, status: Option<&StatusAnswer>) -> Listed {
        Listed {
            name: record.name,
            dir: record.dir,
            volume: record.volume,
            store: record.store,
            pid: (state != State::Dead).then_some(record.pid),
            socket: record.socket,
            state,
            read_only: status.map(|s| s.read_only),
            base: status.map(|s| s.base),
            dirty: status.map(|s| s.dirty),
            behind: status.map(|s| s.head.map_or(0, |head| head.saturating_sub(s.base))),
        }
    }
}

/// Runs the command.
pub async fn run(_: Args, context: &Context) -> Result<(), Failure> {
    let dirs = context.places()?.runtime_search(&context.environment);
    let asked = list_mounts(&dirs).into_iter().map(ask);
    let mut mounts = futures::future::join_all(asked).await;
    let known = recorded_mounts(&dirs);
    for (dir, _) in sailvol_mounts() {
        let listed = mounts.iter_mut().find(|mount| mount.dir == dir);
        let record = known.iter().find(|record| record.dir == dir);
        match (listed, record) {
            (Some(mount), _) if mount.state == State::Silent && is_dead(&dir).await => {
                (mount.state, mount.pid) = (State::Dead, None);
            }
            (None, Some(record)) if is_dead(&dir).await => {
                mounts.push(Listed::of(record.clone(), State::Dead, None));
            }
            // Of another runtime directory: `sailvol doctor` names those, too.
            _ => {}
        }
    }
    mounts.sort_by(|a, b| a.dir.cmp(&b.dir));
    context.print(&mounts, |mounts| text(mounts))
}

/// How a mount stands, by its daemon.
async fn ask(record: MountRecord) -> Listed {
    let asking = async {
        let mut client = Client::connect(&record.socket).await?;
        let ending = client.hello().ending;
        let status: StatusAnswer = client.call(&Request::Status { ask_store: false }, |_| {}).await?;
        Ok::<_, Failure>((ending, status))
    };
    match tokio::time::timeout(ANSWER_TIME, asking).await {
        Ok(Ok((true, status))) => Listed::of(record, State::Ending, Some(&status)),
        Ok(Ok((false, status))) => Listed::of(record, State::Live, Some(&status)),
        // Also where this user may not ask: what it serves is not for them.
        Ok(Err(_)) | Err(_) => Listed::of(record, State::Silent, None),
    }
}

/// A mount may not answer: whoever asks it waits beside the runtime, which does not wait for that thread.
async fn is_dead(dir: &Path) -> bool {
    let dir = dir.to_path_buf();
    let (tell, told) = tokio::sync::oneshot::channel();
    std::thread::spawn(move || tell.send(is_dead_mount(&dir)));
    told.await.unwrap_or(false)
}

fn text(mounts: &[Listed]) -> String {
    if mounts.is_empty() {
        return "no mounts\n".to_owned();
    }
    let heads = [
        "DIRECTORY",
        "VOLUME",
        "STATE",
        "RECORD",
        "CHANGES",
        "PID",
        "STORE",
    ];
    let mut rows = vec![heads.map(String::from).to_vec()];
    let number = |n: Option<u64>| n.map_or_else(|| "-".to_owned(), |n| n.to_string());
    rows.extend(mounts.iter().map(|mount| {
        vec![
            mount.dir.display().to_string(),
            mount.volume.clone(),
            state_in_words(mount),
            number(mount.base),
            number(mount.dirty),
            number(mount.pid.map(u64::from)),
            mount.store.clone(),
        ]
    }));
    let mut out = table(&rows);
    for mount in mounts.iter().filter(|mount| mount.state == State::Dead) {
        out.push_str(&format!(
            "{} is dead: its daemon has ended; mounting it again repairs it and restores uncommitted changes: sailvol mount --name '{}' {} {}\n",
            mount.dir.display(),
            mount.name,
            mount.volume,
            mount.dir.display()
        ));
    }
    out
}

fn state_in_words(mount: &Listed) -> String {
    let mut words = mount.state.word().to_owned();
    if mount.read_only == Some(true) {
        words.push_str(", read-only");
    }
    if let Some(behind @ 1..) = mount.behind {
        words.push_str(&format!(", {} behind", count(behind, "record")));
    }
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_mount_says_how_it_stands_and_dead_ones_what_to_do() {
        let record = MountRecord {
            name: "shared".into(),
            dir: "/shared".into(),
            volume: "data".into(),
            store: "s3://team/volumes".into(),
            pid: 7,
            socket: "/run/sailvol/shared.sock".into(),
        };
        let status = StatusAnswer {
            base: 41,
            head: Some(43),
            dirty: 5,
            ..StatusAnswer::default()
        };
        let live = Listed::of(record.clone(), State::Live, Some(&status));
        let dead = Listed::of(record, State::Dead, None);
        let said = text(&[live, dead]);
        let lines: Vec<&str> = said.lines().collect();
        for part in ["live, 2 records behind", "41", "5", "7"] {
            assert!(lines[1].contains(part), "{said}");
        }
        assert!(lines[2].contains("dead") && !lines[2].contains('7'), "{said}");
        assert!(
            lines[3].contains("sailvol mount --name 'shared' data /shared"),
            "{said}"
        );
        assert_eq!(text(&[]), "no mounts\n");
    }
}
