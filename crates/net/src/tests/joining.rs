//! Who gets in with a ticket.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{SystemTime, UNIX_EPOCH},
};

use iroh::endpoint::VarInt;
use proptest::prelude::*;

use super::{
    admission::{bind, founder, invite, join},
    *,
};
use crate::{
    InvitationState, Invite, Ticket, TicketError, TicketRefusal,
    connection::code,
    membership::invitation_id,
    proof::{ProofKey, Role, Session},
    stranger::Stranger,
    ticket::InvitationSecret,
};

const JOIN: &str = "shoal/join/1";

/// An endpoint of a cluster of its own, with a clock that the test sets, in seconds since 1970.
async fn founder_at(seconds: u64) -> (Endpoint, Arc<AtomicU64>) {
    let time = Arc::new(AtomicU64::new(seconds));
    let identity = Identity::generate().unwrap();
    let read = time.clone();
    let clock = Arc::new(move || at(read.load(Ordering::Relaxed)));
    let membership = Membership::open(None, identity.id(), clock).unwrap();
    (bind(identity, membership).await, time)
}

fn at(seconds: u64) -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(seconds)
}

#[track_caller]
fn check_refused<T: std::fmt::Debug>(result: Result<T, Error>, expected: TicketRefusal) {
    match result {
        Err(Error::TicketRefused { refusal, .. }) => assert_eq!(refusal, expected),
        other => panic!("expected {expected:?}, got {other:?}"),
    }
}

fn once() -> Invite {
    Invite { expires_at: None, single_use: true }
}

#[tokio::test]
async fn a_ticket_in_its_text_form_leads_into_the_cluster() {
    let (a, b) = (founder().await, founder().await);
    let text = invite(&a, Invite::default()).to_string();
    let ticket: Ticket = text.parse().unwrap();
    assert_eq!((ticket.node(), ticket.addrs()), (a.id(), &a.addrs()[..]));
    assert!(connect(&b, &a, Plane::Control).await.is_err());
    let roll = soon(b.join(&ticket)).await.unwrap();
    assert!(a.membership().is_member(b.id()));
    assert!(!b.membership().is_member(a.id()), "joining is no more than a question");
    b.membership().replace(roll).unwrap();
    let (_dialled, accepted) = pair(&b, &a, Plane::Control).await;
    assert_eq!(accepted.peer(), b.id());
    assert_eq!(a.membership().invitations()[0].joined, [b.id()]);
}

#[tokio::test]
async fn a_ticket_admits_any_number_unless_it_says_one() {
    let a = founder().await;
    let (many, one) = (invite(&a, Invite::default()), invite(&a, once()));
    for _ in 0..3 {
        soon(founder().await.join(&many)).await.unwrap();
    }
    let (first, second) = (founder().await, founder().await);
    soon(first.join(&one)).await.unwrap();
    check_refused(soon(second.join(&one)).await, TicketRefusal::Used);
    assert!(!a.membership().is_member(second.id()));
    soon(first.join(&one)).await.expect("its answer may have been lost");
    let states: Vec<_> = a.membership().invitations().iter().map(|it| it.state).collect();
    assert_eq!(states, [InvitationState::Open, InvitationState::Used]);
}

#[tokio::test]
async fn of_many_devices_with_one_ticket_for_one_exactly_one_gets_in() {
    let a = founder().await;
    for _ in 0..3 {
        let ticket = invite(&a, once());
        let mut devices = Vec::new();
        for _ in 0..6 {
            devices.push(founder().await);
        }
        let mut joins = tokio::task::JoinSet::new();
        for device in devices.clone() {
            let ticket = ticket.clone();
            joins.spawn(async move { soon(device.join(&ticket)).await });
        }
        let results = joins.join_all().await;
        assert_eq!(results.iter().filter(|result| result.is_ok()).count(), 1, "{results:?}");
        for result in results.into_iter().filter(Result::is_err) {
            check_refused(result, TicketRefusal::Used);
        }
        let is_member = |device: &&Endpoint| a.membership().is_member(device.id());
        assert_eq!(devices.iter().filter(is_member).count(), 1);
    }
}

#[tokio::test]
async fn a_ticket_expires_by_the_clock_of_either_side() {
    let ((a, inviters_clock), (b, joiners_clock)) = (founder_at(1000).await, founder_at(0).await);
    let expires = Invite { expires_at: Some(at(2000)), single_use: false };
    let ticket = invite(&a, expires);
    assert_eq!(ticket.expires_at(), Some(at(2000)));
    joiners_clock.store(2000 + 3 * 3600, Ordering::Relaxed);
    let error = soon(b.join(&ticket)).await.unwrap_err();
    assert!(matches!(error, Error::Ticket(TicketError::Expired { .. })), "{error:?}");
    assert!(error.to_string().contains("expired 3 h ago"), "{error}");
    joiners_clock.store(0, Ordering::Relaxed);
    inviters_clock.store(2000, Ordering::Relaxed);
    check_refused(soon(b.join(&ticket)).await, TicketRefusal::Expired);
    assert!(!a.membership().is_member(b.id()));
    assert_eq!(a.membership().invitations()[0].state, InvitationState::Expired);
    inviters_clock.store(1999, Ordering::Relaxed);
    soon(b.join(&ticket)).await.unwrap();
}

#[tokio::test]
async fn an_invitation_is_void_once_somebody_was_removed_or_it_was_withdrawn() {
    let (a, b, c) = (founder().await, founder().await, founder().await);
    join(&b, &a).await;
    let (of_a, of_b) = (invite(&a, Invite::default()), invite(&b, Invite::default()));
    let withdrawn = invite(&b, Invite::default());
    assert!(b.membership().withdraw(invitation_id(withdrawn.secret())).unwrap());
    assert!(!b.membership().withdraw(invitation_id(withdrawn.secret())).unwrap());
    check_refused(soon(c.join(&withdrawn)).await, TicketRefusal::Void);
    let roll = a.membership().forget(NodeId([9; 32])).unwrap();
    check_refused(soon(c.join(&of_a)).await, TicketRefusal::Void);
    b.membership().merge(&roll);
    check_refused(soon(c.join(&of_b)).await, TicketRefusal::Void);
    assert!(!a.membership().is_member(c.id()) && !b.membership().is_member(c.id()));
}

#[tokio::test]
async fn an_open_invitation_outlives_news_of_who_has_joined() {
    let (a, b, c) = (founder().await, founder().await, founder().await);
    join(&b, &a).await;
    let ticket = invite(&b, Invite::default());
    join(&c, &a).await;
    assert!(b.membership().merge(&a.membership().roll()));
    soon(founder().await.join(&ticket)).await.unwrap();
}

/// Joins by hand with the id of one invitation and the secret of another; returns the code that ends it.
async fn join_by_hand(
    stranger: &iroh::Endpoint,
    inviter: &Endpoint,
    id: InvitationSecret,
    secret: InvitationSecret,
) -> Option<VarInt> {
    let quic = intrude(stranger, inviter, JOIN).await.unwrap();
    let side = Stranger::new(&quic, Plane::Join);
    let (mut send, mut receive) = side.open().await.unwrap();
    side.send(&mut send, 1, &[&[7; 32], &invitation_id(id).0]).await.unwrap();
    let session = Session {
        plane: Plane::Join,
        initiator: id_of(stranger),
        responder: inviter.id(),
        nonce_initiator: [7; 32],
        nonce_responder: soon(side.receive(&mut receive, 1, "a nonce")).await.unwrap(),
        exporter: side.exporter().unwrap(),
    };
    let key = ProofKey::of_invitation(secret);
    side.prove(&mut send, &session, &key, Role::Initiator).await.unwrap();
    // Without an answer, the connection's end says why.
    if let Ok(bytes) = soon(receive.read_to_end(100_000)).await {
        assert!(bytes.len() > 32, "a proof and a roll");
        quic.close(VarInt::from_u32(0), b"");
    }
    match soon(quic.closed()).await {
        iroh::endpoint::ConnectionError::ApplicationClosed(close) => Some(close.error_code),
        _ => None,
    }
}

#[tokio::test]
async fn a_wrong_proof_and_an_unknown_invitation_look_the_same_and_burn_nothing() {
    let (a, guesser) = (founder().await, stranger(&[]).await);
    let ticket = invite(&a, once());
    let expired = invite(&a, Invite { expires_at: Some(at(1)), single_use: true });
    let (right, wrong) = (ticket.secret(), InvitationSecret([1; 16]));
    let unknown = Some(VarInt::from_u32(code::TICKET_UNKNOWN));
    assert_eq!(join_by_hand(&guesser, &a, wrong, wrong).await, unknown, "no such invitation");
    assert_eq!(join_by_hand(&guesser, &a, right, wrong).await, unknown, "a wrong proof");
    assert_eq!(join_by_hand(&guesser, &a, expired.secret(), wrong).await, unknown, "of an old one");
    let told = Some(VarInt::from_u32(code::TICKET_EXPIRED));
    assert_eq!(join_by_hand(&guesser, &a, expired.secret(), expired.secret()).await, told);
    assert_eq!(a.membership().roll().members().collect::<Vec<_>>(), [a.id()]);
    soon(founder().await.join(&ticket)).await.expect("nobody has used it");
    let used = Some(VarInt::from_u32(code::TICKET_USED));
    assert_eq!(join_by_hand(&guesser, &a, right, right).await, used);
}

#[tokio::test]
async fn an_address_that_guesses_waits_and_members_do_not() {
    let (a, b) = (founder().await, founder().await);
    join(&b, &a).await;
    let ticket = invite(&a, Invite::default());
    let guesser = stranger(&[]).await;
    let wrong = InvitationSecret([1; 16]);
    let too_many = Some(VarInt::from_u32(code::TOO_MANY));
    let mut n_guesses = 0;
    // The count is taken when an attempt has ended, so one more may slip in.
    while n_guesses < 40 && join_by_hand_or_refused(&guesser, &a, wrong).await != too_many {
        n_guesses += 1;
    }
    assert!((16..24).contains(&n_guesses), "{n_guesses}");
    check_refused(soon(founder().await.join(&ticket)).await, TicketRefusal::TooMany);
    let (_dialled, accepted) = pair(&b, &a, Plane::Control).await;
    assert_eq!(accepted.peer(), b.id());
}

/// As [`join_by_hand`] with a wrong secret, where the door may be shut before the first message.
async fn join_by_hand_or_refused(
    stranger: &iroh::Endpoint,
    inviter: &Endpoint,
    secret: InvitationSecret,
) -> Option<VarInt> {
    let quic = intrude(stranger, inviter, JOIN).await.unwrap();
    let mut opened = quic.open_bi().await;
    if let Ok((send, _)) = &mut opened {
        let message = [&[1][..], &[7; 32], &invitation_id(secret).0, &[0; 32]].concat();
        let _ = send.write_all(&message).await;
    }
    match soon(quic.closed()).await {
        iroh::endpoint::ConnectionError::ApplicationClosed(close) => Some(close.error_code),
        _ => None,
    }
}

#[tokio::test]
async fn garbage_at_the_door_is_shown_out() {
    let (a, garbage) = (founder().await, stranger(&[]).await);
    for (message, expected) in [
        (&[0xff; 4000][..], code::PROTOCOL),
        (&[1; 49 + 32][..], code::TICKET_UNKNOWN),
        (&[1; 49][..], code::PROTOCOL),
        (&[1; 48][..], code::PROTOCOL),
        (&[][..], code::PROTOCOL),
    ] {
        let quic = intrude(&garbage, &a, JOIN).await.unwrap();
        let (mut send, _receive) = quic.open_bi().await.unwrap();
        send.write_all(message).await.unwrap();
        send.finish().unwrap();
        let iroh::endpoint::ConnectionError::ApplicationClosed(close) = soon(quic.closed()).await
        else {
            panic!("{} bytes", message.len());
        };
        assert_eq!(close.error_code, VarInt::from_u32(expected), "{} bytes", message.len());
    }
    join(&founder().await, &a).await;
}

#[tokio::test]
async fn a_device_joins_through_a_crowd_of_silent_strangers() {
    let timing = Timing { connect: PATIENCE, handshake: PATIENCE, ..Timing::default() };
    let (a, b) = (member_with(1, timing).await, member_with(2, timing).await);
    let ticket = invite(&a, once());
    let mut crowd = tokio::task::JoinSet::new();
    for _ in 0..8 {
        let intruder = stranger(&[]).await;
        for _ in 0..20 {
            let (intruder, a) = (intruder.clone(), a.clone());
            crowd.spawn(async move { intrude(&intruder, &a, JOIN).await });
        }
    }
    let connections: Vec<_> = crowd.join_all().await.into_iter().flatten().collect();
    assert!(connections.len() > 100, "only {} strangers came", connections.len());
    soon(b.join(&ticket)).await.unwrap();
    let n_alive = connections.iter().filter(|quic| quic.close_reason().is_none()).count();
    assert!(n_alive <= 128, "{n_alive} strangers hold a place");
}

/// A node that a ticket names and that answers as `answer` says.
async fn hostile_inviter(
    answer: impl AsyncFnOnce(&Stranger<'_>, &mut iroh::endpoint::SendStream, &Session, &ProofKey),
) -> Error {
    let (joiner, hostile) = (founder().await, stranger(&[JOIN]).await);
    let secret = InvitationSecret([5; 16]);
    let ticket = Ticket::new(id_of(&hostile), secret, false, None, addr_of(&hostile));
    let serve = async {
        let quic = hostile.accept().await.unwrap().await.unwrap();
        let side = Stranger::new(&quic, Plane::Join);
        let (mut send, mut receive) = side.accept().await.unwrap();
        let hello = side.receive::<48>(&mut receive, 1, "a hello").await.unwrap();
        side.send(&mut send, 1, &[&[8; 32]]).await.unwrap();
        let session = Session {
            plane: Plane::Join,
            initiator: joiner.id(),
            responder: id_of(&hostile),
            nonce_initiator: *hello.first_chunk().unwrap(),
            nonce_responder: [8; 32],
            exporter: side.exporter().unwrap(),
        };
        side.read::<32>(&mut receive, "a proof").await.unwrap();
        answer(&side, &mut send, &session, &ProofKey::of_invitation(secret)).await;
        let _ = send.finish();
        quic.closed().await;
    };
    let (joined, ()) = soon(async { tokio::join!(joiner.join(&ticket), serve) }).await;
    joined.unwrap_err()
}

#[tokio::test]
async fn a_node_that_cannot_prove_the_invitation_gives_no_roll() {
    let roll = founder().await.membership().roll();
    let error = hostile_inviter(async |side, send, _, _| {
        let _ = side.write(send, &[0; 32]).await;
        let _ = side.write(send, &shoal_proto::control::encode(&roll)).await;
    })
    .await;
    check_refused::<()>(Err(error), TicketRefusal::Unknown);
}

#[tokio::test]
async fn a_reflected_proof_of_an_invitation_is_wrong() {
    let error = hostile_inviter(async |side, send, session, key| {
        let _ = side.prove(send, session, key, Role::Initiator).await;
    })
    .await;
    check_refused::<()>(Err(error), TicketRefusal::Unknown);
}

#[tokio::test]
async fn a_roll_without_end_or_sense_or_the_joiner_is_refused() {
    let prove = async |side: &Stranger<'_>,
                       send: &mut iroh::endpoint::SendStream,
                       session: &Session,
                       key: &ProofKey,
                       bytes: &[u8]| {
        let _ = side.prove(send, session, key, Role::Responder).await;
        let _ = side.write(send, bytes).await;
    };
    let endless = vec![0xff; 200_000];
    let error = hostile_inviter(async |side, send, session, key| {
        prove(side, send, session, key, &endless).await;
    })
    .await;
    assert!(matches!(error, Error::TooLong { .. }), "{error:?}");
    // A list that claims 4 Gi entries.
    let claim =
        [&[shoal_proto::control::VERSION][..], &[0; 16], &[0xff, 0xff, 0xff, 0xff, 15]].concat();
    let error = hostile_inviter(async |side, send, session, key| {
        prove(side, send, session, key, &claim).await;
    })
    .await;
    assert!(matches!(error, Error::Control { .. }), "{error:?}");
    let other = shoal_proto::control::encode(&founder().await.membership().roll());
    let error = hostile_inviter(async |side, send, session, key| {
        prove(side, send, session, key, &other).await;
    })
    .await;
    assert!(matches!(error, Error::Handshake { .. }), "{error:?}");
}

#[tokio::test]
async fn a_node_does_not_join_itself() {
    let a = founder().await;
    let error = soon(a.join(&invite(&a, once()))).await.unwrap_err();
    assert!(matches!(error, Error::OwnId { .. }), "{error:?}");
}

proptest! {
    #[test]
    fn every_refusal_has_a_code_of_its_own(code in any::<u64>()) {
        if let Some(refusal) = TicketRefusal::from_code(code) {
            prop_assert_eq!(u64::from(refusal.code()), code);
        }
    }
}
