//! Nodes of one cluster find each other without a ticket, wherever they are next time.

use std::time::Instant;

use shoal_netlab::{Host, Segment, isolated};
use tempfile::TempDir;

use crate::node::{Node, attach};

const NAMES: [&str; 5] = ["a", "b", "c", "d", "e"];

/// Five devices that were one cluster once, on another network; all that they remember of each other's addresses is wrong now.
fn devices_of_one_cluster() -> [TempDir; 5] {
    let dirs = NAMES.map(|_| tempfile::tempdir().expect("a temporary directory"));
    let old = Segment::new("old").expect("a network");
    let hosts = NAMES.map(|name| Host::new(name).expect("a network"));
    attach(&hosts, &old, "10.9.9", 10);
    let mut nodes = vec![Node::start_in(&hosts[0], dirs[0].path(), &[])];
    for (host, dir) in hosts.iter().zip(&dirs).skip(1) {
        let ticket = nodes[0].ticket();
        nodes.push(Node::start_in(host, dir.path(), &["--join", &ticket]));
    }
    for node in &nodes {
        node.wait_for_alive(NAMES.len());
    }
    for node in &mut nodes {
        node.kill();
    }
    dirs
}

/// Starts the devices on a new network; each must see all. Prints how long that took.
#[track_caller]
#[expect(clippy::print_stderr, reason = "times are shown, and never asserted")]
fn check_they_meet(what: &str, prepare: impl FnOnce(&Segment)) {
    let dirs = devices_of_one_cluster();
    let wifi = Segment::new("wifi").expect("a network");
    prepare(&wifi);
    let hosts = NAMES.map(|name| Host::new(name).expect("a network"));
    // Spread over the subnet, so that whoever looks around has to look far.
    for (i, host) in hosts.iter().enumerate() {
        host.attach(&wifi, &format!("192.168.1.{}/24", 20 + 47 * i)).expect("a network");
    }
    let started = Instant::now();
    let start = |(host, dir): (_, &TempDir)| Node::start_in(host, dir.path(), &[]);
    let nodes: Vec<_> = hosts.iter().zip(&dirs).map(start).collect();
    let ready = started.elapsed();
    for node in &nodes {
        node.wait_for_alive(NAMES.len());
    }
    let (all, counters) = (started.elapsed(), wifi.counters());
    eprintln!("{what}: all five see all after {all:?}, the last one started after {ready:?}");
    eprintln!("{counters:?}");
}

#[test]
fn five_nodes_find_each_other_by_multicast() {
    isolated(|| check_they_meet("multicast", |_| {}));
}

#[test]
fn five_nodes_find_each_other_where_multicast_and_broadcast_are_dropped() {
    isolated(|| {
        check_they_meet("sweep", |wifi| {
            wifi.drop_multicast(true);
            wifi.drop_broadcast(true);
        });
    });
}
