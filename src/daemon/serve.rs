//! From settings to a served mount, and to its end.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::runtime::Handle;
use tokio::signal::unix::{Signal, SignalKind, signal};

use super::MountSettings;
use super::metrics::{Listener, Source};
use super::service::{Abilities, KernelLink, MountService};
use super::{predecessor, shutdown};
use crate::answer::{Failure, FailureKind};
use crate::config::MetricsAddress;
use crate::control::{Access, MountRecord, Server, record_path, socket_path};
use crate::fuse::{self, FuseDevice, FuseOptions, FuseSession, RequestCount};
use crate::model::{Seq, VolumeId};
use crate::mount::{Mount, MountOptions, Unattended};
use crate::store;
use crate::telemetry;
use crate::view::ShownOwner;
use crate::volume::Clock;

/// Time for the new mount to answer its first request.
const FIRST_ANSWER_TIME: Duration = Duration::from_secs(20);
/// Time for the last answers to reach their clients.
const DRAIN_TIME: Duration = Duration::from_secs(2);

/// How often it is seen to that repeated warnings are told.
const REPEATS_EVERY: Duration = Duration::from_secs(10);

/// What a mount says when it answers.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Ready {
    /// Name of the volume.
    pub volume: String,
    /// Its id.
    pub volume_id: VolumeId,
    /// Where it is mounted.
    #[serde(with = "crate::model::shown_path")]
    pub dir: PathBuf,
    /// The daemon.
    pub pid: u32,
    /// The record that the view stands on.
    pub base: Seq,
    /// The volume was made now.
    pub created: bool,
    /// Uncommitted changes that were there from an earlier mount.
    pub dirty: u64,
    /// What the owner should know.
    pub warnings: Vec<String>,
}

/// Serves a mount until it ends. `on_ready` is called once it answers.
///
/// # Errors
/// What kept it from being served, or from ending cleanly.
pub fn run(
    settings: MountSettings,
    on_ready: impl FnOnce(&Ready) -> Result<(), Failure>,
) -> Result<(), Failure> {
    super::keep_memory_private_for_good();
    let for_files = super::descriptors::raise_limit();
    super::raise_file_limit();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .thread_name("sailvol")
        .build()
        .map_err(|e| Failure::new(FailureKind::Failed, format!("cannot start threads: {e}")))?;
    let outcome = runtime.block_on(serve(settings, for_files, on_ready));
    // Tasks that still wait for the network must not hold up the end.
    runtime.shutdown_timeout(Duration::from_secs(2));
    outcome
}

/// `for_files`: descriptors that clean files may take which the kernel reads by itself.
async fn serve(
    settings: MountSettings,
    for_files: usize,
    on_ready: impl FnOnce(&Ready) -> Result<(), Failure>,
) -> Result<(), Failure> {
    let device = take_device(&settings)?;
    let mut signals = Signals::listen()?;
    // A body that gets too long for a limit of ours is an error of one write, not the end of the mount: once the signal was
    // listened to it ends nothing.
    if let Err(error) = signal(SignalKind::from_raw(libc::SIGXFSZ)) {
        tracing::warn!(%error, "a limit on file sizes could end the daemon");
    }
    make_runtime_dir(&settings.runtime_root)?;
    let closed = super::own_dirs(&settings).map_err(|e| Failure::new(FailureKind::Refused, e.to_string()))?;
    let store_url = store::StoreUrl::parse(&settings.store_url)
        .map_err(|e| Failure::new(FailureKind::Usage, e.to_string()))?;
    let opening = async {
        let store = store::open(&store_url).await.map_err(Failure::from)?;
        Mount::open(mount_options(&settings), store).await
    };
    let mut opened = tokio::select! {
        opened = opening => opened?,
        // Whatever it was doing is what a crash could have cut short.
        name = signals.next() => {
            tracing::info!(signal = name, "ended before it was mounted");
            return Ok(());
        }
    };
    opened.warnings.extend(closed);
    let mount = opened.mount.clone();
    mount.view().set_descriptors_max(for_files);
    // Only now: a second mount of the same name is refused above, and must not overwrite those of the first.
    if let Err(error) = super::write_settings(&settings) {
        tracing::debug!(%error, "cannot save the settings");
    }

    // Only now, too: until here a mount of the same name that ends may have the address.
    let begun = async {
        let listener = match &settings.metrics {
            Some(address) => Some(Listener::bind(&metrics_address(address)?).await?),
            None => None,
        };
        Ok((listener, Arc::new(mount_session(&mount, &settings, device)?)))
    };
    let (listener, session) = match begun.await {
        Ok(begun) => begun,
        Err(failure) => {
            mount.close().await;
            return Err(failure);
        }
    };
    mount.attach_kernel(Box::new(KernelLink(session.notifications(), session.hearing())));
    mount.watch_passthrough(session.passthrough());
    let metrics = listener.as_ref().map(Listener::address);
    let scrapes = listener.map(|listener| {
        let source = Arc::new(Scraped(mount.clone(), session.clone()));
        tokio::spawn(listener.serve(source))
    });
    let counting = tokio::spawn(tell_repeats());
    let outcome = serve_mounted(&settings, &opened, &session, metrics, on_ready, signals.next()).await;
    counting.abort();
    telemetry::tell_repeats(true);
    if let Some(scrapes) = scrapes {
        scrapes.abort();
        // With it the address is free. It was told to end: that is what it says.
        let _aborted = scrapes.await;
    }
    // Before the local directories are free: who mounts under the same name then has files of its own there.
    remove_runtime_files(&settings);
    mount.close().await;
    outcome
}

/// Warnings that come again and again are told by their number, now and then.
async fn tell_repeats() {
    loop {
        tokio::time::sleep(REPEATS_EVERY).await;
        telemetry::tell_repeats(false);
    }
}

/// What asks a daemon to end.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
    /// A terminal that goes away does not end a mount.
    hangup: Signal,
}

impl Signals {
    fn listen() -> Result<Signals, Failure> {
        let listen = |kind: SignalKind| {
            signal(kind).map_err(|error| {
                Failure::new(FailureKind::Failed, format!("cannot listen to signals: {error}"))
            })
        };
        Ok(Signals {
            terminate: listen(SignalKind::terminate())?,
            interrupt: listen(SignalKind::interrupt())?,
            hangup: listen(SignalKind::hangup())?,
        })
    }

    /// Waits for one, and gives its name.
    async fn next(&mut self) -> &'static str {
        loop {
            tokio::select! {
                _ = self.terminate.recv() => return "SIGTERM",
                _ = self.interrupt.recv() => return "SIGINT",
                _ = self.hangup.recv() => {}
            }
        }
    }
}

/// What metrics are made of.
struct Scraped(Arc<Mount>, Arc<FuseSession>);

impl Source for Scraped {
    fn mount(&self) -> &Arc<Mount> {
        &self.0
    }

    fn requests(&self) -> Vec<RequestCount> {
        self.1.requests()
    }
}

fn metrics_address(text: &str) -> Result<MetricsAddress, Failure> {
    text.parse()
        .map_err(|e: crate::config::MetricsAddressError| Failure::new(FailureKind::Usage, e.to_string()))
}

/// The inherited descriptor.
fn take_device(settings: &MountSettings) -> Result<Option<FuseDevice>, Failure> {
    let device = settings.device_fd.map(FuseDevice::take).transpose();
    device.map_err(|text| Failure::new(FailureKind::Usage, text))
}

fn mount_options(settings: &MountSettings) -> MountOptions {
    MountOptions {
        volume: settings.volume.clone(),
        dir: settings.dir.clone(),
        name: settings.name.clone(),
        create: settings.create,
        read_only: settings.read_only,
        at: settings.at,
        state_dir: settings.state_root.join(&settings.name),
        cache_dir: settings.cache_root.join(&settings.name),
        shown_owner: ShownOwner {
            uid: settings.uid,
            gid: settings.gid,
        },
        root_owner: (
            settings.uid.unwrap_or_else(maker_uid),
            settings.gid.unwrap_or_else(maker_gid),
        ),
        cache_bytes_max: settings.cache_bytes_max,
        cache_free_floor_bytes: settings.cache_free_floor_bytes,
        remote_timeout: Duration::from_secs(settings.remote_timeout_secs),
        open_timeout: Duration::from_secs(settings.open_timeout_secs),
        stash_age_max: Duration::from_secs(settings.stash_age_max_secs),
        stash_bytes_max: settings.stash_bytes_max,
        by: settings.by.clone(),
        unattended: Unattended {
            autocommit: settings.autocommit_secs.map(Duration::from_secs),
            autoreload: settings.autoreload_secs.map(Duration::from_secs),
            deleted_percent_max: settings.deleted_percent_max,
        },
        while_taken: predecessor::patience(settings),
        clock: Clock::system(),
    }
}

fn own_uid() -> u32 {
    rustix::process::geteuid().as_raw()
}

/// Owner of the root directory of a volume made now: who mounts; root for a service that mounts by privilege under a user of
/// its own, as for any new file system, since nobody works as that user.
fn maker_uid() -> u32 {
    if fuse::mounts_by_privilege() { 0 } else { own_uid() }
}

fn maker_gid() -> u32 {
    if fuse::mounts_by_privilege() { 0 } else { own_gid() }
}

fn own_gid() -> u32 {
    rustix::process::getegid().as_raw()
}

fn mount_session(
    mount: &Mount,
    settings: &MountSettings,
    device: Option<FuseDevice>,
) -> Result<FuseSession, Failure> {
    let dir = match &device {
        Some(_) => settings.dir.clone(),
        // Again: another process may have mounted there since the command line was checked.
        None => fuse::prepare_mount_point(&settings.dir, true)
            .map_err(|e| Failure::new(FailureKind::Refused, e.to_string()))?,
    };
    let options = FuseOptions {
        volume: settings.volume.clone(),
        allow_other: settings.allow_other,
        read_only: settings.read_only,
        kernel_flags: settings.kernel_flags.clone(),
        selinux_labels: settings.selinux_labels.clone(),
        passthrough: settings
            .passthrough
            .then(|| mount.local_places())
            .map(|(state, cache)| fuse::LocalPlaces { state, cache }),
    };
    FuseSession::mount(mount.view(), &dir, &options, device, &Handle::current())
        .map_err(|e| Failure::new(FailureKind::NoAccess, e.to_string()))
}

/// The mounted part: control socket, readiness, waiting, unmounting.
async fn serve_mounted(
    settings: &MountSettings,
    opened: &crate::mount::OpenedMount,
    session: &FuseSession,
    metrics: Option<String>,
    on_ready: impl FnOnce(&Ready) -> Result<(), Failure>,
    signalled: impl Future<Output = &'static str>,
) -> Result<(), Failure> {
    let mount = &opened.mount;
    let abilities = Abilities {
        lacks: session.lacks().to_vec(),
        metrics,
        ending: Arc::default(),
    };
    let ending = abilities.ending.clone();
    let started = start_control(settings, mount, abilities).await;
    let (server, drain) = match started {
        Ok(started) => started,
        Err(failure) => {
            shutdown::unmount(settings).await;
            return Err(failure);
        }
    };
    // A mount by somebody else may lie in another mount namespace.
    if settings.device_fd.is_none()
        && let Err(failure) = first_answer(&settings.dir).await
    {
        shutdown::unmount(settings).await;
        return Err(failure);
    }
    let status = mount.summary();
    let ready = Ready {
        volume: settings.volume.clone(),
        volume_id: status.volume_id,
        dir: settings.dir.clone(),
        pid: std::process::id(),
        base: status.base,
        created: opened.created,
        dirty: status.dirty,
        warnings: opened.warnings.clone(),
    };
    tracing::info!(volume = %ready.volume, dir = %ready.dir.display(), base = ready.base, dirty = ready.dirty, "mounted");
    on_ready(&ready)?;
    notify_systemd(&[sd_notify::NotifyState::Ready]);

    tokio::select! {
        reason = session.ended() => {
            ending.begun.store(true, Ordering::Release);
            if !reason.is_empty() {
                tracing::warn!(%reason, "the mount ended");
            }
            mount.view().release_all();
            if !ending.asked.load(Ordering::Acquire) {
                notify_ending(settings);
                shutdown::commit_on_exit(settings, mount).await;
            }
        }
        () = ending.let_go.notified() => {}
        name = signalled => {
            ending.begun.store(true, Ordering::Release);
            tracing::info!(signal = name, "ending");
            notify_ending(settings);
            shutdown::commit_on_exit(settings, mount).await;
            shutdown::unmount(settings).await;
        }
    }
    ending.begun.store(true, Ordering::Release);
    mount.tell_end();
    if tokio::time::timeout(shutdown::CLOSE_TIME, ending.taking.lock())
        .await
        .is_err()
    {
        tracing::warn!("the kernel did not remove the mount");
    }
    drain.wait(DRAIN_TIME).await;
    server.abort();
    let left = mount.summary().dirty;
    tracing::info!(dirty = left, "unmounted");
    Ok(())
}

/// The end may take longer than the unit's default: it ends within what is said here, else it is killed.
fn notify_ending(settings: &MountSettings) {
    let limit = shutdown::time_limit(settings);
    notify_systemd(&[
        sd_notify::NotifyState::Stopping,
        sd_notify::NotifyState::ExtendTimeoutUsec(u32::try_from(limit.as_micros()).unwrap_or(u32::MAX)),
    ]);
}

fn notify_systemd(states: &[sd_notify::NotifyState]) {
    if let Err(error) = sd_notify::notify(states) {
        tracing::debug!(%error, "sd_notify");
    }
}

async fn start_control(
    settings: &MountSettings,
    mount: &Arc<Mount>,
    abilities: Abilities,
) -> Result<(tokio::task::JoinHandle<()>, crate::control::Drain), Failure> {
    let socket = socket_path(&settings.runtime_root, &settings.name);
    let at = |e: std::io::Error| Failure::new(FailureKind::of_io(&e), format!("{}: {e}", socket.display()));
    let mut uids = vec![own_uid()];
    uids.extend(settings.uid);
    let server = Server::bind(
        &socket,
        Access {
            uids,
            gid: settings.control_gid,
        },
    )
    .map_err(at)?;
    let drain = server.drain();
    let record = MountRecord {
        name: settings.name.clone(),
        dir: settings.dir.clone(),
        volume: settings.volume.clone(),
        store: mount.store_description(),
        pid: std::process::id(),
        socket: socket.clone(),
    };
    record.write(&settings.runtime_root).map_err(at)?;
    let service = Arc::new(MountService::new(mount.clone(), settings.clone(), abilities));
    Ok((tokio::spawn(server.serve(service)), drain))
}

/// Asks the mount for its root, as any program would.
async fn first_answer(dir: &Path) -> Result<(), Failure> {
    let path = dir.to_path_buf();
    let looked = tokio::task::spawn_blocking(move || std::fs::metadata(path));
    let failed = |text: String| {
        Failure::new(
            FailureKind::Failed,
            format!("the new mount does not answer: {text}"),
        )
    };
    match tokio::time::timeout(FIRST_ANSWER_TIME, looked).await {
        Ok(Ok(Ok(_))) => Ok(()),
        Ok(Ok(Err(error))) => Err(failed(error.to_string())),
        Ok(Err(error)) => Err(failed(error.to_string())),
        Err(_) => Err(failed("timed out".into())),
    }
}

/// Everybody may look into it (the sockets decide who is heard), only the owner may write.
fn make_runtime_dir(dir: &Path) -> Result<(), Failure> {
    use std::os::unix::fs::{DirBuilderExt, MetadataExt};
    let at = |e: std::io::Error| Failure::new(FailureKind::of_io(&e), format!("{}: {e}", dir.display()));
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o755)
        .create(dir)
        .map_err(at)?;
    let found = std::fs::symlink_metadata(dir).map_err(at)?;
    if !found.is_dir() || (found.uid() != own_uid() && found.uid() != 0) {
        return Err(Failure::new(
            FailureKind::Refused,
            format!(
                "{} does not belong to this user: somebody else may have created it",
                dir.display()
            ),
        )
        .hint("remove it, or choose another with --runtime-dir"));
    }
    Ok(())
}

fn remove_runtime_files(settings: &MountSettings) {
    for path in [
        record_path(&settings.runtime_root, &settings.name),
        socket_path(&settings.runtime_root, &settings.name),
    ] {
        if let Err(error) = std::fs::remove_file(&path) {
            tracing::debug!(path = %path.display(), %error, "runtime file");
        }
    }
}
