//! The packet against damage, strangers and time.

use proptest::prelude::*;

use super::*;

fn key(byte: u8) -> PacketKey {
    PacketKey::derive(&[byte; 32])
}

fn packet() -> Packet {
    Packet {
        kind: Kind::Query,
        method: Method::Sweep,
        node: NodeId([0x11; 32]),
        run: 0x0102_0304_0506_0708,
        nonce: [0x22; NONCE_BYTES],
        unix_s: 1_795_000_000,
        addrs: vec!["192.168.1.5:7001".parse().unwrap(), "[fd00::5]:7002".parse().unwrap()],
        software: "0.1.0".to_owned(),
    }
}

/// Signs these bytes in place of a packet's.
fn sealed(body: &[u8], key: &PacketKey) -> Vec<u8> {
    let mut bytes = body.to_vec();
    bytes.extend_from_slice(blake3::keyed_hash(&key.mac, body).as_bytes());
    bytes
}

#[test]
fn a_packet_survives_and_says_which_key_signed_it() {
    let bytes = packet().encode(&key(2));
    assert_eq!(Packet::decode(&bytes, &[key(1), key(2)]), Ok((packet(), 1)));
}

#[test]
fn the_bytes_are_frozen() {
    let bytes = packet().encode(&key(1));
    let header = [&b"shdq"[..], &[1, 1, 2], &key(1).tag].concat();
    assert_eq!(bytes[..15], header);
    let body = [
        &[0x11; 32][..],
        &[8, 7, 6, 5, 4, 3, 2, 1],
        &[0x22; 16],
        &1_795_000_000_u64.to_le_bytes(),
        &[2, 4, 192, 168, 1, 5, 0x59, 0x1b],
        &[6, 0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 5, 0x5a, 0x1b],
        &[5],
        b"0.1.0",
    ];
    let body = body.concat();
    assert_eq!(bytes[15..bytes.len() - MAC_BYTES], body);
    let digest = blake3::hash(&bytes).to_hex();
    assert_eq!(&digest[..16], FROZEN_DIGEST);
}

/// Of the whole packet, tag and MAC included.
const FROZEN_DIGEST: &str = "767e9d73f5dbdf79";

#[test]
fn a_packet_of_everything_at_its_longest_fits() {
    let addrs = (0..20).map(|port| SocketAddr::from(([1; 16], port))).collect();
    let long = Packet { addrs, software: "ä".repeat(40), ..packet() };
    let bytes = long.encode(&key(1));
    assert!(bytes.len() <= MAX_BYTES, "{}", bytes.len());
    let (read, _) = Packet::decode(&bytes, &[key(1)]).unwrap();
    assert_eq!(read.addrs, long.addrs[..MAX_ADDRS]);
    assert_eq!(read.software, "ä".repeat(16));
}

#[test]
fn every_changed_missing_or_added_byte_is_noticed() {
    let bytes = packet().encode(&key(1));
    for at in 0..bytes.len() {
        let mut changed = bytes.clone();
        changed[at] ^= 0x40;
        assert!(Packet::decode(&changed, &[key(1)]).is_err(), "changed at {at}");
        assert!(Packet::decode(&bytes[..at], &[key(1)]).is_err(), "cut at {at}");
    }
    assert!(Packet::decode(&[&bytes[..], &[0]].concat(), &[key(1)]).is_err());
}

#[test]
fn strangers_are_told_apart() {
    let bytes = packet().encode(&key(1));
    let decode = |bytes: &[u8]| Packet::decode(bytes, &[key(1)]);
    let of_other = packet().encode(&key(2));
    assert_eq!(decode(&of_other), Err(Rejected::OtherCluster(key(2).tag)));
    let mut newer = bytes.clone();
    newer[4] = 2;
    assert_eq!(decode(&newer), Err(Rejected::Version(2)));
    let mut damaged = bytes.clone();
    damaged[20] ^= 1;
    assert_eq!(decode(&damaged), Err(Rejected::BadMac));
    assert_eq!(decode(b"M-SEARCH * HTTP/1.1"), Err(Rejected::Garbage));
    assert_eq!(decode(&[]), Err(Rejected::Garbage));
    assert_eq!(decode(&[0; MAX_BYTES + 1]), Err(Rejected::Garbage));
    assert_eq!(Packet::decode(&bytes, &[]), Err(Rejected::OtherCluster(key(1).tag)));
}

#[test]
fn a_signed_packet_of_wrong_content_is_refused() {
    let whole = packet().encode(&key(1));
    let body = &whole[..whole.len() - MAC_BYTES];
    let with = |at: usize, byte: u8| {
        let mut body = body.to_vec();
        body[at] = byte;
        Packet::decode(&sealed(&body, &key(1)), &[key(1)])
    };
    assert_eq!(with(5, 1), Ok((packet(), 0)));
    assert_eq!(with(5, 3), Err(Rejected::Malformed), "no such kind");
    assert_eq!(with(6, 4), Err(Rejected::Malformed), "no such method");
    assert_eq!(with(79, 9), Err(Rejected::Malformed), "too many addresses");
    assert_eq!(with(79, 1), Err(Rejected::Malformed), "bytes left over");
    assert_eq!(with(80, 5), Err(Rejected::Malformed), "no such family");
}

proptest! {
    #[test]
    fn any_bytes_are_read_without_panic(bytes in proptest::collection::vec(any::<u8>(), 0..600)) {
        let _ = Packet::decode(&bytes, &[key(1)]);
    }

    #[test]
    fn any_signed_bytes_are_read_without_panic(
        rest in proptest::collection::vec(any::<u8>(), 0..400),
        kind in 0_u8..4,
    ) {
        let body = [&b"shdq"[..], &[1, kind, 1], &key(1).tag, &rest].concat();
        let _ = Packet::decode(&sealed(&body, &key(1)), &[key(1)]);
    }

    #[test]
    fn any_packet_survives(
        node in any::<[u8; 32]>(),
        run in any::<u64>(),
        unix_s in any::<u64>(),
        v4 in proptest::collection::vec(any::<([u8; 4], u16)>(), 0..=4),
        v6 in proptest::collection::vec(any::<([u8; 16], u16)>(), 0..=4),
        software in "[ -~]{0,32}",
    ) {
        let v6 = v6.into_iter().map(SocketAddr::from);
        let addrs = v4.into_iter().map(SocketAddr::from).chain(v6).collect();
        let packet = Packet { node: NodeId(node), run, unix_s, addrs, software, ..packet() };
        prop_assert_eq!(Packet::decode(&packet.encode(&key(1)), &[key(1)]), Ok((packet, 0)));
    }
}
