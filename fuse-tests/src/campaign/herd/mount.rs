//! One mount of the herd: its pod, the story of what it shows, and the commands that its driver gives.

use std::collections::VecDeque;
use std::ffi::OsString;
use std::path::PathBuf;
use std::process::{Child, Output, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use parking_lot::{Mutex, RwLock};
use serde_json::Value;

use super::alarm::Alarm;
use super::story::Story;
use super::tree::{Changes, Place, Tree};
use crate::campaign::Plan;
use crate::pod::Pod;

/// Events of a mount that are told when something is wrong.
const DIARY_MAX: usize = 40;
/// Lines of the daemon's log that are told then.
const LOG_LINES: usize = 40;
/// Tries of a command that may be refused for a moment.
pub const TRIES: usize = 30;

/// A mount, as all threads know it.
pub struct Member {
    /// Its number, from 1 on: the writer in the tags of what it writes.
    pub number: usize,
    /// Its pod.
    pub pod: Pod,
    /// Options of its mounts.
    pub options: Vec<String>,
    story: OnceLock<Story>,
    /// Held for reading by whoever looks at the mount, for writing by the driver that unmounts it.
    pub gate: RwLock<()>,
    /// The driver wants the gate: everything that is held open is to be closed.
    pub leave: AtomicBool,
    diary: Mutex<VecDeque<String>>,
}

/// What came of a command.
pub struct Called {
    /// Exit code; `None` when it was killed.
    pub code: Option<i32>,
    /// Its answer.
    pub answer: Value,
    /// What it said on standard error.
    pub said: String,
}

impl Called {
    fn of(output: &Output) -> Called {
        Called {
            code: output.status.code(),
            answer: serde_json::from_slice(&output.stdout).unwrap_or_default(),
            said: String::from_utf8_lossy(&output.stderr).trim().to_owned(),
        }
    }

    /// The answer of a command that must succeed.
    ///
    /// # Errors
    /// What it said.
    pub fn done(self, what: &str) -> Result<Value, String> {
        match self.code {
            Some(0) => Ok(self.answer),
            code => Err(format!("{what}: exit {code:?}: {}", self.said)),
        }
    }
}

impl Member {
    /// Not mounted yet.
    pub fn new(number: usize, pod: Pod, options: Vec<String>) -> Member {
        Member {
            number,
            pod,
            options,
            story: OnceLock::new(),
            gate: RwLock::new(()),
            leave: AtomicBool::new(false),
            diary: Mutex::default(),
        }
    }

    /// The first mount.
    pub fn begin(&self, tree: Arc<Tree>, base: u64) {
        assert!(self.story.set(Story::new(tree, base)).is_ok(), "begun once");
    }

    /// What it has shown.
    pub fn story(&self) -> &Story {
        self.story.get().expect("begun before anybody looks")
    }

    /// A path in the mount.
    pub fn path(&self, relative: &str) -> PathBuf {
        self.pod.path(relative)
    }

    /// A directory that belongs to this mount alone.
    pub fn own_dir(&self) -> String {
        format!("own{}", self.number)
    }

    fn command(&self, words: &[&str]) -> std::process::Command {
        // "." is the mount directory.
        let dir = self.pod.mount_dir();
        let words = words.iter().map(|word| match *word {
            "." => dir.clone().into_os_string(),
            word => OsString::from(word),
        });
        let mut command = self.pod.command(words);
        command.arg("--json");
        command
    }

    /// Gives a command; `.` among its words is the mount directory.
    pub fn call(&self, words: &[&str]) -> Called {
        Called::of(&self.command(words).output().expect("the program starts"))
    }

    /// Gives a command and does not wait for it.
    pub fn start(&self, words: &[&str]) -> Child {
        let mut command = self.command(words);
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        command.spawn().expect("the program starts")
    }

    /// What came of a command that was started.
    pub fn wait(&self, child: Child) -> Called {
        Called::of(&child.wait_with_output().expect("the program was started"))
    }

    /// Mounts; a store that fails now and then may refuse it for a moment.
    ///
    /// # Errors
    /// What it says.
    pub fn mount(&self) -> Result<(), String> {
        let mut words = vec!["mount"];
        words.extend(self.options.iter().map(String::as_str));
        words.extend(["data", "."]);
        for _ in 0..TRIES {
            let called = self.call(&words);
            if called.code != Some(5) {
                return called.done("mount").map(drop);
            }
        }
        Err("mount: the store could not be reached again and again".to_owned())
    }

    /// Unmounts and waits for the end of the daemon. Nobody may look at the mount.
    ///
    /// # Errors
    /// What it says.
    pub fn umount(&self) -> Result<(), String> {
        let daemon = self.pod.daemon();
        let mut called = self.call(&["umount", "."]);
        for _ in 0..TRIES {
            // The kernel gives back what was closed a moment after it was closed.
            if called.code != Some(3) {
                break;
            }
            std::thread::sleep(Duration::from_millis(50));
            called = self.call(&["umount", "."]);
        }
        called.done("umount")?;
        if let Some(pid) = daemon {
            crate::pod::wait_until("the daemon ends", || !crate::pod::alive(pid));
        }
        Ok(())
    }

    /// Runs while nobody has anything open in the mount.
    pub fn alone<T>(&self, act: impl FnOnce() -> T) -> T {
        self.leave.store(true, Ordering::Release);
        let gate = self.gate.write();
        let done = act();
        self.leave.store(false, Ordering::Release);
        drop(gate);
        done
    }

    /// Notes what happens, and says it if that is wanted.
    pub fn note(&self, plan: &Plan, text: String) {
        plan.say(format_args!("  mount {}: {text}", self.number));
        let mut diary = self.diary.lock();
        if diary.len() >= DIARY_MAX {
            diary.pop_front();
        }
        diary.push_back(text);
    }

    /// For a message: what was done last, and the end of the daemon's log.
    pub fn explain(&self) -> String {
        let mut text = format!("mount {} ({}), last:", self.number, self.options.join(" "));
        for event in self.diary.lock().iter() {
            text.push_str(&format!("\n  {event}"));
        }
        text.push_str(&self.pod.log_tail(LOG_LINES));
        text
    }

    /// Raises the alarm with everything that is known of this mount.
    pub fn accuse(&self, alarm: &Alarm, what: &str) {
        if !alarm.is_set() {
            alarm.raise(format!("mount {}: {what}\n{}", self.number, self.explain()));
        }
    }
}

/// What a mount stands on and what it has changed since, as its driver knows it.
#[derive(Clone)]
pub struct Shown {
    /// The record.
    pub base_seq: u64,
    /// What the view stands on: that record, or after a commit that was merged what it showed before, with its own changes.
    pub base: Arc<Tree>,
    /// What is shown.
    pub tree: Tree,
    /// Local changes.
    pub dirty: Changes,
}

impl Shown {
    /// A record with local changes on top.
    pub fn on(base_seq: u64, base: Arc<Tree>, dirty: &Changes) -> Shown {
        let mut shown = Shown {
            base_seq,
            tree: (*base).clone(),
            base,
            dirty: Changes::new(),
        };
        shown.apply(dirty);
        shown
    }

    /// Makes these changes.
    pub fn apply(&mut self, changes: &Changes) {
        for (place, node) in changes {
            let made = self.tree.set(place, *node);
            made.iter().chain([place]).for_each(|place| self.compare(place));
        }
    }

    fn compare(&mut self, place: &Place) {
        let now = self.tree.get(place);
        if now == self.base.get(place) {
            self.dirty.remove(place);
        } else {
            self.dirty.insert(place.clone(), now);
        }
    }

    /// All local changes are in this record.
    pub fn committed(&mut self, seq: u64) {
        self.base_seq = seq;
        self.base = Arc::new(self.tree.clone());
        self.dirty.clear();
    }
}
