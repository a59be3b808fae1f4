//! Tickets: what a device needs to join a cluster, as one word that can be copied, typed or scanned.
//!
//! A ticket is `shoal2` and base32 (RFC 4648, lower-case, unpadded) of
//!
//! | bytes | field |
//! |--:|---|
//! | 32 | key of the node that invites |
//! | 16 | the invitation's secret |
//! | 1 | bit 7: it expires; bit 6: it admits one device; bits 4 to 0: number of IPv4 addresses |
//! | 1 | number of IPv6 addresses; at most 16 addresses in all |
//! | 0 or 5 | when it expires, in seconds since 1970, big-endian |
//! | 6 or 18 each | the IPv4 addresses, then the IPv6 ones; each with its port, big-endian |
//! | 4 | the first bytes of BLAKE3 of all before |
//!
//! Upper case is as good: QR codes are smaller with it. The cluster's secret is not in it: a ticket that expired, was used
//! or was voided is worth nothing, and the node that made it decides about that.

use std::{
    fmt,
    net::{IpAddr, SocketAddr},
    str::FromStr,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use data_encoding::BASE32_NOPAD;
use shoal_proto::NodeId;

use crate::{InvitationId, membership::invitation_id, reader::Reader};

const NAME: &str = "shoal";
const VERSION: u8 = 2;
const CHECKSUM_BYTES: usize = 4;
/// Addresses of one ticket: more than a node has interfaces.
const MAX_ADDRS: usize = 16;
/// Bytes of a time: enough for 34,000 years.
const TIME_BYTES: usize = 5;
const MAX_BYTES: usize = 32 + 16 + 2 + TIME_BYTES + 18 * MAX_ADDRS + CHECKSUM_BYTES;
/// Characters of the longest ticket.
const MAX_CHARS: usize = NAME.len() + 1 + MAX_BYTES.div_ceil(5) * 8;
const EXPIRES: u8 = 1 << 7;
const SINGLE_USE: u8 = 1 << 6;

/// An invitation's secret. Its `Debug` output hides it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct InvitationSecret(pub(crate) [u8; 16]);

impl fmt::Debug for InvitationSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("InvitationSecret(..)")
    }
}

/// An invitation: whoever holds it can join the cluster, as long as the node that made it lets him.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ticket {
    node: NodeId,
    secret: InvitationSecret,
    single_use: bool,
    /// Seconds since 1970.
    expires_s: Option<u64>,
    addrs: Vec<SocketAddr>,
}

/// A text that is no ticket, or one that is of no use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TicketError {
    /// It does not begin like a ticket.
    #[error("ticket: expected a word that starts with \"{NAME}{VERSION}\"")]
    Prefix,
    /// It is a ticket of version 0.1, which held the cluster's secret itself.
    #[error(
        "ticket of an older version of Shoal: update the node that made it and ask for a new one \
         with `shoal invite`"
    )]
    Older,
    /// It is a ticket of a later version of Shoal.
    #[error("ticket version: expected {VERSION}, got {got}: update this node")]
    Newer {
        /// Its version.
        got: u8,
    },
    /// It was cut, mistyped or added to.
    #[error("ticket: damaged or incomplete: copy it again in full")]
    Damaged,
    /// Its time is over.
    #[error("ticket: expired {} ago: ask for a new one with `shoal invite`", rough(*ago))]
    Expired {
        /// For how long it has been worthless.
        ago: Duration,
    },
}

/// A duration in the largest unit that fits: nobody asks for more.
fn rough(duration: Duration) -> String {
    match duration.as_secs() {
        seconds @ 0..60 => format!("{seconds} s"),
        seconds @ 60..3600 => format!("{} min", seconds / 60),
        seconds @ 3600..172_800 => format!("{} h", seconds / 3600),
        seconds => format!("{} days", seconds / 86_400),
    }
}

/// Seconds since 1970; 0 for times before.
pub(crate) fn unix_seconds(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

impl Ticket {
    /// Makes a ticket. Addresses beyond the sixteenth are left out, and so is what means nothing elsewhere: the scope of an
    /// IPv6 address.
    pub(crate) fn new(
        node: NodeId,
        secret: InvitationSecret,
        single_use: bool,
        expires_s: Option<u64>,
        mut addrs: Vec<SocketAddr>,
    ) -> Self {
        addrs.truncate(MAX_ADDRS);
        for addr in &mut addrs {
            *addr = SocketAddr::new(addr.ip(), addr.port());
        }
        addrs.sort_by_key(SocketAddr::is_ipv6);
        let last = (1 << (8 * TIME_BYTES)) - 1;
        Self { node, secret, single_use, expires_s: expires_s.map(|at| at.min(last)), addrs }
    }

    /// The same invitation, at another node or other addresses: behind a forwarded port for example.
    #[must_use]
    pub fn at(&self, node: NodeId, addrs: Vec<SocketAddr>) -> Self {
        Self::new(node, self.secret, self.single_use, self.expires_s, addrs)
    }

    /// The node that invites.
    pub fn node(&self) -> NodeId {
        self.node
    }

    /// Where it can be dialled.
    pub fn addrs(&self) -> &[SocketAddr] {
        &self.addrs
    }

    /// Whether it admits one device only.
    pub fn is_single_use(&self) -> bool {
        self.single_use
    }

    /// When it becomes worthless; `None` for never.
    pub fn expires_at(&self) -> Option<SystemTime> {
        self.expires_s.map(|at| UNIX_EPOCH + Duration::from_secs(at))
    }

    /// Checks that the ticket has not expired. The node that made it checks again, by its own clock.
    ///
    /// # Errors
    /// [`TicketError::Expired`].
    pub fn check(&self, now: SystemTime) -> Result<(), TicketError> {
        let now_s = unix_seconds(now);
        match self.expires_s {
            Some(at) if at <= now_s => {
                Err(TicketError::Expired { ago: Duration::from_secs(now_s - at) })
            }
            _ => Ok(()),
        }
    }

    /// The invitation that it is for.
    pub fn invitation(&self) -> InvitationId {
        invitation_id(self.secret)
    }

    pub(crate) fn secret(&self) -> InvitationSecret {
        self.secret
    }

    fn to_bytes(&self) -> Vec<u8> {
        let n_v4 = self.addrs.iter().filter(|addr| addr.is_ipv4()).count();
        let count = |n: usize| u8::try_from(n).expect("at most MAX_ADDRS");
        let flag = |is_set: bool, flag: u8| if is_set { flag } else { 0 };
        let flags = flag(self.expires_s.is_some(), EXPIRES) | flag(self.single_use, SINGLE_USE);
        let mut bytes = [&self.node.0[..], &self.secret.0].concat();
        bytes.extend_from_slice(&[flags | count(n_v4), count(self.addrs.len() - n_v4)]);
        if let Some(at) = self.expires_s {
            bytes.extend_from_slice(&at.to_be_bytes()[8 - TIME_BYTES..]);
        }
        for addr in &self.addrs {
            match addr.ip() {
                IpAddr::V4(ip) => bytes.extend_from_slice(&ip.octets()),
                IpAddr::V6(ip) => bytes.extend_from_slice(&ip.octets()),
            }
            bytes.extend_from_slice(&addr.port().to_be_bytes());
        }
        let checksum = checksum(&bytes);
        bytes.extend_from_slice(&checksum);
        bytes
    }

    /// Reads what [`to_bytes`](Self::to_bytes) wrote, without its checksum.
    fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let mut reader = Reader(bytes);
        let node = NodeId(reader.take()?);
        let secret = InvitationSecret(reader.take()?);
        let [first, n_v6] = reader.take()?;
        let n_v4 = first & !(EXPIRES | SINGLE_USE);
        let n_addrs = usize::from(n_v4) + usize::from(n_v6);
        if n_addrs > MAX_ADDRS || iroh::PublicKey::from_bytes(&node.0).is_err() {
            return None;
        }
        let expires_s = if first & EXPIRES == 0 {
            None
        } else {
            let mut at = [0; 8];
            at[8 - TIME_BYTES..].copy_from_slice(&reader.take::<TIME_BYTES>()?);
            Some(u64::from_be_bytes(at))
        };
        let mut addrs = Vec::with_capacity(n_addrs);
        for _ in 0..n_v4 {
            let ip = IpAddr::from(reader.take::<4>()?);
            addrs.push(SocketAddr::new(ip, u16::from_be_bytes(reader.take()?)));
        }
        for _ in 0..n_v6 {
            let ip = IpAddr::from(reader.take::<16>()?);
            addrs.push(SocketAddr::new(ip, u16::from_be_bytes(reader.take()?)));
        }
        let single_use = first & SINGLE_USE != 0;
        reader.0.is_empty().then_some(Self { node, secret, single_use, expires_s, addrs })
    }
}

fn checksum(bytes: &[u8]) -> [u8; CHECKSUM_BYTES] {
    let hash = blake3::hash(bytes);
    std::array::from_fn(|i| hash.as_bytes()[i])
}

impl fmt::Display for Ticket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let digits = BASE32_NOPAD.encode(&self.to_bytes()).to_ascii_lowercase();
        write!(f, "{NAME}{VERSION}{digits}")
    }
}

impl FromStr for Ticket {
    type Err = TicketError;

    /// Reads a ticket in either case; white space around it is ignored.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let text = text.trim();
        let (name, rest) = text.split_at_checked(NAME.len()).ok_or(TicketError::Prefix)?;
        let (version, digits) = rest.split_at_checked(1).ok_or(TicketError::Prefix)?;
        let version = version.parse::<u8>().map_err(|_| TicketError::Prefix)?;
        if !name.eq_ignore_ascii_case(NAME) {
            return Err(TicketError::Prefix);
        }
        match version {
            VERSION => {}
            0..VERSION => return Err(TicketError::Older),
            got => return Err(TicketError::Newer { got }),
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
        Self::from_bytes(body).ok_or(TicketError::Damaged)
    }
}

#[cfg(test)]
mod tests;
