//! Proofs: that a peer holds a secret, bound to the connection on which it says so.
//!
//! ```text
//! mac(role) = BLAKE3-keyed(derive(secret), role, alpn, id_i, id_r, nonce_i, nonce_r, exporter)
//! tag       = BLAKE3-keyed(derive'(secret), nonce_i, exporter)[..8]
//! ```
//!
//! - The *exporter* is keying material of this TLS session (RFC 5705), so a proof is worthless on any other connection: it
//!   can be neither replayed nor relayed. The nonces say the same without trust in the exporter.
//! - The *role* keeps a proof from being reflected to its sender.
//! - A *tag* tells whoever holds the same secret which one is meant, and nobody else anything: it differs every time.

use shoal_proto::{NodeId, roll::ClusterSecret};

use crate::{Plane, ticket::InvitationSecret};

const MEMBER_CONTEXT: &str = "shoal 2026-11-23 cluster membership handshake v2";
const TAG_CONTEXT: &str = "shoal 2026-11-23 cluster secret tag v2";
const JOIN_CONTEXT: &str = "shoal 2026-11-23 invitation proof v1";

/// Bytes of a tag: two secrets have the same one once in 2^64 times, and then only the proof fails.
pub(crate) const TAG_BYTES: usize = 8;
/// What a peer knows a secret by on one connection.
pub(crate) type Tag = [u8; TAG_BYTES];

/// A key that proofs are made with, derived so that the secret itself serves no other purpose.
#[derive(Clone)]
pub(crate) struct ProofKey([u8; 32]);

impl ProofKey {
    pub(crate) fn of_invitation(secret: InvitationSecret) -> Self {
        Self(blake3::derive_key(JOIN_CONTEXT, &secret.0))
    }

    /// A key that nobody else has.
    pub(crate) fn from_random(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }
}

/// What is derived from a cluster's secret for the handshake.
#[derive(Clone)]
pub(crate) struct MemberKey {
    pub(crate) secret: ClusterSecret,
    pub(crate) proof: ProofKey,
    tag: [u8; 32],
}

impl MemberKey {
    pub(crate) fn new(secret: &ClusterSecret) -> Self {
        Self {
            secret: *secret,
            proof: ProofKey(blake3::derive_key(MEMBER_CONTEXT, secret.as_bytes())),
            tag: blake3::derive_key(TAG_CONTEXT, secret.as_bytes()),
        }
    }

    pub(crate) fn tag(&self, nonce_initiator: &[u8; 32], exporter: &[u8; 32]) -> Tag {
        let mut hasher = blake3::Hasher::new_keyed(&self.tag);
        let hash = hasher.update(nonce_initiator).update(exporter).finalize();
        std::array::from_fn(|i| hash.as_bytes()[i])
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Role {
    Initiator,
    Responder,
}

/// All that a proof binds besides the role.
#[derive(Clone)]
pub(crate) struct Session {
    pub(crate) plane: Plane,
    pub(crate) initiator: NodeId,
    pub(crate) responder: NodeId,
    pub(crate) nonce_initiator: [u8; 32],
    pub(crate) nonce_responder: [u8; 32],
    pub(crate) exporter: [u8; 32],
}

impl Session {
    pub(crate) fn mac(&self, key: &ProofKey, role: Role) -> blake3::Hash {
        let role: &[u8; 9] = match role {
            Role::Initiator => b"initiator",
            Role::Responder => b"responder",
        };
        let alpn = self.plane.alpn().as_bytes();
        let alpn_bytes = u8::try_from(alpn.len()).expect("the names of the planes are short");
        // Every part has a fixed length or is preceded by it, so no two sessions make the same input.
        blake3::Hasher::new_keyed(&key.0)
            .update(role)
            .update(&[alpn_bytes])
            .update(alpn)
            .update(&self.initiator.0)
            .update(&self.responder.0)
            .update(&self.nonce_initiator)
            .update(&self.nonce_responder)
            .update(&self.exporter)
            .finalize()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    fn session() -> Session {
        Session {
            plane: Plane::Data,
            initiator: NodeId([1; 32]),
            responder: NodeId([2; 32]),
            nonce_initiator: [3; 32],
            nonce_responder: [4; 32],
            exporter: [5; 32],
        }
    }

    fn key(byte: u8) -> MemberKey {
        MemberKey::new(&ClusterSecret::from_bytes([byte; 32]))
    }

    #[test]
    fn a_proof_binds_everything_that_it_names() {
        let invitation = ProofKey::of_invitation(InvitationSecret([6; 16]));
        let changed = |change: fn(&mut Session)| {
            let mut session = session();
            change(&mut session);
            session.mac(&key(6).proof, Role::Initiator)
        };
        let proofs = [
            changed(|_| {}),
            changed(|session| session.plane = Plane::Control),
            changed(|session| session.initiator = NodeId([9; 32])),
            changed(|session| session.responder = NodeId([9; 32])),
            changed(|session| std::mem::swap(&mut session.initiator, &mut session.responder)),
            changed(|session| session.nonce_initiator = [9; 32]),
            changed(|session| session.nonce_responder = [9; 32]),
            changed(|session| session.exporter = [9; 32]),
            session().mac(&key(6).proof, Role::Responder),
            session().mac(&key(9).proof, Role::Initiator),
            session().mac(&invitation, Role::Initiator),
        ];
        let distinct: HashSet<_> = proofs.iter().map(|proof| *proof.as_bytes()).collect();
        assert_eq!(distinct.len(), proofs.len());
    }

    #[test]
    fn a_tag_differs_with_the_secret_the_nonce_and_the_connection() {
        let tags = [
            key(6).tag(&[3; 32], &[5; 32]),
            key(7).tag(&[3; 32], &[5; 32]),
            key(6).tag(&[9; 32], &[5; 32]),
            key(6).tag(&[3; 32], &[9; 32]),
        ];
        assert_eq!(HashSet::from(tags).len(), tags.len());
    }

    #[test]
    fn the_bytes_of_proofs_and_tags_are_frozen() {
        let hex = |bytes: &[u8]| data_encoding::HEXLOWER.encode(bytes);
        let proof = session().mac(&key(6).proof, Role::Responder);
        assert_eq!(
            proof.to_hex().as_str(),
            "18055b37626bd33f4ccfc1975d45c7d52e8e62715ce545a57d7fa0063dbef149"
        );
        let invitation = ProofKey::of_invitation(InvitationSecret([6; 16]));
        let joining = Session { plane: Plane::Join, ..session() }.mac(&invitation, Role::Initiator);
        assert_eq!(
            joining.to_hex().as_str(),
            "b81c3e965c077a9f2fbb771d497ea6855b1f6f60b10919013fbe80dae843b6bc"
        );
        assert_eq!(hex(&key(6).tag(&[3; 32], &[5; 32])), "b3176639bf5834af");
    }
}
