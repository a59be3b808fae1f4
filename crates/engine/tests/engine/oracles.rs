//! One answer: splits, batches, chunks, threads and instruction sets change no bit.

use shoal_engine::{Compute, Isa, Segment, Sequence};
use shoal_proto::TokenId;

use crate::support::{N_LAYER, Pipeline, SHAPES, bits, compute, model, model_of, tokens};

/// Logits of a prompt's last token and of some steps after it.
fn answer(pipeline: &mut Pipeline, compute: &Compute, prompt: &[TokenId]) -> Vec<Vec<u32>> {
    let mut answer = vec![pipeline.step(compute, prompt)];
    for token in tokens(4, 99) {
        answer.push(pipeline.step(compute, &[token]));
    }
    answer
}

#[test]
fn every_split_of_the_layers_gives_the_bits_of_one_shard() {
    let (compute, prompt) = (compute(), tokens(20, 1));
    for shape in SHAPES {
        let model = model(shape);
        let expected = answer(&mut Pipeline::whole(&model, 64), &compute, &prompt);
        for split in 1..1 << (N_LAYER - 1) {
            let cuts: Vec<u32> = (1..N_LAYER).filter(|cut| split >> (cut - 1) & 1 == 1).collect();
            let found = answer(&mut Pipeline::new(&model, &cuts, 64), &compute, &prompt);
            assert!(found == expected, "{shape} cut at {cuts:?}");
        }
    }
}

#[test]
fn chunks_of_any_size_give_the_bits_of_one_step() {
    // Past the attention's chunk of 256 positions.
    let (compute, prompt) = (compute(), tokens(270, 2));
    for shape in SHAPES {
        let model = model(shape);
        // For tiny-phi3 the contexts choose different rotation factors.
        for n_ctx in [512, 513] {
            let expected = answer(&mut Pipeline::whole(&model, n_ctx), &compute, &prompt);
            for n in [1, 7, 64] {
                let mut pipeline = Pipeline::whole(&model, n_ctx);
                let (begin, end) = prompt.split_at((prompt.len() - 1) / n * n);
                for chunk in begin.chunks(n) {
                    pipeline.step(&compute, chunk);
                }
                let found = answer(&mut pipeline, &compute, end);
                assert!(found == expected, "{shape}, chunks of {n}, context {n_ctx}");
            }
        }
    }
}

#[test]
fn sequences_together_give_the_bits_of_each_alone() {
    let compute = compute();
    // Steps of three sequences: prefill beside prefill, prefill beside decode, decode beside decode.
    let steps = [[5, 33, 1], [1, 1, 40], [1, 1, 1]];
    for shape in SHAPES {
        let model = model(shape);
        let mut alone: Vec<Vec<Vec<u32>>> = Vec::new();
        for i in 0..3 {
            let (mut pipeline, mut rest) = (Pipeline::whole(&model, 64), &*tokens(64, i as u32));
            let mut logits = Vec::new();
            for step in steps {
                let (now, later) = rest.split_at(step[i]);
                logits.push(pipeline.step(&compute, now));
                rest = later;
            }
            alone.push(logits);
        }

        let mut pipeline = Pipeline::whole(&model, 64);
        let (shard, _) = pipeline.last();
        let mut sequences: Vec<Sequence> =
            (0..3).map(|_| Sequence::new(shard, 64).expect("fits")).collect();
        for (step_idx, step) in steps.into_iter().enumerate() {
            let all: Vec<Vec<TokenId>> = (0..3).map(|i| tokens(64, i)).collect();
            // The second sequence wants no logits of its first step.
            let wants = |i: usize| !(step_idx == 0 && i == 1);
            let mut segments: Vec<Segment<'_>> = Vec::new();
            for (i, sequence) in sequences.iter_mut().enumerate() {
                let start = sequence.tokens().len();
                segments.push(Segment {
                    sequence,
                    tokens: &all[i][start..start + step[i]],
                    activations: &[],
                    want_logits: wants(i),
                });
            }
            let output = shard.forward(&compute, &mut segments).expect("a step that fits");
            let mut rows = output.logits.chunks_exact(512);
            for i in (0..3).filter(|&i| wants(i)) {
                let row = bits(rows.next().expect("a row for each segment that wants one"));
                assert!(row == alone[i][step_idx], "{shape}, step {step_idx}, sequence {i}");
            }
            assert_eq!(rows.next(), None);
        }
    }
}

#[test]
fn a_batch_through_two_shards_gives_the_bits_of_one() {
    let compute = compute();
    let (first, second) = (tokens(9, 5), tokens(3, 6));
    for shape in SHAPES {
        let model = model(shape);
        let alone: Vec<u32> = [&first, &second]
            .into_iter()
            .flat_map(|tokens| Pipeline::whole(&model, 16).step(&compute, tokens))
            .collect();

        let mut pipelines: Vec<Pipeline> =
            (0..2).map(|_| Pipeline::new(&model, &[3], 16)).collect();
        let found = Pipeline::step_together(&mut pipelines, &compute, &[&first, &second]);
        assert!(found == alone, "{shape}");
    }
}

#[test]
fn any_number_of_threads_gives_the_bits_of_one() {
    let prompt = tokens(40, 3);
    for shape in SHAPES {
        let model = model(shape);
        let expected = answer(&mut Pipeline::whole(&model, 64), &Compute::new(1), &prompt);
        for n_threads in [2, 3] {
            let compute = Compute::new(n_threads);
            let found = answer(&mut Pipeline::whole(&model, 64), &compute, &prompt);
            assert!(found == expected, "{shape}, {n_threads} threads");
        }
    }
}

#[test]
fn every_instruction_set_gives_the_bits_of_the_scalar_one() {
    let prompt = tokens(40, 4);
    let scalar = Compute::with_isa(Isa::scalar(), 2);
    for shape in SHAPES {
        for file_type in ["q4_k_m", "q8_0", "q4_0", "f16"] {
            let model = model_of(shape, file_type);
            let expected = answer(&mut Pipeline::whole(&model, 64), &scalar, &prompt);
            for isa in Isa::all_available() {
                let compute = Compute::with_isa(isa, 2);
                let found = answer(&mut Pipeline::whole(&model, 64), &compute, &prompt);
                assert!(found == expected, "{shape} {file_type}, {isa}");
            }
        }
    }
}
