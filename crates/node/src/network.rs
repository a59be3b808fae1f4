//! What a node does about its place in the network: it lets itself be found, looks for members that it has lost, follows its own
//! addresses, and measures its links.

use std::{sync::Arc, time::Duration};

use shoal_cluster::Event as ClusterEvent;
use shoal_net::{
    DISCOVERY_PORT, Discovery, DiscoveryConfig, Endpoint, Facts, Looking, Membership,
    RememberedMember, Severity,
};
use shoal_proto::{
    NodeId,
    control::{ECHO_BYTES_MAX, LinkRecord, Request, Response},
};
use tokio::time::{self, Instant};
use tracing::{debug, info};

use crate::{Check, Error, Finding, Node, node::Inner};

/// How often the control plane is asked whether somebody is missing.
const LOOK_INTERVAL: Duration = Duration::from_millis(250);
/// When peers are dialled again after a change of address: once those that were found dead are closed, and once the transport has
/// given up the rest by itself.
const DIAL_AGAIN_AFTER: [Duration; 2] = [Duration::from_secs(2), Duration::from_secs(5)];
/// How long the doctor looks: two rounds of queries, and most of a sweep.
const DOCTOR_LOOKS: Duration = Duration::from_secs(5);
/// How long a node looks at the addresses that its user named, when it starts.
const FIRST_LOOK: Duration = Duration::from_secs(10);
/// How often this node's links are published, if they have changed much.
const LINKS_INTERVAL: Duration = Duration::from_secs(10);
/// How often its speed is, likewise, and its links are looked at: soon enough that what one answer has shown counts for the next
/// plan.
const SPEED_INTERVAL: Duration = Duration::from_secs(1);
/// A round-trip time that has changed by less than this factor is not news.
const RTT_NEWS: f64 = 1.25;
/// The same of a speed.
const SPEED_NEWS: f64 = 1.05;
/// How long a measured bandwidth is good.
const BANDWIDTH_AGE: Duration = Duration::from_secs(600);
/// Longest wait for a link to be measured.
const ECHO_TIMEOUT: Duration = Duration::from_secs(3);

/// Starts discovery, unless the user does not want it.
pub(crate) fn start_discovery(inner: &Inner, run: u64) -> Result<Option<Discovery>, Error> {
    let Some(network) = inner.config().network.as_ref().filter(|network| network.discovery) else {
        return Ok(None);
    };
    let config = DiscoveryConfig {
        id: inner.peers().id(),
        run,
        interfaces: network.chosen(),
        port: DISCOVERY_PORT,
        software: env!("CARGO_PKG_VERSION").to_owned(),
    };
    Ok(Some(Discovery::start(config)?))
}

/// Finds members and is found by them, until the node ends.
pub(crate) async fn discover(inner: Arc<Inner>, discovery: Discovery, membership: Membership) {
    let mut members = membership.subscribe();
    discovery.set_keys(&membership.discovery_keys());
    let mut looks = time::interval(LOOK_INTERVAL);
    let mut is_looking = false;
    let started = Instant::now();
    let has_named = inner.config().network.as_ref().is_some_and(|it| !it.peers.is_empty());
    loop {
        tokio::select! {
            found = discovery.next() => {
                let Some(found) = found else { return };
                if found.node == inner.peers().id() || membership.is_revoked(found.node) {
                    continue;
                }
                debug!(node = %found.node.short(), addrs = ?found.addrs, "found");
                inner.peers().apply(ClusterEvent::Hint { node: found.node, addrs: found.addrs });
            }
            changed = members.changed() => {
                if changed.is_err() {
                    return;
                }
                discovery.set_keys(&membership.discovery_keys());
            }
            _ = looks.tick() => {
                let looks = inner.peers().read(|state, now| state.is_looking(now))
                    || has_named && started.elapsed() < FIRST_LOOK;
                if looks != is_looking {
                    is_looking = looks;
                    discovery.set_looking(looking(&inner, looks));
                }
            }
        }
    }
}

/// Where to look first: where the missing were.
fn looking(inner: &Inner, looks: bool) -> Looking {
    if !looks {
        return Looking::No;
    }
    let records = inner.peers().known_records();
    let mut hints: Vec<_> = records.into_iter().flat_map(|record| record.addrs).collect();
    hints.extend(inner.config().network.iter().flat_map(|it| &it.peers));
    Looking::Yes { hints }
}

/// Follows the addresses of this node.
pub(crate) async fn follow_addrs(
    inner: Arc<Inner>,
    endpoint: Endpoint,
    discovery: Option<Discovery>,
) {
    let mut changes = endpoint.addr_changes();
    loop {
        let addrs = endpoint.addrs();
        if let Some(discovery) = &discovery {
            discovery.set_addrs(addrs.clone());
        }
        if inner.peers().record().addrs != addrs {
            info!(?addrs, "this node's addresses have changed");
            inner.peers().set_addrs(addrs);
            let again = Arc::clone(&inner);
            inner.spawn(async move { dial_again(&again).await });
        }
        if changes.changed().await.is_err() {
            return;
        }
    }
}

/// Dials every peer again, some time after this node's addresses have changed.
///
/// A peer's transport (iroh 1.4.1) sends new dials along the way that it preferred, the one that is dead now, and chooses another one
/// only when a connection comes in after those of the dead way have ended: so one has to come in then.
async fn dial_again(inner: &Inner) {
    for pause in DIAL_AGAIN_AFTER {
        time::sleep(pause).await;
        inner.peers().apply(ClusterEvent::AddressesChanged);
    }
}

/// Tells every peer at once when the membership has changed.
pub(crate) async fn pass_on_rolls(inner: Arc<Inner>, membership: Membership) {
    let mut changes = membership.subscribe();
    while changes.changed().await.is_ok() {
        inner.peers().tell_all(&Request::Roll(membership.roll())).await;
    }
}

/// Publishes this node's links now and then.
pub(crate) async fn publish_links(inner: Arc<Inner>) {
    let mut ticks = time::interval(SPEED_INTERVAL);
    let mut published: Option<Instant> = None;
    loop {
        ticks.tick().await;
        look_at_links(&inner);
        publish_profile(&inner);
        if published.is_none_or(|at| at.elapsed() >= LINKS_INTERVAL) {
            published = Some(Instant::now());
            update_links(&inner, &[]);
        }
    }
}

/// Publishes how fast this node computes, if that is no longer what its peers know.
fn publish_profile(inner: &Inner) {
    let Some(profile) = inner.instruments.profiler.profile() else { return };
    let is_news = inner.peers().record().profile.is_none_or(|known| {
        let ratio = profile.decode_bytes_per_s as f64 / known.decode_bytes_per_s.max(1) as f64;
        !(1.0 / SPEED_NEWS..SPEED_NEWS).contains(&ratio)
    });
    if is_news {
        inner.peers().set_profile(profile);
    }
}

/// Takes the round-trip times of the standing connections, and these bandwidths, into the node's record.
fn update_links(inner: &Inner, bandwidths: &[(NodeId, u64)]) {
    let known = inner.peers().record().links;
    let link = |node: NodeId| {
        let rtt = inner.instruments.rtts.best(node, inner.peers().rtt(node)?);
        let old = known.iter().find(|link| link.node == node);
        let rtt_us = u32::try_from(rtt.as_micros()).unwrap_or(u32::MAX);
        let is_news = old.is_none_or(|old| {
            let ratio = f64::from(rtt_us.max(1)) / f64::from(old.rtt_us.max(1));
            !(1.0 / RTT_NEWS..RTT_NEWS).contains(&ratio)
        });
        let measured =
            bandwidths.iter().find(|(of, _)| *of == node).map(|(_, bandwidth)| *bandwidth);
        Some(LinkRecord {
            node,
            rtt_us: if is_news { rtt_us } else { old.map_or(rtt_us, |old| old.rtt_us) },
            bytes_per_s: measured.or(old.map(|old| old.bytes_per_s)).unwrap_or_default(),
        })
    };
    let links = inner.peers().alive().into_iter().filter_map(|record| link(record.id)).collect();
    inner.peers().set_links(links);
}

/// Takes in what the round trip to each peer takes now.
fn look_at_links(inner: &Inner) {
    let alive = inner.peers().alive().into_iter();
    let now: Vec<_> = alive.filter_map(|it| Some((it.id, inner.peers().rtt(it.id)?))).collect();
    inner.instruments.rtts.look(&now);
}

impl Node {
    /// Looks around for some seconds, and says what stands between this node and its peers: what was found, and every check
    /// that was made.
    pub async fn doctor(&self) -> (Vec<Finding>, Vec<Check>) {
        let inner = self.inner();
        let Some(discovery) = inner.discovery() else {
            let sentence = "This node does not look for others: discovery is off.".to_owned();
            let what_to_do = "Start it without --no-discovery.".to_owned();
            let check = Check {
                id: "discovery",
                title: "This device looks for others",
                state: "warning",
                found: sentence.clone(),
                what_to_do: what_to_do.clone(),
            };
            let (severity, code) = ("warning", "no-discovery");
            return (vec![Finding { severity, code, sentence, what_to_do }], vec![check]);
        };
        discovery.set_looking(looking(inner, true));
        time::sleep(DOCTOR_LOOKS).await;
        let observations = discovery.observations();
        discovery
            .set_looking(looking(inner, inner.peers().read(|state, now| state.is_looking(now))));
        let members = inner.peers().read(|state, _| {
            let member = |member: &shoal_cluster::Member| RememberedMember {
                node: member.record.id,
                name: member.record.name.clone(),
                addrs: member.record.addrs.clone(),
                is_connected: member.is_connected(),
            };
            state.members().map(member).collect()
        });
        let network = inner.config().network.as_ref();
        let facts = Facts {
            node: self.id(),
            software: env!("CARGO_PKG_VERSION").to_owned(),
            observations,
            members,
            termux_version: network.and_then(|network| network.termux_version.clone()),
            target_sdk: None,
            android_api: None,
            gateway_reachable: None,
            http_error: None,
        };
        let findings = shoal_net::diagnose(&facts).into_iter().map(Finding::from).collect();
        let checks = shoal_net::examine(&facts).into_iter().map(Check::from).collect();
        (findings, checks)
    }

    /// Measures the bandwidth of the links of which it is not known, all at once, and what is known of the round-trip times.
    pub(crate) async fn measure_links(&self) {
        let due: Vec<NodeId> = {
            let mut measured = self.inner().bandwidths();
            let now = Instant::now();
            let alive = self.inner().peers().alive();
            let is_due = |node: &NodeId| {
                measured.get(node).is_none_or(|at| now.duration_since(*at) > BANDWIDTH_AGE)
            };
            let due: Vec<NodeId> = alive.iter().map(|it| it.id).filter(is_due).collect();
            measured.extend(due.iter().map(|node| (*node, now)));
            due
        };
        let measure = due.into_iter().map(|node| async move { self.bandwidth(node).await });
        let measured = futures_util::future::join_all(measure).await;
        let measured: Vec<(NodeId, u64)> = measured.into_iter().flatten().collect();
        update_links(self.inner(), &measured);
    }

    /// Bytes per second of the link to a peer, from what a quarter of a megabyte takes there and back.
    async fn bandwidth(&self, node: NodeId) -> Option<(NodeId, u64)> {
        let echo = |n_bytes: usize| async move {
            let request = Request::Echo { bytes: vec![0; n_bytes] };
            let started = Instant::now();
            let answer = self.inner().peers().ask(node, &request, ECHO_TIMEOUT).await;
            matches!(answer, Ok(Response::Echo { bytes }) if bytes.len() == n_bytes)
                .then(|| started.elapsed())
        };
        let empty = echo(0).await?;
        let full = echo(ECHO_BYTES_MAX).await?;
        let seconds = full.saturating_sub(empty).as_secs_f64().max(1e-6);
        let per_s = 2.0 * ECHO_BYTES_MAX as f64 / seconds;
        Some((node, per_s.min(1e12) as u64))
    }
}

impl From<shoal_net::Check> for Check {
    fn from(check: shoal_net::Check) -> Self {
        let shoal_net::Check { id, title, state, found, what_to_do } = check;
        Self { id, title, state: state.as_str(), found, what_to_do }
    }
}

impl From<shoal_net::Finding> for Finding {
    fn from(finding: shoal_net::Finding) -> Self {
        let severity = match finding.severity {
            Severity::Ok => "ok",
            Severity::Note => "note",
            Severity::Warning => "warning",
            Severity::Problem => "problem",
        };
        let shoal_net::Finding { code, sentence, what_to_do, .. } = finding;
        Self { severity, code, sentence, what_to_do }
    }
}
