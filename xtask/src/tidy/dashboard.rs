//! Rules for the dashboard's sources: text is never markup, and nothing is inline that the page's policy forbids.

use super::{Finding, finding};

/// Where they are.
const SOURCES: &str = "dashboard/src/";

/// Most lines of a file: a component does one thing.
const LINES_MAX: usize = 500;

/// What would make markup or code of text, with what to use instead.
const SINKS: [(&str, &str); 8] = [
    ("{@html", "elements"),
    ("innerHTML", "elements"),
    ("outerHTML", "elements"),
    ("insertAdjacentHTML", "elements"),
    ("document.write", "elements"),
    ("eval(", "a function"),
    ("new Function", "a function"),
    (" style=\"", "`style:property={…}`, which the page's policy permits"),
];

/// Checks one file.
pub(super) fn check(path: &str, text: &str) -> Vec<Finding> {
    if !path.starts_with(SOURCES) {
        return Vec::new();
    }
    let mut findings = Vec::new();
    for (i, line) in text.lines().enumerate() {
        for (sink, instead) in SINKS.iter().filter(|(sink, _)| line.contains(sink)) {
            let text = format!("expected {instead}, got `{}`", sink.trim());
            findings.push(finding(path, Some(i + 1), text));
        }
    }
    let n_lines = text.lines().count();
    if n_lines > LINES_MAX {
        findings.push(finding(
            path,
            None,
            format!("{n_lines} lines, expected at most {LINES_MAX}"),
        ));
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check_one(path: &str, text: &str, n_expected: usize) {
        assert_eq!(check(path, text).len(), n_expected, "{path}: {text}");
    }

    #[test]
    fn text_is_never_markup() {
        check_one("dashboard/src/A.svelte", "<p>{name}</p>", 0);
        check_one("dashboard/src/A.svelte", "<p>{@html name}</p>", 1);
        check_one("dashboard/src/a.ts", "node.innerHTML = name;", 1);
        check_one("dashboard/dist/index.js", "node.innerHTML = name;", 0);
    }

    #[test]
    fn styles_are_not_inline() {
        check_one("dashboard/src/A.svelte", "<p style=\"color: red\">", 1);
        check_one("dashboard/src/A.svelte", "<p style:color=\"red\">", 0);
    }

    #[test]
    fn components_stay_small() {
        check_one("dashboard/src/A.svelte", &"x\n".repeat(LINES_MAX), 0);
        check_one("dashboard/src/A.svelte", &"x\n".repeat(LINES_MAX + 1), 1);
    }
}
