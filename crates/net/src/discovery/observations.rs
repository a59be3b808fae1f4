//! What discovery has seen of the network: the doctor's evidence. Every table is bounded.

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
};

use shoal_proto::NodeId;

use super::packet::{Method, Packet, Rejected};
use crate::interfaces::Interface;

/// Interfaces, clusters, members, runs that are remembered: far more than a home has.
const MAX_ENTRIES: usize = 64;
/// A difference of clocks that is noted, in seconds: phones set theirs by the network.
const MAX_SKEW_S: u64 = 300;

/// What discovery has seen since its start.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Observations {
    /// By name; those that have gone stay.
    pub interfaces: BTreeMap<String, InterfaceObservations>,
    /// Members of this cluster that were heard.
    pub members: BTreeMap<NodeId, MemberSeen>,
    /// Other processes with this node's id: their run and where they are.
    pub twins: BTreeMap<u64, SocketAddr>,
    /// Packets of other clusters, by tag.
    pub other_clusters: BTreeMap<[u8; 8], u64>,
    /// Packets of other versions of the packet's format, by version.
    pub other_versions: BTreeMap<u8, u64>,
    /// Packets with this cluster's tag and a wrong authenticator, or damaged ones.
    pub bad_macs: u64,
    /// Packets that are no packets of Shoal's.
    pub garbage: u64,
    /// Answers to no question of the last seconds: late ones, or repeated by somebody.
    pub stale_answers: u64,
    /// Queries that were not answered since there were too many.
    pub unanswered: u64,
    /// Why the fixed port cannot be listened on at the moment, by address: the system's error number.
    pub listen_errors: BTreeMap<SocketAddr, i32>,
}

/// What was seen of one interface.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct InterfaceObservations {
    /// Its addresses now; none if it has gone.
    pub addrs: Vec<IpAddr>,
    /// Queries sent, by method.
    pub sent: BTreeMap<Method, u64>,
    /// Answers received to queries sent, by the query's method.
    pub answers: BTreeMap<Method, u64>,
    /// Other members' queries received, by method.
    pub heard: BTreeMap<Method, u64>,
    /// What the system refused to send or to open, by method and error number.
    pub errors: BTreeMap<(Method, i32), u64>,
}

/// What was seen of a member.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MemberSeen {
    /// Its run.
    pub run: u64,
    /// Where its last packet came from.
    pub source: SocketAddr,
    /// Its software's version.
    pub software: String,
    /// How its answers and queries came, by method.
    pub via: BTreeMap<Method, u64>,
    /// Its clock minus this node's, in seconds, if that is more than five minutes.
    pub skew_s: Option<i64>,
}

impl Observations {
    /// Entry of an interface, unless there are too many.
    pub(crate) fn interface(&mut self, name: &str) -> Option<&mut InterfaceObservations> {
        if !self.interfaces.contains_key(name) {
            if self.interfaces.len() >= MAX_ENTRIES {
                return None;
            }
            self.interfaces.insert(name.to_owned(), InterfaceObservations::default());
        }
        self.interfaces.get_mut(name)
    }

    pub(crate) fn set_interfaces(&mut self, interfaces: &[Interface]) {
        for seen in self.interfaces.values_mut() {
            seen.addrs.clear();
        }
        for interface in interfaces {
            if let Some(seen) = self.interface(&interface.name) {
                seen.addrs = interface.addrs.iter().map(|addr| addr.ip).collect();
            }
        }
    }

    pub(crate) fn rejected(&mut self, rejected: Rejected) {
        match rejected {
            Rejected::Garbage => self.garbage += 1,
            Rejected::Version(version) => count(&mut self.other_versions, version),
            Rejected::OtherCluster(tag) => count(&mut self.other_clusters, tag),
            Rejected::BadMac | Rejected::Malformed => self.bad_macs += 1,
        }
    }

    pub(crate) fn twin(&mut self, run: u64, source: SocketAddr) {
        if self.twins.len() < MAX_ENTRIES || self.twins.contains_key(&run) {
            self.twins.insert(run, source);
        }
    }

    pub(crate) fn member(&mut self, packet: &Packet, source: SocketAddr, now_unix_s: u64) {
        if self.members.len() >= MAX_ENTRIES && !self.members.contains_key(&packet.node) {
            return;
        }
        let fresh = MemberSeen {
            run: packet.run,
            source,
            software: String::new(),
            via: BTreeMap::new(),
            skew_s: None,
        };
        let seen = self.members.entry(packet.node).or_insert(fresh);
        seen.run = packet.run;
        seen.source = source;
        seen.software.clone_from(&packet.software);
        count(&mut seen.via, packet.method);
        let is_skewed = packet.unix_s.abs_diff(now_unix_s) > MAX_SKEW_S;
        let skew = i128::from(packet.unix_s) - i128::from(now_unix_s);
        let saturated = i64::try_from(skew).unwrap_or(if skew < 0 { i64::MIN } else { i64::MAX });
        seen.skew_s = is_skewed.then_some(saturated);
    }
}

/// Counts one more, unless the table is full.
pub(crate) fn count<K: Ord>(counts: &mut BTreeMap<K, u64>, key: K) {
    if counts.len() < MAX_ENTRIES || counts.contains_key(&key) {
        let n = counts.entry(key).or_default();
        *n = n.saturating_add(1);
    }
}
