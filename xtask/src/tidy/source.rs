//! Rules for Rust sources: length, headings, markers, and what each crate must not know.
//!
//! Lines are taken one by one: comments are cut off, and string literals emptied where a rule is about code.
//! That is no parser, and need not be: the rules catch slips, not intent.

use super::{Finding, finding};

/// Longest file, without its tests. Beyond it a concept wants a file of its own.
const LINES_MAX: usize = 800;

/// Files that are tables, where length is no sign of confusion.
const TABLES: [&str; 0] = [];

/// The marker for work that is left, in two halves, so that this line is none.
const MARKER: &str = concat!("TO", "DO");

/// Where unsafe code may be: the kernels, the mapping of files, and one test that counts allocations.
const UNSAFE_IN: [&str; 3] =
    ["crates/kernels/", "crates/gguf/src/file.rs", "crates/gguf/tests/allocation.rs"];

/// Where the environment may be read: by the binary, once, and by tools.
const ENVIRONMENT_IN: [&str; 3] = ["crates/shoal/", "xtask/", "crates/netlab/src/sandbox.rs"];

/// Code that must not occur under a path, and why.
const FORBIDDEN: [(&str, &[&str], &str); 8] = [
    (
        "crates/cluster/src/",
        &["std::net", "std::fs", "std::process"],
        "the state machine does no I/O",
    ),
    (
        "crates/cluster/src/",
        &["std::thread", "tokio::", "async "],
        "the state machine runs nothing",
    ),
    ("crates/cluster/src/", &["Instant", "SystemTime"], "time is an argument of the state machine"),
    ("crates/engine/src/", &["std::net", "tokio::", "async "], "the engine knows no network"),
    ("crates/kernels/src/", &["std::net", "std::fs", "tokio::", "async "], "kernels only compute"),
    (
        "crates/gguf/src/",
        &["std::net", "tokio::", "async "],
        "bytes come from the caller or a file",
    ),
    ("crates/tokenizer/src/", &["std::net", "std::fs", "tokio::", "async "], "text in, tokens out"),
    ("crates/proto/src/", &["std::fs", "tokio::", "async "], "records are data"),
];

/// Names of other people's HTTP dialects, and the one crate that may know them.
const DIALECTS: [&str; 3] = ["openai", "anthropic", "ollama"];
/// `hub` reads another program's model directory.
const DIALECTS_IN: [&str; 5] =
    ["crates/api/", "crates/shoal/", "crates/hub/src/store", "xtask/", "fuzz/"];

/// Checks one source file.
pub(super) fn check(path: &str, text: &str) -> Vec<Finding> {
    let mut findings = Vec::new();
    if !text.starts_with("//!") {
        findings.push(finding(path, Some(1), "expected `//!` that says what the file is for"));
    }
    let n_lines = without_tests(path, text);
    if n_lines > LINES_MAX && !TABLES.contains(&path) {
        let text = format!("{n_lines} lines without tests, expected at most {LINES_MAX}");
        findings.push(finding(path, None, text));
    }
    for (i, line) in text.lines().enumerate() {
        let mut push = |text: String| findings.push(finding(path, Some(i + 1), text));
        if has_bare_marker(line) {
            push(format!("expected {MARKER}(#issue), got {MARKER} without an issue"));
        }
        let code = without_strings(without_comment(line));
        if has_word(&code, "unsafe") && !is_in(path, &UNSAFE_IN) {
            push("unsafe code outside of the kernels".to_owned());
        }
        if i >= n_lines {
            continue;
        }
        if code.contains("env::var") && !is_in(path, &ENVIRONMENT_IN) {
            push("the environment is read by the binary only".to_owned());
        }
        for (_, words, reason) in FORBIDDEN.iter().filter(|(prefix, ..)| path.starts_with(prefix)) {
            for word in words.iter().filter(|word| has_word(&code, word)) {
                push(format!("{}: {reason}", word.trim()));
            }
        }
        let lower = without_comment(line).to_lowercase();
        if let Some(name) = DIALECTS.iter().find(|name| lower.contains(*name))
            && !is_in(path, &DIALECTS_IN)
        {
            push(format!("{name}: only the crate `api` knows dialects"));
        }
    }
    findings
}

fn is_in(path: &str, prefixes: &[&str]) -> bool {
    prefixes.iter().any(|prefix| path.starts_with(prefix))
}

/// The number of lines before the tests: 0 in files of tests.
fn without_tests(path: &str, text: &str) -> usize {
    let is_test_file = path.contains("/tests/") || path.ends_with("/tests.rs");
    if is_test_file || path.contains("/benches/") {
        return 0;
    }
    let lines: Vec<&str> = text.lines().collect();
    let begins_tests = |pair: &[&str]| {
        pair[0] == "#[cfg(test)]" && pair[1].starts_with("mod ") && pair[1].ends_with('{')
    };
    lines.windows(2).position(begins_tests).unwrap_or(lines.len())
}

fn has_bare_marker(line: &str) -> bool {
    line.match_indices(MARKER).any(|(at, _)| {
        let issue = line[at + MARKER.len()..].strip_prefix("(#");
        !issue.is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit()))
    })
}

/// Cuts off a comment. The `//` of an address in a string is none.
fn without_comment(line: &str) -> &str {
    let comment = line.match_indices("//").find(|&(at, _)| !line[..at].ends_with(':'));
    comment.map_or(line, |(at, _)| &line[..at])
}

/// Empties the string literals of a line.
fn without_strings(line: &str) -> String {
    let line = line.replace("'\"'", "");
    let mut code = String::new();
    let (mut in_string, mut is_escaped) = (false, false);
    for c in line.chars() {
        match c {
            '"' if !is_escaped => in_string = !in_string,
            _ if !in_string => code.push(c),
            _ => {}
        }
        is_escaped = c == '\\' && !is_escaped;
    }
    code
}

/// Whether `word` occurs in `code` and is not a part of a longer one.
fn has_word(code: &str, word: &str) -> bool {
    let is_part = |c: char| c.is_alphanumeric() || c == '_';
    code.match_indices(word).any(|(at, _)| {
        let after = &code[at + word.len()..];
        let ends_open = !word.ends_with(is_part) || !after.starts_with(is_part);
        !code[..at].ends_with(is_part) && ends_open
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check_one(path: &str, body: &str, expected: &[&str]) {
        let text = format!("//! What it is for.\n{body}\n");
        let found: Vec<String> = check(path, &text).iter().map(Finding::to_string).collect();
        assert_eq!(found, expected);
    }

    #[test]
    fn files_begin_with_what_they_are_for() {
        let findings = check("crates/net/src/lib.rs", "use std::fmt;\n");
        assert_eq!(findings.len(), 1);
        assert_eq!(findings[0].line, Some(1));
    }

    #[test]
    fn files_are_short_without_their_tests() {
        let code = "fn f() {}\n".repeat(LINES_MAX - 1);
        check_one("crates/net/src/a.rs", code.trim_end(), &[]);
        let long = format!("{code}fn f() {{}}");
        let text =
            format!("crates/net/src/a.rs: {} lines without tests, expected at most 800", 801);
        check_one("crates/net/src/a.rs", &long, &[&text]);
        check_one("crates/net/src/a/tests.rs", &long, &[]);
        check_one("crates/net/tests/a.rs", &long, &[]);
        let tested = format!("{code}#[cfg(test)]\nmod tests {{\n{code}}}");
        check_one("crates/net/src/a.rs", tested.replacen("fn f() {}\n", "", 1).as_str(), &[]);
    }

    #[test]
    fn work_that_is_left_has_an_issue() {
        check_one("xtask/src/a.rs", &format!("// {MARKER}(#12): more"), &[]);
        for bare in [format!("// {MARKER}: more"), format!("// {MARKER}(me): more")] {
            let text = format!(
                "xtask/src/a.rs:2: expected {MARKER}(#issue), got {MARKER} without an issue"
            );
            check_one("xtask/src/a.rs", &bare, &[&text]);
        }
    }

    #[test]
    fn unsafe_code_is_where_it_is_expected() {
        let text = "crates/net/src/a.rs:2: unsafe code outside of the kernels";
        check_one("crates/net/src/a.rs", "unsafe { x() }", &[text]);
        check_one("crates/net/src/a.rs", "// no unsafe here", &[]);
        check_one("crates/net/src/a.rs", "fn not_unsafe_at_all(x: &str) { x == \"unsafe\" }", &[]);
        check_one("crates/kernels/src/a.rs", "unsafe { x() }", &[]);
        check_one(
            "crates/gguf/src/model.rs",
            "unsafe { x() }",
            &[&text.replace("net/src/a", "gguf/src/model")],
        );
    }

    #[test]
    fn only_the_binary_reads_the_environment() {
        let text = "crates/hub/src/a.rs:2: the environment is read by the binary only";
        check_one("crates/hub/src/a.rs", "let x = std::env::var(\"X\");", &[text]);
        check_one("crates/hub/src/a.rs", "let x = env::var_os(\"X\");", &[text]);
        check_one("crates/hub/src/a.rs", "let x = env!(\"X\");", &[]);
        check_one("crates/hub/tests/a.rs", "let x = std::env::var(\"X\");", &[]);
        check_one("crates/shoal/src/a.rs", "let x = std::env::var(\"X\");", &[]);
    }

    #[test]
    fn crates_do_not_know_what_is_not_theirs() {
        let time = "crates/cluster/src/a.rs:2: Instant: time is an argument of the state machine";
        check_one("crates/cluster/src/a.rs", "use std::time::{Duration, Instant};", &[time]);
        check_one("crates/cluster/src/a.rs", "use std::time::Duration; struct Instance;", &[]);
        let net = "crates/engine/src/a.rs:2: std::net: the engine knows no network";
        check_one("crates/engine/src/a.rs", "use std::net::IpAddr;", &[net]);
        check_one("crates/net/src/a.rs", "use std::net::IpAddr;", &[]);
        let run = "crates/tokenizer/src/a.rs:2: async: text in, tokens out";
        check_one("crates/tokenizer/src/a.rs", "pub async fn f() {}", &[run]);
    }

    #[test]
    fn only_the_api_knows_dialects() {
        let text = "crates/node/src/a.rs:2: openai: only the crate `api` knows dialects";
        check_one("crates/node/src/a.rs", "struct OpenAiRequest;", &[text]);
        check_one("crates/node/src/a.rs", "// as OpenAI does", &[]);
        check_one("crates/api/src/a.rs", "struct OpenAiRequest;", &[]);
    }
}
