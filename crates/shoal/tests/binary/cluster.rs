//! Several nodes, each a process, joined by a ticket over real connections on loopback.

use serde_json::json;

use crate::{
    chat::chat_body,
    process::{NodeProcess, agent, stdout},
};

const QUESTIONS: [&str; 3] = ["What is Shoal?", "How do I add a phone?", "Hello!"];

#[test]
fn one_two_and_three_nodes_give_the_same_bytes() {
    let nodes = NodeProcess::cluster(3);
    let ask = || -> Vec<String> {
        let greedy = QUESTIONS.iter().map(|question| nodes[0].chat(question, 0.0, 1));
        greedy.chain(QUESTIONS.iter().map(|question| nodes[0].chat(question, 1.0, 5))).collect()
    };
    let one = ask();
    for n_nodes in [2, 3] {
        let placed = nodes[0].place(n_nodes);
        let stages = placed["placement"].as_array().expect("a list");
        assert_eq!(stages.len(), n_nodes, "{placed:#}");
        assert_eq!(ask(), one, "over {n_nodes} nodes");
    }
    let together: Vec<String> = std::thread::scope(|scope| {
        let first = &nodes[0];
        let chats = QUESTIONS.map(|question| scope.spawn(move || first.chat(question, 1.0, 5)));
        chats.into_iter().map(|chat| chat.join().expect("it answers")).collect()
    });
    assert_eq!(together, one[3..], "three requests at once over three nodes");
}

#[test]
fn any_node_answers_for_a_placed_model() {
    let nodes = NodeProcess::cluster(3);
    nodes[0].place(3);
    let expected = nodes[0].chat(QUESTIONS[0], 0.0, 1);
    for node in &nodes[1..] {
        node.wait_for("the placement is known", |state| {
            let instances = state["instances"].as_array().expect("a list");
            instances
                .iter()
                .any(|instance| instance["placement"].as_array().is_some_and(|s| s.len() == 3))
        });
        assert_eq!(node.chat(QUESTIONS[0], 0.0, 1), expected);
    }
}

#[test]
fn the_commands_show_and_place() {
    let nodes = NodeProcess::cluster(2);
    let address = nodes[0].address();
    let table = stdout(&["nodes", "--node", address]);
    assert!(table.contains("node-0") && table.contains("node-1"), "{table}");
    let placed = stdout(&["place", "demo", "--nodes", "2", "--node", address]);
    assert!(
        ["node-0 ", "node-1 ", " -> ", "ready"].iter().all(|part| placed.contains(part)),
        "{placed}"
    );
}

#[test]
fn a_node_that_restarts_finds_its_cluster_without_a_ticket() {
    let first = NodeProcess::start("first", &[]);
    let dir = tempfile::tempdir().expect("a temporary directory");
    let mut second = NodeProcess::start_in(dir.path(), "second", &["--join", &first.ticket()]);
    let alive = |state: &serde_json::Value| {
        let nodes = state["nodes"].as_array().expect("a list");
        nodes.iter().filter(|node| node["liveness"] == "alive").count() == 2
    };
    first.wait_for("the second node", alive);
    second.kill();
    first.wait_for("its death", |state| !alive(state));
    let second = NodeProcess::start_in(dir.path(), "second", &[]);
    first.wait_for("its return", alive);
    second.wait_for("the first node", alive);
}

#[test]
fn a_lost_stage_is_an_error_and_never_a_stop() {
    let mut nodes = NodeProcess::cluster(2);
    nodes[0].place(2);
    nodes[1].kill();
    let (status, body) = nodes[0].post("/v1/chat/completions", &{
        let mut body = chat_body(QUESTIONS[0], 0.0, 1);
        body["model"] = json!("demo");
        body
    });
    // The single-node instance of the same model may answer instead; what must not be is a cut answer that looks whole.
    match status {
        200 => assert_ne!(body["choices"][0]["message"]["content"], "", "{body:#}"),
        _ => assert!(body["error"]["message"].is_string(), "{body:#}"),
    }
}

#[test]
fn a_client_that_goes_away_frees_its_sequence() {
    use std::io::Read;

    let node = NodeProcess::start("one", &[]);
    let mut body = chat_body(QUESTIONS[0], 0.0, 1);
    body["stream"] = json!(true);
    let url = format!("{}/v1/chat/completions", node.url());
    let response = agent().post(url).send_json(&body).expect("the node answers");
    let mut first = [0; 16];
    response.into_body().into_reader().read_exact(&mut first).expect("the stream begins");
    node.wait_for("no request under way", |state| state["n_requests"] == 0);
}

#[test]
fn an_instance_survives_the_end_of_every_node() {
    let mut nodes = NodeProcess::cluster(3);
    let placed = nodes[0].place(3);
    let expected = nodes[0].chat(QUESTIONS[0], 0.0, 1);
    let spread = |state: &serde_json::Value| {
        let instances = state["instances"].as_array().expect("a list");
        instances.iter().find(|instance| instance["id"] == placed["id"]).cloned()
    };
    for node in &nodes {
        node.wait_for("it is known", |state| {
            spread(state).is_some_and(|instance| instance["state"] == "ready")
        });
        // What everybody knows is on everybody's disk a moment later.
        let path = node.dir().join("instances");
        node.wait_for("it is on disk", |_| {
            std::fs::read(&path)
                .is_ok_and(|bytes| bytes.windows(4).filter(|window| window == b"demo").count() == 4)
        });
    }
    nodes.iter_mut().for_each(|node| node.child().kill().expect("it runs"));
    nodes.iter_mut().for_each(NodeProcess::kill);
    let first = NodeProcess::start_in(nodes[0].dir(), "node-0", &[]);
    let ticket = first.ticket();
    let others: Vec<NodeProcess> = [1, 2]
        .map(|i| {
            let name = format!("node-{i}");
            NodeProcess::start_in(nodes[i].dir(), &name, &["--join", &ticket])
        })
        .into();
    first.wait_for("all nodes are back", |state| {
        let nodes = state["nodes"].as_array().expect("a list");
        nodes.iter().filter(|node| node["liveness"] == "alive").count() == 3
    });
    let mut body = chat_body(QUESTIONS[0], 0.0, 1);
    body["model"] = placed["id"].clone();
    let (status, answer) = others[0].post("/v1/chat/completions", &body);
    assert_eq!(status, 200, "{answer:#}");
    assert_eq!(answer["choices"][0]["message"]["content"], expected.as_str());
    let state = first.wait_for("it is ready", |state| {
        spread(state).is_some_and(|instance| instance["state"] == "ready")
    });
    // Each node has the demonstration model once, as before.
    assert_eq!(state["instances"].as_array().expect("a list").len(), 4, "{state:#}");
}

#[test]
fn the_drain_command_empties_a_device_and_takes_it_back() {
    let nodes = NodeProcess::cluster(3);
    let placed = nodes[0].place(2);
    let last = placed["placement"][1]["node"].as_str().expect("an id").to_owned();
    let address = nodes[0].address();
    let said = stdout(&["drain", &last, "--node", address]);
    assert!(said.contains("gives its layers to the others"), "{said}");
    nodes[0].wait_for("it is empty", |state| {
        let instances = state["instances"].as_array().expect("a list");
        let stages = instances.iter().flat_map(|it| it["placement"].as_array().expect("a list"));
        stages.into_iter().all(|stage| stage["node"] != last.as_str())
    });
    let table = stdout(&["nodes", "--node", address]);
    assert!(table.contains("draining"), "{table}");
    let said = stdout(&["drain", &last, "--undo", "--node", address]);
    assert!(said.contains("may have layers again"), "{said}");
    nodes[0].wait_for("it is back", |state| {
        let nodes = state["nodes"].as_array().expect("a list");
        nodes.iter().all(|node| node["draining"].is_null())
    });
}
