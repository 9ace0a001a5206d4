//! Steps of a check: announced, timed, stopped at the first failure, summed up in a table.

use std::io::Write;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rustix::fs::statvfs;

/// What has been run so far.
pub struct Steps {
    filter: Vec<String>,
    done: Vec<Done>,
}

struct Done {
    name: String,
    time: Duration,
    /// What was left of the disk behind it: a full one fails tests in ways that do not name it.
    free_bytes: u64,
    verdict: &'static str,
}

impl Steps {
    /// Begins a check in which only steps run whose name contains a word of `filter`, or all if it is empty.
    pub fn new(filter: &[String]) -> Self {
        Self { filter: filter.to_vec(), done: Vec::new() }
    }

    /// Runs one step. A failure is printed with the table so far.
    pub fn run(&mut self, name: &str, step: impl FnOnce() -> Result<()>) -> Result<()> {
        if !self.filter.is_empty() && !self.filter.iter().any(|word| name.contains(word.as_str())) {
            return Ok(());
        }
        println!("\n==> {name}");
        // The tools write to the same terminal; nobody is helped by a lost line.
        let _ = std::io::stdout().flush();
        let begin = Instant::now();
        let outcome = step();
        let verdict = if outcome.is_ok() { "ok" } else { "FAILED" };
        self.done.push(Done { name: name.to_owned(), time: begin.elapsed(), free_bytes: free_bytes(), verdict });
        println!("<== {name}: {verdict} after {}", text(begin.elapsed()));
        if outcome.is_err() {
            self.print_table();
        }
        outcome.with_context(|| format!("step `{name}` failed"))
    }

    /// Demands that something ran, and prints the table.
    pub fn finish(&self) -> Result<()> {
        if self.done.is_empty() {
            bail!("no step has a name that contains {}", self.filter.join(" or "));
        }
        self.print_table();
        Ok(())
    }

    fn print_table(&self) {
        println!("\n{:<34} {:>9} {:>11}", "step", "time", "disk free");
        for Done { name, time, free_bytes, verdict } in &self.done {
            let free = format!("{:.1} GiB", *free_bytes as f64 / (1u64 << 30) as f64);
            println!("{name:<34} {:>9} {free:>11}  {verdict}", text(*time));
        }
        let total = self.done.iter().map(|done| done.time).sum();
        println!("{:<34} {:>9}", "total", text(total));
    }
}

/// What is free on the disk of temporary files; 0 if that cannot be told.
fn free_bytes() -> u64 {
    statvfs(std::env::temp_dir()).map_or(0, |disk| disk.f_bavail.saturating_mul(disk.f_frsize))
}

/// Runs a command that writes to the terminal itself.
pub fn execute(command: &mut Command) -> Result<()> {
    let shown = format!("{command:?}").replace('"', "");
    println!("    {shown}");
    let status = command.status().with_context(|| format!("start {shown}"))?;
    if !status.success() {
        bail!("{shown} ended with {status}");
    }
    Ok(())
}

fn text(time: Duration) -> String {
    let seconds = time.as_secs_f64();
    if seconds < 60.0 {
        format!("{seconds:.1} s")
    } else {
        format!("{}:{:02} min", seconds as u64 / 60, seconds as u64 % 60)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_named_steps_run() -> Result<()> {
        let mut steps = Steps::new(&["form".to_owned()]);
        let mut ran = Vec::new();
        for name in ["format", "lints"] {
            steps.run(name, || {
                ran.push(name);
                Ok(())
            })?;
        }
        assert_eq!(ran, ["format"]);
        steps.finish()
    }

    #[test]
    fn filter_without_a_match_is_an_error() -> Result<()> {
        let mut steps = Steps::new(&["nothing".to_owned()]);
        steps.run("format", || bail!("must not run"))?;
        assert!(steps.finish().is_err());
        Ok(())
    }
}
