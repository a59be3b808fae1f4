//! Where models come from. Today: the demonstration model that is part of the binary, and GGUF files on this device.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use shoal_gguf::Gguf;

/// Name of the demonstration model.
pub const DEMO: &str = "demo";

/// The demonstration model's file, trained for this project; see `demo/README.md` in the repository.
static DEMO_GGUF: &[u8] = include_bytes!("../demo/shoal-demo.gguf");

/// A model that could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The name is neither the demonstration model nor a GGUF file.
    #[error("model {name:?}: expected `{DEMO}` or the path of a .gguf file")]
    UnknownName {
        /// The name as it was given.
        name: String,
    },
    /// The path leads to no file.
    #[error("model {path}: no such file", path = path.display())]
    Missing {
        /// The path.
        path: PathBuf,
    },
    /// The file is there but is no GGUF that can be read.
    #[error("model {name}: the file cannot be used")]
    Unreadable {
        /// The model's name.
        name: String,
        /// What is wrong with it.
        source: shoal_gguf::Error,
    },
}

/// A model whose header has been read.
#[derive(Debug, Clone)]
pub struct Source {
    /// The name under which every node finds it: `demo` or an absolute path.
    pub name: String,
    /// The mapped file.
    pub gguf: Arc<Gguf>,
    /// BLAKE3 of header, metadata, tensor directory and size: equal on two nodes only if both hold the same model. It does
    /// not read the weights, so that it costs milliseconds for any size.
    pub fingerprint: [u8; 32],
}

/// Opens a model by name: `demo`, or a path that ends in `.gguf` (a part of a split file stands for all of them).
///
/// # Errors
/// If there is no such model, or its file is no GGUF.
pub fn open(name: &str) -> Result<Source, Error> {
    let unreadable = |source| Error::Unreadable { name: name.to_owned(), source };
    if name == DEMO {
        let gguf = Gguf::from_static(DEMO_GGUF).map_err(unreadable)?;
        return Ok(source(DEMO.to_owned(), gguf));
    }
    let path = Path::new(name);
    if path.extension().is_none_or(|extension| !extension.eq_ignore_ascii_case("gguf")) {
        return Err(Error::UnknownName { name: name.to_owned() });
    }
    let path = path.canonicalize().map_err(|_| Error::Missing { path: path.to_owned() })?;
    let gguf = Gguf::open(&path).map_err(unreadable)?;
    Ok(source(path.to_string_lossy().into_owned(), gguf))
}

pub(crate) fn source(name: String, gguf: Gguf) -> Source {
    let mut hasher = blake3::Hasher::new();
    gguf.directory_bytes().for_each(|bytes| {
        hasher.update(bytes);
    });
    hasher.update(&gguf.n_bytes().to_le_bytes());
    Source { name, gguf: Arc::new(gguf), fingerprint: *hasher.finalize().as_bytes() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_demonstration_model_needs_no_file() {
        let demo = open(DEMO).expect("it is part of the binary");
        assert_eq!(demo.fingerprint, open(DEMO).expect("again").fingerprint);
        assert!(demo.gguf.n_bytes() <= 8 << 20, "at most 8 MiB of every binary");
    }

    #[test]
    fn says_what_is_wrong_with_a_name() {
        let error = open("gpt-4").expect_err("no such model").to_string();
        assert_eq!(error, "model \"gpt-4\": expected `demo` or the path of a .gguf file");
        let error = open("/nowhere/model.gguf").expect_err("no such file").to_string();
        assert_eq!(error, "model /nowhere/model.gguf: no such file");
    }
}
