//! The doctor's rules, one function each.

use std::{io, net::IpAddr};

use super::{Facts, Finding, RememberedMember, Severity, checks::Described};
use crate::{InterfaceKind, InterfaceObservations, Method};

pub(super) type Rule = fn(&Facts) -> Vec<Finding>;

/// Every rule, with what is said where it finds nothing.
pub(super) const ALL: [Described; 14] = [
    Described {
        id: "network",
        title: "This device is on a network",
        rule: no_network,
        good: |facts| {
            let names: Vec<&str> = outward(facts).map(|(name, ..)| name).collect();
            (!names.is_empty()).then(|| format!("It is, by {}.", names.join(", ")))
        },
    },
    Described {
        id: "lan-permission",
        title: "The system lets Shoal use the local network",
        rule: lan_permission,
        good: |facts| {
            let has_sent = local(facts).any(|(_, seen)| seen.sent.values().any(|&n| n > 0));
            has_sent.then(|| "Packets are let through.".to_owned())
        },
    },
    Described {
        id: "port",
        title: "Other devices can find this one",
        rule: port_taken,
        good: |_| Some("It listens for those who look.".to_owned()),
    },
    Described {
        id: "http",
        title: "The API and the page are served",
        rule: http,
        good: |_| Some("They are.".to_owned()),
    },
    Described {
        id: "identity",
        title: "This device's identity is its own",
        rule: duplicate_identity,
        good: |facts| {
            outward(facts).next().map(|_| "No other device was heard with it.".to_owned())
        },
    },
    Described {
        id: "client-isolation",
        title: "The devices of this network reach each other",
        rule: client_isolation,
        good: |facts| {
            let is_heard = local(facts)
                .any(|(_, seen)| !seen.heard.is_empty() || seen.answers.values().any(|&n| n > 0));
            let is_connected = facts.members.iter().any(|member| member.is_connected);
            (is_heard || is_connected).then(|| "Others answer.".to_owned())
        },
    },
    Described {
        id: "members",
        title: "The cluster's devices are connected",
        rule: members_missing,
        good: |facts| {
            let is_whole = !facts.members.is_empty() && missing(facts).is_empty();
            is_whole.then(|| "All of them are.".to_owned())
        },
    },
    Described {
        id: "gateway",
        title: "The network's gateway answers",
        rule: gateway,
        good: |facts| (facts.gateway_reachable == Some(true)).then(|| "It does.".to_owned()),
    },
    Described {
        id: "multicast",
        title: "Queries to all at once pass",
        rule: filtered_multicast,
        good: |facts| {
            let passes = local(facts).any(|(_, seen)| {
                total(seen, &GROUP).1 > 0 || GROUP.iter().any(|it| seen.heard.contains_key(it))
            });
            passes.then(|| "They do.".to_owned())
        },
    },
    Described {
        id: "one-network",
        title: "All devices are on one network",
        rule: hotspot,
        good: |facts| {
            let is_known = !facts.observations.members.is_empty();
            is_known.then(|| "No hotspot or address translation is between them.".to_owned())
        },
    },
    Described {
        id: "vpn",
        title: "No VPN is in the way",
        rule: virtual_interfaces,
        good: |facts| outward(facts).next().map(|_| "None is in use.".to_owned()),
    },
    Described {
        id: "clock",
        title: "The clocks agree",
        rule: clock_skew,
        good: |facts| {
            let is_known = !facts.observations.members.is_empty();
            is_known.then(|| "They do, to the minute.".to_owned())
        },
    },
    Described {
        id: "versions",
        title: "All devices run the same version",
        rule: versions,
        good: |facts| {
            let is_known = !facts.observations.members.is_empty();
            is_known.then(|| format!("They run Shoal {}.", facts.software))
        },
    },
    Described {
        id: "other-clusters",
        title: "No other cluster is nearby",
        rule: other_clusters,
        good: |facts| outward(facts).next().map(|_| "None was heard.".to_owned()),
    },
];

/// From Android 17 on, an application that targets it may not use the local network without being allowed to.
const LAN_PERMISSION_SDK: u32 = 37;
/// Queries without an answer that mean something: WiFi loses single ones.
const ENOUGH_QUERIES: u64 = 3;
/// Queries that ask many at once.
const GROUP: [Method; 2] = [Method::Multicast, Method::Broadcast];
/// Queries that ask one host.
const UNICAST: [Method; 2] = [Method::Sweep, Method::Hint];
/// The subnets of Android's own hotspot and of WiFi Direct.
const HOTSPOT_NETS: [[u8; 3]; 2] = [[192, 168, 43], [192, 168, 49]];

fn finding(
    severity: Severity,
    code: &'static str,
    sentence: impl Into<String>,
    what_to_do: impl Into<String>,
) -> Finding {
    Finding { severity, code, sentence: sentence.into(), what_to_do: what_to_do.into() }
}

/// Interfaces that have an address and lead to other devices.
fn outward(facts: &Facts) -> impl Iterator<Item = (&str, InterfaceKind, &InterfaceObservations)> {
    let named = facts.observations.interfaces.iter();
    let kinds = named.map(|(name, seen)| (name.as_str(), InterfaceKind::guess(name), seen));
    kinds.filter(|(_, kind, seen)| {
        *kind != InterfaceKind::Loopback && seen.addrs.iter().any(|ip| !ip.is_loopback())
    })
}

/// Interfaces on which peers are expected.
fn local(facts: &Facts) -> impl Iterator<Item = (&str, &InterfaceObservations)> {
    let expected = outward(facts).filter(|(_, kind, _)| kind.is_swept());
    expected.map(|(name, _, seen)| (name, seen))
}

fn net_of(ip: IpAddr) -> Option<[u8; 3]> {
    match ip {
        IpAddr::V4(ip) if !ip.is_loopback() => {
            let [a, b, c, _] = ip.octets();
            Some([a, b, c])
        }
        _ => None,
    }
}

/// Whether two addresses are in one /24: what a sweep covers.
fn is_near(seen: &InterfaceObservations, ip: IpAddr) -> bool {
    net_of(ip).is_some_and(|net| seen.addrs.iter().any(|own| net_of(*own) == Some(net)))
}

fn total(seen: &InterfaceObservations, methods: &[Method]) -> (u64, u64) {
    let count = |counts: &std::collections::BTreeMap<Method, u64>| {
        methods.iter().map(|method| counts.get(method).copied().unwrap_or(0)).sum()
    };
    (count(&seen.sent), count(&seen.answers))
}

fn missing(facts: &Facts) -> Vec<&RememberedMember> {
    facts.members.iter().filter(|member| !member.is_connected).collect()
}

fn names(members: &[&RememberedMember]) -> String {
    let names: Vec<_> = members.iter().map(|member| member.name.as_str()).collect();
    names.join(", ")
}

fn kind_of(errno: i32) -> io::ErrorKind {
    io::Error::from_raw_os_error(errno).kind()
}

/// Whether the system forbids sending. Other errors are no such sign: a sweep meets many hosts that do not exist.
fn is_refused(seen: &InterfaceObservations) -> bool {
    seen.errors.keys().any(|(_, errno)| kind_of(*errno) == io::ErrorKind::PermissionDenied)
}

fn no_network(facts: &Facts) -> Vec<Finding> {
    if outward(facts).next().is_some() {
        return Vec::new();
    }
    vec![finding(
        Severity::Problem,
        "no-network",
        "This device is on no network that Shoal may use.",
        "Join the same WiFi as the other devices, or turn on a hotspot on one of them. If Shoal was told to use certain \
         interfaces only, check their names.",
    )]
}

fn lan_permission(facts: &Facts) -> Vec<Finding> {
    let is_refused = local(facts).any(|(_, seen)| is_refused(seen));
    if !is_refused {
        return Vec::new();
    }
    let is_play = facts.termux_version.as_ref().is_some_and(|text| text.starts_with("googleplay"));
    let is_cut_off = facts.target_sdk.is_some_and(|sdk| sdk >= LAN_PERMISSION_SDK);
    if is_play || is_cut_off {
        return vec![finding(
            Severity::Problem,
            "lan-permission",
            "Android does not let this Termux use the local network: the build of the Play Store lacks the permission, and \
             it cannot be granted.",
            "Install Termux from F-Droid or GitHub instead; that build is allowed.",
        )];
    }
    vec![finding(
        Severity::Problem,
        "send-refused",
        "The system refuses to send packets to the local network.",
        "Look for a firewall or a VPN with a kill switch on this device, and let Shoal through.",
    )]
}

fn port_taken(facts: &Facts) -> Vec<Finding> {
    let errors = facts.observations.listen_errors.iter();
    // Without IPv6 everything still works.
    errors
        .filter(|(addr, _)| addr.is_ipv4())
        .map(|(addr, errno)| {
            let port = addr.port();
            let why = io::Error::from_raw_os_error(*errno);
            if why.kind() == io::ErrorKind::AddrInUse {
                finding(
                    Severity::Warning,
                    "port-taken",
                    format!("Another program uses UDP port {port}, so others cannot find this device."),
                    "Stop that program. Until then this device still finds others by asking.",
                )
            } else {
                finding(
                    Severity::Warning,
                    "cannot-listen",
                    format!("UDP port {port} cannot be listened on: {why}."),
                    "Look for a firewall on this device. Until then it still finds others by asking.",
                )
            }
        })
        .collect()
}

fn http(facts: &Facts) -> Vec<Finding> {
    let error = facts.http_error.iter();
    error
        .map(|error| {
            finding(
                Severity::Problem,
                "http",
                format!("The HTTP server does not listen: {error}."),
                "Choose another address or port for it.",
            )
        })
        .collect()
}

fn duplicate_identity(facts: &Facts) -> Vec<Finding> {
    let Some(source) = facts.observations.twins.values().next() else {
        return Vec::new();
    };
    vec![finding(
        Severity::Problem,
        "duplicate-identity",
        format!("Another node with this node's id {} is at {}.", facts.node.short(), source.ip()),
        "Two devices share a copy of the same data directory: delete the identity file on one of them and let it join \
         again. If both run on this device, stop one.",
    )]
}

/// Members that were on this subnet and are silent there, though the network works.
fn isolated<'a>(facts: &'a Facts, seen: &InterfaceObservations) -> Vec<&'a RememberedMember> {
    let (asked, answered) = total(seen, &UNICAST);
    let (_, answered_group) = total(seen, &GROUP);
    let is_silent = answered + answered_group == 0 && seen.heard.is_empty();
    let was_here =
        |member: &&RememberedMember| member.addrs.iter().any(|addr| is_near(seen, addr.ip()));
    let is_somebody_here =
        facts.members.iter().filter(|member| member.is_connected).any(|member| was_here(&member));
    if asked < ENOUGH_QUERIES || !is_silent || is_somebody_here || is_refused(seen) {
        return Vec::new();
    }
    missing(facts).into_iter().filter(was_here).collect()
}

fn client_isolation(facts: &Facts) -> Vec<Finding> {
    if facts.gateway_reachable == Some(false) {
        return Vec::new();
    }
    let is_certain = facts.gateway_reachable == Some(true);
    let severity = if is_certain { Severity::Problem } else { Severity::Warning };
    let silent = local(facts).map(|(name, seen)| (name, isolated(facts, seen)));
    silent
        .filter(|(_, members)| !members.is_empty())
        .map(|(name, members)| {
            finding(
                severity,
                "client-isolation",
                format!(
                    "Nobody on {name} answers, though {} was there: the access point probably keeps its devices apart, or \
                     the others are off.",
                    names(&members)
                ),
                "If they are on, switch off \"client isolation\" (also: AP isolation, guest network) in the router, or use \
                 one phone's hotspot for all devices, or a relay.",
            )
        })
        .collect()
}

fn members_missing(facts: &Facts) -> Vec<Finding> {
    let missing = missing(facts);
    if missing.is_empty() || !client_isolation(facts).is_empty() {
        return Vec::new();
    }
    let seen = &facts.observations.members;
    let (heard, silent): (Vec<_>, Vec<_>) =
        missing.into_iter().partition(|member| seen.contains_key(&member.node));
    let mut findings = Vec::new();
    if !heard.is_empty() {
        findings.push(finding(
            Severity::Warning,
            "heard-not-connected",
            format!("{} answers queries but cannot be connected to.", names(&heard)),
            "Look for a firewall that blocks UDP on either device, and for different versions of Shoal.",
        ));
    }
    if !silent.is_empty() {
        findings.push(finding(
            Severity::Warning,
            "members-missing",
            format!("{} does not answer.", names(&silent)),
            "Check that it is on, that Shoal runs there, and that it is on the same network.",
        ));
    }
    findings
}

fn gateway(facts: &Facts) -> Vec<Finding> {
    if facts.gateway_reachable != Some(false) || local(facts).next().is_none() {
        return Vec::new();
    }
    vec![finding(
        Severity::Warning,
        "gateway-silent",
        "The network's gateway does not answer.",
        "Check the WiFi's signal; switch WiFi off and on. On a network without internet this is normal.",
    )]
}

fn filtered_multicast(facts: &Facts) -> Vec<Finding> {
    let is_filtered = |seen: &InterfaceObservations| {
        let (sent, answered) = total(seen, &GROUP);
        let (_, unicast) = total(seen, &UNICAST);
        let is_heard = GROUP.iter().any(|method| seen.heard.contains_key(method));
        sent >= ENOUGH_QUERIES && answered == 0 && !is_heard && unicast > 0
    };
    let filtered = local(facts).filter(|(_, seen)| is_filtered(seen));
    filtered
        .map(|(name, _)| {
            finding(
                Severity::Note,
                "multicast-filtered",
                format!(
                    "Multicast does not pass on {name}, as on many phones and access points. This is harmless: the others \
                     were found by asking each address."
                ),
                "",
            )
        })
        .collect()
}

fn hotspot(facts: &Facts) -> Vec<Finding> {
    let mut findings = Vec::new();
    let is_hotspot = |(_, kind, seen): &(&str, InterfaceKind, &InterfaceObservations)| {
        let mut nets = seen.addrs.iter().filter_map(|ip| net_of(*ip));
        *kind == InterfaceKind::Hotspot || nets.any(|net| HOTSPOT_NETS.contains(&net))
    };
    if let Some((name, ..)) = outward(facts).find(is_hotspot) {
        findings.push(finding(
            Severity::Note,
            "hotspot",
            format!("{name} is a phone's hotspot. Its devices reach each other; those beyond it may not reach them."),
            "Put all devices on the same hotspot, or all on the same WiFi.",
        ));
    }
    let is_private = |ip: IpAddr| matches!(ip, IpAddr::V4(ip) if ip.is_private());
    let is_far = |ip: IpAddr| is_private(ip) && !local(facts).any(|(_, seen)| is_near(seen, ip));
    let far = facts.observations.members.iter().find(|(_, seen)| is_far(seen.source.ip()));
    if let Some((node, seen)) = far {
        findings.push(finding(
            Severity::Note,
            "through-translation",
            format!(
                "{} is heard from {}, which is in another subnet: an address translation or a router is between.",
                node.short(),
                seen.source.ip()
            ),
            "Nothing, as long as it connects: whichever side can dial does.",
        ));
    }
    findings
}

fn virtual_interfaces(facts: &Facts) -> Vec<Finding> {
    let is_virtual = |kind| matches!(kind, InterfaceKind::Vpn | InterfaceKind::Container);
    let found: Vec<_> =
        outward(facts).filter(|(_, kind, _)| is_virtual(*kind)).map(|(name, ..)| name).collect();
    if found.is_empty() {
        return Vec::new();
    }
    let found = found.join(", ");
    if local(facts).next().is_none() {
        return vec![finding(
            Severity::Warning,
            "only-virtual",
            format!("The only networks in use are of a VPN or of containers: {found}."),
            "Join the WiFi of the other devices, or name the right interface to Shoal.",
        )];
    }
    vec![finding(
        Severity::Note,
        "virtual-interface",
        format!(
            "{found} belongs to a VPN or to containers. Members are not searched for there one by one."
        ),
        "If members cannot connect while a VPN is on, allow local traffic in it, or name the right interface to Shoal.",
    )]
}

fn clock_skew(facts: &Facts) -> Vec<Finding> {
    let skewed = facts.observations.members.iter().filter_map(|(node, seen)| {
        let skew_s = seen.skew_s?;
        let minutes = skew_s.unsigned_abs() / 60;
        let word = if skew_s < 0 { "behind" } else { "ahead of" };
        let name = facts.members.iter().find(|member| member.node == *node);
        let name = name.map_or_else(|| node.short(), |member| member.name.clone());
        Some(finding(
            Severity::Note,
            "clock-skew",
            format!("The clock of {name} is {minutes} minutes {word} this device's."),
            "Set both clocks by the network. Shoal works without, but times in logs and invitations will be wrong.",
        ))
    });
    skewed.collect()
}

fn versions(facts: &Facts) -> Vec<Finding> {
    let mut findings = Vec::new();
    if let Some(version) = facts.observations.other_versions.keys().next() {
        findings.push(finding(
            Severity::Warning,
            "version-mismatch",
            format!("A node nearby speaks version {version} of the discovery packet, which this one does not."),
            "Update Shoal on the older of the two devices.",
        ));
    }
    let other = facts.observations.members.iter().find(|(_, seen)| seen.software != facts.software);
    if let Some((node, seen)) = other {
        findings.push(finding(
            Severity::Note,
            "software-differs",
            format!(
                "{} runs Shoal {}, this device {}.",
                node.short(),
                seen.software,
                facts.software
            ),
            "Update the older one when it suits you.",
        ));
    }
    findings
}

fn other_clusters(facts: &Facts) -> Vec<Finding> {
    let mut findings = Vec::new();
    let n_clusters = facts.observations.other_clusters.len();
    if n_clusters > 0 {
        let plural = if n_clusters == 1 { "Another cluster is" } else { "Other clusters are" };
        findings.push(finding(
            Severity::Note,
            "other-cluster",
            format!("{plural} on this network."),
            "If its devices should work with this one, join with a ticket from `shoal invite` there.",
        ));
    }
    if facts.observations.bad_macs > 0 {
        findings.push(finding(
            Severity::Note,
            "bad-packets",
            format!(
                "{} packets claimed to be of this cluster and were not, or were damaged. They were ignored.",
                facts.observations.bad_macs
            ),
            "",
        ));
    }
    findings
}

/// What is said when nothing is wrong.
pub(super) fn all_well(facts: &Facts) -> Finding {
    let sentence = match facts.members.len() {
        0 => "The network is fine; this cluster has no other member yet.".to_owned(),
        1 => "The network is fine; the other member is connected.".to_owned(),
        n => format!("The network is fine; all {n} other members are connected."),
    };
    let what = if facts.members.is_empty() { "Invite one with `shoal invite`." } else { "" };
    finding(Severity::Ok, "fine", sentence, what)
}
