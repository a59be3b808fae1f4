//! What a switch sees of an Ethernet frame.

/// An Ethernet address.
pub(crate) type Mac = [u8; 6];

/// Bytes before a frame's payload: two addresses and a type.
const HEADER_BYTES: usize = 14;
const TYPE_ARP: u16 = 0x0806;
const TYPE_IPV6: u16 = 0x86dd;
/// IPv6's fixed header.
const IPV6_HEADER_BYTES: usize = 40;
const NEXT_HEADER_ICMPV6: u8 = 58;
/// From router solicitation to redirect (RFC 4861 §4).
const NEIGHBOUR_DISCOVERY: std::ops::RangeInclusive<u8> = 133..=137;

/// Whom a frame is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Audience {
    /// One station.
    One(Mac),
    /// Whoever listens to a group.
    Group,
    /// Everybody.
    All,
    /// A question or answer about who has an address (ARP, IPv6 neighbour discovery) that goes to many.
    ///
    /// Access points that filter broadcast and multicast still carry these, or nothing would work at all.
    Resolution,
}

/// The sender's address and the audience; nothing of a frame too short for a header.
pub(crate) fn read(frame: &[u8]) -> Option<(Mac, Audience)> {
    let (header, payload) = frame.split_at_checked(HEADER_BYTES)?;
    let to = Mac::try_from(&header[..6]).ok()?;
    let from = Mac::try_from(&header[6..12]).ok()?;
    if to[0] & 1 == 0 {
        return Some((from, Audience::One(to)));
    }
    let kind = u16::from_be_bytes([header[12], header[13]]);
    let is_discovery = || {
        payload.get(6) == Some(&NEXT_HEADER_ICMPV6)
            && payload.get(IPV6_HEADER_BYTES).is_some_and(|kind| NEIGHBOUR_DISCOVERY.contains(kind))
    };
    let audience = match kind {
        TYPE_ARP => Audience::Resolution,
        TYPE_IPV6 if is_discovery() => Audience::Resolution,
        _ if to == [0xff; 6] => Audience::All,
        _ => Audience::Group,
    };
    Some((from, audience))
}
