//! Logging: structured lines on standard error, for people or for machines. Secrets never get here: their types do not
//! print.

use leasehold_config::{Log, LogFormat};
use tracing::{Level, Metadata};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::filter_fn;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

/// Whether something may be logged at all: the S3 client shows requests with their tokens at its lower levels, and
/// nobody's filter may switch those on.
fn is_fit(metadata: &Metadata<'_>) -> bool {
    *metadata.level() <= Level::WARN || !metadata.target().starts_with("aws_")
}

/// Sets logging up for the process.
///
/// # Errors
/// A sentence that says what is wrong with the level.
pub fn init(log: &Log) -> Result<(), String> {
    let filter = EnvFilter::try_new(&log.level).map_err(|error| format!("log.level {:?}: {error}", log.level))?;
    let lines = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    let set = match log.format {
        LogFormat::Json => lines.json().flatten_event(true).finish().with(filter_fn(is_fit)).try_init(),
        LogFormat::Text => lines
            .with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr()))
            .finish()
            .with(filter_fn(is_fit))
            .try_init(),
    };
    set.map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::sync::{Arc, Mutex};

    use super::*;

    #[derive(Clone, Default)]
    struct Lines(Arc<Mutex<Vec<u8>>>);

    impl Write for Lines {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().expect("no panic").write(bytes)
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn no_level_shows_the_requests_of_the_s3_client() {
        for level in ["trace", "info,aws_sigv4=trace", "aws_smithy_runtime::client=debug"] {
            let lines = Lines::default();
            let writer = lines.clone();
            let subscriber = tracing_subscriber::fmt()
                .with_env_filter(EnvFilter::try_new(level).expect("a level"))
                .with_writer(move || writer.clone())
                .finish()
                .with(filter_fn(is_fit));
            tracing::subscriber::with_default(subscriber, || {
                tracing::trace!(target: "aws_sigv4::http_request::sign", "x-amz-security-token: hush");
                tracing::debug!(target: "aws_smithy_runtime::client::orchestrator", "x-amz-security-token: hush");
                tracing::error!("ours");
            });
            let text = String::from_utf8(lines.0.lock().expect("no panic").clone()).expect("text");
            assert!(!text.contains("hush"), "{level}: {text}");
            assert_eq!(text.contains("ours"), level != "aws_smithy_runtime::client=debug", "{level}: {text}");
        }
    }
}
