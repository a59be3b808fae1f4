//! Instances of discovery against each other, on loopback only.

use std::{net::UdpSocket, time::Duration};

use tokio::time;

use super::*;

/// Much longer than the schedule needs; a test that gets this far has failed.
const PATIENCE: Duration = Duration::from_secs(60);

/// A port that nobody uses at the moment. The instances of a test share it.
fn free_port() -> u16 {
    UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

fn quic_addr(node: u8) -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 7000 + u16::from(node)))
}

/// An instance that looks, with these keys.
fn node(node: u8, run: u64, port: u16, keys: &[[u8; 32]]) -> Discovery {
    let discovery = Discovery::start(DiscoveryConfig {
        id: NodeId([node; 32]),
        run,
        interfaces: Interfaces::Named(vec!["lo".to_owned()]),
        port,
        software: "0.1.0-test".to_owned(),
    });
    let discovery = discovery.unwrap();
    discovery.set_keys(keys);
    discovery.set_addrs(vec![quic_addr(node)]);
    discovery.set_looking(Looking::Yes { hints: Vec::new() });
    discovery
}

/// Takes what `by` finds until it is this node.
async fn find(by: &Discovery, node: u8) -> Found {
    let search = async {
        loop {
            let found = by.next().await.expect("it runs");
            if found.node == NodeId([node; 32]) {
                return found;
            }
        }
    };
    time::timeout(PATIENCE, search).await.unwrap_or_else(|_| panic!("{:#?}", by.observations()))
}

/// Waits until the observations are so.
async fn until(of: &Discovery, is_so: impl Fn(&Observations) -> bool) {
    let wait = async {
        while !is_so(&of.observations()) {
            time::sleep(Duration::from_millis(10)).await;
        }
    };
    time::timeout(PATIENCE, wait).await.unwrap_or_else(|_| panic!("{:#?}", of.observations()));
}

#[tokio::test]
async fn two_nodes_find_each_other() {
    let port = free_port();
    let one = node(1, 11, port, &[[9; 32]]);
    let two = node(2, 22, port, &[[9; 32]]);
    let found = find(&one, 2).await;
    let software = "0.1.0-test".to_owned();
    let expected = Found { node: NodeId([2; 32]), run: 22, addrs: vec![quic_addr(2)], software };
    assert_eq!(found, expected);
    assert_eq!(find(&two, 1).await.run, 11);
    one.stop().await;
    two.stop().await;
    while one.next().await.is_some() {}
}

#[tokio::test]
async fn one_who_looks_and_two_who_only_answer_find_each_other() {
    let port = free_port();
    let silent = [node(1, 1, port, &[[9; 32]]), node(2, 2, port, &[[9; 32]])];
    for silent in &silent {
        silent.set_looking(Looking::No);
        until(silent, |seen| !seen.interfaces.is_empty()).await;
    }
    let three = node(3, 3, port, &[[9; 32]]);
    for silent in &silent {
        find(silent, 3).await;
    }
    let mut found = vec![find(&three, 1).await.node];
    if !three.observations().members.contains_key(&NodeId([2; 32])) {
        found.push(find(&three, 2).await.node);
    }
}
