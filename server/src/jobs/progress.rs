//! What long work tells of itself: a bar at a terminal, a line every few seconds in a log.

use std::sync::Mutex;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};

use crate::output::Output;

/// How long a log waits for the next line.
const LINE_EVERY: Duration = Duration::from_secs(5);

/// Tells how far long work has come. What it tells goes to standard error, never among a command's answers.
pub struct Progress {
    what: &'static str,
    told: Told,
}

enum Told {
    Bar(ProgressBar),
    Log(Mutex<Instant>),
}

impl Progress {
    /// Begins to tell: at a terminal if a person is there to see it, in the log otherwise.
    pub fn begin(output: Output, what: &'static str) -> Self {
        if output == Output::Text && std::io::IsTerminal::is_terminal(&std::io::stderr()) {
            let bar = ProgressBar::new_spinner().with_prefix(what);
            return Self { what, told: Told::Bar(bar.with_style(style("{spinner} {prefix}: {msg} [{elapsed}]"))) };
        }
        Self::in_log(what)
    }

    /// Begins to tell in the log, as work inside a server does.
    pub fn in_log(what: &'static str) -> Self {
        Self { what, told: Told::Log(Mutex::new(Instant::now())) }
    }

    /// Tells what was done so far, where the end is not known.
    pub fn show(&self, text: impl FnOnce() -> String) {
        match &self.told {
            Told::Bar(bar) => {
                bar.set_message(text());
                bar.tick();
            }
            Told::Log(told_at) => {
                if is_due(told_at) {
                    tracing::info!(progress = text(), "{}", self.what);
                }
            }
        }
    }

    /// Tells how much of a whole is done, and what.
    pub fn show_part(&self, done: u64, whole: u64, text: impl FnOnce() -> String) {
        match &self.told {
            Told::Bar(bar) => {
                if bar.length() != Some(whole) {
                    bar.set_length(whole);
                    bar.set_style(style("{prefix}: {wide_bar} {percent} % ({eta} left) {msg}"));
                }
                bar.set_position(done.min(whole));
                bar.set_message(text());
            }
            Told::Log(told_at) => {
                if is_due(told_at) {
                    let percent = (u128::from(done) * 100 / u128::from(whole.max(1))).min(100);
                    tracing::info!(percent = percent as u64, progress = text(), "{}", self.what);
                }
            }
        }
    }

    /// Takes the bar away; a log needs no end.
    pub fn end(self) {
        if let Told::Bar(bar) = self.told {
            bar.finish_and_clear();
        }
    }
}

fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template).expect("a template of ours")
}

/// Whether the time for a line has come; if so, that of the next is counted from now.
fn is_due(told_at: &Mutex<Instant>) -> bool {
    let mut told_at = told_at.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let due = told_at.elapsed() >= LINE_EVERY;
    if due {
        *told_at = Instant::now();
    }
    due
}
