//! Processes that outlive the command that starts them, and are found again by the next.

use std::fs::{self, File};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, kill_process};

use super::layout::Layout;
use crate::process::{Explain, tail, wait_until};

/// How long a process may take to end when it is asked to.
const END_TIMEOUT: Duration = Duration::from_secs(20);

/// A process by its name.
pub struct Daemon<'a> {
    /// The name of its log and of the file with its process id.
    pub name: &'static str,
    layout: &'a Layout,
}

impl<'a> Daemon<'a> {
    /// The process of this name, whether it runs or not.
    pub fn new(name: &'static str, layout: &'a Layout) -> Self {
        Self { name, layout }
    }

    /// Starts the process, unless it runs.
    pub fn start(&self, command: &mut Command) -> Result<()> {
        if self.pid().is_some() {
            return Ok(());
        }
        let log = File::options().create(true).append(true).open(self.log())?;
        // In a group of its own: Ctrl-C is for the command that starts it. Nobody waits for it here: it lives on.
        command.process_group(0).stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        let child = command.current_dir("/").spawn().with_context(|| format!("start {}", self.name))?;
        let began = start_time(child.id()).with_context(|| format!("{} ended at once\n{}", self.name, self.log_tail()));
        fs::write(self.pid_file(), format!("{} {}", child.id(), began?)).context("write a process id down")
    }

    /// The process's id while it runs: of this very process, not of another that was given the same number.
    pub fn pid(&self) -> Option<Pid> {
        let text = fs::read_to_string(self.pid_file()).ok()?;
        let (pid, began) = text.trim().split_once(' ')?;
        let pid: u32 = pid.parse().ok()?;
        let is_it = start_time(pid).is_some_and(|now| now == began);
        is_it.then(|| Pid::from_raw(i32::try_from(pid).ok()?))?
    }

    /// Fails, with the end of the log, if the process does not run.
    pub fn expect_running(&self) -> Result<()> {
        match self.pid() {
            Some(_) => Ok(()),
            None => bail!("{} has ended\n{}", self.name, self.log_tail()),
        }
    }

    /// Waits until `probe` succeeds; fails with the end of the log when the process ends before, or after `within`.
    pub fn wait(&self, what: &str, within: Duration, mut probe: impl FnMut() -> Result<()>) -> Result<()> {
        let mut ended = None;
        let outcome = wait_until(what, within, || {
            ended = self.expect_running().err();
            if ended.is_some() { Ok(Some(())) } else { probe().map(Some) }
        });
        match ended {
            Some(error) => Err(error),
            None => outcome.explain(|| self.log_tail()),
        }
    }

    /// Ends the process if it runs: asks first.
    pub fn end(&self) -> Result<()> {
        for signal in [Signal::TERM, Signal::KILL] {
            let Some(pid) = self.pid() else { break };
            // It may be faster than this.
            let _ = kill_process(pid, signal);
            let gone = wait_until(self.name, END_TIMEOUT, || Ok(self.pid().is_none().then_some(())));
            if signal == Signal::KILL {
                gone.with_context(|| format!("{} does not end", self.name))?;
            }
        }
        match fs::remove_file(self.pid_file()) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error.into()),
            _ => Ok(()),
        }
    }

    /// The end of the log.
    pub fn log_tail(&self) -> String {
        format!("--- {} ---\n{}", self.log().display(), tail(&self.log()))
    }

    fn log(&self) -> PathBuf {
        self.layout.logs().join(format!("{}.log", self.name))
    }

    fn pid_file(&self) -> PathBuf {
        self.layout.file(&format!("{}.pid", self.name))
    }
}

/// When a process began, in ticks since the machine did; `None` if it has ended or waits only to be noticed.
fn start_time(pid: u32) -> Option<String> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name of the program before it may contain anything.
    let (_, fields) = stat.rsplit_once(") ")?;
    let mut fields = fields.split_whitespace();
    (fields.next()? != "Z").then(|| fields.nth(18).map(str::to_owned))?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn process_is_told_from_another_with_its_number() {
        let own = std::process::id();
        assert_eq!(start_time(own), start_time(own));
        assert!(start_time(own).is_some_and(|ticks| ticks.parse::<u64>().is_ok()));
        assert_eq!(start_time(u32::MAX), None);
    }
}
