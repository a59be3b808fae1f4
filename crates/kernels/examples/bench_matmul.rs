//! Prints how fast matrices are multiplied: `cargo run --release -p shoal-kernels --example bench_matmul [TYPE..]`.
//!
//! Decode figures are GB/s of weights, from matrices that exceed the caches; prefill figures are GMAC/s. Each is the best and
//! the median of several runs, since other programs share the machine; `cpu` is by the time that the calling thread really
//! ran (Linux), all runs together: what a machine to itself would give.

use std::time::Instant;

use shoal_kernels::{Activations, Compute, Isa, Matrix, WeightType};

const N_COLS: usize = 2048;
const RUNS: usize = 9;

/// Seconds that this thread has run, as Linux counts them.
fn cpu_seconds() -> Option<f64> {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").ok()?;
    text.split_whitespace().next()?.parse::<f64>().ok().map(|ns| ns / 1e9)
}

/// Seconds of each of `n` runs, ascending.
fn time(n: usize, mut f: impl FnMut()) -> Vec<f64> {
    let mut seconds: Vec<f64> = (0..n)
        .map(|_| {
            let start = Instant::now();
            f();
            start.elapsed().as_secs_f64()
        })
        .collect();
    seconds.sort_by(f64::total_cmp);
    seconds
}

#[expect(clippy::print_stdout, reason = "a table is the purpose of this program")]
fn main() {
    let wanted: Vec<String> = std::env::args().skip(1).collect();
    println!("type   isa          threads tokens      best    median       cpu");
    for ty in WeightType::ALL {
        if !wanted.is_empty() && !wanted.contains(&ty.to_string()) {
            continue;
        }
        let row_bytes = ty.row_bytes(N_COLS);
        let n_rows = (192 << 20) / row_bytes;
        // Small bytes everywhere: no scale is infinite, no float a NaN.
        let bytes: Vec<u8> = (0..n_rows * row_bytes).map(|i| (i * 7 % 59) as u8).collect();
        for isa in Isa::all_available().into_iter().skip(1) {
            for n_threads in [1, 2] {
                let compute = Compute::with_isa(isa, n_threads);
                for n_tokens in [1, 128] {
                    let n_rows = if n_tokens == 1 { n_rows } else { 2048 };
                    let w = Matrix::new(ty, n_rows, N_COLS, &bytes[..n_rows * row_bytes])
                        .expect("whole rows");
                    let x: Vec<f32> = (0..n_tokens * N_COLS).map(|i| (i as f32).sin()).collect();
                    let mut acts = Activations::default();
                    compute.quantize(&mut acts, &x, N_COLS, &[ty.activation()]);
                    let mut out = vec![0.0; n_tokens * n_rows];
                    let cpu_start = cpu_seconds();
                    let seconds = time(RUNS, || compute.matmul(&w, &acts, &mut out));
                    let cpu =
                        cpu_seconds().zip(cpu_start).map_or(f64::NAN, |(end, start)| end - start);
                    let (amount, unit) = if n_tokens == 1 {
                        ((n_rows * row_bytes) as f64 / 1e9, "GB/s")
                    } else {
                        ((n_rows * N_COLS * n_tokens) as f64 / 1e9, "GMAC/s")
                    };
                    let (best, median) = (amount / seconds[0], amount / seconds[RUNS / 2]);
                    let cpu = amount * RUNS as f64 / cpu;
                    println!(
                        "{:6} {:12} {n_threads:7} {n_tokens:6} {best:9.1} {median:9.1} {cpu:9.1} {unit}",
                        ty.to_string(),
                        isa.to_string()
                    );
                }
            }
        }
    }
}
