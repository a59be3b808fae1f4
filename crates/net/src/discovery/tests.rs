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

#[tokio::test]
async fn another_key_is_never_found_and_is_counted() {
    let port = free_port();
    let one = node(1, 1, port, &[[9; 32]]);
    let stranger = node(2, 2, port, &[[8; 32]]);
    until(&one, |seen| !seen.other_clusters.is_empty()).await;
    until(&stranger, |seen| !seen.other_clusters.is_empty()).await;
    assert!(one.observations().members.is_empty());
    assert!(stranger.observations().members.is_empty());
}

#[tokio::test]
async fn a_rotated_key_and_the_one_before_it_are_understood() {
    let port = free_port();
    let ahead = node(1, 1, port, &[[8; 32], [9; 32]]);
    let behind = node(2, 2, port, &[[9; 32]]);
    // Who is ahead answers with the key that it was asked with.
    find(&behind, 1).await;
    find(&ahead, 2).await;
    ahead.set_keys(&[[7; 32]]);
    behind.set_keys(&[[7; 32]]);
    behind.stop().await;
    let new = node(3, 3, port, &[[7; 32]]);
    find(&ahead, 3).await;
    find(&new, 1).await;
}

#[tokio::test]
async fn a_second_node_of_the_same_id_is_noticed() {
    let port = free_port();
    let one = node(1, 1, port, &[[9; 32]]);
    let _two = node(1, 2, port, &[[9; 32]]);
    until(&one, |seen| seen.twins.contains_key(&2)).await;
    assert!(one.observations().members.is_empty());
}

#[tokio::test]
async fn an_answer_to_no_question_is_not_believed() {
    let port = free_port();
    let one = node(1, 1, port, &[[9; 32]]);
    until(&one, |seen| !seen.interfaces.is_empty()).await;
    let answer = packet::Packet {
        kind: packet::Kind::Answer,
        method: Method::Sweep,
        node: NodeId([2; 32]),
        run: 2,
        nonce: [5; packet::NONCE_BYTES],
        unix_s: 0,
        addrs: vec![quic_addr(2)],
        software: String::new(),
    };
    let bytes = answer.encode(&PacketKey::derive(&[9; 32]));
    UdpSocket::bind("127.0.0.1:0").unwrap().send_to(&bytes, ("127.0.0.1", port)).unwrap();
    until(&one, |seen| seen.stale_answers == 1).await;
    assert!(one.observations().members.is_empty());
}

#[tokio::test]
async fn a_flood_of_garbage_changes_nothing_but_counts() {
    let port = free_port();
    let one = node(1, 1, port, &[[9; 32]]);
    until(&one, |seen| !seen.interfaces.is_empty()).await;
    let flood = UdpSocket::bind("127.0.0.1:0").unwrap();
    for n in 0_u32..3000 {
        let bytes = [&b"shdq"[..], &[1, 1, 1], &u64::from(n).to_le_bytes(), &[0; 100]].concat();
        flood.send_to(&bytes, ("127.0.0.1", port)).unwrap();
    }
    until(&one, |seen| seen.other_clusters.len() == 64).await;
    // Whoever comes after the flood is still found.
    let two = node(2, 2, port, &[[9; 32]]);
    find(&one, 2).await;
    find(&two, 1).await;
    assert_eq!(one.observations().other_clusters.len(), 64);
}
