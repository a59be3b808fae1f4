//! Agreement with llama.cpp: the distribution of the next token, and greedy continuations.
//!
//! The values were recorded by `reference/golden.py`; `reference/README.md` says how, and describes the files.
//! Synthetic models are made anew, from the same seed; a hash holds that they are the same bytes.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use shoal_engine::{Compute, Model, Segment, Sequence, Shard, evaluate, sample};
use shoal_gguf::Gguf;
use shoal_proto::{LayerRange, SamplingParams, TokenId};

/// Positions over which agreement is defined.
const N_POSITIONS_MIN: usize = 256;

/// What llama.cpp predicted after each token of a sequence.
struct Golden {
    hash: [u8; 32],
    n_ctx: usize,
    n_vocab: usize,
    tokens: Vec<TokenId>,
    /// In steps of -1/1024 nat, `[n_positions, n_vocab]`.
    steps: Vec<u16>,
}

impl Golden {
    fn read(name: &str) -> Self {
        let bytes = std::fs::read(folder().join(name)).expect("a committed file");
        let u32_at = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().expect("4 bytes"));
        assert_eq!(&bytes[..8], b"SHOALGLD", "{name}");
        assert_eq!(u32_at(8), 1, "{name}: version");
        assert_eq!(u32_at(20), 0, "{name}: expected full distributions");
        let (n_vocab, n_positions) = (u32_at(12) as usize, u32_at(16) as usize);
        let rows_at = 64 + 4 * n_positions;
        assert_eq!(bytes.len(), rows_at + 2 * n_positions * n_vocab, "{name}: length");
        let (steps, _) = bytes[rows_at..].as_chunks();
        Self {
            hash: bytes[28..60].try_into().expect("32 bytes"),
            n_ctx: u32_at(24) as usize,
            n_vocab,
            tokens: (0..n_positions).map(|i| u32_at(64 + 4 * i)).collect(),
            steps: steps.iter().map(|&step| u16::from_le_bytes(step)).collect(),
        }
    }

    /// The probabilities after token `i`.
    fn row(&self, i: usize) -> Vec<f64> {
        let steps = &self.steps[i * self.n_vocab..(i + 1) * self.n_vocab];
        let row: Vec<f64> = steps.iter().map(|&step| (-f64::from(step) / 1024.0).exp()).collect();
        let sum: f64 = row.iter().sum();
        assert!((sum - 1.0).abs() < 1e-3, "probabilities after token {i} sum to {sum}");
        row.into_iter().map(|p| p / sum).collect()
    }
}

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden")
}

fn shard(bytes: Vec<u8>, hash: &[u8]) -> Shard {
    assert_eq!(blake3::hash(&bytes).as_bytes(), hash, "not the file that llama.cpp evaluated");
    let gguf = Gguf::from_static(Vec::leak(bytes)).expect("a valid file");
    let model = Model::new(Arc::new(gguf)).expect("a model that is supported");
    let layers = LayerRange::new(0, model.n_layer()).expect("a model has layers");
    Shard::load(model, layers).expect("a sound model")
}

fn demo() -> Vec<u8> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../hub/demo/shoal-demo.gguf");
    std::fs::read(path).expect("the demonstration model is part of the repository")
}

/// Checks the mean Kullback-Leibler divergence, in nats, of our predictions from llama.cpp's.
#[track_caller]
fn check(name: &str, model: Vec<u8>, kl_max: f64) {
    let golden = Golden::read(&format!("{name}.golden"));
    let n_positions = golden.tokens.len();
    assert!(n_positions >= N_POSITIONS_MIN, "{name}: {n_positions} positions");
    let mut shard = shard(model, &golden.hash);
    let (mut sum, mut n_rows) = (0.0, 0);
    evaluate(&mut shard, &Compute::new(2), golden.n_ctx, &golden.tokens, |i, logprobs| {
        let reference = golden.row(i);
        assert_eq!(logprobs.len(), reference.len());
        let terms = reference.iter().zip(logprobs);
        sum += terms.map(|(p, &q)| p * (p.ln() - f64::from(q))).sum::<f64>();
        n_rows += 1;
    })
    .expect("tokens of the vocabulary");
    assert_eq!(n_rows, n_positions);
    let mean = sum / n_positions as f64;
    assert!(mean < kl_max, "{name}: mean KL divergence {mean:.2e}, expected below {kl_max:.0e}");
}

/// f16 weights leave no room for anything but the order of sums; quantised activations differ in their rounding.
#[track_caller]
fn check_shape(shape: &str, suffix: &str) {
    for (file_type, kl_max) in [("f16", 1e-5), ("q4_k_m", 1e-3)] {
        let model = xtask::synth::model(shape, file_type, 1).expect("a shape that there is");
        check(&format!("{shape}-{file_type}{suffix}"), model, kl_max);
    }
}

#[test]
fn llama_agrees() {
    check_shape("tiny-tinyllama", "");
}

#[test]
fn llama_3_with_its_rope_factors_agrees() {
    check_shape("tiny-llama3", "");
}

#[test]
fn qwen_2_with_its_biases_agrees() {
    check_shape("tiny-qwen2", "");
}

#[test]
fn qwen_2_with_rows_of_224_agrees() {
    check_shape("tiny-qwen2-224", "");
}

#[test]
fn qwen_3_with_norms_of_its_heads_agrees() {
    check_shape("tiny-qwen3", "");
}

#[test]
fn phi_3_agrees_with_short_factors() {
    check_shape("tiny-phi3", "");
}

#[test]
fn phi_3_agrees_with_long_factors() {
    check_shape("tiny-phi3", "-long");
}

#[test]
fn the_demonstration_model_agrees() {
    check("shoal-demo", demo(), 1e-3);
}

#[test]
fn every_golden_file_is_compared() {
    let mut names: Vec<String> = std::fs::read_dir(folder())
        .expect("a committed folder")
        .map(|entry| entry.expect("readable").file_name().to_string_lossy().into_owned())
        .collect();
    names.sort();
    let mut expected = vec!["shoal-demo.golden".to_owned(), "shoal-demo.greedy.tsv".to_owned()];
    for file_type in ["f16", "q4_k_m"] {
        for shape in [
            "tiny-llama3",
            "tiny-phi3",
            "tiny-qwen2",
            "tiny-qwen2-224",
            "tiny-qwen3",
            "tiny-tinyllama",
        ] {
            expected.push(format!("{shape}-{file_type}.golden"));
        }
        expected.push(format!("tiny-phi3-{file_type}-long.golden"));
    }
    expected.sort();
    assert_eq!(names, expected);
}

/// Continues a prompt by the most likely token as often as llama.cpp did.
fn continuation(shard: &mut Shard, prompt: &[TokenId], n_tokens: usize) -> Vec<TokenId> {
    let compute = Compute::new(2);
    let greedy = SamplingParams { temperature: 0.0, ..SamplingParams::default() };
    let mut sequence = Sequence::new(shard, prompt.len() + n_tokens).expect("a short context");
    let mut tokens = prompt.to_vec();
    for _ in 0..n_tokens {
        let n_known = sequence.tokens().len();
        let segment = Segment {
            sequence: &mut sequence,
            tokens: &tokens[n_known..],
            activations: &[],
            want_logits: true,
        };
        let output = shard.forward(&compute, &mut [segment]).expect("a step that fits");
        tokens.push(sample(output.logits, &greedy, &tokens));
    }
    tokens.split_off(prompt.len())
}

#[test]
fn greedy_continuations_of_the_demonstration_model_are_the_same() {
    let file = std::fs::read_to_string(folder().join("shoal-demo.greedy.tsv")).expect("committed");
    let mut lines = file.lines();
    let hash = lines.next().and_then(|line| line.strip_prefix("# blake3 ")).expect("a hash");
    let hash: Vec<u8> = (0..hash.len() / 2)
        .map(|i| u8::from_str_radix(&hash[2 * i..2 * i + 2], 16).expect("hexadecimal"))
        .collect();
    let mut shard = shard(demo(), &hash);
    let mut n_lines = 0;
    for line in lines {
        let columns: Vec<&str> = line.split('\t').collect();
        let ids = |column: &str| -> Vec<TokenId> {
            column.split(' ').map(|id| id.parse().expect("a token id")).collect()
        };
        let (prompt, expected) = (ids(columns[0]), ids(columns[1]));
        let found = continuation(&mut shard, &prompt, expected.len());
        assert_eq!(found, expected, "after {}", columns[3]);
        n_lines += 1;
    }
    assert!(n_lines >= 10, "{n_lines} continuations");
}
