//! Finding the other members on the local network: ask, never only announce.
//!
//! A node that looks for somebody sends signed queries: to a multicast group and the broadcast address of each chosen
//! interface, to remembered addresses, and, if nobody answers, to every host of its own subnets. Whoever holds the
//! cluster's key answers by unicast to the query's source. Both learn the other's addresses. A node that looks for nobody
//! is silent and only answers.
//!
//! Phones: without a multicast lock, which Termux cannot hold, many WiFi chips drop multicast and broadcast that a
//! sleeping or even a waking phone should receive, but let unicast pass. So a phone finds others by *its* queries, whose
//! answers are unicast; two such phones find each other by the sweep or by what they remember; a computer finds phones by
//! the sweep, or when they ask.
//!
//! ```text
//! Discovery (handle) ── settings ──► Actor ─ Schedule (when, pure)
//!        ▲                             │  └ Sockets (where) ◄─► network
//!        └────────── Found ────────────┘
//! ```
//!
//! What is found is a hint: a replayed query can name wrong addresses. The dial that follows proves key and membership.

mod actor;
mod limits;
mod observations;
mod packet;
mod schedule;
mod sockets;

use std::{
    collections::VecDeque,
    fmt,
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use shoal_proto::NodeId;
use tokio::{
    sync::{Mutex as AsyncMutex, Notify, mpsc},
    time::Instant,
};
use tokio_util::{
    sync::{CancellationToken, DropGuard},
    task::TaskTracker,
};

pub use observations::{InterfaceObservations, MemberSeen, Observations};
pub use packet::Method;

use crate::{Error, Interfaces, key_file};
use actor::Actor;
use limits::{AnswerLimit, LogLimit, News};
use packet::PacketKey;
use schedule::Schedule;
use sockets::Sockets;

/// The UDP port on which every node listens for queries: of the dynamic range, so that it is nobody else's.
pub const PORT: u16 = 52416;
/// Keys in use: the current one and those of generations that absent members may still hold.
const MAX_KEYS: usize = 8;
/// Packets that wait for the actor, half a kilobyte each.
const MAX_INBOX: usize = 256;
/// Members that wait to be taken. What does not fit is found again.
const MAX_READY: usize = 64;

/// What discovery needs.
#[derive(Debug, Clone)]
pub struct DiscoveryConfig {
    /// This node's id.
    pub id: NodeId,
    /// A random number of this process's start: tells a restart, and a second node with the same id.
    pub run: u64,
    /// Through which interfaces to ask, and from where to be heard.
    pub interfaces: Interfaces,
    /// The UDP port that all nodes share: [`PORT`], except in tests.
    pub port: u16,
    /// This software's version, at most 32 bytes.
    pub software: String,
}

/// Whether the node looks for somebody.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Looking {
    /// Nobody is missing: discovery only answers.
    No,
    /// A member is missing, or the node has just started.
    Yes {
        /// Where members were last, asked first; their ports do not matter. At most 32 hosts are used.
        hints: Vec<SocketAddr>,
    },
}

/// A member that was heard.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// Its id.
    pub node: NodeId,
    /// Its run.
    pub run: u64,
    /// Where to dial it, the likeliest first; never empty.
    pub addrs: Vec<SocketAddr>,
    /// Its software's version.
    pub software: String,
}

#[derive(Clone)]
struct Settings {
    keys: Vec<PacketKey>,
    addrs: Vec<SocketAddr>,
    looking: Looking,
}

/// The search for the other members. Clones share it; it ends when it is stopped or the last clone is dropped.
#[derive(Clone)]
pub struct Discovery {
    inner: Arc<Inner>,
}

struct Inner {
    settings: Arc<Mutex<Settings>>,
    has_changed: Arc<Notify>,
    observations: Arc<Mutex<Observations>>,
    found: AsyncMutex<mpsc::Receiver<Found>>,
    tasks: TaskTracker,
    stop: CancellationToken,
    _stop_on_drop: DropGuard,
}

impl Discovery {
    /// Starts to listen. It says and understands nothing until it has keys, and looks for nobody until told.
    ///
    /// A socket that cannot be opened is an observation, and is tried again.
    ///
    /// # Errors
    /// If the interfaces cannot be listed, a name is unknown, or the system has no randomness.
    ///
    /// # Panics
    /// Outside a tokio runtime.
    pub fn start(config: DiscoveryConfig) -> Result<Self, Error> {
        config.interfaces.chosen()?;
        let seed = u64::from_le_bytes(key_file::random()?);
        let settings = Settings { keys: Vec::new(), addrs: Vec::new(), looking: Looking::No };
        let settings = Arc::new(Mutex::new(settings));
        let has_changed = Arc::new(Notify::new());
        let observations = Arc::new(Mutex::new(Observations::default()));
        let (inbox_tx, inbox) = mpsc::channel(MAX_INBOX);
        let (found_tx, found) = mpsc::channel(MAX_READY);
        let tasks = TaskTracker::new();
        let stop = CancellationToken::new();
        let sockets = Sockets::new(config.interfaces.clone(), config.port, inbox_tx, tasks.clone());
        let actor = Actor {
            config,
            settings: settings.clone(),
            has_changed: has_changed.clone(),
            observations: observations.clone(),
            found: found_tx,
            sockets,
            schedule: Schedule::new(seed),
            started: Instant::now(),
            keys: Vec::new(),
            addrs: Vec::new(),
            looking: Looking::No,
            nonces: VecDeque::new(),
            answers: AnswerLimit::new(),
            logs: LogLimit::default(),
            news: News::default(),
        };
        tasks.spawn(actor.run(inbox, stop.clone()));
        tasks.close();
        let inner = Inner {
            settings,
            has_changed,
            observations,
            found: AsyncMutex::new(found),
            tasks,
            _stop_on_drop: stop.clone().drop_guard(),
            stop,
        };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// Sets the secrets to derive keys from: the current one, with which queries are signed, then older ones that are
    /// still understood. At most eight are used.
    pub fn set_keys(&self, keys: &[[u8; 32]]) {
        let keys = keys.iter().take(MAX_KEYS).map(PacketKey::derive).collect();
        self.change(|settings| settings.keys = keys);
    }

    /// Sets where this node can be dialled, the best first; at most eight are told. If it is looking, it asks afresh.
    pub fn set_addrs(&self, addrs: Vec<SocketAddr>) {
        self.change(|settings| settings.addrs = addrs);
    }

    /// Starts or stops to look. While it looks, new hints are taken without asking afresh.
    pub fn set_looking(&self, looking: Looking) {
        self.change(|settings| settings.looking = looking);
    }

    fn change(&self, change: impl FnOnce(&mut Settings)) {
        change(&mut lock(&self.inner.settings));
        self.inner.has_changed.notify_one();
    }

    /// Waits for the next member that is heard, by its query or its answer; `None` once stopped.
    ///
    /// The same member is told again only when its run or an address is new, or ten seconds have passed. Dropping the
    /// future loses nothing.
    pub async fn next(&self) -> Option<Found> {
        self.inner.found.lock().await.recv().await
    }

    /// What was seen of the network since the start.
    pub fn observations(&self) -> Observations {
        lock(&self.inner.observations).clone()
    }

    /// Ends the search and closes its sockets.
    pub async fn stop(&self) {
        self.inner.stop.cancel();
        self.inner.tasks.wait().await;
    }
}

impl fmt::Debug for Discovery {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Discovery").finish_non_exhaustive()
    }
}

/// What a mutex of plain data guards is whole even if a thread has panicked with it.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
