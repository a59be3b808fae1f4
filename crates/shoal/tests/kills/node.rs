//! A node: a process of the program that can be ended, frozen and started again where it was.

use std::{
    fs::{self, File},
    path::Path,
    process::{Child, Stdio},
    sync::{Arc, mpsc},
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use shoal_netlab::Host;
use tempfile::TempDir;

use crate::{
    ask::{Answer, Ask, resume, stream},
    form,
    start::{PATIENCE, shoal, url_when_ready},
};

/// Between two looks at a condition: a step of the demonstration model takes less than ten.
const LOOK_AGAIN: Duration = Duration::from_millis(2);

/// Where a process runs.
#[derive(Debug, Clone)]
pub(crate) enum Machine {
    /// This machine; nodes meet on its loopback interface.
    This,
    /// A host of the lab.
    Host(Arc<Host>),
}

impl Machine {
    /// Runs a closure there; sockets opened by it are that machine's.
    pub(crate) fn run<T: Send>(&self, body: impl FnOnce() -> T + Send) -> T {
        match self {
            Self::This => body(),
            Self::Host(host) => host.run(body),
        }
    }
}

/// Who asks a node: it outlives the node's changes.
#[derive(Debug, Clone)]
pub(crate) struct Client {
    machine: Machine,
    url: String,
}

impl Client {
    /// Sends a request; returns the status and the JSON, or why nobody answered.
    pub(crate) fn send(
        &self,
        method: &str,
        path: &str,
        body: &Value,
    ) -> Result<(u16, Value), String> {
        let url = format!("{}{path}", self.url);
        let sent = self.machine.run(|| {
            let agent = agent(PATIENCE);
            match method {
                "GET" => agent.get(&url).call(),
                "DELETE" => agent.delete(&url).call(),
                _ => agent.post(&url).send_json(body),
            }
            .map(|mut it| (it.status().as_u16(), it.body_mut().read_json().unwrap_or_default()))
        });
        sent.map_err(|error| format!("{method} {url}: {error}"))
    }

    pub(crate) fn get(&self, path: &str) -> Result<(u16, Value), String> {
        self.send("GET", path, &Value::Null)
    }

    pub(crate) fn state(&self) -> Result<Value, String> {
        Ok(self.get("/state")?.1)
    }

    /// The steps of the answer under way of an instance that all stages have computed; of the one that is furthest.
    pub(crate) fn n_steps(&self, instance: &str) -> Result<Option<usize>, String> {
        let (_, body) = self.get("/traces")?;
        let traces = body["traces"].as_array().into_iter().flatten();
        let running = traces.filter(|it| it["outcome"] == "running" && it["instance"] == instance);
        let n_steps = running.filter_map(|it| usize::try_from(it["n_steps"].as_u64()?).ok());
        Ok(n_steps.max())
    }

    /// Asks, and reads the answer as it comes; `at` is called with the number of pieces so far, and ends it by `false`.
    pub(crate) fn ask(
        &self,
        model: &str,
        ask: &Ask,
        at: impl FnMut(usize) -> bool + Send,
    ) -> Answer {
        let url = format!("{}/v1/chat/completions", self.url);
        self.machine.run(|| stream(&agent(PATIENCE), &url, &ask.body(model), at))
    }

    /// Comes back for the rest of an answer.
    pub(crate) fn resume(&self, answer: &mut Answer, at: impl FnMut(usize) -> bool + Send) {
        let url = format!("{}/v1/chat/completions/{}/stream", self.url, answer.id);
        self.machine.run(|| resume(&agent(PATIENCE), &url, answer, at));
    }
}

/// A node. Killed when dropped.
#[derive(Debug)]
pub(crate) struct Node {
    pub(crate) name: String,
    /// Its id in the cluster.
    pub(crate) id: String,
    machine: Machine,
    dir: TempDir,
    child: Child,
    url: String,
    pub(crate) is_dead: bool,
    pub(crate) is_frozen: bool,
    /// It was asked to give its layers away.
    pub(crate) is_drained: bool,
}

impl Node {
    /// Starts a node with a data directory of its own.
    pub(crate) fn start(machine: Machine, name: &str, extra: &[&str]) -> Self {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let (child, url) = spawn(&machine, name, dir.path(), extra);
        let mut node = Self {
            name: name.to_owned(),
            id: String::new(),
            machine,
            dir,
            child,
            url,
            is_dead: false,
            is_frozen: false,
            is_drained: false,
        };
        let (_, body) = node.client().get("/node_id").expect("it has just said that it is ready");
        body["id"].as_str().expect("text").clone_into(&mut node.id);
        node
    }

    pub(crate) fn client(&self) -> Client {
        Client { machine: self.machine.clone(), url: self.url.clone() }
    }

    pub(crate) fn ticket(&self) -> String {
        let (_, body) = self.client().send("POST", "/invite", &json!({})).expect("it runs");
        body["ticket"].as_str().expect("text").to_owned()
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Processes that it started for its stages.
    pub(crate) fn runners(&self) -> Vec<u32> {
        children_of(self.pid())
    }

    /// Ends it at once, as the system does when memory is short.
    pub(crate) fn kill(&mut self) {
        self.child.kill().expect("it was started here");
        self.child.wait().expect("it was started here");
        (self.is_dead, self.is_frozen) = (true, false);
    }

    /// Asks it to end, and waits until it has.
    pub(crate) fn end(&mut self) {
        signal(self.pid(), Signal::TERM);
        self.child.wait().expect("it was started here");
        (self.is_dead, self.is_frozen) = (true, false);
    }

    /// Whether it has ended by itself.
    pub(crate) fn has_ended(&mut self) -> bool {
        let ended = self.child.try_wait().expect("it was started here");
        self.is_dead |= ended.is_some();
        self.is_dead
    }

    /// Starts it again with what is on its disk.
    pub(crate) fn restart(&mut self) {
        assert!(self.is_dead, "{} runs", self.name);
        (self.child, self.url) = spawn(&self.machine, &self.name, self.dir.path(), &[]);
        self.is_dead = false;
    }

    /// Stops it and all that it started, as a phone that sleeps.
    pub(crate) fn freeze(&mut self) {
        // The node first: it would take a runner that is silent for one that hangs.
        signal(self.pid(), Signal::STOP);
        for runner in self.runners() {
            signal(runner, Signal::STOP);
        }
        self.is_frozen = true;
    }

    pub(crate) fn thaw(&mut self) {
        for runner in self.runners() {
            signal(runner, Signal::CONT);
        }
        signal(self.pid(), Signal::CONT);
        self.is_frozen = false;
    }

    /// Has it give its layers away, or take some again.
    pub(crate) fn drain(&mut self, drains: bool) {
        let undo: &[&str] = if drains { &[] } else { &["--undo"] };
        let address = self.url.strip_prefix("http://").expect("a plain URL");
        let drained = shoal(&["drain", "--node", address]).args(undo).output();
        let drained = drained.expect("the program starts");
        let stderr = String::from_utf8_lossy(&drained.stderr);
        assert!(drained.status.success(), "{}: {stderr}", self.name);
        self.is_drained = drains;
    }

    /// The end of what it logged.
    pub(crate) fn log(&self, n_lines: usize) -> String {
        let log = fs::read_to_string(self.dir.path().join("log")).unwrap_or_default();
        let lines: Vec<_> = log.lines().collect();
        lines[lines.len().saturating_sub(n_lines)..].join("\n")
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        // It may have ended already; then there is nothing to do.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Sends a signal to a process, which may have ended.
pub(crate) fn signal(pid: u32, signal: Signal) {
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw).expect("Linux gives no larger ones");
    let _ = kill_process(pid, signal);
}

/// Whether a process is there and no zombie.
pub(crate) fn is_running(pid: u32) -> bool {
    stat(pid).is_some_and(|(state, _)| state != "Z")
}

/// The processes whose parent this is.
pub(crate) fn children_of(parent: u32) -> Vec<u32> {
    let entries = fs::read_dir("/proc").expect("Linux has it");
    let pids = entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
    pids.filter(|&pid| stat(pid).is_some_and(|(state, its)| its == parent && state != "Z"))
        .collect()
}

/// State and parent of a process, of which `/proc/PID/stat` tells after the name, which may hold anything.
fn stat(pid: u32) -> Option<(String, u32)> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, rest) = stat.rsplit_once(") ")?;
    let mut words = rest.split(' ');
    Some((words.next()?.to_owned(), words.next()?.parse().ok()?))
}

fn spawn(machine: &Machine, name: &str, dir: &Path, extra: &[&str]) -> (Child, String) {
    let mut command = shoal(&["serve", "--listen", "127.0.0.1:0", "--threads", "1"]);
    if matches!(machine, Machine::This) {
        command.args(["--interface", "lo"]);
    }
    command.args(["--name", name, "--data-dir"]).arg(dir).args(extra);
    command.env("NO_COLOR", "1").envs(form::log().map(|log| ("SHOAL_LOG", log)));
    let log = File::options().create(true).append(true).open(dir.join("log"));
    command.stdout(Stdio::piped()).stderr(log.expect("writable"));
    let mut child = machine.run(|| command.spawn()).expect("the program starts");
    let url = url_when_ready(child.stdout.take().expect("piped above"));
    (child, url)
}

fn agent(timeout: Duration) -> ureq::Agent {
    ureq::Agent::config_builder()
        .timeout_global(Some(timeout))
        .http_status_as_error(false)
        .proxy(None)
        .build()
        .into()
}

/// Waits until something holds; `Err` says what did not.
pub(crate) fn wait(
    what: &str,
    patience: Duration,
    mut holds: impl FnMut() -> Result<bool, String>,
) -> Result<Duration, String> {
    let started = Instant::now();
    loop {
        let last = holds();
        if last == Ok(true) {
            return Ok(started.elapsed());
        }
        if started.elapsed() > patience {
            let why = last.err().map(|why| format!(": {why}")).unwrap_or_default();
            return Err(format!("{what}: not within {patience:?}{why}"));
        }
        pause(LOOK_AGAIN);
    }
}

/// Lets time go by: between two looks at a condition, or where time itself is the trouble that a test makes.
pub(crate) fn pause(duration: Duration) {
    let (_sender, nothing) = mpsc::channel::<()>();
    let _ = nothing.recv_timeout(duration);
}
