//! Rolls agree in whatever order they meet, and nothing else is a roll.

use proptest::prelude::*;

use super::*;
use crate::control;

const CLUSTER: ClusterId = ClusterId([7; 16]);

fn node(byte: u8) -> NodeId {
    NodeId([byte; 32])
}

fn secret(byte: u8) -> ClusterSecret {
    ClusterSecret::from_bytes([byte; 32])
}

fn merged(a: &Roll, b: &Roll) -> Roll {
    let mut roll = a.clone();
    roll.merge(b);
    roll
}

#[test]
fn a_revoked_node_is_no_member_until_it_is_admitted_again() {
    let mut roll = Roll::new(CLUSTER, secret(1), node(1));
    assert!(roll.admit(node(2)) && !roll.admit(node(2)));
    assert!(roll.is_member(node(2)) && !roll.is_revoked(node(2)));
    roll.revoke(node(2), secret(2)).unwrap();
    assert!(!roll.is_member(node(2)) && roll.is_revoked(node(2)));
    assert_eq!((roll.generation(), roll.secret()), (2, &secret(2)));
    assert_eq!(roll.members().collect::<Vec<_>>(), [node(1)]);
    assert!(roll.admit(node(2)));
    assert!(roll.is_member(node(2)) && !roll.is_revoked(node(2)));
}

#[test]
fn a_node_that_was_never_met_can_be_revoked() {
    let mut roll = Roll::new(CLUSTER, secret(1), node(1));
    assert!(!roll.is_revoked(node(9)) && !roll.is_member(node(9)));
    roll.revoke(node(9), secret(2)).unwrap();
    assert!(roll.is_revoked(node(9)) && !roll.is_member(node(9)));
}

#[test]
fn only_the_last_secrets_are_kept() {
    let mut roll = Roll::new(CLUSTER, secret(1), node(1));
    for byte in 2..=9 {
        roll.revoke(node(byte), secret(byte)).unwrap();
    }
    let kept: Vec<_> = roll.secrets().copied().collect();
    assert_eq!(kept, [9, 8, 7, 6, 5].map(secret));
}

#[test]
fn of_two_secrets_of_one_generation_the_greater_wins_and_the_other_is_kept() {
    let start = Roll::new(CLUSTER, secret(1), node(1));
    let (mut a, mut b) = (start.clone(), start);
    a.revoke(node(5), secret(3)).unwrap();
    b.revoke(node(6), secret(2)).unwrap();
    let both = merged(&a, &b);
    assert_eq!(both, merged(&b, &a));
    assert_eq!((both.generation(), both.secret()), (2, &secret(3)));
    assert_eq!(both.secrets().copied().collect::<Vec<_>>(), [3, 2, 1].map(secret));
    assert!(both.is_revoked(node(5)) && both.is_revoked(node(6)));
}

#[test]
fn the_roll_of_another_cluster_changes_nothing() {
    let mut roll = Roll::new(CLUSTER, secret(1), node(1));
    let before = roll.clone();
    let mut other = Roll::new(ClusterId([8; 16]), secret(2), node(2));
    other.revoke(node(1), secret(3)).unwrap();
    assert!(!roll.merge(&other));
    assert_eq!(roll, before);
}

#[test]
fn a_full_list_keeps_the_latest_generations() {
    let entry = |i: u32, generation| {
        let mut id = [0; 32];
        id[..4].copy_from_slice(&i.to_be_bytes());
        (NodeId(id), generation)
    };
    let old: Vec<_> = (0..256).map(|i| entry(i, 1)).collect();
    let new = [entry(1000, 2), entry(3, 2)];
    let kept = strongest(&old, &new, MAX_NODES);
    assert_eq!(kept.len(), MAX_NODES);
    assert!(new.iter().all(|entry| kept.contains(entry)));
    assert!(!kept.contains(&entry(0, 1)), "the least of the oldest generation goes");
}

#[test]
fn the_last_generation_has_no_successor() {
    let mut roll = Roll::new(CLUSTER, secret(1), node(1));
    roll.secrets[0].0 = MAX_GENERATION;
    let error = roll.revoke(node(2), secret(2)).unwrap_err();
    assert!(matches!(error, RollError::Generation { .. }), "{error:?}");
    assert!(!roll.is_revoked(node(2)));
}

#[test]
fn a_roll_that_makes_no_sense_does_not_decode() {
    let mut roll = Roll::new(CLUSTER, secret(1), node(1));
    roll.revoke(node(2), secret(2)).unwrap();
    type Break = fn(&mut Roll);
    let breaks: [(&str, Break); 8] = [
        ("no secret", |roll| roll.secrets.clear()),
        ("too many secrets", |roll| roll.secrets = (1..=6).rev().map(|g| (g, secret(1))).collect()),
        ("secrets in ascending order", |roll| roll.secrets.reverse()),
        ("a secret twice", |roll| roll.secrets[1] = roll.secrets[0]),
        ("a generation without end", |roll| roll.secrets[0].0 = u64::MAX),
        ("admitted in the future", |roll| roll.admitted[0].1 = 3),
        ("revoked twice", |roll| roll.revoked.push(roll.revoked[0])),
        ("too many nodes", |roll| {
            roll.admitted = (0..=256_u16)
                .map(|i| (NodeId(std::array::from_fn(|at| i.to_be_bytes()[at.min(1)])), 1))
                .collect();
        }),
    ];
    assert_eq!(control::decode::<Roll>(&control::encode(&roll)), Ok(roll.clone()));
    for (what, break_it) in breaks {
        let mut broken = roll.clone();
        break_it(&mut broken);
        let decoded = control::decode::<Roll>(&control::encode(&broken));
        assert!(decoded.is_err(), "{what}");
    }
}

#[test]
fn a_roll_hides_its_secrets_in_logs() {
    let text = format!("{:?}", Roll::new(CLUSTER, secret(0xab), node(1)));
    assert!(text.contains("ClusterSecret(..)") && !text.contains("171"), "{text}");
}

#[test]
fn the_bytes_of_a_roll_are_frozen() {
    let mut roll = Roll::new(CLUSTER, secret(1), node(2));
    roll.revoke(node(3), secret(4)).unwrap();
    let expected = [
        &[control::VERSION][..],
        &[7; 16],
        &[2, 2],
        &[4; 32],
        &[1],
        &[1; 32],
        &[1],
        &[2; 32],
        &[1, 1],
        &[3; 32],
        &[2],
    ]
    .concat();
    assert_eq!(control::encode(&roll), expected);
}

/// A roll of few nodes and generations, so that rolls often disagree.
fn any_roll() -> impl Strategy<Value = Roll> {
    let entries = || proptest::collection::btree_map(0_u8..6, 1_u64..6, 0..6);
    let secrets = proptest::collection::btree_set((1_u64..6, 0_u8..3), 1..=1 + MAX_PREVIOUS);
    (secrets, entries(), entries()).prop_map(|(secrets, admitted, revoked)| {
        let secrets: Vec<_> = secrets.into_iter().rev().map(|(g, s)| (g, secret(s))).collect();
        let generation = secrets[0].0;
        let entries = |map: std::collections::BTreeMap<u8, u64>| {
            map.into_iter().map(|(id, g)| (node(id), g.min(generation))).collect()
        };
        let (admitted, revoked) = (entries(admitted), entries(revoked));
        Roll { cluster: CLUSTER, secrets, admitted, revoked }
    })
}

fn any_entries() -> impl Strategy<Value = Vec<Entry>> {
    let entries = proptest::collection::btree_map(0_u8..9, 1_u64..6, 0..9);
    entries.prop_map(|map| {
        strongest(&map.into_iter().map(|(id, g)| (node(id), g)).collect::<Vec<_>>(), &[], 4)
    })
}

proptest! {
    #[test]
    fn rolls_agree_in_any_order(a in any_roll(), b in any_roll(), c in any_roll()) {
        prop_assert_eq!(merged(&a, &b), merged(&b, &a));
        prop_assert_eq!(merged(&merged(&a, &b), &c), merged(&a, &merged(&b, &c)));
        prop_assert_eq!(merged(&a, &a), a.clone());
        let mut ab = merged(&a, &b);
        prop_assert!(!ab.merge(&a) && !ab.merge(&b), "nothing new is left");
        prop_assert_eq!(control::decode(&control::encode(&ab)), Ok(ab));
    }

    #[test]
    fn bounded_lists_agree_in_any_order(a in any_entries(), b in any_entries(), c in any_entries()) {
        let join = |a: &[Entry], b: &[Entry]| strongest(a, b, 4);
        prop_assert_eq!(join(&a, &b), join(&b, &a));
        prop_assert_eq!(join(&join(&a, &b), &c), join(&a, &join(&b, &c)));
        prop_assert_eq!(join(&a, &a), a);
    }

    #[test]
    fn arbitrary_bytes_never_panic(mut bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        if let Some(first) = bytes.first_mut() {
            *first = control::VERSION;
        }
        let _ = control::decode::<Roll>(&bytes);
    }
}
