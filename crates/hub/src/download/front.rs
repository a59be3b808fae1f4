//! The SHA-256 of a file that is still arriving: it follows the front of what is there without a gap, while the bytes are
//! still in the page cache, so that little is left to hash when the last chunk comes.

use std::sync::Arc;

use sha2::{Digest as _, Sha256};
use shoal_proto::ChunkSet;

use crate::{PartialError, download::OpenFile};

/// Chunks hashed at a time: enough to make a blocking task worth it, few enough that ending a download does not wait.
const BATCH_CHUNKS: u32 = 64;

/// A hash in progress.
#[derive(Clone, Default)]
pub(super) struct Front {
    sha256: Sha256,
    /// The first chunk that is not in it.
    next: u32,
}

impl std::fmt::Debug for Front {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Front").field("next", &self.next).finish_non_exhaustive()
    }
}

impl Front {
    /// Whether the next chunk is there to be hashed.
    pub(super) fn can_advance(&self, held: &ChunkSet) -> bool {
        held.contains(self.next)
    }

    /// Whether all of the file is in it.
    pub(super) fn is_complete(&self, n_chunks: u32) -> bool {
        self.next >= n_chunks
    }

    /// Whether any of these chunks is already in it.
    pub(super) fn covers_any(&self, chunks: &ChunkSet) -> bool {
        chunks.iter().next().is_some_and(|first| first < self.next)
    }

    /// Hashes some chunks from the disk. Blocks.
    pub(super) fn advance(mut self, file: &Arc<OpenFile>) -> Result<Self, PartialError> {
        let held = file.partial.held();
        let mut buffer = Vec::new();
        let end = self.next + BATCH_CHUNKS;
        while self.next < end && held.contains(self.next) {
            file.partial.read(self.next, &mut buffer)?;
            self.sha256.update(&buffer);
            self.next += 1;
        }
        Ok(self)
    }

    /// The hash of everything that is in it.
    pub(super) fn finish(self) -> [u8; 32] {
        self.sha256.finalize().into()
    }
}
