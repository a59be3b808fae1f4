//! A clock that stands still while the device sleeps.
//!
//! A phone's processes stop for minutes and go on as if nothing had happened. What such a node has not heard meanwhile says
//! nothing about the others: counted as silence, it would make each phone that wakes up mourn the whole cluster and place all
//! instances anew.

use std::time::Duration;

use crate::Time;

/// Longest time between two looks at the clock that counts as being awake: several ticks of a busy node.
const GAP_MAX: Duration = Duration::from_secs(1);

/// The time that the node was awake.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct AwakeClock {
    seen: Option<Time>,
    slept: Duration,
}

impl AwakeClock {
    /// The time awake when somebody last looked.
    pub(super) fn last(&self) -> Time {
        self.seen.unwrap_or_default().saturating_sub(self.slept)
    }

    /// The time awake at `now`.
    pub(super) fn at(&self, now: Time) -> Time {
        now.saturating_sub(self.slept + self.sleep(now))
    }

    /// Notes that the node is awake at `now`. Returns the time awake, and how long it slept just before.
    pub(super) fn advance(&mut self, now: Time) -> (Time, Duration) {
        let sleep = self.sleep(now);
        self.slept += sleep;
        self.seen = self.seen.max(Some(now));
        (now.saturating_sub(self.slept), sleep)
    }

    fn sleep(&self, now: Time) -> Duration {
        let gap = self.seen.map_or(Duration::ZERO, |seen| now.saturating_sub(seen));
        gap.saturating_sub(GAP_MAX)
    }
}
