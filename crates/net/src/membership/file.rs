//! The file that a membership is kept in.
//!
//! A line `shoal membership 1`, then the roll and the invitations in postcard, then the first 8 bytes of BLAKE3 of all
//! before. It is replaced as a whole. A file that is damaged, or of a later version, is an error and stays as it is: it
//! holds the only way back into the cluster.

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
};

use serde::{Deserialize, Serialize};
use shoal_proto::roll::Roll;

use super::{Invitations, State};
use crate::{Error, key_file};

const TITLE: &[u8] = b"shoal membership ";
const VERSION: &[u8] = b"1\n";
const CHECKSUM_BYTES: usize = 8;
/// Longest file: full lists have 60 KB.
const MAX_BYTES: u64 = 1024 * 1024;
/// What version 0.1 kept beside the membership's place: the cluster's secret alone.
const V1_NAME: &str = "cluster-secret";

pub(super) struct MembershipFile {
    path: PathBuf,
    /// One writer at a time, so that an older state never replaces a newer one.
    writing: Mutex<()>,
}

#[derive(Serialize, Deserialize)]
struct Kept {
    roll: Roll,
    invitations: Invitations,
}

impl MembershipFile {
    pub(super) fn new(path: &Path) -> Self {
        Self { path: path.to_owned(), writing: Mutex::default() }
    }

    /// Reads the file; `None` if there is none.
    pub(super) fn load(&self) -> Result<Option<State>, Error> {
        let Some(bytes) = key_file::read(&self.path, MAX_BYTES)? else { return Ok(None) };
        let damaged =
            |reason: &'static str| Error::DamagedMembership { path: self.path.clone(), reason };
        let rest = bytes.strip_prefix(TITLE).ok_or(damaged("it does not begin like one"))?;
        let Some(rest) = rest.strip_prefix(VERSION) else {
            return Err(damaged("it is of another version of Shoal, or cut"));
        };
        let (kept, sum) = rest.split_last_chunk::<CHECKSUM_BYTES>().ok_or(damaged("it is cut"))?;
        if *sum != checksum(&bytes[..bytes.len() - CHECKSUM_BYTES]) {
            return Err(damaged("its checksum is wrong"));
        }
        match postcard::take_from_bytes::<Kept>(kept) {
            Ok((Kept { roll, invitations }, [])) => Ok(Some(State { roll, invitations })),
            _ => Err(damaged("its content makes no sense")),
        }
    }

    /// Writes what `state` returns once it is this call's turn.
    pub(super) fn save(&self, state: impl FnOnce() -> State) -> Result<(), Error> {
        // A writer that panicked has left a temporary file, nothing else.
        let _turn = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        let State { roll, invitations } = state();
        let start = [TITLE, VERSION].concat();
        let mut bytes = postcard::to_extend(&Kept { roll, invitations }, start)
            .expect("records are plain data and always encode");
        let checksum = checksum(&bytes);
        bytes.extend_from_slice(&checksum);
        key_file::write_bytes(&self.path, &bytes)
    }

    /// Reads the secret that version 0.1 has left.
    pub(super) fn load_v1(&self) -> Result<Option<[u8; 32]>, Error> {
        key_file::load(&self.path_v1())
    }

    /// Removes the secret of version 0.1, which has been taken over: it would bring the old cluster back after the
    /// membership was removed.
    pub(super) fn remove_v1(&self) {
        match fs::remove_file(self.path_v1()) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                tracing::warn!(%error, path = %self.path_v1().display(), "old secret not removed");
            }
            _ => {}
        }
    }

    fn path_v1(&self) -> PathBuf {
        self.path.with_file_name(V1_NAME)
    }
}

fn checksum(bytes: &[u8]) -> [u8; CHECKSUM_BYTES] {
    let hash = blake3::hash(bytes);
    std::array::from_fn(|i| hash.as_bytes()[i])
}
