//! Who belongs to the cluster: inviting, joining, leaving, forgetting.

use std::time::SystemTime;

use shoal_cluster::Event as ClusterEvent;
use shoal_net::{Endpoint, Invitation, Invite, Membership, Ticket, Traffic};
use shoal_proto::{
    NodeId,
    control::{InstanceRecord, Phase, Request},
};
use tracing::info;

use crate::{Error, InviteOptions, Invited, Node, journal::words, node::Inner};

impl Node {
    /// Returns a ticket that admits another device to this node's cluster.
    ///
    /// # Errors
    /// If the node has no network, or the invitation cannot be kept.
    pub fn invite(&self, options: InviteOptions) -> Result<String, Error> {
        self.make_invitation(options).map(|invited| invited.ticket)
    }

    /// Makes a ticket that admits another device to this node's cluster, and says what it is called here.
    ///
    /// # Errors
    /// If the node has no network, or the invitation cannot be kept.
    pub fn make_invitation(&self, options: InviteOptions) -> Result<Invited, Error> {
        let (endpoint, membership) = self.inner().online()?;
        // What ends after the end of time does not end.
        let expires_at = options.valid_for.and_then(|it| SystemTime::now().checked_add(it));
        let invite = Invite { expires_at, single_use: options.single_use };
        let ticket = membership.invite(invite, endpoint.addrs())?;
        self.inner().instruments.journal.note(words::invited(self.id(), options.valid_for));
        Ok(Invited {
            id: ticket.invitation().to_string(),
            ticket: ticket.to_string(),
            expires_at: ticket.expires_at(),
        })
    }

    /// The invitations that this node made, the newest first, with what became of them.
    pub fn invitations(&self) -> Vec<Invitation> {
        let mut invitations =
            self.inner().membership().map(Membership::invitations).unwrap_or_default();
        invitations.reverse();
        invitations
    }

    /// Makes an invitation void. Returns whether it was not before; `None` if this node made none of that name.
    ///
    /// # Errors
    /// If that cannot be kept.
    pub fn revoke_invitation(&self, id: &str) -> Result<Option<bool>, Error> {
        let known = self.invitations().into_iter().find(|it| it.id.to_string() == id);
        let (Some(known), Some(membership)) = (known, self.inner().membership()) else {
            return Ok(None);
        };
        let is_new = membership.withdraw(known.id)?;
        if is_new {
            self.inner().instruments.journal.note(words::invite_revoked(self.id()));
        }
        Ok(Some(is_new))
    }

    /// The bytes between this node and each peer that it has been connected to, since its start.
    pub fn traffic(&self) -> Vec<(NodeId, Traffic)> {
        self.inner().membership().map(Membership::traffic).unwrap_or_default()
    }

    /// Joins another cluster and leaves the present one.
    ///
    /// # Errors
    /// If the ticket is not good, or its node does not answer; the node then stays where it is.
    pub async fn join(&self, ticket: &str) -> Result<(), Error> {
        self.join_by(&ticket.parse().map_err(Error::Ticket)?).await
    }

    pub(crate) async fn join_by(&self, ticket: &Ticket) -> Result<(), Error> {
        let (endpoint, membership) = self.inner().online()?;
        let roll = endpoint.join(ticket).await.map_err(Error::join)?;
        self.inner().peers().tell_all(&Request::Leave).await;
        self.part();
        membership.replace(roll)?;
        // Before anybody of the new cluster can ask for them.
        self.inner().chats().part().await;
        let inner = self.share();
        self.inner()
            .peers()
            .dial(ticket.node(), ticket.addrs(), &inner)
            .await
            .map_err(Error::join)?;
        info!(peer = %ticket.node().short(), "joined");
        Ok(())
    }

    /// Leaves the cluster for good; the node is alone afterwards.
    ///
    /// # Errors
    /// If the node has no network, or the change cannot be kept.
    pub async fn leave(&self) -> Result<(), Error> {
        let (_, membership) = self.inner().online()?;
        self.inner().peers().tell_all(&Request::Leave).await;
        // From here on nobody of the cluster is admitted, who could tell of the others again.
        membership.leave()?;
        self.part();
        self.inner().chats().part().await;
        info!("left the cluster");
        Ok(())
    }

    /// Removes a node from the cluster for good: its key is refused from now on, and all tickets given out before are void.
    ///
    /// # Errors
    /// If the node is unknown or this one.
    pub async fn forget(&self, node: NodeId) -> Result<(), Error> {
        let (_, membership) = self.inner().online()?;
        let is_known = self.inner().peers().read(|state, _| state.record(node).is_some());
        if node == self.id() || !(is_known || membership.is_member(node)) {
            return Err(Error::UnknownNode { node });
        }
        let roll = membership.forget(node)?;
        self.inner().peers().part_from(node, "removed from the cluster");
        self.inner().peers().tell_all(&Request::Roll(roll)).await;
        info!(node = %node.short(), "forgotten");
        Ok(())
    }

    /// Forgets the cluster. Instances that span other nodes are theirs from now on.
    fn part(&self) {
        let me = self.id();
        let spread: Vec<InstanceRecord> = self.inner().peers().read(|state, _| {
            let is_elsewhere = |record: &&InstanceRecord| {
                record.placement.stages.iter().any(|stage| stage.node != me)
            };
            state.instances().filter(is_elsewhere).cloned().collect()
        });
        self.inner().peers().part_from_all("left the cluster");
        for record in spread {
            let dropped = InstanceRecord { phase: Phase::Dropped, ..record };
            if self.inner().peers().apply(ClusterEvent::Instance(dropped)) {
                self.inner().end_outdated();
            }
        }
    }
}

impl Inner {
    /// The network's parts, for what needs them.
    pub(crate) fn online(&self) -> Result<(&Endpoint, &Membership), Error> {
        match (self.endpoint(), self.membership()) {
            (Some(endpoint), Some(membership)) => Ok((endpoint, membership)),
            _ => Err(Error::Offline),
        }
    }
}
