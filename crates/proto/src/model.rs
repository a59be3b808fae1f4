//! Models as nodes name them to each other: which files a model is made of, what identifies the bytes of each, and where
//! they can be had.
//!
//! A file is known by its [`FileId`], whatever it is called and wherever it lies, so that nodes can give each other parts of
//! it. The parts are *chunks* of [`CHUNK_BYTES`], the last one shorter.

use std::{fmt, ops::Range, str::FromStr};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// Bytes of a chunk, the unit in which files are fetched, checked, recorded and exchanged. Small enough that a stage's
/// layers, rounded outward to chunks, stay within two per cent of their size, and that an interrupted fetch loses little;
/// large enough that the hashes of a 2 GB model are 256 KB.
pub const CHUNK_BYTES: u64 = 256 * 1024;

/// Most files of one model: the largest split models on the hub have some tens of parts.
pub const FILES_MAX: usize = 256;

/// What identifies the content of a file.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Digest {
    /// SHA-256 of the content.
    Sha256([u8; 32]),
    /// BLAKE3 of where the file comes from, with the tag that its server gives to this version: for servers that publish no
    /// content hash. Such a file cannot be checked as a whole.
    Origin([u8; 32]),
}

/// The identity of a file's content.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct FileId {
    /// What its bytes are.
    pub digest: Digest,
    /// How many they are.
    pub n_bytes: u64,
}

impl FileId {
    /// Number of chunks; 0 for an empty file.
    ///
    /// # Panics
    /// If there are 2^32 chunks or more, which is a pebibyte: see [`is_plausible`](Self::is_plausible).
    pub fn n_chunks(&self) -> u32 {
        u32::try_from(self.n_bytes.div_ceil(CHUNK_BYTES)).expect("a file of less than a pebibyte")
    }

    /// Whether the size is one that a model file may have: at most 4 TiB.
    pub fn is_plausible(&self) -> bool {
        self.n_bytes <= 1 << 42
    }

    /// The bytes of a chunk.
    pub fn chunk_range(&self, chunk: u32) -> Range<u64> {
        let start = u64::from(chunk) * CHUNK_BYTES;
        start.min(self.n_bytes)..(start + CHUNK_BYTES).min(self.n_bytes)
    }

    /// The bytes of consecutive chunks.
    pub fn byte_range(&self, chunks: Range<u32>) -> Range<u64> {
        let at = |chunk: u32| (u64::from(chunk) * CHUNK_BYTES).min(self.n_bytes);
        at(chunks.start)..at(chunks.end)
    }

    /// The chunks that hold these bytes.
    pub fn chunks_of(&self, bytes: Range<u64>) -> Range<u32> {
        let bytes = bytes.start.min(self.n_bytes)..bytes.end.min(self.n_bytes);
        if bytes.is_empty() {
            return 0..0;
        }
        let index = |at: u64| u32::try_from(at).expect("a file of less than a pebibyte");
        index(bytes.start / CHUNK_BYTES)..index(bytes.end.div_ceil(CHUNK_BYTES))
    }
}

/// Where a file can be had from outside the cluster.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FileOrigin {
    /// A repository of the model hub, at one commit.
    Hub {
        /// `owner/name`.
        repo: String,
        /// The commit.
        commit: String,
        /// The file's path in it.
        path: String,
    },
    /// Any other server.
    Url(String),
}

/// One file of a model.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct FileRef {
    /// Its name in the model's directory, without any separator.
    pub name: String,
    /// Its content.
    pub id: FileId,
    /// Where it can be had; `None` for files that only members have.
    pub origin: Option<FileOrigin>,
}

/// A model and its files: all that a node needs to get it, and what a model directory's manifest says.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct ModelFiles {
    /// The model's name, the same on every node, for example `Qwen/Qwen2.5-0.5B-Instruct-GGUF:Q4_K_M`.
    pub name: String,
    /// Its files; the parts of a split model in their order.
    pub files: Vec<FileRef>,
}

impl ModelFiles {
    /// Bytes of all files.
    pub fn n_bytes(&self) -> u64 {
        self.files.iter().fold(0, |sum, file| sum.saturating_add(file.id.n_bytes))
    }

    /// Checks what another node or a manifest on disk says: the number, names and sizes of the files.
    ///
    /// # Errors
    /// What is wrong, as text that names the file.
    pub fn check(&self) -> Result<(), String> {
        if !(1..=FILES_MAX).contains(&self.files.len()) {
            return Err(format!("expected 1 to {FILES_MAX} files, got {}", self.files.len()));
        }
        for file in &self.files {
            if !is_file_name(&file.name) {
                return Err(format!("expected a plain file name, got {:?}", file.name));
            }
            if !file.id.is_plausible() {
                return Err(format!("file {}: {} bytes is no model", file.name, file.id.n_bytes));
            }
        }
        Ok(())
    }
}

/// Whether a name stays in its directory wherever it is used.
fn is_file_name(name: &str) -> bool {
    let is_plain = |c: char| !c.is_control() && !matches!(c, '/' | '\\' | ':');
    (1..=255).contains(&name.len()) && !name.starts_with('.') && name.chars().all(is_plain)
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (kind, bytes) = match self {
            Self::Sha256(bytes) => ("sha256", bytes),
            Self::Origin(bytes) => ("origin", bytes),
        };
        write!(f, "{kind}:")?;
        bytes.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A text that is no digest.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("digest: expected sha256: or origin: and 64 hexadecimal digits, got {got:?}")]
pub struct ParseDigestError {
    /// The text as it was given.
    pub got: String,
}

impl FromStr for Digest {
    type Err = ParseDigestError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let error = || ParseDigestError { got: text.chars().take(80).collect() };
        let (kind, digits) = text.split_once(':').ok_or_else(error)?;
        let bytes = crate::id::parse_hex(digits).ok_or_else(error)?;
        match kind {
            "sha256" => Ok(Self::Sha256(bytes)),
            "origin" => Ok(Self::Origin(bytes)),
            _ => Err(error()),
        }
    }
}

// In JSON as people write it, on the wire as its bytes.
impl Serialize for Digest {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if serializer.is_human_readable() {
            return serializer.collect_str(self);
        }
        match self {
            Self::Sha256(bytes) => (0u8, bytes).serialize(serializer),
            Self::Origin(bytes) => (1u8, bytes).serialize(serializer),
        }
    }
}

impl<'de> Deserialize<'de> for Digest {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        if deserializer.is_human_readable() {
            return String::deserialize(deserializer)?.parse().map_err(de::Error::custom);
        }
        match <(u8, [u8; 32])>::deserialize(deserializer)? {
            (0, bytes) => Ok(Self::Sha256(bytes)),
            (1, bytes) => Ok(Self::Origin(bytes)),
            (kind, _) => {
                Err(de::Error::custom(format!("kind of digest: expected 0 or 1, got {kind}")))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(n_bytes: u64) -> FileId {
        FileId { digest: Digest::Sha256([7; 32]), n_bytes }
    }

    #[test]
    fn the_last_chunk_is_shorter() {
        let file = id(CHUNK_BYTES * 2 + 5);
        assert_eq!(file.n_chunks(), 3);
        assert_eq!(file.chunk_range(2), CHUNK_BYTES * 2..CHUNK_BYTES * 2 + 5);
        assert_eq!(file.byte_range(1..3), CHUNK_BYTES..CHUNK_BYTES * 2 + 5);
        assert!(file.chunk_range(3).is_empty());
        assert_eq!(id(0).n_chunks(), 0);
    }

    #[test]
    fn bytes_lie_in_the_chunks_around_them() {
        let file = id(CHUNK_BYTES * 4);
        assert_eq!(file.chunks_of(0..1), 0..1);
        assert_eq!(file.chunks_of(CHUNK_BYTES - 1..CHUNK_BYTES + 1), 0..2);
        assert_eq!(file.chunks_of(CHUNK_BYTES..CHUNK_BYTES * 2), 1..2);
        assert_eq!(file.chunks_of(5..5), 0..0);
        assert_eq!(file.chunks_of(CHUNK_BYTES * 3..u64::MAX), 3..4);
    }

    #[test]
    fn a_digest_reads_back_as_it_was_written() {
        for digest in [Digest::Sha256([0xab; 32]), Digest::Origin([1; 32])] {
            assert_eq!(digest.to_string().parse(), Ok(digest));
            let bytes = postcard::to_allocvec(&digest).expect("plain data");
            assert_eq!((bytes.len(), postcard::from_bytes(&bytes)), (33, Ok(digest)));
        }
        for wrong in ["", "sha256", "sha256:12", "md5:00", &format!("sha1:{}", "0".repeat(64))] {
            assert!(wrong.parse::<Digest>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn names_that_leave_their_directory_are_refused() {
        let model = |name: &str| ModelFiles {
            name: "m".to_owned(),
            files: vec![FileRef { name: name.to_owned(), id: id(1), origin: None }],
        };
        assert_eq!(model("a b.gguf").check(), Ok(()));
        for wrong in ["", "..", ".hidden", "../x", "a/b", "a\\b", "c:x", "a\0b"] {
            assert!(model(wrong).check().is_err(), "{wrong:?}");
        }
        assert!(ModelFiles { name: "m".to_owned(), files: vec![] }.check().is_err());
    }
}
