//! What keeps discovery small, whatever arrives: who is answered how often, what is logged, and what is told twice.
//! Invariant: every table has a bound, and time is an argument.

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use shoal_proto::NodeId;

use super::Found;

/// Answers to one host: a search asks nine times in the first half minute by several methods each, several nodes may
/// share the host.
const SOURCE_BURST: f64 = 32.0;
const SOURCE_PER_S: f64 = 4.0;
/// Answers to everybody: a full house that wakes at once.
const TOTAL_BURST: f64 = 128.0;
const TOTAL_PER_S: f64 = 50.0;
/// Hosts remembered: one subnet.
const MAX_SOURCES: usize = 256;
/// Hosts whose broken packets are logged within [`LOG_GAP`].
const MAX_LOGGED: usize = 32;
const LOG_GAP: Duration = Duration::from_secs(60);
/// How long the same news is not told again.
const FOUND_GAP: Duration = Duration::from_secs(10);
/// Members whose news is remembered.
const MAX_FOUND: usize = 256;
/// Addresses remembered of each.
const MAX_FOUND_ADDRS: usize = 32;

#[derive(Debug, Clone, Copy)]
struct Bucket {
    tokens: f64,
    at: Duration,
}

impl Bucket {
    fn refill(&mut self, burst: f64, per_s: f64, now: Duration) {
        let gained = now.saturating_sub(self.at).as_secs_f64() * per_s;
        self.tokens = (self.tokens + gained).min(burst);
        self.at = now;
    }
}

/// Decides which queries are answered.
#[derive(Debug)]
pub(crate) struct AnswerLimit {
    total: Bucket,
    sources: BTreeMap<IpAddr, Bucket>,
}

impl AnswerLimit {
    pub(crate) fn new() -> Self {
        let total = Bucket { tokens: TOTAL_BURST, at: Duration::ZERO };
        Self { total, sources: BTreeMap::new() }
    }

    /// Whether a query of this host is answered now.
    pub(crate) fn allow(&mut self, source: IpAddr, now: Duration) -> bool {
        if !self.sources.contains_key(&source) && self.sources.len() >= MAX_SOURCES {
            let oldest = self.sources.iter().min_by_key(|(_, bucket)| bucket.at);
            if let Some(oldest) = oldest.map(|(ip, _)| *ip) {
                self.sources.remove(&oldest);
            }
        }
        let full = Bucket { tokens: SOURCE_BURST, at: now };
        let bucket = self.sources.entry(source).or_insert(full);
        bucket.refill(SOURCE_BURST, SOURCE_PER_S, now);
        self.total.refill(TOTAL_BURST, TOTAL_PER_S, now);
        let allowed = bucket.tokens >= 1.0 && self.total.tokens >= 1.0;
        if allowed {
            bucket.tokens -= 1.0;
            self.total.tokens -= 1.0;
        }
        allowed
    }
}

/// Decides which broken packets are logged.
#[derive(Debug, Default)]
pub(crate) struct LogLimit {
    logged: BTreeMap<IpAddr, Duration>,
}

impl LogLimit {
    /// Whether a broken packet of this host is logged now.
    pub(crate) fn allow(&mut self, source: IpAddr, now: Duration) -> bool {
        self.logged.retain(|_, at| now.saturating_sub(*at) < LOG_GAP);
        let allowed = !self.logged.contains_key(&source) && self.logged.len() < MAX_LOGGED;
        if allowed {
            self.logged.insert(source, now);
        }
        allowed
    }
}

/// Decides what is news.
#[derive(Debug, Default)]
pub(crate) struct News {
    told: BTreeMap<NodeId, Told>,
}

#[derive(Debug)]
struct Told {
    run: u64,
    addrs: Vec<SocketAddr>,
    at: Duration,
}

impl News {
    /// Whether it was not told lately. The same node is heard from several of its addresses at once, so only an address
    /// that was not among those told makes it news.
    pub(crate) fn is_new(&self, found: &Found, now: Duration) -> bool {
        self.told.get(&found.node).is_none_or(|told| {
            now.saturating_sub(told.at) >= FOUND_GAP
                || told.run != found.run
                || found.addrs.iter().any(|addr| !told.addrs.contains(addr))
        })
    }

    /// Notes that it was told.
    pub(crate) fn told(&mut self, found: &Found, now: Duration) {
        self.told.retain(|_, told| now.saturating_sub(told.at) < FOUND_GAP);
        if self.told.len() >= MAX_FOUND && !self.told.contains_key(&found.node) {
            return;
        }
        let fresh = Told { run: found.run, addrs: Vec::new(), at: now };
        let told = self.told.entry(found.node).or_insert(fresh);
        if told.run != found.run {
            *told = Told { run: found.run, addrs: Vec::new(), at: now };
        }
        for addr in &found.addrs {
            if !told.addrs.contains(addr) && told.addrs.len() < MAX_FOUND_ADDRS {
                told.addrs.push(*addr);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(host: u8) -> IpAddr {
        IpAddr::from([10, 0, 0, host])
    }

    #[test]
    fn one_host_is_answered_at_its_rate_and_others_still_are() {
        let mut limit = AnswerLimit::new();
        let answered = (0..1000).filter(|_| limit.allow(ip(1), Duration::ZERO)).count();
        assert_eq!(answered, 32);
        assert!(limit.allow(ip(2), Duration::ZERO));
        assert!(limit.allow(ip(1), Duration::from_secs(1)));
    }

    #[test]
    fn any_number_of_hosts_is_answered_at_the_total_rate_from_a_bounded_table() {
        let mut limit = AnswerLimit::new();
        let any = |n: u32| IpAddr::from(n.to_be_bytes());
        let answered = (0..5000).filter(|n| limit.allow(any(*n), Duration::ZERO)).count();
        assert_eq!(answered, 128);
        assert_eq!(limit.sources.len(), MAX_SOURCES);
    }

    #[test]
    fn a_host_is_logged_once_a_minute_and_a_flood_of_hosts_is_not() {
        let mut limit = LogLimit::default();
        assert!(limit.allow(ip(1), Duration::ZERO));
        assert!(!limit.allow(ip(1), Duration::from_secs(59)));
        assert!(limit.allow(ip(1), Duration::from_secs(60)));
        let any = |n: u32| IpAddr::from(n.to_be_bytes());
        let logged = (0..5000).filter(|n| limit.allow(any(*n), Duration::from_secs(60))).count();
        assert_eq!(logged, MAX_LOGGED - 1);
    }

    #[test]
    fn the_same_news_is_told_again_only_when_run_or_addresses_change_or_time_has_passed() {
        let found = |run, hosts: &[u8]| Found {
            node: NodeId([1; 32]),
            run,
            addrs: hosts.iter().map(|host| SocketAddr::new(ip(*host), 9)).collect(),
            software: String::new(),
        };
        let mut news = News::default();
        let at = Duration::from_secs;
        assert!(news.is_new(&found(1, &[1, 2]), at(0)));
        news.told(&found(1, &[1, 2]), at(0));
        assert!(!news.is_new(&found(1, &[2, 1]), at(9)));
        assert!(!news.is_new(&found(1, &[2]), at(9)));
        assert!(news.is_new(&found(1, &[3]), at(9)));
        assert!(news.is_new(&found(2, &[1]), at(9)));
        assert!(news.is_new(&found(1, &[1]), at(10)));
    }
}
