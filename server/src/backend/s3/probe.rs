//! Tries out what the server needs of a store, on canary objects below `meta/probe/`, and says what the store cannot do.

use std::fmt;
use std::io;

use bytes::Bytes;
use leasehold_core::backend::{BackendError, ListedObject};
use leasehold_core::clock::{Clock, Entropy, Timestamp};

use super::{Attempts, Inner, S3Backend, http_date};
use crate::check::{Finding, Level};

/// Length of a canary: long enough that ranges of it differ.
const CANARY_BYTES: usize = 3000;
/// Beyond this, work that deletes stops (`review.md` A13): ages of objects are not to be trusted.
const CLOCK_ERROR_SECONDS: i64 = 300;
/// Beyond this, somebody should look.
const CLOCK_WARNING_SECONDS: i64 = 30;
/// Sorted by name they are in another order than they are put.
const CANARY_ENDINGS: [&str; 3] = ["b", "c", "a"];

impl S3Backend {
    /// Puts, reads, lists and deletes canary objects and compares clocks. Findings are sentences; one at level *error*
    /// means that the store cannot be used. Takes at most the time of a dozen operations and leaves nothing behind.
    pub async fn probe(&self, clock: &dyn Clock, entropy: &Entropy) -> Vec<Finding> {
        let folder = format!("meta/probe/{}/", entropy.object_id(clock.now()));
        let mut probe = Probe { inner: &self.0, folder, findings: Vec::new() };
        if let Some(contents) = probe.put(clock).await {
            probe.get(&contents).await;
            probe.absent().await;
            probe.list().await;
            probe.conditional().await;
        }
        probe.delete().await;
        if probe.findings.iter().all(|finding| finding.level != Level::Error) {
            probe.found(Level::Ok, format_args!("objects are stored, read, listed and deleted as needed"));
        }
        probe.findings
    }
}

struct Probe<'a> {
    inner: &'a Inner,
    folder: String,
    findings: Vec<Finding>,
}

impl Probe<'_> {
    fn found(&mut self, level: Level, text: fmt::Arguments<'_>) {
        let text = format!("S3 bucket {}: {text}", self.inner.config.bucket);
        self.findings.push(Finding { level, text });
    }

    fn failed(&mut self, what: &str, error: &BackendError) {
        // The reason names the S3 bucket.
        self.findings.push(Finding { level: Level::Error, text: format!("{what}: {}", Reasons(error)) });
    }

    fn name(&self, ending: &str) -> String {
        format!("{}{ending}", self.folder)
    }

    fn key(&self, ending: &str) -> String {
        self.inner.key(&self.name(ending))
    }

    async fn put(&mut self, clock: &dyn Clock) -> Option<Bytes> {
        let contents: Bytes = (0..CANARY_BYTES).map(|at| (at % 251) as u8).collect();
        for ending in CANARY_ENDINGS {
            let attempts = Attempts::default();
            let asked = clock.now();
            let stored = self.inner.put(&self.key(ending), contents.clone(), &attempts, None).await;
            let answered = clock.now();
            match stored {
                Err(error) => {
                    self.failed("the store does not take an object", &error);
                    return None;
                }
                Ok(_) if ending != CANARY_ENDINGS[0] => {}
                Ok(output) => {
                    if output.version_id().is_some_and(|version| version != "null") {
                        let text =
                            "it keeps old versions: deleted objects take room until a lifecycle rule removes them";
                        self.found(Level::Warning, format_args!("{text}"));
                    }
                    self.clock(attempts.date(), asked.seconds()..=answered.seconds());
                }
            }
        }
        Some(contents)
    }

    /// Compares the store's time with ours, which at that moment was somewhere between two.
    fn clock(&mut self, date: Option<String>, ours: std::ops::RangeInclusive<i64>) {
        let Some(theirs) = date.and_then(|date| http_date(&date)).map(Timestamp::seconds) else {
            self.found(Level::Warning, format_args!("the store does not tell the time: clocks cannot be compared"));
            return;
        };
        let ahead = match theirs {
            theirs if theirs < *ours.start() => theirs - ours.start(),
            theirs => (theirs - ours.end()).max(0),
        };
        let level = match ahead.abs() {
            CLOCK_ERROR_SECONDS.. => Level::Error,
            CLOCK_WARNING_SECONDS.. => Level::Warning,
            _ => Level::Ok,
        };
        let side = if ahead < 0 { "behind" } else { "ahead of" };
        self.found(level, format_args!("the store's clock is {} s {side} ours", ahead.abs()));
    }

    async fn get(&mut self, contents: &Bytes) {
        for range in [0..CANARY_BYTES, 1000..1010, CANARY_BYTES - 1..CANARY_BYTES] {
            let read = self.inner.read(&self.key("a"), &(range.start as u64..range.end as u64)).await;
            match read {
                Err(error) => self.failed("the store does not read back what it has just acknowledged", &error),
                Ok(bytes) if bytes != contents[range.clone()] => self.found(
                    Level::Error,
                    format_args!("the store does not read back bytes {range:?} as they were stored"),
                ),
                Ok(_) => continue,
            }
            return;
        }
    }

    async fn absent(&mut self) {
        match self.inner.read(&self.key("absent"), &(0..1)).await {
            Err(BackendError::NotFound(_)) => {}
            Ok(_) => self.found(Level::Error, format_args!("the store answers a read of an object that is not there")),
            Err(error) => self.failed("the store does not say that an object is not there (may it be listed?)", &error),
        }
    }

    async fn list(&mut self) {
        let mut expected: Vec<ListedObject> = CANARY_ENDINGS
            .iter()
            .map(|ending| ListedObject { name: self.name(ending), length_bytes: CANARY_BYTES as u64 })
            .collect();
        expected.sort_by(|a, b| a.name.cmp(&b.name));
        match self.inner.list(&self.folder, None, 10, &Attempts::default()).await {
            Err(error) => return self.failed("the store does not list", &error),
            Ok(page) if page.objects != expected => {
                let count = page.objects.len();
                let text = format_args!("the store does not list what it has just acknowledged: {count} of 3 objects");
                return self.found(Level::Error, text);
            }
            Ok(_) => {}
        }
        let (mut paged, mut after) = (Vec::new(), None);
        for _ in 0..=expected.len() {
            match self.inner.list(&self.folder, after.as_deref(), 1, &Attempts::default()).await {
                Err(error) => return self.failed("the store does not list page by page", &error),
                Ok(page) => {
                    paged.extend(page.objects);
                    after = page.next;
                }
            }
            if after.is_none() {
                break;
            }
        }
        if paged != expected {
            self.found(Level::Error, format_args!("the store does not list page by page what it lists at once"));
        }
    }

    /// Races two writes of which only one may win. Nothing depends on it; operators want to know.
    async fn conditional(&mut self) {
        let key = self.key("race");
        let inner = self.inner;
        let contest = async |byte: u8| {
            let contents = Bytes::from(vec![byte; CANARY_BYTES]);
            inner.put(&key, contents, &Attempts::default(), Some("*".to_owned())).await.is_ok()
        };
        let (first, second) = futures_util::future::join(contest(1), contest(2)).await;
        let text = match (first, second) {
            (true, true) => "conditional writes are ignored (they are not needed)",
            (false, false) => "conditional writes are refused (they are not needed)",
            _ => "conditional writes work (they are not needed)",
        };
        self.found(Level::Ok, format_args!("{text}"));
    }

    async fn delete(&mut self) {
        for ending in CANARY_ENDINGS.into_iter().chain(["race"]) {
            if let Err(error) = self.inner.delete(&self.key(ending)).await {
                return self.failed("the store does not delete", &error);
            }
        }
        match self.inner.read(&self.key("a"), &(0..1)).await {
            Err(BackendError::NotFound(_)) => {}
            Ok(_) => self.found(Level::Warning, format_args!("the store still reads an object that it has deleted")),
            Err(error) => self.failed("the store does not say that an object is gone", &error),
        }
        match self.inner.list(&self.folder, None, 10, &Attempts::default()).await {
            Ok(page) if page.objects.is_empty() => {}
            Ok(_) => self.found(Level::Warning, format_args!("the store still lists objects that it has deleted")),
            Err(error) => self.failed("the store does not list", &error),
        }
    }
}

/// An error with the reason beneath it.
struct Reasons<'a>(&'a BackendError);

impl fmt::Display for Reasons<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let source: Option<&io::Error> = match self.0 {
            BackendError::NotFound(_) => None,
            BackendError::Source(source)
            | BackendError::Full(source)
            | BackendError::Denied(source)
            | BackendError::Unavailable(source) => Some(source),
        };
        match source {
            Some(source) => write!(f, "{source}"),
            None => write!(f, "{}", self.0),
        }
    }
}
