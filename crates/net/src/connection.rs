//! A connection between two members: requests and responses on the control plane, frames on the
//! data plane, bytes of files on the transfer plane.

use std::{fmt, net::SocketAddr, sync::Arc, time::Duration};

use bytes::Bytes;
use iroh::endpoint::{
    ConnectionError, ReadError, ReadToEndError, RecvStream, SendStream, VarInt, WriteError,
};
use shoal_proto::{
    NodeId,
    control::{self, MAX_MESSAGE_BYTES, Request, Response, TransferRequest},
};
use tokio::{sync::Mutex, task::JoinSet, time};

use crate::{
    CloseReason, Error, FrameReceiver, FrameSender, Plane, TransferReader, TransferWriter,
    error::TicketRefusal, transfers::Arrived,
};

/// Requests of one peer that may be under way at once; the transport makes it wait with more.
const MAX_REQUESTS: u32 = 64;
/// Transfers that one peer may have under way at once.
pub(crate) const MAX_TRANSFERS: u32 = 16;
/// Bytes that a member may have under way on one connection: a window of 16 MiB fills 1 Gbit/s at 130 ms.
const RECEIVE_WINDOW: u32 = 16 * 1024 * 1024;
/// Codes that this side closes connections and streams with.
pub(crate) mod code {
    pub(crate) const GOODBYE: u32 = 0;
    pub(crate) const WRONG_SECRET: u32 = 1;
    pub(crate) const PROTOCOL: u32 = 2;
    pub(crate) const TOO_LATE: u32 = 3;
    pub(crate) const BUSY: u32 = 4;
    pub(crate) const REVOKED: u32 = 5;
    pub(crate) const TICKET_UNKNOWN: u32 = 6;
    pub(crate) const TICKET_EXPIRED: u32 = 7;
    pub(crate) const TICKET_USED: u32 = 8;
    pub(crate) const TICKET_VOID: u32 = 9;
    pub(crate) const FULL: u32 = 10;
    pub(crate) const TOO_MANY: u32 = 11;
    pub(crate) const NOT_KEPT: u32 = 12;
}

/// A connection to a member. Clones share it; it closes when the last clone, sender and receiver is dropped.
#[derive(Clone)]
pub struct Connection {
    inner: Arc<Inner>,
}

struct Inner {
    quic: iroh::endpoint::Connection,
    peer: NodeId,
    plane: Plane,
    /// See [`Timing`](crate::Timing).
    transfer: Duration,
    /// Requests whose bytes are arriving. Reading them side by side keeps a slow one from holding up the others, and a
    /// dropped `next_request` from losing one.
    arriving: Mutex<JoinSet<Result<(Request, Responder), Error>>>,
    /// The same for requests of transfers. They hold no connection: it would keep itself alive.
    arriving_transfers: Mutex<JoinSet<Result<Arrived, Error>>>,
}

impl Connection {
    /// Takes over a connection whose peer has proved its membership, and opens the windows that strangers find closed.
    pub(crate) fn admitted(
        quic: iroh::endpoint::Connection,
        peer: NodeId,
        plane: Plane,
        transfer: Duration,
    ) -> Self {
        quic.set_receive_window(VarInt::from_u32(RECEIVE_WINDOW));
        match plane {
            Plane::Control => quic.set_max_concurrent_bi_streams(VarInt::from_u32(MAX_REQUESTS)),
            Plane::Data => quic.set_max_concurrent_uni_streams(VarInt::from_u32(1)),
            Plane::Transfer => quic.set_max_concurrent_bi_streams(VarInt::from_u32(MAX_TRANSFERS)),
            Plane::Join => {}
        }
        let inner = Inner {
            quic,
            peer,
            plane,
            transfer,
            arriving: Mutex::default(),
            arriving_transfers: Mutex::default(),
        };
        Self { inner: Arc::new(inner) }
    }

    /// The node at the other end.
    pub fn peer(&self) -> NodeId {
        self.inner.peer
    }

    /// What the connection carries.
    pub fn plane(&self) -> Plane {
        self.inner.plane
    }

    /// Where the peer is at the moment; it may roam. `None` once the connection has ended.
    pub fn remote_addr(&self) -> Option<SocketAddr> {
        remote_addr(&self.inner.quic)
    }

    /// Round-trip time as the transport estimates it. `None` once the connection has ended.
    pub fn rtt(&self) -> Option<Duration> {
        with_selected_path(&self.inner.quic, |path| Some(path.rtt()))
    }

    /// Waits until the connection ends and returns why.
    pub async fn closed(&self) -> CloseReason {
        close_reason(&self.inner.quic.closed().await)
    }

    /// Why the connection ended; `None` while it lives.
    pub fn close_reason(&self) -> Option<CloseReason> {
        self.inner.quic.close_reason().as_ref().map(close_reason)
    }

    /// Says goodbye with a reason for the peer's log and ends the connection at once; what is still under way may be lost.
    pub fn close(&self, reason: &str) {
        self.close_with(code::GOODBYE, reason);
    }

    pub(crate) fn close_with(&self, code: u32, reason: &str) {
        self.inner.quic.close(VarInt::from_u32(code), reason.as_bytes());
    }

    /// Asks the peer and waits for its response at most `timeout`. Each request has its own stream, so that requests
    /// overtake each other.
    ///
    /// # Errors
    /// If the connection ends, the time is up, the peer drops the request, or a message is too long or unreadable.
    pub async fn request(&self, request: &Request, timeout: Duration) -> Result<Response, Error> {
        self.expect_plane(Plane::Control)?;
        time::timeout(timeout, self.exchange(request))
            .await
            .map_err(|_| self.timed_out("response", timeout))?
    }

    async fn exchange(&self, request: &Request) -> Result<Response, Error> {
        let message = control::encode(request);
        if message.len() > MAX_MESSAGE_BYTES {
            return Err(Error::TooLong { peer: self.peer(), max: MAX_MESSAGE_BYTES });
        }
        let opened = self.inner.quic.open_bi().await;
        let (send, mut receive) = opened.map_err(|error| self.ended(&error))?;
        MessageSender::new(send)
            .send(message)
            .await
            .map_err(|error| self.write_error(&error, "a request"))?;
        let message = receive.read_to_end(MAX_MESSAGE_BYTES).await;
        let read_error = |error| read_to_end_error(self.peer(), &error, MAX_MESSAGE_BYTES);
        self.decode(&message.map_err(read_error)?)
    }

    /// Waits for the next request of the peer. One that cannot be read is answered with [`Response::Refused`] and skipped.
    ///
    /// Dropping the future loses nothing. Calls take turns.
    ///
    /// # Errors
    /// If the connection ends.
    pub async fn next_request(&self) -> Result<(Request, Responder), Error> {
        self.expect_plane(Plane::Control)?;
        let mut arriving = self.inner.arriving.lock().await;
        loop {
            tokio::select! {
                biased;
                Some(arrived) = arriving.join_next() => match arrived {
                    Ok(Ok(request)) => return Ok(request),
                    Ok(Err(error)) => tracing::debug!(%error, "request skipped"),
                    Err(error) => tracing::error!(%error, "request reader failed"),
                },
                // The transport admits MAX_REQUESTS streams, so the set is bounded too.
                opened = self.inner.quic.accept_bi() => {
                    let (send, receive) = opened.map_err(|error| self.ended(&error))?;
                    let peer = self.peer();
                    let responder = Responder { peer, transfer: self.transfer_timeout(), send: MessageSender::new(send) };
                    arriving.spawn(read_request(responder, receive));
                }
            }
        }
    }

    /// Asks the peer for bytes of a file and waits for the first of the answer at most `timeout`. Either side may ask, and
    /// 16 transfers may be under way at once in each direction; more wait.
    ///
    /// # Errors
    /// [`Error::Refused`] with the peer's reason; or if the connection ends, the time is up or the peer gives up.
    pub async fn transfer(
        &self,
        request: &TransferRequest,
        timeout: Duration,
    ) -> Result<TransferReader, Error> {
        self.expect_plane(Plane::Transfer)?;
        time::timeout(timeout, TransferReader::ask(self, request))
            .await
            .map_err(|_| self.timed_out("answer to a transfer request", timeout))?
    }

    /// Waits for the peer's next request of a transfer. One that cannot be read is refused and skipped.
    ///
    /// Dropping the future loses nothing. Calls take turns.
    ///
    /// # Errors
    /// If the connection ends.
    pub async fn next_transfer(&self) -> Result<(TransferRequest, TransferWriter), Error> {
        self.expect_plane(Plane::Transfer)?;
        let mut arriving = self.inner.arriving_transfers.lock().await;
        loop {
            tokio::select! {
                biased;
                Some(arrived) = arriving.join_next() => match arrived {
                    Ok(Ok(arrived)) => return Ok(arrived.admit(self)),
                    Ok(Err(error)) => tracing::debug!(%error, "transfer request skipped"),
                    Err(error) => tracing::error!(%error, "transfer request reader failed"),
                },
                // The transport admits MAX_TRANSFERS streams, so the set is bounded too.
                opened = self.inner.quic.accept_bi() => {
                    let (send, receive) = opened.map_err(|error| self.ended(&error))?;
                    arriving.spawn(Arrived::read(self.peer(), self.transfer_timeout(), send, receive));
                }
            }
        }
    }

    /// Opens a stream for a request; waits while too many are open.
    pub(crate) async fn open_stream(&self) -> Result<(SendStream, RecvStream), Error> {
        self.inner.quic.open_bi().await.map_err(|error| self.ended(&error))
    }

    /// Opens this side's stream of frames. A connection carries one per direction: a second one waits for the end of the
    /// first.
    ///
    /// # Errors
    /// If the connection ends.
    pub async fn frame_sender(&self) -> Result<FrameSender, Error> {
        self.expect_plane(Plane::Data)?;
        let opened = time::timeout(self.transfer_timeout(), self.inner.quic.open_uni()).await;
        let stream = opened
            .map_err(|_| self.timed_out("room for a frame stream", self.transfer_timeout()))?;
        Ok(FrameSender::new(self.clone(), stream.map_err(|error| self.ended(&error))?))
    }

    /// Returns the reader of the peer's stream of frames. There is one stream, so keep one receiver.
    ///
    /// # Errors
    /// If the connection is of the control plane.
    pub fn frame_receiver(&self) -> Result<FrameReceiver, Error> {
        self.expect_plane(Plane::Data)?;
        Ok(FrameReceiver::new(self.clone()))
    }

    pub(crate) async fn accept_frames(&self) -> Result<RecvStream, Error> {
        self.inner.quic.accept_uni().await.map_err(|error| self.ended(&error))
    }

    pub(crate) fn transfer_timeout(&self) -> Duration {
        self.inner.transfer
    }

    fn expect_plane(&self, expected: Plane) -> Result<(), Error> {
        if self.plane() == expected {
            Ok(())
        } else {
            Err(Error::OtherPlane { peer: self.peer(), expected })
        }
    }

    fn decode(&self, message: &[u8]) -> Result<Response, Error> {
        control::decode(message).map_err(|source| Error::Control { peer: self.peer(), source })
    }

    fn timed_out(&self, awaited: &'static str, after: Duration) -> Error {
        Error::TimedOut { peer: self.peer(), awaited, after }
    }

    pub(crate) fn ended(&self, error: &ConnectionError) -> Error {
        ended(self.peer(), error)
    }

    pub(crate) fn write_error(&self, error: &WriteError, what: &'static str) -> Error {
        write_error(self.peer(), error, what)
    }

    pub(crate) fn read_error(&self, error: &ReadError, what: &'static str) -> Error {
        read_error(self.peer(), error, what)
    }
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connection")
            .field("peer", &self.peer())
            .field("plane", &self.plane())
            .finish_non_exhaustive()
    }
}

/// Answers one request. Dropped without an answer, it tells the peer that there will be none.
pub struct Responder {
    peer: NodeId,
    transfer: Duration,
    send: MessageSender,
}

impl Responder {
    /// Sends the response.
    ///
    /// # Errors
    /// If the response is too long, the peer no longer waits for it, or the connection ends.
    pub async fn respond(self, response: &Response) -> Result<(), Error> {
        let message = control::encode(response);
        let Self { peer, transfer, send } = self;
        if message.len() > MAX_MESSAGE_BYTES {
            return Err(Error::TooLong { peer, max: MAX_MESSAGE_BYTES });
        }
        let sent = time::timeout(transfer, send.send(message)).await;
        sent.map_err(|_| Error::TimedOut { peer, awaited: "room for a response", after: transfer })?
            .map_err(|error| write_error(peer, &error, "a response"))
    }
}

impl fmt::Debug for Responder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Responder").field("peer", &self.peer).finish_non_exhaustive()
    }
}

async fn read_request(
    responder: Responder,
    mut receive: RecvStream,
) -> Result<(Request, Responder), Error> {
    let Responder { peer, transfer: after, .. } = responder;
    let message = time::timeout(after, receive.read_to_end(MAX_MESSAGE_BYTES)).await;
    let request = match message {
        Ok(Ok(message)) => {
            control::decode(&message).map_err(|source| Error::Control { peer, source })
        }
        Ok(Err(error)) => Err(read_to_end_error(peer, &error, MAX_MESSAGE_BYTES)),
        Err(_) => Err(Error::TimedOut { peer, awaited: "end of a request", after }),
    };
    match request {
        Ok(request) => Ok((request, responder)),
        Err(error) => {
            let message = match &error {
                Error::Control { source, .. } => source.to_string(),
                error => error.to_string(),
            };
            // The peer may be gone; the error that matters is the first one.
            let _ = responder.respond(&Response::Refused { message }).await;
            Err(error)
        }
    }
}

/// The sending half of a stream that carries one message. Dropped before the message is complete, it resets the stream, so
/// that the peer never takes a part for the whole.
struct MessageSender(Option<SendStream>);

impl MessageSender {
    fn new(stream: SendStream) -> Self {
        Self(Some(stream))
    }

    async fn send(mut self, message: Vec<u8>) -> Result<(), WriteError> {
        let stream = self.0.as_mut().expect("taken only when the message is complete");
        stream.write_chunk(Bytes::from(message)).await?;
        // Dropping the stream itself finishes it.
        self.0 = None;
        Ok(())
    }
}

impl Drop for MessageSender {
    fn drop(&mut self) {
        if let Some(stream) = &mut self.0 {
            // A stream that the peer has stopped or that died with its connection needs no reset.
            let _ = stream.reset(VarInt::from_u32(code::GOODBYE));
        }
    }
}

/// Translates the transport's reason.
pub(crate) fn close_reason(error: &ConnectionError) -> CloseReason {
    match error {
        ConnectionError::LocallyClosed => CloseReason::Local,
        ConnectionError::TimedOut => CloseReason::Silence,
        ConnectionError::Reset => CloseReason::Reset,
        ConnectionError::ApplicationClosed(close) => {
            let reason = String::from_utf8_lossy(&close.reason).into_owned();
            if close.error_code == VarInt::from_u32(code::GOODBYE) {
                CloseReason::Goodbye(reason)
            } else if close.error_code == VarInt::from_u32(code::REVOKED) {
                CloseReason::Removed
            } else {
                CloseReason::Refused(reason)
            }
        }
        other => CloseReason::Transport(other.to_string()),
    }
}

pub(crate) fn ended(peer: NodeId, error: &ConnectionError) -> Error {
    let closed = || Error::Closed { peer, reason: close_reason(error) };
    match error {
        ConnectionError::ApplicationClosed(close) => {
            let code = close.error_code.into_inner();
            if code == u64::from(code::WRONG_SECRET) {
                Error::WrongSecret { peer }
            } else if code == u64::from(code::REVOKED) {
                Error::Removed { peer }
            } else if let Some(refusal) = TicketRefusal::from_code(code) {
                Error::TicketRefused { peer, refusal }
            } else {
                closed()
            }
        }
        _ => closed(),
    }
}

pub(crate) fn write_error(peer: NodeId, error: &WriteError, what: &'static str) -> Error {
    match error {
        WriteError::ConnectionLost(error) => ended(peer, error),
        _ => Error::GaveUp { peer, what },
    }
}

pub(crate) fn read_error(peer: NodeId, error: &ReadError, what: &'static str) -> Error {
    match error {
        ReadError::ConnectionLost(error) => ended(peer, error),
        _ => Error::GaveUp { peer, what },
    }
}

pub(crate) fn read_to_end_error(peer: NodeId, error: &ReadToEndError, max: usize) -> Error {
    match error {
        ReadToEndError::Read(error) => read_error(peer, error, "a message"),
        ReadToEndError::TooLong => Error::TooLong { peer, max },
    }
}

/// Where the peer of a connection is at the moment.
pub(crate) fn remote_addr(quic: &iroh::endpoint::Connection) -> Option<SocketAddr> {
    with_selected_path(quic, |path| match path.remote_addr() {
        iroh::TransportAddr::Ip(addr) => Some(*addr),
        _ => None,
    })
}

fn with_selected_path<T>(
    quic: &iroh::endpoint::Connection,
    read: impl FnOnce(&iroh::endpoint::Path<'_>) -> Option<T>,
) -> Option<T> {
    let paths = quic.paths();
    let selected = paths.iter().find(|path| path.is_selected()).or_else(|| paths.iter().next());
    selected.and_then(|path| read(&path))
}
