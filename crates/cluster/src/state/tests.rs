//! The state machine alone; whole clusters are simulated in `tests/simulation.rs`.

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
        id: id(byte),
        version,
        run: version,
        name: format!("node {byte}"),
        addrs: vec![SocketAddr::from(([127, 0, 0, 1], u16::from(byte)))],
        software: String::new(),
        isa: String::new(),
        memory_bytes: 0,
        profile: None,
        models: Vec::new(),
        stages: Vec::new(),
        links: Vec::new(),
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
