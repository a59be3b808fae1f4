//! `cargo xtask ci`: every check that a change has to pass, the same here and on any server.
//!
//! The steps run in order, each is printed before it starts, and the first that fails ends the run.

use std::io::Read as _;
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};

use crate::{arm, dashboard, tidy};

/// The target that phones run.
const ANDROID: &str = "aarch64-linux-android";

/// The crates that compile for Android without a C compiler for it.
const WITHOUT_C: [&str; 6] = [
    "shoal-gguf",
    "shoal-kernels",
    "shoal-proto",
    "shoal-engine",
    "shoal-tokenizer",
    "shoal-cluster",
];

/// How long a missing target may take to download: it took from 10 s to 5 minutes, and the check is one of
/// many.
const DOWNLOAD_MAX: Duration = Duration::from_secs(180);

/// Runs `cargo xtask ci`.
pub fn run() -> anyhow::Result<()> {
    let start = Instant::now();
    cargo(&["fmt", "--all", "--check"], &[])?;
    cargo(&["clippy", "--workspace", "--all-targets", "--", "-D", "warnings"], &[])?;
    cargo(&["test", "--workspace"], &[])?;
    cargo(&["doc", "--workspace", "--no-deps"], &[("RUSTDOCFLAGS", "-Dwarnings")])?;
    println!("\n==> cargo xtask tidy");
    tidy::run()?;
    println!("\n==> cargo xtask dashboard --check");
    dashboard::check()?;
    if has_target(ANDROID)? {
        let mut args = vec!["clippy", "--target", ANDROID];
        args.extend(WITHOUT_C.iter().flat_map(|name| ["-p", name]));
        args.extend(["--", "-D", "warnings"]);
        cargo(&args, &[])?;
    } else {
        println!(
            "\n==> SKIPPED: the check for {ANDROID}. The target is not installed and could not be"
        );
        println!("    downloaded within {} s: rustup target add {ANDROID}", DOWNLOAD_MAX.as_secs());
    }
    arm::run_if_at_hand()?;
    println!("\n==> everything passed in {} s", start.elapsed().as_secs());
    Ok(())
}

pub(crate) fn cargo(args: &[&str], environment: &[(&str, &str)]) -> anyhow::Result<()> {
    let variables: String =
        environment.iter().map(|(key, value)| format!("{key}={value} ")).collect();
    let shown = format!("{variables}cargo {}", args.join(" "));
    println!("\n==> {shown}");
    let start = Instant::now();
    let status = Command::new("cargo")
        .args(args)
        .envs(environment.iter().copied())
        .current_dir(tidy::root())
        .status()
        .context("cannot run cargo")?;
    if !status.success() {
        bail!("{shown}: {status}");
    }
    println!("    {} s", start.elapsed().as_secs());
    Ok(())
}

/// Whether a target is installed; not if the compiler came without rustup, for it has the targets that it came with.
pub(crate) fn is_installed(target: &str) -> bool {
    Command::new("rustup").args(["target", "list", "--installed"]).output().is_ok_and(|output| {
        String::from_utf8_lossy(&output.stdout).lines().any(|line| line == target)
    })
}

/// Whether a target is installed, or could be installed in time.
pub(crate) fn has_target(target: &str) -> anyhow::Result<bool> {
    if is_installed(target) {
        return Ok(true);
    }
    println!("\n==> rustup target add {target}");
    let child =
        Command::new("rustup").args(["target", "add", target]).stdout(Stdio::piped()).spawn();
    let mut child = match child {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(false),
        child => child.context("cannot run rustup")?,
    };
    // The standard library cannot wait for a process with a limit, but it can for a message, and the
    // process's output ends with it.
    let mut output = child.stdout.take().context("rustup has no output")?;
    let (ended, has_ended) = mpsc::sync_channel(1);
    thread::spawn(move || {
        let mut rest = Vec::new();
        let _ = output.read_to_end(&mut rest);
        let _ = ended.send(());
    });
    if has_ended.recv_timeout(DOWNLOAD_MAX).is_err() {
        child.kill().context("cannot end rustup")?;
    }
    Ok(child.wait().context("cannot wait for rustup")?.success())
}
