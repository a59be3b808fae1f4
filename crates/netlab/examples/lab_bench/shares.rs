//! What was predicted beside what was measured, on nodes that each get a share of a core.
//!
//! In each run the nodes start under their shares and measure themselves; the model is placed over all of them, answers, and is
//! placed again: the second prediction knows what the first answers took. A line for each placement says what was predicted and
//! measured, for the whole and for each stage and the way between them.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::{Node, Options, QUESTION, Result, network, pause, report, start_all};

/// Profiles that have not changed for so long are final: a trial has three rounds, half a second apart, and a share of a tenth
/// makes a round ten times as long.
const SETTLED_AFTER: Duration = Duration::from_secs(5);
/// Answers after each placement.
const N_ANSWERS: usize = 3;

/// Runs all of it as often as asked.
pub(super) fn measure(options: &Options) -> Result<()> {
    for run in 0..options.n_runs {
        for &delay in &options.delays {
            measure_once(options, run, delay)?;
        }
    }
    Ok(())
}

fn measure_once(options: &Options, run: usize, delay: Duration) -> Result<()> {
    let (segment, hosts) = network(options.n_nodes)?;
    segment.set_delay(delay);
    let nodes = start_all(options, &hosts)?;
    wait_for_profiles(&nodes[0])?;
    let model = if options.model == "demo" { "demo" } else { "model" };
    for placement in ["first", "again"] {
        let mut line = place_and_ask(&nodes[0], options, model)?;
        line["run"] = json!(run);
        line["delay_us"] = json!(delay.as_micros());
        line["placement"] = json!(placement);
        line["load"] = json!(load());
        report(&line);
    }
    Ok(())
}

/// Waits until every node has measured itself for good.
fn wait_for_profiles(node: &Node<'_>) -> Result<()> {
    let (mut last, mut since) = (Vec::new(), Instant::now());
    loop {
        let state = node.get("/state")?;
        let nodes = state["nodes"].as_array().ok_or("no list of nodes")?;
        let profiles: Vec<Value> = nodes.iter().map(|node| node["profile"].clone()).collect();
        if profiles != last || profiles.iter().any(Value::is_null) {
            (last, since) = (profiles, Instant::now());
        } else if since.elapsed() >= SETTLED_AFTER {
            return Ok(());
        }
        pause(Duration::from_millis(200));
    }
}

/// Places the model over all nodes, has it answer, and drops it again.
fn place_and_ask(node: &Node<'_>, options: &Options, model: &str) -> Result<Value> {
    let profiles = node.get("/state")?;
    let placing = json!({"model": model, "nodes": options.n_nodes});
    let plan = node.post("/plan", &placing)?["candidates"][0].clone();
    let placed = node.post("/place_instance", &placing)?;
    // Not counted: the prompt, and pages that are read for the first time.
    node.ask(model, QUESTION, 2)?;
    let (mut rates, mut steps) = (Vec::new(), Vec::new());
    for _ in 0..N_ANSWERS {
        node.ask(model, QUESTION, options.n_tokens)?;
        let answer = steps_of_newest(node)?;
        let took = median(&answer, |step| step["took_ms"].as_f64());
        rates.push(1e3 / took);
        steps.extend(answer);
    }
    node.delete(&format!("/instance/{}", placed["id"].as_str().unwrap_or_default()))?;
    let predicted = placed["predicted_tokens_per_s"].as_f64().ok_or("no prediction")?;
    rates.sort_by(f64::total_cmp);
    let measured = rates[rates.len() / 2];
    Ok(json!({
        "shares": options.cpu_shares,
        "rates_mb_per_s": rates_of(&profiles),
        "predicted": predicted,
        "measured": measured,
        "of_each_answer": rates,
        "error_percent": 100.0 * (predicted / measured - 1.0),
        "stages": stages(&plan, &steps),
        "hops_ms": {
            "predicted": 1e3 / predicted - sum(&plan, "compute_ms"),
            "measured": median(&steps, |step| step["hops_ms"].as_f64()),
        },
    }))
}

/// The name, layers, predicted and measured milliseconds of each stage.
fn stages(plan: &Value, steps: &[Value]) -> Vec<Value> {
    let planned = plan["stages"].as_array().into_iter().flatten().enumerate();
    let stage = |(i, stage): (usize, &Value)| {
        json!({
            "name": stage["name"],
            "layers": stage["layers"],
            "predicted_ms": stage["compute_ms"],
            "measured_ms": median(steps, |step| step["stages"][i]["compute_ms"].as_f64()),
            "queued_ms": median(steps, |step| step["stages"][i]["queued_ms"].as_f64()),
        })
    };
    planned.map(stage).collect()
}

fn rates_of(state: &Value) -> Value {
    let nodes = state["nodes"].as_array().into_iter().flatten();
    let rate = |node: &Value| {
        let per_s = node["profile"]["decode_bytes_per_s"].as_f64().unwrap_or_default();
        (node["name"].as_str().unwrap_or_default().to_owned(), json!((per_s / 1e6).round()))
    };
    Value::Object(nodes.map(rate).collect())
}

fn sum(plan: &Value, field: &str) -> f64 {
    let stages = plan["stages"].as_array().into_iter().flatten();
    stages.filter_map(|stage| stage[field].as_f64()).sum()
}

/// The steps of the latest request that carried one token each, without the first ones.
fn steps_of_newest(node: &Node<'_>) -> Result<Vec<Value>> {
    let traces = node.get("/traces")?;
    let traces = traces["traces"].as_array().ok_or("no traces")?;
    let newest = traces.iter().filter_map(|trace| trace["id"].as_u64()).max().ok_or("no trace")?;
    let trace = node.get(&format!("/traces/{newest}"))?;
    let steps = trace["steps"].as_array().ok_or("no steps")?;
    Ok(steps.iter().filter(|step| step["n_tokens"] == 1).skip(2).cloned().collect())
}

fn median(steps: &[Value], of: impl Fn(&Value) -> Option<f64>) -> f64 {
    let mut values: Vec<f64> = steps.iter().filter_map(of).collect();
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

/// The machine's load, of which all of this is a part.
fn load() -> String {
    let load = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    load.split(' ').next().unwrap_or_default().to_owned()
}
