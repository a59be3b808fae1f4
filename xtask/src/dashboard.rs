//! `cargo xtask dashboard`: builds the page in `dashboard/`, whose output is committed so that cargo alone builds the program.

use std::collections::BTreeMap;
use std::env;
use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, bail};

use crate::tidy;

/// Names under which Chromium is installed.
const BROWSERS: [&str; 3] = ["chromium", "chromium-browser", "google-chrome"];

/// Arguments of `cargo xtask dashboard`.
#[derive(Debug, Clone, clap::Args)]
pub struct Args {
    /// Change nothing: check the sources, run their tests, and compare what they build with what is committed
    #[arg(long)]
    check: bool,
}

/// Runs `cargo xtask dashboard`.
pub fn run(args: &Args) -> anyhow::Result<()> {
    if args.check {
        return check();
    }
    npm(&["ci"])?;
    npm(&["run", "build"])
}

/// Checks the page's sources and that the committed output is theirs. Says so and passes where there is no npm: the output
/// is what users get.
pub fn check() -> anyhow::Result<()> {
    if Command::new("npm").arg("--version").output().is_err() {
        println!(
            "    SKIPPED: there is no npm (Node.js 20.19 or newer), so nothing checks dashboard/"
        );
        return Ok(());
    }
    npm(&["ci"])?;
    npm(&["run", "check"])?;
    npm(&["test"])?;
    let built = tidy::root().join("target/dashboard");
    let place = built.to_str().context("the path of the repository is no text")?;
    npm(&["run", "build", "--", "--outDir", place])?;
    compare(&directory().join("dist"), &built)?;
    browse()
}

/// Runs the tests that use the page in a browser, against real nodes on loopback.
fn browse() -> anyhow::Result<()> {
    let Some(browser) = browser() else {
        println!(
            "    SKIPPED: there is no Chromium, so nobody looked at the page (set CHROMIUM, or install chromium)"
        );
        return Ok(());
    };
    println!("    {}", browser.display());
    run_in(&tidy::root(), "cargo", &["build", "-p", "shoal"], &[])?;
    run_in(&tidy::root(), "cargo", &["build", "-p", "shoal-fake-hub", "--example", "serve"], &[])?;
    run_in(&directory(), "npm", &["run", "e2e"], &[("CHROMIUM", browser.as_os_str())])
}

/// A Chromium that is there, or that the system's package manager brings where this may use it.
fn browser() -> Option<PathBuf> {
    let installed = || {
        let named = env::var_os("CHROMIUM").map(PathBuf::from);
        let path = env::var_os("PATH").unwrap_or_default();
        let places = env::split_paths(&path).flat_map(|dir| BROWSERS.map(|name| dir.join(name)));
        named.into_iter().chain(places).find(|place| place.is_file())
    };
    installed().or_else(|| {
        println!("    apt-get install chromium");
        for args in
            [&["update", "-q"][..], &["install", "-y", "-q", "--no-install-recommends", "chromium"]]
        {
            let output = Command::new("apt-get").args(args).output().ok()?;
            output.status.success().then_some(())?;
        }
        installed()
    })
}

fn directory() -> PathBuf {
    tidy::root().join("dashboard")
}

fn npm(args: &[&str]) -> anyhow::Result<()> {
    run_in(&directory(), "npm", args, &[])
}

fn run_in(
    place: &Path,
    program: &str,
    args: &[&str],
    environment: &[(&str, &OsStr)],
) -> anyhow::Result<()> {
    let shown = format!("{program} {}", args.join(" "));
    println!("    {shown}");
    let environment = environment.iter().copied();
    let status = Command::new(program).args(args).envs(environment).current_dir(place).status();
    let status = status.with_context(|| format!("cannot run {shown}"))?;
    if !status.success() {
        bail!("{shown}: {status}");
    }
    Ok(())
}

/// Fails at the first difference between what is committed and what was built.
fn compare(committed: &Path, built: &Path) -> anyhow::Result<()> {
    let (committed, built) = (files(committed)?, files(built)?);
    for name in committed.keys().chain(built.keys()) {
        if committed.get(name) != built.get(name) {
            bail!(
                "dashboard/dist/{name} is not what the sources make: run `cargo xtask dashboard` and commit its output"
            );
        }
    }
    Ok(())
}

/// The files of a directory by name; the page has no directories.
fn files(directory: &Path) -> anyhow::Result<BTreeMap<String, Vec<u8>>> {
    let entries = fs::read_dir(directory).with_context(|| format!("{}", directory.display()))?;
    entries
        .map(|entry| {
            let path = entry?.path();
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            let bytes = fs::read(&path).with_context(|| format!("{}", path.display()))?;
            Ok((name, bytes))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn output_that_is_not_of_the_sources_is_named() {
        let root = tempfile::tempdir().expect("a directory");
        let (committed, built) = (root.path().join("a"), root.path().join("b"));
        for place in [&committed, &built] {
            fs::create_dir(place).expect("a directory");
            fs::write(place.join("index.js"), "1").expect("a file");
        }
        compare(&committed, &built).expect("the same");
        fs::write(built.join("index.js"), "2").expect("a file");
        let error = compare(&committed, &built).expect_err("a file differs");
        assert!(error.to_string().contains("dist/index.js"), "{error}");
        fs::write(built.join("index.js"), "1").expect("a file");
        fs::write(built.join("more.js"), "").expect("a file");
        let error = compare(&committed, &built).expect_err("a file is missing");
        assert!(error.to_string().contains("dist/more.js"), "{error}");
    }
}
