//! Which sockets an endpoint opens.

use std::{collections::HashSet, fs};

use super::*;

/// Local addresses, in the kernel's hexadecimal, of this process's sockets in `/proc/self/net/{table}`.
fn own_sockets(table: &str) -> Vec<String> {
    let own: HashSet<String> = fs::read_dir("/proc/self/fd")
        .unwrap()
        .filter_map(|entry| fs::read_link(entry.ok()?.path()).ok())
        .filter_map(|link| {
            Some(link.to_str()?.strip_prefix("socket:[")?.strip_suffix(']')?.to_owned())
        })
        .collect();
    let text = fs::read_to_string(format!("/proc/self/net/{table}")).unwrap_or_default();
    text.lines()
        .skip(1)
        .map(|line| line.split_whitespace().collect::<Vec<_>>())
        .filter(|columns| own.contains(columns[9]))
        .map(|columns| columns[1].to_owned())
        .collect()
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn an_endpoint_on_loopback_has_no_socket_anywhere_else() {
    let (a, b) = (member().await, member().await);
    let (_dialled, _accepted) = pair(&a, &b, Plane::Control).await;
    let (udp, udp6) = (own_sockets("udp"), own_sockets("udp6"));
    for endpoint in [&a, &b] {
        for addr in endpoint.addrs() {
            let port = format!(":{:04X}", addr.port());
            let table = if addr.is_ipv4() { &udp } else { &udp6 };
            assert!(table.iter().any(|socket| socket.ends_with(&port)), "{addr} in {table:?}");
        }
    }
    for socket in udp.iter().chain(&own_sockets("tcp")) {
        assert!(socket.starts_with("0100007F:"), "{socket}");
    }
    for socket in udp6.iter().chain(&own_sockets("tcp6")) {
        assert!(socket.starts_with("00000000000000000000000001000000:"), "{socket}");
    }
}

#[tokio::test]
async fn an_endpoint_is_dialled_at_each_of_its_addresses() {
    let (a, b) = (member().await, member().await);
    assert!(b.addrs().iter().any(SocketAddr::is_ipv4), "{:?}", b.addrs());
    for addr in b.addrs() {
        assert!(addr.ip().is_loopback() && addr.port() != 0, "{addr}");
        let connection = soon(a.connect(b.id(), &[addr], Plane::Control)).await;
        connection.unwrap_or_else(|error| panic!("{addr}: {error}"));
    }
}

#[tokio::test]
async fn an_interface_that_does_not_exist_is_refused() {
    let interfaces = Interfaces::Named(vec!["nope0".to_owned()]);
    let config = EndpointConfig { interfaces, ..config(1, Timing::default()) };
    let error = Endpoint::bind(config).await.unwrap_err();
    assert!(matches!(error, Error::UnknownInterface { .. }), "{error:?}");
}

#[tokio::test]
async fn a_port_in_use_is_named() {
    let a = member().await;
    let port = a.addrs().iter().find(|addr| addr.is_ipv4()).unwrap().port();
    let config = EndpointConfig { port, ..config(1, Timing::default()) };
    let error = Endpoint::bind(config).await.unwrap_err();
    assert!(matches!(error, Error::Bind { .. }), "{error:?}");
    assert!(error.to_string().contains(&port.to_string()), "{error}");
}

#[tokio::test]
async fn a_reported_network_change_ends_nothing() {
    let (a, b) = (member().await, member().await);
    let (dialled, accepted) = pair(&a, &b, Plane::Data).await;
    let mut sender = dialled.frame_sender().await.unwrap();
    let mut receiver = accepted.frame_receiver().unwrap();
    for n in 0..5 {
        a.network_changed();
        b.network_changed();
        soon(sender.send(&step(n, 8, 64))).await.unwrap();
        assert_eq!(soon(receiver.recv()).await.unwrap(), Some(step(n, 8, 64)));
    }
    assert_eq!(dialled.close_reason(), None);
}
