//! The connections of members that stand.

use std::{
    net::SocketAddr,
    sync::{Mutex, MutexGuard, PoisonError},
};

use iroh::endpoint::{Connection, VarInt, WeakConnectionHandle};
use shoal_proto::{
    NodeId,
    roll::{ClusterId, Roll},
};

use crate::connection::{code, remote_addr};

/// Every connection whose handshake has succeeded, until it ends.
#[derive(Debug, Default)]
pub(super) struct Guests(Mutex<Vec<Guest>>);

#[derive(Debug)]
struct Guest {
    peer: NodeId,
    cluster: ClusterId,
    /// Holding the connection itself would keep it open.
    connection: WeakConnectionHandle,
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
        guests.push(Guest { peer, cluster, connection: connection.weak_handle() });
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
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
