//! The packet of discovery: one UDP datagram, signed with a key that only members can derive.
//!
//! ```text
//! magic "shdq" 4 | version 1 | kind 1 | method 1 | tag 8 | node 32 | run 8 | nonce 16 | unix seconds 8
//! | n_addrs 1 | n_addrs * (family 1 = 4 or 6, ip 4 or 16, port 2) | software length 1 | software | mac 32
//! ```
//! Integers are little-endian. The tag names the cluster, so that several in one house ignore each other without a hash;
//! the MAC is BLAKE3's keyed mode over everything before it. An answer repeats its query's nonce and method.
//! Invariant: nothing after the tag is looked at before the MAC holds.

use std::net::{IpAddr, SocketAddr};

use shoal_proto::NodeId;

use crate::reader::Reader;

/// Longest packet, in bytes: below every MTU, and small enough that a sweep costs nothing.
pub(crate) const MAX_BYTES: usize = 512;
/// Most addresses in a packet: a phone has two or three.
pub(crate) const MAX_ADDRS: usize = 8;
/// Longest software version, in bytes.
pub(crate) const MAX_SOFTWARE_BYTES: usize = 32;
pub(crate) const NONCE_BYTES: usize = 16;
pub(crate) const TAG_BYTES: usize = 8;
const MAGIC: [u8; 4] = *b"shdq";
const VERSION: u8 = 1;
const MAC_BYTES: usize = blake3::OUT_LEN;
const MAC_CONTEXT: &str = "shoal 2026-11-23 discovery packet mac";
const TAG_CONTEXT: &str = "shoal 2026-11-23 discovery cluster tag";

/// How a query reaches those who might answer. It travels in the packet, since a socket does not tell the receiver.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Method {
    /// To the multicast group of an interface.
    Multicast,
    /// To the broadcast address of a subnet.
    Broadcast,
    /// To every host of a subnet, one by one.
    Sweep,
    /// To an address that was remembered or given.
    Hint,
}

impl Method {
    const ALL: [Self; 4] = [Self::Multicast, Self::Broadcast, Self::Sweep, Self::Hint];

    fn code(self) -> u8 {
        match self {
            Self::Multicast => 0,
            Self::Broadcast => 1,
            Self::Sweep => 2,
            Self::Hint => 3,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Query,
    Answer,
}

impl Kind {
    fn code(self) -> u8 {
        match self {
            Self::Query => 1,
            Self::Answer => 2,
        }
    }
}

/// What a cluster's secret becomes here: it never signs anything itself.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct PacketKey {
    mac: [u8; 32],
    tag: [u8; TAG_BYTES],
}

impl PacketKey {
    pub(crate) fn derive(secret: &[u8; 32]) -> Self {
        let [a, b, c, d, e, f, g, h, ..] = blake3::derive_key(TAG_CONTEXT, secret);
        let mac = blake3::derive_key(MAC_CONTEXT, secret);
        Self { mac, tag: [a, b, c, d, e, f, g, h] }
    }
}

/// What one node tells another.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Packet {
    pub(crate) kind: Kind,
    pub(crate) method: Method,
    pub(crate) node: NodeId,
    pub(crate) run: u64,
    pub(crate) nonce: [u8; NONCE_BYTES],
    pub(crate) unix_s: u64,
    /// Where the sender can be dialled, at most [`MAX_ADDRS`].
    pub(crate) addrs: Vec<SocketAddr>,
    /// At most [`MAX_SOFTWARE_BYTES`].
    pub(crate) software: String,
}

/// Why a packet counts for nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Rejected {
    /// It is none of ours.
    Garbage,
    /// It has another version.
    Version(u8),
    /// It is of a cluster with this tag.
    OtherCluster([u8; TAG_BYTES]),
    /// It claims to be of this cluster and is not, or was damaged on the way.
    BadMac,
    /// A member made it and it does not decode.
    Malformed,
}

impl Packet {
    /// Encodes and signs. Addresses and characters beyond the bounds are left out.
    pub(crate) fn encode(&self, key: &PacketKey) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(MAX_BYTES);
        bytes.extend_from_slice(&MAGIC);
        bytes.extend_from_slice(&[VERSION, self.kind.code(), self.method.code()]);
        bytes.extend_from_slice(&key.tag);
        bytes.extend_from_slice(&self.node.0);
        bytes.extend_from_slice(&self.run.to_le_bytes());
        bytes.extend_from_slice(&self.nonce);
        bytes.extend_from_slice(&self.unix_s.to_le_bytes());
        let addrs = &self.addrs[..self.addrs.len().min(MAX_ADDRS)];
        bytes.push(u8::try_from(addrs.len()).expect("at most eight"));
        for addr in addrs {
            match addr.ip() {
                IpAddr::V4(ip) => {
                    bytes.push(4);
                    bytes.extend_from_slice(&ip.octets());
                }
                IpAddr::V6(ip) => {
                    bytes.push(6);
                    bytes.extend_from_slice(&ip.octets());
                }
            }
            bytes.extend_from_slice(&addr.port().to_le_bytes());
        }
        let software = &self.software[..self.software.floor_char_boundary(MAX_SOFTWARE_BYTES)];
        bytes.push(u8::try_from(software.len()).expect("at most 32"));
        bytes.extend_from_slice(software.as_bytes());
        let mac = blake3::keyed_hash(&key.mac, &bytes);
        bytes.extend_from_slice(mac.as_bytes());
        bytes
    }

    /// Checks a packet against the keys and decodes it; returns with it which of the keys it was signed with.
    ///
    /// # Errors
    /// If it is not a packet that a member made.
    pub(crate) fn decode(bytes: &[u8], keys: &[PacketKey]) -> Result<(Self, usize), Rejected> {
        if bytes.len() > MAX_BYTES {
            return Err(Rejected::Garbage);
        }
        let mut header = Reader(bytes);
        if header.take() != Some(MAGIC) {
            return Err(Rejected::Garbage);
        }
        let version = header.byte().ok_or(Rejected::Garbage)?;
        if version != VERSION {
            return Err(Rejected::Version(version));
        }
        let [kind, method] = header.take().ok_or(Rejected::Garbage)?;
        let tag = header.take().ok_or(Rejected::Garbage)?;
        let at = keys.iter().position(|key| key.tag == tag).ok_or(Rejected::OtherCluster(tag))?;
        let (signed, mac) = bytes.split_last_chunk::<MAC_BYTES>().ok_or(Rejected::Garbage)?;
        // The comparison of hashes takes the same time wherever they differ.
        if blake3::keyed_hash(&keys[at].mac, signed) != blake3::Hash::from_bytes(*mac) {
            return Err(Rejected::BadMac);
        }
        let body_bytes = header.0.len().checked_sub(MAC_BYTES).ok_or(Rejected::Malformed)?;
        let body = Reader(&header.0[..body_bytes]);
        body.packet(kind, method).map(|packet| (packet, at)).ok_or(Rejected::Malformed)
    }
}

impl Reader<'_> {
    fn byte(&mut self) -> Option<u8> {
        self.take().map(|[byte]| byte)
    }

    fn addr(&mut self) -> Option<SocketAddr> {
        let ip = match self.byte()? {
            4 => IpAddr::from(self.take::<4>()?),
            6 => IpAddr::from(self.take::<16>()?),
            _ => return None,
        };
        Some(SocketAddr::new(ip, u16::from_le_bytes(self.take()?)))
    }

    /// What follows the tag; `None` unless it is used up exactly.
    fn packet(mut self, kind: u8, method: u8) -> Option<Packet> {
        let kind = [Kind::Query, Kind::Answer].into_iter().find(|known| known.code() == kind)?;
        let method = Method::ALL.into_iter().find(|known| known.code() == method)?;
        let node = NodeId(self.take()?);
        let run = u64::from_le_bytes(self.take()?);
        let nonce = self.take()?;
        let unix_s = u64::from_le_bytes(self.take()?);
        let n_addrs = usize::from(self.byte()?);
        if n_addrs > MAX_ADDRS {
            return None;
        }
        let addrs = (0..n_addrs).map(|_| self.addr()).collect::<Option<_>>()?;
        let software_bytes = usize::from(self.byte()?);
        if software_bytes != self.0.len() || software_bytes > MAX_SOFTWARE_BYTES {
            return None;
        }
        let software = str::from_utf8(self.0).ok()?.to_owned();
        Some(Packet { kind, method, node, run, nonce, unix_s, addrs, software })
    }
}

#[cfg(test)]
mod tests;
