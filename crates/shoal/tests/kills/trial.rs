//! One stage is lost at any position of an answer, and the answer is what it would have been.

use std::{
    sync::{
        atomic::{AtomicUsize, Ordering},
        mpsc,
    },
    thread,
    time::Duration,
};

use shoal_netlab::{Host, Segment, isolated};

use crate::{
    ask::{Answer, Ask},
    cases::{self, Case, Position},
    chance::Chance,
    fleet::Fleet,
    form,
    losses::{self, Loss, Struck},
    node::{Machine, Node, pause, wait},
    report::{Report, Trial},
    start::PATIENCE,
};

/// Lines of each node's log that a failure shows.
const N_LOG_LINES: usize = 25;
/// And each node's log of a pause that is longer than promised.
const N_LOG_LINES_LONG: usize = 400;
/// How long a client is away whose connection broke.
const AWAY: Duration = Duration::from_millis(300);

#[test]
fn no_answer_loses_a_byte_when_processes_are_lost() {
    let report = run(&Loss::OF_PROCESSES, &Machine::This, Fleet::here);
    report.conclude("lost processes");
}

#[test]
fn no_answer_loses_a_byte_when_links_are_lost() {
    isolated(|| {
        let oracle = Machine::Host(Host::new("oracle").unwrap().into());
        let report = run(&Loss::OF_LINKS, &oracle, |n| {
            // A segment for each fleet: a node of an old one is nobody's neighbour.
            Fleet::on(&Segment::new("wifi").unwrap(), n)
        });
        report.conclude("lost links");
    });
}

/// A fleet that is ready for a case, and what its prompts usually take.
struct Stand {
    fleet: Fleet,
    usual: Usual,
}

/// From a long prompt to the first piece, for one request and for the slowest of four.
struct Usual {
    one: Duration,
    four: Duration,
}

fn run(losses: &[Loss], oracle: &Machine, start: impl Fn(usize) -> Fleet) -> Report {
    let seed = form::seed();
    let cases = cases::chosen(losses, seed);
    let mut report = Report::new(seed, cases.len());
    let oracle = Node::start(oracle.clone(), "oracle", &[]);
    let mut stand: Option<Stand> = None;
    for case in cases {
        let n_stages = case.loss.n_stages(case.n_nodes);
        let is_fit = |stand: &Stand| stand.fleet.nodes.len() == case.n_nodes;
        let mut ready = match stand.take().filter(is_fit) {
            Some(stand) => stand,
            None => stand_of(start(case.n_nodes), &oracle),
        };
        if let Err(why) = ready.fleet.place(n_stages) {
            // The next case has a new cluster.
            report.fail(&case, &format!("not placed: {why}"), &ready.fleet.logs(N_LOG_LINES));
            continue;
        }
        let trial = try_case(&mut ready, &case, seed, &oracle);
        report.add(trial);
        match ready.fleet.mend() {
            Ok(()) => stand = Some(ready),
            Err(why) => {
                let logs = ready.fleet.logs(N_LOG_LINES);
                let why = format!("afterwards the cluster did not mend: {why}");
                report.fail(&case, &why, &logs);
            }
        }
    }
    report
}

/// Measures what nobody disturbs, and sees that it is right.
fn stand_of(mut fleet: Fleet, oracle: &Node) -> Stand {
    /// Nothing that a case asks.
    const UNDISTURBED: usize = 99 * cases::N_NUMBERS;
    let ready = fleet.wait_for_all().and_then(|()| fleet.place(fleet.nodes.len()));
    ready.unwrap_or_else(|why| panic!("{why}\n{}", fleet.logs(N_LOG_LINES)));
    let mut usual = [1, 4].map(|n_requests| {
        let asks: Vec<Ask> = (0..n_requests)
            .map(|i| cases::ask(UNDISTURBED + n_requests * 8 + i, Position::Prefill(0), 1.0))
            .collect();
        let answers: Vec<Answer> = thread::scope(|scope| {
            let asked = asks.iter().map(|ask| scope.spawn(|| fleet.ask(ask)));
            let asked: Vec<_> = asked.collect();
            asked.into_iter().map(|it| it.join().expect("it does not panic")).collect()
        });
        for (ask, answer) in asks.iter().zip(&answers) {
            let expected = oracle.client().ask("demo", ask, |_| true);
            assert_eq!(answer.differs(&expected), None, "undisturbed");
        }
        answers.iter().filter_map(Answer::first).max().expect("each has text")
    });
    usual.sort_unstable();
    let [one, four] = usual;
    Stand { fleet, usual: Usual { one, four } }
}

/// Asks, strikes at the position, and compares.
fn try_case(stand: &mut Stand, case: &Case, seed: u64, oracle: &Node) -> Trial {
    let (asks, expected): (Vec<Ask>, Vec<Answer>) = case.asks(&oracle.client()).into_iter().unzip();
    let usual = if case.n_requests == 1 { stand.usual.one } else { stand.usual.four };
    let mut chance = Chance::new(seed ^ (u64::try_from(case.number).expect("small") << 32));
    let (answers, mut struck) = disturb(&mut stand.fleet, case, &asks, &expected, &mut chance);
    let mut faults: Vec<String> = answers
        .iter()
        .zip(&expected)
        .enumerate()
        .filter_map(|(i, (answer, expected))| {
            Some(format!("answer {i} {}", answer.differs(expected)?))
        })
        .collect();
    faults.extend(losses::leftovers(&mut stand.fleet, &struck));
    let usual_first = match case.position {
        Position::Prefill(_) => usual,
        Position::Decode(_) => Duration::ZERO,
    };
    let pause = answers.iter().map(|it| it.pause(struck.at, usual_first)).max().unwrap_or_default();
    let promised = case.loss.promised().map(|it| it + usual);
    let is_long = promised.is_some_and(|promised| pause > promised);
    let n_log_lines = match (faults.is_empty(), is_long) {
        (_, true) => N_LOG_LINES_LONG,
        (false, _) => N_LOG_LINES,
        (true, _) => 0,
    };
    let n_before = answers.iter().map(|it| it.pieces.iter().filter(|&&at| at <= struck.at).count());
    Trial {
        case: *case,
        what: std::mem::take(&mut struck.what),
        n_pieces_before: n_before.max().unwrap_or(0),
        pause,
        is_long,
        took: struck.at.elapsed(),
        statuses: answers.first().map(|it| it.statuses.clone()).unwrap_or_default(),
        logs: if n_log_lines > 0 { stand.fleet.logs(n_log_lines) } else { String::new() },
        faults,
    }
}

fn disturb(
    fleet: &mut Fleet,
    case: &Case,
    asks: &[Ask],
    expected: &[Answer],
    chance: &mut Chance,
) -> (Vec<Answer>, Struck) {
    // The first whose answer has so many pieces gives the sign; a short answer has its turn earlier.
    let n_shortest = expected.iter().map(|it| it.pieces.len()).min().expect("at least one");
    let k = match case.position {
        Position::Decode(k) => 1 + (k - 1) % n_shortest.saturating_sub(1).max(1),
        Position::Prefill(_) => usize::MAX,
    };
    // Whose connection breaks is away when the stage is lost, or comes back when a loss in the prompt has healed.
    let n_cut = if k == usize::MAX { 1 } else { k };
    let (client, model) = (fleet.client(), fleet.instance.clone());
    let n_running = AtomicUsize::new(asks.len());
    let (sign, signs) = mpsc::channel();
    thread::scope(|scope| {
        let asked: Vec<_> = asks
            .iter()
            .map(|ask| {
                let (sign, client, model, n_running) = (sign.clone(), &client, &model, &n_running);
                scope.spawn(move || {
                    let mut answer = client.ask(model, ask, |n| {
                        // Nobody waits for a second one.
                        let _ = if n == k { sign.send(()) } else { Ok(()) };
                        !(ask.is_kept && n == n_cut)
                    });
                    if answer.is_cut() {
                        pause(AWAY);
                        client.resume(&mut answer, |_| true);
                    }
                    n_running.fetch_sub(1, Ordering::Relaxed);
                    answer
                })
            })
            .collect();
        drop(sign);
        let is_over = || n_running.load(Ordering::Relaxed) == 0;
        // When all have ended early, what is wrong is seen in the answers.
        match case.position {
            Position::Decode(_) => drop(signs.recv_timeout(PATIENCE)),
            Position::Prefill(n_chunks) => {
                let _ = wait("chunks", PATIENCE, || {
                    Ok(client.n_steps(&model)?.is_some_and(|n| n >= n_chunks) || is_over())
                });
            }
        }
        let mut struck = losses::strike(fleet, case.loss, chance);
        losses::follow(fleet, &mut struck, is_over);
        let answers = asked.into_iter().map(|it| it.join().expect("it does not panic")).collect();
        (answers, struck)
    })
}
