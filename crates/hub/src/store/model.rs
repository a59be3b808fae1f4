//! Models as they are on this device: where they lie, and how much of them is there.

use std::{path::PathBuf, time::SystemTime};

use shoal_proto::model::{FileId, ModelFiles};

/// Where models are kept.
#[derive(Debug, Clone)]
pub struct StoreConfig {
    /// The store's own directory.
    pub dir: PathBuf,
    /// The cache that Hugging Face's programs share, `…/huggingface/hub`.
    pub hf_cache: Option<PathBuf>,
    /// Ollama's models, `…/.ollama/models`.
    pub ollama: Option<PathBuf>,
}

/// Whose directory a model lies in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Place {
    /// The store's own.
    Own,
    /// The cache of Hugging Face's programs.
    HfCache,
    /// Ollama's.
    Ollama,
}

/// How much of a file is there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FileState {
    /// All of it.
    Whole,
    /// Some of it, or nothing.
    Partial {
        /// Bytes that are there, of whole chunks.
        n_bytes: u64,
    },
}

/// A file of a model, as it is on this device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LocalFile {
    /// Its name in the model.
    pub name: String,
    /// Where it is, or will be when it is whole.
    pub path: PathBuf,
    /// What identifies its content; `None` for a file that nobody described and that was not read yet.
    pub id: Option<FileId>,
    /// Its size when it is whole.
    pub n_bytes: u64,
    /// How much of it is there.
    pub state: FileState,
    /// Whose it is.
    pub place: Place,
}

impl LocalFile {
    /// Bytes that are there.
    pub fn n_bytes_held(&self) -> u64 {
        match self.state {
            FileState::Whole => self.n_bytes,
            FileState::Partial { n_bytes } => n_bytes,
        }
    }
}

impl Place {
    /// The program that a model belongs to, if it is not Shoal.
    pub fn owner(self) -> Option<&'static str> {
        match self {
            Self::Own => None,
            Self::HfCache => Some("the Hugging Face cache"),
            Self::Ollama => Some("Ollama"),
        }
    }
}

/// How a model is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ModelState {
    /// All files are whole.
    Whole,
    /// Some are not.
    Partial {
        /// Bytes that are there.
        n_bytes: u64,
        /// Bytes of all files.
        n_total: u64,
    },
    /// It cannot be used as it is.
    Damaged {
        /// What is wrong.
        what: String,
    },
}

/// A model on this device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredModel {
    /// Its name.
    pub name: String,
    /// The directory in which it lies.
    pub dir: PathBuf,
    /// Its files; the parts of a split model in their order. Those of a damaged model may be missing here.
    pub files: Vec<LocalFile>,
    /// Whose it is.
    pub place: Place,
    /// How it is.
    pub state: ModelState,
    /// What another node needs to get it; `None` as long as the content of a file is not identified.
    pub manifest: Option<ModelFiles>,
    /// Bytes that it takes on the disk.
    pub n_bytes_on_disk: u64,
    /// When one of its files was last written.
    pub modified: SystemTime,
}
