//! The clock of the control plane. It goes on while the device sleeps: a phone that was suspended for a minute must see that
//! its peers' last signs of life are a minute old, and that it is its own silence.

use std::{sync::OnceLock, time::Duration};

/// Time since this process first asked.
pub(crate) fn since_start() -> Duration {
    static START: OnceLock<Duration> = OnceLock::new();
    let now = now();
    now.saturating_sub(*START.get_or_init(|| now))
}

/// Time since the device was started, sleep included.
#[cfg(any(target_os = "linux", target_os = "android"))]
fn now() -> Duration {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    let seconds = u64::try_from(now.tv_sec).unwrap_or_default();
    Duration::new(seconds, u32::try_from(now.tv_nsec).unwrap_or_default())
}

/// Time since some moment; whether sleep is included is the system's choice.
#[cfg(not(any(target_os = "linux", target_os = "android")))]
fn now() -> Duration {
    static EPOCH: OnceLock<std::time::Instant> = OnceLock::new();
    EPOCH.get_or_init(std::time::Instant::now).elapsed()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_does_not_go_back() {
        let first = since_start();
        assert!(since_start() >= first);
    }
}
