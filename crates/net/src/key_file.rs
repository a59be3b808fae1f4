//! Files that are the owner's alone (mode 0600), and what goes into them: randomness, and keys of 32 bytes as 64
//! hexadecimal digits and a line feed.

use std::{
    fs::{self, OpenOptions},
    io::{self, Read as _, Write as _},
    path::{Path, PathBuf},
};

use data_encoding::HEXLOWER_PERMISSIVE;

use crate::Error;

/// Digits and a line feed.
const FILE_BYTES: u64 = 65;

/// Returns random bytes.
pub(crate) fn random<const N: usize>() -> Result<[u8; N], Error> {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).map_err(|error| Error::Random { source: error.into() })?;
    Ok(bytes)
}

/// Reads a key, or generates one and writes it.
pub(crate) fn load_or_create(path: &Path) -> Result<[u8; 32], Error> {
    match load(path)? {
        Some(key) => Ok(key),
        None => {
            write(path, &random()?)?;
            // Two processes that start at once may both write; what the file holds in the end is the key.
            load(path)?
                .ok_or_else(|| file_error(path, "read", io::Error::from(io::ErrorKind::NotFound)))
        }
    }
}

/// Reads a key; `None` if there is no file.
pub(crate) fn load(path: &Path) -> Result<Option<[u8; 32]>, Error> {
    let Some(text) = read(path, FILE_BYTES + 1)? else { return Ok(None) };
    let key = HEXLOWER_PERMISSIVE.decode(text.trim_ascii_end()).ok();
    match key.and_then(|key| <[u8; 32]>::try_from(key).ok()) {
        Some(key) => Ok(Some(key)),
        None => {
            let bytes = fs::metadata(path).map_or(0, |metadata| metadata.len());
            Err(Error::MalformedFile { path: path.to_owned(), bytes })
        }
    }
}

/// Reads the first `max` bytes of a file that others have no business with; `None` if there is none.
pub(crate) fn read(path: &Path, max: u64) -> Result<Option<Vec<u8>>, Error> {
    let file = match fs::File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(file_error(path, "read", error)),
    };
    let mut bytes = Vec::new();
    let mut bounded = (&file).take(max);
    bounded.read_to_end(&mut bytes).map_err(|error| file_error(path, "read", error))?;
    protect(path, &file)?;
    Ok(Some(bytes))
}

/// Takes the rights of others away from a file that was copied without care.
#[cfg(unix)]
fn protect(path: &Path, file: &fs::File) -> Result<(), Error> {
    use std::os::unix::fs::PermissionsExt as _;

    let protect = || {
        let mode = file.metadata()?.permissions().mode();
        if mode & 0o077 != 0 {
            tracing::warn!(path = %path.display(), "key file was readable by others, protecting it");
            file.set_permissions(fs::Permissions::from_mode(0o600))?;
        }
        Ok(())
    };
    protect().map_err(|error| file_error(path, "protected", error))
}

#[cfg(not(unix))]
fn protect(_: &Path, _: &fs::File) -> Result<(), Error> {
    Ok(())
}

fn write(path: &Path, key: &[u8; 32]) -> Result<(), Error> {
    write_bytes(path, (data_encoding::HEXLOWER.encode(key) + "\n").as_bytes())
}

/// Writes a file beside `path`, then renames: a reader sees the old file or the whole new one, also after a power cut.
pub(crate) fn write_bytes(path: &Path, bytes: &[u8]) -> Result<(), Error> {
    let temporary = temporary_path(path)?;
    let written = write_new(&temporary, bytes).and_then(|()| fs::rename(&temporary, path));
    sync_directory(path);
    written.map_err(|error| {
        // What is left would only be clutter; the error that matters is the first one.
        let _ = fs::remove_file(&temporary);
        file_error(path, "written", error)
    })
}

/// A fresh name in the same directory: a rename does not cross file systems, and Android has no shared place for it.
fn temporary_path(path: &Path) -> Result<PathBuf, Error> {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(format!(".{:08x}.part", u32::from_le_bytes(random()?)));
    Ok(path.with_file_name(name))
}

/// Makes the rename last. Some file systems cannot, and then it lasts some seconds later.
fn sync_directory(path: &Path) {
    #[cfg(unix)]
    if let Some(directory) = path.parent()
        && let Ok(directory) = fs::File::open(directory)
    {
        let _ = directory.sync_all();
    }
    #[cfg(not(unix))]
    let _ = path;
}

fn write_new(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut options = OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    let mut file = options.open(path)?;
    file.write_all(bytes)?;
    file.sync_all()
}

fn file_error(path: &Path, action: &'static str, source: io::Error) -> Error {
    Error::File { path: path.to_owned(), action, source }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tests::Directory;

    fn key(directory: &Directory) -> PathBuf {
        directory.path().join("key")
    }

    #[cfg(unix)]
    fn mode(path: &Path) -> u32 {
        use std::os::unix::fs::PermissionsExt as _;

        fs::metadata(path).unwrap().permissions().mode() & 0o777
    }

    #[test]
    fn a_key_is_created_once_and_then_read() {
        let directory = Directory::new();
        let created = load_or_create(&key(&directory)).unwrap();
        assert_eq!(load_or_create(&key(&directory)).unwrap(), created);
        assert_eq!(fs::metadata(key(&directory)).unwrap().len(), FILE_BYTES);
        assert_eq!(
            fs::read_dir(directory.path()).unwrap().count(),
            1,
            "nothing but the key remains"
        );
    }

    #[test]
    fn a_key_is_replaced_as_a_whole() {
        let directory = Directory::new();
        load_or_create(&key(&directory)).unwrap();
        write(&key(&directory), &[0xab; 32]).unwrap();
        assert_eq!(load_or_create(&key(&directory)).unwrap(), [0xab; 32]);
        assert_eq!(
            fs::read_dir(directory.path()).unwrap().count(),
            1,
            "nothing but the key remains"
        );
    }

    #[cfg(unix)]
    #[test]
    fn a_key_is_the_owners_alone() {
        use std::os::unix::fs::PermissionsExt as _;

        let directory = Directory::new();
        load_or_create(&key(&directory)).unwrap();
        assert_eq!(mode(&key(&directory)), 0o600);
        fs::set_permissions(key(&directory), fs::Permissions::from_mode(0o644)).unwrap();
        load_or_create(&key(&directory)).unwrap();
        assert_eq!(mode(&key(&directory)), 0o600, "a copied file is protected again");
    }

    #[test]
    fn a_malformed_file_is_named_and_kept() {
        let directory = Directory::new();
        let digits = "a".repeat(64);
        for text in ["", "abc", &digits[1..], &format!("{digits}a"), &"g".repeat(64)] {
            fs::write(key(&directory), text).unwrap();
            let error = load_or_create(&key(&directory)).unwrap_err();
            assert!(matches!(&error, Error::MalformedFile { .. }), "{error:?}");
            assert!(error.to_string().contains(&key(&directory).display().to_string()), "{error}");
            assert_eq!(fs::read_to_string(key(&directory)).unwrap(), text);
        }
    }

    #[test]
    fn a_missing_directory_is_an_error_that_names_the_file() {
        let directory = Directory::new();
        let path = directory.path().join("missing").join("key");
        let error = load_or_create(&path).unwrap_err();
        assert!(matches!(&error, Error::File { action: "written", .. }), "{error:?}");
    }
}
