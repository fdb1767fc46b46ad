//! The driver of a mount: it alone changes what the mount shows, one step after the other, and keeps the model of it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;

use super::Herd;
use super::ledger::Published;
use super::mount::{Called, Member, Shown, TRIES};
use super::story::{Cause, Moment};
use super::tree::{Changes, Place, Tree};
use crate::campaign::Tally;
use crate::campaign::random::Random;

/// How long a command waits for the store.
const PATIENCE: &str = "120s";
/// Records that a reload goes back, at most.
const BACK_MAX: u64 = 12;

/// Drives one mount.
pub struct Driver<'a> {
    pub(super) herd: &'a Herd<'a>,
    pub(super) member: &'a Member,
    pub(super) shown: Shown,
    pub(super) random: Random,
    pub(super) tally: Tally,
    /// Writes so far.
    pub(super) writes: u64,
    stashes: BTreeMap<u64, Changes>,
    commits: u64,
}

/// What a reload does with local changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Local {
    Stash,
    Keep,
}

impl<'a> Driver<'a> {
    /// On a mount that has just been made.
    pub fn new(herd: &'a Herd<'a>, member: &'a Member, seed: u64) -> Driver<'a> {
        let now = member.story().now();
        Driver {
            herd,
            member,
            shown: Shown::on(now.base, now.tree, &Changes::new()),
            random: Random::new(seed),
            tally: Tally::default(),
            writes: 0,
            stashes: BTreeMap::new(),
            commits: 0,
        }
    }

    /// Takes all its steps, then compares the whole mount with the model and publishes what is left.
    ///
    /// # Errors
    /// What is wrong.
    pub fn run(&mut self) -> Result<(), String> {
        for _ in 0..self.herd.size.steps {
            if self.herd.alarm.is_set() {
                return Ok(());
            }
            self.step()?;
        }
        self.finish()
    }

    fn step(&mut self) -> Result<(), String> {
        match self.random.range(0..100) {
            0..30 => self.change(),
            // Mostly of something: merged commits one after the other are what a mount's own trees pile up from.
            30..66 => {
                if self.shown.dirty.is_empty() {
                    self.change()?;
                }
                self.commit()
            }
            66..71 => self.reload(Local::Stash, None),
            71..79 => self.reload(Local::Keep, None),
            79..84 => {
                let (local, to) = (self.any_local(), self.any_record());
                self.reload(local, Some(to))
            }
            84..90 => self.stash(),
            90..92 => self.kill_idle(),
            92..95 => self.kill_committing(),
            95..97 => self.kill_reloading(),
            _ => self.mount_again(),
        }
    }

    pub(super) fn note(&self, text: String) {
        self.member.note(self.herd.plan, text);
    }

    fn any_local(&mut self) -> Local {
        match self.random.chance(50) {
            true => Local::Stash,
            false => Local::Keep,
        }
    }

    fn any_record(&mut self) -> u64 {
        let (first, newest) = self.herd.ledger.span();
        self.random
            .range(first.max(newest.saturating_sub(BACK_MAX))..newest + 1)
    }

    /// The change that was begun is over.
    pub(super) fn over(&self, cause: Cause) {
        self.member.story().end(Moment {
            tree: Arc::new(self.shown.tree.clone()),
            base: self.shown.base_seq,
            cause,
        });
    }

    fn tree_of(&self, seq: u64) -> Result<Arc<Tree>, String> {
        self.herd.ledger.tree(seq, &self.herd.alarm)
    }

    // Commits.

    fn next_message(&mut self) -> String {
        self.commits += 1;
        format!("mount {}, commit {}", self.member.number, self.commits)
    }

    fn commit(&mut self) -> Result<(), String> {
        let message = self.next_message();
        let called = self
            .member
            .call(&["commit", ".", "--timeout", PATIENCE, "-m", &message]);
        match called.code {
            Some(0) => self.acknowledged(message, &called.answer),
            Some(6) => self.settle(vec![message]),
            // Nothing was published, and all changes are where they were.
            Some(5) => {
                self.note(format!("commit: {}", called.said));
                Ok(())
            }
            _ => called.done("commit").map(drop),
        }
    }

    fn acknowledged(&mut self, message: String, answer: &Value) -> Result<(), String> {
        let written = answer["still_written"].as_array().map_or(0, Vec::len);
        self.tally
            .add("closed files called still written", written as u64);
        let Some(seq) = answer["seq"].as_u64() else {
            if self.shown.dirty.is_empty() {
                return Ok(());
            }
            return Err(format!(
                "nothing was found to commit, of {} local changes: {:?}",
                self.shown.dirty.len(),
                first_of(&self.shown.dirty)
            ));
        };
        let merged = answer["merged_with"].as_array().map_or(0, Vec::len);
        let (count, base) = (self.shown.dirty.len(), self.shown.base_seq);
        self.note(format!(
            "commit: record {seq}, on {base}, merged with {merged}, {count} changes"
        ));
        self.tally.add("commits", 1);
        self.tally.add("merged commits", u64::from(merged > 0));
        self.published(seq, message, Some(paths(&answer["overwrote"], Some("content"))))
    }

    fn published(&mut self, seq: u64, message: String, overwrote: Option<Vec<String>>) -> Result<(), String> {
        if seq <= self.shown.base_seq {
            return Err(format!("record {seq} came after record {}", self.shown.base_seq));
        }
        let commit = Published {
            by: self.member.number,
            message,
            base: self.shown.base.clone(),
            changes: self.shown.dirty.clone(),
            overwrote,
        };
        self.herd.ledger.publish(seq, commit)?;
        self.shown.committed(seq);
        Ok(())
    }

    /// Finds out which of these commits are in the log: nothing was changed since the first of them.
    fn settle(&mut self, mut messages: Vec<String>) -> Result<(), String> {
        self.tally.add("commits of unknown outcome", 1);
        for _ in 0..TRIES {
            let message = self.next_message();
            messages.push(message.clone());
            let called = self
                .member
                .call(&["commit", ".", "--timeout", PATIENCE, "-m", &message]);
            match called.code {
                Some(0) => return self.look_up(&messages, &called.answer),
                Some(5 | 6) => {}
                _ => return called.done("commit that settles another").map(drop),
            }
        }
        Err("a commit could not be settled".to_owned())
    }

    fn look_up(&mut self, messages: &[String], answer: &Value) -> Result<(), String> {
        self.find(messages, answer)?;
        if !self.shown.dirty.is_empty() {
            return Err(format!(
                "local changes are neither published nor found to commit: {:?}",
                first_of(&self.shown.dirty)
            ));
        }
        Ok(())
    }

    /// Takes from the log what came of these commits, none of which is known to have failed; `answer` is that of the last.
    fn find(&mut self, messages: &[String], answer: &Value) -> Result<(), String> {
        let mut found = BTreeMap::new();
        for entry in self.log()? {
            let message = entry["message"].as_str().unwrap_or_default();
            if let (Some(seq), true) = (entry["seq"].as_u64(), messages.iter().any(|m| m == message)) {
                found.insert(seq, message.to_owned());
            }
        }
        self.note(format!(
            "commit, settled: {found:?} of {messages:?}, on {}",
            self.shown.base_seq
        ));
        for seq in [&answer["seq"], &answer["settled"]]
            .into_iter()
            .filter_map(Value::as_u64)
        {
            if !found.contains_key(&seq) {
                return Err(format!("record {seq} was acknowledged; the log has {found:?}"));
            }
        }
        for (seq, message) in found {
            self.published(seq, message, None)?;
        }
        Ok(())
    }

    fn log(&self) -> Result<Vec<Value>, String> {
        for _ in 0..TRIES {
            let called = self.member.call(&["log", ".", "--limit", "100000"]);
            if called.code != Some(5) {
                let answer = called.done("log")?;
                return Ok(answer.as_array().cloned().unwrap_or_default());
            }
        }
        Err("log: the store could not be reached again and again".to_owned())
    }

    // Reloads and stashes.

    fn reload(&mut self, local: Local, to: Option<u64>) -> Result<(), String> {
        let (_, newest) = self.herd.ledger.span();
        let number = to.map(|to| to.to_string());
        let mut words = vec!["reload", ".", "--timeout", PATIENCE];
        if local == Local::Keep {
            words.push("--keep");
        }
        if let Some(number) = &number {
            words.extend(["--to", number]);
        }
        self.member.story().begin();
        let called = self.member.call(&words);
        if called.code == Some(5) {
            self.note(format!("{words:?}: {}", called.said));
            self.over(Cause::Moved);
            return Ok(());
        }
        self.reloaded(local, called)?;
        if to.map_or(self.shown.base_seq < newest, |to| self.shown.base_seq != to) {
            return Err(format!(
                "{words:?} moved to record {}; the newest was {newest} before",
                self.shown.base_seq
            ));
        }
        self.over(Cause::Moved);
        self.tally.add("reloads", 1);
        Ok(())
    }

    /// The model follows a reload.
    fn reloaded(&mut self, local: Local, called: Called) -> Result<(), String> {
        let answer = called.done("reload")?;
        let number = |key: &str| answer[key].as_u64().ok_or_else(|| format!("reload: {answer}"));
        let (from, to) = (number("from")?, number("to")?);
        if from != self.shown.base_seq {
            return Err(format!(
                "reload moved from record {from}, not {}",
                self.shown.base_seq
            ));
        }
        if answer["dropped_stashes"]
            .as_array()
            .is_some_and(|s| !s.is_empty())
        {
            return Err(format!("stashes were dropped: {answer}"));
        }
        let tree = self.tree_of(to)?;
        let kept = paths(&answer["kept"], None);
        let (stay, go): (Changes, Changes) = std::mem::take(&mut self.shown.dirty)
            .into_iter()
            .partition(|(place, _)| local == Local::Keep || kept.contains(&place.path()));
        if local == Local::Stash {
            self.tally.add("closed files kept by a reload", stay.len() as u64);
            match answer["stash"]["id"].as_u64() {
                Some(id) => drop(self.stashes.insert(id, go.clone())),
                None if !go.is_empty() => {
                    return Err(format!(
                        "a reload made no stash of {} local changes: {:?}",
                        go.len(),
                        first_of(&go)
                    ));
                }
                None => {}
            }
        }
        self.note(format!(
            "reload ({local:?}): record {from} to {to}, {} changes stay, {} go to stash {}",
            stay.len(),
            go.len(),
            answer["stash"]["id"]
        ));
        self.shown = Shown::on(to, tree, &stay);
        if local == Local::Keep && from != to {
            self.check_listed(&kept)?;
        }
        Ok(())
    }

    /// Every local change is among the paths that an answer names.
    fn check_listed(&self, kept: &[String]) -> Result<(), String> {
        // Of what was moved only the new path is told.
        let there = self.shown.dirty.iter().filter(|(_, node)| node.is_some());
        match there
            .map(|(place, _)| place.path())
            .find(|path| !kept.contains(path))
        {
            Some(path) => Err(format!("{path} is a local change and is not told: {kept:?}")),
            None => Ok(()),
        }
    }

    fn stash(&mut self) -> Result<(), String> {
        let ids: Vec<u64> = self.stashes.keys().copied().collect();
        let Some(id) = self.random.pick(&ids).copied() else {
            return self.change();
        };
        let number = id.to_string();
        if self.random.chance(25) {
            self.member
                .call(&["stash", "drop", &number, "."])
                .done("stash drop")?;
            self.stashes.remove(&id);
            return Ok(());
        }
        self.member.story().begin();
        let called = self.member.call(&["stash", "restore", &number, "."]);
        if called.code == Some(5) {
            self.over(Cause::Moved);
            return Ok(());
        }
        let answer = called.done("stash restore")?;
        let changes = self.stashes.remove(&id).unwrap_or_default();
        self.note(format!("stash {id} restored: {} changes", changes.len()));
        self.shown.apply(&changes);
        self.check_listed(&paths(&answer["kept"], None))?;
        self.over(Cause::Moved);
        self.tally.add("stashes restored", 1);
        Ok(())
    }

    fn check_stashes(&mut self) -> Result<Vec<u64>, String> {
        let answer = self.member.call(&["stash", "list", "."]).done("stash list")?;
        let listed = answer.as_array().map_or(&[][..], Vec::as_slice);
        let ids: Vec<u64> = listed.iter().filter_map(|s| s["id"].as_u64()).collect();
        match self.stashes.keys().find(|id| !ids.contains(id)) {
            Some(id) => Err(format!("stash {id} is gone: {answer}")),
            None => Ok(ids),
        }
    }

    // Ends of the daemon.

    fn kill_idle(&mut self) -> Result<(), String> {
        self.member.story().begin();
        self.member.pod.kill_daemon();
        self.note("killed".to_owned());
        self.tally.add("kills", 1);
        self.mounted(None)
    }

    fn kill_committing(&mut self) -> Result<(), String> {
        let message = self.next_message();
        let after = Duration::from_millis(self.random.range(0..400));
        self.member.story().begin();
        let child = self
            .member
            .start(&["commit", ".", "--timeout", PATIENCE, "-m", &message]);
        std::thread::sleep(after);
        self.member.pod.kill_daemon();
        let called = self.member.wait(child);
        self.note(format!(
            "killed {after:?} after a commit had begun: exit {:?}",
            called.code
        ));
        self.tally.add("kills", 1);
        if called.code == Some(0) {
            self.acknowledged(message, &called.answer)?;
            return self.mounted(None);
        }
        // It is settled by the mount.
        self.mounted(Some(message))
    }

    fn kill_reloading(&mut self) -> Result<(), String> {
        let local = self.any_local();
        let after = Duration::from_millis(self.random.range(0..150));
        let mut words = vec!["reload", ".", "--timeout", PATIENCE];
        if local == Local::Keep {
            words.push("--keep");
        }
        self.member.story().begin();
        let child = self.member.start(&words);
        std::thread::sleep(after);
        self.member.pod.kill_daemon();
        let called = self.member.wait(child);
        self.note(format!(
            "killed {after:?} after a reload ({local:?}) had begun: exit {:?}",
            called.code
        ));
        if called.code == Some(0) {
            self.reloaded(local, called)?;
        }
        self.member.mount()?;
        self.where_it_stands()?;
        self.over(Cause::Away);
        self.tally.add("kills", 1);
        Ok(())
    }

    /// After a reload that was killed: it happened or not. Another one leaves no doubt about what is shown.
    fn where_it_stands(&mut self) -> Result<(), String> {
        let ids = self.check_stashes()?;
        let new = ids.iter().find(|id| !self.stashes.contains_key(id));
        if let Some(id) = new {
            let dirty = std::mem::take(&mut self.shown.dirty);
            self.stashes.insert(*id, dirty);
        }
        for _ in 0..TRIES {
            let called = self
                .member
                .call(&["reload", ".", "--keep", "--timeout", PATIENCE]);
            if called.code == Some(5) {
                continue;
            }
            // It moved from wherever the killed one left it.
            if let Some(from) = called.answer["from"].as_u64() {
                self.shown.base_seq = from;
            }
            return self.reloaded(Local::Keep, called);
        }
        Err("reload: the store could not be reached again and again".to_owned())
    }

    fn mount_again(&mut self) -> Result<(), String> {
        let empty_cache = self.random.chance(50);
        let member = self.member;
        member.alone(|| {
            member.story().begin();
            member.umount()?;
            if empty_cache {
                let cache = member.pod.local_dir("cache");
                std::fs::remove_dir_all(&cache).map_err(|e| format!("{}: {e}", cache.display()))?;
                std::fs::create_dir(&cache).map_err(|e| format!("{}: {e}", cache.display()))?;
            }
            self.note(format!("unmounted; empty cache: {empty_cache}"));
            self.tally.add("unmounts", 1);
            self.mounted(None)
        })
    }

    /// Mounts again. The commit of this message was cut off; the mount has found out what came of it.
    fn mounted(&mut self, cut_off: Option<String>) -> Result<(), String> {
        self.member.mount()?;
        let status = self.member.call(&["status", "."]).done("status")?;
        if let Some(message) = cut_off {
            self.find(&[message], &Value::Null)?;
        }
        let (Some(base), Some(dirty)) = (status["base"].as_u64(), status["dirty"].as_u64()) else {
            return Err(format!("status: {status}"));
        };
        if dirty == 0 {
            // Nothing to keep: it begins as a new mount does, on the newest record.
            if !self.shown.dirty.is_empty() {
                let lost = first_of(&self.shown.dirty);
                return Err(format!("local changes are gone after a new mount: {lost:?}"));
            }
            self.shown = Shown::on(base, self.tree_of(base)?, &Changes::new());
        } else if base != self.shown.base_seq {
            return Err(format!(
                "mounted again, with local changes, it stands on record {base}, not {}",
                self.shown.base_seq
            ));
        }
        self.over(Cause::Away);
        Ok(())
    }

    fn finish(&mut self) -> Result<(), String> {
        self.check_stashes()?;
        super::audit::compare_whole(
            &self.member.pod.mount_dir(),
            &self.shown.tree,
            &mut self.random,
            &mut self.tally,
        )?;
        for _ in 0..TRIES {
            self.commit()?;
            if self.shown.dirty.is_empty() {
                return Ok(());
            }
        }
        Err("the last commit found no store again and again".to_owned())
    }
}

fn first_of(changes: &Changes) -> Vec<&Place> {
    changes.keys().take(5).collect()
}

/// Paths in an answer: a list of them, or of objects with a path, of which those with this register are meant.
fn paths(list: &Value, register: Option<&str>) -> Vec<String> {
    let list = list.as_array().map_or(&[][..], Vec::as_slice);
    let meant = list
        .iter()
        .filter(|item| register.is_none_or(|r| item["register"] == r));
    let path = meant.filter_map(|item| item.as_str().or_else(|| item["path"].as_str()));
    path.map(|path| path.trim_matches('/').to_owned()).collect()
}
