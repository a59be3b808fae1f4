//! The sockets of discovery, rebuilt when the interfaces change.
//!
//! - An *asker* per address: bound to it with a port of the system's choice, so that answers come back by unicast to the
//!   one process that asked, whatever filters multicast. It multicasts through its interface only.
//! - A *listener* per family on the fixed port, shared with other nodes on the machine and joined to the group on every
//!   chosen interface. It hears multicast and broadcast like all that share the port; of unicast each packet reaches only
//!   one of them.
//!
//! Invariant: nothing is sent through an interface that was not chosen, and nothing is heard from beyond the subnets of
//! chosen ones unless all are chosen.

use std::{
    collections::BTreeMap,
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6},
    sync::Arc,
    time::Duration,
};

use socket2::{Domain, InterfaceIndexOrAddress, Protocol, Socket, Type};
use tokio::{net::UdpSocket, sync::mpsc, time};
use tokio_util::{
    sync::{CancellationToken, DropGuard},
    task::TaskTracker,
};

use super::{
    observations::{Observations, count},
    packet::{MAX_BYTES, Method},
};
use crate::interfaces::{Interface, InterfaceAddr, InterfaceKind, Interfaces};

/// Of the IPv4 local scope (RFC 2365), which routers do not forward.
const GROUP_V4: Ipv4Addr = Ipv4Addr::new(239, 255, 83, 72);
/// Transient, link-local scope (RFC 4291).
const GROUP_V6: Ipv6Addr = Ipv6Addr::new(0xff12, 0, 0, 0, 0, 0, 0x5348, 0x4c31);
/// Addresses of one family that get a socket on one interface, and interfaces that do: a machine full of containers must
/// not run out of files.
const MAX_ADDRS_PER_INTERFACE: usize = 4;
const MAX_INTERFACES: usize = 16;
/// Ways out tried for a host in no subnet of ours.
const MAX_ROUTES: usize = 4;
/// After a socket failed to receive: it will again, and a loop would burn the battery.
const RECEIVE_PAUSE: Duration = Duration::from_millis(200);

/// A packet that came.
#[derive(Debug)]
pub(crate) struct Datagram {
    /// One byte more than the bound if it was longer.
    pub(crate) bytes: Vec<u8>,
    pub(crate) source: SocketAddr,
    /// Where it came, and from where it is answered.
    pub(crate) socket: Arc<UdpSocket>,
}

/// A socket that asks through one address.
#[derive(Debug)]
pub(crate) struct Asker {
    pub(crate) interface: String,
    addr: InterfaceAddr,
    /// Where a round goes.
    pub(crate) targets: Vec<(Method, SocketAddr)>,
    pub(crate) socket: Arc<UdpSocket>,
}

/// All sockets.
#[derive(Debug)]
pub(crate) struct Sockets {
    chosen: Interfaces,
    port: u16,
    inbox: mpsc::Sender<Datagram>,
    tasks: TaskTracker,
    pub(crate) interfaces: Vec<Interface>,
    pub(crate) askers: Vec<Asker>,
    /// By address; those that could be bound.
    listeners: BTreeMap<SocketAddr, DropGuard>,
    /// Ends the askers' readers.
    readers: DropGuard,
}

impl Sockets {
    pub(crate) fn new(
        chosen: Interfaces,
        port: u16,
        inbox: mpsc::Sender<Datagram>,
        tasks: TaskTracker,
    ) -> Self {
        Self {
            chosen,
            port,
            inbox,
            tasks,
            interfaces: Vec::new(),
            askers: Vec::new(),
            listeners: BTreeMap::new(),
            readers: CancellationToken::new().drop_guard(),
        }
    }

    /// Lists the interfaces again, rebuilds the sockets if they have changed, and tries again what failed. Returns whether
    /// they have changed.
    pub(crate) fn refresh(&mut self, observations: &mut Observations) -> bool {
        let mut interfaces = self.chosen.chosen().unwrap_or_else(|error| {
            tracing::debug!(%error, "interfaces are unknown");
            Vec::new()
        });
        interfaces.retain(|interface| !interface.addrs.is_empty());
        interfaces.truncate(MAX_INTERFACES);
        let has_changed = interfaces != self.interfaces;
        if has_changed {
            self.interfaces = interfaces;
            observations.set_interfaces(&self.interfaces);
            self.listeners.clear();
            self.open_askers(observations);
        }
        self.open_listeners(observations);
        has_changed
    }

    /// Whether a packet from this address came through a chosen interface, as far as that can be told.
    pub(crate) fn is_from_chosen(&self, source: SocketAddr) -> bool {
        self.chosen == Interfaces::All || self.interface_of(source).is_some()
    }

    /// The interface on whose subnets an address lies.
    pub(crate) fn interface_of(&self, addr: SocketAddr) -> Option<&str> {
        let scope = match addr {
            SocketAddr::V6(addr) if addr.scope_id() != 0 => Some(addr.scope_id()),
            _ => None,
        };
        let is_there = |interface: &&Interface| match scope {
            Some(scope) => interface.index == scope,
            None => interface.addrs.iter().any(|own| own.is_neighbour(addr.ip())),
        };
        self.interfaces.iter().find(is_there).map(|interface| interface.name.as_str())
    }

    /// The askers that reach a host: the one in its subnet, or else those that may have a router, if the host may be far.
    pub(crate) fn ways_to(&self, ip: IpAddr, may_be_far: bool) -> Vec<&Asker> {
        let near = self.askers.iter().find(|asker| asker.addr.is_neighbour(ip));
        if let Some(near) = near {
            return vec![near];
        }
        let is_scoped = matches!(ip, IpAddr::V6(ip) if ip.is_unicast_link_local());
        if !may_be_far || ip.is_loopback() || is_scoped {
            return Vec::new();
        }
        let may_route = |asker: &&Asker| {
            asker.addr.ip.is_ipv4() == ip.is_ipv4() && !asker.addr.ip.is_loopback()
        };
        self.askers.iter().filter(may_route).take(MAX_ROUTES).collect()
    }

    fn open_askers(&mut self, observations: &mut Observations) {
        let readers = CancellationToken::new();
        self.askers.clear();
        for interface in &self.interfaces {
            let mut has_group_v6 = false;
            for addr in addrs_that_ask(interface) {
                let opened = open_asker(interface, addr);
                let opened = opened.and_then(|socket| UdpSocket::from_std(socket.into()));
                let socket = match opened {
                    Ok(socket) => Arc::new(socket),
                    Err(error) => {
                        tracing::debug!(interface = interface.name, %error, "cannot ask from here");
                        if let Some(seen) = observations.interface(&interface.name) {
                            count(&mut seen.errors, (Method::Hint, errno(&error)));
                        }
                        continue;
                    }
                };
                let mut targets = targets(interface, addr, self.port);
                if addr.ip.is_ipv6() && std::mem::replace(&mut has_group_v6, true) {
                    targets.clear();
                }
                let read = read(socket.clone(), self.inbox.clone(), readers.clone());
                self.tasks.spawn(read);
                self.askers.push(Asker {
                    interface: interface.name.clone(),
                    addr,
                    targets,
                    socket,
                });
            }
        }
        // The old guard ends the readers of the sockets that were replaced.
        self.readers = readers.drop_guard();
    }

    fn open_listeners(&mut self, observations: &mut Observations) {
        let addrs: [IpAddr; 2] = [Ipv4Addr::UNSPECIFIED.into(), Ipv6Addr::UNSPECIFIED.into()];
        for addr in addrs.map(|ip| SocketAddr::new(ip, self.port)) {
            let of_family =
                |interface: &&Interface| interface.addrs.iter().any(|own| same_family(own, addr));
            let interfaces: Vec<_> = self.interfaces.iter().filter(of_family).collect();
            if self.listeners.contains_key(&addr) || interfaces.is_empty() {
                continue;
            }
            let opened = open_listener(addr, &interfaces, observations);
            match opened.and_then(|socket| UdpSocket::from_std(socket.into())) {
                Ok(socket) => {
                    let stop = CancellationToken::new();
                    let read = read(Arc::new(socket), self.inbox.clone(), stop.clone());
                    self.tasks.spawn(read);
                    self.listeners.insert(addr, stop.drop_guard());
                    observations.listen_errors.remove(&addr);
                }
                Err(error) => {
                    if observations.listen_errors.insert(addr, errno(&error)).is_none() {
                        tracing::warn!(%addr, %error, "cannot listen for queries");
                    }
                }
            }
        }
    }
}

/// The system's number of an error; 0 if it has none.
pub(crate) fn errno(error: &io::Error) -> i32 {
    error.raw_os_error().unwrap_or(0)
}

fn same_family(own: &InterfaceAddr, addr: SocketAddr) -> bool {
    own.ip.is_ipv4() == addr.is_ipv4()
}

/// The addresses of an interface that get a socket: IPv4 ones, then the link-local IPv6 one, from which the group is
/// asked, and another one, from which far hosts are.
fn addrs_that_ask(interface: &Interface) -> Vec<InterfaceAddr> {
    let is_link_local = |ip: &IpAddr| matches!(ip, IpAddr::V6(ip) if ip.is_unicast_link_local());
    let v4 = interface.addrs.iter().filter(|addr| addr.ip.is_ipv4()).take(MAX_ADDRS_PER_INTERFACE);
    let v6 = || interface.addrs.iter().filter(|addr| addr.ip.is_ipv6());
    let local_v6 = v6().find(|addr| is_link_local(&addr.ip));
    let wide_v6 = v6().find(|addr| !is_link_local(&addr.ip));
    v4.chain(local_v6).chain(wide_v6).copied().collect()
}

/// Where a round goes from an address: nowhere on the mobile network, where nobody listens and every packet costs.
fn targets(interface: &Interface, addr: InterfaceAddr, port: u16) -> Vec<(Method, SocketAddr)> {
    if InterfaceKind::guess(&interface.name) == InterfaceKind::Cellular {
        return Vec::new();
    }
    match addr.ip {
        IpAddr::V4(ip) => {
            let mut targets = vec![(Method::Multicast, SocketAddr::from((GROUP_V4, port)))];
            if (1..=30).contains(&addr.prefix_len) {
                let hosts = u32::MAX >> addr.prefix_len;
                let all = Ipv4Addr::from_bits(ip.to_bits() | hosts);
                targets.push((Method::Broadcast, SocketAddr::from((all, port))));
            }
            targets
        }
        IpAddr::V6(_) => {
            let group = SocketAddrV6::new(GROUP_V6, port, 0, interface.index);
            vec![(Method::Multicast, group.into())]
        }
    }
}

fn open_asker(interface: &Interface, addr: InterfaceAddr) -> io::Result<Socket> {
    let socket =
        Socket::new(Domain::for_address((addr.ip, 0).into()), Type::DGRAM, Some(Protocol::UDP))?;
    socket.set_nonblocking(true)?;
    let bound: SocketAddr = match addr.ip {
        IpAddr::V4(ip) => {
            socket.set_broadcast(true)?;
            socket.set_multicast_if_v4(&ip)?;
            (ip, 0).into()
        }
        IpAddr::V6(ip) => {
            socket.set_only_v6(true)?;
            socket.set_multicast_if_v6(interface.index)?;
            let scope = if ip.is_unicast_link_local() { interface.index } else { 0 };
            SocketAddrV6::new(ip, 0, 0, scope).into()
        }
    };
    socket.bind(&bound.into())?;
    Ok(socket)
}

fn open_listener(
    addr: SocketAddr,
    interfaces: &[&Interface],
    observations: &mut Observations,
) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(addr), Type::DGRAM, Some(Protocol::UDP))?;
    socket.set_nonblocking(true)?;
    socket.set_reuse_address(true)?;
    #[cfg(unix)]
    socket.set_reuse_port(true)?;
    if addr.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    // Or groups that another process has joined on other interfaces would be heard too.
    #[cfg(target_os = "linux")]
    if addr.is_ipv4() {
        socket.set_multicast_all_v4(false)
    } else {
        socket.set_multicast_all_v6(false)
    }?;
    socket.bind(&addr.into())?;
    for interface in interfaces {
        let joined = if addr.is_ipv4() {
            let index = InterfaceIndexOrAddress::Index(interface.index);
            socket.join_multicast_v4_n(&GROUP_V4, &index)
        } else {
            socket.join_multicast_v6(&GROUP_V6, interface.index)
        };
        if let Err(error) = joined {
            tracing::debug!(interface = interface.name, %error, "cannot join the group");
            if let Some(seen) = observations.interface(&interface.name) {
                count(&mut seen.errors, (Method::Multicast, errno(&error)));
            }
        }
    }
    Ok(socket)
}

/// Passes packets on until told to stop. While nobody takes them, the kernel drops what does not fit.
async fn read(socket: Arc<UdpSocket>, inbox: mpsc::Sender<Datagram>, stop: CancellationToken) {
    let mut buffer = [0; MAX_BYTES + 1];
    let receive = async {
        loop {
            let (len, source) = match socket.recv_from(&mut buffer).await {
                Ok(received) => received,
                Err(error) => {
                    tracing::debug!(%error, "cannot receive");
                    time::sleep(RECEIVE_PAUSE).await;
                    continue;
                }
            };
            let bytes = buffer[..len].to_vec();
            if inbox.send(Datagram { bytes, source, socket: socket.clone() }).await.is_err() {
                return;
            }
        }
    };
    stop.run_until_cancelled(receive).await;
}
