//! One request to a server or a peer: its bytes become chunks on the disk.

use std::{ops::Range, sync::Arc};

use bytes::Bytes;
use futures_util::StreamExt as _;
use shoal_proto::{NodeId, control::TransferRequest};
use tokio::sync::mpsc;

use crate::{
    HubError, PartialError, RemoteFile,
    download::{OpenFile, limiter::Limiter},
    partial::{ChunkHash, ChunkSource},
    peers::{PeerError, Peers},
};

/// Why a request gave less than it was asked for.
#[derive(Debug)]
pub(super) enum WorkerError {
    Hub(HubError),
    Peer(PeerError),
    /// The peer's bytes do not have the hash that they should have.
    WrongBytes {
        chunk: u32,
    },
    Disk(PartialError),
}

impl From<HubError> for WorkerError {
    fn from(error: HubError) -> Self {
        Self::Hub(error)
    }
}

impl From<PeerError> for WorkerError {
    fn from(error: PeerError) -> Self {
        Self::Peer(error)
    }
}

impl From<PartialError> for WorkerError {
    fn from(error: PartialError) -> Self {
        Self::Disk(error)
    }
}

/// A chunk is on the disk.
#[derive(Debug)]
pub(super) struct Written {
    /// Which request brought it.
    pub(super) job: u64,
    pub(super) chunk: u32,
    pub(super) hash: ChunkHash,
}

/// What a worker works with.
#[derive(Debug, Clone)]
pub(super) struct Bench {
    pub(super) job: u64,
    pub(super) file: Arc<OpenFile>,
    pub(super) limiter: Limiter,
    pub(super) written: mpsc::Sender<Written>,
}

impl Bench {
    /// Fetches chunks from where the model is published.
    pub(super) async fn fetch_outside(
        self,
        remote: RemoteFile,
        chunks: Range<u32>,
        ignores_ranges: bool,
    ) -> Result<(), WorkerError> {
        let range = self.file.partial.id().byte_range(chunks.clone());
        let mut body = if ignores_ranges {
            remote.read_from(range.start).await?
        } else {
            remote.read(range).await?
        };
        let mut assembly = Assembly::new(self, chunks, ChunkSource::Hub, Vec::new());
        while !assembly.is_complete() {
            // The body itself says what is wrong if it ends early.
            let Some(bytes) = body.next().await? else { break };
            assembly.push(bytes).await?;
        }
        Ok(())
    }

    /// Fetches chunks from a peer and checks each: against `manifest`, or without one against what the peer itself says.
    pub(super) async fn fetch_from_peer(
        self,
        peers: Arc<dyn Peers>,
        peer: NodeId,
        chunks: Range<u32>,
        manifest: Option<Arc<Vec<ChunkHash>>>,
    ) -> Result<(), WorkerError> {
        let (first, count) = (chunks.start, chunks.end - chunks.start);
        let request = TransferRequest { file: self.file.partial.id(), first, count };
        let mut transfer = peers.fetch(peer, request).await?;
        let expected = match &manifest {
            Some(manifest) => manifest[first as usize..chunks.end as usize].to_vec(),
            None => transfer.hashes,
        };
        if expected.len() != count as usize {
            let message = format!("expected {count} hashes, got {}", expected.len());
            return Err(PeerError { message }.into());
        }
        let mut assembly = Assembly::new(self, chunks, ChunkSource::Peer, expected);
        while !assembly.is_complete() {
            let Some(bytes) = transfer.bytes.next().await else {
                let message = format!("the transfer ended before chunk {}", assembly.next);
                return Err(PeerError { message }.into());
            };
            assembly.push(bytes?).await?;
        }
        Ok(())
    }
}

/// Chunks being put together from pieces of any length.
struct Assembly {
    bench: Bench,
    first: u32,
    /// The chunk that is being put together.
    next: u32,
    end: u32,
    source: ChunkSource,
    /// BLAKE3 of the chunks; empty if nobody knows them.
    expected: Vec<ChunkHash>,
    buffer: Vec<u8>,
}

impl Assembly {
    fn new(
        bench: Bench,
        chunks: Range<u32>,
        source: ChunkSource,
        expected: Vec<ChunkHash>,
    ) -> Self {
        let (first, end) = (chunks.start, chunks.end);
        Self { bench, first, next: first, end, source, expected, buffer: Vec::new() }
    }

    fn is_complete(&self) -> bool {
        self.next >= self.end
    }

    async fn push(&mut self, mut bytes: Bytes) -> Result<(), WorkerError> {
        self.bench.limiter.take(bytes.len()).await;
        while !bytes.is_empty() && !self.is_complete() {
            let range = self.bench.file.partial.id().chunk_range(self.next);
            let wanted = usize::try_from(range.end - range.start).expect("a chunk fits in memory");
            self.buffer.reserve_exact(wanted - self.buffer.len());
            let piece = bytes.split_to(bytes.len().min(wanted - self.buffer.len()));
            self.buffer.extend_from_slice(&piece);
            if self.buffer.len() == wanted {
                self.write().await?;
            }
        }
        Ok(())
    }

    async fn write(&mut self) -> Result<(), WorkerError> {
        let (chunk, source) = (self.next, self.source);
        let expected = self.expected.get((chunk - self.first) as usize).copied();
        let file = Arc::clone(&self.bench.file);
        let buffer = std::mem::take(&mut self.buffer);
        let write = move || {
            let hash = *blake3::hash(&buffer).as_bytes();
            if expected.is_some_and(|expected| expected != hash) {
                return Err(WorkerError::WrongBytes { chunk });
            }
            file.partial.write(chunk, &buffer, hash, source)?;
            file.count(source, buffer.len() as u64);
            Ok((hash, buffer))
        };
        let (hash, mut buffer) =
            tokio::task::spawn_blocking(write).await.expect("writing does not panic")?;
        buffer.clear();
        self.buffer = buffer;
        self.next += 1;
        // Nobody listens any more only when the download has ended; the chunk is kept all the same.
        let _ = self.bench.written.send(Written { job: self.bench.job, chunk, hash }).await;
        Ok(())
    }
}
