//! All cases of the kill test, numbered, and which of them a run takes.

use std::fmt::{self, Write as _};

use crate::{
    ask::{Answer, Ask},
    chance::Chance,
    form::{self, Cases},
    losses::Loss,
    node::Client,
};

/// How many nodes there are.
const N_NODES: [usize; 2] = [3, 4];
/// Chunks of a long prompt: 13 of 64 tokens fit into the demonstration model's context.
const N_PREFILL: usize = 13;
/// Pieces of an answer after which a stage is lost.
const N_DECODE: usize = 48;
/// Pieces that an answer should have, and questions that are tried for it.
const N_PIECES_MIN: usize = 24;
const N_TRIALS_MAX: usize = 6;
/// More than the questions of all cases.
pub(crate) const N_NUMBERS: usize = 100_000;
/// How tokens are chosen.
const TEMPERATURES: [f32; 2] = [0.0, 1.0];
/// Answers under way at the same time.
const N_REQUESTS: [usize; 2] = [1, 4];

/// When a stage is lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Position {
    /// When so many chunks of the prompt have been computed by all stages.
    Prefill(usize),
    /// When the client has so many pieces of the answer; more than it has pieces begin again at the first.
    Decode(usize),
}

/// One loss in one situation.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Case {
    /// Its number among all cases of its list.
    pub(crate) number: usize,
    pub(crate) n_nodes: usize,
    pub(crate) loss: Loss,
    pub(crate) position: Position,
    pub(crate) temperature: f32,
    pub(crate) n_requests: usize,
}

impl fmt::Display for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (number, loss, n_nodes) = (self.number, self.loss.name(), self.n_nodes);
        let (t, n_requests) = (self.temperature, self.n_requests);
        write!(f, "case {number}: {loss}, {n_nodes} nodes, {n_requests} requests at {t}, ")?;
        match self.position {
            Position::Prefill(i) => write!(f, "{i} of {N_PREFILL} chunks"),
            Position::Decode(k) => write!(f, "piece {k}"),
        }
    }
}

impl Case {
    /// What is asked, and what is to be answered: texts that nobody has asked before, so that no stage holds a part of them, with
    /// answers that are long enough for a loss to come late.
    pub(crate) fn asks(&self, oracle: &Client) -> Vec<(Ask, Answer)> {
        let ask = |i| {
            let mut trials: Vec<(Ask, Answer)> = Vec::new();
            for trial in 0..N_TRIALS_MAX {
                let number = trial * N_NUMBERS + self.number * 8 + i;
                let ask = ask(number, self.position, self.temperature);
                let answer = oracle.ask("demo", &ask, |_| true);
                let is_long = answer.pieces.len() >= N_PIECES_MIN;
                trials.push((ask, answer));
                if is_long {
                    break;
                }
            }
            let longest = trials.into_iter().max_by_key(|(_, answer)| answer.pieces.len());
            self.varied(oracle, longest.expect("at least one"), i)
        };
        (0..self.n_requests).map(ask).collect()
    }
}

impl Case {
    /// Has some clients end the answer by a text, and some lose their connection; which ones differs from case to case.
    fn varied(&self, oracle: &Client, (ask, answer): (Ask, Answer), i: usize) -> (Ask, Answer) {
        let manner = (self.number / 4 + i) % 4;
        let is_kept = manner >= 2;
        let stop = if manner % 2 == 1 { late(&answer.text) } else { None };
        let Some(stop) = stop else { return (Ask { is_kept, ..ask }, answer) };
        let ask = Ask { stop: vec![stop], ..ask };
        let answer = oracle.ask("demo", &ask, |_| true);
        (Ask { is_kept, ..ask }, answer)
    }
}

/// A part of a text, some pieces long, that is found in its last third and nowhere before.
fn late(text: &str) -> Option<String> {
    const N_CHARS: usize = 7;
    let starts: Vec<usize> = text.char_indices().map(|(at, _)| at).collect();
    let parts = (starts.len() * 2 / 3..starts.len().saturating_sub(N_CHARS)).map(|i| {
        let (from, to) = (starts[i], starts[i + N_CHARS]);
        (from, &text[from..to])
    });
    parts.into_iter().find(|&(from, part)| text.find(part) == Some(from)).map(|(_, it)| it.into())
}

/// A question with this number in it.
pub(crate) fn ask(number: usize, position: Position, temperature: f32) -> Ask {
    const QUESTIONS: [&str; 4] = [
        "What is Shoal?",
        "How do I add a phone?",
        "What happens when a phone dies?",
        "Which models can I run?",
    ];
    let question = QUESTIONS[number % QUESTIONS.len()];
    let (text, max_tokens) = match position {
        // The number comes first: what comes after it is nowhere held.
        Position::Prefill(_) => (format!("{number}:{} {question}", digits(number)), 32),
        Position::Decode(_) => (format!("{question} ({number})"), 64),
    };
    let seed = u64::try_from(number).expect("small");
    Ask { text, temperature, seed, max_tokens, stop: Vec::new(), is_kept: false }
}

/// A text of some 820 tokens.
fn digits(number: usize) -> String {
    let mut text = String::new();
    for i in 0..405 {
        let _ = write!(text, " {}", (i * 7 + number) % 10);
    }
    text
}

/// All cases with these losses.
pub(crate) fn all(losses: &[Loss]) -> Vec<Case> {
    let prefill = (0..N_PREFILL).map(Position::Prefill);
    let positions: Vec<_> = prefill.chain((1..=N_DECODE).map(Position::Decode)).collect();
    let mut cases = Vec::new();
    for n_nodes in N_NODES {
        for &loss in losses {
            for &position in &positions {
                for temperature in TEMPERATURES {
                    for n_requests in N_REQUESTS {
                        let number = cases.len();
                        let case =
                            Case { number, n_nodes, loss, position, temperature, n_requests };
                        cases.push(case);
                    }
                }
            }
        }
    }
    cases
}

/// The cases that this run takes, those with equally many nodes together.
pub(crate) fn chosen(losses: &[Loss], seed: u64) -> Vec<Case> {
    let mut cases = all(losses);
    let filter = form::loss();
    Chance::new(seed).shuffle(&mut cases);
    cases.retain(|case| case.loss.name().contains(&filter));
    match form::cases() {
        Cases::All => {}
        Cases::Some(n) => cases.truncate(n),
        Cases::Only(number) => cases.retain(|case| case.number == number),
        Cases::OneOfEach => cases = one_of_each(&cases),
    }
    cases.sort_by_key(|case| case.n_nodes);
    cases
}

/// The first of each loss, all with as many nodes: a cluster takes its time to start.
fn one_of_each(cases: &[Case]) -> Vec<Case> {
    let mut chosen: Vec<Case> = Vec::new();
    for case in cases {
        let is_fit = chosen.first().is_none_or(|it| it.n_nodes == case.n_nodes);
        if is_fit && chosen.iter().all(|it| it.loss != case.loss) {
            chosen.push(*case);
        }
    }
    chosen
}
