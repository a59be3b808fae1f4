//! The numbers of a synthetic model.
//!
//! A matrix gets normal weights of deviation `1/sqrt(n_in)`, so that it keeps the scale of what comes in.
//! Small tensors are drawn and quantised number by number. For large ones a pool of blocks is quantised, and
//! the tensor's blocks are drawn from it at random: rows are long enough that no two are alike, and a model
//! of 3 B parameters takes seconds instead of minutes.

use std::cell::RefCell;
use std::collections::HashMap;
use std::io::{self, Write};
use std::rc::Rc;
use std::thread;

use shoal_gguf::TensorType;

use super::layout::{Role, Tensor};
use super::noise::Noise;
use super::shape::{Rope, Shape};
use crate::quantize::quantize;

/// Tensors above this size are drawn from a pool of this size, in elements. A multiple of every block size.
const POOL_LEN: u64 = 1 << 21;

/// Elements that one thread makes at a time, a multiple of every block size.
const CHUNK_LEN: u64 = 1 << 18;

/// Deviation of the logits: predictions that are neither certain nor level. A KL divergence grows with its
/// square.
const LOGITS_DEVIATION: f32 = 1.5;

/// Makes the weights of one model. Clones share their pools.
#[derive(Debug, Clone)]
pub(crate) struct Weights {
    seed: u64,
    pools: Rc<RefCell<HashMap<String, Rc<Vec<u8>>>>>,
}

impl Weights {
    pub(crate) fn new(seed: u64) -> Self {
        Self { seed, pools: Rc::default() }
    }

    /// Writes the data of one tensor.
    pub(crate) fn write(
        &self,
        shape: &Shape,
        tensor: &Tensor,
        ty: TensorType,
        out: &mut dyn Write,
    ) -> io::Result<()> {
        let n_elements: u64 = tensor.shape.iter().product();
        if let Some(values) = computed(shape, tensor.role) {
            return write_quantized(ty, n_elements, &|i| values[i as usize], out);
        }
        let (mean, deviation) = distribution(shape, tensor);
        let noise = Noise::new(self.seed, &tensor.name);
        if n_elements <= POOL_LEN {
            return write_quantized(ty, n_elements, &|i| mean + deviation * noise.normal(i), out);
        }

        let key = format!("pool {ty} {deviation}");
        let pool = self.pools.borrow().get(&key).cloned();
        let pool = match pool {
            Some(pool) => pool,
            None => {
                let noise = Noise::new(self.seed, &key);
                let mut pool = Vec::new();
                write_quantized(ty, POOL_LEN, &|i| deviation * noise.normal(i), &mut pool)?;
                let pool = Rc::new(pool);
                self.pools.borrow_mut().insert(key, Rc::clone(&pool));
                pool
            }
        };
        write_drawn(&pool, ty, n_elements, noise, out)
    }
}

/// Mean and deviation of a tensor's elements.
fn distribution(shape: &Shape, tensor: &Tensor) -> (f32, f32) {
    let n_in = *tensor.shape.last().expect("every tensor here has a dimension") as f32;
    match tensor.role {
        // The product of a tied embedding with itself must not make each token predict itself: weights of
        // mean zero leave it as random as any other.
        Role::OutputNorm if shape.is_tied => (0.0, LOGITS_DEVIATION / n_in.sqrt()),
        Role::OutputNorm | Role::Norm => (1.0, 0.1),
        Role::BiasQk => (0.0, 0.5),
        Role::BiasV => (0.0, 0.1),
        // Scores of deviation 2: attention that looks at some positions more than at others.
        Role::AttnQ | Role::AttnK => (0.0, 1.4 / n_in.sqrt()),
        Role::Output => (0.0, LOGITS_DEVIATION / n_in.sqrt()),
        Role::TokenEmbd => (0.0, 1.0),
        // All layers together add as much as the embedding is (the initialisation of GPT-2). Were each to
        // add that much, rounding would grow from layer to layer, which it does not in trained models: two
        // correct engines would differ by more than 1e-3 in KL divergence.
        Role::AttnOutput | Role::FfnDown => (0.0, 1.0 / (n_in * 2.0 * shape.n_layer as f32).sqrt()),
        _ => (0.0, 1.0 / n_in.sqrt()),
    }
}

/// The elements of tensors that are not random.
fn computed(shape: &Shape, role: Role) -> Option<Vec<f32>> {
    let n = shape.head_dim() / 2;
    match (role, shape.rope) {
        (Role::RopeFreqs, Rope::Llama3 { factor, n_ctx_original }) => {
            Some(llama3_divisors(n, f64::from(shape.rope_freq_base), factor, n_ctx_original))
        }
        // Trained by the model's makers; these rise as theirs do, from about 1 to 2.8 and to 65.
        (Role::RopeShort, _) => Some(rising(n, 1.0, 1.8)),
        (Role::RopeLong, _) => Some(rising(n, 1.08, 64.0)),
        _ => None,
    }
}

/// `first + rise * t²` for `n` values of `t` from 0 to 1.
fn rising(n: u32, first: f32, rise: f32) -> Vec<f32> {
    (0..n)
        .map(|i| {
            let t = i as f32 / (n - 1) as f32;
            first + rise * t * t
        })
        .collect()
}

/// Llama 3.1's scaling of long wavelengths (Meta's reference `apply_scaling`, low factor 1, high factor 4):
/// by `factor` above the original context, not at all below a quarter of it, and in between smoothly.
///
/// - `n`: half the head dimension, a power of two, so that roots of the base are square roots, which every
///   machine rounds alike
fn llama3_divisors(n: u32, base: f64, factor: f32, n_ctx_original: u32) -> Vec<f32> {
    assert!(n.is_power_of_two(), "half the head dimension is a power of two, got {n}");
    let step = (0..n.ilog2()).fold(base, |root, _| root.sqrt());
    let n_ctx = f64::from(n_ctx_original);
    let factor = f64::from(factor);
    let mut wavelength = std::f64::consts::TAU;
    (0..n)
        .map(|_| {
            let turns = n_ctx / wavelength;
            wavelength *= step;
            let divisor = if turns > 4.0 {
                1.0
            } else if turns < 1.0 {
                factor
            } else {
                let smooth = (turns - 1.0) / 3.0;
                1.0 / ((1.0 - smooth) / factor + smooth)
            };
            divisor as f32
        })
        .collect()
}

/// Quantises `value(0..n_elements)` on all cores.
fn write_quantized(
    ty: TensorType,
    n_elements: u64,
    value: &(dyn Fn(u64) -> f32 + Sync),
    out: &mut dyn Write,
) -> io::Result<()> {
    in_chunks(n_elements, out, |start, end| {
        let values: Vec<f32> = (start..end).map(value).collect();
        quantize(ty, &values)
    })
}

/// Draws the blocks of a tensor from a pool.
fn write_drawn(
    pool: &[u8],
    ty: TensorType,
    n_elements: u64,
    noise: Noise,
    out: &mut dyn Write,
) -> io::Result<()> {
    let block_bytes = ty.block_bytes() as usize;
    let n_pool = (pool.len() / block_bytes) as u64;
    in_chunks(n_elements, out, |start, end| {
        let blocks = start / ty.block_len()..end / ty.block_len();
        let mut bytes = Vec::with_capacity((blocks.end - blocks.start) as usize * block_bytes);
        for block in blocks {
            let at = (noise.bits(block) % n_pool) as usize * block_bytes;
            bytes.extend_from_slice(&pool[at..at + block_bytes]);
        }
        bytes
    })
}

/// Calls `make(start, end)` for ranges that cover `0..n_elements`, on all cores, and writes the results in
/// order.
fn in_chunks(
    n_elements: u64,
    out: &mut dyn Write,
    make: impl Fn(u64, u64) -> Vec<u8> + Sync,
) -> io::Result<()> {
    let n_threads = thread::available_parallelism().map_or(1, |n| n.get() as u64);
    let round_len = CHUNK_LEN * n_threads;
    for round in (0..n_elements).step_by(round_len as usize) {
        let starts = (round..n_elements.min(round + round_len)).step_by(CHUNK_LEN as usize);
        let chunks: Vec<Vec<u8>> = thread::scope(|scope| {
            let make = &make;
            let workers: Vec<_> = starts
                .map(|start| scope.spawn(move || make(start, n_elements.min(start + CHUNK_LEN))))
                .collect();
            let join = |worker: thread::ScopedJoinHandle<'_, _>| worker.join();
            workers.into_iter().map(|w| join(w).expect("quantising does not panic")).collect()
        });
        for chunk in chunks {
            out.write_all(&chunk)?;
        }
    }
    Ok(())
}
