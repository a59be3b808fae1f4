//! Tickets survive their text form, and nothing else is a ticket.

use proptest::prelude::*;

use super::*;
use crate::Identity;

fn ticket(addrs: &[&str]) -> Ticket {
    let addrs = addrs.iter().map(|addr| addr.parse().unwrap()).collect();
    let node = Identity::from_bytes(&[7; 32]).id();
    Ticket::new(node, addrs, ClusterSecret::from_bytes([9; 32]))
}

/// Encodes a body with a right checksum, as only this program or an attacker would.
fn sealed(body: &[u8]) -> String {
    let bytes = [body, &checksum(body)].concat();
    format!("{PREFIX}{}", BASE32_NOPAD.encode(&bytes).to_ascii_lowercase())
}

fn parse(text: &str) -> Result<Ticket, TicketError> {
    text.parse()
}

#[test]
fn the_text_of_a_ticket_is_frozen() {
    let text = ticket(&["192.168.1.20:52415", "[2001:db8::1]:1"]).to_string();
    assert_eq!(text, FROZEN);
    assert_eq!(parse(FROZEN), Ok(ticket(&["192.168.1.20:52415", "[2001:db8::1]:1"])));
}

const FROZEN: &str = "shoal1ahveu3dd4kofecv66vihwezoyx4zkr3wv27l464siipou2iui3jcycijbeeqscijbeeqscijbe\
                      eqscijbeeqscijbeeqscijbeeqscijaicmbkabctgl6braaeg3qaaaaaaaaaaaaaaaaaabaaavnnb7mm";

#[test]
fn a_ticket_may_be_typed_in_capitals_and_pasted_with_spaces() {
    let ticket = ticket(&["127.0.0.1:9"]);
    assert_eq!(parse(&format!("  {}\n", ticket.to_string().to_uppercase())), Ok(ticket));
}

#[test]
fn a_ticket_hides_its_secret_in_logs() {
    let ticket = ticket(&[]);
    assert!(format!("{ticket:?}").contains("ClusterSecret(..)"), "{ticket:?}");
}

#[test]
fn text_that_is_no_ticket_is_named_so() {
    for text in ["", "shoa", "shoal", "shoalx", "hello world", "https://example.org", "ééééééé"]
    {
        assert_eq!(parse(text), Err(TicketError::Prefix), "{text:?}");
    }
}

#[test]
fn a_ticket_of_another_version_is_named_so() {
    let text = ticket(&[]).to_string().replacen("shoal1", "shoal2", 1);
    assert_eq!(parse(&text), Err(TicketError::Version { got: 2 }));
    let mut body = ticket(&[]).to_bytes();
    body.truncate(66);
    body[0] = 3;
    assert_eq!(parse(&sealed(&body)), Err(TicketError::Version { got: 3 }));
}

#[test]
fn every_missing_or_added_or_changed_character_is_noticed() {
    let text = ticket(&["10.0.0.1:1"]).to_string();
    for at in PREFIX.len()..text.len() {
        assert!(parse(&text[..at]).is_err(), "cut at {at}");
        let other = if &text[at..=at] == "a" { "b" } else { "a" };
        let changed = [&text[..at], other, &text[at + 1..]].concat();
        assert_eq!(parse(&changed), Err(TicketError::Damaged), "changed at {at}");
        let added = [&text[..at], "a", &text[at..]].concat();
        assert_eq!(parse(&added), Err(TicketError::Damaged), "added at {at}");
    }
}

#[test]
fn a_ticket_with_a_right_checksum_and_wrong_content_is_refused() {
    let whole = ticket(&["10.0.0.1:1"]).to_bytes();
    let body = &whole[..whole.len() - CHECKSUM_BYTES];
    let with = |at: usize, byte: u8| {
        let mut body = body.to_vec();
        body[at] = byte;
        sealed(&body)
    };
    assert!(parse(&sealed(body)).is_ok());
    assert_eq!(parse(&with(65, 2)), Err(TicketError::Damaged), "more addresses than bytes");
    assert_eq!(parse(&with(65, 0)), Err(TicketError::Damaged), "bytes left over");
    assert_eq!(parse(&with(65, 17)), Err(TicketError::Damaged), "too many addresses");
    assert_eq!(parse(&with(66, 5)), Err(TicketError::Damaged), "no such address family");
    let mut no_key = body.to_vec();
    no_key[1..33].fill(0);
    no_key[1] = 2;
    assert_eq!(parse(&sealed(&no_key)), Err(TicketError::Damaged), "no public key");
}

#[test]
fn a_ticket_takes_no_more_addresses_than_it_can_hold() {
    let addrs: Vec<_> = (1..40).map(|port| SocketAddr::from(([1; 16], port))).collect();
    let ticket = Ticket::new(ticket(&[]).node(), addrs.clone(), ticket(&[]).secret().clone());
    let parsed = parse(&ticket.to_string()).unwrap();
    assert_eq!(parsed.addrs(), &addrs[..MAX_ADDRS]);
    assert!(ticket.to_string().len() <= MAX_CHARS);
}

fn any_addr() -> impl Strategy<Value = SocketAddr> {
    let v4 = any::<([u8; 4], u16)>().prop_map(SocketAddr::from);
    let v6 = any::<([u8; 16], u16)>().prop_map(SocketAddr::from);
    prop_oneof![v4, v6]
}

proptest! {
    #[test]
    fn any_ticket_survives_its_text(
        key in any::<[u8; 32]>(),
        secret in any::<[u8; 32]>(),
        addrs in proptest::collection::vec(any_addr(), 0..=MAX_ADDRS),
    ) {
        let node = Identity::from_bytes(&key).id();
        let ticket = Ticket::new(node, addrs, ClusterSecret::from_bytes(secret));
        prop_assert_eq!(parse(&ticket.to_string()), Ok(ticket));
    }

    #[test]
    fn any_text_is_read_without_panic(text in any::<String>()) {
        let _ = parse(&text);
        let _ = parse(&format!("{PREFIX}{text}"));
    }

    #[test]
    fn any_sealed_bytes_are_read_without_panic(
        mut body in proptest::collection::vec(any::<u8>(), 0..400),
    ) {
        if let Some(version) = body.first_mut() {
            *version = VERSION;
        }
        let _ = parse(&sealed(&body));
    }
}
