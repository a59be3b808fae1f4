//! How fast this node computes: what its kernels reach in a trial, corrected by what its stages take in earnest. A phone that
//! grows hot or shares its processors becomes slower than its trial, and plans should know.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use shoal_engine::Rates;
use shoal_proto::control::Profile;
use tracing::{debug, info};

/// Time of one round of the trial.
const TRIAL: Duration = Duration::from_millis(250);
/// Rounds of the trial, and the pause between them: the best counts, since neighbours come and go. On machines that share their
/// memory one round of two nodes of equal speed has differed by up to 1.7 times.
const N_ROUNDS: usize = 3;
const ROUND_PAUSE: Duration = Duration::from_millis(500);
/// Most weights that the trial reads, and the share of the free memory that it may take for them. The more it reads the less of
/// it stays in a cache that a model finds full of others' data.
const TRIAL_BYTES_MAX: u64 = 128 << 20;
const TRIAL_MEMORY_SHARE: u64 = 16;
/// Least weight of a new observation: some dozens of steps outweigh what was before. The first ones weigh more, so that each has
/// the same part in their mean: they are the first that a node knows of its speed in earnest.
const NEW_SHARE: f64 = 0.05;
/// Bounds of what observations may make of the trial's result: beyond them something else than speed is being measured.
const CORRECTION_MIN: f64 = 0.1;
const CORRECTION_MAX: f64 = 3.0;
/// Rows from which on a batch tells of prefill.
const PREFILL_ROWS_MIN: usize = 32;

/// What a node knows about its speed. Nothing is kept on disk: another kernel or another governor makes it false.
#[derive(Debug, Default)]
pub(crate) struct Profiler {
    known: Mutex<Known>,
}

#[derive(Debug)]
struct Known {
    rates: Option<Rates>,
    decode: Correction,
    prefill: Correction,
    /// Batches that were computed since the start.
    n_batches: u64,
}

impl Default for Known {
    fn default() -> Self {
        Self { rates: None, decode: Correction::NONE, prefill: Correction::NONE, n_batches: 0 }
    }
}

impl Known {
    /// Takes in a round of the trial that began when `n_before` batches had been computed.
    fn take_round(&mut self, rates: Rates, n_before: u64) {
        self.rates = match self.rates {
            None => Some(rates),
            Some(known) if self.n_batches == n_before => Some(known.best(rates)),
            known => known,
        };
    }
}

impl Profiler {
    /// Runs the trial on a thread of a runner's priority: it delays nothing, and gets what a runner would get. A round during which a stage has computed says
    /// little and only counts if it is the first; `done` is called after each round.
    pub(crate) fn start(
        self: &Arc<Self>,
        n_threads: Option<usize>,
        isa: Option<String>,
        done: impl Fn() + Send + 'static,
    ) {
        let profiler = Arc::clone(self);
        let started = std::thread::Builder::new().name("calibrate".into()).spawn(move || {
            // Threads inherit it, and it ends with them. Where it is refused, the trial is short all the same.
            let _ = rustix::process::nice(crate::runner::NICENESS);
            let compute = match crate::compute(n_threads, isa.as_deref()) {
                Ok(compute) => compute,
                Err(error) => return debug!(%error, "no trial"),
            };
            for round in 0..N_ROUNDS {
                if round > 0 {
                    std::thread::park_timeout(ROUND_PAUSE);
                }
                let n_before = profiler.known().n_batches;
                let rates = shoal_engine::calibrate(&compute, trial_bytes(), TRIAL);
                profiler.known().take_round(rates, n_before);
                done();
            }
            info!(profile = ?profiler.profile(), "calibrated");
        });
        if let Err(error) = started {
            debug!(%error, "no trial");
        }
    }

    /// Takes in what a stage took for a batch: `weight_bytes` read once, `n_macs` for each of `n_rows`.
    pub(crate) fn observe(&self, weight_bytes: u64, n_macs: u64, n_rows: usize, took: Duration) {
        let mut known = self.known();
        known.n_batches += 1;
        let Some(rates) = known.rates else { return };
        let work_s = (took.as_secs_f64() - rates.step_s).max(took.as_secs_f64() / 2.0);
        if work_s <= 0.0 {
            return;
        }
        if n_rows == 1 && weight_bytes > 0 {
            let ratio = weight_bytes as f64 / work_s / rates.decode_bytes_per_s;
            known.decode.take(ratio);
        } else if n_rows >= PREFILL_ROWS_MIN && n_macs > 0 {
            let ratio = n_macs as f64 * n_rows as f64 / work_s / rates.prefill_macs_per_s;
            known.prefill.take(ratio);
        }
    }

    /// The speed, once it is known.
    pub(crate) fn profile(&self) -> Option<Profile> {
        let known = self.known();
        let rates = known.rates?;
        // A conversion from f64 saturates; the rates are positive.
        Some(Profile {
            decode_bytes_per_s: (rates.decode_bytes_per_s * known.decode.factor) as u64,
            prefill_macs_per_s: (rates.prefill_macs_per_s * known.prefill.factor) as u64,
            step_us: (rates.step_s * 1e6).round() as u32,
        })
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// How much weight memory a trial reads here.
fn trial_bytes() -> usize {
    let free = crate::memory::available_bytes().unwrap_or(0) / TRIAL_MEMORY_SHARE;
    usize::try_from(free.min(TRIAL_BYTES_MAX)).unwrap_or(0).max(shoal_engine::TRIAL_BYTES_MIN)
}

/// What observations make of a rate of the trial.
#[derive(Debug, Clone, Copy)]
struct Correction {
    factor: f64,
    n_observed: u32,
}

impl Correction {
    const NONE: Self = Self { factor: 1.0, n_observed: 0 };

    /// Moves towards an observed ratio, inside the bounds.
    fn take(&mut self, ratio: f64) {
        self.n_observed = self.n_observed.saturating_add(1);
        let share = NEW_SHARE.max(1.0 / f64::from(self.n_observed));
        self.factor += share * (ratio.clamp(CORRECTION_MIN, CORRECTION_MAX) - self.factor);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn profiler() -> Profiler {
        let rates = Rates { decode_bytes_per_s: 1e9, prefill_macs_per_s: 1e10, step_s: 0.001 };
        let profiler = Profiler::default();
        profiler.known().rates = Some(rates);
        profiler
    }

    #[track_caller]
    fn check_near(got: u64, expected: f64) {
        assert!((got as f64 / expected - 1.0).abs() < 0.01, "expected {expected}, got {got}");
    }

    #[test]
    fn knows_nothing_before_its_trial() {
        let profiler = Profiler::default();
        profiler.observe(1000, 1000, 1, Duration::from_secs(1));
        assert_eq!(profiler.profile(), None);
    }

    #[test]
    fn the_best_undisturbed_round_counts() {
        let profiler = profiler();
        let rates = |decode_bytes_per_s, prefill_macs_per_s| Rates {
            decode_bytes_per_s,
            prefill_macs_per_s,
            step_s: 0.002,
        };
        profiler.known().take_round(rates(2e9, 0.5e10), 0);
        profiler.observe(1, 1, 8, Duration::from_secs(1));
        profiler.known().take_round(rates(9e9, 9e10), 0);
        let profile = profiler.profile().expect("calibrated");
        assert_eq!(profile.decode_bytes_per_s, 2_000_000_000);
        assert_eq!(profile.prefill_macs_per_s, 10_000_000_000);
        assert_eq!(profile.step_us, 1000);
    }

    #[test]
    fn slow_steps_make_the_node_slower() {
        let profiler = profiler();
        // 100 MB in 0.201 s, of which 1 ms is no work: half the speed of the trial.
        (0..200).for_each(|_| profiler.observe(100_000_000, 1, 1, Duration::from_millis(201)));
        let profile = profiler.profile().expect("calibrated");
        check_near(profile.decode_bytes_per_s, 0.5e9);
        check_near(profile.prefill_macs_per_s, 1e10);
        assert_eq!(profile.step_us, 1000);
    }

    #[test]
    fn many_rows_tell_of_prefill_only() {
        let profiler = profiler();
        // 64 rows of 1e8 in 0.321 s: twice the speed of the trial.
        (0..200).for_each(|_| profiler.observe(1, 100_000_000, 64, Duration::from_millis(321)));
        (0..200).for_each(|_| profiler.observe(1, 1, 8, Duration::from_secs(9)));
        let profile = profiler.profile().expect("calibrated");
        check_near(profile.prefill_macs_per_s, 2e10);
        check_near(profile.decode_bytes_per_s, 1e9);
    }

    #[test]
    fn the_first_observations_count_alike() {
        let profiler = profiler();
        // Half the speed of the trial in each, but for the very first step, which waits for the disk.
        profiler.observe(100_000_000, 1, 1, Duration::from_secs(10));
        (0..19).for_each(|_| profiler.observe(100_000_000, 1, 1, Duration::from_millis(201)));
        let profile = profiler.profile().expect("calibrated");
        check_near(profile.decode_bytes_per_s, (0.1 + 19.0 * 0.5) / 20.0 * 1e9);
        // Later ones do not outweigh what was seen before at once.
        profiler.observe(100_000_000, 1, 1, Duration::from_millis(101));
        let known = profile.decode_bytes_per_s as f64;
        let profile = profiler.profile().expect("calibrated");
        check_near(profile.decode_bytes_per_s, known + 0.05 * (1e9 - known));
    }

    #[test]
    fn no_observation_leaves_the_bounds() {
        let profiler = profiler();
        (0..500).for_each(|_| profiler.observe(1, 1, 1, Duration::from_secs(1000)));
        check_near(profiler.profile().expect("calibrated").decode_bytes_per_s, 0.1e9);
        (0..500).for_each(|_| profiler.observe(u64::MAX, 1, 1, Duration::from_nanos(1)));
        check_near(profiler.profile().expect("calibrated").decode_bytes_per_s, 3e9);
    }
}
