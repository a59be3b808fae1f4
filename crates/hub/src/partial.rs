//! A file that is not all there: sparse data under `NAME.part`, and the journal of its chunks under `NAME.journal`.
//!
//! A chunk is first written at its place in the data, then entered into the journal with its BLAKE3. The entry goes to the
//! system in one write, so that a process that is killed loses no chunk but those that it had not yet entered. After a power
//! cut the journal may know chunks whose data never reached the disk: whatever was entered after the last *seal* is read back
//! and compared when the file is opened again. A seal is an entry that is written once everything before it has been
//! flushed.
//!
//! ```text
//! header  magic 8 · digest 1 + 32 · size 8 · check 8            of which file this is
//! entry   chunk 4 · kind 1 · zero 3 · BLAKE3 32 · check 8       fixed size: a torn one harms no other
//! ```

use std::{
    fs::{File, OpenOptions},
    io::{self, Read as _, Seek as _, Write as _},
    os::unix::fs::FileExt as _,
    path::{Path, PathBuf},
    sync::{Mutex, MutexGuard, PoisonError},
};

use rustix::fs::FlockOperation;
use shoal_proto::{
    ChunkSet,
    model::{Digest, FileId, FileRef},
};

/// Suffix of the data.
pub(crate) const PART: &str = "part";
/// Suffix of the journal.
pub(crate) const JOURNAL: &str = "journal";

const MAGIC: [u8; 8] = *b"SHOALJ01";
const HEADER_BYTES: usize = 8 + 33 + 8 + 8;
const ENTRY_BYTES: usize = 48;
/// The journal's entry that is about no chunk.
const NO_CHUNK: u32 = u32::MAX;

/// A chunk's content, hashed.
pub(crate) type ChunkHash = [u8; 32];

/// Why a partial file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum PartialError {
    /// The system refused.
    #[error("{}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// No space is left.
    #[error("{}: the disk is full; what was fetched so far is kept", path.display())]
    Full {
        /// The file that could not grow.
        path: PathBuf,
    },
    /// Another process is at it.
    #[error("{} is being downloaded by another process", path.display())]
    Busy {
        /// The file.
        path: PathBuf,
    },
}

/// Where a chunk came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ChunkSource {
    /// From where the model was published.
    Hub,
    /// From another node.
    Peer,
}

/// A partial file, open for writing. While it is open no other process can open it.
#[derive(Debug)]
pub(crate) struct Partial {
    id: FileId,
    data: File,
    data_path: PathBuf,
    journal: Mutex<Journal>,
}

#[derive(Debug)]
struct Journal {
    file: File,
    path: PathBuf,
    /// What is held, by chunk.
    chunks: Vec<Option<(ChunkHash, ChunkSource)>>,
    held: ChunkSet,
}

impl Partial {
    /// Opens the partial file of `file` in the model directory `dir`, or begins one.
    ///
    /// Chunks that the journal knows but the disk does not have are forgotten. A journal of another content is discarded with
    /// its data: the file was replaced where it comes from.
    ///
    /// # Errors
    /// If a file cannot be opened or written, or another process has it open.
    pub(crate) fn open(dir: &Path, file: &FileRef) -> Result<Self, PartialError> {
        let (data_path, journal_path) = paths(dir, &file.name);
        let data = open_file(&data_path)?;
        lock(&data, &data_path)?;
        let mut journal_file = open_file(&journal_path)?;
        let known = read_journal(&mut journal_file, &file.id).map_err(at(&journal_path))?;
        let fresh = known.is_none();
        if fresh {
            let mut empty = || {
                journal_file.set_len(0)?;
                data.set_len(0)?;
                journal_file.rewind()?;
                journal_file.write_all(&header(&file.id))
            };
            empty().map_err(at(&journal_path))?;
        }
        data.set_len(file.id.n_bytes).map_err(at(&data_path))?;
        let entries = known.unwrap_or_default();
        let n_chunks = file.id.n_chunks() as usize;
        let mut journal = Journal {
            file: journal_file,
            path: journal_path,
            chunks: vec![None; n_chunks],
            held: ChunkSet::default(),
        };
        let mut unsealed = ChunkSet::default();
        for entry in entries {
            match entry.kind {
                Kind::Seal => unsealed = ChunkSet::default(),
                Kind::Held(source) => {
                    journal.hold(entry.chunk, entry.hash, source);
                    unsealed.insert(entry.chunk);
                }
                Kind::Dropped => journal.forget(entry.chunk),
            }
        }
        let partial = Self { id: file.id, data, data_path, journal: Mutex::new(journal) };
        partial.forget_lost(&unsealed)?;
        Ok(partial)
    }

    /// Turns a whole file of which some chunks are damaged into a partial one that lacks exactly these.
    ///
    /// - `hashes`: the right BLAKE3 of every chunk
    /// - `good`: the chunks whose bytes have these hashes
    ///
    /// # Errors
    /// If a file cannot be renamed or written.
    pub(crate) fn from_whole(
        dir: &Path,
        file: &FileRef,
        hashes: &[ChunkHash],
        good: &ChunkSet,
    ) -> Result<(), PartialError> {
        let (data_path, journal_path) = paths(dir, &file.name);
        let mut bytes = header(&file.id);
        for chunk in good.iter() {
            let held = Kind::Held(ChunkSource::Hub);
            bytes.extend(Entry { chunk, kind: held, hash: hashes[chunk as usize] }.encode());
        }
        bytes.extend(Entry::SEAL.encode());
        let write = || {
            let mut journal = File::create(&journal_path)?;
            journal.write_all(&bytes)?;
            journal.sync_all()
        };
        write().map_err(at(&journal_path))?;
        std::fs::rename(dir.join(&file.name), &data_path).map_err(at(&data_path))
    }

    /// What the journal says is held, without opening the file for writing or checking it.
    ///
    /// # Errors
    /// If the journal cannot be read. One that is missing, or of another content, is an empty set.
    pub(crate) fn inspect(dir: &Path, file: &FileRef) -> Result<ChunkSet, PartialError> {
        let (_, journal_path) = paths(dir, &file.name);
        let mut journal = match File::open(&journal_path) {
            Ok(journal) => journal,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(ChunkSet::default()),
            Err(source) => return Err(PartialError::Io { path: journal_path, source }),
        };
        let entries = read_journal(&mut journal, &file.id).map_err(at(&journal_path))?;
        let mut held = ChunkSet::default();
        for entry in entries.unwrap_or_default() {
            match entry.kind {
                Kind::Held(_) => held.insert(entry.chunk),
                Kind::Dropped => held.remove(entry.chunk),
                Kind::Seal => {}
            }
        }
        Ok(held)
    }

    /// The content that this is a part of.
    pub(crate) fn id(&self) -> FileId {
        self.id
    }

    /// Where the data lies.
    pub(crate) fn data_path(&self) -> &Path {
        &self.data_path
    }

    /// The chunks that are held.
    pub(crate) fn held(&self) -> ChunkSet {
        self.journal().held.clone()
    }

    /// BLAKE3 of a chunk, if it is held.
    pub(crate) fn hash(&self, chunk: u32) -> Option<ChunkHash> {
        self.journal().chunks.get(chunk as usize).copied().flatten().map(|(hash, _)| hash)
    }

    /// BLAKE3 of all chunks, if all are held.
    pub(crate) fn hashes(&self) -> Option<Vec<ChunkHash>> {
        let journal = self.journal();
        journal.chunks.iter().map(|known| known.map(|(hash, _)| hash)).collect()
    }

    /// The chunks that came from peers.
    pub(crate) fn given_by_peers(&self) -> ChunkSet {
        let journal = self.journal();
        let is_from_peer =
            |chunk: &u32| matches!(journal.chunks[*chunk as usize], Some((_, ChunkSource::Peer)));
        journal.held.iter().filter(is_from_peer).collect()
    }

    /// Writes a chunk, all of it, and enters it. A chunk that is already held is left as it is.
    ///
    /// # Errors
    /// If the disk is full or does not take it.
    ///
    /// # Panics
    /// If `bytes` are not as many as the chunk has, or `hash` is not theirs (in debug builds).
    pub(crate) fn write(
        &self,
        chunk: u32,
        bytes: &[u8],
        hash: ChunkHash,
        source: ChunkSource,
    ) -> Result<(), PartialError> {
        let range = self.id.chunk_range(chunk);
        assert_eq!(bytes.len() as u64, range.end - range.start, "length of chunk {chunk}");
        debug_assert_eq!(*blake3::hash(bytes).as_bytes(), hash, "hash of chunk {chunk}");
        self.data.write_all_at(bytes, range.start).map_err(at(&self.data_path))?;
        let mut journal = self.journal();
        if journal.held.contains(chunk) {
            return Ok(());
        }
        journal.append(&Entry { chunk, kind: Kind::Held(source), hash })?;
        journal.hold(chunk, hash, source);
        Ok(())
    }

    /// Reads a chunk that is held into `buffer`, which gets its length.
    ///
    /// # Errors
    /// If the disk does not give it.
    pub(crate) fn read(&self, chunk: u32, buffer: &mut Vec<u8>) -> Result<(), PartialError> {
        read_chunk(&self.data, &self.id, chunk, buffer).map_err(at(&self.data_path))
    }

    /// Forgets chunks: they turned out to be wrong.
    ///
    /// # Errors
    /// If the journal cannot be written.
    pub(crate) fn forget(&self, chunks: &ChunkSet) -> Result<(), PartialError> {
        let mut journal = self.journal();
        for chunk in chunks.iter().filter(|chunk| *chunk < self.id.n_chunks()) {
            journal.append(&Entry { chunk, kind: Kind::Dropped, hash: [0; 32] })?;
            journal.forget(chunk);
        }
        Ok(())
    }

    /// Flushes what was written to the disk, so that it is believed without a look after a power cut.
    ///
    /// # Errors
    /// If the disk is full or does not take it.
    pub(crate) fn seal(&self) -> Result<(), PartialError> {
        // Held all the while, so that no chunk is entered between the flush and the seal.
        let mut journal = self.journal();
        self.data.sync_data().map_err(at(&self.data_path))?;
        journal.append(&Entry::SEAL)?;
        journal.file.sync_data().map_err(at(&journal.path))
    }

    /// Reads back chunks, and forgets those whose bytes are not what was entered.
    fn forget_lost(&self, chunks: &ChunkSet) -> Result<(), PartialError> {
        let mut buffer = Vec::new();
        let mut lost = ChunkSet::default();
        for chunk in chunks.iter() {
            let Some(expected) = self.hash(chunk) else { continue };
            self.read(chunk, &mut buffer)?;
            if *blake3::hash(&buffer).as_bytes() != expected {
                lost.insert(chunk);
            }
        }
        if !lost.is_empty() {
            let path = self.data_path.display();
            tracing::warn!(%path, n_chunks = lost.len(), "chunks never reached the disk");
        }
        self.forget(&lost)
    }

    fn journal(&self) -> MutexGuard<'_, Journal> {
        // What a panicking thread may leave behind is an entry that is in the file and not in memory: a chunk fetched twice.
        self.journal.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Journal {
    fn append(&mut self, entry: &Entry) -> Result<(), PartialError> {
        self.file.write_all(&entry.encode()).map_err(at(&self.path))
    }

    fn hold(&mut self, chunk: u32, hash: ChunkHash, source: ChunkSource) {
        self.chunks[chunk as usize] = Some((hash, source));
        self.held.insert(chunk);
    }

    fn forget(&mut self, chunk: u32) {
        self.chunks[chunk as usize] = None;
        self.held.remove(chunk);
    }
}

/// Reads a chunk of a file, which gives `buffer` its length.
pub(crate) fn read_chunk(
    file: &File,
    id: &FileId,
    chunk: u32,
    buffer: &mut Vec<u8>,
) -> io::Result<()> {
    let range = id.chunk_range(chunk);
    let n_bytes = usize::try_from(range.end - range.start).expect("a chunk fits in memory");
    buffer.resize(n_bytes, 0);
    file.read_exact_at(buffer, range.start)
}

/// The paths of data and journal.
fn paths(dir: &Path, name: &str) -> (PathBuf, PathBuf) {
    (dir.join(format!("{name}.{PART}")), dir.join(format!("{name}.{JOURNAL}")))
}

/// The chunks of `file` that the journal in the model directory `dir` knows, without a look at the data: good enough to plan
/// with.
pub(crate) fn journalled(dir: &Path, file: &FileRef) -> ChunkSet {
    let mut held = ChunkSet::default();
    let (_, journal_path) = paths(dir, &file.name);
    let known =
        File::open(journal_path).and_then(|mut journal| read_journal(&mut journal, &file.id));
    for entry in known.ok().flatten().unwrap_or_default() {
        match entry.kind {
            Kind::Held(_) => held.insert(entry.chunk),
            Kind::Dropped => held.remove(entry.chunk),
            Kind::Seal => {}
        }
    }
    held
}

fn open_file(path: &Path) -> Result<File, PartialError> {
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).truncate(false);
    options.open(path).map_err(at(path))
}

fn lock(data: &File, path: &Path) -> Result<(), PartialError> {
    // std's file locks are stubs on Android before Rust 1.98.
    match rustix::fs::flock(data, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(()),
        Err(rustix::io::Errno::WOULDBLOCK) => Err(PartialError::Busy { path: path.to_owned() }),
        Err(errno) => Err(PartialError::Io { path: path.to_owned(), source: errno.into() }),
    }
}

fn at(path: &Path) -> impl Fn(io::Error) -> PartialError {
    move |source| match source.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            PartialError::Full { path: path.to_owned() }
        }
        _ => PartialError::Io { path: path.to_owned(), source },
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Held(ChunkSource),
    Dropped,
    Seal,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Entry {
    chunk: u32,
    kind: Kind,
    hash: ChunkHash,
}

impl Entry {
    const SEAL: Self = Self { chunk: NO_CHUNK, kind: Kind::Seal, hash: [0; 32] };

    fn encode(&self) -> [u8; ENTRY_BYTES] {
        let mut bytes = [0; ENTRY_BYTES];
        bytes[..4].copy_from_slice(&self.chunk.to_le_bytes());
        bytes[4] = match self.kind {
            Kind::Held(ChunkSource::Hub) => 1,
            Kind::Held(ChunkSource::Peer) => 2,
            Kind::Dropped => 3,
            Kind::Seal => 4,
        };
        bytes[8..40].copy_from_slice(&self.hash);
        let check = check(&bytes[..40]);
        bytes[40..].copy_from_slice(&check);
        bytes
    }

    /// Reads an entry about a file of `n_chunks`; `None` for one that was torn or is about nothing.
    fn decode(bytes: &[u8; ENTRY_BYTES], n_chunks: u32) -> Option<Self> {
        if bytes[40..] != check(&bytes[..40]) {
            return None;
        }
        let chunk = u32::from_le_bytes(bytes[..4].try_into().expect("four bytes"));
        let kind = match bytes[4] {
            1 => Kind::Held(ChunkSource::Hub),
            2 => Kind::Held(ChunkSource::Peer),
            3 => Kind::Dropped,
            4 => return Some(Self::SEAL),
            _ => return None,
        };
        let hash = bytes[8..40].try_into().expect("32 bytes");
        (chunk < n_chunks).then_some(Self { chunk, kind, hash })
    }
}

fn header(id: &FileId) -> Vec<u8> {
    let (kind, digest) = match &id.digest {
        Digest::Sha256(digest) => (0, digest),
        Digest::Origin(digest) => (1, digest),
    };
    let mut bytes = MAGIC.to_vec();
    bytes.push(kind);
    bytes.extend(digest);
    bytes.extend(id.n_bytes.to_le_bytes());
    bytes.extend(check(&bytes));
    bytes
}

fn check(bytes: &[u8]) -> [u8; 8] {
    blake3::hash(bytes).as_bytes()[..8].try_into().expect("eight of 32 bytes")
}

/// Reads the entries of a journal and leaves the file where the next one goes. `None` if it is not the journal of this content.
fn read_journal(file: &mut File, id: &FileId) -> io::Result<Option<Vec<Entry>>> {
    // Each chunk is entered, dropped and entered again a few times at most.
    let bytes_max = HEADER_BYTES as u64 + 16 * (u64::from(id.n_chunks()) + 16) * ENTRY_BYTES as u64;
    let mut bytes = Vec::new();
    file.take(bytes_max).read_to_end(&mut bytes)?;
    let Some(entries) = bytes.strip_prefix(header(id).as_slice()) else { return Ok(None) };
    let (entries, torn) = entries.as_chunks::<ENTRY_BYTES>();
    let end = (bytes.len() - torn.len()) as u64;
    file.seek(io::SeekFrom::Start(end))?;
    let n_chunks = id.n_chunks();
    Ok(Some(entries.iter().filter_map(|entry| Entry::decode(entry, n_chunks)).collect()))
}

#[cfg(test)]
mod tests;
