//! The answer as server-sent events:
//!
//! ```text
//! data: {chunk: delta {role, content: ""}}
//! data: {chunk: delta {content}}               any number of times
//! data: {chunk: delta {}, finish_reason}
//! data: {chunk: no choices, usage}             if stream_options.include_usage
//! data: [DONE]
//! ```
//!
//! While nothing comes, comments keep the connection alive. An answer that fails ends with `data: {"error": …}`, which
//! OpenAI's clients raise as an error, and has neither a `finish_reason` nor `[DONE]`: no cut answer looks whole.

use std::{collections::VecDeque, convert::Infallible, time::Duration};

use axum::{
    http::{HeaderValue, header},
    response::{
        IntoResponse, Response,
        sse::{Event as SseEvent, KeepAlive, Sse},
    },
};
use futures_util::stream;
use serde::Serialize;
use serde_json::json;
use shoal_node::Event;

use super::{
    Identity, Running, SYSTEM_FINGERPRINT,
    completion::{UsageObject, finish_reason},
};
use crate::{backend::Answer, error::ApiError};

/// Proxies and mobile networks forget a silent connection after half a minute or more.
const KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(10);

/// OpenAI's `chat.completion.chunk`.
#[derive(Debug, Serialize)]
struct Chunk<'a> {
    id: &'a str,
    object: &'static str,
    created: u64,
    model: &'a str,
    system_fingerprint: &'static str,
    choices: &'a [ChunkChoice],
    /// Absent unless the client asked for the usage; then `null` in every chunk but the last.
    #[serde(skip_serializing_if = "Option::is_none")]
    usage: Option<Option<UsageObject>>,
}

#[derive(Debug, Serialize)]
struct ChunkChoice {
    index: u32,
    delta: Delta,
    logprobs: Option<()>,
    finish_reason: Option<&'static str>,
}

#[derive(Debug, Default, Serialize)]
struct Delta {
    #[serde(skip_serializing_if = "Option::is_none")]
    role: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    content: Option<String>,
}

/// Turns the events of one answer into the data of server-sent events.
#[derive(Debug)]
struct Chunks<A> {
    identity: Identity,
    include_usage: bool,
    /// `None` once the answer has ended, so that its place is free before the last bytes are sent.
    running: Option<Running<A>>,
    /// Data that wait to be sent.
    ready: VecDeque<String>,
}

/// Streams an answer. Whoever drops the response's body, as hyper does when the client goes away, drops the answer.
pub(super) fn respond<A: Answer>(
    identity: Identity,
    running: Running<A>,
    include_usage: bool,
) -> Response {
    let chunks = Chunks::new(identity, running, include_usage);
    let events = stream::unfold(chunks, |mut chunks| async move {
        let data = chunks.next().await?;
        Some((Ok::<_, Infallible>(SseEvent::default().data(data)), chunks))
    });
    let keep_alive = KeepAlive::new().interval(KEEP_ALIVE_INTERVAL).text("keep-alive");
    let mut response = Sse::new(events).keep_alive(keep_alive).into_response();
    // A proxy that collects the answer before it passes it on would defeat the purpose.
    let headers = response.headers_mut();
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    headers.insert("x-accel-buffering", HeaderValue::from_static("no"));
    response
}

impl<A: Answer> Chunks<A> {
    fn new(identity: Identity, running: Running<A>, include_usage: bool) -> Self {
        let mut chunks =
            Self { identity, include_usage, running: Some(running), ready: VecDeque::new() };
        chunks.push_delta(Delta { role: Some("assistant"), content: Some(String::new()) }, None);
        chunks
    }

    async fn next(&mut self) -> Option<String> {
        loop {
            if let Some(data) = self.ready.pop_front() {
                return Some(data);
            }
            let event = self.running.as_mut()?.answer.next().await;
            self.push(event);
        }
    }

    fn push(&mut self, event: Option<Event>) {
        match event {
            Some(Event::Started { .. } | Event::Healing { .. } | Event::Resumed { .. }) => {}
            Some(Event::Text(text)) => {
                self.push_delta(Delta { role: None, content: Some(text) }, None);
            }
            Some(Event::Finished { reason, usage, .. }) => {
                self.running = None;
                self.push_delta(Delta::default(), Some(finish_reason(reason)));
                if self.include_usage {
                    self.push_chunk(&[], Some(usage.into()));
                }
                self.ready.push_back("[DONE]".to_owned());
            }
            Some(Event::Failed(error)) => self.push_error(&error.into()),
            None => self.push_error(&ApiError::cut_off()),
        }
    }

    fn push_error(&mut self, error: &ApiError) {
        self.running = None;
        self.ready.push_back(error.to_json().to_string());
    }

    fn push_delta(&mut self, delta: Delta, finish_reason: Option<&'static str>) {
        let choice = ChunkChoice { index: 0, delta, logprobs: None, finish_reason };
        self.push_chunk(&[choice], None);
    }

    fn push_chunk(&mut self, choices: &[ChunkChoice], usage: Option<UsageObject>) {
        let chunk = Chunk {
            id: &self.identity.id,
            object: "chat.completion.chunk",
            created: self.identity.created_s,
            model: &self.identity.model,
            system_fingerprint: SYSTEM_FINGERPRINT,
            choices,
            usage: self.include_usage.then_some(usage),
        };
        let data = json!(chunk).to_string();
        self.ready.push_back(data);
    }
}
