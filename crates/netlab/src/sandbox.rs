//! A program that runs itself again inside namespaces of its own.
//!
//! Inside, it is root over networks and mounts that nobody else sees, and the first process of a process namespace: when it
//! ends, in whatever way, the kernel ends everything that it started and takes the networks down.

use std::{
    env,
    ffi::OsString,
    io::{self, Write},
    process::{Command, ExitCode, Stdio},
};

/// Set inside.
const INSIDE: &str = "NETLAB_INSIDE";
/// What the inner run of a test says at its end, so that a test that was not found is no success.
const DONE: &str = "netlab: the test ran inside";

/// Runs a test's body inside fresh namespaces: the test's program again, with this test alone.
///
/// Call it with a closure as the only thing that a test does. Where namespaces are not permitted (or there is no `unshare`, no
/// `ip`, no TAP device), it says so on standard error and returns: the test is skipped.
///
/// # Panics
/// Panics if the test failed inside.
#[track_caller]
pub fn isolated<F: FnOnce()>(body: F) {
    if env::var_os(INSIDE).is_some() {
        body();
        say(DONE);
        return;
    }
    let test = test_of::<F>();
    if let Err(why) = probe() {
        say(&format!("SKIPPED {test}: no networks can be made here: {why}"));
        return;
    }
    let mut command = again(["--exact", &test, "--nocapture"].map(OsString::from));
    let output = command.output().expect("the probe started it too");
    let stderr = String::from_utf8_lossy(&output.stderr);
    #[expect(clippy::print_stdout, reason = "the harness keeps it with the test")]
    {
        print!("{}{stderr}", String::from_utf8_lossy(&output.stdout));
    }
    assert!(output.status.success(), "{test} failed inside its namespaces, see above");
    assert!(stderr.contains(DONE), "{test} was not found inside its namespaces");
}

/// Runs a program's body inside fresh namespaces: the program again, with its arguments.
pub fn isolated_program(body: impl FnOnce() -> ExitCode) -> ExitCode {
    if env::var_os(INSIDE).is_some() {
        return body();
    }
    if let Err(why) = probe() {
        say(&format!("no networks can be made here: {why}"));
        return ExitCode::FAILURE;
    }
    let status = again(env::args_os().skip(1)).status().expect("the probe started it too");
    if status.success() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// The name by which the harness knows the test that a closure is written in.
fn test_of<F>() -> String {
    let path = std::any::type_name::<F>();
    let path = path.split_once("::").map_or(path, |(_crate, path)| path);
    path.trim_end_matches("::{{closure}}").to_owned()
}

fn unshare() -> Command {
    let mut command = Command::new("unshare");
    command.args(["--user", "--map-root-user", "--net", "--mount", "--pid"]);
    command.args(["--fork", "--kill-child", "--mount-proc", "--"]);
    command
}

fn again(arguments: impl IntoIterator<Item = OsString>) -> Command {
    let mut command = unshare();
    command.arg(env::current_exe().expect("Linux tells")).args(arguments).env(INSIDE, "1");
    command
}

/// Tries what is needed; returns why it does not work.
fn probe() -> Result<(), String> {
    let mut command = unshare();
    command.args(["ip", "tuntap", "add", "dev", "probe", "mode", "tap"]).stdin(Stdio::null());
    let output = command.output().map_err(|error| format!("unshare: {error}"))?;
    if output.status.success() {
        return Ok(());
    }
    Err(String::from_utf8_lossy(&output.stderr).trim().to_owned())
}

/// Not `eprintln`: the harness would hide it with the output of a test that passes.
fn say(line: &str) {
    // There is nobody to tell that nobody can be told.
    let _ = writeln!(io::stderr(), "{line}");
}
