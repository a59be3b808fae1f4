//! Invitations: what this node knows of the tickets that it made.

use std::{
    fmt,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use serde::{Deserialize, Serialize};
use shoal_proto::NodeId;

use crate::{error::TicketRefusal, ticket::InvitationSecret, ticket::unix_seconds};

const ID_CONTEXT: &str = "shoal 2026-11-23 invitation id v1";
/// Invitations that are remembered: what is wrong with an older ticket is not explained any more.
const MAX_INVITATIONS: usize = 64;

/// Names an invitation: a hash of its secret.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct InvitationId(pub [u8; 16]);

impl fmt::Display for InvitationId {
    /// 32 hexadecimal digits.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

pub(crate) fn invitation_id(secret: InvitationSecret) -> InvitationId {
    let hash = blake3::derive_key(ID_CONTEXT, &secret.0);
    InvitationId(std::array::from_fn(|i| hash[i]))
}

/// What an invitation shall allow.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Invite {
    /// When it ends, by this node's clock, in whole seconds; `None` for never.
    pub expires_at: Option<SystemTime>,
    /// Whether it admits one device only.
    pub single_use: bool,
}

/// An invitation that this node made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Invitation {
    /// Its name.
    pub id: InvitationId,
    /// When it was made.
    pub created_at: SystemTime,
    /// When it ends; `None` for never.
    pub expires_at: Option<SystemTime>,
    /// Whether it admits one device only.
    pub single_use: bool,
    /// What became of it.
    pub state: InvitationState,
    /// The devices that joined with it, up to 16.
    pub joined: Vec<NodeId>,
}

/// What became of an invitation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum InvitationState {
    /// A device can join with it.
    Open,
    /// Its device has joined.
    Used,
    /// Its time is over.
    Expired,
    /// It was withdrawn, or somebody was removed from the cluster since.
    Void,
}

/// Devices of one invitation that are remembered.
const MAX_JOINED: usize = 16;

/// The invitations, the oldest first.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Invitations(Vec<Kept>);

/// An invitation as it is kept.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Kept {
    secret: [u8; 16],
    created_s: u64,
    expires_s: Option<u64>,
    single_use: bool,
    is_void: bool,
    joined: Vec<NodeId>,
}

impl fmt::Debug for Kept {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Kept").field("id", &self.id()).finish_non_exhaustive()
    }
}

impl Kept {
    fn id(&self) -> InvitationId {
        invitation_id(InvitationSecret(self.secret))
    }

    fn state(&self, now_s: u64) -> InvitationState {
        if self.is_void {
            InvitationState::Void
        } else if self.single_use && !self.joined.is_empty() {
            InvitationState::Used
        } else if self.expires_s.is_some_and(|at| at <= now_s) {
            InvitationState::Expired
        } else {
            InvitationState::Open
        }
    }
}

impl Invitations {
    pub(super) fn add(
        &mut self,
        secret: [u8; 16],
        invite: &Invite,
        now_s: u64,
    ) -> InvitationSecret {
        while self.0.len() >= MAX_INVITATIONS {
            let is_over = |kept: &Kept| kept.state(now_s) != InvitationState::Open;
            let oldest = self.0.iter().position(is_over).unwrap_or(0);
            self.0.remove(oldest);
        }
        self.0.push(Kept {
            secret,
            created_s: now_s,
            expires_s: invite.expires_at.map(unix_seconds),
            single_use: invite.single_use,
            is_void: false,
            joined: Vec::new(),
        });
        InvitationSecret(secret)
    }

    pub(super) fn list(&self, now_s: u64) -> Vec<Invitation> {
        let time = |seconds| UNIX_EPOCH.checked_add(Duration::from_secs(seconds));
        let invitation = |kept: &Kept| Invitation {
            id: kept.id(),
            created_at: time(kept.created_s).unwrap_or(UNIX_EPOCH),
            expires_at: kept.expires_s.and_then(time),
            single_use: kept.single_use,
            state: kept.state(now_s),
            joined: kept.joined.clone(),
        };
        self.0.iter().map(invitation).collect()
    }

    pub(super) fn secret(&self, id: InvitationId) -> Option<InvitationSecret> {
        self.find(id).map(|at| InvitationSecret(self.0[at].secret))
    }

    /// Ids are hashes of secrets, so how long the search takes says nothing about a secret.
    fn find(&self, id: InvitationId) -> Option<usize> {
        self.0.iter().position(|kept| kept.id() == id)
    }

    /// Uses an invitation for a device, if it allows that.
    pub(super) fn redeem(
        &mut self,
        id: InvitationId,
        joiner: NodeId,
        now_s: u64,
    ) -> Result<(), TicketRefusal> {
        let at = self.find(id).ok_or(TicketRefusal::Unknown)?;
        let kept = &mut self.0[at];
        let is_known = kept.joined.contains(&joiner);
        match kept.state(now_s) {
            InvitationState::Open => {}
            // The answer to its first attempt was lost.
            InvitationState::Used if is_known => {}
            InvitationState::Used => return Err(TicketRefusal::Used),
            InvitationState::Expired => return Err(TicketRefusal::Expired),
            InvitationState::Void => return Err(TicketRefusal::Void),
        }
        if !is_known && kept.joined.len() < MAX_JOINED {
            kept.joined.push(joiner);
        }
        Ok(())
    }

    pub(super) fn withdraw(&mut self, id: InvitationId) -> bool {
        let open = self.find(id).filter(|at| !self.0[*at].is_void);
        if let Some(at) = open {
            self.0[at].is_void = true;
        }
        open.is_some()
    }

    pub(super) fn void_all(&mut self) {
        self.0.iter_mut().for_each(|kept| kept.is_void = true);
    }
}
