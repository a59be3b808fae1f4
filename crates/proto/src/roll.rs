//! Who belongs to a cluster, as its members tell each other. It holds the cluster's secret: it travels only between members
//! that have proved themselves, and to a device whose invitation was checked.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::NodeId;

/// What a member knows of the membership. Rolls of two members are merged by rules that give the same result in any order.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Roll {
    /// How often the secret was changed, from 1.
    pub generation: u64,
    /// The cluster's secret of this generation.
    pub secret: [u8; 32],
    /// The devices that were admitted, each with the generation at which it was.
    pub members: Vec<(NodeId, u64)>,
    /// The devices that were removed, each with the generation that began with its removal. One that was admitted at that
    /// generation or later belongs again.
    pub revoked: Vec<(NodeId, u64)>,
}

impl fmt::Debug for Roll {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Roll")
            .field("generation", &self.generation)
            .field("secret", &"..")
            .field("members", &self.members)
            .field("revoked", &self.revoked)
            .finish()
    }
}
