//! A limit on the bytes per second that all downloads of a node take together.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::{
    sync::watch,
    time::{self, Instant},
};

/// Unused time that may be made up for at once; beyond it, it is lost.
const BURST: Duration = Duration::from_millis(100);

/// Hands out bytes at a bounded rate, in the order of asking. Clones share it.
#[derive(Debug, Clone)]
pub(crate) struct Limiter {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    /// Bytes per second, more than 0; `None` for no limit.
    bytes_per_s: watch::Sender<Option<u64>>,
    /// When what was handed out so far has been paid for.
    paid_until: Mutex<Instant>,
}

impl Limiter {
    /// Returns a limiter; `None` and 0 do not limit.
    pub(crate) fn new(bytes_per_s: Option<u64>) -> Self {
        let bytes_per_s = watch::Sender::new(bytes_per_s.filter(|&rate| rate > 0));
        Self { inner: Arc::new(Inner { bytes_per_s, paid_until: Mutex::new(Instant::now()) }) }
    }

    /// Changes the rate; `None` and 0 do not limit. Whoever waits by the old one goes on at once.
    pub(crate) fn set(&self, bytes_per_s: Option<u64>) {
        let bytes_per_s = bytes_per_s.filter(|&rate| rate > 0);
        self.inner.bytes_per_s.send_if_modified(|rate| {
            if *rate == bytes_per_s {
                return false;
            }
            *self.inner.paid_until.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
            *rate = bytes_per_s;
            true
        });
    }

    /// Waits until `n_bytes` more may be taken.
    pub(crate) async fn take(&self, n_bytes: usize) {
        let mut changes = self.inner.bytes_per_s.subscribe();
        let until = {
            let Some(bytes_per_s) = *changes.borrow_and_update() else { return };
            let seconds = n_bytes as f64 / bytes_per_s as f64;
            let paid_until = &self.inner.paid_until;
            let mut paid_until = paid_until.lock().unwrap_or_else(PoisonError::into_inner);
            let start = (*paid_until).max(Instant::now() - BURST);
            *paid_until = start + Duration::from_secs_f64(seconds);
            *paid_until
        };
        tokio::select! {
            () = time::sleep_until(until) => {}
            _ = changes.changed() => {}
        }
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

    #[tokio::test(start_paused = true)]
    async fn another_rate_holds_at_once() {
        let limiter = Limiter::new(Some(10));
        let start = Instant::now();
        let change = async {
            time::sleep(Duration::from_secs(1)).await;
            limiter.set(Some(1000));
        };
        tokio::join!(limiter.take(1_000_000), change);
        assert_eq!(start.elapsed().as_secs(), 1, "nobody pays the old price");
        limiter.take(5000).await;
        assert!((5900..=6001).contains(&start.elapsed().as_millis()), "{:?}", start.elapsed());
        limiter.set(None);
        limiter.take(usize::MAX).await;
        assert!(start.elapsed().as_millis() <= 6001, "{:?}", start.elapsed());
    }
}
