//! The membership handshake: both sides prove that they hold a secret of the cluster, on the first stream of a connection.
//!
//! TLS has already proved both public keys. The dialler opens the stream:
//!
//! ```text
//! initiator → responder   version, nonce_i, a tag for each secret that it holds     1 + 32 + 5 × 8 bytes
//! responder → initiator   version, nonce_r, which of the secrets                    1 + 32 + 1 bytes
//! initiator → responder   mac(initiator)                                            32 bytes
//! responder → initiator   mac(responder)                                            32 bytes
//! ```
//!
//! Tags and proofs are described in [`proof`](crate::proof).
//!
//! - The responder picks the newest secret that both hold. Where fewer than five are held, random bytes stand for the rest.
//! - A secret that is not the current one proves nothing but the past: it suffices only for a peer that is on the roll by
//!   its key, which may have slept while the secret was changed. Each side judges that by its own roll.
//! - Whoever proves the current secret and is not on the roll is entered: another member admitted it a moment ago.
//! - A revoked key is refused before anything else, and told so: it may be its owner's other phone that was found again.
//! - The responder proves nothing until the initiator has: a stranger who dials learns nothing that depends on a secret.

use iroh::endpoint::VarInt;
use shoal_proto::roll::MAX_PREVIOUS;
use tokio::time;

use crate::{
    Connection, Error, Membership, Plane, Timing,
    connection::code,
    key_file,
    membership::Standing,
    proof::{MemberKey, Role, Session, TAG_BYTES, Tag},
    stranger::{Stranger, Streams},
};

const VERSION: u8 = 2;
const N_TAGS: usize = 1 + MAX_PREVIOUS;
const HELLO_BYTES: usize = 32 + N_TAGS * TAG_BYTES;

/// Proves membership to the node that was dialled, then checks its proof.
pub(crate) async fn initiate(
    quic: iroh::endpoint::Connection,
    membership: &Membership,
    plane: Plane,
    timing: Timing,
) -> Result<Connection, Error> {
    bounded(quic, membership, plane, timing, Role::Initiator).await
}

/// Checks the proof of the node that dialled, then proves membership to it.
pub(crate) async fn respond(
    quic: iroh::endpoint::Connection,
    membership: &Membership,
    plane: Plane,
    timing: Timing,
) -> Result<Connection, Error> {
    bounded(quic, membership, plane, timing, Role::Responder).await
}

async fn bounded(
    quic: iroh::endpoint::Connection,
    membership: &Membership,
    plane: Plane,
    timing: Timing,
    role: Role,
) -> Result<Connection, Error> {
    let side = Side { stranger: Stranger::new(&quic, plane), membership };
    let peer = side.stranger.peer;
    // They outlive the handshake: dropped before the connection is closed, they would end before its reason comes.
    let mut streams = None;
    let shaken = match role {
        Role::Initiator => time::timeout(timing.handshake, side.initiate(&mut streams)).await,
        Role::Responder => time::timeout(timing.handshake, side.respond(&mut streams)).await,
    };
    let result = shaken.unwrap_or(Err(Error::TimedOut {
        peer,
        awaited: "membership handshake",
        after: timing.handshake,
    }));
    let (code, reason) = match &result {
        Ok(()) => return Ok(Connection::admitted(quic, peer, plane, timing.transfer)),
        Err(Error::WrongSecret { .. }) => (code::WRONG_SECRET, "wrong cluster secret"),
        Err(Error::Revoked { .. }) => (code::REVOKED, "removed from the cluster"),
        Err(Error::TimedOut { .. }) => (code::TOO_LATE, "no membership proof in time"),
        Err(_) => (code::PROTOCOL, "broken membership handshake"),
    };
    quic.close(VarInt::from_u32(code), reason.as_bytes());
    result.map(|()| unreachable!("success returned above"))
}

struct Side<'a> {
    stranger: Stranger<'a>,
    membership: &'a Membership,
}

impl Side<'_> {
    async fn initiate(&self, streams: &mut Option<Streams>) -> Result<(), Error> {
        self.refuse_revoked()?;
        let Stranger { peer, plane, .. } = self.stranger;
        let (send, receive) = streams.insert(self.stranger.open().await?);
        let (nonce, exporter) = (key_file::random()?, self.stranger.exporter()?);
        let keys = self.membership.keys();
        let tags = tags(&keys, &nonce, &exporter)?;
        self.stranger.send(send, VERSION, &[&nonce, tags.as_flattened()]).await?;
        let answer = self.stranger.receive::<33>(receive, VERSION, "a nonce and a choice").await?;
        let [nonce_responder @ .., choice] = answer;
        // A choice that was not offered is as wrong as a proof.
        let wrong = Error::WrongSecret { peer };
        let key = keys.get(usize::from(choice)).ok_or(wrong)?;
        let session = Session {
            plane,
            initiator: self.membership.id(),
            responder: peer,
            nonce_initiator: nonce,
            nonce_responder,
            exporter,
        };
        self.stranger.prove(send, &session, &key.proof, Role::Initiator).await?;
        // Nothing follows; a stream that the peer has stopped is as finished as it can be.
        let _ = send.finish();
        self.check(receive, &session, key, Role::Responder).await
    }

    async fn respond(&self, streams: &mut Option<Streams>) -> Result<(), Error> {
        self.refuse_revoked()?;
        let Stranger { peer, plane, .. } = self.stranger;
        let (send, receive) = streams.insert(self.stranger.accept().await?);
        let hello = self
            .stranger
            .receive::<HELLO_BYTES>(receive, VERSION, "a nonce and tags of secrets")
            .await?;
        let (nonce_initiator, offered) = hello.split_first_chunk().expect("a hello is longer");
        let (nonce, exporter) = (key_file::random()?, self.stranger.exporter()?);
        let keys = self.membership.keys();
        let (choice, key) = choose(&keys, offered, nonce_initiator, &exporter)
            .ok_or(Error::WrongSecret { peer })?;
        self.stranger.send(send, VERSION, &[&nonce, &[choice]]).await?;
        let session = Session {
            plane,
            initiator: peer,
            responder: self.membership.id(),
            nonce_initiator: *nonce_initiator,
            nonce_responder: nonce,
            exporter,
        };
        self.check(receive, &session, key, Role::Initiator).await?;
        self.stranger.prove(send, &session, &key.proof, Role::Responder).await?;
        let _ = send.finish();
        Ok(())
    }

    fn refuse_revoked(&self) -> Result<(), Error> {
        let peer = self.stranger.peer;
        if self.membership.is_revoked(peer) { Err(Error::Revoked { peer }) } else { Ok(()) }
    }

    /// Checks the peer's proof, and what it is worth by this side's roll.
    async fn check(
        &self,
        receive: &mut iroh::endpoint::RecvStream,
        session: &Session,
        key: &MemberKey,
        role: Role,
    ) -> Result<(), Error> {
        let Stranger { peer, quic, .. } = self.stranger;
        if !self.stranger.check(receive, session, &key.proof, role).await? {
            return Err(Error::WrongSecret { peer });
        }
        match self.membership.enter(peer, &key.secret, quic).await {
            Standing::Member => Ok(()),
            Standing::Unknown => Err(Error::WrongSecret { peer }),
            Standing::Revoked => Err(Error::Revoked { peer }),
        }
    }
}

/// The tags of the secrets that this side holds, and random bytes in place of more.
fn tags(keys: &[MemberKey], nonce: &[u8; 32], exporter: &[u8; 32]) -> Result<[Tag; N_TAGS], Error> {
    let mut tags = [[0; TAG_BYTES]; N_TAGS];
    for (i, tag) in tags.iter_mut().enumerate() {
        *tag = match keys.get(i) {
            Some(key) => key.tag(nonce, exporter),
            None => key_file::random()?,
        };
    }
    Ok(tags)
}

/// The newest of this side's secrets that the initiator holds too, and where it stands in the initiator's list.
fn choose<'a>(
    keys: &'a [MemberKey],
    offered: &[u8],
    nonce: &[u8; 32],
    exporter: &[u8; 32],
) -> Option<(u8, &'a MemberKey)> {
    keys.iter().find_map(|key| {
        let tag = key.tag(nonce, exporter);
        let at = offered.chunks_exact(TAG_BYTES).position(|offered| offered == tag)?;
        Some((u8::try_from(at).expect("few tags"), key))
    })
}
