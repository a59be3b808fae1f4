//! Joining: a device that holds a ticket proves it to the node that made it, and is entered on the roll.
//!
//! ```text
//! joiner  → inviter   version, nonce_i, the invitation's id      1 + 32 + 16 bytes
//! inviter → joiner    version, nonce_r                           1 + 32 bytes
//! joiner  → inviter   mac(initiator)                             32 bytes
//! inviter → joiner    mac(responder), the roll, end of stream    32 + at most 64 KiB
//! ```
//!
//! The proofs are those of [`proof`](crate::proof), made with the invitation's secret. The id is a hash of it.
//!
//! - Whoever does not hold the secret cannot tell an invitation that exists from one that does not: both take the same
//!   steps and end with the same code. What is wrong with an invitation is only told to who has proved it.
//! - An invitation is used up when the proof was right, and before the roll is sent: of two devices with one ticket for
//!   one device exactly one gets in. The same device may ask again, since the answer may be lost on the way.
//! - A revoked key may join: that is how a device that was removed comes back.

use iroh::endpoint::VarInt;
use shoal_proto::{control, roll::Roll};
use tokio::time;

use crate::{
    Error, Membership, Plane, Ticket, Timing,
    connection::{self, code},
    error::TicketRefusal,
    key_file,
    membership::invitation_id,
    proof::{ProofKey, Role, Session},
    stranger::{Stranger, Streams},
};

const VERSION: u8 = 1;
/// Longest encoding of a roll: that of full lists has 23 KB.
const MAX_ROLL_BYTES: usize = 64 * 1024;

/// Proves a ticket to the node that made it, and returns that node's roll.
pub(crate) async fn initiate(
    quic: &iroh::endpoint::Connection,
    membership: &Membership,
    ticket: &Ticket,
    timing: Timing,
) -> Result<Roll, Error> {
    let joining = Joining { stranger: Stranger::new(quic, Plane::Join), membership };
    let mut streams = None;
    let result = time::timeout(timing.handshake, joining.initiate(ticket, &mut streams)).await;
    joining.close(result, timing)
}

/// Checks the proof of a device that dialled, and enters it on the roll.
pub(crate) async fn respond(
    quic: &iroh::endpoint::Connection,
    membership: &Membership,
    timing: Timing,
) -> Result<(), Error> {
    let joining = Joining { stranger: Stranger::new(quic, Plane::Join), membership };
    let mut streams = None;
    let result = time::timeout(timing.handshake, joining.respond(&mut streams)).await;
    if let Ok(Ok(())) = result {
        // Closing at once would lose what is under way: the joiner closes when it has read everything.
        let _ = time::timeout(timing.handshake, quic.closed()).await;
    }
    joining.close(result, timing)
}

struct Joining<'a> {
    stranger: Stranger<'a>,
    membership: &'a Membership,
}

impl Joining<'_> {
    async fn initiate(
        &self,
        ticket: &Ticket,
        streams: &mut Option<Streams>,
    ) -> Result<Roll, Error> {
        let peer = self.stranger.peer;
        let (send, receive) = streams.insert(self.stranger.open().await?);
        let nonce = key_file::random()?;
        let id = invitation_id(ticket.secret());
        self.stranger.send(send, VERSION, &[&nonce, &id.0]).await?;
        let nonce_responder = self.stranger.receive(receive, VERSION, "a nonce").await?;
        let session = Session {
            plane: Plane::Join,
            initiator: self.membership.id(),
            responder: peer,
            nonce_initiator: nonce,
            nonce_responder,
            exporter: self.stranger.exporter()?,
        };
        let key = ProofKey::of_invitation(ticket.secret());
        self.stranger.prove(send, &session, &key, Role::Initiator).await?;
        // Nothing follows; a stream that the peer has stopped is as finished as it can be.
        let _ = send.finish();
        if !self.stranger.check(receive, &session, &key, Role::Responder).await? {
            return Err(Error::TicketRefused { peer, refusal: TicketRefusal::Unknown });
        }
        let bytes = receive.read_to_end(MAX_ROLL_BYTES).await;
        let bytes =
            bytes.map_err(|error| connection::read_to_end_error(peer, &error, MAX_ROLL_BYTES))?;
        let roll: Roll =
            control::decode(&bytes).map_err(|source| Error::Control { peer, source })?;
        if roll.is_member(self.membership.id()) {
            Ok(roll)
        } else {
            let (expected, got) = ("a roll with this node on it", "one without it".to_owned());
            Err(Error::Handshake { peer, expected, got })
        }
    }

    async fn respond(&self, streams: &mut Option<Streams>) -> Result<(), Error> {
        let peer = self.stranger.peer;
        let refused = |refusal| Error::TicketRefused { peer, refusal };
        let (send, receive) = streams.insert(self.stranger.accept().await?);
        let hello =
            self.stranger.receive::<48>(receive, VERSION, "a nonce and an invitation").await?;
        let (nonce_initiator, id) = hello.split_first_chunk().expect("a hello is longer");
        let id = crate::InvitationId(std::array::from_fn(|i| id[i]));
        // Nobody has the key of an invitation that does not exist, so the proof fails as any wrong one does.
        let nobodys = ProofKey::from_random(key_file::random()?);
        let key = self.membership.invitation_key(id).unwrap_or(nobodys);
        let nonce = key_file::random()?;
        self.stranger.send(send, VERSION, &[&nonce]).await?;
        let session = Session {
            plane: Plane::Join,
            initiator: peer,
            responder: self.membership.id(),
            nonce_initiator: *nonce_initiator,
            nonce_responder: nonce,
            exporter: self.stranger.exporter()?,
        };
        if !self.stranger.check(receive, &session, &key, Role::Initiator).await? {
            return Err(refused(TicketRefusal::Unknown));
        }
        let roll = self.membership.redeem(id, peer).await.map_err(refused)?;
        self.stranger.prove(send, &session, &key, Role::Responder).await?;
        self.stranger.write(send, &control::encode(&roll)).await?;
        let _ = send.finish();
        Ok(())
    }

    /// Closes the connection, with the reason for the peer, and returns the result.
    fn close<T>(
        &self,
        result: Result<Result<T, Error>, time::error::Elapsed>,
        timing: Timing,
    ) -> Result<T, Error> {
        let peer = self.stranger.peer;
        let late = Error::TimedOut { peer, awaited: "answer to a ticket", after: timing.handshake };
        let result = result.unwrap_or(Err(late));
        let (code, reason) = match &result {
            Ok(_) => (code::GOODBYE, String::new()),
            Err(Error::TicketRefused { refusal, .. }) => (refusal.code(), refusal.to_string()),
            Err(Error::TimedOut { .. }) => (code::TOO_LATE, "no proof of a ticket in time".into()),
            Err(_) => (code::PROTOCOL, "broken join".into()),
        };
        self.stranger.quic.close(VarInt::from_u32(code), reason.as_bytes());
        result
    }
}
