//! Instances as a node keeps them on its disk: `SHOALINS`, a version byte, a checksum of what follows, and postcard.
//!
//! The version is the file's own and not that of control messages: a change of a message should not cost anybody their
//! instances. The checksum finds what a power cut or a dying flash has left; it is no protection against people.

use crate::control::InstanceRecord;

/// What the file begins with.
const MAGIC: &[u8; 8] = b"SHOALINS";
/// Version of the file. Raise it on any change to [`InstanceRecord`] or what it holds.
const VERSION: u8 = 1;
const HEADER_BYTES: usize = MAGIC.len() + 1 + 8;
/// Largest file that is read: the most instances and tombstones that a node keeps, with room to spare.
pub const FILE_BYTES_MAX: u64 = 8 << 20;

/// A file of instances that cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StoredError {
    /// It ends before its header does.
    #[error("expected a header of {HEADER_BYTES} bytes, got {got}")]
    Truncated {
        /// Bytes that are there.
        got: usize,
    },
    /// It is something else.
    #[error("expected a file that begins with {:?}, got {got:?}", MAGIC.as_slice())]
    NotInstances {
        /// What it begins with.
        got: [u8; 8],
    },
    /// Another version of Shoal wrote it.
    #[error("expected a file of version {VERSION}, got {got}")]
    Version {
        /// The version that it has.
        got: u8,
    },
    /// Its bytes are not those that were written.
    #[error("expected bytes with the checksum {expected:016x}, got {got:016x}")]
    Damaged {
        /// The checksum that was written.
        expected: u64,
        /// The one that its bytes have.
        got: u64,
    },
    /// Bytes that are no instances.
    #[error("{bytes} bytes do not decode: {reason}")]
    Malformed {
        /// Length of what follows the header.
        bytes: usize,
        /// What the decoder says.
        reason: String,
    },
}

/// Encodes instances for the disk.
pub fn encode(instances: &[InstanceRecord]) -> Vec<u8> {
    let body = postcard::to_stdvec(instances).expect("records are plain data and always encode");
    let mut bytes = Vec::with_capacity(HEADER_BYTES + body.len());
    bytes.extend_from_slice(MAGIC);
    bytes.push(VERSION);
    bytes.extend_from_slice(&checksum(&body).to_le_bytes());
    bytes.extend_from_slice(&body);
    bytes
}

/// Decodes what [`encode`] wrote.
///
/// # Errors
/// If it is of another version, or not what was written.
pub fn decode(bytes: &[u8]) -> Result<Vec<InstanceRecord>, StoredError> {
    let truncated = StoredError::Truncated { got: bytes.len() };
    let (&magic, rest) = bytes.split_first_chunk::<8>().ok_or_else(|| truncated.clone())?;
    if &magic != MAGIC {
        return Err(StoredError::NotInstances { got: magic });
    }
    let (&version, rest) = rest.split_first().ok_or_else(|| truncated.clone())?;
    if version != VERSION {
        return Err(StoredError::Version { got: version });
    }
    let (&expected, body) = rest.split_first_chunk::<8>().ok_or(truncated)?;
    let (expected, got) = (u64::from_le_bytes(expected), checksum(body));
    if expected != got {
        return Err(StoredError::Damaged { expected, got });
    }
    let malformed = |reason: String| StoredError::Malformed { bytes: body.len(), reason };
    match postcard::take_from_bytes(body) {
        Ok((instances, [])) => Ok(instances),
        Ok((_, rest)) => Err(malformed(format!("{} bytes left over", rest.len()))),
        Err(error) => Err(malformed(error.to_string())),
    }
}

/// FNV-1a of 64 bits (Fowler, Noll, Vo; RFC 9923).
pub(crate) fn checksum(bytes: &[u8]) -> u64 {
    let step = |hash: u64, &byte: &u8| (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, step)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::{
        Epoch, InstanceId, LayerRange, NodeId,
        control::{ModelRef, Phase, Placement, Stage},
    };

    fn record() -> InstanceRecord {
        let layers = LayerRange::new(0, 6).expect("not empty");
        InstanceRecord {
            id: InstanceId(7),
            epoch: Epoch(1 << 24),
            phase: Phase::Ready,
            model: ModelRef { name: "demo".into(), files: None, fingerprint: [1; 32], n_layer: 6 },
            placement: Placement { stages: vec![Stage { node: NodeId([2; 32]), layers }] },
            n_ctx: 512,
            unload_after_s: None,
        }
    }

    #[test]
    fn the_bytes_of_a_file_are_frozen() {
        let bytes = encode(&[record()]);
        let mut expected = b"SHOALINS\x01".to_vec();
        expected.extend([0; 8]);
        let body = [&[1, 7, 0x80, 0x80, 0x80, 8, 4, 4][..], b"demo", &[0], &[1; 32], &[6, 1]];
        let body = [&body.concat()[..], &[2; 32], &[0, 6, 0x80, 4, 0]].concat();
        expected[9..17].copy_from_slice(&checksum(&body).to_le_bytes());
        expected.extend(body);
        assert_eq!(bytes, expected);
        // Of the reference's own examples: fails if the checksum changes.
        assert_eq!(checksum(b"foobar"), 0x8594_4171_f739_67e8);
    }

    #[test]
    fn what_was_written_is_read() {
        let dropped = InstanceRecord { phase: Phase::Dropped, id: InstanceId(8), ..record() };
        for instances in [vec![], vec![record()], vec![record(), dropped]] {
            assert_eq!(decode(&encode(&instances)), Ok(instances));
        }
    }

    #[test]
    fn no_truncated_or_flipped_file_is_taken_for_whole() {
        let bytes = encode(&[record()]);
        for n in 0..bytes.len() {
            assert!(decode(&bytes[..n]).is_err(), "{n} bytes");
            let mut flipped = bytes.clone();
            flipped[n] ^= 0x10;
            assert!(decode(&flipped).is_err(), "byte {n}");
        }
        let zeros = vec![0; bytes.len()];
        assert_eq!(decode(&zeros), Err(StoredError::NotInstances { got: [0; 8] }));
    }

    proptest! {
        #[test]
        fn arbitrary_bodies_never_panic(body in proptest::collection::vec(any::<u8>(), 0..200)) {
            let mut bytes = [&MAGIC[..], &[VERSION]].concat();
            bytes.extend(checksum(&body).to_le_bytes());
            bytes.extend(body);
            let _ = decode(&bytes);
        }
    }
}
