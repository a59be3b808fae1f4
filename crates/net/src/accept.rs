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

use iroh::endpoint::{Incoming, IncomingAddr, VarInt};
use tokio::{
    sync::mpsc,
    task::{AbortHandle, JoinSet},
    time,
};
use tokio_util::sync::CancellationToken;

use crate::{
    Connection, Error, Membership, Plane, Timing, connection::code, error::TicketRefusal,
    handshake, join,
};

/// Handshakes in progress.
const MAX_HANDSHAKES: usize = 128;
/// Connections past the handshake that wait to be accepted; more are closed.
pub(crate) const MAX_READY: usize = 64;
/// How often a failure from the same address is logged.
const LOG_INTERVAL: Duration = Duration::from_secs(60);
/// Wrong tickets that an address may show within [`LOG_INTERVAL`]: somebody who mistypes is slower.
const MAX_WRONG_TICKETS: u32 = 16;
/// Addresses whose last failure is remembered; failures of others stay silent until one is forgotten.
const MAX_LOGGED: usize = 256;

/// The actor behind [`Endpoint::accept`](crate::Endpoint::accept).
pub(crate) struct Acceptor {
    quic: iroh::Endpoint,
    membership: Membership,
    timing: Timing,
    ready: mpsc::Sender<Connection>,
    /// Each ends with the connection of a member, or with none: a device has joined.
    handshakes: JoinSet<Result<Option<Connection>, Failure>>,
    /// The tasks of `handshakes`, oldest first.
    oldest: VecDeque<AbortHandle>,
    log: FailureLog,
    wrong_tickets: WrongTickets,
}

/// An attempt that failed: where it came from and why.
struct Failure {
    from: Option<IpAddr>,
    error: String,
    is_wrong_ticket: bool,
}

impl Acceptor {
    pub(crate) fn new(
        quic: iroh::Endpoint,
        membership: Membership,
        timing: Timing,
        ready: mpsc::Sender<Connection>,
    ) -> Self {
        let (handshakes, oldest, log, wrong_tickets) = Default::default();
        Self { quic, membership, timing, ready, handshakes, oldest, log, wrong_tickets }
    }

    pub(crate) async fn run(mut self, stop: CancellationToken) {
        loop {
            tokio::select! {
                biased;
                () = stop.cancelled() => return,
                Some(ended) = self.handshakes.join_next() => {
                    self.oldest.retain(|task| !task.is_finished());
                    match ended {
                        Ok(Ok(Some(connection))) => self.hand_over(connection),
                        Ok(Ok(None)) => {}
                        Ok(Err(failure)) => self.failed(&failure, Instant::now()),
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
        let from = source(&incoming);
        let may_join = self.wrong_tickets.may_try(from, Instant::now());
        let shake = shake(incoming, self.membership.clone(), self.timing, may_join);
        self.oldest.push_back(self.handshakes.spawn(shake));
    }

    fn failed(&mut self, failure: &Failure, now: Instant) {
        if failure.is_wrong_ticket {
            self.wrong_tickets.record(failure.from, now);
        }
        self.log.record(failure, now);
    }

    fn hand_over(&self, connection: Connection) {
        if let Err(error) = self.ready.try_send(connection) {
            let connection = error.into_inner();
            tracing::warn!(node = %connection.peer().short(), "connection dropped: nobody accepts");
            connection.close_with(code::BUSY, "busy");
        }
    }
}

fn source(incoming: &Incoming) -> Option<IpAddr> {
    match incoming.remote_addr() {
        IncomingAddr::Ip(addr) => Some(addr.ip()),
        _ => None,
    }
}

async fn shake(
    incoming: Incoming,
    membership: Membership,
    timing: Timing,
    may_join: bool,
) -> Result<Option<Connection>, Failure> {
    let from = source(&incoming);
    let fail = |error: String| Failure { from, error, is_wrong_ticket: false };
    let tls = time::timeout(timing.handshake, incoming.into_future()).await;
    let quic = tls
        .map_err(|_| fail(format!("no TLS handshake within {:?}", timing.handshake)))?
        .map_err(|error| fail(error.to_string()))?;
    let plane = Plane::from_alpn(quic.alpn()).ok_or_else(|| fail("unknown protocol".to_owned()))?;
    let result = match plane {
        Plane::Join if may_join => join::respond(&quic, &membership, timing).await.map(|()| None),
        Plane::Join => {
            let refusal = TicketRefusal::TooMany;
            quic.close(VarInt::from_u32(refusal.code()), refusal.to_string().as_bytes());
            return Err(fail("too many wrong tickets".to_owned()));
        }
        Plane::Control | Plane::Data | Plane::Transfer => {
            handshake::respond(quic, &membership, plane, timing).await.map(Some)
        }
    };
    result.map_err(|error| match error {
        Error::TicketRefused { peer, refusal } => Failure {
            is_wrong_ticket: refusal == TicketRefusal::Unknown,
            ..fail(format!("ticket of peer {}: {refusal}", peer.short()))
        },
        error => fail(error.to_string()),
    })
}

/// Keeps an address that guesses tickets waiting. Guessing 128 bits is hopeless anyway; this keeps it cheap, too.
#[derive(Default)]
struct WrongTickets {
    /// Wrong tickets of an address, and when the first of them came.
    counts: HashMap<Option<IpAddr>, (u32, Instant)>,
}

impl WrongTickets {
    fn may_try(&self, from: Option<IpAddr>, now: Instant) -> bool {
        self.counts.get(&from).is_none_or(|(count, since)| {
            *count < MAX_WRONG_TICKETS || now.duration_since(*since) >= LOG_INTERVAL
        })
    }

    fn record(&mut self, from: Option<IpAddr>, now: Instant) {
        self.counts.retain(|_, (_, since)| now.duration_since(*since) < LOG_INTERVAL);
        if self.counts.len() < MAX_LOGGED || self.counts.contains_key(&from) {
            self.counts.entry(from).or_insert((0, now)).0 += 1;
        }
    }
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
    fn an_address_with_too_many_wrong_tickets_waits_for_a_minute() {
        let (mut wrong, start) = (WrongTickets::default(), Instant::now());
        for _ in 0..MAX_WRONG_TICKETS {
            assert!(wrong.may_try(from(1), start));
            wrong.record(from(1), start);
        }
        assert!(!wrong.may_try(from(1), start + LOG_INTERVAL / 2));
        assert!(wrong.may_try(from(2), start));
        assert!(wrong.may_try(from(1), start + LOG_INTERVAL));
        for ip in 0..10_000_u32 {
            wrong.record(Some(IpAddr::from(ip.to_be_bytes())), start);
        }
        assert_eq!(wrong.counts.len(), MAX_LOGGED);
        wrong.record(from(2), start + LOG_INTERVAL);
        assert_eq!(wrong.counts.len(), 1, "room again after a minute");
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
