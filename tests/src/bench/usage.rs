//! What a process costs: processor time and peak memory, as `/proc` has them.

use std::fs;
use std::time::Duration;

use anyhow::{Context as _, Result};
use serde::Serialize;

/// A process that is watched from a moment on.
pub(super) struct Watch {
    process: u32,
    begun: Duration,
}

/// What it cost since then.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Usage {
    /// Processor time for each operation, in milliseconds.
    pub cpu_ms: f64,
    /// The most memory that it had at once, in MiB.
    pub peak_mib: f64,
}

impl Watch {
    /// Begins to watch.
    pub(super) fn begin(process: u32) -> Result<Watch> {
        // Proc(5): the peak is what it has now.
        fs::write(format!("/proc/{process}/clear_refs"), "5")?;
        Ok(Watch { process, begun: processor_time(process)? })
    }

    /// What it cost, divided by so many operations.
    pub(super) fn end(self, operations: usize) -> Result<Usage> {
        let spent = processor_time(self.process)?.saturating_sub(self.begun);
        let status = fs::read_to_string(format!("/proc/{}/status", self.process))?;
        let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")?.trim().strip_suffix(" kB"));
        let peak: f64 = peak.context("a peak in `status`")?.parse()?;
        Ok(Usage { cpu_ms: spent.as_secs_f64() * 1_000.0 / operations as f64, peak_mib: peak / 1_024.0 })
    }
}

/// User and system time of all threads, those that have ended too.
fn processor_time(process: u32) -> Result<Duration> {
    let stat = fs::read_to_string(format!("/proc/{process}/stat"))?;
    // The name in parentheses may hold anything; fields 14 and 15 of proc(5) are the 12th and 13th after it.
    let (_, fields) = stat.rsplit_once(')').context("a name in `stat`")?;
    let ticks = fields.split_whitespace().skip(11).take(2).map(str::parse::<u64>).sum::<Result<u64, _>>()?;
    Ok(Duration::from_secs_f64(ticks as f64 / rustix::param::clock_ticks_per_second() as f64))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_this_process_does_is_seen() {
        let watch = Watch::begin(std::process::id()).expect("it can be read");
        let begin = std::time::Instant::now();
        let held = vec![7_u8; 64 << 20];
        while begin.elapsed() < Duration::from_millis(100) {
            std::hint::black_box(&held);
        }
        let usage = watch.end(1).expect("it can be read");
        assert!(usage.cpu_ms > 0.0 && usage.peak_mib > 64.0, "{usage:?}");
    }
}
