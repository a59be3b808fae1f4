//! Writes what Shoal predicts for the tokens of a golden file, in the same format, for `reference/compare.py`:
//!
//! ```text
//! cargo run --release -p shoal-engine --example dump_predictions -- MODEL.gguf TOKENS.golden OUT.golden [THREADS]
//! ```
//!
//! The format is described in `reference/README.md`. This is for models too big for recorded values.

#![expect(clippy::print_stderr, reason = "a command-line program")]

use std::error::Error;
use std::fs::File;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;
use std::{env, fs};

use shoal_engine::{Compute, Model, Shard, evaluate};
use shoal_gguf::Gguf;
use shoal_proto::{LayerRange, TokenId};

/// Where the header of a golden file ends and its tokens begin.
const HEADER_BYTES: usize = 64;

fn main() -> Result<(), Box<dyn Error>> {
    let args: Vec<String> = env::args().skip(1).collect();
    let (path, tokens, output, n_threads) = match args.as_slice() {
        [path, tokens, output] => (path, tokens, output, 1),
        [path, tokens, output, n_threads] => (path, tokens, output, n_threads.parse()?),
        _ => return Err("expected MODEL.gguf TOKENS.golden OUT.golden [THREADS]".into()),
    };
    let golden = fs::read(tokens)?;
    let (n_ctx, tokens) = tokens_of(&golden)?;

    let gguf = Arc::new(Gguf::open(Path::new(path))?);
    let mut hasher = blake3::Hasher::new();
    hasher.update_reader(File::open(path)?)?;
    // The header is the golden file's, but for a full distribution and the hash of this model.
    let mut out = golden[..HEADER_BYTES].to_vec();
    out[20..24].copy_from_slice(&0u32.to_le_bytes());
    out[28..60].copy_from_slice(hasher.finalize().as_bytes());
    out.extend(tokens.iter().flat_map(|token| token.to_le_bytes()));

    let model = Model::new(gguf)?;
    if model.hparams().n_vocab != u32_at(&golden, 12)? as usize {
        return Err("the golden file is of another vocabulary".into());
    }
    let layers = LayerRange::new(0, model.n_layer())?;
    let mut shard = Shard::load(model, layers)?;
    let compute = Compute::new(n_threads);
    let start = Instant::now();
    evaluate(&mut shard, &compute, n_ctx, &tokens, |_, row| {
        out.extend(row.iter().flat_map(|logprob| steps(*logprob).to_le_bytes()));
    })?;
    let (n_tokens, isa, elapsed) = (tokens.len(), compute.isa(), start.elapsed());
    eprintln!("{n_tokens} tokens, {n_threads} threads, {isa}, {:.2} s", elapsed.as_secs_f32());
    fs::write(output, out)?;
    Ok(())
}

/// Reads the context length and the tokens of a golden file.
fn tokens_of(golden: &[u8]) -> Result<(usize, Vec<TokenId>), Box<dyn Error>> {
    if golden.len() < HEADER_BYTES || !golden.starts_with(b"SHOALGLD\x01\0\0\0") {
        return Err("expected a golden file of version 1".into());
    }
    let (n_positions, n_ctx) = (u32_at(golden, 16)? as usize, u32_at(golden, 24)? as usize);
    let end = HEADER_BYTES + 4 * n_positions;
    let bytes = golden.get(HEADER_BYTES..end).ok_or("the golden file ends within its tokens")?;
    Ok((n_ctx, bytes.as_chunks().0.iter().map(|token| TokenId::from_le_bytes(*token)).collect()))
}

fn u32_at(bytes: &[u8], at: usize) -> Result<u32, Box<dyn Error>> {
    Ok(u32::from_le_bytes(bytes[at..at + 4].try_into()?))
}

/// A log-probability in steps of -1/1024 nat.
fn steps(logprob: f32) -> u16 {
    // A cast of a float saturates, which is what the format asks for.
    (-logprob * 1024.0).round() as u16
}
