//! GGUF model files: bytes in, typed header, metadata and tensor directory out.
//!
//! A GGUF file is a header (magic, version, two counts), key-value metadata, a directory of tensors, and
//! then the tensors' data, each at an aligned offset. The format is specified in ggml's `docs/gguf.md`.
//! This crate reads versions 2 and 3, little-endian, and writes both.
//!
//! - [`Directory::parse`] turns the first bytes of a file, local or remote, into metadata and tensor infos.
//! - [`Gguf`] is a whole model: one mapped file, the parts of a split model, or bytes in the binary.
//! - [`Writer`] makes files, for tests and for synthetic models.
//!
//! Invariants, for bytes from anybody:
//! - Nothing panics, and no tensor info that is handed out reaches outside its file or over another tensor.
//! - Every count and length is checked against the bytes that remain before anything is allocated, so that
//!   parsing allocates a small multiple of the bytes that it was given.
//! - What cannot be read is an [`Error`] that names the field, its offset, what was expected and what was
//!   found. [`Error::NeedMore`] alone means "give me a longer prefix".

mod directory;
mod error;
mod file;
mod metadata;
mod model;
mod reader;
mod split;
mod tensor_type;
mod value;
mod writer;

pub use directory::{Directory, MAX_DIRECTORY_BYTES, TensorInfo};
pub use error::Error;
pub use metadata::Metadata;
pub use model::{Gguf, Tensor};
pub use tensor_type::TensorType;
pub use value::{Array, MAX_ARRAY_DEPTH, Value};
pub use writer::Writer;
