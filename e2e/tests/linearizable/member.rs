//! One of the clients: asks, waits, writes down what it asked and what came of it.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use leasehold_e2e::gbs::{Client, NoAnswer, Status};
use leasehold_e2e::history::{Operation, Recorder};
use rand::Rng;
use rand::rngs::StdRng;
use serde::Serialize;

use crate::buckets::Upload;
use crate::slots::View;

/// Pauses after a request without an answer, twice as long for each more in a row up to a limit: an outage must not fill
/// the history with operations that nobody knows of.
const PAUSE_MILLISECONDS: std::ops::Range<u64> = 5..50;
const DOUBLINGS_MAX: u32 = 4;

/// How long a client that insists on an answer asks again.
const INSISTENCE: Duration = Duration::from_secs(60);

/// What all clients of a run share.
pub struct Shared {
    /// Where the history goes.
    pub recorder: Recorder,
    /// Part of all storage indexes.
    pub seed: u64,
    /// When this is set, the clients end.
    pub stop: AtomicBool,
    /// Steps done on slots, and on buckets: they decide which ones are in use.
    pub slot_steps: AtomicU64,
    /// See `slot_steps`.
    pub bucket_steps: AtomicU64,
    /// The latest upload of each share, by bucket and share, so that several clients may write to it.
    pub uploads: Mutex<HashMap<(u64, u64), Upload>>,
    counts: Mutex<BTreeMap<String, u64>>,
}

impl Shared {
    /// The beginning of a run.
    pub fn new(recorder: Recorder, seed: u64) -> Self {
        Self {
            recorder,
            seed,
            stop: AtomicBool::new(false),
            slot_steps: AtomicU64::new(0),
            bucket_steps: AtomicU64::new(0),
            uploads: Mutex::default(),
            counts: Mutex::default(),
        }
    }

    /// The storage index of a slot or bucket: never the same for two, nor in two runs with different seeds.
    pub fn storage_index(&self, kind: u8, number: u64) -> [u8; 16] {
        let mut index = [0; 16];
        index[..8].copy_from_slice(&self.seed.to_be_bytes());
        index[8..].copy_from_slice(&number.to_be_bytes());
        index[8] = kind;
        index
    }

    /// How often each outcome was seen, by the kind of operation and what came of it.
    pub fn counts(&self) -> MutexGuard<'_, BTreeMap<String, u64>> {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What came of a request.
#[derive(Debug)]
pub enum Outcome<T> {
    /// The good answer.
    Answered(T),
    /// Another answer, by which nothing has changed.
    Refused(Status),
    /// No answer, or one that promises nothing.
    Unknown,
    /// The server never saw the request.
    NotSent,
}

impl<T> Outcome<T> {
    fn of(result: Result<Result<T, Status>>) -> Result<Self> {
        Ok(match result {
            Ok(Ok(answer)) => Self::Answered(answer),
            Ok(Err(500..)) => Self::Unknown,
            Ok(Err(status)) => Self::Refused(status),
            Err(error) => match error.downcast_ref::<NoAnswer>() {
                Some(NoAnswer::NotSent) => Self::NotSent,
                Some(NoAnswer::Unknown) => Self::Unknown,
                None => return Err(error),
            },
        })
    }
}

/// A request that was made, and when.
pub struct Asked<T> {
    call: u64,
    returned: u64,
    /// What came of it.
    pub outcome: Outcome<T>,
}

/// What an operation was done to, and which it was, in the checker's words.
#[derive(Clone, Copy)]
pub struct About<'a> {
    /// `slot` or `share`.
    pub model: &'static str,
    /// Which one.
    pub key: &'a str,
    /// The operation.
    pub kind: &'static str,
}

/// One client.
pub struct Member<'a> {
    /// Which one.
    pub number: usize,
    /// What all share.
    pub shared: &'a Shared,
    /// Its own connection.
    pub client: Client,
    /// Decides everything.
    pub random: StdRng,
    /// What it knows of slots.
    pub views: HashMap<u64, View>,
    /// Whether every request must be answered: it is asked again until it is, so it must only read.
    pub insists: bool,
    /// Requests in a row that had no answer.
    pub failures: u32,
}

impl Member<'_> {
    /// Makes a request and waits for what comes of it.
    ///
    /// # Errors
    /// If an answer came that makes no sense.
    pub async fn ask<T>(
        &mut self,
        request: impl AsyncFn(&mut Client) -> Result<Result<T, Status>>,
    ) -> Result<Asked<T>> {
        let deadline = Instant::now() + INSISTENCE;
        loop {
            let call = self.shared.recorder.now();
            let result = request(&mut self.client).await;
            let returned = self.shared.recorder.now();
            if let Ok(Err(status @ 500..)) = &result {
                self.count("status", &status.to_string());
            }
            let outcome = Outcome::of(result)?;
            let answered = !matches!(outcome, Outcome::Unknown | Outcome::NotSent);
            self.pause_unless(answered).await;
            if answered || !self.insists {
                return Ok(Asked { call, returned, outcome });
            }
            ensure!(Instant::now() < deadline, "no answer after {INSISTENCE:?}");
        }
    }

    async fn pause_unless(&mut self, answered: bool) {
        if answered {
            self.failures = 0;
            return;
        }
        let pause = self.random.random_range(PAUSE_MILLISECONDS) << self.failures.min(DOUBLINGS_MAX);
        self.failures += 1;
        tokio::time::sleep(Duration::from_millis(pause)).await;
    }

    /// Writes an operation down that was part of a request, with `answer` made of the good answer or of a refusal.
    ///
    /// # Errors
    /// If the history cannot be written.
    pub fn note<T, O: Serialize>(
        &self,
        asked: &Asked<T>,
        about: About<'_>,
        input: impl Serialize,
        answer: impl FnOnce(Result<&T, Status>) -> O,
    ) -> Result<()> {
        let output = match &asked.outcome {
            Outcome::Answered(good) => Some(answer(Ok(good))),
            Outcome::Refused(status) => {
                self.count(about.kind, &status.to_string());
                Some(answer(Err(*status)))
            }
            Outcome::Unknown => {
                self.count(about.kind, "unknown");
                None
            }
            Outcome::NotSent => {
                self.count(about.kind, "not sent");
                return Ok(());
            }
        };
        let About { model, key, kind } = about;
        let returned = output.is_some().then_some(asked.returned);
        let operation = Operation { client: self.number, model, key, kind, call: asked.call, returned, input, output };
        self.shared.recorder.record(&operation).context("record an operation")
    }

    /// Counts what came of an operation.
    pub fn count(&self, kind: &str, outcome: &str) {
        *self.shared.counts().entry(format!("{kind}: {outcome}")).or_default() += 1;
    }

    /// True so many times in a hundred.
    pub fn chance(&mut self, percent: u32) -> bool {
        self.random.random_ratio(percent, 100)
    }

    /// Lease secrets of this client.
    pub fn leases(&self) -> [[u8; 32]; 2] {
        [[self.number as u8 + 1; 32], [self.number as u8 + 101; 32]]
    }
}
