//! When a stage is so slow that it is a loss in slow motion: a phone that throttles, or whose owner plays a game.

use std::time::Duration;

use crate::Time;

/// Factor over the plan from which a stage is too slow.
const SLOW: f64 = 2.0;
/// Factor below which it is well again.
const WELL: f64 = 1.5;
/// How long it has to be too slow: a phone that looks for a better WiFi stalls for as long.
const HOLD: Duration = Duration::from_secs(3);
/// How often the same is told while it lasts: whoever places the instance may have had a reason to wait.
const TELL_EVERY: Duration = Duration::from_secs(30);
/// A measurement older than this says nothing about now.
const STALE: Duration = Duration::from_secs(5);

/// Watches one stage.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Straggler {
    slow_since: Option<Time>,
    seen_at: Option<Time>,
    told_at: Option<Time>,
}

impl Straggler {
    /// Takes in what the stage takes for a step and what was planned, in any one unit. Returns whether that is to be told now.
    pub fn observe(&mut self, measured: f64, planned: f64, now: Time) -> bool {
        let is_fresh = self.seen_at.is_some_and(|at| now.saturating_sub(at) < STALE);
        self.seen_at = Some(now);
        if !is_fresh {
            self.slow_since = None;
        }
        let limit = if self.slow_since.is_some() { WELL } else { SLOW };
        // What is no number is no sign of slowness.
        if measured.is_nan() || planned.is_nan() || measured <= limit * planned {
            (self.slow_since, self.told_at) = (None, None);
            return false;
        }
        let since = *self.slow_since.get_or_insert(now);
        let is_told = self.told_at.is_some_and(|at| now.saturating_sub(at) < TELL_EVERY);
        let is_due = now.saturating_sub(since) >= HOLD && !is_told;
        if is_due {
            self.told_at = Some(now);
        }
        is_due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The times at which it is told, of a stage that takes `measured(ms)` where 10 was planned.
    fn told(measured: impl Fn(u64) -> f64) -> Vec<u64> {
        let mut it = Straggler::default();
        let mut times = (0..60_000).step_by(500);
        let told = times.by_ref().filter(|&at| {
            let now = Duration::from_millis(at);
            it.observe(measured(at), 10.0, now)
        });
        told.collect()
    }

    #[test]
    fn a_stage_that_is_slow_for_three_seconds_is_told_and_told_again() {
        assert_eq!(told(|at| if at < 1000 { 10.0 } else { 21.0 }), [4000, 34_000]);
        assert_eq!(told(|_| 20.0), [], "twice is not over twice");
    }

    #[test]
    fn a_short_stall_is_not_told() {
        assert_eq!(told(|at| if at % 4000 < 3000 { 50.0 } else { 10.0 }), []);
    }

    #[test]
    fn a_stage_between_the_limits_stays_what_it_is() {
        assert_eq!(told(|at| if at == 0 { 25.0 } else { 16.0 }), [3000, 33_000]);
        assert_eq!(told(|_| 19.0), []);
    }

    #[test]
    fn what_was_long_ago_does_not_count() {
        let mut it = Straggler::default();
        assert!(!it.observe(30.0, 10.0, Duration::ZERO));
        assert!(!it.observe(30.0, 10.0, Duration::from_secs(60)), "nothing was seen in between");
        assert!(it.observe(30.0, 10.0, Duration::from_secs(63)));
        assert!(!it.observe(f64::NAN, 10.0, Duration::from_secs(64)));
    }
}
