//! An S3 bucket as a backend: one S3 object for each store object, below a prefix.
//!
//! Any store will do that reads and lists what it has acknowledged; conditional writes are not needed, since names are
//! never used twice. An upload is gathered in memory before it is sent, so that the SDK can sign it, send its checksum
//! and repeat it; what all uploads may take together is bounded, and a body is not read before there is room for it.
//! The SDK alone repeats requests. No type of the SDK leaves this module.

mod body;
mod client;
mod credentials;
mod error;
mod metrics;
mod probe;

use std::error::Error;
use std::fmt;
use std::future::Future;
use std::io;
use std::ops::Range;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use aws_sdk_s3::Client;
use aws_sdk_s3::config::interceptors::{
    BeforeDeserializationInterceptorContextRef, BeforeTransmitInterceptorContextRef,
};
use aws_sdk_s3::config::{ConfigBag, Intercept, RuntimeComponents};
use aws_sdk_s3::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_s3::operation::get_object::GetObjectOutput;
use aws_sdk_s3::operation::put_object::PutObjectOutput;
use aws_sdk_s3::types::ChecksumMode;
use aws_smithy_types::DateTime;
use aws_smithy_types::date_time::Format;
use bytes::Bytes;
use futures_util::stream::{self, StreamExt};
use leasehold_config::{Checksums, S3};
use leasehold_core::backend::{Backend, BackendError, ByteStream, ListPage, ListedObject};
use leasehold_core::beat::BEAT_FOLDER;
use leasehold_core::chunk::ObjectKey;
use leasehold_core::clock::Timestamp;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, SemaphorePermit};
use tokio::time::timeout;

use super::cached_blocks::BlockSource;
use body::Answer;
use metrics::Operation;

pub use metrics::S3Metrics;

/// Ranges up to this are read at the store's pace, longer ones at the reader's.
const GATHERED_BYTES_MAX: u64 = 256 << 10;
/// Stores list no more at once.
const LIST_MAX: usize = 1000;
/// Answers that may be open for slow readers at once, for each request that may be under way. One holds up to 480 KiB
/// (measured: the HTTP client's buffer grows with a fast store); further long ranges are read in parts.
const OPEN_ANSWERS_PER_REQUEST: usize = 1;

/// An S3 bucket that holds store objects.
#[derive(Clone, Debug)]
pub struct S3Backend(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    client: Client,
    config: S3,
    metrics: S3Metrics,
    requests: Semaphore,
    answers: Arc<Semaphore>,
    upload_bytes: Semaphore,
}

impl S3Backend {
    /// Prepares the use of an S3 bucket. Nothing is sent yet; [`probe`](Self::probe) tries it.
    ///
    /// # Errors
    /// A file that the configuration names cannot be used; the text says which.
    pub fn open(config: &S3, metrics: S3Metrics) -> io::Result<Self> {
        Ok(Self(Arc::new(Inner {
            client: client::client(config)?,
            config: config.clone(),
            metrics,
            requests: Semaphore::new(config.concurrent_max),
            answers: Arc::new(Semaphore::new(config.concurrent_max * OPEN_ANSWERS_PER_REQUEST)),
            upload_bytes: Semaphore::new(usize::try_from(config.upload_memory.0).unwrap_or(Semaphore::MAX_PERMITS)),
        })))
    }

    /// Reads a long range part by part, so that any number of slow readers can neither fill the memory nor keep others
    /// from reading.
    async fn in_parts(&self, key: String, mut range: Range<u64>) -> Result<ByteStream, BackendError> {
        let first = self.0.next_part(&key, &mut range).await?;
        let rest = stream::try_unfold((self.clone(), key, range), |(backend, key, mut range)| async move {
            if range.is_empty() {
                return Ok(None);
            }
            let part = backend.0.next_part(&key, &mut range).await.map_err(io::Error::other)?;
            Ok(Some((part, (backend, key, range))))
        });
        Ok(stream::iter([Ok(first)]).chain(rest).boxed())
    }
}

impl Inner {
    /// The S3 object's key for a name below the backend's root.
    fn key(&self, name: &impl fmt::Display) -> String {
        format!("{}{name}", self.config.prefix)
    }

    fn name<'a>(&self, key: &'a str) -> Option<&'a str> {
        key.strip_prefix(&self.config.prefix)
    }

    fn failed<E>(&self, error: &SdkError<E>, key: &str) -> BackendError
    where
        E: ProvideErrorMetadata + Error + 'static,
    {
        error::backend_error(error, &self.config.bucket, self.name(key).unwrap_or(key))
    }

    /// Runs a request when it is its turn, within the time that all its attempts may take, and counts it.
    async fn request<T>(
        &self,
        operation: Operation,
        sent_bytes: u64,
        attempts: &Attempts,
        request: impl Future<Output = Result<T, BackendError>>,
    ) -> Result<T, BackendError> {
        let started = Instant::now();
        let in_turn = async {
            let _turn = self.requests.acquire().await.expect("never closed");
            request.await
        };
        let limit = client::operation_limit(&self.config, sent_bytes);
        let result = timeout(limit, in_turn).await.unwrap_or_else(|_| Err(self.too_late()));
        self.metrics.observe(operation, &result, attempts.made(), started.elapsed());
        result
    }

    fn too_late(&self) -> BackendError {
        let text = format!("S3 bucket {} did not answer in time", self.config.bucket);
        BackendError::Unavailable(io::Error::new(io::ErrorKind::TimedOut, text))
    }

    /// Waits for room for an upload's body.
    async fn room(&self, length: u64) -> Result<SemaphorePermit<'_>, BackendError> {
        let fits = u32::try_from(length).ok().filter(|_| length <= self.config.upload_memory.0);
        let Some(bytes) = fits else {
            let text = format!("an object of {length} bytes is more than storage.s3.upload_memory");
            return Err(BackendError::Source(io::Error::new(io::ErrorKind::InvalidInput, text)));
        };
        let room = timeout(client::operation_limit(&self.config, 0), self.upload_bytes.acquire_many(bytes)).await;
        Ok(room.map_err(|_| self.too_late())?.expect("never closed"))
    }

    async fn put(
        &self,
        key: &str,
        bytes: Bytes,
        attempts: &Attempts,
        if_none_match: Option<String>,
    ) -> Result<PutObjectOutput, BackendError> {
        let sent_bytes = bytes.len() as u64;
        let limits = aws_sdk_s3::config::Builder::new().timeout_config(client::timeouts(&self.config, sent_bytes));
        let put = self
            .client
            .put_object()
            .bucket(&self.config.bucket)
            .key(key)
            .set_if_none_match(if_none_match)
            .body(bytes.into())
            .customize()
            .config_override(limits)
            .interceptor(attempts.clone());
        let sent = async { put.send().await.map_err(|error| self.failed(&error, key)) };
        self.request(Operation::Put, sent_bytes, attempts, sent).await
    }

    /// Opens a range that is not empty, as far as the object goes. `asked` is what the request names: stores send the
    /// checksum of an object only with an answer to a request that names no range.
    async fn open(
        &self,
        key: &str,
        range: &Range<u64>,
        asked: Asked,
        attempts: &Attempts,
    ) -> Result<Opened, BackendError> {
        let get = self
            .client
            .get_object()
            .bucket(&self.config.bucket)
            .key(key)
            .set_range((asked == Asked::Range).then(|| format!("bytes={}-{}", range.start, range.end - 1)))
            .set_checksum_mode((self.config.checksums == Checksums::Default).then_some(ChecksumMode::Enabled))
            .customize()
            .interceptor(attempts.clone());
        match get.send().await {
            Ok(output) => match served(&output, range, asked) {
                Ok(length) => Ok(Opened { output: Some(output), length }),
                Err(problem) => {
                    let text = format!("S3 bucket {}: {problem}", self.config.bucket);
                    Err(BackendError::Unavailable(io::Error::new(io::ErrorKind::InvalidData, text)))
                }
            },
            Err(error) if error::is_behind_the_end(&error) => Ok(Opened { output: None, length: 0 }),
            Err(error) => Err(self.failed(&error, key)),
        }
    }

    /// Opens a long range. One from the beginning is most often the whole object, and then its checksum is worth the
    /// connection that is lost when it is not.
    async fn open_long(&self, key: &str, range: &Range<u64>, attempts: &Attempts) -> Result<Opened, BackendError> {
        if range.start == 0 && self.config.checksums == Checksums::Default {
            let opened = self.open(key, range, Asked::Object, attempts).await?;
            if opened.length <= range.end {
                return Ok(opened);
            }
        }
        self.open(key, range, Asked::Range, attempts).await
    }

    fn answer(&self, opened: Opened, permit: Option<OwnedSemaphorePermit>) -> Option<Answer> {
        let stall = Duration::from_secs(self.config.timeout_seconds);
        let metrics = self.metrics.clone();
        opened.output.map(|output| Answer::new(output.body, opened.length, stall, metrics, permit))
    }

    /// Reads a short range in one piece, as far as the object goes.
    async fn read(&self, key: &str, range: &Range<u64>) -> Result<Bytes, BackendError> {
        let attempts = Attempts::default();
        let read = async {
            let opened = self.open(key, range, Asked::Range, &attempts).await?;
            match self.answer(opened, None) {
                None => Ok(Bytes::new()),
                Some(answer) => answer.gather().await,
            }
        };
        self.request(Operation::Get, 0, &attempts, read).await
    }

    /// Opens a long range, which must lie within the object, at the reader's pace.
    async fn stream(
        &self,
        key: &str,
        range: &Range<u64>,
        permit: OwnedSemaphorePermit,
    ) -> Result<ByteStream, BackendError> {
        let attempts = Attempts::default();
        let opened = self.request(Operation::Get, 0, &attempts, self.open_long(key, range, &attempts)).await?;
        self.whole(opened.length, range)?;
        Ok(self.answer(opened, Some(permit)).map_or_else(|| stream::empty().boxed(), Answer::into_stream))
    }

    /// Reads the next part of a long range, at the store's pace.
    async fn next_part(&self, key: &str, range: &mut Range<u64>) -> Result<Bytes, BackendError> {
        let part = range.start..range.end.min(range.start + GATHERED_BYTES_MAX);
        let bytes = self.read(key, &part).await?;
        self.whole(bytes.len() as u64, &part)?;
        range.start = part.end;
        Ok(bytes)
    }

    fn whole(&self, length: u64, range: &Range<u64>) -> Result<(), BackendError> {
        if length == range.end - range.start {
            return Ok(());
        }
        let text = format!("S3 bucket {}: an object ends before the range that is asked for", self.config.bucket);
        Err(BackendError::Unavailable(io::Error::new(io::ErrorKind::UnexpectedEof, text)))
    }

    async fn delete(&self, key: &str) -> Result<(), BackendError> {
        let attempts = Attempts::default();
        let delete =
            self.client.delete_object().bucket(&self.config.bucket).key(key).customize().interceptor(attempts.clone());
        let sent = async {
            match delete.send().await.map_err(|error| self.failed(&error, key)) {
                Ok(_) | Err(BackendError::NotFound(_)) => Ok(()),
                Err(error) => Err(error),
            }
        };
        self.request(Operation::Delete, 0, &attempts, sent).await
    }

    async fn list(
        &self,
        prefix: &str,
        after: Option<&str>,
        max: usize,
        attempts: &Attempts,
    ) -> Result<ListPage, BackendError> {
        // Stores that keep objects as files have no such names, and refuse to look for them.
        if prefix.split('/').any(|part| part == "." || part == "..") {
            return Ok(ListPage::default());
        }
        // Not every store takes a beginning that is outside the prefix.
        let after = match after {
            Some(after) if after.starts_with(prefix) => Some(self.key(&after)),
            Some(after) if after > prefix => return Ok(ListPage::default()),
            _ => None,
        };
        let max = max.clamp(1, LIST_MAX);
        let prefix = self.key(&prefix);
        let list = self
            .client
            .list_objects_v2()
            .bucket(&self.config.bucket)
            .prefix(&prefix)
            .set_start_after(after)
            .max_keys(i32::try_from(max).expect("at most 1000"))
            .customize()
            .interceptor(attempts.clone());
        let sent = async { list.send().await.map_err(|error| self.failed(&error, &prefix)) };
        let answer = self.request(Operation::List, 0, attempts, sent).await?;
        let mut page = ListPage::default();
        for object in answer.contents() {
            if let Some(name) = object.key().and_then(|key| self.name(key)) {
                let length_bytes = object.size().and_then(|size| u64::try_from(size).ok()).unwrap_or_default();
                page.objects.push(ListedObject { name: name.to_owned(), length_bytes });
            }
        }
        if page.objects.len() > max || !page.objects.is_sorted_by(|a, b| a.name < b.name) {
            return Err(self.bad_listing("is longer than asked for or not in order of names"));
        }
        if answer.is_truncated().unwrap_or_default() {
            page.next = page.objects.last().map(|object| object.name.clone());
            if page.next.is_none() {
                return Err(self.bad_listing("has no end and no objects"));
            }
        }
        Ok(page)
    }

    fn bad_listing(&self, problem: &str) -> BackendError {
        let text = format!("S3 bucket {}: its listing {problem}", self.config.bucket);
        BackendError::Unavailable(io::Error::new(io::ErrorKind::InvalidData, text))
    }
}

/// What a read asks the store for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Asked {
    Object,
    Range,
}

/// An answer to a read.
struct Opened {
    /// `None` if the range begins behind the object's end.
    output: Option<GetObjectOutput>,
    /// Bytes that come.
    length: u64,
}

/// Compares what the store says it sends with what was asked for: how many bytes come.
fn served(output: &GetObjectOutput, range: &Range<u64>, asked: Asked) -> Result<u64, String> {
    let announced = output.content_length().and_then(|length| u64::try_from(length).ok());
    let announced = announced.ok_or("the answer to a read has no length")?;
    let length = match (asked, output.content_range()) {
        (Asked::Object, _) => announced,
        (Asked::Range, Some(text)) => {
            let (sent, total) = parse_content_range(text).ok_or("the answer to a read has a strange Content-Range")?;
            // The object may end before the range does; the store may not.
            if sent.start != range.start || sent.end != range.end.min(total) {
                return Err(format!("asked for bytes {}-{}, it answered {text}", range.start, range.end - 1));
            }
            sent.end - sent.start
        }
        // A store that ignores ranges sends the whole object.
        (Asked::Range, None) if range.start == 0 && announced <= range.end => announced,
        (Asked::Range, None) => return Err("the answer to a read has no Content-Range".to_owned()),
    };
    if announced == length { Ok(length) } else { Err("the answer to a read has a wrong length".to_owned()) }
}

/// Parses `bytes FIRST-LAST/TOTAL`.
fn parse_content_range(text: &str) -> Option<(Range<u64>, u64)> {
    let (sent, total) = text.strip_prefix("bytes ")?.split_once('/')?;
    let (first, last) = sent.split_once('-')?;
    let (first, last, total): (u64, u64, u64) = (first.parse().ok()?, last.parse().ok()?, total.parse().ok()?);
    (first <= last && last < total).then(|| (first..last + 1, total))
}

/// Counts the attempts of one request, and keeps the time that the store told with its last answer.
#[derive(Clone, Debug, Default)]
struct Attempts(Arc<(AtomicU32, Mutex<Option<String>>)>);

impl Attempts {
    fn made(&self) -> u32 {
        self.0.0.load(Ordering::Relaxed)
    }

    fn date(&self) -> Option<String> {
        self.0.1.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// The moment that a `Date` header tells.
fn http_date(text: &str) -> Option<Timestamp> {
    DateTime::from_str(text, Format::HttpDate).ok().map(|date| Timestamp::from_seconds(date.secs()))
}

impl Intercept for Attempts {
    fn name(&self) -> &'static str {
        "attempts"
    }

    fn read_before_attempt(
        &self,
        _: &BeforeTransmitInterceptorContextRef<'_>,
        _: &RuntimeComponents,
        _: &mut ConfigBag,
    ) -> Result<(), Box<dyn Error + Send + Sync>> {
        self.0.0.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }

    fn read_before_deserialization(
        &self,
        context: &BeforeDeserializationInterceptorContextRef<'_>,
        _: &RuntimeComponents,
        _: &mut ConfigBag,
    ) -> Result<(), Box<dyn Error + Send + Sync>> {
        let date = context.response().headers().get("date").map(str::to_owned);
        *self.0.1.lock().unwrap_or_else(PoisonError::into_inner) = date;
        Ok(())
    }
}

impl Backend for S3Backend {
    async fn put(&self, name: &ObjectKey, length_bytes: u64, body: ByteStream) -> Result<(), BackendError> {
        let _room = self.0.room(length_bytes).await?;
        let bytes = body::gather(body, usize::try_from(length_bytes).expect("there is room for it")).await?;
        self.0.put(&self.0.key(name), bytes, &Attempts::default(), None).await.map(drop)
    }

    async fn get(&self, name: &ObjectKey, range: Range<u64>) -> Result<ByteStream, BackendError> {
        let key = self.0.key(name);
        if range.is_empty() {
            // Only a read tells a missing object from a missing S3 bucket: HEAD has no words for it.
            self.0.read(&key, &(0..1)).await?;
            return Ok(stream::empty().boxed());
        }
        if range.end - range.start > GATHERED_BYTES_MAX {
            return match self.0.answers.clone().try_acquire_owned() {
                Ok(permit) => self.0.stream(&key, &range, permit).await,
                Err(_) => self.in_parts(key, range).await,
            };
        }
        let bytes = self.0.read(&key, &range).await?;
        self.0.whole(bytes.len() as u64, &range)?;
        Ok(stream::iter([Ok(bytes)]).boxed())
    }

    async fn delete(&self, name: &ObjectKey) -> Result<(), BackendError> {
        self.0.delete(&self.0.key(name)).await
    }

    async fn list(&self, prefix: &str, after: Option<&str>, max: usize) -> Result<ListPage, BackendError> {
        self.0.list(prefix, after, max, &Attempts::default()).await
    }

    async fn available_bytes(&self) -> Result<u64, BackendError> {
        Ok(u64::MAX)
    }

    async fn date(&self) -> Result<Option<Timestamp>, BackendError> {
        let attempts = Attempts::default();
        self.0.list(BEAT_FOLDER, None, 1, &attempts).await?;
        Ok(attempts.date().and_then(|date| http_date(&date)))
    }
}

impl BlockSource for S3Backend {
    async fn read_block(&self, name: &ObjectKey, range: Range<u64>) -> Result<Bytes, BackendError> {
        self.0.read(&self.0.key(name), &range).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn output(content_range: Option<&str>, length: i64) -> GetObjectOutput {
        GetObjectOutput::builder().set_content_range(content_range.map(str::to_owned)).content_length(length).build()
    }

    #[test]
    fn answers_to_ranges_are_what_was_asked_for() {
        for (content_range, length, range, expected) in [
            (Some("bytes 0-9/10"), 10, 0..10, Some(10)),
            (Some("bytes 5-9/10"), 5, 5..100, Some(5)),
            (Some("bytes 5-8/10"), 4, 5..10, None),
            (Some("bytes 4-9/10"), 6, 5..10, None),
            (Some("bytes 5-9/10"), 6, 5..10, None),
            (Some("bytes 5-9/8"), 5, 5..10, None),
            (Some("bytes 9-5/10"), 5, 5..10, None),
            (Some("bytes 5-9/*"), 5, 5..10, None),
            (Some("bytes 0-18446744073709551615/1"), 1, 0..1, None),
            (None, 10, 0..10, Some(10)),
            (None, 7, 0..10, Some(7)),
            (None, 11, 0..10, None),
            (None, 10, 5..10, None),
            (None, -1, 0..10, None),
        ] {
            let served = served(&output(content_range, length), &range, Asked::Range);
            assert_eq!(served.clone().ok(), expected, "{content_range:?} {length} for {range:?}: {served:?}");
        }
    }
}
