//! Nodes that drain, suspects, and a node that starts again.

use shoal_proto::control::{DrainCause, StageRecord};

use super::{
    instances::{placed, three},
    *,
};

/// Hears the nodes every second, and plans.
fn run(state: &mut State, from: u64, until: u64, nodes: &[u8]) -> Vec<Action> {
    let mut all = Vec::new();
    for at in (from..until).step_by(1000) {
        for &node in nodes {
            state.apply(Event::Heard(id(node)), ms(at));
        }
        all.extend(plan_until(state, at, at + 1000));
    }
    let of_interest = |action: &Action| {
        matches!(action, Action::Heal { .. } | Action::Move { .. } | Action::Prepare { .. })
    };
    all.into_iter().map(|(_, action)| action).filter(of_interest).collect()
}

/// What node 1 publishes while it runs its stage of the first placement.
fn own_record() -> NodeRecord {
    let layers = LayerRange::new(0, 2).expect("two");
    let (instance, epoch) = (InstanceId(1), Epoch(1 << 24));
    let stages = vec![StageRecord { instance, epoch, layers, n_bytes: 0 }];
    NodeRecord { run: 7, stages, ..record(1, 2) }
}

fn draining(node: u8, version: u64) -> Event {
    Event::Record(NodeRecord { draining: Some(DrainCause::Asked), ..record(node, version) })
}

#[test]
fn an_instance_leaves_a_node_that_drains_and_not_twice() {
    let mut state = three();
    state.apply(Event::Instance(placed(1, Phase::Ready, &[1, 2])), ms(0));
    assert_eq!(run(&mut state, 0, 3000, &[2, 3]), []);
    state.apply(draining(2, 2), ms(3000));
    let moves = run(&mut state, 3000, 7000, &[2, 3]);
    let [Action::Move { instance, epoch, leaving }] = moves.as_slice() else { panic!("{moves:?}") };
    assert_eq!((*instance, leaving.as_slice()), (InstanceId(1), &[id(2)][..]));
    assert!(*epoch > Epoch(1 << 24));
    // Nobody could take it: later again, ever more rarely.
    assert_eq!(run(&mut state, 7000, 60_000, &[2, 3]).len(), 3);
    let elsewhere = InstanceRecord { epoch: *epoch, ..placed(1, Phase::Ready, &[1, 3]) };
    let elsewhere = InstanceRecord { epoch: Epoch(elsewhere.epoch.0 << 8), ..elsewhere };
    state.apply(Event::Instance(elsewhere), ms(60_000));
    state.apply(Event::Record(record(2, 3)), ms(60_000));
    assert_eq!(run(&mut state, 60_000, 63_000, &[2, 3]), []);
}

#[test]
fn only_the_coordinator_moves_and_only_what_runs() {
    let moves = |phase, nodes: &[u8]| {
        let mut state = three();
        state.apply(Event::Instance(placed(1, phase, nodes)), ms(0));
        state.apply(draining(2, 2), ms(0));
        run(&mut state, 0, 3000, &[2, 3]).len()
    };
    assert_eq!(moves(Phase::Ready, &[1, 2]), 1);
    assert_eq!(moves(Phase::Ready, &[3, 2]), 0, "node 3 does");
    assert_eq!(moves(Phase::Ready, &[1, 3]), 0, "nothing is there");
    assert_eq!(moves(Phase::Failed("no".into()), &[1, 2]), 0);
}

#[test]
fn a_node_that_drains_moves_what_it_coordinates_itself() {
    let mut state = three();
    state.apply(Event::Instance(placed(1, Phase::Ready, &[1, 2])), ms(0));
    let own = NodeRecord { draining: Some(DrainCause::Ending), ..own_record() };
    state.apply(Event::Record(own), ms(0));
    let moves = run(&mut state, 0, 3000, &[2, 3]);
    let [Action::Move { leaving, .. }] = moves.as_slice() else { panic!("{moves:?}") };
    assert_eq!(*leaving, [id(1)]);
}

#[test]
fn others_are_made_ready_for_a_suspect_once() {
    let mut state = three();
    state.apply(Event::Instance(placed(1, Phase::Ready, &[1, 2])), ms(0));
    assert_eq!(run(&mut state, 0, 3000, &[2, 3]), []);
    let actions = run(&mut state, 3000, 6000, &[3]);
    assert_eq!(actions, [Action::Prepare { instance: InstanceId(1), without: vec![id(2)] }]);
    // It comes back, and stalls again: they still are.
    assert_eq!(run(&mut state, 6000, 9000, &[2, 3]), []);
    assert_eq!(run(&mut state, 9000, 12_000, &[3]), []);
    assert!(matches!(run(&mut state, 12_000, 20_000, &[3])[0], Action::Heal { .. }));
}

#[test]
fn the_first_that_is_no_suspect_makes_others_ready() {
    let mut state = three();
    state.apply(Event::Instance(placed(1, Phase::Ready, &[2, 1])), ms(0));
    run(&mut state, 0, 3000, &[2, 3]);
    let actions = run(&mut state, 3000, 6000, &[3]);
    assert_eq!(actions, [Action::Prepare { instance: InstanceId(1), without: vec![id(2)] }]);
    let mut state = three();
    state.apply(Event::Instance(placed(1, Phase::Ready, &[2, 3])), ms(0));
    run(&mut state, 0, 3000, &[2, 3]);
    assert_eq!(run(&mut state, 3000, 6000, &[3]), [], "node 3 does");
}

/// Node 1 as it starts again: it and node 2 hold an instance, node 3 is another member.
fn started_again() -> State {
    let mut state = State::new(id(1), 7, Timing::default());
    for node in [2, 3] {
        state.apply(Event::Record(record(node, 1)), ms(0));
    }
    state.restore(vec![placed(1, Phase::Ready, &[1, 2])], ms(0));
    assert_eq!(state.instances().count(), 1);
    state.apply(Event::Record(own_record()), ms(0));
    state
}

#[test]
fn a_node_that_starts_again_gives_the_others_time_to_start() {
    let mut state = started_again();
    assert_eq!(run(&mut state, 0, 10_000, &[]), []);
    let actions = run(&mut state, 10_000, 12_000, &[]);
    assert!(matches!(&actions[0], Action::Heal { lost, .. } if *lost == [id(2)]), "{actions:?}");
}

#[test]
fn a_node_that_starts_again_mends_at_once_what_it_sees_lost() {
    let mut state = started_again();
    for node in [2, 3] {
        state.apply(Event::Connected(id(node)), ms(0));
    }
    assert_eq!(run(&mut state, 0, 2000, &[2, 3]), []);
    // Silence from here on is death after five seconds.
    assert_eq!(run(&mut state, 2000, 5500, &[3]), []);
    let actions = run(&mut state, 5500, 8000, &[3]);
    assert!(matches!(&actions[0], Action::Heal { lost, .. } if *lost == [id(2)]), "{actions:?}");
    // A stage whose end was told needs no silence.
    let mut state = started_again();
    let lost = Event::StageLost { instance: InstanceId(1), epoch: Epoch(1 << 24), node: id(2) };
    state.apply(lost, ms(500));
    let actions = run(&mut state, 500, 1500, &[2, 3]);
    assert!(matches!(&actions[0], Action::Heal { lost, .. } if *lost == [id(2)]), "{actions:?}");
}

#[test]
fn who_joins_makes_a_heal_in_vain_be_tried_again_soon() {
    let mut state = three();
    state.apply(Event::Instance(placed(1, Phase::Ready, &[1, 2])), ms(0));
    // Node 2 dies, and nobody can take its layers: the pauses grow.
    let heals = |state: &mut State, from, until, nodes: &[u8]| {
        let actions = run(state, from, until, nodes);
        actions.iter().filter(|it| matches!(it, Action::Heal { .. })).count()
    };
    assert_eq!(heals(&mut state, 0, 40_000, &[3]), 3);
    state.apply(Event::Record(record(4, 1)), ms(41_000));
    state.apply(Event::Connected(id(4)), ms(41_000));
    assert_eq!(heals(&mut state, 41_000, 44_000, &[3, 4]), 1);
}

#[test]
fn work_that_was_given_up_is_taken_up_again() {
    let mut state = three();
    let epoch = state.reserve_epoch(InstanceId(1));
    let loading = InstanceRecord { epoch, ..placed(1, Phase::Loading, &[2, 3]) };
    state.apply(Event::Instance(loading), ms(0));
    assert_eq!(run(&mut state, 0, 3000, &[2, 3]), [], "it is at work");
    let given_up = Event::GivenUp { instance: InstanceId(1), epoch };
    assert!(state.apply(given_up.clone(), ms(3000)) && !state.apply(given_up, ms(3000)));
    let actions = run(&mut state, 3000, 5000, &[2, 3]);
    assert!(matches!(&actions[0], Action::Heal { lost, .. } if lost.is_empty()), "{actions:?}");
}

#[test]
fn a_stage_that_an_earlier_life_took_is_lost_at_once() {
    // What node 1's earlier life took over just before its end is not on its disk: only the others know of it.
    let newer = |nodes: &[u8]| Event::Instance(placed(2, Phase::Ready, nodes));
    let mut state = started_again();
    state.apply(newer(&[1, 3]), ms(500));
    let actions = run(&mut state, 500, 1500, &[2, 3]);
    assert!(matches!(&actions[0], Action::Heal { lost, .. } if *lost == [id(1)]), "{actions:?}");

    // Who coordinates it is told as soon as it can be, and once.
    let told = |state: &mut State, from| {
        let plan = plan_until(state, from, from + 2000);
        let told = plan.into_iter().filter(|(_, it)| matches!(it, Action::TellLost { .. }));
        told.map(|(_, action)| action).collect::<Vec<_>>()
    };
    let mut state = started_again();
    state.apply(newer(&[3, 1]), ms(500));
    assert_eq!(told(&mut state, 500), []);
    state.apply(Event::Connected(id(3)), ms(2500));
    let (instance, epoch, coordinator) = (InstanceId(1), Epoch(2 << 24), id(3));
    assert_eq!(told(&mut state, 2500), [Action::TellLost { instance, epoch, coordinator }]);

    // What it kept is taken up again, and what is not ready yet may still come.
    let mut state = started_again();
    state.apply(Event::Record(NodeRecord { run: 7, ..record(1, 3) }), ms(0));
    assert_eq!(run(&mut state, 0, 3000, &[2, 3]), []);
    state.apply(Event::Instance(placed(2, Phase::Loading, &[1, 3])), ms(3000));
    assert_eq!(run(&mut state, 3000, 6000, &[2, 3]), []);
}
