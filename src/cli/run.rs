//! `sailvol run`: a mount for as long as a command runs.
//!
//! The command stays in this process's process group, so that what the terminal does to one it does to both: keys that send
//! signals, a change of its size, who is in the foreground. What somebody sends to this process alone is handed on (the
//! kernel tells both apart, sigaction(2): `SI_KERNEL`). As process 1 of a container it collects the processes that others
//! leave behind.

mod signals;

use std::ffi::OsString;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::Duration;

use rustix::process::{Pid, Signal, WaitOptions, WaitStatus, kill_process, waitpid};
use tokio::time::Instant;

use self::signals::Signals;
use super::context::{Context, without_numbers};
use super::mount::{self, Started};
use super::table::count;
use crate::answer::{
    CommitAnswer, CommitRequest, Failure, FailureKind, LocalChanges, ReloadAnswer, ReloadRequest, STORE_TIME,
};
use crate::control::{Client, ClientError, Request, UnmountAnswer, UnmountRequest, socket_path};
use crate::daemon::{CLOSE_TIME, MountSettings, Ready};

/// Mount a volume, run a command, commit when it ends, and unmount
///
/// The command runs with the mount in place, in the same terminal and with the signals that this process gets. Whatever it
/// exits with, what it has changed is committed then (--on-failure says otherwise), the volume is unmounted, and its exit
/// code is that of `sailvol run`: 128+N if signal N ended it, 127 if there is no such command, 126 if it cannot be run. When
/// the commit fails the exit code says why, as that of `sailvol commit` does, and the work stays on this machine. SIGTERM
/// goes to the command, which has --exit-grace to end; the commit has as long again.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The volume: a name or URL
    volume: String,
    /// An empty directory
    dir: PathBuf,
    /// What to do with its changes when the command fails or is ended by a signal
    #[arg(long, value_enum, value_name = "WHAT", default_value = "commit")]
    on_failure: OnFailure,
    /// Message of the commit
    #[arg(short, long, value_name = "TEXT", default_value = "")]
    message: String,
    /// Run the command in DIR (so it is anyway if the present directory is DIR or below it)
    #[arg(long)]
    cd: bool,
    #[command(flatten)]
    options: mount::Options,
    /// The command, with its arguments
    #[arg(last = true, required = true, value_name = "COMMAND")]
    command: Vec<OsString>,
}

/// What to do with the changes of a command that failed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, clap::ValueEnum)]
enum OnFailure {
    /// Leave them uncommitted on this machine, for the next mount of the same name
    Keep,
    /// Commit them as those of any other
    Commit,
    /// Set them aside in a stash
    Stash,
}

/// Exit code of env(1) and shells for a command that is not there ...
const NO_COMMAND: u8 = 127;
/// ... and for one that cannot be run.
const CANNOT_RUN: u8 = 126;
/// A signal's number is added to this.
const BY_SIGNAL: i32 = 128;

/// Runs the command.
pub fn run(args: &Args, context: &Context) -> Result<ExitCode, Failure> {
    let settings = mount::resolve(&args.volume, &args.dir, &args.options, context)?;
    if settings.device_fd.is_some() {
        return Err(Failure::new(
            FailureKind::Usage,
            "`sailvol run` mounts by itself: name a directory",
        ));
    }
    // Before there are threads: all of them leave signals to the descriptor.
    let signals = Signals::take().map_err(|e| failed("cannot listen to signals", &e))?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|e| failed("cannot start threads", &e))?;
    let job = Job {
        args,
        context,
        settings,
    };
    runtime.block_on(job.run(signals))
}

fn failed(what: &str, error: &std::io::Error) -> Failure {
    Failure::new(FailureKind::Failed, format!("{what}: {error}"))
}

struct Job<'a> {
    args: &'a Args,
    context: &'a Context,
    settings: MountSettings,
}

/// How a command ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct End {
    /// For the exit code.
    code: u8,
    /// Somebody asked for an end: what follows is to be quick.
    hurried: bool,
}

impl Job<'_> {
    async fn run(&self, signals: Signals) -> Result<ExitCode, Failure> {
        let mut signals = signals
            .listen()
            .map_err(|e| failed("cannot listen to signals", &e))?;
        let ready = match self.mount(&mut signals).await? {
            Ok(ready) => ready,
            Err(signal) => return Ok(ExitCode::from(code_of_signal(signal))),
        };
        self.say_ready(&ready);
        let outcome = match self.start(&ready) {
            Ok(child) => Ok(self.wait_for(child, &mut signals).await?),
            Err(error) => Err(error),
        };
        match outcome {
            Ok(end) => self.finish(end).await,
            Err(error) => {
                // Nothing was run, so nothing was changed.
                self.unmount().await?;
                let code = match error.kind() {
                    std::io::ErrorKind::NotFound => NO_COMMAND,
                    _ => CANNOT_RUN,
                };
                let command = Path::new(&self.args.command[0]).display().to_string();
                self.context
                    .note(without_numbers(&format!("sailvol: {command}: {error}")));
                Ok(ExitCode::from(code))
            }
        }
    }

    /// Mounts; the inner error is a signal that came before the mount was there.
    async fn mount(&self, signals: &mut Signals) -> Result<Result<Ready, i32>, Failure> {
        let started = mount::start_in_background(&self.settings)?;
        let daemon = started.pid();
        let waiting = tokio::task::spawn_blocking(move || Started::wait(started));
        tokio::pin!(waiting);
        loop {
            tokio::select! {
                done = &mut waiting => {
                    let done = done.map_err(|e| Failure::new(FailureKind::Failed, e.to_string()))?;
                    return done.map(Ok);
                }
                received = signals.next() => {
                    if let Some(signal) = received.filter(|r| r.ends()).map(|r| r.number) {
                        // It unmounts again, should it have come so far.
                        tell(daemon, Signal::TERM);
                        let _ended = waiting.await;
                        return Ok(Err(signal));
                    }
                }
            }
        }
    }

    fn say_ready(&self, ready: &Ready) {
        for warning in &ready.warnings {
            self.context.note(format!("sailvol: warning: {warning}"));
        }
        if ready.dirty > 0 {
            self.context.note(format!(
                "sailvol: restored {} of an earlier mount",
                count(ready.dirty, "uncommitted change")
            ));
        }
    }

    fn start(&self, ready: &Ready) -> std::io::Result<Pid> {
        let mut command = Command::new(&self.args.command[0]);
        command.args(&self.args.command[1..]);
        if let Some(dir) = self.working_directory(&ready.dir) {
            command.current_dir(dir);
        }
        let mut restore = crate::daemon::core_limit_restorer();
        let as_it_was = move || {
            restore()?;
            signals::as_before()
        };
        // SAFETY: it calls setrlimit(2) and sigprocmask(2), and nothing else, between fork and exec.
        unsafe { command.pre_exec(as_it_was) };
        let child = command.spawn()?;
        // It is waited for together with all others.
        let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
        pid.ok_or_else(|| std::io::Error::other("the process has no id"))
    }

    /// A process that was started in the mount's directory stands on what the mount hides.
    fn working_directory(&self, dir: &Path) -> Option<PathBuf> {
        if self.args.cd {
            return Some(dir.to_path_buf());
        }
        let present = std::env::current_dir().ok()?;
        present.starts_with(dir).then_some(present)
    }

    /// Waits for the end of the command, hands signals on, and collects whatever else has ended.
    async fn wait_for(&self, child: Pid, signals: &mut Signals) -> Result<End, Failure> {
        let grace = Duration::from_secs(self.settings.exit_grace_secs);
        let mut deadline: Option<Instant> = None;
        loop {
            if let Some(status) = collect(child) {
                return Ok(End {
                    code: exit_code(status.as_raw()),
                    hurried: deadline.is_some(),
                });
            }
            let out_of_time = async {
                match deadline {
                    Some(at) => tokio::time::sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
            let received = tokio::select! {
                received = signals.next() => received,
                () = out_of_time => {
                    self.context.note("sailvol: the command did not end after SIGTERM: killed");
                    tell(child, Signal::KILL);
                    deadline = Some(Instant::now() + Duration::from_secs(3600));
                    continue;
                }
            };
            let Some(received) = received else { continue };
            if received.is_for_the_command() {
                tell_raw(child, received.number);
            }
            if received.number == libc::SIGTERM && deadline.is_none() {
                deadline = Some(Instant::now() + grace);
            }
            if received.stops() {
                signals::stop_as_well();
            }
        }
    }

    /// Commits as was asked for, and unmounts.
    async fn finish(&self, end: End) -> Result<ExitCode, Failure> {
        let what = match end.code {
            0 => OnFailure::Commit,
            _ => self.args.on_failure,
        };
        let kept = match (self.settings.read_only, what) {
            (true, _) | (_, OnFailure::Keep) => Ok(()),
            (false, OnFailure::Commit) => self.commit(end.hurried).await,
            (false, OnFailure::Stash) => self.stash(end.hurried).await,
        };
        let unmounted = self.unmount().await;
        if let Err(failure) = kept {
            return Err(self.with_place(failure, end));
        }
        let answer = unmounted?;
        if answer.dirty > 0 {
            self.context.note(format!(
                "sailvol: {} not committed; {}",
                count(answer.dirty, "change"),
                self.place()
            ));
        }
        Ok(ExitCode::from(end.code))
    }

    async fn commit(&self, hurried: bool) -> Result<(), Failure> {
        let request = CommitRequest {
            message: self.args.message.clone(),
            timeout_secs: Some(self.time_for_store(hurried).as_secs()),
            ..CommitRequest::default()
        };
        let answer: CommitAnswer = self.ask(&Request::Commit(request)).await?;
        if let Some(seq) = answer.seq {
            self.context.note(format!(
                "sailvol: committed record {seq}: {}",
                count(answer.changed, "change")
            ));
        }
        for path in &answer.still_written {
            self.context.note(format!(
                "sailvol: {path} was still being written, and is committed only in part"
            ));
        }
        Ok(())
    }

    async fn stash(&self, hurried: bool) -> Result<(), Failure> {
        let request = ReloadRequest {
            local: LocalChanges::Stash,
            timeout_secs: Some(self.time_for_store(hurried).as_secs()),
            ..ReloadRequest::default()
        };
        let answer: ReloadAnswer = self.ask(&Request::Reload(request)).await?;
        if let Some(stash) = &answer.stash {
            self.context.note(format!(
                "sailvol: stash {} keeps {} of the failed command",
                stash.id,
                count(stash.changed, "change")
            ));
        }
        Ok(())
    }

    fn time_for_store(&self, hurried: bool) -> Duration {
        let grace = Duration::from_secs(self.settings.exit_grace_secs.max(1));
        if hurried { grace } else { STORE_TIME.max(grace) }
    }

    /// Asks the daemon; one that was killed meanwhile is started again first: what was written is in its state directory.
    async fn ask<T: serde::de::DeserializeOwned>(&self, request: &Request) -> Result<T, Failure> {
        let mut client = match self.connect().await {
            Ok(client) => client,
            Err(ClientError::NoDaemon { .. }) => {
                self.context
                    .note("sailvol: the mount's daemon is gone: mounting again");
                let settings = self.settings.clone();
                let again =
                    tokio::task::spawn_blocking(move || mount::start_in_background(&settings)?.wait());
                again
                    .await
                    .map_err(|e| Failure::new(FailureKind::Failed, e.to_string()))??;
                self.connect().await?
            }
            Err(error) => return Err(error.into()),
        };
        Ok(client.call(request, |_| {}).await?)
    }

    async fn connect(&self) -> Result<Client, ClientError> {
        Client::connect(&socket_path(&self.settings.runtime_root, &self.settings.name)).await
    }

    /// Unmounts, and waits until the daemon has put everything down: as process 1 this one takes all others with it. What
    /// still uses the mount loses it, since the command that it was for has ended.
    async fn unmount(&self) -> Result<UnmountAnswer, Failure> {
        let mut client = self.connect().await?;
        let daemon = client.daemon();
        let request = |force| {
            Request::Unmount(UnmountRequest {
                force,
                ..UnmountRequest::default()
            })
        };
        let mut answer = client.call(&request(false), |_| {}).await;
        if let Err(ClientError::Failure(failure)) = &answer
            && failure.kind == FailureKind::Refused
        {
            self.context
                .note(format!("sailvol: {}: taken away from them", failure.message));
            answer = client.call(&request(true), |_| {}).await;
        }
        let answer = answer?;
        if let Some(daemon) = daemon
            && tokio::time::timeout(CLOSE_TIME, daemon.readable()).await.is_err()
        {
            self.context.note("sailvol: the mount's daemon has not ended yet");
        }
        Ok(answer)
    }

    fn place(&self) -> String {
        let settings = &self.settings;
        format!(
            "kept in {}: `sailvol mount --name {} {} DIR` shows them again",
            settings.state_root.join(&settings.name).display(),
            settings.name,
            settings.volume,
        )
    }

    fn with_place(&self, failure: Failure, end: End) -> Failure {
        let hint = failure
            .hint
            .as_deref()
            .map(|hint| format!("{hint}; "))
            .unwrap_or_default();
        let code = end.code;
        Failure {
            message: format!("the command exited with {code}, then: {}", failure.message),
            hint: Some(format!("{hint}uncommitted changes are {}", self.place())),
            ..failure
        }
    }
}

fn tell(process: Pid, signal: Signal) {
    if let Err(error) = kill_process(process, signal) {
        tracing::debug!(%error, "a process that has ended");
    }
}

/// Also signals that have no name.
fn tell_raw(process: Pid, number: i32) {
    // SAFETY: kill(2) of a process that is not waited for yet, so that its number is its own.
    if unsafe { libc::kill(process.as_raw_pid(), number) } != 0 {
        tracing::debug!(error = %std::io::Error::last_os_error(), "a process that has ended");
    }
}

/// Collects all processes that have ended; the status of `child` if it is among them.
fn collect(child: Pid) -> Option<WaitStatus> {
    let mut found = None;
    while let Ok(Some((pid, status))) = waitpid(None, WaitOptions::NOHANG) {
        if pid == child {
            found = Some(status);
        }
    }
    found
}

/// Of a status as wait(2) gives it.
fn exit_code(status: i32) -> u8 {
    let status = std::process::ExitStatus::from_raw(status);
    match (status.code(), status.signal()) {
        (Some(code), _) => u8::try_from(code).unwrap_or(u8::MAX),
        (None, Some(signal)) => code_of_signal(signal),
        (None, None) => u8::MAX,
    }
}

fn code_of_signal(signal: i32) -> u8 {
    u8::try_from(BY_SIGNAL + signal).unwrap_or(u8::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exit_codes_are_those_of_a_shell() {
        let of_exits = [0, 7 << 8, 255 << 8].map(exit_code);
        assert_eq!(of_exits, [0, 7, 255]);
        let of_signals = [libc::SIGKILL, libc::SIGSEGV | 0x80].map(exit_code);
        assert_eq!(of_signals, [137, 139]);
    }
}
