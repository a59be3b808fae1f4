//! When a request is made again: pauses that double, with jitter, or as long as the server says.

use std::{
    hash::{BuildHasher, RandomState},
    time::Duration,
};

use super::{HubTiming, error::HubError};

/// The attempts at one thing.
pub(super) struct Attempts<'a> {
    timing: &'a HubTiming,
    n_failed: u32,
}

impl<'a> Attempts<'a> {
    pub(super) fn new(timing: &'a HubTiming) -> Self {
        Self { timing, n_failed: 0 }
    }

    /// Waits until it is time for the next attempt.
    ///
    /// # Errors
    /// Gives the error back if asking again would not help, or has been done often enough, or would have to wait too long.
    pub(super) async fn pause(&mut self, error: HubError) -> Result<(), HubError> {
        self.n_failed += 1;
        let retry_after = error.retry_after().unwrap_or_default();
        if !error.is_temporary()
            || self.n_failed >= self.timing.n_attempts
            || retry_after > self.timing.retry_after_max
        {
            return Err(error);
        }
        let pause = retry_after + jittered(backoff(self.timing, self.n_failed));
        tracing::debug!(%error, n_failed = self.n_failed, ?pause, "asking again after a pause");
        tokio::time::sleep(pause).await;
        Ok(())
    }
}

/// The longest pause after so many failures.
fn backoff(timing: &HubTiming, n_failed: u32) -> Duration {
    let factor = 1 << n_failed.saturating_sub(1).min(20);
    timing.backoff_min.saturating_mul(factor).min(timing.backoff_max)
}

/// Between half of a duration and all of it. The keys of the standard library's hash maps are random, and jitter needs no
/// better.
fn jittered(duration: Duration) -> Duration {
    let random = RandomState::new().hash_one(0u8) >> 32;
    let share = 0.5 + 0.5 * random as f64 / f64::from(u32::MAX);
    duration.mul_f64(share)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_the_longest() {
        let timing = HubTiming {
            backoff_min: Duration::from_secs(1),
            backoff_max: Duration::from_secs(5),
            ..HubTiming::default()
        };
        let pauses: Vec<_> = [1, 2, 3, 4, u32::MAX].map(|n| backoff(&timing, n).as_secs()).into();
        assert_eq!(pauses, [1, 2, 4, 5, 5]);
    }

    #[tokio::test(start_paused = true)]
    async fn waits_as_long_as_the_server_says() {
        let limited = |seconds| HubError::RateLimited {
            host: "hub.example".to_owned(),
            retry_after: Some(Duration::from_secs(seconds)),
        };
        let timing = HubTiming { n_attempts: 3, ..HubTiming::default() };
        let mut attempts = Attempts::new(&timing);
        let start = tokio::time::Instant::now();
        attempts.pause(limited(7)).await.unwrap();
        let waited = start.elapsed();
        assert!((7.0..8.0).contains(&waited.as_secs_f64()), "{waited:?}");
        assert!(attempts.pause(limited(100_000)).await.is_err());
        assert!(attempts.pause(limited(0)).await.is_err(), "the third attempt was the last");
        assert!(start.elapsed() == waited);
    }

    #[test]
    fn jitter_leaves_at_least_half() {
        let pauses: Vec<_> = (0..100).map(|_| jittered(Duration::from_secs(2))).collect();
        assert!(pauses.iter().all(|p| (1.0..=2.0).contains(&p.as_secs_f64())), "{pauses:?}");
        assert!(pauses.iter().any(|&pause| pause != pauses[0]));
    }
}
