//! The load generator: many workers, each with its own connection, each sending its next request when the last was
//! answered.
//!
//! Workers are tasks on few threads, because the generator shares the machine with the server. Counted is what ends
//! within a window that begins after a warm-up; the server's CPU time is read at both ends of the window.

use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use tokio::sync::Barrier;

use super::process_stat;
use crate::gbs::{Connection, Nurl, Response, client_config};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(120);

/// What an answer means for the operation it belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Progress {
    /// More requests belong to this operation.
    Continue,
    /// It was preparation, not to be counted; the operation begins with the next request.
    Prepared,
    /// The operation is done and has moved this many bytes.
    Done(u64),
}

/// One worker: says what to send and judges what comes back.
pub trait Worker: Send {
    /// Head and body of the next request.
    fn request(&mut self) -> (&[u8], &[u8]);

    /// Takes the answer.
    ///
    /// # Errors
    /// If it is not the one hoped for; the run ends then.
    fn answer(&mut self, response: &Response) -> Result<Progress>;
}

/// How to load a server.
#[derive(Debug, Clone, Copy)]
pub struct Shape {
    /// Threads of the generator.
    pub threads: usize,
    /// Time before the window.
    pub warm_up: Duration,
    /// The window.
    pub window: Duration,
}

/// What one run has shown.
#[derive(Debug, Clone, Default)]
pub struct Sample {
    /// Operations that ended in the window.
    pub operations: u64,
    /// Bytes they moved.
    pub bytes: u64,
    /// Length of the window.
    pub elapsed: Duration,
    /// CPU time of the server in the window.
    pub cpu: Duration,
    /// CPU time of the load generator in the window.
    pub generator_cpu: Duration,
    /// CPU time of everybody else on the machine in the window: what spoils the figures.
    pub foreign_cpu: Duration,
    /// How long each of the operations took, in microseconds.
    pub latencies: Vec<u32>,
}

impl Sample {
    /// Adds another round of the same.
    pub fn add(&mut self, other: Sample) {
        self.operations += other.operations;
        self.bytes += other.bytes;
        self.elapsed += other.elapsed;
        self.cpu += other.cpu;
        self.generator_cpu += other.generator_cpu;
        self.foreign_cpu += other.foreign_cpu;
        self.latencies.extend(other.latencies);
    }

    /// Operations in a second.
    pub fn rate(&self) -> f64 {
        self.operations as f64 / self.elapsed.as_secs_f64()
    }

    /// Megabytes (10^6) in a second.
    pub fn megabytes_per_second(&self) -> f64 {
        self.bytes as f64 / 1e6 / self.elapsed.as_secs_f64()
    }

    /// CPU time of the server for an operation, in milliseconds.
    pub fn cpu_ms(&self) -> f64 {
        self.cpu.as_secs_f64() * 1e3 / self.operations.max(1) as f64
    }

    /// CPU time of the load generator for an operation, in milliseconds.
    pub fn generator_cpu_ms(&self) -> f64 {
        self.generator_cpu.as_secs_f64() * 1e3 / self.operations.max(1) as f64
    }

    /// Processors that others kept busy.
    pub fn foreign_processors(&self) -> f64 {
        self.foreign_cpu.as_secs_f64() / self.elapsed.as_secs_f64()
    }

    /// The latency that this part (0 to 1) of the operations did not exceed, in milliseconds.
    pub fn quantile_ms(&self, part: f64) -> f64 {
        let mut sorted = self.latencies.clone();
        sorted.sort_unstable();
        let at = ((sorted.len() as f64 * part).ceil() as usize).clamp(1, sorted.len().max(1)) - 1;
        sorted.get(at).map_or(f64::NAN, |&micros| f64::from(micros) / 1e3)
    }
}

/// The window in which operations count.
#[derive(Debug, Clone, Copy)]
pub struct Window {
    start: Instant,
    end: Instant,
}

/// The window, once all are connected.
pub type Announced = tokio::sync::watch::Receiver<Option<Window>>;

impl Window {
    /// Whether operations may still begin.
    pub fn is_open(&self) -> bool {
        Instant::now() < self.end
    }

    /// Counts an operation that began at this time and has just ended.
    pub fn count(&self, sample: &mut Sample, began: Instant, bytes: u64) {
        let now = Instant::now();
        if now >= self.start && now < self.end {
            sample.operations += 1;
            sample.bytes += bytes;
            sample.latencies.push(u32::try_from((now - began).as_micros()).unwrap_or(u32::MAX));
        }
    }
}

/// A process that is loaded, and its address.
#[derive(Debug, Clone)]
pub struct Loaded {
    /// Where it serves.
    pub nurl: Nurl,
    /// Its id.
    pub pid: u32,
}

/// A worker and the place of the process that it talks to.
type Placed = (usize, Box<dyn Worker>);

/// Loads one or more processes with these workers, in turn.
///
/// # Errors
/// If a worker fails or a process ends.
pub fn run(loaded: &[Loaded], workers: Vec<Box<dyn Worker>>, shape: Shape) -> Result<Sample> {
    let places = (0..workers.len()).map(|number| number % loaded.len());
    let nurls: Vec<Nurl> = loaded.iter().map(|one| one.nurl.clone()).collect();
    let pids: Vec<u32> = loaded.iter().map(|one| one.pid).collect();
    let generate = move |share, connected: &_, window| generate(&nurls, share, connected, window);
    measure(&pids, places.zip(workers).collect(), shape, generate)
}

/// Lets threads work, each with its share of the `workers`, and measures what these processes use meanwhile.
///
/// # Errors
/// If a thread fails or a process ends.
pub fn measure<W: Send + 'static>(
    pids: &[u32],
    workers: Vec<W>,
    shape: Shape,
    generate: impl Fn(Vec<W>, &Barrier, Announced) -> Result<Sample> + Clone + Send + 'static,
) -> Result<Sample> {
    let threads = shape.threads.min(workers.len()).max(1);
    let mut shares: Vec<Vec<W>> = (0..threads).map(|_| Vec::new()).collect();
    for (number, worker) in workers.into_iter().enumerate() {
        shares[number % threads].push(worker);
    }
    let cpu_time = || pids.iter().map(|pid| process_stat::cpu_time(*pid)).sum::<Result<Duration>>();
    let connected = Arc::new(Barrier::new(threads + 1));
    let (window_sender, window_receiver) = tokio::sync::watch::channel(None);
    let generators: Vec<_> = shares
        .into_iter()
        .map(|share| {
            let (generate, connected, window) = (generate.clone(), connected.clone(), window_receiver.clone());
            thread::spawn(move || generate(share, &connected, window))
        })
        .collect();
    let waiting = tokio::runtime::Builder::new_current_thread().enable_time().build()?;
    let all_connected = async { tokio::time::timeout(CONNECT_TIMEOUT, connected.wait()).await };
    waiting.block_on(all_connected).context("connecting took too long")?;
    let start = Instant::now() + shape.warm_up;
    window_sender.send_replace(Some(Window { start, end: start + shape.window }));
    thread::sleep(shape.warm_up);
    let generator = std::process::id();
    let machine_before = process_stat::machine_cpu_time()?;
    let (cpu_before, generator_before) = (cpu_time(), process_stat::cpu_time(generator)?);
    let began = Instant::now();
    thread::sleep(shape.window);
    let (cpu_after, generator_after) = (cpu_time(), process_stat::cpu_time(generator)?);
    let (machine_after, elapsed) = (process_stat::machine_cpu_time()?, began.elapsed());
    let mut sample = Sample::default();
    for generator in generators {
        sample.add(generator.join().expect("a generator thread does not panic")?);
    }
    (sample.cpu, sample.elapsed) = (cpu_after?.saturating_sub(cpu_before?), elapsed);
    sample.generator_cpu = generator_after.saturating_sub(generator_before);
    sample.foreign_cpu = machine_after.saturating_sub(machine_before + sample.cpu + sample.generator_cpu);
    ensure!(sample.operations > 0, "not one operation ended in {:?}", shape.window);
    Ok(sample)
}

/// One thread of the generator.
fn generate(nurls: &[Nurl], workers: Vec<Placed>, connected: &Barrier, window: Announced) -> Result<Sample> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let opened = open_all(nurls, &workers).await;
        // Also after a failure, or the others would wait for ever.
        connected.wait().await;
        let mut window = window;
        let window = (*window.wait_for(Option::is_some).await?).context("the window was announced")?;
        let mut running = tokio::task::JoinSet::new();
        for ((_, worker), connection) in workers.into_iter().zip(opened?) {
            running.spawn(work(worker, connection, window));
        }
        let mut sample = Sample::default();
        while let Some(done) = running.join_next().await {
            sample.add(done.context("a worker panicked")??);
        }
        Ok(sample)
    })
}

async fn open_all(nurls: &[Nurl], workers: &[Placed]) -> Result<Vec<Connection>> {
    let mut connections = Vec::with_capacity(workers.len());
    let mut configs = Vec::with_capacity(nurls.len());
    for nurl in nurls {
        configs.push(client_config(nurl.spki_hash)?);
    }
    for (place, _) in workers {
        connections.push(Connection::open(&nurls[*place], &configs[*place]).await?);
    }
    Ok(connections)
}

async fn work(mut worker: Box<dyn Worker>, mut connection: Connection, window: Window) -> Result<Sample> {
    let (mut sample, mut response) = (Sample::default(), Response::default());
    let mut began = Instant::now();
    while began < window.end {
        let (head, body) = worker.request();
        connection.exchange(head, body, &mut response).await?;
        match worker.answer(&response)? {
            Progress::Continue => continue,
            Progress::Prepared => began = Instant::now(),
            Progress::Done(bytes) => {
                window.count(&mut sample, began, bytes);
                began = Instant::now();
            }
        }
    }
    Ok(sample)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_of_the_sorted_latencies() {
        let sample = Sample { latencies: (1..=100).rev().map(|ms| ms * 1000).collect(), ..Sample::default() };
        assert_eq!((sample.quantile_ms(0.5), sample.quantile_ms(0.99), sample.quantile_ms(1.0)), (50.0, 99.0, 100.0));
        assert!(Sample::default().quantile_ms(0.5).is_nan());
    }
}
