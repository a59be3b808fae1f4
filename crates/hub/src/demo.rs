//! Where models come from. Today: the demonstration model that is part of the binary, and GGUF files on this device.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use shoal_gguf::Gguf;

use crate::partial::PART;

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

/// Opens a model whose files are known, in the order of its parts; none of them stand for the demonstration model. A file that
/// has become whole since it was named has lost the ending of an unfinished one.
///
/// # Errors
/// If a file is missing or no GGUF.
pub fn open_paths(name: &str, paths: &[PathBuf]) -> Result<Source, Error> {
    if paths.is_empty() {
        return open(DEMO);
    }
    let found: Vec<PathBuf> = paths.iter().map(|path| whole_or_part(path)).collect();
    let gguf = Gguf::open_files(&found)
        .map_err(|source| Error::Unreadable { name: name.to_owned(), source })?;
    Ok(source(name.to_owned(), gguf))
}

/// The path, without the ending of an unfinished file if only the finished one is there.
fn whole_or_part(path: &Path) -> PathBuf {
    let is_part = path.extension().is_some_and(|extension| extension == PART);
    let whole = path.with_extension("");
    if is_part && !path.exists() && whole.exists() { whole } else { path.to_owned() }
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
    fn a_file_that_has_become_whole_is_found() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let (part, whole) = (dir.path().join("model.gguf.part"), dir.path().join("model.gguf"));
        std::fs::write(&part, DEMO_GGUF).expect("writable");
        let paths = [part.clone()];
        let before = open_paths("m", &paths).expect("it is there").fingerprint;
        std::fs::rename(&part, &whole).expect("writable");
        assert_eq!(open_paths("m", &paths).expect("it is there").fingerprint, before);
        assert_eq!(open_paths("m", &[]).expect("the demonstration model").fingerprint, before);
        std::fs::remove_file(&whole).expect("writable");
        open_paths("m", &paths).expect_err("it is gone");
    }

    #[test]
    fn says_what_is_wrong_with_a_name() {
        let error = open("gpt-4").expect_err("no such model").to_string();
        assert_eq!(error, "model \"gpt-4\": expected `demo` or the path of a .gguf file");
        let error = open("/nowhere/model.gguf").expect_err("no such file").to_string();
        assert_eq!(error, "model /nowhere/model.gguf: no such file");
    }
}
