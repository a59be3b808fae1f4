//! Real connections: clients that go away, and a server that ends.

use std::{collections::VecDeque, net::SocketAddr, time::Duration};

use serde_json::json;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    task::JoinSet,
};
use tokio_util::sync::CancellationToken;

use super::script::{Script, hello, text};

/// Far more than anything here takes; a test that needs it has failed.
const PATIENCE: Duration = Duration::from_secs(60);

struct Server {
    address: SocketAddr,
    cancel: CancellationToken,
    served: JoinSet<std::io::Result<()>>,
}

impl Server {
    async fn start(script: &Script) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("bound");
        let cancel = CancellationToken::new();
        let mut served = JoinSet::new();
        let router = crate::routes(script.clone(), &crate::Access::local(address));
        served.spawn(crate::serve(listener, router, cancel.clone()));
        Self { address, cancel, served }
    }

    async fn ask(&self, stream: bool) -> TcpStream {
        let messages = json!([{"role": "user", "content": "Hi"}]);
        let body = json!({"model": "demo", "messages": messages, "stream": stream}).to_string();
        let request = format!(
            "POST /v1/chat/completions HTTP/1.1\r\nhost: {}\r\ncontent-type: application/json\r\n\
             content-length: {}\r\n\r\n{body}",
            self.address,
            body.len()
        );
        let mut connection = TcpStream::connect(self.address).await.expect("it listens");
        connection.write_all(request.as_bytes()).await.expect("it reads");
        connection
    }

    async fn stop(mut self) {
        self.cancel.cancel();
        let served = tokio::time::timeout(PATIENCE, self.served.join_next()).await;
        served.expect("it ends").expect("it ran").expect("no panic").expect("no failure");
    }
}

async fn read_until(connection: &mut TcpStream, expected: &str) -> String {
    let mut text = String::new();
    let mut buffer = [0; 1024];
    while !text.contains(expected) {
        let read = tokio::time::timeout(PATIENCE, connection.read(&mut buffer)).await;
        let n = read.expect("it goes on").expect("it stands");
        assert!(n > 0, "expected {expected:?} in {text:?}");
        text.push_str(&String::from_utf8_lossy(&buffer[..n]));
    }
    text
}

#[tokio::test]
async fn a_client_that_leaves_a_stream_frees_its_answer() {
    let script = Script::hanging(|| Ok(vec![text("Hel")]));
    let server = Server::start(&script).await;
    let mut connection = server.ask(true).await;
    read_until(&mut connection, "Hel").await;
    script.wait_until_running(1).await;
    drop(connection);
    script.wait_until_running(0).await;
    server.stop().await;
}

#[tokio::test]
async fn a_client_that_stops_waiting_frees_its_answer() {
    let script = Script::hanging(|| Ok(vec![]));
    let server = Server::start(&script).await;
    let connection = server.ask(false).await;
    script.wait_until_running(1).await;
    drop(connection);
    script.wait_until_running(0).await;
    server.stop().await;
}

#[tokio::test]
async fn pieces_arrive_before_the_answer_is_whole() {
    let script = Script::hanging(|| Ok(vec![text("one"), text("two")]));
    let server = Server::start(&script).await;
    let mut connection = server.ask(true).await;
    let text = read_until(&mut connection, "two").await;
    assert!(text.contains("one") && !text.contains("[DONE]"), "{text}");
    drop(connection);
    server.stop().await;
}

#[tokio::test]
async fn a_connection_serves_one_request_after_the_other() {
    let script = Script::new(hello);
    let server = Server::start(&script).await;
    let mut connection = server.ask(true).await;
    read_until(&mut connection, "[DONE]\n\n\r\n0\r\n\r\n").await;
    let request = format!("GET /health HTTP/1.1\r\nhost: {}\r\n\r\n", server.address);
    connection.write_all(request.as_bytes()).await.expect("it reads");
    read_until(&mut connection, "\"status\":\"ok\"").await;
    server.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_server_that_is_told_to_end_waits_for_nobody_for_ever() {
    let script = Script::hanging(|| Ok(vec![text("Hel")]));
    let server = Server::start(&script).await;
    let mut connection = server.ask(true).await;
    read_until(&mut connection, "Hel").await;
    let address = server.address;
    server.stop().await;
    assert!(TcpStream::connect(address).await.is_err(), "nobody listens any more");
}

/// Waits until the server has ended a connection.
async fn wait_for_end(connection: &mut TcpStream) {
    let read = tokio::time::timeout(PATIENCE, connection.read(&mut [0; 1])).await;
    assert!(matches!(read.expect("it is closed"), Ok(0) | Err(_)), "the server said something");
}

#[tokio::test]
async fn ten_thousand_silent_connections_keep_nobody_out() {
    // Far below what a process may open, and more than are kept.
    const N_WATCHED: usize = 300;
    let script = Script::hanging(|| Ok(vec![text("Hel")]));
    let server = Server::start(&script).await;
    let mut stream = server.ask(true).await;
    read_until(&mut stream, "Hel").await;
    let whole = server.ask(false).await;
    script.wait_until_running(2).await;
    let health = format!("GET /health HTTP/1.1\r\nhost: {}\r\n\r\n", server.address);
    let mut crowd = VecDeque::new();
    for i in 0..10_000 {
        let mut stranger = TcpStream::connect(server.address).await.expect("it listens");
        if i % 3 == 0 {
            stranger.write_all(b"GET / HTTP/1.1\r\n").await.expect("it reads");
        }
        crowd.push_back(stranger);
        if crowd.len() > N_WATCHED {
            wait_for_end(&mut crowd.pop_front().expect("not empty")).await;
        }
        if i % 500 == 499 {
            let mut client = TcpStream::connect(server.address).await.expect("it listens");
            client.write_all(health.as_bytes()).await.expect("it reads");
            read_until(&mut client, "\"status\":\"ok\"").await;
        }
    }
    // Two answers are under way all the while.
    script.wait_until_running(2).await;
    drop((stream, whole));
    script.wait_until_running(0).await;
    server.stop().await;
}
