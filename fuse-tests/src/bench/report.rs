//! Rows of the table, with their targets beside what was measured.

use std::io::Write;
use std::path::Path;

use anyhow::Result;
use parking_lot::Mutex;
use serde::Serialize;

use super::measure::{Pairs, Sample, median, middle};

/// One line: a workload on a network against a control.
#[derive(Clone, Debug, Default, Serialize)]
pub(super) struct Row {
    workload: String,
    net: String,
    control: String,
    /// Medians.
    ours_s: f64,
    control_s: Option<f64>,
    /// How many times as fast as the control: median, least, most.
    speed: Option<[f64; 3]>,
    requests: String,
    down_mib: f64,
    up_mib: f64,
    cpu_s: f64,
    rss_mib: f64,
    control_cpu_s: Option<f64>,
    /// What was to be reached, whether it was, and what was measured.
    targets: Vec<(String, bool, String)>,
}

impl Row {
    /// Of runs in pairs.
    pub fn of(workload: impl Into<String>, net: &str, control: &str, pairs: &Pairs) -> Row {
        let speeds = pairs.speeds();
        let least = speeds.iter().copied().fold(f64::INFINITY, f64::min);
        let most = speeds.iter().copied().fold(0.0, f64::max);
        let control_run = middle(&pairs.control);
        Row {
            control: control.to_owned(),
            control_s: Some(control_run.seconds),
            control_cpu_s: Some(control_run.cpu_seconds),
            speed: Some([median(&speeds), least, most]),
            ..Row::alone(workload, net, &pairs.ours)
        }
    }

    /// Of runs without a control.
    pub fn alone(workload: impl Into<String>, net: &str, runs: &[Sample]) -> Row {
        let ours = middle(runs);
        let name = |verb| format!("{verb:?}").to_lowercase();
        let requests = ours
            .requests
            .iter()
            .map(|(verb, n)| format!("{n} {}", name(*verb)));
        Row {
            workload: workload.into(),
            net: net.to_owned(),
            ours_s: ours.seconds,
            requests: requests.collect::<Vec<_>>().join(" "),
            down_mib: mib(ours.down),
            up_mib: mib(ours.up),
            cpu_s: ours.cpu_seconds,
            rss_mib: ours.rss_mib,
            ..Row::default()
        }
    }

    /// "At least `factor` times as fast as the control."
    pub fn at_least(mut self, factor: f64) -> Row {
        if let Some([median, ..]) = self.speed {
            let said = (
                format!("speed >= {factor}"),
                median >= factor,
                format!("{median:.2}"),
            );
            self.targets.push(said);
        }
        self
    }

    /// "At most so much", of anything.
    pub fn at_most(mut self, what: &str, most: f64, measured: f64) -> Row {
        let said = (
            format!("{what} <= {}", short(most)),
            measured <= most,
            short(measured),
        );
        self.targets.push(said);
        self
    }

    /// "True."
    pub fn holds(mut self, what: &str, is: bool, measured: impl Into<String>) -> Row {
        self.targets.push((what.to_owned(), is, measured.into()));
        self
    }

    fn line(&self) -> String {
        let speed = self.speed.map_or_else(String::new, |[median, least, most]| {
            format!("{median:.2} ({least:.2}-{most:.2})")
        });
        let seconds = |s: Option<f64>| s.map_or_else(String::new, |s| format!("{s:.3}"));
        let targets: Vec<String> = self
            .targets
            .iter()
            .map(|(what, met, got)| format!("{} {what}: {got}", if *met { "ok" } else { "NOT" }))
            .collect();
        [
            self.workload.clone(),
            self.net.clone(),
            self.control.clone(),
            speed,
            seconds(Some(self.ours_s)),
            seconds(self.control_s),
            self.requests.clone(),
            format!("{:.1}/{:.1}", self.down_mib, self.up_mib),
            format!("{:.2}", self.cpu_s),
            self.control_cpu_s.map_or_else(String::new, |s| format!("{s:.2}")),
            format!("{:.0}", self.rss_mib),
            targets.join("; "),
        ]
        .join(" | ")
    }
}

/// All rows until now; each is printed as soon as it is there.
#[derive(Debug, Default)]
pub(super) struct Report {
    rows: Mutex<Vec<Row>>,
    failures: Mutex<Vec<String>>,
    skipped: Mutex<Vec<String>>,
}

impl Report {
    pub fn row(&self, row: Row) {
        let mut rows = self.rows.lock();
        if rows.is_empty() {
            println!(
                "| workload | net | control | times as fast (least-most) | s | control s | requests | MiB down/up | CPU s | control CPU s | peak MiB | targets |"
            );
            println!("|---|---|---|---|---|---|---|---|---|---|---|---|");
        }
        println!("| {} |", row.line());
        // Whoever reads through a pipe sees it now, not at the end.
        let _ = std::io::stdout().flush();
        rows.push(row);
    }

    pub fn failed(&self, workload: &str, why: &str) {
        eprintln!("# {workload}: FAILED: {why}");
        self.failures.lock().push(format!("{workload}: {why}"));
    }

    pub fn skipped(&self, workload: &str, why: &str) {
        eprintln!("# {workload}: SKIPPED: {why}");
        self.skipped.lock().push(format!("{workload}: {why}"));
    }

    /// Says what was not reached and what did not run.
    pub fn finish(&self, json: Option<&Path>) -> Result<()> {
        if let Some(path) = json {
            let mut text = String::new();
            for row in self.rows.lock().iter() {
                text.push_str(&serde_json::to_string(row)?);
                text.push('\n');
            }
            std::fs::write(path, text)?;
        }
        let rows = self.rows.lock();
        let targets = rows.iter().flat_map(|row| row.targets.iter());
        let (met, all) = targets.fold((0, 0), |(met, all), t| (met + usize::from(t.1), all + 1));
        println!("\n{met} of {all} targets reached");
        for (title, lines) in [("skipped", &self.skipped), ("failed", &self.failures)] {
            lines.lock().iter().for_each(|line| println!("{title}: {line}"));
        }
        let failures = self.failures.lock().len();
        anyhow::ensure!(failures == 0, "{failures} workloads failed");
        Ok(())
    }
}

pub(super) fn mib(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}

fn short(number: f64) -> String {
    if number.fract() == 0.0 || number.abs() >= 1000.0 {
        format!("{number:.0}")
    } else {
        format!("{number:.2}")
    }
}
