//! Who is let in by the handshake of members, and who is put out.

use std::sync::Arc;

use super::*;
use crate::{
    CloseReason, Invite, TicketRefusal,
    connection::code,
    proof::{MemberKey, Role, Session},
    stranger::Stranger,
};

/// An endpoint of a cluster of its own.
pub(super) async fn founder() -> Endpoint {
    let identity = Identity::generate().unwrap();
    let membership = Membership::load_or_create(None, identity.id()).unwrap();
    bind(identity, membership).await
}

pub(super) async fn bind(identity: Identity, membership: Membership) -> Endpoint {
    let timing = Timing::default();
    let config =
        EndpointConfig { identity, membership, interfaces: lo(), relay: None, port: 0, timing };
    Endpoint::bind(config).await.unwrap()
}

pub(super) fn invite(inviter: &Endpoint, invite: Invite) -> crate::Ticket {
    inviter.membership().invite(invite, inviter.addrs()).unwrap()
}

/// Lets a device join through a member.
pub(super) async fn join(joiner: &Endpoint, inviter: &Endpoint) {
    let ticket = invite(inviter, Invite::default());
    let roll = soon(joiner.join(&ticket)).await.unwrap();
    joiner.membership().replace(roll).unwrap();
}

/// A cluster of `N` that knows itself.
async fn cluster<const N: usize>() -> [Endpoint; N] {
    let mut nodes = vec![founder().await];
    for _ in 1..N {
        let node = founder().await;
        join(&node, &nodes[0]).await;
        nodes.push(node);
    }
    let roll = nodes[0].membership().roll();
    for node in &nodes {
        node.membership().merge(&roll);
    }
    nodes.try_into().unwrap()
}

/// What two members do when they meet.
fn exchange(a: &Endpoint, b: &Endpoint) {
    let (of_a, of_b) = (a.membership().roll(), b.membership().roll());
    a.membership().merge(&of_b);
    b.membership().merge(&of_a);
}

async fn check_meet(a: &Endpoint, b: &Endpoint) {
    for (from, to) in [(a, b), (b, a)] {
        let (_dialled, accepted) = pair(from, to, Plane::Control).await;
        assert_eq!(accepted.peer(), from.id());
    }
}

/// A second device that has stolen all that `node` knows, but not its key.
async fn thief_of(node: &Endpoint) -> Endpoint {
    let identity = Identity::generate().unwrap();
    let membership = Membership::load_or_create(None, identity.id()).unwrap();
    let mut roll = node.membership().roll();
    roll.admit(identity.id());
    membership.replace(roll).unwrap();
    bind(identity, membership).await
}

#[tokio::test]
async fn a_device_that_has_joined_is_a_member_for_everyone() {
    let [a, b, c] = cluster().await;
    for node in [&a, &b, &c] {
        for other in [&a, &b, &c] {
            assert!(node.membership().is_member(other.id()));
        }
        assert_eq!(node.membership().roll(), a.membership().roll());
    }
    check_meet(&b, &c).await;
}

#[tokio::test]
async fn a_device_that_another_member_has_just_admitted_is_entered_when_it_comes() {
    let [a, b] = cluster().await;
    let c = founder().await;
    join(&c, &b).await;
    assert!(!a.membership().is_member(c.id()));
    let mut changes = a.membership().subscribe();
    changes.borrow_and_update();
    let (_dialled, _accepted) = pair(&c, &a, Plane::Data).await;
    assert!(a.membership().is_member(c.id()));
    assert!(changes.has_changed().unwrap());
}

#[tokio::test]
async fn a_forgotten_node_does_not_come_back_with_what_it_has() {
    let [a, b, lost] = cluster().await;
    let ticket = invite(&a, Invite::default());
    let (dialled, accepted) = pair(&lost, &a, Plane::Control).await;
    let (friend, _accepted) = pair(&b, &a, Plane::Control).await;
    let thief = thief_of(&lost).await;
    let roll = a.membership().forget(lost.id()).unwrap();
    assert!(roll.is_revoked(lost.id()) && !a.membership().is_member(lost.id()));
    assert_eq!(accepted.close_reason(), Some(CloseReason::Local), "at once");
    assert_eq!(soon(dialled.closed()).await, CloseReason::Removed);
    assert_eq!(friend.close_reason(), None);
    b.membership().merge(&roll);
    for member in [&a, &b] {
        for plane in Plane::OF_MEMBERS {
            let error = connect(&lost, member, plane).await.unwrap_err();
            assert!(matches!(error, Error::Removed { .. }), "its key: {error:?}");
            assert!(error.to_string().contains("this device was removed from the cluster"));
            let error = connect(&thief, member, plane).await.unwrap_err();
            assert!(matches!(error, Error::WrongSecret { .. }), "another key: {error:?}");
            let error = connect(member, &lost, plane).await.unwrap_err();
            assert!(matches!(error, Error::Revoked { .. }), "dialled: {error:?}");
            let error = connect(member, &thief, plane).await.unwrap_err();
            assert!(matches!(error, Error::WrongSecret { .. }), "the thief dialled: {error:?}");
        }
        assert!(!member.membership().is_member(thief.id()));
    }
    for device in [&lost, &thief] {
        let error = soon(device.join(&ticket)).await.unwrap_err();
        let refusal = TicketRefusal::Void;
        assert!(
            matches!(error, Error::TicketRefused { refusal: it, .. } if it == refusal),
            "{error:?}"
        );
    }
    check_meet(&a, &b).await;
}

fn code_of(error: &iroh::endpoint::ConnectionError) -> Option<u64> {
    match error {
        iroh::endpoint::ConnectionError::ApplicationClosed(close) => Some(close.error_code.into()),
        _ => None,
    }
}

#[tokio::test]
async fn a_revoked_key_is_told_so_before_it_says_anything() {
    let (a, lost) = (founder().await, stranger(&[]).await);
    a.membership().forget(id_of(&lost)).unwrap();
    for plane in Plane::OF_MEMBERS {
        let quic = intrude(&lost, &a, plane.alpn()).await.unwrap();
        let code = code_of(&soon(quic.closed()).await);
        assert_eq!(code, Some(u64::from(code::REVOKED)));
    }
}

#[tokio::test]
async fn a_key_that_is_revoked_during_its_handshake_does_not_get_in() {
    let (a, lost) = (founder().await, stranger(&[]).await);
    let mut roll = a.membership().roll();
    roll.admit(id_of(&lost));
    let key = MemberKey::new(roll.secret());
    let quic = intrude(&lost, &a, Plane::Control.alpn()).await.unwrap();
    let side = Stranger::new(&quic, Plane::Control);
    let (mut send, mut receive) = side.open().await.unwrap();
    let exporter = side.exporter().unwrap();
    let tag = key.tag(&[7; 32], &exporter);
    side.send(&mut send, 2, &[&[7; 32], &tag, &[0; 32]]).await.unwrap();
    let answer = soon(side.receive::<33>(&mut receive, 2, "an answer")).await.unwrap();
    let [nonce_responder @ .., choice] = answer;
    assert_eq!(choice, 0);
    // It has passed the first check, and now it is too late for it.
    a.membership().forget(id_of(&lost)).unwrap();
    let session = Session {
        plane: Plane::Control,
        initiator: id_of(&lost),
        responder: a.id(),
        nonce_initiator: [7; 32],
        nonce_responder,
        exporter,
    };
    side.prove(&mut send, &session, &key.proof, Role::Initiator).await.unwrap();
    assert_eq!(code_of(&soon(quic.closed()).await), Some(u64::from(code::REVOKED)));
    assert!(!a.membership().is_member(id_of(&lost)));
    let friend = founder().await;
    join(&friend, &a).await;
    let (_dialled, accepted) = pair(&friend, &a, Plane::Control).await;
    assert_eq!(accepted.peer(), friend.id(), "nobody came before");
}

#[tokio::test]
async fn a_right_tag_without_a_right_proof_is_worth_nothing() {
    let (a, guesser) = (founder().await, stranger(&["shoal/control/2"]).await);
    let key = MemberKey::new(a.membership().roll().secret());
    let quic = intrude(&guesser, &a, Plane::Control.alpn()).await.unwrap();
    let side = Stranger::new(&quic, Plane::Control);
    let (mut send, mut receive) = side.open().await.unwrap();
    let tag = key.tag(&[7; 32], &side.exporter().unwrap());
    side.send(&mut send, 2, &[&[7; 32], &tag, &[0; 32]]).await.unwrap();
    let [.., choice] = soon(side.receive::<33>(&mut receive, 2, "an answer")).await.unwrap();
    assert_eq!(choice, 0, "the secret was recognised");
    side.write(&mut send, &[0; 32]).await.unwrap();
    assert_eq!(code_of(&soon(quic.closed()).await), Some(u64::from(code::WRONG_SECRET)));
    assert!(soon(receive.read_to_end(100)).await.is_err(), "it proves nothing to a stranger");
    // The same when it is dialled, with a choice that was offered and with one that was not.
    for choice in [0, 1, 4, 5, 255] {
        let (id, addrs) = (id_of(&guesser), addr_of(&guesser));
        let answer = async {
            let quic = guesser.accept().await.unwrap().await.unwrap();
            let side = Stranger::new(&quic, Plane::Control);
            let (mut send, mut receive) = side.accept().await.unwrap();
            side.receive::<72>(&mut receive, 2, "a hello").await.unwrap();
            side.send(&mut send, 2, &[&[8; 32], &[choice]]).await.unwrap();
            let _ = side.write(&mut send, &[0; 32]).await;
            code_of(&quic.closed().await)
        };
        let dial = a.connect(id, &addrs, Plane::Control);
        let (dialled, code) = soon(async { tokio::join!(dial, answer) }).await;
        assert!(matches!(dialled, Err(Error::WrongSecret { .. })), "{choice}: {dialled:?}");
        assert_eq!(code, Some(u64::from(code::WRONG_SECRET)), "{choice}");
    }
    assert_eq!(a.membership().roll().members().collect::<Vec<_>>(), [a.id()]);
}

#[tokio::test]
async fn the_newest_common_secret_is_chosen() {
    let [a, sleeper] = cluster().await;
    for byte in 1..3 {
        a.membership().forget(NodeId([byte; 32])).unwrap();
    }
    let keys: Vec<_> = a.membership().roll().secrets().map(MemberKey::new).collect();
    let dialler = stranger(&[]).await;
    let mut roll = a.membership().roll();
    roll.admit(id_of(&dialler));
    a.membership().merge(&roll);
    let quic = intrude(&dialler, &a, Plane::Control.alpn()).await.unwrap();
    let side = Stranger::new(&quic, Plane::Control);
    let (mut send, mut receive) = side.open().await.unwrap();
    let exporter = side.exporter().unwrap();
    // The oldest first, the current one last, and two that nobody holds.
    let tags: Vec<_> = keys.iter().rev().map(|key| key.tag(&[7; 32], &exporter)).collect();
    let tags = tags.as_flattened();
    side.send(&mut send, 2, &[&[7; 32], tags, &[0; 16]]).await.unwrap();
    let [.., choice] = soon(side.receive::<33>(&mut receive, 2, "an answer")).await.unwrap();
    assert_eq!(usize::from(choice), keys.len() - 1);
    drop(sleeper);
}

#[tokio::test]
async fn a_forgotten_node_comes_back_with_a_fresh_ticket() {
    let [a, b, lost] = cluster().await;
    a.membership().forget(lost.id()).unwrap();
    join(&lost, &a).await;
    assert!(a.membership().is_member(lost.id()));
    check_meet(&a, &lost).await;
    // The other member has heard neither that it was removed nor that it is back.
    check_meet(&b, &a).await;
    exchange(&a, &b);
    check_meet(&b, &lost).await;
}

#[tokio::test]
async fn a_revocation_that_is_heard_of_ends_connections_at_once() {
    let [a, b, lost] = cluster().await;
    let (dialled, accepted) = pair(&b, &lost, Plane::Data).await;
    let mut sender = accepted.frame_sender().await.unwrap();
    drop(accepted);
    let mut receiver = dialled.frame_receiver().unwrap();
    let roll = a.membership().forget(lost.id()).unwrap();
    assert!(b.membership().merge(&roll));
    assert_eq!(dialled.close_reason(), Some(CloseReason::Local));
    let error = soon(receiver.recv()).await.unwrap_err();
    assert!(matches!(error, Error::Closed { .. }), "{error:?}");
    soon(async { while sender.send(&step(0, 8, 64)).await.is_ok() {} }).await;
    assert!(!b.membership().merge(&roll), "nothing new");
}

#[tokio::test]
async fn a_member_that_slept_through_changes_gets_in_and_learns_of_them() {
    let [a, b, sleeper, lost] = cluster().await;
    // As many generations as secrets are kept for.
    a.membership().forget(lost.id()).unwrap();
    for byte in 1..4 {
        a.membership().forget(NodeId([byte; 32])).unwrap();
    }
    b.membership().merge(&a.membership().roll());
    check_meet(&sleeper, &a).await;
    check_meet(&b, &sleeper).await;
    assert!(!sleeper.membership().is_revoked(lost.id()));
    exchange(&sleeper, &a);
    assert_eq!(sleeper.membership().roll(), a.membership().roll());
    let error = connect(&lost, &sleeper, Plane::Control).await.unwrap_err();
    assert!(matches!(error, Error::Removed { .. }), "{error:?}");
}

#[tokio::test]
async fn a_member_that_slept_for_too_long_needs_a_ticket() {
    let [a, sleeper] = cluster().await;
    for byte in 1..6 {
        a.membership().forget(NodeId([byte; 32])).unwrap();
    }
    let error = connect(&sleeper, &a, Plane::Control).await.unwrap_err();
    assert!(matches!(error, Error::WrongSecret { .. }), "{error:?}");
    assert!(error.to_string().contains("shoal invite"), "{error}");
    join(&sleeper, &a).await;
    check_meet(&a, &sleeper).await;
}

#[tokio::test]
async fn an_old_secret_is_not_enough_for_a_stranger_on_either_side() {
    let [a, lost] = cluster().await;
    let thief = thief_of(&lost).await;
    a.membership().forget(lost.id()).unwrap();
    for (from, to) in [(&thief, &a), (&a, &thief)] {
        let error = connect(from, to, Plane::Control).await.unwrap_err();
        assert!(matches!(error, Error::WrongSecret { .. }), "{error:?}");
    }
    assert!(!a.membership().is_member(thief.id()));
}

#[tokio::test]
async fn two_halves_that_both_removed_somebody_come_together() {
    let [a, b, c, lost_by_a, lost_by_b] = cluster().await;
    a.membership().forget(lost_by_a.id()).unwrap();
    b.membership().forget(lost_by_b.id()).unwrap();
    exchange(&b, &c);
    assert_ne!(a.membership().roll().secret(), b.membership().roll().secret());
    assert_eq!(a.membership().roll().generation(), b.membership().roll().generation());
    check_meet(&a, &b).await;
    exchange(&a, &b);
    exchange(&c, &a);
    let roll = a.membership().roll();
    for node in [&b, &c] {
        assert_eq!(node.membership().roll(), roll);
        check_meet(&a, node).await;
    }
    for lost in [&lost_by_a, &lost_by_b] {
        for member in [&a, &b, &c] {
            let error = connect(lost, member, Plane::Control).await.unwrap_err();
            assert!(matches!(error, Error::Removed { .. }), "{error:?}");
        }
    }
}

#[tokio::test]
async fn whoever_leaves_is_alone_at_once_and_stays_it() {
    let [a, b] = cluster().await;
    let ticket = invite(&b, Invite::default());
    let (dialled, accepted) = pair(&a, &b, Plane::Control).await;
    b.membership().leave().unwrap();
    assert_eq!(accepted.close_reason(), Some(CloseReason::Local));
    assert_eq!(soon(dialled.closed()).await, CloseReason::Goodbye("left the cluster".into()));
    let error = connect(&a, &b, Plane::Control).await.unwrap_err();
    assert!(matches!(error, Error::WrongSecret { .. }), "{error:?}");
    assert!(!b.membership().merge(&a.membership().roll()), "what comes late changes nothing");
    assert_eq!(b.membership().roll().members().collect::<Vec<_>>(), [b.id()]);
    let error = soon(a.join(&ticket)).await.unwrap_err();
    assert!(matches!(error, Error::TicketRefused { .. }), "{error:?}");
}

#[tokio::test]
async fn nodes_of_version_0_1_that_share_a_secret_find_each_other() {
    let nodes = [Directory::new(), Directory::new()].map(|directory| {
        fs::write(directory.path().join("cluster-secret"), "5a".repeat(32) + "\n").unwrap();
        let identity = Identity::load_or_create(&directory.path().join("identity")).unwrap();
        let path = directory.path().join("membership");
        let membership = Membership::load_or_create(Some(&path), identity.id()).unwrap();
        (directory, identity, membership)
    });
    let [(_first, identity, membership), (_second, other, other_membership)] = nodes;
    let (a, b) = (bind(identity, membership).await, bind(other, other_membership).await);
    check_meet(&a, &b).await;
    exchange(&a, &b);
    assert_eq!(a.membership().roll(), b.membership().roll());
    assert!(a.membership().is_member(b.id()) && b.membership().is_member(a.id()));
}

#[tokio::test]
async fn a_connection_that_is_dropped_is_not_kept_by_the_membership() {
    let [a, b] = cluster().await;
    let (dialled, accepted) = pair(&a, &b, Plane::Control).await;
    drop(dialled);
    let reason = soon(accepted.closed()).await;
    assert!(matches!(reason, CloseReason::Goodbye(_)), "{reason:?}");
}

#[tokio::test]
async fn discovery_keys_overlap_after_a_change() {
    let [a, b] = cluster().await;
    let before = b.membership().discovery_keys();
    a.membership().forget(NodeId([9; 32])).unwrap();
    let after = a.membership().discovery_keys();
    assert_eq!(after[1..], before[..]);
    let roll = a.membership().roll();
    let secrets: Vec<_> = roll.secrets().map(|secret| *secret.as_bytes()).collect();
    assert!(after.iter().all(|key| !secrets.contains(key)), "a key is no secret");
}

#[tokio::test]
async fn the_planes_of_members_need_their_handshake() {
    let (a, b) = (founder().await, founder().await);
    let error = connect(&a, &b, Plane::Join).await.unwrap_err();
    assert!(matches!(error, Error::OtherPlane { .. }), "{error:?}");
    let error = a.membership().forget(a.id()).unwrap_err();
    assert!(matches!(error, Error::ForgetsItself { .. }), "{error:?}");
    let clock = Arc::new(std::time::SystemTime::now);
    let other = Membership::open(None, b.id(), clock).unwrap().roll();
    let error = a.membership().replace(other).unwrap_err();
    assert!(matches!(error, Error::NotOnRoll { .. }), "{error:?}");
}
