//! Three seconds without a sign are what healthy phones do on WiFi: nobody is evicted for it.

use std::time::{Duration, Instant};

use serde_json::json;

use crate::{
    cases::{self, Position},
    chance::Chance,
    fleet::Fleet,
    form,
    node::{Machine, Node, pause},
    report::{note, say},
};

const N_NODES: usize = 3;
const STALL: Duration = Duration::from_secs(3);
/// From the beginning of a stall to the next one's: in the long form, and in the short one.
const INTERVAL: Duration = Duration::from_secs(30);
const INTERVAL_SHORT: Duration = Duration::from_secs(8);
const N_STALLS_SHORT: u64 = 2;

#[test]
fn a_stall_of_three_seconds_evicts_nobody() {
    let seed = form::seed();
    let (n_stalls, interval) = match form::n_stalls() {
        Some(n) => (n, INTERVAL),
        None => (N_STALLS_SHORT, INTERVAL_SHORT),
    };
    let oracle = Node::start(Machine::This, "oracle", &[]);
    let mut fleet = Fleet::here(N_NODES);
    let ready = fleet.wait_for_all().and_then(|()| fleet.place(N_NODES));
    ready.unwrap_or_else(|why| panic!("{why}\n{}", fleet.logs(25)));
    let placed = fleet.placed().expect("it is ready");
    let mut chance = Chance::new(seed);
    let mut pauses = Vec::new();
    for i in 0..n_stalls {
        let began = Instant::now();
        let victim = 1 + chance.below(N_NODES - 1);
        let number = usize::try_from(i).expect("some");
        let ask = cases::ask(number, Position::Decode(1), 1.0);
        let expected = oracle.client().ask("demo", &ask, |_| true);
        let (client, model) = (fleet.client(), fleet.instance.clone());
        let answer = std::thread::scope(|scope| {
            let answer = scope.spawn(|| client.ask(&model, &ask, |_| true));
            // Anywhere in the answer, or before it.
            pause(Duration::from_millis(u64::try_from(chance.below(100)).expect("small")));
            fleet.nodes[victim].freeze();
            watch(&fleet, STALL);
            fleet.nodes[victim].thaw();
            answer.join().expect("it does not panic")
        });
        let wrong = answer.differs(&expected);
        let paused = answer.pause(began, Duration::ZERO);
        say(&format!("stall {i} of node {victim}: {wrong:?}, pause {paused:.1?}"));
        assert_eq!(wrong, None, "KILL_SEED={seed}, stall {i}\n{}", fleet.logs(25));
        pauses.push(paused);
        watch(&fleet, interval.saturating_sub(began.elapsed()));
        assert_eq!(fleet.placed().as_ref(), Ok(&placed), "KILL_SEED={seed}, stall {i}");
    }
    pauses.sort_unstable();
    note(&json!({
        "stalls": n_stalls,
        "interval_s": interval.as_secs(),
        "pause_median_s": pauses[pauses.len() / 2].as_secs_f64(),
        "pause_max_s": pauses[pauses.len() - 1].as_secs_f64(),
    }));
}

/// Sees for some time that the first node takes nobody for dead.
#[track_caller]
fn watch(fleet: &Fleet, time: Duration) {
    let began = Instant::now();
    while began.elapsed() < time {
        let state = fleet.client().state().expect("the first node is well");
        let nodes = state["nodes"].as_array().expect("a list");
        let dead: Vec<_> = nodes.iter().filter(|node| node["liveness"] == "dead").collect();
        assert!(dead.is_empty(), "{:?} after the stall began: {dead:#?}", began.elapsed());
        assert_eq!(nodes.len(), N_NODES);
        pause(Duration::from_millis(50));
    }
}
