//! Clusters over routers and slow links, joined by tickets.

use std::time::Duration;

use shoal_netlab::{Host, Segment, isolated};

use crate::node::{Node, attach};

#[test]
fn a_ticket_joins_nodes_of_two_subnets() {
    isolated(|| {
        let [wifi, lan] = ["wifi", "lan"].map(|name| Segment::new(name).unwrap());
        let router = Host::router("router").unwrap();
        router.attach(&wifi, "192.168.1.1/24").unwrap();
        router.attach(&lan, "10.0.0.1/24").unwrap();
        let hosts = ["a", "b", "c"].map(|name| Host::new(name).unwrap());
        for (host, segment, address, gateway) in [
            (&hosts[0], &wifi, "192.168.1.2/24", "192.168.1.1"),
            (&hosts[1], &lan, "10.0.0.2/24", "10.0.0.1"),
            (&hosts[2], &lan, "10.0.0.3/24", "10.0.0.1"),
        ] {
            let interface = host.attach(segment, address).unwrap();
            host.set_gateway(&interface, gateway).unwrap();
        }
        let nodes = Node::cluster(&hosts);
        let one = nodes[0].answers();
        nodes[0].place(3);
        assert_eq!(nodes[0].answers(), one);
    });
}

/// Answers over two and three nodes, with this much delay in each direction, are those of one node.
#[track_caller]
fn check_delay(delay: Duration) {
    let wifi = Segment::new("wifi").expect("a network");
    let hosts = ["a", "b", "c"].map(|name| Host::new(name).expect("a network"));
    attach(&hosts, &wifi, "10.0.0", 1);
    wifi.set_delay(delay);
    let nodes = Node::cluster(&hosts);
    let one = nodes[0].answers();
    for n_nodes in [2, 3] {
        nodes[0].place(n_nodes);
        let n_before = wifi.counters().n_delivered;
        assert_eq!(nodes[0].answers(), one, "over {n_nodes} nodes");
        // A token crosses the segment once per node at least.
        assert!(wifi.counters().n_delivered > n_before + 48, "the network was used");
    }
}

#[test]
fn a_delay_of_2500_us_changes_no_byte() {
    isolated(|| check_delay(Duration::from_micros(2500)));
}

#[test]
fn a_delay_of_3350_us_changes_no_byte() {
    isolated(|| check_delay(Duration::from_micros(3350)));
}

#[test]
fn loss_changes_no_byte() {
    isolated(|| {
        let wifi = Segment::new("wifi").unwrap();
        let hosts = ["a", "b"].map(|name| Host::new(name).unwrap());
        attach(&hosts, &wifi, "10.0.0", 1);
        let nodes = Node::cluster(&hosts);
        let one = nodes[0].answers();
        nodes[0].place(2);
        wifi.set_loss(5, 1);
        assert_eq!(nodes[0].answers(), one);
        assert!(wifi.counters().n_lost > 0);
    });
}
