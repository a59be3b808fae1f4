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
//! While nothing comes, comments (`: waiting: …`) keep the connection alive. With `"shoal": {"status": true}` events named
//! `shoal.status` say how the answer stands; OpenAI's clients take any event for a chunk, so nobody gets them unasked. An
//! answer that fails ends with `data: {"error": …}`, which OpenAI's clients raise as an error, and has neither a
//! `finish_reason` nor `[DONE]`: no cut answer looks whole.

use std::{convert::Infallible, sync::Arc, time::Duration};

use axum::{
    body::Body,
    http::{HeaderValue, header},
    response::{IntoResponse, Response},
};
use futures_util::stream;

use super::{
    Identity, Running,
    kept::{Answers, Listed, Reader},
    pieces::{Form, Note, Pieces},
    request::StreamCall,
};
use crate::backend::Answer;

/// Silence after which a comment is sent: proxies and mobile networks forget a silent connection after half a minute or more,
/// and people wonder earlier.
const KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(5);

/// The stream of an answer that ends with its client.
struct Direct<A> {
    pieces: Pieces<A>,
    form: Form,
    note: Note,
    _listed: Listed,
}

/// Streams an answer. Unless it can be resumed, whoever drops the response's body, as hyper does when the client goes away,
/// drops the answer.
pub(super) fn respond<A: Answer>(
    answers: &Arc<Answers>,
    identity: Identity,
    running: Running<A>,
    call: StreamCall,
) -> Response {
    let pieces = Pieces::new(running, call.include_usage, call.wants_status);
    let form = Form { identity, include_usage: call.include_usage };
    if let Some(grace) = call.resume {
        return follow(answers.keep(form, pieces, grace));
    }
    let listed = answers.list(form.identity.id.clone(), pieces.cancel());
    let direct = Direct { note: pieces.note(), pieces, form, _listed: listed };
    let events = stream::unfold(direct, |mut direct| async move {
        let next = tokio::time::timeout(KEEP_ALIVE_INTERVAL, direct.pieces.next()).await;
        let text = match next {
            Ok(piece) => direct.form.render(&piece?, None),
            Err(_) => direct.note.comment(),
        };
        Some((Ok::<_, Infallible>(text), direct))
    });
    event_stream(Body::from_stream(events))
}

/// Streams what is kept of an answer, and what comes.
pub(super) fn follow(reader: Reader) -> Response {
    let events = stream::unfold(reader, |mut reader| async move {
        let next = tokio::time::timeout(KEEP_ALIVE_INTERVAL, reader.next()).await;
        let text = match next {
            Ok(text) => text?,
            Err(_) => reader.comment(),
        };
        Some((Ok::<_, Infallible>(text), reader))
    });
    event_stream(Body::from_stream(events))
}

fn event_stream(body: Body) -> Response {
    let headers = [
        (header::CONTENT_TYPE, HeaderValue::from_static("text/event-stream")),
        (header::CACHE_CONTROL, HeaderValue::from_static("no-cache")),
    ];
    let mut response = (headers, body).into_response();
    // A proxy that collects the answer before it passes it on would defeat the purpose.
    response.headers_mut().insert("x-accel-buffering", HeaderValue::from_static("no"));
    response
}
