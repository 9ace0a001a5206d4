//! Steps of a check: announced, timed, stopped at the first failure, summed up in a table.

use std::io::Write;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

/// What has been run so far.
pub struct Steps {
    filter: Vec<String>,
    done: Vec<(String, Duration, &'static str)>,
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
        self.done.push((name.to_owned(), begin.elapsed(), verdict));
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
        println!("\n{:<34} {:>9}", "step", "time");
        for (name, time, verdict) in &self.done {
            println!("{name:<34} {:>9}  {verdict}", text(*time));
        }
        let total = self.done.iter().map(|(_, time, _)| *time).sum();
        println!("{:<34} {:>9}", "total", text(total));
    }
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
