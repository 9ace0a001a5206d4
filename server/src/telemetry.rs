//! Logging: structured lines on standard error, for people or for machines. Secrets never get here: their types do not
//! print.

use leasehold_config::{Log, LogFormat};
use tracing_subscriber::EnvFilter;

/// Sets logging up for the process.
///
/// # Errors
/// A sentence that says what is wrong with the level.
pub fn init(log: &Log) -> Result<(), String> {
    let filter = EnvFilter::try_new(&log.level).map_err(|error| format!("log.level {:?}: {error}", log.level))?;
    let lines = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    let set = match log.format {
        LogFormat::Json => lines.json().flatten_event(true).try_init(),
        LogFormat::Text => lines.with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr())).try_init(),
    };
    set.map_err(|error| error.to_string())
}
