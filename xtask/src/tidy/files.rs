//! Rules for every file: names, sizes, white space.

use super::{Finding, finding};

/// Larger files make every clone slow for ever.
const FILE_BYTES_MAX: usize = 9_000_000;

/// Names that say nothing about what is inside.
const VAGUE: [&str; 8] =
    ["common", "helper", "helpers", "misc", "types", "util", "utils", "shared"];

/// Files of these kinds have no white space at the ends of lines.
const TRIMMED: [&str; 12] =
    ["css", "html", "js", "json", "md", "py", "rs", "sh", "svelte", "toml", "ts", "yml"];

/// Directories whose files are data, byte for byte: prompts, expected outputs, what a tool has made.
const DATA: [&str; 4] = ["/data/", "/dist/", "/prompts/", "/snapshots/"];

/// Checks one file.
pub(super) fn check(path: &str, bytes: &[u8]) -> Vec<Finding> {
    let mut findings = Vec::new();
    if bytes.len() > FILE_BYTES_MAX {
        let text = format!("{} bytes, expected at most {FILE_BYTES_MAX}", bytes.len());
        findings.push(finding(path, None, text));
    }
    let (stem, extension) = stem_and_extension(path);
    if extension == "rs" {
        findings.extend(check_name(path, stem));
    }
    if TRIMMED.contains(&extension) && !DATA.iter().any(|part| path.contains(part)) {
        findings.extend(check_white_space(path, bytes));
    }
    findings
}

fn stem_and_extension(path: &str) -> (&str, &str) {
    let name = path.rsplit('/').next().unwrap_or(path);
    name.rsplit_once('.').unwrap_or((name, ""))
}

fn check_name(path: &str, stem: &str) -> Option<Finding> {
    if stem == "mod" {
        return Some(finding(path, None, "expected foo.rs beside foo/, got foo/mod.rs"));
    }
    // Test suites may share a module that nothing but tests sees, but it too has a name.
    let directories = path.split('/').rev().skip(1);
    let vague = directories.chain([stem]).find(|part| VAGUE.contains(part))?;
    Some(finding(path, None, format!("expected a name that says what is inside, got {vague}")))
}

fn check_white_space(path: &str, bytes: &[u8]) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (i, line) in bytes.split(|&byte| byte == b'\n').enumerate() {
        if line.last().is_some_and(|byte| b" \t\r".contains(byte)) {
            findings.push(finding(path, Some(i + 1), "white space at the end of the line"));
        }
    }
    if !bytes.is_empty() && !bytes.ends_with(b"\n") {
        findings.push(finding(path, None, "no newline at the end of the file"));
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check_one(path: &str, text: &str, expected: &[&str]) {
        let found: Vec<String> =
            check(path, text.as_bytes()).iter().map(Finding::to_string).collect();
        assert_eq!(found, expected);
    }

    #[test]
    fn names_say_what_is_inside() {
        check_one("crates/net/src/ticket.rs", "", &[]);
        check_one(
            "crates/net/src/frames/mod.rs",
            "",
            &["crates/net/src/frames/mod.rs: expected foo.rs beside foo/, got foo/mod.rs"],
        );
        for name in ["crates/net/src/utils.rs", "crates/net/src/utils/ticket.rs"] {
            let text = format!("{name}: expected a name that says what is inside, got utils");
            check_one(name, "", &[&text]);
        }
        check_one("docs/common.md", "", &[]);
    }

    #[test]
    fn lines_end_where_their_text_ends() {
        check_one("a.md", "one\n\ntwo\n", &[]);
        check_one("a.md", "one \n", &["a.md:1: white space at the end of the line"]);
        check_one("a.rs", "one\n\ttwo\t\n", &["a.rs:2: white space at the end of the line"]);
        check_one("a.sh", "one\r\n", &["a.sh:1: white space at the end of the line"]);
        check_one("a.rs", "one", &["a.rs: no newline at the end of the file"]);
        check_one("a.bin", "one \n", &[]);
        check_one("reference/prompts/a.md", "one \n", &[]);
    }

    #[test]
    fn files_stay_small() {
        assert!(check("demo/model.gguf", &vec![0; FILE_BYTES_MAX]).is_empty());
        assert_eq!(check("demo/model.gguf", &vec![0; FILE_BYTES_MAX + 1]).len(), 1);
    }
}
