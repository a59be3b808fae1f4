//! The data directory: made if it is not there, and held by one process at a time.

use std::{
    fs::{self, File},
    path::Path,
    sync::Arc,
};

use rustix::{
    fs::{FlockOperation, flock},
    io::Errno,
};

use crate::Error;

/// Makes the directory and claims it until the returned file is dropped. The lock is the kernel's (`flock`): it ends with the
/// process, however that ends. (The standard library's is a stub on Android before Rust 1.98.)
pub(crate) fn claim(dir: &Path) -> Result<File, Error> {
    let failed =
        |error: std::io::Error| Error::DataDir { path: dir.to_owned(), source: Arc::new(error) };
    fs::create_dir_all(dir).map_err(failed)?;
    let lock = File::create(dir.join("lock")).map_err(failed)?;
    match flock(&lock, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(lock),
        Err(Errno::WOULDBLOCK) => Err(Error::DataDirInUse { path: dir.to_owned() }),
        Err(error) => Err(failed(error.into())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_is_held_once_and_then_free_again() {
        let parent = tempfile::tempdir().expect("a temporary directory");
        let dir = parent.path().join("a/b");
        let held = claim(&dir).expect("nobody holds it");
        assert!(matches!(claim(&dir), Err(Error::DataDirInUse { path }) if path == dir));
        drop(held);
        claim(&dir).expect("it is free again");
    }
}
