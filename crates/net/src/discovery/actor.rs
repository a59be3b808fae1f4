//! The actor of discovery: it owns the sockets and does what the schedule says.

use std::{
    collections::{BTreeMap, VecDeque},
    net::{IpAddr, SocketAddr},
    sync::{Arc, Mutex},
    time::{Duration, SystemTime},
};

use tokio::{
    sync::{Notify, mpsc},
    time::{self, Instant},
};
use tokio_util::sync::CancellationToken;

use super::{
    DiscoveryConfig, Found, Looking, Settings,
    limits::{AnswerLimit, LogLimit, News},
    lock,
    observations::{Observations, count},
    packet::{Kind, Method, NONCE_BYTES, Packet, PacketKey},
    schedule::{Schedule, Step},
    sockets::{Asker, Datagram, Sockets, errno},
};
use crate::{interfaces, key_file, ticket::unix_seconds};

/// How long a nonce is used, and how many are remembered: an answer is taken for at most 20 s.
const NONCE_USE: Duration = Duration::from_secs(5);
const MAX_NONCES: usize = 4;
const NONCE_LIFE: Duration = Duration::from_secs(20);
/// A send that takes longer is given up: unknown neighbours fill the kernel's queue.
const SEND_TIMEOUT: Duration = Duration::from_millis(50);

pub(super) struct Actor {
    pub(super) config: DiscoveryConfig,
    pub(super) settings: Arc<Mutex<Settings>>,
    pub(super) has_changed: Arc<Notify>,
    pub(super) observations: Arc<Mutex<Observations>>,
    pub(super) found: mpsc::Sender<Found>,
    pub(super) sockets: Sockets,
    pub(super) schedule: Schedule,
    pub(super) started: Instant,
    pub(super) keys: Vec<PacketKey>,
    pub(super) addrs: Vec<SocketAddr>,
    pub(super) looking: Looking,
    pub(super) nonces: VecDeque<([u8; NONCE_BYTES], Duration)>,
    pub(super) answers: AnswerLimit,
    pub(super) logs: LogLimit,
    pub(super) news: News,
}

impl Actor {
    pub(super) async fn run(
        mut self,
        mut inbox: mpsc::Receiver<Datagram>,
        stop: CancellationToken,
    ) {
        let mut poll = time::interval(interfaces::POLL);
        poll.set_missed_tick_behavior(time::MissedTickBehavior::Delay);
        loop {
            let next = self.schedule.next_at();
            let due = async {
                match next {
                    Some(at) => time::sleep_until(self.started + at).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                () = stop.cancelled() => return,
                () = self.has_changed.notified() => self.take_settings(),
                _ = poll.tick() => self.list_interfaces(),
                () = due => self.ask().await,
                Some(datagram) = inbox.recv() => self.receive(datagram).await,
            }
        }
    }

    fn now(&self) -> Duration {
        self.started.elapsed()
    }

    fn take_settings(&mut self) {
        let Settings { keys, addrs, looking } = lock(&self.settings).clone();
        let now = self.now();
        if looking != self.looking {
            match &looking {
                Looking::No => self.schedule.set_looking(None, now),
                Looking::Yes { hints } => self.schedule.set_looking(Some(hints), now),
            }
            self.looking = looking;
        }
        if addrs != self.addrs || (self.keys.is_empty() && !keys.is_empty()) {
            self.schedule.restart(now);
        }
        self.addrs = addrs;
        self.keys = keys;
    }

    fn list_interfaces(&mut self) {
        let has_changed = self.sockets.refresh(&mut lock(&self.observations));
        if has_changed {
            let now = self.now();
            self.schedule.set_interfaces(&self.sockets.interfaces, now);
        }
    }

    /// Sends what is due.
    async fn ask(&mut self) {
        let now = self.now();
        let steps = self.schedule.due(now);
        if self.keys.is_empty() || steps.is_empty() {
            return;
        }
        let nonce = match self.nonce(now) {
            Ok(nonce) => nonce,
            Err(error) => {
                tracing::warn!(%error, "cannot ask for peers");
                return;
            }
        };
        let mut encoded = BTreeMap::new();
        for step in steps {
            let queries: Vec<(&Asker, Method, SocketAddr)> = match step {
                Step::Round => {
                    let targets = self.sockets.askers.iter().flat_map(|asker| {
                        asker.targets.iter().map(move |(method, to)| (asker, *method, *to))
                    });
                    targets.collect()
                }
                Step::Hint(ip) => self.unicasts(ip, Method::Hint),
                Step::Probe(ip) => self.unicasts(ip, Method::Sweep),
            };
            for (asker, method, to) in queries {
                let bytes = encoded
                    .entry(method)
                    .or_insert_with(|| self.sign(Kind::Query, method, nonce, 0));
                self.send(asker, method, bytes.as_deref().unwrap_or_default(), to).await;
            }
        }
    }

    fn unicasts(&self, ip: IpAddr, method: Method) -> Vec<(&Asker, Method, SocketAddr)> {
        let to = SocketAddr::new(ip, self.config.port);
        let ways = self.sockets.ways_to(ip, method == Method::Hint);
        ways.into_iter().map(|asker| (asker, method, to)).collect()
    }

    async fn send(&self, asker: &Asker, method: Method, bytes: &[u8], to: SocketAddr) {
        let sent = time::timeout(SEND_TIMEOUT, asker.socket.send_to(bytes, to)).await;
        let mut observations = lock(&self.observations);
        let Some(seen) = observations.interface(&asker.interface) else {
            return;
        };
        match sent {
            Ok(Ok(_)) => count(&mut seen.sent, method),
            Ok(Err(error)) => {
                tracing::debug!(interface = asker.interface, %to, %error, "cannot send a query");
                count(&mut seen.errors, (method, errno(&error)));
            }
            Err(_) => count(&mut seen.errors, (method, 0)),
        }
    }

    /// A packet of this node signed with the first key, or with the key that a query was signed with; `None` without keys.
    fn sign(
        &self,
        kind: Kind,
        method: Method,
        nonce: [u8; NONCE_BYTES],
        key: usize,
    ) -> Option<Vec<u8>> {
        let packet = Packet {
            kind,
            method,
            node: self.config.id,
            run: self.config.run,
            nonce,
            unix_s: unix_seconds(SystemTime::now()),
            addrs: self.addrs.clone(),
            software: self.config.software.clone(),
        };
        self.keys.get(key).map(|key| packet.encode(key))
    }

    /// The nonce to ask with.
    fn nonce(&mut self, now: Duration) -> Result<[u8; NONCE_BYTES], crate::Error> {
        if let Some((nonce, made)) = self.nonces.back()
            && now.saturating_sub(*made) < NONCE_USE
        {
            return Ok(*nonce);
        }
        let nonce = key_file::random()?;
        if self.nonces.len() == MAX_NONCES {
            self.nonces.pop_front();
        }
        self.nonces.push_back((nonce, now));
        Ok(nonce)
    }

    async fn receive(&mut self, datagram: Datagram) {
        let Datagram { bytes, source, socket } = datagram;
        if !self.sockets.is_from_chosen(source) {
            return;
        }
        let now = self.now();
        let (packet, key) = match Packet::decode(&bytes, &self.keys) {
            Ok(decoded) => decoded,
            Err(rejected) => {
                lock(&self.observations).rejected(rejected);
                if self.logs.allow(source.ip(), now) {
                    tracing::debug!(%source, ?rejected, "packet ignored");
                }
                return;
            }
        };
        if packet.node == self.config.id {
            if packet.run != self.config.run {
                lock(&self.observations).twin(packet.run, source);
            }
            return;
        }
        if packet.kind == Kind::Answer && !self.is_fresh(&packet, now) {
            lock(&self.observations).stale_answers += 1;
            return;
        }
        self.note(&packet, source);
        self.schedule.heard(now);
        if packet.kind == Kind::Query {
            if self.answers.allow(source.ip(), now) {
                let answer = self.sign(Kind::Answer, packet.method, packet.nonce, key);
                let bytes = answer.unwrap_or_default();
                let sent = time::timeout(SEND_TIMEOUT, socket.send_to(&bytes, source)).await;
                tracing::trace!(%source, ?sent, "query answered");
            } else {
                lock(&self.observations).unanswered += 1;
            }
        }
        self.tell(packet, source, now);
    }

    fn is_fresh(&self, answer: &Packet, now: Duration) -> bool {
        self.nonces
            .iter()
            .any(|(nonce, made)| *nonce == answer.nonce && now.saturating_sub(*made) < NONCE_LIFE)
    }

    fn note(&self, packet: &Packet, source: SocketAddr) {
        let mut observations = lock(&self.observations);
        observations.member(packet, source, unix_seconds(SystemTime::now()));
        let Some(name) = self.sockets.interface_of(source) else {
            return;
        };
        if let Some(seen) = observations.interface(name) {
            match packet.kind {
                Kind::Query => count(&mut seen.heard, packet.method),
                Kind::Answer => count(&mut seen.answers, packet.method),
            }
        }
    }

    fn tell(&mut self, packet: Packet, source: SocketAddr, now: Duration) {
        let addrs = dialable(source, &packet.addrs);
        let found = Found { node: packet.node, run: packet.run, addrs, software: packet.software };
        // A full queue loses nothing: the next packet tells the same.
        if !found.addrs.is_empty()
            && self.news.is_new(&found, now)
            && self.found.try_send(found.clone()).is_ok()
        {
            tracing::debug!(node = %found.node.short(), addrs = ?found.addrs, "member found");
            self.news.told(&found, now);
        }
    }
}

/// Where a node can be dialled that says this and whose packet came from there. Its packet's source comes first: it is
/// right even through a hotspot's address translation. A link-local source comes last.
fn dialable(source: SocketAddr, said: &[SocketAddr]) -> Vec<SocketAddr> {
    let port = said.iter().find(|addr| addr.is_ipv4() == source.is_ipv4()).map(SocketAddr::port);
    let seen = port.map(|port| {
        let mut seen = source;
        seen.set_port(port);
        seen
    });
    let is_link_local = matches!(source.ip(), IpAddr::V6(ip) if ip.is_unicast_link_local());
    let (first, last) = if is_link_local { (None, seen) } else { (seen, None) };
    let mut addrs = Vec::new();
    for addr in first.into_iter().chain(said.iter().copied()).chain(last) {
        if !addrs.contains(&addr) {
            addrs.push(addr);
        }
    }
    addrs
}

#[cfg(test)]
mod tests {
    use super::*;

    fn addrs(texts: &[&str]) -> Vec<SocketAddr> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    #[test]
    fn a_source_comes_first_with_the_port_of_its_family() {
        let said = addrs(&["192.168.1.5:7001", "[fd00::5]:7002"]);
        let through_nat = dialable("10.0.0.1:5555".parse().unwrap(), &said);
        assert_eq!(through_nat, addrs(&["10.0.0.1:7001", "192.168.1.5:7001", "[fd00::5]:7002"]));
        let direct = dialable("192.168.1.5:5555".parse().unwrap(), &said);
        assert_eq!(direct, said);
        let no_such_port = dialable("[fd00::5]:5555".parse().unwrap(), &said[..1]);
        assert_eq!(no_such_port, said[..1]);
    }

    #[test]
    fn a_link_local_source_comes_last_with_its_scope() {
        let said = addrs(&["[fd00::5]:7002"]);
        let all = dialable("[fe80::5%3]:5555".parse().unwrap(), &said);
        assert_eq!(all, addrs(&["[fd00::5]:7002", "[fe80::5%3]:7002"]));
    }
}
