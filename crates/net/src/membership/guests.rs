//! The connections of members that stand.

use std::{
    collections::HashMap,
    net::SocketAddr,
    sync::{Mutex, MutexGuard, PoisonError},
};

use iroh::endpoint::{Connection, VarInt, WeakConnectionHandle};
use shoal_proto::{
    NodeId,
    roll::{ClusterId, Roll},
};

use crate::connection::{code, remote_addr};

/// Peers whose bytes are remembered; a home has fewer members.
const TRAFFIC_MAX: usize = 256;

/// Bytes of all connections between this node and a peer since this node's start, with the transport's own.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Traffic {
    /// From this node to the peer.
    pub n_sent: u64,
    /// From the peer to this node.
    pub n_received: u64,
}

/// Every connection whose handshake has succeeded, until it ends.
#[derive(Debug, Default)]
pub(super) struct Guests {
    list: Mutex<Vec<Guest>>,
    traffic: Mutex<HashMap<NodeId, Traffic>>,
}

#[derive(Debug)]
struct Guest {
    peer: NodeId,
    cluster: ClusterId,
    /// Holding the connection itself would keep it open.
    connection: WeakConnectionHandle,
    /// What of its bytes is counted already.
    counted: Traffic,
}

impl Guest {
    fn live(&self) -> Option<Connection> {
        self.connection.upgrade().filter(|connection| connection.close_reason().is_none())
    }
}

impl Guests {
    pub(super) fn add(&self, peer: NodeId, cluster: ClusterId, connection: &Connection) {
        let mut guests = self.lock();
        guests.retain(|guest| guest.live().is_some());
        let (connection, counted) = (connection.weak_handle(), Traffic::default());
        guests.push(Guest { peer, cluster, connection, counted });
    }

    /// The bytes of every peer. What a connection carried between the last look and its end is not in them.
    pub(super) fn traffic(&self) -> Vec<(NodeId, Traffic)> {
        let mut traffic = self.traffic.lock().unwrap_or_else(PoisonError::into_inner);
        for guest in self.lock().iter_mut() {
            let Some(connection) = guest.live() else { continue };
            let stats = connection.stats();
            let now = Traffic { n_sent: stats.udp_tx.bytes, n_received: stats.udp_rx.bytes };
            if traffic.len() >= TRAFFIC_MAX && !traffic.contains_key(&guest.peer) {
                continue;
            }
            let total = traffic.entry(guest.peer).or_default();
            total.n_sent += now.n_sent.saturating_sub(guest.counted.n_sent);
            total.n_received += now.n_received.saturating_sub(guest.counted.n_received);
            guest.counted = now;
        }
        traffic.iter().map(|(node, traffic)| (*node, *traffic)).collect()
    }

    /// Closes the connections of nodes that the roll revokes, and those that were admitted to another cluster.
    pub(super) fn close_unwelcome(&self, roll: &Roll) {
        self.lock().retain(|guest| {
            let Some(connection) = guest.live() else { return false };
            let (code, reason) = if guest.cluster != roll.cluster() {
                (code::GOODBYE, "left the cluster")
            } else if roll.is_revoked(guest.peer) {
                (code::REVOKED, "removed from the cluster")
            } else {
                return true;
            };
            connection.close(VarInt::from_u32(code), reason.as_bytes());
            false
        });
    }

    /// Closes the connections to a peer that go to one address, where it is no longer.
    pub(super) fn close_at(&self, peer: NodeId, addr: SocketAddr) {
        self.lock().retain(|guest| {
            let Some(connection) = guest.live() else { return false };
            if guest.peer != peer || remote_addr(&connection) != Some(addr) {
                return true;
            }
            connection.close(VarInt::from_u32(code::GOODBYE), b"gone");
            false
        });
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Guest>> {
        // The list is valid after every step of its changes.
        self.list.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
