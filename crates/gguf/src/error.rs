//! What can be wrong with a model file.

use std::io;
use std::path::PathBuf;

/// Why a file, or the prefix of one, cannot be read or written as GGUF.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The bytes given are a good beginning, but the directory goes on after them.
    #[error("the directory goes on: expected at least {at_least} bytes of the file")]
    NeedMore {
        /// The shortest prefix of the file with which parsing gets further, in bytes. At most the file's
        /// length and at most [`crate::MAX_DIRECTORY_BYTES`].
        at_least: u64,
    },
    /// The file does not begin with `GGUF`.
    #[error("magic at byte 0: expected `GGUF`, got `{}`", found.escape_ascii())]
    Magic {
        /// The first four bytes.
        found: [u8; 4],
    },
    /// A big-endian file. They exist for s390x and nothing that Shoal runs on.
    #[error(
        "version at byte 4: expected a little-endian file, got a big-endian one (version {version})"
    )]
    BigEndian {
        /// The version, read as big-endian.
        version: u32,
    },
    /// A version that this crate does not read. Version 1 has 32-bit counts and was withdrawn in 2023.
    #[error("version at byte 4: expected 2 or 3, got {found}")]
    Version {
        /// The version that the file claims.
        found: u32,
    },
    /// The file ends before something that it announces.
    #[error(
        "{field} at byte {offset}: expected {needed} bytes, but the file ends after {available}"
    )]
    Truncated {
        /// What was being read.
        field: String,
        /// Where it begins in the file.
        offset: u64,
        /// Its length as the file claims it (at least; saturates at `u64::MAX`).
        needed: u64,
        /// How many bytes there are from `offset` to the end of the file.
        available: u64,
    },
    /// The directory is longer than any real one.
    #[error("{field} at byte {offset}: expected the directory to end by byte {limit}, got {end}")]
    DirectoryTooLarge {
        /// What was being read.
        field: String,
        /// Where it begins in the file.
        offset: u64,
        /// Where it would end (saturates at `u64::MAX`).
        end: u64,
        /// [`crate::MAX_DIRECTORY_BYTES`].
        limit: u64,
    },
    /// A field holds something that the format, or good sense, forbids.
    #[error("{field} at byte {offset}: expected {expected}, got {found}")]
    Malformed {
        /// Which field.
        field: String,
        /// Where it begins in the file.
        offset: u64,
        /// What would have been right.
        expected: String,
        /// What the file has.
        found: String,
    },
    /// A key that a reader of the model needs is not there.
    #[error("metadata {key}: expected {expected}, got nothing")]
    MissingKey {
        /// The key.
        key: String,
        /// The type that was asked for.
        expected: &'static str,
    },
    /// A key is there with another type, or with a value that the type asked for cannot hold.
    #[error("metadata {key}: expected {expected}, got {found}")]
    WrongType {
        /// The key.
        key: String,
        /// The type that was asked for.
        expected: &'static str,
        /// The type and, for scalars, the value that the file has.
        found: String,
    },
    /// A file of a split model does not fit to the others.
    #[error("split model: {field}: expected {expected}, got {found}")]
    Split {
        /// Which fact about the parts.
        field: String,
        /// What would have been right.
        expected: String,
        /// What the file has.
        found: String,
    },
    /// A file of a split model is not where it should be.
    #[error("split model: part {part} of {count} is missing: expected it at {}", path.display())]
    MissingPart {
        /// Where it should be.
        path: PathBuf,
        /// Which part, from 1.
        part: u32,
        /// How many parts there are.
        count: u32,
    },
    /// The file cannot be opened or mapped.
    #[error("cannot open {}", path.display())]
    Open {
        /// The file.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// Something is wrong with the contents of one file.
    #[error("cannot read {}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        #[source]
        source: Box<Error>,
    },
    /// A [`crate::Writer`] was given something that makes no valid file.
    #[error("cannot write {field}: expected {expected}, got {found}")]
    Unwritable {
        /// Which key or tensor.
        field: String,
        /// What would have been right.
        expected: String,
        /// What was given.
        found: String,
    },
    /// The output of a [`crate::Writer`] failed.
    #[error("cannot write the model file")]
    Output(#[from] io::Error),
}
