//! The BLAKE3 of every chunk of a whole file: what a node that has the file tells those that fetch it.
//!
//! They are kept beside the file as `NAME.chunks`, written when the whole file was verified. For files that other programs
//! own, or that somebody copied by hand, they are computed once and kept in the index, bound to path, size and time.
//!
//! ```text
//! magic 8 · digest 1 + 32 · size 8 · stamp 32 · check 32 · BLAKE3 of each chunk, 32 each · check 32
//! ```

use std::{
    fs::{File, Metadata},
    io::{Read, Write},
    os::unix::{ffi::OsStrExt as _, fs::MetadataExt as _},
    path::{Path, PathBuf},
};

use sha2::{Digest as _, Sha256};
use shoal_proto::model::{CHUNK_BYTES, Digest, FileId};

use super::{
    StoreError,
    layout::{CHUNKS, read_bounded, write_atomically},
};

const MAGIC: [u8; 8] = *b"SHOALC01";
const HEADER_BYTES: usize = 8 + 33 + 8 + 32 + 32;
const CHECK_BYTES: usize = 32;

/// Which file at which time hashes in the index belong to; zeros for a list that lies beside its file.
type Stamp = [u8; 32];
const NO_STAMP: Stamp = [0; 32];

/// The identity of a file and of each of its chunks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChunkHashes {
    /// The file.
    pub id: FileId,
    /// BLAKE3 of each chunk, in order.
    pub hashes: Vec<[u8; 32]>,
}

/// What one pass over a file's bytes gives.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct FileHashes {
    pub(super) sha256: [u8; 32],
    pub(super) n_bytes: u64,
    pub(super) chunks: Vec<[u8; 32]>,
}

impl FileHashes {
    pub(super) fn id(&self) -> FileId {
        FileId { digest: Digest::Sha256(self.sha256), n_bytes: self.n_bytes }
    }
}

/// Reads to the end of `input`, hashes every byte both ways, and gives it on to `output`. `progress` gets the number of bytes
/// of each step.
pub(super) fn hash(
    mut input: impl Read,
    mut output: impl Write,
    progress: &mut dyn FnMut(u64),
) -> std::io::Result<FileHashes> {
    let mut sha256 = Sha256::new();
    let mut hashes = FileHashes { sha256: [0; 32], n_bytes: 0, chunks: Vec::new() };
    let mut chunk = Vec::new();
    loop {
        chunk.clear();
        input.by_ref().take(CHUNK_BYTES).read_to_end(&mut chunk)?;
        if chunk.is_empty() {
            break;
        }
        sha256.update(&chunk);
        hashes.chunks.push(*blake3::hash(&chunk).as_bytes());
        hashes.n_bytes += chunk.len() as u64;
        output.write_all(&chunk)?;
        progress(chunk.len() as u64);
    }
    hashes.sha256 = sha256.finalize().into();
    Ok(hashes)
}

/// [`hash`] of the file at `path`.
pub(super) fn hash_file(
    path: &Path,
    progress: &mut dyn FnMut(u64),
) -> Result<FileHashes, StoreError> {
    let file = File::open(path).map_err(StoreError::at(path))?;
    hash(file, std::io::sink(), progress).map_err(StoreError::at(path))
}

/// Reads the list that lies beside a file, if there is one and it is of this content.
pub(super) fn read_beside(path: &Path, id: &FileId) -> Result<Option<ChunkHashes>, StoreError> {
    let list = beside(path);
    let Some((hashes, _)) = read(&list, id.n_bytes)? else { return Ok(None) };
    if hashes.id != *id {
        let what = format!("expected the chunks of {}, got {}", id.digest, hashes.id.digest);
        return Err(StoreError::damaged(list, what));
    }
    Ok(Some(hashes))
}

/// Writes the list that lies beside a file.
pub(super) fn write_beside(path: &Path, hashes: &ChunkHashes) -> Result<(), StoreError> {
    write_atomically(&beside(path), &encode(hashes, &NO_STAMP))
}

/// Where the list of a file is that the store owns.
pub(super) fn beside(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".");
    name.push(CHUNKS);
    name.into()
}

/// Hashes of files that the store did not write.
#[derive(Debug, Clone)]
pub(super) struct Index {
    pub(super) dir: PathBuf,
}

impl Index {
    /// The identity of a file that was read before and has not changed since.
    pub(super) fn id(&self, path: &Path, metadata: &Metadata) -> Option<FileId> {
        let mut header = [0; HEADER_BYTES];
        File::open(self.entry(path)).ok()?.read_exact(&mut header).ok()?;
        let (id, stamp) = decode_header(&header)?;
        (stamp == stamp_of(path, metadata) && id.n_bytes == metadata.len()).then_some(id)
    }

    /// The hashes of a file that was read before and has not changed since. A damaged entry is none.
    pub(super) fn get(&self, path: &Path, metadata: &Metadata) -> Option<ChunkHashes> {
        let (hashes, stamp) = read(&self.entry(path), metadata.len()).ok()??;
        (stamp == stamp_of(path, metadata)).then_some(hashes)
    }

    /// Keeps the hashes of a file; `metadata` from before it was read, so that a change in between is noticed next time.
    pub(super) fn put(
        &self,
        path: &Path,
        metadata: &Metadata,
        hashes: &ChunkHashes,
    ) -> Result<(), StoreError> {
        std::fs::create_dir_all(&self.dir).map_err(StoreError::at(&self.dir))?;
        write_atomically(&self.entry(path), &encode(hashes, &stamp_of(path, metadata)))
    }

    /// Forgets a file.
    pub(super) fn forget(&self, path: &Path) -> Result<bool, StoreError> {
        super::layout::remove_file(&self.entry(path))
    }

    fn entry(&self, path: &Path) -> PathBuf {
        let hash = blake3::hash(path.as_os_str().as_bytes()).to_hex();
        self.dir.join(format!("{}.{CHUNKS}", &hash[..32]))
    }
}

fn stamp_of(path: &Path, metadata: &Metadata) -> Stamp {
    let mut hasher = blake3::Hasher::new();
    for number in [metadata.len().cast_signed(), metadata.mtime(), metadata.mtime_nsec()] {
        hasher.update(&number.to_le_bytes());
    }
    hasher.update(path.as_os_str().as_bytes());
    *hasher.finalize().as_bytes()
}

fn encode(hashes: &ChunkHashes, stamp: &Stamp) -> Vec<u8> {
    let (kind, digest) = match &hashes.id.digest {
        Digest::Sha256(digest) => (0, digest),
        Digest::Origin(digest) => (1, digest),
    };
    let mut bytes = Vec::with_capacity(HEADER_BYTES + hashes.hashes.len() * 32 + CHECK_BYTES);
    bytes.extend(MAGIC);
    bytes.push(kind);
    bytes.extend(digest);
    bytes.extend(hashes.id.n_bytes.to_le_bytes());
    bytes.extend(stamp);
    bytes.extend(blake3::hash(&bytes).as_bytes());
    bytes.extend(hashes.hashes.as_flattened());
    bytes.extend(blake3::hash(&bytes).as_bytes());
    bytes
}

fn decode_header(header: &[u8; HEADER_BYTES]) -> Option<(FileId, Stamp)> {
    let (head, check) = header.split_at(HEADER_BYTES - CHECK_BYTES);
    if !head.starts_with(&MAGIC) || blake3::hash(head) != *check.first_chunk::<32>()? {
        return None;
    }
    let digest = *head[9..].first_chunk::<32>()?;
    let digest = match head[8] {
        0 => Digest::Sha256(digest),
        1 => Digest::Origin(digest),
        _ => return None,
    };
    let n_bytes = u64::from_le_bytes(*head[41..].first_chunk()?);
    let id = FileId { digest, n_bytes };
    id.is_plausible().then_some((id, *head[49..].first_chunk()?))
}

/// Reads a list of the chunks of a file of `n_bytes`; `None` if it is not there.
fn read(path: &Path, n_bytes: u64) -> Result<Option<(ChunkHashes, Stamp)>, StoreError> {
    let n_chunks = n_bytes.div_ceil(CHUNK_BYTES);
    let n_bytes_max = (HEADER_BYTES + CHECK_BYTES) as u64 + n_chunks.saturating_mul(32);
    let Some(bytes) = read_bounded(path, n_bytes_max)? else { return Ok(None) };
    let decode = || {
        let (header, rest) = bytes.split_first_chunk::<HEADER_BYTES>()?;
        let (id, stamp) = decode_header(header)?;
        let (hashes, check) = rest.split_last_chunk::<CHECK_BYTES>()?;
        let (hashes, []) = hashes.as_chunks::<32>() else { return None };
        let body = &bytes[..bytes.len() - CHECK_BYTES];
        let is_right = id.n_bytes == n_bytes
            && hashes.len() as u64 == n_chunks
            && blake3::hash(body) == *check;
        is_right.then(|| (ChunkHashes { id, hashes: hashes.to_vec() }, stamp))
    };
    match decode() {
        Some(read) => Ok(Some(read)),
        None => Err(StoreError::damaged(path, "expected a list of chunks, got something else")),
    }
}
