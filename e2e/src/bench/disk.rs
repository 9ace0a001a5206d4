//! What the disk itself does, without any server: the measure for figures of a server that promises durability.

use std::fs::{self, File};
use std::io::Write;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

/// What a disk did.
#[derive(Debug, Clone, serde::Serialize)]
pub struct DiskSample {
    /// What was done, for people.
    pub what: String,
    /// How often in a second, all threads together.
    pub rate: f64,
    /// Megabytes (10^6) in a second.
    pub megabytes_per_second: f64,
}

/// Writes files of 1 MiB and 1 KiB with fsync of file and folder, and small records to one file.
///
/// # Errors
/// If something cannot be written.
pub fn measure(
    directory: &Path,
    large_threads: usize,
    small_threads: usize,
    window: Duration,
) -> Result<Vec<DiskSample>> {
    let directory = directory.join("raw-disk");
    let samples = vec![
        files(&directory, large_threads, 1 << 20, window)?,
        files(&directory, small_threads, 1 << 10, window)?,
        records(&directory, window)?,
    ];
    fs::remove_dir_all(&directory).context("cannot remove the files of the disk test")?;
    Ok(samples)
}

fn files(directory: &Path, threads: usize, size: usize, window: Duration) -> Result<DiskSample> {
    let end = Instant::now() + window;
    let workers: Vec<_> = (0..threads)
        .map(|number| {
            let folder = directory.join(format!("{size}-{number}"));
            thread::spawn(move || -> Result<u64> {
                fs::create_dir_all(&folder)?;
                let (data, handle) = (vec![0x5a; size], File::open(&folder)?);
                let mut count = 0;
                while Instant::now() < end {
                    let mut file = File::create_new(folder.join(count.to_string()))?;
                    file.write_all(&data)?;
                    file.sync_data()?;
                    handle.sync_all()?;
                    count += 1;
                }
                Ok(count)
            })
        })
        .collect();
    let mut count = 0;
    for worker in workers {
        count += worker.join().expect("a disk thread does not panic")?;
    }
    let what = format!("{threads} threads: files of {} KiB, fsync of file and folder", size / 1024);
    Ok(sample(what, count, size, window))
}

fn records(directory: &Path, window: Duration) -> Result<DiskSample> {
    let (size, end) = (4096, Instant::now() + window);
    let mut file = File::create(directory.join("records"))?;
    let (data, mut count) = (vec![0x5a; size], 0);
    while Instant::now() < end {
        file.write_all(&data)?;
        file.sync_data()?;
        count += 1;
    }
    Ok(sample("1 thread: 4 KiB appended to a file, fdatasync".to_owned(), count, size, window))
}

fn sample(what: String, count: u64, size: usize, window: Duration) -> DiskSample {
    let rate = count as f64 / window.as_secs_f64();
    DiskSample { what, rate, megabytes_per_second: rate * size as f64 / 1e6 }
}
