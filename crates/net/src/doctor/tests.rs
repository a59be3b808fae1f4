//! Each rule against facts that were made for it.

use std::collections::BTreeMap;

use super::*;
use crate::{InterfaceObservations, MemberSeen, Method};

fn wlan() -> InterfaceObservations {
    let sent = [(Method::Multicast, 5), (Method::Broadcast, 5), (Method::Sweep, 253)];
    let answers = [(Method::Multicast, 2)];
    InterfaceObservations {
        addrs: vec!["192.168.1.5".parse().unwrap()],
        sent: sent.into(),
        answers: answers.into(),
        ..InterfaceObservations::default()
    }
}

fn seen(source: &str) -> MemberSeen {
    MemberSeen {
        run: 1,
        source: source.parse().unwrap(),
        software: "0.1.0".to_owned(),
        via: BTreeMap::new(),
        skew_s: None,
    }
}

fn member(is_connected: bool) -> RememberedMember {
    RememberedMember {
        node: NodeId([2; 32]),
        name: "tablet".to_owned(),
        addrs: vec!["192.168.1.7:7000".parse().unwrap()],
        is_connected,
    }
}

/// A healthy phone with one other member.
fn healthy() -> Facts {
    let mut observations = Observations::default();
    observations.interfaces.insert("wlan0".to_owned(), wlan());
    observations.members.insert(NodeId([2; 32]), seen("192.168.1.7:52416"));
    Facts {
        node: NodeId([1; 32]),
        software: "0.1.0".to_owned(),
        observations,
        members: vec![member(true)],
        termux_version: Some("0.118.3".to_owned()),
        target_sdk: Some(28),
        android_api: Some(34),
        gateway_reachable: Some(true),
        http_error: None,
    }
}

fn wlan_of(facts: &mut Facts) -> &mut InterfaceObservations {
    facts.observations.interfaces.get_mut("wlan0").unwrap()
}

/// The findings' codes after this change to healthy facts, the worst first.
#[track_caller]
fn check(change: impl FnOnce(&mut Facts), expected: &[(Severity, &str)]) -> Vec<Finding> {
    let mut facts = healthy();
    change(&mut facts);
    let findings = diagnose(&facts);
    let codes: Vec<_> = findings.iter().map(|found| (found.severity, found.code)).collect();
    assert_eq!(codes, expected, "{findings:#?}");
    findings
}

/// A member was there and nobody answers.
fn silence(facts: &mut Facts) {
    facts.members = vec![member(false)];
    facts.observations.members.clear();
    wlan_of(facts).answers.clear();
    // EHOSTUNREACH, of hosts that a sweep did not find.
    wlan_of(facts).errors.insert((Method::Sweep, 113), 200);
}

#[test]
fn a_healthy_network_is_called_fine() {
    check(|_| {}, &[(Severity::Ok, "fine")]);
    let alone = check(|facts| facts.members.clear(), &[(Severity::Ok, "fine")]);
    assert!(alone[0].what_to_do.contains("shoal invite"));
}

#[test]
fn silence_where_a_member_was_is_client_isolation_if_the_gateway_answers() {
    let found = check(silence, &[(Severity::Problem, "client-isolation")]);
    assert!(found[0].sentence.contains("tablet"), "{found:?}");
    let unsure = |facts: &mut Facts| {
        silence(facts);
        facts.gateway_reachable = None;
    };
    check(unsure, &[(Severity::Warning, "client-isolation")]);
    let off = |facts: &mut Facts| {
        silence(facts);
        facts.gateway_reachable = Some(false);
    };
    check(off, &[(Severity::Warning, "members-missing"), (Severity::Warning, "gateway-silent")]);
}

#[test]
fn a_missing_member_is_no_isolation_if_others_answer_or_it_was_elsewhere() {
    let others_answer = |facts: &mut Facts| {
        silence(facts);
        wlan_of(facts).answers.insert(Method::Sweep, 1);
        wlan_of(facts).answers.insert(Method::Multicast, 1);
    };
    check(others_answer, &[(Severity::Warning, "members-missing")]);
    let elsewhere = |facts: &mut Facts| {
        silence(facts);
        facts.members[0].addrs = vec!["10.9.9.9:7000".parse().unwrap()];
    };
    check(elsewhere, &[(Severity::Warning, "members-missing")]);
    let is_heard = |facts: &mut Facts| facts.members = vec![member(false)];
    check(is_heard, &[(Severity::Warning, "heard-not-connected")]);
}

#[test]
fn multicast_that_never_works_beside_a_sweep_that_does_is_harmless() {
    let filtered = |facts: &mut Facts| wlan_of(facts).answers = [(Method::Sweep, 1)].into();
    let found = check(filtered, &[(Severity::Note, "multicast-filtered"), (Severity::Ok, "fine")]);
    assert!(found[0].sentence.contains("harmless"));
    let heard = |facts: &mut Facts| {
        filtered(facts);
        wlan_of(facts).heard.insert(Method::Broadcast, 1);
    };
    check(heard, &[(Severity::Ok, "fine")]);
}

#[test]
fn a_hotspot_and_an_address_translation_are_noted() {
    let host = |facts: &mut Facts| {
        let ap = InterfaceObservations {
            addrs: vec!["192.168.43.1".parse().unwrap()],
            ..InterfaceObservations::default()
        };
        facts.observations.interfaces.insert("rndis0".to_owned(), ap);
    };
    check(host, &[(Severity::Note, "hotspot"), (Severity::Ok, "fine")]);
    let far = |facts: &mut Facts| {
        facts.observations.members.insert(NodeId([2; 32]), seen("192.168.7.1:52416"));
    };
    check(far, &[(Severity::Note, "through-translation"), (Severity::Ok, "fine")]);
}

#[test]
fn virtual_interfaces_are_noted_and_are_bad_if_there_is_nothing_else() {
    let beside = |facts: &mut Facts| {
        facts.observations.interfaces.insert("tun0".to_owned(), wlan());
    };
    check(beside, &[(Severity::Note, "virtual-interface"), (Severity::Ok, "fine")]);
    let only = |facts: &mut Facts| {
        facts.observations.interfaces = [("docker0".to_owned(), wlan())].into();
        facts.observations.members.clear();
    };
    check(only, &[(Severity::Warning, "only-virtual")]);
}

#[test]
fn a_second_node_of_the_same_id_is_a_problem() {
    let twin = |facts: &mut Facts| {
        facts.observations.twins.insert(9, "192.168.1.8:52416".parse().unwrap());
    };
    let found = check(twin, &[(Severity::Problem, "duplicate-identity")]);
    assert!(found[0].sentence.contains("192.168.1.8"), "{found:?}");
}

#[test]
fn clocks_and_versions_that_differ_are_named() {
    let skew = |facts: &mut Facts| {
        facts.observations.members.get_mut(&NodeId([2; 32])).unwrap().skew_s = Some(-7200);
    };
    let found = check(skew, &[(Severity::Note, "clock-skew"), (Severity::Ok, "fine")]);
    assert!(found[0].sentence.contains("tablet is 120 minutes behind"), "{found:?}");
    let packet = |facts: &mut Facts| {
        facts.observations.other_versions.insert(2, 5);
    };
    check(packet, &[(Severity::Warning, "version-mismatch")]);
    let software = |facts: &mut Facts| facts.software = "0.2.0".to_owned();
    check(software, &[(Severity::Note, "software-differs"), (Severity::Ok, "fine")]);
}

#[test]
fn termux_of_the_play_store_is_told_from_a_firewall() {
    // EPERM is 1 and EACCES is 13 on Linux, Android and macOS.
    for errno in [1, 13] {
        let refused = |facts: &mut Facts| {
            wlan_of(facts).errors.insert((Method::Multicast, errno), 9);
        };
        check(refused, &[(Severity::Problem, "send-refused")]);
        let play = |facts: &mut Facts| {
            refused(facts);
            facts.termux_version = Some("googleplay.2026.06.21".to_owned());
        };
        let found = check(play, &[(Severity::Problem, "lan-permission")]);
        assert!(found[0].what_to_do.contains("F-Droid"));
        let target = |facts: &mut Facts| {
            refused(facts);
            facts.target_sdk = Some(37);
        };
        check(target, &[(Severity::Problem, "lan-permission")]);
    }
}

#[test]
fn no_network_at_all_is_a_problem() {
    let none = |facts: &mut Facts| {
        facts.observations = Observations::default();
        facts.members.clear();
    };
    check(none, &[(Severity::Problem, "no-network")]);
}

#[test]
fn another_cluster_is_noted_with_the_way_to_join_it() {
    let other = |facts: &mut Facts| {
        facts.observations.other_clusters.insert([1; 8], 3);
        facts.observations.bad_macs = 1;
    };
    let expected = [
        (Severity::Note, "other-cluster"),
        (Severity::Note, "bad-packets"),
        (Severity::Ok, "fine"),
    ];
    let found = check(other, &expected);
    assert!(found[0].what_to_do.contains("ticket"));
}

#[test]
#[cfg(target_os = "linux")]
fn ports_that_cannot_be_used_are_named() {
    let udp = |errno| {
        move |facts: &mut Facts| {
            facts.observations.listen_errors.insert("0.0.0.0:52416".parse().unwrap(), errno);
        }
    };
    let found = check(udp(98), &[(Severity::Warning, "port-taken")]);
    assert!(found[0].sentence.contains("52416"));
    check(udp(13), &[(Severity::Warning, "cannot-listen")]);
    let http = |facts: &mut Facts| facts.http_error = Some("in use".to_owned());
    check(http, &[(Severity::Problem, "http")]);
}

#[test]
fn every_check_is_listed_the_worst_first() {
    let states = |change: &dyn Fn(&mut Facts)| {
        let mut facts = healthy();
        change(&mut facts);
        let checks = examine(&facts);
        assert_eq!(checks.len(), rules::ALL.len());
        assert!(checks.is_sorted_by_key(|check| std::cmp::Reverse(check.state)), "{checks:#?}");
        assert!(checks.iter().all(|check| !check.found.is_empty()), "{checks:#?}");
        checks
    };
    let state = |checks: &[Check], id: &str| {
        let check = checks.iter().find(|check| check.id == id).expect("it is listed");
        (check.state, check.found.clone())
    };
    let healthy = states(&|_| {});
    assert!(healthy.iter().all(|check| check.state == CheckState::Ok), "{healthy:#?}");
    let silent = states(&silence);
    assert_eq!(silent[0].id, "client-isolation");
    assert_eq!(silent[0].state, CheckState::Problem);
    assert!(!silent[0].what_to_do.is_empty());
    // Somebody is missing, and the reason is told elsewhere: that is not called good.
    assert_eq!(state(&silent, "members").0, CheckState::Skipped);
    let unknown = states(&|facts| facts.gateway_reachable = None);
    assert_eq!(state(&unknown, "gateway").0, CheckState::Skipped);
    let noted = states(&|facts| {
        facts.observations.interfaces.insert("tun0".to_owned(), wlan());
    });
    let (good, found) = state(&noted, "vpn");
    assert!(good == CheckState::Ok && found.contains("tun0"), "a note does no harm: {found}");
}
