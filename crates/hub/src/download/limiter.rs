//! A limit on the bytes per second that all downloads of a node take together.

use std::{sync::Arc, time::Duration};

use tokio::{
    sync::Mutex,
    time::{self, Instant},
};

/// Unused time that may be made up for at once; beyond it, it is lost.
const BURST: Duration = Duration::from_millis(100);

/// Hands out bytes at a bounded rate, in the order of asking. Clones share it.
#[derive(Debug, Clone, Default)]
pub(crate) struct Limiter {
    /// `None`: no limit.
    inner: Option<Arc<Inner>>,
}

#[derive(Debug)]
struct Inner {
    bytes_per_s: u64,
    /// When what was handed out so far has been paid for.
    paid_until: Mutex<Instant>,
}

impl Limiter {
    /// Returns a limiter; `None` and 0 do not limit.
    pub(crate) fn new(bytes_per_s: Option<u64>) -> Self {
        let bytes_per_s = bytes_per_s.filter(|&rate| rate > 0);
        let inner = bytes_per_s.map(|bytes_per_s| {
            Arc::new(Inner { bytes_per_s, paid_until: Mutex::new(Instant::now()) })
        });
        Self { inner }
    }

    /// Waits until `n_bytes` more may be taken.
    pub(crate) async fn take(&self, n_bytes: usize) {
        let Some(inner) = &self.inner else { return };
        let until = {
            let mut paid_until = inner.paid_until.lock().await;
            let seconds = n_bytes as f64 / inner.bytes_per_s as f64;
            let start = (*paid_until).max(Instant::now() - BURST);
            *paid_until = start + Duration::from_secs_f64(seconds);
            *paid_until
        };
        time::sleep_until(until).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn takers_share_one_rate() {
        let limiter = Limiter::new(Some(1000));
        let start = Instant::now();
        let takers = (0..10).map(|_| limiter.take(500));
        futures_util::future::join_all(takers).await;
        let waited = start.elapsed().as_millis();
        assert!((4899..=5001).contains(&waited), "{waited} ms of virtual time for 5000 bytes");
    }

    #[tokio::test(start_paused = true)]
    async fn without_a_rate_nobody_waits() {
        let start = Instant::now();
        Limiter::new(None).take(usize::MAX).await;
        Limiter::new(Some(0)).take(usize::MAX).await;
        assert_eq!(start.elapsed(), Duration::ZERO);
    }
}
