//! The API of a real node with the demonstration model, over real connections on loopback.

use std::{io::Read, time::Duration};

use serde_json::{Value, json};
use shoal_node::{Config, Event, GenerateRequest, Node, PlaceRequest, Prompt};
use shoal_proto::SamplingParams;
use tokio::{net::TcpListener, task::JoinSet};
use tokio_util::sync::CancellationToken;

/// No wait of a test is longer; a debug build on a busy machine needs a good part of it.
const PATIENCE: Duration = Duration::from_secs(120);
const N_CTX: u32 = 256;
const CHAT: &str = "/v1/chat/completions";

/// A node without a network, its model placed, and its API.
struct Server {
    url: String,
    node: Node,
    cancel: CancellationToken,
    served: JoinSet<std::io::Result<()>>,
}

impl Server {
    async fn start() -> Self {
        Self::start_with(None).await
    }

    /// A node that lets so many answers run at once.
    async fn start_with(parallel: Option<usize>) -> Self {
        let name = "alone".to_owned();
        let config = Config { name, n_threads: Some(1), parallel, ..Config::default() };
        let node = Node::start(config).await.expect("it starts");
        let request =
            PlaceRequest { model: "demo".into(), n_ctx: Some(N_CTX), ..PlaceRequest::default() };
        node.place(request).await.expect("it is placed");
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("bound");
        let cancel = CancellationToken::new();
        let mut served = JoinSet::new();
        let router = shoal_api::router(node.clone(), &shoal_api::Access::local(address));
        served.spawn(shoal_api::serve(listener, router, cancel.clone()));
        Self { url: format!("http://{address}"), node, cancel, served }
    }

    /// Sends a request; returns the status and the body.
    async fn ask(&self, method: &'static str, path: &str, body: Option<Value>) -> (u16, String) {
        let url = format!("{}{path}", self.url);
        let asked = move || {
            let agent = agent();
            let sent = match (method, body) {
                ("POST", Some(body)) => agent.post(url).send_json(body),
                ("POST", None) => agent.post(url).send_empty(),
                ("DELETE", _) => agent.delete(url).call(),
                _ => agent.get(url).call(),
            };
            let mut response = sent.expect("the node answers");
            (response.status().as_u16(), response.body_mut().read_to_string().expect("text"))
        };
        tokio::task::spawn_blocking(asked).await.expect("no panic")
    }

    async fn get(&self, path: &str) -> (u16, Value) {
        parse(self.ask("GET", path, None).await)
    }

    async fn post(&self, path: &str, body: Value) -> (u16, Value) {
        parse(self.ask("POST", path, Some(body)).await)
    }

    /// A whole answer to `question`, with `extra` in the request.
    async fn chat(&self, question: &str, extra: Value) -> Value {
        let (status, answer) = self.post(CHAT, chat(question, extra)).await;
        assert_eq!(status, 200, "{answer:#}");
        answer
    }

    async fn stop(mut self) {
        self.cancel.cancel();
        let served = tokio::time::timeout(PATIENCE, self.served.join_next()).await;
        served.expect("it ends").expect("it ran").expect("no panic").expect("no failure");
        self.node.shutdown().await;
    }
}

fn agent() -> ureq::Agent {
    ureq::Agent::config_builder()
        .timeout_global(Some(PATIENCE))
        .http_status_as_error(false)
        .proxy(None)
        .build()
        .into()
}

fn parse((status, text): (u16, String)) -> (u16, Value) {
    (status, serde_json::from_str(&text).expect("JSON"))
}

fn chat(question: &str, extra: Value) -> Value {
    let mut body = json!({
        "model": "demo",
        "messages": [{"role": "user", "content": question}],
        "temperature": 0,
        "max_tokens": 24,
    });
    let (Some(fields), Value::Object(extra)) = (body.as_object_mut(), extra) else {
        panic!("requests are objects")
    };
    fields.extend(extra);
    body
}

fn content(answer: &Value) -> &str {
    answer["choices"][0]["message"]["content"].as_str().expect("text")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_carries_the_bytes_of_the_whole_answer() {
    let server = Server::start().await;
    for extra in [json!({}), json!({"temperature": 1.0, "seed": 7})] {
        let whole = server.chat("What is Shoal?", extra.clone()).await;
        assert!(!content(&whole).is_empty(), "{whole:#}");
        let mut body = chat("What is Shoal?", extra);
        body["stream"] = json!(true);
        body["stream_options"] = json!({"include_usage": true});
        let (status, text) = server.ask("POST", CHAT, Some(body)).await;
        assert_eq!(status, 200, "{text}");
        let data = text.split("\n\n").filter_map(|event| event.strip_prefix("data: "));
        let (done, chunks): (Vec<&str>, Vec<&str>) = data.partition(|data| *data == "[DONE]");
        assert_eq!(done.len(), 1, "{text}");
        let chunks: Vec<Value> =
            chunks.iter().map(|data| serde_json::from_str(data).expect("JSON")).collect();
        let streamed: String = chunks
            .iter()
            .filter_map(|chunk| chunk["choices"][0]["delta"]["content"].as_str())
            .collect();
        assert_eq!(streamed, content(&whole));
        let [.., reason, usage] = &chunks[..] else { panic!("{text}") };
        assert_eq!(reason["choices"][0]["finish_reason"], whole["choices"][0]["finish_reason"]);
        for count in ["prompt_tokens", "completion_tokens", "total_tokens"] {
            assert_eq!(usage["usage"][count], whole["usage"][count], "{count}");
        }
    }
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_seed_decides() {
    let server = Server::start().await;
    let ask = async |seed: u64| {
        let answer = server.chat("Hello!", json!({"temperature": 3.0, "seed": seed})).await;
        content(&answer).to_owned()
    };
    let first = ask(1).await;
    assert_eq!(ask(1).await, first);
    assert_ne!(ask(2).await, first, "at temperature 3 two seeds do not agree for 24 tokens");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_ends_where_it_was_told_to() {
    let server = Server::start().await;
    let question = "What is Shoal?";
    let whole = server.chat(question, json!({"max_tokens": 200})).await;
    assert_eq!(whole["choices"][0]["finish_reason"], "stop", "{whole:#}");
    let whole = content(&whole).to_owned();

    let short = server.chat(question, json!({"max_completion_tokens": 3, "max_tokens": 3})).await;
    assert_eq!(short["choices"][0]["finish_reason"], "length");
    assert_eq!(short["usage"]["completion_tokens"], 3);
    assert!(whole.starts_with(content(&short)) && whole != content(&short));

    let words: Vec<&str> = whole.split_whitespace().collect();
    let stop = words[words.len() / 2];
    let (before, _) = whole.split_once(stop).expect("one of its words");
    let stopped = server.chat(question, json!({"max_tokens": 200, "stop": [stop]})).await;
    assert_eq!(content(&stopped), before);
    assert_eq!(stopped["choices"][0]["finish_reason"], "stop");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_conversation_that_goes_on_reuses_what_was_computed() {
    let server = Server::start().await;
    let first = server.chat("Hello!", json!({})).await;
    assert_eq!(first["usage"]["prompt_tokens_details"]["cached_tokens"], 0);
    let messages = json!([
        {"role": "user", "content": "Hello!"},
        {"role": "assistant", "content": content(&first)},
        {"role": "user", "content": "What is Shoal?"},
    ]);
    let next = server.chat("", json!({"messages": messages})).await;
    let usage = &next["usage"];
    let cached = usage["prompt_tokens_details"]["cached_tokens"].as_u64().expect("a count");
    let prompt = usage["prompt_tokens"].as_u64().expect("a count");
    assert!(0 < cached && cached < prompt, "{usage}");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_requests_are_told_why() {
    let server = Server::start().await;
    let refused = async |body: Value| {
        let (status, body) = server.post(CHAT, body).await;
        (status, body["error"].clone())
    };
    let (status, error) = refused(chat("Hi", json!({"model": "gpt-4"}))).await;
    assert_eq!((status, &error["code"]), (404, &json!("model_not_found")), "{error}");
    assert!(error["message"].as_str().expect("text").contains("demo"), "{error}");
    let long = "Hello! ".repeat(N_CTX as usize);
    let (status, error) = refused(chat(&long, json!({}))).await;
    assert_eq!((status, &error["code"]), (400, &json!("context_length_exceeded")), "{error}");
    let (status, error) = refused(chat("Hi", json!({"top_p": 7}))).await;
    assert_eq!((status, &error["param"]), (400, &json!("top_p")), "{error}");
    let stream = json!({"model": "gpt-4", "stream": true});
    assert_eq!(refused(chat("Hi", stream)).await.0, 404, "before the stream begins");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_leaves_makes_room() {
    let server = Server::start().await;
    let mut body = chat("What is Shoal?", json!({"max_tokens": 200}));
    body["stream"] = json!(true);
    let url = format!("{}{CHAT}", server.url);
    let begun = move || {
        let response = agent().post(url).send_json(body).expect("the node answers");
        let mut first = [0; 16];
        response.into_body().into_reader().read_exact(&mut first).expect("the stream begins");
    };
    tokio::task::spawn_blocking(begun).await.expect("no panic");
    let is_free =
        |state: &Value| state["n_requests"] == 0 && state["instances"][0]["n_requests"] == 0;
    let freed = async { while !is_free(&server.get("/state").await.1) {} };
    tokio::time::timeout(PATIENCE, freed).await.expect("its place is freed");
    let answer = server.chat("Hello!", json!({})).await;
    assert!(!content(&answer).is_empty());
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn models_are_placed_shown_and_dropped() {
    let server = Server::start().await;
    let (_, models) = server.get("/v1/models").await;
    assert_eq!(models["data"][0]["id"], "demo", "{models:#}");
    assert_eq!(models["data"][0]["n_ctx"], N_CTX);
    let (_, state) = server.get("/state").await;
    let node = &state["nodes"][0];
    assert_eq!((&node["name"], &node["is_self"]), (&json!("alone"), &json!(true)));
    let instance = &state["instances"][0];
    assert_eq!(instance["state"], "ready", "{state:#}");
    let n_layer = instance["n_layer"].clone();
    assert_eq!(instance["placement"][0]["layers"], json!([0, n_layer]));
    let id = instance["id"].as_str().expect("an id").to_owned();

    let (status, error) =
        server.post("/place_instance", json!({"model": "demo", "nodes": 2})).await;
    assert_eq!((status, &error["error"]["code"]), (409, &json!("cluster_refused")), "{error}");
    let (status, error) = server.post("/place_instance", json!({"model": "/no/such.gguf"})).await;
    assert_eq!((status, &error["error"]["code"]), (400, &json!("model_unusable")), "{error}");
    let (status, error) = server.post("/invite", json!({})).await;
    assert_eq!((status, &error["error"]["code"]), (409, &json!("offline")), "{error}");

    let (status, _) = server.ask("DELETE", &format!("/instance/{id}"), None).await;
    assert_eq!(status, 200);
    let (status, _) = server.ask("DELETE", &format!("/instance/{id}"), None).await;
    assert_eq!(status, 404);
    // A request places what is on the disk, and nothing else.
    let (status, answer) = server.post(CHAT, chat("Hi", json!({}))).await;
    assert_eq!(status, 200, "{answer}");
    let (status, error) = server.post(CHAT, chat("Hi", json!({"model": "no/such"}))).await;
    assert_eq!((status, &error["error"]["code"]), (404, &json!("model_not_found")), "{error}");
    let (status, placed) = server.post("/place_instance", json!({"model": "demo"})).await;
    assert_eq!((status, &placed["state"]), (200, &json!("ready")), "{placed:#}");
    server.chat("Hello!", json!({})).await;
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_waits_for_its_turn_and_says_so() {
    let server = Server::start_with(Some(1)).await;
    // Nobody reads it, so that it keeps its turn for as long as the test wants.
    let first = GenerateRequest {
        model: "demo".to_owned(),
        prompt: Prompt::Raw("Once".to_owned()),
        sampling: SamplingParams { temperature: 3.0, seed: 1, ..SamplingParams::default() },
        breakers: Vec::new(),
        max_tokens: Some(200),
        stop: Vec::new(),
    };
    let mut first = server.node.generate(first).await.expect("it begins");
    assert!(matches!(first.next().await, Some(Event::Started { .. })));
    let stream = json!({"stream": true, "shoal": {"status": true}});
    let second = server.ask("POST", CHAT, Some(chat("Hello!", stream)));
    let (first_waits, waits) = (json!([1, 1]), |state: &Value| {
        let instance = &state["instances"][0];
        json!([instance["n_requests"], instance["n_waiting"]])
    });
    let made_room = async {
        while waits(&server.get("/state").await.1) != first_waits {}
        let (_, metrics) = server.ask("GET", "/metrics", None).await;
        assert!(metrics.contains("shoal_requests_waiting{model=\"demo\"} 1"), "{metrics}");
        drop(first);
    };
    let both = async { tokio::join!(second, made_room).0 };
    let (status, text) = tokio::time::timeout(PATIENCE, both).await.expect("its turn comes");
    assert_eq!(status, 200, "{text}");
    assert!(text.contains(r#""state":"queued""#) && text.contains(r#""position":0"#), "{text}");
    assert!(text.contains(r#"{"state":"started"}"#), "{text}");
    assert!(text.ends_with("data: [DONE]\n\n"), "{text}");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broken_stream_is_resumed_with_the_same_bytes() {
    let server = Server::start().await;
    let mut body = chat("What is Shoal?", json!({"max_tokens": 60, "shoal": {"resume_s": 60}}));
    body["stream"] = json!(true);
    let url = format!("{}{CHAT}", server.url);
    let begun = move || {
        let response = agent().post(url).send_json(body).expect("the node answers");
        let mut reader = response.into_body().into_reader();
        let (mut text, mut byte) = (String::new(), [0]);
        while text.matches("\n\n").count() < 3 {
            reader.read_exact(&mut byte).expect("the stream goes on");
            text.push(char::from(byte[0]));
        }
        text
    };
    let first = tokio::task::spawn_blocking(begun).await.expect("no panic");
    let id = first.split('"').find(|it| it.starts_with("chatcmpl-")).expect("an id").to_owned();
    let url = format!("{}{CHAT}/{id}/stream", server.url);
    let rest = move || {
        let asked = agent().get(url).header("last-event-id", "2").call();
        asked.expect("the node answers").body_mut().read_to_string().expect("text")
    };
    let rest = tokio::task::spawn_blocking(rest).await.expect("no panic");
    let (status, all) = server.ask("GET", &format!("{CHAT}/{id}/stream"), None).await;
    assert_eq!((status, format!("{first}{rest}")), (200, all));
    assert!(rest.starts_with("id: 3\n") && rest.ends_with("data: [DONE]\n\n"), "{rest}");
    server.stop().await;
}
