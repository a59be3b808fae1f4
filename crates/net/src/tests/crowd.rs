//! Ten thousand strangers at once: they cost a bounded number of places and one line of the log, and disturb nobody.

use std::{
    collections::HashSet,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Instant,
};

use shoal_proto::control::Response;
use tokio::{net::UdpSocket, task::JoinSet};
use tracing::{Event, Metadata, span};

use super::*;

/// Whole handshakes, unless the variable says otherwise: `SHOAL_CROWD=10000` is the long form.
const N_STRANGERS: usize = 1000;
const VARIABLE: &str = "SHOAL_CROWD";
/// Handshakes under way at once: more than the acceptor has places without asking for proofs of address.
const N_AT_ONCE: usize = 100;
/// Endpoints that they come from, each with a key of its own.
const N_ENDPOINTS: usize = 20;
/// The acceptor's places.
const N_PLACES: usize = 128;
const N_DATAGRAMS: usize = 10_000;
/// How often the members exchange something while the crowd is there.
const ASK_EVERY: usize = 50;

/// Counts what a program's operator would see.
#[derive(Clone, Default)]
struct Lines(Arc<AtomicUsize>);

struct Counting(Lines);

impl tracing::Subscriber for Counting {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.target().starts_with("shoal_net") && *metadata.level() <= tracing::Level::INFO
    }

    fn new_span(&self, _: &span::Attributes<'_>) -> span::Id {
        span::Id::from_u64(1)
    }

    fn record(&self, _: &span::Id, _: &span::Record<'_>) {}

    fn record_follows_from(&self, _: &span::Id, _: &span::Id) {}

    fn event(&self, _: &Event<'_>) {
        self.0.0.fetch_add(1, Ordering::Relaxed);
    }

    fn enter(&self, _: &span::Id) {}

    fn exit(&self, _: &span::Id) {}
}

/// Counts this thread's lines until both are dropped. With one subscriber alone `tracing` asks only whoever comes to a line of code
/// first, which may be the thread of another test, and remembers that nobody listens.
fn count(lines: &Lines) -> (tracing::subscriber::DefaultGuard, tracing::Dispatch) {
    let other = tracing::Dispatch::new(Counting(Lines::default()));
    (tracing::subscriber::set_default(Counting(lines.clone())), other)
}

/// Time-outs that never come: whoever gets a place gets it by the acceptor's rules, and a busy machine stalls for longer than a
/// link may be silent.
fn timing() -> Timing {
    Timing { connect: PATIENCE, handshake: PATIENCE, idle: PATIENCE, ..Timing::default() }
}

/// Two members and their link, over which one asks and the other answers.
struct Friends {
    member: Endpoint,
    asking: Connection,
    answering: JoinSet<()>,
    n_asked: u64,
    _friend: Endpoint,
}

impl Friends {
    async fn meet() -> Self {
        let (member, friend) = (member_with(1, timing()).await, member_with(1, timing()).await);
        let (asking, answerer) = pair(&friend, &member, Plane::Control).await;
        let mut answering = JoinSet::new();
        answering.spawn(async move {
            while let Ok((_, responder)) = answerer.next_request().await {
                responder.respond(&Response::Ok).await.unwrap();
            }
        });
        Self { member, asking, answering, n_asked: 0, _friend: friend }
    }

    async fn ask(&mut self) {
        self.n_asked += 1;
        let answer = self.asking.request(&heartbeat(self.n_asked), PATIENCE).await;
        assert_eq!(answer.unwrap(), Response::Ok, "request {}", self.n_asked);
        assert_eq!(self.asking.close_reason(), None);
        assert_eq!(self.answering.len(), 1);
    }

    /// Lets a third member in.
    async fn admit_another(&self) {
        let newcomer = member_with(1, timing()).await;
        let (_dialled, accepted) = pair(&newcomer, &self.member, Plane::Control).await;
        assert_eq!(accepted.peer(), newcomer.id(), "nobody came before");
    }
}

/// Comes in, and says nothing, or what is no hello.
async fn come(
    stranger: iroh::Endpoint,
    member: Endpoint,
    talks: bool,
) -> Option<iroh::endpoint::Connection> {
    let quic = intrude(&stranger, &member, Plane::Control.alpn()).await.ok()?;
    if talks {
        let (mut send, _receive) = quic.open_bi().await.ok()?;
        let _ = send.write_all(&[1; 73]).await;
        let _ = send.finish();
        quic.closed().await;
    }
    Some(quic)
}

#[tokio::test]
async fn a_crowd_of_strangers_costs_places_that_are_counted_and_one_line() {
    let lines = Lines::default();
    let _guards = count(&lines);
    let n_strangers =
        std::env::var(VARIABLE).map_or(N_STRANGERS, |n| n.parse().expect("a number of strangers"));
    let mut friends = Friends::meet().await;
    let mut endpoints = Vec::new();
    for _ in 0..N_ENDPOINTS {
        endpoints.push(stranger(&[]).await);
    }
    let started = Instant::now();
    let (mut coming, mut connections) = (JoinSet::new(), Vec::new());
    let (mut n_came, mut n_most) = (0, 0);
    for i in 0..n_strangers {
        let (endpoint, member) = (endpoints[i % N_ENDPOINTS].clone(), friends.member.clone());
        coming.spawn(come(endpoint, member, i % 4 == 0));
        if coming.len() >= N_AT_ONCE {
            let came: Option<iroh::endpoint::Connection> =
                coming.join_next().await.unwrap().unwrap();
            n_came += usize::from(came.is_some());
            connections.extend(came.filter(|quic| quic.close_reason().is_none()));
        }
        if i % ASK_EVERY == 0 {
            friends.ask().await;
            connections.retain(|quic| quic.close_reason().is_none());
            n_most = n_most.max(connections.len());
        }
    }
    while let Some(came) = coming.join_next().await {
        let came = came.unwrap();
        n_came += usize::from(came.is_some());
        connections.extend(came);
    }
    assert!(n_came > n_strangers * 9 / 10, "only {n_came} strangers came");
    // A stranger hears with a delay that its place is another's.
    soon(async {
        while connections.iter().filter(|quic| quic.close_reason().is_none()).count() > N_PLACES {
            friends.ask().await;
        }
    })
    .await;
    let minutes = started.elapsed().as_secs() as usize / 60;
    let n_lines = lines.0.load(Ordering::Relaxed);
    assert!((1..=1 + minutes).contains(&n_lines), "{n_lines} lines in {minutes} minutes");
    // Those that were shown out and not heard of yet, too.
    assert!(n_most <= N_PLACES + 2 * N_AT_ONCE, "{n_most} held a connection at once");
    friends.admit_another().await;
    friends.ask().await;
}

/// The first datagram of a dial, as a plain socket gets it.
async fn first_datagram() -> Vec<u8> {
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let dialler = stranger(&[]).await;
    let nobody = Identity::generate().unwrap().id();
    let public = PublicKey::from_bytes(&nobody.0).unwrap();
    let way = TransportAddr::Ip(socket.local_addr().unwrap());
    let addr = EndpointAddr::from_parts(public, [way]);
    let mut buffer = vec![0; 2000];
    let dial = dialler.connect(addr, Plane::Control.alpn().as_bytes());
    let n_bytes = tokio::select! {
        received = soon(socket.recv(&mut buffer)) => received.unwrap(),
        dialled = dial => panic!("nobody was there: {}", dialled.is_ok()),
    };
    buffer.truncate(n_bytes);
    buffer
}

#[tokio::test]
async fn ten_thousand_first_packets_cost_nothing_that_stays() {
    let lines = Lines::default();
    let _guards = count(&lines);
    let mut friends = Friends::meet().await;
    let to = *friends.member.addrs().first().unwrap();
    let first = first_datagram().await;
    // The header's form, type and version, the length of the connection's id, and the id.
    let id_at = 6..6 + usize::from(first[5]);
    let mut ports = Vec::new();
    for _ in 0..100 {
        ports.push(UdpSocket::bind("127.0.0.1:0").await.unwrap());
    }
    let mut answered = HashSet::new();
    for i in 0..N_DATAGRAMS {
        let mut datagram = first.clone();
        match i % 4 {
            // A replay, from another address.
            0 => {}
            // Another id: its keys are derived, and what it says cannot be opened with them.
            1 => datagram[id_at.clone()].fill(i.to_le_bytes()[0] ^ i.to_le_bytes()[1]),
            // A version that nobody speaks.
            2 => datagram[1..5].copy_from_slice(&[0x1a, 0x2a, 0x3a, 0x4a]),
            _ => datagram[id_at.end..].fill(i.to_le_bytes()[0]),
        }
        let port = &ports[i % ports.len()];
        // A full buffer of loopback loses it, as a network would.
        let _ = port.send_to(&datagram, to).await;
        let mut answer = [0; 2000];
        if port.try_recv(&mut answer).is_ok() {
            answered.insert(i % ports.len());
        }
        if i % (10 * ASK_EVERY) == 0 {
            friends.ask().await;
        }
    }
    assert!(!answered.is_empty(), "they arrived: a wrong version is answered");
    friends.admit_another().await;
    friends.ask().await;
    let n_lines = lines.0.load(Ordering::Relaxed);
    assert!(n_lines <= 1, "{n_lines} lines");
}
