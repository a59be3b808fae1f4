//! Bad input: a clear message and the documented exit code.

use std::{fs, net::TcpListener, path::PathBuf, process::Output};

use tempfile::TempDir;

use crate::process::{NodeProcess, output};

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
