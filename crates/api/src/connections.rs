//! How many clients may be connected at once, and who has to go when more come.
//!
//! A connection costs memory and a file descriptor, of which a phone's process has about a thousand, for as long as the other
//! side likes. So there are [`CONNECTIONS_MAX`] places; a newcomer always gets one, and the one that is missed least goes:
//!
//! 1. who has never asked anything (not even one whole head of a request), the most silent first;
//! 2. who has been answered last, or is being answered: streams write at least every few seconds;
//! 3. who waits for an answer.
//!
//! However many strangers connect and stay silent, a client that asks at once is served. Nothing of HTTP is parsed here but
//! the empty line that ends a head.

use std::{
    collections::HashMap,
    io,
    net::SocketAddr,
    pin::Pin,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering},
    },
    task::{Context, Poll},
    time::{Duration, Instant},
};

use axum::serve::Listener;
use futures_util::task::AtomicWaker;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpListener, TcpStream},
};
use tracing::warn;

/// Connections at once: the most answers and followers of events that a node has, and as many again for what is quick. With
/// everything else that a node opens it stays far below the thousand files that a process may have.
const CONNECTIONS_MAX: usize = 256;
/// How often it is logged that clients are sent away.
const LOG_INTERVAL: Duration = Duration::from_secs(60);
/// What ends a head.
const HEAD_END: [u8; 4] = *b"\r\n\r\n";

/// A listener that admits everybody and keeps [`CONNECTIONS_MAX`].
#[derive(Debug)]
pub(crate) struct Bounded {
    listener: TcpListener,
    places: Arc<Places>,
}

impl Bounded {
    pub(crate) fn new(listener: TcpListener) -> Self {
        let (taken, started) = (Mutex::default(), Instant::now());
        Self { listener, places: Arc::new(Places { taken, started }) }
    }
}

impl Listener for Bounded {
    type Io = Client;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Client, SocketAddr) {
        let (stream, addr) = Listener::accept(&mut self.listener).await;
        (self.places.seat(stream), addr)
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }
}

#[derive(Debug)]
struct Places {
    taken: Mutex<Taken>,
    started: Instant,
}

#[derive(Debug, Default)]
struct Taken {
    places: HashMap<u64, Arc<Place>>,
    /// Places are never numbered again.
    n_given: u64,
    logged: Option<Instant>,
}

impl Places {
    fn seat(self: &Arc<Self>, stream: TcpStream) -> Client {
        let place = Arc::new(Place::new(self.now_us()));
        let mut taken = self.lock();
        if taken.places.len() >= CONNECTIONS_MAX {
            taken.send_one_away();
            if taken.is_log_due(Instant::now()) {
                let n_max = CONNECTIONS_MAX;
                warn!(n_max, "too many connections: the most silent ones are closed");
            }
        }
        taken.n_given += 1;
        let id = taken.n_given;
        taken.places.insert(id, Arc::clone(&place));
        Client { stream, id, place, places: Arc::clone(self), n_of_end: 0 }
    }

    /// Microseconds since the listener began: for 580,000 years.
    fn now_us(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_micros()).unwrap_or(u64::MAX)
    }

    fn lock(&self) -> MutexGuard<'_, Taken> {
        // Changed by single insertions and removals: whole even after a panic.
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Taken {
    fn send_one_away(&mut self) {
        let least = self.places.iter().min_by_key(|(id, place)| (place.claim(), **id));
        if let Some(id) = least.map(|(id, _)| *id)
            && let Some(place) = self.places.remove(&id)
        {
            place.leave();
        }
    }

    fn is_log_due(&mut self, now: Instant) -> bool {
        let is_due = self.logged.is_none_or(|at| now.duration_since(at) >= LOG_INTERVAL);
        if is_due {
            self.logged = Some(now);
        }
        is_due
    }
}

/// What a client has last done.
mod stage {
    pub(super) const NEVER_ASKED: u8 = 0;
    pub(super) const ANSWERED: u8 = 1;
    pub(super) const WAITS: u8 = 2;
}

#[derive(Debug)]
struct Place {
    stage: AtomicU8,
    /// When a byte went through last, see [`Places::now_us`].
    moved_us: AtomicU64,
    has_to_leave: AtomicBool,
    /// Its task.
    waker: AtomicWaker,
}

impl Place {
    fn new(now_us: u64) -> Self {
        Self {
            stage: AtomicU8::new(stage::NEVER_ASKED),
            moved_us: AtomicU64::new(now_us),
            has_to_leave: AtomicBool::new(false),
            waker: AtomicWaker::new(),
        }
    }

    /// What it may stay by: the least goes.
    fn claim(&self) -> (u8, u64) {
        (self.stage.load(Ordering::Relaxed), self.moved_us.load(Ordering::Relaxed))
    }

    fn moved(&self, now_us: u64, stage: Option<u8>) {
        self.moved_us.store(now_us, Ordering::Relaxed);
        if let Some(stage) = stage {
            self.stage.store(stage, Ordering::Relaxed);
        }
    }

    fn leave(&self) {
        self.has_to_leave.store(true, Ordering::Release);
        self.waker.wake();
    }

    /// Fails if it has to leave, and wakes its task when it will have to.
    fn check(&self, ctx: &Context<'_>) -> io::Result<()> {
        self.waker.register(ctx.waker());
        if self.has_to_leave.load(Ordering::Acquire) {
            return Err(io::ErrorKind::ConnectionAborted.into());
        }
        Ok(())
    }
}

/// A connection with its place, which it frees when it ends.
#[derive(Debug)]
pub(crate) struct Client {
    stream: TcpStream,
    id: u64,
    place: Arc<Place>,
    places: Arc<Places>,
    /// Bytes of [`HEAD_END`] that came last, until the first head is whole.
    n_of_end: usize,
}

impl Client {
    /// Sends what is small at once.
    pub(crate) fn set_nodelay(&self) -> io::Result<()> {
        self.stream.set_nodelay(true)
    }

    /// Looks whether its first head is whole with these bytes.
    fn has_asked(&mut self, bytes: &[u8]) -> bool {
        for &byte in bytes {
            if self.n_of_end == HEAD_END.len() {
                break;
            }
            self.n_of_end = match self.n_of_end {
                n if HEAD_END[n] == byte => n + 1,
                _ => usize::from(byte == HEAD_END[0]),
            };
        }
        self.n_of_end == HEAD_END.len()
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        self.places.lock().places.remove(&self.id);
    }
}

impl AsyncRead for Client {
    fn poll_read(
        mut self: Pin<&mut Self>,
        ctx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.place.check(ctx)?;
        let n_before = buffer.filled().len();
        let read = Pin::new(&mut self.stream).poll_read(ctx, buffer);
        let new = &buffer.filled()[n_before..];
        if !new.is_empty() {
            let stage = self.has_asked(new).then_some(stage::WAITS);
            self.place.moved(self.places.now_us(), stage);
        }
        read
    }
}

impl AsyncWrite for Client {
    fn poll_write(
        mut self: Pin<&mut Self>,
        ctx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.place.check(ctx)?;
        let written = Pin::new(&mut self.stream).poll_write(ctx, bytes);
        self.note_written(written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        ctx: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.place.check(ctx)?;
        let written = Pin::new(&mut self.stream).poll_write_vectored(ctx, parts);
        self.note_written(written)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, ctx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(ctx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, ctx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(ctx)
    }
}

impl Client {
    fn note_written(&self, written: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        if let Poll::Ready(Ok(1..)) = written {
            // Whoever was refused before its head was whole has asked nothing.
            let stage = (self.n_of_end == HEAD_END.len()).then_some(stage::ANSWERED);
            self.place.moved(self.places.now_us(), stage);
        }
        written
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_waits_for_an_answer_goes_last() {
        let mut taken = Taken::default();
        let mut add = |id: u64, stage: u8, moved_us: u64| {
            let place = Arc::new(Place::new(moved_us));
            place.stage.store(stage, Ordering::Relaxed);
            taken.places.insert(id, Arc::clone(&place));
            place
        };
        let _waits = add(1, stage::WAITS, 1);
        let _answered = add(2, stage::ANSWERED, 3);
        let _answered_long_ago = add(3, stage::ANSWERED, 2);
        let silent = add(4, stage::NEVER_ASKED, 5);
        let _longest_silent = add(5, stage::NEVER_ASKED, 4);
        let mut order = Vec::new();
        while !taken.places.is_empty() {
            let before: Vec<u64> = taken.places.keys().copied().collect();
            taken.send_one_away();
            order.extend(before.into_iter().filter(|id| !taken.places.contains_key(id)));
        }
        assert_eq!(order, [5, 4, 3, 2, 1]);
        assert!(silent.has_to_leave.load(Ordering::Relaxed));
    }

    #[test]
    fn it_is_logged_once_a_minute() {
        let (mut taken, start) = (Taken::default(), Instant::now());
        let n_logged = (0..10_000).filter(|_| taken.is_log_due(start)).count();
        assert_eq!(n_logged, 1);
        assert!(taken.is_log_due(start + LOG_INTERVAL));
    }

    #[tokio::test]
    async fn a_head_is_whole_with_its_empty_line_however_it_comes() {
        let mut listener = Bounded::new(TcpListener::bind("127.0.0.1:0").await.unwrap());
        let addr = listener.local_addr().unwrap();
        for (pieces, expected) in [
            (&["GET / HTTP/1.1\r\nhost: a\r\n\r\n"][..], true),
            (&["GET / HTTP/1.1\r", "\n\r", "\n"][..], true),
            (&["a\r\n\r\r\n\r\n and a body"][..], true),
            (&["GET / HTTP/1.1\r\nhost: a\r\n"][..], false),
            (&["\r\r\r\r\n\n\n\n"][..], false),
            (&["G"][..], false),
        ] {
            let (_stream, (mut client, _)) =
                tokio::join!(TcpStream::connect(addr), Listener::accept(&mut listener));
            let asked = pieces.iter().map(|piece| client.has_asked(piece.as_bytes())).last();
            assert_eq!(asked, Some(expected), "{pieces:?}");
        }
    }
}
