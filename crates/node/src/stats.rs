//! How fast instances answer, as the requests that this node drives find it.

use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use shoal_proto::InstanceId;

/// Weight of a new request's speed beside all before it.
const NEW_SHARE: f64 = 0.3;
/// Fewest intervals between tokens that tell a speed.
const INTERVALS_MIN: usize = 4;
/// Most intervals that are kept for a median; later ones replace the oldest.
const INTERVALS_MAX: usize = 256;

/// How an instance has answered the requests of this node.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(crate) struct InstanceStats {
    /// Requests under way.
    pub(crate) n_running: u32,
    /// Tokens per second after the first, of the latest requests; `None` before one was long enough to tell.
    pub(crate) measured_per_s: Option<f64>,
    /// From a request to its first token, of the latest requests.
    pub(crate) first_token: Option<Duration>,
}

/// The statistics of every instance.
#[derive(Debug, Default)]
pub(crate) struct Stats {
    instances: Mutex<HashMap<InstanceId, InstanceStats>>,
}

impl Stats {
    /// What is known of an instance.
    pub(crate) fn of(&self, instance: InstanceId) -> InstanceStats {
        self.lock().get(&instance).copied().unwrap_or_default()
    }

    /// Requests under way that this node drives.
    pub(crate) fn n_running(&self) -> u32 {
        self.lock().values().map(|stats| stats.n_running).sum()
    }

    /// Forgets an instance that is gone.
    pub(crate) fn forget(&self, instance: InstanceId) {
        self.lock().remove(&instance);
    }

    /// A request begins.
    pub(crate) fn begin(&self, instance: InstanceId) {
        self.lock().entry(instance).or_default().n_running += 1;
    }

    /// A request ends.
    pub(crate) fn end(&self, instance: InstanceId, pace: &Pace, first_token: Option<Duration>) {
        let mut instances = self.lock();
        // One that was forgotten meanwhile stays forgotten.
        let Some(stats) = instances.get_mut(&instance) else { return };
        stats.n_running = stats.n_running.saturating_sub(1);
        stats.measured_per_s = mixed(stats.measured_per_s, pace.per_s());
        let seconds = |duration: Duration| duration.as_secs_f64();
        stats.first_token = mixed(stats.first_token.map(seconds), first_token.map(seconds))
            .map(Duration::from_secs_f64);
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<InstanceId, InstanceStats>> {
        self.instances.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn mixed(before: Option<f64>, new: Option<f64>) -> Option<f64> {
    match (before, new) {
        (Some(before), Some(new)) => Some(before + NEW_SHARE * (new - before)),
        (before, new) => new.or(before),
    }
}

/// The intervals between a request's tokens.
#[derive(Debug, Default)]
pub(crate) struct Pace {
    intervals: Vec<Duration>,
    n_seen: usize,
}

impl Pace {
    /// Takes in an interval.
    pub(crate) fn push(&mut self, interval: Duration) {
        if self.intervals.len() < INTERVALS_MAX {
            self.intervals.push(interval);
        } else {
            self.intervals[self.n_seen % INTERVALS_MAX] = interval;
        }
        self.n_seen += 1;
    }

    /// Tokens per second by the median interval: one that was long because a stage was lost says nothing of the rest.
    pub(crate) fn per_s(&self) -> Option<f64> {
        if self.intervals.len() < INTERVALS_MIN {
            return None;
        }
        let mut sorted = self.intervals.clone();
        sorted.sort_unstable();
        let median = sorted[sorted.len() / 2].as_secs_f64();
        (median > 0.0).then(|| 1.0 / median)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pace(millis: &[u64]) -> Pace {
        let mut pace = Pace::default();
        millis.iter().for_each(|&ms| pace.push(Duration::from_millis(ms)));
        pace
    }

    #[test]
    fn a_stall_does_not_change_the_pace() {
        assert_eq!(pace(&[100, 100, 9000, 100, 100]).per_s(), Some(10.0));
        assert_eq!(pace(&[100, 100, 100]).per_s(), None, "too few to tell");
    }

    #[test]
    fn a_long_answer_keeps_few_intervals() {
        let long = pace(&[50; 5000]);
        assert_eq!((long.intervals.len(), long.per_s()), (INTERVALS_MAX, Some(20.0)));
    }

    #[test]
    fn later_requests_count_more() {
        let (stats, id) = (Stats::default(), InstanceId(1));
        assert_eq!(stats.of(id), InstanceStats::default());
        stats.begin(id);
        stats.begin(id);
        assert_eq!((stats.of(id).n_running, stats.n_running()), (2, 2));
        stats.end(id, &pace(&[100; 9]), Some(Duration::from_secs(1)));
        stats.end(id, &pace(&[50; 9]), Some(Duration::from_secs(2)));
        let got = stats.of(id);
        assert_eq!(got.n_running, 0);
        assert!((got.measured_per_s.expect("measured") - 13.0).abs() < 1e-9, "{got:?}");
        assert!((got.first_token.expect("measured").as_secs_f64() - 1.3).abs() < 1e-6, "{got:?}");
        stats.forget(id);
        assert_eq!(stats.of(id), InstanceStats::default());
    }
}
