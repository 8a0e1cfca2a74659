//! A child process, and what the operating system says of it.

use std::{
    io::{BufRead, BufReader},
    path::Path,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use crate::Result;

/// `lemma` beside this executable.
pub(crate) fn lemma() -> Result<std::path::PathBuf> {
    let path = std::env::current_exe()?.with_file_name("lemma");
    if !path.exists() {
        return Err(format!(
            "{} is not there: run `cargo build --release` first",
            path.display()
        )
        .into());
    }
    Ok(path)
}

/// A running child whose first line of standard output has been read. Killed when dropped.
pub(crate) struct Process {
    child: Child,
}

impl Process {
    /// Starts `program` and waits for its first line.
    pub(crate) fn start(program: &Path, args: &[&str]) -> Result<(Self, String, Duration)> {
        let start = Instant::now();
        let mut child = Command::new(program)
            .args(args)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()?;
        let stdout = child.stdout.take().ok_or("no standard output")?;
        let mut line = String::new();
        BufReader::new(stdout).read_line(&mut line)?;
        if line.is_empty() {
            return Err(format!("{} ended before it was ready", program.display()).into());
        }
        Ok((Self { child }, line, start.elapsed()))
    }

    fn field(&self, file: &str) -> Result<String> {
        Ok(std::fs::read_to_string(format!(
            "/proc/{}/{file}",
            self.child.id()
        ))?)
    }

    /// CPU time used so far, user and system, all threads (proc(5), `stat`).
    pub(crate) fn cpu_seconds(&self) -> Result<f64> {
        let stat = self.field("stat")?;
        let after_name = stat.rsplit_once(')').ok_or("malformed stat")?.1;
        let fields: Vec<&str> = after_name.split_whitespace().collect();
        let ticks: f64 = fields[11].parse::<f64>()? + fields[12].parse::<f64>()?;
        Ok(ticks / 100.0)
    }

    /// Resident memory, MB.
    pub(crate) fn resident_mb(&self) -> Result<f64> {
        self.megabytes("VmRSS:")
    }

    /// The most resident memory since the start or [`forget_peak`](Self::forget_peak), MB.
    pub(crate) fn peak_mb(&self) -> Result<f64> {
        self.megabytes("VmHWM:")
    }

    /// From now on the peak is that of what follows (proc(5), `clear_refs`).
    pub(crate) fn forget_peak(&self) -> Result<()> {
        let file = format!("/proc/{}/clear_refs", self.child.id());
        Ok(std::fs::write(file, "5")?)
    }

    fn megabytes(&self, field: &str) -> Result<f64> {
        let status = self.field("status")?;
        let value = status.lines().find_map(|line| line.strip_prefix(field));
        let kib = value.and_then(|value| value.split_whitespace().next());
        let kib: f64 = kib.ok_or_else(|| format!("no {field}"))?.parse()?;
        Ok(kib * 1024.0 / 1e6)
    }

    /// Asks the process to end and waits until it has.
    pub(crate) fn stop(mut self) -> Result<()> {
        let id = self.child.id().to_string();
        Command::new("kill").args(["-INT", &id]).status()?;
        self.child.wait()?;
        Ok(())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
