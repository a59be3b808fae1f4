//! What came of the cases: a table for people, JSON for programs.

use std::{
    collections::BTreeMap,
    io::{self, Write},
    sync::LazyLock,
    time::{Duration, Instant},
};

use serde_json::{Value, json};

use crate::{
    cases::{Case, Position},
    form,
    losses::Loss,
};

/// What came of a case.
#[derive(Debug)]
pub(crate) struct Trial {
    pub(crate) case: Case,
    /// What was lost.
    pub(crate) what: String,
    /// Pieces that the client who was furthest had when it was lost.
    pub(crate) n_pieces_before: usize,
    /// The longest time without a new piece.
    pub(crate) pause: Duration,
    /// Whether that is longer than promised, with the time that this machine needs for a long prompt.
    pub(crate) is_long: bool,
    /// From the loss to the end of the answers.
    pub(crate) took: Duration,
    /// What the first stream told meanwhile.
    pub(crate) statuses: Vec<String>,
    /// What was wrong.
    pub(crate) faults: Vec<String>,
    pub(crate) logs: String,
}

/// All of it.
#[derive(Debug)]
pub(crate) struct Report {
    seed: u64,
    n_cases: usize,
    trials: Vec<Trial>,
    failures: Vec<String>,
}

impl Report {
    pub(crate) fn new(seed: u64, n_cases: usize) -> Self {
        say(&format!("KILL_SEED={seed}: {n_cases} cases"));
        Self { seed, n_cases, trials: Vec::new(), failures: Vec::new() }
    }

    /// Takes what came of a case, and says it.
    pub(crate) fn add(&mut self, trial: Trial) {
        let n = self.trials.len() + 1;
        let (case, what, pause) = (&trial.case, &trial.what, trial.pause);
        let verdict = if trial.faults.is_empty() { "right" } else { "WRONG" };
        let n_before = trial.n_pieces_before;
        say(&format!(
            "{n}/{}: {case}: {what} after {n_before} pieces: {verdict}, pause {pause:.1?}",
            self.n_cases
        ));
        form::write_report(&json!({
            "seed": self.seed,
            "case": case.number,
            "loss": case.loss.name(),
            "nodes": case.n_nodes,
            "requests": case.n_requests,
            "temperature": case.temperature,
            "phase": if matches!(case.position, Position::Prefill(_)) { "prefill" } else { "decode" },
            "position": match case.position { Position::Prefill(i) | Position::Decode(i) => i },
            "pieces_before": trial.n_pieces_before,
            "what": what,
            "pause_s": pause.as_secs_f64(),
            "took_s": trial.took.as_secs_f64(),
            "statuses": trial.statuses,
            "faults": trial.faults,
            "is_long": trial.is_long,
            "logs": if trial.is_long { trial.logs.as_str() } else { "" },
        }));
        if !trial.faults.is_empty() {
            let faults = trial.faults.join("\n  ");
            let why = format!("{what} after {n_before} pieces:\n  {faults}");
            self.fail(case, &why, &trial.logs);
        }
        self.trials.push(trial);
    }

    /// Notes what must not be.
    pub(crate) fn fail(&mut self, case: &Case, why: &str, logs: &str) {
        let failure =
            format!("KILL_SEED={} KILL_CASE={}: {case}: {why}\n{logs}", self.seed, case.number);
        say(&format!("FAILED: {failure}"));
        self.failures.push(failure);
    }

    /// Prints the table, and panics if something was wrong.
    pub(crate) fn conclude(self, what: &str) {
        say(&format!("{what}, seed {}:\n{}", self.seed, self.table()));
        let Self { failures, trials, .. } = self;
        assert!(
            failures.is_empty(),
            "{} of {} cases failed:\n{}",
            failures.len(),
            trials.len(),
            failures.join("\n")
        );
    }

    fn table(&self) -> String {
        let mut by_loss: BTreeMap<Loss, Vec<&Trial>> = BTreeMap::new();
        for trial in &self.trials {
            by_loss.entry(trial.case.loss).or_default().push(trial);
        }
        let head =
            "| loss | cases | wrong | pause, median | pause, most |\n|---|--:|--:|--:|--:|\n";
        let rows = by_loss.iter().map(|(loss, trials)| {
            let n_wrong = trials.iter().filter(|it| !it.faults.is_empty()).count();
            let mut pauses: Vec<_> = trials.iter().map(|it| it.pause).collect();
            pauses.sort_unstable();
            let (median, most) = (pauses[pauses.len() / 2], pauses[pauses.len() - 1]);
            let (name, n) = (loss.name(), trials.len());
            format!("| {name} | {n} | {n_wrong} | {median:.2?} | {most:.2?} |\n")
        });
        head.to_owned() + &rows.collect::<String>()
    }
}

/// A row of numbers that a report is made of, for tests that are no cases.
pub(crate) fn note(report: &Value) {
    say(&report.to_string());
    form::write_report(report);
}

/// Says a line at once, and to everybody: a long run is looked at while it runs.
pub(crate) fn say(line: &str) {
    static BEGAN: LazyLock<Instant> = LazyLock::new(Instant::now);
    let at_s = BEGAN.elapsed().as_secs_f64();
    // There is nobody to tell that nobody can be told.
    let _ = writeln!(io::stderr(), "[{at_s:6.1}] {line}");
}
