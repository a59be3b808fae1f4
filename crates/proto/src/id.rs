//! Identifiers. Each is its own type, so that an epoch can never be passed where a sequence is meant.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

/// A node's identity: its Ed25519 public key, 32 bytes. Ordered bytewise; displayed as 64 hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct NodeId(pub [u8; 32]);

impl NodeId {
    /// Returns the first ten hexadecimal digits, enough for a person to tell the nodes of one home apart.
    pub fn short(&self) -> String {
        self.to_string()[..10].to_owned()
    }
}

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "NodeId({})", self.short())
    }
}

/// A text that is no node id.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("node id: expected 64 hexadecimal digits, got {got:?}")]
pub struct ParseNodeIdError {
    /// The text as it was given.
    pub got: String,
}

impl FromStr for NodeId {
    type Err = ParseNodeIdError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let error = || ParseNodeIdError { got: text.chars().take(80).collect() };
        parse_hex(text).map(Self).ok_or_else(error)
    }
}

/// Reads 32 bytes from 64 hexadecimal digits.
pub(crate) fn parse_hex(text: &str) -> Option<[u8; 32]> {
    if text.len() != 64 || !text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return None;
    }
    let mut bytes = [0; 32];
    for (byte, digits) in bytes.iter_mut().zip(text.as_bytes().chunks_exact(2)) {
        *byte = u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()?;
    }
    Some(bytes)
}

macro_rules! counter {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(
            Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
        )]
        pub struct $name(pub u64);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{:x}", self.0)
            }
        }
    };
}

counter! {
    /// One placed model: chosen at random by the node that places it.
    InstanceId
}
counter! {
    /// Version of an instance's placement. Every data frame carries it; a frame of an older epoch is refused.
    ///
    /// The upper 40 bits count the placements, the lower 24 name the node that made this one, so that two halves of a cut
    /// cluster that both place an instance anew never use one epoch for two placements. Of two with one count, that of the
    /// lower node id is the higher epoch.
    Epoch
}
counter! {
    /// One mutable timeline of an instance (a request, or a chat that goes on). Unique per driver and instance.
    ///
    /// The lower 16 bits tell the requests apart that take the timeline over from each other, each with what it shares of the
    /// last one's tokens.
    SequenceId
}

impl SequenceId {
    /// Bits that count the requests which take a sequence over from each other.
    const USE_BITS: u32 = 16;

    /// Returns the first use of a driver's sequence number `n`.
    pub fn first(n: u64) -> Self {
        Self(n << Self::USE_BITS)
    }

    /// Returns the same sequence for another request, which takes over what stages hold of it. An answer to the last one that
    /// comes late is none to this one.
    pub fn next_use(self) -> Self {
        let in_use = (1 << Self::USE_BITS) - 1;
        Self(self.0 & !in_use | self.0.wrapping_add(1) & in_use)
    }

    /// The sequence, whoever uses it: what stages keep KV caches by.
    pub fn without_use(self) -> Self {
        Self(self.0 >> Self::USE_BITS << Self::USE_BITS)
    }
}

impl Epoch {
    /// Bits that name the node.
    const NODE_BITS: u32 = 24;

    /// Returns the first epoch of an instance that `coordinator` places.
    pub fn first(coordinator: NodeId) -> Self {
        Self::default().next(coordinator)
    }

    /// Returns the epoch that follows when `coordinator` places the instance anew.
    pub fn next(self, coordinator: NodeId) -> Self {
        let [a, b, c, ..] = coordinator.0;
        let node = u64::from(u32::from_be_bytes([0, !a, !b, !c]));
        Self(((self.0 >> Self::NODE_BITS) + 1) << Self::NODE_BITS | node)
    }

    /// How often the instance was placed.
    pub fn count(self) -> u64 {
        self.0 >> Self::NODE_BITS
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_id_survives_its_text_form() {
        let id = NodeId(std::array::from_fn(|i| (i * 7) as u8));
        assert_eq!(id.to_string().parse(), Ok(id));
    }

    #[test]
    fn uses_of_a_sequence_differ_and_the_sequence_stays() {
        let first = SequenceId::first(7);
        let second = first.next_use();
        assert_ne!(first, second);
        assert_eq!(first.without_use(), second.without_use());
        let last = (0..(1 << 16) - 1).fold(first, |sequence, _| sequence.next_use());
        assert_eq!(last.next_use(), first, "it counts within its bits");
        assert_ne!(SequenceId::first(8).without_use(), second.without_use());
    }

    #[test]
    fn of_two_placements_with_one_count_the_lower_node_id_is_newer() {
        let (low, high) = (NodeId([1; 32]), NodeId([2; 32]));
        let first = Epoch::first(high);
        assert_eq!(first.count(), 1);
        assert!(first.next(low) > first.next(high) && first.next(high) > first);
        assert!(
            first.next(high).next(high) > first.next(low),
            "a later placement is newer whoever made it"
        );
    }

    #[test]
    fn refuses_text_that_is_no_node_id() {
        for text in ["", "12", &"g".repeat(64), &"é".repeat(32), &"a".repeat(65)] {
            assert!(text.parse::<NodeId>().is_err(), "{text}");
        }
    }
}
