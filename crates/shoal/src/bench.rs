//! `shoal bench`: speeds of a model on this device, as a table or as JSON.

use std::{io::Write, path::Path};

use shoal_node::{
    Node,
    bench::{BenchConfig, BenchResult, run},
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
            n_prompt: args.prompt,
            n_generate: args.generate,
            n_threads,
            n_repeat: args.repeat.into(),
            isa: args.isa.clone(),
        })?;
        if let Some(name) = name {
            name.clone_into(&mut result.model);
        }
        let text = if args.json { json(args, &result) } else { table(args, &result) };
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

fn table(args: &BenchArgs, result: &BenchResult) -> String {
    let mut text = format!("{}, {} threads, {}\n", result.model, result.n_threads, result.isa);
    let rows = [
        (format!("prompt {}", args.prompt), &result.prompt_per_s),
        (format!("generate {}", args.generate), &result.generate_per_s),
    ];
    for (name, values) in rows {
        if let Some([median, least, greatest]) = spread(values) {
            text.push_str(&format!(
                "  {name:<14} {median:>9.2} tokens/s  ({least:.2} to {greatest:.2}, {} runs)\n",
                values.len()
            ));
        }
    }
    text.push_str(&format!("  load           {:>9.1} ms\n", result.load.as_secs_f64() * 1e3));
    if let Some(bytes) = result.peak_rss_bytes {
        text.push_str(&format!("  peak memory    {:>9.1} MB\n", bytes as f64 / 1e6));
    }
    text
}

fn json(args: &BenchArgs, result: &BenchResult) -> String {
    let value = serde_json::json!({
        "model": result.model,
        "isa": result.isa,
        "n_threads": result.n_threads,
        "n_prompt": args.prompt,
        "n_generate": args.generate,
        "prompt_per_s": result.prompt_per_s,
        "prompt_per_s_median": spread(&result.prompt_per_s).map(|spread| spread[0]),
        "generate_per_s": result.generate_per_s,
        "generate_per_s_median": spread(&result.generate_per_s).map(|spread| spread[0]),
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
