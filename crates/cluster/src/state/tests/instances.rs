//! Instances: whose word counts, who mends what, and with which epoch.

use shoal_proto::control::StageRecord;

use super::*;

/// A placement over nodes, two layers each.
pub(super) fn placed(epoch: u64, phase: Phase, nodes: &[u8]) -> InstanceRecord {
    let stages = nodes.iter().zip(0..).map(|(&node, i)| Stage {
        node: id(node),
        layers: LayerRange::new(2 * i, 2 * i + 2).expect("two"),
    });
    let placement = Placement { stages: stages.collect() };
    let mut record = InstanceRecord { phase, placement, ..instance(epoch << 24, 1) };
    record.model.n_layer = 2 * u32::try_from(nodes.len()).expect("few");
    record
}

/// Node 1 of three that have just heard each other.
pub(super) fn three() -> State {
    let mut state = State::new(id(1), 7, Timing::default());
    for node in [2, 3] {
        state.apply(Event::Record(record(node, 1)), ms(0));
        state.apply(Event::Connected(id(node)), ms(0));
    }
    state
}

/// Hears the nodes every second, and plans.
fn run(state: &mut State, from: u64, until: u64, nodes: &[u8]) -> Vec<(u64, Action)> {
    let mut all = Vec::new();
    for at in (from..until).step_by(1000) {
        for &node in nodes {
            state.apply(Event::Heard(id(node)), ms(at));
        }
        all.extend(plan_until(state, at, at + 1000));
    }
    all.retain(|(_, action)| matches!(action, Action::Heal { .. }));
    all
}

#[track_caller]
fn heal_of(action: &Action) -> (Epoch, Vec<NodeId>) {
    match action {
        Action::Heal { epoch, lost, .. } => (*epoch, lost.clone()),
        other => panic!("{other:?}"),
    }
}

#[test]
fn the_first_stage_that_is_not_dead_coordinates() {
    let mut state = three();
    state.apply(Event::Instance(placed(1, Phase::Ready, &[3, 2])), ms(0));
    let of = |state: &State, at| state.coordinator(InstanceId(1), ms(at));
    run(&mut state, 0, 3000, &[2]);
    assert_eq!(of(&state, 3000), Some(id(3)), "a suspect still counts");
    run(&mut state, 3000, 6000, &[2]);
    assert_eq!(of(&state, 6000), Some(id(2)));
    run(&mut state, 6000, 12_000, &[]);
    assert_eq!(of(&state, 12_000), Some(id(1)), "the lowest that lives");
    assert_eq!(state.coordinator(InstanceId(2), ms(0)), None);
}

#[test]
fn a_loss_is_mended_once_and_again_only_if_nothing_came_of_it() {
    let mut state = three();
    state.apply(Event::Instance(placed(1, Phase::Ready, &[1, 3])), ms(0));
    let heals = run(&mut state, 0, 40_000, &[2]);
    let times: Vec<u64> = heals.iter().map(|(at, _)| at / 1000).collect();
    assert_eq!(times, [5, 10, 20]);
    let epochs: Vec<Epoch> = heals.iter().map(|(_, action)| heal_of(action).0).collect();
    assert!(epochs.is_sorted_by(|a, b| a < b) && epochs[0] > Epoch(1 << 24), "{epochs:?}");
    assert!(heals.iter().all(|(_, action)| heal_of(action).1 == [id(3)]));
    let mended = InstanceRecord { epoch: epochs[2], ..placed(1, Phase::Ready, &[1, 2]) };
    state.apply(Event::Instance(mended), ms(40_000));
    assert_eq!(run(&mut state, 40_000, 80_000, &[2]), []);
}

#[test]
fn only_the_coordinator_mends() {
    let mut state = three();
    state.apply(Event::Instance(placed(1, Phase::Ready, &[2, 3])), ms(0));
    assert_eq!(run(&mut state, 0, 30_000, &[2]), []);
}

#[test]
fn a_goodbye_is_mended_when_no_dial_disproves_it() {
    for (comes_back, expected) in [(false, 1), (true, 0)] {
        let mut state = three();
        state.apply(Event::Instance(placed(1, Phase::Ready, &[1, 3])), ms(0));
        state.apply(Event::Disconnected { node: id(3), certain: true }, ms(0));
        assert_eq!(run(&mut state, 0, 1000, &[2]), [], "not at once");
        if comes_back {
            state.apply(Event::Connected(id(3)), ms(1000));
        }
        assert_eq!(run(&mut state, 1000, 3000, &[2]).len(), expected);
    }
}

#[test]
fn the_end_of_a_process_is_mended_at_once_and_a_new_one_is_welcome() {
    let mut state = three();
    state.apply(Event::Instance(placed(1, Phase::Ready, &[1, 3])), ms(0));
    state.apply(Event::Gone(id(3)), ms(100));
    assert_eq!(state.liveness(id(3), ms(100)), Liveness::Dead);
    let heals: Vec<Action> = plan_until(&mut state, 100, 101).into_iter().map(|it| it.1).collect();
    assert!(heals.iter().any(|action| matches!(action, Action::Heal { .. })), "{heals:?}");
    state.apply(Event::Heard(id(3)), ms(200));
    assert_eq!(state.liveness(id(3), ms(200)), Liveness::Alive);
}

#[test]
fn a_runners_crash_is_mended_and_says_nothing_about_its_node() {
    let mut state = three();
    state.apply(Event::Instance(placed(2, Phase::Ready, &[1, 3])), ms(0));
    let lost = |epoch: u64, node| Event::StageLost {
        instance: InstanceId(1),
        epoch: Epoch(epoch << 24),
        node: id(node),
    };
    assert!(!state.apply(lost(1, 3), ms(0)), "an epoch that is over");
    assert!(!state.apply(lost(2, 2), ms(0)), "a node that runs none of it");
    assert!(state.apply(lost(2, 3), ms(0)));
    assert_eq!(state.liveness(id(3), ms(0)), Liveness::Alive);
    let heals = run(&mut state, 0, 1000, &[2, 3]);
    assert_eq!(heal_of(&heals[0].1).1, [id(3)]);
}

#[test]
fn a_node_that_came_back_without_its_stage_is_noticed() {
    for (runs_it, expected) in [(true, 0), (false, 1)] {
        let mut state = three();
        state.apply(Event::Instance(placed(1, Phase::Ready, &[1, 3])), ms(0));
        let mut restarted = record(3, 2);
        if runs_it {
            let layers = LayerRange::new(2, 4).expect("two");
            let (instance, epoch) = (InstanceId(1), Epoch(1 << 24));
            restarted.stages.push(StageRecord { instance, epoch, layers, n_bytes: 0 });
        }
        state.apply(Event::Record(restarted), ms(0));
        assert_eq!(run(&mut state, 0, 6000, &[2, 3]), [], "its record may be old");
        state.apply(heartbeat(3, 2, state.instances_digest()), ms(6000));
        assert_eq!(run(&mut state, 6000, 9000, &[2, 3]).len(), expected);
    }
}

#[test]
fn unfinished_work_of_an_earlier_life_is_taken_up() {
    let mut state = three();
    let epoch = Epoch(5 << 24).next(id(1));
    let unfinished = InstanceRecord { epoch, ..placed(1, Phase::Loading, &[2, 3]) };
    state.apply(Event::Instance(unfinished.clone()), ms(0));
    let heals = run(&mut state, 0, 1000, &[2, 3]);
    assert_eq!(heal_of(&heals[0].1).1, []);

    let mut state = three();
    let epoch = state.reserve_epoch(InstanceId(1));
    state.apply(Event::Instance(InstanceRecord { epoch, ..unfinished }), ms(0));
    assert_eq!(run(&mut state, 0, 9000, &[2, 3]), [], "its own, of this life");
}

#[test]
fn the_work_of_a_dead_node_is_taken_up() {
    let mut state = three();
    let epoch = Epoch::first(id(3));
    let unfinished = InstanceRecord { epoch, ..placed(1, Phase::Fetching, &[1, 2]) };
    state.apply(Event::Instance(unfinished), ms(0));
    assert_eq!(run(&mut state, 0, 9000, &[2, 3]), []);
    let heals = run(&mut state, 9000, 16_000, &[2]);
    assert_eq!(heal_of(&heals[0].1).1, []);
}

#[test]
fn two_lives_never_use_one_epoch() {
    let reserve = |run| {
        let mut state = State::new(id(1), run, Timing::default());
        state.apply(Event::Instance(placed(4, Phase::Ready, &[1])), ms(0));
        [state.reserve_epoch(InstanceId(1)), state.reserve_epoch(InstanceId(1))]
    };
    let ([a, b], [c, d]) = (reserve(1), reserve(2));
    assert!(a < b && c < d && a > Epoch(4 << 24) && c > Epoch(4 << 24));
    assert!(a != c && a != d && b != c && b != d);
    assert_eq!(b.count(), a.count() + 1);
}

#[test]
fn two_nodes_that_take_an_instance_from_each_other_do_so_ever_less() {
    let mut state = three();
    let mut n_heals = 0;
    let mut epoch = 1;
    for at in (0..120_000).step_by(1000) {
        if at > 5000 && !run(&mut state, at, at + 1000, &[2]).is_empty() {
            n_heals += 1;
            epoch += 1 << 17;
        } else if at <= 5000 {
            run(&mut state, at, at + 1000, &[2]);
        }
        state.apply(Event::Instance(placed(epoch, Phase::Ready, &[3])), ms(at));
    }
    assert!((4..9).contains(&n_heals), "{n_heals}");
}

#[test]
fn a_dropped_instance_stays_dropped_for_an_hour_after_anybody_brought_it_back() {
    let mut state = three();
    let zombie = || Event::Instance(placed(9, Phase::Ready, &[3]));
    state.apply(Event::Instance(placed(1, Phase::Ready, &[3])), ms(0));
    let digest = state.instances_digest();
    assert!(state.apply(Event::Instance(placed(1, Phase::Dropped, &[3])), ms(0)));
    assert!(!state.apply(zombie(), ms(0)), "not even with a later epoch");
    assert_eq!((state.instances().count(), state.coordinator(InstanceId(1), ms(0))), (0, None));
    assert!(!state.is_current(InstanceId(1), Epoch(9 << 24)));
    assert_ne!(state.instances_digest(), digest);
    let told = |state: &State| state.instances_and_tombstones().count();
    let hour = 3_600_000;
    let awake = |state: &mut State, from: u64, until| {
        (from..=until).step_by(1000).for_each(|at| drop(state.plan(ms(at))));
    };
    awake(&mut state, 0, hour);
    assert_eq!(told(&state), 0);
    assert!(!state.apply(zombie(), ms(hour)), "but it is remembered");
    assert_eq!(told(&state), 1, "and told again, since somebody slept");
    awake(&mut state, hour, 3 * hour + 1000);
    assert!(state.apply(zombie(), ms(3 * hour + 1000)), "until nobody can tell of it any more");
}

#[test]
fn equal_instances_have_equal_digests() {
    let ids = [3, 1, 2];
    let digest = |order: [usize; 3], phase: &Phase| {
        let mut state = three();
        for i in order {
            let record = placed(1, phase.clone(), &[2]);
            state
                .apply(Event::Instance(InstanceRecord { id: InstanceId(ids[i]), ..record }), ms(0));
        }
        state.instances_digest()
    };
    assert_eq!(digest([0, 1, 2], &Phase::Ready), digest([2, 0, 1], &Phase::Ready));
    assert_ne!(digest([0, 1, 2], &Phase::Ready), digest([0, 1, 2], &Phase::Loading));
    assert_ne!(digest([0, 1, 2], &Phase::Ready), digest([0, 1, 1], &Phase::Ready));
}

#[test]
fn refuses_what_could_not_be_handled_later() {
    let mut state = three();
    let mut many = placed(1, Phase::Ready, &[2; 65]);
    assert!(!state.apply(Event::Instance(many.clone()), ms(0)), "65 stages");
    many.placement.stages.pop();
    many.model.n_layer = 128;
    assert!(state.apply(Event::Instance(many.clone()), ms(0)));
    many.epoch = Epoch(u64::MAX);
    assert!(!state.apply(Event::Instance(many), ms(0)), "an epoch that could not be raised");
    for i in 0..1000 {
        let record = InstanceRecord { id: InstanceId(i), ..placed(1, Phase::Ready, &[2]) };
        state.apply(Event::Instance(record.clone()), ms(i));
        let dropped = InstanceRecord { phase: Phase::Dropped, ..record };
        if i % 2 == 0 {
            state.apply(Event::Instance(dropped), ms(i));
        }
    }
    assert_eq!(state.instances().count(), 256);
    assert_eq!(state.instances_and_tombstones().count(), 512);
}
