//! Every rule as a check that is always listed: what was looked at, and how it stands, also where nothing is wrong.

use super::{Facts, Severity, rules};

/// How a check stands. Ordered: the worst last.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum CheckState {
    /// There was nothing to judge it by.
    Skipped,
    /// Good, or harmless.
    Ok,
    /// Something works less well than it could.
    Warning,
    /// Something does not work.
    Problem,
}

impl CheckState {
    /// The word that the API uses.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Skipped => "skipped",
            Self::Ok => "ok",
            Self::Warning => "warning",
            Self::Problem => "problem",
        }
    }
}

/// One thing that the doctor looked at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Check {
    /// A name for programs, in kebab case; stable.
    pub id: &'static str,
    /// What should be so, for people.
    pub title: &'static str,
    /// How it stands.
    pub state: CheckState,
    /// What was found.
    pub found: String,
    /// What to do; empty if nothing.
    pub what_to_do: String,
}

/// A rule and what people are told of it.
pub(super) struct Described {
    pub(super) id: &'static str,
    pub(super) title: &'static str,
    pub(super) rule: rules::Rule,
    /// What is said if the rule finds nothing; `None` if there was nothing to judge by.
    pub(super) good: fn(&Facts) -> Option<String>,
}

/// Judges the facts, check by check: the worst first, those that stand alike in the order of the rules.
pub fn examine(facts: &Facts) -> Vec<Check> {
    let mut checks: Vec<Check> = rules::ALL.iter().map(|rule| check(rule, facts)).collect();
    checks.sort_by_key(|check| std::cmp::Reverse(check.state));
    checks
}

fn check(described: &Described, facts: &Facts) -> Check {
    let &Described { id, title, rule, good } = described;
    let mut findings = rule(facts);
    findings.sort_by_key(|finding| std::cmp::Reverse(finding.severity));
    let Some(worst) = findings.first() else {
        let (state, found) = match good(facts) {
            Some(found) => (CheckState::Ok, found),
            None => (CheckState::Skipped, "There was nothing to judge it by.".to_owned()),
        };
        return Check { id, title, state, found, what_to_do: String::new() };
    };
    let state = match worst.severity {
        Severity::Ok | Severity::Note => CheckState::Ok,
        Severity::Warning => CheckState::Warning,
        Severity::Problem => CheckState::Problem,
    };
    let what_to_do = worst.what_to_do.clone();
    let found: Vec<String> = findings.into_iter().map(|finding| finding.sentence).collect();
    Check { id, title, state, found: found.join(" "), what_to_do }
}
