//! One run: time, requests, bytes, CPU time and peak memory of who serves.

use std::collections::BTreeMap;
use std::time::Instant;

use anyhow::Result;

use super::place::Bench;
use crate::s3d::Verb;

/// What `/proc` counts in: 100 a second on every architecture that Linux gives to users (USER_HZ).
const TICKS_PER_S: f64 = 100.0;

/// What one run cost.
#[derive(Clone, Debug, Default)]
pub(super) struct Sample {
    pub seconds: f64,
    /// Requests at the store.
    pub requests: BTreeMap<Verb, u64>,
    /// Bytes that the store received and sent.
    pub up: u64,
    pub down: u64,
    /// Of the daemons, and of commands that ended meanwhile.
    pub cpu_seconds: f64,
    /// Largest resident size of the daemons meanwhile, MiB.
    pub rss_mib: f64,
}

impl Sample {
    pub fn requests(&self, verbs: &[Verb]) -> u64 {
        verbs.iter().filter_map(|verb| self.requests.get(verb)).sum()
    }

    pub fn gets(&self) -> u64 {
        self.requests(&[Verb::Get])
    }

    pub fn puts(&self) -> u64 {
        self.requests(&[Verb::Put, Verb::PutIf])
    }

    pub fn all(&self) -> u64 {
        self.requests.values().sum()
    }
}

/// Measures `work`, which `daemons` serve. Work may give the seconds itself, when it does more than what counts.
pub(super) fn measure(
    bench: &Bench,
    daemons: &[u32],
    work: impl FnOnce() -> Result<Option<f64>>,
) -> Result<Sample> {
    bench.settle()?;
    let server = &bench.server;
    server.reset();
    for pid in daemons {
        // From here on the peak counts anew (proc(5)); without leave the peak is that since its start.
        let _ = std::fs::write(format!("/proc/{pid}/clear_refs"), "5");
    }
    let before = cpu_seconds(daemons);
    let begun = Instant::now();
    let told = work()?;
    let seconds = told.unwrap_or_else(|| begun.elapsed().as_secs_f64());
    let cpu_seconds = cpu_seconds(daemons) - before;
    let counters = server.counters();
    Ok(Sample {
        seconds,
        requests: counters
            .verbs
            .iter()
            .map(|(verb, c)| (*verb, c.requests))
            .collect(),
        up: counters.bytes_in(),
        down: counters.bytes_out(),
        cpu_seconds,
        rss_mib: daemons.iter().map(|pid| status_mib(*pid, "VmHWM:")).sum(),
    })
}

/// Processor time of processes, and of commands of ours that have ended.
fn cpu_seconds(daemons: &[u32]) -> f64 {
    let ticks = |path: String, fields: [usize; 2]| {
        let stat = std::fs::read_to_string(path).unwrap_or_default();
        let rest = stat.rsplit(") ").next().unwrap_or("").to_owned();
        let fields = fields.map(|at| rest.split(' ').nth(at).and_then(|t| t.parse::<u64>().ok()));
        fields.iter().flatten().sum::<u64>()
    };
    // proc(5): utime and stime are fields 14 and 15, cutime and cstime the next; the state is field 3.
    let of_daemons: u64 = daemons
        .iter()
        .map(|pid| ticks(format!("/proc/{pid}/stat"), [11, 12]))
        .sum();
    let of_children = ticks("/proc/self/stat".to_owned(), [13, 14]);
    (of_daemons + of_children) as f64 / TICKS_PER_S
}

/// A line of `/proc/PID/status`, MiB.
pub(super) fn status_mib(pid: u32, line: &str) -> f64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let kib = status
        .lines()
        .find_map(|l| l.strip_prefix(line))
        .and_then(|rest| rest.split_whitespace().next())
        .and_then(|n| n.parse::<f64>().ok());
    kib.unwrap_or(0.0) / 1024.0
}

/// Runs of ours and of the control, in turns.
#[derive(Clone, Debug, Default)]
pub(super) struct Pairs {
    pub ours: Vec<Sample>,
    pub control: Vec<Sample>,
}

impl Pairs {
    pub fn run(
        pairs: usize,
        mut ours: impl FnMut() -> Result<Sample>,
        mut control: impl FnMut() -> Result<Sample>,
    ) -> Result<Pairs> {
        let mut both = Pairs::default();
        for pair in 0..pairs.max(1) {
            if pair % 2 == 0 {
                both.ours.push(ours()?);
                both.control.push(control()?);
            } else {
                both.control.push(control()?);
                both.ours.push(ours()?);
            }
        }
        Ok(both)
    }

    /// How many times as fast as the control each run was.
    pub fn speeds(&self) -> Vec<f64> {
        let both = self.ours.iter().zip(&self.control);
        both.map(|(ours, control)| control.seconds / ours.seconds.max(1e-9))
            .collect()
    }
}

pub(super) fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    match sorted.len() {
        0 => f64::NAN,
        n if n % 2 == 1 => sorted[n / 2],
        n => f64::midpoint(sorted[n / 2 - 1], sorted[n / 2]),
    }
}

/// The sample of median time.
pub(super) fn middle(samples: &[Sample]) -> Sample {
    let mut sorted: Vec<&Sample> = samples.iter().collect();
    sorted.sort_by(|a, b| a.seconds.total_cmp(&b.seconds));
    sorted
        .get(sorted.len().saturating_sub(1) / 2)
        .map_or_else(Sample::default, |s| (*s).clone())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pairs_alternate_and_the_median_is_that_of_their_ratios() {
        let order = std::cell::RefCell::new(String::new());
        let timed = |who: char, seconds: f64| {
            order.borrow_mut().push(who);
            Ok(Sample {
                seconds,
                ..Sample::default()
            })
        };
        let mut ours = [1.0, 2.0, 4.0].into_iter();
        let pairs = Pairs::run(3, || timed('o', ours.next().unwrap()), || timed('c', 8.0)).unwrap();
        assert_eq!(*order.borrow(), "occooc");
        assert_eq!(pairs.speeds(), [8.0, 4.0, 2.0]);
        assert_eq!(median(&pairs.speeds()), 4.0);
        assert_eq!(median(&[1.0, 4.0]), 2.5);
        assert_eq!(middle(&pairs.ours).seconds, 2.0);
    }
}
