//! What a served file consists of, and how any range of it is produced.

use std::{fs::File, io, os::unix::fs::FileExt, path::PathBuf, sync::Arc};

use bytes::Bytes;
use data_encoding::HEXLOWER;
use sha2::{Digest, Sha256};

/// Bytes handed to a socket at once: large enough that the cost per call vanishes, small enough for many connections.
pub(crate) const CHUNK_BYTES: usize = 256 * 1024;

/// The content of a file.
#[derive(Debug, Clone)]
pub enum Content {
    /// Bytes in memory, served without a copy.
    Bytes(Bytes),
    /// Pseudo-random bytes that are made as they are sent: the file is never in memory or on disk.
    Generated {
        /// Files of the same seed and size are equal.
        seed: u64,
        /// Size of the file, in bytes.
        n_bytes: u64,
    },
    /// A file on disk, which must not change while it is served.
    File(PathBuf),
}

impl Content {
    /// Makes a content in memory out of text.
    pub fn text(text: impl Into<String>) -> Self {
        Content::Bytes(Bytes::from(text.into()))
    }

    /// Writes the bytes of a generated file from `offset` on into `out`, so that a test can check what it received.
    ///
    /// The word at index `i` is the `i`-th output of SplitMix64 (Steele, Lea, Flood 2014) started at `seed`, little-endian.
    pub fn generate(seed: u64, offset: u64, out: &mut [u8]) {
        let mut idx = offset / 8;
        let skip = usize::try_from(offset % 8).expect("less than eight");
        let n_first = if skip == 0 { 0 } else { (8 - skip).min(out.len()) };
        let (first, rest) = out.split_at_mut(n_first);
        if n_first > 0 {
            first.copy_from_slice(&word(seed, idx)[skip..skip + n_first]);
            idx += 1;
        }
        let mut words = rest.chunks_exact_mut(8);
        for out in &mut words {
            out.copy_from_slice(&word(seed, idx));
            idx += 1;
        }
        let last = words.into_remainder();
        last.copy_from_slice(&word(seed, idx)[..last.len()]);
    }
}

fn word(seed: u64, idx: u64) -> [u8; 8] {
    let mut z = seed.wrapping_add(idx.wrapping_add(1).wrapping_mul(0x9E37_79B9_7F4A_7C15));
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    (z ^ (z >> 31)).to_le_bytes()
}

/// A content whose size and hash are known; cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Source(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    kind: Kind,
    n_bytes: u64,
    sha256: String,
}

#[derive(Debug)]
enum Kind {
    Bytes(Bytes),
    Generated(u64),
    File(File),
}

impl Source {
    /// Opens `content` and reads it once for its hash.
    pub(crate) fn new(content: Content) -> io::Result<Self> {
        let (kind, n_bytes) = match content {
            Content::Bytes(bytes) => {
                let n_bytes = u64::try_from(bytes.len()).expect("a length fits 64 bits");
                (Kind::Bytes(bytes), n_bytes)
            }
            Content::Generated { seed, n_bytes } => (Kind::Generated(seed), n_bytes),
            Content::File(path) => {
                let file = File::open(path)?;
                let n_bytes = file.metadata()?.len();
                (Kind::File(file), n_bytes)
            }
        };
        let mut source = Inner { kind, n_bytes, sha256: String::new() };
        let mut hasher = Sha256::new();
        let mut buffer = Vec::new();
        let mut offset = 0;
        while offset < n_bytes {
            let chunk = source.read(offset, CHUNK_BYTES, &mut buffer)?;
            hasher.update(&chunk);
            offset += u64::try_from(chunk.len()).expect("a chunk is small");
        }
        source.sha256 = HEXLOWER.encode(&hasher.finalize());
        Ok(Self(Arc::new(source)))
    }

    /// The size, in bytes.
    pub(crate) fn n_bytes(&self) -> u64 {
        self.0.n_bytes
    }

    /// SHA-256 of the whole, as 64 hexadecimal digits.
    pub(crate) fn sha256(&self) -> &str {
        &self.0.sha256
    }

    /// Produces at most `n_max` bytes from `offset` on; less only at the end. `buffer` is scratch.
    pub(crate) fn read<'a>(
        &self,
        offset: u64,
        n_max: usize,
        buffer: &'a mut Vec<u8>,
    ) -> io::Result<Chunk<'a>> {
        self.0.read(offset, n_max, buffer)
    }
}

impl Inner {
    fn read<'a>(
        &self,
        offset: u64,
        n_max: usize,
        buffer: &'a mut Vec<u8>,
    ) -> io::Result<Chunk<'a>> {
        let left = self.n_bytes.saturating_sub(offset);
        let n = usize::try_from(left).unwrap_or(usize::MAX).min(n_max);
        if let Kind::Bytes(bytes) = &self.kind {
            let start = usize::try_from(offset).unwrap_or(usize::MAX).min(bytes.len());
            return Ok(Chunk::Shared(bytes.slice(start..start + n)));
        }
        buffer.resize(n, 0);
        match &self.kind {
            Kind::Bytes(_) => {}
            Kind::Generated(seed) => Content::generate(*seed, offset, buffer),
            // Blocking, for at most a chunk: the files of tests are in the page cache.
            Kind::File(file) => file.read_exact_at(buffer, offset)?,
        }
        Ok(Chunk::Buffered(buffer))
    }
}

/// A piece of a file, either shared with it or in the caller's buffer.
#[derive(Debug)]
pub(crate) enum Chunk<'a> {
    Shared(Bytes),
    Buffered(&'a mut Vec<u8>),
}

impl std::ops::Deref for Chunk<'_> {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self {
            Chunk::Shared(bytes) => bytes,
            Chunk::Buffered(bytes) => bytes,
        }
    }
}

impl AsRef<[u8]> for Chunk<'_> {
    fn as_ref(&self) -> &[u8] {
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_range_of_a_generated_file_is_the_same_as_in_the_whole() {
        let mut whole = [0; 100];
        Content::generate(7, 0, &mut whole);
        for start in 0..20 {
            for end in start..60 {
                let mut part = vec![0; end - start];
                Content::generate(7, start as u64, &mut part);
                assert_eq!(part, whole[start..end], "{start}..{end}");
            }
        }
    }

    #[test]
    fn hashes_what_it_serves() {
        let source = Source::new(Content::text("abc")).unwrap();
        let expected = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        assert_eq!((source.sha256(), source.n_bytes()), (expected, 3));
    }
}
