//! A program under a clock.

use std::io::Read;
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};

/// How often memory is looked at: seldom enough not to disturb, often enough to see what a program that ends had.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// A program that has ended well.
#[derive(Debug)]
pub(super) struct Ended {
    pub(super) stdout: String,
    pub(super) stderr: String,
    /// From its start to its end.
    pub(super) wall: Duration,
    /// Its largest resident memory, as last seen while it ran; `None` where the system does not tell.
    pub(super) peak_rss_bytes: Option<u64>,
}

/// Runs a program to its end.
pub(super) fn run(command: &mut Command) -> anyhow::Result<Ended> {
    let shown = format!("{command:?}");
    eprintln!("==> {shown}");
    let started = Instant::now();
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("cannot run {shown}"))?;
    let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
    let id = child.id();
    let (ended, has_ended) = mpsc::channel::<()>();
    thread::scope(|scope| {
        let stdout = scope.spawn(|| read(stdout));
        let stderr = scope.spawn(|| read(stderr));
        let memory = scope.spawn(move || {
            let mut peak = None;
            while has_ended.recv_timeout(LOOK_EVERY) == Err(mpsc::RecvTimeoutError::Timeout) {
                peak = peak.max(peak_rss_bytes(id));
            }
            peak
        });
        let status = child.wait().with_context(|| format!("cannot wait for {shown}"))?;
        let wall = started.elapsed();
        drop(ended);
        let text = |thread: thread::ScopedJoinHandle<'_, String>| thread.join().unwrap_or_default();
        let (stdout, stderr) = (text(stdout), text(stderr));
        if !status.success() {
            let last: Vec<&str> = stderr.lines().rev().take(3).collect();
            bail!("{shown}: {status}: {}", last.join(" / "));
        }
        let peak_rss_bytes = memory.join().unwrap_or_default();
        Ok(Ended { stdout, stderr, wall, peak_rss_bytes })
    })
}

fn read(pipe: Option<impl Read>) -> String {
    let mut bytes = Vec::new();
    // What was read before an error is all there is.
    let _ = pipe.map(|mut pipe| pipe.read_to_end(&mut bytes));
    String::from_utf8_lossy(&bytes).into_owned()
}

/// The high-water mark of a running process.
fn peak_rss_bytes(id: u32) -> Option<u64> {
    let status = std::fs::read_to_string(format!("/proc/{id}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok().map(|kib| kib * 1024)
}
