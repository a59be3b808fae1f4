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
