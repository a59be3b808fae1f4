//! The cluster's secret: whoever holds it is a member.

use std::{fmt, path::Path};

use crate::{Error, key_file};

/// The secret that all nodes of a cluster share. It is never shown: its `Debug` output hides it, and only
/// [`Ticket`](crate::Ticket) puts it into words.
#[derive(Clone)]
pub struct ClusterSecret([u8; 32]);

impl ClusterSecret {
    /// Makes a new secret.
    ///
    /// # Errors
    /// If the system has no randomness.
    pub fn generate() -> Result<Self, Error> {
        key_file::random().map(Self)
    }

    /// Reads the secret from a file of mode 0600, or generates one and writes it there.
    ///
    /// # Errors
    /// If the file is malformed, or cannot be read or written.
    pub fn load_or_create(path: &Path) -> Result<Self, Error> {
        key_file::load_or_create(path).map(Self)
    }

    /// Writes the secret to a file of mode 0600, in place of what is there: what joining by a ticket does.
    ///
    /// # Errors
    /// If the file cannot be written.
    pub fn save(&self, path: &Path) -> Result<(), Error> {
        key_file::write(path, &self.0)
    }

    pub(crate) fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    pub(crate) fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl PartialEq for ClusterSecret {
    /// Takes the same time wherever the secrets differ.
    fn eq(&self, other: &Self) -> bool {
        blake3::Hash::from_bytes(self.0) == blake3::Hash::from_bytes(other.0)
    }
}

impl Eq for ClusterSecret {}

impl fmt::Debug for ClusterSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ClusterSecret(..)")
    }
}
