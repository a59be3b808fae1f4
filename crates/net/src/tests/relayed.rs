//! A relay of the user's own.

use std::net::Ipv4Addr;

use iroh_relay::server::{RelayConfig, Server, ServerConfig};

use super::*;
use crate::Relay;

#[tokio::test]
async fn members_meet_over_a_relay_when_they_know_no_address() {
    let mut server = ServerConfig::default();
    server.relay = Some(RelayConfig::new((Ipv4Addr::LOCALHOST, 0)));
    let server = Server::spawn(server).await.unwrap();
    let url = format!("http://{}", server.http_addr().unwrap());
    let relay: Relay = url.parse().unwrap();
    let bind = || async {
        let config = EndpointConfig { relay: Some(relay.clone()), ..config(1, Timing::default()) };
        Endpoint::bind(config).await.unwrap()
    };
    let (a, b) = (bind().await, bind().await);
    let dialled = a.connect(b.id(), &[], Plane::Control).await.unwrap();
    assert_eq!(dialled.peer(), b.id());
    assert_eq!(b.accept().await.unwrap().peer(), a.id());
}

#[tokio::test]
async fn without_a_relay_an_unknown_address_is_an_error() {
    let (a, b) = (member().await, member().await);
    let error = a.connect(b.id(), &[], Plane::Control).await.unwrap_err();
    assert!(matches!(error, Error::NoPeerAddress { .. }), "{error:?}");
}
