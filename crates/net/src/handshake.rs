//! The membership handshake: both sides prove that they hold the cluster's secret, on the first stream of a connection.
//!
//! TLS has already proved both public keys. The dialler opens the stream:
//!
//! ```text
//! initiator → responder   version, nonce_i                   1 + 32 bytes
//! responder → initiator   version, nonce_r                   1 + 32 bytes
//! initiator → responder   mac(initiator)                     32 bytes
//! responder → initiator   mac(responder)                     32 bytes
//! mac(role) = BLAKE3-keyed(derive(secret), role, alpn, id_i, id_r, nonce_i, nonce_r, exporter)
//! ```
//!
//! - The *exporter* is keying material of this TLS session (RFC 5705), so a proof is worthless on any other connection: it
//!   can be neither replayed nor relayed. The nonces say the same without trust in the exporter.
//! - The *role* keeps a proof from being reflected to its sender.
//! - The responder proves nothing until the initiator has: a stranger who dials learns nothing that depends on the secret.
//! - Messages have fixed sizes, so nothing is parsed; proofs are compared in constant time.

use iroh::endpoint::{ReadExactError, RecvStream, SendStream, VarInt, WriteError};
use shoal_proto::NodeId;
use tokio::time;

use crate::{
    ClusterSecret, Connection, Error, Plane, Timing,
    connection::{self, code},
    key_file,
};

const VERSION: u8 = 1;
const KEY_CONTEXT: &str = "shoal 2026-11-22 cluster membership handshake v1";
const EXPORTER_LABEL: &[u8] = b"EXPORTER-shoal-membership-v1";

/// The key that proofs are made with, derived so that the secret itself serves no other purpose.
#[derive(Clone)]
pub(crate) struct MembershipKey([u8; 32]);

impl MembershipKey {
    pub(crate) fn new(secret: &ClusterSecret) -> Self {
        Self(blake3::derive_key(KEY_CONTEXT, secret.as_bytes()))
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Role {
    Initiator,
    Responder,
}

/// All that a proof binds besides the role.
#[derive(Clone)]
struct Session {
    plane: Plane,
    initiator: NodeId,
    responder: NodeId,
    nonce_initiator: [u8; 32],
    nonce_responder: [u8; 32],
    exporter: [u8; 32],
}

impl Session {
    fn mac(&self, key: &MembershipKey, role: Role) -> blake3::Hash {
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

/// Proves membership to the node that was dialled, then checks its proof.
pub(crate) async fn initiate(
    quic: iroh::endpoint::Connection,
    me: NodeId,
    key: &MembershipKey,
    plane: Plane,
    timing: Timing,
) -> Result<Connection, Error> {
    bounded(quic, me, key, plane, timing, Role::Initiator).await
}

/// Checks the proof of the node that dialled, then proves membership to it.
pub(crate) async fn respond(
    quic: iroh::endpoint::Connection,
    me: NodeId,
    key: &MembershipKey,
    plane: Plane,
    timing: Timing,
) -> Result<Connection, Error> {
    bounded(quic, me, key, plane, timing, Role::Responder).await
}

async fn bounded(
    quic: iroh::endpoint::Connection,
    me: NodeId,
    key: &MembershipKey,
    plane: Plane,
    timing: Timing,
    role: Role,
) -> Result<Connection, Error> {
    let peer = NodeId(*quic.remote_id().as_bytes());
    let side = Side { quic: &quic, peer, key, plane };
    let shaken = match role {
        Role::Initiator => time::timeout(timing.handshake, side.initiate(me)).await,
        Role::Responder => time::timeout(timing.handshake, side.respond(me)).await,
    };
    let result = shaken.unwrap_or(Err(Error::TimedOut {
        peer,
        awaited: "membership handshake",
        after: timing.handshake,
    }));
    let (code, reason) = match &result {
        Ok(()) => return Ok(Connection::admitted(quic, peer, plane, timing.transfer)),
        Err(Error::WrongSecret { .. }) => (code::WRONG_SECRET, "wrong cluster secret"),
        Err(Error::TimedOut { .. }) => (code::TOO_LATE, "no membership proof in time"),
        Err(_) => (code::PROTOCOL, "broken membership handshake"),
    };
    quic.close(VarInt::from_u32(code), reason.as_bytes());
    result.map(|()| unreachable!("success returned above"))
}

/// One side's view of a connection whose peer is still a stranger.
struct Side<'a> {
    quic: &'a iroh::endpoint::Connection,
    peer: NodeId,
    key: &'a MembershipKey,
    plane: Plane,
}

impl Side<'_> {
    async fn initiate(&self, me: NodeId) -> Result<(), Error> {
        let opened = self.quic.open_bi().await;
        let (mut send, mut receive) =
            opened.map_err(|error| connection::ended(self.peer, &error))?;
        let nonce = key_file::random()?;
        self.send_nonce(&mut send, &nonce).await?;
        let session = Session {
            plane: self.plane,
            initiator: me,
            responder: self.peer,
            nonce_initiator: nonce,
            nonce_responder: self.receive_nonce(&mut receive).await?,
            exporter: self.exporter()?,
        };
        self.prove(&mut send, &session, Role::Initiator).await?;
        self.check(&mut receive, &session, Role::Responder).await
    }

    async fn respond(&self, me: NodeId) -> Result<(), Error> {
        let accepted = self.quic.accept_bi().await;
        let (mut send, mut receive) =
            accepted.map_err(|error| connection::ended(self.peer, &error))?;
        let nonce_initiator = self.receive_nonce(&mut receive).await?;
        let nonce = key_file::random()?;
        self.send_nonce(&mut send, &nonce).await?;
        let session = Session {
            plane: self.plane,
            initiator: self.peer,
            responder: me,
            nonce_initiator,
            nonce_responder: nonce,
            exporter: self.exporter()?,
        };
        self.check(&mut receive, &session, Role::Initiator).await?;
        self.prove(&mut send, &session, Role::Responder).await
    }

    fn exporter(&self) -> Result<[u8; 32], Error> {
        let mut exporter = [0; 32];
        self.quic.export_keying_material(&mut exporter, EXPORTER_LABEL, b"").map_err(|_| {
            Error::Handshake {
                peer: self.peer,
                expected: "a TLS session that exports keying material",
                got: "none".to_owned(),
            }
        })?;
        Ok(exporter)
    }

    async fn send_nonce(&self, send: &mut SendStream, nonce: &[u8; 32]) -> Result<(), Error> {
        let mut message = [VERSION; 33];
        message[1..].copy_from_slice(nonce);
        send.write_all(&message).await.map_err(|error| self.write_error(&error))
    }

    async fn receive_nonce(&self, receive: &mut RecvStream) -> Result<[u8; 32], Error> {
        let [version, nonce @ ..] = self.receive::<33>(receive, "a nonce").await?;
        if version == VERSION {
            Ok(nonce)
        } else {
            let got = format!("version {version}");
            Err(Error::Handshake { peer: self.peer, expected: "version 1", got })
        }
    }

    async fn prove(
        &self,
        send: &mut SendStream,
        session: &Session,
        role: Role,
    ) -> Result<(), Error> {
        let mac = session.mac(self.key, role);
        send.write_all(mac.as_bytes()).await.map_err(|error| self.write_error(&error))?;
        // Nothing follows; a stream that the peer has stopped is as finished as it can be.
        let _ = send.finish();
        Ok(())
    }

    async fn check(
        &self,
        receive: &mut RecvStream,
        session: &Session,
        role: Role,
    ) -> Result<(), Error> {
        let mac = self.receive::<32>(receive, "a proof").await?;
        // `blake3::Hash` compares in constant time.
        if blake3::Hash::from_bytes(mac) == session.mac(self.key, role) {
            Ok(())
        } else {
            Err(Error::WrongSecret { peer: self.peer })
        }
    }

    async fn receive<const N: usize>(
        &self,
        receive: &mut RecvStream,
        expected: &'static str,
    ) -> Result<[u8; N], Error> {
        let mut message = [0; N];
        match receive.read_exact(&mut message).await {
            Ok(()) => Ok(message),
            Err(ReadExactError::FinishedEarly(n_bytes)) => {
                let got = format!("{n_bytes} of {N} bytes");
                Err(Error::Handshake { peer: self.peer, expected, got })
            }
            Err(ReadExactError::ReadError(error)) => {
                Err(connection::read_error(self.peer, &error, "the handshake"))
            }
        }
    }

    fn write_error(&self, error: &WriteError) -> Error {
        connection::write_error(self.peer, error, "the handshake")
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn a_proof_binds_everything_that_it_names() {
        let key = MembershipKey::new(&ClusterSecret::from_bytes([1; 32]));
        let session = Session {
            plane: Plane::Control,
            initiator: NodeId([1; 32]),
            responder: NodeId([2; 32]),
            nonce_initiator: [3; 32],
            nonce_responder: [4; 32],
            exporter: [5; 32],
        };
        let changed = |change: fn(&mut Session)| {
            let mut session = session.clone();
            change(&mut session);
            session.mac(&key, Role::Initiator)
        };
        let other_key = MembershipKey::new(&ClusterSecret::from_bytes([9; 32]));
        let proofs = [
            changed(|_| {}),
            changed(|session| session.plane = Plane::Data),
            changed(|session| session.initiator = NodeId([9; 32])),
            changed(|session| session.responder = NodeId([9; 32])),
            changed(|session| std::mem::swap(&mut session.initiator, &mut session.responder)),
            changed(|session| session.nonce_initiator = [9; 32]),
            changed(|session| session.nonce_responder = [9; 32]),
            changed(|session| session.exporter = [9; 32]),
            session.mac(&key, Role::Responder),
            session.mac(&other_key, Role::Initiator),
        ];
        let distinct: HashSet<_> = proofs.iter().map(|proof| *proof.as_bytes()).collect();
        assert_eq!(distinct.len(), proofs.len());
    }

    #[test]
    fn the_bytes_of_a_proof_are_frozen() {
        let session = Session {
            plane: Plane::Data,
            initiator: NodeId([1; 32]),
            responder: NodeId([2; 32]),
            nonce_initiator: [3; 32],
            nonce_responder: [4; 32],
            exporter: [5; 32],
        };
        let key = MembershipKey::new(&ClusterSecret::from_bytes([6; 32]));
        let proof = session.mac(&key, Role::Responder);
        assert_eq!(
            proof.to_hex().as_str(),
            "962d0797f7368e6ff9fbc5fea0bbb1a8b846307c7041aa6544f85bc76b4bde19"
        );
    }
}
