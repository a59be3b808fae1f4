//! `shoal plan`: how a model could be spread, how fast it would be, and whether another device helps.

use shoal_api::view::{CandidateView, PlanStageView, PlanView};

use crate::{
    amount,
    args::PlanArgs,
    client,
    failure::Failure,
    output,
    table::{self, Column},
    terminal,
};

const CANDIDATES: [Column; 6] = [
    Column::number("TOKENS/S"),
    Column::number("FIRST TOKEN"),
    Column::number("TOGETHER").optional(),
    Column::number("WEIGHTS").optional(),
    Column::number("FETCHED IN").optional(),
    Column::text("WHO RUNS WHAT"),
];

const HELP: [Column; 4] = [
    Column::number("DEVICES"),
    Column::number("TOKENS/S"),
    Column::number("FIRST TOKEN"),
    Column::number("TOGETHER"),
];

pub(crate) fn plan(args: &PlanArgs) -> Result<(), Failure> {
    let request = client::spread(&args.spread);
    let body = client::ask(&args.client.at, "POST", "/plan", Some(&request))?;
    if args.client.json {
        return output::print(&format!("{body}\n"));
    }
    output::print(&format(&client::parse(body)?, terminal::width()))
}

fn seconds(ms: f64) -> String {
    format!("{:.1} s", ms / 1e3)
}

fn format(plan: &PlanView, width: usize) -> String {
    let mut text = format!(
        "{}, context {}, first token after a prompt of {} tokens\n{}\n\n",
        plan.model, plan.context, plan.prompt_tokens, plan.sentence
    );
    let rows: Vec<Vec<String>> = plan.candidates.iter().map(row).collect();
    text.push_str(&table::render(&CANDIDATES, &rows, width));
    if plan.each_further.len() > 1 {
        text.push_str(
            "\nWhat each further device brings (together: as many conversations as devices)\n",
        );
        let dash = || "-".to_owned();
        let per_s = |speed: Option<f64>| speed.map_or_else(dash, |speed| format!("{speed:.1}"));
        let rows: Vec<Vec<String>> = plan
            .each_further
            .iter()
            .map(|help| {
                vec![
                    help.n_nodes.to_string(),
                    per_s(help.tokens_per_s),
                    help.first_token_ms.map_or_else(dash, seconds),
                    per_s(help.aggregate_tokens_per_s),
                ]
            })
            .collect();
        text.push_str(&table::render(&HELP, &rows, width));
    }
    if !plan.left_out.is_empty() {
        text.push_str("\nWithout layers in the best placement\n");
    }
    for left_out in &plan.left_out {
        text.push_str(&format!("  {}: {}\n", left_out.name, left_out.why));
    }
    text
}

fn row(candidate: &CandidateView) -> Vec<String> {
    let stage = |stage: &PlanStageView| {
        let fetch = match stage.fetch_bytes {
            0 => String::new(),
            n_bytes => format!(", {} to fetch", amount::bytes(n_bytes)),
        };
        let [start, end] = stage.layers;
        format!("{} {start}..{end} ({}{fetch})", stage.name, amount::bytes(stage.memory_bytes))
    };
    let stages: Vec<String> = candidate.stages.iter().map(stage).collect();
    let weight_bytes = candidate.stages.iter().map(|stage| stage.weight_bytes).sum();
    let is_there = candidate.stages.iter().all(|stage| stage.fetch_bytes == 0);
    vec![
        format!("{:.1}", candidate.tokens_per_s),
        seconds(candidate.first_token_ms),
        format!("{:.1}", candidate.aggregate_tokens_per_s),
        amount::bytes(weight_bytes),
        if is_there { "-".to_owned() } else { amount::duration(candidate.fetch_ms / 1e3) },
        stages.join(" -> "),
    ]
}

#[cfg(test)]
mod tests {
    use shoal_api::view::{HelpView, LeftOutView};

    use super::*;

    fn plan() -> PlanView {
        let stage = |name: &str, layers, fetch_bytes| PlanStageView {
            node: String::new(),
            name: name.to_owned(),
            layers,
            weight_bytes: 1_000_000_000,
            memory_bytes: 1_500_000_000,
            fetch_bytes,
            compute_ms: 80.0,
            hop_ms: 1.0,
        };
        let candidate = |fetch_ms, stages| CandidateView {
            tokens_per_s: 12.34,
            first_token_ms: 2340.0,
            aggregate_tokens_per_s: 20.0,
            fetch_ms,
            stages,
        };
        PlanView {
            model: "owner/model:Q4_K_M".into(),
            context: 4096,
            prompt_tokens: 512,
            sentence: "one is enough".into(),
            candidates: vec![
                candidate(0.0, vec![stage("kitchen", [0, 16], 0)]),
                candidate(
                    32_000.0,
                    vec![stage("kitchen", [0, 9], 0), stage("old-pixel", [9, 16], 400_000_000)],
                ),
            ],
            left_out: vec![LeftOutView {
                node: String::new(),
                name: "tablet".into(),
                why: "would slow the rest".into(),
            }],
            each_further: vec![
                HelpView {
                    n_nodes: 1,
                    tokens_per_s: None,
                    first_token_ms: None,
                    aggregate_tokens_per_s: None,
                },
                HelpView {
                    n_nodes: 2,
                    tokens_per_s: Some(11.0),
                    first_token_ms: Some(1500.0),
                    aggregate_tokens_per_s: Some(19.0),
                },
            ],
        }
    }

    #[test]
    fn a_plan_says_all_that_it_knows_at_any_width() {
        for width in [60, 80, 120] {
            let text = format(&plan(), width);
            let words = text.split_whitespace().collect::<Vec<_>>().join(" ");
            for part in
                ["12.3", "2.3 s", "old-pixel 9..16", "400", "one is enough", "tablet: would slow"]
            {
                assert!(words.contains(part), "{width}: {part} is missing in\n{text}");
            }
            let tables = text.lines().skip(2).filter(|line| !line.starts_with("What"));
            let longest = tables.map(|line| line.chars().count()).max();
            assert!(longest.is_some_and(|longest| longest <= width), "{width}:\n{text}");
        }
    }

    #[test]
    fn a_candidate_says_what_it_weighs_and_how_long_it_is_fetched() {
        let plan = plan();
        let [here, fetched] = [&plan.candidates[0], &plan.candidates[1]].map(row);
        assert_eq!(here[3..5], ["1.0 GB", "-"]);
        assert_eq!(fetched[3..5], ["2.0 GB", "32 s"]);
        let text = format(&plan, 120);
        assert!(["WEIGHTS", "FETCHED IN", "32 s"].iter().all(|part| text.contains(part)), "{text}");
    }
}
