//! The processes of stages: where they are seen, and that none survives its node.

use std::{fs, time::Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::{process::NodeProcess, start::PATIENCE};

const QUESTION: &str = "What is Shoal?";

/// The runner of the first stage on the node that answers.
fn runner(state: &Value) -> &Value {
    let nodes = state["nodes"].as_array().expect("a list");
    let own = nodes.iter().find(|node| node["is_self"] == true).expect("it knows itself");
    &own["stages"][0]["runner"]
}

fn pid(state: &Value) -> i32 {
    let pid = runner(state)["pid"].as_i64().expect("it has a process");
    i32::try_from(pid).expect("Linux gives no larger ones")
}

fn send(pid: i32, signal: Signal) {
    kill_process(Pid::from_raw(pid).expect("not zero"), signal).expect("it runs");
}

/// Waits until a process is gone, or at most a zombie of somebody else's.
#[track_caller]
fn wait_for_end(pid: i32) {
    let started = Instant::now();
    let is_running = || {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        stat.rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with('Z'))
    };
    while is_running() {
        assert!(started.elapsed() < PATIENCE, "process {pid} lives on");
        std::thread::yield_now();
    }
}

#[test]
fn a_killed_runner_is_replaced_and_its_node_stays() {
    let node = NodeProcess::start("one", &[]);
    let expected = node.chat(QUESTION, 1.0, 5);
    let first = node.wait_for("a runner", |state| runner(state)["state"] == "ready");
    assert_eq!(runner(&first)["n_restarts"], 0);
    send(pid(&first), Signal::KILL);
    assert_eq!(node.chat(QUESTION, 1.0, 5), expected);
    let second = node.wait_for("another runner", |state| {
        runner(state)["state"] == "ready" && runner(state)["n_restarts"] == 1
    });
    assert_ne!(pid(&second), pid(&first));
    let why = runner(&second)["why"].as_str().expect("it died");
    assert!(why.contains("SIGKILL") && why.contains("MiB were free"), "{why}");
    assert_eq!(second["instances"][0]["epoch"], first["instances"][0]["epoch"]);
}

#[test]
fn a_runner_that_keeps_dying_is_given_up_and_its_layers_are_placed_anew() {
    let nodes = NodeProcess::cluster(2);
    let expected = nodes[0].chat(QUESTION, 1.0, 5);
    let placed = nodes[0].place(2);
    let id = placed["id"].as_str().expect("text");
    // The runner of the second node's stage of that instance.
    let stage = |state: &Value| {
        let all = state["nodes"].as_array().expect("a list");
        let own = all.iter().find(|node| node["is_self"] == true).expect("it knows itself");
        let mut stages = own["stages"].as_array().expect("a list").iter();
        stages.find(|stage| stage["instance"] == id).cloned().unwrap_or_default()
    };
    for n_restarts in 0..5 {
        let state = nodes[1].wait_for("a runner", |state| {
            let runner = &stage(state)["runner"];
            runner["state"] == "ready" && runner["n_restarts"] == n_restarts
        });
        let pid = stage(&state)["runner"]["pid"].as_i64().expect("it has a process");
        send(i32::try_from(pid).expect("Linux gives no larger ones"), Signal::KILL);
    }
    let healed = nodes[0].wait_for("another placement", |state| {
        let mut instances = state["instances"].as_array().expect("a list").iter();
        instances
            .any(|it| it["id"] == id && it["state"] == "ready" && it["epoch"] != placed["epoch"])
    });
    let all = healed["nodes"].as_array().expect("a list");
    assert!(all.iter().all(|node| node["liveness"] == "alive"), "{healed:#}");
    assert_eq!(nodes[1].chat(QUESTION, 1.0, 5), expected);
}

#[test]
fn a_program_that_was_replaced_on_the_disk_goes_on_as_it_is() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let program = dir.path().join("shoal");
    fs::copy(env!("CARGO_BIN_EXE_shoal"), &program).expect("there is room");
    let node = NodeProcess::start_program(&program, dir.path(), "one");
    fs::write(dir.path().join("new"), "#!/bin/sh\nexit 1\n").expect("there is room");
    fs::rename(dir.path().join("new"), &program).expect("the same directory");
    let first = node.wait_for("a runner", |state| runner(state)["state"] == "ready");
    send(pid(&first), Signal::KILL);
    node.wait_for("another runner", |state| {
        runner(state)["state"] == "ready" && runner(state)["n_restarts"] == 1
    });
}

#[test]
fn a_runner_holds_nothing_of_its_node_but_three_pipes() {
    let node = NodeProcess::start("one", &[]);
    let pid = pid(&node.wait_for("a runner", |state| runner(state)["state"] == "ready"));
    let open = fs::read_dir(format!("/proc/{pid}/fd")).expect("it runs");
    let open = open.map(|entry| fs::read_link(entry.expect("readable").path()).unwrap_or_default());
    let files: Vec<String> = open.map(|path| path.to_string_lossy().into_owned()).collect();
    // What this test holds open for its children is not the node's to close.
    let of_the_node = |file: &&String| file.starts_with("socket:") || file.contains("/shoal");
    assert_eq!(files.iter().find(of_the_node), None, "{files:?}");
    let n_pipes = files.iter().filter(|file| file.starts_with("pipe:")).count();
    assert!(n_pipes >= 3, "{files:?}");
}

#[test]
fn a_dropped_model_takes_its_process_and_memory_with_it() {
    let node = NodeProcess::start("one", &[]);
    let state = node.wait_for("a runner", |state| runner(state)["state"] == "ready");
    let id = state["instances"][0]["id"].as_str().expect("text").to_owned();
    let (status, body) = node.delete(&format!("/instance/{id}"));
    assert_eq!(status, 200, "{body:#}");
    wait_for_end(pid(&state));
}

#[test]
fn no_runner_survives_its_node() {
    for signals in [&[][..], &[Signal::STOP]] {
        let mut node = NodeProcess::start("one", &[]);
        let pid = pid(&node.wait_for("a runner", |state| runner(state)["state"] == "ready"));
        // A process that is stopped cannot see for itself that its node is gone.
        signals.iter().for_each(|&signal| send(pid, signal));
        node.kill();
        wait_for_end(pid);
    }
}

#[test]
fn a_node_that_ends_takes_its_runners_with_it() {
    let mut node = NodeProcess::start("one", &[]);
    let pid = pid(&node.wait_for("a runner", |state| runner(state)["state"] == "ready"));
    let own = Pid::from_child(node.child());
    kill_process(own, Signal::TERM).expect("it runs");
    assert_eq!(node.child().wait().expect("it ends").code(), Some(0));
    wait_for_end(pid);
}

#[test]
fn a_runner_started_by_hand_says_what_it_needs() {
    let output = crate::process::output(&["runner"]);
    assert_eq!(output.status.code(), Some(1));
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(stderr.contains("expected what is to be loaded"), "{stderr}");
    let help = crate::process::stdout(&["--help"]);
    assert!(!help.contains("runner"), "nobody types it: {help}");
}
