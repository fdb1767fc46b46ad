//! Opening a mount: find the volume, take up what an earlier mount left, put the parts together.
//!
//! Three requests whatever the size of the volume: the name, the newest record's number, the record.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::keeping::KeepingStore;
use super::kept::{FileLedger, Kept, Seen, keep_record, load_base};
use super::lease::{Leasing, kept_sources};
use super::live::Parts;
use super::source::MountSource;
use super::{Mount, MountOptions, OpenedMount, parked, unsettled};
use crate::answer::{Failure, FailureKind, no_answer};
use crate::cache::{Cache, CacheError, CacheOptions};
use crate::files::create_volume;
use crate::format::Access;
use crate::model::{Attrs, TreeRoot, format_count};
use crate::overlay::{
    BaseRef, Found, Overlay, OverlayError, OverlayOptions, OverlayState, Recovery, list_parked,
};
use crate::store::{CountingStore, ObjectStore};
use crate::view::{SystemClock, View, ViewOptions, ViewParts};
use crate::volume::{Head, LoggedRecord, Opened, Volume, VolumeError, VolumeRef, rules};

/// File system type of overlayfs (linux/magic.h): a container's own layer, which goes with the container.
const OVERLAYFS_MAGIC: u64 = 0x794c_7630;
/// File systems that live in memory (tmpfs, ramfs).
const MEMORY_FS: [u64; 2] = [0x0102_1994, 0x8584_58f6];

/// Local directories serve one mount at a time.
const TAKEN: &str =
    "another mount of the same name may be running (`sailvol list`); --name gives this one its own";

fn failed(error: impl std::fmt::Display) -> Failure {
    Failure::new(FailureKind::Failed, error.to_string())
}

/// Base and overlay that a mount starts with.
struct Start {
    overlay: Option<Arc<Overlay>>,
    base: TreeRoot,
    base_ref: BaseRef,
    recovery: Recovery,
    /// The newest record.
    head: Head,
    warnings: Vec<String>,
}

impl Mount {
    /// Opens a volume for mounting. Must be called inside a tokio runtime.
    ///
    /// # Errors
    /// What keeps it from being opened, with what to do.
    pub async fn open(options: MountOptions, store: Arc<dyn ObjectStore>) -> Result<OpenedMount, Failure> {
        let counting = Arc::new(CountingStore::new(store));
        let counted: Arc<dyn ObjectStore> = counting.clone();
        let mut created = false;
        loop {
            let opened = Mount::open_once(&options, counting.clone(), counted.clone(), &mut created).await?;
            if let Some(opened) = opened {
                return Ok(opened);
            }
        }
    }

    /// One try; `None` after a wait for another process that had the local directories: its last commit may have published
    /// something, so that the newest record has to be asked for again.
    async fn open_once(
        options: &MountOptions,
        counting: Arc<CountingStore>,
        counted: Arc<dyn ObjectStore>,
        created: &mut bool,
    ) -> Result<Option<OpenedMount>, Failure> {
        let finding = find_volume(counted.clone(), options);
        let (found, made) = tokio::time::timeout(options.open_timeout, finding)
            .await
            .map_err(|_| no_answer(options.open_timeout))??;
        *created |= made;
        if !options.read_only
            && let Access::ReadOnly(features) = found.access()
        {
            return Err(Failure::new(
                FailureKind::Refused,
                format!(
                    "the volume uses features that this version must not write with: {}",
                    features.join(", ")
                ),
            )
            .hint("use a newer sailvol, or mount with --read-only"));
        }
        let seen = Seen::new(&options.state_dir, found.volume.id());
        seen.check(&found.head)?;
        let id = found.volume.id();
        let state_dir = options.state_dir.join(id.to_string());
        let mut warnings = warnings_about_places(options);
        warnings.extend(parked_elsewhere(options, &found.volume));

        let cache = open_cache(options, counted.clone(), &found.volume).await?;
        if options.while_taken.has_waited() {
            return Ok(None);
        }
        let source = Arc::new(MountSource::new(cache.clone()));
        let keeping = Arc::new(KeepingStore::new(counted, cache.clone()));
        let volume = Volume::handle(keeping, options.clock.clone(), id, found.volume.name().to_owned());
        let mut leasing = Leasing::new(&options.by, (!options.read_only).then_some(&*state_dir))?;
        let start = match options.read_only {
            true => Some(start_read_only(options, &volume, &found.head, &mut leasing).await?),
            false => start_writable(options, &volume, &found.head, &source, &state_dir, &mut leasing).await?,
        };
        let Some(start) = start else { return Ok(None) };
        warnings.extend(warnings_about_recovery(&start.recovery));
        warnings.extend(start.warnings);
        let view_options = ViewOptions {
            read_only: options.read_only,
            first_file_id: random_file_id()?,
            quota_bytes: found.head.record().config.quota_bytes,
            shown_owner: options.shown_owner,
        };
        let room: Arc<dyn crate::view::Room> = cache.clone();
        let parts = ViewParts {
            source: source.clone(),
            room: Some(cache),
            clock: Arc::new(SystemClock),
        };
        let view = match &start.overlay {
            Some(overlay) => View::new(view_options, overlay.clone(), start.base, parts),
            None => View::read_only(view_options, start.base, start.base_ref.clone(), parts),
        };
        let mount = Arc::new(Mount::assemble(Parts {
            volume_name: found.descriptor().name.clone(),
            ledger: FileLedger::new(&state_dir),
            leasing,
            view: Arc::new(view),
            kept: start
                .overlay
                .clone()
                .map(|overlay| Arc::new(Kept::new(overlay, Some(room)))),
            overlay: start.overlay,
            base_ref: start.base_ref,
            warnings: warnings.clone(),
            head: start.head.clone(),
            options: options.clone(),
            volume,
            counting,
            source,
            seen,
        }));
        mount.stands_anew();
        mount.drop_unneeded()?;
        mount.learn_head(&start.head);
        mount.watch_kept();
        mount.watch_memory();
        mount.start_leasing();
        mount.start_watching();
        mount.start_unattended();
        Ok(Some(OpenedMount {
            mount,
            created: *created,
            warnings,
        }))
    }
}

async fn find_volume(store: Arc<dyn ObjectStore>, options: &MountOptions) -> Result<(Opened, bool), Failure> {
    let wanted = VolumeRef::parse(&options.volume);
    match Volume::open(store.clone(), options.clock.clone(), &wanted).await {
        Ok(opened) => Ok((opened, false)),
        Err(VolumeError::NotFound { .. }) if options.create => {
            let root = Attrs {
                mode: 0o755,
                uid: options.root_owner.0,
                gid: options.root_owner.1,
                ..Attrs::default()
            };
            create_volume((store, options.clock.clone()), &options.volume, &options.by, root).await
        }
        Err(error) => Err(error.into()),
    }
}

async fn open_cache(
    options: &MountOptions,
    store: Arc<dyn ObjectStore>,
    volume: &Volume,
) -> Result<Arc<Cache>, Failure> {
    // Read-only mounts may share a name; a cache serves one process.
    let dir = match options.read_only {
        true => options
            .cache_dir
            .join(format!("read-only-{}", std::process::id())),
        false => options.cache_dir.clone(),
    };
    if let Some(parent) = dir.parent() {
        make_private_dir(parent)?;
    }
    let cache_options = CacheOptions {
        free_floor_bytes: options.cache_free_floor_bytes,
        remote_timeout: options.remote_timeout,
        ..CacheOptions::new(dir, options.cache_bytes_max)
    };
    let (id, runtime) = (volume.id(), tokio::runtime::Handle::current());
    let while_taken = options.while_taken.clone();
    let opened = tokio::task::spawn_blocking(move || {
        let _inside = runtime.enter();
        let is_taken = |error: &CacheError| matches!(error, CacheError::Busy { .. });
        while_taken.retry(is_taken, || Cache::open(cache_options.clone(), store.clone(), id))
    });
    opened
        .await
        .map_err(failed)?
        .map_err(|error| Failure::new(FailureKind::Refused, error.to_string()).hint(TAKEN))
}

/// Makes a directory of this user, closed to others.
pub(super) fn make_private_dir(dir: &Path) -> Result<(), Failure> {
    use std::os::unix::fs::DirBuilderExt;
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(dir)
        .map_err(|e| failed(format!("{}: {e}", dir.display())))
}

/// The base that a record is.
pub(super) fn base_of(record: &LoggedRecord) -> BaseRef {
    BaseRef {
        seq: record.seq(),
        record: record.hash,
        prepared: None,
        sources: vec![record.seq()],
    }
}

async fn start_read_only(
    options: &MountOptions,
    volume: &Volume,
    head: &Head,
    leasing: &mut Leasing,
) -> Result<Start, Failure> {
    let record = match options.at {
        Some(seq) => volume.record(head, seq).await?,
        None => head.newest.clone(),
    };
    let mut warnings = Vec::new();
    let leased = leasing.begin(volume, head, BTreeSet::from([record.seq()])).await;
    let head = told(leased, &mut warnings).unwrap_or_else(|| head.clone());
    // A collector may have come before the lease.
    let seq = record.seq();
    if !rules::is_protected(&head.record().gc, seq) {
        let head = head.seq();
        return Err(VolumeError::NotKept { seq, head }.into());
    }
    Ok(Start {
        overlay: None,
        base: record.record.root.root.clone(),
        base_ref: base_of(&record),
        recovery: Recovery::default(),
        head,
        warnings,
    })
}

/// A lease that could not be written keeps nobody from working.
fn told(leased: Result<Option<Head>, Failure>, warnings: &mut Vec<String>) -> Option<Head> {
    leased.unwrap_or_else(|failure| {
        warnings.push(format!(
            "the lease that keeps what is mounted here from being collected could not be written: {failure}"
        ));
        None
    })
}

/// `None` after a wait, see [`Mount::open_once`].
async fn start_writable(
    options: &MountOptions,
    volume: &Volume,
    head: &Head,
    source: &Arc<MountSource>,
    state_dir: &Path,
    leasing: &mut Leasing,
) -> Result<Option<Start>, Failure> {
    make_private_dir(&options.state_dir)?;
    let mut overlay_options = OverlayOptions::new(state_dir.to_path_buf(), volume.id(), &options.name);
    overlay_options.stash_age_max = options.stash_age_max;
    overlay_options.stash_bytes_max = options.stash_bytes_max;
    let while_taken = options.while_taken.clone();
    let is_taken = |error: &OverlayError| matches!(error, OverlayError::Busy { .. });
    let open = move || while_taken.retry(is_taken, || Overlay::open(overlay_options.clone()));
    let found = tokio::task::spawn_blocking(open).await.map_err(failed)?;
    let found = found.map_err(|error| {
        let kind = match matches!(&error, OverlayError::Io { source, .. } if source.kind() == std::io::ErrorKind::PermissionDenied) {
            true => FailureKind::NoAccess,
            false => FailureKind::Refused,
        };
        let failure = Failure::new(kind, error.to_string());
        match error {
            OverlayError::Busy { .. } => failure.hint(TAKEN),
            _ => failure,
        }
    })?;
    if options.while_taken.has_waited() {
        return Ok(None);
    }
    let root = &head.record().root.root;
    let (overlay, recovery) = match found {
        Found::Empty(empty) => {
            let overlay = empty
                .begin(base_of(&head.newest), root.attrs.clone())
                .map_err(failed)?;
            (
                overlay,
                Recovery {
                    clean_stop: true,
                    ..Recovery::default()
                },
            )
        }
        Found::Overlay(opened) => (opened.overlay, opened.recovery),
    };
    source.set_overlay(overlay.clone());
    let settled = unsettled::settle_overlay(volume, &**source, &overlay).await?;
    let head = settled.as_ref().unwrap_or(head);
    let root = &head.record().root.root;
    // Without local changes the mount begins at the newest record, whatever it stood on before.
    let at_head = base_of(&head.newest);
    if overlay.read().is_clean() && overlay.read().base != at_head {
        let state = OverlayState::succeeding(&overlay.read(), at_head, root.attrs.clone());
        overlay.replace(state, None).map_err(failed)?;
    }
    let base_ref = overlay.read().base.clone();
    // What nobody has seen to be the newest just now may be collected the next moment.
    let mut warnings = Vec::new();
    let leased = leasing.begin(volume, head, kept_sources(&overlay)).await;
    let leased = told(leased, &mut warnings);
    let head = leased.as_ref().unwrap_or(head);
    let mut base = load_base(&overlay, volume, head, &base_ref).await?;
    warnings.extend(parked::take_up(&overlay, source, &mut base, head).await?);
    let base_ref = overlay.read().base.clone();
    if base_ref.record == head.hash() {
        keep_record(&overlay, &head.newest).map_err(failed)?;
    }
    Ok(Some(Start {
        overlay: Some(overlay),
        base,
        base_ref,
        recovery,
        head: head.clone(),
        warnings,
    }))
}

fn random_file_id() -> Result<u64, Failure> {
    let mut bytes = [0; 8];
    getrandom::fill(&mut bytes).map_err(|e| failed(format!("no random numbers: {e}")))?;
    Ok(u64::from_le_bytes(bytes))
}

fn warnings_about_places(options: &MountOptions) -> Vec<String> {
    let existing = |dir: &PathBuf| dir.ancestors().find_map(|d| rustix::fs::statfs(d).ok());
    let Some(found) = existing(&options.state_dir) else {
        return Vec::new();
    };
    let kind = u64::try_from(found.f_type).unwrap_or(0);
    let dir = options.state_dir.display();
    if options.read_only {
        Vec::new()
    } else if kind == OVERLAYFS_MAGIC {
        vec![format!(
            "{dir} lies on a container's own layer: uncommitted work goes with the container (--state-dir)"
        )]
    } else if MEMORY_FS.contains(&kind) {
        vec![format!(
            "{dir} lies in memory: uncommitted work does not survive a restart of the machine (--state-dir)"
        )]
    } else {
        Vec::new()
    }
}

fn warnings_about_recovery(recovery: &Recovery) -> Vec<String> {
    let mut out = Vec::new();
    let lost = recovery.incomplete.len() + recovery.reverted.len() + recovery.missing.len();
    if lost > 0 {
        out.push(format!(
            "the machine stopped without warning: {} may lack what was written after the last fsync",
            format_count(lost as u64, "file")
        ));
    }
    if recovery.taken_back > 0 {
        out.push(format!(
            "the machine stopped without warning: the last {} changes, none of which was synced, are undone, because bytes that they put in the place of others did not reach the disk",
            recovery.taken_back
        ));
    } else if recovery.cut_bytes > 0 && recovery.rebooted {
        out.push(format!(
            "{} bytes of the journal's unsynced end were cut off",
            recovery.cut_bytes
        ));
    }
    out
}

/// Uncommitted work of the same volume under other mount names is never ignored silently.
fn parked_elsewhere(options: &MountOptions, volume: &Volume) -> Vec<String> {
    let Some(root) = options.state_dir.parent() else {
        return Vec::new();
    };
    let others = list_parked(root, volume.id()).into_iter();
    others
        .filter(|parked| parked.mount_name != options.name && !parked.in_use && parked.overlay)
        .map(|parked| {
            format!(
                "there is uncommitted work of this volume under the mount name {:?}: mount with --name {} to get at it",
                parked.mount_name, parked.mount_name
            )
        })
        .collect()
}
