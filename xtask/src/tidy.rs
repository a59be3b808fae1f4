//! `cargo xtask tidy`: the rules of the layout that no compiler checks.
//!
//! Each rule is a pure function from a path and a text, or from what `cargo` prints, to findings. A rule
//! that cannot be kept in some place has that place in a table here, with the reason: the tables are the
//! only exceptions.
//!
//! - `dashboard`: what the page's sources may say
//! - `files`: names, sizes and white space of every file
//! - `source`: what Rust sources may say, by crate
//! - `layers`: which crate may depend on which, and the number of crates on a phone

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, bail};

mod dashboard;
mod files;
mod layers;
mod source;

/// A place that breaks a rule.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Finding {
    /// Path in the repository.
    path: String,
    /// Line, from 1, if the finding is about one.
    line: Option<usize>,
    /// What is wrong, and what would be right.
    text: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.line {
            Some(line) => write!(f, "{}:{line}: {}", self.path, self.text),
            None => write!(f, "{}: {}", self.path, self.text),
        }
    }
}

fn finding(path: &str, line: Option<usize>, text: impl Into<String>) -> Finding {
    Finding { path: path.to_owned(), line, text: text.into() }
}

/// Runs `cargo xtask tidy`.
pub fn run() -> anyhow::Result<()> {
    let root = root();
    let mut findings = Vec::new();
    let listing = output(
        Command::new("git")
            .args(["ls-files", "-z", "--cached", "--others", "--exclude-standard"])
            .current_dir(&root),
    )?;
    let mut n_files = 0;
    for path in listing.split('\0').filter(|path| !path.is_empty()) {
        // A file that was deleted but is still in the index is git's business.
        let Ok(bytes) = fs::read(root.join(path)) else { continue };
        n_files += 1;
        findings.extend(files::check(path, &bytes));
        let Ok(text) = std::str::from_utf8(&bytes) else { continue };
        findings.extend(dashboard::check(path, text));
        if path.ends_with(".rs") {
            findings.extend(source::check(path, text));
        }
    }

    let metadata = output(
        Command::new("cargo")
            .args(["metadata", "--no-deps", "--format-version", "1"])
            .current_dir(&root),
    )?;
    findings.extend(layers::check(&layers::packages(&metadata)?));
    let tree = output(
        Command::new("cargo")
            .args(["tree", "-p", "shoal", "-e", "normal,build", "--prefix", "none"])
            .args(["--target", layers::ANDROID])
            .current_dir(&root),
    )?;
    let n_crates = layers::count(&tree);
    findings.extend(layers::check_budget(n_crates));

    for finding in &findings {
        println!("{finding}");
    }
    if !findings.is_empty() {
        bail!("tidy: {} findings", findings.len());
    }
    println!("tidy: {n_files} files, {n_crates} crates on {}", layers::ANDROID);
    Ok(())
}

/// The root of the repository.
pub(crate) fn root() -> PathBuf {
    let xtask = Path::new(env!("CARGO_MANIFEST_DIR"));
    xtask.parent().expect("xtask is a directory of the repository").to_owned()
}

fn output(command: &mut Command) -> anyhow::Result<String> {
    let output = command.output().with_context(|| format!("cannot run {command:?}"))?;
    if !output.status.success() {
        bail!("{command:?}: {}: {}", output.status, String::from_utf8_lossy(&output.stderr));
    }
    String::from_utf8(output.stdout).with_context(|| format!("{command:?}: output is no UTF-8"))
}
