//! Bad input: a clear message and the documented exit code.

use std::{
    fs,
    io::{Read, Write},
    net::TcpListener,
    path::PathBuf,
    process::Output,
    sync::mpsc,
};

use tempfile::TempDir;

use crate::{
    process::{NodeProcess, output},
    start::{PATIENCE, shoal},
};

#[track_caller]
fn check(output: &Output, code: i32, expected: &str) {
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{stderr}");
    assert!(stderr.contains(expected), "expected {expected:?} in:\n{stderr}");
    assert!(output.stdout.is_empty(), "standard output belongs to the answer");
    assert!(!stderr.contains("panicked"), "{stderr}");
}

/// The demonstration model as a file, changed.
fn damaged(change: impl FnOnce(&mut Vec<u8>)) -> (TempDir, PathBuf) {
    let demo = concat!(env!("CARGO_MANIFEST_DIR"), "/../hub/demo/shoal-demo.gguf");
    let mut bytes = fs::read(demo).expect("the demonstration model is in the repository");
    change(&mut bytes);
    let dir = tempfile::tempdir().expect("a temporary directory");
    let path = dir.path().join("model.gguf");
    fs::write(&path, bytes).expect("writable");
    (dir, path)
}

fn run(path: &std::path::Path) -> Output {
    output(&["run", path.to_str().expect("UTF-8"), "hello"])
}

#[test]
fn a_missing_file() {
    check(
        &output(&["run", "/nowhere/model.gguf", "hello"]),
        3,
        "/nowhere/model.gguf: no such file",
    );
    check(&output(&["run", "gpt-4", "hello"]), 3, "model \"gpt-4\" is not known");
}

#[test]
fn a_truncated_file() {
    let (_dir, path) = damaged(|bytes| bytes.truncate(bytes.len() / 2));
    check(&run(&path), 3, "expected");
    let (_dir, path) = damaged(|bytes| bytes.truncate(100));
    check(&run(&path), 3, "error:");
}

#[test]
fn a_changed_tensor_type() {
    let (_dir, path) = damaged(|bytes| {
        // The directory entry: name, n_dims u32, dims u64 each, type u32.
        let name = b"blk.0.attn_norm.weight";
        let at = bytes.windows(name.len()).position(|window| window == name).expect("a tensor");
        let type_at = at + name.len() + 4 + 8;
        bytes[type_at..type_at + 4].copy_from_slice(&1u32.to_le_bytes());
    });
    check(&run(&path), 3, "blk.0.attn_norm.weight");
}

#[test]
fn a_context_overflow() {
    let long = "word ".repeat(200);
    check(&output(&["run", "demo", &long, "--context", "64"]), 6, "the context holds 64");
}

#[test]
fn a_wrong_flag() {
    check(&output(&["run", "demo", "hello", "--temprature", "0"]), 2, "--temperature");
    check(&output(&["run", "demo", "hello", "--temperature", "nan"]), 1, "temperature");
    check(&output(&["run", "demo", "hello", "--isa", "mmx"]), 1, "mmx");
}

#[test]
fn an_origin_that_no_browser_sends() {
    for (origin, why) in [
        ("https://chat.example/", "a slash at its end"),
        ("https://chat.example/app", "a path"),
        ("null", "sandboxes"),
        ("chat.example", "no scheme"),
    ] {
        check(&output(&["serve", "--lan", "--allow-origin", origin]), 2, why);
    }
    check(&output(&["serve", "--new-token"]), 2, "--lan");
}

#[test]
fn a_port_in_use() {
    let taken = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = taken.local_addr().expect("bound").to_string();
    let dir = tempfile::tempdir().expect("a temporary directory");
    let dir = dir.path().to_str().expect("UTF-8");
    let args = ["serve", "--listen", &address, "--interface", "lo", "--data-dir", dir];
    check(&output(&args), 4, &format!("cannot listen on {address}"));
}

#[test]
fn an_unknown_interface() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let dir = dir.path().to_str().expect("UTF-8");
    let args = ["serve", "--listen", "127.0.0.1:0", "--interface", "wlan7", "--data-dir", dir];
    check(&output(&args), 4, "wlan7");
}

#[test]
fn a_node_with_the_ticket_of_another_cluster() {
    let first = NodeProcess::start("first", &[]);
    let stranger = NodeProcess::start("stranger", &[]);
    // The stranger's invitation with the first node's key and address: what somebody would hold who guesses.
    let forged = forge(&first.ticket(), &stranger.ticket());
    let dir = tempfile::tempdir().expect("a temporary directory");
    let dir = dir.path().to_str().expect("UTF-8");
    let args = [
        "serve",
        "--listen",
        "127.0.0.1:0",
        "--interface",
        "lo",
        "--data-dir",
        dir,
        "--join",
        &forged,
    ];
    check(&output(&args), 5, "refused the ticket");
    let state = first.wait_for("its own state", |_| true);
    assert_eq!(state["nodes"].as_array().expect("a list").len(), 1, "nobody got in");
}

/// A ticket with the node of `to` and the invitation of `from`.
fn forge(to: &str, from: &str) -> String {
    use shoal_net::Ticket;

    let (to, from): (Ticket, Ticket) =
        (to.parse().expect("a ticket"), from.parse().expect("a ticket"));
    from.at(to.node(), to.addrs().to_vec()).to_string()
}

#[test]
fn a_damaged_ticket() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let dir = dir.path().to_str().expect("UTF-8");
    let args = [
        "serve",
        "--listen",
        "127.0.0.1:0",
        "--interface",
        "lo",
        "--data-dir",
        dir,
        "--join",
        "shoal2abc",
    ];
    check(&output(&args), 5, "ticket");
}

#[test]
fn no_node_to_talk_to() {
    let free = TcpListener::bind("127.0.0.1:0").expect("a free port").local_addr().expect("bound");
    check(&output(&["nodes", "--node", &free.to_string()]), 4, "is the node running?");
}

/// Something that answers every request with this status and this error, and tells what it was sent.
fn refusing(status: u16, code: &str) -> (String, mpsc::Receiver<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = listener.local_addr().expect("bound").to_string();
    let body = format!("{{\"error\": {{\"message\": \"no\", \"code\": \"{code}\"}}}}");
    let answer = format!(
        "HTTP/1.1 {status} No\r\ncontent-type: application/json\r\nconnection: close\r\n\
         content-length: {}\r\n\r\n{body}",
        body.len()
    );
    let (sender, asked) = mpsc::channel();
    std::thread::spawn(move || {
        for mut connection in listener.incoming().map_while(Result::ok) {
            let mut request = Vec::new();
            let mut buffer = [0; 4096];
            while !request.windows(4).any(|end| end == b"\r\n\r\n") {
                match connection.read(&mut buffer) {
                    Ok(n) if n > 0 => request.extend_from_slice(&buffer[..n]),
                    _ => break,
                }
            }
            let _ = connection.write_all(answer.as_bytes());
            let sent = sender.send(String::from_utf8_lossy(&request).to_ascii_lowercase());
            if sent.is_err() {
                break;
            }
        }
    });
    (address, asked)
}

#[test]
fn a_node_that_wants_its_token() {
    for code in ["token_missing", "token_wrong"] {
        let (node, _asked) = refusing(401, code);
        // Not for a device without a node: the node may hold what they would change.
        for args in [&["nodes"][..], &["models"], &["pull", "demo"], &["rm", "demo"]] {
            check(&output(&[args, &["--node", &node]].concat()), 5, "SHOAL_TOKEN");
        }
    }
    let (node, _asked) = refusing(502, "cluster_unreachable");
    let unreachable = output(&["join", "shoal2x", "--node", &node]);
    check(&unreachable, 4, "no");
    assert!(!String::from_utf8_lossy(&unreachable.stderr).contains("no node runs here"));
}

#[test]
fn the_token_is_sent_as_the_flag_or_the_variable_says() {
    let (node, asked) = refusing(401, "token_wrong");
    let sent = |args: &[&str], variable: Option<&str>| {
        let mut command = shoal(&[args, &["--node", &node]].concat());
        command.envs(variable.map(|token| ("SHOAL_TOKEN", token)));
        command.output().expect("the program starts");
        let request = asked.recv_timeout(PATIENCE).expect("it asks");
        let header = request.lines().find_map(|line| line.strip_prefix("authorization: "));
        header.map(str::to_owned)
    };
    assert_eq!(sent(&["nodes"], None), None);
    assert_eq!(sent(&["nodes"], Some("")), None);
    assert_eq!(sent(&["nodes"], Some("abc\n")).as_deref(), Some("bearer abc"));
    assert_eq!(sent(&["nodes", "--token", "def"], Some("abc")).as_deref(), Some("bearer def"));
    assert_eq!(sent(&["models", "--token", "def"], None).as_deref(), Some("bearer def"));
    assert_eq!(sent(&["plan", "demo", "--token", "def"], None).as_deref(), Some("bearer def"));
    assert_eq!(sent(&["nodes", "forget", "x", "--token", "d"], None).as_deref(), Some("bearer d"));
    let help =
        shoal(&["nodes", "--help"]).env("SHOAL_TOKEN", "secret").output().expect("it starts");
    assert!(!String::from_utf8_lossy(&help.stdout).contains("secret"));
}

#[cfg(unix)]
#[test]
fn ctrl_c_ends_a_node_cleanly() {
    let mut node = NodeProcess::start("one", &[]);
    let id = rustix::process::Pid::from_child(node.child());
    rustix::process::kill_process(id, rustix::process::Signal::INT).expect("it runs");
    let status = node.child().wait().expect("it ends");
    assert_eq!(status.code(), Some(0));
}

#[test]
fn a_data_directory_in_use() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let _first = NodeProcess::start_in(dir.path(), "first", &[]);
    let dir = dir.path().to_str().expect("UTF-8");
    let args = ["serve", "--listen", "127.0.0.1:0", "--interface", "lo", "--data-dir", dir];
    check(&output(&args), 1, "is in use by another node");
}
