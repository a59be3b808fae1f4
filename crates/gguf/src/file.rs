//! Mapped files: the one place of this crate with `unsafe`.

use std::fs::File;
use std::path::Path;

use memmap2::Mmap;

use crate::Error;

/// Maps a file for reading.
///
/// The pages are read from disk when they are touched and can be evicted again, so that a node needs memory
/// only for the layers that it computes with.
///
/// A file that shrinks while it is mapped makes the next touch of a lost page fatal (SIGBUS), and one that
/// is rewritten changes under its reader. Shoal therefore never writes to a model file in place: downloads
/// go to another name and are renamed when they are complete. Against other programs nothing helps but
/// copying the file, which a phone has no memory for.
///
/// # Errors
/// If the file cannot be opened or mapped.
pub(crate) fn map(path: &Path) -> Result<Mmap, Error> {
    let open = || {
        let file = File::open(path)?;
        // A directory can be opened for reading, and mapping one fails with a puzzling errno.
        if !file.metadata()?.is_file() {
            return Err(std::io::Error::new(std::io::ErrorKind::InvalidInput, "not a file"));
        }
        #[expect(unsafe_code, reason = "mapping a file is inherently unsafe")]
        // SAFETY: the mapping is read-only, and its bytes are only ever read as bytes, for which every value
        // is valid. Files are not changed while they are mapped by anything in Shoal; see above for others.
        unsafe {
            Mmap::map(&file)
        }
    };
    open().map_err(|source| Error::Open { path: path.to_owned(), source })
}
