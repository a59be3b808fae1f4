//! The state machine alone; whole clusters are simulated in `tests/simulation`.

use std::time::Duration;

use shoal_proto::{
    Epoch, LayerRange,
    control::{ModelRef, Phase, Placement, Stage},
};

use super::*;

fn id(byte: u8) -> NodeId {
    NodeId([byte; 32])
}

fn record(byte: u8, version: u64) -> NodeRecord {
    NodeRecord {
        version,
        run: version,
        name: format!("node {byte}"),
        addrs: vec![SocketAddr::from(([127, 0, 0, 1], u16::from(byte)))],
        ..NodeRecord::unknown(id(byte))
    }
}

fn instance(epoch: u64, first_node: u8) -> InstanceRecord {
    let layers = LayerRange::new(0, 4).expect("not empty");
    InstanceRecord {
        id: InstanceId(1),
        epoch: Epoch(epoch),
        phase: Phase::Ready,
        model: ModelRef { name: "demo".into(), files: None, fingerprint: [0; 32], n_layer: 4 },
        placement: Placement { stages: vec![Stage { node: id(first_node), layers }] },
        n_ctx: 64,
        unload_after_s: None,
    }
}

fn ms(ms: u64) -> Time {
    Duration::from_millis(ms)
}

fn connected_state() -> State {
    let mut state = State::new(id(1), 7, Timing::default());
    state.apply(Event::Record(record(2, 1)), ms(0));
    state.apply(Event::Connected(id(2)), ms(0));
    state
}

#[test]
fn silence_makes_a_peer_suspect_and_then_dead() {
    let mut state = connected_state();
    for (at, expected) in [
        (0, Liveness::Alive),
        (1499, Liveness::Alive),
        (1500, Liveness::Suspect),
        (4999, Liveness::Suspect),
        (5000, Liveness::Dead),
    ] {
        // Nobody asks it more seldom than once a second, unless it sleeps.
        (0..at).step_by(500).for_each(|before| drop(state.plan(ms(before))));
        assert_eq!(state.liveness(id(2), ms(at)), expected, "after {at} ms");
    }
}

#[test]
fn a_reset_is_death_at_once_and_a_lost_link_is_not() {
    let mut state = connected_state();
    state.apply(Event::Disconnected { node: id(2), certain: false }, ms(100));
    assert_eq!(state.liveness(id(2), ms(100)), Liveness::Alive);
    state.apply(Event::Disconnected { node: id(2), certain: true }, ms(200));
    assert_eq!(state.liveness(id(2), ms(200)), Liveness::Dead);
}

#[test]
fn a_peer_that_is_heard_again_is_alive_again() {
    let mut state = connected_state();
    state.apply(Event::Heard(id(2)), ms(9000));
    assert_eq!(state.liveness(id(2), ms(9001)), Liveness::Alive);
}

#[test]
fn sends_one_heartbeat_a_second_to_connected_peers() {
    let mut state = connected_state();
    let n = (0..10_000).step_by(100).filter(|&at| !state.plan(ms(at)).is_empty()).count();
    assert_eq!(n, 10);
}

#[test]
fn redials_with_growing_pauses_up_to_a_bound() {
    let mut state = State::new(id(1), 7, Timing::default());
    state.apply(Event::Record(record(2, 1)), ms(0));
    let mut dials = Vec::new();
    for at in (0..60_000).step_by(50) {
        for action in state.plan(ms(at)) {
            assert!(matches!(action, Action::Dial { node, .. } if node == id(2)));
            dials.push(at);
            state.apply(Event::DialFailed(id(2)), ms(at));
        }
    }
    let pauses: Vec<u64> = dials.windows(2).map(|pair| pair[1] - pair[0]).collect();
    assert_eq!(pauses[..6], [250, 500, 1000, 2000, 4000, 8000]);
    assert!(pauses[6..].iter().all(|&pause| pause == 8000));
}

#[test]
fn a_new_address_is_dialled_at_once() {
    let mut state = State::new(id(1), 7, Timing::default());
    state.apply(Event::Record(record(2, 1)), ms(0));
    assert_eq!(state.plan(ms(0)).len(), 1);
    assert_eq!(state.plan(ms(10)), []);
    let moved = NodeRecord { addrs: vec![([127, 0, 0, 1], 99).into()], ..record(2, 2) };
    state.apply(Event::Record(moved.clone()), ms(20));
    assert_eq!(state.plan(ms(20)), [], "not twice within a moment");
    assert_eq!(state.plan(ms(250)), [Action::Dial { node: id(2), addrs: moved.addrs }]);
}

#[test]
fn only_a_newer_record_replaces_a_record() {
    let mut state = connected_state();
    assert!(!state.apply(Event::Record(record(2, 1)), ms(1)));
    assert!(state.apply(Event::Record(record(2, 2)), ms(1)));
    assert!(!state.apply(Event::Record(record(1, 9)), ms(1)), "nobody else writes this node's");
}

#[test]
fn nodes_agree_on_a_placement_whatever_the_order() {
    let newest = InstanceRecord { phase: Phase::Ready, ..instance(2, 3) };
    let loading = InstanceRecord { phase: Phase::Loading, ..newest.clone() };
    for order in [[0, 1, 2], [2, 1, 0], [1, 0, 2], [1, 2, 0]] {
        let records = [instance(1, 5), newest.clone(), loading.clone()];
        let mut state = State::new(id(1), 7, Timing::default());
        for i in order {
            state.apply(Event::Instance(records[i].clone()), ms(0));
        }
        assert_eq!(state.instance(InstanceId(1)), Some(&newest), "{order:?}");
    }
}

#[test]
fn a_placement_that_does_not_cover_the_model_is_not_believed() {
    let mut state = State::new(id(1), 7, Timing::default());
    let mut record = instance(1, 3);
    record.model.n_layer = 5;
    assert!(!state.apply(Event::Instance(record), ms(0)));
}

#[test]
fn gossip_cannot_fill_the_memory() {
    let mut state = State::new(id(1), 7, Timing::default());
    for i in 0..10_000u32 {
        let mut record = record(2, 1);
        record.id.0[..4].copy_from_slice(&i.to_le_bytes());
        state.apply(Event::Record(record), ms(0));
    }
    assert_eq!(state.members().count(), MEMBERS_MAX);
}

/// Asks every 200 ms what to do. Returns what is not a heartbeat.
fn plan_until(state: &mut State, from: u64, until: u64) -> Vec<(u64, Action)> {
    let mut all = Vec::new();
    for at in (from..until).step_by(200) {
        let actions = state.plan(ms(at)).into_iter();
        all.extend(actions.filter(|it| !matches!(it, Action::Heartbeat(_))).map(|it| (at, it)));
    }
    all
}

fn port(port: u16) -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], port))
}

fn heartbeat(node: u8, record_version: u64, instances: u64) -> Event {
    let vitals = Vitals { free_bytes: 5, ..Vitals::default() };
    Event::Heartbeat { node: id(node), record_version, instances, vitals }
}

#[test]
fn a_hint_is_dialled_first_and_makes_a_member() {
    let mut state = State::new(id(1), 7, Timing::default());
    let hint = |port_of| Event::Hint { node: id(2), addrs: vec![port(port_of)] };
    assert!(state.apply(hint(50), ms(0)));
    assert_eq!(state.plan(ms(0)), [Action::Dial { node: id(2), addrs: vec![port(50)] }]);
    assert!(state.is_looking(ms(0)));
    assert!(state.apply(Event::Record(record(2, 1)), ms(10)), "any record is newer");
    for i in 60..80 {
        state.apply(hint(i), ms(20));
    }
    let actions = state.plan(ms(300));
    let [Action::Dial { addrs, .. }] = actions.as_slice() else { panic!("{actions:?}") };
    assert_eq!((addrs[0], addrs.len()), (port(79), 9), "the newest hints, and its own address");
    assert!(!state.apply(Event::Hint { node: id(1), addrs: vec![port(1)] }, ms(300)), "itself");
    state.apply(Event::Connected(id(2)), ms(310));
    assert!(!state.is_looking(ms(310)));
}

#[test]
fn hints_of_one_place_do_not_start_a_dial_each() {
    let mut state = State::new(id(1), 7, Timing::default());
    let mut n_dials = 0;
    for at in (0..10_000).step_by(100) {
        state.apply(Event::Hint { node: id(2), addrs: vec![port(50)] }, ms(at));
        n_dials += state.plan(ms(at)).len();
    }
    assert_eq!(n_dials, 10);
}

#[test]
fn two_missed_heartbeats_start_a_dial_beside_the_connection() {
    let mut state = connected_state();
    let dials = plan_until(&mut state, 0, 3000);
    assert_eq!(dials, [(2000, Action::Dial { node: id(2), addrs: record(2, 1).addrs })]);
}

#[test]
fn new_addresses_of_its_own_redial_everybody_once() {
    let mut state = connected_state();
    assert_eq!(plan_until(&mut state, 0, 400), []);
    state.apply(Event::AddressesChanged, ms(500));
    assert_eq!(plan_until(&mut state, 600, 1400).len(), 1);
}

#[test]
fn a_peer_that_ends_every_connection_is_dialled_ever_less() {
    let mut state = State::new(id(1), 7, Timing::default());
    state.apply(Event::Record(record(2, 1)), ms(0));
    let mut n_dials = 0;
    for at in (0..60_000).step_by(100) {
        if state.plan(ms(at)).iter().any(|action| matches!(action, Action::Dial { .. })) {
            n_dials += 1;
            state.apply(Event::Connected(id(2)), ms(at));
            state.apply(Event::Disconnected { node: id(2), certain: false }, ms(at + 10));
        }
    }
    assert!(n_dials < 15, "{n_dials}");
}

#[test]
fn a_connection_that_lasted_ends_the_long_pauses() {
    let mut state = State::new(id(1), 7, Timing::default());
    state.apply(Event::Record(record(2, 1)), ms(0));
    for _ in 0..20 {
        state.apply(Event::DialFailed(id(2)), ms(0));
    }
    state.apply(Event::Connected(id(2)), ms(0));
    for at in (0..3000).step_by(200) {
        state.plan(ms(at));
        state.apply(Event::Heard(id(2)), ms(at));
    }
    state.apply(Event::DialFailed(id(2)), ms(3000));
    state.apply(Event::Disconnected { node: id(2), certain: false }, ms(3000));
    assert!(matches!(state.plan(ms(3000)).as_slice(), [Action::Dial { .. }]));
    state.apply(Event::DialFailed(id(2)), ms(3100));
    assert_eq!(state.plan(ms(3349)), []);
    assert!(matches!(state.plan(ms(3350)).as_slice(), [Action::Dial { .. }]));
}

#[test]
fn differences_are_exchanged_at_once_and_then_ever_less() {
    let mut state = connected_state();
    let same = state.instances_digest();
    state.apply(heartbeat(2, 1, same), ms(0));
    assert_eq!(plan_until(&mut state, 0, 1000), []);
    assert_eq!(state.vitals(id(2)).map(|vitals| vitals.free_bytes), Some(5));
    state.apply(heartbeat(2, 2, same), ms(1000));
    assert_eq!(state.plan(ms(1000)), [Action::Heartbeat(id(2)), Action::Sync(id(2))]);
    let mut n_syncs = 0;
    for at in (2000..302_000).step_by(1000) {
        state.apply(heartbeat(2, 1, same + 1), ms(at));
        n_syncs += plan_until(&mut state, at, at + 1000).len();
    }
    assert!((8..20).contains(&n_syncs), "{n_syncs}");
}

#[test]
fn who_left_is_forgotten() {
    let mut state = connected_state();
    assert!(state.apply(Event::Left(id(2)), ms(10)));
    assert_eq!(state.members().count(), 0);
    assert_eq!(state.liveness(id(2), ms(10)), Liveness::Dead);
}

#[test]
fn its_own_sleep_is_no_silence_of_others() {
    let mut state = connected_state();
    assert_eq!(plan_until(&mut state, 0, 1000), []);
    let woke = 3_600_000;
    assert_eq!(state.liveness(id(2), ms(woke)), Liveness::Suspect);
    let dials = plan_until(&mut state, woke, woke + 2000);
    assert!(matches!(dials.as_slice(), [(_, Action::Dial { .. })]), "looks for all: {dials:?}");
    assert_eq!(state.liveness(id(2), ms(woke + 2000)), Liveness::Suspect);
    plan_until(&mut state, woke + 2000, woke + 5000);
    assert_eq!(state.liveness(id(2), ms(woke + 5000)), Liveness::Dead, "but this is");
}

#[test]
fn outranks_its_earlier_lives_and_notices_a_copy() {
    let own = |run, version| Event::Record(NodeRecord { run, ..record(1, version) });
    let mut state = State::new(id(1), 7, Timing::default());
    state.apply(own(7, 100), ms(0));
    assert_eq!(state.own_version_floor(), 0, "its own record comes back by way of others");
    state.apply(own(3, 500), ms(0));
    assert_eq!(state.own_version_floor(), 501);
    state.apply(own(3, 500), ms(0));
    assert_eq!(state.duplicate_seen(), None);
    for version in [502, 504, 506] {
        state.apply(own(3, version), ms(0));
    }
    assert_eq!((state.own_version_floor(), state.duplicate_seen()), (507, Some(3)));
}

mod instances;
mod moves;
