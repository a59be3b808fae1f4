//! Whether a peer lives, judged by when it was last heard; and when to dial it.

use std::{net::SocketAddr, time::Duration};

use shoal_proto::control::{NodeRecord, Vitals};

use crate::Time;

/// Most addresses that hints may add to a peer: one per network that a phone moves through in an hour.
const HINTS_MAX: usize = 8;
/// Heartbeats missed on a standing connection before it is dialled anew beside it.
const MISSED_MAX: u32 = 2;
/// Pause between two exchanges with one peer; doubles while they change nothing.
const SYNC_MIN: Duration = Duration::from_millis(500);
/// Longest such pause.
const SYNC_MAX: Duration = Duration::from_secs(60);

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
    /// Silent for longer than a heartbeat, or not heard yet since it became known; nothing is decided yet.
    Suspect,
    /// Silent for too long, or gone with a reset.
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
    /// What its last heartbeat said of how it feels.
    pub vitals: Option<Vitals>,
    /// Version of its record that its last heartbeat named.
    pub(crate) told_version: Option<u64>,
    /// When it was last heard; `None` if never in this run.
    last_heard: Option<Time>,
    /// When it went away for certain, if that was after.
    gone_at: Option<Time>,
    /// Whether that is beyond doubt.
    is_gone: bool,
    known_since: Time,
    connected_since: Option<Time>,
    last_heartbeat: Option<Time>,
    redial: Redial,
    /// Where discovery saw it, newest first.
    hints: Vec<SocketAddr>,
    sync: Sync,
}

/// When a peer may be dialled next.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Redial {
    at: Time,
    last: Option<Time>,
    n_failed: u32,
    /// Even if a connection stands.
    anyway: bool,
}

/// When records and instances may be exchanged next.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Sync {
    is_wanted: bool,
    at: Time,
    /// Exchanges that did not help, of the difference below.
    n_tried: u32,
    /// What differed: what this node had and what the peer told.
    difference: [u64; 4],
}

impl Member {
    pub(crate) fn new(record: NodeRecord, now: Time) -> Self {
        Self {
            record,
            vitals: None,
            told_version: None,
            last_heard: None,
            gone_at: None,
            is_gone: false,
            known_since: now,
            connected_since: None,
            last_heartbeat: None,
            redial: Redial { at: now, last: None, n_failed: 0, anyway: false },
            hints: Vec::new(),
            sync: Sync::default(),
        }
    }

    /// Whether a control connection to the peer stands, which says nothing about whether it lives.
    pub fn is_connected(&self) -> bool {
        self.connected_since.is_some()
    }

    /// Whether it has lived in this run.
    pub(crate) fn was_heard(&self) -> bool {
        self.last_heard.is_some()
    }

    pub(crate) fn is_gone(&self) -> bool {
        self.is_gone
    }

    /// What is believed of the peer at `now`, on the clock of [`State`](crate::State).
    pub(crate) fn liveness(&self, timing: &Timing, now: Time) -> Liveness {
        let silence = self.silence(now);
        if self.gone_at.is_some() || silence >= timing.dead_after {
            Liveness::Dead
        } else if silence >= timing.suspect_after || self.last_heard.is_none() {
            Liveness::Suspect
        } else {
            Liveness::Alive
        }
    }

    /// Whether the peer is dead beyond doubt. An end that is told for certain may be that of one connection out of two, or of one
    /// that the peer forgot while this device slept: a dial has the time to show it.
    pub(crate) fn is_lost(&self, timing: &Timing, now: Time) -> bool {
        self.is_gone
            || self.silence(now) >= timing.dead_after
            || self.gone_at.is_some_and(|gone| now >= gone + timing.suspect_after)
    }

    /// How long nothing was heard; for a peer that never was, how long it has been known.
    pub(crate) fn silence(&self, now: Time) -> Duration {
        now.saturating_sub(self.last_heard.unwrap_or(self.known_since))
    }

    /// Returns whether it was not believed alive before.
    pub(crate) fn heard(&mut self, timing: &Timing, now: Time) -> bool {
        let was_alive = self.liveness(timing, now) == Liveness::Alive;
        self.last_heard = Some(now);
        self.gone_at = None;
        self.is_gone = false;
        if self.connected_since.is_some_and(|since| now >= since + 2 * timing.heartbeat) {
            self.redial.n_failed = 0;
        }
        !was_alive
    }

    /// Returns whether it was not connected before.
    pub(crate) fn connected(&mut self, timing: &Timing, now: Time) -> bool {
        let changed = self.connected_since.is_none();
        if changed {
            self.connected_since = Some(now);
            self.last_heartbeat = None;
        }
        self.redial.at = now;
        self.heard(timing, now) || changed
    }

    pub(crate) fn disconnected(&mut self, certain: bool, timing: &Timing, now: Time) {
        if certain {
            self.gone_at = Some(now);
        }
        self.redial.at = now;
        match self.connected_since.take() {
            // A peer that takes connections only to end them is not dialled in a loop.
            Some(since) if now < since + 2 * timing.heartbeat => self.dial_failed(timing, now),
            _ => self.redial.n_failed = 0,
        }
    }

    /// Its process has ended.
    pub(crate) fn gone(&mut self, timing: &Timing, now: Time) {
        self.disconnected(true, timing, now);
        self.is_gone = true;
    }

    pub(crate) fn dial_failed(&mut self, timing: &Timing, now: Time) {
        let pause = timing.redial_min * (1 << self.redial.n_failed.min(16));
        self.redial.at = now + pause.min(timing.redial_max);
        self.redial.n_failed += 1;
    }

    /// Dials again now and, if that fails, soon; even if a connection stands if `anyway`.
    pub(crate) fn redial(&mut self, anyway: bool, timing: &Timing, now: Time) {
        self.redial.anyway |= anyway;
        self.redial.n_failed = 0;
        // News of one peer may come many times a second.
        self.redial.at = self.redial.last.map_or(now, |last| now.max(last + timing.redial_min));
    }

    /// Takes in where the peer may be. Returns whether an address is new.
    pub(crate) fn hint(&mut self, addrs: Vec<SocketAddr>, timing: &Timing, now: Time) -> bool {
        let addrs = addrs.into_iter().take(HINTS_MAX);
        let known =
            |addr: &SocketAddr| self.record.addrs.contains(addr) || self.hints.contains(addr);
        let addrs: Vec<SocketAddr> = addrs.collect();
        let is_new = addrs.iter().any(|addr| !known(addr));
        self.hints.retain(|hint| !addrs.contains(hint));
        self.hints.splice(0..0, addrs);
        self.hints.truncate(HINTS_MAX);
        if is_new {
            self.redial(false, timing, now);
        } else {
            // It answers to somebody there, so a long pause makes no sense; nor does a dial for every answer.
            let soon = self.redial.last.map_or(now, |last| now.max(last + timing.heartbeat));
            self.redial.at = self.redial.at.min(soon);
            self.redial.n_failed = 0;
        }
        is_new
    }

    /// Where to dial if it is time to; notes that it is being done.
    pub(crate) fn dial_due(&mut self, timing: &Timing, now: Time) -> Option<Vec<SocketAddr>> {
        let is_silent = self.silence(now) >= MISSED_MAX * timing.heartbeat;
        let is_wanted = !self.is_connected() || is_silent || self.redial.anyway;
        let has_address = !self.record.addrs.is_empty() || !self.hints.is_empty();
        if !is_wanted || !has_address || now < self.redial.at {
            return None;
        }
        // Held back until the dial has succeeded, failed, or surely timed out.
        self.redial.at = now + timing.redial_max;
        self.redial.last = Some(now);
        self.redial.anyway = false;
        let mut addrs = self.hints.clone();
        addrs.extend(self.record.addrs.iter().filter(|addr| !self.hints.contains(addr)));
        Some(addrs)
    }

    /// Whether it is time to tell the peer that this node lives; notes that it is being done.
    pub(crate) fn heartbeat_due(&mut self, timing: &Timing, now: Time) -> bool {
        let is_due = self.is_connected()
            && self.last_heartbeat.is_none_or(|last| now >= last + timing.heartbeat);
        if is_due {
            self.last_heartbeat = Some(now);
        }
        is_due
    }

    /// Notes whether this node and the peer differ in what they know.
    pub(crate) fn compare(&mut self, own_instances: u64, told_version: u64, told_instances: u64) {
        self.told_version = Some(told_version);
        let is_behind = told_version > self.record.version;
        self.sync.is_wanted = is_behind || own_instances != told_instances;
        let difference = [self.record.version, told_version, own_instances, told_instances];
        if !self.sync.is_wanted || difference != self.sync.difference {
            self.sync.n_tried = 0;
            self.sync.difference = difference;
        }
    }

    /// Whether it is time to exchange records and instances with the peer; notes that it is being done.
    pub(crate) fn sync_due(&mut self, now: Time) -> bool {
        let is_due = self.sync.is_wanted && self.is_connected() && now >= self.sync.at;
        if is_due {
            self.sync.is_wanted = false;
            self.sync.at = now + (SYNC_MIN * (1 << self.sync.n_tried.min(16))).min(SYNC_MAX);
            self.sync.n_tried += 1;
        }
        is_due
    }
}
