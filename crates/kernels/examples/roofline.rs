//! Prints what this machine can do at best: `cargo run --release -p shoal-kernels --example roofline -- [THREADS]`.
//!
//! One line of JSON. `read_gb_per_s`: memory read from beginning to end, each thread its own part, the best of several sweeps
//! over ordinary and over huge pages, since neighbours can only take away. `int8_gmac_per_s`: products of signed bytes
//! from registers alone with the instruction that the kernels use; `null` where this program has none.

#![expect(unsafe_code, reason = "calls of functions compiled for what the CPU was asked for")]
#![expect(clippy::print_stdout, reason = "a figure is the purpose of this program")]

use std::{
    sync::Barrier,
    thread,
    time::{Duration, Instant},
};

use memmap2::{Advice, MmapMut};

/// Larger than any cache in sight.
const READ_BYTES: usize = 1 << 30;
/// Sweeps over each buffer; more than enough to meet a quiet moment among 50 to 100 ms each.
const SWEEPS: usize = 5;
/// How long products are counted, and how often.
const TRIAL: Duration = Duration::from_millis(40);
const TRIALS: usize = 5;

fn main() {
    let n_threads = std::env::args().nth(1).and_then(|n| n.parse().ok()).unwrap_or(1);
    let read = read_gb_per_s(n_threads);
    let int8 = int8_gmac_per_s(n_threads);
    let int8 = int8.map_or("null".to_owned(), |rate| format!("{rate:.1}"));
    println!(
        "{{\"n_threads\":{n_threads},\"read_gb_per_s\":{read:.2},\"int8_gmac_per_s\":{int8}}}"
    );
}

fn read_gb_per_s(n_threads: usize) -> f64 {
    let mut best = 0.0f64;
    for advice in [Advice::Normal, Advice::HugePage] {
        let mut memory = MmapMut::map_anon(READ_BYTES).expect("memory to read");
        // Systems without huge pages refuse the advice and lose nothing.
        let _ = memory.advise(advice);
        // A page that was never written is the same page of zeroes everywhere.
        memory.iter_mut().step_by(4096).for_each(|byte| *byte = 1);
        let part = READ_BYTES / n_threads / 4096 * 4096;
        let seconds = fastest(n_threads, SWEEPS, |i| sum(&memory[i * part..][..part]));
        best = best.max((part * n_threads) as f64 / seconds / 1e9);
    }
    best
}

/// Seconds of the fastest of `n` runs of `f` on all threads at once, from the first that begins to the last that ends.
fn fastest(n_threads: usize, n: usize, f: impl Fn(usize) -> u64 + Sync) -> f64 {
    let barrier = Barrier::new(n_threads);
    let run = |i: usize| -> Vec<(Instant, Instant)> {
        let timed = |_| {
            barrier.wait();
            let started = Instant::now();
            std::hint::black_box(f(i));
            (started, Instant::now())
        };
        (0..n).map(timed).collect()
    };
    let run = &run;
    let times: Vec<Vec<(Instant, Instant)>> = thread::scope(|scope| {
        let threads: Vec<_> = (0..n_threads).map(|i| scope.spawn(move || run(i))).collect();
        threads.into_iter().map(|thread| thread.join().expect("no thread panics")).collect()
    });
    let seconds = |sweep: usize| {
        let first = times.iter().map(|thread| thread[sweep].0).min();
        let last = times.iter().map(|thread| thread[sweep].1).max();
        last.zip(first).map_or(f64::INFINITY, |(last, first)| (last - first).as_secs_f64())
    };
    (0..n).map(seconds).fold(f64::INFINITY, f64::min)
}

/// Reads every byte once.
fn sum(bytes: &[u8]) -> u64 {
    #[cfg(target_arch = "x86_64")]
    if is_x86_feature_detected!("avx512f") {
        // SAFETY: the CPU has AVX-512F.
        return unsafe { x86::sum_avx512(bytes) };
    } else if is_x86_feature_detected!("avx2") {
        // SAFETY: the CPU has AVX2.
        return unsafe { x86::sum_avx2(bytes) };
    }
    // The compiler makes vectors of a plain sum.
    bytes.as_chunks::<8>().0.iter().fold(0, |sum, word| sum.wrapping_add(u64::from_le_bytes(*word)))
}

fn int8_gmac_per_s(n_threads: usize) -> Option<f64> {
    let Product { multiply, products_per_call } = product()?;
    // As many calls as fill a trial on this machine.
    let started = Instant::now();
    let n_probe = 1000;
    std::hint::black_box(multiply(n_probe));
    let n_calls = n_probe as f64 * TRIAL.as_secs_f64() / started.elapsed().as_secs_f64();
    let n_calls = n_calls as u32;
    let seconds = fastest(n_threads, TRIALS, |_| multiply(n_calls));
    Some(f64::from(n_calls) * f64::from(products_per_call) * n_threads as f64 / seconds / 1e9)
}

/// A multiplication of bytes that this CPU has.
struct Product {
    /// Multiplies as often as it is told.
    multiply: fn(u32) -> u64,
    products_per_call: u32,
}

/// The best one.
fn product() -> Option<Product> {
    #[cfg(target_arch = "x86_64")]
    {
        if is_x86_feature_detected!("avx512vnni") && is_x86_feature_detected!("avx512f") {
            // SAFETY: the CPU has AVX-512F and VNNI.
            let multiply = |n| unsafe { x86::products_avx512(n) };
            return Some(Product { multiply, products_per_call: x86::CHAINS as u32 * 64 });
        }
        if is_x86_feature_detected!("avx2") {
            // SAFETY: the CPU has AVX2.
            let multiply = |n| unsafe { x86::products_avx2(n) };
            return Some(Product { multiply, products_per_call: x86::CHAINS as u32 * 32 });
        }
    }
    None
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::*;

    /// Sums in flight: enough to hide four cycles at two products per cycle, few enough for 16 registers.
    pub(super) const CHAINS: usize = 10;

    #[target_feature(enable = "avx512f")]
    pub(super) fn sum_avx512(bytes: &[u8]) -> u64 {
        let mut sums = [_mm512_setzero_si512(); 4];
        for lines in bytes.as_chunks::<256>().0 {
            for (sum, line) in sums.iter_mut().zip(lines.as_chunks::<64>().0) {
                // SAFETY: a line is 64 bytes.
                let line = unsafe { _mm512_loadu_si512(line.as_ptr().cast()) };
                *sum = _mm512_add_epi64(*sum, line);
            }
        }
        sums.iter().map(|&sum| _mm512_reduce_add_epi64(sum) as u64).fold(0, u64::wrapping_add)
    }

    #[target_feature(enable = "avx2")]
    pub(super) fn sum_avx2(bytes: &[u8]) -> u64 {
        let mut sums = [_mm256_setzero_si256(); 8];
        for lines in bytes.as_chunks::<256>().0 {
            for (sum, line) in sums.iter_mut().zip(lines.as_chunks::<32>().0) {
                // SAFETY: it is 32 bytes.
                let line = unsafe { _mm256_loadu_si256(line.as_ptr().cast()) };
                *sum = _mm256_add_epi64(*sum, line);
            }
        }
        let all = sums.into_iter().reduce(|a, b| _mm256_add_epi64(a, b));
        all.map_or(0, |sum| _mm256_extract_epi64::<0>(sum) as u64)
    }

    #[target_feature(enable = "avx512f,avx512vnni")]
    pub(super) fn products_avx512(n_calls: u32) -> u64 {
        let (a, b) = (_mm512_set1_epi8(3), _mm512_set1_epi8(5));
        let mut sums = [_mm512_setzero_si512(); CHAINS];
        for _ in 0..n_calls {
            // Otherwise the compiler would multiply once.
            let a = std::hint::black_box(a);
            for sum in &mut sums {
                *sum = _mm512_dpbusd_epi32(*sum, a, b);
            }
        }
        sums.iter().map(|&sum| _mm512_reduce_add_epi32(sum) as u64).sum()
    }

    #[target_feature(enable = "avx2")]
    pub(super) fn products_avx2(n_calls: u32) -> u64 {
        let (a, b, ones) = (_mm256_set1_epi8(3), _mm256_set1_epi8(5), _mm256_set1_epi16(1));
        let mut sums = [_mm256_setzero_si256(); CHAINS];
        for _ in 0..n_calls {
            for sum in &mut sums {
                let a = std::hint::black_box(a);
                let pairs = _mm256_maddubs_epi16(a, b);
                *sum = _mm256_add_epi32(*sum, _mm256_madd_epi16(pairs, ones));
            }
        }
        sums.iter().map(|&sum| _mm256_extract_epi32::<0>(sum) as u64).sum()
    }
}
