//! The store: reachable, with credentials, and keeping what volumes rest on.

use std::path::Path;

use super::Check;
use crate::answer::{Failure, FailureKind};
use crate::cli::context::Context;
use crate::config::{default_store, parse_volume};
use crate::files::open_store;
use crate::format::{Access, NAMES_PREFIX};
use crate::store::{ObjectStore, StoreUrl, VolumeUrl, credentials_source, probe};
use crate::volume::{Clock, Volume, VolumeError, VolumeRef};

/// A clock that is this far off deserves a word, seconds.
const CLOCK_WARN_S: u64 = 30;
/// S3 refuses requests that are signed further off than 15 minutes; records are dated by the store beyond 5.
const CLOCK_FAIL_S: u64 = 300;

/// What the argument names.
struct Wanted {
    store: StoreUrl,
    volume: Option<VolumeUrl>,
    /// The same text, read as a store.
    as_store: Option<StoreUrl>,
}

/// Everything about the store, within the time limit.
pub async fn checks(named: Option<&str>, context: &Context) -> Vec<Check> {
    let mut checks = Vec::new();
    let looking = look(named, context, &mut checks);
    if tokio::time::timeout(context.timeout, looking).await.is_err() {
        checks.push(Check::fail(
            "store",
            format!(
                "not fully checked within {} s: it does not answer, or is very slow",
                context.timeout.as_secs()
            ),
            "check the endpoint, the network, and proxies; --timeout waits longer",
        ));
    }
    checks
}

async fn look(named: Option<&str>, context: &Context, checks: &mut Vec<Check>) {
    let wanted = match wanted(named, context) {
        Ok(wanted) => wanted,
        Err(text) => return checks.push(Check::fail("store", text, "see `sailvol --help`, Volumes")),
    };
    let mut store = match open_store(&wanted.store).await {
        Ok(store) => store,
        Err(failure) => return checks.push(of_failure("store", &failure)),
    };
    match credentials_source(&wanted.store).await {
        Ok(None) => {}
        Ok(Some(source)) => checks.push(Check::ok("credentials", format!("found ({source})"))),
        Err(error) => return checks.push(of_failure("credentials", &error.into())),
    }
    if let Some(url) = &wanted.volume {
        let opened = Volume::open(store.clone(), Clock::system(), &VolumeRef::parse(&url.name)).await;
        match (opened, &wanted.as_store) {
            (Ok(opened), _) => checks.push(match opened.access() {
                Access::ReadOnly(features) => Check::warn(
                    "volume",
                    format!("{url} can only be read: it uses {}", features.join(", ")),
                    "use a newer sailvol",
                ),
                _ => Check::ok("volume", format!("{url}, record {}", opened.head.seq())),
            }),
            (Err(VolumeError::NotFound { .. } | VolumeError::BadName { .. }), Some(other)) => {
                // The URL of a store looks the same; one that holds volumes is one.
                match open_store(other).await {
                    Ok(found) if is_store(&*found).await => store = found,
                    _ => checks.push(not_found(url)),
                }
            }
            (Err(VolumeError::NotFound { .. }), None) => checks.push(not_found(url)),
            (Err(error), _) => return checks.push(of_failure("volume", &error.into())),
        }
    }
    match store.is_established().await {
        Ok(true) => checks.extend(try_store(&*store).await),
        // Trying it would make one below the place of a disk that is not mounted.
        Ok(false) => checks.push(Check::warn(
            "store",
            format!(
                "{}: there is no store yet, or its disk is not mounted",
                store.describe()
            ),
            "`sailvol volume create` makes the store with its first volume",
        )),
        Err(error) => checks.push(of_failure("store", &error.into())),
    }
}

fn not_found(url: &VolumeUrl) -> Check {
    Check::warn(
        "volume",
        format!("there is no volume {url}"),
        // A shell takes the & of a URL for its own.
        format!("sailvol volume create '{url}'"),
    )
}

fn wanted(named: Option<&str>, context: &Context) -> Result<Wanted, String> {
    let Some(text) = named else {
        let store = default_store(&context.environment).map_err(|e| e.to_string())?;
        return Ok(Wanted {
            store,
            volume: None,
            as_store: None,
        });
    };
    if let Some(volume) = mounted(text, context) {
        return Ok(Wanted {
            store: volume.store.clone(),
            volume: Some(volume),
            as_store: None,
        });
    }
    let as_store = StoreUrl::is_url(text)
        .then(|| StoreUrl::parse(text).ok())
        .flatten();
    match (parse_volume(text, &context.environment), as_store) {
        (Ok(volume), as_store) => Ok(Wanted {
            store: volume.store.clone(),
            volume: Some(volume),
            as_store,
        }),
        (Err(_), Some(store)) => Ok(Wanted {
            store,
            volume: None,
            as_store: None,
        }),
        (Err(error), None) => Err(error.to_string()),
    }
}

/// The volume of the mount that is at this directory.
fn mounted(text: &str, context: &Context) -> Option<VolumeUrl> {
    let dir = Path::new(text).canonicalize().ok()?;
    let record = context
        .find_mount(Some(&dir))
        .ok()
        .filter(|record| record.dir == dir)?;
    let store = StoreUrl::parse(&record.store).ok()?;
    VolumeUrl::in_store(store, &record.volume).ok()
}

async fn is_store(store: &dyn ObjectStore) -> bool {
    store
        .list(NAMES_PREFIX, None, 1)
        .await
        .is_ok_and(|page| !page.objects.is_empty())
}

async fn try_store(store: &dyn ObjectStore) -> Vec<Check> {
    let shown = store.describe();
    let report = match probe(store).await {
        Ok(report) => report,
        Err(error) => return vec![of_failure("store", &error.into())],
    };
    let mut checks = vec![Check::ok("store", format!("{shown} can be read and written"))];
    for problem in report.problems() {
        checks.push(Check::fail(
            "store's promises",
            problem,
            "use a store (or a newer version of it) that honours `If-None-Match: *` on PUT and lists in key order",
        ));
    }
    if report.is_fit() {
        checks.push(Check::ok("store's promises", report.to_string()));
    }
    checks.extend(report.clock_ahead_s.map(clock));
    checks
}

fn clock(ahead: i64) -> Check {
    let name = "clock";
    let way = if ahead > 0 { "behind" } else { "ahead of" };
    let fix = "set this machine's clock by NTP (chronyd, systemd-timesyncd)";
    match ahead.unsigned_abs() {
        0..=1 => Check::ok(name, "agrees with the store's"),
        off @ ..CLOCK_WARN_S => Check::ok(name, format!("{off} s {way} the store's")),
        off @ ..CLOCK_FAIL_S => Check::warn(name, format!("{off} s {way} the store's"), fix),
        off => Check::fail(name, format!("{off} s {way} the store's"), fix),
    }
}

fn of_failure(name: &'static str, failure: &Failure) -> Check {
    let fix = failure.hint.clone().unwrap_or_else(|| {
        let text = match failure.kind {
            FailureKind::NoAccess => {
                "check the credentials and what they may do: list, get, put and delete objects"
            }
            FailureKind::StoreUnreachable => "check the endpoint, the network, and proxies",
            _ => "check the URL: bucket, prefix and endpoint",
        };
        text.to_owned()
    });
    Check::fail(name, failure.message.clone(), fix)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::doctor::Status;

    #[test]
    fn clocks_are_judged_by_how_far_they_are_off() {
        for (ahead, status) in [
            (0, Status::Ok),
            (-20, Status::Ok),
            (40, Status::Warn),
            (-299, Status::Warn),
            (300, Status::Fail),
        ] {
            assert_eq!(clock(ahead).status, status, "{ahead}");
        }
        assert!(clock(100).detail.contains("behind") && clock(-100).detail.contains("ahead of"));
    }
}
