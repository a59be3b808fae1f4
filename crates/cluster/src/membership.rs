//! Whether a peer lives, judged by when it was last heard.

use std::time::Duration;

use shoal_proto::control::NodeRecord;

use crate::Time;

/// The periods that membership works with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timing {
    /// How often a node tells each peer that it lives.
    pub heartbeat: Duration,
    /// Silence after which a peer is suspected: one heartbeat lost and the next late.
    pub suspect_after: Duration,
    /// Silence after which a peer is dead. Healthy phones stall for three seconds on WiFi, so less would evict them.
    pub dead_after: Duration,
    /// Pause before the first redial of a lost peer; doubles with every failure.
    pub redial_min: Duration,
    /// Longest pause between redials, so that a phone that comes back is found within seconds.
    pub redial_max: Duration,
    /// How long a peer stays known after it died.
    pub forget_after: Duration,
}

impl Default for Timing {
    fn default() -> Self {
        Self {
            heartbeat: Duration::from_secs(1),
            suspect_after: Duration::from_millis(1500),
            dead_after: Duration::from_secs(5),
            redial_min: Duration::from_millis(250),
            redial_max: Duration::from_secs(8),
            forget_after: Duration::from_secs(24 * 3600),
        }
    }
}

/// What is believed of a peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Liveness {
    /// Heard of within the last moments.
    Alive,
    /// Silent for longer than a heartbeat; nothing is decided yet.
    Suspect,
    /// Silent for too long, gone with a reset, or never reached.
    Dead,
}

impl Liveness {
    /// The word that people see.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Alive => "alive",
            Self::Suspect => "suspect",
            Self::Dead => "dead",
        }
    }
}

/// A peer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// The newest record that it published.
    pub record: NodeRecord,
    /// When it was last heard; `None` if never in this run, or since it went away for certain.
    pub(crate) last_heard: Option<Time>,
    pub(crate) connected: bool,
    pub(crate) last_heartbeat: Option<Time>,
    pub(crate) redial_at: Time,
    pub(crate) n_failed_dials: u32,
    pub(crate) known_since: Time,
}

impl Member {
    pub(crate) fn new(record: NodeRecord, now: Time) -> Self {
        Self {
            record,
            last_heard: None,
            connected: false,
            last_heartbeat: None,
            redial_at: now,
            n_failed_dials: 0,
            known_since: now,
        }
    }

    /// What is believed of the peer at `now`.
    pub fn liveness(&self, timing: &Timing, now: Time) -> Liveness {
        match self.last_heard.map(|heard| now.saturating_sub(heard)) {
            Some(silence) if silence < timing.suspect_after => Liveness::Alive,
            Some(silence) if silence < timing.dead_after => Liveness::Suspect,
            _ => Liveness::Dead,
        }
    }
}
