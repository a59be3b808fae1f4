//! Transfers: a request on a stream of its own, answered by any number of bytes or by a refusal.

use std::{fmt, time::Duration};

use bytes::Bytes;
use iroh::endpoint::{ReadExactError, RecvStream, SendStream, VarInt};
use shoal_proto::{
    NodeId,
    control::{self, TRANSFER_FOLLOWS, TRANSFER_REFUSED, TransferRequest},
};
use tokio::time;

use crate::{
    Connection, Error,
    connection::{code, read_error, read_to_end_error, write_error},
};

/// Longest request of a transfer, in bytes.
const MAX_REQUEST_BYTES: usize = 256;
/// Longest text of a refusal, in bytes.
const MAX_REFUSAL_BYTES: usize = 1024;
/// Most bytes of one piece that a reader hands out.
const MAX_PIECE_BYTES: usize = 1024 * 1024;
const WHAT: &str = "a transfer";

/// The bytes of a transfer, as they arrive. Dropped, it tells the peer to stop.
pub struct TransferReader {
    connection: Connection,
    stream: RecvStream,
}

impl TransferReader {
    /// Sends a request and waits for the first byte of its answer.
    pub(crate) async fn ask(
        connection: &Connection,
        request: &TransferRequest,
    ) -> Result<Self, Error> {
        let peer = connection.peer();
        let (send, mut stream) = connection.open_stream().await?;
        let mut send = ResetOnDrop(Some(send));
        let message = Bytes::from(control::encode(request));
        let sent = send.stream().write_chunk(message).await;
        sent.map_err(|error| write_error(peer, &error, WHAT))?;
        send.finish();
        let mut first = [0];
        stream.read_exact(&mut first).await.map_err(|error| match error {
            ReadExactError::FinishedEarly(_) => Error::GaveUp { peer, what: WHAT },
            ReadExactError::ReadError(error) => read_error(peer, &error, WHAT),
        })?;
        match first[0] {
            TRANSFER_FOLLOWS => Ok(Self { connection: connection.clone(), stream }),
            TRANSFER_REFUSED => {
                let text = stream.read_to_end(MAX_REFUSAL_BYTES).await;
                let text =
                    text.map_err(|error| read_to_end_error(peer, &error, MAX_REFUSAL_BYTES))?;
                let message = String::from_utf8_lossy(&text).into_owned();
                Err(Error::Refused { peer, message })
            }
            got => Err(Error::TransferAnswer { peer, got }),
        }
    }

    /// Waits for the next bytes, of which there are as many as have arrived; `None` at the end of a complete transfer.
    /// Dropping the future loses nothing.
    ///
    /// # Errors
    /// If the peer gives the transfer up, no byte comes for as long as `Timing::transfer`, or the connection ends.
    pub async fn read(&mut self) -> Result<Option<Bytes>, Error> {
        let (peer, after) = (self.connection.peer(), self.connection.transfer_timeout());
        let read = time::timeout(after, self.stream.read_chunk(MAX_PIECE_BYTES)).await;
        let chunk = read
            .map_err(|_| Error::TimedOut { peer, awaited: "bytes of a transfer", after })?
            .map_err(|error| read_error(peer, &error, WHAT))?;
        Ok(chunk)
    }
}

impl fmt::Debug for TransferReader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TransferReader").field("peer", &self.connection.peer()).finish()
    }
}

/// Answers one request for a transfer: accept it, write its bytes and finish, or refuse it. Dropped unfinished, it resets
/// the stream, so that the peer never takes a part for the whole.
pub struct TransferWriter {
    connection: Connection,
    stream: ResetOnDrop,
}

impl TransferWriter {
    /// Says that the bytes follow.
    ///
    /// # Errors
    /// As for [`TransferWriter::write`].
    pub async fn accept(mut self) -> Result<Self, Error> {
        self.write(Bytes::from_static(&[TRANSFER_FOLLOWS])).await?;
        Ok(self)
    }

    /// Sends bytes; waits while the peer reads slowly. Dropping the future loses track of how much was sent: drop the
    /// writer too.
    ///
    /// # Errors
    /// If the peer no longer wants them, takes none for as long as `Timing::transfer`, or the connection ends.
    pub async fn write(&mut self, bytes: Bytes) -> Result<(), Error> {
        let (peer, after) = (self.connection.peer(), self.connection.transfer_timeout());
        if bytes.is_empty() {
            return Ok(());
        }
        let mut chunks = [bytes];
        let mut rest = chunks.as_mut_slice();
        while !rest.is_empty() {
            // Takes from the front what there is room for.
            let stream = self.stream.stream();
            let sent = time::timeout(after, stream.write_many_chunks(&mut rest)).await;
            sent.map_err(|_| Error::TimedOut { peer, awaited: "room for a transfer", after })?
                .map_err(|error| write_error(peer, &error, WHAT))?;
        }
        Ok(())
    }

    /// Marks the transfer as complete. The transport delivers what is still under way while the connection lives.
    ///
    /// # Errors
    /// If the connection has ended.
    pub async fn finish(self) -> Result<(), Error> {
        let Self { connection, mut stream } = self;
        stream.finish();
        match connection.close_reason() {
            Some(reason) => Err(Error::Closed { peer: connection.peer(), reason }),
            None => Ok(()),
        }
    }

    /// Refuses the request and says why, in at most 1 KiB: the rest of a longer text is left out.
    ///
    /// # Errors
    /// As for [`TransferWriter::write`].
    pub async fn refuse(mut self, message: &str) -> Result<(), Error> {
        self.write(Bytes::from(refusal(message))).await?;
        self.finish().await
    }
}

impl fmt::Debug for TransferWriter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TransferWriter").field("peer", &self.connection.peer()).finish()
    }
}

/// A request that has arrived. It does not hold the connection, which holds it.
pub(crate) struct Arrived {
    request: TransferRequest,
    stream: ResetOnDrop,
}

impl Arrived {
    /// Reads the request on a stream that the peer has opened, for at most `after`. One that cannot be read is refused here,
    /// where a peer that reads nothing holds up none of its other requests.
    pub(crate) async fn read(
        peer: NodeId,
        after: Duration,
        send: SendStream,
        mut receive: RecvStream,
    ) -> Result<Self, Error> {
        let mut stream = ResetOnDrop(Some(send));
        let message = time::timeout(after, receive.read_to_end(MAX_REQUEST_BYTES)).await;
        let request = match message {
            Ok(Ok(message)) => {
                control::decode(&message).map_err(|source| Error::Control { peer, source })
            }
            Ok(Err(error)) => Err(read_to_end_error(peer, &error, MAX_REQUEST_BYTES)),
            Err(_) => Err(Error::TimedOut { peer, awaited: "end of a request", after }),
        };
        match request {
            Ok(request) => Ok(Self { request, stream }),
            Err(error) => {
                let answer = Bytes::from(refusal(&error.to_string()));
                let write = time::timeout(after, stream.stream().write_chunk(answer)).await;
                // The peer may be gone; the error that matters is the first one.
                if matches!(write, Ok(Ok(()))) {
                    stream.finish();
                }
                Err(error)
            }
        }
    }

    /// The request and its writer.
    pub(crate) fn admit(self, connection: &Connection) -> (TransferRequest, TransferWriter) {
        let writer = TransferWriter { connection: connection.clone(), stream: self.stream };
        (self.request, writer)
    }
}

/// The answer that refuses a request, with at most 1 KiB of text: the rest of a longer one is left out.
fn refusal(message: &str) -> Vec<u8> {
    let text = &message[..message.floor_char_boundary(MAX_REFUSAL_BYTES)];
    let mut answer = vec![TRANSFER_REFUSED];
    answer.extend_from_slice(text.as_bytes());
    answer
}

/// The sending half of a stream, reset unless it was finished.
struct ResetOnDrop(Option<SendStream>);

impl ResetOnDrop {
    fn stream(&mut self) -> &mut SendStream {
        self.0.as_mut().expect("taken only when the stream is complete")
    }

    /// Completes the stream: dropping the stream itself finishes it.
    fn finish(&mut self) {
        self.0 = None;
    }
}

impl Drop for ResetOnDrop {
    fn drop(&mut self) {
        if let Some(stream) = &mut self.0 {
            // A stream that the peer has stopped or that died with its connection needs no reset.
            let _ = stream.reset(VarInt::from_u32(code::GOODBYE));
        }
    }
}
