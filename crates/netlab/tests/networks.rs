//! Networks are what they say.
#![cfg(target_os = "linux")]

use std::{
    net::{Ipv4Addr, UdpSocket},
    time::{Duration, Instant},
};

use shoal_netlab::{Host, Segment, isolated};

/// For what must arrive.
const PATIENCE: Duration = Duration::from_secs(20);
/// For what must not: several times what anything here takes.
const SILENCE: Duration = Duration::from_millis(400);
const PORT: u16 = 4000;

/// Has a host with this address answer whatever it is sent at `PORT`.
fn echo(host: &Host, address: &str) {
    let socket = host.run(|| UdpSocket::bind(("0.0.0.0", PORT)).expect("a free port"));
    let group = Ipv4Addr::new(239, 1, 1, 1);
    socket.join_multicast_v4(&group, &address.parse().expect("an address")).expect("a group");
    std::thread::spawn(move || {
        let mut buffer = [0; 64];
        while let Ok((n_bytes, from)) = socket.recv_from(&mut buffer) {
            // A host that is moved away cannot answer; its next question is another.
            let _ = socket.send_to(&buffer[..n_bytes], from);
        }
    });
}

/// How long a question and its answer take, if one comes; asked again while there is patience.
fn ask(host: &Host, to: &str, patience: Duration) -> Option<Duration> {
    let socket = host.run(|| UdpSocket::bind(("0.0.0.0", 0)).expect("a free port"));
    socket.set_broadcast(true).expect("a socket");
    socket.set_read_timeout(Some(Duration::from_millis(200))).expect("a socket");
    let started = Instant::now();
    for i in 0_u32.. {
        let asked = Instant::now();
        // The host may have no route yet: then there is no answer either.
        if socket.send_to(&i.to_be_bytes(), (to, PORT)).is_ok() {
            let mut buffer = [0; 64];
            while let Ok(n_bytes) = socket.recv(&mut buffer) {
                if buffer[..n_bytes] == i.to_be_bytes() {
                    return Some(asked.elapsed());
                }
            }
        }
        if started.elapsed() > patience {
            break;
        }
    }
    None
}

fn pair() -> (Segment, Host, Host) {
    let wifi = Segment::new("wifi").expect("a network");
    let [a, b] = ["a", "b"].map(|name| Host::new(name).expect("a network"));
    a.attach(&wifi, "192.168.1.2/24").expect("a network");
    b.attach(&wifi, "192.168.1.3/24").expect("a network");
    echo(&b, "192.168.1.3");
    (wifi, a, b)
}

#[test]
fn hosts_of_a_segment_reach_each_other() {
    isolated(|| {
        let (wifi, a, _b) = pair();
        assert!(ask(&a, "192.168.1.3", PATIENCE).is_some());
        assert!(ask(&a, "192.168.1.4", SILENCE).is_none(), "nobody has the address");
        assert!(wifi.counters().n_delivered > 0);
    });
}

#[test]
fn a_delay_counts_in_both_directions() {
    isolated(|| {
        let (wifi, a, _b) = pair();
        ask(&a, "192.168.1.3", PATIENCE).unwrap();
        let mut without: Vec<_> =
            (0..200).map(|_| ask(&a, "192.168.1.3", PATIENCE).unwrap()).collect();
        without.sort();
        let delay = Duration::from_millis(5);
        wifi.set_delay(delay);
        let mut with: Vec<_> =
            (0..100).map(|_| ask(&a, "192.168.1.3", PATIENCE).unwrap()).collect();
        with.sort();
        println!(
            "there and back: {:?} without a delay, {:?} with {delay:?}",
            without[100], with[50]
        );
        assert!(with[0] >= 2 * delay, "{:?}", with[0]);
    });
}

#[test]
fn multicast_and_broadcast_can_be_dropped() {
    isolated(|| {
        let (wifi, a, _b) = pair();
        a.ip(&["route", "add", "239.0.0.0/8", "dev", "eth0"]).unwrap();
        assert!(ask(&a, "239.1.1.1", PATIENCE).is_some());
        assert!(ask(&a, "192.168.1.255", PATIENCE).is_some());
        wifi.drop_multicast(true);
        assert!(ask(&a, "239.1.1.1", SILENCE).is_none());
        assert!(ask(&a, "192.168.1.255", PATIENCE).is_some());
        wifi.drop_broadcast(true);
        assert!(ask(&a, "192.168.1.255", SILENCE).is_none());
        let counters = wifi.counters();
        assert!(counters.n_multicast_dropped > 0 && counters.n_broadcast_dropped > 0);
        a.ip(&["neigh", "flush", "all"]).unwrap();
        assert!(ask(&a, "192.168.1.3", PATIENCE).is_some(), "ARP passes");
    });
}

#[test]
fn isolated_clients_reach_only_the_router() {
    isolated(|| {
        let (wifi, a, _b) = pair();
        let router = Host::router("router").unwrap();
        router.attach(&wifi, "192.168.1.1/24").unwrap();
        echo(&router, "192.168.1.1");
        wifi.isolate_clients(true);
        assert!(ask(&a, "192.168.1.3", SILENCE).is_none());
        assert!(ask(&a, "192.168.1.1", PATIENCE).is_some());
        wifi.isolate_clients(false);
        assert!(ask(&a, "192.168.1.3", PATIENCE).is_some());
    });
}

#[test]
fn a_router_joins_two_segments() {
    isolated(|| {
        let [wifi, lan] = ["wifi", "lan"].map(|name| Segment::new(name).unwrap());
        let router = Host::router("router").unwrap();
        router.attach(&wifi, "192.168.1.1/24").unwrap();
        router.attach(&lan, "10.0.0.1/24").unwrap();
        let [a, b] = ["a", "b"].map(|name| Host::new(name).unwrap());
        let eth_a = a.attach(&wifi, "192.168.1.2/24").unwrap();
        let eth_b = b.attach(&lan, "10.0.0.2/24").unwrap();
        echo(&b, "10.0.0.2");
        assert!(ask(&a, "10.0.0.2", SILENCE).is_none(), "no route yet");
        a.set_gateway(&eth_a, "192.168.1.1").unwrap();
        b.set_gateway(&eth_b, "10.0.0.1").unwrap();
        assert!(ask(&a, "10.0.0.2", PATIENCE).is_some());
        a.change_address(&eth_a, "192.168.1.99/24").unwrap();
        assert!(ask(&a, "10.0.0.2", PATIENCE).is_some(), "the gateway is kept");
    });
}

#[test]
fn a_host_changes_its_address_and_its_segment() {
    isolated(|| {
        let (_wifi, a, b) = pair();
        assert!(ask(&a, "192.168.1.3", PATIENCE).is_some());
        b.change_address("eth0", "192.168.1.77/24").unwrap();
        assert!(ask(&a, "192.168.1.77", PATIENCE).is_some());
        assert!(ask(&a, "192.168.1.3", SILENCE).is_none());
        let elsewhere = Segment::new("elsewhere").unwrap();
        b.move_to("eth0", &elsewhere, "192.168.1.77/24").unwrap();
        assert!(ask(&a, "192.168.1.77", SILENCE).is_none());
        a.move_to("eth0", &elsewhere, "192.168.1.5/24").unwrap();
        assert!(ask(&a, "192.168.1.77", PATIENCE).is_some());
    });
}

#[test]
fn a_cut_or_paused_host_is_silent_until_it_is_back() {
    isolated(|| {
        let (wifi, a, b) = pair();
        assert!(ask(&a, "192.168.1.3", PATIENCE).is_some());
        wifi.cut(&b, true);
        assert!(ask(&a, "192.168.1.3", SILENCE).is_none());
        wifi.cut(&b, false);
        assert!(ask(&a, "192.168.1.3", PATIENCE).is_some());
        wifi.pause(true);
        assert!(ask(&a, "192.168.1.3", SILENCE).is_none());
        wifi.pause(false);
        assert!(ask(&a, "192.168.1.3", PATIENCE).is_some());
        wifi.set_loss(100, 1);
        assert!(ask(&a, "192.168.1.3", SILENCE).is_none());
        assert!(wifi.counters().n_lost > 0);
    });
}

#[test]
fn processes_live_inside_their_host() {
    isolated(|| {
        let (_wifi, a, _b) = pair();
        let mut command = std::process::Command::new("ip");
        command.args(["-4", "-o", "addr"]).stdout(std::process::Stdio::piped());
        let mut process = a.spawn(command).unwrap();
        let stdout = process.child().stdout.take().unwrap();
        let shown = std::io::read_to_string(stdout).unwrap();
        assert!(shown.contains("192.168.1.2/24"), "{shown}");
        assert!(!shown.contains("192.168.1.3"), "{shown}");
    });
}
