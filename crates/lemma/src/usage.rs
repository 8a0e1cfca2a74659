//! What this process has used, by the operating system's account.

use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

/// A point on the clock of CPU time, user and system, of all threads of this process.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Cpu(Duration);

impl Cpu {
    /// Now.
    pub(crate) fn now() -> Self {
        let time = clock_gettime(ClockId::ProcessCPUTime);
        // It counts from zero and up.
        let seconds = u64::try_from(time.tv_sec).unwrap_or_default();
        let nanoseconds = u32::try_from(time.tv_nsec).unwrap_or_default();
        Self(Duration::new(seconds, nanoseconds))
    }

    /// CPU time since then.
    pub(crate) fn elapsed(self) -> Duration {
        Self::now().0.saturating_sub(self.0)
    }
}

/// The largest resident memory so far, bytes; `None` where the operating system does not tell (it does on Linux).
pub(crate) fn peak_memory() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmHWM:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kib.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpu_time_passes_with_work() {
        let start = Cpu::now();
        let mut work = 0u64;
        // Ends only if the clock moves.
        while start.elapsed() < Duration::from_millis(2) {
            work = std::hint::black_box(work + 1);
        }
        assert!(work > 0);
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn memory_counts_what_was_touched() {
        let before = peak_memory().unwrap();
        let block = std::hint::black_box(vec![1u8; 64 << 20]);
        assert!(peak_memory().unwrap() >= before.max(block.len() as u64));
    }
}
