//! Starting the program and waiting until it is ready: shared by the tests of this crate through `#[path]`, since each of their
//! targets is a program of its own.

use std::{
    io::{BufRead, BufReader},
    process::{ChildStdout, Command, Stdio},
    sync::mpsc,
    time::Duration,
};

/// No wait of a test is longer; a debug build on a busy machine needs a good part of it.
pub(crate) const PATIENCE: Duration = Duration::from_secs(120);

/// The program with a clean environment.
pub(crate) fn shoal(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_shoal"));
    command.args(args).stdin(Stdio::null());
    let ours = std::env::vars_os().map(|(name, _)| name);
    for name in ours.filter(|name| {
        let name = name.to_string_lossy();
        name.starts_with("SHOAL_") || name.starts_with("HF_") || name.starts_with("OLLAMA_")
    }) {
        command.env_remove(name);
    }
    // Nothing of this machine's user is looked at, and nothing leaves it.
    command.env("HF_HOME", "/nonexistent").env("OLLAMA_MODELS", "/nonexistent");
    command.env("HF_ENDPOINT", "http://127.0.0.1:1");
    command.env("SHOAL_DATA_DIR", env!("CARGO_TARGET_TMPDIR"));
    command
}

/// Reads what a node prints until it says where it listens; returns that URL.
#[track_caller]
pub(crate) fn url_when_ready(stdout: ChildStdout) -> String {
    let (sender, lines) = mpsc::channel();
    std::thread::spawn(move || {
        for line in BufReader::new(stdout).lines().map_while(Result::ok) {
            if sender.send(line).is_err() {
                break;
            }
        }
    });
    let line = lines.recv_timeout(PATIENCE).expect("the node says where it listens");
    line.strip_prefix("Shoal is ready: ").expect("the ready line").to_owned()
}
