//! Who belongs and what would run where, by the commands that people type.

use serde_json::Value;

use crate::process::{NodeProcess, agent, output, stdout};

fn n_alive(state: &Value) -> usize {
    let nodes = state["nodes"].as_array().expect("a list");
    nodes.iter().filter(|node| node["liveness"] == "alive").count()
}

#[test]
fn devices_are_invited_and_removed_and_leave() {
    let (first, second) = (NodeProcess::start("first", &[]), NodeProcess::start("second", &[]));
    let ticket = stdout(&["invite", "--single-use", "--expires", "1h", "--node", first.address()]);
    let join = ["join", ticket.trim(), "--node", second.address()];
    assert!(stdout(&join).starts_with("joined"));
    first.wait_for("two devices", |state| n_alive(state) == 2);
    let third = NodeProcess::start("third", &[]);
    let refused = output(&["join", ticket.trim(), "--node", third.address()]);
    let text = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert_eq!(refused.status.code(), Some(5), "{text}");
    stdout(&["nodes", "forget", "second", "--node", first.address()]);
    first
        .wait_for("one is left", |state| state["nodes"].as_array().is_some_and(|it| it.len() == 1));
    stdout(&["leave", "--node", first.address()]);
    let unknown = output(&["nodes", "forget", "nobody", "--node", first.address()]);
    assert!(!unknown.status.success());
}

#[test]
fn a_plan_is_shown_and_what_was_placed_is_dropped() {
    let nodes = NodeProcess::cluster(2);
    let address = nodes[0].address();
    let plan = stdout(&["plan", "demo", "--node", address]);
    for part in ["demo, context", "TOKENS/S", "node-0 0..", "each further device"] {
        assert!(plan.contains(part), "{part} is missing in\n{plan}");
    }
    stdout(&["place", "demo", "--nodes", "2", "--throughput", "--node", address]);
    let dropped = stdout(&["unplace", "demo", "--node", address]);
    assert!(dropped.starts_with("demo: ") && dropped.contains("dropped"), "{dropped}");
    let nothing = output(&["unplace", "demo", "--node", address]);
    assert_eq!(nothing.status.code(), Some(3), "{}", String::from_utf8_lossy(&nothing.stderr));
    let wrong = output(&["place", "demo", "--pin", "node-0", "--node", address]);
    assert_eq!(wrong.status.code(), Some(2));
}

#[test]
fn a_node_that_is_opened_asks_for_its_token() {
    let node = NodeProcess::start("open", &["--lan", "--allow-origin", "https://chat.example"]);
    let state = |header: Option<(&str, &str)>| {
        let mut request = agent().get(format!("{}/state", node.url()));
        // The page of another site, which the owner has named, still has to know the token.
        request = request.header("origin", "https://chat.example");
        if let Some((name, value)) = header {
            request = request.header(name, value);
        }
        request.call().expect("it answers").status().as_u16()
    };
    assert_eq!(state(None), 401);
    assert_eq!(state(Some(("authorization", "Bearer wrong"))), 401);
    let token = std::fs::read_to_string(node.dir().join("api-token")).expect("it is kept");
    assert_eq!(state(Some(("x-api-key", token.trim()))), 200);
    assert!(stdout(&["nodes", "--node", node.address()]).contains("open"), "here it needs none");
    let own = agent().get(format!("{}/state", node.url())).header("origin", node.url());
    assert_eq!(own.call().expect("it answers").status().as_u16(), 200, "nor does the page here");
    let exposed = output(&["serve", "--listen", "0.0.0.0:0", "--interface", "lo"]);
    assert_eq!(exposed.status.code(), Some(4), "without --lan nothing is opened");
}

#[test]
fn a_node_that_is_opened_knows_its_name_in_the_network() {
    let node = NodeProcess::start("open", &["--lan"]);
    let (_, port) = node.address().rsplit_once(':').expect("a port");
    let token = std::fs::read_to_string(node.dir().join("api-token")).expect("it is kept");
    let status = |host: &str| {
        let request =
            agent().get(format!("{}/state", node.url())).header("x-api-key", token.trim());
        request
            .header("host", format!("{host}:{port}"))
            .call()
            .expect("it answers")
            .status()
            .as_u16()
    };
    let host = rustix::system::uname().nodename().to_str().expect("UTF-8").to_owned();
    let label = host.split('.').next().expect("one at least");
    // What every device calls itself is nobody's name.
    let expected = if ["", "localhost", "(none)"].contains(&label) { 403 } else { 200 };
    assert_eq!(status(&format!("{label}.local")), expected);
    assert_eq!(status("somebody-else.local"), 403);
}

#[test]
fn pages_of_other_sites_need_the_token_without_lan_too() {
    let site = "https://chat.example";
    let node = NodeProcess::start("here", &["--allow-origin", site]);
    let state = |token: Option<&str>| {
        let mut request = agent().get(format!("{}/state", node.url())).header("origin", site);
        if let Some(token) = token {
            request = request.header("authorization", format!("Bearer {token}"));
        }
        request.call().expect("it answers").status().as_u16()
    };
    assert_eq!(state(None), 401);
    let token = std::fs::read_to_string(node.dir().join("api-token")).expect("it is kept");
    assert_eq!(state(Some(token.trim())), 200);
    assert!(stdout(&["nodes", "--node", node.address()]).contains("here"), "commands need none");
}

#[test]
fn the_numbers_and_traces_of_a_request_are_told() {
    let node = NodeProcess::start("one", &[]);
    node.chat("What is Shoal?", 0.0, 1);
    let get = |path: &str| {
        let mut response = agent().get(format!("{}{path}", node.url())).call().expect("it answers");
        response.body_mut().read_to_string().expect("text")
    };
    let metrics = get("/metrics");
    assert!(metrics.contains("shoal_requests_total{outcome="), "{metrics}");
    let trace = get("/traces/1");
    assert!(trace.contains("compute_ms") && !trace.contains("Shoal is"), "{trace}");
    let chrome: Value = serde_json::from_str(&get("/traces/1?format=chrome")).expect("JSON");
    assert!(chrome["traceEvents"].as_array().is_some_and(|events| events.len() > 4));
    let doctor = stdout(&["doctor", "--node", node.address()]);
    assert!(!doctor.trim().is_empty());
}
