//! Fetches the wanted chunks of one file, from peers and from where it is published, until they are on the disk.
//!
//! [`Fetch::run`] is a loop over four kinds of news: a chunk was written, a request ended, it is time to exchange with the
//! peers, or something more is wanted. After each it hands out requests to whatever is free:
//!
//! ```text
//! missing = wanted − held − on its way
//! peers:    what a peer holds comes from it, two transfers per peer
//! outside:  what nobody holds, four requests at once; who fetches which piece: `share`
//! nothing left, nothing on its way: done
//! ```
//!
//! A peer's chunk must have the hash that a verified peer published; as long as there is none, the hash that the giving peer
//! itself states, and at the end of a whole file its SHA-256 decides. A peer whose bytes are wrong is named and not asked
//! again. If the SHA-256 is wrong, everything that came from peers is fetched again from outside and compared, which finds
//! the culprits.
//!
//! - `share`: who fetches what
//! - `worker`: one request
//! - `front`: the SHA-256 that follows what has arrived
//! - `limiter`: the bandwidth limit

mod fetch;
mod front;
pub(crate) mod limiter;
mod share;
mod worker;

use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use shoal_proto::{
    ChunkSet, NodeId,
    control::Holding,
    model::{Digest, FileId},
};
use tokio::{sync::Notify, time::Instant};

pub(crate) use fetch::Fetch;

use crate::{
    HubError, PartialError,
    partial::{ChunkSource, Partial},
};

/// How long a download waits for what.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DownloadTiming {
    /// Between two exchanges with the peers: often enough that a chunk which a peer has got is soon taken from it.
    pub exchange: Duration,
    /// Without a chunk from outside, after which a peer is not waited for: a slow line needs some seconds for each chunk.
    pub stalled: Duration,
    /// Before a server that failed is asked again; doubles with each failure in a row.
    pub retry_min: Duration,
    /// Upper bound of that.
    pub retry_max: Duration,
    /// Failures in a row after which the download gives up, to be resumed by hand: with the pauses above some minutes, which
    /// covers a walk from one WiFi to another.
    pub n_failures_max: u32,
    /// For a peer that has the rest to appear, if there is no server to ask.
    pub patience: Duration,
}

impl Default for DownloadTiming {
    fn default() -> Self {
        Self {
            exchange: Duration::from_millis(100),
            stalled: Duration::from_secs(15),
            retry_min: Duration::from_secs(1),
            retry_max: Duration::from_secs(30),
            n_failures_max: 12,
            patience: Duration::from_secs(10),
        }
    }
}

/// Why a download ended before it was complete. What was fetched is kept unless the error says otherwise.
#[derive(Debug, thiserror::Error)]
pub enum DownloadError {
    /// The server does not give it.
    #[error("download of {file}")]
    Hub {
        /// The file's name.
        file: String,
        /// Why.
        source: HubError,
    },
    /// The disk does not take it.
    #[error(transparent)]
    Disk(#[from] PartialError),
    /// No server is known, and no peer has the rest.
    #[error(
        "file {file}: no node of the cluster has {n_chunks} of its chunks, and no server is known that has them"
    )]
    NoSource {
        /// The file's name.
        file: String,
        /// Chunks that nobody has.
        n_chunks: u32,
    },
    /// All bytes came, and they are not those of the file.
    #[error("file {file}: expected {expected}, got {got}, twice: nothing of it was kept")]
    Corrupt {
        /// The file's name.
        file: String,
        /// What it should be.
        expected: Digest,
        /// What came.
        got: Digest,
    },
}

/// Bytes that a download has got, by where they came from.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Received {
    /// From where the model is published.
    pub from_hub: u64,
    /// From other nodes.
    pub from_peers: u64,
}

/// A peer whose bytes were wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BadPeer {
    /// The peer.
    pub node: NodeId,
    /// The first chunk that was wrong.
    pub chunk: u32,
}

/// A partial file and what is going on with it. Shared by its download, the requests of peers, and whoever reads progress.
#[derive(Debug)]
pub(crate) struct OpenFile {
    pub(crate) name: String,
    pub(crate) partial: Partial,
    shared: Mutex<Shared>,
    /// Something changed that the download should look at.
    changed: Notify,
}

#[derive(Debug, Default)]
struct Shared {
    wanted: ChunkSet,
    /// Chunks that are being fetched from outside.
    fetching: ChunkSet,
    is_running: bool,
    is_verified: bool,
    is_finished: bool,
    received: Received,
    /// What the peers said, by peer.
    peers: HashMap<NodeId, Seen>,
    bad_peers: Vec<BadPeer>,
    /// Whether what peers gave turned out to be wrong, so that only the server is believed as long as there is one.
    distrusts_peers: bool,
}

/// What a peer said last.
#[derive(Debug, Clone)]
struct Seen {
    holding: Holding,
    /// When it last had got more from outside, or was first heard of.
    progressed: Instant,
}

impl OpenFile {
    pub(crate) fn new(name: String, partial: Partial) -> Self {
        Self { name, partial, shared: Mutex::default(), changed: Notify::new() }
    }

    pub(crate) fn id(&self) -> FileId {
        self.partial.id()
    }

    /// Adds to what is wanted; a download under way goes on with it. If nothing would be left out, everything is wanted, so
    /// that the file becomes whole and is checked.
    pub(crate) fn want(&self, chunks: &ChunkSet) {
        let mut all = self.partial.held();
        let mut shared = self.shared();
        shared.wanted.extend(chunks);
        all.extend(&shared.wanted);
        if all.len() == self.id().n_chunks() {
            shared.wanted = all;
        }
        drop(shared);
        self.changed.notify_one();
    }

    /// Whether all of the file is there.
    pub(crate) fn is_whole(&self) -> bool {
        self.partial.held().len() == self.id().n_chunks()
    }

    /// Whether something that is wanted is not there, or everything is and the file has not got its name yet.
    pub(crate) fn needs_work(&self) -> bool {
        let is_finished = self.shared().is_finished;
        !is_finished && (!self.missing().is_empty() || self.is_whole())
    }

    /// Whether the SHA-256 of the whole file was compared, and right.
    pub(crate) fn is_verified(&self) -> bool {
        self.shared().is_verified
    }

    /// Notes that the file has got its name.
    pub(crate) fn finished(&self) {
        self.shared().is_finished = true;
    }

    /// What is wanted and not there.
    pub(crate) fn missing(&self) -> ChunkSet {
        let mut missing = self.shared().wanted.clone();
        missing.subtract(&self.partial.held());
        missing
    }

    /// Bytes of these chunks that are not there.
    pub(crate) fn missing_bytes(&self, chunks: &ChunkSet) -> u64 {
        let mut missing = chunks.clone();
        missing.subtract(&self.partial.held());
        self.n_bytes(&missing)
    }

    /// Bytes that are there, and bytes that are wanted, of the wanted ones.
    pub(crate) fn progress(&self) -> (u64, u64) {
        let wanted = self.shared().wanted.clone();
        let n_total = self.n_bytes(&wanted);
        (n_total - self.missing_bytes(&wanted), n_total)
    }

    fn n_bytes(&self, chunks: &ChunkSet) -> u64 {
        chunks.iter().map(|chunk| self.id().chunk_range(chunk)).map(|it| it.end - it.start).sum()
    }

    /// Counts bytes that were written.
    fn count(&self, source: ChunkSource, n_bytes: u64) {
        let received = &mut self.shared().received;
        match source {
            ChunkSource::Hub => received.from_hub += n_bytes,
            ChunkSource::Peer => received.from_peers += n_bytes,
        }
    }

    /// Forgets what peers gave, and takes nothing more from them. Returns whether there was anything.
    pub(crate) fn distrust_peers(&self) -> Result<bool, PartialError> {
        let chunks = self.partial.given_by_peers();
        self.partial.forget(&chunks)?;
        self.shared().distrusts_peers = true;
        Ok(!chunks.is_empty())
    }

    pub(crate) fn received(&self) -> Received {
        self.shared().received
    }

    pub(crate) fn bad_peers(&self) -> Vec<BadPeer> {
        self.shared().bad_peers.clone()
    }

    /// What this node tells its peers.
    pub(crate) fn holding(&self) -> Holding {
        let held = self.partial.held();
        let shared = self.shared();
        let mut wanted = ChunkSet::default();
        if shared.is_running {
            wanted = shared.wanted.clone();
            wanted.subtract(&held);
        }
        Holding {
            held,
            wanted,
            fetching: shared.fetching.clone(),
            n_fetched: shared.received.from_hub,
            is_verified: shared.is_verified,
        }
    }

    /// Takes in what a peer says that it holds.
    pub(crate) fn heard(&self, peer: NodeId, mut holding: Holding, now: Instant) {
        let n_chunks = self.id().n_chunks();
        for set in [&mut holding.held, &mut holding.wanted, &mut holding.fetching] {
            set.truncate(n_chunks);
        }
        let mut shared = self.shared();
        let before = shared.peers.get(&peer);
        let progressed = match before {
            Some(seen)
                if seen.holding.n_fetched >= holding.n_fetched
                    && !seen.holding.wanted.is_empty() =>
            {
                seen.progressed
            }
            _ => now,
        };
        let is_news = before.is_none_or(|seen| seen.holding != holding);
        shared.peers.insert(peer, Seen { holding, progressed });
        drop(shared);
        if is_news {
            self.changed.notify_one();
        }
    }

    fn shared(&self) -> MutexGuard<'_, Shared> {
        // Each change is one assignment or insertion; none leaves it half done.
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
