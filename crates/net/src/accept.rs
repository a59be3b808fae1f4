//! Incoming connections, up to the end of their handshakes.
//!
//! One actor takes every attempt and drives its handshake in a task of its own. A stranger who opens connections and stays
//! silent holds [`MAX_HANDSHAKES`] places at most; a newcomer then takes the oldest place. A member's handshake ends within
//! three round trips, so strangers would have to fill all places in that time, again and again, to keep it out. From half
//! of the places on, an address must also prove that it is real (QUIC Retry) before it costs a place.

use std::{
    collections::{HashMap, VecDeque},
    net::IpAddr,
    time::{Duration, Instant},
};

use iroh::endpoint::{Incoming, IncomingAddr};
use shoal_proto::NodeId;
use tokio::{
    sync::mpsc,
    task::{AbortHandle, JoinSet},
    time,
};
use tokio_util::sync::CancellationToken;

use crate::{
    Connection, Plane, Timing,
    connection::code,
    handshake::{self, MembershipKey},
};

/// Handshakes in progress.
const MAX_HANDSHAKES: usize = 128;
/// Connections past the handshake that wait to be accepted; more are closed.
pub(crate) const MAX_READY: usize = 64;
/// How often a failure from the same address is logged.
const LOG_INTERVAL: Duration = Duration::from_secs(60);
/// Addresses whose last failure is remembered; failures of others stay silent until one is forgotten.
const MAX_LOGGED: usize = 256;

/// The actor behind [`Endpoint::accept`](crate::Endpoint::accept).
pub(crate) struct Acceptor {
    quic: iroh::Endpoint,
    id: NodeId,
    key: MembershipKey,
    timing: Timing,
    ready: mpsc::Sender<Connection>,
    handshakes: JoinSet<Result<Connection, Failure>>,
    /// The tasks of `handshakes`, oldest first.
    oldest: VecDeque<AbortHandle>,
    log: FailureLog,
}

/// An attempt that failed: where it came from and why.
struct Failure {
    from: Option<IpAddr>,
    error: String,
}

impl Acceptor {
    pub(crate) fn new(
        quic: iroh::Endpoint,
        id: NodeId,
        key: MembershipKey,
        timing: Timing,
        ready: mpsc::Sender<Connection>,
    ) -> Self {
        let (handshakes, oldest, log) = Default::default();
        Self { quic, id, key, timing, ready, handshakes, oldest, log }
    }

    pub(crate) async fn run(mut self, stop: CancellationToken) {
        loop {
            tokio::select! {
                biased;
                () = stop.cancelled() => return,
                Some(ended) = self.handshakes.join_next() => {
                    self.oldest.retain(|task| !task.is_finished());
                    match ended {
                        Ok(Ok(connection)) => self.hand_over(connection),
                        Ok(Err(failure)) => self.log.record(&failure, Instant::now()),
                        Err(error) if error.is_cancelled() => {}
                        Err(error) => tracing::error!(%error, "handshake task failed"),
                    }
                }
                incoming = self.quic.accept() => match incoming {
                    Some(incoming) => self.admit(incoming),
                    None => return,
                },
            }
        }
    }

    fn admit(&mut self, incoming: Incoming) {
        if self.handshakes.len() >= MAX_HANDSHAKES / 2 && !incoming.remote_addr_validated() {
            // Fails only for an address that is validated already.
            let _ = incoming.retry();
            return;
        }
        if self.handshakes.len() >= MAX_HANDSHAKES
            && let Some(oldest) = self.oldest.pop_front()
        {
            oldest.abort();
        }
        let shake = shake(incoming, self.id, self.key.clone(), self.timing);
        self.oldest.push_back(self.handshakes.spawn(shake));
    }

    fn hand_over(&self, connection: Connection) {
        if let Err(error) = self.ready.try_send(connection) {
            let connection = error.into_inner();
            tracing::warn!(node = %connection.peer().short(), "connection dropped: nobody accepts");
            connection.close_with(code::BUSY, "busy");
        }
    }
}

async fn shake(
    incoming: Incoming,
    me: NodeId,
    key: MembershipKey,
    timing: Timing,
) -> Result<Connection, Failure> {
    let from = match incoming.remote_addr() {
        IncomingAddr::Ip(addr) => Some(addr.ip()),
        _ => None,
    };
    let fail = |error: String| Failure { from, error };
    let tls = time::timeout(timing.handshake, incoming.into_future()).await;
    let quic = tls
        .map_err(|_| fail(format!("no TLS handshake within {:?}", timing.handshake)))?
        .map_err(|error| fail(error.to_string()))?;
    let plane = Plane::from_alpn(quic.alpn()).ok_or_else(|| fail("unknown protocol".to_owned()))?;
    handshake::respond(quic, me, &key, plane, timing).await.map_err(|error| fail(error.to_string()))
}

/// Says once per address and minute that strangers are at the door.
#[derive(Default)]
struct FailureLog {
    last: HashMap<Option<IpAddr>, Instant>,
}

impl FailureLog {
    fn record(&mut self, failure: &Failure, now: Instant) {
        if self.is_due(failure.from, now) {
            tracing::warn!(from = ?failure.from, reason = failure.error, "incoming connection refused");
        }
    }

    fn is_due(&mut self, from: Option<IpAddr>, now: Instant) -> bool {
        self.last.retain(|_, last| now.duration_since(*last) < LOG_INTERVAL);
        if self.last.len() >= MAX_LOGGED || self.last.contains_key(&from) {
            return false;
        }
        self.last.insert(from, now);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn from(last_byte: u8) -> Option<IpAddr> {
        Some(IpAddr::from([10, 0, 0, last_byte]))
    }

    #[test]
    fn an_address_is_logged_once_a_minute() {
        let (mut log, start) = (FailureLog::default(), Instant::now());
        assert!(log.is_due(from(1), start));
        assert!(!log.is_due(from(1), start + LOG_INTERVAL / 2));
        assert!(log.is_due(from(2), start + LOG_INTERVAL / 2));
        assert!(log.is_due(from(1), start + LOG_INTERVAL));
    }

    #[test]
    fn a_crowd_of_addresses_neither_floods_the_log_nor_grows_it() {
        let (mut log, start) = (FailureLog::default(), Instant::now());
        let crowd = (0..10_000_u32).map(|ip| Some(IpAddr::from(ip.to_be_bytes())));
        let n_logged = crowd.filter(|ip| log.is_due(*ip, start)).count();
        assert_eq!((n_logged, log.last.len()), (MAX_LOGGED, MAX_LOGGED));
        assert!(log.is_due(from(1), start + LOG_INTERVAL), "room again after a minute");
    }
}
