//! Mixed load beside mixed trouble: every answer is right or an honest error, and nothing is left behind.

use std::{
    collections::BTreeMap,
    fs,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use rustix::process::Signal;
use serde_json::json;

use crate::{
    ask::{Answer, Ask},
    cases::{self, Position},
    chance::Chance,
    fleet::Fleet,
    form,
    node::{Machine, Node, children_of, pause, signal, wait},
    report::{note, say},
    start::shoal,
};

const N_NODES: usize = 4;
/// Nodes that hold layers at the beginning: one is spare.
const N_STAGES: usize = 3;
const N_CLIENTS: usize = 8;
/// Different questions; they come again and again, so that caches of ended ones are used.
const N_ASKS: usize = 24;
/// One client in so many goes away in mid-answer.
const CANCELS: usize = 5;
/// Rest between two troubles, in milliseconds, at least; and at most so much more.
const REST_MS: [u64; 2] = [2_000, 6_000];
/// How long the short form takes, besides its beginning and end.
const SHORT: Duration = Duration::from_secs(15);
/// Samples of a run.
const N_SAMPLES: u32 = 60;
/// What a node may hold more of at the end than at the beginning: a connection under way takes a few.
const N_FDS_MORE: usize = 24;
const N_THREADS_MORE: usize = 8;

/// What became of the answers.
#[derive(Debug, Default)]
struct Tally {
    n_right: usize,
    n_cancelled: usize,
    /// By their codes.
    errors: BTreeMap<String, usize>,
    wrong: Vec<String>,
}

/// What a process holds.
#[derive(Debug, Clone, Copy)]
struct Holds {
    rss_kib: usize,
    n_threads: usize,
    n_fds: usize,
    /// Processes that it has started, and what they hold.
    n_runners: usize,
    runners_rss_kib: usize,
}

#[test]
fn a_soak_leaves_nothing_behind() {
    let seed = form::seed();
    let time = form::minutes().map_or(SHORT, |minutes| Duration::from_secs(60 * minutes));
    say(&format!("KILL_SEED={seed}: a soak of {time:?}"));
    let oracle = Node::start(Machine::This, "oracle", &[]);
    let pool: Vec<(Ask, Answer)> = (0..N_ASKS)
        .map(|i| {
            let position = if i % 4 == 0 { Position::Prefill(0) } else { Position::Decode(1) };
            let ask = cases::ask(i, position, (i / 2 % 2) as f32);
            let expected = oracle.client().ask("demo", &ask, |_| true);
            (ask, expected)
        })
        .collect();
    let mut fleet = Fleet::here(N_NODES);
    let ready = fleet.wait_for_all().and_then(|()| fleet.place(N_STAGES));
    ready.unwrap_or_else(|why| panic!("{why}\n{}", fleet.logs(25)));
    let tally = Mutex::new(Tally::default());
    // What the first answers allocate is there to stay.
    load(&mut fleet, &pool, &tally, seed, Duration::from_secs(3), |_, _| {});
    fleet.wait_for_quiet().expect("all clients have ended");
    let before = holds(fleet.nodes[0].pid());
    load(&mut fleet, &pool, &tally, seed + 1, time, |fleet, until| trouble(fleet, seed, until));
    let mended = fleet.mend();
    let after = holds(fleet.nodes[0].pid());
    let tally = tally.into_inner().unwrap_or_else(PoisonError::into_inner);
    note(&json!({
        "minutes": time.as_secs_f64() / 60.0,
        "right": tally.n_right,
        "cancelled": tally.n_cancelled,
        "errors": tally.errors,
        "wrong": tally.wrong.len(),
        "before": row(before),
        "after": row(after),
    }));
    let logs = || fleet.logs(40);
    assert!(tally.wrong.is_empty(), "KILL_SEED={seed}:\n{}\n{}", tally.wrong.join("\n"), logs());
    mended.unwrap_or_else(|why| panic!("KILL_SEED={seed}: {why}\n{}", logs()));
    assert!(tally.n_right > 0, "{tally:?}");
    assert!(after.n_fds <= before.n_fds + N_FDS_MORE, "{before:?}, then {after:?}");
    assert!(after.n_threads <= before.n_threads + N_THREADS_MORE, "{before:?}, then {after:?}");
    // One instance is placed: a node holds one stage of it, or none.
    for node in &fleet.nodes {
        let settled = wait("the end of other runners", Duration::from_secs(10), || {
            Ok(node.runners().len() <= 1)
        });
        assert_eq!(settled.err(), None, "{} after {before:?}", node.name);
    }
}

/// Has clients ask for some time, while `disturb` does what it does until then.
fn load(
    fleet: &mut Fleet,
    pool: &[(Ask, Answer)],
    tally: &Mutex<Tally>,
    seed: u64,
    time: Duration,
    disturb: impl FnOnce(&mut Fleet, Instant),
) {
    let until = Instant::now() + time;
    let (client, model, first) = (fleet.client(), fleet.instance.clone(), fleet.nodes[0].pid());
    let is_over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for i in 0..N_CLIENTS {
            let (client, model) = (&client, &model);
            let mut chance = Chance::new(seed.wrapping_mul(31) + u64::try_from(i).expect("few"));
            scope.spawn(move || {
                while Instant::now() < until {
                    let (ask, expected) = &pool[chance.below(pool.len())];
                    let last = (chance.below(CANCELS) == 0).then(|| 1 + chance.below(20));
                    let answer = client.ask(model, ask, |n| Some(n) != last);
                    let is_cancelled = last == Some(answer.pieces.len());
                    let failed = count(tally, &answer, expected, is_cancelled);
                    // Who is refused asks again, but not a hundred times a second.
                    pause(Duration::from_millis(if failed { 500 } else { 10 }));
                }
            });
        }
        let (client, is_over) = (&client, &is_over);
        let sampler = scope.spawn(move || {
            while !is_over.load(Ordering::Relaxed) {
                let (_, metrics) = client.get("/state").unwrap_or_default();
                let mut sample = row(holds(first));
                sample["requests"] = metrics["n_requests"].clone();
                note(&sample);
                let began = Instant::now();
                while began.elapsed() < time / N_SAMPLES && !is_over.load(Ordering::Relaxed) {
                    pause(Duration::from_millis(50));
                }
            }
        });
        disturb(fleet, until);
        is_over.store(true, Ordering::Relaxed);
        sampler.join().expect("it does not panic");
    });
}

/// Counts an answer; returns whether it was an error.
fn count(tally: &Mutex<Tally>, answer: &Answer, expected: &Answer, is_cancelled: bool) -> bool {
    let mut tally = tally.lock().unwrap_or_else(PoisonError::into_inner);
    let has_error = answer.error.is_some();
    if has_error || is_cancelled {
        // What came before the end must be the beginning of what should have come.
        if !expected.text.starts_with(&answer.text) {
            let (text, expected) = (&answer.text, &expected.text);
            tally.wrong.push(format!("a beginning {text:?} of {expected:?}"));
        }
    }
    match (&answer.error, is_cancelled) {
        (Some(error), _) => {
            let error = code(error);
            *tally.errors.entry(error).or_default() += 1;
        }
        (None, true) => tally.n_cancelled += 1,
        (None, false) => match answer.differs(expected) {
            None => tally.n_right += 1,
            Some(how) => {
                say(&format!("WRONG: {how}"));
                tally.wrong.push(how);
            }
        },
    }
    has_error
}

/// What an error is called, for the table.
fn code(error: &str) -> String {
    let code = error.split_once("\"code\":\"").and_then(|(_, rest)| rest.split_once('"'));
    code.map_or_else(|| error.to_owned(), |(code, _)| code.to_owned())
}

/// Makes trouble until the time is over; all nodes but the first may be away at its end.
fn trouble(fleet: &mut Fleet, seed: u64, until: Instant) {
    let mut chance = Chance::new(seed);
    let can_drain = shoal(&["drain", "--help"]).output().is_ok_and(|it| it.status.success());
    while Instant::now() < until {
        let rest = REST_MS[0] + u64::try_from(chance.below(REST_MS[1] as usize)).expect("small");
        pause(Duration::from_millis(rest).min(until.saturating_duration_since(Instant::now())));
        let i = 1 + chance.below(fleet.nodes.len() - 1);
        // Whoever is away comes back before anything else happens to him.
        let node = &mut fleet.nodes[i];
        if node.is_dead {
            say(&format!("{} starts again", node.name));
            node.restart();
            continue;
        }
        if node.is_frozen {
            say(&format!("{} thaws", node.name));
            node.thaw();
            continue;
        }
        if node.is_drained {
            say(&format!("{} may have layers again", node.name));
            node.drain(false);
            continue;
        }
        match chance.below(6) {
            0 | 1 => {
                say(&format!("the runners of {} are killed", node.name));
                node.runners().into_iter().for_each(|pid| signal(pid, Signal::KILL));
            }
            2 => {
                say(&format!("{} is killed", node.name));
                node.kill();
            }
            3 => {
                say(&format!("{} freezes", node.name));
                node.freeze();
            }
            4 if can_drain => {
                node.drain(true);
                say(&format!("{} is drained", node.name));
            }
            4 => {
                say(&format!("{} ends", node.name));
                node.end();
            }
            _ if fleet.nodes.len() < N_NODES + 2 => {
                say("another node joins");
                fleet.join();
            }
            _ => {
                let last = fleet.nodes.len() - 1;
                say(&format!("{} leaves", fleet.nodes[last].name));
                fleet.leave(last);
            }
        }
    }
}

fn row(holds: Holds) -> serde_json::Value {
    let Holds { rss_kib, n_threads, n_fds, n_runners, runners_rss_kib } = holds;
    json!({
        "rss_kib": rss_kib, "threads": n_threads, "fds": n_fds,
        "runners": n_runners, "runners_rss_kib": runners_rss_kib,
    })
}

/// What Linux tells of a process that runs.
fn holds(pid: u32) -> Holds {
    let fds = fs::read_dir(format!("/proc/{pid}/fd"));
    let runners = children_of(pid);
    Holds {
        rss_kib: field(pid, "VmRSS:"),
        n_threads: field(pid, "Threads:"),
        n_fds: fds.map_or(0, Iterator::count),
        n_runners: runners.len(),
        runners_rss_kib: runners.into_iter().map(|it| field(it, "VmRSS:")).sum(),
    }
}

/// A number in a process's status; 0 if it is not there.
fn field(pid: u32, name: &str) -> usize {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix(name));
    line.and_then(|it| it.trim().split(' ').next()?.parse().ok()).unwrap_or(0)
}
