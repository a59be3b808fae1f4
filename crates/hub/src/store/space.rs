//! How much of the disk may be filled.

use std::{fmt, io, path::Path, sync::Arc};

/// Share of the disk that is left alone, in per cent, up to [`RESERVE_BYTES_MAX`]. Below this Android tells its user that
/// storage runs out, and below a part of it stops working: `DEFAULT_THRESHOLD_PERCENTAGE` in AOSP's `StorageManager.java`.
const RESERVE_PERCENT: u64 = 5;
/// Most bytes that are left alone: `DEFAULT_THRESHOLD_MAX_BYTES`, ibidem.
const RESERVE_BYTES_MAX: u64 = 500 << 20;

/// What a disk holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Space {
    /// Bytes of the file system.
    pub total: u64,
    /// Bytes that the system would let this process write.
    pub available: u64,
}

impl Space {
    /// Bytes that are left alone, for the system and its other programs.
    pub fn reserve(&self) -> u64 {
        (self.total / 100 * RESERVE_PERCENT).min(RESERVE_BYTES_MAX)
    }

    /// Bytes that models may still take.
    pub fn free(&self) -> u64 {
        self.available.saturating_sub(self.reserve())
    }

    /// Asks the file system on which `dir` lies.
    ///
    /// # Errors
    /// If it does not answer.
    pub fn of(dir: &Path) -> io::Result<Self> {
        let answer = rustix::fs::statvfs(dir)?;
        let bytes = |blocks: u64| blocks.saturating_mul(answer.f_frsize);
        Ok(Self { total: bytes(answer.f_blocks), available: bytes(answer.f_bavail) })
    }
}

/// Asks how much space there is; tests answer themselves.
#[derive(Clone)]
pub(super) struct Measure(pub(super) Arc<Ask>);

type Ask = dyn Fn(&Path) -> io::Result<Space> + Send + Sync;

impl Default for Measure {
    fn default() -> Self {
        Self(Arc::new(Space::of))
    }
}

impl fmt::Debug for Measure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Measure")
    }
}
