//! Starting the program on a host of the lab and talking to it.

use std::{
    io::{BufRead, BufReader},
    path::Path,
    process::Stdio,
    sync::mpsc,
    time::{Duration, Instant},
};

use serde_json::{Value, json};
use shoal_netlab::{Host, Process, Segment};
use tempfile::TempDir;

use crate::{
    chat,
    start::{PATIENCE, shoal, url_when_ready},
};

/// Asked in this order; the answers of one node are what any number of nodes must give.
pub(crate) const QUESTIONS: [&str; 2] = ["What is Shoal?", "How do I add a phone?"];

/// A running node on a host. Killed when dropped.
pub(crate) struct Node<'a> {
    host: &'a Host,
    process: Process,
    url: String,
    _dir: Option<TempDir>,
}

impl<'a> Node<'a> {
    /// Starts a node on all of the host's interfaces, with a data directory of its own.
    pub(crate) fn start(host: &'a Host, extra: &[&str]) -> Self {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let mut node = Self::start_in(host, dir.path(), extra);
        node._dir = Some(dir);
        node
    }

    /// Starts a node with this data directory.
    pub(crate) fn start_in(host: &'a Host, dir: &Path, extra: &[&str]) -> Self {
        let mut command = shoal(&["serve", "--listen", "127.0.0.1:0", "--threads", "1"]);
        command.args(["--name", host.name(), "--data-dir"]).arg(dir).args(extra);
        command.stdout(Stdio::piped());
        let mut process = host.spawn(command).expect("the program starts");
        let url = url_when_ready(process.child().stdout.take().expect("piped above"));
        Self { host, process, url, _dir: None }
    }

    /// Starts a node on each host, which form one cluster, and waits until each sees all.
    pub(crate) fn cluster(hosts: &'a [Host]) -> Vec<Self> {
        let (first, others) = hosts.split_first().expect("at least one host");
        let mut nodes = vec![Self::start(first, &[])];
        for host in others {
            let ticket = nodes[0].ticket();
            nodes.push(Self::start(host, &["--join", &ticket]));
        }
        for node in &nodes {
            node.wait_for_alive(hosts.len());
        }
        nodes
    }

    pub(crate) fn ticket(&self) -> String {
        let (status, body) = self.post("/invite", &json!({}));
        assert_eq!(status, 200, "{body:#}");
        body["ticket"].as_str().expect("text").to_owned()
    }

    pub(crate) fn post(&self, path: &str, body: &Value) -> (u16, Value) {
        self.host.post(&format!("{}{path}", self.url), body).expect("the node answers")
    }

    pub(crate) fn get(&self, path: &str) -> (u16, Value) {
        self.host.get(&format!("{}{path}", self.url)).expect("the node answers")
    }

    /// Waits until it sees `n` nodes alive, itself included; returns how long that took.
    #[track_caller]
    pub(crate) fn wait_for_alive(&self, n: usize) -> Duration {
        let started = Instant::now();
        loop {
            let (_, state) = self.get("/state");
            let nodes = state["nodes"].as_array().expect("a list");
            if nodes.iter().filter(|node| node["liveness"] == "alive").count() == n {
                return started.elapsed();
            }
            assert!(started.elapsed() < PATIENCE, "{n} nodes never came: {state:#}");
            pause();
        }
    }

    /// Spreads the demonstration model over this many nodes.
    #[track_caller]
    pub(crate) fn place(&self, n_nodes: usize) {
        let (status, body) =
            self.post("/place_instance", &json!({"model": "demo", "nodes": n_nodes}));
        assert_eq!(status, 200, "{body:#}");
        assert_eq!(body["placement"].as_array().expect("a list").len(), n_nodes, "{body:#}");
    }

    /// The text of an answer.
    #[track_caller]
    pub(crate) fn chat(&self, question: &str, temperature: f32) -> String {
        let (status, body) = self.post("/v1/chat/completions", &chat_body(question, temperature));
        assert_eq!(status, 200, "{body:#}");
        body["choices"][0]["message"]["content"].as_str().expect("text").to_owned()
    }

    /// All answers to [`QUESTIONS`], greedy and drawn.
    #[track_caller]
    pub(crate) fn answers(&self) -> Vec<String> {
        let temperatures = [0.0, 1.0].into_iter();
        let asked = temperatures.flat_map(|t| QUESTIONS.map(|question| self.chat(question, t)));
        asked.collect()
    }

    /// The text of an answer that is read as it comes; `at` is called with the number of pieces so far.
    #[track_caller]
    pub(crate) fn stream(&self, body: &Value, mut at: impl FnMut(usize) + Send) -> String {
        let mut body = body.clone();
        body["stream"] = json!(true);
        let url = format!("{}/v1/chat/completions", self.url);
        self.host.run(|| {
            let config = ureq::Agent::config_builder().timeout_global(Some(PATIENCE)).proxy(None);
            let agent: ureq::Agent = config.build().into();
            let response = agent.post(url).send_json(&body).expect("the node answers");
            let mut text = String::new();
            let mut n_pieces = 0;
            for line in BufReader::new(response.into_body().into_reader()).lines() {
                let line = line.expect("the answer goes on");
                let Some(event) = line.strip_prefix("data: ") else { continue };
                if event == "[DONE]" {
                    return text;
                }
                let event: Value = serde_json::from_str(event).expect("JSON");
                assert!(event.get("error").is_none(), "{event:#}");
                if let Some(piece) = event["choices"][0]["delta"]["content"].as_str() {
                    text.push_str(piece);
                    n_pieces += 1;
                    at(n_pieces);
                }
            }
            panic!("the answer ended without its end after {text:?}");
        })
    }

    /// Ends the process at once, as a crash would.
    pub(crate) fn kill(&mut self) {
        self.process.child().kill().expect("it runs");
        self.process.child().wait().expect("it was started here");
    }
}

/// A question with a seed that is always the same.
pub(crate) fn chat_body(question: &str, temperature: f32) -> Value {
    chat::chat_body(question, temperature, 5)
}

/// Hosts on a segment at `first`, `first + 1`, ..
pub(crate) fn attach(hosts: &[Host], segment: &Segment, network: &str, first: u8) {
    for (i, host) in (first..).zip(hosts) {
        host.attach(segment, &format!("{network}.{i}/24")).expect("a free address");
    }
}

/// Lets others have the processor between two looks at a condition.
fn pause() {
    let (_sender, nothing) = mpsc::channel::<()>();
    let _ = nothing.recv_timeout(Duration::from_millis(20));
}
