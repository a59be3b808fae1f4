//! The endpoint: a node's sockets, the connections that it dials and those that come in.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use iroh::{
    EndpointAddr, PublicKey, TransportAddr,
    endpoint::{
        BindOpts, ConnectError, ConnectWithOptsError, ConnectingError, ConnectionError,
        IdleTimeout, PortmapperConfig, QuicTransportConfig, TransportErrorCode, VarInt, presets,
    },
};
use shoal_proto::{NodeId, roll::Roll};
use tokio::{
    sync::{Mutex, Notify, mpsc, watch},
    time,
};
use tokio_util::{
    sync::{CancellationToken, DropGuard},
    task::TaskTracker,
};

use crate::{
    Connection, Error, Identity, Interfaces, Membership, Plane, Relay, Ticket,
    accept::{Acceptor, MAX_READY},
    handshake,
    interfaces::{self, InterfaceAddr},
    join, relay,
};

/// Bytes that a stranger may have under way on a connection before it proves its membership.
const STRANGER_WINDOW: u32 = 64 * 1024;
/// Bytes that may be under way on one stream: fills 1 Gbit/s at 16 ms, and holds any control message.
const STREAM_WINDOW: u32 = 2 * 1024 * 1024;
/// Bytes that this side keeps for retransmission per connection.
const SEND_WINDOW: u64 = 16 * 1024 * 1024;
/// The transport's assumption before it has measured, which sets when a lost first packet is sent again: the usual 333 ms
/// are for the internet.
const INITIAL_RTT: Duration = Duration::from_millis(100);
/// Probe time-outs in a row after which a path counts as congested through and through; the usual number is 3 (RFC 9002, 7.6).
const PERSISTENT_CONGESTION: u32 = 12;
/// How long closing waits for the peers to hear the goodbye.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(3);
/// TLS alert 120, `no_application_protocol` (RFC 7301).
const ALERT_NO_APPLICATION_PROTOCOL: u8 = 120;

/// What an endpoint needs.
#[derive(Debug, Clone)]
pub struct EndpointConfig {
    /// This node's key.
    pub identity: Identity,
    /// Whom this node takes for members. It is the same node's.
    pub membership: Membership,
    /// Where to listen.
    pub interfaces: Interfaces,
    /// A relay for peers that cannot be reached otherwise; `None` for none.
    pub relay: Option<Relay>,
    /// UDP port on every address; 0 for any, which may differ between addresses.
    pub port: u16,
    /// How long to wait for what.
    pub timing: Timing,
}

/// How long an endpoint waits. Both sides of a connection should agree; the shorter idle time-out counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timing {
    /// For a peer to answer a dial with its key.
    pub connect: Duration,
    /// For the membership handshake.
    pub handshake: Duration,
    /// Silence after which a connection has ended. Above the 5 s after which the cluster declares a node dead, so that it
    /// decides first: healthy phones stall for 3 s on WiFi.
    pub idle: Duration,
    /// Silence after which this side makes a sound: several fit into `idle`, so that one lost packet ends nothing.
    pub keep_alive: Duration,
    /// For one request, response or frame to pass, once it has begun: far more than any of them needs on a link on which
    /// inference makes sense, so whoever takes longer does not read, or sends drop by drop.
    pub transfer: Duration,
}

impl Default for Timing {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(5),
            handshake: Duration::from_secs(5),
            idle: Duration::from_secs(6),
            keep_alive: Duration::from_secs(1),
            transfer: Duration::from_secs(30),
        }
    }
}

/// A node's end of the network. Clones share it; its sockets close when it is closed or the last clone and the last
/// connection are dropped.
#[derive(Clone)]
pub struct Endpoint {
    inner: Arc<Inner>,
}

struct Inner {
    quic: iroh::Endpoint,
    id: NodeId,
    membership: Membership,
    interfaces: Interfaces,
    relay: Option<Relay>,
    timing: Timing,
    /// Connections past the handshake that nobody has taken yet.
    ready: Mutex<mpsc::Receiver<Connection>>,
    network_changed: Arc<Notify>,
    addr_changes: watch::Receiver<u64>,
    tasks: TaskTracker,
    stop: CancellationToken,
    _stop_on_drop: DropGuard,
}

impl Endpoint {
    /// Binds the sockets and starts to listen.
    ///
    /// # Errors
    /// If an interface is unknown or has no address, or a socket cannot be bound.
    ///
    /// # Panics
    /// If the membership is another node's.
    pub async fn bind(config: EndpointConfig) -> Result<Self, Error> {
        let EndpointConfig { identity, membership, interfaces, relay, port, timing } = config;
        let id = identity.id();
        assert_eq!(membership.id(), id, "an endpoint takes the membership of its own node");
        let quic = bind_quic(&identity, &interfaces, relay.as_ref(), port, timing).await?;
        let stop = CancellationToken::new();
        let tasks = TaskTracker::new();
        let network_changed = Arc::new(Notify::new());
        let (ready_tx, ready) = mpsc::channel(MAX_READY);
        let acceptor = Acceptor::new(quic.clone(), membership.clone(), timing, ready_tx);
        tasks.spawn(acceptor.run(stop.clone()));
        let (changed, addr_changes) = watch::channel(0);
        tasks.spawn(watch_network(
            quic.clone(),
            interfaces.clone(),
            network_changed.clone(),
            changed,
            stop.clone(),
        ));
        tasks.close();
        let inner = Inner {
            quic,
            id,
            membership,
            interfaces,
            relay,
            timing,
            ready: Mutex::new(ready),
            network_changed,
            addr_changes,
            tasks,
            _stop_on_drop: stop.clone().drop_guard(),
            stop,
        };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// This node's id.
    pub fn id(&self) -> NodeId {
        self.inner.id
    }

    /// Where this node can be dialled at this moment.
    ///
    /// Loopback addresses are among them only if there is nothing else.
    pub fn addrs(&self) -> Vec<SocketAddr> {
        let bound = self.inner.quic.bound_sockets();
        let own = self.inner.interfaces.addrs().unwrap_or_else(|error| {
            tracing::warn!(%error, "own addresses are unknown");
            Vec::new()
        });
        dialable(&bound, &own)
    }

    /// Whom this node takes for members.
    pub fn membership(&self) -> &Membership {
        &self.inner.membership
    }

    /// Dials a peer by its key at these addresses, all at once, then proves membership to it and has it prove its own.
    ///
    /// # Errors
    /// If no address answers with the peer's key in time, the peer speaks another version or holds another secret, either
    /// side was removed from the cluster, or the handshake takes too long.
    pub async fn connect(
        &self,
        peer: NodeId,
        addrs: &[SocketAddr],
        plane: Plane,
    ) -> Result<Connection, Error> {
        let Inner { membership, timing, .. } = &*self.inner;
        if plane == Plane::Join {
            return Err(Error::OtherPlane { peer, expected: Plane::Control });
        }
        if membership.is_revoked(peer) {
            return Err(Error::Revoked { peer });
        }
        let quic = self.dial(peer, addrs, plane).await?;
        handshake::initiate(quic, membership, plane, *timing).await
    }

    /// Joins the cluster of the node that made a ticket, and returns that node's roll, with this node on it. It takes effect
    /// with [`Membership::replace`].
    ///
    /// # Errors
    /// If the ticket has expired, no address in it answers in time, or the node that made it refuses it, with its reason.
    pub async fn join(&self, ticket: &Ticket) -> Result<Roll, Error> {
        let Inner { membership, timing, .. } = &*self.inner;
        ticket.check(membership.now())?;
        let quic = self.dial(ticket.node(), ticket.addrs(), Plane::Join).await?;
        join::initiate(&quic, membership, ticket, *timing).await
    }

    async fn dial(
        &self,
        peer: NodeId,
        addrs: &[SocketAddr],
        plane: Plane,
    ) -> Result<iroh::endpoint::Connection, Error> {
        let Inner { quic, id, relay, timing, .. } = &*self.inner;
        if peer == *id {
            return Err(Error::OwnId { node: peer });
        }
        if addrs.is_empty() && relay.is_none() {
            return Err(Error::NoPeerAddress { peer });
        }
        let public =
            PublicKey::from_bytes(&peer.0).map_err(|_| Error::InvalidNodeId { node: peer })?;
        let relays = relay.iter().map(|relay| TransportAddr::Relay(relay.url()));
        let ways = addrs.iter().copied().map(TransportAddr::Ip).chain(relays);
        let to = EndpointAddr::from_parts(public, ways);
        let dial = Box::pin(quic.connect(to, plane.alpn().as_bytes()));
        let dialled = time::timeout(timing.connect, dial).await.map_err(|_| Error::TimedOut {
            peer,
            awaited: "answer to a dial",
            after: timing.connect,
        })?;
        dialled.map_err(|error| connect_error(peer, addrs, plane, error))
    }

    /// Waits for the next connection from a member; `None` once the endpoint is closed.
    ///
    /// Dropping the future loses nothing. Strangers never get this far: their attempts end in the log.
    pub async fn accept(&self) -> Option<Connection> {
        self.inner.ready.lock().await.recv().await
    }

    /// Tells the transport that the network may have changed: it checks its paths and its sockets. Without this call the
    /// endpoint finds out by itself within some seconds.
    pub fn network_changed(&self) {
        self.inner.network_changed.notify_one();
    }

    /// Ticks when [`addrs`](Self::addrs) may have changed; ends with the endpoint.
    pub fn addr_changes(&self) -> watch::Receiver<u64> {
        self.inner.addr_changes.clone()
    }

    /// Ends every connection to a peer that goes to `addr`, where its process has ended: the transport would go on to send new
    /// dials there too.
    pub fn give_up(&self, peer: NodeId, addr: SocketAddr) {
        self.inner.membership.close_at(peer, addr);
    }

    /// Says goodbye to every peer, ends all connections and stops listening.
    pub async fn close(&self) {
        self.inner.stop.cancel();
        if time::timeout(CLOSE_TIMEOUT, self.inner.quic.close()).await.is_err() {
            tracing::debug!("not every peer has heard the goodbye");
        }
        self.inner.tasks.wait().await;
    }
}

impl fmt::Debug for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Endpoint").field("id", &self.id()).finish_non_exhaustive()
    }
}

/// Binds the QUIC endpoint: nothing but direct connections, nothing but the chosen addresses.
async fn bind_quic(
    identity: &Identity,
    interfaces: &Interfaces,
    relay: Option<&Relay>,
    port: u16,
    timing: Timing,
) -> Result<iroh::Endpoint, Error> {
    let addrs = interfaces.addrs()?;
    let sockets = sockets_to_bind(interfaces, &addrs, port);
    let bind_error =
        |source| Error::Bind { addrs: sockets.iter().map(|(addr, _)| *addr).collect(), source };
    let mut builder = iroh::Endpoint::builder(presets::Minimal)
        .secret_key(identity.secret_key().clone())
        .alpns(Plane::ALL.iter().map(|plane| plane.alpn().as_bytes().to_vec()).collect())
        .clear_relay_transports()
        .relay_mode(relay::mode(relay))
        .clear_address_lookup()
        .portmapper_config(PortmapperConfig::Disabled)
        .net_report_config(relay::net_report(relay))
        // Explicit: the default one asks the system, which on Android goes through a JVM that Termux does not have.
        .dns_resolver(relay::resolver(relay))
        .transport_config(transport_config(timing))
        .clear_ip_transports();
    for (addr, options) in &sockets {
        builder = builder
            .bind_addr_with_opts(*addr, options.clone())
            .map_err(|error| bind_error(error.into()))?;
    }
    Box::pin(builder.bind()).await.map_err(|error| bind_error(error.into()))
}

/// The sockets to bind, with the options that route new flows: an address's own subnet first, and for the rest the first
/// address of each family that is not loopback.
fn sockets_to_bind(
    interfaces: &Interfaces,
    addrs: &[InterfaceAddr],
    port: u16,
) -> Vec<(SocketAddr, BindOpts)> {
    if *interfaces == Interfaces::All {
        let v4 = SocketAddr::from((Ipv4Addr::UNSPECIFIED, port));
        let v6 = SocketAddr::from((Ipv6Addr::UNSPECIFIED, port));
        // A kernel without IPv6 is no reason to stay alone.
        return vec![(v4, BindOpts::default()), (v6, BindOpts::default().set_is_required(false))];
    }
    let mut default_v4 = true;
    let mut default_v6 = true;
    let mut sockets: Vec<_> = addrs
        .iter()
        .map(|addr| {
            let default = if addr.ip.is_ipv4() { &mut default_v4 } else { &mut default_v6 };
            let is_default = !addr.ip.is_loopback() && std::mem::take(default);
            let options = BindOpts::default()
                .set_prefix_len(addr.prefix_len)
                .set_is_default_route(is_default)
                .set_is_required(addr.ip.is_ipv4());
            (SocketAddr::new(addr.ip, port), options)
        })
        .collect();
    // The builder takes no more sockets of a family once it has the default one.
    sockets.sort_by_key(|(_, options)| options.is_default_route());
    sockets
}

fn transport_config(timing: Timing) -> QuicTransportConfig {
    let idle = IdleTimeout::try_from(timing.idle).expect("an idle time-out of less than 2^62 ms");
    QuicTransportConfig::builder()
        // What a stranger gets: one stream for the handshake. `Connection::admitted` opens the rest.
        .max_concurrent_bidi_streams(VarInt::from_u32(1))
        .max_concurrent_uni_streams(VarInt::from_u32(0))
        .receive_window(VarInt::from_u32(STRANGER_WINDOW))
        .stream_receive_window(VarInt::from_u32(STREAM_WINDOW))
        .send_window(SEND_WINDOW)
        .datagram_receive_buffer_size(None)
        .initial_rtt(INITIAL_RTT)
        .max_idle_timeout(Some(idle))
        .keep_alive_interval(timing.keep_alive)
        // WiFi stalls for seconds without being congested: falling back to two packets for each round trip would cost every token
        // several of them, and a link that carries a row at a time never grows its window again. (Asking for earlier
        // acknowledgements would help too, but noq 1.4.0 panics on that when no path is left, as while a node roams.)
        .persistent_congestion_threshold(PERSISTENT_CONGESTION)
        // Losing the last path ends the connection, so a path may be silent as long as the connection.
        .default_path_max_idle_timeout(timing.idle)
        .default_path_keep_alive_interval(timing.keep_alive)
        // Large segmented sends fail on several Android devices.
        .enable_segmentation_offload(!cfg!(target_os = "android"))
        .build()
}

/// The addresses that peers can use, those of private IPv4 networks first.
fn dialable(bound: &[SocketAddr], own: &[InterfaceAddr]) -> Vec<SocketAddr> {
    let mut addrs: Vec<SocketAddr> = bound
        .iter()
        .flat_map(|bound| {
            let same_family = move |ip: &IpAddr| ip.is_ipv4() == bound.is_ipv4();
            let expanded = own.iter().map(|addr| addr.ip).filter(same_family);
            let ips: Vec<_> =
                if bound.ip().is_unspecified() { expanded.collect() } else { vec![bound.ip()] };
            ips.into_iter().map(|ip| SocketAddr::new(ip, bound.port()))
        })
        .collect();
    if addrs.iter().any(|addr| !addr.ip().is_loopback()) {
        addrs.retain(|addr| !addr.ip().is_loopback());
    }
    addrs.sort_by_key(|addr| match addr.ip() {
        IpAddr::V4(ip) if ip.is_private() => 0,
        IpAddr::V4(_) => 1,
        IpAddr::V6(_) => 2,
    });
    addrs
}

/// Compares the interfaces' addresses now and then, and tells the transport when they have changed or the node says so.
async fn watch_network(
    quic: iroh::Endpoint,
    interfaces: Interfaces,
    network_changed: Arc<Notify>,
    addr_changes: watch::Sender<u64>,
    stop: CancellationToken,
) {
    let mut poll = time::interval(interfaces::POLL);
    poll.set_missed_tick_behavior(time::MissedTickBehavior::Delay);
    let mut known = interfaces.addrs().ok();
    loop {
        tokio::select! {
            biased;
            () = stop.cancelled() => return,
            () = network_changed.notified() => {}
            _ = poll.tick() => {
                let now = interfaces.addrs().ok();
                if now == known {
                    continue;
                }
                known = now;
                match &interfaces {
                    Interfaces::All => tracing::info!("network interfaces have changed"),
                    Interfaces::Named(names) => tracing::warn!(
                        ?names,
                        "addresses of the chosen interfaces have changed: restart to listen on new ones"
                    ),
                }
            }
        }
        // Before the transport, which may take seconds: whoever dials anew need not wait for it.
        addr_changes.send_modify(|version| *version += 1);
        tokio::select! {
            biased;
            () = stop.cancelled() => return,
            () = quic.network_change() => {}
        }
    }
}

fn connect_error(peer: NodeId, addrs: &[SocketAddr], plane: Plane, error: ConnectError) -> Error {
    let ended = match &error {
        ConnectError::Connection { source, .. }
        | ConnectError::Connecting {
            source: ConnectingError::ConnectionError { source, .. },
            ..
        } => Some(source),
        ConnectError::Connect { source: ConnectWithOptsError::EndpointClosed { .. }, .. } => {
            return Error::EndpointClosed;
        }
        _ => None,
    };
    let refused = TransportErrorCode::crypto(ALERT_NO_APPLICATION_PROTOCOL);
    match ended {
        Some(ConnectionError::ConnectionClosed(close)) if close.error_code == refused => {
            Error::OtherProtocol { peer, plane }
        }
        Some(ConnectionError::LocallyClosed) => Error::EndpointClosed,
        _ => Error::Unreachable { peer, addrs: addrs.to_vec(), source: error.into() },
    }
}
