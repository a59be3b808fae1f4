//! The supervisor in every kind of death, without a process.

use shoal_proto::{Epoch, NodeId, SequenceId, frame::Step};

use super::*;

const INSTANCE: InstanceId = InstanceId(1);

/// A supervisor and its clock.
struct Lab {
    it: Supervisor,
    now: Instant,
}

fn key(sequence: u64) -> FrameKey {
    let sequence = SequenceId(sequence << 32);
    FrameKey { instance: INSTANCE, epoch: Epoch(1), sequence, driver: NodeId([7; 32]) }
}

/// Tokens `position..position + n` of a sequence.
fn step(sequence: u64, position: u32, n: usize) -> Input {
    let body = Body::Step(Step {
        position,
        prefix_hash: 0,
        last_stage: 0,
        tokens: vec![1; n],
        activations: Vec::new(),
        sampling: None,
        timings: Vec::new(),
    });
    Input::Frame(Frame { key: key(sequence), body })
}

fn done(sequence: u64, position: u32) -> FromRunner {
    let body = Body::Done { position, token: None, timings: Vec::new() };
    let frame = Frame { key: key(sequence), body };
    FromRunner::Outgoing(Outgoing { to: NodeId([7; 32]), frame })
}

fn probe(sequence: u64) -> Input {
    Input::Frame(Frame { key: key(sequence), body: Body::Probe { stage: 0, n_tokens: 9 } })
}

fn beat(n_taken: u64, progress: u64, is_busy: bool) -> FromRunner {
    FromRunner::Beat(Beat { n_taken, progress, is_busy })
}

fn killed() -> Exit {
    Exit { signal: Some(9), free_bytes: Some(77 << 20), ..Exit::default() }
}

fn crashed() -> Exit {
    Exit { signal: Some(11), ..Exit::default() }
}

impl Lab {
    /// A runner that is up.
    fn up() -> Self {
        let (route, now) = (Route { stage_idx: 0, next: None }, Instant::now());
        let mut lab = Self { it: Supervisor::new("runner".into(), INSTANCE, route, now), now };
        lab.comes_up();
        lab
    }

    /// Starts the process, at the time that is due, and lets it load.
    fn comes_up(&mut self) {
        self.now = self.it.start_at().expect("it waits for its start").max(self.now);
        self.it.start();
        self.it.hear(FromRunner::Ready);
        let _ = self.orders();
    }

    /// What is ordered, in short words.
    fn orders(&mut self) -> Vec<String> {
        std::iter::from_fn(|| self.it.next_order())
            .map(|order| match order {
                Order::Give(Input::Frame(frame)) => format!("give {}", frame.key.sequence.0 >> 32),
                Order::Send(Outgoing { frame, .. }) => {
                    let sequence = frame.key.sequence.0 >> 32;
                    match frame.body {
                        Body::Lost { reason } => format!("lost {sequence}: {reason}"),
                        Body::Failed { message } => format!("failed {sequence}: {message}"),
                        _ => format!("send {sequence}"),
                    }
                }
                order => format!("{order:?}"),
            })
            .collect()
    }

    /// The first words of what is ordered.
    fn brief(&mut self) -> Vec<String> {
        let brief = |order: String| order.split(':').next().unwrap_or_default().to_owned();
        self.orders().into_iter().map(brief).collect()
    }

    fn dies(&mut self, exit: &Exit) -> Vec<String> {
        self.it.died(exit, self.now);
        self.orders()
    }
}

#[test]
fn everybody_with_steps_in_it_is_told_at_once_and_questions_wait() {
    let mut lab = Lab::up();
    for input in [step(1, 0, 4), step(1, 4, 4), step(2, 0, 4), probe(3)] {
        lab.it.take(input);
    }
    lab.it.hear(done(2, 4));
    assert_eq!(lab.brief(), ["give 1", "give 1", "give 2", "give 3", "send 2"]);
    let told = lab.dies(&killed());
    let why = "runner was killed by the system (SIGKILL), since memory ran short (77 MiB were free); \
               more devices for the model, a shorter context or fewer apps help";
    assert_eq!(told, [format!("lost 1: {why}")], "2 has its answer, and 3 had no step");
    assert_eq!((lab.it.state(), lab.it.n_restarts(), lab.it.why()), ("restarting", 1, Some(why)));
    lab.it.take(probe(1));
    lab.it.take(probe(1));
    lab.it.take(step(4, 0, 1));
    assert_eq!(lab.brief(), [""; 0], "there is nobody to give them to");
    lab.it.start();
    lab.it.hear(FromRunner::Ready);
    assert_eq!(lab.brief(), ["Start", "give 1", "give 4"], "asked twice, answered once");
}

#[test]
fn a_step_that_goes_back_is_not_answered_by_one_before_it() {
    let mut lab = Lab::up();
    lab.it.take(step(1, 8, 4));
    lab.it.take(step(1, 0, 4));
    lab.it.hear(done(1, 12));
    assert_eq!(lab.brief(), ["give 1", "give 1", "send 1"]);
    assert_eq!(lab.dies(&crashed()), ["lost 1: runner crashed (SIGSEGV)"]);
}

#[test]
fn memory_is_not_blamed_where_there_is_plenty() {
    let mut lab = Lab::up();
    lab.dies(&Exit { free_bytes: Some(8 << 30), ..killed() });
    let why = "runner was killed (SIGKILL) by the system or by somebody; 8192 MiB were free";
    assert_eq!(lab.it.why(), Some(why));
}

#[test]
fn it_starts_again_at_once_and_then_ever_later_and_is_given_up() {
    let mut lab = Lab::up();
    for pause in [0, 1, 2, 4] {
        lab.dies(&killed());
        let until = lab.it.start_at().expect("it is tried again");
        assert_eq!(until - lab.now, Duration::from_secs(pause));
        lab.comes_up();
    }
    lab.it.take(step(1, 0, 1));
    lab.it.take(probe(2));
    let _ = lab.orders();
    let last = lab.dies(&killed());
    assert_eq!((lab.it.state(), lab.it.start_at()), ("given up", None));
    assert!(last[0].starts_with("lost 1") && last[1].starts_with("GiveUp"), "{last:?}");
    assert!(last[1].contains("SIGKILL") && last[1].contains("death 5 within 10 min"), "{last:?}");
}

#[test]
fn deaths_are_forgotten_after_a_while() {
    let mut lab = Lab::up();
    for _ in 0..20 {
        lab.dies(&killed());
        assert_eq!(lab.it.start_at(), Some(lab.now), "it has lived for long");
        lab.comes_up();
        lab.now += DEATHS_WITHIN;
    }
    assert_eq!(lab.it.n_restarts(), 20);
}

#[test]
fn a_sequence_that_crashes_it_twice_fails_and_the_others_go_on() {
    let mut lab = Lab::up();
    for sequence in [1, 2, 3] {
        lab.it.take(step(sequence, 0, 8));
    }
    assert_eq!(lab.brief(), ["give 1", "give 2", "give 3"], "nobody is suspected of anything");
    let told = lab.dies(&crashed());
    assert_eq!(told[1], "lost 2: runner crashed (SIGSEGV)");
    lab.comes_up();
    // They come back, and are computed one after another: their first halves, since a driver sends as it likes.
    for sequence in [1, 2, 3] {
        lab.it.take(step(sequence, 0, 4));
        lab.it.take(step(sequence, 4, 4));
    }
    assert_eq!(lab.brief(), ["give 1", "give 1"]);
    lab.it.hear(done(1, 4));
    lab.it.hear(done(1, 8));
    assert_eq!(lab.brief(), ["send 1", "send 1", "give 2", "give 2"]);
    let told = lab.dies(&crashed());
    assert_eq!(
        told,
        [
            "failed 2: runner crashed (SIGSEGV), for the second time on this request",
            "lost 3: runner crashed (SIGSEGV)",
        ]
    );
    lab.comes_up();
    // What is still on its way for the one that failed does no more harm.
    lab.it.take(step(2, 0, 4));
    lab.it.take(step(3, 0, 8));
    lab.it.take(step(1, 8, 1));
    assert_eq!(lab.brief(), ["failed 2", "give 3"], "3 was never there alone");
    lab.it.hear(done(3, 8));
    assert_eq!(lab.brief(), ["send 3", "give 1"]);
    lab.it.take(step(3, 8, 1));
    assert_eq!(lab.brief(), ["give 3"], "beside 1, since it has passed where it was");
}

#[test]
fn a_crash_that_comes_back_only_later_is_no_poison() {
    let mut lab = Lab::up();
    lab.it.take(step(1, 0, 8));
    lab.dies(&crashed());
    lab.comes_up();
    lab.it.take(step(1, 0, 8));
    lab.it.hear(done(1, 8));
    lab.it.take(step(1, 8, 1));
    let _ = lab.orders();
    assert_eq!(lab.dies(&crashed()), ["lost 1: runner crashed (SIGSEGV)"]);
}

#[test]
fn being_killed_is_nobodys_fault() {
    for exit in [killed(), Exit { signal: Some(15), ..Exit::default() }] {
        let mut lab = Lab::up();
        for _ in 0..4 {
            lab.it.take(step(1, 0, 8));
            let _ = lab.orders();
            let told = lab.dies(&exit);
            assert!(told[0].starts_with("lost 1"), "{told:?}");
            lab.comes_up();
        }
    }
}

#[test]
fn a_process_without_a_sign_of_life_is_killed() {
    let mut lab = Lab::up();
    (1..SILENT_TICKS_MAX).for_each(|_| lab.it.tick());
    lab.it.hear(beat(0, 0, false));
    (1..SILENT_TICKS_MAX).for_each(|_| lab.it.tick());
    assert_eq!(lab.brief(), [""; 0]);
    lab.it.take(step(1, 0, 1));
    lab.it.tick();
    assert_eq!(lab.brief(), ["give 1", "Kill"]);
    lab.it.tick();
    assert_eq!(lab.brief(), [""; 0], "once");
    assert_eq!(lab.dies(&killed()), ["lost 1: runner gave no sign of life for 3 s"]);
}

#[test]
fn a_program_that_comes_from_a_slow_disk_has_a_minute() {
    let (route, now) = (Route { stage_idx: 0, next: None }, Instant::now());
    let it = Supervisor::new("runner".into(), INSTANCE, route, now);
    let mut lab = Lab { it, now };
    lab.it.start();
    (1..LOADING_TICKS_MAX).for_each(|_| lab.it.tick());
    assert_eq!(lab.brief(), ["Start"]);
    lab.it.tick();
    assert_eq!(lab.brief(), ["Kill"]);
    lab.dies(&killed());
    assert_eq!(lab.it.why(), Some("runner did not load within 60 s"));
}

#[test]
fn slow_work_is_work_and_work_without_progress_is_a_hang() {
    let mut lab = Lab::up();
    lab.it.take(step(1, 0, 1));
    for progress in 0..10 {
        for _ in 1..STUCK_TICKS_MAX {
            lab.it.hear(beat(1, progress, true));
            lab.it.tick();
        }
    }
    assert_eq!(lab.brief(), ["give 1"], "however long it takes");
    for _ in 0..STUCK_TICKS_MAX {
        lab.it.hear(beat(1, 9, true));
        lab.it.tick();
    }
    assert_eq!(lab.brief(), ["Kill"]);
    assert_eq!(lab.dies(&killed()), ["lost 1: runner computed for 20 s without progress"]);
    // The same again, and the sequence was alone.
    lab.comes_up();
    lab.it.take(step(1, 0, 1));
    for _ in 0..=STUCK_TICKS_MAX {
        lab.it.hear(beat(1, 0, true));
        lab.it.tick();
    }
    let _ = lab.orders();
    assert!(lab.dies(&killed())[0].starts_with("failed 1"));
}

#[test]
fn an_idle_process_never_hangs() {
    let mut lab = Lab::up();
    for _ in 0..10 * STUCK_TICKS_MAX {
        lab.it.hear(beat(0, 0, false));
        lab.it.tick();
    }
    assert_eq!(lab.brief(), [""; 0]);
}

#[test]
fn a_load_that_fails_is_the_end_at_first_and_a_death_later() {
    let route = Route { stage_idx: 0, next: None };
    let mut lab = Lab {
        it: Supervisor::new("runner".into(), INSTANCE, route, Instant::now()),
        now: Instant::now(),
    };
    lab.it.start();
    lab.it.hear(FromRunner::LoadFailed("no such file".into()));
    assert_eq!(lab.orders(), ["Start", "GiveUp(\"no such file\")"]);
    let mut lab = Lab::up();
    lab.dies(&killed());
    lab.it.start();
    lab.it.hear(FromRunner::LoadFailed("no such file".into()));
    assert_eq!(lab.orders(), ["Start", "Kill"]);
    lab.dies(&killed());
    assert_eq!(lab.it.why(), Some("runner cannot load its layers again: no such file"));
}

#[test]
fn a_process_that_writes_nonsense_is_killed() {
    let mut lab = Lab::up();
    lab.it.hear_garbage(&WireError::Head { got: [1; 8] });
    assert_eq!(lab.brief(), ["Kill"]);
    lab.dies(&killed());
    assert!(lab.it.why().expect("it died").starts_with("runner wrote nonsense: expected"));
    lab.comes_up();
    let mut foreign = key(1);
    foreign.instance = InstanceId(2);
    let frame = Frame { key: foreign, body: Body::Close };
    lab.it.hear(FromRunner::Outgoing(Outgoing { to: NodeId([1; 32]), frame }));
    assert_eq!(lab.brief(), ["Kill"], "nobody gets that frame");
}

#[test]
fn an_idle_process_has_nothing_under_way_whatever_it_left_unanswered() {
    let mut lab = Lab::up();
    lab.it.take(step(1, 0, 8));
    lab.dies(&crashed());
    lab.comes_up();
    lab.it.take(step(1, 0, 8));
    lab.it.take(step(2, 0, 8));
    lab.it.hear(beat(1, 0, true));
    lab.it.hear(beat(0, 0, false));
    assert_eq!(lab.brief(), ["give 1"], "the second waits for the suspect");
    lab.it.hear(beat(1, 0, false));
    assert_eq!(lab.brief(), ["give 2"]);
}

#[test]
fn a_crash_says_what_it_wrote_last() {
    let mut lab = Lab::up();
    let words = Some("index out of bounds".to_owned());
    lab.dies(&Exit { signal: Some(6), last_words: words, ..Exit::default() });
    assert_eq!(lab.it.why(), Some("runner crashed (SIGABRT: index out of bounds)"));
    lab.comes_up();
    lab.dies(&Exit { code: Some(3), ..Exit::default() });
    assert_eq!(lab.it.why(), Some("runner crashed (exit code 3)"));
}

#[test]
fn it_is_started_where_its_stage_stands_by_then() {
    let mut lab = Lab::up();
    let route = Route { stage_idx: 1, next: Some(NodeId([3; 32])) };
    lab.dies(&killed());
    lab.it.take(Input::Move(route));
    assert_eq!(lab.it.route(), route);
}
