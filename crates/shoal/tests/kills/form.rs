//! How much of everything: the environment chooses, and without it the short form runs.

use std::{
    fs,
    time::{SystemTime, UNIX_EPOCH},
};

use serde_json::Value;

/// Seed of all choices; by default from the clock, so that every run looks elsewhere.
const SEED: &str = "KILL_SEED";
/// How many cases, or `all`.
const CASES: &str = "KILL_CASES";
/// The number of the one case to run.
const CASE: &str = "KILL_CASE";
/// Only losses whose name has this in it.
const LOSS: &str = "KILL_LOSS";
/// Stalls of three seconds, one every 30 s.
const STALLS: &str = "KILL_STALLS";
/// Chats in bad weather.
const CHATS: &str = "KILL_CHATS";
/// Minutes of the soak.
const MINUTES: &str = "KILL_MINUTES";
/// A file for the report, as JSON.
const REPORT: &str = "KILL_REPORT";
/// What the nodes log, as `SHOAL_LOG`.
const LOG: &str = "KILL_LOG";

/// Which cases of the kill test run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Cases {
    /// One of each loss.
    OneOfEach,
    /// So many, in an order that the seed makes.
    Some(usize),
    /// This one.
    Only(usize),
    All,
}

pub(crate) fn seed() -> u64 {
    number(SEED).unwrap_or_else(|| {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        u64::from(now.subsec_nanos())
    })
}

pub(crate) fn cases() -> Cases {
    let only = number(CASE).map(|i| Cases::Only(index(i)));
    only.unwrap_or_else(|| match text(CASES).as_deref() {
        None => Cases::OneOfEach,
        Some("all") => Cases::All,
        Some(_) => Cases::Some(index(number(CASES).expect("a number, or all"))),
    })
}

/// What a loss's name must contain.
pub(crate) fn loss() -> String {
    text(LOSS).unwrap_or_default()
}

pub(crate) fn n_stalls() -> Option<u64> {
    number(STALLS)
}

pub(crate) fn n_chats() -> Option<usize> {
    number(CHATS).map(index)
}

pub(crate) fn minutes() -> Option<u64> {
    number(MINUTES)
}

pub(crate) fn log() -> Option<String> {
    text(LOG)
}

/// Writes a report where one is wanted. Tests that run together append to it, a line each.
pub(crate) fn write_report(report: &Value) {
    use std::io::Write;

    let Some(path) = text(REPORT) else { return };
    let file = fs::OpenOptions::new().create(true).append(true).open(&path);
    let mut file = file.unwrap_or_else(|error| panic!("{path}: {error}"));
    writeln!(file, "{report}").unwrap_or_else(|error| panic!("{path}: {error}"));
}

fn text(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|text| !text.trim().is_empty())
}

fn number(name: &str) -> Option<u64> {
    let text = text(name).filter(|text| text != "all")?;
    Some(text.parse().unwrap_or_else(|_| panic!("{name}: expected a number, got {text:?}")))
}

fn index(n: u64) -> usize {
    usize::try_from(n).expect("a machine of 64 bits")
}
