//! The data plane's streams: frames in order, one stream per direction for as long as the connection lives.

use std::fmt;

use bytes::{Buf as _, Bytes};
use iroh::endpoint::{RecvStream, SendStream};
use shoal_proto::frame::{Frame, HEADER_BYTES, Header, decode_header, decode_payload};
use tokio::time::{self, Instant};

use crate::{Connection, Error, connection::code};

/// Memory that a header alone is worth; beyond it the payload's buffer grows with what really arrives.
const FIRST_PAYLOAD_BYTES: usize = 64 * 1024;

/// This side's stream of frames.
pub struct FrameSender {
    connection: Connection,
    stream: SendStream,
    /// What is left of the frame that a dropped `send` began.
    unsent: Bytes,
}

impl FrameSender {
    pub(crate) fn new(connection: Connection, stream: SendStream) -> Self {
        Self { connection, stream, unsent: Bytes::new() }
    }

    /// The connection that the frames travel on.
    pub fn connection(&self) -> &Connection {
        &self.connection
    }

    /// Hands a frame to the transport; waits while the peer reads too slowly.
    ///
    /// A future that is dropped midway never damages the stream: its frame is sent as a whole or not at all, and if it was
    /// begun, the next call sends the rest first.
    ///
    /// # Errors
    /// If the connection ends, the peer refuses more frames, or the transport has not taken the frame
    /// within [`Timing::transfer`](crate::Timing).
    ///
    /// # Panics
    /// If the frame breaks the bounds of [`Frame::encode`].
    pub async fn send(&mut self, frame: &Frame) -> Result<(), Error> {
        let deadline = Instant::now() + self.connection.transfer_timeout();
        self.send_rest(deadline).await?;
        self.unsent = Bytes::from(frame.encode());
        self.send_rest(deadline).await
    }

    async fn send_rest(&mut self, deadline: Instant) -> Result<(), Error> {
        while !self.unsent.is_empty() {
            // `write` takes a reference and is cancel safe, so `unsent` is right wherever the future is dropped.
            let write = time::timeout_at(deadline, self.stream.write(&self.unsent)).await;
            let n_bytes = write
                .map_err(|_| Error::TimedOut {
                    peer: self.connection.peer(),
                    awaited: "room for a frame",
                    after: self.connection.transfer_timeout(),
                })?
                .map_err(|error| self.connection.write_error(&error, "this node's frames"))?;
            self.unsent.advance(n_bytes);
        }
        Ok(())
    }
}

impl fmt::Debug for FrameSender {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FrameSender").field("peer", &self.connection.peer()).finish_non_exhaustive()
    }
}

/// The peer's stream of frames.
pub struct FrameReceiver {
    connection: Connection,
    stream: Option<RecvStream>,
    partial: Partial,
    /// When the frame that is arriving must be complete.
    deadline: Option<Instant>,
}

/// What has arrived of a frame. It outlives the future that reads it, so that dropping the future loses nothing.
enum Partial {
    Header { bytes: [u8; HEADER_BYTES], filled: usize },
    Payload { header: Header, bytes: Vec<u8> },
}

impl Partial {
    const EMPTY: Self = Self::Header { bytes: [0; HEADER_BYTES], filled: 0 };
}

impl FrameReceiver {
    pub(crate) fn new(connection: Connection) -> Self {
        Self { connection, stream: None, partial: Partial::EMPTY, deadline: None }
    }

    /// The connection that the frames travel on.
    pub fn connection(&self) -> &Connection {
        &self.connection
    }

    /// Waits for the next frame; `None` once the peer has ended its stream. Between frames it waits as long as the
    /// connection lives.
    ///
    /// A frame that breaks the protocol closes the connection: the stream cannot be read any further. Dropping the future
    /// loses nothing.
    ///
    /// # Errors
    /// If the connection or the stream ends inside a frame, or the frame is unreadable or takes longer than
    /// [`Timing::transfer`](crate::Timing).
    pub async fn recv(&mut self) -> Result<Option<Frame>, Error> {
        let received = self.next_frame().await;
        match &received {
            Err(Error::Frame { source, .. }) => {
                self.connection.close_with(code::PROTOCOL, &source.to_string());
            }
            Err(error @ (Error::CutFrame { .. } | Error::TimedOut { .. })) => {
                self.connection.close_with(code::PROTOCOL, &error.to_string());
            }
            _ => {}
        }
        received
    }

    async fn next_frame(&mut self) -> Result<Option<Frame>, Error> {
        if self.stream.is_none() {
            self.stream = Some(self.connection.accept_frames().await?);
        }
        loop {
            if let Some(frame) = self.take_complete()? {
                return Ok(Some(frame));
            }
            let read = match self.deadline {
                None => self.read_some().await?,
                Some(deadline) => {
                    let peer = self.connection.peer();
                    let read = time::timeout_at(deadline, self.read_some()).await;
                    read.map_err(|_| Error::TimedOut {
                        peer,
                        awaited: "end of a frame",
                        after: self.connection.transfer_timeout(),
                    })??
                }
            };
            match (read, self.missing_bytes()) {
                (true, _) => {
                    self.deadline =
                        self.deadline.or(Some(Instant::now() + self.connection.transfer_timeout()))
                }
                (false, None) => return Ok(None),
                (false, Some(missing)) => {
                    return Err(Error::CutFrame { peer: self.connection.peer(), missing });
                }
            }
        }
    }

    /// Reads what has arrived, up to the end of the header or payload; `false` at the end of the stream.
    async fn read_some(&mut self) -> Result<bool, Error> {
        let stream = self.stream.as_mut().expect("accepted before the first read");
        let read = match &mut self.partial {
            Partial::Header { bytes, filled } => {
                stream.read(&mut bytes[*filled..]).await.map(|n_bytes| match n_bytes {
                    Some(n_bytes) => {
                        *filled += n_bytes;
                        true
                    }
                    None => false,
                })
            }
            Partial::Payload { header, bytes } => {
                let missing = header.payload_bytes() - bytes.len();
                stream.read_chunk(missing).await.map(|chunk| match chunk {
                    Some(chunk) => {
                        bytes.extend_from_slice(&chunk);
                        true
                    }
                    None => false,
                })
            }
        };
        read.map_err(|error| self.connection.read_error(&error, "its stream of frames"))
    }

    /// Goes on from a complete header to its payload; returns a complete frame.
    fn take_complete(&mut self) -> Result<Option<Frame>, Error> {
        let peer = self.connection.peer();
        let error = |source| Error::Frame { peer, source };
        if let Partial::Header { bytes, filled: HEADER_BYTES } = &self.partial {
            let header = decode_header(bytes).map_err(error)?;
            let capacity = header.payload_bytes().min(FIRST_PAYLOAD_BYTES);
            self.partial = Partial::Payload { header, bytes: Vec::with_capacity(capacity) };
        }
        match &self.partial {
            Partial::Payload { header, bytes } if bytes.len() == header.payload_bytes() => {
                let frame = decode_payload(header, bytes).map_err(error)?;
                self.partial = Partial::EMPTY;
                self.deadline = None;
                Ok(Some(frame))
            }
            _ => Ok(None),
        }
    }

    /// Bytes that the frame in progress still lacks; `None` between frames.
    fn missing_bytes(&self) -> Option<usize> {
        match &self.partial {
            Partial::Header { filled: 0, .. } => None,
            Partial::Header { filled, .. } => Some(HEADER_BYTES - filled),
            Partial::Payload { header, bytes } => Some(header.payload_bytes() - bytes.len()),
        }
    }
}

impl fmt::Debug for FrameReceiver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FrameReceiver")
            .field("peer", &self.connection.peer())
            .finish_non_exhaustive()
    }
}
