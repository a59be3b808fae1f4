//! Chats over links that lose, delay and reorder, between nodes that change their addresses.

use std::{
    sync::atomic::{AtomicBool, Ordering},
    time::{Duration, Instant},
};

use serde_json::json;
use shoal_netlab::{Host, Segment, isolated};

use crate::{
    ask::{Answer, Ask},
    cases::{self, Position},
    chance::Chance,
    fleet::Fleet,
    form,
    node::{Machine, Node, pause},
    report::{note, say},
};

const N_NODES: usize = 3;
/// Chats under way at the same time.
const N_TOGETHER: usize = 2;
const DELAY: Duration = Duration::from_millis(3);
const JITTER: Duration = Duration::from_millis(47);
/// How much happens.
struct Amount {
    n_chats: usize,
    /// Percents of the frames that get lost, one after the other.
    loss: &'static [u32],
    /// How often a node changes its address, and how many times at most.
    handoff: Duration,
    n_handoffs: usize,
}

const SHORT: Amount =
    Amount { n_chats: 2, loss: &[5], handoff: Duration::from_secs(3), n_handoffs: 2 };
const LONG: Amount = Amount {
    n_chats: 100,
    loss: &[1, 5],
    handoff: Duration::from_secs(20),
    n_handoffs: usize::MAX,
};

#[test]
fn no_chat_is_wrong_in_bad_weather() {
    isolated(|| {
        let seed = form::seed();
        let amount = form::n_chats().map_or(SHORT, |n_chats| Amount { n_chats, ..LONG });
        let oracle = Machine::Host(Host::new("oracle").unwrap().into());
        let oracle = Node::start(oracle, "oracle", &[]);
        let wifi = Segment::new("wifi").unwrap();
        let mut fleet = Fleet::on(&wifi, N_NODES);
        let ready = fleet.wait_for_all().and_then(|()| fleet.place(N_NODES));
        ready.unwrap_or_else(|why| panic!("{why}\n{}", fleet.logs(25)));
        wifi.set_delay(DELAY);
        wifi.set_jitter(JITTER);
        let mut wrong = Vec::new();
        for &percent in amount.loss {
            wifi.set_loss(percent, seed);
            wrong.extend(chats(&mut fleet, &oracle, &amount, percent, seed));
        }
        assert!(wifi.counters().n_lost > 0);
        assert!(wrong.is_empty(), "KILL_SEED={seed}:\n{}\n{}", wrong.join("\n"), fleet.logs(40));
    });
}

/// Holds so many chats and says which were wrong.
fn chats(
    fleet: &mut Fleet,
    oracle: &Node,
    amount: &Amount,
    percent: u32,
    seed: u64,
) -> Vec<String> {
    let asks: Vec<Ask> = (0..amount.n_chats)
        .map(|i| cases::ask(1000 * percent as usize + i, Position::Decode(1), (i % 2) as f32))
        .collect();
    let (client, model) = (fleet.client(), fleet.instance.clone());
    let is_over = AtomicBool::new(false);
    let began = Instant::now();
    let (answers, n_handoffs) = std::thread::scope(|scope| {
        let talkers: Vec<_> = (0..N_TOGETHER)
            .map(|first| {
                let (client, model, asks) = (&client, &model, &asks);
                scope.spawn(move || {
                    let mine = asks.iter().enumerate().skip(first).step_by(N_TOGETHER);
                    mine.map(|(i, ask)| {
                        let answer = client.ask(model, ask, |_| true);
                        say(&format!("{percent} % lost: chat {i}: {:.1?}", answer.asked.elapsed()));
                        (i, answer)
                    })
                    .collect::<Vec<(usize, Answer)>>()
                })
            })
            .collect();
        let mover = scope.spawn(|| move_about(fleet, &is_over, amount, seed));
        let talked = talkers.into_iter().flat_map(|it| it.join().expect("it does not panic"));
        let answers: Vec<_> = talked.collect();
        is_over.store(true, Ordering::Relaxed);
        (answers, mover.join().expect("it does not panic"))
    });
    let took = began.elapsed();
    let mut firsts: Vec<_> = answers.iter().filter_map(|(_, answer)| answer.first()).collect();
    firsts.sort_unstable();
    let mut pauses: Vec<_> =
        answers.iter().map(|(_, answer)| answer.pause(answer.asked, Duration::ZERO)).collect();
    pauses.sort_unstable();
    let n_tokens: u64 = answers.iter().filter_map(|(_, answer)| answer.usage).map(|(_, n)| n).sum();
    let wrong: Vec<String> = answers
        .iter()
        .filter_map(|(i, answer)| {
            let expected = oracle.client().ask("demo", &asks[*i], |_| true);
            Some(format!("{percent} % lost, chat {i}: {}", answer.differs(&expected)?))
        })
        .collect();
    let median = |of: &[Duration]| of.get(of.len() / 2).map(Duration::as_secs_f64);
    note(&json!({
        "loss_percent": percent,
        "chats": answers.len(),
        "wrong": wrong.len(),
        "handoffs": n_handoffs,
        "took_s": took.as_secs_f64(),
        "tokens_per_s": n_tokens as f64 / took.as_secs_f64(),
        "first_median_s": median(&firsts),
        "pause_median_s": median(&pauses),
        "pause_max_s": pauses.last().map(Duration::as_secs_f64),
    }));
    wrong
}

/// Gives some node another address again and again; returns how often.
fn move_about(fleet: &mut Fleet, is_over: &AtomicBool, amount: &Amount, seed: u64) -> usize {
    let mut chance = Chance::new(seed);
    let mut n_moves = 0;
    let mut moved = Instant::now();
    while !is_over.load(Ordering::Relaxed) {
        if moved.elapsed() >= amount.handoff && n_moves < amount.n_handoffs {
            // The first may move too: its client is on it.
            let i = chance.below(N_NODES);
            say(&format!("node {i} changes its address"));
            fleet.readdress(i);
            n_moves += 1;
            moved = Instant::now();
        }
        pause(Duration::from_millis(20));
    }
    n_moves
}
