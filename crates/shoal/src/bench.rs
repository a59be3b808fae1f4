//! `shoal bench`: speeds of a model on this device, as a table or as JSON.

use std::{io::Write, path::Path};

use shoal_node::{
    Node,
    bench::{BenchConfig, BenchResult, Speed, run},
};

use crate::{args::BenchArgs, failure::Failure, library, pull};

pub(crate) async fn bench(args: &BenchArgs) -> Result<(), Failure> {
    let (name, path) = find_model(args).await?;
    tokio::task::block_in_place(|| measure(args, name.as_deref(), &path))
}

/// The model's name, if it has one that is not said by its file, and what is to be opened.
async fn find_model(args: &BenchArgs) -> Result<(Option<String>, String), Failure> {
    if args.model == "demo" || Path::new(&args.model).is_file() {
        return Ok((None, args.model.clone()));
    }
    let node = library::open(&args.storage).await?;
    let found = find(&node, &args.model).await;
    node.shutdown().await;
    found
}

async fn find(node: &Node, model: &str) -> Result<(Option<String>, String), Failure> {
    let name = pull::fetch(node, model, false).await?;
    let stored = node.stored().await?.into_iter().find(|stored| stored.name == name);
    // A model of several files is opened by its first.
    let first = stored.and_then(|stored| stored.files.into_iter().next());
    Ok(match first {
        Some(file) => (Some(name), file.path.to_string_lossy().into_owned()),
        None => (None, name),
    })
}

fn measure(args: &BenchArgs, name: Option<&str>, path: &str) -> Result<(), Failure> {
    let all_cores = std::thread::available_parallelism().map_or(1, usize::from);
    let threads = match args.threads.as_slice() {
        [] => vec![all_cores],
        threads => threads.iter().map(|&n| usize::from(n)).collect(),
    };
    let mut out = std::io::stdout().lock();
    for n_threads in threads {
        let mut result = run(&BenchConfig {
            model: path.to_owned(),
            n_prompts: args.prompt.clone(),
            n_generate: args.generate,
            depths: args.depth.clone(),
            n_sequences: args.batch.iter().map(|&n| usize::from(n)).collect(),
            n_threads,
            n_repeat: args.repeat.into(),
            isa: args.isa.clone(),
        })?;
        if let Some(name) = name {
            name.clone_into(&mut result.model);
        }
        let text = if args.json { json(&result) } else { table(&result) };
        out.write_all(text.as_bytes())?;
        out.flush()?;
    }
    Ok(())
}

/// Median, least and greatest.
fn spread(values: &[f64]) -> Option<[f64; 3]> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let (first, last) = (*sorted.first()?, *sorted.last()?);
    let middle = sorted.len() / 2;
    let median = if sorted.len() % 2 == 1 {
        sorted[middle]
    } else {
        f64::midpoint(sorted[middle - 1], sorted[middle])
    };
    Some([median, first, last])
}

fn title(speed: &Speed) -> String {
    let mut title = match speed.is_prompt {
        true => format!("prompt {}", speed.n_tokens),
        false => format!("generate {}", speed.n_tokens),
    };
    if speed.n_sequences > 1 {
        title.push_str(&format!(" x {}", speed.n_sequences));
    }
    if speed.depth > 0 {
        title.push_str(&format!(" at {}", speed.depth));
    }
    title
}

fn table(result: &BenchResult) -> String {
    let mut text = format!("{}, {} threads, {}\n", result.model, result.n_threads, result.isa);
    for speed in &result.speeds {
        if let Some([median, least, greatest]) = spread(&speed.per_s) {
            text.push_str(&format!(
                "  {:<22} {median:>9.2} tokens/s  ({least:.2} to {greatest:.2}, {} runs)\n",
                title(speed),
                speed.per_s.len()
            ));
        }
    }
    text.push_str(&format!(
        "  load                   {:>9.1} ms\n",
        result.load.as_secs_f64() * 1e3
    ));
    if let Some(bytes) = result.peak_rss_bytes {
        text.push_str(&format!("  peak memory            {:>9.1} MB\n", bytes as f64 / 1e6));
    }
    text
}

fn json(result: &BenchResult) -> String {
    let speeds: Vec<_> = result
        .speeds
        .iter()
        .map(|speed| {
            serde_json::json!({
                "kind": if speed.is_prompt { "prompt" } else { "generate" },
                "n_tokens": speed.n_tokens,
                "depth": speed.depth,
                "n_sequences": speed.n_sequences,
                "per_s": speed.per_s,
                "per_s_median": spread(&speed.per_s).map(|spread| spread[0]),
            })
        })
        .collect();
    let value = serde_json::json!({
        "model": result.model,
        "isa": result.isa,
        "n_threads": result.n_threads,
        "speeds": speeds,
        "load_ms": result.load.as_secs_f64() * 1e3,
        "peak_rss_bytes": result.peak_rss_bytes,
        "version": env!("CARGO_PKG_VERSION"),
    });
    format!("{value}\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_of_an_even_number_lies_between() {
        assert_eq!(spread(&[4.0, 1.0, 3.0]), Some([3.0, 1.0, 4.0]));
        assert_eq!(spread(&[4.0, 1.0]), Some([2.5, 1.0, 4.0]));
        assert_eq!(spread(&[]), None);
    }
}
