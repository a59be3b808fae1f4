//! The loop that fetches one file.

use std::{collections::HashMap, ops::Range, sync::Arc, time::Duration};

use shoal_proto::{
    ChunkSet, NodeId,
    control::HASHES_MAX,
    model::{Digest, FileOrigin},
};
use tokio::{
    sync::mpsc,
    task::JoinSet,
    time::{self, Instant},
};
use tracing::{debug, info, warn};

use crate::{
    HubClient, HubError, PartialError, RemoteFile,
    download::{
        BadPeer, DownloadError, DownloadTiming, OpenFile, Seen,
        front::Front,
        limiter::Limiter,
        share::{PeerView, View},
        worker::{Bench, WorkerError, Written},
    },
    partial::ChunkHash,
    peers::Peers,
};

/// Requests to the server at once: one connection seldom fills a line, more than a few only make servers angry.
const REQUESTS_MAX: usize = 4;
/// Transfers from all peers at once.
const TRANSFERS_MAX: usize = 6;
/// Failures of a peer in a row after which it is not waited for.
const PEER_FAILURES_MAX: u32 = 5;
/// Chunks that were written and not yet noted.
const WRITTEN_MAX: usize = 64;

/// Fetches what is wanted of one file.
#[derive(Debug)]
pub(crate) struct Fetch {
    file: Arc<OpenFile>,
    peers: Arc<dyn Peers>,
    remote: Option<RemoteFile>,
    server: Server,
    timing: DownloadTiming,
    limiter: Limiter,
    jobs: HashMap<u64, Job>,
    n_jobs: u64,
    tasks: JoinSet<Ended>,
    written: (mpsc::Sender<Written>, mpsc::Receiver<Written>),
    /// Hashes that a verified peer published, and that peer.
    manifest: Option<(NodeId, Arc<Vec<ChunkHash>>)>,
    /// Which peer gave a chunk, and its hash, as long as it may turn out to be wrong.
    given: HashMap<u32, (NodeId, ChunkHash)>,
    /// Peers that failed to give what they offered: not before then, and failures in a row.
    resting: HashMap<NodeId, (Instant, u32)>,
    /// How often the SHA-256 was wrong.
    n_mismatches: u32,
    /// Whether a verified peer is being asked for its hashes; until it has answered nothing is taken from any peer.
    is_asking: bool,
    front: FrontState,
    is_exchanging: bool,
    next_exchange: Instant,
    lonely_since: Option<Instant>,
}

/// How things stand with the server.
#[derive(Debug)]
enum Server {
    /// It may be asked from `rest_until` on.
    Alive {
        rest_until: Instant,
        /// Failures since the last chunk.
        n_failures: u32,
        /// It sends whole files only: one request, from the first chunk that is missing.
        is_sequential: bool,
    },
    /// It will not give this file; `None` if there never was one.
    Dead(Option<HubError>),
}

#[derive(Debug)]
struct Job {
    /// `None`: the server.
    peer: Option<NodeId>,
    /// What has not arrived yet.
    chunks: ChunkSet,
}

#[derive(Debug)]
enum FrontState {
    /// There is nothing to compare it with, or no need.
    Unneeded,
    Idle(Front),
    /// A task has it.
    Busy {
        /// Whether what the task hashes is out of date.
        is_stale: bool,
    },
}

/// What a task of the loop brings.
#[derive(Debug)]
enum Ended {
    Job(u64, Result<(), WorkerError>),
    Exchange(Vec<(NodeId, shoal_proto::control::Holding)>),
    Manifest(NodeId, Option<Vec<ChunkHash>>),
    Front(Result<Front, PartialError>),
}

impl Fetch {
    pub(crate) fn new(
        file: Arc<OpenFile>,
        origin: Option<&FileOrigin>,
        client: &HubClient,
        peers: Arc<dyn Peers>,
        timing: DownloadTiming,
        limiter: Limiter,
    ) -> Self {
        let remote = origin.map(|origin| client.open(origin, file.id()));
        let server = match &remote {
            Some(_) => {
                Server::Alive { rest_until: Instant::now(), n_failures: 0, is_sequential: false }
            }
            None => Server::Dead(None),
        };
        Self {
            file,
            peers,
            remote,
            server,
            timing,
            limiter,
            jobs: HashMap::new(),
            n_jobs: 0,
            tasks: JoinSet::new(),
            written: mpsc::channel(WRITTEN_MAX),
            manifest: None,
            given: HashMap::new(),
            resting: HashMap::new(),
            n_mismatches: 0,
            is_asking: false,
            front: FrontState::Unneeded,
            is_exchanging: false,
            next_exchange: Instant::now(),
            lonely_since: None,
        }
    }

    /// Fetches until everything that is wanted is there and, if that is the whole file, its SHA-256 is right. What is wanted
    /// may grow meanwhile.
    ///
    /// Dropping the future stops the download; whatever was written stays.
    ///
    /// # Errors
    /// If the rest cannot be had, or the disk does not take it.
    pub(crate) async fn run(mut self) -> Result<(), DownloadError> {
        let _running = Running::start(&self.file);
        // Peers are asked before any server is: they may have it all. Those that begin at the same moment have not said so the
        // first time.
        if self.exchange_now().await {
            time::sleep(self.timing.exchange).await;
            self.exchange_now().await;
        }
        loop {
            self.hand_out();
            if self.is_done()? {
                break;
            }
            let wake_at = self.wake_at();
            tokio::select! {
                biased;
                Some(written) = self.written.1.recv() => self.note(&written),
                Some(ended) = self.tasks.join_next() => {
                    self.ended(ended.expect("download tasks do not panic"))?;
                }
                () = self.file.changed.notified() => {}
                () = time::sleep_until(wake_at) => {}
            }
        }
        let file = Arc::clone(&self.file);
        let sealed = tokio::task::spawn_blocking(move || file.partial.seal());
        sealed.await.expect("sealing does not panic")?;
        Ok(())
    }

    /// Whether the SHA-256 of what is wanted can and must be right.
    fn is_checked_as_a_whole(&self) -> bool {
        let id = self.file.id();
        let is_whole = self.file.shared().wanted.len() == id.n_chunks();
        is_whole && matches!(id.digest, Digest::Sha256(_))
    }

    fn is_done(&mut self) -> Result<bool, DownloadError> {
        let missing = self.file.missing();
        if !missing.is_empty() {
            if self.jobs.is_empty() {
                self.give_up_if_hopeless(&missing)?;
            }
            return Ok(false);
        }
        if !self.is_checked_as_a_whole() {
            return Ok(true);
        }
        let n_chunks = self.file.id().n_chunks();
        match &self.front {
            FrontState::Idle(front) if front.is_complete(n_chunks) => self.compare(),
            _ => Ok(false),
        }
    }

    /// Compares the SHA-256 of the whole file.
    fn compare(&mut self) -> Result<bool, DownloadError> {
        let FrontState::Idle(front) = std::mem::replace(&mut self.front, FrontState::Unneeded)
        else {
            unreachable!("checked by the caller");
        };
        let (expected, got) = (self.file.id().digest, Digest::Sha256(front.finish()));
        if expected == got {
            self.file.shared().is_verified = true;
            return Ok(true);
        }
        let from_peers = self.file.partial.given_by_peers();
        warn!(file = self.file.name, %expected, %got, n_from_peers = from_peers.len(), "file is wrong");
        self.n_mismatches += 1;
        self.file.shared().distrusts_peers = true;
        let from_outside_too = from_peers.is_empty() || matches!(self.server, Server::Dead(_));
        let suspects =
            if from_outside_too { ChunkSet::all(self.file.id().n_chunks()) } else { from_peers };
        self.file.partial.forget(&suspects)?;
        if from_outside_too && self.n_mismatches > 1 {
            return Err(DownloadError::Corrupt { file: self.file.name.clone(), expected, got });
        }
        Ok(false)
    }

    /// Starts whatever can be started.
    fn hand_out(&mut self) {
        if !self.is_exchanging && Instant::now() >= self.next_exchange {
            self.start_exchange();
        }
        self.start_hashing();
        let missing = {
            let mut missing = self.file.missing();
            self.jobs.values().for_each(|job| missing.subtract(&job.chunks));
            missing
        };
        if missing.is_empty() {
            return;
        }
        let mut missing = missing;
        while let Some((peer, chunks)) = self.next_from_peer(&missing) {
            chunks.clone().for_each(|chunk| missing.remove(chunk));
            self.start_transfer(peer, chunks);
        }
        while let Some(chunks) = self.next_from_outside(&missing) {
            chunks.clone().for_each(|chunk| missing.remove(chunk));
            self.start_request(chunks);
        }
    }

    fn next_from_peer(&self, missing: &ChunkSet) -> Option<(NodeId, Range<u32>)> {
        let n_transfers = self.jobs.values().filter(|job| job.peer.is_some()).count();
        if n_transfers >= TRANSFERS_MAX || self.is_asking {
            return None;
        }
        let peers = self.views();
        View { me: self.peers.id(), missing, peers: &peers }.next_from_peer()
    }

    fn next_from_outside(&self, missing: &ChunkSet) -> Option<Range<u32>> {
        let n_requests = self.jobs.values().filter(|job| job.peer.is_none()).count();
        let Server::Alive { rest_until, n_failures, is_sequential } = self.server else {
            return None;
        };
        // After a failure one request finds out whether the server is back.
        let n_requests_max = if is_sequential || n_failures > 0 { 1 } else { REQUESTS_MAX };
        if Instant::now() < rest_until || n_requests >= n_requests_max {
            return None;
        }
        if is_sequential {
            return missing.iter().next().map(|first| first..missing.end());
        }
        let peers = self.views();
        View { me: self.peers.id(), missing, peers: &peers }.next_from_outside()
    }

    /// The peers that may be used.
    fn views(&self) -> HashMap<NodeId, PeerView> {
        let now = Instant::now();
        let shared = self.file.shared();
        if shared.distrusts_peers && !matches!(self.server, Server::Dead(_)) {
            return HashMap::new();
        }
        let is_bad = |node: &NodeId| shared.bad_peers.iter().any(|bad| bad.node == *node);
        let view = |(&node, seen): (&NodeId, &Seen)| {
            let of_peer = |job: &&Job| job.peer == Some(node);
            let view = PeerView {
                holding: seen.holding.clone(),
                is_stalled: now.duration_since(seen.progressed) > self.timing.stalled,
                n_transfers: self.jobs.values().filter(of_peer).count(),
            };
            (node, view)
        };
        let is_resting =
            |node: &NodeId| self.resting.get(node).is_some_and(|(until, _)| now < *until);
        let usable = shared.peers.iter().filter(|(node, _)| !is_bad(node) && !is_resting(node));
        usable.map(view).collect()
    }

    fn bench(&mut self, peer: Option<NodeId>, chunks: &Range<u32>) -> Bench {
        self.n_jobs += 1;
        let job = Job { peer, chunks: chunks.clone().collect() };
        self.jobs.insert(self.n_jobs, job);
        self.publish_fetching();
        Bench {
            job: self.n_jobs,
            file: Arc::clone(&self.file),
            limiter: self.limiter.clone(),
            written: self.written.0.clone(),
        }
    }

    fn start_transfer(&mut self, peer: NodeId, chunks: Range<u32>) {
        let bench = self.bench(Some(peer), &chunks);
        let manifest = self.manifest.as_ref().map(|(_, hashes)| Arc::clone(hashes));
        let (job, peers) = (bench.job, Arc::clone(&self.peers));
        self.tasks.spawn(async move {
            Ended::Job(job, bench.fetch_from_peer(peers, peer, chunks, manifest).await)
        });
    }

    fn start_request(&mut self, chunks: Range<u32>) {
        let Some(remote) = self.remote.clone() else { return };
        let bench = self.bench(None, &chunks);
        let ignores_ranges = matches!(self.server, Server::Alive { is_sequential: true, .. });
        let job = bench.job;
        self.tasks.spawn(async move {
            Ended::Job(job, bench.fetch_outside(remote, chunks, ignores_ranges).await)
        });
    }

    fn start_exchange(&mut self) {
        self.is_exchanging = true;
        let (peers, file) = (Arc::clone(&self.peers), Arc::clone(&self.file));
        self.tasks
            .spawn(async move { Ended::Exchange(peers.exchange(file.id(), file.holding()).await) });
    }

    /// Returns whether anybody answered.
    async fn exchange_now(&mut self) -> bool {
        let said = self.peers.exchange(self.file.id(), self.file.holding()).await;
        let has_peers = !said.is_empty();
        self.exchanged(said);
        has_peers
    }

    fn exchanged(&mut self, said: Vec<(NodeId, shoal_proto::control::Holding)>) {
        self.is_exchanging = false;
        // Peers that begin to download say so by themselves.
        let pause = if said.is_empty() { 10 } else { 1 } * self.timing.exchange;
        self.next_exchange = Instant::now() + pause;
        let present: Vec<NodeId> = said.iter().map(|(node, _)| *node).collect();
        for (node, holding) in said {
            self.file.heard(node, holding, Instant::now());
        }
        let mut shared = self.file.shared();
        shared.peers.retain(|node, _| present.contains(node));
        if self.manifest.is_some() || self.is_asking {
            return;
        }
        let now = Instant::now();
        let is_usable = |node: &NodeId| {
            let is_resting = self.resting.get(node).is_some_and(|(until, _)| now < *until);
            !is_resting && shared.bad_peers.iter().all(|bad| bad.node != *node)
        };
        let verified =
            shared.peers.iter().find(|(node, it)| it.holding.is_verified && is_usable(node));
        let Some(node) = verified.map(|(node, _)| *node) else { return };
        drop(shared);
        self.is_asking = true;
        let (peers, id) = (Arc::clone(&self.peers), self.file.id());
        self.tasks.spawn(async move {
            let mut hashes = Vec::new();
            let mut first = 0;
            while first < id.n_chunks() {
                let count = HASHES_MAX.min(id.n_chunks() - first);
                match peers.hashes(node, id, first, count).await {
                    Ok(part) if part.len() == count as usize => hashes.extend(part),
                    _ => return Ended::Manifest(node, None),
                }
                first += count;
            }
            Ended::Manifest(node, Some(hashes))
        });
    }

    fn start_hashing(&mut self) {
        if !self.is_checked_as_a_whole() {
            self.front = FrontState::Unneeded;
            return;
        }
        if let FrontState::Unneeded = self.front {
            self.front = FrontState::Idle(Front::default());
        }
        let held = self.file.partial.held();
        match &self.front {
            FrontState::Idle(front) if front.can_advance(&held) => {}
            _ => return,
        }
        let busy = FrontState::Busy { is_stale: false };
        if let FrontState::Idle(front) = std::mem::replace(&mut self.front, busy) {
            let file = Arc::clone(&self.file);
            self.tasks.spawn(async move {
                let hashing = tokio::task::spawn_blocking(move || front.advance(&file));
                Ended::Front(hashing.await.expect("hashing does not panic"))
            });
        }
    }

    /// Forgets chunks that are wrong, or may be.
    fn forget(&mut self, chunks: &ChunkSet) -> Result<(), DownloadError> {
        self.file.partial.forget(chunks)?;
        match &mut self.front {
            FrontState::Idle(front) if front.covers_any(chunks) => {
                self.front = FrontState::Unneeded;
            }
            FrontState::Busy { is_stale } => *is_stale = true,
            FrontState::Idle(_) | FrontState::Unneeded => {}
        }
        Ok(())
    }

    /// A chunk was written.
    fn note(&mut self, written: &Written) {
        let Some(job) = self.jobs.get_mut(&written.job) else { return };
        job.chunks.remove(written.chunk);
        match job.peer {
            Some(peer) => {
                self.resting.remove(&peer);
                self.given.insert(written.chunk, (peer, written.hash));
            }
            None => {
                if let Server::Alive { n_failures, .. } = &mut self.server {
                    *n_failures = 0;
                }
                // Fetched again after a wrong SHA-256: did a peer give something else?
                if let Some((peer, hash)) = self.given.remove(&written.chunk)
                    && hash != written.hash
                {
                    self.blame(peer, written.chunk);
                }
                self.publish_fetching();
            }
        }
    }

    fn ended(&mut self, ended: Ended) -> Result<(), DownloadError> {
        match ended {
            Ended::Exchange(said) => self.exchanged(said),
            Ended::Manifest(node, hashes) => self.take_manifest(node, hashes)?,
            Ended::Front(front) => {
                let is_stale = matches!(self.front, FrontState::Busy { is_stale: true });
                let front = front?;
                self.front = if is_stale { FrontState::Unneeded } else { FrontState::Idle(front) };
            }
            Ended::Job(number, result) => {
                // What it wrote last may still be waiting to be noted.
                while let Ok(written) = self.written.1.try_recv() {
                    self.note(&written);
                }
                let job = self.jobs.remove(&number).expect("a job ends once");
                self.publish_fetching();
                match (job.peer, result) {
                    (_, Ok(())) => {}
                    (_, Err(WorkerError::Disk(error))) => return Err(error.into()),
                    (Some(peer), Err(WorkerError::WrongBytes { chunk })) => self.blame(peer, chunk),
                    (Some(peer), Err(error)) => {
                        let reason = match &error {
                            WorkerError::Peer(error) => error.to_string(),
                            other => format!("{other:?}"),
                        };
                        debug!(peer = %peer.short(), reason, "transfer failed");
                        self.rest(peer);
                    }
                    (None, Err(WorkerError::Hub(error))) => self.server_failed(error),
                    (None, Err(error)) => unreachable!("only peers fail like this: {error:?}"),
                }
            }
        }
        Ok(())
    }

    /// Leaves a peer alone for a while.
    fn rest(&mut self, peer: NodeId) {
        let (until, n_failures) = self.resting.entry(peer).or_insert((Instant::now(), 0));
        *until = Instant::now() + self.timing.retry_min * (1 << (*n_failures).min(5));
        *n_failures += 1;
    }

    fn server_failed(&mut self, error: HubError) {
        let timing = self.timing;
        // A request that was under way when another one found out changes nothing more.
        let Server::Alive { rest_until, n_failures, is_sequential } = &mut self.server else {
            return;
        };
        if matches!(error, HubError::RangesIgnored { .. }) {
            info!(file = self.file.name, "server sends whole files only");
            *is_sequential = true;
            return;
        }
        let now = Instant::now();
        if now < *rest_until && error.is_temporary() {
            return;
        }
        if !error.is_temporary() || *n_failures >= timing.n_failures_max {
            self.server = Server::Dead(Some(error));
            return;
        }
        // A connection that broke after it had brought something is no reason to rest.
        let pause = match *n_failures {
            0 => Duration::ZERO,
            n => (timing.retry_min * (1 << (n - 1).min(16))).min(timing.retry_max),
        };
        let pause = pause.max(error.retry_after().unwrap_or_default());
        warn!(file = self.file.name, %error, ?pause, "server failed, trying again");
        *n_failures += 1;
        *rest_until = now + pause;
    }

    /// Names a peer whose bytes were wrong, and forgets what else it gave.
    fn blame(&mut self, peer: NodeId, chunk: u32) {
        let mut shared = self.file.shared();
        if shared.bad_peers.iter().any(|bad| bad.node == peer) {
            return;
        }
        shared.bad_peers.push(BadPeer { node: peer, chunk });
        drop(shared);
        warn!(node = %peer, file = self.file.name, chunk, "peer served wrong bytes and is not asked again");
        if self.manifest.as_ref().is_some_and(|(publisher, _)| *publisher == peer) {
            self.manifest = None;
        }
    }

    fn take_manifest(
        &mut self,
        node: NodeId,
        hashes: Option<Vec<ChunkHash>>,
    ) -> Result<(), DownloadError> {
        self.is_asking = false;
        let Some(hashes) = hashes else {
            // It says that it has checked the file, and cannot say what is in it.
            self.rest(node);
            return Ok(());
        };
        debug!(node = %node.short(), file = self.file.name, "a verified peer published its hashes");
        let is_wrong = |(chunk, (_, hash)): &(&u32, &(NodeId, ChunkHash))| {
            hashes.get(**chunk as usize).is_none_or(|right| right != hash)
        };
        let wrong: Vec<(u32, NodeId)> =
            self.given.iter().filter(is_wrong).map(|(chunk, (peer, _))| (*chunk, *peer)).collect();
        self.forget(&wrong.iter().map(|(chunk, _)| *chunk).collect())?;
        wrong.iter().for_each(|&(chunk, peer)| self.blame(peer, chunk));
        self.manifest = Some((node, Arc::new(hashes)));
        Ok(())
    }

    /// Ends the download if nothing can come any more.
    fn give_up_if_hopeless(&mut self, missing: &ChunkSet) -> Result<(), DownloadError> {
        let peers = self.views();
        let view = View { me: self.peers.id(), missing, peers: &peers };
        let Server::Dead(error) = &mut self.server else { return Ok(()) };
        if view.awaits_peers() || view.next_from_peer().is_some() {
            self.lonely_since = None;
            return Ok(());
        }
        // A peer that failed a few times may get better; one that always fails is like none.
        if self.resting.values().any(|(_, n_failures)| *n_failures < PEER_FAILURES_MAX) {
            return Ok(());
        }
        let since = *self.lonely_since.get_or_insert_with(Instant::now);
        if error.is_none() && since.elapsed() < self.timing.patience {
            return Ok(());
        }
        let file = self.file.name.clone();
        Err(match error.take() {
            Some(source) => DownloadError::Hub { file, source },
            None => DownloadError::NoSource { file, n_chunks: missing.len() },
        })
    }

    fn publish_fetching(&self) {
        let mut fetching = ChunkSet::default();
        let requests = self.jobs.values().filter(|job| job.peer.is_none());
        requests.for_each(|job| fetching.extend(&job.chunks));
        self.file.shared().fetching = fetching;
    }

    fn wake_at(&self) -> Instant {
        let exchange = if self.is_exchanging {
            Instant::now() + self.timing.exchange
        } else {
            self.next_exchange
        };
        match self.server {
            Server::Alive { rest_until, .. } if rest_until > Instant::now() => {
                exchange.min(rest_until)
            }
            _ => exchange,
        }
    }
}

/// Marks a file as being downloaded for as long as it lives.
struct Running(Arc<OpenFile>);

impl Running {
    fn start(file: &Arc<OpenFile>) -> Self {
        file.shared().is_running = true;
        Self(Arc::clone(file))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let mut shared = self.0.shared();
        shared.is_running = false;
        shared.fetching = ChunkSet::default();
    }
}
