//! The body of an answer, counted.

use std::time::Duration;

use bytes::Bytes;
use reqwest::Response;
use tokio::time::timeout;

use super::error::{HubError, host_of, io_kind};

/// The bytes of a range, as they come.
#[derive(Debug)]
pub struct RangeBody {
    /// `None` after the end.
    response: Option<Response>,
    host: String,
    stall: Duration,
    /// Bytes before the range that the server sends as well.
    n_skip: u64,
    /// Bytes of the range.
    expected: u64,
    /// How many of them came; more than `expected` if the server sent more.
    got: u64,
}

impl RangeBody {
    /// - `n_skip`: bytes to throw away first
    /// - `expected`: bytes to yield after them
    pub(super) fn new(response: Response, stall: Duration, n_skip: u64, expected: u64) -> Self {
        let host = host_of(response.url());
        Self { response: Some(response), host, stall, n_skip, expected, got: 0 }
    }

    /// Nothing.
    pub(super) fn empty() -> Self {
        let (host, stall) = (String::new(), Duration::ZERO);
        Self { response: None, host, stall, n_skip: 0, expected: 0, got: 0 }
    }

    /// Waits for the next piece. `None` once all bytes of the range came; never more than those. Cancel safe.
    ///
    /// # Errors
    /// [`HubError::Stalled`], [`HubError::Cut`] or [`HubError::Broken`]; what came before is good, and the rest is for the
    /// caller to ask for again.
    pub async fn next(&mut self) -> Result<Option<Bytes>, HubError> {
        loop {
            let Some(response) = self.response.as_mut() else { return self.end() };
            let piece = timeout(self.stall, response.chunk()).await;
            if self.got == self.expected && !matches!(piece, Ok(Ok(Some(_)))) {
                // All is there. Reading on only gives the connection back, and shows whether there is more.
                self.response = None;
                return Ok(None);
            }
            match piece {
                Ok(Ok(Some(piece))) => {
                    if let Some(piece) = self.take(piece) {
                        return Ok(Some(piece));
                    }
                }
                Ok(Ok(None)) => self.response = None,
                Ok(Err(error)) => {
                    self.response = None;
                    // This kind is how the HTTP library says that the body was shorter than announced.
                    if io_kind(&error) == Some(std::io::ErrorKind::UnexpectedEof) {
                        return self.end();
                    }
                    let (host, got) = (self.host.clone(), self.got);
                    return Err(HubError::Broken { host, got, source: error.without_url() });
                }
                Err(_) => {
                    self.response = None;
                    return Err(HubError::Stalled {
                        host: self.host.clone(),
                        after: self.stall,
                        expected: self.expected,
                        got: self.got,
                    });
                }
            }
        }
    }

    /// The part of a piece that belongs to the range.
    fn take(&mut self, mut piece: Bytes) -> Option<Bytes> {
        let n_skip = self.n_skip.min(piece.len() as u64);
        self.n_skip -= n_skip;
        piece = piece.split_off(usize::try_from(n_skip).expect("at most the piece's length"));
        let n_left = self.expected.saturating_sub(self.got);
        self.got += piece.len() as u64;
        if piece.len() as u64 > n_left {
            self.response = None;
            piece.truncate(usize::try_from(n_left).expect("less than the piece's length"));
        }
        (!piece.is_empty()).then_some(piece)
    }

    fn end(&self) -> Result<Option<Bytes>, HubError> {
        let (expected, got) = (self.expected, self.got);
        if got == expected {
            return Ok(None);
        }
        Err(HubError::Cut { host: self.host.clone(), expected, got })
    }
}
