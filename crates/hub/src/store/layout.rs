//! Names on disk, and how small files and locks are written.

use std::{
    fmt::Write as _,
    fs::{self, File, OpenOptions},
    io::{self, Read as _, Write as _},
    os::unix::fs::MetadataExt as _,
    path::Path,
    sync::atomic::{AtomicU64, Ordering},
};

use rustix::{fs::FlockOperation, io::Errno};

use super::StoreError;

/// The manifest in a model's directory.
pub(super) const MANIFEST: &str = "shoal.json";
/// Suffix of a file's list of chunk hashes.
pub(super) const CHUNKS: &str = "chunks";
/// Begins the names of what is being written. Whatever is found under such a name is worth nothing.
pub(super) const UNFINISHED: &str = ".new-";
/// Held while a model's directory is changed.
const LOCK: &str = ".lock";

/// Most bytes of a directory's name: file systems allow 255.
const SLUG_BYTES_MAX: usize = 200;
/// Most bytes of a file's name, so that every suffix fits after it.
const FILE_NAME_BYTES_MAX: usize = 240;
/// Most bytes of a model's name.
const NAME_BYTES_MAX: usize = 300;

/// The directory's name for a model's name: `owner/repo:QUANT` is `owner--repo--QUANT`, and [`unslug`] reads it back.
///
/// Every character that FAT forbids, and every hyphen that would look like a separator, becomes `%` and two hexadecimal
/// digits. A name that is too long for a file system is cut, and made different from others by its hash; only the manifest
/// then knows it.
pub(crate) fn slug(name: &str) -> String {
    let (path, tag) = match name.rsplit_once(':') {
        Some((path, tag)) if !tag.contains('/') => (path, Some(tag)),
        _ => (name, None),
    };
    // Only with an owner is the part after the colon told from a repository by its place.
    let owned = path.split_once('/').filter(|(owner, repo)| !owner.is_empty() && !repo.is_empty());
    let slug = match (owned, tag) {
        (Some((owner, repo)), Some(tag)) => {
            format!("{}--{}--{}", escape(owner), escape(repo), escape(tag))
        }
        (Some((owner, repo)), None) => format!("{}--{}", escape(owner), escape(repo)),
        (None, _) => escape(name),
    };
    if slug.len() <= SLUG_BYTES_MAX {
        return slug;
    }
    let hash = blake3::hash(name.as_bytes()).to_hex();
    let end = slug.floor_char_boundary(SLUG_BYTES_MAX - 17);
    format!("{}~{}", &slug[..end], &hash[..16])
}

/// The name that [`slug`] was given, or the directory's own name if it is not of that form.
pub(super) fn unslug(slug: &str) -> String {
    let parts: Vec<Option<String>> = slug.split("--").map(unescape).collect();
    match parts.as_slice() {
        [Some(name)] => name.clone(),
        [Some(owner), Some(repo)] if !owner.is_empty() && !repo.is_empty() => {
            format!("{owner}/{repo}")
        }
        [Some(owner), Some(repo), Some(tag)] if !owner.is_empty() && !repo.is_empty() => {
            format!("{owner}/{repo}:{tag}")
        }
        _ => slug.to_owned(),
    }
}

fn escape(part: &str) -> String {
    let mut escaped = String::with_capacity(part.len());
    let last = part.chars().count().saturating_sub(1);
    let mut before = None;
    for (at, c) in part.chars().enumerate() {
        let is_edge = at == 0 || at == last;
        let is_bad = match c {
            '"' | '*' | '/' | ':' | '<' | '>' | '?' | '\\' | '|' | '%' | '~' => true,
            '-' => is_edge || before == Some('-'),
            '.' | ' ' => is_edge,
            c => c.is_ascii_control(),
        };
        if is_bad {
            write!(escaped, "%{:02X}", u32::from(c)).expect("strings take everything");
        } else {
            escaped.push(c);
        }
        before = Some(c);
    }
    escaped
}

fn unescape(part: &str) -> Option<String> {
    let mut pieces = part.split('%');
    let mut text = pieces.next()?.to_owned();
    for piece in pieces {
        let code = u8::from_str_radix(piece.get(..2)?, 16).ok()?;
        text.push(char::from(code));
        text.push_str(&piece[2..]);
    }
    Some(text)
}

/// What is wrong with a model's name, if anything.
pub(super) fn check_name(name: &str) -> Result<(), String> {
    if !(1..=NAME_BYTES_MAX).contains(&name.len()) {
        return Err(format!("expected a name of 1 to {NAME_BYTES_MAX} bytes, got {}", name.len()));
    }
    match name.chars().find(|c| c.is_control()) {
        Some(c) => Err(format!("expected a name of printable characters, got {c:?}")),
        None => Ok(()),
    }
}

/// What is wrong with the name of a model's file, if anything: those that the store itself writes are taken.
pub(super) fn check_file_name(name: &str) -> Result<(), String> {
    use crate::partial::{JOURNAL, PART};
    let suffix = name.rsplit_once('.').map(|(_, suffix)| suffix.to_ascii_lowercase());
    if name.len() > FILE_NAME_BYTES_MAX {
        return Err(format!(
            "expected file names of at most {FILE_NAME_BYTES_MAX} bytes, got {}",
            name.len()
        ));
    }
    let is_taken = |suffix: &str| [CHUNKS, JOURNAL, PART].contains(&suffix);
    if name.eq_ignore_ascii_case(MANIFEST) || suffix.as_deref().is_some_and(is_taken) {
        return Err(format!("expected a model file, got {name:?}, which the store uses itself"));
    }
    Ok(())
}

/// Writes a file so that at any moment, and after any crash, there is the old content or the new.
pub(super) fn write_atomically(path: &Path, bytes: &[u8]) -> Result<(), StoreError> {
    static N: AtomicU64 = AtomicU64::new(0);
    let dir = path.parent().expect("the store writes into directories");
    let n = N.fetch_add(1, Ordering::Relaxed);
    let new = dir.join(format!("{UNFINISHED}{}-{n}", std::process::id()));
    let write = || {
        let mut file = File::create(&new)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&new, path)
    };
    write().map_err(|source| {
        // Whatever it is that failed, the unfinished file is of no use.
        let _ = fs::remove_file(&new);
        StoreError::Io { path: path.to_owned(), source }
    })?;
    sync_dir(dir)
}

/// Makes the names in a directory outlive a power cut.
pub(super) fn sync_dir(dir: &Path) -> Result<(), StoreError> {
    match File::open(dir).and_then(|dir| dir.sync_all()) {
        // Android's emulated storage and some network file systems cannot sync a directory.
        Err(error)
            if !matches!(
                error.kind(),
                io::ErrorKind::InvalidInput
                    | io::ErrorKind::Unsupported
                    | io::ErrorKind::PermissionDenied
            ) =>
        {
            Err(StoreError::Io { path: dir.to_owned(), source: error })
        }
        _ => Ok(()),
    }
}

/// Reads a file of at most `n_bytes_max`; `None` if there is none.
pub(super) fn read_bounded(path: &Path, n_bytes_max: u64) -> Result<Option<Vec<u8>>, StoreError> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(source) => return Err(StoreError::Io { path: path.to_owned(), source }),
    };
    let mut bytes = Vec::new();
    file.take(n_bytes_max.saturating_add(1))
        .read_to_end(&mut bytes)
        .map_err(StoreError::at(path))?;
    if bytes.len() as u64 > n_bytes_max {
        let what = format!("expected at most {n_bytes_max} bytes, got more");
        return Err(StoreError::damaged(path, what));
    }
    Ok(Some(bytes))
}

/// Removes a file that may not be there. Returns whether it was.
pub(super) fn remove_file(path: &Path) -> Result<bool, StoreError> {
    match fs::remove_file(path) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(source) => Err(StoreError::Io { path: path.to_owned(), source }),
    }
}

/// The right to change a model's directory, against other processes. Given back when dropped.
#[derive(Debug)]
pub(super) struct DirLock {
    _file: File,
}

impl DirLock {
    /// Takes it, without waiting: the process that has it may be frozen by Android.
    pub(super) fn take(dir: &Path, name: &str) -> Result<Self, StoreError> {
        let path = dir.join(LOCK);
        let busy = || StoreError::Busy { name: name.to_owned() };
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false);
        let file = options.open(&path).map_err(StoreError::at(&path))?;
        // std's file locks are stubs on Android before Rust 1.98.
        match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(Errno::WOULDBLOCK) => return Err(busy()),
            // File systems without locks, such as some SD cards, have no second process that minds.
            Err(Errno::NOSYS | Errno::OPNOTSUPP | Errno::NOLCK) => return Ok(Self { _file: file }),
            Err(errno) => return Err(StoreError::Io { path, source: errno.into() }),
        }
        // Whoever had it may have removed the model, and the lock's file with it.
        let ours = file.metadata().map_err(StoreError::at(&path))?;
        match fs::metadata(&path) {
            Ok(there) if (there.dev(), there.ino()) == (ours.dev(), ours.ino()) => {
                Ok(Self { _file: file })
            }
            _ => Err(busy()),
        }
    }

    /// The name of the lock's file.
    pub(super) fn file_name() -> &'static str {
        LOCK
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_slug_is_what_people_expect() {
        let check = |name: &str, expected: &str| {
            assert_eq!(slug(name), expected);
            assert_eq!(unslug(expected), name);
        };
        check("Qwen/Qwen2.5-0.5B-Instruct-GGUF:Q4_K_M", "Qwen--Qwen2.5-0.5B-Instruct-GGUF--Q4_K_M");
        check("bartowski/Phi-3.5-mini", "bartowski--Phi-3.5-mini");
        check("qwen2.5:0.5b", "qwen2.5%3A0.5b");
        check("a--b", "a-%2Db");
        check("..", "%2E%2E");
        check("a/b/c:d", "a--b%2Fc--d");
        assert_eq!(unslug("a--b--c--d"), "a--b--c--d");
        assert_eq!(unslug("50%"), "50%");
    }

    proptest! {
        #[test]
        fn every_slug_reads_back_and_is_a_file_name_anywhere(name in "[-a-z/:.%~ ü*?\\\\\"]{1,24}") {
            let slug = slug(&name);
            prop_assert_eq!(unslug(&slug), name, "{}", slug);
            prop_assert!(!slug.starts_with('.') && !slug.ends_with(['.', ' ']));
            let is_forbidden = |c: char| c.is_control() || "\"*/:<>?\\|".contains(c);
            prop_assert!(!slug.contains(is_forbidden), "{}", slug);
        }
    }

    #[test]
    fn long_names_stay_apart() {
        let (a, b) = ("x".repeat(250) + "a", "x".repeat(250) + "b");
        assert!(slug(&a).len() <= SLUG_BYTES_MAX && slug(&a) != slug(&b));
    }

    #[test]
    fn a_small_file_is_replaced_whole() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f");
        write_atomically(&path, b"one").unwrap();
        write_atomically(&path, b"two").unwrap();
        assert_eq!(read_bounded(&path, 3).unwrap().unwrap(), b"two");
        assert!(read_bounded(&path, 2).is_err(), "longer than allowed");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1, "nothing is left over");
    }

    #[test]
    fn a_lock_is_held_by_one() {
        let dir = tempfile::tempdir().unwrap();
        let lock = DirLock::take(dir.path(), "m").unwrap();
        let error = DirLock::take(dir.path(), "m").unwrap_err();
        assert!(matches!(error, StoreError::Busy { .. }), "{error}");
        drop(lock);
        DirLock::take(dir.path(), "m").unwrap();
    }
}
