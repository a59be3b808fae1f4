//! What can go wrong with the models on disk.

use std::{io, path::PathBuf};

use crate::partial::PartialError;

/// Why the store could not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The system refused.
    #[error("{}", path.display())]
    Io {
        /// The file or directory.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// What is wanted does not fit on the disk.
    #[error(
        "{}: expected {needed} bytes of free space, got {free} (besides {reserve} that the system keeps)",
        dir.display()
    )]
    Full {
        /// Bytes that would be written.
        needed: u64,
        /// Bytes that may be written.
        free: u64,
        /// Bytes that are left alone.
        reserve: u64,
        /// Where.
        dir: PathBuf,
    },
    /// Another process changes the same model.
    #[error("model {name}: another process is changing it")]
    Busy {
        /// The model.
        name: String,
    },
    /// There is no model of that name.
    #[error("model {name}: not on this device")]
    Unknown {
        /// The name as it was given.
        name: String,
    },
    /// A model of that name is there, made of other files.
    #[error("model {name}: {} holds another version of it", dir.display())]
    OtherVersion {
        /// The model.
        name: String,
        /// Where it lies.
        dir: PathBuf,
    },
    /// The model belongs to another program, which alone may change it.
    #[error("model {name}: it belongs to {owner}; remove it there")]
    Foreign {
        /// The model.
        name: String,
        /// The program.
        owner: &'static str,
    },
    /// A name or a list of files that no model can have.
    #[error("model {name:?}: {what}")]
    Invalid {
        /// The name as it was given.
        name: String,
        /// What is wrong.
        what: String,
    },
    /// A file is not what it should be.
    #[error("{}: {what}", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What was expected, and what is there.
        what: String,
    },
    /// A file is no model.
    #[error("{}: not a model file", path.display())]
    NoModel {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: shoal_gguf::Error,
    },
    /// A partial file cannot be read or made.
    #[error(transparent)]
    Partial(#[from] PartialError),
}

impl StoreError {
    /// Says which path an error of the system is about.
    pub(super) fn at(path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::Io { path, source }
    }

    pub(super) fn damaged(path: impl Into<PathBuf>, what: impl Into<String>) -> Self {
        Self::Damaged { path: path.into(), what: what.into() }
    }
}
