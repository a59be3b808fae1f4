//! What the engines print.

use anyhow::Context as _;
use serde_json::Value;

use super::engine::Figure;

/// The name of a test: tokens per second of a prompt.
pub(super) fn prompt(n_tokens: usize, depth: usize) -> String {
    format!("prompt {n_tokens}{}", at(depth))
}

/// The name of a test: tokens per second of all sequences together.
pub(super) fn generate(n_tokens: usize, depth: usize, n_sequences: usize) -> String {
    let batch = if n_sequences > 1 { format!(" x {n_sequences}") } else { String::new() };
    format!("generate {n_tokens}{batch}{}", at(depth))
}

fn at(depth: usize) -> String {
    if depth > 0 { format!(" at {depth}") } else { String::new() }
}

/// `shoal bench --json` with one number of threads.
pub(super) fn shoal(stdout: &str) -> anyhow::Result<Vec<Figure>> {
    let result = json(stdout, "shoal bench")?;
    let speeds = result["speeds"].as_array().context("shoal bench: expected a list of speeds")?;
    let mut figures = Vec::new();
    for speed in speeds {
        let count = |key| count(speed, key, "shoal bench");
        let name = match speed["kind"] == "prompt" {
            true => prompt(count("n_tokens")?, count("depth")?),
            false => generate(count("n_tokens")?, count("depth")?, count("n_sequences")?),
        };
        let per_s = speed["per_s_median"].as_f64().context("shoal bench: expected a median")?;
        figures.push((name, per_s));
    }
    Ok(figures)
}

/// `llama-bench -o json` of llama.cpp, of `ik_llama.cpp`, and of programs that print the same.
pub(super) fn llama_bench(stdout: &str) -> anyhow::Result<Vec<Figure>> {
    let results = json(stdout, "llama-bench")?;
    let results = results.as_array().context("llama-bench: expected a list")?;
    let mut figures = Vec::new();
    for result in results {
        let count = |key| count(result, key, "llama-bench");
        let (n_prompt, n_generate) = (count("n_prompt")?, count("n_gen")?);
        let depth = count("n_depth").unwrap_or(0);
        let name = match (n_prompt, n_generate) {
            (_, 0) => prompt(n_prompt, depth),
            // The fork knows no depth, but generation after a prompt that is not counted.
            _ => generate(n_generate, depth + n_prompt, 1),
        };
        let per_s = result["avg_ts"].as_f64().context("llama-bench: expected avg_ts")?;
        figures.push((name, per_s));
    }
    Ok(figures)
}

/// What `cera bench` measured in one run.
#[derive(Debug, PartialEq)]
pub(super) struct Cera {
    pub(super) prompt_per_s: f64,
    pub(super) generate_per_s: f64,
}

/// The line `run 1/1: prefill=87 decode=22.4 tok/s ttft=240 ms` that `cera bench` prints to standard error.
pub(super) fn cera(stderr: &str) -> anyhow::Result<Cera> {
    let line = stderr.lines().find(|line| line.starts_with("run 1/")).context("cera: no run")?;
    let number = |key: &str| {
        let text = line.split_whitespace().find_map(|word| word.strip_prefix(key));
        text.and_then(|text| text.parse().ok()).with_context(|| format!("cera: no {key} in {line}"))
    };
    Ok(Cera { prompt_per_s: number("prefill=")?, generate_per_s: number("decode=")? })
}

/// The example `roofline` of the kernels.
pub(super) fn roofline(stdout: &str) -> anyhow::Result<Vec<(&'static str, f64)>> {
    let result = json(stdout, "roofline")?;
    let read = result["read_gb_per_s"].as_f64().context("roofline: expected read_gb_per_s")?;
    let int8 = result["int8_gmac_per_s"].as_f64();
    let read = [("read GB/s", read)].into_iter();
    Ok(read.chain(int8.map(|rate| ("int8 GMAC/s", rate))).collect())
}

fn json(text: &str, program: &str) -> anyhow::Result<Value> {
    serde_json::from_str(text).with_context(|| format!("{program}: expected JSON, got {text:.200}"))
}

fn count(value: &Value, key: &str, program: &str) -> anyhow::Result<usize> {
    let number = value[key].as_u64().and_then(|number| usize::try_from(number).ok());
    number.with_context(|| format!("{program}: expected a count {key}"))
}
