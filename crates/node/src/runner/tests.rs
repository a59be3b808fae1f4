//! Processes that do what a runner's process must not, and nodes that live with them.
//!
//! The test program itself is what is started, by way of a shell, since its own output goes elsewhere: [`fake_program`] is
//! what it then runs, on what the shell has left open for it.

use std::{
    fs::{File, OpenOptions},
    io::{PipeWriter, Write},
    time::Duration,
};

use shoal_proto::{
    SamplingParams,
    frame::{Body, Frame},
};

use super::{
    process::{Happening, Process},
    supervisor::Exit,
    wire::ToRunner,
    *,
};
use crate::{
    Config, Event, GenerateRequest, Generation, InstanceStatus, Node, PlaceRequest, Prompt,
};

/// No wait of a test is longer.
const PATIENCE: Duration = Duration::from_secs(60);

/// A program that is the runner of [`fake_program`] with these words.
fn fake(words: &str) -> RunnerCommand {
    let own = std::env::current_exe().expect("it runs");
    let script =
        "exec \"$0\" --exact runner::tests::fake_program --nocapture \"$1\" 3>&1 >/dev/null";
    shell_with(script, &[own.to_str().expect("UTF-8"), words])
}

fn shell(script: &str) -> RunnerCommand {
    shell_with(script, &[])
}

fn shell_with(script: &str, args: &[&str]) -> RunnerCommand {
    let args = ["-c", script].iter().chain(args).map(Into::into).collect();
    RunnerCommand { program: "/bin/sh".into(), args }
}

/// What `fake:…` on the command line asks for; nothing among the other tests.
#[test]
fn fake_program() {
    let Some(words) = std::env::args().find(|arg| arg.starts_with("fake:")) else { return };
    let output = OpenOptions::new().write(true).open("/dev/fd/3").expect("the shell opened it");
    let input = File::open("/dev/fd/0").expect("every program has it");
    match words.split(':').skip(1).collect::<Vec<_>>()[..] {
        ["plain"] => child::run_stage(input, output).expect("a node talks to it"),
        ["loud"] => {
            let line = [b'x'; 1000];
            for _ in 0..5000 {
                std::io::stderr()
                    .write_all(&line)
                    .and_then(|()| std::io::stderr().write_all(b"\n"))
                    .expect("it is read");
            }
            child::run_stage(input, output).expect("a node talks to it");
        }
        ["poison", token] => {
            let poison: u32 = token.parse().expect("a number");
            let (clean, into) = std::io::pipe().expect("there are pipes");
            std::thread::spawn(move || pass_on(input, into, poison));
            child::run_stage(clean, output).expect("a node talks to it");
        }
        _ => panic!("{words}"),
    }
}

/// Passes on what a runner is told, and crashes at a token.
fn pass_on(mut input: File, mut output: PipeWriter, poison: u32) {
    while let Ok(Some(message)) = child::read(&mut input) {
        if let ToRunner::Input(Input::Frame(Frame { body: Body::Step(step), .. })) = &message
            && step.tokens.contains(&poison)
        {
            std::process::abort();
        }
        output.write_all(&message.encode()).expect("the runner reads");
    }
}

/// What a process does until it has ended, and how it ended.
async fn watch(command: &RunnerCommand) -> (Vec<String>, Exit) {
    let mut process = Process::start(command, "stage").await.expect("it starts");
    let mut seen = Vec::new();
    let ended = async {
        loop {
            match process.next(true).await {
                Happening::Said(message) => seen.push(format!("{message:?}")),
                Happening::Garbled(error) => {
                    seen.push(error.to_string());
                    process.kill();
                }
                Happening::Ended(exit) => return exit,
            }
        }
    };
    let exit = tokio::time::timeout(PATIENCE, ended).await.expect("it ends");
    (seen, exit)
}

#[tokio::test]
async fn the_end_of_a_process_says_how_and_what_it_wrote_last() {
    let (seen, exit) = watch(&shell("echo INFO fine >&2; echo no more >&2; exit 3")).await;
    assert_eq!(seen, [""; 0]);
    assert_eq!((exit.code, exit.last_words.as_deref()), (Some(3), Some("no more")));
    let (_, exit) = watch(&shell("kill -SEGV $$")).await;
    assert_eq!((exit.signal, exit.code), (Some(11), None));
}

#[tokio::test]
async fn what_was_said_before_the_end_is_heard() {
    // Two messages that the shard is ready, and death.
    let script =
        r"printf '\020\001\000\000\000\000\000\000\020\001\000\000\000\000\000\000'; kill -9 $$";
    let (seen, exit) = watch(&shell(script)).await;
    assert_eq!((seen, exit.signal), (vec!["Ready".to_owned(); 2], Some(9)));
}

#[tokio::test]
async fn garbage_is_noticed_and_takes_no_memory() {
    let (seen, exit) = watch(&shell("exec cat /dev/zero")).await;
    assert_eq!(
        seen,
        ["expected a message of version 1, got the bytes [00, 00, 00, 00, 00, 00, 00, 00]"]
    );
    assert_eq!(exit.signal, Some(9), "it was killed for that");
}

#[tokio::test]
async fn who_closes_its_output_is_ended() {
    let (_, exit) = watch(&shell("exec sleep 1000 >&-")).await;
    assert_eq!(exit.signal, Some(9));
}

#[tokio::test]
async fn a_process_ends_with_its_input_and_by_force_if_it_does_not() {
    for script in ["cat >/dev/null", "exec sleep 1000"] {
        let process = Process::start(&shell(script), "stage").await.expect("it starts");
        let pid = process.pid();
        assert!(is_running(pid));
        process.end().await;
        assert!(!is_running(pid), "{script}");
    }
}

#[tokio::test]
async fn a_program_that_is_not_there_is_an_error() {
    let command = RunnerCommand { program: "/nowhere/shoal".into(), args: Vec::new() };
    Process::start(&command, "stage").await.expect_err("it is not there");
}

fn is_running(pid: u32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with('Z'))
}

/// A node without a network, whose stages are such processes; or threads.
async fn node(runner: Option<RunnerCommand>) -> Node {
    let config = Config { name: "one".into(), runner, n_threads: Some(1), ..Config::default() };
    Node::start(config).await.expect("it needs nothing")
}

async fn place(node: &Node, model: &str) -> Result<InstanceStatus, Error> {
    node.place(PlaceRequest { model: model.into(), ..PlaceRequest::default() }).await
}

async fn ask(node: &Node, prompt: &str, n_tokens: u32) -> Generation {
    let request = GenerateRequest {
        model: "demo".into(),
        prompt: Prompt::Raw(prompt.into()),
        sampling: SamplingParams { temperature: 1.0, seed: 7, ..SamplingParams::default() },
        breakers: Vec::new(),
        max_tokens: Some(n_tokens),
        stop: Vec::new(),
    };
    node.generate(request).await.expect("the model is placed")
}

/// The text of an answer, or why it failed.
async fn read(mut answer: Generation) -> Result<String, String> {
    let mut text = String::new();
    while let Some(event) = answer.next().await {
        match event {
            Event::Text(piece) => text.push_str(&piece),
            Event::Failed(error) => return Err(crate::error::chain(&error)),
            _ => {}
        }
    }
    Ok(text)
}

/// Waits until a condition on the node's one runner holds.
#[track_caller]
fn wait_for(
    node: &Node,
    what: &'static str,
    holds: impl Fn(&RunnerStatus) -> bool,
) -> impl Future<Output = RunnerStatus> {
    let caller = std::panic::Location::caller();
    async move {
        let deadline = tokio::time::Instant::now() + PATIENCE;
        loop {
            let runners = node.runners();
            if let Some(status) = runners.iter().find(|status| holds(status)) {
                return status.clone();
            }
            let is_late = tokio::time::Instant::now() > deadline;
            assert!(!is_late, "{caller}: {what}, in vain: {runners:?}");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}

fn signal(pid: Option<u32>, signal: rustix::process::Signal) {
    let pid = pid.and_then(|pid| rustix::process::Pid::from_raw(i32::try_from(pid).ok()?));
    rustix::process::kill_process(pid.expect("a process"), signal).expect("it runs");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_process_gives_the_same_answers_as_a_thread() {
    let mut answers = Vec::new();
    for runner in [None, Some(fake("fake:plain")), Some(fake("fake:loud"))] {
        let node = node(runner.clone()).await;
        place(&node, "demo").await.expect("it is in the binary");
        answers.push(read(ask(&node, "The fish", 40).await).await.expect("it answers"));
        let pid = node.runners()[0].pid;
        assert_eq!(pid.is_some(), runner.is_some());
        node.shutdown().await;
        assert!(!pid.is_some_and(is_running), "a node takes its processes with it");
    }
    assert_eq!(answers[1..], [answers[0].clone(), answers[0].clone()]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answer_survives_the_death_of_its_runner() {
    use rustix::process::Signal;

    let node = node(Some(fake("fake:plain"))).await;
    let placed = place(&node, "demo").await.expect("it is in the binary");
    let expected = read(ask(&node, "The fish", 200).await).await.expect("it answers");
    for (n_deaths, with) in [(1, Signal::KILL), (2, Signal::ABORT)] {
        let first = node.runners()[0].clone();
        let mut answer = ask(&node, "The fish", 200).await;
        let mut text = String::new();
        while text.is_empty() {
            if let Some(Event::Text(piece)) = answer.next().await {
                text.push_str(&piece);
            }
        }
        signal(first.pid, with);
        text.push_str(&read(answer).await.expect("it goes on"));
        assert_eq!(text, expected, "{with:?}");
        let is_back = |it: &RunnerStatus| it.state == "ready" && it.n_restarts == n_deaths;
        let again = wait_for(&node, "ready again", is_back).await;
        assert_ne!(again.pid, first.pid);
    }
    let why = node.runners()[0].why.clone().expect("it died");
    assert!(why.contains("SIGABRT"), "{why}");
    assert_eq!(node.instances()[0].record.epoch, placed.record.epoch, "nothing was placed anew");
    node.shutdown().await;
}

/// Tokens that a node's own stage holds of a sequence.
async fn held(node: &Node, record: &InstanceRecord, sequence: SequenceId) -> u32 {
    let router = node.inner().router();
    let sequence = sequence.next_use();
    let mut place = router.register(record.id, sequence);
    let key = FrameKey { instance: record.id, epoch: record.epoch, sequence, driver: node.id() };
    let body = Body::Probe { stage: 0, n_tokens: u32::MAX };
    router.send(node.id(), Frame { key, body }).await;
    let answer = tokio::time::timeout(PATIENCE, place.frames.recv()).await.expect("it answers");
    match answer.map(|frame| frame.body) {
        Some(Body::Have { n_tokens, .. }) => n_tokens,
        other => panic!("{other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stage_forgets_what_nobody_asks_after() {
    for runner in [None, Some(fake("fake:plain"))] {
        let node = node(runner).await;
        let record = place(&node, "demo").await.expect("it is in the binary").record;
        let expected = read(ask(&node, "The fish", 8).await).await.expect("it answers");
        let (inner, router) = (node.inner(), node.inner().router());
        let [(_, sequence)] = inner.sequences().kept()[..] else { panic!("one is kept") };
        assert_ne!(held(&node, &record, sequence).await, 0);
        router.expire(Duration::from_secs(3600)).await;
        assert_ne!(held(&node, &record, sequence).await, 0, "somebody has just asked");
        router.expire(Duration::ZERO).await;
        assert_eq!(held(&node, &record, sequence).await, 0);
        let again = read(ask(&node, "The fish", 8).await).await;
        assert_eq!(again, Ok(expected), "it is computed anew");
        node.shutdown().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_driver_asks_after_what_it_keeps() {
    let node = node(None).await;
    let record = place(&node, "demo").await.expect("it is in the binary").record;
    read(ask(&node, "The fish", 8).await).await.expect("it answers");
    let (inner, router) = (node.inner(), node.inner().router());
    let [(id, sequence)] = inner.sequences().kept()[..] else { panic!("one is kept") };
    let used = router.last_used(id);
    let mut place = router.register(id, sequence);
    inner.vouch().await;
    let answer = tokio::time::timeout(PATIENCE, place.frames.recv()).await.expect("it was asked");
    assert!(matches!(answer.map(|frame| frame.body), Some(Body::Have { stage: 0, .. })));
    assert_eq!(router.last_used(id), used, "who is only asked after is idle");
    node.unplace(record.id).await.expect("it was placed");
    inner.vouch().await;
    assert_eq!(inner.sequences().kept(), [], "it is no more");
    node.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stopped_runner_is_replaced() {
    let node = node(Some(fake("fake:plain"))).await;
    place(&node, "demo").await.expect("it is in the binary");
    let expected = read(ask(&node, "The fish", 8).await).await.expect("it answers");
    let pid = node.runners()[0].pid;
    signal(pid, rustix::process::Signal::STOP);
    let answer = ask(&node, "The fish", 8).await;
    assert_eq!(read(answer).await.expect("another one answers"), expected);
    let status = wait_for(&node, "ready again", |it| it.state == "ready" && it.pid != pid).await;
    assert!(status.why.expect("it died").contains("no sign of life"));
    assert!(!pid.is_some_and(is_running));
    node.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_that_crashes_its_runner_fails_alone() {
    let plain = node(None).await;
    let placed = place(&plain, "demo").await.expect("it is in the binary");
    let opened = plain.inner().open(&placed.record.model).await.expect("it is open");
    let poison = *opened.tokenizer.encode_prompt("zebra", false).last().expect("some token");
    let expected = read(ask(&plain, "The fish", 300).await).await.expect("it answers");
    plain.shutdown().await;

    let node = node(Some(fake(&format!("fake:poison:{poison}")))).await;
    place(&node, "demo").await.expect("it is in the binary");
    let good = ask(&node, "The fish", 300).await;
    let bad = ask(&node, "A zebra", 8).await;
    let (good, bad) = tokio::join!(read(good), read(bad));
    let bad = bad.expect_err("it crashes whatever computes it");
    assert!(
        bad.contains("SIGABRT") && bad.contains("for the second time on this request"),
        "{bad}"
    );
    assert_eq!(good, Ok(expected), "the other one goes on");
    wait_for(&node, "ready again", |it| it.state == "ready" && it.n_restarts == 2).await;
    node.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_program_that_always_exits_is_given_up() {
    let node = node(Some(shell("echo nothing works here >&2; exit 3"))).await;
    let error = place(&node, "demo").await.expect_err("it never comes up");
    let text = crate::error::chain(&error);
    assert!(text.contains("exit code 3: nothing works here"), "{text}");
    assert!(text.contains("death 5 within 10 min"), "{text}");
    assert_eq!(node.runners(), []);
    node.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_runner_that_cannot_load_says_why_at_once() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let path = dir.path().join("model.gguf");
    let demo = concat!(env!("CARGO_MANIFEST_DIR"), "/../hub/demo/shoal-demo.gguf");
    std::fs::copy(demo, &path).expect("writable");
    let node = node(Some(fake("fake:plain"))).await;
    let model = path.to_str().expect("UTF-8");
    let placed = place(&node, model).await.expect("it is there");
    node.unplace(placed.record.id).await.expect("it was placed");
    // The node has its header open; whoever looks now finds nothing.
    std::fs::remove_file(&path).expect("it is there");
    let error = place(&node, model).await.expect_err("it is gone");
    let text = crate::error::chain(&error);
    assert!(text.contains("model.gguf") && !text.contains("death"), "{text}");
    node.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_runner_that_is_given_up_later_leaves_the_node_well() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let path = dir.path().join("model.gguf");
    let demo = concat!(env!("CARGO_MANIFEST_DIR"), "/../hub/demo/shoal-demo.gguf");
    std::fs::copy(demo, &path).expect("writable");
    let node = node(Some(fake("fake:plain"))).await;
    place(&node, path.to_str().expect("UTF-8")).await.expect("it is there");
    std::fs::remove_file(&path).expect("it is there");
    signal(node.runners()[0].pid, rustix::process::Signal::KILL);
    let deadline = tokio::time::Instant::now() + PATIENCE;
    while !node.runners().is_empty() {
        assert!(tokio::time::Instant::now() < deadline, "{:?}", node.runners());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let own = &node.nodes()[0];
    assert!(own.record.stages.is_empty() && own.liveness == "alive", "{own:?}");
    place(&node, "demo").await.expect("other models run");
    node.shutdown().await;
}
