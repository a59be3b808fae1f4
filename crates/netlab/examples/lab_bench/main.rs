//! Measures a cluster on a slow network: `shoal serve` on hosts of the lab, or llama.cpp's RPC workers in their place.
//!
//! ```sh
//! lab_bench --shoal target/release/shoal --model llama-1b.gguf --nodes 2 --delays-us 0,3350
//! lab_bench --rpc BIN_DIR --model llama-1b.gguf --nodes 2 --delays-us 0,3350
//! lab_bench --shoal target/release/shoal --model tinyllama.gguf --cpu-shares 80,40,20
//! ```
//!
//! Each process computes with one thread on one core (`--cores 0,1`, in turn). Every run measures once with each of the
//! delays, so that what the network adds is a difference of neighbours in time. Prints a JSON object per measurement.
//!
//! With `--cpu-shares` each node gets so many hundredths of a core, so that stages on one machine do not take cores and memory
//! from each other, and what was predicted is put beside what was measured, see `shares`; unless `--measure speed` asks for the
//! same as without. On a machine that others use too, `chrt -f 6 lab_bench .. --priority 5` has the lab and its nodes go before them.

mod shares;

use std::{
    collections::HashMap,
    fmt::Write as _,
    io::{BufRead, BufReader},
    path::PathBuf,
    process::{Command, ExitCode, Stdio},
    sync::mpsc,
    time::{Duration, Instant},
};

use serde_json::{Value, json};
use shoal_netlab::{Host, Process, Segment, Throttle, isolated_program};

/// Everything that can fail is a reason to stop.
type Result<T> = std::result::Result<T, Box<dyn std::error::Error + Send + Sync>>;

/// Where a worker of llama.cpp listens inside its host.
const RPC_PORT: u16 = 50_052;

/// The demonstration model has a long answer to it.
const QUESTION: &str = "What is Shoal?";

fn main() -> ExitCode {
    isolated_program(|| match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            report(&json!({"error": error.to_string()}));
            ExitCode::FAILURE
        }
    })
}

#[expect(clippy::print_stdout, reason = "a program's answer")]
fn report(line: &Value) {
    println!("{line}");
}

fn run() -> Result<()> {
    let options = Options::read()?;
    match &options.rpc {
        Some(programs) => measure_rpc(&options, programs),
        None if options.is_prediction => shares::measure(&options),
        None => measure_shoal(&options),
    }
}

struct Options {
    shoal: PathBuf,
    rpc: Option<PathBuf>,
    model: String,
    n_nodes: usize,
    delays: Vec<Duration>,
    n_prompt: usize,
    n_tokens: usize,
    n_runs: usize,
    n_requests: usize,
    cores: Vec<String>,
    /// Hundredths of a core for each node; empty if nothing limits them.
    cpu_shares: Vec<u32>,
    /// Whether predictions are put beside measurements.
    is_prediction: bool,
    /// Real-time priority of the nodes, below the lab's own; empty for the usual scheduling.
    priority: String,
}

impl Options {
    fn read() -> Result<Self> {
        let mut given = HashMap::new();
        let mut arguments = std::env::args().skip(1);
        while let Some(name) = arguments.next() {
            let value = arguments.next().ok_or_else(|| format!("{name} needs a value"))?;
            given.insert(name, value);
        }
        let mut take =
            |name: &str, default: &str| given.remove(name).unwrap_or_else(|| default.to_owned());
        let shares = take("--cpu-shares", "");
        let cpu_shares: Vec<u32> = shares
            .split(',')
            .filter(|it| !it.is_empty())
            .map(str::parse)
            .collect::<std::result::Result<_, _>>()?;
        let n_nodes =
            if cpu_shares.is_empty() { "2".to_owned() } else { cpu_shares.len().to_string() };
        let usual = if cpu_shares.is_empty() { "speed" } else { "prediction" };
        let options = Self {
            is_prediction: match take("--measure", usual).as_str() {
                "speed" => false,
                "prediction" => true,
                other => return Err(format!("--measure speed or prediction, not {other}").into()),
            },
            shoal: take("--shoal", "target/release/shoal").into(),
            rpc: Some(take("--rpc", "")).filter(|dir| !dir.is_empty()).map(PathBuf::from),
            model: take("--model", "demo"),
            n_nodes: take("--nodes", &n_nodes).parse()?,
            delays: durations(&take("--delays-us", "0,3350"))?,
            n_prompt: take("--prompt", "512").parse()?,
            n_tokens: take("--tokens", "32").parse()?,
            n_runs: take("--runs", "3").parse()?,
            n_requests: take("--requests", "1").parse()?,
            cores: take("--cores", "0,1").split(',').map(str::to_owned).collect(),
            cpu_shares,
            priority: take("--priority", ""),
        };
        match given.into_keys().next() {
            Some(unknown) => Err(format!("{unknown} is no option").into()),
            None => Ok(options),
        }
    }

    /// A command on the core of the node with this index.
    fn pinned(&self, i: usize, program: &std::path::Path) -> Command {
        let mut command = Command::new("taskset");
        command.args(["-c", &self.cores[self.core(i)]]);
        if !self.priority.is_empty() {
            command.args(["chrt", "-f", &self.priority]);
        }
        command.arg(program);
        command
    }

    /// The core of a node: in turn, or the one that the greater shares leave most of.
    fn core(&self, i: usize) -> usize {
        let mut largest_first: Vec<usize> = (0..self.cpu_shares.len()).collect();
        largest_first.sort_by_key(|&node| std::cmp::Reverse(self.cpu_shares[node]));
        let mut taken = vec![0; self.cores.len()];
        for node in largest_first {
            let core = (0..taken.len()).min_by_key(|&core| taken[core]).unwrap_or(0);
            taken[core] += self.cpu_shares[node];
            if node == i {
                return core;
            }
        }
        i % self.cores.len()
    }
}

fn durations(list: &str) -> Result<Vec<Duration>> {
    list.split(',').map(|us| Ok(Duration::from_micros(us.parse()?))).collect()
}

/// A WiFi with this many hosts, `10.0.0.1` and on.
fn network(n_hosts: usize) -> Result<(Segment, Vec<Host>)> {
    let segment = Segment::new("wifi")?;
    let mut hosts = Vec::new();
    for i in 1..=n_hosts {
        let host = Host::new(&format!("node-{i}"))?;
        host.attach(&segment, &format!("10.0.0.{i}/24"))?;
        hosts.push(host);
    }
    Ok((segment, hosts))
}

struct Node<'a> {
    host: &'a Host,
    url: String,
    _process: Process,
    _throttle: Option<Throttle>,
}

impl<'a> Node<'a> {
    fn start(options: &Options, i: usize, host: &'a Host, ticket: Option<&str>) -> Result<Self> {
        let dir = tempdir(host.name())?;
        if options.model != "demo" {
            let mut import = Command::new(&options.shoal);
            import.arg("import").arg(&options.model).args(["--name", "model", "--data-dir"]);
            import.arg(&dir).stdout(Stdio::null());
            let status = host.spawn(import)?.child().wait()?;
            assert!(status.success(), "the model's import failed");
        }
        let mut command = options.pinned(i, &options.shoal);
        command.args(["serve", "--listen", "127.0.0.1:0", "--threads", "1", "--no-caches"]);
        command.args(["--name", host.name(), "--data-dir"]).arg(&dir);
        if let Some(ticket) = ticket {
            command.args(["--join", ticket]);
        }
        let mut process = host.spawn({
            command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
            command
        })?;
        // From its first moment on, so that it measures itself as it will compute. A share of 100 is all that there is.
        let share = options.cpu_shares.get(i).filter(|&&percent| percent < 100);
        let throttle =
            share.map(|&percent| Throttle::start(process.id(), f64::from(percent) / 100.0));
        let throttle = throttle.transpose()?;
        let stdout = process.child().stdout.take().expect("piped above");
        let mut lines = BufReader::new(stdout).lines();
        let line = lines.next().ok_or("a node ended before it was ready")??;
        let url = line.strip_prefix("Shoal is ready: ").ok_or("no ready line")?.to_owned();
        Ok(Self { host, url, _process: process, _throttle: throttle })
    }

    fn post(&self, path: &str, body: &Value) -> Result<Value> {
        let (status, answer) = self.host.post(&format!("{}{path}", self.url), body)?;
        if status == 200 { Ok(answer) } else { Err(format!("{path}: {status} {answer}").into()) }
    }

    fn get(&self, path: &str) -> Result<Value> {
        let (status, answer) = self.host.get(&format!("{}{path}", self.url))?;
        if status == 200 { Ok(answer) } else { Err(format!("{path}: {status} {answer}").into()) }
    }

    fn delete(&self, path: &str) -> Result<()> {
        let (status, answer) = self.host.delete(&format!("{}{path}", self.url))?;
        if status == 200 { Ok(()) } else { Err(format!("{path}: {status} {answer}").into()) }
    }

    /// Seconds, prompt tokens and generated tokens of one request.
    fn ask(&self, model: &str, text: &str, n_tokens: usize) -> Result<(f64, f64, f64)> {
        let started = Instant::now();
        let answer = self.post(
            "/v1/chat/completions",
            &json!({
                "model": model,
                "messages": [{"role": "user", "content": text}],
                "temperature": 0.0,
                "max_tokens": n_tokens,
            }),
        )?;
        let usage = &answer["usage"];
        let count = |name: &str| usage[name].as_f64().ok_or_else(|| format!("{name} in {answer}"));
        let n_prompt = count("prompt_tokens")?;
        Ok((started.elapsed().as_secs_f64(), n_prompt, count("completion_tokens")?))
    }
}

/// A directory beside the model, so that the import links instead of copying.
fn tempdir(name: &str) -> Result<PathBuf> {
    let dir = std::env::temp_dir().join(format!("lab_bench-{}-{name}", since_epoch()));
    std::fs::create_dir_all(&dir)?;
    Ok(dir)
}

fn since_epoch() -> u128 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    now.map_or(0, |since| since.as_nanos())
}

/// A node on each host, of one cluster.
fn start_all<'a>(options: &Options, hosts: &'a [Host]) -> Result<Vec<Node<'a>>> {
    let mut nodes = vec![Node::start(options, 0, &hosts[0], None)?];
    for (i, host) in hosts.iter().enumerate().skip(1) {
        let ticket = nodes[0].post("/invite", &json!({}))?["ticket"].clone();
        nodes.push(Node::start(options, i, host, ticket.as_str())?);
    }
    wait_for_alive(&nodes[0], hosts.len())?;
    Ok(nodes)
}

fn measure_shoal(options: &Options) -> Result<()> {
    let (segment, hosts) = network(options.n_nodes)?;
    let nodes = start_all(options, &hosts)?;
    let model = if options.model == "demo" { "demo" } else { "model" };
    let placing = json!({"model": model, "nodes": options.n_nodes});
    let placed = nodes[0].post("/place_instance", &placing)?;
    report(&json!({"system": "shoal", "placement": placed["placement"]}));
    for run in 0..options.n_runs {
        for &delay in &options.delays {
            segment.set_delay(delay);
            let measured = measure(&nodes[0], options, model, run, delay)?;
            report(&measured);
        }
    }
    Ok(())
}

fn wait_for_alive(node: &Node<'_>, n_nodes: usize) -> Result<()> {
    loop {
        let state = node.get("/state")?;
        let nodes = state["nodes"].as_array().ok_or("no list of nodes")?;
        if nodes.iter().filter(|node| node["liveness"] == "alive").count() == n_nodes {
            return Ok(());
        }
        pause(Duration::from_millis(50));
    }
}

fn pause(time: Duration) {
    let (_sender, nothing) = mpsc::channel::<()>();
    let _ = nothing.recv_timeout(time);
}

fn measure(
    node: &Node<'_>,
    options: &Options,
    model: &str,
    run: usize,
    delay: Duration,
) -> Result<Value> {
    let prefill = if options.n_prompt == 0 {
        Value::Null
    } else {
        let (seconds, n_prompt, _) = node.ask(model, &long_text(options.n_prompt, run), 1)?;
        json!({"tokens": n_prompt, "tokens_per_s": n_prompt / seconds})
    };
    node.ask(model, QUESTION, 1)?;
    let (first_s, ..) = node.ask(model, QUESTION, 1)?;
    let (all_s, _, n_tokens) = node.ask(model, QUESTION, options.n_tokens)?;
    let token_s = (all_s - first_s) / (n_tokens - 1.0);
    let mut line = json!({
        "system": "shoal",
        "nodes": options.n_nodes,
        "delay_us": delay.as_micros(),
        "run": run,
        "prefill": prefill,
        "decode": {"tokens": n_tokens, "ms_per_token": token_s * 1e3, "tokens_per_s": 1.0 / token_s},
    });
    if options.n_requests > 1 {
        line["together"] = together(node, options, model)?;
    }
    Ok(line)
}

/// A text of about this many tokens; it is new from its first word on, so that no stage holds a part of it.
fn long_text(n_tokens: usize, run: usize) -> String {
    let mut text = format!("{}", since_epoch() % 1_000_000_007);
    // A digit and a space are close to two tokens; what it really was is reported.
    for i in 0..n_tokens / 2 {
        let _ = write!(text, " {}", (i * 7 + run) % 10);
    }
    text
}

/// Tokens per second of one request at a time and of several at once.
///
/// All ask the same, so that no answer is shorter, each in words of its own, so that each has a sequence of its own.
fn together(node: &Node<'_>, options: &Options, model: &str) -> Result<Value> {
    let ask =
        &|i: usize| node.ask(model, &format!("{QUESTION}{}", " ".repeat(i)), options.n_tokens);
    let rate = |n_requests: usize| -> Result<f64> {
        let started = Instant::now();
        let asked: Vec<Result<f64>> = std::thread::scope(|scope| {
            let asked: Vec<_> =
                (0..n_requests).map(|i| scope.spawn(move || Ok(ask(i)?.2))).collect();
            asked.into_iter().map(|asked| asked.join().expect("it does not panic")).collect()
        });
        let n_tokens: f64 = asked.into_iter().sum::<Result<f64>>()?;
        Ok(n_tokens / started.elapsed().as_secs_f64())
    };
    // Warm: what each asks is held by the stages afterwards, so that prefill counts nowhere.
    rate(options.n_requests)?;
    let (one, all) = (rate(1)?, rate(options.n_requests)?);
    Ok(json!({"requests": options.n_requests, "one": one, "all": all, "ratio": all / one}))
}

fn measure_rpc(options: &Options, programs: &std::path::Path) -> Result<()> {
    let (segment, hosts) = network(options.n_nodes + 1)?;
    let (client, workers) = hosts.split_last().expect("the client at least");
    let mut servers = Vec::new();
    let mut addresses = Vec::new();
    for (i, host) in workers.iter().enumerate() {
        let mut command = options.pinned(i, &programs.join("ggml-rpc-server"));
        command.args(["-H", "0.0.0.0", "-p", &RPC_PORT.to_string(), "-t", "1", "-c"]);
        command.env("LLAMA_CACHE", tempdir("rpc-cache")?);
        command.stdout(Stdio::null()).stderr(Stdio::null());
        servers.push(host.spawn(command)?);
        addresses.push(format!("10.0.0.{}:{RPC_PORT}", i + 1));
    }
    for run in 0..options.n_runs {
        for &delay in &options.delays {
            segment.set_delay(delay);
            let mut command = Command::new(programs.join("llama-bench"));
            command.args(["-m", &options.model, "--rpc", &addresses.join(",")]);
            command.args(["-ngl", "99", "-t", "1", "-r", "1", "-o", "json"]);
            command.args(["-p", &options.n_prompt.to_string()]);
            command.args(["-n", &options.n_tokens.to_string()]);
            command.stdout(Stdio::piped()).stderr(Stdio::null());
            let mut process = client.spawn(command)?;
            let stdout = process.child().stdout.take().expect("piped above");
            let rows: Value = serde_json::from_reader(stdout)?;
            let rate = |field: &str| {
                let rows = rows.as_array().into_iter().flatten();
                let row = rows.into_iter().find(|row| row[field].as_u64().is_some_and(|n| n > 0));
                row.map_or(Value::Null, |row| row["avg_ts"].clone())
            };
            report(&json!({
                "system": "llama.cpp rpc",
                "nodes": options.n_nodes,
                "delay_us": delay.as_micros(),
                "run": run,
                "prefill": {"tokens": options.n_prompt, "tokens_per_s": rate("n_prompt")},
                "decode": {"tokens": options.n_tokens, "tokens_per_s": rate("n_gen")},
            }));
        }
    }
    Ok(())
}
