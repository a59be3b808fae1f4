//! A node's identity: its Ed25519 key.

use std::{fmt, path::Path};

use shoal_proto::NodeId;

use crate::{Error, device_mark, key_file};

/// A node's Ed25519 secret key. The public half is its [`NodeId`].
#[derive(Clone)]
pub struct Identity(iroh::SecretKey);

impl Identity {
    /// Makes a new identity that lives as long as the process.
    ///
    /// # Errors
    /// If the system has no randomness.
    pub fn generate() -> Result<Self, Error> {
        key_file::random().map(|bytes| Self::from_bytes(&bytes))
    }

    /// Reads the key from a file of mode 0600, or generates one and writes it there. A mark beside it tells a copy from the
    /// original.
    ///
    /// # Errors
    /// [`Error::CopiedIdentity`] if the file was copied from another device or directory; or if it is malformed, or cannot
    /// be read or written.
    pub fn load_or_create(path: &Path) -> Result<Self, Error> {
        let bytes = key_file::load_or_create(path)?;
        device_mark::check(path)?;
        Ok(Self::from_bytes(&bytes))
    }

    /// Makes the key in a file this device's own, though it was copied: the original is gone.
    ///
    /// # Errors
    /// If there is no such file, or the mark cannot be written.
    pub fn adopt(path: &Path) -> Result<(), Error> {
        device_mark::adopt(path)
    }

    pub(crate) fn from_bytes(bytes: &[u8; 32]) -> Self {
        Self(iroh::SecretKey::from_bytes(bytes))
    }

    /// The public half.
    pub fn id(&self) -> NodeId {
        NodeId(*self.0.public().as_bytes())
    }

    pub(crate) fn secret_key(&self) -> &iroh::SecretKey {
        &self.0
    }
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Identity({})", self.id().short())
    }
}
