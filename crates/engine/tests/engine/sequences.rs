//! Sequences: what is kept, what is forgotten, and what a refused step leaves behind.

use std::sync::Arc;

use shoal_engine::{Segment, Sequence, Shard, evaluate};
use shoal_proto::{LayerRange, TokenId};

use crate::support::{N_LAYER, Pipeline, SHAPES, compute, model, tokens};

#[test]
fn a_sequence_after_sync_gives_the_bits_of_a_fresh_one() {
    let compute = compute();
    let (first, mut second) = (tokens(30, 1), tokens(30, 1));
    second[17] ^= 1;
    for shape in SHAPES {
        let model = model(shape);
        let expected = Pipeline::whole(&model, 64).step(&compute, &second);

        let mut pipeline = Pipeline::whole(&model, 64);
        pipeline.step(&compute, &first);
        assert_eq!(pipeline.last().1.sync(&second), 17);
        let found = pipeline.step(&compute, &second[17..]);
        assert!(found == expected, "{shape}");
        assert_eq!(pipeline.last().1.tokens(), second);
    }
}

#[test]
fn sync_keeps_what_a_shorter_or_longer_prefix_shares() {
    let model = model("tiny-llama3");
    let tokens = tokens(10, 1);
    let mut pipeline = Pipeline::whole(&model, 16);
    pipeline.step(&compute(), &tokens[..8]);
    let (_, sequence) = pipeline.last();
    assert_eq!(sequence.n_ctx(), 16);
    assert_eq!(sequence.sync(&tokens), 8);
    assert_eq!(sequence.sync(&tokens[..5]), 5);
    assert_eq!(sequence.tokens(), &tokens[..5]);
    sequence.truncate(9);
    assert_eq!(sequence.tokens().len(), 5);
    sequence.truncate(2);
    assert_eq!(sequence.tokens(), &tokens[..2]);
    assert_eq!(sequence.sync(&[]), 0);
}

#[track_caller]
fn check_refused(shard: &mut Shard, segments: &mut [Segment<'_>], expected: &str) {
    let error = shard.forward(&compute(), segments).expect_err("refused");
    assert_eq!(error.to_string(), expected);
}

#[test]
fn a_refused_step_says_why_and_changes_nothing() {
    let model = model("tiny-llama3");
    let known = tokens(6, 1);
    let mut pipeline = Pipeline::whole(&model, 8);
    pipeline.step(&compute(), &known);
    let (shard, sequence) = pipeline.last();
    let mut fresh = Sequence::new(shard, 8).expect("fits");
    let mut check = |tokens: &[TokenId], activations: &[f32], expected: &str| {
        // The first segment could be computed; it must not be, since the second cannot.
        let good =
            Segment { sequence: &mut fresh, tokens: &[1], activations: &[], want_logits: true };
        let bad = Segment { sequence: &mut *sequence, tokens, activations, want_logits: true };
        check_refused(shard, &mut [good, bad], expected);
        assert!(fresh.tokens().is_empty());
        assert_eq!(sequence.tokens(), known);
    };
    check(&[1, 2, 3], &[], "the context is full: expected at most 8 tokens, got 9");
    check(&[], &[], "segment 1: expected at least one token, got none");
    check(&[511, 512], &[], "segment 1: expected token ids below 512, got 512");
    check(&[1], &[0.5], "segment 1: expected 0 activations, got 1");

    let mut expected = Pipeline::whole(&model, 8);
    expected.step(&compute(), &known);
    assert!(pipeline.step(&compute(), &[7]) == expected.step(&compute(), &[7]));
}

#[test]
fn a_shard_takes_only_what_belongs_to_it() {
    let model_a = model("tiny-llama3");
    let model_b = model("tiny-llama3");
    let layers = |start, end| LayerRange::new(start, end).expect("not empty");
    let load = |model, layers| Shard::load(Arc::clone(model), layers).expect("its layers");
    let mut shard = load(&model_a, layers(2, N_LAYER));
    let mut elsewhere = Sequence::new(&load(&model_a, layers(0, 2)), 8).expect("fits");
    let mut other_model = Sequence::new(&load(&model_b, layers(2, N_LAYER)), 8).expect("fits");
    let mut own = Sequence::new(&shard, 8).expect("fits");
    let row = vec![0.0; shard.hparams().n_embd];
    let mut check = |sequence: &mut Sequence, activations: &[f32], expected: &str| {
        let segment = Segment { sequence, tokens: &[1], activations, want_logits: false };
        check_refused(&mut shard, &mut [segment], expected);
    };
    check(
        &mut elsewhere,
        &row,
        "segment 0: expected a sequence of layers 2..4 of this model, got one of layers 0..2 of the same",
    );
    check(
        &mut other_model,
        &row,
        "segment 0: expected a sequence of layers 2..4 of this model, got one of layers 2..4 of another",
    );
    check(&mut own, &row[1..], "segment 0: expected 256 activations, got 255");

    let error = evaluate(&mut shard, &compute(), 8, &[1], |_, _| {}).expect_err("only a part");
    assert_eq!(error.to_string(), "layers: expected all of 0..4, got 2..4");
    let error = Shard::load(model_a, layers(3, 5)).expect_err("no such layer");
    assert_eq!(error.to_string(), "layers: expected a range within 0..4, got 3..5");
}

#[test]
fn a_context_is_what_the_model_was_trained_for() {
    let model = model("tiny-phi3");
    let mut pipeline = Pipeline::whole(&model, 8);
    let (shard, _) = pipeline.last();
    for n_ctx in [0, 4097, usize::MAX] {
        let error = Sequence::new(shard, n_ctx).expect_err("refused").to_string();
        assert_eq!(error, format!("context: expected 1 to 4096 positions, got {n_ctx}"));
    }
    assert!(Sequence::new(shard, 4096).is_ok());
}

#[test]
fn rows_that_nobody_wants_make_no_logits() {
    let model = model("tiny-qwen2");
    let mut pipeline = Pipeline::whole(&model, 16);
    let prompt = tokens(6, 2);
    let expected = pipeline.step(&compute(), &prompt);

    let mut pipeline = Pipeline::whole(&model, 16);
    let (shard, sequence) = pipeline.last();
    let tokens = &prompt[..4];
    let segment = Segment { sequence, tokens, activations: &[], want_logits: false };
    let output = shard.forward(&compute(), &mut [segment]).expect("a step that fits");
    assert!(output.logits.is_empty() && output.activations.is_empty());
    assert!(pipeline.step(&compute(), &prompt[4..]) == expected);
    let (shard, _) = pipeline.last();
    let nothing = shard.forward(&compute(), &mut []).expect("nothing to do");
    assert!(nothing.logits.is_empty());
}

#[test]
fn memory_is_counted_by_layer() {
    let model = model("tiny-qwen2");
    let layers = |start, end| LayerRange::new(start, end).expect("not empty");
    let sum: u64 = model.gguf().tensors().iter().map(|tensor| tensor.n_bytes).sum();
    assert_eq!(model.weight_bytes(layers(0, N_LAYER)), sum);
    // The embedding is the head too: whoever has one of them reads it.
    let embedding = model.gguf().tensor("token_embd.weight").expect("there").info.n_bytes;
    let split: u64 = [layers(0, 1), layers(1, N_LAYER)].map(|l| model.weight_bytes(l)).iter().sum();
    assert_eq!(split, sum + embedding);
    // 2 key heads of 64 in f16, keys and values.
    assert_eq!(model.kv_bytes(layers(1, 3), 10), 2 * 10 * 2 * 2 * 64 * 2);
}
