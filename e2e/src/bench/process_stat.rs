//! What the kernel says of a process: CPU time, memory.

use std::fs;
use std::time::Duration;

use anyhow::{Context, Result};

/// The unit of times in `/proc`: USER_HZ, which is 100 on every Linux.
const TICKS_PER_SECOND: u64 = 100;

/// The CPU time that all threads of a process have used, in user and kernel mode.
///
/// # Errors
/// If there is no such process.
pub fn cpu_time(pid: u32) -> Result<Duration> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).context("the server is gone")?;
    // The name in parentheses may hold anything, so count from the last parenthesis: state is the first field.
    let (_, fields) = text.rsplit_once(')').context("unknown form of /proc/PID/stat")?;
    let ticks = fields.split_whitespace().skip(11).take(2).map(str::parse::<u64>).sum::<Result<u64, _>>()?;
    Ok(Duration::from_millis(ticks * 1000 / TICKS_PER_SECOND))
}

/// The CPU time that the whole machine has used, everybody's, and what was taken from it by others on its host.
///
/// # Errors
/// If the kernel tells it in another form.
pub fn machine_cpu_time() -> Result<Duration> {
    let text = fs::read_to_string("/proc/stat").context("cannot read /proc/stat")?;
    let line = text.lines().next().context("unknown form of /proc/stat")?;
    let fields: Vec<u64> = line.split_whitespace().skip(1).map(str::parse).collect::<Result<_, _>>()?;
    // user, nice, system, (idle, iowait), irq, softirq, steal; guest time is part of user time.
    let busy = [0, 1, 2, 5, 6, 7].iter().filter_map(|&field| fields.get(field)).sum::<u64>();
    Ok(Duration::from_millis(busy * 1000 / TICKS_PER_SECOND))
}

/// Memory of a process, in bytes.
#[derive(Debug, Clone, Copy, Default, serde::Serialize)]
pub struct Memory {
    /// Resident now.
    pub resident_bytes: u64,
    /// Resident at most since the start or the last [`reset_peak`].
    pub peak_bytes: u64,
    /// Resident now and not backed by a file.
    pub anonymous_bytes: u64,
}

/// Reads the memory of a process.
///
/// # Errors
/// If there is no such process.
pub fn memory(pid: u32) -> Result<Memory> {
    let text = fs::read_to_string(format!("/proc/{pid}/status")).context("the server is gone")?;
    let field = |name: &str| -> Result<u64> {
        let line = text.lines().find(|line| line.starts_with(name)).context("unknown form of /proc/PID/status")?;
        let kibibytes: u64 = line.split_whitespace().nth(1).context("a field without value")?.parse()?;
        Ok(kibibytes * 1024)
    };
    Ok(Memory { resident_bytes: field("VmRSS:")?, peak_bytes: field("VmHWM:")?, anonymous_bytes: field("RssAnon:")? })
}

/// Makes the peak start again from what is resident now.
///
/// # Errors
/// If the process belongs to somebody else.
pub fn reset_peak(pid: u32) -> Result<()> {
    fs::write(format!("/proc/{pid}/clear_refs"), "5").context("cannot reset the memory peak")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn own_process_has_memory_and_its_peak_is_not_less() -> Result<()> {
        let pid = std::process::id();
        cpu_time(pid)?;
        let memory = memory(pid)?;
        assert!(memory.resident_bytes > 0 && memory.peak_bytes >= memory.anonymous_bytes);
        Ok(())
    }
}
