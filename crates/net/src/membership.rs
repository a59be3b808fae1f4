//! Membership: which cluster this node belongs to, who else does, and whom it has invited.
//!
//! It holds the [`Roll`] and this node's invitations, keeps both in a file, and knows the connections of members that
//! stand, so that it can end those of a node at the moment at which the node is removed.
//!
//! What protects what:
//! - The **roll** travels between members only, on connections whose handshake proved membership.
//! - An **invitation** stays with the node that made it. Its secret proves nothing but that a ticket was seen. It dies when
//!   it expires, is used up, or when anybody is removed from the cluster: whoever is removed may have seen it.
//! - **Forgetting** a node begins a generation with a new secret. A member that has not heard of it yet still takes the
//!   forgotten one in; it learns with the roll of the first member that it meets.
//! - A member is trusted: it can invite and remove whomever it wants, and claim any generation. Whoever stole a member's
//!   secret is one, too, until that member is forgotten; keys that he has entered must be forgotten as well.

use std::{
    fmt,
    net::SocketAddr,
    path::Path,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::SystemTime,
};

use shoal_proto::{
    NodeId,
    roll::{ClusterId, ClusterSecret, Roll},
};
use tokio::sync::watch;

use crate::{
    Error, Ticket,
    error::TicketRefusal,
    key_file,
    proof::{MemberKey, ProofKey},
    ticket::unix_seconds,
};

mod file;
mod guests;
mod invitations;

use file::MembershipFile;
use guests::Guests;
pub use guests::Traffic;
use invitations::Invitations;
pub(crate) use invitations::invitation_id;
pub use invitations::{Invitation, InvitationId, InvitationState, Invite};

const CLUSTER_CONTEXT: &str = "shoal 2026-11-23 name of the cluster that began with this secret";
const DISCOVERY_CONTEXT: &str = "shoal 2026-11-23 discovery key of a cluster";

/// Where the time comes from.
pub(crate) type Clock = Arc<dyn Fn() -> SystemTime + Send + Sync>;

/// This node's membership of a cluster. Clones share it.
///
/// The methods that change it write its file before they return, which takes as long as the disk does.
#[derive(Clone)]
pub struct Membership {
    inner: Arc<Inner>,
}

struct Inner {
    id: NodeId,
    clock: Clock,
    file: Option<MembershipFile>,
    state: Mutex<State>,
    guests: Guests,
    changed: watch::Sender<u64>,
}

/// What is kept.
#[derive(Debug, Clone)]
struct State {
    roll: Roll,
    invitations: Invitations,
}

/// What a peer that has proved a secret of the cluster is to this node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Standing {
    Member,
    /// It proved an old secret, and is not on the roll.
    Unknown,
    Revoked,
}

impl Membership {
    /// Reads the membership of node `id` from a file of mode 0600, or begins a cluster of one and writes it there. The file
    /// `cluster-secret` beside it, which version 0.1 kept, is taken over and removed. Without a path nothing is kept.
    ///
    /// # Errors
    /// If the file is damaged, or cannot be read or written; a damaged file is left as it is.
    pub fn load_or_create(path: Option<&Path>, id: NodeId) -> Result<Self, Error> {
        Self::open(path, id, Arc::new(SystemTime::now))
    }

    pub(crate) fn open(path: Option<&Path>, id: NodeId, clock: Clock) -> Result<Self, Error> {
        let file = path.map(MembershipFile::new);
        let loaded = file.as_ref().map(MembershipFile::load).transpose()?.flatten();
        let (mut state, is_new) = match loaded {
            Some(state) => (state, false),
            None => {
                let inherited = file.as_ref().map(MembershipFile::load_v1).transpose()?.flatten();
                let secret = inherited.map_or_else(key_file::random, Ok)?;
                (State::first(id, secret), true)
            }
        };
        // The identity may be newer than the membership: the owner removed it to make this a device of its own.
        let is_new = is_new
            || (!state.roll.is_revoked(id) && !state.roll.is_member(id) && state.roll.admit(id));
        let inner = Inner {
            id,
            clock,
            file,
            state: Mutex::new(state),
            guests: Guests::default(),
            changed: watch::Sender::new(0),
        };
        let membership = Self { inner: Arc::new(inner) };
        if is_new {
            membership.save()?;
        }
        if let Some(file) = &membership.inner.file {
            file.remove_v1();
        }
        Ok(membership)
    }

    /// This node.
    pub fn id(&self) -> NodeId {
        self.inner.id
    }

    /// What this node knows of the cluster, to tell other members.
    pub fn roll(&self) -> Roll {
        self.state().roll.clone()
    }

    /// Whether a node belongs to the cluster.
    pub fn is_member(&self, node: NodeId) -> bool {
        self.state().roll.is_member(node)
    }

    /// Whether a node was removed from the cluster and not admitted since.
    pub fn is_revoked(&self, node: NodeId) -> bool {
        self.state().roll.is_revoked(node)
    }

    /// Ticks with every change of the roll or of the invitations.
    pub fn subscribe(&self) -> watch::Receiver<u64> {
        self.inner.changed.subscribe()
    }

    /// Keys to recognise other members by in discovery packets: of the current secret first, then of the previous ones.
    pub fn discovery_keys(&self) -> Vec<[u8; 32]> {
        let derive =
            |secret: &ClusterSecret| blake3::derive_key(DISCOVERY_CONTEXT, secret.as_bytes());
        self.state().roll.secrets().map(derive).collect()
    }

    /// Takes in the roll of another member, and ends the connections of nodes that it says were removed. Returns whether
    /// anything was new; the roll of another cluster changes nothing. A file that cannot be written is only logged: the
    /// roll will come again.
    pub fn merge(&self, roll: &Roll) -> bool {
        let changed = {
            let mut state = self.state();
            let before = (*state.roll.secret(), state.roll.revoked().to_vec());
            let changed = state.roll.merge(roll);
            if before.0 != *state.roll.secret() || before.1 != state.roll.revoked() {
                state.invitations.void_all();
            }
            changed
        };
        if changed {
            self.after_change();
            self.save_or_warn();
        }
        changed
    }

    /// Leaves the cluster for the one whose roll this is: what follows a [join](crate::Endpoint::join). Ends all connections
    /// to members of the old one.
    ///
    /// # Errors
    /// If this node is not on the roll, or the file cannot be written.
    pub fn replace(&self, roll: Roll) -> Result<(), Error> {
        if !roll.is_member(self.inner.id) {
            return Err(Error::NotOnRoll { node: self.inner.id });
        }
        {
            let mut state = self.state();
            state.invitations.void_all();
            state.roll = roll;
        }
        self.after_change();
        self.save()
    }

    /// Leaves the cluster for a new one of this node alone, and ends all connections to members. The others keep this node
    /// on their roll until one of them [forgets](Self::forget) it.
    ///
    /// # Errors
    /// If the system has no randomness, or the file cannot be written.
    pub fn leave(&self) -> Result<(), Error> {
        let alone = State::first(self.inner.id, key_file::random()?);
        *self.state() = alone;
        self.after_change();
        self.save()
    }

    /// Removes a node from the cluster: begins a generation with a new secret, voids all invitations and ends the node's
    /// connections. Returns the roll that other members must hear of. A node that is not known can be removed as well.
    ///
    /// # Errors
    /// If the node is this one, the system has no randomness, or the file cannot be written; in the last case the node is
    /// removed, but would be back after a restart.
    pub fn forget(&self, node: NodeId) -> Result<Roll, Error> {
        if node == self.inner.id {
            return Err(Error::ForgetsItself { node });
        }
        let secret = ClusterSecret::from_bytes(key_file::random()?);
        let roll = {
            let mut state = self.state();
            state.roll.revoke(node, secret).map_err(|source| Error::Roll { source })?;
            state.invitations.void_all();
            state.roll.clone()
        };
        self.after_change();
        self.save()?;
        Ok(roll)
    }

    /// Makes a ticket for a device that shall join through this node at `addrs`.
    ///
    /// # Errors
    /// If the system has no randomness, or the file cannot be written.
    pub fn invite(&self, invite: Invite, addrs: Vec<SocketAddr>) -> Result<Ticket, Error> {
        let now_s = self.now_s();
        let random = key_file::random()?;
        let secret = self.state().invitations.add(random, &invite, now_s);
        self.inner.changed.send_modify(|version| *version += 1);
        self.save()?;
        let expires_s = invite.expires_at.map(unix_seconds);
        Ok(Ticket::new(self.inner.id, secret, invite.single_use, expires_s, addrs))
    }

    /// The invitations that this node made, the oldest first, with what became of them.
    pub fn invitations(&self) -> Vec<Invitation> {
        self.state().invitations.list(self.now_s())
    }

    /// Voids an invitation. Returns whether it was open.
    ///
    /// # Errors
    /// If the file cannot be written; the invitation is void, but would be open after a restart.
    pub fn withdraw(&self, id: InvitationId) -> Result<bool, Error> {
        let withdrawn = self.state().invitations.withdraw(id);
        if withdrawn {
            self.inner.changed.send_modify(|version| *version += 1);
            self.save()?;
        }
        Ok(withdrawn)
    }

    /// The bytes between this node and each peer that it has been connected to.
    pub fn traffic(&self) -> Vec<(NodeId, Traffic)> {
        self.inner.guests.traffic()
    }

    pub(crate) fn now(&self) -> SystemTime {
        (self.inner.clock)()
    }

    fn now_s(&self) -> u64 {
        unix_seconds(self.now())
    }

    /// The keys of the secrets that this node holds, of the current one first.
    pub(crate) fn keys(&self) -> Vec<MemberKey> {
        self.state().roll.secrets().map(MemberKey::new).collect()
    }

    pub(crate) fn invitation_key(&self, id: InvitationId) -> Option<ProofKey> {
        self.state().invitations.secret(id).map(ProofKey::of_invitation)
    }

    /// Uses an invitation whose proof was right: enters the joiner on the roll, and returns it once that is on disk.
    pub(crate) async fn redeem(
        &self,
        id: InvitationId,
        joiner: NodeId,
    ) -> Result<Roll, TicketRefusal> {
        let now_s = self.now_s();
        let roll = {
            let mut state = self.state();
            state.invitations.redeem(id, joiner, now_s)?;
            state.roll.admit(joiner);
            state.roll.clone()
        };
        self.after_change();
        let saved = self.save_elsewhere().await;
        if let Err(error) = saved {
            tracing::error!(%error, "a device cannot join: membership is not kept");
            return Err(TicketRefusal::NotKept);
        }
        tracing::info!(node = %joiner.short(), "device admitted with a ticket");
        // A roll that is full of later members has no room for this one.
        if roll.is_member(joiner) { Ok(roll) } else { Err(TicketRefusal::Full) }
    }

    /// Judges a peer that proved `secret`. A member's connection is known from here on, and ends if the member is removed.
    pub(crate) async fn enter(
        &self,
        peer: NodeId,
        secret: &ClusterSecret,
        quic: &iroh::endpoint::Connection,
    ) -> Standing {
        let (standing, is_new, cluster) = {
            let mut state = self.state();
            let cluster = state.roll.cluster();
            if state.roll.is_revoked(peer) {
                (Standing::Revoked, false, cluster)
            } else if state.roll.is_member(peer) && state.roll.secrets().any(|it| it == secret) {
                (Standing::Member, false, cluster)
            } else if state.roll.secret() == secret {
                let is_new = state.roll.admit(peer);
                (Standing::Member, is_new, cluster)
            } else {
                (Standing::Unknown, false, cluster)
            }
        };
        if standing != Standing::Member {
            return standing;
        }
        self.inner.guests.add(peer, cluster, quic);
        // Whoever removed the peer before it was on the list has not seen it there.
        self.close_unwelcome();
        if is_new {
            self.after_change();
            if let Err(error) = self.save_elsewhere().await {
                tracing::warn!(%error, "membership is not kept");
            }
        }
        standing
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Every change is made by calls that complete or leave the state as it was.
        self.inner.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn after_change(&self) {
        self.close_unwelcome();
        self.inner.changed.send_modify(|version| *version += 1);
    }

    /// Ends the connections of revoked nodes, and those of another cluster's.
    fn close_unwelcome(&self) {
        let roll = self.roll();
        self.inner.guests.close_unwelcome(&roll);
    }

    /// Ends the connections of a peer that go to one address.
    pub(crate) fn close_at(&self, peer: NodeId, addr: SocketAddr) {
        self.inner.guests.close_at(peer, addr);
    }

    fn save(&self) -> Result<(), Error> {
        match &self.inner.file {
            Some(file) => file.save(|| self.state().clone()),
            None => Ok(()),
        }
    }

    fn save_or_warn(&self) {
        if let Err(error) = self.save() {
            tracing::warn!(%error, "membership is not kept");
        }
    }

    /// Saves without holding up the other tasks of the runtime.
    async fn save_elsewhere(&self) -> Result<(), Error> {
        if self.inner.file.is_none() {
            return Ok(());
        }
        let membership = self.clone();
        let saved = tokio::task::spawn_blocking(move || membership.save()).await;
        saved.unwrap_or_else(|error| Err(Error::Save { source: error.into() }))
    }
}

impl State {
    /// A cluster of one. Its name follows from its first secret, so that nodes that both held the secret of version 0.1
    /// come to the same name.
    fn first(id: NodeId, secret: [u8; 32]) -> Self {
        let name = blake3::derive_key(CLUSTER_CONTEXT, &secret);
        let cluster = ClusterId(std::array::from_fn(|i| name[i]));
        let roll = Roll::new(cluster, ClusterSecret::from_bytes(secret), id);
        Self { roll, invitations: Invitations::default() }
    }
}

/// The roll of the cluster that began with `secret`, with one member.
#[cfg(test)]
pub(crate) fn roll_of(secret: [u8; 32], member: NodeId) -> Roll {
    State::first(member, secret).roll
}

impl fmt::Debug for Membership {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Membership")
            .field("id", &self.inner.id)
            .field("roll", &self.roll())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
