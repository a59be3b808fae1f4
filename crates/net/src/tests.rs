//! Endpoints against each other over loopback.

mod admission;
mod crowd;
mod joining;
mod members;
mod relayed;
mod sockets;
mod strangers;
mod transfers;

use std::{
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use iroh::{EndpointAddr, PublicKey, RelayMode, TransportAddr, endpoint::presets};
use shoal_proto::{
    Epoch, InstanceId, NodeId, SequenceId,
    control::{Request, Vitals},
    frame::{Body, Frame, FrameKey, Step},
    roll::Roll,
};
use tokio::time;

use crate::{
    Connection, Endpoint, EndpointConfig, Error, Identity, Interfaces, Membership, Plane, Timing,
    key_file, membership::roll_of,
};

/// Long enough for two hundred unoptimised TLS handshakes on a busy machine; a test that gets this far has failed.
const PATIENCE: Duration = Duration::from_secs(60);

/// A directory of a test's own, gone when it ends.
pub(crate) struct Directory(PathBuf);

impl Directory {
    pub(crate) fn new() -> Self {
        let name = data_encoding::HEXLOWER.encode(&key_file::random::<16>().unwrap());
        let path = std::env::temp_dir().join(format!("shoal-net-{name}"));
        fs::create_dir(&path).unwrap();
        Self(path)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        fs::remove_dir_all(&self.0).unwrap();
    }
}

fn lo() -> Interfaces {
    Interfaces::Named(vec!["lo".to_owned()])
}

/// A membership that knows nothing but the secret of `cluster`, in generation 1.
fn membership(cluster: u8, id: NodeId) -> Membership {
    let membership = Membership::load_or_create(None, id).unwrap();
    membership.replace(roll(cluster, id)).unwrap();
    membership
}

fn roll(cluster: u8, id: NodeId) -> Roll {
    roll_of([cluster; 32], id)
}

fn config(cluster: u8, timing: Timing) -> EndpointConfig {
    let identity = Identity::generate().unwrap();
    let membership = membership(cluster, identity.id());
    EndpointConfig { identity, membership, interfaces: lo(), relay: None, port: 0, timing }
}

async fn member_with(cluster: u8, timing: Timing) -> Endpoint {
    Endpoint::bind(config(cluster, timing)).await.unwrap()
}

/// An endpoint of cluster 1.
async fn member() -> Endpoint {
    member_with(1, Timing::default()).await
}

async fn soon<T>(future: impl Future<Output = T>) -> T {
    time::timeout(PATIENCE, future).await.expect("soon enough")
}

async fn connect(from: &Endpoint, to: &Endpoint, plane: Plane) -> Result<Connection, Error> {
    soon(from.connect(to.id(), &to.addrs(), plane)).await
}

/// Both ends of a connection, the dialler's first.
async fn pair(from: &Endpoint, to: &Endpoint, plane: Plane) -> (Connection, Connection) {
    let (dialled, accepted) = tokio::join!(connect(from, to, plane), soon(to.accept()));
    (dialled.unwrap(), accepted.unwrap())
}

/// A QUIC endpoint that knows nothing of clusters.
async fn stranger(alpns: &[&str]) -> iroh::Endpoint {
    let alpns = alpns.iter().map(|alpn| alpn.as_bytes().to_vec()).collect();
    let builder = iroh::Endpoint::builder(presets::Minimal)
        .alpns(alpns)
        .relay_mode(RelayMode::Disabled)
        .clear_ip_transports()
        .dns_resolver(iroh::dns::DnsResolver::builder().disable_fallback().build())
        .bind_addr("127.0.0.1:0")
        .unwrap();
    builder.bind().await.unwrap()
}

/// A small request that differs from others by its number.
fn heartbeat(record_version: u64) -> Request {
    let (instances, epoch, vitals) = (0, Epoch::default(), Vitals::default());
    Request::Heartbeat { record_version, instances, epoch, vitals }
}

fn id_of(stranger: &iroh::Endpoint) -> NodeId {
    NodeId(*stranger.id().as_bytes())
}

/// Dials a member without any proof.
async fn intrude(
    stranger: &iroh::Endpoint,
    member: &Endpoint,
    alpn: &str,
) -> Result<iroh::endpoint::Connection, String> {
    let id = PublicKey::from_bytes(&member.id().0).unwrap();
    let addr = EndpointAddr::from_parts(id, member.addrs().into_iter().map(TransportAddr::Ip));
    let dialled = soon(stranger.connect(addr, alpn.as_bytes())).await;
    dialled.map_err(|error| error.to_string())
}

/// A step with recognisable content.
fn step(position: u32, n_tokens: usize, n_embd: usize) -> Frame {
    let key = FrameKey {
        instance: InstanceId(1),
        epoch: Epoch(2),
        sequence: SequenceId(3),
        driver: NodeId([4; 32]),
    };
    let value = |i: usize| (i as f32).sin() + position as f32;
    Frame {
        key,
        body: Body::Step(Step {
            position,
            prefix_hash: u64::from(position),
            last_stage: 0,
            tokens: (0..n_tokens as u32).collect(),
            activations: (0..n_tokens * n_embd).map(value).collect(),
            sampling: None,
            timings: Vec::new(),
        }),
    }
}

fn addr_of(stranger: &iroh::Endpoint) -> Vec<SocketAddr> {
    stranger.bound_sockets()
}
