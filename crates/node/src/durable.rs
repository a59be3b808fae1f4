//! Files that are the old ones or the new ones after a power cut at any moment, and never half of either.

use std::{
    fs::{self, File},
    io::{self, Write},
    path::Path,
};

/// Writes a file beside `path`, brings it to the disk, and renames it over `path`. Blocks until the disk has it, which takes
/// tens of milliseconds on a phone.
///
/// # Errors
/// If any of it fails; then the old file is still there.
pub(crate) fn replace(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let beside = path.with_extension("new");
    let mut file = File::create(&beside)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    drop(file);
    fs::rename(&beside, path)?;
    // The rename is in the directory, which has to get to the disk too. Not every system lets a directory be opened.
    match path.parent().map(File::open) {
        Some(Ok(dir)) => dir.sync_all(),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_a_power_cut_left_beside_it_does_no_harm() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let path = dir.path().join("it");
        replace(&path, b"first").expect("writable");
        fs::write(path.with_extension("new"), b"ha").expect("writable");
        assert_eq!(fs::read(&path).expect("it is there"), b"first");
        replace(&path, b"second").expect("writable");
        assert_eq!(fs::read(&path).expect("it is there"), b"second");
        assert_eq!(fs::read_dir(dir.path()).expect("readable").count(), 1);
    }
}
