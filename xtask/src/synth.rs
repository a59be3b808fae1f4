//! `cargo xtask synth`: model files with random weights in the exact shapes of real ones.
//!
//! Speed, memory and correctness of an engine depend on shapes and tensor types, not on what the weights
//! say. A synthetic file has the names, order, shapes and types of the tensors and the metadata keys of a
//! real quantised file; its weights are scaled so that activations stay finite and logits spread as a
//! trained model's do. The same seed gives the same bytes on any machine.
//!
//! - `shape`: the models; `layout`: their tensors; `mix`: which tensor gets which type
//! - `metadata`, `vocab`: the key-value part
//! - `noise`, `weights`: the numbers

use std::fs::File;
use std::io::BufWriter;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use clap::ValueEnum as _;
use shoal_gguf::{Gguf, Writer};

use self::mix::FileType;
use self::shape::{SHAPES, Shape};

mod layout;
mod metadata;
mod mix;
mod noise;
mod shape;
mod vocab;
mod weights;

#[cfg(test)]
mod tests;

/// Arguments of `cargo xtask synth`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Which model's shape; see --list.
    #[arg(required_unless_present = "list")]
    shape: Option<String>,
    /// The file to write.
    #[arg(short, long, required_unless_present = "list")]
    output: Option<PathBuf>,
    /// The types of the weights.
    #[arg(long = "type", value_enum, default_value_t = FileType::Q4KM)]
    file_type: FileType,
    /// Take the tokenizer from this file instead of generating one.
    #[arg(long)]
    vocab: Option<PathBuf>,
    /// Another seed, other weights.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// List the shapes and the sizes of their files.
    #[arg(long)]
    list: bool,
}

/// Runs `cargo xtask synth`.
pub fn run(args: &Args) -> anyhow::Result<()> {
    if args.list {
        print!("{}", list(args.file_type)?);
        return Ok(());
    }
    let (Some(name), Some(output)) = (&args.shape, &args.output) else {
        unreachable!("clap requires both without --list");
    };
    let shape = shape_named(name)?;
    let vocab = match &args.vocab {
        None => vocab::generate(shape)?,
        Some(path) => {
            let source = Gguf::open(path).context("cannot read the vocabulary")?;
            vocab::copy(source.metadata(), shape)?
        }
    };
    let file =
        File::create(output).with_context(|| format!("cannot create {}", output.display()))?;
    let n_bytes = writer(shape, args.file_type, vocab, args.seed)?.write(BufWriter::new(file))?;
    println!("{}: {} {}, {n_bytes} bytes", output.display(), shape.name, args.file_type);
    Ok(())
}

/// Makes a model with a generated vocabulary in memory: the bytes that `cargo xtask synth` writes.
///
/// - `shape`, `file_type`: as on the command line, for example `tiny-llama3` and `q4_k_m`
///
/// # Errors
/// If there is no such shape or type.
pub fn model(shape: &str, file_type: &str, seed: u64) -> anyhow::Result<Vec<u8>> {
    let shape = shape_named(shape)?;
    let file_type = FileType::from_str(file_type, false).map_err(anyhow::Error::msg)?;
    let mut bytes = Vec::new();
    writer(shape, file_type, vocab::generate(shape)?, seed)?.write(&mut bytes)?;
    Ok(bytes)
}

/// Writes a model of about `n_bytes` for tests of what is done with files: a llama of at least 12 layers in Q8_0, with a small
/// vocabulary, that takes a second for some ten megabytes even in a debug build.
///
/// # Errors
/// If the file cannot be written.
pub fn fast_model(path: &Path, n_bytes: u64, seed: u64) -> anyhow::Result<()> {
    const N_LAYER_MIN: u64 = 12;
    let tiny = *shape_named("tiny-llama3")?;
    let wide = Shape { n_embd: 512, n_head: 8, n_head_kv: 4, n_ff: 1536, ..tiny };
    let layer_bytes = |shape: &Shape| -> anyhow::Result<u64> {
        let tensors = layout::tensors(shape);
        let in_first = tensors.iter().filter(|tensor| tensor.name.starts_with("blk.0."));
        in_first.map(|tensor| mix::n_bytes(FileType::Q8_0, shape, tensor)).sum()
    };
    let shape = if n_bytes >= N_LAYER_MIN * layer_bytes(&wide)? { wide } else { tiny };
    let n_layer = (n_bytes / layer_bytes(&shape)?).max(N_LAYER_MIN);
    let n_layer = u32::try_from(n_layer).context("a model of fewer layers")?;
    // Closures of the writer keep the shape; one for each model of a test is no loss.
    let shape: &'static Shape = Box::leak(Box::new(Shape { n_layer, ..shape }));
    let file = File::create(path).with_context(|| format!("cannot create {}", path.display()))?;
    writer(shape, FileType::Q8_0, vocab::generate(shape)?, seed)?.write(BufWriter::new(file))?;
    Ok(())
}

fn shape_named(name: &str) -> anyhow::Result<&'static Shape> {
    SHAPES.iter().find(|shape| shape.name == name).with_context(|| {
        let names: Vec<&str> = SHAPES.iter().map(|shape| shape.name).collect();
        format!("shape: expected one of {}, got {name}", names.join(", "))
    })
}

/// Puts a file together; the weights are made when it is written.
fn writer(
    shape: &'static Shape,
    file_type: FileType,
    vocab: vocab::Vocab,
    seed: u64,
) -> anyhow::Result<Writer<'static>> {
    let mut writer = Writer::new();
    for (key, value) in metadata::entries(shape, file_type, vocab) {
        writer = writer.metadata(key, value);
    }
    let weights = weights::Weights::new(seed);
    for tensor in layout::tensors(shape) {
        let ty = mix::tensor_type(file_type, shape, &tensor)?;
        let (name, dims) = (tensor.name.clone(), tensor.shape.clone());
        let weights = weights.clone();
        writer =
            writer.tensor_with(name, ty, &dims, move |out| weights.write(shape, &tensor, ty, out));
    }
    Ok(writer)
}

fn list(file_type: FileType) -> anyhow::Result<String> {
    let mut text =
        format!("{:<18} {:>7} {:>10}  weights in {file_type}\n", "shape", "tensors", "MB");
    for shape in &SHAPES {
        let tensors = layout::tensors(shape);
        let mut n_bytes = 0;
        for tensor in &tensors {
            n_bytes += mix::n_bytes(file_type, shape, tensor)?;
        }
        let mb = n_bytes as f64 / 1e6;
        text += &format!("{:<18} {:>7} {mb:>10.1}  {}\n", shape.name, tensors.len(), shape.title);
    }
    Ok(text)
}
