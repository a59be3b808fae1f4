//! Outputs as they were recorded (shortened to what is read and a little more), calls, and figures worked out by hand.

use std::process::Command;

use shoal_gguf::{TensorInfo, TensorType};

use super::engine::{Engine, Work};
use super::record::{self, Record, Sample};
use super::weights::Weights;
use super::{output, process, table};

fn figures(figures: &[(&str, f64)]) -> Vec<(String, f64)> {
    figures.iter().map(|&(name, value)| (name.to_owned(), value)).collect()
}

/// llama.cpp 0c1e57098: `llama-bench -t 1 -p 20 -n 4 -d 0,16 -r 1 -o json --repack 0`.
const LLAMA_BENCH: &str = r#"[
  { "build_commit": "0c1e570", "n_threads": 1, "repack": false, "n_prompt": 20, "n_gen": 0, "n_depth": 0,
    "avg_ns": 2387520, "avg_ts": 8376.893178, "samples_ns": [ 2387520 ], "samples_ts": [ 8376.89 ] },
  { "build_commit": "0c1e570", "n_threads": 1, "repack": false, "n_prompt": 0, "n_gen": 4, "n_depth": 0,
    "avg_ts": 4257.139756, "samples_ts": [ 4257.14 ] },
  { "build_commit": "0c1e570", "n_threads": 1, "repack": false, "n_prompt": 20, "n_gen": 0, "n_depth": 16,
    "avg_ts": 8181.987028, "samples_ts": [ 8181.99 ] },
  { "build_commit": "0c1e570", "n_threads": 1, "repack": false, "n_prompt": 0, "n_gen": 4, "n_depth": 16,
    "avg_ts": 4046.576091, "samples_ts": [ 4046.58 ] }
]"#;

#[test]
fn reads_what_llama_bench_prints() {
    let expected = [
        ("prompt 20", 8376.893178),
        ("generate 4", 4257.139756),
        ("prompt 20 at 16", 8181.987028),
        ("generate 4 at 16", 4046.576091),
    ];
    assert_eq!(output::llama_bench(LLAMA_BENCH).expect("its JSON"), figures(&expected));
}

#[test]
fn reads_what_shoal_bench_prints() {
    let text = r#"{"model":"tinyllama","isa":"avx2","n_threads":2,"speeds":[
        {"kind":"prompt","n_tokens":20,"depth":0,"n_sequences":1,"per_s":[3.0,1.0],"per_s_median":2.0},
        {"kind":"generate","n_tokens":4,"depth":8,"n_sequences":2,"per_s":[5.5],"per_s_median":5.5}
    ],"load_ms":12.5,"peak_rss_bytes":7}"#;
    let expected = [("prompt 20", 2.0), ("generate 4 x 2 at 8", 5.5)];
    assert_eq!(output::shoal(text).expect("its JSON"), figures(&expected));
}

#[test]
fn reads_what_cera_prints() {
    let text = "Prompt tokens: 128 | max_tokens: 64 | warmup: 1 | runs: 1\n\
        Speculative decode: OFF\nwarmup 1/1\nrun 1/1: prefill=87 decode=22.4 tok/s ttft=1522 ms\n\n\
        decode tok/s: p50=22.4 p10=22.4 p90=22.4 mean=22.4 stddev=0.0 (n=1)\n";
    let expected = output::Cera { prompt_per_s: 87.0, generate_per_s: 22.4 };
    assert_eq!(output::cera(text).expect("a run"), expected);
}

#[test]
fn reads_the_roofline_with_and_without_products() {
    let text = r#"{"n_threads":1,"read_gb_per_s":15.48,"int8_gmac_per_s":120.5}"#;
    let expected = vec![("read GB/s", 15.48), ("int8 GMAC/s", 120.5)];
    assert_eq!(output::roofline(text).expect("a line"), expected);
    let text = r#"{"n_threads":1,"read_gb_per_s":15.48,"int8_gmac_per_s":null}"#;
    assert_eq!(output::roofline(text).expect("a line"), vec![("read GB/s", 15.48)]);
}

#[test]
fn says_what_it_could_not_read() {
    let error =
        |result: anyhow::Result<Vec<(String, f64)>>| result.expect_err("no figures").to_string();
    assert!(error(output::llama_bench("error: failed to load")).contains("failed to load"));
    assert!(error(output::llama_bench(r#"[{"n_prompt": 1}]"#)).contains("n_gen"));
    assert!(error(output::shoal("{}")).contains("speeds"));
    assert!(
        output::cera("run 1/1: prefill=x decode=1.0")
            .expect_err("no number")
            .to_string()
            .contains("prefill=")
    );
}

#[test]
fn calls_each_engine_with_its_own_options() {
    let work = Work {
        model: "m.gguf".into(),
        n_threads: 2,
        prompts: vec![20, 128],
        generate: 64,
        depths: vec![0, 4096],
        batches: vec![1, 8],
        with_start: false,
    };
    let args = |name: &str, variant: &str, depth: usize| {
        Engine::parse(&format!("{name}=/")).expect("a name").args(variant, &work, depth)
    };
    assert_eq!(args("shoal", "", 0), "bench m.gguf --json -b 1,8 -r 1 -t 2 -p 20,128 -n 64");
    assert_eq!(args("shoal", "", 4096), "bench m.gguf --json -b 1,8 -r 1 -t 2 -p 0 -n 64 -d 4096");
    assert_eq!(
        args("llama.cpp", "--repack 0", 4096),
        "-m m.gguf -o json -r 1 -t 2 --repack 0 -p 0 -n 64 -d 4096"
    );
    assert_eq!(
        args("ik_llama.cpp", "-rtr 1", 4096),
        "-m m.gguf -o json -r 1 -t 2 -rtr 1 -p 0 -n 0 -gp 4096,64"
    );
    assert_eq!(args("candle", "", 0), "-m m.gguf -o json -r 1 -t 2 -p 20,128 -n 64");
    assert!(Engine::parse("vllm=/").expect_err("not known").to_string().contains("vllm"));
    assert!(!Engine::parse("cera=/nowhere/at/all").expect("a name").is_there());
}

fn sample(engine: &str, variant: &str, round: usize, test: &str, value: f64) -> Sample {
    Sample {
        model: "m".to_owned(),
        n_threads: 1,
        round,
        engine: engine.to_owned(),
        variant: variant.to_owned(),
        test: test.to_owned(),
        value,
    }
}

fn record(samples: &[(&str, &str, &str, &[f64])]) -> Record {
    let mut record = Record::open(None).expect("no file");
    for (engine, variant, test, values) in samples {
        for (round, value) in values.iter().enumerate() {
            record.add(sample(engine, variant, round, test, *value)).expect("no file");
        }
    }
    record
}

const WEIGHTS: Weights = Weights { token_bytes: 5e8, prompt_products: 1e9 };

#[test]
fn the_best_configuration_of_each_engine_counts_round_by_round() {
    let record = record(&[
        ("machine", "", "read GB/s", &[20.0, 30.0, 20.0]),
        ("llama.cpp", "--repack 0", "generate 64", &[10.0, 20.0, 11.0]),
        ("llama.cpp", "--repack 1", "generate 64", &[9.0, 30.0, 9.0]),
        ("Shoal", "", "generate 64", &[20.0, 30.0, 33.0]),
        ("Shoal", "", "generate 64 x 8", &[60.0, 90.0, 99.0]),
    ]);
    let rows = table::rows(&record, "m", &WEIGHTS);
    assert_eq!(rows.len(), 2);
    let row = &rows[0];
    let names: Vec<_> =
        row.cells.iter().map(|cell| (cell.engine.as_str(), cell.variant.as_str())).collect();
    assert_eq!(names, [("Shoal", ""), ("llama.cpp", "--repack 0")]);
    let theirs = &row.cells[1];
    // Ratios 2, 1.5 and 3; the median of figures would say 30 / 11.
    assert_eq!((theirs.median, theirs.ratio), (11.0, 2.0));
    assert!((theirs.spread - 5.0 / 11.0).abs() < 1e-9);
    assert_eq!(row.share, "15.0 GB/s, 75 %");
    assert_eq!(rows[1].share, "3.00 times one");
    let text = table::markdown("m", &rows);
    assert!(
        text.contains(
            "| generate 64 | 1 | 30.0 ± 22 % | 11.0 ± 45 % (repack 0); 2.00 | **2.00** |"
        ),
        "{text}"
    );
}

#[test]
fn where_less_is_better_ratios_turn_around() {
    let record = record(&[
        ("Shoal", "", "prompt 20", &[100.0]),
        ("Shoal", "", "start ms", &[50.0]),
        ("llama.cpp", "--repack 0", "prompt 20", &[50.0]),
        ("llama.cpp", "--repack 0", "start ms", &[100.0]),
        ("llama.cpp", "--repack 1", "start ms", &[300.0]),
        ("cera", "", "start ms", &[25.0]),
    ]);
    let rows = table::rows(&record, "m", &WEIGHTS);
    let first = &rows[0];
    assert_eq!((first.title.as_str(), first.cells[0].median), ("first token ms", 200.0));
    assert_eq!((first.cells[1].median, first.cells[1].ratio), (400.0, 2.0));
    let start = &rows[1];
    assert_eq!((start.cells[1].median, start.cells[1].ratio), (100.0, 2.0));
    assert_eq!(table::worst_ratio(start), Some(0.5));
}

#[test]
fn depth_is_told_as_what_is_kept() {
    let record = record(&[
        ("Shoal", "", "generate 64", &[40.0]),
        ("Shoal", "", "generate 64 at 4096", &[30.0]),
        ("llama.cpp", "--repack 0", "generate 64", &[40.0]),
        ("llama.cpp", "--repack 0", "generate 64 at 4096", &[20.0]),
        ("Shoal", "", "prompt 512", &[50.0]),
        ("machine", "", "int8 GMAC/s", &[200.0]),
    ]);
    let shares: Vec<_> =
        table::rows(&record, "m", &WEIGHTS).into_iter().map(|row| row.share).collect();
    let kept = "Shoal keeps 75 %, llama.cpp keeps 50 %";
    assert_eq!(shares, ["20.0 GB/s", kept, "50.0 GMAC/s, 25 %"]);
}

#[test]
fn a_record_goes_on_where_it_ended() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("record.jsonl");
    let first = sample("Shoal", "", 4, "prompt 128", 1.5);
    Record::open(Some(&path)).expect("a file").add(first.clone()).expect("space");
    let second = Record::open(Some(&path)).expect("a file");
    assert_eq!(second.samples, [first]);
    assert_eq!((second.n_rounds("m", 1), second.n_rounds("m", 2)), (5, 0));
    assert!(record::parse("{}").is_err());
}

#[test]
fn a_token_reads_all_but_an_untied_embedding() {
    let tensor = |name: &str, shape: &[u64]| TensorInfo {
        name: name.to_owned(),
        ty: TensorType::F32,
        shape: shape.to_vec(),
        offset: 0,
        n_bytes: 4 * shape.iter().product::<u64>(),
        file_idx: 0,
    };
    let mut tensors = vec![
        tensor("token_embd.weight", &[100, 8]),
        tensor("blk.0.attn_q.weight", &[8, 8]),
        tensor("blk.0.attn_norm.weight", &[8]),
    ];
    let tied = Weights::sum(&tensors);
    assert_eq!(tied, Weights { token_bytes: 4.0 * 872.0, prompt_products: 64.0 });
    tensors.push(tensor("output.weight", &[100, 8]));
    assert_eq!(Weights::sum(&tensors), tied);
}

#[test]
fn a_process_tells_its_output_and_how_it_failed() {
    let ended =
        process::run(Command::new("sh").args(["-c", "echo out; echo err >&2"])).expect("sh");
    assert_eq!((ended.stdout.as_str(), ended.stderr.as_str()), ("out\n", "err\n"));
    let error = process::run(Command::new("sh").args(["-c", "echo no such model >&2; exit 3"]));
    let error = error.expect_err("it fails").to_string();
    assert!(error.contains("no such model") && error.contains('3'), "{error}");
}
