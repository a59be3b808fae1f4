//! What a node has done since its start, counted: requests, tokens, and where their time went.

use std::{
    collections::BTreeMap,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use shoal_proto::frame::StageTiming;

/// Upper bounds of the buckets of times to the first token, in seconds.
pub(crate) const FIRST_TOKEN_BOUNDS: &[f64] =
    &[0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0];
/// The same of times between tokens.
pub(crate) const TOKEN_BOUNDS: &[f64] = &[0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0];

/// How often something took how long.
#[derive(Debug, Clone, PartialEq)]
pub struct Histogram {
    /// Upper bounds of the buckets, ascending, in seconds; what is above the last is only in `count`.
    pub bounds: &'static [f64],
    /// Observations in each bucket alone, `[bounds]`.
    pub buckets: Vec<u64>,
    /// All observations.
    pub count: u64,
    /// Their sum in seconds.
    pub sum_s: f64,
}

impl Histogram {
    fn new(bounds: &'static [f64]) -> Self {
        Self { bounds, buckets: vec![0; bounds.len()], count: 0, sum_s: 0.0 }
    }

    fn observe(&mut self, took: Duration) {
        let seconds = took.as_secs_f64();
        self.count += 1;
        self.sum_s += seconds;
        if let Some(at) = self.bounds.iter().position(|&bound| seconds <= bound) {
            self.buckets[at] += 1;
        }
    }
}

/// Counts since the node's start.
#[derive(Debug, Clone, PartialEq)]
pub struct Totals {
    /// Requests by how they ended.
    pub requests: BTreeMap<&'static str, u64>,
    /// Tokens of prompts, those that were in KV caches included.
    pub prompt_tokens: u64,
    /// Tokens of prompts that were in KV caches.
    pub cached_tokens: u64,
    /// Tokens generated.
    pub generated_tokens: u64,
    /// From a request to its first token.
    pub first_token: Histogram,
    /// From a token's step to its answer.
    pub token: Histogram,
    /// Steps that were answered.
    pub steps: u64,
    /// What their stages computed, in seconds.
    pub compute_s: f64,
    /// What they waited for stages that were busy, in seconds.
    pub queue_s: f64,
    /// What is left of their round trips, in seconds: the network, and nodes handing on.
    pub hops_s: f64,
}

impl Default for Totals {
    fn default() -> Self {
        Self {
            requests: BTreeMap::new(),
            prompt_tokens: 0,
            cached_tokens: 0,
            generated_tokens: 0,
            first_token: Histogram::new(FIRST_TOKEN_BOUNDS),
            token: Histogram::new(TOKEN_BOUNDS),
            steps: 0,
            compute_s: 0.0,
            queue_s: 0.0,
            hops_s: 0.0,
        }
    }
}

/// The counts, shared.
#[derive(Debug, Default)]
pub(crate) struct Counters(Mutex<Totals>);

impl Counters {
    fn lock(&self) -> MutexGuard<'_, Totals> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn read(&self) -> Totals {
        self.lock().clone()
    }

    /// A step was answered after `took`.
    pub(crate) fn step(&self, took: Duration, has_token: bool, stages: &[StageTiming]) {
        let micros = |of: fn(&StageTiming) -> u32| {
            stages.iter().map(|stage| f64::from(of(stage))).sum::<f64>() * 1e-6
        };
        let (queue_s, compute_s) = (micros(|it| it.queued_us), micros(|it| it.compute_us));
        let mut totals = self.lock();
        totals.steps += 1;
        totals.queue_s += queue_s;
        totals.compute_s += compute_s;
        totals.hops_s += (took.as_secs_f64() - queue_s - compute_s).max(0.0);
        if has_token {
            totals.token.observe(took);
        }
    }

    /// A request ended.
    pub(crate) fn request(
        &self,
        outcome: &'static str,
        [n_prompt, n_cached, n_generated]: [u32; 3],
        first_token: Option<Duration>,
    ) {
        let mut totals = self.lock();
        *totals.requests.entry(outcome).or_default() += 1;
        totals.prompt_tokens += u64::from(n_prompt);
        totals.cached_tokens += u64::from(n_cached);
        totals.generated_tokens += u64::from(n_generated);
        if let Some(first_token) = first_token {
            totals.first_token.observe(first_token);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_steps_time_is_shared_out() {
        let counters = Counters::default();
        let stage = |queued_us, compute_us| StageTiming { queued_us, compute_us, n_rows: 1 };
        let stages = [stage(1000, 4000), stage(0, 3000)];
        counters.step(Duration::from_millis(15), true, &stages);
        let totals = counters.read();
        let rounded = |seconds: f64| (seconds * 1e6).round();
        assert_eq!(
            [totals.queue_s, totals.compute_s, totals.hops_s].map(rounded),
            [1000.0, 7000.0, 7000.0]
        );
        assert_eq!((totals.steps, totals.token.count), (1, 1));
        assert_eq!(totals.token.buckets.iter().position(|&n| n == 1), Some(2));
    }

    #[test]
    fn requests_are_counted_by_outcome() {
        let counters = Counters::default();
        counters.request("stop", [10, 4, 3], Some(Duration::from_secs(100)));
        counters.request("stop", [1, 0, 1], None);
        counters.request("failed", [5, 0, 0], None);
        let totals = counters.read();
        assert_eq!(totals.requests, BTreeMap::from([("failed", 1), ("stop", 2)]));
        assert_eq!((totals.prompt_tokens, totals.generated_tokens), (16, 4));
        // Above every bound: counted, in no bucket.
        assert_eq!((totals.first_token.count, totals.first_token.buckets.iter().sum()), (1, 0u64));
    }
}
