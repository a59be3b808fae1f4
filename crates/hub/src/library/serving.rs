//! What peers ask for: which chunks are here, their hashes, and their bytes.

use std::{
    collections::HashMap,
    fs::File,
    path::Path,
    sync::{Arc, Mutex},
};

use shoal_proto::{
    ChunkSet, NodeId,
    control::{HASHES_MAX, Holding, TRANSFER_CHUNKS_MAX, TransferRequest},
    model::{Digest, FileId, ModelFiles},
};
use tokio::time::Instant;

use super::{Library, LibraryError, blocking, lock};
use crate::{
    ChunkHashes, FileState, LocalFile, PartialError,
    download::OpenFile,
    partial::{ChunkHash, read_chunk},
};

/// Whole files that peers have asked for, opened once.
#[derive(Debug, Default)]
pub(super) struct Whole {
    files: Mutex<HashMap<FileId, Arc<WholeFile>>>,
}

#[derive(Debug)]
struct WholeFile {
    id: FileId,
    file: File,
    path: std::path::PathBuf,
    hashes: Vec<ChunkHash>,
}

impl Whole {
    /// Gives a whole file to peers wherever it lies.
    pub(super) fn adopt(&self, path: &Path, hashes: ChunkHashes) -> Result<(), PartialError> {
        let at = |source| PartialError::Io { path: path.to_owned(), source };
        let file = File::open(path).map_err(at)?;
        let ChunkHashes { id, hashes } = hashes;
        let whole = WholeFile { id, file, path: path.to_owned(), hashes };
        lock(&self.files).insert(id, Arc::new(whole));
        Ok(())
    }

    pub(super) fn forget(&self, id: &FileId) {
        lock(&self.files).remove(id);
    }
}

/// Chunks that a peer has asked for, ready to be read.
#[derive(Debug)]
pub struct Serving {
    source: Source,
    request: TransferRequest,
    hashes: Vec<ChunkHash>,
}

#[derive(Debug, Clone)]
enum Source {
    Partial(Arc<OpenFile>),
    Whole(Arc<WholeFile>),
}

impl Serving {
    /// BLAKE3 of each chunk, as this node knows them.
    pub fn hashes(&self) -> &[ChunkHash] {
        &self.hashes
    }

    /// Number of chunks.
    pub fn n_chunks(&self) -> u32 {
        self.request.count
    }

    /// Reads one of the chunks, counted from 0. Their hashes are not checked here: whoever gets them does that.
    ///
    /// # Errors
    /// If the disk does not give it.
    ///
    /// # Panics
    /// If there are fewer chunks.
    pub async fn read(&self, at: u32) -> Result<Vec<u8>, LibraryError> {
        assert!(at < self.request.count, "chunk {at} of {}", self.request.count);
        let (source, chunk) = (self.source.clone(), self.request.first + at);
        let read = move || {
            let mut buffer = Vec::new();
            match source {
                Source::Partial(file) => file.partial.read(chunk, &mut buffer)?,
                Source::Whole(whole) => read_chunk(&whole.file, &whole.id, chunk, &mut buffer)
                    .map_err(|source| PartialError::Io { path: whole.path.clone(), source })?,
            }
            Ok(buffer)
        };
        blocking(read).await
    }
}

impl Library {
    /// The files of a model on this device, for a peer that asks by name.
    pub async fn find_files(&self, name: &str) -> Option<ModelFiles> {
        self.inner.find(name).await?.manifest
    }

    /// Takes in what a peer holds of a file, and returns what this node holds.
    pub async fn exchange(&self, peer: NodeId, file: FileId, theirs: Holding) -> Holding {
        let open = lock(&self.inner.open).get(&file).cloned();
        if let Some(open) = open {
            open.heard(peer, theirs, Instant::now());
            return open.holding();
        }
        if !file.is_plausible() || self.whole_file(file).await.is_none() {
            return Holding::default();
        }
        Holding {
            held: ChunkSet::all(file.n_chunks()),
            // Files become whole only once their SHA-256 was right; others have none.
            is_verified: matches!(file.digest, Digest::Sha256(_)),
            ..Holding::default()
        }
    }

    /// BLAKE3 of chunks that this node holds; `None` if it does not hold all of them.
    pub async fn hashes(&self, file: FileId, first: u32, count: u32) -> Option<Vec<ChunkHash>> {
        if count > HASHES_MAX {
            return None;
        }
        let end = first.checked_add(count)?;
        let open = lock(&self.inner.open).get(&file).cloned();
        if let Some(open) = open {
            return (first..end).map(|chunk| open.partial.hash(chunk)).collect();
        }
        let whole = self.whole_file(file).await?;
        Some(whole.hashes.get(first as usize..end as usize)?.to_vec())
    }

    /// Opens chunks for a peer.
    ///
    /// # Errors
    /// What is wrong with the request, as text for the peer.
    pub async fn serve(&self, request: TransferRequest) -> Result<Serving, String> {
        let TransferRequest { file, first, count } = request;
        if !(1..=TRANSFER_CHUNKS_MAX).contains(&count) || !file.is_plausible() {
            return Err(format!("expected 1 to {TRANSFER_CHUNKS_MAX} chunks, got {count}"));
        }
        let hashes = self.hashes(file, first, count).await;
        let hashes = hashes.ok_or_else(|| {
            format!("chunks {first} and {count} on of {} are not here", file.digest)
        })?;
        let open = lock(&self.inner.open).get(&file).cloned();
        let source = match open {
            Some(open) => Source::Partial(open),
            None => match self.whole_file(file).await {
                Some(whole) => Source::Whole(whole),
                None => return Err(format!("{} has just been removed", file.digest)),
            },
        };
        Ok(Serving { source, request, hashes })
    }

    /// A whole file on this device, opened.
    async fn whole_file(&self, id: FileId) -> Option<Arc<WholeFile>> {
        if let Some(whole) = lock(&self.inner.serving.files).get(&id) {
            return Some(Arc::clone(whole));
        }
        let store = self.inner.store.clone();
        let opened = blocking(move || {
            let local: LocalFile =
                store.find_file(&id).filter(|file| file.state == FileState::Whole)?;
            let hashes = store.hashes(&local);
            let hashes = hashes.inspect_err(|error| tracing::warn!(%error, "file is not shared"));
            let file = File::open(&local.path).ok()?;
            // A file of another program may not be what its name says.
            let hashes = hashes.ok().filter(|hashes| hashes.id == id)?.hashes;
            Some(Arc::new(WholeFile { id, file, path: local.path, hashes }))
        });
        let whole = opened.await?;
        lock(&self.inner.serving.files).insert(id, Arc::clone(&whole));
        Some(whole)
    }
}
