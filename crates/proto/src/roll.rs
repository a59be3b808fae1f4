//! The roll: what the members of a cluster know of who belongs to it, and of the secret that proves it.
//!
//! Every member keeps one and merges in those of the others. [`Roll::merge`] is commutative, associative and idempotent, so
//! that all of them come to the same roll in whatever order they meet:
//!
//! - A *generation* has one secret. The highest generation is the current one; of two secrets of one generation, which two
//!   halves of a divided cluster may have drawn at once, the bytewise greater one. The next [`MAX_PREVIOUS`] secrets in
//!   that order are kept, so that a member that slept through a change is still known.
//! - Of each node the highest generation that admitted it and the highest that revoked it are kept. It is a member if it
//!   was admitted in the revoking generation or after it: a revocation always begins a new generation, so whoever is
//!   admitted in it came later.
//! - Both lists are bounded; entries of the highest generations stay. A revocation is forgotten only after
//!   [`MAX_NODES`] later ones, when nobody keeps a secret that the revoked node ever held.

use std::{collections::BTreeMap, fmt};

use serde::{Deserialize, Serialize};

use crate::NodeId;

/// Secrets before the current one that a roll keeps.
pub const MAX_PREVIOUS: usize = 4;
/// Nodes that a roll lists as admitted, and as many as revoked: far more than a home has devices.
pub const MAX_NODES: usize = 256;
/// The last generation. Nobody gets there by himself; a member that claims more is not believed.
pub const MAX_GENERATION: u64 = 1 << 48;

/// The secret that all nodes of a cluster share. Its `Debug` output hides it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct ClusterSecret([u8; 32]);

impl ClusterSecret {
    /// Takes 32 random bytes as a secret.
    pub fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The bytes, to derive keys from.
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl fmt::Debug for ClusterSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ClusterSecret(..)")
    }
}

/// Names a cluster for as long as it lives, so that the rolls of two clusters are never mixed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct ClusterId(pub [u8; 16]);

/// A node and a generation that admitted or revoked it.
pub type Entry = (NodeId, u64);

/// Who belongs to a cluster, and its secrets.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Parts")]
pub struct Roll {
    cluster: ClusterId,
    /// Generation and secret, strictly descending: the current one first.
    secrets: Vec<(u64, ClusterSecret)>,
    /// Ascending by node.
    admitted: Vec<Entry>,
    /// Ascending by node.
    revoked: Vec<Entry>,
}

/// A roll as it comes over the wire, before it is checked: the fields of [`Roll`] in their order.
#[derive(Deserialize)]
struct Parts {
    cluster: ClusterId,
    secrets: Vec<(u64, ClusterSecret)>,
    admitted: Vec<Entry>,
    revoked: Vec<Entry>,
}

/// A roll that makes no sense.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum RollError {
    /// No secret, too many, or not in order.
    #[error("roll: expected 1 to {} secrets in descending order", 1 + MAX_PREVIOUS)]
    Secrets,
    /// A list is too long, or not in order.
    #[error("roll: expected at most {MAX_NODES} nodes in ascending order")]
    Nodes,
    /// A generation that cannot be.
    #[error("roll: expected a generation of at most {max}, got {got}")]
    Generation {
        /// The highest that can be there.
        max: u64,
        /// What came.
        got: u64,
    },
}

impl Roll {
    /// The roll of a new cluster: generation 1, one member.
    pub fn new(cluster: ClusterId, secret: ClusterSecret, first: NodeId) -> Self {
        Self {
            cluster,
            secrets: vec![(1, secret)],
            admitted: vec![(first, 1)],
            revoked: Vec::new(),
        }
    }

    /// The cluster's name.
    pub fn cluster(&self) -> ClusterId {
        self.cluster
    }

    /// The current generation.
    pub fn generation(&self) -> u64 {
        self.current().0
    }

    /// The secret of the current generation.
    pub fn secret(&self) -> &ClusterSecret {
        &self.current().1
    }

    fn current(&self) -> &(u64, ClusterSecret) {
        self.secrets.first().expect("a roll has at least one secret")
    }

    /// The current secret and then the previous ones.
    pub fn secrets(&self) -> impl Iterator<Item = &ClusterSecret> {
        self.secrets.iter().map(|(_, secret)| secret)
    }

    /// The nodes that were ever admitted and the generation in which that happened last, ascending by node.
    pub fn admitted(&self) -> &[Entry] {
        &self.admitted
    }

    /// The nodes that were ever revoked and the generation that did it last, ascending by node.
    pub fn revoked(&self) -> &[Entry] {
        &self.revoked
    }

    /// The nodes that belong to the cluster, ascending.
    pub fn members(&self) -> impl Iterator<Item = NodeId> {
        self.admitted.iter().map(|(node, _)| *node).filter(|node| !self.is_revoked(*node))
    }

    /// Whether a node was admitted and not revoked since.
    pub fn is_member(&self, node: NodeId) -> bool {
        generation_of(&self.admitted, node).is_some() && !self.is_revoked(node)
    }

    /// Whether a node was revoked and not admitted since. A node of which nothing is known is neither revoked nor a member.
    pub fn is_revoked(&self, node: NodeId) -> bool {
        let admitted = generation_of(&self.admitted, node);
        // `None`, never admitted, is less than any generation.
        generation_of(&self.revoked, node).is_some_and(|revoked| admitted < Some(revoked))
    }

    /// Admits a node in the current generation. Returns whether that changed anything.
    pub fn admit(&mut self, node: NodeId) -> bool {
        let entry = [(node, self.generation())];
        let admitted = strongest(&self.admitted, &entry, MAX_NODES);
        let changed = admitted != self.admitted;
        self.admitted = admitted;
        changed
    }

    /// Begins a generation with a new secret, which revokes `node`.
    ///
    /// # Errors
    /// If this was the last generation.
    pub fn revoke(&mut self, node: NodeId, secret: ClusterSecret) -> Result<(), RollError> {
        let generation = self.generation() + 1;
        if generation > MAX_GENERATION {
            return Err(RollError::Generation { max: MAX_GENERATION, got: generation });
        }
        self.secrets.insert(0, (generation, secret));
        self.secrets.truncate(1 + MAX_PREVIOUS);
        self.revoked = strongest(&self.revoked, &[(node, generation)], MAX_NODES);
        Ok(())
    }

    /// Takes in what another member knows. Returns whether anything was new. The roll of another cluster changes nothing.
    pub fn merge(&mut self, other: &Self) -> bool {
        if self.cluster != other.cluster {
            return false;
        }
        let mut secrets = [&self.secrets[..], &other.secrets].concat();
        secrets.sort_unstable_by(|a, b| b.cmp(a));
        secrets.dedup();
        secrets.truncate(1 + MAX_PREVIOUS);
        let merged = Self {
            cluster: self.cluster,
            secrets,
            admitted: strongest(&self.admitted, &other.admitted, MAX_NODES),
            revoked: strongest(&self.revoked, &other.revoked, MAX_NODES),
        };
        let changed = merged != *self;
        *self = merged;
        changed
    }
}

fn generation_of(entries: &[Entry], node: NodeId) -> Option<u64> {
    let at = entries.binary_search_by_key(&node, |(node, _)| *node).ok()?;
    Some(entries[at].1)
}

/// The highest generation of every node, of the `max` nodes that are greatest by generation and then by id; ascending by
/// node. What is dropped here would be dropped again after any later merge, so the order of merges does not matter.
fn strongest(a: &[Entry], b: &[Entry], max: usize) -> Vec<Entry> {
    let mut of_node = BTreeMap::new();
    for &(node, generation) in a.iter().chain(b) {
        let highest = of_node.entry(node).or_insert(generation);
        *highest = generation.max(*highest);
    }
    let mut entries: Vec<Entry> = of_node.into_iter().collect();
    if entries.len() > max {
        entries.sort_unstable_by_key(|&(node, generation)| std::cmp::Reverse((generation, node)));
        entries.truncate(max);
        entries.sort_unstable();
    }
    entries
}

impl TryFrom<Parts> for Roll {
    type Error = RollError;

    fn try_from(parts: Parts) -> Result<Self, RollError> {
        let Parts { cluster, secrets, admitted, revoked } = parts;
        let generation = secrets.first().ok_or(RollError::Secrets)?.0;
        if secrets.len() > 1 + MAX_PREVIOUS || !secrets.is_sorted_by(|a, b| a > b) {
            return Err(RollError::Secrets);
        }
        if generation > MAX_GENERATION {
            return Err(RollError::Generation { max: MAX_GENERATION, got: generation });
        }
        for entries in [&admitted, &revoked] {
            if entries.len() > MAX_NODES || !entries.is_sorted_by(|a, b| a.0 < b.0) {
                return Err(RollError::Nodes);
            }
            // Nobody can be admitted so that no later generation revokes him.
            if let Some((_, got)) = entries.iter().find(|(_, of_node)| *of_node > generation) {
                return Err(RollError::Generation { max: generation, got: *got });
            }
        }
        Ok(Self { cluster, secrets, admitted, revoked })
    }
}

#[cfg(test)]
mod tests;
