//! Synthetic models have the sizes of the real ones, and files that read back.

use std::collections::BTreeMap;

use shoal_gguf::{Directory, TensorType};

use super::layout::{Role, tensors};
use super::mix::{FileType, n_bytes, tensor_type};
use super::shape::{SHAPES, Shape};
use super::{vocab, writer};

fn shape(name: &str) -> &'static Shape {
    SHAPES.iter().find(|shape| shape.name == name).expect("the shape is in the table")
}

/// Bytes that decoding one token reads, by tensor type, in millions: everything but an untied embedding.
fn read_per_token(shape: &Shape, file_type: FileType) -> BTreeMap<TensorType, f64> {
    let mut sums = BTreeMap::new();
    for tensor in tensors(shape) {
        if tensor.role == Role::TokenEmbd && !shape.is_tied {
            continue;
        }
        let ty = tensor_type(file_type, shape, &tensor).expect("every tensor has a type");
        let n = n_bytes(file_type, shape, &tensor).expect("every tensor has a size");
        *sums.entry(ty).or_default() += n as f64 / 1e6;
    }
    sums
}

/// - `expected`: measured on files that llama.cpp's quantiser made (llama.cpp 0c1e57098)
#[track_caller]
fn check_read(name: &str, file_type: FileType, expected: f64) {
    let total: f64 = read_per_token(shape(name), file_type).values().sum();
    assert!((total - expected).abs() < 0.05, "{name} {file_type}: {total} MB");
}

#[test]
fn decoding_reads_as_many_bytes_as_with_the_real_models() {
    check_read("qwen2.5-0.5b", FileType::Q4KM, 391.9);
    check_read("tinyllama-1.1b", FileType::Q4KM, 630.2);
    check_read("llama-3.2-1b", FileType::Q4KM, 799.9);
    check_read("llama-3.2-1b", FileType::Q4_0, 763.1);
    check_read("llama-3.2-1b", FileType::Q8_0, 1313.3);
}

#[test]
fn a_row_of_896_falls_back_as_in_the_real_model() {
    let read = read_per_token(shape("qwen2.5-0.5b"), FileType::Q4KM);
    let rounded = |ty| read.get(&ty).map(|mb: &f64| mb.round());
    assert_eq!(rounded(TensorType::Q8_0), Some(146.0));
    assert_eq!(rounded(TensorType::Q5_0), Some(173.0));
    assert_eq!(rounded(TensorType::Q6K), Some(43.0));
    assert_eq!(rounded(TensorType::Q4K), Some(29.0));
}

#[test]
fn whole_files_are_as_large_as_the_published_ones() {
    // File sizes on the hub, less their metadata (vocabularies of 6, 0.7, 7.8 and 0.7 MB).
    let cases = [
        ("qwen2.5-0.5b", 291, 491.4 - 5.95),
        ("qwen2.5-1.5b", 339, 1117.3 - 5.95),
        ("qwen2.5-3b", 435, 2104.9 - 5.95),
        ("qwen3-0.6b", 310, 396.7 - 5.95),
        ("qwen3-1.7b", 310, 1107.4 - 5.95),
        ("qwen3-4b", 398, 2497.3 - 5.95),
        ("tinyllama-1.1b", 201, 668.8 - 1.7),
        ("llama-3.2-1b", 147, 807.7 - 7.8),
        ("llama-3.2-3b", 255, 2019.4 - 7.8),
        ("phi-3.5-mini", 197, 2393.2 - 0.7),
    ];
    for (name, n_tensors, expected) in cases {
        let shape = shape(name);
        let tensors = tensors(shape);
        assert_eq!(tensors.len(), n_tensors, "{name}");
        let n: u64 =
            tensors.iter().map(|t| n_bytes(FileType::Q4KM, shape, t).expect("it has a size")).sum();
        let mb = n as f64 / 1e6;
        assert!((mb - expected).abs() < 0.5, "{name}: {mb} MB");
    }
}

fn bytes(name: &str, file_type: FileType, seed: u64) -> Vec<u8> {
    let shape = shape(name);
    let vocab = vocab::generate(shape).expect("a vocabulary can be generated");
    let mut bytes = Vec::new();
    let writer = writer(shape, file_type, vocab, seed).expect("every tensor has a type");
    writer.write(&mut bytes).expect("memory can be written");
    bytes
}

#[test]
fn tiny_models_read_back_with_consistent_vocabularies() {
    for shape in SHAPES.iter().filter(|shape| shape.name.starts_with("tiny")) {
        let bytes = bytes(shape.name, FileType::Q4KM, 1);
        let directory = Directory::parse(&bytes, bytes.len() as u64).expect("the file is valid");
        let metadata = &directory.metadata;
        let texts = metadata.strings("tokenizer.ggml.tokens").expect("strings").expect("there");
        assert_eq!(texts.len(), shape.n_vocab as usize, "{}", shape.name);
        let unique: std::collections::HashSet<&String> = texts.iter().collect();
        assert_eq!(unique.len(), texts.len(), "{}", shape.name);
        let types = metadata.i32s("tokenizer.ggml.token_type").expect("integers").expect("there");
        assert_eq!(types.len(), texts.len());
        for key in ["bos", "eos", "padding"] {
            let id =
                metadata.require_u32(&format!("tokenizer.ggml.{key}_token_id")).expect("there");
            assert_eq!(types[id as usize], 3, "{} {key}: a control token", shape.name);
        }
        if let Some(merges) = metadata.strings("tokenizer.ggml.merges").expect("strings") {
            assert!(merges.len() > 100, "{} merges", merges.len());
            assert!(merges.iter().all(|merge| unique.contains(&merge.replace(' ', ""))));
        }
        assert_eq!(directory.tensors.len(), tensors(shape).len());
    }
}

#[test]
fn the_same_seed_gives_the_same_bytes_on_any_machine() {
    let hash = |bytes: &[u8]| {
        bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash: u64, &byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3)
        })
    };
    let first = bytes("tiny-qwen2-224", FileType::Q4KM, 1);
    assert_ne!(first, bytes("tiny-qwen2-224", FileType::Q4KM, 2));
    assert_eq!(hash(&first), 13_075_286_709_314_366_920);
}

#[test]
fn a_copied_vocabulary_is_cut_and_padded() {
    let source = bytes("tiny-tinyllama", FileType::F16, 1);
    let source =
        Directory::parse(&source, source.len() as u64).expect("the file is valid").metadata;
    let find = |vocab: &vocab::Vocab, key: &str| {
        let entry = vocab.entries.iter().find(|(k, _)| k == key);
        entry.map(|(_, value)| value.clone()).expect("the key is there")
    };
    for (n_vocab, arch) in [(600, "tiny-tinyllama"), (300, "tiny-tinyllama"), (600, "tiny-phi3")] {
        let shape = Shape { n_vocab, ..*shape(arch) };
        let vocab = vocab::copy(&source, &shape).expect("the vocabulary fits");
        let tokens = find(&vocab, "tokenizer.ggml.tokens");
        let shoal_gguf::Value::Array(tokens) = tokens else { panic!("tokens are an array") };
        assert_eq!(tokens.len(), n_vocab as usize);
        let eos = find(&vocab, "tokenizer.ggml.eos_token_id").as_integer().expect("an id");
        let shoal_gguf::Array::String(tokens) = tokens else { panic!("tokens are strings") };
        let expected = if arch == "tiny-phi3" { "<|endoftext|>" } else { "</s>" };
        assert_eq!(tokens[usize::try_from(eos).expect("a small id")], expected);
    }
}
