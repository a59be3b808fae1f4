//! When to ask whom: a pure function of time.
//!
//! While the node looks for somebody, rounds of queries (multicast, broadcast, remembered addresses) follow each other at
//! doubling gaps. If nothing is heard for a while, every host of the own subnets is probed, in random order and paced.
//! Invariant: a node that looks for nobody sends nothing, and one that looks for ever sends at most
//! [`PROBES_PER_BATCH`] probes per [`BATCH_GAP`] and, in the long run, a round per [`ROUND_GAP_MAX`] and a sweep per
//! [`SWEEP_PAUSE_MAX`].

use std::{
    collections::BTreeSet,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    time::Duration,
};

use crate::interfaces::{Interface, InterfaceKind};

/// First gap between rounds: WiFi drops multicast often, so the second try comes before anybody has noticed.
const ROUND_GAP: Duration = Duration::from_millis(250);
/// Last gap: a phone that sleeps is found within half a minute of waking, at less cost than its WiFi's own chatter.
const ROUND_GAP_MAX: Duration = Duration::from_secs(30);
/// Rounds start over at most this often, however often the node changes its mind or its network flaps.
const RESTART_GAP: Duration = Duration::from_secs(10);
/// Silence before a sweep: three rounds have been lost, or nobody receives multicast.
const SWEEP_AFTER: Duration = Duration::from_millis(1500);
/// First pause between sweeps. It doubles: who is not there now is probably switched off.
const SWEEP_PAUSE: Duration = Duration::from_secs(60);
/// Last pause between sweeps.
const SWEEP_PAUSE_MAX: Duration = Duration::from_secs(15 * 60);
/// Probes at a time and the gap between them: 100/s, so that a /24 takes 2.6 s and access points are not alarmed.
const PROBES_PER_BATCH: usize = 10;
const BATCH_GAP: Duration = Duration::from_millis(100);
/// Hosts of one sweep over all interfaces.
const MAX_SWEEP_HOSTS: usize = 1024;
/// Remembered addresses asked in each round: members of a home cluster, with two addresses each.
const MAX_HINTS: usize = 32;

/// What to send now. Times are since an arbitrary start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Step {
    /// A query by multicast and broadcast on every interface.
    Round,
    /// A query to a remembered host.
    Hint(IpAddr),
    /// A query to a host that may not exist.
    Probe(IpAddr),
}

/// The state of the search.
#[derive(Debug)]
pub(crate) struct Schedule {
    random: SplitMix,
    /// Hosts to probe in a sweep.
    hosts: Vec<IpAddr>,
    looking: Option<Looking>,
    last_start: Option<Duration>,
    next_sweep: Duration,
    sweep_pause: Duration,
}

#[derive(Debug)]
struct Looking {
    hints: Vec<IpAddr>,
    /// When the next round is, and the gap after it.
    next_round: Duration,
    gap: Duration,
    /// When rounds start over.
    restart: Option<Duration>,
    /// Since when nothing was found.
    quiet_since: Duration,
    /// What is left of the sweep in progress, and when its next batch is.
    probes: Vec<IpAddr>,
    next_batch: Duration,
}

impl Schedule {
    pub(crate) fn new(seed: u64) -> Self {
        Self {
            random: SplitMix(seed),
            hosts: Vec::new(),
            looking: None,
            last_start: None,
            next_sweep: Duration::ZERO,
            sweep_pause: SWEEP_PAUSE,
        }
    }

    /// Starts to look, with hosts to ask first, or stops (`None`).
    pub(crate) fn set_looking(&mut self, hints: Option<&[SocketAddr]>, now: Duration) {
        let Some(hints) = hints else {
            self.looking = None;
            return;
        };
        let mut seen = BTreeSet::new();
        let ips = hints.iter().map(SocketAddr::ip).filter(|ip| seen.insert(*ip));
        let hints = ips.take(MAX_HINTS).collect();
        if let Some(looking) = &mut self.looking {
            looking.hints = hints;
            return;
        }
        if now >= self.next_sweep {
            self.sweep_pause = SWEEP_PAUSE;
        }
        self.looking = Some(Looking {
            hints,
            next_round: self.start_at(now),
            gap: ROUND_GAP,
            restart: None,
            quiet_since: now,
            probes: Vec::new(),
            next_batch: now,
        });
    }

    /// Takes the interfaces as they are now.
    pub(crate) fn set_interfaces(&mut self, interfaces: &[Interface], now: Duration) {
        self.hosts = hosts(interfaces);
        self.sweep_pause = SWEEP_PAUSE;
        if let Some(looking) = &mut self.looking {
            looking.probes.clear();
            looking.quiet_since = now;
        }
        self.restart(now);
    }

    /// Starts the rounds over, if the node is looking: something has changed.
    pub(crate) fn restart(&mut self, now: Duration) {
        let at = self.start_at(now);
        if let Some(looking) = &mut self.looking {
            looking.restart = Some(at);
        }
    }

    /// Notes that a member was heard: no need to sweep yet.
    pub(crate) fn heard(&mut self, now: Duration) {
        if let Some(looking) = &mut self.looking {
            looking.quiet_since = now;
        }
    }

    /// When [`Schedule::due`] has something; `None` if never.
    pub(crate) fn next_at(&self) -> Option<Duration> {
        let looking = self.looking.as_ref()?;
        let sweep = if looking.probes.is_empty() {
            let at = self.next_sweep.max(looking.quiet_since + SWEEP_AFTER);
            (!self.hosts.is_empty()).then_some(at)
        } else {
            Some(looking.next_batch)
        };
        let next = [Some(looking.next_round), looking.restart, sweep];
        next.into_iter().flatten().min()
    }

    /// What to send at this time.
    pub(crate) fn due(&mut self, now: Duration) -> Vec<Step> {
        let mut steps = Vec::new();
        let Some(looking) = &mut self.looking else {
            return steps;
        };
        if looking.restart.is_some_and(|at| at <= now) {
            looking.restart = None;
            looking.next_round = now;
            looking.gap = ROUND_GAP;
        }
        if looking.next_round <= now {
            if looking.gap == ROUND_GAP {
                self.last_start = Some(now);
            }
            steps.extend(looking.hints.iter().map(|ip| Step::Hint(*ip)));
            steps.push(Step::Round);
            looking.next_round = now + self.random.jitter(looking.gap);
            looking.gap = (looking.gap * 2).min(ROUND_GAP_MAX);
        }
        let is_quiet = looking.quiet_since + SWEEP_AFTER <= now;
        if looking.probes.is_empty() && is_quiet && self.next_sweep <= now {
            looking.probes.clone_from(&self.hosts);
            self.random.shuffle(&mut looking.probes);
            looking.next_batch = now;
            self.next_sweep = now + self.sweep_pause;
            self.sweep_pause = (self.sweep_pause * 2).min(SWEEP_PAUSE_MAX);
        }
        if !looking.probes.is_empty() && looking.next_batch <= now {
            let kept = looking.probes.len().saturating_sub(PROBES_PER_BATCH);
            steps.extend(looking.probes.drain(kept..).map(Step::Probe));
            looking.next_batch = now + BATCH_GAP;
        }
        steps
    }

    fn start_at(&self, now: Duration) -> Duration {
        self.last_start.map_or(now, |last| now.max(last + RESTART_GAP))
    }
}

/// The hosts that a sweep of these interfaces probes: of each IPv4 subnet the own /24 part, without the own address.
fn hosts(interfaces: &[Interface]) -> Vec<IpAddr> {
    let mut hosts = BTreeSet::new();
    for interface in interfaces {
        if !InterfaceKind::guess(&interface.name).is_swept() {
            continue;
        }
        for addr in &interface.addrs {
            match addr.ip {
                // A loopback subnet is 2^24 names of one machine.
                ip if ip.is_loopback() => {
                    hosts.insert(if ip.is_ipv4() {
                        IpAddr::V4(Ipv4Addr::LOCALHOST)
                    } else {
                        IpAddr::V6(Ipv6Addr::LOCALHOST)
                    });
                }
                IpAddr::V4(ip) if addr.prefix_len <= 30 => {
                    let host_bits = (32 - u32::from(addr.prefix_len)).min(8);
                    let size = 1_u32 << host_bits;
                    let first = ip.to_bits() & !(size - 1);
                    let all = (1..size - 1).map(|host| Ipv4Addr::from_bits(first + host));
                    hosts.extend(all.filter(|host| *host != ip).map(IpAddr::V4));
                }
                _ => {}
            }
        }
    }
    hosts.into_iter().take(MAX_SWEEP_HOSTS).collect()
}

/// SplitMix64 (Steele, Lea and Flood, 2014): enough to spread packets, and the same for the same seed.
#[derive(Debug)]
struct SplitMix(u64);

impl SplitMix {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A duration within a tenth of this one, so that nodes that started together part.
    fn jitter(&mut self, around: Duration) -> Duration {
        let permille = u32::try_from(900 + self.next() % 201).expect("at most 1100");
        around * permille / 1000
    }

    /// Fisher and Yates.
    fn shuffle(&mut self, items: &mut [IpAddr]) {
        for at in (1..items.len()).rev() {
            let n = u64::try_from(at).expect("a small list") + 1;
            let other = usize::try_from(self.next() % n).expect("at most a usize");
            items.swap(at, other);
        }
    }
}

#[cfg(test)]
mod tests;
