//! Starting the program and talking to it.

use std::{
    path::Path,
    process::{Child, Command, Output, Stdio},
};

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::{
    chat::chat_body,
    start::{PATIENCE, shoal, url_when_ready},
};

/// Runs the program to its end.
pub(crate) fn output(args: &[&str]) -> Output {
    shoal(args).output().expect("the program starts")
}

/// Runs the program and returns its standard output.
#[track_caller]
pub(crate) fn stdout(args: &[&str]) -> String {
    let output = output(args);
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "shoal {args:?}: {}\n{stderr}", output.status);
    String::from_utf8(output.stdout).expect("answers are UTF-8")
}

/// What starts a node on loopback.
fn arguments<'a>(dir: &'a Path, name: &'a str) -> Vec<&'a str> {
    let dir = dir.to_str().expect("a UTF-8 path");
    let mut args = vec!["serve", "--listen", "127.0.0.1:0", "--interface", "lo"];
    args.extend(["--data-dir", dir, "--name", name, "--threads", "1"]);
    args
}

/// A running node. Killed when dropped.
pub(crate) struct NodeProcess {
    child: Child,
    url: String,
    _dir: Option<TempDir>,
}

impl NodeProcess {
    /// Starts a node on loopback, with a data directory of its own.
    pub(crate) fn start(name: &str, extra: &[&str]) -> Self {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let mut node = Self::start_in(dir.path(), name, extra);
        node._dir = Some(dir);
        node
    }

    /// Starts a node with these variables in its environment.
    pub(crate) fn start_with(name: &str, extra: &[&str], variables: &[(&str, &str)]) -> Self {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let mut node = Self::spawn(dir.path(), name, extra, variables);
        node._dir = Some(dir);
        node
    }

    /// Starts a node with this data directory.
    pub(crate) fn start_in(dir: &Path, name: &str, extra: &[&str]) -> Self {
        Self::spawn(dir, name, extra, &[])
    }

    /// Starts a node from another file of the program.
    pub(crate) fn start_program(program: &Path, dir: &Path, name: &str) -> Self {
        let usual = shoal(&arguments(dir, name));
        let mut command = Command::new(program);
        command.args(usual.get_args()).stdin(Stdio::null());
        for (variable, value) in usual.get_envs() {
            match value {
                Some(value) => command.env(variable, value),
                None => command.env_remove(variable),
            };
        }
        Self::spawn_command(command)
    }

    fn spawn(dir: &Path, name: &str, extra: &[&str], variables: &[(&str, &str)]) -> Self {
        let mut args = arguments(dir, name);
        args.extend(extra);
        let mut command = shoal(&args);
        command.envs(variables.iter().copied());
        Self::spawn_command(command)
    }

    fn spawn_command(mut command: Command) -> Self {
        command.stdout(Stdio::piped());
        let mut child = command.spawn().expect("the program starts");
        let stdout = child.stdout.take().expect("piped above");
        let url = url_when_ready(stdout);
        Self { child, url, _dir: None }
    }

    /// Starts `n` nodes that form one cluster, and waits until the first sees all of them.
    pub(crate) fn cluster(n: usize) -> Vec<Self> {
        let first = Self::start("node-0", &[]);
        let ticket = first.ticket();
        let mut nodes = vec![first];
        for i in 1..n {
            nodes.push(Self::start(&format!("node-{i}"), &["--join", &ticket]));
        }
        nodes[0].wait_for("all nodes alive", |state| {
            let nodes = state["nodes"].as_array().expect("a list");
            nodes.len() == n && nodes.iter().all(|node| node["liveness"] == "alive")
        });
        nodes
    }

    /// Its data directory.
    pub(crate) fn dir(&self) -> &Path {
        self._dir.as_ref().expect("it has one of its own").path()
    }

    /// `host:port` of its API.
    pub(crate) fn address(&self) -> &str {
        self.url.strip_prefix("http://").expect("a plain URL")
    }

    pub(crate) fn url(&self) -> &str {
        &self.url
    }

    pub(crate) fn ticket(&self) -> String {
        stdout(&["invite", "--node", self.address()]).trim().to_owned()
    }

    /// Ends the process at once, as a crash would.
    pub(crate) fn kill(&mut self) {
        self.child.kill().expect("it runs");
        self.child.wait().expect("it was started here");
    }

    pub(crate) fn child(&mut self) -> &mut Child {
        &mut self.child
    }

    /// Sends a request; returns the status and the JSON.
    pub(crate) fn post(&self, path: &str, body: &Value) -> (u16, Value) {
        let sent = agent().post(format!("{}{path}", self.url)).send_json(body);
        read(sent.expect("the node answers"))
    }

    pub(crate) fn delete(&self, path: &str) -> (u16, Value) {
        let sent = agent().delete(format!("{}{path}", self.url)).call();
        read(sent.expect("the node answers"))
    }

    pub(crate) fn get(&self, path: &str) -> (u16, Value) {
        let sent = agent().get(format!("{}{path}", self.url)).call();
        read(sent.expect("the node answers"))
    }

    /// Asks the node's state until `holds` is true of it.
    #[track_caller]
    pub(crate) fn wait_for(&self, what: &str, holds: impl Fn(&Value) -> bool) -> Value {
        self.wait_at("/state", what, holds)
    }

    /// Asks a route of the node until `holds` is true of its answer.
    #[track_caller]
    pub(crate) fn wait_at(&self, path: &str, what: &str, holds: impl Fn(&Value) -> bool) -> Value {
        let started = std::time::Instant::now();
        loop {
            let (_, state) = self.get(path);
            if holds(&state) {
                return state;
            }
            assert!(started.elapsed() < PATIENCE, "{what} never came: {state:#}");
        }
    }

    /// The text of an answer.
    #[track_caller]
    pub(crate) fn chat(&self, question: &str, temperature: f32, seed: u64) -> String {
        let (status, body) =
            self.post("/v1/chat/completions", &chat_body(question, temperature, seed));
        assert_eq!(status, 200, "{body:#}");
        body["choices"][0]["message"]["content"].as_str().expect("text").to_owned()
    }

    #[track_caller]
    pub(crate) fn place(&self, n_nodes: usize) -> Value {
        let (status, body) =
            self.post("/place_instance", &json!({"model": "demo", "nodes": n_nodes}));
        assert_eq!(status, 200, "{body:#}");
        body
    }
}

impl Drop for NodeProcess {
    fn drop(&mut self) {
        // It may have ended already; then there is nothing to do.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

pub(crate) fn agent() -> ureq::Agent {
    ureq::Agent::config_builder()
        .timeout_global(Some(PATIENCE))
        .http_status_as_error(false)
        .proxy(None)
        .build()
        .into()
}

fn read(mut response: ureq::http::Response<ureq::Body>) -> (u16, Value) {
    let status = response.status().as_u16();
    (status, response.body_mut().read_json().expect("JSON"))
}
