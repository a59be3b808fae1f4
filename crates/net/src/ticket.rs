//! Tickets: what a device needs to join a cluster, as one word that can be copied, typed or scanned.
//!
//! A ticket is `shoal1` and base32 (RFC 4648, lower-case, unpadded) of
//!
//! | bytes | field |
//! |--:|---|
//! | 1 | version, 1 |
//! | 32 | key of the node that invites |
//! | 32 | the cluster's secret |
//! | 1 | number of addresses, at most 16 |
//! | 7 or 19 each | 4 or 6; the IP address; the port, big-endian |
//! | 4 | the first bytes of BLAKE3 of all before |
//!
//! Upper case is as good: QR codes are smaller with it.

use std::{
    fmt,
    net::{IpAddr, SocketAddr},
    str::FromStr,
};

use data_encoding::BASE32_NOPAD;
use shoal_proto::NodeId;

use crate::ClusterSecret;

const PREFIX: &str = "shoal1";
const VERSION: u8 = 1;
const CHECKSUM_BYTES: usize = 4;
/// Addresses of one ticket: more than a node has interfaces.
const MAX_ADDRS: usize = 16;
/// Characters of the longest ticket.
const MAX_CHARS: usize = PREFIX.len() + (66 + 19 * MAX_ADDRS + CHECKSUM_BYTES) * 8 / 5 + 1;

/// An invitation: whoever holds it can join the cluster, for good.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ticket {
    node: NodeId,
    addrs: Vec<SocketAddr>,
    secret: ClusterSecret,
}

/// A text that is no ticket.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TicketError {
    /// It does not begin like a ticket.
    #[error("ticket: expected a word that starts with {PREFIX:?}")]
    Prefix,
    /// It is a ticket of another version of Shoal.
    #[error("ticket version: expected {VERSION}, got {got}: update the older of the two nodes")]
    Version {
        /// Its version.
        got: u8,
    },
    /// It was cut, mistyped or added to.
    #[error("ticket: damaged or incomplete: copy it again in full")]
    Damaged,
}

impl Ticket {
    /// Makes a ticket. Addresses beyond the sixteenth are left out, and so is what means nothing elsewhere: the scope of an
    /// IPv6 address.
    pub fn new(node: NodeId, mut addrs: Vec<SocketAddr>, secret: ClusterSecret) -> Self {
        addrs.truncate(MAX_ADDRS);
        for addr in &mut addrs {
            *addr = SocketAddr::new(addr.ip(), addr.port());
        }
        Self { node, addrs, secret }
    }

    /// The node that invites.
    pub fn node(&self) -> NodeId {
        self.node
    }

    /// Where it can be dialled.
    pub fn addrs(&self) -> &[SocketAddr] {
        &self.addrs
    }

    /// The cluster's secret.
    pub fn secret(&self) -> &ClusterSecret {
        &self.secret
    }

    fn to_bytes(&self) -> Vec<u8> {
        let n_addrs = u8::try_from(self.addrs.len()).expect("at most MAX_ADDRS");
        let mut bytes = vec![VERSION];
        bytes.extend_from_slice(&self.node.0);
        bytes.extend_from_slice(self.secret.as_bytes());
        bytes.push(n_addrs);
        for addr in &self.addrs {
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
            bytes.extend_from_slice(&addr.port().to_be_bytes());
        }
        let checksum = checksum(&bytes);
        bytes.extend_from_slice(&checksum);
        bytes
    }

    fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let mut reader = Reader(bytes);
        let [_version] = reader.take()?;
        let node = NodeId(reader.take()?);
        let secret = ClusterSecret::from_bytes(reader.take()?);
        let [n_addrs] = reader.take()?;
        if usize::from(n_addrs) > MAX_ADDRS || iroh::PublicKey::from_bytes(&node.0).is_err() {
            return None;
        }
        let mut addrs = Vec::with_capacity(usize::from(n_addrs));
        for _ in 0..n_addrs {
            let ip = match reader.take()? {
                [4] => IpAddr::from(reader.take::<4>()?),
                [6] => IpAddr::from(reader.take::<16>()?),
                _ => return None,
            };
            addrs.push(SocketAddr::new(ip, u16::from_be_bytes(reader.take()?)));
        }
        reader.0.is_empty().then_some(Self { node, addrs, secret })
    }
}

struct Reader<'a>(&'a [u8]);

impl Reader<'_> {
    fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (taken, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(*taken)
    }
}

fn checksum(bytes: &[u8]) -> [u8; CHECKSUM_BYTES] {
    let hash = blake3::hash(bytes);
    std::array::from_fn(|i| hash.as_bytes()[i])
}

impl fmt::Display for Ticket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{PREFIX}{}", BASE32_NOPAD.encode(&self.to_bytes()).to_ascii_lowercase())
    }
}

impl FromStr for Ticket {
    type Err = TicketError;

    /// Reads a ticket in either case; white space around it is ignored.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let text = text.trim();
        let (prefix, digits) = text.split_at_checked(PREFIX.len()).ok_or(TicketError::Prefix)?;
        let name = PREFIX.trim_end_matches(|c: char| c.is_ascii_digit());
        if !prefix.is_ascii() || !prefix[..name.len()].eq_ignore_ascii_case(name) {
            return Err(TicketError::Prefix);
        }
        match prefix.as_bytes()[name.len()] {
            b'1' => {}
            digit @ b'0'..=b'9' => return Err(TicketError::Version { got: digit - b'0' }),
            _ => return Err(TicketError::Prefix),
        }
        if text.len() > MAX_CHARS {
            return Err(TicketError::Damaged);
        }
        let digits = digits.to_ascii_uppercase();
        let bytes = BASE32_NOPAD.decode(digits.as_bytes()).map_err(|_| TicketError::Damaged)?;
        let (body, sum) = bytes.split_last_chunk::<CHECKSUM_BYTES>().ok_or(TicketError::Damaged)?;
        if *sum != checksum(body) {
            return Err(TicketError::Damaged);
        }
        match body.first() {
            Some(&VERSION) => Self::from_bytes(body).ok_or(TicketError::Damaged),
            Some(&got) => Err(TicketError::Version { got }),
            None => Err(TicketError::Damaged),
        }
    }
}

#[cfg(test)]
mod tests;
