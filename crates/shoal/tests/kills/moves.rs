//! What moves layers under answers although nothing is lost: a node that joins, a stage that becomes slow; and who gets ready for
//! a loss before there is one.

use std::{
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

use rustix::process::Signal;
use serde_json::json;

use crate::{
    ask::{Answer, Ask},
    cases::{self, Position},
    fleet::{Fleet, Placed},
    node::{Client, Machine, Node, pause, signal, wait},
    report::note,
    start::PATIENCE,
};

const N_STAGES: usize = 2;
/// Answers under way at the same time.
const N_TALKERS: usize = 2;
/// Lines of a node's log that hold all of a test.
const N_LOG_LINES: usize = 400;
/// A slow stage's process is stopped for so long: far longer than a busy machine makes a step,
const STOPPED: Duration = Duration::from_millis(200);
/// and runs for so long, again and again: less than a step takes without vectors.
const RUNNING: Duration = Duration::from_millis(1);

/// An answer, what it should have been, and when it was complete.
type Talked = (Ask, Answer, Instant);
/// When a move was seen, or why none was.
type Moved = Result<Instant, String>;

#[test]
fn a_node_that_joins_takes_layers_between_tokens() {
    let slow = &["--auto", "--isa", "scalar"];
    let mut fleet = Fleet::here_with(N_STAGES, slow);
    let ready = fleet.wait_for_all().and_then(|()| fleet.place(N_STAGES));
    ready.unwrap_or_else(|why| panic!("{why}\n{}", fleet.logs(25)));
    let before = fleet.placed().expect("it is ready");
    let (talked, moved) = talk(&mut fleet, |fleet| {
        fleet.join();
        let new = fleet.nodes.len() - 1;
        wait_for_move(fleet, &before, |now| now.stages.contains(&new))
    });
    judge("a node joined", &fleet, &talked, moved);
}

#[test]
fn a_slow_stage_moves_between_tokens() {
    let mut fleet = Fleet::here_with(N_STAGES + 1, &["--isa", "scalar"]);
    let ready = fleet.wait_for_all().and_then(|()| fleet.place(N_STAGES));
    ready.unwrap_or_else(|why| panic!("{why}\n{}", fleet.logs(25)));
    let before = fleet.placed().expect("it is ready");
    let slow = before.stages[0];
    let (talked, moved) = talk(&mut fleet, |fleet| {
        let runners = fleet.nodes[slow].runners();
        assert!(!runners.is_empty(), "{}: no runner process", fleet.nodes[slow].name);
        let is_over = AtomicBool::new(false);
        thread::scope(|scope| {
            for &runner in &runners {
                let is_over = &is_over;
                scope.spawn(move || slow_down(runner, is_over));
            }
            let moved = wait_for_move(fleet, &before, |_| true);
            is_over.store(true, Ordering::Relaxed);
            moved
        })
    });
    let logs = fleet.logs(N_LOG_LINES);
    assert!(logs.contains("times as long as planned"), "{logs}");
    judge("a stage became slow", &fleet, &talked, moved);
}

#[test]
fn others_get_ready_for_the_layers_of_a_suspect() {
    let mut fleet = Fleet::here(N_STAGES + 1);
    let ready = fleet.wait_for_all().and_then(|()| fleet.place(N_STAGES));
    ready.unwrap_or_else(|why| panic!("{why}\n{}", fleet.logs(25)));
    let before = fleet.placed().expect("it is ready");
    let suspect = *before.stages.iter().find(|&&i| i != 0).expect("one of two");
    let (talked, moved) = talk(&mut fleet, |fleet| {
        fleet.nodes[suspect].freeze();
        wait_for_move(fleet, &before, |now| !now.stages.contains(&suspect))
    });
    // Whoever took over had the layers in memory before anybody was dead.
    let taker = fleet.placed().expect("it is ready").stages;
    let is_told = taker.iter().any(|&i| {
        let log = fleet.nodes[i].log(N_LOG_LINES);
        let at = |what: &str| log.rfind(what);
        at("ready for layers").is_some_and(|ready| at("stage ready").is_some_and(|it| ready < it))
    });
    assert!(is_told, "{}", fleet.logs(N_LOG_LINES));
    fleet.nodes[suspect].thaw();
    judge("a node was frozen", &fleet, &talked, moved);
}

/// Has answers under way, one after the other for each client, while something is done; returns them, and what was done.
fn talk(fleet: &mut Fleet, act: impl FnOnce(&mut Fleet) -> Moved) -> (Vec<Talked>, Instant) {
    let (client, model) = (fleet.client(), fleet.instance.clone());
    let is_over = AtomicBool::new(false);
    thread::scope(|scope| {
        let talkers: Vec<_> = (0..N_TALKERS)
            .map(|first| {
                let (client, model, is_over) = (&client, &model, &is_over);
                scope.spawn(move || talker(client, model, first, is_over))
            })
            .collect();
        let moved = act(fleet);
        is_over.store(true, Ordering::Relaxed);
        let talked = talkers.into_iter().flat_map(|it| it.join().expect("it does not panic"));
        let talked = talked.collect();
        (talked, moved.unwrap_or_else(|why| panic!("{why}")))
    })
}

/// Asks until it is over, and once more.
fn talker(client: &Client, model: &str, first: usize, is_over: &AtomicBool) -> Vec<Talked> {
    let mut talked = Vec::new();
    for i in 0.. {
        let is_last = is_over.load(Ordering::Relaxed);
        let ask = cases::ask(i * N_TALKERS + first, Position::Decode(1), (i % 2) as f32);
        let answer = client.ask(model, &ask, |_| true);
        let is_wrong = answer.is_faulty();
        talked.push((ask, answer, Instant::now()));
        if is_last || is_wrong {
            break;
        }
    }
    talked
}

/// Waits until the instance is placed anew in a certain way, and tells when that was seen.
fn wait_for_move(fleet: &Fleet, before: &Placed, is_so: impl Fn(&Placed) -> bool) -> Moved {
    let mut moved = Instant::now();
    let waited = wait("a move", 2 * PATIENCE, || {
        let now = fleet.placed()?;
        moved = Instant::now();
        Ok(now.is_ready && now.epoch > before.epoch && is_so(&now))
    });
    waited.map(|_| moved).map_err(|why| {
        let state = fleet.client().state().unwrap_or_default();
        format!("{why}\n{:#}\n{}", state["instances"], fleet.logs(40))
    })
}

/// Sees that all answers are right, and that one was under way at the move.
fn judge(what: &str, fleet: &Fleet, talked: &[Talked], moved: Instant) {
    let oracle = Node::start(Machine::This, "oracle", &[]);
    for (ask, answer, _) in talked {
        let expected = oracle.client().ask("demo", ask, |_| true);
        assert_eq!(answer.differs(&expected), None, "{what}: {ask:?}\n{}", fleet.logs(40));
    }
    let under_way = talked.iter().filter(|(_, it, end)| it.asked < moved && moved < *end);
    let pauses = under_way.map(|(_, answer, _)| answer.pause(answer.asked, Duration::ZERO));
    let pause = pauses.max();
    assert!(pause.is_some(), "{what}: no answer was under way");
    note(&json!({
        "what": what,
        "answers": talked.len(),
        "pause_s": pause.map(|it| it.as_secs_f64()),
    }));
}

/// Leaves a process little of its time, until it is over.
fn slow_down(pid: u32, is_over: &AtomicBool) {
    while !is_over.load(Ordering::Relaxed) {
        signal(pid, Signal::STOP);
        pause(STOPPED);
        signal(pid, Signal::CONT);
        pause(RUNNING);
    }
}
