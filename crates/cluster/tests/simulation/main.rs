//! Whole clusters in virtual time, from a seed: messages are lost and late, links break one way or both, nodes freeze, move, die
//! and come back without their memory, runners crash, clocks jump.
//!
//! A failure prints its seed. `SEED=n cargo test -p shoal-cluster --test simulation` replays it, `TRACE=1` shows what happens,
//! `SEEDS=n` runs the first `n` seeds.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Mutex,
        atomic::{AtomicU64, Ordering},
    },
};

use crate::{invariants::Answers, world::World};

mod actor;
mod data_plane;
mod invariants;
mod model;
mod random;
mod requests;
mod stage;
mod trouble;
mod watch;
mod world;

/// Seeds of one run, unless told otherwise: a minute on two cores.
const SEEDS: u64 = 1_500;

/// What all seeds together did.
#[derive(Debug, Default)]
struct Totals {
    n_events: u64,
    n_heals: u64,
    virtual_s: u64,
    sent_max: usize,
    answers: Answers,
}

fn number(name: &str) -> Option<u64> {
    Some(std::env::var(name).ok()?.parse().expect("a number"))
}

/// Runs the seeds on all processors. Names the lowest seed that fails.
fn run(seeds: std::ops::Range<u64>, n_hours: u64) -> Totals {
    let (next, totals) = (AtomicU64::new(seeds.start), Mutex::new(Totals::default()));
    let failed = AtomicU64::new(u64::MAX);
    let is_traced = number("TRACE").is_some();
    let work = || {
        loop {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= seeds.end || failed.load(Ordering::Relaxed) != u64::MAX {
                return;
            }
            let result = catch_unwind(AssertUnwindSafe(|| {
                let mut world = World::new(seed, n_hours, is_traced);
                let n_events = world.run();
                (n_events, world)
            }));
            let Ok((n_events, world)) = result else {
                failed.fetch_min(seed, Ordering::Relaxed);
                return;
            };
            let mut totals = totals.lock().expect("nobody fails with it");
            totals.n_events += n_events;
            totals.n_heals += world.ledger.n_heals;
            totals.virtual_s += world.now / 1000;
            totals.answers.add(&world.ledger.answers);
            totals.sent_max = totals.sent_max.max(world.ledger.sent_max);
        }
    };
    let n_threads = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        (0..n_threads).for_each(|_| drop(scope.spawn(work)));
    });
    let failed = failed.into_inner();
    assert!(failed == u64::MAX, "failing seed: {failed} (replay with SEED={failed} TRACE=1)");
    totals.into_inner().expect("nobody fails with it")
}

fn seeds(n: u64) -> std::ops::Range<u64> {
    match number("SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..number("SEEDS").unwrap_or(n),
    }
}

#[test]
fn clusters_keep_their_promises_in_any_trouble() {
    println!("{:?}", run(seeds(SEEDS), 0));
}

#[test]
fn clusters_keep_their_promises_for_hours() {
    println!("{:?}", run(seeds(8), 3));
}
