//! A peer that has proved its key and nothing else: messages of fixed sizes on the first stream of its connection, so that
//! nothing is parsed before a proof.

use iroh::endpoint::{ReadExactError, RecvStream, SendStream};
use shoal_proto::NodeId;

use crate::{
    Error, Plane, connection,
    proof::{ProofKey, Role, Session},
};

const EXPORTER_LABEL: &[u8] = b"EXPORTER-shoal-membership-v2";
const WHAT: &str = "the handshake";

/// The two halves of the first stream. Dropped before the connection is closed, they would end before its reason comes.
pub(crate) type Streams = (SendStream, RecvStream);

/// One side's view of a connection whose peer is still a stranger.
pub(crate) struct Stranger<'a> {
    pub(crate) quic: &'a iroh::endpoint::Connection,
    pub(crate) peer: NodeId,
    pub(crate) plane: Plane,
}

impl<'a> Stranger<'a> {
    pub(crate) fn new(quic: &'a iroh::endpoint::Connection, plane: Plane) -> Self {
        Self { quic, peer: NodeId(*quic.remote_id().as_bytes()), plane }
    }

    pub(crate) async fn open(&self) -> Result<Streams, Error> {
        self.quic.open_bi().await.map_err(|error| connection::ended(self.peer, &error))
    }

    pub(crate) async fn accept(&self) -> Result<Streams, Error> {
        self.quic.accept_bi().await.map_err(|error| connection::ended(self.peer, &error))
    }

    pub(crate) fn exporter(&self) -> Result<[u8; 32], Error> {
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

    /// Sends a message, a version byte first.
    pub(crate) async fn send(
        &self,
        send: &mut SendStream,
        version: u8,
        parts: &[&[u8]],
    ) -> Result<(), Error> {
        let message = [&[&[version][..]], parts].concat().concat();
        self.write(send, &message).await
    }

    pub(crate) async fn write(&self, send: &mut SendStream, bytes: &[u8]) -> Result<(), Error> {
        let written = send.write_all(bytes).await;
        written.map_err(|error| connection::write_error(self.peer, &error, WHAT))
    }

    /// Receives what [`send`](Self::send) sent, without its version.
    pub(crate) async fn receive<const N: usize>(
        &self,
        receive: &mut RecvStream,
        version: u8,
        expected: &'static str,
    ) -> Result<[u8; N], Error> {
        let [got] = self.read::<1>(receive, expected).await?;
        if got != version {
            let got = format!("version {got}, not {version}");
            return Err(Error::Handshake { peer: self.peer, expected, got });
        }
        self.read(receive, expected).await
    }

    pub(crate) async fn read<const N: usize>(
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
                Err(connection::read_error(self.peer, &error, WHAT))
            }
        }
    }

    pub(crate) async fn prove(
        &self,
        send: &mut SendStream,
        session: &Session,
        key: &ProofKey,
        role: Role,
    ) -> Result<(), Error> {
        self.write(send, session.mac(key, role).as_bytes()).await
    }

    /// Receives the peer's proof and says whether it is right.
    pub(crate) async fn check(
        &self,
        receive: &mut RecvStream,
        session: &Session,
        key: &ProofKey,
        role: Role,
    ) -> Result<bool, Error> {
        let mac = self.read::<32>(receive, "a proof").await?;
        // `blake3::Hash` compares in constant time.
        Ok(blake3::Hash::from_bytes(mac) == session.mac(key, role))
    }
}
