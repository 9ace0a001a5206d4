//! Child processes of the tests: output goes to files, and nothing outlives the test.
//!
//! A [`Process`] is killed when it is dropped. For the cases in which nothing is dropped (a static, a killed test
//! binary) each process has a watchdog: a shell that waits for the end of its standard input, which this process holds
//! open, and then kills the one process it was started for.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{Read, Seek, SeekFrom};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, ExitStatus, Output, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};
use rustix::process::{Pid, Signal, kill_process};

/// How much of a log file is shown when something fails.
const TAIL_BYTES: u64 = 6_000;

/// How long a process that was asked to end may take before it counts as hanging.
pub const STOP_TIMEOUT: Duration = Duration::from_secs(40);

/// A running child process whose output is in two files.
pub struct Process {
    name: String,
    child: Child,
    stdout: PathBuf,
    stderr: PathBuf,
    watchdog: Option<Watchdog>,
}

impl Process {
    /// Starts `command` with `<logs>/<name>.out` and `<logs>/<name>.err` as its output, both appended to.
    pub fn start(name: &str, command: &mut Command, logs: &Path) -> Result<Self> {
        fs::create_dir_all(logs).with_context(|| format!("create {}", logs.display()))?;
        let stdout = logs.join(format!("{name}.out"));
        let stderr = logs.join(format!("{name}.err"));
        let child = command
            .stdin(Stdio::null())
            .stdout(append_to(&stdout)?)
            .stderr(append_to(&stderr)?)
            .spawn()
            .with_context(|| format!("start {name}: {command:?}"))?;
        let watchdog = Watchdog::start(&format!("kill -9 {}", child.id()))?;
        Ok(Self { name: name.to_owned(), child, stdout, stderr, watchdog: Some(watchdog) })
    }

    /// The process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// The file with the standard output, of earlier runs under the same name too.
    pub fn stdout(&self) -> &Path {
        &self.stdout
    }

    /// The file with the standard error, of earlier runs under the same name too.
    pub fn stderr(&self) -> &Path {
        &self.stderr
    }

    /// Fails, with the end of the log, if the process has ended.
    pub fn expect_running(&mut self) -> Result<()> {
        match self.child.try_wait()? {
            None => Ok(()),
            Some(status) => bail!("{} ended with {status}\n{}", self.name, self.log_tail()),
        }
    }

    /// Ends the process at once, as a crash would (`kill -9`).
    pub fn kill(mut self) -> Result<()> {
        self.stop_at_once()
    }

    /// Sends `kill -9` and leaves the rest to a later [`Process::kill`] or to the drop.
    pub fn crash(&self) -> Result<()> {
        self.send(Signal::KILL)
    }

    /// Asks the process to end (SIGTERM) and leaves the waiting to a later [`Process::terminate`].
    pub fn ask_to_end(&self) -> Result<()> {
        kill_process(self.pid(), Signal::TERM).with_context(|| format!("terminate {}", self.name))
    }

    /// Asks the process to end (SIGTERM) and waits for it.
    pub fn terminate(self) -> Result<ExitStatus> {
        self.end_by(Signal::TERM)
    }

    /// Asks the process to end without delay, as Ctrl-C does (SIGINT), and waits for it.
    pub fn interrupt(self) -> Result<ExitStatus> {
        self.end_by(Signal::INT)
    }

    /// Asks the process to end by `signal` and waits for it.
    pub fn end_by(mut self, signal: Signal) -> Result<ExitStatus> {
        self.send(signal)?;
        let status = wait_for(&mut self.child, STOP_TIMEOUT)?;
        self.dismiss_watchdog();
        match status {
            Some(status) => Ok(status),
            None => bail!("{} still runs {STOP_TIMEOUT:?} after {signal:?}\n{}", self.name, self.log_tail()),
        }
    }

    /// Sends the process a signal.
    pub fn send(&self, signal: Signal) -> Result<()> {
        kill_process(self.pid(), signal).with_context(|| format!("send {signal:?} to {}", self.name))
    }

    /// Stops the process without ending it: it holds its connections and answers nothing (SIGSTOP). Returns when every
    /// thread has stopped, of which one may have been about to answer.
    pub fn freeze(&self) -> Result<()> {
        self.send(Signal::STOP)?;
        wait_until_stopped(self.pid()).with_context(|| format!("freeze {}", self.name))
    }

    /// Lets a frozen process go on (SIGCONT).
    pub fn thaw(&self) -> Result<()> {
        self.send(Signal::CONT)
    }

    /// The end of both logs, for a failure message.
    pub fn log_tail(&self) -> String {
        let mut text = String::new();
        for path in [&self.stdout, &self.stderr] {
            text.push_str(&format!("--- {} ---\n{}\n", path.display(), tail(path)));
        }
        text
    }

    fn pid(&self) -> Pid {
        Pid::from_child(&self.child)
    }

    fn stop_at_once(&mut self) -> Result<()> {
        if self.child.try_wait()?.is_none() {
            self.child.kill().with_context(|| format!("kill {}", self.name))?;
            self.child.wait()?;
        }
        self.dismiss_watchdog();
        Ok(())
    }

    /// The process is gone: its id may be given to another, so the watchdog must not act any more.
    fn dismiss_watchdog(&mut self) {
        if let Some(watchdog) = self.watchdog.take() {
            watchdog.dismiss();
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Nothing to be done about a failure here; the watchdog acts when this process ends.
        let _ = self.stop_at_once();
    }
}

/// The processes that `parent` started and that still run, and theirs.
pub fn descendants(parent: u32) -> Result<Vec<Pid>> {
    let mut children: BTreeMap<u32, Vec<u32>> = BTreeMap::new();
    for entry in fs::read_dir("/proc").context("list processes")? {
        let name = entry?.file_name();
        let Some(pid) = name.to_str().and_then(|name| name.parse().ok()) else { continue };
        // A process may end while the list is read.
        let Ok(stat) = fs::read_to_string(format!("/proc/{pid}/stat")) else { continue };
        if let Some(its_parent) = parent_in(&stat) {
            children.entry(its_parent).or_default().push(pid);
        }
    }
    let mut found = Vec::new();
    let mut unseen = vec![parent];
    while let Some(pid) = unseen.pop() {
        let its_children = children.remove(&pid).unwrap_or_default();
        found.extend(its_children.iter().filter_map(|&child| Pid::from_raw(i32::try_from(child).ok()?)));
        unseen.extend(its_children);
    }
    Ok(found)
}

/// The parent in a line of `/proc/<pid>/stat`; the name of the program before it may contain anything.
fn parent_in(stat: &str) -> Option<u32> {
    let (_, fields) = stat.rsplit_once(')')?;
    fields.split_whitespace().nth(1)?.parse().ok()
}

/// A shell that runs a command line when this process ends, however it ends.
#[derive(Debug)]
pub struct Watchdog {
    shell: Child,
    stdin: Option<ChildStdin>,
}

impl Watchdog {
    /// Arranges for `script` (a line for `sh`) to run at the end of this process.
    pub fn start(script: &str) -> Result<Self> {
        let mut shell = Command::new("sh")
            .arg("-c")
            .arg(format!("trap '' INT HUP TERM; read _; {script}"))
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            // Whoever kills this process with its whole group does not mean the one that cleans up.
            .process_group(0)
            .spawn()
            .context("start a watchdog")?;
        let stdin = shell.stdin.take();
        Ok(Self { shell, stdin })
    }

    /// Ends the watchdog; its command will not run.
    pub fn dismiss(mut self) {
        // First the shell, then its input: the other way round it would run its command.
        let _ = self.shell.kill();
        let _ = self.shell.wait();
        drop(self.stdin);
    }
}

/// Failures that come with all that is known.
pub trait Explain<T> {
    /// Puts `details`, as the ends of logs, after the reason of a failure: they are long, and whoever shortens a message keeps
    /// its beginning.
    fn explain(self, details: impl FnOnce() -> String) -> Result<T>;
}

impl<T> Explain<T> for Result<T> {
    fn explain(self, details: impl FnOnce() -> String) -> Self {
        self.map_err(|error| anyhow!("{error:#}\n{}", details()))
    }
}

/// Runs a command to its end and gives its output; fails if it takes longer than `within`.
pub fn run(command: &mut Command, within: Duration) -> Result<Output> {
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("start {command:?}"))?;
    let stdout = drain(child.stdout.take());
    let stderr = drain(child.stderr.take());
    let Some(status) = wait_for(&mut child, within)? else {
        bail!("{command:?} took longer than {within:?}");
    };
    let collect = |reader: thread::JoinHandle<Vec<u8>>| reader.join().expect("a reader thread does not panic");
    Ok(Output { status, stdout: collect(stdout), stderr: collect(stderr) })
}

/// As [`run`], and fails with the output if the command fails. Gives the standard output.
pub fn run_ok(command: &mut Command, within: Duration) -> Result<String> {
    let output = run(command, within)?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    if !output.status.success() {
        let errors = String::from_utf8_lossy(&output.stderr);
        bail!("{command:?} failed with {}\n{text}\n{errors}", output.status);
    }
    Ok(text)
}

/// Whether a process is gone, or waits only for its parent to notice.
pub fn has_ended(process: Pid) -> bool {
    state(&folder(process)).is_none_or(|state| state == 'Z')
}

/// Waits until every thread of a process that was sent SIGSTOP has stopped, or ended.
pub fn wait_until_stopped(process: Pid) -> Result<()> {
    let tasks = folder(process).join("task");
    let has_stopped = |task: fs::DirEntry| state(&task.path()).is_none_or(|state| "TtZX".contains(state));
    wait_until("all threads have stopped", STOP_TIMEOUT, || {
        // A process that is gone has no folder.
        Ok(fs::read_dir(&tasks).map_or(true, |tasks| tasks.flatten().all(has_stopped)).then_some(()))
    })
}

fn folder(process: Pid) -> PathBuf {
    PathBuf::from(format!("/proc/{}", process.as_raw_nonzero()))
}

/// The state of a process or thread, a letter of proc(5), by its folder; `None` if it is gone.
fn state(folder: &Path) -> Option<char> {
    let stat = fs::read_to_string(folder.join("stat")).ok()?;
    stat.rsplit_once(") ")?.1.chars().next()
}

/// Tries `probe` until it gives a value; fails after `within`, naming `what` and the last reason.
pub fn wait_until<T>(what: &str, within: Duration, mut probe: impl FnMut() -> Result<Option<T>>) -> Result<T> {
    let deadline = Instant::now() + within;
    loop {
        let outcome = probe();
        if let Ok(Some(value)) = outcome {
            return Ok(value);
        }
        if Instant::now() >= deadline {
            let reason = outcome.err().map_or_else(String::new, |error| format!(": {error:#}"));
            bail!("waited {within:?} in vain until {what}{reason}");
        }
        thread::sleep(Duration::from_millis(50));
    }
}

/// Waits until `probe` succeeds; fails, with the end of the log, when the process ends before or `within` has passed.
pub fn wait_until_up(process: &mut Process, within: Duration, mut probe: impl FnMut() -> Result<()>) -> Result<()> {
    let mut ended = None;
    let up = wait_until("the process answers", within, || match process.expect_running() {
        Ok(()) => probe().map(Some),
        Err(error) => {
            ended = Some(error);
            Ok(Some(()))
        }
    });
    match ended {
        Some(error) => Err(error),
        None => up.explain(|| process.log_tail()),
    }
}

/// The last part of a file, lossily as text.
pub fn tail(path: &Path) -> String {
    let read = || -> std::io::Result<Vec<u8>> {
        let mut file = File::open(path)?;
        let length = file.metadata()?.len();
        file.seek(SeekFrom::Start(length.saturating_sub(TAIL_BYTES)))?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes)?;
        Ok(bytes)
    };
    read().map_or_else(|error| format!("({error})"), |bytes| String::from_utf8_lossy(&bytes).into_owned())
}

fn append_to(path: &Path) -> Result<File> {
    OpenOptions::new().create(true).append(true).open(path).with_context(|| format!("open {}", path.display()))
}

/// Waits for the end of a child; kills it when `within` has passed, and then gives `None`.
fn wait_for(child: &mut Child, within: Duration) -> Result<Option<ExitStatus>> {
    let deadline = Instant::now() + within;
    while Instant::now() < deadline {
        if let Some(status) = child.try_wait()? {
            return Ok(Some(status));
        }
        thread::sleep(Duration::from_millis(20));
    }
    child.kill()?;
    child.wait()?;
    Ok(None)
}

fn drain(pipe: Option<impl Read + Send + 'static>) -> thread::JoinHandle<Vec<u8>> {
    thread::spawn(move || {
        let mut bytes = Vec::new();
        if let Some(mut pipe) = pipe {
            // A broken pipe ends the output; what came before it still counts.
            let _ = pipe.read_to_end(&mut bytes);
        }
        bytes
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dropped_process_is_gone() -> Result<()> {
        let logs = tempfile::tempdir()?;
        let process = Process::start("sleeper", Command::new("sleep").arg("600"), logs.path())?;
        let pid = process.pid();
        drop(process);
        assert!(rustix::process::test_kill_process(pid).is_err());
        Ok(())
    }

    #[test]
    fn dismissed_watchdog_does_nothing() -> Result<()> {
        let directory = tempfile::tempdir()?;
        let trace = directory.path().join("trace");
        Watchdog::start(&format!("touch '{}'", trace.display()))?.dismiss();
        assert!(!trace.exists());
        Ok(())
    }

    #[test]
    fn watchdog_acts_when_its_owner_is_gone() -> Result<()> {
        let directory = tempfile::tempdir()?;
        let trace = directory.path().join("trace");
        let mut watchdog = Watchdog::start(&format!("touch '{}'", trace.display()))?;
        drop(watchdog.stdin.take());
        watchdog.shell.wait()?;
        assert!(trace.exists());
        Ok(())
    }

    #[test]
    fn descendants_are_found() -> Result<()> {
        let logs = tempfile::tempdir()?;
        let script = "sleep 600 & sleep 601 & wait";
        let shell = Process::start("shell", Command::new("sh").args(["-c", script]), logs.path())?;
        let found = wait_until("the shell has children", Duration::from_secs(10), || {
            let found = descendants(shell.id())?;
            Ok((found.len() == 2).then_some(found))
        })?;
        for pid in found {
            kill_process(pid, Signal::KILL)?;
        }
        Ok(())
    }

    #[test]
    fn slow_command_is_ended() {
        let error = run(Command::new("sleep").arg("600"), Duration::from_millis(100)).map(|_| ());
        assert!(error.is_err_and(|error| error.to_string().contains("took longer")));
    }
}
