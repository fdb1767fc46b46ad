//! Store trouble: none at all for a while, a store that throttles, keys that expire.
//!
//! 1. Without a store cached reads and local writes go on; an uncached read waits and ends with EIO at
//!    `--remote-timeout`; one that began late enough, and a commit that was asked to wait, come to their end within 15 s
//!    of the store's return; a commit that was not asked to wait ends with a clear error.
//! 2. With 30 % of all requests answered by 503 everything is done, with at most twice the requests.
//! 3. New keys are picked up without a new mount, expired ones too; wrong ones are named.

use std::ffi::OsStr;
use std::fs;
use std::process::Output;
use std::time::{Duration, Instant};

use super::random::Random;
use super::{Plan, Tally};
use crate::pod::{Cluster, Pod, wait_until};
use crate::s3d::{Action, FaultRule, S3dOptions};

/// The first success comes within this after the store's return.
const RETURN: Duration = Duration::from_secs(15);
/// Time beyond a limit that an answer may take.
const GRACE: Duration = Duration::from_secs(2);
/// How often the work under a throttling store is done. About 45 requests each, of which every one is 1.43 at 30 %, a create
/// (whose outcome must be looked up) 1.9: 1.55 in the mean. One sample is beyond 2 once in 300, four never in practice.
const SAMPLES: u64 = 4;
/// Length of the large files: a chunk of its own each.
const LARGE_BYTES: usize = 9 << 20;

/// How long the store is away, and how patient the mount is.
#[derive(Clone, Copy, Debug)]
pub struct Outage {
    /// How long.
    pub length: Duration,
    /// `--remote-timeout`; shorter than the outage.
    pub remote_timeout: Duration,
    /// Multiplies the allowed times: 1 on an idle machine.
    pub slack: u32,
}

/// Runs the three parts; the outage in each of its kinds.
///
/// # Panics
/// Where a promise is broken.
pub fn run(plan: &Plan, outage: Outage) -> Tally {
    let mut tally = Tally::default();
    let refused = Action::Reject {
        status: 500,
        code: None,
        retry_after_s: None,
    };
    let faults = [Action::Stall, Action::DropBefore, refused];
    tally.add("outages", faults.len() as u64);
    // Beside each other: they mostly wait.
    std::thread::scope(|scope| {
        for fault in faults {
            scope.spawn(move || {
                let (name, began) = (format!("{fault:?}"), Instant::now());
                without_store(plan, fault, outage);
                plan.say(format_args!(
                    "outage, {name}: {:.0} s",
                    began.elapsed().as_secs_f64()
                ));
            });
        }
    });
    let (plain, throttled) = (requests_of_samples(plan, 0.0), requests_of_samples(plan, 0.3));
    plan.say(format_args!("{plain} requests, {throttled} with 30 % of 503"));
    assert!(
        throttled <= 2 * plain,
        "{plain} requests became {throttled} with 30 % of 503"
    );
    tally.add("requests", plain);
    tally.add("requests with 30 % of 503", throttled);
    keys(plan);
    tally.add("changes of keys", 3);
    tally
}

fn commit(pod: &Pod, timeout: &str) -> Output {
    let dir = pod.mount_dir();
    pod.run([
        OsStr::new("commit"),
        dir.as_os_str(),
        OsStr::new("--timeout"),
        OsStr::new(timeout),
    ])
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn timed<T>(action: impl FnOnce() -> T) -> (T, Duration) {
    let began = Instant::now();
    let value = action();
    (value, began.elapsed())
}

fn without_store(plan: &Plan, fault: Action, outage: Outage) {
    let cluster = Cluster::start();
    let writer = cluster.pod();
    writer.mount("data", &["--create"]);
    let mut random = Random::new(plan.seed);
    let large: Vec<Vec<u8>> = (0..4).map(|_| random.bytes(LARGE_BYTES)).collect();
    for (n, bytes) in large.iter().enumerate() {
        fs::write(writer.path(format!("large{n}")), bytes).expect("the mount writes");
    }
    fs::write(writer.path("small"), b"cached").expect("the mount writes");
    writer.commit("files");

    let pod = cluster.pod();
    let timeout = format!("{}s", outage.remote_timeout.as_secs());
    let mut options = vec!["--remote-timeout", timeout.as_str()];
    options.extend(plan.options());
    pod.mount("data", &options);
    assert_eq!(fs::read(pod.path("small")).expect("a read"), b"cached");
    assert!(fs::read(pod.path("large0")).expect("a read") == large[0]);
    fs::read_dir(pod.mount_dir()).expect("a listing").for_each(drop);

    cluster.server.fault(FaultRule::new(fault.clone()));
    let away = Instant::now();
    std::thread::scope(|scope| {
        // Both begin when the store is away already; the reader so late that its patience outlasts the outage, pauses
        // between attempts included.
        let waiting_commit = scope.spawn(|| {
            fs::write(pod.path("during"), b"the outage").expect("writes go on");
            commit(&pod, "30m")
        });
        let late_reader = scope.spawn(|| {
            let patience = outage.remote_timeout / 4;
            std::thread::sleep(outage.length.saturating_sub(patience));
            fs::read(pod.path("large2"))
        });
        let (read, took) = timed(|| fs::read(pod.path("large1")));
        let error = read.expect_err("there is no store to read from");
        assert_eq!(error.raw_os_error(), Some(libc::EIO), "{fault:?}");
        let (least, most) = (
            outage.remote_timeout / 2,
            outage.remote_timeout + GRACE * outage.slack,
        );
        assert!(
            (least..=most).contains(&took),
            "{fault:?}: EIO after {took:?}, not {most:?}"
        );
        let mut rounds = 0;
        while away.elapsed() < outage.length {
            assert!(fs::read(pod.path("large0")).expect("cached reads go on") == large[0]);
            fs::write(pod.path(format!("local{}", rounds % 50)), b"local").expect("writes go on");
            assert_eq!(
                fs::metadata(pod.path("large3")).expect("names are known").len() as usize,
                LARGE_BYTES
            );
            let (_, took) = timed(|| pod.status());
            assert!(
                took < Duration::from_secs(10) * outage.slack,
                "status took {took:?}"
            );
            rounds += 1;
            std::thread::sleep(Duration::from_millis(100));
        }
        cluster.server.clear_faults();
        cluster.server.release();
        let back = Instant::now();
        let limit = RETURN * outage.slack;
        let read = late_reader
            .join()
            .expect("a reader")
            .expect("the store is back in time");
        assert!(read == large[2]);
        assert!(
            back.elapsed() <= limit,
            "{fault:?}: the reader took {:?} more",
            back.elapsed()
        );
        let committed = waiting_commit.join().expect("a commit");
        assert!(committed.status.success(), "{fault:?}: {}", stderr(&committed));
        assert!(
            back.elapsed() <= limit,
            "{fault:?}: the commit took {:?} more",
            back.elapsed()
        );
    });
    impatient_commit(&cluster, &pod, &fault, outage);
    writer.reload(&[]);
    assert_eq!(
        fs::read(writer.path("during")).expect("it was committed"),
        b"the outage"
    );
    assert_eq!(
        fs::read(writer.path("after")).expect("it was committed"),
        b"the outage"
    );
}

/// A commit that was not asked to wait.
fn impatient_commit(cluster: &Cluster, pod: &Pod, fault: &Action, outage: Outage) {
    fs::write(pod.path("after"), b"the outage").expect("writes go on");
    cluster.server.fault(FaultRule::new(fault.clone()));
    let (output, took) = timed(|| commit(pod, "3s"));
    assert!(
        matches!(output.status.code(), Some(5 | 6)),
        "{fault:?}: {output:?}"
    );
    let limit = Duration::from_secs(3) + GRACE * outage.slack;
    assert!(
        took <= limit,
        "{fault:?}: a commit with 3 s of patience took {took:?}"
    );
    assert!(
        stderr(&output).contains("127.0.0.1"),
        "the message names the store: {}",
        stderr(&output)
    );
    cluster.server.clear_faults();
    cluster.server.release();
    pod.commit("back");
}

/// Requests of all samples, each with faults of its own.
fn requests_of_samples(plan: &Plan, throttled: f64) -> u64 {
    std::thread::scope(|scope| {
        // Beside each other: they mostly wait.
        let samples = (plan.seed..plan.seed + SAMPLES)
            .map(|seed| scope.spawn(move || requests_of_work(plan, throttled, seed)));
        let samples: Vec<_> = samples.collect();
        samples
            .into_iter()
            .map(|sample| sample.join().expect("its own message"))
            .sum()
    })
}

/// Requests that a fixed piece of work costs with a part of them throttled.
fn requests_of_work(plan: &Plan, throttled: f64, seed: u64) -> u64 {
    let cluster = Cluster::start_with(S3dOptions {
        seed,
        ..S3dOptions::default()
    });
    let (writer, reader) = (cluster.pod(), cluster.pod());
    writer.mount("data", &["--create"]);
    reader.mount("data", &plan.options());
    let mut random = Random::new(seed);
    let reject = Action::Reject {
        status: 503,
        code: None,
        retry_after_s: None,
    };
    cluster.server.fault(FaultRule::new(reject).chance(throttled));
    cluster.server.reset();
    for commit in 0..3 {
        for n in 0..40 {
            let len = random.range(100..60_000) as usize;
            fs::write(writer.path(format!("f{commit}-{n}")), random.bytes(len)).expect("the mount writes");
        }
        fs::write(writer.path(format!("large{commit}")), random.bytes(20 << 20)).expect("the mount writes");
        writer.commit("work");
        reader.reload(&[]);
        for entry in fs::read_dir(reader.mount_dir()).expect("a listing") {
            fs::read(entry.expect("a listing").path()).expect("a read");
        }
    }
    cluster.server.counters().requests()
}

/// Keys that change under a mount.
fn keys(plan: &Plan) {
    let cluster = Cluster::start();
    let pod = cluster.pod();
    pod.mount("data", &["--create"]);
    let mut random = Random::new(plan.seed);
    let mut change = |pod: &Pod| fs::write(pod.path("f"), random.bytes(100)).expect("the mount writes");
    // Rotated: the old ones are refused from one moment on, the new ones are in the file.
    cluster
        .rotate_keys("second", "second-secret")
        .expect("a file for the keys");
    change(&pod);
    pod.commit("with the second keys");
    // Wrong ones: named, nothing lost; right ones again: no new mount.
    cluster
        .write_keys("second", "not-the-secret")
        .expect("a file for the keys");
    cluster.server.set(|settings| {
        settings.keys.insert("second".into(), "third-secret".into());
    });
    change(&pod);
    let output = commit(&pod, "5s");
    assert_eq!(output.status.code(), Some(4), "{output:?}");
    let said = stderr(&output);
    assert!(said.contains("secret key"), "{said}");
    assert!(!said.contains("not-the-secret"), "{said}");
    cluster
        .write_keys("second", "third-secret")
        .expect("a file for the keys");
    pod.commit("with the right keys");
    // Expired: said so, and over as soon as there are others.
    let expired = Action::Reject {
        status: 400,
        code: Some("ExpiredToken".into()),
        retry_after_s: None,
    };
    cluster.server.fault(FaultRule::new(expired));
    change(&pod);
    let output = commit(&pod, "5s");
    assert_eq!(output.status.code(), Some(4), "{output:?}");
    assert!(stderr(&output).contains("expired"), "{}", stderr(&output));
    cluster.server.clear_faults();
    cluster
        .rotate_keys("fourth", "fourth-secret")
        .expect("a file for the keys");
    pod.commit("with the fourth keys");
    wait_until("the mount is clean", || pod.status()["dirty"] == 0);
}
