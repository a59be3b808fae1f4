//! What a membership keeps, and what it does not believe.

use std::{fs, time::Duration};

use proptest::prelude::*;

use super::{invitations::InvitationState, *};
use crate::{TicketRefusal, tests::Directory};

fn node(byte: u8) -> NodeId {
    NodeId([byte; 32])
}

fn load(directory: &Directory) -> Result<Membership, Error> {
    Membership::load_or_create(Some(&directory.path().join("membership")), node(1))
}

fn file(directory: &Directory) -> std::path::PathBuf {
    directory.path().join("membership")
}

fn forever() -> Invite {
    Invite::default()
}

#[test]
fn a_membership_outlives_the_process() {
    let directory = Directory::new();
    let first = load(&directory).unwrap();
    assert_eq!(first.roll().members().collect::<Vec<_>>(), [node(1)]);
    let expires_at = Some(SystemTime::now() + Duration::from_secs(3600));
    first.invite(Invite { expires_at, single_use: true }, Vec::new()).unwrap();
    first.forget(node(2)).unwrap();
    first.invite(forever(), Vec::new()).unwrap();
    let second = load(&directory).unwrap();
    assert_eq!(second.roll(), first.roll());
    assert_eq!(second.invitations(), first.invitations());
    let states: Vec<_> = second.invitations().iter().map(|it| it.state).collect();
    assert_eq!(states, [InvitationState::Void, InvitationState::Open]);
    assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1, "nothing else remains");
}

#[cfg(unix)]
#[test]
fn the_file_is_the_owners_alone() {
    use std::os::unix::fs::PermissionsExt as _;

    let directory = Directory::new();
    load(&directory).unwrap();
    let mode = || fs::metadata(file(&directory)).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(), 0o600);
    fs::set_permissions(file(&directory), fs::Permissions::from_mode(0o644)).unwrap();
    load(&directory).unwrap();
    assert_eq!(mode(), 0o600, "a copied file is protected again");
}

#[test]
fn every_damaged_byte_and_every_cut_is_noticed_and_the_file_is_kept() {
    let directory = Directory::new();
    let membership = load(&directory).unwrap();
    membership.invite(forever(), Vec::new()).unwrap();
    let whole = fs::read(file(&directory)).unwrap();
    let check = |bytes: &[u8], what: &str| {
        fs::write(file(&directory), bytes).unwrap();
        let error = load(&directory).unwrap_err();
        assert!(matches!(&error, Error::DamagedMembership { .. }), "{what}: {error:?}");
        assert!(error.to_string().contains(&file(&directory).display().to_string()), "{error}");
        assert_eq!(fs::read(file(&directory)).unwrap(), bytes, "{what}");
    };
    for at in 0..whole.len() {
        check(&whole[..at], &format!("cut at {at}"));
        let mut changed = whole.clone();
        changed[at] ^= 1;
        check(&changed, &format!("changed at {at}"));
    }
    check(&[&whole[..], b"x"].concat(), "a byte more");
    fs::write(file(&directory), whole).unwrap();
    load(&directory).unwrap();
}

#[test]
fn a_file_with_a_right_checksum_and_wrong_content_is_damaged() {
    let directory = Directory::new();
    for content in [&[][..], &[0; 17], &[0xff; 100], &[0; 200]] {
        let body = [b"shoal membership 1\n", content].concat();
        let sum = blake3::hash(&body);
        fs::write(file(&directory), [&body[..], &sum.as_bytes()[..8]].concat()).unwrap();
        let error = load(&directory).unwrap_err();
        assert!(matches!(&error, Error::DamagedMembership { .. }), "{error:?}");
    }
}

#[test]
fn the_secret_of_version_0_1_is_taken_over_once() {
    let directory = Directory::new();
    let old = directory.path().join("cluster-secret");
    fs::write(&old, "5a".repeat(32) + "\n").unwrap();
    let membership = load(&directory).unwrap();
    let roll = membership.roll();
    assert_eq!((roll.generation(), roll.secret().as_bytes()), (1, &[0x5a; 32]));
    assert!(!old.exists(), "the old secret would bring the old cluster back");
    assert_eq!(load(&directory).unwrap().roll(), roll);
    fs::write(&old, "6b".repeat(32)).unwrap();
    assert_eq!(load(&directory).unwrap().roll(), roll, "what is known goes before what is old");
}

#[test]
fn a_damaged_secret_of_version_0_1_is_named_and_kept() {
    let directory = Directory::new();
    let old = directory.path().join("cluster-secret");
    fs::write(&old, "5a").unwrap();
    let error = load(&directory).unwrap_err();
    assert!(matches!(&error, Error::MalformedFile { path, .. } if *path == old), "{error:?}");
    assert_eq!(fs::read_to_string(&old).unwrap(), "5a");
    assert!(!file(&directory).exists());
}

#[test]
fn a_new_identity_in_an_old_directory_is_a_member_of_its_cluster() {
    let directory = Directory::new();
    let roll = load(&directory).unwrap().roll();
    let other = Membership::load_or_create(Some(&file(&directory)), node(2)).unwrap();
    assert_eq!(other.roll().secret(), roll.secret());
    assert!(other.is_member(node(2)) && other.is_member(node(1)));
}

#[test]
fn a_removed_node_stays_removed_when_it_restarts() {
    let directory = Directory::new();
    let membership = load(&directory).unwrap();
    let mut roll = membership.roll();
    roll.revoke(node(1), ClusterSecret::from_bytes([7; 32])).unwrap();
    assert!(membership.merge(&roll));
    assert!(!membership.is_member(node(1)));
    assert!(load(&directory).unwrap().is_revoked(node(1)));
}

#[test]
fn what_cannot_be_written_is_said_and_holds_all_the_same() {
    let directory = Directory::new();
    let membership = load(&directory).unwrap();
    // A directory in the file's place cannot be replaced by a file.
    fs::remove_file(file(&directory)).unwrap();
    fs::create_dir_all(file(&directory).join("in the way")).unwrap();
    let error = membership.forget(node(2)).unwrap_err();
    assert!(matches!(error, Error::File { action: "written", .. }), "{error:?}");
    assert!(membership.is_revoked(node(2)));
}

#[test]
fn a_change_is_told_and_nothing_else_is() {
    let membership = Membership::load_or_create(None, node(1)).unwrap();
    let mut changes = membership.subscribe();
    let mut is_told = || {
        let changed = changes.has_changed().unwrap();
        changes.borrow_and_update();
        changed
    };
    membership.invite(forever(), Vec::new()).unwrap();
    assert!(is_told());
    let mut roll = membership.roll();
    assert!(!membership.merge(&roll) && !is_told());
    roll.admit(node(2));
    assert!(membership.merge(&roll) && is_told());
    membership.forget(node(2)).unwrap();
    assert!(is_told());
    membership.leave().unwrap();
    assert!(is_told());
}

#[test]
fn old_invitations_give_way_to_new_ones_those_that_are_over_first() {
    let mut invitations = Invitations::default();
    let id = |byte| invitation_id(crate::ticket::InvitationSecret([byte; 16]));
    let single = Invite { expires_at: None, single_use: true };
    for byte in 0..64 {
        invitations.add([byte; 16], &single, 0);
    }
    invitations.redeem(id(30), node(1), 0).unwrap();
    invitations.add([100; 16], &single, 0);
    assert!(invitations.secret(id(30)).is_none(), "the used one");
    invitations.add([101; 16], &single, 0);
    assert!(invitations.secret(id(0)).is_none(), "then the oldest");
    assert_eq!(invitations.list(0).len(), 64);
    assert_eq!(invitations.redeem(id(30), node(2), 0), Err(TicketRefusal::Unknown));
}

#[test]
fn a_device_that_was_removed_has_no_second_use_of_its_ticket() {
    let mut invitations = Invitations::default();
    let id = invitation_id(crate::ticket::InvitationSecret([1; 16]));
    invitations.add([1; 16], &Invite { expires_at: None, single_use: true }, 0);
    assert_eq!(invitations.redeem(id, node(1), 0), Ok(()));
    assert_eq!(invitations.redeem(id, node(1), 0), Ok(()), "its answer may have been lost");
    assert_eq!(invitations.redeem(id, node(2), 0), Err(TicketRefusal::Used));
    invitations.void_all();
    assert_eq!(invitations.redeem(id, node(1), 0), Err(TicketRefusal::Void));
}

#[test]
fn a_membership_hides_its_secrets_in_logs() {
    let membership = Membership::load_or_create(None, node(1)).unwrap();
    membership.invite(forever(), Vec::new()).unwrap();
    let state = membership.state().clone();
    let text = format!("{membership:?} {state:?}");
    let secret = data_encoding::HEXLOWER.encode(membership.roll().secret().as_bytes());
    assert!(text.contains("ClusterSecret(..)") && !text.contains(&secret), "{text}");
    assert!(text.contains("Kept { id") && !text.contains("secret:"), "{text}");
}

proptest! {
    #[test]
    fn any_file_is_read_without_panic(content in proptest::collection::vec(any::<u8>(), 0..300)) {
        let directory = Directory::new();
        let body = [&b"shoal membership 1\n"[..], &content].concat();
        let sum = blake3::hash(&body);
        fs::write(file(&directory), [&body[..], &sum.as_bytes()[..8]].concat()).unwrap();
        let _ = load(&directory);
    }
}
