//! What a shard reads of a file, and nothing else: the rest of it may be missing.

use std::sync::Arc;

use shoal_engine::{Compute, Model, Segment, Sequence, Shard};
use shoal_gguf::{Gguf, TensorInfo};
use shoal_proto::LayerRange;

use crate::support::{N_LAYER, SHAPES, bytes, tokens};

const N_TOKENS: usize = 5;

/// The bits that a shard of these layers computes from a model file.
fn output(file: &'static [u8], layers: LayerRange) -> Vec<u32> {
    let gguf = Gguf::from_static(file).expect("the header is whole");
    let model = Model::new(Arc::new(gguf)).expect("the directory is whole");
    let n_embd = model.hparams().n_embd;
    let mut shard = Shard::load(model, layers).expect("the layers are there");
    let mut sequence = Sequence::new(&shard, 16).expect("a small context");
    let activations: Vec<f32> = if layers.has_embedding() {
        Vec::new()
    } else {
        (0..N_TOKENS * n_embd).map(|i| ((i * 37 % 101) as f32 - 50.0) / 50.0).collect()
    };
    let segment = Segment {
        sequence: &mut sequence,
        tokens: &tokens(N_TOKENS, 3),
        activations: &activations,
        want_logits: true,
    };
    let output = shard.forward(&Compute::new(1), &mut [segment]).expect("a step that fits");
    output.activations.iter().chain(output.logits.iter()).map(|value| value.to_bits()).collect()
}

/// A copy of a file in which the bytes of some tensors are something else.
fn spoil(
    file: &'static [u8],
    tensors: &[TensorInfo],
    byte: u8,
    is_spoilt: impl Fn(&TensorInfo) -> bool,
) -> &'static [u8] {
    let mut copy = file.to_vec();
    for tensor in tensors.iter().filter(|tensor| is_spoilt(tensor)) {
        let start = usize::try_from(tensor.offset).expect("small");
        let n_bytes = usize::try_from(tensor.n_bytes).expect("small");
        copy[start..start + n_bytes].fill(byte);
    }
    Vec::leak(copy)
}

fn all_ranges() -> impl Iterator<Item = LayerRange> {
    let of_start = |start| (start + 1..=N_LAYER).map(move |end| LayerRange::new(start, end));
    (0..N_LAYER).flat_map(of_start).map(|layers| layers.expect("not empty"))
}

#[test]
fn a_shard_reads_exactly_the_tensors_that_are_said() {
    for shape in SHAPES {
        let file = bytes(shape, "q4_k_m");
        let gguf = Gguf::from_static(file).expect("a synthetic model is valid");
        let model = Model::new(Arc::new(gguf)).expect("a synthetic model has what it needs");
        let tensors = model.gguf().tensors();
        for layers in all_ranges() {
            let needed: Vec<&str> =
                model.tensors_of(layers).map(|tensor| tensor.name.as_str()).collect();
            let is_needed = |tensor: &TensorInfo| needed.contains(&tensor.name.as_str());
            // 0xff: not-a-number as a float, and as the scale of a block.
            let rest_spoilt = spoil(file, tensors, 0xff, |tensor| !is_needed(tensor));
            let intact = output(file, layers);
            assert!(output(rest_spoilt, layers) == intact, "{shape} {layers}: reads more");
        }
        let layers = LayerRange::new(1, N_LAYER).expect("not empty");
        let intact = output(file, layers);
        for needed in model.tensors_of(layers).filter(|tensor| !tensor.name.starts_with("rope")) {
            let spoilt = spoil(file, tensors, 0, |tensor| tensor.name == needed.name);
            assert!(
                output(spoilt, layers) != intact,
                "{shape} {layers}: {} is not read",
                needed.name
            );
        }
    }
}
