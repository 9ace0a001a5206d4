//! The figures as a table and as JSON.

use std::fmt::Write as _;

use serde::Serialize;

use super::disk::DiskSample;
use super::load::Sample;
use super::memory::MemorySample;
use super::{MANY_WORKERS, Row};

/// What others may use of the machine before the figures count as disturbed.
const QUIET_PROCESSORS: f64 = 0.1;

/// Everything that was measured.
#[derive(Debug, Serialize)]
pub struct Report {
    rounds: usize,
    round_seconds: f64,
    processors: usize,
    /// One entry for each row of the table.
    pub rows: Vec<RowResult>,
    /// What the disk does alone.
    pub disk: Vec<DiskSample>,
    /// What our server holds.
    pub memory: Option<MemorySample>,
}

/// Figures of one operation on one server.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Figures {
    operations_per_second: f64,
    megabytes_per_second: f64,
    cpu_ms_per_operation: f64,
    generator_cpu_ms_per_operation: f64,
    foreign_processors: f64,
    p50_ms: f64,
    p99_ms: f64,
}

/// One row of the table.
#[derive(Debug, Serialize)]
pub struct RowResult {
    name: String,
    workers: usize,
    python: Option<Figures>,
    ours: Option<Figures>,
    asked_ratio: f64,
    asked_cpu_ratio: f64,
    /// Ours with many workers.
    latencies: Option<Figures>,
}

impl RowResult {
    /// Takes what was measured; a sample without operations was not.
    pub fn new(row: &Row, workers: usize, python: &Sample, ours: &Sample, latencies: &Sample) -> Self {
        Self {
            name: row.name.to_owned(),
            workers,
            python: figures(python),
            ours: figures(ours),
            asked_ratio: row.asked_ratio,
            asked_cpu_ratio: row.asked_cpu_ratio,
            latencies: figures(latencies),
        }
    }

    /// How many times as many operations as Python.
    fn ratio(&self) -> Option<f64> {
        Some(self.ours?.operations_per_second / self.python?.operations_per_second)
    }

    /// Processors that others kept busy in the worst of the measurements of this row.
    fn foreign_processors(&self) -> f64 {
        let all = [self.python, self.ours, self.latencies];
        all.iter().flatten().map(|figures| figures.foreign_processors).fold(0.0, f64::max)
    }

    /// How many times less CPU per operation than Python.
    fn cpu_ratio(&self) -> Option<f64> {
        Some(self.python?.cpu_ms_per_operation / self.ours?.cpu_ms_per_operation)
    }
}

fn figures(sample: &Sample) -> Option<Figures> {
    (sample.operations > 0).then(|| Figures {
        operations_per_second: sample.rate(),
        megabytes_per_second: sample.megabytes_per_second(),
        cpu_ms_per_operation: sample.cpu_ms(),
        generator_cpu_ms_per_operation: sample.generator_cpu_ms(),
        foreign_processors: sample.foreign_processors(),
        p50_ms: sample.quantile_ms(0.5),
        p99_ms: sample.quantile_ms(0.99),
    })
}

impl Report {
    /// A report without rows.
    pub fn new(rounds: usize, round_seconds: f64) -> Self {
        let processors = std::thread::available_parallelism().map_or(1, usize::from);
        Self { rounds, round_seconds, processors, rows: Vec::new(), disk: Vec::new(), memory: None }
    }

    /// The table, for people.
    pub fn to_text(&self) -> String {
        let mut text = String::new();
        let _ = writeln!(
            text,
            "{} processors, shared with the load generator; {} rounds of {} s each; ours is durable, Python never calls fsync",
            self.processors, self.rounds, self.round_seconds
        );
        if !self.rows.is_empty() {
            self.write_rows(&mut text);
        }
        for sample in &self.disk {
            let DiskSample { what, rate, megabytes_per_second } = sample;
            let _ = writeln!(text, "raw disk, {what}: {rate:.0}/s, {megabytes_per_second:.1} MB/s");
        }
        if let Some(memory) = &self.memory {
            let _ = write!(text, "{}", memory.to_text());
        }
        text
    }

    fn write_rows(&self, text: &mut String) {
        let mut cells = vec![
            ["operation", "workers", "python ops/s", "ours ops/s", "ratio", "asked", "python CPU ms", "ours CPU ms"]
                .into_iter()
                .chain(["CPU ratio", "asked", "p50 ms", "p99 ms", "p99/p50", "asked", "others' CPUs", ""])
                .map(str::to_owned)
                .collect::<Vec<_>>(),
        ];
        cells.extend(self.rows.iter().map(cells_of));
        let widths: Vec<usize> = (0..cells[0].len())
            .map(|column| cells.iter().map(|row| row[column].chars().count()).max().unwrap_or(0))
            .collect();
        for row in &cells {
            let mut line = format!("{:<width$}", row[0], width = widths[0]);
            for (cell, width) in row.iter().zip(&widths).skip(1) {
                let _ = write!(line, " | {cell:>width$}");
            }
            let _ = writeln!(text, "{}", line.trim_end_matches([' ', '|']));
        }
        let _ = writeln!(
            text,
            "latencies are ours with {MANY_WORKERS} workers; CPU is the server's, all threads, per operation"
        );
        // Contention hits a server of one thread harder than one of several, so it shifts even the ratios.
        if self.rows.iter().any(|row| row.foreign_processors() > QUIET_PROCESSORS) {
            let _ = writeln!(
                text,
                "DISTURBED: other processes used more than {QUIET_PROCESSORS} processors in some rows; \
                 their figures and ratios are not to be relied on, measure again on a quiet machine"
            );
        }
    }
}

fn cells_of(row: &RowResult) -> Vec<String> {
    let or_dash = |value: Option<f64>, digits: usize| value.map_or("-".to_owned(), |value| format!("{value:.digits$}"));
    let (ratio, cpu_ratio) = (row.ratio(), row.cpu_ratio());
    let tail = row.latencies.map(|latencies| latencies.p99_ms / latencies.p50_ms);
    let missed = ratio.is_some_and(|ratio| ratio < row.asked_ratio)
        || cpu_ratio.is_some_and(|ratio| ratio < row.asked_cpu_ratio)
        || tail.is_some_and(|tail| tail > 3.0);
    vec![
        row.name.clone(),
        row.workers.to_string(),
        or_dash(row.python.map(|figures| figures.operations_per_second), 0),
        or_dash(row.ours.map(|figures| figures.operations_per_second), 0),
        or_dash(ratio, 2),
        format!("≥{}", row.asked_ratio),
        or_dash(row.python.map(|figures| figures.cpu_ms_per_operation), 3),
        or_dash(row.ours.map(|figures| figures.cpu_ms_per_operation), 3),
        or_dash(cpu_ratio, 1),
        format!("≥{}", row.asked_cpu_ratio),
        or_dash(row.latencies.map(|figures| figures.p50_ms), 2),
        or_dash(row.latencies.map(|figures| figures.p99_ms), 2),
        or_dash(tail, 2),
        "≤3".to_owned(),
        format!("{:.2}", row.foreign_processors()),
        if missed { "missed".to_owned() } else { String::new() },
    ]
}
