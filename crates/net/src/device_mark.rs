//! Device marks: how a node notices that its key was copied to another device, or twice on the same one.
//!
//! Two devices with one key would be taken for one, and the cluster would see a node that is in two places. So a mark lies
//! beside the key: what the key's file and the machine looked like when it was last used. A copy of the directory has
//! copied the mark as well, and then it does not fit.
//!
//! | fact | survives | does not survive |
//! |---|---|---|
//! | inode number of the key's file | reboots, renames | copies; on FUSE (Android's shared storage) a remount |
//! | its change time (`ctime`) | reboots, copies of nothing: no program can set it | copies, `chmod`, some renames |
//! | machine id, as a hash | reboots | another installation; Android and many containers have none |
//!
//! The file is *the same* if either its inode or its change time is, so that neither file systems without stable inodes nor
//! a `chmod` raise a false alarm. (The device number changes with every boot on some systems, and says nothing.)
//!
//! ```text
//! inode and ctime as marked          → this device
//! one of them as marked              → this device, unless both machine ids are known and differ
//! neither, machine known and equal   → a copy if the marked file is still there elsewhere, else moved or restored here
//! neither, machine unknown or other  → a copy
//! ```
//!
//! What it cannot see: an image of a whole disk or virtual machine, and a key that was copied without its mark.

use std::path::{Path, PathBuf};

use data_encoding::HEXLOWER_PERMISSIVE;

use crate::{Error, key_file};

const TITLE: &str = "shoal device mark 1";
const MACHINE_CONTEXT: &str = "shoal 2026-11-23 device mark machine id";
/// Longest mark: its path has at most 4096 bytes, twice as many digits.
const MAX_BYTES: u64 = 16 * 1024;

/// What a key's file and its machine look like.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Mark {
    /// A hash of the machine's id, if it has one that can be read.
    machine: Option<[u8; 16]>,
    inode: u64,
    changed_s: i64,
    changed_ns: i64,
    path: PathBuf,
}

#[derive(Debug, PartialEq, Eq)]
enum Verdict {
    Same,
    /// The same device, but the mark is not up to date.
    Moved,
    Copied,
}

/// Compares the key's file with its mark, and marks one that has none.
pub(crate) fn check(key: &Path) -> Result<(), Error> {
    check_on(key, machine_id().as_deref())
}

/// Marks the key's file as this device's, whatever its mark says.
pub(crate) fn adopt(key: &Path) -> Result<(), Error> {
    match Mark::of(key, machine_id().as_deref())? {
        Some(mark) => mark.write(key),
        None => Ok(()),
    }
}

fn check_on(key: &Path, machine_id: Option<&[u8]>) -> Result<(), Error> {
    let Some(now) = Mark::of(key, machine_id)? else { return Ok(()) };
    let verdict = match Mark::read(key)? {
        None => Verdict::Moved,
        Some(marked) => judge(&marked, &now, is_key_at(&marked)),
    };
    match verdict {
        Verdict::Same => Ok(()),
        Verdict::Moved => now.write(key),
        Verdict::Copied => Err(Error::CopiedIdentity { path: key.to_owned() }),
    }
}

/// `is_there`: the file that was marked is still where it was.
fn judge(marked: &Mark, now: &Mark, is_there: bool) -> Verdict {
    let same_inode = marked.inode == now.inode;
    let same_change = (marked.changed_s, marked.changed_ns) == (now.changed_s, now.changed_ns);
    let same_machine = marked.machine.zip(now.machine).map(|(marked, now)| marked == now);
    match (same_inode || same_change, same_machine) {
        _ if marked == now => Verdict::Same,
        _ if same_inode && same_change => Verdict::Moved,
        (true, Some(false)) => Verdict::Copied,
        (true, _) => Verdict::Moved,
        (false, Some(true)) if !is_there => Verdict::Moved,
        (false, _) => Verdict::Copied,
    }
}

/// Whether the marked file itself is where the mark says: another file at its place is no original.
fn is_key_at(marked: &Mark) -> bool {
    file_facts(&marked.path).is_ok_and(|facts| {
        facts.is_some_and(|(inode, changed_s, changed_ns)| {
            inode == marked.inode
                || (changed_s, changed_ns) == (marked.changed_s, marked.changed_ns)
        })
    })
}

#[cfg(unix)]
fn file_facts(path: &Path) -> std::io::Result<Option<(u64, i64, i64)>> {
    use std::os::unix::fs::MetadataExt as _;

    let metadata = std::fs::metadata(path)?;
    Ok(Some((metadata.ino(), metadata.ctime(), metadata.ctime_nsec())))
}

/// Elsewhere files have no such numbers, and nothing is marked.
#[cfg(not(unix))]
fn file_facts(_: &Path) -> std::io::Result<Option<(u64, i64, i64)>> {
    Ok(None)
}

/// The machine's id, for which its manual page asks to be hashed and not shown.
fn machine_id() -> Option<Vec<u8>> {
    ["/etc/machine-id", "/var/lib/dbus/machine-id"].iter().find_map(|path| {
        let id = std::fs::read(path).ok()?.trim_ascii().to_vec();
        // An image that makes its id at the first boot says `uninitialized` until then.
        (id.len() == 32 && id.iter().all(u8::is_ascii_hexdigit)).then_some(id)
    })
}

fn mark_path(key: &Path) -> PathBuf {
    let mut name = key.file_name().unwrap_or_default().to_owned();
    name.push(".device");
    key.with_file_name(name)
}

impl Mark {
    /// What the key's file looks like now; `None` where files have no numbers.
    fn of(key: &Path, machine_id: Option<&[u8]>) -> Result<Option<Self>, Error> {
        let failed = |source| Error::File { path: key.to_owned(), action: "read", source };
        let Some((inode, changed_s, changed_ns)) = file_facts(key).map_err(failed)? else {
            return Ok(None);
        };
        let path = std::fs::canonicalize(key).map_err(failed)?;
        let machine = machine_id.map(|id| {
            let hash = blake3::derive_key(MACHINE_CONTEXT, id);
            std::array::from_fn(|i| hash[i])
        });
        Ok(Some(Self { machine, inode, changed_s, changed_ns, path }))
    }

    /// Reads the mark of a key; `None` if it has none, or one that makes no sense: then it is marked anew.
    fn read(key: &Path) -> Result<Option<Self>, Error> {
        let path = mark_path(key);
        let Some(bytes) = key_file::read(&path, MAX_BYTES)? else { return Ok(None) };
        let mark = std::str::from_utf8(&bytes).ok().and_then(Self::parse);
        if mark.is_none() {
            tracing::warn!(path = %path.display(), "device mark is damaged, making a new one");
        }
        Ok(mark)
    }

    fn write(&self, key: &Path) -> Result<(), Error> {
        key_file::write_bytes(&mark_path(key), self.to_text().as_bytes())
    }

    fn to_text(&self) -> String {
        let Self { machine, inode, changed_s, changed_ns, path } = self;
        let machine =
            machine.map_or("-".to_owned(), |machine| HEXLOWER_PERMISSIVE.encode(&machine));
        let path = HEXLOWER_PERMISSIVE.encode(path.as_os_str().as_encoded_bytes());
        format!("{TITLE}\n{machine} {inode} {changed_s} {changed_ns} {path}\n")
    }

    fn parse(text: &str) -> Option<Self> {
        let (title, line) = text.split_once('\n')?;
        let fields: Vec<&str> = line.split_whitespace().collect();
        let [machine, inode, changed_s, changed_ns, path] = fields[..] else { return None };
        let machine = match machine {
            "-" => None,
            digits => Some(HEXLOWER_PERMISSIVE.decode(digits.as_bytes()).ok()?.try_into().ok()?),
        };
        let path = path_from_bytes(HEXLOWER_PERMISSIVE.decode(path.as_bytes()).ok()?)?;
        (title == TITLE).then_some(Self {
            machine,
            inode: inode.parse().ok()?,
            changed_s: changed_s.parse().ok()?,
            changed_ns: changed_ns.parse().ok()?,
            path,
        })
    }
}

#[cfg(unix)]
fn path_from_bytes(bytes: Vec<u8>) -> Option<PathBuf> {
    use std::os::unix::ffi::OsStringExt as _;

    Some(PathBuf::from(std::ffi::OsString::from_vec(bytes)))
}

#[cfg(not(unix))]
fn path_from_bytes(bytes: Vec<u8>) -> Option<PathBuf> {
    String::from_utf8(bytes).ok().map(PathBuf::from)
}

#[cfg(test)]
mod tests;
