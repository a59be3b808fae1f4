//! Dependencies point only downward (ARCHITECTURE.md), and a phone compiles no more than it must.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::Context as _;
use serde_json::Value;

use super::{Finding, finding};

/// The target whose number of crates is bounded.
pub(super) const ANDROID: &str = "aarch64-linux-android";

/// Most crates that a phone compiles for the binary. iroh alone is two thirds of them.
const CRATES_MAX: usize = 350;

/// Each crate of the workspace and those of the workspace that it may use.
const LAYERS: [(&str, &[&str]); 14] = [
    ("shoal-gguf", &[]),
    ("shoal-kernels", &[]),
    ("shoal-proto", &[]),
    ("shoal-engine", &["shoal-gguf", "shoal-kernels", "shoal-proto"]),
    ("shoal-tokenizer", &["shoal-gguf", "shoal-proto"]),
    ("shoal-cluster", &["shoal-proto"]),
    ("shoal-net", &["shoal-proto"]),
    ("shoal-hub", &["shoal-proto", "shoal-gguf"]),
    (
        "shoal-node",
        &[
            "shoal-cluster",
            "shoal-engine",
            "shoal-gguf",
            "shoal-hub",
            "shoal-net",
            "shoal-tokenizer",
            "shoal-proto",
        ],
    ),
    ("shoal-api", &["shoal-node", "shoal-proto"]),
    ("shoal", &["shoal-api", "shoal-node", "shoal-proto"]),
    ("xtask", &["shoal-gguf"]),
    ("shoal-fake-hub", &[]),
    ("shoal-netlab", &[]),
];

/// What tests may use besides the crates below their own.
const TESTS: [(&str, &[&str]); 5] = [
    ("xtask", &["shoal-kernels", "shoal-engine"]),
    ("shoal-engine", &["xtask"]),
    ("shoal-hub", &["shoal-fake-hub"]),
    ("shoal-node", &["shoal-fake-hub", "xtask"]),
    ("shoal", &["shoal-fake-hub", "shoal-netlab", "xtask"]),
];

/// Crates of others, and who alone may use them.
const OUTSIDE: [(&str, &[&str], &str); 6] = [
    ("iroh", &["shoal-net"], "only `net` knows the transport"),
    ("axum", &["shoal-api"], "only `api` speaks HTTP"),
    ("reqwest", &["shoal-hub"], "one constructor for every client, with roots that work in Termux"),
    ("anyhow", &["shoal", "xtask"], "libraries have error types"),
    ("clap", &["shoal", "xtask"], "only programs have a command line"),
    (
        "tokio",
        &["shoal-net", "shoal-hub", "shoal-node", "shoal-api", "shoal", "shoal-fake-hub"],
        "the core is synchronous",
    ),
];

/// A crate of the workspace.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Package {
    name: String,
    /// Path of its manifest in the repository.
    manifest: String,
    /// Names of the crates that it is built from.
    uses: BTreeSet<String>,
    /// Names of the crates that its tests use besides.
    tests_use: BTreeSet<String>,
    features: Vec<String>,
}

/// Reads the output of `cargo metadata --no-deps`.
pub(super) fn packages(json: &str) -> anyhow::Result<Vec<Package>> {
    let json: Value = serde_json::from_str(json).context("cargo metadata: no JSON")?;
    let root = json["workspace_root"].as_str().context("cargo metadata: no workspace_root")?;
    let list = json["packages"].as_array().context("cargo metadata: no packages")?;
    list.iter().map(|package| read_package(package, root)).collect()
}

fn read_package(json: &Value, root: &str) -> anyhow::Result<Package> {
    let name = json["name"].as_str().context("cargo metadata: package without name")?.to_owned();
    let manifest = json["manifest_path"].as_str().context("cargo metadata: no manifest_path")?;
    let manifest = manifest.strip_prefix(root).unwrap_or(manifest).trim_start_matches('/');
    let mut package = Package { name, manifest: manifest.to_owned(), ..Package::default() };
    for dependency in json["dependencies"].as_array().context("cargo metadata: no dependencies")? {
        let used =
            dependency["name"].as_str().context("cargo metadata: dependency without name")?;
        let is_for_tests = dependency["kind"] == "dev";
        let uses = if is_for_tests { &mut package.tests_use } else { &mut package.uses };
        uses.insert(used.to_owned());
    }
    if let Some(features) = json["features"].as_object() {
        package.features = features.keys().cloned().collect();
    }
    Ok(package)
}

/// Checks who depends on whom.
pub(super) fn check(packages: &[Package]) -> Vec<Finding> {
    let layers: BTreeMap<&str, &[&str]> = LAYERS.into_iter().collect();
    let mut findings = Vec::new();
    for package in packages {
        let mut push = |text: String| findings.push(finding(&package.manifest, None, text));
        let name = package.name.as_str();
        let Some(allowed) = layers.get(name) else {
            push(format!("{name}: expected a crate that the table of layers knows"));
            continue;
        };
        let below = below(&layers, name);
        let for_tests: &[&str] =
            TESTS.iter().find(|(n, _)| *n == name).map_or(&[], |(_, used)| used);
        for used in package.uses.iter().map(String::as_str) {
            if layers.contains_key(used) && !allowed.contains(&used) {
                push(format!("{name} must not use {used}: dependencies point downward"));
            }
        }
        for used in package.tests_use.iter().map(String::as_str) {
            let is_known = below.contains(used) || for_tests.contains(&used) || used == name;
            if layers.contains_key(used) && !is_known {
                push(format!("tests of {name} must not use {used}: dependencies point downward"));
            }
        }
        for (used, by, reason) in OUTSIDE {
            if package.uses.contains(used) && !by.contains(&name) {
                push(format!("{name} must not use {used}: {reason}"));
            }
        }
        for feature in &package.features {
            push(format!("feature {feature}: expected none, every build has everything"));
        }
    }
    findings
}

/// All crates that `name` may reach.
fn below<'a>(layers: &BTreeMap<&'a str, &[&'a str]>, name: &str) -> BTreeSet<&'a str> {
    let direct = layers.get(name).copied().unwrap_or_default();
    let mut all: BTreeSet<&str> = direct.iter().copied().collect();
    for used in direct {
        all.extend(below(layers, used));
    }
    all
}

/// Counts the crates in the output of `cargo tree --prefix none`: lines of name and version.
pub(super) fn count(tree: &str) -> usize {
    let crates: BTreeSet<(&str, &str)> = tree
        .lines()
        .filter_map(|line| {
            let mut words = line.split_whitespace();
            Some((words.next()?, words.next()?))
        })
        .collect();
    crates.len()
}

/// Checks the number of crates on a phone.
pub(super) fn check_budget(n_crates: usize) -> Option<Finding> {
    (n_crates > CRATES_MAX).then(|| {
        let text = format!("{n_crates} crates on {ANDROID}, expected at most {CRATES_MAX}");
        finding("Cargo.lock", None, text)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A package in `cargo metadata`'s words.
    fn package(name: &str, uses: &[(&str, &str)], features: &str) -> String {
        let kind = |kind: &str| if kind.is_empty() { "null".into() } else { format!("{kind:?}") };
        let uses: Vec<String> = uses
            .iter()
            .map(|(name, k)| format!("{{\"name\": {name:?}, \"kind\": {}}}", kind(k)))
            .collect();
        format!(
            "{{\"name\": {name:?}, \"manifest_path\": \"/r/c/Cargo.toml\", \"features\": {features}, \
             \"dependencies\": [{}]}}",
            uses.join(",")
        )
    }

    #[track_caller]
    fn check_one(package: &str, expected: &[&str]) {
        let json = format!("{{\"workspace_root\": \"/r\", \"packages\": [{package}]}}");
        let packages = packages(&json).expect("the metadata are well-formed");
        let found: Vec<String> = check(&packages).iter().map(Finding::to_string).collect();
        assert_eq!(found, expected);
    }

    #[test]
    fn dependencies_point_downward() {
        let engine = |uses| package("shoal-engine", uses, "{}");
        check_one(&engine(&[("shoal-gguf", ""), ("thiserror", "")]), &[]);
        check_one(
            &engine(&[("shoal-net", "")]),
            &["c/Cargo.toml: shoal-engine must not use shoal-net: dependencies point downward"],
        );
        check_one(
            &engine(&[("shoal-tokenizer", "build")]),
            &[
                "c/Cargo.toml: shoal-engine must not use shoal-tokenizer: dependencies point downward",
            ],
        );
        check_one(
            &package("shoal-extra", &[], "{}"),
            &["c/Cargo.toml: shoal-extra: expected a crate that the table of layers knows"],
        );
    }

    #[test]
    fn tests_may_reach_further_down_but_not_up() {
        check_one(&package("shoal-node", &[("shoal-gguf", "dev")], "{}"), &[]);
        check_one(&package("xtask", &[("shoal-engine", "dev")], "{}"), &[]);
        check_one(
            &package("shoal-net", &[("shoal-node", "dev")], "{}"),
            &[
                "c/Cargo.toml: tests of shoal-net must not use shoal-node: dependencies point downward",
            ],
        );
    }

    #[test]
    fn foreign_crates_stay_in_their_place() {
        for (used, by, _) in OUTSIDE {
            for name in by {
                check_one(&package(name, &[(used, "")], "{}"), &[]);
            }
            let json = package("shoal-cluster", &[(used, "")], "{}");
            let json = format!("{{\"workspace_root\": \"/r\", \"packages\": [{json}]}}");
            let findings = check(&packages(&json).expect("the metadata are well-formed"));
            assert_eq!(findings.len(), 1, "{used}");
        }
        check_one(&package("shoal-cluster", &[("tokio", "dev")], "{}"), &[]);
    }

    #[test]
    fn there_are_no_features() {
        check_one(
            &package("shoal-engine", &[], "{\"qwen2\": []}"),
            &["c/Cargo.toml: feature qwen2: expected none, every build has everything"],
        );
    }

    #[test]
    fn crates_are_counted_once() {
        assert_eq!(count("a v1.0.0\nb v1.0.0 (/r/b)\na v1.0.0 (*)\na v2.0.0\n\n[build]\n"), 3);
        assert_eq!(check_budget(CRATES_MAX), None);
        assert!(check_budget(CRATES_MAX + 1).is_some());
    }
}
