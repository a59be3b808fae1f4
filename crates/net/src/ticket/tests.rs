//! Tickets survive their text form, and nothing else is a ticket.

use proptest::prelude::*;

use super::*;
use crate::Identity;

/// A ticket of version 0.1: the text that its test froze.
const OLD: &str = "shoal1ahveu3dd4kofecv66vihwezoyx4zkr3wv27l464siipou2iui3jcycijbeeqscijbeeqscijbe\
                   eqscijbeeqscijbeeqscijbeeqscijaicmbkabctgl6braaeg3qaaaaaaaaaaaaaaaaaabaaavnnb7mm";

fn ticket(expires_s: Option<u64>, addrs: &[&str]) -> Ticket {
    let addrs = addrs.iter().map(|addr| addr.parse().unwrap()).collect();
    let node = Identity::from_bytes(&[7; 32]).id();
    Ticket::new(node, InvitationSecret([9; 16]), expires_s.is_some(), expires_s, addrs)
}

fn at(seconds: u64) -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(seconds)
}

/// Encodes a body with a right checksum, as only this program or an attacker would.
fn sealed(body: &[u8]) -> String {
    let bytes = [body, &checksum(body)].concat();
    format!("{NAME}{VERSION}{}", BASE32_NOPAD.encode(&bytes).to_ascii_lowercase())
}

fn parse(text: &str) -> Result<Ticket, TicketError> {
    text.parse()
}

#[test]
fn the_text_of_a_ticket_is_frozen() {
    let ticket = ticket(Some(1_800_000_000), &["192.168.1.20:52415", "[2001:db8::1]:1"]);
    assert_eq!(ticket.to_string(), FROZEN);
    assert_eq!(parse(FROZEN), Ok(ticket));
}

const FROZEN: &str = "shoal25jfgyy7ctrjavpxvkb5rglwf7gkuo5vox27hxescd3vgsfcg2iwascijbeeqscijbeeqsc\
                      ijbeeqtqibabvutuqaycuacfgmx4qacdnyaaaaaaaaaaaaaaaaaaaqaakumghiy";

#[test]
fn the_usual_ticket_is_short() {
    let text = ticket(None, &["192.168.1.20:52415"]).to_string();
    assert_eq!(text.len(), 102, "{text}");
}

#[test]
fn a_ticket_may_be_typed_in_capitals_and_pasted_with_spaces() {
    let ticket = ticket(None, &["127.0.0.1:9"]);
    assert_eq!(parse(&format!("  {}\n", ticket.to_string().to_uppercase())), Ok(ticket));
}

#[test]
fn a_ticket_hides_its_secret_in_logs() {
    let ticket = ticket(None, &[]);
    assert!(format!("{ticket:?}").contains("InvitationSecret(..)"), "{ticket:?}");
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
    assert_eq!(parse(OLD), Err(TicketError::Older));
    assert!(TicketError::Older.to_string().contains("ticket of an older version"));
    let text = ticket(None, &[]).to_string().replacen("shoal2", "shoal3", 1);
    assert_eq!(parse(&text), Err(TicketError::Newer { got: 3 }));
}

#[test]
fn an_expired_ticket_says_for_how_long() {
    let expiring = ticket(Some(1000), &[]);
    assert_eq!(expiring.expires_at(), Some(at(1000)));
    assert_eq!(expiring.check(at(999)), Ok(()));
    assert!(expiring.check(at(1000)).is_err());
    let text = |seconds: u64| expiring.check(at(1000 + seconds)).unwrap_err().to_string();
    assert_eq!(
        text(3 * 3600 + 5),
        "ticket: expired 3 h ago: ask for a new one with `shoal invite`"
    );
    for (seconds, ago) in [(59, "59 s"), (60, "1 min"), (7199, "1 h"), (200_000, "2 days")] {
        assert!(text(seconds).contains(&format!("expired {ago} ago")), "{}", text(seconds));
    }
    assert_eq!(ticket(None, &[]).check(at(1 << 40)), Ok(()));
}

#[test]
fn every_missing_or_added_or_changed_character_is_noticed() {
    let text = ticket(Some(5), &["10.0.0.1:1"]).to_string();
    let start = NAME.len() + 1;
    for at in start..text.len() {
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
    let whole = ticket(None, &["10.0.0.1:1"]).to_bytes();
    let body = &whole[..whole.len() - CHECKSUM_BYTES];
    let with = |at: usize, byte: u8| {
        let mut body = body.to_vec();
        body[at] = byte;
        sealed(&body)
    };
    assert!(parse(&sealed(body)).is_ok());
    assert_eq!(parse(&with(48, 2)), Err(TicketError::Damaged), "more addresses than bytes");
    assert_eq!(parse(&with(48, 0)), Err(TicketError::Damaged), "bytes left over");
    assert_eq!(parse(&with(48, 17)), Err(TicketError::Damaged), "too many addresses");
    assert_eq!(parse(&with(49, 255)), Err(TicketError::Damaged), "far too many addresses");
    assert_eq!(parse(&with(48, EXPIRES | 1)), Err(TicketError::Damaged), "no time to expire");
    let mut no_key = body.to_vec();
    no_key[..32].fill(0);
    no_key[0] = 2;
    assert_eq!(parse(&sealed(&no_key)), Err(TicketError::Damaged), "no public key");
}

#[test]
fn a_ticket_takes_no_more_addresses_than_it_can_hold() {
    let addrs: Vec<_> = (1..40).map(|port| SocketAddr::from(([1; 16], port))).collect();
    let ticket = ticket(Some(u64::MAX), &[]);
    let ticket = ticket.at(ticket.node(), addrs.clone());
    let parsed = parse(&ticket.to_string()).unwrap();
    assert_eq!(parsed.addrs(), &addrs[..MAX_ADDRS]);
    assert!(ticket.to_string().len() <= MAX_CHARS);
    assert_eq!(parsed, ticket, "a time beyond the last is the last");
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
        secret in any::<[u8; 16]>(),
        single_use in any::<bool>(),
        expires_s in any::<Option<u64>>(),
        addrs in proptest::collection::vec(any_addr(), 0..=MAX_ADDRS),
    ) {
        let node = Identity::from_bytes(&key).id();
        let ticket = Ticket::new(node, InvitationSecret(secret), single_use, expires_s, addrs);
        prop_assert_eq!(parse(&ticket.to_string()), Ok(ticket));
    }

    #[test]
    fn any_text_is_read_without_panic(text in any::<String>()) {
        let _ = parse(&text);
        let _ = parse(&format!("{NAME}{VERSION}{text}"));
    }

    #[test]
    fn any_sealed_bytes_are_read_without_panic(
        body in proptest::collection::vec(any::<u8>(), 0..400),
        key in any::<[u8; 32]>(),
    ) {
        let _ = parse(&sealed(&body));
        let with_key = [&Identity::from_bytes(&key).id().0[..], &body].concat();
        if let Ok(ticket) = parse(&sealed(&with_key)) {
            prop_assert_eq!(ticket.to_string(), sealed(&with_key), "one text for one ticket");
        }
    }
}
