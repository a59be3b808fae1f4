//! Models that are not what they should be: refused with words that say what and where, never a panic.

use std::io::BufWriter;
use std::sync::Arc;

use shoal_engine::{Error, Model, Segment, Sequence, Shard};
use shoal_gguf::{Array, Gguf, TensorType, Value, Writer};
use shoal_proto::LayerRange;

use crate::support::{Pipeline, bytes, compute};

/// One shape of each architecture, and the architecture.
const SMALL: [(&str, &str); 4] = [
    ("tiny-llama3", "llama"),
    ("tiny-qwen2-224", "qwen2"),
    ("tiny-qwen3", "qwen3"),
    ("tiny-phi3", "phi3"),
];

/// A tensor of a model that can be changed.
#[derive(Clone)]
struct Tensor {
    name: String,
    ty: TensorType,
    shape: Vec<u64>,
    bytes: Vec<u8>,
}

/// A model that can be changed.
#[derive(Clone)]
struct Parts {
    metadata: Vec<(String, Value)>,
    tensors: Vec<Tensor>,
}

impl Parts {
    fn of(shape: &'static str, file_type: &'static str) -> Self {
        let gguf = Gguf::from_static(bytes(shape, file_type)).expect("a synthetic model is valid");
        let metadata =
            gguf.metadata().iter().map(|(key, value)| (key.to_owned(), value.clone())).collect();
        let read = |info: &shoal_gguf::TensorInfo| Tensor {
            name: info.name.clone(),
            ty: info.ty,
            shape: info.shape.clone(),
            bytes: gguf.tensor(&info.name).expect("it is listed").bytes.to_vec(),
        };
        Self { metadata, tensors: gguf.tensors().iter().map(read).collect() }
    }

    /// Makes a model of the parts, if the file format allows them.
    fn model(&self) -> Option<Result<Arc<Model>, Error>> {
        let mut writer = Writer::new();
        for (key, value) in &self.metadata {
            writer = writer.metadata(key, value.clone());
        }
        for tensor in &self.tensors {
            writer = writer.tensor(&tensor.name, tensor.ty, &tensor.shape, &tensor.bytes);
        }
        let file = tempfile::NamedTempFile::new().expect("a place for a small file");
        writer.write(BufWriter::new(file.as_file())).ok()?;
        let gguf = Gguf::open(file.path()).ok()?;
        Some(Model::new(Arc::new(gguf)))
    }

    /// Drops all layers but the first.
    fn shrink(&mut self, architecture: &str) {
        self.set(&format!("{architecture}.block_count"), 1_u32);
        self.tensors
            .retain(|tensor| !tensor.name.starts_with("blk.") || tensor.name.starts_with("blk.0."));
    }

    fn set(&mut self, key: &str, value: impl Into<Value>) {
        self.remove(key);
        self.metadata.push((key.to_owned(), value.into()));
    }

    fn remove(&mut self, key: &str) {
        self.metadata.retain(|(other, _)| other != key);
    }

    fn tensor(&mut self, name: &str) -> &mut Tensor {
        self.tensors.iter_mut().find(|tensor| tensor.name == name).expect("a tensor of the model")
    }

    fn drop_tensor(&mut self, name: &str) {
        self.tensors.retain(|tensor| tensor.name != name);
    }

    fn add_vector(&mut self, name: &str, values: &[f32]) {
        let bytes = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        let shape = vec![values.len() as u64];
        self.tensors.push(Tensor { name: name.to_owned(), ty: TensorType::F32, shape, bytes });
    }
}

#[track_caller]
fn check(shape: &'static str, edit: impl FnOnce(&mut Parts), expected: &str) {
    let mut parts = Parts::of(shape, "f16");
    edit(&mut parts);
    let error = parts.model().expect("a valid file").expect_err("refused");
    assert_eq!(error.to_string(), expected);
}

#[test]
fn refuses_an_unknown_architecture() {
    check(
        "tiny-llama3",
        |parts| parts.set("general.architecture", "mamba"),
        "metadata general.architecture: expected one of llama, qwen2, qwen3, phi3, got \"mamba\"",
    );
    check(
        "tiny-llama3",
        |parts| parts.remove("general.architecture"),
        "metadata general.architecture: expected string, got nothing",
    );
}

#[test]
fn refuses_missing_and_senseless_hyper_parameters() {
    let check_value = |key: &str, value: Value, expected: &str| {
        let edit = |parts: &mut Parts| parts.set(key, value);
        check("tiny-llama3", edit, &format!("metadata {key}: expected {expected}"));
    };
    check(
        "tiny-llama3",
        |parts| parts.remove("llama.block_count"),
        "metadata llama.block_count: expected u32, got nothing",
    );
    check_value("llama.block_count", 0_u32.into(), "1 to 1024, got 0");
    check_value("llama.block_count", u32::MAX.into(), "1 to 1024, got 4294967295");
    check_value("llama.block_count", "4".into(), "u32, got string \"4\"");
    check_value("llama.embedding_length", 65_537_u32.into(), "1 to 65536, got 65537");
    check_value("llama.attention.head_count_kv", 3_u32.into(), "a divisor of the 4 heads, got 3");
    check_value("llama.attention.value_length", 32_u32.into(), "the keys' length, 64, got 32");
    check_value("llama.rope.dimension_count", 63_u32.into(), "an even number, got 63");
    check_value("llama.rope.dimension_count", 66_u32.into(), "1 to 64, got 66");
    check_value(
        "llama.rope.freq_base",
        f32::NAN.into(),
        "a number from 1 to 1000000000000, got NaN",
    );
    check_value(
        "llama.attention.layer_norm_rms_epsilon",
        (-1e-5_f32).into(),
        "a number from 0 to 1, got -0.00001",
    );
    check(
        "tiny-llama3",
        |parts| {
            parts.remove("llama.attention.key_length");
            parts.remove("llama.attention.value_length");
            parts.set("llama.attention.head_count", 3_u32);
            parts.set("llama.attention.head_count_kv", 1_u32);
        },
        "metadata llama.attention.head_count: expected a divisor of the width 256, got 3",
    );
    check(
        "tiny-llama3",
        |parts| parts.set("tokenizer.ggml.tokens", Value::Array(Array::String(Vec::new()))),
        "metadata tokenizer.ggml.tokens: expected 1 to 4194304 tokens, got 0",
    );
}

#[test]
fn refuses_what_would_change_the_computation() {
    let check_value = |key: &str, value: Value, expected: &str| {
        let edit = |parts: &mut Parts| parts.set(key, value);
        check("tiny-llama3", edit, &format!("metadata {key}: expected {expected}"));
    };
    check_value(
        "llama.rope.scaling.type",
        "yarn".into(),
        "one of [\"none\", \"linear\"], got \"yarn\"",
    );
    check_value(
        "llama.rope.scaling.type",
        "longrope".into(),
        "one of [\"none\", \"linear\"], got \"longrope\"",
    );
    check_value("llama.expert_count", 8_u32.into(), "no experts, got 8");
    check_value("llama.attention.causal", false.into(), "causal attention, got false");
    check_value("llama.attention.scale", 0.1_f32.into(), "nothing, got f32 0.1");
    check_value(
        "llama.attention.sliding_window",
        4096_u32.into(),
        "no window below the context of 131072, got 4096",
    );
    check(
        "tiny-phi3",
        |parts| {
            parts.set("phi3.rope.scaling.type", "longrope");
            parts.set("phi3.rope.scaling.factor", 2_f32);
        },
        "metadata phi3.rope.scaling.factor: expected nothing beside long-rope factors, got 2",
    );
}

#[test]
fn refuses_missing_and_unknown_tensors() {
    const TYPES: &str = "f32|f16|q4_0|q5_0|q8_0|q4_K|q5_K|q6_K";
    check(
        "tiny-llama3",
        |parts| parts.drop_tensor("blk.3.attn_q.weight"),
        &format!("tensor blk.3.attn_q.weight: expected {TYPES} [256, 256], got nothing"),
    );
    check(
        "tiny-llama3",
        |parts| parts.set("llama.block_count", 5_u32),
        &format!("tensor blk.4.attn_q.weight: expected {TYPES} [256, 256], got nothing"),
    );
    check(
        "tiny-llama3",
        |parts| parts.set("llama.block_count", 3_u32),
        "tensor blk.3.attn_k.weight: expected no such tensor in llama, got f16 [64, 256]",
    );
    check(
        "tiny-qwen2",
        |parts| parts.drop_tensor("blk.1.attn_v.bias"),
        "tensor blk.1.attn_v.bias: expected f32 [128], got nothing",
    );
    check(
        "tiny-llama3",
        |parts| parts.add_vector("blk.0.attn_output.bias", &[0.0; 256]),
        "tensor blk.0.attn_output.bias: expected no such tensor in llama, got f32 [256]",
    );
    check(
        "tiny-qwen2",
        |parts| parts.add_vector("blk.0.attn_q_norm.weight", &[1.0; 64]),
        "tensor blk.0.attn_q_norm.weight: expected no such tensor in qwen2, got f32 [64]",
    );
    check(
        "tiny-qwen3",
        |parts| parts.drop_tensor("blk.2.attn_k_norm.weight"),
        "tensor blk.2.attn_k_norm.weight: expected f32 [64], got nothing",
    );
    check(
        "tiny-phi3",
        |parts| parts.drop_tensor("rope_factors_long.weight"),
        "tensor rope_factors_long.weight: expected f32 [32], got nothing",
    );
}

#[test]
fn refuses_tensors_of_another_type_or_shape() {
    const TYPES: &str = "f32|f16|q4_0|q5_0|q8_0|q4_K|q5_K|q6_K";
    check(
        "tiny-llama3",
        |parts| parts.tensor("blk.3.attn_q.weight").ty = TensorType::BF16,
        &format!("tensor blk.3.attn_q.weight: expected {TYPES} [256, 256], got bf16 [256, 256]"),
    );
    check(
        "tiny-llama3",
        |parts| {
            let tensor = parts.tensor("blk.3.attn_q.weight");
            tensor.shape = vec![256, 128];
            tensor.bytes.truncate(2 * 256 * 128);
        },
        &format!("tensor blk.3.attn_q.weight: expected {TYPES} [256, 256], got f16 [256, 128]"),
    );
    check(
        "tiny-phi3",
        |parts| parts.tensor("blk.0.attn_qkv.weight").shape = vec![384, 512],
        &format!("tensor blk.0.attn_qkv.weight: expected {TYPES} [768, 256], got f16 [384, 512]"),
    );
    check(
        "tiny-llama3",
        |parts| {
            let tensor = parts.tensor("output_norm.weight");
            tensor.ty = TensorType::F16;
            tensor.bytes.truncate(2 * 256);
        },
        "tensor output_norm.weight: expected f32 [256], got f16 [256]",
    );
    check(
        "tiny-llama3",
        |parts| parts.tensor("token_embd.weight").shape = vec![256, 512],
        &format!("tensor token_embd.weight: expected {TYPES} [512, 256], got f16 [256, 512]"),
    );
}

#[test]
fn refuses_rotation_factors_that_are_no_divisors() {
    for (value, text) in [(0.0_f32, "0"), (f32::NAN, "NaN"), (f32::INFINITY, "inf"), (-1.0, "-1")] {
        let mut parts = Parts::of("tiny-llama3", "f16");
        parts.tensor("rope_freqs.weight").bytes[8..12].copy_from_slice(&value.to_le_bytes());
        let model = parts.model().expect("a valid file").expect("its header is right");
        let error = Shard::load(model, LayerRange::new(2, 3).expect("not empty"));
        let expected =
            format!("tensor rope_freqs.weight: expected finite divisors above zero, got {text}");
        assert_eq!(error.expect_err("refused").to_string(), expected);
    }
}

#[test]
fn llama_may_have_biases_and_a_tied_or_separate_output() {
    let mut parts = Parts::of("tiny-tinyllama", "f16");
    parts.drop_tensor("output.weight");
    parts.add_vector("blk.2.attn_k.bias", &[0.5; 32]);
    compute_one(&parts.model().expect("a valid file").expect("nothing is missing"));
}

#[test]
fn rotation_factors_are_read_under_both_names_and_not_without_scaling() {
    let factor = |edit: fn(&mut Parts)| {
        let mut parts = Parts::of("tiny-qwen2", "q4_k_m");
        edit(&mut parts);
        let model = parts.model().expect("a valid file").expect("supported");
        model.hparams().rope.factor
    };
    assert_eq!(factor(|parts| parts.set("qwen2.rope.scaling.factor", 4_f32)), 4.0);
    assert_eq!(factor(|parts| parts.set("qwen2.rope.scale_linear", 4_f32)), 4.0);
    assert_eq!(factor(|parts| parts.set("qwen2.rope.scale_linear", 0_f32)), 1.0);
    let unscaled = |parts: &mut Parts| {
        parts.set("qwen2.rope.scaling.type", "none");
        parts.set("qwen2.rope.scaling.factor", 4_f32);
    };
    assert_eq!(factor(unscaled), 1.0);
}

#[test]
fn phi_3_looks_back_as_far_as_its_window() {
    let mut parts = Parts::of("tiny-phi3", "q4_k_m");
    let mut last_logits = |window: u32, tokens: &[u32]| {
        parts.set("phi3.attention.sliding_window", window);
        let model = parts.model().expect("a valid file").expect("supported");
        Pipeline::whole(&model, 16).step(&compute(), tokens)
    };
    // A token that sees only itself has nothing to tell it from another at another place.
    assert!(last_logits(1, &[1, 2, 3]) == last_logits(1, &[9, 3]));
    // Four layers of a window of two see four tokens back and not five.
    let five = last_logits(2, &[7, 1, 2, 3, 4, 5]);
    assert!(five == last_logits(2, &[8, 1, 2, 3, 4, 5]));
    assert!(five != last_logits(2, &[7, 8, 2, 3, 4, 5]));
    // Zero means none.
    assert!(last_logits(0, &[7, 1, 2, 3]) == last_logits(100, &[7, 1, 2, 3]));
}

/// Computes one token with all layers.
fn compute_one(model: &Arc<Model>) {
    let layers = LayerRange::new(0, model.n_layer()).expect("a model has layers");
    let mut shard = Shard::load(Arc::clone(model), layers).expect("the model is sound");
    let mut sequence = Sequence::new(&shard, 1).expect("every model has a position");
    let segment =
        Segment { sequence: &mut sequence, tokens: &[0], activations: &[], want_logits: true };
    shard.forward(&compute(), &mut [segment]).expect("a token of the vocabulary");
}

/// Whatever the metadata say, a model is refused or computes.
#[test]
fn extreme_metadata_never_panic() {
    let extremes: [Value; 12] = [
        0_u32.into(),
        1_u32.into(),
        2_u32.into(),
        u32::MAX.into(),
        Value::U64(u64::MAX),
        Value::I32(-1),
        0_f32.into(),
        1e30_f32.into(),
        f32::NAN.into(),
        "".into(),
        false.into(),
        Value::Array(Array::U32(vec![1, 2])),
    ];
    for (shape, architecture) in SMALL {
        let mut parts = Parts::of(shape, "q4_k_m");
        parts.shrink(architecture);
        for i in 0..parts.metadata.len() {
            let key = &parts.metadata[i].0;
            if !key.starts_with(architecture) && key != "tokenizer.ggml.tokens" {
                continue;
            }
            for value in &extremes {
                let mut changed = parts.clone();
                changed.metadata[i].1 = value.clone();
                if let Some(Ok(model)) = changed.model() {
                    compute_one(&model);
                }
            }
        }
    }
}

/// Whatever the directory says, a model is refused or computes.
#[test]
fn changed_tensors_never_panic() {
    for (shape, architecture) in SMALL {
        let mut parts = Parts::of(shape, "q4_k_m");
        parts.shrink(architecture);
        for i in 0..parts.tensors.len() {
            let mut changed = parts.clone();
            changed.tensors.remove(i);
            if let Some(Ok(model)) = changed.model() {
                compute_one(&model);
            }
            let mut changed = parts.clone();
            changed.tensors[i].shape.reverse();
            if let Some(Ok(model)) = changed.model() {
                compute_one(&model);
            }
            for ty in TensorType::all() {
                let mut changed = parts.clone();
                let tensor = &mut changed.tensors[i];
                tensor.ty = ty;
                let Some(n_bytes) = ty.n_bytes(&tensor.shape) else { continue };
                tensor.bytes.resize(n_bytes as usize, 0x5a);
                if let Some(Ok(model)) = changed.model() {
                    compute_one(&model);
                }
            }
        }
    }
}
